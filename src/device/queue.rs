//! The queue to one physical disk: parts in, calls and answers out.
//!
//! It makes no system call itself, which is what lets every thread that serves bring its own way to the kernel: it says
//! which [`Calls`] are to be made, any [`Lane`](super::Lane) makes them, and what they gave comes back here.

use super::buffer::Payload;
use super::call::{Call, Calls, Finished, What};
use super::faults::Injected;
use super::health::{Trouble, told};
use super::ranges::{Held, Ranges};
use super::simulate::{Model, Shelf, Simulate};
use super::target::Target;
use super::transfer::{Next, Transfer};
use crate::units::Nanos;
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// Most calls of one disk at a time that keep a thread of the kernel waiting. A disk that hangs keeps these, and all others of
/// the same lane need some as well (see [`WORKERS`](super::ring::WORKERS)).
pub(super) const MOST_WAITING: usize = 64;

/// What is to be done with a range of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Read it.
    Read,
    /// Write the payload to it.
    Write,
    /// Make what was written durable; offset and length do not matter.
    Flush,
    /// Give its storage back; it reads as zeroes afterwards.
    Discard,
    /// Make it read as zeroes, keeping its storage.
    WriteZeroes,
}

/// One piece of work: any alignment, any length.
#[derive(Debug)]
pub struct Part {
    /// Given back in [`Done`].
    pub token: u64,
    /// The device or file.
    pub target: Arc<Target>,
    /// What is to be done.
    pub op: Op,
    /// Where.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// What to write: `len` bytes for [`Op::Write`]. For [`Op::Read`] where to read to, `len` bytes as well, or nothing:
    /// then there will be memory. Otherwise nothing.
    pub payload: Option<Payload>,
}

/// The answer to a [`Part`].
#[derive(Debug)]
pub struct Done {
    /// That of the part.
    pub token: u64,
    /// The bytes of a read, nothing for the other operations, or the error of just this part.
    ///
    /// A read from a file that somebody truncated meanwhile is EIO: lost data must not look like zeroes.
    pub result: io::Result<Option<Payload>>,
}

/// The queue to one physical disk. Time is an argument.
pub struct Device {
    /// Tells its calls from those of other disks on the same lane.
    number: u16,
    /// Everything accepted and not finished. Its memory belongs to the kernel meanwhile.
    flights: Slab<Flight>,
    ranges: Ranges,
    simulate: Option<Simulate>,
    model: Option<Model>,
    shelf: Shelf,
    ready: Vec<Done>,
    /// How many calls keep threads of the kernel waiting, and those that are to when there are fewer.
    waiting: usize,
    line: VecDeque<Call>,
    syncs: Syncs,
    /// Scratch for [`Device::step`].
    granted: Vec<(usize, Held)>,
}

struct Flight {
    token: u64,
    transfer: Transfer,
    held: Option<Held>,
    /// When a simulated device would be finished.
    due: Option<Nanos>,
    /// Its next call is to do only a part.
    short: bool,
    /// Its call keeps a thread of the kernel waiting.
    waits: bool,
    /// Changes to its target that had been carried out when it came: what it makes durable, if it is a flush.
    written: u64,
}

impl Device {
    /// A queue with nothing in it. What its calls give is to be brought back to the device with this number.
    pub fn new(number: u16, simulate: Option<Simulate>) -> Self {
        Self {
            number,
            flights: Slab::new(),
            ranges: Ranges::default(),
            simulate,
            model: simulate.map(Model::new),
            shelf: Shelf::default(),
            ready: Vec::new(),
            waiting: 0,
            line: VecDeque::new(),
            syncs: Syncs::default(),
            granted: Vec::new(),
        }
    }

    /// Makes it so slow from now on, or no longer. What was accepted before is answered when it was due then; servers of
    /// the new speed are idle, so that nobody waits for work that only the old one would have had.
    pub fn set_simulate(&mut self, simulate: Option<Simulate>) {
        // As slow as before: its servers go on with what they do.
        if simulate != self.simulate {
            (self.simulate, self.model) = (simulate, simulate.map(Model::new));
        }
    }

    /// How slow it is made.
    pub fn simulate(&self) -> Option<Simulate> {
        self.simulate
    }

