//! The engine on real files: every request is answered exactly once, whatever ends it.

mod ahead;
mod changes;

use super::*;
use crate::classify::{Caller, GroupType, Identity};
use crate::clock::Clock;
use crate::config::Extent;
use crate::device::{BackendKind, Event, Fault, FaultOp, Faults, Lane, OpenMode, Payload, Simulate, Target};
use crate::sched::{Limits, Policy, Settings};
use crate::units::{Bytes, Nanos, Weight};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SIZE: u64 = 1 << 20;
/// Ends what hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came back: the errno, or the bytes of a read.
type Answered = Result<Vec<u8>, i32>;

/// A thread that serves, as far as the engine knows one.
struct Visitor {
    lane: Lane,
    out: Outbox,
    events: Vec<Event>,
    until: Option<Nanos>,
    /// Slots that were emptied, with what will be answered.
    emptied: Vec<Emptied>,
}

impl Visitor {
    fn new() -> Self {
        let lane = Lane::new(BackendKind::Auto, 64).expect("a lane");
        Self { lane, out: Outbox::default(), events: Vec::new(), until: None, emptied: Vec::new() }
    }

    /// Brings requests and what calls gave, starts calls, and takes the answers.
    fn visit(&mut self, engine: &Engine, requests: Vec<(Request, Ticket)>) -> Vec<Answer> {
        let prepared: Vec<_> =
            requests.into_iter().map(|(request, ticket)| (engine.prepare(request), ticket)).collect();
        let mut turn = engine.turn(&mut self.out);
        for event in self.events.drain(..) {
            match event {
                Event::Finished(finished) => turn.finished(finished),
                other => panic!("{other:?}"),
            }
        }
        for (prepared, ticket) in prepared {
            turn.submit(prepared, ticket);
        }
        self.until = turn.end(|emptied| {
            assert!(engine.is_visited(), "another thread could answer it meanwhile, and give the slot away");
            self.emptied.push(emptied);
        });
        self.lane.start(&mut self.out.calls);
        std::mem::take(&mut self.out.answers)
    }

    /// Waits until there is a reason for another visit.
    fn wait(&mut self, clock: Clock) {
        let until = self.until.map(|until| until.since(clock.now()).into());
        self.lane.wait(Some(until.unwrap_or(PATIENCE).min(PATIENCE)), &mut self.events).expect("waiting");
    }
}

struct Bench {
    engine: Engine,
    clock: Clock,
    target: Arc<Target>,
    /// As which its ioband device was added.
    band: BandSettings,
    image: Arc<Image>,
    visitor: Visitor,
    /// Requests so far, which have this as their names.
    asked: u64,
    /// Answers that nobody has taken yet.
    answers: Vec<(u64, Answered)>,
    folder: tempfile::TempDir,
}

impl Bench {
    /// An engine on a new file of 1 MiB, with one image made of `extents` (offset, size).
    fn new(extents: &[(u64, u64)], simulate: Option<Simulate>) -> Self {
        Self::with(extents, simulate, false)
    }

    fn with(extents: &[(u64, u64)], simulate: Option<Simulate>, unscheduled: bool) -> Self {
        Self::within(extents, simulate, unscheduled, Arc::default())
    }

    /// One whose requests may take so much memory.
    fn within(
        extents: &[(u64, u64)],
        simulate: Option<Simulate>,
        unscheduled: bool,
        budget: Arc<Budget>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let target = Target::open(&folder.path().join("disk"), Some(Bytes(SIZE)), OpenMode::default());
        let target = Arc::new(target.expect("a file"));
        let band = BandSettings {
            name: "ioband1".into(),
            target: target.clone(),
            group_type: GroupType::None,
            policy: Policy::Weight,
            weight: Weight::default(),
            limits: Limits::default(),
            groups: Vec::new(),
        };
        let settings = Settings::default();
        let settings = EngineSettings { id: 1, settings, unscheduled, simulate, budget };
        let clock = Clock::start();
        let extents = extents.iter().map(|&(o, s)| Extent { offset: Bytes(o), size: Bytes(s) }).collect();
        let engine = Engine::new(0, settings, clock);
        let id = engine.change().add_band(band.clone());
        Self {
            engine,
            clock,
            image: Arc::new(Image::new("vm.img".into(), target.clone(), id, extents)),
            target,
            band,
            visitor: Visitor::new(),
            asked: 0,
            answers: Vec::new(),
            folder,
        }
    }

