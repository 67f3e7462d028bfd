//! What is behind each device, and how large it is.

use super::disks::Disk;
use super::limits;
use crate::classify::GroupType;
use crate::config::fields::{At, Bad};
use crate::config::load::{DIRECTORY, Found, FoundKind, Probe};
use crate::config::plan::{DevicePlan, GroupPlan};
use crate::config::report::{Problems, quoted};
use crate::config::shape::Device;
use crate::sched::Policy;
use crate::units::{Bytes, SECTOR_SIZE};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The block device or file behind an ioband device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backing {
    /// Whole sectors.
    pub(super) size: Bytes,
    /// The file is still to be made, so large.
    create: Option<Bytes>,
    number: Option<(u64, u64)>,
}

/// A path as it is written, which is what messages call it, and where it leads from the folder of the mount.
struct Whereabouts<'a> {
    written: &'a At<String>,
    full: PathBuf,
}

/// What tells that two paths lead to the same place.
#[derive(PartialEq, Eq, Hash)]
enum Place {
    /// Spelled differently it is still the same file: `a//b` and `./a/b`.
    Spelled(PathBuf),
    /// There under several names: links, `/dev/disk/by-id`.
    There((u64, u64)),
    /// To be made in the same folder, under the same name.
    Made((u64, u64), OsString),
}

/// Looks at the path of every device, which counts from `folder`; `None` where it has a problem.
pub(super) fn backing(
    devices: &[Device],
    folder: &Path,
    probe: &dyn Probe,
    problems: &mut Problems,
) -> Vec<Option<Backing>> {
    let mut seen: HashMap<Place, (&Device, &At<String>)> = HashMap::new();
    let mut all = Vec::with_capacity(devices.len());
    for device in devices {
        let Ok(path) = &device.path else {
            all.push(None);
            continue;
        };
        let at = Whereabouts { written: path, full: folder.join(&path.value) };
        let (found, backing) = inspect(device, &at, probe, problems);
        all.push(backing);
        let places = places(&at.full, found, probe);
        match places.iter().find_map(|place| seen.get(place)) {
            Some((other, there)) => shared(device, path, other, there, problems),
            None => seen.extend(places.into_iter().map(|place| (place, (device, path)))),
        }
    }
    all
}

/// All that is known about where `path` leads.
fn places(path: &Path, found: Option<Found>, probe: &dyn Probe) -> Vec<Place> {
    let mut places = vec![Place::Spelled(path.components().filter(|c| c.as_os_str() != ".").collect())];
    match found {
        // Folders and character devices are no disks under any name, and have been reported as such.
        Some(Found { kind: FoundKind::Other(_), .. }) => {}
        Some(found) => places.extend(found.identity.map(Place::There)),
        None => {
            let folder = probe.probe(folder(path)).ok().flatten().and_then(|folder| folder.identity);
            let name = path.file_name().map(OsStr::to_owned);
            places.extend(folder.zip(name).map(|(folder, name)| Place::Made(folder, name)));
        }
    }
    places
}

/// Reports that two devices are on the same disk or file.
fn shared(device: &Device, path: &At<String>, other: &Device, there: &At<String>, problems: &mut Problems) {
    let (here, names) = (quoted(&path.value), (quoted(&device.name.value), quoted(&other.name.value)));
    let line = there.at.line;
    let message = if path.value == there.value {
        format!("{here} is behind device {} and already behind device {} (line {line})", names.0, names.1)
    } else {
        let there = quoted(&there.value);
        format!("{here} of device {} is {there} of device {} (line {line}) by another name", names.0, names.1)
    };
    problems.add(
        path.at,
        message,
        "give each device its own disk or file; images of one device can share it",
    );
}

/// The folder that `path` is in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What is at the path, and what the device can make of it.
fn inspect(
    device: &Device,
    path: &Whereabouts<'_>,
    probe: &dyn Probe,
    problems: &mut Problems,
) -> (Option<Found>, Option<Backing>) {
    let Whereabouts { written, full } = path;
    let found = match probe.probe(full) {
        Ok(found) => found,
        Err(error) => {
            let message = format!("cannot look at {}: {error}", quoted(&written.value));
            problems.add(written.at, message, "check the path and its permissions");
            return (None, None);
        }
    };
    let backing = match (&device.size, found) {
        (Err(Bad), _) => None,
        (Ok(stated), None) => missing(path, stated.as_ref(), probe, problems),
        (Ok(stated), Some(found)) => {
            let stated = stated.as_ref().filter(|_| !probe.runs(full));
            usable(written, stated, found, problems)
        }
    };
    (found, backing.and_then(|backing| beginning(device, written, backing, problems)))
}

