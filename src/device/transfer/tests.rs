//! Transfers against devices that do as little as they may.

use super::*;
use crate::device::OpenMode;
use crate::device::buffer::PAGE;
use crate::units::Bytes;
use proptest::prelude::*;
use std::ptr::NonNull;

const SIZE: usize = 64 << 10;

/// A device in memory that does as little of a call as it may, and now and then nothing at all.
struct Grudging {
    bytes: Vec<u8>,
    block: usize,
    moods: Vec<u8>,
    mood: usize,
    allocates: bool,
    calls: usize,
}

impl Grudging {
    fn new(block: usize, moods: Vec<u8>, allocates: bool) -> Self {
        let bytes = (0..SIZE).map(|at| at as u8 | 1).collect();
        Self { bytes, block, moods, mood: 0, allocates, calls: 0 }
    }

    fn mood(&mut self) -> u8 {
        self.mood += 1;
        self.moods[self.mood % self.moods.len()]
    }

    /// How much of a call is done, in whole blocks; or the error that asks to repeat it.
    fn some(&mut self, len: u32) -> Result<usize, i32> {
        let blocks = len as usize / self.block;
        match self.mood() {
            0 => Err(-libc::EINTR),
            1 => Err(-libc::EAGAIN),
            2 => Err(-libc::ECANCELED),
            mood => Ok((1 + usize::from(mood) % blocks) * self.block),
        }
    }

    fn perform(&mut self, what: What) -> i32 {
        self.calls += 1;
        let aligned = |at: u64, len: u64| {
            let block = self.block as u64;
            assert!(len > 0 && at.is_multiple_of(block) && len.is_multiple_of(block), "{at} {len}");
        };
        match what {
            What::Read { to, len, at } => {
                aligned(at, len.into());
                assert!((to as usize).is_multiple_of(self.block.min(512)));
                self.some(len).map_or_else(
                    |errno| errno,
                    |some| {
                        let from = &self.bytes[at as usize..at as usize + some];
                        // SAFETY: the transfer keeps `len` bytes there for this call.
                        unsafe { to.copy_from_nonoverlapping(from.as_ptr(), some) };
                        some as i32
                    },
                )
            }
            What::Write { from, len, at } => {
                aligned(at, len.into());
                assert!((from as usize).is_multiple_of(self.block.min(512)));
                self.some(len).map_or_else(
                    |errno| errno,
                    |some| {
                        // SAFETY: the transfer keeps `len` bytes there for this call.
                        let data = unsafe { std::slice::from_raw_parts(from, some) };
                        self.bytes[at as usize..at as usize + some].copy_from_slice(data);
                        some as i32
                    },
                )
            }
            What::Allocate { at, len, .. } => {
                aligned(at, len);
                if !self.allocates {
                    return -libc::EOPNOTSUPP;
                }
                self.bytes[at as usize..(at + len) as usize].fill(0);
                0
            }
            What::Sync => 0,
        }
    }

    fn run(&mut self, part: Part) -> io::Result<Option<Payload>> {
        let mut transfer = Transfer::new(part)?;
        let mut next = transfer.next();
        loop {
            match next {
                Next::Call(what) => next = transfer.finished(self.perform(what)),
                Next::Done(result) => return result,
            }
        }
    }
}

fn target(block: u32) -> Arc<Target> {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::open(&folder.path().join("disk"), Some(Bytes(SIZE as u64)), OpenMode::default());
    Arc::new(target.unwrap().with_block(block))
}

fn part(target: &Arc<Target>, op: Op, offset: usize, len: usize) -> Part {
    let target = Arc::clone(target);
    Part { token: 0, target, op, offset: offset as u64, len: len as u64, payload: None }
}

fn write(target: &Arc<Target>, offset: usize, data: &[u8]) -> Part {
    let payload = Some(Payload::for_write(target, offset as u64, data));
    Part { payload, ..part(target, Op::Write, offset, data.len()) }
}

/// Memory that is lent, by who looks at it only when it has come back.
struct Lender {
    memory: NonNull<u8>,
    len: usize,
    all: NonNull<[u8]>,
}

impl Lender {
    /// `len` bytes that start `off` bytes after the start of a page.
    fn new(off: usize, len: usize) -> Self {
        let all = NonNull::from(Box::leak(vec![0xee_u8; len + off + PAGE].into_boxed_slice()));
        let first: NonNull<u8> = all.cast();
        let page = first.as_ptr().align_offset(PAGE);
        let memory = NonNull::new(first.as_ptr().wrapping_add(page + off)).unwrap();
        Self { memory, len, all }
    }

