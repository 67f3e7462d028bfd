//! Reads the keys of one mapping: every unknown key, missing value and wrong value becomes a problem, and reading
//! goes on behind it.

use super::report::{Pos, Problems, choose, quoted};
use super::tree::{Entry, Kind, Node};
use super::values::Wrong;

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
