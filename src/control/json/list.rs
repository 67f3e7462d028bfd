//! What is mounted and how it is served, for programs.

use super::super::ls::Processes;
use super::super::ls::{ImageLine, Service};
use super::super::snapshot::Snapshot;
use crate::config::DevicePlan;
use crate::engine::DiskStatus;
use crate::sandbox::{State, Wall};
use crate::sched::Settings;
use serde::Serialize;
use std::borrow::Cow;

#[derive(Serialize)]
pub(super) struct List<'a> {
    version: &'static str,
    service: Option<ListService<'a>>,
    images: Vec<ListImage<'a>>,
    devices: Vec<ListDevice<'a>>,
    disks: Vec<ListDisk>,
}

#[derive(Serialize)]
struct ListService<'a> {
    transport: &'static str,
    why: Option<&'a str>,
    threads: usize,
    backend: &'static str,
    by_uring: u64,
    by_dev: u64,
    /// The process that keeps the mount.
    keeper: Option<u32>,
    /// The one that serves it, and how many did before.
    worker: u32,
    before: u32,
    /// Another one could go on if that one died.
    survives: bool,
    sandbox: Vec<ListWall<'a>>,
}

/// A part of the sandbox of the process that serves.
#[derive(Serialize)]
struct ListWall<'a> {
    name: &'static str,
    state: &'static str,
    /// What it keeps out, or why it is not to be had.
    detail: Option<&'a str>,
}

#[derive(Serialize)]
struct ListImage<'a> {
    name: &'a str,
    device: &'a str,
    size: u64,
    read_only: bool,
    mode: String,
    owner: u32,
    group: u32,
    /// How many files of it are open.
    open: u64,
}

#[derive(Serialize)]
struct ListDevice<'a> {
    name: &'a str,
    id: u32,
    size: u64,
    r#type: &'static str,
    policy: &'static str,
    groups: usize,
    path: Cow<'a, str>,
}

#[derive(Serialize)]
struct ListDisk {
    id: u32,
    io_throttle: u32,
    io_limit: u32,
    token_base: u32,
    in_flight: u32,
    queued: usize,
    depth: u32,
    epochs: u64,
}

impl<'a> List<'a> {
    pub(super) fn of(snapshot: &Snapshot<'a>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            service: snapshot.service.map(ListService::of),
            images: snapshot.images().into_iter().map(ListImage::of).collect(),
            devices: snapshot.plan.devices.iter().map(ListDevice::of).collect(),
            disks: snapshot.disks.iter().map(ListDisk::of).collect(),
        }
    }
}

impl<'a> ListService<'a> {
    fn of(service: &'a Service) -> Self {
        let Service { transport, why, threads, backend, by_uring, by_dev, processes, sandbox } = service;
        let Processes { keeper, worker, before, survives } = *processes;
        Self {
            transport,
            why: why.as_deref(),
            threads: *threads,
            backend,
            by_uring: *by_uring,
            by_dev: *by_dev,
            keeper,
            worker,
            before,
            survives,
            sandbox: sandbox.0.iter().map(ListWall::of).collect(),
        }
    }
}

impl<'a> ListWall<'a> {
    fn of((wall, state): &'a (Wall, State)) -> Self {
        let (state, detail) = match state {
            State::InForce(what) => ("in force", Some(what.as_str())),
            State::Off => ("off", None),
            State::NotAvailable(why) => ("not available", Some(why.as_str())),
        };
        Self { name: wall.name(), state, detail }
    }
}

impl<'a> ListImage<'a> {
    fn of((image, device): (&'a ImageLine, &'a str)) -> Self {
        Self {
            name: &image.name,
            device,
            size: image.size.0,
            read_only: image.read_only,
            // As text, because it is octal, as in the configuration.
            mode: format!("{:04o}", image.mode),
            owner: image.owner.0,
            group: image.owner.1,
            open: image.opens,
        }
    }
}

impl<'a> ListDevice<'a> {
    fn of(plan: &'a DevicePlan) -> Self {
        Self {
            name: &plan.name,
            id: plan.id,
            size: plan.size.0,
            r#type: plan.group_type.as_str(),
            policy: plan.policy.as_str(),
            groups: plan.groups.len(),
            path: plan.path.to_string_lossy(),
        }
    }
}

impl ListDisk {
    fn of(disk: &DiskStatus) -> Self {
        let DiskStatus { id, settings, in_flight, queued, depth, epochs, .. } = *disk;
        let Settings { io_throttle, io_limit, token_base } = settings;
        Self { id, io_throttle, io_limit, token_base, in_flight, queued, depth, epochs }
    }
}
