//! One thread's requests, and the window in which they count.

use super::Direction;
use super::report::Report;
use ioband::units::Bytes;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// O_DIRECT wants memory aligned to the device's blocks; no device has larger ones than this.
const ALIGNMENT: usize = 4096;

/// What all threads do.
pub(crate) struct Job {
    pub(crate) file: File,
    pub(crate) sizes: Vec<Bytes>,
    pub(crate) range: Range<u64>,
    pub(crate) direction: Direction,
    pub(crate) think: Duration,
    pub(crate) seed: u64,
}

/// The time in which completions are counted, in nanoseconds from the start of the load. It can be closed early.
pub(crate) struct Window {
    start: Instant,
    opens: u64,
    closes: AtomicU64,
    /// Ended by a number of requests: then the window ends with the last of them.
    requests_left: AtomicU64,
    last_completion: AtomicU64,
}

impl Window {
    pub(crate) fn open_now(warm_up_ms: u64, seconds: Option<f64>, requests: Option<u64>) -> Self {
        Self {
            start: Instant::now(),
            opens: warm_up_ms.saturating_mul(1_000_000),
            closes: AtomicU64::new(seconds.map_or(u64::MAX, |seconds| (seconds * 1e9) as u64)),
            requests_left: AtomicU64::new(requests.unwrap_or(u64::MAX)),
            last_completion: AtomicU64::new(0),
        }
    }

    /// Ends the load; what completes from now on is not counted.
    pub(crate) fn close(&self) {
        self.closes.fetch_min(self.now(), Ordering::Relaxed);
    }

    /// How long completions were counted. Only when all threads are done.
    pub(crate) fn counted(&self) -> Duration {
        let out_of_requests = self.requests_left.load(Ordering::Relaxed) == 0;
        let last = if out_of_requests { self.last_completion.load(Ordering::Relaxed) } else { u64::MAX };
        Duration::from_nanos(self.closes.load(Ordering::Relaxed).min(last).saturating_sub(self.opens))
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Takes leave to make one more request; the time at which it starts.
    fn next_request(&self) -> Option<u64> {
        let now = self.now();
        let open = now < self.closes.load(Ordering::Relaxed);
        let take = |left: u64| left.checked_sub(1);
        let taken = || self.requests_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        (open && taken()).then_some(now)
    }

    /// The time of a completion, and whether it counts.
    fn completed(&self) -> (u64, bool) {
        let now = self.now();
        self.last_completion.fetch_max(now, Ordering::Relaxed);
        (now, now >= self.opens && now <= self.closes.load(Ordering::Relaxed))
    }
}

impl Job {
    /// One request after another, until the window closes.
    pub(crate) fn run(&self, thread: u64, window: &Window) -> Report {
        let mut random = Random(self.seed.wrapping_add(thread << 32));
        let mut report = Report::default();
        let largest = self.sizes.iter().map(|size| size.0 as usize).max().unwrap_or(0);
        let mut memory: Vec<u8> = (0..largest + ALIGNMENT).map(|_| random.next() as u8).collect();
        let aligned = memory.as_ptr().align_offset(ALIGNMENT);
        let buffer = &mut memory[aligned..];
        while let Some(start) = window.next_request() {
            let result = self.request(&mut random, buffer);
            let (end, counts) = window.completed();
            let failed = result.is_err();
            if counts {
                report.record(end - start, result);
            }
            // A file that fails at once (its filesystem was unmounted, say) must not turn this into a busy loop.
            let pause = if failed { self.think.max(Duration::from_millis(1)) } else { self.think };
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
        }
        report
    }

    fn request(&self, random: &mut Random, buffer: &mut [u8]) -> io::Result<u64> {
        let size = self.sizes[random.below(self.sizes.len() as u64) as usize].0;
        let offset = self.range.start + size * random.below((self.range.end - self.range.start) / size);
        let buffer = &mut buffer[..size as usize];
        let write = match self.direction {
            Direction::Read => false,
            Direction::Write => true,
            Direction::Randrw => random.below(2) == 1,
        };
        let done =
            if write { self.file.write_at(buffer, offset)? } else { self.file.read_at(buffer, offset)? };
        if done as u64 == size { Ok(size) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`, which is not 0. Its bias is below 1 in 2^20 for any file of ours.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
