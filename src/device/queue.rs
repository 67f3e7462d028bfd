//! The queue to one physical disk: parts in, answers out.

use super::backend::{Backend, BackendKind, Call, Finished};
use super::buffer::Payload;
use super::ranges::{Held, Ranges};
use super::simulate::{Model, Shelf, Simulate};
use super::target::Target;
use super::threads::Threads;
use super::transfer::{Next, Transfer};
use super::uring::Uring;
use crate::clock::Clock;
use crate::units::Nanos;
use slab::Slab;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    /// What to write: `len` bytes for [`Op::Write`], otherwise nothing.
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

/// The queue to one physical disk: [`submit`](Device::submit) from any thread, [`wait`](Device::wait) on one.
pub struct Device {
    backend: Box<dyn Backend>,
    clock: Clock,
    state: Mutex<State>,
    woken: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Everything accepted and not finished. Its memory belongs to the kernel meanwhile.
    flights: Slab<Flight>,
    ranges: Ranges,
    model: Option<Model>,
    shelf: Shelf,
    ready: Vec<Done>,
    /// How many answers there have been, ready and on the shelf.
    answers: u64,
    /// Scratch for [`State::step`].
    granted: Vec<(usize, Held)>,
}

struct Flight {
    token: u64,
    transfer: Transfer,
    held: Option<Held>,
    /// When a simulated device would be finished.
    due: Option<Nanos>,
}

/// A part whose memory has been made, which is better done before the lock is taken.
struct Prepared {
    token: u64,
    /// What a simulated device charges for.
    bytes: u64,
    transfer: io::Result<Transfer>,
}

impl Prepared {
    fn new(part: Part) -> Self {
        let bytes = if matches!(part.op, Op::Read | Op::Write) { part.len } else { 0 };
        Self { token: part.token, bytes, transfer: Transfer::new(part) }
    }
}

/// What is to be done once the lock has been given back.
#[derive(Default)]
struct Effects {
    calls: Vec<Call>,
    /// To be freed: giving back a large buffer is a system call.
    spent: Vec<Transfer>,
}

impl Device {
    /// A queue with nothing in it. `clock` is only used for timeouts and for `simulate`.
    pub fn new(backend: BackendKind, simulate: Option<Simulate>, clock: Clock) -> io::Result<Device> {
        let model = simulate.map(Model::new);
        let state = Mutex::new(State { model, ..State::default() });
        let backend = open(backend, || Ok(Box::new(Uring::new()?)))?;
        Ok(Device { backend, clock, state, woken: AtomicBool::new(false) })
    }

    /// `io_uring` or `threads`.
    pub fn backend(&self) -> &'static str {
        self.backend.name()
    }

    /// Accepts a part; its answer comes from [`Device::wait`], whatever happens. Never waits for the device.
    pub fn submit(&self, part: Part) {
        self.accept([Prepared::new(part)]);
    }

    /// Accepts several parts at once, which costs io_uring one system call.
    pub fn submit_all(&self, parts: Vec<Part>) {
        self.accept(parts.into_iter().map(Prepared::new).collect::<Vec<_>>());
    }

    fn accept(&self, parts: impl IntoIterator<Item = Prepared>) {
        let mut effects = Effects::default();
        let mut state = self.lock();
        // Read under the lock, so that the model sees times in their order.
        let now = self.clock.now();
        let before = state.answers;
        for part in parts {
            state.accept(part, now, &mut effects);
        }
        let answered = state.answers != before;
        drop(state);
        self.start(&effects.calls);
        if answered {
            // Refused, or nothing to do: there is no completion that would tell the waiting thread.
            self.backend.wake();
        }
    }

    /// Waits for completions and adds them to `done`; returns without any at the timeout or after
    /// [`Device::wake`]. To be called on one thread only.
    pub fn wait(&self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<()> {
        precise_timeouts();
        let already = done.len();
        // Saturates after 584 years.
        let span = timeout.map(|timeout| Nanos(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)));
        let deadline = span.map(|span| self.clock.now().after(span));
        let mut finished = Vec::new();
        loop {
            let due = self.collect(done);
            let until = [deadline, due].into_iter().flatten().min();
            let timeout = if done.len() > already || self.woken.load(Ordering::Acquire) {
                Some(Duration::ZERO)
            } else {
                until.map(|until| until.since(self.clock.now()).into())
            };
            self.backend.wait(timeout, &mut finished)?;
            self.advance(&mut finished);
            self.collect(done);
            // Not short-circuited: a wake that is seen is used up.
            let woken = self.woken.swap(false, Ordering::AcqRel);
            let late = deadline.is_some_and(|deadline| self.clock.now() >= deadline);
            if done.len() > already || woken || late {
                return Ok(());
            }
        }
    }

    /// Makes a running [`Device::wait`], or else the next one, return promptly. From any thread.
    pub fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.backend.wake();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what may be answered now to `done`, and says when the next is due.
    fn collect(&self, done: &mut Vec<Done>) -> Option<Nanos> {
        let mut state = self.lock();
        done.append(&mut state.ready);
        if state.model.is_some() {
            state.shelf.take(self.clock.now(), done);
        }
        state.shelf.next()
    }

    /// Takes the results of calls to their transfers, and starts what these want next.
    fn advance(&self, finished: &mut Vec<Finished>) {
        if finished.is_empty() {
            return;
        }
        let mut effects = Effects::default();
        let mut state = self.lock();
        for Finished { key, result } in finished.drain(..) {
            if let Some(flight) = state.flights.get_mut(key as usize) {
                let next = flight.transfer.finished(result);
                state.step(key as usize, next, &mut effects);
            }
        }
        drop(state);
        self.start(&effects.calls);
    }

    fn start(&self, calls: &[Call]) {
        if !calls.is_empty() {
            // SAFETY: each call comes from a flight in `state.flights`, which owns its memory and keeps its
            // target open. It stays there, untouched, until the call's result is taken in `advance`; `drop`
            // waits for that too.
            unsafe { self.backend.submit(calls) }
        }
    }
}

