//! What is done and not answered is asked for again: each operation is cut off at every call that writes to the ledger, by a
//! process that dies there, and sent again to a successor. That has to answer as if nothing had happened, and to have done it
//! once.

use super::face::Face;
use super::handles::Handle;
use super::kept::CONVERSATION;
use super::metadata::Metadata;
use super::open_files::{Opener, What};
use super::relay::{Init, MESSAGE, Relay, Route};
use super::tree::{CONTROL_DIR, Node, Tree};
use super::wire::{AGAIN, InHeader, OutHeader, opcode, parse};
use crate::classify::{Callers, Identity, Wants};
use crate::config::load_bytes;
use crate::control::tests::Nowhere;
use crate::control::{Asked, Control, ControlFile, Events, Journal, Setting};
use crate::ledger::Ledger;
use fuser::{FileHandle, INodeNo, SessionACL};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use zerocopy::IntoBytes;

const CONFIG: &str = "devices: {d: {path: /disk, type: user}}\nimages: {}\n";
/// A thread that there is not, so that nobody finds it killed.
const NOBODY: u32 = 0x7fff_fff0;

fn metadata(face: &Arc<Face>) -> Metadata {
    Metadata { face: face.clone(), largest: 1 << 20, over_io_uring: false }
}

/// What the kernel says first.
fn init() -> [u32; 16] {
    let mut init = [0; 16];
    init[..4].copy_from_slice(&[7, 40, 1 << 20, !(1 << 30)]);
    init
}

fn header(opcode: u32, unique: u64, nodeid: u64, body: usize) -> InHeader {
    InHeader {
        len: (size_of::<InHeader>() + body) as u32,
        opcode,
        unique,
        nodeid,
        uid: 0,
        gid: 0,
        pid: NOBODY,
        total_extlen: 0,
        padding: 0,
    }
}

/// One process that serves, and the kernel at its other end.
struct Process {
    ledger: Arc<Ledger>,
    face: Arc<Face>,
    kernel: OwnedFd,
}

