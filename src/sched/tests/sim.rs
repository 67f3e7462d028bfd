//! Closed-loop clients on a disk of parallel servers, first come first served, simulated to the event.

use super::super::*;
use crate::units::{Nanos, Weight};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

pub(super) const SERVICE: Nanos = Nanos::from_micros(500);

/// One client: a group that keeps `depth` requests of `sectors` outstanding, each sent `think` after the last.
#[derive(Clone, Copy)]
pub(super) struct Client {
    pub(super) weight: u32,
    pub(super) depth: u32,
    pub(super) sectors: u32,
    pub(super) think: Nanos,
    /// Takes this many times the service time of the disk.
    pub(super) slowness: u64,
    pub(super) op: Op,
}

impl Client {
    pub(super) fn new(weight: u32, depth: u32) -> Self {
        Self { weight, depth, sectors: 8, think: Nanos(0), slowness: 1, op: Op::Read }
    }
}

/// What came of one client.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) requests: u64,
    pub(super) latencies: Vec<Nanos>,
}

impl Outcome {
    pub(super) fn p99(&self) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort();
        sorted[sorted.len() * 99 / 100].0 as f64 / 1e6
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Complete(u64),
    Arrive(usize),
    Wake,
}

pub(super) struct Sim {
    pub(super) disk: Disk,
    pub(super) clients: Vec<(Client, GroupKey)>,
    pub(super) servers: BinaryHeap<Reverse<Nanos>>,
    pub(super) service: Nanos,
    pub(super) events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    pub(super) in_flight: BTreeMap<u64, Dispatched>,
    pub(super) sent: BTreeMap<u64, (usize, Nanos)>,
    pub(super) serial: u64,
    pub(super) now: Nanos,
    pub(super) most_in_flight: u32,
}

impl Sim {
    pub(super) fn new(
        settings: Settings,
        policy: Policy,
        servers: usize,
        service: Nanos,
        clients: &[Client],
    ) -> Self {
        let mut disk = Disk::new(settings);
        let clients: Vec<_> = clients
            .iter()
            .map(|c| (*c, disk.add_group(policy, Weight::new(c.weight).expect("a test's weight is valid"))))
            .collect();
        let mut sim = Self {
            disk,
            servers: (0..servers).map(|_| Reverse(Nanos(0))).collect(),
            service,
            events: BinaryHeap::new(),
            in_flight: BTreeMap::new(),
            sent: BTreeMap::new(),
            serial: 0,
            now: Nanos(0),
            most_in_flight: 0,
            clients,
        };
        for i in 0..sim.clients.len() {
            for _ in 0..sim.clients[i].0.depth {
                sim.at(Nanos(0), Event::Arrive(i));
            }
        }
        sim
    }

    pub(super) fn at(&mut self, when: Nanos, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((when, self.serial, event)));
    }

    fn pump(&mut self) {
        loop {
            match self.disk.next(self.now) {
                Next::Dispatch(d) => {
                    self.most_in_flight = self.most_in_flight.max(self.disk.in_flight());
                    let Reverse(free) = self.servers.pop().expect("a disk has a server");
                    let slowness =
                        self.sent.get(&d.id).map_or(1, |(client, _)| self.clients[*client].0.slowness);
                    let end = free.max(self.now).after(Nanos(self.service.0 * slowness));
                    self.servers.push(Reverse(end));
                    self.at(end, Event::Complete(d.id));
                    self.in_flight.insert(d.id, d);
                }
                Next::Wait(until) => {
                    assert!(until > self.now, "waiting for the past would spin");
                    return self.at(until, Event::Wake);
                }
                Next::Idle => {
                    let stuck = self.disk.queued() > 0 && self.disk.in_flight() == 0;
                    assert!(!stuck, "the device idles while a request is held");
                    return;
                }
            }
        }
    }

    /// Runs until `end`; counts what completes from `from` on.
    pub(super) fn run(&mut self, from: Nanos, end: Nanos) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::default(); self.clients.len()];
        while let Some(Reverse((when, ..))) = self.events.peek()
            && *when < end
        {
            let Some(Reverse((when, _, event))) = self.events.pop() else { break };
            self.now = when;
            match event {
                Event::Wake => {}
                Event::Arrive(i) => {
                    self.serial += 1;
                    let (client, group) = self.clients[i];
                    self.sent.insert(self.serial, (i, when));
                    let request = Request { id: self.serial, op: client.op, sectors: client.sectors };
                    self.disk.submit(group, request, when);
                }
                Event::Complete(id) => {
                    let dispatched = self.in_flight.remove(&id).expect("completed once");
                    self.disk.complete(dispatched, when);
                    let (i, sent) = self.sent.remove(&id).expect("sent once");
                    if when >= from {
                        outcomes[i].requests += 1;
                        outcomes[i].latencies.push(when.since(sent));
                    }
                    // Half a microsecond at least: nobody answers in no time.
                    let think = self.clients[i].0.think.max(Nanos(500));
                    self.at(when.after(think), Event::Arrive(i));
                }
            }
            self.pump();
        }
        outcomes
    }
}
