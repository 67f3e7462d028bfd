//! What must hold at every step of every run, whatever happens: a second bookkeeping, kept from the outside.
//!
//! * Every accepted request is dispatched once and completed once, within a group in the order of arrival (rule R9).
//! * No more than the limit are in flight (R6), and the disk never idles while something is held that may pass (R4).
//! * Two groups that both have something queued get, in *every* span of time in which that is so, service in proportion
//!   to their weights: `|S1/w1 - S2/w2|` is at most one largest request of either, `max(L1/w1, L2/w2)`, at each end of
//!   the span (R1, R7; Golestani's measure of fairness). Spans begin when each of them has been served once since both
//!   have something queued: who joined has its claim first.
//! * In every span in which all groups that are there have something queued, each gets its part of all service, but for
//!   its own largest request and claim (one request, or as many as it had in flight, of the largest size), what others
//!   had beyond their share when somebody joined, and its part of the others' largest requests and claims.
//! * The first request of a group waits while the others together get at most what their weights ask for in the time of
//!   it and of the one before it, and what they may claim; and each of them that, and what others had beyond their share
//!   when somebody joined.
//!
//! Shares and waits are judged of groups without caps and minima, and of up to [`MOST_COMPARED`] groups.
//!
//! `contrib/docs/SCHEDULER.md`, "Bounds", says why.

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
    in_flight: u64,
    /// Requests that it may claim in a row when it has something queued again: as many as it had in flight.
    claim: u64,
    /// The most that it could claim since the last change.
    most_claimed: u64,
    /// Something has changed: it is judged once it has had what it brought along.
    changed: bool,
    /// Requests dispatched since the last change.
    since_change: u64,
    /// Tokens of each other group dispatched since its first request is its first.
    others: BTreeMap<usize, u64>,
    /// Against each other group.
    against: BTreeMap<usize, Span>,
    /// `S1 W - S w1`, S and W being all service and the weights of all groups that are there, since all of these have
    /// something queued.
    ideal: Swing,
}

impl Watched {
    /// The most that it could claim, in tokens.
    fn claimed_tokens(&self) -> u64 {
        self.largest * self.most_claimed.max(1)
    }

    /// Debts and claims from before a change have been paid.
    fn is_settled(&self) -> bool {
        !self.changed || self.since_change > self.most_claimed + 1
    }
}

/// All groups but one.
fn all_but(groups: &[Watched], but: usize) -> impl Iterator<Item = &Watched> {
    groups.iter().enumerate().filter(move |(index, _)| *index != but).map(|(_, other)| other)
}

/// So many tokens more a group may be behind by: each of the others may have been a request ahead when somebody joined where
/// they all were on average.
fn ahead_of(groups: &[Watched], index: usize) -> u64 {
    let weight = groups[index].weight;
    all_but(groups, index).map(|other| (other.largest * weight).div_ceil(other.weight + weight)).sum()
}

/// A quantity that should stay near 0, over a span of time: now, and the least and the most that it was.
#[derive(Clone, Copy, Debug, Default)]
struct Swing {
    now: i128,
    least: i128,
    most: i128,
}

impl Swing {
    /// Adds a step; how far apart the most and the least are, which is the worst of all spans within this one.
    fn step(&mut self, step: i128) -> i128 {
        self.now += step;
        self.least = self.least.min(self.now);
        self.most = self.most.max(self.now);
        self.most - self.least
    }
}

/// A span of time in which two groups both have something queued.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    /// Whether each has been served since: who joined has its claim first, and is compared from then on.
    served: [bool; 2],
    /// `S1 w2 - S2 w1`.
    difference: Swing,
}

/// The whole disk, as it should be.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    groups: Vec<Watched>,
    in_flight: BTreeSet<u64>,
    group_of: BTreeMap<u64, usize>,
    /// Whether groups are judged against each other: not while everything passes.
    judges: bool,
    /// How much of what is allowed the worst span of two groups was off, from 0 to 1.
    pub(crate) worst_share: f64,
    /// The same of all groups.
    pub(crate) worst_ideal: f64,
    /// The same of waits.
    pub(crate) worst_wait: f64,
    pub(crate) dispatched: u64,
    pub(crate) completed: u64,
}

