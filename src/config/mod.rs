//! YAML to a checked [`Plan`]: parse, check, and say every error at its line and column.
#![forbid(unsafe_code)]

mod plan;
mod report;
mod tree;

pub use plan::*;
pub use report::{Problem, Report};
