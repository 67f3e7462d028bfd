//! The end of a mount, whoever ends it and how: nobody who waits is left without an answer, and nothing that was
//! answered is lost.
//!
//! The device is simulated so slow that requests are held when the end comes. Time decides nothing here: each trial
//! waits for what must come, and the time-outs only turn a hang into a failure.

use crate::daemon::{MOUNT, Transport, Vmdisk, ioband, wait_until};
use crate::load::Load;
use crate::others::{Call, Others};
use crate::support::{Need, run, trial};
use crate::writers::{BLOCK, Writers};
use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Output;

pub(crate) fn trials() -> Vec<Trial> {
    const WITH_FUSERMOUNT: &[Need] = &[Need::Root, Need::Fuse, Need::Tool("fusermount3")];
    const THREADS: &[&str] = &["--backend", "threads"];
    let mut trials = vec![
        trial("SIGTERM answers everybody with threads", MOUNT, || by_signal(Signal::SIGTERM, THREADS)),
        trial("SIGTERM answers reads, fsyncs, fallocates and seeks with threads", MOUNT, || {
            others_by_signal(THREADS);
        }),
        trial("umount returns when the device is free", MOUNT, free_at_once),
        trial("a mount ended by umount(8)", MOUNT, || ended_by(&["umount"])),
        trial("a mount ended by fusermount3", WITH_FUSERMOUNT, || ended_by(&["fusermount3", "-u"])),
        trial("an old daemon does not unmount its successor", MOUNT, successor),
    ];
    for by in Transport::BOTH {
        let mut add = |what: &str, run: Box<dyn FnOnce() + Send>| {
            trials.push(trial(&format!("{what}, by {}", by.name()), by.needs(), run));
        };
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let what = format!("{signal} answers everybody and keeps every answered write");
            add(&what, Box::new(move || by_signal(signal, &by.and(&[]))));
        }
        let others = move || others_by_signal(&by.and(&[]));
        add("SIGTERM answers reads, fsyncs, fallocates and seeks", Box::new(others));
        let refused = "umount is refused while files are open and loses nothing";
        add(refused, Box::new(move || refused_while_open(by)));
        add("umount works once a killed caller has its answers", Box::new(move || killed_caller(by)));
        add("umount --lazy ends with the last open file", Box::new(move || lazily(by)));
        add("umount --lazy answers all that is held, and well", Box::new(move || lazily_while_held(by)));
        add("an aborted mount leaves no dead one behind", Box::new(move || aborted(by)));
        let killed = "a killed daemon leaves nobody waiting and nothing fsynced lost";
        add(killed, Box::new(move || killed_daemon(by)));
    }
    trials
}

/// Two groups on a device that does 200 requests a second, so that 200 writers keep it a second behind.
const HELD: &str = "
devices:
  ioband1: {path: disk, size: 64MiB, type: image, groups: {vm1.img: 80, vm2.img: 40}, simulate: {iops: 200}}
images:
  vm1.img: {device: ioband1, offset: 0, size: 32MiB}
  vm2.img: {device: ioband1, offset: 32MiB, size: 32MiB}
";
const VM2: u64 = 32 << 20;
const WRITERS: usize = 200;
/// So many answers prove that requests are flowing.
const FLOWING: usize = 20;

fn held(by: Transport) -> Vmdisk {
    Vmdisk::mount_in(crate::support::folder(), HELD, &by.and(&[]))
}

/// Writers on both images of [`HELD`], some with answers and most with a request that is held.
fn writers(mount: &Vmdisk) -> Writers {
    let images = [(mount.file("vm1.img"), 0), (mount.file("vm2.img"), VM2)];
    let writers = Writers::start(&images, WRITERS);
    writers.wait_for(FLOWING);
    wait_for_held(mount, WRITERS * 3 / 4);
    writers
}

/// Waits until so many requests are held in the daemon. That callers have been started does not say so: on a busy
/// machine most of them have not got as far as the kernel when the first have their answers.
fn wait_for_held(mount: &Vmdisk, requests: usize) {
    wait_until(|| mount.held() >= requests as u64, || format!("only {} are held", mount.held()));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_unmounted(mount: &Vmdisk) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let path = mount.path();
    assert!(!mounts.contains(path.to_str().expect("a plain path")), "still mounted:\n{mounts}");
}

fn by_signal(signal: Signal, args: &[&str]) {
    let mut mount = Vmdisk::mount_in(crate::support::folder(), HELD, args);
    let writers = writers(&mount);
    kill(mount.pid(), signal).expect("the daemon runs");
    let written = writers.join();
    assert!(mount.ended(), "the daemon does not end");
    assert!(written.len() >= FLOWING + WRITERS / 2, "held requests were thrown away: {}", written.len());
    written.assert_on(&mount.folder().join("disk"));
    assert_unmounted(&mount);
    // The lock on the device went with the daemon.
    mount.again(&[]);
}

/// Images enough for many of the calls that the kernel makes one after the other for each image to be under way.
const IMAGES: usize = 16;
/// Threads for each of the other calls: five times as many in all.
const FOR_EACH: usize = 48;

