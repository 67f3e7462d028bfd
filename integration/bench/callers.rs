//! What it costs to tell who is calling: `cargo run --release --example callers`.
//!
//! Prints nanoseconds for each way to ask, the median and the spread of several rounds that take turns. One thread
//! asks about itself; a real mount asks about many, so its caches are colder.
#![forbid(unsafe_code)]

use ioband::classify::{Caller, Callers, GroupType, Wants};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 9;

/// A way to ask: its name, how often a round asks, and the asking.
type Case<'a> = (&'a str, u32, Box<dyn FnMut() + 'a>);

fn main() -> anyhow::Result<()> {
    let me = Caller { uid: 1000, gid: 1000, tid: nix::unistd::gettid().as_raw().try_into()? };
    let all = Wants::of([GroupType::Pid, GroupType::Pgrp, GroupType::Cgroup]);
    let (pid, pgrp) = (Wants::of([GroupType::Pid]), Wants::of([GroupType::Pgrp]));
    let (none, one, every, fresh) =
        (Callers::new(Wants::default())?, Callers::new(pid)?, Callers::new(all)?, Callers::new(all)?);
    let mut turn = false;
    let (mut asked, mut round) = (0_u32, one.round());
    let mut cases: Vec<Case<'_>> = vec![
        ("types none, user, gid, image", 200_000, Box::new(|| drop(black_box(none.resolve(me))))),
        ("type pid, known", 200_000, Box::new(|| drop(black_box(one.resolve(me))))),
        ("types pid, pgrp and cgroup, known", 200_000, Box::new(|| drop(black_box(every.resolve(me))))),
        (
            "type pid, known, in rounds of 32",
            200_000,
            Box::new(|| {
                // As a thread that serves asks about a batch.
                if asked.is_multiple_of(32) {
                    round = one.round();
                }
                asked += 1;
                drop(black_box(round.resolve(me)));
            }),
        ),
        (
            "type pid or pgrp, never seen",
            4_000,
            Box::new(|| {
                // A change of what is wanted makes the next answer a fresh one.
                turn = !turn;
                fresh.set_wants(if turn { pid } else { pgrp });
                drop(black_box(fresh.resolve(me)));
            }),
        ),
    ];
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for ((_, asks, ask), times) in cases.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (0..*asks).for_each(|_| ask());
            times.push(start.elapsed().as_nanos() / u128::from(*asks));
        }
    }
    println!("{:<36} {:>9} {:>9} {:>9}", "ns for each request", "median", "least", "most");
    for ((name, ..), times) in cases.iter().zip(&mut times) {
        times.sort_unstable();
        println!("{name:<36} {:>9} {:>9} {:>9}", times[ROUNDS / 2], times[0], times[ROUNDS - 1]);
    }
    Ok(())
}
