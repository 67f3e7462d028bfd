//! Devices that come and go.

use super::{depth, find, group, identify};
use crate::classify::{GroupId, GroupType};
use crate::config::{
    Defaults, DevicePlan, Extent, Found, FoundKind, GroupPlan, ImagePlan, Images, Plan, Probe, Wrong,
    device_path, file_name, quoted,
};
use crate::control::Refusal;
use crate::control::grammar::{LimitKey, Share, TableDevice, TableLine};
use crate::sched::{DEFAULT_TOKEN_BASE, Limits, Policy};
use crate::units::{Bytes, SECTOR_SIZE};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The plan with a device after this table, and an image of its name that is all of it, for the user of `defaults` only.
///
/// # Errors
/// ENXIO if nothing is behind it; EEXIST if the name is taken; EBUSY if what is behind it is behind another device; EINVAL for
/// a name that cannot be one, for more sectors than there are, for numbers that the disk does not have, and for groups that the
/// type does not know. What keeps us from looking at a path is the error of that.
pub fn create(
    plan: &Plan,
    name: &str,
    line: &TableLine,
    defaults: &Defaults,
    probe: &dyn Probe,
) -> Result<Plan, Refusal> {
    create_all(plan, &[(name.to_owned(), line.clone())], defaults, probe)
}

/// The same with several, or none.
///
/// # Errors
/// As [`create`].
pub fn create_all(
    plan: &Plan,
    lines: &[(String, TableLine)],
    defaults: &Defaults,
    probe: &dyn Probe,
) -> Result<Plan, Refusal> {
    let mut new = plan.clone();
    let mut taken = Taken::of(plan, probe);
    for (name, line) in lines {
        add(&mut new, &mut taken, (name, line), defaults, probe)?;
    }
    Ok(new)
}

fn add(
    plan: &mut Plan,
    taken: &mut Taken,
    (name, line): (&str, &TableLine),
    defaults: &Defaults,
    probe: &dyn Probe,
) -> Result<(), Refusal> {
    free(plan, name)?;
    if let Some(other) = line.name.as_deref().filter(|other| *other != name) {
        let (other, name) = (quoted(other), quoted(name));
        return Err(Refusal::invalid(format!(
            "the table is for device {other}, and not for {name}; correct one"
        )));
    }
    let (path, found) = look(line, defaults, probe)?;
    taken.check(&path, &found)?;
    taken.add(&path, found.identity, name);
    let whole = Bytes(found.size.0 - found.size.0 % SECTOR_SIZE);
    let size = Bytes(line.length.0.saturating_mul(SECTOR_SIZE));
    if size > whole {
        let (shown, has) = (quoted(&path.to_string_lossy()), whole.whole_sectors());
        let message = format!("{shown} has {has} sectors, less than {}", line.length);
        return Err(Refusal::invalid(format!("{message}; write at most that as the length")));
    }
    let mut device = DevicePlan {
        name: name.to_owned(),
        path,
        number: found.number,
        create: None,
        length: Some(size).filter(|size| *size < whole),
        size,
        id: line.id,
        io_throttle: line.io_throttle,
        io_limit: line.io_limit,
        group_type: line.group_type,
        policy: line.policy,
        token_base: line.token_base,
        weight: line.default.weight,
        limits: limits("the default group", line.policy, &line.default)?,
        groups: groups(plan, name, line)?,
        simulate: None,
        faults: Vec::new(),
    };
    join_disk(&mut device, plan)?;
    let image = ImagePlan {
        name: name.to_owned(),
        device: plan.devices.len(),
        extents: vec![Extent { offset: Bytes(0), size }],
        owner: defaults.owner,
        group: defaults.group,
        mode: 0o600,
        read_only: false,
    };
    plan.devices.push(device);
    plan.images.push(image);
    Ok(())
}

/// The plan without a device, and without the images on it.
///
/// # Errors
/// ENXIO if there is no such device.
pub fn remove(plan: &Plan, name: &str) -> Result<Plan, Refusal> {
    let index = find(plan, name)?;
    let mut new = plan.clone();
    new.devices.remove(index);
    new.images.retain(|image| image.device != index);
    // The devices behind it move up.
    new.images.iter_mut().filter(|image| image.device > index).for_each(|image| image.device -= 1);
    Ok(new)
}

