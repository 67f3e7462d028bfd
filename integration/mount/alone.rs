//! A place where no other ioband mount is: a mount namespace and a process namespace of its own.
//!
//! Commands that look for "the" mount of the machine need it, because other trials mount at the same time. And
//! whatever is started in it ends with it, so that it can be asked what was left behind.

use crate::support::{Need, folder};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// What it needs.
pub(crate) const ALONE: &[Need] =
    &[Need::Root, Need::Fuse, Need::Tool("unshare"), Need::Tool("nsenter"), Need::Tool("umount")];

/// The namespaces, and a folder to work in.
pub(crate) struct Alone {
    folder: tempfile::TempDir,
    unshare: Child,
    /// The first process in there, as seen from here.
    init: u32,
}

impl Alone {
    pub(crate) fn new() -> Self {
        // Once the mounts of others are gone from this view of the machine, it waits for the end of its input. It
        // is the namespace's first process: the kernel ends all others with it.
        // (umount finds them by itself: what findmnt prints stands for a blank in a path with \x20, and not every
        // shell's printf knows that.)
        // Nor may what others mount meanwhile stay mounted in here once it is not mounted for them any more.
        let script = "umount -alt fuse.ioband\n\
            while read -r _ at _; do case $at in \"$0\"/*) umount -l \"$at\";; esac; done < /proc/mounts\n\
            echo ready; exec cat";
        let mut unshare = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script])
            .arg(env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        let stdout = unshare.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("it speaks");
        let pid = unshare.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let init = children.expect("it has a child").trim().parse().expect("one number");
        assert_eq!(line, "ready\n");
        let alone = Self { folder: folder(), unshare, init };
        assert_eq!(alone.mounts(), [""; 0], "the mounts of others are still there");
        alone
    }

    /// The folder that commands run in.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file in it.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// Runs `ioband`.
    pub(crate) fn ioband(&self, args: &[&str]) -> Said {
        self.sh(&[&["exec \"$IOBAND\" \"$@\"", "sh"], args].concat())
    }

    /// Runs a script, in which `$IOBAND` is the program, with arguments.
    pub(crate) fn sh(&self, script_and_args: &[&str]) -> Said {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--pid", "--target", &self.init.to_string()]);
        // Entering the namespace leads to its root.
        command.args(["sh", "-c", "cd \"$0\" && exec sh -c \"$@\""]).arg(self.folder()).args(script_and_args);
        command.env("IOBAND", env!("CARGO_BIN_EXE_ioband")).env_remove("IOBAND_MOUNTPOINT");
        Said::from(&command.output().expect("nsenter"))
    }

    /// The ioband mounts in there.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.init)).expect("mountinfo");
        mounts.lines().filter(|line| line.contains(" - fuse.ioband ")).map(ToOwned::to_owned).collect()
    }

    /// The processes in there, besides the first.
    pub(crate) fn processes(&self) -> Vec<String> {
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let here = namespace(&self.init.to_string());
        assert!(here.is_some());
        let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
        pids.filter(|pid| *pid != self.init.to_string() && namespace(pid) == here)
            .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok())
            // Of a process that has ended and that nobody has asked about there is no command line.
            .filter(|line| !line.is_empty())
            .collect()
    }

    /// Names in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).expect("a folder").flatten();
        let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.unshare.stdin.take();
        let _ = self.unshare.wait();
    }
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn from(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// It worked, and complained of nothing; what it printed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.status == Some(0) && self.err.is_empty(), "{self:?}");
        self.out
    }

    /// It failed, printed nothing, and its complaint has all these parts.
    #[track_caller]
    pub(crate) fn refused(self, parts: &[&str]) {
        assert!(self.status == Some(1) && self.out.is_empty(), "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "nothing of {part:?} in {:?}", self.err);
        }
        // One sentence says it once.
        assert_eq!(self.err.matches("os error").count().max(1), 1, "{:?}", self.err);
    }
}
