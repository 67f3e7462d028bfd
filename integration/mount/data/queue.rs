//! Many requests at once from one thread, as virtual machines make them: by io_uring and by libaio.

use super::stage::{Disk, MIB, Place, Stage, assert_same, name, open, seed, unmount};
use super::{IMAGES, Need, needs};
use crate::daemon::Transport;
use crate::support::{Random, trial};
use libtest_mimic::Trial;
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;

pub(super) fn trials(by: Transport) -> Vec<Trial> {
    [Disk::File, Disk::Loop(512), Disk::Loop(4096)]
        .map(|disk| disk.by(by))
        .into_iter()
        .flat_map(|place| {
            let uring = needs(place, &[Need::Uring]);
            [
                trial(&format!("data: 32 requests at once by io_uring, {place:?}"), &uring, move || {
                    at_once(place, Uring::new());
                }),
                trial(
                    &format!("data: 32 requests at once by libaio, {place:?}"),
                    &place.needs(),
                    move || {
                        at_once(place, Aio::new());
                    },
                ),
            ]
        })
        .collect()
}

const DEPTH: usize = 32;
const ROUNDS: usize = 60;
const DISK: u64 = 40 * MIB;

/// One request: which slot it is for, whether it writes, its memory and its place in the file.
pub(super) struct Call {
    slot: usize,
    write: bool,
    memory: *mut u8,
    len: usize,
    at: u64,
}

/// A way to make requests without waiting for them.
pub(super) trait Queue {
    /// # Safety
    /// The memory must stay until `wait` has named the slot.
    unsafe fn submit(&mut self, file: &File, call: Call);

    /// Waits for one; its slot and its result, a count or a negated errno.
    fn wait(&mut self) -> (usize, i64);

    /// Makes a single request and waits for its result.
    fn wait_for(&mut self, file: &File, write: bool, memory: &mut [u8], at: u64) -> i64 {
        let call = Call { slot: 0, write, memory: memory.as_mut_ptr(), len: memory.len(), at };
        // SAFETY: the memory is borrowed until the answer has come.
        unsafe { self.submit(file, call) };
        self.wait().1
    }
}

/// Each slot has a stripe of the image to itself, of an odd size, so that neighbours share blocks. It writes there,
/// reads back a larger part of it, compares, and starts again; all of them at the same time.
fn at_once(place: Place, mut queue: impl Queue) {
    let seed = seed(&format!("at once, {place:?}"));
    let mut random = Random::new(seed);
    let (stage, mut disk) = Stage::noisy(place, DISK, &IMAGES, &mut random);
    let mount = stage.mount("", &[]);
    let file = open(&mount, 0, libc::O_DIRECT);
    let mut model = stage.image_of(&disk, 0);
    let stripe = model.len() / DEPTH - 1;
    // Leaked if this panics: what is in flight then still belongs to the kernel.
    let mut slots: ManuallyDrop<Vec<Slot>> = ManuallyDrop::new((0..DEPTH).map(|_| Slot::default()).collect());
    let mut bytes = 0;
    for (number, slot) in slots.iter_mut().enumerate() {
        let call = slot.start_write(number, stripe, &mut random);
        // SAFETY: the memory belongs to the slot, which leaves it alone until the answer has come.
        unsafe { queue.submit(&file, call) };
    }
    let mut left = DEPTH;
    while left > 0 {
        let (number, result) = queue.wait();
        let slot = &mut slots[number];
        let (range, written) = (slot.at..slot.at + slot.memory.len(), slot.write);
        assert_eq!(result, slot.memory.len() as i64, "slot {number}, {range:?}, write: {written}");
        bytes += slot.memory.len();
        if written {
            model[range].copy_from_slice(&slot.memory);
        } else {
            assert_same(&slot.memory, &model[range], &format!("slot {number} in round {}", slot.rounds));
            slot.rounds += 1;
            if slot.rounds == ROUNDS {
                left -= 1;
                continue;
            }
        }
        let call = match written {
            true => slot.start_read(number, stripe, &mut random),
            false => slot.start_write(number, stripe, &mut random),
        };
        // SAFETY: as above.
        unsafe { queue.submit(&file, call) };
    }
    drop(ManuallyDrop::into_inner(slots));
    assert_same(&std::fs::read(mount.file(&name(0))).expect("reading"), &model, "the image");
    drop(file);
    unmount(mount);
    let mut from = 0;
    for (at, len) in stage.places(0, 0, stage.size_of(0)) {
        disk[at as usize..(at + len) as usize].copy_from_slice(&model[from..from + len as usize]);
        from += len as usize;
    }
    assert_same(&stage.bytes(), &disk, "the disk itself");
    println!("{} requests, {bytes} bytes", DEPTH * ROUNDS * 2);
}

