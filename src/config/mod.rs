//! YAML to a checked [`Plan`]: parse, check, and say every error at its line and column.
//!
//! The way of a configuration: text, `tree` (keys and values with their places), `shape` (the sections, each
//! value read), `check` (what depends on several values, on this machine or on devices), [`Plan`]. Problems
//! are collected on the whole way, so that one run names them all.
#![forbid(unsafe_code)]

mod check;
mod faults;
mod fields;
mod group_id;
mod load;
mod names;
mod plan;
mod print;
mod report;
mod shape;
mod tree;
pub(crate) mod values;

pub use faults::{FaultError, FaultOp, FaultPlan, Wrongs};
pub(crate) use group_id::{Images, group_id};
pub use load::{
    DIRECTORY, Defaults, Found, FoundKind, LARGEST, Probe, load, load_bytes, load_file, read_file,
};
pub(crate) use names::file_name;
pub use names::{Accounts, Names, ThisMachine, names_in};
pub use plan::*;
pub(crate) use print::device_path;
pub use report::{Problem, Report};
pub(crate) use report::{choose, listed, quoted};
pub(crate) use values::Wrong;
