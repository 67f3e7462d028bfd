//! A machine of made-up disks, and plans of every kind on it.

use ioband::classify::GroupType;
use ioband::config::{DIRECTORY, Defaults, Found, FoundKind, Plan, Probe, load};
use ioband::sched::Policy;
use ioband::units::Bytes;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) const MIB: u64 = 1 << 20;

/// Disks of this machine: each a name, and how large it is.
const DISKS: u64 = 8;

/// `/dev/d0` to `/dev/d7` are block devices of 1 to 8 MiB, `f0` to `f7` in the folder `/srv/my disks` files of as much and a
/// bit, and `/dev/by-name/d0` is a link.
pub(crate) struct Machine;

pub(crate) fn defaults() -> Defaults {
    Defaults { owner: 0, group: 4321, folder: "/srv/my disks".into() }
}

impl Probe for Machine {
    fn probe(&self, path: &Path) -> io::Result<Option<Found>> {
        let other = |kind| Some(Found { size: Bytes(0), kind, identity: None, number: None });
        // Without the dots in it.
        let path: PathBuf = path.components().collect();
        let Some(text) = path.to_str() else { return Ok(None) };
        Ok(match text {
            "/dev/null" => other(FoundKind::Other("character device")),
            "/srv" | "/srv/my disks" => other(FoundKind::Other(DIRECTORY)),
            "/srv/empty" => other(FoundKind::File),
            "/root/secret" => return Err(io::ErrorKind::PermissionDenied.into()),
            _ => {
                let file = text.strip_prefix("/srv/my disks/f");
                let block = text.strip_prefix("/dev/d").or(text.strip_prefix("/dev/by-name/d"));
                let number = file.or(block).and_then(|number| number.parse().ok()).filter(|n| *n < DISKS);
                number.map(|number| Found {
                    size: Bytes((number + 1) * MIB + if file.is_some() { 100 } else { 0 }),
                    kind: if file.is_some() { FoundKind::File } else { FoundKind::Block },
                    identity: Some((u64::from(file.is_some()), number)),
                    number: block.map(|_| (8, number)),
                })
            }
        })
    }

    fn block(&self, major: u64, minor: u64) -> Option<PathBuf> {
        (major == 8 && minor < DISKS).then(|| format!("/dev/d{minor}").into())
    }
}

pub(crate) fn plan(yaml: &str) -> Plan {
    load(yaml, "plan.yaml", &defaults(), &Machine).unwrap_or_else(|report| panic!("{yaml}\n{report}"))
}

/// The plan again, by way of its YAML.
pub(crate) fn reread(plan: &Plan) -> Plan {
    self::plan(&plan.to_yaml(&defaults()))
}

/// Names with everything that YAML and tables might take for something else.
pub(crate) fn names() -> impl Strategy<Value = String> {
    const ODD: &[&str] = &[
        "~",
        "null",
        "Null",
        "true",
        "NO",
        "y",
        "on",
        "0x10",
        "1_0",
        "1e3",
        "0o7",
        "007",
        "12",
        ".inf",
        "-",
        "--",
        "---",
        "...",
        "<<",
        "=",
        "?",
        "!x",
        "&a",
        "*a",
        "#c",
        "a#b",
        "a:b",
        ":",
        "a:",
        ":5",
        "x:1:2",
        "{a}",
        "[a]",
        "a,b",
        "\"q\"",
        "'q'",
        "`",
        "@at",
        "%p",
        "|",
        ">",
        "\\",
        "a\\040b",
        "ü.img",
        "日本",
        "\u{feff}b",
        "\u{ad}",
        "\u{e000}",
        "a\u{300}",
        "🦀",
        "max_iops",
        "weight",
        "none",
        "1:40",
    ];
    prop_oneof![
        2 => prop::sample::select(ODD).prop_map(str::to_owned),
        2 => "[a-z]{1,4}[0-9]{0,2}(\\.img)?",
        1 => "[!-.0-~]{1,8}",
        1 => "[\\PC&&[^/\\s]]{1,8}",
    ]
    .prop_filter("a name that cannot be one", |name| {
        ![".", "..", "-1", ".ioband"].contains(&name.as_str())
            && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
    })
}

