//! Tables for people, as plain text or as Markdown.

use crate::cells::Cell;
use crate::results::{Figures, Results, Typical};
use crate::ways::Way;
use std::fmt::Write;

/// How everything is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Markdown,
}

impl Form {
    pub(crate) fn heading(self, text: &str) -> String {
        match self {
            Self::Plain => format!("\n{text}\n"),
            Self::Markdown => format!("\n### {text}\n\n"),
        }
    }

    pub(crate) fn item(self, name: &str, text: &str) -> String {
        match self {
            Self::Plain => format!("{name}: {text}\n"),
            Self::Markdown => format!("- {name}: {text}\n"),
        }
    }
}

/// A column: its heading, the decimals that mean something, and what is in it.
type Column = (&'static str, usize, fn(&Figures) -> Option<f64>);

const COLUMNS: [Column; 5] = [
    ("k/s", 1, |got| Some(got.iops / 1e3)),
    ("MiB/s", 0, |got| Some(got.mib_s)),
    ("mean us", 1, |got| Some(got.mean_us)),
    ("p99 us", 0, |got| Some(got.p99_us)),
    ("CPU us/request", 1, |got| got.cpu_us),
];

/// What a cell came to: a row for each way that has been measured.
pub(crate) fn table(form: Form, results: &Results, cell: &Cell, ways: &[Way]) -> String {
    let heads = std::iter::once("").chain(COLUMNS.iter().map(|column| column.0)).chain(["of raw"]);
    let mut lines: Vec<Vec<String>> = vec![heads.map(str::to_owned).collect()];
    for way in ways.iter().copied().filter(|way| results.of(cell, *way).next().is_some()) {
        let figures = COLUMNS.iter().map(|(_, decimals, figure)| {
            results.typical(cell, way, figure).map_or("-".to_owned(), |typical| around(&typical, *decimals))
        });
        let mut line = vec![way.name().to_owned()];
        line.extend(figures);
        let ratio = results.ratio(cell, way, Way::Raw).filter(|_| way != Way::Raw);
        line.push(ratio.map_or("-".to_owned(), |ratio| between(&ratio)));
        lines.push(line);
    }
    match form {
        Form::Plain => plain(&lines),
        Form::Markdown => markdown(&lines),
    }
}

/// `12.3 ±0.4`.
fn around(typical: &Typical, decimals: usize) -> String {
    format!("{:.decimals$} ±{:.decimals$}", typical.median, typical.off())
}

/// `0.52 (0.50..0.55)`.
fn between(typical: &Typical) -> String {
    format!("{:.2} ({:.2}..{:.2})", typical.median, typical.least, typical.most)
}

// Writing to a String cannot fail.
fn plain(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let wide = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let wide: Vec<_> = (0..columns).map(wide).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (cell, wide) in line.iter().zip(&wide) {
            let _ = write!(row, "{cell:<wide$}  ");
        }
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}

fn markdown(lines: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let _ = writeln!(text, "| {} |", line.join(" | "));
        if number == 0 {
            let _ = writeln!(text, "|---|{}", "---:|".repeat(line.len() - 1));
        }
    }
    text
}
