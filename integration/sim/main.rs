//! `sim`: what the scheduler does with a scenario, in virtual time.
//!
//! ```text
//! cargo run --release --example sim -- integration/sim/scenarios/reader.yaml
//! ```
//!
//! Prints what each client asked for and what it got, with control and (`--compare`) without.
#![forbid(unsafe_code)]

#[path = "mod.rs"]
mod sim;

use anyhow::{Context, ensure};
use clap::Parser;
use sim::{Run, Scenario, scenario, table};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let scenarios = args.scenarios.iter().map(|path| Ok((path, load(path, args)?)));
    // All of them first: who has made a mistake in the last one is not to wait for the others.
    let scenarios = scenarios.collect::<anyhow::Result<Vec<_>>>()?;
    for (path, scenario) in scenarios {
        println!("{}: {}", path.display(), scenario.about);
        show(&scenario);
        if args.compare {
            println!("without control:");
            show(&scenario.uncontrolled());
        }
    }
    Ok(())
}

fn load(path: &Path, args: &Args) -> anyhow::Result<Scenario> {
    let named = || path.display().to_string();
    let text = fs::read_to_string(path).with_context(named)?;
    let mut scenario = Scenario::parse(&text).with_context(named)?;
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    scenario.seconds = args.seconds.unwrap_or(scenario.seconds);
    check(&scenario).with_context(named)?;
    Ok(scenario)
}

/// That there is anything to show.
fn check(scenario: &Scenario) -> anyhow::Result<()> {
    let Scenario { seconds, warm_up, .. } = *scenario;
    ensure!(!scenario.clients.is_empty(), "there are no `clients`, so nothing would happen");
    ensure!(seconds > 0.0 && seconds.is_finite(), "`seconds` is {seconds}; it must be above 0");
    ensure!(warm_up >= 0.0, "`warm_up` is {warm_up}; it must not be below 0");
    ensure!(warm_up < seconds, "`warm_up` is {warm_up} of {seconds} seconds, which leaves none to count");
    Ok(())
}

fn show(scenario: &Scenario) {
    let mut run = Run::new(scenario);
    let outcome = run.measure(scenario::seconds(scenario.warm_up), scenario.end());
    print!("{}", table::table(scenario, &outcome));
    run.finish();
    println!(
        "depth {}, {} requests checked; worst share of two {:.0} %, of all {:.0} %, worst wait {:.0} % of what is allowed\n",
        run.disk.depth(),
        run.checker.completed,
        100.0 * run.checker.worst_share,
        100.0 * run.checker.worst_ideal,
        100.0 * run.checker.worst_wait,
    );
}
