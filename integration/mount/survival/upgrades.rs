//! Workers that are replaced by another program.

use super::{FIVE, Guest, Load, UNDER_LOAD, five, wait_for_worker};
use crate::daemon::{AS_OTHERS, MOUNT, Transport, Vmdisk, ioband, wait_until};
use crate::data::stage::open_file;
use crate::faults::stalled::{Stopped, below};
use crate::faults::{LOOP, soon};
use crate::support::{Loop, Random, folder, trial};
use libtest_mimic::Trial;
use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub(super) fn trials() -> Vec<Trial> {
    let over_rings = [UNDER_LOAD, Transport::Uring.needs()].concat();
    let hangs = [LOOP, Transport::Uring.needs()].concat();
    vec![
        trial("survival: over rings a disk that hangs refuses an upgrade", &hangs, beside_what_hangs),
        trial("survival: upgrades under verified writes and a guest", UNDER_LOAD, || {
            under_load(Transport::Dev);
        }),
        trial("survival: upgrades over rings under verified writes and a guest", &over_rings, || {
            under_load(Transport::Uring);
        }),
        trial(
            "survival: over rings writes that were carried out ahead are not done again without their data",
            &over_rings,
            carried_out_ahead,
        ),
        trial(
            "survival: over rings nobody's request is lost in an upgrade, however few come",
            &over_rings,
            few_come,
        ),
        trial("survival: a program that cannot take over is refused", MOUNT, refused),
        trial(
            "survival: a program that fails after it took over gives way to the old one",
            MOUNT,
            fails_late,
        ),
        trial("survival: whoever may change the mount may not say what runs", AS_OTHERS, not_by_others),
        trial("survival: nor may he have root say it for him", MOUNT, not_through_others),
    ]
}

fn upgrade(folder: &Path, program: Option<&Path>) -> Output {
    let program = program.map(|program| program.to_str().expect("a plain path"));
    let args: Vec<_> =
        ["upgrade", "vmdisk"].into_iter().chain(program.map(|_| "--program")).chain(program).collect();
    ioband(folder, &args)
}

/// What a disk that is slow, or a machine that is busy, refuses: the old one goes on, and it can be tried again.
const AGAIN: [&str; 2] = ["did not complete within", "could not be filled"];

