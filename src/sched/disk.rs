//! The scheduler of one disk: requests in, decisions out. See [`super`] for the algorithm.

mod changes;
mod line;

use super::counters::Counters;
use super::depth::DepthControl;
use super::group::{Group, Held, Request};
use super::minima::Minima;
use super::order::{Order, Slot};
use super::policy::Policy;
use super::tags::{VTime, span, span_hint, tokens};
use crate::units::{Nanos, SECTOR_SIZE, Weight};
use slab::Slab;
use std::collections::BTreeSet;

/// dm-ioband's default token base.
pub const DEFAULT_TOKEN_BASE: u32 = 2048;

/// A group with nothing but requests in flight is waited for so many times as long as requests take on average, within
/// these bounds. Longer, and one slow request (a flush, a large discard) would hold up what others have queued.
const PATIENCE: u64 = 8;
const LEAST_PATIENCE: Nanos = Nanos::from_millis(1);
const MOST_PATIENCE: Nanos = Nanos::from_millis(50);

/// The device is left idle for a group that is about to come back only if that thinks for less than this part of what
/// a request usually takes: its share is worth so much of the device, and not more.
const ANTICIPATION: u64 = 4;

/// Settings of a disk; 0 for the first two means automatic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// At or below this many requests in flight a request passes at once (share rule R5).
    pub io_throttle: u32,
    /// At most this many requests are in flight (share rule R6).
    pub io_limit: u32,
    /// Tokens an epoch; at least 1.
    pub token_base: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { io_throttle: 0, io_limit: 0, token_base: DEFAULT_TOKEN_BASE }
    }
}

/// Names a group of one [`Disk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupKey(Slot);

impl GroupKey {
    /// Its number among the groups of its disk, for who keeps something beside each of them. A group that comes later may
    /// get that of one that has gone.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Hand this request to the device, then ask again.
    Dispatch(Dispatched),
    /// Nothing until that time, unless a request comes or completes before.
    Wait(Nanos),
    /// Nothing until a request comes or completes.
    Idle,
}

/// A request in flight. Give it back to [`Disk::complete`]: being consumed there, it cannot be completed twice.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request in flight must be completed"]
pub struct Dispatched {
    /// The id its [`Request`] had.
    pub id: u64,
    group: Slot,
    /// Bytes that it moves, in sectors: none for a discard, however long.
    moves: u32,
    started: Nanos,
}

/// The scheduler of one disk.
#[derive(Debug)]
pub struct Disk {
    settings: Settings,
    groups: Slab<Group>,
    order: Order,
    minima: Minima,
    /// The alarms of all groups.
    alarms: BTreeSet<(Nanos, Slot)>,
    depth: DepthControl,
    /// When a request last went to the device or came back.
    last_event: Nanos,
    /// How long requests take in the device, on average.
    latency: Nanos,
    /// Virtual time: the mean of the start tags of all groups in line, each as often as its weight says.
    now: VTime,
    /// How far they are ahead of it in sum (below zero: behind), each as often as its weight says.
    lead: i128,
    /// The farthest point at which anybody was served or has joined: where newcomers join.
    front: VTime,
    /// Where the current epoch ends in virtual time.
    epoch_end: VTime,
    epochs: u64,
    /// Sum of the weights of the active groups.
    active_weight: u64,
    in_flight: u32,
    /// Besides, so many are with the device before their turn.
    aside: u32,
    queued: usize,
    arrivals: u64,
    draining: bool,
}

impl Disk {
    /// A disk with no groups.
    pub fn new(settings: Settings) -> Self {
        let mut depth = DepthControl::new();
        depth.pin(settings.io_throttle, settings.io_limit);
        Self {
            settings,
            groups: Slab::new(),
            order: Order::default(),
            minima: Minima::default(),
            alarms: BTreeSet::new(),
            depth,
            last_event: Nanos(0),
            latency: Nanos(0),
            now: VTime::default(),
            lead: 0,
            front: VTime::default(),
            epoch_end: VTime::default(),
            epochs: 0,
            active_weight: 0,
            in_flight: 0,
            aside: 0,
            queued: 0,
            arrivals: 0,
            draining: false,
        }
    }

