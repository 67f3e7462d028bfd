//! Who stands in line, with which tags, and what brings a group in and out of it by itself.

use super::super::group::Alarm;
use super::super::order::{Place, Slot};
use super::super::tags::{VTime, span_hint};
use super::Disk;
use crate::units::Nanos;

impl Disk {
    /// The group has something queued again: it takes its place among the backlogged.
    pub(super) fn join(&mut self, slot: Slot, now: Nanos) {
        let others = self.others();
        let group = &mut self.groups[slot];
        // Time away is not saved up: a newcomer joins where the others are. It has a claim, but to no more than it could
        // have used: what it has in flight (behind a slow request, say), or one request. With that a synchronous caller
        // keeps its place between two requests, and one that mostly sleeps is served at once; and as its own tag
        // counts where it is farther, nobody gets more than his share by pausing.
        let claim = group.usual_cost.saturating_mul(group.in_flight.max(1));
        let earliest = others.minus(span_hint(claim, group.w(), 0));
        group.start = group.start.max(earliest);
        self.leave_line(slot);
        if let Some(minimum) = self.groups[slot].minimum() {
            self.minima.rejoin(minimum, now);
        }
        self.stand_in_line(slot);
    }

    /// Where the groups are that something is queued of. Virtual time may be far behind, held back by who is awaited, or
    /// may have gone back: who joins now must not stand before those who joined farther ahead and still wait.
    pub(super) fn others(&mut self) -> VTime {
        self.front = self.front.max(self.now);
        self.front
    }

    /// The caps of a group let it pass again: it takes its place, if there is anything to take it for.
    pub(super) fn return_from_cap(&mut self, slot: Slot, now: Nanos) {
        let group = &self.groups[slot];
        if group.queue.is_empty() && group.in_flight == 0 {
            return;
        }
        // It was the cap that kept it away: it comes back to where virtual time is, not a request behind it. But not
        // before who waits and joined farther ahead than that is now, so no nearer than who joins with one request.
        let next = group.next_span();
        let earliest = self.others().minus(next).max(self.now);
        let group = &mut self.groups[slot];
        group.start = group.start.max(earliest);
        if let Some(minimum) = group.minimum() {
            self.minima.rejoin(minimum, now);
        }
        self.stand_in_line(slot);
        self.await_until(slot, self.patience_end(now));
    }

    /// Takes a group whose caps are used up out of the line, until they let it pass again.
    pub(super) fn hold_back(&mut self, slot: Slot, now: Nanos) {
        let ready = self.groups[slot].limiter.as_ref().map_or(Nanos(0), |limiter| limiter.ready_at());
        if ready > now && !self.draining {
            self.leave_line(slot);
            self.set_alarm(slot, ready, Alarm::Cap);
        }
    }

    /// Takes the group out of the line; it stays what it was otherwise.
    pub(super) fn leave_line(&mut self, slot: Slot) {
        let group = &mut self.groups[slot];
        let Some(place) = group.place.take() else { return };
        self.active_weight -= group.w();
        self.lead -= place.start.lead_over(self.now) * i128::from(group.w());
        self.order.remove(slot, place);
        if let Some(minimum) = group.minimum() {
            self.minima.remove(slot, minimum, place.awaited);
        }
    }

    /// Puts an active group in line by its tags.
    pub(super) fn stand_in_line(&mut self, slot: Slot) {
        let group = &mut self.groups[slot];
        let finish = group.start.plus(group.next_span());
        let place = Place { start: group.start, finish, awaited: group.queue.is_empty() };
        group.place = Some(place);
        self.active_weight += group.w();
        self.lead += place.start.lead_over(self.now) * i128::from(group.w());
        self.order.insert(slot, place, self.now);
        // A minimum is one of bytes: what moves none goes by weight, or it would go first for ever.
        let moves_bytes = group.queue.front().is_none_or(|held| held.request.op.moves_bytes());
        if let Some(minimum) = group.minimum().filter(|_| moves_bytes) {
            self.minima.insert(slot, minimum, place.awaited);
        }
    }

    /// The group, having nothing queued, is waited for until `end`, and not as long as it was before.
    pub(super) fn await_until(&mut self, slot: Slot, end: Nanos) {
        let group = &self.groups[slot];
        if group.queue.is_empty() && group.place.is_some() {
            self.set_alarm(slot, end, Alarm::Grace);
        }
    }

    fn set_alarm(&mut self, slot: Slot, when: Nanos, what: Alarm) {
        self.stop_alarm(slot);
        self.groups[slot].alarm = Some((when, what));
        self.alarms.insert((when, slot));
    }

    pub(super) fn stop_alarm(&mut self, slot: Slot) {
        if let Some((when, _)) = self.groups[slot].alarm.take() {
            self.alarms.remove(&(when, slot));
        }
    }

    pub(super) fn expire_alarms(&mut self, now: Nanos) {
        while let Some(&(end, slot)) = self.alarms.first() {
            if end > now {
                break;
            }
            self.alarms.pop_first();
            match self.groups[slot].alarm.take() {
                Some((_, Alarm::Cap)) => self.return_from_cap(slot, now),
                Some((_, Alarm::Grace)) | None => self.leave_line(slot),
            }
        }
    }
}