/// One that succeeds, if need be not at once.
fn upgrade_in_the_end(folder: &Path) {
    let succeeds = || {
        let output = upgrade(folder, None);
        let may_fail = AGAIN.iter().any(|words| said(&output).contains(words));
        assert!(output.status.success() || may_fail, "{}", said(&output));
        output.status.success()
    };
    assert!((0..10).any(|_| succeeds()), "ten upgrades in a row are refused");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn under_load(by: Transport) {
    let mount = Vmdisk::mount_in(folder(), FIVE, &by.and(&[]));
    let (mut load, mut guest) = (Load::start(&mount, 5), Guest::start(&mount, 1500));
    let mut random = Random::new(64);
    let mut upgrades = 0;
    while load.runs() || guest.runs() {
        std::thread::sleep(Duration::from_millis(random.below(200)));
        let last = mount.worker();
        upgrade_in_the_end(mount.folder());
        assert_ne!(mount.worker(), last);
        upgrades += 1;
    }
    load.assert_well(mount.folder());
    guest.assert_well();
    assert!(upgrades >= 3, "only {upgrades} upgrades");
    assert_eq!(wait_for_worker(&mount, upgrades - 1), upgrades, "none more has died");
    let ls = mount.control("ls");
    assert!(ls.starts_with(&format!("transport  {}, ", by.name())), "{ls}");
}

/// With memory for a fraction of what is on its way, so that most writes are carried out ahead of their turn: the next process
/// knows that they were, and does not look for data that are gone.
fn carried_out_ahead() {
    let slow = FIVE.replace("type: image", "type: image, simulate: {iops: 400, parallel: 2}");
    let mount = Vmdisk::mount_in(folder(), &slow, &Transport::Uring.and(&["--memory", "16MiB"]));
    let mut load = Load::of_size(&mount, 4, "1M");
    let mut upgrades = 0;
    while load.runs() {
        upgrade_in_the_end(mount.folder());
        upgrades += 1;
        std::thread::sleep(Duration::from_millis(300));
    }
    load.assert_well(mount.folder());
    assert!(upgrades >= 2, "only {upgrades} upgrades");
}

/// A few callers that each wait for their answer: their requests meet entries of every process that was, and those that ended
/// were full. Changes and looks beside them come through as well, each once.
fn few_come() {
    const CALLERS: u64 = 4;
    let mount = Vmdisk::mount_in(folder(), FIVE, &Transport::Uring.and(&[]));
    let message = |words: &[&str]| {
        let args = [&["message", "d", "0"], words, &["--mountpoint", "vmdisk"]].concat();
        let output = ioband(mount.folder(), &args);
        assert!(output.status.success(), "{words:?}: {}", said(&output));
    };
    let (done, at_it) = (AtomicBool::new(false), AtomicU64::new(0));
    let rounds: Vec<u64> = std::thread::scope(|scope| {
        let callers: Vec<_> = (1..=CALLERS)
            .map(|caller| {
                let (mount, done, at_it) = (&mount, &done, &at_it);
                let image = format!("vm{caller}.img");
                scope.spawn(move || {
                    let file = File::options().read(true).write(true).open(mount.file(&image));
                    let file = file.expect("an image");
                    let mut round = 0;
                    while !done.load(Ordering::Relaxed) {
                        let data = Random::new(round * CALLERS + caller).bytes(3000);
                        file.write_all_at(&data, round % 4000 * 4096).expect("a write");
                        let mut got = vec![0; data.len()];
                        file.read_exact_at(&mut got, round % 4000 * 4096).expect("a read");
                        assert!(got == data, "{image}, round {round}");
                        at_it.fetch_add(u64::from(round == 0), Ordering::Relaxed);
                        round += 1;
                    }
                    round
                })
            })
            .collect();
        let changes = scope.spawn(|| {
            for round in 0.. {
                if done.load(Ordering::Relaxed) {
                    return round;
                }
                // Done twice, each of these would be an error.
                message(&["attach", "vm2.img"]);
                message(&["detach", "vm2.img"]);
                at_it.fetch_add(u64::from(round == 0), Ordering::Relaxed);
            }
            0
        });
        wait_until(|| at_it.load(Ordering::Relaxed) == CALLERS + 1, || "not all have begun".into());
        for _ in 0..5 {
            upgrade_in_the_end(mount.folder());
        }
        done.store(true, Ordering::Relaxed);
        assert!(changes.join().expect("it ends") > 0);
        callers.into_iter().map(|caller| caller.join().expect("it ends")).collect()
    });
    assert!(rounds.iter().all(|rounds| *rounds > 0), "{rounds:?}");
}

/// A disk that has a request and does not complete it: another process may not have the memory that the request lies in. The
/// one that stays serves another disk at once, and the request when it is complete.
fn beside_what_hangs() {
    let below = below();
    let device = Loop::attach(&below.file("disk.img"), 512);
    let config = format!(
        "devices:\n  slow: {{path: {}}}\n  good: {{path: good.disk, size: 8MiB, id: 2}}\n\
         images: {{slow.img: {{device: slow}}, good.img: {{device: good}}}}\n",
        device.path().display()
    );
    let mount = Vmdisk::mount_in(folder(), &config, &Transport::Uring.and(&[]));
    let [slow, good] = ["slow.img", "good.img"].map(|name| open_file(&mount, name, libc::O_DIRECT));
    let stopped = Stopped::new(&below);
    let writes = slow.try_clone().expect("a descriptor");
    let waiting = std::thread::spawn(move || writes.write_all_at(&[1; 4096], 0));
    let in_flight = || mount.metric("ioband_disk_in_flight_requests");
    wait_until(|| in_flight() == 1, || format!("{} are with the disks", in_flight()));
    let at = mount.folder().to_owned();
    let output = soon("an upgrade", move || upgrade(&at, None));
    let refused = !output.status.success() && said(&output).contains("the disk of slow did not complete");
    assert!(refused, "{}", said(&output));
    let file = good.try_clone().expect("a descriptor");
    soon("another disk", move || {
        for round in 0..100 {
            file.write_all_at(&[round as u8; 4096], round * 4096).expect("another disk");
        }
    });
    assert!(!waiting.is_finished(), "somebody was answered by nobody");
    drop(stopped);
    waiting.join().expect("it waits for its answer").expect("its answer");
    let mut bytes = [0; 4096];
    slow.read_exact_at(&mut bytes, 0).expect("it is back");
    assert_eq!(bytes, [1; 4096]);
    // Then it comes about.
    let output = upgrade(mount.folder(), None);
    assert!(output.status.success(), "{}", said(&output));
    good.read_exact_at(&mut bytes, 99 * 4096).expect("another disk");
    assert_eq!(bytes, [99; 4096]);
    slow.read_exact_at(&mut bytes, 0).expect("it is there");
    assert_eq!(bytes, [1; 4096]);
}

/// A program in the mount's folder.
/// A file that can be run. Others write it: what this process has open for writing, a process that it starts meanwhile has as
/// well, and then it cannot be run.
fn program(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    let mut write = Command::new("sh");
    write.args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""]).arg(&path).arg(text);
    assert!(write.status().expect("a shell").success(), "{} is not written", path.display());
    path
}

