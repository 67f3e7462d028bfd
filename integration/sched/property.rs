//! Whatever happens, in whatever order: what `sim/check.rs` says holds, nothing is lost, and the same again is the same
//! again.

use crate::scenario;
use crate::sim::client::{ClientModel, Ops};
use crate::sim::device::{DeviceModel, Faults};
use crate::sim::run::sizes;
use crate::sim::scenario::seconds;
use crate::sim::{Run, Scenario};
use ioband::sched::{Cap, Counters, Disk, Dispatched, GroupKey, Limits, Next, Op, Policy, Request, Settings};
use ioband::units::{Nanos, Weight};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU64;

fn device() -> impl Strategy<Value = DeviceModel> {
    prop_oneof![
        4 => (1usize..33, 50.0..800.0, any::<bool>(), prop_oneof![Just(0u64), Just(200 << 20)]).prop_map(
            |(parallel, service_us, random, bandwidth)| DeviceModel::Servers { parallel, service_us, bandwidth, random }
        ),
        1 => (1usize..17, 50.0..200.0, 1.0..5.0).prop_map(|(channels, read_us, times)| DeviceModel::Ssd {
            channels,
            read_us,
            write_us: read_us * times,
            bandwidth: 400 << 20,
            slow_one_in: 300,
            slow_times: 30.0
        }),
        1 => Just(DeviceModel::Spindle { seek_us: 2000.0, turn_us: 1000.0, bandwidth: 150 << 20, queue: 32 }),
    ]
}

fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![1u32..10, 10u32..200, 1u32..=Weight::MAX, Just(1), Just(Weight::MAX)]
}

fn client() -> impl Strategy<Value = ClientModel> {
    let size = prop_oneof![
        Just(sizes(&[4096])),
        Just(sizes(&[512, 1 << 20])),
        Just(sizes(&[4096, 65_536])),
        Just(sizes(&[131_072])),
    ];
    let ops = prop_oneof![Just(Ops::Read), Just(Ops::Write), Just(Ops::Randrw), Just(Ops::Any)];
    let arrival = prop_oneof![
        3 => (1u32..65).prop_map(|depth| (depth, 0.0, 0)),
        1 => (10.0..3000.0).prop_map(|rate| (0, rate, 0)),
        1 => (1u32..100).prop_map(|burst| (0, 0.0, burst)),
    ];
    let think = prop_oneof![3 => Just(0.0), 1 => 1.0..3000.0];
    let away = prop_oneof![2 => Just(0.0), 1 => 1.0..100.0];
    (weight(), size, ops, arrival, think, away).prop_map(
        |(weight, sizes, ops, (depth, rate, burst), think_us, off_ms)| ClientModel {
            sizes,
            ops,
            rate,
            burst,
            think_us,
            every_ms: 50.0,
            on_ms: if off_ms > 0.0 { 60.0 } else { 0.0 },
            off_ms,
            random_think: true,
            ..ClientModel::new("c", weight, depth)
        },
    )
}

fn any_scenario() -> impl Strategy<Value = Scenario> {
    let policy = prop_oneof![Just(Policy::Weight), Just(Policy::WeightIosize)];
    let io_limit = prop_oneof![3 => Just(0u32), 1 => 1u32..40];
    let clients = prop::collection::vec(client(), 1..7);
    (device(), clients, policy, io_limit, 2048u32..10_000, any::<u64>(), any::<bool>()).prop_map(
        |(device, clients, policy, io_limit, token_base, seed, faulty)| {
            let mut any = Scenario { policy, io_limit, token_base, seed, ..scenario(device, clients) };
            if faulty {
                any.faults = Faults { stall_every_ms: 300.0, stall_ms: 40.0, error_one_in: 20 };
            }
            any
        },
    )
}

/// What became of every request, in short.
fn digest(scenario: &Scenario, end: f64) -> u64 {
    let mut run = Run::new(scenario);
    run.until(seconds(end));
    run.finish();
    run.digest()
}

/// So many cases: under CI the same ones for every change, so that what is refused is due to the change; elsewhere new ones each
/// time, so that more is tried.
fn cases(cases: u32) -> ProptestConfig {
    let rng_seed = if std::env::var_os("CI").is_some() { RngSeed::Fixed(1) } else { RngSeed::Random };
    ProptestConfig { rng_seed, ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(cases(192))]

    /// Rules R1, R4, R6, R7, R9, for any clients on any disk.
    #[test]
    fn shares_waits_and_order_hold_in_any_scenario(any in any_scenario()) {
        digest(&any, 1.0);
    }

    /// Rules R9 and R10: the same, while weights, policies, settings, caps and groups change thirty times a second.
    #[test]
    fn they_hold_under_any_changes(any in any_scenario()) {
        digest(&Scenario { random_changes: 30.0, ..any }, 1.0);
    }
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn the_same_seed_gives_the_same_run(any in any_scenario()) {
        let any = Scenario { random_changes: 20.0, ..any };
        prop_assert_eq!(digest(&any, 0.5), digest(&any, 0.5));
    }
}

