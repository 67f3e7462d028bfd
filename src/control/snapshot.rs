//! What lists, JSON and metrics are made of: the plan, and one look at every disk.

use super::ls::{ImageLine, Service};
use crate::config::{DevicePlan, Plan};
use crate::engine::{BandStatus, DiskStatus, GroupStatus};
use crate::sched::Policy;
use std::collections::HashMap;

/// A mount at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// What is in force.
    pub plan: &'a Plan,
    /// Every disk, in any order.
    pub disks: &'a [DiskStatus],
    /// How the mount is served, once it is.
    pub service: Option<&'a Service>,
    /// Its images.
    pub images: &'a [ImageLine],
}

/// An ioband device, what it is on and how it does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) plan: &'a DevicePlan,
    pub(super) disk: &'a DiskStatus,
    pub(super) band: &'a BandStatus,
    whole: Whole,
}

/// What the groups of a disk have together.
#[derive(Clone, Copy, Debug)]
struct Whole {
    weight: u64,
    served: u64,
    by_request: bool,
}

/// A part of something, of which there may be nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    part: u64,
    whole: u64,
}

impl<'a> Snapshot<'a> {
    /// The ioband devices, in the order of the plan.
    pub(super) fn devices(&self) -> Vec<Seen<'a>> {
        let mut bands = HashMap::new();
        for disk in self.disks {
            let whole = Whole::of(disk);
            bands.extend(disk.bands.iter().map(|band| (band.name.as_str(), (disk, band, whole))));
        }
        let seen = |plan: &'a DevicePlan| {
            let (disk, band, whole) = *bands.get(plan.name.as_str())?;
            Some(Seen { plan, disk, band, whole })
        };
        self.plan.devices.iter().filter_map(seen).collect()
    }

    /// The images, each with the name of its ioband device.
    pub(super) fn images(&self) -> Vec<(&'a ImageLine, &'a str)> {
        let device = |index: usize| self.plan.devices.get(index).map_or("", |device| device.name.as_str());
        let devices: HashMap<_, _> =
            self.plan.images.iter().map(|image| (image.name.as_str(), device(image.device))).collect();
        self.images
            .iter()
            .map(|image| (image, devices.get(image.name.as_str()).copied().unwrap_or_default()))
            .collect()
    }
}

impl Seen<'_> {
    /// The part of the disk that a group is to have when all groups want more than they get.
    pub(super) fn asked(&self, group: &GroupStatus) -> Part {
        Part { part: group.weight.get().into(), whole: self.whole.weight }
    }

    /// The part that it had of what the disk did since the start, or the last reset: of the requests if that is what all
    /// devices of the disk are charged for, of the sectors otherwise.
    pub(super) fn got(&self, group: &GroupStatus) -> Part {
        Part { part: served(group, self.whole.by_request), whole: self.whole.served }
    }
}

impl Whole {
    fn of(disk: &DiskStatus) -> Self {
        let by_request = disk.bands.iter().all(|band| band.policy == Policy::Weight);
        let groups = || disk.bands.iter().flat_map(|band| &band.groups);
        Self {
            weight: groups().map(|group| u64::from(group.weight.get())).sum(),
            // A disk that did 2^64 sectors has run for longer than there are disks.
            served: groups().map(|group| served(group, by_request)).fold(0, u64::saturating_add),
            by_request,
        }
    }
}

fn served(group: &GroupStatus, by_request: bool) -> u64 {
    let (read, write) = (group.counters.read, group.counters.write);
    let of = |a: u64, b: u64| a.saturating_add(b);
    if by_request { of(read.requests, write.requests) } else { of(read.sectors, write.sectors) }
}

impl Part {
    /// In thousandths of the whole, rounded to the nearest; `None` of nothing.
    pub(super) fn per_mille(self) -> Option<u64> {
        self.scaled(1000)
    }

