//! What is to go wrong with a device: read, printed, and told.
//!
//! ```yaml
//! faults:
//!   - {error: EIO, op: read, offset: 1GiB, size: 64K}   # a bad place: it cannot be read
//!   - {error: ENOSPC, op: write, every: 100}            # each hundredth write finds no room
//!   - {short: true, every: 7, seed: 1}                  # one of seven, at random, is done in pieces
//!   - {stall: 2s, every: 1000}                          # each thousandth answer comes two seconds late
//! ```

use super::fields::*;
use super::plan::Extent;
use super::print::Keys;
use super::report::{Problems, choose};
use super::tree::{Entry, Kind, Node};
use super::values::*;
use crate::units::{Bytes, Nanos};

/// One thing that goes wrong with a device, for those who try what becomes of its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultPlan {
    /// What goes wrong.
    pub what: Wrongs,
    /// With this kind of request only.
    pub op: Option<FaultOp>,
    /// With what touches this range of the device only.
    pub range: Option<Extent>,
    /// With each so manieth of them, 1 for all.
    pub every: u64,
    /// At random instead of in turn; the same seed gives the same requests.
    pub seed: Option<u64>,
}

/// What goes wrong: at least one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrongs {
    /// The request fails with this errno, and nothing is done.
    pub error: Option<FaultError>,
    /// The device does only a part of it at first.
    pub short: bool,
    /// The answer comes so much later.
    pub stall: Option<Nanos>,
}

/// Kinds of requests that may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FaultOp {
    Read,
    Write,
    Flush,
    Discard,
}

impl FaultOp {
    const ALL: [(&str, Self); 4] =
        [("read", Self::Read), ("write", Self::Write), ("flush", Self::Flush), ("discard", Self::Discard)];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        name_of(&Self::ALL, self)
    }
}

/// An error that devices give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultError(i32);

impl FaultError {
    /// What the block layer of Linux has for its devices.
    const ALL: [(&str, Self); 9] = [
        ("EIO", Self(libc::EIO)),
        ("ENOSPC", Self(libc::ENOSPC)),
        ("ENODEV", Self(libc::ENODEV)),
        ("ENXIO", Self(libc::ENXIO)),
        ("ENODATA", Self(libc::ENODATA)),
        ("EILSEQ", Self(libc::EILSEQ)),
        ("ETIMEDOUT", Self(libc::ETIMEDOUT)),
        ("ENOLINK", Self(libc::ENOLINK)),
        ("EREMOTEIO", Self(libc::EREMOTEIO)),
    ];

    /// Its number.
    pub fn errno(self) -> i32 {
        self.0
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        name_of(&Self::ALL, self)
    }
}

/// Every value is in its list.
fn name_of<T: PartialEq>(all: &[(&'static str, T)], wanted: T) -> &'static str {
    all.iter().find(|(_, value)| *value == wanted).map_or("", |(name, _)| name)
}

/// Reads one of the words of a list.
fn word<T: Copy>(
    all: &[(&'static str, T)],
    noun: &'static str,
) -> impl FnOnce(&str, bool) -> Result<T, Wrong> {
    move |text, _| {
        let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
        let found = all.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        found.ok_or_else(|| Wrong { reason: noun.into(), hint: Some(choose(text, &names)) })
    }
}

/// Seconds, or milliseconds; up to an hour.
fn time(text: &str, _bare: bool) -> Result<Nanos, Wrong> {
    const MOST: u64 = 3_600_000;
    let (digits, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1000),
        (None, None) => (text, 1000),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("not a time".into());
    }
    let milliseconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match milliseconds.filter(|time| *time <= MOST) {
        Some(0) => Err("no time at all".into()),
        Some(time) => Ok(Nanos::from_millis(time)),
        None => Err("longer than an hour".into()),
    }
}

const EXAMPLE: &str = "faults: [{error: EIO, op: write, every: 100}]";

/// The list under `faults`.
pub(super) fn faults(entry: Entry, problems: &mut Problems) -> Vec<FaultPlan> {
    match entry.value.kind {
        Kind::List(items) => items.into_iter().filter_map(|item| fault(item, problems)).collect(),
        Kind::Null | Kind::Reported => Vec::new(),
        Kind::Scalar { .. } | Kind::Map(_) => {
            problems.add(entry.value.at, "`faults` must be a list", format!("write `{EXAMPLE}`"));
            Vec::new()
        }
    }
}

fn fault(item: Node, problems: &mut Problems) -> Option<FaultPlan> {
    let known = ["error", "short", "stall", "op", "offset", "size", "every", "seed"];
    let at = item.at;
    let mut keys = Fields::open(at, "this fault", item, &known, "{error: EIO, every: 100}", problems).ok()?;
    let says = ["error", "short", "stall"].iter().any(|key| keys.has(key));
    let times = "write a time, such as 2s or 500ms";
    let error = keys.read(
        "error",
        "write the name of an error, such as EIO",
        word(&FaultError::ALL, "no error of a device"),
    );
    let short = keys.read("short", "write true or false", truth);
    let stall = keys.read("stall", times, time);
    let right = "write read, write, flush or discard, or leave it out for all of them";
    let op = keys.read("op", right, word(&FaultOp::ALL, "no kind of request"));
    let offset = keys.read("offset", OFFSET, offset);
    let size = keys.read("size", SIZE, sectors);
    let every =
        keys.read("every", "write a whole number, such as 100 for each hundredth", number(1..=u64::MAX));
    let seed =
        keys.read("seed", "write a whole number; the same one gives the same faults", number(0..=u64::MAX));
    if !says {
        let message = "this fault says neither `error` nor `short` nor `stall`";
        keys.problems().add(at, message, "write what goes wrong, such as `error: EIO`");
    }
    let value = |setting: Setting<Bytes>| setting.ok().flatten().map(|at| at.value);
    let range = match (value(offset), value(size)) {
        (None, None) => None,
        (offset, Some(size)) => Some(Extent { offset: offset.unwrap_or(Bytes(0)), size }),
        // To the end of the largest device.
        (Some(offset), None) => {
            Some(Extent { offset, size: Bytes((i64::MAX as u64 - 511).saturating_sub(offset.0)) })
        }
    };
    let error = error.ok()?.map(|at| at.value);
    let what = Wrongs {
        error,
        short: short.ok()?.is_some_and(|at| at.value),
        stall: stall.ok()?.map(|at| at.value),
    };
    if says && what == Wrongs::default() {
        let message = "this fault is none: `short` is false";
        keys.problems().add(at, message, "remove it");
    }
    Some(FaultPlan {
        what,
        op: op.ok()?.map(|at| at.value),
        range,
        every: every.ok()?.map_or(1, |at| at.value),
        seed: seed.ok()?.map(|at| at.value),
    })
}

/// One fault as it is written.
pub(super) fn written(fault: &FaultPlan) -> String {
    let FaultPlan { what: Wrongs { error, short, stall }, op, range, every, seed } = *fault;
    let mut keys = Keys::default();
    keys.some("error", error.map(FaultError::as_str));
    keys.unless(false, "short", short);
    keys.some("stall", stall.map(|stall| format!("{}ms", stall.0 / 1_000_000)));
    keys.some("op", op.map(FaultOp::as_str));
    if let Some(Extent { offset, size }) = range {
        keys.add("offset", offset);
        keys.add("size", size);
    }
    keys.unless(1, "every", every);
    keys.some("seed", seed);
    keys.flow()
}
