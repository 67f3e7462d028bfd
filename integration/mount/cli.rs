//! The command line: what it prints, to the letter, and what it says when it cannot.

use crate::alone::{ALONE, Alone, Said};
use crate::daemon::{AS_OTHERS, MOUNT, Vmdisk, ioband, wait_until};
use crate::support::{folder, sparse, trial};
use libtest_mimic::Trial;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Barrier};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("help and version go to standard output", &[], help),
        trial("wrong usage is status 2 and says how", &[], wrong_usage),
        trial("check prints ok, or every error with its place", &[], check),
        trial("table and status find the mount", ALONE, find_the_mount),
        trial("table and status of one device", ALONE, one_device),
        trial("ls shows images, devices and how they are served", MOUNT, list),
        trial("a table has every setting", MOUNT, table),
        trial("status counts every request exactly", MOUNT, counters),
        trial("status counts held requests as delayed", MOUNT, delayed),
        trial("umount of what is no ioband mount", ALONE, umount_nothing),
        trial("output that nobody takes is an error or no matter, never a panic", ALONE, nobody_listens),
        trial("who may not read the control files is told how", AS_OTHERS, forbidden),
    ]
}

fn here(args: &[&str]) -> Said {
    Said::from(&ioband(folder().path(), args))
}

fn help() {
    let help = here(&["--help"]).ok();
    let commands = [
        "mount", "umount", "check", "create", "remove", "message", "table", "status", "targets", "ls", "save",
    ];
    for command in commands {
        let is_it = |line: &str| line.split_whitespace().next() == Some(command);
        assert!(help.lines().any(is_it), "nothing of {command} in {help}");
        assert!(here(&[command, "--help"]).ok().contains("Usage: ioband"));
    }
    // In one line each, however wide the terminal is.
    let mount = here(&["mount", "--help"]).ok().split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "--backend <BACKEND>",
        "--transport <TRANSPORT>",
        "[possible values: auto, dev, uring]",
        "--slots <N>",
        "--keep-memory <SIZE>",
        "--no-scheduling",
    ] {
        assert!(mount.contains(words), "nothing of {words} in {mount}");
    }
    let message = here(&["message", "--help"]).ok();
    for word in [
        "type",
        "attach",
        "detach",
        "weight",
        "policy",
        "range-bw",
        "token",
        "io_throttle",
        "io_limit",
        "reset",
    ] {
        let is_it = |line: &str| line.split_whitespace().next() == Some(word);
        assert!(message.lines().any(is_it), "nothing of {word} in {message}");
    }
    assert_eq!(here(&["--version"]).ok(), format!("ioband {}\n", env!("CARGO_PKG_VERSION")));
}

fn wrong_usage() {
    let wrong: &[(&[&str], &str)] = &[
        (&[], "Usage: ioband"),
        (&["frob"], "unrecognized subcommand 'frob'"),
        (&["mount"], "<CONFIG>"),
        (&["mount", "a", "b", "c"], "unexpected argument 'c'"),
        (&["mount", "a", "b", "--backend", "tape"], "[possible values: auto, uring, threads]"),
        (&["mount", "a", "b", "--transport", "tape"], "[possible values: auto, dev, uring]"),
        (&["mount", "a", "b", "--slots", "15"], "15 is not in 16..=65536"),
        (&["mount", "a", "b", "--keep-memory", "much"], "'much'"),
        (&["ls", "a"], "unexpected argument 'a'"),
        (&["mount", "a", "--frob"], "unexpected argument '--frob'"),
        (&["umount"], "<MOUNTPOINT>"),
        (&["check"], "<CONFIG>"),
        (&["table", "a", "b"], "unexpected argument 'b'"),
        (&["create", "a", "b"], "unexpected argument 'b'"),
        (&["create", "a", "--table"], "a value is required for '--table <TABLE>'"),
        (&["remove"], "<NAME>"),
        (&["remove", "a", "b"], "unexpected argument 'b'"),
        (&["message"], "<NAME>"),
        (&["message", "a", "0"], "<MESSAGE>..."),
        (&["message", "a", "b", "reset"], "invalid value 'b' for '<SECTOR>'"),
        (&["message", "a", "0", "reset", "--frob"], "unexpected argument '--frob'"),
        (&["targets", "a"], "unexpected argument 'a'"),
        (&["save", "a", "b"], "unexpected argument 'b'"),
    ];
    for (args, words) in wrong {
        let said = here(args);
        assert!(
            said.status == Some(2) && said.out.is_empty() && said.err.contains(words),
            "{args:?}: {said:?}"
        );
    }
}

