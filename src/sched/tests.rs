//! The scheduler in virtual time.

mod property;
mod sim;

use super::*;
use crate::units::{Nanos, Weight};
use sim::{Client, Event, Outcome, SERVICE, Sim};
use std::cmp::Reverse;

fn seconds(s: u64) -> Nanos {
    Nanos(Nanos::SECOND.0 * s)
}

fn shares(outcomes: &[Outcome]) -> Vec<f64> {
    let total: u64 = outcomes.iter().map(|o| o.requests).sum();
    outcomes.iter().map(|o| 100.0 * o.requests as f64 / total as f64).collect()
}

fn assert_near(got: &[f64], want: &[f64], tolerance: f64) {
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= tolerance, "shares {got:?}, wanted {want:?} within {tolerance}");
    }
}

fn one_server(clients: &[Client]) -> Vec<Outcome> {
    Sim::new(Settings::default(), Policy::Weight, 1, SERVICE, clients).run(seconds(1), seconds(21))
}

#[test]
fn two_groups_get_what_their_weights_ask_for() {
    let outcomes = one_server(&[Client::new(80, 16), Client::new(40, 16)]);
    assert_near(&shares(&outcomes), &[66.67, 33.33], 0.2);
    let total: u64 = outcomes.iter().map(|o| o.requests).sum();
    assert!(total >= 39_600, "99 % of 2,000 requests a second over 20 s, got {total}");
}

#[test]
fn four_groups_get_what_their_weights_ask_for() {
    let clients = [40, 20, 30, 10].map(|w| Client::new(w, 16));
    assert_near(&shares(&one_server(&clients)), &[40.0, 20.0, 30.0, 10.0], 0.2);
}

#[test]
fn waits_are_close_to_the_fluid_ideal() {
    // At 16 outstanding and 1,333 and 667 requests a second a fluid server gives 12 and 24 ms.
    let outcomes = one_server(&[Client::new(80, 16), Client::new(40, 16)]);
    assert!(outcomes[0].p99() <= 12.0 * 1.35, "{}", outcomes[0].p99());
    assert!(outcomes[1].p99() <= 24.0 * 1.35, "{}", outcomes[1].p99());
}

#[test]
fn a_synchronous_reader_beside_a_flood_gets_its_share() {
    let outcomes = one_server(&[Client::new(40, 1), Client::new(80, 32)]);
    // Entitled to 667 a second.
    assert!(outcomes[0].requests >= 20 * 620, "{}", outcomes[0].requests);
    assert!(outcomes[0].requests + outcomes[1].requests >= 20 * 2000 * 98 / 100);
    assert!(outcomes[0].p99() <= 2.0, "{}", outcomes[0].p99());
}

#[test]
fn one_slow_request_does_not_stop_the_others() {
    // Each request of the first takes 100 ms, as a flush or a large discard may; the weight is of no help to it.
    for (weights, servers, io_limit) in
        [([80, 40], 2, 0), ([40, 80], 2, 0), ([80, 40], 8, 0), ([80, 40], 8, 16)]
    {
        let slow = Client { slowness: 200, ..Client::new(weights[0], 1) };
        let settings = Settings { io_limit, ..Settings::default() };
        let clients = [slow, Client::new(weights[1], 32)];
        let mut sim = Sim::new(settings, Policy::Weight, servers, SERVICE, &clients);
        let outcomes = sim.run(seconds(1), seconds(11));
        // All servers but the one that is held by the slow request, nine tenths of the time.
        let able = 10 * 2000 * (servers as u64 - 1);
        let got = outcomes[1].requests;
        assert!(got >= able * 85 / 100, "{weights:?} on {servers}, limit {io_limit}: {got} of {able}");
        let longest = outcomes[1].latencies.iter().max().expect("some");
        assert!(*longest < Nanos::from_millis(70), "{longest:?}");
    }
}

#[test]
fn discards_do_not_mislead_the_depth() {
    for servers in [1, 4, 32] {
        // Two gibibytes each, in no more time than a read.
        let discards =
            Client { op: Op::Discard, sectors: 4 << 20, think: Nanos::from_millis(5), ..Client::new(100, 1) };
        let clients = [discards, Client::new(100, 64)];
        let mut sim = Sim::new(Settings::default(), Policy::Weight, servers, SERVICE, &clients);
        let outcomes = sim.run(seconds(1), seconds(11));
        let able = 10 * 2000 * servers as u64;
        assert!(
            outcomes[1].requests >= able * 90 / 100,
            "{servers} servers: {} of {able}",
            outcomes[1].requests
        );
        assert!(
            sim.disk.depth() as usize <= servers * 2 + 1,
            "{servers} servers: depth {}",
            sim.disk.depth()
        );
    }
}

