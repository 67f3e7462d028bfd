//! Writes that are carried out ahead of their turn, because memory is short: nobody sees anything of it but the memory.

use super::*;
use crate::classify::GroupId;
use crate::config::GroupPlan;
use proptest::prelude::*;
use std::collections::BTreeSet;

const BLOCK: u64 = 16 << 10;
/// The bound of all tests: so many blocks, as tests count them.
const BOUND: u64 = 8;
/// Users 1 and 2 have groups.
const USERS: u32 = 3;

/// A device that does one request after the other, with two at hand.
fn stage() -> (Bench, Arc<Budget>) {
    let budget = Arc::new(Budget::new((BOUND * BLOCK) as usize));
    let slow = Simulate { iops: Some(5_000), bandwidth: None, parallel: 1 };
    // What lies past the end of the device can only fail.
    let bench = Bench::within(&[(0, SIZE), (4 * SIZE, SIZE)], Some(slow), false, budget.clone());
    bench.engine.change().settings(Settings { io_limit: 2, ..Settings::default() });
    let group =
        |id| GroupPlan { id: GroupId::Number(id), weight: Weight::default(), limits: Limits::default() };
    bench.regroup(GroupType::User, (1..USERS).map(group).collect());
    (bench, budget)
}

/// What is in a block that a request has written.
fn content(unique: u64) -> Vec<u8> {
    vec![unique as u8 + 1; BLOCK as usize]
}

impl Bench {
    fn regroup(&self, group_type: GroupType, groups: Vec<GroupPlan>) {
        let (policy, weight, limits) = (Policy::Weight, Weight::default(), Limits::default());
        let wanted = BandChange { group_type, policy, weight, limits, groups };
        self.engine.change().update_band(self.image.band(), wanted, &|_| None);
    }

    /// Users write a block each, all at once: (user, block).
    fn write_all(&mut self, writes: &[(u32, u64)], may_leave: bool) {
        let requests = (self.asked..).zip(writes).map(|(unique, &(uid, block))| {
            let (identity, caller) = user(uid);
            let work = self.data(&content(unique));
            let ticket = Ticket { may_leave, ..ticket(unique) };
            (Request { identity, caller, ..self.request(block * BLOCK, work) }, ticket)
        });
        let requests = requests.collect();
        self.asked += writes.len() as u64;
        self.visit_and_note(requests);
    }

    /// What has left its slot is not lost: it says so.
    fn visit_and_note(&mut self, requests: Vec<(Request, Ticket)>) {
        let answers = self.visitor.visit(&self.engine, requests);
        self.answers.extend(answers.into_iter().map(|Answer { ticket: of, result }| {
            let slot = if of.slot == Ticket::NOWHERE { of.slot } else { of.unique as u32 };
            assert_eq!(of, Ticket { slot, may_leave: of.may_leave, ..ticket(of.unique) });
            (of.unique, result.map(|_| Vec::new()).map_err(|error| error.raw_os_error().unwrap_or(0)))
        }));
    }

    /// Visits until something is so.
    #[track_caller]
    fn visit_until(&mut self, what: &str, is_it: impl Fn(&Self) -> bool) {
        let start = self.clock.now();
        while !is_it(self) {
            assert!(Duration::from(self.clock.now().since(start)) < PATIENCE, "{what}: {:?}", self.answers);
            self.visitor.wait(self.clock);
            self.visit_and_note(Vec::new());
        }
    }

    fn block_on_disk(&self, block: u64) -> u8 {
        let disk = std::fs::read(self.folder.path().join("disk")).expect("the file");
        disk[(block * BLOCK) as usize]
    }

    /// Requests that have left their slots, answered or not.
    fn left(&self) -> Vec<u64> {
        let emptied = self.visitor.emptied.iter().map(|emptied| emptied.slot);
        self.visitor.out.left.iter().copied().chain(emptied).map(u64::from).collect()
    }
}