fn check() {
    let folder = folder();
    let check = |text: &str| {
        std::fs::write(folder.path().join("c.yaml"), text).expect("a configuration");
        Said::from(&ioband(folder.path(), &["check", "c.yaml"]))
    };
    let good = "devices: {d: {path: disk, size: 4MiB}}\nimages: {a: {device: d, size: 1MiB}}\n";
    assert_eq!(check(good).ok(), "c.yaml: ok (devices: 1, images: 1)\n");
    assert!(!folder.path().join("disk").exists(), "a check makes nothing");
    assert_eq!(check("").ok(), "c.yaml: ok (devices: 0, images: 0)\n");

    // All mistakes in one go, in the order of the file.
    let said = check(
        "devices:\n  d: {path: disk, size: 4MiB, weight: 0}\nimages:\n  a: {device: d, size: 5MiB}\n  b: {device: e}\n",
    );
    let places: Vec<_> = said.err.lines().filter_map(|line| line.strip_prefix("c.yaml:")).collect();
    let starts = ["2:39: ", "4:24: ", "5:15: "];
    assert!(places.len() == 3 && places.iter().zip(starts).all(|(p, s)| p.starts_with(s)), "{}", said.err);
    assert!(said.err.contains("hint: "), "{}", said.err);
    said.refused(&["from 1 to 32767", "5MiB", "`e`"]);

    check("devices: {d: {path: disk, size: 4MiB}\n").refused(&["c.yaml:"]);
    Said::from(&ioband(folder.path(), &["check", "none"])).refused(&["none: there is no such file"]);
}

const ONE: &str = "devices: {d: {path: disk, size: 4MiB}}\n";
const TABLE: &str = "d: 0 8192 ioband";