    /// From 0 to 1, to six places; `None` of nothing.
    pub(super) fn ratio(self) -> Option<f64> {
        // A million has an exact place in a float.
        self.scaled(1_000_000).map(|millionths| millionths as f64 / 1e6)
    }

    /// In percent, to four places; `None` of nothing.
    pub(super) fn percent(self) -> Option<f64> {
        self.scaled(1_000_000).map(|millionths| millionths as f64 / 1e4)
    }

    fn scaled(self, scale: u64) -> Option<u64> {
        let (part, whole) = (u128::from(self.part), u128::from(self.whole));
        // Below 2^64 * 2^20 + 2^63; no more than `scale`, because a part is no more than its whole.
        let scaled = (part * u128::from(scale) + whole / 2).checked_div(whole)?;
        Some(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{EXAMPLE, Stage};
    use super::Part;
    use crate::units::Bytes;

    fn per_mille(stage: &Stage, device: &str) -> Vec<(Option<u64>, Option<u64>)> {
        let devices = stage.look().devices();
        let seen = devices.iter().find(|seen| seen.plan.name == device).unwrap();
        let groups = seen.band.groups.iter();
        groups.map(|group| (seen.asked(group).per_mille(), seen.got(group).per_mille())).collect()
    }

    #[test]
    fn a_share_is_one_of_the_disk_and_not_of_the_device() {
        let mut stage = Stage::new(EXAMPLE);
        assert_eq!(per_mille(&stage, "ioband1"), [(Some(400), None), (Some(300), None), (Some(200), None)]);
        assert_eq!(per_mille(&stage, "ioband2"), [(Some(100), None)]);
        assert_eq!(per_mille(&stage, "other"), [(Some(1000), None)], "alone on its disk");
        stage.did("ioband1", 1, [20, 0, 9999], [10, 0, 1]);
        stage.did("ioband2", 0, [0, 0, 0], [15, 0, 1]);
        let got: Vec<_> = per_mille(&stage, "ioband1").into_iter().map(|(_, got)| got).collect();
        assert_eq!(got, [Some(0), Some(667), Some(0)]);
        assert_eq!(per_mille(&stage, "ioband2"), [(Some(100), Some(333))]);
    }

    #[test]
    fn it_counts_in_what_the_policy_charges() {
        for (one, other, got) in [
            ("weight", "weight", 750),
            ("weight-iosize", "weight-iosize", 100),
            ("range-bw", "range-bw", 100),
            // Requests and sectors have no common measure but what they move.
            ("weight", "weight-iosize", 100),
        ] {
            let device =
                |name: &str, policy| format!("  {name}: {{path: /{name}, size: 1MiB, policy: {policy}}}\n");
            let mut stage = Stage::new(&format!("devices:\n{}{}", device("a", one), device("b", other)));
            stage.did("a", 0, [3, 0, 100], [0, 0, 0]);
            stage.did("b", 0, [0, 0, 400], [1, 0, 500]);
            assert_eq!(per_mille(&stage, "a")[0].1, Some(got), "{one} and {other}");
        }
    }

    #[test]
    fn parts_are_rounded_and_do_not_overflow() {
        let part = |part, whole| Part { part, whole };
        assert_eq!(part(0, 0).per_mille(), None);
        assert_eq!(part(2, 3).per_mille(), Some(667));
        assert_eq!(part(1, 3).ratio(), Some(0.333_333));
        assert_eq!(part(1, 3).percent(), Some(33.3333));
        assert_eq!(part(u64::MAX, u64::MAX).ratio(), Some(1.0));
    }

    #[test]
    fn an_image_has_the_device_that_the_plan_says() {
        let stage = Stage::new(EXAMPLE);
        let images = stage.look().images();
        let images: Vec<_> = images.iter().map(|(image, device)| (image.name.as_str(), *device)).collect();
        assert_eq!(images, [("vm1.img", "ioband2"), ("vm2.img", "ioband1")]);
        assert_eq!(stage.images[0].size, Bytes(1 << 20));
    }
}
