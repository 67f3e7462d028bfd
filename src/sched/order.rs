//! Who is next: the active groups of a disk in the order of worst-case fair queueing (WF2Q+, Bennett and Zhang).
//!
//! A group is *due* when its start tag is not ahead of the disk's virtual time, and *ahead* otherwise. Among the
//! due ones the earliest finish tag comes first, among those ahead the earliest start tag. Groups with requests
//! queued (*backlogged*) and groups that are only expected back (*awaited*: requests in flight, or thinking) are
//! kept apart: only the former can be served, but the latter have their place in the order as well.

use super::tags::VTime;
use std::collections::BTreeSet;

/// Index of a group in its disk.
pub(super) type Slot = usize;

/// The tags a group stands in line with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) start: VTime,
    pub(super) finish: VTime,
    /// Nothing is queued; the group is expected back.
    pub(super) awaited: bool,
}

/// One kind of groups: the due ones by (finish, slot), those ahead by (start, slot, finish).
#[derive(Debug, Default)]
struct Line {
    due: BTreeSet<(VTime, Slot)>,
    ahead: BTreeSet<(VTime, Slot, VTime)>,
}

impl Line {
    fn insert(&mut self, slot: Slot, place: Place, now: VTime) {
        let new = if place.start <= now {
            self.due.insert((place.finish, slot))
        } else {
            self.ahead.insert((place.start, slot, place.finish))
        };
        debug_assert!(new, "a group stands in line once");
    }

    fn remove(&mut self, slot: Slot, place: Place) {
        let found =
            self.due.remove(&(place.finish, slot)) || self.ahead.remove(&(place.start, slot, place.finish));
        debug_assert!(found, "a group in line is found by its place");
    }

    fn advance(&mut self, now: VTime) {
        while let Some(&(start, slot, finish)) = self.ahead.first() {
            if start > now {
                break;
            }
            self.ahead.pop_first();
            self.due.insert((finish, slot));
        }
    }
}

/// All active groups of a disk. Every operation is logarithmic in their number; idle groups cost nothing.
#[derive(Debug, Default)]
pub(super) struct Order {
    backlogged: Line,
    awaited: Line,
}

impl Order {
    fn line(&mut self, place: Place) -> &mut Line {
        if place.awaited { &mut self.awaited } else { &mut self.backlogged }
    }

    pub(super) fn insert(&mut self, slot: Slot, place: Place, now: VTime) {
        self.line(place).insert(slot, place, now);
    }

    pub(super) fn remove(&mut self, slot: Slot, place: Place) {
        self.line(place).remove(slot, place);
    }

    /// A group that was due is ahead of virtual time again.
    pub(super) fn put_back(&mut self, slot: Slot, place: Place) {
        let line = self.line(place);
        line.due.remove(&(place.finish, slot));
        line.ahead.insert((place.start, slot, place.finish));
    }

    /// Virtual time has come to `now`: groups that it reached become due.
    pub(super) fn advance(&mut self, now: VTime) {
        self.backlogged.advance(now);
        self.awaited.advance(now);
    }

    /// The backlogged group to serve next: (slot, whether it is due).
    pub(super) fn next(&self) -> Option<(Slot, bool)> {
        let due = self.backlogged.due.first().map(|&(_, slot)| (slot, true));
        due.or_else(|| self.backlogged.ahead.first().map(|&(_, slot, _)| (slot, false)))
    }

    /// Whether more than one group is active.
    pub(super) fn is_shared(&self) -> bool {
        let lines = [&self.backlogged, &self.awaited];
        lines.iter().map(|line| line.due.len() + line.ahead.len()).sum::<usize>() > 1
    }

    /// The first awaited group, if it comes before the one that [`Order::next`] names.
    pub(super) fn first_awaited(&self) -> Option<Slot> {
        (self.awaited_before_next(1) > 0).then(|| self.awaited.due.first().map(|&(_, slot)| slot)).flatten()
    }

    /// How many awaited groups come before the one that [`Order::next`] names, counted up to `most`.
    pub(super) fn awaited_before_next(&self, most: u32) -> u32 {
        let finish = self.backlogged.due.first().map(|&(finish, _)| finish);
        let before = |&&(awaited, _): &&(VTime, Slot)| finish.is_none_or(|finish| awaited < finish);
        // At most `most` steps, which is at most the depth of the device.
        self.awaited.due.iter().take(most as usize).take_while(before).count() as u32
    }
}