    fn data(&self, data: &[u8]) -> Work {
        Work::Write(Payload::for_write(&self.target, 0, data))
    }

    fn request(&self, offset: u64, work: Work) -> Request {
        let (identity, caller) = user(0);
        Request { image: self.image.clone(), offset, work, identity, caller }
    }

    /// Makes a request; its name.
    fn submit(&mut self, offset: u64, work: Work) -> u64 {
        let (request, unique) = (self.request(offset, work), self.asked);
        self.asked += 1;
        self.visit(vec![(request, ticket(unique))]);
        unique
    }

    fn visit(&mut self, requests: Vec<(Request, Ticket)>) {
        self.answers.extend(self.visitor.visit(&self.engine, requests).into_iter().map(answered));
    }

    /// Waits for an answer to everything that was asked.
    fn all_answers(&mut self, count: usize) -> Vec<(u64, Answered)> {
        let start = self.clock.now();
        while self.answers.len() < count {
            let waited: Duration = self.clock.now().since(start).into();
            assert!(waited < PATIENCE, "{} of {count} are answered", self.answers.len());
            self.visitor.wait(self.clock);
            self.visit(Vec::new());
        }
        std::mem::take(&mut self.answers)
    }

    fn ask(&mut self, offset: u64, work: Work) -> Answered {
        let unique = self.submit(offset, work);
        let mut answers = self.all_answers(1);
        let (of, answer) = answers.pop().expect("it was waited for");
        assert!(answers.is_empty() && of == unique, "an answer to what was not asked");
        answer
    }

    /// No answer is left over: nothing was answered twice.
    fn assert_silent(&mut self) {
        self.visitor.lane.wait(Some(Duration::ZERO), &mut self.visitor.events).expect("waiting");
        self.visit(Vec::new());
        assert!(self.answers.is_empty(), "{:?}", self.answers);
    }
}

/// Somebody of whom no more than the uid is known.
fn user(uid: u32) -> (Identity, Caller) {
    (Identity::from_ids(uid, 0), Caller { uid, gid: 0, tid: 0 })
}

fn ticket(unique: u64) -> Ticket {
    // Those of a test are few.
    Ticket { slot: unique as u32, kind: 3, len: 5, unique, may_leave: false }
}

fn answered(answer: Answer) -> (u64, Answered) {
    let Answer { ticket: of, result } = answer;
    assert_eq!(of, ticket(of.unique), "a ticket is given back as it was");
    let result = result
        .map(|pieces| pieces.iter().flat_map(|piece| piece.to_vec()).collect())
        .map_err(|error| error.raw_os_error().unwrap_or(0));
    (of.unique, result)
}

fn read(len: u64) -> Work {
    Work::Read { len, into: None }
}

fn slow() -> Option<Simulate> {
    Some(Simulate { iops: Some(200), bandwidth: None, parallel: 1 })
}

#[test]
fn bytes_come_back_over_the_borders_of_extents() {
    let mut bench = Bench::new(&[(512 << 10, 4096), (0, 1024), (256 << 10, 8192)], None);
    let data: Vec<u8> = (0..13312).map(|i| (i % 251) as u8).collect();
    assert_eq!(bench.ask(0, bench.data(&data)), Ok(Vec::new()));
    assert_eq!(bench.ask(0, read(13312)), Ok(data.clone()));
    assert_eq!(bench.ask(4000, read(2000)), Ok(data[4000..6000].to_vec()));
    // Into memory that it comes with, which is divided at the borders.
    let into = Some(Payload::zeroed(&bench.target, 0, 6000));
    assert_eq!(bench.ask(3999, Work::Read { len: 6000, into }), Ok(data[3999..9999].to_vec()));
    assert_eq!(bench.ask(4095, Work::Discard { len: 1026 }), Ok(Vec::new()));
    assert_eq!(bench.ask(4094, read(2)), Ok(vec![data[4094], 0]));
    assert_eq!(bench.ask(5120, read(2)), Ok(vec![0, data[5121]]));
    assert_eq!(bench.ask(0, Work::Flush), Ok(Vec::new()));
    bench.assert_silent();
}

