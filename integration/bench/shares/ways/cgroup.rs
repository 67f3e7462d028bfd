//! A cgroup with a BFQ weight for each client, removed whatever happens.

use super::{Bench, read, write};
use crate::sim::Scenario;
use anyhow::{Context, bail, ensure};
use std::path::{Path, PathBuf};

/// One group for all, with a group for each client below it.
pub(crate) struct Groups {
    path: PathBuf,
    hierarchy: Hierarchy,
}

/// Where a machine has weights for BFQ.
struct Hierarchy {
    mounted: PathBuf,
    /// The file in each group that holds its weight.
    weight: &'static str,
    /// Version 2: controllers are switched on for the groups below.
    unified: bool,
}

impl Hierarchy {
    fn find() -> anyhow::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").context("cannot see what is mounted")?;
        let mounts = mounts.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((PathBuf::from(words.next()?), words.next()?, words.next()?))
        });
        for (mounted, kind, options) in mounts {
            let controllers = read(&mounted.join("cgroup.controllers"));
            if kind == "cgroup2" && controllers.split(' ').any(|name| name == "io") {
                return Ok(Self { mounted, weight: "io.bfq.weight", unified: true });
            }
            if kind == "cgroup" && options.split(',').any(|name| name == "blkio") {
                return Ok(Self { mounted, weight: "blkio.bfq.weight", unified: false });
            }
        }
        bail!("this machine has neither cgroup v2 with `io` nor cgroup v1 with `blkio`")
    }
}

impl Groups {
    /// A group for each client, with its weight.
    pub(crate) fn new(scenario: &Scenario) -> anyhow::Result<Self> {
        let hierarchy = Hierarchy::find()?;
        let path = hierarchy.mounted.join(format!("ioband-shares-{}", std::process::id()));
        if hierarchy.unified {
            // Stays on: whoever has it on already must not lose it, and it costs nothing.
            write(&hierarchy.mounted.join("cgroup.subtree_control"), "+io")?;
        }
        std::fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        let groups = Self { path, hierarchy };
        if groups.hierarchy.unified {
            write(&groups.path.join("cgroup.subtree_control"), "+io")?;
        }
        for (number, client) in scenario.clients.iter().enumerate() {
            let group = groups.group(number);
            std::fs::create_dir(&group)
                .with_context(|| format!("cannot make the cgroup {}", group.display()))?;
            let weight = group.join(groups.hierarchy.weight);
            ensure!(weight.exists(), "this kernel's BFQ has no weights: no {}", weight.display());
            write(&weight, &client.weight.to_string())?;
        }
        Ok(groups)
    }

    fn group(&self, number: usize) -> PathBuf {
        self.path.join(number.to_string())
    }

    /// Puts a process, with all its threads, into a client's group.
    pub(crate) fn add(&self, number: usize, pid: u32) -> anyhow::Result<()> {
        write(&self.group(number).join("cgroup.procs"), &pid.to_string())
    }

    pub(crate) fn describe(&self) -> String {
        let version = if self.hierarchy.unified { 2 } else { 1 };
        format!("weights by {} of cgroup v{version}", self.hierarchy.weight)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let below = std::fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path());
        for group in below.filter(|path| path.is_dir()).chain([self.path.clone()]) {
            // The last process in it has ended, but the kernel may not have let go of it yet.
            let gone = |group: &Path| std::fs::remove_dir(group).is_ok() || !group.exists();
            if !Bench::wait_until(|| gone(&group)) {
                eprintln!("left behind: {}", group.display());
            }
        }
    }
}
