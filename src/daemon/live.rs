//! Makes the mount be like a plan: at the start, where nothing is, and then with every change.
//!
//! First everything that can fail, in an order in which it can be taken back: devices are opened, images that become others
//! are closed to new openers, the tree is built. Then what cannot fail: the disks change, each in one step; the new tree is
//! shown; what is not there any more is let go.

mod machinery;
mod predecessor;
#[cfg(test)]
mod tests;

use super::attend::Attention;
use super::counted::Counted;
use super::errand::Errand;
use super::exchange::{close_what_changes, is_like, removed};
use crate::classify::{Caller, GroupType, Identity, Wants, Who};
use crate::clock::Clock;
use crate::config::{self, Defaults, DevicePlan, FaultError, FaultPlan, Plan, Probe, SimulatePlan};
use crate::control::{DeviceEntry, Refusal};
use crate::device::{Fault, FaultOp, Faults, OpenMode, Simulate, Target, stands_on};
use crate::engine::{BandChange, BandId, BandSettings, Engine, EngineSettings, Engines, Image};
use crate::fuse::{Face, ImageNode, Server, Tree};
use crate::keeper::{Keeper, Upgrade};
use crate::sandbox::Report;
use crate::sched::Settings;
use crate::units::Bytes;
use predecessor::Inherited;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// A disk that answers does so within this, however late it has become until it is asked.
const ANSWER: Duration = Duration::from_millis(100);
/// How long after its start a mount waits for its disks to be let go: whoever makes it anew right after its process was killed
/// should not be told that the disks are in use, and by nobody. No longer, since the disks of a mount that lives are free for a
/// moment whenever its worker is followed by another, and this is not to take them.
const LET_GO: Duration = Duration::from_secs(1);

/// A mount that changes.
pub(super) struct Live {
    defaults: Defaults,
    probe: Arc<dyn Probe + Send + Sync>,
    /// The configuration that was mounted.
    file: PathBuf,
    face: Arc<Face>,
    engines: Arc<Engines>,
    server: OnceLock<Arc<Server>>,
    /// What this process has given up.
    sandbox: Report,
    upgraded: Option<Upgrade>,
    clock: Clock,
    unscheduled: bool,
    /// The process of the keeper, and how many workers there were before.
    began: OnceLock<(u32, u32)>,
    /// The keeper, once it knows that the mount is served.
    keeper: OnceLock<Arc<Keeper>>,
    /// The number of the mount among all filesystems, once it is mounted.
    number: OnceLock<u64>,
    devices: Mutex<Devices>,
    counted: Arc<Counted>,
    /// The images of a predecessor, until there are any of ours.
    inherited: Mutex<Option<Inherited>>,
    /// Told of by devices that fail.
    attention: Arc<Attention>,
}

/// The ioband devices that are there, by their names.
type Devices = HashMap<Arc<str>, Held>;

/// An ioband device that is there.
#[derive(Clone)]
struct Held {
    engine: Arc<Engine>,
    band: BandId,
    target: Arc<Target>,
    path: PathBuf,
    /// What was at that path when it was opened.
    identity: Option<(u64, u64)>,
    /// Its `MAJOR:MINOR`, for as long as it is missing.
    number: Option<(u64, u64)>,
    /// So much of it is described by the configuration; what is used of it may be less, by a part of a block.
    size: Bytes,
    id: u32,
    /// For what may hang.
    errand: Errand,
}

impl Held {
    /// What is to be known of it should it go.
    fn entry(&self) -> DeviceEntry {
        DeviceEntry {
            path: self.path.clone(),
            size: self.target.size().0.max(self.size.0),
            number: self.target.number().or(self.number),
            identity: self.identity,
            mark: self.target.mark().map(|mark| mark.to_string()),
        }
    }
}

/// What becomes of the device of a plan.
enum Fate {
    /// It stays.
    Stays(Held),
    /// It is new, on something that is opened for it, or that another device was on.
    Comes(Opened),
}

/// What a device is to be on.
#[derive(Clone)]
struct Opened {
    target: Arc<Target>,
    identity: Option<(u64, u64)>,
    number: Option<(u64, u64)>,
    errand: Errand,
}

/// Takes back what was made for a change, unless it comes about.
#[derive(Default)]
struct Undo {
    sealed: Vec<Arc<ImageNode>>,
    files: Vec<PathBuf>,
    bands: Vec<(Arc<Engine>, BandId)>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        self.sealed.iter().for_each(|node| node.unseal());
        for (engine, band) in &self.bands {
            engine.change().remove_band(*band);
        }
        super::remove_files(&self.files);
    }
}

