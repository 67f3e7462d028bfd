//! The start of a mount: what is refused, in which words and without a trace, and how the daemon leaves its terminal.

use crate::alone::{ALONE, Alone, Said};
use crate::daemon::{MOUNT, Vmdisk, ioband, wait_until};
use crate::support::{Loop, Mounted, Need, folder, run, sparse, trial};
use inotify::{Inotify, WatchMask};
use libtest_mimic::Trial;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::thread;

pub(crate) fn trials() -> Vec<Trial> {
    const MOUNTED_DEVICE: &[Need] = &[Need::Root, Need::LoopDevice, Need::Fuse, Need::Tool("mkfs.ext4")];
    const WITH_URING: &[Need] = &[Need::Root, Need::Fuse, Need::Uring];
    const UNPRIVILEGED: &[Need] = &[
        Need::Root,
        Need::Fuse,
        Need::Tool("unshare"),
        Need::Tool("nsenter"),
        Need::Tool("umount"),
        Need::Tool("setpriv"),
        Need::Tool("fusermount3"),
    ];
    vec![
        trial("a refused mount says why and leaves nothing behind", ALONE, refused),
        trial("a refused mount after a -- says why, too", ALONE, after_dashes),
        trial("a mount waits a moment for its disk to be let go", ALONE, let_go),
        trial("a second mount of anything is refused", ALONE, twice),
        trial("a mounted block device is refused by name", MOUNTED_DEVICE, mounted_device),
        trial("a place of one's own is empty, whatever is mounted where", ALONE, beside_blanks),
        trial("an empty configuration mounts", ALONE, empty),
        trial("a mount from a folder that is gone", ALONE, folder_gone),
        trial("the daemon leaves the terminal and all else of its caller", MOUNT, detached),
        trial("--foreground stays, logs and ends with status 0", MOUNT, foreground),
        trial("where /proc hides processes, that is told", ALONE, hidden_processes),
        trial("ordinary users mount for themselves", UNPRIVILEGED, ordinary_user),
        trial("the backend threads serves", MOUNT, || backend("threads")),
        trial("the backend uring serves", WITH_URING, || backend("uring")),
    ]
}

const SMALL: &str = "devices: {d: {path: disk, size: 4MiB}}\nimages: {vm1.img: {device: d}}\n";

/// Mounts with `args`; it must be refused with `parts` in its words, and nothing must be different afterwards.
#[track_caller]
fn refused_in(place: &Alone, args: &[&str], parts: &[&str]) {
    let before = (place.names(), place.mounts().len(), place.processes());
    place.ioband(&[&["mount"], args].concat()).refused(parts);
    assert_eq!((place.names(), place.mounts().len(), place.processes()), before, "something is left behind");
}

fn refused() {
    let place = Alone::new();
    place.write("ok.yaml", SMALL);
    place.write("file", "");
    refused_in(&place, &["ok.yaml", "file"], &["file is not a folder"]);
    refused_in(
        &place,
        &["ok.yaml", "no/vmdisk"],
        &["no/vmdisk", "folder that it is to be in does not exist"],
    );
    refused_in(&place, &["ok.yaml"], &["no mount point: give one", "`ioband mount ok.yaml /vmdisk`"]);
    refused_in(&place, &["none.yaml", "vmdisk"], &["none.yaml: there is no such file"]);
    refused_in(&place, &[".", "vmdisk"], &["this is a folder"]);
    refused_in(&place, &["ok.yaml", "vmdisk", "--log", "no/log"], &["cannot open the log no/log"]);
    let both = ["ok.yaml", "vmdisk", "--transport", "uring", "--backend", "threads"];
    refused_in(&place, &both, &["the transport uring cannot be had: ", "(--backend threads)"]);

    place.write("bad.yaml", "devices:\n  d: {path: disk, size: 4MiB, wieght: 10}\n");
    refused_in(&place, &["bad.yaml", "vmdisk"], &["bad.yaml:2:31: ", "wieght", "weight"]);
    place.write("missing.yaml", "devices: {d: {path: disk}}\n");
    refused_in(&place, &["missing.yaml", "vmdisk"], &["missing.yaml:1:", "disk", "size"]);
    place.write("null.yaml", "devices: {d: {path: /dev/null}}\n");
    refused_in(&place, &["null.yaml", "vmdisk"], &["/dev/null", "character device"]);

    // Somebody else has a device.
    sparse(&place.folder().join("disk"), 4 << 20);
    let file = File::open(place.folder().join("disk")).expect("the device");
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).expect("a lock");
    let path = place.folder().join("disk").display().to_string();
    refused_in(&place, &["ok.yaml", "vmdisk"], &["device d: ", &path, "is locked by another process"]);
    // One device is made before the other is found to be taken: it goes again.
    place.write("half.yaml", "devices: {a: {path: new, size: 4MiB}, b: {path: disk}}\n");
    refused_in(&place, &["half.yaml", "vmdisk"], &["device b: ", &path, "is locked by another process"]);
    drop(lock);
    place.ioband(&["mount", "half.yaml", "vmdisk"]).ok();
}

