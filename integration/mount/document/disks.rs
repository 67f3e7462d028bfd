//! Examples 1 to 3: a database and a web server, each with file systems on an ioband device of its own, and somebody else's
//! application beside them.

use super::machine::{MACHINE, Machine, Program, SIMULATE, WITH_FILESYSTEMS, end, reader};
use crate::support::trial;
use libtest_mimic::Trial;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("document: example 1, partitions share 80:40", WITH_FILESYSTEMS, partitions),
        trial("document: example 2, logical volumes share 80:40", WITH_FILESYSTEMS, logical_volumes),
        trial("document: example 2, striped volumes of one disk share 80:40", MACHINE, striped),
        trial("document: example 3, processes share 80:40:20", MACHINE, processes),
    ]
}

/// Its first step.
const CREATE: &str = r#"
# echo "0 $(blockdev --getsize /dev/sda1) ioband /dev/sda1 1 0 0" \
    "none weight 0 :80" | dmsetup create ioband1
# echo "0 $(blockdev --getsize /dev/sda2) ioband /dev/sda2 1 0 0" \
    "none weight 0 :40" | dmsetup create ioband2
"#;

/// File systems, and in each a file for an application. That the loop devices below them ask for many things at once is
/// not mount's habit, but that of the disks of the document.
const FILESYSTEMS: &str = r#"
# mkfs.ext3 /dev/mapper/ioband1
...
# mount /dev/mapper/ioband1 /mnt1
# mkfs.ext3 /dev/mapper/ioband2
...
# mount /dev/mapper/ioband2 /mnt2
# losetup --direct-io=on $(findmnt -no SOURCE /mnt1)
# losetup --direct-io=on $(findmnt -no SOURCE /mnt2)
# dd if=/dev/zero of=/mnt1/database bs=1M count=16 conv=fsync status=none
# dd if=/dev/zero of=/mnt2/pages bs=1M count=16 conv=fsync status=none
"#;

fn slow(machine: &Machine) {
    machine.follow(&format!("# dmsetup message ioband1 0 {SIMULATE}"));
}

/// Applications on both devices, first in their file systems and then on the devices themselves.
fn both(machine: &Machine) {
    machine.follow(FILESYSTEMS);
    slow(machine);
    let wanted = [("ioband1", "-1", 80), ("ioband2", "-1", 40)];
    let files = [machine.folder("mnt1").join("database"), machine.folder("mnt2").join("pages")];
    let readers = files.iter().map(|file| reader(file, "")).collect();
    machine.assert_shares(&wanted);
    end(readers);
    machine.follow("# umount /mnt1\n# umount /mnt2");
    let readers = ["ioband1", "ioband2"].map(|device| reader(&machine.image(device), "--rw randrw"));
    machine.assert_shares(&wanted);
    end(readers.into());
}

/// Two loop devices with one device id are the two partitions of /dev/sda.
fn partitions() {
    let machine = Machine::new(Program::Ioband, &["/dev/sda1", "/dev/sda2"]);
    machine.follow(CREATE);
    both(&machine);
}

/// A loop device each is in the place of a logical volume: pvcreate, vgcreate and lvcreate are the device-mapper's, without
/// which this is to work. What they are on below, striped or not, neither dm-ioband nor ioband gets to see.
fn logical_volumes() {
    let machine = Machine::new(Program::Ioband, &["/dev/mapper/vg0-lv0", "/dev/mapper/vg0-lv1"]);
    machine.follow(
        r#"
# echo "0 $(blockdev --getsize /dev/mapper/vg0-lv0)" \
    "ioband /dev/mapper/vg0-lv0 1 0 0 none weight 0 :80" | \
    dmsetup create ioband1
# echo "0 $(blockdev --getsize /dev/mapper/vg0-lv1)" \
    "ioband /dev/mapper/vg0-lv1 1 0 0 none weight 0 :40" | \
    dmsetup create ioband2
"#,
    );
    both(&machine);
}

/// The volumes of the example made by ioband itself: images of which every other MiB of one disk is. They share by their
/// names, so that there is one ioband device for both.
fn striped() {
    let stripes = |first: u32| {
        let extents = (0..32).map(|n| format!("{{offset: {}MiB, size: 1MiB}}", first + 2 * n));
        extents.collect::<Vec<_>>().join(", ")
    };
    let config = format!(
        "devices: {{ioband1: {{path: /dev/sdb}}}}\nimages:\n  lv0: {{device: ioband1, extents: [{}]}}\n  lv1: {{device: \
         ioband1, extents: [{}]}}\n",
        stripes(0),
        stripes(1)
    );
    let machine = Machine::with(Program::Ioband, &["/dev/sdb"], &config);
    machine.follow(
        "# dmsetup message ioband1 0 type image\n\
         # dmsetup message ioband1 0 attach lv0\n\
         # dmsetup message ioband1 0 weight lv0:80\n\
         # dmsetup message ioband1 0 attach lv1\n\
         # dmsetup message ioband1 0 weight lv1:40\n\
         # dmsetup table\n\
         ioband1: 0 131072 ioband <sdb> 1 0 0 image weight 2048 :100 lv0:80 lv1:40\n",
    );
    slow(&machine);
    let readers = ["lv0", "lv1"].map(|image| reader(&machine.image(image), ""));
    machine.assert_shares(&[("ioband1", "lv0", 80), ("ioband1", "lv1", 40)]);
    end(readers.into());
}

/// (The full stop behind the document's `type user.` ends its sentence and no command line.)
fn processes() {
    let machine = Machine::new(Program::Ioband, &["/dev/sda1", "/dev/sda2"]);
    machine.follow(CREATE);
    machine.follow("# chmod 666 /dev/mapper/ioband2");
    slow(&machine);
    let mut readers = vec![
        reader(&machine.image("ioband1"), ""),
        reader(&machine.image("ioband2"), ""),
        reader(&machine.image("ioband2"), "--uid 1000"),
    ];
    machine.assert_shares(&[("ioband1", "-1", 80), ("ioband2", "-1", 40)]);
    machine.follow(
        "# dmsetup message ioband2 0 type user\n\
         # dmsetup message ioband2 0 attach 1000\n\
         # dmsetup message ioband2 0 weight 1000:20\n\
         # dmsetup table\n\
         ioband1: 0 131072 ioband <sda1> 1 0 0 none weight 2048 :80\n\
         ioband2: 0 131072 ioband <sda2> 1 0 0 user weight 2048 :40 1000:20\n",
    );
    machine.assert_shares(&[("ioband1", "-1", 80), ("ioband2", "-1", 40), ("ioband2", "1000", 20)]);
    // Whoever leaves his share to the others leaves it in proportion.
    end(vec![readers.remove(0)]);
    machine.assert_shares(&[("ioband2", "-1", 40), ("ioband2", "1000", 20)]);
    end(readers);
}
