//! A scenario window by window, on a real mount and in the simulator: who got what in each stretch of time.

use crate::daemon::{Vmdisk, groups, worker};
use crate::load::{Load, Report};
use crate::sim::real::{Images, Real};
use crate::sim::scenario::seconds;
use crate::sim::{Run, Scenario};
use crate::support::run;
use ioband::sched::Policy;
use ioband::units::SECTOR_SIZE;
use std::time::{Duration, Instant};

/// Seconds of a window.
const WINDOW: f64 = 0.5;

/// What each client got in a window.
pub(crate) struct Window {
    seconds: f64,
    requests: Vec<u64>,
    bytes: Vec<u64>,
}

impl Window {
    /// Requests a second of all together.
    pub(crate) fn rate(&self) -> f64 {
        self.requests.iter().sum::<u64>() as f64 / self.seconds
    }

    /// Each client's part, in percent, of what the scenario shares.
    pub(crate) fn shares(&self, scenario: &Scenario) -> Vec<f64> {
        let all = if scenario.policy == Policy::Weight { &self.requests } else { &self.bytes };
        let total = all.iter().sum::<u64>() as f64;
        all.iter().map(|part| 100.0 * *part as f64 / total).collect()
    }
}

/// The scenario for so many seconds that do not count, and so many windows.
pub(crate) fn lasting(warm_up: f64, windows: u32, scenario: Scenario) -> Scenario {
    Scenario { warm_up, seconds: warm_up + f64::from(windows) * WINDOW, ..scenario }
}

/// Where the windows of a scenario begin and end, in seconds.
fn ends(scenario: &Scenario) -> impl Iterator<Item = f64> {
    let windows = ((scenario.seconds - scenario.warm_up) / WINDOW).round() as u32;
    let warm_up = scenario.warm_up;
    (0..=windows).map(move |window| warm_up + f64::from(window) * WINDOW)
}

pub(crate) fn simulate(scenario: &Scenario) -> Vec<Window> {
    let mut run = Run::new(scenario);
    let windows = ends(scenario).zip(ends(scenario).skip(1)).map(|(from, to)| {
        let outcome = run.measure(seconds(from), seconds(to));
        Window {
            seconds: to - from,
            requests: outcome.clients.iter().map(|got| got.requests).collect(),
            bytes: outcome.clients.iter().map(|got| got.bytes).collect(),
        }
    });
    windows.collect()
}

/// A mount that is as slow as the scenario's disk.
pub(crate) fn mount(scenario: &Scenario) -> Vmdisk {
    let mount = Vmdisk::mount(&real(scenario).config);
    before_all_others(worker(&mount));
    mount
}

/// Runs the scenario's clients on a mount; and what they say themselves.
pub(crate) fn measure(mount: &Vmdisk, scenario: &Scenario) -> (Vec<Window>, Vec<Report>) {
    let clients = real(scenario).clients;
    let open = |client: &crate::sim::real::RealClient| {
        let mut load = Load::spawn();
        load.open(&mount.file(&client.image), &format!("--uid {} {}", client.uid, client.args));
        before_all_others(load.pid());
        load
    };
    let mut loads: Vec<_> = clients.iter().map(open).collect();
    loads.iter_mut().for_each(Load::start);
    let start = Instant::now();
    let counted: Vec<_> = ends(scenario)
        .map(|end| {
            // The last a moment before they stop.
            let end = Duration::from_secs_f64(end.min(scenario.seconds - 0.02));
            std::thread::sleep(end.saturating_sub(start.elapsed()));
            let status = mount.control("status");
            let counters = clients.iter().map(|client| counters(&status, client.uid)).collect();
            (start.elapsed(), counters)
        })
        .collect();
    let reports: Vec<_> = loads.iter_mut().map(Load::report).collect();
    assert!(reports.iter().all(|report| report.errors == 0), "{reports:?}");
    (counted.windows(2).map(|pair| between(&pair[0], &pair[1])).collect(), reports)
}

/// When it was, and for each client its requests and bytes so far.
type Counted = (Duration, Vec<[u64; 2]>);

fn between((from, before): &Counted, (to, after): &Counted) -> Window {
    let each = |what: usize| before.iter().zip(after).map(|(b, a)| a[what] - b[what]).collect();
    Window { seconds: (*to - *from).as_secs_f64(), requests: each(0), bytes: each(1) }
}

/// Requests and bytes of a user's group.
fn counters(status: &str, uid: u32) -> [u64; 2] {
    let group = groups(status).into_iter().find(|(id, _)| *id == uid.to_string());
    let (_, [reads, _, read, writes, _, written]) = group.expect("the client's group");
    [reads + writes, (read + written) * SECTOR_SIZE]
}

fn real(scenario: &Scenario) -> Real {
    Real::new(scenario, Images::Each).expect("a scenario that a mount can be")
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2].midpoint(values[values.len() / 2])
}

/// Who has what of the disk is the question, and not who has the processors: who serves goes before all others, and so do those
/// who ask for something.
pub(crate) fn only_the_disk_matters<'a>(mount: &Vmdisk, loads: impl IntoIterator<Item = &'a Load>) {
    before_all_others(worker(mount));
    loads.into_iter().for_each(|load| before_all_others(load.pid()));
}

/// Lets a process, with the threads that it has and will have, go before everything that does not ask for that.
fn before_all_others(pid: u32) {
    let chrt = run("chrt", &["--all-tasks", "--fifo", "--pid", "1", &pid.to_string()]);
    // Not everywhere may root do that; and where nothing else runs it changes nothing.
    if let Err(error) = chrt {
        println!("beside all others: {error}");
    }
}
