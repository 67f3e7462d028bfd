//! An image: a name for ranges of an ioband device.

use super::band::BandId;
use crate::config::Extent;
use crate::device::Target;
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A disk image as the engine knows it.
#[derive(Debug)]
pub struct Image {
    name: Arc<str>,
    target: Arc<Target>,
    band: BandId,
    extents: Vec<Extent>,
    size: u64,
    /// How many losses its callers know of (see [`Target::lost`]).
    told: AtomicU64,
}

/// A contiguous part of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Image {
    /// An image on an ioband device, which is a name for `target`.
    pub fn new(name: Arc<str>, target: Arc<Target>, band: BandId, extents: Vec<Extent>) -> Self {
        let size = extents.iter().map(|e| e.size.0).sum();
        let told = target.lost().into();
        Self { name, target, band, extents, size, told }
    }

    /// The same for those who had it open with a predecessor: of all that was lost since then they were not told.
    #[must_use]
    pub fn of_predecessor(self) -> Self {
        Self { told: 0.into(), ..self }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its ioband device.
    pub fn band(&self) -> BandId {
        self.band
    }

    /// What its ioband device is a name for.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Whether something was lost that its callers were not told of; they are now. A flush says so: the kernel tells of each
    /// loss once, and images share what they lie on.
    pub(super) fn has_lost(&self) -> bool {
        let lost = self.target.lost();
        self.told.fetch_max(lost, Ordering::AcqRel) < lost
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its extents.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The part of `len` bytes from `offset` that lies inside the image.
    pub fn clamp(&self, offset: u64, len: u64) -> u64 {
        len.min(self.size.saturating_sub(offset))
    }

    /// Where the bytes from `offset` are on the device. What lies past the end of the image is not there: this is
    /// the one place that keeps an image from reaching its neighbours.
    pub(super) fn ranges(&self, offset: u64, len: u64) -> SmallVec<[Range; 1]> {
        let mut left = self.clamp(offset, len);
        let mut skip = offset;
        let mut ranges = SmallVec::new();
        for extent in &self.extents {
            if left == 0 {
                break;
            }
            if skip >= extent.size.0 {
                skip -= extent.size.0;
                continue;
            }
            let part = left.min(extent.size.0 - skip);
            ranges.push(Range { offset: extent.offset.0 + skip, len: part });
            left -= part;
            skip = 0;
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::OpenMode;
    use crate::units::Bytes;

    fn image(extents: &[(u64, u64)]) -> Image {
        let extents = extents.iter().map(|&(o, s)| Extent { offset: Bytes(o), size: Bytes(s) }).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let target = Target::open(&folder.path().join("disk"), Some(Bytes(1 << 20)), OpenMode::default());
        Image::new("vm.img".into(), target.expect("a file").into(), BandId::default(), extents)
    }

    #[test]
    fn a_request_over_extents_is_cut_where_they_meet() {
        let image = image(&[(4096, 1024), (512, 512), (8192, 2048)]);
        assert_eq!(image.size(), 3584);
        assert_eq!(image.ranges(0, 1)[..], [Range { offset: 4096, len: 1 }]);
        assert_eq!(
            image.ranges(1000, 1000)[..],
            [
                Range { offset: 5096, len: 24 },
                Range { offset: 512, len: 512 },
                Range { offset: 8192, len: 464 }
            ]
        );
    }

    #[test]
    fn nothing_reaches_past_the_end() {
        let image = image(&[(4096, 1024)]);
        assert_eq!(image.ranges(1000, 500)[..], [Range { offset: 5096, len: 24 }]);
        assert!(image.ranges(1024, 1).is_empty());
        assert!(image.ranges(u64::MAX, u64::MAX).is_empty());
        assert_eq!(image.clamp(u64::MAX, 10), 0);
    }

    #[test]
    fn whoever_had_it_open_with_a_predecessor_is_told_of_what_was_lost_before_it_was_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let [disk, other] = ["disk", "other"].map(|name| folder.path().join(name));
        let size = Bytes(4096);
        let mark = Target::open(&disk, Some(size), OpenMode::default()).expect("a file").mark();
        std::fs::write(&other, [0; 4096]).expect("another file");
        std::fs::rename(&other, &disk).expect("its name");
        let target = Arc::new(Target::open_or_missing(&disk, size, mark.as_ref(), OpenMode::default()));
        target.reopen().expect("it is large enough");
        let image = || Image::new("vm.img".into(), target.clone(), BandId::default(), Vec::new());
        assert!(!image().has_lost(), "there was nobody to lose it");
        let image = image().of_predecessor();
        assert!(image.has_lost() && !image.has_lost(), "once");
    }
}
