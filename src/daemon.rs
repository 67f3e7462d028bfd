//! Puts the parts together, serves, and takes them apart in the right order.
//!
//! Start: a look at the mount point, devices (their errors are the likeliest), engines, the tree of files, the
//! mount, and only then "ready". A start that fails takes away again what it made.
//! Stop, by a signal: the mount is detached, so that nobody new comes; what was accepted is carried out and answered;
//! then the process ends. Stop, by an unmount: nobody is left; the same without the first step.
#![forbid(unsafe_code)]

mod exchange;
mod live;
mod replace;
mod watch;

use crate::classify::{Callers, Wants};
use crate::clock::Clock;
use crate::config::{Defaults, Plan, Probe};
use crate::control::{Control, Events, Service};
use crate::engine::Engines;
use crate::fuse::{Face, Mounted, MountedAt, ServeOptions, Server, Tree, check_mountpoint, default_acl};
use anyhow::Context;
use live::Live;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{getegid, geteuid};
pub use replace::replace_file;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::os::unix::fs::MetadataExt;
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

/// A configuration, and all that is needed to read it again.
pub struct Configuration {
    /// What it says.
    pub plan: Plan,
    /// Its text.
    pub text: String,
    /// The file that it was read from, from the root.
    pub file: PathBuf,
    /// What holds where it says nothing.
    pub defaults: Defaults,
    /// Looks at paths of devices.
    pub probe: Box<dyn Probe + Send + Sync>,
}

/// Why the daemon stops.
enum Stop {
    Signal(i32),
    Unmounted(std::io::Result<()>),
}

/// Serves a configuration at `mountpoint` until it is unmounted or a signal ends it. `ready` is called once the mount
/// answers.
///
/// # Errors
/// Whatever keeps it from starting, in words for the terminal; nothing is left mounted then.
pub fn serve(
    configuration: Configuration,
    mountpoint: &Path,
    options: Options,
    ready: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let Configuration { plan, text, file, defaults, probe } = configuration;
    let events = Arc::new(Events::default());
    // Mounting will see to it again; but whoever mounts twice shall read that, and not that the device is locked.
    check_mountpoint(mountpoint)?;
    let clock = Clock::start();
    let engines = Arc::new(Engines::new(options.serve.budget()));
    let callers = Callers::new(Wants::default()).context("cannot set up the cache of callers")?;
    let control = Arc::new(Control::new(events.clone(), plan.clone(), &text));
    let owner = (geteuid().as_raw(), getegid().as_raw());
    // A mount begins with nothing, and is changed to what it is to be, as it is changed later on.
    let nothing = Plan { devices: Vec::new(), images: Vec::new(), ..plan.clone() };
    let tree = Tree::new(plan.control.clone(), Vec::new(), Vec::new(), Vec::new())?;
    let face = Arc::new(Face::new(owner, tree, control.clone(), callers).context("cannot start a thread")?);
    let unscheduled = options.unscheduled;
    let live = Live::new(defaults, probe, file.clone(), face.clone(), engines.clone(), clock, unscheduled);
    let mut made = RemoveOnDrop(live.make(&nothing, &plan)?);

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
    let live = Arc::new(live.served_by(server.clone()));
    control.put_in_force_by(live.clone());
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
    let root = std::fs::metadata(&mountpoint).context("the mount does not answer")?;
    live.mounted_as(root.dev());
    ready(&mountpoint)?;
    // Now there may be data in them.
    made.0.clear();
    events.add(&format!("mounted at {}", mountpoint.display()));
    if let Err(error) = watch::start(file, control) {
        events.add(&format!("the configuration is not watched: {error:#}; edit control.yaml instead"));
    }

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
        remove_files(&self.0);
    }
}

/// Removes files that were made, and folders.
fn remove_files(paths: &[PathBuf]) {
    for path in paths {
        let remove = if path.is_dir() { std::fs::remove_dir::<&PathBuf> } else { std::fs::remove_file };
        if let Err(error) = remove(path) {
            tracing::warn!(path = %path.display(), %error, "could not remove what was new");
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
