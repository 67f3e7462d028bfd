//! Weights are kept through a real mount, whatever callers are told apart by.
//!
//! The device is simulated at 2,000 requests a second, which a test machine can follow: what is measured is how the
//! requests are divided, never how many there are.

use crate::daemon::{MOUNT, Vmdisk};
use crate::load::{Load, Report};
use crate::support::trial;
use crate::windows::only_the_disk_matters;
use crate::writers::PATIENCE;
use libtest_mimic::Trial;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

/// Points of a hundred that a share may be off.
const TOLERANCE: f64 = 1.5;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("users share 80:40", MOUNT, || by_ids("user", "--uid", [80, 40])),
        trial("users share 40:80", MOUNT, || by_ids("user", "--uid", [40, 80])),
        trial("gids share 80:40", MOUNT, || by_ids("gid", "--gid", [80, 40])),
        trial("gids share 40:80", MOUNT, || by_ids("gid", "--gid", [40, 80])),
        trial("process groups share 80:40", MOUNT, || by_process("pgrp", "", [80, 40])),
        trial("process groups share 40:80", MOUNT, || by_process("pgrp", "", [40, 80])),
        trial("processes share 80:40 by their other threads", MOUNT, || {
            by_process("pid", "--off-main", [80, 40])
        }),
        trial("processes share 40:80 by their other threads", MOUNT, || {
            by_process("pid", "--off-main", [40, 80])
        }),
        trial("images share 80:40", MOUNT, by_image),
        trial("bytes are shared 50:50 under weight-iosize", MOUNT, || sectors([50, 50])),
        trial("bytes are shared 80:40 under weight-iosize", MOUNT, || sectors([80, 40])),
        trial("bytes are shared 40:80 under weight-iosize", MOUNT, || sectors([40, 80])),
        trial("users share 80:40 beside one who makes slow requests", MOUNT, beside_slow_ones),
        trial("two devices on one disk share 30:20:40:10", MOUNT, two_devices),
    ]
}

/// What the loads of a race have in common.
pub(crate) const COMMON: &str = "--depth 8 --seconds 5 --window-start-ms 1000";

/// A mount of two images on one simulated device; `extra` are further keys of the device.
pub(crate) fn two_images(extra: &str) -> Vmdisk {
    Vmdisk::mount(&format!(
        r#"
devices:
  ioband1:
    path: disk
    size: 64MiB
    simulate: {{iops: 2000}}
{extra}
images:
  vm1.img: {{device: ioband1, offset: 0, size: 32MiB, mode: "0666"}}
  vm2.img: {{device: ioband1, offset: 32MiB, size: 32MiB, mode: "0666"}}
"#
    ))
}

/// Both at once, from the same moment; what each got.
pub(crate) fn race(mount: &Vmdisk, loads: &mut [Load]) -> Vec<Report> {
    only_the_disk_matters(mount, &*loads);
    loads.iter_mut().for_each(Load::start);
    let reports: Vec<_> = loads.iter_mut().map(Load::report).collect();
    for report in &reports {
        assert_eq!(report.errors, 0, "{report:?}");
    }
    reports
}

fn assert_shares(got: &[u64], weights: &[u32]) {
    let (total, sum) = (got.iter().sum::<u64>() as f64, f64::from(weights.iter().sum::<u32>()));
    for (got, weight) in got.iter().zip(weights) {
        let (share, ideal) = (100.0 * *got as f64 / total, 100.0 * f64::from(*weight) / sum);
        assert!(
            (share - ideal).abs() <= TOLERANCE,
            "{share:.2} % instead of {ideal:.2} % (all: {got} of {total})"
        );
    }
    println!("{got:?} for {weights:?}");
}

pub(crate) fn requests(reports: &[Report]) -> Vec<u64> {
    reports.iter().map(|report| report.requests).collect()
}

/// Two processes with ids of their own, on one image.
fn by_ids(group_type: &str, option: &str, [a, b]: [u32; 2]) {
    let mount = two_images(&format!("    type: {group_type}\n    groups: {{60001: {a}, 60002: {b}}}"));
    let mut loads: Vec<_> = [60001, 60002]
        .map(|id| {
            let mut load = Load::spawn();
            load.open(&mount.file("vm1.img"), &format!("{COMMON} {option} {id}"));
            load
        })
        .into();
    assert_shares(&requests(&race(&mount, &mut loads)), &[a, b]);
    assert_none_by_default(&mount);
}

/// Two processes that the configuration names by their numbers, on one image.
fn by_process(group_type: &str, option: &str, [a, b]: [u32; 2]) {
    let mut loads = vec![Load::spawn(), Load::spawn()];
    let (first, second) = (loads[0].pid(), loads[1].pid());
    let mount = two_images(&format!("    type: {group_type}\n    groups: {{{first}: {a}, {second}: {b}}}"));
    for load in &mut loads {
        load.open(&mount.file("vm1.img"), &format!("{COMMON} {option}"));
    }
    assert_shares(&requests(&race(&mount, &mut loads)), &[a, b]);
    assert_none_by_default(&mount);
}

/// It was by the groups that are named and not by chance: nobody was counted under the default group.
fn assert_none_by_default(mount: &Vmdisk) {
    let status = mount.control("status");
    let default: Vec<_> = status.split_whitespace().skip(5).take(7).collect();
    assert_eq!(default, ["-1", "0", "0", "0", "0", "0", "0"], "{status}");
}

