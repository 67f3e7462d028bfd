//! What a group is to have, as words say it.

use super::words::{MOST_KILOBYTES, value};
use crate::config::values;
use crate::control::Refusal;
use crate::sched::Policy;
use crate::units::{Bytes, Weight};

/// What one group is to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Its weight.
    pub weight: Weight,
    /// Minimum bandwidth in KB/s of 1024 bytes, 0 for none; only under `range-bw`.
    pub min: u64,
    /// Maximum bandwidth in KB/s of 1024 bytes, 0 for none; only under `range-bw`.
    pub max: u64,
    /// Most bytes a second; only under other policies.
    pub max_bandwidth: Option<u64>,
    /// Bytes that may pass at once after a pause; the usual number if it is not said.
    pub bandwidth_burst: Option<u64>,
    /// Most requests a second.
    pub max_iops: Option<u64>,
    /// Requests that may pass at once after a pause; the usual number if it is not said.
    pub iops_burst: Option<u64>,
}

impl Share {
    /// The word of a table for a group with this id; an empty one stands for the default group.
    pub fn word(&self, id: &str, policy: Policy) -> String {
        match policy {
            Policy::Weight | Policy::WeightIosize => format!("{id}:{}", self.weight),
            Policy::RangeBw => format!("{id}:{}:{}", self.min, self.max),
        }
    }

    /// What is said of one of the limits.
    pub fn limit(&self, key: LimitKey) -> Option<u64> {
        match key {
            LimitKey::MaxBandwidth => self.max_bandwidth,
            LimitKey::BandwidthBurst => self.bandwidth_burst,
            LimitKey::MaxIops => self.max_iops,
            LimitKey::IopsBurst => self.iops_burst,
        }
    }

    /// The place where it is said.
    pub fn limit_mut(&mut self, key: LimitKey) -> &mut Option<u64> {
        match key {
            LimitKey::MaxBandwidth => &mut self.max_bandwidth,
            LimitKey::BandwidthBurst => &mut self.bandwidth_burst,
            LimitKey::MaxIops => &mut self.max_iops,
            LimitKey::IopsBurst => &mut self.iops_burst,
        }
    }
}

/// A limit of a group that dm-ioband did not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// Bytes a second.
    MaxBandwidth,
    /// Bytes at once.
    BandwidthBurst,
    /// Requests a second.
    MaxIops,
    /// Requests at once.
    IopsBurst,
}

impl LimitKey {
    /// All of them, in the order in which tables have them.
    pub const ALL: [LimitKey; 4] = [Self::MaxBandwidth, Self::BandwidthBurst, Self::MaxIops, Self::IopsBurst];

    /// The word for it in tables, messages and YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxBandwidth => "max_bandwidth",
            Self::BandwidthBurst => "bandwidth_burst",
            Self::MaxIops => "max_iops",
            Self::IopsBurst => "iops_burst",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.as_str() == word)
    }

    /// A value of it: bytes in any unit, or requests. 0 stands for none, except for a burst.
    pub(super) fn value(self, text: &str) -> Result<u64, Refusal> {
        let bytes = |bytes: Bytes| bytes.0;
        match self {
            Self::MaxBandwidth => value(self.as_str(), text, values::BANDWIDTH, values::bandwidth).map(bytes),
            Self::BandwidthBurst => {
                value(self.as_str(), text, values::BURST, values::size_or_none).map(bytes)
            }
            Self::MaxIops => value(self.as_str(), text, values::IOPS, values::iops),
            Self::IopsBurst => value(self.as_str(), text, values::IOPS_BURST, values::iops),
        }
    }
}

/// A minimum and a maximum in KB/s.
pub(super) fn range(id: &str, min: &str, max: &str) -> Result<(u64, u64), Refusal> {
    let right = "write KB/s of 1024 bytes, or 0 for none";
    let read = |what, text| value(what, text, right, values::number(0..=MOST_KILOBYTES));
    let (min, max) = (read("the minimum", min)?, read("the maximum", max)?);
    if max != 0 && min > max {
        let whom = if id.is_empty() { "the default group".to_owned() } else { format!("group `{id}`") };
        return Err(Refusal::invalid(format!(
            "the minimum of {whom} is {min} KB/s, above its maximum, {max} KB/s; write the smaller one first, or 0 for no maximum"
        )));
    }
    Ok((min, max))
}
