//! An ioband device, called a band in here to tell it from the device that it is on.

use crate::classify::{GroupId, GroupMap, GroupType};
use crate::config::GroupPlan;
use crate::device::Target;
use crate::sched::{Counters, Disk, GroupKey, Limits, Policy, Settings};
use crate::units::{Nanos, Sectors, Weight};
use std::sync::Arc;

/// What an ioband device is made of.
#[derive(Debug)]
pub struct BandSettings {
    /// Its name.
    pub name: String,
    /// What it is a name for.
    pub target: Target,
    /// How its callers are told apart.
    pub group_type: GroupType,
    /// What its requests cost.
    pub policy: Policy,
    /// Weight of the default group.
    pub weight: Weight,
    /// What the default group must and may have beside it.
    pub limits: Limits,
    /// Its other groups.
    pub groups: Vec<GroupPlan>,
}

/// An ioband device in its engine.
#[derive(Debug)]
pub(super) struct Band {
    pub(super) name: String,
    pub(super) target: Arc<Target>,
    pub(super) policy: Policy,
    pub(super) groups: GroupMap<GroupKey>,
}

impl Band {
    pub(super) fn new(settings: BandSettings, disk: &mut Disk, now: Nanos) -> Self {
        let BandSettings { name, target, group_type, policy, weight, limits, groups: wanted } = settings;
        let mut add = |weight, limits| {
            let key = disk.add_group(policy, weight);
            disk.set_limits(key, limits, now);
            key
        };
        let mut groups = GroupMap::new(group_type, add(weight, limits));
        for GroupPlan { id, weight, limits } in wanted {
            let key = add(weight, limits);
            if groups.insert(id, key).is_err() {
                // A checked plan has no group twice. If it had, the first would stand and this one stays unused.
                debug_assert!(false, "a checked plan names each group once");
            }
        }
        Self { name, target: Arc::new(target), policy, groups }
    }

    pub(super) fn status(&self, disk: &Disk) -> BandStatus {
        let group = |id: Option<&GroupId>, key: GroupKey| GroupStatus {
            id: id.cloned(),
            weight: disk.weight(key),
            limits: disk.limits(key),
            counters: disk.counters(key),
            queued: disk.queued_of(key),
            gone: false,
        };
        let default = std::iter::once(group(None, self.groups.default_key()));
        BandStatus {
            name: self.name.clone(),
            // What is left of a file behind its last whole sector belongs to no image.
            sectors: self.target.size().whole_sectors(),
            device: self.target.identity(),
            group_type: self.groups.group_type(),
            policy: self.policy,
            groups: default.chain(self.groups.iter().map(|(id, key)| group(Some(id), key))).collect(),
        }
    }
}

/// A look at an ioband device, for table and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BandStatus {
    /// Its name.
    pub name: String,
    /// Its length.
    pub sectors: Sectors,
    /// `MAJOR:MINOR` of a block device, path of a regular file.
    pub device: String,
    /// How its callers are told apart.
    pub group_type: GroupType,
    /// What its requests cost.
    pub policy: Policy,
    /// Its groups, the default group first.
    pub groups: Vec<GroupStatus>,
}

/// A look at a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Whom it matches; `None` = the default group.
    pub id: Option<GroupId>,
    /// Its weight.
    pub weight: Weight,
    /// What it must and may have beside it.
    pub limits: Limits,
    /// What it did.
    pub counters: Counters,
    /// Requests held at this moment.
    pub queued: usize,
    /// Type `pid`: its process has ended, and it matches nobody any more.
    pub gone: bool,
}

/// A look at a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskStatus {
    /// The device id that its ioband devices share.
    pub id: u32,
    /// Its scheduler's settings.
    pub settings: Settings,
    /// Requests with the device.
    pub in_flight: u32,
    /// Requests held, over all groups.
    pub queued: usize,
    /// The automatic depth in force.
    pub depth: u32,
    /// Epochs begun.
    pub epochs: u64,
    /// Its ioband devices, in the order in which they were added.
    pub bands: Vec<BandStatus>,
}
