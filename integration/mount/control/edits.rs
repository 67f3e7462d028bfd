//! The configuration edited live, in every way that people and programs edit files, while four users write.

use crate::daemon::{Transport, Vmdisk, wait_until};
use crate::support::{Need, folder, trial};
use crate::writers::Writers;
use libtest_mimic::Trial;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Edits in all, as many as each way is worth.
const EDITS: usize = 200;
/// Users 1001 to 1004, an image each.
const USERS: u32 = 4;
const IMAGE: u64 = 8 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    let both = Transport::BOTH.map(|transport| {
        let mut needs = transport.needs().to_vec();
        needs.extend(["vim", "nano", "yq", "jq", "sed", "script"].map(Need::Tool));
        let name = format!("200 live edits under the writes of four users ({})", transport.name());
        trial(&name, &needs, move || live_edits(transport))
    });
    both.into_iter().collect()
}

fn config() -> String {
    let image = |n: u32| {
        let offset = u64::from(n - 1) * IMAGE;
        format!("  vm{n}.img: {{device: d, offset: {offset}, size: {IMAGE}, owner: {}}}\n", 1000 + n)
    };
    format!(
        "# Edited by many.\n\
         devices:\n  d:\n    path: disk\n    size: 64MiB\n    type: user\n    groups:\n      1001: 10\n      1002: 20\n      \
         1003: 30\n      1004: 40\n    simulate: {{iops: 4000, parallel: 8}}\n\
         images:\n{}",
        (1..=USERS).map(image).collect::<String>()
    )
}

/// What an edit makes of the text.
#[derive(Clone, Copy, Debug)]
enum Edit {
    /// Group 1001 gets this weight.
    Weight(u32),
    /// A mistake, at a place that is known.
    Mistake(Mistake),
}

#[derive(Clone, Copy, Debug)]
enum Mistake {
    UnknownKey,
    WeightZero,
    Duplicate,
    Indentation,
    NotText,
}

impl Mistake {
    const ALL: [Self; 5] =
        [Self::UnknownKey, Self::WeightZero, Self::Duplicate, Self::Indentation, Self::NotText];

    /// The text with the mistake, and where that is.
    fn make(self, text: &str) -> (Vec<u8>, &'static str) {
        let replaced = |from: &str, to: &str| {
            assert!(text.contains(from), "{from} in {text}");
            text.replacen(from, to, 1).into_bytes()
        };
        match self {
            Self::UnknownKey => (replaced("    type: user", "    tipe: user"), "line 6, column 5"),
            Self::WeightZero => (replaced("      1004: 40", "      1004: 0"), "line 11, column 13"),
            Self::Duplicate => (replaced("      1004: 40", "      1003: 40"), "line 11, column 7"),
            Self::Indentation => (replaced("    groups:", "   groups:"), "line "),
            Self::NotText => {
                let mut bytes = text.as_bytes().to_vec();
                bytes[3] = 0xff;
                (bytes, "line 1, column 4")
            }
        }
    }
}

/// A way to get a text into the configuration: what runs, and whether it is content.
type Way = fn(&Stage, &Path, &str) -> bool;
/// The same for a weight.
type InPlace = fn(&Stage, u32) -> bool;
/// A way to put a new text in the place of a file.
type OnDisk = fn(&Path, &Path);

struct Stage {
    vmdisk: Vmdisk,
    /// The times from the end of each edit of the file on disk to its being in force.
    delays: Vec<Duration>,
}

fn sh(script: &str, args: &[&Path]) -> Output {
    let mut command = Command::new("bash");
    command.args(["-c", script, "edit"]).args(args).env("TERM", "xterm").output().expect("a shell")
}

impl Stage {
    fn yaml(&self) -> PathBuf {
        self.vmdisk.path().join(".ioband/control.yaml")
    }

    fn weight(&self) -> u32 {
        let table = self.vmdisk.control("table");
        let word = table.split_whitespace().find_map(|word| word.strip_prefix("1001:"));
        word.and_then(|weight| weight.parse().ok()).unwrap_or_else(|| panic!("no 1001 in {table}"))
    }
}

