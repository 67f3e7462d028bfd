//! The mount outlives whoever serves it: workers are killed, exchanged and kept from starting, under load.

mod alone;
mod kills;
mod manager;
mod refused;
mod upgrades;

use crate::daemon::{Vmdisk, wait_until};
use crate::support::{Need, Random, folder};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub(crate) fn trials() -> Vec<Trial> {
    let all = [kills::trials(), upgrades::trials(), refused::trials(), alone::trials(), manager::trials()];
    all.into_iter().flatten().collect()
}

/// Four images on one device, and a fifth for whoever else there is.
const FIVE: &str = "devices: {d: {path: disk, size: 96MiB, type: image}}\n\
     images:\n  vm1.img: {device: d, size: 16MiB}\n  vm2.img: {device: d, offset: 16MiB, size: 16MiB}\n  \
     vm3.img: {device: d, offset: 32MiB, size: 16MiB}\n  vm4.img: {device: d, offset: 48MiB, size: 16MiB}\n  \
     vm5.img: {device: d, offset: 64MiB, size: 16MiB}\n";

/// Kills the worker.
fn kill_worker(mount: &Vmdisk) -> bool {
    // Between two of them there is none.
    mount.worker().is_some_and(|worker| kill(worker, Signal::SIGKILL).is_ok())
}

/// Waits until another worker serves than those that did before.
fn wait_for_worker(mount: &Vmdisk, before: u64) -> u64 {
    let count = || {
        let list: serde_json::Value = serde_json::from_str(&mount.control("ls.json")).expect("a list");
        list["service"]["before"].as_u64().expect("a number")
    };
    wait_until(|| count() > before, || format!("none follows after {before}"));
    count()
}

/// fio's verified random writes, 32 at once on each of the first four images, for some seconds.
struct Load(Child);

impl Load {
    fn start(mount: &Vmdisk, seconds: u32) -> Self {
        Self::of_size(mount, seconds, "4k")
    }

    fn of_size(mount: &Vmdisk, seconds: u32, size: &str) -> Self {
        let mut fio = Command::new("fio");
        fio.args([
            "--rw=randwrite",
            &format!("--bs={size}"),
            "--size=16M",
            "--iodepth=32",
            "--ioengine=libaio",
            "--direct=1",
        ])
        .args(["--verify=crc32c", "--verify_backlog=512", "--verify_fatal=1", "--time_based"])
        .args([format!("--runtime={seconds}"), "--group_reporting".into(), "--output=fio.out".into()])
        .current_dir(mount.folder());
        for number in 1..=4 {
            fio.arg(format!("--name=vm{number}")).arg(format!("--filename=vmdisk/vm{number}.img"));
        }
        Self(fio.stdout(Stdio::null()).spawn().expect("fio starts"))
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().expect("it can be waited for").is_none()
    }

    /// It has seen neither an error nor a wrong byte.
    fn assert_well(&mut self, folder: &Path) {
        let status = self.0.wait().expect("it can be waited for");
        let said = std::fs::read_to_string(folder.join("fio.out")).unwrap_or_default();
        assert!(status.success() && said.contains("err= 0"), "{status}: {said}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// qemu-io writes patterns to the fifth image and reads them again, until it has done so as often as it was told.
struct Guest(Child);

impl Guest {
    fn start(mount: &Vmdisk, rounds: u32) -> Self {
        use std::io::Write;
        let mut guest = Command::new("qemu-io")
            .args(["-f", "raw", "-n", "-t", "none", "vmdisk/vm5.img"])
            .current_dir(mount.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("qemu-io starts");
        let mut random = Random::new(7);
        let mut commands = String::new();
        for round in 0..rounds {
            let (pattern, at) = (round % 255 + 1, random.below(255) * 64);
            commands += &format!("write -q -P {pattern} {at}k 64k\nread -q -P {pattern} {at}k 64k\n");
            if round % 16 == 0 {
                commands += "flush\n";
            }
        }
        let mut stdin = guest.stdin.take().expect("a pipe");
        std::thread::spawn(move || stdin.write_all(commands.as_bytes()));
        Self(guest)
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().expect("it can be waited for").is_none()
    }

    /// It has noticed nothing.
    fn assert_well(mut self) {
        let said = std::io::read_to_string(self.0.stdout.take().expect("a pipe")).expect("text");
        let wrong = std::io::read_to_string(self.0.stderr.take().expect("a pipe")).expect("text");
        let status = self.0.wait().expect("it can be waited for");
        assert!(status.success() && wrong.is_empty() && !said.contains("rror"), "{status}: {said}{wrong}");
    }
}

/// A mount of [`FIVE`].
fn five() -> Vmdisk {
    Vmdisk::mount_in(folder(), FIVE, &[])
}

/// What the trials under load need.
const UNDER_LOAD: &[Need] = &[Need::Root, Need::Fuse, Need::Tool("fio"), Need::Tool("qemu-io")];
