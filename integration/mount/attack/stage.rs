//! A victim and an attacker, each with an image, on one slow disk.

use crate::daemon::Vmdisk;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Who does nothing wrong.
pub(super) const VICTIM: u32 = 60001;
/// Who does.
pub(super) const ATTACKER: u32 = 60002;

/// Both with the same weight; the disk is so slow that the machine keeps up with it whatever else it does, unless told.
pub(super) fn mount(iops: u32, control: &str) -> Vmdisk {
    Vmdisk::mount(&format!(
        "control: {{{control}}}\n\
         devices: {{d: {{path: disk, size: 64MiB, type: user, simulate: {{iops: {iops}}}, groups: {{{VICTIM}: 100, {ATTACKER}: 100}}}}}}\n\
         images:\n\
         \x20 victim.img: {{device: d, offset: 0, size: 32MiB, owner: {VICTIM}, mode: \"0600\"}}\n\
         \x20 attacker.img: {{device: d, offset: 32MiB, size: 32MiB, owner: {ATTACKER}, mode: \"0600\"}}\n"
    ))
}

/// A process that becomes the attacker, in the mount (the folders above may be closed to him).
pub(super) fn attacker(mount: &Vmdisk, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(mount.path()).stdin(Stdio::null());
    command
}

/// Runs a shell script as the attacker, in the mount; what it said.
pub(super) fn as_attacker(mount: &Vmdisk, script: &str) -> Result<String, String> {
    let output = attacker(mount, "sh").args(["-c", script]).uid(ATTACKER).gid(ATTACKER).output().expect("sh");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// What the process that serves uses: threads, descriptors, and memory in KiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) threads: usize,
    pub(super) descriptors: usize,
    pub(super) memory: u64,
}

impl Use {
    pub(super) fn of(process: u32) -> Self {
        let process = Path::new("/proc").join(process.to_string());
        let count = |folder| fs::read_dir(process.join(folder)).expect("the daemon").count();
        let status = fs::read_to_string(process.join("status")).expect("the daemon");
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        Self {
            threads: count("task"),
            descriptors: count("fd"),
            memory: memory.trim().trim_end_matches(" kB").parse().expect("a number"),
        }
    }

    pub(super) fn most(self, other: Self) -> Self {
        Self {
            threads: self.threads.max(other.threads),
            descriptors: self.descriptors.max(other.descriptors),
            memory: self.memory.max(other.memory),
        }
    }
}
