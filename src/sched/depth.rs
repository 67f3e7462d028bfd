//! How many requests the device is given at once (share rule R8).
//!
//! Too many, and requests wait in the device's queue (or in the machine's: a disk can be faster than its processors),
//! where no weight decides; too few, and throughput suffers. Only measuring tells, so the controller *probes*: for one
//! window it runs a little shallower or deeper than usual, and compares the throughput with that of the windows
//! before and after. Shallower stays if it costs next to nothing, deeper stays if it gains a fair part of what the
//! step could gain at best. A disk with one server settles at 2 (one served, one at hand), one with 32 servers near
//! 32, a machine whose processors are the bottleneck where they are just busy.
//!
//! Throughput is counted twice, in requests and in bytes, because depth also shifts who is served: with nothing held
//! the weights decide nothing, and if that lets more large requests pass, bytes rise though the device does no more.
//! So deeper has to gain in both, and for shallower it is enough to keep one.
//!
//! A probe downwards starts from how many requests are in flight on average, not from the depth in force: a depth
//! that nobody reaches decides nothing. While the device takes everything it is offered there is nothing to gain
//! from more, so upwards is probed only while requests are held.

use crate::units::Nanos;

/// Never shallower: with 1 the device idles while the next request is on its way.
const SHALLOWEST: u32 = 2;
/// Never deeper: more than any device's own queue (NVMe: 1,024 entries is common).
const DEEPEST: u32 = 1024;
/// Windows between two probes: they cost throughput, an eighth of it for one window if the depth was right.
const HOLD: u32 = 8;
/// Parts of a thousand of the relative step: gain above which deeper stays, loss below which shallower does. A device
/// that can use what it is given answers a step with all of it (1000), one that is full with nothing (0).
const WORTH_GAINING: i64 = 200;
const WORTH_LOSING: i64 = 100;
/// Moving a request is worth its sectors and as much as 4 KiB.
const REQUEST_WORK: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Deeper(u32),
    Shallower(u32),
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Running at `depth`; so many windows until the next probe.
    Steady { hold: u32, rate: Option<Rate> },
    /// Running at the depth that is tried.
    Probing { probe: Probe, before: Rate },
    /// Back at `depth`, to see whether it was the probe or the weather.
    Checking { probe: Probe, before: Rate, probed: Rate },
}

/// See the module.
#[derive(Debug)]
pub(super) struct DepthControl {
    depth: u32,
    phase: Phase,
    /// Probes double the depth, as at the start, until one fails.
    ramping: bool,
    /// Which way the last probe went, so that they take turns.
    last_deeper: bool,
    window: Window,
}

/// Throughput: requests and work per second.
#[derive(Clone, Copy, Debug)]
struct Rate {
    requests: u64,
    work: u64,
}

impl Rate {
    fn midpoint(self, other: Rate) -> Rate {
        Rate { requests: self.requests.midpoint(other.requests), work: self.work.midpoint(other.work) }
    }

    /// By how many thousandths this is more than `reference`: in requests, and in work.
    fn change_from(self, reference: Rate) -> [i64; 2] {
        [(self.requests, reference.requests), (self.work, reference.work)].map(|(new, old)| {
            // Rates fit 63 bits by a wide margin.
            (new as i64).saturating_sub(old as i64).saturating_mul(1000) / (old as i64).max(1)
        })
    }
}

/// What is measured at one depth. Only time counts in which the device had something to do.
#[derive(Debug, Default)]
struct Window {
    /// Completions to let pass first: they were started at another depth.
    settling: u32,
    completions: u32,
    /// Of those, how many left requests held.
    held: u32,
    work: u64,
    busy: Nanos,
    /// Requests in flight, summed over nanoseconds.
    area: u128,
}

impl Window {
    /// What moves bytes is at most 2^20 sectors long, a window holds about 2^13 requests unless they are very quick, and
    /// a second is 2^30 ns: this only saturates for windows that mean nothing.
    fn rate(&self) -> Rate {
        let per_second = |count: u64| count.saturating_mul(Nanos::SECOND.0) / self.busy.0.max(1);
        Rate { requests: per_second(self.completions.into()), work: per_second(self.work) }
    }

    /// Requests in flight on average, rounded up.
    fn concurrency(&self) -> u32 {
        u32::try_from(self.area.div_ceil(u128::from(self.busy.0.max(1)))).unwrap_or(DEEPEST)
    }

    fn saturated(&self) -> bool {
        self.held * 2 > self.completions
    }
}

impl DepthControl {
    pub(super) fn new() -> Self {
        Self {
            depth: SHALLOWEST,
            phase: Phase::Steady { hold: 0, rate: None },
            ramping: true,
            last_deeper: false,
            window: Window::default(),
        }
    }