/// Whoever has been killed lets his disks go a moment later.
fn let_go() {
    let place = Alone::new();
    place.write("ok.yaml", SMALL);
    sparse(&place.folder().join("disk"), 4 << 20);
    let file = File::open(place.folder().join("disk")).expect("the device");
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).expect("a lock");
    let mut opened = Inotify::init().expect("inotify");
    opened.watches().add(place.folder().join("disk"), WatchMask::OPEN).expect("a watch");
    let holder = thread::spawn(move || {
        // Once to see what it is, and then it was found locked at least once.
        for _ in 0..3 {
            // Events that are alike and not read are told as one.
            opened.read_events_blocking(&mut [0; 4096]).expect("events").for_each(drop);
        }
        drop(lock);
    });
    place.ioband(&["mount", "ok.yaml", "vmdisk"]).ok();
    holder.join().expect("it lets go");
}

fn after_dashes() {
    let place = Alone::new();
    place.write("ok.yaml", SMALL);
    place.write("-", "");
    refused_in(&place, &["--", "ok.yaml", "-"], &["- is not a folder"]);
    place.ioband(&["mount", "--", "ok.yaml", "vmdisk"]).ok();
}

fn twice() {
    let place = Alone::new();
    place.write("one.yaml", SMALL);
    place.write("two.yaml", &SMALL.replace("disk", "disk2"));
    place.ioband(&["mount", "one.yaml", "vmdisk"]).ok();
    let there = &["an ioband mount is already at vmdisk", "`ioband umount vmdisk`"];
    refused_in(&place, &["one.yaml", "vmdisk"], there);
    refused_in(&place, &["two.yaml", "vmdisk"], there);
    refused_in(&place, &["one.yaml", "vmdisk2"], &["device d: ", "/disk is locked by another process"]);
    place.ioband(&["mount", "two.yaml", "vmdisk2"]).ok();
}

fn mounted_device() {
    let files = folder();
    let backing = files.path().join("backing");
    sparse(&backing, 16 << 20);
    let device = Loop::attach(&backing, 512);
    let path = device.path().to_str().expect("a plain path");
    run("mkfs.ext4", &["-q", path]).expect("a filesystem");
    let mounted = Mounted::new(&[path]);
    let config = format!("devices: {{d: {{path: {path}}}}}\nimages: {{vm1.img: {{device: d}}}}\n");
    std::fs::write(files.path().join("config.yaml"), config).expect("a configuration");
    let at = format!("mounted at {}", mounted.path().display());
    let said = Said::from(&ioband(files.path(), &["mount", "config.yaml", "vmdisk"]));
    said.refused(&["device d: ", path, "is in use: ", &at]);
    assert!(!files.path().join("vmdisk").exists());
}

/// What the other trials here rest on: the mounts of the machine are not in their places.
fn beside_blanks() {
    let folder = tempfile::Builder::new().prefix("two words ").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let mount = Vmdisk::mount_in(folder.expect("a folder"), SMALL, &[]);
    assert_eq!(Alone::new().mounts(), [""; 0]);
    assert!(mount.runs(), "it was not only taken out of the place");
}

fn empty() {
    for text in ["", "# nothing yet\n", "devices:\nimages:\n", "devices: {}\n"] {
        let place = Alone::new();
        place.write("empty.yaml", text);
        let said = place.ioband(&["mount", "empty.yaml", "vmdisk"]).ok();
        let at = place.folder().join("vmdisk").display().to_string();
        assert_eq!(said, format!("ioband: mounted at {at}: no images\n"));
        assert_eq!(place.ioband(&["table"]).ok(), "");
        assert_eq!(place.ioband(&["status"]).ok(), "");
        place.ioband(&["umount", "vmdisk"]).ok();
        assert_eq!((place.mounts(), place.processes()), (vec![], vec![]));
    }
}

