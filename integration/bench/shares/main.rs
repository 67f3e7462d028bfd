//! Who gets what of one disk, and how long each waits for it: ioband beside no control and beside the kernel's BFQ, on the
//! same simulated disk, with what the simulator predicts. As root:
//!
//! ```text
//! cargo run --release --example shares                                  (all of it: about a quarter of an hour)
//! cargo run --release --example shares -- --only reader --seconds 5 --repeat 1
//! ```
//!
//! The scenarios are those of the simulator, `integration/sim/scenarios`. Each is run several times, all ways taking
//! turns; the tables have medians and how far the runs were off them. Shares are comparable between machines and days,
//! waits only where the machine has nothing else to do: it should not be compiling meanwhile.
//!
//! What it does not do: disks that are not simulated, and writes through a page cache, which BFQ cannot attribute without
//! cgroup v2.
#![forbid(unsafe_code)]

#[path = "../../support/generator.rs"]
mod generator;
mod interrupt;
mod pace;
mod programs;
mod results;
#[path = "../../sim/mod.rs"]
mod sim;
mod table;
mod ways;

use anyhow::{Context, ensure};
use clap::Parser;
use results::Figures;
use sim::real::{Images, Real};
use sim::{Run, Scenario};
use std::path::Path;
use table::Row;
use ways::{Bench, Way};

/// Who gets what of one disk: ioband, no control and BFQ side by side.
#[derive(Debug, Parser)]
struct Args {
    /// So many seconds are counted in each run, after one to warm up.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Runs of each way.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Only this scenario of integration/sim/scenarios; may be given several times.
    #[arg(long, value_name = "SCENARIO", default_values = ["two-groups", "four-groups", "reader", "heavy-reader"])]
    only: Vec<String>,
    /// BFQ with these settings as well; may be given several times.
    #[arg(long, value_name = "KEY=VALUE,…")]
    bfq: Vec<ways::bfq::Tuning>,
}

/// Seconds of each run that are not counted.
const WARM_UP: f64 = 1.0;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "this mounts for several users and sets up cgroups: run it as root"
    );
    ensure!(args.seconds > 0.0, "--seconds {}: nothing would be counted", args.seconds);
    let scenarios: Vec<_> = args.only.iter().map(|name| scenario(name, &args)).collect::<Result<_, _>>()?;
    let bench = Bench::new()?;
    let tunings = ways::bfq::tunings(&args.bfq);
    let ways = Way::all(&tunings);
    let used = ways::bfq::try_it(&bench, &tunings);
    bench.interrupt.check()?;
    let unable = used.as_ref().err().map(|error| format!("{error:#}"));
    println!("BFQ: {}", used.unwrap_or_else(|error| format!("skipped: {error:#}")));
    println!("{} x {} s each, medians ± the furthest run", args.repeat, args.seconds);
    for (name, scenario) in args.only.iter().zip(&scenarios) {
        let mut rows: Vec<_> = ways.iter().map(|way| Row::new(&way.name())).collect();
        for (way, row) in ways.iter().zip(&mut rows) {
            row.skipped = if way.is_bfq() { unable.clone() } else { None };
        }
        for round in 1..=args.repeat {
            for (way, row) in ways.iter().zip(&mut rows).filter(|(_, row)| row.skipped.is_none()) {
                eprintln!("{name} {round}/{}: {}", args.repeat, way.name());
                let reports = way.measure(&bench, scenario)?;
                row.figures.push(Figures::measured(scenario, &reports)?);
            }
        }
        let mut simulated = Row::new("simulated");
        simulated.figures.push(Figures::simulated(scenario, &Run::whole(scenario)));
        let mut ideal = Row::new("ideal");
        ideal.figures.push(pace::ideal(scenario)?);
        rows.splice(0..0, [ideal, simulated]);
        print!("\n{name}: {}\n{}", scenario.about, table::table(scenario, &rows));
    }
    Ok(())
}

/// The one of that name, for as long as is asked for.
fn scenario(name: &str, args: &Args) -> anyhow::Result<Scenario> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/sim/scenarios");
    let scenario = Scenario::load(&folder.join(format!("{name}.yaml")))
        .with_context(|| format!("no scenario `{name}` in {}", folder.display()))?;
    // Said before anything runs.
    Real::new(&scenario, Images::Each).with_context(|| format!("{name} cannot be had in reality"))?;
    Ok(Scenario { seconds: WARM_UP + args.seconds, warm_up: WARM_UP, ..scenario })
}
