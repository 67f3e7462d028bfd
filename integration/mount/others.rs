//! Many threads that make all calls but writes, each its own one over and over, until they are stopped or refused.
//!
//! As with the writers, a trial that fails while they hang must get on to take its mount down, which sets them free.

use crate::writers::PATIENCE;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Fsync,
    Punch,
    ZeroRange,
    SeekData,
}

impl Call {
    const ALL: [Call; 5] = [Call::Read, Call::Fsync, Call::Punch, Call::ZeroRange, Call::SeekData];

    /// Makes the call once. Nobody touches what is read and sought, so that an answer can be seen to be right; what
    /// is zeroed is near the end of the image, away from what writers write.
    fn make(self, image: &File, mark: u64) -> Result<(), Errno> {
        const LENGTH: i64 = 1 << 20;
        let end = mark as i64 - LENGTH;
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().expect("from the kernel"));
        match self {
            Call::Read => {
                let mut found = [0; MARK.len()];
                image.read_exact_at(&mut found, mark).map_err(errno)?;
                assert_eq!(found, MARK, "a read was answered with other bytes than there are");
            }
            Call::Fsync => image.sync_all().map_err(errno)?,
            Call::Punch => fallocate(image, punch, end - LENGTH, LENGTH)?,
            Call::ZeroRange => fallocate(image, FallocateFlags::FALLOC_FL_ZERO_RANGE, end, LENGTH)?,
            Call::SeekData => {
                let found = lseek(image, mark as i64, Whence::SeekData)?;
                assert_eq!(found as u64, mark, "data was not found where it is");
            }
        }
        Ok(())
    }
}

/// What is in each image from the first on.
const MARK: [u8; 512] = [0x5a; 512];

/// Threads at work.
pub(crate) struct Others {
    threads: usize,
    stop: Arc<AtomicBool>,
    /// Calls that were answered well, by kind.
    answered: Arc<[AtomicUsize; Call::ALL.len()]>,
    results: Receiver<Outcome>,
}

/// What became of one thread.
pub(crate) struct Outcome {
    pub(crate) call: Call,
    /// Calls that were answered well.
    pub(crate) answered: usize,
    /// How it ended, if it was not stopped.
    pub(crate) refused: Option<Errno>,
}

impl Others {
    /// So many threads for each call; they take turns with the images.
    pub(crate) fn start(images: &[PathBuf], for_each: usize) -> Self {
        let threads = for_each * Call::ALL.len();
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::<[AtomicUsize; _]>::default());
        let (send, results) = channel();
        // All at once, so that they are all waiting by the time a few have had answers.
        let ready = Arc::new(Barrier::new(threads));
        let open = |path| File::options().read(true).write(true).open(path).expect("an image");
        let marks = images.iter().map(|path| {
            let image = open(path);
            let mark = image.metadata().expect("an image").len() - MARK.len() as u64;
            image.write_all_at(&MARK, mark).expect("a write");
            mark
        });
        let marks: Vec<_> = marks.collect();
        for number in 0..threads {
            let (turn, kind) = (number / Call::ALL.len(), number % Call::ALL.len());
            let (image, mark) = (open(&images[turn % images.len()]), marks[turn % images.len()]);
            let (stop, answered, send) = (stop.clone(), answered.clone(), send.clone());
            let ready = ready.clone();
            std::thread::spawn(move || {
                let mut outcome = Outcome { call: Call::ALL[kind], answered: 0, refused: None };
                ready.wait();
                while !stop.load(Ordering::Relaxed) && outcome.refused.is_none() {
                    match outcome.call.make(&image, mark) {
                        Ok(()) => {
                            outcome.answered += 1;
                            answered[kind].fetch_add(1, Ordering::Relaxed);
                        }
                        Err(errno) => outcome.refused = Some(errno),
                    }
                }
                // Closed before it is told: who hears of it may unmount.
                drop(image);
                // Nobody listens when the trial has failed already.
                let _ = send.send(outcome);
            });
        }
        Self { threads, stop, answered, results }
    }

    /// Waits until so many calls of each kind were answered well.
    pub(crate) fn wait_for(&self, each: usize) {
        let start = Instant::now();
        let answered = || self.answered.each_ref().map(|count| count.load(Ordering::Relaxed));
        while answered().iter().any(|count| *count < each) {
            assert!(start.elapsed() < PATIENCE, "of {:?} only {:?} were answered", Call::ALL, answered());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// No more calls after those that are under way.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until every thread has its last answer.
    pub(crate) fn join(self) -> Vec<Outcome> {
        let next = |number| {
            let outcome = self.results.recv_timeout(PATIENCE);
            // Also if an answer was wrong: then its thread has said so and panicked.
            outcome.unwrap_or_else(|_| panic!("{} of {} callers hang", self.threads - number, self.threads))
        };
        (0..self.threads).map(next).collect()
    }
}
