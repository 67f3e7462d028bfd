//! The pure scheduler.
#![forbid(unsafe_code)]

mod policy;

pub use policy::Policy;
