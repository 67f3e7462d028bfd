//! Floods of what no share governs: names, attributes, opening, lists. They cannot keep others' data from the disk, nor
//! others' names from being found.

use super::flood::{Attack, is_bounded, victim};
use super::stage::{ATTACKER, Use, VICTIM, mount};
use crate::daemon::{MOUNT, Vmdisk, wait_until, worker};
use crate::support::trial;
use libtest_mimic::Trial;
use std::fs::File;
use std::time::Instant;

pub(super) fn trials() -> Vec<Trial> {
    let beside = |name: &str, pattern: &'static str, threads| {
        trial(&format!("attack: a storm of {name}"), MOUNT, move || storm(pattern, threads, ""))
    };
    vec![
        beside("names that are not there", "names", 16),
        beside("stat", "stat", 16),
        beside("opens and closes", "opens", 16),
        beside("lists of the folder", "list", 16),
        beside("statfs", "statfs", 16),
        beside("refused opens", "refused", 16),
        beside("extended attributes", "xattr", 16),
        beside("searches for holes", "holes", 16),
        beside("opens without a close", "hoard", 16),
        trial("attack: a thousand who wait for events", MOUNT, || storm("events", 1000, "mode: \"0644\"")),
        trial("attack: refusals do not push other events out", MOUNT, refusals),
    ]
}

/// Requests a second of the disk.
const IOPS: u32 = 400;

/// The victim goes on, with data and with names.
fn storm(pattern: &'static str, threads: u32, control: &str) {
    let mount = mount(IOPS, control);
    let process = worker(&mount);
    let before = Use::of(process);
    let mut victim = victim(&mount);
    victim.start();
    let done = || requests(&mount, VICTIM);
    let rate = |most: &mut Use| {
        wait_until(|| done() >= 20, || "the victim stands still".into());
        let (start, from) = (Instant::now(), done());
        wait_until(
            || {
                *most = most.most(Use::of(process));
                done() >= from + 100
            },
            || format!("the victim stands still at {}", done()),
        );
        (done() - from) as f64 / start.elapsed().as_secs_f64()
    };
    let mut most = before;
    let alone = rate(&mut most);
    let attack = Attack::begin(&mount, pattern, threads);
    let beside = rate(&mut most);
    // And names: an image that is opened, as a virtual machine that starts does it.
    let start = Instant::now();
    for _ in 0..100 {
        drop(File::open(mount.file("victim.img")).expect("the image"));
    }
    let open = start.elapsed() / 100;
    let calls = attack.end();
    victim.stop();
    let report = victim.report();
    assert_eq!(report.errors, 0, "{report:?}");
    println!(
        "{pattern}: {alone:.0} requests a second alone and {beside:.0} beside {calls} calls, an image is opened in {open:?}, \
         {before:?} became {most:?}"
    );
    // What comes from the kernel stands in one line, and a storm of many threads makes that long: with it grows what each
    // request waits, whatever its weight. How much is told above and depends on the machine; that it goes on does not.
    // Who waits for an event that does not come makes no call.
    assert!(calls > 0 || pattern == "events", "nothing was tried");
    is_bounded(before, most);
}

fn requests(mount: &Vmdisk, uid: u32) -> u64 {
    let groups = mount.groups();
    let (_, [reads, _, _, writes, ..]) =
        groups.iter().find(|(id, _)| *id == uid.to_string()).expect("the group");
    reads + writes
}

/// What root has done is still there after however many refusals.
fn refusals() {
    let mount = mount(100_000, "");
    std::fs::write(mount.file(".ioband/devices/d/token_base"), "4096").expect("a setting");
    let told = mount.control("events");
    assert!(told.contains("token_base"), "{told}");
    let attack = Attack::begin(&mount, "refused", 8);
    wait_until(|| mount.control("events").contains("times by now"), || mount.control("events"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    let calls = attack.end();
    let events = mount.control("events");
    assert!(events.starts_with(&told), "{events}");
    let log = mount.log();
    let logged = log.lines().filter(|line| line.contains("refused: ")).count();
    println!("{calls} refused calls, {} bytes of events, {logged} lines in the log", events.len());
    assert!(logged < 200, "{logged} lines in the log");
    assert_ne!(VICTIM, ATTACKER);
}