fn limits(policy: Policy) -> impl Strategy<Value = String> {
    let rate = || prop_oneof![1u64..5000, 1u64..1 << 40, Just(i64::MAX as u64)];
    let burst = || prop::option::of(prop_oneof![0u64..5000, 0u64..1 << 40]);
    let bandwidth = prop::option::of((rate(), burst()));
    let iops = prop::option::of((1u64..1_000_000_000, prop::option::of(0u64..1_000_000_000)));
    (prop::option::of(rate()), bandwidth, iops).prop_map(move |(min, bandwidth, iops)| {
        let mut text = String::new();
        let most = bandwidth.map_or(u64::MAX, |(rate, _)| rate);
        if let Some(min) = min.filter(|min| policy == Policy::RangeBw && *min <= most) {
            write!(text, ", min_bandwidth: {min}").unwrap();
        }
        if let Some((rate, burst)) = bandwidth {
            write!(text, ", max_bandwidth: {rate}").unwrap();
            burst.iter().for_each(|burst| write!(text, ", bandwidth_burst: {burst}").unwrap());
        }
        if let Some((rate, burst)) = iops {
            write!(text, ", max_iops: {rate}").unwrap();
            burst.iter().for_each(|burst| write!(text, ", iops_burst: {burst}").unwrap());
        }
        text
    })
}

/// What stands in one device, but for its place and its disk.
#[derive(Clone, Debug)]
struct Sketch {
    group_type: GroupType,
    settings: String,
    groups: Vec<(String, String)>,
    created: bool,
    length: Option<u64>,
}

fn sketches() -> impl Strategy<Value = Sketch> {
    let kind = (prop::sample::select(&GroupType::ALL), prop::sample::select(&Policy::ALL));
    (kind, any::<bool>(), prop::option::of(1u64..2048)).prop_flat_map(
        |((group_type, policy), created, length)| {
            let share = || {
                (1u32..=32767, limits(policy)).prop_map(|(weight, rest)| format!("weight: {weight}{rest}"))
            };
            let id = match group_type {
                GroupType::None => Just(String::new()).boxed(),
                GroupType::User | GroupType::Gid => "[1-9][0-9]{0,8}|0".boxed(),
                GroupType::Pid | GroupType::Pgrp => "[1-9][0-9]{0,5}".boxed(),
                GroupType::Cgroup => prop::collection::vec(names(), 1..4)
                    .prop_map(|parts| format!("/{}", parts.join("/")))
                    .boxed(),
                // Shared names would be images of other devices.
                GroupType::Image => names().prop_map(|name| format!("g{name}")).boxed(),
            };
            let most = if group_type == GroupType::None { 1 } else { 4 };
            let groups = prop::collection::btree_map(id, share(), 0..most);
            (share(), groups).prop_map(move |(share, groups)| Sketch {
                group_type,
                settings: format!("type: {}, policy: {}, {share}", group_type.as_str(), policy.as_str()),
                groups: groups.into_iter().collect(),
                created,
                length,
            })
        },
    )
}

/// A plan of up to four devices, some of which look as if `create` had made them, with images on them.
pub(crate) fn plans() -> impl Strategy<Value = Plan> {
    let disk = (0u32..9, 9u32..20, 0u32..3, prop::option::of((1u64..1000, 1u64..1 << 30, 1u32..9)));
    let devices = prop::collection::vec((sketches(), 0u64..DISKS, any::<bool>(), 0usize..3), 0..4);
    let disks = prop::collection::vec(disk, 3..4);
    let images = prop::collection::vec((names(), 0usize..4, 0u64..3, any::<(bool, u16)>(), 0u32..5000), 0..4);
    let mountpoint = prop::option::of("[\\PC&&[^~$]]{1,8}");
    let all = prop::collection::btree_set(names(), 4..5);
    (devices, disks, images, mountpoint, all).prop_map(|(devices, disks, images, mountpoint, names)| {
        yaml(&devices, &disks, &images, mountpoint.as_deref(), &names.into_iter().collect::<Vec<_>>())
    })
}

