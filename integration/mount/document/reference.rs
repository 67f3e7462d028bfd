//! Every command line of "Setup", "Getting started" and "Command Reference", in their order, with what it prints: once with
//! `ioband` in the place of `dmsetup`, and once word for word with the shim.
//!
//! The lines that the document does not have look at what the others did, or make what the next of its lines needs.

use super::machine::{MACHINE, Machine, Program};
use crate::support::{Need, trial};
use libtest_mimic::Trial;

pub(super) fn trials() -> Vec<Trial> {
    let needs: Vec<_> = MACHINE.iter().copied().chain([Need::Tool("setpriv")]).collect();
    let trial = |name, program| trial(name, &needs, move || reference(program));
    vec![
        trial("document: the command reference with ioband for dmsetup", Program::Ioband),
        trial("document: the command reference word for word with the shim", Program::Dmsetup),
    ]
}

fn reference(program: Program) {
    let machine = Machine::new(program, &["/dev/sda1", "/dev/sda2", "/dev/sdb3", "/dev/sdb4"]);
    for part in [GETTING_STARTED, CREATE_AND_REMOVE, MESSAGES, TABLE_AND_STATUS] {
        machine.follow(part);
    }
    let here = std::fs::read_dir(machine.folder("mapper")).expect("a folder");
    assert_eq!(here.count(), 0, "links go with their devices");
}

const GETTING_STARTED: &str = r#"
# dmsetup targets
ioband v1.0.0
# dmsetup table
# dmsetup status
# echo "0 $(blockdev --getsize /dev/sda1) ioband /dev/sda1 1 0 0 none" \
    "weight 0 :40" | dmsetup create ioband1
# echo "0 $(blockdev --getsize /dev/sda2) ioband /dev/sda2 1 0 0 none" \
    "weight 0 :10" | dmsetup create ioband2
# stat -L --format '%s %F' /dev/mapper/ioband1 /dev/mapper/ioband2
67108864 regular file
67108864 regular file
# dmsetup table
ioband1: 0 131072 ioband <sda1> 1 0 0 none weight 2048 :40
ioband2: 0 131072 ioband <sda2> 1 0 0 none weight 2048 :10
# dmsetup message ioband1 0 type user
# dmsetup table ioband1
ioband1: 0 131072 ioband <sda1> 1 0 0 user weight 2048 :40
# dmsetup message ioband1 0 attach 1000
# dmsetup message ioband1 0 attach 2000
# dmsetup table ioband1
ioband1: 0 131072 ioband <sda1> 1 0 0 user weight 2048 :40 1000:100 2000:100
# dmsetup message ioband1 0 weight 1000:30
# dmsetup message ioband1 0 weight 2000:20
# dmsetup table
ioband1: 0 131072 ioband <sda1> 1 0 0 user weight 2048 :40 1000:30 2000:20
ioband2: 0 131072 ioband <sda2> 1 0 0 none weight 2048 :10
# dmsetup remove ioband1
# dmsetup table
ioband2: 0 131072 ioband <sda2> 1 0 0 none weight 2048 :10
# dmsetup remove ioband2
# dmsetup table
# ls /dev/mapper
"#;

const CREATE_AND_REMOVE: &str = r#"
# echo "0 $(blockdev --getsize /dev/sda1) ioband" \
    "/dev/sda1 128 10 400 user weight 2048 :100 1000:80 2000:20" \
    | dmsetup create ioband1
# dmsetup table
ioband1: 0 131072 ioband <sda1> 128 10 400 user weight 2048 :100 1000:80 2000:20
# dmsetup remove ioband1
# echo "0 $(blockdev --getsize /dev/sda1) ioband /dev/sda1 1" \
    "0 0 none weight 0 :80" | dmsetup create ioband1
# echo "0 $(blockdev --getsize /dev/sda2) ioband /dev/sda2 1" \
    "0 0 none weight 0 :20" | dmsetup create ioband2
# echo "0 $(blockdev --getsize /dev/sdb3) ioband /dev/sdb3 2" \
    "0 0 none weight 0 :60" | dmsetup create ioband3
# echo "0 $(blockdev --getsize /dev/sdb4) ioband /dev/sdb4 2" \
    "0 0 none weight 0 :40" | dmsetup create ioband4
# dmsetup table
ioband1: 0 131072 ioband <sda1> 1 0 0 none weight 2048 :80
ioband2: 0 131072 ioband <sda2> 1 0 0 none weight 2048 :20
ioband3: 0 131072 ioband <sdb3> 2 0 0 none weight 2048 :60
ioband4: 0 131072 ioband <sdb4> 2 0 0 none weight 2048 :40
# dmsetup remove ioband1
# ls /dev/mapper
ioband2
ioband3
ioband4
# dmsetup remove ioband3
# dmsetup remove ioband4
"#;

