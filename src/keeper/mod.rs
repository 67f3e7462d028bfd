//! Keeps a mount while the processes that serve it come and go.
//!
//! A FUSE mount lives as long as somebody holds its descriptor. The *keeper* is a process that does next to nothing, so it
//! does not die: it mounts, holds the descriptors of /dev/fuse and the ledger, starts a *worker*, and unmounts in the end. The
//! worker serves. When it dies the keeper starts the next one, which reads in the ledger where the dead one was, and has the
//! kernel send again what was not answered. Callers wait for a moment.
//!
//! * `link`: what they say to each other.
//! * `program`: what workers are started from.
//! * `keep`: what the keeper does; `patience`: how often it tries.
//! * `systemd`: the service manager is told, and holds the descriptors as well: the keeper of the keeper.
//! * `kept`: the worker's side.
#![forbid(unsafe_code)]

mod keep;
mod kept;
mod link;
mod patience;
mod program;
mod systemd;

pub use keep::{Keeping, keep};
pub use kept::{Facts, Keeper, Kept, Word};
pub use link::{Begin, Upgrade};
