//! A plan as a table.

use crate::config::DevicePlan;
use crate::control::grammar::{MOST_KILOBYTES, Share, TableDevice, TableLine};
use crate::sched::{Cap, Limits, Policy};
use crate::units::Weight;
use std::num::NonZeroU64;

/// The table that makes this device again with `create`. What a simulated device is like is not in it.
pub fn table(device: &DevicePlan) -> TableLine {
    let share = |weight, limits| share(device.policy, weight, limits);
    let groups = device.groups.iter().map(|group| (group.id.to_string(), share(group.weight, group.limits)));
    TableLine {
        name: Some(device.name.clone()),
        length: device.size.whole_sectors(),
        device: match device.number {
            Some((major, minor)) => TableDevice::Number(major, minor),
            None => TableDevice::Path(device.path.to_string_lossy().into_owned()),
        },
        id: device.id,
        io_throttle: device.io_throttle,
        io_limit: device.io_limit,
        group_type: device.group_type,
        policy: device.policy,
        token_base: device.token_base,
        default: share(device.weight, device.limits),
        groups: groups.collect(),
    }
}

/// What a group is to have, as the table of this policy says it.
fn share(policy: Policy, weight: Weight, limits: Limits) -> Share {
    let rate = limits.max_bandwidth.map(|cap| cap.rate.get());
    let iops_burst = limits.max_iops.filter(|cap| *cap != Cap::new(cap.rate)).map(|cap| cap.burst);
    let share = Share {
        weight,
        max_iops: limits.max_iops.map(|cap| cap.rate.get()),
        iops_burst,
        bandwidth_burst: limits.max_bandwidth.and_then(|cap| bandwidth_burst(policy, cap)),
        ..Share::default()
    };
    match policy {
        Policy::Weight | Policy::WeightIosize => Share { max_bandwidth: rate, ..share },
        Policy::RangeBw => {
            let min = limits.min_bandwidth.map(NonZeroU64::get);
            Share { min: min.map_or(0, kilobytes), max: rate.map_or(0, kilobytes), ..share }
        }
    }
}

/// The burst of a cap, if it is not the usual one: not that of the rate, nor of the rate that a table makes of it.
fn bandwidth_burst(policy: Policy, cap: Cap) -> Option<u64> {
    let rounded = NonZeroU64::new(super::group::bytes(kilobytes(cap.rate.get())));
    let printed = rounded.filter(|_| policy == Policy::RangeBw).unwrap_or(cap.rate);
    let usual = [cap.rate, printed].map(|rate| Cap::new(rate).burst);
    Some(cap.burst).filter(|burst| !usual.contains(burst))
}

/// Bytes a second in KB/s: rounded up, because 0 would read as none.
fn kilobytes(rate: u64) -> u64 {
    rate.div_ceil(1024).min(MOST_KILOBYTES)
}
