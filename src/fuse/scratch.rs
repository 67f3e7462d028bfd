//! What editors keep beside a file that they edit: temporary files that are renamed over it, backups, swap files.
//!
//! They are in the control directory, in memory, few and small, and gone with the mount.

use super::kept::{self, KeptDraft};
use super::node::file_attr;
use crate::clock;
use crate::control::{Asked, Carried, Draft, ScratchEntry};
use crate::ledger::{Ledger, RECORDS};
use fuser::{Errno, FileAttr, INodeNo, TimeOrNow};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

/// Inode numbers of scratch files have this bit.
const SCRATCH_BIT: u64 = 1 << 60;
/// So many there can be.
const MOST: usize = 64;
/// So many there can be together with those that lost their names and are open.
const MOST_OPEN: usize = 4 * MOST;
/// So large one can be, in bytes: a little more than any configuration that is accepted, so that one which is too large is
/// refused for what it is.
const LARGEST: usize = 4 << 20;
/// And so large all together.
const MOST_BYTES: usize = 16 << 20;
/// Their contents in the ledger come behind those of open files.
const FIRST_CONTENT: u32 = RECORDS;

/// A file that an editor has made.
#[derive(Debug)]
pub(super) struct ScratchFile {
    pub(super) ino: INodeNo,
    /// The request that made it.
    pub(super) made_by: u64,
    content: u32,
    inner: Mutex<Inner>,
    /// Bytes of all of them, those without a name included.
    used: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Inner {
    kept: KeptDraft,
    mode: u16,
    owner: (u32, u32),
    atime: SystemTime,
}

/// Those of a mount.
#[derive(Debug)]
pub(super) struct Scratch {
    ledger: Arc<Ledger>,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    /// Files without a name live as long as their handles; those keep them.
    by_name: BTreeMap<String, Arc<ScratchFile>>,
    /// All of them, and some that have gone and whose contents are still to be cleared; with the numbers of these, which nobody
    /// else gets before that.
    all: Vec<(u32, Weak<ScratchFile>)>,
    last: u64,
    used: Arc<AtomicUsize>,
}

impl Scratch {
    /// None as yet.
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, files: Mutex::default() }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of a predecessor; all of them, so that somebody can take those without a name. One that was closed after it lost
    /// its name may still be written down, without a content.
    pub(super) fn go_on(&self, carried: &Carried) -> Vec<Arc<ScratchFile>> {
        let mut files = self.files();
        files.last = carried.last_scratch;
        let mut all = Vec::new();
        for entry in &carried.scratch {
            let kept = match KeptDraft::go_on(self.ledger.clone(), entry.content, LARGEST) {
                Ok(kept) => kept,
                Err(error) => {
                    if let Some(name) = &entry.name {
                        tracing::warn!(%error, "{name} is lost");
                    }
                    continue;
                }
            };
            files.used.fetch_add(kept.bytes().len(), Ordering::Relaxed);
            let file = Arc::new(ScratchFile {
                ino: INodeNo(entry.ino),
                made_by: entry.made_by,
                content: entry.content,
                inner: Mutex::new(Inner {
                    kept,
                    mode: entry.mode,
                    owner: entry.owner,
                    atime: entry.atime.into(),
                }),
                used: files.used.clone(),
            });
            files.all.push((file.content, Arc::downgrade(&file)));
            if let Some(name) = &entry.name {
                files.by_name.insert(name.clone(), file.clone());
            }
            all.push(file);
        }
        all
    }

    /// Writes down which there are.
    pub(super) fn write_down(&self, carried: &mut Carried) {
        let files = self.files();
        let names: Vec<_> = files.by_name.iter().map(|(name, file)| (file.ino, name)).collect();
        let entry = |file: Arc<ScratchFile>| {
            let name = names.iter().find(|(ino, _)| *ino == file.ino).map(|(_, name)| (*name).clone());
            file.entry(name)
        };
        carried.scratch = files.there().map(entry).collect();
        carried.last_scratch = files.last;
    }

    /// Makes a file, or replaces one.
    pub(super) fn make(
        &self,
        name: &str,
        content: Vec<u8>,
        mode: u16,
        owner: (u32, u32),
        asked: Asked,
    ) -> Result<Arc<ScratchFile>, Errno> {
        let mut files = self.files();
        let there = files.by_name.contains_key(name);
        // Those that lost their names and are open count, too.
        files.sweep(&self.ledger);
        if (files.by_name.len() >= MOST && !there) || files.all.len() >= MOST_OPEN {
            return Err(Errno::ENOSPC);
        }
        take(&files.used, content.len())?;
        let taken: HashSet<u32> = files.all.iter().map(|(content, _)| *content).collect();
        // There are fewer than that.
        let place = (FIRST_CONTENT..).find(|content| !taken.contains(content)).ok_or(Errno::ENOSPC)?;
        files.last += 1;
        let kept = KeptDraft::begin(self.ledger.clone(), place, Draft::new(content, LARGEST));
        let file = Arc::new(ScratchFile {
            ino: INodeNo(files.last | SCRATCH_BIT),
            made_by: asked.unique,
            content: place,
            inner: Mutex::new(Inner { kept, mode, owner, atime: clock::wall() }),
            used: files.used.clone(),
        });
        files.all.push((place, Arc::downgrade(&file)));
        let replaced = files.by_name.insert(name.to_owned(), file.clone());
        drop(files);
        drop(replaced);
        Ok(file)
    }

