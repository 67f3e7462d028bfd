//! The pure scheduler of one disk.
//!
//! No clock, descriptor, thread or log: time is an argument, effects are return values. `submit` accepts a request,
//! `next` says what to do now, `complete` takes a request back from the device.
//!
//! The algorithm in a page (the whole of it, with its bounds: `contrib/docs/SCHEDULER.md`). Each group has a *start tag*,
//! its position in virtual time; serving a request of *c* tokens moves it by *c / weight*. Serving groups so that their
//! tags keep abreast is the proportional share (rule R1). Virtual time is where they are on average, and taking among the
//! groups that are not ahead of it the one that would finish first keeps it smooth (rule R7; WF2Q+, EEVDF). dm-ioband's
//! tokens are the same thing seen from the group: an epoch is a stretch of virtual time worth `token_base` tokens, the
//! tokens left are the distance to its end, a refill is the moment when virtual time gets there, and debt is a tag beyond.
//!
//! How many requests the device gets at once is decided by [`Settings`] or, for 0, measured (rule R8, `depth`).
//! A synchronous group whose turn it is but who has nothing queued (its request is in flight, or it thinks) has one
//! slot of the device kept back for it (rule R3, `think`, `order`). Minima and caps are kept in real time (R11, R12,
//! `minima`, `limits`).
#![forbid(unsafe_code)]

mod counters;
mod depth;
mod disk;
mod group;
mod limits;
mod minima;
mod order;
mod policy;
mod tags;
mod think;

pub use counters::{Counters, Direction};
pub use disk::{DEFAULT_TOKEN_BASE, Disk, Dispatched, GroupKey, Next, Settings};
pub use group::Request;
pub use limits::{Cap, Limits};
pub use policy::{Op, Policy};
