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
//! There are two depths. *Total* is for requests that are due by their group's share. *Spare*, never deeper, is for those of
//! a group ahead of its share, which go only because nobody who is behind has anything queued: if the ones who are behind
//! have enough in flight to keep the device busy, nothing is gained by others running ahead, and their share would be
//! lost by it. If they have not (one synchronous caller beside a flood, on a disk with many servers), spare grows.
//!
//! Throughput is counted twice, in requests and in bytes, because depth also shifts who is served: with nothing held
//! the weights decide nothing, and if that lets more large requests pass, bytes rise though the device does no more.
//! So deeper has to gain in both, and for shallower it is enough to keep one.
//!
//! Disks and machines are unsteady: other programs, garbage collection. So each side of a trial is the *median* of its
//! windows, to which a few standstills do nothing, and there are as many windows as it takes to be sure, as far as the
//! scatter of the windows is known. Steps are long where little is known: each success doubles the next one, each failure halves it and turns round.
//! Once neither way is better the pauses between trials grow, because trials cost throughput, or the shares of
//! synchronous callers; a lasting change of the throughput ends the pause.
//!
//! A group that has been *alone* for a while is not held to the depth: there is nobody to share with, and trials would only
//! cost throughput. On a device that is quick it may have in flight what that does in [`ALONE`], so that a newcomer does not wait longer for
//! it than that; and what it made use of is where the first trials begin.
//!
//! A trial of less starts from how many requests are in flight on average, not from the depth in force: a depth
//! that nobody reaches decides nothing. While the device takes everything it is offered there is nothing to gain
//! from more, so deeper is tried only while requests are refused for it. And a group that is alone is given no trials of
//! less: nothing is held back for the sake of shares where there is nobody to share with.

mod measure;

use crate::units::Nanos;
use measure::{MOST_WINDOWS, Rate, Side, Window};

/// Never shallower: with 1 the device idles while the next request is on its way.
const SHALLOWEST: u32 = 2;
/// Never deeper: more than any device's own queue (NVMe: 1,024 entries is common).
const DEEPEST: u32 = 1024;
/// Steps are the depth divided by a power of two up to this (and at least 1).
const SHORTEST_STEP: u32 = 8;
/// Parts of a thousand of the elasticity, of the total and of the spare depth. Twice the depth stays if it gains a
/// twentieth, half of it if it costs less than an eightieth; that groups run ahead of their share has to gain more.
const WORTH_GAINING: [i64; 2] = [50, 100];
const WORTH_LOSING: [i64; 2] = [25, 60];
/// Windows on each side of a trial, at least; at most it is [`MOST_WINDOWS`].
const LEAST_WINDOWS: usize = 2;
/// A trial is over before if its result is so many times the noise away from what turns it.
const SURE: i64 = 2;
/// So many requests during one window of a trial may tell nothing, because too little is asked for.
const MOST_VOID: u32 = 2000;
/// By how many thousandths the throughput of a window differs from that of the one before, as long as nothing is known.
const FIRST_SCATTER: i64 = 50;
/// Once both ways have failed, windows until the next trial: at first, and at most. So many that what trials cost is not
/// seen in a 99th percentile.
const FIRST_PAUSE: u32 = 8;
const LONGEST_PAUSE: u32 = 256;
/// So many windows in a row that differ from the usual by so many thousandths, and by so many times the scatter, are
/// another load or another disk.
const CHANGED_WINDOWS: u32 = 3;
const CHANGED: i64 = 250;
const CHANGED_SCATTERS: i64 = 4;
/// Averages of small whole numbers are kept in so many parts.
const FINE: i64 = 64;
/// A spare depth of its own is tried where it is the turn of groups ahead of their share once in so many times, and given
/// up where it is less often than once in so many: then they gain nothing by it, and it can only leave the device idle.
const OFTEN: u32 = 4;
const SELDOM: u32 = 16;
/// What a group that is alone has in flight is done in this time; but a device that does not do so many in it is not
/// quick, and is given what the trials say.
const ALONE: Nanos = Nanos::from_millis(2);
const QUICK: u32 = 8;
/// Alone is who has been so for so many windows: others may come and go, one request at a time.
const FOR_A_WHILE: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Deeper,
    Shallower,
}

/// Which of the two depths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Total,
    Spare,
}

/// One of them, and what will be tried of it next: which way, and by which part of it, `1 / step`.
#[derive(Clone, Copy, Debug)]
struct Course {
    depth: u32,
    way: Way,
    step: u32,
    /// It is said by the settings and not tried.
    pinned: bool,
}

/// What is tried.
#[derive(Clone, Copy, Debug)]
struct Trial {
    which: Which,
    way: Way,
    depth: u32,
    /// What it is compared with: the depth in force, or what is used of it.
    against: u32,
    usual: Side,
    tried: Side,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// At the usual depths; so many windows until the next trial.
    Steady { pause: u32 },
    /// At the depth that is tried.
    Trying(Trial),
    /// At the usual depths, for comparison.
    Between(Trial),
}

