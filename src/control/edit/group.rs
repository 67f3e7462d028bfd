//! The limits of one group, changed one at a time.

use crate::control::grammar::LimitKey;
use crate::sched::{Cap, Limits};
use std::num::NonZeroU64;

/// A minimum and a maximum in KB/s of 1024 bytes, 0 for none.
pub(super) fn set_range(limits: &mut Limits, min: u64, max: u64) {
    limits.min_bandwidth = NonZeroU64::new(bytes(min));
    limits.max_bandwidth = cap(limits.max_bandwidth, bytes(max));
}

/// KB/s in bytes a second; more than sizes can say there is none.
pub(super) fn bytes(kilobytes: u64) -> u64 {
    kilobytes.saturating_mul(1024).min(i64::MAX as u64)
}

/// One limit in bytes or requests; a cap of 0 is none. Refused in words that follow the name of a group.
pub(super) fn set_limit(limits: &mut Limits, key: LimitKey, value: u64) -> Result<(), String> {
    match key {
        LimitKey::MaxBandwidth => {
            if let Some(min) = limits.min_bandwidth.filter(|min| value != 0 && value < min.get()) {
                return Err(format!(
                    "has a minimum of {min} bytes a second, more than the maximum of {value} would be; change both with `range-bw ID:MIN:MAX`"
                ));
            }
            limits.max_bandwidth = cap(limits.max_bandwidth, value);
        }
        LimitKey::MaxIops => limits.max_iops = cap(limits.max_iops, value),
        LimitKey::BandwidthBurst => burst(&mut limits.max_bandwidth, "max_bandwidth", value)?,
        LimitKey::IopsBurst => burst(&mut limits.max_iops, "max_iops", value)?,
    }
    Ok(())
}

/// The cap with another rate. A burst that was set stays; the usual one follows the rate.
fn cap(old: Option<Cap>, rate: u64) -> Option<Cap> {
    let new = Cap::new(NonZeroU64::new(rate)?);
    let set = old.filter(|old| *old != Cap::new(old.rate));
    Some(set.map_or(new, |old| Cap { burst: old.burst, ..new }))
}

fn burst(cap: &mut Option<Cap>, key: &str, value: u64) -> Result<(), String> {
    let cap =
        cap.as_mut().ok_or_else(|| format!("has no `{key}` that a burst could exceed; set that first"))?;
    cap.burst = value;
    Ok(())
}
