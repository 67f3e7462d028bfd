//! What is simulated, as YAML. See `scenarios/` for examples.
//!
//! ```yaml
//! about: Two groups, 80 to 40.
//! seconds: 21                 # of virtual time
//! warm_up: 1                  # of these, not counted
//! device: {servers: {parallel: 1, service_us: 500}}
//! clients:
//! - {name: heavy, weight: 80, depth: 16}
//! - {name: light, weight: 40, depth: 16}
//! ```

use super::client::ClientModel;
use super::device::{DeviceModel, Faults};
use anyhow::Context;
use ioband::sched::{Cap, DEFAULT_TOKEN_BASE, Limits, Policy, Settings};
use ioband::units::{Bytes, Nanos, Weight};
use serde::{Deserialize, Deserializer};
use std::num::NonZeroU64;
use std::path::Path;

/// Everything passes at once: what `control: false` stands for.
const UNCONTROLLED: u32 = 1 << 20;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// One line for people.
    pub(crate) about: String,
    /// Virtual seconds in all.
    pub(crate) seconds: f64,
    /// Of these, not counted.
    #[serde(default)]
    pub(crate) warm_up: f64,
    #[serde(default = "one")]
    pub(crate) seed: u64,
    /// False: no weights, everything passes at once.
    #[serde(default = "yes")]
    pub(crate) control: bool,
    #[serde(default)]
    pub(crate) io_throttle: u32,
    #[serde(default)]
    pub(crate) io_limit: u32,
    #[serde(default = "token_base")]
    pub(crate) token_base: u32,
    #[serde(default = "policy", deserialize_with = "read_policy")]
    pub(crate) policy: Policy,
    pub(crate) device: DeviceModel,
    #[serde(default)]
    pub(crate) faults: Faults,
    pub(crate) clients: Vec<ClientModel>,
    #[serde(default)]
    pub(crate) changes: Vec<Change>,
    /// At random times, on average so many of them a second, weights, policies, settings and groups change.
    #[serde(default)]
    pub(crate) random_changes: f64,
}

/// A change of one group while it runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    /// When, in seconds from the start.
    pub(crate) at: f64,
    /// The client whose group it is.
    pub(crate) client: String,
    pub(crate) weight: u32,
}

/// The limits of a group, as they stand in a scenario.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsModel {
    #[serde(deserialize_with = "read_size")]
    min_bandwidth: u64,
    #[serde(deserialize_with = "read_size")]
    max_bandwidth: u64,
    max_iops: u64,
}

impl LimitsModel {
    pub(crate) fn limits(&self) -> Limits {
        let rate = NonZeroU64::new;
        Limits {
            min_bandwidth: rate(self.min_bandwidth),
            max_bandwidth: rate(self.max_bandwidth).map(Cap::new),
            max_iops: rate(self.max_iops).map(Cap::new),
        }
    }
}

impl Scenario {
    /// Reads one from a file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(named)?;
        Self::parse(&text).with_context(named)
    }

    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = serde_yaml::from_str(text)?;
        let mut names = std::collections::BTreeSet::new();
        for client in &scenario.clients {
            let name = &client.name;
            anyhow::ensure!(
                Weight::new(client.weight).is_some(),
                "client {name}: `weight` is {}; it must be from 1 to {}",
                client.weight,
                Weight::MAX
            );
            anyhow::ensure!(names.insert(name), "two clients are called {name}");
            client.check()?;
        }
        let Self { io_throttle, io_limit, token_base, .. } = scenario;
        anyhow::ensure!(
            io_limit == 0 || io_limit >= io_throttle,
            "`io_limit` is {io_limit}, below `io_throttle`, which is {io_throttle}"
        );
        anyhow::ensure!(token_base > 0, "`token_base` is 0; it must be at least 1");
        scenario.device.check()?;
        for change in &scenario.changes {
            let known = scenario.clients.iter().any(|client| client.name == change.client);
            anyhow::ensure!(known, "a change names {}, which is no client", change.client);
            anyhow::ensure!(
                Weight::new(change.weight).is_some(),
                "a change of {}: no such weight",
                change.client
            );
            anyhow::ensure!(change.at >= 0.0, "a change at {}: before the start", change.at);
        }
        Ok(scenario)
    }

    /// The one of that name in `integration/sim/scenarios`.
    pub(crate) fn named(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/sim/scenarios");
        Self::load(&folder.join(format!("{name}.yaml"))).expect("a good scenario")
    }

    /// The same without control.
    pub(crate) fn uncontrolled(&self) -> Self {
        Self { control: false, ..self.clone() }
    }

    pub(crate) fn settings(&self) -> Settings {
        let token_base = self.token_base;
        if self.control {
            return Settings { io_throttle: self.io_throttle, io_limit: self.io_limit, token_base };
        }
        Settings { io_throttle: UNCONTROLLED, io_limit: UNCONTROLLED, token_base }
    }

    pub(crate) fn end(&self) -> Nanos {
        seconds(self.seconds)
    }
}

/// A span of virtual time.
pub(crate) fn seconds(seconds: f64) -> Nanos {
    Nanos((seconds * 1e9) as u64)
}

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}

fn token_base() -> u32 {
    DEFAULT_TOKEN_BASE
}

fn policy() -> Policy {
    Policy::Weight
}

fn read_policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Policy, D::Error> {
    let word = String::deserialize(deserializer)?;
    let policy = Policy::ALL.into_iter().find(|policy| policy.as_str() == word);
    policy.ok_or_else(|| serde::de::Error::custom(format!("`{word}` is no policy")))
}

pub(crate) fn read_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let word = String::deserialize(deserializer)?;
    word.trim_end_matches("/s").parse::<Bytes>().map(|bytes| bytes.0).map_err(serde::de::Error::custom)
}
