//! Virtual time: how far each group has come, in tokens per unit of weight.
//!
//! One token moves a group of weight `w` by `SCALE / w`. The division leaves a remainder, which the group
//! carries to its next request, so that long-run shares are exact whatever the weights (share rule R1:
//! "fractions are carried").

use crate::units::Weight;

/// A point in virtual time, in `1 / SCALE` tokens per unit of weight.
///
/// The fastest it can grow is one group of weight 1 at, say, 2^32 tokens a second: 2^52 a second. 128 bits last
/// for 2^76 seconds, so additions need no check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct VTime(pub(super) u128);

/// Units of virtual time in one token at weight 1. Above the largest weight, so that every request moves a tag.
const SCALE: u64 = 1 << 20;
const _: () = assert!(SCALE > Weight::MAX as u64);

impl VTime {
    pub(super) fn plus(self, span: u64) -> VTime {
        VTime(self.0 + u128::from(span))
    }

    /// So much later, or earlier for a span below zero.
    pub(super) fn moved(self, span: i128) -> VTime {
        VTime(self.0.saturating_add_signed(span))
    }

    pub(super) fn minus(self, span: u64) -> VTime {
        VTime(self.0.saturating_sub(u128::from(span)))
    }

    /// How far `self` is ahead of `other`, below zero if it is behind. Both are below 2^127.
    pub(super) fn lead_over(self, other: VTime) -> i128 {
        self.0 as i128 - other.0 as i128
    }

    /// How far `self` is ahead of `other`; 0 when it is not. Saturates, which no bounded lead reaches.
    pub(super) fn ahead_of(self, other: VTime) -> u64 {
        u64::try_from(self.0.saturating_sub(other.0)).unwrap_or(u64::MAX)
    }
}

/// `tokens / weight` in virtual time, with what the division left over kept for the next time.
///
/// `tokens` is below 2^32 and `SCALE` is 2^20, so the product stays below 2^52 and the sum below 2^53 (the
/// remainder is below the total weight, and 2^17 groups of the largest weight are below 2^32).
pub(super) fn span(tokens: u32, weight: u64, remainder: &mut u64) -> u64 {
    let units = u64::from(tokens) * SCALE + *remainder;
    *remainder = units % weight;
    units / weight
}

/// The same without carrying: for looking ahead.
pub(super) fn span_hint(tokens: u32, weight: u64, remainder: u64) -> u64 {
    (u64::from(tokens) * SCALE + remainder) / weight
}

/// Tokens in a span of virtual time for a group of `weight`, rounded down; the inverse of [`span`].
pub(super) fn tokens(span: u64, weight: u64) -> u64 {
    u64::try_from(u128::from(span) * u128::from(weight) / u128::from(SCALE)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_make_long_runs_exact() {
        for weight in [1, 3, 7, 100, 32767] {
            let mut remainder = 0;
            let total: u64 = (0..weight).map(|_| span(1, weight, &mut remainder)).sum();
            assert_eq!((total, remainder), (SCALE, 0), "weight {weight}");
        }
    }

    #[test]
    fn tokens_undo_spans() {
        assert_eq!(tokens(span(640, 80, &mut 0), 80), 640);
        assert_eq!(tokens(0, 80), 0);
    }
}
