//! What a group must have and may have in real time, beside its weight: minima (share rule R11) and caps (R11, R12).

use crate::units::Nanos;
use std::num::NonZeroU64;

/// The limits of one group. By default there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a second that the group gets before anybody gets anything by weight; under [`super::Policy::RangeBw`].
    pub min_bandwidth: Option<NonZeroU64>,
    /// Most bytes a second, under any policy. Discards and flushes move none.
    pub max_bandwidth: Option<Cap>,
    /// Most requests a second, under any policy.
    pub max_iops: Option<Cap>,
}

impl Limits {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A cap: an average rate, and how much may pass at once after a pause.
///
/// In any span of *t* seconds at most `rate * t + burst` passes, and what is left of the last request: a request passes
/// whole as soon as the cap has room for its beginning, and what it takes too much is paid for afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// Bytes or requests a second.
    pub rate: NonZeroU64,
    /// Bytes or requests.
    pub burst: u64,
}

impl Cap {
    /// A cap with the usual burst: what the rate gives in a hundredth of a second.
    pub fn new(rate: NonZeroU64) -> Self {
        Self { rate, burst: rate.get() / 100 }
    }

    /// How long the rate needs for the burst.
    fn lead(self) -> Nanos {
        span(self.burst, self.rate, &mut 0)
    }
}

/// A rate kept in real time (the generic cell rate algorithm): the moment at which the next unit is due. Ahead of the
/// clock it is a debt, behind it a claim, which is bounded by whoever charges.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) due: Nanos,
    rate: NonZeroU64,
    /// What the divisions left over, in units of `1 / rate` nanoseconds.
    rest: u64,
}

impl Pace {
    pub(super) fn new(rate: NonZeroU64, now: Nanos) -> Self {
        Self { due: now, rate, rest: 0 }
    }

    /// From `now` on as if nothing had been before.
    pub(super) fn restart(&mut self, now: Nanos) {
        (self.due, self.rest) = (now, 0);
    }

    /// `amount` passes; a claim from before `earliest` is void.
    pub(super) fn charge(&mut self, amount: u64, earliest: Nanos) {
        self.void_before(earliest);
        self.due = self.due.after(span(amount, self.rate, &mut self.rest));
    }

    /// A claim from before `earliest` is void.
    pub(super) fn void_before(&mut self, earliest: Nanos) {
        if self.due < earliest {
            (self.due, self.rest) = (earliest, 0);
        }
    }

    /// The rate is another one from now on; a debt stays the same amount.
    fn change_rate(&mut self, rate: NonZeroU64, now: Nanos) {
        let owed = u128::from(self.due.since(now).0) * u128::from(self.rate.get()) / NANOS;
        let owed = span(u64::try_from(owed).unwrap_or(u64::MAX), rate, &mut 0);
        (self.due, self.rate, self.rest) = (self.due.min(now).after(owed), rate, 0);
    }
}

const NANOS: u128 = Nanos::SECOND.0 as u128;

/// How long `rate` needs for `amount`, with what the division left over carried. Saturates after 584 years.
///
/// `amount` is below 2^64 and a second is below 2^30 ns, so the product stays below 2^94.
fn span(amount: u64, rate: NonZeroU64, rest: &mut u64) -> Nanos {
    let units = u128::from(amount) * NANOS + u128::from(*rest);
    let rate = u128::from(rate.get());
    // A remainder is below the rate, which is 64 bits.
    *rest = (units % rate) as u64;
    Nanos(u64::try_from(units / rate).unwrap_or(u64::MAX))
}

/// One cap at work.
#[derive(Clone, Copy, Debug)]
struct Meter {
    cap: Cap,
    pace: Pace,
}

impl Meter {
    fn new(cap: Cap, now: Nanos) -> Self {
        Self { cap, pace: Pace::new(cap.rate, now) }
    }

    fn charge(&mut self, amount: u64, now: Nanos) {
        self.pace.charge(amount, now.since(self.cap.lead()));
    }

