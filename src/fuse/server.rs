//! Serves a mount: chooses the transport, and starts the threads.
//!
//! Start, in this order, because there is no way back once the kernel was told how requests are to come: the kernel's offer
//! is read, the threads make their lanes, fuser answers the kernel, the threads begin.

use super::dev::{Dev, State};
use super::face::Face;
use super::handover::{self, Departure, Filler, Handover};
use super::inbox::{Inbox, Mail};
use super::metadata::Metadata;
use super::mount::MountedAt;
use super::relay::{Init, MESSAGE, Relay, Route};
use super::rings::{Queues, Rings};
use super::slots::{Found, Pool, Slot, Slots, Where};
use super::sys;
use super::takeover;
use super::worker::{Source, Worker};
use crate::clock::Clock;
use crate::control::{Processes, Service};
use crate::device::{BackendKind, Lane, Waker};
use crate::engine::{Budget, Engines};
use fuser::SessionACL;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

/// Threads that read /dev/fuse, at most: they share the cores with the callers.
const MOST_READERS: usize = 8;
/// Operations that are usually in flight on a lane.
const USUAL: u32 = 4096;
/// Requests that the kernel sends by /dev/fuse although there are rings: it waits for no answer to them.
pub(super) const BESIDE_RINGS: u32 = 4;
/// The largest request that the kernel can be made to send (sysctl fs.fuse.max_pages_limit) and that is taken.
const LARGEST: usize = 16 << 20;

/// How requests come from the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransportKind {
    /// In the way in which the mount outlives whoever serves it, which is by /dev/fuse.
    #[default]
    Auto,
    /// /dev/fuse, read by our own threads.
    Dev,
    /// FUSE over io_uring.
    Uring,
}

/// How a mount is to be served.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// How requests are to come.
    pub transport: TransportKind,
    /// How devices are talked to.
    pub backend: BackendKind,
    /// Requests that can be accepted and not answered: in all by /dev/fuse, on each processor by io_uring. At least 1.
    pub slots: u32,
    /// Bytes of memory for the data of requests that are not answered. At least [`LEAST_MEMORY`].
    pub memory: usize,
    /// Of these, bytes that are kept for the next requests. At most a quarter of them is.
    pub keep: usize,
}

/// A connection to the kernel.
#[derive(Debug)]
pub struct Connection {
    /// Its descriptors: the one that was mounted, and others of the same connection.
    pub descriptors: Vec<OwnedFd>,
    /// Who may use the mount.
    pub acl: SessionACL,
    /// The kernel's first request, if a predecessor has read it. What that left unanswered is asked for again.
    pub init: Option<Vec<u8>>,
    /// Where it is mounted.
    pub place: MountedAt,
    /// What a predecessor gave to [`Hold::hold_memory`].
    pub memory: Option<OwnedFd>,
    /// The largest request that a predecessor has agreed on with the kernel, in bytes of data; 0 if there was none.
    pub largest: usize,
}

