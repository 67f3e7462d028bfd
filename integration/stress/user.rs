//! Users: threads under a uid of their own that write, read, flush and discard in their image, and compare what they read.

use super::chaos::Storm;
use super::journal::{Journal, SECTOR, contents};
use super::stage::{IMAGE, PATIENCE, Stage, UIDS};
use super::verdict::Verdict;
use super::wanted::Wanted;
use anyhow::Context;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Uid, setfsuid};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads of each user.
const THREADS: u64 = 4;
/// In the quiet at the end the disks do so many requests a second, and users have weights of 3 to 1.
const SLOW: u32 = 300;
/// How far from that may be what they get, in hundredths.
const NEAR: Range<u64> = 250..350;

/// What is known of a thread by the others.
struct Seen {
    user: usize,
    /// Since when it waits for an answer, in milliseconds since the start, 0 = not at all.
    since: AtomicU64,
    requests: AtomicU64,
    longest: AtomicU64,
}

pub(super) struct Users {
    threads: Vec<JoinHandle<Journal>>,
    seen: Arc<Vec<Seen>>,
    stop: Arc<AtomicBool>,
    /// Only reads and writes, please.
    calm: Arc<AtomicBool>,
    start: Instant,
    verdict: Arc<Verdict>,
}

pub(super) struct Watchdog {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl Watchdog {
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // It has nothing to say at its end.
        let _ = self.thread.join();
    }
}