impl Live {
    pub(super) fn new(
        defaults: Defaults,
        probe: Box<dyn Probe + Send + Sync>,
        file: PathBuf,
        face: Arc<Face>,
        clock: Clock,
        unscheduled: bool,
        counted: Arc<Counted>,
    ) -> Self {
        Self {
            defaults,
            probe: probe.into(),
            file,
            face,
            engines: counted.engines(),
            server: OnceLock::new(),
            sandbox: Report::default(),
            upgraded: None,
            clock,
            unscheduled,
            began: OnceLock::new(),
            keeper: OnceLock::new(),
            number: OnceLock::new(),
            devices: Mutex::default(),
            counted,
            inherited: Mutex::default(),
            attention: Arc::default(),
        }
    }

    /// Opens what a device is to be on.
    fn open(&self, device: &DevicePlan, read_only: bool) -> Result<Target, Refusal> {
        // An edit does not wait: what it asks for is nothing that we have had.
        let is_mounted = self.number.get().is_some();
        let left = || LET_GO.saturating_sub(self.clock.now().into());
        let mode = OpenMode { read_only, patience: (!is_mounted).then(left) };
        Target::open(&device.path, device.create, mode)
            .map_err(|error| Refusal::new(error.errno(), format!("device {}: {error}", device.name)))
    }

    /// What is at paths, whatever was there.
    pub(super) fn machine(&self) -> &dyn Probe {
        &*self.probe
    }

    /// The device of ours that is at this path, or was a predecessor's, as large as it is now.
    pub(super) fn device_at(&self, path: &Path) -> Option<DeviceEntry> {
        // As they are written: there may be many, and paths are compared slowly.
        let held = self.devices().values().find(|held| held.path.as_os_str() == path.as_os_str()).cloned();
        let Some(held) = held else { return self.inherited_device(path) };
        let target = held.target.clone();
        let now = if target.is_remote() {
            held.errand.within(ANSWER, move || target.size_now()).flatten()
        } else {
            target.size_now()
        };
        let entry = held.entry();
        // That it has shrunk is nothing that helps anybody.
        Some(DeviceEntry { size: now.map_or(entry.size, |now| now.0.max(entry.size)), ..entry })
    }

    /// The devices that there are, by their names, each with what to do about it what may hang.
    pub(super) fn targets(&self) -> Vec<(Arc<str>, Arc<Target>, Errand)> {
        let devices = self.devices();
        let all = devices.iter();
        all.map(|(name, held)| (name.clone(), held.target.clone(), held.errand.clone())).collect()
    }

    /// Block devices have the numbers in a plan that they have now, and not those of a predecessor.
    pub(super) fn number(&self, plan: &mut Plan) {
        let devices = self.devices();
        for device in &mut plan.devices {
            let now = devices.get(device.name.as_str()).and_then(|held| held.target.number());
            device.number = now.or(device.number);
        }
    }

    /// Where devices ring that fail.
    pub(super) fn attention(&self) -> Arc<Attention> {
        self.attention.clone()
    }

    /// What is known of this process: what it has given up, and the upgrade that it comes from, or that has failed.
    pub(super) fn of_process(self, sandbox: Report, upgraded: Option<Upgrade>) -> Self {
        Self { sandbox, upgraded, ..self }
    }

    /// It is at work: from now on a change is told to who serves.
    pub(super) fn served_by(&self, server: Arc<Server>) {
        server.engines_changed();
        // Once.
        let _ = self.server.set(server);
    }

    fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the mount, which is like `old`, be like `new`; the files that were made for it.
    pub(super) fn make(&self, old: &Plan, new: &Plan) -> Result<Vec<PathBuf>, Refusal> {
        unchangeable(old, new)?;
        // Opening may take its time, and who looks after the others is not to wait for it. One change is made at a time, so
        // these stay what they are.
        let devices = self.devices().clone();
        let tree = self.face.tree();
        let mut undo = Undo::default();

        let fates = self.fates(new, &devices, &mut undo)?;
        let stays: HashSet<&str> = new
            .devices
            .iter()
            .zip(&fates)
            .filter_map(|(device, fate)| matches!(fate, Fate::Stays(_)).then_some(device.name.as_str()))
            .collect();
        let leaving = close_what_changes(&tree, new, &stays, &mut undo.sealed)?;
        let mut removed = removed(leaving, &tree, new, &stays, &mut undo.sealed)?;

        let held = self.come(new, fates, &devices, &mut undo);
        let ran = self.what_ran();
        if let Some(ran) = &ran {
            removed.extend(self.inherited_orphans(ran, new, &held));
        }
        let tree = self.tree(&tree, (old, ran.as_ref()), new, &held, removed)?;

        // From here on nothing fails.
        let mut devices = self.devices();
        self.face.callers().set_wants(wants(old.devices.iter().chain(&new.devices)));
        for (device, (_, here)) in new.devices.iter().zip(&held) {
            here.target.grow_to(device.size);
            here.target.set_faults(faults(device).as_ref());
        }
        self.change(new, &held);
        self.face.show(tree);
        let gone = devices.extract_if(|name, here| {
            held.iter().all(|(device, there)| **device != **name || there.band != here.band)
        });
        for (_, gone) in gone {
            gone.engine.change().remove_band(gone.band);
        }
        devices.extend(held.into_iter().map(|(name, held)| (Arc::from(name), held)));
        self.face.callers().set_wants(wants(&new.devices));
        if let Some(server) = self.server.get() {
            server.engines_changed();
        }
        undo.sealed.clear();
        undo.bands.clear();
        *self.inherited() = None;
        self.counted.wake();
        Ok(std::mem::take(&mut undo.files))
    }

