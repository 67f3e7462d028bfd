//! The commands that change a mount: what they do, what they print, and what they say when they refuse.

use crate::alone::Said;
use crate::daemon::{MOUNT, Vmdisk, ioband, wait_until};
use crate::support::{folder, sparse, trial};
use libtest_mimic::Trial;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a device that is created is an image", MOUNT, create),
        trial("a table that is refused makes nothing", MOUNT, create_refused),
        trial("what table prints creates the same again", MOUNT, table_and_back),
        trial("remove takes a device away that nobody has open", MOUNT, remove),
        trial("messages change what the table says", MOUNT, messages),
        trial("a message that is refused changes nothing", MOUNT, messages_refused),
        trial("save keeps what is in force", MOUNT, save),
        trial("json says what table, status and ls say", MOUNT, json),
        trial("metrics are read as a file", MOUNT, metrics),
        trial("a command for a dead mount says so", MOUNT, dead),
        trial("the shim takes dmsetup's command lines", &[], shim),
    ]
}

/// A mount of nothing, and files `a` and `b` of 4 MiB beside it.
fn empty() -> Vmdisk {
    let files = folder();
    sparse(&files.path().join("a"), 4 << 20);
    sparse(&files.path().join("b"), 4 << 20);
    Vmdisk::mount_in(files, "devices: {}\n", &[])
}

/// Runs a command for the mount.
fn run(mount: &Vmdisk, args: &[&str]) -> Said {
    Said::from(&ioband(mount.folder(), &[args, &["--mountpoint", "vmdisk"]].concat()))
}

/// The same, with something to read.
fn fed(mount: &Vmdisk, args: &[&str], input: &str) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ioband"));
    command.current_dir(mount.folder()).args(args).args(["--mountpoint", "vmdisk"]);
    Said::from(&output(command.env_remove("IOBAND_MOUNTPOINT"), input))
}

fn output(command: &mut Command, input: &str) -> std::process::Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    // Whoever refuses may do so without having read it.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("the program ends")
}

/// It worked and printed nothing, as dmsetup does.
#[track_caller]
fn quiet(said: Said) {
    assert_eq!(said.ok(), "");
}

/// It was refused, in one line.
#[track_caller]
fn refused(said: Said, parts: &[&str]) {
    let one = said.err.lines().count() == 1 && said.err.starts_with("ioband: ") && said.err.ends_with('\n');
    assert!(one, "{said:?}");
    said.refused(parts);
}

fn at(mount: &Vmdisk, name: &str) -> String {
    mount.folder().join(name).display().to_string()
}

fn create() {
    let mount = empty();
    // A path counts from where the command is typed, and not from where the daemon is.
    quiet(fed(&mount, &["create", "ioband1"], "0 8192 ioband a 1 0 0 none weight 0 :40\n"));
    quiet(run(&mount, &["create", "ioband2", "--table", "0 4096 ioband b 1 0 0 user weight 0 :10 1000:5"]));
    let (a, b) = (at(&mount, "a"), at(&mount, "b"));
    let first = format!("ioband1: 0 8192 ioband {a} 1 0 0 none weight 2048 :40\n");
    let second = format!("ioband2: 0 4096 ioband {b} 1 0 0 user weight 2048 :10 1000:5\n");
    assert_eq!(run(&mount, &["table"]).ok(), format!("{first}{second}"));
    assert_eq!(run(&mount, &["table", "ioband2"]).ok(), second);
    assert_eq!(run(&mount, &["status", "ioband1"]).ok(), "ioband1: 0 8192 ioband 1 -1 0 0 0 0 0 0\n");
    let image = File::options().read(true).write(true).open(mount.file("ioband1")).expect("an image");
    assert_eq!(image.metadata().expect("it is there").len(), 4 << 20);
    assert_eq!(std::fs::metadata(mount.file("ioband2")).expect("it is there").len(), 2 << 20);
    image.write_all_at(b"through the image", 512).expect("a write");
    image.sync_all().expect("an fsync");
    let mut found = [0; 17];
    File::open(mount.folder().join("a")).expect("the file").read_exact_at(&mut found, 512).expect("a read");
    assert_eq!(&found, b"through the image");
}

