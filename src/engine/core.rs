//! The engine itself: one mutex, and one table of accepted requests.

use super::activity::Activity;
use super::ahead::{Deed, Lines, Link};
use super::band::{Band, Bands};
use super::budget::Budget;
use super::change::Change;
use super::image::{Image, Range};
use super::request::{Answer, Pieces, Request, Ticket, charged_as};
use super::status::{DiskStatus, Look};
use crate::classify::{Caller, Identity};
use crate::clock::Clock;
use crate::device::{Calls, Device, Done, Finished, Op, Part, Payload, Simulate, Target, Waker};
use crate::sched::{self, Disk, Dispatched, GroupKey, Next, Settings};
use crate::units::{Bytes, Nanos};
use slab::Slab;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Parts of one request that a completion can be told by. A discard may span a whole image, but a configuration that is
/// small enough to be read has no more than 40,000 extents.
const PART_BITS: u32 = 16;

/// Parts of one request that are with the device at a time: a discard over thousands of extents is not to be in everybody's way.
const PARTS_AT_ONCE: usize = 16;

/// What a disk is made of.
#[derive(Debug)]
pub struct EngineSettings {
    /// The device id that its ioband devices share.
    pub id: u32,
    /// Its scheduler's settings.
    pub settings: Settings,
    /// Let every request pass at once, whatever its group: to measure what scheduling costs.
    pub unscheduled: bool,
    /// Make it this slow.
    pub simulate: Option<Simulate>,
    /// What its requests may take of memory, together with those of others.
    pub budget: Arc<Budget>,
}

/// One disk at work. It has no thread of its own: those that serve requests visit it (see [`Turn`]).
#[derive(Debug)]
pub struct Engine {
    number: u16,
    clock: Clock,
    unscheduled: bool,
    budget: Arc<Budget>,
    state: Mutex<State>,
    /// Something was changed, and nobody has visited since.
    pub(super) changed: AtomicBool,
    /// For who ends the engine: the last request was answered.
    emptied: Condvar,
    activity: OnceLock<Arc<Activity>>,
}

pub(super) struct State {
    /// The device id.
    pub(super) id: u32,
    pub(super) disk: Disk,
    pub(super) device: Device,
    pub(super) bands: Bands,
    /// Every accepted request that is not answered, held or in flight.
    pub(super) table: Slab<Accepted>,
    pub(super) closing: bool,
    /// Nothing more is handed to the device.
    paused: bool,
    /// Nor for now.
    pub(super) on_hold: bool,
    pub(super) budget: Arc<Budget>,
    /// Held writes that have not been carried out, by their groups.
    pub(super) lines: Lines,
    /// Requests that had been carried out before it was their turn, and when they are to be answered.
    pub(super) resting: BTreeSet<(Nanos, u32)>,
    /// The scheduler has taken every place at the device, and memory is short: the next place is for a write ahead.
    pub(super) ahead_is_next: bool,
    /// Bytes that are with the device.
    in_flight: usize,
    /// Bytes of writes that are with the device before their turn.
    pub(super) leaving: usize,
    /// Bytes that this visit has set free, which the transport has not given back yet.
    pub(super) freed: usize,
    /// Slots that this visit has emptied; between visits there are none.
    pub(super) emptied: Vec<Emptied>,
    /// Requests so far.
    arrivals: u64,
    /// Scratch: those of this visit.
    pub(super) came: Vec<u32>,
    done: Vec<Done>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("accepted", &self.table.len()).finish_non_exhaustive()
    }
}

pub(super) struct Accepted {
    pub(super) op: Op,
    pub(super) image: Arc<Image>,
    pub(super) pieces: SmallVec<[Piece; 1]>,
    /// How many of them have gone to the device, and how many have not come back.
    begun: usize,
    left: u32,
    pub(super) error: Option<io::Error>,
    pub(super) stage: Stage,
    pub(super) deed: Deed,
    pub(super) ticket: Ticket,
    /// Its place in the order of arrival.
    pub(super) arrival: u64,
    pub(super) link: Link,
    /// Bytes that it moves.
    pub(super) bytes: usize,
    /// Memory of its own beside its slot: bytes that had to be copied.
    pub(super) copied: usize,
}

