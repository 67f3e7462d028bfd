//! Who is charged when it is not plain to see who asks: the kernel on somebody's behalf, and callers without a group.

use crate::daemon::{AS_OTHERS, MOUNT, Vmdisk};
use crate::support::{Loop, Need, trial};
use libtest_mimic::Trial;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

pub(crate) fn trials() -> Vec<Trial> {
    const WITH_LOOP: &[Need] = &[Need::Root, Need::Fuse, Need::LoopDevice];
    vec![
        trial("a loop device on an image is charged to who attached it", WITH_LOOP, loop_device),
        trial("who has no group is in the default group", AS_OTHERS, no_group),
        trial("type none counts all in the default group", AS_OTHERS, no_groups),
        trial("a file given away is charged to who uses it", MOUNT, given_away),
    ]
}

/// Requests of each group: reads and writes.
fn requests(mount: &Vmdisk) -> Vec<[u64; 2]> {
    mount.groups().into_iter().map(|(_, [reads, _, _, writes, _, _])| [reads, writes]).collect()
}

fn mount(group_type: &str) -> Vmdisk {
    Vmdisk::mount(&format!(
        "devices: {{d: {{path: disk, size: 8MiB, {group_type}}}}}\nimages: {{vm1.img: {{device: d, mode: \"0666\"}}}}\n"
    ))
}

fn loop_device() {
    // A process group that is known before there is a mount, and is not that of the trial.
    let mut command = Command::new("sh");
    command.args(["-c", r#"read -r image && exec losetup --find --show "$image""#]).process_group(0);
    let mut losetup = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
    let group = losetup.id().to_string();
    let mount = mount(&format!("type: pgrp, groups: {{{group}: 100}}"));
    let mut stdin = losetup.stdin.take().expect("piped");
    writeln!(stdin, "{}", mount.file("vm1.img").display()).expect("it listens");
    drop(stdin);
    let mut path = String::new();
    let stdout = losetup.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut path).expect("it speaks");
    assert!(losetup.wait().expect("a child").success());
    let device = Loop::of(path.trim());

    // By root, outside that group. What is written goes to the image when it is flushed, by threads of the kernel.
    let before = requests(&mount);
    let file = File::options().read(true).write(true).open(device.path()).expect("the loop device");
    file.write_all_at(&[7; 1 << 20], 0).expect("a write");
    file.sync_all().expect("an fsync");
    let mut found = [0; 4096];
    file.read_exact_at(&mut found, 4 << 20).expect("a read");
    drop(file);

    let after = mount.groups();
    let (default, (id, [reads, _, read, writes, _, written])) = (&after[0], &after[1]);
    assert_eq!(*default, ("-1".to_owned(), [0; 6]), "{after:?}");
    assert_eq!(*id, group);
    // The kernel reads ahead, and flushes as it likes.
    assert!(*reads > before[1][0] && *read >= 8, "{after:?}");
    assert!(*writes > before[1][1] && *written >= 2048, "{after:?}");
    let mut disk = [0; 4096];
    let backing = File::open(mount.folder().join("disk")).expect("the device");
    backing.read_exact_at(&mut disk, (1 << 20) - 4096).expect("a read");
    assert_eq!(disk, [7; 4096]);
}

/// One write of a sector, as somebody.
fn write_as(mount: &Vmdisk, uid: u32, gid: u32) {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
    command.args(["dd", "if=/dev/zero", "of=vm1.img", "bs=512", "count=1", "conv=notrunc", "status=none"]);
    assert!(command.current_dir(mount.path()).status().expect("setpriv").success());
}

fn no_group() {
    let mount = mount("type: user, groups: {60001: 10, 60002: 20}");
    for (uid, expected) in [
        (60003, [[0, 1], [0, 0], [0, 0]]),
        (60001, [[0, 1], [0, 1], [0, 0]]),
        (0, [[0, 2], [0, 1], [0, 0]]),
        (60002, [[0, 2], [0, 1], [0, 1]]),
    ] {
        // The gid is somebody's uid: it must not matter.
        write_as(&mount, uid, 60001);
        assert_eq!(requests(&mount), expected, "after uid {uid}");
    }
}

fn no_groups() {
    let mount = mount("type: none");
    [0, 60001, 60002].into_iter().for_each(|uid| write_as(&mount, uid, uid));
    assert_eq!(mount.groups(), [("-1".to_owned(), [0, 0, 0, 3, 0, 3])]);
}

/// libvirt opens images and hands them to QEMU: it is the user who counts, not the opener.
fn given_away() {
    let mount = mount("type: user, groups: {60001: 10}");
    let image = File::options().write(true).open(mount.file("vm1.img")).expect("an image");
    let mut command = Command::new("dd");
    command.args(["if=/dev/zero", "bs=512", "count=1", "conv=notrunc", "status=none"]);
    assert!(command.uid(60001).gid(60001).stdout(image).status().expect("dd").success());
    assert_eq!(requests(&mount), [[0, 0], [0, 1]]);
}
