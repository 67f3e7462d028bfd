//! The only code that knows FUSE.
//!
//! * `mount`: mount(2) or fusermount3, unmounting, and telling a dead mount from a live one.
//! * `passed`: descriptors that come through a socket.
//! * `tree`: what there is to see at a moment: images and the control directory, with their inode numbers. `node` is an image
//!   as a file, `scratch` what editors keep beside the configuration.
//! * `server`: chooses the transport and starts the threads; `worker` is what each of them does.
//! * `takeover`: a connection that outlives who serves it; `handover`: the same for what is in rings; `leave`: how
//!   whoever serves goes.
//! * `dev` and `rings`, the transports: /dev/fuse read by ourselves, and FUSE over io_uring. `slots` is the memory that
//!   requests lie in, `wire` the kernel's words for them.
//! * `images`: from a request for the bytes of an image to the engine of its disk.
//! * `relay`: everything else goes to fuser, through a pair of sockets. `metadata` is what fuser calls, `face` what
//!   it and the others look at, `handles` what is open and `open_files` under which numbers,
//!   `control_dir` the files of the control directory, `waiting` who waits for events.
//! * `kept`: what is being written, where a successor finds it; `inherit` is that successor.
//! * `place`: on which processor a thread serves; `inbox`: what threads leave for each other.
//! * `sys`: the one corner with `unsafe`.
//!
//! What is negotiated with the kernel, and why, stands at `Metadata::init` in `metadata`.
#![deny(unsafe_code)]

mod control_dir;
mod dev;
mod face;
mod handles;
mod handover;
mod images;
mod inbox;
mod inherit;
mod kept;
mod leave;
mod metadata;
mod mount;
mod node;
mod open_files;
mod passed;
mod place;
mod relay;
#[cfg(test)]
mod repeat_tests;
mod rings;
mod scratch;
mod server;
mod slots;
mod sys;
mod takeover;
mod tree;
mod waiting;
mod wire;
mod worker;

/// What of fuser's own log is worth reading: not that it cannot reply to a request that was aborted meanwhile.
pub const LOG_FILTER: &str = "fuser=warn,fuser::reply=off";

pub use face::Face;
pub use mount::{
    MountError, Mounted, MountedAt, State, check_mountpoint, default_acl, ioband_mounts, probe_mountpoint,
    resolved, unmount,
};
pub use node::ImageNode;
pub(crate) use passed::{MOST_AT_ONCE, receive};
pub use server::{Connection, Hold, LEAST_MEMORY, ServeError, ServeOptions, Server, TransportKind};
pub(crate) use sys::inherited;
pub(crate) use takeover::Refusing;
pub use tree::{Tree, TreeError};