impl Accepted {
    /// The group that it belongs to among those of its ioband device; `None` if it is held no more.
    pub(super) fn group_in(&self, band: &Band) -> Option<GroupKey> {
        match &self.stage {
            Stage::Held(held) => Some(band.groups.classify(&held.identity, self.image.name())),
            Stage::Passed(_) | Stage::Unscheduled => None,
        }
    }
}

/// How far an accepted request has come.
pub(super) enum Stage {
    /// In a group of the scheduler.
    Held(Held),
    /// It is its turn, and it is in flight as the scheduler sees it.
    Passed(Dispatched),
    /// With the device, where nothing is scheduled.
    Unscheduled,
}

/// Whose request it is, to find the group that it belongs to should there be others.
pub(super) struct Held {
    pub(super) identity: Identity,
    /// The thread that it came from; 0 if nothing more can be asked of that.
    tid: u32,
    /// The group that holds it; of a request that is only prepared, none as yet.
    pub(super) group: Option<GroupKey>,
}

impl Held {
    /// Who may be asked about; the ids of an identity are those of its caller.
    pub(super) fn caller(&self) -> Option<Caller> {
        let Identity { uid, gid, .. } = self.identity;
        Some(Caller { uid, gid, tid: self.tid }).filter(|caller| caller.tid != 0)
    }
}

/// One contiguous range of the device; its payload is with the device while that works on it.
pub(super) struct Piece {
    pub(super) range: Range,
    pub(super) payload: Option<Payload>,
}

/// A request with all that can be made ready for it without the engine's lock.
pub struct Prepared {
    image: Arc<Image>,
    held: Held,
    op: Op,
    pieces: SmallVec<[Piece; 1]>,
    copied: usize,
}

/// What the visits of one thread leave for it to do.
#[derive(Debug, Default)]
pub struct Outbox {
    /// To be started on its lane, before it talks to anybody: the device must not idle meanwhile.
    pub calls: Calls,
    /// To be told to their callers.
    pub answers: Vec<Answer>,
    /// Slots that are free although their requests are not answered yet; the tickets will say [`Ticket::NOWHERE`].
    pub left: Vec<u32>,
}

/// A slot that is still needed for the answer, but the memory of its data is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emptied {
    /// Which one.
    pub slot: u32,
    /// The answer will be this errno, if it is one.
    pub errno: Option<i32>,
}

impl Engine {
    /// The engine of a disk, as yet without an ioband device. `number` tells it from the other engines of the same threads: what the calls give that it
    /// leaves in an [`Outbox`] comes back with this number.
    pub fn new(number: u16, settings: EngineSettings, clock: Clock) -> Self {
        let EngineSettings { id, settings, unscheduled, simulate, budget } = settings;
        let state = State {
            id,
            disk: Disk::new(settings),
            device: Device::new(number, simulate),
            bands: Bands::new(number),
            table: Slab::new(),
            closing: false,
            paused: false,
            on_hold: false,
            budget: budget.clone(),
            lines: Lines::default(),
            resting: BTreeSet::new(),
            ahead_is_next: false,
            in_flight: 0,
            leaving: 0,
            freed: 0,
            emptied: Vec::new(),
            arrivals: 0,
            came: Vec::new(),
            done: Vec::new(),
        };
        let (state, changed) = (Mutex::new(state), AtomicBool::new(false));
        let (emptied, activity) = (Condvar::new(), OnceLock::new());
        Self { number, clock, unscheduled, budget, state, changed, emptied, activity }
    }

    /// What it was made with, for who has to find it by the results of its calls.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The device id.
    pub fn id(&self) -> u32 {
        self.lock().id
    }

    /// Makes a request ready. Here, without a lock, is where payloads are copied that do not lie as the device needs them.
    pub fn prepare(&self, request: Request) -> Prepared {
        let Request { image, offset, work, identity, caller } = request;
        let (op, len) = (work.op(), work.len());
        let pieces = pieces(op, image.target(), image.ranges(offset, len), work.into_payload());
        let copied = pieces.iter().filter_map(|piece| piece.payload.as_ref()).map(Payload::owned).sum();
        self.budget.take(copied);
        Prepared { image, held: Held { identity, tid: caller.tid, group: None }, op, pieces, copied }
    }

