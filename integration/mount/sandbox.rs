//! What a process in its sandbox cannot do any more, and what it still can: tried by processes that enter it.

use crate::daemon::{MOUNT, Vmdisk, ioband, worker};
use crate::support::{Loop, Mounted, Need, folder, sparse, trial};
use ioband::sandbox::{Wall, enter};
use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::Pid;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

pub(crate) fn trials() -> Vec<Trial> {
    let root = &[Need::Root];
    vec![
        trial("sandbox: what serving takes still works", &[Need::Root, Need::LoopDevice], works),
        trial("sandbox: hostile system calls end the process", root, hostile),
        trial("sandbox: what is not needed is not there", root, refused),
        trial("sandbox: landlock stands by itself", root, by_landlock_alone),
        trial("sandbox: each wall can be left out", root, left_out),
        trial("sandbox: capabilities stay dropped, whoever asks", root, by_capabilities_alone),
        trial("sandbox: a panic is told as ever", root, panics),
        trial("sandbox: a mount is served in it, and says so", MOUNT, served),
        trial("sandbox: a mount is served without a part of it, or outside", MOUNT, served_without),
        trial("sandbox: the kernel takes as many requests under way as from root", MOUNT, background),
    ]
}

/// Set for a process that shall enter the sandbox, without some walls, and do something: `WALL,WALL:DEED`.
const HELPER: &str = "IOBAND_TEST_SANDBOX";

/// A sandbox is for a process of its own: the trials start their own program again, which comes here first.
pub(crate) fn helper() -> bool {
    let Ok(wish) = std::env::var(HELPER) else { return false };
    let (off, deed) = wish.split_once(':').expect("walls and a deed");
    let off: Vec<_> = Wall::ALL.into_iter().filter(|wall| off.split(',').any(|o| o == wall.name())).collect();
    let place = std::env::args().nth(1).expect("a place");
    let report = enter(&off).expect("a sandbox");
    match do_deed(deed, Path::new(&place)) {
        Ok(said) if said.is_empty() => println!("{report}"),
        Ok(said) => println!("{said}"),
        Err(error) => {
            let errno = error.raw_os_error().map(Errno::from_raw);
            println!("{}", errno.map_or_else(|| error.to_string(), |errno| format!("{errno:?}")));
        }
    }
    true
}

fn do_deed(deed: &str, place: &Path) -> io::Result<String> {
    let path = |name: &str| place.join(name);
    let here = CString::new(place.as_os_str().as_encoded_bytes()).expect("a plain path");
    match deed {
        "nothing" => {}
        "status" => return fs::read_to_string("/proc/self/status"),
        // A shell that is run with all the arguments that it takes.
        "exec" => drop(nix::unistd::execv(c"/bin/true", &[c"true"])?),
        "start" => drop(Command::new("/bin/true").status()?),
        "mount" => nix::mount::mount(
            Some("none"),
            &*here,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )?,
        "umount" => nix::mount::umount(&*here)?,
        "chroot" => nix::unistd::chroot(&*here)?,
        "unshare" => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?,
        "setuid" => nix::unistd::setuid(nix::unistd::Uid::from_raw(65534))?,
        "device" => {
            nix::sys::stat::mknod(&path("device"), SFlag::S_IFBLK, Mode::S_IRUSR, libc::makedev(7, 0))?
        }
        "fifo" => nix::unistd::mkfifo(&path("fifo"), Mode::S_IRUSR)?,
        "socket" => drop(std::os::unix::net::UnixListener::bind(path("socket"))?),
        "symlink" => std::os::unix::fs::symlink("x", path("symlink"))?,
        "folder" => fs::create_dir(path("folder"))?,
        "remove folder" => fs::remove_dir(path("there"))?,
        "move" => fs::rename(path("file"), path("there/file"))?,
        "chown" => chown(path("file"), Some(65534), None)?,
        "chmod" => fs::set_permissions(path("file"), fs::Permissions::from_mode(0o777))?,
        "tcp" => drop(std::net::TcpStream::connect(("127.0.0.1", 9))?),
        "listen" => drop(std::net::TcpListener::bind(("127.0.0.1", 0))?),
        "udp" => drop(std::net::UdpSocket::bind(("127.0.0.1", 0))?),
        "signal" => nix::sys::signal::kill(Pid::parent(), Signal::SIGCONT)?,
        "no signal" => nix::sys::signal::kill(Pid::parent(), None)?,
        "panic" => panic!("as was wished"),
        "work" => return work(place),
        _ => panic!("{deed}?"),
    }
    Ok(String::new())
}

