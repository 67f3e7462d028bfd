//! From one process to the next over rings: a planned change, without one request failed or lost.
//!
//! What the kernel has put into a ring entry it sends to nobody again (FUSE_NOTIFY_RESEND is about /dev/fuse only), but the
//! entry outlives the ring that it came by: whoever has the same memory at the same address can answer it, and has the entry
//! from then on. So the slots lie in a file that the keeper holds ([`super::slots`]), and a successor finds every request
//! where its predecessor has left it.
//!
//! What would be lost is a request that the kernel gives to an entry whose thread is ending. So before it ends none of its
//! entries may be waiting for a request, and as each answer asks for the next request, there is one way to that: the rest is
//! **filled up** with requests of our own, reads of a file of the control directory, one for each entry that waits, made on
//! the processor whose queue it is in. Nobody waits for them. The successor answers them when it has got to know the others.
//!
//! ```text
//! old: most entries are filled, while callers are served      } nobody waits yet
//!      what comes stays in its slot; what is with the devices is answered
//!      no more answers; the other entries are filled
//!      what is in which slot is written down; the end
//! new: memory at the same address, the same queues
//!      requests that were found are served as if they had come, fillers answered
//! ```

use super::mount::MountedAt;
use super::rings::Queues;
use super::server::{BESIDE_RINGS, Hold, ServeError, ServeOptions, Shared};
use super::slots::{Found, Slots, Where};
use super::sys;
use super::tree::Node;
use super::wire::{InHeader, ReadIn, opcode, parse};
use crate::control::ControlFile;
use crate::device::Waker;
use crate::engine::Budget;
use crate::ledger::{Ledger, Page};
use crate::units::Nanos;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// So many entries of each queue stay for callers until nothing is answered any more.
const FOR_CALLERS: u32 = 128;
/// With these flags a read of the file is a filler. Direct, so that nobody waits for the answer; not blocking, or the kernel
/// asks us first whether there is something to read; and synchronous in what is written, so that nobody else has a reason to
/// combine them: it cannot be written to.
const MARK: i32 = libc::O_DIRECT | libc::O_NONBLOCK | libc::O_SYNC;
/// How often it is looked whether the kernel has given out what it had. Nothing else could tell.
const LOOK: Duration = Duration::from_micros(100);
/// A processor that is busy with others does not make its requests at once: then they are made again.
const REPEAT: Nanos = Nanos(500_000_000);
/// After so long it is not waited for any more.
const PATIENCE: Nanos = Nanos(5_000_000_000);

/// What a successor goes on with.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handover {
    pub(super) place: Where,
    /// Slots of each queue.
    pub(super) queues: Vec<u32>,
    pub(super) threads: usize,
    /// What is in each slot of a queue, and how much memory it has beyond what is small.
    pub(super) slots: Vec<(Found, u32)>,
}

impl Handover {
    /// What a predecessor has left properly.
    pub(super) fn read(ledger: &Ledger) -> io::Result<Option<Self>> {
        match ledger.get(Page::Rings)? {
            Some(bytes) if !bytes.is_empty() => Ok(Some(serde_json::from_slice(&bytes)?)),
            _ => Ok(None),
        }
    }

    fn write(&self, ledger: &Ledger) -> io::Result<()> {
        ledger.put(Page::Rings, &serde_json::to_vec(self)?)
    }

    /// From here on it is not as it was left.
    pub(super) fn taken(ledger: &Ledger) -> io::Result<()> {
        ledger.put(Page::Rings, &[])
    }
}

/// Memory for requests, and where it is if a successor could find what is in it there: that of a predecessor, if one has left
/// it, in a file for requests by rings, and else wherever there is room; with `room` for each one's data.
pub(super) fn slots(
    queues: Option<&Queues>,
    left: Option<&Handover>,
    memory: Option<OwnedFd>,
    room: usize,
    holder: &dyn Hold,
    options: &ServeOptions,
    budget: &Arc<Budget>,
) -> Result<(&'static Slots, Option<Where>), ServeError> {
    let keep = options.keep;
    let count = queues.map_or(options.slots, |queues| queues.slots() + BESIDE_RINGS);
    let refused = |source| ServeError::Slots { count, room, source };
    if let Some(left) = left {
        let lost = io::Error::other("nobody has held its memory");
        let memory = memory.ok_or(lost).map_err(ServeError::Rings)?;
        let slots =
            Slots::go_on(left.place, memory.as_fd(), keep, budget.clone()).map_err(ServeError::Rings)?;
        slots.remember(&left.slots);
        return Ok((slots, Some(left.place)));
    }
    if queues.is_none() {
        return Ok((Slots::new(count, room, keep, budget.clone()).map_err(refused)?, None));
    }
    let (slots, place, memory) = Slots::in_file(count, room, keep, budget.clone()).map_err(refused)?;
    holder.hold_memory(memory.as_fd()).map_err(ServeError::Protocol)?;
    Ok((slots, Some(place)))
}