/// See the module.
#[derive(Debug)]
pub(super) struct DepthControl {
    /// The total depth is never less.
    least: u32,
    total: Course,
    spare: Course,
    phase: Phase,
    /// The one whose trials are on.
    turn: Which,
    /// Which ways of which depth have failed with the shortest step since the last success or pause.
    failed: [[bool; 2]; 2],
    pause: u32,
    /// What the last trial found at the usual depth.
    usual: Option<Rate>,
    /// By how many thousandths windows at the same depth differ from the one before, on average, times [`FINE`].
    scatter: i64,
    /// Windows in a row that were unlike it.
    unlike: u32,
    /// A request waits for the total depth, or for the spare one.
    refused: [bool; 2],
    /// Requests in flight on average in the last window, rounded up.
    used: u32,
    /// A trial has said how far it goes.
    learned: bool,
    /// The depth for a group that is alone; 0 where that is nothing of its own.
    alone: u32,
    /// Windows in a row in which one group had the device for itself.
    alone_for: u32,
    window: Window,
}

impl DepthControl {
    pub(super) fn new() -> Self {
        Self {
            least: SHALLOWEST,
            total: Course { depth: SHALLOWEST, way: Way::Deeper, step: 1, pinned: false },
            spare: Course { depth: DEEPEST, way: Way::Shallower, step: 1, pinned: false },
            phase: Phase::Steady { pause: 0 },
            turn: Which::Total,
            failed: Default::default(),
            pause: FIRST_PAUSE,
            usual: None,
            scatter: FIRST_SCATTER * FINE,
            unlike: 0,
            refused: [false; 2],
            used: SHALLOWEST,
            learned: false,
            alone: 0,
            alone_for: 0,
            window: Window::default(),
        }
    }

    /// What the settings say of the depths; 0 leaves them to this.
    pub(super) fn pin(&mut self, io_throttle: u32, io_limit: u32) {
        let Self { total, spare, .. } = Self::new();
        // What passes at once is never less.
        self.least = io_throttle.clamp(SHALLOWEST, DEEPEST);
        self.total =
            Course { depth: if io_limit > 0 { io_limit } else { self.least }, pinned: io_limit > 0, ..total };
        self.spare = Course { pinned: io_throttle > 0, ..spare };
        // What is under way may be about what is pinned now.
        (self.phase, self.window) = (Phase::Steady { pause: 0 }, Window::default());
    }

    /// What trials have found so far, total and spare; nothing before one has said how far it goes.
    pub(super) fn found(&self) -> Option<(u32, u32)> {
        self.learned.then_some((self.total.depth, self.spare.depth))
    }

    /// Begins with what was found before: trials go on from there, in short steps, for it is about right.
    pub(super) fn begin_with(&mut self, (total, spare): (u32, u32)) {
        let least = self.least;
        for (course, depth, least) in [(&mut self.total, total, least), (&mut self.spare, spare, SHALLOWEST)]
        {
            if !course.pinned {
                (course.depth, course.step) = (depth.clamp(least, DEEPEST), SHORTEST_STEP);
            }
        }
        self.learned = true;
    }

    /// The depth while only one group is active.
    pub(super) fn alone(&self) -> u32 {
        if self.total.pinned { self.total.depth } else { self.total().max(self.alone) }
    }

    /// The depth for requests that are due.
    pub(super) fn total(&self) -> u32 {
        match self.phase {
            Phase::Trying(Trial { which: Which::Total, depth, .. }) => depth,
            _ => self.total.depth,
        }
    }

    /// The depth for those that are not.
    pub(super) fn spare(&self) -> u32 {
        let spare = match self.phase {
            Phase::Trying(Trial { which: Which::Spare, depth, .. }) => depth,
            _ => self.spare.depth,
        };
        spare.min(self.total())
    }

    /// It is asked anew what may pass.
    pub(super) fn ask(&mut self) {
        self.refused = [false; 2];
    }

    /// It is the turn of a request, which is due or not.
    pub(super) fn turn(&mut self, due: bool) {
        self.window.turn(due);
    }

    /// It does not pass.
    pub(super) fn refused(&mut self, due: bool) {
        let which = if !due && self.spare() < self.total() { Which::Spare } else { Which::Total };
        self.refused[which as usize] = true;
    }

    /// `in_flight` requests were with the device for `span`.
    pub(super) fn passed(&mut self, span: Nanos, in_flight: u32) {
        if self.tells_something(in_flight) {
            self.window.passed(span, in_flight);
        }
    }

