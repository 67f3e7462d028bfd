//! Examples 4 and 5: virtual machines. Xen is not needed for what they are about: in the place of its backends, blkback for
//! `phy:` and tapdisk for `tap:aio:`, are processes of QEMU that serve an image each, and in the place of the virtual
//! machines others that ask them for blocks all the time.

use super::machine::{DEPTH, MACHINE, Machine, Program, SIMULATE, wait_for};
use crate::support::{Need, trial};
use libtest_mimic::Trial;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(super) fn trials() -> Vec<Trial> {
    let needs: Vec<_> =
        MACHINE.iter().copied().chain([Need::Tool("qemu-nbd"), Need::Tool("qemu-img")]).collect();
    vec![
        trial("document: example 4, Xen's virtual block devices share 80:40", &needs, phy),
        trial("document: example 5, Xen's blktap devices share 80:40", &needs, blktap),
    ]
}

/// A virtual machine and the process that is its disk.
struct Virtual {
    backend: Child,
    machine: Child,
}

impl Virtual {
    /// The disk is an image; `name` is that of the virtual machine.
    fn start(image: &Path, folder: &Path, name: &str) -> Self {
        let socket: PathBuf = folder.join(name);
        let mut backend = Command::new("qemu-nbd");
        backend.args(["--persistent", "--format=raw", "--cache=none", "--aio=threads", "--socket"]);
        let backend = backend
            .arg(&socket)
            .arg(image)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("qemu-nbd");
        wait_for(&socket);
        let mut machine = Command::new("qemu-img");
        machine.args(["bench", "-f", "raw", "-t", "none", "-s", "4096", "-c", "100000000"]);
        machine.args(["-d", &DEPTH.to_string()]);
        machine.arg(format!("nbd+unix:///?socket={}", socket.display())).stdout(Stdio::null());
        Self { backend, machine: machine.spawn().expect("qemu-img") }
    }

    /// The process that `lsof` finds with the image open.
    fn pid(&self) -> u32 {
        self.backend.id()
    }

    /// Neither has ended, as they would at an error.
    fn runs(&mut self) -> bool {
        [&mut self.backend, &mut self.machine].into_iter().all(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Virtual {
    fn drop(&mut self) {
        for child in [&mut self.machine, &mut self.backend] {
            let _ = child.kill();
            let _ = child.wait();
        }
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
    let start = |device, name| Virtual::start(&machine.image(device), machine.mount().folder(), name);
    let mut both = [start("ioband1", "vm1"), start("ioband2", "vm2")];
    machine.assert_shares(&[("ioband1", "-1", 80), ("ioband2", "-1", 40)]);
    assert!(both.iter_mut().all(Virtual::runs), "a virtual machine has ended");
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

    let start = |image, name| Virtual::start(&machine.image(image), machine.mount().folder(), name);
    let mut both = [start("vm1.img", "vm1"), start("vm2.img", "vm2")];
    machine.assert_shares(&[("ioband1", "-1", 100)]);
    let [one, two] = both.each_ref().map(Virtual::pid);
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
    assert!(both.iter_mut().all(Virtual::runs), "a virtual machine has ended");
}
