//! Single values: each is read from its text, and refused in words that fit behind "which is". What would be right
//! stands beside it. Configurations, tables and messages mean the same by the same text.

use super::report::choose;
use crate::classify::GroupType;
use crate::sched::Policy;
use crate::units::{Bytes, SECTOR_SIZE, SizeError, Weight};
use std::ops::RangeInclusive;

/// What would be right for a size.
pub(super) const SIZE: &str = "write a number and a unit, such as 4GiB, 512MiB, 64K or 2048s (sectors)";
/// What would be right for the offset of an image.
pub(super) const OFFSET: &str =
    "write 0, or a number and a unit, such as 4GiB, 512MiB, 64K or 2048s (sectors)";
/// What would be right for a weight.
pub(crate) const WEIGHT: &str = "write a whole number from 1 to 32767";
/// What would be right for the bandwidth of a group.
pub(crate) const BANDWIDTH: &str = "write bytes a second, such as 50MiB/s, or 0 for none";
/// What would be right for a mode.
pub(super) const MODE: &str = "write an octal number in quotes, such as \"0660\"";
/// What would be right for the id of a device.
pub(crate) const DISK: &str = "write a whole number, the same for all devices on one disk";
/// What would be right for io_throttle and io_limit.
pub(crate) const DEPTH: &str = "write a whole number of requests up to 65535, or 0 for automatic";
/// What would be right for a type.
pub(crate) const TYPE: &str = "write `type: user`, or gid, pid, pgrp, cgroup, image, none";
/// What would be right for a policy.
pub(crate) const POLICY: &str = "write `policy: weight`, or weight-iosize, range-bw";
/// What would be right for a token base.
pub(crate) const TOKENS: &str = "write a whole number from 1 to 1000000, or 0 for the default, 2048";
/// What would be right for a cap of requests.
pub(crate) const IOPS: &str = "write requests a second, such as 2000, or 0 for none";
/// What would be right for a burst of bytes.
pub(crate) const BURST: &str = "write how much may pass at once after a pause, such as 1MiB";
/// What would be right for a burst of requests.
pub(crate) const IOPS_BURST: &str = "write how many requests may pass at once after a pause, such as 20";
/// What would be right for the number of servers of a simulated device.
pub(crate) const PARALLEL: &str = "write a whole number from 1 to 1024";

/// Why a scalar is refused: "`key` is `value`, which is …", and what would be right if more can be said than what
/// holds for the key in general.
pub(crate) struct Wrong {
    pub(crate) reason: String,
    pub(crate) hint: Option<String>,
}

impl<S: Into<String>> From<S> for Wrong {
    fn from(reason: S) -> Self {
        Wrong { reason: reason.into(), hint: None }
    }
}

/// A whole number in `range`.
pub(crate) fn number(range: RangeInclusive<u64>) -> impl FnOnce(&str, bool) -> Result<u64, Wrong> {
    move |text, _| {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err("not a whole number".into());
        }
        let value = text.parse().ok().filter(|value| range.contains(value));
        value.ok_or_else(|| format!("outside {} to {}", range.start(), range.end()).into())
    }
}

/// A whole number in a range of 32 bits.
pub(crate) fn number32(range: RangeInclusive<u32>) -> impl FnOnce(&str, bool) -> Result<u32, Wrong> {
    move |text, bare| {
        let wide = number(u64::from(*range.start())..=u64::from(*range.end()))(text, bare)?;
        u32::try_from(wide).map_err(|_| "too large".into())
    }
}

/// The id of a disk.
pub(crate) fn disk_id(text: &str, bare: bool) -> Result<u32, Wrong> {
    number32(0..=u32::MAX)(text, bare)
}

/// Requests in flight; 0 is automatic.
pub(crate) fn depth(text: &str, bare: bool) -> Result<u32, Wrong> {
    number32(0..=65535)(text, bare)
}

/// Tokens of an epoch; 0 is the default.
pub(crate) fn token_base(text: &str, bare: bool) -> Result<u32, Wrong> {
    number32(0..=1_000_000)(text, bare)
}

/// Requests, or requests a second, zero included.
pub(crate) fn iops(text: &str, bare: bool) -> Result<u64, Wrong> {
    number(0..=1_000_000_000)(text, bare)
}

/// Requests a second.
pub(super) fn some_iops(text: &str, bare: bool) -> Result<u64, Wrong> {
    number(1..=1_000_000_000)(text, bare)
}

/// The servers of a simulated device.
pub(crate) fn parallel(text: &str, bare: bool) -> Result<u32, Wrong> {
    number32(1..=1024)(text, bare)
}

/// A weight.
pub(crate) fn weight(text: &str, bare: bool) -> Result<Weight, Wrong> {
    Weight::new(number32(1..=Weight::MAX)(text, bare)?).ok_or_else(|| "no weight".into())
}

/// The word for a type.
pub(crate) fn group_type(text: &str, _bare: bool) -> Result<GroupType, Wrong> {
    GroupType::parse(text).ok_or_else(|| Wrong {
        reason: "no group type".into(),
        hint: Some(choose(text, &GroupType::ALL.map(GroupType::as_str))),
    })
}

