//! The configuration as it is to be: a model of what the edits have made of it.

use super::stage::{Disks, IMAGE, UIDS};
use std::fmt::Write;

/// What the edits change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// For each user.
    pub(super) weights: [u32; 4],
    /// Lists of faults, for each device.
    pub(super) faults: [String; 2],
    /// Make the disks this slow, in requests a second.
    pub(super) slow: Option<u32>,
}

impl Wanted {
    pub(super) fn new() -> Self {
        Self { weights: [100; 4], faults: [String::new(), String::new()], slow: None }
    }

    /// The device of a user, and with it of his image.
    pub(super) fn device(user: usize) -> usize {
        user / 2
    }

    /// As YAML; `mark` makes one text differ from another that says the same.
    pub(super) fn yaml(&self, disks: &Disks, mark: u64) -> String {
        let mut text = format!("# {mark}\ndevices:\n");
        for (device, path) in disks.paths().into_iter().enumerate() {
            let weights = &self.weights[2 * device..2 * device + 2];
            let users = &UIDS[2 * device..2 * device + 2];
            let slow = self.slow.map(|iops| format!(", simulate: {{iops: {iops}}}")).unwrap_or_default();
            let faults = match self.faults[device].as_str() {
                "" => String::new(),
                faults => format!(", faults: {faults}"),
            };
            let _ = writeln!(
                text,
                "  d{device}: {{path: {}, id: {device}, type: user, groups: {{{}: {}, {}: {}}}{slow}{faults}}}",
                path.display(),
                users[0],
                weights[0],
                users[1],
                weights[1],
            );
        }
        text.push_str("images:\n");
        for (user, uid) in UIDS.into_iter().enumerate() {
            let offset = user as u64 % 2 * IMAGE;
            let _ = writeln!(
                text,
                "  vm{user}.img: {{device: d{}, offset: {offset}, size: {IMAGE}, owner: {uid}}}",
                Self::device(user)
            );
        }
        text
    }

    /// The weights that a table of the mount (`table.json`) shows.
    pub(super) fn weights_of(table: &str) -> Option<[u32; 4]> {
        let table: serde_json::Value = serde_json::from_str(table).ok()?;
        let weight = |user: usize| {
            let devices = table.as_array()?;
            let device =
                devices.iter().find(|device| device["name"] == format!("d{}", Self::device(user)))?;
            let groups = device["groups"].as_array()?;
            let id = UIDS[user];
            let group = groups.iter().find(|group| group["id"] == id || group["id"] == id.to_string())?;
            u32::try_from(group["weight"].as_u64()?).ok()
        };
        Some([weight(0)?, weight(1)?, weight(2)?, weight(3)?])
    }
}