    /// Accepts a part; its answer comes from [`Device::collect`], whatever happens. Parts must come in the order of `now`.
    pub fn submit(&mut self, part: Part, now: Nanos, calls: &mut Calls) {
        let (token, op) = (part.token, part.op);
        let bytes = if matches!(part.op, Op::Read | Op::Write) { part.len } else { 0 };
        let due = self.model.as_mut().map(|model| model.finish(now, bytes));
        let target = part.target.clone();
        let Injected { error, short, stall } = target.inject(part.op, part.offset, part.len);
        let due = match stall {
            Some(stall) => Some(due.unwrap_or(now).max(now).after(stall)),
            None => due,
        };
        let transfer = match Transfer::new(part) {
            Ok(transfer) => transfer,
            Err(error) => {
                if target.is_missing() {
                    target.health.note_trouble(Trouble::Missing, now);
                }
                return self.answer(Done { token, result: Err(error) }, due);
            }
        };
        if let Some(errno) = error {
            let result = Err(io::Error::from_raw_os_error(errno));
            target.health.note(&result, now);
            if op == Op::Flush {
                target.health.lose();
            }
            return self.answer(Done { token, result: result.map_err(told) }, due);
        }
        if transfer.is_cut_off(now) {
            target.health.note_trouble(Trouble::Cut, now);
            return self.answer(Done { token, result: Err(io::Error::from_raw_os_error(libc::EIO)) }, due);
        }
        let claim = transfer.claim();
        let written = target.health.written();
        let key =
            self.flights.insert(Flight { token, transfer, held: None, due, short, waits: false, written });
        match claim.map(|claim| self.ranges.acquire(key, claim)) {
            // Somebody else is at work there; `step` starts it when they are finished.
            Some(None) => {}
            Some(held) => self.begin(key, held, now, calls),
            None => self.begin(key, None, now, calls),
        }
    }

    /// Takes what a call gave, at `now`, to its transfer, and says what that wants next.
    pub fn finished(&mut self, finished: Finished, now: Nanos, calls: &mut Calls) {
        let Finished { key, result, .. } = finished;
        if let Some(flight) = self.flights.get_mut(key as usize) {
            let next = flight.transfer.finished(result);
            if std::mem::take(&mut flight.waits) {
                self.waiting -= 1;
                if let Some(call) = self.line.pop_front() {
                    self.send(call, calls);
                }
            }
            self.step(key as usize, next, now, calls);
        }
    }

    /// Moves what may be answered at `now` to `done`, and says when the next is due.
    pub fn collect(&mut self, now: Nanos, done: &mut Vec<Done>) -> Option<Nanos> {
        done.append(&mut self.ready);
        // Also when nothing is simulated any more: what was begun before is still due then.
        self.shelf.take(now, done);
        self.shelf.next()
    }

    /// Whether every call has come back. Answers may still be on the shelf.
    pub fn is_quiet(&self) -> bool {
        self.flights.is_empty()
    }

    fn begin(&mut self, key: usize, held: Option<Held>, now: Nanos, calls: &mut Calls) {
        if let Some(flight) = self.flights.get_mut(key) {
            flight.held = held;
            let next = flight.transfer.next();
            self.step(key, next, now, calls);
        }
    }

    /// Does what a transfer wants next; if that is to end, those who waited for its blocks begin.
    fn step(&mut self, key: usize, next: Next, now: Nanos, calls: &mut Calls) {
        let (mut key, mut next) = (key, next);
        // What may begin in turn. Not recursive: a long line of failing writes must not use up the stack.
        let mut granted = std::mem::take(&mut self.granted);
        loop {
            match next {
                Next::Call(what) => {
                    if let Some(flight) = self.flights.get_mut(key) {
                        let transfer = &flight.transfer;
                        let what = if flight.short { transfer.shortened(what) } else { what };
                        let (disk, fd, aside) = (self.number, transfer.fd(), transfer.is_remote());
                        flight.short = false;
                        // Slab keys count what is in flight, which memory bounds far below 32 bits.
                        let call = Call { disk, key: key as u32, fd, aside, what };
                        if waits(&call) && self.waiting == MOST_WAITING {
                            self.line.push_back(call);
                        } else {
                            self.send(call, calls);
                        }
                    }
                }
                Next::Done(result) => {
                    if let Some(flight) = self.flights.try_remove(key) {
                        if let Some(held) = flight.held {
                            self.ranges.release(held, &mut granted);
                        }
                        flight.transfer.target().health.note(&result, now);
                        flight.transfer.note_durable(result.is_ok(), flight.written);
                        let done = Done { token: flight.token, result: result.map_err(told) };
                        let (target, due) = (place_of(flight.transfer.target()), flight.due);
                        if self.syncs.end(key) && done.result.is_ok() {
                            self.syncs.keep(target, done, due);
                        } else {
                            self.answer(done, due);
                        }
                        while let Some((done, due)) = self.syncs.release(target) {
                            self.answer(done, due);
                        }
                    }
                }
            }
            (key, next) = loop {
                let Some((waiter, held)) = granted.pop() else {
                    self.granted = granted;
                    return;
                };
                if let Some(flight) = self.flights.get_mut(waiter) {
                    flight.held = Some(held);
                    break (waiter, flight.transfer.next());
                }
            };
        }
    }

