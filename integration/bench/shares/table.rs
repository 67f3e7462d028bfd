//! A scenario's runs as a table for people: a row for each way, in each cell the clients side by side.

use crate::results::{Figures, typical};
use crate::sim::Scenario;
use std::fmt::Write;

/// In the order of [`Figures::lists`], with the decimals that mean something.
const COLUMNS: [(&str, usize); 5] =
    [("share %", 2), ("disk %", 1), ("requests/s", 0), ("p99 ms", 1), ("longest ms", 1)];

/// A way, and what its runs came to.
pub(crate) struct Row {
    name: String,
    pub(crate) figures: Vec<Figures>,
    /// Why there are none.
    pub(crate) skipped: Option<String>,
}

impl Row {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), figures: Vec::new(), skipped: None }
    }

    fn cells(&self) -> Vec<String> {
        let of = |column: usize, decimals| {
            let runs: Vec<_> = self.figures.iter().map(|figures| figures.lists()[column]).collect();
            cell(&runs, decimals)
        };
        let cells = COLUMNS.iter().enumerate().map(|(column, (_, decimals))| of(column, *decimals));
        std::iter::once(self.name.clone()).chain(cells).collect()
    }
}

/// Medians, and the spread if there is more than one run: `66.67/33.33 ±0.01`.
fn cell(runs: &[&[f64]], decimals: usize) -> String {
    let (medians, off) = typical(runs);
    if medians.is_empty() {
        return "-".to_owned();
    }
    let medians: Vec<_> = medians.iter().map(|median| format!("{median:.decimals$}")).collect();
    let spread = if runs.len() > 1 { format!(" ±{off:.decimals$}") } else { String::new() };
    medians.join("/") + &spread
}

pub(crate) fn table(scenario: &Scenario, rows: &[Row]) -> String {
    let clients: Vec<_> = scenario
        .clients
        .iter()
        .map(|client| format!("{} ({} of weight, {} deep)", client.name, client.weight, client.depth))
        .collect();
    let heads = std::iter::once("").chain(COLUMNS.iter().map(|(head, _)| *head)).map(str::to_owned).collect();
    let lines: Vec<Vec<String>> = std::iter::once(heads).chain(rows.iter().map(Row::cells)).collect();
    let wide = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let wide: Vec<_> = (0..=COLUMNS.len()).map(wide).collect();
    let mut text = clients.join(" / ") + "\n";
    let reasons = std::iter::once(&None).chain(rows.iter().map(|row| &row.skipped));
    for (cells, reason) in lines.iter().zip(reasons) {
        let mut line = format!("{:<1$}", cells[0], wide[0]);
        // Writing to a String cannot fail.
        let _ = match reason {
            Some(reason) => write!(line, "  skipped: {reason}"),
            None => (1..cells.len()).try_for_each(|at| write!(line, "  {:<1$}", cells[at], wide[at])),
        };
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
