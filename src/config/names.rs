//! Names: of files in the mount, and of users and groups of this machine.

use super::values::{Wrong, number32};
use super::{check, shape, tree};
use crate::config::report::Problems;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Who knows the users and groups behind names.
pub trait Accounts {
    /// The uid of a user.
    fn user(&self, name: &str) -> Option<u32>;

    /// The gid of a group.
    fn group(&self, name: &str) -> Option<u32>;
}

/// The accounts of this machine, as they are now.
#[derive(Clone, Copy, Debug)]
pub struct ThisMachine;

impl Accounts for ThisMachine {
    fn user(&self, name: &str) -> Option<u32> {
        users::get_user_by_name(name).map(|user| user.uid())
    }

    fn group(&self, name: &str) -> Option<u32> {
        users::get_group_by_name(name).map(|group| group.gid())
    }
}

/// What names were found to stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The uids of users.
    pub users: BTreeMap<String, u32>,
    /// The gids of groups.
    pub groups: BTreeMap<String, u32>,
}

/// Remembers what it was asked.
struct Noting<'a> {
    accounts: &'a dyn Accounts,
    names: RefCell<Names>,
}

impl Accounts for Noting<'_> {
    fn user(&self, name: &str) -> Option<u32> {
        let uid = self.accounts.user(name)?;
        self.names.borrow_mut().users.insert(name.to_owned(), uid);
        Some(uid)
    }

    fn group(&self, name: &str) -> Option<u32> {
        let gid = self.accounts.group(name)?;
        self.names.borrow_mut().groups.insert(name.to_owned(), gid);
        Some(gid)
    }
}

/// What the names in a configuration stand for, so that it can say the same on a machine that has forgotten some of them.
pub fn names_in(text: &str, accounts: &dyn Accounts) -> Names {
    let noting = Noting { accounts, names: RefCell::default() };
    // Whoever loads it tells of them.
    let mut problems = Problems::default();
    if let Some(root) = tree::parse(text, &mut problems) {
        let mount = shape::mount(root, &noting, &mut problems);
        check::names_of_groups(&mount, &noting);
    }
    noting.names.into_inner()
}

/// The longest file name that Linux takes, in bytes.
const LONGEST: usize = 255;

/// A name that a file in the mount's root can have, and a word of a table as well (so no blanks).
pub(crate) fn file_name(text: &str, _bare: bool) -> Result<String, Wrong> {
    let wrong = |reason: &str, hint: &str| Err(Wrong { reason: reason.into(), hint: Some(hint.into()) });
    let plain = "write a plain name, such as vm1.img";
    if text.is_empty() {
        wrong("empty", plain)
    } else if text == "." || text == ".." {
        wrong("what every folder calls itself or its parent", plain)
    } else if text.contains('/') {
        wrong(
            "not one file name: it holds a slash",
            "all files are in one folder: write a name without slashes",
        )
    } else if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        wrong("not a usable name: it holds a blank or a control character", "write `-` or `_` instead")
    } else if text.len() > LONGEST {
        wrong(&format!("{} bytes long", text.len()), &format!("file names are at most {LONGEST} bytes long"))
    } else {
        Ok(text.to_owned())
    }
}

/// A user by name or number.
pub(super) fn user(accounts: &dyn Accounts) -> impl Fn(&str, bool) -> Result<u32, Wrong> {
    |text, bare| account(text, bare, "user", |name| accounts.user(name))
}

/// A group (of users) by name or number.
pub(super) fn group(accounts: &dyn Accounts) -> impl Fn(&str, bool) -> Result<u32, Wrong> {
    |text, bare| account(text, bare, "group", |name| accounts.group(name))
}

fn account(text: &str, bare: bool, kind: &str, look_up: impl Fn(&str) -> Option<u32>) -> Result<u32, Wrong> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // The last number means "no user" to the kernel (chown's -1).
        return number32(0..=u32::MAX - 1)(text, bare);
    }
    look_up(text).ok_or_else(|| format!("no {kind} of this machine").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Knows what it is told, and nobody else.
    impl Accounts for Names {
        fn user(&self, name: &str) -> Option<u32> {
            self.users.get(name).copied()
        }

        fn group(&self, name: &str) -> Option<u32> {
            self.groups.get(name).copied()
        }
    }

    #[test]
    fn the_names_in_a_text_are_those_that_stand_for_somebody() {
        let known = |all: &[(&str, u32)]| all.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect();
        let accounts = Names {
            users: known(&[("alice", 1001), ("bob", 1002), ("carol", 1003), ("nobody", 9)]),
            groups: known(&[("kvm", 36), ("staff", 50), ("alice", 1)]),
        };
        let text = "control: {owner: bob}\n\
            devices:\n  d: {path: /d, type: user, groups: {alice: 10, 7: 5, ghost: 3}}\n  \
            e: {path: /e, type: gid, groups: {staff: {weight: 2}}}\n\
            images: {a.img: {device: d, owner: carol, group: kvm}}\n";
        let names = Names {
            users: known(&[("alice", 1001), ("bob", 1002), ("carol", 1003)]),
            groups: known(&[("kvm", 36), ("staff", 50)]),
        };
        assert_eq!(names_in(text, &accounts), names);
        assert_eq!(names_in("{", &accounts), Names::default());
    }
}
