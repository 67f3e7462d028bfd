//! The limits of a group against each other and against the policy of its device.

use crate::config::fields::{At, Setting};
use crate::config::report::{Problems, quoted};
use crate::config::shape::{self, Device};
use crate::sched::{Cap, Limits, Policy};
use crate::units::Bytes;
use std::fmt::Display;
use std::num::NonZeroU64;

/// The limits of one group of `device`. What has a problem is left out: such a plan is thrown away.
pub(super) fn check(device: &Device, written: &shape::Limits, problems: &mut Problems) -> Limits {
    let shape::Limits { min_bandwidth, max_bandwidth, bandwidth_burst, max_iops, iops_burst } = *written;
    if let Ok(Some(min)) = min_bandwidth
        && min.value != Bytes(0)
    {
        minimum(device, min, max_bandwidth, problems);
    }
    let bandwidth = [("max_bandwidth", max_bandwidth), ("bandwidth_burst", bandwidth_burst)];
    let iops = [("max_iops", max_iops), ("iops_burst", iops_burst)];
    Limits {
        min_bandwidth: min_bandwidth.ok().flatten().and_then(|min| NonZeroU64::new(min.value.0)),
        max_bandwidth: cap(bandwidth, |bytes| bytes.0, problems),
        max_iops: cap(iops, |requests| requests, problems),
    }
}

/// What keeps a minimum from being kept.
fn minimum(device: &Device, min: At<Bytes>, max: Setting<Bytes>, problems: &mut Problems) {
    // A bad policy has been reported; it may have been meant to be the right one.
    let policy = device.policy.map(|policy| policy.map_or(Policy::Weight, |policy| policy.value));
    if let Ok(policy) = policy
        && policy != Policy::RangeBw
    {
        let device = quoted(&device.name.value);
        let message = format!(
            "`min_bandwidth` is {}/s, but the policy of device {device} is `{}`, which knows no minima",
            min.value,
            policy.as_str()
        );
        let hint = format!("write `policy: range-bw` at device {device}, or remove `min_bandwidth`");
        problems.add(min.at, message, hint);
    }
    if let Ok(Some(max)) = max
        && max.value != Bytes(0)
        && min.value > max.value
    {
        let message = format!(
            "`min_bandwidth` is {}/s, above `max_bandwidth`, which is {}/s (line {})",
            min.value, max.value, max.at.line
        );
        let hint = format!("write at most {}/s for `min_bandwidth`, or raise `max_bandwidth`", max.value);
        problems.add(min.at, message, hint);
    }
}

/// A cap and its burst, each with its key. Where no burst is written it has the usual one.
fn cap<T: Copy + Display>(
    [(key, max), (burst_key, burst)]: [(&str, Setting<T>); 2],
    plain: impl Fn(T) -> u64,
    problems: &mut Problems,
) -> Option<Cap> {
    // What has been reported already is left unchecked.
    let (max, burst) = (max.ok()?, burst.ok()?);
    let rate = max.and_then(|max| NonZeroU64::new(plain(max.value)));
    if let (None, Some(burst)) = (rate, burst) {
        let missing = match max {
            Some(max) => format!("`{key}` is 0, which is no cap (line {})", max.at.line),
            None => format!("there is no `{key}`"),
        };
        let message = format!("`{burst_key}` is {}, but {missing}", burst.value);
        problems.add(burst.at, message, format!("say what `{key}` is, or remove `{burst_key}`"));
    }
    let cap = Cap::new(rate?);
    Some(burst.map_or(cap, |burst| Cap { burst: plain(burst.value), ..cap }))
}
