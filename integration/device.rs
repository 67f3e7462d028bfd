//! The device module on real files and devices: every byte is checked, on every backend and kind of target.

mod support;

use ioband::clock::Clock;
use ioband::device::{
    BackendKind, Device, Done, Kind, Op, OpenError, OpenMode, Part, Payload, Seek, Simulate, Target, probe,
};
use ioband::units::{Bytes, Nanos};
use libtest_mimic::{Arguments, Trial};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use support::{Loop, Mounted, Need, Random, folder, sparse, trial};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 12 * MIB;

/// Where the bytes go.
#[derive(Clone, Copy, Debug)]
enum Place {
    Ext4,
    Tmpfs,
    OddSize,
    Loop(u32),
}

impl Place {
    const ALL: [Place; 5] = [Place::Ext4, Place::Tmpfs, Place::OddSize, Place::Loop(512), Place::Loop(4096)];

    fn name(self) -> String {
        match self {
            Place::Ext4 => "file".to_owned(),
            Place::Tmpfs => "tmpfs file".to_owned(),
            Place::OddSize => "odd-sized file".to_owned(),
            Place::Loop(block) => format!("block device of {block}"),
        }
    }

    fn needs(self) -> &'static [Need] {
        match self {
            Place::Loop(_) => &[Need::Root, Need::Tool("losetup"), Need::LoopDevice],
            _ => &[],
        }
    }
}

