//! What the document has not, or does not say: groups that are cgroups, by commands, while they are at work, and a group
//! whose process has ended.

use super::machine::{DEPTH, MACHINE, Machine, Program, SIMULATE, end};
use crate::load::Load;
use crate::support::{Need, trial};
use libtest_mimic::Trial;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

pub(super) fn trials() -> Vec<Trial> {
    let with = |path| [MACHINE, &[Need::Path(path)]].concat();
    // Where version 1 is there as well, version 2 has a folder of its own.
    let mixed = Path::new("/sys/fs/cgroup/unified").exists();
    let two = if mixed { "/sys/fs/cgroup/unified" } else { "/sys/fs/cgroup" };
    let two_is_there =
        if mixed { "/sys/fs/cgroup/unified/cgroup.controllers" } else { "/sys/fs/cgroup/cgroup.controllers" };
    let one_is_there = "/sys/fs/cgroup/pids/cgroup.procs";
    vec![
        trial("document: cgroups of version 2 share 80:40", &with(two_is_there), move || {
            cgroups(Path::new(two))
        }),
        trial("document: cgroups of version 1 share 80:40", &with(one_is_there), || {
            cgroups(Path::new("/sys/fs/cgroup/pids"))
        }),
        trial(
            "document: who gets the number of an ended process is in the default group",
            &with(LAST_PID),
            ended,
        ),
    ]
}

/// A cgroup that is removed in the end, with the one below it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(root: &Path, name: &str) -> Self {
        let path = root.join(format!("ioband-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("below")).expect("a cgroup");
        Self(path)
    }

    /// As /proc/PID/cgroup has it.
    fn path(&self, root: &Path) -> String {
        format!("/{}", self.0.strip_prefix(root).expect("below it").display())
    }

    /// Takes a process in, at this place below it.
    fn take(&self, at: &str, pid: u32) {
        fs::write(self.0.join(at).join("cgroup.procs"), pid.to_string()).expect("a cgroup of ours");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Who has ended is still in there for a moment.
        let is_gone =
            || [self.0.join("below"), self.0.clone()].iter().all(|path| fs::remove_dir(path).is_ok());
        if !(0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            is_gone() || !self.0.exists()
        }) {
            eprintln!("left behind: {}", self.0.display());
        }
    }
}

const CREATE: &str = r#"
# echo "0 $(blockdev --getsize /dev/sda1) ioband /dev/sda1 1 0 0" \
    "none weight 0 :100" | dmsetup create ioband1
"#;

fn cgroups(root: &Path) {
    let machine = Machine::new(Program::Ioband, &["/dev/sda1"]);
    machine.follow(CREATE);
    machine.follow(&format!("# dmsetup message ioband1 0 {SIMULATE}"));
    let (one, two) = (Cgroup::new(root, "one"), Cgroup::new(root, "two"));
    let mut loads = vec![Load::spawn(), Load::spawn()];
    // One of them is not in the group itself, but in one below it.
    one.take("below", loads[0].pid());
    two.take("", loads[1].pid());
    for load in &mut loads {
        load.open(&machine.image("ioband1"), &format!("--depth {DEPTH}"));
        load.start();
    }
    machine.assert_shares(&[("ioband1", "-1", 100)]);
    let [a, b] = [&one, &two].map(|cgroup| cgroup.path(root));
    machine.follow(&format!(
        "# dmsetup message ioband1 0 type cgroup\n\
         # dmsetup message ioband1 0 attach {a}\n\
         # dmsetup message ioband1 0 weight {a}:80\n\
         # dmsetup message ioband1 0 attach {b}\n\
         # dmsetup message ioband1 0 weight {b}:40\n\
         # dmsetup table\n\
         ioband1: 0 131072 ioband <sda1> 1 0 0 cgroup weight 2048 :100 {a}:80 {b}:40\n"
    ));
    machine.assert_shares(&[("ioband1", &a, 80), ("ioband1", &b, 40)]);
    // Who moves to another group is there from then on, and the nearest group counts.
    let below = format!("{a}/below");
    machine.follow(&format!(
        "# dmsetup message ioband1 0 attach {below}\n\
         # dmsetup message ioband1 0 weight {below}:120\n"
    ));
    machine.assert_shares(&[("ioband1", &below, 120), ("ioband1", &b, 40)]);
    two.take("", loads[0].pid());
    machine.assert_shares(&[("ioband1", &b, 40)]);
    end(loads);
}

/// A process that reads three blocks of an image when it is told to, and ends.
struct Reading(Child);

impl Reading {
    fn new(image: &Path) -> Self {
        let script = r#"read -r go && exec dd if="$0" of=/dev/null bs=4k count=3 iflag=direct status=none"#;
        let mut shell = Command::new("sh");
        Self(shell.args(["-c", script]).arg(image).stdin(Stdio::piped()).spawn().expect("a shell"))
    }

    /// One with this number; `None` where somebody else has taken it.
    fn with(pid: u32, image: &Path) -> Option<Self> {
        (0..200).find_map(|_| {
            fs::write(LAST_PID, (pid - 1).to_string()).expect("it could be opened");
            Some(Self::new(image)).filter(|reading| reading.0.id() == pid)
        })
    }

    fn go(mut self) {
        writeln!(self.0.stdin.take().expect("piped"), "go").expect("it listens");
        assert!(self.0.wait().expect("a child").success());
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ended() {
    let machine = Machine::new(Program::Ioband, &["/dev/sda1"]);
    machine.follow(CREATE);
    machine.follow("# dmsetup message ioband1 0 type pid");
    let image = machine.image("ioband1");
    // Where some other process takes the number, the next one is tried.
    let again = (0..20).any(|_| {
        let first = Reading::new(&image);
        let pid = first.0.id();
        machine.follow(&format!(
            "# dmsetup message ioband1 0 reset\n\
             # dmsetup message ioband1 0 attach {pid}\n\
             # dmsetup status\n\
             ioband1: 0 131072 ioband 1 -1 0 0 0 0 0 0 {pid} 0 0 0 0 0 0\n"
        ));
        // Two that run are told apart by when they started, which is kept in ticks of 10 ms.
        std::thread::sleep(Duration::from_millis(25));
        first.go();
        let status =
            format!("# dmsetup status\nioband1: 0 131072 ioband 1 -1 0 0 0 0 0 0 {pid}(gone) 3 0 24 0 0 0");
        machine.follow(&format!("{status}\n"));
        let second = Reading::with(pid, &image);
        let again = second.is_some();
        if let Some(second) = second {
            second.go();
            machine.follow(&format!(
                "# dmsetup status\nioband1: 0 131072 ioband 1 -1 3 0 24 0 0 0 {pid}(gone) 3 0 24 0 0 0\n"
            ));
        }
        machine.follow(&format!(
            "# dmsetup message ioband1 0 detach {pid}\n\
             # dmsetup table\n\
             ioband1: 0 131072 ioband <sda1> 1 0 0 pid weight 2048 :100\n"
        ));
        again
    });
    assert!(again, "no number comes again");
}
