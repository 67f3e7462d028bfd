//! What a predecessor had, until it is ours: its devices, which may still be with it, and the images that somebody has open.

use super::{ANSWER, Devices, Errand, Held, Live, Opened, identity_of, is_only_read};
use crate::config::{DevicePlan, Extent, ImagePlan, Plan};
use crate::control::{Access, Carried, DeviceEntry, ImageEntry, OrphanEntry};
use crate::daemon::exchange::{in_place_of, is_wanted};
use crate::daemon::inherit::Running;
use crate::device::{Target, stands_on};
use crate::engine::{Engine, Image};
use crate::fuse::ImageNode;
use crate::units::Bytes;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a successor waits for the last writes of its predecessor to land.
///
/// The others are not kept waiting for longer than this: what comes for one whose disk is not free by then is held, and the disk
/// looked for meanwhile.
const PATIENCE: Duration = Duration::from_millis(300);

/// Images as a predecessor had them.
pub(super) struct Inherited {
    pub(super) carried: Carried,
    /// The inode numbers of those that are open.
    open: Vec<u64>,
    /// What ran, if that could be read at the start.
    ran: Option<Plan>,
}

impl Live {
    /// The images that are made are those of a predecessor, under the same numbers, where they are what they were in what `ran`.
    pub(in crate::daemon) fn inheriting(self, carried: Carried, open: Vec<u64>, ran: Option<Plan>) -> Self {
        Self { inherited: Mutex::new(Some(Inherited { carried, open, ran })), ..self }
    }

    /// Opens what a predecessor had, each in a thread of its own, since its filesystem may be one that hangs. What is not found
    /// in time is missing, and awaited: its images are there all the same.
    pub(super) fn open_inherited(&self, new: &Plan, devices: &Devices) -> HashMap<PathBuf, Opened> {
        let left = || PATIENCE.saturating_sub(self.clock.now().into());
        let begin = |(index, device): (usize, &DevicePlan)| {
            if devices.values().any(|held| held.path == device.path) {
                return None;
            }
            let was = self.inherited_device(&device.path)?;
            // Every text is a mark.
            let mark = was.mark.as_ref().and_then(|mark| mark.parse().ok());
            let (size, read_only) = (Bytes(was.size.max(device.size.0)), is_only_read(new, index));
            let target = Arc::new(Target::missing(&was.path, size, mark.as_ref(), read_only));
            let attention = self.attention.clone();
            target.on_news(move || attention.ring());
            let (number, identity, errand) = (was.number, was.identity, Errand::default());
            let opened = Opened { target: target.clone(), identity, number, errand };
            let (send, found) = channel();
            let (probe, mount, patience) = (self.probe.clone(), self.number.get().copied(), left());
            let attention = self.attention.clone();
            opened.errand.begin(move || {
                if mount.is_some_and(|mount| stands_on(&was.path, mount)) {
                    tracing::warn!(path = %was.path.display(), "a device is in its own mount by now");
                    target.give_up();
                } else {
                    target.find(Some(patience));
                }
                // It may have another number by now.
                let identity = (!target.is_missing()).then(|| identity_of(&*probe, &was.path)).flatten();
                // Whoever waits may have given up, and is told of it otherwise.
                let _ = send.send(identity);
                attention.ring();
            });
            Some((opened, found))
        };
        let all: Vec<_> = new.devices.iter().enumerate().filter_map(begin).collect();
        let wait = |(opened, found): (Opened, Receiver<Option<(u64, u64)>>)| {
            let now = found.recv_timeout(left().max(ANSWER)).ok().flatten();
            (opened.target.path().to_owned(), Opened { identity: now.or(opened.identity), ..opened })
        };
        all.into_iter().map(wait).collect()
    }

    /// What a predecessor had at this path.
    pub(super) fn inherited_device(&self, path: &Path) -> Option<DeviceEntry> {
        let inherited = self.inherited();
        inherited.as_ref()?.carried.devices.iter().find(|device| device.path == path).cloned()
    }

