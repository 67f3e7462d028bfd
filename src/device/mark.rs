//! What tells a disk from another one that has got its name.
//!
//! A device number or a path says nothing: the next disk that is plugged in gets both. What is written to must be the disk
//! that was configured, so a disk that comes back is taken up by itself only where something says that it is the same.

use super::kernel;
use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::UNIX_EPOCH;

/// What was at a path. As text it is one line, without blanks at its ends, and reads back as itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// This very file, or this very attachment of a device (`diskseq`, which no later one gets before the next boot).
    exact: String,
    /// What stays when a device is taken out and put in again: what it says of itself, such as a serial number.
    lasting: Option<String>,
    /// When a file was made, or the one that a loop device is on, where its filesystem says so: the next file may get the number
    /// of one that was removed.
    born: Option<String>,
}

/// How the time of birth begins in a text. It stands last.
const BORN: &str = "born:";
/// How the text of a block device begins.
const BLOCK: &str = "block:";

impl Mark {
    /// Of the file or block device that this was seen of.
    pub(super) fn of(seen: &Metadata) -> Self {
        if !seen.file_type().is_block_device() {
            let exact = format!("file:{}:{}", seen.dev(), seen.ino());
            return Self { exact, lasting: None, born: born(seen) };
        }
        let (major, minor) = kernel::split(seen.rdev());
        let folder = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let part = Part::of(&folder);
        let disk = part.as_ref().map_or(folder.clone(), |_| folder.join(".."));
        let place = part.map(|part| part.0).unwrap_or_default();
        let exact =
            format!("{BLOCK}{major}:{minor}:{}{place}", read(&disk.join("diskseq")).unwrap_or_default());
        let (lasting, born) = says_of_itself(&disk).unzip();
        Self { exact, lasting: lasting.map(|name| name + &place), born: born.flatten() }
    }

    /// Whether this is what that was, with nothing in between. The kernel numbers what a device was on, one after the other;
    /// a file's number may come again.
    pub fn is(&self, other: &Mark) -> bool {
        self.exact == other.exact && (self.exact.starts_with(BLOCK) || self.may_be_born_with(other))
    }

    /// Whether this is what that was, maybe taken out and put in again. A disk that says nothing of itself cannot be known
    /// again.
    pub fn is_known_as(&self, other: &Mark) -> bool {
        let lasts = self.lasting.is_some() && self.lasting == other.lasting;
        self.is(other) || lasts && self.may_be_born_with(other)
    }

    /// Whether nothing says that they were made at different times.
    fn may_be_born_with(&self, other: &Mark) -> bool {
        self.born.as_ref().zip(other.born.as_ref()).is_none_or(|(one, two)| one == two)
    }
}

/// Which part of its disk a partition is: its number and where it begins. Its end may be moved while it is in use.
struct Part(String);

impl Part {
    fn of(folder: &Path) -> Option<Self> {
        let number = read(&folder.join("partition"))?;
        let start = read(&folder.join("start")).unwrap_or_default();
        Some(Self(format!(":{number}+{start}")))
    }
}

/// The name that no other disk has: of its maker, of the device mapper or of md, or the file that a loop device is on, and when
/// that was made.
fn says_of_itself(disk: &Path) -> Option<(String, Option<String>)> {
    let names = ["wwid", "device/wwid", "dm/uuid", "md/uuid", "serial", "device/serial"];
    let named = names.iter().find_map(|name| Some((format!("{name}:{}", read(&disk.join(name))?), None)));
    named.or_else(|| {
        let file = fs::metadata(read(&disk.join("loop/backing_file"))?).ok()?;
        let offset = read(&disk.join("loop/offset")).unwrap_or_default();
        Some((format!("loop:{}:{}+{offset}", file.dev(), file.ino()), born(&file)))
    })
}

/// When a file was made.
fn born(seen: &Metadata) -> Option<String> {
    let born = seen.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{}.{:09}", born.as_secs(), born.subsec_nanos()))
}

