//! Who may do what with the files of a mount, and what they look like.

use crate::daemon::{AS_OTHERS, MOUNT, Vmdisk};
use crate::support::{run, trial};
use libtest_mimic::Trial;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statvfs::statvfs;
use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, PermissionsExt, chown};
use std::process::Command;
use std::time::{Duration, SystemTime};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("owner, group and mode of an image count", AS_OTHERS, permissions),
        trial("chmod and chown act at once, for those who may", AS_OTHERS, live_permissions),
        trial("a read-only image can be read only", MOUNT, read_only),
        trial("what would change the size or the names is refused, with an event", MOUNT, refused),
        trial("times can be set", MOUNT, times),
        trial("attributes are right and the same after a remount", MOUNT, attributes),
        trial("a thousand images are listed once each", MOUNT, many_images),
        trial("the control directory is closed to others", AS_OTHERS, control_closed),
        trial("the control directory opens as configured", AS_OTHERS, control_open),
        trial("control files are for reading", MOUNT, control_read_only),
        trial("five thousand files open at once", MOUNT, many_handles),
    ]
}

/// Runs a shell script in the mount as somebody else; whether it worked, and what it complained of.
fn as_user(mount: &Vmdisk, uid: u32, gid: u32, script: &str) -> Result<(), String> {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
    // Entered as root: the folders above may be closed to others.
    let output = command.args(["sh", "-c", script]).current_dir(mount.path()).output().expect("setpriv");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(words) }
}

#[track_caller]
fn assert_denied(result: Result<(), String>, words: &str) {
    let said = result.expect_err("it must be refused");
    assert!(said.contains(words), "{said}");
}

const READ: &str = "head -c 1 vm1.img >/dev/null";
/// Opens it for reading and writing, which changes nothing.
const WRITE: &str = "exec 3<>vm1.img";

fn one_image(settings: &str) -> Vmdisk {
    Vmdisk::mount(&format!(
        "devices: {{d: {{path: disk, size: 4MiB}}}}\nimages: {{vm1.img: {{device: d{settings}}}}}\n"
    ))
}

