//! What came of a run, or of a part of it.

use hdrhistogram::Histogram;
use ioband::units::Nanos;

/// What one client got.
#[derive(Clone)]
pub(crate) struct Got {
    pub(crate) name: String,
    pub(crate) weight: u32,
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) errors: u64,
    /// From making a request to its answer.
    latencies: Histogram<u64>,
}

impl Got {
    pub(crate) fn new(name: &str, weight: u32) -> Self {
        // Three digits of precision, growing as needed, is a setting that is always valid.
        let latencies = Histogram::new(3).expect("3 is between 0 and 5");
        Self { name: name.to_owned(), weight, requests: 0, bytes: 0, errors: 0, latencies }
    }

    pub(crate) fn count(&mut self, bytes: u64, latency: Nanos, well: bool) {
        self.requests += 1;
        self.bytes += bytes;
        self.errors += u64::from(!well);
        self.latencies += latency.0.max(1);
    }

    /// The latency in milliseconds that the given part of the requests did not exceed.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e6
    }

    pub(crate) fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    pub(crate) fn longest(&self) -> f64 {
        self.latencies.max() as f64 / 1e6
    }
}

/// What all of them got.
#[derive(Clone)]
pub(crate) struct Outcome {
    pub(crate) clients: Vec<Got>,
    /// How long it was counted.
    pub(crate) span: Nanos,
    /// How much of what its servers could have worked the disk worked, from 0 to 1.
    pub(crate) used: f64,
}

impl Outcome {
    fn shares_by(&self, of: impl Fn(&Got) -> u64) -> Vec<f64> {
        let total: u64 = self.clients.iter().map(&of).sum();
        self.clients.iter().map(|got| 100.0 * of(got) as f64 / total.max(1) as f64).collect()
    }

    /// The parts of all requests, in percent.
    pub(crate) fn shares(&self) -> Vec<f64> {
        self.shares_by(|got| got.requests)
    }

    /// The parts of all bytes, in percent.
    pub(crate) fn byte_shares(&self) -> Vec<f64> {
        self.shares_by(|got| got.bytes)
    }

    /// What the weights ask for, in percent, if all want all they can get.
    pub(crate) fn asked(&self) -> Vec<f64> {
        let total: u32 = self.clients.iter().map(|got| got.weight).sum();
        self.clients.iter().map(|got| 100.0 * f64::from(got.weight) / f64::from(total)).collect()
    }

    /// Jain's index over share divided by weight: 1 where all get what their weights ask for, 1/n where one has it all.
    pub(crate) fn fairness(&self, shares: &[f64]) -> f64 {
        let parts: Vec<f64> =
            shares.iter().zip(&self.clients).map(|(s, got)| s / f64::from(got.weight)).collect();
        let sum: f64 = parts.iter().sum();
        let squares: f64 = parts.iter().map(|part| part * part).sum();
        if squares > 0.0 { sum * sum / (parts.len() as f64 * squares) } else { 1.0 }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.clients.iter().map(|got| got.requests).sum()
    }

    /// Requests a second of one client.
    pub(crate) fn rate(&self, client: usize) -> f64 {
        self.clients[client].requests as f64 / (self.span.0 as f64 / 1e9)
    }
}