/// A device that does 200 requests a second, shared by many images.
fn many_images() -> String {
    let image = |number| format!("  vm{number}.img: {{device: d, offset: {}MiB, size: 4MiB}}\n", 4 * number);
    let images: String = (0..IMAGES).map(image).collect();
    let weights = "type: image, groups: {vm0.img: 80, vm1.img: 40}";
    format!(
        "devices: {{d: {{path: disk, size: 64MiB, {weights}, simulate: {{iops: 200}}}}}}\nimages:\n{images}"
    )
}

/// Every call but writes on the images of [`many_images`], of each kind some answered and more held.
fn others(mount: &Vmdisk) -> Others {
    let images: Vec<_> = (0..IMAGES).map(|number| mount.file(&format!("vm{number}.img"))).collect();
    let others = Others::start(&images, FOR_EACH);
    others.wait_for(1);
    // The kernel lets an image have but one of the other calls under way, so that all the rest are reads.
    wait_for_held(mount, IMAGES + FOR_EACH * 2 / 3);
    others
}

fn others_by_signal(args: &[&str]) {
    let mut mount = Vmdisk::mount_in(crate::support::folder(), &many_images(), args);
    let others = others(&mount);
    kill(mount.pid(), Signal::SIGTERM).expect("the daemon runs");
    let outcomes = others.join();
    assert!(mount.ended(), "the daemon does not end");
    // Nothing makes the reads of an image wait for each other: nearly all of them were held in the daemon, and have
    // had their answers by their end. What waited in the kernel for its turn may be refused.
    let reads = outcomes.iter().filter(|outcome| outcome.call == Call::Read && outcome.answered > 0).count();
    assert!(reads >= FOR_EACH / 2, "held reads were thrown away: {reads} of {FOR_EACH} were answered");
    // They go on until they are refused, which only the end of the mount may do: by the daemon, or by the kernel once
    // that is gone (ECANCELED for what was on its way to it by io_uring).
    let by_the_end = |errno: Option<Errno>| {
        let by_kernel = [Errno::ECONNABORTED, Errno::ENOTCONN, Errno::ECANCELED];
        errno == Some(Errno::ESHUTDOWN) || errno.is_some_and(|errno| by_kernel.contains(&errno))
    };
    let refused = outcomes.iter().map(|outcome| (outcome.call, outcome.refused));
    let otherwise: Vec<_> = refused.filter(|(_, errno)| !by_the_end(*errno)).collect();
    assert_eq!(otherwise, [], "somebody was refused for another reason");
    assert_unmounted(&mount);
    // The lock on the device went with the daemon.
    mount.again(&[]);
}

