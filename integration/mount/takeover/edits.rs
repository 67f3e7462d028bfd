//! Edits and commands by many, while one worker after the other is killed: each is done, and done once.

use super::{command, control, kill_worker, mounted};
use crate::daemon::{MOUNT, Vmdisk, wait_until};
use crate::support::{Random, trial};
use libtest_mimic::Trial;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

/// So many workers die.
const DEATHS: usize = 12;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("commands are done once while workers are killed", MOUNT, || {
            under_fire(&[attaches(1000), attaches(2000), creates("x"), creates("y"), settings(3000)])
        }),
        trial("edits are done once while workers are killed", MOUNT, || {
            under_fire(&[renames(), pieces(), appends()])
        }),
    ]
}

/// What somebody does over and over; it says what went wrong.
type Work = Box<dyn Fn(&Vmdisk, usize) -> Result<(), String> + Send + Sync>;

/// Lets all do their work, each in its own thread, while workers are killed.
fn under_fire(all: &[Work]) {
    let mount = mounted();
    let stop = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    let mut random = Random::new(71);
    std::thread::scope(|scope| {
        let workers: Vec<_> = all
            .iter()
            .map(|work| {
                let (mount, stop, done) = (&mount, &stop, &done);
                scope.spawn(move || {
                    let mut round = 0;
                    while !stop.load(Ordering::Relaxed) {
                        if let Err(error) = work(mount, round) {
                            return Err(format!("round {round}: {error}"));
                        }
                        round += 1;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        for _ in 0..DEATHS {
            // It serves; and then long enough to count as a life.
            let before = done.load(Ordering::Relaxed);
            let over = || workers.iter().all(ScopedJoinHandle::is_finished);
            wait_until(|| done.load(Ordering::Relaxed) > before || over(), || "nothing is done".into());
            std::thread::sleep(Duration::from_millis(100 + random.below(100)));
            kill_worker(&mount);
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker
                .join()
                .expect("no panic")
                .unwrap_or_else(|error| panic!("{error}\n{}", mount.control("events")));
        }
    });
    let done = done.into_inner();
    assert!(done > DEATHS, "{done} rounds say little about {DEATHS} deaths");
}

fn attaches(first: usize) -> Work {
    Box::new(move |mount, round| {
        let id = first + round % 10;
        command(mount, &format!("message d 0 attach {id}"))?;
        command(mount, &format!("message d 0 weight {id}:30"))?;
        command(mount, &format!("message d 0 detach {id}"))
    })
}

fn creates(name: &'static str) -> Work {
    Box::new(move |mount, _| {
        let disk = mount.folder().join(name);
        if !disk.exists() {
            fs::write(&disk, vec![0; 64 << 10]).map_err(|error| error.to_string())?;
        }
        let table = format!("0 128 ioband {} 9 0 0 none weight 0 :100", disk.display());
        command(mount, &format!("create {name} {table}"))?;
        command(mount, &format!("remove {name}"))
    })
}

fn settings(id: usize) -> Work {
    Box::new(move |mount, _| {
        let groups = control(mount, "devices/d/groups");
        for word in [format!("+{id}"), format!("-{id}")] {
            let mut file = OpenOptions::new().write(true).open(&groups).map_err(|error| error.to_string())?;
            file.write_all(word.as_bytes()).map_err(|error| format!("{word}: {error}"))?;
        }
        Ok(())
    })
}

/// The text of a configuration with another weight, padded so that it comes in pieces.
fn text(round: usize, who: &str) -> String {
    let weight = round % 1000 + 1;
    let comments = "# so that there is more than one piece to write\n".repeat(20);
    format!(
        "# by {who}\n{comments}devices:\n  d: {{path: disk, type: user, weight: {weight}}}\nimages:\n  a.img: {{device: d, size: \
         1MiB}}\n"
    )
}

/// As vim does it: the old one is renamed to a backup, the new one is written under its name, the backup removed. The name is
/// somebody else's at the same time, so this writes beside it and renames.
fn renames() -> Work {
    Box::new(|mount, round| {
        let new = control(mount, "4913");
        let text = text(round, "who renames");
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&new)
            .map_err(|error| format!("making it: {error}"))?;
        file.write_all(text.as_bytes()).map_err(|error| format!("writing: {error}"))?;
        drop(file);
        let spare = control(mount, "4914");
        fs::rename(&new, &spare).map_err(|error| format!("the first rename: {error}"))?;
        fs::rename(&spare, control(mount, "control.yaml")).map_err(|error| format!("the rename: {error}"))?;
        let gone = [&new, &spare].iter().all(|path| !path.exists());
        gone.then_some(()).ok_or_else(|| "it is still there".to_owned())
    })
}

/// As a slow program does it: 37 bytes at a time.
fn pieces() -> Work {
    Box::new(|mount, round| {
        let text = text(round, "who writes pieces");
        let path = control(mount, "control.yaml");
        let file = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(path)
            .map_err(|error| format!("opening: {error}"))?;
        for (number, piece) in text.as_bytes().chunks(37).enumerate() {
            file.write_all_at(piece, number as u64 * 37)
                .map_err(|error| format!("piece {number}: {error}"))?;
        }
        file.sync_all().map_err(|error| format!("the fsync: {error}"))
    })
}

/// Lines are appended to a file of an editor, and each must be there once.
fn appends() -> Work {
    Box::new(|mount, round| {
        let path = control(mount, "log");
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|error| format!("opening: {error}"))?;
        let lines: Vec<String> = (0..20).map(|line| format!("{round} {line}\n")).collect();
        for line in &lines {
            file.write_all(line.as_bytes()).map_err(|error| format!("appending: {error}"))?;
        }
        let found = fs::read_to_string(&path).map_err(|error| format!("reading: {error}"))?;
        fs::remove_file(&path).map_err(|error| format!("removing: {error}"))?;
        (found == lines.concat())
            .then_some(())
            .ok_or_else(|| format!("other lines than were written: {found}"))
    })
}