/// How far a process is on its way out.
#[derive(Debug, Default)]
pub(super) struct Departure {
    /// Fillers stay where they are.
    filling: AtomicBool,
    /// No ring entry is answered.
    frozen: AtomicBool,
    /// Threads that will not answer any.
    settled: AtomicUsize,
}

impl Departure {
    pub(super) fn is_filling(&self) -> bool {
        self.filling.load(Ordering::Acquire)
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Everything is answered again, also what was to be answered meanwhile, and the fillers.
    pub(super) fn stay(&self) {
        self.filling.store(false, Ordering::Release);
        self.frozen.store(false, Ordering::Release);
    }

    /// A thread has answered what it is going to answer, and the kernel knows of it.
    pub(super) fn settle(&self) {
        self.settled.fetch_add(1, Ordering::AcqRel);
    }
}

/// Whether a request is a filler.
pub(super) fn is_filler(header: InHeader, arguments: &[u8]) -> bool {
    header.opcode == opcode::READ
        && header.nodeid == Node::ControlFile(ControlFile::Pid).ino().0
        && parse(arguments).is_some_and(|asked: ReadIn| asked.flags as i32 & MARK == MARK)
}

/// What fillers are made with.
#[derive(Debug)]
pub(super) struct Filler(File);

impl Filler {
    /// Opens the file in our own mount: by a thread that nobody waits for who is needed for that.
    ///
    /// # Errors
    /// It is not to be had there.
    pub(super) fn open(mount: &MountedAt, control: &str) -> io::Result<Self> {
        let path = mount.mountpoint.join(control).join(ControlFile::Pid.name());
        let file = OpenOptions::new().read(true).custom_flags(MARK).open(path)?;
        if file.metadata()?.dev() != mount.device() {
            return Err(io::Error::other("another mount covers it"));
        }
        Ok(Self(file))
    }

    /// Whether requests can be made on each of these processors.
    ///
    /// # Errors
    /// On this one they cannot: this process may not run there.
    pub(super) fn reaches(processors: &[usize]) -> Result<(), usize> {
        let reached = |processor: &usize| bind(*processor).map_err(|_| *processor);
        // By a thread that is bound to nothing else.
        thread::scope(|scope| {
            let tried = scope.spawn(|| processors.iter().try_for_each(reached));
            tried.join().unwrap_or(Ok(()))
        })
    }

    /// Makes as many requests as are said for each queue, on its processor.
    fn make(&self, wanted: &[u32]) {
        thread::scope(|scope| {
            for (processor, count) in wanted.iter().enumerate().filter(|(_, count)| **count > 0) {
                scope.spawn(move || {
                    let made = bind(processor).and_then(|()| sys::start_reads(self.0.as_fd(), *count));
                    if let Err(error) = made {
                        tracing::debug!(processor, %error, "its ring entries cannot be filled");
                    }
                });
            }
        });
    }
}

/// Binds this thread to a processor.
fn bind(processor: usize) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

/// On the way out: from [`Leaving::begin`] on fillers come, after [`Leaving::end`] the threads may end.
pub(super) struct Leaving<'a> {
    pub(super) shared: &'a Shared,
    pub(super) queues: &'a Queues,
    pub(super) filler: &'a Filler,
    /// Where requests come from.
    pub(super) processors: Vec<usize>,
}

