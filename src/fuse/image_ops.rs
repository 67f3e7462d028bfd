//! Operations on images: from a FUSE request to the engine of the disk.

use super::face::Face;
use super::reply::{EmptyReply, ReadReply, WriteReply, errno};
use super::tree::{ImageNode, Node};
use crate::classify::{Identity, Who};
use crate::clock;
use crate::control::ControlFile;
use crate::device::Seek;
use crate::engine::{self, Work};
use fuser::{
    Errno, FileHandle, FopenFlags, INodeNo, OpenAccMode, OpenFlags, ReplyData, ReplyEmpty, ReplyLseek,
    ReplyWrite, Request, WriteFlags,
};
use std::sync::Arc;

/// An open file.
#[derive(Debug)]
pub(super) enum Handle {
    /// An image: who opened it, to charge for what the kernel does on its own through this handle.
    Image(Identity),
    /// A control file as it was when it was opened, so that a reader in pieces sees one state.
    Text(Vec<u8>),
}

impl Face {
    pub(super) fn open_node(
        &self,
        req: &Request,
        ino: INodeNo,
        flags: OpenFlags,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        match self.tree.node(ino).ok_or(Errno::ESTALE)? {
            Node::Root | Node::ControlDir => Err(Errno::EISDIR),
            Node::ControlFile(file) => self.open_text(file, flags),
            Node::Image(node) => self.open_image(req, &node, flags),
        }
    }

