//! What is refused: with which errno, with which sentence, and with nothing changed by it. Through `ctl` itself and by the
//! command, which says the same sentence. Commands stand here as `ctl` takes them.

use super::machine::{MACHINE, Machine, Program};
use crate::alone::Said;
use crate::daemon::ioband;
use crate::support::trial;
use libtest_mimic::Trial;
use std::fs::File;
use std::io::{Read, Write};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "document: every refusal has its errno and its sentence and changes nothing",
        MACHINE,
        refusals,
    )]
}

fn refusals() {
    let machine = Machine::new(Program::Ioband, &["/dev/sda1", "/dev/sda2", "/dev/sdb"]);
    machine.follow(
        r#"
# echo "0 $(blockdev --getsize /dev/sda1) ioband /dev/sda1 1 4 64" \
    "user weight 0 :40 1000:30" | dmsetup create ioband1
# echo "0 $(blockdev --getsize /dev/sda2) ioband /dev/sda2 1 0 0" \
    "none weight 0 :10" | dmsetup create ioband2
"#,
    );
    let mount = machine.mount();
    let open = File::open(machine.image("ioband2")).expect("an image");
    let before = ["table", "status", "control.yaml"].map(|name| mount.control(name));
    let of = |errno, all: &'static [(&str, &str)]| all.iter().map(move |said| (errno, said));
    let all = of(libc::EINVAL, EINVAL).chain(of(libc::EEXIST, EEXIST)).chain(of(libc::EBUSY, EBUSY));
    for (errno, (command, sentence)) in all.chain(of(libc::ENXIO, ENXIO)) {
        let (command, sentence) = (machine.name(command), machine.name(sentence));
        let mut ctl =
            File::options().read(true).write(true).open(mount.file(".ioband/ctl")).expect("a control file");
        let error = ctl.write_all(format!("{command}\n").as_bytes()).expect_err(&command);
        assert_eq!(error.raw_os_error(), Some(errno), "{command}");
        let mut said = String::new();
        ctl.read_to_string(&mut said).expect("a sentence");
        assert_eq!(said, format!("{sentence}\n"), "{command}");

        let words: Vec<_> = command.split(' ').collect();
        let table = words[2..].join(" ");
        let args = match words[0] {
            "create" => vec!["create", words[1], "--table", &table],
            _ => words,
        };
        let args = [&args[..], &["--mountpoint", "vmdisk"]].concat();
        let said = Said::from(&ioband(mount.folder(), &args));
        assert_eq!((said.status, &*said.out), (Some(1), ""), "{command}");
        assert_eq!(said.err, format!("ioband: {sentence}\n"), "{command}");
        assert_eq!(["table", "status", "control.yaml"].map(|name| mount.control(name)), before, "{command}");
    }
    drop(open);
}

