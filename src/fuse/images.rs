//! Requests for the bytes of images: from the kernel's words to the engine of the disk.
//!
//! Everything about an image that is not here (its attributes, opening it, looking for holes) is on fuser's side, in `metadata` and `face`.

use super::face::Face;
use super::node::ImageNode;
use super::slots::Slot;
use super::tree::Tree;
use super::wire::{FallocateIn, FsyncIn, InHeader, ReadIn, WRITE_CACHE, WriteIn, WriteOut, opcode, parse};
use crate::classify::{Caller, Round};
use crate::clock;
use crate::device::Payload;
use crate::engine::{Prepared, Request, Ticket, Work};
use fuser::{FileHandle, INodeNo};
use zerocopy::IntoBytes;

/// What the answer to a request consists of: [`Ticket::kind`].
pub(super) mod kind {
    /// Nothing but whether it went well.
    pub(in crate::fuse) const EMPTY: u32 = 0;
    /// The bytes read.
    pub(in crate::fuse) const DATA: u32 = 1;
    /// How many bytes were written.
    pub(in crate::fuse) const WRITTEN: u32 = 2;
}

/// What becomes of a request.
pub(super) enum Verdict<'t> {
    /// The disk has to do something; the slot comes back with the ticket, unless it is free already.
    Submit(&'t ImageNode, Prepared, Ticket, Option<Slot>),
    /// It is answered at once.
    Answer(Slot, Answered),
    /// It is fuser's.
    Forward(Slot),
}

/// An answer to the kernel, as far as it is not in the slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) unique: u64,
    pub(super) kind: u32,
    pub(super) len: u32,
    pub(super) result: Result<(), i32>,
}

impl Answered {
    /// Puts what the answer consists of into the slot's room, where bytes that were read lie already, and says how many
    /// bytes it is; or the errno.
    pub(super) fn complete(self, slot: &mut Slot) -> Result<u32, i32> {
        self.result?;
        Ok(match self.kind {
            kind::DATA => self.len,
            kind::WRITTEN => {
                let written = WriteOut { size: self.len, padding: 0 };
                slot.room_mut()[..size_of::<WriteOut>()].copy_from_slice(written.as_bytes());
                size_of::<WriteOut>() as u32
            }
            _ => 0,
        })
    }
}

/// What is asked of an image.
enum Wish {
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        offset: u64,
        len: u32,
    },
    Flush,
    Discard {
        offset: u64,
        len: u64,
    },
    WriteZeroes {
        offset: u64,
        len: u64,
    },
    /// Granted without the disk; an answer of this kind says so.
    Nothing {
        kind: u32,
    },
}

impl Wish {
    /// What the disk is to do, with the data where they are.
    fn staying(self, slot: Slot, unique: u64) -> (u64, Work, Ticket, Option<Slot>) {
        match self {
            Self::Read { offset, len } => {
                let (into, ticket) = slot.lend(len, kind::DATA, unique);
                (offset, Work::Read { len: len.into(), into: Some(into) }, ticket, None)
            }
            Self::Write { offset, len } => {
                let (payload, ticket) = slot.lend(len, kind::WRITTEN, unique);
                (offset, Work::Write(payload), ticket, None)
            }
            Self::Discard { offset, len } => {
                (offset, Work::Discard { len }, slot.ticket(0, kind::EMPTY, unique), None)
            }
            Self::WriteZeroes { offset, len } => {
                (offset, Work::WriteZeroes { len }, slot.ticket(0, kind::EMPTY, unique), None)
            }
            Self::Flush | Self::Nothing { .. } => (0, Work::Flush, slot.ticket(0, kind::EMPTY, unique), None),
        }
    }

