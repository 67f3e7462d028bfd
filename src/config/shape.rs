//! The configuration as it is written: each section with its keys, each value with its place. Values are read one
//! by one here; what depends on several of them, on the machine or on devices is for [`super::check`].

use super::faults::{FaultPlan, faults};
use super::fields::*;
use super::names::{self, Accounts};
use super::plan::SimulatePlan;
use super::report::{Pos, Problems, quoted};
use super::tree::{Entry, Kind, Node};
use super::values::*;
use crate::classify::GroupType;
use crate::sched::{DEFAULT_TOKEN_BASE, Policy};
use crate::units::{Bytes, Weight};
use std::path::PathBuf;

/// A whole configuration.
pub(super) struct Mount {
    pub(super) mountpoint: Option<PathBuf>,
    pub(super) control: Control,
    pub(super) devices: Vec<Device>,
    pub(super) images: Vec<Image>,
}

/// The section `control`.
#[derive(Default)]
pub(super) struct Control {
    pub(super) dir: Option<At<String>>,
    pub(super) access: Access,
}

/// Owner, group and mode, of the control directory or of an image.
#[derive(Default)]
pub(super) struct Access {
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) mode: Option<u16>,
}

/// One entry of `devices`.
pub(super) struct Device {
    pub(super) name: At<String>,
    pub(super) path: Result<At<String>, Bad>,
    pub(super) size: Setting<Bytes>,
    pub(super) length: Setting<Bytes>,
    pub(super) id: u32,
    pub(super) io_throttle: Option<At<u32>>,
    pub(super) io_limit: Option<At<u32>>,
    pub(super) group_type: Setting<GroupType>,
    pub(super) policy: Setting<Policy>,
    pub(super) token_base: Option<At<u32>>,
    pub(super) weight: Weight,
    pub(super) limits: Limits,
    pub(super) groups_at: Pos,
    pub(super) groups: Vec<Group>,
    pub(super) simulate: Option<At<SimulatePlan>>,
    pub(super) faults: Vec<FaultPlan>,
}

/// One entry of `groups`.
pub(super) struct Group {
    pub(super) id: At<String>,
    pub(super) weight: Weight,
    pub(super) limits: Limits,
}

/// What a group must and may have beside its weight; 0 stands for none, except for a burst.
pub(super) struct Limits {
    pub(super) min_bandwidth: Setting<Bytes>,
    pub(super) max_bandwidth: Setting<Bytes>,
    pub(super) bandwidth_burst: Setting<Bytes>,
    pub(super) max_iops: Setting<u64>,
    pub(super) iops_burst: Setting<u64>,
}

impl Limits {
    /// None of them is written.
    const NONE: Limits = Limits {
        min_bandwidth: Ok(None),
        max_bandwidth: Ok(None),
        bandwidth_burst: Ok(None),
        max_iops: Ok(None),
        iops_burst: Ok(None),
    };
}

/// One entry of `images`.
pub(super) struct Image {
    pub(super) name: At<String>,
    pub(super) device: Result<At<String>, Bad>,
    pub(super) ranges: Result<Vec<Range>, Bad>,
    pub(super) access: Access,
    pub(super) read_only: bool,
}

/// A part of a device; without a size it reaches to the end of the device.
pub(super) struct Range {
    pub(super) at: Pos,
    pub(super) offset: Bytes,
    pub(super) size: Option<Bytes>,
}

