//! What must be in each sector: what was acknowledged last, or what was asked for since and failed, or is still on its way.

use std::ops::Range;

pub(super) const SECTOR: usize = 512;

/// The sectors of an image that belong to one thread. Nobody else writes there.
pub(super) struct Journal {
    pub(super) image: usize,
    pub(super) range: Range<u64>,
    cells: Vec<Cell>,
    /// Of the last write.
    number: u64,
}

/// Contents are known by the number of their write; 0 is zeroes.
#[derive(Default)]
struct Cell {
    acknowledged: u64,
    maybe: Vec<u64>,
}

/// What is wrong with a sector.
#[derive(Debug, thiserror::Error)]
#[error("sector {sector} of image {image} has {} write {found}, which is neither {acknowledged} nor of {maybe:?}",
    if *.whole { "what was of" } else { "something that begins like" })]
pub(super) struct Wrong {
    image: usize,
    sector: u64,
    found: u64,
    whole: bool,
    acknowledged: u64,
    maybe: Vec<u64>,
}

impl Journal {
    /// Of sectors that read as zeroes.
    pub(super) fn new(image: usize, range: Range<u64>) -> Self {
        let cells = range.clone().map(|_| Cell::default()).collect();
        Self { image, range, cells, number: 0 }
    }

    fn cells(&mut self, sectors: &Range<u64>) -> &mut [Cell] {
        let at = |sector: u64| (sector - self.range.start) as usize;
        let (start, end) = (at(sectors.start), at(sectors.end));
        &mut self.cells[start..end]
    }

    /// A write begins there; its number. Until it is acknowledged either may be there.
    pub(super) fn begin(&mut self, sectors: &Range<u64>, zeroes: bool) -> u64 {
        self.number += 1;
        let number = if zeroes { 0 } else { self.number };
        self.cells(sectors).iter_mut().for_each(|cell| {
            if !cell.maybe.contains(&number) {
                cell.maybe.push(number);
            }
        });
        number
    }

    pub(super) fn acknowledged(&mut self, sectors: &Range<u64>, number: u64) {
        self.cells(sectors)
            .iter_mut()
            .for_each(|cell| *cell = Cell { acknowledged: number, maybe: Vec::new() });
    }

    /// What is wrong with these bytes of all its sectors: the first few, in words.
    pub(super) fn find_wrong(&self, bytes: &[u8]) -> Vec<String> {
        let sectors = self.range.clone().zip(&self.cells).zip(bytes.chunks(SECTOR));
        let wrong = sectors.filter_map(|((sector, cell), bytes)| cell.find(self.image, sector, bytes).err());
        wrong.take(3).map(|wrong| wrong.to_string()).collect()
    }

    /// What was read there. While nothing is on its way, what is there stays: the next reader must find the same.
    pub(super) fn check(&mut self, sectors: &Range<u64>, bytes: &[u8]) -> Result<(), Wrong> {
        let image = self.image;
        for (at, (sector, bytes)) in sectors.clone().zip(bytes.chunks(SECTOR)).enumerate() {
            let cell = &mut self.cells(sectors)[at];
            let found = cell.find(image, sector, bytes)?;
            *cell = Cell { acknowledged: found, maybe: Vec::new() };
        }
        Ok(())
    }
}

impl Cell {
    /// Which of the writes that it may be of this is.
    fn find(&self, image: usize, sector: u64, bytes: &[u8]) -> Result<u64, Wrong> {
        // A content begins with its number.
        let found = bytes.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
        let whole = content(image, sector, found) == bytes;
        if whole && (self.acknowledged == found || self.maybe.contains(&found)) {
            return Ok(found);
        }
        let Self { acknowledged, maybe } = self;
        Err(Wrong { image, sector, found, whole, acknowledged: *acknowledged, maybe: maybe.clone() })
    }
}

/// The bytes that a write puts into several sectors.
pub(super) fn contents(image: usize, sectors: &Range<u64>, number: u64) -> Vec<u8> {
    sectors.clone().flat_map(|sector| content(image, sector, number)).collect()
}

/// What is in a sector after a write: no two are alike.
fn content(image: usize, sector: u64, number: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if number == 0 {
        return bytes;
    }
    let (first, rest) = bytes.split_at_mut(8);
    first.copy_from_slice(&number.to_le_bytes());
    fastrand::Rng::with_seed(number ^ sector << 32 ^ (image as u64) << 60).fill(rest);
    bytes
}
