//! Who is calling, and to which ioband group that caller belongs.
#![forbid(unsafe_code)]

mod group;

pub use group::{GroupId, GroupType};
