//! A mount of four images on two disks, a file and a loop device, and what is looked at from outside.

use super::chaos::Storms;
use super::journal::{Journal, SECTOR};
use super::verdict::Verdict;
use super::wanted::Wanted;
use anyhow::{Context, bail, ensure};
use ioband::device::{OpenMode, Target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of an image.
pub(super) const IMAGE: u64 = 16 << 20;
/// Who has an image each; the first two are on the first disk.
pub(super) const UIDS: [u32; 4] = [2101, 2102, 2103, 2104];
/// Far more than anything takes that comes to an end.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What a worker may have more in the end than at first: memory in KiB, which large requests leave for the next ones, and
/// descriptors, with which it knows threads that it has seen.
const GROWS: [u64; 2] = [96 << 10, 64];
/// The same of the keeper, which has a buffer for the largest request once it had to refuse any.
const KEEPER_GROWS: [u64; 2] = [2 << 10, 4];

/// What the keeper says of a worker that was killed while it started.
const NEWBORN: &str = "it was ended by signal 9 before it heard anything";

/// What the images are on.
pub(super) struct Disks {
    file: PathBuf,
    backing: PathBuf,
    device: PathBuf,
}

impl Disks {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let [file, backing] = ["file.disk", "backing.disk"].map(|name| folder.join(name));
        for path in [&file, &backing] {
            File::create_new(path)?.set_len(2 * IMAGE)?;
        }
        // Blocks of 4096 bytes, so that smaller writes have to read first.
        let attach = ["-f", "--show", "-b", "4096"].map(str::to_owned);
        let output = Command::new("losetup").args(attach).arg(&backing).output().context("losetup")?;
        ensure!(output.status.success(), "losetup: {}", text(&output.stderr));
        Ok(Self { file, backing, device: text(&output.stdout).trim().into() })
    }

    pub(super) fn paths(&self) -> [&Path; 2] {
        [&self.file, &self.device]
    }

    /// Where the bytes are in the end.
    fn below(&self) -> [&Path; 2] {
        [&self.file, &self.backing]
    }
}

pub(super) struct Stage {
    pub(super) verdict: Arc<Verdict>,
    pub(super) disks: Disks,
    program: PathBuf,
    folder: tempfile::TempDir,
    keeper: Pid,
    mounted: AtomicBool,
    /// When each disk is made to fail.
    pub(super) storms: [Storms; 2],
    /// For each image the storms before the last flush of it that was answered: one that came later may still have to be told, as an
    /// error of the next flush, although it is over.
    pub(super) told: [AtomicU64; 4],
}

