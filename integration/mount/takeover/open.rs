//! Files that are open while workers die.

use super::{CONFIG, command, control, kill_worker, mounted, open_to};
use crate::daemon::{MOUNT, Vmdisk, wait_until};
use crate::support::trial;
use libtest_mimic::Trial;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("what is open and half written goes on with the next worker", MOUNT, half_written),
        trial("a removed image that is open stays, and comes back as itself, across workers", MOUNT, orphan),
        trial("who waits for events is woken by the next worker, and misses none", MOUNT, follower),
        trial("counters, and what was changed of images, are those of the worker before", MOUNT, changed),
        trial("a worker goes on with what runs, not with what is on disk", MOUNT, unsaved),
    ]
}

fn read_write() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

fn at_start(file: &File) -> String {
    let mut bytes = vec![0; 4096];
    let len = file.read_at(&mut bytes, 0).expect("a read");
    String::from_utf8(bytes[..len].to_vec()).expect("text")
}

fn half_written() {
    let mount = mounted();
    let note = open_to(&mount, "note", read_write().create_new(true));
    note.write_all_at(b"one", 0).expect("a write");
    let mut more = open_to(&mount, "note", OpenOptions::new().append(true));
    more.write_all(b", two").expect("a write");
    let nameless = open_to(&mount, "nameless", read_write().create_new(true));
    nameless.write_all_at(b"still here", 0).expect("a write");
    fs::remove_file(control(&mount, "nameless")).expect("a scratch file");
    let draft = open_to(&mount, "control.yaml", &mut read_write());
    let text = at_start(&draft).replace("type: user", "type: gid ");
    let (first, rest) = text.as_bytes().split_at(text.len() / 2);
    draft.write_all_at(first, 0).expect("a write");
    let mut ctl = open_to(&mount, "ctl", &mut read_write());
    ctl.write_all(b"message d 0 wei").expect("a write");
    let before = note.metadata().expect("attributes");
    // A text that is read for the first time with the next one.
    let [status, ls, pid] =
        ["status", "ls", "pid"].map(|name| open_to(&mount, name, OpenOptions::new().read(true)));
    let keeper = mount.control("pid");

    kill_worker(&mount);
    assert!(at_start(&status).starts_with("d: 0 16384 ioband 1 "), "{}", at_start(&status));
    assert!(at_start(&ls).contains("a.img"), "{}", at_start(&ls));
    assert_eq!(at_start(&pid), keeper);
    assert_eq!(at_start(&note), "one, two");
    let now = note.metadata().expect("attributes");
    assert_eq!((now.ino(), now.modified().unwrap()), (before.ino(), before.modified().unwrap()));
    more.write_all(b", three").expect("a write");
    assert_eq!(at_start(&note), "one, two, three");
    assert_eq!(at_start(&nameless), "still here");
    ctl.write_all(b"ght 50\n").expect("the rest of a command");
    let mut answer = String::new();
    ctl.read_to_string(&mut answer).expect("an answer");
    assert!(answer.is_empty() && mount.control("table").ends_with(":50\n"), "{answer}");

    kill_worker(&mount);
    draft.write_all_at(rest, first.len() as u64).expect("a write");
    draft.sync_all().expect("a valid configuration");
    assert!(mount.control("table").contains(" gid "), "{}", mount.control("table"));
}

fn orphan() {
    let mount = mounted();
    let image = read_write().open(mount.file("a.img")).expect("an image");
    image.write_all_at(b"kept", 512).expect("a write");
    let text = mount.control("control.yaml");
    let line = text.lines().find(|line| line.contains("a.img")).expect("it is configured").to_owned();
    fs::write(control(&mount, "control.yaml"), text.replace(&format!("{line}\n"), "")).expect("a save");
    let ino = image.metadata().expect("attributes").ino();
    for _ in 0..2 {
        kill_worker(&mount);
        let mut found = [0; 4];
        image.read_exact_at(&mut found, 512).expect("a read");
        assert_eq!(&found, b"kept");
        let now = image.metadata().expect("attributes");
        assert_eq!((now.ino(), now.nlink()), (ino, 0));
        assert!(!mount.file("a.img").exists());
    }
    // Another one of that name, elsewhere, has another number; also after the first one has gone.
    let elsewhere = "  a.img: {device: d, offset: 4MiB, size: 1MiB}\n";
    fs::write(control(&mount, "control.yaml"), text.replace(&format!("{line}\n"), elsewhere))
        .expect("a save");
    let other = read_write().open(mount.file("a.img")).expect("an image");
    let number = other.metadata().expect("attributes").ino();
    assert_ne!(number, ino);
    drop(image);
    kill_worker(&mount);
    assert_eq!(other.metadata().expect("attributes").ino(), number);
    let busy = command(&mount, "remove d").expect_err("it is open");
    assert!(busy.contains("open"), "{busy}");
    drop(other);
    // The kernel tells of a close a moment later.
    let free = || fs::write(control(&mount, "control.yaml"), CONFIG).is_ok();
    wait_until(free, || "nothing of it is open".into());
}

fn waits(events: &File) -> bool {
    let mut wait = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
    poll(&mut wait, PollTimeout::from(20_000_u16)).expect("a poll") == 1
}

fn follower() {
    let mount = mounted();
    let mut events = File::open(control(&mount, "events")).expect("the events");
    let mut text = String::new();
    for round in 0..3 {
        events.read_to_string(&mut text).expect("events");
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| waits(&events));
            // It may wait by now or not: it is woken or has something to read.
            std::thread::sleep(std::time::Duration::from_millis(100));
            kill_worker(&mount);
            assert!(reader.join().expect("no panic"), "nobody has told that there was a death");
        });
        command(&mount, &format!("message d 0 weight {}", round + 10)).expect("a message");
    }
    events.read_to_string(&mut text).expect("events");
    let messages: Vec<_> = text.lines().filter(|line| line.contains("message d 0 weight")).collect();
    assert_eq!(messages.len(), 3, "{text}");
    assert_eq!(text.matches("was ended by signal 9").count(), 3, "{text}");
    assert_eq!(text, mount.control("events"), "each line once, and in order");
}

fn changed() {
    let mount = mounted();
    let image = read_write().open(mount.file("b.img")).expect("an image");
    for n in 0..10 {
        image.write_all_at(&[n; 512], 0).expect("a write");
    }
    fs::set_permissions(mount.file("b.img"), Permissions::from_mode(0o640)).expect("a chmod");
    // They are written down ten times a second, unless the machine has much else to do.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let status = mount.control("status");
    kill_worker(&mount);
    assert_eq!(mount.control("status"), status);
    assert_eq!(mount.file("b.img").metadata().expect("attributes").mode() & 0o777, 0o640);
    command(&mount, "message d 0 reset").expect("a message");
    kill_worker(&mount);
    assert_eq!(counted(&mount), 0);
}

fn counted(mount: &Vmdisk) -> u64 {
    mount.groups().iter().flat_map(|(_, counters)| counters).sum()
}

fn unsaved() {
    let mount = mounted();
    command(&mount, "message d 0 attach 7").expect("a message");
    // An invalid one on disk keeps nobody from going on.
    fs::write(mount.folder().join("config.yaml"), "devices: {d: nonsense").expect("a configuration");
    mount.wait_for("events", |events| events.contains("refused"));
    kill_worker(&mount);
    let table = mount.control("table");
    assert!(table.ends_with(":100 7:100\n"), "{table}");
    // And a valid one is in force as ever.
    fs::write(mount.folder().join("config.yaml"), CONFIG.replace("type: user", "type: gid")).expect("a save");
    mount.wait_for("table", |table| table.contains(" gid "));
}
