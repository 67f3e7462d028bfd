//! Opening a target: what is refused, in words, and how far it is kept from others.

use super::buffer::PAGE;
use super::kernel::{self, kind};
use super::mark::Mark;
use super::medium::{Alignment, Medium};
use super::target::{Kind, Target};
use super::users;
use crate::clock::Clock;
use crate::units::Bytes;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long to wait before somebody who is waited for is asked again.
const PAUSE: Duration = Duration::from_millis(1);

/// How to open a [`Target`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// Only reads will be asked for; a medium that cannot be written can be opened.
    pub read_only: bool,
    /// How long to wait for who has it, if somebody has: the last writes of a process that was killed land after its end, and
    /// until then the disk is not let go. None = not at all.
    pub patience: Option<Duration>,
}

/// Why a target could not be opened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the sentences say it")]
pub enum OpenError {
    #[error("{path} does not exist; a regular file is created if a size is given for it")]
    Missing { path: PathBuf, source: io::Error },
    #[error("{path} exists already, so it is not created; leave out the size to use it as it is")]
    Exists { path: PathBuf, source: io::Error },
    #[error("{path} is {what}; a disk is a block device or a regular file")]
    NotADisk { path: PathBuf, what: &'static str },
    #[error("{path} is in use: {by}; a device is shared only if nothing else uses it directly")]
    InUse { path: PathBuf, by: String, source: io::Error },
    #[error("{path} is locked by another process, perhaps another ioband; a file is served by one at a time")]
    Locked { path: PathBuf, source: io::Error },
    #[error(
        "at {path} is another disk than was there, or one that does not say which it is; `ioband message DEVICE 0 reopen` takes it if it is the right one"
    )]
    Another { path: PathBuf },
    #[error("{path} has {size}, but {wanted} are used")]
    TooSmall { path: PathBuf, size: Bytes, wanted: Bytes },
    #[error("{path} cannot be opened for {access}: {source}")]
    Denied { path: PathBuf, access: &'static str, source: io::Error },
    #[error("{path}: {action} failed: {source}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
}

impl OpenError {
    /// The errno that says the same.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotADisk { .. } => libc::ENOTBLK,
            Self::Another { .. } => libc::EMEDIUMTYPE,
            Self::TooSmall { .. } => libc::ENOSPC,
            Self::Missing { source, .. }
            | Self::Exists { source, .. }
            | Self::InUse { source, .. }
            | Self::Locked { source, .. }
            | Self::Denied { source, .. }
            | Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

impl Target {
    /// Opens `path`; with `create`, first makes it as a sparse file of that size (it must not exist yet, and is
    /// removed again if anything fails). An empty file is one that somebody has begun to make, and has not given its size.
    pub fn open(path: &Path, create: Option<Bytes>, mode: OpenMode) -> Result<Target, OpenError> {
        let Some(size) = create else { return Self::open_existing(path, mode) };
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let is_new = made.is_ok();
        let file = match made {
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                begun(path).ok_or_else(|| OpenError::Exists { path: path.to_owned(), source })?
            }
            made => made.map_err(|source| failed(path, "creating the file", source))?,
        };
        let made = file.metadata().ok().map(|seen| Mark::of(&seen));
        let sized =
            file.set_len(size.0).map_err(|source| failed(path, "giving the new file its size", source));
        drop(file);
        sized.and_then(|()| Self::open_existing(path, mode)).inspect_err(|error| {
            // Somebody who was quick enough to lock it keeps it, or to put his own in its place, and what was there stays.
            let is_there = made.is_some_and(|made| Medium::mark_at(path).is_ok_and(|there| there.is(&made)));
            if is_new && is_there && !matches!(error, OpenError::Locked { .. }) {
                // The first error is the one to tell.
                let _ = std::fs::remove_file(path);
            }
        })
    }

    fn open_existing(path: &Path, mode: OpenMode) -> Result<Target, OpenError> {
        let medium = Medium::open_patiently(path, mode, None)?;
        let size = medium.size_now().map_err(|source| failed(path, "asking for its size", source))?;
        Ok(Target::new(path, size, mode.read_only, Some(medium)))
    }

    /// What a successor opens: what its predecessor had at `path`, of `size` bytes, or nothing as yet. It must go on whatever
    /// has become of the disk, and must not write to another one: with a `mark`, what is there has to be known as that.
    pub fn open_or_missing(path: &Path, size: Bytes, mark: Option<&Mark>, mode: OpenMode) -> Target {
        let target = Target::missing(path, size, mark, mode.read_only);
        target.find(mode.patience);
        target
    }

