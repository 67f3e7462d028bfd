//! What holds for any bytes that anybody writes: a reader says no or yes, and what it said yes to prints as something that reads
//! back the same. Each check says whether it was yes.

use ioband::config::{DIRECTORY, Defaults, Found, FoundKind, LARGEST, Probe, load_bytes};
use ioband::control::grammar::{Message, TableLine};
use ioband::units::Bytes;
use std::fmt::{Debug, Display};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A table line.
pub(crate) fn table(bytes: &[u8]) -> bool {
    reads_back::<TableLine>(bytes)
}

/// A message.
pub(crate) fn message(bytes: &[u8]) -> bool {
    reads_back::<Message>(bytes)
}

fn reads_back<T: FromStr<Err: Display> + Display + Debug + PartialEq>(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match text.parse::<T>() {
        Ok(read) => {
            let printed = read.to_string();
            let again = printed.parse::<T>().unwrap_or_else(|refusal| panic!("{printed}: {refusal}"));
            assert_eq!(again, read, "{printed}");
            true
        }
        Err(refusal) => {
            let sentence = refusal.to_string();
            assert!(!sentence.is_empty() && !sentence.contains('\n'), "{sentence}");
            false
        }
    }
}

/// A configuration.
pub(crate) fn yaml(bytes: &[u8]) -> bool {
    let defaults = Defaults { owner: 1, group: 2, folder: PathBuf::from("/a folder") };
    match load_bytes(bytes, "fuzz", &defaults, &Anything) {
        Ok(plan) => {
            let printed = plan.to_yaml(&defaults);
            // Aliases say much in few bytes.
            if printed.len() as u64 <= LARGEST {
                let again = load_bytes(printed.as_bytes(), "printed", &defaults, &Anything);
                assert_eq!(again.unwrap_or_else(|report| panic!("{printed}\n{report}")), plan, "{printed}");
            }
            true
        }
        Err(report) => {
            assert!(!report.problems.is_empty() && !report.to_string().is_empty());
            false
        }
    }
}

/// A machine where every path leads to something: to a folder, a file or a disk, by the last letter of its name.
struct Anything;

impl Probe for Anything {
    fn probe(&self, path: &Path) -> io::Result<Option<Found>> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (size, kind) = match name.bytes().last() {
            Some(b'0'..=b'9') => (8 << 30, FoundKind::Block),
            Some(b'a'..=b'k') => (4 << 30, FoundKind::File),
            Some(b'l'..=b'y') => return Ok(None),
            _ => (0, FoundKind::Other(DIRECTORY)),
        };
        let number = (kind == FoundKind::Block).then_some((8, 0));
        Ok(Some(Found { size: Bytes(size), kind, identity: None, number }))
    }

    fn block(&self, _major: u64, _minor: u64) -> Option<PathBuf> {
        None
    }
}
