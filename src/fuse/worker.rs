//! A thread that serves: it waits in one place for requests and for the device, and does what there is to do for both.
//!
//! One round, top to bottom:
//!
//! 1. What has come is looked at, without a lock: callers are classified, requests made ready.
//! 2. The engine of each disk that is concerned is visited once.
//! 3. Calls are queued for the device, and then answers for the callers.
//! 4. The next wait sends all of it to the kernel in one system call.
//!
//! In the steady state a round allocates nothing, and takes one lock for each disk.

use super::dev::{self, Dev, Read, State};
use super::handover::is_filler;
use super::images::{Answered, Verdict, kind};
use super::inbox::{Inbox, Mail};
use super::place::Place;
use super::relay::Route;
use super::rings::{self, Rings};
use super::server::Shared;
use super::slots::{Found, Slot};
use super::wire::{AGAIN, InHeader, opcode};
use crate::device::{Event, Finished, Lane};
use crate::engine::{Answer, Outbox, Prepared, Ticket};
use crate::units::Nanos;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests that are read in one round. Many more than a round completes: what stays in /dev/fuse waits in a line where no
/// weight decides. There is a bound so that one round does not go on for ever.
const BATCH: usize = 512;
/// Fillers that a predecessor has left are answered so many in a round: nobody waits for them.
const FILLERS: usize = 128;
/// Of those that are not about bytes, fewer: there is no batch to be made of them, each costs more than a read or a write, and
/// what the devices have done meanwhile waits to be told. A storm of lookups is not to hold up data.
const OTHERS: usize = 16;
/// Bits of [`Ticket::kind`] for what kind of answer it is; the descriptor that it goes to stands above.
const KIND_BITS: u32 = 8;

/// Where a thread's requests come from.
pub(super) struct Source {
    pub(super) dev: Dev,
    pub(super) rings: Option<Rings>,
}

/// A request that has come, and not been looked at.
struct Arrived {
    slot: Slot,
    by_ring: bool,
    /// It was here already when a predecessor left.
    found: Option<Found>,
}

/// What there is to bring to one engine.
#[derive(Default)]
struct Visit {
    requests: Vec<(Prepared, Ticket)>,
    finished: Vec<Finished>,
    /// When to come again by ourselves.
    until: Option<Nanos>,
}

pub(super) struct Worker<'t> {
    number: usize,
    shared: &'t Shared,
    lane: Lane,
    source: Source,
    place: Place,
    /// In the order of the engines' numbers.
    visits: Vec<Visit>,
    outbox: Outbox,
    /// Of a predecessor, or of our own, with their unique numbers.
    fillers: Vec<(Slot, u64)>,
    /// What came by a ring while this process was about to leave: a successor finds it where it lies.
    late: Vec<Slot>,
    /// What was to be answered while no ring entry is.
    unanswered: Vec<(Slot, Answered)>,
    /// No ring entry is answered any more; and the kernel knows all that were.
    frozen: bool,
    settled: bool,
    // Scratch, kept for its memory.
    events: Vec<Event>,
    arrived: Vec<Arrived>,
    mail: Vec<Mail>,
}

impl<'t> Worker<'t> {
    pub(super) fn new(number: usize, shared: &'t Shared, lane: Lane, source: Source) -> Self {
        Self {
            number,
            shared,
            lane,
            source,
            place: Place::new(),
            visits: Vec::new(),
            outbox: Outbox::default(),
            fillers: Vec::new(),
            late: Vec::new(),
            unanswered: Vec::new(),
            frozen: false,
            settled: false,
            events: Vec::new(),
            arrived: Vec::new(),
            mail: Vec::new(),
        }
    }

