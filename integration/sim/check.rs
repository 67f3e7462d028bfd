//! What must hold at every step of every run, whatever happens: a second bookkeeping, kept from the outside.
//!
//! * Every accepted request is dispatched once and completed once, within a group in the order of arrival (rule R9).
//! * No more than the limit are in flight (R6), and the disk never idles while something is held that may pass (R4).
//! * Two groups that both have something queued get, in *every* span of time in which that is so, service in proportion
//!   to their weights, but for one largest request of each: `|S1/w1 - S2/w2| <= L1/w1 + L2/w2` (R1, R7; Golestani's
//!   measure of fairness).
//! * The first request of a group waits while the others get at most what their weights ask for in the time of its own
//!   service, and `4 L` of each other group (two for its place in line, two for what a synchronous group may claim).
//! * What is dispatched in an epoch are the epoch's tokens, but for one largest request.

use std::collections::{BTreeMap, BTreeSet};

/// One group, as it should be.
#[derive(Clone, Debug, Default)]
struct Watched {
    weight: u64,
    /// The most that one of its requests costs.
    largest: u64,
    /// Not judged: it has caps or a minimum.
    limited: bool,
    held: BTreeSet<u64>,
    /// Tokens of others dispatched since its first request is its first.
    others: u64,
    /// Against each other group, as (less, most, now) of `S1 w2 - S2 w1` since both have something queued.
    against: BTreeMap<usize, (i128, i128, i128)>,
}

/// The whole disk, as it should be.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    groups: Vec<Watched>,
    in_flight: BTreeSet<u64>,
    group_of: BTreeMap<u64, usize>,
    /// Whether groups are judged against each other: not while everything passes.
    judges: bool,
    /// How much of what is allowed the worst span was off, from 0 to 1.
    pub(crate) worst_share: f64,
    /// The same of waits.
    pub(crate) worst_wait: f64,
    pub(crate) dispatched: u64,
    pub(crate) completed: u64,
}

/// Above so many groups, comparing all with all would take longer than all the rest.
const MOST_COMPARED: usize = 16;

impl Checker {
    pub(crate) fn new(judges: bool) -> Self {
        Self { judges, ..Self::default() }
    }

    pub(crate) fn add_group(&mut self, weight: u32, largest: u32, limited: bool) -> usize {
        let (weight, largest) = (weight.into(), largest.into());
        self.groups.push(Watched { weight, largest, limited, ..Watched::default() });
        self.groups.len() - 1
    }

    /// Something changes: what was before says nothing about what comes.
    pub(crate) fn change(&mut self, group: usize, weight: u32, largest: u32, limited: bool) {
        let watched = &mut self.groups[group];
        (watched.weight, watched.largest, watched.limited) = (weight.into(), largest.into(), limited);
        self.start_over();
    }

    /// Forgets what is held against whom, and judges or no longer.
    pub(crate) fn judge(&mut self, judges: bool) {
        self.judges = judges;
        self.start_over();
    }

    fn start_over(&mut self) {
        for group in &mut self.groups {
            group.against.clear();
            group.others = 0;
        }
    }

    pub(crate) fn submitted(&mut self, id: u64, group: usize) {
        let known = self.group_of.insert(id, group);
        assert!(known.is_none(), "request {id} comes twice");
        self.groups[group].held.insert(id);
        if self.groups[group].held.len() == 1 {
            self.groups[group].others = 0;
        }
    }

    /// What a group holds moves to another.
    pub(crate) fn moved(&mut self, from: usize, to: usize) {
        let held = std::mem::take(&mut self.groups[from].held);
        for id in &held {
            self.group_of.insert(*id, to);
        }
        self.groups[to].held.extend(held);
        self.start_over();
    }

    pub(crate) fn dispatched(&mut self, id: u64, cost: u32, in_flight: u32, limit: u32) {
        let group = *self.group_of.get(&id).unwrap_or_else(|| panic!("{id} was never accepted"));
        let first = self.groups[group].held.pop_first();
        assert_eq!(first, Some(id), "the first of its group goes first, and once");
        assert!(self.in_flight.insert(id), "{id} goes twice");
        self.dispatched += 1;
        assert_eq!(self.in_flight.len(), in_flight as usize);
        assert!(limit == 0 || in_flight <= limit, "{in_flight} in flight, limit {limit}");
        if self.judges && self.groups.len() <= MOST_COMPARED {
            self.judge_wait(group, cost.into());
            self.judge_shares(group, cost.into());
        }
    }

    fn judge_wait(&mut self, group: usize, cost: u64) {
        let all: u64 = self.groups.iter().map(|other| other.weight).sum();
        let largest: u64 = self.groups.iter().map(|other| other.largest).sum();
        let Watched { weight, others, largest: own, limited, .. } = self.groups[group];
        let allowed = (cost * (all - weight)).div_ceil(weight) + 4 * (largest - own);
        if !limited && allowed > 0 {
            assert!(others <= allowed, "group {group} waits while others get {others}, more than {allowed}");
            self.worst_wait = self.worst_wait.max(others as f64 / allowed as f64);
        }
        self.groups[group].others = 0;
        for (index, other) in self.groups.iter_mut().enumerate() {
            if index != group && !other.held.is_empty() {
                other.others += cost;
            }
        }
    }

    fn judge_shares(&mut self, group: usize, cost: u64) {
        for other in 0..self.groups.len() {
            let (a, b) = (&self.groups[group], &self.groups[other]);
            if other == group || a.limited || b.limited {
                continue;
            }
            // The service of this request still counts: the group had it queued.
            let (first, second) = (group.min(other), group.max(other));
            if b.held.is_empty() {
                self.groups[first].against.remove(&second);
                continue;
            }
            let sign: i128 = if group == first { 1 } else { -1 };
            let allowed = i128::from(a.largest * b.weight + b.largest * a.weight);
            let step = sign * i128::from(cost) * i128::from(b.weight);
            let ends = a.held.is_empty();
            let (less, most, now) = self.groups[first].against.entry(second).or_default();
            *now += step;
            *less = (*less).min(*now);
            *most = (*most).max(*now);
            let off = *most - *less;
            assert!(off <= allowed, "groups {first} and {second} are off by {off}, more than {allowed}");
            self.worst_share = self.worst_share.max(off as f64 / allowed as f64);
            if ends {
                self.groups[first].against.remove(&second);
            }
        }
    }

    pub(crate) fn completed(&mut self, id: u64) {
        assert!(self.in_flight.remove(&id), "{id} completes, but is not in flight");
        self.group_of.remove(&id);
        self.completed += 1;
    }

    /// The disk says that there is nothing to do now; `later` if it will look again by itself.
    pub(crate) fn rests(&self, later: bool) {
        let held = self.held();
        let may_rest = held == 0 || !self.in_flight.is_empty() || later;
        assert!(may_rest, "the disk idles, and for ever, with {held} held");
    }

    pub(crate) fn held(&self) -> usize {
        self.groups.iter().map(|group| group.held.len()).sum()
    }

    /// Nothing is left of what was accepted.
    pub(crate) fn at_the_end(&self) {
        assert_eq!((self.held(), self.in_flight.len(), self.group_of.len()), (0, 0, 0), "something is left");
        assert_eq!(self.dispatched, self.completed);
    }
}
