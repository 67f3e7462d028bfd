//! How many requests the device is given at once (share rule R8).
//!
//! Too many, and requests wait in the device's queue (or in the machine's: a disk can be faster than its processors),
//! where no weight decides; too few, and throughput suffers. Only measuring tells, so the controller holds *trials*: for
//! short windows it runs deeper or shallower than usual, in turns with windows at the usual depth, and compares the
//! throughput. What counts is the elasticity, the part of what the step could gain or cost at best (0 where the device
//! is full, 1 where it could use all of it): deeper stays above [`WORTH_GAINING`], shallower below [`WORTH_LOSING`]. A
//! disk with one server settles at 2 (one served, one at hand), one with 32 servers near 32, a machine whose processors
//! are the bottleneck where they are just busy.
//!
//! Throughput is counted twice, in requests and in bytes, because depth also shifts who is served: with nothing held
//! the weights decide nothing, and if that lets more large requests pass, bytes rise though the device does no more.
//! So deeper has to gain in both, and for shallower it is enough to keep one.
//!
//! Disks and machines are unsteady: other programs, garbage collection. So each side of a trial is the *median* of its
//! windows, to which a few standstills do nothing, and there are as many windows as the scatter of the last trial asks
//! for. Steps are long where little is known: each success doubles the next one, each failure halves it and turns round.
//! Once neither way is better the pauses between trials grow, because trials cost throughput, or the shares of
//! synchronous callers; a lasting change of the throughput ends the pause.
//!
//! A trial of less starts from how many requests are in flight on average, not from the depth in force: a depth
//! that nobody reaches decides nothing. While the device takes everything it is offered there is nothing to gain
//! from more, so deeper is tried only while requests are held.

use crate::units::Nanos;

/// Never shallower: with 1 the device idles while the next request is on its way.
const SHALLOWEST: u32 = 2;
/// Never deeper: more than any device's own queue (NVMe: 1,024 entries is common).
const DEEPEST: u32 = 1024;
/// Steps are the depth divided by a power of two up to this (and at least 1).
const SHORTEST_STEP: u32 = 8;
/// Parts of a thousand of the elasticity.
const WORTH_GAINING: i64 = 125;
const WORTH_LOSING: i64 = 62;
/// Windows on each side of a trial, at most.
const MOST_PAIRS: usize = 16;
/// Once both ways have failed the next trial comes after so many times the length of the last one: at first, at most.
const FIRST_PAUSE: u32 = 2;
const LONGEST_PAUSE: u32 = 32;
/// So many windows in a row that differ from the usual by so many thousandths, and by so many times the scatter, are
/// another load or another disk.
const CHANGED_WINDOWS: u32 = 3;
const CHANGED: i64 = 250;
const CHANGED_SCATTERS: i64 = 4;
/// Moving a request is worth its sectors and as much as 4 KiB.
const REQUEST_WORK: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Deeper,
    Shallower,
}

/// What is tried.
#[derive(Clone, Copy, Debug)]
struct Trial {
    way: Way,
    depth: u32,
    /// Thousandths by which `depth` differs from what it is compared with.
    step: i64,
    /// Windows on each side.
    pairs: usize,
    usual: Side,
    tried: Side,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// At the usual depth; so many windows until the next trial.
    Steady { pause: u32 },
    /// At the depth that is tried.
    Trying(Trial),
    /// At the usual depth, for comparison.
    Between(Trial),
}

/// See the module.
#[derive(Debug)]
pub(super) struct DepthControl {
    depth: u32,
    phase: Phase,
    /// Which way the next trial goes, and by which part of the depth: `1 / step`.
    way: Way,
    step: u32,
    /// Ways that have failed since the last success, with the shortest step.
    failed: u32,
    pause: u32,
    /// What the last trial found at the usual depth, and by how many thousandths its windows were off on average.
    usual: Option<Rate>,
    scatter: i64,
    /// Windows in a row that were unlike it.
    unlike: u32,
    window: Window,
}

/// Throughput: requests and work per second.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    requests: u64,
    work: u64,
}

impl Rate {
    /// By how many thousandths this is more than `other`: in requests, and in work.
    fn change_from(self, other: Rate) -> [i64; 2] {
        [(self.requests, other.requests), (self.work, other.work)].map(|(new, old)| {
            // Rates fit 63 bits by a wide margin.
            (new as i64).saturating_sub(old as i64).saturating_mul(1000) / (old as i64).max(1)
        })
    }
}

/// The windows of one side of a trial.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    rates: [Rate; MOST_PAIRS],
    count: usize,
}

impl Side {
    fn add(&mut self, rate: Rate) {
        if let Some(place) = self.rates.get_mut(self.count) {
            *place = rate;
            self.count += 1;
        }
    }

    fn median(&self) -> Rate {
        let median = |of: fn(&Rate) -> u64| {
            let mut values = self.rates.map(|rate| of(&rate));
            let values = &mut values[..self.count.max(1)];
            values.sort_unstable();
            values[(values.len() - 1) / 2].midpoint(values[values.len() / 2])
        };
        Rate { requests: median(|rate| rate.requests), work: median(|rate| rate.work) }
    }