    /// What becomes of each device: opens what is to be opened.
    fn fates(&self, new: &Plan, devices: &Devices, undo: &mut Undo) -> Result<Vec<Fate>, Refusal> {
        let mut inherited = self.open_inherited(new, devices);
        new.devices
            .iter()
            .enumerate()
            .map(|(index, device)| {
                if let Some(opened) = inherited.remove(&device.path) {
                    return Ok(Fate::Comes(opened));
                }
                let read_only = is_only_read(new, index);
                let here = devices.get(device.name.as_str());
                // What is known already is not asked for: its filesystem may be the one that hangs.
                let identity = match devices.values().find(|held| held.path == device.path) {
                    Some(held) => held.identity,
                    None => self.identity(&device.path),
                };
                let same = |held: &Held| held.identity.is_some() && held.identity == identity;
                // What it was opened on stays what it is on, whatever is at that path by now.
                let here = here.filter(|held| held.path == device.path || same(held));
                let known = here.or_else(|| devices.values().find(|held| same(held)));
                if let Some(Held { target, number, errand, .. }) = known {
                    if target.is_read_only() && !read_only {
                        return Err(Refusal {
                            errno: libc::EBUSY,
                            sentence: format!(
                                "{} was opened for reading only, because all images of device {} were `read_only`; \
                                 take the device out, and put it in again with a writable image",
                                device.path.display(),
                                device.name
                            ),
                        });
                    }
                    return Ok(match here.filter(|held| held.id == device.id) {
                        // Maybe by another name of the same thing.
                        Some(held) => {
                            let (path, size) = (device.path.clone(), device.size);
                            Fate::Stays(Held { path, size, ..held.clone() })
                        }
                        None => {
                            let (target, number, errand) = (target.clone(), *number, errand.clone());
                            Fate::Comes(Opened { target, identity, number, errand })
                        }
                    });
                }
                if self.is_inside(&device.path) {
                    let (name, path) = (&device.name, device.path.display());
                    return Err(Refusal::invalid(format!(
                        "device {name}: {path} is in this very mount, or on a file that is; a device is what images are on, and not one of them"
                    )));
                }
                if device.path.is_relative() {
                    let (name, path) = (&device.name, device.path.display());
                    return Err(Refusal::new(
                        libc::ENXIO,
                        format!("device {name}: {path} counts from the folder that this runs in, which is not there any more"),
                    ));
                }
                let is_new = device.create.is_some() && !device.path.exists();
                let target = self.open(device, read_only)?;
                let attention = self.attention.clone();
                target.on_news(move || attention.ring());
                undo.files.extend(is_new.then(|| device.path.clone()));
                // One that was just made has one only now.
                let identity = identity.or_else(|| self.identity(&device.path));
                let (number, errand) = (device.number, Errand::default());
                Ok(Fate::Comes(Opened { target: Arc::new(target), identity, number, errand }))
            })
            .collect()
    }

    /// It is mounted, and that is the number of its filesystem.
    pub(super) fn mounted_as(&self, number: u64) {
        // Once.
        let _ = self.number.set(number);
    }

    /// It is kept by this process, and has been served by so many before: to be known before anybody can ask.
    pub(super) fn began_with(&self, keeper: u32, before: u32) {
        // Once.
        let _ = self.began.set((keeper, before));
    }

    /// From now on this can be said to the keeper.
    pub(super) fn kept_by(&self, keeper: Arc<Keeper>) {
        // Once.
        let _ = self.keeper.set(keeper);
    }

