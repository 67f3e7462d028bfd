//! A device that fails as one asks for: to see what becomes of those who use it.
//!
//! Each rule says which requests it is for, which of those it takes, and what goes wrong with them. Nothing is left to chance
//! that cannot be had again: with a seed, the same requests meet the same faults.

use super::queue::Op;
use crate::units::Nanos;
use std::ops::Range;

/// What goes wrong with a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// With this kind of request only.
    pub op: Option<FaultOp>,
    /// With what touches this range of the device only, in bytes.
    pub range: Option<Range<u64>>,
    /// With each so manieth of them; 1 (or 0) = with all.
    pub every: u64,
    /// With one of `every` at random, instead of in turn; the same seed gives the same ones.
    pub seed: Option<u64>,
    /// It fails with this errno, and nothing is done.
    pub error: Option<i32>,
    /// The device does only a part of it at first.
    pub short: bool,
    /// Its answer comes so much later.
    pub stall: Option<Nanos>,
}

/// Kinds of requests that may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultOp {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flushes.
    Flush,
    /// Discards and write-zeroes.
    Discard,
}

impl FaultOp {
    fn is_of(self, op: Op) -> bool {
        let kind = match op {
            Op::Read => Self::Read,
            Op::Write => Self::Write,
            Op::Flush => Self::Flush,
            Op::Discard | Op::WriteZeroes => Self::Discard,
        };
        self == kind
    }
}

/// What is to go wrong with one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Injected {
    pub(super) error: Option<i32>,
    pub(super) short: bool,
    pub(super) stall: Option<Nanos>,
}

/// Deals the faults out.
#[derive(Debug)]
pub(super) struct Injector {
    faults: Faults,
    /// For each of them: how many requests it has been for; or, with a seed, where its random numbers are.
    states: Vec<u64>,
}

impl Injector {
    pub(super) fn new(faults: Faults) -> Self {
        let states = faults.0.iter().map(|fault| fault.seed.unwrap_or(0)).collect();
        Self { faults, states }
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What goes wrong with the next request. All rules that take it come together: the first error, the longest stall.
    pub(super) fn next(&mut self, op: Op, offset: u64, len: u64) -> Injected {
        let mut all = Injected::default();
        for (fault, state) in self.faults.0.iter().zip(&mut self.states) {
            // A flush is of the whole device.
            let touches = |range: &Range<u64>| {
                op == Op::Flush || offset < range.end && range.start < offset.saturating_add(len)
            };
            let meant =
                fault.op.is_none_or(|kind| kind.is_of(op)) && fault.range.as_ref().is_none_or(touches);
            if meant && takes(fault, state) {
                all.error = all.error.or(fault.error);
                all.short |= fault.short;
                all.stall = all.stall.max(fault.stall);
            }
        }
        all
    }
}

/// Whether a rule takes the next of the requests that it is for.
fn takes(fault: &Fault, state: &mut u64) -> bool {
    let every = fault.every.max(1);
    if fault.seed.is_some() {
        return random(state).is_multiple_of(every);
    }
    *state = (*state + 1) % every;
    *state == 0
}

/// SplitMix64: good from any seed on.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: Fault = Fault {
        op: None,
        range: None,
        every: 1,
        seed: None,
        error: Some(libc::EIO),
        short: false,
        stall: None,
    };

    /// Which of so many reads of a sector each, one after the other, go wrong.
    fn failing(fault: Fault, reads: u64) -> Vec<u64> {
        let mut injector = Injector::new(Faults(vec![fault]));
        (0..reads).filter(|read| injector.next(Op::Read, read * 512, 512).error.is_some()).collect()
    }

    #[test]
    fn in_turn_or_at_random_but_the_same_again() {
        assert_eq!(failing(Fault { every: 4, ..ERROR }, 13), [3, 7, 11]);
        assert_eq!(failing(ERROR, 3), [0, 1, 2]);
        let seeded = |seed| failing(Fault { every: 10, seed: Some(seed), ..ERROR }, 10_000);
        let some = seeded(7);
        assert!((900..1100).contains(&some.len()), "{}", some.len());
        assert_eq!(some, seeded(7));
        assert_ne!(some, seeded(8));
    }

    #[test]
    fn only_with_what_it_is_for() {
        assert_eq!(failing(Fault { range: Some(1000..1025), ..ERROR }, 9), [1, 2]);
        let mut injector = Injector::new(Faults(vec![
            Fault { op: Some(FaultOp::Write), error: Some(libc::ENOSPC), ..ERROR },
            Fault { op: Some(FaultOp::Discard), error: None, stall: Some(Nanos(5)), ..ERROR },
            Fault { error: None, stall: Some(Nanos(3)), short: true, ..ERROR },
        ]));
        let with = |error, stall| Injected { error, short: true, stall: Some(Nanos(stall)) };
        assert_eq!(injector.next(Op::Read, 0, 512), with(None, 3));
        assert_eq!(injector.next(Op::Write, 0, 512), with(Some(libc::ENOSPC), 3));
        assert_eq!(injector.next(Op::WriteZeroes, 0, 512), with(None, 5));
        let mut injector = Injector::new(Faults(vec![Fault { range: Some(512..1024), ..ERROR }]));
        assert_eq!(injector.next(Op::Flush, 0, 0).error, Some(libc::EIO));
    }
}
