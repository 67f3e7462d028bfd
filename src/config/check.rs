//! Checks what one value alone does not tell: names against names, ranges against devices, devices against their
//! disk. Goes on after a mistake, so that one run finds them all.

mod devices;
mod disks;
mod groups;
mod images;
mod limits;
mod overlap;

use super::group_id::Images;
use super::load::{Defaults, Probe};
use super::names::Accounts;
use super::plan::{ControlPlan, Plan};
use super::report::{Pos, Problems, quoted};
use super::shape::{Access, Control, Image, Mount};
use std::collections::HashMap;

/// The plan of a mount. Only good when no problem was noted on the way.
pub(super) fn plan(mount: Mount, defaults: &Defaults, probe: &dyn Probe, problems: &mut Problems) -> Plan {
    let control = control(&mount.control, defaults);
    names(&mount, &control.dir, problems);
    let backing = devices::backing(&mount.devices, &defaults.folder, probe, problems);
    let disks = disks::agree(&mount.devices, problems);
    let by_name = Images::new(mount.images.iter().map(|image| (image.name.value.as_str(), device_of(image))));
    let groups: Vec<_> =
        mount.devices.iter().map(|d| groups::check(d, &by_name, probe.accounts(), problems)).collect();
    let images = images::check(&mount, &backing, defaults, problems);
    let devices = devices::plans(mount.devices, &defaults.folder, backing, groups, &disks, problems);
    Plan { mountpoint: mount.mountpoint, control, devices, images }
}

/// Looks up the names of groups, and nothing else.
pub(super) fn names_of_groups(mount: &Mount, accounts: &dyn Accounts) {
    for device in &mount.devices {
        groups::check(device, &Images::new([]), accounts, &mut Problems::default());
    }
}

/// The device that an image says it is on.
fn device_of(image: &Image) -> Option<&str> {
    image.device.as_ref().ok().map(|device| device.value.as_str())
}

fn control(control: &Control, defaults: &Defaults) -> ControlPlan {
    let Access { owner, group, mode } = control.access;
    ControlPlan {
        dir: control.dir.as_ref().map_or_else(|| ".ioband".to_owned(), |dir| dir.value.clone()),
        owner: owner.unwrap_or(defaults.owner),
        group: group.unwrap_or(defaults.group),
        mode: mode.unwrap_or(0o600),
    }
}

/// Images, devices and the control directory share the names of the mount's root: a device is visible there, under its
/// own name, if `create` made it.
fn names(mount: &Mount, control_dir: &str, problems: &mut Problems) {
    let mut devices: HashMap<&str, Pos> = HashMap::new();
    let own =
        |name: &str| format!("`control: {{dir: {name}}}` has that name: choose another for one of the two");
    for device in &mount.devices {
        let name = device.name.value.as_str();
        if name == control_dir {
            let message = format!("the device name {} is that of the control folder", quoted(name));
            problems.add(device.name.at, message, own(name));
        }
        devices.insert(name, device.name.at);
    }
    for image in &mount.images {
        let name = image.name.value.as_str();
        if name == control_dir {
            let message = format!("the image name {} is that of the control folder", quoted(name));
            problems.add(image.name.at, message, own(name));
        }
        // A device that `create` made is an image of its name. Where a bad device was meant nobody knows.
        let elsewhere = image.device.as_ref().is_ok_and(|device| device.value != name);
        if let Some(device) = devices.get(name).filter(|_| elsewhere) {
            let message = format!(
                "the image name {} is also the name of a device that it is not on (line {})",
                quoted(name),
                device.line
            );
            let hint = "an image may have the name of its own device, but of no other: rename one of the two";
            problems.add(image.name.at, message, hint);
        }
    }
}
