//! What may change while the engine serves: the disk's settings, its speed, its ioband devices and their groups.

use super::band::{BandChange, BandId, BandSettings};
use super::core::{Engine, Stage, State};
use crate::classify::{Caller, Identity};
use crate::device::Simulate;
use crate::sched::{Request, Settings};
use crate::units::Nanos;
use std::collections::HashMap;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

/// Changes of one disk: it is locked until this is dropped, so that all of them come into force at once. Nothing here can
/// fail, and no accepted request is lost, doubled or overtaken within its group (share rules R9, R10).
///
/// The device is not touched: this has no lane to start calls on. What a change lets pass passes with the next visit, so
/// whoever drops this wakes a thread that serves, and that sees from [`Engine::wants_visit`] that it is to visit.
#[must_use = "it holds the lock, and changes nothing by itself"]
pub struct Change<'a> {
    engine: &'a Engine,
    state: MutexGuard<'a, State>,
    now: Nanos,
}

impl<'a> Change<'a> {
    pub(super) fn new(engine: &'a Engine, state: MutexGuard<'a, State>, now: Nanos) -> Self {
        Self { engine, state, now }
    }

    /// Changes the settings of the disk.
    pub fn settings(&mut self, settings: Settings) {
        if settings != self.state.disk.settings() {
            self.state.disk.set_settings(settings);
        }
    }

    /// Makes the device so slow, or no longer. What it has begun is answered when it was due.
    ///
    /// How many requests a device that turns slower is given at once is found anew, from few to many: what suits a fast one may be
    /// so many that weights decide nothing, and a slow one takes seconds to show it. One that turns faster soon shows that it wants more.
    pub fn simulate(&mut self, simulate: Option<Simulate>) {
        let State { device, disk, .. } = &mut *self.state;
        if Simulate::slows(device.simulate(), simulate) {
            disk.forget_depths();
        }
        device.set_simulate(simulate);
    }

    /// Gives the engine another device id. With no ioband device left it is then that of another disk, of which nothing is
    /// known yet; requests of the old one may still be on their way.
    pub fn id(&mut self, id: u32) {
        let State { bands, disk, .. } = &mut *self.state;
        if bands.len() == 0 {
            disk.forget_device();
        }
        self.state.id = id;
    }

    /// How many ioband devices there are.
    pub fn bands(&self) -> usize {
        self.state.bands.len()
    }

    /// Adds an ioband device. Groups of type `pid` are looked up in /proc.
    pub fn add_band(&mut self, settings: BandSettings) -> BandId {
        let State { bands, disk, .. } = &mut *self.state;
        bands.add(settings, disk, self.now)
    }

    /// Takes an ioband device away. What is held of it passes as if it had no limits; what comes for it from now on is
    /// answered ENXIO. With the last one nothing is on hold any more: nobody would say so to an engine without devices.
    pub fn remove_band(&mut self, id: BandId) {
        let State { bands, disk, on_hold, .. } = &mut *self.state;
        let Some(band) = bands.remove(id) else { return };
        band.keys().for_each(|key| disk.retire_group(key, self.now));
        *on_hold &= bands.len() > 0;
    }

    /// Makes an ioband device what is wanted of it now. Groups that stay keep their counters and, under type `pid`, their
    /// process; they stand in the order in which they are wanted. What is held is classified again, in order of arrival, so
    /// that a new group takes along what the default group holds of it. When the type changes, what was found out of callers
    /// when they came may not be what counts now: `reidentify` is asked about those that are known (it may read /proc,
    /// once for each thread); who is not there any more is what it was.
    pub fn update_band(
        &mut self,
        id: BandId,
        wanted: BandChange,
        reidentify: &dyn Fn(Caller) -> Option<Identity>,
    ) {
        let State { bands, disk, table, .. } = &mut *self.state;
        let Some(band) = bands.get_mut(id) else { return };
        if wanted.group_type != band.groups.group_type() {
            let mut known = HashMap::new();
            for (_, accepted) in table.iter_mut().filter(|(_, accepted)| accepted.image.band() == id) {
                if let Stage::Held(held) = &mut accepted.stage
                    && let Some(caller) = held.caller()
                    && let Some(identity) = known.entry(caller).or_insert_with(|| reidentify(caller))
                {
                    held.identity = identity.clone();
                }
            }
        }
        let Some(gone) = band.rearrange(wanted, disk, self.now) else { return };
        let (default, staying) = (band.groups.default_key(), band.keys().collect::<Vec<_>>());
        let group = |request: &Request| {
            // What the scheduler holds is in the table, and held there as well.
            table.get(request.id as usize).and_then(|held| held.group_in(band)).unwrap_or(default)
        };
        gone.into_iter().for_each(|key| disk.remove_group(key, self.now, group));
        staying.into_iter().for_each(|key| disk.reroute(key, self.now, group));
        self.state.line_up();
    }

    pub(super) fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// Sets the counters of an ioband device's groups to zero.
    pub fn reset(&mut self, id: BandId) {
        let State { bands, disk, .. } = &mut *self.state;
        if let Some(band) = bands.get(id) {
            band.keys().for_each(|key| disk.reset_counters(key));
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        // Before the lock is let go, so that whoever visits afterwards has seen the change.
        self.engine.changed.store(true, Ordering::Relaxed);
    }
}
