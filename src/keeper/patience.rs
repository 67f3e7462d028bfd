//! How soon a dead worker is followed by the next one, and when that is given up.

use std::time::Duration;

/// A life that is shorter than this after the mount answered counts as none.
const LIFE: Duration = Duration::from_millis(100);
/// So many workers without a life in between, and there is something that kills them all: a request, a device, a library.
const MOST: u32 = 20;
/// The longest pause between two workers before it is given up.
const LONGEST: Duration = Duration::from_millis(100);
/// How long callers get errors then, before the next one is tried.
pub(super) const REST: Duration = Duration::from_secs(5);

/// What is to be done after a death.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Start another one after a while.
    Start(Duration),
    /// Answer everybody with an error, and try again after [`REST`].
    Refuse,
}

/// Counts deaths.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failures: u32,
}

impl Patience {
    /// A worker has ended; `lived` is for how long it had served, if it did.
    pub(super) fn after(&mut self, lived: Option<Duration>) -> Next {
        if lived.is_some_and(|lived| lived >= LIFE) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        match self.failures {
            // Mostly it was an accident, and callers wait.
            1 | 2 => Next::Start(Duration::ZERO),
            failures if failures > MOST => Next::Refuse,
            failures => Next::Start(LONGEST.min(Duration::from_millis(5 << (failures - 3).min(10)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accidents_are_followed_at_once_however_many() {
        let mut patience = Patience::default();
        for _ in 0..1000 {
            assert_eq!(patience.after(Some(LIFE)), Next::Start(Duration::ZERO));
        }
    }

    #[test]
    fn what_kills_every_worker_ends_in_refusal_after_a_few_seconds() {
        let mut patience = Patience::default();
        let mut waited = Duration::ZERO;
        let mut workers = 0;
        while let Next::Start(pause) = patience.after((workers % 2 == 0).then_some(LIFE / 2)) {
            waited += pause;
            workers += 1;
        }
        assert_eq!(workers, MOST);
        assert!(waited >= Duration::from_secs(1) && waited <= Duration::from_secs(5), "{waited:?}");
        // And goes on refusing, until one lives.
        assert_eq!(patience.after(None), Next::Refuse);
        assert_eq!(patience.after(Some(LIFE)), Next::Start(Duration::ZERO));
    }
}