    /// Adds a group. It costs nothing until its first request.
    pub fn add_group(&mut self, policy: Policy, weight: Weight) -> GroupKey {
        GroupKey(self.groups.insert(Group::new(policy, weight)))
    }

    /// Accepts a request. Ask [`Disk::next`] with the same time afterwards.
    pub fn submit(&mut self, group: GroupKey, request: Request, now: Nanos) {
        let held = Held { request, since: now, arrival: self.arrivals };
        self.arrivals += 1;
        self.queued += 1;
        let queue = &mut self.groups[group.0].queue;
        queue.push_back(held);
        if queue.len() == 1 {
            self.has_something_queued(group.0, now);
        }
    }

    /// The first request of a group that had none queued has come.
    fn has_something_queued(&mut self, slot: Slot, now: Nanos) {
        let group = &mut self.groups[slot];
        group.think.resume(now);
        // Held back by its caps, it joins when they let it.
        if !group.is_capped() {
            self.stop_alarm(slot);
            self.join(slot, now);
        }
    }

    /// What to do at `now`. Call until it no longer says [`Next::Dispatch`].
    pub fn next(&mut self, now: Nanos) -> Next {
        self.expire_alarms(now);
        self.catch_up();
        self.depth.ask();
        let Some(turn) = self.turn(now) else {
            // What is held then is held back by caps.
            let alarm = self.alarms.first().filter(|_| self.queued > 0);
            return alarm.map_or(Next::Idle, |&(end, _)| Next::Wait(end));
        };
        let due = turn.by != By::Leftover;
        self.depth.turn(due);
        let pass = self.may_pass(turn);
        if !matches!(pass, Pass::Yes) {
            self.depth.refused(due);
        }
        match pass {
            Pass::Yes => Next::Dispatch(self.dispatch(turn, now)),
            // A completion will ask again.
            Pass::Full => Next::Idle,
            // So it will here, and so may the end of a grace.
            Pass::Reserved => self.alarms.first().map_or(Next::Idle, |&(end, _)| Next::Wait(end)),
        }
    }

    /// Whose request is the next.
    fn turn(&mut self, now: Nanos) -> Option<Turn> {
        if let Some(slot) = self.minima.due(now) {
            return Some(Turn { slot, by: By::Minimum });
        }
        loop {
            let (slot, due) = self.order.next()?;
            let place = self.groups[slot].place;
            // Virtual time goes back when a group leaves that was ahead, or one comes that is behind: who was due may be so
            // no more.
            match place.filter(|place| due && place.start > self.now) {
                Some(place) => self.order.put_back(slot, place),
                None => return Some(Turn { slot, by: if due { By::Weight } else { By::Leftover } }),
            }
        }
    }

    fn may_pass(&self, turn: Turn) -> Pass {
        if self.draining {
            return Pass::Yes;
        }
        let (limit, io_throttle, in_flight) = (self.limit(), self.settings.io_throttle, self.with_device());
        if in_flight >= limit {
            return Pass::Full;
        }
        if turn.by == By::Minimum {
            return Pass::Yes;
        }
        if in_flight == 0 {
            return if self.anticipates() { Pass::Reserved } else { Pass::Yes };
        }
        // One slot is kept back for each awaited group whose turn comes first: not the whole device.
        let left = limit - in_flight;
        let reserved = self.order.awaited_before_next(left).max(self.minima.awaited(left));
        // A group that is not due would run ahead of somebody who is active: it passes only where control has
        // not started (R5), or, with automatic depth, where the device would be left with less than it can use (R8).
        let free = if io_throttle > 0 { io_throttle } else { self.depth.spare() };
        let kept = in_flight.saturating_add(reserved) >= limit;
        match turn.by {
            By::Weight if !kept || in_flight < io_throttle => Pass::Yes,
            By::Leftover if in_flight < free && (!kept || io_throttle > 0) => Pass::Yes,
            _ => Pass::Reserved,
        }
    }

