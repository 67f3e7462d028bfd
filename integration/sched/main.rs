//! The scheduler in virtual time: what the share rules promise, in scenarios and in properties of any scenario.
//! Every run is checked at every step (see `sim/check.rs`), and the same on every machine, however slow.

#[path = "../sim/mod.rs"]
mod sim;

mod changes;
mod depth;
mod limits;
mod live;
mod many;
mod property;
mod shares;

use ioband::units::Nanos;
use sim::client::ClientModel;
use sim::device::{DeviceModel, Faults};
use sim::outcome::Outcome;
use sim::{Run, Scenario};

/// So many servers, each of which takes so long for any request.
fn servers(parallel: usize, service_us: f64) -> DeviceModel {
    DeviceModel::Servers { parallel, service_us, bandwidth: 0, random: false }
}

/// The disk of most trials: one server, 2,000 requests a second.
fn plain() -> DeviceModel {
    servers(1, 500.0)
}

/// A scenario of 20 seconds and one to warm up.
fn scenario(device: DeviceModel, clients: Vec<ClientModel>) -> Scenario {
    Scenario {
        about: String::new(),
        seconds: 21.0,
        warm_up: 1.0,
        seed: 1,
        control: true,
        io_throttle: 0,
        io_limit: 0,
        token_base: 2048,
        policy: ioband::sched::Policy::Weight,
        device,
        faults: Faults::default(),
        clients,
        changes: Vec::new(),
        random_changes: 0.0,
    }
}

/// Closed loops of 4 KiB reads, given as (weight, depth).
fn floods(all: &[(u32, u32)]) -> Vec<ClientModel> {
    (1..).zip(all).map(|(n, (weight, depth))| ClientModel::new(&format!("c{n}"), *weight, *depth)).collect()
}

/// The whole scenario, and that nothing was lost in it.
fn whole(scenario: &Scenario) -> Outcome {
    let mut run = Run::new(scenario);
    let outcome = run.measure(sim::scenario::seconds(scenario.warm_up), scenario.end());
    run.finish();
    outcome
}

fn ms(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

#[track_caller]
fn assert_near(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= tolerance, "{got:.2?}, wanted {want:.2?} within {tolerance}");
    }
}

#[track_caller]
fn assert_at_least(got: f64, want: f64) {
    assert!(got >= want, "{got:.4}, wanted at least {want:.4}");
}