    fn with(off: usize, data: &[u8]) -> Self {
        let this = Self::new(off, data.len());
        // SAFETY: as long as `data`, in memory that nobody else knows yet.
        unsafe { this.memory.as_ptr().copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        this
    }

    fn lend(&self) -> Payload {
        // SAFETY: the tests look at the memory when the payload is gone, and free it later still.
        unsafe { Payload::lent(self.memory, self.len) }
    }

    fn bytes(&self) -> Vec<u8> {
        // SAFETY: as above; it was written to when it was made.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }.to_vec()
    }

    /// Whether a pointer is to it.
    fn has(&self, pointer: *const u8) -> bool {
        (self.memory.as_ptr().addr()..self.memory.as_ptr().addr() + self.len).contains(&pointer.addr())
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        // SAFETY: what was leaked in `new`, once.
        drop(unsafe { Box::from_raw(self.all.as_ptr()) });
    }
}

proptest! {
    /// However little a device does at a time, exactly the bytes that were asked for are read and changed.
    #[test]
    fn a_grudging_device_is_made_to_do_it(
        block in prop::sample::select(vec![1u32, 512, 4096]),
        // A mood that does something is among them: one that never does is an error in the end.
        moods in prop::collection::vec(0u8..20, 1..8).prop_map(|mut moods| { moods.push(9); moods }),
        allocates in any::<bool>(),
        ranges in prop::collection::vec((0..SIZE, 0..20_000usize, 0..4usize), 1..12),
        // Whether memory is lent for it, and how that lies; often it lies right.
        lent in prop::option::of(prop::sample::select(vec![0usize, 0, 512, 1, 700, 4095])),
        aligned in any::<bool>(),
    ) {
        let target = target(block);
        let mut device = Grudging::new(block as usize, moods, allocates);
        let mut model = device.bytes.clone();
        for (number, (offset, len, op)) in ranges.into_iter().enumerate() {
            let unit = if aligned { 4096 } else { 1 };
            let offset = offset - offset % unit;
            let end = (offset + len.next_multiple_of(unit)).min(SIZE);
            let len = end - offset;
            match [Op::Read, Op::Write, Op::Discard, Op::WriteZeroes][op] {
                Op::Write => {
                    let data: Vec<u8> = (0..len).map(|at| (at * 3 + number) as u8).collect();
                    match lent.map(|off| Lender::with(off, &data)) {
                        Some(lender) => {
                            let payload = Some(lender.lend());
                            device.run(Part { payload, ..part(&target, Op::Write, offset, len) }).unwrap();
                            prop_assert!(lender.bytes() == data, "what is written is not changed");
                        }
                        None => drop(device.run(write(&target, offset, &data)).unwrap()),
                    }
                    model[offset..end].copy_from_slice(&data);
                }
                Op::Read => {
                    let lender = lent.map(|off| Lender::new(off, len));
                    let payload = lender.as_ref().map(Lender::lend);
                    let part = Part { payload, ..part(&target, Op::Read, offset, len) };
                    let read = device.run(part).unwrap().unwrap();
                    prop_assert!(read[..] == model[offset..end]);
                    drop(read);
                    if let Some(lender) = lender {
                        prop_assert!(lender.bytes() == model[offset..end], "it is where it was to be");
                    }
                }
                op => {
                    device.run(part(&target, op, offset, len)).unwrap();
                    model[offset..end].fill(0);
                }
            }
            prop_assert!(device.bytes == model);
        }
    }
}

#[test]
fn what_a_device_cannot_do_is_asked_once() {
    let target = target(512);
    let mut device = Grudging::new(512, vec![255], false);
    for (op, calls) in [(Op::Discard, 2), (Op::Discard, 1), (Op::WriteZeroes, 2), (Op::WriteZeroes, 1)] {
        device.calls = 0;
        // One block, so that even this device does it in one go.
        device.run(part(&target, op, 512, 512)).unwrap();
        assert_eq!(device.calls, calls, "{op:?}");
    }
}

#[test]
fn zeroes_are_written_from_one_place_by_all() {
    let target = target(512);
    let from = |op, offset| {
        let mut transfer = Transfer::new(part(&target, op, offset, 1024)).unwrap();
        assert!(matches!(transfer.next(), Next::Call(What::Allocate { .. })));
        let Next::Call(What::Write { from, .. }) = transfer.finished(-libc::EOPNOTSUPP) else {
            panic!("it is to write")
        };
        from
    };
    let place = from(Op::Discard, 512);
    assert_eq!(place, from(Op::WriteZeroes, 4096));
    assert_eq!(place.addr() % PAGE, 0);
}

#[test]
fn what_lies_behind_the_end_of_a_device_says_nothing_of_what_it_can_do() {
    // A file does not say how large it is as a device does, so this is one that is gone.
    let gone =
        Arc::into_inner(target(512)).unwrap().being(|medium| Medium { number: Some((0, 0)), ..medium });
    let gone = Arc::new(gone);
    for errno in [libc::EINVAL, libc::ENODEV] {
        let mut transfer = Transfer::new(part(&gone, Op::Discard, 512, 512)).unwrap();
        assert!(matches!(transfer.next(), Next::Call(What::Allocate { .. })));
        let Next::Done(Err(error)) = transfer.finished(-errno) else { panic!("it goes on after {errno}") };
        assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
    }
    let medium = gone.medium.load_full().unwrap();
    assert!(!medium.cannot(true), "it may be able to when it is there again");
}

#[test]
fn an_aligned_write_is_one_call_and_alone_needs_no_turn() {
    let target = target(512);
    let data = [7; 512];
    let mut device = Grudging::new(512, vec![255], true);
    device.run(write(&target, 1024, &data)).unwrap();
    assert_eq!(device.calls, 1);
    let claim =
        |part| Transfer::new(part).unwrap().claim().map(|claim| (claim.start, claim.end, claim.exclusive));
    assert_eq!(claim(write(&target, 1024, &data)), Some((1024, 1536, false)));
    assert_eq!(claim(write(&target, 1025, &data)), Some((1024, 2048, true)));
    assert_eq!(claim(part(&target, Op::Discard, 512, 1025)), Some((512, 2048, true)));
    assert_eq!(claim(part(&target, Op::Read, 5, 5)), None);
    assert_eq!(claim(part(&target, Op::Flush, 5, 5)), None);
}

#[test]
fn a_payload_is_written_from_where_it_lies() {
    let target = target(512);
    let payload = Payload::for_write(&target, 700, b"here");
    let lies = payload.as_ptr();
    let mut transfer =
        Transfer::new(Part { payload: Some(payload), ..part(&target, Op::Write, 700, 4) }).unwrap();
    let mut next = transfer.next();
    loop {
        match next {
            Next::Call(What::Write { from, len, at }) => {
                assert_eq!((from.wrapping_add(188), len, at), (lies, 512, 512));
                break;
            }
            Next::Call(_) => next = transfer.finished(512),
            Next::Done(result) => panic!("{result:?}"),
        }
    }
}

#[test]
fn what_a_remote_file_does_not_give_is_lost_and_it_is_not_asked_for_its_size() {
    let target = Arc::into_inner(target(512)).unwrap().being(|medium| Medium { remote: true, ..medium });
    let target = Arc::new(target);
    for (results, errno) in [(&[0][..], libc::EIO), (&[100], libc::EIO), (&[700, 0], libc::EIO)] {
        let mut transfer = Transfer::new(part(&target, Op::Read, 0, 1024)).unwrap();
        let mut next = transfer.next();
        // The file is as long as ever, which nobody looks at.
        for result in results {
            assert!(matches!(next, Next::Call(What::Read { .. })), "before {result}");
            next = transfer.finished(*result);
        }
        let Next::Done(Err(error)) = next else { panic!("it goes on after {results:?}") };
        assert_eq!(error.raw_os_error(), Some(errno));
    }
    // Another half is got where the first one ended.
    let mut transfer = Transfer::new(part(&target, Op::Read, 0, 1024)).unwrap();
    assert!(matches!(transfer.next(), Next::Call(What::Read { at: 0, .. })));
    assert!(matches!(transfer.finished(700), Next::Call(What::Read { at: 512, .. })));
    assert!(matches!(transfer.finished(512), Next::Done(Ok(_))));
}

#[test]
fn a_device_that_never_does_anything_is_an_error_in_the_end() {
    let target = target(512);
    for (mood, errno) in [(0, libc::EINTR), (1, libc::EAGAIN)] {
        let error = Grudging::new(512, vec![mood], true).run(part(&target, Op::Read, 0, 512)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno));
    }
    let mut transfer = Transfer::new(write(&target, 0, &[1; 512])).unwrap();
    let mut next = transfer.next();
    let result = loop {
        match next {
            Next::Call(_) => next = transfer.finished(0),
            Next::Done(result) => break result,
        }
    };
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
}