/// A path where something is.
fn usable(
    path: &At<String>,
    stated: Option<&At<Bytes>>,
    Found { size, kind, number, .. }: Found,
    problems: &mut Problems,
) -> Option<Backing> {
    let shown = quoted(&path.value);
    if let FoundKind::Other(kind) = kind {
        let hint = "the path of a device is a block device or a regular file";
        problems.add(path.at, format!("{shown} is a {kind}"), hint);
        return None;
    }
    if let (0, FoundKind::File, Some(stated)) = (size.0, kind, stated) {
        // Somebody has begun to make it, and was ended before it had its size.
        return Some(Backing { size: stated.value, create: Some(stated.value), number: None });
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
        _ => Some(Backing { size: whole, create: None, number }),
    }
}

/// The part of it that is to be used.
fn beginning(
    device: &Device,
    path: &At<String>,
    backing: Backing,
    problems: &mut Problems,
) -> Option<Backing> {
    let Some(length) = device.length.ok()? else { return Some(backing) };
    if length.value > backing.size {
        let (shown, size) = (quoted(&path.value), backing.size);
        let message = format!("`length` is {}, but {shown} has {size}", length.value);
        problems.add(
            length.at,
            message,
            format!("write at most {size}, or remove `length` to use all of it"),
        );
        return None;
    }
    Some(Backing { size: length.value, ..backing })
}

/// A path where nothing is: a file that is to be made, or a mistake.
fn missing(
    path: &Whereabouts<'_>,
    size: Option<&At<Bytes>>,
    probe: &dyn Probe,
    problems: &mut Problems,
) -> Option<Backing> {
    let Whereabouts { written, full } = path;
    let shown = quoted(&written.value);
    let mut refuse = |message: String, hint: &str| {
        problems.add(written.at, message, hint);
        None
    };
    if full.starts_with("/dev") {
        return refuse(
            format!("there is no {shown}"),
            "`lsblk` lists the block devices; files are not made under /dev",
        );
    }
    if written.value.contains("/$") {
        return refuse(
            format!("there is no {shown}"),
            "neither `~` nor `$NAME` is expanded here: write the path in full",
        );
    }
    let Some(size) = size else {
        return refuse(
            format!("there is no {shown}"),
            "correct the path, or add `size: 4GiB` to have a file of that size made",
        );
    };
    if written.value.ends_with('/') {
        return refuse(
            format!("{shown} is the name of a folder"),
            "write the name of the file that is to be made",
        );
    }
    let named = quoted(&folder(Path::new(&written.value)).to_string_lossy());
    match probe.probe(folder(full)) {
        Ok(Some(Found { kind: FoundKind::Other(kind), .. })) if kind == DIRECTORY => {
            Some(Backing { size: size.value, create: Some(size.value), number: None })
        }
        Ok(Some(_)) => refuse(format!("{shown} cannot be made: {named} is no folder"), "correct the path"),
        Ok(None) => refuse(
            format!("{shown} cannot be made: there is no folder {named}"),
            "make the folder first, or correct the path",
        ),
        Err(error) => refuse(
            format!("{shown} cannot be made: cannot look at {named}: {error}"),
            "check the path and its permissions",
        ),
    }
}

/// The checked devices. What has a problem is filled in anyhow: such a plan is thrown away.
pub(super) fn plans(
    devices: Vec<Device>,
    folder: &Path,
    backing: Vec<Option<Backing>>,
    groups: Vec<Vec<GroupPlan>>,
    disks: &HashMap<u32, Disk>,
    problems: &mut Problems,
) -> Vec<DevicePlan> {
    let all = devices.into_iter().zip(backing).zip(groups);
    all.map(|((device, backing), groups)| {
        let disk = disks.get(&device.id).copied().unwrap_or_default();
        let size = backing.map_or(Bytes(0), |b| b.size);
        let limits = limits::check(&device, &device.limits, problems);
        DevicePlan {
            name: device.name.value,
            path: device.path.map(|path| folder.join(path.value)).unwrap_or_default(),
            number: backing.and_then(|b| b.number),
            create: backing.and_then(|b| b.create),
            length: device.length.ok().flatten().map(|length| length.value),
            size,
            id: device.id,
            io_throttle: disk.io_throttle,
            io_limit: disk.io_limit,
            group_type: device.group_type.ok().flatten().map_or(GroupType::None, |t| t.value),
            policy: device.policy.ok().flatten().map_or(Policy::Weight, |p| p.value),
            token_base: disk.token_base,
            weight: device.weight,
            limits,
            groups,
            simulate: disk.simulate,
            faults: device.faults,
        }
    })
    .collect()
}