/// (The document's line that detaches 1000 from ioband2 needs it there.)
const MESSAGES: &str = r#"
# echo "0 $(blockdev --getsize /dev/sda1) ioband /dev/sda1 1" \
    "0 0 none weight 0 :80" | dmsetup create ioband1
# dmsetup message ioband1 0 type user
# dmsetup table ioband1
ioband1: 0 131072 ioband <sda1> 1 0 0 user weight 2048 :80
# dmsetup message ioband1 0 type user
# dmsetup message ioband1 0 attach 1000
# dmsetup table ioband1
ioband1: 0 131072 ioband <sda1> 1 0 0 user weight 2048 :80 1000:100
# dmsetup message ioband2 0 type user
# dmsetup message ioband2 0 attach 1000
# dmsetup table ioband2
ioband2: 0 131072 ioband <sda2> 1 0 0 user weight 2048 :20 1000:100
# dmsetup message ioband2 0 detach 1000
# dmsetup table ioband2
ioband2: 0 131072 ioband <sda2> 1 0 0 user weight 2048 :20
# dmsetup message ioband1 0 weight 40
# dmsetup message ioband2 0 weight 10
# dmsetup table
ioband2: 0 131072 ioband <sda2> 1 0 0 user weight 2048 :10
ioband1: 0 131072 ioband <sda1> 1 0 0 user weight 2048 :40 1000:100
# dmsetup message ioband1 0 weight 4
# dmsetup message ioband2 0 weight 1
# dmsetup table
ioband2: 0 131072 ioband <sda2> 1 0 0 user weight 2048 :1
ioband1: 0 131072 ioband <sda1> 1 0 0 user weight 2048 :4 1000:100
# dmsetup message ioband1 0 weight 40
# dmsetup message ioband1 0 weight 1000:10
# dmsetup table ioband1
ioband1: 0 131072 ioband <sda1> 1 0 0 user weight 2048 :40 1000:10
# dmsetup message ioband1 0 token 256
# dmsetup table ioband1
ioband1: 0 131072 ioband <sda1> 1 0 0 user weight 256 :40 1000:10
# dmsetup message ioband1 0 io_throttle 16
# dmsetup message ioband1 0 io_limit 128
# dmsetup table
ioband2: 0 131072 ioband <sda2> 1 16 128 user weight 256 :1
ioband1: 0 131072 ioband <sda1> 1 16 128 user weight 256 :40 1000:10
# dmsetup remove ioband1
# dmsetup remove ioband2
"#;

const TABLE_AND_STATUS: &str = r#"
# echo "0 $(blockdev --getsize /dev/sda1) ioband" \
    "/dev/sda1 128 10 400 user weight 2048 :100 1000:80 2000:20" \
    | dmsetup create ioband1
# dmsetup table --target ioband
ioband1: 0 131072 ioband <sda1> 128 10 400 user weight \
2048 :100 1000:80 2000:20
# dmsetup table --target linear
# dmsetup remove ioband1
# echo "0 $(blockdev --getsize /dev/sda2) ioband /dev/sda2 128" \
    "0 0 none weight 0 :100" | dmsetup create ioband2
# echo "0 $(blockdev --getsize /dev/sda1) ioband /dev/sda1 128" \
    "0 0 user weight 0 :100 1001:100 1002:100" | dmsetup create ioband1
# chmod 666 /dev/mapper/ioband1
# dd if=/dev/mapper/ioband2 of=/dev/null iflag=direct bs=4k count=3 status=none
# dd of=/dev/mapper/ioband1 if=/dev/zero oflag=direct bs=512 count=5 conv=notrunc status=none
# setpriv --reuid=1001 --regid=1002 --clear-groups \
    dd if=/dev/mapper/ioband1 of=/dev/null iflag=direct bs=8k count=2 status=none
# setpriv --reuid=1002 --regid=1001 --clear-groups \
    dd of=/dev/mapper/ioband1 if=/dev/zero oflag=direct bs=4k count=7 conv=notrunc status=none
# dmsetup status
ioband2: 0 131072 ioband 128 -1 3 0 24 0 0 0
ioband1: 0 131072 ioband 128 -1 0 0 0 5 0 5 1001 \
2 0 32 0 0 0 1002 0 0 0 7 0 56
# dmsetup status --target ioband
ioband2: 0 131072 ioband 128 -1 3 0 24 0 0 0
ioband1: 0 131072 ioband 128 -1 0 0 0 5 0 5 1001 2 0 32 0 0 0 1002 0 0 0 7 0 56
# dmsetup message ioband1 0 reset
# dmsetup status
ioband2: 0 131072 ioband 128 -1 3 0 24 0 0 0
ioband1: 0 131072 ioband 128 -1 0 0 0 0 0 0 1001 0 0 0 0 0 0 1002 0 0 0 0 0 0
# dmsetup remove ioband1
# dmsetup remove ioband2
# dmsetup status
"#;
