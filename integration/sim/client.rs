//! Models of those who make requests.
//!
//! * *closed loop* (`depth`): so many outstanding; each answer is followed, `think_us` later, by the next request.
//! * *open loop* (`rate`): requests come at random (Poisson), whatever becomes of the earlier ones.
//! * *bursts* (`burst`, `every_ms`): so many at once, again and again.
//!
//! Each can come and go: from `from` until `until` seconds, and within that `on_ms` there and `off_ms` away.

use super::scenario::{LimitsModel, seconds};
use ioband::sched::{Op, Policy};
use ioband::units::{Bytes, Nanos};
use serde::{Deserialize, Deserializer};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientModel {
    pub(crate) name: String,
    pub(crate) weight: u32,
    #[serde(default)]
    pub(crate) depth: u32,
    #[serde(default)]
    pub(crate) think_us: f64,
    /// Think times vary exponentially around `think_us`.
    #[serde(default)]
    pub(crate) random_think: bool,
    #[serde(default)]
    pub(crate) rate: f64,
    #[serde(default)]
    pub(crate) burst: u32,
    #[serde(default)]
    pub(crate) every_ms: f64,
    /// Each request takes one of these at random.
    #[serde(default = "four_kib", deserialize_with = "read_sizes")]
    pub(crate) sizes: Vec<Bytes>,
    #[serde(default)]
    pub(crate) ops: Ops,
    /// Its requests take so many times as long as others.
    #[serde(default = "usual")]
    pub(crate) slowness: f64,
    #[serde(default)]
    pub(crate) limits: LimitsModel,
    #[serde(default)]
    pub(crate) from: f64,
    #[serde(default = "forever")]
    pub(crate) until: f64,
    #[serde(default)]
    pub(crate) on_ms: f64,
    #[serde(default)]
    pub(crate) off_ms: f64,
}

/// What its requests are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ops {
    #[default]
    Read,
    Write,
    /// Half and half.
    Randrw,
    Discard,
    Flush,
    /// Anything.
    Any,
}

impl Ops {
    pub(crate) fn pick(self, random: &mut fastrand::Rng) -> Op {
        let all = [Op::Read, Op::Write, Op::Flush, Op::Discard];
        match self {
            Self::Read => Op::Read,
            Self::Write => Op::Write,
            Self::Randrw => all[random.usize(0..2)],
            Self::Discard => Op::Discard,
            Self::Flush => Op::Flush,
            Self::Any => all[random.usize(0..4)],
        }
    }
}

impl ClientModel {
    /// A closed loop of 4 KiB reads.
    pub(crate) fn new(name: &str, weight: u32, depth: u32) -> Self {
        Self {
            name: name.to_owned(),
            weight,
            depth,
            think_us: 0.0,
            random_think: false,
            rate: 0.0,
            burst: 0,
            every_ms: 0.0,
            sizes: four_kib(),
            ops: Ops::Read,
            slowness: 1.0,
            limits: LimitsModel::default(),
            from: 0.0,
            until: f64::INFINITY,
            on_ms: 0.0,
            off_ms: 0.0,
        }
    }

    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let ways = [self.depth > 0, self.rate > 0.0, self.burst > 0].into_iter().filter(|way| *way).count();
        anyhow::ensure!(ways == 1, "{}: say one of `depth`, `rate` and `burst`", self.name);
        anyhow::ensure!(self.burst == 0 || self.every_ms > 0.0, "{}: `burst` wants `every_ms`", self.name);
        anyhow::ensure!(self.off_ms == 0.0 || self.on_ms > 0.0, "{}: `off_ms` wants `on_ms`", self.name);
        anyhow::ensure!(
            self.burst == 0 || self.every_ms >= 0.001,
            "{}: `every_ms` is below 0.001",
            self.name
        );
        anyhow::ensure!(
            (0.0..=1e7).contains(&self.rate),
            "{}: `rate` is not from 0 to 10,000,000",
            self.name
        );
        let good = |size: &Bytes| size.0 > 0 && size.0 <= 1 << 40;
        anyhow::ensure!(
            !self.sizes.is_empty() && self.sizes.iter().all(good),
            "{}: `sizes` are above 0 and at most 1TiB",
            self.name
        );
        Ok(())
    }

    /// The most tokens that one of its requests costs.
    pub(crate) fn largest_cost(&self, policy: Policy) -> u32 {
        let sectors = self.sizes.iter().map(|size| sectors(*size)).max().unwrap_or(1);
        [Op::Read, Op::Write, Op::Flush, Op::Discard]
            .map(|op| policy.cost(op, sectors))
            .into_iter()
            .max()
            .unwrap_or(1)
    }

    /// Whether it makes requests at that time; if not, when it will again.
    pub(crate) fn there(&self, now: Nanos) -> Result<(), Option<Nanos>> {
        let from = seconds(self.from);
        if now < from {
            return Err(Some(from));
        }
        if now >= seconds(self.until) {
            return Err(None);
        }
        if self.off_ms > 0.0 {
            let (on, off) = (seconds(self.on_ms / 1e3).0, seconds(self.off_ms / 1e3).0);
            let into = now.since(from).0 % (on + off);
            if into >= on {
                return Err(Some(now.after(Nanos(on + off - into))));
            }
        }
        Ok(())
    }

    /// How long until it makes the request that follows an answer, or the last request of an open loop.
    pub(crate) fn pause(&self, random: &mut fastrand::Rng) -> Nanos {
        let exponential = |mean: f64, random: &mut fastrand::Rng| -random.f64().max(1e-12).ln() * mean;
        if self.rate > 0.0 {
            return seconds(exponential(1.0 / self.rate, random));
        }
        if self.burst > 0 {
            return seconds(self.every_ms / 1e3);
        }
        let think = self.think_us / 1e6;
        let think = if self.random_think { exponential(think, random) } else { think };
        // Half a microsecond at least: nobody answers in no time.
        seconds(think).max(Nanos(500))
    }
}

/// Sectors of a size; what is simulated is never as large as 2^32.
pub(crate) fn sectors(size: Bytes) -> u32 {
    u32::try_from(size.sectors_up().0).expect("a simulated request is small")
}

fn four_kib() -> Vec<Bytes> {
    vec![Bytes(4096)]
}

fn usual() -> f64 {
    1.0
}

fn forever() -> f64 {
    f64::INFINITY
}

fn read_sizes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Bytes>, D::Error> {
    let words = String::deserialize(deserializer)?;
    words.split(',').map(|word| word.trim().parse().map_err(serde::de::Error::custom)).collect()
}