/// A target and what has to go with it, in the order in which it has to go.
struct Opened {
    target: Arc<Target>,
    _loop: Option<Loop>,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Opened {
    fn new(place: Place) -> Self {
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

    fn part(&self, token: u64, op: Op, offset: u64, len: u64) -> Part {
        Part { token, target: Arc::clone(&self.target), op, offset, len, payload: None }
    }

    fn write(&self, token: u64, offset: u64, data: &[u8]) -> Part {
        let payload = Some(Payload::for_write(&self.target, offset, data));
        Part { payload, ..self.part(token, Op::Write, offset, data.len() as u64) }
    }
}

fn device(backend: BackendKind, simulate: Option<Simulate>) -> Device {
    let device = Device::new(backend, simulate, Clock::start()).expect("a device");
    let name = if backend == BackendKind::Threads { "threads" } else { "io_uring" };
    assert_eq!(device.backend(), name);
    device
}

/// Waits for exactly `count` answers.
fn answers(device: &Device, count: usize) -> HashMap<u64, io::Result<Option<Payload>>> {
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
fn ask(device: &Device, part: Part) -> io::Result<Option<Payload>> {
    let token = part.token;
    device.submit(part);
    answers(device, 1).remove(&token).expect("the answer to what was asked")
}

fn read(device: &Device, on: &Opened, offset: u64, len: u64) -> Vec<u8> {
    let payload = ask(device, on.part(u64::MAX, Op::Read, offset, len)).expect("reading").expect("bytes");
    payload.to_vec()
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.expect_err("an error").raw_os_error().expect("an errno")
}

#[track_caller]
fn assert_same(got: &[u8], wanted: &[u8], what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}: length");
    if let Some(at) = got.iter().zip(wanted).position(|(got, wanted)| got != wanted) {
        panic!("{what}: byte {at} of {} is {} instead of {}", got.len(), got[at], wanted[at]);
    }
}

/// A range of any alignment: mostly small ones, some around whole blocks, a few of several MiB.
fn range(random: &mut Random, size: u64) -> (u64, u64) {
    let longest =
        [600, 5000, 70_000, 300_000, 4 * MIB][[0, 0, 0, 1, 1, 1, 2, 2, 3, 4][random.below(10) as usize]];
    let mut len = 1 + random.below(longest);
    let mut offset = random.below(size - len + 1);
    if random.below(3) == 0 {
        let unit = [512, 4096][random.below(2) as usize];
        offset -= offset % unit;
        len = len.next_multiple_of(unit).min(size - offset);
    }
    (offset, len)
}

/// An operation that has been submitted and not answered.
struct Flight {
    offset: u64,
    end: u64,
    changes: bool,
    /// What a read has to give.
    wanted: Option<Vec<u8>>,
}

/// Random operations of all kinds, many in flight, against a copy in memory. Those that overlap wait for each
/// other here, because only then it is certain what a read must see.
fn every_byte(place: Place, backend: BackendKind, simulate: Option<Simulate>, operations: u64) {
    let on = Opened::new(place);
    let device = device(backend, simulate);
    let size = on.target.size().0;
    let mut model = vec![0u8; size as usize];
    let mut random = Random::new(0x10ba_4d00 + operations);
    let mut flying: HashMap<u64, Flight> = HashMap::new();
    let mut done: Vec<Done> = Vec::new();
    let mut settle = |flying: &mut HashMap<u64, Flight>| {
        device.wait(None, &mut done).expect("waiting");
        for Done { token, result } in done.drain(..) {
            let Flight { offset, end, wanted, .. } =
                flying.remove(&token).expect("an answer to what was asked");
            let bytes = result.unwrap_or_else(|error| panic!("{token}, {offset}..{end}: {error}"));
            assert_eq!(bytes.is_some(), wanted.is_some());
            if let (Some(bytes), Some(wanted)) = (bytes, wanted) {
                assert_same(&bytes, &wanted, &format!("read {token}, {offset}..{end}"));
            }
        }
    };
    for token in 0..operations {
        let (offset, len) = range(&mut random, size);
        let end = offset + len;
        let op =
            [Op::Read, Op::Write, Op::Write, Op::Discard, Op::WriteZeroes, Op::Read, Op::Write, Op::Flush]
                [random.below(8) as usize];
        let changes = !matches!(op, Op::Read | Op::Flush);
        let conflicts = |flying: &HashMap<u64, Flight>| {
            let overlaps = |other: &Flight| other.offset < end && offset < other.end;
            flying.values().any(|other| (changes || other.changes) && overlaps(other))
        };
        while flying.len() >= 48 || (op != Op::Flush && conflicts(&flying)) {
            settle(&mut flying);
        }
        let place = offset as usize..end as usize;
        let mut flight = Flight { offset, end, changes, wanted: None };
        let part = match op {
            Op::Flush => {
                flight.end = offset;
                on.part(token, op, 0, 0)
            }
            Op::Read => {
                flight.wanted = Some(model[place].to_vec());
                on.part(token, op, offset, len)
            }
            Op::Write => {
                let data = random.bytes(len as usize);
                model[place].copy_from_slice(&data);
                on.write(token, offset, &data)
            }
            Op::Discard | Op::WriteZeroes => {
                model[place].fill(0);
                on.part(token, op, offset, len)
            }
        };
        flying.insert(token, flight);
        device.submit(part);
    }
    while !flying.is_empty() {
        settle(&mut flying);
    }
    assert_same(&read(&device, &on, 0, size), &model, "the whole in the end");
    ask(&device, on.part(1, Op::Flush, 0, 0)).expect("flushing");
    drop(device);
    let stored = std::fs::read(&on.file).expect("reading the file behind it");
    assert_same(&stored, &model, "what is stored in the end");
}

/// Writes to neighbouring bytes of the same blocks, from several threads at once, all survive; and where
/// blocks are shared, writes to the same bytes take effect in the order in which they came.
fn neighbours(place: Place, backend: BackendKind) {
    const CELL: u64 = 100;
    const CELLS: u64 = 1200;
    const THREADS: u64 = 4;
    let on = Opened::new(place);
    let device = device(backend, None);
    // Without blocks the page cache keeps neighbours apart, but nobody keeps order.
    let rounds = if on.target.is_direct() { 3 } else { 1 };
    let byte = |cell: u64, round: u64| (1 + (cell * 7 + round * 31) % 251) as u8;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (on, device) = (&on, &device);
            scope.spawn(move || {
                for round in 0..rounds {
                    for cell in (thread..CELLS).step_by(THREADS as usize) {
                        let data = [byte(cell, round); CELL as usize];
                        device.submit(on.write(round * CELLS + cell, cell * CELL, &data));
                    }
                }
            });
        }
        for (token, result) in answers(&device, (rounds * CELLS) as usize) {
            result.unwrap_or_else(|error| panic!("{token}: {error}"));
        }
    });
    let wanted: Vec<u8> = (0..CELLS).flat_map(|cell| [byte(cell, rounds - 1); CELL as usize]).collect();
    assert_same(&read(&device, &on, 0, CELLS * CELL), &wanted, "all neighbours");
}