fn permissions() {
    let mount = one_image(r#", owner: 60001, group: 60002, mode: "0640""#);
    let seen = fs::metadata(mount.file("vm1.img")).expect("an image");
    assert_eq!((seen.uid(), seen.gid(), seen.mode() & 0o7777), (60001, 60002, 0o640));
    as_user(&mount, 60001, 60009, READ).expect("the owner reads");
    as_user(&mount, 60001, 60009, WRITE).expect("the owner writes");
    as_user(&mount, 60003, 60002, READ).expect("the group reads");
    assert_denied(as_user(&mount, 60003, 60002, WRITE), "Permission denied");
    assert_denied(as_user(&mount, 60003, 60009, READ), "Permission denied");
    assert_denied(as_user(&mount, 60003, 60009, WRITE), "Permission denied");
    // Without any: who mounts, and nobody else.
    let mount = one_image("");
    as_user(&mount, 0, 0, WRITE).expect("root mounted it");
    assert_denied(as_user(&mount, 60001, 60001, READ), "Permission denied");
    as_user(&mount, 60001, 60001, "ls -l vm1.img").expect("everybody may look");
}

fn live_permissions() {
    let mount = one_image(r#", owner: 60001, group: 60002, mode: "0640""#);
    let image = mount.file("vm1.img");
    let open = File::open(&image).expect("an image");
    as_user(&mount, 60001, 60002, "chmod 0600 vm1.img").expect("the owner may");
    assert_denied(as_user(&mount, 60003, 60002, READ), "Permission denied");
    as_user(&mount, 60001, 60002, "chmod 0664 vm1.img").expect("the owner may");
    as_user(&mount, 60003, 60002, WRITE).expect("the group writes now");
    assert_denied(as_user(&mount, 60003, 60002, "chmod 0666 vm1.img"), "Operation not permitted");
    assert_denied(as_user(&mount, 60003, 60002, "chown 60003 vm1.img"), "Operation not permitted");
    assert_denied(as_user(&mount, 60001, 60002, "chown 60003 vm1.img"), "Operation not permitted");

    chown(&image, Some(60003), Some(60004)).expect("root may");
    fs::set_permissions(&image, fs::Permissions::from_mode(0o600)).expect("root may");
    as_user(&mount, 60003, 60009, WRITE).expect("the new owner writes");
    assert_denied(as_user(&mount, 60001, 60002, READ), "Permission denied");
    let seen = fs::metadata(&image).expect("an image");
    assert_eq!((seen.uid(), seen.gid(), seen.mode() & 0o7777), (60003, 60004, 0o600));
    // An open file stays open.
    open.read_exact_at(&mut [0; 512], 0).expect("a read");
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn read_only() {
    let mount = one_image(", read_only: true");
    let path = mount.file("vm1.img");
    let open = |options: &mut OpenOptions| errno(options.open(&path));
    // Also by root, whom modes do not stop.
    assert_eq!(open(OpenOptions::new().write(true)), Some(libc::EROFS));
    assert_eq!(open(OpenOptions::new().read(true).write(true)), Some(libc::EROFS));
    assert_eq!(open(OpenOptions::new().append(true)), Some(libc::EROFS));
    assert_eq!(open(OpenOptions::new().write(true).truncate(true)), Some(libc::EROFS));
    let image = File::open(&path).expect("an image");
    image.read_exact_at(&mut [0; 4096], 1 << 20).expect("a read");
    assert_eq!(image.metadata().expect("an image").len(), 4 << 20);
}

fn refused() {
    let mount = one_image("");
    let (image, other) = (mount.file("vm1.img"), mount.file("new.img"));
    let file = File::options().read(true).write(true).open(&image).expect("an image");
    file.write_all_at(b"untouched", 0).expect("a write");
    let attempts: [(&str, &str, io::Result<()>); 11] = [
        ("O_TRUNC", "vm1.img with O_TRUNC", File::create(&image).map(drop)),
        ("O_APPEND", "vm1.img with O_APPEND", File::options().append(true).open(&image).map(drop)),
        ("shrinking", "the size of vm1.img", file.set_len(512)),
        ("growing", "the size of vm1.img", file.set_len(8 << 20)),
        ("creating", "\"new.img\"", File::create_new(&other).map(drop)),
        ("a folder", "\"new.img\"", fs::create_dir(&other)),
        ("a symbolic link", "\"new.img\"", std::os::unix::fs::symlink("vm1.img", &other)),
        ("a hard link", "\"new.img\"", fs::hard_link(&image, &other)),
        ("renaming", "\"vm1.img\"", fs::rename(&image, &other)),
        ("removing", "\"vm1.img\"", fs::remove_file(&image)),
        ("removing the control directory", "\".ioband\"", fs::remove_dir(mount.file(".ioband"))),
    ];
    let events = mount.control("events");
    for (what, words, result) in attempts {
        assert_eq!(errno(result), Some(libc::EPERM), "{what}");
        let line = |line: &str| line.contains("refused: ") && line.contains(words);
        assert!(events.lines().any(line), "no event for {what}: {events}");
    }
    file.set_len(4 << 20).expect("the size that it has");
    let mut found = [0; 9];
    file.read_exact_at(&mut found, 0).expect("a read");
    assert_eq!(&found, b"untouched");
    assert_eq!(fs::read_dir(mount.path()).expect("a folder").count(), 2);
}

fn times() {
    let mount = one_image("");
    let path = mount.file("vm1.img");
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let file = File::options().write(true).open(&path).expect("an image");
    file.set_times(FileTimes::new().set_accessed(then).set_modified(then)).expect("the owner may");
    let seen = fs::metadata(&path).expect("an image");
    assert_eq!((seen.accessed().ok(), seen.modified().ok()), (Some(then), Some(then)));
    // As early as a time can be, which is earlier than fuser can say.
    let earliest = SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(1 << 63));
    let earliest = earliest.and_then(|at| at.checked_add(Duration::from_nanos(1))).expect("a time");
    file.set_times(FileTimes::new().set_modified(earliest)).expect("the owner may");
    assert!(fs::metadata(&path).and_then(|seen| seen.modified()).expect("an image") < SystemTime::UNIX_EPOCH);
    run("touch", &[path.to_str().expect("a plain path")]).expect("the owner may");
    assert!(fs::metadata(&path).and_then(|seen| seen.modified()).expect("an image") > then);
    // A write is a change.
    file.set_times(FileTimes::new().set_modified(then)).expect("the owner may");
    file.write_all_at(b"x", 0).expect("a write");
    let changed = || fs::metadata(&path).and_then(|seen| seen.modified()).expect("an image") > then;
    let start = std::time::Instant::now();
    while !changed() {
        // The kernel may remember attributes for a second.
        assert!(start.elapsed() < Duration::from_secs(30), "a write does not change the time");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn attributes() {
    let mut mount = Vmdisk::mount(
        "devices: {d: {path: disk, size: 4MiB}}\n\
         images:\n  b.img: {device: d, size: 1MiB}\n  a.img: {device: d, offset: 1MiB, size: 1536KiB}\n",
    );
    let inodes =
        |mount: &Vmdisk| ["a.img", "b.img"].map(|name| fs::metadata(mount.file(name)).expect(name).ino());
    let seen = fs::metadata(mount.file("a.img")).expect("an image");
    assert!(seen.is_file());
    assert_eq!((seen.len(), seen.blocks(), seen.nlink()), (1536 << 10, 3072, 1));
    let all = statvfs(&mount.path()).expect("statfs");
    let bytes = |blocks: u64| blocks * all.fragment_size();
    assert_eq!((bytes(all.blocks()), all.blocks_available()), (2560 << 10, 0), "nothing can be added");

    let path = mount.path().display().to_string();
    let found = run("find", &[&path, "-maxdepth", "1", "-type", "f", "-printf", "%f %s\n"]).expect("find");
    let mut found: Vec<_> = found.lines().collect();
    found.sort_unstable();
    assert_eq!(found, ["a.img 1572864", "b.img 1048576"]);
    let listed = run("ls", &["-la", &path]).expect("ls");
    assert!(listed.contains("-rw------- 1 root root 1572864 "), "{listed}");
    run("df", &[&path]).expect("df");

    let before = inodes(&mount);
    assert_ne!(before[0], before[1]);
    mount.umount_with(&[]);
    let swapped = "devices: {d: {path: disk, size: 4MiB}}\n\
                   images:\n  a.img: {device: d, size: 1MiB}\n  b.img: {device: d, offset: 1MiB, size: 1MiB}\n";
    fs::write(mount.folder().join("config.yaml"), swapped).expect("a configuration");
    mount.again(&[]);
    assert_eq!(inodes(&mount), before, "an inode number belongs to a name");
}

fn many_images() {
    let image = |n: u64| format!("  vm{n}.img: {{device: d, offset: {}, size: 4KiB}}\n", n * 4096);
    let images: String = (0..1000).map(image).collect();
    let mount = Vmdisk::mount(&format!("devices: {{d: {{path: disk, size: 4MiB}}}}\nimages:\n{images}"));
    // With a look at each on the way, as `ls -l` does.
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir(mount.path()).expect("a folder") {
        let entry = entry.expect("an entry");
        assert_eq!(entry.metadata().expect("attributes").ino(), entry.ino());
        *seen.entry(entry.file_name().to_string_lossy().into_owned()).or_insert(0) += 1;
    }
    let expected = (0..1000).map(|n| format!("vm{n}.img")).chain([".ioband".to_owned()]);
    assert_eq!(seen, expected.map(|name| (name, 1)).collect());
}

fn control_closed() {
    let mount = one_image("");
    let seen = fs::metadata(mount.file(".ioband")).expect("a folder");
    assert_eq!((seen.mode() & 0o777, seen.uid()), (0o700, 0));
    assert_denied(as_user(&mount, 60001, 60001, "ls .ioband"), "Permission denied");
    for file in ["table", "status", "events", "pid"] {
        let seen = fs::metadata(mount.file(".ioband").join(file)).expect("a file");
        assert_eq!((seen.mode() & 0o7777, seen.uid()), (0o400, 0), "{file}");
        assert_denied(as_user(&mount, 60001, 60001, &format!("cat .ioband/{file}")), "Permission denied");
    }
}

fn control_open() {
    let mount = Vmdisk::mount(
        "control: {dir: knobs, owner: 60001, group: 60002, mode: \"0640\"}\ndevices: {d: {path: disk, size: 4MiB}}\n",
    );
    let look = "ls knobs && cat knobs/table knobs/status knobs/events knobs/pid";
    as_user(&mount, 60001, 60009, look).expect("the owner may");
    as_user(&mount, 60003, 60002, look).expect("the group may");
    assert_denied(as_user(&mount, 60003, 60009, "ls knobs"), "Permission denied");
    assert_denied(as_user(&mount, 60003, 60009, "cat knobs/table"), "Permission denied");
    assert!(!mount.file(".ioband").exists());
}

fn control_read_only() {
    let mount = one_image("");
    for file in ["table", "status", "events", "pid"] {
        let path = mount.file(".ioband").join(file);
        let before = mount.control(file);
        // By root, whom modes do not stop.
        let open = File::options().write(true).open(&path);
        assert_eq!(errno(open), Some(libc::EACCES), "{file}");
        assert!(errno(fs::write(&path, "x")).is_some() && errno(fs::remove_file(&path)) == Some(libc::EPERM));
        assert_eq!(errno(fs::set_permissions(&path, fs::Permissions::from_mode(0o666))), Some(libc::EPERM));
        assert!(mount.control(file).starts_with(&before));
    }
    assert_eq!(errno(fs::create_dir(mount.file(".ioband").join("x"))), Some(libc::EPERM));
    assert_eq!(errno(File::create_new(mount.file(".ioband/devices").join("x"))), Some(libc::EPERM));
}

fn many_handles() {
    const HANDLES: usize = 5000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("as many as are allowed");
    let mount = one_image("");
    let path = mount.file("vm1.img");
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", mount.pid())).expect("the daemon").count();
    let before = descriptors();
    for _ in 0..2 {
        let open = || File::options().read(true).write(true).open(&path).expect("one more");
        let mut files: Vec<_> = (0..HANDLES).map(|_| open()).collect();
        for (number, file) in files.iter().enumerate().step_by(97) {
            file.write_all_at(&(number as u64).to_le_bytes(), number as u64 * 8).expect("a write");
        }
        // A few in the middle go; the others are not disturbed.
        files.drain(1000..2000);
        let mut found = [0; 8];
        files[3999].read_exact_at(&mut found, 97 * 8).expect("a read");
        assert_eq!(u64::from_le_bytes(found), 97);
    }
    assert!(descriptors() < before + 100, "a file of the mount is no file of the daemon");
}
