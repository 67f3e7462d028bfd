//! What the simulator says of a scenario is what a real mount does: both run with the same settings, and each client's
//! share must be the same within a point.
//!
//! The simulator knows no other work on the machine, so mount and clients go before all of it here, and what is compared
//! is the median of several windows on either side: a machine that stands still for some milliseconds, and a trial of
//! another depth that this sets off, spoil a window or two. Ratios only, never how much there is.

use crate::daemon::{MOUNT, Vmdisk};
use crate::sim::Scenario;
use crate::sim::device::DeviceModel;
use crate::support::trial;
use crate::windows::{Window, lasting, measure, median, mount, simulate};
use libtest_mimic::Trial;

/// Points of a hundred that a share may be off what was predicted.
const TOLERANCE: f64 = 1.0;
/// How much of the throughput must be left under control. Twelve runs had 97.4 to 100 %; what is below that here is for a
/// machine that does something else meanwhile. In the simulator it is 97 % (`integration/sched/depth.rs`).
const LEFT: f64 = 0.95;
/// Windows that are compared.
const WINDOWS: u32 = 7;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the simulator predicts two groups", MOUNT, || shares("two-groups")),
        trial("the simulator predicts four groups", MOUNT, || shares("four-groups")),
        trial("the simulator predicts bytes shared between sizes", MOUNT, || shares("mixed-sizes")),
        trial("the simulator predicts a synchronous reader", MOUNT, || reader(Scenario::named("reader"))),
        trial("the simulator predicts a synchronous reader of the larger weight", MOUNT, || {
            reader(slower(Scenario::named("heavy-reader")))
        }),
        trial("the simulator predicts two floods on a wide disk, which stays as fast", MOUNT, || {
            throughput("wide-two")
        }),
        trial("the simulator predicts a reader on a wide disk, which stays as fast", MOUNT, || {
            throughput("wide-reader")
        }),
    ]
}

fn shares(name: &str) {
    let scenario = lasting(1.0, WINDOWS, Scenario::named(name));
    let (got, _) = measure(&mount(&scenario), &scenario);
    assert_shares(&scenario, &got, &[simulate(&scenario)]);
}

/// Who has only one request outstanding gets his share only as far as he is back in time for his next turn, and that is
/// for the machine to say: how long it takes from the end of a request on the device to the next one's arrival, through
/// two processes and the kernel. So that is measured with nobody else there, before and after, and the simulated
/// reader thinks for so long.
fn reader(scenario: Scenario) {
    // Trials of another depth cost such a reader more than anybody: after two seconds they are rare.
    let scenario = lasting(2.0, WINDOWS, scenario);
    let mount = mount(&scenario);
    let before = away_us(&mount, &scenario);
    let (got, _) = measure(&mount, &scenario);
    let away = [before, away_us(&mount, &scenario)];
    println!("the reader is away for {away:.0?} us, before and after");
    let predicted = away.map(|away_us| {
        let mut thinking = scenario.clone();
        thinking.clients[0].think_us = away_us;
        simulate(&thinking)
    });
    assert_shares(&scenario, &got, &predicted);
}

/// What the first client's requests take longer than the device takes for them when nobody else is there: the median,
/// because the machine may stand still now and then.
fn away_us(mount: &Vmdisk, scenario: &Scenario) -> f64 {
    let DeviceModel::Servers { service_us, bandwidth: 0, .. } = scenario.device else {
        panic!("a disk is wanted that takes the same time for all requests");
    };
    let alone = Scenario { clients: scenario.clients[..1].to_vec(), ..lasting(0.2, 1, scenario.clone()) };
    let (_, reports) = measure(mount, &alone);
    (reports[0].latency_us.p50 - service_us).max(0.0)
}

/// The same on a disk that takes four times as long. The disk is left idle for a reader only if that costs little: up to
/// a sixth of a request's time he gets his share, beyond that soon only half. On the disk of 500 us that edge is just
/// where many a machine is, and no single time predicts what falls on which side of it.
fn slower(mut scenario: Scenario) -> Scenario {
    if let DeviceModel::Servers { service_us, .. } = &mut scenario.device {
        *service_us *= 4.0;
    }
    scenario
}

/// A disk with many servers keeps its throughput under control, however it is divided: the same clients on it, and
/// before and after on one without control. A machine that does something else can only make it less, so it may be tried again.
fn throughput(name: &str) {
    // It takes a second to find the depth, and some more until the trials of others become rare.
    let scenario = lasting(3.5, WINDOWS, Scenario::named(name));
    let free = lasting(0.2, 1, scenario.uncontrolled());
    let (controlled, uncontrolled) = (mount(&scenario), mount(&free));
    let left = || {
        let (mut without, _) = measure(&uncontrolled, &free);
        let (with, _) = measure(&controlled, &scenario);
        without.extend(measure(&uncontrolled, &free).0);
        let [with_rate, without_rate] = [&with, &without].map(|windows| {
            let rates: Vec<_> = windows.iter().map(Window::rate).collect();
            println!("{rates:.0?} requests a second");
            median(rates)
        });
        let left = with_rate / without_rate;
        println!("{:.1} % are left under control", 100.0 * left);
        assert_shares(&scenario, &with, &[simulate(&scenario)]);
        left
    };
    assert!((0..3).any(|_| left() >= LEFT), "less than {:.0} % are left, three times", 100.0 * LEFT);
}

/// Each share is what one of the predictions says, or between them, within a point.
#[track_caller]
fn assert_shares(scenario: &Scenario, got: &[Window], predicted: &[Vec<Window>]) {
    let typical = |windows: &[Window]| -> Vec<f64> {
        let all: Vec<_> = windows.iter().map(|window| window.shares(scenario)).collect();
        let of = |client: usize| median(all.iter().map(|shares| shares[client]).collect());
        (0..scenario.clients.len()).map(of).collect()
    };
    let got = typical(got);
    let said: Vec<_> = predicted.iter().map(|windows| typical(windows)).collect();
    println!("{got:.2?}, predicted {said:.2?}");
    for (client, got) in got.iter().enumerate() {
        let all = said.iter().map(|shares| shares[client]);
        let (least, most) = (all.clone().fold(100.0, f64::min), all.fold(0.0, f64::max));
        let name = &scenario.clients[client].name;
        assert!(
            (least - TOLERANCE..=most + TOLERANCE).contains(got),
            "{name}: {got:.2} % instead of {least:.2} to {most:.2} %"
        );
    }
}