/// Overlapping changes of parts of blocks, none waited for: the result is that of doing them in order.
fn order(place: Place, backend: BackendKind) {
    let on = Opened::new(place);
    if !on.target.is_direct() {
        return;
    }
    let device = device(backend, None);
    let block = u64::from(on.target.block_size());
    let blocks = 16;
    let span = blocks * block;
    let mut random = Random::new(7);
    let mut model = vec![0u8; span as usize];
    let count = 400;
    for round in 0..10 {
        let mut parts = Vec::new();
        for token in 0..count {
            let (offset, len) = if token % (count / blocks) == 0 {
                // A whole block, each of them once: whole blocks keep no order among themselves.
                (token / (count / blocks) * block, block)
            } else {
                // Odd at one end at least, so that it excludes all others that it touches.
                let offset = random.below(span - block);
                let len = 1 + random.below((span - offset).min(3 * block));
                let whole = offset.is_multiple_of(block) && (offset + len).is_multiple_of(block);
                (offset, len - u64::from(whole))
            };
            let place = offset as usize..(offset + len) as usize;
            if random.below(5) == 0 {
                model[place].fill(0);
                parts.push(on.part(token, [Op::Discard, Op::WriteZeroes][(token % 2) as usize], offset, len));
            } else {
                let data = random.bytes(len as usize);
                model[place].copy_from_slice(&data);
                parts.push(on.write(token, offset, &data));
            }
        }
        // All at once is more than a submission queue holds.
        if round % 2 == 0 {
            device.submit_all(parts)
        } else {
            parts.into_iter().for_each(|part| device.submit(part))
        }
        for (token, result) in answers(&device, count as usize) {
            result.unwrap_or_else(|error| panic!("{token}: {error}"));
        }
        assert_same(&read(&device, &on, 0, span), &model, &format!("after round {round}"));
    }
}

/// Parts that can only fail, between parts that wait for them and must not.
fn read_only(place: Place, backend: BackendKind) {
    let Opened { target, _loop, file, _folder } = Opened::new(place);
    let path = target.path().to_owned();
    drop(target);
    let target =
        Arc::new(Target::open(&path, None, OpenMode { read_only: true }).expect("opening read-only"));
    let on = Opened { target, _loop, file, _folder };
    let device = device(backend, None);
    // All in the same block: each waits for the one before it.
    for token in 0..40 {
        device.submit(on.write(token, 10 + token, b"refused"));
        device.submit(on.part(100 + token, Op::Discard, 10 + token, 300));
        device.submit(on.part(200 + token, Op::Read, 3 * token, 1000));
    }
    for (token, result) in answers(&device, 120) {
        match token {
            200.. => assert_same(&result.expect("reading").expect("bytes"), &[0; 1000], "read-only"),
            // What reads as zeroes already may be left as it is.
            100.. if result.is_ok() => {}
            _ => assert!(matches!(errno(result), libc::EBADF | libc::EPERM | libc::EROFS), "{token}"),
        }
    }
}

fn truncated_file(backend: BackendKind) {
    let on = Opened::new(Place::Ext4);
    let device = device(backend, None);
    let data = Random::new(3).bytes(SIZE as usize);
    ask(&device, on.write(1, 0, &data)).expect("writing");
    // Not even on a block's end.
    std::fs::OpenOptions::new().write(true).open(&on.file).unwrap().set_len(MIB + 1234).unwrap();
    device.submit(on.part(1, Op::Read, 5 * MIB, MIB));
    device.submit(on.part(2, Op::Read, MIB - 100, 5000));
    device.submit(on.part(3, Op::Read, 100, 5000));
    device.submit(on.part(4, Op::Read, 0, SIZE));
    // Of part of a block: it has to read what is lost.
    device.submit(on.write(5, 2 * MIB + 7, b"back"));
    let mut answers = answers(&device, 5);
    // Lost data is an error, never zeroes that look like data.
    for token in [1, 2, 4, 5] {
        assert_eq!(errno(answers.remove(&token).unwrap()), libc::EIO, "{token}");
    }
    assert_same(
        &answers.remove(&3).unwrap().expect("an answer").expect("bytes"),
        &data[100..5100],
        "what is left",
    );
}

