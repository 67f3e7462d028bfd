//! What is asked of each way: the cells of the comparison, and what ioband should reach in each.

/// One kind of load, always of one fio job or of several alike.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Its name on the command line.
    pub(crate) key: &'static str,
    /// Its name for people.
    pub(crate) title: &'static str,
    pub(crate) rw: &'static str,
    pub(crate) block: &'static str,
    pub(crate) engine: &'static str,
    /// Requests in flight for each job.
    pub(crate) depth: u32,
    pub(crate) jobs: u32,
    /// Which part of what the device itself does is to be had through `--transport uring` and `dev`.
    pub(crate) marks: Marks,
}

/// See [`Cell::marks`].
#[derive(Debug)]
pub(crate) struct Marks {
    pub(crate) uring: f64,
    pub(crate) dev: f64,
}

impl Cell {
    /// Whether it writes; otherwise it reads.
    pub(crate) fn writes(&self) -> bool {
        self.rw.ends_with("write")
    }

    /// Whether its jobs can be those of two users.
    pub(crate) fn has_many_jobs(&self) -> bool {
        self.jobs > 1
    }
}

const QD1: (&str, &str, u32, u32) = ("4k", "psync", 1, 1);
const QD32: (&str, &str, u32, u32) = ("4k", "libaio", 32, 1);
const FOUR_QD32: (&str, &str, u32, u32) = ("4k", "libaio", 32, 4);
const LARGE: (&str, &str, u32, u32) = ("1m", "libaio", 8, 1);

/// All of them, in the order of the tables.
pub(crate) const CELLS: [Cell; 8] = [
    cell("read-qd1", "4 KiB read QD1", "randread", QD1, (0.90, 0.75)),
    cell("write-qd1", "4 KiB write QD1", "randwrite", QD1, (0.90, 0.60)),
    cell("read-qd32", "4 KiB read QD32", "randread", QD32, (0.55, 0.45)),
    cell("write-qd32", "4 KiB write QD32", "randwrite", QD32, (0.55, 0.45)),
    cell("read-4xqd32", "4 KiB read 4 x QD32", "randread", FOUR_QD32, (0.50, 0.40)),
    cell("write-4xqd32", "4 KiB write 4 x QD32", "randwrite", FOUR_QD32, (0.50, 0.40)),
    cell("read-1m", "1 MiB read QD8", "read", LARGE, (0.40, 0.35)),
    cell("write-1m", "1 MiB write QD8", "write", LARGE, (0.40, 0.35)),
];

const fn cell(
    key: &'static str,
    title: &'static str,
    rw: &'static str,
    (block, engine, depth, jobs): (&'static str, &'static str, u32, u32),
    (uring, dev): (f64, f64),
) -> Cell {
    Cell { key, title, rw, block, engine, depth, jobs, marks: Marks { uring, dev } }
}
