//! Who gets what, and how long each waits for it (share rules R1 to R7).

use crate::sim::client::{ClientModel, Ops};
use crate::sim::device::DeviceModel;
use crate::sim::run::sizes;
use crate::sim::{Run, Scenario};
use crate::{assert_at_least, assert_near, floods, ms, plain, scenario, servers, whole};
use ioband::sched::{Counters, Direction, Disk, Next, Op, Policy, Request, Settings};
use ioband::units::{Nanos, Weight};

/// With default settings, each group's share is what its weight asks for, the disk is always busy, and nobody waits
/// much longer than under a fluid server, which would take `depth / rate` for each request.
#[track_caller]
fn assert_ideal(name: &str) {
    let scenario = Scenario::named(name);
    let outcome = whole(&scenario);
    assert_near(&outcome.shares(), &outcome.asked(), 0.05);
    assert_at_least(outcome.used, 0.999);
    for ((got, asked), client) in outcome.clients.iter().zip(outcome.asked()).zip(&scenario.clients) {
        let fluid = f64::from(client.depth) * 1000.0 / (2000.0 * asked / 100.0);
        assert!(got.p99() <= 1.1 * fluid, "{}: {} ms, a fluid server {fluid} ms", got.name, got.p99());
        assert!(got.longest() <= 1.1 * fluid, "{}: {} ms at worst", got.name, got.longest());
    }
}

#[test]
fn two_groups_get_what_their_weights_ask_for_and_wait_no_longer_than_they_must() {
    assert_ideal("two-groups");
}

#[test]
fn four_groups_get_what_their_weights_ask_for_and_wait_no_longer_than_they_must() {
    assert_ideal("four-groups");
}

#[test]
fn without_control_everybody_gets_the_same() {
    let outcome = whole(&Scenario::named("two-groups").uncontrolled());
    assert_near(&outcome.shares(), &[50.0, 50.0], 0.05);
}

#[test]
fn a_synchronous_reader_beside_a_flood_gets_its_share() {
    let outcome = whole(&Scenario::named("reader"));
    // Entitled to 667 a second.
    assert_at_least(outcome.rate(0), 660.0);
    // At that rate it is 1.5 ms on average: one request in the disk, one before it and its own, or one slot more or less.
    assert!(outcome.clients[0].p99() <= 2.0, "{}", outcome.clients[0].p99());
    assert_at_least(outcome.used, 0.999);
}

#[test]
fn a_synchronous_reader_of_the_larger_weight_gets_its_share() {
    // Only if the disk is left idle for the moment until its next request does it find nobody before it.
    let outcome = whole(&Scenario::named("heavy-reader"));
    // Entitled to 1,333 a second; trials of a greater depth cost it some.
    assert_at_least(outcome.rate(0), 1300.0);
    assert!(outcome.clients[0].p99() <= 1.6, "{}", outcome.clients[0].p99());
    assert_at_least(outcome.used, 0.999);
}

#[test]
fn what_a_reader_is_waited_for_is_bounded() {
    // The longer it thinks, the less is the disk left idle for it.
    for (think_us, rate, used) in [
        (20.0, 1250.0, 0.97),
        (60.0, 1200.0, 0.93),
        (120.0, 1100.0, 0.87),
        (300.0, 700.0, 0.995),
        (1000.0, 450.0, 0.995),
    ] {
        let thinker = ClientModel { think_us, ..ClientModel::new("thinker", 80, 1) };
        let outcome = whole(&scenario(plain(), vec![thinker, ClientModel::new("flood", 40, 32)]));
        assert_at_least(outcome.used, used);
        assert_at_least(outcome.rate(0), rate);
    }
}

#[test]
fn requests_of_any_size_cost_one_token_under_weight() {
    // A disk that is busy for longer with larger requests.
    let device = DeviceModel::Servers { parallel: 1, service_us: 100.0, bandwidth: 200 << 20, random: false };
    for weights in [[50, 50], [80, 40], [20, 80]] {
        let outcome = whole(&scenario(device.clone(), small_and_large(weights)));
        assert_near(&outcome.shares(), &outcome.asked(), 0.5);
        assert_at_least(outcome.used, 0.995);
    }
}

#[test]
fn sectors_are_what_is_shared_under_weight_iosize() {
    let device = DeviceModel::Servers { parallel: 1, service_us: 100.0, bandwidth: 200 << 20, random: false };
    for policy in [Policy::WeightIosize, Policy::RangeBw] {
        for weights in [[50, 50], [80, 40], [20, 80]] {
            let sized = scenario(device.clone(), small_and_large(weights));
            let outcome = whole(&Scenario { policy, ..sized });
            assert_near(&outcome.byte_shares(), &outcome.asked(), 0.5);
            assert_at_least(outcome.used, 0.995);
        }
    }
}

/// 4 KiB against 128 KiB.
fn small_and_large(weights: [u32; 2]) -> Vec<ClientModel> {
    let small = ClientModel { sizes: sizes(&[4096]), ..ClientModel::new("small", weights[0], 64) };
    let large = ClientModel { sizes: sizes(&[131_072]), ..ClientModel::new("large", weights[1], 16) };
    vec![small, large]
}

