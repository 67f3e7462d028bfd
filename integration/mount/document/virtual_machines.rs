//! Examples 4 and 5: virtual machines. Xen is not needed for what they are about: in the place of its backends, blkback for
//! `phy:` and tapdisk for `tap:aio:`, is the block layer of QEMU, a process of its own for each image, whose threads ask for
//! blocks all the time.

use super::machine::{MACHINE, Machine, Program, SIMULATE};
use crate::support::{Need, trial};
use libtest_mimic::Trial;
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub(super) fn trials() -> Vec<Trial> {
    let needs: Vec<_> = MACHINE.iter().copied().chain([Need::Tool("qemu-img")]).collect();
    vec![
        trial("document: example 4, Xen's virtual block devices share 80:40", &needs, phy),
        trial("document: example 5, Xen's blktap devices share 80:40", &needs, blktap),
    ]
}

/// The process that is the disk of a virtual machine.
struct Backend(Child);

impl Backend {
    /// As many requests as its threads can wait for: on a busy machine it takes them long to ask for the next ones.
    fn start(image: &Path) -> Self {
        let mut qemu = Command::new("qemu-img");
        qemu.args(["bench", "-f", "raw", "-t", "none", "-i", "threads", "-d", "64", "-s", "4096"]);
        Self(qemu.args(["-c", "100000000"]).arg(image).stdout(Stdio::null()).spawn().expect("qemu-img"))
    }

    /// The process that `lsof` finds with the image open.
    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// It has not ended, as it would at an error.
    fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn phy() {
    let machine = Machine::new(Program::Ioband, &["/dev/sda1", "/dev/sda2"]);
    machine.follow(&format!(
        r#"
# echo "0 $(blockdev --getsize /dev/sda1) ioband /dev/sda1 1 0 0" \
    "none weight 0 :80" | dmsetup create ioband1
# echo "0 $(blockdev --getsize /dev/sda2) ioband /dev/sda2 1 0 0" \
    "none weight 0 :40" | dmsetup create ioband2
# dmsetup message ioband1 0 {SIMULATE}
"#
    ));
    let mut both = ["ioband1", "ioband2"].map(|device| Backend::start(&machine.image(device)));
    machine.assert_shares(&[("ioband1", "-1", 80), ("ioband2", "-1", 40)]);
    assert!(both.iter_mut().all(Backend::runs), "a backend has ended");
}

/// In the document a file system on ioband1 holds the two images. Here they are images of ioband: what is put in the place of
/// the one that `create` made, in the running configuration.
fn blktap() {
    let machine = Machine::new(Program::Ioband, &["/dev/sda1"]);
    machine.follow(&format!(
        r#"
# echo "0 $(blockdev --getsize /dev/sda1) ioband /dev/sda1" \
    "1 0 0 none weight 0 :100" | dmsetup create ioband1
# dmsetup message ioband1 0 {SIMULATE}
"#
    ));
    let yaml = machine.mount().file(".ioband/control.yaml");
    let text = std::fs::read_to_string(&yaml).expect("a control file");
    let (devices, _) = text.split_once("\nimages:\n").expect("it has images");
    let images =
        "vm1.img: {device: ioband1, size: 32MiB}\n  vm2.img: {device: ioband1, offset: 32MiB, size: 32MiB}";
    std::fs::write(&yaml, format!("{devices}\nimages:\n  {images}\n")).expect("a configuration");

    let mut both = ["vm1.img", "vm2.img"].map(|image| Backend::start(&machine.image(image)));
    machine.assert_shares(&[("ioband1", "-1", 100)]);
    let [one, two] = both.each_ref().map(Backend::pid);
    machine.follow(&format!(
        "# dmsetup message ioband1 0 type pid\n\
         # dmsetup message ioband1 0 attach {one}\n\
         # dmsetup message ioband1 0 weight {one}:80\n\
         # dmsetup message ioband1 0 attach {two}\n\
         # dmsetup message ioband1 0 weight {two}:40\n\
         # dmsetup table\n\
         ioband1: 0 131072 ioband <sda1> 1 0 0 pid weight 2048 :100 {one}:80 {two}:40\n"
    ));
    let (one, two) = (one.to_string(), two.to_string());
    machine.assert_shares(&[("ioband1", &one, 80), ("ioband1", &two, 40)]);
    assert!(both.iter_mut().all(Backend::runs), "a backend has ended");
}
