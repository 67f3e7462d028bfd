//! Ahead of their turn: how the memory of held writes is bounded.
//!
//! The kernel hands requests over in one line for everybody, each with all its data. To stop reading when memory is short
//! would make everybody wait behind whoever floods us. So held writes are **carried out ahead, and answered in their
//! turn**: the bytes go to the device, the memory is given back, and the request stays in its group until the scheduler
//! says that it is its turn. The caller sees nothing of that: a write may be carried out at any time between its arrival and
//! its answer. And the one who floods us gets no more by it, because he comes with the next write only when one is
//! answered.
//!
//! ```text
//!  memory is short ──► the latest write in memory of the group that has most there goes to the device
//!                       (`carry_out_ahead`; half of the places there are for these meanwhile)
//!
//!  its turn comes ───► in its stead the latest write of its group that is still in memory is carried out
//!                       (`pass`), and it is answered when that is done
//! ```
//!
//! The second rule is what keeps the pace: each turn of a group is one piece of work for the device, whatever was carried
//! out before. Without it a group with a hundred writes done would be answered a hundred times at once, and come with a
//! hundred new ones. When nothing of its group is left to be carried out, it takes as long as a request usually does.
//!
//! The latest and not the oldest, whose turn may come while it is at the device: then nothing would be gained, a place
//! and an answer as at any time, and the kernel's line would be as long as before.
//!
//! A write that fails ahead of its turn keeps its error until then. Writes that overlap and are both unanswered have no order,
//! and whoever may expect to see a write (its answer has come) comes after it, so no other order than that of the range
//! lock of the device is needed.

use super::Ticket;
use super::core::{Accepted, Emptied, Outbox, Stage, State};
use crate::device::Op;
use crate::sched::{Dispatched, GroupKey};
use crate::units::Nanos;
use slab::Slab;
use std::collections::HashMap;

/// How far an accepted request has come at the device, whatever the scheduler thinks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Not there yet.
    Waits,
    /// It is there.
    Begun {
        /// In the stead of this one, which has its turn, and is answered when it is done.
        instead_of: Option<u32>,
        /// It takes a place that the scheduler does not know of as one in flight.
        aside: bool,
    },
    /// Carried out, or failed.
    Done,
}

impl Deed {
    /// At the device because it is its turn.
    pub(super) fn in_turn() -> Self {
        Self::Begun { instead_of: None, aside: false }
    }
}

/// Neighbours in the line of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    before: Option<u32>,
    after: Option<u32>,
    linked: bool,
}

/// Writes of a group that are held in memory, oldest first.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    first: Option<u32>,
    last: Option<u32>,
    count: u32,
    bytes: usize,
}

/// The lines of all groups that have one.
#[derive(Debug, Default)]
pub(super) struct Lines(HashMap<usize, Line>);

impl Lines {
    fn push(&mut self, group: GroupKey, id: u32, table: &mut Slab<Accepted>) {
        let line = self.0.entry(group.index()).or_default();
        debug_assert!(!table[id as usize].link.linked, "it stands in one line");
        table[id as usize].link = Link { before: line.last, after: None, linked: true };
        match line.last {
            Some(last) => table[last as usize].link.after = Some(id),
            None => line.first = Some(id),
        }
        line.last = Some(id);
        line.count += 1;
        line.bytes += table[id as usize].weighs();
    }

    /// Takes a write out of its line, if it stands in one.
    fn remove(&mut self, group: GroupKey, id: u32, table: &mut Slab<Accepted>) {
        let Link { before, after, linked } = std::mem::take(&mut table[id as usize].link);
        let Some(line) = self.0.get_mut(&group.index()).filter(|_| linked) else { return };
        match before {
            Some(before) => table[before as usize].link.after = after,
            None => line.first = after,
        }
        match after {
            Some(after) => table[after as usize].link.before = before,
            None => line.last = before,
        }
        line.count -= 1;
        line.bytes -= table[id as usize].weighs();
        if line.count == 0 {
            self.0.remove(&group.index());
        }
    }

    fn latest(&self, group: GroupKey) -> Option<u32> {
        self.0.get(&group.index())?.last
    }

    /// The latest of the group that has most.
    fn of_the_largest(&self) -> Option<u32> {
        self.0.values().max_by_key(|line| line.bytes)?.last
    }

    fn clear(&mut self, table: &mut Slab<Accepted>) {
        self.0.clear();
        table.iter_mut().for_each(|(_, accepted)| accepted.link = Link::default());
    }
}

impl Accepted {
    /// Memory that its data take.
    fn weighs(&self) -> usize {
        let in_slot = if self.ticket.slot == Ticket::NOWHERE { 0 } else { self.bytes };
        in_slot + self.copied
    }

    /// The group that holds it, if one does.
    fn held_in(&self) -> Option<GroupKey> {
        match &self.stage {
            Stage::Held(held) => held.group,
            Stage::Passed(_) | Stage::Unscheduled => None,
        }
    }
}

