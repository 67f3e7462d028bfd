//! What the kernel knows of a thread.
//!
//! `/proc/TID/stat` would have most of it in one line, but a reader of that can have to wait for a thread that is in the
//! middle of an exec (Linux 6.18: `exec_update_lock`), and such a thread may be waiting for us: exec closes files, and waits
//! for asynchronous requests, which may be files and requests of this mount. So it is only read where somebody may wait.

use nix::sys::statfs::fstatfs;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// One process, told apart from any later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The thread group id: what people call the pid.
    pub tgid: u32,
    /// What only this process has: the inode number of its pidfd, which the kernel gives out once since it booted. Before
    /// Linux 6.9, when it started, in clock ticks since boot: a number comes round again only after the whole number space,
    /// which takes far longer than a tick (10 ms).
    pub birth: u64,
}

/// The file system of pidfds whose inode numbers tell processes apart.
const PIDFS: i64 = 0x5049_4446;

impl ProcessId {
    /// The process that has this number now.
    pub fn running(tgid: u32) -> Option<Self> {
        Some(Self { tgid, birth: birth(tgid).ok()? })
    }

    /// The process that a thread belongs to.
    pub(super) fn of_thread(thread: &Thread) -> io::Result<Self> {
        Ok(Self { tgid: thread.tgid, birth: birth(thread.tgid)? })
    }
}

/// See [`ProcessId::birth`]. A main thread that has exited stays as a zombie while its other threads live, so it can be asked.
fn birth(tgid: u32) -> io::Result<u64> {
    let pid = i32::try_from(tgid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    match pidfd_open(pid, PidfdFlags::empty()).map(File::from) {
        Ok(pidfd) if fstatfs(&pidfd).is_ok_and(|found| found.filesystem_type().0 == PIDFS) => {
            Ok(pidfd.metadata()?.ino())
        }
        Err(rustix::io::Errno::SRCH) => Err(rustix::io::Errno::SRCH.into()),
        // An older kernel, on which that does not wait.
        _ => {
            let stat = read(tgid, "stat")?;
            // STARTTIME is the 22nd field.
            field(&stat, 22).ok_or_else(|| malformed(tgid, "stat"))
        }
    }
}

/// What we need of `/proc/TID/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thread {
    pub(super) tgid: u32,
    pub(super) pgrp: u32,
    pub(super) kernel_thread: bool,
}

/// The process that starts the kernel's own threads.
const KTHREADD: u32 = 2;

impl Thread {
    pub(super) fn read(tid: u32) -> io::Result<Self> {
        Self::parse(&read(tid, "status")?).ok_or_else(|| malformed(tid, "status"))
    }