#[test]
fn sectors_are_shared_under_weight_iosize() {
    let small = Client { sectors: 8, ..Client::new(50, 16) };
    let large = Client { sectors: 128, ..Client::new(50, 16) };
    let mut sim = Sim::new(Settings::default(), Policy::WeightIosize, 1, SERVICE, &[small, large]);
    let outcomes = sim.run(seconds(1), seconds(21));
    let sectors = [outcomes[0].requests * 8, outcomes[1].requests * 128];
    let total = (sectors[0] + sectors[1]) as f64;
    assert_near(&[100.0 * sectors[0] as f64 / total], &[50.0], 0.5);
}

#[test]
fn bytes_that_pass_unweighed_do_not_keep_it_deep() {
    // A disk that takes as long for a large request as for a small one: with everything in flight the large ones win.
    for weights in [[50, 50], [80, 40], [40, 80]] {
        let small = Client { sectors: 8, ..Client::new(weights[0], 8) };
        let large = Client { sectors: 128, ..Client::new(weights[1], 8) };
        let mut sim = Sim::new(Settings::default(), Policy::WeightIosize, 32, SERVICE, &[small, large]);
        sim.run(seconds(0), seconds(3));
        assert!(sim.disk.depth() >= 8, "the disk takes all there is: {}", sim.disk.depth());
        // And now it is a disk with one server, to which that depth is of no use.
        sim.servers = [Reverse(seconds(3))].into();
        let outcomes = sim.run(seconds(8), seconds(18));
        let sectors = [outcomes[0].requests * 8, outcomes[1].requests * 128];
        let share = 100.0 * sectors[0] as f64 / (sectors[0] + sectors[1]) as f64;
        assert_near(&[share], &[100.0 * f64::from(weights[0]) / f64::from(weights[0] + weights[1])], 1.0);
    }
}

#[test]
fn an_epoch_hands_out_its_tokens_by_weight() {
    let settings = Settings { token_base: 300, ..Settings::default() };
    let mut sim = Sim::new(settings, Policy::Weight, 1, SERVICE, &[Client::new(80, 16), Client::new(40, 16)]);
    sim.run(seconds(0), seconds(1));
    let (a, b) = (sim.clients[0].1, sim.clients[1].1);
    let mut at_last_refill = None;
    let mut now = seconds(1);
    let mut epochs = 0;
    while epochs < 20 {
        let epoch = sim.disk.epochs();
        assert!(sim.disk.tokens(a) <= 200 && sim.disk.tokens(b) <= 100, "no more than an epoch has");
        now = now.after(SERVICE);
        sim.run(seconds(0), now);
        if sim.disk.epochs() > epoch {
            let served = [a, b].map(|group| sim.disk.counters(group).read.requests);
            if let Some([before_a, before_b]) = at_last_refill.replace(served) {
                let (tokens_a, tokens_b): (u64, u64) = (served[0] - before_a, served[1] - before_b);
                assert!(
                    tokens_a.abs_diff(200) <= 2 && tokens_b.abs_diff(100) <= 2,
                    "{tokens_a} and {tokens_b}"
                );
            }
            epochs += 1;
        }
    }
}

#[test]
fn extreme_weights_starve_nobody() {
    let outcomes = one_server(&[Client::new(1, 4), Client::new(32767, 4)]);
    assert!(outcomes[0].requests >= 1, "one in 32,768 requests");
}

#[test]
fn what_a_group_does_not_use_goes_to_the_others_at_once() {
    // The first may have 90 % but thinks for 10 ms between single requests: about 95 a second.
    let lazy = Client { think: Nanos::from_millis(10), ..Client::new(90, 1) };
    let outcomes = one_server(&[lazy, Client::new(10, 32)]);
    let total = outcomes[0].requests + outcomes[1].requests;
    assert!(total >= 20 * 2000 * 98 / 100, "{total}");
    assert!(outcomes[0].requests >= 20 * 80, "{}", outcomes[0].requests);
}

#[test]
fn automatic_depth_follows_the_device() {
    for (servers, least) in [(1, 0.99), (4, 0.97), (32, 0.97)] {
        let clients = [Client::new(80, 64), Client::new(40, 64)];
        let mut sim =
            Sim::new(Settings::default(), Policy::Weight, servers, Nanos::from_micros(200), &clients);
        let outcomes = sim.run(seconds(1), seconds(6));
        let total: u64 = outcomes.iter().map(|o| o.requests).sum();
        let able = 5.0 * 5000.0 * servers as f64;
        assert!(
            total as f64 >= able * least,
            "{servers} servers: {total} of {able}, depth {}",
            sim.disk.depth()
        );
        assert!(
            sim.disk.depth() as usize <= servers * 2 + 1,
            "{servers} servers: depth {}",
            sim.disk.depth()
        );
        assert_near(&shares(&outcomes), &[66.67, 33.33], 0.5);
    }
}

