//! Another's image is closed, by whatever way one tries to come to it.

use super::stage::{ATTACKER, VICTIM, as_attacker, attacker, mount};
use crate::daemon::{AS_OTHERS, MOUNT, worker};
use crate::support::trial;
use libtest_mimic::Trial;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("attack: another's image by its name, by other names and by what is open", MOUNT, by_name),
        trial("attack: another's image by its number", AS_OTHERS, by_number),
        trial("attack: the process that serves", MOUNT, by_process),
    ]
}

/// Ways to another's image, none of which may work; `$f` is the image.
const WAYS: [&str; 17] = [
    "head -c 1 $f >/dev/null",
    "exec 3<>$f",
    "exec 3>>$f",
    "dd if=/dev/zero of=$f bs=512 count=1 conv=notrunc 2>&1",
    "truncate -s 0 $f",
    "chmod 0666 $f",
    "chown $(id -u) $f",
    "touch $f",
    "rm -f $f",
    "mv $f mine",
    "mv attacker.img $f",
    "ln $f mine",
    "ln -s $f mine && head -c 1 mine",
    "cp $f /dev/null",
    // What may be had of it without a permission is a descriptor that opens nothing.
    "python3 -c \"import os; fd = os.open('$f', os.O_PATH); os.open('/proc/self/fd/%d' % fd, os.O_RDONLY)\"",
    "python3 -c \"import os; os.setxattr('$f', 'user.x', b'x')\"",
    "python3 -c \"import os; os.link('$f', '/tmp/ioband-attack-' + str(os.getpid()))\"",
];

fn by_name() {
    let mount = mount(100_000, "");
    let victim = File::options().read(true).write(true).open(mount.file("victim.img")).expect("root may");
    victim.write_all_at(b"secret", 0).expect("a write");
    let before = std::fs::metadata(mount.file("victim.img")).expect("an image");
    for way in WAYS {
        let said = as_attacker(&mount, &way.replace("$f", "victim.img"));
        assert!(said.is_err(), "{way}: {said:?}");
    }
    let mut found = [0; 6];
    victim.read_exact_at(&mut found, 0).expect("a read");
    assert_eq!(&found, b"secret");
    let after = std::fs::metadata(mount.file("victim.img")).expect("an image");
    let of = |seen: &std::fs::Metadata| {
        use std::os::unix::fs::MetadataExt;
        (seen.mode(), seen.uid(), seen.len(), seen.mtime_nsec())
    };
    assert_eq!(of(&after), of(&before));
    // That the script can tell: his own image opens.
    as_attacker(&mount, "head -c 1 attacker.img >/dev/null").expect("his own");
    assert_ne!(VICTIM, ATTACKER);
}

/// Inode numbers can be seen and guessed; what opens files by them is not for users.
fn by_number() {
    let mount = mount(100_000, "");
    let script = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
ino = os.stat("victim.img").st_ino
here = os.open(".", os.O_RDONLY)
opened = []
for type in (0x81, 0x82, 1, 2, 0xfe):
    for size in (8, 12, 16):
        handle = Handle(size, type)
        handle.data[0:8] = [ino >> 8 * n & 255 for n in range(8)]
        for n in range(8, 12): handle.data[n] = 0
        fd = libc.open_by_handle_at(here, ctypes.byref(handle), os.O_RDONLY)
        if fd >= 0: opened.append((type, size))
        else: assert ctypes.get_errno() == 1, ctypes.get_errno()
sys.exit(len(opened))
"#;
    let mut command = attacker(&mount, "python3");
    let output = command.args(["-c", script]).uid(ATTACKER).gid(ATTACKER).output().expect("python3");
    assert!(output.status.success(), "{output:?}");
}

/// Its descriptors are those of all devices.
fn by_process() {
    let mount = mount(100_000, "");
    let pid = worker(&mount);
    for file in ["fd", "map_files", "task/$p/fd"] {
        let file = file.replace("$p", &pid.to_string());
        let said = as_attacker(&mount, &format!("ls /proc/{pid}/{file}"));
        assert!(said.is_err(), "{file}: {said:?}");
    }
    for file in
        ["mem", "maps", "environ", "auxv", "syscall", "stack", "root/etc/shadow", "cwd/etc/shadow", "exe"]
    {
        let said = as_attacker(&mount, &format!("head -c 1 /proc/{pid}/{file}"));
        assert!(said.is_err(), "{file}: {said:?}");
    }
    for signal in ["STOP", "KILL", "TERM"] {
        assert!(as_attacker(&mount, &format!("kill -{signal} {pid}")).is_err(), "{signal}");
    }
    assert!(mount.runs());
}