    /// The same for a request that is not to stay in its slot, because there are few: one caller with tens of thousands of
    /// requests would else keep others out. A read gets memory when it is its turn; what is written is copied, and small
    /// writes are packed.
    fn leaving(&self, node: &ImageNode, slot: &Slot, unique: u64) -> Option<(u64, Work, Ticket)> {
        if !slot.is_dear() {
            return None;
        }
        let ticket = |len, kind| Slot::ticket_elsewhere(len, kind, unique);
        Some(match *self {
            Self::Read { offset, len } => {
                (offset, Work::Read { len: len.into(), into: None }, ticket(len, kind::DATA))
            }
            Self::Write { offset, len } => {
                let data = slot.room().get(..len as usize)?;
                let payload = match data.len() {
                    ..=SMALL => Payload::packed(data),
                    _ => Payload::for_write(node.image.target(), 0, data),
                };
                (offset, Work::Write(payload), ticket(len, kind::WRITTEN))
            }
            Self::Flush => (0, Work::Flush, ticket(0, kind::EMPTY)),
            Self::Discard { offset, len } => (offset, Work::Discard { len }, ticket(0, kind::EMPTY)),
            Self::WriteZeroes { offset, len } => (offset, Work::WriteZeroes { len }, ticket(0, kind::EMPTY)),
            Self::Nothing { .. } => return None,
        })
    }
}

/// Data of so many bytes are packed when they have to be copied. They are placed under the engine's lock.
const SMALL: usize = 4096;

/// The file handle that a request came through, whether the kernel made it by itself, and what it asks.
type Asked = (u64, bool, Wish);

impl Face {
    /// Looks at a request in a slot: its arguments, and the `data` bytes in the slot's room.
    pub(super) fn judge<'t>(
        &self,
        tree: &'t Tree,
        round: &Round<'_>,
        header: InHeader,
        arguments: &[u8],
        data: usize,
        slot: Slot,
    ) -> Verdict<'t> {
        let Some(node) = tree.image(INodeNo(header.nodeid)) else { return Verdict::Forward(slot) };
        let unique = header.unique;
        let answered = |kind, result| Answered { unique, kind, len: 0, result };
        let (fh, by_kernel, wish) = match wish(node, header.opcode, arguments, data) {
            None => return Verdict::Forward(slot),
            Some(Err(errno)) => return Verdict::Answer(slot, answered(kind::EMPTY, Err(errno))),
            Some(Ok(asked)) => asked,
        };
        if matches!(wish, Wish::Write { .. } | Wish::Discard { .. } | Wish::WriteZeroes { .. }) {
            node.touch(clock::wall());
        }
        if let Wish::Nothing { kind } = wish {
            return Verdict::Answer(slot, answered(kind, Ok(())));
        }
        let (offset, work, ticket, free) = match wish.leaving(node, &slot, unique) {
            Some((offset, work, ticket)) => (offset, work, ticket, Some(slot)),
            None => wish.staying(slot, unique),
        };
        let caller = Caller { uid: header.uid, gid: header.gid, tid: header.pid };
        let (identity, caller) = self.charge(round, caller, FileHandle(fh), by_kernel);
        let image = node.image.clone();
        let prepared = node.engine.prepare(Request { image, offset, work, identity, caller });
        Verdict::Submit(node, prepared, ticket, free)
    }
}

impl Face {
    /// The same for a write that was carried out by who served before, with this result, and not answered: its data may be
    /// gone.
    pub(super) fn judge_written<'t>(
        &self,
        tree: &'t Tree,
        header: InHeader,
        arguments: &[u8],
        data: usize,
        slot: Slot,
        result: Result<(), i32>,
    ) -> Verdict<'t> {
        let node = tree.image(INodeNo(header.nodeid));
        let len = match node.and_then(|node| wish(node, header.opcode, arguments, data)) {
            Some(Ok((_, _, Wish::Write { len, .. }))) => len,
            // Its image has gone meanwhile, and was there in time. Sizes are in 32 bits in the protocol.
            _ => data as u32,
        };
        let unique = header.unique;
        Verdict::Answer(slot, Answered { unique, kind: kind::WRITTEN, len, result })
    }
}