    /// The same before anybody has looked: it is missing, and awaited until [`Target::find`] has.
    pub fn missing(path: &Path, size: Bytes, mark: Option<&Mark>, read_only: bool) -> Target {
        let target = Target::new(path, size.0, read_only, None);
        *target.last_mark() = mark.cloned();
        if mark.is_some() && !read_only {
            // By a predecessor, maybe, and nobody knows whether that is durable.
            target.health.wrote();
        }
        target.awaited.store(true, Ordering::Release);
        target
    }

    /// Opens for the first time what is missing. It is awaited no longer, unless somebody has it. May take its time.
    pub fn find(&self, patience: Option<Duration>) {
        let found = self.take_known(patience);
        let in_use = matches!(found, Err(OpenError::InUse { .. } | OpenError::Locked { .. }));
        self.awaited.store(in_use, Ordering::Release);
        if let Err(error) = found {
            tracing::warn!(path = %self.path.display(), %error, "a device is missing");
        }
    }

    /// Looks whether it has to be opened again, and does so: it was missing, or another device is at its path by now, which
    /// is known to be the same disk. True if it is on something else now. Opening may take its time.
    ///
    /// # Errors
    /// Why there is nothing to open: another disk is at its path, which only [`Target::reopen`] takes, or none is.
    pub fn come_back(&self) -> Result<bool, OpenError> {
        let there = Medium::mark_at(&self.path)?;
        if !self.is_missing() && self.mark().is_some_and(|known| there.is(&known)) {
            return Ok(false);
        }
        self.take_known(None).inspect_err(|error| {
            // Whoever has that one will not let go of the one that was.
            if matches!(error, OpenError::Another { .. }) {
                self.give_up();
            }
        })?;
        Ok(true)
    }

    /// Goes on with what is at its path now, whatever that is, if it is large enough. Requests that are with the old one
    /// end there.
    ///
    /// # Errors
    /// Why not; everything stays as it is.
    pub fn reopen(&self) -> Result<(), OpenError> {
        let mode = OpenMode { read_only: self.read_only, patience: None };
        let there = Medium::mark_at(&self.path)?;
        if !self.is_missing() && self.mark().is_some_and(|known| there.is(&known)) {
            // It is open, by us; a second time it could not be.
            return Ok(());
        }
        self.take(Medium::open(&self.path, mode, None)?)
    }

    /// Goes on with what is at its path now, if that is known as what it was.
    fn take_known(&self, patience: Option<Duration>) -> Result<(), OpenError> {
        let mode = OpenMode { read_only: self.read_only, patience };
        self.take(Medium::open_patiently(&self.path, mode, self.mark().as_ref())?)
    }

    /// Is on this from now on.
    fn take(&self, medium: Medium) -> Result<(), OpenError> {
        let size = medium.size_now().map_err(|source| failed(&self.path, "asking for its size", source))?;
        if size < self.size().0 {
            let (path, wanted) = (self.path.clone(), self.size());
            return Err(OpenError::TooSmall { path, size: Bytes(size), wanted });
        }
        let was = self.last_mark().replace(medium.mark.clone());
        let is_that = was.is_some_and(|was| medium.mark.is(&was));
        if !is_that {
            // Before anything can be made durable there, which would say nothing of what was written before.
            self.health.renewed();
        }
        self.medium.store(Some(Arc::new(medium)));
        // Whoever has found it: nobody looks for it from now on, so nobody else would say so.
        self.give_up();
        if is_that {
            self.health.found();
        } else {
            self.health.renewed();
        }
        Ok(())
    }
}

/// A regular file without a byte, to be written to.
fn begun(path: &Path) -> Option<File> {
    let is_begun = |seen: &Metadata| seen.is_file() && seen.len() == 0;
    // Looked at before it is opened: opening a pipe can block.
    std::fs::metadata(path).ok().filter(is_begun)?;
    let file = OpenOptions::new().write(true).open(path).ok()?;
    file.metadata().is_ok_and(|seen| is_begun(&seen)).then_some(file)
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), action, source }
}

impl Medium {
    /// What is at a path, without opening it.
    fn mark_at(path: &Path) -> Result<Mark, OpenError> {
        match std::fs::metadata(path) {
            Ok(seen) => Ok(Mark::of(&seen)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                Err(OpenError::Missing { path: path.to_owned(), source })
            }
            Err(source) => Err(failed(path, "looking at it", source)),
        }
    }

    /// Opens it, and waits as long as `mode` says for somebody else to let go of it.
    fn open_patiently(path: &Path, mode: OpenMode, known: Option<&Mark>) -> Result<Medium, OpenError> {
        let (clock, patience) = (Clock::start(), mode.patience.unwrap_or_default());
        while Duration::from(clock.now()) < patience {
            match Self::try_open(path, mode, known) {
                Err(OpenError::InUse { .. } | OpenError::Locked { .. }) => std::thread::sleep(PAUSE),
                opened => return opened,
            }
        }
        Self::open(path, mode, known)
    }

