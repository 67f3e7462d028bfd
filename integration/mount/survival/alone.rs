//! The keeper is killed: whoever serves goes on.

use super::five;
use crate::daemon::{MOUNT, ioband, wait_until};
use crate::support::trial;
use crate::writers::Writers;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("survival: a worker goes on without its keeper", MOUNT, without_keeper)]
}

fn without_keeper() {
    let mount = five();
    let writers = Writers::start(&[(mount.file("vm1.img"), 0)], 4);
    writers.wait_for(100);
    let worker = mount.worker().expect("a worker");
    kill(mount.pid(), Signal::SIGKILL).expect("the keeper runs");
    assert!(mount.ended());
    writers.wait_for(writers.answered() + 1000);
    mount.wait_for("ls", |ls| ls.contains(&format!("{worker}, whose keeper has ended")));
    assert_eq!(mount.control("pid").trim(), worker.to_string(), "the process that ends last");
    let refused = ioband(mount.folder(), &["upgrade", "vmdisk"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the process that kept the mount has ended"));
    writers.stop();
    let outcomes = writers.join();
    assert_eq!(outcomes.errors(), 0);
    outcomes.assert_on(&mount.folder().join("disk"));
    let unmounted = || ioband(mount.folder(), &["umount", "vmdisk"]).status.success();
    wait_until(unmounted, || "it cannot be unmounted".into());
    // Whoever takes in orphans may be late to look at what has become of them.
    let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
    assert!(status.is_empty() || status.contains("State:\tZ"), "umount waits for who ends last: {status}");
}
