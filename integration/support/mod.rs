//! What the integration tests share: trials that say what they need, and things that clean up after themselves.
#![allow(dead_code)] // Each test binary uses its own part of it.

use libtest_mimic::{Failed, Trial};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What a trial cannot do without.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// To be run by root.
    Root,
    /// Loop devices that can be set up.
    LoopDevice,
    /// A program.
    Tool(&'static str),
    /// A file of the kernel's.
    Path(&'static str),
    /// io_uring that is neither missing nor forbidden.
    Uring,
    /// FUSE mounts.
    Fuse,
    /// FUSE over io_uring, switched on in the kernel or to be switched on: see [`FuseUring`].
    FuseUring,
    /// cgroups that bound memory, of either version.
    MemoryCgroup,
}

impl Need {
    /// Where those of version 1 are.
    pub(crate) const MEMORY_CGROUPS: &str = "/sys/fs/cgroup/memory";

    fn missing(self) -> Option<String> {
        let (met, what) = match self {
            Need::Root => (nix::unistd::geteuid().is_root(), "root".to_owned()),
            Need::LoopDevice => (run("losetup", &["-f"]).is_ok(), "loop devices".to_owned()),
            Need::Tool(name) => (has_tool(name), name.to_owned()),
            Need::Path(path) => (Path::new(path).exists(), path.to_owned()),
            Need::Fuse => {
                (File::options().read(true).write(true).open("/dev/fuse").is_ok(), "/dev/fuse".to_owned())
            }
            Need::Uring => (io_uring::IoUring::new(2).is_ok(), "io_uring".to_owned()),
            Need::FuseUring => {
                let (is_on, can_be) = (FuseUring::is_on(), nix::unistd::geteuid().is_root());
                let what =
                    if is_on.is_none() { "FUSE over io_uring (Linux 6.14)" } else { FuseUring::SWITCH };
                (is_on.is_some_and(|is_on| is_on || can_be), what.to_owned())
            }
            Need::MemoryCgroup => {
                let two = std::fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control");
                let has = two.is_ok_and(|all| all.split_whitespace().any(|one| one == "memory"));
                (has || Path::new(Self::MEMORY_CGROUPS).exists(), "cgroups for memory".to_owned())
            }
        };
        (!met).then_some(what)
    }
}

/// FUSE over io_uring, which is switched off in the kernel by default: switched on for as long as this exists. Only for
/// mounts that are made meanwhile.
pub(crate) struct FuseUring {
    was_off: bool,
}

impl FuseUring {
    const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

    /// `None` where the kernel does not have it.
    fn is_on() -> Option<bool> {
        // A module that has a device of its own in every kernel of ours is loaded when that is opened.
        let _ = File::open("/dev/fuse");
        std::fs::read_to_string(Self::SWITCH).ok().map(|value| value.trim() == "Y")
    }

    /// Switches it on if that is possible: who cannot do without it has [`Need::FuseUring`].
    pub(crate) fn switch_on() -> Self {
        Self { was_off: Self::is_on() == Some(false) && std::fs::write(Self::SWITCH, "Y").is_ok() }
    }
}

impl Drop for FuseUring {
    fn drop(&mut self) {
        if self.was_off
            && let Err(error) = std::fs::write(Self::SWITCH, "N")
        {
            eprintln!("left behind: {} is on: {error}", Self::SWITCH);
        }
    }
}

fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where administration programs are, even if the caller's PATH does not say so.
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|folder| folder.join(name).exists())
}

/// A trial. If it needs what is not there, it is ignored and its name says why; where the environment variable
/// CI is set it fails instead, so that nothing is left out unseen.
pub(crate) fn trial(name: &str, needs: &[Need], run: impl FnOnce() + Send + 'static) -> Trial {
    let missing: Vec<_> = needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return Trial::test(name, move || {
            // Caught here, so that the guards in the trial are dropped whatever the panic strategy of the runner.
            catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Failed::from(text.unwrap_or_else(|| "panicked".to_owned()))
            })
        });
    }
    let needs = format!("needs {}", missing.join(", "));
    let ci = std::env::var_os("CI").is_some();
    let name = if ci { name.to_owned() } else { format!("{name} (skipped: {needs})") };
    Trial::test(name, move || Err(Failed::from(needs))).with_ignored_flag(!ci)
}

/// Runs a program to its end; its output, or what it complained about.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// A folder on the disk that the build is on (not in memory), removed in the end.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder below the target folder")
}

/// A sparse file.
pub(crate) fn sparse(path: &Path, size: u64) {
    File::create_new(path).and_then(|file| file.set_len(size)).expect("a sparse file");
}

/// A loop device on a file; detached in the end.
pub(crate) struct Loop {
    path: String,
}

impl Loop {
    pub(crate) fn attach(file: &Path, block: u32) -> Self {
        let (file, block) = (file.to_str().expect("a plain path"), block.to_string());
        Self { path: run("losetup", &["-f", "--show", "-b", &block, file]).expect("a loop device") }
    }

    /// One that was attached otherwise.
    pub(crate) fn of(path: &str) -> Self {
        Self { path: path.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        Path::new(&self.path)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(error) = run("losetup", &["-d", &self.path]) {
            eprintln!("left behind: {error}");
        }
    }
}

/// A mounted filesystem; unmounted in the end.
pub(crate) struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    /// `mount ARGS FOLDER`.
    pub(crate) fn new(args: &[&str]) -> Self {
        let folder = folder();
        let mut args = args.to_vec();
        args.push(folder.path().to_str().expect("a plain path"));
        run("mount", &args).expect("a mount");
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(self.folder.path().to_str().expect("a plain path"));
    }
}

/// `umount PATH`, patiently: processes that other trials start have our open files too until they become their program.
/// What stays busy is told, and detached: a filesystem that is left mounted keeps the device below it from going.
pub(crate) fn unmount(path: &str) {
    let start = Instant::now();
    while let Err(error) = run("umount", &[path]) {
        if start.elapsed() > Duration::from_secs(30) {
            eprintln!("left behind: {error}");
            let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Random numbers that can be had again: xorshift64*.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}
