//! What a successor must know of a mount that was changed, written down with every change and before it is answered.
//!
//! A process that dies may have done something without having said so. The kernel then asks its successor again, by the same
//! number, and that must neither be done twice nor be refused because it was done. So what was done stands in the same page as
//! what came of it: both are there, or neither.

use crate::config::Names;
use crate::ledger::{Ledger, LedgerError, Page};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So many changes are remembered by the numbers of their requests. Those whose answers the kernel has not got when a process
/// dies are the few that threads are about, and all whose answers lie in the socket of fuser before the relay: as many as files
/// are written to at once. A number takes no more than 21 bytes of what is written down.
const REMEMBERED: usize = 1024;

/// A request that changes something, by the number that the kernel gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Its number, the same when it is sent again; 0 for what is no request.
    pub unique: u64,
    /// It is sent again, and may have been done already.
    pub again: bool,
    /// The user whose it is.
    pub uid: u32,
}

/// A time as it is written down; also one before 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(i64, u32);

impl From<SystemTime> for Stamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
                match before.subsec_nanos() {
                    0 => Self(seconds, 0),
                    nanos => Self(seconds.saturating_sub(1), 1_000_000_000 - nanos),
                }
            }
        }
    }
}

impl From<Stamp> for SystemTime {
    fn from(Stamp(seconds, nanos): Stamp) -> Self {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let second = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        second.and_then(|at| at.checked_add(Duration::from_nanos(nanos.into()))).unwrap_or(UNIX_EPOCH)
    }
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Carried {
    /// The text of the running configuration; nothing before the mount is made.
    pub text: Option<String>,
    /// The mount point that it names.
    pub mountpoint: Option<PathBuf>,
    /// Name, owner, group and mode of the control directory.
    pub control: Option<(String, u32, u32, u16)>,
    /// Since when it is that.
    pub changed: Option<Stamp>,
    /// When the mount was made.
    pub mounted: Option<Stamp>,
    /// What was written to the configuration on disk last, until whoever watches that has seen it.
    pub saved: Option<String>,
    /// Since when `control.yaml` does as if it had been removed.
    pub absent: Option<Stamp>,
    /// What editors keep in the control directory.
    pub scratch: Vec<ScratchEntry>,
    /// The number of the last of them.
    pub last_scratch: u64,
    /// The images that are not as the configuration says.
    pub images: Vec<ImageEntry>,
    /// The images that are open and not in the configuration any more.
    pub orphans: Vec<OrphanEntry>,
    /// What the devices are on.
    pub devices: Vec<DeviceEntry>,
    /// The configuration on disk as it was seen last: length and checksum.
    pub seen: Option<(u64, u32)>,
    /// What the names in the text stood for when it was put in force.
    pub names: Names,
    /// Why the text is not in force, where what ran could not be.
    pub trouble: Option<String>,
    /// The requests that were done last, by their numbers, newest last.
    pub done: VecDeque<u64>,
}

/// What a device is on: for whoever must go on also where that is gone, and must not write to another disk in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceEntry {
    /// Its path, from the root.
    pub path: PathBuf,
    /// So much of it is used, in bytes.
    pub size: u64,
    /// MAJOR:MINOR of a block device.
    pub number: Option<(u64, u64)>,
    /// What told it from other paths.
    pub identity: Option<(u64, u64)>,
    /// How it is known again.
    pub mark: Option<String>,
}

/// A file of an editor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScratchEntry {
    /// Its inode number.
    pub ino: u64,
    /// Its name; none if it lost that and is still open.
    pub name: Option<String>,
    /// Permission bits.
    pub mode: u16,
    /// uid and gid.
    pub owner: (u32, u32),
    /// When it was read, as somebody has set it.
    pub atime: Stamp,
    /// Which content of the ledger has its bytes.
    pub content: u32,
    /// The request that made it.
    #[serde(default)]
    pub made_by: u64,
}

/// An image and what was changed of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// Its name.
    pub name: String,
    /// Its inode number.
    pub ino: u64,
    /// What was changed with chmod, chown and utimes, if anything was.
    pub access: Option<Access>,
}

/// Mode, owner and times of an image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Access {
    /// Permission bits.
    pub mode: u16,
    /// uid and gid.
    pub owner: (u32, u32),
    /// When it was read, as somebody has set it.
    pub atime: Stamp,
    /// When it was written.
    pub mtime: Stamp,
    /// When any of this was changed.
    pub ctime: Stamp,
}

/// An image that is not in the configuration any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrphanEntry {
    /// Its name.
    pub name: String,
    /// Its inode number.
    pub ino: u64,
    /// Its ioband device.
    pub device: String,
    /// Offset and size in bytes of each of its parts.
    pub extents: Vec<(u64, u64)>,
    /// Writes are refused.
    pub read_only: bool,
    /// Mode, owner and times.
    pub access: Access,
}

