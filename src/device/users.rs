//! Who uses a block device, for the sentence that refuses it.

use crate::mountinfo::{self, Mount};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Says who uses the device: its mounts and swap areas, those of its partitions, and devices built on it.
pub(super) fn of_device((major, minor): (u64, u64)) -> String {
    let mounts = mountinfo::mounts().unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let folder = format!("/sys/dev/block/{major}:{minor}");
    let mut users = users_of(&format!("{major}:{minor}"), &mounts, &swaps, Path::new(&folder), "");
    for (name, path) in entries(Path::new(&folder)) {
        // Only partitions have a folder with a number in it.
        if path.join("partition").exists() {
            let number = fs::read_to_string(path.join("dev")).unwrap_or_default();
            let who = format!("its partition {name} is ");
            users.extend(users_of(number.trim(), &mounts, &swaps, &path, &who));
        }
    }
    if users.is_empty() {
        return "another program has it open exclusively, perhaps another ioband mount (`findmnt -t fuse.ioband` lists them)".to_owned();
    }
    users.join(", ")
}

fn users_of(number: &str, mounts: &[Mount], swaps: &str, folder: &Path, who: &str) -> Vec<String> {
    let mounted = mountpoints(mounts, number).map(|at| format!("{who}mounted at {}", at.display()));
    let swapped = swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .filter(|area| has_number(area, number))
        .map(|_| format!("{who}used for swap"));
    let held = entries(&folder.join("holders")).map(|(name, path)| {
        let label = fs::read_to_string(path.join("dm/name")).map(|label| format!(" ({})", label.trim()));
        format!("{who}part of {name}{}", label.unwrap_or_default())
    });
    mounted.chain(swapped).chain(held).collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = (String, std::path::PathBuf)> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
}

fn has_number(path: &str, number: &str) -> bool {
    path.starts_with('/')
        && fs::metadata(path).is_ok_and(|seen| {
            let (major, minor) = super::kernel::split(seen.rdev());
            format!("{major}:{minor}") == number
        })
}

/// Where the device is mounted. By its number, or by its path: btrfs shows a number of its own.
fn mountpoints<'a>(mounts: &'a [Mount], number: &'a str) -> impl Iterator<Item = &'a Path> {
    let is_it = move |mount: &&Mount| mount.number == number || has_number(&mount.source, number);
    mounts.iter().filter(is_it).map(|mount| mount.mountpoint.as_path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number() {
        let mounts = "\
            29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            71 29 7:3 / /mnt/my\\040disk rw,relatime - ext4 /dev/loop3 rw\n\
            72 29 7:33 / /mnt/other rw - ext4 /dev/loop33 rw\n";
        let mounts = mountinfo::parse(mounts);
        let at = |number| mountpoints(&mounts, number).collect::<Vec<_>>();
        assert_eq!(at("7:3"), [Path::new("/mnt/my disk")]);
        assert!(at("8:1").is_empty());
    }

    #[test]
    fn an_unknown_user_is_named_as_such() {
        assert!(of_device((0, 0)).contains("another program"));
    }
}
