//! Devices that do not answer. What hangs here is another mount, whose worker is stopped for as long as it takes.

use super::{MIB, errno, read, save, say, soon};
use crate::daemon::{Transport, Vmdisk, ioband, wait_until};
use crate::data::stage::open_file;
use crate::support::{Loop, folder};
use ioband::device::{OpenError, OpenMode, Target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A mount with one image that others use as their disk.
pub(crate) fn below() -> Vmdisk {
    let config = "devices: {d: {path: disk, size: 16MiB}}\nimages: {disk.img: {device: d}}\n";
    Vmdisk::mount_in(folder(), config, &Transport::Dev.and(&[]))
}

/// A worker that is stopped; it goes on in the end.
pub(crate) struct Stopped(Pid);

impl Stopped {
    pub(crate) fn new(mount: &Vmdisk) -> Self {
        let worker = mount.worker().expect("a worker");
        kill(worker, Signal::SIGSTOP).expect("it is ours");
        // Each of its threads stops when it comes to that.
        let is_stopped = |thread: std::fs::DirEntry| {
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("State:") && line.contains("T (stopped)"))
        };
        let threads = || std::fs::read_dir(format!("/proc/{worker}/task")).expect("it is there").flatten();
        wait_until(|| threads().all(is_stopped), || format!("{worker} does not stop"));
        Self(worker)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// The file of another FUSE mount is the disk. To io_uring such a file is one that may be waited for on the spot.
pub(super) fn file(by: Transport) {
    let below = below();
    let path = below.file("disk.img");
    goes_on_without(&below, &path, by);
}

pub(super) fn device(by: Transport) {
    let below = below();
    let device = Loop::attach(&below.file("disk.img"), 512);
    goes_on_without(&below, device.path(), by);
}

/// Whoever uses the disk that hangs waits; nobody else does.
fn goes_on_without(below: &Vmdisk, path: &Path, by: Transport) {
    let config = format!(
        "devices:\n  slow: {{path: {}, type: user, groups: {{0: 10}}}}\n  good: {{path: good.disk, size: 8MiB, id: 2}}\n\
         images: {{slow.img: {{device: slow}}, good.img: {{device: good}}}}\n",
        path.display()
    );
    let mount = Vmdisk::mount_in(folder(), &config, &by.and(&[]));
    let [slow, good] = ["slow.img", "good.img"].map(|name| open_file(&mount, name, libc::O_DIRECT));
    slow.write_all_at(&[1; 4096], 0).expect("writing");
    let stopped = Stopped::new(below);
    let waiting: Vec<_> = (0..8)
        .map(|at: u64| {
            let slow = slow.try_clone().expect("a descriptor");
            std::thread::spawn(move || match at % 2 {
                0 => read(&slow, 0, 4096).map(|bytes| bytes[0]),
                _ => slow.write_all_at(&[at as u8; 4096], at * 4096).map(|()| 1),
            })
        })
        .collect();
    // They are with the device, or will be soon; whatever comes now comes behind them.
    let file = good.try_clone().expect("a descriptor");
    soon("another disk", move || {
        for round in 0..200 {
            let at = round % 100 * 4096;
            file.write_all_at(&[round as u8; 4096], at).expect("another disk");
            assert_eq!(read(&file, at, 4096).expect("another disk"), [round as u8; 4096]);
        }
    });
    for command in [&["ls"][..], &["table"], &["status"], &["message", "slow", "0", "weight", "0:20"]] {
        let output = say(&mount, command);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(waiting.iter().all(|thread| !thread.is_finished()), "somebody was answered by nobody");
    // To unmount lazily waits for nobody either.
    let path = mount.path();
    let output = ioband(mount.folder(), &["umount", "--lazy", path.to_str().expect("a plain path")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(waiting.iter().all(|thread| !thread.is_finished()));
    drop(stopped);
    for thread in waiting {
        assert_eq!(thread.join().expect("it waits for its answer").expect("its answer"), 1);
    }
    for at in [1, 3, 5, 7] {
        assert_eq!(read(&slow, at * 4096, 4096).expect("reading"), [at as u8; 4096]);
    }
    drop((slow, good));
    assert!(mount.ended(), "the daemon ends with its last file");
}

/// A worker dies while one of its disks hangs: the next one serves the other disk, and takes edits, as if that were all.
pub(super) fn successor() {
    let below = below();
    let config = format!(
        "devices:\n  slow: {{path: {}}}\n  good: {{path: good.disk, size: 8MiB, id: 2}}\n\
         images: {{slow.img: {{device: slow}}, good.img: {{device: good}}}}\n",
        below.file("disk.img").display()
    );
    let mount = Vmdisk::mount_in(folder(), &config, &Transport::Dev.and(&[]));
    let [slow, good] = ["slow.img", "good.img"].map(|name| open_file(&mount, name, libc::O_DIRECT));
    slow.write_all_at(&[1; 4096], 0).expect("writing");
    let stopped = Stopped::new(&below);
    let worker = mount.worker().expect("a worker");
    kill(worker, Signal::SIGKILL).expect("it is ours");
    let file = good.try_clone().expect("a descriptor");
    soon("another disk", move || {
        file.write_all_at(&[2; 4096], 0).expect("another disk");
        assert_eq!(read(&file, 0, 4096).expect("another disk"), [2; 4096]);
    });
    assert_ne!(mount.worker(), Some(worker));
    let control = mount.path().join(".ioband/control.yaml");
    let edited = config.replace("id: 2", "id: 2, weight: 70");
    soon("an edit", move || std::fs::write(control, edited).expect("an edit"));
    for command in [&["ls"][..], &["table"], &["status"], &["message", "slow", "0", "weight", "20"]] {
        let output = say(&mount, command);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let table = say(&mount, &["table"]).stdout;
    let table = String::from_utf8_lossy(&table);
    assert!(table.contains(":70") && table.contains(":20"), "{table}");
    drop(stopped);
    wait_until(|| read(&slow, 0, 4096).is_ok_and(|bytes| bytes == [1; 4096]), || mount.control("events"));
}

/// A device cannot stand on the mount that it is for, however far below.
pub(super) fn on_itself() {
    let config = "devices: {d: {path: disk, size: 16MiB}}\nimages: {a.img: {device: d}}\n";
    let mount = Vmdisk::mount_in(folder(), config, &Transport::Dev.and(&[]));
    let first = Loop::attach(&mount.file("a.img"), 512);
    let second = Loop::attach(first.path(), 512);
    for device in [&first, &second] {
        let more = format!("devices:\n  x: {{path: {}, id: 7}}\n  d: {{path: disk", device.path().display());
        let new = config.replace("devices: {d: {path: disk", &more).replace("16MiB}}", "16MiB}");
        assert_eq!(errno(save(&mount, &new)), Some(libc::EINVAL), "{new}");
        let events = mount.control("events");
        assert!(events.contains("in this very mount, or on a file that is"), "{events}");
    }
    // The mount goes on.
    open_file(&mount, "a.img", 0).write_all_at(&[1; 512], MIB).expect("writing");
}

/// A process that keeps 32 writes to a disk in flight is killed: the disk cannot be had before they have landed.
pub(super) fn fence() {
    let below = below();
    let device = Loop::attach(&below.file("disk.img"), 512);
    for backend in ["io_uring", "threads"] {
        let mut writer = Command::new(program())
            .args(["--write", device.path().to_str().expect("a plain path"), backend])
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process that writes");
        let mut line = String::new();
        BufReader::new(writer.stdout.take().expect("a pipe")).read_line(&mut line).expect("a word");
        assert_eq!(line.trim(), "writing");
        let stopped = Stopped::new(&below);
        // What was not answered before it was stopped is never answered. The process may have to come to make the next ones.
        let name = device.path().file_name().expect("a name").to_str().expect("plain");
        let in_flight = || {
            let numbers = fs::read_to_string(format!("/sys/block/{name}/inflight")).expect("numbers");
            numbers.split_whitespace().any(|number| number != "0")
        };
        wait_until(in_flight, || "nothing is in flight".into());
        writer.kill().expect("it is ours");
        let impatient = OpenMode { patience: Some(Duration::from_millis(300)), ..OpenMode::default() };
        let refused = Target::open(device.path(), None, impatient);
        assert!(matches!(refused, Err(OpenError::InUse { .. })), "{backend}: {refused:?}");
        drop(stopped);
        writer.wait().expect("it ends");
        let patient = OpenMode { patience: Some(Duration::from_secs(60)), ..OpenMode::default() };
        Target::open(device.path(), None, patient).expect("its writes have landed");
        let landed = bytes(&below);
        std::thread::sleep(Duration::from_millis(100));
        assert!(landed == bytes(&below), "{backend}: something was written behind the fence");
    }
}

/// What is on the disk of the mount below.
fn bytes(below: &Vmdisk) -> Vec<u8> {
    let file = File::open(below.folder().join("disk")).expect("the disk");
    read(&file, 0, 16 * MIB as usize).expect("reading")
}

fn program() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_ioband")).with_file_name("examples").join("fence");
    assert!(path.exists(), "{} is missing: run `cargo build --example fence` once", path.display());
    path
}
