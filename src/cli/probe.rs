//! What is at a device's path on this machine: the eyes of the configuration check.

use crate::config::{
    DIRECTORY, Defaults, Found, FoundKind, Plan, Probe, Report, load_bytes, load_file, read_file,
};
use crate::daemon::Configuration;
use crate::device;
use nix::sys::stat::{major, minor};
use nix::unistd::{getegid, geteuid};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

struct Machine;

impl Probe for Machine {
    fn probe(&self, path: &Path) -> io::Result<Option<Found>> {
        let Some((size, kind)) = device::probe(path)? else { return Ok(None) };
        let seen = std::fs::metadata(path).ok();
        let number = seen.as_ref().filter(|seen| seen.file_type().is_block_device()).map(number);
        let kind = match kind {
            device::Kind::Block => FoundKind::Block,
            device::Kind::File => FoundKind::File,
            device::Kind::Other("a directory") => FoundKind::Other(DIRECTORY),
            device::Kind::Other(word) => FoundKind::Other(word.strip_prefix("a ").unwrap_or(word)),
        };
        Ok(Some(Found { size, kind, identity: seen.as_ref().map(identity), number }))
    }

    fn block(&self, major: u64, minor: u64) -> Option<PathBuf> {
        let event = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).ok()?;
        let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(Path::new("/dev").join(name))
    }
}

fn number(seen: &Metadata) -> (u64, u64) {
    (major(seen.rdev()), minor(seen.rdev()))
}

/// A file is known by its filesystem and inode. A block device is known by its number: several nodes can have the
/// same one. No filesystem has the number that stands for block devices here.
fn identity(seen: &Metadata) -> (u64, u64) {
    if seen.file_type().is_block_device() { (u64::MAX, seen.rdev()) } else { (seen.dev(), seen.ino()) }
}

/// Reads a configuration as the current user on this machine, with all that is needed to read it again.
pub(super) fn configuration(path: &Path) -> Result<Configuration, Report> {
    read_with(path, defaults())
}

/// What is needed to go on with a mount, whose configuration was read from `file`, with relative paths from `folder`.
pub(super) fn configuration_of_mount(folder: &Path, file: &Path) -> Configuration {
    let defaults = Defaults { folder: folder.to_owned(), ..defaults() };
    Configuration { says: None, file: file.to_owned(), defaults, probe: Box::new(Machine) }
}

fn read_with(path: &Path, defaults: Defaults) -> Result<Configuration, Report> {
    let origin = path.display().to_string();
    let bytes = read_file(path)?;
    let plan = load_bytes(&bytes, &origin, &defaults, &Machine)?;
    // It was read as text just now.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let file = defaults.folder.join(path);
    Ok(Configuration { says: Some((plan, text)), file, defaults, probe: Box::new(Machine) })
}

/// Loads a configuration as the current user on this machine.
pub(super) fn load(path: &Path) -> Result<Plan, Report> {
    load_file(path, &defaults(), &Machine)
}

/// What holds where a configuration of the current user, who is in the current folder, says nothing.
fn defaults() -> Defaults {
    // Where the folder is gone, absolute paths still lead somewhere.
    let folder = std::env::current_dir().unwrap_or_default();
    Defaults { owner: geteuid().as_raw(), group: getegid().as_raw(), folder }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(path: &Path) -> Option<(u64, u64)> {
        Machine.probe(path).unwrap().unwrap().identity
    }

    #[test]
    fn a_file_has_one_identity_under_all_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let name = |name: &str| dir.path().join(name);
        std::fs::write(name("a"), "x").unwrap();
        std::fs::write(name("other"), "x").unwrap();
        std::os::unix::fs::symlink("a", name("soft")).unwrap();
        std::fs::hard_link(name("a"), name("hard")).unwrap();
        assert!(seen(&name("a")).is_some());
        assert_eq!(seen(&name("a")), seen(&name("soft")));
        assert_eq!(seen(&name("a")), seen(&name("hard")));
        assert_ne!(seen(&name("a")), seen(&name("other")));
        assert_eq!(Machine.probe(&name("none")).unwrap(), None);
    }

    #[test]
    fn a_folder_is_one() {
        // A file is made only in what has this word.
        let found = Machine.probe(Path::new("/")).unwrap().unwrap();
        assert_eq!(found.kind, FoundKind::Other(DIRECTORY));
    }

    #[test]
    fn a_block_device_is_found_by_its_number() {
        for entry in std::fs::read_dir("/sys/dev/block").unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let (major, minor) = name.split_once(':').unwrap();
            let number = (major.parse().unwrap(), minor.parse().unwrap());
            let path = Machine.block(number.0, number.1).unwrap();
            // In a container there may be devices without a node.
            if let Ok(Some(found)) = Machine.probe(&path) {
                assert_eq!(
                    (found.kind, found.number),
                    (FoundKind::Block, Some(number)),
                    "{}",
                    path.display()
                );
            }
        }
        assert_eq!(Machine.block(4095, 1 << 19), None);
        assert_eq!(Machine.probe(Path::new("/dev/null")).unwrap().unwrap().number, None);
    }
}
