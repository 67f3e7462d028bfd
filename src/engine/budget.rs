//! What the requests of a mount may take of memory: counted by all engines and by the transport together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// With a bound of less there would be no room for a few of the largest requests that are usual (1 MiB).
const LEAST: usize = 8 << 20;

/// Memory of requests, in bytes, and the bound that it is kept under.
///
/// Two things keep it there. Long before the bound the engines carry held writes out *ahead of their turn*, which gives
/// their memory back (see [`super`]); at the bound the transport takes no more requests in, as far as it has the choice.
#[derive(Debug)]
pub struct Budget {
    /// What it may be, and what it is for now.
    most: usize,
    bound: AtomicUsize,
    /// What was used of it and not given back. Sequentially consistent, as are `reads`: whoever finds no room says so and looks once
    /// more, and whoever gives some back looks afterwards whether somebody has said so; one of them must see the other.
    used: AtomicUsize,
    /// What is with the devices.
    in_flight: AtomicUsize,
    /// Of that, what is read, which is in use but not in `used`.
    reads: AtomicUsize,
}

impl Budget {
    /// With `bound` bytes, which should be several times what the largest request takes.
    pub fn new(bound: usize) -> Self {
        let [used, in_flight, reads] = Default::default();
        Self { most: bound, bound: bound.into(), used, in_flight, reads }
    }

    /// Bytes that it is kept under for now.
    pub fn bound(&self) -> usize {
        self.bound.load(Ordering::Relaxed)
    }

    /// Makes the bound half of what it may be, so many times over, but no less than 8 MiB; what it is then, in bytes.
    pub fn halve(&self, times: u32) -> usize {
        let bound = (self.most >> times.min(usize::BITS - 1)).max(self.most.min(LEAST));
        self.bound.store(bound, Ordering::Relaxed);
        bound
    }

    /// Makes the bound what it may be.
    pub fn restore(&self) {
        self.bound.store(self.most, Ordering::Relaxed);
    }

    /// Counts memory that is used from now on.
    pub fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Counts off what was given back.
    pub fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst).saturating_add(self.reads.load(Ordering::SeqCst))
    }

    /// No more is to be taken in.
    pub fn is_full(&self) -> bool {
        self.used() >= self.bound()
    }

    /// Memory is to be given back, even if `freed` bytes are on their way: there is less than a quarter left. With so much
    /// left, some come in while others are carried out.
    pub(super) fn is_tight(&self, freed: usize) -> bool {
        self.used().saturating_sub(freed) > self.bound() / 4 * 3
    }

    /// The engines want visits, so that they carry out what takes memory.
    pub fn wants_visits(&self) -> bool {
        self.is_tight(0)
    }

    /// A request of so many bytes goes to the device. A read takes its memory only now.
    pub(super) fn begin(&self, bytes: usize, read: bool) {
        self.in_flight.fetch_add(bytes, Ordering::Relaxed);
        if read {
            self.reads.fetch_add(bytes, Ordering::SeqCst);
        }
    }

    /// It comes back from there.
    pub(super) fn end(&self, bytes: usize, read: bool) {
        self.in_flight.fetch_sub(bytes, Ordering::Relaxed);
        if read {
            self.reads.fetch_sub(bytes, Ordering::SeqCst);
        }
    }

    /// What is with the devices takes half of it: if there were more, there would be no room for those who wait, and the
    /// kernel's line, in which nobody's weight counts, would never get shorter. Each disk may have an eighth all the same,
    /// of which `own` bytes are what it has: that others hang is nothing it has to wait for.
    pub(super) fn has_enough_in_flight(&self, own: usize) -> bool {
        let bound = self.bound();
        own >= bound / 8 && self.in_flight.load(Ordering::Relaxed) >= bound / 2
    }
}

impl Default for Budget {
    /// Without a bound.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_hangs_with_much_in_flight_is_in_nobodys_way() {
        let budget = Budget::new(256 << 20);
        budget.begin(100 << 20, false);
        assert!(!budget.has_enough_in_flight(100 << 20), "it is alone");
        budget.begin(28 << 20, false);
        assert!(budget.has_enough_in_flight(128 << 20));
        assert!(!budget.has_enough_in_flight(0) && !budget.has_enough_in_flight(31 << 20), "of another disk");
        assert!(budget.has_enough_in_flight(32 << 20));
    }

    #[test]
    fn it_is_halved_as_far_as_requests_need_it_and_restored() {
        let budget = Budget::new(256 << 20);
        assert_eq!(budget.halve(1), 128 << 20);
        assert_eq!(budget.halve(3), 32 << 20);
        budget.take(32 << 20);
        assert!(budget.is_full());
        assert_eq!(budget.halve(100), LEAST);
        budget.restore();
        assert!(!budget.is_full() && !budget.wants_visits());
        // What was less from the first stays what it was.
        assert_eq!(Budget::new(LEAST / 2).halve(3), LEAST / 2);
    }
}