/// The word for a policy.
pub(crate) fn policy(text: &str, _bare: bool) -> Result<Policy, Wrong> {
    Policy::ALL.into_iter().find(|policy| policy.as_str() == text).ok_or_else(|| Wrong {
        reason: "no policy".into(),
        hint: Some(choose(text, &Policy::ALL.map(Policy::as_str))),
    })
}

/// A size in any unit, zero included.
pub(crate) fn size_or_none(text: &str, _bare: bool) -> Result<Bytes, Wrong> {
    bytes(text, "a size")
}

/// Bytes a second: a size in any unit, with or without `/s`, zero included.
pub(crate) fn bandwidth(text: &str, _bare: bool) -> Result<Bytes, Wrong> {
    bytes(text.strip_suffix("/s").unwrap_or(text), "a bandwidth")
}

/// Bytes a second, not zero.
pub(super) fn some_bandwidth(text: &str, bare: bool) -> Result<Bytes, Wrong> {
    not_zero(bandwidth(text, bare)?)
}

/// Refuses zero.
fn not_zero(bytes: Bytes) -> Result<Bytes, Wrong> {
    if bytes == Bytes(0) { Err("nothing at all".into()) } else { Ok(bytes) }
}

/// A place on a device: whole sectors, from 0.
pub(super) fn offset(text: &str, _bare: bool) -> Result<Bytes, Wrong> {
    // Zero is a good offset, but no size.
    whole_sectors(bytes(text, "an offset")?, Bytes(0))
}

/// A size in whole sectors, not zero.
pub(super) fn sectors(text: &str, bare: bool) -> Result<Bytes, Wrong> {
    whole_sectors(not_zero(size_or_none(text, bare)?)?, Bytes(SECTOR_SIZE))
}

/// A number of bytes in any unit; `noun` is what it should be.
fn bytes(text: &str, noun: &str) -> Result<Bytes, Wrong> {
    text.parse().map_err(|error| match error {
        SizeError::Malformed(_) => format!("not {noun}").into(),
        SizeError::TooLarge(_) => {
            Wrong { reason: "too large".into(), hint: Some("the largest is 8388607TiB".into()) }
        }
    })
}

/// Refuses parts of sectors, and offers what is nearest, from `least` on.
fn whole_sectors(bytes: Bytes, least: Bytes) -> Result<Bytes, Wrong> {
    if bytes.is_sector_aligned() {
        return Ok(bytes);
    }
    let below = Bytes(bytes.0 - bytes.0 % SECTOR_SIZE);
    let above = Bytes(below.0.saturating_add(SECTOR_SIZE));
    let nearest = if below < least { format!("is {above}") } else { format!("are {below} and {above}") };
    Err(Wrong {
        reason: format!("not a multiple of {SECTOR_SIZE} bytes"),
        hint: Some(format!("devices are made of sectors of {SECTOR_SIZE} bytes: the nearest {nearest}")),
    })
}

/// Any text but an empty one.
pub(super) fn text(text: &str, _bare: bool) -> Result<String, Wrong> {
    if text.is_empty() { Err("empty".into()) } else { Ok(text.to_owned()) }
}

/// `true` or `false`.
pub(super) fn truth(text: &str, _bare: bool) -> Result<bool, Wrong> {
    text.parse().map_err(|_| "neither true nor false".into())
}

/// Permission bits, as a quoted octal number.
pub(super) fn mode(text: &str, bare: bool) -> Result<u16, Wrong> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u16::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777 && !digits.starts_with('+'));
    match mode {
        None => Err("not a mode from 0000 to 0777 in octal".into()),
        Some(mode) if bare => Err(Wrong {
            reason: "written without quotes: YAML has two ways to read it".into(),
            hint: Some(format!("write it in quotes: \"{mode:04o}\"")),
        }),
        Some(mode) => Ok(mode),
    }
}

/// A path that is meant literally.
pub(super) fn path(text: &str, bare: bool) -> Result<String, Wrong> {
    if text.contains('\0') {
        return Err("not a path: it holds a NUL".into());
    }
    if text.starts_with(['~', '$']) {
        // Taken literally it would be a folder of that name, made here without a word.
        return Err(Wrong {
            reason: "for a shell: neither `~` nor `$HOME` is expanded here".into(),
            hint: Some("write the path in full, or `./` before a name that really starts so".into()),
        });
    }
    self::text(text, bare)
}

/// The path of a device. A table line shows it, and separates its words by blanks: a blank in it would shift the words
/// behind it, and a newline would forge a whole line.
pub(super) fn device_path(text: &str, bare: bool) -> Result<String, Wrong> {
    let text = path(text, bare)?;
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Wrong {
            reason: "not a usable path: it holds a blank or a control character".into(),
            hint: Some("rename the file or folder, or make a symbolic link to it without any".into()),
        });
    }
    Ok(text)
}