    /// So many may be with the device.
    fn limit(&self) -> u32 {
        let Settings { io_throttle, io_limit, .. } = self.settings;
        if io_limit > 0 {
            io_limit
        } else if self.order.is_shared() {
            self.depth.total().max(io_throttle)
        } else {
            self.depth.alone().max(io_throttle)
        }
    }

    /// So many are.
    fn with_device(&self) -> u32 {
        self.in_flight.saturating_add(self.aside)
    }

    /// Whether the device may have one more.
    pub fn has_room(&self) -> bool {
        self.with_device() < self.limit()
    }

    /// A request that is held goes to the device before its turn, because its memory is needed. It takes a place there,
    /// and while it does nothing is learned about the device; everything else is as before: it stays in its group until its
    /// turn comes, and is charged then.
    pub fn begin_aside(&mut self, now: Nanos) {
        self.pass_time(now);
        self.aside += 1;
    }

    /// It came back, or its turn has come.
    pub fn end_aside(&mut self, now: Nanos) {
        self.pass_time(now);
        self.aside = self.aside.saturating_sub(1);
    }

    /// How many there are.
    pub fn aside(&self) -> u32 {
        self.aside
    }

    /// How long requests take in the device, on average.
    pub fn latency(&self) -> Nanos {
        self.latency
    }

    /// Whether the idle device is better left so for a moment: the group whose turn it is thinks, and not for long. A
    /// synchronous caller of a large weight would otherwise always find somebody else's request before its own.
    fn anticipates(&self) -> bool {
        self.order.first_awaited().is_some_and(|slot| {
            let group = &self.groups[slot];
            group.alarm.is_some() && group.think.usual().0 * ANTICIPATION <= self.latency.0
        })
    }

    fn dispatch(&mut self, turn: Turn, now: Nanos) -> Dispatched {
        let slot = turn.slot;
        self.leave_line(slot);
        let group = &mut self.groups[slot];
        let held = group.queue.pop_front().expect("a backlogged group has a request queued");
        let Request { id, op, sectors } = held.request;
        let cost = group.policy.cost(op, sectors);
        let moves = if op.moves_bytes() { sectors } else { 0 };
        group.usual_cost = cost;
        group.in_flight += 1;
        group.counters.count(op, sectors, now > held.since);
        // What a minimum gives beyond the share is not charged, or who has one would owe more and more.
        let charged = turn.by != By::Minimum || group.start <= self.now;
        if charged {
            self.front = self.front.max(group.start);
            group.start = group.start.plus(span(cost, group.w(), &mut group.remainder));
        }
        let limited = if let Some(limiter) = group.limiter.as_mut() {
            let bytes = u64::from(moves) * SECTOR_SIZE;
            limiter.charge(bytes, now);
            if let Some(minimum) = group.minimum() {
                self.minima.charge(minimum, bytes, now);
            }
            true
        } else {
            false
        };
        self.stand_in_line(slot);
        self.await_until(slot, self.patience_end(now));
        if limited {
            self.hold_back(slot, now);
        }
        self.queued -= 1;
        self.pass_time(now);
        self.in_flight += 1;
        Dispatched { id, group: slot, moves, started: now }
    }

    /// Until when a group with requests in flight is waited for.
    fn patience_end(&self, now: Nanos) -> Nanos {
        let patience = Nanos(self.latency.0.saturating_mul(PATIENCE));
        now.after(patience.clamp(LEAST_PATIENCE, MOST_PATIENCE))
    }

    fn epoch_span(&self) -> u64 {
        span_hint(self.settings.token_base, self.active_weight.max(1), 0)
    }

    /// Virtual time goes to where the groups in line are.
    fn catch_up(&mut self) {
        // Who is awaited holds virtual time back, for an epoch at the most: then its unused tokens are void.
        let latest = self.front.minus(self.epoch_span()).lead_over(self.now);
        let weight = i128::from(self.active_weight);
        // The mean, rounded down: at least one group is not ahead of it.
        let mean =
            if (0..weight.max(1)).contains(&self.lead) { 0 } else { self.lead.div_euclid(weight.max(1)) };
        let step = mean.max(latest);
        if step == 0 {
            return;
        }
        self.now = self.now.moved(step);
        self.lead -= step * weight;
        self.order.advance(self.now);
        if self.now >= self.epoch_end {
            self.epochs += 1;
            // Behind the end of the last one, not behind now, so that no fraction of a token is lost; but not behind a
            // jump, in which nothing was handed out.
            let end = self.epoch_end.plus(self.epoch_span());
            self.epoch_end = if end > self.now { end } else { self.now.plus(self.epoch_span()) };
        }
    }

