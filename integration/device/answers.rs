//! Every part has its answer, and in time: whoever submits, waits or drops, and however many there are.

use crate::stage::{MIB, Opened, Place, SIZE, answers, assert_same, device, errno, read};
use ioband::clock::Clock;
use ioband::device::{BackendKind, Device, Op, Simulate};
use ioband::units::Nanos;
use std::time::Duration;

pub(crate) fn waking(backend: BackendKind) {
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
pub(crate) fn flood(backend: BackendKind) {
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
pub(crate) fn short_lived_threads(place: Place, backend: BackendKind) {
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
pub(crate) fn dropping(place: Place, backend: BackendKind) {
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
pub(crate) fn simulated(backend: BackendKind) {
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
