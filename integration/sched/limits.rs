//! Caps and minima (share rules R11 and R12).

use crate::sim::client::{ClientModel, Ops};
use crate::sim::run::sizes;
use crate::sim::{Run, Scenario};
use crate::{assert_at_least, assert_near, floods, ms, plain, scenario, whole};
use ioband::sched::{Cap, Disk, Limits, Next, Op, Policy, Request, Settings};
use ioband::units::{Nanos, Weight};
use std::num::NonZeroU64;

const KIB: u64 = 1024;

fn rate(rate: u64) -> NonZeroU64 {
    NonZeroU64::new(rate).expect("a test's rate is not zero")
}

fn iops(rate_: u64) -> Limits {
    Limits { max_iops: Some(Cap::new(rate(rate_))), ..Limits::default() }
}

/// Runs floods on the plain disk, the first groups with these limits. 4 KiB requests, so the disk gives 8,000 KiB/s.
fn with_limits(clients: &[(u32, u32)], limits: &[Limits], policy: Policy) -> Vec<f64> {
    let mut run = Run::new(&Scenario { policy, ..scenario(plain(), floods(clients)) });
    for (client, limits) in limits.iter().enumerate() {
        run.set_limits(client, *limits);
    }
    let outcome = run.measure(ms(1000), ms(11_000));
    run.finish();
    (0..clients.len()).map(|client| outcome.rate(client)).collect()
}

fn minimum(kib: u64) -> Limits {
    Limits { min_bandwidth: NonZeroU64::new(kib * KIB), ..Limits::default() }
}

fn maximum(kib: u64) -> Limits {
    Limits { max_bandwidth: Some(Cap::new(rate(kib * KIB))), ..Limits::default() }
}

#[test]
fn a_cap_of_requests_is_exact_and_the_rest_goes_to_the_others() {
    for policy in Policy::ALL {
        let got = with_limits(&[(80, 16), (40, 16)], &[iops(300)], policy);
        assert_near(&got, &[300.0, 1700.0], 1.0);
    }
}

#[test]
fn a_cap_of_bytes_is_exact() {
    let got = with_limits(&[(80, 16), (40, 16)], &[maximum(1200)], Policy::Weight);
    assert_near(&got, &[300.0, 1700.0], 1.0);
}

#[test]
fn a_cap_above_the_share_changes_nothing() {
    for limits in [iops(1400), maximum(5600)] {
        let got = with_limits(&[(80, 16), (40, 16)], &[limits], Policy::Weight);
        assert_near(&got, &[1333.3, 666.7], 2.0);
    }
}

#[test]
fn a_cap_below_the_share_is_reached() {
    // Just below: it is held back every now and then, and must not lose its place by it.
    for cap in [1320, 1300, 1000] {
        let got = with_limits(&[(80, 16), (40, 16)], &[iops(cap)], Policy::Weight);
        assert_near(&got, &[cap as f64, 2000.0 - cap as f64], 3.0);
    }
}

#[test]
fn a_synchronous_caller_reaches_its_cap() {
    let got = with_limits(&[(80, 1), (40, 32)], &[iops(500)], Policy::Weight);
    assert_near(&got, &[500.0, 1500.0], 5.0);
}

#[test]
fn what_all_are_forbidden_stays_unused_and_all_come_back() {
    let got = with_limits(&[(80, 16), (40, 16)], &[iops(300), iops(200)], Policy::Weight);
    assert_near(&got, &[300.0, 200.0], 1.0);
}

#[test]
fn a_minimum_is_met_before_weights() {
    // By weight it would get 200 requests, 800 KiB a second.
    let got = with_limits(&[(10, 16), (90, 16)], &[minimum(4000)], Policy::RangeBw);
    assert_near(&got, &[1000.0, 1000.0], 5.0);
    // Also one request at a time.
    let got = with_limits(&[(10, 1), (90, 16)], &[minimum(3200)], Policy::RangeBw);
    assert_near(&got, &[800.0, 1200.0], 20.0);
}

