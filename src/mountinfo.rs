//! The mounts that this process can see, from the lines of /proc/self/mountinfo.
//!
//! ```text
//! 36 35 98:0 /root /mount/point options ... - type source options
//! ```
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
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
    /// What the filesystem was mounted with, separated by commas.
    pub options: String,
}

impl Mount {
    /// The user who mounted it, if it is a FUSE mount.
    pub fn user(&self) -> Option<u32> {
        self.options.split(',').find_map(|option| option.strip_prefix("user_id="))?.parse().ok()
    }
}

/// The mounts at this moment.
///
/// # Errors
/// When /proc is not mounted.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse(std::fs::read("/proc/self/mountinfo")?))
}

/// Reads what is in a mountinfo; lines that are not of its form are left out. It is no text: everybody who may mount says what is
/// in his line, and must not hide those of others.
pub fn parse(mountinfo: impl AsRef<[u8]>) -> Vec<Mount> {
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let mount = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let number = text(fields.nth(2)?);
        let mountpoint = OsString::from_vec(unescape(fields.nth(1)?)).into();
        let mut after = fields.skip_while(|field| *field != b"-").skip(1);
        let (fs_type, source) = (text(after.next()?), text(after.next()?));
        Some(Mount { number, mountpoint, fs_type, source, options: text(after.next()?) })
    };
    mountinfo.as_ref().split(|byte| *byte == b'\n').filter_map(mount).collect()
}

/// The kernel writes what would break a line into fields or lines as `\040` and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, others @ ..] = rest {
        let code = others.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &others[3..] } else { others };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_fields() {
        let mounts = parse(
            "29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\nnonsense\n\
             71 29 0:42 / /mnt/my\\040disk\\134x rw - fuse.ioband ioband rw,user_id=7,group_id=0\n",
        );
        assert_eq!(mounts.len(), 2);
        assert_eq!(
            mounts[1],
            Mount {
                number: "0:42".into(),
                mountpoint: "/mnt/my disk\\x".into(),
                fs_type: "fuse.ioband".into(),
                source: "ioband".into(),
                options: "rw,user_id=7,group_id=0".into()
            }
        );
        assert_eq!((mounts[0].user(), mounts[1].user()), (None, Some(7)));
    }

    #[test]
    fn a_line_that_is_no_text_hides_no_other() {
        let mounts =
            parse(b"71 29 0:42 / /tmp/\xff rw - fuse.x \xfe rw\n72 29 0:43 / /\\0409\\09 rw - fuse.x y rw\n");
        let places: Vec<_> =
            mounts.iter().map(|mount| mount.mountpoint.as_os_str().as_encoded_bytes()).collect();
        assert_eq!(places, [&b"/tmp/\xff"[..], b"/ 9\\09"]);
    }
}
