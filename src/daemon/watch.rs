//! Watches the configuration that was mounted: a valid edit of the file is put in force like one of `control.yaml`.
//!
//! Editors rename, scripts truncate and write, Kubernetes swaps a symbolic link two steps away. So what is watched are the
//! folders on the way to the file, links included, and what counts is the file as it is when it has been quiet for a moment.

use crate::clock::Clock;
use crate::control::Control;
use crate::units::Nanos;
use anyhow::Context;
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread;

/// It has been quiet for so long before it is read.
const QUIET: Nanos = Nanos::from_millis(10);
/// But where it never is, it is read after so long.
const RESTLESS: Nanos = Nanos::from_millis(50);
/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// Starts to watch `path`, whose content is in force.
///
/// # Errors
/// When it cannot be watched.
pub(super) fn start(path: PathBuf, control: Arc<Control>) -> anyhow::Result<()> {
    let inotify = Inotify::init().context("cannot watch files")?;
    let (clock, folders) = (Clock::start(), HashMap::new());
    let watch = Watch { inotify, clock, path, control, folders, file: None, state: State::There };
    thread::Builder::new().name("watch".into()).spawn(move || watch.run())?;
    Ok(())
}

struct Watch {
    inotify: Inotify,
    clock: Clock,
    path: PathBuf,
    control: Arc<Control>,
    /// The folders on the way, and with which names in each the way goes on.
    folders: HashMap<WatchDescriptor, Vec<OsString>>,
    /// The file itself, to know whether somebody is at it. Not by its folder: a disk may be in there, which is written to
    /// all the time.
    file: Option<WatchDescriptor>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    There,
    /// Somebody has it open and has written some of it.
    HalfWritten,
    Gone,
}

impl Watch {
    fn run(mut self) {
        // Not before: where its filesystem hangs, this thread does, and no other one.
        if let Err(error) = self.follow() {
            return self.give_up("is not watched", &error);
        }
        // It may have changed between being read and being watched; but what a predecessor has seen is no news.
        let mut is_news = !read(&self.path).is_ok_and(|bytes| self.control.has_seen(&bytes));
        loop {
            match self.wait(std::mem::take(&mut is_news)) {
                Ok(()) => {
                    // Whatever a text may do to us: the next one is looked at.
                    let looked = catch_unwind(AssertUnwindSafe(|| self.look()));
                    if looked.is_err() {
                        self.control
                            .events()
                            .add(&format!("reading {} failed inside ioband", self.path.display()));
                    }
                }
                Err(error) => return self.give_up("is not watched any more", &error),
            }
        }
    }

    fn give_up(&self, what: &str, error: &io::Error) {
        let name = self.path.display();
        self.control.events().add(&format!("{name} {what}: {error}; edit control.yaml instead"));
    }

    /// Waits until something has happened on the way to the file, and it is quiet again. `is_news` says that something has
    /// happened before it was watched. Whoever did that may still be at it, and a predecessor have waited for him: he is given
    /// the longer time to write on.
    fn wait(&mut self, is_news: bool) -> io::Result<()> {
        let latest = self.clock.now().after(RESTLESS);
        let mut reading: Option<(Nanos, Nanos)> = is_news.then_some((latest, latest));
        loop {
            let now = self.clock.now();
            let timeout = match reading {
                Some((at, latest)) if now >= at.min(latest) => return Ok(()),
                // Rounded up, or it would ask again and again during the last millisecond. It is never much.
                Some((at, latest)) => PollTimeout::from((at.min(latest).since(now).0 / 1_000_000 + 1) as u16),
                None => PollTimeout::NONE,
            };
            match poll(&mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)], timeout) {
                Err(nix::errno::Errno::EINTR) => {}
                result => {
                    if result? > 0 && self.read()? {
                        let now = self.clock.now();
                        let latest = reading.map_or(now.after(RESTLESS), |(_, latest)| latest);
                        reading = Some((now.after(QUIET), latest));
                    }
                }
            }
        }
    }

    /// Whether something that happened concerns the file.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let mut concerned = false;
        let events = match self.inotify.read_events(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            events => events?,
        };
        for event in events {
            if self.file.as_ref() == Some(&event.wd) {
                let written = event.mask.contains(EventMask::MODIFY);
                self.state = if written { State::HalfWritten } else { State::There };
                concerned |= !written;
                continue;
            }
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                // That it was closed may be among what is lost. It is looked at as it is; one that is half written is looked at
                // again when it is closed.
                (self.state, concerned) = (State::There, true);
                continue;
            }
            if event.mask.contains(EventMask::IGNORED) && !self.folders.contains_key(&event.wd) {
                // It is not on the way any more, and we said so ourselves.
                continue;
            }
            if event.name.is_none() {
                concerned = true;
                continue;
            }
            let mut names = self.folders.get(&event.wd).into_iter().flatten();
            let on_the_way = names.any(|name| Some(&**name) == event.name);
            if !on_the_way {
                continue;
            }
            // It is another file by now, or closed. One that is being made is not whole before that, unless it is made of
            // something that is.
            let made = event.mask.contains(EventMask::CREATE) && !is_link(&self.path);
            self.state = match self.state {
                State::Gone if !made => State::Gone,
                _ if made => State::HalfWritten,
                _ => State::There,
            };
            concerned = true;
        }
        Ok(concerned)
    }

    /// Looks at the file, and puts in force what is new.
    fn look(&mut self) {
        if let Err(error) = self.follow() {
            tracing::warn!(path = %self.path.display(), %error, "cannot watch the way to the configuration");
        }
        if self.state == State::HalfWritten {
            return;
        }
        let bytes = match read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if self.state != State::Gone {
                    self.state = State::Gone;
                    let name = self.path.display();
                    self.control
                        .events()
                        .add(&format!("{name} cannot be read: {error}; what runs stays as it is"));
                }
                return;
            }
        };
        self.state = State::There;
        if self.control.is_saved(&bytes) {
            return;
        }
        // A file that was just made, or emptied, is about to be written.
        if bytes.is_empty() || *bytes == *self.control.yaml().0.as_bytes() {
            return self.control.saw(&bytes);
        }
        // Also what was refused before: what stood in its way may have gone. A refusal has become an event.
        let _ = self.control.take_from_disk(&bytes, &self.path.display().to_string());
    }

    /// Watches every folder on the way to the file as it is now.
    fn follow(&mut self) -> io::Result<()> {
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let mut folders: HashMap<_, Vec<_>> = HashMap::new();
        for (folder, name) in way(&self.path) {
            // The same folder has the same descriptor.
            let descriptor = self.inotify.watches().add(&folder, mask)?;
            folders.entry(descriptor).or_default().push(name);
        }
        for old in std::mem::replace(&mut self.folders, folders).into_keys() {
            if !self.folders.contains_key(&old) {
                // Gone by itself if the folder is.
                let _ = self.inotify.watches().remove(old);
            }
        }
        let at_work = WatchMask::MODIFY | WatchMask::CLOSE_WRITE;
        let file = self.inotify.watches().add(&self.path, at_work).ok();
        let old = std::mem::replace(&mut self.file, file);
        if let Some(old) = old.filter(|old| Some(old) != self.file.as_ref()) {
            let _ = self.inotify.watches().remove(old);
        }
        Ok(())
    }
}

