//! What disturbs: kills and upgrades of who serves, edits in every way, valid and not, and disks that fail for a while.

use super::stage::{PATIENCE, Stage, UIDS, inode, text};
use super::verdict::Verdict;
use super::wanted::Wanted;
use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use rustix::process::{PidfdFlags, pidfd_open};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// When a disk is made to fail: odd while it does, and more each time that changes.
pub(super) type Storms = AtomicU64;

/// What there was of it at a moment.
pub(super) struct Storm(u64);

impl Storm {
    pub(super) fn now(storms: &Storms) -> Self {
        Self(storms.load(Ordering::SeqCst))
    }

    /// How many have begun or ended by then.
    pub(super) fn number(&self) -> u64 {
        self.0
    }

    /// Whether something since then may have gone wrong by intention.
    pub(super) fn may_have_hit(&self, storms: &Storms) -> bool {
        self.0 % 2 == 1 || storms.load(Ordering::SeqCst) != self.0
    }
}

/// What goes wrong for a while.
const FAULTS: [&str; 5] = [
    "[{error: EIO, every: 20, seed: 1}]",
    "[{error: ENOSPC, op: write, every: 10, seed: 2}]",
    "[{short: true, every: 2, seed: 3}]",
    "[{stall: 300ms, every: 50, seed: 4}, {error: EIO, op: flush}]",
    "[{error: ENODATA, op: read, offset: 1MiB, size: 256K}, {short: true}, {stall: 20ms, every: 10, seed: 5}]",
];

/// Configurations that are none.
const BAD: [&str; 5] = [
    "devices: {d0: {path: /dev/null}}\n",
    "devices: {d0: {path: file.disk, weihgt: 7}}\n",
    "images: {x.img: {device: nothing}}\n",
    "devices: [1, 2\n",
    "# nothing\n",
];

pub(super) struct Chaos {
    edits: JoinHandle<()>,
    kills: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    verdict: Arc<Verdict>,
}

impl Chaos {
    pub(super) fn start(stage: Arc<Stage>, seed: u64, may_kill: bool) -> Self {
        let (stop, verdict) = (Arc::new(AtomicBool::new(false)), stage.verdict.clone());
        let mut killer = Killer {
            stage: stage.clone(),
            random: fastrand::Rng::with_seed(seed ^ 1),
            stop: stop.clone(),
            may_kill,
            refused: 0,
        };
        let mut editor = Editor {
            stage,
            random: fastrand::Rng::with_seed(seed ^ 2),
            stop: stop.clone(),
            wanted: Wanted::new(),
            edits: 0,
        };
        let kills = std::thread::spawn(move || {
            if let Err(error) = killer.run() {
                killer.stage.verdict.violated(format!("{error:#}"));
            }
        });
        let edits = std::thread::spawn(move || {
            if let Err(error) = editor.run() {
                editor.stage.verdict.violated(format!("edit {}: {error:#}", editor.edits));
            }
        });
        Self { edits, kills, stop, verdict }
    }

    /// Ends it; no disk fails then.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in [self.kills, self.edits] {
            if thread.join().is_err() {
                self.verdict.violated("a thread of this very program has panicked".to_owned());
            }
        }
    }
}

/// What is said of a disk that is slow, or a machine that is busy, when an upgrade over rings is refused.
const NOT_NOW: [&str; 2] = ["did not complete within", "could not be filled"];

struct Killer {
    stage: Arc<Stage>,
    random: fastrand::Rng,
    stop: Arc<AtomicBool>,
    may_kill: bool,
    /// So many upgrades in a row.
    refused: u32,
}

impl Killer {
    fn run(&mut self) -> anyhow::Result<()> {
        while !self.stop.load(Ordering::Relaxed) && !self.stage.verdict.is_over() {
            // Now and then one that has hardly begun.
            let pause = if self.random.u8(..8) == 0 { 0..150 } else { 200..2500 };
            std::thread::sleep(Duration::from_millis(self.random.u64(pause)));
            if !self.may_kill || self.random.u8(..4) == 0 {
                self.upgrade()?;
            } else {
                self.kill()?;
            }
        }
        Ok(())
    }

    /// Replaces who serves. By rings that is refused while a disk takes long for what it has; but not for ever.
    fn upgrade(&mut self) -> anyhow::Result<()> {
        let output = self.stage.ioband(&["upgrade", "mnt"])?;
        let said = text(&output.stderr);
        if output.status.success() {
            self.refused = 0;
            self.stage.verdict.count("upgrades", 1);
            return Ok(());
        }
        self.refused += 1;
        let slow = NOT_NOW.iter().any(|words| said.contains(words));
        ensure!(!self.may_kill && slow && self.refused < 10, "upgrade: {said}");
        self.stage.verdict.count("upgrades refused by slow disks", 1);
        Ok(())
    }