fn find_the_mount() {
    let place = Alone::new();
    place.ioband(&["table"]).refused(&["there is no ioband mount on this machine", "`ioband mount CONFIG`"]);
    let commands: [&[&str]; 6] = [
        &["status"],
        &["ls"],
        &["create", "d"],
        &["remove", "d"],
        &["message", "d", "0", "reset"],
        &["save"],
    ];
    for command in commands {
        place.ioband(command).refused(&["there is no ioband mount on this machine"]);
    }
    assert_eq!(place.ioband(&["targets"]).ok(), "ioband v1.0.0\n");

    place.write("one.yaml", ONE);
    place.ioband(&["mount", "one.yaml", "one"]).ok();
    let one = place.ioband(&["table"]).ok();
    assert!(one.starts_with(TABLE), "{one}");

    place.write("two.yaml", &ONE.replace("d:", "e:").replace("disk", "disk2"));
    place.ioband(&["mount", "two.yaml", "two with a blank"]).ok();
    let at = |name: &str| place.folder().join(name).display().to_string();
    for command in ["table", "status", "ls", "create", "save"] {
        let both = [at("one"), at("two with a blank")];
        place.ioband(&[command]).refused(&["several ioband mounts", &both[0], &both[1], "--mountpoint DIR"]);
        place.ioband(&[command, "--mountpoint", "three"]).refused(&["nothing of ioband is mounted at three"]);
    }
    std::os::unix::fs::symlink("one", place.folder().join("link")).expect("a symbolic link");
    for name in ["one", "./one/", "link", &at("one")] {
        assert_eq!(place.ioband(&["table", "--mountpoint", name]).ok(), one, "{name}");
    }
    let two = place.ioband(&["table", "--mountpoint", "two with a blank"]).ok();
    assert!(two.starts_with("e: "), "{two}");
    let by_environment = |args: &[&str]| {
        place.sh(&[&[r#"IOBAND_MOUNTPOINT=one exec "$IOBAND" table "$@""#, "sh"], args].concat())
    };
    assert_eq!(by_environment(&[]).ok(), one);
    let option = by_environment(&["--mountpoint", "two with a blank"]).ok();
    assert_eq!(option, two, "the option goes before the environment");
    place.ioband(&["umount", "two with a blank"]).ok();
    assert_eq!(place.ioband(&["table"]).ok(), one);
}

fn one_device() {
    let place = Alone::new();
    // Neither by name nor by device id: as the configuration has them.
    place.write(
        "c.yaml",
        "devices:\n  z: {path: z, size: 1MiB, id: 9}\n  a: {path: a, size: 1MiB, id: 1}\n  m: {path: m, size: 1MiB, id: 9}\n",
    );
    place.ioband(&["mount", "c.yaml", "vmdisk"]).ok();
    let counts = "-1 0 0 0 0 0 0";
    let [z, a, m] =
        [("z", 9), ("a", 1), ("m", 9)].map(|(n, id)| format!("{n}: 0 2048 ioband {id} {counts}\n"));
    assert_eq!(place.ioband(&["status"]).ok(), format!("{z}{a}{m}"));
    assert_eq!(place.ioband(&["status", "a"]).ok(), a);
    assert_eq!(place.ioband(&["status", "--target", "ioband"]).ok(), format!("{z}{a}{m}"));
    assert_eq!(place.ioband(&["status", "m", "--target", "ioband"]).ok(), m);
    assert_eq!(place.ioband(&["status", "--target", "linear"]).ok(), "");
    place.ioband(&["status", "x"]).refused(&["no ioband device x; there are: z, a, m"]);
    place.ioband(&["table", "x"]).refused(&["no ioband device x; there are: z, a, m"]);
    place.ioband(&["umount", "vmdisk"]).ok();
    place.write("c.yaml", "");
    place.ioband(&["mount", "c.yaml", "vmdisk"]).ok();
    place.ioband(&["table", "x"]).refused(&["no ioband device x: this mount has none yet"]);
}

/// What `table` or `status` prints of a mount.
fn show(mount: &Vmdisk, command: &str) -> String {
    Said::from(&ioband(mount.folder(), &[command, "--mountpoint", "vmdisk"])).ok()
}

fn table() {
    let files = folder();
    sparse(&files.path().join("there"), 3 << 20);
    let config = "
devices:
  ioband1:
    path: there
    id: 128
    io_throttle: 10
    io_limit: 400
    type: user
    policy: weight-iosize
    token_base: 4096
    weight: 40
    groups: {2000: 20, 1000: 80}
  ioband2: {path: new, size: 64KiB, type: image, groups: {vm1.img: 7}}
images: {vm1.img: {device: ioband2}}
";
    let mount = Vmdisk::mount_in(files, config, &[]);
    let at = |name: &str| mount.folder().join(name).display().to_string();
    let (there, new) = (at("there"), at("new"));
    let expected = format!(
        "ioband1: 0 6144 ioband {there} 128 10 400 user weight-iosize 4096 :40 2000:20 1000:80\n\
         ioband2: 0 128 ioband {new} 1 0 0 image weight 2048 :100 vm1.img:7\n"
    );
    assert_eq!(show(&mount, "table"), expected);
    assert_eq!(mount.control("table"), expected);
}

const COUNTED: &str = "
devices: {d: {path: disk, size: 4MiB, type: user, groups: {60001: 10}}}
images: {vm1.img: {device: d}}
";

fn counters() {
    let mount = Vmdisk::mount(COUNTED);
    let image = File::options().read(true).write(true).open(mount.file("vm1.img")).expect("an image");
    let default =
        |reads: &str, writes: &str| format!("d: 0 8192 ioband 1 -1 {reads} {writes} 60001 0 0 0 0 0 0\n");
    assert_eq!(show(&mount, "status"), default("0 0 0", "0 0 0"), "opening and asking cost nothing");

    let mut block = [0; 4096];
    (0..3).for_each(|n| image.read_exact_at(&mut block, n * 4096).expect("a read"));
    assert_eq!(show(&mount, "status"), default("3 0 24", "0 0 0"));
    image.write_all_at(b"x", 0).expect("a write");
    image.write_all_at(b"x", 4097).expect("a write");
    assert_eq!(show(&mount, "status"), default("3 0 24", "2 0 2"), "a byte is a sector");
    image.sync_all().expect("an fsync");
    image.sync_data().expect("an fdatasync");
    assert_eq!(show(&mount, "status"), default("3 0 24", "4 0 2"), "a flush is a write of nothing");
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&image, punch, 8192, 65536).expect("a discard");
    assert_eq!(show(&mount, "status"), default("3 0 24", "5 0 130"));
    // The last 1,000 bytes: what lies past the end is neither read nor counted.
    let read = image.read_at(&mut block, (4 << 20) - 1000).expect("a read");
    assert_eq!(read, 1000);
    assert_eq!(show(&mount, "status"), default("4 0 26", "5 0 130"));
    assert_eq!(image.read_at(&mut block, 4 << 20).expect("a read"), 0);
    assert_eq!(show(&mount, "status"), default("4 0 26", "5 0 130"), "the end of the file costs nothing");
}

fn delayed() {
    // A second each, one after the other: whoever does not come first finds the device busy.
    let slow = "size: 4MiB, io_throttle: 1, io_limit: 1, simulate: {iops: 1}";
    let mount = Vmdisk::mount(&COUNTED.replace("size: 4MiB", slow));
    let image = Arc::new(File::open(mount.file("vm1.img")).expect("an image"));
    let ready = Arc::new(Barrier::new(3));
    let read = |number: u64| {
        let (image, ready) = (image.clone(), ready.clone());
        std::thread::spawn(move || {
            ready.wait();
            image.read_exact_at(&mut [0; 512], number * 512).expect("a read");
        })
    };
    let threads = [read(0), read(1), read(2)];
    threads.into_iter().for_each(|thread| thread.join().expect("a read"));
    assert_eq!(show(&mount, "status"), "d: 0 8192 ioband 1 -1 3 2 3 0 0 0 60001 0 0 0 0 0 0\n");
}

fn list() {
    let config = r#"
devices:
  fast: {path: disk, size: 6GiB, id: 3, type: user, groups: {60001: 40, 60002: 20}}
  d: {path: disk2, size: 4MiB, policy: weight-iosize}
images:
  vm1.img: {device: fast, offset: 0, size: 2GiB, owner: 60001, group: 60002, mode: "0640"}
  iso.img: {device: d, size: 1MiB, read_only: true}
"#;
    let mount = Vmdisk::mount_in(folder(), config, &["--transport", "dev", "--backend", "threads"]);
    let path = mount.folder().join("disk").display().to_string();
    let list = || {
        let text = show(&mount, "ls");
        assert_eq!(text, mount.control("ls"));
        let (service, rest) = text.split_once("\n\n").expect("a blank line");
        let rest = rest.to_owned();
        (service.lines().map(str::to_owned).collect::<Vec<_>>(), rest)
    };
    let (mut service, rest) = list();
    let worker = service.pop().expect("a line");
    assert!(worker.starts_with("worker     ") && worker.contains(", kept by "), "{worker}");
    // As many threads as the machine has processors for.
    let threads: usize = service[0].split_whitespace().nth(2).expect("a number").parse().expect("a number");
    assert!(threads >= 2, "{service:?}");
    let first = format!("transport  dev, {threads} threads, devices by threads");
    assert_eq!(service, [first.as_str(), "served     0 requests by io_uring, 0 by /dev/fuse"]);
    let owner = nix::unistd::geteuid();
    let group = nix::unistd::getegid();
    let mine = format!("0600 {owner}:{group}");
    let wanted = format!(
        "IMAGE    DEVICE  SIZE  ACCESS      OWNER             OPEN\n\
         vm1.img  fast    2GiB  read-write  0640 60001:60002  0\n\
         iso.img  d       1MiB  read-only   {mine:16}  0\n\n\
         DEVICE  DISK  SIZE  TYPE  POLICY         GROUPS  ON\n\
         fast    3     6GiB  user  weight         2       {path}\n\
         d       1     4MiB  none  weight-iosize  0       {path}2\n\n"
    );
    let groups = "\
DEVICE  GROUP    WEIGHT  ASKED   GOT  READS  WRITES  HELD
fast    default  100     62.5%   -    0      0       0
fast    60001    40      25.0%   -    0      0       0
fast    60002    20      12.5%   -    0      0       0
d       default  100     100.0%  -    0      0       0
";
    assert_eq!(rest, format!("{wanted}{groups}"));
    for name in ["vm1.img", "iso.img"] {
        let image = File::open(mount.file(name)).expect("an image");
        image.read_exact_at(&mut [0; 512], 0).expect("a read");
    }
    // What is changed shows.
    std::fs::set_permissions(mount.file("vm1.img"), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .expect("it is ours");
    // The kernel tells of the end of a handle after close(2) has returned.
    let closed = || list().1.lines().skip(1).take(2).all(|line| line.ends_with("  0"));
    wait_until(closed, || format!("they stay open:\n{}", list().1));
    let (service, rest) = list();
    assert_eq!(service[1], "served     0 requests by io_uring, 2 by /dev/fuse");
    let groups = "\
DEVICE  GROUP    WEIGHT  ASKED   GOT     READS  WRITES  HELD
fast    default  100     62.5%   100.0%  1      0       0
fast    60001    40      25.0%   0.0%    0      0       0
fast    60002    20      12.5%   0.0%    0      0       0
d       default  100     100.0%  100.0%  1      0       0
";
    assert_eq!(rest, format!("{}{groups}", wanted.replace("0640", "0644")));
}

fn umount_nothing() {
    let place = Alone::new();
    place.write("file", "");
    for what in [".", "none", "file", "/proc"] {
        place.ioband(&["umount", what]).refused(&[&format!("nothing of ioband is mounted at {what}")]);
    }
    assert!(std::path::Path::new("/proc/self").exists());
}

fn nobody_listens() {
    let place = Alone::new();
    place.write("c.yaml", "devices: {}\n");
    place.sh(&[r#""$IOBAND" check c.yaml > /dev/full"#]).refused(&["cannot print", "No space left"]);
    // The reader is gone before anything is written.
    let said = place.sh(&[r#"{ sleep 0.2; "$IOBAND" check c.yaml; echo "status $?" >&2; } | exec true"#]);
    assert_eq!(said.err, "status 0\n");
}

fn forbidden() {
    let mount = Vmdisk::mount(COUNTED);
    let as_other = |args: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "60001", "--regid", "60001", "--clear-groups", "--"]);
        // The build's folder may be closed to others, so the program comes by its descriptor.
        command
            .arg("/proc/self/fd/0")
            .args(args)
            .stdin(File::open(env!("CARGO_BIN_EXE_ioband")).expect("ioband"));
        Said::from(&command.env_remove("IOBAND_MOUNTPOINT").output().expect("setpriv"))
    };
    let at = mount.path().display().to_string();
    as_other(&["table", "--mountpoint", &at]).refused(&[
        "Permission denied",
        ".ioband/table",
        "`control: {owner:",
    ]);
    for command in [&["remove", "d"][..], &["message", "d", "0", "reset"]] {
        as_other(&[command, &["--mountpoint", &at]].concat()).refused(&[
            "Permission denied",
            ".ioband/ctl",
            "`control: {owner:",
        ]);
    }
    as_other(&["umount", &at])
        .refused(&[&format!("cannot unmount {at}"), "only root and the user who mounted it may"]);
    assert!(mount.runs());
}