    pub(super) fn named(&self, name: &str) -> Option<Arc<ScratchFile>> {
        self.files().by_name.get(name).cloned()
    }

    /// The one with that inode number, also if it has no name any more.
    pub(super) fn numbered(&self, ino: INodeNo) -> Option<Arc<ScratchFile>> {
        self.files().there().find(|file| file.ino == ino)
    }

    /// All that have a name.
    pub(super) fn all(&self) -> Vec<(String, Arc<ScratchFile>)> {
        self.files().by_name.iter().map(|(name, file)| (name.clone(), file.clone())).collect()
    }

    pub(super) fn remove(&self, name: &str) -> Option<Arc<ScratchFile>> {
        self.files().by_name.remove(name)
    }

    /// Gives a file another name, and takes away what had that.
    pub(super) fn rename(&self, from: &str, to: &str) -> bool {
        let mut files = self.files();
        let Some(file) = files.by_name.remove(from) else { return false };
        let replaced = files.by_name.insert(to.to_owned(), file);
        drop(files);
        drop(replaced);
        true
    }

    /// Takes a file away, if it has that name still.
    pub(super) fn remove_file(&self, name: &str, file: &Arc<ScratchFile>) {
        let mut files = self.files();
        if files.by_name.get(name).is_some_and(|there| Arc::ptr_eq(there, file)) {
            files.by_name.remove(name);
        }
    }

    /// Clears the contents of files that have gone. That is for those who let a file go, once it is written down: a file that
    /// is dropped with the mount is its successor's.
    pub(super) fn sweep(&self) {
        self.files().sweep(&self.ledger);
    }
}

impl Files {
    fn there(&self) -> impl Iterator<Item = Arc<ScratchFile>> {
        self.all.iter().filter_map(|(_, file)| file.upgrade())
    }

    fn sweep(&mut self, ledger: &Ledger) {
        self.all.retain(|(content, file)| {
            let is_there = file.strong_count() > 0;
            if !is_there {
                kept::clear(ledger, *content);
            }
            is_there
        });
    }
}

/// Takes room for so many bytes more.
fn take(used: &AtomicUsize, more: usize) -> Result<(), Errno> {
    let fits = |used: usize| used.checked_add(more).filter(|used| *used <= MOST_BYTES);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map(drop).map_err(|_| Errno::ENOSPC)
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        let len = self.inner().kept.bytes().len();
        self.used.fetch_sub(len, Ordering::Relaxed);
    }
}

impl ScratchFile {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it holds.
    pub(super) fn content(&self) -> Vec<u8> {
        self.inner().kept.bytes().to_vec()
    }

