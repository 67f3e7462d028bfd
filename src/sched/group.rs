//! One ioband group: its queue, its tags, its counters.

use super::counters::Counters;
use super::limits::{Limiter, Pace};
use super::order::Place;
use super::policy::{Op, Policy};
use super::tags::{VTime, span_hint};
use super::think::ThinkTime;
use crate::units::{Nanos, Weight};
use std::collections::VecDeque;

/// A request as the scheduler sees it. `id` is the caller's: it comes back in the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Names the request; unique among those accepted and not completed.
    pub id: u64,
    /// What it asks for.
    pub op: Op,
    /// Its length in sectors of 512 bytes, rounded up.
    pub sectors: u32,
}

/// A request that is held, with its place in the order of arrival over all groups of the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) request: Request,
    pub(super) since: Nanos,
    pub(super) arrival: u64,
}

/// What a group has coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    /// The end of its grace: with nothing queued, it is waited for until then (it thinks, or has requests in flight).
    Grace,
    /// Its caps let it pass again. Until then it stands nowhere, whatever it has queued.
    Cap,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) policy: Policy,
    pub(super) weight: Weight,
    pub(super) queue: VecDeque<Held>,
    pub(super) in_flight: u32,
    /// Start tag: where the next request begins in virtual time.
    pub(super) start: VTime,
    /// What the divisions of the start tag left over.
    pub(super) remainder: u64,
    /// Cost of the latest request: what an awaited group is expected to ask for next.
    pub(super) usual_cost: u32,
    /// Where it stands in line; `None` = not active.
    pub(super) place: Option<Place>,
    pub(super) think: ThinkTime,
    /// What comes by itself, and when.
    pub(super) alarm: Option<(Nanos, Alarm)>,
    /// Mostly a group has no limits, and many groups are idle: kept apart.
    pub(super) limiter: Option<Box<Limiter>>,
    pub(super) counters: Counters,
    /// Detached; goes away with its last request.
    pub(super) detached: bool,
}

impl Group {
    pub(super) fn new(policy: Policy, weight: Weight) -> Self {
        Self {
            policy,
            weight,
            queue: VecDeque::new(),
            in_flight: 0,
            start: VTime::default(),
            remainder: 0,
            usual_cost: 1,
            place: None,
            think: ThinkTime::new(),
            alarm: None,
            limiter: None,
            counters: Counters::default(),
            detached: false,
        }
    }

    pub(super) fn w(&self) -> u64 {
        u64::from(self.weight.get())
    }

    /// Its minimum bandwidth, if one is in force.
    pub(super) fn minimum(&mut self) -> Option<&mut Pace> {
        self.limiter.as_mut().filter(|_| self.policy == Policy::RangeBw)?.minimum.as_mut()
    }

    /// Whether its caps hold it back.
    pub(super) fn is_capped(&self) -> bool {
        matches!(self.alarm, Some((_, Alarm::Cap)))
    }

    /// Tokens the next request costs, or is expected to cost.
    fn next_cost(&self) -> u32 {
        match self.queue.front() {
            Some(held) => self.policy.cost(held.request.op, held.request.sectors),
            None => self.usual_cost,
        }
    }

    /// The virtual time that it takes.
    pub(super) fn next_span(&self) -> u64 {
        span_hint(self.next_cost(), self.w(), self.remainder)
    }
}
