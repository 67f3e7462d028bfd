//! One part as the aligned steps that it takes, each of them a system call or a copy.
//!
//! A direct device reads and writes whole blocks only. So a read is widened; a write that covers only some of
//! its first or last block first reads that block for the bytes that are to stay; a range that is to read as
//! zeroes is zeroed that way at its two ends, and by the device itself in between, or, where the device cannot,
//! with written zeroes. Calls that did less than they were asked to are continued.

use super::buffer::{Memory, PAGE, Payload};
use super::call::What;
use super::medium::Medium;
use super::queue::{Op, Part};
use super::ranges::Claim;
use super::target::Target;
use crate::units::Nanos;
use smallvec::SmallVec;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

/// Most bytes of one call; a result and its error share 31 bits.
const MOST_AT_ONCE: u64 = 1 << 30;
/// Zeroes are written in pieces of this size, so that a discard of a terabyte does not take one of memory.
const ZEROES: usize = 1 << 20;
/// All write them from here. Nobody writes to it, so it takes no memory; atomics, because constants would be in the program's
/// file.
static ZERO: Zeroes = Zeroes([const { AtomicU8::new(0) }; ZEROES]);

#[repr(C, align(4096))]
struct Zeroes([AtomicU8; ZEROES]);

const _: () = assert!(align_of::<Zeroes>() == PAGE);

impl Zeroes {
    fn at(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }
}
/// How often a call that asks to be repeated (EINTR, EAGAIN, ECANCELED, nothing done) is repeated in a row before it is an error.
const MOST_RETRIES: u32 = 1000;

pub(super) struct Transfer {
    target: Arc<Target>,
    /// What the target was on when this began.
    medium: Arc<Medium>,
    op: Op,
    /// The bytes that were asked for.
    offset: u64,
    end: u64,
    /// The payload and the rest of its blocks.
    main: Option<Memory>,
    /// Where in `main` the payload starts.
    start: usize,
    /// One block that is only partly covered.
    edge: Option<Memory>,
    /// Where the bytes of a read are to go in the end, if they could not be read straight into it.
    lent: Option<Payload>,
    /// What is left to do, last first.
    steps: Steps,
    retries: u32,
}

/// Whole blocks take one step, a write with an edge at each end seven.
type Steps = SmallVec<[Step; 2]>;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Reads into memory from `pos` on.
    Read {
        into: Slot,
        pos: usize,
        at: u64,
        len: u64,
    },
    /// Writes memory from `pos` on.
    Write {
        from: Slot,
        pos: usize,
        at: u64,
        len: u64,
    },
    /// Copies what is to stay from the edge block to `main`.
    Keep {
        edge: usize,
        main: usize,
        len: usize,
    },
    /// Zeroes a piece of the edge block.
    Clear {
        pos: usize,
        len: usize,
    },
    /// Lets the device zero the range.
    Allocate {
        at: u64,
        len: u64,
    },
    /// Writes zeroes, over and over.
    Zero {
        at: u64,
        len: u64,
    },
    Sync,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Main,
    Edge,
}

/// What a transfer wants next.
pub(super) enum Next {
    Call(What),
    Done(io::Result<Option<Payload>>),
}

/// A block of which only the bytes from `from` to `to` are covered.
struct Edge {
    at: u64,
    from: usize,
    to: usize,
}