/// Anything that may happen to a disk.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        group: usize,
        op: Op,
        sectors: u32,
    },
    Complete {
        which: usize,
    },
    Pass {
        micros: u64,
    },
    Weight {
        group: usize,
        weight: u32,
    },
    Policy {
        group: usize,
        policy: Policy,
    },
    Settings {
        io_throttle: u32,
        io_limit: u32,
        token_base: u32,
    },
    Attach {
        weight: u32,
    },
    Detach {
        group: usize,
        to: usize,
    },
    /// A group goes away once what it holds is served.
    Retire {
        group: usize,
    },
    /// Of what a group holds, one in so many goes elsewhere.
    Reroute {
        group: usize,
        to: usize,
        one_in: u64,
    },
    /// All groups go and others come, as if they were told apart by something else.
    Type {
        groups: u64,
    },
    Reset {
        group: usize,
    },
    Drain,
    Limits {
        group: usize,
        min_bandwidth: u64,
        max_bandwidth: u64,
        max_iops: u64,
    },
}

/// Any rate, also none and a very low one.
fn rate(most: u64) -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 1 => 1u64..10, 2 => 1u64..most]
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![Just(Op::Read), Just(Op::Write), Just(Op::Flush), Just(Op::Discard)];
    prop_oneof![
        8 => (any::<usize>(), op, 0u32..4096).prop_map(|(group, op, sectors)| Step::Submit { group, op, sectors }),
        8 => any::<usize>().prop_map(|which| Step::Complete { which }),
        4 => (0u64..20_000).prop_map(|micros| Step::Pass { micros }),
        1 => (any::<usize>(), 1u32..=Weight::MAX).prop_map(|(group, weight)| Step::Weight { group, weight }),
        1 => (any::<usize>(), 0usize..3).prop_map(|(group, policy)| Step::Policy { group, policy: Policy::ALL[policy] }),
        1 => (0u32..20, 0u32..20, 1u32..5000).prop_map(|(a, b, token_base)| Step::Settings {
            io_throttle: if b == 0 { a } else { a.min(b) },
            io_limit: b,
            token_base
        }),
        1 => (1u32..=Weight::MAX).prop_map(|weight| Step::Attach { weight }),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(group, to)| Step::Detach { group, to }),
        1 => (any::<usize>(), any::<usize>(), 1u64..4).prop_map(|(group, to, one_in)| Step::Reroute { group, to, one_in }),
        1 => (1u64..6).prop_map(|groups| Step::Type { groups }),
        1 => any::<usize>().prop_map(|group| Step::Reset { group }),
        1 => any::<usize>().prop_map(|group| Step::Retire { group }),
        1 => (any::<usize>(), rate(1 << 30), rate(1 << 30), rate(1 << 14)).prop_map(
            |(group, min_bandwidth, max_bandwidth, max_iops)| Step::Limits { group, min_bandwidth, max_bandwidth, max_iops }
        ),
    ]
}