    /// Opens it, or says who uses it.
    fn open(path: &Path, mode: OpenMode, known: Option<&Mark>) -> Result<Medium, OpenError> {
        Self::try_open(path, mode, known).map_err(|error| match error {
            OpenError::InUse { path, source, .. } => {
                let number = std::fs::metadata(&path).map_or((0, 0), |seen| kernel::split(seen.rdev()));
                OpenError::InUse { path, by: users::of_device(number), source }
            }
            error => error,
        })
    }

    /// Opens it. With a mark to be `known` as, another disk is refused: before it is opened, which would keep its owner from it,
    /// and after that, since its name may have got to another one in between.
    fn try_open(path: &Path, mode: OpenMode, known: Option<&Mark>) -> Result<Medium, OpenError> {
        let is_known = |there: &Mark| match known {
            Some(known) if !there.is_known_as(known) => Err(OpenError::Another { path: path.to_owned() }),
            _ => Ok(()),
        };
        let failed = |action, source| failed(path, action, source);
        let refused = |source: io::Error| match source.raw_os_error() {
            Some(libc::ENOENT) => OpenError::Missing { path: path.to_owned(), source },
            Some(libc::EBUSY) => OpenError::InUse { path: path.to_owned(), by: String::new(), source },
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
                let access = if mode.read_only { "reading" } else { "writing" };
                OpenError::Denied { path: path.to_owned(), access, source }
            }
            _ => failed("opening", source),
        };
        // Looked at before it is opened: opening a pipe or a tape can block or do things.
        let seen = std::fs::metadata(path).map_err(refused)?;
        let flags = match kind(&seen) {
            Kind::Block => libc::O_DIRECT | libc::O_EXCL,
            Kind::File => 0,
            Kind::Other(what) => return Err(OpenError::NotADisk { path: path.to_owned(), what }),
        };
        // Only where it matters: to say what a loop device is, what is below it is asked, which may hang.
        if known.is_some() {
            is_known(&Mark::of(&seen))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(!mode.read_only)
            .custom_flags(flags | libc::O_NONBLOCK)
            .open(path)
            .map_err(refused)?;
        let opened = file.metadata().map_err(|source| failed("looking at it", source))?;
        let exchanged =
            || failed("opening (it was exchanged meanwhile)", io::Error::from_raw_os_error(libc::EAGAIN));
        if kind(&opened) != kind(&seen) || opened.rdev() != seen.rdev() {
            return Err(exchanged());
        }
        // What is open cannot be exchanged.
        let mark = Mark::of(&opened);
        is_known(&mark)?;
        // O_NONBLOCK was for the opening only; io_uring would take it for the wish not to wait for the device.
        let flags = kernel::status_flags(&file).map_err(|source| failed("reading its flags", source))?;
        kernel::set_flags(&file, flags - OFlag::O_NONBLOCK)
            .map_err(|source| failed("setting its flags", source))?;

        let medium = Medium {
            mark,
            number: None,
            alignment: Alignment { block: 1, memory: 1 },
            direct: false,
            remote: kernel::is_remote(&file),
            no_discard: AtomicBool::new(false),
            no_write_zeroes: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            file,
        };
        if kind(&opened) == Kind::Block {
            let alignment = match kernel::direct_alignment(&medium.file) {
                Some(alignment) if alignment.block > 0 => alignment,
                _ => {
                    let block = kernel::logical_block_size(&medium.file)
                        .map_err(|source| failed("asking for its block size", source))?;
                    Alignment { block, memory: PAGE as u32 }
                }
            };
            let number = Some(kernel::split(opened.rdev()));
            Ok(Medium { number, alignment, direct: true, remote: false, ..medium })
        } else {
            medium.lock(path)?;
            // Whoever had it may have put another one in its place before he let go.
            let there = Self::mark_at(path)?;
            if !there.is(&medium.mark) {
                is_known(&there)?;
                return Err(exchanged());
            }
            Ok(medium.try_direct(path, flags, opened.len()))
        }
    }

    fn lock(&self, path: &Path) -> Result<(), OpenError> {
        // SAFETY: flock only takes the descriptor, which `self.file` keeps open. (nix's safe wrapper wants to
        // own the file and to unlock it when dropped; closing it does that by itself.)
        let result = unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        Errno::result(result).map(drop).map_err(|errno| match errno {
            Errno::EWOULDBLOCK => OpenError::Locked { path: path.to_owned(), source: errno.into() },
            _ => failed(path, "locking", errno.into()),
        })
    }

