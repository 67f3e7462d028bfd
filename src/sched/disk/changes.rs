//! What may change while requests are held: each change acts on them at once (share rule R10), and none loses one (R9).

use super::super::counters::Counters;
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

    /// Changes what the requests of a group cost, those queued included.
    pub fn set_policy(&mut self, group: GroupKey, policy: Policy) {
        self.retag(group.0, |group, others| {
            group.policy = policy;
            group.usual_cost = 1;
            // Tokens of the one kind say nothing in the other: neither a debt nor a claim.
            (group.start, group.remainder) = (others, 0);
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
        self.settings = settings;
        self.depth.pin(settings.io_throttle, settings.io_limit);
    }

    /// Detaches a group. What it holds moves, in order of arrival, to where `reroute` sends each request.
    pub fn remove_group(
        &mut self,
        group: GroupKey,
        now: Nanos,
        mut reroute: impl FnMut(&Request) -> GroupKey,
    ) {
        let slot = group.0;
        let active = self.groups[slot].place.is_some();
        self.leave_line(slot);
        self.stop_alarm(slot);
        let group = &mut self.groups[slot];
        let held = std::mem::take(&mut group.queue);
        group.detached = true;
        if group.in_flight == 0 {
            self.groups.remove(slot);
        } else if active {
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
}
