//! What requests are sent to: block devices and regular files, by io_uring or threads, and simulated ones.
//!
//! A [`Target`] is one opened block device or file; a [`Device`] is the queue to one physical disk; a [`Lane`] is a thread's
//! way to the kernel. The life of a [`Part`], top to bottom:
//!
//! 1. [`Device::submit`] turns it into a `Transfer` (`transfer`): the few aligned steps that it takes.
//! 2. A write asks the range lock (`ranges`) whether it may start; it matters only beside a read-modify-write.
//! 3. Each step is a single system call, made by the lane (`ring` or `pool`) of whichever thread asked.
//! 4. [`Device::finished`] takes what it gave, orders the next step of unfinished parts, and [`Device::collect`] hands
//!    out the others as [`Done`]; a simulated device (`simulate`) keeps them back until they are due.
//!
//! This is one of the two places in the program where `unsafe` is allowed.

mod below;
mod buffer;
mod call;
mod faults;
mod health;
mod kernel;
mod lane;
mod mark;
mod medium;
mod open;
mod pool;
mod queue;
mod ranges;
mod ring;
mod simulate;
mod spin;
mod target;
mod transfer;
mod users;

pub use below::stands_on;
pub use buffer::Payload;
pub use call::{BackendKind, Calls, Finished};
pub use faults::{Fault, FaultOp, Faults};
pub use health::{News, Trouble};
pub use lane::{Command, Event, Lane, Waker};
pub use mark::Mark;
pub use open::{OpenError, OpenMode};
pub use queue::{Device, Done, Op, Part};
pub use simulate::{Model, Simulate};
pub use target::{Kind, Seek, Target, probe};
