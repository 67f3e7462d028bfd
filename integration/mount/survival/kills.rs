//! Workers that are killed.

use super::{FIVE, Guest, Load, UNDER_LOAD, five, kill_worker, wait_for_worker};
use crate::daemon::{MOUNT, Transport, Vmdisk, after, ioband, parts, wait_until};
use crate::support::{Random, folder, trial};
use crate::writers::Writers;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Duration;

pub(super) fn trials() -> Vec<Trial> {
    let by_uring = Transport::Uring.needs();
    vec![
        trial("survival: killed workers under verified writes and a guest", UNDER_LOAD, under_load),
        trial("survival: workers that are killed before they serve", UNDER_LOAD, before_they_serve),
        trial("survival: what was changed and counted outlives a worker", MOUNT, what_was_changed),
        trial("survival: shares are right again after a kill", MOUNT, shares),
        trial("survival: a worker that dies while it looks into its own mount", MOUNT, own_mount),
        trial("survival: a disk that is not free yet is waited for, and holds up no other", MOUNT, not_free),
        trial("survival: a worker that dies in its rings ends the mount", by_uring, in_its_rings),
    ]
}

/// After so long a worker has lived, and the deaths before it are forgotten.
const LIFE: Duration = Duration::from_millis(150);

fn under_load() {
    let mount = five();
    let (mut load, mut guest) = (Load::start(&mount, 6), Guest::start(&mount, 1500));
    let mut random = Random::new(61);
    let (mut kills, mut before) = (0, 0);
    while load.runs() || guest.runs() {
        std::thread::sleep(Duration::from_millis(20 + random.below(300)));
        kills += u32::from(kill_worker(&mount));
        if kills % 8 == 0 {
            // On a busy machine none may live long enough to count, and twenty such in a row are the end.
            before = wait_for_worker(&mount, before);
            std::thread::sleep(LIFE);
        }
    }
    load.assert_well(mount.folder());
    guest.assert_well();
    assert!(kills >= 3, "only {kills} were killed");
}

/// Several in a row, each as soon as it is there.
fn before_they_serve() {
    let mount = five();
    let (mut load, mut guest) = (Load::start(&mount, 3), Guest::start(&mount, 500));
    let mut random = Random::new(62);
    let mut before = 0;
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(300 + random.below(100)));
        let mut last = mount.worker();
        kill_worker(&mount);
        for _ in 0..3 {
            wait_until(|| mount.worker().is_some_and(|now| Some(now) != last), || "none follows".into());
            std::thread::sleep(Duration::from_micros(random.below(6000)));
            last = mount.worker();
            kill_worker(&mount);
        }
        before = wait_for_worker(&mount, before);
    }
    while load.runs() || guest.runs() {
        std::thread::sleep(Duration::from_millis(10));
    }
    load.assert_well(mount.folder());
    guest.assert_well();
}

