//! What the keeper does.

use super::kept::Facts;
use super::link::{Begin, Link, ToKeeper, ToWorker, Upgrade};
use super::patience::{Next, Patience, REST};
use super::program::{Program, Worker};
use super::systemd::{self, Manager};
use crate::classify::Ending;
use crate::clock::{self, Clock};
use crate::fuse::{Mounted, MountedAt, Refusing, default_acl};
use crate::ledger::Ledger;
use crate::units::Nanos;
use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

/// A successor that was told to wait has so long to say whether it could serve.
const FITNESS: Duration = Duration::from_secs(5);
/// And a predecessor so long to leave, if the next one can do without what it leaves.
const LEAVE: Duration = Duration::from_secs(5);
/// If it cannot, the mount ends with one that takes longer.
const LEAVE_IN_ORDER: Duration = Duration::from_secs(30);

/// A worker that follows another one has so long until it serves: more than devices take that are merely slow.
const START: Duration = Duration::from_secs(60);

/// A dead worker that has not ended after so long waits for something; and so often it is given as long again.
const LAST_BREATH: Duration = Duration::from_millis(200);
const BREATHS: u32 = 5;
/// Descriptors of a connection that are kept, at most: more than there are threads that read.
const MOST_CONNECTIONS: usize = 24;

/// Requests that were refused and may have opened files are remembered, at most: as many as fit into what a worker is told first.
const MOST_REFUSED: usize = 256;

/// What a mount is kept with.
pub struct Keeping<R> {
    /// Arguments that make this program a worker.
    pub arguments: Vec<OsString>,
    /// Called once, when the mount answers for the first time: where it is, and what it is.
    pub ready: R,
}

/// Keeps a mount until it is unmounted, or a signal ends it. The exit code is that of the first worker if it could not start.
///
/// # Errors
/// What the keeper itself needs cannot be had, or nobody can serve the mount any more; nothing is left mounted then.
pub fn keep<R>(keeping: Keeping<R>) -> anyhow::Result<ExitCode>
where
    R: FnOnce(&Path, &str) -> anyhow::Result<()>,
{
    let (signals, wake) = UnixStream::pair().context("cannot handle signals")?;
    signals.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, wake.try_clone()?).context("cannot handle signals")?;
    }
    let program = std::env::current_exe().and_then(|path| Program::open(&path));
    let (ledger, mount) =
        match systemd::left_behind().context("what the service manager kept cannot be used")? {
            Some((ledger, mount)) => (ledger, Some(mount)),
            None => (Ledger::new().context("cannot make the ledger")?, None),
        };
    let program = program.context("cannot open my own program file")?;
    let mut keeper = Keeper::new(keeping.arguments, Some(keeping.ready), signals, program, ledger, mount);
    let end = keeper.run();
    keeper.put_away();
    end
}

struct Keeper<R> {
    arguments: Vec<OsString>,
    manager: Manager,
    signals: UnixStream,
    clock: Clock,
    /// What the next worker is started from.
    program: Program,
    /// What served before an upgrade that has still to prove itself.
    tried: Option<Program>,
    ledger: Ledger,
    mount: Option<Mount>,
    /// Another worker can go on where one has died.
    survives: bool,
    /// The mount has answered once.
    answered: bool,
    /// Dead workers that are held up by a device.
    stragglers: Vec<Worker>,
    /// Workers that have ended.
    before: u32,
    /// Since when there is this worker, and since when it serves.
    began: Nanos,
    serves: Option<Nanos>,
    patience: Patience,
    /// What the next worker has to know of what was refused since the last one served, see [`Begin::refused`].
    refused: Vec<u64>,
    /// The last one that was tried.
    upgrade: Option<Upgrade>,
    ready: Option<R>,
    /// A signal has ended the mount.
    stopping: bool,
}

/// What is kept.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) place: MountedAt,
    /// Its folder was not there before.
    pub(super) made: bool,
    /// Every descriptor of the connection that is in use: what was read from one that is closed is lost.
    pub(super) descriptors: Vec<OwnedFd>,
    /// What requests lie in, if a successor may go on with them there.
    pub(super) memory: Option<OwnedFd>,
}