fn vanished_device(backend: BackendKind) {
    let on = Opened::new(Place::Loop(512));
    let device = device(backend, None);
    ask(&device, on.write(1, 0, &[7; 4096])).expect("writing");
    std::fs::OpenOptions::new().write(true).open(&on.file).unwrap().set_len(MIB).unwrap();
    device.submit(on.part(1, Op::Read, 4 * MIB, 100));
    device.submit(on.part(2, Op::Read, 9, 4000));
    // Waits for a read of its first block, which fails, and the next one waits for it.
    device.submit(on.write(3, 4 * MIB + 5, b"lost"));
    device.submit(on.write(4, 4 * MIB + 9, b"lost too"));
    device.submit(on.write(5, 5, b"kept"));
    let mut answers = answers(&device, 5);
    for token in [1, 3, 4] {
        assert_eq!(errno(answers.remove(&token).unwrap()), libc::EIO, "{token}");
    }
    assert_same(&answers.remove(&2).unwrap().unwrap().unwrap(), &[7; 4000], "what is still there");
    answers.remove(&5).unwrap().expect("writing elsewhere");
    assert_eq!(read(&device, &on, 4, 6), b"\x07kept\x07");
}

fn full_filesystem(backend: BackendKind) {
    let mounted = Mounted::new(&["-t", "tmpfs", "-o", "size=4m", "ioband-test"]);
    let ballast = mounted.path().join("ballast");
    std::fs::write(&ballast, vec![1; 2 * MIB as usize]).unwrap();
    let path = mounted.path().join("disk");
    let target = Target::open(&path, Some(Bytes(16 * MIB)), OpenMode::default()).expect("a sparse file");
    let target = Arc::new(target);
    let write = |token, offset, data: &[u8]| Part {
        token,
        target: Arc::clone(&target),
        op: Op::Write,
        offset,
        len: data.len() as u64,
        payload: Some(Payload::for_write(&target, offset, data)),
    };
    let device = device(backend, None);
    let data = Random::new(5).bytes(3 * MIB as usize);
    assert_eq!(errno(ask(&device, write(1, 0, &data))), libc::ENOSPC);
    // Past the end there is no space either: a file must not grow.
    assert_eq!(errno(ask(&device, write(2, 16 * MIB - 1, b"xx"))), libc::ENOSPC);
    std::fs::remove_file(&ballast).unwrap();
    ask(&device, write(3, 0, &data)).expect("writing, now that there is space");
    assert_same(&std::fs::read(&path).unwrap()[..data.len()], &data, "what was written in the end");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 16 * MIB);
}

fn mounted_device() {
    let folder = folder();
    let file = folder.path().join("disk");
    sparse(&file, 16 * MIB);
    let device = Loop::attach(&file, 512);
    let path = device.path().to_str().unwrap().to_owned();
    support::run("mkfs.ext4", &["-q", &path]).expect("a filesystem");
    let mounted = Mounted::new(&[&path]);
    let error = Target::open(device.path(), None, OpenMode::default()).expect_err("it is mounted");
    let text = error.to_string();
    assert!(text.contains("mounted at") && text.contains(mounted.path().to_str().unwrap()), "{text}");
    assert!(text.contains(&path), "{text}");
    assert_eq!(error.errno(), libc::EBUSY);
    drop(mounted);
    let first = Target::open(device.path(), None, OpenMode::default()).expect("nobody uses it now");
    let error = Target::open(device.path(), None, OpenMode::default()).expect_err("it is open already");
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(first);
}

