//! How a worker ends: what can bring that about, and what it means.

use crate::control::Events;
use crate::keeper::{Keeper, Word};
use anyhow::{Context, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::mpsc;
use std::thread;

/// Something that may be the end.
enum Call {
    Signal,
    Keeper(Word),
    Connection(io::Result<()>),
}

/// What kind of end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The mount is gone, or is to be: what was accepted is to be finished.
    ForGood,
    /// Somebody else goes on with it, or may.
    ForASuccessor,
}

/// Waits for the end.
pub(super) struct Ends {
    calls: mpsc::Receiver<Call>,
    call: mpsc::Sender<Call>,
}

impl Ends {
    /// From now on signals are heard.
    pub(super) fn new() -> io::Result<Self> {
        let (call, calls) = mpsc::channel();
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let by_signal = call.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || signals.forever().try_for_each(|_| by_signal.send(Call::Signal)))?;
        Ok(Self { calls, call })
    }

    /// To be told once how the connection has ended.
    pub(super) fn of_connection(&self) -> io::Result<mpsc::Sender<io::Result<()>>> {
        let (ended, end) = mpsc::channel();
        let call = self.call.clone();
        thread::Builder::new()
            .name("end".into())
            .spawn(move || end.recv().map(|how| call.send(Call::Connection(how))))?;
        Ok(ended)
    }

    /// To be told what the keeper says.
    pub(super) fn of_keeper(&self) -> impl Fn(Word) + Send + 'static {
        let call = self.call.clone();
        move |word| {
            // At the end nobody listens.
            let _ = call.send(Call::Keeper(word));
        }
    }

    /// Waits for it.
    ///
    /// # Errors
    /// The mount cannot be served any more by this process. What it has accepted and not answered is the next one's.
    pub(super) fn wait(&self, keeper: &Keeper, events: &Events) -> anyhow::Result<End> {
        loop {
            match self.calls.recv() {
                // Meant for the keeper, which has got it as well and says what is to be done.
                Ok(Call::Signal) if keeper.process().is_some() => {}
                // Without one somebody else may hold the mount: a service manager, that is about to start a keeper.
                Ok(Call::Signal | Call::Keeper(Word::Leave)) => return Ok(End::ForASuccessor),
                Ok(Call::Keeper(Word::Alone)) => {
                    tracing::warn!("the keeper has ended; the mount ends with this process");
                    events.add(
                        "the keeper has ended: the mount is served as before, and ends with the process that serves it",
                    );
                }
                Ok(Call::Keeper(Word::Stop) | Call::Connection(Ok(()))) => return Ok(End::ForGood),
                Ok(Call::Connection(Err(error))) => {
                    return Err(error).context("the mount cannot be served any more");
                }
                // We hold a sender ourselves.
                Err(mpsc::RecvError) => bail!("nothing is left that could end this"),
            }
        }
    }
}
