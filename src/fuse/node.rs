//! An image as a file: its inode number, its attributes, and how often it is open.

use crate::clock;
use crate::control::{Access, ImageEntry, ImageLine, OrphanEntry};
use crate::engine::{Engine, Image};
use crate::units::Bytes;
use fuser::{FileAttr, FileType, INodeNo};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Image inode numbers have this bit, so that they never meet others.
pub(super) const IMAGE_BIT: u64 = 1 << 62;
/// What tools take as the best size of a request.
const BLOCK_SIZE: u32 = 4096;
/// Stands for the number of open files while nobody may open it.
const SEALED: i64 = -1;

/// An image as a file.
#[derive(Debug)]
pub struct ImageNode {
    /// Its inode number.
    pub ino: INodeNo,
    /// What it is.
    pub image: Arc<Image>,
    /// Its ioband device.
    pub device: Arc<str>,
    /// The disk it is on.
    pub engine: Arc<Engine>,
    /// Writes are refused.
    pub read_only: bool,
    meta: Mutex<Meta>,
    opens: AtomicI64,
    removed: AtomicBool,
}

/// What chmod, chown and utimes change. It belongs to the mount and ends with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) atime: SystemTime,
    pub(super) mtime: SystemTime,
    pub(super) ctime: SystemTime,
    /// It was changed since the configuration said what it is.
    pub(super) changed: bool,
}

impl ImageNode {
    /// An image with its owner and mode. `taken` says which inode numbers stand for other images of the same name that somebody
    /// may have open.
    pub fn new(
        image: Arc<Image>,
        device: Arc<str>,
        engine: Arc<Engine>,
        read_only: bool,
        owner: (u32, u32),
        mode: u16,
        taken: impl Fn(INodeNo) -> bool,
    ) -> Self {
        let now = clock::wall();
        let meta =
            Meta { mode, uid: owner.0, gid: owner.1, atime: now, mtime: now, ctime: now, changed: false };
        let numbers = (0..=u8::MAX).map(|life| inode_of(image.name(), life));
        // Each number that is taken belongs to an open image, of which there are not that many.
        let ino = numbers.into_iter().find(|ino| !taken(*ino)).unwrap_or(INodeNo(IMAGE_BIT));
        Self {
            ino,
            image,
            device,
            engine,
            read_only,
            meta: Mutex::new(meta),
            opens: AtomicI64::new(0),
            removed: AtomicBool::new(false),
        }
    }

    pub(super) fn meta(&self) -> MutexGuard<'_, Meta> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it another owner and mode.
    pub fn give_to(&self, (uid, gid): (u32, u32), mode: u16) {
        let mut meta = self.meta();
        (meta.uid, meta.gid, meta.mode, meta.ctime) = (uid, gid, mode, clock::wall());
        meta.changed = false;
    }

    /// Notes that it was written to.
    pub(super) fn touch(&self, now: SystemTime) {
        self.meta().mtime = now;
    }

