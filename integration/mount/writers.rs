//! Many threads that write known bytes, each to places of its own, until they are stopped or refused.
//!
//! They are threads of the test itself and not scoped: a trial that fails while they hang must get on to take its
//! mount down, which sets them free.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

/// Bytes of a write.
pub(crate) const BLOCK: usize = 4096;
/// Blocks that one thread writes, over and over.
const PLACES: u64 = 4;
/// Far more than anything here takes: only a hang lasts longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Threads at work.
pub(crate) struct Writers {
    threads: usize,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    results: Receiver<Outcome>,
}

/// What became of one thread's writes.
struct Outcome {
    /// Where its blocks are on the device, with the last pattern that was answered with success there, and the one
    /// that was written after it and not answered so.
    blocks: Vec<Written>,
    error: Option<std::io::Error>,
}

#[derive(Clone, Copy)]
struct Written {
    at: u64,
    answered: Option<u64>,
    tried: u64,
}

/// What became of all.
pub(crate) struct Outcomes(Vec<Outcome>);

impl Writers {
    /// `threads` of them, taking turns with the images, which start on the device where it says.
    pub(crate) fn start(images: &[(PathBuf, u64)], threads: usize) -> Self {
        Self::start_as(images, threads, |_| nix::unistd::geteuid().as_raw())
    }

    /// The same, each thread writing as the user that it is told by its number.
    pub(crate) fn start_as(images: &[(PathBuf, u64)], threads: usize, user: fn(usize) -> u32) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (send, results) = channel();
        // All at once, so that they are all waiting by the time a few have had answers.
        let ready = Arc::new(Barrier::new(threads));
        for number in 0..threads {
            let (path, base) = images[number % images.len()].clone();
            let file = OpenOptions::new().write(true).open(path).expect("an image");
            let (stop, answered, send) = (stop.clone(), answered.clone(), send.clone());
            let ready = ready.clone();
            std::thread::spawn(move || {
                // Of this thread only.
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(user(number)));
                ready.wait();
                let outcome = write(&file, base, number as u64, &stop, &answered);
                // Closed before it is told: who hears of it may unmount.
                drop(file);
                // Nobody listens when the trial has failed already.
                let _ = send.send(outcome);
            });
        }
        Self { threads, stop, answered, results }
    }

    /// Writes that were answered with success up to now.
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many are.
    pub(crate) fn wait_for(&self, answered: usize) {
        let start = Instant::now();
        while self.answered() < answered {
            assert!(start.elapsed() < PATIENCE, "only {} writes were answered", self.answered());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// No more writes after those that are under way.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until every thread has its last answer.
    pub(crate) fn join(self) -> Outcomes {
        let next = |number| {
            let outcome = self.results.recv_timeout(PATIENCE);
            outcome.unwrap_or_else(|_| panic!("{} of {} writers hang", self.threads - number, self.threads))
        };
        Outcomes((0..self.threads).map(next).collect())
    }
}

/// No two writes of a trial have the same bytes: a pattern is the thread's number and a count.
fn block(pattern: u64) -> Vec<u8> {
    pattern.to_le_bytes().repeat(BLOCK / 8)
}

fn write(file: &File, base: u64, thread: u64, stop: &AtomicBool, answered: &AtomicUsize) -> Outcome {
    let offset = |place: u64| (thread * PLACES + place) * BLOCK as u64;
    let at = |place| Written { at: base + offset(place), answered: None, tried: 0 };
    let mut blocks: Vec<_> = (0..PLACES).map(at).collect();
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let place = count % PLACES;
        let written = &mut blocks[place as usize];
        written.tried = (thread + 1) << 32 | count;
        if let Err(error) = file.write_all_at(&block(written.tried), offset(place)) {
            return Outcome { blocks, error: Some(error) };
        }
        written.answered = Some(written.tried);
        answered.fetch_add(1, Ordering::Relaxed);
    }
    Outcome { blocks, error: None }
}

impl Outcomes {
    /// Blocks with an answered write.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().flat_map(|outcome| &outcome.blocks).filter(|block| block.answered.is_some()).count()
    }

    /// Threads that were refused.
    pub(crate) fn errors(&self) -> usize {
        self.0.iter().filter(|outcome| outcome.error.is_some()).count()
    }

    /// Every write that was answered with success is on the device, whole, unless the same thread tried to write
    /// over it and got no such answer: then it is the one or the other.
    pub(crate) fn assert_on(&self, disk: &Path) {
        let disk = File::open(disk).expect("the device");
        for Written { at, answered, tried } in self.0.iter().flat_map(|outcome| &outcome.blocks) {
            let Some(answered) = *answered else { continue };
            let mut found = vec![0; BLOCK];
            disk.read_exact_at(&mut found, *at).expect("a read");
            let is = |pattern| found == block(pattern);
            assert!(is(answered) || is(*tried), "the answered write {answered:#x} at {at} is not there");
        }
    }
}
