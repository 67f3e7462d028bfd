//! One engine per disk: it joins the scheduler and the device, and answers every accepted request exactly once.
//!
//! It has no thread: the threads that serve requests visit it, one at a time. The life of a request, top to bottom:
//!
//! 1. A thread has a batch of requests and of results. Without any lock it classifies the callers and makes the requests
//!    ready ([`Engine::prepare`]).
//! 2. It visits the engine of each disk that is concerned ([`Engine::turn`]): what came is given to the scheduler and to
//!    the device, and what the scheduler then lets pass is left as system calls in the thread's [`Outbox`], whoever asked.
//! 3. The thread starts the calls on its own lane, and only then talks to the callers of what was answered, so that the
//!    device never idles while we talk. What the calls give comes back to the same thread.
//!
//! So a request that may pass at once goes from the caller to the device and back on one thread, without a hand-over. A
//! held request is not tied to a thread: whichever has a place in the device to give takes it along.
//!
//! When memory gets short, held writes are carried out before their turn and answered in it (`ahead`, [`Budget`]).
//!
//! What the disk and its ioband devices are may change while it serves ([`Engine::change`]).
//!
//! Requests and replies are types of our own: the engine does not know by which transport a request came.
#![forbid(unsafe_code)]

mod activity;
mod ahead;
mod band;
mod budget;
mod change;
mod core;
mod image;
mod learned;
mod list;
mod request;
mod seek;
mod status;
#[cfg(test)]
mod tests;

pub use self::core::{Emptied, Engine, EngineSettings, Outbox, Prepared, Turn};
pub use activity::Activity;
pub use band::{BandChange, BandId, BandSettings};
pub use budget::Budget;
pub use change::Change;
pub use image::Image;
pub use learned::{Learned, LearnedBand, LearnedGroup};
pub use list::Engines;
pub use request::{Answer, Pieces, Request, Ticket, Work};
pub use status::{BandStatus, DiskStatus, GroupStatus};
