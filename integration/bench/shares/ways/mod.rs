//! The ways in which a disk can be shared, each measured with the same load generators.

pub(crate) mod bfq;
mod cgroup;
mod ioband;
mod mount;

use crate::generator::{Generator, Report};
use crate::interrupt::Interrupt;
use crate::programs::Programs;
use crate::sim::Scenario;
use anyhow::ensure;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is needed to measure anything.
pub(crate) struct Bench {
    pub(crate) interrupt: Interrupt,
    programs: Programs,
}

/// A way to share a disk.
pub(crate) enum Way {
    /// ioband as it comes.
    Ioband,
    /// The same mount, where everything passes at once.
    Uncontrolled,
    /// The kernel's BFQ.
    Bfq(bfq::Tuning),
}

impl Way {
    /// All of them, with BFQ in each of these tunings.
    pub(crate) fn all(tunings: &[bfq::Tuning]) -> Vec<Self> {
        let bfq = tunings.iter().cloned().map(Self::Bfq);
        [Self::Ioband, Self::Uncontrolled].into_iter().chain(bfq).collect()
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Ioband => "ioband".to_owned(),
            Self::Uncontrolled => "no control".to_owned(),
            Self::Bfq(tuning) => format!("BFQ {tuning}").trim_end().to_owned(),
        }
    }

    pub(crate) fn is_bfq(&self) -> bool {
        matches!(self, Self::Bfq(_))
    }

    /// Runs the scenario once; what each client got.
    pub(crate) fn measure(&self, bench: &Bench, scenario: &Scenario) -> anyhow::Result<Vec<Report>> {
        match self {
            Self::Ioband => ioband::measure(bench, scenario),
            Self::Uncontrolled => ioband::measure(bench, &scenario.uncontrolled()),
            Self::Bfq(tuning) => bfq::measure(bench, scenario, tuning),
        }
    }
}

/// Far longer than anything takes by itself.
const PATIENCE: Duration = Duration::from_secs(60);

impl Bench {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { interrupt: Interrupt::watch()?, programs: Programs::build()? })
    }

    /// A load generator that waits to be told what to do.
    fn load(&self) -> anyhow::Result<Generator> {
        Generator::spawn(&self.programs.load)
    }

    /// All at once, from the same moment; what each got.
    fn race(&self, loads: &mut [Generator], scenario: &Scenario) -> anyhow::Result<Vec<Report>> {
        let late = Instant::now() + Duration::from_secs_f64(scenario.seconds) + PATIENCE;
        loads.iter_mut().try_for_each(Generator::start)?;
        for load in &mut *loads {
            // Not by reading from it: that would not hear of Ctrl-C.
            while !load.has_ended()? {
                self.interrupt.check()?;
                ensure!(Instant::now() < late, "a load generator does not end");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        loads.iter_mut().map(Generator::report).collect()
    }

    /// Waits for something that comes about by itself, in vain at the most for [`PATIENCE`].
    fn wait_until(is_it: impl Fn() -> bool) -> bool {
        let late = Instant::now() + PATIENCE;
        while !is_it() && Instant::now() < late {
            std::thread::sleep(Duration::from_millis(10));
        }
        is_it()
    }
}

/// A setting of the kernel's.
fn write(path: &Path, value: &str) -> anyhow::Result<()> {
    use anyhow::Context;
    std::fs::write(path, value).with_context(|| format!("cannot write `{value}` to {}", path.display()))
}

/// The same, read.
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
