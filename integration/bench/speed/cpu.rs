//! How much processor time a daemon takes.

use anyhow::Context;
use nix::unistd::{SysconfVar, sysconf};
use std::time::{Duration, Instant};

/// The time that a process has taken at some moment, all its threads together, also those that have ended and those that
/// the kernel runs for its io_uring. What other threads of the kernel do for it, as those of the loop device, is not in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    at: Instant,
    taken: Duration,
}

impl Sample {
    pub(crate) fn take(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let ticks = ticks(&text).with_context(|| format!("{path} is not as proc(5) says"))?;
        let second = sysconf(SysconfVar::CLK_TCK)?.context("this system has no clock ticks")?;
        let taken = Duration::from_secs_f64(ticks as f64 / second as f64);
        Ok(Self { at: Instant::now(), taken })
    }

    /// Seconds of processor time a second, since an earlier sample.
    pub(crate) fn rate_since(&self, earlier: &Self) -> f64 {
        let taken = self.taken.saturating_sub(earlier.taken);
        taken.as_secs_f64() / (self.at - earlier.at).as_secs_f64()
    }
}

/// The sum of utime and stime in such a file.
fn ticks(stat: &str) -> Option<u64> {
    // The name, the second field, may have blanks and brackets in it. After it comes the third.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(14 - 3);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}
