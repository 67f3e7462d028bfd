//! What a worker leaves to the next one, when it is killed in the middle of edits, commands and conversations: everything that
//! was changed, everything that is open, and that what was done is not done again.

mod edits;
mod open;

use crate::daemon::{Transport, Vmdisk, wait_until};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;

pub(crate) fn trials() -> Vec<Trial> {
    open::trials().into_iter().chain(edits::trials()).collect()
}

const CONFIG: &str = "devices:\n  d: {path: disk, size: 8MiB, type: user}\nimages:\n  a.img: {device: d, size: 1MiB}\n  \
                      b.img: {device: d, offset: 1MiB, size: 1MiB}\n";

/// A mount whose workers can be killed.
fn mounted() -> Vmdisk {
    Vmdisk::mount_in(crate::support::folder(), CONFIG, &Transport::Dev.and(&[]))
}

/// Kills the worker, and waits until another one serves.
fn kill_worker(mount: &Vmdisk) {
    let before = mount.worker().expect("a worker");
    kill(before, Signal::SIGKILL).expect("it is ours");
    wait_until(
        || mount.worker().is_some_and(|worker| worker != before),
        || "no other worker serves".to_owned(),
    );
}

fn control(mount: &Vmdisk, name: &str) -> PathBuf {
    mount.file(".ioband").join(name)
}

fn open_to(mount: &Vmdisk, name: &str, options: &mut OpenOptions) -> File {
    options.open(control(mount, name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Gives a command by `ctl`, as the program does; what is wrong with it.
fn command(mount: &Vmdisk, text: &str) -> Result<(), String> {
    let mut ctl = open_to(mount, "ctl", OpenOptions::new().read(true).write(true));
    let written = ctl.write_all(format!("{text}\n").as_bytes());
    let mut answer = String::new();
    ctl.read_to_string(&mut answer).map_err(|error| format!("{text}: cannot read its answer: {error}"))?;
    written.map_err(|error| format!("{text}: {error}: {answer}"))
}
