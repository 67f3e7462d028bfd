//! How soon a dead worker is followed by the next one, and when that is given up.

use std::time::Duration;

/// A life that is shorter than this after the mount answered counts as none. After a longer one those before it are forgotten.
const LIFE: Duration = Duration::from_millis(100);
/// So many deaths in a row, and there is something that kills every worker: a request, a device, a library, a machine without
/// memory.
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
    deaths: u32,
    /// How much of it is used up, in deaths.
    used: u32,
}

impl Patience {
    /// A worker has ended; `lived` is for how long it had served, if it did.
    pub(super) fn after(&mut self, lived: Option<Duration>) -> Next {
        self.forget_after(lived);
        self.deaths = (self.deaths + 1).min(MOST + 1);
        self.used = (self.used + 1).min(MOST + 1);
        match self.used {
            // Mostly it was an accident, and callers wait.
            1 | 2 => Next::Start(Duration::ZERO),
            used if used > MOST => Next::Refuse,
            used => Next::Start(LONGEST.min(Duration::from_millis(5 << (used - 3)))),
        }
    }

    /// A worker has served for so long, and no longer does, which need not be a death: deaths before it are of the past.
    pub(super) fn forget_after(&mut self, lived: Option<Duration>) {
        if lived.is_some_and(|lived| lived >= LIFE) {
            *self = Self::default();
        }
    }

    /// A worker that was to serve did nothing for as long as all may take that die one after the other.
    pub(super) fn spend(&mut self) {
        self.used = MOST;
    }

    /// Deaths in a row.
    pub(super) fn deaths(&self) -> u32 {
        self.deaths
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
        // Before it serves, or after a while that is too short for anything.
        for lived in [None, Some(LIFE / 2), Some(LIFE - Duration::from_millis(1))] {
            let mut patience = Patience::default();
            let mut waited = Duration::ZERO;
            let mut workers = 0;
            while let Next::Start(pause) = patience.after(lived) {
                waited += pause + lived.unwrap_or_default();
                workers += 1;
            }
            assert_eq!((workers, patience.deaths()), (MOST, MOST + 1));
            assert!(waited >= Duration::from_secs(1) && waited <= Duration::from_secs(5), "{waited:?}");
            // And goes on refusing, until one lives.
            assert_eq!(patience.after(lived), Next::Refuse);
            assert_eq!(patience.after(Some(LIFE)), Next::Start(Duration::ZERO));
        }
    }

    #[test]
    fn one_that_hangs_is_followed_by_refusal_and_then_by_another_one() {
        let mut patience = Patience::default();
        patience.spend();
        assert_eq!(patience.after(None), Next::Refuse);
        // Of that nobody has died: memory is not what it wants for.
        assert_eq!(patience.deaths(), 1);
        assert_eq!(patience.after(Some(LIFE * MOST)), Next::Start(Duration::ZERO));
    }

    #[test]
    fn whoever_leaves_after_a_life_leaves_no_deaths_behind() {
        let mut patience = Patience::default();
        while patience.after(None) != Next::Refuse {}
        patience.forget_after(Some(LIFE / 2));
        assert_eq!(patience.deaths(), MOST + 1);
        patience.forget_after(Some(LIFE));
        assert_eq!((patience.deaths(), patience.after(None)), (0, Next::Start(Duration::ZERO)));
    }
}
