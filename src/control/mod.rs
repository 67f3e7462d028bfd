//! dm-ioband's words, and everything that people read and write: the running configuration and its ways to change.
//!
//! * `grammar`: the words of tables and messages; `command` those of `ctl`; `setting` the files of a device.
//! * `edit`: a message, a `create` or `remove` makes another plan out of one. `refusal` is how all of it says no.
//! * `running`: the one configuration that is in force, and every way to change it.
//! * `draft` and `transaction`: what is being written to `control.yaml` and to `ctl`.
//! * `journal`: what of all that a successor must know.
//! * `files`: which files there are. `text`, `ls`, `metrics` and `json` are what they say, mostly of a `snapshot`; `events`
//!   what has happened.
#![forbid(unsafe_code)]

mod command;
mod draft;
pub mod edit;
mod events;
mod files;
pub mod grammar;
mod journal;
mod json;
mod ls;
mod metrics;
mod refusal;
mod running;
mod setting;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;
mod text;
mod transaction;

pub use draft::{Draft, DraftState, TooLarge};
pub use events::{Events, Follower};
pub use files::ControlFile;
pub use journal::{
    Access, Asked, Carried, DeviceEntry, ImageEntry, Journal, OrphanEntry, ScratchEntry, Stamp,
};
pub use ls::{ImageLine, Processes, Service};
pub use refusal::Refusal;
pub use running::{Control, Machinery};
pub use setting::Setting;
pub use snapshot::Snapshot;
pub use transaction::{TooLong, Transaction};
