//! On which processor a serving thread runs.
//!
//! A caller that has one request at a time sleeps while it is served. If the thread that serves runs on the processor of
//! the caller, nobody has to be woken up on another one, which is a fifth of the time of such a request. A caller with many
//! requests goes on making them meanwhile; then the thread had better be elsewhere, which the kernel's scheduler sees to.
//!
//! Requests that come by io_uring say on which processor their callers are. Of those that are read from /dev/fuse one could
//! ask, but callers do not stay there: with the thread that serves on it, the kernel wakes them up on another.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// With so many calls in flight on average, or fewer, callers have few requests at a time.
const LIGHT: u32 = 2;
/// With so many, or more, they have many.
const HEAVY: u32 = 6;
/// The average counts in parts of this, and is over about as many rounds.
const PARTS: u32 = 16;

/// Where a thread runs, and how busy it is.
#[derive(Debug)]
pub(super) struct Place {
    /// Where it may run.
    allowed: CpuSet,
    /// Where it is bound to.
    bound: Option<usize>,
    /// Calls in flight on average, in sixteenths.
    load: u32,
    heavy: bool,
}

impl Place {
    /// A thread that runs where the kernel likes.
    pub(super) fn new() -> Self {
        // Without knowing where it may run it stays where it is.
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        Self { allowed, bound: None, load: 0, heavy: false }
    }

    /// Whether callers have many requests at a time.
    pub(super) fn is_heavy(&self) -> bool {
        self.heavy
    }

    /// Notes a round with so many calls in flight. When it gets heavy the thread is not bound any more.
    pub(super) fn note(&mut self, in_flight: u32) {
        let in_flight = in_flight.min(1 << 16);
        self.load = self.load - self.load / PARTS + in_flight;
        if self.heavy {
            self.heavy = self.load > LIGHT * PARTS;
        } else if self.load >= HEAVY * PARTS {
            self.heavy = true;
            self.release();
        }
    }

    /// Binds a thread that is not busy to a processor, if it may run there.
    pub(super) fn bind(&mut self, processor: usize) {
        if self.heavy || self.bound == Some(processor) || !self.allowed.is_set(processor).unwrap_or(false) {
            return;
        }
        let mut only = CpuSet::new();
        if only.set(processor).is_ok() && sched_setaffinity(Pid::from_raw(0), &only).is_ok() {
            self.bound = Some(processor);
        }
    }

    fn release(&mut self) {
        if self.bound.take().is_some() {
            // It was allowed before. Refused, it stays bound, which is merely slower.
            let _ = sched_setaffinity(Pid::from_raw(0), &self.allowed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_bound_while_it_is_not_busy() {
        let mut place = Place::new();
        let here = (0..CpuSet::count()).find(|cpu| place.allowed.is_set(*cpu).unwrap()).unwrap();
        let bound_to = || {
            let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
            (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).collect::<Vec<_>>()
        };
        let before = bound_to();
        place.bind(here);
        assert_eq!(bound_to(), [here]);
        (0..100).for_each(|_| place.note(1));
        assert!(!place.is_heavy());
        (0..100).for_each(|_| place.note(32));
        assert!(place.is_heavy());
        assert_eq!(bound_to(), before);
        place.bind(here);
        assert_eq!(bound_to(), before, "not while it is busy");
        (0..100).for_each(|_| place.note(0));
        assert!(!place.is_heavy());
        place.bind(CpuSet::count() + 1);
        assert_eq!(bound_to(), before, "nor where it may not run");
        place.bind(here);
        assert_eq!(bound_to(), [here]);
    }
}