#[test]
fn a_pinned_limit_is_never_exceeded() {
    for io_limit in [1, 2, 7, 40] {
        let settings = Settings { io_limit, ..Settings::default() };
        let clients = [Client::new(80, 16), Client::new(40, 16)];
        let mut sim = Sim::new(settings, Policy::Weight, 1, SERVICE, &clients);
        let outcomes = sim.run(seconds(2), seconds(12));
        assert!(sim.most_in_flight <= io_limit, "{} in flight, limit {io_limit}", sim.most_in_flight);
        assert_near(&shares(&outcomes), &[66.67, 33.33], 0.5);
    }
}

#[test]
fn below_io_throttle_everything_passes_at_once() {
    let settings = Settings { io_throttle: 40, io_limit: 40, ..Settings::default() };
    let clients = [Client::new(80, 16), Client::new(40, 16)];
    let mut sim = Sim::new(settings, Policy::Weight, 1, SERVICE, &clients);
    let outcomes = sim.run(seconds(1), seconds(11));
    assert_near(&shares(&outcomes), &[50.0, 50.0], 0.5);
    let counters = sim.disk.counters(sim.clients[0].1);
    assert_eq!(counters.read.delayed, 0);
}

#[test]
fn dm_iobands_own_example_settings_share_by_weight() {
    let settings = Settings { io_throttle: 10, io_limit: 400, ..Settings::default() };
    let clients = [Client::new(80, 16), Client::new(20, 16)];
    let mut sim = Sim::new(settings, Policy::Weight, 1, SERVICE, &clients);
    assert_near(&shares(&sim.run(seconds(2), seconds(22))), &[80.0, 20.0], 1.5);
}

#[test]
fn a_change_of_weight_acts_within_a_tenth_of_a_second() {
    let mut sim = Sim::new(
        Settings::default(),
        Policy::Weight,
        1,
        SERVICE,
        &[Client::new(1, 32), Client::new(1000, 32)],
    );
    sim.run(seconds(0), seconds(2));
    let (a, b) = (sim.clients[0].1, sim.clients[1].1);
    sim.disk.set_weight(a, Weight::new(80).expect("valid"));
    sim.disk.set_weight(b, Weight::new(20).expect("valid"));
    let outcomes = sim.run(Nanos::from_millis(2100), Nanos::from_millis(3100));
    assert_near(&shares(&outcomes), &[80.0, 20.0], 1.0);
}

#[test]
fn a_group_that_leaves_is_not_waited_for_and_gets_its_share_back() {
    let mut sim = Sim::new(
        Settings::default(),
        Policy::Weight,
        1,
        SERVICE,
        &[Client::new(80, 16), Client::new(20, 16)],
    );
    sim.run(seconds(0), seconds(2));
    sim.clients[0].0.think = Nanos::from_millis(500);
    sim.run(seconds(0), Nanos::from_millis(2100));
    let alone = sim.run(Nanos::from_millis(2100), Nanos::from_millis(2400));
    assert!(alone[1].requests >= 585, "{}", alone[1].requests);
    sim.clients[0].0.think = Nanos(0);
    sim.run(seconds(0), Nanos::from_millis(2650));
    assert_near(&shares(&sim.run(Nanos::from_millis(2650), Nanos::from_millis(3650))), &[80.0, 20.0], 1.0);
}

#[test]
fn a_newcomer_does_not_burst_with_the_time_it_was_away() {
    let mut sim =
        Sim::new(Settings::default(), Policy::Weight, 1, SERVICE, &[Client::new(50, 16), Client::new(50, 0)]);
    sim.run(seconds(0), seconds(30));
    for _ in 0..16 {
        sim.at(seconds(30), Event::Arrive(1));
    }
    let outcomes = sim.run(seconds(30), Nanos::from_millis(30_200));
    assert_near(&shares(&outcomes), &[50.0, 50.0], 5.0);
}

#[test]
fn the_same_input_gives_the_same_run() {
    let clients = [Client::new(80, 16), Client::new(40, 3), Client { sectors: 77, ..Client::new(7, 1) }];
    let run = || {
        Sim::new(Settings::default(), Policy::WeightIosize, 4, SERVICE, &clients).run(seconds(0), seconds(3))
    };
    assert_eq!(run(), run());
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
