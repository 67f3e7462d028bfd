//! The engine while it is changed: whatever changes while hundreds of requests are held, each of them is answered once, and
//! those of one caller in the order in which they came.

use super::*;
use crate::classify::{GroupId, ProcessId};
use crate::config::GroupPlan;
use std::cell::RefCell;

/// Requests that are held, one of each user in turn.
const MANY: u64 = 300;
/// Above any process id that the kernel gives out.
const NOBODY: u32 = 1 << 30;

/// One server, which answers in the order in which it is given requests, and one request with it at most: all others
/// are held, until somebody visits.
fn stage() -> Bench {
    let bench = Bench::new(&[(0, SIZE)], Some(Simulate { iops: Some(20_000), bandwidth: None, parallel: 1 }));
    bench.engine.change().settings(Settings { io_limit: 1, ..Settings::default() });
    bench
}

fn number(id: u32, weight: u32) -> GroupPlan {
    group(GroupId::Number(id), weight)
}

fn group(id: GroupId, weight: u32) -> GroupPlan {
    GroupPlan {
        id,
        weight: Weight::new(weight).expect("a test's weight is valid"),
        limits: Limits::default(),
    }
}

fn wanted(group_type: GroupType, groups: Vec<GroupPlan>) -> BandChange {
    let (policy, weight, limits) = (Policy::Weight, Weight::default(), Limits::default());
    BandChange { group_type, policy, weight, limits, groups }
}

fn nobody_is_asked(caller: Caller) -> Option<Identity> {
    panic!("{caller:?} is asked about")
}

impl Bench {
    /// Makes many requests, of the users 0, 1 and 2 in turn.
    fn submit_many(&mut self) {
        let requests = (self.asked..self.asked + MANY).map(|unique| {
            let (identity, caller) = user((unique % 3) as u32);
            (Request { identity, caller, ..self.request(unique * 512, read(512)) }, ticket(unique))
        });
        let requests = requests.collect();
        self.asked += MANY;
        self.visit(requests);
    }

    fn update(&self, wanted: BandChange) {
        self.engine.change().update_band(self.image.band(), wanted, &nobody_is_asked);
    }

    /// What each group holds, the default group first.
    fn held(&self) -> Vec<usize> {
        self.engine.status().bands[0].groups.iter().map(|group| group.queued).collect()
    }

    /// Every request so far is answered, well, once, and after those that the same user made before.
    #[track_caller]
    fn assert_all_answered_in_order(&mut self, before: Vec<(u64, Answered)>) {
        let mut answers = before;
        answers.extend(self.all_answers(self.asked as usize - answers.len()));
        assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
        for user in 0..3 {
            let of_user: Vec<_> =
                answers.iter().map(|(unique, _)| *unique).filter(|unique| unique % 3 == user).collect();
            let all: Vec<_> = (0..self.asked).filter(|unique| unique % 3 == user).collect();
            assert_eq!(of_user, all);
        }
        self.assert_silent();
        let DiskStatus { in_flight, queued, .. } = self.engine.status();
        assert_eq!((in_flight, queued), (0, 0));
    }
}

#[test]
fn an_attached_group_takes_along_what_is_held_of_it() {
    let mut bench = stage();
    bench.update(wanted(GroupType::User, Vec::new()));
    bench.submit_many();
    // The first one, of user 0, is with the device.
    assert_eq!(bench.held(), [299]);
    bench.update(wanted(GroupType::User, vec![number(2, 10), number(1, 20)]));
    assert!(bench.engine.wants_visit(), "nothing passes before somebody visits");
    assert_eq!(bench.held(), [99, 100, 100]);
    bench.visit(Vec::new());
    assert!(!bench.engine.wants_visit());
    bench.assert_all_answered_in_order(Vec::new());
}

#[test]
fn what_a_detached_group_holds_goes_where_it_belongs_now() {
    let mut bench = stage();
    bench.update(wanted(GroupType::User, vec![number(0, 10), number(1, 20), number(2, 30)]));
    bench.submit_many();
    // The heaviest came first.
    assert_eq!(bench.held(), [0, 100, 100, 99]);
    bench.update(wanted(GroupType::User, vec![number(1, 20)]));
    assert_eq!(bench.held(), [199, 100]);
    bench.update(wanted(GroupType::None, Vec::new()));
    assert_eq!(bench.held(), [299]);
    bench.assert_all_answered_in_order(Vec::new());
}