impl Leaving<'_> {
    /// Fills most entries, while callers are served by the others.
    pub(super) fn begin(&self) {
        self.shared.departure.filling.store(true, Ordering::Release);
        self.filler.make(&self.wanted(FOR_CALLERS));
        // What callers have in flight comes and goes.
        let enough = || self.wanted(2 * FOR_CALLERS).iter().all(|wanted| *wanted == 0);
        let clock = &self.shared.clock;
        let end = clock.now().after(REPEAT);
        while !enough() && clock.now() < end {
            thread::sleep(LOOK);
        }
    }

    /// Once nothing is with the devices: answers nothing more, and fills the other entries. False if they do not fill, and
    /// somebody's request would be lost in each that waits for one.
    pub(super) fn end(&self, wakers: &[Waker]) -> bool {
        let Departure { frozen, settled, .. } = &self.shared.departure;
        // It may not be the first time.
        settled.store(0, Ordering::Release);
        frozen.store(true, Ordering::Release);
        wakers.iter().for_each(Waker::wake);
        let clock = &self.shared.clock;
        let end = clock.now().after(PATIENCE);
        while settled.load(Ordering::Acquire) < wakers.len() {
            if clock.now() >= end {
                tracing::error!("a thread goes on answering");
                return false;
            }
            thread::sleep(LOOK);
        }
        let end = clock.now().after(PATIENCE);
        loop {
            self.filler.make(&self.wanted(0));
            let again = clock.now().after(REPEAT);
            loop {
                let left: u32 = self.wanted(0).iter().sum();
                match clock.now() {
                    _ if left == 0 => return true,
                    now if now >= end => {
                        tracing::error!(left, "ring entries still wait for requests");
                        return false;
                    }
                    now if now >= again => break,
                    _ => thread::sleep(LOOK),
                }
            }
        }
    }

    /// How many entries of each queue wait for a request, beyond so many.
    fn wanted(&self, beyond: u32) -> Vec<u32> {
        let mut waiting = vec![0; self.queues.count()];
        for (slot, queue) in (0..).zip(self.queues.queue_of()) {
            waiting[usize::from(*queue)] += u32::from(self.shared.slots.is_with_kernel(slot));
        }
        let wanted = |(processor, waiting): (usize, u32)| match self.processors.contains(&processor) {
            true => waiting.saturating_sub(beyond),
            // No request can come from there.
            false => 0,
        };
        waiting.into_iter().enumerate().map(wanted).collect()
    }

    /// Writes down what is where, once the threads have ended.
    pub(super) fn write_down(&self, place: Where, ledger: &Ledger) -> io::Result<()> {
        let handover = Handover {
            place,
            queues: self.queues.slots_of_each().to_vec(),
            threads: self.queues.threads(),
            slots: self.shared.slots.left_behind(self.queues.slots()),
        };
        let count = |is: fn(&Found) -> bool| handover.slots.iter().filter(|(found, _)| is(found)).count();
        let (waiting, done) =
            (count(|found| *found == Found::Request), count(|found| matches!(found, Found::Written(_))));
        tracing::debug!(waiting, done, "requests are left to a successor");
        handover.write(ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn what_was_left_is_there_once() {
        let ledger = Ledger::new().unwrap();
        assert!(Handover::read(&ledger).unwrap().is_none());
        let left = Handover {
            place: Where { address: 1 << 44, count: 3, room: 1 << 20 },
            queues: vec![2, 1],
            threads: 2,
            slots: vec![(Found::Request, 0), (Found::Written(libc::EIO), 8192), (Found::Nothing, 0)],
        };
        left.write(&ledger).unwrap();
        let found = Handover::read(&ledger).unwrap().expect("it was left");
        assert_eq!((found.place, found.queues, found.threads), (left.place, left.queues, left.threads));
        assert_eq!(found.slots, left.slots);
        Handover::taken(&ledger).unwrap();
        assert!(Handover::read(&ledger).unwrap().is_none());
    }

    #[test]
    fn only_a_read_with_all_the_marks_is_a_filler() {
        let pid = Node::ControlFile(ControlFile::Pid).ino().0;
        let asked = |opcode, nodeid, flags: i32| {
            let header = InHeader {
                len: 0,
                opcode,
                unique: 8,
                nodeid,
                uid: 0,
                gid: 0,
                pid: 1,
                total_extlen: 0,
                padding: 0,
            };
            // Flags are bits.
            let flags = flags as u32;
            let read = ReadIn { fh: 1, offset: 0, size: 1, read_flags: 0, lock_owner: 0, flags, padding: 0 };
            is_filler(header, read.as_bytes())
        };
        assert!(asked(opcode::READ, pid, MARK));
        for flags in [0, libc::O_DIRECT, libc::O_DIRECT | libc::O_NONBLOCK, libc::O_SYNC] {
            assert!(!asked(opcode::READ, pid, flags), "{flags:#o}");
        }
        assert!(!asked(opcode::READ, pid + 1, MARK));
        assert!(!asked(opcode::WRITE, pid, MARK));
    }
}