/// Ways that write a whole text, which is in the file `new`.
const WHOLE: &[(&str, Way)] = &[
    ("redirection", |stage, new, _| sh("cat \"$1\" > \"$2\"", &[new, &stage.yaml()]).status.success()),
    ("cp", |stage, new, _| sh("cp \"$1\" \"$2\"", &[new, &stage.yaml()]).status.success()),
    ("cp, with fsync", |stage, new, _| {
        sh("dd if=\"$1\" of=\"$2\" conv=fsync status=none", &[new, &stage.yaml()]).status.success()
    }),
    ("a few bytes at a time", |stage, new, _| {
        sh("dd if=\"$1\" of=\"$2\" bs=37 status=none", &[new, &stage.yaml()]).status.success()
    }),
    ("a temporary file that is renamed", |stage, new, _| {
        sh("cp \"$1\" \"$2.tmp\" && mv \"$2.tmp\" \"$2\"", &[new, &stage.yaml()]).status.success()
    }),
    ("a file from elsewhere that is moved", |stage, new, _| {
        sh("cp \"$1\" \"$1.moved\" && mv \"$1.moved\" \"$2\"", &[new, &stage.yaml()]).status.success()
    }),
    ("vim", |stage, new, _| {
        let script =
            "vim -N -u NONE -i NONE -es -c '%d' -c \"0r $1\" -c 'silent! g/^$/d' -c 'wq' \"$2\" </dev/null";
        sh(script, &[new, &stage.yaml()]).status.success()
    }),
    ("vim, which writes a copy first", |stage, new, _| {
        let script = "vim -N -u NONE -i NONE -es -c 'set backupcopy=no backup' -c '%d' -c \"0r $1\" -c 'silent! g/^$/d' -c 'wq' \"$2\" </dev/null; \
             status=$?; rm -f \"$2~\"; exit $status";
        sh(script, &[new, &stage.yaml()]).status.success()
    }),
    ("two editors at once", |stage, new, old| {
        // The other one saves what was there before, and first.
        let open = || OpenOptions::new().write(true).truncate(true).open(stage.yaml()).expect("an editor");
        let (mine, other) = (open(), open());
        (&other).write_all(old.as_bytes()).expect("a write");
        (&mine).write_all(&fs::read(new).expect("a text")).expect("a write");
        assert!(other.sync_all().is_ok(), "what was there before is valid");
        drop(other);
        mine.sync_all().is_ok()
    }),
];

/// Ways that change the weight in the text that is there.
const IN_PLACE: &[(&str, InPlace)] = &[
    ("sed -i", |stage, weight| {
        let script = format!("sed -i 's/^      1001: .*/      1001: {weight}/' \"$1\"");
        sh(&script, &[&stage.yaml()]).status.success()
    }),
    ("yq -i", |stage, weight| {
        let script = format!("yq -i -y '.devices.d.groups[\"1001\"] = {weight}' \"$1\"");
        let yq = sh(&script, &[&stage.yaml()]);
        // It has made the text its own: the next ones want theirs back.
        let text = config().replace("1001: 10", &format!("1001: {weight}"));
        fs::write(stage.yaml(), text).expect("the same in other words");
        yq.status.success()
    }),
    ("nano", |stage, weight| {
        // Search for the line, cut it, write it anew, save, leave.
        let keys = format!("\\x17      1001:\\r\\x0b      1001: {weight}\\r\\x0f\\r\\x18");
        // Once it shows what its keys are: before that the terminal would take them for its own.
        let screen = stage.vmdisk.folder().join("screen");
        let script = format!(
            "> \"$2\"; {{ until grep -q Help \"$2\"; do sleep 0.01; done; printf '{keys}'; sleep 0.3; }} | \
             timeout 60 script -qfec \"nano -I -t '$1'\" \"$2\" >/dev/null"
        );
        sh(&script, &[&stage.yaml(), &screen]).status.success()
    }),
    ("a message", |stage, weight| {
        let ctl = stage.vmdisk.path().join(".ioband/ctl");
        let done = fs::write(ctl, format!("message d 0 weight 1001:{weight}\n")).is_ok();
        // A message makes a text of its own.
        let text = config().replace("1001: 10", &format!("1001: {weight}"));
        fs::write(stage.yaml(), text).expect("the same in other words");
        done
    }),
    ("the file of a setting", |stage, weight| {
        let file = stage.vmdisk.path().join(".ioband/devices/d/weight");
        let done = sh(&format!("echo 1001:{weight} > \"$1\""), &[&file]).status.success();
        let text = config().replace("1001: 10", &format!("1001: {weight}"));
        fs::write(stage.yaml(), text).expect("the same in other words");
        done
    }),
];