fn refused_while_open(by: Transport) {
    let mount = held(by);
    let writers = writers(&mount);
    let refused = ioband(mount.folder(), &["umount", "vmdisk"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("is in use: files on it are open"), "{}", said(&refused));
    // It goes on as if nobody had asked.
    let flowing = writers.answered();
    writers.wait_for(flowing + FLOWING);
    writers.stop();
    let written = writers.join();
    assert_eq!(written.errors(), 0, "a refused umount disturbed somebody");
    written.assert_on(&mount.folder().join("disk"));
    mount.umount_with(&[]);
    assert_unmounted(&mount);
}

fn free_at_once() {
    let mut mount = Vmdisk::mount(HELD);
    for round in 0..20 {
        let image = File::options().read(true).write(true).open(mount.file("vm1.img")).expect("an image");
        image.write_all_at(&[round; 512], u64::from(round) * 512).expect("a write");
        drop(image);
        mount.umount_with(&[]);
        assert!(!mount.runs(), "umount returned before the daemon had ended (round {round})");
        mount.again(&[]);
    }
    let mut sectors = [0; 20 * 512];
    let image = File::open(mount.file("vm1.img")).expect("an image");
    image.read_exact_at(&mut sectors, 0).expect("a read");
    assert!((0..20).all(|round| sectors[round * 512..][..512] == [round as u8; 512]), "a round is missing");
}

fn killed_caller(by: Transport) {
    let mount = held(by);
    let (mut load, mut other) = (Load::spawn(), Load::spawn());
    load.open(&mount.file("vm1.img"), "--rw write --depth 200");
    other.open(&mount.file("vm2.img"), "--rw read --depth 8");
    load.start();
    other.start();
    // Requests flow once some are counted; most of the 200 are held then.
    mount.wait_for("status", |status| writes(status) >= FLOWING as u64);
    kill(Pid::from_raw(load.pid() as i32), Signal::SIGKILL).expect("the generator runs");
    // Waits for its end, which comes when each of its requests has its answer.
    drop(load);
    // Nobody else was disturbed.
    other.stop();
    let report = other.report();
    assert!(report.errors == 0 && report.requests > 0, "{report:?}");
    drop(other);
    mount.umount_with(&[]);
    assert!(!mount.runs());
}

/// Write requests of all groups, from a status line.
fn writes(status: &str) -> u64 {
    let fields: Vec<_> = status.split_whitespace().skip(5).collect();
    fields.chunks(7).filter_map(|group| group.get(4)?.parse::<u64>().ok()).sum()
}

fn lazily(by: Transport) {
    let mount = held(by);
    let image = File::options().read(true).write(true).open(mount.file("vm1.img")).expect("an image");
    let done = ioband(mount.folder(), &["umount", "--lazy", "vmdisk"]);
    assert!(done.status.success(), "{}", said(&done));
    assert_unmounted(&mount);
    image.write_all_at(b"still here", 0).expect("who has the file open keeps it");
    drop(image);
    assert!(mount.ended(), "the daemon outlives the last open file");
    let mut found = [0; 10];
    let disk = File::open(mount.folder().join("disk")).expect("the device");
    disk.read_exact_at(&mut found, 0).expect("a read");
    assert_eq!(&found, b"still here");
}

fn lazily_while_held(by: Transport) {
    let mount = held(by);
    let writers = writers(&mount);
    let images = [mount.file("vm1.img"), mount.file("vm2.img")];
    let others = Others::start(&images, 2);
    let done = ioband(mount.folder(), &["umount", "--lazy", "vmdisk"]);
    assert!(done.status.success(), "{}", said(&done));
    assert_unmounted(&mount);
    // Who has a file open notices nothing.
    let flowing = writers.answered();
    writers.wait_for(flowing + FLOWING);
    others.wait_for(1);
    writers.stop();
    others.stop();
    let refused: Vec<_> = others.join().iter().filter_map(|o| Some((o.call, o.refused?))).collect();
    assert_eq!(refused, [], "a lazy umount disturbed somebody");
    let written = writers.join();
    assert_eq!(written.errors(), 0, "a lazy umount disturbed somebody");
    assert!(mount.ended(), "the daemon outlives the last open file");
    written.assert_on(&mount.folder().join("disk"));
}

fn ended_by(program: &[&str]) {
    let mut mount = Vmdisk::mount(HELD);
    mount.umount_with(program);
    assert!(mount.ended(), "the daemon does not end");
    assert_unmounted(&mount);
    mount.again(&[]);
}

fn aborted(by: Transport) {
    let mut mount = held(by);
    let writers = writers(&mount);
    // Mostly it is busy, so that it stays mounted; but the kernel has cut it off by then. Who has heard of that in time has
    // closed his file, and the daemon has detached what was left before umount(8) got to it.
    let path = mount.path();
    let forced = run("umount", &["-f", path.to_str().expect("a plain path")]);
    if let Err(words) = forced {
        assert!(words.contains("busy") || words.contains("not mounted"), "{words}");
    }
    let written = writers.join();
    assert!(mount.ended(), "the daemon does not end");
    written.assert_on(&mount.folder().join("disk"));
    assert_unmounted(&mount);
    mount.again(&by.and(&[]));
}

fn killed_daemon(by: Transport) {
    let mut mount = held(by);
    let image = File::options().read(true).write(true).open(mount.file("vm2.img")).expect("an image");
    let last = VM2 - BLOCK as u64;
    image.write_all_at(&[0xa5; BLOCK], last).expect("a write");
    image.sync_all().expect("an fsync");
    let writers = writers(&mount);
    mount.kill_all();
    // They come back, with an error.
    let written = writers.join();
    assert!(mount.ended());
    // With an error means: nobody was told of a write that did not happen.
    written.assert_on(&mount.folder().join("disk"));
    drop(image);

    let refused = ioband(mount.folder(), &["mount", "config.yaml", "vmdisk"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("vmdisk is a stale FUSE mount"), "{}", said(&refused));
    assert!(said(&refused).contains("clear it with `ioband umount vmdisk`"), "{}", said(&refused));
    let blind = ioband(mount.folder(), &["table", "--mountpoint", "vmdisk"]);
    assert!(said(&blind).contains("is a stale FUSE mount"), "{}", said(&blind));
    // Also by another name.
    std::os::unix::fs::symlink("vmdisk", mount.folder().join("link")).expect("a symbolic link");
    let cleared = ioband(mount.folder(), &["umount", "link"]);
    assert!(cleared.status.success(), "{}", said(&cleared));
    assert_unmounted(&mount);

    mount.again(&by.and(&[]));
    let image = File::open(mount.file("vm2.img")).expect("an image");
    let mut found = vec![0; BLOCK];
    image.read_exact_at(&mut found, last).expect("a read");
    assert_eq!(found, [0xa5; BLOCK], "an fsynced write is gone");
}

/// A daemon that was unmounted lazily lives on; when it is told to end, another mount may be where its own was.
fn successor() {
    let old = Vmdisk::mount(HELD);
    let image = File::open(old.file("vm1.img")).expect("an image");
    assert!(ioband(old.folder(), &["umount", "--lazy", "vmdisk"]).status.success());
    let config = HELD.replace("path: disk", "path: disk2");
    std::fs::write(old.folder().join("config2.yaml"), config).expect("a configuration");
    let new = old.beside("config2.yaml");
    kill(old.pid(), Signal::SIGTERM).expect("the daemon runs");
    assert!(old.ended());
    drop(image);
    assert!(new.runs(), "the new daemon has lost its mount");
    assert_eq!(new.control("pid").trim(), new.pid().to_string());
}
