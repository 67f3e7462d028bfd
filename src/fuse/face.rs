//! fuser's operations on the tree: everything but the bytes of images.

use super::handles::Handle;
use super::tree::{Node, Tree};
use crate::classify::Callers;
use crate::control::{Control, Events};
use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, Generation, INodeNo, InitFlags, KernelConfig, OpenFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
};
use slab::Slab;
use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::time::{Duration, SystemTime};

/// How long the kernel may answer for us. Attributes of images change by chmod and the like only, which the kernel
/// sees; control files change all the time.
const TTL: Duration = Duration::from_secs(1);
const NO_TTL: Duration = Duration::ZERO;
const GENERATION: Generation = Generation(0);
/// The limits are ours to set (share rules R6, R8), so the kernel is to set none.
const MOST_BACKGROUND: u16 = u16::MAX;

/// Work that may wait for the device for metadata.
pub(super) type SlowWork = Box<dyn FnOnce() + Send>;

/// What a mount shows, and who looks at it: for fuser, and for the threads that serve data.
#[derive(Debug)]
pub struct Face {
    pub(super) tree: Tree,
    pub(super) callers: Callers,
    pub(super) handles: RwLock<Slab<Arc<Handle>>>,
    /// A thread of its own for what may wait: requests are read by threads that must not.
    pub(super) slow: mpsc::Sender<SlowWork>,
}

impl Face {
    /// A filesystem that shows `tree` and tells callers apart with `callers`.
    ///
    /// # Errors
    /// When its helper thread cannot be started.
    pub fn new(tree: Tree, callers: Callers) -> io::Result<Self> {
        let (slow, work) = mpsc::channel::<SlowWork>();
        std::thread::Builder::new()
            .name("slow-lane".into())
            .spawn(move || work.into_iter().for_each(|f| f()))?;
        Ok(Self { tree, callers, handles: RwLock::new(Slab::new()), slow })
    }

    /// The control files of the mount.
    pub fn control(&self) -> &Control {
        &self.tree.control
    }

    pub(super) fn events(&self) -> &Events {
        self.tree.control.events()
    }

    pub(super) fn remember(&self, handle: Handle) -> FileHandle {
        let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
        FileHandle(handles.insert(Arc::new(handle)) as u64)
    }

    pub(super) fn handle(&self, fh: FileHandle) -> Option<Arc<Handle>> {
        let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
        handles.get(usize::try_from(fh.0).ok()?).cloned()
    }

    fn ttl(node: &Node) -> Duration {
        if matches!(node, Node::ControlFile(_)) { NO_TTL } else { TTL }
    }

    /// Entries of a folder from `offset` on, with `.` and `..`, until `add` says that the buffer is full.
    fn list(
        &self,
        ino: INodeNo,
        offset: u64,
        mut add: impl FnMut(u64, &str, &FileAttr) -> bool,
    ) -> Result<(), Errno> {
        let folder = self.tree.node(ino).ok_or(Errno::ESTALE)?;
        let entries = self.tree.entries(&folder).ok_or(Errno::ENOTDIR)?;
        let (this, root) = (self.tree.attr(&folder), self.tree.attr(&Node::Root));
        let named = entries.iter().map(|entry| (entry.name.as_str(), &entry.attr));
        let all = [(".", &this), ("..", &root)].into_iter().chain(named);
        for (index, (name, attr)) in (1..).zip(all).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if add(index, name, attr) {
                break;
            }
        }
        Ok(())
    }

    fn refuse_new_name(&self, name: &OsStr) -> Errno {
        self.events().add(&format!(
            "refused: making, renaming or removing {:?}: images come from the configuration",
            name.to_string_lossy()
        ));
        Errno::EPERM
    }
}

/// The filesystem as fuser sees it.
pub(super) struct Metadata {
    pub(super) face: Arc<Face>,
    /// Largest request, in bytes.
    pub(super) largest: u32,
    /// Requests are to come by io_uring.
    pub(super) over_io_uring: bool,
}

impl std::ops::Deref for Metadata {
    type Target = Face;

    fn deref(&self) -> &Face {
        &self.face
    }
}

