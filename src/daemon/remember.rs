//! A device that has gone is still what the configuration means by its path: what was there is remembered, so that a successor
//! can serve what is left, and other things can be changed meanwhile.

use super::live::Live;
use crate::config::{Found, FoundKind, Probe};
use crate::control::DeviceEntry;
use crate::units::Bytes;
use std::io;
use std::path::{Path, PathBuf};

/// Looks at paths, and where a device has gone says what was there.
pub(super) struct Remembering<'a> {
    pub(super) probe: &'a dyn Probe,
    pub(super) devices: &'a [DeviceEntry],
}

impl Probe for Remembering<'_> {
    fn probe(&self, path: &Path) -> io::Result<Option<Found>> {
        let was = self.devices.iter().find(|device| device.path == path);
        remembered(self.probe.probe(path), was)
    }

    fn block(&self, major: u64, minor: u64) -> Option<PathBuf> {
        self.probe.block(major, minor)
    }
}

/// As the mount has it now.
impl Probe for Live {
    fn probe(&self, path: &Path) -> io::Result<Option<Found>> {
        remembered(self.machine().probe(path), self.device_at(path).as_ref())
    }

    fn block(&self, major: u64, minor: u64) -> Option<PathBuf> {
        self.machine().block(major, minor)
    }
}

/// What was found at the path of a device, or was there, if what is there cannot be that.
fn remembered(found: io::Result<Option<Found>>, was: Option<&DeviceEntry>) -> io::Result<Option<Found>> {
    let Some(was) = was else { return found };
    let can_be =
        |found: &Found| matches!(found.kind, FoundKind::Block | FoundKind::File) && found.size.0 >= was.size;
    if found.as_ref().is_ok_and(|found| found.as_ref().is_some_and(can_be)) {
        return found;
    }
    let kind = if was.number.is_some() { FoundKind::Block } else { FoundKind::File };
    Ok(Some(Found { size: Bytes(was.size), kind, identity: was.identity, number: was.number }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_gone_or_shrunk_is_what_it_was() {
        let was = DeviceEntry {
            path: "/dev/sdb".into(),
            size: 4096,
            number: Some((8, 16)),
            identity: Some((1, 2)),
            mark: None,
        };
        let block = Found {
            size: Bytes(4096),
            kind: FoundKind::Block,
            identity: Some((1, 2)),
            number: Some((8, 16)),
        };
        let seen = |found| remembered(found, Some(&was)).unwrap();
        assert_eq!(seen(Ok(None)), Some(block));
        assert_eq!(seen(Err(io::ErrorKind::PermissionDenied.into())), Some(block));
        assert_eq!(seen(Ok(Some(Found { size: Bytes(0), ..block }))), Some(block));
        // It is there, and has grown.
        let grown = Found { size: Bytes(8192), number: Some((8, 32)), ..block };
        assert_eq!(seen(Ok(Some(grown))), Some(grown));
        assert_eq!(remembered(Ok(None), None).unwrap(), None);
    }
}
