//! What people read: dm-ioband's table and status, and the events.
#![forbid(unsafe_code)]

mod events;
mod files;
mod text;

pub use events::Events;
pub use files::{Control, ControlFile};
pub use text::{status_line, table_line};