/// Reads the whole tree.
pub(super) fn mount(root: Node, accounts: &dyn Accounts, problems: &mut Problems) -> Mount {
    let known = ["mountpoint", "control", "devices", "images"];
    let example = "devices: {ioband1: {path: /dev/sdb1}}";
    let mut mount = Mount { mountpoint: None, control: Control::default(), devices: vec![], images: vec![] };
    let Ok(mut top) = Fields::open(root.at, "the configuration", root, &known, example, problems) else {
        return mount;
    };
    mount.mountpoint = good(top.read("mountpoint", "write the folder to mount on", path)).map(PathBuf::from);
    if let Some(entry) = top.take("control") {
        mount.control = control(entry, accounts, top.problems());
    }
    if let Some(entry) = top.take("devices") {
        let entries =
            mapping("`devices`", entry.value, "devices: {ioband1: {path: /dev/sdb1}}", top.problems());
        mount.devices = entries.unwrap_or_default().into_iter().map(|e| device(e, top.problems())).collect();
    }
    if let Some(entry) = top.take("images") {
        let example = "images: {vm1.img: {device: ioband1, offset: 0, size: 2GiB}}";
        let entries = mapping("`images`", entry.value, example, top.problems());
        let entries = entries.unwrap_or_default().into_iter();
        mount.images = entries.map(|e| image(e, accounts, top.problems())).collect();
    }
    mount
}

/// The value of an optional key; a bad one has been reported, and counts as absent.
fn good<T>(setting: Setting<T>) -> Option<T> {
    setting.ok().flatten().map(|at| at.value)
}

/// The same with its place.
fn placed<T>(setting: Setting<T>) -> Option<At<T>> {
    setting.ok().flatten()
}

fn control(entry: Entry, accounts: &dyn Accounts, problems: &mut Problems) -> Control {
    let known = ["dir", "owner", "group", "mode"];
    let example = "control: {dir: .ioband, owner: root, group: root, mode: \"0600\"}";
    let Ok(mut keys) = Fields::open(entry.at, "`control`", entry.value, &known, example, problems) else {
        return Control::default();
    };
    let dir = keys.read("dir", "write the name of a folder, such as .ioband", names::file_name);
    Control { dir: placed(dir), access: access(&mut keys, accounts) }
}

fn access(keys: &mut Fields<'_>, accounts: &dyn Accounts) -> Access {
    let (user, group) = (names::user(accounts), names::group(accounts));
    Access {
        owner: good(keys.read("owner", "write the name or number of a user of this machine", user)),
        group: good(keys.read("group", "write the name or number of a group of this machine", group)),
        mode: good(keys.read("mode", MODE, mode)),
    }
}

/// The name that an entry of `devices` or `images` has.
fn name(kind: &str, entry: &Entry, problems: &mut Problems) -> At<String> {
    if let Err(Wrong { reason, hint }) = names::file_name(&entry.key, true) {
        let message = match entry.key.as_str() {
            "" => format!("the {kind} name is empty"),
            name => format!("the {kind} name {} is {reason}", quoted(name)),
        };
        problems.add(entry.at, message, hint.unwrap_or_default());
    }
    At { value: entry.key.clone(), at: entry.at }
}

fn device(mut entry: Entry, problems: &mut Problems) -> Device {
    let known = [
        "path",
        "size",
        "length",
        "id",
        "io_throttle",
        "io_limit",
        "type",
        "policy",
        "token_base",
        "weight",
        "min_bandwidth",
        "max_bandwidth",
        "bandwidth_burst",
        "max_iops",
        "iops_burst",
        "groups",
        "simulate",
        "faults",
    ];
    // A device that cannot be read at all is still there for the images that name it.
    let mut device = Device {
        name: name("device", &entry, problems),
        path: Err(Bad),
        size: Ok(None),
        length: Ok(None),
        id: 1,
        io_throttle: None,
        io_limit: None,
        group_type: Ok(None),
        policy: Ok(None),
        token_base: None,
        weight: Weight::default(),
        limits: Limits::NONE,
        groups_at: entry.at,
        groups: Vec::new(),
        simulate: None,
        faults: Vec::new(),
    };
    if let Kind::Map(settings) = &mut entry.value.kind {
        settings.extract_if(.., |e| e.key == "provision").for_each(|e| provision(e, problems));
    }
    let what = format!("device {}", quoted(&entry.key));
    let example = format!("{}: {{path: /dev/sdb1, type: user, groups: {{1000: 80}}}}", entry.key);
    let Ok(mut keys) = Fields::open(entry.at, what, entry.value, &known, &example, problems) else {
        return device;
    };
    let path = "write the block device or file behind it, such as /dev/sdb1";
    device.path = keys.required("path", path, device_path);
    device.size = keys.read("size", SIZE, sectors);
    device.length = keys.read("length", SIZE, sectors);
    let id = keys.read("id", DISK, disk_id);
    device.io_throttle = placed(keys.read("io_throttle", DEPTH, depth));
    device.io_limit = placed(keys.read("io_limit", DEPTH, depth));
    device.group_type = keys.read("type", TYPE, group_type);
    device.policy = keys.read("policy", POLICY, policy);
    device.token_base = placed(keys.read("token_base", TOKENS, token_base));
    if let Some(base) = device.token_base.as_mut().filter(|base| base.value == 0) {
        base.value = DEFAULT_TOKEN_BASE;
    }
    match id {
        Ok(id) => device.id = id.map_or(1, |id| id.value),
        // Nobody knows with which devices this one must agree.
        Err(Bad) => (device.io_throttle, device.io_limit, device.token_base) = (None, None, None),
    }
    device.weight = good(keys.read("weight", WEIGHT, weight)).unwrap_or_default();
    device.limits = limits(&mut keys);
    if let Some(entry) = keys.take("simulate") {
        device.simulate = simulate(entry, keys.problems()).filter(|_| id.is_ok());
    }
    if let Some(entry) = keys.take("faults") {
        device.faults = faults(entry, keys.problems());
    }
    if let Some(entry) = keys.take("groups") {
        device.groups_at = entry.at;
        device.groups = groups(entry, keys.problems());
    }
    device
}

