//! What is at a device's path on this machine: the eyes of the configuration check.

use crate::config::{Defaults, Found, FoundKind, Plan, Probe, Report, load_file};
use crate::device;
use nix::unistd::{getegid, geteuid};
use std::io;
use std::path::Path;

struct Machine;

impl Probe for Machine {
    fn probe(&self, path: &Path) -> io::Result<Option<Found>> {
        Ok(device::probe(path)?.map(|(size, kind)| {
            let kind = match kind {
                device::Kind::Block => FoundKind::Block,
                device::Kind::File => FoundKind::File,
                device::Kind::Other(word) => FoundKind::Other(word.strip_prefix("a ").unwrap_or(word)),
            };
            Found { size, kind }
        }))
    }
}

/// Loads a configuration as the current user on this machine.
pub(super) fn load(path: &Path) -> Result<Plan, Report> {
    let defaults = Defaults { owner: geteuid().as_raw(), group: getegid().as_raw() };
    load_file(path, &defaults, &Machine)
}
