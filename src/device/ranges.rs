//! The range lock: a read-modify-write and any other change of the same blocks exclude each other.
//!
//! A write that covers only part of a block reads the block, changes it and writes it back. Another write to
//! that block in between would be lost, so the two take turns, in the order in which they came. Changes of
//! whole blocks need no turns among themselves, and as long as there is no read-modify-write (the usual case)
//! none of them looks at any other.

use slab::Slab;
use std::collections::VecDeque;

/// What one change of a target touches, in whole blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// Which target: equal for equal targets.
    pub(super) target: usize,
    /// First byte.
    pub(super) start: u64,
    /// First byte after it.
    pub(super) end: u64,
    /// It reads what it writes back, so nobody else may change it meanwhile.
    pub(super) exclusive: bool,
}

impl Claim {
    fn excludes(&self, other: &Claim) -> bool {
        (self.exclusive || other.exclusive)
            && self.target == other.target
            && self.start < other.end
            && other.start < self.end
    }
}

/// A claim that is held; given back with [`Ranges::release`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held(usize);

/// All claims that are held or waited for. `owner` is a name that the caller gives and gets back.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    held: Slab<Claim>,
    waiting: VecDeque<(usize, Claim)>,
    /// Exclusive claims, held and waiting: while there are none, nothing can conflict.
    exclusive: usize,
}

impl Ranges {
    /// Takes the claim, or queues it behind what it conflicts with: then [`Ranges::release`] names `owner` later.
    pub(super) fn acquire(&mut self, owner: usize, claim: Claim) -> Option<Held> {
        self.exclusive += usize::from(claim.exclusive);
        // A conflict with somebody who waits counts too: that is what makes it first come, first served.
        if self.exclusive > 0
            && (self.held.iter().any(|(_, held)| held.excludes(&claim))
                || self.waiting.iter().any(|(_, waiting)| waiting.excludes(&claim)))
        {
            self.waiting.push_back((owner, claim));
            return None;
        }
        Some(Held(self.held.insert(claim)))
    }

    /// Gives a claim back; those who may start now are added to `granted`, in the order in which they came.
    pub(super) fn release(&mut self, held: Held, granted: &mut Vec<(usize, Held)>) {
        let Some(released) = self.held.try_remove(held.0) else { return };
        self.exclusive -= usize::from(released.exclusive);
        let mut at = 0;
        while let Some((owner, claim)) = self.waiting.get(at).copied() {
            // Only who waited for the released claim can have become free.
            let free = released.excludes(&claim)
                && !self.held.iter().any(|(_, held)| held.excludes(&claim))
                && !self.waiting.iter().take(at).any(|(_, earlier)| earlier.excludes(&claim));
            if free {
                self.waiting.remove(at);
                granted.push((owner, Held(self.held.insert(claim))));
            } else {
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(start: u64, end: u64, exclusive: bool) -> Claim {
        Claim { target: 1, start, end, exclusive }
    }

    fn release(ranges: &mut Ranges, held: Held) -> Vec<(usize, Held)> {
        let mut granted = Vec::new();
        ranges.release(held, &mut granted);
        granted
    }

    #[test]
    fn whole_blocks_never_wait_for_each_other() {
        let mut ranges = Ranges::default();
        assert!(ranges.acquire(1, claim(0, 8, false)).is_some());
        assert!(ranges.acquire(2, claim(4, 12, false)).is_some());
    }

    #[test]
    fn another_target_or_another_block_is_no_conflict() {
        let mut ranges = Ranges::default();
        assert!(ranges.acquire(1, claim(0, 8, true)).is_some());
        assert!(ranges.acquire(2, claim(8, 16, true)).is_some());
        assert!(ranges.acquire(3, Claim { target: 2, ..claim(0, 8, true) }).is_some());
    }

    #[test]
    fn conflicting_claims_come_in_order_and_nobody_overtakes() {
        let mut ranges = Ranges::default();
        let first = ranges.acquire(1, claim(0, 8, false)).unwrap();
        assert!(ranges.acquire(2, claim(0, 16, true)).is_none());
        // Free by what is held, but it would overtake 2.
        assert!(ranges.acquire(3, claim(8, 16, false)).is_none());
        let mut granted = release(&mut ranges, first);
        assert_eq!(granted.len(), 1);
        let (owner, second) = granted.remove(0);
        assert_eq!(owner, 2);
        assert_eq!(release(&mut ranges, second).into_iter().map(|(o, _)| o).collect::<Vec<_>>(), [3]);
        assert_eq!(ranges.exclusive, 0);
    }

    proptest! {
        /// Never two conflicting claims at once, conflicting ones in order, and everybody gets a turn.
        #[test]
        fn every_claim_gets_its_turn(
            claims in prop::collection::vec((0u64..20, 1u64..8, any::<bool>()), 1..60),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let claims: Vec<_> = claims.into_iter().map(|(s, l, x)| claim(s, s + l, x)).collect();
            let mut ranges = Ranges::default();
            let mut running: Vec<(usize, Held)> = Vec::new();
            let mut started = Vec::new();
            for (owner, claim) in claims.iter().enumerate() {
                if let Some(held) = ranges.acquire(owner, *claim) {
                    started.push(owner);
                    running.push((owner, held));
                }
            }
            for pick in picks {
                for (i, (a, _)) in running.iter().enumerate() {
                    for (b, _) in &running[i + 1..] {
                        prop_assert!(!claims[*a].excludes(&claims[*b]));
                    }
                }
                if running.is_empty() { break }
                let (_, held) = running.swap_remove(pick.index(running.len()));
                let granted = release(&mut ranges, held);
                started.extend(granted.iter().map(|(owner, _)| *owner));
                running.extend(granted);
            }
            prop_assert_eq!(started.len(), claims.len());
            for (i, a) in started.iter().enumerate() {
                for b in &started[i + 1..] {
                    prop_assert!(a < b || !claims[*a].excludes(&claims[*b]));
                }
            }
            prop_assert_eq!(ranges.exclusive, 0);
        }
    }
}