    /// Whether a path is in the mount itself, or a device on a file that is: to serve it we would wait for ourselves.
    fn is_inside(&self, path: &Path) -> bool {
        self.number.get().is_some_and(|number| stands_on(path, *number))
    }

    /// What tells the file or block device at a path from others.
    fn identity(&self, path: &Path) -> Option<(u64, u64)> {
        identity_of(&*self.probe, path)
    }

    /// Makes the bands of the devices that come; all devices that there are then, in the order of the plan.
    fn come(&self, new: &Plan, fates: Vec<Fate>, devices: &Devices, undo: &mut Undo) -> Vec<(String, Held)> {
        let mut by_id: HashMap<u32, Arc<Engine>> = HashMap::new();
        for fate in &fates {
            if let Fate::Stays(held) = fate {
                by_id.insert(held.id, held.engine.clone());
            }
        }
        // A disk that loses its last device in this very change is not given to another one before that.
        let busy: HashSet<u16> = devices.values().map(|held| held.engine.number()).collect();
        let all = self.engines.load_full();
        let mut idle = all.iter().filter(|engine| !busy.contains(&engine.number()));
        let mut next = all.len();
        let mut held = Vec::with_capacity(fates.len());
        for (device, fate) in new.devices.iter().zip(fates) {
            let Opened { target, identity, number, errand } = match fate {
                Fate::Stays(here) => {
                    held.push((device.name.clone(), here));
                    continue;
                }
                Fate::Comes(opened) => opened,
            };
            let engine = by_id.entry(device.id).or_insert_with(|| {
                if let Some(engine) = idle.next() {
                    engine.change().id(device.id);
                    return engine.clone();
                }
                // There are fewer disks than 16 bits number: a configuration that is small enough to be read has no more.
                let disk = u16::try_from(next).unwrap_or(u16::MAX);
                next += 1;
                let settings = EngineSettings {
                    id: device.id,
                    settings: settings(device),
                    unscheduled: self.unscheduled,
                    simulate: simulate(device),
                    budget: self.engines.budget().clone(),
                };
                let engine = Arc::new(Engine::new(disk, settings, self.clock));
                self.engines.extend([engine.clone()]);
                engine
            });
            let band = engine.change().add_band(BandSettings {
                name: device.name.clone(),
                target: target.clone(),
                group_type: device.group_type,
                policy: device.policy,
                weight: device.weight,
                limits: device.limits,
                groups: device.groups.clone(),
            });
            undo.bands.push((engine.clone(), band));
            let path = device.path.clone();
            let (engine, size, id) = (engine.clone(), device.size, device.id);
            held.push((
                device.name.clone(),
                Held { engine, band, target, path, identity, number, size, id, errand },
            ));
        }
        held
    }

    /// What is to be seen then, after `old`, or with what `ran` with a predecessor.
    fn tree<'p>(
        &self,
        before: &Tree,
        (old, ran): (&Plan, Option<&'p Plan>),
        new: &Plan,
        held: &[(String, Held)],
        mut removed: Vec<Arc<ImageNode>>,
    ) -> Result<Tree, Refusal> {
        let names: Vec<Arc<str>> = held.iter().map(|(name, _)| Arc::from(name.as_str())).collect();
        let mut images = Vec::with_capacity(new.images.len());
        let lost = self.face.lost_images();
        let with_device = |ran: &'p Plan| ran.images.iter().map(|image| (image, &ran.devices[image.device]));
        let inherited: HashMap<_, _> =
            ran.into_iter().flat_map(with_device).map(|was| (was.0.name.as_str(), was)).collect();
        for wanted in &new.images {
            let Held { engine, band, target, .. } = &held[wanted.device].1;
            let is_it = |node: &ImageNode| {
                node.image.name() == wanted.name && node.image.band() == *band && is_like(node, wanted, new)
            };
            let owner = (wanted.owner, wanted.group);
            if let Some(node) = before.named(&wanted.name).filter(|node| is_it(node)) {
                let was = old.images.iter().find(|image| image.name == wanted.name);
                if was.is_none_or(|was| (was.owner, was.group, was.mode) != (owner.0, owner.1, wanted.mode)) {
                    node.give_to(owner, wanted.mode);
                }
                images.push(node.clone());
                continue;
            }
            // It was taken out and is put in again, while somebody has it open.
            if let Some(at) = removed.iter().position(|node| is_it(node)) {
                let node = removed.swap_remove(at);
                node.give_to(owner, wanted.mode);
                images.push(node);
                continue;
            }
            let was = inherited.get(wanted.name.as_str());
            let known = was.and_then(|was| self.inherited_image(*was, (wanted, &new.devices[wanted.device])));
            let image =
                Image::new(wanted.name.as_str().into(), target.clone(), *band, wanted.extents.clone());
            let image = if known.is_some() { image.of_predecessor() } else { image };
            let (device, engine) = (names[wanted.device].clone(), engine.clone());
            // Also what stood for another one until now: whoever has opened that and is not known to have is not to find this.
            let taken =
                |ino| before.has(ino) || removed.iter().any(|node| node.ino == ino) || lost.contains(&ino);
            let node =
                ImageNode::new(Arc::new(image), device, engine, wanted.read_only, owner, wanted.mode, taken);
            let node = match known {
                Some(known) => node.go_on(known.ino, known.access),
                None => node,
            };
            images.push(Arc::new(node));
        }
        let tree = Tree::new(new.control.clone(), names, images, removed.clone());
        let tree = tree.map_err(|error| Refusal::invalid(error.to_string()))?;
        tree.images().iter().for_each(|node| node.set_removed(false));
        removed.iter().for_each(|node| node.set_removed(true));
        Ok(tree)
    }

