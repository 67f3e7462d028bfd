//! From the engine's answers to fuser's replies. A reply that is dropped unanswered sends EIO; fuser sees to that.

use crate::engine::{Answer, Reply};
use fuser::{Errno, ReplyData, ReplyEmpty, ReplyWrite};
use std::io;

pub(super) struct ReadReply(pub(super) ReplyData);

impl Reply for ReadReply {
    fn send(self: Box<Self>, result: io::Result<Answer>) {
        match result {
            Ok(Answer::Data(pieces)) => match pieces.as_slice() {
                [piece] => self.0.data(piece),
                pieces => {
                    self.0.data(&pieces.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<u8>>())
                }
            },
            Ok(Answer::Done) => self.0.data(&[]),
            Err(error) => self.0.error(errno(&error)),
        }
    }
}

pub(super) struct WriteReply {
    pub(super) reply: ReplyWrite,
    /// Bytes that were taken: fewer than asked for at the end of the image.
    pub(super) taken: u32,
}

impl Reply for WriteReply {
    fn send(self: Box<Self>, result: io::Result<Answer>) {
        match result {
            Ok(_) => self.reply.written(self.taken),
            Err(error) => self.reply.error(errno(&error)),
        }
    }
}

pub(super) struct EmptyReply(pub(super) ReplyEmpty);

impl Reply for EmptyReply {
    fn send(self: Box<Self>, result: io::Result<Answer>) {
        match result {
            Ok(_) => self.0.ok(),
            Err(error) => self.0.error(errno(&error)),
        }
    }
}

/// The errno a caller sees; EIO for errors that have none.
pub(super) fn errno(error: &io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(libc::EIO))
}
