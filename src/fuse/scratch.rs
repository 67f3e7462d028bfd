//! What editors keep beside a file that they edit: temporary files that are renamed over it, backups, swap files.
//!
//! They are in the control directory, in memory, few and small, and gone with the mount.

use super::node::file_attr;
use crate::clock;
use crate::control::Draft;
use fuser::{Errno, FileAttr, INodeNo, TimeOrNow};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Inode numbers of scratch files have this bit.
const SCRATCH_BIT: u64 = 1 << 60;
/// So many there can be.
const MOST: usize = 64;
/// So large one can be, in bytes: a little more than any configuration that is accepted, so that one which is too large is
/// refused for what it is.
const LARGEST: usize = 4 << 20;
/// And so large all together.
const MOST_BYTES: usize = 16 << 20;

/// A file that an editor has made.
#[derive(Debug)]
pub(super) struct ScratchFile {
    pub(super) ino: INodeNo,
    inner: Mutex<Inner>,
    /// Bytes of all of them, those without a name included.
    used: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Inner {
    content: Draft,
    mode: u16,
    owner: (u32, u32),
    atime: SystemTime,
    mtime: SystemTime,
}

/// Those of a mount.
#[derive(Debug, Default)]
pub(super) struct Scratch(Mutex<Files>);

#[derive(Debug, Default)]
struct Files {
    /// Files without a name live as long as their handles; those keep them.
    by_name: BTreeMap<String, Arc<ScratchFile>>,
    last: u64,
    used: Arc<AtomicUsize>,
}

impl Scratch {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a file, or replaces one.
    pub(super) fn make(
        &self,
        name: &str,
        content: Vec<u8>,
        mode: u16,
        owner: (u32, u32),
    ) -> Result<Arc<ScratchFile>, Errno> {
        let mut files = self.files();
        let there = files.by_name.contains_key(name);
        // Besides those with a name there are those that lost theirs and are open.
        if (files.by_name.len() >= MOST && !there) || Arc::strong_count(&files.used) > 4 * MOST {
            return Err(Errno::ENOSPC);
        }
        take(&files.used, content.len())?;
        files.last += 1;
        let now = clock::wall();
        let content = Draft::new(content, LARGEST);
        let file = Arc::new(ScratchFile {
            ino: INodeNo(files.last | SCRATCH_BIT),
            inner: Mutex::new(Inner { content, mode, owner, atime: now, mtime: now }),
            used: files.used.clone(),
        });
        files.by_name.insert(name.to_owned(), file.clone());
        Ok(file)
    }

    pub(super) fn named(&self, name: &str) -> Option<Arc<ScratchFile>> {
        self.files().by_name.get(name).cloned()
    }

    pub(super) fn numbered(&self, ino: INodeNo) -> Option<Arc<ScratchFile>> {
        self.files().by_name.values().find(|file| file.ino == ino).cloned()
    }

    /// All of them by name.
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
        files.by_name.insert(to.to_owned(), file);
        true
    }

    /// Takes a file away, if it has that name still.
    pub(super) fn remove_file(&self, name: &str, file: &Arc<ScratchFile>) {
        let mut files = self.files();
        if files.by_name.get(name).is_some_and(|there| Arc::ptr_eq(there, file)) {
            files.by_name.remove(name);
        }
    }
}

/// Takes room for so many bytes more.
fn take(used: &AtomicUsize, more: usize) -> Result<(), Errno> {
    let fits = |used: usize| used.checked_add(more).filter(|used| *used <= MOST_BYTES);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map(drop).map_err(|_| Errno::ENOSPC)
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        let size = self.inner().content.bytes().len();
        self.used.fetch_sub(size, Ordering::Relaxed);
    }
}

impl ScratchFile {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it holds.
    pub(super) fn content(&self) -> Vec<u8> {
        self.inner().content.bytes().to_vec()
    }