/// Somebody who holds descriptors, so that what was read from them is not lost with whoever read it.
pub trait Hold {
    /// Holds this one, too.
    ///
    /// # Errors
    /// It is not held.
    fn hold(&self, descriptor: BorrowedFd<'_>) -> io::Result<()>;

    /// Holds the memory that requests lie in, for a successor that is to go on with them.
    ///
    /// # Errors
    /// It is not held.
    fn hold_memory(&self, memory: BorrowedFd<'_>) -> io::Result<()>;

    /// Answers the kernel's first request. The kernel looks at who does: from root's process it takes whatever number of
    /// requests under way it is told, and from all others no more than it thinks right for a normal user (FUSE's
    /// max_background), and whoever serves is not root any more in its eyes.
    ///
    /// # Errors
    /// The kernel does not take it.
    fn answer_first(&self, answer: &[u8]) -> io::Result<()>;
}

/// With less memory for requests than this, there is not enough for a few of the largest that are usual (1 MiB).
pub const LEAST_MEMORY: u64 = 16 << 20;

impl ServeOptions {
    /// What the requests may take of memory. Each thread that reads may be about to take in one of the largest when there is
    /// no more.
    pub fn budget(&self) -> Budget {
        let coming = readers() * largest_request();
        Budget::new(self.memory.saturating_sub(coming).max(self.memory / 2))
    }
}

/// Why a mount cannot be served.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the sentences say it")]
pub enum ServeError {
    #[error("the transport uring cannot be had: {0}")]
    NoUring(String),
    #[error("cannot set up input and output: {0}")]
    Lane(#[source] io::Error),
    #[error("cannot reserve room for {count} requests of {room} bytes: {source}; ask for fewer with --slots")]
    Slots { count: u32, room: usize, source: io::Error },
    #[error("the kernel and ioband do not agree on a FUSE protocol: {0}")]
    Protocol(#[source] io::Error),
    #[error("what a predecessor has left unanswered cannot be had again: {0}")]
    Resend(#[source] io::Error),
    #[error("what was in the rings of a predecessor cannot be had: {0}")]
    Rings(#[source] io::Error),
    #[error("the kernel refuses the ring entries: {0}")]
    Refused(#[source] io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// A mount at work.
#[derive(Debug)]
pub struct Server {
    /// How it was when it began.
    service: Service,
    pub(super) wakers: Vec<Waker>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pub(super) shared: Arc<Shared>,
    init: Vec<u8>,
    pub(super) survives: bool,
    pub(super) place: MountedAt,
    /// Where there are rings, and where their slots are.
    pub(super) rings: Option<(Arc<Queues>, Where)>,
    /// For who is about to leave.
    pub(super) filler: Mutex<Option<Filler>>,
}

/// What all threads have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) face: Arc<Face>,
    pub(super) engines: Arc<Engines>,
    pub(super) clock: Clock,
    pub(super) slots: &'static Slots,
    /// Those that /dev/fuse is read into.
    pub(super) pool: Pool,
    /// Descriptors of the connection, one for each thread; the first one is the one that was mounted.
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) relay: Relay,
    /// One for each thread.
    pub(super) inboxes: Vec<Inbox>,
    /// So many threads read /dev/fuse, where there are no rings.
    pub(super) readers: AtomicUsize,
    /// The engines are being ended: visit them.
    pub(super) closing: AtomicBool,
    /// Nothing more is to be read, or looked at: that is a successor's.
    pub(super) leaving: AtomicBool,
    pub(super) departure: Departure,
    /// They have ended.
    pub(super) stopping: AtomicBool,
    pub(super) served: Vec<Served>,
    /// Told once that the connection has ended.
    pub(super) ended: Mutex<Option<mpsc::Sender<io::Result<()>>>>,
}

/// Requests for bytes of images that one thread has accepted, by the way they came.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Served {
    pub(super) by_uring: AtomicU64,
    pub(super) by_dev: AtomicU64,
}

impl Shared {
    /// The connection has ended, or cannot be served any more.
    pub(super) fn end(&self, how: io::Result<()>) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            // Who does not listen any more knows.
            let _ = ended.send(how);
        }
    }
}

/// What a thread is told when it may begin.
struct Go {
    shared: Arc<Shared>,
    queues: Option<Arc<Queues>>,
    /// Slots to give to the rings, with what was found in them.
    entries: Entries,
}

/// A thread that has a lane and waits for the word.
struct Waiting {
    waker: Waker,
    go: mpsc::Sender<Go>,
    begun: mpsc::Receiver<io::Result<()>>,
    backend: &'static str,
    handle: JoinHandle<()>,
}

impl Server {
    /// Starts to serve. `ended` is told when the connection to the kernel has ended.
    ///
    /// # Errors
    /// [`ServeError`]
    pub fn start(
        face: Arc<Face>,
        engines: Arc<Engines>,
        connection: Connection,
        holder: &dyn Hold,
        options: ServeOptions,
        clock: Clock,
        ended: mpsc::Sender<io::Result<()>>,
    ) -> Result<Self, ServeError> {
        let Connection { descriptors, acl, init, place, memory, largest } = connection;
        let first = descriptors.first().map(AsFd::as_fd).ok_or(io::ErrorKind::NotConnected);
        let first = first.map_err(|kind| ServeError::Protocol(kind.into()))?;
        let succeeds = init.is_some();
        let init = init.map_or_else(|| Init::read(first), Init::saved).map_err(ServeError::Protocol)?;
        let ledger = face.control.journal().ledger().clone();
        let left = if succeeds { Handover::read(&ledger).map_err(ServeError::Rings)? } else { None };
        let (queues, threads, why) = choose(&init, &options, succeeds, left.as_ref())?;
        let budget = engines.budget().clone();
        let wanted = self::room(largest);
        let (slots, held_in) =
            handover::slots(queues.as_ref(), left.as_ref(), memory, wanted, holder, &options, &budget)?;
        let room = slots.room();
        // Sizes are in 32 bits in the protocol, and far below that.
        let metadata = Metadata { face: face.clone(), largest: room as u32, over_io_uring: queues.is_some() };
        let holder_of_new = if succeeds { None } else { Some(holder) };
        let relay = Relay::start(holder_of_new, &init, metadata, acl).map_err(ServeError::Protocol)?;
        let number = if queues.is_some() { 1 } else { threads.len() };
        let descriptors = self::descriptors(descriptors, number, holder).map_err(ServeError::Protocol)?;
        if succeeds {
            face.absence.go_on();
            // Before anything is read: what waited longest comes first.
            takeover::resend(&descriptors[0]).map_err(ServeError::Resend)?;
            takeover::wake(&descriptors[0], &face.inherited_waiting());
        }
        // What comes beside the rings stands behind them.
        let mut entries: Vec<_> = slots.all().collect();
        let beside = entries.split_off(queues.as_ref().map_or(0, |queues| queues.slots() as usize));
        let pool = Pool::new(beside, slots);
        let found = left.map_or(Vec::new(), |left| left.slots).into_iter().map(|(found, _)| found);
        let entries = entries.into_iter().zip(found.chain(std::iter::repeat(Found::Nothing))).collect();
        let shared = Arc::new(Shared {
            face,
            engines,
            clock,
            slots,
            pool,
            descriptors,
            relay,
            inboxes: threads.iter().map(|thread| Inbox::new(thread.waker.clone())).collect(),
            readers: AtomicUsize::new(1),
            closing: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            departure: Departure::default(),
            stopping: AtomicBool::new(false),
            served: threads.iter().map(|_| Served::default()).collect(),
            ended: Mutex::new(Some(ended)),
        });
        let service = Service {
            transport: if queues.is_some() { "uring" } else { "dev" },
            why,
            threads: threads.len(),
            backend: threads.first().map_or("none", |thread| thread.backend),
            by_uring: 0,
            by_dev: 0,
            processes: Processes::default(),
            // Whoever starts the process knows.
            sandbox: Default::default(),
        };
        // What is in a ring is not sent again.
        let survives = queues.is_none() && init.offers_resend();
        let queues = queues.map(Arc::new);
        if queues.is_some() {
            Handover::taken(&ledger).map_err(ServeError::Rings)?;
        }
        begin(&threads, &shared, queues.clone().map(|queues| (queues, entries)))?;
        carry_answers(shared.clone()).map_err(ServeError::Thread)?;
        let (wakers, threads) = threads.into_iter().map(|thread| (thread.waker, thread.handle)).unzip();
        Ok(Self {
            service,
            wakers,
            threads: Mutex::new(threads),
            shared,
            survives,
            init: init.into_message(),
            place,
            rings: queues.zip(held_in),
            filler: Mutex::new(None),
        })
    }

    /// The kernel's first request, for a successor.
    pub fn init(&self) -> &[u8] {
        &self.init
    }

    /// The largest request that was agreed on with the kernel, in bytes of data, for a successor.
    pub fn largest(&self) -> usize {
        self.shared.slots.room()
    }

    /// How it is served.
    pub fn service(&self) -> Service {
        let sum = |count: fn(&Served) -> &AtomicU64| {
            self.shared.served.iter().map(|served| count(served).load(Ordering::Relaxed)).sum()
        };
        let (by_uring, by_dev) = (sum(|served| &served.by_uring), sum(|served| &served.by_dev));
        Service { by_uring, by_dev, ..self.service.clone() }
    }

    /// Whether a successor could go on if this process died at any moment.
    pub fn survives(&self) -> bool {
        self.survives
    }

    /// Engines were changed: they want a visit.
    pub fn engines_changed(&self) {
        self.wakers.iter().for_each(Waker::wake);
    }

    /// Carries out and answers everything that was accepted, and ends the threads. What comes meanwhile is refused.
    pub fn finish(&self) {
        self.shared.closing.store(true, Ordering::Release);
        for engine in self.shared.engines.load().iter() {
            engine.shut_down(&self.wakers);
        }
        self.end_threads();
    }

    /// Has the threads end without waiting for that.
    pub(super) fn stop_threads(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.wakers.iter().for_each(Waker::wake);
    }

    pub(super) fn end_threads(&self) {
        // Each closes its ring by itself. Left to the end of the process, the kernel would do that some time after it, and
        // would keep the devices for so long.
        self.stop_threads();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // That it panicked was told when it did.
            let _ = thread.join();
        }
    }
}

/// Threads that read /dev/fuse.
fn readers() -> usize {
    thread::available_parallelism().map_or(2, |n| n.get().clamp(2, MOST_READERS))
}

/// The queues of the rings if it is to be io_uring, the threads, and if it is not, why.
type Choice = (Option<Queues>, Vec<Waiting>, Option<String>);

fn choose(
    init: &Init,
    options: &ServeOptions,
    succeeds: bool,
    left: Option<&Handover>,
) -> Result<Choice, ServeError> {
    let by_dev = |why| {
        let backend = options.backend;
        let threads = spawn(readers(), move || Lane::new(backend, USUAL)).map_err(ServeError::Lane)?;
        Ok((None, threads, why))
    };
    match options.transport {
        // The kernel was told how requests come, once and for all.
        _ if left.is_some() => {}
        TransportKind::Dev => return by_dev(None),
        // What was read and not answered is sent again to a successor, what is in rings is not.
        TransportKind::Auto if init.offers_io_uring() && options.backend != BackendKind::Threads => {
            let why = "a mount served by it ends with a process that dies; if speed is worth that, mount with --transport uring";
            return by_dev(Some(why.to_owned()));
        }
        TransportKind::Auto => return by_dev(None),
        TransportKind::Uring if succeeds => {
            let lost = "it has not left them as it should, and the kernel sends nothing of them again";
            return Err(ServeError::Rings(io::Error::other(lost)));
        }
        TransportKind::Uring => {}
    }
    let why_not = match options.backend {
        BackendKind::Threads => Some(
            "devices are served by threads (--backend threads), and it shares a ring with them".to_owned(),
        ),
        _ => (!init.offers_io_uring()).then(why_not_offered),
    };
    if let Some(why) = why_not {
        return Err(ServeError::NoUring(why));
    }
    let queues = left.map_or_else(
        || Queues::of_this_machine(options.slots),
        |left| Queues::new(left.queues.clone(), left.threads),
    );
    let count = queues.threads();
    let entries = queues.slots() / count as u32 + BESIDE_RINGS;
    match spawn(count, move || Lane::with_commands(USUAL, entries)) {
        Ok(threads) => Ok((Some(queues), threads, None)),
        Err(error) => Err(ServeError::NoUring(format!("no ring can be made: {error}"))),
    }
}

/// Why the kernel does not offer FUSE over io_uring, and what would change that.
fn why_not_offered() -> String {
    const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
    match std::fs::read_to_string(SWITCH) {
        Ok(value) if value.trim() == "N" => {
            format!("it is switched off in the kernel; `echo Y > {SWITCH}` as root, then mount again")
        }
        Ok(_) => "it was switched on after this mount was made; mount again".to_owned(),
        Err(_) => "this kernel has no FUSE over io_uring (that takes Linux 6.14)".to_owned(),
    }
}

/// Room for each request of a connection to which `agreed` is the largest, or for the largest of a new one (0). The kernel
/// wants as much room as was agreed on, whatever the setting is by now.
pub(super) fn room(agreed: usize) -> usize {
    largest_request().max(agreed)
}

/// The largest request that the kernel will send by a new connection.
fn largest_request() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit");
    // Before it was a setting it was this number.
    let pages = limit.ok().and_then(|limit| limit.trim().parse().ok()).unwrap_or(256_usize);
    pages.saturating_mul(sys::PAGE).clamp(1 << 20, LARGEST)
}

/// Starts threads that make a lane each, and wait.
fn spawn(
    count: usize,
    lane: impl Fn() -> io::Result<Lane> + Clone + Send + 'static,
) -> io::Result<Vec<Waiting>> {
    (0..count)
        .map(|number| {
            let (made, lane_made) = mpsc::channel();
            let (go, told) = mpsc::channel::<Go>();
            let (began, begun) = mpsc::channel();
            let lane = lane.clone();
            let handle = thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
                // A ring belongs to the thread that makes it.
                let lane = match lane() {
                    Ok(lane) => lane,
                    Err(error) => return drop(made.send(Err(error))),
                };
                let _ = made.send(Ok((lane.waker(), lane.name())));
                // Without a word the start has failed elsewhere.
                if let Ok(go) = told.recv() {
                    serve(number, lane, go, &began);
                }
            })?;
            let (waker, backend) = lane_made.recv().map_err(io::Error::other)??;
            Ok(Waiting { waker, go, begun, backend, handle })
        })
        .collect()
}