/// All that serving takes.
fn work(place: &Path) -> io::Result<String> {
    let parent = Pid::parent();
    let thread =
        std::thread::Builder::new().name("named".into()).spawn(|| fs::read("/proc/thread-self/comm"))?;
    assert_eq!(thread.join().expect("it ends")?, b"named\n");
    // Timeouts that are not late.
    nix::sys::prctl::set_timerslack(1)?;
    // Who calls.
    assert!(fs::read_to_string(format!("/proc/{parent}/status"))?.contains("Name:"));
    fs::read_to_string(format!("/proc/{parent}/cgroup"))?;
    nix::unistd::getpgid(Some(parent))?;
    let other = rustix::process::Pid::from_raw(parent.as_raw()).expect("not 0");
    rustix::process::pidfd_open(other, rustix::process::PidfdFlags::empty())?;
    // Devices: one that is there, and one that is made.
    let device = fs::read_to_string(place.join("loop"))?;
    let mut device = File::options().read(true).write(true).open(device.trim())?;
    assert_eq!(device.seek(SeekFrom::End(0))?, 1 << 20);
    device.rewind()?;
    device.write_all(&[7; 4096])?;
    device.sync_all()?;
    File::create_new(place.join("made"))?.set_len(1 << 20)?;
    fs::remove_file(place.join("made"))?;
    // The rings.
    let mut ring = io_uring::IoUring::new(2)?;
    let mut bytes = [0; 4096];
    device.read_exact(&mut bytes)?;
    ring.submit()?;
    ring.completion().sync();
    // The configuration is written anew, with its owner and mode, which are somebody else's.
    ioband::daemon::replace_file(&place.join("file"), b"new")?;
    let file = fs::metadata(place.join("file"))?;
    assert_eq!((file.uid(), file.mode() & 0o7777), (65534, 0o640));
    assert_eq!(fs::read(place.join("closed/file"))?, b"secret", "root's devices may be anybody's files");
    inotify::Inotify::init()?.watches().add(place, inotify::WatchMask::MODIFY)?;
    // Names: a service that is not there is no reason to die.
    assert!(users::get_user_by_name("root").is_some());
    let missing = std::os::unix::net::UnixStream::connect(place.join("no service"));
    assert_eq!(missing.expect_err("nobody is there").kind(), io::ErrorKind::NotFound);
    Ok("worked".into())
}

/// A place with a file of another user, a folder of another's, and an empty one.
fn place() -> tempfile::TempDir {
    let place = folder();
    let at = |name: &str| place.path().join(name);
    fs::create_dir(at("there")).expect("a folder");
    fs::write(at("file"), "old").expect("a file");
    fs::set_permissions(at("file"), fs::Permissions::from_mode(0o640)).expect("a file of ours");
    fs::create_dir(at("closed")).expect("a folder");
    fs::write(at("closed/file"), "secret").expect("a file");
    fs::set_permissions(at("closed/file"), fs::Permissions::from_mode(0o600)).expect("a file of ours");
    for name in ["file", "closed/file", "closed"] {
        chown(at(name), Some(65534), Some(65534)).expect("root may");
    }
    place
}

/// Does something in a sandbox without some walls.
fn run(place: &Path, off: &str, deed: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg(place).env(HELPER, format!("{off}:{deed}")).env("RUST_BACKTRACE", "1");
    command.output().expect("it runs")
}

/// What it says.
#[track_caller]
fn says(place: &Path, off: &str, deed: &str) -> String {
    let output = run(place, off, deed);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{deed} without {off:?}: {:?} {out} {err}", output.status);
    out.trim().to_owned()
}

