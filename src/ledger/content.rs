//! The bytes of a file that is being written, changed in place, and a document about them.

use super::document::Document;
use super::{CONTENTS_AT, Ledger};
use std::io;

/// So many there can be.
pub const CONTENTS: u32 = 131_072;
/// The largest, in bytes.
pub const LARGEST_CONTENT: u64 = 8 << 20;

const DOCUMENT_BUFFER: u64 = 4 << 20;
const SIZE: u64 = 2 * DOCUMENT_BUFFER + LARGEST_CONTENT;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    ledger: &'a Ledger,
    at: u64,
}

impl Ledger {
    /// The content of that number, which must be below [`CONTENTS`].
    pub fn content(&self, number: u32) -> Content<'_> {
        debug_assert!(number < CONTENTS);
        Content { ledger: self, at: CONTENTS_AT + u64::from(number) * SIZE }
    }
}

impl Content<'_> {
    fn document(self) -> Document {
        Document { at: self.at, room: DOCUMENT_BUFFER }
    }

    /// Replaces the document about it, all or nothing. Two calls for one content must not overlap.
    ///
    /// # Errors
    /// When there is no memory, or it is larger than 4 MiB; what it said before it says still.
    pub fn put(self, bytes: &[u8]) -> io::Result<()> {
        self.document().put(&self.ledger.file, bytes)
    }

    /// The document about it; nothing if nothing was put.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get(self) -> io::Result<Option<Vec<u8>>> {
        self.document().get(&self.ledger.file)
    }

    /// Changes bytes. When the process ends in between, some of them are changed.
    ///
    /// # Errors
    /// When there is no memory, or they end behind [`LARGEST_CONTENT`].
    pub fn write(self, bytes: &[u8], at: u64) -> io::Result<()> {
        if at.saturating_add(bytes.len() as u64) > LARGEST_CONTENT {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.ledger.file.write(bytes, self.bytes_at() + at)
    }

    /// The first `len` bytes; zeroes where nothing was written.
    ///
    /// # Errors
    /// When they cannot be read, or are more than [`LARGEST_CONTENT`].
    pub fn read(self, len: u64) -> io::Result<Vec<u8>> {
        if len > LARGEST_CONTENT {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let mut bytes = vec![0; len as usize];
        self.ledger.file.read(&mut bytes, self.bytes_at())?;
        Ok(bytes)
    }

    /// Takes away the bytes from `at` on; they are zeroes then.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn cut(self, at: u64) -> io::Result<()> {
        let at = at.min(LARGEST_CONTENT);
        if at == LARGEST_CONTENT {
            return Ok(());
        }
        self.ledger.file.clear(self.bytes_at() + at, LARGEST_CONTENT - at)
    }

    /// Takes everything away and gives its memory back.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn clear(self) -> io::Result<()> {
        self.ledger.file.clear(self.at, SIZE)
    }

    fn bytes_at(self) -> u64 {
        self.at + 2 * DOCUMENT_BUFFER
    }
}