fn create_refused() {
    let mount = empty();
    let line = "0 8192 ioband a 1 0 0 none weight 0 :40";
    refused(fed(&mount, &["create", "d"], "\n"), &["the table is empty"]);
    refused(fed(&mount, &["create", "d"], &format!("{line}\n{line}\n")), &["there are 2 for d"]);
    refused(fed(&mount, &["create"], line), &["line 1 of the table does not begin with `NAME: `"]);
    for (table, part) in [
        (line.replace("ioband a", "linear a"), "linear"),
        (line.replace("8192", "8200"), "has 8192 sectors, less than 8200"),
        (line.replace("0 8192", "8 8192"), "starts at sector 0"),
        (line.replace("ioband a", "ioband missing"), "missing"),
        (line.replace(":40", ":32768"), "32767"),
        (line.replace("none weight", "frob weight"), "frob"),
        (line.replace("none weight", "none frob"), "frob"),
        ("frob".to_owned(), "frob"),
    ] {
        refused(run(&mount, &["create", "d", "--table", &table]), &[part]);
    }
    refused(run(&mount, &["create", "d e", "--table", line]), &["`d e`", "one word"]);
    // All of a table or nothing of it.
    let both = format!("d: {line}\ne: {}\n", line.replace("ioband a", "ioband missing"));
    refused(fed(&mount, &["create"], &both), &["missing"]);
    assert_eq!(run(&mount, &["table"]).ok(), "");

    quiet(run(&mount, &["create", "d", "--table", line]));
    let table = run(&mount, &["table"]).ok();
    refused(
        run(&mount, &["create", "d", "--table", &line.replace("ioband a", "ioband b")]),
        &["`d`", "already"],
    );
    refused(run(&mount, &["create", "e", "--table", line]), &["is behind device `d` already"]);
    assert_eq!(run(&mount, &["table"]).ok(), table);
    assert!(mount.control("events").lines().count() > 1, "refusals are events");
}

fn table_and_back() {
    let files = folder();
    sparse(&files.path().join("a\\file"), 4 << 20);
    sparse(&files.path().join("a file"), 4 << 20);
    sparse(&files.path().join("b"), 4 << 20);
    let mount = Vmdisk::mount_in(files, "", &[]);
    let table = "one: 0 8192 ioband a\\134file 7 2 9 cgroup weight-iosize 4096 :1 /a:b:2 /c:32767\n\
                 two: 0 2048 ioband b 3 0 0 user range-bw 2048 :0:0 1000:10:20\n";
    quiet(fed(&mount, &["create"], table));
    // A word of a table it can be, but not a path in a configuration.
    let blank = "0 8192 ioband a\\040file 7 2 9 none weight 0 :1";
    refused(run(&mount, &["create", "three", "--table", blank]), &["a\\040file", "symbolic link"]);
    let printed = run(&mount, &["table"]).ok();
    let folder = format!("{}/", mount.folder().display());
    assert_eq!(printed.replace(&folder, ""), table);
    for name in ["one", "two"] {
        quiet(run(&mount, &["remove", name]));
    }
    assert_eq!(run(&mount, &["table"]).ok(), "");
    quiet(fed(&mount, &["create"], &printed));
    assert_eq!(run(&mount, &["table"]).ok(), printed);
    // With a name, that of the line does not count.
    quiet(run(&mount, &["remove", "one"]));
    quiet(fed(&mount, &["create", "three"], printed.lines().next().expect("a line")));
    assert!(run(&mount, &["table", "three"]).ok().starts_with("three: 0 8192 ioband "));
}

fn remove() {
    let mount = empty();
    refused(run(&mount, &["remove", "ioband1"]), &["ioband1"]);
    quiet(run(&mount, &["create", "ioband1", "--table", "0 8192 ioband a 1 0 0 none weight 0 :40"]));
    let open = File::open(mount.file("ioband1")).expect("an image");
    refused(run(&mount, &["remove", "ioband1"]), &["ioband1", "open"]);
    open.read_exact_at(&mut [0; 512], 0).expect("it still serves");
    drop(open);
    // The kernel tells of the end of a handle after close(2) has returned.
    wait_until(|| run(&mount, &["remove", "ioband1"]).status == Some(0), || "ioband1 stays open".to_owned());
    assert_eq!(run(&mount, &["table"]).ok(), "");
    assert!(!mount.file("ioband1").exists());
    // The device is free for another one.
    quiet(run(&mount, &["create", "ioband2", "--table", "0 8192 ioband a 1 0 0 none weight 0 :40"]));
}

/// A mount with `ioband1` as in the document.
fn ioband1() -> Vmdisk {
    let mount = empty();
    quiet(run(&mount, &["create", "ioband1", "--table", "0 8192 ioband a 1 0 0 none weight 0 :40"]));
    mount
}

