//! Changes of the running configuration: each makes a new plan from the old one, or says why not. Nothing happens here; the
//! difference between the two plans is what is put in force.
//!
//! A plan that comes from here can be written as YAML and read again: the checks are those of a configuration.

mod create;
mod group;
mod table;

pub use create::{create, create_all, remove};
pub use table::table;

use crate::classify::{GroupId, GroupType};
use crate::config::{DevicePlan, GroupPlan, Images, Plan, ThisMachine, choose, group_id, listed, quoted};
use crate::control::Refusal;
use crate::control::grammar::Message;
use crate::sched::{DEFAULT_TOKEN_BASE, Limits, Policy};
use crate::units::Weight;

/// The plan after a message to `device`. `reset` leaves it as it is: counters are not configuration.
///
/// # Errors
/// ENXIO if there is no such device; EEXIST for a group that is attached already; EBUSY for another type while there are
/// groups; EINVAL for whatever makes no sense: a group that is not there, a group under type `none`, an io_limit below
/// io_throttle, a minimum without the policy that knows minima, or above the maximum, a burst without a cap.
pub fn message(plan: &Plan, device: &str, message: &Message) -> Result<Plan, Refusal> {
    let index = find(plan, device)?;
    let mut new = plan.clone();
    let band = &mut new.devices[index];
    match message {
        Message::Type(group_type) => change_type(band, *group_type)?,
        Message::Attach(id) => attach(band, id, &Images::of(plan))?,
        Message::Detach(id) => {
            let place = place(band, id, &Images::of(plan))?;
            band.groups.remove(place);
        }
        Message::Weight(id, weight) => *share_of(band, id, plan)?.0 = *weight,
        Message::Policy(policy) => change_policy(band, *policy),
        Message::RangeBw(id, min, max) => {
            if band.policy != Policy::RangeBw {
                let (name, policy) = (quoted(device), band.policy.as_str());
                let message =
                    format!("device {name} has the policy {policy}, which knows no minima and maxima");
                return Err(Refusal::invalid(format!("{message}; send it `policy range-bw` first")));
            }
            group::set_range(share_of(band, id, plan)?.1, *min, *max);
        }
        Message::Limit(key, id, value) => {
            let limits = share_of(band, id, plan)?.1;
            group::set_limit(limits, *key, *value).map_err(|why| of_group(id, why))?;
        }
        Message::Token(tokens) => {
            let tokens = if *tokens == 0 { DEFAULT_TOKEN_BASE } else { *tokens };
            on_disk(&mut new, index, |band| band.token_base = tokens);
        }
        Message::IoThrottle(requests) => {
            depth(*requests, band.io_limit)?;
            on_disk(&mut new, index, |band| band.io_throttle = *requests);
        }
        Message::IoLimit(requests) => {
            depth(band.io_throttle, *requests)?;
            on_disk(&mut new, index, |band| band.io_limit = *requests);
        }
        Message::Simulate(simulate) => on_disk(&mut new, index, |band| band.simulate = *simulate),
        // Neither is part of a plan.
        Message::Reset | Message::Reopen => {}
    }
    Ok(new)
}

/// The place of a device in the plan.
fn find(plan: &Plan, device: &str) -> Result<usize, Refusal> {
    plan.devices.iter().position(|band| band.name == device).ok_or_else(|| {
        let names: Vec<&str> = plan.devices.iter().map(|band| band.name.as_str()).collect();
        let known = if names.is_empty() { "there are none yet".to_owned() } else { choose(device, &names) };
        Refusal::new(libc::ENXIO, format!("there is no ioband device {}; {known}", quoted(device)))
    })
}

/// All devices of one disk have the same settings of the disk.
fn on_disk(plan: &mut Plan, index: usize, change: impl Fn(&mut DevicePlan)) {
    let id = plan.devices[index].id;
    plan.devices.iter_mut().filter(|band| band.id == id).for_each(change);
}

fn depth(io_throttle: u32, io_limit: u32) -> Result<(), Refusal> {
    if io_limit == 0 || io_throttle <= io_limit {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "io_limit would be {io_limit}, below io_throttle, which would be {io_throttle}; let io_limit be at least {io_throttle}, or 0 for automatic"
    )))
}

fn change_type(band: &mut DevicePlan, group_type: GroupType) -> Result<(), Refusal> {
    if band.group_type != group_type && !band.groups.is_empty() {
        let (name, old) = (quoted(&band.name), band.group_type.as_str());
        let message = format!("device {name} has groups, which are told apart by {old}");
        return Err(Refusal::new(libc::EBUSY, format!("{message}; detach them before you change its type")));
    }
    band.group_type = group_type;
    Ok(())
}

fn change_policy(band: &mut DevicePlan, policy: Policy) {
    band.policy = policy;
    if policy != Policy::RangeBw {
        // No other policy knows minima.
        let groups = band.groups.iter_mut().map(|group| &mut group.limits);
        groups.chain([&mut band.limits]).for_each(|limits| limits.min_bandwidth = None);
    }
}

fn attach(band: &mut DevicePlan, word: &str, images: &Images<'_>) -> Result<(), Refusal> {
    let id = identify(band.group_type, &band.name, word, images)?;
    if band.groups.iter().any(|group| group.id == id) {
        let name = quoted(&band.name);
        let message = format!("device {name} has a group {id} already; `weight {word}:WEIGHT` changes it");
        return Err(Refusal::new(libc::EEXIST, message));
    }
    band.groups.push(GroupPlan { id, weight: Weight::default(), limits: Limits::default() });
    Ok(())
}

/// What a word means as the id of a group of this device.
fn identify(
    group_type: GroupType,
    device: &str,
    word: &str,
    images: &Images<'_>,
) -> Result<GroupId, Refusal> {
    if group_type == GroupType::None {
        let name = quoted(device);
        let message = format!("device {name} has type none, and so no groups but the default group");
        return Err(Refusal::invalid(format!("{message}; give it a type, such as user, first")));
    }
    group_id(word, group_type, device, images, &ThisMachine, false).map_err(|wrong| {
        let hint = wrong.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        Refusal::invalid(format!("the group {} is {}{hint}", quoted(word), wrong.reason))
    })
}

/// The place of the group with this id.
fn place(band: &DevicePlan, word: &str, images: &Images<'_>) -> Result<usize, Refusal> {
    let id = identify(band.group_type, &band.name, word, images)?;
    band.groups.iter().position(|group| group.id == id).ok_or_else(|| {
        let ids: Vec<String> = band.groups.iter().map(|group| group.id.to_string()).collect();
        let known = match ids.is_empty() {
            true => "it has none".to_owned(),
            false => format!("it has {}", listed(ids.iter().map(String::as_str))),
        };
        let name = quoted(&band.name);
        Refusal::invalid(format!(
            "device {name} has no group {}; {known}, and `attach` makes one",
            quoted(word)
        ))
    })
}

/// What the group with this id is to have; the default group without one.
fn share_of<'a>(
    band: &'a mut DevicePlan,
    id: &Option<String>,
    plan: &Plan,
) -> Result<(&'a mut Weight, &'a mut Limits), Refusal> {
    let Some(id) = id else { return Ok((&mut band.weight, &mut band.limits)) };
    let place = place(band, id, &Images::of(plan))?;
    let group = &mut band.groups[place];
    Ok((&mut group.weight, &mut group.limits))
}

/// Says which group it is about.
fn of_group(id: &Option<String>, why: String) -> Refusal {
    let whom =
        id.as_ref().map_or_else(|| "the default group".to_owned(), |id| format!("group {}", quoted(id)));
    Refusal::invalid(format!("{whom} {why}"))
}
