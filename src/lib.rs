//! ioband shares one disk between virtual machines and users.
//!
//! It mounts a FUSE filesystem of disk image files, tells the callers of every request apart (user, group,
//! process, process group, cgroup, image) and gives each *ioband group* the part of the disk that its weight
//! asks for. This is the map of the program; arrows point one way, each module uses only those above it:
//!
//! * [`units`], [`clock`]: sectors, bytes and weights as types of their own; the only place that reads time.
//! * [`mountinfo`]: what is mounted where.
//! * [`sandbox`]: what the process that serves gives up.
//! * [`ledger`]: what a successor must know, in memory that outlives the process.
//! * [`sched`]: the pure scheduler. No clock, descriptor, thread or log: time goes in, decisions come out.
//! * [`classify`]: who is calling, and to which ioband group that caller belongs.
//! * [`config`]: YAML to a checked [`config::Plan`], with every error at its line and column, and back.
//! * [`device`]: block devices and files by io_uring or threads, unaligned requests, simulated devices.
//! * [`engine`]: one per disk; joins scheduler and device and answers every accepted request exactly once.
//! * [`control`]: the running configuration, every way to change it, dm-ioband's words, and what is to be seen of it.
//! * [`fuse`]: the only code that knows FUSE.
//! * [`keeper`]: keeps the mount while the processes that serve it come and go.
//! * [`daemon`]: puts the parts together; [`cli`]: the commands.

pub mod classify;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod device;
pub mod engine;
pub mod fuse;
pub mod keeper;
pub mod ledger;
pub mod mountinfo;
pub mod sandbox;
pub mod sched;
pub mod units;
