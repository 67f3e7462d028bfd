//! What could grow without end does not: memory, places for requests, descriptors, the configuration, logs on a full disk.

mod full;
mod memory;
mod starved;

use crate::daemon::Vmdisk;
use libtest_mimic::Trial;
use nix::unistd::Pid;

/// Those that run beside others.
pub(crate) fn trials() -> Vec<Trial> {
    full::trials()
}

/// Those that keep the machine busy: to be run one after the other.
pub(crate) fn floods() -> Vec<Trial> {
    memory::trials().into_iter().chain(starved::trials()).collect()
}

/// The most memory that the process which serves a mount has had so far, in bytes.
fn peak(mount: &Vmdisk) -> u64 {
    status(mount, "VmHWM:")
}

/// What it has now.
fn memory(mount: &Vmdisk) -> u64 {
    status(mount, "VmRSS:")
}

fn status(mount: &Vmdisk, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker(mount))).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("of every process");
    line.trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

/// From now on the peak is counted anew.
fn forget_peak(mount: &Vmdisk) {
    std::fs::write(format!("/proc/{}/clear_refs", worker(mount)), "5").expect("root may");
}

/// The process that serves.
fn worker(mount: &Vmdisk) -> Pid {
    mount.worker().expect("it serves")
}

/// Requests of a group so far: reads and writes.
fn requests(mount: &Vmdisk, group: &str) -> u64 {
    let found = mount.groups().into_iter().find(|(id, _)| id == group);
    let [reads, _, _, writes, _, _] = found.unwrap_or_else(|| panic!("there is no group {group}")).1;
    reads + writes
}