impl Process {
    /// The first one, or the successor of whoever had this ledger.
    fn new(ledger: Ledger) -> Self {
        let ledger = Arc::new(ledger);
        let journal = Arc::new(Journal::new(ledger.clone()).unwrap());
        let nowhere = Nowhere::with(&["/disk"]);
        let text = journal.carried().text.unwrap_or_else(|| CONFIG.to_owned());
        let plan = load_bytes(text.as_bytes(), "control.yaml", &nowhere.defaults, &nowhere).unwrap();
        let events = Arc::new(Events::default());
        events.keep_in(ledger.clone()).unwrap();
        let control = Arc::new(Control::new(events, journal, plan.clone(), &text));
        control.put_in_force_by(Arc::new(nowhere));
        let tree = Tree::new(plan.control.clone(), vec!["d".into()], Vec::new(), Vec::new()).unwrap();
        let callers = Callers::new(Wants::default()).unwrap();
        let face = Arc::new(Face::new((0, 0), tree, control.clone(), callers).unwrap());
        control.begin(plan);
        face.go_on().unwrap();
        let metadata = metadata(&face);
        let (kernel, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        std::thread::spawn(move || {
            let session =
                fuser::Session::from_fd(metadata, theirs, SessionACL::All, fuser::Config::default());
            let _ = session.and_then(fuser::Session::run);
        });
        let process = Self { ledger, face, kernel };
        process.ask(opcode::INIT, 2, 0, init().as_bytes()).unwrap();
        process
    }

    /// Whoever goes on with what this one has left.
    fn successor(self) -> Self {
        let ledger = self.ledger.descriptor().try_clone_to_owned().unwrap();
        Self::new(Ledger::inherit(ledger).unwrap())
    }

    /// Sends a request; its answer, or its errno.
    fn ask(&self, opcode: u32, unique: u64, nodeid: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let message = [header(opcode, unique, nodeid, body.len()).as_bytes(), body].concat();
        send(self.kernel.as_raw_fd(), &message, MsgFlags::empty()).unwrap();
        let mut answer = vec![0; 256 << 10];
        let len = recv(self.kernel.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
        answer.truncate(len);
        assert_eq!(u64::from_ne_bytes(answer[8..16].try_into().unwrap()), unique);
        match i32::from_ne_bytes(answer[4..8].try_into().unwrap()) {
            0 => Ok(answer.split_off(16)),
            errno => Err(-errno),
        }
    }

    fn send(&self, op: &Op, unique: u64) -> Result<Vec<u8>, i32> {
        let (opcode, nodeid, body) = op.message(self);
        let answer = self.ask(opcode, unique, nodeid, &body)?;
        Ok(op.essence(&answer))
    }

    /// All that can be seen of it.
    fn sight(&self) -> String {
        let scratch = self.face.scratch.all();
        let scratch: Vec<_> = scratch
            .iter()
            .map(|(name, file)| format!("{name} {}: {}", file.ino, String::from_utf8_lossy(&file.content())))
            .collect();
        let open = self.face.open_files.entries();
        let open: Vec<_> = open.iter().map(|(fh, what)| format!("{fh:?} {what:?}")).collect();
        let texts = [ControlFile::Yaml, ControlFile::Table].map(|file| self.face.control.text(file));
        format!("{scratch:#?}\n{open:#?}\n{texts:#?}")
    }
}

/// What is asked for. An open file is named by the number of the request that opened it.
#[derive(Clone, Debug)]
enum Op {
    Open(Node, i32),
    Create(&'static str),
    Mknod(&'static str),
    Unlink(&'static str),
    Rename(&'static str, &'static str),
    Write(u64, Option<u64>, &'static str),
    Read(u64),
    Flush(u64),
    Fsync(u64),
    Release(u64),
    Truncate(u64, u64),
    Fallocate(u64),
    Seek(u64),
}

impl Op {
    fn message(&self, process: &Process) -> (u32, u64, Vec<u8>) {
        let fh = |unique: u64| {
            let asked = Asked { unique, again: true, uid: 0 };
            process.face.open_files.opened_by(asked).map_or(u64::MAX, |(FileHandle(fh), _)| fh)
        };
        let words = |words: &[u32]| words.as_bytes().to_vec();
        let long = |number: u64| [number as u32, (number >> 32) as u32];
        let name = |mut body: Vec<u8>, names: &[&str]| {
            names.iter().for_each(|name| body.extend(name.bytes().chain([0])));
            body
        };
        let file = |unique: u64, rest: &[u32]| {
            let [low, high] = long(fh(unique));
            words(&[&[low, high], rest].concat())
        };
        let dir = CONTROL_DIR.0;
        match self {
            Op::Open(node, flags) => (14, node.ino().0, words(&[*flags as u32, 0])),
            Op::Create(new) => (35, dir, name(words(&[libc::O_RDWR as u32, 0o100_600, 0, 0]), &[new])),
            Op::Mknod(new) => (8, dir, name(words(&[0o100_600, 0, 0, 0]), &[new])),
            Op::Unlink(old) => (10, dir, name(Vec::new(), &[old])),
            Op::Rename(old, new) => {
                let [low, high] = long(dir);
                (45, dir, name(words(&[low, high, libc::RENAME_NOREPLACE, 0]), &[old, new]))
            }
            Op::Write(unique, at, text) => {
                let [low, high] = long(at.unwrap_or_default());
                let flags = if at.is_none() { libc::O_APPEND } else { 0 } as u32;
                let head = file(*unique, &[low, high, text.len() as u32, 0, 0, 0, flags, 0]);
                (16, dir, [&head, text.as_bytes()].concat())
            }
            Op::Read(unique) => (15, dir, file(*unique, &[0, 0, 100, 0, 0, 0, 0, 0])),
            Op::Flush(unique) => (25, dir, file(*unique, &[0, 0, 0, 0])),
            Op::Fsync(unique) => (20, dir, file(*unique, &[0, 0])),
            Op::Release(unique) => (18, dir, file(*unique, &[0, 0, 0, 0])),
            Op::Fallocate(unique) => (43, LOST, file(*unique, &[0, 0, 512, 0, 0, 0])),
            Op::Seek(unique) => (46, LOST, file(*unique, &[0, 0, libc::SEEK_DATA as u32, 0])),
            Op::Truncate(unique, size) => {
                let scratch = process.face.scratch.all();
                let ino = scratch.first().map_or(YAML.ino().0, |(_, file)| file.ino.0);
                let [low, high] = long(*size);
                const SIZE_AND_FH: u32 = 1 << 3 | 1 << 6;
                let mut body = vec![SIZE_AND_FH, 0];
                body.extend(long(fh(*unique)));
                body.extend([low, high]);
                body.resize(22, 0);
                (4, ino, words(&body))
            }
        }
    }

    /// Of an answer what does not depend on when it was asked.
    fn essence(&self, answer: &[u8]) -> Vec<u8> {
        match self {
            // The inode number, and the open file.
            Op::Create(_) => [&answer[..8], &answer[128..]].concat(),
            Op::Mknod(_) => answer[..8].to_vec(),
            Op::Truncate(..) => Vec::new(),
            _ => answer.to_vec(),
        }
    }
}

/// Numbers of requests.
const FIRST: u64 = 100;
const LAST: u64 = 1000;

fn begin(before: &[Op]) -> Process {
    let process = Process::new(Ledger::new().unwrap());
    for (unique, op) in (FIRST..).step_by(2).zip(before) {
        process.send(op, unique).unwrap_or_else(|errno| panic!("{op:?}: {errno}"));
    }
    process
}

/// Does `op` after `before`, once by a process that lives, and once for each call by one that is killed there. What is sent
/// again, and what is seen then, must be the same as if there had been no death.
fn same_whenever_it_dies(before: &[Op], op: &Op) {
    let whole = begin(before);
    let answer = whole.send(op, LAST);
    let sight = whole.sight();
    // And once more, when all was done and nothing answered.
    let heir = whole.successor();
    assert_eq!(heir.send(op, LAST | AGAIN), answer, "{op:?} when it was done");
    assert_eq!(heir.sight(), sight, "{op:?} when it was done");
    for calls in 0.. {
        assert!(calls < 1000, "{op:?} never ends to write");
        let process = begin(before);
        process.ledger.cut_after(calls);
        let _ = process.send(op, LAST);
        // Events are written down by whoever comes first.
        let all = !process.ledger.was_cut();
        let heir = process.successor();
        assert_eq!(heir.send(op, LAST | AGAIN), answer, "{op:?} after {calls} calls");
        assert_eq!(heir.sight(), sight, "{op:?} after {calls} calls");
        if all {
            return;
        }
    }
}

/// The inode number of an image that is not there.
const LOST: u64 = 1 << 62 | 1;

const CTL: Node = Node::ControlFile(ControlFile::Ctl);
const YAML: Node = Node::ControlFile(ControlFile::Yaml);
const OTHER: &str = "devices: {d: {path: /disk, type: gid}}\nimages: {}\n";

#[test]
fn files_are_made_opened_and_closed_once() {
    same_whenever_it_dies(&[], &Op::Create("a"));
    same_whenever_it_dies(&[], &Op::Mknod("a"));
    same_whenever_it_dies(&[Op::Create("a")], &Op::Create("a"));
    same_whenever_it_dies(&[], &Op::Open(YAML, libc::O_RDWR));
    same_whenever_it_dies(&[], &Op::Open(CTL, libc::O_RDWR));
    same_whenever_it_dies(&[Op::Open(CTL, libc::O_RDWR)], &Op::Open(CTL, libc::O_RDWR));
    same_whenever_it_dies(&[Op::Open(CTL, libc::O_RDWR)], &Op::Release(FIRST));
}

#[test]
fn files_are_renamed_and_removed_once() {
    let made = [Op::Create("a"), Op::Write(FIRST, Some(0), "text")];
    same_whenever_it_dies(&made, &Op::Rename("a", "b"));
    same_whenever_it_dies(&made, &Op::Unlink("a"));
    same_whenever_it_dies(&made, &Op::Unlink("none"));
    // Nobody has it open, so its content goes with its name.
    let closed = [&made[..], &[Op::Release(FIRST)]].concat();
    same_whenever_it_dies(&closed, &Op::Unlink("a"));
    same_whenever_it_dies(&made, &Op::Rename("control.yaml", "copy"));
    same_whenever_it_dies(&[Op::Unlink("control.yaml")], &Op::Create("control.yaml"));
}

#[test]
fn bytes_are_written_once() {
    let made = [Op::Create("a"), Op::Write(FIRST, Some(0), "one, ")];
    same_whenever_it_dies(&made, &Op::Write(FIRST, None, "two"));
    same_whenever_it_dies(&made, &Op::Write(FIRST, Some(9), "three"));
    same_whenever_it_dies(&made, &Op::Truncate(FIRST, 2));
    same_whenever_it_dies(&made, &Op::Truncate(FIRST, 20));
    same_whenever_it_dies(&[Op::Open(YAML, libc::O_RDWR)], &Op::Write(FIRST, None, "# more\n"));
}

#[test]
fn a_configuration_is_put_in_force_once() {
    let written = [Op::Open(YAML, libc::O_WRONLY | libc::O_TRUNC), Op::Write(FIRST, Some(0), OTHER)];
    same_whenever_it_dies(&written, &Op::Flush(FIRST));
    same_whenever_it_dies(&written, &Op::Fsync(FIRST));
    let refused = [Op::Open(YAML, libc::O_WRONLY | libc::O_TRUNC), Op::Write(FIRST, Some(0), "nonsense")];
    same_whenever_it_dies(&refused, &Op::Fsync(FIRST));
    let beside = [Op::Unlink("control.yaml"), Op::Create("a"), Op::Write(FIRST + 2, Some(0), OTHER)];
    same_whenever_it_dies(&beside, &Op::Rename("a", "control.yaml"));
}

#[test]
fn a_configuration_that_is_cut_off_or_filled_up_is_one_that_was_written() {
    let open = Op::Open(YAML, libc::O_RDWR);
    let len = CONFIG.len() as u64;
    let cut = [open.clone(), Op::Truncate(FIRST, len - 1)];
    same_whenever_it_dies(&cut, &Op::Flush(FIRST));
    let process = begin(&cut);
    assert!(process.send(&Op::Flush(FIRST), LAST).is_ok());
    assert_eq!(process.face.control.yaml().0.as_bytes(), &CONFIG.as_bytes()[..CONFIG.len() - 1]);
    // Zeroes are no configuration.
    let process = begin(&[open, Op::Truncate(FIRST, len + 1)]);
    assert_eq!(process.send(&Op::Flush(FIRST), LAST), Err(libc::EINVAL));
}

/// Whoever begins to watch the configuration on disk leaves it alone if it was seen: then what it says must run.
#[test]
fn an_edit_on_disk_was_seen_when_it_is_in_force() {
    for calls in 0.. {
        assert!(calls < 1000, "it never ends to write");
        let process = begin(&[]);
        process.ledger.cut_after(calls);
        let _ = process.face.control.take_from_disk(OTHER.as_bytes(), "config.yaml");
        let all = !process.ledger.was_cut();
        let heir = process.successor();
        let runs = *heir.face.control.yaml().0 == *OTHER;
        assert_eq!(heir.face.control.has_seen(OTHER.as_bytes()), runs, "after {calls} calls");
        if all {
            assert!(runs);
            return;
        }
    }
}

#[test]
fn a_command_is_carried_out_once_and_its_answer_is_read_once() {
    let open = Op::Open(CTL, libc::O_RDWR);
    let attach = "message d 0 attach 7\n";
    same_whenever_it_dies(std::slice::from_ref(&open), &Op::Write(FIRST, Some(0), attach));
    same_whenever_it_dies(std::slice::from_ref(&open), &Op::Write(FIRST, Some(0), "message d 0 att"));
    let half = [open.clone(), Op::Write(FIRST, Some(0), "message d 0 att")];
    same_whenever_it_dies(&half, &Op::Write(FIRST, Some(0), "ach 7\n"));
    same_whenever_it_dies(&half, &Op::Read(FIRST));
    let whole = [open.clone(), Op::Write(FIRST, Some(0), "message d 0 attach 7")];
    same_whenever_it_dies(&whole, &Op::Read(FIRST));
    same_whenever_it_dies(&[open], &Op::Write(FIRST, Some(0), "remove d\n"));
}

#[test]
fn a_refused_command_has_its_reason_to_be_read_by_pieces() {
    let process = begin(&[Op::Open(CTL, libc::O_RDWR)]);
    let refused = process.send(&Op::Write(FIRST, Some(0), "remove none\n"), LAST);
    assert_eq!(refused, Err(libc::ENXIO));
    let heir = process.successor();
    assert_eq!(heir.send(&Op::Write(FIRST, Some(0), "remove none\n"), LAST | AGAIN), refused);
    let first = heir.send(&Op::Read(FIRST), LAST + 2).unwrap();
    assert!(!first.is_empty());
    let heir = heir.successor();
    // The same piece again, and then the next one, which is the end.
    assert_eq!(heir.send(&Op::Read(FIRST), (LAST + 2) | AGAIN).unwrap(), first);
    let rest = heir.send(&Op::Read(FIRST), LAST + 4).unwrap();
    assert!(rest.len() < 100 && rest != first);
}

#[test]
fn a_setting_is_written_once() {
    let setting = Node::Setting("d".into(), Setting::Groups);
    let open = Op::Open(setting, libc::O_WRONLY);
    same_whenever_it_dies(std::slice::from_ref(&open), &Op::Write(FIRST, Some(0), "+7:30 +8"));
    same_whenever_it_dies(&[open], &Op::Write(FIRST, Some(0), "-9"));
}

#[test]
fn what_is_open_and_has_no_name_is_there_with_a_successor() {
    let process = begin(&[
        Op::Create("a"),
        Op::Write(FIRST, Some(0), "nameless"),
        Op::Unlink("a"),
        Op::Create("b"),
        Op::Unlink("b"),
        Op::Release(FIRST + 6),
    ]);
    let heir = process.successor();
    assert_eq!(heir.send(&Op::Read(FIRST), LAST).unwrap(), b"nameless");
    assert!(heir.face.scratch.all().is_empty());
    // Number 1 was "a", 2 was "b": neither is given to another one.
    let made = heir.send(&Op::Create("c"), LAST + 2).unwrap();
    let ino = u64::from_ne_bytes(made[..8].try_into().unwrap());
    assert!(heir.face.node(INodeNo(ino)).is_some() && ino & 0xff == 3, "{ino:x}");
}

/// What is not done must not be said to be done, least of all that data are safe.
#[test]
fn an_image_that_is_lost_fails_whatever_is_asked_of_it() {
    let process = begin(&[]);
    let opener = Opener::from(&Identity::from_ids(0, 0));
    let asked = Asked { unique: FIRST, ..Asked::default() };
    process.face.open_files.add(asked, What::Image { ino: LOST, opener }, |_| Handle::Lost).unwrap();
    let heir = process.successor();
    let all = [
        Op::Read(FIRST),
        Op::Write(FIRST, Some(0), "text"),
        Op::Fsync(FIRST),
        Op::Fallocate(FIRST),
        Op::Seek(FIRST),
    ];
    for (unique, op) in (LAST..).step_by(2).zip(all) {
        assert_eq!(heir.send(&op, unique), Err(libc::EIO), "{op:?}");
    }
    assert!(heir.send(&Op::Flush(FIRST), LAST + 20).is_ok());
    assert!(heir.send(&Op::Release(FIRST), LAST + 22).is_ok());
    assert_eq!(heir.send(&Op::Fsync(FIRST), LAST + 24), Err(libc::EBADF));
    assert!(heir.send(&Op::Flush(FIRST), LAST + 26).is_ok());
}

#[test]
fn who_holds_too_much_is_refused_commands_until_he_lets_go() {
    /// Beside the conversation itself.
    const MOST: usize = (64 << 20) - CONVERSATION;
    let process = begin(&[]);
    let asked = |unique| Asked { unique, uid: 1001, again: false };
    process.face.open_control(ControlFile::Ctl, fuser::OpenFlags(libc::O_RDWR), asked(FIRST)).unwrap();
    let text = |bytes| move |_| Handle::Text(vec![0; bytes]);
    let what = || What::Text { ino: 1 };
    let (large, _) = process.face.opened(asked(FIRST + 2), what(), text(MOST)).unwrap();
    let attach = |text| Op::Write(FIRST, Some(0), text);
    assert_eq!(process.send(&attach("message d 0 att"), LAST), Err(libc::ENOSPC));
    process.face.close(large);
    assert!(process.send(&attach("save"), LAST + 2).is_ok());
    let (large, _) = process.face.opened(asked(FIRST + 4), what(), text(MOST - "save".len())).unwrap();
    assert_eq!(process.send(&Op::Read(FIRST), LAST + 4), Err(libc::ENOSPC));
    process.face.close(large);
    assert!(process.send(&Op::Read(FIRST), LAST + 6).is_ok());
}

#[test]
fn conversations_count_for_what_the_ledger_keeps_of_them() {
    let process = begin(&[]);
    let open = |flags, unique| {
        let asked = Asked { unique, uid: 1001, again: false };
        process.face.open_control(ControlFile::Ctl, fuser::OpenFlags(flags), asked)
    };
    let most = (64 << 20) / CONVERSATION as u64;
    assert!((0..most).all(|n| open(libc::O_RDWR, FIRST + 2 * n).is_ok()));
    assert_eq!(open(libc::O_RDWR, FIRST + 2 * most).unwrap_err().code(), libc::ENFILE);
    // Who only reads has nothing to say, and nothing to be kept.
    assert!(open(libc::O_RDONLY, FIRST + 2 * most).is_ok());
}

#[test]
fn an_open_that_is_refused_has_changed_nothing() {
    let process = begin(&[Op::Create("a"), Op::Write(FIRST, Some(0), "text")]);
    let files = &process.face.open_files;
    let text = |unique| {
        let asked = Asked { unique, ..Asked::default() };
        files.add(asked, What::Text { ino: 1 }, |_| Handle::Text(Vec::new()))
    };
    assert!((LAST..).step_by(2).any(|unique| text(unique).is_err()), "there is room for all");
    let before = process.sight();
    let made = process.face.scratch.named("a").unwrap();
    let emptied = Op::Open(Node::Scratch(made), libc::O_WRONLY | libc::O_TRUNC);
    assert_eq!(process.send(&emptied, FIRST + 10), Err(libc::ENFILE));
    assert_eq!(process.send(&Op::Create("b"), FIRST + 12), Err(libc::ENFILE));
    assert!(process.sight() == before);
    assert!(process.successor().face.scratch.named("b").is_none());
}

#[test]
fn what_cannot_be_passed_on_to_fuser_is_answered_with_an_error() {
    let process = begin(&[]);
    let first = [header(opcode::INIT, 2, 0, 64).as_bytes(), init().as_bytes()].concat();
    let first = Init::saved(first).unwrap();
    let relay = Relay::start(None, &first, metadata(&process.face), SessionACL::All).unwrap();
    // Larger than any message of a socket.
    relay.forward(header(opcode::RELEASE, LAST, 1, 0), &[], &vec![0; 64 << 20], Route::Thread(3));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut message = vec![0; MESSAGE];
        let route = relay.answer(&mut message).map(|(_, route)| route);
        let _ = tell.send((route.unwrap(), parse::<OutHeader>(&message).unwrap().error));
    });
    let answer = told.recv_timeout(std::time::Duration::from_secs(60)).expect("an answer");
    assert_eq!(answer, (Some((Route::Thread(3), LAST)), -libc::EIO));
}
