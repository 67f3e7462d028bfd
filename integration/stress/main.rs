//! Everything at once, for as long as one likes: users write and read, the configuration changes, disks fail, and whoever
//! serves is killed or replaced. A journal has all that was acknowledged, and in the end everything must be there.
//!
//!     cargo build --release && cargo run --release --example stress -- --minutes 30
//!
//! It needs root: users are threads with a uid of their own, and a loop device is one of the disks. Everything is cleaned up,
//! whatever happens. Ctrl-C ends the time, and what was done until then is looked at as at any end. Exit status 1 with the reasons if anything was not as it must be; `--seed` makes the same decisions
//! again, though not at the same moments.

mod chaos;
#[path = "../bench/shares/interrupt.rs"]
mod interrupt;
mod journal;
mod stage;
mod user;
mod verdict;
mod wanted;

use chaos::Chaos;
use clap::Parser;
use interrupt::Interrupt;
use stage::{Stage, Use};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use user::Users;
use verdict::Verdict;

#[derive(Debug, Parser)]
struct Args {
    /// How long, in minutes
    #[arg(long, default_value_t = 0)]
    minutes: u64,
    /// And in seconds
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Of all decisions
    #[arg(long)]
    seed: Option<u64>,
    /// How requests come from the kernel; by rings a mount does not survive a kill, so there are upgrades only
    #[arg(long, default_value = "dev", value_parser = ["dev", "uring"])]
    transport: String,
    /// The program; that beside this one if it is left out
    #[arg(long)]
    program: Option<PathBuf>,
    /// Where the disks are made
    #[arg(long, default_value = "/tmp")]
    folder: PathBuf,
}

/// How long the load runs before it is disturbed, and how long shares are measured at the end.
const CALM: Duration = Duration::from_secs(2);

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let interrupt = Interrupt::watch()?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let time = Duration::from_secs(args.minutes * 60 + args.seconds).max(Duration::from_secs(1));
    println!("stress: {} s by {}, --seed {seed}", time.as_secs(), args.transport);
    let verdict = Arc::new(Verdict::default());
    let program = match args.program {
        Some(program) => program.canonicalize()?,
        None => std::env::current_exe()?.with_file_name("../ioband").canonicalize()?,
    };
    let stage = Arc::new(Stage::new(program, &args.folder, &args.transport, verdict.clone())?);
    let result = run(&stage, seed, time, args.transport == "dev", &interrupt);
    // Whatever happened: nobody hangs on a mount that is in the way.
    stage.clean_up();
    if let Err(error) = result {
        verdict.violated(format!("{error:#}"));
    }
    Ok(verdict.print(&stage))
}

fn run(
    stage: &Arc<Stage>,
    seed: u64,
    time: Duration,
    kills: bool,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let verdict = stage.verdict.clone();
    let users = Users::start(stage, seed)?;
    let watchdog = users.watch(stage.clone());
    sleep(&verdict, CALM);
    let before = Use::of(stage)?;

    let chaos = Chaos::start(stage.clone(), seed, kills);
    let start = Instant::now();
    while start.elapsed() < time && !verdict.is_over() && interrupt.check().is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    verdict.note("disturbed for", format!("{} s", start.elapsed().as_secs()));
    chaos.stop();

    // Calm again: shares are what they are said to be, and nothing has grown.
    if !verdict.is_over() {
        users.measure_shares(stage)?;
        stage.compare_use(&before, &Use::of(stage)?);
    }
    let journals = users.stop();
    watchdog.stop();
    if verdict.is_over() {
        return Ok(());
    }
    stage.check_images(&journals);
    stage.check_processes();
    stage.unmount()?;
    stage.check_disks(&journals)?;
    stage.check_log();
    Ok(())
}

/// Unless it is over before.
fn sleep(verdict: &Verdict, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time && !verdict.is_over() {
        std::thread::sleep(Duration::from_millis(20));
    }
}
