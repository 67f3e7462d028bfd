//! Other ways to the same bytes: vectors, copies inside the kernel, pipes, and asynchronous requests over the end.

use super::queue::{self, Aio};
use super::stage::{Disk, Extents, MIB, Place, Stage, assert_same, open, seed, unmount};
use super::{Need, needs};
use crate::daemon::Transport;
use crate::support::{Random, trial};
use libtest_mimic::Trial;
use nix::fcntl::{SpliceFFlags, copy_file_range, splice};
use nix::sys::sendfile::sendfile;
use nix::sys::uio::{preadv, pwritev};
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;

pub(super) fn trials(by: Transport) -> Vec<Trial> {
    let mut trials = Vec::new();
    for place in [Disk::File, Disk::Loop(4096)].map(|disk| disk.by(by)) {
        let title = format!("data: vectors and copies in the kernel, {place:?}");
        trials.push(trial(&title, &place.needs(), move || ways(place)));
        let title = format!("data: asynchronous requests over the end, {place:?}");
        trials.push(trial(&title, &needs(place, &[Need::Uring]), move || over_the_end(place)));
    }
    trials
}

const IMAGES: [&Extents; 2] =
    [&[(6 * MIB + 512, 2 * MIB), (MIB, 3 * MIB + 512)], &[(MIB - 512, 512), (9 * MIB, 5 * MIB + 1024)]];

fn ways(place: Place) {
    let seed = seed(&format!("ways, {place:?}"));
    let mut random = Random::new(seed);
    let (stage, disk) = Stage::noisy(place, 16 * MIB, &IMAGES, &mut random);
    let mount = stage.mount("", &[]);
    let mut models = [0, 1].map(|image| stage.image_of(&disk, image));
    for flags in [0, libc::O_DIRECT] {
        let files = [0, 1].map(|image| open(&mount, image, flags));
        for round in 0..20 {
            let at = random.below(MIB) + 1;
            // Hundreds of pieces of odd sizes at odd addresses, more than fits one request.
            let sizes: Vec<usize> = (0..700).map(|_| 1 + random.below(5000) as usize).collect();
            let bytes = random.bytes(sizes.iter().sum());
            let mut rest = bytes.as_slice();
            let pieces: Vec<_> =
                sizes.iter().map(|size| IoSlice::new(rest.split_off(..*size).expect("enough"))).collect();
            let count = pwritev(&files[0], &pieces, at as i64).expect("writing");
            models[0][at as usize..at as usize + count].copy_from_slice(&bytes[..count]);

            let mut memory = vec![0; bytes.len()];
            let mut rest = memory.as_mut_slice();
            let mut pieces: Vec<_> = sizes
                .iter()
                .rev()
                .map(|size| IoSliceMut::new(rest.split_off_mut(..*size).expect("enough")))
                .collect();
            let count = preadv(&files[0], &mut pieces, at as i64).expect("reading");
            assert_same(&memory[..count], &models[0][at as usize..at as usize + count], "a vector");

            // From one image to the other.
            let len = 1 + random.below(MIB) as usize;
            let (from, to) = (random.below(4 * MIB) + 1, random.below(4 * MIB));
            let (mut from_at, mut to_at) = (from as i64, to as i64);
            let count = match round % 3 {
                0 => copy_file_range(&files[0], Some(&mut from_at), &files[1], Some(&mut to_at), len),
                1 => {
                    nix::unistd::lseek(&files[1], to_at, nix::unistd::Whence::SeekSet).expect("seeking");
                    sendfile(&files[1], &files[0], Some(&mut from_at), len)
                }
                _ => {
                    let (output, input) = nix::unistd::pipe().expect("a pipe");
                    let none = SpliceFFlags::empty();
                    let count =
                        splice(&files[0], Some(&mut from_at), &input, None, len, none).expect("into a pipe");
                    splice(&output, None, &files[1], Some(&mut to_at), count, none)
                }
            };
            let count = count.unwrap_or_else(|error| panic!("a copy in round {round}: {error}"));
            assert!(count > 0, "nothing copied in round {round}");
            let copied = models[0][from as usize..from as usize + count].to_vec();
            models[1][to as usize..to as usize + count].copy_from_slice(&copied);
            for (file, model) in files.iter().zip(&models) {
                let mut got = vec![0; model.len()];
                file.read_exact_at(&mut got, 0).expect("reading");
                assert_same(&got, model, &format!("after round {round}"));
            }
        }
    }
    unmount(mount);
    let disk = stage.bytes();
    for (image, model) in models.iter().enumerate() {
        assert_same(&stage.image_of(&disk, image), model, "the disk itself");
    }
}

/// What the kernel makes of it is its own (a short count, or an error for all of it); no byte goes beyond, and what is
/// said to be written is.
fn over_the_end(place: Place) {
    let (stage, disk) = Stage::noisy(place, 16 * MIB, &IMAGES, &mut Random::new(51));
    let mount = stage.mount("", &[]);
    let file = open(&mount, 0, libc::O_DIRECT);
    let size = stage.size_of(0);
    let image = stage.image_of(&disk, 0);
    let mut ways: [Box<dyn queue::Queue>; 2] = [Box::new(queue::Uring::new()), Box::new(Aio::new())];
    for way in &mut ways {
        for before in [512, 513, 4096, 100_000, 2 * MIB] {
            // Where the kernel divides a long request depends on where its memory begins within a page.
            for begin in [0, 16, 512] {
                let (at, len) = ((size - before), (before + 8192) as usize);
                let mut room = vec![0; len + PAGE + begin];
                let begin = room.as_ptr().align_offset(PAGE) + begin;
                let memory = &mut room[begin..begin + len];
                let count = way.wait_for(&file, false, memory, at);
                assert_eq!(count, before as i64, "reading {before} bytes before the end");
                assert_same(&memory[..count as usize], &image[at as usize..], "what is there");

                // The same bytes again, so that the disk is to stay as it is whatever was written.
                memory[before as usize..].fill(0xee);
                let count = way.wait_for(&file, true, memory, at);
                // One of several requests that lies wholly beyond the end has no room at all.
                let errors = [libc::EIO, libc::ENOSPC].map(|error| -i64::from(error));
                assert!(count == before as i64 || errors.contains(&count), "{count} of {before} bytes");
                assert_eq!(way.wait_for(&file, true, memory, size), -i64::from(libc::ENOSPC));
                assert_eq!(way.wait_for(&file, false, memory, size), 0);
            }
        }
    }
    assert_eq!(file.metadata().expect("an image").len(), size);
    assert_same(&stage.bytes(), &disk, "the disk itself");
}

const PAGE: usize = 4096;
