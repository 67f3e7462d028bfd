//! An ioband mount for one trial, made with the program itself and taken down whatever happens.

use crate::support::{Need, folder};
use crate::windows::median;
use crate::writers::PATIENCE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What every mount needs.
pub(crate) const MOUNT: &[Need] = &[Need::Root, Need::Fuse];

/// What a mount needs that others use, too.
pub(crate) const AS_OTHERS: &[Need] = &[Need::Root, Need::Fuse, Need::Tool("setpriv")];

/// How requests come from the kernel, if that is not up to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Dev,
    Uring,
}

impl Transport {
    pub(crate) const BOTH: [Self; 2] = [Self::Dev, Self::Uring];

    /// What the command calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Uring => "uring",
        }
    }

    /// A mount by it needs these.
    pub(crate) fn needs(self) -> &'static [Need] {
        match self {
            Self::Dev => MOUNT,
            Self::Uring => &[Need::Root, Need::Fuse, Need::Uring, Need::FuseUring],
        }
    }

    /// Arguments of `ioband mount` that ask for it, and more.
    pub(crate) fn and<'a>(self, args: &[&'a str]) -> Vec<&'a str> {
        [&["--transport", self.name()], args].concat()
    }
}

/// How long a daemon may take to end before it is killed: far more than it ever needs.
const PATIENCE_MS: u16 = 30_000;

/// Runs `ioband` in `folder`.
pub(crate) fn ioband(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ioband"));
    command.current_dir(folder).args(args).env_remove("IOBAND_MOUNTPOINT").output().expect("ioband runs")
}

