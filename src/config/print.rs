//! A plan as YAML: short and in one order, and what it says reads back as the plan.
//!
//! What has its default is left out, but owners and groups are always there: their default is whoever reads the file.
//! What belongs to a disk stands at its first device.

use super::faults;
use super::load::Defaults;
use super::names::{self, ThisMachine};
use super::plan::{ControlPlan, DevicePlan, GroupPlan, ImagePlan, Plan, SimulatePlan};
use super::values;
use crate::classify::GroupType;
use crate::sched::{Cap, DEFAULT_TOKEN_BASE, Limits, Policy};
use crate::units::{Bytes, Weight};
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::num::NonZeroU64;
use std::path::Path;

impl Plan {
    /// The plan as YAML. Paths of devices are as they are; one that only a relative path can say counts from the folder of
    /// `defaults`, as it did when it was read.
    pub fn to_yaml(&self, defaults: &Defaults) -> String {
        let mut names_of_ids = NamesOfIds::default();
        let mut text = String::new();
        if let Some(mountpoint) = &self.mountpoint {
            text += &format!("mountpoint: {}\n", scalar(&mountpoint.to_string_lossy()));
        }
        let ControlPlan { dir, owner, group, mode } = &self.control;
        let access = access(*owner, *group, *mode, &mut names_of_ids);
        text += &format!("control: {{dir: {}, {access}}}\n", scalar(dir));
        text += if self.devices.is_empty() { "devices: {}\n" } else { "devices:\n" };
        let mut disks = HashSet::new();
        for device in &self.devices {
            self::device(device, disks.insert(device.id), defaults, &mut text);
        }
        text += if self.images.is_empty() { "images: {}\n" } else { "images:\n" };
        for image in &self.images {
            if let Some(device) = self.devices.get(image.device) {
                self::image(image, device, &mut names_of_ids, &mut text);
            }
        }
        text
    }
}

/// One entry of `devices`; the first of its disk has the settings of the disk.
fn device(device: &DevicePlan, first: bool, defaults: &Defaults, text: &mut String) {
    let mut keys = Keys::default();
    let path = device_path(&device.path, &defaults.folder);
    let path = path.unwrap_or_else(|| device.path.to_string_lossy().into_owned());
    keys.add("path", scalar(&path));
    keys.some("size", device.create);
    keys.some("length", device.length);
    keys.unless(1, "id", device.id);
    if first {
        keys.unless(0, "io_throttle", device.io_throttle);
        keys.unless(0, "io_limit", device.io_limit);
        keys.unless(DEFAULT_TOKEN_BASE, "token_base", device.token_base);
        keys.some("simulate", device.simulate.map(|simulate| simulate_keys(simulate).flow()));
    }
    if !device.faults.is_empty() {
        let faults: Vec<_> = device.faults.iter().map(faults::written).collect();
        keys.add("faults", format!("[{}]", faults.join(", ")));
    }
    keys.unless(GroupType::None.as_str(), "type", device.group_type.as_str());
    keys.unless(Policy::Weight.as_str(), "policy", device.policy.as_str());
    keys.unless(Weight::default(), "weight", device.weight);
    limits(&device.limits, &mut keys);
    *text += &format!("  {}:\n", scalar(&device.name));
    for (key, value) in keys.0 {
        *text += &format!("    {key}: {value}\n");
    }
    if !device.groups.is_empty() {
        text.push_str("    groups:\n");
    }
    for GroupPlan { id, weight, limits } in &device.groups {
        let mut keys = Keys::default();
        keys.add("weight", weight);
        self::limits(limits, &mut keys);
        let share = if limits.is_empty() { weight.to_string() } else { keys.flow() };
        let id = scalar(&id.to_string());
        // YAML takes a longer key only if it says that it is one.
        *text += &match id.chars().count() {
            0..1000 => format!("      {id}: {share}\n"),
            _ => format!("      ? {id}\n      : {share}\n"),
        };
    }
}

fn simulate_keys(SimulatePlan { iops, bandwidth, parallel }: SimulatePlan) -> Keys {
    let mut keys = Keys::default();
    keys.some("iops", iops);
    keys.some("bandwidth", bandwidth.map(per_second));
    keys.add("parallel", parallel);
    keys
}

fn limits(limits: &Limits, keys: &mut Keys) {
    let unusual = |cap: &Cap| *cap != Cap::new(cap.rate);
    keys.some("min_bandwidth", limits.min_bandwidth.map(NonZeroU64::get).map(Bytes).map(per_second));
    if let Some(cap) = limits.max_bandwidth {
        keys.add("max_bandwidth", per_second(Bytes(cap.rate.get())));
        keys.some("bandwidth_burst", Some(cap).filter(unusual).map(|cap| Bytes(cap.burst)));
    }
    if let Some(cap) = limits.max_iops {
        keys.add("max_iops", cap.rate);
        keys.some("iops_burst", Some(cap).filter(unusual).map(|cap| cap.burst));
    }
}

