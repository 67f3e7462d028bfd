//! Nothing left: no room for the log, none to save, no descriptors, no more room for a configuration.

use super::{peak, requests, worker};
use crate::daemon::{MOUNT, Vmdisk, ioband};
use crate::load::Load;
use crate::support::{Mounted, Need, folder, trial};
use libtest_mimic::Trial;
use std::path::Path;
use std::process::Command;

const CONFIG: &str =
    "devices: {d: {path: disk, size: 8MiB, type: user}}\nimages: {vm1.img: {device: d, mode: \"0666\"}}\n";

pub(super) fn trials() -> Vec<Trial> {
    const TMPFS: &[Need] = &[Need::Root, Need::Fuse, Need::Tool("mount")];
    const LIMITED: &[Need] = &[Need::Root, Need::Fuse, Need::Tool("prlimit")];
    vec![
        trial("bounds: a log on a full disk is cut short, and goes on when there is room", TMPFS, full_log),
        trial("bounds: what cannot be saved leaves the old file as it is", TMPFS, full_save),
        trial("bounds: without descriptors callers are still told apart", LIMITED, no_descriptors),
        trial("bounds: groups that could not be saved are refused", MOUNT, too_many_groups),
    ]
}

/// A small filesystem, full but for what is there already.
struct Full(Mounted);

impl Full {
    fn new() -> Self {
        Self(Mounted::new(&["-t", "tmpfs", "-o", "size=256k", "ioband-test"]))
    }

    fn fill(&self) {
        let ballast = std::fs::write(self.0.path().join("ballast"), vec![1; 1 << 20]);
        assert_eq!(ballast.expect_err("it is small").kind(), std::io::ErrorKind::StorageFull);
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.path().join("ballast")).expect("ballast");
    }
}

fn message(mount: &Vmdisk, words: &[&str]) -> Result<(), String> {
    let path = mount.path();
    let args = [&["message", "--mountpoint", path.to_str().expect("a plain path"), "d", "0"], words].concat();
    let output = ioband(mount.folder(), &args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

fn full_log() {
    let disk = Full::new();
    let log = disk.0.path().join("log");
    let at = folder();
    std::fs::write(at.path().join("config.yaml"), CONFIG).expect("a configuration");
    let made = ioband(at.path(), &["mount", "config.yaml", "vmdisk", "--log", log.to_str().expect("plain")]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mount = Vmdisk::of(at);
    disk.fill();
    let size = || log.metadata().expect("the log").len();
    // Each message is a line. What is left of the log's last block is filled.
    for number in 0..100 {
        message(&mount, &["attach", &number.to_string()]).expect("it is in force");
    }
    let full = size();
    message(&mount, &["attach", "1000"]).expect("it is in force");
    assert_eq!(size(), full, "there was no room");
    let image = mount.file("vm1.img");
    std::fs::OpenOptions::new()
        .write(true)
        .open(&image)
        .and_then(|file| std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 0))
        .expect("a write");
    disk.empty();
    message(&mount, &["attach", "1001"]).expect("it is in force");
    let text = std::fs::read_to_string(&log).expect("the log");
    assert!(text.contains("attach 1001") && !text.contains("attach 1000"), "{text}");
    assert!(mount.control("events").contains("attach 1000"), "events know it all the same");
}

fn full_save() {
    let disk = Full::new();
    let saved = disk.0.path().join("saved.yaml");
    let mount = Vmdisk::mount(CONFIG);
    let path = mount.path();
    let save = || {
        let args = ["save", "--mountpoint", path.to_str().expect("plain"), saved.to_str().expect("plain")];
        let output = ioband(mount.folder(), &args);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(save(), (true, String::new()));
    let old = std::fs::read_to_string(&saved).expect("what was saved");
    for number in 0..2000 {
        attach(&mount.path(), number).expect("it is in force");
    }
    disk.fill();
    let (done, said) = save();
    assert!(!done && said.contains("No space left"), "{said}");
    assert_eq!(std::fs::read_to_string(&saved).expect("it is there"), old);
    let mut names: Vec<_> = std::fs::read_dir(disk.0.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .collect();
    names.sort();
    assert_eq!(names, ["ballast", "saved.yaml"]);
    disk.empty();
    assert_eq!(save(), (true, String::new()));
    assert!(std::fs::read_to_string(&saved).expect("it is there").len() > old.len());
}

/// Attaches a group through `ctl`, which takes no new process.
fn attach(mount: &Path, number: u32) -> std::io::Result<()> {
    std::fs::write(mount.join(".ioband/ctl"), format!("message d 0 attach {number}\n"))
}

/// More threads than the daemon may have files open.
fn no_descriptors() {
    const FEW: &str = "--nofile=96:96";
    let mut load = Load::spawn();
    let pid = load.pid().to_string();
    let at = folder();
    let config = format!(
        "devices: {{d: {{path: disk, size: 8MiB, type: pid, groups: {{{pid}: 100}}}}}}\nimages: {{vm1.img: {{device: d, mode: \"0666\"}}}}\n"
    );
    std::fs::write(at.path().join("config.yaml"), config).expect("a configuration");
    let made = Command::new("prlimit")
        .current_dir(at.path())
        .args([FEW, env!("CARGO_BIN_EXE_ioband"), "mount", "config.yaml", "vmdisk", "--log", "log"])
        .output()
        .expect("prlimit runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mount = Vmdisk::of(at);
    load.open(&mount.file("vm1.img"), "--depth 400 --requests 20000");
    load.start();
    let report = load.report();
    assert_eq!((report.requests, report.errors), (20_000, 0));
    assert_eq!(requests(&mount, &pid), 20_000, "all are its own");
    let open = std::fs::read_dir(format!("/proc/{}/fd", worker(&mount))).expect("it runs").count();
    assert!(open <= 96, "{open} files are open");
}

fn too_many_groups() {
    const LARGEST: u64 = 1 << 20;
    // As many as there is room for, but for a few.
    let groups: String = (0..52_300).map(|id| format!("      {}: 7\n", 1_000_000_000 + id)).collect();
    let mount = Vmdisk::mount(&format!(
        "devices:\n  d:\n    path: disk\n    size: 8MiB\n    type: user\n    groups:\n{groups}images:\n  vm1.img: {{device: d, mode: \"0666\"}}\n"
    ));
    let attached = (0..300).take_while(|id| message(&mount, &["attach", &id.to_string()]).is_ok()).count();
    let refused = message(&mount, &["attach", "999"]).expect_err("there is no room for another");
    assert!(refused.contains("would be larger than 1MiB"), "{refused}");
    let yaml = mount.control("control.yaml");
    assert!(attached < 300 && yaml.len() as u64 <= LARGEST, "{attached} attached, {} bytes", yaml.len());
    // What can be saved can be read again, and whoever takes away finds room.
    let saved = mount.folder().join("saved.yaml");
    std::fs::write(&saved, yaml).expect("a file");
    let check = ioband(mount.folder(), &["check", "saved.yaml"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    message(&mount, &["detach", "1000000000"]).expect("it gets smaller");
    println!("{attached} attached, at most {} KiB", peak(&mount) / 1024);
}