proptest! {
    #![proptest_config(cases(512))]

    /// Share rules R4, R6, R9: whatever happens in whatever order, every accepted request is dispatched exactly
    /// once, per group in order of arrival; limits hold; the device never idles while something is held.
    #[test]
    fn nothing_is_lost_duplicated_or_reordered(steps in prop::collection::vec(step(), 1..400)) {
        let mut disk = Disk::new(Settings::default());
        let mut groups = vec![disk.add_group(Policy::Weight, Weight::default())];
        let mut settings = Settings::default();
        let (mut now, mut serial, mut draining) = (Nanos(0), 0u64, false);
        // Where each held request is, and what left when.
        let mut held: BTreeMap<u64, GroupKey> = BTreeMap::new();
        let mut in_flight: Vec<Dispatched> = Vec::new();
        let mut seen = HashSet::new();
        // Requests that each group passed since it came or was reset.
        let mut counted: HashMap<GroupKey, u64> = HashMap::new();
        // In the end without caps, which may hold requests back for days.
        let drained = std::iter::repeat_n(Step::Complete { which: 0 }, steps.len() + 1);
        let drained = std::iter::once(Step::Drain).chain(drained);
        for step in steps.into_iter().chain(drained) {
            match step {
                Step::Submit { group, op, sectors } => {
                    serial += 1;
                    let group = groups[group % groups.len()];
                    disk.submit(group, Request { id: serial, op, sectors }, now);
                    held.insert(serial, group);
                }
                Step::Complete { which } if !in_flight.is_empty() => {
                    now = now.after(Nanos::from_micros(100));
                    let done = in_flight.swap_remove(which % in_flight.len());
                    disk.complete(done, now);
                }
                Step::Complete { .. } => now = now.after(Nanos::from_millis(10)),
                Step::Pass { micros } => now = now.after(Nanos::from_micros(micros)),
                Step::Weight { group, weight } => {
                    disk.set_weight(groups[group % groups.len()], Weight::new(weight).expect("in range"));
                }
                Step::Policy { group, policy } => disk.set_policy(groups[group % groups.len()], policy, now),
                Step::Settings { io_throttle, io_limit, token_base } => {
                    settings = Settings { io_throttle, io_limit, token_base };
                    disk.set_settings(settings);
                }
                Step::Attach { weight } => {
                    let new = disk.add_group(Policy::Weight, Weight::new(weight).expect("in range"));
                    // The scheduler hands the keys of what is gone out again.
                    counted.remove(&new);
                    groups.push(new);
                }
                Step::Detach { group, to } if groups.len() > 1 => {
                    let gone = groups.swap_remove(group % groups.len());
                    let to = groups[to % groups.len()];
                    disk.remove_group(gone, now, |_| to);
                    counted.remove(&gone);
                    held.values_mut().filter(|g| **g == gone).for_each(|g| *g = to);
                }
                Step::Detach { .. } => {}
                Step::Retire { group } if groups.len() > 1 => {
                    let gone = groups.swap_remove(group % groups.len());
                    disk.retire_group(gone, now);
                }
                Step::Retire { .. } => {}
                Step::Reroute { group, to, one_in } => {
                    let (from, to) = (groups[group % groups.len()], groups[to % groups.len()]);
                    let moves = |id: u64| id.is_multiple_of(one_in);
                    disk.reroute(from, now, |request| if moves(request.id) { to } else { from });
                    held.iter_mut().filter(|(id, g)| **g == from && moves(**id)).for_each(|(_, g)| *g = to);
                }
                Step::Type { groups: count } => {
                    let old = std::mem::take(&mut groups);
                    groups.extend((0..count).map(|_| disk.add_group(Policy::Weight, Weight::default())));
                    let to = |id: u64| groups[(id % count) as usize];
                    old.iter().for_each(|gone| disk.remove_group(*gone, now, |request| to(request.id)));
                    // What a retired group holds stays with it.
                    held.iter_mut().filter(|(_, g)| old.contains(g)).for_each(|(id, g)| *g = to(*id));
                    counted.clear();
                }
                Step::Reset { group } => {
                    disk.reset_counters(groups[group % groups.len()]);
                    counted.remove(&groups[group % groups.len()]);
                }
                Step::Drain => {
                    draining = true;
                    disk.drain(now);
                }
                Step::Limits { group, min_bandwidth, max_bandwidth, max_iops } => {
                    let cap = |rate| NonZeroU64::new(rate).map(Cap::new);
                    let limits = Limits {
                        min_bandwidth: NonZeroU64::new(min_bandwidth),
                        max_bandwidth: cap(max_bandwidth),
                        max_iops: cap(max_iops),
                    };
                    disk.set_limits(groups[group % groups.len()], limits, now);
                }
            }
            loop {
                match disk.next(now) {
                    Next::Dispatch(d) => {
                        prop_assert!(seen.insert(d.id), "{} dispatched twice", d.id);
                        let group = held.remove(&d.id).expect("dispatched what was held");
                        let older = held.iter().find(|(id, g)| **id < d.id && **g == group);
                        prop_assert!(older.is_none(), "{} overtook {:?}", d.id, older);
                        in_flight.push(d);
                        *counted.entry(group).or_default() += 1;
                        if settings.io_limit > 0 && !draining {
                            prop_assert!(disk.in_flight() <= settings.io_limit);
                        }
                    }
                    Next::Wait(until) => {
                        prop_assert!(until > now, "waiting for the past would spin");
                        break;
                    }
                    Next::Idle => {
                        prop_assert!(held.is_empty() || disk.in_flight() > 0, "idle with {} held", held.len());
                        break;
                    }
                }
            }
            prop_assert_eq!(disk.queued(), held.len());
            prop_assert_eq!(disk.in_flight() as usize, in_flight.len());
            for group in &groups {
                let Counters { read, write } = disk.counters(*group);
                prop_assert_eq!(read.requests + write.requests, counted.get(group).copied().unwrap_or(0));
                prop_assert_eq!(disk.queued_of(*group), held.values().filter(|of| *of == group).count());
            }
        }
        prop_assert!(held.is_empty() && in_flight.is_empty());
        prop_assert_eq!(seen.len() as u64, serial);
    }
}
