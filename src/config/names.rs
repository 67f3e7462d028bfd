//! Names: of files in the mount, and of users and groups of this machine.

use super::values::{Wrong, number32};

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
pub(super) fn user(text: &str, bare: bool) -> Result<u32, Wrong> {
    account(text, bare, "user", |name| users::get_user_by_name(name).map(|user| user.uid()))
}

/// A group (of users) by name or number.
pub(super) fn group(text: &str, bare: bool) -> Result<u32, Wrong> {
    account(text, bare, "group", |name| users::get_group_by_name(name).map(|group| group.gid()))
}

fn account(text: &str, bare: bool, kind: &str, look_up: impl Fn(&str) -> Option<u32>) -> Result<u32, Wrong> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // The last number means "no user" to the kernel (chown's -1).
        return number32(0..=u32::MAX - 1)(text, bare);
    }
    look_up(text).ok_or_else(|| format!("no {kind} of this machine").into())
}