    fn open_text(&self, file: ControlFile, flags: OpenFlags) -> Result<(FileHandle, FopenFlags), Errno> {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return Err(Errno::EACCES);
        }
        let text = self.tree.control.text(file).into_bytes();
        // Direct, so that what is read is never an older page.
        Ok((self.remember(Handle::Text(text)), FopenFlags::FOPEN_DIRECT_IO))
    }

    fn open_image(
        &self,
        req: &Request,
        node: &ImageNode,
        flags: OpenFlags,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let name = node.image.name();
        if node.read_only && flags.acc_mode() != OpenAccMode::O_RDONLY {
            return Err(Errno::EROFS);
        }
        // An image neither shrinks nor grows: both flags would promise what cannot be kept.
        for (flag, word) in [(libc::O_TRUNC, "O_TRUNC"), (libc::O_APPEND, "O_APPEND")] {
            if flags.0 & flag != 0 {
                self.events().add(&format!(
                    "refused: opening {name} with {word}: its size is fixed (to overwrite an image use \
                     `dd conv=notrunc`, `qemu-img convert -n` or the like)"
                ));
                return Err(Errno::EPERM);
            }
        }
        let opener = match self.callers.resolve(Face::caller(req)) {
            Who::Caller(identity) => identity,
            Who::Kernel => Identity::from_ids(req.uid(), req.gid()),
        };
        let fh = self.remember(Handle::Image(opener));
        Ok((fh, FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES))
    }

    /// Whom to charge: the caller, or the opener of the handle for what the kernel does by itself.
    fn charge(&self, req: &Request, fh: FileHandle, by_kernel: bool) -> Identity {
        if !by_kernel && let Who::Caller(identity) = self.callers.resolve(Face::caller(req)) {
            return identity;
        }
        match self.handle(fh).as_deref() {
            Some(Handle::Image(opener)) => opener.clone(),
            Some(Handle::Text(_)) | None => Identity::from_ids(req.uid(), req.gid()),
        }
    }

    pub(super) fn read_image(
        &self,
        req: &Request,
        node: &ImageNode,
        fh: FileHandle,
        offset: u64,
        size: u32,
        reply: ReplyData,
    ) {
        let len = node.image.clamp(offset, u64::from(size));
        if len == 0 {
            return reply.data(&[]);
        }
        let identity = self.charge(req, fh, false);
        submit(node, offset, Work::Read { len }, identity, Box::new(ReadReply(reply)));
    }

    pub(super) fn read_text(&self, fh: FileHandle, offset: u64, size: u32, reply: ReplyData) {
        match self.handle(fh).as_deref() {
            Some(Handle::Text(text)) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
                let end = start.saturating_add(size as usize).min(text.len());
                reply.data(&text[start..end]);
            }
            Some(Handle::Image(_)) | None => reply.error(Errno::EBADF),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are those of the FUSE operation")]
    pub(super) fn write_image(
        &self,
        req: &Request,
        node: &ImageNode,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        reply: ReplyWrite,
    ) {
        let taken = node.image.clamp(offset, data.len() as u64);
        if taken == 0 && !data.is_empty() {
            // As a block device says it.
            return reply.error(Errno::ENOSPC);
        }
        if data.is_empty() {
            return reply.written(0);
        }
        let identity = self.charge(req, fh, flags.contains(WriteFlags::FUSE_WRITE_CACHE));
        node.meta().mtime = clock::wall();
        // `taken` is at most the length of the data, which the protocol counts in 32 bits.
        let reply = WriteReply { reply, taken: taken as u32 };
        submit(node, offset, Work::Write(&data[..taken as usize]), identity, Box::new(reply));
    }

    pub(super) fn flush_image(&self, req: &Request, node: &ImageNode, fh: FileHandle, reply: ReplyEmpty) {
        let identity = self.charge(req, fh, false);
        submit(node, 0, Work::Flush, identity, Box::new(EmptyReply(reply)));
    }

    #[expect(clippy::too_many_arguments, reason = "they are those of the FUSE operation")]
    pub(super) fn allocate_image(
        &self,
        req: &Request,
        node: &ImageNode,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        let inside = offset.checked_add(length).is_some_and(|end| end <= node.image.size());
        let len = node.image.clamp(offset, length);
        let work = match mode {
            // Every byte of an image has its place on the device already.
            KEEP => return reply.ok(),
            0 if inside => return reply.ok(),
            0 => return reply.error(Errno::ENOSPC),
            PUNCH => Work::Discard { len },
            ZERO if !inside => return reply.error(Errno::ENOSPC),
            _ if mode & !KEEP == ZERO => Work::WriteZeroes { len },
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        if len == 0 {
            return reply.ok();
        }
        node.meta().mtime = clock::wall();
        let identity = self.charge(req, fh, false);
        submit(node, offset, work, identity, Box::new(EmptyReply(reply)));
    }

    pub(super) fn seek_image(&self, node: &Arc<ImageNode>, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Some(offset) = u64::try_from(offset).ok().filter(|offset| *offset < node.image.size()) else {
            return reply.error(Errno::ENXIO);
        };
        let node = node.clone();
        let work = move || match node.engine.seek(&node.image, offset, what) {
            // An offset inside an image fits: its size does.
            Ok(Some(at)) => reply.offset(at as i64),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(error) => reply.error(errno(&error)),
        };
        // A reply that finds no thread to take it is dropped, which answers EIO.
        let _ = self.slow.send(Box::new(work));
    }
}

/// Whether a read is the question how direct I/O must be aligned. QEMU puts it like this, and if it is answered with
/// the byte it takes it that the truth cannot be had and goes for 4096: then it cannot write to an image that is
/// not as many bytes, and reads and writes back whole blocks around its guest's sectors. Refused, as any disk would,
/// it asks for 512 bytes next and is content. Every other request may be aligned as it likes.
pub(super) fn asks_for_alignment(offset: u64, size: u32, flags: OpenFlags) -> bool {
    offset == 0 && size == 1 && flags.0 & libc::O_DIRECT != 0
}

fn submit(node: &ImageNode, offset: u64, work: Work<'_>, identity: Identity, reply: Box<dyn engine::Reply>) {
    let request = engine::Request { image: node.image.clone(), offset, work, identity };
    node.engine.submit(request, reply);
}