    pub(super) fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        self.inner().content.read(offset, size).to_vec()
    }

    pub(super) fn write(&self, offset: Option<u64>, data: &[u8]) -> Result<(), Errno> {
        let mut inner = self.inner();
        let at = offset.unwrap_or(inner.content.bytes().len() as u64);
        let end = usize::try_from(at).unwrap_or(usize::MAX).saturating_add(data.len());
        self.grow(&inner, end)?;
        inner.mtime = clock::wall();
        inner.content.write(at, data).map_err(|_| Errno::EFBIG)
    }

    pub(super) fn resize(&self, len: u64) -> Result<(), Errno> {
        let mut inner = self.inner();
        let end = usize::try_from(len).unwrap_or(usize::MAX);
        let before = inner.content.bytes().len();
        self.grow(&inner, end)?;
        inner.mtime = clock::wall();
        inner.content.resize(len).map_err(|_| Errno::EFBIG)?;
        self.used.fetch_sub(before.saturating_sub(end), Ordering::Relaxed);
        Ok(())
    }

    /// Takes room for a file that is to end there.
    fn grow(&self, inner: &Inner, end: usize) -> Result<(), Errno> {
        if end > LARGEST {
            return Err(Errno::EFBIG);
        }
        take(&self.used, end.saturating_sub(inner.content.bytes().len()))
    }

    pub(super) fn attr(&self) -> FileAttr {
        let inner = self.inner();
        let size = inner.content.bytes().len() as u64;
        FileAttr { atime: inner.atime, ..file_attr(self.ino, size, inner.mode, inner.owner, inner.mtime) }
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
        inner.mtime = times.1.map_or(inner.mtime, time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_few_and_small() {
        let scratch = Scratch::default();
        for i in 0..MOST {
            scratch.make(&i.to_string(), Vec::new(), 0o600, (0, 0)).unwrap();
        }
        assert!(scratch.make("one more", Vec::new(), 0o600, (0, 0)).is_err());
        let file = scratch.named("0").unwrap();
        assert!(file.write(Some(LARGEST as u64), b"x").is_err());
        assert!(file.write(None, b"abc").is_ok());
        assert_eq!(file.read(1, 9), b"bc");
    }

    #[test]
    fn all_together_are_bounded_with_and_without_names() {
        let scratch = Scratch::default();
        let file = |name: &str| scratch.make(name, Vec::new(), 0o600, (0, 0)).unwrap();
        let open: Vec<_> = (0..4).map(|n| file(&n.to_string())).collect();
        for (n, file) in open.iter().enumerate() {
            file.write(Some(LARGEST as u64 - 1), b"x").unwrap();
            scratch.remove(&n.to_string());
        }
        let more = file("more");
        assert!(more.write(None, b"x").is_err() && more.resize(1).is_err());
        open[0].resize(10).unwrap();
        assert!(more.write(None, b"x").is_ok());
        drop(open);
        assert!(more.resize(LARGEST as u64).is_ok());
        drop((more, scratch.remove("more")));
        assert_eq!(scratch.files().used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_rename_takes_the_place() {
        let scratch = Scratch::default();
        scratch.make("a", b"new".to_vec(), 0o600, (0, 0)).unwrap();
        scratch.make("b", b"old".to_vec(), 0o600, (0, 0)).unwrap();
        assert!(scratch.rename("a", "b"));
        assert!(!scratch.rename("a", "c"));
        assert_eq!(scratch.all().len(), 1);
        assert_eq!(scratch.named("b").unwrap().content(), b"new");
    }

    #[test]
    fn numbers_are_not_used_twice() {
        let scratch = Scratch::default();
        let first = scratch.make("a", Vec::new(), 0o600, (0, 0)).unwrap().ino;
        scratch.remove("a");
        assert_ne!(scratch.make("a", Vec::new(), 0o600, (0, 0)).unwrap().ino, first);
        assert!(scratch.numbered(first).is_none());
    }
}