/// The key of a later version: understood where it asks for nothing, but not among those that a hint offers.
fn provision(entry: Entry, problems: &mut Problems) {
    let right = "write false or remove the key, and list the images under `images`";
    let _ = scalar(
        "`provision`",
        entry,
        right,
        |text, bare| match truth(text, bare)? {
            true => Err(Wrong::from("not available in this version")),
            false => Ok(()),
        },
        problems,
    );
}

fn groups(entry: Entry, problems: &mut Problems) -> Vec<Group> {
    let entries =
        mapping("`groups`", entry.value, "groups: {1000: 80, 2000: 20}", problems).unwrap_or_default();
    entries.into_iter().map(|entry| group(entry, problems)).collect()
}

fn group(entry: Entry, problems: &mut Problems) -> Group {
    let id = At { value: entry.key.clone(), at: entry.at };
    if !matches!(entry.value.kind, Kind::Map(_)) {
        let weight =
            scalar(&format!("the weight of group {}", quoted(&id.value)), entry, WEIGHT, weight, problems)
                .map(|at| at.value)
                .unwrap_or_default();
        return Group { id, weight, limits: Limits::NONE };
    }
    let known = ["weight", "min_bandwidth", "max_bandwidth", "bandwidth_burst", "max_iops", "iops_burst"];
    let mut group = Group { id, weight: Weight::default(), limits: Limits::NONE };
    let what = format!("group {}", quoted(&group.id.value));
    if let Ok(mut keys) = Fields::open(entry.at, what, entry.value, &known, "1000: {weight: 80}", problems) {
        group.weight = good(keys.read("weight", WEIGHT, weight)).unwrap_or_default();
        group.limits = limits(&mut keys);
    }
    group
}

/// The limits of the group whose keys these are; at a device, of its default group.
fn limits(keys: &mut Fields<'_>) -> Limits {
    Limits {
        min_bandwidth: keys.read("min_bandwidth", BANDWIDTH, bandwidth),
        max_bandwidth: keys.read("max_bandwidth", BANDWIDTH, bandwidth),
        bandwidth_burst: keys.read("bandwidth_burst", BURST, size_or_none),
        max_iops: keys.read("max_iops", IOPS, iops),
        iops_burst: keys.read("iops_burst", IOPS_BURST, iops),
    }
}

