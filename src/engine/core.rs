//! The engine itself: one mutex, one thread, one table of accepted requests.

use super::band::{Band, BandSettings, BandStatus};
use super::image::Range;
use super::request::{Answer, Reply, Request, Work};
use crate::clock::Clock;
use crate::device::{BackendKind, Device, Done, Op, Part, Payload, Simulate, Target};
use crate::sched::{self, Disk, Dispatched, Next, Settings};
use crate::units::{Bytes, Nanos};
use slab::Slab;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Parts of one request that a completion can be told by. A discard may span a whole image, but a configuration that is
/// small enough to be read has no more than 40,000 extents.
const PART_BITS: u32 = 16;

/// What a disk is made of.
#[derive(Debug)]
pub struct EngineSettings {
    /// The device id that its ioband devices share.
    pub id: u32,
    /// Its scheduler's settings.
    pub settings: Settings,
    /// Make it this slow.
    pub simulate: Option<Simulate>,
    /// How to talk to it.
    pub backend: BackendKind,
    /// Its ioband devices; images name them by their place here.
    pub bands: Vec<BandSettings>,
}

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No queue to the device.
    #[error("cannot set up input and output for device id {id}: {source}")]
    Device {
        /// The device id.
        id: u32,
        /// Why.
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start the thread for device id {id}: {source}")]
    Thread {
        /// The device id.
        id: u32,
        /// Why.
        source: io::Error,
    },
}

/// One disk at work.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    id: u32,
    clock: Clock,
    device: Device,
    /// What the ioband devices are names for, by their number.
    targets: Vec<Arc<Target>>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("id", &self.id)
            .field("backend", &self.device.backend())
            .finish_non_exhaustive()
    }
}

struct State {
    disk: Disk,
    bands: Vec<Band>,
    /// Every accepted request that is not answered, held or in flight.
    table: Slab<Accepted>,
    /// When the thread will look again by itself.
    sleeps_until: Option<Nanos>,
    closing: bool,
    /// The thread is gone and nothing can be served: everything is answered EIO.
    dead: bool,
}

struct Accepted {
    op: Op,
    target: Arc<Target>,
    pieces: Vec<Piece>,
    left: u32,
    error: Option<io::Error>,
    dispatched: Option<Dispatched>,
    reply: Box<dyn Reply>,
}

/// One contiguous range of the device; its payload is with the device while that works on it.
struct Piece {
    range: Range,
    payload: Option<Payload>,
}

/// An answer to send once the lock is released.
type Outgoing = (Box<dyn Reply>, io::Result<Answer>);

impl Engine {
    /// Starts the engine of a disk.
    ///
    /// # Errors
    /// [`EngineError`]: no io_uring when that is asked for, or no thread.
    pub fn start(settings: EngineSettings, clock: Clock) -> Result<Self, EngineError> {
        let EngineSettings { id, settings, simulate, backend, bands } = settings;
        let device =
            Device::new(backend, simulate, clock).map_err(|source| EngineError::Device { id, source })?;
        let mut disk = Disk::new(settings);
        let now = clock.now();
        let bands: Vec<_> = bands.into_iter().map(|band| Band::new(band, &mut disk, now)).collect();
        let targets = bands.iter().map(|band| band.target.clone()).collect();
        let state =
            State { disk, bands, table: Slab::new(), sleeps_until: None, closing: false, dead: false };
        let shared = Arc::new(Shared { id, clock, device, targets, state: Mutex::new(state) });
        let thread = std::thread::Builder::new()
            .name(format!("disk-{id}"))
            .spawn({
                let shared = shared.clone();
                move || shared.serve()
            })
            .map_err(|source| EngineError::Thread { id, source })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// The device id.
    pub fn id(&self) -> u32 {
        self.shared.id
    }

    /// How the device is talked to.
    pub fn backend(&self) -> &'static str {
        self.shared.device.backend()
    }