fn folder_gone() {
    let place = Alone::new();
    let at = place.folder().display().to_string();
    let gone = r#"mkdir gone && cd gone && rmdir ../gone && exec "$IOBAND" "$@""#;
    let (relative, absolute) = (place.write("relative.yaml", SMALL), place.write("absolute.yaml", ""));
    std::fs::write(&absolute, SMALL.replace("disk", &format!("{at}/disk"))).expect("a configuration");
    let vmdisk = format!("{at}/vmdisk");
    let mount = |config: &std::path::Path| {
        place.sh(&[gone, "sh", "mount", config.to_str().expect("a plain path"), &vmdisk])
    };
    // What counts from a folder that is gone is nowhere.
    mount(&relative)
        .refused(&["device d: disk counts from the folder that this runs in, which is not there"]);
    assert_eq!(place.mounts(), [""; 0]);
    mount(&absolute).ok();
    place.ioband(&["umount", "vmdisk"]).ok();
}

fn detached() {
    let folder = folder();
    std::fs::write(folder.path().join("config.yaml"), SMALL).expect("a configuration");
    // As a script would call it that holds a lock on a file of its own.
    let script = r#"exec 9>lock && flock -n 9; exec "$0" mount config.yaml vmdisk"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_ioband")]).current_dir(folder.path());
    // Returns when nobody has the ends of these pipes any more.
    let said = Said::from(&command.output().expect("a shell"));
    assert_eq!(said.status, Some(0), "{said:?}");
    // Before anything else can fail: it takes the mount down in the end.
    let mount = Vmdisk::of(folder);
    assert_eq!(said.ok(), format!("ioband: mounted at {}: vm1.img (4MiB)\n", mount.path().display()));

    let proc = format!("/proc/{}", mount.pid());
    let link = |name: &str| std::fs::read_link(format!("{proc}/{name}")).expect("a process of ours");
    assert_eq!(link("cwd"), std::path::Path::new("/"));
    for standard in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(standard), std::path::Path::new("/dev/null"), "{standard}");
    }
    let lock = mount.folder().join("lock");
    for entry in std::fs::read_dir(format!("{proc}/fd")).expect("a process of ours").flatten() {
        assert_ne!(std::fs::read_link(entry.path()).unwrap_or_default(), lock, "it keeps its caller's lock");
    }
    // `pid (comm) state ppid pgrp session tty`
    let stat = std::fs::read_to_string(format!("{proc}/stat")).expect("a process of ours");
    let fields: Vec<_> = stat.rsplit_once(") ").expect("a stat line").1.split(' ').collect();
    assert_eq!((fields[3], fields[4]), (mount.pid().to_string().as_str(), "0"), "{stat}");
}

/// Weights that do nothing are told of.
fn hidden_processes() {
    let place = Alone::new();
    place.write("c.yaml", SMALL);
    let events = || {
        place.ioband(&["mount", "c.yaml", "vmdisk"]).ok();
        let events = place.sh(&["cat vmdisk/.ioband/events"]).ok();
        place.ioband(&["umount", "vmdisk"]).ok();
        events
    };
    assert!(!events().contains("hidepid"), "nothing is hidden");
    place.sh(&["mount -t proc -o hidepid=invisible,gid=12345 proc /proc"]).ok();
    assert!(events().contains("groups of type pid, pgrp and cgroup cannot tell who calls"), "{}", events());
    place.sh(&["mount -t proc -o hidepid=invisible,gid=0 proc /proc"]).ok();
    assert!(!events().contains("hidepid"), "nothing is hidden");
}

