//! The mounts that this process can see, from the lines of /proc/self/mountinfo.
//!
//! ```text
//! 36 35 98:0 /root /mount/point options ... - type source options
//! ```
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

/// One mount. Later mounts come later in the list, and cover earlier ones at the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `MAJOR:MINOR` of the filesystem.
    pub number: String,
    /// Where it is.
    pub mountpoint: PathBuf,
    /// The type of the filesystem.
    pub fs_type: String,
    /// What is mounted: often the path of a device.
    pub source: String,
}

/// The mounts at this moment.
///
/// # Errors
/// When /proc is not mounted.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
}

/// Reads the text of a mountinfo; lines that are not of its form are left out.
pub fn parse(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let (mut before, mut after) = (before.split(' '), after.split(' '));
        Some(Mount {
            number: before.nth(2)?.to_owned(),
            mountpoint: unescape(before.nth(1)?).into(),
            fs_type: after.next()?.to_owned(),
            source: after.next()?.to_owned(),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// The kernel writes what would break a line into fields or lines as `\040` and the like.
fn unescape(text: &str) -> String {
    let octal = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    octal.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_fields() {
        let mounts = parse(
            "29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\nnonsense\n\
             71 29 0:42 / /mnt/my\\040disk\\134x rw - fuse.ioband ioband rw\n",
        );
        assert_eq!(mounts.len(), 2);
        assert_eq!(
            mounts[1],
            Mount {
                number: "0:42".into(),
                mountpoint: "/mnt/my disk\\x".into(),
                fs_type: "fuse.ioband".into(),
                source: "ioband".into()
            }
        );
    }
}
