//! What ioband groups are told apart by.

use std::sync::Arc;

/// How callers are told apart on an ioband device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupType {
    /// Only the default group.
    None,
    /// By uid (the fsuid of the request).
    User,
    /// By gid (the fsgid of the request).
    Gid,
    /// By process: the thread group id.
    Pid,
    /// By process group.
    Pgrp,
    /// By cgroup: the path and everything below it.
    Cgroup,
    /// By the image file that is accessed.
    Image,
}

impl GroupType {
    /// Every type, in the order people list them.
    pub const ALL: [GroupType; 7] =
        [Self::None, Self::User, Self::Gid, Self::Pid, Self::Pgrp, Self::Cgroup, Self::Image];

    /// The word for it in tables, messages and YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::User => "user",
            Self::Gid => "gid",
            Self::Pid => "pid",
            Self::Pgrp => "pgrp",
            Self::Cgroup => "cgroup",
            Self::Image => "image",
        }
    }

    /// Reads the word; `uid` is an alias of `user`.
    pub fn parse(word: &str) -> Option<Self> {
        let word = if word == "uid" { "user" } else { word };
        Self::ALL.into_iter().find(|t| t.as_str() == word)
    }
}

/// What an ioband group matches: a number for `user`, `gid`, `pid`, `pgrp`; a name for `cgroup` (a path that
/// starts with `/` and has no trailing slash) and `image`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupId {
    /// A uid, gid, process id or process group id.
    Number(u32),
    /// A cgroup path or an image name.
    Name(Arc<str>),
}

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Name(s) => s.fmt(f),
        }
    }
}