/// Whether the name can be that of a device and an image.
fn free(plan: &Plan, name: &str) -> Result<(), Refusal> {
    let shown = quoted(name);
    if let Err(Wrong { reason, hint }) = file_name(name, true) {
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        return Err(Refusal::invalid(format!("the device name {shown} is {reason}{hint}")));
    }
    let taken = if plan.devices.iter().any(|device| device.name == name) {
        Some("an ioband device")
    } else if plan.images.iter().any(|image| image.name == name) {
        Some("an image")
    } else if plan.control.dir == name {
        Some("the control folder")
    } else {
        None
    };
    if let Some(what) = taken {
        let message = format!("{shown} is the name of {what} already; choose another");
        return Err(Refusal::new(libc::EEXIST, message));
    }
    // Groups may wait for images that are not there yet, but only on their own device.
    let waits = |device: &&DevicePlan| {
        let is_name = |group: &GroupPlan| matches!(&group.id, GroupId::Name(id) if **id == *name);
        device.group_type == GroupType::Image && device.groups.iter().any(is_name)
    };
    if let Some(device) = plan.devices.iter().find(waits) {
        let other = quoted(&device.name);
        let message =
            format!("device {other} has a group for an image {shown}, which would be on another device");
        return Err(Refusal::invalid(format!("{message}; detach it first, or choose another name")));
    }
    Ok(())
}

/// What is behind a table's device, and where.
fn look(line: &TableLine, defaults: &Defaults, probe: &dyn Probe) -> Result<(PathBuf, Found), Refusal> {
    let shown = quoted(&line.device.to_string());
    let absent = || {
        let message =
            format!("there is no {shown}; `lsblk` lists the block devices, and a file must be there");
        Refusal::new(libc::ENXIO, message)
    };
    let path = match &line.device {
        TableDevice::Number(major, minor) => probe.block(*major, *minor).ok_or_else(absent)?,
        TableDevice::Path(path) => defaults.folder.join(path),
    };
    let found = probe.probe(&path).map_err(|error| {
        let message = format!("cannot look at {shown}: {error}; check the path and its permissions");
        Refusal::new(error.raw_os_error().unwrap_or(libc::EIO), message)
    })?;
    let found = found.ok_or_else(absent)?;
    if let FoundKind::Other(kind) = found.kind {
        let message = format!("{shown} is a {kind}; behind a device is a block device or a regular file");
        return Err(Refusal::invalid(message));
    }
    if found.size.0 < SECTOR_SIZE {
        return Err(Refusal::invalid(format!("{shown} is empty; a device has at least one sector")));
    }
    if device_path(&path, &defaults.folder).is_none() {
        let message = format!("the path {shown} cannot be written in a configuration");
        return Err(Refusal::invalid(format!("{message}; make a symbolic link to it without blanks")));
    }
    Ok((path, found))
}

/// What is behind devices already, looked up once: there may be many devices, and many new ones.
#[derive(Default)]
struct Taken {
    /// By whom.
    paths: HashMap<PathBuf, String>,
    identities: HashMap<(u64, u64), String>,
}

impl Taken {
    fn of(plan: &Plan, probe: &dyn Probe) -> Self {
        let mut taken = Self::default();
        for device in &plan.devices {
            let there = probe.probe(&device.path).ok().flatten();
            taken.add(&device.path, there.and_then(|there| there.identity), &device.name);
        }
        taken
    }

    fn add(&mut self, path: &Path, identity: Option<(u64, u64)>, name: &str) {
        self.paths.entry(path.to_owned()).or_insert_with(|| name.to_owned());
        if let Some(identity) = identity {
            self.identities.entry(identity).or_insert_with(|| name.to_owned());
        }
    }

    /// Nobody else uses what is behind a device.
    fn check(&self, path: &Path, found: &Found) -> Result<(), Refusal> {
        let there = || found.identity.and_then(|identity| self.identities.get(&identity));
        let Some(other) = self.paths.get(path).or_else(there) else { return Ok(()) };
        let (shown, other) = (quoted(&path.to_string_lossy()), quoted(other));
        let message = format!("{shown} is behind device {other} already; remove that, or share it by images");
        Err(Refusal::new(libc::EBUSY, message))
    }
}

