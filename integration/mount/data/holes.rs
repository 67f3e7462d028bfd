//! Holes, zeroes and maps: what tools that know sparse files see in an image.

use super::stage::{Disk, Extents, MIB, Place, Stage, assert_same, name, open};
use super::{Need, needs};
use crate::daemon::Transport;
use crate::support::{Random, run, trial};
use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

pub(super) fn trials(by: Transport) -> Vec<Trial> {
    let places = [Disk::File, Disk::Loop(512), Disk::Loop(4096)].map(|disk| disk.by(by));
    let mut trials: Vec<_> = places
        .into_iter()
        .flat_map(|place| {
            let tools = needs(place, &[Need::Tool("cp"), Need::Tool("qemu-img")]);
            [
                trial(&format!("data: zeroing at odd offsets, {place:?}"), &place.needs(), move || {
                    zeroing(place);
                }),
                trial(&format!("data: maps for cp and qemu-img, {place:?}"), &tools, move || maps(place)),
            ]
        })
        .collect();
    let file = Disk::File.by(by);
    let title = |what: &str| format!("data: {what}, {file:?}");
    let tools = needs(file, &[Need::Tool("qemu-img")]);
    trials.push(trial(&title("holes askew are whole blocks"), &tools, move || askew(file)));
    let what = "private mappings, and no shared ones";
    trials.push(trial(&title(what), &file.needs(), move || mapping(file)));
    trials
}

const PUNCH: FallocateFlags = FallocateFlags::FALLOC_FL_PUNCH_HOLE;
const ZERO: FallocateFlags = FallocateFlags::FALLOC_FL_ZERO_RANGE;
const KEEP: FallocateFlags = FallocateFlags::FALLOC_FL_KEEP_SIZE;

/// The second extent comes first on the disk, and both meet other blocks with their ends.
const TWO: &Extents = &[(6 * MIB + 512, 3 * MIB), (MIB, 5 * MIB)];

fn zeroing(place: Place) {
    let (stage, disk) = Stage::noisy(place, 12 * MIB, &[TWO], &mut Random::new(11));
    let mount = stage.mount("", &[]);
    let file = open(&mount, 0, 0);
    let mut model = stage.image_of(&disk, 0);
    let ranges = [
        (0, 1),
        (1, 510),
        (511, 2),
        (4095, 4098),
        (12_345, 1),
        (20_000, 100_001),
        (MIB - 512, 512),
        (3 * MIB - 1, 2),
        (3 * MIB - 5000, 10_001),
        (2 * MIB + 7, 3 * MIB),
        (8 * MIB - 777, 777),
    ];
    for flags in [PUNCH | KEEP, ZERO, ZERO | KEEP] {
        for (at, len) in ranges {
            // Noise first, so that it shows what is zeroed.
            let noise = Random::new(at + len).bytes(len as usize + 2);
            let from = at.saturating_sub(1) as usize;
            let noise = &noise[..noise.len().min(model.len() - from)];
            file.write_all_at(noise, from as u64).expect("writing");
            model[from..from + noise.len()].copy_from_slice(noise);

            fallocate(&file, flags, at as i64, len as i64)
                .unwrap_or_else(|e| panic!("{flags:?} {at}+{len}: {e}"));
            model[at as usize..(at + len) as usize].fill(0);
            fallocate(&file, FallocateFlags::empty(), at as i64, len as i64).expect("nothing to do");
            fallocate(&file, KEEP, at as i64, len as i64).expect("nothing to do");
            let mut got = vec![0; model.len()];
            file.read_exact_at(&mut got, 0).expect("reading");
            assert_same(&got, &model, &format!("{flags:?} at {at}, {len} bytes"));
        }
    }
    if place.disk == Disk::File {
        // A discard is more than zeroes: the room is given back.
        let before = std::fs::metadata(stage.file()).expect("the disk").blocks();
        fallocate(&file, PUNCH | KEEP, 0, 8 * MIB as i64).expect("discarding");
        let after = std::fs::metadata(stage.file()).expect("the disk").blocks();
        assert!(after + 2048 * 6 < before, "{before} blocks before, {after} after");
    }
    for unknown in [FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, FallocateFlags::FALLOC_FL_INSERT_RANGE] {
        assert_eq!(fallocate(&file, unknown, 0, 4096), Err(Errno::EOPNOTSUPP), "{unknown:?}");
    }
}

/// One piece of `qemu-img map --output=json`.
#[derive(Debug, serde::Deserialize)]
struct Mapped {
    start: u64,
    length: u64,
    data: bool,
}