#[test]
fn what_is_beyond_the_bound_is_carried_out_and_answered_in_its_turn() {
    let (mut bench, budget) = stage();
    bench.write_all(&(0..40).map(|block| (1, block)).collect::<Vec<_>>(), false);
    assert!(budget.is_full() && budget.wants_visits(), "{budget:?}");
    bench.visit_until("memory is given back", |_| !budget.wants_visits());
    let answered = bench.answers.len() as u64;
    let on_disk = (0..40).filter(|block| bench.block_on_disk(*block) != 0).count() as u64;
    assert!(on_disk >= 40 - BOUND && answered < on_disk, "{answered} answered, {on_disk} on the disk");
    bench.visit_until("all is answered", |bench| bench.answers.len() == 40);
    // In the order in which they came, whatever was carried out first. Two are in flight at a time and have no order: while one
    // takes long the others go by, but then that one is the only one.
    let mut waits = (0..40).collect::<BTreeSet<u64>>();
    for (unique, _) in &bench.answers {
        waits.remove(unique);
        assert!(waits.range(..unique).count() <= 1, "{unique}: {:?}", bench.answers);
    }
    bench.answers.sort_by_key(|(unique, _)| *unique);
    let wanted: Vec<_> = (0..40).map(|unique| (unique, Ok(Vec::new()))).collect();
    assert_eq!(bench.answers, wanted);
    assert!((0..40).all(|block| bench.block_on_disk(block) == block as u8 + 1));
    assert_eq!(budget.used(), 0);
    bench.answers.clear();
    bench.assert_silent();
}

#[test]
fn a_slot_is_emptied_before_its_request_can_be_answered() {
    let (mut bench, _) = stage();
    let past = SIZE / BLOCK;
    // Every fourth fails at once: it is carried out, and maybe answered, in one visit.
    let writes: Vec<_> = (0..40).map(|n| (1, if n % 4 == 3 { past + n } else { n })).collect();
    bench.write_all(&writes, false);
    while bench.answers.len() < 40 {
        let answered = bench.answers.len();
        let emptied = bench.visitor.emptied.len();
        bench.visit_until("one more is answered", |bench| {
            bench.answers.len() > answered || bench.visitor.emptied.len() > emptied
        });
        // That it is done while nobody else can visit is looked at with each of them.
        let before: Vec<_> = bench.answers[..answered].iter().map(|(unique, _)| *unique).collect();
        let late =
            bench.visitor.emptied[emptied..].iter().find(|late| before.contains(&u64::from(late.slot)));
        assert_eq!(late, None, "it was answered before");
    }
    assert!(!bench.visitor.emptied.is_empty(), "some went ahead");
    for Emptied { slot, errno } in &bench.visitor.emptied {
        assert_eq!(*errno, (slot % 4 == 3).then_some(libc::ENOSPC), "of {slot}");
    }
}

#[test]
fn groups_may_change_while_everything_is_held() {
    let (mut bench, budget) = stage();
    bench.engine.hold(true);
    bench.write_all(&(0..3).map(|block| (1, block)).collect::<Vec<_>>(), false);
    let group =
        |id| GroupPlan { id: GroupId::Number(id), weight: Weight::default(), limits: Limits::default() };
    bench.regroup(GroupType::User, vec![group(2), group(1), group(7)]);
    assert!(bench.answers.is_empty());
    bench.engine.hold(false);
    bench.write_all(&(3..40).map(|block| (1, block)).collect::<Vec<_>>(), false);
    bench.visit_until("all is answered", |bench| bench.answers.len() == 40);
    assert!((0..40).all(|block| bench.block_on_disk(block) == block as u8 + 1));
    assert_eq!(budget.used(), 0);
}

#[test]
fn each_turn_is_one_piece_of_work_for_the_device() {
    let (mut bench, budget) = stage();
    bench.write_all(&(0..40).map(|block| (1, block)).collect::<Vec<_>>(), false);
    bench.visit_until("memory is given back", |_| !budget.wants_visits());
    let ahead = |bench: &Bench| {
        let on_disk = (0..40).filter(|block| bench.block_on_disk(*block) != 0).count();
        on_disk - bench.answers.len()
    };
    let (before, answered) = (ahead(&bench), bench.answers.len());
    // As long as there is something in memory, one is carried out for each that is answered; two are with the device.
    bench.visit_until("some are answered", |bench| bench.answers.len() >= answered + 3);
    assert!(before.abs_diff(ahead(&bench)) <= 2, "{before} were ahead, {} are", ahead(&bench));
    bench.visit_until("all is answered", |bench| bench.answers.len() == 40);
}