fn opening() {
    let folder = folder();
    let path = folder.path().join("disk");
    let open = |path: &std::path::Path, create| Target::open(path, create, OpenMode::default());

    let error = open(&path, None).expect_err("it does not exist");
    assert!(error.errno() == libc::ENOENT && error.to_string().contains("does not exist"), "{error}");
    assert_eq!(probe(&path).unwrap(), None);

    let target = open(&path, Some(Bytes(4 * MIB))).expect("creating it");
    assert_eq!((target.size(), target.path(), target.is_block()), (Bytes(4 * MIB), path.as_path(), false));
    assert_eq!(target.identity(), path.to_str().unwrap());
    assert_eq!(probe(&path).unwrap(), Some((Bytes(4 * MIB), Kind::File)));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o600);

    let error = open(&path, None).expect_err("it is open already");
    assert!(error.errno() == libc::EWOULDBLOCK && error.to_string().contains("another ioband"), "{error}");
    let error = open(&path, Some(Bytes(MIB))).expect_err("it exists already");
    assert_eq!(error.errno(), libc::EEXIST);
    assert!(path.exists(), "a file that was there is never removed");
    drop(target);
    drop(open(&path, None).expect("nobody has it now"));

    let huge = folder.path().join("huge");
    open(&huge, Some(Bytes(i64::MAX as u64))).expect_err("too large for any filesystem");
    assert!(!huge.exists(), "what was made is removed again");

    let error = open(folder.path(), None).expect_err("a directory");
    assert!(error.to_string().contains("is a directory; a disk is"), "{error}");
    assert_eq!(probe("/dev/null".as_ref()).unwrap(), Some((Bytes(0), Kind::Other("a character device"))));
}

fn seeking() {
    let on = Opened::new(Place::Ext4);
    let device = device(BackendKind::Threads, None);
    ask(&device, on.write(1, 4 * MIB, &[1; MIB as usize])).expect("writing");
    ask(&device, on.part(2, Op::Flush, 0, 0)).expect("flushing");
    let seek = |offset, what| on.target.seek(offset, what).expect("seeking");
    assert_eq!(seek(0, Seek::Data), Some(4 * MIB));
    assert_eq!(seek(4 * MIB + 5, Seek::Data), Some(4 * MIB + 5));
    assert_eq!(seek(4 * MIB, Seek::Hole), Some(5 * MIB));
    assert_eq!(seek(6 * MIB, Seek::Hole), Some(6 * MIB));
    assert_eq!(seek(6 * MIB, Seek::Data), None);
    assert_eq!(seek(SIZE, Seek::Hole), None);
}

fn block_device_facts() {
    let on = Opened::new(Place::Loop(4096));
    let (size, kind) = probe(on.target.path()).unwrap().unwrap();
    assert_eq!((size, kind), (Bytes(SIZE), Kind::Block));
    assert!(on.target.identity().starts_with("7:"), "{}", on.target.identity());
    assert_eq!(on.target.seek(5, Seek::Data).unwrap(), Some(5));
    assert_eq!(on.target.seek(5, Seek::Hole).unwrap(), Some(SIZE));
}

/// Answered without any call to the kernel, and still through `wait`.
fn malformed(backend: BackendKind) {
    let on = Opened::new(Place::Ext4);
    let device = device(backend, None);
    assert_eq!(errno(ask(&device, on.part(1, Op::Write, 0, 10))), libc::EINVAL);
    assert_eq!(errno(ask(&device, on.part(2, Op::Read, u64::MAX, 10))), libc::EINVAL);
    assert_eq!(errno(ask(&device, on.part(3, Op::Discard, SIZE - 1, 2))), libc::ENOSPC);
    assert_eq!(ask(&device, on.part(4, Op::Read, 5, 0)).unwrap().unwrap().len(), 0);
    assert!(ask(&device, on.part(5, Op::Discard, 5, 0)).unwrap().is_none());
    // A payload that was made for elsewhere costs a copy and is right all the same.
    let payload = Some(Payload::for_write(&on.target, 3, b"elsewhere"));
    ask(&device, Part { payload, ..on.part(6, Op::Write, 100, 9) }).expect("writing");
    assert_eq!(read(&device, &on, 99, 11), b"\0elsewhere\0");
}