impl State {
    fn accept(&mut self, part: Prepared, now: Nanos, effects: &mut Effects) {
        let Prepared { token, bytes, transfer } = part;
        let due = self.model.as_mut().map(|model| model.finish(now, bytes));
        let transfer = match transfer {
            Ok(transfer) => transfer,
            Err(error) => return self.answer(Done { token, result: Err(error) }, due),
        };
        let claim = transfer.claim();
        let key = self.flights.insert(Flight { token, transfer, held: None, due });
        match claim.map(|claim| self.ranges.acquire(key, claim)) {
            // Somebody else is at work there; `step` starts it when they are finished.
            Some(None) => {}
            Some(held) => self.begin(key, held, effects),
            None => self.begin(key, None, effects),
        }
    }

    fn begin(&mut self, key: usize, held: Option<Held>, effects: &mut Effects) {
        if let Some(flight) = self.flights.get_mut(key) {
            flight.held = held;
            let next = flight.transfer.next();
            self.step(key, next, effects);
        }
    }

    /// Does what a transfer wants next; if that is to end, those who waited for its blocks begin.
    fn step(&mut self, key: usize, next: Next, effects: &mut Effects) {
        let (mut key, mut next) = (key, next);
        // What may begin in turn. Not recursive: a long line of failing writes must not use up the stack.
        let mut granted = std::mem::take(&mut self.granted);
        loop {
            match next {
                Next::Call(what) => {
                    if let Some(flight) = self.flights.get(key) {
                        effects.calls.push(Call { key: key as u64, fd: flight.transfer.fd(), what });
                    }
                }
                Next::Done(result) => {
                    if let Some(flight) = self.flights.try_remove(key) {
                        if let Some(held) = flight.held {
                            self.ranges.release(held, &mut granted);
                        }
                        self.answer(Done { token: flight.token, result }, flight.due);
                        effects.spent.push(flight.transfer);
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

    fn answer(&mut self, done: Done, due: Option<Nanos>) {
        self.answers = self.answers.wrapping_add(1);
        match due {
            // Also what is due already: who is due before it goes first.
            Some(due) => self.shelf.put(due, done),
            None => self.ready.push(done),
        }
    }
}

impl Drop for Device {
    /// Finishes what was accepted; what the kernel does not give back is leaked, not freed under its hands.
    fn drop(&mut self) {
        const PATIENCE: Nanos = Nanos::from_millis(30_000);
        let mut finished = Vec::new();
        let mut last = self.clock.now();
        while !self.lock().flights.is_empty() {
            let waited = self.backend.wait(Some(Duration::from_millis(100)), &mut finished);
            if !finished.is_empty() {
                last = self.clock.now();
            }
            self.advance(&mut finished);
            let given_up = self.clock.now().since(last) > PATIENCE;
            if waited.is_err() || given_up {
                let flights = std::mem::take(&mut self.lock().flights);
                tracing::warn!(parts = flights.len(), "a disk does not answer; giving up its buffers");
                std::mem::forget(flights);
            }
        }
    }
}

/// The backend that was asked for; `uring` makes the ring.
fn open(
    kind: BackendKind,
    uring: impl FnOnce() -> io::Result<Box<dyn Backend>>,
) -> io::Result<Box<dyn Backend>> {
    if kind == BackendKind::Threads {
        return Ok(Box::new(Threads::new()?));
    }
    uring().or_else(|error| {
        if kind == BackendKind::Uring {
            return Err(error);
        }
        let hint = hint(&error);
        tracing::warn!("disks are served by threads, more slowly: io_uring cannot be used ({error}{hint})");
        Ok(Box::new(Threads::new()?))
    })
}

/// Who forbids io_uring.
fn hint(error: &io::Error) -> &'static str {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match error.raw_os_error() {
        Some(libc::EPERM) if disabled.is_ok_and(|value| value.trim() != "0") => {
            "; the sysctl kernel.io_uring_disabled forbids it"
        }
        Some(libc::EPERM) => "; a seccomp filter, such as a container's, forbids it",
        Some(libc::ENOSYS) => "; the kernel does not have it, or a seccomp filter hides it",
        _ => "",
    }
}

/// Timeouts to the nanosecond on this thread: by default Linux takes 50 us more to save wake-ups.
fn precise_timeouts() {
    thread_local!(static SET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    if !SET.replace(true) {
        // SAFETY: this prctl takes numbers only. If it fails, timeouts are merely less precise.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden() -> io::Result<Box<dyn Backend>> {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }

    #[test]
    fn threads_stand_in_for_a_forbidden_ring_unless_it_was_asked_for() {
        assert_eq!(open(BackendKind::Auto, forbidden).unwrap().name(), "threads");
        let error = open(BackendKind::Uring, forbidden).err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert!(hint(&error).contains("forbid"));
    }
}
