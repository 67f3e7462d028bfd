//! The machine of the document: its disks, the folders that its file systems are mounted at, and a shell in which its
//! command lines are typed.
//!
//! What is typed stands in the trials as in the document. Only the names are other ones here: `/dev/sda1` is a loop
//! device, `/dev/mapper` the mount or, for the shim, a folder of links, and `/mnt1` is in the trial's folder.

use crate::alone::Said;
use crate::daemon::{Vmdisk, after, groups};
use crate::load::Load;
use crate::support::{Loop, Need, folder, run, sparse, unmount};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What it needs.
pub(super) const MACHINE: &[Need] = &[Need::Root, Need::Fuse, Need::LoopDevice, Need::Tool("blockdev")];

/// The same where file systems are made and mounted.
pub(super) const WITH_FILESYSTEMS: &[Need] = &[
    Need::Root,
    Need::Fuse,
    Need::LoopDevice,
    Need::Tool("blockdev"),
    Need::Tool("mkfs.ext3"),
    Need::Tool("mount"),
    Need::Tool("findmnt"),
];

/// Bytes of a disk.
const DISK: u64 = 64 << 20;

/// What makes a disk exact, and so slow that any machine can follow, also while others want its processors.
pub(super) const SIMULATE: &str = "simulate 250:0:1";

/// Requests that each reader has in flight: while a machine that does something else keeps it from its next ones, these are
/// there, so that its group goes on to want its share.
pub(super) const DEPTH: u32 = 16;

/// Points of a hundred that a share may be off.
const TOLERANCE: f64 = 2.5;
/// What the disk does before it is counted: half a second.
const BEFORE: u64 = 125;
/// Then so many requests are counted, so many times. The median is compared: a machine that stands still for a moment
/// spoils one or two.
const COUNTED: u64 = 200;
const WINDOWS: usize = 5;

/// Which program understands the command lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// `ioband` stands where `dmsetup` stood.
    Ioband,
    /// The shim, under the name of dmsetup: not a word is changed.
    Dmsetup,
}

/// A machine with ioband and disks.
pub(super) struct Machine {
    // Dropped in this order: the mount before what it is on.
    mount: Vmdisk,
    disks: Vec<(String, Loop)>,
    program: Program,
}

impl Machine {
    /// With disks that are called so, and nothing mounted on them.
    pub(super) fn new(program: Program, disks: &[&str]) -> Self {
        Self::with(program, disks, "devices: {}\n")
    }

    /// With a configuration, in which a disk is called as in the document, too.
    pub(super) fn with(program: Program, disks: &[&str], config: &str) -> Self {
        let files = folder();
        let attach = |disk: &&str| {
            let file = files.path().join(disk.replace('/', "-"));
            sparse(&file, DISK);
            ((*disk).to_owned(), Loop::attach(&file, 512))
        };
        let disks: Vec<_> = disks.iter().map(attach).collect();
        for name in ["bin", "mapper", "mnt1", "mnt2"] {
            std::fs::create_dir(files.path().join(name)).expect("a folder");
        }
        let shim = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/dmsetup");
        symlink(shim, files.path().join("bin/dmsetup")).expect("a symbolic link");
        symlink(env!("CARGO_BIN_EXE_ioband"), files.path().join("bin/ioband")).expect("a symbolic link");
        let config = named(&disks, config);
        Self { mount: Vmdisk::mount_in(files, &config, &[]), disks, program }
    }

    pub(super) fn mount(&self) -> &Vmdisk {
        &self.mount
    }

    /// The image of an ioband device.
    pub(super) fn image(&self, name: &str) -> PathBuf {
        self.mount.file(name)
    }

    /// The text with the disks' names of here.
    pub(super) fn name(&self, text: &str) -> String {
        named(&self.disks, text)
    }

