//! What people and their programs read: dm-ioband's table and status, lists, JSON, metrics, and the events.
#![forbid(unsafe_code)]

mod events;
mod files;
mod json;
mod ls;
mod metrics;
mod snapshot;
#[cfg(test)]
mod tests;
mod text;

pub use events::Events;
pub use files::{Control, ControlFile};
pub use json::{list_json, status_json, table_json};
pub use ls::{ImageLine, Service, list};
pub use metrics::metrics;
pub use snapshot::Snapshot;
pub use text::{status_line, table_line};
