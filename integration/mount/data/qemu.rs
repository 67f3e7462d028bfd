//! Images as QEMU uses them: by its own tools, through each of its ways to do I/O, with its locks.

use super::stage::{Disk, Extents, MIB, Place, Stage, assert_same, name, unmount};
use super::{Need, needs};
use crate::daemon::Transport;
use crate::support::{Random, run, trial};
use libtest_mimic::Trial;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

pub(super) fn trials(by: Transport) -> Vec<Trial> {
    let tools = [Need::Tool("qemu-img"), Need::Tool("qemu-io")];
    let file = Disk::File.by(by);
    let title = format!("data: QEMU locks images, {file:?}");
    let mut trials = vec![trial(&title, &needs(file, &tools), move || locks(file))];
    for place in [Disk::File, Disk::Loop(512), Disk::Loop(4096)].map(|disk| disk.by(by)) {
        let title = format!("data: QEMU and an odd number of sectors, {place:?}");
        trials.push(trial(&title, &needs(place, &tools), move || odd_sectors(place)));
        let title = format!("data: qemu-img convert, {place:?}");
        trials.push(trial(&title, &needs(place, &tools), move || convert(place)));
        for aio in ["threads", "native", "io_uring"] {
            let mut needs = needs(place, &tools);
            if aio == "io_uring" {
                needs.push(Need::Uring);
            }
            let title = format!("data: qemu-io with aio={aio}, {place:?}");
            trials.push(trial(&title, &needs, move || patterns(place, aio)));
        }
    }
    trials
}

/// Meeting within a block, with a neighbour that is not to change.
const IMAGES: [&Extents; 2] =
    [&[(20 * MIB + 512, 10 * MIB - 512), (2 * MIB, 6 * MIB + 512)], &[(8 * MIB + 512, MIB)]];

fn convert(place: Place) {
    let (stage, before) = Stage::noisy(place, 32 * MIB, &IMAGES, &mut Random::new(31));
    let mut mount = stage.mount("", &[]);
    let size = stage.size_of(0);
    let (raw, qcow) = (stage.folder().join("source.raw"), stage.folder().join("source.qcow2"));
    // With runs of zeroes, which QEMU writes as such.
    let mut bytes = Random::new(32).bytes(size as usize);
    bytes[MIB as usize + 7..5 * MIB as usize].fill(0);
    bytes[12 * MIB as usize..].fill(0);
    std::fs::write(&raw, &bytes).expect("a source");
    let (raw, qcow) = (raw.to_str().expect("a plain path"), qcow.to_str().expect("a plain path"));
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", raw, qcow]).expect("a qcow2");

    let copied = stage.folder().join("copied.qcow2");
    for (format, source, cache) in [("qcow2", qcow, "none"), ("raw", raw, "writeback"), ("raw", raw, "none")]
    {
        let image = mount.file(&name(0));
        let image = image.to_str().expect("a plain path");
        let how = ["convert", "-n", "-t", cache, "-T", "none", "-f", format, "-O", "raw", source, image];
        run("qemu-img", &how).expect("a conversion into the image");
        run("qemu-img", &["compare", "-f", format, "-F", "raw", source, image]).expect("the same");
        assert_same(&std::fs::read(image).expect("reading"), &bytes, format);

        let _ = std::fs::remove_file(&copied);
        let copied = copied.to_str().expect("a plain path");
        run("qemu-img", &["convert", "-T", cache, "-f", "raw", "-O", "qcow2", image, copied])
            .expect("a copy");
        run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", raw, copied]).expect("the same");

        unmount(mount);
        mount = stage.mount("", &[]);
        let after = stage.bytes();
        assert_same(&stage.image_of(&after, 0), &bytes, "on the disk");
        assert_same(&stage.image_of(&after, 1), &stage.image_of(&before, 1), "the neighbour");
        // For the next turn something else is there.
        let other = format!("write -P 0x5a 0 {size}");
        qemu_io(mount.file(&name(0)).to_str().expect("a plain path"), &[&other]);
    }
}

