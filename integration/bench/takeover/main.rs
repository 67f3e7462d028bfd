//! What callers notice when the process that serves them is killed, or replaced by another program. As root, with fio and
//! qemu-io:
//!
//! ```text
//! cargo run --release --example takeover                          (100 kills, then 20 upgrades: about two minutes)
//! cargo run --release --example takeover -- --kills 0 --upgrades 50 --transport uring
//! ```
//!
//! fio writes to four images, 32 requests at once to each, and verifies what it wrote; qemu-io writes patterns to a fifth and
//! reads them again; a reader reads a sixth, one request after the other, and sees for how long it waits. The workers are
//! killed with SIGKILL at random moments. What is told: errors and wrong bytes, which must be none, and how long the reader
//! waited at each kill.
#![forbid(unsafe_code)]

#[path = "../speed/child.rs"]
mod child;
#[path = "../shares/interrupt.rs"]
mod interrupt;
#[path = "../shares/ways/mount.rs"]
mod mount;
#[path = "../speed/patience.rs"]
mod patience;
#[path = "../shares/programs.rs"]
mod programs;

use anyhow::{Context, ensure};
use child::Program;
use clap::Parser;
use interrupt::Interrupt;
use mount::Mount;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use programs::{Programs, run};
use serde::Deserialize;
use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What callers notice when the process that serves them is killed or replaced.
#[derive(Debug, Parser)]
struct Args {
    /// So many workers are killed.
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// So many are replaced by the same program.
    #[arg(long, default_value_t = 20)]
    upgrades: u32,
    /// Between two of them there are between a tenth of this and this, in milliseconds.
    #[arg(long, default_value_t = 800)]
    pause: u64,
    /// How requests come: dev or uring, where a killed worker takes the mount along.
    #[arg(long, default_value = "dev")]
    transport: String,
    /// For the random moments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const CONFIG: &str = "devices: {d: {path: disk, size: 400MiB, type: image}}\n\
    images:\n  vm1.img: {device: d, size: 64MiB}\n  vm2.img: {device: d, offset: 64MiB, size: 64MiB}\n  \
    vm3.img: {device: d, offset: 128MiB, size: 64MiB}\n  vm4.img: {device: d, offset: 192MiB, size: 64MiB}\n  \
    guest.img: {device: d, offset: 256MiB, size: 64MiB}\n  reader.img: {device: d, offset: 320MiB, size: 64MiB}\n";

/// What `ls.json` says of the processes.
#[derive(Deserialize)]
struct List {
    service: Service,
}

#[derive(Deserialize)]
struct Service {
    worker: u32,
    before: u32,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let interrupt = Interrupt::watch()?;
    let programs = Programs::build()?;
    let mount = Mount::new(&programs, CONFIG, &["--transport", &args.transport])?;
    let mut bench = Bench { mount, programs, random: fastrand::Rng::with_seed(args.seed), interrupt };
    println!("| what | how often | errors | wrong bytes | guest | reader waited, median | p99 | longest |");
    println!("|---|---|---|---|---|---|---|---|");
    for (what, often) in [(Deed::Kill, args.kills), (Deed::Upgrade, args.upgrades)] {
        if often > 0 {
            println!("{}", measure(what, often, &args, &mut bench)?);
        }
    }
    Ok(())
}

/// What is there for all that is measured.
struct Bench {
    mount: Mount,
    programs: Programs,
    random: fastrand::Rng,
    interrupt: Interrupt,
}

/// What is done to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Kill,
    Upgrade,
}

/// Does it so often, under load; a line of the table.
fn measure(what: Deed, often: u32, args: &Args, bench: &mut Bench) -> anyhow::Result<String> {
    let Bench { mount, programs, random, interrupt } = bench;
    let folder = tempfile::Builder::new().prefix("ioband-takeover-").tempdir()?;
    let mut fio = start_fio(mount, folder.path())?;
    let mut guest = Guest::start(mount.file("guest.img"))?;
    let reader = Reader::start(mount.file("reader.img"))?;
    let mut waits = Vec::new();
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..often {
        interrupt.check()?;
        std::thread::sleep(Duration::from_millis(random.u64(args.pause / 10..=args.pause)));
        let before = service(mount)?;
        reader.longest();
        match what {
            Deed::Kill => kill(Pid::from_raw(i32::try_from(before.worker)?), Signal::SIGKILL)?,
            Deed::Upgrade => {
                let mut upgrade = Command::new(&programs.ioband);
                run(upgrade.arg("upgrade").arg(mount.file("")))?;
            }
        }
        let late = Instant::now() + patience::PATIENCE;
        while service(mount)?.before == before.before {
            ensure!(Instant::now() < late, "no other worker follows");
            std::thread::sleep(Duration::from_millis(2));
        }
        // The reader's request may be among the last that are served again.
        std::thread::sleep(Duration::from_millis(20));
        waits.push(reader.longest());
    }
    let errors = fio.stop()?;
    let guest = guest.stop()?;
    reader.stop()?;
    waits.sort_unstable();
    let at = |part: usize| waits[(waits.len() * part).div_ceil(100).clamp(1, waits.len()) - 1];
    let ms = |wait: Duration| format!("{:.1} ms", wait.as_secs_f64() * 1000.0);
    Ok(format!(
        "| {what:?}, {} | {often} | {errors} | 0 | {guest} | {} | {} | {} |",
        args.transport,
        ms(at(50)),
        ms(at(99)),
        ms(at(100))
    ))
}

fn service(mount: &Mount) -> anyhow::Result<Service> {
    let list: List = serde_json::from_str(&std::fs::read_to_string(mount.file(".ioband/ls.json"))?)?;
    Ok(list.service)
}

