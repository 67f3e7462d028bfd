//! The configuration on disk against what runs: who changed what, and when.

use crate::daemon::{MOUNT, Vmdisk, ioband, wait_until};
use crate::support::{Need, trial};
use libtest_mimic::Trial;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::process::Command;
use std::thread;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("what is saved is not taken for an edit", MOUNT, saved),
        trial("a message that follows at once on the mount stays", MOUNT, at_once),
        trial("a message that follows a swapped link stays", MOUNT, swapped),
        trial("a file that was refused is tried again when it is saved again", MOUNT, again),
        trial("images come and go while others open them", MOUNT, come_and_go),
        trial("a device is what it was opened on, and as large as it has become", MOUNT, replaced),
        trial("a device is not in its own mount", MOUNT, inside),
        trial("an exec that closes a draft waits for nobody who waits for it", PYTHON, exec),
    ]
}

const PYTHON: &[Need] = &[Need::Root, Need::Fuse, Need::Tool("python3")];

const CONFIG: &str = "devices: {d: {path: disk, size: 8MiB, type: user, groups: {1001: 10}}}\n\
     images: {a.img: {device: d, size: 1MiB}, b.img: {device: d, offset: 4MiB, size: 1MiB}}\n";

fn run(mount: &Vmdisk, args: &[&str]) {
    let output = ioband(mount.folder(), &[args, &["--mountpoint", "vmdisk"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A change that follows at once must not be undone by the file that was saved before it.
fn saved() {
    let mount = Vmdisk::mount(CONFIG);
    for weight in 100..130 {
        run(&mount, &["message", "d", "0", "weight", &format!("1001:{weight}")]);
        run(&mount, &["save"]);
        run(&mount, &["message", "d", "0", "weight", &format!("1001:{}", weight + 1000)]);
        // The watch has seen by now what it has to see: it has this long to be wrong.
        thread::sleep(std::time::Duration::from_millis(40));
        let table = mount.control("table");
        assert!(table.contains(&format!("1001:{}", weight + 1000)), "{table}\n{}", mount.control("events"));
        let file = fs::read_to_string(mount.folder().join("config.yaml")).expect("the configuration");
        assert!(file.contains(&format!("1001: {weight}")), "{file}");
    }
}

/// The file that was mounted is no news, however soon something else runs.
fn at_once() {
    for _ in 0..5 {
        let mount = Vmdisk::mount(CONFIG);
        run(&mount, &["message", "d", "0", "weight", "1001:70"]);
        thread::sleep(std::time::Duration::from_millis(100));
        let table = mount.control("table");
        assert!(table.contains("1001:70"), "{table}\n{}", mount.control("events"));
    }
}

/// When a link is swapped, folders are watched no more, and others are. What the kernel says of that is no change of the file.
fn swapped() {
    let mount = Vmdisk::mount(CONFIG);
    let at = |name: &str| mount.folder().join(name);
    let swap = |target: &str, link: &str| {
        symlink(target, at("fresh")).expect("a link");
        fs::rename(at("fresh"), at(link)).expect("a rename");
    };
    for weight in 100..120 {
        let version = format!("version{weight}");
        fs::create_dir(at(&version)).expect("a folder");
        let text = CONFIG.replace("1001: 10", &format!("1001: {weight}"));
        fs::write(at(&version).join("config.yaml"), text).expect("a file");
        swap(&version, "data");
        if weight == 100 {
            swap("data/config.yaml", "config.yaml");
        }
        mount.wait_for("table", |table| table.contains(&format!("1001:{weight}")));
        run(&mount, &["message", "d", "0", "weight", &format!("1001:{}", weight + 5000)]);
        thread::sleep(std::time::Duration::from_millis(50));
        let table = mount.control("table");
        assert!(table.contains(&format!("1001:{}", weight + 5000)), "{table}\n{}", mount.control("events"));
    }
}

fn again() {
    let mount = Vmdisk::mount(CONFIG);
    let file = mount.folder().join("config.yaml");
    let moved = CONFIG.replace("offset: 4MiB", "offset: 5MiB");
    let open = File::open(mount.file("b.img")).expect("an image");
    fs::write(&file, &moved).expect("a write");
    mount.wait_for("events", |events| events.contains("b.img cannot become another one"));
    drop(open);
    // The kernel tells of a close a moment later, so the next one may be refused as well.
    wait_until(
        || {
            fs::write(&file, &moved).expect("the same again");
            thread::sleep(std::time::Duration::from_millis(50));
            mount.control("control.yaml").contains("offset: 5MiB")
        },
        || mount.control("events"),
    );
}

/// Whoever gets an image open can read it, whatever becomes of it.
fn come_and_go() {
    let mount = Vmdisk::mount(CONFIG);
    let yaml = mount.path().join(".ioband/control.yaml");
    let without = CONFIG.replace(", b.img: {device: d, offset: 4MiB, size: 1MiB}", "");
    let image = mount.file("b.img");
    let opened = thread::scope(|scope| {
        let opener = scope.spawn(move || {
            let mut opened = 0;
            while opened < 2000 {
                // Not there just now, mostly.
                let Ok(file) = File::open(&image) else { continue };
                file.read_exact_at(&mut [0; 512], 0).expect("whoever has it open reads it");
                assert_eq!(file.metadata().expect("its attributes").len(), 1 << 20);
                opened += 1;
            }
            opened
        });
        while !opener.is_finished() {
            fs::write(&yaml, &without).expect("an edit");
            fs::write(&yaml, CONFIG).expect("an edit");
        }
        opener.join().expect("no failure")
    });
    assert_eq!(opened, 2000);
}

/// In an exec the kernel closes files with a lock held that readers of /proc/TID/stat wait for.
fn exec() {
    let mount = Vmdisk::mount(CONFIG);
    let script = "import os, sys\n\
                  draft = open(sys.argv[1], 'w')\n\
                  draft.write(sys.argv[2])\n\
                  draft.flush()\n\
                  os.execv('/bin/true', ['true'])\n";
    for weight in 100..110 {
        let text = CONFIG.replace("1001: 10", &format!("1001: {weight}"));
        let yaml = mount.path().join(".ioband/control.yaml");
        let status = Command::new("python3").args(["-c", script]).arg(yaml).arg(text).status();
        assert!(status.expect("python runs").success());
        assert!(mount.control("table").contains(&format!("1001:{weight}")), "{}", mount.control("events"));
    }
}

/// The daemon would wait for itself.
fn inside() {
    let mount = Vmdisk::mount(CONFIG);
    let image = mount.file("a.img");
    let text =
        CONFIG.replacen("devices: {", &format!("devices: {{e: {{path: {}, id: 2}}, ", image.display()), 1);
    let yaml = mount.path().join(".ioband/control.yaml");
    // Closing it tells nobody here; the events do.
    fs::write(&yaml, &text).expect("a write");
    let events = mount.control("events");
    assert!(events.contains("is in this very mount"), "{events}");
    let table = format!("0 2048 ioband {} 2 0 0 none weight 0 :1", image.display());
    let output = ioband(mount.folder(), &["create", "e", "--table", &table, "--mountpoint", "vmdisk"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is in this very mount"));
    assert!(!mount.control("table").contains("e: "));
}

/// Another name of the same file, at which there is another file later on; and a file that grows.
fn replaced() {
    let mount = Vmdisk::mount(CONFIG);
    let at = |name: &str| mount.folder().join(name);
    let image = File::options().read(true).write(true).open(mount.file("a.img")).expect("an image");
    image.write_all_at(b"mine", 0).expect("a write");
    drop(image);
    fs::hard_link(at("disk"), at("other")).expect("a link");
    let yaml = mount.path().join(".ioband/control.yaml");
    fs::write(&yaml, CONFIG.replace("path: disk", "path: other")).expect("an edit");
    fs::remove_file(at("other")).expect("it is there");
    File::create(at("other")).and_then(|file| file.set_len(8 << 20)).expect("another file");
    run(&mount, &["message", "d", "0", "weight", "1001:7"]);
    let mut found = [0; 4];
    File::open(mount.file("a.img")).and_then(|file| file.read_exact_at(&mut found, 0)).expect("a read");
    assert_eq!(&found, b"mine");

    fs::write(&yaml, CONFIG).expect("an edit");
    File::options().write(true).open(at("disk")).and_then(|file| file.set_len(16 << 20)).expect("it grows");
    let larger = CONFIG.replace(", size: 8MiB", "").replace("offset: 4MiB", "offset: 12MiB");
    fs::write(&yaml, &larger).expect("an edit");
    assert_eq!(mount.control("control.yaml"), larger, "{}", mount.control("events"));
    let grown = File::options().write(true).open(mount.file("b.img")).expect("an image");
    grown.write_all_at(b"more", 0).expect("a write behind the old end");
    assert!(mount.control("status").starts_with("d: 0 32768 ioband"), "{}", mount.control("status"));
}
