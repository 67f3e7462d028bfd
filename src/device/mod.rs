//! What requests are sent to: block devices and regular files, by io_uring or threads, and simulated ones.
//!
//! A [`Target`] is one opened block device or file; a [`Device`] is the queue to one physical disk. The life of
//! a [`Part`], top to bottom:
//!
//! 1. [`Device::submit`] turns it into a `Transfer` (`transfer`): the few aligned steps that it takes.
//! 2. A write asks the range lock (`ranges`) whether it may start; it matters only beside a read-modify-write.
//! 3. Each step goes to the backend (`uring` or `threads`), which knows nothing but single system calls.
//! 4. [`Device::wait`] collects what the backend finished, sends the next step of unfinished parts, and hands
//!    out the others as [`Done`]; a simulated device (`simulate`) keeps them back until they are due.
//!
//! This is one of the two places in the program where `unsafe` is allowed.

mod backend;
mod buffer;
mod kernel;
mod open;
mod queue;
mod ranges;
mod simulate;
mod target;
mod threads;
mod transfer;
mod uring;
mod users;

pub use backend::BackendKind;
pub use buffer::Payload;
pub use open::{OpenError, OpenMode};
pub use queue::{Device, Done, Op, Part};
pub use simulate::{Model, Simulate};
pub use target::{Kind, Seek, Target, probe};
