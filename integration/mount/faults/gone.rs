//! Devices that go and come back, and others that come in their place.

use super::{MIB, errno, read, say, told};
use crate::daemon::{Transport, Vmdisk, wait_until};
use crate::data::stage::{assert_same, open_file};
use crate::support::{Loop, Random, folder, run, sparse};
use nix::sys::signal::{Signal, kill};
use std::fs::File;
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;

pub(super) fn shrunk(by: Transport) {
    let at = folder();
    let backing = at.path().join("backing");
    sparse(&backing, 8 * MIB);
    let device = Loop::attach(&backing, 512);
    let path = device.path().to_str().expect("a plain path").to_owned();
    let config = format!(
        "devices:\n  d: {{path: {path}}}\n  good: {{path: good.disk, size: 8MiB, id: 2}}\n\
         images: {{a.img: {{device: d}}, good.img: {{device: good}}}}\n"
    );
    let mount = Vmdisk::mount_in(folder(), &config, &by.and(&[]));
    let [a, good] = ["a.img", "good.img"].map(|name| open_file(&mount, name, libc::O_DIRECT));
    a.write_all_at(&[1; 8192], 0).expect("writing");
    let resize = |size| {
        File::options().write(true).open(&backing).and_then(|file| file.set_len(size)).expect("another size");
        run("losetup", &["-c", &path]).expect("the device sees it");
    };
    resize(0);
    for at in [0, 4096, 3 * MIB] {
        assert_eq!(errno(read(&a, at, 4096)), Some(libc::EIO));
        // A disk that is gone says that it has no room; it is not full.
        assert_eq!(errno(a.write_all_at(&[2; 4096], at)), Some(libc::EIO));
        assert_eq!(errno(a.write_all_at(b"part", at + 9)), Some(libc::EIO));
        good.write_all_at(&[2; 4096], at).expect("another disk");
    }
    wait_until(|| told(&mount, "device d:") >= 1, || mount.control("events"));
    assert_eq!(told(&mount, "has no room"), 0);
    resize(8 * MIB);
    a.write_all_at(&[3; 8192], MIB).expect("it is back");
    assert_eq!(read(&a, MIB, 8192).expect("reading"), [3; 8192]);
}

/// A mount of a device that can be pulled out, and of another one.
struct Plugged {
    mount: Vmdisk,
    path: PathBuf,
    device: Option<Loop>,
    image: File,
    good: File,
}

impl Plugged {
    fn new(backing: &str) -> Self {
        let at = folder();
        let path = at.path().join("device");
        sparse(&at.path().join(backing), 8 * MIB);
        let device = Loop::attach(&at.path().join(backing), 512);
        symlink(device.path(), &path).expect("a link");
        let config = "devices:\n  d: {path: device}\n  good: {path: good.disk, size: 8MiB, id: 2}\n\
             images: {a.img: {device: d}, good.img: {device: good}}\n";
        let mount = Vmdisk::mount_in(at, config, &Transport::Dev.and(&[]));
        let [image, good] = ["a.img", "good.img"].map(|name| open_file(&mount, name, libc::O_DIRECT));
        Self { mount, path, device: Some(device), image, good }
    }

    /// Takes the device away, and kills the worker, so that nobody has it open any more.
    fn pull(&mut self) {
        std::fs::remove_file(&self.path).expect("it is there");
        // It goes when it is closed.
        self.device = None;
        let worker = self.mount.worker().expect("a worker");
        kill(worker, Signal::SIGKILL).expect("it is ours");
        wait_until(|| self.mount.worker().is_some_and(|now| now != worker), || "no other worker".to_owned());
    }

    fn put(&mut self, backing: &str) {
        let device = Loop::attach(&self.mount.folder().join(backing), 512);
        symlink(device.path(), &self.path).expect("nothing is there");
        self.device = Some(device);
    }

    /// Its images are errors, everything else goes on.
    fn check_gone(&self) {
        for _ in 0..3 {
            assert_eq!(errno(read(&self.image, 0, 4096)), Some(libc::EIO));
            assert_eq!(errno(self.image.write_all_at(&[9; 4096], 0)), Some(libc::EIO));
            assert_eq!(errno(self.image.sync_all()), Some(libc::EIO));
        }
        self.good.write_all_at(&[2; 4096], 0).expect("another disk");
        assert_eq!(read(&self.good, 0, 4096).expect("another disk"), [2; 4096]);
        for command in [&["ls"][..], &["table"], &["status"], &["message", "good", "0", "weight", "50"]] {
            let output = say(&self.mount, command);
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    fn wait_until_back(&self) {
        wait_until(|| read(&self.image, 0, 4096).is_ok(), || self.mount.control("events"));
    }
}

/// The worker dies and the disk goes: its successor serves what is left, with the files that are open, and takes the disk up
/// when it is back, by whatever number.
pub(super) fn between_workers() {
    let mut plugged = Plugged::new("backing");
    let data = Random::new(5).bytes(MIB as usize);
    plugged.image.write_all_at(&data, 0).expect("writing");
    plugged.pull();
    plugged.check_gone();
    wait_until(
        || told(&plugged.mount, "answer EIO until it is back") == 1,
        || plugged.mount.control("events"),
    );
    // Nor does it matter to those who come later.
    let worker = plugged.mount.worker().expect("a worker");
    kill(worker, Signal::SIGKILL).expect("it is ours");
    plugged.check_gone();
    plugged.put("backing");
    plugged.wait_until_back();
    assert_same(&read(&plugged.image, 0, data.len()).expect("reading"), &data, "what was written before");
    plugged.image.write_all_at(&data, MIB).expect("writing");
    assert_same(&read(&plugged.image, MIB, data.len()).expect("reading"), &data, "what was written since");
    wait_until(|| told(&plugged.mount, "is back, and served again") == 1, || plugged.mount.control("events"));
    // In the log of the first worker as well, whose path counted from where it was mounted.
    wait_until(|| plugged.mount.log().contains("is back, and served again"), || plugged.mount.log());
}

pub(super) fn another() {
    let mut plugged = Plugged::new("backing");
    let other = plugged.mount.folder().join("other");
    std::fs::write(&other, vec![7; 8 * MIB as usize]).expect("another disk");
    plugged.image.write_all_at(&[1; 4096], 0).expect("writing");
    plugged.pull();
    plugged.put("other");
    wait_until(|| told(&plugged.mount, "is another disk") == 1, || plugged.mount.control("events"));
    plugged.check_gone();
    assert!(std::fs::read(&other).expect("it is there").iter().all(|byte| *byte == 7), "it was written to");
    // Unless somebody says that it is right.
    let output = say(&plugged.mount, &["message", "d", "0", "reopen"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(read(&plugged.image, 0, 4096).expect("reading"), [7; 4096]);
    plugged.image.write_all_at(&[1; 4096], 4096).expect("writing");
    assert_eq!(std::fs::read(&other).expect("it is there")[4096..8192], [1; 4096]);
    // What is too small is not taken by anybody's word.
    plugged.pull();
    sparse(&plugged.mount.folder().join("small"), MIB);
    plugged.put("small");
    let output = say(&plugged.mount, &["message", "d", "0", "reopen"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("has 1MiB, but 8MiB are used"), "{said}");
}