    pub(super) fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        self.inner().kept.read(offset, size).to_vec()
    }

    pub(super) fn write(&self, offset: Option<u64>, data: &[u8], asked: Asked) -> Result<(), Errno> {
        let mut inner = self.inner();
        if offset.is_none() && inner.kept.has_appended(asked) {
            return Ok(());
        }
        let at = offset.unwrap_or(inner.kept.bytes().len() as u64);
        let end = usize::try_from(at).unwrap_or(usize::MAX).saturating_add(data.len());
        self.grow(&inner, end)?;
        inner.kept.write(offset, data, asked).map_err(|_| Errno::EFBIG)
    }

    pub(super) fn resize(&self, len: u64) -> Result<(), Errno> {
        let mut inner = self.inner();
        let end = usize::try_from(len).unwrap_or(usize::MAX);
        let before = inner.kept.bytes().len();
        self.grow(&inner, end)?;
        inner.kept.resize(len).map_err(|_| Errno::EFBIG)?;
        self.used.fetch_sub(before.saturating_sub(end), Ordering::Relaxed);
        Ok(())
    }

    /// Takes room for a file that is to end there.
    fn grow(&self, inner: &Inner, end: usize) -> Result<(), Errno> {
        if end > LARGEST {
            return Err(Errno::EFBIG);
        }
        take(&self.used, end.saturating_sub(inner.kept.bytes().len()))
    }

    pub(super) fn attr(&self) -> FileAttr {
        let inner = self.inner();
        let size = inner.kept.bytes().len() as u64;
        FileAttr {
            atime: inner.atime,
            ..file_attr(self.ino, size, inner.mode, inner.owner, inner.kept.written())
        }
    }

    fn entry(&self, name: Option<String>) -> ScratchEntry {
        let inner = self.inner();
        ScratchEntry {
            ino: self.ino.0,
            name,
            mode: inner.mode,
            owner: inner.owner,
            atime: inner.atime.into(),
            content: self.content,
            made_by: self.made_by,
        }
    }

    /// Whoever may do that is asked by the kernel.
    pub(super) fn change(
        &self,
        mode: Option<u32>,
        owner: (Option<u32>, Option<u32>),
        times: (Option<TimeOrNow>, Option<TimeOrNow>),
    ) {
        let now = clock::wall();
        let time = |t| match t {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => now,
        };
        let mut inner = self.inner();
        inner.mode = mode.map_or(inner.mode, |mode| (mode & 0o777) as u16);
        inner.owner = (owner.0.unwrap_or(inner.owner.0), owner.1.unwrap_or(inner.owner.1));
        inner.atime = times.0.map_or(inner.atime, time);
        if let Some(written) = times.1.map(time) {
            inner.kept.set_written(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Asked = Asked { unique: 0, again: false, uid: 0 };

    fn scratch() -> Scratch {
        Scratch::new(Arc::new(Ledger::new().unwrap()))
    }

    #[test]
    fn they_are_few_and_small() {
        let scratch = scratch();
        for i in 0..MOST {
            scratch.make(&i.to_string(), Vec::new(), 0o600, (0, 0), NOBODY).unwrap();
        }
        assert!(scratch.make("one more", Vec::new(), 0o600, (0, 0), NOBODY).is_err());
        let file = scratch.named("0").unwrap();
        assert!(file.write(Some(LARGEST as u64), b"x", NOBODY).is_err());
        assert!(file.write(None, b"abc", NOBODY).is_ok());
        assert_eq!(file.read(1, 9), b"bc");
    }

    #[test]
    fn all_together_are_bounded_with_and_without_names() {
        let scratch = scratch();
        let file = |name: &str| scratch.make(name, Vec::new(), 0o600, (0, 0), NOBODY).unwrap();
        let open: Vec<_> = (0..4).map(|n| file(&n.to_string())).collect();
        for (n, file) in open.iter().enumerate() {
            file.write(Some(LARGEST as u64 - 1), b"x", NOBODY).unwrap();
            scratch.remove(&n.to_string());
        }
        let more = file("more");
        assert!(more.write(None, b"x", NOBODY).is_err() && more.resize(1).is_err());
        open[0].resize(10).unwrap();
        assert!(more.write(None, b"x", NOBODY).is_ok());
        drop(open);
        assert!(more.resize(LARGEST as u64).is_ok());
        drop((more, scratch.remove("more")));
        assert_eq!(scratch.files().used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_rename_takes_the_place() {
        let scratch = scratch();
        scratch.make("a", b"new".to_vec(), 0o600, (0, 0), NOBODY).unwrap();
        scratch.make("b", b"old".to_vec(), 0o600, (0, 0), NOBODY).unwrap();
        assert!(scratch.rename("a", "b"));
        assert!(!scratch.rename("a", "c"));
        assert_eq!(scratch.all().len(), 1);
        assert_eq!(scratch.named("b").unwrap().content(), b"new");
    }

    #[test]
    fn numbers_are_not_used_twice() {
        let scratch = scratch();
        let first = scratch.make("a", Vec::new(), 0o600, (0, 0), NOBODY).unwrap().ino;
        scratch.remove("a");
        assert_ne!(scratch.make("a", Vec::new(), 0o600, (0, 0), NOBODY).unwrap().ino, first);
        assert!(scratch.numbered(first).is_none());
    }

    #[test]
    fn who_fails_to_take_them_over_leaves_them_as_they_are() {
        let ledger = Arc::new(Ledger::new().unwrap());
        let scratch = Scratch::new(ledger.clone());
        scratch.make("a", b"text".to_vec(), 0o600, (0, 0), NOBODY).unwrap();
        let mut carried = Carried::default();
        scratch.write_down(&mut carried);
        drop(scratch);
        for _ in 0..2 {
            let heir = Scratch::new(ledger.clone());
            heir.go_on(&carried);
            assert_eq!(heir.named("a").expect("still there").content(), b"text");
        }
    }

    #[test]
    fn a_content_is_cleared_before_somebody_else_gets_its_place() {
        let scratch = scratch();
        let make = |name: &str| scratch.make(name, b"text".to_vec(), 0o600, (0, 0), NOBODY).unwrap();
        let kept = |content| scratch.ledger.content(content).get().unwrap().is_some();
        let open = make("a");
        scratch.remove("a");
        scratch.sweep();
        assert!(kept(open.content), "it is open");
        assert_ne!(make("b").content, open.content);
        let place = open.content;
        drop(open);
        assert!(kept(place), "nobody has swept");
        scratch.sweep();
        assert!(!kept(place));
        assert_eq!(make("c").content, place);
        assert!(kept(place));
    }
}