/// What the table says behind the device's id.
fn settings(mount: &Vmdisk) -> String {
    let table = run(mount, &["table", "ioband1"]).ok();
    table.trim_end().split(' ').skip(6).collect::<Vec<_>>().join(" ")
}

fn messages() {
    let mount = ioband1();
    for (message, wanted) in [
        ("type user", "0 0 user weight 2048 :40"),
        ("attach 1000", "0 0 user weight 2048 :40 1000:100"),
        ("attach 2000", "0 0 user weight 2048 :40 1000:100 2000:100"),
        ("weight 1000:30", "0 0 user weight 2048 :40 1000:30 2000:100"),
        ("weight 2000:20", "0 0 user weight 2048 :40 1000:30 2000:20"),
        ("weight 4", "0 0 user weight 2048 :4 1000:30 2000:20"),
        // No option, although it begins like one.
        ("weight -1:41", "0 0 user weight 2048 :41 1000:30 2000:20"),
        ("detach 1000", "0 0 user weight 2048 :41 2000:20"),
        ("token 256", "0 0 user weight 256 :41 2000:20"),
        ("io_limit 128", "0 128 user weight 256 :41 2000:20"),
        ("io_throttle 16", "16 128 user weight 256 :41 2000:20"),
        ("policy weight-iosize", "16 128 user weight-iosize 256 :41 2000:20"),
        ("weight 2000:100", "16 128 user weight-iosize 256 :41 2000:100"),
        ("weight 100", "16 128 user weight-iosize 256 :100 2000:100"),
        ("policy range-bw", "16 128 user range-bw 256 :0:0 2000:0:0"),
        ("range-bw 2000:10:20", "16 128 user range-bw 256 :0:0 2000:10:20"),
        ("reset", "16 128 user range-bw 256 :0:0 2000:10:20"),
    ] {
        let words: Vec<_> = message.split(' ').collect();
        quiet(run(&mount, &[&["message", "ioband1", "0"], words.as_slice()].concat()));
        assert_eq!(settings(&mount), wanted, "{message}");
    }
    // As one argument, and with the mount before it.
    let said = ioband(mount.folder(), &["message", "--mountpoint", "vmdisk", "ioband1", "0", "token 0"]);
    quiet(Said::from(&said));
    assert!(settings(&mount).contains(" 2048 "), "0 is the default");
    // Counters begin again.
    let image = File::open(mount.file("ioband1")).expect("an image");
    image.read_exact_at(&mut [0; 512], 0).expect("a read");
    assert_eq!(mount.groups()[0].1[0], 1);
    quiet(run(&mount, &["message", "ioband1", "0", "reset"]));
    assert_eq!(mount.groups()[0].1, [0; 6]);
}

fn messages_refused() {
    let mount = ioband1();
    let message = |message: &str| {
        let words: Vec<_> = message.split(' ').collect();
        run(&mount, &[&["message", "ioband1", "0"], words.as_slice()].concat())
    };
    refused(message("attach 1000"), &["none"]);
    quiet(message("type user"));
    quiet(message("attach 1000"));
    let before = run(&mount, &["table"]).ok();
    for (words, part) in [
        ("frob", "frob"),
        ("wieght 40", "weight"),
        ("weight", "weight"),
        ("weight 0", "32767"),
        ("weight 32768", "32767"),
        ("weight 1000:0", "32767"),
        ("weight 2000:10", "2000"),
        ("weight heavy", "heavy"),
        ("attach 1000", "1000"),
        ("detach 2000", "2000"),
        ("type pid", "group"),
        ("type frob", "frob"),
        ("policy frob", "frob"),
        ("token -1", "-1"),
        ("io_throttle many", "many"),
        ("range-bw 1000:10:20", "range-bw"),
    ] {
        refused(message(words), &[part]);
    }
    refused(run(&mount, &["message", "ioband2", "0", "reset"]), &["ioband2"]);
    refused(run(&mount, &["message", "ioband1", "8", "reset"]), &["8"]);
    refused(run(&mount, &["message", "ioband1", "0", "reset\nremove ioband1"]), &["is not a message"]);
    refused(run(&mount, &["message", "ioband1", "0", ""]), &["is not a message"]);
    assert_eq!(run(&mount, &["table"]).ok(), before);
}

