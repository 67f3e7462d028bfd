//! What was asked for, for programs.

use super::Id;
use crate::config::{DevicePlan, FaultError, FaultOp, FaultPlan, GroupPlan, SimulatePlan};
use crate::sched::Limits;
use crate::units::Weight;
use serde::Serialize;
use std::borrow::Cow;

#[derive(Serialize)]
pub(super) struct TableDevice<'a> {
    name: &'a str,
    start: u64,
    sectors: u64,
    path: Cow<'a, str>,
    id: u32,
    io_throttle: u32,
    io_limit: u32,
    r#type: &'static str,
    policy: &'static str,
    token_base: u32,
    groups: Vec<TableGroup<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    simulate: Option<Simulate>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<Fault>,
}

#[derive(Serialize)]
struct TableGroup<'a> {
    id: Id<'a>,
    weight: u32,
    #[serde(flatten)]
    limits: LimitKeys,
}

#[derive(Serialize)]
struct LimitKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    min_bandwidth: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bandwidth: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth_burst: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_iops: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iops_burst: Option<u64>,
}

#[derive(Serialize)]
struct Simulate {
    #[serde(skip_serializing_if = "Option::is_none")]
    iops: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<u64>,
    parallel: u32,
}

#[derive(Serialize)]
struct Fault {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    short: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stall_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    every: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

impl Fault {
    fn of(plan: &FaultPlan) -> Self {
        let FaultPlan { what, op, range, every, seed } = *plan;
        Self {
            error: what.error.map(FaultError::as_str),
            short: what.short,
            stall_ms: what.stall.map(|stall| stall.0 / 1_000_000),
            op: op.map(FaultOp::as_str),
            offset: range.map(|range| range.offset.0),
            size: range.map(|range| range.size.0),
            every,
            seed,
        }
    }
}

impl<'a> TableDevice<'a> {
    pub(super) fn of(plan: &'a DevicePlan) -> Self {
        let group = |id, weight: Weight, limits| TableGroup {
            id: Id(id),
            weight: weight.get(),
            limits: LimitKeys::of(limits),
        };
        let others =
            plan.groups.iter().map(|GroupPlan { id, weight, limits }| group(Some(id), *weight, limits));
        Self {
            name: &plan.name,
            start: 0,
            sectors: plan.size.whole_sectors().0,
            path: plan.path.to_string_lossy(),
            id: plan.id,
            io_throttle: plan.io_throttle,
            io_limit: plan.io_limit,
            r#type: plan.group_type.as_str(),
            policy: plan.policy.as_str(),
            token_base: plan.token_base,
            groups: std::iter::once(group(None, plan.weight, &plan.limits)).chain(others).collect(),
            simulate: plan.simulate.map(|SimulatePlan { iops, bandwidth, parallel }| Simulate {
                iops,
                bandwidth: bandwidth.map(|bandwidth| bandwidth.0),
                parallel,
            }),
            faults: plan.faults.iter().map(Fault::of).collect(),
        }
    }
}

impl LimitKeys {
    fn of(limits: &Limits) -> Self {
        Self {
            min_bandwidth: limits.min_bandwidth.map(|rate| rate.get()),
            max_bandwidth: limits.max_bandwidth.map(|cap| cap.rate.get()),
            bandwidth_burst: limits.max_bandwidth.map(|cap| cap.burst),
            max_iops: limits.max_iops.map(|cap| cap.rate.get()),
            iops_burst: limits.max_iops.map(|cap| cap.burst),
        }
    }
}
