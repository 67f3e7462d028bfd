//! Transfers against devices that do as little as they may.

use super::*;
use crate::device::OpenMode;
use crate::units::Bytes;
use proptest::prelude::*;

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

proptest! {
    /// However little a device does at a time, exactly the bytes that were asked for are read and changed.
    #[test]
    fn a_grudging_device_is_made_to_do_it(
        block in prop::sample::select(vec![1u32, 512, 4096]),
        // A mood that does something is among them: one that never does is an error in the end.
        moods in prop::collection::vec(0u8..20, 1..8).prop_map(|mut moods| { moods.push(9); moods }),
        allocates in any::<bool>(),
        ranges in prop::collection::vec((0..SIZE, 0..20_000usize, 0..4usize), 1..12),
    ) {
        let target = target(block);
        let mut device = Grudging::new(block as usize, moods, allocates);
        let mut model = device.bytes.clone();
        for (number, (offset, len, op)) in ranges.into_iter().enumerate() {
            let end = (offset + len).min(SIZE);
            let len = end - offset;
            match [Op::Read, Op::Write, Op::Discard, Op::WriteZeroes][op] {
                Op::Write => {
                    let data: Vec<u8> = (0..len).map(|at| (at * 3 + number) as u8).collect();
                    device.run(write(&target, offset, &data)).unwrap();
                    model[offset..end].copy_from_slice(&data);
                }
                Op::Read => {
                    let read = device.run(part(&target, Op::Read, offset, len)).unwrap().unwrap();
                    prop_assert!(read[..] == model[offset..end]);
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