    /// Changes every disk, each in one step.
    fn change(&self, new: &Plan, held: &[(String, Held)]) {
        let reidentify = |caller: Caller| -> Option<Identity> {
            match self.face.callers().resolve_whole(caller) {
                Who::Caller(identity) => Some(identity),
                Who::Kernel => None,
            }
        };
        let mut done = HashSet::new();
        for (_, Held { engine, .. }) in held {
            if !done.insert(engine.number()) {
                continue;
            }
            let mut change = engine.change();
            let all = new.devices.iter().zip(held);
            let mut here = all.filter(|(_, (_, here))| here.engine.number() == engine.number()).peekable();
            // What all devices on a disk say alike.
            if let Some((device, _)) = here.peek() {
                change.settings(settings(device));
                change.simulate(simulate(device));
            }
            for (device, (_, here)) in here {
                let wanted = BandChange {
                    group_type: device.group_type,
                    policy: device.policy,
                    weight: device.weight,
                    limits: device.limits,
                    groups: device.groups.clone(),
                };
                change.update_band(here.band, wanted, &reidentify);
            }
        }
    }
}

/// Whether all images of a device are for reading only, and there are some.
fn is_only_read(plan: &Plan, device: usize) -> bool {
    let images = || plan.images.iter().filter(|image| image.device == device);
    images().next().is_some() && images().all(|image| image.read_only)
}

/// What tells the file or block device at a path from others.
fn identity_of(probe: &dyn Probe, path: &Path) -> Option<(u64, u64)> {
    probe.probe(path).ok().flatten().and_then(|found| found.identity)
}

/// What a mount keeps for as long as it is there.
fn unchangeable(old: &Plan, new: &Plan) -> Result<(), Refusal> {
    let sentence = if old.mountpoint != new.mountpoint {
        "`mountpoint` cannot change while it is mounted: `ioband umount` and mount again, or leave it as it was"
    } else if old.control.dir != new.control.dir {
        "`control: {dir: …}` cannot change while it is mounted: `ioband umount` and mount again, or leave it as it was"
    } else {
        return Ok(());
    };
    Err(Refusal::new(libc::EBUSY, sentence))
}

fn wants<'p>(devices: impl IntoIterator<Item = &'p DevicePlan>) -> Wants {
    Wants::of(devices.into_iter().map(|device| -> GroupType { device.group_type }))
}

fn settings(device: &DevicePlan) -> Settings {
    let DevicePlan { io_throttle, io_limit, token_base, .. } = *device;
    Settings { io_throttle, io_limit, token_base }
}

fn faults(device: &DevicePlan) -> Option<Faults> {
    let fault = |plan: &FaultPlan| {
        let FaultPlan { what, op, range, every, seed } = *plan;
        let op = op.map(|op| match op {
            config::FaultOp::Read => FaultOp::Read,
            config::FaultOp::Write => FaultOp::Write,
            config::FaultOp::Flush => FaultOp::Flush,
            config::FaultOp::Discard => FaultOp::Discard,
        });
        let range = range.map(|range| range.offset.0..range.end().0);
        let error = what.error.map(FaultError::errno);
        Fault { op, range, every, seed, error, short: what.short, stall: what.stall }
    };
    let faults: Vec<_> = device.faults.iter().map(fault).collect();
    (!faults.is_empty()).then_some(Faults(faults))
}

fn simulate(device: &DevicePlan) -> Option<Simulate> {
    device.simulate.map(|SimulatePlan { iops, bandwidth, parallel }| Simulate {
        iops,
        bandwidth: bandwidth.map(|b| b.0),
        parallel,
    })
}