fn refused() {
    let mount = five();
    let last = mount.worker();
    let folder = mount.folder();
    let is_refused = |program: &Path, words: &str| {
        let output = upgrade(folder, Some(program));
        assert!(
            output.status.code() == Some(1) && said(&output).contains(words),
            "{words}: {}",
            said(&output)
        );
        // The old one goes on.
        assert_eq!(mount.worker(), last);
        assert!(mount.control("events").contains("refused: upgrade"));
        let image = std::fs::File::open(mount.file("vm1.img")).expect("an image");
        image.read_exact_at(&mut [0; 4096], 0).expect("a read");
    };
    is_refused(Path::new("/bin/true"), "before it");
    is_refused(&program(folder, "text", "no program"), "text cannot be started");
    is_refused(&program(folder, "script", "#!/bin/sh\nexit 3\n"), "before it");
    let output = upgrade(folder, Some(Path::new("none")));
    assert!(said(&output).contains("cannot find none"), "{}", said(&output));
    let locked = program(folder, "locked", "");
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o600)).expect("its permissions");
    is_refused(&locked, "locked cannot be started: Permission denied");
}

/// One that could serve and is killed before it does. When it is killed too late it serves, and is followed.
fn fails_late() {
    let mount = five();
    for _ in 0..50 {
        let old = mount.worker();
        let output = std::thread::scope(|scope| {
            let upgraded = scope.spawn(|| upgrade(mount.folder(), None));
            while !upgraded.is_finished() {
                if mount.worker().is_some_and(|now| Some(now) != old) {
                    super::kill_worker(&mount);
                    break;
                }
            }
            upgraded.join().expect("it ends")
        });
        if !output.status.success() {
            assert!(said(&output).contains("before it served; the old one goes on"), "{}", said(&output));
            let image = std::fs::File::open(mount.file("vm1.img")).expect("an image");
            image.read_exact_at(&mut [0; 4096], 0).expect("a read");
            return;
        }
    }
    panic!("it always served before it was killed");
}

fn not_by_others() {
    let config = format!("control: {{owner: \"1001\", mode: \"0600\"}}\n{}", super::FIVE);
    let mount = crate::daemon::Vmdisk::mount(&config);
    let last = mount.worker();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "1001", "--clear-groups", env!("CARGO_BIN_EXE_ioband"), "upgrade", "vmdisk"]);
    let output = command.current_dir(mount.folder()).output().expect("setpriv runs");
    assert!(said(&output).contains("only root, and the user who mounted"), "{}", said(&output));
    assert_eq!(mount.worker(), last);
    // Everything else is theirs.
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        "1001",
        "--clear-groups",
        env!("CARGO_BIN_EXE_ioband"),
        "message",
        "d",
        "0",
        "weight",
        "7",
    ]);
    let output =
        command.args(["--mountpoint", "vmdisk"]).current_dir(mount.folder()).output().expect("it runs");
    assert!(output.status.success(), "{}", said(&output));
}

/// A descriptor that was opened by somebody, who has begun a command, and that a program of root's ends, as one does that writes
/// its complaints to it.
fn not_through_others() {
    let mount = crate::daemon::Vmdisk::mount(&format!("control: {{owner: \"1001\"}}\n{}", super::FIVE));
    let last = mount.worker();
    let ctl = mount.path().join(".ioband/ctl");
    let opened = std::thread::spawn(move || {
        // Of this thread only.
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(1001));
        let mut file = std::fs::File::options().read(true).write(true).open(ctl).expect("it is theirs");
        std::io::Write::write_all(&mut file, b"upgrade /bin/true").expect("it begins");
        file
    });
    let mut file = opened.join().expect("it is open");
    let refused = std::io::Write::write(&mut file, b"\n").expect_err("it is theirs");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    assert_eq!(mount.worker(), last);
    assert!(mount.control("events").contains("only root, and the user who mounted"));
}
