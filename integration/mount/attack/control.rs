//! Control is not for those who may look at it, by any operation on any of its files.

use super::stage::{as_attacker, mount};
use crate::daemon::MOUNT;
use crate::support::trial;
use libtest_mimic::Trial;
use std::fs;
use std::path::{Path, PathBuf};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("attack: control that all may read is for root to change", MOUNT, || {
            readable("mode: \"0644\"")
        }),
        trial("attack: control that none but root may see", MOUNT, hidden),
    ]
}

/// What could change a file `$f` of the control directory.
const ON_FILES: [&str; 17] = [
    "echo x > $f",
    "echo x >> $f",
    "exec 3<>$f",
    "exec 3<$f && echo x >/proc/self/fd/3",
    "truncate -s 0 $f",
    "chmod 0666 $f",
    "chown $(id -u) $f",
    "chgrp $(id -g) $f",
    "touch $f",
    "rm -f $f",
    "mv $f .ioband/other",
    "mv -T attacker.img $f",
    "ln $f .ioband/other",
    "ln -f $f attacker.img",
    "cp attacker.img $f",
    "python3 -c \"import os; os.setxattr('$f', 'user.x', b'x')\"",
    "python3 -c \"import os; fd = os.open('$f', os.O_PATH); os.open('/proc/self/fd/%d' % fd, os.O_RDWR)\"",
];

/// And its folders.
const IN_FOLDERS: [&str; 8] = [
    "echo x > $f/new",
    "mkdir $f/new",
    "ln -s x $f/new",
    "mknod $f/new p",
    "chmod 0777 $f",
    "mv $f .other",
    "rmdir $f",
    "mv attacker.img $f/new",
];

/// Files and folders below a folder.
fn all(folder: &Path, files: &mut Vec<PathBuf>, folders: &mut Vec<PathBuf>) {
    folders.push(folder.to_owned());
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { all(&path, files, folders) } else { files.push(path) }
    }
}

fn readable(control: &str) {
    let mount = mount(100_000, control);
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    all(&mount.file(".ioband"), &mut files, &mut folders);
    assert!(files.len() > 15 && folders.len() >= 3, "{files:?} {folders:?}");
    let (yaml, table) = (mount.control("control.yaml"), mount.control("table"));
    // All the ways at once for each file: a shell for each would take its time. What works says so.
    let tried = |paths: &[PathBuf], ways: &[&str]| {
        for path in paths {
            let path = path.strip_prefix(mount.path()).expect("in the mount").to_str().expect("a plain path");
            let ways = ways.iter().map(|way| way.replace("$f", path));
            let script: String = ways
                .map(|way| {
                    format!("( {way} ) </dev/null >/dev/null 2>&1 && echo '{}'\n", way.replace('\'', "\""))
                })
                .collect();
            let worked = as_attacker(&mount, &format!("{script}true")).expect("a shell");
            assert_eq!(worked, "", "{path}");
        }
    };
    tried(&files, &ON_FILES);
    tried(&folders, &IN_FOLDERS);
    assert_eq!((mount.control("control.yaml"), mount.control("table")), (yaml, table));
    // That the script can tell.
    as_attacker(&mount, "head -c 1 .ioband/table >/dev/null").expect("all may look");
}

fn hidden() {
    let mount = mount(100_000, "");
    for way in ["ls .ioband", "cat .ioband/table", "echo x > .ioband/ctl", "ls .ioband/devices", "cd .ioband"]
    {
        let said = as_attacker(&mount, way);
        assert!(
            said.as_ref().is_err_and(|said| said.contains("ermission denied") || said.contains("can't cd")),
            "{said:?}"
        );
    }
}