/// A line of sysfs; nothing if it says nothing.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.exact)?;
        self.lasting.iter().try_for_each(|lasting| write!(f, "|{lasting}"))?;
        self.born.iter().try_for_each(|born| write!(f, "|{BORN}{born}"))
    }
}

impl FromStr for Mark {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // What a disk says of itself may be any text.
        let last = text.rsplit_once('|').and_then(|(rest, last)| Some((rest, last.strip_prefix(BORN)?)));
        let (rest, born) = last.map_or((text, None), |(rest, born)| (rest, Some(born)));
        let (exact, lasting) = match rest.split_once('|') {
            Some((exact, lasting)) => (exact, Some(lasting)),
            None => (rest, None),
        };
        Ok(Self {
            exact: exact.to_owned(),
            lasting: lasting.map(str::to_owned),
            born: born.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(text: &str) -> Mark {
        text.parse().unwrap()
    }

    #[test]
    fn a_disk_is_known_again_by_what_it_says_of_itself() {
        let disk = mark("block:8:0:5|wwid:naa.5000");
        assert_eq!(disk.to_string(), "block:8:0:5|wwid:naa.5000");
        let again = mark("block:8:16:9|wwid:naa.5000");
        assert!(!again.is(&disk) && again.is_known_as(&disk));
        let other = mark("block:8:0:9|wwid:naa.6000");
        assert!(!other.is_known_as(&disk));
        // Two that say nothing have nothing in common.
        assert!(!mark("block:8:0:9").is_known_as(&mark("block:8:0:5")));
        assert!(mark("block:8:0:5").is_known_as(&mark("block:8:0:5")));
    }

    #[test]
    fn a_file_is_its_inode() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        fs::write(&one, "1").unwrap();
        let first = Mark::of(&fs::metadata(&one).unwrap());
        fs::rename(&one, &two).unwrap();
        fs::write(&one, "2").unwrap();
        let at = |path| Mark::of(&fs::metadata(path).unwrap());
        assert!(at(&two).is_known_as(&first) && !at(&one).is_known_as(&first));
        assert_eq!(mark(&first.to_string()), first);
    }

    #[test]
    fn a_file_that_has_got_the_number_of_another_one_is_not_that() {
        let file = mark("file:1:2|born:1700000000.000000005");
        assert_eq!(file.to_string(), "file:1:2|born:1700000000.000000005");
        let next = mark("file:1:2|born:1700000009.000000005");
        assert!(!next.is(&file) && !next.is_known_as(&file));
        // Born in the same moment is nothing that lasts.
        assert!(!mark("file:1:3|born:1700000000.000000005").is_known_as(&file));
        // Where nobody said when, the number has to do.
        assert!(mark("file:1:2").is_known_as(&file) && file.is_known_as(&mark("file:1:2")));
    }

    #[test]
    fn a_loop_device_is_known_again_by_its_file_and_not_by_the_next_one_of_that_number() {
        let disk = mark("block:7:0:5|loop:1:2+0|born:1700000000.000000005");
        assert_eq!(disk.to_string(), "block:7:0:5|loop:1:2+0|born:1700000000.000000005");
        let again = mark("block:7:1:6|loop:1:2+0|born:1700000000.000000005");
        assert!(!again.is(&disk) && again.is_known_as(&disk));
        // It is attached as it was: that another file is found under the name of its own by now is no matter.
        let renamed = mark("block:7:0:5|loop:1:3+0|born:1700000009.000000005");
        assert!(renamed.is(&disk) && renamed.is_known_as(&disk));
        let other = mark("block:7:0:6|loop:1:2+0|born:1700000009.000000005");
        assert!(!other.is_known_as(&disk));
        // As it was written down before that was looked at.
        assert!(again.is_known_as(&mark("block:7:0:5|loop:1:2+0")));
        let odd = mark("block:8:0:5|serial:a|b|born:1");
        assert_eq!((odd.lasting.as_deref(), odd.born.as_deref()), (Some("serial:a|b"), Some("1")));
        assert_eq!(mark(&odd.to_string()), odd);
    }
}
