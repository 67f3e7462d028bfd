//! Groups: their ids, each once, and limits.

use super::limits;
use crate::classify::{GroupId, GroupType};
use crate::config::fields::At;
use crate::config::group_id::{Images, group_id};
use crate::config::names::Accounts;
use crate::config::plan::GroupPlan;
use crate::config::report::{Problems, quoted};
use crate::config::shape::Device;
use crate::config::values::Wrong;
use crate::sched::Limits;
use std::collections::HashMap;

/// The groups of one device.
pub(super) fn check(
    device: &Device,
    images: &Images<'_>,
    accounts: &dyn Accounts,
    problems: &mut Problems,
) -> Vec<GroupPlan> {
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
        let id = match group_id(word, group_type, &device.name.value, images, accounts, problems.are_many()) {
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
