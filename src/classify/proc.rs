//! What `/proc` knows of a thread.

use std::io;
use std::sync::Arc;

/// One process, told apart from any later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The thread group id: what people call the pid.
    pub tgid: u32,
    /// When it started, in clock ticks since boot. A number comes round again only after the whole number space,
    /// which takes far longer than a tick (10 ms).
    pub started: u64,
}

impl ProcessId {
    /// The process that has this number now.
    pub fn running(tgid: u32) -> Option<Self> {
        Stat::read(tgid).ok().map(|stat| Self { tgid, started: stat.started })
    }

    /// The process that a thread belongs to.
    pub(super) fn of_thread(tid: u32, thread: &Stat) -> io::Result<Self> {
        let tgid = tgid(tid)?;
        // A main thread that has exited stays as a zombie while its other threads live, so this can be read.
        let started = if tgid == tid { thread.started } else { Stat::read(tgid)?.started };
        Ok(Self { tgid, started })
    }
}

/// The fields we need of `/proc/TID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pgrp: u32,
    pub(super) kernel_thread: bool,
    pub(super) started: u64,
}

/// The kernel's mark for its own threads (`PF_KTHREAD`). io_uring's workers do not have it: they are threads of
/// their process, and are charged as such.
const KERNEL_THREAD: u64 = 0x0020_0000;

impl Stat {
    pub(super) fn read(tid: u32) -> io::Result<Self> {
        Self::parse(&read(tid, "stat")?).ok_or_else(|| malformed(tid, "stat"))
    }

    /// `PID (NAME) STATE PPID PGRP SESSION TTY TPGID FLAGS …`; STARTTIME is the 22nd of all fields. A name may
    /// hold blanks and parentheses, so counting starts behind the *last* parenthesis.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
        let pgrp = fields.nth(2)?.parse().ok()?;
        let flags: u64 = fields.nth(3)?.parse().ok()?;
        let started = fields.nth(12)?.parse().ok()?;
        Some(Self { pgrp, kernel_thread: flags & KERNEL_THREAD != 0, started })
    }
}

/// How a thread comes to an end, if it is at its end and did not get there in peace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending(pub String);

/// The kernel's mark for a thread at its end (`PF_EXITING`).
const EXITING: u64 = 4;

impl Ending {
    /// Looks at a thread: `None` if it goes on, or ends with status 0. While it ends the kernel still closes its files.
    pub fn of_thread(tid: u32) -> Option<Self> {
        Self::parse(&read(tid, "stat").ok()?)
    }

    /// FLAGS is the 9th field of `/proc/TID/stat`, EXIT_CODE the 52nd and last one.
    fn parse(stat: &str) -> Option<Self> {
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
        let flags: u64 = fields.nth(6)?.parse().ok()?;
        let code: u32 = fields.last()?.parse().ok()?;
        (flags & EXITING != 0 && code != 0).then(|| {
            Self(match code & 0x7f {
                0 => format!("failed with status {}", code >> 8 & 0xff),
                signal => format!("was killed (signal {signal})"),
            })
        })
    }
}

/// The thread group id of a thread.
fn tgid(tid: u32) -> io::Result<u32> {
    let status = read(tid, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|number| number.trim().parse().ok()).ok_or_else(|| malformed(tid, "status"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_shifts_no_field() {
        let tail = "S 1 77 5 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        for name in ["sh", "a b", "x) R 9 9 (", "(())"] {
            let stat = Stat::parse(&format!("31 ({name}) {tail}")).unwrap();
            assert_eq!(stat, Stat { pgrp: 77, kernel_thread: false, started: 4242 }, "{name}");
        }
        assert_eq!(Stat::parse("31 (sh) S 1"), None);
        assert_eq!(Stat::parse(""), None);
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
        assert_eq!(ending(0x40_0000, 9), None);
        assert_eq!(Ending::of_thread(std::process::id()), None);
    }

    #[test]
    fn kernel_threads_have_the_mark_and_io_uring_workers_do_not() {
        let stat = |flags: u64| {
            Stat::parse(&format!("2 (x) S 0 0 0 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 24")).unwrap()
        };
        assert!(stat(2_129_984).kernel_thread, "kthreadd");
        assert!(!stat(0x0000_4010).kernel_thread, "PF_USER_WORKER | PF_IO_WORKER");
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
        assert_eq!(ProcessId::of_thread(tid, &Stat::read(tid).unwrap()).unwrap(), us);
    }
}