fn what_was_changed() {
    let mount = five();
    let message = |words: &[&str]| {
        let args = [&["message", "d", "0"], words, &["--mountpoint", "vmdisk"]].concat();
        let output = ioband(mount.folder(), &args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    message(&["attach", "vm2.img"]);
    message(&["weight", "vm2.img:300"]);
    let mut image = File::options().read(true).write(true).open(mount.file("vm2.img")).expect("an image");
    image.write_all_at(&[7; 8192], 4096).expect("a write");
    let (table, yaml) = (mount.control("table"), mount.control("control.yaml"));
    counters_outlive(&mount);
    assert_eq!(mount.control("table"), table);
    assert_eq!(mount.control("control.yaml"), yaml);
    let mut bytes = [0; 8192];
    image.read_exact_at(&mut bytes, 4096).expect("the same open file");
    assert_eq!(bytes, [7; 8192]);
    image.read_exact(&mut bytes).expect("at its own place");
    assert_eq!(bytes[4096..], [7; 4096]);
    let events = mount.control("events");
    assert!(events.contains("message d 0 attach vm2.img: done"), "{events}");
    assert!(events.contains("was ended by signal 9; another one serves after"), "{events}");
}

/// Counters are written down a moment later, and what was counted in that moment is lost with the worker. On a busy machine
/// the moment may be long: then it is tried again.
fn counters_outlive(mount: &Vmdisk) {
    let mut workers = 0;
    for wait in [500, 2000, 8000] {
        std::thread::sleep(Duration::from_millis(wait));
        let before = mount.groups();
        assert!(kill_worker(mount));
        workers = wait_for_worker(mount, workers);
        if mount.groups() == before {
            return;
        }
    }
    panic!("counters are not written down");
}

/// Two users, 2:1, on a disk of 2,000 requests a second: within a second after the next worker serves.
fn shares() {
    let config = "devices: {d: {path: disk, size: 64MiB, type: user, groups: {1001: 80, 1002: 40}, \
                  simulate: {iops: 2000}}}\n\
                  images: {a.img: {device: d, size: 32MiB}, b.img: {device: d, offset: 32MiB}}\n";
    let mount = Vmdisk::mount_in(folder(), config, &[]);
    let images = [(mount.file("a.img"), 0), (mount.file("b.img"), 32 << 20)];
    let writers = Writers::start_as(&images, 128, |thread| 1001 + thread as u32 / 2 % 2);
    let requests = || -> Vec<(String, u64)> {
        mount.groups().into_iter().map(|(id, counters)| (id, counters[0] + counters[3])).collect()
    };
    for before in 0..3 {
        let now = requests();
        after(requests, &now, 1000);
        assert!(kill_worker(&mount));
        wait_for_worker(&mount, before);
        // What the disk does in half a second may be anything.
        after(requests, &requests(), 1000);
        let got = parts(requests, 400);
        assert!((got[1].1 - 66.7).abs() < 4.0, "not 66.7 %: {got:?}");
    }
    writers.stop();
    let outcomes = writers.join();
    assert_eq!(outcomes.errors(), 0);
    outcomes.assert_on(&mount.folder().join("disk"));
}

/// A device whose path is in the mount is refused; to see that it is, the worker asks itself. It must not be waited for by the
/// next one, which alone could answer, when it is killed in between.
fn own_mount() {
    let mount = five();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let load = |thread: usize| {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let table = format!("0 8 ioband vmdisk/vm{thread}.img 9 0 0 none weight 0 :1");
            let args = ["create", "own", "--table", &table, "--mountpoint", "vmdisk"];
            assert!(!ioband(mount.folder(), &args).status.success());
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=3).map(|thread| scope.spawn(move || load(thread))).collect();
        let mut random = Random::new(63);
        let mut before = 0;
        for _ in 0..15 {
            std::thread::sleep(Duration::from_millis(20 + random.below(50)));
            if kill_worker(&mount) {
                before = wait_for_worker(&mount, before);
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().expect("refused"));
    });
}

/// Between two workers a disk is free for a moment, and somebody takes it, as the last writes of a dead worker may have it for
/// longer.
fn not_free() {
    let config = "devices: {d: {path: disk, size: 16MiB, id: 1}, e: {path: disk2, size: 16MiB, id: 2}}\n\
                  images: {a.img: {device: d}, b.img: {device: e}}\n";
    let mount = Vmdisk::mount(config);
    let [a, b] = ["a.img", "b.img"]
        .map(|name| File::options().read(true).write(true).open(mount.file(name)).expect("an image"));
    a.write_all_at(&[1; 4096], 0).expect("a write");
    b.write_all_at(&[2; 4096], 0).expect("a write");
    let mut before = 0;
    let taken = loop {
        let disk = File::open(mount.folder().join("disk")).expect("the disk");
        let mut last = mount.worker();
        assert!(kill_worker(&mount));
        let mut disk = Some(disk);
        let mut taken = None;
        while taken.is_none() && mount.worker().is_none_or(|now| Some(now) == last) {
            let file = disk.take().expect("it comes back");
            match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
                Ok(lock) => taken = Some(lock),
                Err((file, _)) => disk = Some(file),
            }
            last = last.or(mount.worker());
        }
        before = wait_for_worker(&mount, before);
        if let Some(lock) = taken {
            break lock;
        }
    };
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        a.read_exact_at(&mut bytes, 0).map(|()| bytes)
    });
    // The other one is served.
    let mut bytes = [0; 4096];
    b.read_exact_at(&mut bytes, 0).expect("a read");
    assert_eq!(bytes, [2; 4096]);
    mount.wait_for("ls", |ls| ls.lines().any(|line| line.starts_with("d ") && line.ends_with(" 1")));
    assert!(!reader.is_finished(), "it is not waited for");
    drop(taken);
    assert_eq!(reader.join().expect("it ends").expect("a read"), [1; 4096]);
}

fn in_its_rings() {
    let mount = Vmdisk::mount_in(folder(), FIVE, &Transport::Uring.and(&[]));
    assert!(mount.control("ls").contains("does not survive"), "{}", mount.control("ls"));
    let images = [(mount.file("vm1.img"), 0)];
    let writers = Writers::start_as(&images, 16, |_| 0);
    writers.wait_for(100);
    assert!(kill(mount.worker().expect("a worker"), Signal::SIGKILL).is_ok());
    // Nobody waits for ever, and nothing is there that would not answer.
    let outcomes = writers.join();
    assert!(mount.ended());
    assert_eq!(outcomes.errors(), 16);
    outcomes.assert_on(&mount.folder().join("disk"));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(mount.path().to_str().expect("a plain path")), "still mounted");
}
