//! What a machine may withhold: io_uring, as container runtimes do it (a seccomp filter that answers EPERM), and
//! fusermount3.

use crate::daemon::{MOUNT, Vmdisk};
use crate::support::{folder, trial};
use libtest_mimic::Trial;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("without io_uring a mount is served by threads and says so", MOUNT, falls_back),
        trial("without fusermount3 an ordinary user is told of it", MOUNT, no_helper),
        trial("without io_uring, asking for it is refused", MOUNT, asked_for),
    ]
}

const CONFIG: &str = "devices: {d: {path: disk, size: 4MiB}}\nimages: {vm1.img: {device: d}}\n";

/// Runs `ioband` in a folder where it, and what it starts, cannot set up an io_uring.
fn ioband_without_uring(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ioband"));
    command.current_dir(folder).args(args);
    // SAFETY: between fork and exec only two system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(forbid_uring) };
    command.output().expect("ioband runs")
}

/// Makes io_uring_setup(2) fail with EPERM from here on, for this process and all that it starts.
fn forbid_uring() -> io::Result<()> {
    let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap_or(u32::MAX);
    let is = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let filter = [
        // The number of the system call is the first word of what a filter sees.
        is((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, 0),
        is((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, setup),
        is((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        is((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program and its filter live until the call returns; the kernel copies and does not change them.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn falls_back() {
    let folder = folder();
    std::fs::write(folder.path().join("config.yaml"), CONFIG).expect("a configuration");
    let output = ioband_without_uring(folder.path(), &["mount", "config.yaml", "vmdisk", "--log", "log"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let mount = Vmdisk::of(folder);
    assert!(said.contains("served by threads") && said.contains("seccomp"), "who mounts is told: {said}");
    let image = File::options().read(true).write(true).open(mount.file("vm1.img")).expect("an image");
    image.write_all_at(b"by threads", 1000).expect("a write");
    image.sync_all().expect("a flush");
    let mut back = [0; 12];
    image.read_exact_at(&mut back, 999).expect("a read");
    assert_eq!(&back, b"\0by threads\0");
}

fn asked_for() {
    let folder = folder();
    std::fs::write(folder.path().join("config.yaml"), CONFIG).expect("a configuration");
    let args = ["mount", "config.yaml", "vmdisk", "--backend", "uring"];
    let output = ioband_without_uring(folder.path(), &args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot set up input and output") && said.contains("not permitted"), "{said}");
    assert!(!folder.path().join("disk").exists(), "a refused mount leaves no device behind");
}

fn no_helper() {
    let folder = folder();
    std::fs::write(folder.path().join("config.yaml"), "devices: {}\n").expect("a configuration");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("a folder of ours");
    let mut command = Command::new("/proc/self/fd/0");
    command.args(["mount", "config.yaml", "vmdisk"]).current_dir(folder.path()).env("PATH", "/nonexistent");
    // The build's folder may be closed to others, so the program comes by its descriptor.
    command.stdin(File::open(env!("CARGO_BIN_EXE_ioband")).expect("ioband"));
    let output = command.uid(65534).gid(65534).output().expect("ioband runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot run fusermount3") && said.contains("install the package fuse3"), "{said}");
    assert!(!folder.path().join("vmdisk").exists(), "a mount that failed leaves no folder behind");
}