impl Transfer {
    pub(super) fn new(part: Part) -> io::Result<Self> {
        let Part { target, op, offset, len, payload, .. } = part;
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let medium = target.medium.load_full().ok_or_else(|| error(libc::EIO))?;
        let block = u64::from(medium.alignment.block);
        // So that no rounding below can overflow, and everything fits the kernel's signed offsets.
        let end =
            offset.checked_add(len).filter(|end| *end <= i64::MAX as u64 - block).ok_or_else(invalid)?;
        let changes = matches!(op, Op::Write | Op::Discard | Op::WriteZeroes);
        if changes && end > target.size().0 {
            // What a block device says. A file would grow instead.
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let steps = Steps::new();
        let (main, edge, lent) = (None, None, None);
        let mut this =
            Self { target, medium, op, offset, end, main, start: 0, edge, lent, steps, retries: 0 };
        let (first, last) = this.blocks();
        match op {
            Op::Flush => this.steps.push(Step::Sync),
            Op::Read => {
                let base = this.plan_read(payload, first, last)?;
                this.steps.push(Step::Read { into: Slot::Main, pos: base, at: first, len: last - first });
            }
            Op::Write => {
                let payload = payload.filter(|payload| payload.len() as u64 == len).ok_or_else(invalid)?;
                this.plan_write(payload, first, last)?;
            }
            Op::Discard | Op::WriteZeroes => this.plan_zeroes()?,
        }
        if len == 0 && op != Op::Flush {
            this.steps.clear();
        }
        this.steps.reverse();
        Ok(this)
    }

    /// Reads straight into the memory that is lent if that is possible. Says where in memory the first block goes.
    fn plan_read(&mut self, lent: Option<Payload>, first: u64, last: u64) -> io::Result<usize> {
        let len = self.end - self.offset;
        self.lent = lent;
        match self
            .lent
            .take_if(|lent| lent.len() as u64 == len && lent.fits(self.medium.alignment, self.offset))
        {
            Some(lent) => {
                let (main, start) = lent.into_memory();
                (self.main, self.start) = (Some(main), start);
                Ok(start - size(self.offset - first)?)
            }
            None => {
                self.main = Some(Memory::new(size(last - first)?, false)?);
                self.start = size(self.offset - first)?;
                Ok(0)
            }
        }
    }

    fn plan_write(&mut self, payload: Payload, first: u64, last: u64) -> io::Result<()> {
        let block = self.medium.alignment.block as usize;
        let payload = payload.placed_for(self.medium.alignment, self.offset);
        let (main, start) = payload.into_memory();
        // `fits` made sure that this is not negative and that everything up to `last` is there.
        let base = start - size(self.offset - first)?;
        (self.main, self.start) = (Some(main), start);
        for Edge { at, from, to } in self.edges()? {
            let main = base + size(at - first)?;
            self.steps.push(Step::Read { into: Slot::Edge, pos: 0, at, len: block as u64 });
            self.steps.push(Step::Keep { edge: 0, main, len: from });
            self.steps.push(Step::Keep { edge: to, main: main + to, len: block - to });
        }
        self.steps.push(Step::Write { from: Slot::Main, pos: base, at: first, len: last - first });
        Ok(())
    }

    fn plan_zeroes(&mut self) -> io::Result<()> {
        let block = u64::from(self.medium.alignment.block);
        for Edge { at, from, to } in self.edges()? {
            self.steps.push(Step::Read { into: Slot::Edge, pos: 0, at, len: block });
            self.steps.push(Step::Clear { pos: from, len: to - from });
            self.steps.push(Step::Write { from: Slot::Edge, pos: 0, at, len: block });
        }
        let middle = (self.offset.next_multiple_of(block), self.end - self.end % block);
        if middle.0 < middle.1 {
            let (at, len) = (middle.0, middle.1 - middle.0);
            let step = if self.medium.cannot(self.op == Op::Discard) {
                Step::Zero { at, len }
            } else {
                Step::Allocate { at, len }
            };
            self.steps.push(step);
        }
        Ok(())
    }

    /// The whole blocks around the range.
    fn blocks(&self) -> (u64, u64) {
        let block = u64::from(self.medium.alignment.block);
        (self.offset - self.offset % block, self.end.next_multiple_of(block))
    }

    /// The blocks that the range covers partly (none, one or two), and memory for one of them.
    fn edges(&mut self) -> io::Result<Vec<Edge>> {
        let block = u64::from(self.medium.alignment.block);
        let (first, last) = self.blocks();
        let mut edges = Vec::new();
        let mut at = first;
        while at < last {
            let (from, to) = (self.offset.max(at) - at, self.end.min(at + block) - at);
            if from > 0 || to < block {
                edges.push(Edge { at, from: size(from)?, to: size(to)? });
            }
            // From the first to the last block.
            at = if at < last - block { last - block } else { last };
        }
        if !edges.is_empty() {
            self.edge = Some(Memory::new(size(block)?, false)?);
        }
        Ok(edges)
    }

    /// What it changes and whether it has to be alone there; `None` if there is nothing to exclude.
    pub(super) fn claim(&self) -> Option<Claim> {
        let changes = matches!(self.op, Op::Write | Op::Discard | Op::WriteZeroes);
        if !changes || self.medium.alignment.block == 1 || self.steps.is_empty() {
            return None;
        }
        let (start, end) = self.blocks();
        let target = Arc::as_ptr(&self.target) as usize;
        Some(Claim { target, start, end, exclusive: self.edge.is_some() })
    }

    /// Whether it would write where a file has been cut off.
    pub(super) fn is_cut_off(&self, now: Nanos) -> bool {
        let changes = matches!(self.op, Op::Write | Op::Discard | Op::WriteZeroes);
        changes && self.offset < self.end && !self.medium.may_write_to(self.end, now.0)
    }

    /// Notes at the end what became durable by it, or needs to; `written` changes had been carried out when it began.
    pub(super) fn note_durable(&self, worked: bool, written: u64) {
        let health = &self.target.health;
        match (self.op, worked) {
            (Op::Flush, true) => health.synced(written),
            (Op::Flush, false) => health.lose(),
            (Op::Write | Op::Discard | Op::WriteZeroes, true) => {
                // First noted, so that whoever puts the target on something else knows of it unless we see that.
                health.wrote();
                if !self.target.medium.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, &self.medium)) {
                    health.lose();
                }
            }
            _ => {}
        }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Whether the simplest call may wait for somebody.
    pub(super) fn is_remote(&self) -> bool {
        self.medium.remote
    }

