//! Puts the parts together, serves, and takes them apart in the right order.
//!
//! Start: a look at the mount point, devices (their errors are the likeliest), engines, the tree of files, the
//! mount, and only then "ready". A start that fails takes away again what it made.
//! Stop, by a signal: the mount is detached, so that nobody new comes; what was accepted is carried out and answered;
//! then the process ends. Stop, by an unmount: nobody is left; the same without the first step.
#![forbid(unsafe_code)]

use crate::classify::{Callers, Wants};
use crate::clock::Clock;
use crate::config::{DevicePlan, Plan, SimulatePlan};
use crate::control::{Control, Events, Service};
use crate::device::{OpenMode, Simulate, Target};
use crate::engine::{BandId, BandSettings, Engine, EngineSettings, Image};
use crate::fuse::{
    Face, ImageNode, Mounted, MountedAt, ServeOptions, Server, Tree, check_mountpoint, default_acl,
};
use crate::sched::Settings;
use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{getegid, geteuid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

/// How a mount is to be served.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How requests come and devices are talked to.
    pub serve: ServeOptions,
    /// Let every request pass at once: to measure what scheduling costs.
    pub unscheduled: bool,
}

/// Why the daemon stops.
enum Stop {
    Signal(i32),
    Unmounted(std::io::Result<()>),
}

/// Serves `plan` at `mountpoint` until it is unmounted or a signal ends it. `ready` is called once the mount answers.
///
/// # Errors
/// Whatever keeps it from starting, in words for the terminal; nothing is left mounted then.
pub fn serve(
    plan: Plan,
    mountpoint: &Path,
    options: Options,
    ready: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let events = Arc::new(Events::default());
    // Mounting will see to it again; but whoever mounts twice shall read that, and not that the device is locked.
    check_mountpoint(mountpoint)?;
    let mut made = RemoveOnDrop(Vec::new());
    let clock = Clock::start();
    let (engines, places) = start_engines(&plan, options.unscheduled, clock, &mut made)?;
    let wants = Wants::of(plan.devices.iter().map(|device| device.group_type));
    let callers = Callers::new(wants).context("cannot set up the cache of callers")?;
    let images = images(&plan, &places);
    let devices = places.iter().map(|place| place.band).collect();
    let control = Control::new(engines.clone(), devices, events.clone());
    let owner = (geteuid().as_raw(), getegid().as_raw());
    let tree = Tree::new(owner, plan.control.clone(), control, images)?;
    let face = Arc::new(Face::new(tree, callers).context("cannot start a thread")?);

    let (stop, stopped) = mpsc::channel();
    // Before the mount: a signal that comes while we mount must not leave it behind.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot handle signals")?;
    let mounted = Mounted::new(mountpoint, default_acl())?;
    let mountpoint = mounted.place.mountpoint.clone();
    if mounted.made {
        made.0.push(mountpoint.clone());
    }
    // Dropped before what was made is removed.
    let guard = UnmountOnDrop(mounted.place);

    let (ended, end) = mpsc::channel();
    let server =
        Server::start(face.clone(), engines, mounted.connection, mounted.acl, options.serve, clock, ended)?;
    let server = Arc::new(server);
    let Service { transport, why, threads, backend, .. } = server.service();
    tracing::info!(transport, threads, backend, "the mount is served");
    if let Some(why) = &why {
        tracing::info!("requests come by /dev/fuse and not, faster, by io_uring: {why}");
    }
    face.control().describe_service({
        let server = server.clone();
        move || server.service()
    });
    let unmounted = stop.clone();
    thread::Builder::new()
        .name("end".into())
        .spawn(move || end.recv().map(|how| unmounted.send(Stop::Unmounted(how))))
        .context("cannot start a thread")?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().try_for_each(|signal| stop.send(Stop::Signal(signal))))
        .context("cannot start a thread")?;

    // Asking the mount itself is the only proof that it answers.
    std::fs::metadata(&mountpoint).context("the mount does not answer")?;
    ready(&mountpoint)?;
    // Now there may be data in them.
    made.0.clear();
    events.add(&format!("mounted at {}", mountpoint.display()));

    match stopped.recv() {
        Ok(Stop::Signal(signal)) => {
            tracing::info!(signal, "ending: unmounting and finishing what was accepted");
            drop(guard);
        }
        Ok(Stop::Unmounted(Ok(()))) => {
            guard.connection_ended();
            tracing::info!("unmounted");
        }
        Ok(Stop::Unmounted(Err(error))) => {
            // Not all that was accepted can be carried out any more. At our end the kernel answers whoever waits.
            tracing::error!(%error, "the mount cannot be served any more");
            drop(guard);
            return Err(error).context("the mount cannot be served any more");
        }
        // Both senders gone: their threads died. Nothing to serve with.
        Err(mpsc::RecvError) => tracing::error!("the threads that serve have ended"),
    }
    server.finish();
    Ok(())
}

