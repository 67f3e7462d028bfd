//! The disk that all ways are on: a loop device with direct I/O on a file in memory, which stands in for a fast SSD. The
//! machine's own disk would be the bottleneck of every way, and then all of them would look alike.

use crate::programs::run;
use anyhow::Context;
use nix::sys::stat::{Mode, SFlag, mknod};
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Bytes.
pub(crate) const SIZE: u64 = 1 << 30;

/// The disk. Its parts are taken down in this order, whatever happens.
pub(crate) struct Disk {
    device: Loop,
    memory: Memory,
}

impl Disk {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let memory = Memory::mount()?;
        let backing = memory.path().join("backing");
        fill(&backing).context("cannot fill the disk")?;
        let disk = Self { device: Loop::attach(&backing)?, memory };
        disk.make_node().context("cannot make a device node")?;
        Ok(disk)
    }

    /// As the machine knows it.
    pub(crate) fn path(&self) -> &Path {
        &self.device.path
    }

    /// The same device under a name that is ours, which everybody may open and which is alone in its folder.
    pub(crate) fn node(&self) -> PathBuf {
        self.memory.path().join("device/disk")
    }

    fn make_node(&self) -> anyhow::Result<()> {
        let node = self.node();
        fs::create_dir(self.memory.path().join("device"))?;
        mknod(&node, SFlag::S_IFBLK, Mode::empty(), fs::metadata(self.path())?.rdev())?;
        // Not by the mode of mknod, which the umask would narrow.
        Ok(fs::set_permissions(&node, Permissions::from_mode(0o666))?)
    }

    /// What it is, in words.
    pub(crate) fn describe(&self) -> String {
        let setting = |name| {
            let name = format!("/sys/block/{}/{name}", self.device.name());
            fs::read_to_string(name).unwrap_or_default().trim().to_owned()
        };
        let direct = if setting("loop/dio") == "1" {
            "direct I/O"
        } else {
            "NO direct I/O, because this kernel's tmpfs has none: expect the page cache to take part"
        };
        let (block, scheduler) = (setting("queue/logical_block_size"), setting("queue/scheduler"));
        let size = SIZE >> 20;
        format!("loop device on {size} MiB of tmpfs, {direct}, blocks of {block}, scheduler {scheduler}")
    }
}

/// A whole file of random bytes: nothing is sparse, and nothing is the same as anything else.
fn fill(path: &Path) -> anyhow::Result<()> {
    let mut random = File::open("/dev/urandom")?.take(SIZE);
    io::copy(&mut random, &mut File::create_new(path)?)?;
    Ok(())
}

/// A tmpfs of our own, so that it has room and allows device nodes.
struct Memory {
    folder: TempDir,
}

impl Memory {
    fn mount() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("ioband-speed-disk-").tempdir()?;
        // Everybody may come in: some of the load is other users'.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let options = format!("mode=755,dev,size={}", SIZE + (16 << 20));
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "ioband-speed"]).arg(folder.path()))?;
        Ok(Self { folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(self.path())) {
            eprintln!("left behind: {error:#}");
        }
    }
}

/// A loop device.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn attach(file: &Path) -> anyhow::Result<Self> {
        // With direct I/O its requests are under way side by side; without they would be one after the other.
        let mut losetup = Command::new("losetup");
        let path = run(losetup.args(["--find", "--show", "--direct-io=on"]).arg(file))?;
        Ok(Self { path: path.into() })
    }

    fn name(&self) -> std::path::Display<'_> {
        self.path.strip_prefix("/dev").unwrap_or(&self.path).display()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("losetup").arg("--detach").arg(&self.path)) {
            eprintln!("left behind: {error:#}");
        }
        // If somebody looks into it just now it goes when he is done, and the file below it only then.
        let there = Path::new("/sys/block").join(self.name().to_string()).join("loop");
        crate::patience::wait_until(|| !there.exists());
    }
}
