//! A machine that does not have the memory which the mount was promised.

use super::memory::verify;
use crate::daemon::{Transport, Vmdisk, wait_until};
use crate::support::{Need, folder, trial};
use libtest_mimic::Trial;
use nix::unistd::Pid;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;
/// What there is: enough for a worker and some of the largest requests, but not for what the mount was promised.
const THERE: u64 = 48 * MIB;
const PROMISED: &str = "256MiB";

pub(super) fn trials() -> Vec<Trial> {
    let needs = [Transport::Dev.needs(), &[Need::Tool("fio"), Need::MemoryCgroup]].concat();
    let title = "bounds: on a machine without memory workers are ended, and no request";
    vec![trial(title, &needs, starved)]
}

/// Processes that have so much memory together.
struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    fn new(limit: u64) -> Self {
        let name = format!("ioband-test-{}", std::process::id());
        let (one, two) = (Path::new(Need::MEMORY_CGROUPS), Path::new("/sys/fs/cgroup"));
        let (at, key) = if one.exists() {
            (one.join(name), "memory.limit_in_bytes")
        } else {
            (two.join(name), "memory.max")
        };
        std::fs::create_dir(&at).expect("a cgroup");
        let group = Self(at);
        std::fs::write(group.0.join(key), limit.to_string()).expect("a limit");
        // What cannot be had must not come from a swap either.
        let _ = std::fs::write(group.0.join("memory.swap.max"), "0");
        group
    }

    fn add(&self, process: Pid) {
        std::fs::write(self.0.join("cgroup.procs"), process.to_string()).expect("it runs");
    }

    /// Processes that were ended for lack of memory.
    fn ended(&self) -> u64 {
        let read = |file: &str| std::fs::read_to_string(self.0.join(file));
        let text = read("memory.events").or_else(|_| read("memory.oom_control")).expect("of every group");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).expect("it is counted");
        line.parse().expect("a number")
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // The last of its processes may not be quite gone.
        for _ in 0..200 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        eprintln!("left behind: {}", self.0.display());
    }
}

/// Each worker is ended once enough large writes lie in it, and they come again to the next one, which begins with less: in the
/// end one lives, and all is written that was written.
fn starved() {
    let cgroup = MemoryCgroup::new(THERE);
    let config = "
devices: {d: {path: disk, size: 256MiB, simulate: {iops: 400}}}
images: {vm1.img: {device: d, offset: 0, size: 256MiB}}
";
    let mount = Vmdisk::mount_in(folder(), config, &Transport::Dev.and(&["--memory", PROMISED]));
    // As by a service manager: both, and whoever comes after them.
    cgroup.add(mount.pid());
    cgroup.add(mount.worker().expect("it serves"));
    let depth = ["--bs=1M", "--numjobs=2", "--size=128M", "--offset_increment=128M", "--iodepth=64"];
    verify(&mount.file("vm1.img"), &depth);
    println!("{} workers were ended", cgroup.ended());
    assert!(cgroup.ended() > 0, "there was memory for all");
    wait_until(
        || mount.control("events").contains("requests get"),
        || format!("nothing tells of it:\n{}", mount.control("events")),
    );
    assert!(mount.runs());
}
