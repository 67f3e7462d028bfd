//! The files of one ioband device: each shows one setting, and takes what a message takes.
//!
//! ```text
//! $ cat type          $ echo 1000:30 > weight           # the message `weight 1000:30`
//! user                $ echo 40 > weight                # the default group
//! $ cat groups        $ echo '+3000 -2000' > groups     # attach 3000, detach 2000
//! 1000:80             $ echo 1000:30 3000:50 > groups   # weights; attaches who is missing
//! 2000:20             $ cat saved > groups              # as it was shown
//! ```
//!
//! In `groups` each word is one group: `+ID` or `+ID:WEIGHT` attaches it, `-ID` detaches it, `ID:WEIGHT` says its weight;
//! under `range-bw` WEIGHT is MIN:MAX. An ID that itself starts with `+` or `-` is for messages.

use super::edit::table;
use super::grammar::{Message, TableLine};
use super::refusal::Refusal;
use crate::classify::{GroupId, GroupType};
use crate::config::{DevicePlan, Images, ThisMachine, group_id, quoted};
use crate::sched::Policy;
use std::collections::HashSet;

/// A file of an ioband device. Their order is that of their inode numbers: add new ones at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// How callers are told apart.
    Type,
    /// What a request costs.
    Policy,
    /// Tokens of an epoch, of its disk.
    TokenBase,
    /// In-flight requests above which control starts, on its disk.
    IoThrottle,
    /// Most requests in flight, on its disk.
    IoLimit,
    /// The weight of the default group; takes that of any group.
    Weight,
    /// The other groups.
    Groups,
}

impl Setting {
    /// All of them.
    pub const ALL: [Setting; 7] = [
        Self::Type,
        Self::Policy,
        Self::TokenBase,
        Self::IoThrottle,
        Self::IoLimit,
        Self::Weight,
        Self::Groups,
    ];

    /// Its file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Policy => "policy",
            Self::TokenBase => "token_base",
            Self::IoThrottle => "io_throttle",
            Self::IoLimit => "io_limit",
            Self::Weight => "weight",
            Self::Groups => "groups",
        }
    }

    /// What the file holds: a value and a line end; for `groups` a line each, as the words of a table.
    pub fn text(self, device: &DevicePlan) -> String {
        match self {
            Self::Type => format!("{}\n", device.group_type.as_str()),
            Self::Policy => format!("{}\n", device.policy.as_str()),
            Self::TokenBase => format!("{}\n", device.token_base),
            Self::IoThrottle => format!("{}\n", device.io_throttle),
            Self::IoLimit => format!("{}\n", device.io_limit),
            Self::Weight => format!("{}\n", device.weight),
            Self::Groups => {
                let TableLine { policy, groups, .. } = table(device);
                groups.iter().map(|(id, share)| format!("{}\n", share.word(id, policy))).collect()
            }
        }
    }

    /// What a write asks for, as messages to be carried out one after the other, or none of them.
    ///
    /// # Errors
    /// EINVAL if nothing is written, or what no message says.
    pub fn messages(self, device: &DevicePlan, written: &str) -> Result<Vec<Message>, Refusal> {
        let first = match self {
            Self::TokenBase => "token",
            other => other.name(),
        };
        let messages = match self {
            Self::Groups => groups(device, written)?,
            _ => {
                let lines = written.lines().filter(|line| !line.trim().is_empty());
                lines.map(|line| format!("{first} {line}").parse()).collect::<Result<Vec<Message>, _>>()?
            }
        };
        if messages.is_empty() {
            let right = if self == Self::Groups { "+ID, -ID or ID:WEIGHT" } else { "what it shows" };
            return Err(Refusal::invalid(format!("nothing is written to `{}`; write {right}", self.name())));
        }
        Ok(messages)
    }
}

/// Reads the words of `groups`.
fn groups(device: &DevicePlan, written: &str) -> Result<Vec<Message>, Refusal> {
    let mut attached: HashSet<GroupId> = device.groups.iter().map(|group| group.id.clone()).collect();
    // What nobody knows as an id is refused when it is attached, with the reason.
    let images = Images::new([]);
    let known = |word: &str| match device.group_type {
        GroupType::Image => Some(GroupId::Name(word.into())),
        other => group_id(word, other, &device.name, &images, &ThisMachine, true).ok(),
    };
    let mut messages: Vec<Message> = Vec::new();
    for word in written.split_whitespace() {
        if let Some(id) = word.strip_prefix('-') {
            messages.push(format!("detach {id}").parse()?);
            known(id).iter().for_each(|id| {
                attached.remove(id);
            });
            continue;
        }
        let (plus, rest) = word.strip_prefix('+').map_or((false, word), |rest| (true, rest));
        let (id, share) = split(rest, device.policy);
        if share.is_none() && !plus {
            let right = match device.policy {
                Policy::RangeBw => "ID:MIN:MAX",
                Policy::Weight | Policy::WeightIosize => "ID:WEIGHT",
            };
            return Err(Refusal::invalid(format!("{} is no group; write +ID, -ID or {right}", quoted(word))));
        }
        if plus || known(id).is_none_or(|id| !attached.contains(&id)) {
            messages.push(format!("attach {id}").parse()?);
            attached.extend(known(id));
        }
        let first = if device.policy == Policy::RangeBw { "range-bw" } else { "weight" };
        if let Some(share) = share {
            messages.push(format!("{first} {id}:{share}").parse()?);
        }
    }
    Ok(messages)
}

/// An id and the numbers behind its last colons; ids may hold colons themselves.
fn split(word: &str, policy: Policy) -> (&str, Option<&str>) {
    let colons = if policy == Policy::RangeBw { 2 } else { 1 };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let Some((at, _)) = word.rmatch_indices(':').nth(colons - 1) else { return (word, None) };
    let (id, share) = (&word[..at], &word[at + 1..]);
    if !id.is_empty() && share.split(':').all(number) { (id, Some(share)) } else { (word, None) }
}
