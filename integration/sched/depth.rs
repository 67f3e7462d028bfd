//! How many requests the device is given at once, by itself (share rule R8).

use crate::sim::client::{ClientModel, Ops};
use crate::sim::device::DeviceModel;
use crate::sim::run::sizes;
use crate::sim::{Run, Scenario};
use crate::{assert_at_least, assert_near, floods, ms, scenario, servers, whole};
use ioband::sched::Policy;

/// How many requests a second the same clients get without control.
fn uncontrolled(scenario: &Scenario) -> f64 {
    whole(&scenario.uncontrolled()).requests() as f64
}

#[test]
fn it_follows_the_device() {
    for (parallel, least) in [(1, 0.999), (4, 0.97), (32, 0.98), (128, 0.97)] {
        let fast = scenario(servers(parallel, 200.0), floods(&[(80, 256), (40, 256)]));
        let mut run = Run::new(&Scenario { seconds: 6.0, ..fast });
        let outcome = run.measure(ms(1000), ms(6000));
        assert_at_least(outcome.used, least);
        assert!(
            run.disk.depth() as usize <= parallel * 5 / 4 + 2,
            "{parallel} servers: {}",
            run.disk.depth()
        );
        assert_near(&outcome.shares(), &[66.67, 33.33], 0.2);
    }
}

#[test]
fn a_fast_disk_keeps_its_throughput() {
    for name in ["fast-two", "fast-reader", "alone", "noisy", "ssd"] {
        let scenario = Scenario::named(name);
        let controlled = whole(&scenario).requests() as f64;
        assert_at_least(controlled / uncontrolled(&scenario), 0.97);
    }
}

#[test]
fn a_pinned_limit_leaves_no_disk_idle_beside_a_synchronous_caller() {
    for io_limit in [33, 64, 1000] {
        let pinned = Scenario { io_limit, ..Scenario::named("fast-reader") };
        assert_at_least(whole(&pinned).used, 0.97);
    }
}

#[test]
fn io_throttle_alone_leaves_the_depth_to_the_device() {
    for io_throttle in [1, 4, 12] {
        for clients in [floods(&[(80, 64), (40, 64)]), floods(&[(80, 64)])] {
            let throttled = Scenario { io_throttle, ..scenario(servers(32, 200.0), clients) };
            assert_at_least(whole(&throttled).used, 0.97);
        }
    }
}

#[test]
fn a_group_that_comes_and_goes_has_depth_when_it_is_there() {
    let bursty = Scenario::named("bursty");
    assert_at_least(whole(&bursty).requests() as f64 / uncontrolled(&bursty), 0.8);
}

#[test]
fn the_largest_weight_for_one_request_at_a_time_leaves_the_disk_to_others() {
    let two = scenario(servers(32, 200.0), floods(&[(32_767, 1), (1, 64)]));
    assert_at_least(whole(&two).used, 0.97);
}

#[test]
fn a_limit_that_is_no_longer_pinned_is_found_again() {
    let two = scenario(servers(32, 500.0), floods(&[(80, 64), (40, 64)]));
    let mut run = Run::new(&Scenario { io_limit: 4, ..two });
    assert_near(&[run.measure(ms(1000), ms(2000)).used], &[4.0 / 32.0], 0.01);
    run.set_settings(ioband::sched::Settings::default());
    assert_at_least(run.measure(ms(3000), ms(5000)).used, 0.97);
}

#[test]
fn a_group_alone_loses_nothing() {
    // Nothing is held back for the sake of shares where there is nobody to share with.
    for (parallel, depth) in [(1, 16), (32, 8), (32, 64), (128, 256)] {
        let alone = scenario(servers(parallel, 200.0), floods(&[(10, depth)]));
        let alone = Scenario { seconds: 6.0, ..alone };
        assert_at_least(whole(&alone).requests() as f64 / uncontrolled(&alone), 0.99);
    }
}

#[test]
fn weights_hold_on_an_unsteady_machine() {
    for seed in 1..=4 {
        let noisy = Scenario { seed, ..Scenario::named("noisy") };
        let mut run = Run::new(&noisy);
        let outcome = run.measure(ms(1000), ms(11_000));
        assert_near(&outcome.shares(), &[66.67, 33.33], 1.5);
        assert!(run.disk.depth() <= 64, "{}", run.disk.depth());
    }
}