#[test]
fn groups_that_stay_keep_their_counters_and_stand_in_the_order_that_is_wanted() {
    let mut bench = stage();
    bench.update(wanted(GroupType::User, vec![number(0, 10), number(1, 20)]));
    bench.submit_many();
    bench.assert_all_answered_in_order(Vec::new());
    bench.update(wanted(GroupType::User, vec![number(2, 5), number(1, 70), number(0, 10)]));
    let groups = bench.engine.status().bands[0].groups.clone();
    let seen: Vec<_> = groups
        .iter()
        .map(|group| {
            let id = match group.id {
                Some(GroupId::Number(id)) => Some(id),
                _ => None,
            };
            (id, group.weight.get(), group.counters.read.requests)
        })
        .collect();
    assert_eq!(seen, [(None, 100, 100), (Some(2), 5, 0), (Some(1), 70, 100), (Some(0), 10, 100)]);
    bench.engine.change().reset(bench.image.band());
    let groups = bench.engine.status().bands[0].groups.clone();
    assert!(groups.iter().all(|group| group.counters == Default::default()));
}

#[test]
fn whatever_changes_in_the_middle_loses_nothing() {
    let mut bench = stage();
    bench.submit_many();
    let image = GroupId::Name("vm.img".into());
    let capped =
        Limits { max_iops: std::num::NonZeroU64::new(1).map(crate::sched::Cap::new), ..Limits::default() };
    let changes = [
        wanted(GroupType::User, vec![number(1, 1)]),
        wanted(GroupType::User, vec![number(1, 30_000), number(2, 1)]),
        BandChange {
            policy: Policy::WeightIosize,
            ..wanted(GroupType::User, vec![number(2, 7), number(1, 7)])
        },
        BandChange { limits: capped, ..wanted(GroupType::User, vec![number(2, 7)]) },
        wanted(GroupType::Gid, vec![number(0, 10)]),
        BandChange { policy: Policy::RangeBw, ..wanted(GroupType::Image, vec![group(image, 10)]) },
        wanted(GroupType::User, vec![number(0, 3), number(1, 2), number(2, 1)]),
        wanted(GroupType::None, Vec::new()),
    ];
    let mut answers = Vec::new();
    for (token_base, change) in (1..).zip(changes) {
        bench.update(change);
        bench.engine.change().settings(Settings { io_limit: 1, io_throttle: token_base % 2, token_base });
        bench.visit(Vec::new());
        // More come while it is changed.
        bench.submit_many();
        answers.extend(bench.all_answers(20));
    }
    bench.assert_all_answered_in_order(answers);
}

#[test]
fn what_is_held_of_a_removed_device_passes_and_its_number_is_free() {
    let mut bench = stage();
    let capped =
        Limits { max_iops: std::num::NonZeroU64::new(1).map(crate::sched::Cap::new), ..Limits::default() };
    // Nothing would pass for minutes.
    bench.update(BandChange { limits: capped, ..wanted(GroupType::User, vec![number(1, 20)]) });
    bench.submit_many();
    bench.submit_many();
    let old = bench.image.clone();
    bench.engine.change().remove_band(old.band());
    let new = bench.engine.change().add_band(bench.band.clone());
    assert_ne!(old.band(), new);
    bench.assert_all_answered_in_order(Vec::new());
    assert_eq!(bench.ask(0, read(1)), Err(libc::ENXIO), "its image is on nothing now");
    bench.image = Arc::new(Image::new("vm.img".into(), bench.target.clone(), new, old.extents().to_vec()));
    assert_eq!(bench.ask(0, read(1)), Ok(vec![0]));
    let status = bench.engine.status();
    assert_eq!((status.bands.len(), status.bands[0].id), (1, new));
    assert_eq!(status.bands[0].groups[0].counters.read.requests, 1, "the old one's counters went with it");
    // Neither is changed nor removed by the old one's name.
    bench.engine.change().remove_band(old.band());
    bench.engine.change().update_band(old.band(), wanted(GroupType::Gid, Vec::new()), &nobody_is_asked);
    assert_eq!(bench.engine.status().bands[0].group_type, GroupType::None);
    assert_eq!(bench.ask(0, read(1)), Ok(vec![0]));
}

#[test]
fn an_engine_without_devices_is_not_on_hold() {
    let mut bench = stage();
    bench.engine.hold(true);
    bench.submit_many();
    bench.assert_silent();
    bench.engine.change().remove_band(bench.image.band());
    assert!(bench.engine.wants_visit());
    bench.visit(Vec::new());
    bench.assert_all_answered_in_order(Vec::new());
    // Nor is it when the next one comes.
    let id = bench.engine.change().add_band(bench.band.clone());
    bench.image =
        Arc::new(Image::new("vm.img".into(), bench.target.clone(), id, bench.image.extents().to_vec()));
    assert_eq!(bench.ask(0, read(1)), Ok(vec![0]));
}

