//! Puts the parts of a worker together, serves, and takes them apart in the right order.
//!
//! Start: a look at the mount point, devices (their errors are the likeliest), engines, the tree of files, the mount, which
//! the keeper makes, and only then "ready". A start that fails takes away again what it made. A worker that succeeds another
//! one finds what that has left in the ledger.
//! Stop, when the keeper says so or the mount is gone: what was accepted is carried out and answered; then the process ends.
//! To leave, for a successor: what is with the devices is answered; what is held is the successor's.
#![forbid(unsafe_code)]

mod attend;
mod counted;
mod exchange;
mod live;
mod remember;
mod replace;
mod watch;

use crate::classify::{Callers, Wants};
use crate::clock::{self, Clock};
use crate::config::{ControlPlan, Defaults, Plan, Probe, load_bytes};
use crate::control::{Carried, Control, Events, Journal, Service};
use crate::engine::Engines;
use crate::fuse::{Connection, Face, ServeOptions, Server, Tree, check_mountpoint, default_acl};
use crate::keeper::{Facts, Kept, Word};
use crate::ledger::{Ledger, LedgerError};
use crate::sandbox::Report;
use anyhow::Context;
use counted::Counted;
use fuser::SessionACL;
use live::Live;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{getegid, geteuid};
use remember::Remembering;
pub use replace::replace_file;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

/// How a mount is to be served.
#[derive(Clone, Debug)]
pub struct Options {
    /// How requests come and devices are talked to.
    pub serve: ServeOptions,
    /// Let every request pass at once: to measure what scheduling costs.
    pub unscheduled: bool,
    /// What this process has given up already.
    pub sandbox: Report,
}

/// A configuration, and all that is needed to read it again.
pub struct Configuration {
    /// What it says, and its text; where there is a mount already, the ledger knows what runs.
    pub says: Option<(Plan, String)>,
    /// The file that it was read from, from the root.
    pub file: PathBuf,
    /// What holds where it says nothing.
    pub defaults: Defaults,
    /// Looks at paths of devices.
    pub probe: Box<dyn Probe + Send + Sync>,
}

/// Why a worker stops.
enum Stop {
    Signal,
    Keeper(Word),
    Unmounted(std::io::Result<()>),
}

