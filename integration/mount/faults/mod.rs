//! Disks that fail, stall, go and come back, under a mount that goes on.

mod gone;
pub(crate) mod stalled;
mod told;

use crate::daemon::{MOUNT, Transport, Vmdisk, ioband};
use crate::support::{Need, trial};
use crate::writers::PATIENCE;
use libtest_mimic::Trial;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::process::Output;
use std::sync::mpsc::channel;

const MIB: u64 = 1 << 20;
/// Loop devices are what stands for disks that go and come.
pub(crate) const LOOP: &[Need] = &[Need::Root, Need::Fuse, Need::LoopDevice, Need::Tool("losetup")];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for by in Transport::BOTH {
        let title = |what: &str| format!("faults: {what}, {}", by.name());
        let devices = [LOOP, by.needs()].concat();
        trials.extend([
            trial(&title("errors go where they belong, and are told once"), by.needs(), move || {
                told::errors(by)
            }),
            trial(&title("short transfers and stalls change no byte"), by.needs(), move || told::pieces(by)),
            trial(&title("a truncated file"), by.needs(), move || told::truncated(by)),
            trial(&title("a disk without room is told of once"), by.needs(), move || told::full(by)),
            trial(&title("a device that ends at nothing, and is back"), &devices, move || gone::shrunk(by)),
            trial(&title("a file on a FUSE mount that hangs"), &devices, move || stalled::file(by)),
            trial(&title("a device that hangs"), &devices, move || stalled::device(by)),
        ]);
    }
    trials.extend([
        // What is in the rings of a worker ends with it.
        trial("faults: a device that goes while nobody serves, and is back", LOOP, gone::between_workers),
        trial("faults: a worker that dies while a device hangs", MOUNT, stalled::successor),
        trial("faults: another disk in its place is not written to", LOOP, gone::another),
        trial("faults: a device on an image of the mount", LOOP, stalled::on_itself),
        trial("faults: a disk is let go when its last write has landed", LOOP, stalled::fence),
        trial("faults: what goes wrong can be edited", MOUNT, told::edited),
    ]);
    trials
}

/// Runs a command on this mount, which must not be kept waiting by anything.
fn say(mount: &Vmdisk, args: &[&str]) -> Output {
    let (folder, words) = (mount.folder().to_owned(), args.join(" "));
    soon(&words.clone(), move || {
        let args: Vec<_> = words.split(' ').chain(["--mountpoint", "vmdisk"]).collect();
        ioband(&folder, &args)
    })
}

/// Does what must not be kept waiting by anything. A thread that hangs all the same is left behind: it ends with what it waits
/// for, which the end of a failed trial sees to.
pub(crate) fn soon<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, done) = channel();
    std::thread::spawn(move || _ = send.send(act()));
    done.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} hangs, or has failed"))
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Lines of events that contain this.
fn told(mount: &Vmdisk, what: &str) -> usize {
    mount.control("events").lines().filter(|line| line.contains(what)).count()
}

/// Saves the running configuration, as an editor does that looks at what comes of it.
fn save(mount: &Vmdisk, text: &str) -> io::Result<()> {
    let mut file = File::create(mount.path().join(".ioband/control.yaml"))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn read(file: &File, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).map(|()| bytes)
}
