//! What a disk stands on: loop devices stand on files, partitions on disks, volumes on others.

use super::kernel;
use nix::sys::stat::makedev;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Whether the file or block device at `path` is in this filesystem (its number, as `st_dev` has it), or on a device that is, at
/// any depth. May wait for the filesystems that it looks into.
pub fn stands_on(path: &Path, filesystem: u64) -> bool {
    let Ok(found) = fs::metadata(path) else { return false };
    let is_block = found.file_type().is_block_device();
    // The number of a filesystem on a disk is that of the disk.
    let mut below = vec![if is_block { found.rdev() } else { found.dev() }];
    let mut seen = HashSet::new();
    while let Some(number) = below.pop() {
        if number == filesystem {
            return true;
        }
        if seen.insert(number) {
            below.extend(directly_below(number));
        }
    }
    false
}

/// The numbers of what a block device is made of.
fn directly_below(number: u64) -> Vec<u64> {
    let (major, minor) = kernel::split(number);
    let folder = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let slaves = fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten();
    let mut devices: Vec<PathBuf> = slaves.map(|slave| slave.path().join("dev")).collect();
    if folder.join("partition").exists() {
        devices.push(folder.join("../dev"));
    }
    let mut below: Vec<u64> = devices.iter().filter_map(|device| number_in(device)).collect();
    let file = fs::read_to_string(folder.join("loop/backing_file")).ok();
    let file = file.and_then(|file| fs::metadata(file.trim_end_matches('\n')).ok());
    below.extend(file.map(|file| if file.file_type().is_block_device() { file.rdev() } else { file.dev() }));
    below
}

/// The number in a file `dev` of sysfs, such as `8:16`.
fn number_in(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stands_on_its_filesystem() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let number = fs::metadata(&file).unwrap().dev();
        assert!(stands_on(&file, number));
        assert!(!stands_on(&file, number.wrapping_add(1)));
        assert!(!stands_on(&folder.path().join("none"), number));
    }
}
