//! Whose minimum bandwidth is due (share rule R11).
//!
//! Each group with a minimum has a due time, which every byte it moves puts off by `1 / rate`. A backlogged group whose
//! due time has come goes before all that share by weight, the longest overdue first. What it gets by weight counts as
//! well, so that a group has the larger of its minimum and its share, as under mClock (Gulati et al., OSDI 2010).
//!
//! Due times are on a clock of their own, which stands still while the first of them is overdue by [`LAG`]. Minima that
//! ask for more than the device gives would otherwise fall ever farther behind, and whoever came new would be served
//! only after they have caught up, which is never. With it they share the device in proportion to the minima.

use super::limits::Pace;
use super::order::Slot;
use crate::units::Nanos;
use std::collections::BTreeSet;

/// No group is overdue by more.
const LAG: Nanos = Nanos::from_millis(100);
/// A group that comes back may claim its minimum for so much of the time it was away: enough for a synchronous caller
/// between two requests, and not enough to burst with.
const CREDIT: Nanos = Nanos::from_millis(20);
/// What a group got beyond its minimum is no payment in advance for longer than this (or than its last request).
const ADVANCE: Nanos = Nanos::from_millis(10);

/// The backlogged groups that have a minimum, by when it is due.
#[derive(Debug, Default)]
pub(super) struct Minima {
    line: BTreeSet<(Nanos, Slot)>,
    /// Those that have nothing queued, but are expected back.
    awaited: BTreeSet<(Nanos, Slot)>,
    clock: Nanos,
    /// The time at which `clock` was right.
    at: Nanos,
}

impl Minima {
    /// The time on the clock of due times.
    pub(super) fn clock(&mut self, now: Nanos) -> Nanos {
        self.clock = self.clock.after(now.since(self.at));
        self.at = now;
        if let Some(&(due, _)) = self.line.first() {
            self.clock = self.clock.min(due.after(LAG));
        }
        self.clock
    }

    /// The group whose minimum is due for the longest time.
    pub(super) fn due(&mut self, now: Nanos) -> Option<Slot> {
        // Mostly nobody has a minimum.
        if self.line.is_empty() && self.awaited.is_empty() {
            return None;
        }
        let clock = self.clock(now);
        self.line.first().filter(|(due, _)| *due <= clock).map(|&(_, slot)| slot)
    }

    /// How many groups are expected back whose minimum is due, counted up to `most`: a slot is kept for each.
    pub(super) fn awaited(&self, most: u32) -> u32 {
        // At most `most` steps, which is at most the depth of the device.
        self.awaited.iter().take(most as usize).take_while(|(due, _)| *due <= self.clock).count() as u32
    }

    pub(super) fn insert(&mut self, slot: Slot, minimum: &Pace, awaited: bool) {
        let line = if awaited { &mut self.awaited } else { &mut self.line };
        line.insert((minimum.due, slot));
    }

    pub(super) fn remove(&mut self, slot: Slot, minimum: &Pace, awaited: bool) {
        let line = if awaited { &mut self.awaited } else { &mut self.line };
        line.remove(&(minimum.due, slot));
    }

    /// A group has something queued again.
    pub(super) fn rejoin(&mut self, minimum: &mut Pace, now: Nanos) {
        minimum.void_before(self.clock(now).since(CREDIT));
    }

    /// `bytes` of a group pass; it is not in line meanwhile.
    pub(super) fn charge(&mut self, minimum: &mut Pace, bytes: u64, now: Nanos) {
        let clock = self.clock(now);
        let before = minimum.due;
        minimum.charge(bytes, clock.since(LAG));
        minimum.due = minimum.due.min(clock.after(ADVANCE.max(minimum.due.since(before))));
    }
}
