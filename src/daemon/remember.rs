//! A device is what the configuration means by its path, also when it has gone, has changed, or does not answer: what was there
//! is remembered, so that a successor can serve what is left, and other things can be changed meanwhile.

use super::live::Live;
use crate::config::{Accounts, Found, FoundKind, Names, Probe};
use crate::control::DeviceEntry;
use crate::units::Bytes;
use std::io;
use std::path::{Path, PathBuf};

/// Looks at paths, and names of users; at those of devices that there are, and those that were looked up, only in memory.
pub(super) struct Remembering<'a> {
    pub(super) probe: &'a dyn Probe,
    pub(super) devices: &'a [DeviceEntry],
    pub(super) names: &'a Names,
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

    fn accounts(&self) -> &dyn Accounts {
        self
    }

    fn runs(&self, path: &Path) -> bool {
        self.devices.iter().any(|device| device.path == path)
    }
}

/// A user who was removed, or is another one by now, is still who was meant.
impl Accounts for Remembering<'_> {
    fn user(&self, name: &str) -> Option<u32> {
        self.names.users.get(name).copied().or_else(|| self.probe.accounts().user(name))
    }

    fn group(&self, name: &str) -> Option<u32> {
        self.names.groups.get(name).copied().or_else(|| self.probe.accounts().group(name))
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
    use crate::classify::GroupId;
    use crate::config::Defaults;
    use crate::control::{Carried, Journal};
    use crate::daemon::inherit::{Running, understands};
    use crate::ledger::Ledger;
    use std::sync::Arc;

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
        let seen = |path: &str| {
            Remembering { probe: &Hangs, devices: &devices, names: &Names::default() }.probe(Path::new(path))
        };
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

    #[test]
    fn what_runs_can_be_read_whatever_the_machine_has_become() {
        let device =
            DeviceEntry { path: "/disk".into(), size: 8192, number: None, identity: None, mark: None };
        let text = "devices: {d: {path: /disk, size: 4KiB, type: user, groups: {no-such-user: 10}}}\n\
            images: {a.img: {device: d, size: 4KiB, owner: no-such-user, group: no-such-group}}\n";
        let known = |name: &str, id| [(name.to_owned(), id)].into();
        let names = Names { users: known("no-such-user", 1001), groups: known("no-such-group", 36) };
        let carried = Carried { text: Some(text.into()), devices: vec![device], names, ..Carried::default() };
        let defaults = Defaults { owner: 0, group: 0, folder: PathBuf::new() };
        // It has grown, and knows the users no longer.
        let running = Running::inherited(&carried, &defaults, &Hangs).unwrap();
        assert_eq!(running.trouble, None);
        assert_eq!(running.plan.devices[0].groups[0].id, GroupId::Number(1001));
        let image = &running.plan.images[0];
        assert_eq!((image.owner, image.group), (1001, 36));
    }

    #[test]
    fn a_successor_that_could_not_put_in_force_what_runs_says_so_while_that_still_does() {
        let defaults = Defaults { owner: 0, group: 0, folder: PathBuf::new() };
        let control = Some((".ioband".into(), 0, 0, 0o600));
        let carried = Carried { text: Some("devices: [".into()), control, ..Carried::default() };
        let understands = |carried: &Carried| {
            let ledger = Arc::new(Ledger::new().unwrap());
            let journal = Journal::new(ledger.clone()).unwrap();
            journal.change(|new| *new = carried.clone());
            understands(&ledger, &defaults, &Hangs).map_err(|error| error.to_string())
        };
        let refused = understands(&carried).unwrap_err();
        assert!(refused.contains("what runs cannot be read"), "{refused}");
        // With the old one it is not in force either.
        assert_eq!(understands(&Carried { trouble: Some("gone".into()), ..carried }), Ok(()));
    }
}
