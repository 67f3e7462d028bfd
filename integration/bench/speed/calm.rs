//! Whether the machine does something else meanwhile, which no median makes up for.

use anyhow::Context;
use std::time::Duration;

/// How long is looked, when nothing of ours is running.
const LOOK: Duration = Duration::from_millis(150);
/// The part of all processors that others may use.
const LITTLE: f64 = 0.2;

/// How often it did.
#[derive(Default)]
pub(crate) struct Calm {
    looks: u32,
    busy: u32,
}

impl Calm {
    pub(crate) fn look(&mut self) -> anyhow::Result<()> {
        let before = Times::now()?;
        std::thread::sleep(LOOK);
        let after = Times::now()?;
        let (idle, all) = (after.idle.saturating_sub(before.idle), after.all.saturating_sub(before.all));
        self.looks += 1;
        if (idle as f64) < (1.0 - LITTLE) * all as f64 {
            self.busy += 1;
        }
        Ok(())
    }

    pub(crate) fn describe(&self) -> String {
        let Self { looks, busy } = self;
        format!("before {busy} of {looks} runs the machine was busy with something else")
    }
}

/// What the processors did since the start, all together, in clock ticks.
struct Times {
    idle: u64,
    all: u64,
}

impl Times {
    fn now() -> anyhow::Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let line = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
        let line = line.context("/proc/stat is not as proc(5) says")?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is in the first two already.
        let ticks = line.split_whitespace().take(8).map(str::parse);
        let ticks: Vec<u64> = ticks.collect::<Result<_, _>>().context("/proc/stat is not as proc(5) says")?;
        Ok(Self { idle: ticks.iter().skip(3).take(2).sum(), all: ticks.iter().sum() })
    }
}
