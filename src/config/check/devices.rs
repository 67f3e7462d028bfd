//! What is behind each device, and how large it is.

use super::disks::Disk;
use crate::classify::GroupType;
use crate::config::fields::At;
use crate::config::load::{DIRECTORY, Found, FoundKind, Probe};
use crate::config::plan::{DevicePlan, GroupPlan};
use crate::config::report::{Problems, quoted};
use crate::config::shape::Device;
use crate::units::{Bytes, SECTOR_SIZE};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The block device or file behind an ioband device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backing {
    /// Whole sectors.
    pub(super) size: Bytes,
    /// The file is still to be made.
    pub(super) create: bool,
}

/// Looks at the path of every device; `None` where it has a problem.
pub(super) fn backing(
    devices: &[Device],
    probe: &dyn Probe,
    problems: &mut Problems,
) -> Vec<Option<Backing>> {
    let mut seen: HashMap<PathBuf, (&str, usize)> = HashMap::new();
    let mut look = |device: &'_ Device| {
        let path = device.path.as_ref().ok()?;
        inspect(device, path, probe, problems)
    };
    let backing = devices.iter().map(&mut look).collect();
    for device in devices {
        let Ok(path) = &device.path else { continue };
        // Spelled differently it is still the same file: `a//b` and `./a/b`.
        let spelled: PathBuf = Path::new(&path.value).components().filter(|c| c.as_os_str() != ".").collect();
        if let Some((other, line)) = seen.get(&spelled) {
            let message =
                format!("{} is already behind device {} (line {line})", quoted(&path.value), quoted(other));
            problems.add(
                path.at,
                message,
                "give each device its own path; images of one device can share it",
            );
        } else {
            seen.insert(spelled, (&device.name.value, path.at.line));
        }
    }
    backing
}

fn inspect(
    device: &Device,
    path: &At<String>,
    probe: &dyn Probe,
    problems: &mut Problems,
) -> Option<Backing> {
    let shown = quoted(&path.value);
    let Ok(stated) = &device.size else { return None };
    let found = match probe.probe(Path::new(&path.value)) {
        Ok(found) => found,
        Err(error) => {
            problems.add(
                path.at,
                format!("cannot look at {shown}: {error}"),
                "check the path and its permissions",
            );
            return None;
        }
    };
    let Some(Found { size, kind }) = found else {
        return missing(path, stated.as_ref(), probe, problems);
    };
    if let FoundKind::Other(kind) = kind {
        let hint = "the path of a device is a block device or a regular file";
        problems.add(path.at, format!("{shown} is a {kind}"), hint);
        return None;
    }
    let whole = Bytes(size.0 - size.0 % SECTOR_SIZE);
    if whole.0 == 0 {
        let message = format!("{shown} is too small: it has {} bytes", size.0);
        problems.add(path.at, message, format!("a device has at least one sector, {SECTOR_SIZE} bytes"));
        return None;
    }
    match (kind, stated) {
        (FoundKind::Block, Some(stated)) => {
            let message = format!("{shown} is a block device, whose size ({whole}) is not for us to choose");
            problems.add(stated.at, message, "remove `size`");
            None
        }
        (_, Some(stated)) if stated.value != size => {
            let message = format!("`size` is {}, but the file {shown} exists and has {size}", stated.value);
            problems.add(stated.at, message, format!("remove `size`, or write {size}"));
            None
        }
        _ => Some(Backing { size: whole, create: false }),
    }
}

/// A path where nothing is: a file that is to be made, or a mistake.
fn missing(
    path: &At<String>,
    size: Option<&At<Bytes>>,
    probe: &dyn Probe,
    problems: &mut Problems,
) -> Option<Backing> {
    let shown = quoted(&path.value);
    let mut refuse = |message: String, hint: &str| {
        problems.add(path.at, message, hint);
        None
    };
    if Path::new(&path.value).starts_with("/dev") {
        return refuse(
            format!("there is no {shown}"),
            "`lsblk` lists the block devices; files are not made under /dev",
        );
    }
    let Some(size) = size else {
        return refuse(
            format!("there is no {shown}"),
            "correct the path, or add `size: 4GiB` to have a file of that size made",
        );
    };
    if path.value.ends_with('/') {
        return refuse(
            format!("{shown} is the name of a folder"),
            "write the name of the file that is to be made",
        );
    }
    let parent = match Path::new(&path.value).parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = quoted(&parent.to_string_lossy());
    match probe.probe(parent) {
        Ok(Some(Found { kind: FoundKind::Other(kind), .. })) if kind == DIRECTORY => {
            Some(Backing { size: size.value, create: true })
        }
        Ok(Some(_)) => refuse(format!("{shown} cannot be made: {folder} is no folder"), "correct the path"),
        Ok(None) => refuse(
            format!("{shown} cannot be made: there is no folder {folder}"),
            "make the folder first, or correct the path",
        ),
        Err(error) => refuse(
            format!("{shown} cannot be made: cannot look at {folder}: {error}"),
            "check the path and its permissions",
        ),
    }
}

/// The checked devices. What has a problem is filled in anyhow: such a plan is thrown away.
pub(super) fn plans(
    devices: Vec<Device>,
    backing: Vec<Option<Backing>>,
    groups: Vec<Vec<GroupPlan>>,
    disks: &HashMap<u32, Disk>,
) -> Vec<DevicePlan> {
    let all = devices.into_iter().zip(backing).zip(groups);
    all.map(|((device, backing), groups)| {
        let disk = disks.get(&device.id).copied().unwrap_or_default();
        let size = backing.map_or(Bytes(0), |b| b.size);
        DevicePlan {
            name: device.name.value,
            path: device.path.map(|path| path.value.into()).unwrap_or_default(),
            create: backing.filter(|b| b.create).map(|b| b.size),
            size,
            id: device.id,
            io_throttle: disk.io_throttle,
            io_limit: disk.io_limit,
            group_type: device.group_type.ok().flatten().map_or(GroupType::None, |t| t.value),
            policy: device.policy,
            token_base: disk.token_base,
            weight: device.weight,
            groups,
            simulate: disk.simulate,
        }
    })
    .collect()
}