    /// A request that moved `sectors` came back; with it `in_flight` were with the device, and `shared` says whether more
    /// than one group is active.
    pub(super) fn completed(&mut self, sectors: u32, in_flight: u32, shared: bool) {
        if !self.tells_something(in_flight) {
            self.window.void += 1;
            if self.window.void > MOST_VOID {
                self.give_up();
            }
            return;
        }
        if !self.window.completed(sectors, shared, self.refused) {
            return;
        }
        let least = 32 + 2 * self.used.min(self.total());
        if self.window.completions >= least && self.window.busy >= Nanos::from_millis(10) {
            self.close_window();
        }
    }

    /// Whether enough is asked for at the moment for the depths that are compared to make a difference. Groups that come
    /// and go, on a machine that does the same, would else decide trials.
    fn tells_something(&self, in_flight: u32) -> bool {
        match &self.phase {
            Phase::Steady { .. } => true,
            Phase::Trying(trial) | Phase::Between(trial) => {
                let much = trial.depth.min(trial.against).saturating_mul(3);
                self.refused[trial.which as usize] || in_flight.saturating_mul(4) >= much
            }
        }
    }

    /// A trial that nothing can be learned from counts as failed, so that others have their turn.
    fn give_up(&mut self) {
        if let Phase::Trying(trial) | Phase::Between(trial) = self.phase {
            self.fail(&trial);
            (self.phase, self.window) = (Phase::Steady { pause: 0 }, Window::default());
        }
    }

    fn close_window(&mut self) {
        let before = (self.total(), self.spare());
        let window = std::mem::take(&mut self.window);
        self.used = window.concurrency();
        self.alone_for = if window.shared == 0 { self.alone_for.saturating_add(1) } else { 0 };
        if self.alone_for >= FOR_A_WHILE {
            self.learn_alone(&window);
        } else {
            self.alone = 0;
        }
        self.phase = match self.phase {
            Phase::Steady { pause } => self.stay(pause, &window),
            Phase::Trying(mut trial) => {
                trial.tried.add(window.rate());
                self.learn_scatter(&trial.tried);
                self.decide(&trial).unwrap_or(Phase::Between(trial))
            }
            Phase::Between(mut trial) => {
                trial.usual.add(window.rate());
                self.learn_scatter(&trial.usual);
                self.decide(&trial).unwrap_or(Phase::Trying(trial))
            }
        };
        if before != (self.total(), self.spare()) {
            let most = self.total().max(before.0);
            self.window.settling = most.min(self.used.saturating_mul(2));
        }
    }

    /// After a window in which one group has long had the device for itself.
    fn learn_alone(&mut self, window: &Window) {
        let done = window.rate().requests.saturating_mul(ALONE.0) / Nanos::SECOND.0;
        let done = u32::try_from(done).unwrap_or(DEEPEST).min(DEEPEST);
        // A standstill is not the end of a quick device.
        let done = done.max(self.alone - self.alone / 4);
        self.alone = if done < QUICK { 0 } else { done };
        if !self.total.pinned && !self.learned {
            self.total.depth = self.total.depth.max(self.used.min(self.alone));
        }
    }

    /// After a window at the usual depths with no trial under way.
    fn stay(&mut self, pause: u32, window: &Window) -> Phase {
        if self.has_changed(window.rate()) {
            (self.usual, self.unlike, self.pause) = (None, 0, FIRST_PAUSE);
            self.failed = Default::default();
            (self.total.step, self.spare.step) = (self.total.step.min(2), self.spare.step.min(2));
        } else if pause > 0 {
            return Phase::Steady { pause: pause - 1 };
        }
        if window.ahead < window.turns / SELDOM {
            self.spare.depth = DEEPEST;
        }
        for which in [self.turn, self.turn.other()] {
            let way = self.course(which).way;
            for way in [way, way.other()] {
                if !self.failed[which as usize][way as usize]
                    && let Some(trial) = self.trial(which, way, window)
                {
                    self.turn = which;
                    // Not from the window that has just been: it counted whatever was asked for.
                    return Phase::Between(trial);
                }
            }
        }
        if std::mem::take(&mut self.failed) == [[false; 2]; 2] {
            return Phase::Steady { pause: 0 };
        }
        let pause = self.pause;
        self.pause = (pause * 4).min(LONGEST_PAUSE);
        Phase::Steady { pause }
    }

    fn course(&mut self, which: Which) -> &mut Course {
        match which {
            Which::Total => &mut self.total,
            Which::Spare => &mut self.spare,
        }
    }

    /// Whether this window at the usual depth is one too many that is unlike the usual ones.
    fn has_changed(&mut self, rate: Rate) -> bool {
        let off = self.usual.map_or([0; 2], |usual| rate.change_from(usual));
        let much = CHANGED.max(self.scatter / FINE * CHANGED_SCATTERS);
        self.unlike = if off.iter().all(|off| off.abs() > much) { self.unlike + 1 } else { 0 };
        self.unlike >= CHANGED_WINDOWS
    }

