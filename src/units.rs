//! Quantities with a type of their own, so that sectors are never taken for bytes.
#![forbid(unsafe_code)]

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// The size of a sector in bytes: the unit of every table, as with dmsetup.
pub const SECTOR_SIZE: u64 = 512;

/// A number of bytes, or a byte offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// Whole sectors needed to hold this many bytes (rounded up).
    pub fn sectors_up(self) -> Sectors {
        Sectors(self.0.div_ceil(SECTOR_SIZE))
    }

    /// Whole sectors in this many bytes (rounded down).
    pub fn whole_sectors(self) -> Sectors {
        Sectors(self.0 / SECTOR_SIZE)
    }

    /// Whether this is a multiple of the sector size.
    pub fn is_sector_aligned(self) -> bool {
        self.0.is_multiple_of(SECTOR_SIZE)
    }
}

impl fmt::Display for Bytes {
    /// Prints the largest unit that divides the value: `2GiB`, `1536KiB`, `17` (bytes).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Why a size could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with an optional unit.
    #[error("`{0}` is not a size; write a number and a unit, such as 4GiB, 512MiB, 64K or 2048s (sectors)")]
    Malformed(String),
    /// More than a 64-bit byte count can hold.
    #[error("`{0}` is too large; the largest size is 8388607TiB")]
    TooLarge(String),
}

impl FromStr for Bytes {
    type Err = SizeError;

    /// Reads `4GiB`, `512M`, `64KiB`, `2048s` or plain bytes. `K`, `KiB`, `M`, … are powers of 1024 alike;
    /// `s` are sectors of 512 bytes.
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let malformed = || SizeError::Malformed(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = trimmed.split_at(digits);
        if number.is_empty() {
            return Err(malformed());
        }
        let scale: u64 = match unit.trim_start() {
            "" | "B" => 1,
            "s" => SECTOR_SIZE,
            "K" | "KiB" => 1 << 10,
            "M" | "MiB" => 1 << 20,
            "G" | "GiB" => 1 << 30,
            "T" | "TiB" => 1 << 40,
            _ => return Err(malformed()),
        };
        let too_large = || SizeError::TooLarge(text.to_owned());
        let number: u64 = number.parse().map_err(|_| too_large())?;
        // Offsets are signed in the kernel's interfaces, so the upper half of u64 is not usable.
        number.checked_mul(scale).filter(|bytes| *bytes <= i64::MAX as u64).map(Bytes).ok_or_else(too_large)
    }
}

/// A number of 512-byte sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(pub u64);

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A group's weight: an integer from 1 to 32767, 100 where nothing is said (dm-ioband's default).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(NonZeroU32);

impl Weight {
    /// The largest weight.
    pub const MAX: u32 = 32767;

    /// A weight, or `None` outside 1 to [`Weight::MAX`].
    pub fn new(value: u32) -> Option<Self> {
        NonZeroU32::new(value).filter(|v| v.get() <= Self::MAX).map(Self)
    }

    /// The plain number, 1 to [`Weight::MAX`].
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(const { NonZeroU32::new(100).unwrap() })
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in time or a span, in nanoseconds. Points count from an arbitrary start that one clock fixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// One second.
    pub const SECOND: Nanos = Nanos(1_000_000_000);

    /// The span from `earlier` to `self`, zero if it would be negative.
    pub fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }

    /// The point `span` later; saturates after 584 years.
    pub fn after(self, span: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(span.0))
    }

    /// So many seconds; saturates.
    pub const fn from_secs(seconds: u64) -> Nanos {
        Nanos(seconds.saturating_mul(Nanos::SECOND.0))
    }

    /// Milliseconds as a span.
    pub const fn from_millis(ms: u64) -> Nanos {
        Nanos(ms * 1_000_000)
    }

    /// Microseconds as a span.
    pub const fn from_micros(us: u64) -> Nanos {
        Nanos(us * 1_000)
    }
}

impl From<std::time::Duration> for Nanos {
    fn from(d: std::time::Duration) -> Self {
        Nanos(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for std::time::Duration {
    fn from(n: Nanos) -> Self {
        std::time::Duration::from_nanos(n.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("4GiB", 4 << 30),
            ("4G", 4 << 30),
            ("512 MiB", 512 << 20),
            ("64K", 64 << 10),
            ("1TiB", 1 << 40),
            ("2048s", 1 << 20),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn bad_sizes_say_what_would_be_right() {
        for text in ["", "GiB", "-1", "4 GB x", "1.5GiB", "4Gib", "0x10"] {
            let error = text.parse::<Bytes>().unwrap_err();
            assert!(error.to_string().contains("such as 4GiB"), "{text}: {error}");
        }
        for text in ["99999999999999999999", "9000000TiB", "9223372036854775808"] {
            assert!(matches!(text.parse::<Bytes>(), Err(SizeError::TooLarge(_))), "{text}");
        }
    }

    #[test]
    fn printing_a_size_reads_back() {
        for bytes in [0, 1, 512, 1 << 10, 1536 << 10, 3 << 30, 7 << 40, 12345] {
            assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }
    }

    #[test]
    fn weights_outside_the_range_do_not_exist() {
        assert_eq!(Weight::new(0), None);
        assert_eq!(Weight::new(32768), None);
        assert_eq!(Weight::new(1).map(Weight::get), Some(1));
        assert_eq!(Weight::new(32767).map(Weight::get), Some(32767));
        assert_eq!(Weight::default().get(), 100);
    }
}
