//! What control is tried out on: a mount that can be looked at, and one that takes every configuration, without the mount.

use super::ls::Processes;
use super::snapshot::Snapshot;
use super::{Asked, Carried, ImageLine, Machinery, Refusal, Service};
use crate::config::{DIRECTORY, Defaults, DevicePlan, Found, FoundKind, Plan, Probe, load};
use crate::engine::{BandId, BandStatus, DiskStatus, GroupStatus};
use crate::sandbox::{Report, State, Wall};
use crate::sched::{Counters, Direction, Settings};
use crate::units::Bytes;
use std::path::{Path, PathBuf};

/// A machine without the files that a plan is about, so that they are to be made.
struct Empty;

impl Probe for Empty {
    fn probe(&self, path: &Path) -> std::io::Result<Option<Found>> {
        let root = Found { size: Bytes(0), kind: FoundKind::Other(DIRECTORY), identity: None, number: None };
        Ok((path == Path::new("/")).then_some(root))
    }

    fn block(&self, _: u64, _: u64) -> Option<PathBuf> {
        None
    }
}

/// A mount without a device, where configurations are in force by themselves; on a machine with some files of 1 MiB.
pub(crate) struct Nowhere {
    pub(crate) defaults: Defaults,
    files: &'static [&'static str],
}

impl Nowhere {
    pub(crate) fn with(files: &'static [&'static str]) -> Self {
        Self { defaults: Defaults { owner: 0, group: 0, folder: PathBuf::new() }, files }
    }
}

impl Probe for Nowhere {
    fn probe(&self, path: &Path) -> std::io::Result<Option<Found>> {
        if let Some(at) = self.files.iter().position(|file| path == Path::new(file)) {
            let (size, identity) = (Bytes(1 << 20), Some((1, at as u64)));
            return Ok(Some(Found { size, kind: FoundKind::File, identity, number: None }));
        }
        Empty.probe(path)
    }

    fn block(&self, _: u64, _: u64) -> Option<PathBuf> {
        None
    }
}

impl Machinery for Nowhere {
    fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    fn probe(&self) -> &dyn Probe {
        self
    }

    fn apply(&self, _: &Plan, _: &Plan) -> Result<(), Refusal> {
        Ok(())
    }

    fn reset(&self, _: &str) {}

    fn reopen(&self, _: &str) -> Result<(), Refusal> {
        Ok(())
    }

    fn write_down(&self, carried: &mut Carried) {
        carried.devices.clear();
    }

    fn disks(&self) -> Vec<DiskStatus> {
        Vec::new()
    }

    fn images(&self) -> Vec<ImageLine> {
        Vec::new()
    }

    fn service(&self) -> Option<Service> {
        None
    }

    fn upgrade(&self, _: &Path, _: Asked) -> Result<(), Refusal> {
        Ok(())
    }

    fn save(&self, _: &str) -> Result<String, Refusal> {
        Ok("nowhere".into())
    }
}

/// A mount that can be looked at, without the mount.
pub(super) struct Stage {
    pub(super) plan: Plan,
    pub(super) disks: Vec<DiskStatus>,
    pub(super) service: Service,
    pub(super) images: Vec<ImageLine>,
}

impl Stage {
    /// Nothing has been asked of it yet.
    pub(super) fn new(yaml: &str) -> Self {
        let plan = load(yaml, "stage.yaml", &Defaults { owner: 0, group: 0, folder: PathBuf::new() }, &Empty)
            .unwrap();
        let mut disks: Vec<DiskStatus> = Vec::new();
        for device in &plan.devices {
            let at = disks.iter().position(|disk| disk.id == device.id).unwrap_or_else(|| {
                disks.push(disk(device));
                disks.len() - 1
            });
            disks[at].bands.push(band(device));
        }
        let images = plan.images.iter().map(|image| ImageLine {
            name: image.name.clone(),
            size: image.size(),
            read_only: image.read_only,
            mode: image.mode,
            owner: (image.owner, image.group),
            opens: 0,
        });
        let images = images.collect();
        let service = Service {
            transport: "dev",
            why: Some("it is switched off".into()),
            threads: 2,
            backend: "io_uring",
            by_uring: 0,
            by_dev: 7,
            processes: Processes { keeper: Some(10), worker: 12, before: 1, survives: true },
            sandbox: Report(vec![
                (Wall::Landlock, State::NotAvailable("it is off".into())),
                (Wall::Seccomp, State::InForce("strict".into())),
                (Wall::Privileges, State::Off),
            ]),
        };
        Self { plan, disks, service, images }
    }

    /// Reads and writes of a group so far, each as requests, delayed requests, sectors.
    pub(super) fn did(&mut self, device: &str, group: usize, read: [u64; 3], write: [u64; 3]) {
        let of = |[requests, delayed, sectors]: [u64; 3]| Direction { requests, delayed, sectors };
        self.group(device, group).counters = Counters { read: of(read), write: of(write) };
    }

    /// A group of a device, the default group first.
    pub(super) fn group(&mut self, device: &str, group: usize) -> &mut GroupStatus {
        let mut bands = self.disks.iter_mut().flat_map(|disk| &mut disk.bands);
        &mut bands.find(|band| band.name == device).unwrap().groups[group]
    }

    pub(super) fn look(&self) -> Snapshot<'_> {
        let Self { plan, disks, service, images } = self;
        Snapshot { plan, disks, service: Some(service), images }
    }
}

fn disk(device: &DevicePlan) -> DiskStatus {
    let DevicePlan { id, io_throttle, io_limit, token_base, .. } = *device;
    let settings = Settings { io_throttle, io_limit, token_base };
    DiskStatus { id, settings, in_flight: 3, queued: 5, depth: 32, epochs: 9, bands: Vec::new() }
}

fn band(device: &DevicePlan) -> BandStatus {
    let group = |id, weight, limits| GroupStatus {
        id,
        weight,
        limits,
        counters: Counters::default(),
        queued: 0,
        gone: false,
    };
    let others = device.groups.iter().map(|g| group(Some(g.id.clone()), g.weight, g.limits));
    BandStatus {
        id: BandId::default(),
        name: device.name.clone(),
        sectors: device.size.whole_sectors(),
        device: device.path.display().to_string(),
        group_type: device.group_type,
        policy: device.policy,
        groups: std::iter::once(group(None, device.weight, device.limits)).chain(others).collect(),
    }
}

/// dm-ioband's example: two devices on one disk, and one on another.
pub(super) const EXAMPLE: &str = "
devices:
  ioband1: {path: /a, size: 4MiB, id: 1, type: user, weight: 40, groups: {1000: 30, 2000: 20}}
  other: {path: /c, size: 1MiB, id: 2, policy: weight-iosize}
  ioband2: {path: /b, size: 2MiB, id: 1, weight: 10}
images:
  vm1.img: {device: ioband2, size: 1MiB}
  vm2.img: {device: ioband1, size: 2MiB, read_only: true, mode: '0640', owner: 7, group: 8}
";