/// Partitions and the images on them may have any number of sectors. QEMU has to find out for itself that it may
/// write the last of them, and only that.
fn odd_sectors(place: Place) {
    let images: [&Extents; 2] = [&[(512, MIB + 512)], &[(MIB + 1024, 1024)]];
    let (stage, mut disk) = Stage::noisy(place, 4 * MIB, &images, &mut Random::new(35));
    let mount = stage.mount("", &[]);
    let (image, size) = (mount.file(&name(0)), stage.size_of(0));
    let image = image.to_str().expect("a plain path");
    for (aio, byte) in [("threads", 0x11), ("native", 0x12), ("io_uring", 0x13)] {
        let at = size - 512;
        let commands = [
            format!("write -P {byte} {at} 512"),
            format!("read -P {byte} {at} 512"),
            format!("write -P {byte} {} 9728", size - 9728),
            format!("read -P {byte} {} 9728", size - 9728),
            format!("write -z {at} 512"),
            format!("read -P 0 {at} 512"),
            "flush".into(),
        ];
        let mut args = vec!["-f", "raw", "-t", "none", "-i", aio, image];
        commands.iter().for_each(|command| args.extend(["-c", command]));
        verified(&run("qemu-io", &args).expect("qemu-io"));
    }
    disk[(512 + size - 9728) as usize..][..9728].fill(0x13);
    disk[size as usize..][..512].fill(0);
    assert_same(&stage.bytes(), &disk, "after qemu-io");

    let source = stage.folder().join("source");
    std::fs::write(&source, &disk[..size as usize]).expect("a source");
    let source = source.to_str().expect("a plain path");
    run("qemu-img", &["convert", "-n", "-t", "none", "-f", "raw", "-O", "raw", source, image])
        .expect("a conversion");
    run("qemu-img", &["compare", "-T", "none", "-f", "raw", "-F", "raw", source, image]).expect("the same");
    disk.copy_within(..size as usize, 512);
    assert_same(&stage.bytes(), &disk, "after qemu-img");
}

/// Runs commands on an image; each of them must do what it says.
fn qemu_io(image: &str, commands: &[&str]) {
    let mut args = vec!["-f", "raw", "-t", "none", "-d", "unmap", image];
    commands.iter().for_each(|command| args.extend(["-c", command]));
    verified(&run("qemu-io", &args).expect("qemu-io"));
}

/// qemu-io has been known to report a failed verification and to succeed all the same.
fn verified(said: &str) {
    for bad in ["failed", "rror", "mismatch"] {
        assert!(!said.contains(bad), "{said}");
    }
}