#[test]
fn everybody_who_shares_a_disk_is_told_once_that_a_flush_has_failed() {
    let mut bench = Bench::new(&[(0, 4096)], None);
    let extents = vec![Extent { offset: Bytes(4096), size: Bytes(4096) }];
    let other = Image::new("vm2.img".into(), bench.target.clone(), bench.image.band(), extents);
    let images = [bench.image.clone(), Arc::new(other)];
    let fault = Fault {
        op: Some(FaultOp::Flush),
        range: None,
        every: 1,
        seed: None,
        error: Some(libc::EIO),
        short: false,
        stall: None,
    };
    let flush = |bench: &mut Bench, image: usize| {
        bench.image = images[image].clone();
        bench.ask(0, Work::Flush)
    };
    assert_eq!(flush(&mut bench, 0), Ok(Vec::new()));
    bench.target.set_faults(Some(&Faults(vec![fault])));
    assert_eq!(flush(&mut bench, 0), Err(libc::EIO));
    bench.target.set_faults(None);
    // Who was told goes on; the other's data may be what was lost.
    assert_eq!(flush(&mut bench, 0), Ok(Vec::new()));
    assert_eq!(flush(&mut bench, 1), Err(libc::EIO));
    assert_eq!(flush(&mut bench, 1), Ok(Vec::new()));
    // What comes later was not there to lose anything.
    let extents = bench.image.extents().to_vec();
    let late = Image::new("vm3.img".into(), bench.target.clone(), bench.image.band(), extents);
    bench.image = Arc::new(late);
    assert_eq!(bench.ask(0, Work::Flush), Ok(Vec::new()));
}

#[test]
fn another_disk_has_not_got_what_was_not_flushed_on_the_one_before() {
    let mut bench = Bench::new(&[(0, 4096)], None);
    let path = bench.folder.path().join("disk");
    let replace = |bench: &Bench| {
        // Kept, so that the new one is another file by its number, too.
        std::fs::rename(&path, path.with_extension("old")).expect("renamed");
        let new = std::fs::File::create(&path).expect("another one");
        new.set_len(SIZE).expect("as large");
        bench.target.reopen().expect("it is there");
    };
    assert_eq!(bench.ask(0, bench.data(&[1; 4096])), Ok(Vec::new()));
    replace(&bench);
    assert_eq!(bench.ask(0, Work::Flush), Err(libc::EIO));
    assert_eq!(bench.ask(0, bench.data(&[2; 4096])), Ok(Vec::new()));
    assert_eq!(bench.ask(0, Work::Flush), Ok(Vec::new()));
    replace(&bench);
    assert_eq!(bench.ask(0, Work::Flush), Ok(Vec::new()));
}

#[test]
fn a_discard_over_many_extents_is_begun_part_by_part() {
    // From the last to the first, so that they are not next to each other.
    let extents: Vec<_> = (0..100).rev().map(|block| (block * 8192, 4096)).collect();
    let mut bench = Bench::new(&extents, None);
    std::fs::write(bench.folder.path().join("disk"), vec![7; SIZE as usize]).expect("written");
    bench.submit(0, Work::Discard { len: 100 * 4096 });
    let at_once = bench.visitor.lane.in_flight();
    assert!((1..=16).contains(&at_once), "{at_once}");
    assert_eq!(bench.all_answers(1), [(0, Ok(Vec::new()))]);
    let disk = std::fs::read(bench.folder.path().join("disk")).expect("the file");
    assert!((0..200).all(|block| disk[block * 4096] == if block < 200 && block % 2 == 0 { 0 } else { 7 }));
    bench.assert_silent();
}

#[test]
fn shutting_down_carries_out_what_is_held() {
    let mut bench = Bench::new(&[(0, SIZE)], slow());
    for block in 0..64u8 {
        bench.submit(u64::from(block) * 4096, bench.data(&[block; 4096]));
    }
    assert!(bench.engine.status().bands[0].groups[0].queued > 0, "some of them are held");
    let engine = Arc::new(std::mem::replace(&mut bench.engine, Bench::new(&[(0, SIZE)], None).engine));
    let wakers = [bench.visitor.lane.waker()];
    let ending = std::thread::spawn({
        let engine = engine.clone();
        move || engine.shut_down(&wakers)
    });
    let mut answers: Vec<_> = std::mem::take(&mut bench.answers);
    let start = bench.clock.now();
    while answers.len() < 64 {
        let waited: Duration = bench.clock.now().since(start).into();
        assert!(waited < PATIENCE, "{} of 64 are answered", answers.len());
        bench.visitor.wait(bench.clock);
        answers.extend(bench.visitor.visit(&engine, Vec::new()).into_iter().map(answered));
    }
    ending.join().expect("it ends with the last answer");
    answers.sort_by_key(|(unique, _)| *unique);
    let wanted: Vec<_> = (0..64).map(|unique| (unique, Ok(Vec::new()))).collect();
    assert_eq!(answers, wanted);
    let written = std::fs::read(bench.folder.path().join("disk")).expect("the file");
    assert!((0..64u8).all(|block| written[usize::from(block) * 4096..][..4096] == [block; 4096]));
}

