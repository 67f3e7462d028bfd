//! What ioband should reach, and whether it does.

use crate::cells::Cell;
use crate::results::Results;
use crate::ways::Way;

/// What the scheduler may leave of the requests that pass without it.
const SCHEDULED: f64 = 0.95;

/// A line for each mark: what, and whether it was reached.
pub(crate) fn lines(results: &Results, cells: &[&Cell]) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for cell in cells {
        for (way, mark) in [(Way::Uring, cell.marks.uring), (Way::Dev, cell.marks.dev)] {
            let what = format!("{}, {} at {mark:.2} of raw", cell.title, way.name());
            let got = results.ratio(cell, way, Way::Raw).map(|ratio| ratio.median);
            let verdict = match got {
                None => "not measured".to_owned(),
                // As much as is printed counts, so that nothing is missed by 0.55 of 0.55.
                Some(got) if printed(got) >= mark => format!("reached ({got:.2})"),
                Some(got) => format!("missed ({got:.2} of {mark:.2})"),
            };
            lines.push((what, verdict));
        }
    }
    for way in [Way::Uring, Way::Dev] {
        let what = format!("{} better than qemu-storage-daemon in every cell", way.name());
        lines.push((what, everywhere(results, cells, (way, Way::QemuStorageDaemon), 1.0)));
    }
    for pair in [(Way::Uring, Way::UringNoScheduling), (Way::Dev, Way::DevNoScheduling)] {
        let what = format!("{}, with scheduling {SCHEDULED:.2} of without in every cell", pair.0.name());
        lines.push((what, everywhere(results, cells, pair, SCHEDULED)));
    }
    lines
}

/// Whether a way does such a part of another one's requests in every cell; where it does not.
fn everywhere(results: &Results, cells: &[&Cell], (way, other): (Way, Way), mark: f64) -> String {
    let ratios = |cell: &&Cell| Some((cell.title, results.ratio(cell, way, other)?.median));
    let ratios: Vec<_> = cells.iter().filter_map(ratios).collect();
    if ratios.is_empty() {
        return "not measured".to_owned();
    }
    let missed = ratios.iter().filter(|(_, ratio)| printed(*ratio) < mark);
    let missed: Vec<_> = missed.map(|(title, ratio)| format!("{title}: {ratio:.2} of {mark:.2}")).collect();
    if missed.is_empty() { "reached".to_owned() } else { format!("missed ({})", missed.join("; ")) }
}

/// As it is printed.
fn printed(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}
