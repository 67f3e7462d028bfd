//! Reads the keys of one mapping: every unknown key, missing value and wrong value becomes a problem, and reading
//! goes on behind it.

use super::report::{Pos, Problems, listed, nearest, quoted};
use super::tree::{Entry, Kind, Node};
use crate::units::{Bytes, SECTOR_SIZE, SizeError};
use std::ops::RangeInclusive;

/// A value and its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: Pos,
}

/// A problem has been noted for this value: what depends on it is left unchecked, so that one mistake does not
/// give five messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bad;

/// A key's value: absent, good, or bad.
pub(super) type Setting<T> = Result<Option<At<T>>, Bad>;

/// Why a scalar is refused: "`key` is `value`, which is …", and what would be right if more can be said than what
/// holds for the key in general.
pub(super) struct Wrong {
    pub(super) reason: String,
    pub(super) hint: Option<String>,
}

impl<S: Into<String>> From<S> for Wrong {
    fn from(reason: S) -> Self {
        Wrong { reason: reason.into(), hint: None }
    }
}

/// The mapping that is being read.
pub(super) struct Fields<'a> {
    /// Where people find it: the place of its name.
    pub(super) at: Pos,
    /// What people call it: "device `ioband1`".
    pub(super) what: String,
    entries: Vec<Entry>,
    problems: &'a mut Problems,
}

impl<'a> Fields<'a> {
    /// Starts on `node`, which may be empty; keys that are not `known` are refused at once. `example` is a
    /// mapping that would be right.
    pub(super) fn open(
        at: Pos,
        what: impl Into<String>,
        node: Node,
        known: &[&str],
        example: &str,
        problems: &'a mut Problems,
    ) -> Result<Self, Bad> {
        let what = what.into();
        let entries = mapping(&what, node, example, problems)?;
        let unknown =
            |e: &&Entry| !known.contains(&e.key.as_str()) && !matches!(e.value.kind, Kind::Reported);
        for Entry { at, key, .. } in entries.iter().filter(unknown) {
            problems.add(*at, format!("unknown key {} in {what}", quoted(key)), choose(key, known));
        }
        Ok(Fields { at, what, entries, problems })
    }

    pub(super) fn problems(&mut self) -> &mut Problems {
        self.problems
    }

    /// Whether the key is written.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|e| e.key == key)
    }

    /// The value of `key`, whatever it is.
    pub(super) fn take(&mut self, key: &str) -> Option<Entry> {
        let index = self.entries.iter().position(|e| e.key == key)?;
        Some(self.entries.swap_remove(index))
    }

    /// The scalar under `key`, read by `read`, which gets its text and whether it stands without quotes. `right`
    /// says what would be right.
    pub(super) fn read<T>(
        &mut self,
        key: &str,
        right: &str,
        read: impl FnOnce(&str, bool) -> Result<T, Wrong>,
    ) -> Setting<T> {
        self.take(key).map(|entry| scalar(&quoted(key), entry, right, read, self.problems)).transpose()
    }

    /// As [`Fields::read`], for a key that must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        right: &str,
        read: impl FnOnce(&str, bool) -> Result<T, Wrong>,
    ) -> Result<At<T>, Bad> {
        match self.read(key, right, read)? {
            Some(value) => Ok(value),
            None => {
                self.problems.add(
                    self.at,
                    format!("{} has no `{key}`", self.what),
                    format!("add `{key}`: {right}"),
                );
                Err(Bad)
            }
        }
    }
}

/// The entries of a mapping; none if it is empty or null.
pub(super) fn mapping(
    what: &str,
    node: Node,
    example: &str,
    problems: &mut Problems,
) -> Result<Vec<Entry>, Bad> {
    match node.kind {
        Kind::Map(entries) => Ok(entries),
        Kind::Null => Ok(Vec::new()),
        Kind::Reported => Err(Bad),
        kind @ (Kind::Scalar { .. } | Kind::List(_)) => {
            // `key:value` without a blank is one word to YAML.
            let blank = matches!(&kind, Kind::Scalar { text, bare: true } if text.contains(':'));
            let hint = if blank { ", with a blank behind the colon" } else { "" };
            problems.add(
                node.at,
                format!("{what} must be a mapping of keys to values"),
                format!("write `{example}`{hint}"),
            );
            Err(Bad)
        }
    }
}

/// Reads the scalar of one entry, which messages call `what`.
pub(super) fn scalar<T>(
    what: &str,
    entry: Entry,
    right: &str,
    read: impl FnOnce(&str, bool) -> Result<T, Wrong>,
    problems: &mut Problems,
) -> Result<At<T>, Bad> {
    let at = entry.value.at;
    match entry.value.kind {
        Kind::Scalar { text, bare } => read(&text, bare).map(|value| At { value, at }).map_err(|wrong| {
            let hint = wrong.hint.unwrap_or_else(|| right.to_owned());
            let message = match text.as_str() {
                "" => format!("{what} is empty"),
                text => format!("{what} is {}, which is {}", quoted(text), wrong.reason),
            };
            problems.add(at, message, hint);
            Bad
        }),
        Kind::Null => {
            problems.add(entry.at, format!("{what} has no value"), right);
            Err(Bad)
        }
        Kind::Reported => Err(Bad),
        Kind::List(_) | Kind::Map(_) => {
            problems.add(at, format!("{what} must be a single value"), right);
            Err(Bad)
        }
    }
}

/// A hint that names the word that was probably meant, and all words there are.
pub(super) fn choose(word: &str, known: &[&str]) -> String {
    let known_words = listed(known.iter().copied());
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? Known here: {known_words}"),
        None => format!("known here: {known_words}"),
    }
}

/// A whole number in `range`.
pub(super) fn number(range: RangeInclusive<u64>) -> impl FnOnce(&str, bool) -> Result<u64, Wrong> {
    move |text, _| {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err("not a whole number".into());
        }
        let value = text.parse().ok().filter(|value| range.contains(value));
        value.ok_or_else(|| format!("outside {} to {}", range.start(), range.end()).into())
    }
}

/// A whole number in a range of 32 bits.
pub(super) fn number32(range: RangeInclusive<u32>) -> impl FnOnce(&str, bool) -> Result<u32, Wrong> {
    move |text, bare| {
        let wide = number(u64::from(*range.start())..=u64::from(*range.end()))(text, bare)?;
        u32::try_from(wide).map_err(|_| "too large".into())
    }
}

/// A size in any unit, zero included.
pub(super) fn size_or_none(text: &str, _bare: bool) -> Result<Bytes, Wrong> {
    bytes(text, "a size")
}

/// Bytes a second: a size in any unit, with or without `/s`, zero included.
pub(super) fn bandwidth(text: &str, _bare: bool) -> Result<Bytes, Wrong> {
    bytes(text.strip_suffix("/s").unwrap_or(text), "a bandwidth")
}

/// Refuses zero.
pub(super) fn not_zero(bytes: Bytes) -> Result<Bytes, Wrong> {
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