    /// The same meter under another cap: what was taken too much is still owed.
    fn with(old: Option<Meter>, cap: Option<Cap>, now: Nanos) -> Option<Meter> {
        let cap = cap?;
        let mut meter = old.unwrap_or_else(|| Self::new(cap, now));
        meter.pace.change_rate(cap.rate, now);
        meter.cap = cap;
        Some(meter)
    }
}

/// The limits of one group at work.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    limits: Limits,
    bandwidth: Option<Meter>,
    iops: Option<Meter>,
    /// Its due time is one of the disk's minimum clock.
    pub(super) minimum: Option<Pace>,
}

impl Limiter {
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Puts other limits in force; `minimum_now` is the time of the disk's minimum clock.
    pub(super) fn change(&mut self, limits: Limits, now: Nanos, minimum_now: Nanos) {
        self.bandwidth = Meter::with(self.bandwidth, limits.max_bandwidth, now);
        self.iops = Meter::with(self.iops, limits.max_iops, now);
        if limits.min_bandwidth != self.limits.min_bandwidth {
            self.minimum = limits.min_bandwidth.map(|rate| Pace::new(rate, minimum_now));
        }
        self.limits = limits;
    }

    /// A request that moves `bytes` passes.
    pub(super) fn charge(&mut self, bytes: u64, now: Nanos) {
        if let Some(meter) = &mut self.bandwidth {
            meter.charge(bytes, now);
        }
        if let Some(meter) = &mut self.iops {
            meter.charge(1, now);
        }
    }

    /// From when on the caps let the next request pass.
    pub(super) fn ready_at(&self) -> Nanos {
        let due = |meter: &Option<Meter>| meter.map_or(Nanos(0), |meter| meter.pace.due);
        due(&self.bandwidth).max(due(&self.iops))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(rate: u64) -> NonZeroU64 {
        NonZeroU64::new(rate).expect("a test's rate is not zero")
    }

    fn capped(cap: Cap) -> Limiter {
        let mut limiter = Limiter::default();
        limiter.change(Limits { max_iops: Some(cap), ..Limits::default() }, Nanos(0), Nanos(0));
        limiter
    }

    #[test]
    fn a_burst_passes_at_once_and_no_more() {
        let mut limiter = capped(Cap { rate: rate(100), burst: 5 });
        let now = Nanos::SECOND;
        let mut passed = 0;
        while limiter.ready_at() <= now {
            limiter.charge(0, now);
            passed += 1;
        }
        // The burst, and the one that is due just now.
        assert_eq!(passed, 6);
        assert_eq!(limiter.ready_at(), now.after(Nanos::from_millis(10)));
    }

    #[test]
    fn a_raised_cap_forgets_no_debt_and_no_time() {
        let mut limiter = capped(Cap { rate: rate(1), burst: 0 });
        (0..10).for_each(|_| limiter.charge(0, Nanos(0)));
        assert_eq!(limiter.ready_at(), Nanos(10 * Nanos::SECOND.0));
        let faster = Limits { max_iops: Some(Cap { rate: rate(1000), burst: 0 }), ..Limits::default() };
        limiter.change(faster, Nanos(0), Nanos(0));
        assert_eq!(limiter.ready_at(), Nanos::from_millis(10));
        limiter.change(Limits::default(), Nanos(0), Nanos(0));
        assert_eq!(limiter.ready_at(), Nanos(0));
    }

    proptest! {
        /// Whatever the rate and the sizes: over any run the rate is exact to the nanosecond.
        #[test]
        fn a_rate_does_not_drift(per_second in 1u64..5_000_000_000, sizes in prop::collection::vec(0u64..1 << 30, 1..100)) {
            let mut pace = Pace::new(rate(per_second), Nanos(7));
            sizes.iter().for_each(|size| pace.charge(*size, Nanos(0)));
            let total: u128 = sizes.iter().map(|size| u128::from(*size)).sum();
            prop_assert_eq!(u128::from(pace.due.0), 7 + total * 1_000_000_000 / u128::from(per_second));
        }
    }
}
