//! What is wrong with a configuration: every problem with its place and with what would be right.

use std::fmt;

/// A place in the configuration text, both counted from 1. Line 0 stands for the file as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pos {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Pos {
    /// The file as a whole.
    pub(super) const FILE: Pos = Pos { line: 0, column: 0 };
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, counted from 1; 0 when the file as a whole is meant (it could not be read).
    pub line: usize,
    /// Column in characters, counted from 1; 0 when there is no line.
    pub column: usize,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
    /// The line of the configuration that `line` points at; empty where there is none to show.
    pub source: String,
}

/// Why a configuration was refused: all of its problems, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The name of the configuration, as people know it (a file name).
    pub origin: String,
    /// Never empty; sorted by line and column.
    pub problems: Vec<Problem>,
    /// Problems beyond the [`Report::MOST`] that are listed.
    pub left_out: usize,
}

impl Report {
    /// The most problems that one report lists: enough for any honest file, and a bound for the others.
    pub const MOST: usize = 100;

    /// A report of one problem with the file as a whole.
    pub(super) fn about_file(origin: &str, message: String, hint: &str) -> Report {
        let mut problems = Problems::default();
        problems.add(Pos::FILE, message, hint);
        problems.into_report(origin, "")
    }
}

impl fmt::Display for Report {
    /// `FILE:LINE:COLUMN: message`, the hint and the line itself with a mark under the place, for each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            f.write_str(&self.origin)?;
            if problem.line > 0 {
                write!(f, ":{}:{}", problem.line, problem.column)?;
            }
            write!(f, ": {}", problem.message)?;
            if let Some(hint) = &problem.hint {
                write!(f, "\n    hint: {hint}")?;
            }
            if !problem.source.is_empty() {
                let number = problem.line.to_string();
                let margin = " ".repeat(number.len());
                write!(f, "\n    {number} | {}", problem.source)?;
                write!(f, "\n    {margin} | {}^", pad(&problem.source, problem.column))?;
            }
        }
        if self.left_out > 0 {
            write!(f, "\n{}: and {} more problems", self.origin, self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// Blanks as wide as the first `column - 1` characters; tabs stay tabs, so that the mark lines up under them.
fn pad(line: &str, column: usize) -> String {
    let blank = |c| if c == '\t' { '\t' } else { ' ' };
    line.chars().map(blank).chain(std::iter::repeat(' ')).take(column.saturating_sub(1)).collect()
}

/// Problems as they are found, in any order.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<(Pos, String, String)>);

impl Problems {
    /// Notes one problem. An empty hint is none.
    pub(super) fn add(&mut self, at: Pos, message: impl Into<String>, hint: impl Into<String>) {
        self.0.push((at, message.into(), hint.into()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there are more than anybody reads: then hints that take long to work out are left out, so that a
    /// file of ten thousand mistakes is refused as quickly as one with a single one.
    pub(super) fn are_many(&self) -> bool {
        self.0.len() > Report::MOST
    }

    /// Sorts by place and adds the lines of `text` that are meant.
    pub(super) fn into_report(mut self, origin: &str, text: &str) -> Report {
        self.0.sort();
        // A mistake in a template is found at every use of it, but there is one place to correct.
        self.0.dedup();
        let left_out = self.0.len().saturating_sub(Report::MOST);
        self.0.truncate(Report::MOST);
        let lines: Vec<&str> = text.lines().collect();
        let problems = self.0.into_iter().map(|(at, message, hint)| Problem {
            line: at.line,
            column: at.column,
            message,
            hint: (!hint.is_empty()).then_some(hint),
            source: at
                .line
                .checked_sub(1)
                .and_then(|i| lines.get(i))
                .map_or_else(String::new, |line| shown(line)),
        });
        Report { origin: origin.to_owned(), problems: problems.collect(), left_out }
    }
}

/// A line fit to print: nothing that moves a terminal's cursor, and nothing at all if it is too long to help.
fn shown(line: &str) -> String {
    if line.chars().count() > 160 {
        return String::new();
    }
    line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// `text` in backquotes, with control characters spelled out, and cut where it goes on too long.
pub(crate) fn quoted(text: &str) -> String {
    const MOST: usize = 80;
    let mut out = String::from("`");
    for c in text.chars().take(MOST) {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.push_str(if text.chars().nth(MOST).is_some() { "…`" } else { "`" });
    out
}

/// `a, b and c`, for hints that list what there is; says how many are left out of a long list.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    // As many as a device has keys.
    const MOST: usize = 18;
    let names: Vec<&str> = names.into_iter().collect();
    let mut parts: Vec<String> = names.iter().take(MOST).map(|name| quoted(name)).collect();
    if names.len() > MOST {
        parts.push(format!("{} more", names.len() - MOST));
    }
    match parts.pop() {
        None => String::new(),
        Some(only) if parts.is_empty() => only,
        Some(last) => format!("{} and {last}", parts.join(", ")),
    }
}

/// The one of `known` that `word` was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the word may be wrong, but at least one letter; beyond that a guess only confuses.
    let allowed = (word.chars().count() / 3).max(1);
    if word.len() > 64 {
        return None;
    }
    let near = |name: &&str| name.len() <= 64;
    let distance = |name: &'a str| (strsim::osa_distance(word, name), name);
    known
        .into_iter()
        .filter(near)
        .map(distance)
        .filter(|(d, _)| *d <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, n)| n)
}

/// A hint that names the word that was probably meant, and all words there are.
pub(crate) fn choose(word: &str, known: &[&str]) -> String {
    let known_words = listed(known.iter().copied());
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? Known here: {known_words}"),
        None => format!("known here: {known_words}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_like_english() {
        assert_eq!(listed([]), "");
        assert_eq!(listed(["a"]), "`a`");
        assert_eq!(listed(["a", "b", "c"]), "`a`, `b` and `c`");
        assert!(listed(["x"; 20]).ends_with("`x` and 2 more"));
    }

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["weight", "io_limit", "io_throttle"];
        assert_eq!(nearest("wieght", known), Some("weight"));
        assert_eq!(nearest("io_limits", known), Some("io_limit"));
        assert_eq!(nearest("colour", known), None);
    }

    #[test]
    fn a_mark_stands_under_its_place_behind_a_tab() {
        let mut problems = Problems::default();
        problems.add(Pos { line: 2, column: 4 }, "wrong", "right");
        let report = problems.into_report("f.yaml", "a: 1\n\tb: 2");
        assert_eq!(report.to_string(), "f.yaml:2:4: wrong\n    hint: right\n    2 | \tb: 2\n      | \t  ^");
    }

    #[test]
    fn problems_come_in_the_order_of_the_file_and_have_an_end() {
        let mut problems = Problems::default();
        for line in (1..=Report::MOST + 5).rev() {
            problems.add(Pos { line, column: 1 }, "m", "");
        }
        let report = problems.into_report("f", "");
        assert_eq!((report.problems[0].line, report.problems.len(), report.left_out), (1, Report::MOST, 5));
        assert!(report.to_string().ends_with("\nf: and 5 more problems"));
    }
}
