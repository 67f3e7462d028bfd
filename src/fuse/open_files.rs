//! The open files of a mount, under numbers that a successor gives them, too.
//!
//! Each has a record in the ledger, from before the kernel is told its number until it is closed. The number is the place of
//! the record, and above it a part of the number of the request that opened it: a release that is sent again closes nobody
//! else's file that is in the same place by now.

use super::handles::Handle;
use crate::classify::{Identity, ProcessId};
use crate::control::{Asked, Follower};
use crate::ledger::{Ledger, LedgerError, RECORD_SIZE, RECORDS, Record};
use fuser::{Errno, FileHandle};
use serde::{Deserialize, Serialize};
use slab::Slab;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The open files of a mount.
#[derive(Debug)]
pub(super) struct OpenFiles {
    ledger: Arc<Ledger>,
    files: RwLock<Slab<OpenFile>>,
    counts: Mutex<Counts>,
    /// So many there can be.
    most: usize,
}

/// A user who is not root can have this part of all that can be open, and as large a part is kept for root. Otherwise one could
/// keep out everybody, and some of them together root. All users but root together have no more open of one image either,
/// nor of all that is no image: somebody with many user ids would keep the others from theirs.
const PART: usize = 8;
/// The files that such a user has open hold no more than this, in bytes: texts as they were, drafts, commands, answers. The
/// ledger has a part of it once more.
const MOST_BYTES_OF_ONE: usize = 64 << 20;
/// And those of all such users together. Root can have all memory anyway.
const MOST_BYTES: usize = 256 << 20;

#[derive(Debug)]
struct OpenFile {
    handle: Arc<Handle>,
    entry: Entry,
    /// So much it holds. Changed under the lock of the counts.
    bytes: AtomicUsize,
}

/// What is open.
#[derive(Debug, Default)]
struct Counts {
    /// What each user has.
    of: HashMap<u32, Count>,
    /// How often all but root have each image open, and under no image what is none.
    images: HashMap<Option<u64>, usize>,
    /// Bytes of all but root.
    bytes: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    files: usize,
    bytes: usize,
}

impl Counts {
    fn files_of(&self, uid: u32) -> usize {
        self.of.get(&uid).map_or(0, |count| count.files)
    }

    fn openings_of(&self, image: Option<u64>) -> usize {
        self.images.get(&image).copied().unwrap_or_default()
    }

    /// Whether a user can hold so many bytes more.
    fn has_room(&self, uid: u32, more: usize) -> bool {
        let mine = self.of.get(&uid).map_or(0, |count| count.bytes);
        uid == 0
            || more == 0
            || mine.saturating_add(more) <= MOST_BYTES_OF_ONE && self.bytes.saturating_add(more) <= MOST_BYTES
    }

    fn opened(&mut self, entry: &Entry, bytes: usize) {
        let uid = entry.uid;
        self.of.entry(uid).or_default().files += 1;
        if uid != 0 {
            *self.images.entry(entry.what.image()).or_default() += 1;
        }
        self.hold(uid, 0, bytes);
    }

    fn closed(&mut self, entry: &Entry, bytes: usize) {
        let uid = entry.uid;
        self.hold(uid, bytes, 0);
        let image = entry.what.image();
        if let Some(open) = self.images.get_mut(&image).filter(|_| uid != 0) {
            *open -= 1;
            if *open == 0 {
                self.images.remove(&image);
            }
        }
        if let Some(count) = self.of.get_mut(&uid) {
            count.files -= 1;
            if count.files == 0 {
                self.of.remove(&uid);
            }
        }
    }

    /// A file that held so many bytes holds others now.
    fn hold(&mut self, uid: u32, before: usize, now: usize) {
        if let Some(count) = self.of.get_mut(&uid).filter(|_| uid != 0) {
            count.bytes = count.bytes - before + now;
            self.bytes = self.bytes - before + now;
        }
    }
}

/// What is written down of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The request that opened it.
    #[serde(rename = "by")]
    pub(super) opened_by: u64,
    /// The user whose it is.
    #[serde(default)]
    pub(super) uid: u32,
    #[serde(rename = "is")]
    pub(super) what: What,
}