    /// The depth in force now.
    pub(super) fn depth(&self) -> u32 {
        match self.phase {
            Phase::Probing { probe: Probe::Deeper(depth) | Probe::Shallower(depth), .. } => depth,
            Phase::Steady { .. } | Phase::Checking { .. } => self.depth,
        }
    }

    /// `in_flight` requests were with the device for `span`.
    pub(super) fn passed(&mut self, span: Nanos, in_flight: u32) {
        if in_flight > 0 && self.window.settling == 0 {
            self.window.busy = self.window.busy.after(span);
            self.window.area += u128::from(span.0) * u128::from(in_flight);
        }
    }

    /// A request that moved `sectors` came back; `held` says whether others are held.
    pub(super) fn completed(&mut self, sectors: u32, held: bool) {
        let window = &mut self.window;
        if window.settling > 0 {
            window.settling -= 1;
            return;
        }
        window.completions += 1;
        window.held += u32::from(held);
        window.work += REQUEST_WORK + u64::from(sectors);
        // Long enough for the noise to be below what is decided on: shorter while the steps are large.
        let (least, span) = if self.ramping {
            (32 + 2 * self.depth(), Nanos::from_millis(2))
        } else {
            (128 + 4 * self.depth(), Nanos::from_millis(20))
        };
        if self.window.completions >= least && self.window.busy >= span {
            self.close_window();
        }
    }

    fn close_window(&mut self) {
        let before = self.depth();
        let window = std::mem::take(&mut self.window);
        let rate = window.rate();
        self.phase = match self.phase {
            Phase::Steady { hold, rate: earlier } => {
                let rate = earlier.map_or(rate, |earlier| earlier.midpoint(rate));
                match self.probe(&window).filter(|_| hold == 0) {
                    Some(probe) => Phase::Probing { probe, before: rate },
                    None => Phase::Steady { hold: hold.saturating_sub(1), rate: Some(rate) },
                }
            }
            Phase::Probing { probe, before } => Phase::Checking { probe, before, probed: rate },
            Phase::Checking { probe, before, probed } => {
                self.decide(probe, before.midpoint(rate), probed, rate)
            }
        };
        if self.depth() != before {
            self.window.settling = self.depth().max(before).min(window.concurrency().saturating_mul(2));
        }
    }

    /// What to try next; `None` if there is nothing worth trying.
    fn probe(&mut self, window: &Window) -> Option<Probe> {
        let deeper = || {
            // Steps of the same size either way: with longer ones upwards, noise alone would lead upwards.
            let step = if self.ramping { self.depth } else { (self.depth / 8).max(1) };
            let depth = self.depth.saturating_add(step).min(DEEPEST);
            (window.saturated() && depth > self.depth).then_some(Probe::Deeper(depth))
        };
        let shallower = || {
            let used = window.concurrency().min(self.depth);
            let depth = used.saturating_sub((used / 8).max(1));
            (depth >= SHALLOWEST && depth < self.depth).then_some(Probe::Shallower(depth))
        };
        let probe = if self.last_deeper && !self.ramping {
            shallower().or_else(deeper)
        } else {
            deeper().or_else(shallower)
        };
        self.last_deeper = matches!(probe, Some(Probe::Deeper(_)));
        probe
    }

    /// `probed` against `reference`, which is the mean of the windows around it; `last` is the later one of those.
    fn decide(&mut self, probe: Probe, reference: Rate, probed: Rate, last: Rate) -> Phase {
        let [requests, work] = probed.change_from(reference);
        let relative = |step: u32, of: u32| i64::from(step) * 1000 / i64::from(of.max(1));
        let good = match probe {
            Probe::Deeper(depth) => {
                requests.min(work) * 1000 > WORTH_GAINING * relative(depth - self.depth, self.depth)
            }
            Probe::Shallower(depth) => {
                // From what is used, of which it is about seven eighths.
                let step = (depth / 7).max(1);
                requests.max(work) * 1000 > -WORTH_LOSING * relative(step, depth + step)
            }
        };
        match (probe, good) {
            (Probe::Deeper(depth) | Probe::Shallower(depth), true) => {
                // Where one step was right the next may be; upwards in strides, because somebody is waiting.
                self.ramping = matches!(probe, Probe::Deeper(_));
                self.last_deeper = !self.ramping;
                self.depth = depth;
                Phase::Steady { hold: 0, rate: None }
            }
            (_, false) => {
                let ramped = std::mem::replace(&mut self.ramping, false);
                // After a stride that was too long, shorter ones at once.
                Phase::Steady { hold: if ramped { 0 } else { HOLD }, rate: Some(last) }
            }
        }
    }
}