/// Whether a path is another name of something: a symbolic link, or one of several hard ones.
fn is_link(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink() || found.nlink() > 1)
}

/// No more than a configuration has, and a byte that tells that it is too large.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(crate::config::LARGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The folders on the way to a file, each with the name that the way goes on with, as far as they are there: those that
/// hold a symbolic link, and the one that holds the file.
fn way(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut way = Vec::new();
    let mut here = PathBuf::from("/");
    let mut left: Vec<OsString> = names(path);
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&name);
        let found = std::fs::symlink_metadata(&next).ok();
        let link = found.as_ref().filter(|found| found.is_symlink() && links < MOST_LINKS);
        if left.is_empty() || found.is_none() || link.is_some() {
            way.push((here.clone(), name));
        }
        match link.and_then(|_| std::fs::read_link(&next).ok()) {
            Some(target) => {
                links += 1;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                left.extend(names(&target));
            }
            None if found.is_none() => break,
            None => here = next,
        }
    }
    way
}

/// The parts of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let named = |part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_bytes;
    use crate::control::tests::Nowhere;
    use crate::control::{Events, Journal};
    use crate::ledger::Ledger;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_way_to_a_file_has_every_link_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        std::fs::create_dir_all(at("etc/..2026")).unwrap();
        std::fs::write(at("etc/..2026/c.yaml"), "").unwrap();
        symlink("..2026", at("etc/..data")).unwrap();
        symlink("..data/c.yaml", at("etc/c.yaml")).unwrap();
        let steps = |path: &Path| way(path).into_iter().map(|(at, name)| at.join(name)).collect::<Vec<_>>();
        assert_eq!(steps(&at("etc/c.yaml")), [at("etc/c.yaml"), at("etc/..data"), at("etc/..2026/c.yaml")]);
        assert_eq!(steps(&at("etc/../etc/..2026/c.yaml")), [at("etc/..2026/c.yaml")]);
        // As far as it is there.
        assert_eq!(steps(&at("none/c.yaml")), [at("none")]);
        symlink("loop", at("loop")).unwrap();
        assert!(!steps(&at("loop")).is_empty());
    }

    #[test]
    fn what_somebody_is_still_writing_when_it_begins_is_not_taken_before_he_is_done() {
        const RUNS: &str = "devices: {d: {path: /disk}}\nimages: {}\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("c.yaml");
        let nowhere = Nowhere::with(&["/disk"]);
        let plan = load_bytes(RUNS.as_bytes(), "control.yaml", &nowhere.defaults, &nowhere).unwrap();
        let journal = Arc::new(Journal::new(Arc::new(Ledger::new().unwrap())).unwrap());
        let control = Arc::new(Control::new(Arc::new(Events::default()), journal, plan.clone(), RUNS));
        control.put_in_force_by(Arc::new(nowhere));
        control.begin(plan);
        // The half of a text can be one that is valid.
        let mut file = File::create(&path).unwrap();
        file.write_all(b"devices: {d: {path: /disk}}\n").unwrap();
        let (inotify, clock, folders) = (Inotify::init().unwrap(), Clock::start(), HashMap::new());
        let state = State::There;
        let mut watch = Watch { inotify, clock, path, control: control.clone(), folders, file: None, state };
        watch.follow().unwrap();
        file.write_all(b"images:\n  a.img: {device: d, size: 4KiB}\n").unwrap();
        watch.wait(true).unwrap();
        watch.look();
        assert_eq!(&*control.yaml().0, RUNS);
        file.write_all(b"  b.img: {device: d, offset: 4KiB, size: 4KiB}\n").unwrap();
        drop(file);
        watch.wait(false).unwrap();
        watch.look();
        assert_eq!(control.plan().images.len(), 2);
    }
}
