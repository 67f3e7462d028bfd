//! Open files: what is opened, by whom, and whom a request through it is charged to.

use super::face::Face;
use super::kept::{KeptDraft, KeptTransaction};
use super::metadata::{Wish, asked};
use super::node::ImageNode;
use super::open_files::{Opener, What};
use super::scratch::ScratchFile;
use super::tree::Node;
use crate::classify::{Caller, Identity, Round, Who, process_of};
use crate::clock;
use crate::config::LARGEST;
use crate::control::{Asked, Follower, Setting};
use crate::device::Seek;
use fuser::{Errno, FileHandle, FopenFlags, INodeNo, OpenAccMode, OpenFlags, ReplyLseek, Request, TimeOrNow};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// An open file.
#[derive(Debug)]
pub(super) enum Handle {
    /// An image, and who opened it, to charge for what the kernel does on its own through this handle.
    Image { node: Arc<ImageNode>, opener: Identity },
    /// A control file as it was when it was opened.
    Text(Vec<u8>),
    /// One that was open when a predecessor served, with what it says now: from when it is read first, since there is nothing to say
    /// before the mount is served again.
    Later { ino: u64, text: OnceLock<Vec<u8>> },
    /// The running configuration, being written.
    Draft(Mutex<KeptDraft>),
    /// An editor's own file.
    Scratch(Arc<ScratchFile>),
    /// A conversation by `ctl`.
    Transaction(Mutex<KeptTransaction>),
    /// A file of a device that is written to, and what it said when it was opened.
    Setting { device: Arc<str>, setting: Setting, text: Vec<u8> },
    /// The events, as they come.
    Events(Mutex<Follower>),
    /// What a predecessor had open and is not there: of a device, mostly, that is not there.
    Lost,
}

impl Handle {
    /// How the kernel is to treat it.
    pub(super) fn flags(&self) -> FopenFlags {
        // Direct, so that what is read is never an older page.
        let direct = FopenFlags::FOPEN_DIRECT_IO;
        match self {
            // Nothing is to be done when it is closed, so we are not asked.
            Self::Image { .. } => {
                direct | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES | FopenFlags::FOPEN_NOFLUSH
            }
            // Nor of these; and whoever leaves the mount to a successor can close his without being answered.
            Self::Text(_) => direct | FopenFlags::FOPEN_NOFLUSH,
            // What is read is the answer to what was written, wherever the file position is.
            Self::Transaction(_) => direct | FopenFlags::FOPEN_STREAM | FopenFlags::FOPEN_NONSEEKABLE,
            _ => direct,
        }
    }

    /// So many bytes it holds; a draft as many as it can come to hold. Scratch files have bounds of their own.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) | Self::Setting { text, .. } => text.len(),
            Self::Later { text, .. } => text.get().map_or(0, Vec::len),
            Self::Draft(_) => LARGEST as usize,
            Self::Transaction(transaction) => lock(transaction).bytes(),
            Self::Scratch(_) | Self::Image { .. } | Self::Events(_) | Self::Lost => 0,
        }
    }

    /// Gives back what it has in the ledger beside its record.
    pub(super) fn end(&self) {
        match self {
            Self::Draft(draft) => lock(draft).end(),
            Self::Transaction(transaction) => lock(transaction).end(),
            _ => {}
        }
    }
}

impl KeptDraft {
    /// A thread writes to it.
    pub(super) fn note_writer(&mut self, thread: u32) {
        if self.writer.0 != thread {
            self.writer = (thread, process_of(thread).unwrap_or(thread));
        }
    }

    /// Whether a thread is of the process that wrote.
    pub(super) fn is_by(&self, thread: u32) -> bool {
        let (writer, process) = self.writer;
        thread == writer || process_of(thread) == Some(process)
    }
}

/// A request through a handle: whom it is charged to, and by whom it was made; nobody if the kernel made it by itself.
pub(super) type Charged = (Identity, Caller);

impl Face {
    pub(super) fn open_node(
        &self,
        req: &Request,
        ino: INodeNo,
        flags: OpenFlags,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let asked = asked(req);
        if let Some((fh, handle)) = self.open_files.opened_by(asked) {
            return Ok((fh, handle.flags()));
        }
        match self.node(ino).ok_or(Errno::ESTALE)? {
            Node::Root | Node::ControlDir | Node::Devices | Node::Device(_) => Err(Errno::EISDIR),
            Node::ControlFile(file) => self.open_control(file, flags, asked),
            Node::Scratch(file) => self.open_scratch(file, flags, asked),
            setting @ Node::Setting(..) => self.open_setting(&setting, flags, asked),
            Node::Image(node) => self.open_image(req, &node, flags),
        }
    }

