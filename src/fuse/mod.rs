//! The only code that knows FUSE.
//!
//! * `mount`: mount(2) or fusermount3, unmounting, and telling a dead mount from a live one.
//! * `tree`: what there is to see: images and the control directory, with their inode numbers and attributes.
//! * `face`: fuser's operations on that tree. Reads and writes of images are classified, handed to the engine of
//!   their disk, and answered from there (`reply`): a FUSE thread never waits for the device.
//! * `sys`: the one corner with `unsafe`.
//!
//! What is negotiated with the kernel, and why, stands at `Face::init`.
#![deny(unsafe_code)]

mod face;
mod image_ops;
mod mount;
mod reply;
mod sys;
mod tree;

/// What of fuser's own log is worth reading: not that it cannot reply to a request that was aborted meanwhile.
pub const LOG_FILTER: &str = "fuser=warn,fuser::reply=off";

pub use face::Face;
pub use mount::{
    MountError, Mounted, MountedAt, State, check_mountpoint, default_acl, ioband_mounts, probe_mountpoint,
    resolved, unmount,
};
pub use tree::{ImageNode, Tree, TreeError};