/// Waits until something is so that comes about by itself; `or` says what is wrong if it never does.
pub(crate) fn wait_until(mut is_it: impl FnMut() -> bool, or: impl Fn() -> String) {
    let start = std::time::Instant::now();
    while !is_it() {
        assert!(start.elapsed().as_millis() < PATIENCE_MS.into(), "{}", or());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// What a group did: reads, delayed ones, sectors read, writes, delayed ones, sectors written.
pub(crate) type Counters = [u64; 6];

/// Id and counters of each group in a status of one device.
pub(crate) fn groups(status: &str) -> Vec<(String, Counters)> {
    let fields: Vec<_> = status.split_whitespace().skip(5).collect();
    let counters = |group: &[&str]| {
        let numbers: Vec<u64> = group[1..].iter().map(|field| field.parse().expect("a number")).collect();
        (group[0].to_owned(), numbers.try_into().expect("six"))
    };
    fields.chunks(7).map(counters).collect()
}

/// Waits until groups have had so many more requests than `before`; what they had then.
pub(crate) fn after<Id: std::fmt::Debug>(
    requests: impl Fn() -> Vec<(Id, u64)>,
    before: &[(Id, u64)],
    more: u64,
) -> Vec<(Id, u64)> {
    let sum = |groups: &[(Id, u64)]| groups.iter().map(|(_, n)| n).sum::<u64>();
    let start = std::time::Instant::now();
    loop {
        let now = requests();
        if sum(&now) >= sum(before) + more {
            return now;
        }
        assert!(start.elapsed() < PATIENCE, "the disk stands still at {now:?}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Windows of a stretch in which shares are looked at. A machine that stands still for a moment spoils one or two, so it is the
/// median that counts.
const WINDOWS: usize = 5;

/// The part in percent that each group has of the next requests: the median of windows of so many.
pub(crate) fn parts<Id: std::fmt::Debug>(
    requests: impl Fn() -> Vec<(Id, u64)>,
    counted: u64,
) -> Vec<(Id, f64)> {
    let mut from = requests();
    let windows: Vec<Vec<f64>> = (0..WINDOWS)
        .map(|_| {
            let to = after(&requests, &from, counted);
            let got = from.iter().zip(&to).map(|((_, from), (_, to))| (to - from) as f64);
            let sum: f64 = got.clone().sum();
            let parts = got.map(|got| got * 100.0 / sum).collect();
            from = to;
            parts
        })
        .collect();
    let of = |group: usize| median(windows.iter().map(|parts| parts[group]).collect());
    from.into_iter().enumerate().map(|(group, (id, _))| (id, of(group))).collect()
}

/// The process that serves.
pub(crate) fn worker(mount: &Vmdisk) -> u32 {
    let list: serde_json::Value = serde_json::from_str(&mount.control("ls.json")).expect("JSON");
    list["service"]["worker"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id")
}

/// A mount at `vmdisk` in a folder of its own.
pub(crate) struct Vmdisk {
    /// Whose the folder is removes it in the end.
    folder: Option<tempfile::TempDir>,
    at: PathBuf,
    pid: Pid,
    process: OwnedFd,
}

impl Vmdisk {
    /// Mounts a configuration whose relative paths are in the trial's folder.
    pub(crate) fn mount(config: &str) -> Self {
        Self::mount_in(folder(), config, &[])
    }

    /// The same in a folder that exists, with more arguments.
    pub(crate) fn mount_in(folder: tempfile::TempDir, config: &str, args: &[&str]) -> Self {
        let at = folder.path().to_owned();
        std::fs::write(at.join("config.yaml"), config).expect("a configuration");
        // Everybody may come in: trials run as other users.
        open_to_all(folder.path());
        let (pid, process) = start(folder.path(), "config.yaml", args);
        Self { folder: Some(folder), at, pid, process }
    }

    /// Takes over a mount at `vmdisk` in `folder` that was made otherwise.
    pub(crate) fn of(folder: tempfile::TempDir) -> Self {
        let at = folder.path().to_owned();
        let (pid, process) = daemon_of(&at);
        Self { folder: Some(folder), at, pid, process }
    }

    /// Mounts the same configuration again, once the daemon has ended.
    pub(crate) fn again(&mut self, args: &[&str]) {
        assert!(!self.runs(), "the daemon still runs");
        (self.pid, self.process) = start(&self.at, "config.yaml", args);
    }

    /// Another mount at the same place, once that is free, in the same folder.
    pub(crate) fn beside(&self, config: &str) -> Self {
        let (pid, process) = start(&self.at, config, &[]);
        Self { folder: None, at: self.at.clone(), pid, process }
    }

    /// The folder in which it was mounted.
    pub(crate) fn folder(&self) -> &Path {
        &self.at
    }

    /// The mount point.
    pub(crate) fn path(&self) -> PathBuf {
        self.at.join("vmdisk")
    }

    /// A file in the mount.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The text of a control file.
    pub(crate) fn control(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(".ioband").join(name)).expect("a control file")
    }

    /// The counters of each group of the only device.
    pub(crate) fn groups(&self) -> Vec<(String, Counters)> {
        groups(&self.control("status"))
    }

    /// The daemon.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// The process that serves, asked of the kernel; none between two of them.
    pub(crate) fn worker(&self) -> Option<Pid> {
        let keeper = self.pid;
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        children.split_whitespace().next().and_then(|pid| pid.parse().ok()).map(Pid::from_raw)
    }

    /// Kills the daemon, both its processes, and waits until the last one has ended.
    pub(crate) fn kill_all(&self) {
        let worker = self.worker().expect("a worker");
        let process = rustix::process::Pid::from_raw(worker.as_raw()).expect("a number");
        let process = pidfd_open(process, PidfdFlags::empty()).expect("it runs");
        // First the one that would start another one.
        kill(self.pid, Signal::SIGKILL).expect("it is ours");
        kill(worker, Signal::SIGKILL).expect("it is ours");
        let mut wait = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut wait, PollTimeout::from(PATIENCE_MS)), Ok(1), "the worker does not end");
    }

    /// What the daemon logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.at.join("log")).unwrap_or_default()
    }

    /// A number of `metrics`, over all disks or groups that have it.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let metrics = self.control("metrics");
        let of =
            |line: &str| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} ")?.1.parse::<u64>().ok();
        metrics.lines().filter_map(of).sum()
    }

    /// Requests that are held now.
    pub(crate) fn held(&self) -> u64 {
        self.metric("ioband_disk_queued_requests")
    }

    /// Waits until a control file says what it must.
    pub(crate) fn wait_for(&self, name: &str, is_it: impl Fn(&str) -> bool) -> String {
        let start = std::time::Instant::now();
        loop {
            let text = self.control(name);
            if is_it(&text) {
                return text;
            }
            assert!(start.elapsed().as_millis() < PATIENCE_MS.into(), "{name} stays at:\n{text}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Unmounts with a program of the system, or with ioband for an empty name, what nobody has files open on.
    ///
    /// More than once if it must: while another trial starts a process, that has copies of all files that are open
    /// in this one for a moment, also of those that are closed here meanwhile.
    pub(crate) fn umount_with(&self, program: &[&str]) {
        let path = self.path();
        let path = path.to_str().expect("a plain path");
        let start = std::time::Instant::now();
        loop {
            let output = match program {
                [] => ioband(self.folder(), &["umount", path]),
                [name, args @ ..] => {
                    Command::new(name).args(args).arg(path).output().expect("the program runs")
                }
            };
            if output.status.success() {
                return;
            }
            let said = String::from_utf8_lossy(&output.stderr);
            let busy = said.contains("in use") || said.contains("busy");
            assert!(busy && start.elapsed().as_millis() < PATIENCE_MS.into(), "{said}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// The daemon has not ended.
    pub(crate) fn runs(&self) -> bool {
        // A pidfd that is readable is a process that has ended: its number may be somebody else's by now.
        poll(&mut [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0)
    }

    /// Waits until the daemon has ended; false if it does not.
    pub(crate) fn ended(&self) -> bool {
        let mut wait = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut wait, PollTimeout::from(PATIENCE_MS)) {
                Err(nix::errno::Errno::EINTR) => {}
                result => return result == Ok(1),
            }
        }
    }
}

impl Drop for Vmdisk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        if self.runs() {
            let _ = kill(self.pid, Signal::SIGTERM);
            if !self.ended() {
                eprintln!("the daemon {} did not end by itself", self.pid);
                let _ = kill(self.pid, Signal::SIGKILL);
                self.ended();
            }
        }
        // Nothing is mounted any more unless the daemon was killed.
        let _ = nix::mount::umount2(&self.path(), nix::mount::MntFlags::MNT_DETACH);
        drop(self.folder.take());
    }
}

/// Mounts `config` at `vmdisk` in `folder`; the daemon.
fn start(folder: &Path, config: &str, args: &[&str]) -> (Pid, OwnedFd) {
    let all = [&["mount", config, "vmdisk", "--log", "log"], args].concat();
    let output = ioband(folder, &all);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mount failed: {said}");
    daemon_of(folder)
}

fn daemon_of(folder: &Path) -> (Pid, OwnedFd) {
    let mount = folder.join("vmdisk");
    // The control directory, whatever its name is.
    let folders = std::fs::read_dir(&mount).into_iter().flatten().flatten();
    let control = folders.map(|entry| entry.path()).find(|path| path.is_dir());
    let read = || {
        let pid = std::fs::read_to_string(control?.join("pid")).ok()?.trim().parse().ok()?;
        let process = pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some((Pid::from_raw(pid), process))
    };
    read().unwrap_or_else(|| {
        // Unmounted, it ends by itself; nobody else would see to it.
        let _ = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
        panic!("{} does not tell its daemon", mount.display())
    })
}

/// Lets other users through to `path`, below the build's folder too.
fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).expect("a folder").permissions().mode();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o055)).expect("a folder of ours");
}
