//! Open files: what is opened, by whom, and whom a request through it is charged to.

use super::face::Face;
use super::tree::{ImageNode, Node};
use crate::classify::{Caller, Identity, Round, Who};
use crate::control::ControlFile;
use crate::device::Seek;
use fuser::{Errno, FileHandle, FopenFlags, INodeNo, OpenAccMode, OpenFlags, ReplyData, ReplyLseek, Request};
use std::io;
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
        let text = self.tree.text(file).into_bytes();
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
        let caller = Caller { uid: req.uid(), gid: req.gid(), tid: req.pid() };
        let opener = match self.callers.resolve(caller) {
            Who::Caller(identity) => identity,
            Who::Kernel => Identity::from_ids(req.uid(), req.gid()),
        };
        let fh = self.remember(Handle::Image(opener));
        Ok((fh, FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES))
    }

    /// Whom to charge: the caller, or the opener of the handle for what the kernel does by itself; and the caller, without a
    /// thread id if it is the opener.
    pub(super) fn charge(
        &self,
        round: &Round<'_>,
        caller: Caller,
        fh: FileHandle,
        by_kernel: bool,
    ) -> (Identity, Caller) {
        if !by_kernel && let Who::Caller(identity) = round.resolve(caller) {
            return (identity, caller);
        }
        let opener = match self.handle(fh).as_deref() {
            Some(Handle::Image(opener)) => opener.clone(),
            Some(Handle::Text(_)) | None => Identity::from_ids(caller.uid, caller.gid),
        };
        let caller = Caller { uid: opener.uid, gid: opener.gid, tid: 0 };
        (opener, caller)
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

/// The errno a caller sees; EIO for errors that have none.
fn errno(error: &io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(libc::EIO))
}