    /// Accepts a request; `reply` is answered exactly once, maybe before this returns, mostly later by the engine's
    /// thread. Never waits for the device or for other groups.
    pub fn submit(&self, request: Request<'_>, reply: Box<dyn Reply>) {
        let Request { image, offset, work, identity } = request;
        let (op, charged_as) = (device_op(&work), work.charged_as());
        let Some(target) = self.target(image.band()) else { return reply.send(Err(errno(libc::ENXIO))) };
        // Outside the lock: copying a payload takes longer than anything that is done under it.
        let pieces = pieces(&target, image.ranges(offset, work.len()), &work);
        let sectors = Bytes(pieces.iter().map(|p| p.range.len).sum()).sectors_up();
        let sectors = u32::try_from(sectors.0).unwrap_or(u32::MAX);

        let mut state = self.shared.lock();
        if state.dead || state.closing {
            let code = if state.closing { libc::ESHUTDOWN } else { libc::EIO };
            drop(state);
            return reply.send(Err(errno(code)));
        }
        let group = state.bands[image.band()].groups.classify(&identity, image.name());
        let left = pieces.len() as u32;
        let id =
            state.table.insert(Accepted { op, target, pieces, left, error: None, dispatched: None, reply });
        let now = self.shared.clock.now();
        state.disk.submit(group, sched::Request { id: id as u64, op: charged_as, sectors }, now);
        let wait = self.shared.pump(&mut state, now);
        if let Some(until) = wait
            && state.sleeps_until.is_none_or(|sleeps| until < sleeps)
        {
            state.sleeps_until = Some(until);
            self.shared.device.wake();
        }
    }

    /// What the ioband device with this number is a name for.
    pub(super) fn target(&self, band: usize) -> Option<Arc<Target>> {
        self.shared.targets.get(band).cloned()
    }

    /// The disk's settings and its ioband devices with their groups and counters.
    pub fn status(&self) -> (Settings, Vec<BandStatus>) {
        let state = self.shared.lock();
        (state.disk.settings(), state.bands.iter().map(|band| band.status(&state.disk)).collect())
    }

