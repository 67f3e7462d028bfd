//! The files of the control directory: reading them, and writing to them what changes the mount.
//!
//! * What can only be read is a text as it was when it was opened, so that a reader in pieces sees one state.
//! * `control.yaml` and the scratch files beside it are written like files; each open one is a draft of its own, put in force
//!   by fsync and close, or by renaming it to `control.yaml`.
//! * `ctl` and the files of devices do what is written to them at once.
//!
//! Changes are made on a thread of their own; the kernel gets its answer from there.

use super::face::Face;
use super::handles::{Handle, lock};
use super::kept::{KeptDraft, KeptTransaction};
use super::metadata::{Metadata, Wish, asked};
use super::node::file_attr;
use super::open_files::What;
use super::scratch::ScratchFile;
use super::tree::Node;
use crate::classify::Ending;
use crate::clock::{self, Clock};
use crate::control::{Asked, ControlFile, Refusal, Stamp};
use crate::units::Nanos;
use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, INodeNo, OpenAccMode, OpenFlags, PollEvents, PollNotifier,
    RenameFlags, ReplyData, ReplyEmpty, ReplyWrite, Request,
};
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// The name of the running configuration.
const YAML: &str = "control.yaml";
/// The longest that can be written to a file of a device, in bytes.
const LONGEST_SETTING: usize = 64 << 10;

/// How long the running configuration does as if it had been removed, in nanoseconds: programs that remove a file to make
/// it anew (`mv` from another filesystem) do so at once.
const ABSENCE: Nanos = Nanos::SECOND;
/// Who has removed it so long before a successor serves, in nanoseconds, may have waited for that ever since. That it was made
/// anew is written down, but not that nobody has.
const WAITED: Nanos = Nanos(60 * Nanos::SECOND.0);

/// Somebody has removed `control.yaml`. What runs goes on; and if nobody makes it anew it is there again.
#[derive(Debug)]
pub(super) struct Absence {
    clock: Clock,
    until: AtomicU64,
}

