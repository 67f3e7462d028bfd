//! Every part has its answer, and in time: whoever submits, waits or drops, and however many there are.

use crate::stage::{
    self, MIB, NUMBER, Opened, Place, SIZE, answers, assert_same, device, device_at, errno, lane, read,
};
use ioband::clock::Clock;
use ioband::device::{BackendKind, Calls, Command, Device, Done, Event, Lane, Op, Simulate};
use ioband::units::Nanos;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::Duration;

/// What ends the wait of a lane: other threads, a descriptor, and time.
pub(crate) fn waking(backend: BackendKind) {
    let mut lane = lane(backend);
    let waker = lane.waker();
    let mut events = Vec::new();
    // Before the wait, and several times: each of the waits below would last forever otherwise.
    waker.wake();
    waker.wake();
    lane.wait(None, &mut events).expect("waiting");
    for _ in 0..200 {
        std::thread::scope(|scope| {
            let waker = waker.clone();
            scope.spawn(move || waker.wake());
            lane.wait(None, &mut events).expect("waiting");
        });
    }
    // A timeout alone ends it as well, and not before it is over.
    let clock = Clock::start();
    lane.wait(Some(Duration::from_millis(20)), &mut events).expect("waiting");
    assert!(clock.now() >= Nanos::from_millis(20));
    assert!(events.is_empty());
    // One that has ended is woken in vain, and that is all.
    drop(lane);
    waker.wake();
}

/// A descriptor is told of once for each time that it is watched, whether it can be read or has come to its end.
pub(crate) fn watching(backend: BackendKind) {
    let mut lane = lane(backend);
    let mut events = Vec::new();
    let (output, input) = nix::unistd::pipe().expect("a pipe");
    let soon = Some(Duration::from_millis(10));
    let until_readable = |lane: &mut Lane, events: &mut Vec<Event>| {
        while events.is_empty() {
            lane.wait(None, events).expect("waiting");
        }
        assert!(matches!(events[..], [Event::Readable]), "{events:?}");
        events.clear();
    };
    lane.watch(output.as_fd());
    lane.wait(soon, &mut events).expect("waiting");
    assert!(events.is_empty(), "there is nothing to read");
    std::thread::scope(|scope| {
        scope.spawn(|| nix::unistd::write(&input, b"x").expect("a write"));
        until_readable(&mut lane, &mut events);
    });
    // It can still be read, but nobody watches any more.
    lane.wait(soon, &mut events).expect("waiting");
    assert!(events.is_empty());
    // What can be read already is told at once.
    lane.watch(output.as_fd());
    until_readable(&mut lane, &mut events);
    let mut byte = [0; 1];
    nix::unistd::read(&output, &mut byte).expect("a read");
    // Being woken meanwhile changes nothing about it.
    lane.watch(output.as_fd());
    lane.waker().wake();
    lane.wait(None, &mut events).expect("waiting");
    assert!(events.is_empty());
    drop(input);
    until_readable(&mut lane, &mut events);
}

/// Commands are for lanes that were made for them.
pub(crate) fn no_commands(backend: BackendKind) {
    let mut lane = lane(backend);
    let command = Command { token: 1, code: 2, arguments: [0; 80], memory: None };
    let null = std::fs::File::open("/dev/null").expect("a device");
    // SAFETY: the command names no memory.
    let error = unsafe { lane.command(null.as_fd(), command) }.expect_err("it is no such lane");
    assert_eq!(error.raw_os_error(), Some(libc::ENOTSUP));
}