type Disk = (u32, u32, u32, Option<(u64, u64, u32)>);
type Image = (String, usize, u64, (bool, u16), u32);

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn yaml(
    devices: &[(Sketch, u64, bool, usize)],
    disks: &[Disk],
    images: &[Image],
    mountpoint: Option<&str>,
    names: &[String],
) -> Plan {
    let mut text = String::new();
    // What a BOM or a blank would be elsewhere is for the reader of YAML to say, not for this test.
    if let Some(mountpoint) = mountpoint {
        writeln!(text, "mountpoint: {}", quoted(mountpoint)).unwrap();
    }
    text.push_str("control: {mode: \"0640\", owner: 17}\ndevices:\n");
    let (mut places, mut pictures, mut used) = (BTreeSet::new(), String::new(), BTreeSet::new());
    for ((sketch, place, block, disk), name) in devices.iter().zip(names) {
        if !places.insert((*place, *block)) {
            continue;
        }
        let path = if *block { format!("/dev/d{place}") } else { format!("f{place}") };
        let (throttle, limit, tokens, simulate) = disks[*disk];
        write!(text, "  {}: {{path: {path}, id: {disk}, {}", quoted(name), sketch.settings).unwrap();
        write!(text, ", io_throttle: {throttle}, io_limit: {limit}, token_base: {tokens}").unwrap();
        if let Some((iops, bandwidth, parallel)) = simulate {
            write!(text, ", simulate: {{iops: {iops}, bandwidth: {bandwidth}, parallel: {parallel}}}")
                .unwrap();
        }
        if let Some(length) = sketch.length {
            write!(text, ", length: {length}s").unwrap();
        }
        let created = sketch.created || sketch.group_type == GroupType::Image;
        let groups: Vec<_> =
            sketch.groups.iter().map(|(id, share)| format!("{}: {{{share}}}", quoted(id))).collect();
        writeln!(text, ", groups: {{{}}}}}", groups.join(", ")).unwrap();
        if created {
            writeln!(pictures, "  {}: {{device: {}, mode: \"0600\", owner: 0}}", quoted(name), quoted(name))
                .unwrap();
        } else {
            used.insert(name);
        }
    }
    for (name, device, third, (read_only, mode), owner) in images {
        // Every third of a device once, and no name that a device or a group has.
        let Some(on) = names.get(*device).filter(|on| used.remove(on)) else { continue };
        let (offset, mode) = (third * 128, mode & 0o777);
        let extents = format!("[{{offset: {offset}s, size: 1s}}, {{offset: {}s, size: 2s}}]", offset + 100);
        let range = match third {
            0 => String::new(),
            1 => ", offset: 0, size: 1s".to_owned(),
            _ => format!(", extents: {extents}"),
        };
        let access = format!("owner: {owner}, mode: \"{mode:04o}\", read_only: {read_only}");
        writeln!(pictures, "  {}: {{device: {}{range}, {access}}}", quoted(&format!("i{name}")), quoted(on))
            .unwrap();
    }
    write!(text, "images:\n{pictures}").unwrap();
    load(&text, "plan.yaml", &defaults(), &Machine).unwrap_or_else(|report| {
        // A length that is too short for an image, or a name twice: a smaller plan.
        assert!(!report.problems.is_empty());
        let whole = |problem: &ioband::config::Problem| {
            ["reaches to", "starts at", "twice", "by another name", "the same as"]
                .iter()
                .any(|part| problem.message.contains(part))
        };
        assert!(report.problems.iter().all(whole), "{text}\n{report}");
        plan("")
    })
}