    /// The next trial of that depth in that way, if there is anything to try.
    fn trial(&self, which: Which, way: Way, window: &Window) -> Option<Trial> {
        let Course { depth: usual, step, pinned, .. } =
            if which == Which::Total { self.total } else { self.spare };
        if pinned {
            return None;
        }
        let used = window.concurrency();
        let (most, usual) = match which {
            Which::Total => (DEEPEST, usual),
            Which::Spare => (self.total.depth, usual.min(self.total.depth)),
        };
        let (depth, against) = match way {
            Way::Deeper => {
                let depth = usual.saturating_add((usual / step).max(1)).min(most);
                // Nor does it help if what there is is never used.
                let more = window.wants_more(which as usize) && window.peak.saturating_mul(2) >= usual;
                (more && depth > usual).then_some((depth, usual))?
            }
            Way::Shallower => {
                let often = match which {
                    Which::Total => window.shared >= window.completions / SELDOM,
                    Which::Spare => window.ahead > window.turns / OFTEN,
                };
                let used = used.min(usual);
                // Mostly the spare depth is needed not at all.
                let longest = if which == Which::Total { 2 } else { 1 };
                let least = if which == Which::Total { self.least } else { SHALLOWEST };
                let depth = used.saturating_sub((used / step.max(longest)).max(1)).max(least);
                (often && window.shared > 0 && depth < used).then_some((depth, used))?
            }
        };
        Some(Trial { which, way, depth, against, usual: Side::new(), tried: Side::new() })
    }

    /// A moving average over about eight windows, in which a standstill counts as a change by half.
    fn learn_scatter(&mut self, side: &Side) {
        if let Some(change) = side.last_change() {
            self.scatter += (change.min(500) * FINE - self.scatter) / 8;
        }
    }

    /// The noise of the difference of two medians of so many windows, in thousandths. (Where one window differs from the
    /// next by 1 on average, the standard deviation is 0.9; that of a median is one and a quarter times that of a mean, and
    /// a difference has it twice.)
    fn noise(&self, windows: usize) -> i64 {
        let root = (windows.max(1) as u64 * 10_000).isqrt() as i64;
        self.scatter * 160 / root / FINE
    }

    /// Whether as many windows as there may be tell what a step of `1 / step` comes to.
    fn tells(&self, step: u32) -> bool {
        self.noise(MOST_WINDOWS) <= WORTH_LOSING[Which::Total as usize] / i64::from(step)
    }

    /// What comes of a trial; nothing as long as the noise of so few windows could turn it.
    fn decide(&mut self, trial: &Trial) -> Option<Phase> {
        let usual = trial.usual.median();
        let [requests, work] = trial.tried.median().change_from(usual);
        let which = trial.which as usize;
        let beyond = match trial.way {
            Way::Deeper => requests.min(work) - WORTH_GAINING[which] * trial.step() / 1000,
            Way::Shallower => requests.max(work) + WORTH_LOSING[which] * trial.step() / 1000,
        };
        let windows = trial.tried.count.min(trial.usual.count);
        let sure = beyond.abs() > SURE * self.noise(windows);
        if windows < LEAST_WINDOWS || (windows < MOST_WINDOWS && !sure) {
            return None;
        }
        let good = beyond > 0;
        let course = self.course(trial.which);
        if good {
            // Where one step was right the next may be, and a longer one.
            let step = (course.step / 2).max(1);
            *course = Course { depth: trial.depth, way: trial.way, step, ..*course };
            (self.usual, self.failed, self.pause) = (None, Default::default(), FIRST_PAUSE);
            return Some(Phase::Steady { pause: 0 });
        }
        let step = course.step;
        self.usual = Some(usual);
        let could_be_shorter = step < SHORTEST_STEP && trial.depth.abs_diff(trial.against) > 1;
        if could_be_shorter && (step < 2 || self.tells(step * 2)) {
            let course = self.course(trial.which);
            (course.step, course.way) = (step * 2, trial.way.other());
            self.turn = trial.which.other();
        } else {
            self.fail(trial);
        }
        Some(Phase::Steady { pause: 0 })
    }

    /// This way there is nothing to be had for now.
    fn fail(&mut self, trial: &Trial) {
        self.failed[trial.which as usize][trial.way as usize] = true;
        self.learned |= trial.which == Which::Total;
        self.course(trial.which).way = trial.way.other();
        self.turn = trial.which.other();
    }
}

impl Trial {
    /// Its step in thousandths.
    fn step(&self) -> i64 {
        i64::from(self.depth.abs_diff(self.against)) * 1000 / i64::from(self.against.max(1))
    }
}

impl Which {
    fn other(self) -> Which {
        match self {
            Self::Total => Self::Spare,
            Self::Spare => Self::Total,
        }
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