/// Reads into memory that is lent, and says whether it was read there straight.
fn read_into(block: u32, off: usize, offset: usize, len: usize) -> bool {
    let target = target(block);
    let lender = Lender::new(off, len);
    let mut device = Grudging::new(block as usize, vec![255], true);
    let payload = Some(lender.lend());
    let mut transfer = Transfer::new(Part { payload, ..part(&target, Op::Read, offset, len) }).unwrap();
    let (mut next, mut straight) = (transfer.next(), None);
    let read = loop {
        match next {
            Next::Call(what) => {
                let What::Read { to, .. } = what else { panic!("{what:?}") };
                let there = lender.has(to);
                assert!(straight.is_none_or(|before| before == there), "all of it or nothing");
                straight = Some(there);
                next = transfer.finished(device.perform(what));
            }
            Next::Done(result) => break result.unwrap().unwrap(),
        }
    };
    assert_eq!(
        (read.as_ptr(), read.len()),
        (lender.memory.as_ptr().cast_const(), len),
        "the memory comes back"
    );
    drop((read, transfer));
    assert!(lender.bytes() == device.bytes[offset..offset + len]);
    straight.unwrap()
}

#[test]
fn a_read_goes_straight_into_lent_memory_that_lies_right() {
    for block in [512, 4096] {
        let unit = block as usize;
        assert!(read_into(block, 0, 0, unit));
        assert!(read_into(block, 0, 2 * unit, 5 * unit));
        // Where the memory starts, where the range starts, and how long it is: each can be wrong.
        assert!(!read_into(block, 1, 0, unit));
        assert!(!read_into(block, unit / 2, 0, unit));
        assert!(!read_into(block, 0, 7, unit));
        assert!(!read_into(block, 7, 7, 3 * unit));
        assert!(!read_into(block, 0, unit, unit - 1));
        assert!(!read_into(block, 0, SIZE - 1, 1));
    }
    // For blocks of 512 the memory need not start with a page.
    assert!(read_into(512, 512, 512, 1024));
    assert!(!read_into(4096, 512, 4096, 4096));
    // The page cache takes any.
    for (off, offset, len) in [(0, 0, 4096), (1, 0, 512), (3, 5, 7), (0, SIZE - 1, 1)] {
        assert!(read_into(1, off, offset, len), "{off} {offset} {len}");
    }
}