impl Filesystem for Metadata {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // ASYNC_DIO: without it a caller's queue depth of 32 arrives as 1. ATOMIC_O_TRUNC: we, not a setattr that
        // follows, say what truncating an image means. Not wanted: WRITEBACK_CACHE and DIRECT_IO_ALLOW_MMAP (both make
        // the kernel write on nobody's behalf), POSIX_LOCKS and FLOCK_LOCKS (without them the kernel keeps locks by
        // itself, OFD locks included, and they outlive us).
        for wanted in [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
        ] {
            if let Err(missing) = config.add_capabilities(wanted) {
                tracing::warn!(?missing, "the kernel does not offer a FUSE capability");
            }
        }
        if self.over_io_uring {
            config
                .add_capabilities(InitFlags::FUSE_OVER_IO_URING)
                .map_err(|_| io::Error::other("the kernel does not offer FUSE over io_uring any more"))?;
        }
        // Nothing is read ahead of direct I/O; but fuser takes it as a size of requests, for which there must be room.
        for (set, what) in [
            (KernelConfig::set_max_write as fn(&mut _, _) -> _, "largest write"),
            (KernelConfig::set_max_readahead, "read-ahead"),
        ] {
            if let Err(nearest) = set(config, self.largest) {
                tracing::debug!(nearest, "the kernel has another {what}");
            }
        }
        // Everybody's asynchronous requests pass one FIFO of this length before we see them. A short one lets the
        // slowest group hold up all others before any weight can act.
        for set in [KernelConfig::set_max_background, KernelConfig::set_congestion_threshold] {
            if let Err(nearest) = set(config, MOST_BACKGROUND) {
                tracing::warn!(nearest, "the kernel does not take the background limit");
            }
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.tree.lookup(parent, name) {
            Some(node) => reply.entry(&Face::ttl(&node), &self.tree.attr(&node), GENERATION),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.tree.node(ino) {
            Some(node) => reply.attr(&Face::ttl(&node), &self.tree.attr(&node)),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some(node) = self.tree.image(ino) else { return reply.error(Errno::EPERM) };
        if size.is_some_and(|size| size != node.image.size()) {
            self.events().add(&format!(
                "refused: changing the size of {}: it is fixed by the configuration (to overwrite an image use \
                 `dd conv=notrunc`, `qemu-img convert -n` or the like)",
                node.image.name()
            ));
            return reply.error(Errno::EPERM);
        }
        let now = crate::clock::wall();
        let time = |t| match t {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => now,
        };
        let mut meta = node.meta();
        // That the caller may do this the kernel has checked (default_permissions).
        meta.mode = mode.map_or(meta.mode, |mode| (mode & 0o777) as u16);
        meta.uid = uid.unwrap_or(meta.uid);
        meta.gid = gid.unwrap_or(meta.gid);
        meta.atime = atime.map_or(meta.atime, time);
        meta.mtime = mtime.map_or(meta.mtime, time);
        meta.ctime = ctime.unwrap_or(now);
        drop(meta);
        reply.attr(&TTL, &node.attr());
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_node(req, ino, flags) {
            Ok((fh, flags)) => reply.opened(fh, flags),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<fuser::LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
        if let Ok(index) = usize::try_from(fh.0) {
            handles.try_remove(index);
        }
        drop(handles);
        reply.ok();
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<fuser::LockOwner>,
        reply: ReplyData,
    ) {
        self.read_text(fh, offset, size, reply);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: fuser::WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<fuser::LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EPERM);
    }

    fn flush(&self, _req: &Request, _: INodeNo, _: FileHandle, _: fuser::LockOwner, reply: ReplyEmpty) {
        // A close makes nothing durable, as with a block device; that is what fsync is for. Told so, the kernel
        // never asks again.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.tree.image(ino) {
            Some(node) => self.seek_image(node, offset, whence, reply),
            None => reply.error(Errno::EINVAL),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.list(ino, offset, |index, name, attr| reply.add(attr.ino, index, attr.kind, name)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        // Attributes of control files are dear (their size is that of their text) and seldom wanted: NO_TTL.
        match self.list(ino, offset, |index, name, attr| {
            reply.add(attr.ino, index, name, &NO_TTL, attr, GENERATION)
        }) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u32 = 4096;
        // Read-only images may overlap, so the sum has no bound.
        let sizes = self.tree.images().iter().map(|node| node.image.size());
        let size = sizes.fold(0, u64::saturating_add);
        let files = self.tree.images().len() as u64;
        // Nothing can be made here, so nothing is free.
        reply.statfs(size / u64::from(BLOCK), 0, 0, files, 0, BLOCK, 255, BLOCK);
    }

    fn create(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(self.refuse_new_name(name));
    }

    fn mknod(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(self.refuse_new_name(name));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(self.refuse_new_name(name));
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse_new_name(name));
    }

    fn rmdir(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse_new_name(name));
    }

    fn symlink(&self, _: &Request, _: INodeNo, name: &OsStr, _: &std::path::Path, reply: ReplyEntry) {
        reply.error(self.refuse_new_name(name));
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply.error(self.refuse_new_name(name));
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refuse_new_name(name));
    }

    // The rest says "not here" once, and the kernel does not ask again.

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: fuser::ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::PollNotifier,
        _: fuser::PollEvents,
        _: fuser::PollFlags,
        reply: fuser::ReplyPoll,
    ) {
        // An image can always be read and written, which is what the kernel then says.
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel then copies by reading and writing, which is charged as such.
        reply.error(Errno::ENOSYS);
    }
}