/// Whatever happens between mounting and serving: a mount without a daemon is worse than none.
struct UnmountOnDrop(MountedAt);

impl UnmountOnDrop {
    /// Mostly there is nothing left to unmount.
    fn connection_ended(self) {
        if let Err(error) = self.0.detach_dead() {
            tracing::warn!(%error, "could not unmount");
        }
        std::mem::forget(self);
    }
}

impl Drop for UnmountOnDrop {
    fn drop(&mut self) {
        if let Err(error) = self.0.detach() {
            tracing::warn!(%error, "could not unmount");
        }
    }
}

/// Files that were made for devices, and the mount point: a mount that does not come about leaves none behind.
struct RemoveOnDrop(Vec<PathBuf>);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        for path in &self.0 {
            let remove = if path.is_dir() { std::fs::remove_dir::<&PathBuf> } else { std::fs::remove_file };
            if let Err(error) = remove(path) {
                tracing::warn!(path = %path.display(), %error, "could not remove what was new");
            }
        }
    }
}

/// Open images and the cache of callers need descriptors; the soft limit is there for programs that use select(2).
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Where an ioband device is, and what it is a name for.
struct Place {
    engine: Arc<Engine>,
    band: BandId,
    target: Arc<Target>,
}

/// One engine per device id, and where each device of the plan is.
fn start_engines(
    plan: &Plan,
    unscheduled: bool,
    clock: Clock,
    made: &mut RemoveOnDrop,
) -> anyhow::Result<(Vec<Arc<Engine>>, Vec<Place>)> {
    let mut engines: Vec<Arc<Engine>> = Vec::new();
    let mut places = Vec::new();
    for (index, device) in plan.devices.iter().enumerate() {
        let images = || plan.images.iter().filter(|image| image.device == index);
        let read_only = images().next().is_some() && images().all(|image| image.read_only);
        // Absolute, because the daemon leaves the folder it was started in and tables are read from anywhere.
        let path = std::path::absolute(&device.path).with_context(|| {
            let (name, path) = (&device.name, device.path.display());
            format!(
                "device {name}: {path} counts from the folder that this runs in, which is not there any more"
            )
        })?;
        let target = Target::open(&path, device.create, OpenMode { read_only })
            .with_context(|| format!("device {}", device.name))?;
        made.0.extend(device.create.map(|_| path));
        let engine = engines.iter().find(|engine| engine.id() == device.id).cloned().unwrap_or_else(|| {
            // A configuration that is small enough to be read has fewer disks than that.
            let engine = Arc::new(Engine::new(engines.len() as u16, disk(device, unscheduled), clock));
            engines.push(engine.clone());
            engine
        });
        let target = Arc::new(target);
        let band = engine.change().add_band(band(device, target.clone()));
        places.push(Place { engine, band, target });
    }
    Ok((engines, places))
}

fn disk(device: &DevicePlan, unscheduled: bool) -> EngineSettings {
    let DevicePlan { id, io_throttle, io_limit, token_base, simulate, .. } = *device;
    let simulate = simulate.map(|SimulatePlan { iops, bandwidth, parallel }| Simulate {
        iops,
        bandwidth: bandwidth.map(|b| b.0),
        parallel,
    });
    let settings = Settings { io_throttle, io_limit, token_base };
    EngineSettings { id, settings, unscheduled, simulate }
}

fn band(device: &DevicePlan, target: Arc<Target>) -> BandSettings {
    BandSettings {
        name: device.name.clone(),
        target,
        group_type: device.group_type,
        policy: device.policy,
        weight: device.weight,
        limits: device.limits,
        groups: device.groups.clone(),
    }
}

fn images(plan: &Plan, places: &[Place]) -> Vec<ImageNode> {
    plan.images
        .iter()
        .map(|image| {
            let Place { engine, band, target } = &places[image.device];
            let owner = (image.owner, image.group);
            let node = Image::new(image.name.as_str().into(), target.clone(), *band, image.extents.clone());
            ImageNode::new(Arc::new(node), engine.clone(), image.read_only, owner, image.mode)
        })
        .collect()
}
