//! Patterns of requests that are to starve others. All of them are counted by the scheduler, so the victim, who makes one
//! request at a time, has its share whatever the attacker does.

use super::stage::{ATTACKER, Use, VICTIM, attacker, mount};
use crate::daemon::{MOUNT, Vmdisk, wait_until, worker};
use crate::load::Load;
use crate::support::{Random, trial};
use crate::windows::{median, only_the_disk_matters};
use libtest_mimic::Trial;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Gid, Uid, Whence, lseek, setgid, setgroups, setuid};
use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) fn trials() -> Vec<Trial> {
    let shared = |name: &str, pattern: &'static str, threads| {
        trial(&format!("attack: {name}"), MOUNT, move || starve(pattern, threads))
    };
    vec![
        shared("a flood of single sectors", "sectors", 64),
        shared("a flood of requests of the largest size", "large", 32),
        shared("unaligned writes of one byte, all to one place", "bytes", 64),
        shared("discards of a whole image", "discard", 16),
        shared("zeroes for a whole image", "zeroes", 16),
        shared("a storm of fsync", "fsync", 64),
        shared("pages that are mapped and dropped", "mapped", 16),
        shared("two thousand threads", "sectors", 2000),
        trial("attack: callers that are killed with their requests under way", MOUNT, killed),
    ]
}

/// Set for a process that shall attack: `PATTERN:THREADS`.
const HELPER: &str = "IOBAND_TEST_ATTACK";
const IMAGE: &str = "attacker.img";

/// An attacker is a process of its own: the trials start their own program again, which comes here first.
pub(crate) fn helper() -> bool {
    let Ok(wish) = std::env::var(HELPER) else { return false };
    let (pattern, threads) = wish.split_once(':').expect("a pattern and a number");
    setgroups(&[]).and_then(|()| setgid(Gid::from_raw(ATTACKER))).expect("root may");
    setuid(Uid::from_raw(ATTACKER)).expect("root may");
    let pattern: &'static str = pattern.to_owned().leak();
    for number in 0..threads.parse().expect("a number") {
        // Small stacks: there may be thousands.
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        thread.spawn(move || attack(pattern, number)).expect("a thread");
    }
    println!("begun");
    // Until the trial has seen enough.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    println!("{}", DONE.load(Ordering::Relaxed));
    // With whatever is under way.
    std::process::exit(0);
}

/// Calls that have come back.
static DONE: AtomicU64 = AtomicU64::new(0);

fn attack(pattern: &str, number: u64) {
    const MIB: u64 = 1 << 20;
    const SIZE: u64 = 32 * MIB;
    let mut random = Random::new(number + 1);
    let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(IMAGE);
    let file = open(0).expect("his image");
    let direct = open(libc::O_DIRECT).expect("his image");
    let mut memory = vec![0; MIB as usize + 4096];
    let start = memory.as_ptr().align_offset(4096);
    let buffer = &mut memory[start..];
    let mut handles = Vec::new();
    loop {
        // Errors are as good as answers: what counts is that the daemon has had the work.
        match pattern {
            "sectors" => drop(direct.read_at(&mut buffer[..512], 512 * random.below(SIZE / 512))),
            "large" => drop(direct.write_at(&buffer[..MIB as usize], MIB * random.below(SIZE / MIB))),
            "bytes" => drop(file.write_at(&[1], 1000 + random.below(8))),
            "discard" => {
                let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let _ = fallocate(&file, how, 0, SIZE as i64);
            }
            "zeroes" => {
                let how = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let _ = fallocate(&file, how, 0, SIZE as i64);
            }
            "fsync" => drop(file.sync_all()),
            "mapped" => mapped(&file, SIZE),
            "holes" => drop(lseek(&file, random.below(SIZE) as i64, Whence::SeekHole)),
            "names" => drop(std::fs::metadata(format!("nothing {}", random.next()))),
            "stat" => drop(std::fs::metadata(IMAGE)),
            "opens" => drop(File::open(IMAGE)),
            "list" => drop(std::fs::read_dir(".").map(Iterator::count)),
            "statfs" => {
                let _ = nix::sys::statfs::statfs(".");
            }
            "refused" if random.below(2) == 0 => drop(File::create(IMAGE)),
            "refused" => drop(OpenOptions::new().append(true).open(IMAGE)),
            "xattr" => {
                let _ = missing_xattr(IMAGE);
            }
            "hoard" => match File::open(IMAGE) {
                Ok(file) => handles.push(file),
                // All that he may have open.
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
            },
            "events" => match File::open(".ioband/events") {
                Ok(mut file) => {
                    let _ = file.read_to_end(&mut Vec::new());
                    let mut wait = [nix::poll::PollFd::new(file.as_fd(), nix::poll::PollFlags::POLLIN)];
                    let _ = nix::poll::poll(&mut wait, 5000_u16);
                }
                Err(error) => panic!("it is open to all: {error}"),
            },
            _ => panic!("{pattern}?"),
        }
        DONE.fetch_add(1, Ordering::Relaxed);
    }
}

/// An extended attribute that is not there.
fn missing_xattr(path: &str) -> i64 {
    let path = std::ffi::CString::new(path).expect("a plain name");
    let name: &CStr = c"user.nothing";
    // SAFETY: both names end with a null byte and live until the call returns; no buffer is given.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) as i64 }
}