    /// As much of a call as a device does that does not do all of it at once: half of it, in whole blocks.
    pub(super) fn shortened(&self, what: What) -> What {
        let block = self.medium.alignment.block;
        let half = |len: u32| Some(len / 2 - len / 2 % block).filter(|half| *half > 0).unwrap_or(len);
        match what {
            What::Read { to, len, at } => What::Read { to, len: half(len), at },
            What::Write { from, len, at } => What::Write { from, len: half(len), at },
            what @ (What::Sync | What::Allocate { .. }) => what,
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.medium.fd()
    }

    /// Goes on to the next call, or to the end.
    pub(super) fn next(&mut self) -> Next {
        while let Some(step) = self.steps.last().copied() {
            match step {
                Step::Keep { edge, main, len } => {
                    if let (Some(to), Some(from)) = (&mut self.main, &self.edge) {
                        to.copy(main, from, edge, len);
                    }
                }
                Step::Clear { pos, len } => {
                    if let Some(edge) = &mut self.edge {
                        edge.clear(pos, len);
                        let block = self.medium.alignment.block as usize;
                        // SAFETY: the step before has read the whole block.
                        let empty = self.op == Op::Discard && unsafe { edge.is_zero(0, block) };
                        if let [.., next, _] = self.steps.as_mut_slice()
                            && let Step::Write { at, len, .. } = *next
                            && empty
                            && !self.medium.cannot(true)
                        {
                            // Nothing is left in the block, so it goes as a whole. It may even be a hole already,
                            // and to give back room must take none.
                            *next = Step::Allocate { at, len };
                        }
                    }
                }
                // Every part of nothing is done.
                Step::Read { len: 0, .. } | Step::Write { len: 0, .. } | Step::Zero { len: 0, .. } => {}
                _ => return self.call(step),
            }
            self.steps.pop();
        }
        let payload = self.main.take().filter(|_| self.op == Op::Read);
        let read = payload.map(|main| Payload::of(main, self.start, (self.end - self.offset) as usize));
        Next::Done(Ok(match (self.lent.take(), read) {
            (Some(mut lent), Some(read)) => {
                let len = lent.len().min(read.len());
                lent[..len].copy_from_slice(&read[..len]);
                Some(lent)
            }
            (_, read) => read,
        }))
    }

    fn call(&self, step: Step) -> Next {
        let memory = |slot, pos| {
            let memory = if slot == Slot::Main { &self.main } else { &self.edge };
            memory.as_ref().map(|memory| memory.at(pos))
        };
        let what = match step {
            Step::Read { into, pos, at, len } => {
                memory(into, pos).map(|to| What::Read { to, len: len.min(MOST_AT_ONCE) as u32, at })
            }
            Step::Write { from, pos, at, len } => {
                memory(from, pos).map(|from| What::Write { from, len: len.min(MOST_AT_ONCE) as u32, at })
            }
            // Blocks are at most 64 KiB, so a piece is a whole number of them.
            Step::Zero { at, len } => {
                Some(What::Write { from: ZERO.at(), len: len.min(ZEROES as u64) as u32, at })
            }
            Step::Allocate { at, len } => {
                let how = if self.op == Op::Discard {
                    libc::FALLOC_FL_PUNCH_HOLE
                } else {
                    libc::FALLOC_FL_ZERO_RANGE
                };
                Some(What::Allocate { mode: how | libc::FALLOC_FL_KEEP_SIZE, at, len })
            }
            Step::Sync => Some(What::Sync),
            Step::Keep { .. } | Step::Clear { .. } => None,
        };
        // Each plan makes the memory that its steps use, so there is always a call.
        what.map_or_else(|| Next::Done(Err(error(libc::EIO))), Next::Call)
    }

    /// Takes the result of the call that `next` asked for: a count or a negated errno.
    pub(super) fn finished(&mut self, result: i32) -> Next {
        match self.take(result) {
            Ok(()) => self.next(),
            Err(error) => Next::Done(Err(error)),
        }
    }

    fn take(&mut self, result: i32) -> io::Result<()> {
        let Some(step) = self.steps.pop() else { return Ok(()) };
        if result < 0 {
            return self.failed(step, result.saturating_neg());
        }
        let did = u64::from(result.unsigned_abs());
        let whole = did - did % u64::from(self.medium.alignment.block);
        let rest = match step {
            Step::Read { into, pos, at, len } if did < len => {
                if did == 0 || whole < did {
                    if at + did >= self.target.size().0 {
                        // Nothing is stored past the end, so it reads as zeroes.
                        self.clear(into, pos + size(did)?, size(len - did)?);
                        return Ok(());
                    }
                    // Of a remote file it is not asked how large it is, which might wait for somebody; but where one goes
                    // on, not even a block is got from the place where a block begins only at its end.
                    let is_cut =
                        if self.medium.remote { whole == 0 } else { at + did >= self.medium.size_now()? };
                    if is_cut {
                        // Somebody truncated the file, or the device is gone. Its data is lost, and must not look as if it were zeroes.
                        return Err(error(libc::EIO));
                    }
                }
                Step::Read { into, pos: pos + size(whole)?, at: at + whole, len: len - whole }
            }
            Step::Write { from, pos, at, len } if did < len => {
                Step::Write { from, pos: pos + size(whole)?, at: at + whole, len: len - whole }
            }
            Step::Zero { at, len } if did < len => Step::Zero { at: at + whole, len: len - whole },
            _ => return Ok(()),
        };
        self.steps.push(rest);
        if whole == 0 {
            return self.retry(libc::EIO);
        }
        self.retries = 0;
        Ok(())
    }

    fn failed(&mut self, step: Step, errno: i32) -> io::Result<()> {
        match (step, errno) {
            // ECANCELED: io_uring drops what a thread submitted and its workers had not begun when the thread ends.
            (_, libc::EINTR | libc::EAGAIN | libc::ECANCELED) => {
                self.steps.push(step);
                self.retry(errno)
            }
            // What a device says of what is behind its end, and one that is gone has its end at 0.
            (Step::Write { at, len, .. } | Step::Zero { at, len }, libc::ENOSPC)
            | (Step::Allocate { at, len }, libc::EINVAL | libc::ENODEV)
                if self.is_behind_the_end(at + len) =>
            {
                Err(error(libc::ENXIO))
            }
            (
                Step::Allocate { at, len },
                libc::EOPNOTSUPP | libc::ENODEV | libc::EINVAL | libc::ENOSYS | libc::ENOTTY,
            ) => {
                self.medium.remember_cannot(self.op == Op::Discard);
                self.steps.push(Step::Zero { at, len });
                Ok(())
            }
            _ => Err(error(errno)),
        }
    }

    /// Whether a block device does not reach so far any more; one that cannot even say how large it is does not.
    fn is_behind_the_end(&self, end: u64) -> bool {
        self.medium.is_block() && self.medium.size_now().map_or(true, |size| size < end)
    }

    fn retry(&mut self, errno: i32) -> io::Result<()> {
        self.retries += 1;
        if self.retries > MOST_RETRIES { Err(error(errno)) } else { Ok(()) }
    }

    fn clear(&mut self, slot: Slot, pos: usize, len: usize) {
        let memory = if slot == Slot::Main { &mut self.main } else { &mut self.edge };
        if let Some(memory) = memory {
            memory.clear(pos, len);
        }
    }
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn size(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| error(libc::ENOMEM))
}

#[cfg(test)]
mod tests;
