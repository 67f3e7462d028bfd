//! Whatever happens to a disk in whatever order: nothing is lost.

use super::super::*;
use crate::units::{Nanos, Weight};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};

/// Anything that may happen to a disk.
#[derive(Clone, Debug)]
enum Step {
    Submit { group: usize, op: Op, sectors: u32 },
    Complete { which: usize },
    Pass { micros: u64 },
    Weight { group: usize, weight: u32 },
    Policy { group: usize, iosize: bool },
    Settings { io_throttle: u32, io_limit: u32, token_base: u32 },
    Attach { weight: u32 },
    Detach { group: usize, to: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![Just(Op::Read), Just(Op::Write), Just(Op::Flush), Just(Op::Discard)];
    prop_oneof![
        8 => (any::<usize>(), op, 0u32..4096).prop_map(|(group, op, sectors)| Step::Submit { group, op, sectors }),
        8 => any::<usize>().prop_map(|which| Step::Complete { which }),
        4 => (0u64..20_000).prop_map(|micros| Step::Pass { micros }),
        1 => (any::<usize>(), 1u32..=Weight::MAX).prop_map(|(group, weight)| Step::Weight { group, weight }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(group, iosize)| Step::Policy { group, iosize }),
        1 => (0u32..20, 0u32..20, 1u32..5000).prop_map(|(a, b, token_base)| Step::Settings {
            io_throttle: if b == 0 { a } else { a.min(b) },
            io_limit: b,
            token_base
        }),
        1 => (1u32..=Weight::MAX).prop_map(|weight| Step::Attach { weight }),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(group, to)| Step::Detach { group, to }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Share rules R4, R6, R9: whatever happens in whatever order, every accepted request is dispatched exactly
    /// once, per group in order of arrival; limits hold; the device never idles while something is held.
    #[test]
    fn nothing_is_lost_duplicated_or_reordered(steps in prop::collection::vec(step(), 1..400)) {
        let mut disk = Disk::new(Settings::default());
        let mut groups = vec![disk.add_group(Policy::Weight, Weight::default())];
        let mut settings = Settings::default();
        let (mut now, mut serial) = (Nanos(0), 0u64);
        // Where each held request is, and what left when.
        let mut held: BTreeMap<u64, GroupKey> = BTreeMap::new();
        let mut in_flight: Vec<Dispatched> = Vec::new();
        let mut seen = HashSet::new();
        let drained = std::iter::repeat_n(Step::Complete { which: 0 }, steps.len() + 1);
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
                Step::Policy { group, iosize } => {
                    let policy = if iosize { Policy::WeightIosize } else { Policy::Weight };
                    disk.set_policy(groups[group % groups.len()], policy);
                }
                Step::Settings { io_throttle, io_limit, token_base } => {
                    settings = Settings { io_throttle, io_limit, token_base };
                    disk.set_settings(settings);
                }
                Step::Attach { weight } => {
                    groups.push(disk.add_group(Policy::Weight, Weight::new(weight).expect("in range")));
                }
                Step::Detach { group, to } if groups.len() > 1 => {
                    let gone = groups.swap_remove(group % groups.len());
                    let to = groups[to % groups.len()];
                    disk.remove_group(gone, now, |_| to);
                    held.values_mut().filter(|g| **g == gone).for_each(|g| *g = to);
                }
                Step::Detach { .. } => {}
            }
            loop {
                match disk.next(now) {
                    Next::Dispatch(d) => {
                        prop_assert!(seen.insert(d.id), "{} dispatched twice", d.id);
                        let group = held.remove(&d.id).expect("dispatched what was held");
                        let older = held.iter().find(|(id, g)| **id < d.id && **g == group);
                        prop_assert!(older.is_none(), "{} overtook {:?}", d.id, older);
                        in_flight.push(d);
                        if settings.io_limit > 0 {
                            prop_assert!(disk.in_flight() <= settings.io_limit);
                        }
                    }
                    Next::Wait(until) => {
                        prop_assert!(until > now && disk.in_flight() > 0);
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
        }
        prop_assert!(held.is_empty() && in_flight.is_empty());
        prop_assert_eq!(seen.len() as u64, serial);
    }
}