    /// Has a call made now.
    fn send(&mut self, call: Call, calls: &mut Calls) {
        if let Some(flight) = self.flights.get_mut(call.key as usize) {
            flight.waits = waits(&call);
            self.waiting += usize::from(flight.waits);
            if matches!(call.what, What::Sync) {
                self.syncs.begin(call.key as usize, place_of(flight.transfer.target()));
            }
        }
        calls.0.push(call);
    }

    fn answer(&mut self, done: Done, due: Option<Nanos>) {
        match due {
            // Also what is due already: who is due before it goes first.
            Some(due) => self.shelf.put(due, done),
            None => self.ready.push(done),
        }
    }
}

/// Whether a call keeps a thread of the kernel waiting.
fn waits(call: &Call) -> bool {
    call.aside || matches!(call.what, What::Sync | What::Allocate { .. })
}

/// What tells a target from others for as long as there is something under way on it.
fn place_of(target: &Target) -> usize {
    std::ptr::from_ref(target) as usize
}

/// Syncs that are under way. Of those on one target that are so at the same time, Linux tells one that something was lost, and
/// it is chance whose result is seen first. So one that has worked is answered when all have come back that were under way
/// with it: if one of them has failed, that is known by then (see [`Target::lost`]).
#[derive(Default)]
struct Syncs {
    /// How many have begun.
    begun: u64,
    under_way: Vec<UnderWay>,
    kept: Vec<Kept>,
}

struct UnderWay {
    number: u64,
    key: usize,
    target: usize,
}

/// One that has worked.
struct Kept {
    target: usize,
    /// Those that had begun when it came back.
    begun: u64,
    done: Done,
    due: Option<Nanos>,
}

impl Syncs {
    fn begin(&mut self, key: usize, target: usize) {
        // One that is asked for again is under way already.
        if self.under_way.iter().all(|sync| sync.key != key) {
            self.under_way.push(UnderWay { number: self.begun, key, target });
            self.begun += 1;
        }
    }

    /// It has come back; false if it was none.
    fn end(&mut self, key: usize) -> bool {
        let at = self.under_way.iter().position(|sync| sync.key == key);
        at.map(|at| self.under_way.swap_remove(at)).is_some()
    }

    fn keep(&mut self, target: usize, done: Done, due: Option<Nanos>) {
        self.kept.push(Kept { target, begun: self.begun, done, due });
    }

    /// One that may be answered by now.
    fn release(&mut self, target: usize) -> Option<(Done, Option<Nanos>)> {
        let on_it = self.under_way.iter().filter(|sync| sync.target == target);
        let first = on_it.map(|sync| sync.number).min().unwrap_or(u64::MAX);
        let at = self.kept.iter().position(|kept| kept.target == target && kept.begun <= first)?;
        let Kept { done, due, .. } = self.kept.remove(at);
        Some((done, due))
    }
}