    /// Begins a visit: locks the engine until [`Turn::end`].
    pub fn turn<'a>(&'a self, out: &'a mut Outbox) -> Turn<'a> {
        let state = self.lock();
        // Under the lock, so that who is woken by this and looks sees what the visit was for.
        if let Some(activity) = self.activity.get() {
            activity.note();
        }
        self.changed.store(false, Ordering::Relaxed);
        // Read under the lock, so that the scheduler sees times in their order.
        Turn { now: self.clock.now(), engine: self, state, out }
    }

    /// Looks at all of it.
    pub(super) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.lock())
    }

    /// There is somebody who wants to know when there is something to do again.
    pub fn set_activity(&self, activity: Arc<Activity>) {
        // Of a mount there is one.
        let _ = self.activity.set(activity);
    }

    /// Begins to change what the disk and its ioband devices are: locks the engine until the [`Change`] is dropped.
    pub fn change(&self) -> Change<'_> {
        let state = self.lock();
        Change::new(self, state, self.clock.now())
    }

    /// Whether something was changed and nobody has visited since: whoever serves and sees this visits.
    pub fn wants_visit(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// The disk and its ioband devices with their groups and counters. Asks /proc about the processes of type `pid`.
    pub fn status(&self) -> DiskStatus {
        let state = self.lock();
        let State { id, disk, bands, .. } = &*state;
        let looks = bands.looks(disk);
        let status = DiskStatus {
            id: *id,
            settings: disk.settings(),
            in_flight: disk.in_flight(),
            queued: disk.queued(),
            depth: disk.depth(),
            epochs: disk.epochs(),
            bands: Vec::new(),
        };
        drop(state);
        DiskStatus { bands: looks.into_iter().map(Look::complete).collect(), ..status }
    }

    /// Lets everything that is held pass, and waits until every accepted request is answered. Requests that come from now
    /// on are answered ESHUTDOWN. `threads` are those that visit; one of them has to.
    pub fn shut_down(&self, threads: &[Waker]) {
        let mut state = self.lock();
        state.closing = true;
        state.disk.drain(self.clock.now());
        if state.table.is_empty() {
            return;
        }
        threads.iter().for_each(Waker::wake);
        let accepted = |state: &mut State| !state.table.is_empty();
        drop(self.emptied.wait_while(state, accepted).unwrap_or_else(PoisonError::into_inner));
    }

    /// Hands nothing to the device for now, or does so again.
    pub fn hold(&self, on_hold: bool) {
        self.lock().on_hold = on_hold;
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Hands nothing more to the device, and waits, but no longer than `patience`, until what is with it is answered; whether
    /// it is. What is held stays so. `threads` are those that visit; one of them has to.
    pub fn pause(&self, threads: &[Waker], patience: Duration) -> bool {
        let mut state = self.lock();
        state.paused = true;
        if state.is_quiet() {
            return true;
        }
        threads.iter().for_each(Waker::wake);
        let busy = |state: &mut State| !state.is_quiet();
        let waited = self.emptied.wait_timeout_while(state, patience, busy);
        let (_state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }

    /// Hands to the device again what is held since [`Engine::pause`]. The threads are to be woken.
    pub fn resume(&self) {
        self.lock().paused = false;
        self.changed.store(true, Ordering::Relaxed);
    }

    /// How many have had their turn, and are to be answered after a while.
    #[cfg(test)]
    pub(super) fn resting(&self) -> usize {
        self.lock().resting.len()
    }

    /// Whether somebody visits at this moment.
    #[cfg(test)]
    pub(super) fn is_visited(&self) -> bool {
        self.state.try_lock().is_err()
    }

    /// The state; also after a panic elsewhere: what matters then is that callers get their answers.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A visit of a thread to the engine: it brings what callers ask and what calls gave, and takes away calls and answers.
///
/// Everything that is brought comes before anything is let pass, so that a batch is served in the order of the scheduler
/// and not in that of its arrival, and costs one lock.
#[must_use = "what was brought is served at its end"]
pub struct Turn<'a> {
    now: Nanos,
    engine: &'a Engine,
    state: MutexGuard<'a, State>,
    out: &'a mut Outbox,
}

impl Turn<'_> {
    /// Accepts a request. It is answered exactly once, maybe in this very outbox, mostly in a later one, of any thread.
    pub fn submit(&mut self, prepared: Prepared, ticket: Ticket) {
        let Prepared { image, mut held, op, pieces, copied } = prepared;
        let state = &mut *self.state;
        let refused = if state.closing { libc::ESHUTDOWN } else { libc::ENXIO };
        let Some(band) = state.bands.get(image.band()).filter(|_| !state.closing) else {
            state.budget.give(copied);
            return self
                .out
                .answers
                .push(Answer { ticket, result: Err(io::Error::from_raw_os_error(refused)) });
        };
        let bytes = pieces.iter().map(|p| p.range.len).sum();
        let sectors = Bytes(bytes).sectors_up();
        let sectors = u32::try_from(sectors.0).unwrap_or(u32::MAX);
        let left = pieces.len() as u32;
        let group = band.groups.classify(&held.identity, image.name());
        let scheduled = !self.engine.unscheduled;
        held.group = Some(group);
        let stage = if scheduled { Stage::Held(held) } else { Stage::Unscheduled };
        let bytes =
            if charged_as(op).moves_bytes() { usize::try_from(bytes).unwrap_or(usize::MAX) } else { 0 };
        state.arrivals += 1;
        let accepted = Accepted {
            op,
            image,
            pieces,
            begun: 0,
            left,
            error: None,
            stage,
            deed: Deed::Waits,
            ticket,
            arrival: state.arrivals,
            link: Link::default(),
            bytes,
            copied,
        };
        let id = state.table.insert(accepted) as u64;
        if scheduled {
            // There is memory for far fewer than 2^32.
            state.came.push(id as u32);
            state.disk.submit(group, sched::Request { id, op: charged_as(op), sectors }, self.now);
        } else {
            state.begin(id as u32, Deed::in_turn(), self.now, &mut self.out.calls);
        }
    }

    /// Takes what a call gave.
    pub fn finished(&mut self, finished: Finished) {
        self.state.device.finished(finished, self.now, &mut self.out.calls);
    }

    /// Ends the visit. Says when somebody has to come again, unless somebody comes before; whoever ends the last visit
    /// knows best.
    ///
    /// `empty` is given each slot that was emptied, while the engine is still locked: as soon as it is not, another thread
    /// may answer the request and give the slot away, and what is done to it then is done to the next request in it.
    pub fn end(mut self, empty: impl FnMut(Emptied)) -> Option<Nanos> {
        let (now, out) = (self.now, &mut *self.out);
        let state = &mut *self.state;
        state.device.collect(now, &mut state.done);
        state.freed = 0;
        let serves = !self.engine.unscheduled && !state.paused && !state.on_hold;
        let mut wait = None;
        let due = loop {
            let mut done = std::mem::take(&mut state.done);
            for Done { token, result } in done.drain(..) {
                let id = (token >> PART_BITS) as u32;
                let number = (token & ((1 << PART_BITS) - 1)) as usize;
                state.part_done(id, number, result, now, out);
            }
            state.done = done;
            if serves {
                state.answer_rested(now, out);
                if state.ahead_is_next {
                    state.carry_out_ahead(1, now, out);
                }
                wait = state.pump(now, out);
            }
            // Whatever is held for: groups may change meanwhile, and then everybody is taken to stand in line already.
            state.settle();
            if serves {
                state.carry_out_ahead(usize::MAX, now, out);
            }
            // What was refused at once, or had nothing to do, is done already and lets the next ones pass.
            let due = state.device.collect(now, &mut state.done);
            if state.done.is_empty() {
                break due;
            }
        };
        state.emptied.drain(..).for_each(empty);
        // While nobody is answered, those whose rest is over are no reason to come: that would be at once, for ever.
        let rested = state.resting.first().map(|&(until, _)| until).filter(|_| serves);
        if state.closing && state.table.is_empty() || state.paused && state.is_quiet() {
            self.engine.emptied.notify_all();
        }
        [wait, due, rested].into_iter().flatten().min()
    }
}

impl State {
    /// Whether nothing is with the device.
    fn is_quiet(&self) -> bool {
        self.table.iter().all(|(_, accepted)| !matches!(accepted.deed, Deed::Begun { .. }))
    }

    /// Lets pass whatever the scheduler lets pass. Returns when to look again, if not for a completion.
    fn pump(&mut self, now: Nanos, out: &mut Outbox) -> Option<Nanos> {
        loop {
            // A completion will ask again.
            let enough = self.disk.in_flight() > 0 && self.budget.has_enough_in_flight(self.in_flight);
            if (enough || self.makes_room()) && !self.closing {
                return None;
            }
            match self.disk.next(now) {
                Next::Dispatch(dispatched) => self.pass(dispatched, now, out),
                Next::Wait(until) => return Some(until),
                Next::Idle => return None,
            }
        }
    }

    /// Hands a request to the device.
    pub(super) fn begin(&mut self, id: u32, deed: Deed, now: Nanos, calls: &mut Calls) {
        let Self { table, budget, in_flight, .. } = self;
        let Accepted { op, pieces, bytes, deed: how, .. } = &mut table[id as usize];
        debug_assert!(pieces.len() < 1 << PART_BITS, "checked configurations have fewer extents");
        budget.begin(*bytes, *op == Op::Read);
        *in_flight = in_flight.saturating_add(*bytes);
        *how = deed;
        for _ in 0..PARTS_AT_ONCE.min(pieces.len()) {
            self.begin_part(id, now, calls);
        }
    }

    /// Hands the next part of a request to the device, if there is one.
    fn begin_part(&mut self, id: u32, now: Nanos, calls: &mut Calls) {
        let Accepted { op, image, pieces, begun, .. } = &mut self.table[id as usize];
        let Some(piece) = pieces.get_mut(*begun) else { return };
        let part = Part {
            token: u64::from(id) << PART_BITS | *begun as u64,
            target: image.target().clone(),
            op: *op,
            offset: piece.range.offset,
            len: piece.range.len,
            payload: piece.payload.take().map(|payload| match payload.is_packed() {
                true => payload.placed(image.target(), piece.range.offset),
                false => payload,
            }),
        };
        *begun += 1;
        self.device.submit(part, now, calls);
    }

    /// A part came back; with the last one the request is done, and with its turn it has an answer.
    fn part_done(
        &mut self,
        id: u32,
        number: usize,
        result: io::Result<Option<Payload>>,
        now: Nanos,
        out: &mut Outbox,
    ) {
        let Some(accepted) = self.table.get_mut(id as usize) else { return };
        match result {
            Ok(payload) => accepted.pieces[number].payload = payload,
            // The first error is the answer.
            Err(error) => accepted.error = accepted.error.take().or(Some(error)),
        }
        accepted.left = accepted.left.saturating_sub(1);
        if accepted.left > 0 {
            self.begin_part(id, now, &mut out.calls);
        } else {
            if accepted.op == Op::Flush && accepted.image.has_lost() {
                let lost = || io::Error::from_raw_os_error(libc::EIO);
                accepted.error.get_or_insert_with(lost);
            }
            self.budget.end(accepted.bytes, accepted.op == Op::Read);
            self.in_flight = self.in_flight.saturating_sub(accepted.bytes);
            self.done(id, now, out);
        }
    }

    /// A request is over: it was carried out, and it was its turn. `seen` says whether that was while it was with the device.
    pub(super) fn answer(&mut self, id: u32, seen: bool, now: Nanos, out: &mut Outbox) {
        let Accepted { pieces, error, stage, ticket, copied, .. } = self.table.remove(id as usize);
        self.budget.give(copied);
        match stage {
            Stage::Passed(dispatched) if seen => self.disk.complete(dispatched, now),
            Stage::Passed(dispatched) => self.disk.complete_unseen(dispatched, now),
            Stage::Unscheduled | Stage::Held(_) => {}
        }
        let result = match error {
            Some(error) => Err(error),
            None => Ok(pieces.into_iter().filter_map(|piece| piece.payload).collect::<Pieces>()),
        };
        out.answers.push(Answer { ticket, result });
    }
}

/// The request cut along the extents. Always at least one piece, so that it is scheduled and completes.
fn pieces(
    op: Op,
    target: &Target,
    ranges: impl IntoIterator<Item = Range>,
    payload: Option<Payload>,
) -> SmallVec<[Piece; 1]> {
    let mut rest = payload;
    let mut pieces = SmallVec::new();
    for range in ranges {
        let payload = rest.take().map(|mut payload| {
            if range.len < payload.len() as u64 {
                rest = Some(payload.split_off(range.len as usize));
            }
            // What was packed to wait is placed when it goes to the device.
            let place = op == Op::Write && !payload.is_packed();
            if place { payload.placed(target, range.offset) } else { payload }
        });
        pieces.push(Piece { range, payload });
    }
    if pieces.is_empty() {
        pieces.push(Piece { range: Range { offset: 0, len: 0 }, payload: None });
    }
    pieces
}
