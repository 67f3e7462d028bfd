//! What cannot be done is refused, and disturbs nothing else.

use crate::stage::{MIB, Opened, PATIENT, Place, SIZE, answers, ask, assert_same, device, errno, read};
use crate::support::{Mounted, Random};
use ioband::device::{BackendKind, Op, OpenMode, Part, Payload, Target, Trouble};
use ioband::units::{Bytes, Nanos};
use std::sync::Arc;

/// Parts that can only fail, between parts that wait for them and must not.
pub(crate) fn read_only(place: Place, backend: BackendKind) {
    let Opened { target, _loop, file, _folder } = Opened::new(place);
    let path = target.path().to_owned();
    drop(target);
    let target = Arc::new(
        Target::open(&path, None, OpenMode { read_only: true, ..PATIENT }).expect("opening read-only"),
    );
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

pub(crate) fn truncated_file(backend: BackendKind) {
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
    // A write there would make the file longer again, and a hole of what is lost.
    assert_eq!(errno(ask(&device, on.write(6, 5 * MIB, &[1; 4096]))), libc::EIO);
    assert_eq!(errno(ask(&device, on.part(7, Op::WriteZeroes, 5 * MIB, 4096))), libc::EIO);
    assert_eq!(std::fs::metadata(&on.file).unwrap().len(), MIB + 1234);
    ask(&device, on.write(8, 4096, &[1; 4096])).expect("writing what is left");
    assert!(on.target.news(Nanos(0)).began.contains(&Trouble::Cut));
    // Somebody gives it its size again: what is lost is zeroes from now on.
    std::fs::OpenOptions::new().write(true).open(&on.file).unwrap().set_len(SIZE).unwrap();
    ask(&device, on.write(9, 5 * MIB, &[1; 4096])).expect("writing");
    assert_eq!(read(&device, &on, 5 * MIB - 1, 2), [0, 1]);
}

pub(crate) fn vanished_device(backend: BackendKind) {
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

pub(crate) fn full_filesystem(backend: BackendKind) {
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

/// Answered without any call to the kernel, and still through `wait`.
pub(crate) fn malformed(backend: BackendKind) {
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