fn by_image() {
    let mount = two_images("    type: image\n    groups: {vm1.img: 80, vm2.img: 40}");
    let mut loads = vec![Load::spawn(), Load::spawn()];
    loads[0].open(&mount.file("vm1.img"), &format!("{COMMON} --rw write"));
    loads[1].open(&mount.file("vm2.img"), COMMON);
    assert_shares(&requests(&race(&mount, &mut loads)), &[80, 40]);
}

/// Small requests against large ones: it is their bytes that are shared.
///
/// Nearly all requests are small ones. Eight of them last the disk four milliseconds, which their process does not
/// always get back within on a busy machine; 64 last it through that.
fn sectors([small, large]: [u32; 2]) {
    let mount = two_images(&format!(
        "    type: user\n    policy: weight-iosize\n    groups: {{60001: {small}, 60002: {large}}}"
    ));
    let mut loads = vec![Load::spawn(), Load::spawn()];
    loads[0].open(&mount.file("vm1.img"), &format!("{COMMON} --uid 60001 --size 4K --depth 64"));
    loads[1].open(&mount.file("vm1.img"), &format!("{COMMON} --uid 60002 --size 64K"));
    let bytes: Vec<_> = race(&mount, &mut loads).iter().map(|report| report.bytes).collect();
    assert_shares(&bytes, &[small, large]);
    assert_none_by_default(&mount);
}

/// Flushes and discards take as long as the real disk needs for them, whatever is simulated. Who waits for one must
/// not change how the others share what is left.
fn beside_slow_ones() {
    let mount = Vmdisk::mount(
        r#"
devices:
  ioband1:
    path: disk
    size: 96MiB
    simulate: {iops: 2000}
    type: user
    groups: {0: 40, 60001: 80, 60002: 40}
images:
  vm1.img: {device: ioband1, offset: 0, size: 32MiB, mode: "0666"}
  vm2.img: {device: ioband1, offset: 32MiB, size: 32MiB, mode: "0666"}
  vm3.img: {device: ioband1, offset: 64MiB, size: 32MiB, mode: "0666"}
"#,
    );
    let mut loads: Vec<_> = [("vm1.img", 60001), ("vm2.img", 60002)]
        .map(|(image, uid)| {
            let mut load = Load::spawn();
            load.open(&mount.file(image), &format!("{COMMON} --uid {uid}"));
            load
        })
        .into();
    // The third is root, this process.
    let slow = Slow::start(&mount.file("vm3.img"));
    let reports = race(&mount, &mut loads);
    let rounds = slow.stop();
    println!("beside {rounds} rounds of slow requests");
    assert!(rounds > 0, "nobody made slow requests");
    assert_shares(&requests(&reports), &[80, 40]);
    assert_none_by_default(&mount);
}

/// Someone who flushes what he wrote and discards it, over and over.
struct Slow {
    stop: Arc<AtomicBool>,
    rounds: Receiver<u64>,
}

impl Slow {
    fn start(image: &Path) -> Self {
        let file = File::options().write(true).open(image).expect("an image");
        let (stop, (send, rounds)) = (Arc::new(AtomicBool::new(false)), channel());
        let stopped = stop.clone();
        // Not joined: a trial that fails must get on to take its mount down, which ends a call that hangs.
        std::thread::spawn(move || {
            let mut done = 0;
            while !stopped.load(Ordering::Relaxed) {
                round(&file).expect("slow, but well");
                done += 1;
            }
            // Closed before it is told: who hears of it may unmount.
            drop(file);
            // Nobody listens when the trial has failed already.
            let _ = send.send(done);
        });
        Self { stop, rounds }
    }

    /// No more of them; how many rounds there were.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.rounds.recv_timeout(PATIENCE).expect("slow requests are answered")
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn round(file: &File) -> io::Result<()> {
    const LENGTH: usize = 1 << 20;
    // Something to flush and to discard: the room for it has to be found each time, and to be given back.
    file.write_all_at(&[0xa5; LENGTH], 0)?;
    file.sync_all()?;
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file, punch, 0, LENGTH as i64)?)
}

/// The example of dm-ioband's document: groups of 30 and 20 beside a default of 40, and another device of 10.
fn two_devices() {
    let mount = Vmdisk::mount(
        r#"
devices:
  ioband1:
    path: disk1
    size: 32MiB
    id: 1
    simulate: {iops: 2000}
    type: user
    weight: 40
    groups: {60001: 30, 60002: 20}
  ioband2: {path: disk2, size: 32MiB, id: 1, weight: 10}
images:
  vm1.img: {device: ioband1, mode: "0666"}
  vm2.img: {device: ioband2, mode: "0666"}
"#,
    );
    let runs = [("vm1.img", 60001), ("vm1.img", 60002), ("vm1.img", 60003), ("vm2.img", 60001)];
    let mut loads: Vec<_> = runs
        .iter()
        .map(|(image, uid)| {
            let mut load = Load::spawn();
            load.open(&mount.file(image), &format!("{COMMON} --uid {uid}"));
            load
        })
        .collect();
    assert_shares(&requests(&race(&mount, &mut loads)), &[30, 20, 40, 10]);
}
