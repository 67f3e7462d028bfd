//! Devices that fail as they are told to, that are missing, that come back, and that another one took the name of.

use crate::stage::{MIB, Opened, Place, SIZE, ask, assert_same, device, errno, read};
use crate::support::{Loop, Random, folder, run, sparse};
use ioband::device::{
    BackendKind, Fault, FaultOp, Faults, Op, OpenError, OpenMode, Part, Payload, Target, Trouble,
};
use ioband::units::{Bytes, Nanos};
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const FAULT: Fault =
    Fault { op: None, range: None, every: 1, seed: None, error: None, short: false, stall: None };

/// Every transfer is done in pieces, and every byte is where it belongs.
pub(crate) fn short_transfers(place: Place, backend: BackendKind) {
    let on = Opened::new(place);
    on.target.set_faults(Some(&Faults(vec![Fault { short: true, ..FAULT }])));
    let device = device(backend, None);
    let mut random = Random::new(11);
    let mut model = vec![0; SIZE as usize];
    for token in 0..60 {
        let len = 1 + random.below(MIB / 4);
        let at = random.below(SIZE - len);
        let data = random.bytes(len as usize);
        ask(&device, on.write(token, at, &data)).expect("writing in pieces");
        model[at as usize..(at + len) as usize].copy_from_slice(&data);
    }
    assert_same(&read(&device, &on, 0, SIZE), &model, "read in pieces");
    on.target.set_faults(None);
    assert_same(&read(&device, &on, 0, SIZE), &model, "read at once");
}

/// What is to fail fails, nothing is done of it, and it is told of once; the rest goes on.
pub(crate) fn injected_errors(backend: BackendKind) {
    let on = Opened::new(Place::Ext4);
    let device = device(backend, None);
    ask(&device, on.write(1, 0, &[1; 8192])).expect("writing");
    on.target.set_faults(Some(&Faults(vec![
        Fault { error: Some(libc::ENODATA), op: Some(FaultOp::Read), range: Some(MIB..MIB + 512), ..FAULT },
        Fault { error: Some(libc::ENOSPC), op: Some(FaultOp::Write), every: 2, ..FAULT },
        Fault { error: Some(libc::EIO), op: Some(FaultOp::Flush), ..FAULT },
    ])));
    for _ in 0..10 {
        // A bad place is EIO to callers, whatever the disk calls it.
        assert_eq!(errno(ask(&device, on.part(2, Op::Read, MIB - 100, 200))), libc::EIO);
        assert_eq!(ask(&device, on.part(3, Op::Read, MIB + 512, 200)).unwrap().unwrap().len(), 200);
        ask(&device, on.write(4, 0, &[2; 4096])).expect("every other write");
        assert_eq!(errno(ask(&device, on.write(5, 4096, &[3; 4096]))), libc::ENOSPC);
        assert_eq!(errno(ask(&device, on.part(6, Op::Flush, 0, 0))), libc::EIO);
    }
    assert_eq!(read(&device, &on, 4095, 2), [2, 1]);
    let told = on.target.news(Nanos(0)).began;
    assert_eq!(told, [Trouble::Error(libc::ENODATA), Trouble::Full, Trouble::Error(libc::EIO)]);
    assert!(on.target.news(Nanos(0)).began.is_empty(), "told twice");
    on.target.set_faults(None);
    ask(&device, on.part(7, Op::Flush, 0, 0)).expect("no fault any more");
}

/// A loop device at a path that can be made to lead to another one.
struct Plug {
    path: std::path::PathBuf,
    device: Option<Loop>,
}

impl Plug {
    fn new(folder: &Path) -> Self {
        Self { path: folder.join("device"), device: None }
    }

    /// Nothing is there any more. Whoever has the device open keeps it: a loop device goes when it is closed.
    fn pull(&mut self) {
        std::fs::remove_file(&self.path).expect("it is plugged in");
        self.device = None;
    }

    fn put(&mut self, file: &Path) {
        let device = Loop::attach(file, 512);
        symlink(device.path(), &self.path).expect("nothing is there");
        self.device = Some(device);
    }
}

