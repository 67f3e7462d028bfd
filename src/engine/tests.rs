//! The engine on real files: every request is answered exactly once, whatever ends it.

use super::*;
use crate::classify::{GroupType, Identity};
use crate::clock::Clock;
use crate::config::Extent;
use crate::device::{BackendKind, OpenMode, Simulate, Target};
use crate::sched::{Limits, Policy, Settings};
use crate::units::{Bytes, Weight};
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const SIZE: u64 = 1 << 20;

/// What came back: the errno, or the bytes of a read.
type Answered = Result<Vec<u8>, i32>;

struct Tell(mpsc::Sender<Answered>);

impl Reply for Tell {
    fn send(self: Box<Self>, result: io::Result<Answer>) {
        let answer = match result {
            Ok(Answer::Data(pieces)) => Ok(pieces.iter().flat_map(|piece| piece.to_vec()).collect()),
            Ok(Answer::Done) => Ok(Vec::new()),
            Err(error) => Err(error.raw_os_error().unwrap_or(0)),
        };
        // A test that stopped listening has failed already.
        let _ = self.0.send(answer);
    }
}

/// A reply whose transport has a bug.
struct Explode;

impl Reply for Explode {
    fn send(self: Box<Self>, _: io::Result<Answer>) {
        panic!("as the test wants it");
    }
}

struct Bench {
    engine: Engine,
    image: Arc<Image>,
    answers: mpsc::Receiver<Answered>,
    tell: mpsc::Sender<Answered>,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// An engine on a new file of 1 MiB, with one image made of `extents` (offset, size).
    fn new(extents: &[(u64, u64)], simulate: Option<Simulate>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let target =
            Target::open(&folder.path().join("disk"), Some(Bytes(SIZE)), OpenMode { read_only: false });
        let band = BandSettings {
            name: "ioband1".into(),
            target: target.expect("a file"),
            group_type: GroupType::None,
            policy: Policy::Weight,
            weight: Weight::default(),
            limits: Limits::default(),
            groups: Vec::new(),
        };
        let settings = Settings::default();
        let settings =
            EngineSettings { id: 1, settings, simulate, backend: BackendKind::Auto, bands: vec![band] };
        let engine = Engine::start(settings, Clock::start()).expect("an engine");
        let extents = extents.iter().map(|&(o, s)| Extent { offset: Bytes(o), size: Bytes(s) }).collect();
        let (tell, answers) = mpsc::channel();
        Self {
            engine,
            image: Arc::new(Image::new("vm.img".into(), 0, extents)),
            answers,
            tell,
            _folder: folder,
        }
    }

    fn submit(&self, offset: u64, work: Work<'_>) {
        self.submit_for(Box::new(Tell(self.tell.clone())), offset, work);
    }

    fn submit_for(&self, reply: Box<dyn Reply>, offset: u64, work: Work<'_>) {
        let request = Request { image: self.image.clone(), offset, work, identity: Identity::from_ids(0, 0) };
        self.engine.submit(request, reply);
    }

    fn answer(&self) -> Answered {
        self.answers.recv_timeout(Duration::from_secs(30)).expect("every request is answered")
    }

    fn ask(&self, offset: u64, work: Work<'_>) -> Answered {
        self.submit(offset, work);
        self.answer()
    }

    /// No answer is left over: nothing was answered twice.
    fn assert_silent(&self) {
        assert!(self.answers.try_recv().is_err());
    }
}

fn slow() -> Option<Simulate> {
    Some(Simulate { iops: Some(200), bandwidth: None, parallel: 1 })
}

