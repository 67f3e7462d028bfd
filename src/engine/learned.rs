//! What an engine has counted and found out, for the engine of a successor to go on with.

use super::band::Band;
use super::change::Change;
use super::core::{Engine, State};
use crate::classify::{GroupId, ProcessId};
use crate::device::Simulate;
use crate::sched::{Counters, Direction, Disk, GroupKey};
use serde::{Deserialize, Serialize};

/// What was learned of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// Its device id.
    pub id: u32,
    /// The depths that trials have found (share rule R8). To find them anew takes seconds, in which shares are not what they
    /// should be on a disk that needs more than the first one.
    #[serde(default)]
    pub depths: Option<(u32, u32)>,
    /// How slow the device was made when that was found. A change of it is written down on its own, so that this may be of before.
    #[serde(default)]
    pub simulate: Option<Simulate>,
    /// Its ioband devices.
    #[serde(default)]
    pub bands: Vec<LearnedBand>,
}

/// What was learned of an ioband device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedBand {
    /// Its name.
    pub name: String,
    /// Its groups.
    pub groups: Vec<LearnedGroup>,
}

/// What was counted of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedGroup {
    /// Its id; none is the default group.
    pub id: Option<String>,
    /// Requests, delayed requests and sectors that were read, and that were written.
    pub counters: ([u64; 3], [u64; 3]),
    /// Type `pid`: number and birth of the process that it keeps to.
    #[serde(default)]
    pub process: Option<(u32, u64)>,
}

impl Engine {
    /// What it has learned. Asks nobody, and costs a look under the lock.
    pub fn learned(&self) -> Learned {
        self.look(|State { id, disk, device, bands, .. }| Learned {
            id: *id,
            depths: disk.depths_found(),
            simulate: device.simulate(),
            bands: bands
                .all()
                .map(|band| LearnedBand { name: band.name.clone(), groups: groups(band, disk) })
                .collect(),
        })
    }
}

impl Change<'_> {
    /// Goes on with what a predecessor has learned, as far as it is about what there is.
    pub fn go_on(&mut self, learned: &Learned) {
        let State { disk, device, bands, .. } = self.state();
        if let Some(depths) = learned.depths
            && !Simulate::slows(learned.simulate, device.simulate())
        {
            disk.begin_with_depths(depths);
        }
        for band in bands.all_mut() {
            let Some(known) = learned.bands.iter().find(|known| known.name == band.name) else { continue };
            for (id, key) in keys(band) {
                let name = id.as_ref().map(ToString::to_string);
                let Some(group) = known.groups.iter().find(|group| group.id == name) else { continue };
                let (read, write) = group.counters;
                disk.set_counters(key, Counters { read: direction(read), write: direction(write) });
                if let (Some(id), Some((tgid, birth))) = (&id, group.process) {
                    band.groups.keep_to(id, ProcessId { tgid, birth });
                }
            }
        }
    }
}

/// The groups of an ioband device, the default group first.
fn keys(band: &Band) -> Vec<(Option<GroupId>, GroupKey)> {
    let others = band.groups.iter().map(|(id, key)| (Some(id.clone()), key));
    std::iter::once((None, band.groups.default_key())).chain(others).collect()
}

fn groups(band: &Band, disk: &Disk) -> Vec<LearnedGroup> {
    let processes = std::iter::once(None).chain(band.groups.processes());
    let numbers = |direction: Direction| [direction.requests, direction.delayed, direction.sectors];
    keys(band)
        .into_iter()
        .zip(processes)
        .map(|((id, key), process)| {
            let Counters { read, write } = disk.counters(key);
            LearnedGroup {
                id: id.map(|id| id.to_string()),
                counters: (numbers(read), numbers(write)),
                process: process.map(|ProcessId { tgid, birth }| (tgid, birth)),
            }
        })
        .collect()
}

fn direction([requests, delayed, sectors]: [u64; 3]) -> Direction {
    Direction { requests, delayed, sectors }
}