/// A successor begins where the device is missing, and takes it up when it is back, but not another one in its place.
pub(crate) fn missing(backend: BackendKind) {
    let folder = folder();
    let [file, other, small] = ["file", "other", "small"].map(|name| folder.path().join(name));
    [&file, &other].into_iter().for_each(|file| sparse(file, SIZE));
    sparse(&small, MIB);
    let mut plug = Plug::new(folder.path());
    plug.put(&file);
    let first = Target::open(&plug.path, None, OpenMode::default()).expect("the device");
    let mark = first.mark().expect("it is there");
    drop(first);
    plug.pull();

    let size = Bytes(SIZE);
    let target = Arc::new(Target::open_or_missing(&plug.path, size, Some(&mark), OpenMode::default()));
    assert!(target.is_missing() && target.size() == size);
    let part = |op, offset, len, payload| Part { token: 1, target: target.clone(), op, offset, len, payload };
    let device = device(backend, None);
    let payload = |target: &Target| Some(Payload::for_write(target, 5, b"hello"));
    for _ in 0..3 {
        assert_eq!(errno(ask(&device, part(Op::Read, 0, 10, None))), libc::EIO);
        assert_eq!(errno(ask(&device, part(Op::Write, 5, 5, payload(&target)))), libc::EIO);
        assert_eq!(errno(ask(&device, part(Op::Flush, 0, 0, None))), libc::EIO);
    }
    assert_eq!(target.news(Nanos(0)).began, [Trouble::Missing]);
    assert!(matches!(target.come_back(), Err(OpenError::Missing { .. })));

    // Another disk has got its name: it must not be written to.
    plug.put(&other);
    assert!(matches!(target.come_back(), Err(OpenError::Another { .. })));
    assert!(target.is_missing());
    assert_eq!(errno(ask(&device, part(Op::Write, 5, 5, payload(&target)))), libc::EIO);
    // Nor by a successor of a successor.
    let again = Target::open_or_missing(&plug.path, size, target.mark().as_ref(), OpenMode::default());
    assert!(again.is_missing());
    plug.pull();

    // The same one, by another number.
    plug.put(&file);
    let lost = target.lost();
    assert!(target.come_back().expect("it is known"));
    assert_eq!(target.lost(), lost + 1, "what a predecessor may have written");
    assert!(!target.come_back().expect("it is there already"));
    ask(&device, part(Op::Write, 5, 5, payload(&target))).expect("writing");
    assert_eq!(ask(&device, part(Op::Read, 4, 7, None)).unwrap().unwrap()[..], *b"\0hello\0");

    // By word of mouth it is another one; but one that is too small is none.
    plug.pull();
    plug.put(&small);
    assert!(matches!(target.reopen(), Err(OpenError::TooSmall { .. })));
    assert_eq!(ask(&device, part(Op::Read, 5, 5, None)).unwrap().unwrap()[..], *b"hello");
    plug.pull();
    plug.put(&other);
    target.reopen().expect("it is large enough");
    assert_eq!(ask(&device, part(Op::Read, 5, 5, None)).unwrap().unwrap()[..], [0; 5]);
    ask(&device, part(Op::Write, 5, 5, payload(&target))).expect("writing");
    assert_eq!(std::fs::read(&other).unwrap()[5..10], *b"hello");
}

/// A device whose end is at 0, as that of a disk which was pulled out: it is EIO, not a disk without room.
pub(crate) fn end_at_nothing(backend: BackendKind) {
    let on = Opened::new(Place::Loop(512));
    let device = device(backend, None);
    ask(&device, on.write(1, 0, &[7; 4096])).expect("writing");
    let resize = |size| {
        File::options().write(true).open(&on.file).unwrap().set_len(size).unwrap();
        let device = on.target.path().to_str().unwrap();
        run("losetup", &["-c", device]).expect("another size");
    };
    resize(0);
    assert_eq!(errno(ask(&device, on.part(2, Op::Read, 0, 4096))), libc::EIO);
    assert_eq!(errno(ask(&device, on.part(3, Op::Read, MIB + 7, 9))), libc::EIO);
    assert_eq!(errno(ask(&device, on.write(4, 0, &[7; 4096]))), libc::EIO);
    assert_eq!(errno(ask(&device, on.write(5, MIB + 7, &[7; 100]))), libc::EIO);
    assert!(!on.target.news(Nanos(0)).began.contains(&Trouble::Full));
    resize(SIZE);
    ask(&device, on.write(6, MIB, &[8; 4096])).expect("it is back");
    assert_eq!(read(&device, &on, MIB - 1, 3), [0, 8, 8]);
}

/// Who opens waits for who has it, if he is told to.
pub(crate) fn patience() {
    let on = Opened::new(Place::Ext4);
    let path = on.target.path().to_owned();
    let patient = OpenMode { patience: Some(Duration::from_secs(60)), ..OpenMode::default() };
    let impatient = OpenMode { patience: Some(Duration::from_millis(5)), ..OpenMode::default() };
    assert!(matches!(Target::open(&path, None, impatient), Err(OpenError::Locked { .. })));
    let waiting = std::thread::spawn(move || Target::open(&path, None, patient).map(drop));
    drop(on.target);
    waiting.join().unwrap().expect("it was let go");
}