/// Ways to change the configuration on disk.
const ON_DISK: &[(&str, OnDisk)] = &[
    ("renamed over", |new, file| fs::rename(new, file).expect("a rename")),
    ("truncated and written", |new, file| {
        fs::write(file, fs::read(new).expect("a text")).expect("a write");
    }),
    ("deleted and restored", |new, file| {
        fs::remove_file(file).expect("it is there");
        std::thread::sleep(Duration::from_millis(60));
        fs::copy(new, file).expect("a copy");
    }),
    ("a symbolic link swapped", |new, file| {
        // As Kubernetes does it: the file is a link into a folder that is a link, and that one is exchanged.
        let folder = file.parent().expect("a folder");
        let version = (0..).map(|n| folder.join(format!("..v{n}"))).find(|path| !path.exists());
        let version = version.expect("a name that is free");
        fs::create_dir(&version).expect("a folder");
        fs::copy(new, version.join("config.yaml")).expect("a copy");
        let swap = |target: &Path, link: &Path| {
            let fresh = folder.join("..fresh");
            symlink(target, &fresh).expect("a link");
            fs::rename(&fresh, link).expect("a rename");
        };
        swap(&version, &folder.join("..data"));
        if !file.is_symlink() {
            swap(Path::new("..data/config.yaml"), file);
        }
    }),
];

fn live_edits(transport: Transport) {
    let vmdisk = Vmdisk::mount_in(folder(), &config(), &transport.and(&[]));
    let mut stage = Stage { vmdisk, delays: Vec::new() };
    let images: Vec<_> = (1..=USERS).map(|n| stage.vmdisk.file(&format!("vm{n}.img"))).collect();
    let images: Vec<_> = images.into_iter().zip((0..).map(|n| n * IMAGE)).collect();
    let writers = Writers::start_as(&images, 32, |thread| 1001 + thread as u32 % USERS);
    writers.wait_for(100);

    let (mut valid, mut refused) = (0, 0);
    for number in 0..EDITS {
        // Every third edit is a mistake.
        let edit = match number % 3 {
            1 => Edit::Mistake(Mistake::ALL[number / 3 % Mistake::ALL.len()]),
            _ => Edit::Weight(1000 + number as u32),
        };
        match edit {
            Edit::Weight(weight) => {
                stage.valid(number, weight);
                valid += 1;
            }
            Edit::Mistake(mistake) => {
                stage.mistaken(number, mistake);
                refused += 1;
            }
        }
    }
    stage.dies_in_the_middle();
    stage.too_much();

    writers.stop();
    let answered = writers.answered();
    let outcomes = writers.join();
    assert_eq!(outcomes.errors(), 0, "no edit is an I/O error");
    outcomes.assert_on(&stage.vmdisk.folder().join("disk"));
    stage.delays.sort();
    let [median, longest] =
        [stage.delays.len() / 2, stage.delays.len() - 1].map(|at| stage.delays[at].as_millis());
    eprintln!(
        "{valid} valid and {refused} mistaken edits under {answered} writes; those of the file on disk in force {median} ms \
         later, at most {longest} ms"
    );
}

impl Stage {
    fn text(&self) -> String {
        self.vmdisk.control("control.yaml")
    }

    /// An edit that is to be in force when whoever made it has saved.
    fn valid(&mut self, number: usize, weight: u32) {
        let ways = WHOLE.len() + IN_PLACE.len() + ON_DISK.len();
        let way = number / 3 * 2 + number % 3 / 2;
        let mut way = way % ways;
        let old = self.text();
        let new = self.vmdisk.folder().join("new.yaml");
        let before = self.weight();
        let text = old.replace(&format!("1001: {before}\n"), &format!("1001: {weight}\n"));
        fs::write(&new, &text).expect("a file");
        if let Some((name, edit)) = WHOLE.get(way) {
            assert!(edit(self, &new, &old), "{name} is not content:\n{}", self.vmdisk.control("events"));
            assert_eq!(self.weight(), weight, "{name}");
            return assert_eq!(self.text(), text, "{name}: the words of whoever wrote it last");
        }
        way -= WHOLE.len();
        if let Some((name, edit)) = IN_PLACE.get(way) {
            assert!(edit(self, weight), "{name} is not content:\n{}", self.vmdisk.control("events"));
            return assert_eq!(self.weight(), weight, "{name}:\n{}", self.text());
        }
        way -= IN_PLACE.len();
        let (name, edit) = ON_DISK[way];
        edit(&new, &self.vmdisk.folder().join("config.yaml"));
        let start = Instant::now();
        wait_until(
            || self.weight() == weight,
            || {
                format!(
                    "{name}: weight {} and not {weight}:\n{}",
                    self.weight(),
                    self.vmdisk.control("events")
                )
            },
        );
        self.delays.push(start.elapsed());
    }

