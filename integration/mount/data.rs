//! Every byte that was written is there: as a model in memory says, through everything that people put on top.
//!
//! This file: random requests of all sizes and alignments from many threads.

mod edges;
mod faults;
mod filesystem;
mod holes;
mod neighbours;
mod qemu;
mod queue;
pub(crate) mod stage;
mod ways;

use crate::daemon::Transport;
use crate::support::{Need, Random, trial};
use libtest_mimic::Trial;
use nix::fcntl::{FallocateFlags, fallocate};
use stage::{Disk, Extents, MIB, Place, Stage, assert_same, open, seed, unmount};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

pub(crate) fn trials(by: Transport) -> Vec<Trial> {
    let random = |what: &str, disk: Disk, keys: &'static str, args: &'static [&'static str]| {
        let place = disk.by(by);
        let title = format!("data: random requests{what}, {place:?}");
        trial(&title, &place.needs(), move || random_requests(place, keys, args))
    };
    let mut trials = vec![
        random("", Disk::File, "", &[]),
        random(" to a simulated disk", Disk::File, ", simulate: {iops: 20000}", &[]),
        random(" without scheduling", Disk::File, "", &["--no-scheduling"]),
        random(" with few slots and no memory to keep", Disk::File, "", FEW),
        random("", Disk::Loop(512), "", &[]),
        random("", Disk::Loop(4096), "", &[]),
    ];
    if by == Transport::Dev {
        for disk in [Disk::File, Disk::Loop(4096)] {
            trials.push(random(" with threads", disk, "", &["--backend", "threads"]));
        }
    }
    for more in [
        neighbours::trials(by),
        edges::trials(by),
        holes::trials(by),
        filesystem::trials(by),
        qemu::trials(by),
        queue::trials(by),
        faults::trials(by),
        ways::trials(by),
    ] {
        trials.extend(more);
    }
    trials
}

/// Callers wait for a slot, and memory is given back after every large request.
const FEW: &[&str] = &["--slots", "16", "--keep-memory", "0"];

/// Needs of a mount and some programs.
fn needs(place: Place, more: &[Need]) -> Vec<Need> {
    [place.needs().as_slice(), more].concat()
}

const THREADS: u64 = 8;
const OPERATIONS: u64 = 200;
const DISK: u64 = 40 * MIB;

/// Images in pieces that are not in order, meet within a block of 4096 bytes, and are as small as a sector.
const IMAGES: [&Extents; 3] = [
    &[
        (20 * MIB + 512, 3 * MIB + 1536),
        (MIB, 5 * MIB + 512),
        (20 * MIB, 512),
        (6 * MIB + 512, 512),
        (8 * MIB, 2 * MIB),
    ],
    // In the gap and right behind the first one, and without a gap in itself.
    &[(6 * MIB + 1024, MIB - 1024), (7 * MIB, 512), (23 * MIB + 2048, 6 * MIB + 2048)],
    &[(32 * MIB, 6 * MIB)],
];

/// The disk as it is to be, and who is at work where.
struct Model {
    disk: Mutex<Vec<u8>>,
    busy: Mutex<Vec<(usize, Range<u64>)>>,
    freed: Condvar,
    bytes: AtomicU64,
}

/// The right to a range of an image. It is exact to the byte, so that neighbours in a block are at work at once.
struct Taken<'a>(&'a Model, usize, Range<u64>);

impl Model {
    fn new(disk: Vec<u8>) -> Self {
        Self { disk: disk.into(), busy: Mutex::default(), freed: Condvar::new(), bytes: AtomicU64::new(0) }
    }

    fn take(&self, image: usize, range: Range<u64>) -> Taken<'_> {
        let meets = |busy: &mut Vec<(usize, Range<u64>)>| {
            busy.iter().any(|(other, r)| *other == image && r.start < range.end && range.start < r.end)
        };
        let mut busy = self.freed.wait_while(self.busy.lock().unwrap(), meets).unwrap();
        busy.push((image, range.clone()));
        Taken(self, image, range)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // Also while a thread panics, so that the others come to their end.
        let mut busy = self.0.busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        busy.retain(|(image, range)| (*image, range) != (self.1, &self.2));
        self.0.freed.notify_all();
    }
}

