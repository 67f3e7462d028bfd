//! When the disk fails: the error goes to whom it concerns, and everything else goes on.

use super::stage::{Disk, MIB, Place, Stage, assert_same, name, open};
use super::{Need, needs};
use crate::daemon::{Transport, Vmdisk};
use crate::support::{Mounted, Random, trial};
use libtest_mimic::Trial;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub(super) fn trials(by: Transport) -> Vec<Trial> {
    let mut trials = Vec::new();
    for backend in ["uring", "threads"] {
        if backend == "threads" && by == Transport::Uring {
            continue;
        }
        let uring = if backend == "uring" { &[Need::Uring][..] } else { &[] };
        let full = needs(Disk::File.by(by), &[&[Need::Tool("mount")], uring].concat());
        let title = format!("data: a full filesystem by {}, {backend}", by.name());
        trials.push(trial(&title, &full, move || full_filesystem(by, backend)));
        for block in [512, 4096] {
            let place = Disk::Loop(block).by(by);
            let title = format!("data: a disk that has lost its end, {place:?}, {backend}");
            trials.push(trial(&title, &needs(place, uring), move || lost_end(place, backend)));
        }
    }
    trials
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
    result.expect_err("an error").raw_os_error()
}

/// A sparse disk on a filesystem that has no room for all of it.
fn full_filesystem(by: Transport, backend: &str) {
    let room = Mounted::new(&["-t", "tmpfs", "-o", "size=8m", "ioband-test"]);
    let ballast = room.path().join("ballast");
    std::fs::write(&ballast, vec![1; 4 * MIB as usize]).expect("ballast");
    let disk = room.path().join("disk");
    let config = format!(
        "devices:\n  ioband1: {{path: {}, size: 32MiB}}\nimages:\n  vm0.img: {{device: ioband1, offset: 0, size: \
         16MiB}}\n  vm1.img: {{device: ioband1, offset: 16MiB, size: 16MiB}}\n",
        disk.display()
    );
    let mount = Vmdisk::mount_in(crate::support::folder(), &config, &by.and(&["--backend", backend]));
    let files: [[File; 2]; 2] =
        [0, 1].map(|image| [0, libc::O_DIRECT].map(|flags| open(&mount, image, flags)));
    let data = Random::new(41).bytes(MIB as usize);
    // What both have before it is too late.
    for [file, _] in &files {
        file.write_all_at(&data, 0).expect("there is room");
    }
    // One takes what is left, and more.
    let fill = |file: &File| (1..16).find_map(|at| file.write_all_at(&data, at * MIB).err());
    let error = fill(&files[0][0]).expect("the room ends before the image does");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    for [buffered, direct] in &files {
        for file in [buffered, direct] {
            assert_eq!(errno(file.write_at(&data, 15 * MIB)), Some(libc::ENOSPC));
            assert_eq!(errno(file.write_at(b"in part of a block", 14 * MIB + 77)), Some(libc::ENOSPC));
            let mut got = vec![0; data.len()];
            file.read_exact_at(&mut got, 0).expect("reading goes on");
            assert_same(&got, &data, "what was there before");
            file.read_exact_at(&mut got, 15 * MIB).expect("reading goes on");
            assert_same(&got, &vec![0; data.len()], "what could not be written");
            // Where there is room already it can be written.
            file.write_all_at(&data[..5000], 1).expect("writing over what is there");
            file.write_all_at(&data[..5002], 0).expect("writing over what is there");
            file.sync_all().expect("flushing");
            // To discard what is not there takes no room, whatever the offsets; nor does a discard of what is.
            let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(file, punch, 13 * MIB as i64 + 7, 100).expect("discarding a part of a block");
            fallocate(file, punch, 13 * MIB as i64 + 7, 100_000).expect("discarding");
            fallocate(file, punch, 6000, 100).expect("discarding a part of a block");
            file.write_all_at(&data[6000..6100], 6000).expect("writing over what is there");
        }
    }
    std::fs::remove_file(&ballast).expect("making room");
    for (at, [buffered, direct]) in (13..).zip(&files) {
        for file in [buffered, direct] {
            file.write_all_at(&data, at * MIB + 5).expect("there is room again");
            let mut got = vec![0; data.len()];
            file.read_exact_at(&mut got, at * MIB + 5).expect("reading");
            assert_same(&got, &data, "what was written in the end");
        }
    }
}

/// The file that a loop device is on is cut: its end gives errors, the rest goes on.
fn lost_end(place: Place, backend: &str) {
    let images: [&[(u64, u64)]; 2] =
        [&[(0, 8 * MIB + 512)], &[(12 * MIB, 4 * MIB), (8 * MIB + 512, 2 * MIB)]];
    let (stage, disk) = Stage::noisy(place, 16 * MIB, &images, &mut Random::new(42));
    let mount = stage.mount("", &["--backend", backend]);
    let (first, second) = (open(&mount, 0, 0), open(&mount, 1, libc::O_DIRECT));
    let cut = 11 * MIB;
    File::options().write(true).open(stage.file()).and_then(|file| file.set_len(cut)).expect("cutting");

    let mut got = vec![0; MIB as usize];
    for (at, len) in [(1, 1), (0, 512), (5, 5000), (MIB, MIB), (4 * MIB - 1, 1)] {
        let result = second.read_exact_at(&mut got[..len as usize], at);
        assert_eq!(errno(result), Some(libc::EIO), "{len} bytes at {at}");
    }
    // Over the place where the extents meet: half of it is lost.
    assert_eq!(errno(second.read_at(&mut got[..8192], 4 * MIB - 4096)), Some(libc::EIO));
    // A write of a part of a block would have to read the rest.
    assert_eq!(errno(second.write_at(b"lost", 5)), Some(libc::EIO));
    // What is before the cut is there, in the same image and in the other.
    let wanted = stage.image_of(&disk, 1);
    second.read_exact_at(&mut got, 4 * MIB).expect("the second extent is whole");
    assert_same(&got, &wanted[4 * MIB as usize..5 * MIB as usize], "the second extent");
    let whole = std::fs::read(mount.file(&name(0))).expect("the other image");
    assert_same(&whole, &stage.image_of(&disk, 0), "the other image");
    for file in [&first, &second] {
        file.write_all_at(b"still written", 5 * MIB + 77).expect("writing elsewhere");
        let mut text = [0; 13];
        file.read_exact_at(&mut text, 5 * MIB + 77).expect("reading elsewhere");
        assert_eq!(&text, b"still written");
    }
    // The file grows back, and so does the disk.
    File::options().write(true).open(stage.file()).and_then(|file| file.set_len(16 * MIB)).expect("growing");
    second.read_exact_at(&mut got, 0).expect("reading works again");
    assert_same(&got, &vec![0; MIB as usize], "what was cut off");
    second.write_all_at(b"new", 5).expect("writing works again");
}
