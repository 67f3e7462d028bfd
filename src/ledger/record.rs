//! One small record for each open file.

use super::{Ledger, RECORDS_AT};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::io;

/// So many records there are.
pub const RECORDS: u32 = 65_536;
/// The size of one, in bytes. A page of memory holds a whole number of them, so that one is written whole or not at all.
pub const RECORD_SIZE: usize = 512;

/// What is written down about an open file. All zeroes is none.
pub type Record = [u8; RECORD_SIZE];

/// A record that nobody has written.
const NONE: Record = [0; RECORD_SIZE];
/// Read at once: a page of memory.
const PER_PAGE: u32 = 4096 / RECORD_SIZE as u32;

impl Ledger {
    /// Writes a record, by one call.
    ///
    /// # Errors
    /// When there is no memory, or `index` is not below [`RECORDS`].
    pub fn put_record(&self, index: u32, record: &Record) -> io::Result<()> {
        if index >= RECORDS {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        self.file.write(record, place(index))
    }

    /// Takes a record away.
    ///
    /// # Errors
    /// As [`Ledger::put_record`].
    pub fn clear_record(&self, index: u32) -> io::Result<()> {
        self.put_record(index, &NONE)
    }

    /// All records that were written and not taken away.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn records(&self) -> io::Result<Vec<(u32, Record)>> {
        let mut records = Vec::new();
        let mut page = [0; PER_PAGE as usize * RECORD_SIZE];
        let mut index = self.next_written(0)?;
        while index < RECORDS {
            self.file.read(&mut page, place(index))?;
            for (index, bytes) in (index..).zip(page.chunks_exact(RECORD_SIZE)) {
                let mut record = NONE;
                record.copy_from_slice(bytes);
                if record != NONE {
                    records.push((index, record));
                }
            }
            index = self.next_written(index + PER_PAGE)?;
        }
        Ok(records)
    }

    /// The first record of the next page of memory, from that of `index` on, that was ever written to.
    fn next_written(&self, index: u32) -> io::Result<u32> {
        // Places are far below the largest of a file.
        match lseek(&self.file.0, place(index) as i64, Whence::SeekData) {
            Ok(data) => {
                let records = (data as u64).saturating_sub(RECORDS_AT) / RECORD_SIZE as u64;
                let index = u32::try_from(records).unwrap_or(RECORDS).clamp(index, RECORDS);
                Ok(index - index % PER_PAGE)
            }
            // No data behind it.
            Err(Errno::ENXIO) => Ok(RECORDS),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn place(index: u32) -> u64 {
    RECORDS_AT + u64::from(index) * RECORD_SIZE as u64
}

const _: () =
    assert!(4096 % RECORD_SIZE == 0 && RECORDS_AT.is_multiple_of(4096) && RECORDS.is_multiple_of(PER_PAGE));
const _: () = assert!(RECORDS_AT + RECORDS as u64 * RECORD_SIZE as u64 <= super::PAGES_AT);
