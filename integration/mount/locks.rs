//! File locks on images. ioband leaves them to the kernel, so that they are as on any local filesystem: QEMU relies
//! on that to keep two virtual machines off one image.

use crate::daemon::{MOUNT, Vmdisk};
use crate::support::trial;
use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("flock excludes", MOUNT, || whole_file("flock", &["flock"])),
        trial("POSIX locks exclude, OFD locks too", MOUNT, || whole_file("posix", &["posix", "ofd"])),
        trial("OFD locks exclude, POSIX locks too", MOUNT, || whole_file("ofd", &["ofd", "posix"])),
        trial("QEMU's locks on single bytes exclude as it means them", MOUNT, like_qemu),
    ]
}

/// Set for a process that shall take a lock: `KIND read|write START LENGTH`, with the file as argument.
const HELPER: &str = "IOBAND_TEST_LOCK";

/// Locks belong to processes: the trials start their own program again, which comes here first.
pub(crate) fn helper() -> bool {
    let Ok(wish) = std::env::var(HELPER) else { return false };
    let path = std::env::args_os().nth(1).expect("a file");
    let file = File::options().read(true).write(true).open(path).expect("an image");
    let lock = take(file, &wish);
    println!("{}", lock.as_ref().err().map_or_else(|| HELD.to_owned(), Errno::to_string));
    // Until the trial lets go.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    true
}

const HELD: &str = "held";

/// A lock, for as long as this lives.
enum Lock {
    Whole(#[allow(dead_code)] Flock<File>),
    Range(#[allow(dead_code)] File),
}

fn take(file: File, wish: &str) -> Result<Lock, Errno> {
    let words: Vec<_> = wish.split(' ').collect();
    let &[kind, how, start, length] = words.as_slice() else { panic!("{wish:?}") };
    let number = |text: &str| text.parse().expect("a number");
    let write = how == "write";
    if kind == "flock" {
        let how = if write { FlockArg::LockExclusiveNonblock } else { FlockArg::LockSharedNonblock };
        return Flock::lock(file, how).map(Lock::Whole).map_err(|(_, errno)| errno);
    }
    let range = libc::flock {
        l_type: (if write { libc::F_WRLCK } else { libc::F_RDLCK }) as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: number(start),
        l_len: number(length),
        l_pid: 0,
    };
    let command = if kind == "ofd" { FcntlArg::F_OFD_SETLK(&range) } else { FcntlArg::F_SETLK(&range) };
    fcntl(&file, command)?;
    Ok(Lock::Range(file))
}

/// A process that has asked for a lock, and keeps it if it got it.
struct Locker {
    child: Child,
    got: bool,
}

impl Locker {
    fn ask(file: &Path, wish: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg(file).env(HELPER, wish).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program");
        let mut answer = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut answer).expect("an answer");
        let refused = answer.contains("EAGAIN") || answer.contains("EACCES");
        assert!(answer.trim() == HELD || refused, "{wish}: {answer:?}");
        Self { child, got: !refused }
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        // Killed, so that what lets go of the lock is the end of the process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn assert_gets(file: &Path, wish: &str, expected: bool) {
    assert_eq!(Locker::ask(file, wish).got, expected, "{wish}");
}

fn images() -> Vmdisk {
    Vmdisk::mount(
        "devices: {d: {path: disk, size: 4MiB}}\n\
         images: {vm1.img: {device: d, size: 2MiB}, vm2.img: {device: d, offset: 2MiB, size: 2MiB}}\n",
    )
}

/// A lock of one kind on all of an image, against those of the others.
fn whole_file(kind: &str, others: &[&str]) {
    let mount = images();
    let (vm1, vm2) = (mount.file("vm1.img"), mount.file("vm2.img"));
    let wish = |kind: &str, how: &str| format!("{kind} {how} 0 0");

    let writer = Locker::ask(&vm1, &wish(kind, "write"));
    assert!(writer.got);
    for other in others {
        assert_gets(&vm1, &wish(other, "write"), false);
        assert_gets(&vm1, &wish(other, "read"), false);
        assert_gets(&vm2, &wish(other, "write"), true);
    }
    // It must not matter who else opened and closed the file meanwhile.
    drop(File::open(&vm1).expect("an image"));
    assert_gets(&vm1, &wish(kind, "write"), false);
    drop(writer);

    let reader = Locker::ask(&vm1, &wish(kind, "read"));
    assert!(reader.got, "a lock outlives its process");
    for other in others {
        assert_gets(&vm1, &wish(other, "read"), true);
        assert_gets(&vm1, &wish(other, "write"), false);
    }
    drop(reader);
    assert_gets(&vm1, &wish(kind, "write"), true);
}

/// QEMU takes a shared lock on byte 100 + n for each permission that it uses, and on byte 200 + n for each that it
/// does not share; then it looks whether anybody has the opposite byte (block/file-posix.c). n is 0 for consistent
/// reads, 1 for writes, 3 for changing the size.
fn like_qemu() {
    let mount = images();
    let vm1 = mount.file("vm1.img");
    let bytes = [100, 101, 103, 201, 203];
    let first: Vec<_> = bytes.map(|byte| Locker::ask(&vm1, &format!("ofd read {byte} 1"))).into();
    assert!(first.iter().all(|lock| lock.got));
    // A second QEMU: its shared locks are granted …
    let second = Locker::ask(&vm1, "ofd read 101 1");
    assert!(second.got);
    // … but a look at 201, "somebody does not share writing", finds the first, as does the first's look at 101.
    assert_gets(&vm1, "ofd write 201 1", false);
    assert_gets(&vm1, "ofd write 101 1", false);
    // Neighbours are not concerned, nor what lies between.
    assert_gets(&vm1, "ofd write 200 1", true);
    assert_gets(&vm1, "ofd write 202 1", true);
    assert_gets(&vm1, "ofd write 104 96", true);
    drop(first);
    assert_gets(&vm1, "ofd write 201 1", true);
    assert_gets(&vm1, "ofd write 101 1", false);
    drop(second);
    assert_gets(&vm1, "ofd write 101 1", true);
}