fn waking(backend: BackendKind) {
    let device = device(backend, None);
    let mut done = Vec::new();
    // Before the wait, and several times: each of the waits below would last forever otherwise.
    device.wake();
    device.wake();
    device.wait(None, &mut done).expect("waiting");
    for _ in 0..200 {
        std::thread::scope(|scope| {
            scope.spawn(|| device.wake());
            device.wait(None, &mut done).expect("waiting");
        });
    }
    // Nor does the thread that waits have to be the one that waited before it.
    std::thread::scope(|scope| {
        scope.spawn(|| device.wait(Some(Duration::from_millis(1)), &mut Vec::new()).expect("waiting"));
    });
    device.wake();
    device.wait(None, &mut done).expect("waiting");
    // A timeout alone ends it as well, and not before it is over.
    let clock = Clock::start();
    device.wait(Some(Duration::from_millis(20)), &mut done).expect("waiting");
    assert!(clock.now() >= Nanos::from_millis(20));
    assert!(done.is_empty());
}

/// Far more than any queue holds, submitted before anybody looks for an answer.
fn flood(backend: BackendKind) {
    let on = Opened::new(Place::Tmpfs);
    let device = device(backend, None);
    const COUNT: u64 = 20_000;
    device.submit_all((0..COUNT / 2).map(|token| on.part(token, Op::Read, token * 512, 512)).collect());
    (COUNT / 2..COUNT).for_each(|token| device.submit(on.part(token, Op::Read, token * 512, 512)));
    for (token, result) in answers(&device, COUNT as usize) {
        assert_eq!(result.expect("reading").expect("bytes").len(), 512, "{token}");
    }
}

/// Parts outlive the threads that submitted them, also those that the kernel has not begun by then.
fn short_lived_threads(place: Place, backend: BackendKind) {
    let on = Opened::new(place);
    let device = device(backend, None);
    for round in 0..30 {
        let data = [round as u8 + 1; 3000];
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (on, device, data) = (&on, &device, &data);
                scope.spawn(move || {
                    for part in 0..10 {
                        let at = (thread * 10 + part) * 100_000;
                        device.submit(on.write(3 * part + 100 * thread, at, data));
                        device.submit(on.part(3 * part + 1 + 100 * thread, Op::Discard, at + 50_000, 20_000));
                        device.submit(on.part(3 * part + 2 + 100 * thread, Op::Flush, 0, 0));
                    }
                });
            }
        });
        for (token, result) in answers(&device, 120) {
            result.unwrap_or_else(|error| panic!("{token}: {error}"));
        }
        for cell in 0..40 {
            assert_same(&read(&device, &on, cell * 100_000, 3000), &data, "written by a thread that is gone");
        }
    }
}

/// What is dropped with parts in flight finishes them: their writes are there, their memory was never freed early.
fn dropping(place: Place, backend: BackendKind) {
    let on = Opened::new(place);
    let simulate = Simulate { iops: Some(1), bandwidth: None, parallel: 1 };
    let device = device(backend, Some(simulate));
    for token in 0..300 {
        device.submit(on.write(token, token * 700, &[token as u8 | 1; 700]));
    }
    drop(device);
    let stored = std::fs::read(&on.file).unwrap();
    let wanted: Vec<u8> = (0..300).flat_map(|token: u64| [token as u8 | 1; 700]).collect();
    // Of a block device this is the file that it is on: what was done is there, whether or not the device is flushed.
    assert_same(&stored[..wanted.len()], &wanted, "after the drop");
}

