//! Memory: a flood of writes, however large, takes no more than `--memory`, and keeps nobody from his share.

use super::{forget_peak, memory, peak, requests};
use crate::daemon::{Transport, Vmdisk, wait_until};
use crate::load::Load;
use crate::support::{Need, folder, run, trial};
use crate::windows::only_the_disk_matters;
use libtest_mimic::Trial;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const MIB: u64 = 1 << 20;
/// What the mounts may take for requests.
const MEMORY: u64 = 32 * MIB;
/// What a process takes beside that: itself, and two pages for each place of a request (256 of them are used).
const BESIDE: u64 = 20 * MIB;
/// Who floods, and who asks for one thing after the other.
const FLOODER: u32 = 60001;
const READER: u32 = 60002;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for by in Transport::BOTH {
        let title = |what: &str| format!("bounds: {what}, {}", by.name());
        let fio = [by.needs(), &[Need::Tool("fio")]].concat();
        trials.extend([
            trial(
                &title("eight times the memory in writes takes no more, and no share"),
                by.needs(),
                move || {
                    eightfold(by);
                },
            ),
            trial(&title("what went ahead of its turn is what was written"), &fio, move || verified(by)),
        ]);
    }
    let fio = [Transport::Dev.needs(), &[Need::Tool("fio")]].concat();
    for rw in ["randread", "randwrite"] {
        let title = format!("bounds: sixteen times the places in {rw} of one user keep no other out");
        trials.push(trial(&title, &fio, move || more_than_places(rw)));
    }
    trials
}

