//! A run as a table for people.

use super::outcome::Outcome;
use super::scenario::Scenario;
use ioband::sched::Policy;
use std::fmt::Write;

/// The table of one run; the extra columns compare it with the same run without control.
pub(crate) fn table(scenario: &Scenario, outcome: &Outcome) -> String {
    let by_bytes = scenario.policy != Policy::Weight;
    let shares = if by_bytes { outcome.byte_shares() } else { outcome.shares() };
    let wide = outcome.clients.iter().map(|got| got.name.len()).max().unwrap_or(0).max("client".len());
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<wide$} {:>6} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "client",
        "weight",
        "asked %",
        "got %",
        "requests",
        "MiB/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "worst ms"
    );
    let seconds = outcome.span.0 as f64 / 1e9;
    // Where there are very many, the first and the last say enough.
    let shown = |index: usize| outcome.clients.len() <= 40 || index < 5 || index + 5 >= outcome.clients.len();
    for (index, ((got, share), asked)) in outcome.clients.iter().zip(&shares).zip(outcome.asked()).enumerate()
    {
        if !shown(index) {
            continue;
        }
        let _ = writeln!(
            text,
            "{:<wide$} {:>6} {asked:>8.2} {share:>8.2} {:>9} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.2}",
            got.name,
            got.weight,
            got.requests,
            got.bytes as f64 / 1048576.0 / seconds,
            got.quantile(0.5),
            got.p99(),
            got.quantile(0.999),
            got.longest(),
        );
    }
    let _ = writeln!(
        text,
        "{:.0} requests a second, disk {:.1} % used, weighted Jain index {:.4}{}",
        outcome.requests() as f64 / seconds,
        100.0 * outcome.used,
        outcome.fairness(&shares),
        if by_bytes { " (shares of bytes)" } else { "" },
    );
    text
}
