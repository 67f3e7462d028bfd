//! What may change while requests are held: each change acts on them at once (share rule R10), and none loses one (R9).

use super::super::counters::Counters;
use super::super::depth::DepthControl;
use super::super::group::{Group, Held, Request};
use super::super::limits::Limits;
use super::super::order::Slot;
use super::super::policy::Policy;
use super::super::tags::{VTime, span_hint, tokens};
use super::{Disk, GroupKey, Settings};
use crate::units::{Nanos, Weight};

impl Disk {
    /// Changes the weight of a group; what it has queued feels it at once.
    pub fn set_weight(&mut self, group: GroupKey, weight: Weight) {
        self.retag(group.0, |group, others| {
            // A lead is a debt in tokens, a lag a claim: each stays the same number of tokens under the new weight.
            let under = |span| {
                let tokens = tokens(span, group.w());
                span_hint(u32::try_from(tokens).unwrap_or(u32::MAX), u64::from(weight.get()), 0)
            };
            let (lead, lag) = (under(group.start.ahead_of(others)), under(others.ahead_of(group.start)));
            group.start = others.plus(lead).minus(lag);
            (group.weight, group.remainder) = (weight, 0);
        });
    }

    /// Changes what the requests of a group cost, those queued included. A minimum is in force under
    /// [`Policy::RangeBw`] only: what was got or missed before says nothing when it comes into force again.
    pub fn set_policy(&mut self, group: GroupKey, policy: Policy, now: Nanos) {
        if self.groups[group.0].policy == policy {
            return;
        }
        let minimum_now = self.minima.clock(now);
        self.retag(group.0, |group, others| {
            group.policy = policy;
            group.usual_cost = 1;
            // Tokens of the one kind say nothing in the other: neither a debt nor a claim.
            (group.start, group.remainder) = (others, 0);
            if let Some(minimum) = group.minimum() {
                minimum.restart(minimum_now);
            }
        });
    }

    /// Changes what a group's tags follow from; `change` also gets where the others are.
    fn retag(&mut self, slot: Slot, change: impl FnOnce(&mut Group, VTime)) {
        let active = self.groups[slot].place.is_some();
        self.leave_line(slot);
        let others = self.others();
        change(&mut self.groups[slot], others);
        if active {
            self.stand_in_line(slot);
        }
    }

    /// Changes what a group must and may have in real time. What it took too much under an old cap is still owed.
    pub fn set_limits(&mut self, group: GroupKey, limits: Limits, now: Nanos) {
        let slot = group.0;
        if self.groups[slot].limiter.is_none() && limits.is_empty() {
            return;
        }
        let active = self.groups[slot].place.is_some();
        let minimum_now = self.minima.clock(now);
        self.leave_line(slot);
        self.groups[slot].limiter.get_or_insert_default().change(limits, now, minimum_now);
        if active {
            self.stand_in_line(slot);
        } else if self.groups[slot].is_capped() {
            self.stop_alarm(slot);
            self.return_from_cap(slot, now);
        }
        self.hold_back(slot, now);
        if limits.is_empty() {
            self.groups[slot].limiter = None;
        }
    }

    /// The limits of a group.
    pub fn limits(&self, group: GroupKey) -> Limits {
        self.groups[group.0].limiter.as_ref().map(|limiter| limiter.limits()).unwrap_or_default()
    }

    /// The settings of the disk.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Changes the settings of the disk.
    pub fn set_settings(&mut self, settings: Settings) {
        if (settings.io_throttle, settings.io_limit) != (self.settings.io_throttle, self.settings.io_limit) {
            self.depth.pin(settings.io_throttle, settings.io_limit);
        }
        self.settings = settings;
        // A shorter epoch begins now, and not when the long one is over.
        self.epoch_end = self.epoch_end.min(self.now.plus(self.epoch_span()));
    }

    /// From now on it is the scheduler of another device: what was learned of the old one says nothing.
    pub fn forget_device(&mut self) {
        self.forget_depths();
        self.latency = Nanos(0);
    }

    /// What was learned of how deep the device is says nothing any more.
    pub fn forget_depths(&mut self) {
        self.depth = DepthControl::new();
        self.depth.pin(self.settings.io_throttle, self.settings.io_limit);
    }

