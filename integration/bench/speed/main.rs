//! What a request through ioband costs, beside the device itself, QEMU's storage daemon and a plain passthrough. As root:
//!
//! ```text
//! cargo run --release --example speed                                  (all of it: about 40 minutes)
//! cargo run --release --example speed -- --only read-qd1 --way uring --way dev --seconds 3 --repeat 1
//! cargo run --release --example speed -- --markdown --plot speed.svg
//! ```
//!
//! All ways take turns at each cell in each round, and who begins changes from round to round. A way is mounted only for
//! its turn. What matters is the part of the device's own requests that a way does, each round compared with itself;
//! everything else moves with the machine. The machine should have nothing else to do.
//!
//! What it does not do: real disks. It shows what the way to a disk costs, and on a slower disk that is less of the whole.
//! Nor does it judge: it ends well if it could measure, whatever that was.
#![forbid(unsafe_code)]

mod calm;
mod cells;
mod child;
mod cpu;
mod disk;
mod fio;
#[path = "../shares/interrupt.rs"]
mod interrupt;
mod machine;
mod marks;
#[path = "../shares/ways/mount.rs"]
mod mount;
mod patience;
mod plot;
#[path = "../shares/programs.rs"]
mod programs;
mod results;
mod table;
mod ways;

use anyhow::{Context, bail, ensure};
use calm::Calm;
use cells::{CELLS, Cell};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use fio::Load;
use interrupt::Interrupt;
use results::Results;
use std::path::PathBuf;
use table::Form;
use ways::{Bench, Way};

/// What a request through ioband costs, beside the device itself and others who do the like.
#[derive(Debug, Parser)]
struct Args {
    /// So many seconds are counted in each run.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    seconds: u32,
    /// Rounds: runs of each cell in each way.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Only this cell; may be given several times.
    #[arg(long, value_name = "CELL", value_parser = cell_names())]
    only: Vec<String>,
    /// Only this way; may be given several times. `raw` is always there, because all are compared with it.
    #[arg(long, value_name = "WAY")]
    way: Vec<Way>,
    /// The cells of several jobs as those of two users of the same weight, whom the scheduler has to tell apart.
    #[arg(long)]
    two_groups: bool,
    /// Print tables as Markdown.
    #[arg(long)]
    markdown: bool,
    /// Draw it as well, as SVG.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

fn cell_names() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(CELLS.iter().map(|cell| cell.key))
}

/// What there is to measure, and what came of it.
struct Comparison {
    cells: Vec<&'static Cell>,
    ways: Vec<Way>,
    results: Results,
    /// Ways that cannot be gone any further, and why.
    left_out: Vec<(Way, String)>,
    calm: Calm,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(nix::unistd::geteuid().is_root(), "this sets up a loop device and mounts: run it as root");
    machine::version("fio", "fio")?;
    let interrupt = Interrupt::watch()?;
    let mut comparison = Comparison::new(&args);
    let users = args.two_groups.then_some([1000, 2000]);
    let bench = Bench::new(&comparison.ways, users)?;
    let load = Load { seconds: args.seconds, users, interrupt: &interrupt };
    comparison.try_all(&bench, &interrupt)?;
    let form = if args.markdown { Form::Markdown } else { Form::Plain };
    for (name, value) in machine::facts(bench.disk(), args.seconds, args.repeat) {
        print!("{}", form.item(name, &value));
    }
    let measured = comparison.measure(&bench, &load, args.repeat);
    // If it ends early, what there is so far is worth seeing.
    if !comparison.results.is_empty() {
        print!("{}", comparison.report(form, args.two_groups));
        if let Some(path) = &args.plot {
            let svg = plot::svg(&comparison.results, &comparison.cells, &comparison.ways)?;
            std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    measured
}

impl Comparison {
    fn new(args: &Args) -> Self {
        let cells =
            CELLS.iter().filter(|cell| args.only.is_empty() || args.only.iter().any(|key| key == cell.key));
        let wanted = |way: &Way| args.way.is_empty() || *way == Way::Raw || args.way.contains(way);
        let ways = Way::value_variants().iter().copied().filter(wanted);
        Self {
            cells: cells.collect(),
            ways: ways.collect(),
            results: Results::default(),
            left_out: Vec::new(),
            calm: Calm::default(),
        }
    }

    /// Goes each way once, so that what is missing is known before anything is measured.
    fn try_all(&mut self, bench: &Bench, interrupt: &Interrupt) -> anyhow::Result<()> {
        for way in self.ways.clone() {
            interrupt.check()?;
            if let Err(error) = bench.serve(way) {
                self.leave_out(way, &error)?;
            }
        }
        Ok(())
    }

    fn measure(&mut self, bench: &Bench, load: &Load<'_>, repeat: u32) -> anyhow::Result<()> {
        for round in 1..=repeat {
            for (number, cell) in self.cells.clone().into_iter().enumerate() {
                let mut turns = self.ways.clone();
                turns.retain(|way| self.left_out.iter().all(|(left, _)| left != way));
                let ways = turns.len();
                // Who was second in the last cell and in the last round is first now.
                turns.rotate_left((round as usize - 1 + number) % ways);
                for way in turns {
                    eprintln!("{round}/{repeat} {}: {}", cell.title, way.name());
                    self.calm.look()?;
                    let run = || {
                        let served = bench.serve(way)?;
                        load.run(cell, served.file(), served.pid())
                    };
                    let got = run();
                    load.interrupt.check()?;
                    match got {
                        Ok(figures) => self.results.add(cell, way, round, figures),
                        Err(error) => self.leave_out(way, &error)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// The others go on without it, unless it is what they are compared with.
    fn leave_out(&mut self, way: Way, error: &anyhow::Error) -> anyhow::Result<()> {
        // Programs that are called wrongly explain themselves at length, after the first line.
        let reason = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
        if way == Way::Raw {
            bail!("the device itself cannot be measured: {reason}");
        }
        eprintln!("left out: {}: {reason}", way.name());
        self.left_out.push((way, reason));
        Ok(())
    }

    fn report(&self, form: Form, two_groups: bool) -> String {
        let left_out = self
            .left_out
            .iter()
            .map(|(way, reason)| form.item("left out", &format!("{}: {reason}", way.name())));
        let mut text: String = left_out.collect();
        text += &form.item("calm", &self.calm.describe());
        for cell in &self.cells {
            let users = if two_groups && cell.has_many_jobs() { ", of two users" } else { "" };
            text += &form.heading(&format!("{}{users}", cell.title));
            text += &table::table(form, &self.results, cell, &self.ways);
        }
        text += &form.heading("Marks");
        for (what, verdict) in marks::lines(&self.results, &self.cells) {
            text += &form.item(&what, &verdict);
        }
        text
    }
}