    /// Kills who serves, and waits for the next one to be there.
    fn kill(&mut self) -> anyhow::Result<()> {
        let Some(worker) = self.stage.worker() else { return Ok(()) };
        // Nobody else can have this number as long as it is not waited for, which needs its death.
        let number = rustix::process::Pid::from_raw(worker.as_raw()).context("a number")?;
        let Ok(_held) = pidfd_open(number, PidfdFlags::empty()) else { return Ok(()) };
        kill(worker, Signal::SIGKILL).context("the worker is ours")?;
        self.stage.verdict.count("kills", 1);
        let start = Instant::now();
        while self.stage.worker().is_none_or(|now| now == worker) {
            ensure!(start.elapsed() < PATIENCE, "nobody comes after worker {worker}");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

struct Editor {
    stage: Arc<Stage>,
    random: fastrand::Rng,
    stop: Arc<AtomicBool>,
    wanted: Wanted,
    edits: u64,
}

impl Editor {
    fn run(&mut self) -> anyhow::Result<()> {
        while !self.stop.load(Ordering::Relaxed) && !self.stage.verdict.is_over() {
            std::thread::sleep(Duration::from_millis(self.random.u64(1..200)));
            self.edits += 1;
            match self.random.u8(..10) {
                0..5 => self.weight()?,
                5 | 6 => self.refused()?,
                _ => self.storm()?,
            }
            self.compare()?;
        }
        Ok(())
    }

    /// Another weight for somebody, said in one of the ways.
    fn weight(&mut self) -> anyhow::Result<()> {
        let (user, weight) = (self.random.usize(..4), self.random.u32(1..1000));
        let (device, uid) = (format!("d{}", Wanted::device(user)), UIDS[user]);
        self.wanted.weights[user] = weight;
        let words = format!("weight {uid}:{weight}");
        match self.random.u8(..4) {
            0 => {
                let args =
                    ["message", &device, "0", "weight", &format!("{uid}:{weight}"), "--mountpoint", "mnt"];
                let output = self.stage.ioband(&args)?;
                ensure!(output.status.success(), "message: {}", text(&output.stderr));
                self.stage.verdict.count("edits by message", 1);
            }
            1 => {
                let mut file =
                    File::options().read(true).write(true).open(self.stage.path("mnt/.ioband/ctl"))?;
                file.write_all(format!("message {device} 0 {words}\n").as_bytes())
                    .context("writing to ctl")?;
                let mut answer = String::new();
                file.read_to_string(&mut answer).context("the answer of ctl")?;
                self.stage.verdict.count("edits by ctl", 1);
            }
            2 => {
                self.save().context("saving control.yaml")?;
                self.stage.verdict.count("edits by control.yaml", 1);
            }
            _ => {
                let (new, config) = (self.stage.path("new.yaml"), self.stage.path("config.yaml"));
                fs::write(&new, self.wanted.yaml(&self.stage.disks, self.edits))?;
                let before = inode(&config);
                fs::rename(&new, &config)?;
                ensure!(inode(&config) != before, "the configuration was not replaced");
                let start = Instant::now();
                // Whoever watches it takes a moment.
                while self.runs()? != self.wanted.weights {
                    ensure!(
                        start.elapsed() < PATIENCE,
                        "the file that was mounted has changed, and nobody has seen it"
                    );
                    std::thread::sleep(Duration::from_millis(10));
                }
                self.stage.verdict.count("edits of the file", 1);
            }
        }
        Ok(())
    }

    fn save(&self) -> std::io::Result<()> {
        self.stage.save(&self.wanted.yaml(&self.stage.disks, self.edits))
    }

    /// What must be refused, and change nothing.
    fn refused(&mut self) -> anyhow::Result<()> {
        if self.random.bool() {
            let bad = BAD[self.random.usize(..BAD.len())];
            let error = self.stage.save(bad).err().and_then(|error| error.raw_os_error());
            ensure!(error == Some(nix::libc::EINVAL), "{bad:?} came to {error:?}");
        } else {
            let message: &[&str] = match self.random.u8(..4) {
                0 => &["message", "d0", "0", "weight", "0"],
                1 => &["message", "d7", "0", "weight", "7"],
                2 => &["message", "d1", "0", "detach", "9999"],
                _ => &["remove", "d1"],
            };
            let output = self.stage.ioband(&[message, &["--mountpoint", "mnt"]].concat())?;
            ensure!(output.status.code() == Some(1), "{message:?} was accepted");
        }
        self.stage.verdict.count("edits refused", 1);
        Ok(())
    }

    /// A disk fails for a while.
    fn storm(&mut self) -> anyhow::Result<()> {
        let disk = self.random.usize(..2);
        let faults = FAULTS[self.random.usize(..FAULTS.len())];
        let storms = &self.stage.storms[disk];
        // Before it can have begun, until after it has ended.
        storms.fetch_add(1, Ordering::SeqCst);
        self.wanted.faults[disk] = faults.to_owned();
        self.save().context("beginning a storm")?;
        std::thread::sleep(Duration::from_millis(self.random.u64(20..600)));
        self.edits += 1;
        self.wanted.faults[disk].clear();
        self.save().context("ending a storm")?;
        storms.fetch_add(1, Ordering::SeqCst);
        self.stage.verdict.count("storms on disks", 1);
        Ok(())
    }

    fn runs(&self) -> anyhow::Result<[u32; 4]> {
        let table = self.stage.control("table.json")?;
        Wanted::weights_of(&table).with_context(|| format!("no weights in {table}"))
    }

    /// What runs is what was acknowledged.
    fn compare(&self) -> anyhow::Result<()> {
        let runs = self.runs()?;
        let wanted = self.wanted.weights;
        ensure!(runs == wanted, "the weights {runs:?} run, and not {wanted:?}");
        Ok(())
    }
}
