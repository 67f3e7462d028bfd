//! What the trials play on: a disk of each kind, and how to ask it something and compare what it says.

use crate::support::{Loop, Need, folder, sparse};
use ioband::clock::Clock;
use ioband::device::{
    BackendKind, Calls, Device, Done, Event, Lane, Op, OpenMode, Part, Payload, Simulate, Target, Waker,
};
use ioband::units::Bytes;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const SIZE: u64 = 12 * MIB;

/// For what must be possible: a process that another trial is just starting has copies of what this one has open, until it
/// becomes another program.
pub(crate) const PATIENT: OpenMode = OpenMode { read_only: false, patience: Some(Duration::from_secs(60)) };

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

/// A device with a thread that serves it by a lane of its own, so that any thread may ask and wait.
pub(crate) struct Disk {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Asked>,
    news: Condvar,
}

#[derive(Default)]
struct Asked {
    parts: Vec<Part>,
    done: Vec<Done>,
    stop: bool,
}

pub(crate) fn device(backend: BackendKind, simulate: Option<Simulate>) -> Disk {
    device_at(backend, simulate, Clock::start())
}

/// The same with a clock that others read, too.
pub(crate) fn device_at(backend: BackendKind, simulate: Option<Simulate>, clock: Clock) -> Disk {
    let shared = Arc::<Shared>::default();
    let (send, waker) = mpsc::channel();
    let thread = std::thread::spawn({
        let shared = shared.clone();
        move || {
            // A lane belongs to the thread that makes it.
            let lane = lane(backend);
            send.send(lane.waker()).expect("somebody waits for it");
            shared.serve(Device::new(NUMBER, simulate), lane, clock);
        }
    });
    Disk { shared, waker: waker.recv().expect("a lane"), thread: Some(thread) }
}

/// Any; what calls give must come back with it.
pub(crate) const NUMBER: u16 = 0xabc;

pub(crate) fn lane(backend: BackendKind) -> Lane {
    let lane = Lane::new(backend, 64).expect("a lane");
    assert_eq!(lane.name(), if backend == BackendKind::Threads { "threads" } else { "io_uring" });
    lane
}

impl Disk {
    pub(crate) fn submit(&self, part: Part) {
        self.submit_all(vec![part]);
    }

    pub(crate) fn submit_all(&self, parts: Vec<Part>) {
        self.shared.state.lock().unwrap().parts.extend(parts);
        self.waker.wake();
    }

    /// Waits for at least one answer.
    pub(crate) fn wait(&self, done: &mut Vec<Done>) {
        let state = self.shared.state.lock().unwrap();
        let mut state = self.shared.news.wait_while(state, |state| state.done.is_empty()).unwrap();
        done.append(&mut state.done);
    }
}

impl Shared {
    /// Until it is to stop and all calls have come back.
    fn serve(&self, mut device: Device, mut lane: Lane, clock: Clock) {
        let (mut calls, mut events, mut done) = (Calls::default(), Vec::new(), Vec::new());
        loop {
            for event in events.drain(..) {
                match event {
                    Event::Finished(finished) => {
                        assert_eq!(finished.disk(), NUMBER);
                        device.finished(finished, clock.now(), &mut calls);
                    }
                    other => panic!("{other:?}"),
                }
            }
            let mut state = self.state.lock().unwrap();
            state.parts.drain(..).for_each(|part| device.submit(part, clock.now(), &mut calls));
            let due = device.collect(clock.now(), &mut done);
            state.done.append(&mut done);
            if !state.done.is_empty() {
                self.news.notify_all();
            }
            if state.stop && device.is_quiet() {
                return;
            }
            drop(state);
            lane.start(&mut calls);
            assert!(calls.is_empty(), "a lane takes all calls");
            let timeout = due.map(|due| due.since(clock.now()).into());
            lane.wait(timeout, &mut events).expect("waiting");
        }
    }
}

impl Drop for Disk {
    /// Everything that was accepted is finished first.
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).stop = true;
        self.waker.wake();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.expect("it is joined once").expect("the thread that serves");
        }
    }
}

/// Waits for exactly `count` answers.
pub(crate) fn answers(device: &Disk, count: usize) -> HashMap<u64, io::Result<Option<Payload>>> {
    let mut done = Vec::new();
    while done.len() < count {
        device.wait(&mut done);
    }
    assert_eq!(done.len(), count, "an answer too many");
    let answers: HashMap<_, _> = done.into_iter().map(|done| (done.token, done.result)).collect();
    assert_eq!(answers.len(), count, "two answers for one part");
    answers
}

/// Does one part and waits for it.
pub(crate) fn ask(device: &Disk, part: Part) -> io::Result<Option<Payload>> {
    let token = part.token;
    device.submit(part);
    answers(device, 1).remove(&token).expect("the answer to what was asked")
}

pub(crate) fn read(device: &Disk, on: &Opened, offset: u64, len: u64) -> Vec<u8> {
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