/// A device that is slow enough for any machine to keep up with.
fn mount(by: Transport, iops: u32, args: &[&str]) -> Vmdisk {
    let config = format!(
        "
devices:
  d: {{path: disk, size: 1GiB, simulate: {{iops: {iops}}}, type: user, groups: {{{FLOODER}: 100, {READER}: 100}}}}
images:
  vm1.img: {{device: d, offset: 0, size: 512MiB, mode: \"0666\"}}
  vm2.img: {{device: d, offset: 512MiB, size: 512MiB, mode: \"0666\"}}
"
    );
    Vmdisk::mount_in(folder(), &config, &by.and(args))
}

/// Four callers that have 256 writes of a mebibyte under way, and one who reads; before and after that, the same with no
/// more writes than there is memory for.
fn eightfold(by: Transport) {
    let mount = mount(by, 100, &["--memory", &MEMORY.to_string()]);
    let share = |outstanding| {
        let (read, beside, peak) = reader_beside(&mount, by, outstanding);
        println!(
            "{by:?}, {outstanding} MiB outstanding: {read} reads beside {beside} writes, at most {} KiB",
            peak / 1024
        );
        assert!(peak <= MEMORY + BESIDE, "{} KiB", peak / 1024);
        read * 1000 / (read + beside)
    };
    // Half of the disk is the reader's share; on a busy machine one who asks for one thing after the other leaves some of it,
    // now more and now less, so it may be tried again.
    let keeps_it = || {
        let [before, flooded, after] = [8, 8 * MEMORY / MIB, 8].map(share);
        assert!(before.max(after) >= 400, "no fair share even without: {before} and {after} of a thousand");
        flooded * 10 >= before.min(after).min(500) * 9
    };
    assert!((0..3).any(|_| keeps_it()), "the reader has less than nine tenths of its share, three times");
}

/// What the reader got beside so many writes under way, what they got, and the most memory meanwhile.
fn reader_beside(mount: &Vmdisk, by: Transport, outstanding: u64) -> (u64, u64, u64) {
    const CALLERS: u64 = 4;
    let mut loads: Vec<_> = (0..CALLERS).map(|_| Load::spawn()).collect();
    for (seed, flood) in loads.iter_mut().enumerate() {
        let depth = outstanding / CALLERS;
        let args = format!("--depth {depth} --size 1M --rw write --uid {FLOODER} --seed {seed}");
        flood.open(&mount.file("vm1.img"), &args);
    }
    let mut reader = Load::spawn();
    reader.open(&mount.file("vm2.img"), &format!("--uid {READER}"));
    only_the_disk_matters(mount, [&reader]);
    loads.push(reader);
    loads.iter_mut().for_each(Load::start);
    let flood = || requests(mount, &FLOODER.to_string());
    let read = || requests(mount, &READER.to_string());
    // Until as much went ahead as there is no memory for, which is once. By io_uring the kernel hands over without being
    // asked, as many at once as there are places.
    let begun = read();
    wait_until(
        || read() >= begun + 50 && (by == Transport::Dev || memory(mount) <= MEMORY + BESIDE),
        || format!("{} reads, {} KiB", read() - begun, memory(mount) / 1024),
    );
    if by == Transport::Uring {
        forget_peak(mount);
    }
    let before = [flood(), read()];
    wait_until(|| flood() + read() >= before[0] + before[1] + 800, || "it stands still".into());
    let (beside, read, peak) = (flood() - before[0], read() - before[1], peak(mount));
    loads.iter_mut().for_each(Load::stop);
    for mut load in loads {
        assert_eq!(load.report().errors, 0);
    }
    (read, beside, peak)
}

/// All sizes and alignments, far more than there is memory for, on a fast device.
fn verified(by: Transport) {
    let mount = mount(by, 20_000, &["--memory", "16MiB"]);
    let sizes = ["--bsrange=512-1M", "--bs_unaligned", "--blockalign=512", "--numjobs=4"];
    let places = ["--size=64M", "--offset_increment=64M", "--iodepth=64"];
    verify(&mount.file("vm1.img"), &[&sizes[..], &places].concat());
    let peak = peak(&mount);
    println!("{by:?}: at most {} KiB", peak / 1024);
    if by == Transport::Dev {
        // What is not aligned is copied, and the allocator keeps some of that.
        assert!(peak <= 16 * MIB + 2 * BESIDE, "{} KiB", peak / 1024);
    }
}

/// Has fio write all of an image at random, as `how` says, and read it again.
pub(super) fn verify(image: &Path, how: &[&str]) {
    let file = format!("--filename={}", image.display());
    let mut args =
        vec!["--name=verify", &file, "--ioengine=libaio", "--direct=1", "--thread", "--rw=randwrite"];
    args.extend(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--allow_file_create=0"]);
    // It leaves files of its own in the folder that it runs in.
    args.extend(["--verify_state_save=0", "--group_reporting"]);
    args.extend(how);
    run("fio", &args).expect("all that was written is there");
}

/// Killed in the end; it is gone once its requests are.
struct Fio(Child);

impl Drop for Fio {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// More requests of one user than there are places for requests.
fn more_than_places(rw: &str) {
    const OUTSTANDING: u64 = 8192;
    let mount = mount(Transport::Dev, 1000, &["--slots", "512"]);
    let mut reader = Load::spawn();
    reader.open(&mount.file("vm2.img"), &format!("--requests 1000 --uid {READER}"));
    let mut command = Command::new("fio");
    command
        .current_dir(mount.folder())
        .args(["--name=flood", "--ioengine=libaio", "--direct=1", "--thread", "--numjobs=4", "--bs=512"])
        .args(["--time_based", "--runtime=600", "--allow_file_create=0", &format!("--rw={rw}")])
        .arg(format!("--filename={}", mount.file("vm1.img").display()))
        .args([format!("--iodepth={}", OUTSTANDING / 4), format!("--uid={FLOODER}")]);
    let fio = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _flood = Fio(fio.spawn().expect("fio runs"));
    wait_until(|| mount.held() >= OUTSTANDING * 7 / 8, || format!("only {} are held", mount.held()));
    let others = || {
        let all: u64 = mount.groups().iter().map(|(_, [reads, _, _, writes, _, _])| reads + writes).sum();
        all - requests(&mount, &READER.to_string())
    };
    only_the_disk_matters(&mount, [&reader]);
    let before = others();
    reader.start();
    let report = reader.report();
    let beside = others() - before;
    println!("{rw}: {} reads beside {beside}, at most {} KiB", report.requests, peak(&mount) / 1024);
    assert_eq!((report.requests, report.errors), (1000, 0));
    let held = mount.held();
    assert!(held >= OUTSTANDING / 2, "{held} are held in the end");
    // fio makes some of its requests as root, whose group has a share as well: a third is the reader's, and nine tenths of
    // that.
    assert!(report.requests * 100 >= (report.requests + beside) * 30, "beside {beside}");
}
