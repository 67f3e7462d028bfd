//! Images that lie side by side on the disk, within one block even: nothing done to one ever shows in another.

use super::stage::{Disk, Extents, KIB, MIB, Place, Stage, assert_same, name, open, seed, unmount};
use crate::daemon::Transport;
use crate::support::{Random, trial};
use libtest_mimic::Trial;
use nix::fcntl::{FallocateFlags, fallocate};
use std::os::unix::fs::FileExt;

pub(super) fn trials(by: Transport) -> Vec<Trial> {
    [Disk::File, Disk::Loop(512), Disk::Loop(4096)]
        .map(|disk| disk.by(by))
        .into_iter()
        .flat_map(|place| {
            let title = |what: &str| format!("data: {what}, {place:?}");
            [
                trial(&title("neighbours in one block"), &place.needs(), move || one_block(place)),
                trial(&title("neighbours up to their last byte"), &place.needs(), move || last_byte(place)),
            ]
        })
        .collect()
}

const ROUNDS: u64 = 400;

/// Eight images of a sector each, in the same block of 4096 bytes, and a ninth of several extents around them.
fn one_block(place: Place) {
    let sectors: [[(u64, u64); 1]; 8] = std::array::from_fn(|n| [(MIB + 512 * n as u64, 512)]);
    let around: &Extents = &[(MIB + 4096, 1024), (MIB - 1024, 1024), (MIB + 5120, 512)];
    let images: Vec<&Extents> = sectors.iter().map(<[_; 1]>::as_slice).chain([around]).collect();
    hammer(place, 2 * MIB, &images, &|random, size| {
        let at = random.below(size);
        (at, 1 + random.below(size - at))
    });
}

/// Images of some size, the boundaries not where blocks of 4096 bytes end.
fn last_byte(place: Place) {
    let a: &Extents = &[(0, MIB + 512)];
    let b: &Extents = &[(MIB + 512, MIB + 1024)];
    let c: &Extents = &[(2 * MIB + 1536, 3 * MIB)];
    // The last bytes of the disk.
    let d: &Extents = &[(5 * MIB + 1536, 3 * MIB - 1536)];
    hammer(place, 8 * MIB, &[a, b, c, d], &|random, size| {
        let most = if random.below(4) == 0 { 512 * KIB } else { 6000 };
        let len = 1 + random.below(most);
        match random.below(3) {
            0 => (0, len),
            1 => (size - len, len),
            _ => (random.below(size - len), len),
        }
    });
}

/// Everybody changes an image of their own, all at once, and always sees what they wrote.
fn hammer(
    place: Place,
    size: u64,
    images: &[&Extents],
    range: &(dyn Fn(&mut Random, u64) -> (u64, u64) + Sync),
) {
    let seed = seed(&format!("neighbours, {place:?}"));
    let (stage, mut disk) = Stage::noisy(place, size, images, &mut Random::new(seed));
    let mount = stage.mount("", &[]);
    let models: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..stage.images())
            .map(|image| {
                let (stage, mount) = (&stage, &mount);
                let mut model = stage.image_of(&disk, image);
                scope.spawn(move || {
                    let mut random = Random::new(seed ^ (image as u64 + 1));
                    let file = open(mount, image, [0, libc::O_DIRECT][image % 2]);
                    for round in 0..ROUNDS {
                        let (at, len) = range(&mut random, stage.size_of(image));
                        let part = &mut model[at as usize..(at + len) as usize];
                        let kind = random.below(10);
                        if kind < 7 {
                            part.copy_from_slice(&random.bytes(len as usize));
                            file.write_all_at(part, at).expect("writing");
                        } else {
                            // Discards reach past the end, where the neighbour is, and are to stop there.
                            let (keep, past) = (FallocateFlags::FALLOC_FL_KEEP_SIZE, random.below(2) * 8192);
                            let ends = at + len == stage.size_of(image);
                            let (flags, past) = match kind {
                                7 if ends => (FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep, past),
                                7 | 8 => (FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep, 0),
                                _ => (FallocateFlags::FALLOC_FL_ZERO_RANGE | keep, 0),
                            };
                            part.fill(0);
                            fallocate(&file, flags, at as i64, (len + past) as i64).expect("zeroing");
                        }
                        if round % 16 == 0 {
                            let shown = std::fs::read(mount.file(&name(image))).expect("reading");
                            assert_same(&shown, &model, &format!("image {image} in round {round}"));
                        }
                    }
                    model
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no difference")).collect()
    });
    for (image, model) in models.iter().enumerate() {
        let mut rest = model.as_slice();
        for (at, len) in stage.places(image, 0, stage.size_of(image)) {
            let (now, later) = rest.split_at(len as usize);
            disk[at as usize..(at + len) as usize].copy_from_slice(now);
            rest = later;
        }
    }
    stage.check_images(&mount, &disk, "in the end");
    unmount(mount);
    assert_same(&stage.bytes(), &disk, "the disk itself");
}
