//! YAML text to a tree in which every key and value knows its place.
//!
//! The shapes are not read from YAML directly: a derived reader stops at the first mistake and speaks of types,
//! where people need every mistake of the file and what would be right. So YAML becomes a tree first, and
//! [`super::shape`] reads the tree.

use super::report::{Pos, Problems, quoted};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::budget::BudgetBreach;
use serde_yaml::{Error, Location, MessageFormatter, Spanned, UserMessageFormatter};
use std::collections::HashMap;
use std::fmt;

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Pos,
    pub(super) kind: Kind,
}

/// What a value is, before anybody asks what it should be.
#[derive(Debug)]
pub(super) enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// Any scalar as it is spelled, so that `0660` is not 660 (or 432) and a user called `no` keeps the name.
    Scalar { text: String, bare: bool },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping without duplicate keys, in the order of the file.
    Map(Vec<Entry>),
    /// Something that a problem has been noted for already.
    Reported,
}

/// A key of a mapping with its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) at: Pos,
    pub(super) key: String,
    pub(super) value: Node,
}

/// Reads `text`. Text that is not YAML gives one problem and no tree; a duplicate key gives a problem, its first
/// occurrence stays.
pub(super) fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    match serde_yaml::from_str_with_options::<Spanned<Raw>>(text, options()) {
        Ok(raw) => Some(Builder { text, problems }.node(raw)),
        Err(error) => explain(error, text, problems),
    }
}

/// A megabyte of YAML can ask for gigabytes of memory; the largest honest configuration (ten thousand images)
/// stays below these bounds.
fn options() -> serde_yaml::Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_depth: 16,
            max_nodes: 200_000,
            max_events: 500_000,
            max_documents: 2,
            max_anchors: 1_000,
            max_aliases: 20_000,
            max_recorded_anchor_events: 200_000,
            max_recorded_anchor_bytes: 4 << 20,
            // One template for hundreds of images is what aliases are for.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: 200_000,
            max_replay_stack_depth: 8,
        },
        // Both are handled below, with the places of both keys at hand.
        duplicate_keys: serde_yaml::options::DuplicateKeyPolicy::PassThrough,
        merge_keys: serde_yaml::options::MergeKeyPolicy::AsOrdinary,
        // Comments would only count against a limit of the reader.
        emit_comments: false,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        strict_booleans: true,
        non_finite_float_policy: serde_yaml::options::NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

/// The part of the YAML reader's message for a tab that indents a line below a value.
const FOUND_TAB: &str = "found a tab";

/// What the YAML reader says about the commonest slips, and how people would say it, with what would be right.
const PLAIN_WORDS: [(&str, &str, &str); 10] = [
    (FOUND_TAB, "indented with a tab", "indent with blanks: YAML takes no tabs there"),
    ("tab cannot be used", "indented with a tab", "indent with blanks: YAML takes no tabs there"),
    ("tabs disallowed", "indented with a tab", "indent with blanks: YAML takes no tabs there"),
    (
        "mapping values are not allowed",
        "a `:` where no key can stand",
        "is the `:` of the line above missing, or the blank behind it, or is the indentation wrong? Text with a colon and a blank needs quotes",
    ),
    (
        "did not find expected key",
        "this line belongs to nothing: its indentation differs from that of its neighbours",
        "indent all keys of one mapping by the same number of blanks",
    ),
    (
        "block mapping",
        "this line does not continue the mapping above",
        "write one `key: value` a line, all indented by the same number of blanks",
    ),
    (
        "flow mapping",
        "a `{` above is not closed here",
        "close it with `}`, or add what is missing: the `,` between two entries, or the blank behind a `:`",
    ),
    (
        "flow sequence",
        "a `[` above is not closed here",
        "close it with `]`, or add the missing `,` between its items",
    ),
    ("quoted scalar", "a quote above is not closed", "close it on the line on which it opens"),
    ("simple key", "a key without its `:`", "write `key: value`, with a blank behind the colon"),
];

