//! An image ends where it ends, whatever numbers a caller comes up with.

use crate::daemon::{MOUNT, Vmdisk};
use crate::support::{Random, trial};
use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use nix::sys::uio::{preadv, pwritev};
use nix::unistd::{Whence, ftruncate, lseek64};
use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("attack: numbers that lead out of an image", MOUNT, numbers)]
}

const MIB: u64 = 1 << 20;

fn numbers() {
    let mount = Vmdisk::mount(
        "devices: {d: {path: disk, size: 6MiB}}\n\
         images: {before.img: {device: d, offset: 0, size: 2MiB}, his.img: {device: d, offset: 2MiB, size: 2MiB}, \
         after.img: {device: d, offset: 4MiB, size: 2MiB}}\n",
    );
    let noise = Random::new(3).bytes(6 * MIB as usize);
    let disk = mount.folder().join("disk");
    fs::write(&disk, &noise).expect("the device");
    let file = File::options().read(true).write(true).open(mount.file("his.img")).expect("an image");
    let other = File::options().read(true).write(true).open(mount.file("after.img")).expect("an image");
    let size = 2 * MIB as i64;
    // Places from which a request of some length reaches over the end, over the largest number, or comes round again.
    let places = [
        size - 1,
        size,
        size + 1,
        size + 511,
        size + 512,
        2 * size,
        -1,
        -512,
        -size,
        i64::MAX,
        i64::MAX - 511,
        i64::MAX - size,
        i64::MIN,
        1 << 31,
        1 << 32,
        (1 << 32) + size,
        1 << 40,
        1 << 62,
        i64::MAX - 4095,
    ];
    let lengths = [1, 512, 4096, size, size + 1, i64::MAX, i64::MAX - size, 1 << 32, 1 << 62];
    // A thousand vectors, which together reach from the first byte of the image to far behind it.
    let mut memory = vec![0; 4096];
    let parts: Vec<_> = memory.chunks(4096).cycle().take(1000).map(IoSlice::new).collect();
    let most = pwritev(&file, &parts, 0).expect("as much as there is room for");
    assert!(most as i64 <= size, "{most}");
    for place in places {
        if let Ok(written) = pwritev(&file, &parts, place) {
            assert!(place >= 0 && place + written as i64 <= size, "{written} bytes at {place}");
        }
        if let Ok(read) = preadv(&file, &mut [IoSliceMut::new(&mut memory.clone())], place) {
            assert!(place >= 0 && (read == 0 || place + read as i64 <= size), "{read} bytes from {place}");
        }
        for length in lengths {
            for how in [
                FallocateFlags::empty(),
                FallocateFlags::FALLOC_FL_KEEP_SIZE,
                FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                FallocateFlags::FALLOC_FL_ZERO_RANGE,
                FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                FallocateFlags::FALLOC_FL_COLLAPSE_RANGE,
                FallocateFlags::FALLOC_FL_INSERT_RANGE,
                FallocateFlags::FALLOC_FL_UNSHARE_RANGE,
            ] {
                // Whether it is refused or done for what there is of it, the neighbours and the size say.
                let _ = fallocate(&file, how, place, length);
            }
            let (mut from, mut to) = (place, place);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let copied = copy_file_range(&file, Some(&mut from), &file, Some(&mut to), length);
            assert!(!matches!(copied, Ok(1..)), "{copied:?} from {place}");
        }
        for whence in [Whence::SeekData, Whence::SeekHole] {
            if let Ok(at) = lseek64(&file, place, whence) {
                assert!((0..=size).contains(&at), "{whence:?} {place}: {at}");
            }
        }
        if place != size {
            assert!(ftruncate(&file, place).is_err(), "{place}");
        }
    }
    memory.fill(0);
    // What is for block devices and for filesystems that copy by reference: the numbers are those of ioctl(2).
    let range = [0_u64, 6 * MIB];
    for (what, request) in [("BLKDISCARD", 0x1277_u64), ("BLKSECDISCARD", 0x127d), ("BLKZEROOUT", 0x127f)] {
        // SAFETY: these take a pointer to two numbers, which live until the call returns.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), request, range.as_ptr()) };
        assert_eq!(Errno::result(result).err(), Some(Errno::ENOTTY), "{what}");
    }
    // SAFETY: it takes a descriptor.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), 0x4004_9409, other.as_raw_fd()) };
    assert!(Errno::result(result).is_err(), "FICLONE");
    shared_mapping_is_refused(&file);

    assert_eq!(file.metadata().expect("an image").len(), size as u64);
    let now = fs::read(&disk).expect("the device");
    assert_eq!(now.len(), noise.len(), "the device has its size");
    let (his, behind) = (2 * MIB as usize, 4 * MIB as usize);
    assert!(now[..his] == noise[..his], "what lies before the image is as it was");
    assert!(now[behind..] == noise[behind..], "what lies behind the image is as it was");
    assert!(now[his..behind] != noise[his..behind], "and in the image something was done");
}

/// What is written to a mapping comes to us without its writer; so there are none.
fn shared_mapping_is_refused(file: &File) {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap};
    let length = std::num::NonZeroUsize::new(8 * MIB as usize).expect("not 0");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at a place that the kernel chooses.
    let mapped = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file.as_fd(), 0) };
    assert_eq!(mapped.err(), Some(Errno::ENODEV));
}
