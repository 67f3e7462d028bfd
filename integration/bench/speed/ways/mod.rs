//! The ways to a disk that are compared. Only one of them has the disk open at a time: ioband wants it for itself.

mod ioband;
mod others;
mod switch;

use crate::disk::Disk;
use crate::programs::Programs;
use anyhow::ensure;
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// A way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Way {
    /// The device itself, with nothing in between.
    Raw,
    /// ioband, FUSE over io_uring.
    Uring,
    /// The same, where everything passes at once.
    UringNoScheduling,
    /// ioband, requests read from /dev/fuse.
    Dev,
    /// The same, where everything passes at once.
    DevNoScheduling,
    /// The FUSE export of QEMU's storage daemon.
    QemuStorageDaemon,
    /// bindfs, which hands each request on as it is.
    Passthrough,
}

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Uring => "uring",
            Self::UringNoScheduling => "uring, no scheduling",
            Self::Dev => "dev",
            Self::DevNoScheduling => "dev, no scheduling",
            Self::QemuStorageDaemon => "qemu-storage-daemon",
            Self::Passthrough => "passthrough (bindfs)",
        }
    }

    fn needs_uring(self) -> bool {
        matches!(self, Self::Uring | Self::UringNoScheduling)
    }
}

/// What is needed to go any way.
pub(crate) struct Bench {
    programs: Programs,
    disk: Disk,
    /// What ioband is told about groups.
    groups: &'static str,
    /// FUSE over io_uring allowed by the kernel for as long as this lasts, or why it is not.
    uring: Option<anyhow::Result<switch::On>>,
}

impl Bench {
    /// For these ways, with the load of `users` if it is not that of root alone.
    pub(crate) fn new(ways: &[Way], users: Option<[u32; 2]>) -> anyhow::Result<Self> {
        let uring = ways.iter().any(|way| way.needs_uring()).then(switch::On::turn);
        // Who has the same weight should get the same: the load is that of one kind.
        let groups = if users.is_some() { "{1000: 40, 2000: 40}" } else { "{1000: 80, 2000: 40}" };
        Ok(Self { programs: Programs::build()?, disk: Disk::new()?, groups, uring })
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Serves the disk in this way until what is returned is dropped.
    pub(crate) fn serve(&self, way: Way) -> anyhow::Result<Served> {
        if let (true, Some(Err(reason))) = (way.needs_uring(), &self.uring) {
            anyhow::bail!("{reason:#}");
        }
        let served = match way {
            Way::Raw => Served { file: self.disk.node(), pid: None, _keeper: Keeper::Nobody },
            Way::Uring => ioband::serve(self, &["--transport", "uring"])?,
            Way::UringNoScheduling => ioband::serve(self, &["--transport", "uring", "--no-scheduling"])?,
            Way::Dev => ioband::serve(self, &["--transport", "dev"])?,
            Way::DevNoScheduling => ioband::serve(self, &["--transport", "dev", "--no-scheduling"])?,
            Way::QemuStorageDaemon => others::qemu_storage_daemon(&self.disk)?,
            Way::Passthrough => others::bindfs(&self.disk)?,
        };
        if way != Way::Raw {
            let size = std::fs::metadata(served.file())?.len();
            ensure!(size == crate::disk::SIZE, "{} has {size} bytes", served.file().display());
        }
        Ok(served)
    }
}

/// The disk, served in some way.
pub(crate) struct Served {
    file: PathBuf,
    pid: Option<u32>,
    _keeper: Keeper,
}

impl Served {
    /// As which file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// By which process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid
    }
}

/// Takes down what serves it, by being dropped.
enum Keeper {
    Nobody,
    Ioband { _mount: crate::mount::Mount },
    Daemon { _daemon: others::Daemon },
}
