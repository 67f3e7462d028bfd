//! A device is what the configuration means by its path, also when it has gone, has changed, or does not answer: what was there
//! is remembered, so that a successor can serve what is left, and other things can be changed meanwhile.

use super::live::Live;
use crate::config::{Found, FoundKind, Probe};
use crate::control::DeviceEntry;
use crate::units::Bytes;
use std::io;
use std::path::{Path, PathBuf};

/// Looks at paths; at those of devices that there are only in memory.
pub(super) struct Remembering<'a> {
    pub(super) probe: &'a dyn Probe,
    pub(super) devices: &'a [DeviceEntry],
}

impl Probe for Remembering<'_> {
    fn probe(&self, path: &Path) -> io::Result<Option<Found>> {
        match self.devices.iter().find(|device| device.path == path) {
            Some(was) => Ok(Some(remembered(was))),
            None => self.probe.probe(path),
        }
    }

    fn block(&self, major: u64, minor: u64) -> Option<PathBuf> {
        self.probe.block(major, minor)
    }
}

/// As the mount has it now.
impl Probe for Live {
    fn probe(&self, path: &Path) -> io::Result<Option<Found>> {
        match self.device_at(path) {
            Some(is) => Ok(Some(remembered(&is))),
            None => self.machine().probe(path),
        }
    }

    fn block(&self, major: u64, minor: u64) -> Option<PathBuf> {
        self.machine().block(major, minor)
    }
}

/// What is known of the path of a device. It is not looked at: the path may lead elsewhere by now, where the device does not, or
/// to a filesystem that does not answer.
fn remembered(was: &DeviceEntry) -> Found {
    let kind = if was.number.is_some() { FoundKind::Block } else { FoundKind::File };
    Found { size: Bytes(was.size), kind, identity: was.identity, number: was.number }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever looks at a path waits for ever.
    struct Hangs;

    impl Probe for Hangs {
        fn probe(&self, path: &Path) -> io::Result<Option<Found>> {
            panic!("looks at {}", path.display())
        }

        fn block(&self, _: u64, _: u64) -> Option<PathBuf> {
            None
        }
    }

    #[test]
    fn what_is_known_is_not_looked_at() {
        let was = DeviceEntry {
            path: "/dev/sdb".into(),
            size: 4096,
            number: Some((8, 16)),
            identity: Some((1, 2)),
            mark: None,
        };
        let file = DeviceEntry { path: "/disk".into(), number: None, ..was.clone() };
        let devices = [was, file];
        let seen = |path: &str| Remembering { probe: &Hangs, devices: &devices }.probe(Path::new(path));
        let block = Found {
            size: Bytes(4096),
            kind: FoundKind::Block,
            identity: Some((1, 2)),
            number: Some((8, 16)),
        };
        assert_eq!(seen("/dev/sdb").unwrap(), Some(block));
        let file = Found { kind: FoundKind::File, number: None, ..block };
        assert_eq!(seen("/disk").unwrap(), Some(file));
    }
}