    /// Lets everything that is held pass, waits until every accepted request is answered, and ends the thread.
    /// Requests that come from now on are answered ESHUTDOWN.
    pub fn shut_down(&self) {
        let mut state = self.shared.lock();
        state.closing = true;
        let now = self.shared.clock.now();
        state.disk.drain(now);
        self.shared.pump(&mut state, now);
        drop(state);
        self.shared.device.wake();
        // Locked while it waits, so that whoever else ends the engine waits as well.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // It ends by itself with the last answer; that it panicked was logged and answered for when it did.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Shared {
    /// The state; also after a panic elsewhere: what matters then is that callers get their answers.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands to the device whatever the scheduler lets pass. Returns when to look again, if not for a completion.
    fn pump(&self, state: &mut State, now: Nanos) -> Option<Nanos> {
        // Everybody has been answered then; what the scheduler still holds are numbers without a request.
        while !state.dead {
            match state.disk.next(now) {
                Next::Dispatch(dispatched) => self.hand_over(state, dispatched),
                Next::Wait(until) => return Some(until),
                Next::Idle => return None,
            }
        }
        None
    }

    fn hand_over(&self, state: &mut State, dispatched: Dispatched) {
        let id = dispatched.id;
        let accepted = &mut state.table[id as usize];
        accepted.dispatched = Some(dispatched);
        debug_assert!(accepted.pieces.len() < 1 << PART_BITS, "checked configurations have fewer extents");
        let Accepted { op, target, pieces, .. } = accepted;
        let part = |(number, piece): (usize, &mut Piece)| Part {
            token: id << PART_BITS | number as u64,
            target: target.clone(),
            op: *op,
            offset: piece.range.offset,
            len: piece.range.len,
            payload: piece.payload.take(),
        };
        match pieces.as_mut_slice() {
            [only] => self.device.submit(part((0, only))),
            several => self.device.submit_all(several.iter_mut().enumerate().map(part).collect()),
        }
    }

    /// The engine's thread.
    fn serve(&self) {
        let _last_resort = AnswerAll(self);
        let mut done = Vec::new();
        let mut outgoing: Vec<Outgoing> = Vec::new();
        let mut timeout = None;
        loop {
            if let Err(error) = self.device.wait(timeout, &mut done) {
                // Without completions nothing can be served; the guard answers whoever waits.
                tracing::error!(disk = self.id, %error, "cannot wait for the device any more");
                return;
            }
            let mut state = self.lock();
            let now = self.clock.now();
            for Done { token, result } in done.drain(..) {
                let id = (token >> PART_BITS) as usize;
                let number = (token & ((1 << PART_BITS) - 1)) as usize;
                if let Some(answer) = state.part_done(id, number, result, now) {
                    outgoing.push(answer);
                }
            }
            let wait = self.pump(&mut state, now);
            state.sleeps_until = wait;
            timeout = wait.map(|until| until.since(now).into());
            let finished = state.closing && state.table.is_empty();
            drop(state);
            for (reply, result) in outgoing.drain(..) {
                reply.send(result);
            }
            if finished {
                return;
            }
        }
    }
}

impl State {
    /// A part came back; with the last one the request is complete and has an answer.
    fn part_done(
        &mut self,
        id: usize,
        number: usize,
        result: io::Result<Option<Payload>>,
        now: Nanos,
    ) -> Option<Outgoing> {
        let accepted = self.table.get_mut(id)?;
        match result {
            Ok(payload) => accepted.pieces[number].payload = payload,
            // The first error is the answer.
            Err(error) => accepted.error = accepted.error.take().or(Some(error)),
        }
        accepted.left = accepted.left.saturating_sub(1);
        if accepted.left > 0 {
            return None;
        }
        let Accepted { op, pieces, error, dispatched, reply, .. } = self.table.remove(id);
        if let Some(dispatched) = dispatched {
            self.disk.complete(dispatched, now);
        }
        let result = match (error, op) {
            (Some(error), _) => Err(error),
            (None, Op::Read) => Ok(Answer::Data(pieces.into_iter().filter_map(|p| p.payload).collect())),
            (None, _) => Ok(Answer::Done),
        };
        Some((reply, result))
    }
}

/// Answers everybody when the engine's thread ends, by a return or by a panic.
struct AnswerAll<'a>(&'a Shared);

impl Drop for AnswerAll<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.dead = true;
        let unanswered: Vec<_> = state.table.drain().collect();
        if !state.closing {
            let unanswered = unanswered.len();
            tracing::error!(
                disk = self.0.id,
                unanswered,
                "this disk is not served any more; callers get EIO"
            );
        }
        drop(state);
        for accepted in unanswered {
            accepted.reply.send(Err(errno(libc::EIO)));
        }
    }
}

fn device_op(work: &Work<'_>) -> Op {
    match work {
        Work::Read { .. } => Op::Read,
        Work::Write(_) => Op::Write,
        Work::Flush => Op::Flush,
        Work::Discard { .. } => Op::Discard,
        Work::WriteZeroes { .. } => Op::WriteZeroes,
    }
}

/// The request cut along the extents. Always at least one piece, so that it is scheduled and completes.
fn pieces(target: &Target, ranges: Vec<Range>, work: &Work<'_>) -> Vec<Piece> {
    if ranges.is_empty() {
        return vec![Piece { range: Range { offset: 0, len: 0 }, payload: None }];
    }
    let mut rest: &[u8] = if let Work::Write(data) = work { data } else { &[] };
    ranges
        .into_iter()
        .map(|range| {
            let payload = matches!(work, Work::Write(_)).then(|| {
                let (now, later) = rest.split_at(range.len as usize);
                rest = later;
                Payload::for_write(target, range.offset, now)
            });
            Piece { range, payload }
        })
        .collect()
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}