#[test]
fn a_read_of_nothing_gives_the_lent_memory_back() {
    let target = target(512);
    let lender = Lender::new(0, 0);
    let read = Grudging::new(512, vec![255], true)
        .run(Part { payload: Some(lender.lend()), ..part(&target, Op::Read, 5, 0) })
        .unwrap()
        .unwrap();
    assert!(read.is_empty());
}

#[test]
fn a_failed_read_lets_go_of_the_lent_memory() {
    let target = target(512);
    for (offset, off) in [(512, 0), (513, 0), (512, 1)] {
        let lender = Lender::new(off, 1024);
        let payload = Some(lender.lend());
        let mut transfer = Transfer::new(Part { payload, ..part(&target, Op::Read, offset, 1024) }).unwrap();
        assert!(matches!(transfer.next(), Next::Call(What::Read { .. })));
        let Next::Done(Err(error)) = transfer.finished(-libc::EIO) else { panic!("it goes on") };
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
}

#[test]
fn lent_memory_is_written_from_where_it_lies_if_it_lies_right() {
    let data: Vec<u8> = (0..8192).map(|at| (at % 251) as u8).collect();
    for (block, off, offset, len, straight) in [
        (512, 0, 1024, 512, true),
        (512, 512, 1024, 8192, true),
        (512, 1, 1024, 512, false),
        (512, 0, 1024, 511, false),
        (512, 0, 1025, 512, false),
        (4096, 0, 4096, 8192, true),
        (4096, 512, 4096, 8192, false),
        (4096, 0, 512, 8192, false),
        (1, 3, 5, 7, true),
    ] {
        let target = target(block);
        let lender = Lender::with(off, &data[..len]);
        let placed = lender.lend().placed(&target, offset as u64);
        assert_eq!(lender.has(placed.as_ptr()), straight, "{block} {off} {offset} {len}");
        assert!(placed[..] == data[..len]);
        // What was copied is not copied again.
        let lies = placed.as_ptr();
        assert_eq!(placed.placed(&target, offset as u64).as_ptr(), lies);
    }
}

#[test]
fn lent_memory_is_divided_and_that_of_its_own_is_copied() {
    let data: Vec<u8> = (0..9000).map(|at| (at % 251) as u8).collect();
    let lender = Lender::with(0, &data);
    let mut first = lender.lend();
    let mut second = first.split_off(4096);
    let third = second.split_off(904);
    let start = lender.memory.as_ptr().cast_const();
    let lies = |payload: &Payload| (payload.as_ptr().addr() - start.addr(), payload.len());
    assert_eq!((lies(&first), lies(&second), lies(&third)), ((0, 4096), (4096, 904), (5000, 4000)));
    assert!(third[..] == data[5000..]);
    // Each is used on its own, in any order.
    drop(third);
    second[0] = 99;
    drop((first, second));
    assert_eq!(lender.bytes()[4095..4098], [data[4095], 99, data[4097]]);

    // More than there is is nothing.
    let mut whole = lender.lend();
    let nothing = whole.split_off(10_000);
    assert_eq!((whole.len(), nothing.len()), (9000, 0));

    let target = target(512);
    let mut own = Payload::for_write(&target, 700, &data);
    let rest = own.split_off(5000);
    assert!(own[..] == data[..5000] && rest[..] == data[5000..]);
    drop(own);
    assert!(rest[..] == data[5000..]);
}