/// What makes no sense.
const EINVAL: &[(&str, &str)] = &[
    (
        "message ioband1 0 frob",
        "there is no message `frob`; known here: `type`, `attach`, `detach`, `weight`, `token`, `io_throttle`, `io_limit`, \
         `policy`, `range-bw`, `reset`, `reopen`, `max_bandwidth`, `bandwidth_burst`, `max_iops`, `iops_burst` and `simulate`",
    ),
    (
        "message ioband1 0 wieght 40",
        "there is no message `wieght`; did you mean `weight`? Known here: `type`, `attach`, `detach`, `weight`, `token`, `io_throttle`, `io_limit`, \
         `policy`, `range-bw`, `reset`, `reopen`, `max_bandwidth`, `bandwidth_burst`, `max_iops`, `iops_burst` and `simulate`",
    ),
    ("message ioband1 0 weight", "`weight` says nothing; write `weight ID:WEIGHT`"),
    ("message ioband1 0 weight 40 50", "`50` is one word too many for `weight`; write `weight ID:WEIGHT`"),
    ("message ioband1 0 reset now", "`now` is one word too many for `reset`; write `reset`"),
    (
        "message ioband1 0 weight 0",
        "the weight is `0`, which is outside 1 to 32767; write a whole number from 1 to 32767",
    ),
    (
        "message ioband1 0 weight 32768",
        "the weight is `32768`, which is outside 1 to 32767; write a whole number from 1 to 32767",
    ),
    (
        "message ioband1 0 weight 1000:0",
        "the weight is `0`, which is outside 1 to 32767; write a whole number from 1 to 32767",
    ),
    (
        "message ioband1 0 weight 1000:32768",
        "the weight is `32768`, which is outside 1 to 32767; write a whole number from 1 to 32767",
    ),
    (
        "message ioband1 0 weight heavy",
        "the weight is `heavy`, which is not a whole number; write a whole number from 1 to 32767",
    ),
    (
        "message ioband1 0 weight 2000:10",
        "device `ioband1` has no group `2000`; it has `1000`, and `attach` makes one",
    ),
    (
        "message ioband1 0 detach 2000",
        "device `ioband1` has no group `2000`; it has `1000`, and `attach` makes one",
    ),
    (
        "message ioband1 0 detach -1",
        "-1 stands for the default group, which is always there; it cannot be detached",
    ),
    (
        "message ioband1 0 attach -1",
        "-1 stands for the default group, which is always there; attach another id",
    ),
    (
        "message ioband1 0 attach no-such-user",
        "the group `no-such-user` is no user of this machine; `getent passwd` lists the users; a number is always understood",
    ),
    (
        "message ioband2 0 attach 1000",
        "device `ioband2` has type none, and so no groups but the default group; give it a type, such as user, first",
    ),
    (
        "message ioband2 0 weight 1000:10",
        "device `ioband2` has type none, and so no groups but the default group; give it a type, such as user, first",
    ),
    (
        "message ioband2 0 detach 1000",
        "device `ioband2` has type none, and so no groups but the default group; give it a type, such as user, first",
    ),
    (
        "message ioband1 0 type frob",
        "the type is `frob`, which is no group type; known here: `none`, `user`, `gid`, `pid`, `pgrp`, `cgroup` and `image`",
    ),
    (
        "message ioband1 0 policy frob",
        "the policy is `frob`, which is no policy; known here: `weight`, `weight-iosize` and `range-bw`",
    ),
    (
        "message ioband1 0 io_limit 3",
        "io_limit would be 3, below io_throttle, which would be 4; let io_limit be at least 4, or 0 for automatic",
    ),
    (
        "message ioband2 0 io_throttle 65",
        "io_limit would be 64, below io_throttle, which would be 65; let io_limit be at least 65, or 0 for automatic",
    ),
    (
        "message ioband1 0 io_limit many",
        "io_limit is `many`, which is not a whole number; write a whole number of requests up to 65535, or 0 for automatic",
    ),
    (
        "message ioband1 0 token many",
        "the token base is `many`, which is not a whole number; write a whole number from 1 to 1000000, or 0 for the default, 2048",
    ),
    (
        "message ioband1 0 range-bw 1000:10:20",
        "device `ioband1` has the policy weight, which knows no minima and maxima; send it `policy range-bw` first",
    ),
    (
        "message ioband1 0 range-bw 1000:20:10",
        "the minimum of group `1000` is 20 KB/s, above its maximum, 10 KB/s; write the smaller one first, or 0 for no maximum",
    ),
    (
        "message ioband1 0 simulate fast",
        "`fast` says not how slow; write `simulate IOPS:BANDWIDTH:PARALLEL`, such as 2000:100MiB:1, or `simulate none`",
    ),
    ("message ioband1 8 reset", "the sector of a message is 0, not `8`: message ioband1 0 …"),
    (
        "create ioband3 0 131072 ioband /dev/null 2 0 0 none weight 0 :10",
        "`/dev/null` is a character device; behind a device is a block device or a regular file",
    ),
    (
        "create ioband3 0 131073 ioband /dev/sdb 2 0 0 none weight 0 :10",
        "`/dev/sdb` has 131072 sectors, less than 131073; write at most that as the length",
    ),
    (
        "create ioband3 8 131072 ioband /dev/sdb 2 0 0 none weight 0 :10",
        "a table starts at sector 0, not at `8`; write START LENGTH ioband DEVICE DEVICE_ID IO_THROTTLE IO_LIMIT TYPE POLICY TOKEN_BASE :WEIGHT [ID:WEIGHT ...]",
    ),
    (
        "create ioband3 0 131072 linear /dev/sdb 2 0 0 none weight 0 :10",
        "there is no target `linear` here; write `ioband`",
    ),
    (
        "create ioband3 0 131072 ioband /dev/sdb 2 0 0 frob weight 0 :10",
        "the type is `frob`, which is no group type; known here: `none`, `user`, `gid`, `pid`, `pgrp`, `cgroup` and `image`",
    ),
    (
        "create ioband3 0 131072 ioband /dev/sdb 2 0 0 none frob 0 :10",
        "the policy is `frob`, which is no policy; known here: `weight`, `weight-iosize` and `range-bw`",
    ),
    (
        "create ioband3 0 131072 ioband /dev/sdb 2 0 0 none weight 0 :0",
        "the weight is `0`, which is outside 1 to 32767; write a whole number from 1 to 32767",
    ),
    (
        "create ioband3 0 131072 ioband /dev/sdb 2 0 0 none weight 0 :10 1000:10",
        "device `ioband3` has type none, and so no groups but the default group; give it a type, such as user, first",
    ),
    (
        "create ioband3 0 131072 ioband /dev/sdb 2 0 0 user weight 0 :10 1000:10 1000:20",
        "group `1000` stands twice; keep one of the two",
    ),
    (
        "create ioband3 0 131072 ioband /dev/sdb 2 9 8 none weight 0 :10",
        "io_limit would be 8, below io_throttle, which would be 9; let io_limit be at least 9, or 0 for automatic",
    ),
    (
        "create ioband3 0 131072 ioband /dev/sdb 1 5 0 none weight 0 :10",
        "io_throttle of disk 1, which device `ioband1` is on, is 4, and not 5; write 0 to take what the disk has, or change it first with `message ioband1 0 io_throttle 5`",
    ),
    (
        "create ioband3 0 131072 ioband /dev/sdb 2",
        "the table ends before IO_THROTTLE; write START LENGTH ioband DEVICE DEVICE_ID IO_THROTTLE IO_LIMIT TYPE POLICY TOKEN_BASE :WEIGHT [ID:WEIGHT ...]",
    ),
    (
        "create a/b 0 131072 ioband /dev/sdb 2 0 0 none weight 0 :10",
        "the device name `a/b` is not one file name: it holds a slash; all files are in one folder: write a name without slashes",
    ),
];