/// What belongs to the disk: a new device takes what the others have.
fn join_disk(device: &mut DevicePlan, plan: &Plan) -> Result<(), Refusal> {
    let Some(other) = plan.devices.iter().find(|other| other.id == device.id) else {
        if device.token_base == 0 {
            device.token_base = DEFAULT_TOKEN_BASE;
        }
        return depth(device.io_throttle, device.io_limit);
    };
    device.simulate = other.simulate;
    for (word, wanted, has) in [
        ("io_throttle", &mut device.io_throttle, other.io_throttle),
        ("io_limit", &mut device.io_limit, other.io_limit),
        ("token", &mut device.token_base, other.token_base),
    ] {
        if *wanted != 0 && *wanted != has {
            let (id, name) = (device.id, &other.name);
            let message = format!(
                "{word} of disk {id}, which device {} is on, is {has}, and not {wanted}",
                quoted(name)
            );
            return Err(Refusal::invalid(format!(
                "{message}; write 0 to take what the disk has, or change it first with `message {name} 0 {word} {wanted}`"
            )));
        }
        *wanted = has;
    }
    Ok(())
}

/// The groups of the table.
fn groups(plan: &Plan, name: &str, line: &TableLine) -> Result<Vec<GroupPlan>, Refusal> {
    if line.groups.is_empty() {
        return Ok(Vec::new());
    }
    let here = [(name, Some(name))];
    let device = |image: &ImagePlan| plan.devices.get(image.device).map(|device| device.name.as_str());
    let images = plan.images.iter().map(|image| (image.name.as_str(), device(image)));
    let images = Images::new(images.chain(here));
    let mut seen = HashSet::new();
    let read = |(word, share): &(String, Share)| {
        let id = identify(line.group_type, name, word, &images)?;
        if !seen.insert(id.clone()) {
            let message =
                format!("group {} stands twice, as {id} and by another name; keep one", quoted(word));
            return Err(Refusal::invalid(message));
        }
        let limits = limits(&format!("group {}", quoted(word)), line.policy, share)?;
        Ok(GroupPlan { id, weight: share.weight, limits })
    };
    line.groups.iter().map(read).collect()
}

fn limits(whom: &str, policy: Policy, share: &Share) -> Result<Limits, Refusal> {
    let mut limits = Limits::default();
    if policy == Policy::RangeBw {
        group::set_range(&mut limits, share.min, share.max);
    }
    // The caps stand before their bursts.
    for key in [LimitKey::MaxBandwidth, LimitKey::MaxIops, LimitKey::BandwidthBurst, LimitKey::IopsBurst] {
        if let Some(value) = share.limit(key) {
            group::set_limit(&mut limits, key, value)
                .map_err(|why| Refusal::invalid(format!("{whom} {why}")))?;
        }
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::io;

    /// A machine with as many disks as you like, that counts how often it is asked.
    #[derive(Default)]
    struct Counting(Cell<usize>);

    impl Probe for Counting {
        fn probe(&self, path: &Path) -> io::Result<Option<Found>> {
            self.0.set(self.0.get() + 1);
            let disk = path.to_str().and_then(|path| path.strip_prefix("/disk")?.parse().ok());
            let size = Bytes(1 << 20);
            Ok(disk.map(|disk| Found {
                size,
                kind: FoundKind::File,
                identity: Some((1, disk)),
                number: None,
            }))
        }

        fn block(&self, _: u64, _: u64) -> Option<PathBuf> {
            None
        }
    }

    #[test]
    fn each_device_is_looked_at_once() {
        let defaults = Defaults { owner: 0, group: 0, folder: PathBuf::new() };
        let probe = Counting::default();
        let nothing = crate::config::load("", "", &defaults, &probe).unwrap();
        let line = |disk: usize| {
            let line = format!("0 8 ioband /disk{disk} 1 0 0 none weight 0 :100");
            (format!("d{disk}"), line.parse::<TableLine>().unwrap())
        };
        let first: Vec<_> = (0..50).map(line).collect();
        let plan = create_all(&nothing, &first, &defaults, &probe).unwrap();
        assert_eq!((plan.devices.len(), probe.0.take()), (50, 50));
        let more: Vec<_> = (50..100).map(line).collect();
        assert_eq!(create_all(&plan, &more, &defaults, &probe).unwrap().devices.len(), 100);
        assert_eq!(probe.0.take(), 100);
        // Also of several that come at once, one may be in the way of another, by another name.
        let twice =
            [line(7), ("other".to_owned(), "0 8 ioband /disk07 1 0 0 none weight 0 :1".parse().unwrap())];
        let refused = create_all(&nothing, &twice, &defaults, &probe).unwrap_err();
        assert!(refused.errno == libc::EBUSY && refused.sentence.contains("d7"), "{refused}");
    }
}
