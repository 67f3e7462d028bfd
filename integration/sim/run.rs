//! The event loop: clients, scheduler and disk in virtual time.

use super::check::Checker;
use super::client::{ClientModel, sectors};
use super::device::{Device, Job};
use super::outcome::{Got, Outcome};
use super::scenario::{Scenario, seconds};
use ioband::sched::{Cap, Disk, Dispatched, GroupKey, Limits, Next, Op, Policy, Request, Settings};
use ioband::units::{Bytes, Nanos, Weight};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::num::NonZeroU64;

/// A client and its group.
struct Member {
    model: ClientModel,
    weight: u32,
    key: GroupKey,
    /// Its group for the checker.
    watched: usize,
    /// False: detached, its requests go to the first client's group.
    attached: bool,
    random: fastrand::Rng,
}

/// A request on its way.
struct Sent {
    client: usize,
    since: Nanos,
    request: Request,
    bytes: u64,
    dispatched: Option<Dispatched>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A closed loop makes its next request.
    Ask(usize),
    /// An open loop or a burst.
    Tick(usize),
    /// One of the scenario's changes.
    Change(usize),
    /// Any change.
    RandomChange,
}

/// What happens at each completion, for whoever draws it.
pub(crate) type Witness = Box<dyn FnMut(Nanos, usize, Nanos, u64)>;

/// A scenario that is running.
pub(crate) struct Run {
    pub(crate) scenario: Scenario,
    pub(crate) disk: Disk,
    pub(crate) device: Device,
    pub(crate) checker: Checker,
    pub(crate) most_in_flight: u32,
    /// Told of every completion: when, by which client, how long it took, how many bytes.
    pub(crate) witness: Option<Witness>,
    policy: Policy,
    members: Vec<Member>,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    sent: HashMap<u64, Sent>,
    wake: Option<Nanos>,
    serial: u64,
    now: Nanos,
    counted: Outcome,
    counted_from: (Nanos, Nanos),
    random: fastrand::Rng,
    digest: u64,
}

