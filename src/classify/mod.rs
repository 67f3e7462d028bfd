//! Who is calling, and to which ioband group that caller belongs.
//!
//! A FUSE request says uid, gid and *thread id*. Two steps lead from there to a group:
//!
//! ```text
//! Caller { uid, gid, tid } --Callers::resolve--> Who::Caller(Identity) --GroupMap::classify--> K
//!                                           `--> Who::Kernel: ask again for the opener of the file handle
//! ```
//!
//! [`Callers`] is one per mount: it turns thread ids into processes, process groups and cgroups, from a cache.
//! [`GroupMap`] is one per ioband device and is a plain look-up table.
//!
//! **A reused thread id never inherits a group.** The kernel hands numbers out again, so a cached answer is only
//! used while the kernel vouches that the thread it was read from still lives; `watch.rs` says how.
#![forbid(unsafe_code)]

mod callers;
mod group;
mod map;
mod proc;
#[cfg(test)]
mod reuse_tests;
mod watch;

pub use callers::{Callers, Round};
pub use group::{GroupId, GroupType};
pub use map::{DuplicateGroup, GroupMap};
pub use proc::{Ending, ProcessId, are_processes_hidden, process_of};

use std::sync::Arc;

/// Who a request says it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The fsuid.
    pub uid: u32,
    /// The fsgid.
    pub gid: u32,
    /// The thread id, in the pid namespace of the mount; 0 is the kernel (or somebody outside that namespace).
    pub tid: u32,
}

/// Who a caller is, as far as the mount's group types need to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The fsuid, as the request has it.
    pub uid: u32,
    /// The fsgid, as the request has it.
    pub gid: u32,
    /// The process; `None` if nobody asked for it, or if the thread has gone already.
    pub process: Option<ProcessId>,
    /// The process group; `None` as for `process`.
    pub pgrp: Option<u32>,
    /// The cgroup v2 path and the v1 paths, without repetitions; empty as for `process`.
    pub cgroups: Arc<[Box<str>]>,
}

impl Identity {
    /// Somebody of whom no more than uid and gid is known.
    pub fn from_ids(uid: u32, gid: u32) -> Self {
        Self { uid, gid, process: None, pgrp: None, cgroups: Arc::default() }
    }
}

/// Whom a request is to be charged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// This caller.
    Caller(Identity),
    /// The kernel made the request on somebody's behalf (write-back, a loop device's worker, libaio's fsync):
    /// charge whoever opened the file handle that it came through.
    Kernel,
}

/// What the group types of a mount need to know of a caller. Nothing is looked up that nobody needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The process (type `pid`).
    pub process: bool,
    /// The process group (type `pgrp`).
    pub pgrp: bool,
    /// The cgroup paths (type `cgroup`).
    pub cgroup: bool,
}

impl Wants {
    /// What a mount needs whose ioband devices have these group types.
    pub fn of(types: impl IntoIterator<Item = GroupType>) -> Self {
        types.into_iter().fold(Self::default(), |wants, group_type| Self {
            process: wants.process || group_type == GroupType::Pid,
            pgrp: wants.pgrp || group_type == GroupType::Pgrp,
            cgroup: wants.cgroup || group_type == GroupType::Cgroup,
        })
    }
}
