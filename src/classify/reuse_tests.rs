//! Real threads and processes against [`Callers`], above all: numbers that are handed out again.

use super::watch::Watch;
use super::*;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const ALL: Wants = Wants { process: true, pgrp: true, cgroup: true };

/// Says that a test was not run, and why. Where the environment variable CI is set it has failed, so that nothing is
/// left out unseen. Not with eprintln, whose output is kept back for tests that pass.
#[track_caller]
pub(super) fn skipped(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot be run here: {why}");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

fn callers(wants: Wants, pidfds: bool) -> Callers {
    Callers::with(wants, 1024, Watch::new(pidfds).unwrap()).unwrap()
}

fn caller(tid: u32) -> Caller {
    Caller { uid: 1000, gid: 100, tid }
}

fn identity(callers: &Callers, tid: u32) -> Identity {
    match callers.resolve(caller(tid)) {
        Who::Caller(identity) => identity,
        Who::Kernel => panic!("{tid} is no kernel thread"),
    }
}

fn tgid(callers: &Callers, tid: u32) -> Option<u32> {
    identity(callers, tid).process.map(|process| process.tgid)
}

fn gettid() -> u32 {
    nix::unistd::gettid().as_raw() as u32
}

/// A process that lives until it is dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn new() -> Self {
        Self::start(&mut Command::new("cat"))
    }

    fn in_own_pgrp() -> Self {
        Self::start(Command::new("cat").process_group(0))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A thread of ours that lives until it is dropped.
struct Thread {
    tid: u32,
    stop: Option<(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>)>,
}

impl Thread {
    fn new() -> Self {
        let ((tid_to, tid), (stop, stopped)) = (channel(), channel::<()>());
        let handle = std::thread::spawn(move || {
            tid_to.send(gettid()).unwrap();
            let _ = stopped.recv();
        });
        Self { tid: tid.recv().unwrap(), stop: Some((stop, handle)) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some((stop, handle)) = self.stop.take() {
            drop(stop);
            handle.join().unwrap();
        }
    }
}

/// Held by whoever makes numbers come again, and by whoever needs a number to stay free for a moment: the next one that is given
/// out is just that one.
pub(super) fn numbers() -> MutexGuard<'static, ()> {
    static NUMBERS: Mutex<()> = Mutex::new(());
    NUMBERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts processes until one gets the number `pid`; `None` where somebody else has taken it meanwhile.
fn start_with_pid(pid: u32, start: impl Fn() -> Running) -> Option<Running> {
    for _ in 0..200 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let running = start();
        if running.pid() == pid {
            return Some(running);
        }
    }
    None
}

/// Twenty rounds of a trial in which a number comes again. A round in which it does not, because a thread of another trial
/// or some other process has it, is another try; false (said aloud) where it cannot be arranged at all.
fn twenty_rounds(mut round: impl FnMut() -> Option<()>) -> bool {
    let _numbers = numbers();
    let last = fs::read_to_string("/proc/sys/kernel/ns_last_pid");
    if let Err(error) = last.and_then(|last| fs::write("/proc/sys/kernel/ns_last_pid", last)) {
        skipped(&format!("ns_last_pid cannot be set, so no number can be made to come again: {error}"));
        return false;
    }
    let rounds = (0..200).filter_map(|_| round()).take(20).count();
    assert_eq!(rounds, 20, "numbers do not come again");
    true
}

#[test]
fn a_reused_process_number_inherits_nothing() {
    for pidfds in [true, false] {
        let callers = callers(ALL, pidfds);
        let run = twenty_rounds(|| {
            let first = Running::in_own_pgrp();
            let pid = first.pid();
            let was = identity(&callers, pid);
            assert_eq!((was.process.unwrap().tgid, was.pgrp), (pid, Some(pid)));
            let mut map = GroupMap::new(GroupType::Pid, "default");
            map.insert(GroupId::Number(pid), "group").unwrap();
            assert_eq!(map.classify(&was, "x"), "group");
            // So that the start times differ, which are kept in ticks of 10 ms.
            std::thread::sleep(Duration::from_millis(25));
            drop(first);

            let second = start_with_pid(pid, Running::new)?;
            let now = identity(&callers, second.pid());
            assert_eq!(now.process, ProcessId::running(pid));
            assert_ne!(now.process, was.process);
            assert_ne!(now.pgrp, Some(pid), "the process group of the first was inherited");
            assert_eq!(map.classify(&now, "x"), "default");
            Some(())
        });
        if !run {
            return;
        }
    }
}

#[test]
fn a_reused_thread_number_inherits_nothing() {
    let us = std::process::id();
    for pidfds in [true, false] {
        let callers = callers(Wants { process: true, ..Wants::default() }, pidfds);
        let run = twenty_rounds(|| {
            let thread = Thread::new();
            let tid = thread.tid;
            assert_eq!(tgid(&callers, tid), Some(us));
            drop(thread);
            let process = start_with_pid(tid, Running::new)?;
            assert_eq!(tgid(&callers, process.pid()), Some(tid));
            Some(())
        });
        if !run {
            return;
        }
    }
}

#[test]
fn a_thread_is_its_process() {
    for pidfds in [true, false] {
        let callers = callers(ALL, pidfds);
        let thread = Thread::new();
        assert_ne!(thread.tid, std::process::id());
        let first = identity(&callers, thread.tid);
        assert_eq!(first.process, ProcessId::running(std::process::id()));
        assert_eq!(first.pgrp, Some(nix::unistd::getpgrp().as_raw() as u32));
        assert!(!first.cgroups.is_empty());
        assert_eq!(identity(&callers, thread.tid), first, "from the cache");
        assert_eq!(callers.remembered(), 1);
    }
}

#[test]
fn who_has_ended_keeps_uid_and_gid() {
    let _numbers = numbers();
    for pidfds in [true, false] {
        let callers = callers(ALL, pidfds);
        let process = Running::new();
        let pid = process.pid();
        assert!(identity(&callers, pid).process.is_some());
        drop(process);
        // Between the end and this another may have taken the number, but hardly.
        assert_eq!(identity(&callers, pid), Identity::from_ids(1000, 100));
        assert_eq!(callers.resolve(caller(u32::MAX)), Who::Caller(Identity::from_ids(1000, 100)));
        if pidfds {
            assert_eq!(callers.remembered(), 0);
        }
    }
}

#[test]
fn a_main_thread_that_exits_leaves_its_process_to_the_others() {
    let script = "import ctypes, sys, threading, time\n\
        def go():\n  print(threading.get_native_id(), flush=True)\n  time.sleep(60)\n\
        t = threading.Thread(target=go); t.start()\n\
        sys.stdin.readline()\n\
        ctypes.CDLL(None).syscall(60, 0)\n";
    if !cfg!(target_arch = "x86_64") || Command::new("python3").arg("-V").output().is_err() {
        return skipped("needs python3 on x86-64 for a main thread that exits alone");
    }
    let mut command = Command::new("python3");
    let mut process =
        Running(command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (tid, pid) = (line.trim().parse().unwrap(), process.pid());
    let callers = callers(ALL, true);
    let before = identity(&callers, tid);
    assert_eq!(before.process.unwrap().tgid, pid);
    process.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ") {
        assert!(Instant::now() < deadline, "the main thread does not exit");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(identity(&callers, tid).process, before.process, "from the cache");
    assert_eq!(identity(&self::callers(ALL, true), tid).process, before.process, "anew");
}

#[test]
fn a_changed_process_group_is_seen_soon() {
    let callers = callers(ALL, true);
    let child = Running::new();
    let pid = child.pid();
    let ours = nix::unistd::getpgrp().as_raw() as u32;
    assert_eq!(identity(&callers, pid).pgrp, Some(ours));
    let moving = Running::start(Command::new("setsid").args(["--wait", "cat"]));
    let tid = moving.pid();
    let deadline = Instant::now() + Duration::from_secs(10);
    // setsid forks if it leads a group, and moves itself otherwise; here it does not lead.
    while identity(&callers, tid).pgrp != Some(tid) {
        assert!(Instant::now() < deadline, "the new process group was never seen");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(identity(&callers, pid).pgrp, Some(ours));
}

#[test]
fn kernel_threads_are_the_kernel_for_uid_0_only() {
    let callers = callers(Wants::default(), true);
    assert_eq!(callers.resolve(Caller { uid: 0, gid: 0, tid: 0 }), Who::Kernel);
    assert_eq!(callers.resolve(Caller { uid: 7, gid: 8, tid: 0 }), Who::Caller(Identity::from_ids(7, 8)));
    let us = Caller { uid: 0, gid: 0, tid: gettid() };
    assert_eq!(callers.resolve(us), Who::Caller(Identity::from_ids(0, 0)));
    if fs::read_to_string("/proc/2/comm").ok().as_deref() != Some("kthreadd\n") {
        return skipped("no kernel threads in this pid namespace");
    }
    for _ in 0..2 {
        assert_eq!(callers.resolve(Caller { uid: 0, gid: 0, tid: 2 }), Who::Kernel);
        assert_eq!(callers.resolve(Caller { uid: 7, gid: 8, tid: 2 }), Who::Caller(Identity::from_ids(7, 8)));
    }
}

#[test]
fn nothing_is_looked_up_that_nobody_needs() {
    let callers = callers(Wants::default(), true);
    let thread = Thread::new();
    assert_eq!(identity(&callers, thread.tid), Identity::from_ids(1000, 100));
    assert_eq!(callers.remembered(), 0);
    callers.set_wants(Wants::of([GroupType::Image, GroupType::Pid]));
    let known = identity(&callers, thread.tid);
    assert_eq!(known.process.unwrap().tgid, std::process::id());
    assert_eq!((known.pgrp, known.cgroups.len()), (None, 0));
    callers.set_wants(Wants::of([GroupType::Pgrp, GroupType::Cgroup]));
    let known = identity(&callers, thread.tid);
    assert_eq!(known.process, None);
    assert!(known.pgrp.is_some() && !known.cgroups.is_empty());
    assert_eq!(callers.remembered(), 1);
}

#[test]
fn the_cache_is_bounded_and_answers_beyond_its_bound() {
    let callers = Callers::with(ALL, 32, Watch::new(true).unwrap()).unwrap();
    let threads: Vec<_> = (0..100).map(|_| Thread::new()).collect();
    for _ in 0..3 {
        for thread in &threads {
            assert_eq!(tgid(&callers, thread.tid), Some(std::process::id()));
        }
        assert!(callers.remembered() <= 32);
    }
    drop(threads);
    // Who has waited for a thread may be ahead of those who are told of its end.
    let deadline = Instant::now() + Duration::from_secs(10);
    let left = || {
        callers.resolve(caller(gettid()));
        callers.remembered()
    };
    while left() > 1 + 1 {
        assert!(Instant::now() < deadline, "{} left of threads that have ended", left());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn callers_come_and_go_under_many_hands() {
    let (callers, stop) = (callers(ALL, true), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (live_to, live) = channel::<(u32, Thread)>();
        scope.spawn(move || live.into_iter().for_each(drop));
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(tgid(&callers, gettid()), Some(std::process::id()));
                }
            });
        }
        for _ in 0..2000 {
            let thread = Thread::new();
            assert_eq!(tgid(&callers, thread.tid), Some(std::process::id()));
            live_to.send((thread.tid, thread)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        drop(live_to);
    });
}
