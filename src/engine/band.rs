//! An ioband device, called a band in here to tell it from the device that it is on.

use super::status::Look;
use crate::classify::{GroupMap, GroupType};
use crate::config::GroupPlan;
use crate::device::Target;
use crate::sched::{Disk, GroupKey, Limits, Policy};
use crate::units::{Nanos, Weight};
use slab::Slab;
use std::sync::Arc;

/// What an ioband device is made of.
#[derive(Clone, Debug)]
pub struct BandSettings {
    /// Its name.
    pub name: String,
    /// What it is a name for.
    pub target: Arc<Target>,
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

/// What is wanted of an ioband device from now on: all of what may change while it serves.
#[derive(Clone, Debug)]
pub struct BandChange {
    /// How its callers are told apart.
    pub group_type: GroupType,
    /// What its requests cost.
    pub policy: Policy,
    /// Weight of the default group.
    pub weight: Weight,
    /// What the default group must and may have beside it.
    pub limits: Limits,
    /// Its other groups, in the order in which tables list them.
    pub groups: Vec<GroupPlan>,
}

/// Names an ioband device in its engine. It is never mistaken for one of another engine, nor for one that comes later in
/// the same place. The default names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BandId {
    engine: u16,
    place: u32,
    serial: u64,
}

/// The ioband devices of an engine.
#[derive(Debug)]
pub(super) struct Bands {
    engine: u16,
    places: Slab<Band>,
    /// Of the last one that was added.
    serial: u64,
}

/// An ioband device in its engine.
#[derive(Debug)]
pub(super) struct Band {
    pub(super) id: BandId,
    pub(super) name: String,
    pub(super) target: Arc<Target>,
    pub(super) policy: Policy,
    pub(super) groups: GroupMap<GroupKey>,
}

impl Bands {
    pub(super) fn new(engine: u16) -> Self {
        Self { engine, places: Slab::new(), serial: 0 }
    }

    pub(super) fn add(&mut self, settings: BandSettings, disk: &mut Disk, now: Nanos) -> BandId {
        let BandSettings { name, target, group_type, policy, weight, limits, groups } = settings;
        let default = disk.add_group(policy, Weight::default());
        let entry = self.places.vacant_entry();
        self.serial += 1;
        // There is memory for far fewer than 2^32.
        let id = BandId { engine: self.engine, place: entry.key() as u32, serial: self.serial };
        let groups_so_far = GroupMap::new(group_type, default);
        let band = entry.insert(Band { id, name, target, policy, groups: groups_so_far });
        band.rearrange(BandChange { group_type, policy, weight, limits, groups }, disk, now);
        id
    }

    pub(super) fn get(&self, id: BandId) -> Option<&Band> {
        self.places.get(id.place as usize).filter(|band| band.id == id)
    }

    pub(super) fn get_mut(&mut self, id: BandId) -> Option<&mut Band> {
        self.places.get_mut(id.place as usize).filter(|band| band.id == id)
    }

    pub(super) fn remove(&mut self, id: BandId) -> Option<Band> {
        self.get(id)?;
        self.places.try_remove(id.place as usize)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Band> {
        self.places.iter().map(|(_, band)| band)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Band> {
        self.places.iter_mut().map(|(_, band)| band)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Each of them, in the order in which they were added.
    pub(super) fn looks(&self, disk: &Disk) -> Vec<Look> {
        let mut bands: Vec<_> = self.all().collect();
        bands.sort_by_key(|band| band.id.serial);
        bands.into_iter().map(|band| Look::at(band, disk)).collect()
    }
}

impl Band {
    /// Makes weights, policy, limits and groups what is wanted. Returns the groups that are gone, which may hold requests;
    /// `None` if all are the ones that there were.
    pub(super) fn rearrange(
        &mut self,
        wanted: BandChange,
        disk: &mut Disk,
        now: Nanos,
    ) -> Option<Vec<GroupKey>> {
        let BandChange { group_type, policy, weight, limits, groups } = wanted;
        self.policy = policy;
        let mut anything_new = group_type != self.groups.group_type();
        let mut make = |key: Option<GroupKey>, weight: Weight, limits: Limits| {
            anything_new |= key.is_none();
            let key = key.unwrap_or_else(|| disk.add_group(policy, weight));
            disk.set_policy(key, policy, now);
            // Its debt or claim is rounded, so only where there is something to change.
            if disk.weight(key) != weight {
                disk.set_weight(key, weight);
            }
            if disk.limits(key) != limits {
                disk.set_limits(key, limits, now);
            }
            key
        };
        make(Some(self.groups.default_key()), weight, limits);
        let groups = groups.into_iter().map(|GroupPlan { id, weight, limits }| (id, (weight, limits)));
        let gone =
            self.groups.rearrange(group_type, groups, |key, (weight, limits)| make(key, weight, limits));
        (anything_new || !gone.is_empty()).then_some(gone)
    }

    /// All of its groups, the default group first.
    pub(super) fn keys(&self) -> impl Iterator<Item = GroupKey> {
        std::iter::once(self.groups.default_key()).chain(self.groups.iter().map(|(_, key)| key))
    }
}
