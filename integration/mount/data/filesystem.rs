//! What people put on a disk image: a filesystem, on a loop device, with files in it.

use super::stage::{Disk, MIB, Place, Stage, name, unmount};
use super::{Need, needs};
use crate::daemon::{Transport, Vmdisk};
use crate::support::{Loop, Mounted, Random, folder, run, trial};
use libtest_mimic::Trial;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) fn trials(by: Transport) -> Vec<Trial> {
    let tools: Vec<_> = ["mkfs.ext4", "e2fsck", "losetup", "mount", "fstrim"]
        .map(Need::Tool)
        .into_iter()
        .chain([Need::LoopDevice])
        .collect();
    let places =
        [("", Disk::File, false), ("", Disk::Loop(4096), false), (" by direct I/O", Disk::File, true)];
    places
        .into_iter()
        .map(|(how, disk, direct)| {
            let place = disk.by(by);
            let title = format!("data: a filesystem on an image{how}, {place:?}");
            trial(&title, &needs(place, &tools), move || filesystem(place, direct))
        })
        .collect()
}

const FILES: u64 = 300;

/// Everything below a folder, by its path there.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn filesystem(place: Place, direct: bool) {
    // Two extents, the second of them first, and another image in between that is to stay as it is.
    let extents = [(80 * MIB, 64 * MIB), (8 * MIB, 64 * MIB)];
    let stage = Stage::sparse(place, 160 * MIB, &[&extents, &[(72 * MIB, 8 * MIB)]]);
    let mut mount = stage.mount("", &[]);
    let mut random = Random::new(21);
    let neighbour = random.bytes(8 * MIB as usize);
    write_over(&mount.file(&name(1)), &neighbour);
    run("mkfs.ext4", &["-q", "-F", path(&image(&mount))]).expect("a filesystem");
    check(&mount);

    // A copy, because somebody may edit the sources meanwhile.
    let copy = folder();
    let source = copy.path().join("src");
    run("cp", &["-a", concat!(env!("CARGO_MANIFEST_DIR"), "/src"), path(&source)]).expect("a copied tree");
    let mut wanted = Files::new();
    {
        let device = attach(&mount, direct);
        let disk = Mounted::new(&[path(device.path())]);
        run("cp", &["-a", path(&source), path(disk.path())]).expect("a copied tree");
        for (name, bytes) in read_tree(&source) {
            wanted.insert(Path::new("src").join(name), bytes);
        }
        for number in 0..FILES {
            // Most are small, a few have some MiB.
            let most = if number % 25 == 0 { 3 * MIB } else { 40_000 };
            let (file, len) = (format!("random-{number}"), random.below(most));
            let bytes = random.bytes(len as usize);
            std::fs::write(disk.path().join(&file), &bytes).expect("writing a file");
            wanted.insert(file.into(), bytes);
        }
        // Some go again, and what they leave behind is discarded.
        for number in (0..FILES).step_by(7) {
            let file = format!("random-{number}");
            std::fs::remove_file(disk.path().join(&file)).expect("removing a file");
            wanted.remove(Path::new(&file));
        }
        run("fstrim", &[path(disk.path())]).expect("a discard of all that is free");
    }
    check(&mount);
    compare(&mount, direct, &wanted);

    unmount(mount);
    mount = stage.mount("", &[]);
    check(&mount);
    compare(&mount, direct, &wanted);
    assert!(std::fs::read(mount.file(&name(1))).expect("reading") == neighbour, "the neighbour has changed");
    println!("{} files, {} bytes", wanted.len(), wanted.values().map(Vec::len).sum::<usize>());
}

fn image(mount: &Vmdisk) -> PathBuf {
    mount.file(&name(0))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn write_over(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("an image");
    file.write_all_at(bytes, 0).expect("writing");
}

fn attach(mount: &Vmdisk, direct: bool) -> Loop {
    let device = Loop::attach(&image(mount), 512);
    if direct {
        run("losetup", &["--direct-io=on", path(device.path())]).expect("direct I/O on an image");
    }
    device
}

fn check(mount: &Vmdisk) {
    run("e2fsck", &["-fn", path(&image(mount))]).expect("a clean filesystem");
}

fn compare(mount: &Vmdisk, direct: bool, wanted: &Files) {
    let device = attach(mount, direct);
    let disk = Mounted::new(&["-o", "ro", path(device.path())]);
    let mut got = read_tree(disk.path());
    got.retain(|name, _| !name.starts_with("lost+found"));
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&got), names(wanted));
    for (name, bytes) in wanted {
        assert!(got[name] == *bytes, "{} has changed", name.display());
    }
}

fn read_tree(folder: &Path) -> Files {
    let mut files = Files::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("below it").to_owned();
                files.insert(name, std::fs::read(&path).expect("a file"));
            }
        }
    }
    files
}
