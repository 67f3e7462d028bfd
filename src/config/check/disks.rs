//! What belongs to a disk is stated at any of its devices: all that state it must agree.

use crate::config::fields::At;
use crate::config::plan::SimulatePlan;
use crate::config::report::{Problems, quoted};
use crate::config::shape::Device;
use crate::sched::DEFAULT_TOKEN_BASE;
use std::collections::HashMap;

/// The settings of one disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    pub(super) io_throttle: u32,
    pub(super) io_limit: u32,
    pub(super) token_base: u32,
    pub(super) simulate: Option<SimulatePlan>,
}

impl Default for Disk {
    fn default() -> Self {
        Disk { io_throttle: 0, io_limit: 0, token_base: DEFAULT_TOKEN_BASE, simulate: None }
    }
}

/// The disks by their ids.
pub(super) fn agree(devices: &[Device], problems: &mut Problems) -> HashMap<u32, Disk> {
    let print = |value: &u32| value.to_string();
    let throttles = one(devices, "io_throttle", |d| d.io_throttle, print, problems);
    let limits = one(devices, "io_limit", |d| d.io_limit, print, problems);
    let bases = one(devices, "token_base", |d| d.token_base, print, problems);
    let simulates = one(devices, "simulate", |d| d.simulate, describe, problems);
    let mut disks = HashMap::new();
    for Device { id, .. } in devices {
        if disks.contains_key(id) {
            continue;
        }
        let (throttle, limit) = (throttles.get(id), limits.get(id));
        if let (Some(throttle), Some(limit)) = (throttle, limit)
            && limit.value < throttle.value
            && limit.value != 0
        {
            let message = format!(
                "`io_limit` is {}, below `io_throttle`, which is {} (line {})",
                limit.value, throttle.value, throttle.at.line
            );
            let hint = format!(
                "write at least {} for `io_limit`, 0 for automatic, or lower `io_throttle`",
                throttle.value
            );
            problems.add(limit.at, message, hint);
        }
        let default = Disk::default();
        let disk = Disk {
            io_throttle: throttle.map_or(default.io_throttle, |t| t.value),
            io_limit: limit.map_or(default.io_limit, |l| l.value),
            token_base: bases.get(id).map_or(default.token_base, |b| b.value),
            simulate: simulates.get(id).map(|s| s.value),
        };
        disks.insert(*id, disk);
    }
    disks
}

/// The value of one setting for each disk where it is stated: the first one; others that differ are refused.
fn one<T: Copy + PartialEq>(
    devices: &[Device],
    key: &str,
    stated: impl Fn(&Device) -> Option<At<T>>,
    print: impl Fn(&T) -> String,
    problems: &mut Problems,
) -> HashMap<u32, At<T>> {
    let mut first: HashMap<u32, (&Device, At<T>)> = HashMap::new();
    for device in devices {
        let Some(here) = stated(device) else { continue };
        let (other, there) = *first.entry(device.id).or_insert((device, here));
        if here.value != there.value {
            let message = format!(
                "`{key}` is {} here, but {} at device {} (line {}), which is on the same disk (id {})",
                print(&here.value),
                print(&there.value),
                quoted(&other.name.value),
                there.at.line,
                device.id
            );
            let hint = format!(
                "`{key}` belongs to the disk: state it once, or the same everywhere; devices on another disk need another `id`"
            );
            problems.add(here.at, message, hint);
        }
    }
    first.into_iter().map(|(id, (_, value))| (id, value)).collect()
}

fn describe(simulate: &SimulatePlan) -> String {
    let iops = simulate.iops.map(|iops| format!("iops: {iops}"));
    let bandwidth = simulate.bandwidth.map(|bandwidth| format!("bandwidth: {bandwidth}/s"));
    let parallel = format!("parallel: {}", simulate.parallel);
    let parts: Vec<String> = iops.into_iter().chain(bandwidth).chain([parallel]).collect();
    format!("{{{}}}", parts.join(", "))
}
