//! fuser's operations: everything but the bytes of images.

use super::face::{Face, GENERATION, TTL};
use super::tree::Node;
use super::wire::AGAIN;
use crate::control::Asked;
use fuser::{
    Errno, FileHandle, Filesystem, INodeNo, InitFlags, KernelConfig, OpenFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
};
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

/// The limits are ours to set (share rules R6, R8), so the kernel is to set none.
pub(super) const MOST_BACKGROUND: u16 = u16::MAX;

/// The number of a request, and whether it is sent again.
pub(super) fn asked(req: &Request) -> Asked {
    let unique = req.unique().0;
    Asked { unique: unique & !AGAIN, again: unique & AGAIN != 0, uid: req.uid() }
}

/// What a caller wants to have changed about a file.
pub(super) struct Wish {
    /// The thread whose wish it is.
    pub(super) thread: u32,
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) atime: Option<TimeOrNow>,
    pub(super) mtime: Option<TimeOrNow>,
    pub(super) ctime: Option<SystemTime>,
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
        match self.look_up(parent, name) {
            Some(node) => reply.entry(&TTL, &self.attr(&node), GENERATION),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(ino) {
            Some(node) => reply.attr(&TTL, &self.attr(&node)),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some(node) = self.node(ino) else { return reply.error(Errno::ESTALE) };
        let wish = Wish { thread: req.pid(), mode, uid, gid, size, atime, mtime, ctime };
        match self.set_attr(&node, wish, fh) {
            Ok(()) => reply.attr(&TTL, &self.attr(&node)),
            Err(errno) => reply.error(errno),
        }
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
        self.close(fh);
        reply.ok();
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<fuser::LockOwner>,
        reply: ReplyData,
    ) {
        self.read_control(fh, offset, size as usize, asked(req), reply);
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: fuser::WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<fuser::LockOwner>,
        reply: ReplyWrite,
    ) {
        let append = flags.0 & libc::O_APPEND != 0;
        self.write_control(fh, (!append).then_some(offset), data, (req.pid(), asked(req)), reply);
    }

    fn flush(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: fuser::LockOwner,
        reply: ReplyEmpty,
    ) {
        // A close makes nothing durable, as with a block device; that is what fsync is for. But what was written to the
        // configuration is put in force.
        self.commit(fh, Some(req.pid()), asked(req), reply);
    }

    fn fsync(&self, req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.commit(fh, None, asked(req), reply);
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(if self.is_lost_image(fh) { Errno::EIO } else { Errno::EOPNOTSUPP });
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.node(ino) {
            Some(Node::Image(node)) => self.seek_image(&node, offset, whence, reply),
            _ if self.is_lost_image(fh) => reply.error(Errno::EIO),
            _ => reply.error(Errno::EINVAL),
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
        match self
            .list(ino, offset, |index, name, attr| reply.add(attr.ino, index, name, &TTL, attr, GENERATION))
        {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u32 = 4096;
        // Read-only images may overlap, so the sum has no bound.
        let tree = self.tree.load();
        let sizes = tree.images().iter().map(|node| node.image.size());
        let size = sizes.fold(0, u64::saturating_add);
        let files = tree.images().len() as u64;
        // Nothing can be made here, so nothing is free.
        reply.statfs(size / u64::from(BLOCK), 0, 0, files, 0, BLOCK, 255, BLOCK);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.create_control(req, (parent, name), mode & !umask, OpenFlags(flags)) {
            Ok((node, fh, opened)) => reply.created(&TTL, &self.attr(&node), GENERATION, fh, opened),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return reply.error(self.refuse_new_name(name));
        }
        match self.make_scratch(req, parent, name, mode & !umask) {
            Ok(file) => reply.entry(&TTL, &file.attr(), GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(self.refuse_new_name(name));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.unlink_control(parent, name, asked(req)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
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
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.rename_control(req, (parent, name), (new_parent, new_name), flags, reply);
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
        fh: FileHandle,
        notifier: fuser::PollNotifier,
        _: fuser::PollEvents,
        flags: fuser::PollFlags,
        reply: fuser::ReplyPoll,
    ) {
        let wants_word = flags.contains(fuser::PollFlags::FUSE_POLL_SCHEDULE_NOTIFY);
        reply.poll(self.poll_control(fh, wants_word.then_some(notifier)));
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
