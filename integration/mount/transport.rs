//! The two ways by which requests come, /dev/fuse and io_uring: each serves what it is asked to, whole, and keeps nobody out.

use crate::daemon::{Counters, Transport, Vmdisk};
use crate::data::stage::{Disk, MIB, Place, Stage, assert_same, name, open, unmount};
use crate::load::Load;
use crate::support::{Need, Random, folder, trial};
use crate::windows::only_the_disk_matters;
use crate::writers::PATIENCE;
use libtest_mimic::Trial;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What is in the control directory.
const CONTROL: [&str; 13] = [
    "control.yaml",
    "ctl",
    "devices",
    "events",
    "ls",
    "ls.json",
    "metrics",
    "pid",
    "sandbox",
    "status",
    "status.json",
    "table",
    "table.json",
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("transport auto is the one that survives", Transport::Uring.needs(), || {
            let why = "a mount served by it ends with a process that dies; if speed is worth that, mount with \
                       --transport uring";
            served_by(&[], Transport::Dev, Some(why));
        }),
        trial("transport auto is dev for the backend threads", Transport::Dev.needs(), || {
            served_by(&["--backend", "threads"], Transport::Dev, None);
        }),
    ];
    for by in Transport::BOTH {
        let title = |what: &str| format!("transport {}: {what}", by.name());
        trials.extend([
            trial(&title("what was asked for is what serves"), by.needs(), move || {
                served_by(&["--transport", by.name()], by, None);
            }),
            trial(&title("a large request comes as one"), by.needs(), move || large(by)),
            trial(&title("metadata under load"), by.needs(), move || metadata(by)),
            trial(&title("a long control file comes whole"), by.needs(), move || long_control_file(by)),
        ]);
        for disk in [Disk::File, Disk::Loop(4096)] {
            let place = disk.by(by);
            let needs = [place.needs().as_slice(), &[Need::Tool("fio")]].concat();
            let title = format!("transport {}: fio verifies what it wrote, {disk:?}", by.name());
            trials.push(trial(&title, &needs, move || verified(place)));
        }
    }
    trials
}

/// Those that keep the machine busy with thousands of threads: to be run one after the other.
pub(crate) fn floods() -> Vec<Trial> {
    let floods = |by: Transport| {
        let fio = [by.needs(), &[Need::Tool("fio")]].concat();
        let title =
            |what: &str| format!("transport {}: 4,096 {what} of one user keep no other out", by.name());
        [
            trial(&title("requests"), by.needs(), move || flood(by, threads)),
            trial(&title("asynchronous requests"), &fio, move || flood(by, asynchronous)),
        ]
    };
    Transport::BOTH.into_iter().flat_map(floods).collect()
}

/// Requests that the mount has accepted, as (by io_uring, by /dev/fuse).
fn served(mount: &Vmdisk) -> (u64, u64) {
    let ls = mount.control("ls");
    let line = ls.lines().find(|line| line.starts_with("served")).unwrap_or_else(|| panic!("{ls}"));
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(line, format!("served     {} requests by io_uring, {} by /dev/fuse", numbers[0], numbers[1]));
    (numbers[0], numbers[1])
}

/// Of a pair as [`served`] gives it, what came by this transport, and what by the other.
fn split(by: Transport, (uring, dev): (u64, u64)) -> (u64, u64) {
    if by == Transport::Uring { (uring, dev) } else { (dev, uring) }
}

fn served_by(args: &[&str], by: Transport, why: Option<&str>) {
    const SMALL: &str = "devices: {d: {path: disk, size: 4MiB}}\nimages: {vm1.img: {device: d}}\n";
    let mount = Vmdisk::mount_in(folder(), SMALL, args);
    assert_eq!(served(&mount), (0, 0));
    let image = File::options().read(true).write(true).open(mount.file("vm1.img")).expect("an image");
    for number in 0..50 {
        let data = Random::new(number).bytes(3000);
        image.write_all_at(&data, number * 3000).expect("a write");
        let mut got = vec![0; data.len()];
        image.read_exact_at(&mut got, number * 3000).expect("a read");
        assert_same(&got, &data, "what was written");
    }
    image.sync_all().expect("an fsync");
    let (this, other) = split(by, served(&mount));
    assert!(this >= 101 && other == 0, "{this} by {by:?}, {other} by the other");
    let ls = mount.control("ls");
    assert!(ls.starts_with(&format!("transport  {}, ", by.name())), "{ls}");
    let reason = ls.lines().find_map(|line| line.strip_prefix("           not uring: "));
    assert_eq!(reason, why, "{ls}");
}