    /// Keeps what was opened, under a number that a successor knows, too.
    pub(super) fn opened(
        &self,
        asked: Asked,
        what: What,
        make: impl FnOnce(u32) -> Handle,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let mut flags = FopenFlags::empty();
        let fh = self.open_files.add(asked, what, |place| {
            let handle = make(place);
            flags = handle.flags();
            handle
        });
        let fh = fh.inspect_err(|errno| {
            if errno.code() == libc::ENFILE {
                // Whose it is is left out: who has many names would push out what else is known to come again and again.
                self.events().add_of_callers(
                    "refused: opening one more file: its user, or all users but root, have too many open, or hold too much",
                );
            }
        })?;
        Ok((fh, flags))
    }

    fn open_image(
        &self,
        req: &Request,
        node: &Arc<ImageNode>,
        flags: OpenFlags,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let name = node.image.name();
        if node.read_only && flags.acc_mode() != OpenAccMode::O_RDONLY {
            return Err(Errno::EROFS);
        }
        // An image neither shrinks nor grows: both flags would promise what cannot be kept.
        for (flag, word) in [(libc::O_TRUNC, "O_TRUNC"), (libc::O_APPEND, "O_APPEND")] {
            if flags.0 & flag != 0 {
                self.events().add_of_callers(&format!(
                    "refused: opening {name} with {word}: its size is fixed (to overwrite an image use \
                     `dd conv=notrunc`, `qemu-img convert -n` or the like)"
                ));
                return Err(Errno::EPERM);
            }
        }
        if !node.open() {
            // The kernel looks its name up again and comes back.
            return Err(Errno::ESTALE);
        }
        let caller = Caller { uid: req.uid(), gid: req.gid(), tid: req.pid() };
        // Whole, because how callers are told apart can change while it is open.
        let opener = match self.callers.resolve_whole(caller) {
            Who::Caller(identity) => identity,
            Who::Kernel => Identity::from_ids(req.uid(), req.gid()),
        };
        let what = What::Image { ino: node.ino.0, opener: Opener::from(&opener) };
        let opened = self.opened(asked(req), what, |_| Handle::Image { node: node.clone(), opener });
        opened.inspect_err(|_| node.close())
    }

    /// Whether this is open and is not there, or was not a moment ago: only then what is asked of an image comes so far.
    pub(super) fn is_lost_image(&self, fh: FileHandle) -> bool {
        matches!(self.handle(fh).as_deref(), Some(Handle::Lost | Handle::Image { .. }))
    }

    /// An open file is closed for good.
    pub(super) fn close(&self, fh: FileHandle) {
        let closed = self.open_files.remove(fh);
        match closed.as_deref() {
            Some(Handle::Image { node, .. }) => node.close(),
            Some(Handle::Events(_)) => self.waiting.forget(fh),
            Some(Handle::Scratch(_)) => {
                drop(closed);
                self.scratch.sweep();
            }
            Some(handle) => handle.end(),
            None => {}
        }
    }

    /// Whom to charge: the caller, or the opener of the handle for what the kernel does by itself.
    pub(super) fn charge(
        &self,
        round: &Round<'_>,
        caller: Caller,
        fh: FileHandle,
        by_kernel: bool,
    ) -> Charged {
        if !by_kernel && let Who::Caller(identity) = round.resolve(caller) {
            return (identity, caller);
        }
        let identity = match self.handle(fh).as_deref() {
            Some(Handle::Image { opener, .. }) => opener.clone(),
            _ => Identity::from_ids(caller.uid, caller.gid),
        };
        (identity, Caller { tid: 0, ..caller })
    }

    pub(super) fn set_image_attr(&self, node: &ImageNode, wish: Wish) -> Result<(), Errno> {
        if wish.size.is_some_and(|size| size != node.image.size()) {
            self.events().add_of_callers(&format!(
                "refused: changing the size of {}: it is fixed by the configuration (to overwrite an image use \
                 `dd conv=notrunc`, `qemu-img convert -n` or the like)",
                node.image.name()
            ));
            return Err(Errno::EPERM);
        }
        let now = clock::wall();
        let time = |t| match t {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => now,
        };
        let mut meta = node.meta();
        meta.mode = wish.mode.map_or(meta.mode, |mode| (mode & 0o777) as u16);
        meta.uid = wish.uid.unwrap_or(meta.uid);
        meta.gid = wish.gid.unwrap_or(meta.gid);
        meta.atime = wish.atime.map_or(meta.atime, time);
        meta.mtime = wish.mtime.map_or(meta.mtime, time);
        meta.ctime = wish.ctime.unwrap_or(now);
        meta.changed = true;
        drop(meta);
        self.control.journal().change(|carried| self.write_down(carried));
        Ok(())
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
        let (node, number) = (node.clone(), node.engine.number());
        let work = move || match node.engine.seek(&node.image, offset, what) {
            // An offset inside an image fits: its size does.
            Ok(Some(at)) => reply.offset(at as i64),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(error) => reply.error(errno(&error)),
        };
        // A reply that finds no thread to take it is dropped, which answers EIO.
        self.slow.send(number, Box::new(work));
    }
}

/// The errno a caller sees; EIO for errors that have none.
fn errno(error: &io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The state of an open file; also after a panic elsewhere, every state of it being a valid one.
pub(super) fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
