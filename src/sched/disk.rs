//! The scheduler of one disk: requests in, decisions out. See [`super`] for the algorithm.

use super::counters::Counters;
use super::depth::DepthControl;
use super::group::{Group, Held, Request};
use super::order::{Order, Place, Slot};
use super::policy::{Op, Policy};
use super::tags::{VTime, span, span_hint, tokens};
use crate::units::{Nanos, Weight};
use slab::Slab;
use std::collections::BTreeSet;

/// dm-ioband's default token base.
pub const DEFAULT_TOKEN_BASE: u32 = 2048;

/// A group that comes back within its grace may claim this many of its requests from the time it was away.
const CREDIT_REQUESTS: u32 = 2;

/// A group with nothing but requests in flight is waited for so many times as long as requests take on average, within
/// these bounds. Longer, and one slow request (a flush, a large discard) would hold up what others have queued.
const PATIENCE: u64 = 8;
const LEAST_PATIENCE: Nanos = Nanos::from_millis(1);
const MOST_PATIENCE: Nanos = Nanos::from_millis(50);

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
    /// Ends of graces, to expire them.
    graces: BTreeSet<(Nanos, Slot)>,
    depth: DepthControl,
    /// When a request last went to the device or came back.
    last_event: Nanos,
    /// How long requests take in the device, on average.
    latency: Nanos,
    /// Virtual time, and what its divisions left over.
    now: VTime,
    now_remainder: u64,
    /// The farthest start tag that was served: where newcomers join.
    front: VTime,
    /// Where the current epoch ends in virtual time.
    epoch_end: VTime,
    epochs: u64,
    /// Sum of the weights of the active groups.
    active_weight: u64,
    in_flight: u32,
    queued: usize,
    arrivals: u64,
    draining: bool,
}

