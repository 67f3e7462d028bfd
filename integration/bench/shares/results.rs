//! What a run came to, and what is typical of several.

use crate::generator::Report;
use crate::pace::Pace;
use crate::sim::Scenario;
use crate::sim::outcome::Outcome;
use anyhow::ensure;
use ioband::sched::Policy;

/// What a run came to, by client; a list is empty where there is nothing to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Of a hundred.
    pub(crate) shares: Vec<f64>,
    /// How much of its time the disk worked, of a hundred: one for all.
    pub(crate) used: Vec<f64>,
    /// Requests a second.
    pub(crate) rates: Vec<f64>,
    /// Milliseconds.
    pub(crate) p99: Vec<f64>,
    /// Milliseconds.
    pub(crate) longest: Vec<f64>,
}

impl Figures {
    pub(crate) fn measured(scenario: &Scenario, reports: &[Report]) -> anyhow::Result<Self> {
        for (report, client) in reports.iter().zip(&scenario.clients) {
            ensure!(report.errors == 0 && report.requests > 0, "{}: {report:?}", client.name);
        }
        let pace = Pace::of(scenario)?;
        let amount = |report: &Report| if by_bytes(scenario) { report.bytes } else { report.requests } as f64;
        let total: f64 = reports.iter().map(amount).sum();
        let work = |report: &Report| pace.work(report.requests as f64, report.bytes as f64) / report.seconds;
        Ok(Self {
            shares: reports.iter().map(|report| 100.0 * amount(report) / total).collect(),
            used: vec![100.0 * reports.iter().map(work).sum::<f64>()],
            rates: reports.iter().map(|report| report.requests as f64 / report.seconds).collect(),
            p99: reports.iter().map(|report| report.latency_us.p99 / 1e3).collect(),
            longest: reports.iter().map(|report| report.latency_us.max / 1e3).collect(),
        })
    }

    pub(crate) fn simulated(scenario: &Scenario, outcome: &Outcome) -> Self {
        Self {
            shares: if by_bytes(scenario) { outcome.byte_shares() } else { outcome.shares() },
            used: vec![100.0 * outcome.used],
            rates: (0..outcome.clients.len()).map(|client| outcome.rate(client)).collect(),
            p99: outcome.clients.iter().map(|got| got.p99()).collect(),
            longest: outcome.clients.iter().map(|got| got.longest()).collect(),
        }
    }

    /// In the order of the columns.
    pub(crate) fn lists(&self) -> [&[f64]; 5] {
        [&self.shares, &self.used, &self.rates, &self.p99, &self.longest].map(Vec::as_slice)
    }
}

/// Whether it is bytes that the scenario shares.
pub(crate) fn by_bytes(scenario: &Scenario) -> bool {
    scenario.policy != Policy::Weight
}

/// One list of several runs in one: the median for each client, and how far the furthest run was off it.
pub(crate) fn typical(runs: &[&[f64]]) -> (Vec<f64>, f64) {
    let clients = runs.first().map_or(0, |first| first.len());
    let medians: Vec<_> =
        (0..clients).map(|client| median(runs.iter().map(|run| run[client]).collect())).collect();
    let off =
        |run: &&[f64]| run.iter().zip(&medians).map(|(got, usual)| (got - usual).abs()).fold(0.0, f64::max);
    (medians.clone(), runs.iter().map(off).fold(0.0, f64::max))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2].midpoint(values[values.len() / 2])
}