impl Carried {
    /// Remembers that a request was done.
    pub fn did(&mut self, asked: Asked) {
        if asked.unique == 0 {
            return;
        }
        if self.done.len() >= REMEMBERED {
            self.done.pop_front();
        }
        self.done.push_back(asked.unique);
    }
}

/// The one place where it is written down.
#[derive(Debug)]
pub struct Journal {
    ledger: Arc<Ledger>,
    carried: Mutex<Carried>,
}

impl Journal {
    /// That of a mount, with what a predecessor has left.
    ///
    /// # Errors
    /// When that cannot be read or makes no sense.
    pub fn new(ledger: Arc<Ledger>) -> Result<Self, LedgerError> {
        let carried = match ledger.get(Page::Running)? {
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| LedgerError::Content(error.to_string()))?
            }
            None => Carried::default(),
        };
        Ok(Self { ledger, carried: Mutex::new(carried) })
    }

    /// The ledger that it is in.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// What is written down now.
    pub fn carried(&self) -> Carried {
        self.lock().clone()
    }

    /// Makes a change and writes down what there is then. What it changes elsewhere it changes in here, too, so that nobody
    /// writes it down without what came of it.
    pub fn change<R>(&self, change: impl FnOnce(&mut Carried) -> R) -> R {
        let mut carried = self.lock();
        let result = change(&mut carried);
        let written = serde_json::to_vec(&*carried)
            .map_err(std::io::Error::other)
            .and_then(|bytes| self.ledger.put(Page::Running, &bytes));
        // What is done is done. A successor would know an older state, which is better than to stop here.
        if let Err(error) = written {
            tracing::error!(%error, "cannot write down what a successor must know");
        }
        result
    }

    /// Whether a request that is sent again was done. What was refused is not remembered: it is refused again, or done.
    pub fn was_done(&self, asked: Asked) -> bool {
        asked.again && self.lock().done.contains(&asked.unique)
    }

    /// The state; also after a panic elsewhere: each state of it is one that can be written down.
    fn lock(&self) -> MutexGuard<'_, Carried> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn successor(journal: &Journal) -> Journal {
        let ledger = journal.ledger().descriptor().try_clone_to_owned().unwrap();
        Journal::new(Arc::new(Ledger::inherit(ledger).unwrap())).unwrap()
    }

    #[test]
    fn what_was_done_is_known_to_a_successor_with_what_came_of_it() {
        let journal = Journal::new(Arc::new(Ledger::new().unwrap())).unwrap();
        let asked = |unique| Asked { unique, again: true, ..Asked::default() };
        for unique in 1..=2000 {
            journal.change(|carried| {
                carried.text = Some(format!("text {unique}"));
                carried.did(asked(unique));
            });
        }
        let heir = successor(&journal);
        assert_eq!(heir.carried(), journal.carried());
        assert_eq!(heir.carried().text.as_deref(), Some("text 2000"));
        assert!(heir.was_done(asked(2000)) && heir.was_done(asked(977)));
        assert!(!heir.was_done(asked(976)), "only the last ones are remembered");
        // A new request is not looked for, and what is no request has no number.
        assert!(!heir.was_done(Asked { unique: 2000, ..Asked::default() }));
        heir.change(|carried| carried.did(Asked::default()));
        assert!(!heir.was_done(asked(0)));
    }

    #[test]
    fn a_newer_program_may_say_more_and_an_older_one_less() {
        let ledger = Arc::new(Ledger::new().unwrap());
        ledger.put(Page::Running, br#"{"text": "x", "what is this": [1, 2]}"#).unwrap();
        let journal = Journal::new(ledger.clone()).unwrap();
        assert_eq!(journal.carried(), Carried { text: Some("x".into()), ..Carried::default() });
        ledger.put(Page::Running, b"{").unwrap();
        assert!(Journal::new(ledger).is_err());
    }

    #[test]
    fn times_are_kept_on_both_sides_of_1970() {
        let time = |seconds: i64, nanos: u32| {
            let whole = Duration::from_secs(seconds.unsigned_abs());
            let at = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
            at + Duration::from_nanos(nanos.into())
        };
        for (seconds, nanos) in [(0, 0), (1, 5), (-1, 999_999_999), (-7, 0), (1 << 40, 1), (-(1 << 40), 1)] {
            let time = time(seconds, nanos);
            assert_eq!(Stamp::from(time), Stamp(seconds, nanos));
            assert_eq!(SystemTime::from(Stamp::from(time)), time);
        }
    }
}