impl State {
    /// It is the turn of a request.
    pub(super) fn pass(&mut self, dispatched: Dispatched, now: Nanos, out: &mut Outbox) {
        // Made of a number of 32 bits.
        let id = dispatched.id as u32;
        let accepted = &mut self.table[id as usize];
        let group = accepted.held_in();
        accepted.stage = Stage::Passed(dispatched);
        match accepted.deed {
            Deed::Waits => {
                if let Some(group) = group {
                    self.lines.remove(group, id, &mut self.table);
                }
                self.begin(id, Deed::in_turn(), now, &mut out.calls);
            }
            Deed::Begun { instead_of, aside } => {
                accepted.deed = Deed::Begun { instead_of, aside: false };
                if aside {
                    self.end_aside(id, now);
                }
            }
            Deed::Done => match group.and_then(|group| self.lines.latest(group).zip(Some(group))) {
                Some((other, group)) => {
                    self.lines.remove(group, other, &mut self.table);
                    self.begin(
                        other,
                        Deed::Begun { instead_of: Some(id), aside: false },
                        now,
                        &mut out.calls,
                    );
                }
                None => {
                    self.resting.insert((now.after(self.disk.latency()), id));
                }
            },
        }
    }

    /// Answers those whose rest is over.
    pub(super) fn answer_rested(&mut self, now: Nanos, out: &mut Outbox) {
        while let Some(&(until, id)) = self.resting.first() {
            if until > now && !self.closing {
                break;
            }
            self.resting.pop_first();
            self.answer(id, false, now, out);
        }
    }

    /// The device has done a request.
    pub(super) fn done(&mut self, id: u32, now: Nanos, out: &mut Outbox) {
        let accepted = &mut self.table[id as usize];
        let deed = std::mem::replace(&mut accepted.deed, Deed::Done);
        let is_held = accepted.held_in().is_some();
        if accepted.op == Op::Write {
            self.freed += accepted.weighs();
        }
        if let Deed::Begun { instead_of, aside } = deed {
            if aside {
                self.end_aside(id, now);
            }
            if let Some(other) = instead_of {
                self.answer(other, true, now, out);
            }
        }
        if is_held {
            self.leave_slot(id, out);
        } else {
            self.answer(id, true, now, out);
        }
    }

    /// Nothing of a held request needs to be in its slot any more.
    fn leave_slot(&mut self, id: u32, out: &mut Outbox) {
        let Accepted { pieces, ticket, copied, error, .. } = &mut self.table[id as usize];
        // That ends what was lent.
        pieces.iter_mut().for_each(|piece| piece.payload = None);
        self.budget.give(std::mem::take(copied));
        if ticket.slot == Ticket::NOWHERE {
            // It has left it before.
        } else if ticket.may_leave {
            out.left.push(std::mem::replace(&mut ticket.slot, Ticket::NOWHERE));
            ticket.may_leave = false;
        } else {
            let errno = error.as_ref().map(|error| error.raw_os_error().unwrap_or(libc::EIO));
            self.emptied.push(Emptied { slot: ticket.slot, errno });
        }
    }

    /// As long as memory is short, carries out what takes it, but not more than `most`.
    pub(super) fn carry_out_ahead(&mut self, most: usize, now: Nanos, out: &mut Outbox) {
        for _ in 0..most {
            if !self.is_tight() || !self.disk.has_room() {
                break;
            }
            let Some(id) = self.lines.of_the_largest() else { break };
            let Some(group) = self.table[id as usize].held_in() else { break };
            self.lines.remove(group, id, &mut self.table);
            self.disk.begin_aside(now);
            self.leaving += self.table[id as usize].weighs();
            self.begin(id, Deed::Begun { instead_of: None, aside: true }, now, &mut out.calls);
        }
        // Where the scheduler takes every place at the device, every second one that gets free is for this.
        self.ahead_is_next = self.is_tight() && self.disk.aside() == 0 && !self.lines.0.is_empty();
    }

    /// Whether the places at the device that are left are for writes ahead: while memory is short, these are to have as many
    /// as all others, or the kernel's line would hardly get shorter.
    pub(super) fn makes_room(&self) -> bool {
        self.disk.in_flight() > self.disk.aside() && self.is_tight() && !self.lines.0.is_empty()
    }

    fn is_tight(&self) -> bool {
        self.budget.is_tight(self.leaving.saturating_add(self.freed))
    }

    /// It is with the device aside no more.
    fn end_aside(&mut self, id: u32, now: Nanos) {
        self.leaving = self.leaving.saturating_sub(self.table[id as usize].weighs());
        self.disk.end_aside(now);
    }

    /// Writes that came with this visit and are still held stand in line.
    pub(super) fn settle(&mut self) {
        let mut came = std::mem::take(&mut self.came);
        for id in came.drain(..) {
            let Some(accepted) = self.table.get(id as usize) else { continue };
            let Some(group) = accepted.held_in().filter(|_| accepted.deed == Deed::Waits) else { continue };
            if accepted.op == Op::Write {
                self.lines.push(group, id, &mut self.table);
            }
        }
        self.came = came;
    }

    /// Groups have changed: everybody stands in line with his group.
    pub(super) fn line_up(&mut self) {
        let Self { lines, table, bands, .. } = self;
        lines.clear(table);
        let mut waiting = Vec::new();
        for (id, accepted) in table.iter_mut() {
            let group = bands.get(accepted.image.band()).and_then(|band| accepted.group_in(band));
            if let (Stage::Held(held), Some(group)) = (&mut accepted.stage, group) {
                held.group = Some(group);
            }
            if let Some(group) = accepted.held_in()
                && accepted.op == Op::Write
                && accepted.deed == Deed::Waits
            {
                waiting.push((accepted.arrival, id as u32, group));
            }
        }
        waiting.sort_unstable_by_key(|(arrival, ..)| *arrival);
        for (_, id, group) in waiting {
            lines.push(group, id, table);
        }
    }
}