impl Disk {
    /// A disk with no groups.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            groups: Slab::new(),
            order: Order::default(),
            graces: BTreeSet::new(),
            depth: DepthControl::new(),
            last_event: Nanos(0),
            latency: Nanos(0),
            now: VTime::default(),
            now_remainder: 0,
            front: VTime::default(),
            epoch_end: VTime::default(),
            epochs: 0,
            active_weight: 0,
            in_flight: 0,
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
        self.enqueue(group.0, held, now);
    }

    fn enqueue(&mut self, slot: Slot, held: Held, now: Nanos) {
        self.queued += 1;
        let group = &mut self.groups[slot];
        group.queue.push_back(held);
        if group.queue.len() == 1 {
            group.think.resume(now);
            self.stop_awaiting(slot);
            self.join(slot);
        }
    }

    /// The group has something queued again: it takes its place among the backlogged.
    fn join(&mut self, slot: Slot) {
        let front = self.front.max(self.now);
        let group = &mut self.groups[slot];
        // Time away is not saved up: a newcomer joins where the others are. A group that was active all along
        // (a synchronous caller between two requests) keeps its claim, bounded so that it cannot burst with it.
        let earliest = match group.place {
            Some(_) => front.minus(span_hint(group.usual_cost.saturating_mul(CREDIT_REQUESTS), group.w(), 0)),
            None => front,
        };
        group.start = group.start.max(earliest);
        self.leave_line(slot);
        self.stand_in_line(slot);
    }

    /// Takes the group out of the line; it stays what it was otherwise.
    fn leave_line(&mut self, slot: Slot) {
        let group = &mut self.groups[slot];
        if let Some(place) = group.place.take() {
            self.active_weight -= group.w();
            self.order.remove(slot, place);
        }
    }

    /// Puts an active group in line by its tags.
    fn stand_in_line(&mut self, slot: Slot) {
        let group = &mut self.groups[slot];
        let finish = group.start.plus(span_hint(group.next_cost(), group.w(), group.remainder));
        let place = Place { start: group.start, finish, awaited: group.queue.is_empty() };
        group.place = Some(place);
        self.active_weight += group.w();
        self.order.insert(slot, place, self.now);
    }

    /// What to do at `now`. Call until it no longer says [`Next::Dispatch`].
    pub fn next(&mut self, now: Nanos) -> Next {
        self.expire_graces(now);
        if let Some(start) = self.order.jump() {
            self.advance_to(start);
        }
        let Some((slot, due)) = self.order.next() else { return Next::Idle };
        match self.may_pass(due) {
            Pass::Yes => Next::Dispatch(self.dispatch(slot, now)),
            Pass::Full => Next::Idle,
            // The device has work, so a completion will ask again; so may the end of a grace.
            Pass::Reserved => self.graces.first().map_or(Next::Idle, |&(end, _)| Next::Wait(end)),
        }
    }

    fn may_pass(&self, due: bool) -> Pass {
        if self.draining || self.in_flight == 0 {
            return Pass::Yes;
        }
        let Settings { io_throttle, io_limit, .. } = self.settings;
        let depth = self.depth.depth();
        let limit = if io_limit > 0 { io_limit } else { depth.max(io_throttle) };
        if self.in_flight >= limit {
            return Pass::Full;
        }
        // One slot is kept back for each awaited group whose turn comes first: not the whole device.
        let reserved = self.order.awaited_before_next(limit - self.in_flight);
        // A group that is not due would run ahead of somebody who is active: it passes only where control has
        // not started (R5), or, with automatic depth, where the device would be left with less than it can use.
        let free = if io_throttle > 0 { io_throttle } else { depth.min(limit).saturating_sub(reserved) };
        if self.in_flight < free || (due && self.in_flight + reserved < limit) {
            Pass::Yes
        } else {
            Pass::Reserved
        }
    }

    fn dispatch(&mut self, slot: Slot, now: Nanos) -> Dispatched {
        self.leave_line(slot);
        let group = &mut self.groups[slot];
        let held = group.queue.pop_front().expect("a backlogged group has a request queued");
        let Request { id, op, sectors } = held.request;
        let cost = group.policy.cost(op, sectors);
        group.usual_cost = cost;
        group.in_flight += 1;
        group.counters.count(op, sectors, now > held.since);
        self.front = self.front.max(group.start);
        group.start = group.start.plus(span(cost, group.w(), &mut group.remainder));
        self.stand_in_line(slot);
        self.await_until(slot, self.patience_end(now));
        self.queued -= 1;
        self.pass_time(now);
        self.in_flight += 1;
        let step = span(cost, self.active_weight, &mut self.now_remainder);
        // Who is awaited holds virtual time back, for an epoch at the most: then its unused tokens are void.
        let epoch = self.epoch_span();
        self.advance_to(self.now.plus(step).max(self.front.minus(epoch)));
        let moves = if op == Op::Discard { 0 } else { sectors };
        Dispatched { id, group: slot, moves, started: now }
    }

    /// The group, having nothing queued, is waited for until `end`, and not as long as it was before.
    fn await_until(&mut self, slot: Slot, end: Nanos) {
        self.stop_awaiting(slot);
        let group = &mut self.groups[slot];
        if group.queue.is_empty() && group.place.is_some() {
            group.grace_end = Some(end);
            self.graces.insert((end, slot));
        }
    }

    fn stop_awaiting(&mut self, slot: Slot) {
        if let Some(end) = self.groups[slot].grace_end.take() {
            self.graces.remove(&(end, slot));
        }
    }

    /// Until when a group with requests in flight is waited for.
    fn patience_end(&self, now: Nanos) -> Nanos {
        let patience = Nanos(self.latency.0.saturating_mul(PATIENCE));
        now.after(patience.clamp(LEAST_PATIENCE, MOST_PATIENCE))
    }

    fn epoch_span(&self) -> u64 {
        span_hint(self.settings.token_base, self.active_weight.max(1), 0)
    }

    fn advance_to(&mut self, now: VTime) {
        self.now = self.now.max(now);
        self.order.advance(self.now);
        if self.now >= self.epoch_end {
            self.epochs += 1;
            self.epoch_end = self.now.plus(self.epoch_span());
        }
    }

    /// A request came back from the device, well or not.
    pub fn complete(&mut self, done: Dispatched, now: Nanos) {
        let Dispatched { id: _, group: slot, moves, started } = done;
        self.pass_time(now);
        self.in_flight -= 1;
        self.depth.completed(moves, self.queued > 0);
        // A moving average over about sixteen requests, in which a single slow one is just a somewhat slower one.
        let taken = now.since(started).0.min(self.latency.0.saturating_mul(2).saturating_add(100_000));
        self.latency = Nanos(self.latency.0 - self.latency.0 / 16 + taken / 16);
        let group = &mut self.groups[slot];
        group.in_flight -= 1;
        if !group.queue.is_empty() {
            return;
        }
        if group.in_flight > 0 {
            return self.await_until(slot, self.patience_end(now));
        }
        self.stop_awaiting(slot);
        let group = &mut self.groups[slot];
        if group.detached {
            self.leave_line(slot);
            self.groups.remove(slot);
            return;
        }
        match group.think.pause(now) {
            Some(end) => self.await_until(slot, end),
            None => self.leave_line(slot),
        }
    }

    /// Tells the depth control how long how many requests were in flight.
    fn pass_time(&mut self, now: Nanos) {
        self.depth.passed(now.since(self.last_event), self.in_flight);
        self.last_event = now;
    }

    fn expire_graces(&mut self, now: Nanos) {
        while let Some(&(end, slot)) = self.graces.first() {
            if end > now {
                break;
            }
            self.graces.pop_first();
            self.groups[slot].grace_end = None;
            self.leave_line(slot);
        }
    }

    /// Changes the weight of a group; what it has queued feels it at once.
    pub fn set_weight(&mut self, group: GroupKey, weight: Weight) {
        self.retag(group.0, |group, now| {
            // A lead is a debt in tokens, and stays the same number of tokens under the new weight.
            let lead = tokens(group.start.ahead_of(now), group.w());
            let behind = group.start.min(now);
            group.weight = weight;
            group.remainder = 0;
            let lead = span_hint(u32::try_from(lead).unwrap_or(u32::MAX), group.w(), 0);
            group.start = behind.plus(lead).max(behind);
        });
    }

    /// Changes what the requests of a group cost, those queued included.
    pub fn set_policy(&mut self, group: GroupKey, policy: Policy) {
        self.retag(group.0, |group, now| {
            group.policy = policy;
            group.usual_cost = 1;
            // Tokens of the one kind say nothing in the other: a lead is forgiven.
            group.start = group.start.min(now);
        });
    }

    fn retag(&mut self, slot: Slot, change: impl FnOnce(&mut Group, VTime)) {
        let active = self.groups[slot].place.is_some();
        self.leave_line(slot);
        change(&mut self.groups[slot], self.now);
        if active {
            self.stand_in_line(slot);
        }
    }

    /// The settings of the disk.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Changes the settings of the disk.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Detaches a group. What it holds moves, in order of arrival, to where `reroute` sends each request.
    pub fn remove_group(
        &mut self,
        group: GroupKey,
        now: Nanos,
        mut reroute: impl FnMut(&Request) -> GroupKey,
    ) {
        let slot = group.0;
        self.leave_line(slot);
        self.stop_awaiting(slot);
        let group = &mut self.groups[slot];
        let held = std::mem::take(&mut group.queue);
        group.detached = true;
        if group.in_flight == 0 {
            self.groups.remove(slot);
        } else {
            // Still active until its requests in flight are back, within the usual patience.
            self.stand_in_line(slot);
            self.await_until(slot, self.patience_end(now));
        }
        for held in held {
            self.queued -= 1;
            let target = reroute(&held.request).0;
            self.enqueue_by_arrival(target, held, now);
        }
    }

    /// Like `enqueue`, but among requests that came later when there are any.
    fn enqueue_by_arrival(&mut self, slot: Slot, held: Held, now: Nanos) {
        let queue = &mut self.groups[slot].queue;
        let at = queue.partition_point(|other| other.arrival < held.arrival);
        if queue.is_empty() {
            return self.enqueue(slot, held, now);
        }
        queue.insert(at, held);
        self.queued += 1;
        if at == 0 {
            // Another request is first now, maybe of another cost: the finish tag follows.
            self.retag(slot, |_, _| {});
        }
    }

    /// From now on everything passes at once: the daemon is ending and nobody's request may stay behind.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// The counters of a group.
    pub fn counters(&self, group: GroupKey) -> Counters {
        self.groups[group.0].counters
    }

    /// Sets the counters of a group to zero.
    pub fn reset_counters(&mut self, group: GroupKey) {
        self.groups[group.0].counters = Counters::default();
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

    /// The automatic depth in force (share rule R8).
    pub fn depth(&self) -> u32 {
        self.depth.depth()
    }

    /// Epochs begun, an epoch being `token_base` tokens over the active groups.
    pub fn epochs(&self) -> u64 {
        self.epochs
    }
}

/// Whether the next request may go.
enum Pass {
    Yes,
    /// As many are in flight as the device is to have.
    Full,
    /// The slots left are for others.
    Reserved,
}