impl<R> Keeper<R>
where
    R: FnOnce(&Path, &str) -> anyhow::Result<()>,
{
    /// One without a worker; with a mount if one is left from before.
    fn new(
        arguments: Vec<OsString>,
        ready: Option<R>,
        signals: UnixStream,
        program: Program,
        ledger: Ledger,
        mount: Option<Mount>,
    ) -> Self {
        Self {
            arguments,
            manager: Manager::of_environment(),
            signals,
            clock: Clock::start(),
            program,
            tried: None,
            ledger,
            survives: mount.is_some(),
            answered: mount.is_some(),
            mount,
            stragglers: Vec::new(),
            before: 0,
            began: Nanos(0),
            serves: None,
            patience: Patience::default(),
            refused: Vec::new(),
            upgrade: None,
            ready,
            stopping: false,
        }
    }

    fn run(&mut self) -> anyhow::Result<ExitCode> {
        let begin = self.begin("was left by a keeper that has ended".into());
        let mut worker = self.start(&self.program, &begin).context("cannot start a worker")?;
        loop {
            let watched = [self.signals.as_fd(), worker.link.as_fd(), worker.death()];
            let left = self.left_to_start();
            let [signal, said, ended] = until_readable(watched, left);
            let late = left == Some(Duration::ZERO);
            if signal {
                self.stop(Some(&worker.link));
            } else if said && let Some((said, descriptors)) = hear(&mut worker) {
                worker = self.serve(worker, said, descriptors)?;
            } else if ended || late {
                if late && !ended {
                    tracing::error!("a worker does not serve after {START:?}, and is ended");
                    worker.kill();
                    if self.tried.is_none() {
                        self.patience.spend();
                    }
                }
                let status = self.let_go(worker)?;
                worker = match self.follow(status)? {
                    Ok(next) => next,
                    Err(code) => return Ok(code),
                };
            }
        }
    }

    /// How long the worker may still take to serve: the first one as long as the mount that it makes, which somebody waits for
    /// who can end it.
    fn left_to_start(&self) -> Option<Duration> {
        let starts = self.answered && self.serves.is_none() && !self.stopping;
        starts.then(|| self.began.after(Nanos::from(START)).since(self.clock.now()).into())
    }

    /// Does what a worker asks for. Who serves then is mostly the same one.
    fn serve(
        &mut self,
        mut worker: Worker,
        said: ToKeeper,
        mut descriptors: Vec<OwnedFd>,
    ) -> anyhow::Result<Worker> {
        match said {
            // Once, and before callers could have any influence on who asks for it.
            ToKeeper::Mount { mountpoint } if self.mount.is_none() => self.mount(&worker.link, &mountpoint),
            ToKeeper::First { answer } if !self.answered => self.answer_first(&worker.link, &answer),
            ToKeeper::Mount { .. } | ToKeeper::First { .. } => {
                tracing::error!("a worker asks for what it has, and gets nothing");
            }
            ToKeeper::Keep => {
                let mount = self.mount.as_mut().filter(|mount| mount.descriptors.len() < MOST_CONNECTIONS);
                if let Some(mount) = mount {
                    mount.descriptors.append(&mut descriptors);
                }
            }
            ToKeeper::KeepMemory => {
                if let Some(mount) = &mut self.mount {
                    mount.memory = descriptors.pop();
                }
            }
            ToKeeper::Watch => worker.sentinel = descriptors.pop(),
            ToKeeper::Look { thread } => look(&worker.link, thread),
            ToKeeper::Ready { summary, survives } => self.is_served(&summary, survives),
            ToKeeper::Upgrade { program, unique } => return self.upgrade(worker, &program, unique),
            // Only who waits is asked.
            ToKeeper::Fit | ToKeeper::Unfit { .. } | ToKeeper::Stays { .. } => {}
        }
        Ok(worker)
    }

    fn mount(&mut self, link: &Link, mountpoint: &Path) {
        let answer = match Mounted::new(mountpoint, default_acl()) {
            Ok(Mounted { place, made, connection, .. }) => {
                let mount =
                    self.mount.insert(Mount { place, made, descriptors: vec![connection], memory: None });
                let mounted = ToWorker::Mounted { place: mount.place.clone() };
                link.say_with(&mounted, &[mount.descriptors[0].as_fd()])
            }
            Err(error) => link.say(&ToWorker::NotMounted { why: error.to_string() }),
        };
        note("cannot answer the worker", answer);
    }

    /// What a worker has worked out is told to the kernel by us, who have kept our capabilities.
    fn answer_first(&self, link: &Link, answer: &[u8]) {
        let connection = self.mount.as_ref().and_then(|mount| mount.descriptors.first());
        let given = connection.map_or(Err(Errno::ENOTCONN), |it| nix::unistd::write(it, answer).map(drop));
        let answered = ToWorker::Answered { errno: given.err().map(|errno| errno as i32) };
        note("cannot answer the worker", link.say(&answered));
    }

    /// The mount answers.
    fn is_served(&mut self, summary: &str, survives: bool) {
        self.serves = Some(self.clock.now());
        (self.survives, self.answered, self.tried) = (survives, true, None);
        self.refused.clear();
        let Some(Mount { place, descriptors, .. }) = &self.mount else { return };
        if let Some(ready) = self.ready.take() {
            // Callers may have it open by now, whoever it was that asked for the mount.
            note("nobody can be told that the mount answers", ready(&place.mountpoint, summary));
        }
        let kept = if survives { Some((&self.ledger, &**descriptors)) } else { None };
        note("the service manager cannot be told", self.manager.ready(&place.mountpoint, kept));
    }

    /// How the next worker begins.
    fn begin(&self, ended: String) -> Begin {
        Begin {
            keeper: std::process::id(),
            before: self.before,
            deaths: self.patience.deaths(),
            inherits: self.mount.is_some(),
            memory: self.mount.as_ref().is_some_and(|mount| mount.memory.is_some()),
            waits: false,
            ended,
            since: clock::wall_micros(),
            refused: self.refused.clone(),
            upgrade: self.upgrade.clone(),
        }
    }

    fn start(&self, program: &Program, begin: &Begin) -> io::Result<Worker> {
        let mut worker = program.start(&self.arguments)?;
        let mut descriptors = vec![self.ledger.descriptor()];
        if let Some(mount) = &self.mount {
            descriptors.extend(mount.memory.iter().chain(&mount.descriptors).map(AsFd::as_fd));
        }
        if worker.link.say_with(&ToWorker::Begin(begin.clone()), &descriptors).is_err() {
            worker.kill();
            let status = worker.end()?;
            return Err(io::Error::other(format!("it {} before it heard anything", words(status))));
        }
        Ok(worker)
    }

    /// Waits until a dead worker has ended. Its threads may be about to look at something in the mount, and wait for an answer
    /// that nobody can give but whoever serves next: they get an error. If it is a device that they wait for, the next one does
    /// not wait for them: it holds what comes for that device until the dead one has let go of it. None then.
    fn let_go(&mut self, mut worker: Worker) -> anyhow::Result<Option<ExitStatus>> {
        self.stragglers.retain_mut(|straggler| !straggler.has_ended());
        let [mut ended] = until_readable([worker.process.as_fd()], Some(LAST_BREATH));
        if let Some(connection) = self.mount.as_ref().and_then(|mount| mount.descriptors.first())
            && !ended
            && self.survives
        {
            tracing::warn!("a dead worker waits for something");
            let mut refusing = refusing(&self.ledger, connection);
            for _ in 0..BREATHS {
                let own = |thread| worker.has(thread);
                note("cannot refuse what a dead worker asks", refusing.refuse(connection, own));
                [ended] = until_readable([worker.process.as_fd()], Some(LAST_BREATH));
                if ended {
                    break;
                }
            }
            remember(&mut self.refused, refusing.opened());
        } else if let Some(mount) = self.mount.as_ref().filter(|_| !ended) {
            // What is in its rings cannot be refused one by one.
            note("could not unmount", mount.place.abort());
        }
        worker.kill();
        if ended {
            return worker.end().map(Some).context("cannot wait for a worker");
        }
        self.stragglers.push(worker);
        Ok(None)
    }

    /// A worker has ended: another one, or what the program ends with.
    fn follow(&mut self, status: Option<ExitStatus>) -> anyhow::Result<Result<Worker, ExitCode>> {
        let lived = self.served();
        if self.stopping {
            return Ok(Err(ExitCode::SUCCESS));
        }
        if !self.answered {
            // It has said what is wrong.
            let code = status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
            return Ok(Err(code.map_or(ExitCode::FAILURE, ExitCode::from)));
        }
        // How it has ended says nothing: any program ends well at times, and one that a device holds up has not ended.
        let gone = self.is_gone();
        if let Ok(true) = gone {
            return Ok(Err(ExitCode::SUCCESS));
        }
        self.before += 1;
        let ended = status.map_or_else(|| "has died, and is held up by a device".to_owned(), words);
        // A program that was tried may not have touched them.
        if !self.survives && self.tried.is_none() {
            if let Some(mount) = &self.mount {
                note("could not unmount", mount.place.abort());
            }
            anyhow::bail!(
                "the worker {ended}, and what was in its rings cannot be had again: the mount has ended"
            );
        }
        // Nobody could serve it.
        gone?;
        let was_tried = self.tried.is_some();
        if let Some(tried) = self.tried.take() {
            self.program = tried;
            let failed = format!("the new program {ended} before it served; the old one goes on");
            tracing::error!("{failed}");
            self.upgrade = self.upgrade.take().map(|upgrade| Upgrade { failed: Some(failed), ..upgrade });
        }
        let mut begin = self.begin(ended);
        // That a program that was tried has died says nothing of the one that goes on, whose callers wait.
        let mut next = if was_tried { Next::Start(Duration::ZERO) } else { self.patience.after(lived) };
        loop {
            let goes_on = match next {
                Next::Start(pause) => self.pause(pause),
                Next::Refuse => {
                    tracing::error!(
                        "no worker stays alive: callers get errors, and in {REST:?} another one is tried"
                    );
                    self.refuse()?
                }
            };
            if !goes_on {
                return Ok(Err(ExitCode::SUCCESS));
            }
            (begin.deaths, begin.refused) = (self.patience.deaths(), self.refused.clone());
            match self.start(&self.program, &begin) {
                Ok(worker) => {
                    self.began = self.clock.now();
                    return Ok(Ok(worker));
                }
                Err(error) => tracing::error!(%error, "cannot start a worker"),
            }
            next = self.patience.after(None);
        }
    }

    /// Whether the mount is gone: it was unmounted, and nobody has it open.
    ///
    /// # Errors
    /// The kernel has cut the connection off for another reason.
    fn is_gone(&self) -> anyhow::Result<bool> {
        let connection = self.mount.as_ref().and_then(|mount| mount.descriptors.first());
        let Some(connection) = connection.filter(|connection| has_failed(connection.as_fd())) else {
            return Ok(false);
        };
        let goes_on = Refusing::of_ended(largest(&self.ledger)).refuse(connection, |_| false);
        goes_on.map(|goes_on| !goes_on).context("the mount cannot be served any more")
    }

    /// For how long the worker has served that does not any more, if it did.
    fn served(&mut self) -> Option<Duration> {
        self.serves.take().map(|since| self.clock.now().since(since).into())
    }

    /// Waits; false if the mount is to end.
    fn pause(&mut self, pause: Duration) -> bool {
        if !pause.is_zero()
            && let [true] = until_readable([self.signals.as_fd()], Some(pause))
        {
            self.stop(None);
        }
        !self.stopping
    }

    /// Refuses what comes for a while; false if the mount is to end, or has ended.
    fn refuse(&mut self) -> anyhow::Result<bool> {
        let Some(mount) = &self.mount else { return Ok(false) };
        // What comes by others waits in the kernel for whoever reads.
        let Some(connection) = mount.descriptors.first() else { return Ok(false) };
        let mut refusing = refusing(&self.ledger, connection);
        let end = self.clock.now().after(Nanos::from(REST));
        loop {
            let left = end.since(self.clock.now());
            if left == Nanos(0) {
                return Ok(true);
            }
            let [signal, asked] =
                until_readable([self.signals.as_fd(), connection.as_fd()], Some(left.into()));
            if signal {
                self.stop(None);
                return Ok(false);
            }
            if asked {
                let goes_on = refusing.refuse(connection, |_| true);
                remember(&mut self.refused, refusing.opened());
                if !goes_on.context("the mount cannot be served any more")? {
                    return Ok(false);
                }
            }
        }
    }

    /// Puts a worker of another program in the place of this one, if it can serve; who serves then.
    fn upgrade(&mut self, worker: Worker, program: &Path, unique: u64) -> anyhow::Result<Worker> {
        let begin = Begin {
            waits: true,
            before: self.before + 1,
            deaths: 0,
            upgrade: Some(Upgrade { unique, failed: None }),
            ..self.begin("was replaced by another program".into())
        };
        let prepared = Program::open_trusted(program)
            .and_then(|program| Ok((self.start(&program, &begin)?, program)))
            .map_err(|error| format!("{} cannot be started: {error}", program.display()));
        let (successor, program) = match prepared {
            Ok(prepared) => prepared,
            Err(why) => {
                self.not_upgraded(&worker, unique, why);
                return Ok(worker);
            }
        };
        let mut worker = worker;
        let left = self.is_fit(&successor, &worker).and_then(|()| self.has_left(&mut worker));
        if let Err(why) = left {
            self.dismiss(successor);
            self.not_upgraded(&worker, unique, why);
            return Ok(worker);
        }
        // A device may hold it up.
        self.let_go(worker)?;
        self.before += 1;
        self.began = self.clock.now();
        let lived = self.served();
        self.patience.forget_after(lived);
        self.upgrade = begin.upgrade;
        self.tried = Some(std::mem::replace(&mut self.program, program));
        // Should it have died by now, that is seen next.
        let _ = successor.link.say(&ToWorker::TakeOver);
        Ok(successor)
    }

    /// Has a worker leave. If it stays, why.
    fn has_left(&self, worker: &mut Worker) -> Result<(), String> {
        // It may have died meanwhile, which comes to the same.
        let _ = worker.link.say(&ToWorker::Leave);
        let patience = if self.survives { LEAVE } else { LEAVE_IN_ORDER };
        let end = self.clock.now().after(Nanos::from(patience));
        let mut talks = true;
        loop {
            // What it leaves in rings it has written down when it has ended, and not before.
            let gone = if self.survives { worker.death() } else { worker.process.as_fd() };
            let left = Some(end.since(self.clock.now()).into());
            let [ended, said] = if talks {
                until_readable([gone, worker.link.as_fd()], left)
            } else {
                let [ended] = until_readable([gone], left);
                [ended, false]
            };
            match said.then(|| worker.link.hear()) {
                Some(Ok(Some((ToKeeper::Stays { why }, _)))) => return Err(why),
                Some(Ok(Some((ToKeeper::Look { thread }, _)))) => look(&worker.link, thread),
                Some(Ok(Some(_))) => {}
                Some(Ok(None) | Err(_)) => talks = false,
                None if ended => return Ok(()),
                None => {
                    tracing::error!("the old worker does not leave, and is ended");
                    worker.kill();
                    return Ok(());
                }
            }
        }
    }

    /// Ends a worker that is not to serve; if that takes longer than a moment, nobody waits for it.
    fn dismiss(&mut self, mut worker: Worker) {
        worker.kill();
        match until_readable([worker.process.as_fd()], Some(LAST_BREATH)) {
            [true] => note("cannot wait for a worker", worker.end()),
            [false] => self.stragglers.push(worker),
        }
    }

    /// Says why not, to who asked; should that be one that has died meanwhile, the next one is asked again and knows it.
    fn not_upgraded(&mut self, worker: &Worker, unique: u64, why: String) {
        tracing::warn!("not upgraded: {why}");
        self.upgrade = Some(Upgrade { unique, failed: Some(why.clone()) });
        note("cannot answer the worker", worker.link.say(&ToWorker::NotUpgraded { unique, why }));
    }

    /// Whether a successor that waits could serve; if not, why. There are more urgent things: that the other one dies, and
    /// signals.
    fn is_fit(&self, successor: &Worker, worker: &Worker) -> Result<(), String> {
        let watched = [worker.death(), self.signals.as_fd(), successor.link.as_fd()];
        match until_readable(watched, Some(FITNESS)) {
            [true, ..] => return Err("the worker that it was to replace has died meanwhile".into()),
            [_, true, _] => return Err("the mount is to end".into()),
            [.., true] => {}
            [.., false] => {
                return Err(format!("the new program did not say within {FITNESS:?} whether it can serve"));
            }
        }
        match successor.link.hear() {
            Ok(Some((ToKeeper::Fit, _))) => Ok(()),
            Ok(Some((ToKeeper::Unfit { why }, _))) => Err(why),
            Ok(Some(_)) => Err("the new program does not know what it is asked".into()),
            Ok(None) => Err("the new program ended before it said whether it can serve".into()),
            Err(error) => Err(format!("the new program cannot be understood: {error}")),
        }
    }

    /// A signal: nobody new is to come, and what was accepted is to be finished.
    fn stop(&mut self, worker: Option<&Link>) {
        let mut signals = [0; 64];
        while matches!(self.signals.read(&mut signals), Ok(1..)) {}
        if self.stopping {
            return;
        }
        self.stopping = true;
        tracing::info!("ending: unmounting and finishing what was accepted");
        if let Some(mount) = &self.mount {
            note("could not unmount", mount.place.detach());
        }
        if let Some(link) = worker {
            // Whoever does not hear it has ended.
            let _ = link.say(&ToWorker::Stop);
        }
    }

    /// Takes away what would be left: a mount without anybody to serve it is worse than none.
    fn put_away(&mut self) {
        note("the service manager cannot be told", self.manager.stopping());
        let Some(Mount { place, made, descriptors, .. }) = self.mount.take() else { return };
        if !self.answered {
            note("could not unmount", place.detach());
            if made {
                note("could not remove the folder that was made", std::fs::remove_dir(&place.mountpoint));
            }
            return;
        }
        // With these the connection ends, if it has not.
        drop(descriptors);
        note("could not unmount", place.detach_dead());
    }
}