/// What is open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum What {
    /// An image, and who opened it.
    Image { ino: u64, opener: Opener },
    /// A file that is read as it was when it was opened.
    Text { ino: u64 },
    /// The running configuration, being written; the rest is in the content of the same number as the record.
    Draft,
    /// A file of an editor.
    Scratch { ino: u64 },
    /// A conversation by `ctl`; the rest is in the content.
    Transaction,
    /// A file of a device that is written to.
    Setting { ino: u64 },
    /// The events, how far they were read, and by which number the kernel knows who waits for more.
    Events { follower: Follower, waiting: Option<u64> },
}

impl What {
    /// The image that it is, by its inode number.
    fn image(&self) -> Option<u64> {
        match self {
            Self::Image { ino, .. } => Some(*ino),
            _ => None,
        }
    }
}

/// An [`Identity`], as far as there is room for its cgroups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Opener {
    uid: u32,
    gid: u32,
    /// Number and birth.
    #[serde(rename = "pid", default)]
    process: Option<(u32, u64)>,
    #[serde(default)]
    pgrp: Option<u32>,
    #[serde(default)]
    cgroups: Vec<String>,
}

impl From<&Identity> for Opener {
    fn from(identity: &Identity) -> Self {
        let Identity { uid, gid, process, pgrp, cgroups } = identity;
        let process = process.map(|ProcessId { tgid, birth }| (tgid, birth));
        let cgroups = cgroups.iter().map(|path| path.to_string()).collect();
        Self { uid: *uid, gid: *gid, process, pgrp: *pgrp, cgroups }
    }
}

impl From<Opener> for Identity {
    fn from(Opener { uid, gid, process, pgrp, cgroups }: Opener) -> Self {
        let process = process.map(|(tgid, birth)| ProcessId { tgid, birth });
        let cgroups = cgroups.into_iter().map(String::into_boxed_str).collect();
        Self { uid, gid, process, pgrp, cgroups }
    }
}

impl Entry {
    /// Nothing if it does not fit, not even without cgroups.
    fn record(&self) -> Option<Record> {
        let mut entry = self.clone();
        loop {
            let text = serde_json::to_vec(&entry).ok()?;
            if text.len() <= RECORD_SIZE {
                let mut record = [0; RECORD_SIZE];
                record[..text.len()].copy_from_slice(&text);
                return Some(record);
            }
            // The last ones are those of cgroup v1.
            let What::Image { opener, .. } = &mut entry.what else { return None };
            opener.cgroups.pop()?;
        }
    }

    fn read(record: &Record) -> Result<Self, LedgerError> {
        let len = record.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        serde_json::from_slice(&record[..len]).map_err(|error| LedgerError::Content(error.to_string()))
    }
}