fn works() {
    let place = place();
    let disk = place.path().join("disk");
    sparse(&disk, 1 << 20);
    let device = Loop::attach(&disk, 512);
    fs::write(place.path().join("loop"), device.path().as_os_str().as_encoded_bytes()).expect("a file");
    assert_eq!(says(place.path(), "", "work"), "worked");
}

fn hostile() {
    let place = place();
    for deed in ["exec", "mount", "umount", "chroot", "unshare", "setuid", "device", "fifo"] {
        let output = run(place.path(), "", deed);
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{deed}: {output:?}");
        assert!(!output.status.core_dumped(), "{deed}");
    }
    assert!(!place.path().join("device").exists() && !place.path().join("fifo").exists());
}

fn refused() {
    let place = place();
    for deed in [
        "start",
        "socket",
        "symlink",
        "folder",
        "remove folder",
        "tcp",
        "listen",
        "udp",
        "signal",
        "no signal",
    ] {
        let said = says(place.path(), "", deed);
        assert!(said == "ENOSYS" || (deed == "socket" && said == "EACCES"), "{deed}: {said}");
    }
    // Moving to another folder is not among what is left to renaming.
    assert_eq!(says(place.path(), "", "move"), "EXDEV");
    assert!(place.path().join("there").exists() && place.path().join("file").exists());
}

fn by_landlock_alone() {
    let place = place();
    let off = "seccomp,capabilities,privileges";
    let report = says(place.path(), off, "nothing");
    if report.contains("landlock      not available") {
        return println!("nothing to be tried: {report}");
    }
    for deed in ["exec", "start", "device", "fifo", "socket", "symlink", "folder", "remove folder"] {
        assert_eq!(says(place.path(), off, deed), "EACCES", "{deed}");
    }
    assert_eq!(says(place.path(), off, "mount"), "EPERM");
    assert_eq!(says(place.path(), off, "move"), "EXDEV");
    // Version 4 and 6.
    if report.contains("TCP") {
        assert_eq!(says(place.path(), off, "tcp"), "EACCES");
        assert_eq!(says(place.path(), off, "listen"), "EACCES");
    }
    if report.contains("signals") {
        assert_eq!(says(place.path(), off, "signal"), "EPERM");
    }
}

fn by_capabilities_alone() {
    let place = place();
    let off = "seccomp,landlock,privileges";
    for deed in ["mount", "unshare", "chroot", "setuid", "device"] {
        assert_eq!(says(place.path(), off, deed), "EPERM", "{deed}");
    }
    // The three that are kept.
    says(place.path(), off, "chown");
    says(place.path(), off, "chmod");
}

/// Fields of /proc/self/status.
fn fields<const N: usize>(status: &str, names: [&str; N]) -> [String; N] {
    names.map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
    })
}

fn left_out() {
    let place = place();
    let names = ["CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];
    let seen = |off: &str| fields(&says(place.path(), off, "status"), names);
    let (none, kept) = ("0000000000000000", "000000000000000b");
    assert_eq!(seen(""), [kept, kept, none, kept, none, "1", "2"]);
    let [permitted, _, _, bounding, ..] = seen("capabilities");
    assert!(permitted != kept && bounding != kept, "{permitted} {bounding}");
    let [.., privileges, seccomp] = seen("seccomp");
    assert_eq!((privileges.as_str(), seccomp.as_str()), ("1", "0"));
    // Filters and Landlock are for those who have renounced them.
    let [.., privileges, seccomp] = seen("privileges");
    assert_eq!((privileges.as_str(), seccomp.as_str()), ("1", "2"));
    let [effective, .., privileges, seccomp] = seen("capabilities,privileges,seccomp,landlock");
    assert_eq!((privileges.as_str(), seccomp.as_str()), ("0", "0"));
    assert_ne!(effective, kept);
    let report = says(place.path(), "landlock,seccomp", "nothing");
    assert!(report.contains("landlock      switched off"), "{report}");
    assert!(report.contains("seccomp       switched off"), "{report}");
    assert!(report.contains("capabilities  chown, dac_override, fowner and no others"), "{report}");
}

fn panics() {
    let place = place();
    let output = run(place.path(), "", "panic");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(101), "{output:?}");
    assert!(said.contains("as was wished") && said.contains("stack backtrace"), "{said}");
}

