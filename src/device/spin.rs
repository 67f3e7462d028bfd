//! Whether to look for something to do a little before going to sleep.
//!
//! A processor that goes to sleep takes a while to wake up, in a virtual machine longer than a fast disk takes for a
//! request. So a thread with little to do looks a while, if lately that has been worth it: for the answer of the disk, and
//! for the next request of a caller who makes one after the other. As with the halt polling of KVM, it is given up when it
//! is in vain, and tried again later. Whoever else wants the processor meanwhile gets it.

use crate::clock::Clock;
use crate::units::Nanos;
use std::time::Duration;

/// Never longer than this: a disk or a caller that takes longer is not worth a processor.
const MOST: Nanos = Nanos(60_000);
/// With more calls in flight than this there is always something to do.
const FEW: u32 = 2;
/// After a turn in vain so many waits sleep at once, and twice as many after the next.
const FIRST_REST: u32 = 16;
const LONGEST_REST: u32 = 4096;

#[derive(Debug)]
pub(super) struct Spin {
    clock: Clock,
    /// Waits to come that sleep at once.
    rest: u32,
    /// How many those are after the next turn in vain.
    next_rest: u32,
}

/// One turn of looking.
pub(super) struct Turn {
    clock: Clock,
    until: Nanos,
}

impl Spin {
    pub(super) fn new() -> Self {
        Self { clock: Clock::start(), rest: 0, next_rest: FIRST_REST }
    }

    pub(super) fn is_worth_it(&mut self, in_flight: u32) -> bool {
        if in_flight > FEW {
            return false;
        }
        self.rest = self.rest.saturating_sub(1);
        self.rest == 0
    }

    pub(super) fn begin(&self, timeout: Option<Duration>) -> Turn {
        let most = timeout
            .map_or(MOST, |timeout| MOST.min(Nanos(timeout.as_nanos().try_into().unwrap_or(u64::MAX))));
        Turn { clock: self.clock, until: self.clock.now().after(most) }
    }

    pub(super) fn end(&mut self, successful: bool) {
        if successful {
            self.next_rest = FIRST_REST;
        } else {
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
        }
    }
}

impl Turn {
    /// False once it has been long enough.
    pub(super) fn goes_on(&mut self) -> bool {
        // Whoever else wants this processor is served first.
        std::thread::yield_now();
        self.clock.now() < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_in_vain_rests_longer_each_time() {
        let mut spin = Spin::new();
        assert!(spin.is_worth_it(0) && spin.is_worth_it(FEW) && !spin.is_worth_it(FEW + 1));
        let rests = (0..12).map(|_| {
            spin.end(false);
            1 + (0..).take_while(|_| !spin.is_worth_it(1)).count() as u32
        });
        let rests: Vec<_> = rests.collect();
        assert_eq!(rests[..3], [16, 32, 64]);
        assert_eq!(rests.last(), Some(&LONGEST_REST));
        spin.end(true);
        spin.end(false);
        assert_eq!(1 + (0..).take_while(|_| !spin.is_worth_it(1)).count(), 16);
    }
}
