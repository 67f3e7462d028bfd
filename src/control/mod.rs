//! What people read and write: dm-ioband's tables, status and messages, and the events.
#![forbid(unsafe_code)]

pub mod edit;
mod events;
mod files;
pub mod grammar;
mod ls;
mod refusal;
mod setting;
mod text;

pub use events::Events;
pub use files::{Control, ControlFile};
pub use ls::{ImageLine, Service};
pub use refusal::Refusal;
pub use setting::Setting;
pub use text::{status_line, table_line};