impl Stage {
    pub(super) fn new(
        program: PathBuf,
        folder: &Path,
        transport: &str,
        verdict: Arc<Verdict>,
    ) -> anyhow::Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "this needs root: users with a uid of their own, and a loop device"
        );
        let folder = tempfile::Builder::new().prefix("ioband-stress").tempdir_in(folder)?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let disks = Disks::new(folder.path())?;
        fs::write(folder.path().join("config.yaml"), Wanted::new().yaml(&disks, 0))?;
        let mut stage = Self {
            verdict,
            disks,
            program,
            folder,
            keeper: Pid::from_raw(0),
            mounted: AtomicBool::new(false),
            storms: Default::default(),
            told: Default::default(),
        };
        let mounted =
            stage.ioband(&["mount", "config.yaml", "mnt", "--log", "log", "--transport", transport]);
        let keeper = mounted.and_then(|output| {
            ensure!(output.status.success(), "mount: {}", text(&output.stderr));
            Ok(stage.control("pid")?.trim().parse()?)
        });
        match keeper {
            Ok(keeper) => stage.keeper = Pid::from_raw(keeper),
            Err(error) => {
                stage.clean_up();
                return Err(error);
            }
        }
        stage.mounted.store(true, Ordering::Relaxed);
        Ok(stage)
    }

    /// Runs the program in the folder, in a process group of its own: Ctrl-C is not for it.
    pub(super) fn ioband(&self, args: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.program);
        command.current_dir(self.folder.path()).args(args).env_remove("IOBAND_MOUNTPOINT").process_group(0);
        command.output().context("the program does not run")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn image(&self, user: usize) -> PathBuf {
        self.path("mnt").join(format!("vm{user}.img"))
    }

    /// The text of a control file.
    pub(super) fn control(&self, name: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.path("mnt/.ioband").join(name)).with_context(|| format!("reading {name}"))
    }

    /// Saves the running configuration as an editor does that looks at what comes of it.
    pub(super) fn save(&self, text: &str) -> std::io::Result<()> {
        let mut file = File::create(self.path("mnt/.ioband/control.yaml"))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// The process that serves: the oldest child of the keeper. None between two of them.
    pub(super) fn worker(&self) -> Option<Pid> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.keeper)).ok()?;
        children.split_whitespace().next().and_then(|pid| pid.parse().ok()).map(Pid::from_raw)
    }

    /// Every sector, as images show it.
    pub(super) fn check_images(&self, journals: &[Journal]) {
        self.check("image", journals, |user| (self.image(user), 0));
    }

    /// The same on the disks, where nobody is in between.
    pub(super) fn check_disks(&self, journals: &[Journal]) -> anyhow::Result<()> {
        for path in self.disks.paths() {
            Target::open(path, None, OpenMode::default()).context("after the end the disks are free")?;
        }
        self.detach()?;
        let below =
            |user: usize| (self.disks.below()[Wanted::device(user)].to_owned(), user as u64 % 2 * IMAGE);
        self.check("disk", journals, below);
        Ok(())
    }

    fn check(&self, what: &'static str, journals: &[Journal], place: impl Fn(usize) -> (PathBuf, u64)) {
        for journal in journals {
            let (path, offset) = place(journal.image);
            let mut bytes = vec![0; (journal.range.end - journal.range.start) as usize * SECTOR];
            let at = offset + journal.range.start * SECTOR as u64;
            let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, at));
            let found = match read {
                Ok(()) => journal.find_wrong(&bytes),
                Err(error) => vec![format!("{error}")],
            };
            found
                .into_iter()
                .for_each(|wrong| self.verdict.blame(format!("{what} {}: {wrong}", path.display())));
            self.verdict.count("sectors compared", journal.range.end - journal.range.start);
        }
    }

    /// Nobody died who was not killed.
    pub(super) fn check_processes(&self) {
        let before = || {
            let list: serde_json::Value = serde_json::from_str(&self.control("ls.json")?)?;
            list["service"]["before"].as_u64().context("ls.json has no number of workers")
        };
        let wanted = self.verdict.counted("kills") + self.verdict.counted("upgrades");
        // Who was killed before he had begun is not counted.
        let newborn = self.log().lines().filter(|line| line.contains(NEWBORN)).count() as u64;
        self.verdict.count("of these before they began", newborn);
        match before() {
            Ok(before) if (wanted - newborn.min(wanted)..=wanted).contains(&before) => {}
            Ok(before) => self.verdict.blame(format!("{before} workers have ended, {wanted} by our doing")),
            Err(error) => self.verdict.blame(format!("{error:#}")),
        }
    }

    /// As people do it: nothing is open, and the daemon ends.
    pub(super) fn unmount(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        let output = self.ioband(&["umount", "mnt"])?;
        ensure!(output.status.success(), "umount: {}", text(&output.stderr));
        self.mounted.store(false, Ordering::Relaxed);
        self.verdict.note("unmounted in", format!("{} ms", start.elapsed().as_millis()));
        // Whoever is to take note of its end may be late.
        let state = fs::read_to_string(format!("/proc/{}/status", self.keeper)).unwrap_or_default();
        ensure!(state.is_empty() || state.contains("State:\tZ"), "the keeper runs after umount");
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(super) fn check_log(&self) {
        let log = self.log();
        let bad =
            |line: &&str| line.contains("panicked") || line.contains("ERROR") && !line.contains(NEWBORN);
        if let Some(line) = log.lines().find(bad) {
            self.verdict.blame(format!("the log says: {line}"));
        }
    }

    pub(super) fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    pub(super) fn compare_use(&self, before: &Use, after: &Use) {
        for (who, before, after, grows) in [
            ("keeper", before.keeper, after.keeper, KEEPER_GROWS),
            ("worker", before.worker, after.worker, GROWS),
        ] {
            let text = format!(
                "{who}: {} KiB, {} descriptors; at first {}, {}",
                after[0], after[1], before[0], before[1]
            );
            if (0..2).any(|at| after[at] > before[at] + grows[at]) {
                self.verdict.blame(format!("it grows: {text}"));
            }
            self.verdict.note("in the end", text);
        }
    }

    fn detach(&self) -> anyhow::Result<()> {
        let output = Command::new("losetup").arg("-d").arg(&self.disks.device).output()?;
        ensure!(output.status.success(), "losetup -d: {}", text(&output.stderr));
        Ok(())
    }

    /// Sets everybody free who hangs in the mount: the kernel answers them all.
    pub(super) fn abort(&self) {
        // The number of the connection is that of the filesystem; asking the mount itself could hang.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let path = self.path("mnt");
        let line = mounts.lines().find(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == path));
        let number = line.and_then(|line| line.split(' ').nth(2)?.split(':').nth(1));
        let Some(number) = number else { return };
        let _ = nix::mount::mount(
            Some("none"),
            "/sys/fs/fuse/connections",
            Some("fusectl"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        );
        let _ = fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1");
    }

    /// Takes away whatever is left.
    pub(super) fn clean_up(&self) {
        if self.mounted.swap(false, Ordering::Relaxed) {
            self.abort();
            let worker = self.worker();
            for process in [Some(self.keeper), worker].into_iter().flatten() {
                let _ = kill(process, Signal::SIGKILL);
            }
        }
        let _ = nix::mount::umount2(&self.path("mnt"), nix::mount::MntFlags::MNT_DETACH);
        // Twice, it is another one's by now: only ours has our file.
        if backing_of(&self.disks.device).as_deref() == Some(&self.disks.backing) {
            let _ = self.detach();
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.clean_up();
    }
}

/// The file that a loop device is on.
fn backing_of(device: &Path) -> Option<PathBuf> {
    let name = device.file_name()?;
    let file = fs::read_to_string(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()?;
    Some(file.trim_end().into())
}

/// What keeper and worker take: KiB of memory of their own (their program's pages come and go), and descriptors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    keeper: [u64; 2],
    worker: [u64; 2],
}

impl Use {
    pub(super) fn of(stage: &Stage) -> anyhow::Result<Self> {
        let start = Instant::now();
        loop {
            if let Some(worker) = stage.worker()
                && let (Some(keeper), Some(worker)) = (of_process(stage.keeper), of_process(worker))
            {
                return Ok(Self { keeper, worker });
            }
            if start.elapsed() > PATIENCE {
                bail!("there is no worker");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn of_process(pid: Pid) -> Option<[u64; 2]> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let memory = line.split_whitespace().next()?.parse().ok()?;
    Some([memory, fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64])
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// The identity of a file that is replaced by renaming.
pub(super) fn inode(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.ino())
}
