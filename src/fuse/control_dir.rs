//! The files of the control directory: reading them, and writing to them what changes the mount.
//!
//! * What can only be read is a text as it was when it was opened, so that a reader in pieces sees one state.
//! * `control.yaml` and the scratch files beside it are written like files; each open one is a draft of its own, put in force
//!   by fsync and close, or by renaming it to `control.yaml`.
//! * `ctl` and the files of devices do what is written to them at once.
//!
//! Changes are made on a thread of their own; the kernel gets its answer from there.

use super::face::Face;
use super::handles::{Handle, Writer};
use super::metadata::{Metadata, Wish};
use super::node::file_attr;
use super::scratch::ScratchFile;
use super::tree::Node;
use crate::classify::Ending;
use crate::clock::{self, Clock};
use crate::control::{ControlFile, Refusal, Transaction};
use crate::units::Nanos;
use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, INodeNo, OpenAccMode, OpenFlags, PollEvents, PollNotifier,
    RenameFlags, ReplyData, ReplyEmpty, ReplyWrite, Request,
};
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The name of the running configuration.
const YAML: &str = "control.yaml";
/// The longest that can be written to a file of a device, in bytes.
const LONGEST_SETTING: usize = 64 << 10;

/// How long the running configuration does as if it had been removed, in nanoseconds: programs that remove a file to make
/// it anew (`mv` from another filesystem) do so at once.
const ABSENCE: Nanos = Nanos::SECOND;

/// Somebody has removed `control.yaml`. What runs goes on; and if nobody makes it anew it is there again.
#[derive(Debug)]
pub(super) struct Absence {
    clock: Clock,
    until: AtomicU64,
}

impl Default for Absence {
    fn default() -> Self {
        Self { clock: Clock::start(), until: AtomicU64::new(0) }
    }
}

impl Absence {
    pub(super) fn begin(&self) {
        self.until.store(self.clock.now().after(ABSENCE).0, Ordering::Relaxed);
    }

    pub(super) fn lasts(&self) -> bool {
        self.clock.now().0 < self.until.load(Ordering::Relaxed)
    }

    fn end(&self) -> bool {
        let lasted = self.lasts();
        self.until.store(0, Ordering::Relaxed);
        lasted
    }
}

/// What came of reading: bytes, or an errno.
type Read = Result<Vec<u8>, Errno>;

impl Face {
    /// The attributes of a file whose text is made when it is looked at.
    pub(super) fn text_attr(&self, node: &Node) -> FileAttr {
        let tree = self.tree.load();
        let owner = (tree.plan.owner, tree.plan.group);
        // Written anew at every look, most of them.
        let now = clock::wall();
        let (size, changed, writable) = match node {
            Node::ControlFile(ControlFile::Yaml) => {
                let (text, changed) = self.control.yaml();
                (text.len() as u64, changed, true)
            }
            Node::ControlFile(ControlFile::Events) => {
                let (size, changed) = self.events().size();
                (size, changed.unwrap_or(now), false)
            }
            Node::ControlFile(file) => {
                (self.control.text(*file).len() as u64, now, *file == ControlFile::Ctl)
            }
            Node::Setting(device, setting) => {
                let text = self.control.setting(device, *setting).unwrap_or_default();
                (text.len() as u64, now, true)
            }
            _ => (0, now, false),
        };
        let mode = if writable { tree.plan.mode } else { tree.plan.mode & 0o444 };
        file_attr(node.ino(), size, mode, owner, changed)
    }

    /// A scratch file that lost its name and is still open.
    pub(super) fn nameless(&self, ino: INodeNo) -> Option<Arc<ScratchFile>> {
        let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
        handles.iter().find_map(|(_, handle)| match &**handle {
            Handle::Scratch(file) if file.ino == ino => Some(file.clone()),
            _ => None,
        })
    }

