//! What goes in and what comes out: independent of the transport.

use super::image::Image;
use crate::classify::{Caller, Identity};
use crate::device::{Op, Payload};
use crate::sched;
use smallvec::SmallVec;
use std::io;
use std::sync::Arc;

/// The bytes of an answer, in order; more than one piece when the range lies in several extents.
pub type Pieces = SmallVec<[Payload; 1]>;

/// What is asked of an image.
#[derive(Debug)]
pub enum Work {
    /// Read `len` bytes.
    Read {
        /// Bytes.
        len: u64,
        /// Where to, `len` bytes; or nothing: then there will be memory.
        into: Option<Payload>,
    },
    /// Write these bytes.
    Write(Payload),
    /// Make durable what was written; concerns the whole device.
    Flush,
    /// `len` bytes read as zeroes from now on, and need no room.
    Discard {
        /// Bytes.
        len: u64,
    },
    /// `len` bytes read as zeroes from now on.
    WriteZeroes {
        /// Bytes.
        len: u64,
    },
}

impl Work {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Read { len, .. } | Self::Discard { len } | Self::WriteZeroes { len } => *len,
            Self::Write(data) => data.len() as u64,
            Self::Flush => 0,
        }
    }

    pub(super) fn op(&self) -> Op {
        match self {
            Self::Read { .. } => Op::Read,
            Self::Write(_) => Op::Write,
            Self::Flush => Op::Flush,
            Self::Discard { .. } => Op::Discard,
            Self::WriteZeroes { .. } => Op::WriteZeroes,
        }
    }

    pub(super) fn into_payload(self) -> Option<Payload> {
        match self {
            Self::Read { into, .. } => into,
            Self::Write(data) => Some(data),
            Self::Flush | Self::Discard { .. } | Self::WriteZeroes { .. } => None,
        }
    }
}

pub(super) fn charged_as(op: Op) -> sched::Op {
    match op {
        Op::Read => sched::Op::Read,
        Op::Write => sched::Op::Write,
        Op::Flush => sched::Op::Flush,
        Op::Discard | Op::WriteZeroes => sched::Op::Discard,
    }
}

/// One request from a caller.
#[derive(Debug)]
pub struct Request {
    /// The image it is for.
    pub image: Arc<Image>,
    /// Byte offset in the image.
    pub offset: u64,
    /// What to do there. What lies past the end of the image is left out; the transport clamps before.
    pub work: Work,
    /// Whom it is charged to.
    pub identity: Identity,
    /// The caller that `identity` is of, so that more can be asked of it should callers be told apart by something else
    /// while it is held. Thread id 0 if it is charged to the opener of its file handle: then there is nobody to ask of.
    pub caller: Caller,
}

/// By what the transport finds the caller of a request again. The engine keeps it, looks at nothing in it, and gives it
/// back exactly once, with the answer.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a caller waits for it"]
pub struct Ticket {
    /// Where the transport keeps the request.
    pub slot: u32,
    /// What kind of answer it is to be, in the transport's own words.
    pub kind: u32,
    /// How many bytes the answer is about.
    pub len: u32,
    /// The transport's name for it.
    pub unique: u64,
    /// The slot may be given back before the answer ([`Outbox::left`](super::Outbox::left)), as the transport does not need
    /// it for that.
    pub may_leave: bool,
}

impl Ticket {
    /// As [`Ticket::slot`]: it has left it.
    pub const NOWHERE: u32 = u32::MAX;
}

/// A request that was carried out, or not.
#[derive(Debug)]
pub struct Answer {
    /// Whose.
    pub ticket: Ticket,
    /// The bytes of a read, in the memory that it came with, unless it came with none or has left its slot; nothing for
    /// others; or why not.
    pub result: io::Result<Pieces>,
}
