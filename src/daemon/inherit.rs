//! What a worker takes over from the one before.

use super::counted::Counted;
use super::remember::Remembering;
use crate::config::{ControlPlan, Defaults, Plan, Probe, load_bytes};
use crate::control::{Carried, Events, Journal};
use crate::fuse::{Connection, Face};
use crate::keeper::{Facts, Kept};
use crate::ledger::{Ledger, LedgerError};
use anyhow::{Context, bail};
use fuser::SessionACL;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The connection of a mount that is there already.
pub(super) fn connection(facts: &Facts, kept: &Kept) -> io::Result<Connection> {
    let acl = if facts.for_all { SessionACL::All } else { SessionACL::Owner };
    let descriptors = kept.descriptors.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?;
    let memory = kept.memory.as_ref().map(OwnedFd::try_clone).transpose()?;
    let (init, place) = (Some(facts.init.clone()), facts.place.clone());
    Ok(Connection { descriptors, acl, init, place, memory, largest: facts.largest })
}

/// How often the ledger of one that still serves is read again, and after how long.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// Whether what a predecessor has left makes sense to this program: to be known while that still serves.
///
/// # Errors
/// Why not.
pub(super) fn understands(
    ledger: &Arc<Ledger>,
    defaults: &Defaults,
    probe: &dyn Probe,
) -> anyhow::Result<()> {
    let carried = read(ledger)?;
    // What is not in force with the predecessor either is no reason to keep that.
    if carried.text.is_some()
        && carried.trouble.is_none()
        && let Some(trouble) = Running::inherited(&carried, defaults, probe)?.trouble
    {
        bail!("what runs cannot be read by this program: {trouble}");
    }
    Ok(())
}

/// Reads all of the ledger, and again where it makes no sense: whoever serves may be writing to it.
fn read(ledger: &Arc<Ledger>) -> Result<Carried, LedgerError> {
    let read = || {
        Events::default().keep_in(ledger.clone())?;
        Counted::inherited(ledger)?;
        Face::understands(ledger)?;
        Ok(Journal::new(ledger.clone())?.carried())
    };
    for _ in 1..TRIES {
        match read() {
            Err(LedgerError::Content(_)) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    read()
}

/// What is to run.
pub(super) struct Running {
    pub(super) plan: Plan,
    pub(super) text: String,
    /// Why the text cannot be in force.
    pub(super) trouble: Option<String>,
}

impl Running {
    /// What ran with a predecessor. Where that cannot be read any more, because a device has gone mostly, nothing of it is
    /// there until somebody puts it in force again; but it is still what `control.yaml` says.
    pub(super) fn inherited(
        carried: &Carried,
        defaults: &Defaults,
        probe: &dyn Probe,
    ) -> anyhow::Result<Self> {
        let text = carried.text.clone().context("the ledger does not say what runs")?;
        let probe = Remembering { probe, devices: &carried.devices, names: &carried.names };
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