    pub(super) fn open_control(
        &self,
        file: ControlFile,
        flags: OpenFlags,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let reads = flags.acc_mode() == OpenAccMode::O_RDONLY;
        // Direct, so that what is read is never an older page.
        let direct = FopenFlags::FOPEN_DIRECT_IO;
        let (handle, opened) = match file {
            ControlFile::Ctl => {
                // What is read is the answer to what was written, wherever the file position is.
                let stream = FopenFlags::FOPEN_STREAM | FopenFlags::FOPEN_NONSEEKABLE;
                (Handle::Transaction(Mutex::default()), direct | stream)
            }
            ControlFile::Yaml if !reads => {
                let emptied = flags.0 & libc::O_TRUNC != 0;
                (Handle::Draft(Mutex::new(self.control.draft(emptied)), Writer::default()), direct)
            }
            _ if !reads => return Err(Errno::EACCES),
            ControlFile::Events => (Handle::Events(Mutex::new(self.events().follow())), direct),
            _ => (Handle::Text(self.control.text(file).into_bytes()), direct),
        };
        Ok((self.remember(handle), opened))
    }

    pub(super) fn open_scratch(&self, file: Arc<ScratchFile>, flags: OpenFlags) -> (FileHandle, FopenFlags) {
        if flags.0 & libc::O_TRUNC != 0 {
            // Nothing is smaller than nothing.
            let _ = file.resize(0);
        }
        (self.remember(Handle::Scratch(file)), FopenFlags::FOPEN_DIRECT_IO)
    }

    /// Whether this is the running configuration.
    pub(super) fn is_yaml(&self, parent: INodeNo, name: &OsStr) -> bool {
        name == YAML && matches!(self.node(parent), Some(Node::ControlDir))
    }

    /// Makes the running configuration anew, after it was removed: that is to begin writing it.
    pub(super) fn make_yaml(&self) -> Result<(Node, FileHandle, FopenFlags), Errno> {
        if !self.absence.end() {
            return Err(Errno::EEXIST);
        }
        let emptied = OpenFlags(libc::O_WRONLY | libc::O_TRUNC);
        let (fh, opened) = self.open_control(ControlFile::Yaml, emptied)?;
        Ok((Node::ControlFile(ControlFile::Yaml), fh, opened))
    }

    pub(super) fn make_scratch(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
    ) -> Result<Arc<ScratchFile>, Errno> {
        let name = self.is_scratch(parent, name)?;
        if self.scratch.named(&name).is_some() {
            return Err(Errno::EEXIST);
        }
        self.scratch.make(&name, Vec::new(), (mode & 0o777) as u16, (req.uid(), req.gid()))
    }

    /// What poll says of an open file; `notifier` is told when that changes.
    pub(super) fn poll_control(&self, fh: FileHandle, notifier: Option<PollNotifier>) -> PollEvents {
        let always = PollEvents::POLLOUT | PollEvents::POLLWRNORM;
        let readable = PollEvents::POLLIN | PollEvents::POLLRDNORM;
        match self.handle(fh).as_deref() {
            Some(Handle::Events(follower)) => {
                // First the wish and then the look: what comes in between is not missed.
                if let Some(notifier) = notifier {
                    self.waiting.add(fh, notifier);
                }
                if self.events().has_more(&lock(follower)) { readable } else { PollEvents::empty() }
            }
            // Everything else can always be read and written.
            _ => always | readable,
        }
    }

    /// Changes attributes, as far as they can be changed from here. That the caller may do it the kernel has checked
    /// (default_permissions).
    pub(super) fn set_attr(&self, node: &Node, wish: Wish, fh: Option<FileHandle>) -> Result<(), Errno> {
        match node {
            Node::Image(node) => self.set_image_attr(node, wish),
            Node::Scratch(file) => {
                if let Some(size) = wish.size {
                    file.resize(size)?;
                }
                file.change(wish.mode, (wish.uid, wish.gid), (wish.atime, wish.mtime));
                Ok(())
            }
            Node::ControlFile(ControlFile::Yaml) if wish.size.is_some() => {
                let size = wish.size.unwrap_or_default();
                match fh.and_then(|fh| self.handle(fh)).as_deref() {
                    Some(Handle::Draft(draft, _)) => lock(draft).resize(size).map_err(|_| Errno::EFBIG),
                    // By its name: whoever empties it is about to write it.
                    _ if size == 0 => Ok(()),
                    _ => Err(Errno::EINVAL),
                }
            }
            Node::ControlFile(ControlFile::Ctl) | Node::Setting(..) if wish.size.is_some() => Ok(()),
            // An editor that gives a file the mode and owner that it has, and its own time, is content with this.
            Node::ControlFile(_) | Node::Setting(..) => {
                let now = self.attr(node);
                let same = wish.mode.is_none_or(|mode| mode & 0o777 == u32::from(now.perm))
                    && wish.uid.is_none_or(|uid| uid == now.uid)
                    && wish.gid.is_none_or(|gid| gid == now.gid);
                if same { Ok(()) } else { Err(Errno::EPERM) }
            }
            Node::Root | Node::ControlDir | Node::Devices | Node::Device(_) => Err(Errno::EPERM),
        }
    }
}