/// Turns an error of the YAML reader into a problem. An empty file is none: it is a mount without anything.
fn explain(error: Error, text: &str, problems: &mut Problems) -> Option<Node> {
    let mut error = &error;
    while let Error::AliasError { error: inner, .. } | Error::WithSnippet { error: inner, .. } = error {
        error = inner;
    }
    let mut at = error.location().map_or(Pos { line: 1, column: 1 }, pos);
    let (message, hint) = match error {
        Error::Eof { .. } if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) => {
            return Some(Node { at, kind: Kind::Null });
        }
        Error::Eof { .. } => {
            ("the file ends in the middle of a value".into(), "complete or remove the last entry")
        }
        Error::MultipleDocuments { .. } => {
            ("a second YAML document starts here".into(), "a configuration is one document: remove the `---`")
        }
        Error::UnknownAnchor { .. } => (
            "this refers to a name that is not defined above".into(),
            "define it before its first use, as `&name`",
        ),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            ("nested too deeply".into(), "is a bracket doubled? A configuration has a handful of levels")
        }
        Error::Budget { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => (
            "the file is too large, or repeats itself too often".into(),
            "write it plainly, without aliases of aliases",
        ),
        other => {
            let message = UserMessageFormatter.format_message(other).into_owned();
            if message.contains(FOUND_TAB) {
                at = tab_behind(at, text);
            }
            match PLAIN_WORDS.iter().find(|(part, ..)| message.contains(part)) {
                Some((_, plain, hint)) => ((*plain).to_owned(), *hint),
                None => (
                    format!("this is not YAML: {message}"),
                    "check indentation, colons, quotes and brackets here and just above",
                ),
            }
        }
    };
    problems.add(at, message, hint);
    None
}

/// The tab that a complaint at `at` is about: the reader takes the line for a part of the value above, and names the
/// place of that value, where nothing is wrong.
fn tab_behind(at: Pos, text: &str) -> Pos {
    let indentation = |line: &str| line.find(|c| c != ' ').filter(|i| line[*i..].starts_with('\t'));
    let mut below = text.lines().enumerate().skip(at.line).filter(|(_, line)| !line.trim().is_empty());
    let found = below.find_map(|(i, line)| Some(Pos { line: i + 1, column: indentation(line)? + 1 }));
    found.unwrap_or(at)
}

fn pos(location: Location) -> Pos {
    // Columns and lines fit: a configuration is at most a megabyte.
    Pos { line: location.line().max(1) as usize, column: location.column().max(1) as usize }
}