/// What a group of the only device did.
fn counters(mount: &Vmdisk, group: &str) -> Counters {
    let found = mount.groups().into_iter().find(|(id, _)| id == group);
    found.unwrap_or_else(|| panic!("there is no group {group}")).1
}

/// Requests and sectors, of reads and of writes, of the default group of the only device.
fn counted(mount: &Vmdisk) -> [u64; 4] {
    let [reads, _, read, writes, _, written] = counters(mount, "-1");
    [reads, read, writes, written]
}

/// As large as the kernel makes them unless a sysctl says otherwise.
fn large(by: Transport) {
    let (stage, disk) = Stage::noisy(Disk::File.by(by), 8 * MIB, &[&[(MIB, 4 * MIB)]], &mut Random::new(51));
    let mount = stage.mount("", &[]);
    let file = open(&mount, 0, libc::O_DIRECT);
    let mut memory = vec![0; MIB as usize + 4096];
    let start = memory.as_ptr().align_offset(4096);
    let memory = &mut memory[start..start + MIB as usize];
    assert_eq!(file.read_at(memory, MIB).expect("a read"), memory.len());
    assert_same(memory, &stage.image_of(&disk, 0)[MIB as usize..2 * MIB as usize], "what was read");
    assert_eq!(counted(&mount), [1, 2048, 0, 0]);
    memory.copy_from_slice(&Random::new(52).bytes(MIB as usize));
    assert_eq!(file.write_at(memory, 2 * MIB).expect("a write"), memory.len());
    assert_eq!(counted(&mount), [1, 2048, 1, 2048]);
    assert_same(&stage.bytes()[3 * MIB as usize..4 * MIB as usize], memory, "what was written");
}