fn simulate(entry: Entry, problems: &mut Problems) -> Option<At<SimulatePlan>> {
    if matches!(entry.value.kind, Kind::Null) {
        return None;
    }
    let known = ["iops", "bandwidth", "parallel"];
    let example = "simulate: {iops: 2000, bandwidth: 100MiB/s, parallel: 1}";
    let mut keys = Fields::open(entry.at, "`simulate`", entry.value, &known, example, problems).ok()?;
    let pace = keys.has("iops") || keys.has("bandwidth");
    let per_second = "write bytes a second, such as 100MiB/s";
    let plan = SimulatePlan {
        iops: good(keys.read("iops", "write requests a second, such as 2000", some_iops)),
        bandwidth: good(keys.read("bandwidth", per_second, some_bandwidth)),
        parallel: good(keys.read("parallel", PARALLEL, parallel)).unwrap_or(1),
    };
    if !pace {
        keys.problems().add(
            entry.at,
            "`simulate` says neither `iops` nor `bandwidth`",
            format!("write `{example}`"),
        );
    }
    Some(At { value: plan, at: entry.at })
}

fn image(entry: Entry, accounts: &dyn Accounts, problems: &mut Problems) -> Image {
    let known = ["device", "offset", "size", "extents", "owner", "group", "mode", "read_only"];
    let mut image = Image {
        name: name("image", &entry, problems),
        device: Err(Bad),
        ranges: Err(Bad),
        access: Access::default(),
        read_only: false,
    };
    let what = format!("image {}", quoted(&entry.key));
    let example = format!("{}: {{device: ioband1, offset: 0, size: 2GiB}}", entry.key);
    let Ok(mut keys) = Fields::open(entry.at, what, entry.value, &known, &example, problems) else {
        return image;
    };
    image.device = keys.required("device", "write the name of one of `devices`", text);
    image.ranges = ranges(&mut keys);
    image.access = access(&mut keys, accounts);
    match keys.read("read_only", "write true or false", truth) {
        Ok(read_only) => image.read_only = read_only.is_some_and(|at| at.value),
        // Nobody knows with which images this one may share a range.
        Err(Bad) => image.ranges = Err(Bad),
    }
    image
}

fn ranges(keys: &mut Fields<'_>) -> Result<Vec<Range>, Bad> {
    let Some(extents) = keys.take("extents") else { return one_range(keys).map(|range| vec![range]) };
    for key in ["offset", "size"] {
        if let Some(Entry { at, .. }) = keys.take(key) {
            let message = format!("{} has `extents`, and `{key}` as well", keys.what);
            keys.problems().add(
                at,
                message,
                "an image is either one range or a list of extents: remove one of the two",
            );
        }
    }
    let example = "write `extents: [{offset: 6GiB, size: 1GiB}, {offset: 9GiB, size: 1GiB}]`";
    let items = match extents.value.kind {
        Kind::List(items) if !items.is_empty() => items,
        Kind::List(_) | Kind::Null => {
            keys.problems().add(extents.at, "`extents` is empty", example);
            return Err(Bad);
        }
        Kind::Reported => return Err(Bad),
        Kind::Scalar { .. } | Kind::Map(_) => {
            keys.problems().add(extents.value.at, "`extents` must be a list", example);
            return Err(Bad);
        }
    };
    let read = |item: Node| {
        let example = "{offset: 6GiB, size: 1GiB}";
        let mut keys =
            Fields::open(item.at, "this extent", item, &["offset", "size"], example, keys.problems())?;
        let offset = keys.required("offset", "write where it starts, such as 6GiB", offset);
        let size = keys.required("size", "write how long it is, such as 1GiB", sectors);
        Ok(Range { at: keys.at, offset: offset?.value, size: Some(size?.value) })
    };
    // All of them are read, so that all problems are found, before the first bad one counts.
    let all: Vec<Result<Range, Bad>> = items.into_iter().map(read).collect();
    all.into_iter().collect()
}

fn one_range(keys: &mut Fields<'_>) -> Result<Range, Bad> {
    let start = keys.read("offset", OFFSET, offset);
    let size = keys.read("size", SIZE, sectors);
    let (start, size) = (start?, size?);
    let at = start.map(|s| s.at).or(size.map(|s| s.at)).unwrap_or(keys.at);
    Ok(Range { at, offset: start.map_or(Bytes(0), |s| s.value), size: size.map(|s| s.value) })
}
