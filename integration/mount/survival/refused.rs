//! No worker can be had: callers get an error, and the mount comes back.

use super::{five, kill_worker, wait_for_worker};
use crate::daemon::{MOUNT, ioband, wait_until};
use crate::support::trial;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("survival: where no worker lives callers get errors, until one does", MOUNT, comes_back),
        trial("survival: a mount without a worker can be ended", MOUNT, can_be_ended),
    ]
}

/// Kills every worker at once.
fn without_workers<T>(mount: &crate::daemon::Vmdisk, meanwhile: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                kill_worker(mount);
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn comes_back() {
    let mount = five();
    let image = File::options().read(true).write(true).open(mount.file("vm1.img")).expect("an image");
    image.write_all_at(&[9; 4096], 0).expect("a write");
    without_workers(&mount, || {
        // Whatever waited, and whatever comes.
        let refused = |error: std::io::Error| error.raw_os_error() == Some(libc::EIO);
        let read = || image.read_exact_at(&mut [0; 4096], 0);
        wait_until(|| read().is_err_and(refused), || "somebody answers".into());
        let look = || std::fs::metadata(mount.file("vm1.img"));
        wait_until(|| look().is_err_and(refused), || "somebody answers".into());
    });
    wait_until(
        || mount.worker().is_some() && std::fs::metadata(mount.file("vm1.img")).is_ok(),
        || "none comes back".into(),
    );
    // Most were killed before they were any.
    wait_for_worker(&mount, 0);
    let mut bytes = [0; 4096];
    image.read_exact_at(&mut bytes, 0).expect("the same open file");
    assert_eq!(bytes, [9; 4096]);
    // What was closed while nobody was there is closed.
    drop(image);
    wait_until(|| ioband(mount.folder(), &["umount", "vmdisk"]).status.success(), || "it is open".into());
    assert!(mount.ended());
}

fn can_be_ended() {
    let mount = five();
    without_workers(&mount, || {
        let image = mount.file("vm1.img");
        wait_until(|| std::fs::metadata(&image).is_err(), || "somebody answers".into());
        kill(mount.pid(), Signal::SIGTERM).expect("the keeper runs");
        assert!(mount.ended());
    });
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(mount.path().to_str().expect("a plain path")), "still mounted");
}