    /// Somebody opens it; false if it is just being exchanged for another.
    #[must_use = "who is let in closes it"]
    pub fn open(&self) -> bool {
        let more = |opens: i64| (opens != SEALED).then_some(opens + 1);
        self.opens.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// One of those who opened it has closed it.
    pub(super) fn close(&self) {
        self.opens.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many files of it are open.
    pub fn opens(&self) -> u64 {
        u64::try_from(self.opens.load(Ordering::Acquire)).unwrap_or(0)
    }

    /// From now on nobody can open it.
    ///
    /// # Errors
    /// How many files of it are open, if there are any; then nothing is changed.
    pub fn seal(&self) -> Result<(), u64> {
        match self.opens.compare_exchange(0, SEALED, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(SEALED) => Ok(()),
            Err(opens) => Err(opens.unsigned_abs()),
        }
    }

    /// Takes [`ImageNode::seal`] back.
    pub fn unseal(&self) {
        // Fails where it was not sealed, which is just as well.
        let _ = self.opens.compare_exchange(SEALED, 0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether the configuration does not have it any more: it is there for who has it open, and for nobody else.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// It was taken out of the configuration, or is in it again.
    pub fn set_removed(&self, removed: bool) {
        self.removed.store(removed, Ordering::Release);
    }

    /// The inode number of an image of that name, unless that was taken.
    pub fn first_number(name: &str) -> u64 {
        inode_of(name, 0).0
    }

    /// The same image as it was with a predecessor.
    pub fn go_on(self, ino: u64, access: Option<Access>) -> Self {
        if let Some(Access { mode, owner: (uid, gid), atime, mtime, ctime }) = access {
            let (atime, mtime, ctime) = (atime.into(), mtime.into(), ctime.into());
            *self.meta() = Meta { mode, uid, gid, atime, mtime, ctime, changed: true };
        }
        Self { ino: INodeNo(ino), ..self }
    }

    fn access(&self) -> Access {
        let Meta { mode, uid, gid, atime, mtime, ctime, .. } = *self.meta();
        Access { mode, owner: (uid, gid), atime: atime.into(), mtime: mtime.into(), ctime: ctime.into() }
    }

    /// What a successor must know of it beyond the configuration, if there is anything.
    pub(super) fn entry(&self) -> Option<ImageEntry> {
        let changed = self.meta().changed;
        let unlike = changed || self.ino.0 != Self::first_number(self.image.name());
        unlike.then(|| ImageEntry {
            name: self.image.name().to_owned(),
            ino: self.ino.0,
            access: changed.then(|| self.access()),
        })
    }

    /// All that a successor must know of it, where the configuration does not have it.
    pub(super) fn orphan(&self) -> OrphanEntry {
        OrphanEntry {
            name: self.image.name().to_owned(),
            ino: self.ino.0,
            device: self.device.to_string(),
            extents: self.image.extents().iter().map(|extent| (extent.offset.0, extent.size.0)).collect(),
            read_only: self.read_only,
            access: self.access(),
        }
    }

    /// As `ls` shows it.
    pub fn line(&self) -> ImageLine {
        let meta = *self.meta();
        ImageLine {
            name: self.image.name().to_owned(),
            size: Bytes(self.image.size()),
            read_only: self.read_only,
            mode: meta.mode,
            owner: (meta.uid, meta.gid),
            opens: self.opens(),
        }
    }

    pub(super) fn attr(&self) -> FileAttr {
        let meta = *self.meta();
        FileAttr {
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            nlink: if self.is_removed() { 0 } else { 1 },
            ..file_attr(self.ino, self.image.size(), meta.mode, (meta.uid, meta.gid), meta.ctime)
        }
    }
}

/// The inode number of an image follows from its name, so that it is the same in the next daemon: FNV-1a. An image that was
/// removed and is still open keeps its number; the next one of that name has another life, and another number.
fn inode_of(name: &str, life: u8) -> INodeNo {
    INodeNo(name_hash(name, life) >> 2 | IMAGE_BIT)
}

/// A number for a name.
pub(super) fn name_hash(name: &str, salt: u8) -> u64 {
    let bytes = name.bytes().chain((salt > 0).then_some(0)).chain((salt > 0).then_some(salt));
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

pub(super) fn folder_attr(ino: INodeNo, perm: u16, owner: (u32, u32), time: SystemTime) -> FileAttr {
    attr(ino, FileType::Directory, perm, owner, time)
}

pub(super) fn file_attr(ino: INodeNo, size: u64, perm: u16, owner: (u32, u32), time: SystemTime) -> FileAttr {
    FileAttr { size, blocks: size.div_ceil(512), ..attr(ino, FileType::RegularFile, perm, owner, time) }
}

fn attr(ino: INodeNo, kind: FileType, perm: u16, (uid, gid): (u32, u32), time: SystemTime) -> FileAttr {
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: if kind == FileType::Directory { 2 } else { 1 },
        uid,
        gid,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}
