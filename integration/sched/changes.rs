//! Groups that come, go and change, and how soon it shows (share rules R4, R9, R10).

use crate::sim::Run;
use crate::sim::client::ClientModel;
use crate::{assert_at_least, assert_near, floods, ms, plain, scenario, servers};
use ioband::sched::{Cap, Disk, GroupKey, Limits, Next, Op, Policy, Request, Settings};
use ioband::units::{Nanos, Weight};
use std::num::NonZeroU64;

#[test]
fn a_change_of_weight_acts_within_a_tenth_of_a_second() {
    let mut run = Run::new(&scenario(plain(), floods(&[(1, 32), (1000, 32)])));
    run.until(ms(2000));
    run.set_weight(0, 80);
    run.set_weight(1, 20);
    // What was in flight when it changed comes first.
    assert_near(&run.measure(ms(2005), ms(2105)).shares(), &[80.0, 20.0], 2.0);
    assert_near(&run.measure(ms(2105), ms(3105)).shares(), &[80.0, 20.0], 0.5);
}

#[test]
fn what_a_leaver_leaves_goes_to_the_others_within_50_ms() {
    let leaver = ClientModel { until: 2.0, ..ClientModel::new("leaver", 80, 16) };
    for rest in [floods(&[(40, 16)]), floods(&[(30, 16), (10, 16)])] {
        let clients = [vec![leaver.clone()], rest].concat();
        let mut run = Run::new(&scenario(plain(), clients));
        // Its last requests take 12 ms.
        let outcome = run.measure(ms(2050), ms(2100));
        assert_at_least(outcome.used, 0.995);
        assert_eq!(outcome.clients[0].requests, 0);
        let others: u32 = outcome.clients[1..].iter().map(|got| got.weight).sum();
        for got in &outcome.clients[1..] {
            let ideal = 100.0 * f64::from(got.weight) / f64::from(others);
            assert!((got.requests as f64 - ideal).abs() <= 1.0, "{} of 100, ideal {ideal}", got.requests);
        }
    }
}

#[test]
fn who_comes_back_has_his_share_within_50_ms() {
    for away in [ms(100), ms(30_000)] {
        let back = 2.0 + away.0 as f64 / 1e9;
        let (mut leaver, stayer) = (ClientModel::new("leaver", 80, 16), ClientModel::new("stayer", 20, 16));
        (leaver.from, leaver.on_ms, leaver.off_ms) = (0.0, 2000.0, away.0 as f64 / 1e6);
        let mut run = Run::new(&scenario(plain(), vec![leaver, stayer]));
        let start = Nanos((back * 1e9) as u64);
        // Its first requests take up to 12 ms, and then it gets 80 of each 100, neither less nor, for having been
        // away, more.
        let outcome = run.measure(start.after(ms(20)), start.after(ms(70)));
        assert_near(&outcome.shares(), &[80.0, 20.0], 2.0);
        assert_near(&run.measure(start.after(ms(70)), start.after(ms(570))).shares(), &[80.0, 20.0], 0.5);
    }
}

#[test]
fn what_a_group_does_not_use_is_used_by_others() {
    // The first may have 90 % and uses a tenth of that, in different manners.
    let single = ClientModel { think_us: 5000.0, ..ClientModel::new("single", 90, 1) };
    let poisson = ClientModel { rate: 180.0, depth: 0, ..single.clone() };
    let bursts = ClientModel { burst: 18, every_ms: 100.0, depth: 0, ..single.clone() };
    for lazy in [single, poisson, bursts] {
        let outcome = crate::whole(&scenario(plain(), vec![lazy.clone(), ClientModel::new("flood", 10, 32)]));
        assert_at_least(outcome.used, 0.98);
        // One at a time, it also waits for each.
        assert_near(&[outcome.rate(0)], &[if lazy.depth > 0 { 154.0 } else { 180.0 }], 10.0);
    }
}

#[test]
fn a_light_group_is_served_at_once_beside_a_flood() {
    // A virtual machine that mostly sleeps: its requests are as quick as the disk, not as slow as the flood's.
    // One request in the disk, one before it and its own; one more while a greater depth is tried.
    for (device, within) in [(plain(), 2.05), (servers(32, 200.0), 0.45)] {
        let lazy = ClientModel { think_us: 20_000.0, random_think: true, ..ClientModel::new("lazy", 100, 1) };
        let outcome = crate::whole(&scenario(device, vec![lazy, ClientModel::new("flood", 100, 64)]));
        assert!(outcome.clients[0].p99() <= within, "{} ms", outcome.clients[0].p99());
    }
}