#[test]
fn a_device_turns_fast_while_much_is_held() {
    let mut bench = stage();
    // The first to go, a flush, moves no bytes. At a byte a second the others would take days.
    bench.engine.change().simulate(Some(Simulate { iops: None, bandwidth: Some(1), parallel: 1 }));
    bench.visit(vec![(bench.request(0, Work::Flush), ticket(0))]);
    let requests = (1..MANY).map(|unique| (bench.request(unique * 512, read(512)), ticket(unique)));
    let requests: Vec<_> = requests.collect();
    let mut out = Outbox::default();
    let mut turn = bench.engine.turn(&mut out);
    for (request, ticket) in requests {
        turn.submit(bench.engine.prepare(request), ticket);
    }
    // The flush has not come back, so all of them are held.
    assert!(turn.end(|_| ()).is_none() && out.answers.is_empty());
    assert_eq!(bench.held(), [299]);
    bench.engine.change().simulate(None);
    let answers = bench.all_answers(MANY as usize);
    assert!(answers.iter().map(|(unique, _)| *unique).eq(0..MANY));
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
    bench.assert_silent();
}

#[test]
fn an_engine_without_devices_may_be_given_to_another_disk() {
    let mut bench = stage();
    bench.submit_many();
    let fresh = Bench::new(&[(0, SIZE)], None).engine.status();
    // While it still has to do for the old one.
    let mut change = bench.engine.change();
    assert_eq!(change.bands(), 1);
    change.remove_band(bench.image.band());
    assert_eq!(change.bands(), 0);
    change.id(77);
    change.settings(Settings::default());
    let id = change.add_band(bench.band.clone());
    drop(change);
    let status = bench.engine.status();
    assert_eq!((status.id, bench.engine.id()), (77, 77));
    assert_eq!((status.settings, status.depth), (fresh.settings, fresh.depth));
    assert_eq!((status.in_flight, status.queued), (1, 299));
    bench.all_answers(MANY as usize);
    bench.image =
        Arc::new(Image::new("vm.img".into(), bench.target.clone(), id, bench.image.extents().to_vec()));
    assert_eq!(bench.ask(0, read(1)), Ok(vec![0]));
}

#[test]
fn who_is_held_is_asked_about_when_the_type_changes() {
    let mut bench = stage();
    // The first goes to the device at once. Threads 5 and 6 are of the process, thread 7 has ended, and the last is charged
    // to the opener of its handle.
    let requests = [1, 5, 6, 7, 5, 0, 6].into_iter().zip(0..).map(|(tid, unique)| {
        let (identity, caller) = user(1000);
        let request = Request { identity, caller: Caller { tid, ..caller }, ..bench.request(0, read(1)) };
        (request, ticket(unique))
    });
    let requests = requests.collect();
    bench.visit(requests);
    let process = Some(ProcessId { tgid: NOBODY, birth: 5 });
    let asked = RefCell::new(Vec::new());
    let ask = |caller: Caller| {
        asked.borrow_mut().push(caller.tid);
        assert_eq!((caller.uid, caller.gid), (1000, 0));
        (caller.tid != 7).then(|| Identity { process, ..Identity::from_ids(caller.uid, caller.gid) })
    };
    let band = bench.image.band();
    bench.engine.change().update_band(band, wanted(GroupType::Pid, vec![number(NOBODY, 10)]), &ask);
    assert_eq!(bench.held(), [2, 4]);
    // Once for each thread, and not about who does not matter.
    asked.borrow_mut().sort_unstable();
    assert_eq!(asked.take(), [5, 6, 7]);
    // Nothing more is asked while the type stays.
    bench.update(wanted(GroupType::Pid, Vec::new()));
    assert_eq!(bench.held(), [6]);
    assert_eq!(bench.all_answers(7).len(), 7);
    bench.assert_silent();
}

#[test]
fn a_status_says_whose_process_has_ended() {
    let bench = stage();
    let mut child = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("cat starts");
    let groups = vec![number(child.id(), 10), number(NOBODY, 10)];
    bench.update(wanted(GroupType::Pid, groups.clone()));
    let gone = || bench.engine.status().bands[0].groups.iter().map(|group| group.gone).collect::<Vec<_>>();
    assert_eq!(gone(), [false; 3]);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert_eq!(gone(), [false, true, false]);
    // Also if nothing of it changes meanwhile but its weight.
    bench.update(wanted(GroupType::Pid, vec![number(NOBODY, 10), number(child.id(), 20)]));
    assert_eq!(gone(), [false, false, true]);
}

