//! What one decision of the scheduler costs, and whether it stays so with very many groups.
//!
//! ```text
//! cargo bench --bench decision                      # everything
//! cargo bench --bench decision -- 100000            # only what has this in its name
//! cargo bench --bench decision -- --warm-up-time 1 --measurement-time 2
//! ```
//!
//! A decision is what a request costs the scheduler in all: the oldest request in flight completes, another one comes
//! from the group that was served last, and the disk is asked for the next one, until it has none that may go. The disk
//! is kept full: 32 are in flight, and each *active* group has a few more queued; all other groups are idle. Time is
//! virtual, so only our own work is measured. Weights vary from 1 to 100, and the active groups lie evenly among all, as
//! far apart in memory as they can.
//!
//! The cases: *weights* (`io_limit` pinned at 32), *caps* (the same, and each active group has a cap on requests and one
//! on bytes that it never reaches), *automatic* (`io_limit` left to the disk, which takes 32 at a time), and
//! *synchronous* (as *weights*, but each active group has only one request at a time: every decision takes its group out
//! of the line, waits for it and lets it join again).
//!
//! How to read it: all groups but the active ones should cost nothing, and the active ones the logarithm of their number.
//! The last line compares the largest case of *weights* with (100 groups, 100 active), measured in turns, so that what
//! else the machine does falls on both: 1.5 is the logarithm (1.5) and little else, and above 3 something is no longer
//! logarithmic.
#![forbid(unsafe_code)]

use criterion::{BenchmarkId, Criterion};
use ioband::sched::{Cap, Disk, Dispatched, GroupKey, Limits, Next, Op, Policy, Request, Settings};
use ioband::units::{Nanos, Weight};
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Requests that the simulated device works on at the same time.
const PARALLEL: u32 = 32;
/// How long each takes in it.
const SERVICE: Nanos = Nanos::from_micros(160);
/// Requests that a flood keeps queued.
const QUEUED: usize = 4;
/// (Groups, active groups).
const SIZES: [(usize, usize); 12] = [
    (1, 1),
    (100, 1),
    (100, 10),
    (100, 100),
    (10_000, 1),
    (10_000, 10),
    (10_000, 100),
    (10_000, 1_000),
    (100_000, 1),
    (100_000, 10),
    (100_000, 100),
    (100_000, 1_000),
];
/// The sizes that are compared in the end, the smaller one first.
const COMPARED: [(usize, usize); 2] = [(100, 100), (100_000, 1_000)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Weights,
    Caps,
    Automatic,
    Synchronous,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Caps => "caps",
            Self::Automatic => "automatic",
            Self::Synchronous => "synchronous",
        }
    }
}

/// A disk that is kept full.
struct Load {
    disk: Disk,
    case: Case,
    /// The groups that want something.
    active: Vec<GroupKey>,
    in_flight: VecDeque<Dispatched>,
    /// Whose turn it is to make a request: of floods, who was served last.
    served: Vec<usize>,
    serial: u64,
    now: Nanos,
}

impl Load {
    fn new(case: Case, (groups, active): (usize, usize)) -> Self {
        let io_limit = if case == Case::Automatic { 0 } else { PARALLEL };
        let mut disk = Disk::new(Settings { io_limit, ..Settings::default() });
        // In no order that the even spread of the active groups could fall in step with.
        let weight = |n: usize| {
            let scattered = (n as u32).wrapping_mul(2_654_435_769) >> 16;
            Weight::new(1 + scattered % 100).expect("1 to 100")
        };
        let keys: Vec<_> = (0..groups).map(|n| disk.add_group(Policy::Weight, weight(n))).collect();
        let active: Vec<_> = (0..active).map(|n| keys[n * groups / active]).collect();
        let far_above = NonZeroU64::new(1 << 40).map(Cap::new);
        if case == Case::Caps {
            let limits = Limits { max_bandwidth: far_above, max_iops: far_above, min_bandwidth: None };
            active.iter().for_each(|key| disk.set_limits(*key, limits, Nanos(0)));
        }
        let (in_flight, served) = (VecDeque::new(), Vec::new());
        let mut load = Self { disk, case, active, in_flight, served, serial: 0, now: Nanos(0) };
        let each = if case == Case::Synchronous { 1 } else { QUEUED };
        for group in 0..load.active.len() {
            (0..each).for_each(|_| load.submit(group));
        }
        load.dispatch();
        // Until the tags of all are spread as they will be, and the automatic depth is where it stays.
        (0..200_000 + 20 * load.active.len()).for_each(|_| load.decide());
        load
    }

    /// One decision.
    fn decide(&mut self) {
        let at_once = (self.in_flight.len() as u64).clamp(1, PARALLEL.into());
        self.now = self.now.after(Nanos(SERVICE.0 / at_once));
        let done = self.in_flight.pop_front().expect("the disk is kept full");
        if self.case == Case::Synchronous {
            self.served.clear();
            self.served.push(group_of(done.id));
        }
        self.disk.complete(done, self.now);
        while let Some(group) = self.served.pop() {
            self.submit(group);
        }
        self.dispatch();
    }

    fn submit(&mut self, group: usize) {
        self.serial += 1;
        let id = self.serial << 32 | group as u64;
        self.disk.submit(self.active[group], Request { id, op: Op::Read, sectors: 8 }, self.now);
    }

    /// Dispatches what may go: one request in each decision, but for changes of the automatic depth.
    fn dispatch(&mut self) {
        while let Next::Dispatch(next) = self.disk.next(self.now) {
            self.served.push(group_of(next.id));
            self.in_flight.push_back(next);
        }
    }
}

/// An id tells the group as well.
fn group_of(id: u64) -> usize {
    (id & u64::from(u32::MAX)) as usize
}

fn main() {
    let criterion = Criterion::default();
    let criterion =
        criterion.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    let mut criterion = criterion.configure_from_args();
    measure(&mut criterion, Case::Weights, &SIZES);
    for case in [Case::Caps, Case::Automatic, Case::Synchronous] {
        measure(&mut criterion, case, &COMPARED);
    }
    criterion.final_summary();
    let said = |word: &str| std::env::args().any(|said| said == word);
    // Without the first one, as under `cargo test --benches`, everything is only tried.
    if said("--bench") && !said("--test") && !said("--list") {
        compare();
    }
}

fn measure(criterion: &mut Criterion, case: Case, sizes: &[(usize, usize)]) {
    let mut cases = criterion.benchmark_group(case.name());
    for size in sizes {
        let name = format!("{} groups, {} active", size.0, size.1);
        // Made for the first sample: not for a case that nobody asked for, nor again for each of the others.
        let mut load = None;
        cases.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            let load = load.get_or_insert_with(|| Load::new(case, *size));
            bencher.iter(|| load.decide());
        });
    }
    cases.finish();
}

/// Prints how many times as long a decision takes in the larger of the compared cases.
fn compare() {
    const ROUNDS: usize = 21;
    const DECISIONS: u32 = 100_000;
    let mut loads = COMPARED.map(|size| Load::new(Case::Weights, size));
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (load, times) in loads.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (0..DECISIONS).for_each(|_| load.decide());
            times.push(start.elapsed().as_nanos() as f64 / f64::from(DECISIONS));
        }
    }
    let [small, large] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    });
    let [(groups, active), (most_groups, most_active)] = COMPARED;
    println!("{groups} groups, {active} active: {small:.0} ns a decision, the median of {ROUNDS} rounds");
    println!("{most_groups} groups, {most_active} active: {large:.0} ns, {:.2} times as long", large / small);
}