#[test]
fn a_minimum_below_the_share_changes_nothing() {
    let got = with_limits(&[(80, 16), (40, 16)], &[minimum(2000), minimum(800)], Policy::RangeBw);
    assert_near(&got, &[1333.3, 666.7], 2.0);
}

#[test]
fn what_minima_leave_is_shared_by_weight() {
    let clients = [(10, 16), (60, 16), (30, 16)];
    let got = with_limits(&clients, &[minimum(4400)], Policy::RangeBw);
    assert_near(&got, &[1100.0, 600.0, 300.0], 5.0);
}

#[test]
fn minima_of_more_than_there_is_share_in_proportion() {
    let got = with_limits(&[(50, 16), (50, 16)], &[minimum(12_000), minimum(4000)], Policy::RangeBw);
    assert_near(&got, &[1500.0, 500.0], 10.0);
}

#[test]
fn who_joins_where_minima_ask_for_too_much_is_served_at_once() {
    let mut clients = floods(&[(50, 16), (50, 16), (50, 16)]);
    clients[2].from = 5.0;
    let mut run = Run::new(&Scenario { policy: Policy::RangeBw, ..scenario(plain(), clients) });
    (0..3).for_each(|client| run.set_limits(client, minimum(8000)));
    let outcome = run.measure(ms(5300), ms(5800));
    assert_near(&outcome.shares(), &[33.3, 33.3, 33.3], 2.0);
}

#[test]
fn what_a_group_got_beyond_its_minimum_is_no_payment_in_advance() {
    let mut clients = floods(&[(10, 16), (90, 16)]);
    clients[1].from = 5.0;
    let mut run = Run::new(&Scenario { policy: Policy::RangeBw, ..scenario(plain(), clients) });
    run.set_limits(0, minimum(4000));
    let outcome = run.measure(ms(5020), ms(5220));
    assert_near(&outcome.shares(), &[50.0, 50.0], 4.0);
}

#[test]
fn what_moves_no_bytes_goes_by_weight_whatever_the_minimum() {
    for (ops, depth) in [(Ops::Discard, 16), (Ops::Flush, 16), (Ops::Flush, 1)] {
        let mut clients = floods(&[(10, depth), (90, 32)]);
        clients[0].ops = ops;
        // Of one token each.
        clients.iter_mut().for_each(|client| client.sizes = sizes(&[512]));
        let mut run = Run::new(&Scenario { policy: Policy::RangeBw, ..scenario(plain(), clients) });
        run.set_limits(0, minimum(4));
        let shares = run.measure(ms(1000), ms(11_000)).shares();
        assert!(shares[0] <= 10.5, "{shares:?}");
    }
}

#[test]
fn a_minimum_is_in_force_under_range_bw_only() {
    let mut run =
        Run::new(&Scenario { policy: Policy::RangeBw, ..scenario(plain(), floods(&[(10, 300), (90, 300)])) });
    run.set_limits(0, minimum(4000));
    assert_near(&run.measure(ms(1000), ms(2000)).shares(), &[50.0, 50.0], 1.0);
    for policy in [Policy::Weight, Policy::WeightIosize] {
        run.set_policy(policy);
        let now = run.now();
        assert_near(&run.measure(now.after(ms(5)), now.after(ms(105))).shares(), &[10.0, 90.0], 2.0);
        // And nothing is made up for when it is in force again.
        run.set_policy(Policy::RangeBw);
        let now = run.now();
        assert_near(&run.measure(now.after(ms(5)), now.after(ms(105))).shares(), &[50.0, 50.0], 4.0);
    }
    run.finish();
}

