//! A device made as slow as one asks for: the service-time model, and the shelf for what is not due yet.

use super::queue::Done;
use crate::units::Nanos;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// How slow: each of `parallel` servers takes 1/`iops` plus bytes/`bandwidth` for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Simulate {
    /// Requests a second of one server; `None` (or 0) = no cost per request.
    pub iops: Option<u64>,
    /// Bytes a second of one server; `None` (or 0) = no cost per byte.
    pub bandwidth: Option<u64>,
    /// Number of servers, at least 1.
    pub parallel: u32,
}

impl Simulate {
    /// Whether a device made as slow as `now` is in anything slower than one as slow as `before`; `None` is as fast as it is.
    pub fn slows(before: Option<Self>, now: Option<Self>) -> bool {
        let rate = |rate: Option<u64>| rate.filter(|n| *n > 0).unwrap_or(u64::MAX);
        let speeds = |simulate: Option<Self>| {
            simulate.map_or([u64::MAX; 3], |s| [rate(s.iops), rate(s.bandwidth), s.parallel.max(1).into()])
        };
        speeds(now).iter().zip(speeds(before)).any(|(now, before)| *now < before)
    }
}

/// When a server is free again: `at` nanoseconds and a fraction, kept as the two remainders of its divisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Free {
    at: u64,
    /// In units of 1/iops nanoseconds, below `iops`.
    request_rest: u64,
    /// In units of 1/bandwidth nanoseconds, below `bandwidth`.
    byte_rest: u64,
}

/// First come, first served over identical servers, in exact integer arithmetic.
#[derive(Clone, Debug)]
pub struct Model {
    iops: Option<u64>,
    bandwidth: Option<u64>,
    parallel: usize,
    /// Servers that have ever been used; further ones (up to `parallel`) have been idle since the start.
    servers: BinaryHeap<Reverse<Free>>,
}

impl Model {
    /// A model whose servers are all idle.
    pub fn new(simulate: Simulate) -> Self {
        Self {
            iops: simulate.iops.filter(|n| *n > 0),
            bandwidth: simulate.bandwidth.filter(|n| *n > 0),
            parallel: simulate.parallel.max(1) as usize,
            servers: BinaryHeap::new(),
        }
    }

    /// When a request of `bytes` that arrives `now` is finished. Calls must come in the order of `now`.
    pub fn finish(&mut self, now: Nanos, bytes: u64) -> Nanos {
        let idle = Free { at: now.0, ..Free::default() };
        let earliest = self.servers.peek().map(|Reverse(free)| *free);
        let start = match earliest {
            // Busy until later: its fraction of a nanosecond is carried on, so that rounding never adds up.
            Some(free) if free.at >= now.0 && self.servers.len() >= self.parallel => free,
            // The fraction of a server that ended in this very nanosecond counts as well.
            Some(free) if free.at == now.0 => free,
            _ => idle,
        };
        if earliest.is_some_and(|free| free.at <= now.0 || self.servers.len() >= self.parallel) {
            self.servers.pop();
        }
        let (for_request, request_rest) = divide(u128::from(Nanos::SECOND.0), start.request_rest, self.iops);
        // Below 2^64 * 2^30: no overflow in 128 bits.
        let work = u128::from(bytes) * u128::from(Nanos::SECOND.0);
        let (for_bytes, byte_rest) = divide(work, start.byte_rest, self.bandwidth);
        let at = start.at.saturating_add(for_request).saturating_add(for_bytes);
        self.servers.push(Reverse(Free { at, request_rest, byte_rest }));
        Nanos(at)
    }
}

/// `(work + rest) / rate` and the new remainder; nothing at all without a rate. Saturates after 584 years.
fn divide(work: u128, rest: u64, rate: Option<u64>) -> (u64, u64) {
    let Some(rate) = rate else { return (0, 0) };
    let total = work + u128::from(rest);
    let whole = u64::try_from(total / u128::from(rate)).unwrap_or(u64::MAX);
    // A remainder is below the rate, which is 64 bits.
    (whole, (total % u128::from(rate)) as u64)
}

/// Finished requests that the model says are not finished yet.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    // The sequence number keeps those that are due at the same time in their order.
    due: BTreeMap<(Nanos, u64), Done>,
    sequence: u64,
}