fn random_requests(place: Place, keys: &str, args: &[&str]) {
    let seed = seed(&format!("random requests, {place:?}{keys} {args:?}"));
    let (stage, disk) = Stage::noisy(place, DISK, &IMAGES, &mut Random::new(seed));
    let mount = stage.mount(keys, args);
    stage.check_images(&mount, &disk, "at first");
    let model = Model::new(disk);
    // Each image opened both ways, and either is used by all threads.
    let files: Vec<[File; 2]> = (0..stage.images())
        .map(|image| [open(&mount, image, 0), open(&mount, image, libc::O_DIRECT)])
        .collect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (stage, model, files) = (&stage, &model, &files);
            scope.spawn(move || {
                let mut random = Random::new(seed ^ (thread + 1));
                for _ in 0..OPERATIONS {
                    one_request(stage, model, files, &mut random);
                }
            });
        }
    });
    drop(files);
    let disk = model.disk.into_inner().unwrap();
    stage.check_images(&mount, &disk, "in the end");
    unmount(mount);
    assert_same(&stage.bytes(), &disk, "the disk itself");
    let mount = stage.mount(keys, args);
    stage.check_images(&mount, &disk, "in the next mount");
    println!("{} requests, {} bytes", THREADS * OPERATIONS, model.bytes.into_inner());
}

fn one_request(stage: &Stage, model: &Model, files: &[[File; 2]], random: &mut Random) {
    let image = random.below(stage.images() as u64) as usize;
    let file = &files[image][random.below(2) as usize];
    let size = stage.size_of(image);
    let range = a_range(random, size);
    let (at, len) = (range.start, range.end - range.start);
    let taken = model.take(image, range.clone());
    let places = stage.places(image, at, len);
    model.bytes.fetch_add(len, Ordering::Relaxed);
    let change = |bytes: &[u8]| {
        let (mut disk, mut rest) = (model.disk.lock().unwrap(), bytes);
        for &(at, len) in &places {
            let (now, later) = rest.split_at(len as usize);
            disk[at as usize..(at + len) as usize].copy_from_slice(now);
            rest = later;
        }
    };
    match random.below(100) {
        0..45 => {
            let mut got = vec![0; len as usize];
            file.read_exact_at(&mut got, at).expect("reading");
            let disk = model.disk.lock().unwrap();
            let wanted: Vec<u8> = places
                .iter()
                .flat_map(|&(at, len)| &disk[at as usize..(at + len) as usize])
                .copied()
                .collect();
            drop(disk);
            assert_same(&got, &wanted, &format!("image {image} at {at}"));
        }
        45..88 => {
            let bytes = random.bytes(len as usize);
            file.write_all_at(&bytes, at).expect("writing");
            change(&bytes);
        }
        kind @ 88..98 => {
            let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let flags = if kind < 93 { punch } else { FallocateFlags::FALLOC_FL_ZERO_RANGE };
            fallocate(file, flags, at as i64, len as i64).expect("zeroing");
            change(&vec![0; len as usize]);
        }
        _ => {
            drop(taken);
            file.sync_all().expect("flushing");
        }
    }
}

/// From one byte to four MiB, each magnitude as likely; aligned or not; now and then where all the others are, or
/// at the very end.
fn a_range(random: &mut Random, size: u64) -> Range<u64> {
    let magnitude = 1 << random.below(23);
    let mut len = (magnitude + random.below(magnitude)).min(4 * MIB);
    let mut at = match random.below(5) {
        0 => random.below(64 * 1024),
        1 => {
            // All in the same few sectors.
            len = len.min(100);
            random.below(1500)
        }
        2 => size - random.below(size.min(8192)),
        _ => random.below(size),
    };
    if random.below(3) == 0 {
        let unit = [512, 4096][random.below(2) as usize];
        (at, len) = (at - at % unit, len.next_multiple_of(unit));
    }
    // From the second byte on: a direct read of just the first one is refused (see `edges`).
    at = at.min(size - 1).max(u64::from(len == 1));
    at..(at + len).min(size)
}