    /// Sends on what a group holds and what belongs elsewhere now: each request goes to the group that `to` says, in order
    /// of arrival also among those that are held there; what `to` leaves where it is stays as it was.
    pub fn reroute(&mut self, from: GroupKey, now: Nanos, mut to: impl FnMut(&Request) -> GroupKey) {
        let slot = from.0;
        let mut moving: Vec<(Slot, Held)> = Vec::new();
        self.groups[slot].queue.retain(|held| {
            let target = to(&held.request);
            if target != from {
                moving.push((target.0, *held));
            }
            target == from
        });
        if moving.is_empty() {
            return;
        }
        self.follow_queue(slot, now);
        // Stable, so that what goes to the same group stays in order.
        moving.sort_by_key(|(target, _)| *target);
        for moved in moving.chunk_by(|one, next| one.0 == next.0) {
            self.take_in(moved[0].0, moved, now);
        }
    }

    /// Detaches a group. What it holds goes, in order of arrival, to the other groups that `to` says.
    pub fn remove_group(&mut self, group: GroupKey, now: Nanos, to: impl FnMut(&Request) -> GroupKey) {
        self.reroute(group, now, to);
        let slot = group.0;
        debug_assert!(self.groups[slot].queue.is_empty(), "what a detached group holds goes to others");
        // Nobody comes back to it, so no place and no slot is kept for it, whatever it has in flight.
        self.leave_line(slot);
        self.stop_alarm(slot);
        let group = &mut self.groups[slot];
        group.detached = true;
        if group.in_flight == 0 {
            self.groups.remove(slot);
        }
    }

    /// Gives a group up. What it holds is served in its turn, without limits, and then the group goes away by itself.
    pub fn retire_group(&mut self, group: GroupKey, now: Nanos) {
        self.set_limits(group, Limits::default(), now);
        if self.groups[group.0].queue.is_empty() {
            self.remove_group(group, now, |_| group);
        } else {
            self.groups[group.0].detached = true;
        }
    }

    /// Some requests of a group are gone from its queue: its place follows.
    fn follow_queue(&mut self, slot: Slot, now: Nanos) {
        if self.groups[slot].place.is_none() {
            // Its caps hold it back, and still do.
            return;
        }
        self.leave_line(slot);
        let group = &self.groups[slot];
        // Who made the requests belongs elsewhere: with nothing in flight nobody is expected back.
        if !group.queue.is_empty() || group.in_flight > 0 {
            self.stand_in_line(slot);
            self.await_until(slot, self.patience_end(now));
        }
    }

    /// Puts requests of other groups, which are in order of arrival, among those that a group holds.
    fn take_in(&mut self, slot: Slot, moved: &[(Slot, Held)], now: Nanos) {
        let queue = &mut self.groups[slot].queue;
        let was_empty = queue.is_empty();
        queue.extend(moved.iter().map(|(_, held)| *held));
        // Two runs that are in order already: merged in one pass.
        queue.make_contiguous().sort_by_key(|held| held.arrival);
        if was_empty {
            self.has_something_queued(slot, now);
        } else {
            // Another request may be first now, maybe of another cost: the finish tag follows.
            self.retag(slot, |_, _| {});
        }
    }

    /// From now on everything passes at once: the daemon is ending and nobody's request may stay behind.
    pub fn drain(&mut self, now: Nanos) {
        self.draining = true;
        let capped = self.alarms.iter().map(|&(_, slot)| slot).filter(|slot| self.groups[*slot].is_capped());
        for slot in capped.collect::<Vec<_>>() {
            self.stop_alarm(slot);
            self.return_from_cap(slot, now);
        }
    }

    /// Sets the counters of a group to zero.
    pub fn reset_counters(&mut self, group: GroupKey) {
        self.groups[group.0].counters = Counters::default();
    }

    /// Goes on with what was counted of a group before.
    pub fn set_counters(&mut self, group: GroupKey, counters: Counters) {
        self.groups[group.0].counters = counters;
    }

    /// Begins with depths that were found before, total and spare. See [`Disk::depths_found`].
    pub fn begin_with_depths(&mut self, depths: (u32, u32)) {
        self.depth.begin_with(depths);
    }
}
