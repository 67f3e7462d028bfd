//! The load: fio, with the same command line for all ways but for the name of the file.

use crate::cells::Cell;
use crate::child::Program;
use crate::cpu::Sample;
use crate::disk::SIZE;
use crate::interrupt::Interrupt;
use crate::patience::{LOOK, PATIENCE};
use crate::results::Figures;
use anyhow::{Context, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Seconds that are not counted, in which ioband finds out how many requests the disk can use at once.
pub(crate) const RAMP: u32 = 2;
/// Longer than fio takes until its first request.
const START: Duration = Duration::from_millis(700);

/// How a load is made.
pub(crate) struct Load<'a> {
    /// Counted in each run.
    pub(crate) seconds: u32,
    /// The users of the cells with several jobs; everything is root's otherwise.
    pub(crate) users: Option<[u32; 2]>,
    pub(crate) interrupt: &'a Interrupt,
}

impl Load<'_> {
    /// Runs one cell on a file. `daemon` is who serves it.
    pub(crate) fn run(&self, cell: &Cell, file: &Path, daemon: Option<u32>) -> anyhow::Result<Figures> {
        let folder = tempfile::Builder::new().prefix("ioband-speed-fio-").tempdir()?;
        let report = folder.path().join("report");
        let mut fio = Program::start(&mut self.command(cell, file, &report))?;
        let start = Instant::now();
        let after = |seconds: u32| start + Duration::from_secs(seconds.into());
        // Between these it is certainly under way, whenever exactly it began. What it counts itself, and when, cannot be
        // had from it to the point; so this is the processor time of a second, and its rate that of its requests.
        let (first, last) = (after(RAMP) + START, after(RAMP + self.seconds));
        let late = last + PATIENCE;
        let (mut before, mut behind) = (None, None);
        let status = loop {
            let ended = fio.ended()?;
            if let Some(status) = ended {
                break status;
            }
            self.interrupt.check()?;
            let now = Instant::now();
            ensure!(now < late, "fio does not end");
            for (sample, when) in [(&mut before, first), (&mut behind, last)] {
                if let (None, Some(pid), true) = (&sample, daemon, now >= when) {
                    *sample = Some(Sample::take(pid)?);
                }
            }
            std::thread::sleep(LOOK);
        };
        // A signal ends fio as well, and in good order.
        self.interrupt.check()?;
        ensure!(status.success(), "fio: {status}: {}", fio.complaint());
        let text = std::fs::read_to_string(&report).context("cannot read fio's report")?;
        let mut figures = parse(&text, cell).with_context(|| format!("fio reports {text:?}"))?;
        figures.cpu_us = before.zip(behind).map(|(a, b)| 1e6 * b.rate_since(&a) / figures.iops);
        Ok(figures)
    }

    fn command(&self, cell: &Cell, file: &Path, report: &Path) -> Command {
        let mut fio = Command::new("fio");
        fio.arg("--output-format=json").arg(format!("--output={}", report.display()));
        fio.arg("--name=global").arg(format!("--filename={}", file.display()));
        // A mount that is gone must not become a file.
        fio.args(["--allow_file_create=0", "--direct=1", "--time_based", "--group_reporting"]);
        // Latencies from the call on: where a daemon does not take asynchronous I/O, all of the wait is in the call.
        fio.args(["--norandommap", "--clat_percentiles=0", "--lat_percentiles=1", "--percentile_list=99"]);
        fio.arg(format!("--size={SIZE}"))
            .arg(format!("--rw={}", cell.rw))
            .arg(format!("--bs={}", cell.block));
        fio.arg(format!("--ioengine={}", cell.engine)).arg(format!("--iodepth={}", cell.depth));
        fio.arg(format!("--runtime={}", self.seconds)).arg(format!("--ramp_time={RAMP}"));
        match self.users.filter(|_| cell.has_many_jobs()) {
            Some(users) => {
                for user in users {
                    fio.arg(format!("--name={user}")).arg(format!("--uid={user}"));
                    fio.arg(format!("--numjobs={}", cell.jobs / 2));
                }
            }
            None => {
                fio.arg("--name=load").arg(format!("--numjobs={}", cell.jobs));
            }
        }
        fio
    }
}

/// What is of interest in fio's report.
#[derive(Deserialize)]
struct Report {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i64,
    read: Side,
    write: Side,
}

#[derive(Deserialize)]
struct Side {
    iops: f64,
    bw_bytes: f64,
    lat_ns: Latency,
}

#[derive(Deserialize)]
struct Latency {
    mean: f64,
    #[serde(default)]
    percentile: BTreeMap<String, f64>,
}

fn parse(text: &str, cell: &Cell) -> anyhow::Result<Figures> {
    // Words may come before it.
    let json = &text[text.find('{').context("there is no JSON in it")?..];
    // JSON is YAML.
    let report: Report = serde_yaml::from_str(json)?;
    let [job] = <[Job; 1]>::try_from(report.jobs).ok().context("there is not one group of jobs in it")?;
    ensure!(job.error == 0, "error {}", job.error);
    let side = if cell.writes() { job.write } else { job.read };
    ensure!(side.iops > 0.0, "no request came through");
    let p99 = side.lat_ns.percentile.values().next().context("there is no percentile in it")?;
    Ok(Figures {
        iops: side.iops,
        mib_s: side.bw_bytes / f64::from(1 << 20),
        mean_us: side.lat_ns.mean / 1e3,
        p99_us: p99 / 1e3,
        cpu_us: None,
    })
}
