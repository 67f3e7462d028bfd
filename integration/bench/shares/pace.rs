//! What a scenario's disk can do, and what a fluid server would make of it.

use crate::results::{Figures, by_bytes};
use crate::sim::Scenario;
use crate::sim::client::ClientModel;
use crate::sim::device::DeviceModel;

/// The pace of a disk.
pub(crate) struct Pace {
    parallel: f64,
    service_s: f64,
    byte_s: f64,
}

impl Pace {
    pub(crate) fn of(scenario: &Scenario) -> anyhow::Result<Self> {
        let DeviceModel::Servers { parallel, service_us, bandwidth, random: false } = scenario.device else {
            anyhow::bail!("only disks of steady servers are compared");
        };
        let byte_s = if bandwidth > 0 { 1.0 / bandwidth as f64 } else { 0.0 };
        Ok(Self { parallel: parallel as f64, service_s: service_us / 1e6, byte_s })
    }

    /// How long the whole disk works on so many requests and bytes, in seconds.
    pub(crate) fn work(&self, requests: f64, bytes: f64) -> f64 {
        (requests * self.service_s + bytes * self.byte_s) / self.parallel
    }
}

/// A fluid server: everybody has his part all the time, and waits for `depth / rate`. That is only said where all have
/// more requests outstanding than the disk works on: who has fewer cannot have them waiting all the time.
pub(crate) fn ideal(scenario: &Scenario) -> anyhow::Result<Figures> {
    let pace = Pace::of(scenario)?;
    let clients = &scenario.clients;
    let weights: f64 = clients.iter().map(|client| f64::from(client.weight)).sum();
    let cost = |client: &ClientModel| if by_bytes(scenario) { size(client) } else { 1.0 };
    // Rates up to a factor, and the part of the disk that they would take.
    let parts: Vec<_> = clients.iter().map(|client| f64::from(client.weight) / cost(client)).collect();
    let worked: f64 =
        parts.iter().zip(clients).map(|(part, client)| pace.work(*part, part * size(client))).sum();
    let rates: Vec<_> = parts.iter().map(|part| part / worked).collect();
    let backlogged = clients.iter().all(|client| f64::from(client.depth) > pace.parallel);
    let waits = rates.iter().zip(clients).map(|(rate, client)| f64::from(client.depth) * 1e3 / rate);
    Ok(Figures {
        shares: clients.iter().map(|client| 100.0 * f64::from(client.weight) / weights).collect(),
        used: vec![100.0],
        p99: if backlogged { waits.collect() } else { Vec::new() },
        longest: Vec::new(),
        rates,
    })
}

/// Bytes of a client's request on average.
fn size(client: &ClientModel) -> f64 {
    client.sizes.iter().map(|size| size.0 as f64).sum::<f64>() / client.sizes.len() as f64
}
