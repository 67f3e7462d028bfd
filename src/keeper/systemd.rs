//! The service manager: told when the mount is ready, and the keeper of the keeper. It holds the descriptors as well
//! (`FileDescriptorStoreMax=`), so that the mount outlives even its keeper, and hands them over when it starts the program again.
//! What it does not know of, it is not told: without it nothing here does anything.

use super::keep::Mount;
use super::kept::Facts;
use crate::fuse::inherited;
use crate::ledger::Ledger;
use anyhow::{Context, bail};
use sd_notify::NotifyState;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Names of what is stored.
const LEDGER: &str = "ioband-ledger";
const CONNECTION: &str = "ioband-fuse";

/// The service manager, if there is one.
#[derive(Debug)]
pub(super) struct Manager {
    listens: bool,
    /// So many descriptors of the connection are with it.
    stored: usize,
}

impl Manager {
    pub(super) fn of_environment() -> Self {
        Self { listens: std::env::var_os("NOTIFY_SOCKET").is_some(), stored: 0 }
    }

    /// The mount answers, and these are to be held until the program is started again.
    pub(super) fn ready(&mut self, mountpoint: &Path, kept: Option<(&Ledger, &[OwnedFd])>) -> io::Result<()> {
        if !self.listens {
            return Ok(());
        }
        if let Some((ledger, connection)) = kept {
            if self.stored == 0 {
                sd_notify::notify_with_fds(
                    &[NotifyState::FdStore, NotifyState::FdName(LEDGER)],
                    &[ledger.descriptor()],
                )?;
            }
            for descriptor in &connection[self.stored.min(connection.len())..] {
                // One by one: the manager takes as many as it was told to, and drops the rest.
                sd_notify::notify_with_fds(
                    &[NotifyState::FdStore, NotifyState::FdName(CONNECTION)],
                    &[descriptor.as_fd()],
                )?;
            }
            self.stored = connection.len();
        }
        let status = format!("mounted at {}", mountpoint.display());
        sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)])
    }

    /// The mount has ended, or is about to: nothing is to be held any more.
    pub(super) fn stopping(&self) -> io::Result<()> {
        if !self.listens {
            return Ok(());
        }
        sd_notify::notify(&[NotifyState::Stopping])?;
        for name in [LEDGER, CONNECTION] {
            sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])?;
        }
        Ok(())
    }
}

/// What a keeper that died has left with the manager.
pub(super) fn left_behind() -> anyhow::Result<Option<(Ledger, Mount)>> {
    if std::env::var_os("LISTEN_FDS").is_none() {
        return Ok(None);
    }
    let (mut ledger, mut descriptors) = (None, Vec::new());
    for (number, name) in sd_notify::listen_fds_with_names()? {
        match &*name {
            LEDGER => ledger = Some(inherited(number)?),
            CONNECTION => descriptors.push(inherited(number)?),
            // A socket of a unit beside this one; not for us.
            _ => {}
        }
    }
    if descriptors.is_empty() {
        return Ok(None);
    }
    let Some(ledger) = ledger else { bail!("a connection without a ledger") };
    let ledger = Ledger::inherit(ledger)?;
    let facts = Facts::read(&ledger)?.context("the ledger says nothing about the mount")?;
    Ok(Some((ledger, Mount { place: facts.place, made: false, descriptors, memory: None })))
}
