//! How whoever serves lets another process serve in its place.

use super::handover::{Filler, Leaving};
use super::server::Server;
use crate::device::Waker;
use crate::units::Nanos;
use nix::unistd::geteuid;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A device that takes longer to complete what it has is not waited for by who leaves: its requests are sent again.
const LONGEST_LEAVE: Duration = Duration::from_secs(1);

impl Server {
    /// Gets ready to [leave](Self::leave). Not to be called by a thread that the mount needs.
    ///
    /// # Errors
    /// Why no successor could go on.
    pub fn prepare_to_leave(&self) -> Result<(), String> {
        if self.survives {
            return Ok(());
        }
        let Some((queues, _)) = &self.rings else {
            return Err(
                "this kernel sends nothing to another process that was not answered (Linux 6.9)".to_owned()
            );
        };
        if !geteuid().is_root() {
            // Who makes many requests without waiting is held up before they reach a ring.
            return Err(
                "requests come by io_uring, and only root can hand them over (--transport dev)".to_owned()
            );
        }
        if let Err(processor) = Filler::reaches(&queues.processors()) {
            return Err(format!(
                "requests come by io_uring, from processor {processor} too, where ioband may not run (--transport dev)"
            ));
        }
        let filler = Filler::open(&self.place, &self.shared.face.tree().control().dir)
            .map_err(|error| format!("the mount cannot be reached by its own process: {error}"))?;
        *self.filler.lock().unwrap_or_else(PoisonError::into_inner) = Some(filler);
        Ok(())
    }

    /// Stays: nobody takes over.
    pub fn stay(&self) {
        self.filler.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Lets a successor serve from now on: nothing more is read, what is with the devices is answered, and what is held stays
    /// unanswered, to be sent again to whoever succeeds, or where it lies.
    ///
    /// # Errors
    /// Why no successor could go on; everything is served as before.
    pub fn leave(&self) -> Result<(), String> {
        let clock = self.shared.clock;
        let begun = clock.now();
        let took = |what: &str| tracing::debug!(after = ?Duration::from(clock.now().since(begun)), "{what}");
        let filler = self.filler.lock().unwrap_or_else(PoisonError::into_inner).take();
        let leaving = self.rings.as_ref().zip(filler.as_ref()).map(|((queues, place), filler)| {
            let processors = queues.processors();
            let leaving = Leaving { shared: &self.shared, queues, filler, processors };
            leaving.begin();
            (leaving, *place)
        });
        took("nothing more is looked at");
        self.shared.leaving.store(true, Ordering::Release);
        let hangs = self.pause_engines();
        if let Some(disk) = hangs.as_deref().filter(|_| leaving.is_some()) {
            // It has the memory that the request lies in, and would write to it when a successor has answered that, and the
            // next one lies there.
            self.go_on();
            return Err(format!(
                "{disk} did not complete within {LONGEST_LEAVE:?} what it has, and requests that came by io_uring cannot be \
                 handed over before it does"
            ));
        }
        took("nothing is with the devices any more");
        if let Some((leaving, _)) = &leaving
            && !leaving.end(&self.wakers)
        {
            self.go_on();
            return Err(
                "the kernel's rings could not be filled, and requests would be lost; try again".to_owned()
            );
        }
        took("nothing more is answered");
        if hangs.is_some() {
            // The kernel ends a thread only when what it has asked of a device is done.
            self.stop_threads();
        } else {
            self.end_threads();
        }
        took("the threads have ended");
        if let Some((leaving, place)) = leaving
            && let Err(error) = leaving.write_down(place, self.shared.face.control.journal().ledger())
        {
            tracing::error!(%error, "cannot write down for a successor what is in the rings");
        }
        Ok(())
    }

    /// Serves as before: what came meanwhile is looked at, and what is held passes in its turn.
    fn go_on(&self) {
        self.shared.engines.load().iter().for_each(|engine| engine.resume());
        self.shared.departure.stay();
        self.shared.leaving.store(false, Ordering::Release);
        self.wakers.iter().for_each(Waker::wake);
    }

    /// Hands nothing more to any device, and waits for what is with them, for as long as for one; the name of one that still
    /// has some.
    fn pause_engines(&self) -> Option<String> {
        let clock = self.shared.clock;
        let end = clock.now().after(Nanos::from(LONGEST_LEAVE));
        let engines = self.shared.engines.load();
        for engine in engines.iter() {
            engine.pause(&self.wakers, Duration::ZERO);
        }
        // The last ones are not to find that the first ones have used up the time.
        let left = || Duration::from(end.since(clock.now()));
        let all: Vec<_> = engines.iter().map(|engine| engine.pause(&self.wakers, left())).collect();
        let (hangs, _) = engines.iter().zip(all).find(|(_, paused)| !paused)?;
        let status = hangs.status();
        let name = status.bands.first().map(|band| format!("the disk of {}", band.name));
        Some(name.unwrap_or_else(|| "a disk".to_owned()))
    }
}
