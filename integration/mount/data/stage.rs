//! What the data trials play on: a disk with known bytes on it, images in known places, and what is to be there.

use crate::daemon::{Transport, Vmdisk, ioband};
use crate::support::{Loop, Need, Random, folder};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;

/// What kind of disk the images are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// A regular file on the disk that the build is on.
    File,
    /// A loop device with blocks of this size.
    Loop(u32),
}

impl Disk {
    pub(crate) fn by(self, transport: Transport) -> Place {
        Place { disk: self, transport }
    }
}

/// A kind of disk, and how requests for it come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) disk: Disk,
    pub(crate) transport: Transport,
}

impl Place {
    pub(crate) fn needs(self) -> Vec<Need> {
        let mut needs = self.transport.needs().to_vec();
        if let Disk::Loop(_) = self.disk {
            needs.push(Need::LoopDevice);
        }
        needs
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} by {}", self.disk, self.transport.name())
    }
}

/// Extents of an image: offset and size on the device.
pub(crate) type Extents = [(u64, u64)];

/// A disk outside of any mount, so that it can be mounted again and looked at in between.
pub(crate) struct Stage {
    // Dropped in this order: the loop device before the file that it is on.
    device: Option<Loop>,
    transport: Transport,
    file: PathBuf,
    folder: tempfile::TempDir,
    images: Vec<Vec<(u64, u64)>>,
}

impl Stage {
    /// A sparse disk.
    pub(crate) fn sparse(place: Place, size: u64, images: &[&Extents]) -> Self {
        let folder = folder();
        let file = folder.path().join("disk");
        crate::support::sparse(&file, size);
        let device = match place.disk {
            Disk::File => None,
            Disk::Loop(block) => Some(Loop::attach(&file, block)),
        };
        let images = images.iter().map(|extents| extents.to_vec()).collect();
        Self { device, transport: place.transport, file, folder, images }
    }

    /// A disk full of noise; returns it with what is on it. What is between the images is to stay as it is.
    pub(crate) fn noisy(
        place: Place,
        size: u64,
        images: &[&Extents],
        random: &mut Random,
    ) -> (Self, Vec<u8>) {
        let stage = Self::sparse(place, size, images);
        let bytes = random.bytes(size as usize);
        std::fs::write(&stage.file, &bytes).expect("filling the disk");
        (stage, bytes)
    }

    /// Mounts it; `keys` are further keys of the device, `args` further arguments of the command.
    pub(crate) fn mount(&self, keys: &str, args: &[&str]) -> Vmdisk {
        let path = self.device.as_ref().map_or(self.file.as_path(), Loop::path).display();
        let mut config = format!("devices:\n  ioband1: {{path: {path}{keys}}}\nimages:\n");
        for (number, extents) in self.images.iter().enumerate() {
            let extents: Vec<_> =
                extents.iter().map(|(offset, size)| format!("{{offset: {offset}, size: {size}}}")).collect();
            let extents = extents.join(", ");
            config += &format!("  {}: {{device: ioband1, extents: [{extents}]}}\n", name(number));
        }
        Vmdisk::mount_in(folder(), &config, &self.transport.and(args))
    }

    /// What is on the disk.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.file).expect("reading the disk")
    }

    /// The file that it is, or is on.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// A folder for what else a trial needs; it goes with the disk.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn size_of(&self, image: usize) -> u64 {
        self.images[image].iter().map(|(_, size)| size).sum()
    }

    pub(crate) fn images(&self) -> usize {
        self.images.len()
    }

    /// Where a range of an image is on the device. Worked out byte by byte from the extents' sizes, not as the
    /// program does it.
    pub(crate) fn places(&self, image: usize, from: u64, len: u64) -> Vec<(u64, u64)> {
        let (mut places, mut base) = (Vec::new(), 0);
        for &(offset, size) in &self.images[image] {
            let (start, end) = (from.max(base), (from + len).min(base + size));
            if start < end {
                places.push((offset + start - base, end - start));
            }
            base += size;
        }
        places
    }

    /// The bytes that an image shows, of a disk with these bytes.
    pub(crate) fn image_of(&self, disk: &[u8], image: usize) -> Vec<u8> {
        self.images[image]
            .iter()
            .flat_map(|&(at, len)| &disk[at as usize..(at + len) as usize])
            .copied()
            .collect()
    }

    /// Compares every image in a mount with a disk that has these bytes.
    pub(crate) fn check_images(&self, mount: &Vmdisk, disk: &[u8], when: &str) {
        for image in 0..self.images.len() {
            let shown = std::fs::read(mount.file(&name(image))).expect("reading an image");
            assert_same(&shown, &self.image_of(disk, image), &format!("{} {when}", name(image)));
        }
    }
}

/// The file name of an image.
pub(crate) fn name(image: usize) -> String {
    format!("vm{image}.img")
}

/// Opens an image for reading and writing, with further flags of open(2).
pub(crate) fn open(mount: &Vmdisk, image: usize, flags: i32) -> File {
    let path = mount.file(&name(image));
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).expect("opening an image")
}

/// The same by its name.
pub(crate) fn open_file(mount: &Vmdisk, name: &str, flags: i32) -> File {
    let path = mount.file(name);
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).expect("opening an image")
}

/// Unmounts by the command, as people do, and waits for the daemon's end.
pub(crate) fn unmount(mount: Vmdisk) {
    let path = mount.path();
    // Processes that other trials start have our open files too until they become their program, and io_uring lets
    // go of a file shortly after its last answer. A file that stays open fails this in the end.
    for attempt in 0.. {
        let output = ioband(mount.folder(), &["umount", path.to_str().expect("a plain path")]);
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            break;
        }
        assert!(said.contains("in use") && attempt < 1000, "umount: {said}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(mount.ended(), "the daemon ends with its mount");
    // (That the last release found nobody to answer is no error of anybody's: the unmounting was faster.)
    let log = mount.log();
    for bad in ["Not Implemented", "panicked"] {
        assert!(!log.contains(bad), "the log complains of what everybody does:\n{log}");
    }
}

/// Compares, and names the first difference instead of printing megabytes.
pub(crate) fn assert_same(got: &[u8], wanted: &[u8], what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}: length");
    if let Some(at) = got.iter().zip(wanted).position(|(got, wanted)| got != wanted) {
        let wrong = got.iter().zip(wanted).filter(|(got, wanted)| got != wanted).count();
        panic!("{what}: byte {at} is {} and not {} ({wrong} bytes differ)", got[at], wanted[at]);
    }
}

/// A seed from the environment variable IOBAND_SEED, to see a failure again, or a new one; printed either way.
pub(crate) fn seed(what: &str) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let given = std::env::var("IOBAND_SEED").ok().map(|seed| seed.parse().expect("IOBAND_SEED is a number"));
    let seed = given.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish());
    println!("{what}: IOBAND_SEED={seed}");
    seed
}