/// Says how a thread comes to an end. Waits for no longer than somebody notices.
fn look(link: &Link, thread: u32) {
    let how = Ending::of_thread(thread).map(|Ending(how)| how);
    note("cannot answer the worker", link.say(&ToWorker::Ending { thread, how }));
}

/// Says what went wrong where nothing can be done about it.
fn note<T>(what: &str, result: Result<T, impl Display>) {
    if let Err(error) = result {
        tracing::warn!(%error, "{what}");
    }
}

/// What a worker says. One that cannot be understood any more is ended.
fn hear(worker: &mut Worker) -> Option<(ToKeeper, Vec<OwnedFd>)> {
    match worker.link.hear() {
        Ok(Some(said)) => return Some(said),
        // It closes its link with its end, which is a moment away.
        Ok(None) if let [true] = until_readable([worker.process.as_fd()], Some(LAST_BREATH)) => {}
        Ok(None) => tracing::error!("a worker does not talk any more, and is ended"),
        Err(error) => tracing::error!(%error, "a worker cannot be understood, and is ended"),
    }
    worker.kill();
    None
}

/// Remembers what was refused and may have opened files.
fn remember(all: &mut Vec<u64>, more: Vec<u64>) {
    all.extend(more);
    all.truncate(MOST_REFUSED);
}