fn maps(place: Place) {
    let stage = Stage::sparse(place, 16 * MIB, &[&[(8 * MIB, 3 * MIB), (2 * MIB, 5 * MIB)], &[(MIB, MIB)]]);
    let mount = stage.mount("", &[]);
    let file = open(&mount, 0, 0);
    // Over the place where the extents meet.
    let data = Random::new(3).bytes(2 * MIB as usize);
    file.write_all_at(&data, 2 * MIB).expect("writing");
    file.sync_all().expect("flushing");
    let (sparse, size) = (place.disk == Disk::File, stage.size_of(0));
    let seek = |at: u64, whence| lseek(&file, at as i64, whence).map(|found| found as u64);
    let wanted: &[(u64, Whence, Result<u64, Errno>)] = if sparse {
        &[
            (0, Whence::SeekHole, Ok(0)),
            (0, Whence::SeekData, Ok(2 * MIB)),
            (2 * MIB + 5, Whence::SeekData, Ok(2 * MIB + 5)),
            (2 * MIB, Whence::SeekHole, Ok(4 * MIB)),
            (4 * MIB, Whence::SeekData, Err(Errno::ENXIO)),
            (5 * MIB, Whence::SeekHole, Ok(5 * MIB)),
        ]
    } else {
        &[
            (0, Whence::SeekData, Ok(0)),
            (0, Whence::SeekHole, Ok(8 * MIB)),
            (5 * MIB + 7, Whence::SeekData, Ok(5 * MIB + 7)),
        ]
    };
    for &(at, whence, result) in wanted {
        assert_eq!(seek(at, whence), result, "{whence:?} from {at}");
    }
    for whence in [Whence::SeekData, Whence::SeekHole] {
        assert_eq!(seek(size, whence), Err(Errno::ENXIO), "{whence:?} from the end");
    }
    // A whole image that is one hole, beside one with data.
    let empty = open(&mount, 1, 0);
    assert_eq!(lseek(&empty, 0, Whence::SeekData), if sparse { Err(Errno::ENXIO) } else { Ok(0) });

    let image = mount.file(&name(0));
    let image = image.to_str().expect("a plain path");
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", image]).expect("a map");
    // JSON is YAML.
    let map: Vec<Mapped> = serde_yaml::from_str(&map).expect("JSON");
    let map: Vec<_> = map.iter().map(|piece| (piece.start, piece.length, piece.data)).collect();
    let wanted = [(0, 2 * MIB, false), (2 * MIB, 2 * MIB, true), (4 * MIB, 4 * MIB, false)];
    assert_eq!(map, if sparse { wanted.to_vec() } else { vec![(0, size, true)] });

    for how in ["always", "auto", "never"] {
        let copy = stage.folder().join(how);
        let to = copy.to_str().expect("a plain path");
        run("cp", &[&format!("--sparse={how}"), image, to]).expect("a copy");
        let mut whole = vec![0; size as usize];
        whole[2 * MIB as usize..4 * MIB as usize].copy_from_slice(&data);
        assert_same(&std::fs::read(&copy).expect("the copy"), &whole, how);
    }
    let copied = std::fs::metadata(stage.folder().join("always")).expect("the copy").blocks();
    assert!(copied < 3 * MIB / 512, "the copy is sparse and not of {copied} sectors");
}

/// Where holes of the disk lie askew in an image, tools see those of its blocks that are empty: QEMU aborts if it is
/// told of any other hole.
fn askew(file: Place) {
    let extents: &Extents = &[(8 * MIB + 512, 3 * MIB), (2 * MIB, 5 * MIB)];
    let stage = Stage::sparse(file, 16 * MIB, &[extents]);
    let mount = stage.mount("", &[]);
    let file = open(&mount, 0, 0);
    let mut whole = vec![0; stage.size_of(0) as usize];
    for (at, len) in [(MIB, 3), (2 * MIB - 512, 4096), (3 * MIB - 100, 200), (8 * MIB - 1, 1)] {
        let data = vec![1; len];
        file.write_all_at(&data, at).expect("writing");
        whole[at as usize..at as usize + len].copy_from_slice(&data);
    }
    file.sync_all().expect("flushing");
    let (mut at, mut holes) = (0, 0);
    while at < whole.len() {
        let seek = |whence| lseek(&file, at as i64, whence).map(|found| found as usize);
        let hole = seek(Whence::SeekHole).expect("the end is one at least");
        assert!(hole.is_multiple_of(4096), "a hole at {hole}");
        let data = if hole == at { seek(Whence::SeekData).unwrap_or(whole.len()) } else { at };
        assert!(data.is_multiple_of(4096), "data at {data}");
        assert!(whole[at..data].iter().all(|byte| *byte == 0), "a hole from {at} to {data} with data in it");
        holes += data - at;
        at = data.max(hole);
    }
    assert!(holes > 7 * MIB as usize, "nearly all is holes, not {holes} bytes");
    let (image, copy) = (mount.file(&name(0)), stage.folder().join("copy"));
    let (from, to) = (image.to_str().expect("a plain path"), copy.to_str().expect("a plain path"));
    run("qemu-img", &["convert", "-T", "none", "-f", "raw", "-O", "raw", from, to]).expect("a copy");
    assert_same(&std::fs::read(&copy).expect("the copy"), &whole, "the copy");
}

/// A private mapping shows the image; one that the kernel would write back to on nobody's behalf is refused.
fn mapping(file: Place) {
    let (stage, disk) = Stage::noisy(file, 12 * MIB, &[TWO], &mut Random::new(12));
    let mount = stage.mount("", &[]);
    let file = open(&mount, 0, 0);
    for round in 0..3 {
        let written = vec![round; 5000];
        file.write_all_at(&written, 3 * MIB - 2500).expect("writing");
        let mut wanted = stage.image_of(&disk, 0);
        wanted[(3 * MIB - 2500) as usize..][..5000].copy_from_slice(&written);
        assert_same(&mapped(&file, wanted.len()).expect("a private mapping"), &wanted, "what is mapped");
    }
    for protection in [libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE] {
        // SAFETY: a new mapping where the kernel likes; nobody uses it.
        let result = unsafe {
            libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_eq!((result, Errno::last()), (libc::MAP_FAILED, Errno::ENODEV), "{protection}");
    }
}

/// The bytes of a file, read through a private mapping that is gone afterwards.
fn mapped(file: &File, len: usize) -> Result<Vec<u8>, Errno> {
    let (read, private) = (libc::PROT_READ, libc::MAP_PRIVATE);
    // SAFETY: a new mapping where the kernel likes, of a file that is as long; it is read, and unmapped once, here.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), len, read, private, file.as_raw_fd(), 0);
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let bytes = std::slice::from_raw_parts(at.cast::<u8>(), len).to_vec();
        libc::munmap(at, len);
        Ok(bytes)
    }
}