#[derive(Default)]
struct Slot {
    memory: Vec<u8>,
    at: usize,
    write: bool,
    rounds: usize,
}

impl Slot {
    fn start_write(&mut self, number: usize, stripe: usize, random: &mut Random) -> Call {
        // Sizes of each magnitude; every now and then all of the stripe.
        let magnitude = 1 << random.below(19);
        let len = (1 + random.below(magnitude)).min(stripe as u64) as usize;
        self.at = number * stripe + random.below((stripe - len + 1) as u64) as usize;
        self.memory = random.bytes(len);
        self.call(number, true)
    }

    /// Around what was written.
    fn start_read(&mut self, number: usize, stripe: usize, random: &mut Random) -> Call {
        let (first, last) = (number * stripe, (number + 1) * stripe);
        let start = self.at - (random.below(5000) as usize).min(self.at - first);
        // At least two bytes: a direct read of just the first one is refused (see `edges`).
        let end = (self.at + self.memory.len() + 1 + random.below(5000) as usize).min(last);
        self.at = start;
        self.memory = vec![0; end - start];
        self.call(number, false)
    }

    fn call(&mut self, slot: usize, write: bool) -> Call {
        self.write = write;
        Call { slot, write, memory: self.memory.as_mut_ptr(), len: self.memory.len(), at: self.at as u64 }
    }
}

pub(super) struct Uring(io_uring::IoUring);

impl Uring {
    pub(super) fn new() -> Self {
        Self(io_uring::IoUring::new(DEPTH as u32).expect("io_uring"))
    }
}

impl Queue for Uring {
    unsafe fn submit(&mut self, file: &File, call: Call) {
        use io_uring::{opcode, types::Fd};
        let (fd, len) = (Fd(file.as_raw_fd()), call.len as u32);
        let entry = match call.write {
            true => opcode::Write::new(fd, call.memory, len).offset(call.at).build(),
            false => opcode::Read::new(fd, call.memory, len).offset(call.at).build(),
        };
        // SAFETY: the caller keeps the memory.
        unsafe {
            self.0.submission().push(&entry.user_data(call.slot as u64)).expect("as many entries as slots")
        };
        self.0.submit().expect("submitting");
    }

    fn wait(&mut self) -> (usize, i64) {
        loop {
            if let Some(entry) = self.0.completion().next() {
                return (entry.user_data() as usize, entry.result().into());
            }
            self.0.submit_and_wait(1).expect("waiting");
        }
    }
}

/// `struct iocb` of linux/aio_abi.h.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    reqprio: i16,
    fd: u32,
    buf: u64,
    nbytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: u32,
}

/// `struct io_event` of linux/aio_abi.h.
#[repr(C)]
#[derive(Default)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// What libaio does: its functions are these system calls.
pub(super) struct Aio(u64);

impl Aio {
    pub(super) fn new() -> Self {
        let mut context = 0u64;
        // SAFETY: io_setup stores one number at the pointer.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, DEPTH, &raw mut context) };
        assert_eq!(result, 0, "io_setup: {}", std::io::Error::last_os_error());
        Self(context)
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the context is ours. This waits for what is in flight.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

impl Queue for Aio {
    unsafe fn submit(&mut self, file: &File, call: Call) {
        // 0 is IOCB_CMD_PREAD and 1 is IOCB_CMD_PWRITE.
        let mut iocb = Iocb {
            data: call.slot as u64,
            opcode: call.write.into(),
            fd: file.as_raw_fd() as u32,
            buf: call.memory as u64,
            nbytes: call.len as u64,
            offset: call.at as i64,
            ..Iocb::default()
        };
        let mut list = [&raw mut iocb];
        // SAFETY: the kernel copies the iocb; the caller keeps the memory.
        let result = unsafe { libc::syscall(libc::SYS_io_submit, self.0, 1, list.as_mut_ptr()) };
        assert_eq!(result, 1, "io_submit: {}", std::io::Error::last_os_error());
    }

    fn wait(&mut self) -> (usize, i64) {
        let mut event = IoEvent::default();
        let none = std::ptr::null::<libc::timespec>();
        loop {
            // SAFETY: there is room for the one event, and no timeout.
            let count = unsafe { libc::syscall(libc::SYS_io_getevents, self.0, 1, 1, &raw mut event, none) };
            if count == 1 {
                return (event.data as usize, event.res);
            }
        }
    }
}