    /// An edit that is to be refused, with its place, and change nothing.
    fn mistaken(&mut self, number: usize, mistake: Mistake) {
        let (text, weight, table) = (self.text(), self.weight(), self.vmdisk.control("table"));
        let way = number / 3 % (WHOLE.len() + ON_DISK.len());
        // What is no text to us is one in another encoding to vim, which writes it as it should be.
        let by_vim = WHOLE.get(way).is_some_and(|(name, _)| name.starts_with("vim"));
        let mistake = match mistake {
            Mistake::NotText if by_vim => Mistake::UnknownKey,
            mistake => mistake,
        };
        let (bytes, place) = mistake.make(&text);
        let new = self.vmdisk.folder().join("new.yaml");
        fs::write(&new, bytes).expect("a file");
        let events = self.vmdisk.control("events").lines().count();
        let refusal = |events_text: &str| {
            events_text
                .lines()
                .skip(events.min(1))
                .any(|line| line.contains("refused: ") && line.contains(place))
        };
        match WHOLE.get(way) {
            Some((name, edit)) => {
                assert!(!edit(self, &new, &text), "{name} is content with {mistake:?}");
                let events = self.vmdisk.control("events");
                assert!(refusal(&events), "{name}: no {place} for {mistake:?} in\n{events}");
            }
            None => {
                ON_DISK[way - WHOLE.len()].1(&new, &self.vmdisk.folder().join("config.yaml"));
                self.vmdisk.wait_for("events", |events| {
                    events
                        .lines()
                        .rev()
                        .take(3)
                        .any(|line| line.contains("config.yaml") && line.contains(place))
                });
            }
        }
        assert_eq!((self.text(), self.weight(), self.vmdisk.control("table")), (text, weight, table));
    }

    /// What an editor has written when it dies is nothing, whether it would be valid or not.
    fn dies_in_the_middle(&self) {
        let (text, table) = (self.text(), self.vmdisk.control("table"));
        let half = self.vmdisk.folder().join("half.yaml");
        fs::write(&half, "devices: {}\n").expect("a file");
        let script = "exec >\"$2\"; printf '%s\\n' \"$(cat \"$1\")\"; kill -9 $$";
        assert!(!sh(script, &[&half, &self.yaml()]).status.success());
        self.vmdisk.wait_for("events", |events| events.contains("whoever wrote it was killed"));
        assert_eq!((self.text(), self.vmdisk.control("table")), (text, table));
    }

    /// Too large, a bomb, and what is only emptied.
    fn too_much(&self) {
        let (text, table) = (self.text(), self.vmdisk.control("table"));
        let write = |bytes: &[u8]| {
            let mut file =
                OpenOptions::new().write(true).truncate(true).open(self.yaml()).expect("an editor");
            file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| error.raw_os_error())
        };
        assert_eq!(write(&b"# ten megabytes\n".repeat(10 << 16)), Err(Some(libc::EFBIG)));
        let bomb = (1..30).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
            format!("{text}a{n}: &a{n} [*a{0}, *a{0}, *a{0}, *a{0}]\n", n - 1)
        });
        assert_eq!(write(bomb.as_bytes()), Err(Some(libc::EINVAL)));
        assert_eq!(write(&b"[".repeat(100_000)), Err(Some(libc::EINVAL)));
        assert_eq!(write(b"\n\n"), Err(Some(libc::EINVAL)));
        // Emptied and left alone: nothing was written, so nothing is meant.
        drop(File::create(self.yaml()).expect("an editor"));
        // In the middle of the file, as programs do that know where.
        let patched = OpenOptions::new().write(true).open(self.yaml()).expect("an editor");
        patched.write_all_at(b"#", 0).and_then(|()| patched.sync_all()).expect("a comment stays one");
        assert_eq!((self.text(), self.vmdisk.control("table")), (text, table));
    }
}