/// What is there already.
const EEXIST: &[(&str, &str)] = &[
    (
        "message ioband1 0 attach 1000",
        "device `ioband1` has a group 1000 already; `weight 1000:WEIGHT` changes it",
    ),
    (
        "create ioband1 0 131072 ioband /dev/sdb 2 0 0 none weight 0 :10",
        "`ioband1` is the name of an ioband device already; choose another",
    ),
    (
        "create .ioband 0 131072 ioband /dev/sdb 2 0 0 none weight 0 :10",
        "`.ioband` is the name of the control folder already; choose another",
    ),
];

/// What is in use.
const EBUSY: &[(&str, &str)] = &[
    (
        "message ioband1 0 type pid",
        "device `ioband1` has groups, which are told apart by user; detach them before you change its type",
    ),
    (
        "message ioband1 0 type none",
        "device `ioband1` has groups, which are told apart by user; detach them before you change its type",
    ),
    (
        "remove ioband2",
        "device ioband2 cannot be taken away or become another one while image ioband2 is open (once); end who uses it first (`fuser -v` tells who)",
    ),
    (
        "create ioband3 0 131072 ioband /dev/sda1 2 0 0 none weight 0 :10",
        "`/dev/sda1` is behind device `ioband1` already; remove that, or share it by images",
    ),
];

/// What is not there.
const ENXIO: &[(&str, &str)] = &[
    (
        "message ioband3 0 reset",
        "there is no ioband device `ioband3`; did you mean `ioband1`? Known here: `ioband1` and `ioband2`",
    ),
    (
        "message nothing 0 weight 40",
        "there is no ioband device `nothing`; known here: `ioband1` and `ioband2`",
    ),
    (
        "remove ioband3",
        "there is no ioband device `ioband3`; did you mean `ioband1`? Known here: `ioband1` and `ioband2`",
    ),
    (
        "create ioband3 0 131072 ioband /dev/sdz 2 0 0 none weight 0 :10",
        "there is no `/dev/sdz`; `lsblk` lists the block devices, and a file must be there",
    ),
];
