//! Limits are kept through a real mount: a cap is never exceeded and what it takes away goes to the others, and a
//! minimum is met whatever the weights.
//!
//! The device is simulated at 2,000 requests a second, or 8,000 KB/s of the 4 KiB that they have here. Limits are rates
//! and not shares, so what they come to as a part of the device is right as far as it really does so many.

use crate::daemon::{MOUNT, Vmdisk};
use crate::load::{Load, Report};
use crate::shares::{COMMON, race, requests, two_images};
use crate::support::trial;
use libtest_mimic::Trial;

/// Points of a hundred that a part of the device may be off: what the simulation loses counts as well.
const TOLERANCE: f64 = 2.0;
/// Requests that a load has in flight.
const DEPTH: f64 = 8.0;
/// Bytes of a request.
const REQUEST: f64 = 4096.0;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("limits: a cap of requests holds, and the rest is for the others", MOUNT, capped_requests),
        trial("limits: a cap of bandwidth holds, and the rest is for the others", MOUNT, capped_bandwidth),
        trial("limits: range-bw meets a minimum beyond the share", MOUNT, minimum),
        trial("limits: range-bw keeps to a maximum below the share", MOUNT, maximum),
    ]
}

/// uid 60001 and uid 60002 at once on one image; what each got.
fn two_users(mount: &Vmdisk) -> [Report; 2] {
    let mut loads: Vec<_> = [60001, 60002]
        .map(|uid| {
            let mut load = Load::spawn();
            load.open(&mount.file("vm1.img"), &format!("{COMMON} --uid {uid}"));
            load
        })
        .into();
    race(mount, &mut loads).try_into().expect("two loads, two reports")
}

/// No more than a rate and its burst, and the request that begins while there is still room.
fn assert_capped(report: &Report, rate: f64, burst: f64) {
    // What was in flight when counting began had passed before.
    let most = rate * report.seconds + burst + 1.0 + DEPTH;
    assert!(report.requests as f64 <= most, "{report:?}: more than {most}");
}

/// The first got so many of a hundred, the second all others.
fn assert_parts(reports: &[Report; 2], first: f64) {
    let [one, other] = [reports[0].requests as f64, reports[1].requests as f64];
    let part = 100.0 * one / (one + other);
    println!("{:?}: {part:.2} % for {first} %", requests(reports));
    assert!((part - first).abs() <= TOLERANCE, "{part:.2} % instead of {first} %: {reports:?}");
}

fn capped_requests() {
    let mount = two_images(
        "    type: user\n    groups: {60001: {weight: 200, max_iops: 300, iops_burst: 30}, 60002: 100}",
    );
    let reports = two_users(&mount);
    assert_capped(&reports[0], 300.0, 30.0);
    assert_parts(&reports, 15.0);
}

/// Here it is the default group that is capped.
fn capped_bandwidth() {
    let mount = two_images("    type: user\n    max_bandwidth: 1200KiB/s\n    groups: {60002: 100}");
    let reports = two_users(&mount);
    assert_capped(&reports[0], 300.0, 1200.0 * 1024.0 / 100.0 / REQUEST);
    assert_parts(&reports, 15.0);
}

/// A twentieth by weight, but a fifth of the device is promised.
fn minimum() {
    let mount = two_images(
        "    type: user\n    policy: range-bw\n    groups: {60001: {weight: 5, min_bandwidth: 1600KiB/s}, 60002: 95}",
    );
    assert_table(&mount, "range-bw 2048 :0:0 60001:1600:0 60002:0:0 weight 60001:5 weight 60002:95");
    assert_parts(&two_users(&mount), 20.0);
}

fn maximum() {
    let mount = two_images(
        "    type: user\n    policy: range-bw\n    groups: {60001: {weight: 95, max_bandwidth: 1600KiB/s}, 60002: 5}",
    );
    assert_table(&mount, "range-bw 2048 :0:0 60001:0:1600 60002:0:0 weight 60001:95 weight 60002:5");
    let reports = two_users(&mount);
    assert_capped(&reports[0], 400.0, 1600.0 * 1024.0 / 100.0 / REQUEST);
    assert_parts(&reports, 20.0);
}

fn assert_table(mount: &Vmdisk, end: &str) {
    let table = mount.control("table");
    assert!(table.trim_end().ends_with(end), "{table}");
}
