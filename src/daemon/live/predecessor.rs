//! What a predecessor had, until it is ours: its devices, which may still be with it, and the images that somebody has open.

use super::{ANSWER, Devices, Errand, Held, Live, Opened, identity_of, is_only_read};
use crate::config::{DevicePlan, Extent, Plan};
use crate::control::{Access, Carried, DeviceEntry, OrphanEntry};
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
}

impl Live {
    /// The images that are made are those of a predecessor, under the same numbers.
    pub(in crate::daemon) fn inheriting(self, carried: Carried, open: Vec<u64>) -> Self {
        Self { inherited: Mutex::new(Some(Inherited { carried, open })), ..self }
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

    /// The orphans of a predecessor that somebody has open and whose device is there.
    pub(super) fn inherited_orphans(&self, held: &[(String, Held)]) -> Vec<Arc<ImageNode>> {
        let inherited = self.inherited();
        let Some(Inherited { carried, open }) = &*inherited else { return Vec::new() };
        let orphans = carried.orphans.iter().filter(|orphan| open.contains(&orphan.ino));
        let node = |orphan: &OrphanEntry| {
            let (name, Held { engine, band, target, .. }) =
                held.iter().find(|(name, _)| *name == orphan.device)?;
            let extent = |(offset, size)| Extent { offset: Bytes(offset), size: Bytes(size) };
            let extents = orphan.extents.iter().copied().map(extent).collect();
            let image = Image::new(orphan.name.as_str().into(), target.clone(), *band, extents);
            let Access { owner, mode, .. } = orphan.access;
            let (device, engine) = (Arc::from(name.as_str()), engine.clone());
            let node =
                ImageNode::new(Arc::new(image), device, engine, orphan.read_only, owner, mode, |_| false);
            Some(Arc::new(node.go_on(orphan.ino, Some(orphan.access))))
        };
        orphans.filter_map(node).collect()
    }
}