/// Maps the image, looks at each page of it and lets go of it again.
fn mapped(file: &File, size: u64) {
    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
    let length = std::num::NonZeroUsize::new(size as usize).expect("it is not empty");
    // SAFETY: a new mapping at a place that the kernel chooses; nobody else knows of it.
    let Ok(at) = (unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0) }) else {
        return;
    };
    for page in 0..size as usize / 4096 {
        // SAFETY: inside the mapping, whose bytes nobody needs to be the same twice.
        unsafe {
            at.cast::<u8>().byte_add(page * 4096).read_volatile();
        }
        DONE.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the mapping is ours and nothing points into it.
    unsafe {
        let _ = madvise(at, size as usize, MmapAdvise::MADV_DONTNEED);
        let _ = munmap(at, size as usize);
    }
    let _ = nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// An attack that is under way.
pub(super) struct Attack(Child);

impl Attack {
    pub(super) fn begin(mount: &Vmdisk, pattern: &str, threads: u32) -> Self {
        let mut command = attacker(mount, std::env::current_exe().expect("this program"));
        command.env(HELPER, format!("{pattern}:{threads}")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program");
        let mut begun = [0; 6];
        child.stdout.as_mut().expect("piped").read_exact(&mut begun).expect("it begins");
        assert_eq!(&begun, b"begun\n");
        Self(child)
    }

    /// Ends it; the calls that have come back.
    pub(super) fn end(mut self) -> u64 {
        drop(self.0.stdin.take());
        let mut said = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut said).expect("it speaks");
        said.trim().parse().expect("a number")
    }

    pub(super) fn kill(&mut self) {
        self.0.kill().expect("it is there");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Requests of victim and attacker so far.
fn counts(mount: &Vmdisk) -> [u64; 2] {
    let groups = mount.groups();
    [VICTIM, ATTACKER].map(|uid| {
        let group = groups.iter().find(|(id, _)| *id == uid.to_string());
        let (_, [reads, _, _, writes, ..]) = group.expect("the group");
        reads + writes
    })
}

/// The victim's load: one request at a time.
pub(super) fn victim(mount: &Vmdisk) -> Load {
    let mut load = Load::spawn();
    load.open(&mount.file("victim.img"), &format!("--uid {VICTIM} --gid {VICTIM} --rw randrw --seconds 600"));
    load
}

/// The victim has its half of the requests while the attacker does what he can. A machine that does something else meanwhile can only
/// make it less, so that two windows of three are enough.
fn starve(pattern: &'static str, threads: u32) {
    let mount = mount(400, "");
    let process = worker(&mount);
    let before = Use::of(process);
    let mut victim = victim(&mount);
    only_the_disk_matters(&mount, [&victim]);
    let attack = Attack::begin(&mount, pattern, threads);
    wait_until(|| counts(&mount)[1] >= 20, || format!("no attack: {:?}", counts(&mount)));
    victim.start();
    // The depth of the disk has to be found first.
    wait_until(|| counts(&mount)[0] >= 400, || format!("the victim stands still: {:?}", counts(&mount)));
    let mut most = before;
    let mut share = || {
        let from = counts(&mount);
        wait_until(
            || {
                most = most.most(Use::of(process));
                counts(&mount)[0] >= from[0] + 250
            },
            || format!("the victim stands still: {:?}", counts(&mount)),
        );
        let to = counts(&mount);
        let [got, lost] = [to[0] - from[0], to[1] - from[1]];
        println!("{pattern}: {got} requests of the victim, {lost} of the attacker");
        assert!(lost > 0, "the attack is over");
        100.0 * got as f64 / (got + lost) as f64
    };
    // Half is his; nine tenths of that are promised.
    let share = median([(); 3].map(|()| share()).into());
    victim.stop();
    let report = victim.report();
    assert_eq!(report.errors, 0, "{report:?}");
    let calls = attack.end();
    println!("{pattern}: {calls} calls came back, {before:?} became {most:?}");
    assert!(share >= 45.0, "the victim has {share:.1} %");
    is_bounded(before, most);
}

/// Whatever callers do, a daemon has its threads (and those of io_uring), some descriptors for callers that it knows, and the
/// memory of its slots.
pub(super) fn is_bounded(before: Use, most: Use) {
    assert!(most.threads <= before.threads + 32, "{before:?} became {most:?}");
    assert!(most.descriptors <= before.descriptors + 5000, "{before:?} became {most:?}");
    assert!(most.memory <= before.memory + (256 << 10), "{before:?} became {most:?}");
}

/// Requests whose callers are gone are answered to nobody, and leave nothing behind.
fn killed() {
    let mount = mount(400, "");
    let mut victim = victim(&mount);
    victim.start();
    let process = worker(&mount);
    let (before, from) = (Use::of(process), counts(&mount));
    let mut most = before;
    for round in 1..=5 {
        let mut attack = Attack::begin(&mount, "sectors", 1000);
        wait_until(
            || counts(&mount)[1] >= from[1] + round * 20,
            || format!("no attack: {:?}", counts(&mount)),
        );
        most = most.most(Use::of(process));
        // The process has ended when its last request is answered or given up.
        attack.kill();
    }
    let now = counts(&mount)[0];
    wait_until(|| counts(&mount)[0] >= now + 100, || "the victim stands still".into());
    victim.stop();
    let report = victim.report();
    assert_eq!(report.errors, 0, "{report:?}");
    println!("{before:?} became {most:?}, the victim had {} requests", report.requests);
    is_bounded(before, most);
    // Nothing of it is held any more.
    mount.wait_for("ls.json", |text| {
        let list: serde_json::Value = serde_json::from_str(text).expect("JSON");
        list["disks"][0]["queued"] == 0 && list["disks"][0]["in_flight"] == 0
    });
}