/// What the YAML reader hands over.
enum Raw {
    Null,
    /// A string, quoted or not.
    Text(String),
    /// A number or a truth value as printed by us; the spelling is taken from the source.
    Value(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Value(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Value(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Value(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Value(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Value(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Value(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

struct Builder<'a> {
    text: &'a str,
    problems: &'a mut Problems,
}

impl Builder<'_> {
    fn node(&mut self, raw: Spanned<Raw>) -> Node {
        // Where a value is defined, not where an alias repeats it: that is the place to correct.
        let at = pos(raw.defined);
        let kind = match raw.value {
            Raw::Null => Kind::Null,
            Raw::Text(text) => {
                Kind::Scalar { text, bare: !self.source(raw.defined).starts_with(['"', '\'']) }
            }
            Raw::Value(printed) => Kind::Scalar { text: self.spelling(raw.defined, printed), bare: true },
            Raw::List(items) => Kind::List(items.into_iter().map(|item| self.node(item)).collect()),
            Raw::Map(entries) => Kind::Map(self.entries(entries)),
        };
        Node { at, kind }
    }

    /// Whether the key at `location` is followed by its colon; also where the reader does not know.
    fn has_colon(&self, location: Location) -> bool {
        let span = location.span();
        let rest = || {
            let start = usize::try_from(span.byte_offset()?).ok()?;
            self.text.get(start.checked_add(usize::try_from(span.byte_len()?).ok()?)?..)
        };
        rest().is_none_or(|rest| rest.trim_start().starts_with(':'))
    }

    /// The text of a scalar, behind its anchor and tag; empty where the reader does not know.
    fn source(&self, location: Location) -> &str {
        let span = location.span();
        let range = || {
            let start = usize::try_from(span.byte_offset()?).ok()?;
            let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
            self.text.get(start..end)
        };
        let mut source = range().unwrap_or("").trim();
        while source.starts_with(['&', '!']) {
            source = source.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start());
        }
        source
    }

    /// How a number was written: `0x10` and `1e3` should be called that in a message.
    fn spelling(&self, location: Location, printed: String) -> String {
        let source = self.source(location);
        let one_word = !source.is_empty() && !source.contains(char::is_whitespace);
        if one_word { source.to_owned() } else { printed }
    }

    /// The entries of a mapping; `<<: *other` adds those of `other` that are not written out.
    fn entries(&mut self, raw: Vec<(Spanned<Raw>, Spanned<Raw>)>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::with_capacity(raw.len());
        let mut lines: HashMap<String, usize> = HashMap::new();
        let mut merged = Vec::new();
        for (key, value) in raw {
            let colon = self.has_colon(key.defined);
            let (key, mut value) = (self.node(key), self.node(value));
            let Kind::Scalar { mut text, bare } = key.kind else {
                self.problems.add(key.at, "a key must be a word or a number", "write `key: value`");
                continue;
            };
            if let (true, false, Kind::Null, Some((name, rest))) =
                (bare, colon, &value.kind, text.split_once(':'))
            {
                // `{1000:80}` is a single word to YAML, a key without a value.
                let message = format!("{} is one word to YAML, and not a key with a value", quoted(&text));
                let hint =
                    format!("a blank is missing behind the colon: {}", quoted(&format!("{name}: {rest}")));
                self.problems.add(key.at, message, hint);
                // The key is there, so nobody shall miss it.
                text = name.to_owned();
                value.kind = Kind::Reported;
                if lines.contains_key(&text) {
                    continue;
                }
            }
            if bare && text == "<<" {
                merged.push((key.at, value));
            } else if let Some(line) = lines.get(&text) {
                let message = format!("{} appears twice; the first is on line {line}", quoted(&text));
                self.problems.add(key.at, message, "keep one of the two");
            } else {
                lines.insert(text.clone(), key.at.line);
                entries.push(Entry { at: key.at, key: text, value });
            }
        }
        for (at, value) in merged {
            let maps = match value.kind {
                Kind::List(items) => items,
                _ => vec![value],
            };
            for map in maps {
                if matches!(map.kind, Kind::Reported) {
                    continue;
                }
                let Kind::Map(more) = map.kind else {
                    self.problems.add(
                        at,
                        "`<<` must be given a mapping",
                        "write `<<: *name` with `&name` at a mapping",
                    );
                    continue;
                };
                // What is written out wins over what is merged, and what is merged first over what comes later.
                for entry in more {
                    if lines.insert(entry.key.clone(), entry.at.line).is_none() {
                        entries.push(entry);
                    }
                }
            }
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Vec<Entry> {
        let mut problems = Problems::default();
        let node = parse(text, &mut problems).unwrap_or_else(|| panic!("{problems:?}"));
        assert!(problems.is_empty(), "{problems:?}");
        let Kind::Map(entries) = node.kind else { panic!("{node:?}") };
        entries
    }

    fn scalar(entry: &Entry) -> (&str, bool, usize, usize) {
        let Kind::Scalar { text, bare } = &entry.value.kind else { panic!("{entry:?}") };
        (text, *bare, entry.value.at.line, entry.value.at.column)
    }

    #[test]
    fn scalars_keep_their_spelling_and_their_place() {
        let entries = tree(
            "a: 0660\nb: \"0660\"\nc: 0x10\nd: 1e3\né: no\nf: &x '1'\ng: *x\nh: 1_000\ni: -7\nj: .inf\nk: !!str 5\nl: true",
        );
        let got: Vec<_> = entries.iter().map(scalar).collect();
        let expected = [
            ("0660", true, 1, 4),
            ("0660", false, 2, 4),
            ("0x10", true, 3, 4),
            ("1e3", true, 4, 4),
            ("no", true, 5, 4),
            ("1", false, 6, 7),
            ("1", false, 6, 7),
            ("1_000", true, 8, 4),
            ("-7", true, 9, 4),
            (".inf", true, 10, 4),
            ("5", true, 11, 10),
            ("true", true, 12, 4),
        ];
        assert_eq!(got, expected);
        assert_eq!(entries[4].key, "é");
    }

    #[test]
    fn number_keys_keep_their_spelling_too() {
        let entries = tree("{1000: a, 0x3e8: b, true: c, ~x: d}");
        let keys: Vec<&str> = entries.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(keys, ["1000", "0x3e8", "true", "~x"]);
        assert_eq!(entries[1].at, Pos { line: 1, column: 11 });
    }

    #[test]
    fn merged_keys_give_way_to_written_ones() {
        let entries = tree("base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3, \"<<\": 4}");
        let Kind::Map(merged) = &entries[1].value.kind else { panic!() };
        let got: Vec<_> = merged.iter().map(|e| (e.key.as_str(), scalar(e).0)).collect();
        assert_eq!(got, [("y", "3"), ("<<", "4"), ("x", "1")]);
    }

    #[test]
    fn an_empty_file_is_nothing_rather_than_an_error() {
        for text in ["", "\n", "# only a comment\n", "---\n", "--- # nothing\n...\n", "~"] {
            let mut problems = Problems::default();
            assert!(
                matches!(parse(text, &mut problems), Some(Node { kind: Kind::Null, .. })),
                "{text:?} {problems:?}"
            );
        }
    }

    #[test]
    fn a_bomb_is_refused_quickly() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..9 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        for text in [text, "[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
            let mut problems = Problems::default();
            assert!(parse(&text, &mut problems).is_none());
            assert!(!problems.is_empty());
        }
    }
}