/// So many steps of the scheduler's virtual time are one token at weight 1.
const TAGS_A_TOKEN: u64 = 1 << 20;

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
            group.ideal = Swing::default();
            group.others.clear();
            (group.most_claimed, group.since_change, group.changed) = (group.claim, 0, true);
        }
    }

    pub(crate) fn submitted(&mut self, id: u64, group: usize) {
        let known = self.group_of.insert(id, group);
        assert!(known.is_none(), "request {id} comes twice");
        let watched = &mut self.groups[group];
        watched.held.insert(id);
        if watched.held.len() == 1 {
            watched.others.clear();
            watched.claim = watched.in_flight.max(1);
            watched.most_claimed = watched.most_claimed.max(watched.claim);
            self.start_over_ideal();
        }
    }

    /// Those of what a group holds move to another.
    pub(crate) fn moved(&mut self, from: usize, to: usize, which: impl Fn(u64) -> bool) {
        let (moved, stayed) =
            std::mem::take(&mut self.groups[from].held).into_iter().partition(|id| which(*id));
        self.groups[from].held = stayed;
        let target = &mut self.groups[to];
        if target.held.is_empty() {
            target.claim = target.in_flight.max(1);
        }
        let moved: BTreeSet<u64> = moved;
        for id in &moved {
            self.group_of.insert(*id, to);
        }
        target.held.extend(moved);
        self.start_over();
    }

    pub(crate) fn dispatched(&mut self, id: u64, cost: u32, in_flight: u32, limit: u32) {
        let group = *self.group_of.get(&id).unwrap_or_else(|| panic!("{id} was never accepted"));
        let first = self.groups[group].held.pop_first();
        assert_eq!(first, Some(id), "the first of its group goes first, and once");
        assert!(self.in_flight.insert(id), "{id} goes twice");
        self.dispatched += 1;
        self.groups[group].in_flight += 1;
        self.groups[group].since_change += 1;
        assert_eq!(self.in_flight.len(), in_flight as usize);
        assert!(limit == 0 || in_flight <= limit, "{in_flight} in flight, limit {limit}");
        if self.judges && self.groups.len() <= MOST_COMPARED {
            self.judge_wait(group, cost.into());
            self.judge_shares(group, cost.into());
            self.judge_ideal(group, cost.into());
        }
    }

    fn judge_ideal(&mut self, group: usize, cost: u64) {
        // The one that is served had something queued.
        let waits = |index: usize, other: &Watched| index == group || !other.held.is_empty();
        let there = |index: usize, other: &Watched| other.in_flight > 0 || waits(index, other);
        let mut all = self.groups.iter().enumerate();
        if all.any(|(index, other)| {
            other.limited
                || (there(index, other) && !other.is_settled())
                || (there(index, other) && !waits(index, other))
        }) {
            return self.start_over_ideal();
        }
        let present: Vec<usize> = (0..self.groups.len()).filter(|i| there(*i, &self.groups[*i])).collect();
        let weights: u64 = present.iter().map(|index| self.groups[*index].weight).sum();
        // Who is not there any more may have had a request beyond its share, which is owed to those who stayed.
        let owed = |(index, other): (usize, &Watched)| {
            other.largest + if present.contains(&index) { other.claimed_tokens() } else { 0 }
        };
        let all_owed: u64 = self.groups.iter().enumerate().map(owed).sum();
        for &index in &present {
            let Watched { weight, largest, .. } = self.groups[index];
            let own = largest + self.groups[index].claimed_tokens();
            let ahead = ahead_of(&self.groups, index);
            let allowed = i128::from((weights - weight) * (own + ahead) + weight * (all_owed - own));
            let served = if index == group { i128::from(cost * weights) } else { 0 };
            let off = self.groups[index].ideal.step(served - i128::from(weight * cost));
            assert!(off <= allowed, "group {index} is {off} off its ideal, more than {allowed}");
            self.worst_ideal = self.worst_ideal.max(off as f64 / allowed as f64);
        }
        if self.groups[group].held.is_empty() {
            self.start_over_ideal();
        }
    }

    fn start_over_ideal(&mut self) {
        self.groups.iter_mut().for_each(|group| group.ideal = Swing::default());
    }

    fn judge_wait(&mut self, group: usize, cost: u64) {
        let Watched { weight, largest, limited, .. } = self.groups[group];
        let waited = std::mem::take(&mut self.groups[group].others);
        if !limited && self.groups[group].is_settled() {
            let (mut others, mut others_allowed) = (0, 0);
            for (index, other) in self.groups.iter().enumerate().filter(|(index, _)| *index != group) {
                let got = waited.get(&index).copied().unwrap_or(0);
                let in_time_of = |tokens: u64| (tokens * other.weight).div_ceil(weight);
                let allowed =
                    in_time_of(largest) + in_time_of(cost).max(other.largest) + other.claimed_tokens();
                (others, others_allowed) = (others + got, others_allowed + allowed);
                // One alone may be farther behind than all are in sum.
                let allowed = allowed + ahead_of(&self.groups, index);
                assert!(got <= allowed, "group {group} waits while {index} gets {got}, more than {allowed}");
                self.worst_wait = self.worst_wait.max(got as f64 / allowed as f64);
            }
            let allowed = others_allowed.max(1);
            assert!(others <= allowed, "group {group} waits while others get {others}, more than {allowed}");
            self.worst_wait = self.worst_wait.max(others as f64 / allowed as f64);
        }
        // What a minimum gives is beyond all weights.
        if limited {
            return;
        }
        for (index, other) in self.groups.iter_mut().enumerate() {
            if index != group && !other.held.is_empty() {
                *other.others.entry(group).or_default() += cost;
            }
        }
    }

    fn judge_shares(&mut self, group: usize, cost: u64) {
        for other in 0..self.groups.len() {
            let (a, b) = (&self.groups[group], &self.groups[other]);
            if other == group || !a.is_settled() || !b.is_settled() || a.limited || b.limited {
                continue;
            }
            // The service of this request still counts: the group had it queued.
            let (first, second) = (group.min(other), group.max(other));
            if b.held.is_empty() {
                self.groups[first].against.remove(&second);
                continue;
            }
            let sign: i128 = if group == first { 1 } else { -1 };
            let (one, two) = (a.largest * b.weight, b.largest * a.weight);
            // Tags are whole numbers: where two ends are less than one apart, either may be first.
            let rounding = (a.weight * b.weight).div_ceil(TAGS_A_TOKEN);
            let allowed = 2 * i128::from(one.max(two) + rounding);
            let step = sign * i128::from(cost) * i128::from(b.weight);
            let ends = a.held.is_empty();
            let span = self.groups[first].against.entry(second).or_default();
            if span.served == [true; 2] {
                let off = span.difference.step(step);
                assert!(off <= allowed, "groups {first} and {second} are off by {off}, more than {allowed}");
                self.worst_share = self.worst_share.max(off as f64 / allowed as f64);
            }
            span.served[usize::from(group == second)] = true;
            if ends {
                self.groups[first].against.remove(&second);
            }
        }
    }

    pub(crate) fn completed(&mut self, id: u64) {
        assert!(self.in_flight.remove(&id), "{id} completes, but is not in flight");
        let group = self.group_of.remove(&id);
        self.groups[group.expect("it was accepted")].in_flight -= 1;
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