impl Shelf {
    pub(super) fn put(&mut self, due: Nanos, done: Done) {
        self.due.insert((due, self.sequence), done);
        self.sequence += 1;
    }

    /// Moves what is due to `done`, earliest first.
    pub(super) fn take(&mut self, now: Nanos, done: &mut Vec<Done>) {
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now {
                break;
            }
            done.push(entry.remove());
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Nanos> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn model(iops: Option<u64>, bandwidth: Option<u64>, parallel: u32) -> Model {
        Model::new(Simulate { iops, bandwidth, parallel })
    }

    #[test]
    fn one_server_serves_one_after_the_other() {
        let mut model = model(Some(1000), None, 1);
        assert_eq!(model.finish(Nanos(0), 4096), Nanos(1_000_000));
        assert_eq!(model.finish(Nanos(0), 4096), Nanos(2_000_000));
        assert_eq!(model.finish(Nanos(5_000_000), 0), Nanos(6_000_000));
    }

    #[test]
    fn servers_work_side_by_side() {
        let mut model = model(Some(1000), None, 2);
        let finished: Vec<_> = (0..4).map(|_| model.finish(Nanos(0), 0).0 / 1_000_000).collect();
        assert_eq!(finished, [1, 1, 2, 2]);
    }

    #[test]
    fn bytes_and_requests_add_up() {
        let mut model = model(Some(1000), Some(1 << 20), 1);
        assert_eq!(model.finish(Nanos(0), 1 << 20), Nanos(1_001_000_000));
    }

    #[test]
    fn slower_in_anything_is_slower() {
        let so = |iops, bandwidth, parallel| Some(Simulate { iops, bandwidth, parallel });
        let (usual, none) = (so(Some(100), Some(1000), 4), None);
        for slower in [so(Some(99), Some(9999), 9), so(None, Some(999), 4), so(Some(100), None, 3)] {
            assert!(Simulate::slows(usual, slower), "{slower:?}");
            assert!(Simulate::slows(none, slower) && !Simulate::slows(slower, none), "{slower:?}");
        }
        for as_fast in [usual, none, so(Some(0), Some(0), 4), so(Some(101), Some(1000), 5)] {
            assert!(!Simulate::slows(usual, as_fast), "{as_fast:?}");
        }
        assert!(!Simulate::slows(none, none));
    }

    #[test]
    fn without_rates_nothing_takes_time() {
        let mut model = model(None, Some(0), 0);
        assert_eq!(model.finish(Nanos(7), u64::MAX), Nanos(7));
    }

    #[test]
    fn the_largest_numbers_saturate() {
        let mut model = model(Some(1), Some(1), u32::MAX);
        assert_eq!(model.finish(Nanos(u64::MAX - 1), u64::MAX), Nanos(u64::MAX));
        assert_eq!(model.finish(Nanos(u64::MAX), u64::MAX), Nanos(u64::MAX));
    }

    proptest! {
        /// However the rate divides a second, a backlogged model does exactly parallel * iops a second.
        #[test]
        fn a_backlog_is_served_at_exactly_the_rate(iops in 1u64..3000, parallel in 1u32..9, seconds in 1u64..4) {
            let mut model = model(Some(iops), None, parallel);
            let asked = iops * u64::from(parallel) * (seconds + 1);
            let limit = seconds * Nanos::SECOND.0;
            let served = (0..asked).filter(|_| model.finish(Nanos(0), 0).0 <= limit).count() as u64;
            prop_assert_eq!(served, iops * u64::from(parallel) * seconds);
        }

        /// A backlog of any sizes on one server ends when its bytes and requests say, within two roundings.
        #[test]
        fn sizes_do_not_drift(
            iops in 1u64..100_000,
            bandwidth in 1u64..10_000_000_000,
            sizes in prop::collection::vec(0u64..4_000_000, 1..200),
        ) {
            let mut model = model(Some(iops), Some(bandwidth), 1);
            let last = sizes.iter().fold(0, |_, bytes| model.finish(Nanos(0), *bytes).0);
            let requests = sizes.len() as u128 * 1_000_000_000 / u128::from(iops);
            let bytes = sizes.iter().map(|b| u128::from(*b)).sum::<u128>() * 1_000_000_000 / u128::from(bandwidth);
            prop_assert_eq!(u128::from(last), requests + bytes);
        }
    }
}