    /// By how many thousandths the windows are off their median: the median of that.
    fn scatter(&self) -> i64 {
        let usual = self.median();
        let mut off = self.rates.map(|rate| rate.change_from(usual)[0].abs());
        let off = &mut off[..self.count.max(1)];
        off.sort_unstable();
        off[off.len() / 2]
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
            phase: Phase::Steady { pause: 0 },
            way: Way::Deeper,
            step: 1,
            failed: 0,
            pause: FIRST_PAUSE,
            usual: None,
            scatter: 0,
            unlike: 0,
            window: Window::default(),
        }
    }

    /// The depth in force now.
    pub(super) fn depth(&self) -> u32 {
        match self.phase {
            Phase::Trying(Trial { depth, .. }) => depth,
            Phase::Steady { .. } | Phase::Between(_) => self.depth,
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
        if self.window.completions >= 32 + 2 * self.depth() && self.window.busy >= Nanos::from_millis(2) {
            self.close_window();
        }
    }

    fn close_window(&mut self) {
        let before = self.depth();
        let window = std::mem::take(&mut self.window);
        self.phase = match self.phase {
            Phase::Steady { pause } => self.stay(pause, &window),
            Phase::Trying(mut trial) => {
                trial.tried.add(window.rate());
                // What a long step comes to shows at once.
                if trial.pairs == 1 && trial.step >= 500 {
                    self.decide(&trial)
                } else {
                    Phase::Between(trial)
                }
            }
            Phase::Between(mut trial) => {
                trial.usual.add(window.rate());
                if trial.tried.count >= trial.pairs { self.decide(&trial) } else { Phase::Trying(trial) }
            }
        };
        if self.depth() != before {
            self.window.settling = self.depth().max(before).min(window.concurrency().saturating_mul(2));
        }
    }

    /// After a window at the usual depth with no trial under way.
    fn stay(&mut self, pause: u32, window: &Window) -> Phase {
        if self.has_changed(window.rate()) {
            (self.usual, self.unlike) = (None, 0);
            (self.pause, self.failed, self.step) = (FIRST_PAUSE, 0, self.step.min(2));
        } else if pause > 0 {
            return Phase::Steady { pause: pause - 1 };
        }
        match self.trial(self.way, window).or_else(|| self.trial(self.way.other(), window)) {
            Some(trial) => Phase::Trying(trial),
            None => Phase::Steady { pause: 0 },
        }
    }

    /// Whether this window at the usual depth is one too many that is unlike the usual ones.
    fn has_changed(&mut self, rate: Rate) -> bool {
        let off = self.usual.map_or([0; 2], |usual| rate.change_from(usual));
        let much = CHANGED.max(self.scatter * CHANGED_SCATTERS);
        self.unlike = if off.iter().all(|off| off.abs() > much) { self.unlike + 1 } else { 0 };
        self.unlike >= CHANGED_WINDOWS
    }

    /// The next trial in that way, if there is anything to try.
    fn trial(&self, way: Way, window: &Window) -> Option<Trial> {
        let (depth, against) = match way {
            Way::Deeper => {
                let depth = self.depth.saturating_add((self.depth / self.step).max(1)).min(DEEPEST);
                (window.saturated() && depth > self.depth).then_some((depth, self.depth))?
            }
            Way::Shallower => {
                let used = window.concurrency().min(self.depth);
                // Trying less costs throughput, trying more does not.
                let depth = used.saturating_sub((used / self.step.max(4)).max(1));
                (depth >= SHALLOWEST && depth < self.depth).then_some((depth, used))?
            }
        };
        let step = i64::from(depth.abs_diff(against)) * 1000 / i64::from(against.max(1));
        // The noise of a median of so many windows is to stay below what is decided on. (The deviation of a window is
        // one and a half times the scatter, that of a median one and a quarter times that of a mean.)
        let margin = (step * WORTH_LOSING / 1000).max(1);
        let pairs = 7 * self.scatter * self.scatter / (margin * margin);
        let pairs = usize::try_from(pairs).unwrap_or(MOST_PAIRS).clamp(1, MOST_PAIRS);
        let mut trial = Trial { way, depth, step, pairs, usual: Side::default(), tried: Side::default() };
        trial.usual.add(window.rate());
        Some(trial)
    }

    fn decide(&mut self, trial: &Trial) -> Phase {
        let usual = trial.usual.median();
        let [requests, work] = trial.tried.median().change_from(usual);
        let scatter = trial.usual.scatter().max(trial.tried.scatter());
        // Of two windows on a side the scatter says little: it falls slowly.
        self.scatter = scatter.max(self.scatter * 7 / 8);
        let good = match trial.way {
            Way::Deeper => requests.min(work) * 1000 > WORTH_GAINING * trial.step,
            Way::Shallower => requests.max(work) * 1000 > -WORTH_LOSING * trial.step,
        };
        if good {
            (self.depth, self.way, self.usual) = (trial.depth, trial.way, None);
            // Where one step was right the next may be, and a longer one.
            (self.step, self.failed, self.pause) = ((self.step / 2).max(1), 0, FIRST_PAUSE);
            return Phase::Steady { pause: 0 };
        }
        (self.way, self.usual) = (trial.way.other(), Some(usual));
        if self.step < SHORTEST_STEP {
            self.step *= 2;
            return Phase::Steady { pause: 0 };
        }
        self.failed += 1;
        if self.failed < 2 {
            return Phase::Steady { pause: 0 };
        }
        let pause = self.pause * 2 * trial.pairs as u32;
        (self.failed, self.pause) = (0, (self.pause * 2).min(LONGEST_PAUSE));
        Phase::Steady { pause }
    }
}

impl Way {
    fn other(self) -> Way {
        match self {
            Self::Deeper => Self::Shallower,
            Self::Shallower => Self::Deeper,
        }
    }
}
