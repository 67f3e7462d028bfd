//! What a successor must know: kept in memory that outlives the process which writes it.
//!
//! A mount is served by one process after the other. All of them write to one memfd, which whoever starts them keeps open.
//! It is written with pwrite and read with pread, so nothing can be half there but what a killed process had begun to
//! write; and each kind of content says what becomes of that:
//!
//! * `document`: bytes that are replaced as a whole, or not at all. Each [`Page`] is one, and each content has one.
//! * `record`: one for each open file, small enough to be written by one call within one page of memory.
//! * `content`: the bytes of a file that is being written, changed in place.
//!
//! The file is sparse: everything has a fixed place, and takes memory only where it is written.
//!
//! ```text
//! 0        magic, version
//! 1 MiB    records, 65,536 of 512 bytes
//! 1 GiB    pages: two buffers of 64 MiB each
//! 16 GiB   contents, 16 MiB each: two buffers of 4 MiB for its document, then 8 MiB of bytes
//! ```
//!
//! This knows nothing of what is written down.
#![forbid(unsafe_code)]

mod content;
mod document;
mod record;

pub use content::{CONTENTS, Content, LARGEST_CONTENT};
pub use record::{RECORD_SIZE, RECORDS, Record};

use document::Document;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

const MAGIC: &[u8; 8] = b"ioband\0L";
/// Raised when an older program would misunderstand what a newer one writes, or the other way round. What the documents say
/// can grow without that: who reads them leaves out what he does not know.
const VERSION: u32 = 1;

const RECORDS_AT: u64 = 1 << 20;
const PAGES_AT: u64 = 1 << 30;
const PAGE_BUFFER: u64 = 64 << 20;
const CONTENTS_AT: u64 = 16 << 30;

/// A ledger.
#[derive(Debug)]
pub struct Ledger {
    file: Store,
}

/// A document of the whole mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// How the kernel was spoken to first, and where the mount is.
    Connection,
    /// The running configuration, and all that was changed since the mount was made.
    Running,
    /// What was counted.
    Counters,
    /// The last events.
    Events,
    /// What was in the rings when whoever served left them.
    Rings,
}

/// Why a descriptor is no ledger to go on with.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another kind of file.
    #[error("what was handed over is no ledger of ioband")]
    NotALedger,
    /// Another version of ioband.
    #[error("the ledger is of format {found}, this program knows format {VERSION}: it cannot take over")]
    Format {
        /// The version that it says.
        found: u32,
    },
    /// What is written in it makes no sense.
    #[error("the ledger cannot be understood: {0}")]
    Content(String),
    /// It cannot be read.
    #[error("cannot read the ledger")]
    Io(#[from] io::Error),
}

impl Ledger {
    /// An empty one.
    ///
    /// # Errors
    /// When there is no memory or no descriptor for it.
    pub fn new() -> io::Result<Self> {
        let file = Store::from(memfd_create("ioband-ledger", MFdFlags::MFD_CLOEXEC)?);
        let mut header = [0; 12];
        header[..8].copy_from_slice(MAGIC);
        header[8..].copy_from_slice(&VERSION.to_le_bytes());
        file.write(&header, 0)?;
        Ok(Self { file })
    }

    /// The one of a predecessor.
    ///
    /// # Errors
    /// When it is none, or one of a format that this program does not know.
    pub fn inherit(file: OwnedFd) -> Result<Self, LedgerError> {
        let file = Store::from(file);
        let mut header = [0; 12];
        file.read(&mut header, 0)?;
        let [magic @ .., a, b, c, d] = header;
        if &magic != MAGIC {
            return Err(LedgerError::NotALedger);
        }
        match u32::from_le_bytes([a, b, c, d]) {
            VERSION => Ok(Self { file }),
            found => Err(LedgerError::Format { found }),
        }
    }

    /// The file that it is, to be handed over.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.0.as_fd()
    }

    /// Replaces what a page says, all or nothing, whenever the process ends. Two calls for one page must not overlap.
    ///
    /// # Errors
    /// When there is no memory, or the bytes are more than 64 MiB; what the page said before it says still.
    pub fn put(&self, page: Page, bytes: &[u8]) -> io::Result<()> {
        page.document().put(&self.file, bytes)
    }

    /// What was put last; nothing if nothing was.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get(&self, page: Page) -> io::Result<Option<Vec<u8>>> {
        page.document().get(&self.file)
    }
}

impl Page {
    fn document(self) -> Document {
        Document { at: PAGES_AT + self as u64 * 2 * PAGE_BUFFER, room: PAGE_BUFFER }
    }
}

/// The file, read and written at places.
#[derive(Debug)]
struct Store(
    File,
    /// So many calls more that write are carried out, and the rest is as if the process had been killed before.
    #[cfg(test)]
    std::sync::atomic::AtomicI64,
);

impl From<OwnedFd> for Store {
    fn from(file: OwnedFd) -> Self {
        #[cfg(test)]
        return Self(File::from(file), i64::MAX.into());
        #[cfg(not(test))]
        Self(File::from(file))
    }
}

#[cfg(test)]
impl Ledger {
    /// After so many calls more that write, it is as if the process had been killed.
    pub(crate) fn cut_after(&self, calls: i64) {
        self.file.1.store(calls, std::sync::atomic::Ordering::SeqCst);
    }

    /// Whether something was not written.
    pub(crate) fn was_cut(&self) -> bool {
        self.file.1.load(std::sync::atomic::Ordering::SeqCst) < 0
    }
}

impl Store {
    /// Whether the process was killed by now, in a test.
    fn is_cut(&self) -> bool {
        #[cfg(test)]
        return self.1.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) <= 0;
        #[cfg(not(test))]
        false
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.is_cut() {
            return Ok(());
        }
        self.0.write_all_at(bytes, at)
    }

    /// Fills `bytes`; with zeroes where nothing was written.
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.0.read_at(&mut bytes[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes[filled..].fill(0);
        Ok(())
    }

    /// Gives the memory of a range back; it reads as zeroes from then on.
    fn clear(&self, at: u64, len: u64) -> io::Result<()> {
        if self.is_cut() {
            return Ok(());
        }
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        // Both are far below the largest of a file.
        loop {
            match fallocate(&self.0, hole, at as i64, len as i64) {
                Err(Errno::EINTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

#[cfg(test)]
mod tests;