    /// Holds what comes for disks whose devices are still with a predecessor, and for no others. Whether there are any.
    pub(in crate::daemon) fn hold_awaited(&self) -> bool {
        let devices = self.devices();
        let mut engines: HashMap<u16, (Arc<Engine>, bool)> = HashMap::new();
        for held in devices.values() {
            let (_, awaited) = engines.entry(held.engine.number()).or_insert((held.engine.clone(), false));
            *awaited |= held.target.is_awaited();
        }
        // While no device can go: an engine whose last one has gone is to stay as that has left it.
        for (engine, awaited) in engines.values() {
            engine.hold(*awaited);
        }
        drop(devices);
        if let Some(server) = self.server.get() {
            server.engines_changed();
        }
        engines.values().any(|(_, awaited)| *awaited)
    }

    pub(super) fn inherited(&self) -> MutexGuard<'_, Option<Inherited>> {
        self.inherited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What ran with a predecessor, until there is anything of ours. What could not be read at the start may be readable by now.
    pub(super) fn what_ran(&self) -> Option<Plan> {
        let inherited = self.inherited();
        let Inherited { carried, ran, .. } = inherited.as_ref()?;
        let read_again = || {
            let again = Running::inherited(carried, &self.defaults, self.machine()).ok()?;
            again.trouble.is_none().then_some(again.plan)
        };
        ran.clone().or_else(read_again)
    }

    /// What a predecessor had under this name, if that is what is wanted: whoever has it open is not to find other bytes there,
    /// after what ran could not be in force and something else was put in its place. What was changed of it is gone where the
    /// configuration says something else now.
    pub(super) fn inherited_image(
        &self,
        (was, its_device): (&ImagePlan, &DevicePlan),
        (wanted, device): (&ImagePlan, &DevicePlan),
    ) -> Option<ImageEntry> {
        let is_same = was.extents == wanted.extents
            && was.read_only == wanted.read_only
            && is_same_device(its_device, device);
        if !is_same {
            return None;
        }
        let inherited = self.inherited();
        let known = inherited.iter().flat_map(|inherited| &inherited.carried.images);
        let known = known.clone().find(|known| known.name == wanted.name);
        let says = |image: &ImagePlan| (image.owner, image.group, image.mode);
        let access = known.and_then(|known| known.access).filter(|_| says(was) == says(wanted));
        let ino = known.map_or_else(|| ImageNode::first_number(&wanted.name), |known| known.ino);
        Some(ImageEntry { name: wanted.name.clone(), ino, access })
    }

    /// The orphans of a predecessor that somebody has open and whose device is there. Where another image is wanted in their place
    /// they stay lost: what ran was not in force, and who has them open is not to be in the way of what is to be.
    pub(super) fn inherited_orphans(
        &self,
        ran: &Plan,
        new: &Plan,
        held: &[(String, Held)],
    ) -> Vec<Arc<ImageNode>> {
        let inherited = self.inherited();
        let Some(Inherited { carried, open, .. }) = &*inherited else { return Vec::new() };
        let orphans = carried.orphans.iter().filter(|orphan| open.contains(&orphan.ino));
        let node = |orphan: &OrphanEntry| {
            let is_it = |device: &&DevicePlan| device.name == orphan.device;
            let here = new.devices.iter().zip(held).find(|(device, _)| is_it(device));
            let (device, (name, Held { engine, band, target, .. })) = here?;
            if !ran.devices.iter().find(is_it).is_some_and(|was| is_same_device(was, device)) {
                return None;
            }
            let extent = |(offset, size)| Extent { offset: Bytes(offset), size: Bytes(size) };
            let extents = orphan.extents.iter().copied().map(extent).collect();
            let image =
                Image::new(orphan.name.as_str().into(), target.clone(), *band, extents).of_predecessor();
            let Access { owner, mode, .. } = orphan.access;
            let (device, engine) = (Arc::from(name.as_str()), engine.clone());
            let node =
                ImageNode::new(Arc::new(image), device, engine, orphan.read_only, owner, mode, |_| false);
            Some(Arc::new(node.go_on(orphan.ino, Some(orphan.access))))
        };
        let has_room = |node: &Arc<ImageNode>| is_wanted(node, new) || in_place_of(node, new).is_none();
        orphans.filter_map(node).filter(has_room).collect()
    }
}

/// Whether the device of one configuration is that of another one.
fn is_same_device(one: &DevicePlan, other: &DevicePlan) -> bool {
    one.name == other.name && one.path == other.path
}
