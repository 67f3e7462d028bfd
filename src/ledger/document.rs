//! Bytes that are replaced as a whole, or not at all.
//!
//! There are two buffers, each with a head: a number that counts up, the length, and checksums. What is put goes to the
//! buffer that is not the newest, the bytes first, the head last. The head is 32 bytes in one page of memory, which a call
//! writes whole or not at all; until then the other buffer is the newest one that is whole.

use super::Store;
use std::io;

/// Number, length, checksum of the bytes, checksum of the head.
const HEAD: usize = 32;
/// The bytes begin behind the page of the head.
const BODY: u64 = 4096;

/// Where one lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document {
    /// Its first buffer; the second follows.
    pub(super) at: u64,
    /// The size of a buffer, in bytes.
    pub(super) room: u64,
}

/// A head that was written whole.
#[derive(Clone, Copy, Debug)]
struct Head {
    buffer: u64,
    number: u64,
    len: u64,
    checksum: u32,
}

impl Document {
    pub(super) fn put(self, file: &Store, bytes: &[u8]) -> io::Result<()> {
        for (at, bytes) in self.steps(file, bytes)? {
            file.write(&bytes, at)?;
        }
        Ok(())
    }

    /// What is to be written, in this order, and where.
    pub(super) fn steps<'a>(self, file: &Store, bytes: &'a [u8]) -> io::Result<[(u64, Piece<'a>); 2]> {
        let len = bytes.len() as u64;
        if len > self.room - BODY {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let newest = self.heads(file)?.into_iter().flatten().max_by_key(|head| head.number);
        let buffer = newest.map_or(0, |newest| 1 - newest.buffer);
        // It would take centuries to count to the end.
        let number = newest.map_or(1, |newest| newest.number + 1);
        let head = Head { buffer, number, len, checksum: crc32fast::hash(bytes) };
        let at = self.at + buffer * self.room;
        Ok([(at + BODY, Piece::Borrowed(bytes)), (at, Piece::Owned(head.bytes().into()))])
    }

    pub(super) fn get(self, file: &Store) -> io::Result<Option<Vec<u8>>> {
        let mut heads: Vec<_> = self.heads(file)?.into_iter().flatten().collect();
        heads.sort_by_key(|head| std::cmp::Reverse(head.number));
        for head in heads {
            let mut bytes = vec![0; usize::try_from(head.len).map_err(io::Error::other)?];
            file.read(&mut bytes, self.at + head.buffer * self.room + BODY)?;
            if crc32fast::hash(&bytes) == head.checksum {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    fn heads(self, file: &Store) -> io::Result<[Option<Head>; 2]> {
        let mut heads = [None; 2];
        for (buffer, head) in (0..).zip(&mut heads) {
            let mut bytes = [0; HEAD];
            file.read(&mut bytes, self.at + buffer * self.room)?;
            *head = Head::read(buffer, bytes).filter(|head| head.len <= self.room - BODY);
        }
        Ok(heads)
    }
}

/// Bytes to be written.
pub(super) type Piece<'a> = std::borrow::Cow<'a, [u8]>;

impl Head {
    fn bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.checksum.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..HEAD - 4]);
        bytes[HEAD - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Nothing if it was never written.
    fn read(buffer: u64, bytes: [u8; HEAD]) -> Option<Self> {
        let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let short = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let head = Self { buffer, number: long(0)?, len: long(8)?, checksum: short(16)? };
        (head.number > 0 && short(HEAD - 4)? == crc32fast::hash(&bytes[..HEAD - 4])).then_some(head)
    }
}