/// fio, which ends with an error at the first error or wrong byte.
struct Fio {
    program: Program,
    report: PathBuf,
}

fn start_fio(mount: &Mount, folder: &Path) -> anyhow::Result<Fio> {
    let report = folder.join("report");
    let mut fio = Command::new("fio");
    fio.args(["--rw=randwrite", "--bs=4k", "--size=64M", "--iodepth=32", "--ioengine=libaio", "--direct=1"])
        .args(["--verify=crc32c", "--verify_backlog=1024", "--verify_fatal=1", "--exitall_on_error"])
        .args(["--time_based", "--runtime=1d", "--group_reporting", "--output-format=json"])
        .arg(format!("--output={}", report.display()))
        .current_dir(folder);
    for number in 1..=4 {
        let file = mount.file(&format!("vm{number}.img"));
        fio.arg(format!("--name=vm{number}")).arg(format!("--filename={}", file.display()));
    }
    Ok(Fio { program: Program::start(&mut fio)?, report })
}

impl Fio {
    /// Ends it; the errors that it saw.
    fn stop(&mut self) -> anyhow::Result<u64> {
        ensure!(
            self.program.ended()?.is_none(),
            "fio has seen an error or a wrong byte: {}\n{}",
            self.program.complaint(),
            std::fs::read_to_string(&self.report).unwrap_or_default()
        );
        kill(Pid::from_raw(i32::try_from(self.program.pid())?), Signal::SIGINT)?;
        let late = Instant::now() + patience::PATIENCE;
        while self.program.ended()?.is_none() {
            ensure!(Instant::now() < late, "fio does not end");
            std::thread::sleep(patience::LOOK);
        }
        let report = std::fs::read_to_string(&self.report).context("fio left no report")?;
        let start = report.find('{').context("fio left no report")?;
        let report: serde_json::Value = serde_json::from_str(&report[start..])?;
        let jobs = report["jobs"].as_array().context("a report without jobs")?;
        Ok(jobs
            .iter()
            .map(|job| job["error"].as_u64().unwrap_or(1) + job["total_err"].as_u64().unwrap_or(0))
            .sum())
    }
}

/// qemu-io, which is fed with commands until it is told to stop.
struct Guest {
    child: std::process::Child,
    said: File,
    stop: Arc<AtomicBool>,
    feeder: std::thread::JoinHandle<std::io::Result<u64>>,
}

impl Guest {
    fn start(image: PathBuf) -> anyhow::Result<Self> {
        // A file and not a pipe, which would have to be read while it runs.
        let said = tempfile::tempfile().context("cannot make a temporary file")?;
        let mut child = Command::new("qemu-io")
            .args(["-f", "raw", "-n", "-t", "none"])
            .arg(image)
            .stdin(Stdio::piped())
            .stdout(said.try_clone()?)
            .stderr(said.try_clone()?)
            .process_group(0)
            .spawn()
            .context("cannot run qemu-io")?;
        let mut stdin = child.stdin.take().context("no pipe")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let feeder = std::thread::spawn(move || {
            let mut rounds = 0;
            while !stopped.load(Ordering::Relaxed) {
                let (pattern, at) = (rounds % 255 + 1, rounds * 7 % 1000 * 64);
                writeln!(stdin, "write -q -P {pattern} {at}k 64k\nread -q -P {pattern} {at}k 64k")?;
                if rounds % 32 == 0 {
                    writeln!(stdin, "flush")?;
                }
                rounds += 1;
            }
            Ok(rounds)
        });
        Ok(Self { child, said, stop, feeder })
    }

    /// Ends it; what it noticed.
    fn stop(&mut self) -> anyhow::Result<String> {
        self.stop.store(true, Ordering::Relaxed);
        let feeder = std::mem::replace(&mut self.feeder, std::thread::spawn(|| Ok(0)));
        let rounds = feeder.join().map_err(|_| anyhow::anyhow!("the feeder has panicked"))??;
        let status = self.child.wait()?;
        self.said.rewind()?;
        let said = std::io::read_to_string(&self.said)?;
        let well = status.success() && !said.contains("rror") && !said.contains("ailed");
        ensure!(well, "qemu-io: {status} {said}");
        Ok(format!("{rounds} rounds, nothing noticed"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads, one request after the other, and notes the longest that it waited.
struct Reader {
    stop: Arc<AtomicBool>,
    longest: Arc<Mutex<Duration>>,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Reader {
    fn start(image: PathBuf) -> anyhow::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(image)?;
        let (stop, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Duration::ZERO)));
        let (stopped, seen) = (stop.clone(), longest.clone());
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            for place in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let begin = Instant::now();
                file.read_exact_at(&mut bytes, place * 7 % 16_000 * 4096)?;
                let mut longest = seen.lock().unwrap_or_else(PoisonError::into_inner);
                *longest = begin.elapsed().max(*longest);
            }
            Ok(())
        });
        Ok(Self { stop, longest, thread: Some(thread) })
    }

    /// The longest wait since it was asked last.
    fn longest(&self) -> Duration {
        std::mem::take(&mut *self.longest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stop(mut self) -> anyhow::Result<()> {
        self.end().unwrap_or(Ok(()))
    }

    /// What came of it, unless that was asked before.
    fn end(&mut self) -> Option<anyhow::Result<()>> {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.take()?.join().map_err(|_| anyhow::anyhow!("the reader has panicked"));
        Some(result.and_then(|read| Ok(read?)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // The mount is in use while the image is open.
        self.end();
    }
}