    /// A request came back from the device, well or not.
    pub fn complete(&mut self, done: Dispatched, now: Nanos) {
        self.pass_time(now);
        if self.aside == 0 {
            self.depth.completed(done.moves, self.in_flight, self.order.is_shared());
        }
        // A moving average over about sixteen requests, in which a single slow one is just a somewhat slower one.
        let taken = now.since(done.started).0.min(self.latency.0.saturating_mul(2).saturating_add(100_000));
        self.latency = Nanos(self.latency.0 - self.latency.0 / 16 + taken / 16);
        self.over(done.group, now);
    }

    /// The same for one that was not with the device in its turn, which says nothing about the device.
    pub fn complete_unseen(&mut self, done: Dispatched, now: Nanos) {
        self.pass_time(now);
        self.over(done.group, now);
    }

    /// A request of this group is over.
    fn over(&mut self, slot: Slot, now: Nanos) {
        self.in_flight -= 1;
        let group = &mut self.groups[slot];
        group.in_flight -= 1;
        if !group.queue.is_empty() {
            return;
        }
        if group.in_flight > 0 {
            return self.await_until(slot, self.patience_end(now));
        }
        if group.detached {
            // One that was given up with requests held has kept its place.
            self.leave_line(slot);
            self.stop_alarm(slot);
            self.groups.remove(slot);
            return;
        }
        let grace = group.think.pause(now);
        if group.place.is_none() {
            // Held back by its caps, or given up: not waited for.
            return;
        }
        self.stop_alarm(slot);
        match grace {
            Some(end) => self.await_until(slot, end),
            None => self.leave_line(slot),
        }
    }

    /// Tells the depth control how long how many requests were in flight.
    fn pass_time(&mut self, now: Nanos) {
        if self.aside == 0 {
            self.depth.passed(now.since(self.last_event), self.in_flight);
        }
        self.last_event = now;
    }

    /// The counters of a group.
    pub fn counters(&self, group: GroupKey) -> Counters {
        self.groups[group.0].counters
    }

    /// The weight of a group.
    pub fn weight(&self, group: GroupKey) -> Weight {
        self.groups[group.0].weight
    }

    /// Tokens a group has left in this epoch; 0 also when it is in debt.
    pub fn tokens(&self, group: GroupKey) -> u64 {
        let group = &self.groups[group.0];
        tokens(self.epoch_end.ahead_of(group.start.max(self.now)), group.w())
    }

    /// Requests handed to the device and not completed.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Requests held, over all groups.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Requests held of one group.
    pub fn queued_of(&self, group: GroupKey) -> usize {
        self.groups[group.0].queue.len()
    }

    /// The automatic depths that trials have found, total and spare, whatever is tried at the moment; `None` before the first.
    pub fn depths_found(&self) -> Option<(u32, u32)> {
        self.depth.found()
    }

    /// The automatic depth in force (share rule R8).
    pub fn depth(&self) -> u32 {
        self.depth.total()
    }

    /// That of it which is open to groups ahead of their share.
    pub fn spare_depth(&self) -> u32 {
        self.depth.spare()
    }

    /// Epochs begun, an epoch being `token_base` tokens over the active groups.
    pub fn epochs(&self) -> u64 {
        self.epochs
    }
}

/// Whose turn it is, and why.
#[derive(Clone, Copy)]
struct Turn {
    slot: Slot,
    by: By,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Its minimum is due (share rule R11).
    Minimum,
    /// It has tokens: it is not ahead of virtual time.
    Weight,
    /// It has none, but nobody who has some has anything queued.
    Leftover,
}

/// Whether the next request may go.
enum Pass {
    Yes,
    /// As many are in flight as the device is to have.
    Full,
    /// The slots left are for others.
    Reserved,
}