    /// Switches a regular file to direct I/O if that is possible without ever growing it.
    fn try_direct(mut self, path: &Path, flags: OFlag, size: u64) -> Self {
        // Where statx does not say, a page is enough for almost everybody.
        let Alignment { block, memory } = kernel::direct_alignment(&self.file)
            .unwrap_or(Alignment { block: PAGE as u32, memory: PAGE as u32 });
        let why = if block == 0 {
            "its filesystem cannot do direct I/O".to_owned()
        } else if !size.is_multiple_of(block.into()) {
            format!("its size is no multiple of {block} bytes")
        } else if let Err(error) =
            kernel::set_flags(&self.file, (flags - OFlag::O_NONBLOCK) | OFlag::O_DIRECT)
        {
            format!("its filesystem cannot do direct I/O ({error})")
        } else {
            (self.alignment, self.direct) = (Alignment { block, memory }, true);
            return self;
        };
        tracing::warn!(path = %path.display(), "this file goes through the page cache, because {why}");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_somebody_has_begun_to_make_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let [disk, other] = ["disk", "other"].map(|name| folder.path().join(name));
        std::fs::write(&disk, "").unwrap();
        let target = Target::open(&disk, Some(Bytes(4096)), OpenMode::default()).unwrap();
        assert_eq!((target.size(), disk.metadata().unwrap().len()), (Bytes(4096), 4096));
        // One that holds anything is not touched, and one that was there is not removed.
        let again = Target::open(&disk, Some(Bytes(8192)), OpenMode::default());
        assert!(matches!(again, Err(OpenError::Exists { .. })));
        std::fs::write(&other, "").unwrap();
        Target::open(&other, Some(Bytes(u64::MAX)), OpenMode::default()).unwrap_err();
        assert!(other.exists());
    }

    #[test]
    fn what_is_opened_is_what_was_known() {
        let folder = tempfile::tempdir().unwrap();
        let [disk, other] = ["disk", "other"].map(|name| folder.path().join(name));
        let size = Bytes(4096);
        let target = Target::open(&disk, Some(size), OpenMode::default()).unwrap();
        let mark = target.mark();
        // Somebody has it, and it is exchanged while he is waited for.
        let patient = OpenMode { patience: Some(Duration::from_secs(60)), ..OpenMode::default() };
        let waiting = std::thread::spawn({
            let (disk, mark) = (disk.clone(), mark.clone());
            move || Target::open_or_missing(&disk, size, mark.as_ref(), patient)
        });
        std::fs::write(&other, [0; 4096]).unwrap();
        std::fs::rename(&other, &disk).unwrap();
        drop(target);
        let successor = waiting.join().unwrap();
        assert!(successor.is_missing() && !successor.is_awaited());
        assert!(matches!(successor.come_back(), Err(OpenError::Another { .. })));
        // Unless somebody says that it is right.
        successor.reopen().unwrap();
        assert!(!successor.is_missing() && successor.mark() != mark);
        assert_eq!(successor.lost(), 1, "what the predecessor wrote");
    }

    #[test]
    fn what_a_predecessor_wrote_is_lost_with_what_it_was_on() {
        let folder = tempfile::tempdir().unwrap();
        let [disk, other] = ["disk", "other"].map(|name| folder.path().join(name));
        let size = Bytes(4096);
        let mark = Target::open(&disk, Some(size), OpenMode::default()).unwrap().mark();
        // It is there, as after every death.
        let successor = Target::open_or_missing(&disk, size, mark.as_ref(), OpenMode::default());
        assert!(!successor.is_missing());
        assert_eq!(successor.lost(), 0);
        std::fs::write(&other, [0; 4096]).unwrap();
        std::fs::rename(&other, &disk).unwrap();
        successor.reopen().unwrap();
        assert_eq!(successor.lost(), 1);
    }

    #[test]
    fn what_has_come_or_is_another_is_not_awaited() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let size = Bytes(4096);
        let old = Target::open(&path, Some(size), OpenMode::default()).unwrap();
        let known = old.mark().unwrap();
        let [waits, told] = [(); 2].map(|()| Target::missing(&path, size, Some(&known), false));
        assert!(matches!(waits.come_back(), Err(OpenError::Locked { .. })) && waits.is_awaited());
        std::fs::rename(&path, folder.path().join("aside")).unwrap();
        assert!(matches!(waits.come_back(), Err(OpenError::Missing { .. })) && waits.is_awaited());
        std::fs::write(&path, [0; 4096]).unwrap();
        assert!(matches!(waits.come_back(), Err(OpenError::Another { .. })) && !waits.is_awaited());
        // Somebody says that it is right, before anybody else has looked.
        told.reopen().unwrap();
        assert!(!told.is_missing() && !told.is_awaited());
    }
}
