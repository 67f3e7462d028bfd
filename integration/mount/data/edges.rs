//! The end of an image: a disk has one too, and what lies beyond is somebody else's.

use super::stage::{Disk, Extents, MIB, Place, Stage, assert_same, name, open};
use crate::daemon::Transport;
use crate::support::{Random, trial};
use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub(super) fn trials(by: Transport) -> Vec<Trial> {
    [Disk::File, Disk::Loop(4096)]
        .map(|disk| disk.by(by))
        .into_iter()
        .flat_map(|place| {
            ["", "O_DIRECT"].map(|how| {
                let flags = if how.is_empty() { 0 } else { libc::O_DIRECT };
                let title = format!("data: the end of an image, {place:?} {how}");
                trial(title.trim(), &place.needs(), move || the_end(place, flags))
            })
        })
        .collect()
}

/// The image in the middle ends in the middle of a block, and its last request would be split in four.
const IMAGES: [&Extents; 3] =
    [&[(0, MIB)], &[(4 * MIB, MIB), (MIB, 3 * MIB - 512)], &[(4 * MIB - 512, 512), (5 * MIB, 512)]];

fn the_end(place: Place, flags: i32) {
    let (stage, mut disk) = Stage::noisy(place, 6 * MIB, &IMAGES, &mut Random::new(7));
    let mount = stage.mount("", &[]);
    let (file, size) = (open(&mount, 1, flags), stage.size_of(1));
    let wanted = stage.image_of(&disk, 1);

    let mut buffer = vec![0; 4 * MIB as usize];
    // The one request that is refused for its alignment: so QEMU asks whether it needs one (if not, it goes for 4096).
    match (file.read_at(&mut buffer[..1], 0), flags) {
        (Err(error), libc::O_DIRECT) => assert_eq!(errno(error), Some(libc::EINVAL)),
        (result, _) => assert_eq!(result.expect("reading"), 1),
    }
    assert_eq!(file.read_at(&mut buffer[..1], 1).expect("reading"), 1);
    assert_eq!(file.read_at(&mut buffer[..2], 0).expect("reading"), 2);
    for before in [1, 511, 512, 513, 4096, 5000, MIB, 3 * MIB + 1] {
        let count = file.read_at(&mut buffer, size - before).expect("reading");
        assert_eq!(count as u64, before, "a read over the end is short");
        assert_same(&buffer[..count], &wanted[(size - before) as usize..], "what is left there");
    }
    for past in [0, 1, 512, 4096, 1 << 40] {
        assert_eq!(file.read_at(&mut buffer, size + past).expect("reading"), 0, "{past} past the end");
        let error = file.write_at(&[1; 5000], size + past).expect_err("no space there");
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{past} past the end");
    }
    assert_unchanged(&stage, &disk);

    let data = Random::new(8).bytes(4 * MIB as usize);
    for before in [1, 511, 512, 513, 5000, MIB, MIB + 1, 3 * MIB + 1] {
        let count = file.write_at(&data, size - before).expect("writing");
        assert_eq!(count as u64, before, "a write over the end is short");
        let mut from = 0;
        for (at, len) in stage.places(1, size - before, before) {
            let (at, len) = (at as usize, len as usize);
            disk[at..at + len].copy_from_slice(&data[from..from + len]);
            from += len;
        }
        assert_unchanged(&stage, &disk);
    }
    // What write_all makes of it: the error that says why it did not all fit.
    let error = file.write_all_at(&data[..10], size - 5).expect_err("half of it fits");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));

    never_grows(&file, size);
    assert_eq!(std::fs::metadata(mount.file(&name(1))).expect("an image").len(), size);
    stage.check_images(&mount, &stage.bytes(), "in the end");
}

/// What would make other files longer.
fn never_grows(file: &File, size: u64) {
    let (keep, zero) = (FallocateFlags::FALLOC_FL_KEEP_SIZE, FallocateFlags::FALLOC_FL_ZERO_RANGE);
    let at = size as i64 - 100;
    for flags in [FallocateFlags::empty(), zero] {
        assert_eq!(fallocate(file, flags, at, 101), Err(Errno::ENOSPC), "{flags:?}");
    }
    fallocate(file, FallocateFlags::empty(), at, 100).expect("it is all there");
    // With this flag nothing is to grow, and there is nothing to set aside.
    fallocate(file, keep, at, 10_000).expect("nothing to do");
    for length in [size + 1, size - 1, 0] {
        assert_eq!(file.set_len(length).map_err(errno), Err(Some(libc::EPERM)), "{length}");
    }
    file.set_len(size).expect("it has that length");
    assert_eq!(file.metadata().expect("an image").len(), size);
}

fn errno(error: io::Error) -> Option<i32> {
    error.raw_os_error()
}

fn assert_unchanged(stage: &Stage, disk: &[u8]) {
    assert_same(&stage.bytes(), disk, "the disk");
}