fn per_second(bandwidth: Bytes) -> String {
    format!("{bandwidth}/s")
}

/// One entry of `images`.
fn image(image: &ImagePlan, device: &DevicePlan, names_of_ids: &mut NamesOfIds, text: &mut String) {
    let mut keys = Keys::default();
    keys.add("device", scalar(&device.name));
    match image.extents[..] {
        [extent] if extent.offset == Bytes(0) && extent.size == device.size => {}
        [extent] => {
            keys.add("offset", extent.offset);
            keys.add("size", extent.size);
        }
        _ => {
            let extents = image.extents.iter().map(|e| format!("{{offset: {}, size: {}}}", e.offset, e.size));
            keys.add("extents", format!("[{}]", extents.collect::<Vec<_>>().join(", ")));
        }
    }
    let access = access(image.owner, image.group, image.mode, names_of_ids);
    let read_only = if image.read_only { ", read_only: true" } else { "" };
    *text += &format!("  {}: {{{}, {access}{read_only}}}\n", scalar(&image.name), keys.inner());
}

/// Owner, group and, if it is not the usual one, mode.
fn access(owner: u32, group: u32, mode: u16, names_of_ids: &mut NamesOfIds) -> String {
    let mut keys = Keys::default();
    keys.add("owner", names_of_ids.user(owner));
    keys.add("group", names_of_ids.group(group));
    keys.some("mode", Some(mode).filter(|mode| *mode != 0o600).map(|mode| format!("\"{mode:04o}\"")));
    keys.inner()
}

/// Keys with their values, as they are written.
#[derive(Default)]
pub(super) struct Keys(Vec<(&'static str, String)>);

impl Keys {
    pub(super) fn add(&mut self, key: &'static str, value: impl ToString) {
        self.0.push((key, value.to_string()));
    }

    pub(super) fn some(&mut self, key: &'static str, value: Option<impl ToString>) {
        self.0.extend(value.map(|value| (key, value.to_string())));
    }

    pub(super) fn unless<T: PartialEq + ToString>(&mut self, default: T, key: &'static str, value: T) {
        self.some(key, Some(value).filter(|value| *value != default));
    }

    pub(super) fn inner(&self) -> String {
        self.0.iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn flow(&self) -> String {
        format!("{{{}}}", self.inner())
    }
}

/// Names of users and groups, each looked up once: there are far more images than users.
#[derive(Default)]
struct NamesOfIds {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl NamesOfIds {
    fn user(&mut self, uid: u32) -> &str {
        self.users.entry(uid).or_insert_with(|| {
            let user = users::get_user_by_uid(uid);
            written(uid, user.as_ref().and_then(|user| user.name().to_str()), names::user(&ThisMachine))
        })
    }

    fn group(&mut self, gid: u32) -> &str {
        self.groups.entry(gid).or_insert_with(|| {
            let group = users::get_group_by_gid(gid);
            written(gid, group.as_ref().and_then(|group| group.name().to_str()), names::group(&ThisMachine))
        })
    }
}

/// The name, if it leads back to the id; two users may have one id, and a name may be a number.
fn written(id: u32, name: Option<&str>, read: impl Fn(&str, bool) -> Result<u32, values::Wrong>) -> String {
    let name = name.filter(|name| read(name, true).is_ok_and(|back| back == id));
    name.map_or_else(|| id.to_string(), scalar)
}

/// How the path of a device is written, so that it leads there from `folder`: as it is, or relative, where something about
/// the folder cannot be written. `None` if it cannot be written at all.
pub(crate) fn device_path(path: &Path, folder: &Path) -> Option<String> {
    let good = |path: &str| values::device_path(path, true).ok();
    let whole = path.to_str().and_then(good);
    whole.or_else(|| {
        let rest = path.strip_prefix(folder).ok()?.to_str()?;
        good(rest).or_else(|| good(&format!("./{rest}")))
    })
}

/// A text as a YAML scalar: as it is, if nobody could take it for anything else, and in quotes otherwise.
fn scalar(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            // What a line of YAML ends with, and what editors do not show.
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\u{:04X}", u32::from(character));
            }
            // All control characters are below 256.
            control if control.is_control() => {
                let _ = write!(quoted, "\\x{:02X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether the text is a scalar as it is: a whole number, or a word that is no number, truth value or null in any YAML.
fn is_plain(text: &str) -> bool {
    let number = text.len() <= 10 && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if (number && !text.is_empty()) || text == "0" {
        return true;
    }
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"/._-@+".contains(&b);
    let first = text.strip_prefix('.').unwrap_or(text).bytes().next();
    let word = first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'/' || b == b'_');
    let lower = text.to_ascii_lowercase();
    let taken = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", ".inf", ".nan"];
    word && text.bytes().all(safe) && !taken.contains(&lower.as_str())
}