    /// One of the folders `mnt1` and `mnt2`.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.mount.folder().join(name)
    }

    /// Types what stands behind each `#`, with lines that go on behind a `\` as in a shell. It must succeed, complain of
    /// nothing and print what stands below it. There `<sda1>` is MAJOR:MINOR of that disk, `...` is whatever it may print, and
    /// a long line goes on behind a `\`, too.
    #[track_caller]
    pub(super) fn follow(&self, text: &str) {
        let text = format!("{}\n", text.trim());
        let (mut typed, mut rest) = (0, text.as_str());
        while let Some(line) = rest.strip_prefix("# ") {
            let next = line.find("\n# ").map_or(line.len(), |at| at + 1);
            let (step, behind) = line.split_at(next);
            let end = lines_of_command(step);
            let (command, output) = step.split_at(end);
            let said = self.shell(command);
            let wanted = self.printed(output.trim_start_matches('\n'));
            if wanted.trim() == "..." {
                assert_eq!(said.status, Some(0), "{command}: {said:?}");
            } else {
                let told = format!("{command}: {said:?}");
                assert_eq!((said.status, &*said.out, &*said.err), (Some(0), &*wanted, ""), "{told}");
            }
            (typed, rest) = (typed + 1, behind);
        }
        assert!(rest.is_empty() && typed > 0, "no command line: {rest}");
    }

    /// What a shell says to a command line of the document.
    pub(super) fn shell(&self, line: &str) -> Said {
        let mapper = match self.program {
            Program::Ioband => self.mount.path(),
            Program::Dmsetup => self.folder("mapper"),
        };
        let here = self.mount.folder().display().to_string();
        let mut line = named(&self.disks, line);
        for (name, path) in [
            ("/dev/mapper", mapper.display().to_string()),
            ("/mnt1", format!("{here}/mnt1")),
            ("/mnt2", format!("{here}/mnt2")),
        ] {
            line = line.replace(name, &path);
        }
        if self.program == Program::Ioband {
            line = line.replace("dmsetup", "ioband");
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).current_dir(&here);
        shell.env("PATH", format!("{here}/bin:{path}:/usr/sbin:/sbin")).env("IOBAND_MOUNTPOINT", "vmdisk");
        shell.env("DM_DIR", &mapper).env_remove("IOBAND");
        if self.program == Program::Ioband {
            shell.env_remove("DM_DIR");
        }
        Said::from(&shell.output().expect("sh"))
    }

    fn printed(&self, text: &str) -> String {
        let mut text = text.replace("\\\n", "");
        for (name, disk) in &self.disks {
            let number = std::fs::metadata(disk.path()).expect("a device").rdev();
            let number = format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number));
            text = text.replace(&format!("<{}>", name.trim_start_matches("/dev/")), &number);
        }
        text
    }

    /// Requests that each group ever had, by its device.
    fn requests(&self) -> Vec<((String, String), u64)> {
        let status = self.mount.control("status");
        let of = |line: &str| {
            let device = line.split_once(": ").expect("a name").0.to_owned();
            groups(line)
                .into_iter()
                .map(move |(id, counters)| ((device.clone(), id), counters[0] + counters[3]))
        };
        status.lines().flat_map(of).collect()
    }

    /// From just after now on, these groups of these devices have their shares by weight, and all others have nothing.
    #[track_caller]
    pub(super) fn assert_shares(&self, weights: &[(&str, &str, u32)]) {
        let mut from = after(|| self.requests(), &self.requests(), BEFORE);
        let mut parts = vec![Vec::new(); from.len()];
        for _ in 0..WINDOWS {
            let to = after(|| self.requests(), &from, COUNTED);
            let got: Vec<_> = from.iter().zip(&to).map(|((_, n), (_, later))| later - n).collect();
            let total: u64 = got.iter().sum();
            for (parts, n) in parts.iter_mut().zip(got) {
                parts.push(100.0 * n as f64 / total as f64);
            }
            from = to;
        }
        println!("{parts:.1?} for {weights:?}");
        let whole: u32 = weights.iter().map(|(_, _, weight)| weight).sum();
        for (((device, id), _), mut parts) in from.into_iter().zip(parts) {
            let weight = weights.iter().find(|(d, i, _)| (*d, *i) == (device.as_str(), id.as_str()));
            let ideal = 100.0 * f64::from(weight.map_or(0, |(_, _, weight)| *weight)) / f64::from(whole);
            parts.sort_by(f64::total_cmp);
            let part = parts[WINDOWS / 2];
            assert!(
                (part - ideal).abs() <= TOLERANCE,
                "{id} of {device} got {part:.2} % instead of {ideal:.2} %: {parts:.2?}"
            );
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for name in ["mnt1", "mnt2"] {
            let path = self.folder(name);
            let path = path.to_str().expect("a plain path");
            if run("mountpoint", &["-q", path]).is_err() {
                continue;
            }
            unmount(path);
        }
    }
}

/// Where the command line at the beginning of `step` ends.
fn lines_of_command(step: &str) -> usize {
    let mut end = 0;
    for line in step.split_inclusive('\n') {
        end += line.len();
        if !line.trim_end_matches('\n').ends_with('\\') {
            break;
        }
    }
    end
}

/// The text with the names of disks as they are here.
fn named(disks: &[(String, Loop)], text: &str) -> String {
    disks.iter().fold(text.to_owned(), |text, (name, disk)| {
        text.replace(name, disk.path().to_str().expect("a plain path"))
    })
}

/// A program that reads from a file for as long as it is there.
pub(super) fn reader(file: &Path, args: &str) -> Load {
    let mut load = Load::spawn();
    load.open(file, &format!("--depth {DEPTH} {args}"));
    load.start();
    load
}

/// They have read all the time, and nothing failed.
pub(super) fn end(readers: Vec<Load>) {
    for mut reader in readers {
        reader.stop();
        let report = reader.report();
        assert!(report.errors == 0 && report.requests > 0, "{report:?}");
    }
}
