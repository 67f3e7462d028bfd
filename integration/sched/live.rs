//! What is changed while hundreds of requests are held: the shares of what is held follow within a tenth of a second of
//! virtual time, at once but for what was in flight (share rules R9, R10).

use crate::sim::Run;
use crate::sim::run::sizes;
use crate::{assert_near, floods, ms, plain, scenario, servers};
use ioband::sched::{Cap, Disk, Limits, Policy, Settings};
use std::num::NonZeroU64;

/// Two backlogged groups with 300 requests outstanding each, after two seconds.
fn two(weights: [u32; 2]) -> Run {
    let mut run = Run::new(&scenario(plain(), floods(&weights.map(|weight| (weight, 300)))));
    run.until(ms(2000));
    run
}

/// The shares of requests in the tenth of a second after now, and in the second after that; then the run ends well.
#[track_caller]
fn assert_shares_follow(mut run: Run, want: &[f64]) {
    let now = run.now();
    // What was in flight when it changed comes first.
    assert_near(&run.measure(now.after(ms(5)), now.after(ms(105))).shares(), want, 2.0);
    assert_near(&run.measure(now.after(ms(105)), now.after(ms(1105))).shares(), want, 0.5);
    run.finish();
}

#[test]
fn an_attached_group_takes_what_is_held_of_it_along() {
    let mut run = two([25, 75]);
    run.detach(1);
    run.until(ms(3000));
    // Both are one group now, which serves them in order of arrival.
    assert_eq!(run.disk.queued_of(run.group(0)), run.disk.queued());
    run.attach(1);
    assert!(run.disk.queued_of(run.group(1)) > 100, "what was held came along");
    assert_shares_follow(run, &[25.0, 75.0]);
}

#[test]
fn what_a_detached_group_holds_is_served_in_its_turn() {
    let mut run = two([90, 10]);
    run.detach(1);
    let shares = run.measure(ms(2005), ms(4005)).shares();
    // First come, first served: the second held as much as the first.
    assert_near(&shares, &[50.0, 50.0], 5.0);
    run.finish();
}

#[test]
fn a_changed_weight_acts_on_what_is_held() {
    let mut run = two([10, 90]);
    run.set_weight(0, 900);
    run.set_weight(1, 100);
    assert_shares_follow(run, &[90.0, 10.0]);
}

#[test]
fn groups_of_another_type_take_over_what_the_old_ones_held() {
    let mut run = two([80, 20]);
    run.replace_groups(&[30, 70]);
    assert_shares_follow(run, &[30.0, 70.0]);
}

#[test]
fn a_changed_policy_acts_on_what_is_held() {
    let mut clients = floods(&[(50, 300), (50, 300)]);
    clients[0].sizes = sizes(&[8192]);
    let mut run = Run::new(&scenario(plain(), clients));
    run.until(ms(2000));
    assert_near(&run.measure(ms(2000), ms(3000)).shares(), &[50.0, 50.0], 0.5);
    run.set_policy(Policy::WeightIosize);
    assert_shares_follow(run, &[33.3, 66.7]);
}

#[test]
fn a_changed_limit_acts_on_what_is_held() {
    for io_limit in [1, 4, 64] {
        let mut run = two([60, 40]);
        run.set_settings(Settings { io_limit, ..Settings::default() });
        let now = run.now();
        // As many as were in flight, then as many as may be.
        run.until(now.after(ms(100)));
        assert_eq!(run.disk.in_flight(), io_limit);
        let now = run.now();
        // From the completions of what was in flight at once, not in the order of the weights, to their middle.
        assert_near(&run.measure(now, now.after(ms(1000))).shares(), &[60.0, 40.0], 0.5);
        run.finish();
    }
}

#[test]
fn what_a_cap_held_back_passes_when_it_is_lifted() {
    let mut run = two([60, 40]);
    let rate = NonZeroU64::new(1).expect("not zero");
    run.set_limits(0, Limits { max_iops: Some(Cap::new(rate)), ..Limits::default() });
    run.until(ms(4000));
    run.set_limits(0, Limits::default());
    assert_shares_follow(run, &[60.0, 40.0]);
}

#[test]
fn what_was_learned_of_the_device_stays_unless_it_is_another() {
    let mut run = Run::new(&scenario(servers(32, 200.0), floods(&[(60, 300), (40, 300)])));
    run.until(ms(4000));
    let learned = run.disk.depth();
    assert!(learned >= 16, "{learned}");
    run.set_settings(Settings { token_base: 4096, ..Settings::default() });
    assert_eq!(run.disk.depth(), learned, "how long an epoch is says nothing about the depth");
    run.disk.forget_device();
    assert_eq!(run.disk.depth(), Disk::new(Settings::default()).depth());
    // And it is learned again.
    let now = run.now();
    run.until(now.after(ms(4000)));
    assert!(run.disk.depth() >= 16, "{}", run.disk.depth());
    run.finish();
}