impl OpenFiles {
    /// None are open as yet.
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, files: RwLock::default(), counts: Mutex::default(), most: RECORDS as usize }
    }

    #[cfg(test)]
    pub(super) fn with_room_for(ledger: Arc<Ledger>, most: usize) -> Self {
        Self { most, ..Self::new(ledger) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Slab<OpenFile>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is asked through a file counts as asked by whoever opened it, unless that is root: a descriptor can be given to a
    /// program of another user, which then writes to it what it was made to say.
    pub(super) fn asked_through(&self, fh: FileHandle, asked: Asked) -> Asked {
        let files = self.read();
        match find(&files, fh).map(|(_, file)| file.entry.uid) {
            None | Some(0) => asked,
            Some(uid) => Asked { uid, ..asked },
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slab<OpenFile>> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file was opened: `make` makes it, of the place that it gets.
    ///
    /// # Errors
    /// ENFILE when too many are open or hold too much, ENOMEM when it cannot be written down.
    pub(super) fn add(
        &self,
        asked: Asked,
        what: What,
        make: impl FnOnce(u32) -> Handle,
    ) -> Result<FileHandle, Errno> {
        let mut files = self.write();
        let uid = asked.uid;
        let mut counts = self.counts();
        let part = self.most / PART;
        let is_full = match uid {
            0 => files.len() >= self.most,
            _ => {
                files.len() >= self.most - part
                    || counts.files_of(uid) >= part
                    || counts.openings_of(what.image()) >= part
            }
        };
        if is_full {
            return Err(Errno::ENFILE);
        }
        let place = files.vacant_entry();
        // There are no more than can be open.
        let index = place.key() as u32;
        let handle = make(index);
        let bytes = handle.bytes();
        if !counts.has_room(uid, bytes) {
            handle.end();
            return Err(Errno::ENFILE);
        }
        let entry = Entry { opened_by: asked.unique, uid, what };
        let record = entry.record().ok_or(Errno::ENAMETOOLONG)?;
        self.ledger.put_record(index, &record).map_err(|_| Errno::ENOMEM)?;
        let fh = number(index, &entry);
        counts.opened(&entry, bytes);
        place.insert(OpenFile { handle: Arc::new(handle), entry, bytes: bytes.into() });
        Ok(fh)
    }

    /// A file is to hold so many bytes.
    ///
    /// # Errors
    /// ENOSPC when that is more than it has, and too much of its user.
    pub(super) fn grow(&self, fh: FileHandle, bytes: usize) -> Result<(), Errno> {
        self.recount(fh, bytes, Counts::has_room)
    }

    /// A file holds so many bytes, however much that is.
    pub(super) fn holds(&self, fh: FileHandle, bytes: usize) {
        // Nothing keeps it from that.
        let _ = self.recount(fh, bytes, |_, _, _| true);
    }

    /// A file holds so many bytes from now on, if its user `may` have as many more.
    fn recount(
        &self,
        fh: FileHandle,
        bytes: usize,
        may: impl FnOnce(&Counts, u32, usize) -> bool,
    ) -> Result<(), Errno> {
        let files = self.read();
        let Some((_, file)) = find(&files, fh) else { return Ok(()) };
        let mut counts = self.counts();
        let (uid, before) = (file.entry.uid, file.bytes.load(Ordering::Relaxed));
        if !may(&counts, uid, bytes.saturating_sub(before)) {
            return Err(Errno::ENOSPC);
        }
        counts.hold(uid, before, bytes);
        file.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// An open file.
    pub(super) fn get(&self, fh: FileHandle) -> Option<Arc<Handle>> {
        let files = self.read();
        find(&files, fh).map(|(_, file)| file.handle.clone())
    }

    /// The file that a request has opened before it was sent again.
    pub(super) fn opened_by(&self, asked: Asked) -> Option<(FileHandle, Arc<Handle>)> {
        if !asked.again {
            return None;
        }
        let files = self.read();
        let (index, file) = files.iter().find(|(_, file)| file.entry.opened_by == asked.unique)?;
        Some((number(index as u32, &file.entry), file.handle.clone()))
    }

    /// Writes down something else about a file, if it is something else.
    pub(super) fn note(&self, fh: FileHandle, change: impl FnOnce(&mut What)) {
        let mut files = self.write();
        let Some(index) = find(&files, fh).map(|(index, _)| index) else { return };
        let Some(file) = files.get_mut(index) else { return };
        let mut entry = file.entry.clone();
        change(&mut entry.what);
        if entry == file.entry {
            return;
        }
        let written = entry.record().map(|record| self.ledger.put_record(index as u32, &record));
        if let Some(Err(error)) = &written {
            tracing::error!(%error, "cannot write down how far a file was read");
        }
        file.entry = entry;
    }

    /// Closes a file, once.
    pub(super) fn remove(&self, fh: FileHandle) -> Option<Arc<Handle>> {
        let mut files = self.write();
        let (index, _) = find(&files, fh)?;
        let file = files.try_remove(index)?;
        self.counts().closed(&file.entry, file.bytes.load(Ordering::Relaxed));
        if let Err(error) = self.ledger.clear_record(index as u32) {
            tracing::error!(%error, "cannot write down that a file is closed");
        }
        Some(file.handle)
    }

    /// What is lost, by its number.
    pub(super) fn lost(&self) -> Vec<(FileHandle, What)> {
        let files = self.read();
        let lost = files.iter().filter(|(_, file)| matches!(*file.handle, Handle::Lost));
        lost.map(|(index, file)| (number(index as u32, &file.entry), file.entry.what.clone())).collect()
    }

    /// What each open file is, by its number.
    pub(super) fn entries(&self) -> Vec<(FileHandle, What)> {
        let files = self.read();
        files
            .iter()
            .map(|(index, file)| (number(index as u32, &file.entry), file.entry.what.clone()))
            .collect()
    }

    /// What was lost is there again. Gives the handle back if the file was closed meanwhile, or is not lost.
    #[must_use = "an image was counted as open for this"]
    pub(super) fn found_again(&self, fh: FileHandle, handle: Handle) -> Option<Handle> {
        let mut files = self.write();
        let index = find(&files, fh).map(|(index, _)| index);
        match index.and_then(|index| files.get_mut(index)) {
            Some(file) if matches!(*file.handle, Handle::Lost) => {
                file.handle = Arc::new(handle);
                None
            }
            _ => Some(handle),
        }
    }

    /// What a predecessor had open.
    ///
    /// # Errors
    /// When it cannot be read or makes no sense.
    pub(super) fn inherited(ledger: &Ledger) -> Result<Vec<(u32, Entry)>, LedgerError> {
        let records = ledger.records()?;
        records.iter().map(|(index, record)| Ok((*index, Entry::read(record)?))).collect()
    }

    /// Strikes out what was opened by requests that were refused since: nobody closes it.
    ///
    /// # Errors
    /// When it cannot be read or makes no sense.
    pub(super) fn forget(ledger: &Ledger, refused: &[u64]) -> Result<(), LedgerError> {
        if refused.is_empty() {
            return Ok(());
        }
        for (index, _) in
            Self::inherited(ledger)?.iter().filter(|(_, entry)| refused.contains(&entry.opened_by))
        {
            ledger.clear_record(*index)?;
        }
        Ok(())
    }

    /// Goes on with what a predecessor had open, with handles that were made for it.
    pub(super) fn go_on(&self, inherited: Vec<(u32, Entry, Handle)>) {
        let mut counts = self.counts();
        for (_, entry, handle) in &inherited {
            counts.opened(entry, handle.bytes());
        }
        drop(counts);
        let files = inherited.into_iter();
        *self.write() = files
            .map(|(index, entry, handle)| {
                let bytes = handle.bytes().into();
                (index as usize, OpenFile { handle: Arc::new(handle), entry, bytes })
            })
            .collect();
    }
}

/// The number of an open file. The numbers of requests go up by two, so that the same one comes round again after some 2^32 of
/// them; what is told apart by it has been closed a moment ago.
fn number(index: u32, entry: &Entry) -> FileHandle {
    FileHandle(u64::from((entry.opened_by >> 1) as u32) << 32 | u64::from(index))
}

fn find(files: &Slab<OpenFile>, fh: FileHandle) -> Option<(usize, &OpenFile)> {
    let index = fh.0 as u32;
    let file = files.get(index as usize)?;
    (number(index, &file.entry) == fh).then_some((index as usize, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(unique: u64) -> Asked {
        Asked { unique, again: true, ..Asked::default() }
    }

    fn text(files: &OpenFiles, unique: u64) -> Result<FileHandle, Errno> {
        files.add(asked(unique), What::Text { ino: unique }, |_| Handle::Text(Vec::new()))
    }

    /// A user opens a text of so many bytes.
    fn text_of(files: &OpenFiles, uid: u32, unique: u64, bytes: usize) -> Result<FileHandle, Errno> {
        let asked = Asked { unique, uid, ..Asked::default() };
        files.add(asked, What::Text { ino: 1 }, |_| Handle::Text(vec![0; bytes]))
    }

    /// A user opens an image.
    fn image_of(files: &OpenFiles, uid: u32, unique: u64, ino: u64) -> Result<FileHandle, Errno> {
        let asked = Asked { unique, uid, ..Asked::default() };
        let opener = Opener::from(&Identity::from_ids(uid, uid));
        files.add(asked, What::Image { ino, opener }, |_| Handle::Lost)
    }

    #[test]
    fn whoever_has_many_names_keeps_nobody_from_another_image() {
        let ledger = Arc::new(Ledger::new().unwrap());
        let files = OpenFiles::with_room_for(ledger.clone(), 2 * PART);
        let (own, another) = (7, 8);
        let first = image_of(&files, 1001, 2, own).unwrap();
        assert!(image_of(&files, 1002, 4, own).is_ok());
        assert_eq!(image_of(&files, 1003, 6, own).unwrap_err().code(), libc::ENFILE);
        assert!(text_of(&files, 1003, 8, 0).is_ok() && text_of(&files, 1004, 10, 0).is_ok());
        assert_eq!(text_of(&files, 1005, 12, 0).unwrap_err().code(), libc::ENFILE);
        // Root is not concerned, nor is who opens another one.
        assert!(image_of(&files, 0, 14, own).is_ok() && text_of(&files, 0, 16, 0).is_ok());
        assert!(image_of(&files, 64055, 18, another).is_ok());
        files.remove(first);
        assert!(image_of(&files, 1005, 20, own).is_ok());
        // A successor counts the same.
        let heir = OpenFiles::with_room_for(ledger.clone(), 2 * PART);
        let open = OpenFiles::inherited(&ledger).unwrap();
        heir.go_on(open.into_iter().map(|(index, entry)| (index, entry, Handle::Lost)).collect());
        assert_eq!(image_of(&heir, 1006, 22, own).unwrap_err().code(), libc::ENFILE);
    }

    #[test]
    fn they_are_bounded_and_what_is_closed_makes_room() {
        let files = OpenFiles::with_room_for(Arc::new(Ledger::new().unwrap()), 3);
        let open: Vec<_> = (1..=3).map(|n| text(&files, 2 * n).unwrap()).collect();
        assert_eq!(text(&files, 8).unwrap_err().code(), libc::ENFILE);
        assert!(files.remove(open[1]).is_some());
        assert!(text(&files, 10).is_ok());
    }

    #[test]
    fn nobody_but_root_has_all_of_them() {
        let files = OpenFiles::with_room_for(Arc::new(Ledger::new().unwrap()), 2 * PART);
        let open = |uid: u32, unique| image_of(&files, uid, unique, uid.into());
        let first = open(1001, 2).unwrap();
        assert!(open(1001, 4).is_ok());
        assert_eq!(open(1001, 6).unwrap_err().code(), libc::ENFILE);
        // Others are not concerned, and root has what is left.
        assert!(open(1002, 8).is_ok());
        assert!((0..4).all(|n| open(0, 10 + 2 * n).is_ok()));
        files.remove(first);
        assert!(open(1001, 20).is_ok());
        // What goes through a descriptor is its opener's, whoever sends it.
        let mine = open(1002, 22).unwrap();
        assert_eq!(files.asked_through(mine, Asked::default()).uid, 1002);
    }

    #[test]
    fn not_even_all_users_together_keep_root_out() {
        let files = OpenFiles::with_room_for(Arc::new(Ledger::new().unwrap()), 2 * PART);
        let open = |uid: u32, unique| image_of(&files, uid, unique, uid.into());
        for uid in 1..8 {
            assert!((0..2).all(|n| open(uid, 2 * n).is_ok()));
        }
        assert_eq!(open(8, 4).unwrap_err().code(), libc::ENFILE);
        assert!((0..2).all(|n| open(0, 2 * n).is_ok()));
        assert_eq!(open(0, 4).unwrap_err().code(), libc::ENFILE);
    }

    #[test]
    fn what_they_hold_is_bounded_for_all_but_root() {
        let files = OpenFiles::new(Arc::new(Ledger::new().unwrap()));
        let open = |uid, unique, bytes| text_of(&files, uid, unique, bytes);
        let half = MOST_BYTES_OF_ONE / 2;
        let first = open(1001, 2, half).unwrap();
        let second = open(1001, 4, half - 1).unwrap();
        assert_eq!(open(1001, 6, 2).unwrap_err().code(), libc::ENFILE);
        assert_eq!(files.grow(second, half + 1).unwrap_err().code(), libc::ENOSPC);
        assert!(files.grow(second, half).is_ok() && open(1001, 8, 0).is_ok());
        for uid in 1002..1005 {
            assert!((0..2).all(|n| open(uid, 10 + 2 * n, half).is_ok()));
        }
        assert_eq!(open(1005, 20, 1).unwrap_err().code(), libc::ENFILE, "all together");
        let mine = open(0, 22, 2 * MOST_BYTES).unwrap();
        assert!(files.grow(mine, 3 * MOST_BYTES).is_ok());
        // Where it is known only afterwards, it counts.
        files.holds(second, 2 * half);
        files.remove(first);
        assert_eq!(open(1001, 24, 1).unwrap_err().code(), libc::ENFILE);
        files.remove(second);
        assert!(open(1001, 26, half).is_ok());
        assert_eq!(files.counts().bytes, 7 * half);
    }

    #[test]
    fn a_release_that_is_sent_again_closes_nobody_elses() {
        let files = OpenFiles::new(Arc::new(Ledger::new().unwrap()));
        let first = text(&files, 2).unwrap();
        assert!(files.remove(first).is_some());
        let second = text(&files, 4).unwrap();
        assert_eq!(first.0 as u32, second.0 as u32, "in the same place");
        assert!(files.remove(first).is_none() && files.get(first).is_none());
        assert!(files.get(second).is_some());
    }

    #[test]
    fn what_was_lost_is_found_once_and_only_while_it_is_open() {
        let files = OpenFiles::new(Arc::new(Ledger::new().unwrap()));
        let lost = |unique| files.add(asked(unique), What::Text { ino: unique }, |_| Handle::Lost).unwrap();
        let (first, second) = (lost(2), lost(4));
        text(&files, 6).unwrap();
        assert_eq!(files.lost(), [(first, What::Text { ino: 2 }), (second, What::Text { ino: 4 })]);
        let found = || Handle::Text(Vec::new());
        files.remove(first);
        assert!(files.found_again(first, found()).is_some(), "it is closed");
        assert!(files.found_again(second, found()).is_none());
        assert!(files.found_again(second, found()).is_some(), "it is not lost any more");
        assert!(files.lost().is_empty());
    }

    #[test]
    fn an_open_that_is_sent_again_finds_what_it_has_opened() {
        let files = OpenFiles::new(Arc::new(Ledger::new().unwrap()));
        let first = text(&files, 2).unwrap();
        text(&files, 4).unwrap();
        assert_eq!(files.opened_by(asked(2)).map(|(fh, _)| fh), Some(first));
        assert!(files.opened_by(asked(6)).is_none());
        assert!(files.opened_by(Asked { unique: 2, ..Asked::default() }).is_none());
    }

    #[test]
    fn an_open_that_was_refused_when_it_was_sent_again_is_forgotten() {
        let ledger = Arc::new(Ledger::new().unwrap());
        let files = OpenFiles::new(ledger.clone());
        for unique in [2, 4, 6] {
            text(&files, unique).unwrap();
        }
        OpenFiles::forget(&ledger, &[]).unwrap();
        OpenFiles::forget(&ledger, &[4, 8]).unwrap();
        let left = OpenFiles::inherited(&ledger).unwrap();
        assert_eq!(left.iter().map(|(_, entry)| entry.opened_by).collect::<Vec<_>>(), [2, 6]);
    }

    #[test]
    fn an_opener_is_written_down_with_as_many_cgroups_as_there_is_room_for() {
        let path = |length: usize| format!("/{}", "x".repeat(length - 1)).into_boxed_str();
        let identity = |cgroups: Vec<Box<str>>| Identity {
            process: Some(ProcessId { tgid: u32::MAX, birth: u64::MAX }),
            pgrp: Some(u32::MAX),
            cgroups: cgroups.into(),
            ..Identity::from_ids(u32::MAX, u32::MAX)
        };
        let kept = |identity: &Identity| {
            let what = What::Image { ino: u64::MAX, opener: identity.into() };
            let record = Entry { opened_by: u64::MAX, uid: 0, what }.record().unwrap();
            let Entry { what: What::Image { opener, .. }, .. } = Entry::read(&record).unwrap() else {
                panic!("another kind")
            };
            Identity::from(opener)
        };
        let fits = identity(vec![path(150), path(80)]);
        assert_eq!(kept(&fits), fits);
        let [long, longer] = [identity(vec![path(150), path(300)]), identity(vec![path(4000)])];
        assert_eq!(kept(&long), identity(vec![path(150)]));
        assert_eq!(kept(&longer), identity(Vec::new()));
    }
}
