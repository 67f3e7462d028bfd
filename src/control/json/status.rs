//! What was got, for programs.

use super::super::snapshot::Seen;
use super::Id;
use crate::engine::GroupStatus;
use crate::sched::Direction;
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct StatusDevice<'a> {
    name: &'a str,
    start: u64,
    sectors: u64,
    id: u32,
    groups: Vec<StatusGroup<'a>>,
}

#[derive(Serialize)]
struct StatusGroup<'a> {
    id: Id<'a>,
    gone: bool,
    weight: u32,
    asked: Option<f64>,
    got: Option<f64>,
    queued: usize,
    read: Counts,
    write: Counts,
}

#[derive(Serialize)]
struct Counts {
    requests: u64,
    delayed: u64,
    sectors: u64,
}

impl<'a> StatusDevice<'a> {
    pub(super) fn of(seen: &Seen<'a>) -> Self {
        Self {
            name: &seen.plan.name,
            start: 0,
            sectors: seen.band.sectors.0,
            id: seen.disk.id,
            groups: seen.band.groups.iter().map(|group| StatusGroup::of(seen, group)).collect(),
        }
    }
}

impl<'a> StatusGroup<'a> {
    fn of(seen: &Seen<'a>, group: &'a GroupStatus) -> Self {
        let counts = |Direction { requests, delayed, sectors }| Counts { requests, delayed, sectors };
        Self {
            id: Id(group.id.as_ref()),
            gone: group.gone,
            weight: group.weight.get(),
            asked: seen.asked(group).percent(),
            got: seen.got(group).percent(),
            queued: group.queued,
            read: counts(group.counters.read),
            write: counts(group.counters.write),
        }
    }
}