fn patterns(place: Place, aio: &str) {
    let (stage, mut disk) = Stage::noisy(place, 32 * MIB, &IMAGES, &mut Random::new(33));
    let mount = stage.mount("", &[]);
    let image = mount.file(&name(0));
    let options = format!(
        "driver=raw,file.driver=file,file.filename={},file.aio={aio},cache.direct=on,discard=unmap,file.discard=unmap",
        image.display()
    );
    // Over the place where the extents meet, at odd offsets, many at once, and the end of the image.
    let meet = 10 * MIB - 512;
    let size = stage.size_of(0);
    let commands = [
        format!("write -P 0xa1 0 {size}"),
        format!("write -P 0xa2 {} 4M", meet - 2 * MIB - 512),
        "write -P 0xa3 12345 54321".into(),
        format!("read -P 0xa1 0 12345\nread -P 0xa3 12345 54321\nread -P 0xa1 {} 4096", 12345 + 54321),
        (0..64).map(|n| format!("aio_write -P {n} {} 8192\n", MIB + n * 8192)).collect(),
        "aio_flush\nflush".into(),
        (0..64).map(|n| format!("read -P {n} {} 8192\n", MIB + n * 8192)).collect(),
        format!("write -z {} 70000", meet - 1234),
        format!("read -P 0 {} 70000", meet - 1234),
        format!("write -z -u {} 3M\nread -P 0 {} 3M", 4 * MIB + 512, 4 * MIB + 512),
        format!("discard {} 4096\nread {} 4096", 8 * MIB, 8 * MIB),
        format!("write -f -P 0xa4 {} 512\nread -P 0xa4 {} 512", size - 512, size - 512),
        "aio_read -P 0xa1 0 12345\naio_flush".into(),
    ]
    .join("\n");
    let mut child = Command::new("qemu-io")
        .args(["--image-opts", &options])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("qemu-io runs");
    let mut stdin = child.stdin.take().expect("piped");
    // On a thread of its own: it answers while it is told.
    let telling = std::thread::spawn(move || stdin.write_all(format!("{commands}\nquit\n").as_bytes()));
    let output = child.wait_with_output().expect("qemu-io ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    telling.join().expect("told").expect("it listens");
    verified(&said);

    // The same by our own reckoning.
    let mut model = vec![0xa1; size as usize];
    let mut put = |at: u64, len: u64, byte: u8| model[at as usize..(at + len) as usize].fill(byte);
    put(meet - 2 * MIB - 512, 4 * MIB, 0xa2);
    put(12345, 54321, 0xa3);
    (0..64).for_each(|n| put(MIB + n * 8192, 8192, n as u8));
    put(meet - 1234, 70000, 0);
    put(4 * MIB + 512, 3 * MIB, 0);
    put(8 * MIB, 4096, 0);
    put(size - 512, 512, 0xa4);
    let mut from = 0;
    for (at, len) in stage.places(0, 0, size) {
        disk[at as usize..(at + len) as usize].copy_from_slice(&model[from..from + len as usize]);
        from += len as usize;
    }
    stage.check_images(&mount, &disk, "after qemu-io");
    unmount(mount);
    assert_same(&stage.bytes(), &disk, "the disk itself");
}

/// A qemu-io that has an image open, until it is dropped.
struct Holder(Child);

impl Holder {
    fn open(image: &str, args: &[&str]) -> Self {
        let mut child = Command::new("qemu-io")
            .args(["-f", "qcow2"])
            .args(args)
            .arg(image)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-io runs");
        // When it has answered it has the image open.
        let stdin = child.stdin.as_mut().expect("piped");
        stdin.write_all(b"read 0 512\n").expect("it listens");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("an answer");
        assert!(line.contains("read 512/512"), "{line}");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It ends with its standard input; if not, it is one that we started.
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn locks(file: Place) {
    let (stage, _) = Stage::noisy(file, 32 * MIB, &IMAGES, &mut Random::new(34));
    let mount = stage.mount("", &[]);
    let (image, other) = (mount.file(&name(0)), mount.file(&name(1)));
    let qcow = stage.folder().join("qcow2");
    let source = qcow.to_str().expect("a plain path");
    run("qemu-img", &["create", "-q", "-f", "qcow2", source, "8M"]).expect("a qcow2");
    // A qcow2 on each image. (Of a raw image qemu-io takes locks that leave others everything.)
    for image in [&image, &other] {
        let file = std::fs::OpenOptions::new().write(true).open(image).expect("an image");
        file.write_all_at(&std::fs::read(&qcow).expect("a qcow2"), 0).expect("writing");
    }
    let (image, other) = (image.to_str().expect("a plain path"), other.to_str().expect("a plain path"));
    let qemu = |args: &[&str], command| run("qemu-io", &[args, &["-f", "qcow2", "-c", command]].concat());
    let refused = |result: Result<String, String>| {
        let error = result.expect_err("the image is locked");
        assert!(error.contains("Failed to get") && error.contains("lock"), "{error}");
    };
    {
        let _writer = Holder::open(image, &[]);
        refused(qemu(&[image], "write 0 4096"));
        refused(qemu(&["-r", image], "read 0 4096"));
        qemu(&["-r", "-U", image], "read 0 4096").expect("a reader that shares with anybody");
        qemu(&[other], "write 0 4096").expect("another image is free");
        // Whoever writes to the bytes below knows of the lock too.
        refused(run("qemu-img", &["convert", "-n", "-O", "raw", "-f", "raw", source, image]));
    }
    qemu(&[image], "write 0 4096").expect("a writer, now that the other one is gone");
    let _reader = Holder::open(image, &["-r"]);
    qemu(&["-r", image], "read 0 4096").expect("readers share");
    refused(qemu(&[image], "write 0 4096"));
}