fn save() {
    let mount = ioband1();
    quiet(run(&mount, &["message", "ioband1", "0", "weight", "77"]));
    let config = mount.folder().join("config.yaml");
    let old = std::fs::read_to_string(&config).expect("the configuration");
    // To a file of the caller's.
    quiet(run(&mount, &["save", "kept.yaml"]));
    let kept = mount.folder().join("kept.yaml");
    assert_eq!(std::fs::read_to_string(&kept).expect("it is there"), mount.control("control.yaml"));
    assert_eq!(std::fs::read_to_string(&config).expect("it is there"), old, "only what was asked for");
    std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o640)).expect("it is ours");
    quiet(run(&mount, &["save", "kept.yaml"]));
    assert_eq!(std::fs::metadata(&kept).expect("it is there").permissions().mode() & 0o777, 0o640);
    refused(run(&mount, &["save", "none/kept.yaml"]), &["cannot write none/kept.yaml", "No such file"]);
    // To what was mounted.
    quiet(run(&mount, &["save"]));
    let table = run(&mount, &["table"]).ok();
    assert!(table.ends_with(" :77\n"), "{table}");
    let saved = std::fs::read_to_string(&config).expect("the configuration");
    assert_eq!(saved, mount.control("control.yaml"));
    // Either makes the same mount again.
    mount.umount_with(&[]);
    assert!(mount.ended());
    for name in ["config.yaml", "kept.yaml"] {
        let text = std::fs::read_to_string(mount.folder().join(name)).expect("it is there");
        std::fs::write(&config, text).expect("it is ours");
        let again = mount.beside("config.yaml");
        assert_eq!(run(&again, &["table"]).ok(), table, "{name}");
        again.umount_with(&[]);
        assert!(again.ended());
    }
}

fn json() {
    let mount = ioband1();
    quiet(run(&mount, &["create", "e", "--table", "0 8192 ioband b 2 3 4 gid weight-iosize 9 :40 7:8"]));
    let json = |args: &[&str]| {
        let text = run(&mount, &[args, &["--json"]].concat()).ok();
        (serde_json::from_str::<serde_json::Value>(&text).expect("it is JSON"), text)
    };
    let (table, text) = json(&["table"]);
    assert_eq!(text, mount.control("table.json"), "as it was written");
    assert_eq!(table[0]["name"], "ioband1");
    assert_eq!(table[0]["path"], at(&mount, "a"));
    let e = &table[1];
    let numbers = ["sectors", "id", "io_throttle", "io_limit", "token_base"].map(|key| e[key].as_u64());
    assert_eq!(numbers, [8192, 2, 3, 4, 9].map(Some));
    assert_eq!([&e["type"], &e["policy"]], ["gid", "weight-iosize"]);
    assert_eq!([&e["groups"][0]["id"], &e["groups"][1]["id"]], [-1, 7]);
    assert_eq!([&e["groups"][0]["weight"], &e["groups"][1]["weight"]], [40, 8]);

    let (one, _) = json(&["table", "e"]);
    assert_eq!(one, serde_json::json!([e]));
    assert_eq!(json(&["table", "--target", "linear"]).0, serde_json::json!([]));
    refused(run(&mount, &["status", "x", "--json"]), &["no ioband device x; there are: ioband1, e"]);

    let image = File::open(mount.file("ioband1")).expect("an image");
    image.read_exact_at(&mut [0; 4096], 0).expect("a read");
    let (status, _) = json(&["status"]);
    let group = &status[0]["groups"][0];
    let read = serde_json::json!({"requests": 1, "delayed": 0, "sectors": 8});
    assert_eq!((&group["read"], &group["got"], &group["asked"]), (&read, &100.0.into(), &100.0.into()));
    assert!(status[1]["groups"][0]["got"].is_null(), "of nothing there is no share");

    let (list, text) = json(&["ls"]);
    assert_eq!(text, mount.control("ls.json"));
    assert_eq!(list["images"][0]["device"], "ioband1");
    assert_eq!(list["devices"][1]["groups"], 1);
    assert_eq!(list["disks"].as_array().map(Vec::len), Some(2));
    let by = |key: &str| list["service"][key].as_u64().expect("a number");
    assert_eq!(by("by_uring") + by("by_dev"), 1);
}

