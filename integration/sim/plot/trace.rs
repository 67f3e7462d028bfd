//! What there is to draw, measured beside a run.

use crate::sim::run::Run;
use crate::sim::scenario::{Scenario, seconds};
use ioband::sched::Policy;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::rc::Rc;

/// If there are more clients, the heaviest are drawn, and all others as one.
pub(super) const DRAWN_ALONE: usize = 7;
/// Points over the whole run, about.
const POINTS: f64 = 200.0;
/// Between two points we look so many times at what there is only for a moment.
const LOOKS: u32 = 16;

/// Values over time in seconds; none where there was nothing to measure.
pub(super) type Values = Vec<(f64, Option<f64>)>;

/// A client as it is drawn, or all those that are not drawn alone.
pub(super) struct Line {
    pub(super) name: String,
    clients: Vec<usize>,
    /// Its part of everything, in percent.
    pub(super) got: Values,
    /// The part that the weights ask for, those counted that are there.
    pub(super) asked: Values,
    /// The 99th percentile of its latencies, in milliseconds.
    pub(super) p99: Values,
}

impl Line {
    fn new(name: String, clients: Vec<usize>) -> Self {
        Self { name, clients, got: Vec::new(), asked: Vec::new(), p99: Vec::new() }
    }
}

/// Everything that is drawn.
pub(super) struct Trace {
    /// Seconds from one point to the next.
    pub(super) step: f64,
    pub(super) lines: Vec<Line>,
    /// Requests in flight, on average between two points.
    pub(super) in_flight: Values,
    /// How many might have been, at every look.
    pub(super) allowed: Values,
}

/// What completed since the last point.
#[derive(Clone, Default)]
struct Tally {
    amount: u64,
    latencies: Vec<u64>,
}

impl Trace {
    /// Runs the scenario.
    pub(super) fn of(scenario: &Scenario) -> Self {
        let mut lines = lines(scenario);
        let mut line_of = vec![0; scenario.clients.len()];
        for (index, line) in lines.iter().enumerate() {
            line.clients.iter().for_each(|client| line_of[*client] = index);
        }
        let tallies = Rc::new(RefCell::new(vec![Tally::default(); lines.len()]));
        let mut run = Run::new(scenario);
        run.witness = Some(Box::new({
            let (tallies, by_bytes) = (Rc::clone(&tallies), by_bytes(scenario));
            move |_, client, latency, bytes| {
                let tally = &mut tallies.borrow_mut()[line_of[client]];
                tally.amount += if by_bytes { bytes } else { 1 };
                tally.latencies.push(latency.0);
            }
        }));
        let step = one_digit(scenario.seconds / POINTS);
        let (mut in_flight, mut allowed) = (Vec::new(), Vec::new());
        // A point that the end cuts short would say little.
        for point in 0..(scenario.seconds / step + 1e-6) as u32 {
            let middle = (f64::from(point) + 0.5) * step;
            let (mut sum, mut asked) = (0, vec![0.0; lines.len()]);
            for look in 1..=LOOKS {
                let at = (f64::from(point) + f64::from(look) / f64::from(LOOKS)) * step;
                run.until(seconds(at));
                sum += run.disk.in_flight();
                allowed.push((at, Some(limit(&run).into())));
                add_asked(scenario, &lines, at, &mut asked);
            }
            in_flight.push((middle, Some(f64::from(sum) / f64::from(LOOKS))));
            let tallies = std::mem::replace(&mut *tallies.borrow_mut(), vec![Tally::default(); lines.len()]);
            let all: u64 = tallies.iter().map(|tally| tally.amount).sum();
            for ((line, tally), asked) in lines.iter_mut().zip(tallies).zip(asked) {
                line.got.push((middle, (all > 0).then(|| 100.0 * tally.amount as f64 / all as f64)));
                // Who is away asks for nothing; and of changes at random nobody knows what they ask for.
                let known = asked > 0.0 && scenario.random_changes == 0.0;
                line.asked.push((middle, known.then_some(asked)));
                line.p99.push((middle, p99(tally.latencies)));
            }
        }
        Self { step, lines, in_flight, allowed }
    }
}

/// Whether shares are shares of bytes.
pub(super) fn by_bytes(scenario: &Scenario) -> bool {
    scenario.policy != Policy::Weight
}

fn lines(scenario: &Scenario) -> Vec<Line> {
    let mut drawn: Vec<usize> = (0..scenario.clients.len()).collect();
    drawn.sort_by_key(|client| Reverse(scenario.clients[*client].weight));
    let others = drawn.split_off(drawn.len().min(DRAWN_ALONE));
    drawn.sort_unstable();
    let alone = |client: usize| {
        let model = &scenario.clients[client];
        Line::new(format!("{}, weight {}", shorter(&model.name), model.weight), vec![client])
    };
    let mut lines: Vec<Line> = drawn.into_iter().map(alone).collect();
    if !others.is_empty() {
        lines.push(Line::new(format!("{} others", others.len()), others));
    }
    lines
}

/// What a legend has room for.
fn shorter(name: &str) -> String {
    const ROOM: usize = 14;
    if name.chars().count() <= ROOM {
        return name.to_owned();
    }
    name.chars().take(ROOM - 1).chain(['…']).collect()
}

/// How many requests may be in flight.
fn limit(run: &Run) -> u32 {
    let settings = run.disk.settings();
    if settings.io_limit > 0 { settings.io_limit } else { run.disk.depth().max(settings.io_throttle) }
}

/// Adds the part of each line in the weights of those that make requests at that time.
fn add_asked(scenario: &Scenario, lines: &[Line], at: f64, asked: &mut [f64]) {
    let there = |client: &&usize| scenario.clients[**client].there(seconds(at)).is_ok();
    let weight = |client: &usize| {
        let model = &scenario.clients[*client];
        let before = scenario.changes.iter().filter(|change| change.client == model.name && change.at <= at);
        let last = before.max_by(|a, b| a.at.total_cmp(&b.at));
        f64::from(last.map_or(model.weight, |change| change.weight))
    };
    let weights: Vec<f64> =
        lines.iter().map(|line| line.clients.iter().filter(there).map(weight).sum()).collect();
    let all: f64 = weights.iter().sum();
    for (asked, weight) in asked.iter_mut().zip(weights) {
        *asked += if all > 0.0 { 100.0 * weight / all / f64::from(LOOKS) } else { 0.0 };
    }
}

/// In milliseconds; of fewer than a hundred it is the highest.
fn p99(mut latencies: Vec<u64>) -> Option<f64> {
    latencies.sort_unstable();
    let rank = (latencies.len() * 99).div_ceil(100);
    let latency = latencies.get(rank.checked_sub(1)?)?;
    // It has a logarithm.
    Some((*latency).max(1) as f64 / 1e6)
}

/// Rounded to one digit that counts.
fn one_digit(value: f64) -> f64 {
    let unit = 10f64.powf(value.log10().floor());
    (value / unit).round() * unit
}
