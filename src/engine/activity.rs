//! Somebody who does a thing now and then as long as there is work, and sleeps otherwise: an idle daemon wakes up nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Tells one sleeper that there is something to do.
#[derive(Debug, Default)]
pub struct Activity {
    /// It sleeps, and is to be told of the next visit.
    asleep: AtomicBool,
    wanted: Mutex<bool>,
    word: Condvar,
}

impl Activity {
    /// Somebody is at work. Costs a look while the sleeper is awake anyway.
    pub(super) fn note(&self) {
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            self.wake();
        }
    }

    /// Wakes the sleeper now.
    pub fn wake(&self) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.word.notify_one();
    }

    /// From now on the next visit wakes. Whoever sleeps looks once more after this, for what came before.
    pub fn fall_asleep(&self) {
        self.asleep.store(true, Ordering::Release);
    }

    /// Sleeps until it is woken, or for so long.
    pub fn sleep(&self, most: Option<Duration>) {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = match most {
            Some(most) => {
                let slept = self.word.wait_timeout_while(wanted, most, |wanted| !*wanted);
                slept.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.word.wait_while(wanted, |wanted| !*wanted).unwrap_or_else(PoisonError::into_inner),
        };
        *wanted = false;
    }
}
