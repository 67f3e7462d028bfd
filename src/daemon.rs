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
mod ends;
mod errand;
mod exchange;
mod inherit;
mod live;
mod remember;
mod replace;
mod spare;
mod watch;

use crate::classify::{Callers, Wants, are_processes_hidden};
use crate::clock::{self, Clock};
use crate::config::{Defaults, Plan, Probe};
use crate::control::{Control, Events, Journal, Service};
use crate::engine::Engines;
use crate::fuse::{Connection, Face, MountedAt, ServeOptions, Server, Tree, check_mountpoint, default_acl};
use crate::keeper::{Begin, Facts, Kept};
use crate::sandbox::Report;
use crate::units::Bytes;
use anyhow::Context;
use counted::Counted;
use ends::{End, Ends};
use fuser::SessionACL;
use inherit::Running;
use live::Live;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{getegid, geteuid};
pub use replace::replace_file;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    let inherited = Facts::read(&kept.ledger)?.filter(|_| kept.begin.inherits);
    if inherited.is_none() {
        // Mounting will see to it again; but whoever mounts twice shall read that, and not that the device is locked.
        check_mountpoint(mountpoint)?;
    }
    if kept.begin.waits
        && let Err(error) = inherit::understands(&kept.ledger, &configuration.defaults, &*configuration.probe)
    {
        kept.unfit(&error.to_string());
        return Err(error);
    }
    if !kept.wait_for_turn()? {
        return Ok(());
    }
    // From here on nobody else writes to the ledger, or has the devices.
    Face::forget(&kept.ledger, &kept.begin.refused)?;
    let (folder, file) = (configuration.defaults.folder.clone(), configuration.file.clone());
    let Parts { clock, plan, trouble, control, face, live, counted, spared, mut made } =
        Parts::make(configuration, &options, &kept, inherited.as_ref())?;
    let ends = Ends::new().context("cannot handle signals")?;
    let (place, connection) = match &inherited {
        Some(facts) => (facts.place.clone(), inherit::connection(facts, &kept)?),
        None => {
            let (place, connection) = kept.mount(mountpoint)?;
            let (descriptors, acl) = (vec![connection], default_acl());
            (place.clone(), Connection { descriptors, acl, init: None, place, memory: None, largest: 0 })
        }
    };
    let for_all = connection.acl == SessionACL::All;
    live.mounted_as(place.device());
    // What comes first may be a change, asked for again.
    control.put_in_force_by(live.clone());
    // Behind what is likely to fail: whoever fails from here on has begun with what a predecessor had open.
    face.go_on()?;
    control.write_down();
    let engines = counted.engines();
    let server =
        Server::start(face.clone(), engines, connection, &kept, options.serve, clock, ends.of_connection()?)?;
    let server = Arc::new(server);
    log_service(&server.service());
    if inherited.is_none() {
        let init = server.init().to_vec();
        let largest = server.largest();
        let facts = Facts { place: place.clone(), for_all, folder, file: file.clone(), init, largest };
        facts.write(&kept.ledger).context("cannot write to the ledger")?;
    }
    live.served_by(server.clone());
    if spared {
        spare::end(counted.engines(), server.clone());
    }
    attend::start(live.clone(), control.clone(), live.attention(), clock).context("cannot start a thread")?;

    let begin = kept.begin.clone();
    let keeper = kept.into_keeper();
    live.kept_by(keeper.clone());
    let looker = keeper.clone();
    face.ask_about_endings(move |thread| looker.ending_of(thread));
    keeper.serves(ready(&plan)?, server.survives(), ends.of_keeper())?;
    // Now there may be data in them.
    made.0.clear();
    tell_how_it_began(
        control.events(),
        inherited.as_ref().map(|_| &begin),
        &place,
        &options.sandbox,
        trouble,
    );
    if let Err(error) = watch::start(file, control.clone()) {
        control
            .events()
            .add(&format!("the configuration is not watched: {error:#}; edit control.yaml instead"));
    }

    loop {
        match ends.wait(&keeper, control.events())? {
            End::ForGood => server.finish(),
            End::ForASuccessor => match server.leave() {
                Ok(()) => _ = counted.write(),
                Err(why) => {
                    keeper.stays(why);
                    continue;
                }
            },
        }
        return Ok(());
    }
}

/// What a worker consists of before it serves.
struct Parts {
    clock: Clock,
    plan: Plan,
    /// Why what ran with a predecessor is not in force.
    trouble: Option<String>,
    control: Arc<Control>,
    face: Arc<Face>,
    live: Arc<Live>,
    counted: Arc<Counted>,
    /// Memory is bounded to less for a while.
    spared: bool,
    made: RemoveOnDrop,
}