/// Serves until the mount is gone, or the keeper or a signal ends it. Where it is mounted is up to `mountpoint`, unless there is
/// a mount already. `ready` is called when the mount is served.
///
/// # Errors
/// Whatever keeps it from serving, in words for the terminal.
pub fn serve(
    configuration: Configuration,
    mountpoint: &Path,
    options: Options,
    kept: Kept,
    ready: impl FnOnce(&Plan) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let Configuration { says, file, defaults, probe } = configuration;
    let events = Arc::new(Events::default());
    let inherited = Facts::read(&kept.ledger)?.filter(|_| kept.begin.inherits);
    if inherited.is_none() {
        // Mounting will see to it again; but whoever mounts twice shall read that, and not that the device is locked.
        check_mountpoint(mountpoint)?;
    }
    if let Err(error) = understands(&kept.ledger) {
        kept.unfit(&error.to_string());
        return Err(error.into());
    }
    if !kept.wait_for_turn()? {
        return Ok(());
    }
    let clock = Clock::start();
    let engines = Arc::new(Engines::new(options.serve.budget()));
    // From here on nobody else writes to the ledger.
    events.keep_in(kept.ledger.clone())?;
    let journal = Arc::new(Journal::new(kept.ledger.clone())?);
    let carried = journal.carried();
    let Running { plan, text, mut trouble } = match says {
        Some((plan, text)) if inherited.is_none() => Running { plan, text, trouble: None },
        _ => Running::inherited(&carried, &defaults, &*probe)?,
    };
    let counted = Counted::new(kept.ledger.clone(), engines.clone(), events.clone());
    let callers = Callers::new(Wants::default()).context("cannot set up the cache of callers")?;
    let owner = (geteuid().as_raw(), getegid().as_raw());
    // A mount begins with nothing, and is changed to what it is to be, as it is changed later on.
    let nothing = Plan { devices: Vec::new(), images: Vec::new(), ..plan.clone() };
    let control = Arc::new(Control::new(events.clone(), journal.clone(), nothing.clone(), &text));
    let tree = Tree::new(plan.control.clone(), Vec::new(), Vec::new(), Vec::new())?;
    let face = Arc::new(Face::new(owner, tree, control.clone(), callers).context("cannot start a thread")?);
    let folder = defaults.folder.clone();
    let live =
        Live::new(defaults, probe, file.clone(), face.clone(), clock, options.unscheduled, counted.clone());
    let live = live.inheriting(carried, face.inherited_images()?);
    let mut made = RemoveOnDrop(match trouble {
        Some(_) => Vec::new(),
        None => match live.make(&nothing, &plan) {
            // There is a mount, and it is served as far as that goes.
            Err(refusal) if inherited.is_some() => {
                trouble = Some(refusal.to_string());
                Vec::new()
            }
            made => made?,
        },
    });
    if trouble.is_none() {
        control.begin(plan.clone());
    }
    counted.go_on(&Counted::inherited(&kept.ledger)?);
    face.go_on()?;
    counted.start().context("cannot start a thread")?;

    let (stop, stopped) = mpsc::channel();
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot handle signals")?;
    let (ended, end) = mpsc::channel();
    let succeeds = inherited.is_some();
    let (place, connection) = match inherited {
        Some(Facts { place, for_all, init, .. }) => {
            let acl = if for_all { SessionACL::All } else { SessionACL::Owner };
            let descriptors = kept.descriptors.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?;
            let memory = kept.memory.as_ref().map(OwnedFd::try_clone).transpose()?;
            (place.clone(), Connection { descriptors, acl, init: Some(init), place, memory })
        }
        None => {
            let (place, connection) = kept.mount(mountpoint)?;
            let (descriptors, acl) = (vec![connection], default_acl());
            (place.clone(), Connection { descriptors, acl, init: None, place, memory: None })
        }
    };
    let acl = connection.acl;
    // What comes first may be a change, asked for again.
    let live = Arc::new(live.of_process(options.sandbox.clone(), kept.begin.upgrade.clone()));
    live.mounted_as(place.device());
    control.put_in_force_by(live.clone());
    if trouble.is_none() {
        control.write_down();
    }
    let server = Server::start(face.clone(), engines, connection, &kept, options.serve, clock, ended)?;
    let server = Arc::new(server);
    let Service { transport, why, threads, backend, .. } = server.service();
    tracing::info!(transport, threads, backend, "the mount is served");
    if let Some(why) = &why {
        tracing::info!("requests come by /dev/fuse and not, faster, by io_uring: {why}");
    }
    if !succeeds {
        let (for_all, init) = (acl == SessionACL::All, server.init().to_vec());
        let facts = Facts { place: place.clone(), for_all, folder, file: file.clone(), init };
        facts.write(&kept.ledger).context("cannot write to the ledger")?;
    }
    live.served_by(server.clone());
    attend::start(live.clone(), control.clone(), live.attention(), clock).context("cannot start a thread")?;
    let unmounted = stop.clone();
    thread::Builder::new()
        .name("end".into())
        .spawn(move || end.recv().map(|how| unmounted.send(Stop::Unmounted(how))))
        .context("cannot start a thread")?;
    let by_signal = stop.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().try_for_each(|_| by_signal.send(Stop::Signal)))
        .context("cannot start a thread")?;

    let begin = kept.begin.clone();
    let keeper = kept.into_keeper();
    live.kept_by(keeper.clone(), begin.before);
    keeper.serves(ready(&plan)?, server.survives(), move |word| {
        // At the end nobody listens.
        let _ = stop.send(Stop::Keeper(word));
    })?;
    // Now there may be data in them.
    made.0.clear();
    if succeeds {
        let pause = clock::wall_micros().saturating_sub(begin.since) / 1000;
        events.add(&format!("the worker {}; another one serves after {pause} ms", begin.ended));
    } else {
        events.add(&format!("mounted at {}", place.mountpoint.display()));
    }
    for (wall, why) in options.sandbox.missing() {
        events.add(&format!("served outside a part of the sandbox: {} is not available: {why}", wall.name()));
    }
    if let Some(trouble) = trouble {
        events.add(&format!("what ran cannot be in force: {trouble}; save control.yaml again when it can"));
    }
    if let Err(error) = watch::start(file, control) {
        events.add(&format!("the configuration is not watched: {error:#}; edit control.yaml instead"));
    }

    loop {
        match stopped.recv() {
            // Meant for the keeper, which has got it as well and says what is to be done.
            Ok(Stop::Signal) if keeper.process().is_some() => {}
            Ok(Stop::Keeper(Word::Alone)) => {
                tracing::warn!("the keeper has ended; the mount ends with this process");
                events.add("the keeper has ended: the mount is served as before, and ends with the process that serves it");
            }
            Ok(Stop::Keeper(Word::Leave)) => {
                server.leave();
                counted.write();
                return Ok(());
            }
            Ok(Stop::Keeper(Word::Stop) | Stop::Unmounted(Ok(()))) => break,
            // Somebody else may hold the mount, and go on with it.
            Ok(Stop::Signal) => {
                server.leave();
                counted.write();
                return Ok(());
            }
            // What was accepted and cannot be carried out is the successor's.
            Ok(Stop::Unmounted(Err(error))) => {
                return Err(error).context("the mount cannot be served any more");
            }
            // All senders gone: their threads died. Nothing to serve with.
            Err(mpsc::RecvError) => anyhow::bail!("the threads that serve have ended"),
        }
    }
    server.finish();
    Ok(())
}

/// Whether what a predecessor has left makes sense to this program: to be known while that still serves.
fn understands(ledger: &Arc<Ledger>) -> Result<(), LedgerError> {
    Events::default().keep_in(ledger.clone())?;
    Journal::new(ledger.clone())?;
    Counted::inherited(ledger)?;
    Face::understands(ledger)
}

/// What is to run.
struct Running {
    plan: Plan,
    text: String,
    /// Why the text cannot be in force.
    trouble: Option<String>,
}

impl Running {
    /// What ran with a predecessor. Where that cannot be read any more, because a device has gone mostly, nothing of it is
    /// there until somebody puts it in force again; but it is still what `control.yaml` says.
    fn inherited(carried: &Carried, defaults: &Defaults, probe: &dyn Probe) -> anyhow::Result<Self> {
        let text = carried.text.clone().context("the ledger does not say what runs")?;
        let probe = Remembering { probe, devices: &carried.devices };
        match load_bytes(text.as_bytes(), "control.yaml", defaults, &probe) {
            Ok(plan) => Ok(Self { plan, text, trouble: None }),
            Err(report) => {
                let (dir, owner, group, mode) =
                    carried.control.clone().context("the ledger does not say what is mounted")?;
                let control = ControlPlan { dir, owner, group, mode };
                let mountpoint = carried.mountpoint.clone();
                let plan = Plan { mountpoint, control, devices: Vec::new(), images: Vec::new() };
                let trouble = report.to_string().replace('\n', " ");
                Ok(Self { plan, text, trouble: Some(trouble) })
            }
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
