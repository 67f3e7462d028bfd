//! The kernel's BFQ, with weights by cgroup, on a block device that is the same simulated disk: a loop device on the only
//! image of an ioband mount that lets everything pass.

use super::cgroup::Groups;
use super::mount::Mount;
use super::{Bench, read, write};
use crate::generator::Report;
use crate::programs::run;
use crate::sim::Scenario;
use crate::sim::real::{Images, Real};
use anyhow::{Context, ensure};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

/// Settings of BFQ that are not as they come: files in /sys/block/DISK/queue/iosched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tuning(Vec<(String, String)>);

/// BFQ as it comes; without its help for interactive programs, which shifts shares; and with budgets (in sectors) of as
/// many requests as the clients have outstanding and a shorter wait for the next request. The last was the best of some
/// twenty that were tried on the disk of these scenarios: smaller budgets serve readers sooner and floods later.
const USUAL: [&str; 3] = ["", "low_latency=0", "low_latency=0,max_budget=128,slice_idle_us=1000"];

/// Those, and further ones.
pub(crate) fn tunings(further: &[Tuning]) -> Vec<Tuning> {
    let usual = USUAL.iter().map(|text| text.parse().expect("these are well formed"));
    usual.chain(further.iter().cloned()).collect()
}

impl FromStr for Tuning {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let pairs = text.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').with_context(|| format!("`{pair}` is no KEY=VALUE"))?;
            let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            ensure!(plain, "`{key}` is no setting of BFQ's");
            Ok((key.to_owned(), value.to_owned()))
        });
        Ok(Self(pairs.collect::<anyhow::Result<_>>()?))
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<_> = self.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
        f.write_str(&pairs.join(" "))
    }
}

/// Sets everything up once and takes it down: what is used, or what this machine lacks.
pub(crate) fn try_it(bench: &Bench, tunings: &[Tuning]) -> anyhow::Result<String> {
    let scenario = Scenario::parse(
        "{about: '', seconds: 1, device: {servers: {parallel: 1, service_us: 500}},
          clients: [{name: a, weight: 100, depth: 1}]}",
    )?;
    let real = Real::new(&scenario.uncontrolled(), Images::Shared)?;
    let mount = Mount::new(&bench.programs, &real.config, &[])?;
    let disk = Loop::attach(&mount.file("disk.img"))?;
    tunings.iter().try_for_each(|tuning| disk.schedule(tuning))?;
    let groups = Groups::new(&scenario)?;
    Ok(format!("on {}; {}", disk.describe(), groups.describe()))
}

pub(crate) fn measure(bench: &Bench, scenario: &Scenario, tuning: &Tuning) -> anyhow::Result<Vec<Report>> {
    let real = Real::new(&scenario.uncontrolled(), Images::Shared)?;
    let mount = Mount::new(&bench.programs, &real.config, &[])?;
    let disk = Loop::attach(&mount.file("disk.img"))?;
    disk.schedule(tuning)?;
    let groups = Groups::new(scenario)?;
    let mut loads = Vec::new();
    for (number, client) in real.clients.iter().enumerate() {
        let mut load = bench.load()?;
        groups.add(number, load.pid())?;
        load.open(&disk.path, &client.args)?;
        loads.push(load);
    }
    bench.race(&mut loads, scenario)
}

/// A loop device, left as it was found whatever happens.
struct Loop {
    path: PathBuf,
    /// Its folder in /sys.
    sys: PathBuf,
    /// The scheduler that it had.
    before: Option<String>,
}

impl Loop {
    fn attach(file: &Path) -> anyhow::Result<Self> {
        // With direct I/O its requests are under way side by side; without they would go through the page cache.
        let mut losetup = Command::new("losetup");
        let path = run(losetup.args(["--find", "--show", "--direct-io=on"]).arg(file))?;
        let sys = Path::new("/sys/block").join(path.trim_start_matches("/dev/"));
        let mut disk = Self { path: path.into(), sys, before: None };
        disk.before = disk.scheduler();
        ensure!(read(&disk.sys.join("loop/dio")) == "1", "{} does no direct I/O", disk.path.display());
        Ok(disk)
    }

    fn queue(&self, setting: &str) -> PathBuf {
        self.sys.join("queue").join(setting)
    }

    /// The one in force: `none mq-deadline [bfq]`.
    fn scheduler(&self) -> Option<String> {
        let all = read(&self.queue("scheduler"));
        Some(all.split_once('[')?.1.split_once(']')?.0.to_owned())
    }

    fn schedule(&self, tuning: &Tuning) -> anyhow::Result<()> {
        // Away and back, so that its settings are as they come.
        write(&self.queue("scheduler"), "none")?;
        write(&self.queue("scheduler"), "bfq").context("there is no BFQ in this kernel")?;
        ensure!(self.scheduler().as_deref() == Some("bfq"), "there is no BFQ in this kernel");
        tuning.0.iter().try_for_each(|(key, value)| {
            let setting = self.queue("iosched").join(key);
            ensure!(setting.exists(), "BFQ has no setting `{key}`");
            write(&setting, value)
        })
    }

    fn describe(&self) -> String {
        format!(
            "a loop device (direct I/O, blocks of {}, nr_requests {}) over the image of an ioband mount without control",
            read(&self.queue("logical_block_size")),
            read(&self.queue("nr_requests")),
        )
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let restored = self.before.iter().try_for_each(|name| write(&self.queue("scheduler"), name));
        let detached = run(Command::new("losetup").arg("--detach").arg(&self.path)).map(drop);
        for error in [restored, detached].into_iter().filter_map(Result::err) {
            eprintln!("left behind: {error:#}");
        }
        // If somebody looks into it just now it goes when he is done, and the mount below it only then.
        Bench::wait_until(|| !self.sys.join("loop").exists());
    }
}
