//! How long a group stays active after its last completion (share rule R3).
//!
//! A synchronous caller has nothing queued between two requests. To the scheduler it must look like a caller that
//! is about to come back, not like one that left: its place is kept for a *grace* that follows how long it
//! usually thinks. A caller that thinks for long keeps no place, so an idle group holds nobody up.

use crate::units::Nanos;

/// A caller that usually thinks for longer than this is not waited for.
const PATIENCE: Nanos = Nanos::from_millis(4);
/// The shortest grace: below this it is timer noise.
const SHORTEST: Nanos = Nanos::from_micros(200);
/// Longer pauses say "it left", not "it thinks this long": they count as this much.
const LONGEST_SAMPLE: Nanos = Nanos::from_millis(64);

/// The think time of one group: a moving average over about eight pauses.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThinkTime {
    average: Nanos,
    /// Since when nothing is queued or in flight.
    idle_since: Option<Nanos>,
}

impl ThinkTime {
    /// A group is trusted to be quick until it shows otherwise.
    pub(super) fn new() -> Self {
        Self { average: SHORTEST, idle_since: None }
    }

    /// How long it usually thinks.
    pub(super) fn usual(&self) -> Nanos {
        self.average
    }

    /// The last outstanding request completed. Returns when the grace ends, if there is one.
    pub(super) fn pause(&mut self, now: Nanos) -> Option<Nanos> {
        self.idle_since = Some(now);
        let grace = Nanos(self.average.0.saturating_mul(2)).max(SHORTEST);
        (self.average <= PATIENCE).then(|| now.after(grace))
    }

    /// A request came.
    pub(super) fn resume(&mut self, now: Nanos) {
        if let Some(since) = self.idle_since.take() {
            let pause = now.since(since).min(LONGEST_SAMPLE).0;
            self.average = Nanos(self.average.0 - self.average.0 / 8 + pause / 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_pauses(pause: Nanos, count: u32) -> ThinkTime {
        let mut think = ThinkTime::new();
        let mut now = Nanos(0);
        for _ in 0..count {
            think.pause(now);
            now = now.after(pause);
            think.resume(now);
        }
        think
    }

    #[test]
    fn grace_follows_the_think_time() {
        let mut think = after_pauses(Nanos::from_millis(1), 50);
        let end = think.pause(Nanos(0)).expect("1 ms is worth waiting for");
        assert!(end > Nanos::from_millis(1) && end < Nanos::from_millis(3), "{end:?}");
    }

    #[test]
    fn a_slow_thinker_is_not_waited_for_and_can_become_quick_again() {
        let mut think = after_pauses(Nanos::from_millis(50), 50);
        assert_eq!(think.pause(Nanos(0)), None);
        think.resume(Nanos(0));
        let mut now = Nanos(0);
        for _ in 0..50 {
            think.pause(now);
            now = now.after(Nanos::from_micros(100));
            think.resume(now);
        }
        assert!(think.pause(now).is_some());
    }
}