/// A thread's work, from the word to the end of the process.
fn serve(number: usize, lane: Lane, go: Go, began: &mpsc::Sender<io::Result<()>>) {
    let Go { shared, queues, entries } = go;
    let (descriptor, rings, state) = match queues {
        // Besides the rings there is one reader.
        Some(queues) if number == 0 => (0, Some(Rings::new(queues, entries)), State::Ready),
        Some(queues) => (0, Some(Rings::new(queues, entries)), State::Ended),
        None => (number, None, State::Ready),
    };
    let source = Source { dev: Dev::new(descriptor, state), rings };
    let _last_resort = LastResort(&shared);
    let mut worker = Worker::new(number, &shared, lane, source);
    let started = worker.begin();
    let failed = started.is_err();
    // Who started it waits for this.
    let _ = began.send(started);
    if !failed && let Err(error) = worker.serve() {
        tracing::error!(%error, "cannot wait for the kernel any more");
        shared.end(Err(error));
    }
}

/// A thread that panics takes its requests with it. So the daemon ends, and the kernel gives every caller an error, rather
/// than that some wait for ever.
struct LastResort<'a>(&'a Shared);

impl Drop for LastResort<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end(Err(io::Error::other("a thread that served has panicked")));
        }
    }
}

/// Slots for the rings, and what was found in them.
type Entries = Vec<(Slot, Found)>;

