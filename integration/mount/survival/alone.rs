//! The keeper is killed: whoever serves goes on. And a keeper to which nobody listens.

use super::{FIVE, five, kill_worker, wait_for_worker};
use crate::daemon::{MOUNT, Vmdisk, ioband, wait_until};
use crate::support::{folder, trial};
use crate::writers::Writers;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use std::process::{Command, Stdio};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("survival: a worker goes on without its keeper", MOUNT, without_keeper),
        trial("survival: a mount is kept though the command that waits for it is gone", MOUNT, untold),
    ]
}

/// What `ioband mount` starts says that the mount answers to nobody.
fn untold() {
    let folder = folder();
    std::fs::write(folder.path().join("vmdisk.yaml"), FIVE).expect("a configuration");
    let (reader, stdout) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_ioband"))
        .args(["mount", "--foreground", "--ready", "vmdisk.yaml", "vmdisk", "--log", "log"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(stdout)
        .spawn()
        .expect("it starts");
    let events = folder.path().join("vmdisk/.ioband/events");
    let is_served = || std::fs::read_to_string(&events).is_ok_and(|events| events.contains("mounted at"));
    wait_until(is_served, || "it does not serve".into());
    let mount = Vmdisk::of(folder);
    assert!(kill_worker(&mount));
    wait_for_worker(&mount, 0);
    drop(mount);
    keeper.wait().expect("it ends");
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
