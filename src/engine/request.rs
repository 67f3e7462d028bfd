//! What goes in and what comes out: independent of the transport.

use super::image::Image;
use crate::classify::Identity;
use crate::device::Payload;
use crate::sched;
use std::io;
use std::sync::Arc;

/// What is asked of an image.
#[derive(Debug)]
pub enum Work<'a> {
    /// Read `len` bytes.
    Read {
        /// Bytes.
        len: u64,
    },
    /// Write these bytes.
    Write(&'a [u8]),
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

impl Work<'_> {
    pub(super) fn len(&self) -> u64 {
        match *self {
            Self::Read { len } | Self::Discard { len } | Self::WriteZeroes { len } => len,
            Self::Write(data) => data.len() as u64,
            Self::Flush => 0,
        }
    }

    pub(super) fn charged_as(&self) -> sched::Op {
        match self {
            Self::Read { .. } => sched::Op::Read,
            Self::Write(_) => sched::Op::Write,
            Self::Flush => sched::Op::Flush,
            Self::Discard { .. } | Self::WriteZeroes { .. } => sched::Op::Discard,
        }
    }
}

/// One request from a caller.
#[derive(Debug)]
pub struct Request<'a> {
    /// The image it is for.
    pub image: Arc<Image>,
    /// Byte offset in the image.
    pub offset: u64,
    /// What to do there. What lies past the end of the image is left out; the transport clamps before.
    pub work: Work<'a>,
    /// Whom it is charged to.
    pub identity: Identity,
}

/// A request that was carried out.
#[derive(Debug)]
pub enum Answer {
    /// The bytes read, in order; more than one piece when the range lies in several extents.
    Data(Vec<Payload>),
    /// Written, flushed, discarded.
    Done,
}

/// The way back to the caller. Being consumed, it answers once; being dropped, it must answer EIO by itself.
pub trait Reply: Send {
    /// Answers the caller.
    fn send(self: Box<Self>, result: io::Result<Answer>);
}