impl Drop for Device {
    /// What the kernel has not given back is leaked, not freed under its hands.
    fn drop(&mut self) {
        if !self.is_quiet() {
            tracing::warn!(
                parts = self.flights.len(),
                "a disk was left with requests; giving up its buffers"
            );
            std::mem::forget(std::mem::take(&mut self.flights));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::OpenMode;
    use crate::units::Bytes;

    #[test]
    fn a_disk_that_hangs_leaves_threads_of_the_kernel_to_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = Target::open(&folder.path().join("disk"), Some(Bytes(4096)), OpenMode::default());
        let target = Arc::new(target.expect("a file"));
        let mut device = Device::new(0, None);
        let mut calls = Calls::default();
        let many = 2 * MOST_WAITING as u64 + 1;
        for token in 0..many {
            let part =
                Part { token, target: target.clone(), op: Op::Flush, offset: 0, len: 0, payload: None };
            device.submit(part, Nanos(0), &mut calls);
        }
        // Reads wait for nobody who does not hang.
        let part =
            Part { token: many, target: target.clone(), op: Op::Read, offset: 0, len: 512, payload: None };
        device.submit(part, Nanos(0), &mut calls);
        assert_eq!(calls.0.len(), MOST_WAITING + 1);
        let (mut done, mut made) = (Vec::new(), 0);
        while let Some(Call { disk, key, what, .. }) = calls.0.pop() {
            made += 1;
            let result = if let What::Read { len, .. } = what { len as i32 } else { 0 };
            device.finished(Finished { disk, key, result }, Nanos(0), &mut calls);
            assert!(calls.0.len() <= MOST_WAITING + 1);
        }
        device.collect(Nanos(0), &mut done);
        assert_eq!((made, done.len() as u64), (many + 1, many + 1));
        assert!(device.is_quiet() && device.waiting == 0);
    }

    #[test]
    fn a_sync_is_answered_when_those_beside_it_are_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |name| {
            let target = Target::open(&folder.path().join(name), Some(Bytes(4096)), OpenMode::default());
            Arc::new(target.expect("a file"))
        };
        let (target, other) = (open("disk"), open("other"));
        let mut device = Device::new(0, None);
        let mut calls = Calls::default();
        let mut flush = |device: &mut Device, target: &Arc<Target>, token| {
            let part =
                Part { token, target: target.clone(), op: Op::Flush, offset: 0, len: 0, payload: None };
            device.submit(part, Nanos(0), &mut calls);
            let Call { disk, key, .. } = calls.0.pop().expect("its call");
            move |result| Finished { disk, key, result }
        };
        let answered = |device: &mut Device, finished: Finished| {
            device.finished(finished, Nanos(0), &mut Calls::default());
            let mut done = Vec::new();
            device.collect(Nanos(0), &mut done);
            done.into_iter().map(|done| (done.token, done.result.is_ok())).collect::<Vec<_>>()
        };
        let first = flush(&mut device, &target, 1);
        let second = flush(&mut device, &target, 2);
        let third = flush(&mut device, &other, 3);
        // The first may have been told of a loss that the second shares.
        assert!(answered(&mut device, second(0)).is_empty());
        assert_eq!(answered(&mut device, third(0)), [(3, true)], "it is of another file");
        let fourth = flush(&mut device, &target, 4);
        assert_eq!(target.lost(), 0);
        assert_eq!(answered(&mut device, first(-libc::EIO)), [(1, false), (2, true)]);
        assert_eq!(target.lost(), 1, "whoever looks when the second is answered sees it");
        assert_eq!(answered(&mut device, fourth(0)), [(4, true)]);
    }

    #[test]
    fn another_speed_changes_nothing_for_what_was_begun() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = Target::open(&folder.path().join("disk"), Some(Bytes(4096)), OpenMode::default());
        let target = Arc::new(target.expect("a file"));
        let at = |iops| Some(Simulate { iops: Some(iops), bandwidth: None, parallel: 1 });
        let mut device = Device::new(0, at(1000));
        let mut calls = Calls::default();
        // Reading nothing takes no call, so all time is the model's.
        let mut submit = |device: &mut Device, token| {
            let part = Part { token, target: target.clone(), op: Op::Read, offset: 0, len: 0, payload: None };
            device.submit(part, Nanos(0), &mut calls);
        };
        let collect = |device: &mut Device, ms| {
            let mut done = Vec::new();
            let next = device.collect(Nanos::from_millis(ms), &mut done);
            (done.iter().map(|done| done.token).collect::<Vec<_>>(), next.map(|next| next.0 / 1_000_000))
        };
        submit(&mut device, 1);
        // The same speed: the server is still busy with the first.
        device.set_simulate(at(1000));
        submit(&mut device, 2);
        device.set_simulate(at(10));
        submit(&mut device, 3);
        device.set_simulate(None);
        submit(&mut device, 4);
        assert_eq!(collect(&mut device, 0), (vec![4], Some(1)));
        assert_eq!(collect(&mut device, 2), (vec![1, 2], Some(100)));
        device.set_simulate(at(1000));
        submit(&mut device, 5);
        assert_eq!(collect(&mut device, 3), (vec![5], Some(100)));
        assert_eq!(collect(&mut device, 100), (vec![3], None));
    }
}