impl Parts {
    /// Opens devices and makes everything that a plan asks for; with what the ledger says where there is a mount already.
    fn make(
        configuration: Configuration,
        options: &Options,
        kept: &Kept,
        inherited: Option<&Facts>,
    ) -> anyhow::Result<Self> {
        let succeeds = inherited.is_some();
        let Configuration { says, file, defaults, probe } = configuration;
        let (clock, events) = (Clock::start(), Arc::new(Events::default()));
        let engines = Arc::new(Engines::new(options.serve.budget()));
        let spared = spare::begin(&engines, kept.begin.deaths);
        events.keep_in(kept.ledger.clone())?;
        if let Some(left) = spared {
            let left = Bytes(left as u64);
            events.add(&format!(
                "workers have died one after the other: for a minute, requests get {left} of memory"
            ));
        }
        let journal = Arc::new(Journal::new(kept.ledger.clone())?);
        let carried = journal.carried();
        let Running { mut plan, text, mut trouble } = match says {
            Some((plan, text)) if !succeeds => Running { plan, text, trouble: None },
            _ => Running::inherited(&carried, &defaults, &*probe)?,
        };
        let counted = Counted::new(kept.ledger.clone(), engines, events.clone());
        let callers = Callers::new(Wants::default()).context("cannot set up the cache of callers")?;
        let owner = (geteuid().as_raw(), getegid().as_raw());
        // A mount begins with nothing, and is changed to what it is to be, as it is changed later on.
        let nothing = Plan { devices: Vec::new(), images: Vec::new(), ..plan.clone() };
        let control = Arc::new(Control::new(events, journal, nothing.clone(), &text));
        if !succeeds {
            // As long as the file says this, it says nothing new, whatever has been changed meanwhile.
            control.saw(text.as_bytes());
        }
        let tree = Tree::new(plan.control.clone(), Vec::new(), Vec::new(), Vec::new())?;
        let face = Face::new(owner, tree, control.clone(), callers).context("cannot start a thread")?;
        let face = Arc::new(face);
        let live =
            Live::new(defaults, probe, file, face.clone(), clock, options.unscheduled, counted.clone())
                .inheriting(carried, face.inherited_images()?, trouble.is_none().then(|| plan.clone()))
                .of_process(options.sandbox.clone(), kept.begin.upgrade.clone());
        if let Some(facts) = inherited {
            // Before a device is opened: what is in this mount would wait for us.
            live.mounted_as(facts.place.device());
        }
        let made = match trouble {
            Some(_) => Ok(Vec::new()),
            None => live.make(&nothing, &plan),
        };
        let made = RemoveOnDrop(match made {
            // There is a mount, and it is served as far as that goes.
            Err(refusal) if succeeds => {
                trouble = Some(refusal.to_string());
                Vec::new()
            }
            made => made?,
        });
        live.hold_awaited();
        live.number(&mut plan);
        match &trouble {
            Some(why) => control.cannot_begin(why),
            None => control.begin(plan.clone()),
        }
        live.began_with(kept.begin.keeper, kept.begin.before);
        counted.go_on(&Counted::inherited(&kept.ledger)?);
        counted.start().context("cannot start a thread")?;
        let (live, spared) = (Arc::new(live), spared.is_some());
        Ok(Self { clock, plan, trouble, control, face, live, counted, spared, made })
    }
}

fn log_service(service: &Service) {
    let Service { transport, why, threads, backend, .. } = service;
    tracing::info!(transport, threads, backend, "the mount is served");
    if let Some(why) = why {
        tracing::info!("requests come by /dev/fuse and not, faster, by io_uring: {why}");
    }
}

/// The first events of a worker; `succeeds` is how one began that has a predecessor.
fn tell_how_it_began(
    events: &Events,
    succeeds: Option<&Begin>,
    place: &MountedAt,
    sandbox: &Report,
    trouble: Option<String>,
) {
    match succeeds {
        Some(begin) => {
            let pause = clock::wall_micros().saturating_sub(begin.since) / 1000;
            events.add(&format!("the worker {}; another one serves after {pause} ms", begin.ended));
        }
        None => events.add(&format!("mounted at {}", place.mountpoint.display())),
    }
    for (wall, why) in sandbox.missing() {
        events.add(&format!("served outside a part of the sandbox: {} is not available: {why}", wall.name()));
    }
    if are_processes_hidden() {
        events.add(
            "/proc hides the processes of others from who serves (hidepid): groups of type pid, pgrp and cgroup cannot tell who calls; \
             mount /proc without hidepid, or with hidepid=invisible,gid=0",
        );
    }
    if let Some(trouble) = trouble {
        events.add(&format!("what ran cannot be in force: {trouble}; save control.yaml again when it can"));
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
