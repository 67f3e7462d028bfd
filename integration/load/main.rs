//! `load`: makes requests to one file and says how they fared.
//!
//! Integration tests start it as a process of its own, so that it has the uid, gid, pid or process group that a
//! test is about. Each thread has one request in flight, at random offsets, with O_DIRECT. For example, two that
//! start together, run for three seconds and leave the first half second out:
//!
//! ```text
//! load --file vm1.img --depth 4 --size 4K --rw read --seconds 3 --window-start-ms 500 --uid 1000 --gid 1000 --wait-stdin
//! > ready 4711                          (both opened their file: send each a line)
//! > {"requests":12034,"bytes":49291264,"errors":0,"errno":{},"seconds":2.500,"iops":4813.6,
//!    "latency_us":{"mean":831.2,"p50":790.5,"p99":1411.1,"max":2107.4}}        (on one line)
//! ```
//!
//! What it does not do: asynchronous I/O (a depth of 32 takes 32 threads), data checks, buffered I/O.
#![forbid(unsafe_code)]

mod report;
mod worker;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use ioband::units::{Bytes, SECTOR_SIZE};
use nix::unistd::{Gid, Pid, Uid, setgid, setgroups, setpgid, setuid};
use report::Report;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use worker::{Job, Window};

/// Makes requests to one file and says how they fared.
#[derive(Debug, Parser)]
struct Args {
    /// The file or block device.
    #[arg(long)]
    file: PathBuf,
    /// Requests in flight: as many threads, each with one; said twice, the last counts.
    #[arg(
        long,
        visible_alias = "depth",
        overrides_with = "threads",
        default_value = "1",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    threads: u32,
    /// Bytes of a request (4K, 1M …); of several sizes each request takes one at random.
    #[arg(long, value_delimiter = ',', default_value = "4K")]
    size: Vec<Bytes>,
    /// What the requests are; randrw is half and half.
    #[arg(long, default_value = "read")]
    rw: Direction,
    /// Ends after this time …
    #[arg(long)]
    seconds: Option<f64>,
    /// … or after so many requests of all threads together, counted or not; whichever comes first.
    #[arg(long)]
    requests: Option<u64>,
    /// Completions before this time are not counted.
    #[arg(long, default_value_t = 0)]
    window_start_ms: u64,
    /// All requests come from other threads than the main one, which otherwise takes part.
    #[arg(long)]
    off_main: bool,
    /// Becomes this user before it opens the file (and leaves all supplementary groups).
    #[arg(long)]
    uid: Option<u32>,
    /// Becomes this group, likewise.
    #[arg(long)]
    gid: Option<u32>,
    /// Makes a process group of its own.
    #[arg(long)]
    setpgid: bool,
    /// Each thread waits so long between two requests.
    #[arg(long, default_value_t = 0)]
    think_us: u64,
    /// The part of the file to access, from A to before B; all of it otherwise.
    #[arg(long, value_parser = parse_range, value_name = "A..B")]
    offset_range: Option<Range<u64>>,
    /// Same seed, same requests.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints `ready PID` when the file is open and starts at a line on stdin; a line `stop` or the end of stdin
    /// ends it. Without this, stdin is not read.
    #[arg(long)]
    wait_stdin: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    Read,
    Write,
    Randrw,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    become_caller(&args)?;
    let report = run(&args, BufReader::new(std::io::stdin()), &mut std::io::stdout())?;
    println!("{report}");
    Ok(())
}

/// Takes on the uid, gid and process group that the requests are to come from.
fn become_caller(args: &Args) -> anyhow::Result<()> {
    if args.setpgid {
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).context("cannot make a process group")?;
    }
    if args.uid.is_some() || args.gid.is_some() {
        setgroups(&[]).context("cannot leave the supplementary groups; this takes root")?;
    }
    if let Some(gid) = args.gid {
        setgid(Gid::from_raw(gid)).with_context(|| format!("cannot become group {gid}"))?;
    }
    if let Some(uid) = args.uid {
        setuid(Uid::from_raw(uid)).with_context(|| format!("cannot become user {uid}"))?;
    }
    Ok(())
}

/// Runs the whole load; `input` and `output` are what starts and stops it.
fn run(args: &Args, input: impl BufRead + Send + 'static, output: &mut impl Write) -> anyhow::Result<Report> {
    let ends = args.seconds.is_some() || args.requests.is_some() || args.wait_stdin;
    ensure!(ends, "nothing would end this; say --seconds, --requests or --wait-stdin");
    let (file, length) = open(args)?;
    let job = job(args, file, length)?;
    let mut go = true;
    let mut input = Some(input).filter(|_| args.wait_stdin);
    if let Some(input) = &mut input {
        writeln!(output, "ready {}", std::process::id())?;
        output.flush()?;
        go = next_line(input).is_some_and(|line| line != "stop");
    }
    let window = Arc::new(Window::open_now(args.window_start_ms, args.seconds, args.requests));
    if !go {
        window.close();
    }
    if let Some(mut input) = input {
        let window = window.clone();
        // Not joined: it may wait for a line for ever, and ends with the process.
        std::thread::spawn(move || {
            while next_line(&mut input).is_some_and(|line| line != "stop") {}
            window.close();
        });
    }
    Ok(std::thread::scope(|scope| {
        let (job, window) = (&job, &*window);
        let others = u64::from(args.threads) - u64::from(!args.off_main);
        let threads: Vec<_> = (1..=others).map(|n| scope.spawn(move || job.run(n, window))).collect();
        let mut report = if args.off_main { Report::default() } else { job.run(0, window) };
        threads.into_iter().for_each(|thread| report.add(thread.join().expect("a worker does not panic")));
        report.over(window.counted())
    }))
}

fn next_line(input: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    let length = input.read_line(&mut line).ok()?;
    (length > 0).then(|| line.trim().to_owned())
}

fn open(args: &Args) -> anyhow::Result<(File, u64)> {
    let name = args.file.display();
    let mut file = OpenOptions::new()
        .read(args.rw != Direction::Write)
        .write(args.rw != Direction::Read)
        .custom_flags(libc::O_DIRECT)
        .open(&args.file)
        .with_context(|| format!("cannot open {name} with O_DIRECT"))?;
    // The metadata of a block device has no length.
    let length = file.seek(SeekFrom::End(0)).with_context(|| format!("cannot see how long {name} is"))?;
    Ok((file, length))
}

fn job(args: &Args, file: File, length: u64) -> anyhow::Result<Job> {
    let range = args.offset_range.clone().unwrap_or(0..length);
    for size in &args.size {
        ensure!(size.0 > 0 && size.is_sector_aligned(), "--size {size}: not a multiple of {SECTOR_SIZE}");
        ensure!(
            range.start.is_multiple_of(SECTOR_SIZE)
                && range.end <= length
                && range.end - range.start >= size.0,
            "{}..{}: not a part of the file's {length} bytes that starts on a sector and holds {size} bytes",
            range.start,
            range.end,
        );
    }
    Ok(Job {
        file,
        sizes: args.size.clone(),
        range,
        direction: args.rw,
        think: std::time::Duration::from_micros(args.think_us),
        seed: args.seed,
    })
}

fn parse_range(text: &str) -> anyhow::Result<Range<u64>> {
    let (start, end) = text.split_once("..").context("write a range as A..B, such as 1M..1G")?;
    let (start, end) = (start.parse::<Bytes>()?.0, end.parse::<Bytes>()?.0);
    ensure!(start < end, "{text} is empty");
    Ok(start..end)
}

#[cfg(test)]
mod tests;