#[test]
fn who_comes_after_the_end_is_told() {
    let mut bench = Bench::new(&[(0, SIZE)], None);
    bench.engine.shut_down(&[]);
    assert_eq!(bench.ask(0, read(1)), Err(libc::ESHUTDOWN));
    bench.engine.shut_down(&[]);
}

#[test]
fn an_image_of_another_disk_is_refused() {
    let mut bench = Bench::new(&[(0, SIZE)], None);
    let extents = vec![Extent { offset: Bytes(0), size: Bytes(SIZE) }];
    let other = Engine::new(
        1,
        EngineSettings {
            id: 2,
            settings: Settings::default(),
            unscheduled: false,
            simulate: None,
            budget: Arc::default(),
        },
        bench.clock,
    );
    let band = other.change().add_band(bench.band.clone());
    bench.image = Arc::new(Image::new("vm.img".into(), bench.target.clone(), band, extents));
    assert_eq!(bench.ask(0, read(1)), Err(libc::ENXIO));
    bench.assert_silent();
}

#[test]
fn many_threads_get_an_answer_each() {
    const THREADS: u64 = 4;
    const EACH: u64 = 500;
    for unscheduled in [false, true] {
        let mut bench = Bench::with(&[(0, SIZE)], None, unscheduled);
        let answers: Vec<AtomicU64> = (0..THREADS * EACH).map(|_| AtomicU64::new(0)).collect();
        let left = AtomicU64::new(THREADS * EACH);
        let (clock, engine, image) = (bench.clock, &bench.engine, &bench.image);
        let visitors: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (answers, left) = (&answers, &left);
                    scope.spawn(move || {
                        let mut visitor = Visitor::new();
                        let mut requests = (0..EACH).map(|i| {
                            let work = if i % 7 == 0 { Work::Flush } else { read(1 + i) };
                            let (identity, caller) = user(thread as u32);
                            let request =
                                Request { image: image.clone(), offset: i * 13, work, identity, caller };
                            (request, ticket(thread * EACH + i))
                        });
                        // Its own last request may be answered by another thread, and it may answer those of others.
                        while left.load(Ordering::Relaxed) > 0 {
                            let some = requests.by_ref().take(10).collect();
                            for (unique, answer) in visitor.visit(engine, some).into_iter().map(answered) {
                                answer.unwrap_or_else(|errno| panic!("{unique}: {errno}"));
                                answers[unique as usize].fetch_add(1, Ordering::Relaxed);
                                left.fetch_sub(1, Ordering::Relaxed);
                            }
                            assert!(
                                Duration::from(clock.now().since(Nanos(0))) < PATIENCE,
                                "{left:?} are left"
                            );
                            visitor.until = Some(clock.now().after(Nanos::from_millis(1)));
                            visitor.wait(clock);
                        }
                        visitor
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
        });
        assert!(answers.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        drop(visitors);
        bench.assert_silent();
        let status = &bench.engine.status().bands[0].groups[0];
        assert_eq!(status.queued, 0);
        let counted = status.counters.read.requests + status.counters.write.requests;
        // What is not scheduled is not counted either.
        assert_eq!(counted, if unscheduled { 0 } else { THREADS * EACH });
    }
}

#[test]
fn status_shows_settings_and_groups() {
    let bench = Bench::new(&[(0, SIZE)], None);
    let DiskStatus { id, settings, in_flight, queued, bands, .. } = bench.engine.status();
    assert_eq!((id, settings, in_flight, queued), (1, Settings::default(), 0, 0));
    assert_eq!((bands[0].name.as_str(), bands[0].sectors.0), ("ioband1", SIZE / 512));
    assert_eq!((bands[0].groups[0].id.clone(), bands[0].groups[0].weight.get()), (None, 100));
}
