//! What was measured, and what is typical of it.

use crate::cells::Cell;
use crate::ways::Way;
use std::collections::BTreeMap;

/// What one run came to.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// Requests a second.
    pub(crate) iops: f64,
    pub(crate) mib_s: f64,
    pub(crate) mean_us: f64,
    pub(crate) p99_us: f64,
    /// Processor time of the daemon for each request; none of the device itself.
    pub(crate) cpu_us: Option<f64>,
}

/// All runs.
#[derive(Default)]
pub(crate) struct Results {
    runs: BTreeMap<(&'static str, Way, u32), Figures>,
}

impl Results {
    pub(crate) fn add(&mut self, cell: &Cell, way: Way, round: u32, figures: Figures) {
        self.runs.insert((cell.key, way, round), figures);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs of a cell in a way, by round.
    pub(crate) fn of(&self, cell: &Cell, way: Way) -> impl Iterator<Item = (u32, &Figures)> {
        self.runs.range((cell.key, way, 0)..=(cell.key, way, u32::MAX)).map(|(key, got)| (key.2, got))
    }

    /// One figure of them.
    pub(crate) fn typical(
        &self,
        cell: &Cell,
        way: Way,
        figure: impl Fn(&Figures) -> Option<f64>,
    ) -> Option<Typical> {
        Typical::of(self.of(cell, way).filter_map(|(_, got)| figure(got)))
    }

    /// Which part of the other's requests this way did. Rounds are compared each with itself: what the machine did
    /// besides, it did to both.
    pub(crate) fn ratio(&self, cell: &Cell, way: Way, to: Way) -> Option<Typical> {
        let other = |round| self.runs.get(&(cell.key, to, round));
        let ratios = self.of(cell, way).filter_map(|(round, got)| Some(got.iops / other(round)?.iops));
        Typical::of(ratios)
    }
}

/// A median, and the ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Typical {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Typical {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let median = values[(values.len() - 1) / 2].midpoint(values[values.len() / 2]);
        Some(Self { median, least, most })
    }

    /// How far the furthest run was off the median.
    pub(crate) fn off(&self) -> f64 {
        (self.most - self.median).max(self.median - self.least)
    }
}