#[test]
fn an_error_is_told_in_its_turn_and_to_whom_it_concerns() {
    let (mut bench, budget) = stage();
    let past = SIZE / BLOCK;
    let writes: Vec<_> = (0..40).map(|n| (1, if n % 8 == 5 { past + n % 7 } else { n })).collect();
    bench.write_all(&writes, true);
    bench.visit_until("all is answered", |bench| bench.answers.len() == 40);
    // Two are in flight at a time, and have no order.
    bench.answers.sort_by_key(|(unique, _)| *unique);
    for (at, (unique, answer)) in bench.answers.iter().enumerate() {
        let wanted = if unique % 8 == 5 { Err(libc::ENOSPC) } else { Ok(Vec::new()) };
        assert_eq!((*unique, answer), (at as u64, &wanted));
    }
    assert_eq!(budget.used(), 0);
}

#[test]
fn whoever_has_most_in_memory_goes_ahead() {
    let (mut bench, budget) = stage();
    // One of user 2 for ten of user 1; the others come first.
    let mut writes: Vec<_> = (0..4).map(|block| (2, block)).collect();
    writes.extend((4..44).map(|block| (1, block)));
    bench.write_all(&writes, false);
    bench.visit_until("memory is given back", |_| !budget.wants_visits());
    let answered = bench.answers.iter().map(|(unique, _)| *unique).collect::<Vec<_>>();
    let left = bench.left();
    assert!(left.iter().all(|unique| *unique >= 4), "{left:?} went ahead, {answered:?} are answered");
    bench.visit_until("all is answered", |bench| bench.answers.len() == 44);
}

#[test]
fn two_who_flood_are_answered_alike_however_much_each_has() {
    let (mut bench, _) = stage();
    let writes: Vec<_> = (0..60).map(|block| (1 + u32::from(block % 5 == 0), block)).collect();
    bench.write_all(&writes, true);
    // User 2 has 12 of the 60: as long as he has some, each gets every second answer.
    bench.visit_until("all is answered", |bench| bench.answers.len() == 60);
    let of_two = bench.answers.iter().take(20).filter(|(unique, _)| unique % 5 == 0).count();
    assert!((8..=12).contains(&of_two), "{of_two} of the first 20");
}

#[test]
fn shutting_down_answers_what_went_ahead_as_well() {
    let (mut bench, budget) = stage();
    bench.write_all(&(0..40).map(|block| (1, block)).collect::<Vec<_>>(), true);
    bench.visit_until("memory is given back", |_| !budget.wants_visits());
    let wakers = [bench.visitor.lane.waker()];
    let engine = std::mem::replace(&mut bench.engine, Bench::new(&[(0, SIZE)], None).engine);
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| engine.shut_down(&wakers));
        let start = bench.clock.now();
        while bench.answers.len() < 40 {
            assert!(Duration::from(bench.clock.now().since(start)) < PATIENCE, "{:?}", bench.answers);
            bench.visitor.wait(bench.clock);
            let answers = bench.visitor.visit(&engine, Vec::new());
            bench.answers.extend(answers.into_iter().map(|answer| (answer.ticket.unique, Ok(Vec::new()))));
        }
        ending.join().expect("it ends with the last answer");
    });
    assert_eq!(budget.used(), 0);
}

#[test]
fn nobody_comes_for_those_who_rest_while_nothing_is_answered() {
    let (mut bench, _) = stage();
    bench.write_all(&(0..40).map(|block| (1, block)).collect::<Vec<_>>(), true);
    bench.visit_until("some rest", |bench| bench.engine.resting() > 0);
    bench.engine.pause(&[], Duration::ZERO);
    // Longer than any of them rests.
    std::thread::sleep(Duration::from_millis(5));
    let before = bench.clock.now();
    bench.visit_and_note(Vec::new());
    assert!(bench.engine.resting() > 0);
    assert!(bench.visitor.until.is_none_or(|until| until > before), "it is to come at once");
}

