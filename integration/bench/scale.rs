//! Where the next lock is: how long a disk's one lock is held for a request, and what that would come to on more cores.
//!
//! ```text
//! cargo run --release --example scale [-- --outside NANOSECONDS]
//! ```
//!
//! First it *measures*: one thread serves a file on a tmpfs through an engine, as the threads of a mount do, and the time
//! between locking and unlocking is summed, for batches of several sizes, and for one group and a thousand. Then it
//! *simulates*: so many cores take turns at that lock, each working `--outside` nanoseconds on a request without it (system
//! calls, copying, the caller's own work: what is left of what `speed` measures), first come, first served. What it leaves
//! out: caches that cores take from each other, and locks in the kernel.
#![forbid(unsafe_code)]

use anyhow::Context;
use clap::Parser;
use ioband::classify::{Caller, GroupId, GroupType, Identity};
use ioband::clock::Clock;
use ioband::config::{Extent, GroupPlan};
use ioband::device::{BackendKind, Event, Lane, OpenMode, Payload, Target};
use ioband::engine::{BandSettings, Engine, EngineSettings, Image, Outbox, Request, Ticket, Work};
use ioband::sched::{Limits, Policy, Settings};
use ioband::units::{Bytes, Weight};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Instant;

const SIZE: u64 = 64 << 20;
const BLOCK: u64 = 4096;
const REQUESTS: u64 = 400_000;
const BATCHES: [usize; 3] = [1, 8, 32];

/// How long the lock of a disk is held for a request, and what that would come to on more cores.
#[derive(Debug, Parser)]
struct Args {
    /// Nanoseconds that a core works on a request without the lock
    #[arg(long, default_value_t = 12_000)]
    outside: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    println!("{:<24} {:>8} {:>12}", "held for a request, ns", "batch", "median of 5");
    let mut held = Vec::new();
    for groups in [1, 1000] {
        for batch in BATCHES {
            let mut runs = (0..5).map(|_| measure(groups, batch)).collect::<Result<Vec<_>, _>>()?;
            runs.sort_unstable();
            println!(
                "{:<24} {batch:>8} {:>12}",
                format!("{groups} group{}", if groups == 1 { "" } else { "s" }),
                runs[2]
            );
            held.push(runs[2]);
        }
    }
    println!("\n{} ns without the lock; thousand requests a second of one disk:", args.outside);
    println!("{:>8} {:>14} {:>14} {:>20}", "cores", "batches of 1", "batches of 32", "without any lock");
    for cores in [1, 2, 4, 8, 16, 32, 64, 128] {
        let free = cores * 1_000_000 / args.outside;
        let [one, many] = [(held[3], 1), (held[5], 32)]
            .map(|(held, batch)| simulate(cores, held * batch, args.outside * batch) * batch / 1000);
        println!("{cores:>8} {one:>14} {many:>14} {free:>20}");
    }
    Ok(())
}

/// Nanoseconds that the lock is held for a request, with so many groups at work and so many requests in each batch.
fn measure(groups: u32, batch: usize) -> anyhow::Result<u64> {
    let folder = tempfile::tempdir_in("/dev/shm").context("a folder on a tmpfs")?;
    let target = Target::open(&folder.path().join("disk"), Some(Bytes(SIZE)), OpenMode::default())?;
    let target = Arc::new(target);
    let mut free: Vec<_> = (0..batch).map(|_| Payload::zeroed(&target, 0, BLOCK as usize)).collect();
    let weight = Weight::default();
    let plan = |id| GroupPlan { id: GroupId::Number(id), weight, limits: Limits::default() };
    let band = BandSettings {
        name: "scale".into(),
        target: target.clone(),
        group_type: GroupType::User,
        policy: Policy::Weight,
        weight,
        limits: Limits::default(),
        groups: (1..=groups).map(plan).collect(),
    };
    // Everything that is asked for may be in flight: what the lock costs does not depend on the depth.
    let settings = Settings { io_limit: batch as u32, ..Settings::default() };
    let settings =
        EngineSettings { id: 1, settings, unscheduled: false, simulate: None, budget: Arc::default() };
    let engine = Engine::new(0, settings, Clock::start());
    let band = engine.change().add_band(band);
    let extents = vec![Extent { offset: Bytes(0), size: Bytes(SIZE) }];
    let image = Arc::new(Image::new("scale.img".into(), target, band, extents));
    let mut lane = Lane::new(BackendKind::Auto, 256)?;
    let (mut outbox, mut events) = (Outbox::default(), Vec::new());
    let (mut asked, mut answered, mut held) = (0_u64, 0_u64, 0_u128);
    while answered < REQUESTS {
        let ready: Vec<_> = free
            .drain(..)
            .map(|into| {
                let (unique, offset) = (asked, asked.wrapping_mul(7919 * BLOCK) % SIZE);
                asked += 1;
                let uid = 1 + (unique % u64::from(groups)) as u32;
                let work = Work::Read { len: BLOCK, into: Some(into) };
                let identity = Identity::from_ids(uid, 0);
                let caller = Caller { uid, gid: 0, tid: 0 };
                let request = Request { image: image.clone(), offset, work, identity, caller };
                (engine.prepare(request), Ticket { slot: 0, kind: 0, len: 0, unique, may_leave: false })
            })
            .collect();
        let start = Instant::now();
        let mut turn = engine.turn(&mut outbox);
        for event in events.drain(..) {
            if let Event::Finished(finished) = event {
                turn.finished(finished);
            }
        }
        for (prepared, ticket) in ready {
            turn.submit(prepared, ticket);
        }
        // Nobody has to come again by himself: all that is held waits for a completion.
        let _ = turn.end(|_| ());
        held += start.elapsed().as_nanos();
        lane.start(&mut outbox.calls);
        for answer in outbox.answers.drain(..) {
            answered += 1;
            free.extend(answer.result.context("a read failed")?);
        }
        lane.wait((!free.is_empty()).then_some(std::time::Duration::ZERO), &mut events)?;
    }
    Ok((held / u128::from(answered)) as u64)
}

/// Batches a second on so many cores, each of which holds the lock for `inside` and works without it for `outside`
/// nanoseconds, in turns: those who wait for it get it in the order in which they came.
fn simulate(cores: u64, inside: u64, outside: u64) -> u64 {
    const SPAN: u64 = 1_000_000_000;
    // When each core asks for the lock. They begin at different times, as they would.
    let mut asking: BinaryHeap<_> = (0..cores).map(|core| Reverse(core * outside / cores)).collect();
    let (mut free_at, mut done) = (0, 0);
    while let Some(Reverse(asks)) = asking.pop().filter(|Reverse(asks)| *asks < SPAN) {
        free_at = free_at.max(asks) + inside;
        asking.push(Reverse(free_at + outside));
        done += u64::from(free_at < SPAN);
    }
    done
}