/// A device that knows no commands refuses one with an event, and calls go on beside it.
pub(crate) fn refused_command() {
    let mut lane = Lane::with_commands(8, 8).expect("a lane");
    let zero = std::fs::File::open("/dev/zero").expect("a device");
    let command = Command { token: 0xdead_beef, code: 1, arguments: [0; 80], memory: None };
    let mut events = Vec::new();
    // SAFETY: the command names no memory.
    unsafe { lane.command(zero.as_fd(), command) }.expect("it was made for commands");
    while events.is_empty() {
        lane.wait(None, &mut events).expect("waiting");
    }
    let Event::Command { token, result } = events[0] else { panic!("{events:?}") };
    assert_eq!((token, result, events.len()), (command.token, -libc::EOPNOTSUPP, 1));
    let on = Opened::new(Place::Tmpfs);
    let (mut device, mut calls, mut done) = (Device::new(7, None), Calls::default(), Vec::new());
    device.submit(on.part(1, Op::Read, 5, 600), Nanos(0), &mut calls);
    while done.is_empty() {
        lane.start(&mut calls);
        events.clear();
        lane.wait(None, &mut events).expect("waiting");
        for event in events.drain(..) {
            let Event::Finished(finished) = event else { panic!("{event:?}") };
            device.finished(finished, Nanos(0), &mut calls);
        }
        device.collect(Nanos(0), &mut done);
    }
    assert_eq!(done.remove(0).result.expect("reading").expect("bytes")[..], [0; 600]);
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

/// One device and several threads, each with a lane of its own, as they serve a mount: whoever brings back what a call
/// gave makes the next one, whoever asked.
pub(crate) fn several_lanes(place: Place, backend: BackendKind) {
    const THREADS: u64 = 4;
    /// Of one thread: each a write, a discard and a flush.
    const CELLS: u64 = 100;
    /// They share blocks, also of 4096.
    const CELL: u64 = 3000;
    let on = Opened::new(place);
    let device = Mutex::new(Device::new(NUMBER, None));
    let done = Mutex::new(Vec::new());
    let answered = || done.lock().unwrap().len() as u64;
    let data = |cell: u64| [cell as u8 | 1; CELL as usize];
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (on, device, done) = (&on, &device, &done);
            scope.spawn(move || {
                let mut lane = lane(backend);
                let (mut calls, mut events) = (Calls::default(), Vec::new());
                let mut cells = (0..CELLS).map(|cell| cell * THREADS + thread);
                while answered() < 3 * THREADS * CELLS {
                    let mut device = device.lock().unwrap();
                    for event in events.drain(..) {
                        let Event::Finished(finished) = event else { panic!("{event:?}") };
                        device.finished(finished, Nanos(0), &mut calls);
                    }
                    for cell in cells.by_ref().take(10) {
                        let at = cell * 2 * CELL;
                        device.submit(on.write(3 * cell, at, &data(cell)), Nanos(0), &mut calls);
                        let discard = on.part(3 * cell + 1, Op::Discard, at + CELL, CELL);
                        device.submit(discard, Nanos(0), &mut calls);
                        device.submit(on.part(3 * cell + 2, Op::Flush, 0, 0), Nanos(0), &mut calls);
                    }
                    device.collect(Nanos(0), &mut done.lock().unwrap());
                    drop(device);
                    lane.start(&mut calls);
                    // Others may have ended the last part.
                    lane.wait(Some(Duration::from_millis(1)), &mut events).expect("waiting");
                }
            });
        }
    });
    assert!(device.lock().unwrap().is_quiet());
    let mut tokens: Vec<_> = done
        .into_inner()
        .unwrap()
        .into_iter()
        .map(|Done { token, result }| {
            result.unwrap_or_else(|error| panic!("{token}: {error}"));
            token
        })
        .collect();
    tokens.sort_unstable();
    assert_eq!(tokens, Vec::from_iter(0..3 * THREADS * CELLS), "each part has one answer");
    let wanted: Vec<u8> =
        (0..THREADS * CELLS).flat_map(|cell| [data(cell), [0; CELL as usize]].concat()).collect();
    let disk = stage::device(backend, None);
    assert_same(&read(&disk, &on, 0, wanted.len() as u64), &wanted, "written by all of them");
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
    let device = device_at(backend, Some(simulate), clock);
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
        device.wait(&mut done);
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