impl Metadata {
    /// Does something that may take its time, and is not to be done beside another change.
    fn later(&self, work: impl FnOnce(&Face) + Send + 'static) {
        let face = self.face.clone();
        // A reply that finds no thread to take it is dropped, which answers EIO.
        let _ = self.changes.send(Box::new(move || work(&face)));
    }

    pub(super) fn read_control(&self, fh: FileHandle, offset: u64, size: usize, reply: ReplyData) {
        let Some(handle) = self.handle(fh) else { return reply.error(Errno::EBADF) };
        if let Handle::Transaction(transaction) = &*handle {
            // What was written without a newline is a command, too.
            let command = lock(transaction).complete();
            if let Some(command) = command {
                let handle = handle.clone();
                return self.later(move |face| {
                    let Handle::Transaction(transaction) = &*handle else { return };
                    match face.run(transaction, &command) {
                        Ok(()) => reply.data(&lock(transaction).read(size)),
                        Err(errno) => reply.error(errno),
                    }
                });
            }
        }
        match self.read_handle(&handle, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn read_handle(&self, handle: &Handle, offset: u64, size: usize) -> Read {
        let piece = |text: &[u8]| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
            text[start..start.saturating_add(size).min(text.len())].to_vec()
        };
        Ok(match handle {
            Handle::Text(text) | Handle::Setting { text, .. } => piece(text),
            Handle::Draft(draft, _) => lock(draft).read(offset, size).to_vec(),
            Handle::Scratch(file) => file.read(offset, size),
            Handle::Events(follower) => self.events().read(&mut lock(follower), offset, size),
            Handle::Transaction(transaction) => lock(transaction).read(size),
            Handle::Image { .. } => return Err(Errno::EBADF),
        })
    }

    /// A thread writes to a control file; without an offset at its end.
    pub(super) fn write_control(
        &self,
        fh: FileHandle,
        offset: Option<u64>,
        data: &[u8],
        thread: u32,
        reply: ReplyWrite,
    ) {
        let Some(handle) = self.handle(fh) else { return reply.error(Errno::EBADF) };
        // A write comes in pieces of far less than 32 bits.
        let len = data.len() as u32;
        let written = move |reply: ReplyWrite, result: Result<(), Errno>| match result {
            Ok(()) => reply.written(len),
            Err(errno) => reply.error(errno),
        };
        match &*handle {
            Handle::Draft(draft, writer) => {
                writer.note(thread);
                let mut draft = lock(draft);
                let fits = match offset {
                    Some(offset) => draft.write(offset, data),
                    None => draft.append(data),
                };
                drop(draft);
                if fits.is_err() {
                    self.events().add(&format!("refused: {YAML}: larger than a configuration can be, 1MiB"));
                }
                written(reply, fits.map_err(|_| Errno::EFBIG));
            }
            Handle::Scratch(file) => written(reply, file.write(offset, data)),
            Handle::Transaction(transaction) => match lock(transaction).write(data) {
                Ok(None) => reply.written(len),
                Err(_) => reply.error(Errno::from_i32(libc::E2BIG)),
                Ok(Some(command)) => {
                    let handle = handle.clone();
                    self.later(move |face| {
                        let Handle::Transaction(transaction) = &*handle else { return };
                        written(reply, face.run(transaction, &command));
                    });
                }
            },
            Handle::Setting { .. } if data.len() > LONGEST_SETTING => {
                reply.error(Errno::from_i32(libc::E2BIG))
            }
            Handle::Setting { .. } => {
                let (handle, text) = (handle.clone(), String::from_utf8_lossy(data).into_owned());
                self.later(move |face| {
                    let Handle::Setting { device, setting, .. } = &*handle else { return };
                    written(
                        reply,
                        face.control.set(device, *setting, &text).map_err(|refusal| errno(&refusal)),
                    );
                });
            }
            Handle::Text(_) | Handle::Events(_) | Handle::Image { .. } => reply.error(Errno::EPERM),
        }
    }

    /// Puts in force what was written. `closer` is the thread that closes the file, if it is that.
    pub(super) fn commit(&self, fh: FileHandle, closer: Option<u32>, reply: ReplyEmpty) {
        let handle = self.handle(fh);
        let Some(Handle::Draft(draft, writer)) = handle.as_deref() else { return reply.ok() };
        // A process that was started by whoever writes has a copy of the file, and closes it when it likes.
        if closer.is_some_and(|closer| !writer.is(closer)) {
            return reply.ok();
        }
        if let Some(refused) = lock(draft).refused() {
            return reply.error(Errno::from_i32(refused));
        }
        let Some(bytes) = lock(draft).take() else { return reply.ok() };
        let Some(handle) = handle else { return };
        self.later(move |face| {
            // A file is closed as well when its writer is killed, and what it has then may be half of what it was to be.
            if let Some(Ending(how)) = closer.and_then(Ending::of_thread) {
                face.events().add(&format!("refused: {YAML}: whoever wrote it {how} before it was closed"));
                return reply.error(Errno::EINTR);
            }
            let result = face.control.replace(&bytes, YAML);
            if let (Err(refusal), Handle::Draft(draft, _)) = (&result, &*handle) {
                lock(draft).refuse(refusal.errno);
            }
            match result {
                Ok(()) => reply.ok(),
                Err(refusal) => reply.error(errno(&refusal)),
            }
        });
    }

    /// Renames what is in the control directory: a scratch file that gets the name of the configuration is put in force, and
    /// the configuration that is renamed is copied: it is always there.
    pub(super) fn rename_control(
        &self,
        (parent, name): (INodeNo, &OsStr),
        (new_parent, new_name): (INodeNo, &OsStr),
        flags: RenameFlags,
        owner: (u32, u32),
        reply: ReplyEmpty,
    ) {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return reply.error(Errno::EINVAL);
        }
        let keeps = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let scratch = |parent, name: &OsStr| self.is_scratch(parent, name);
        if self.is_yaml(new_parent, new_name) {
            if keeps && !self.absence.lasts() {
                return reply.error(Errno::EEXIST);
            }
            if self.is_yaml(parent, name) {
                // To itself.
                return reply.ok();
            }
            let name = match scratch(parent, name) {
                Ok(name) => name,
                Err(errno) => return reply.error(errno),
            };
            let Some(file) = self.scratch.named(&name) else { return reply.error(Errno::ENOENT) };
            return self.later(move |face| match face.control.replace(&file.content(), YAML) {
                Ok(()) => {
                    face.scratch.remove_file(&name, &file);
                    face.absence.end();
                    reply.ok();
                }
                Err(refusal) => reply.error(errno(&refusal)),
            });
        }
        let renamed = || {
            let new_name = scratch(new_parent, new_name)?;
            if keeps && self.scratch.named(&new_name).is_some() {
                return Err(Errno::EEXIST);
            }
            if self.is_yaml(parent, name) {
                let text = self.control.yaml().0.as_bytes().to_vec();
                return self.scratch.make(&new_name, text, self.tree.load().plan.mode, owner).map(drop);
            }
            let name = scratch(parent, name)?;
            self.scratch.rename(&name, &new_name).then_some(()).ok_or(Errno::ENOENT)
        };
        match renamed() {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }
}

impl Face {
    /// Carries out a command; its answer is in the transaction afterwards.
    fn run(&self, transaction: &Mutex<Transaction>, command: &[u8]) -> Result<(), Errno> {
        let (answer, result) = match self.control.command(command) {
            Ok(answer) => (answer, Ok(())),
            Err(refusal) => (format!("{refusal}\n"), Err(errno(&refusal))),
        };
        lock(transaction).answer(answer);
        result
    }

    pub(super) fn open_setting(
        &self,
        node: &Node,
        flags: OpenFlags,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let Node::Setting(device, setting) = node else { return Err(Errno::EISDIR) };
        let text = self.control.setting(device, *setting).ok_or(Errno::ESTALE)?.into_bytes();
        let handle = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => Handle::Text(text),
            _ => Handle::Setting { device: device.clone(), setting: *setting, text },
        };
        Ok((self.remember(handle), FopenFlags::FOPEN_DIRECT_IO))
    }
}

fn errno(refusal: &Refusal) -> Errno {
    Errno::from_i32(refusal.errno)
}

/// The state of an open file; also after a panic elsewhere, every state of it being a valid one.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
