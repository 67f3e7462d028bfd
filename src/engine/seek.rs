//! Data and holes of an image, from those of what it is on.
//!
//! Extents may start at any sector, so in the image the holes of a file may start and end at any sector too. QEMU
//! aborts if it is told so while it works in larger units, which it does (4096 bytes) unless it has found out that
//! smaller ones will do. So a hole is made of whole blocks of that size; what is left of it counts as data.

use super::core::Engine;
use super::image::Image;
use crate::device::{Seek, Target};
use std::io;

/// Holes of an image start at multiples of this, and end there or with the image.
const BLOCK: u64 = 4096;

/// After so many holes that are too small the rest counts as data, which is always right to say: in a large file that has one in
/// each block somebody would look for hours.
const MOST_HOLES: usize = 4096;

impl Engine {
    /// Where the next data or hole is at or after `offset`, in bytes of the image; `None` past the last one.
    /// May read metadata from the device, so it must not run where requests are read.
    pub fn seek(&self, image: &Image, offset: u64, what: Seek) -> io::Result<Option<u64>> {
        in_blocks(image.size(), offset, what, |offset, what| in_extents(image.target(), image, offset, what))
    }
}

/// Finds blocks without a byte of data, or with one, using `next`, which finds single bytes.
fn in_blocks(
    size: u64,
    offset: u64,
    what: Seek,
    next: impl Fn(u64, Seek) -> io::Result<Option<u64>>,
) -> io::Result<Option<u64>> {
    if offset >= size {
        return Ok(None);
    }
    let mut block = offset - offset % BLOCK;
    if what == Seek::Data {
        return Ok(next(block, Seek::Data)?.map(|data| offset.max(data - data % BLOCK)));
    }
    for _ in 0..MOST_HOLES {
        // Every file ends in a hole.
        let hole = next(block, Seek::Hole)?.unwrap_or(size);
        block = hole.next_multiple_of(BLOCK);
        if block >= size {
            return Ok(Some(size));
        }
        match next(block, Seek::Data)? {
            // This block or the next has data, so it is not a hole, or none that is large enough.
            Some(data) if data - block < BLOCK => block = data,
            _ => return Ok(Some(offset.max(block))),
        }
    }
    Ok(Some(size))
}

/// The next byte of data or of a hole.
fn in_extents(target: &Target, image: &Image, offset: u64, what: Seek) -> io::Result<Option<u64>> {
    let mut base = 0;
    for extent in image.extents() {
        let end = base + extent.size.0;
        if offset < end {
            let from = extent.offset.0 + offset.saturating_sub(base);
            let found = target.seek(from, what)?;
            // Past the end of a sparse file everything is a hole.
            let found = match (found, what) {
                (None, Seek::Hole) => Some(from),
                (found, _) => found,
            };
            if let Some(at) = found.filter(|at| *at < extent.offset.0 + extent.size.0) {
                return Ok(Some(base + (at - extent.offset.0)));
            }
        }
        base = end;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every answer for a file with data in these ranges, against what each of its blocks is.
    fn check(size: u64, data: &[(u64, u64)]) {
        let data: Vec<_> = data.iter().map(|&(start, end)| start..end).collect();
        let is_data = |at: u64| data.iter().any(|range| range.contains(&at));
        let next = |offset: u64, what| {
            let edges = data.iter().flat_map(|range| [range.start, range.end]).chain([offset]);
            Ok(edges.filter(|at| (offset..size).contains(at) && is_data(*at) == (what == Seek::Data)).min())
        };
        let block_is_data = |at: u64| {
            let block = at - at % BLOCK;
            data.iter().any(|range| range.start < block + BLOCK && block < range.end)
        };
        for offset in (0..size).step_by(256) {
            let wanted = |data| (offset..size).find(|at| block_is_data(*at) == data);
            assert_eq!(
                in_blocks(size, offset, Seek::Data, next).unwrap(),
                wanted(true),
                "data from {offset}"
            );
            let hole = wanted(false).unwrap_or(size);
            assert_eq!(in_blocks(size, offset, Seek::Hole, next).unwrap(), Some(hole), "hole from {offset}");
        }
        for what in [Seek::Data, Seek::Hole] {
            assert_eq!(in_blocks(size, size, what, next).unwrap(), None);
        }
    }

    #[test]
    fn where_no_hole_is_large_enough_the_search_ends() {
        let (size, asked) = (1 << 50, std::cell::Cell::new(0));
        // In each block there is a byte of data, at its end.
        let next = |offset: u64, what| {
            asked.set(asked.get() + 1);
            let data = offset | (BLOCK - 1);
            Ok(Some(match what {
                Seek::Data => data,
                Seek::Hole if offset == data => offset + 1,
                Seek::Hole => offset,
            }))
        };
        assert_eq!(in_blocks(size, 0, Seek::Hole, next).unwrap(), Some(size));
        assert!(asked.get() <= 2 * MOST_HOLES, "{asked:?}");
        assert_eq!(in_blocks(size, BLOCK + 5, Seek::Data, next).unwrap(), Some(BLOCK + 5));
    }

    #[test]
    fn holes_are_whole_blocks() {
        check(20_480, &[]);
        check(20_480, &[(0, 20_480)]);
        check(20_480, &[(4096, 8192)]);
        check(20_480, &[(3584, 7680), (8192, 8704)]);
        check(20_992, &[(512, 1024), (12_800, 13_312), (20_480, 20_992)]);
        check(20_992, &[(20_479, 20_480)]);
        check(512, &[]);
        check(512, &[(0, 512)]);
    }
}