/// Who refuses what comes by a connection.
fn refusing(ledger: &Ledger, connection: &OwnedFd) -> Refusing {
    Refusing::new(connection, largest(ledger))
}

/// So many bytes the requests of a mount may have.
fn largest(ledger: &Ledger) -> usize {
    // A worker that died before it could write that down has not served.
    Facts::read(ledger).ok().flatten().map_or(0, |facts| facts.largest)
}

/// Whether a descriptor is in error, which a connection is that has ended.
fn has_failed(descriptor: BorrowedFd<'_>) -> bool {
    let mut watched = [PollFd::new(descriptor, PollFlags::empty())];
    // What cannot be looked at is taken to live: who serves next sees it.
    poll(&mut watched, PollTimeout::ZERO).is_ok()
        && watched[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

/// How a process ended.
fn words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was ended by signal {signal}"),
        (None, Some(code)) => format!("ended with status {code}"),
        (None, None) => "ended".into(),
    }
}

/// Waits until something can be read, or has ended; none of them if it takes longer than `patience`.
fn until_readable<const N: usize>(watched: [BorrowedFd<'_>; N], patience: Option<Duration>) -> [bool; N] {
    let clock = Clock::start();
    loop {
        let left = patience.map(|patience| Nanos::from(patience).since(clock.now()));
        // Rounded up; a wait that is longer than can be said is taken up again.
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::from(u16::try_from(left.0.div_ceil(1_000_000)).unwrap_or(u16::MAX))
        });
        let mut all = watched.map(|one| PollFd::new(one, PollFlags::POLLIN));
        match poll(&mut all, timeout) {
            Ok(0) if left.is_none_or(|left| left > Nanos(0)) => {}
            Err(Errno::EINTR) => {}
            Ok(_) => return all.map(|one| one.any().unwrap_or(false)),
            Err(error) => {
                // There is no memory for it; later there may be.
                tracing::error!(%error, "cannot wait");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::PipeWriter;

    /// A keeper of a mount that has been served, whose workers do nothing; `connection` stands for that to the kernel.
    fn keeper(connection: PipeWriter, signals: UnixStream) -> Keeper<fn(&Path, &str) -> anyhow::Result<()>> {
        let place = serde_json::from_str(r#"{"mountpoint": "/none", "number": null}"#).unwrap();
        let descriptors = vec![connection.into()];
        let mount = Mount { place, made: false, descriptors, memory: None };
        let arguments = ["-c", "read words"].map(OsString::from).into();
        Keeper::new(arguments, None, signals, shell(), Ledger::new().unwrap(), Some(mount))
    }

    fn shell() -> Program {
        Program::open(Path::new("/bin/sh")).unwrap()
    }

    /// So many deaths the next worker is told of; `None` if there is none.
    fn follow<R>(keeper: &mut Keeper<R>, status: Option<i32>) -> Option<u32>
    where
        R: FnOnce(&Path, &str) -> anyhow::Result<()>,
    {
        let mut next = keeper.follow(status.map(ExitStatus::from_raw)).ok()?.ok()?;
        next.kill();
        next.end().unwrap();
        Some(keeper.patience.deaths())
    }

    #[test]
    fn a_program_that_was_tried_in_vain_is_no_death_of_the_one_that_goes_on() {
        let ((_kernel, connection), (signals, _wake)) = (io::pipe().unwrap(), UnixStream::pair().unwrap());
        let mut keeper = keeper(connection, signals);
        assert_eq!(follow(&mut keeper, Some(libc::SIGKILL)), Some(1));
        assert_eq!(follow(&mut keeper, Some(libc::SIGKILL)), Some(2));
        keeper.tried = Some(shell());
        assert_eq!(follow(&mut keeper, Some(libc::SIGKILL)), Some(2));
        assert!(keeper.tried.is_none());
        assert_eq!(follow(&mut keeper, Some(libc::SIGKILL)), Some(3));
    }

    #[test]
    fn that_a_program_ends_well_is_not_the_end_of_the_mount() {
        let ((_kernel, connection), (signals, _wake)) = (io::pipe().unwrap(), UnixStream::pair().unwrap());
        let mut keeper = keeper(connection, signals);
        keeper.tried = Some(shell());
        keeper.upgrade = Some(Upgrade { unique: 2, failed: None });
        assert_eq!(follow(&mut keeper, Some(0)), Some(0));
        let failed = keeper.upgrade.as_ref().and_then(|upgrade| upgrade.failed.as_deref());
        assert_eq!(failed, Some("the new program ended with status 0 before it served; the old one goes on"));
        assert_eq!(follow(&mut keeper, Some(0)), Some(1));
    }

    #[test]
    fn nobody_is_started_for_a_connection_that_has_ended() {
        for status in [Some(0), Some(libc::SIGKILL), None] {
            let ((kernel, connection), (signals, _wake)) = (io::pipe().unwrap(), UnixStream::pair().unwrap());
            let mut keeper = keeper(connection, signals);
            drop(kernel);
            assert_eq!(follow(&mut keeper, status), None, "{status:?}");
        }
    }
}