fn ordinary_user() {
    let place = Alone::new();
    place.write("c.yaml", SMALL);
    // Some machines keep /dev/fuse for root; in here it is for all. fusermount3 wants to know its callers' names,
    // and these two are on every machine.
    let open_up = r#"cp "$IOBAND" ioband && chmod 755 ioband && chmod 777 . && mknod fuse c 10 229 &&
        chmod 666 fuse && mount --bind fuse /dev/fuse"#;
    place.sh(&[open_up]).ok();
    let by = |user: &str, args: &[&str]| {
        // Entered before: the folders above may be closed to others.
        let script = r#"exec setpriv --reuid="$0" --regid=65534 --clear-groups ./ioband "$@""#;
        place.sh(&[&[script, user], args].concat())
    };
    by("nobody", &["mount", "c.yaml", "vmdisk"]).ok();
    let table = by("nobody", &["table"]).ok();
    assert!(table.starts_with("d: 0 8192 ioband "), "{table}");
    by("nobody", &["mount", "c.yaml", "vmdisk"]).refused(&["an ioband mount is already at vmdisk"]);
    // One that is not said is not somebody else's.
    by("daemon", &["table"])
        .refused(&["no ioband mount of root's or yours", "vmdisk) with --mountpoint DIR"]);
    by("daemon", &["table", "--mountpoint", "vmdisk"]).refused(&["Permission denied"]);
    by("daemon", &["umount", "vmdisk"]).refused(&["only root and the user who mounted it may"]);
    by("nobody", &["umount", "vmdisk"]).ok();
    assert_eq!((place.mounts(), place.processes()), (vec![], vec![]), "umount returned too early");
    by("nobody", &["umount", "vmdisk"]).refused(&["nothing of ioband is mounted at vmdisk"]);
    by("nobody", &["mount", "c.yaml", "/mnt"]).refused(&["fusermount3 cannot mount at /mnt"]);

    by("nobody", &["mount", "c.yaml", "vmdisk"]).ok();
    // First the one that would start another one, and then that other one.
    let kill = r#"pid() { setpriv --reuid=nobody --regid=65534 --clear-groups cat vmdisk/.ioband/pid; }
        keeper=$(pid) && kill -9 "$keeper" && while [ "$(pid)" = "$keeper" ]; do sleep 0.01; done && kill -9 "$(pid)""#;
    place.sh(&[kill]).ok();
    wait_until(|| place.processes().is_empty(), || format!("it lives on: {:?}", place.processes()));
    // The kernel lets go of a connection by io_uring a moment after the process is gone.
    let refused = || by("nobody", &["mount", "c.yaml", "vmdisk"]);
    wait_until(|| !refused().err.contains("already at"), || "the mount outlives its daemon".to_owned());
    refused().refused(&["vmdisk is a stale FUSE mount"]);
    by("nobody", &["umount", "vmdisk"]).ok();
    by("nobody", &["mount", "c.yaml", "vmdisk"]).ok();
}

/// A child that is killed in the end.
struct Foreground(Child);

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn foreground() {
    let folder = folder();
    std::fs::write(folder.path().join("config.yaml"), SMALL).expect("a configuration");
    let log = File::create(folder.path().join("stderr")).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ioband"));
    command.args(["mount", "config.yaml", "vmdisk", "--foreground"]).current_dir(folder.path());
    let mut child = Foreground(command.stdout(Stdio::null()).stderr(log).spawn().expect("ioband runs"));
    let log = folder.path().join("stderr");
    let logged = || std::fs::read_to_string(&log).unwrap_or_default();
    let mounted = || {
        assert!(child.0.try_wait().expect("a child").is_none(), "it ended: {}", logged());
        logged().contains("mounted at")
    };
    wait_until(mounted, || format!("it does not mount: {}", logged()));
    let mount = Vmdisk::of(folder);
    assert_eq!(mount.pid().as_raw(), child.0.id() as i32, "it is the daemon itself");
    assert!(std::fs::metadata(mount.file("vm1.img")).is_ok());
    kill(Pid::from_raw(child.0.id() as i32), Signal::SIGTERM).expect("it runs");
    let status = child.0.wait().expect("a child");
    assert_eq!(status.code(), Some(0), "{}", logged());
    assert!(logged().contains("ending"), "{}", logged());
    assert!(!logged().contains('\u{1b}'), "colours in a file: {}", logged());
}

fn backend(name: &str) {
    use std::os::unix::fs::FileExt;
    let mount = Vmdisk::mount_in(folder(), SMALL, &["--backend", name]);
    let image = File::options().read(true).write(true).open(mount.file("vm1.img")).expect("an image");
    image.write_all_at(b"by this backend", 12345).expect("a write");
    image.sync_all().expect("an fsync");
    let mut found = [0; 15];
    File::open(mount.folder().join("disk"))
        .expect("the device")
        .read_exact_at(&mut found, 12345)
        .expect("a read");
    assert_eq!(&found, b"by this backend");
}