impl Absence {
    /// It was removed then, if it was, while a predecessor served. Nobody could make it anew while none did, so that time does
    /// not count.
    pub(super) fn since(removed: Option<Stamp>) -> Self {
        let clock = Clock::start();
        let ago = removed.and_then(|at| clock::wall().duration_since(SystemTime::from(at)).ok());
        let ago = ago.map(|ago| Nanos(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX)));
        let absence = Self { clock, until: AtomicU64::new(0) };
        if ago.is_some_and(|ago| ago < WAITED) {
            absence.begin();
        }
        absence
    }

    /// The mount is served from now on.
    pub(super) fn go_on(&self) {
        if self.until.load(Ordering::Relaxed) > 0 {
            self.begin();
        }
    }

    fn begin(&self) {
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

    pub(super) fn open_control(
        &self,
        file: ControlFile,
        flags: OpenFlags,
        asked: Asked,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let reads = flags.acc_mode() == OpenAccMode::O_RDONLY;
        let ledger = || self.control.journal().ledger().clone();
        match file {
            // Whoever cannot ask gets no answer.
            ControlFile::Ctl if reads => {
                let what = What::Text { ino: Node::ControlFile(file).ino().0 };
                self.opened(asked, what, |_| Handle::Text(Vec::new()))
            }
            ControlFile::Ctl => self.opened(asked, What::Transaction, |place| {
                Handle::Transaction(Mutex::new(KeptTransaction::begin(ledger(), place)))
            }),
            ControlFile::Yaml if !reads => {
                let draft = self.control.draft(flags.0 & libc::O_TRUNC != 0);
                self.opened(asked, What::Draft, |place| {
                    Handle::Draft(Mutex::new(KeptDraft::begin(ledger(), place, draft)))
                })
            }
            _ if !reads => Err(Errno::EACCES),
            ControlFile::Events => {
                let follower = self.events().follow();
                let what = What::Events { follower, waiting: None };
                self.opened(asked, what, |_| Handle::Events(Mutex::new(follower)))
            }
            _ => {
                let text = self.control.text(file).into_bytes();
                let what = What::Text { ino: Node::ControlFile(file).ino().0 };
                self.opened(asked, what, |_| Handle::Text(text))
            }
        }
    }

    pub(super) fn open_scratch(
        &self,
        file: Arc<ScratchFile>,
        flags: OpenFlags,
        asked: Asked,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let what = What::Scratch { ino: file.ino.0 };
        self.opened(asked, what, |_| {
            // Only here there is room for one more, and it is not written down that the file is open: a request that is sent
            // again before that empties it, and none does after it.
            if flags.0 & libc::O_TRUNC != 0 {
                // Nothing is smaller than nothing.
                let _ = file.resize(0);
            }
            Handle::Scratch(file)
        })
    }

    /// Whether this is the running configuration.
    pub(super) fn is_yaml(&self, parent: INodeNo, name: &OsStr) -> bool {
        name == YAML && matches!(self.node(parent), Some(Node::ControlDir))
    }

    /// Makes a file in the control directory, and opens it. To make the running configuration anew, after it was removed, is
    /// to begin writing it.
    pub(super) fn create_control(
        &self,
        req: &Request,
        (parent, name): (INodeNo, &OsStr),
        mode: u32,
        flags: OpenFlags,
    ) -> Result<(Node, FileHandle, FopenFlags), Errno> {
        let asked = asked(req);
        if self.is_yaml(parent, name) {
            let made = Node::ControlFile(ControlFile::Yaml);
            let (fh, opened) = match self.open_files.opened_by(asked) {
                Some((fh, handle)) => (fh, handle.flags()),
                None if !self.absence.lasts() => return Err(Errno::EEXIST),
                None => {
                    let emptied = OpenFlags(libc::O_WRONLY | libc::O_TRUNC);
                    self.open_control(ControlFile::Yaml, emptied, asked)?
                }
            };
            self.end_absence();
            return Ok((made, fh, opened));
        }
        let file = self.make_scratch(req, parent, name, mode)?;
        let (fh, opened) = match self.open_files.opened_by(asked) {
            Some((fh, handle)) => (fh, handle.flags()),
            None => match self.open_scratch(file.clone(), flags, asked) {
                Ok(opened) => opened,
                Err(errno) => {
                    self.take_back(name, file);
                    return Err(errno);
                }
            },
        };
        Ok((Node::Scratch(file), fh, opened))
    }

    /// Makes a scratch file; the one that this very request has made, if it is sent again.
    pub(super) fn make_scratch(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
    ) -> Result<Arc<ScratchFile>, Errno> {
        let asked = asked(req);
        let name = self.is_scratch(parent, name)?;
        match self.scratch.named(&name) {
            Some(file) if asked.again && file.made_by == asked.unique => return Ok(file),
            Some(_) => return Err(Errno::EEXIST),
            None => {}
        }
        self.control.journal().change(|carried| {
            let owner = (req.uid(), req.gid());
            let made = self.scratch.make(&name, Vec::new(), (mode & 0o777) as u16, owner, asked);
            self.scratch.write_down(carried);
            made
        })
    }

    /// A file that was made cannot be opened, so it was not made.
    fn take_back(&self, name: &OsStr, file: Arc<ScratchFile>) {
        self.control.journal().change(|carried| {
            self.scratch.remove_file(&name.to_string_lossy(), &file);
            self.scratch.write_down(carried);
        });
        drop(file);
        self.scratch.sweep();
    }

    /// Removes a file of the control directory.
    pub(super) fn unlink_control(&self, parent: INodeNo, name: &OsStr, asked: Asked) -> Result<(), Errno> {
        if self.is_yaml(parent, name) {
            self.absence.begin();
            self.control.journal().change(|carried| carried.absent = Some(clock::wall().into()));
            return Ok(());
        }
        let name = self.is_scratch(parent, name)?;
        if self.control.journal().was_done(asked) {
            return Ok(());
        }
        let removed = self.control.journal().change(|carried| {
            let removed = self.scratch.remove(&name).ok_or(Errno::ENOENT)?;
            self.scratch.write_down(carried);
            carried.did(asked);
            Ok(removed)
        });
        // Its content goes only when it is written down that the file has gone: a successor that finds the one without the other
        // takes the file for lost.
        removed.map(|removed| {
            drop(removed);
            self.scratch.sweep();
        })
    }

    /// The running configuration is there again.
    fn end_absence(&self) {
        if self.absence.end() {
            self.control.journal().change(|carried| carried.absent = None);
        }
    }

    /// What poll says of an open file; `notifier` is told when that changes.
    pub(super) fn poll_control(&self, fh: FileHandle, notifier: Option<PollNotifier>) -> PollEvents {
        let always = PollEvents::POLLOUT | PollEvents::POLLWRNORM;
        let readable = PollEvents::POLLIN | PollEvents::POLLRDNORM;
        match self.handle(fh).as_deref() {
            Some(Handle::Events(follower)) => {
                // First the wish and then the look: what comes in between is not missed.
                if let Some(notifier) = notifier {
                    let known_as = notifier.handle().0;
                    self.open_files.note(fh, |what| {
                        if let What::Events { waiting, .. } = what {
                            *waiting = Some(known_as);
                        }
                    });
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
                self.control.journal().change(|carried| self.scratch.write_down(carried));
                Ok(())
            }
            Node::ControlFile(ControlFile::Yaml) if wish.size.is_some() => {
                let size = wish.size.unwrap_or_default();
                match fh.and_then(|fh| self.handle(fh)).as_deref() {
                    Some(Handle::Draft(draft)) => {
                        let mut draft = lock(draft);
                        // To cut it off is to write to it: it is put in force when this one closes it.
                        draft.note_writer(wish.thread);
                        draft.resize(size).map_err(|_| Errno::EFBIG)
                    }
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

    pub(super) fn read_control(
        &self,
        fh: FileHandle,
        offset: u64,
        size: usize,
        asked: Asked,
        reply: ReplyData,
    ) {
        let Some(handle) = self.handle(fh) else { return reply.error(Errno::EBADF) };
        let asked = self.open_files.asked_through(fh, asked);
        if let Handle::Transaction(transaction) = &*handle {
            let mut said = lock(transaction);
            match said.has_read(asked) {
                Some(Ok(bytes)) => return reply.data(&bytes),
                Some(Err(errno)) => return reply.error(errno),
                None => {}
            }
            // How much an answer is shows when it is there. Where there is no room at all none is asked for.
            if said.is_begun()
                && let Err(errno) = self.open_files.grow(fh, said.bytes() + 1)
            {
                return reply.error(errno);
            }
            // What was written without a newline is a command, too.
            let Some(command) = said.complete() else { return reply.data(&said.read(size, asked)) };
            drop(said);
            let handle = handle.clone();
            return self.later(move |face| {
                let Handle::Transaction(transaction) = &*handle else { return };
                let (answer, errno) = face.run(&command, asked);
                let mut said = lock(transaction);
                said.carried_out(command);
                said.answer_to_reader(answer);
                face.open_files.holds(fh, said.bytes());
                match errno {
                    None => reply.data(&said.read(size, asked)),
                    Some(errno) => {
                        said.refused_to_reader(errno, asked);
                        reply.error(errno);
                    }
                }
            });
        }
        match self.read_handle(fh, &handle, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn read_handle(&self, fh: FileHandle, handle: &Handle, offset: u64, size: usize) -> Read {
        let piece = |text: &[u8]| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
            text[start..start.saturating_add(size).min(text.len())].to_vec()
        };
        Ok(match handle {
            Handle::Text(text) | Handle::Setting { text, .. } => piece(text),
            Handle::Later { ino, text } => {
                let text = match text.get() {
                    Some(text) => text,
                    None => {
                        // A device that has gone with its files.
                        let now = self.text_of(*ino).ok_or(Errno::ESTALE)?;
                        self.open_files.grow(fh, now.len()).map_err(|_| Errno::ENFILE)?;
                        text.get_or_init(|| now)
                    }
                };
                piece(text)
            }
            Handle::Draft(draft) => lock(draft).read(offset, size).to_vec(),
            Handle::Scratch(file) => file.read(offset, size),
            Handle::Events(follower) => {
                let mut reader = lock(follower);
                let bytes = self.events().read(&mut reader, offset, size);
                let now = *reader;
                self.open_files.note(fh, |what| {
                    if let What::Events { follower, .. } = what {
                        *follower = now;
                    }
                });
                bytes
            }
            Handle::Transaction(_) | Handle::Image { .. } => return Err(Errno::EBADF),
            Handle::Lost => return Err(Errno::EIO),
        })
    }

    /// A thread writes to a control file; without an offset at its end.
    pub(super) fn write_control(
        &self,
        fh: FileHandle,
        offset: Option<u64>,
        data: &[u8],
        (thread, asked): (u32, Asked),
        reply: ReplyWrite,
    ) {
        let Some(handle) = self.handle(fh) else { return reply.error(Errno::EBADF) };
        let asked = self.open_files.asked_through(fh, asked);
        // A write comes in pieces of far less than 32 bits.
        let len = data.len() as u32;
        let written = move |reply: ReplyWrite, result: Result<(), Errno>| match result {
            Ok(()) => reply.written(len),
            Err(errno) => reply.error(errno),
        };
        match &*handle {
            Handle::Draft(draft) => {
                let mut draft = lock(draft);
                draft.note_writer(thread);
                let fits = draft.write(offset, data, asked);
                drop(draft);
                if fits.is_err() {
                    self.events().add(&format!("refused: {YAML}: larger than a configuration can be, 1MiB"));
                }
                written(reply, fits.map_err(|_| Errno::EFBIG));
            }
            Handle::Scratch(file) => written(reply, file.write(offset, data, asked)),
            Handle::Transaction(transaction) => {
                let mut said = lock(transaction);
                if let Some(result) = said.wrote(asked) {
                    return written(reply, result);
                }
                if let Err(errno) = self.open_files.grow(fh, said.bytes_asked() + data.len()) {
                    said.no_room(errno, asked);
                    self.open_files.holds(fh, said.bytes());
                    return reply.error(errno);
                }
                match said.write(data, asked) {
                    Ok(None) => reply.written(len),
                    Err(_) => {
                        self.open_files.holds(fh, said.bytes());
                        reply.error(Errno::from_i32(libc::E2BIG));
                    }
                    Ok(Some(command)) => {
                        let handle = handle.clone();
                        self.later(move |face| {
                            let Handle::Transaction(transaction) = &*handle else { return };
                            let (answer, errno) = face.run(&command, asked);
                            let mut said = lock(transaction);
                            said.carried_out(command);
                            said.answer(answer, errno.map(Errno::code), asked);
                            face.open_files.holds(fh, said.bytes());
                            drop(said);
                            written(reply, errno.map_or(Ok(()), Err));
                        });
                    }
                }
            }
            Handle::Setting { .. } if data.len() > LONGEST_SETTING => {
                reply.error(Errno::from_i32(libc::E2BIG))
            }
            Handle::Setting { .. } => {
                let (handle, text) = (handle.clone(), String::from_utf8_lossy(data).into_owned());
                self.later(move |face| {
                    let Handle::Setting { device, setting, .. } = &*handle else { return };
                    let result = face.control.set(device, *setting, &text, asked);
                    written(reply, result.map_err(|refusal| errno(&refusal)));
                });
            }
            Handle::Lost => reply.error(Errno::EIO),
            Handle::Text(_) | Handle::Later { .. } | Handle::Events(_) | Handle::Image { .. } => {
                reply.error(Errno::EPERM)
            }
        }
    }

    /// Puts in force what was written. `closer` is the thread that closes the file, if it is that.
    pub(super) fn commit(&self, fh: FileHandle, closer: Option<u32>, asked: Asked, reply: ReplyEmpty) {
        let handle = match (self.handle(fh), closer) {
            (Some(handle), _) => handle,
            // Whoever closes has nothing to be told.
            (None, Some(_)) => return reply.ok(),
            (None, None) => return reply.error(Errno::EBADF),
        };
        let draft = match (&*handle, closer) {
            (Handle::Draft(draft), _) => draft,
            // Nobody has flushed that image: its requests come here only while it is lost.
            (Handle::Lost | Handle::Image { .. }, None) => return reply.error(Errno::EIO),
            _ => return reply.ok(),
        };
        let mut writing = lock(draft);
        // A process that was started by whoever writes has a copy of the file, and closes it when it likes.
        if closer.is_some_and(|closer| !writing.is_by(closer)) {
            return reply.ok();
        }
        if let Some(refused) = writing.refused() {
            return reply.error(Errno::from_i32(refused));
        }
        let Some(bytes) = writing.take() else { return reply.ok() };
        drop(writing);
        self.later(move |face| {
            let Handle::Draft(draft) = &*handle else { return };
            // A file is closed as well when its writer is killed, and what it has then may be half of what it was to be.
            if let Some(Ending(how)) = closer.and_then(|closer| face.ending_of(closer)) {
                face.events().add(&format!("refused: {YAML}: whoever wrote it {how} before it was closed"));
                return reply.error(Errno::EINTR);
            }
            match face.control.replace(&bytes, YAML, asked) {
                Ok(()) => {
                    lock(draft).accepted();
                    reply.ok();
                }
                Err(refusal) => {
                    lock(draft).refuse(refusal.errno);
                    reply.error(errno(&refusal));
                }
            }
        });
    }

    /// Renames what is in the control directory: a scratch file that gets the name of the configuration is put in force, and
    /// the configuration that is renamed is copied: it is always there.
    pub(super) fn rename_control(
        &self,
        req: &Request,
        (parent, name): (INodeNo, &OsStr),
        (new_parent, new_name): (INodeNo, &OsStr),
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let asked = asked(req);
        if self.control.journal().was_done(asked) {
            return reply.ok();
        }
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
            return self.later(move |face| {
                let result = face.control.replace_and(&file.content(), YAML, asked, |carried| {
                    face.scratch.remove_file(&name, &file);
                    face.scratch.write_down(carried);
                    face.absence.end();
                    carried.absent = None;
                });
                drop(file);
                face.scratch.sweep();
                match result {
                    Ok(()) => reply.ok(),
                    Err(refusal) => reply.error(errno(&refusal)),
                }
            });
        }
        let renamed = self.control.journal().change(|carried| {
            let new_name = scratch(new_parent, new_name)?;
            if keeps && self.scratch.named(&new_name).is_some() {
                return Err(Errno::EEXIST);
            }
            if self.is_yaml(parent, name) {
                let text = self.control.yaml().0.as_bytes().to_vec();
                let (mode, owner) = (self.tree.load().plan.mode, (req.uid(), req.gid()));
                self.scratch.make(&new_name, text, mode, owner, asked)?;
            } else if !self.scratch.rename(&scratch(parent, name)?, &new_name) {
                return Err(Errno::ENOENT);
            }
            self.scratch.write_down(carried);
            carried.did(asked);
            Ok(())
        });
        // What had that name before.
        self.scratch.sweep();
        match renamed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }
}

impl Face {
    /// Carries out a command; its answer, and what it is refused with.
    fn run(&self, command: &[u8], asked: Asked) -> (String, Option<Errno>) {
        match self.control.command(command, asked) {
            Ok(answer) => (answer, None),
            Err(refusal) => (format!("{refusal}\n"), Some(errno(&refusal))),
        }
    }

    pub(super) fn open_setting(
        &self,
        node: &Node,
        flags: OpenFlags,
        asked: Asked,
    ) -> Result<(FileHandle, FopenFlags), Errno> {
        let Node::Setting(device, setting) = node else { return Err(Errno::EISDIR) };
        let text = self.control.setting(device, *setting).ok_or(Errno::ESTALE)?.into_bytes();
        let ino = node.ino().0;
        match flags.acc_mode() {
            OpenAccMode::O_RDONLY => self.opened(asked, What::Text { ino }, |_| Handle::Text(text)),
            _ => {
                let handle = Handle::Setting { device: device.clone(), setting: *setting, text };
                self.opened(asked, What::Setting { ino }, |_| handle)
            }
        }
    }
}

fn errno(refusal: &Refusal) -> Errno {
    Errno::from_i32(refusal.errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_time_in_which_nobody_served_is_no_absence() {
        let ago = |seconds| Some(Stamp::from(clock::wall() - Duration::from_secs(seconds)));
        assert!(Absence::since(ago(10)).lasts());
        assert!(!Absence::since(ago(100)).lasts(), "nobody makes it anew");
        let none = Absence::since(None);
        none.go_on();
        assert!(!none.lasts());
        // What lasts begins anew when the mount is served, however long that took.
        let late = Absence::since(ago(10));
        late.until.store(1, Ordering::Relaxed);
        late.go_on();
        assert!(late.lasts() && late.end() && !late.lasts());
    }
}
