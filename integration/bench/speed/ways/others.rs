//! Other daemons that serve the same loop device by FUSE, each told to do it as directly as it can.

use super::{Keeper, Served};
use crate::child::Program;
use crate::disk::Disk;
use crate::machine::{QEMU, version};
use crate::patience::wait_until;
use crate::programs::run;
use anyhow::{bail, ensure};
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// QEMU's storage daemon: a file as which it shows the device, without a cache, by io_uring.
pub(super) fn qemu_storage_daemon(disk: &Disk) -> anyhow::Result<Served> {
    version("qemu-storage-daemon", QEMU)?;
    let mount = MountPoint::new()?;
    let file = mount.path.join("disk.img");
    File::create_new(&file)?;
    let device = disk.path().display();
    let blockdev = "driver=host_device,node-name=d0,cache.direct=on,aio=io_uring";
    let export = "type=fuse,id=e0,node-name=d0,writable=on,allow-other=on";
    let mut command = Command::new("qemu-storage-daemon");
    command.arg("--blockdev").arg(format!("{blockdev},filename={device}"));
    command.arg("--export").arg(format!("{export},mountpoint={}", file.display()));
    let daemon = Daemon::start(&mut command, mount.at(file.clone()))?;
    // Not its default: some of the load is other users'.
    fs::set_permissions(&file, Permissions::from_mode(0o666))?;
    Ok(daemon.serves(file))
}

/// bindfs: it hands each call on to the device node, which it shows as a regular file.
///
/// * `--forward-odirect`: it would leave direct I/O out by itself, and read from the page cache what others must have
///   from the device. Requests are cut at blocks of 4 KiB then, as they are anyway.
/// * `--multithreaded`: it would serve one request at a time.
/// * `big_writes` and `direct_io`, which version 2 of its library must be told: writes would be cut into pages, and take
///   the kernel's way to a file with a page cache.
///
/// Version 2 of the library has limits that no option lifts: asynchronous I/O is carried out one request after the
/// other, and requests of more than 128 KiB are cut.
pub(super) fn bindfs(disk: &Disk) -> anyhow::Result<Served> {
    version("bindfs", "bindfs")?;
    let mount = MountPoint::new()?;
    let node = disk.node();
    let folder = node.parent().unwrap_or(&node);
    let version = run(Command::new("bindfs").arg("--fuse-version"))?;
    let mut command = Command::new("bindfs");
    command.args(["-f", "--multithreaded", "--block-devices-as-files", "--forward-odirect=4096"]);
    if version.contains("version 2.") {
        command.args(["-o", "big_writes,direct_io"]);
    }
    command.arg(folder).arg(&mount.path);
    let file = mount.path.join("disk");
    Ok(Daemon::start(&mut command, mount)?.serves(file))
}

/// A daemon and its mount. They are taken down in this order, whatever happens.
pub(super) struct Daemon {
    program: Program,
    _mount: MountPoint,
}

impl Daemon {
    /// Returns when it is mounted.
    fn start(command: &mut Command, mount: MountPoint) -> anyhow::Result<Self> {
        let mut daemon = Self { program: Program::start(command)?, _mount: mount };
        let mut ended = None;
        let up = wait_until(|| {
            ended = daemon.program.ended().ok().flatten();
            ended.is_some() || daemon._mount.is_mounted()
        });
        if let Some(status) = ended {
            bail!("{status}: {}", daemon.program.complaint());
        }
        ensure!(up, "it does not mount: {}", daemon.program.complaint());
        Ok(daemon)
    }

    fn serves(self, file: PathBuf) -> Served {
        Served { file, pid: Some(self.program.pid()), _keeper: Keeper::Daemon { _daemon: self } }
    }
}

/// Where a daemon mounts.
struct MountPoint {
    path: PathBuf,
    folder: TempDir,
}

impl MountPoint {
    /// A folder.
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("ioband-speed-mount-").tempdir()?;
        // Everybody may come in: some of the load is other users'.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let path = folder.path().join("mnt");
        fs::create_dir(&path)?;
        Ok(Self { path, folder })
    }

    /// A file in it.
    fn at(mut self, path: PathBuf) -> Self {
        self.path = path;
        self
    }

    fn is_mounted(&self) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|data| data.dev());
        match device(&self.path) {
            Ok(here) => device(self.folder.path()).is_ok_and(|above| above != here),
            // A mount whose daemon has died cannot be looked at, but is there.
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        // A daemon that was told to end has unmounted itself, as a rule.
        if self.is_mounted()
            && let Err(error) = run(Command::new("umount").arg("--lazy").arg(&self.path))
        {
            eprintln!("left behind: {error:#}");
        }
    }
}
