//! From a text or a file to a checked plan.

use super::names::{Accounts, ThisMachine};
use super::report::{Pos, Problems, Report};
use super::{check, plan::Plan, shape, tree};
use crate::units::Bytes;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The largest configuration, in bytes: some ten thousand images.
pub const LARGEST: u64 = 1 << 20;

/// What holds where the configuration says nothing: the user who mounts, and the folder where that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Owner of images and of the control files.
    pub owner: u32,
    /// Their group.
    pub group: u32,
    /// Relative paths of devices count from here. Empty: from the folder that the program runs in.
    pub folder: PathBuf,
}

/// Looks at paths of devices. The configuration itself never touches a device, so that it can be checked on any
/// machine and tested without one.
pub trait Probe {
    /// What is at `path` (behind symbolic links); `None` if nothing is. A relative path counts from the folder
    /// that the program runs in.
    fn probe(&self, path: &Path) -> io::Result<Option<Found>>;

    /// The path of the block device MAJOR:MINOR; `None` if there is none.
    fn block(&self, major: u64, minor: u64) -> Option<PathBuf>;

    /// Who knows the names of users and groups.
    fn accounts(&self) -> &dyn Accounts {
        &ThisMachine
    }

    /// Whether what is at `path` runs already as it is written: then a stated size is the one that it had once, which is what
    /// was checked, and nothing to compare with what it has grown to.
    fn runs(&self, _path: &Path) -> bool {
        false
    }
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Size of a block device or regular file; of no meaning for others.
    pub size: Bytes,
    /// What it is.
    pub kind: FoundKind,
    /// Two paths with the same identity lead to the same file, folder or block device; `None` if that is unknown.
    /// The configuration only compares them.
    pub identity: Option<(u64, u64)>,
    /// MAJOR:MINOR of a block device; `None` for everything else.
    pub number: Option<(u64, u64)>,
}

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundKind {
    /// A block device.
    Block,
    /// A regular file.
    File,
    /// Something else, in words that follow "is a": [`DIRECTORY`], "character device", "socket".
    Other(&'static str),
}

/// The word for a folder in [`FoundKind::Other`].
pub const DIRECTORY: &str = "folder";

/// Reads and checks a configuration. `origin` is what its reports call it, usually the file's name.
///
/// # Errors
/// The report of all problems, if the text is not YAML or no valid configuration on this machine. A plan is returned
/// only if there is not a single one.
pub fn load(text: &str, origin: &str, defaults: &Defaults, probe: &dyn Probe) -> Result<Plan, Report> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut problems = Problems::default();
    let plan = tree::parse(text, &mut problems)
        .map(|root| shape::mount(root, probe.accounts(), &mut problems))
        .map(|mount| check::plan(mount, defaults, probe, &mut problems));
    match plan {
        Some(plan) if problems.is_empty() => Ok(plan),
        _ => Err(problems.into_report(origin, text)),
    }
}

/// Reads and checks a configuration from bytes that anybody may have written.
///
/// # Errors
/// As [`load`]; more than [`LARGEST`] bytes, or bytes that are not UTF-8, are reported as one problem, too.
pub fn load_bytes(
    bytes: &[u8],
    origin: &str,
    defaults: &Defaults,
    probe: &dyn Probe,
) -> Result<Plan, Report> {
    if bytes.len() as u64 > LARGEST {
        let hint = "is this a disk image? A configuration is a YAML file";
        return Err(Report::about_file(origin, format!("larger than {}", Bytes(LARGEST)), hint));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => load(text, origin, defaults, probe),
        Err(error) => Err(not_text(bytes, error.valid_up_to(), origin)),
    }
}

/// Reads and checks a configuration from a file of at most [`LARGEST`] bytes.
///
/// # Errors
/// As [`load_bytes`]; a file that cannot be read is reported as one problem, too.
pub fn load_file(path: &Path, defaults: &Defaults, probe: &dyn Probe) -> Result<Plan, Report> {
    load_bytes(&read_file(path)?, &path.display().to_string(), defaults, probe)
}

/// Reads a file that may be a configuration: at most one byte more than [`LARGEST`], which tells that it is none.
///
/// # Errors
/// A report of one problem, if it cannot be read.
pub fn read_file(path: &Path) -> Result<Vec<u8>, Report> {
    let failed = |error: io::Error| {
        let (message, hint) = match error.kind() {
            io::ErrorKind::NotFound => {
                ("there is no such file".to_owned(), "check the path, which counts from this folder")
            }
            io::ErrorKind::IsADirectory => {
                ("this is a folder".to_owned(), "give the configuration file in it")
            }
            _ => (format!("cannot be read: {error}"), "check the file and its permissions"),
        };
        Report::about_file(&path.display().to_string(), message, hint)
    };
    let mut bytes = Vec::new();
    // A device without an end is left in time.
    File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}

/// The report for a byte at `bad` that is no text.
fn not_text(bytes: &[u8], bad: usize, origin: &str) -> Report {
    let before = String::from_utf8_lossy(&bytes[..bad]);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let at = Pos { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 };
    let mut problems = Problems::default();
    let message = format!("byte 0x{:02x} is not text in UTF-8", bytes.get(bad).unwrap_or(&0));
    problems.add(at, message, "save the file as UTF-8");
    problems.into_report(origin, &String::from_utf8_lossy(bytes))
}
