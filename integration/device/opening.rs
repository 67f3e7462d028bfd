//! What can be opened, what is refused, and what is known of a target then.

use crate::stage::{MIB, Opened, PATIENT, Place, SIZE, ask, device};
use crate::support::{self, Loop, Mounted, folder, sparse};
use ioband::device::{BackendKind, Kind, Op, OpenError, OpenMode, Seek, Target, probe};
use ioband::units::Bytes;

pub(crate) fn mounted_device() {
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
    let first = Target::open(device.path(), None, PATIENT).expect("nobody uses it now");
    let error = Target::open(device.path(), None, OpenMode::default()).expect_err("it is open already");
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(first);
}

pub(crate) fn opening() {
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
    drop(Target::open(&path, None, PATIENT).expect("nobody has it now"));

    let huge = folder.path().join("huge");
    open(&huge, Some(Bytes(i64::MAX as u64))).expect_err("too large for any filesystem");
    assert!(!huge.exists(), "what was made is removed again");

    let error = open(folder.path(), None).expect_err("a directory");
    assert!(error.to_string().contains("is a directory; a disk is"), "{error}");
    assert_eq!(probe("/dev/null".as_ref()).unwrap(), Some((Bytes(0), Kind::Other("a character device"))));
}

pub(crate) fn seeking() {
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

pub(crate) fn block_device_facts() {
    let on = Opened::new(Place::Loop(4096));
    let (size, kind) = probe(on.target.path()).unwrap().unwrap();
    assert_eq!((size, kind), (Bytes(SIZE), Kind::Block));
    assert!(on.target.identity().starts_with("7:"), "{}", on.target.identity());
    assert_eq!(on.target.seek(5, Seek::Data).unwrap(), Some(5));
    assert_eq!(on.target.seek(5, Seek::Hole).unwrap(), Some(SIZE));
}
