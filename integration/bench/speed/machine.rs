//! The machine and the programs, without which the figures say nothing.

use crate::disk::Disk;
use crate::fio::RAMP;
use anyhow::{Context, bail};
use std::fs;
use std::io::ErrorKind;
use std::process::Command;

/// What a program says its version is, in one line; where it is missing, how to get it.
pub(crate) fn version(program: &str, package: &str) -> anyhow::Result<String> {
    let output = match Command::new(program).arg("--version").output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{program} is not installed (apt install {package})")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot run {program}")),
    };
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Name and value, for each line at the top.
pub(crate) fn facts(disk: &Disk, seconds: u32, repeat: u32) -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let or_reason = |version: anyhow::Result<String>| version.unwrap_or_else(|error| format!("{error:#}"));
    let now = time::OffsetDateTime::now_utc();
    vec![
        ("CPU", format!("{}, {cores} cores", model())),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("disk", disk.describe()),
        ("fio", or_reason(version("fio", "fio"))),
        ("QEMU", or_reason(version("qemu-storage-daemon", QEMU))),
        ("bindfs", or_reason(version("bindfs", "bindfs"))),
        ("date", format!("{}, load average {load} before it began", now.date())),
        ("runs", format!("{repeat} of {seconds} s each, after {RAMP} s that are not counted")),
    ]
}

/// The packages in which Debian and Ubuntu have had its storage daemon.
pub(crate) const QEMU: &str = "qemu-utils, or qemu-system-common where it is in there";

fn model() -> String {
    let text = read("/proc/cpuinfo");
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()));
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
