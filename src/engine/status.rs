//! What table and status show of a disk.

use super::band::{Band, BandId};
use crate::classify::{GroupId, GroupType, ProcessId};
use crate::sched::{Counters, Disk, GroupKey, Limits, Policy, Settings};
use crate::units::{Sectors, Weight};

/// What is seen of an ioband device under the lock; the rest takes a look at /proc.
pub(super) struct Look {
    status: BandStatus,
    /// Of the groups but the default group.
    processes: Vec<Option<ProcessId>>,
}

impl Look {
    pub(super) fn at(band: &Band, disk: &Disk) -> Self {
        let group = |id: Option<&GroupId>, key: GroupKey| GroupStatus {
            id: id.cloned(),
            weight: disk.weight(key),
            limits: disk.limits(key),
            counters: disk.counters(key),
            queued: disk.queued_of(key),
            gone: false,
        };
        let default = std::iter::once(group(None, band.groups.default_key()));
        let status = BandStatus {
            id: band.id,
            name: band.name.clone(),
            // What is left of a file behind its last whole sector belongs to no image.
            sectors: band.target.size().whole_sectors(),
            device: band.target.identity(),
            group_type: band.groups.group_type(),
            policy: band.policy,
            groups: default.chain(band.groups.iter().map(|(id, key)| group(Some(id), key))).collect(),
        };
        Self { status, processes: band.groups.processes().collect() }
    }

    /// Asks whether the processes still run.
    pub(super) fn complete(self) -> BandStatus {
        let Self { mut status, processes } = self;
        for (group, process) in status.groups.iter_mut().skip(1).zip(processes) {
            group.gone = process.is_some_and(|process| ProcessId::running(process.tgid) != Some(process));
        }
        status
    }
}

/// A look at an ioband device, for table and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BandStatus {
    /// Which one it is.
    pub id: BandId,
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