    /// Lines of `KEY:\tVALUE`. io_uring's workers are threads of their process, and are charged as such.
    fn parse(text: &str) -> Option<Self> {
        let number = |key: &str| -> Option<u32> {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            // Where there are several, the first is that of our namespace.
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        let tgid = number("Tgid")?;
        let kernel_thread = match number("Kthread") {
            Some(is_one) => is_one == 1,
            // Before Linux 6.10 it does not say so.
            None => tgid == KTHREADD || number("PPid") == Some(KTHREADD),
        };
        Some(Self { tgid, pgrp: number("NSpgid")?, kernel_thread })
    }
}

/// The process that a thread belongs to, by its number.
pub fn process_of(tid: u32) -> Option<u32> {
    Thread::read(tid).ok().map(|thread| thread.tgid)
}

/// A field of `/proc/TID/stat`, counted from 1: `PID (NAME) STATE PPID …`. A name may hold blanks and parentheses, so
/// counting starts behind the *last* parenthesis.
fn field<T: std::str::FromStr>(stat: &str, number: usize) -> Option<T> {
    stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// How a thread comes to an end, if it is at its end and did not get there in peace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending(pub String);

/// The kernel's mark for a thread at its end (`PF_EXITING`).
const EXITING: u64 = 4;
/// And for one that a signal has ended (`PF_SIGNALED`).
const SIGNALED: u64 = 0x400;

/// How long a thread may keep us waiting for how it ends. On a machine that is very busy, to start looking takes long.
const WAIT: Duration = Duration::from_millis(250);

impl Ending {
    /// Looks at a thread: `None` if it goes on, or ends with status 0. While it ends the kernel still closes its files. One
    /// that is in the middle of an exec, and closes files for that, keeps us waiting for a moment, and goes on.
    pub fn of_thread(tid: u32) -> Option<Self> {
        let (send, said) = mpsc::channel();
        let ask = move || {
            // Nobody listens any more where it took too long.
            let _ = send.send(read(tid, "stat"));
        };
        std::thread::Builder::new().name("ending".into()).spawn(ask).ok()?;
        Self::parse(&said.recv_timeout(WAIT).ok()?.ok()?)
    }

    /// FLAGS is the 9th field of `/proc/TID/stat`, EXIT_CODE the 52nd, which is 0 for who may not debug the thread.
    fn parse(stat: &str) -> Option<Self> {
        let flags: u64 = field(stat, 9)?;
        let code: u32 = field(stat, 52)?;
        (flags & EXITING != 0 && (code != 0 || flags & SIGNALED != 0)).then(|| {
            Self(match code & 0x7f {
                0 if code == 0 => "was killed".to_owned(),
                0 => format!("failed with status {}", code >> 8 & 0xff),
                signal => format!("was killed (signal {signal})"),
            })
        })
    }
}

/// The cgroup paths of a thread: v2's first, then those of v1, each once.
pub(super) fn cgroups(tid: u32) -> io::Result<Arc<[Box<str>]>> {
    Ok(parse_cgroups(&read(tid, "cgroup")?))
}

/// Lines of `HIERARCHY:CONTROLLERS:PATH`, where hierarchy 0 is v2. A path may hold colons.
fn parse_cgroups(text: &str) -> Arc<[Box<str>]> {
    let mut paths: Vec<&str> = Vec::new();
    let (v2, v1): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("0:"));
    for path in v2.into_iter().chain(v1).filter_map(|line| line.splitn(3, ':').nth(2)) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths.into_iter().map(Box::from).collect()
}

/// Reads `/proc/TID/FILE`. A thread's name may be any bytes, so the text is made valid first.
fn read(tid: u32, file: &str) -> io::Result<String> {
    std::fs::read(format!("/proc/{tid}/{file}")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn malformed(tid: u32, file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{tid}/{file} is not in the known format"))
}

/// Whether /proc does not say whose threads the callers are: it can be mounted so that only who could debug a process sees it, and
/// who serves has given that up. Whoever is not root serves his own processes, which he can see.
pub fn are_processes_hidden() -> bool {
    nix::unistd::geteuid().is_root() && !std::path::Path::new("/proc/1/stat").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_shifts_no_field() {
        let tail = "S 1 77 5 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        for name in ["sh", "a b", "x) R 9 9 (", "(())"] {
            let stat = format!("31 ({name}) {tail}");
            assert_eq!((field(&stat, 22), field(&stat, 9)), (Some(4242_u64), Some(4194560_u64)), "{name}");
        }
        assert_eq!(field::<u64>("31 (sh) S 1", 22), None);
        assert_eq!(field::<u64>("", 22), None);
    }

    #[test]
    fn an_end_in_peace_is_none() {
        let ending = |flags: u64, code: u32| {
            let fields = "0 ".repeat(42);
            Ending::parse(&format!("31 (a b) R 1 77 5 0 -1 {flags} {fields}{code}")).map(|Ending(how)| how)
        };
        assert_eq!(ending(EXITING, 9).as_deref(), Some("was killed (signal 9)"));
        assert_eq!(ending(EXITING | 1, 0x100).as_deref(), Some("failed with status 1"));
        assert_eq!(ending(EXITING, 0), None);
        assert_eq!(ending(EXITING | SIGNALED, 0).as_deref(), Some("was killed"));
        assert_eq!(ending(0x40_0000, 9), None);
        assert_eq!(Ending::of_thread(std::process::id()), None);
    }

    #[test]
    fn a_status_tells_process_group_and_kernel_threads() {
        let text = "Name:\tTgid: 5\nUmask:\t0022\nTgid:\t31\nPid:\t32\nPPid:\t1\nNSpgid:\t77\t1\n";
        let thread = Thread { tgid: 31, pgrp: 77, kernel_thread: false };
        assert_eq!(Thread::parse(text), Some(thread));
        assert_eq!(Thread::parse(&format!("{text}Kthread:\t0\n")), Some(thread));
        let kernel = Some(Thread { kernel_thread: true, ..thread });
        assert_eq!(Thread::parse(&format!("{text}Kthread:\t1\n")), kernel);
        assert_eq!(Thread::parse(&text.replace("PPid:\t1", "PPid:\t2")), kernel);
        assert_eq!(Thread::parse("Tgid:\t31\n"), None);
        assert!(!Thread::read(std::process::id()).unwrap().kernel_thread);
    }

    #[test]
    fn cgroup_paths_come_v2_first_and_once() {
        let paths = parse_cgroups("9:name=systemd:/\n5:devices:/vm/a:b\n4:memory,cpu:/\n0::/machine.slice\n");
        assert_eq!(paths.iter().map(AsRef::as_ref).collect::<Vec<_>>(), ["/machine.slice", "/", "/vm/a:b"]);
        assert!(parse_cgroups("").is_empty());
    }

    #[test]
    fn our_own_process_is_found_from_any_of_its_threads() {
        let us = ProcessId::running(std::process::id()).unwrap();
        let tid = nix::unistd::gettid().as_raw() as u32;
        assert_ne!(tid, us.tgid, "tests run on threads of their own");
        assert_eq!(ProcessId::of_thread(&Thread::read(tid).unwrap()).unwrap(), us);
        assert_eq!(process_of(tid), Some(us.tgid));
    }
}