#[test]
fn where_nothing_is_scheduled_all_may_change_as_well() {
    let mut bench =
        Bench::with(&[(0, SIZE)], Some(Simulate { iops: Some(20_000), bandwidth: None, parallel: 1 }), true);
    bench.submit_many();
    bench.update(wanted(GroupType::User, vec![number(1, 10)]));
    bench.submit_many();
    bench.engine.change().simulate(None);
    bench.update(wanted(GroupType::Pid, vec![number(NOBODY, 10)]));
    bench.engine.change().remove_band(bench.image.band());
    let mut answers = bench.all_answers(2 * MANY as usize);
    answers.sort_by_key(|(unique, _)| *unique);
    assert!(answers.iter().map(|(unique, _)| *unique).eq(0..2 * MANY));
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
    assert_eq!(bench.ask(0, read(1)), Err(libc::ENXIO));
}

#[test]
fn a_successor_goes_on_with_counters_and_processes() {
    let tgid = NOBODY;
    let groups = || vec![number(tgid, 30), number(tgid + 1, 30)];
    let mut bench = Bench::new(&[(0, SIZE)], None);
    bench.update(wanted(GroupType::Pid, groups()));
    let process = |birth| Identity { process: Some(ProcessId { tgid, birth }), ..Identity::from_ids(0, 0) };
    let ask = |bench: &mut Bench, birth| {
        let request = Request { identity: process(birth), ..bench.request(0, read(512)) };
        bench.asked += 1;
        bench.visit(vec![(request, ticket(bench.asked - 1))]);
        bench.all_answers(1);
    };
    (0..3).for_each(|_| ask(&mut bench, 1));
    ask(&mut bench, 2);
    let reads = |bench: &Bench| -> Vec<u64> {
        bench.engine.status().bands[0].groups.iter().map(|group| group.counters.read.requests).collect()
    };
    assert_eq!(reads(&bench), [1, 3, 0]);

    let learned = bench.engine.learned();
    let text = serde_json::to_string(&learned).unwrap();
    let learned = serde_json::from_str(&text).unwrap();
    let mut heir = Bench::new(&[(0, SIZE)], None);
    heir.update(wanted(GroupType::Pid, groups()));
    heir.engine.change().go_on(&learned);
    assert_eq!(reads(&heir), [1, 3, 0]);
    // The process that the group belonged to, and not the first that comes now.
    ask(&mut heir, 2);
    ask(&mut heir, 1);
    assert_eq!(reads(&heir), [2, 4, 0]);
}

fn so_slow(iops: u64) -> Option<Simulate> {
    Some(Simulate { iops: Some(iops), bandwidth: None, parallel: 1 })
}

/// Before it is changed, 64 requests at once are known to be right. Is that so afterwards?
fn is_still_deep(before: Option<Simulate>, change: impl FnOnce(&mut Change<'_>)) -> bool {
    let bench = Bench::new(&[(0, SIZE)], before);
    let learned = Learned { depths: Some((64, 32)), ..bench.engine.learned() };
    bench.engine.change().go_on(&learned);
    assert_eq!(bench.engine.status().depth, 64);
    change(&mut bench.engine.change());
    let depth = bench.engine.status().depth;
    assert_eq!(depth == 64, bench.engine.learned().depths.is_some(), "{depth}");
    depth == 64
}

#[test]
fn how_deep_a_device_is_is_learned_anew_when_it_turns_slower() {
    for (before, now) in [(None, so_slow(250)), (so_slow(250), so_slow(249))] {
        assert!(!is_still_deep(before, |change| change.simulate(now)), "from {before:?} to {now:?}");
        // To say the same again, as any edit does, changes nothing; and a faster one finds out by itself.
        assert!(is_still_deep(before, |change| change.simulate(before)), "from {before:?}");
        assert!(is_still_deep(now, |change| change.simulate(before)), "from {now:?} to {before:?}");
    }
    // What the settings say is not learned.
    let bench = stage();
    bench.engine.change().simulate(so_slow(250));
    assert_eq!(bench.engine.status().depth, 1);
}

#[test]
fn a_successor_does_not_take_a_slower_device_for_as_deep_as_it_was() {
    let learned =
        |simulate| Learned { depths: Some((64, 32)), ..Bench::new(&[(0, SIZE)], simulate).engine.learned() };
    for (learned_at, now, depth) in
        [(None, so_slow(250), 2), (so_slow(250), so_slow(250), 64), (so_slow(250), None, 64)]
    {
        let heir = Bench::new(&[(0, SIZE)], now);
        heir.engine.change().go_on(&learned(learned_at));
        assert_eq!(heir.engine.status().depth, depth, "from {learned_at:?} to {now:?}");
    }
}