impl Users {
    pub(super) fn start(stage: &Arc<Stage>, seed: u64) -> anyhow::Result<Self> {
        let sectors = IMAGE / SECTOR as u64;
        let (start, stop, calm) =
            (Instant::now(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let mut places = Vec::new();
        for user in 0..UIDS.len() {
            for thread in 0..THREADS {
                // Neighbours meet within a block of 4096 bytes.
                let edge = |thread: u64| (thread * sectors / THREADS + 3 * (thread % THREADS)).min(sectors);
                places.push((
                    user,
                    edge(thread)..if thread + 1 == THREADS { sectors } else { edge(thread + 1) },
                ));
            }
        }
        let seen = |(user, _): &(usize, Range<u64>)| Seen {
            user: *user,
            since: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        };
        let seen = Arc::new(places.iter().map(seen).collect::<Vec<_>>());
        let mut threads = Vec::new();
        for (at, (user, range)) in places.into_iter().enumerate() {
            let (stage, seen, stop, calm) = (stage.clone(), seen.clone(), stop.clone(), calm.clone());
            let random = fastrand::Rng::with_seed(seed ^ (at as u64 + 1) << 8);
            let journal = Journal::new(user, range);
            let run = move || {
                let mut caller =
                    Caller { stage: &stage, seen: &seen[at], calm: &calm, start, random, journal };
                if let Err(error) = caller.run(&stop) {
                    stage.verdict.violated(format!("user {}: {error:#}", UIDS[user]));
                }
                caller.journal
            };
            threads.push(std::thread::Builder::new().name(format!("user{user}")).spawn(run)?);
        }
        Ok(Self { threads, seen, stop, calm, start, verdict: stage.verdict.clone() })
    }

    /// Nobody waits for an answer for ever: then everybody is set free, and it is over.
    pub(super) fn watch(&self, stage: Arc<Stage>) -> Watchdog {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopped, start) = (self.seen.clone(), stop.clone(), self.start);
        let watch = move || {
            while !stopped.load(Ordering::Relaxed) {
                let now = start.elapsed().as_millis() as u64;
                for seen in seen.iter() {
                    let since = seen.since.load(Ordering::Relaxed);
                    if since > 0 && now.saturating_sub(since) > PATIENCE.as_millis() as u64 {
                        let user = UIDS[seen.user];
                        stage
                            .verdict
                            .violated(format!("user {user} has waited for an answer for {} ms", now - since));
                        stage.abort();
                        return;
                    }
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        Watchdog { thread: std::thread::spawn(watch), stop }
    }

    fn requests(&self) -> [u64; 4] {
        let mut sums = [0; 4];
        self.seen.iter().for_each(|seen| sums[seen.user] += seen.requests.load(Ordering::Relaxed));
        sums
    }

    /// On disks that are slow, users get what their weights say.
    pub(super) fn measure_shares(&self, stage: &Stage) -> anyhow::Result<()> {
        self.calm.store(true, Ordering::Relaxed);
        let wanted = Wanted { weights: [300, 100, 300, 100], slow: Some(SLOW), ..Wanted::new() };
        let text = wanted.yaml(&stage.disks, u64::MAX);
        stage.save(&text).context("the last edit")?;
        anyhow::ensure!(stage.control("control.yaml")? == text, "what was saved last is not what runs");
        // The disks have just become a hundred times slower: how many requests they can use is found out anew.
        super::sleep(&self.verdict, Duration::from_secs(5));
        let mut got = self.in_a_while();
        // A machine that stands still spoils a while; wrong weights spoil all of them.
        for _ in 0..4 {
            if got.chunks(2).all(is_near) {
                break;
            }
            self.verdict.note("shares are off, and again", format!("{got:?}"));
            got = self.in_a_while();
        }
        let list: serde_json::Value = serde_json::from_str(&stage.control("ls.json")?)?;
        let depth = |disk: &serde_json::Value| disk["depth"].to_string();
        let depths: Vec<_> = list["disks"].as_array().into_iter().flatten().map(depth).collect();
        self.verdict.note("depths of the disks", depths.join(", "));
        for disk in got.chunks(2) {
            self.verdict.note("shares of 3 : 1", format!("{} : {}", disk[0], disk[1]));
            if !is_near(disk) {
                self.verdict.blame(format!("weights of 3 to 1 gave {} : {}", disk[0], disk[1]));
            }
        }
        Ok(())
    }

    /// What everybody got in a while.
    fn in_a_while(&self) -> [u64; 4] {
        let before = self.requests();
        super::sleep(&self.verdict, Duration::from_secs(4));
        let after = self.requests();
        std::array::from_fn(|user| after[user] - before[user])
    }

    /// Lets everybody finish; what they know.
    pub(super) fn stop(self) -> Vec<Journal> {
        self.stop.store(true, Ordering::Relaxed);
        let (total, verdict) = (self.requests().iter().sum(), &self.verdict);
        let longest = self.seen.iter().map(|seen| seen.longest.load(Ordering::Relaxed)).max();
        verdict.count("requests", total);
        verdict.note("longest answer", format!("{} ms, stalls not counted", longest.unwrap_or_default()));
        let mut journals = Vec::new();
        for thread in self.threads {
            match thread.join() {
                Ok(journal) => journals.push(journal),
                Err(_) => verdict.violated("a thread of this very program has panicked".to_owned()),
            }
        }
        journals
    }
}

/// Whether two users got what their weights say.
fn is_near(disk: &[u64]) -> bool {
    NEAR.contains(&(disk[0] * 100 / disk[1].max(1)))
}

/// A thread of a user.
struct Caller<'a> {
    stage: &'a Stage,
    seen: &'a Seen,
    calm: &'a AtomicBool,
    start: Instant,
    random: fastrand::Rng,
    journal: Journal,
}

impl Caller<'_> {
    fn run(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let user = self.seen.user;
        // Of this thread only.
        setfsuid(Uid::from_raw(UIDS[user]));
        let open = |flags| {
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(self.stage.image(user))
        };
        let files = [open(0).context("opening")?, open(nix::libc::O_DIRECT).context("opening")?];
        // Others have no business here.
        let other = self.stage.image((user + 1) % UIDS.len());
        anyhow::ensure!(File::open(other).is_err(), "the image of somebody else can be opened");
        while !stop.load(Ordering::Relaxed) && !self.stage.verdict.is_over() {
            let file = &files[self.random.usize(..2)];
            self.one(file)?;
        }
        Ok(())
    }

    /// A few sectors, mostly; now and then many.
    fn sectors(&mut self) -> Range<u64> {
        let Range { start, end } = self.journal.range;
        let most = if self.random.u8(..) < 16 { 256 } else { 16 };
        let len = self.random.u64(1..=most);
        let at = self.random.u64(start..end - len);
        at..at + len
    }

    fn one(&mut self, file: &File) -> anyhow::Result<()> {
        let sectors = self.sectors();
        let (at, len) = (sectors.start * SECTOR as u64, (sectors.end - sectors.start) * SECTOR as u64);
        // Of an image that is flushed or discarded from the kernel lets nobody else ask anything; who has four threads on it is
        // not always there then.
        let kinds = if self.calm.load(Ordering::Relaxed) { 88 } else { 100 };
        let kind = self.random.u8(..kinds);
        let storm = Storm::now(&self.stage.storms[Wanted::device(self.seen.user)]);
        let (told, mut flushes) = (&self.stage.told[self.seen.user], false);
        let untold = told.load(Ordering::SeqCst) < storm.number();
        let answered = match kind {
            0..50 => {
                let number = self.journal.begin(&sectors, false);
                let bytes = contents(self.journal.image, &sectors, number);
                let answered = self.ask(|| file.write_at(&bytes, at));
                if let Ok(written) = answered {
                    anyhow::ensure!(written == bytes.len(), "a write of {} did {written}", bytes.len());
                    self.journal.acknowledged(&sectors, number);
                }
                answered.map(drop)
            }
            50..88 => {
                let mut bytes = vec![0; len as usize];
                let answered = self.ask(|| file.read_at(&mut bytes, at));
                if let Ok(read) = answered {
                    anyhow::ensure!(read == bytes.len(), "a read of {} did {read}", bytes.len());
                    self.journal.check(&sectors, &bytes)?;
                }
                answered.map(drop)
            }
            88..96 => {
                let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let how = if kind < 92 {
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE
                } else {
                    FallocateFlags::FALLOC_FL_ZERO_RANGE
                };
                let number = self.journal.begin(&sectors, true);
                let answered = self.ask(|| Ok(fallocate(file, how | keep, at as i64, len as i64)?));
                if answered.is_ok() {
                    self.journal.acknowledged(&sectors, number);
                }
                answered
            }
            _ => {
                flushes = true;
                let answered = self.ask(|| file.sync_data());
                told.fetch_max(storm.number(), Ordering::SeqCst);
                answered
            }
        };
        if let Err(error) = answered {
            let injected = matches!(error.raw_os_error(), Some(nix::libc::EIO | nix::libc::ENOSPC));
            let hit = storm.may_have_hit(&self.stage.storms[Wanted::device(self.seen.user)]);
            let may = injected && (hit || flushes && untold);
            anyhow::ensure!(
                may || self.stage.verdict.is_over(),
                "at {at}, kind {kind}: {error}, and nothing was to go wrong"
            );
            self.stage.verdict.count("requests that had to fail", 1);
        }
        Ok(())
    }

    /// Asks, under the eyes of the watchdog.
    fn ask<T>(&mut self, ask: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let storms = &self.stage.storms[Wanted::device(self.seen.user)];
        let before = Storm::now(storms);
        let start = Instant::now();
        self.seen.since.store((self.start.elapsed().as_millis() as u64).max(1), Ordering::Relaxed);
        let answered = ask();
        self.seen.since.store(0, Ordering::Relaxed);
        self.seen.requests.fetch_add(1, Ordering::Relaxed);
        if !before.may_have_hit(storms) {
            self.seen.longest.fetch_max(start.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
        answered
    }
}