/// Four writers at once with requests of all sizes, each of which reads back what it wrote.
fn verified(place: Place) {
    const JOB: u64 = 12 * MIB;
    let extents = [(40 * MIB + 512, 20 * MIB), (MIB, 36 * MIB + 512), (38 * MIB, 512)];
    let stage = Stage::sparse(place, 64 * MIB, &[&extents]);
    let mount = stage.mount("", &[]);
    let before = split(place.transport, served(&mount));
    let image = mount.file(&name(0));
    let mut command = Command::new("fio");
    command
        .current_dir(stage.folder())
        .args(["--name=verify", "--ioengine=libaio", "--direct=1", "--iodepth=32", "--numjobs=4", "--thread"])
        .args(["--rw=randwrite", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"])
        .args(["--bssplit=512/20:1536/10:4k/25:20k/20:64k/15:256k/6:1m/4", "--allow_file_create=0"])
        .arg(format!("--filename={}", image.display()))
        .args([format!("--size={JOB}"), format!("--offset_increment={JOB}")]);
    let output = command.stdin(Stdio::null()).output().expect("fio runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("err= 0"), "{said}");
    assert!(!said.contains("verify: bad") && !said.contains("error"), "{said}");
    let (this, other) = split(place.transport, served(&mount));
    // Each byte was written and read, and no request is larger than a MiB.
    assert!(
        this - before.0 >= 2 * 4 * JOB / MIB && other == 0,
        "{this} requests, {other} by the other transport"
    );
    unmount(mount);
}

/// One user's requests, as many as are allowed to wait.
const MANY: u64 = 4096;
const FLOODER: &str = "1000";
const READER: &str = "2000";

/// [`MANY`] requests in flight, until they are dropped: by as many threads.
fn threads(mount: &Vmdisk) -> Vec<Load> {
    let mut loads: Vec<_> = (0..4).map(|_| Load::spawn()).collect();
    let depth = MANY as usize / loads.len();
    for load in &mut loads {
        load.open(&mount.file("vm1.img"), &format!("--depth {depth} --uid {FLOODER}"));
    }
    loads.iter_mut().for_each(Load::start);
    loads
}

/// By libaio.
fn asynchronous(mount: &Vmdisk) -> Fio {
    let mut command = Command::new("fio");
    command
        .current_dir(mount.folder())
        .args(["--name=flood", "--ioengine=libaio", "--direct=1", "--thread", "--numjobs=4"])
        .args(["--rw=randread", "--bs=4k", "--time_based", "--runtime=600", "--allow_file_create=0"])
        .arg(format!("--filename={}", mount.file("vm1.img").display()))
        .args([format!("--iodepth={}", MANY / 4), format!("--uid={FLOODER}"), format!("--gid={FLOODER}")]);
    let fio = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Fio(fio.spawn().expect("fio runs"))
}

/// Killed in the end; it is gone once its requests are.
struct Fio(Child);

impl Drop for Fio {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Who makes one request after the other gets them answered at its share, whatever waits of another user.
fn flood<T>(by: Transport, start: impl FnOnce(&Vmdisk) -> T) {
    let mut config = "
devices:
  d: {path: disk, size: 64MiB, simulate: {iops: 2000}, type: user, groups: {1000: 40, 2000: 40}}
images:
"
    .to_owned();
    for number in [1, 2] {
        let offset = 32 * (number - 1);
        config +=
            &format!("  vm{number}.img: {{device: d, offset: {offset}MiB, size: 32MiB, mode: \"0666\"}}\n");
    }
    let mount = Vmdisk::mount_in(folder(), &config, &by.and(&[]));
    let mut reader = Load::spawn();
    reader.open(&mount.file("vm2.img"), &format!("--requests 1000 --uid {READER}"));
    // Gone before the mount is: nobody is to ask over and over what is refused.
    let _flood = start(&mount);
    // Nearly all: whoever has just had an answer is about to ask again.
    let waiting = || {
        let (accepted, _) = split(by, served(&mount));
        accepted.saturating_sub(requests(&mount, FLOODER))
    };
    let start = Instant::now();
    while waiting() < MANY * 15 / 16 {
        assert!(start.elapsed() < PATIENCE, "only {} requests wait", waiting());
        std::thread::sleep(Duration::from_millis(5));
    }
    only_the_disk_matters(&mount, [&reader]);
    let before = requests(&mount, FLOODER);
    reader.start();
    // The first answer comes while all the others wait.
    let start = Instant::now();
    while requests(&mount, READER) == 0 {
        assert!(start.elapsed() < PATIENCE, "not even the first request is answered");
        std::thread::sleep(Duration::from_millis(1));
    }
    let beside_first = requests(&mount, FLOODER) - before;
    let report = reader.report();
    let beside = requests(&mount, FLOODER) - before;
    let (_, other) = split(by, served(&mount));
    println!("{by:?}: {} requests beside {beside}, the first beside {beside_first}", report.requests);
    assert_eq!((report.requests, report.errors, other), (1000, 0, 0));
    // It does not wait for what came before it: that were thousands.
    assert!(beside_first < MANY / 2, "the first request waited for {beside_first} others");
    // Half of the disk is its share; who asks one at a time leaves some of it, and more on a machine that is busy.
    assert!(beside < 5 * report.requests, "{beside} requests beside {}", report.requests);
}

/// Requests of a group that the disk was given.
fn requests(mount: &Vmdisk, group: &str) -> u64 {
    let [reads, _, _, writes, _, _] = counters(mount, group);
    reads + writes
}

/// Looking at files, opening them and reading control files goes on while data flow, and shows what it must.
fn metadata(by: Transport) {
    const ROUNDS: usize = 150;
    const IMAGES: usize = 6;
    let (stage, disk) = {
        let extents: Vec<_> = (0..IMAGES as u64).map(|n| [(n * 2 * MIB, MIB + 512 * n)]).collect();
        let images: Vec<&[(u64, u64)]> = extents.iter().map(<[_; 1]>::as_slice).collect();
        Stage::noisy(Disk::File.by(by), 16 * MIB, &images, &mut Random::new(53))
    };
    let mount = stage.mount("", &[]);
    let table = mount.control("table");
    let stop = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let (stage, mount, disk, table, stop) = (&stage, &mount, &disk, table.as_str(), &stop);
        let writers: Vec<_> = (0..2)
            .map(|image| {
                scope.spawn(move || {
                    let mut random = Random::new(54 + image as u64);
                    let file = open(mount, image, [0, libc::O_DIRECT][image]);
                    let mut model = stage.image_of(disk, image);
                    let mut rounds = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let len = 1 + random.below(300_000);
                        let at = random.below(stage.size_of(image) - len);
                        let data = random.bytes(len as usize);
                        model[at as usize..][..data.len()].copy_from_slice(&data);
                        file.write_all_at(&data, at).expect("a write");
                        let mut got = vec![0; model.len()];
                        file.read_exact_at(&mut got, 0).expect("a read");
                        assert_same(&got, &model, "what was written so far");
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        let lookers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        look(stage, mount, disk, table);
                    }
                })
            })
            .collect();
        let looked: Vec<_> = lookers.into_iter().map(|looker| looker.join()).collect();
        stop.store(true, Ordering::Relaxed);
        let rounds: Vec<i32> = writers.into_iter().map(|writer| writer.join().expect("a writer")).collect();
        looked.into_iter().for_each(|looked| looked.expect("a looker"));
        rounds
    });
    assert!(rounds.iter().all(|rounds| *rounds > 0), "no data flowed: {rounds:?}");
    let (this, other) = split(by, served(&mount));
    assert!(this > 0 && other == 0, "{this}, {other}");
    unmount(mount);
}

/// Everything that there is to see, once.
fn look(stage: &Stage, mount: &Vmdisk, disk: &[u8], table: &str) {
    let names = |path| {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
            .collect();
        names.sort();
        names
    };
    let images: Vec<_> = (0..stage.images()).map(name).collect();
    assert_eq!(names(mount.path()), [vec![".ioband".to_owned()], images.clone()].concat());
    assert_eq!(names(mount.path().join(".ioband")), CONTROL);
    for (number, image) in images.iter().enumerate() {
        let seen = std::fs::metadata(mount.file(image)).expect("an image");
        assert_eq!((seen.len(), seen.mode() & libc::S_IFMT), (stage.size_of(number), libc::S_IFREG));
        let file = File::open(mount.file(image)).expect("an image");
        // Nobody writes to the last ones.
        if number >= 2 {
            let mut got = [0; 700];
            file.read_exact_at(&mut got, 300).expect("a read");
            assert_same(&got, &stage.image_of(disk, number)[300..1000], image);
        }
    }
    assert_eq!(mount.control("table"), table);
    assert_eq!(mount.control("pid"), format!("{}\n", mount.pid()));
    assert!(mount.control("status").starts_with("ioband1: 0 "));
    assert_eq!(mount.control("ls").lines().filter(|line| line.starts_with("vm")).count(), stage.images());
    let missing = std::fs::metadata(mount.file("missing")).expect_err("it is not there");
    assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
}

/// Longer than one request of ours to fuser, in buffers of every size.
fn long_control_file(by: Transport) {
    let groups: Vec<_> = (1..=30_000).map(|id| format!("{id}: {}", 1 + id % 100)).collect();
    let groups = groups.join(", ");
    let config = format!("devices: {{d: {{path: disk, size: 4MiB, type: user, groups: {{{groups}}}}}}}\n");
    let mount = Vmdisk::mount_in(folder(), &config, &by.and(&[]));
    let shares: Vec<_> = (1..=30_000).map(|id| format!(" {id}:{}", 1 + id % 100)).collect();
    let path = mount.path().join(".ioband/table");
    for room in [5000, 128 << 10, (128 << 10) + 1, 1 << 20, 16 << 20] {
        let mut file = File::open(&path).expect("a control file");
        let (mut text, mut buffer) = (Vec::new(), vec![0; room]);
        loop {
            match file.read(&mut buffer).expect("a read") {
                0 => break,
                len => text.extend_from_slice(&buffer[..len]),
            }
        }
        let text = String::from_utf8(text).expect("text");
        assert!(text.len() > 240 << 10 && text.starts_with("d: 0 8192 ioband "), "{} bytes", text.len());
        assert!(text.ends_with(&(shares.concat() + "\n")), "it is not whole in pieces of {room}");
    }
    // What is shorter than the buffer comes in one piece.
    let mut buffer = vec![0; 1 << 20];
    let len = File::open(mount.path().join(".ioband/pid"))
        .expect("a control file")
        .read(&mut buffer)
        .expect("a read");
    assert_eq!(buffer[..len], *format!("{}\n", mount.pid()).as_bytes());
    // From anywhere in it, up to its end.
    let file = File::open(&path).expect("a control file");
    let size = std::fs::read(&path).expect("a control file").len() as u64;
    assert_eq!(file.read_at(&mut buffer, size - 10).expect("a read"), 10);
    assert_eq!(file.read_at(&mut buffer, size).expect("a read"), 0);
}