impl Run {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let mut disk = Disk::new(scenario.settings());
        let mut checker = Checker::new(judges(scenario.settings()));
        let mut random = fastrand::Rng::with_seed(scenario.seed);
        let policy = scenario.policy;
        let members: Vec<_> = scenario
            .clients
            .iter()
            .map(|model| {
                let key = disk.add_group(policy, weight(model.weight));
                let limits = model.limits.limits();
                disk.set_limits(key, limits, Nanos(0));
                let watched = checker.add_group(
                    model.weight,
                    largest_cost(scenario, model, policy),
                    !limits.is_empty(),
                );
                let random = fastrand::Rng::with_seed(random.u64(..));
                Member { model: model.clone(), weight: model.weight, key, watched, attached: true, random }
            })
            .collect();
        let counted = Outcome { clients: fresh(&members), span: Nanos(0), used: 0.0 };
        let mut run = Self {
            device: Device::new(scenario.device.clone(), scenario.faults, scenario.seed),
            scenario: scenario.clone(),
            disk,
            checker,
            most_in_flight: 0,
            witness: None,
            policy,
            members,
            events: BinaryHeap::new(),
            sent: HashMap::new(),
            wake: None,
            serial: 0,
            now: Nanos(0),
            counted,
            counted_from: (Nanos(0), Nanos(0)),
            random,
            digest: 0xcbf2_9ce4_8422_2325,
        };
        for client in 0..run.members.len() {
            run.start(client, Nanos(0));
        }
        for (index, change) in scenario.changes.iter().enumerate() {
            run.at(seconds(change.at), Event::Change(index));
        }
        if scenario.random_changes > 0.0 {
            run.at(Nanos(0), Event::RandomChange);
        }
        run
    }

    /// The whole scenario: what it counts.
    pub(crate) fn whole(scenario: &Scenario) -> Outcome {
        let mut run = Self::new(scenario);
        run.measure(seconds(scenario.warm_up), scenario.end())
    }

    /// The group of a client.
    pub(crate) fn group(&self, client: usize) -> GroupKey {
        self.members[client].key
    }

    pub(crate) fn now(&self) -> Nanos {
        self.now
    }

    /// A client's requests come from now on as another model says.
    pub(crate) fn change_client(&mut self, client: usize, change: impl FnOnce(&mut ClientModel)) {
        let before = self.members[client].model.depth;
        change(&mut self.members[client].model);
        for _ in before..self.members[client].model.depth {
            self.at(self.now, Event::Ask(client));
        }
    }

    /// Changes the weight of a client's group.
    pub(crate) fn set_weight(&mut self, client: usize, to: u32) {
        let member = &mut self.members[client];
        member.weight = to;
        self.disk.set_weight(member.key, weight(to));
        self.rewatch(client);
    }

    /// Changes the limits of a client's group.
    pub(crate) fn set_limits(&mut self, client: usize, limits: Limits) {
        self.disk.set_limits(self.members[client].key, limits, self.now);
        self.rewatch(client);
    }

    /// Changes the policy of all groups.
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        for client in 0..self.members.len() {
            if self.members[client].attached {
                self.disk.set_policy(self.members[client].key, policy, self.now);
                self.rewatch(client);
            }
        }
    }

    /// Detaches a client's group: the first client's gets what is held of it and what comes.
    pub(crate) fn detach(&mut self, client: usize) {
        let first = &self.members[0];
        let (to, watched_to) = (first.key, first.watched);
        let member = &mut self.members[client];
        member.attached = false;
        self.disk.remove_group(member.key, self.now, |_| to);
        self.checker.moved(member.watched, watched_to, |_| true);
    }

    /// Gives a detached client a group of its own again, with what is held of it.
    pub(crate) fn attach(&mut self, client: usize) {
        let first = &self.members[0];
        let (from, watched_from) = (first.key, first.watched);
        let member = &mut self.members[client];
        member.attached = true;
        member.key = self.disk.add_group(self.policy, weight(member.weight));
        let (key, sent) = (member.key, &self.sent);
        let own = |id: u64| sent.get(&id).is_some_and(|sent| sent.client == client);
        self.disk.reroute(from, self.now, |request| if own(request.id) { key } else { from });
        self.checker.moved(watched_from, member.watched, own);
        self.rewatch(client);
    }

    /// All groups go, and others come in their place, of these weights: as if they were told apart by something else.
    /// No client is detached.
    pub(crate) fn replace_groups(&mut self, weights: &[u32]) {
        let old: Vec<_> = self.members.iter().map(|member| member.key).collect();
        for (member, to) in self.members.iter_mut().zip(weights) {
            (member.weight, member.key) = (*to, self.disk.add_group(self.policy, weight(*to)));
        }
        let new = |id: u64| self.members[self.sent[&id].client].key;
        old.into_iter().for_each(|key| self.disk.remove_group(key, self.now, |request| new(request.id)));
        (0..self.members.len()).for_each(|client| self.rewatch(client));
    }

    /// Changes the settings of the disk.
    pub(crate) fn set_settings(&mut self, settings: Settings) {
        self.disk.set_settings(settings);
        self.checker.judge(judges(settings));
    }

    fn rewatch(&mut self, client: usize) {
        let member = &self.members[client];
        let largest = largest_cost(&self.scenario, &member.model, self.policy);
        let limited = !self.disk.limits(member.key).is_empty();
        self.checker.change(member.watched, member.weight, largest, limited);
    }

    /// Runs until `from`, then until `end`: what was counted between.
    pub(crate) fn measure(&mut self, from: Nanos, end: Nanos) -> Outcome {
        self.until(from);
        self.counted.clients = fresh(&self.members);
        self.counted_from = (from, self.device.worked());
        self.until(end);
        let (from, worked) = self.counted_from;
        self.counted.span = end.since(from);
        let able = self.counted.span.0 as f64 * self.device.units() as f64;
        self.counted.used = self.device.worked().since(worked).0 as f64 / able.max(1.0);
        self.counted.clone()
    }

    /// Runs all events before `end`.
    pub(crate) fn until(&mut self, end: Nanos) {
        loop {
            let event = self.events.peek().map(|Reverse((when, ..))| *when);
            let times = [event, self.device.next(), self.wake];
            let Some(now) = times.into_iter().flatten().min().filter(|now| *now < end) else {
                self.now = self.now.max(end);
                return;
            };
            self.now = now;
            if self.device.next() == Some(now) {
                self.complete();
            } else if event == Some(now) {
                let Some(Reverse((_, _, event))) = self.events.pop() else { return };
                self.happens(event);
            }
            self.pump();
        }
    }

    /// Lets nobody ask any more, and runs until all is answered.
    pub(crate) fn finish(&mut self) {
        self.members.iter_mut().for_each(|member| member.model.until = 0.0);
        self.events.clear();
        let patience = self.now.after(seconds(3600.0));
        while !self.sent.is_empty() {
            assert!(self.now < patience, "{} requests are never answered", self.sent.len());
            let later = self.now.after(seconds(1.0));
            self.until(later);
        }
        self.checker.at_the_end();
    }

    fn at(&mut self, when: Nanos, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((when, self.serial, event)));
    }

    /// A client begins, or comes back.
    fn start(&mut self, client: usize, when: Nanos) {
        let depth = self.members[client].model.depth;
        if depth == 0 {
            self.at(when, Event::Tick(client));
        }
        (0..depth).for_each(|_| self.at(when, Event::Ask(client)));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Ask(client) => match self.members[client].model.there(self.now) {
                Ok(()) => self.ask(client),
                Err(Some(later)) => self.at(later, Event::Ask(client)),
                Err(None) => {}
            },
            Event::Tick(client) => match self.members[client].model.there(self.now) {
                Ok(()) => {
                    (0..self.members[client].model.burst.max(1)).for_each(|_| self.ask(client));
                    let member = &mut self.members[client];
                    let next = self.now.after(member.model.pause(&mut member.random));
                    self.at(next, Event::Tick(client));
                }
                Err(Some(later)) => self.at(later, Event::Tick(client)),
                Err(None) => {}
            },
            Event::Change(index) => {
                let change = self.scenario.changes[index].clone();
                let client = self.members.iter().position(|member| member.model.name == change.client);
                self.set_weight(client.expect("checked when it was read"), change.weight);
            }
            Event::RandomChange => {
                self.change_anything();
                let pause = -self.random.f64().max(1e-9).ln() / self.scenario.random_changes;
                self.at(self.now.after(seconds(pause)), Event::RandomChange);
            }
        }
    }

    fn ask(&mut self, client: usize) {
        self.serial += 1;
        let id = self.serial;
        let target = if self.members[client].attached { client } else { 0 };
        let (key, watched) = (self.members[target].key, self.members[target].watched);
        let member = &mut self.members[client];
        let size = member.model.sizes[member.random.usize(0..member.model.sizes.len())];
        let op = member.model.ops.pick(&mut member.random);
        let request = Request { id, op, sectors: if op == Op::Flush { 0 } else { sectors(size) } };
        let bytes = if op.moves_bytes() { size.0 } else { 0 };
        self.sent.insert(id, Sent { client, since: self.now, request, bytes, dispatched: None });
        self.checker.submitted(id, watched);
        self.disk.submit(key, request, self.now);
    }

    /// Everything that has completed, and when, in one number: FNV-1a.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    fn complete(&mut self) {
        let Some((id, well)) = self.device.finish() else { return };
        for byte in [id, self.now.0].into_iter().flat_map(u64::to_le_bytes) {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        let sent = self.sent.remove(&id).expect("what is finished was sent");
        self.checker.completed(id);
        self.disk.complete(sent.dispatched.expect("what is finished was dispatched"), self.now);
        let latency = self.now.since(sent.since);
        self.counted.clients[sent.client].count(sent.bytes, latency, well);
        if let Some(witness) = &mut self.witness {
            witness(self.now, sent.client, latency, sent.bytes);
        }
        let member = &mut self.members[sent.client];
        if member.model.depth > 0 {
            let next = self.now.after(member.model.pause(&mut member.random));
            self.at(next, Event::Ask(sent.client));
        }
    }

    fn pump(&mut self) {
        loop {
            match self.disk.next(self.now) {
                Next::Dispatch(dispatched) => {
                    let id = dispatched.id;
                    let sent = self.sent.get_mut(&id).expect("what is dispatched was sent");
                    let cost = self.policy.cost(sent.request.op, sent.request.sectors);
                    sent.dispatched = Some(dispatched);
                    let in_flight = self.disk.in_flight();
                    self.most_in_flight = self.most_in_flight.max(in_flight);
                    self.checker.dispatched(id, cost, in_flight, self.disk.settings().io_limit);
                    let member = &mut self.members[sent.client];
                    let (place, slowness) = (member.random.f64(), member.model.slowness);
                    let Request { op, sectors, .. } = sent.request;
                    self.device.submit(Job { id, op, sectors, place, slowness }, self.now);
                }
                Next::Wait(until) => {
                    assert!(until > self.now, "waiting for the past would spin");
                    self.wake = Some(until);
                    return self.checker.rests(true);
                }
                Next::Idle => {
                    self.wake = None;
                    return self.checker.rests(false);
                }
            }
        }
    }

    /// Any change that may be made to a running disk.
    fn change_anything(&mut self) {
        // A detached group has nothing to change but to come back.
        let client = self.random.usize(0..self.members.len());
        if !self.members[client].attached {
            return self.attach(client);
        }
        match self.random.u32(0..10) {
            0..4 => {
                let to = [1, 10, 100, 1000, 32767][self.random.usize(0..5)];
                let to = self.random.u32(1..=to);
                self.set_weight(client, to);
            }
            4 => {
                let policy = Policy::ALL[self.random.usize(0..3)];
                self.set_policy(policy);
            }
            5 => {
                let io_limit = [0, 0, 1, 2, 8, 64][self.random.usize(0..6)];
                let io_throttle = [0, 0, 1, 4][self.random.usize(0..4)].min(io_limit);
                let token_base = self.random.u32(1..5000);
                let settings = Settings { io_throttle, io_limit, token_base };
                self.set_settings(settings);
            }
            6 => {
                let mut limits = self.members[client].model.limits.limits();
                if self.random.bool() {
                    limits.max_iops = NonZeroU64::new(self.random.u64(50..2000)).map(Cap::new);
                }
                self.set_limits(client, limits);
            }
            _ if client == 0 => {}
            _ => self.detach(client),
        }
    }
}

/// Whether groups are held to their shares under these settings: not where requests pass without being weighed, nor
/// where an epoch has fewer tokens than a request may cost (of the sizes that are used here).
fn judges(settings: Settings) -> bool {
    settings.io_throttle == 0 && settings.token_base >= 2048
}

/// The most tokens that a request of a group costs: others' requests may come into it where groups come and go.
fn largest_cost(scenario: &Scenario, client: &ClientModel, policy: Policy) -> u32 {
    let clients =
        if scenario.random_changes > 0.0 { &scenario.clients[..] } else { std::slice::from_ref(client) };
    clients.iter().map(|client| client.largest_cost(policy)).max().unwrap_or(1)
}

fn fresh(members: &[Member]) -> Vec<Got> {
    members.iter().map(|member| Got::new(&member.model.name, member.weight)).collect()
}

fn weight(weight: u32) -> Weight {
    Weight::new(weight).expect("checked when it was read")
}

/// Sizes in bytes.
pub(crate) fn sizes(all: &[u64]) -> Vec<Bytes> {
    all.iter().map(|size| Bytes(*size)).collect()
}