#[test]
fn a_newcomer_does_not_burst_with_the_time_it_was_away() {
    let newcomer = ClientModel { from: 30.0, ..ClientModel::new("newcomer", 50, 16) };
    let mut run = Run::new(&scenario(plain(), vec![newcomer, ClientModel::new("other", 50, 16)]));
    assert_near(&run.measure(ms(30_005), ms(30_105)).shares(), &[50.0, 50.0], 1.0);
}

#[test]
fn coming_and_going_gains_nothing() {
    // Whoever pauses for a moment again and again would get more, were it to come in first each time.
    let gamer = ClientModel { on_ms: 5.0, off_ms: 1.0, ..ClientModel::new("gamer", 50, 16) };
    let outcome = crate::whole(&scenario(plain(), vec![gamer, ClientModel::new("honest", 50, 16)]));
    assert!(outcome.shares()[0] <= 50.5, "{:?}", outcome.shares());
}

fn read(id: u64, sectors: u32) -> Request {
    Request { id, op: Op::Read, sectors }
}

/// One group joined half way between two others and waits, of the same weight as these; virtual time has gone back since.
/// Then a heavy one comes, which may have done something before: so many requests go first.
fn go_before_who_waits(
    before: impl FnOnce(&mut Disk, GroupKey),
    comes: impl FnOnce(&mut Disk, GroupKey),
) -> u32 {
    let mut disk = Disk::new(Settings { io_limit: 1, ..Settings::default() });
    let [leaver, behind, waiting, late] = [1, 1, 1, 1000]
        .map(|weight| disk.add_group(Policy::WeightIosize, Weight::new(weight).expect("in range")));
    before(&mut disk, late);
    disk.submit(leaver, read(1, 2048), ms(0));
    disk.submit(behind, read(2, 2048), ms(0));
    let Next::Dispatch(first) = disk.next(ms(0)) else { panic!("an idle device takes it") };
    assert_eq!(first.id, 1);
    assert!(!matches!(disk.next(ms(0)), Next::Dispatch(_)));
    // One is 2048 tokens ahead of the other: the third joins half way between them.
    disk.submit(waiting, read(3, 8), ms(0));
    // The first is waited for no longer, so virtual time goes back to those who are still there.
    assert!(!matches!(disk.next(ms(20)), Next::Dispatch(_)));
    comes(&mut disk, late);
    disk.complete(first, ms(20));
    (0..)
        .find(|_| {
            let Next::Dispatch(next) = disk.next(ms(20)) else { panic!("there is something held") };
            let waited = next.id == 3;
            disk.complete(next, ms(20));
            waited
        })
        .expect("it goes at some time")
}

/// 300 of the largest requests.
fn ask_for_much(disk: &mut Disk, group: GroupKey, now: Nanos) {
    (4..304).for_each(|id| disk.submit(group, read(id, 2048), now));
}

/// In the time of its own request and of one before it the weight of the other asks for 16,000 tokens; and one request for
/// its place in line.
const MAY_GO_BEFORE: u32 = (16_000 + 2048) / 2048;

#[test]
fn who_comes_later_is_not_placed_before_who_waits_though_virtual_time_goes_back() {
    let others = go_before_who_waits(|_, _| {}, |disk, late| ask_for_much(disk, late, ms(20)));
    assert!(others <= MAY_GO_BEFORE, "it waits for {others} requests");
}

#[test]
fn nor_is_who_comes_back_from_a_cap() {
    let use_cap_up = |disk: &mut Disk, late| {
        let cap = Cap { rate: NonZeroU64::MIN, burst: 0 };
        disk.set_limits(late, Limits { max_iops: Some(cap), ..Limits::default() }, ms(0));
        disk.submit(late, read(0, 8), ms(0));
        let Next::Dispatch(last) = disk.next(ms(0)) else { panic!("the first may go") };
        disk.complete(last, ms(0));
        ask_for_much(disk, late, ms(0));
        assert!(matches!(disk.next(ms(0)), Next::Wait(_)), "its cap holds it back");
    };
    let others =
        go_before_who_waits(use_cap_up, |disk, late| disk.set_limits(late, Limits::default(), ms(20)));
    assert!(others <= MAY_GO_BEFORE, "it waits for {others} requests");
}