fn begin(
    threads: &[Waiting],
    shared: &Arc<Shared>,
    queues: Option<(Arc<Queues>, Entries)>,
) -> Result<(), ServeError> {
    let (queues, mut entries) = queues.map_or((None, Vec::new()), |(queues, slots)| (Some(queues), slots));
    for (number, thread) in threads.iter().enumerate() {
        let rest = match &queues {
            Some(queues) => entries.split_off(queues.slots_of(number) as usize),
            None => Vec::new(),
        };
        let entries = std::mem::replace(&mut entries, rest);
        // It ends only after this.
        let _ = thread.go.send(Go { shared: shared.clone(), queues: queues.clone(), entries });
    }
    for thread in threads {
        let begun = thread.begun.recv().unwrap_or_else(|_| Err(io::Error::other("its thread has ended")));
        begun.map_err(ServeError::Refused)?;
    }
    Ok(())
}

/// The descriptors to read from. Several for one connection spare the readers a lock in the kernel; but whoever may not open
/// /dev/fuse does with one.
///
/// What was read from one that is closed is lost, so somebody else holds them as well.
fn descriptors(mut descriptors: Vec<OwnedFd>, count: usize, holder: &dyn Hold) -> io::Result<Vec<OwnedFd>> {
    while descriptors.len() < count {
        let clone = OpenOptions::new().read(true).write(true).open("/dev/fuse").map(OwnedFd::from);
        match clone.and_then(|fresh| {
            sys::clone_connection(fresh.as_fd(), descriptors[0].as_fd())?;
            holder.hold(fresh.as_fd())?;
            Ok(fresh)
        }) {
            Ok(fresh) => descriptors.push(fresh),
            Err(error) => {
                tracing::debug!(%error, "the threads share one descriptor");
                descriptors.push(descriptors[0].try_clone()?);
            }
        }
    }
    for descriptor in &descriptors {
        // Whoever reads has other things to do as well.
        let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL)?);
        fcntl(descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(descriptors)
}

/// A thread that carries fuser's answers to where they belong.
fn carry_answers(shared: Arc<Shared>) -> io::Result<()> {
    thread::Builder::new().name("relay".into()).spawn(move || {
        super::relay::step_back();
        let mut buffer = vec![0; MESSAGE];
        loop {
            let (len, route) = match shared.relay.answer(&mut buffer) {
                Ok(answer) => answer,
                Err(error) => {
                    return shared.end(Err(io::Error::other(format!("fuser has ended: {error}"))));
                }
            };
            let message = &buffer[..len];
            match route {
                Some((Route::Thread(number), unique)) => {
                    shared.inboxes[number].put(Mail::Forwarded(unique, message.to_vec()));
                }
                Some((Route::Descriptor(number), _)) => {
                    super::dev::write(&shared.descriptors[number], message);
                }
                None => super::dev::write(&shared.descriptors[0], message),
            }
        }
    })?;
    Ok(())
}
