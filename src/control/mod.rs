//! What people read: dm-ioband's table and status, and the events.
#![forbid(unsafe_code)]

mod events;
mod files;
mod ls;
mod text;

pub use events::Events;
pub use files::{Control, ControlFile};
pub use ls::{ImageLine, Service};
pub use text::{status_line, table_line};
