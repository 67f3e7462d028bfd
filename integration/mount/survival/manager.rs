//! A service manager is told when a mount is ready, and holds it should even the keeper die.

use super::FIVE;
use crate::daemon::{MOUNT, ioband, wait_until};
use crate::support::{folder, trial};
use libtest_mimic::Trial;
use nix::cmsg_space;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("survival: a service manager holds the mount while its keeper is started again", MOUNT, held)]
}

/// What a manager has been told, and what it was given to hold.
struct Manager {
    socket: UnixDatagram,
    held: Vec<(String, OwnedFd)>,
}

impl Manager {
    /// Listens until it is told that the service is ready.
    fn wait_until_ready(&mut self) {
        loop {
            let mut bytes = [0; 4096];
            let mut into = [IoSliceMut::new(&mut bytes)];
            let mut space = cmsg_space!([RawFd; 8]);
            let message = recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut into,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC,
            )
            .expect("a message");
            let mut descriptors = Vec::new();
            for control in message.cmsgs().expect("control messages") {
                if let ControlMessageOwned::ScmRights(numbers) = control {
                    // SAFETY: the kernel has just made them for us.
                    descriptors
                        .extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
                }
            }
            let len = message.bytes;
            let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
            assert_eq!(descriptors.is_empty(), !text.contains("FDSTORE=1"), "{text}");
            self.held.extend(descriptors.into_iter().map(|descriptor| (name.to_owned(), descriptor)));
            if text.contains("READY=1") {
                return;
            }
        }
    }

    /// Starts the service, with what is held from descriptor 3 on.
    fn start(&self, folder: &Path) -> Service {
        let mut script = String::new();
        for (at, (_, descriptor)) in self.held.iter().enumerate() {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).expect("it is open");
            script += &format!("exec {}<&{}; ", at + 100, descriptor.as_raw_fd());
        }
        for at in 0..self.held.len() {
            script += &format!("exec {}<&{}; ", at + 3, at + 100);
        }
        let names: Vec<_> = self.held.iter().map(|(name, _)| name.as_str()).collect();
        if !names.is_empty() {
            script += &format!(
                "export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}; ",
                names.len(),
                names.join(":")
            );
        }
        script +=
            &format!("exec {} mount --foreground config.yaml vmdisk --log log", env!("CARGO_BIN_EXE_ioband"));
        let mut bash = Command::new("bash");
        bash.arg("-c").arg(script).current_dir(folder).env("NOTIFY_SOCKET", folder.join("notify"));
        let child = bash.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        for (_, descriptor) in &self.held {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("it is open");
        }
        Service(child)
    }
}

/// Ends what it has started, whatever happens.
struct Service(Child);

impl Service {
    fn children(&self) -> Vec<Pid> {
        let pid = self.0.id();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().expect("a number"))).collect()
    }

    /// Everything of it, as a manager does at the end of a service.
    fn kill(&mut self) {
        let children = self.children();
        let _ = self.0.kill();
        let _ = self.0.wait();
        for child in children {
            let _ = kill(child, Signal::SIGKILL);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Unmounts whatever happens.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn held() {
    let folder = folder();
    let at = folder.path();
    std::fs::write(at.join("config.yaml"), FIVE).expect("a configuration");
    let socket = UnixDatagram::bind(at.join("notify")).expect("a socket");
    socket.set_read_timeout(Some(crate::writers::PATIENCE)).expect("a time limit");
    let mut manager = Manager { socket, held: Vec::new() };
    let vmdisk = at.join("vmdisk");
    let _unmount = Unmount(&vmdisk);

    let mut service = manager.start(at);
    manager.wait_until_ready();
    assert!(manager.held.len() >= 2, "ledger and connection: {:?}", manager.held);
    let message = ["message", "d", "0", "attach", "vm2.img", "--mountpoint", "vmdisk"];
    assert!(ioband(at, &message).status.success());
    let image = File::options().read(true).write(true).open(vmdisk.join("vm1.img")).expect("an image");
    image.write_all_at(&[3; 4096], 0).expect("a write");
    let pid = || std::fs::read_to_string(vmdisk.join(".ioband/pid")).expect("a control file");
    let before = pid();

    // Keeper and worker at once: nobody but the manager has the mount now.
    service.kill();
    let reader = std::thread::spawn({
        let image = image.try_clone().expect("a descriptor");
        move || {
            let mut bytes = [0; 4096];
            image.read_exact_at(&mut bytes, 0).map(|()| bytes)
        }
    });
    let held = manager.held.len();
    let mut service = manager.start(at);
    manager.wait_until_ready();
    assert_eq!(reader.join().expect("it waits").expect("the same open file"), [3; 4096]);
    assert_ne!(pid(), before);
    let table = std::fs::read_to_string(vmdisk.join(".ioband/table")).expect("a control file");
    assert!(table.contains("vm2.img:100"), "{table}");
    assert!(manager.held.len() >= held);

    // Ended in earnest, it takes the mount along.
    drop(image);
    let keeper = Pid::from_raw(service.0.id() as i32);
    kill(keeper, Signal::SIGTERM).expect("it runs");
    wait_until(|| service.0.try_wait().expect("ours").is_some(), || "it does not end".into());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(vmdisk.to_str().expect("a plain path")), "still mounted");
}
