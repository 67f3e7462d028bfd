//! `sim`: what the scheduler does with a scenario, in virtual time.
//!
//! ```text
//! cargo run --release --example sim -- integration/sim/scenarios/reader.yaml --plot reader.svg
//! ```
//!
//! Prints what each client asked for and what it got, with control and (`--compare`) without.
#![forbid(unsafe_code)]

#[path = "mod.rs"]
mod sim;

use clap::Parser;
use sim::{Run, Scenario, scenario, table};
use std::path::PathBuf;

/// What the scheduler does with a scenario, in virtual time.
#[derive(Debug, Parser)]
struct Args {
    /// Scenarios (YAML).
    #[arg(required = true)]
    scenarios: Vec<PathBuf>,
    /// Another seed than the scenario's.
    #[arg(long)]
    seed: Option<u64>,
    /// So many virtual seconds, instead of the scenario's.
    #[arg(long)]
    seconds: Option<f64>,
    /// The same without control as well.
    #[arg(long)]
    compare: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    for path in &args.scenarios {
        let mut scenario = Scenario::load(path)?;
        scenario.seed = args.seed.unwrap_or(scenario.seed);
        scenario.seconds = args.seconds.unwrap_or(scenario.seconds);
        println!("{}: {}", path.display(), scenario.about);
        show(&scenario);
        if args.compare {
            println!("without control:");
            show(&scenario.uncontrolled());
        }
    }
    Ok(())
}

fn show(scenario: &Scenario) {
    let mut run = Run::new(scenario);
    let outcome = run.measure(scenario::seconds(scenario.warm_up), scenario.end());
    print!("{}", table::table(scenario, &outcome));
    run.finish();
    println!(
        "depth {} (spare {}), {} requests checked; worst share of two {:.0} %, of all {:.0} %, worst wait {:.0} % of what is allowed\n",
        run.disk.depth(),
        run.disk.spare_depth(),
        run.checker.completed,
        100.0 * run.checker.worst_share,
        100.0 * run.checker.worst_ideal,
        100.0 * run.checker.worst_wait,
    );
}