#[test]
fn minimum_and_maximum_at_once() {
    // The range of dm-ioband's third policy: 10 % by weight, at least 800 and at most 900 requests a second.
    let range = Limits { min_bandwidth: NonZeroU64::new(3200 * KIB), ..maximum(3600) };
    let got = with_limits(&[(10, 16), (90, 16)], &[range], Policy::RangeBw);
    assert_near(&got, &[800.0, 1200.0], 5.0);
    let got = with_limits(&[(90, 16), (10, 16)], &[range], Policy::RangeBw);
    assert_near(&got, &[900.0, 1100.0], 5.0);
    let got = with_limits(&[(90, 16)], &[range], Policy::RangeBw);
    assert_near(&got, &[900.0], 5.0);
}

#[test]
fn a_burst_passes_at_once() {
    let limits = Limits { max_iops: Some(Cap { rate: rate(100), burst: 50 }), ..Limits::default() };
    let mut clients = floods(&[(100, 64)]);
    clients[0].from = 2.0;
    let mut run = Run::new(&scenario(crate::servers(32, 200.0), clients));
    run.set_limits(0, limits);
    assert_near(&[run.measure(ms(2000), ms(2020)).requests() as f64], &[53.0], 1.0);
    assert_near(&[run.measure(ms(2020), ms(3020)).requests() as f64], &[100.0], 1.0);
}

#[test]
fn a_change_of_caps_acts_on_what_is_held_back() {
    let mut run = Run::new(&scenario(plain(), floods(&[(80, 16), (40, 16)])));
    run.set_limits(0, iops(1));
    run.until(ms(3000));
    run.set_limits(0, Limits::default());
    assert_near(&run.measure(ms(3015), ms(3115)).shares(), &[66.7, 33.3], 2.0);
    run.set_limits(0, iops(100));
    assert_near(&[run.measure(ms(3200), ms(4200)).rate(0)], &[100.0], 2.0);
}

#[test]
fn large_requests_pay_what_they_took_too_much() {
    let mut clients = floods(&[(80, 4), (40, 16)]);
    clients[0].sizes = sizes(&[1 << 20]);
    let mut run = Run::new(&scenario(plain(), clients));
    run.set_limits(0, maximum(10 * KIB));
    let outcome = run.measure(ms(1000), ms(11_000));
    assert_near(&[outcome.rate(0)], &[10.0], 0.2);
    assert_at_least(outcome.used, 0.99);
}

#[test]
fn who_is_held_back_by_a_cap_holds_nobody_back() {
    // Neither a slot nor a moment is kept for it.
    let reader = ClientModel::new("reader", 1000, 1);
    let mut run = Run::new(&scenario(plain(), vec![reader, ClientModel::new("flood", 1, 32)]));
    run.set_limits(0, iops(10));
    let outcome = run.measure(ms(1000), ms(11_000));
    assert_at_least(outcome.used, 0.998);
    assert_near(&[outcome.rate(0)], &[10.0], 0.5);
}

#[test]
fn an_end_waits_for_no_cap() {
    let mut disk = Disk::new(Settings::default());
    let group = disk.add_group(Policy::Weight, Weight::default());
    disk.set_limits(group, iops(1), Nanos(0));
    for id in 0..5 {
        disk.submit(group, Request { id, op: Op::Write, sectors: 1 }, Nanos(0));
    }
    let Next::Dispatch(first) = disk.next(Nanos(0)) else { panic!("the first may go") };
    assert!(matches!(disk.next(Nanos(0)), Next::Wait(_)));
    disk.complete(first, Nanos(1));
    assert!(matches!(disk.next(Nanos(1)), Next::Wait(_)));
    disk.drain(Nanos(2));
    for _ in 0..4 {
        let Next::Dispatch(next) = disk.next(Nanos(2)) else { panic!("nobody stays behind") };
        disk.complete(next, Nanos(2));
    }
    assert_eq!(disk.next(Nanos(2)), Next::Idle);
    assert_eq!(disk.queued(), 0);
}

#[test]
fn scenario_files_state_limits() {
    let outcome = whole(&Scenario::named("caps"));
    assert_near(&[outcome.rate(0)], &[300.0], 1.0);
}