    /// Gives the kernel what it needs to send requests.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let Some(rings) = &mut self.source.rings else { return Ok(()) };
        rings.register(&mut self.lane, self.shared.descriptors[0].as_fd())?;
        // A slot that is taken says nothing until there is a request in it.
        self.lane.wait(Some(std::time::Duration::ZERO), &mut self.events)?;
        let refused = self.events.iter().find_map(|event| match event {
            Event::Command { result, .. } if *result < 0 => Some(-result),
            _ => None,
        });
        refused.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))?;
        let found = rings.found();
        self.arrived.extend(found.into_iter().map(|(slot, found)| Arrived {
            slot,
            by_ring: true,
            found: Some(found),
        }));
        Ok(())
    }

    /// Serves until it is told to stop, or cannot wait any more.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        while !self.shared.stopping.load(Ordering::Acquire) {
            self.frozen = self.shared.departure.is_frozen();
            if !self.frozen && (self.settled || !self.unanswered.is_empty()) {
                self.thaw();
            }
            self.gather();
            self.judge_all();
            self.open_mail();
            self.visit();
            self.talk();
            self.answer_fillers();
            self.place.note(self.lane.in_flight());
            self.share_reading();
            self.lane.wait(self.timeout(), &mut self.events)?;
            if let Some(rings) = &mut self.source.rings {
                rings.tidy(&mut self.lane, self.shared.slots, &self.events);
            }
            if self.frozen && !self.settled && self.lane.is_settled() {
                self.settled = true;
                self.shared.departure.settle();
            }
        }
        // What was sent here before the end began is still to be told.
        self.open_mail();
        self.lane.wait(Some(std::time::Duration::ZERO), &mut self.events)
    }

    /// How long there is nothing to do if nothing comes.
    fn timeout(&self) -> Option<std::time::Duration> {
        let answers_fillers = !self.fillers.is_empty() && !self.shared.departure.is_filling();
        let hurries = if self.frozen { !self.settled } else { answers_fillers };
        let reads = self.source.dev.state == State::Ready && !self.shared.leaving.load(Ordering::Acquire);
        if reads || hurries {
            return Some(std::time::Duration::ZERO);
        }
        let until = self.visits.iter().filter_map(|visit| visit.until).min()?;
        Some(until.since(self.shared.clock.now()).into())
    }

    /// Sorts what the lane had to tell, and reads what there is to read.
    fn gather(&mut self) {
        let leaving = self.shared.leaving.load(Ordering::Acquire);
        if !leaving {
            let stayed = self.late.drain(..).map(|slot| Arrived { slot, by_ring: true, found: None });
            self.arrived.extend(stayed);
        }
        for event in self.events.drain(..) {
            match event {
                Event::Finished(finished) => {
                    visit_of(&mut self.visits, finished.disk()).finished.push(finished);
                }
                Event::Readable => self.source.dev.state = State::Ready,
                Event::Command { token, result: 0.. } => {
                    let slot = self.shared.slots.from_kernel(token);
                    match leaving {
                        true => self.late.push(slot),
                        false => self.arrived.push(Arrived { slot, by_ring: true, found: None }),
                    }
                }
                Event::Command { token, result } => {
                    self.shared.slots.given_up(token);
                    // ENOTCONN is how the connection ends; the reader of /dev/fuse tells whom it concerns.
                    if result != -libc::ENOTCONN {
                        let error = io::Error::from_raw_os_error(-result);
                        tracing::error!(%error, "the kernel gives up a ring entry");
                    }
                }
            }
        }
        // Who has none may have been woken because there is one again.
        if !leaving && matches!(self.source.dev.state, State::Ready | State::Full) {
            self.source.dev.state = State::Ready;
            self.read();
        }
    }

    fn read(&mut self) {
        let descriptor = &self.shared.descriptors[self.source.dev.descriptor];
        let mut others = 0;
        for _ in 0..BATCH {
            // What is left is read when the lane has been looked at.
            if others == OTHERS {
                return;
            }
            match self.source.dev.read(descriptor, &self.shared.pool) {
                Read::Request(slot, header) if header.opcode == opcode::INTERRUPT => {
                    dev::refuse_interrupt(descriptor, header.unique);
                    self.release(slot);
                    others += 1;
                }
                // Nobody counts how often a file was looked up, and nobody waits for an answer.
                Read::Request(slot, header)
                    if matches!(header.opcode, opcode::FORGET | opcode::BATCH_FORGET) =>
                {
                    self.release(slot);
                    others += 1;
                }
                Read::Request(slot, header) => {
                    others += usize::from(!matches!(header.opcode, opcode::READ | opcode::WRITE));
                    self.arrived.push(Arrived { slot, by_ring: false, found: None });
                }
                Read::Nothing => return,
                Read::Ended(how) => return self.shared.end(how),
            }
        }
    }

    /// Decides about the requests that have come.
    fn judge_all(&mut self) {
        let shared = self.shared;
        let round = shared.face.callers.round();
        let tree = shared.face.tree.load();
        let mut arrived = std::mem::take(&mut self.arrived);
        for Arrived { slot, by_ring, found } in arrived.drain(..) {
            // The arguments of a request are few, and are needed when the slot has gone on already.
            let mut arguments = [0; 128];
            let Some((mut header, len, data)) = (if by_ring {
                rings::request(&slot, &mut arguments).inspect(|(_, _, data)| slot.used(*data))
            } else {
                dev::request(&slot, &mut arguments)
            }) else {
                tracing::error!("the kernel sent a request without a header");
                continue;
            };
            if let Some(rings) = self.source.rings.as_ref().filter(|_| by_ring) {
                self.place.bind(rings.processor_of(&slot));
            }
            let verdict = match found {
                Some(Found::Written(outcome)) => {
                    let result = if outcome == 0 { Ok(()) } else { Err(outcome) };
                    shared.face.judge_written(&tree, header, &arguments[..len], data, slot, result)
                }
                _ => shared.face.judge(&tree, &round, header, &arguments[..len], data, slot),
            };
            match verdict {
                Verdict::Submit(node, prepared, mut ticket, free) => {
                    let served = &shared.served[self.number];
                    count(if by_ring { &served.by_uring } else { &served.by_dev });
                    ticket.kind |= (self.source.dev.descriptor as u32) << KIND_BITS;
                    // A ring entry is needed for its answer.
                    ticket.may_leave = !by_ring;
                    visit_of(&mut self.visits, node.engine.number()).requests.push((prepared, ticket));
                    if let Some(slot) = free {
                        self.release(slot);
                    }
                }
                Verdict::Answer(slot, answered) => self.answer(slot, answered, self.source.dev.descriptor),
                Verdict::Forward(slot) if by_ring && is_filler(header, &arguments[..len]) => {
                    self.fillers.push((slot, header.unique));
                }
                Verdict::Forward(slot) if by_ring => {
                    if found.is_some() {
                        header.unique |= AGAIN;
                    }
                    self.forward_from_ring(header, &arguments[..len], data, slot);
                }
                Verdict::Forward(slot) => self.forward(header, slot),
            }
        }
        self.arrived = arrived;
    }

    /// Passes a request on to fuser; its slot waits for the answer.
    fn forward_from_ring(&mut self, header: InHeader, arguments: &[u8], data: usize, slot: Slot) {
        let Some(rings) = &mut self.source.rings else { return };
        let (relay, route) = (&self.shared.relay, Route::Thread(self.number));
        rings.forward(header.unique, slot, data, |data| relay.forward(header, arguments, data, route));
    }

    /// The same for one that was read; its slot is free then.
    fn forward(&mut self, header: InHeader, slot: Slot) {
        let (arguments, data) = dev::parts(&slot, header);
        let route = Route::Descriptor(self.source.dev.descriptor);
        self.shared.relay.forward(header, arguments, data, route);
        self.release(slot);
    }

    /// Answers some of the requests that were made only to be found here.
    fn answer_fillers(&mut self) {
        // Those of our own stay where they are until it is known that we stay.
        let stay = self.frozen || self.shared.departure.is_filling();
        let Some(rings) = self.source.rings.as_mut().filter(|_| !stay) else { return };
        let some = self.fillers.len() - FILLERS.min(self.fillers.len());
        let connection = self.shared.descriptors[0].as_fd();
        for (slot, unique) in self.fillers.drain(some..) {
            let nothing = Answered { unique, kind: kind::EMPTY, len: 0, result: Ok(()) };
            log_refused(rings.answer(&mut self.lane, connection, slot, nothing));
        }
    }

    /// This process stays: what was to be answered is.
    fn thaw(&mut self) {
        self.settled = false;
        for (slot, answered) in std::mem::take(&mut self.unanswered) {
            self.answer(slot, answered, 0);
        }
    }

    /// Takes what other threads have left.
    fn open_mail(&mut self) {
        // Nobody sends anything where there are no rings.
        let Some(rings) = &mut self.source.rings else { return };
        self.shared.inboxes[self.number].take(&mut self.mail);
        if self.frozen {
            return;
        }
        let connection = self.shared.descriptors[0].as_fd();
        for mail in self.mail.drain(..) {
            log_refused(match mail {
                Mail::Forwarded(unique, message) => {
                    rings.answer_forwarded(&mut self.lane, connection, unique, &message)
                }
                Mail::Return(slot, answered) => rings.answer(&mut self.lane, connection, slot, answered),
            });
        }
    }

    /// Sees to it that there are as many readers of /dev/fuse as there is work for: one more while the last one is busy.
    fn share_reading(&mut self) {
        let readers = &self.shared.readers;
        let wanted = readers.load(Ordering::Relaxed);
        if self.source.rings.is_none() && self.number + 1 == wanted {
            let busy = self.place.is_heavy();
            if busy && wanted < self.shared.inboxes.len() {
                readers.store(wanted + 1, Ordering::Relaxed);
                self.shared.inboxes[wanted].wake();
            } else if !busy && self.number > 0 {
                readers.store(wanted - 1, Ordering::Relaxed);
            }
        }
        let reads = self.number < readers.load(Ordering::Relaxed) || self.source.rings.is_some();
        if self.source.dev.state != State::Drained {
            return;
        }
        if reads {
            self.source.dev.state = State::Watching;
            let descriptor = &self.shared.descriptors[self.source.dev.descriptor];
            self.lane.watch(descriptor.as_fd());
        } else if self.source.dev.rest(&self.shared.pool) {
            self.feed_the_starving();
        }
    }

    /// Visits the engines that there is something for, or that asked for it.
    fn visit(&mut self) {
        let closing = self.shared.closing.load(Ordering::Acquire);
        let due = self.visits.iter().any(|visit| visit.until.is_some());
        let now = if due { self.shared.clock.now() } else { Nanos(0) };
        let short = self.shared.engines.budget().wants_visits();
        let engines = self.shared.engines.load();
        if self.visits.len() < engines.len() {
            self.visits.resize_with(engines.len(), Visit::default);
        }
        for (visit, engine) in self.visits.iter_mut().zip(engines.iter()) {
            let due = visit.until.is_some_and(|until| until <= now);
            // What was held may pass after a change, whoever made it; and it may be in others' way.
            let asked = closing || engine.wants_visit() || short;
            if visit.requests.is_empty() && visit.finished.is_empty() && !due && !asked {
                continue;
            }
            let mut turn = engine.turn(&mut self.outbox);
            for finished in visit.finished.drain(..) {
                turn.finished(finished);
            }
            for (prepared, ticket) in visit.requests.drain(..) {
                turn.submit(prepared, ticket);
            }
            visit.until = turn.end(|emptied| self.shared.slots.empty(emptied));
        }
    }

    /// Starts what is to be started, and answers what is to be answered.
    fn talk(&mut self) {
        self.lane.start(&mut self.outbox.calls);
        let mut answers = std::mem::take(&mut self.outbox.answers);
        for answer in answers.drain(..) {
            self.tell(answer);
        }
        self.outbox.answers = answers;
        let mut left = std::mem::take(&mut self.outbox.left);
        for left in left.drain(..) {
            self.release(self.shared.slots.left(left));
        }
        self.outbox.left = left;
        if self.shared.pool.has_some_again() {
            self.feed_the_starving();
        }
    }

    fn tell(&mut self, answer: Answer) {
        let (slot, ticket, result) = self.shared.slots.redeem(answer);
        let Ticket { kind, len, unique, .. } = ticket;
        let descriptor = (kind >> KIND_BITS) as usize;
        let kind = kind & ((1 << KIND_BITS) - 1);
        let answered = Answered { unique, kind, len, result };
        match slot {
            Ok(slot) => self.answer(slot, answered, descriptor),
            Err(pieces) => dev::answer_elsewhere(&self.shared.descriptors[descriptor], answered, &pieces),
        }
    }

    fn release(&mut self, slot: Slot) {
        if self.source.dev.release(&self.shared.pool, slot) {
            self.feed_the_starving();
        }
    }

    /// There are free slots again.
    fn feed_the_starving(&self) {
        self.shared.inboxes.iter().for_each(Inbox::wake);
    }

    fn answer(&mut self, slot: Slot, answered: Answered, descriptor: usize) {
        let descriptor = &self.shared.descriptors[descriptor];
        match &mut self.source.rings {
            Some(rings) if rings.owns(&slot) => {
                if self.frozen {
                    return self.unanswered.push((slot, answered));
                }
                // Whoever answers gets the slot's next request. While there is much to do that is as good as any; when there
                // is little, the thread on the processor of the caller had better have it.
                let home = rings.thread_of(&slot);
                let stays = self.place.is_heavy() || self.shared.closing.load(Ordering::Acquire);
                if home != self.number && !stays {
                    return self.shared.inboxes[home].put(Mail::Return(slot, answered));
                }
                log_refused(rings.answer(&mut self.lane, descriptor.as_fd(), slot, answered));
            }
            _ => {
                if self.source.dev.answer(descriptor, &self.shared.pool, slot, answered) {
                    self.feed_the_starving();
                }
            }
        }
    }
}

/// An answer could not be given to the kernel. Its caller waits; there is nobody else to tell.
fn log_refused(given: io::Result<()>) {
    if let Err(error) = given {
        tracing::error!(%error, "an answer cannot be given to the kernel");
    }
}

/// The visit to the engine with this number. Engines are added while there are threads.
fn visit_of(visits: &mut Vec<Visit>, engine: u16) -> &mut Visit {
    let at = usize::from(engine);
    if at >= visits.len() {
        visits.resize_with(at + 1, Visit::default);
    }
    &mut visits[at]
}

/// Counts up what only one thread writes.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