#[test]
fn reads_and_writes_share_by_weight_though_writes_take_longer() {
    let ssd = |channels| DeviceModel::Ssd {
        channels,
        read_us: 100.0,
        write_us: 300.0,
        bandwidth: 0,
        slow_one_in: 0,
        slow_times: 0.0,
    };
    for (channels, policy) in [(1, Policy::Weight), (1, Policy::WeightIosize), (4, Policy::Weight)] {
        let reader = ClientModel::new("reader", 80, 32);
        let writer = ClientModel { ops: Ops::Write, ..ClientModel::new("writer", 40, 32) };
        let outcome = whole(&Scenario { policy, ..scenario(ssd(channels), vec![reader, writer]) });
        assert_near(&outcome.shares(), &[66.67, 33.33], 0.5);
    }
}

#[test]
fn an_epoch_hands_out_its_tokens_by_weight() {
    let two = floods(&[(80, 16), (40, 16)]);
    let mut run = Run::new(&Scenario { token_base: 300, ..scenario(plain(), two) });
    run.until(ms(1000));
    let (a, b) = (run.group(0), run.group(1));
    let mut at_last_refill = None;
    let mut epochs = Vec::new();
    while epochs.len() < 20 {
        let epoch = run.disk.epochs();
        assert!(run.disk.tokens(a) <= 200 && run.disk.tokens(b) <= 100, "no more than an epoch has");
        let later = run.now().after(Nanos::from_micros(500));
        run.until(later);
        if run.disk.epochs() > epoch {
            let served = [a, b].map(|group| run.disk.counters(group).read.requests);
            if let Some([before_a, before_b]) = at_last_refill.replace(served) {
                epochs.push([served[0] - before_a, served[1] - before_b]);
            }
        }
    }
    assert!(epochs.iter().all(|[a, b]| a.abs_diff(200) <= 2 && b.abs_diff(100) <= 2), "{epochs:?}");
    // And no token is lost from epoch to epoch.
    let all: u64 = epochs.iter().flatten().sum();
    assert!(all.abs_diff(20 * 300) <= 2, "{all} tokens in 20 epochs of 300");
}

#[test]
fn extreme_weights_starve_nobody() {
    let outcome = whole(&Scenario { seconds: 61.0, ..scenario(plain(), floods(&[(1, 4), (32767, 4)])) });
    // Entitled to one in 32,768 of 120,000.
    assert!((3..=4).contains(&outcome.clients[0].requests), "{}", outcome.clients[0].requests);
}

#[test]
fn a_pinned_limit_is_never_exceeded() {
    for io_limit in [1, 2, 7, 40] {
        let pinned = Scenario { io_limit, ..scenario(plain(), floods(&[(80, 16), (40, 16)])) };
        let mut run = Run::new(&pinned);
        let outcome = run.measure(ms(2000), ms(12_000));
        assert!(run.most_in_flight <= io_limit, "{} in flight, limit {io_limit}", run.most_in_flight);
        assert_near(&outcome.shares(), &[66.67, 33.33], 0.5);
    }
}

#[test]
fn below_io_throttle_everything_passes_at_once() {
    let two = floods(&[(80, 16), (40, 16)]);
    let mut run = Run::new(&Scenario { io_throttle: 40, io_limit: 40, ..scenario(plain(), two) });
    let outcome = run.measure(ms(1000), ms(11_000));
    assert_near(&outcome.shares(), &[50.0, 50.0], 0.5);
    assert_eq!(run.disk.counters(run.group(0)).read.delayed, 0);
}

#[test]
fn dm_iobands_own_example_settings_share_by_weight() {
    let two = floods(&[(80, 16), (20, 16)]);
    let outcome = whole(&Scenario { io_throttle: 10, io_limit: 400, ..scenario(plain(), two) });
    assert_near(&outcome.shares(), &[80.0, 20.0], 1.5);
}

#[test]
fn one_slow_request_does_not_stop_the_others() {
    // Each request of the first takes 100 ms, as a flush or a large discard may; the weight is of no help to it.
    for (weights, parallel, io_limit) in
        [([80, 40], 2, 0), ([40, 80], 2, 0), ([80, 40], 8, 0), ([80, 40], 8, 16)]
    {
        let slow = ClientModel { slowness: 200.0, ..ClientModel::new("slow", weights[0], 1) };
        let others = ClientModel::new("others", weights[1], 32);
        let outcome = whole(&Scenario { io_limit, ..scenario(servers(parallel, 500.0), vec![slow, others]) });
        // All servers but the one that is held by the slow request, nine tenths of the time.
        assert_at_least(outcome.rate(1), 0.85 * 2000.0 * (parallel - 1) as f64);
        assert!(outcome.clients[1].longest() < 70.0, "{}", outcome.clients[1].longest());
    }
}

#[test]
fn status_counts_requests_delays_and_sectors() {
    let mut disk = Disk::new(Settings { io_limit: 1, ..Settings::default() });
    let group = disk.add_group(Policy::Weight, Weight::default());
    disk.submit(group, Request { id: 1, op: Op::Read, sectors: 8 }, Nanos(10));
    let Next::Dispatch(first) = disk.next(Nanos(10)) else { panic!("an idle device takes it") };
    disk.submit(group, Request { id: 2, op: Op::Write, sectors: 3 }, Nanos(20));
    assert_eq!(disk.next(Nanos(20)), Next::Idle);
    disk.complete(first, Nanos(30));
    let Next::Dispatch(second) = disk.next(Nanos(30)) else { panic!("its turn") };
    assert_eq!(second.id, 2);
    disk.complete(second, Nanos(40));
    let counters = disk.counters(group);
    assert_eq!(counters.read, Direction { requests: 1, delayed: 0, sectors: 8 });
    assert_eq!(counters.write, Direction { requests: 1, delayed: 1, sectors: 3 });
    disk.reset_counters(group);
    assert_eq!(disk.counters(group), Counters::default());
}