/// A simulated device answers in the order of its model and never before it is due.
fn simulated(backend: BackendKind) {
    let on = Opened::new(Place::Ext4);
    let clock = Clock::start();
    let simulate = Simulate { iops: Some(1000), bandwidth: Some(100 * MIB), parallel: 1 };
    let device = Device::new(backend, Some(simulate), clock).expect("a device");
    // 1 ms each, and 10 ms for the MiB.
    let parts = [
        on.part(0, Op::Read, 0, MIB),
        on.part(1, Op::Flush, 0, 0),
        on.part(2, Op::Read, 0, 0),
        on.part(3, Op::Discard, 0, SIZE),
        on.part(4, Op::Write, 0, 1), // refused, in its turn
        on.part(5, Op::Read, 0, 0),
    ];
    let due = [11, 12, 13, 14, 15, 16].map(Nanos::from_millis);
    let start = clock.now();
    device.submit_all(parts.into());
    let mut order = Vec::new();
    let mut done = Vec::new();
    while order.len() < due.len() {
        device.wait(None, &mut done).expect("waiting");
        for done in done.drain(..) {
            let due = due[done.token as usize];
            assert!(clock.now().since(start) >= due, "{} came too early", done.token);
            assert_eq!(done.result.is_err(), done.token == 4);
            order.push(done.token);
        }
    }
    // In what order is up to the machine, which may be slower than the simulated disk.
    order.sort_unstable();
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
    // Refused while somebody waits without end: they are told, or this would never end.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| answers(&device, 1));
        std::thread::sleep(Duration::from_millis(20));
        device.submit(on.part(6, Op::Write, 0, 1));
        assert_eq!(errno(waiting.join().unwrap().remove(&6).unwrap()), libc::EINVAL);
    });
}

fn main() {
    let backends = [("io_uring", BackendKind::Uring), ("threads", BackendKind::Threads)];
    let mut trials: Vec<Trial> = Vec::new();
    let mut add = |name: String, needs: &[Need], backend, run: Box<dyn FnOnce() + Send>| {
        let mut needs = needs.to_vec();
        if backend == BackendKind::Uring {
            needs.push(Need::Uring);
        }
        trials.push(trial(&name, &needs, run));
    };
    let mount: &[Need] = &[Need::Root, Need::Tool("mount")];
    let block = Place::Loop(512).needs();
    for (name, backend) in backends {
        for place in Place::ALL {
            let (on, needs) = (place.name(), place.needs());
            let title = |what: &str| format!("{what}, {on}, {name}");
            add(
                title("every byte"),
                needs,
                backend,
                Box::new(move || every_byte(place, backend, None, 3000)),
            );
            add(title("neighbours"), needs, backend, Box::new(move || neighbours(place, backend)));
            add(title("order"), needs, backend, Box::new(move || order(place, backend)));
            add(title("read-only"), needs, backend, Box::new(move || read_only(place, backend)));
            let run = move || short_lived_threads(place, backend);
            add(title("short-lived threads"), needs, backend, Box::new(run));
            add(title("dropping"), needs, backend, Box::new(move || dropping(place, backend)));
        }
        let title = |what: &str| format!("{what}, {name}");
        let fast = Simulate { iops: Some(20_000), bandwidth: Some(1000 * MIB), parallel: 4 };
        let run = move || every_byte(Place::Ext4, backend, Some(fast), 500);
        add(title("every byte, simulated"), &[], backend, Box::new(run));
        add(title("truncated file"), &[], backend, Box::new(move || truncated_file(backend)));
        add(title("vanished device"), block, backend, Box::new(move || vanished_device(backend)));
        add(title("full filesystem"), mount, backend, Box::new(move || full_filesystem(backend)));
        add(title("malformed parts"), &[], backend, Box::new(move || malformed(backend)));
        add(title("flood"), &[], backend, Box::new(move || flood(backend)));
        add(title("waking"), &[], backend, Box::new(move || waking(backend)));
        add(title("simulated, nothing too early"), &[], backend, Box::new(move || simulated(backend)));
    }
    let mkfs: Vec<Need> = [block, mount, &[Need::Tool("mkfs.ext4")]].concat();
    trials.push(trial("mounted device is refused by name", &mkfs, mounted_device));
    trials.push(trial("opening, and what is refused", &[], opening));
    trials.push(trial("data and holes", &[], seeking));
    trials.push(trial("a block device's facts", block, block_device_facts));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