#[test]
fn bytes_come_back_over_the_borders_of_extents() {
    let bench = Bench::new(&[(512 << 10, 4096), (0, 1024), (256 << 10, 8192)], None);
    let data: Vec<u8> = (0..13312).map(|i| (i % 251) as u8).collect();
    assert_eq!(bench.ask(0, Work::Write(&data)), Ok(Vec::new()));
    assert_eq!(bench.ask(0, Work::Read { len: 13312 }), Ok(data.clone()));
    assert_eq!(bench.ask(4000, Work::Read { len: 2000 }), Ok(data[4000..6000].to_vec()));
    assert_eq!(bench.ask(4095, Work::Discard { len: 1026 }), Ok(Vec::new()));
    assert_eq!(bench.ask(4094, Work::Read { len: 2 }), Ok(vec![data[4094], 0]));
    assert_eq!(bench.ask(5120, Work::Read { len: 2 }), Ok(vec![0, data[5121]]));
    assert_eq!(bench.ask(0, Work::Flush), Ok(Vec::new()));
    bench.assert_silent();
}

#[test]
fn shutting_down_carries_out_what_is_held() {
    let bench = Bench::new(&[(0, SIZE)], slow());
    for block in 0..64u8 {
        bench.submit(u64::from(block) * 4096, Work::Write(&[block; 4096]));
    }
    assert!(bench.engine.status().1[0].groups[0].queued > 0, "some of them are held");
    bench.engine.shut_down();
    for _ in 0..64 {
        assert_eq!(bench.answer(), Ok(Vec::new()));
    }
    bench.assert_silent();
    let written = std::fs::read(bench._folder.path().join("disk")).expect("the file");
    assert!((0..64u8).all(|block| written[usize::from(block) * 4096..][..4096] == [block; 4096]));
}

#[test]
fn who_comes_after_the_end_is_told() {
    let bench = Bench::new(&[(0, SIZE)], None);
    bench.engine.shut_down();
    assert_eq!(bench.ask(0, Work::Read { len: 1 }), Err(libc::ESHUTDOWN));
    bench.engine.shut_down();
}

#[test]
fn many_threads_get_an_answer_each() {
    let bench = Bench::new(&[(0, SIZE)], None);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let bench = &bench;
            let (engine, image, tell) = (&bench.engine, &bench.image, bench.tell.clone());
            scope.spawn(move || {
                for i in 0..500 {
                    let work = if i % 7 == 0 { Work::Flush } else { Work::Read { len: 1 + i } };
                    let identity = Identity::from_ids(thread as u32, 0);
                    let request = Request { image: image.clone(), offset: i * 13, work, identity };
                    engine.submit(request, Box::new(Tell(tell.clone())));
                }
            });
        }
    });
    for _ in 0..2000 {
        assert!(bench.answer().is_ok());
    }
    bench.assert_silent();
    let status = &bench.engine.status().1[0].groups[0];
    assert_eq!(status.counters.read.requests + status.counters.write.requests, 2000);
    assert_eq!(status.queued, 0);
}

#[test]
fn a_panic_in_the_thread_leaves_nobody_waiting() {
    let bench = Bench::new(&[(0, SIZE)], slow());
    bench.submit_for(Box::new(Explode), 0, Work::Flush);
    for _ in 0..20 {
        bench.submit(0, Work::Read { len: 512 });
    }
    // The first may have come back before the explosion, the others are answered because of it.
    let answers: Vec<_> = (0..20).map(|_| bench.answer()).collect();
    assert!(answers.contains(&Err(libc::EIO)), "{answers:?}");
    bench.assert_silent();
    assert_eq!(bench.ask(0, Work::Read { len: 512 }), Err(libc::EIO));
    // And it can still be ended.
    bench.engine.shut_down();
}

#[test]
fn status_shows_settings_and_groups() {
    let bench = Bench::new(&[(0, SIZE)], None);
    let (settings, bands) = bench.engine.status();
    assert_eq!(settings, Settings::default());
    assert_eq!((bands[0].name.as_str(), bands[0].sectors.0), ("ioband1", SIZE / 512));
    assert_eq!((bands[0].groups[0].id.clone(), bands[0].groups[0].weight.get()), (None, 100));
}