const CONFIG: &str = "devices: {d: {path: disk, size: 4MiB}}\nimages: {vm1.img: {device: d}}\n";

/// What `ls` says with an option more.
fn ls(mount: &Vmdisk, option: &str) -> String {
    let output = ioband(mount.folder(), &["ls", option, "--mountpoint", "vmdisk"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn served() {
    let mount = Vmdisk::mount(CONFIG);
    // Every thread of it, whoever started it.
    let tasks = fs::read_dir(format!("/proc/{}/task", worker(&mount))).expect("the worker");
    let tasks: Vec<_> = tasks.map(|task| task.expect("a thread").path()).collect();
    assert!(tasks.len() > 3, "{tasks:?}");
    for task in tasks {
        let status = fs::read_to_string(task.join("status")).expect("a thread");
        let seen =
            fields(&status, ["CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"]);
        let (none, kept) = ("0000000000000000", "000000000000000b");
        assert_eq!(seen, [kept, kept, none, kept, none, "1", "2"], "{status}");
    }
    let said = ls(&mount, "--verbose");
    let (_, walls) = said.split_once("\nSANDBOX\n").expect("a part of its own");
    assert_eq!(walls, mount.control("sandbox"));
    let lines: Vec<_> = walls.lines().map(|line| line.split_once("  ").expect("two columns").0).collect();
    assert_eq!(lines, ["landlock", "capabilities", "privileges", "seccomp"]);
    assert!(walls.contains("capabilities  chown, dac_override, fowner and no others\n"), "{walls}");
    assert!(walls.contains(" end the process, all others fail with ENOSYS\n"), "{walls}");
    let list: serde_json::Value = serde_json::from_str(&ls(&mount, "--json")).expect("JSON");
    let states = list["service"]["sandbox"].as_array().expect("a list");
    for (wall, name) in states.iter().zip(&lines) {
        assert_eq!((&wall["name"], wall["state"] != "off"), (&(*name).into(), true), "{wall}");
    }
    let plain = ioband(mount.folder(), &["ls", "--mountpoint", "vmdisk"]);
    assert!(!String::from_utf8_lossy(&plain.stdout).contains("SANDBOX"), "only who asks is told");
}

fn served_without() {
    let seen = |option: &str| {
        let mount = Vmdisk::mount_in(folder(), CONFIG, &[option]);
        let status = fs::read_to_string(format!("/proc/{}/status", worker(&mount))).expect("the worker");
        fs::read(mount.file("vm1.img")).expect("it is served all the same");
        let [bounding, privileges, seccomp] = fields(&status, ["CapBnd", "NoNewPrivs", "Seccomp"]);
        let off = |line: &&str| line.ends_with("switched off (--no-sandbox)");
        let walls = mount.control("sandbox");
        let off: Vec<_> =
            walls.lines().filter(off).filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        (bounding != "000000000000000b", privileges == "0", seccomp == "0", off.join(" "))
    };
    let all = "landlock capabilities privileges seccomp".to_owned();
    assert_eq!(seen("--no-sandbox"), (true, true, true, all));
    assert_eq!(seen("--no-sandbox=seccomp"), (false, false, true, "seccomp".into()));
    assert_eq!(
        seen("--no-sandbox=capabilities,landlock"),
        (true, false, false, "landlock capabilities".into())
    );
}

/// The limit of a normal user would put the requests of all into one line before any weight counts.
fn background() {
    let mount = Vmdisk::mount(CONFIG);
    let connections = Mounted::new(&["-t", "fusectl", "none"]);
    let number = libc::minor(fs::metadata(mount.path()).expect("the mount").dev());
    let most = fs::read_to_string(connections.path().join(number.to_string()).join("max_background"));
    assert_eq!(most.expect("the connection").trim(), "65535");
}