/// What a request asks of an image, or the errno that it gets for it; `None` if it is not about bytes.
fn wish(node: &ImageNode, opcode: u32, arguments: &[u8], data: usize) -> Option<Result<Asked, i32>> {
    let asked = match opcode {
        opcode::READ => parse(arguments).map(|asked| read(node, asked)),
        opcode::WRITE => parse(arguments).map(|asked| write(node, asked, data)),
        opcode::FSYNC => parse(arguments).map(|FsyncIn { fh, .. }| Ok((fh, false, Wish::Flush))),
        opcode::FALLOCATE => parse(arguments).map(|asked| allocate(node, asked)),
        _ => return None,
    };
    // The kernel sends whole arguments.
    Some(asked.unwrap_or(Err(libc::EINVAL)))
}

fn read(node: &ImageNode, asked: ReadIn) -> Result<Asked, i32> {
    let ReadIn { fh, offset, size, flags, .. } = asked;
    if asks_for_alignment(offset, size, flags) {
        return Err(libc::EINVAL);
    }
    // Not more than was asked for, which is 32 bits.
    let len = node.image.clamp(offset, size.into()) as u32;
    let wish = if len == 0 { Wish::Nothing { kind: kind::DATA } } else { Wish::Read { offset, len } };
    Ok((fh, false, wish))
}

fn write(node: &ImageNode, asked: WriteIn, data: usize) -> Result<Asked, i32> {
    let WriteIn { fh, offset, size, write_flags, .. } = asked;
    let size = size.min(u32::try_from(data).unwrap_or(u32::MAX));
    let len = node.image.clamp(offset, size.into()) as u32;
    let wish = match len {
        0 if size == 0 => Wish::Nothing { kind: kind::WRITTEN },
        // As a block device says it.
        0 => return Err(libc::ENOSPC),
        len => Wish::Write { offset, len },
    };
    Ok((fh, write_flags & WRITE_CACHE != 0, wish))
}

fn allocate(node: &ImageNode, asked: FallocateIn) -> Result<Asked, i32> {
    const KEEP: u32 = libc::FALLOC_FL_KEEP_SIZE as u32;
    const PUNCH: u32 = libc::FALLOC_FL_PUNCH_HOLE as u32 | KEEP;
    const ZERO: u32 = libc::FALLOC_FL_ZERO_RANGE as u32;
    let FallocateIn { fh, offset, length, mode, .. } = asked;
    let inside = offset.checked_add(length).is_some_and(|end| end <= node.image.size());
    let len = node.image.clamp(offset, length);
    let nothing = Wish::Nothing { kind: kind::EMPTY };
    let wish = match mode {
        // Every byte of an image has its place on the device already.
        KEEP => nothing,
        0 if inside => nothing,
        0 => return Err(libc::ENOSPC),
        PUNCH if len == 0 => nothing,
        PUNCH => Wish::Discard { offset, len },
        ZERO if !inside => return Err(libc::ENOSPC),
        _ if mode & !KEEP == ZERO && len == 0 => nothing,
        _ if mode & !KEEP == ZERO => Wish::WriteZeroes { offset, len },
        _ => return Err(libc::EOPNOTSUPP),
    };
    Ok((fh, false, wish))
}

/// Whether a read is the question how direct I/O must be aligned. QEMU puts it like this, and if it is answered with
/// the byte it takes it that the truth cannot be had and goes for 4096: then it cannot write to an image that is
/// not as many bytes, and reads and writes back whole blocks around its guest's sectors. Refused, as any disk would,
/// it asks for 512 bytes next and is content. Every other request may be aligned as it likes.
fn asks_for_alignment(offset: u64, size: u32, flags: u32) -> bool {
    offset == 0 && size == 1 && flags & libc::O_DIRECT as u32 != 0
}
