//! What the trials play on: a disk of each kind, and how to ask it something and compare what it says.

use crate::support::{Loop, Need, folder, sparse};
use ioband::clock::Clock;
use ioband::device::{BackendKind, Device, Op, OpenMode, Part, Payload, Simulate, Target};
use ioband::units::Bytes;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const SIZE: u64 = 12 * MIB;

/// Where the bytes go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Ext4,
    Tmpfs,
    OddSize,
    Loop(u32),
}

impl Place {
    pub(crate) const ALL: [Place; 5] =
        [Place::Ext4, Place::Tmpfs, Place::OddSize, Place::Loop(512), Place::Loop(4096)];

    pub(crate) fn name(self) -> String {
        match self {
            Place::Ext4 => "file".to_owned(),
            Place::Tmpfs => "tmpfs file".to_owned(),
            Place::OddSize => "odd-sized file".to_owned(),
            Place::Loop(block) => format!("block device of {block}"),
        }
    }

    pub(crate) fn needs(self) -> &'static [Need] {
        match self {
            Place::Loop(_) => &[Need::Root, Need::Tool("losetup"), Need::LoopDevice],
            _ => &[],
        }
    }
}

/// A target and what has to go with it, in the order in which it has to go.
pub(crate) struct Opened {
    pub(crate) target: Arc<Target>,
    pub(crate) _loop: Option<Loop>,
    pub(crate) file: PathBuf,
    pub(crate) _folder: tempfile::TempDir,
}

impl Opened {
    pub(crate) fn new(place: Place) -> Self {
        let folder = match place {
            Place::Tmpfs => tempfile::tempdir_in("/dev/shm").expect("a folder in /dev/shm"),
            _ => folder(),
        };
        let file = folder.path().join("disk");
        let size = if matches!(place, Place::OddSize) { SIZE + 777 } else { SIZE };
        sparse(&file, size);
        let device = match place {
            Place::Loop(block) => Some(Loop::attach(&file, block)),
            _ => None,
        };
        let path = device.as_ref().map_or(file.as_path(), Loop::path);
        let target = Target::open(path, None, OpenMode::default()).expect("opening the target");
        assert_eq!(target.size(), Bytes(size));
        match place {
            // The check would be worth nothing if the fall-back were taken unseen.
            Place::Loop(block) => {
                assert!(target.is_block() && target.is_direct());
                assert_eq!(target.block_size(), block);
            }
            Place::Ext4 => assert!(target.is_direct() && target.block_size() > 1 && !target.is_block()),
            Place::OddSize => assert!(!target.is_direct() && target.block_size() == 1),
            Place::Tmpfs => {}
        }
        Self { target: Arc::new(target), _loop: device, file, _folder: folder }
    }

    pub(crate) fn part(&self, token: u64, op: Op, offset: u64, len: u64) -> Part {
        Part { token, target: Arc::clone(&self.target), op, offset, len, payload: None }
    }

    pub(crate) fn write(&self, token: u64, offset: u64, data: &[u8]) -> Part {
        let payload = Some(Payload::for_write(&self.target, offset, data));
        Part { payload, ..self.part(token, Op::Write, offset, data.len() as u64) }
    }
}

pub(crate) fn device(backend: BackendKind, simulate: Option<Simulate>) -> Device {
    let device = Device::new(backend, simulate, Clock::start()).expect("a device");
    let name = if backend == BackendKind::Threads { "threads" } else { "io_uring" };
    assert_eq!(device.backend(), name);
    device
}

/// Waits for exactly `count` answers.
pub(crate) fn answers(device: &Device, count: usize) -> HashMap<u64, io::Result<Option<Payload>>> {
    let mut done = Vec::new();
    while done.len() < count {
        device.wait(None, &mut done).expect("waiting");
    }
    assert_eq!(done.len(), count, "an answer too many");
    let answers: HashMap<_, _> = done.into_iter().map(|done| (done.token, done.result)).collect();
    assert_eq!(answers.len(), count, "two answers for one part");
    answers
}

/// Does one part and waits for it.
pub(crate) fn ask(device: &Device, part: Part) -> io::Result<Option<Payload>> {
    let token = part.token;
    device.submit(part);
    answers(device, 1).remove(&token).expect("the answer to what was asked")
}

pub(crate) fn read(device: &Device, on: &Opened, offset: u64, len: u64) -> Vec<u8> {
    let payload = ask(device, on.part(u64::MAX, Op::Read, offset, len)).expect("reading").expect("bytes");
    payload.to_vec()
}

pub(crate) fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.expect_err("an error").raw_os_error().expect("an errno")
}

#[track_caller]
pub(crate) fn assert_same(got: &[u8], wanted: &[u8], what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}: length");
    if let Some(at) = got.iter().zip(wanted).position(|(got, wanted)| got != wanted) {
        panic!("{what}: byte {at} of {} is {} instead of {}", got.len(), got[at], wanted[at]);
    }
}
