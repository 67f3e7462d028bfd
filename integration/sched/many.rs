//! Very many groups, and very many requests.

use crate::sim::scenario::seconds;
use crate::sim::{Run, Scenario};
use crate::{floods, scenario, servers};
use ioband::sched::{Disk, Next, Op, Policy, Request, Settings};
use ioband::units::{Nanos, Weight};

#[test]
fn a_thousand_groups_get_their_shares() {
    // Weights 1 to 100 and all backlogged, until the lightest was entitled to 100 requests.
    let weights: Vec<(u32, u32)> = (0..1000).map(|n| (1 + n % 100, 8)).collect();
    let sum: u32 = weights.iter().map(|(weight, _)| weight).sum();
    let mut run = Run::new(&Scenario { io_limit: 32, ..scenario(servers(32, 200.0), floods(&weights)) });
    let able = 160_000.0;
    let enough = 100.0 * f64::from(sum) / able;
    let outcome = run.measure(seconds(1.0), seconds(1.0 + enough));
    let total = outcome.requests() as f64;
    for (got, (weight, _)) in outcome.clients.iter().zip(&weights) {
        let ideal = total * f64::from(*weight) / f64::from(sum);
        let off = 100.0 * (got.requests as f64 - ideal).abs() / ideal;
        assert!(off <= 2.0, "weight {weight}: {} instead of {ideal:.1}, {off:.2} % off", got.requests);
    }
}

#[test]
fn idle_groups_cost_nothing() {
    // Two of 100,000 want something: what happens is the same as if the others were not there.
    let run = |idle: usize| {
        let mut disk = Disk::new(Settings { io_limit: 2, ..Settings::default() });
        let first = disk.add_group(Policy::Weight, Weight::new(80).expect("valid"));
        for _ in 0..idle {
            disk.add_group(Policy::Weight, Weight::default());
        }
        let second = disk.add_group(Policy::Weight, Weight::new(40).expect("valid"));
        let mut order = Vec::new();
        for id in 0..300 {
            let group = if id % 2 == 0 { first } else { second };
            disk.submit(group, Request { id, op: Op::Read, sectors: 8 }, Nanos(id));
        }
        let mut now = Nanos(1000);
        while let Next::Dispatch(next) = disk.next(now) {
            order.push(next.id);
            now = now.after(Nanos(1000));
            disk.complete(next, now);
        }
        order
    };
    assert_eq!(run(0), run(100_000));
}

/// An hour in which everything changes all the time, or less of it where the compiler has not optimised: every step is
/// checked, and in the end nothing is left.
#[test]
fn an_hour_of_changes_breaks_nothing() {
    let hour = Scenario::named("hour");
    let span = if cfg!(debug_assertions) { 300.0 } else { hour.seconds };
    let mut run = Run::new(&hour);
    let outcome = run.measure(seconds(0.0), seconds(span));
    run.finish();
    assert!(outcome.requests() as f64 >= 1900.0 * span, "{} requests", outcome.requests());
}
