//! What fails is the answer to whom it concerns, is counted in his group, and is told once.

use super::{MIB, errno, read, save, say, told};
use crate::daemon::{Transport, Vmdisk, groups, wait_until};
use crate::data::stage::{assert_same, open_file};
use crate::support::{Mounted, Random, folder};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Two disks, the first of which has these faults; each has an image, `bad.img` and `good.img`.
fn two(faults: &str, by: Transport) -> Vmdisk {
    let config = format!(
        "devices:\n  bad: {{path: bad.disk, size: 8MiB, type: image, groups: {{bad.img: 100}}, faults: {faults}}}\n  \
         good: {{path: good.disk, size: 8MiB, id: 2}}\n\
         images:\n  bad.img: {{device: bad, size: 4MiB}}\n  beside.img: {{device: bad, offset: 4MiB}}\n  \
         good.img: {{device: good}}\n"
    );
    Vmdisk::mount_in(folder(), &config, &by.and(&[]))
}

pub(super) fn errors(by: Transport) {
    let mount = two(
        "[{error: EIO, op: write, every: 10}, {error: ENODATA, op: read, offset: 1MiB, size: 512}, {error: EIO, op: flush}]",
        by,
    );
    let [bad, beside, good] =
        ["bad.img", "beside.img", "good.img"].map(|name| open_file(&mount, name, libc::O_DIRECT));
    let data = Random::new(1).bytes(4096);
    for write in 1..=100 {
        let failed = errno(bad.write_all_at(&data, write % 8 * 4096));
        assert_eq!(failed, (write % 10 == 0).then_some(libc::EIO), "write {write}");
        good.write_all_at(&data, write * 4096).expect("another disk");
    }
    // Around the bad place, and over it: neither the disk's own word for it nor less than it all.
    assert_eq!(errno(read(&bad, MIB, 1)), Some(libc::EIO));
    assert_eq!(errno(read(&bad, MIB - 4096, 8192)), Some(libc::EIO));
    read(&bad, MIB + 512, 4096).expect("behind it");
    assert_eq!(errno(beside.sync_all()), Some(libc::EIO));
    good.sync_all().expect("another disk");
    // In the group of whom it concerns, failed or not.
    let status = say(&mount, &["status", "bad"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    let of_image = groups(&status).into_iter().find(|(id, _)| id == "bad.img").expect("its group").1;
    assert_eq!((of_image[0], of_image[3]), (3, 100), "{status}");
    wait_until(|| told(&mount, "fails: EIO") == 1, || mount.control("events"));
    wait_until(|| told(&mount, "fails: ENODATA") == 1, || mount.control("events"));
    assert_eq!((told(&mount, "device bad:"), told(&mount, "device good:")), (2, 0));
}

pub(super) fn pieces(by: Transport) {
    let mount = two("[{short: true}, {stall: 1ms, every: 7, seed: 3}]", by);
    let file = open_file(&mount, "bad.img", 0);
    let (mut random, mut model) = (Random::new(2), vec![0; 4 * MIB as usize]);
    for _ in 0..60 {
        let len = 1 + random.below(300_000);
        let at = random.below(4 * MIB - len);
        let bytes = random.bytes(len as usize);
        file.write_all_at(&bytes, at).expect("writing in pieces");
        model[at as usize..(at + len) as usize].copy_from_slice(&bytes);
    }
    assert_same(&read(&file, 0, model.len()).expect("reading in pieces"), &model, "in pieces");
    assert_eq!(told(&mount, "device bad:"), 0, "neither is an error");
}

pub(super) fn edited() {
    let mount = two("[]", Transport::Dev);
    let file = open_file(&mount, "bad.img", libc::O_DIRECT);
    file.write_all_at(&[1; 4096], 0).expect("no fault yet");
    let text = mount.control("control.yaml");
    let change = |faults: &str| {
        save(&mount, &text.replace("faults: []", faults)).map(|()| {
            // Written again by the daemon, it says the same.
            let output = say(&mount, &["message", "good", "0", "weight", "77"]);
            assert!(output.status.success());
            mount.control("control.yaml")
        })
    };
    let printed = change("faults: [{error: ENOSPC, op: write, offset: 4K, size: 512}]").expect("it is valid");
    assert!(printed.contains("faults: [{error: ENOSPC, op: write, offset: 4KiB, size: 512}]"), "{printed}");
    assert_eq!(errno(file.write_all_at(&[1; 4096], 4096)), Some(libc::ENOSPC));
    file.write_all_at(&[1; 4096], 8192).expect("elsewhere");
    assert_eq!(errno(change("faults: [{error: EPERM}]")), Some(libc::EINVAL));
    assert_eq!(errno(file.write_all_at(&[1; 4096], 4096)), Some(libc::ENOSPC));
    assert!(!change("faults: []").expect("it is valid").contains("faults: [{"));
    file.write_all_at(&[1; 4096], 4096).expect("no fault any more");
}

pub(super) fn truncated(by: Transport) {
    let mount = two("[]", by);
    let disk = mount.folder().join("bad.disk");
    let [bad, beside, good] =
        ["bad.img", "beside.img", "good.img"].map(|name| open_file(&mount, name, libc::O_DIRECT));
    let data = Random::new(3).bytes(MIB as usize);
    for file in [&bad, &beside, &good] {
        (0..4).for_each(|at| file.write_all_at(&data, at * MIB).expect("writing"));
    }
    let resize = |size| {
        File::options().write(true).open(&disk).and_then(|file| file.set_len(size)).expect("another size")
    };
    resize(3 * MIB);
    for _ in 0..5 {
        assert_eq!(errno(read(&bad, 3 * MIB, 4096)), Some(libc::EIO));
        assert_eq!(errno(bad.write_all_at(&data[..4096], 3 * MIB + 8192)), Some(libc::EIO));
        assert_eq!(errno(beside.write_all_at(&data[..4096], 0)), Some(libc::EIO));
        assert_eq!(errno(beside.write_all_at(b"a part of a block", 77)), Some(libc::EIO));
    }
    assert_eq!(disk.metadata().expect("it is there").len(), 3 * MIB, "nothing makes it longer again");
    assert_same(&read(&bad, 0, MIB as usize).expect("what is left"), &data, "what is left");
    bad.write_all_at(&data[..4096], 2 * MIB).expect("what is left");
    assert_same(&read(&good, 0, MIB as usize).expect("another disk"), &data, "another disk");
    wait_until(|| told(&mount, "was truncated to 3MiB") == 1, || mount.control("events"));
    resize(8 * MIB);
    beside.write_all_at(&data, 0).expect("it has its size again");
    assert_same(&read(&beside, 0, MIB as usize).expect("reading"), &data, "what was written since");
    assert_eq!(read(&bad, 3 * MIB, 4096).expect("reading"), [0; 4096], "what is lost");
    assert_eq!(told(&mount, "was truncated"), 1);
}

pub(super) fn full(by: Transport) {
    let room = Mounted::new(&["-t", "tmpfs", "-o", "size=4m", "ioband-test"]);
    let ballast = room.path().join("ballast");
    std::fs::write(&ballast, vec![1; 2 * MIB as usize]).expect("ballast");
    let config = format!(
        "devices:\n  d: {{path: {}, size: 16MiB}}\nimages: {{a.img: {{device: d, size: 8MiB}}, b.img: {{device: d, offset: 8MiB}}}}\n",
        room.path().join("disk").display()
    );
    let mount = Vmdisk::mount_in(folder(), &config, &by.and(&[]));
    let [a, b] = ["a.img", "b.img"].map(|name| open_file(&mount, name, libc::O_DIRECT));
    let data = Random::new(4).bytes(MIB as usize);
    let refused = (0..8).filter(|at| errno(a.write_all_at(&data, at * MIB)) == Some(libc::ENOSPC)).count();
    assert!(refused >= 5, "{refused}");
    for at in 0..8 {
        assert_eq!(errno(b.write_all_at(&data, at * MIB)), Some(libc::ENOSPC));
    }
    wait_until(|| told(&mount, "has no room") == 1, || mount.control("events"));
    std::fs::remove_file(&ballast).expect("making room");
    b.write_all_at(&data, MIB).expect("there is room again");
    assert_same(&read(&b, MIB, data.len()).expect("reading"), &data, "what was written in the end");
    assert_eq!(told(&mount, "device d:"), 1);
}
