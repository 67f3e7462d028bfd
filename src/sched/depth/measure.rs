//! What a trial of depth measures: windows of time, their throughput, and the medians of several.

use crate::units::Nanos;

/// Windows on each side of a trial, at most.
pub(super) const MOST_WINDOWS: usize = 64;
/// Moving a request is worth its sectors and as much as 4 KiB.
const REQUEST_WORK: u64 = 8;

/// Throughput: requests and work per second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    pub(super) requests: u64,
    pub(super) work: u64,
}

impl Rate {
    /// By how many thousandths this is more than `other`: in requests, and in work.
    pub(super) fn change_from(self, other: Rate) -> [i64; 2] {
        [(self.requests, other.requests), (self.work, other.work)].map(|(new, old)| {
            // Rates fit 63 bits by a wide margin.
            (new as i64).saturating_sub(old as i64).saturating_mul(1000) / (old as i64).max(1)
        })
    }
}

/// The windows of one side of a trial.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    rates: [Rate; MOST_WINDOWS],
    pub(super) count: usize,
}

impl Side {
    pub(super) fn new() -> Self {
        Self { rates: [Rate::default(); MOST_WINDOWS], count: 0 }
    }

    pub(super) fn add(&mut self, rate: Rate) {
        if let Some(place) = self.rates.get_mut(self.count) {
            *place = rate;
            self.count += 1;
        }
    }

    pub(super) fn median(&self) -> Rate {
        let median = |of: fn(&Rate) -> u64| {
            let mut values = self.rates.map(|rate| of(&rate));
            let values = &mut values[..self.count.max(1)];
            values.sort_unstable();
            values[(values.len() - 1) / 2].midpoint(values[values.len() / 2])
        };
        Rate { requests: median(|rate| rate.requests), work: median(|rate| rate.work) }
    }

    /// By how many thousandths the last window differs from the one before.
    pub(super) fn last_change(&self) -> Option<i64> {
        let [before, last] = self.rates.get(self.count.checked_sub(2)?..self.count)? else { return None };
        Some(last.change_from(*before)[0].abs())
    }
}

/// What is measured at one depth. Only time counts in which the device had something to do.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Completions to let pass first: they were started at another depth.
    pub(super) settling: u32,
    pub(super) completions: u32,
    /// Of those, during how many a request waited for the total depth, or for the spare one.
    refused: [u32; 2],
    /// Of those, how many while more than one group was active.
    pub(super) shared: u32,
    /// Requests whose turn it was, and how many of them were not due.
    pub(super) turns: u32,
    pub(super) ahead: u32,
    /// Completions that were left out because they tell nothing.
    pub(super) void: u32,
    work: u64,
    /// The most requests in flight.
    pub(super) peak: u32,
    pub(super) busy: Nanos,
    /// Requests in flight, summed over nanoseconds.
    area: u128,
}

impl Window {
    /// `in_flight` requests were with the device for `span`.
    pub(super) fn passed(&mut self, span: Nanos, in_flight: u32) {
        if in_flight > 0 && self.settling == 0 {
            self.busy = self.busy.after(span);
            self.area += u128::from(span.0) * u128::from(in_flight);
            self.peak = self.peak.max(in_flight);
        }
    }

    /// It is the turn of a request, which is due or not.
    pub(super) fn turn(&mut self, due: bool) {
        self.turns = self.turns.saturating_add(1);
        self.ahead = self.ahead.saturating_add(u32::from(!due));
    }

    /// A request came back; whether it counts.
    pub(super) fn completed(&mut self, sectors: u32, shared: bool, refused: [bool; 2]) -> bool {
        if self.settling > 0 {
            self.settling -= 1;
            return false;
        }
        self.completions = self.completions.saturating_add(1);
        self.work = self.work.saturating_add(REQUEST_WORK + u64::from(sectors));
        self.shared += u32::from(shared);
        for (count, refused) in self.refused.iter_mut().zip(refused) {
            *count += u32::from(refused);
        }
        true
    }

    /// What moves bytes is at most 2^20 sectors long, a window holds about 2^13 requests unless they are very quick, and
    /// a second is 2^30 ns: this only saturates for windows that mean nothing.
    pub(super) fn rate(&self) -> Rate {
        let per_second = |count: u64| count.saturating_mul(Nanos::SECOND.0) / self.busy.0.max(1);
        Rate { requests: per_second(self.completions.into()), work: per_second(self.work) }
    }

    /// Requests in flight on average, rounded up.
    pub(super) fn concurrency(&self) -> u32 {
        u32::try_from(self.area.div_ceil(u128::from(self.busy.0.max(1)))).unwrap_or(u32::MAX)
    }

    /// More would be taken, were the total depth (0) or the spare one (1) deeper.
    pub(super) fn wants_more(&self, which: usize) -> bool {
        u64::from(self.refused[which]) * 8 > u64::from(self.completions)
    }
}
