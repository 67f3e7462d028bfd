//! `sim`: what the scheduler does with a scenario, in virtual time.
//!
//! ```text
//! cargo run --release --example sim -- integration/sim/scenarios/reader.yaml
//! cargo run --release --example sim -- integration/sim/scenarios/reader.yaml --plot reader.svg
//! ```
//!
//! Prints what each client asked for and what it got, with control and (`--compare`) without. `--plot` draws it over time
//! as well (see [`sim::plot`]). Where there is more than one picture, each has a name of its own: with `--plot run.svg`,
//! `a.yaml` and `b.yaml` are drawn in `run-a.svg` and `run-b.svg`, and what is without control in
//! `run-a-without-control.svg`.
#![forbid(unsafe_code)]

#[path = "mod.rs"]
mod sim;

use anyhow::{Context, ensure};
use clap::Parser;
use sim::{Run, Scenario, plot, scenario, table};
use std::collections::BTreeSet;
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
    /// Draws it too; of several scenarios, each in a file of its own (FILE-SCENARIO.svg).
    #[arg(long, value_name = "FILE.svg", value_parser = picture)]
    plot: Option<PathBuf>,
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
    let mut pictures = BTreeSet::new();
    for (path, scenario) in scenarios {
        println!("{}: {}", path.display(), scenario.about);
        let mut cases = vec![(scenario.clone(), "")];
        if args.compare {
            cases.push((scenario.uncontrolled(), "-without-control"));
        }
        for (scenario, suffix) in &cases {
            if !scenario.control {
                println!("without control:");
            }
            show(scenario);
            if let Some(plot) = &args.plot {
                let stem = if args.scenarios.len() > 1 { path.file_stem() } else { None };
                let file = name_picture(plot, stem.map(|stem| stem.to_string_lossy()).as_deref(), suffix);
                ensure!(pictures.insert(file.clone()), "{}: drawn twice; rename a scenario", file.display());
                draw(scenario, &file)?;
            }
        }
    }
    Ok(())
}

fn load(path: &Path, args: &Args) -> anyhow::Result<Scenario> {
    let mut scenario = Scenario::load(path)?;
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    scenario.seconds = args.seconds.unwrap_or(scenario.seconds);
    check(&scenario).with_context(|| path.display().to_string())?;
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
        "depth {} (spare {}), {} requests checked; worst share of two {:.0} %, of all {:.0} %, worst wait {:.0} % of what is allowed\n",
        run.disk.depth(),
        run.disk.spare_depth(),
        run.checker.completed,
        100.0 * run.checker.worst_share,
        100.0 * run.checker.worst_ideal,
        100.0 * run.checker.worst_wait,
    );
}

/// Only SVG is drawn: under another ending other programs would take it for something else.
fn picture(word: &str) -> Result<PathBuf, String> {
    let file = PathBuf::from(word);
    let svg = file.extension().is_some_and(|ending| ending == "svg");
    if svg { Ok(file) } else { Err("the name of the picture must end in .svg".to_owned()) }
}

/// `run.svg` of the scenario `reader` without control: `run-reader-without-control.svg`.
fn name_picture(plot: &Path, scenario: Option<&str>, suffix: &str) -> PathBuf {
    let mut name = plot.file_stem().unwrap_or_default().to_os_string();
    if let Some(scenario) = scenario {
        name.push("-");
        name.push(scenario);
    }
    name.push(suffix);
    name.push(".svg");
    plot.with_file_name(name)
}

fn draw(scenario: &Scenario, file: &Path) -> anyhow::Result<()> {
    let svg = plot::svg(scenario)?;
    fs::write(file, svg).with_context(|| format!("{} cannot be written", file.display()))?;
    println!("{}\n", file.display());
    Ok(())
}