fn metrics() {
    let mount = ioband1();
    let image = File::open(mount.file("ioband1")).expect("an image");
    image.read_exact_at(&mut [0; 4096], 0).expect("a read");
    let text = mount.control("metrics");
    for line in [
        r#"ioband_group_reads_total{device="ioband1",disk="1",group="-1"} 1"#,
        r#"ioband_group_read_bytes_total{device="ioband1",disk="1",group="-1"} 4096"#,
        r#"ioband_group_weight{device="ioband1",disk="1",group="-1"} 40"#,
        r#"ioband_disk_in_flight_requests{disk="1"} 0"#,
    ] {
        assert!(text.lines().any(|is| is == line), "no {line} in\n{text}");
    }
}

fn dead() {
    let mount = ioband1();
    mount.kill_all();
    assert!(mount.ended());
    for args in
        [&["message", "ioband1", "0", "reset"][..], &["remove", "ioband1"], &["save"], &["table", "--json"]]
    {
        refused(run(&mount, args), &["stale FUSE mount", "`ioband umount "]);
    }
}

/// Where the shim is.
fn dmsetup() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/dmsetup")
}

fn shim() {
    let place = folder();
    let file = |name: &str| place.path().join(name);
    // Says what it is told, and fails if that is the name of a device.
    let fake = "#!/bin/sh\nprintf '<%s>' \"$@\"\ncase $* in *bad*) exit 1 ;; esac\nif [ \"$1\" = create ]; then cat; fi\n";
    std::fs::write(file("fake"), fake).expect("a file");
    std::fs::set_permissions(file("fake"), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    std::fs::create_dir(file("vmdisk")).expect("a folder");
    std::fs::create_dir(file("mapper")).expect("a folder");
    std::fs::write(file("table"), "from a file").expect("a file");
    let run = |dm_dir: &str, args: &str| {
        let mut command = Command::new(dmsetup());
        command.current_dir(place.path()).args(args.split(' ')).env("IOBAND", file("fake"));
        command.env("IOBAND_MOUNTPOINT", "").env("DM_DIR", dm_dir);
        Said::from(&output(&mut command, "from stdin"))
    };
    for (args, wanted) in [
        ("create ioband1", "<create><ioband1>from stdin"),
        ("--noudevsync create ioband1 --verifyudev", "<create><ioband1>from stdin"),
        ("create ioband1 table", "<create><ioband1>from a file"),
        ("create ioband1 --table 0", "<create><ioband1><--table=0>from stdin"),
        ("create --table=0 ioband1", "<create><--table=0><ioband1>from stdin"),
        ("remove -v ioband1", "<remove><ioband1>"),
        ("remove a b", "<remove><a><remove><b>"),
        ("message ioband1 0 weight -1:40", "<message><ioband1><0><weight><-1:40>"),
        ("-v message ioband1 0 attach -v", "<message><ioband1><0><attach><-v>"),
        ("table --target ioband", "<table><--target=ioband>"),
        ("status ioband1 --target=linear", "<status><--target=linear><ioband1>"),
        ("targets", "<targets>"),
        ("ls --target ioband", "<ls>"),
        ("ls --target linear", ""),
        ("--version", "<--version>"),
        ("table --mountpoint vmdisk", "<table><--mountpoint=vmdisk>"),
    ] {
        assert_eq!(run("", args).ok(), wanted, "{args}");
    }
    for (args, words) in [
        ("frob", "ioband has no `frob`"),
        ("suspend ioband1", "this is ioband's shim"),
        ("create -r ioband1", "the option -r"),
        ("create --table", "--table needs a value"),
        ("remove", "remove needs the name"),
    ] {
        let said = run("", args);
        assert!(said.status == Some(2) && said.err.contains(words), "{args}: {said:?}");
    }
    // Links, as /dev/mapper has them.
    let link = || std::fs::read_link(file("mapper/d")).ok();
    run("mapper", "create --mountpoint vmdisk d").ok();
    let image = file("vmdisk").canonicalize().expect("it is there").join("d");
    assert_eq!(link(), Some(image));
    run("mapper", "create --mountpoint vmdisk d").refused(&["mapper/d is there already"]);
    run("mapper", "remove --mountpoint vmdisk d").ok();
    assert_eq!(link(), None);
    assert_eq!(run("mapper", "create --mountpoint vmdisk bad").status, Some(1));
    assert!(file("mapper/bad").symlink_metadata().is_err());
    // What somebody else has made there stays.
    std::fs::write(file("mapper/d"), "").expect("a file");
    run("mapper", "remove --mountpoint vmdisk d").ok();
    assert!(file("mapper/d").exists());
}
