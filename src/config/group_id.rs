//! Ids of groups: numbers, names that are looked up, cgroup paths and images, by the type of the device. The same words
//! name them in a configuration, in a table and in a message.

use super::names::{self, Accounts};
use super::plan::Plan;
use super::report::{listed, nearest, quoted};
use super::values::{Wrong, number32};
use crate::classify::{GroupId, GroupType};
use std::collections::HashMap;

/// The largest process id that Linux gives out.
const LAST_PID: u32 = 1 << 22;

/// The longest path that Linux takes, in bytes.
const LONGEST_CGROUP: usize = 4095;

/// The images of the mount, each with the name of its device; without one where nobody can tell.
pub(crate) struct Images<'a> {
    all: Vec<(&'a str, Option<&'a str>)>,
    by_name: HashMap<&'a str, Option<&'a str>>,
}

impl<'a> Images<'a> {
    pub(crate) fn new(all: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Self {
        let all: Vec<_> = all.into_iter().collect();
        let by_name = all.iter().copied().collect();
        Images { all, by_name }
    }

    /// Those of a plan.
    pub(crate) fn of(plan: &'a Plan) -> Self {
        let device = |index: usize| plan.devices.get(index).map(|device| device.name.as_str());
        Self::new(plan.images.iter().map(|image| (image.name.as_str(), device(image.device))))
    }

    fn on(&self, device: &str) -> impl Iterator<Item = &'a str> {
        self.all.iter().filter(move |(_, on)| *on == Some(device)).map(|(name, _)| *name)
    }
}

/// Reads one id as the type of `device` asks for; `brief` saves the hints that take long.
pub(crate) fn group_id(
    word: &str,
    group_type: GroupType,
    device: &str,
    images: &Images<'_>,
    accounts: &dyn Accounts,
    brief: bool,
) -> Result<GroupId, Wrong> {
    let hinted = |hint: &'static str| move |w: Wrong| Wrong { hint: w.hint.or(Some(hint.into())), ..w };
    match group_type {
        GroupType::None => Err("not possible under type none".into()),
        GroupType::User => names::user(accounts)(word, true)
            .map(GroupId::Number)
            .map_err(hinted("`getent passwd` lists the users; a number is always understood")),
        GroupType::Gid => names::group(accounts)(word, true)
            .map(GroupId::Number)
            .map_err(hinted("`getent group` lists the groups; a number is always understood")),
        GroupType::Pid => number32(1..=LAST_PID)(word, true)
            .map(GroupId::Number)
            .map_err(hinted("with `type: pid`, write the number of a process")),
        GroupType::Pgrp => number32(1..=LAST_PID)(word, true)
            .map(GroupId::Number)
            .map_err(hinted("with `type: pgrp`, write the number of a process group, the pid of its leader")),
        GroupType::Cgroup => cgroup(word),
        GroupType::Image => image(word, device, images, brief),
    }
}

/// A cgroup path from the root of its hierarchy, without a slash at its end.
fn cgroup(word: &str) -> Result<GroupId, Wrong> {
    let wrong = |reason: &str, hint: &str| Err(Wrong { reason: reason.into(), hint: Some(hint.into()) });
    let path = word.trim_end_matches('/');
    let Some(inner) = word.strip_prefix('/') else {
        return wrong(
            "no cgroup path",
            "write it from the root, as in /proc/PID/cgroup: /machine.slice/vm1.scope",
        );
    };
    if path.is_empty() {
        return wrong(
            "the root cgroup, which holds everybody",
            "use the `weight` of the device: the default group",
        );
    }
    if inner.trim_end_matches('/').split('/').any(|part| matches!(part, "" | "." | "..")) {
        return wrong("no plain path", "write it without `//`, `.` and `..`");
    }
    if path.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return wrong("not a usable name: it holds a blank or a control character", "rename the cgroup");
    }
    if path.len() > LONGEST_CGROUP {
        return wrong("too long", &format!("write a cgroup above it: at most {LONGEST_CGROUP} bytes"));
    }
    Ok(GroupId::Name(path.into()))
}

/// An image of this very device: one of another device would never match.
fn image(word: &str, device: &str, images: &Images<'_>, brief: bool) -> Result<GroupId, Wrong> {
    if word == "-1" {
        let hint = Some("rename the image, or leave it to the default group".to_owned());
        return Err(Wrong { reason: "the word for the default group in messages".into(), hint });
    }
    match images.by_name.get(word) {
        // On a device that `create` made, groups may come before their images, as pids may before their processes.
        None if images.by_name.get(device) == Some(&Some(device)) => names::file_name(word, true)?,
        None => {
            let hint = (!brief).then(|| images_here(word, device, images));
            return Err(Wrong { reason: "no image of this mount".into(), hint });
        }
        Some(Some(other)) if *other != device => {
            let reason = format!("an image on another device, {}", quoted(other));
            let hint = Some(format!("move the group to device {}", quoted(other)));
            return Err(Wrong { reason, hint });
        }
        Some(_) => word.to_owned(),
    };
    Ok(GroupId::Name(word.into()))
}

/// The hint for an image that is not there.
fn images_here(word: &str, device: &str, images: &Images<'_>) -> String {
    let here = || images.on(device);
    let shown = quoted(device);
    match nearest(word, here()) {
        Some(near) => format!("did you mean `{near}`? Images on device {shown}: {}", listed(here())),
        None if here().next().is_none() => format!("device {shown} has no images: list them under `images`"),
        None => format!("images on device {shown}: {}", listed(here())),
    }
}