#[derive(Clone, Debug)]
enum Act {
    Write { uid: u32, count: u64, may_leave: bool },
    Read { uid: u32, block: u64 },
    Flush { uid: u32 },
    Visit,
    Type { none: bool, groups: u32 },
    Limit { io_limit: u32 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..USERS, 1..12u64, any::<bool>()).prop_map(|(uid, count, may_leave)| Act::Write { uid, count, may_leave }),
        1 => (0..USERS, 0..60u64).prop_map(|(uid, block)| Act::Read { uid, block }),
        1 => (0..USERS).prop_map(|uid| Act::Flush { uid }),
        3 => Just(Act::Visit),
        1 => (any::<bool>(), 0..USERS).prop_map(|(none, groups)| Act::Type { none, groups }),
        1 => (1..6u32).prop_map(|io_limit| Act::Limit { io_limit }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever comes and changes: each is answered once, what was answered is on the disk, and all memory is counted off.
    #[test]
    fn nothing_is_lost_and_all_memory_comes_back(acts in prop::collection::vec(act(), 1..40)) {
        let (mut bench, budget) = stage();
        let mut next_block = 0;
        let mut written = Vec::new();
        for act in acts {
            match act {
                Act::Write { uid, count, may_leave } => {
                    let blocks = next_block..(next_block + count).min(SIZE / BLOCK);
                    next_block = blocks.end;
                    written.extend((bench.asked..).zip(blocks.clone()));
                    bench.write_all(&blocks.map(|block| (uid, block)).collect::<Vec<_>>(), may_leave);
                }
                Act::Read { uid, block } => {
                    let (identity, caller) = user(uid);
                    let request = Request { identity, caller, ..bench.request(block * BLOCK, read(BLOCK)) };
                    let ticket = ticket(bench.asked);
                    bench.asked += 1;
                    bench.visit_and_note(vec![(request, ticket)]);
                }
                Act::Flush { uid } => {
                    let (identity, caller) = user(uid);
                    let request = Request { identity, caller, ..bench.request(0, Work::Flush) };
                    let ticket = ticket(bench.asked);
                    bench.asked += 1;
                    bench.visit_and_note(vec![(request, ticket)]);
                }
                Act::Visit => {
                    bench.visitor.lane.wait(Some(Duration::from_micros(300)), &mut bench.visitor.events).unwrap();
                    bench.visit_and_note(Vec::new());
                }
                Act::Type { none, groups } => {
                    let group = |id| GroupPlan { id: GroupId::Number(id), weight: Weight::default(), limits: Limits::default() };
                    if none {
                        bench.regroup(GroupType::None, Vec::new());
                    } else {
                        bench.regroup(GroupType::User, (0..groups).map(group).collect());
                    }
                }
                Act::Limit { io_limit } => {
                    bench.engine.change().settings(Settings { io_limit, ..Settings::default() });
                }
            }
            let answered: std::collections::HashSet<_> = bench.answers.iter().map(|(unique, _)| *unique).collect();
            for (unique, block) in written.iter().filter(|(unique, _)| answered.contains(unique)) {
                prop_assert_eq!(bench.block_on_disk(*block), *unique as u8 + 1);
            }
        }
        let asked = bench.asked as usize;
        bench.visit_until("all is answered", |bench| bench.answers.len() >= asked);
        let mut names: Vec<_> = bench.answers.drain(..).map(|(unique, answer)| { assert!(answer.is_ok()); unique }).collect();
        names.sort_unstable();
        prop_assert_eq!(names, (0..asked as u64).collect::<Vec<_>>());
        prop_assert_eq!(budget.used(), 0);
        let DiskStatus { in_flight, queued, .. } = bench.engine.status();
        prop_assert_eq!((in_flight, queued), (0, 0));
        bench.assert_silent();
    }
}
