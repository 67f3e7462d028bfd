//! How long after a kill -9 of its owner a disk can be opened again: not before the dead process's last write has landed,
//! and that is most of the pause when a worker dies.
//!
//!     cargo run --release --example fence -- FILE-OR-DEVICE [KILLS]
//!
//! A child keeps 32 random writes of 4 KiB in flight, by each kind of lane. It is killed, and its disk is opened again and
//! again, as a successor does. What is on the disk is lost!

use anyhow::{Context, bail};
use ioband::clock::Clock;
use ioband::device::{
    BackendKind, Calls, Device, Event, Lane, Op, OpenError, OpenMode, Part, Payload, Target,
};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEPTH: u64 = 32;
const BLOCK: u64 = 4096;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--write", path, backend] => write(Path::new(path), kind(backend)?),
        [path] => measure(Path::new(path), 50),
        [path, kills] => measure(Path::new(path), kills.parse().context("a number of kills")?),
        _ => bail!("usage: fence FILE-OR-DEVICE [KILLS]"),
    }
}

fn kind(name: &str) -> anyhow::Result<BackendKind> {
    match name {
        "io_uring" => Ok(BackendKind::Uring),
        "threads" => Ok(BackendKind::Threads),
        _ => bail!("no lane is called {name}"),
    }
}

/// Writes until it is killed.
fn write(path: &Path, kind: BackendKind) -> anyhow::Result<()> {
    let target = Arc::new(Target::open(path, None, OpenMode::default())?);
    let blocks = target.size().0 / BLOCK;
    let clock = Clock::start();
    let mut lane = Lane::new(kind, DEPTH as u32)?;
    let mut device = Device::new(0, None);
    let (mut calls, mut events, mut done) = (Calls::default(), Vec::new(), Vec::new());
    let data = [7; BLOCK as usize];
    let mut random = fastrand::Rng::new();
    let mut submit = |device: &mut Device, calls: &mut Calls| {
        let offset = random.u64(..blocks) * BLOCK;
        let payload = Some(Payload::for_write(&target, offset, &data));
        let part = Part { token: 0, target: target.clone(), op: Op::Write, offset, len: BLOCK, payload };
        device.submit(part, clock.now(), calls);
    };
    (0..DEPTH).for_each(|_| submit(&mut device, &mut calls));
    let mut ready = false;
    loop {
        lane.start(&mut calls);
        lane.wait(None, &mut events)?;
        for event in events.drain(..) {
            if let Event::Finished(finished) = event {
                device.finished(finished, clock.now(), &mut calls);
            }
        }
        device.collect(clock.now(), &mut done);
        for done in done.drain(..) {
            done.result?;
            submit(&mut device, &mut calls);
        }
        if !std::mem::replace(&mut ready, true) {
            println!("writing");
        }
    }
}

/// A child that writes.
struct Writer(Child);

impl Writer {
    fn start(path: &Path, backend: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let child = command.arg("--write").arg(path).arg(backend).stdout(Stdio::piped()).spawn()?;
        let mut this = Self(child);
        let out = this.0.stdout.take().context("its output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        if line.trim() != "writing" {
            bail!("the child does not write");
        }
        Ok(this)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(path: &Path, kills: usize) -> anyhow::Result<()> {
    println!("{}: milliseconds from kill -9 to the end of the process, and to the opening", path.display());
    println!("{:10} {:>18} {:>18} {:>18}", "", "median", "p99", "longest");
    for backend in ["io_uring", "threads"] {
        let (mut ended, mut opened) = (Vec::new(), Vec::new());
        for _ in 0..kills {
            let mut writer = Writer::start(path, backend)?;
            std::thread::sleep(Duration::from_micros(fastrand::u64(2_000..40_000)));
            let start = Instant::now();
            writer.0.kill()?;
            writer.0.wait()?;
            ended.push(start.elapsed());
            loop {
                match Target::open(path, None, OpenMode::default()) {
                    Ok(_) => break,
                    Err(OpenError::InUse { .. } | OpenError::Locked { .. }) => {
                        std::thread::sleep(Duration::from_micros(100));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            opened.push(start.elapsed());
        }
        ended.sort();
        opened.sort();
        let at = |part: usize| {
            let at = (kills * part / 100).min(kills - 1);
            format!("{:.1} / {:.1}", ended[at].as_secs_f64() * 1e3, opened[at].as_secs_f64() * 1e3)
        };
        println!("{backend:10} {:>18} {:>18} {:>18}", at(50), at(99), at(100));
    }
    Ok(())
}
