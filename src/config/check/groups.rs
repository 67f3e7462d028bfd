//! Groups: their ids (numbers, names that are looked up, cgroup paths and images, by the type of the device) and limits.

use super::limits;
use crate::classify::{GroupId, GroupType};
use crate::config::fields::{At, Wrong, number32};
use crate::config::names;
use crate::config::plan::GroupPlan;
use crate::config::report::{Problems, listed, nearest, quoted};
use crate::config::shape::{Device, Image};
use crate::sched::Limits;
use std::collections::HashMap;

/// The largest process id that Linux gives out.
const LAST_PID: u32 = 1 << 22;

/// The images of the mount by name.
type Images<'a> = HashMap<&'a str, &'a Image>;

/// The groups of one device.
pub(super) fn check(device: &Device, images: &Images<'_>, problems: &mut Problems) -> Vec<GroupPlan> {
    let all_limits: Vec<Limits> =
        device.groups.iter().map(|group| limits::check(device, &group.limits, problems)).collect();
    // A bad type has been reported; what the ids mean is then anybody's guess.
    let Ok(stated) = &device.group_type else { return Vec::new() };
    let group_type = stated.map_or(GroupType::None, |t| t.value);
    if group_type == GroupType::None {
        if !device.groups.is_empty() {
            let why = if stated.is_some() { "its `type` is `none`" } else { "no `type`" };
            let message = format!("device {} has groups, but {why}", quoted(&device.name.value));
            let hint = "say what its groups are, such as `type: user` (or gid, pid, pgrp, cgroup, image), or remove them";
            problems.add(device.groups_at, message, hint);
        }
        return Vec::new();
    }
    let mut seen: HashMap<GroupId, &At<String>> = HashMap::new();
    let mut plans = Vec::with_capacity(device.groups.len());
    for (group, limits) in device.groups.iter().zip(all_limits) {
        let word = &group.id.value;
        let id = match read(word, group_type, device, images, problems.are_many()) {
            Ok(id) => id,
            Err(Wrong { reason, hint }) => {
                problems.add(
                    group.id.at,
                    format!("the group {} is {reason}", quoted(word)),
                    hint.unwrap_or_default(),
                );
                continue;
            }
        };
        if let Some(other) = seen.get(&id) {
            let message = format!(
                "the group {} is the same as {} (line {}): {} {id}",
                quoted(word),
                quoted(&other.value),
                other.at.line,
                noun(group_type)
            );
            problems.add(group.id.at, message, "keep one of the two");
            continue;
        }
        seen.insert(id.clone(), &group.id);
        plans.push(GroupPlan { id, weight: group.weight, limits });
    }
    plans
}

fn noun(group_type: GroupType) -> &'static str {
    match group_type {
        GroupType::None | GroupType::User => "uid",
        GroupType::Gid => "gid",
        GroupType::Pid => "process",
        GroupType::Pgrp => "process group",
        GroupType::Cgroup => "cgroup",
        GroupType::Image => "image",
    }
}

/// Reads one id as the type asks for; `brief` saves the hints that take long.
fn read(
    word: &str,
    group_type: GroupType,
    device: &Device,
    images: &Images<'_>,
    brief: bool,
) -> Result<GroupId, Wrong> {
    let hinted = |hint: &'static str| move |w: Wrong| Wrong { hint: w.hint.or(Some(hint.into())), ..w };
    match group_type {
        GroupType::None => Err("not possible under type none".into()),
        GroupType::User => names::user(word, true)
            .map(GroupId::Number)
            .map_err(hinted("`getent passwd` lists the users; a number is always understood")),
        GroupType::Gid => names::group(word, true)
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
    Ok(GroupId::Name(path.into()))
}

/// An image of this very device: one of another device would never match.
fn image(word: &str, device: &Device, images: &Images<'_>, brief: bool) -> Result<GroupId, Wrong> {
    let here = device.name.value.as_str();
    let Some(image) = images.get(word) else {
        let hint = (!brief).then(|| images_here(word, here, images));
        return Err(Wrong { reason: "no image of this mount".into(), hint });
    };
    if let Ok(other) = &image.device
        && other.value != here
    {
        let reason = format!("an image on another device, {}", quoted(&other.value));
        let hint = Some(format!("move the group to device {}", quoted(&other.value)));
        return Err(Wrong { reason, hint });
    }
    Ok(GroupId::Name(word.into()))
}

/// The hint for an image that is not there.
fn images_here(word: &str, device: &str, images: &Images<'_>) -> String {
    let is_here = |image: &&&Image| image.device.as_ref().is_ok_and(|at| at.value == device);
    let mut here: Vec<&Image> = images.values().filter(is_here).copied().collect();
    here.sort_by_key(|image| image.name.at);
    let names = || here.iter().map(|image| image.name.value.as_str());
    let device = quoted(device);
    match nearest(word, names()) {
        Some(near) => format!("did you mean `{near}`? Images on device {device}: {}", listed(names())),
        None if here.is_empty() => format!("device {device} has no images: list them under `images`"),
        None => format!("images on device {device}: {}", listed(names())),
    }
}