#[test]
fn discards_do_not_mislead_it() {
    for parallel in [1, 4, 32] {
        // Two gibibytes each, in no more time than a read.
        let discards = ClientModel {
            ops: Ops::Discard,
            sizes: sizes(&[2 << 30]),
            think_us: 5000.0,
            ..ClientModel::new("discards", 100, 1)
        };
        let clients = vec![discards, ClientModel::new("reads", 100, 64)];
        let mut run = Run::new(&scenario(servers(parallel, 500.0), clients));
        let outcome = run.measure(ms(1000), ms(11_000));
        assert_at_least(outcome.used, 0.95);
        assert!(run.disk.depth() as usize <= parallel * 2 + 1, "{parallel} servers: {}", run.disk.depth());
    }
}

#[test]
fn a_disk_that_becomes_another_is_noticed() {
    // A cache that is full: what took 32 requests at once takes one from now on, and then 32 again.
    let mut run = Run::new(&scenario(servers(32, 500.0), floods(&[(80, 64), (40, 64)])));
    run.until(ms(3000));
    assert!(run.disk.depth() >= 28, "{}", run.disk.depth());
    run.device.become_another(servers(1, 500.0), run.now());
    run.until(ms(6000));
    assert!(run.disk.depth() <= 4, "{}", run.disk.depth());
    assert_near(&run.measure(ms(6000), ms(8000)).shares(), &[66.67, 33.33], 0.5);
    run.device.become_another(servers(32, 500.0), run.now());
    run.until(ms(9000));
    assert_at_least(run.measure(ms(9000), ms(12_000)).used, 0.95);
}

#[test]
fn a_disk_that_is_said_to_turn_slower_shares_at_once() {
    let mut run = Run::new(&scenario(servers(32, 100.0), floods(&[(80, 16), (40, 16)])));
    run.until(ms(3000));
    assert!(run.disk.depth() >= 24, "{}", run.disk.depth());
    run.device.become_another(servers(1, 4000.0), run.now());
    run.disk.forget_depths();
    // What was in flight comes first.
    assert_near(&run.measure(ms(3150), ms(4150)).shares(), &[66.67, 33.33], 1.0);
}

#[test]
fn bytes_that_pass_unweighed_do_not_keep_it_deep() {
    // A disk that takes as long for a large request as for a small one: with everything in flight the large ones win.
    for weights in [[50, 50], [80, 40], [40, 80]] {
        let small = ClientModel::new("small", weights[0], 8);
        let large = ClientModel { sizes: sizes(&[65_536]), ..ClientModel::new("large", weights[1], 8) };
        let sized = scenario(servers(32, 500.0), vec![small, large]);
        let mut run = Run::new(&Scenario { policy: Policy::WeightIosize, ..sized });
        run.until(ms(3000));
        assert!(run.disk.depth() >= 8, "the disk takes all there is: {}", run.disk.depth());
        // And now it is a disk with one server, to which that depth is of no use.
        run.device.become_another(servers(1, 500.0), run.now());
        let outcome = run.measure(ms(8000), ms(18_000));
        assert_near(&outcome.byte_shares(), &outcome.asked(), 1.0);
    }
}

#[test]
fn a_spinning_disk_shares_by_weight() {
    let outcome = whole(&Scenario::named("spindle"));
    assert_near(&outcome.shares(), &[66.67, 33.33], 1.5);
}

#[test]
fn standstills_and_errors_change_no_shares() {
    let device = DeviceModel::Servers { parallel: 4, service_us: 500.0, bandwidth: 0, random: true };
    let mut faulty = scenario(device, floods(&[(80, 32), (40, 32)]));
    faulty.faults = crate::Faults { stall_every_ms: 1000.0, stall_ms: 200.0, error_one_in: 50 };
    let outcome = whole(&faulty);
    assert_near(&outcome.shares(), &[66.67, 33.33], 1.0);
    let errors: u64 = outcome.clients.iter().map(|got| got.errors).sum();
    assert!(errors * 60 > outcome.requests() && errors * 40 < outcome.requests(), "{errors} errors");
}
