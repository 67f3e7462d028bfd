//! The only place that reads time.
#![forbid(unsafe_code)]

use crate::units::Nanos;
use std::time::{Instant, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A monotonic clock whose zero is the moment it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Nanoseconds since the start; exact for 584 years.
    pub fn now(&self) -> Nanos {
        Nanos(self.start.elapsed().as_nanos() as u64)
    }
}

/// The time of day, for time stamps of files.
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The time of day in microseconds since 1970, as several processes have it in common.
pub fn wall_micros() -> u64 {
    let since = wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The time of day in UTC to the second, as people and log tools read it: `2026-11-22T06:00:00Z`.
pub fn wall_text() -> String {
    let now = OffsetDateTime::from(wall());
    let second = now.replace_nanosecond(0).unwrap_or(now);
    second.format(&Rfc3339).unwrap_or_else(|_| second.unix_timestamp().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_text_is_utc_to_the_second() {
        let text = wall_text();
        assert_eq!((text.len(), text.ends_with('Z')), (20, true), "{text}");
    }
}
