//! The configuration as people meet it: every example mounts, every mistake is named with its place and its cure.
//!
//! `bad-yaml/NAME.yaml` is refused with exactly the text of `NAME.txt` beside it. After a change of a message, run
//! with `UPDATE_EXPECT=1`, and read what has become of the texts before committing them.

use ioband::classify::{GroupId, GroupType};
use ioband::config::{
    DIRECTORY, Defaults, DevicePlan, Extent, FaultOp, FaultPlan, Found, FoundKind, GroupPlan, ImagePlan,
    LARGEST, Plan, Probe, Report, SimulatePlan, Wrongs, load, load_bytes, load_file,
};
use ioband::sched::{Cap, Limits, Policy};
use ioband::units::{Bytes, Nanos, Weight};
use proptest::prelude::*;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

const GIB: u64 = 1 << 30;
static DEFAULTS: LazyLock<Defaults> =
    LazyLock::new(|| Defaults { owner: 1234, group: 5678, folder: PathBuf::new() });

/// A machine with two disks and a few files.
struct Machine;

impl Probe for Machine {
    fn probe(&self, path: &Path) -> io::Result<Option<Found>> {
        // Behind a few of them is the same thing: `by-id` is a link of udev's, `link.img` one to disk.img.
        let same = match path.to_str() {
            Some("/dev/disk/by-id/sdb2") => Path::new("/dev/sdb2"),
            Some("./disk.img" | "link.img" | "./link.img") => Path::new("disk.img"),
            Some("/work") => Path::new("."),
            Some("/dev/./sdc1") => Path::new("/dev/sdc1"),
            _ => path,
        };
        let found = |size, kind| {
            let number = same.to_str().unwrap().bytes().fold(0, |sum, byte| sum * 256 + u128::from(byte));
            let identity = Some(((number >> 64) as u64, number as u64));
            let number = (kind == FoundKind::Block).then(|| (8, 16 + (number & 0xf) as u64));
            Ok(Some(Found { size: Bytes(size), kind, identity, number }))
        };
        match same.to_str() {
            Some("/dev/sdb1" | "/dev/sdb2" | "/dev/sdc1") => found(8 * GIB, FoundKind::Block),
            Some("disk.img") => found(8 * GIB, FoundKind::File),
            Some("odd.img") => found(GIB + 100, FoundKind::File),
            // As large as a file can be, in whole sectors.
            Some("huge.img") => found(i64::MAX as u64 - 511, FoundKind::File),
            Some("tiny.img") => found(100, FoundKind::File),
            Some("." | "/" | "/srv") => found(4096, FoundKind::Other(DIRECTORY)),
            Some("/dev/null") => found(0, FoundKind::Other("character device")),
            Some("/root/secret.img") => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Ok(None),
        }
    }

    fn block(&self, _major: u64, _minor: u64) -> Option<PathBuf> {
        None
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn yaml_files(name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder(name)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
}

fn good(text: &str) -> Plan {
    load(text, "good.yaml", &DEFAULTS, &Machine).unwrap_or_else(|report| panic!("{text}\n{report}"))
}

fn bad(text: &str) -> Report {
    load(text, "bad.yaml", &DEFAULTS, &Machine).err().unwrap_or_else(|| panic!("should be refused:\n{text}"))
}

/// Lines that differ, marked `-` (expected) and `+` (got).
fn diff(expected: &str, got: &str) -> String {
    let (expected, got): (Vec<_>, Vec<_>) = (expected.lines().collect(), got.lines().collect());
    let mut out = String::new();
    for i in 0..expected.len().max(got.len()) {
        let (e, g) = (expected.get(i), got.get(i));
        match (e, g) {
            (Some(e), Some(g)) if e == g => writeln!(out, "  {e}").unwrap(),
            _ => {
                e.iter().for_each(|e| writeln!(out, "- {e}").unwrap());
                g.iter().for_each(|g| writeln!(out, "+ {g}").unwrap());
            }
        }
    }
    out
}

#[test]
fn every_mistake_is_named_with_its_place_and_its_cure() {
    let files = yaml_files("integration/bad-yaml");
    assert!(files.len() >= 40, "only {} bad files", files.len());
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut failures = String::new();
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let got = match load(&text, name, &DEFAULTS, &Machine) {
            Err(report) => format!("{report}\n"),
            Ok(_) => "accepted\n".to_owned(),
        };
        let expected_path = path.with_extension("txt");
        if update {
            std::fs::write(&expected_path, &got).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if got == "accepted\n" || expected != got {
            write!(failures, "{name}:\n{}\n", diff(&expected, &got)).unwrap();
        }
    }
    assert!(failures.is_empty(), "expected (-) and got (+):\n{failures}");
}

#[test]
fn messages_speak_of_things_not_of_types() {
    for path in yaml_files("integration/bad-yaml") {
        let text = std::fs::read_to_string(path.with_extension("txt")).unwrap();
        for word in [
            "u32",
            "u64",
            "struct",
            "enum",
            "Option",
            "Some(",
            "usize",
            "serde",
            "deserialize",
            "invalid type",
        ] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
        assert!(text.contains("hint: "), "{}", path.display());
    }
}

#[test]
fn every_example_is_good() {
    let files = yaml_files("mountconfigs");
    let names: Vec<_> = files.iter().map(|p| p.file_stem().unwrap().to_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "caps",
            "cgroup",
            "gid",
            "image",
            "none",
            "pgrp",
            "pid",
            "range-bw",
            "two-devices",
            "user",
            "vmdisk",
        ]
    );
    for path in files {
        let plan = load_file(&path, &DEFAULTS, &Machine).unwrap_or_else(|report| panic!("{report}"));
        let name = path.file_stem().unwrap().to_str().unwrap();
        if let Some(group_type) = GroupType::parse(name) {
            assert_eq!(plan.devices[0].group_type, group_type);
            assert_eq!(plan.devices[0].groups.is_empty(), group_type == GroupType::None, "{name}");
        }
    }
}

#[test]
fn the_quick_start_is_two_images_on_a_new_file() {
    let plan = load_file(&folder("mountconfigs/vmdisk.yaml"), &DEFAULTS, &Machine).unwrap();
    assert_eq!(plan.mountpoint, Some("vmdisk".into()));
    let device = &plan.devices[0];
    assert_eq!((device.create, device.size), (Some(Bytes(4 * GIB)), Bytes(4 * GIB)));
    let groups: Vec<_> = device.groups.iter().map(|g| (g.id.to_string(), g.weight.get())).collect();
    assert_eq!(groups, [("vm1.img".to_owned(), 80), ("vm2.img".to_owned(), 40)]);
    let ranges: Vec<_> =
        plan.images.iter().map(|i| (i.extents[0].offset.0 / GIB, i.size().0 / GIB)).collect();
    assert_eq!(ranges, [(0, 2), (2, 2)]);
    // The simulated device in the comment must work as well once it is taken in.
    let text = std::fs::read_to_string(folder("mountconfigs/vmdisk.yaml")).unwrap();
    assert!(good(&text.replace("# simulate", "simulate")).devices[0].simulate.is_some());
}

/// The limits of all groups of the first device, the default group first.
fn limits(plan: &Plan) -> Vec<Limits> {
    let device = &plan.devices[0];
    std::iter::once(device.limits).chain(device.groups.iter().map(|group| group.limits)).collect()
}

fn cap(rate: u64, burst: u64) -> Option<Cap> {
    Some(Cap { rate: rate.try_into().unwrap(), burst })
}

#[test]
fn the_examples_of_limits_say_what_their_comments_say() {
    let plan = load_file(&folder("mountconfigs/caps.yaml"), &DEFAULTS, &Machine).unwrap();
    assert_eq!(plan.devices[0].policy, Policy::Weight);
    let expected = [
        Limits { max_iops: cap(5000, 50), ..Limits::default() },
        Limits::default(),
        Limits { max_bandwidth: cap(50 << 20, 4 << 20), ..Limits::default() },
        Limits {
            max_bandwidth: cap(20 << 20, (20 << 20) / 100),
            max_iops: cap(300, 50),
            min_bandwidth: None,
        },
    ];
    assert_eq!(limits(&plan), expected);
    // The bursts that its comments speak of.
    let usual = |rate: u64| Cap::new(rate.try_into().unwrap()).burst;
    assert_eq!((usual(50 << 20), usual(300)), (512 << 10, 3));

    let plan = load_file(&folder("mountconfigs/range-bw.yaml"), &DEFAULTS, &Machine).unwrap();
    assert_eq!(plan.devices[0].policy, Policy::RangeBw);
    let rates: Vec<_> = limits(&plan)
        .iter()
        .map(|l| (l.min_bandwidth.map(|r| r.get() >> 20), l.max_bandwidth.map(|c| c.rate.get() >> 20)))
        .collect();
    assert_eq!(rates, [(None, Some(30)), (Some(40), None), (Some(5), Some(60))]);
}

const EVERYTHING: &str = r#"
mountpoint: /vmdisk
control: {dir: .control, owner: root, group: root, mode: "0640"}
devices:
  ioband1:
    path: /dev/sdb1
    id: 7
    io_throttle: 4
    io_limit: 128
    type: uid
    policy: weight-iosize
    token_base: 400
    weight: 50
    max_bandwidth: 200MiB/s
    groups:
      1000: 80
      root: {weight: 20, max_bandwidth: 1M/s, bandwidth_burst: 64K, max_iops: 300, iops_burst: 0}
    provision: false
    simulate: {iops: 2000, bandwidth: 100MiB/s, parallel: 2}
    faults:
      - {error: EIO, op: read, offset: 1GiB, size: 64K}
      - {short: true, stall: 2, every: 7, seed: 1}
images:
  vm1.img: {device: ioband1, offset: 0, size: 2GiB, owner: root, group: 7, mode: "0660"}
  vm2.img: {device: ioband1, offset: 2GiB, size: 4194304s, read_only: true}
  vm3.img: {device: ioband1, extents: [{offset: 4GiB, size: 1GiB}, {offset: 6GiB, size: 536870912}]}
"#;

#[test]
fn every_key_arrives_in_the_plan() {
    let plan = good(EVERYTHING);
    let control = (plan.control.dir.as_str(), plan.control.owner, plan.control.group, plan.control.mode);
    assert_eq!(control, (".control", 0, 0, 0o640));
    let group = |id, weight, limits| GroupPlan {
        id: GroupId::Number(id),
        weight: Weight::new(weight).unwrap(),
        limits,
    };
    let root = Limits { max_bandwidth: cap(1 << 20, 64 << 10), max_iops: cap(300, 0), min_bandwidth: None };
    let device = DevicePlan {
        name: "ioband1".into(),
        path: "/dev/sdb1".into(),
        number: Some((8, 17)),
        create: None,
        length: None,
        size: Bytes(8 * GIB),
        id: 7,
        io_throttle: 4,
        io_limit: 128,
        group_type: GroupType::User,
        policy: Policy::WeightIosize,
        token_base: 400,
        weight: Weight::new(50).unwrap(),
        limits: Limits { max_bandwidth: cap(200 << 20, 2 << 20), ..Limits::default() },
        groups: vec![group(1000, 80, Limits::default()), group(0, 20, root)],
        simulate: Some(SimulatePlan { iops: Some(2000), bandwidth: Some(Bytes(100 << 20)), parallel: 2 }),
        faults: plan.devices[0].faults.clone(),
    };
    assert_eq!(plan.devices, [device]);
    let [bad_place, slow] = plan.devices[0].faults[..] else { panic!("{:?}", plan.devices[0].faults) };
    assert_eq!(bad_place.what.error.map(|error| (error.as_str(), error.errno())), Some(("EIO", 5)));
    let range = Extent { offset: Bytes(GIB), size: Bytes(64 << 10) };
    assert_eq!((bad_place.op, bad_place.range, bad_place.every), (Some(FaultOp::Read), Some(range), 1));
    let what = Wrongs { error: None, short: true, stall: Some(Nanos::from_secs(2)) };
    assert_eq!(slow, FaultPlan { what, op: None, range: None, every: 7, seed: Some(1) });
    let image = |name: &str, extents: &[(u64, u64)]| ImagePlan {
        name: name.into(),
        device: 0,
        extents: extents
            .iter()
            .map(|(offset, size)| Extent { offset: Bytes(*offset), size: Bytes(*size) })
            .collect(),
        owner: 1234,
        group: 5678,
        mode: 0o600,
        read_only: false,
    };
    let images = [
        ImagePlan { owner: 0, group: 7, mode: 0o660, ..image("vm1.img", &[(0, 2 * GIB)]) },
        ImagePlan { read_only: true, ..image("vm2.img", &[(2 * GIB, 2 * GIB)]) },
        image("vm3.img", &[(4 * GIB, GIB), (6 * GIB, GIB / 2)]),
    ];
    assert_eq!(plan.images, images);
}

#[test]
fn what_is_not_said_is_the_default() {
    let plan = good("devices: {d: {path: odd.img}}\nimages: {i: {device: d, offset: 512}}");
    assert_eq!(plan.mountpoint, None);
    let control = (plan.control.dir.as_str(), plan.control.owner, plan.control.group, plan.control.mode);
    assert_eq!(control, (".ioband", 1234, 5678, 0o600));
    let device = &plan.devices[0];
    assert_eq!((device.id, device.io_throttle, device.io_limit, device.token_base), (1, 0, 0, 2048));
    assert_eq!(
        (device.group_type, device.policy, device.weight.get()),
        (GroupType::None, Policy::Weight, 100)
    );
    assert!(device.limits.is_empty());
    assert_eq!(device.size, Bytes(GIB), "rounded down to whole sectors");
    assert_eq!(
        plan.images[0].extents,
        [Extent { offset: Bytes(512), size: Bytes(GIB - 512) }],
        "the rest of the device"
    );
}

#[test]
fn a_mount_may_start_empty() {
    for text in [
        "",
        "# nothing\n",
        "mountpoint: /m",
        "devices:\nimages:\n",
        "devices: {}\nimages: ~",
        "\u{feff}devices:",
    ] {
        let plan = good(text);
        assert!(plan.devices.is_empty() && plan.images.is_empty(), "{text}");
    }
}

#[test]
fn what_is_stated_at_one_device_holds_for_its_disk() {
    let plan = good(
        "devices:
  a: {path: /dev/sdb1, id: 8, io_limit: 9, simulate: {iops: 5}}
  b: {path: /dev/sdb2, id: 8, io_throttle: 3, token_base: 0}
  c: {path: /dev/sdc1, id: 9}",
    );
    let disk = |i: usize| (plan.devices[i].io_throttle, plan.devices[i].io_limit, plan.devices[i].token_base);
    assert_eq!((disk(0), disk(1), disk(2)), ((3, 9, 2048), (3, 9, 2048), (0, 0, 2048)));
    assert_eq!(plan.devices[0].simulate, plan.devices[1].simulate);
    assert_eq!(plan.devices[2].simulate, None);
}

#[test]
fn groups_of_names_and_paths() {
    let plan = good(
        "devices:
  a: {path: /dev/sdb1, type: cgroup, groups: {/machine.slice/: 10, /a/b: {}}}
  b: {path: /dev/sdb2, type: image, groups: {vm.img: 5}}
images: {vm.img: {device: b}}",
    );
    let ids: Vec<_> =
        plan.devices.iter().flat_map(|d| &d.groups).map(|g| (g.id.clone(), g.weight.get())).collect();
    let name = |name: &str| GroupId::Name(name.into());
    assert_eq!(ids, [(name("/machine.slice"), 10), (name("/a/b"), 100), (name("vm.img"), 5)]);
}

#[test]
fn limits_of_nothing_are_none() {
    let plan = good(
        "devices:
  a:
    path: /dev/sdb1
    type: user
    min_bandwidth: 0
    max_bandwidth: 0/s
    groups: {1: {min_bandwidth: 0KiB/s, max_iops: 0}, 2: 50}",
    );
    assert!(limits(&plan).iter().all(Limits::is_empty));
}

#[test]
fn bandwidths_are_read_in_every_unit() {
    for (text, bytes) in [("7", 7), ("7/s", 7), ("50MiB/s", 50 << 20), ("50 M/s", 50 << 20), ("8s/s", 4096)] {
        let plan = good(&format!(
            "devices: {{d: {{path: /dev/sdb1, policy: range-bw, min_bandwidth: {text}, max_bandwidth: {text}}}}}"
        ));
        let Limits { min_bandwidth, max_bandwidth, .. } = plan.devices[0].limits;
        let both = (min_bandwidth.map(u64::from), max_bandwidth.map(|cap| cap.rate.get()));
        assert_eq!(both, (Some(bytes), Some(bytes)), "a minimum may be the maximum: {text}");
    }
}

#[test]
fn readers_may_share_a_range_and_neighbours_may_touch() {
    good(
        "devices: {d: {path: /dev/sdb1}}
images:
  a: {device: d, offset: 1GiB, size: 1GiB, read_only: true}
  b: {device: d, offset: 1GiB, size: 2GiB, read_only: true}
  c: {device: d, offset: 3GiB, size: 1GiB}
  d2: {device: d, offset: 0, size: 1GiB}",
    );
}

#[test]
fn one_template_serves_many_images() {
    let mut text = "devices: {d: {path: /dev/sdb1}}\nimages:\n".to_owned();
    for i in 0..500 {
        let template =
            if i == 0 { "&vm {device: d, size: 1MiB, mode: \"0640\"}" } else { "{<<: *vm, offset: " };
        let rest = if i == 0 { String::new() } else { format!("{i}MiB}}") };
        writeln!(text, "  vm{i}.img: {template}{rest}").unwrap();
    }
    let plan = good(&text);
    assert_eq!(plan.images.len(), 500);
    assert!(plan.images.iter().all(|image| image.mode == 0o640 && image.size() == Bytes(1 << 20)));
    assert_eq!(plan.images[499].extents[0].offset, Bytes(499 << 20));
}

#[test]
fn a_file_that_exists_with_its_size_is_used_again() {
    let plan = good("devices: {d: {path: disk.img, size: 8GiB}}");
    assert_eq!((plan.devices[0].create, plan.devices[0].size), (None, Bytes(8 * GIB)));
}

#[test]
fn relative_paths_count_from_the_folder_of_the_mount() {
    let load = |text: &str, folder: &str| {
        load(text, "f", &Defaults { folder: folder.into(), ..DEFAULTS.clone() }, &Machine)
    };
    let text = "devices: {a: {path: sdb1}, b: {path: ./sdc1}, c: {path: /dev/sdb2}}";
    let plan = load(text, "/dev").unwrap();
    let paths: Vec<_> = plan.devices.iter().map(|device| device.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/dev/sdb1", "/dev/./sdc1", "/dev/sdb2"]);
    // One of them by two names, and what is said of a path is said of what was written.
    let report = load("devices: {a: {path: sdb1}, b: {path: /dev/sdb1}}", "/dev").unwrap_err().to_string();
    assert!(report.contains("`/dev/sdb1` of device `b` is `sdb1` of device `a`"), "{report}");
    let report = load("devices: {a: {path: x/new.img, size: 1GiB}}", "/srv").unwrap_err().to_string();
    assert!(report.contains("`x/new.img` cannot be made: there is no folder `x`"), "{report}");
    assert_eq!(
        load("devices: {a: {path: new.img, size: 1GiB}}", "/srv").unwrap().devices[0].size,
        Bytes(GIB)
    );
}

#[test]
fn a_length_is_the_beginning_of_a_device() {
    let plan = good(
        "devices:
  a: {path: /dev/sdb1, length: 1GiB}
  b: {path: /dev/sdb2, length: 8GiB}
  c: {path: new.img, size: 2GiB, length: 1GiB}
images: {i: {device: a}}",
    );
    let sizes: Vec<_> = plan.devices.iter().map(|d| (d.size.0 / GIB, d.length, d.create)).collect();
    let gib = |size| Some(Bytes(size * GIB));
    assert_eq!(sizes, [(1, gib(1), None), (8, gib(8), None), (1, gib(1), gib(2))]);
    assert_eq!(plan.images[0].size(), Bytes(GIB));
    bad("devices: {a: {path: /dev/sdb1, length: 1GiB}}\nimages: {i: {device: a, size: 2GiB}}");
}

#[test]
fn one_run_names_all_mistakes_in_the_order_of_the_file() {
    let report =
        bad(&EVERYTHING.replace("weight: 50", "weight: 0").replace("id: 7", "id: x").replace("0640", "9"));
    let lines: Vec<usize> = report.problems.iter().map(|p| p.line).collect();
    assert_eq!(lines, [3, 7, 13], "{report}");
}

#[test]
fn files_that_cannot_be_read_are_reported_too() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| load_file(path, &DEFAULTS, &Machine).unwrap_err().to_string();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let shown = |path: &Path| path.display().to_string();

    let path = dir.path().join("absent.yaml");
    assert_eq!(
        refused(&path),
        format!(
            "{}: there is no such file\n    hint: check the path, which counts from this folder",
            shown(&path)
        )
    );
    let text = refused(dir.path());
    assert_eq!(
        text,
        format!("{}: this is a folder\n    hint: give the configuration file in it", shown(dir.path()))
    );
    let path = file("large.yaml", &vec![b'#'; (1 << 20) + 1]);
    assert_eq!(
        refused(&path),
        format!(
            "{}: larger than 1MiB\n    hint: is this a disk image? A configuration is a YAML file",
            shown(&path)
        )
    );
    let path = file("latin1.yaml", b"# ok\n# caf\xe9\n");
    assert_eq!(
        refused(&path),
        format!(
            "{}:2:6: byte 0xe9 is not text in UTF-8\n    hint: save the file as UTF-8\n    2 | # caf\u{fffd}\n      |      ^",
            shown(&path)
        )
    );
    let path = file("full.yaml", &vec![b'#'; 1 << 20]);
    assert!(load_file(&path, &DEFAULTS, &Machine).is_ok());
}

#[test]
fn ten_thousand_mistakes_are_refused_as_one() {
    let mut text = "devices:\n  d:\n    path: /dev/sdb1\n    type: image\n    groups:\n".to_owned();
    for i in 0..10_000 {
        writeln!(text, "      some-machine-number-{i}.img: 1").unwrap();
    }
    text.push_str("images:\n");
    for i in 0..10_000 {
        writeln!(
            text,
            "  any-machine-number-{i}.img: {{device: {}}}",
            if i % 2 == 0 { "d" } else { "dd-disk" }
        )
        .unwrap();
    }
    let report = bad(&text);
    assert_eq!(report.problems.len(), Report::MOST);
    assert!(report.left_out > 10_000);
}

#[test]
fn bombs_are_refused_before_they_grow() {
    let mut aliases = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 10].join(", ");
        writeln!(aliases, "a{i}: &a{i} [{refs}]").unwrap();
    }
    let deep = "[".repeat(500_000);
    let wide = "a: 1\n".repeat(200_000);
    let dashes = "- ".repeat(500_000);
    for text in [aliases, deep, wide, dashes] {
        let report = bad(&text);
        assert!(report.problems.len() <= Report::MOST, "{}", report.problems.len());
        assert!(report.to_string().len() < 100_000);
    }
}

/// As much as can be written to a file of the control directory, of whatever costs a reader most.
#[test]
fn a_megabyte_of_anything_is_refused_and_a_byte_more_is_not_even_read() {
    let most = usize::try_from(LARGEST).unwrap();
    let fill = |part: &str| part.bytes().cycle().take(most).collect::<Vec<u8>>();
    let mut random = fastrand::Rng::with_seed(1);
    let words = [
        "a: ", "- ", "[", "{", "}", "\n", "  ", "\t", "&a ", "*a", "\"", "'", "|", ">", "? ", "<<", ": ",
        "#", "!", "%",
    ];
    let mut soup = String::new();
    while soup.len() < most - 8 {
        soup.push_str(random.choice(words).unwrap());
    }
    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(most).collect();
    let many = [
        "[", "{", "{a: ", "- ", "? ", "&a ", "&a [*a, ", "a: &a\n", "! ", "\"", "'\n", "x", "x: [\n",
        "? a\n", "|\n ", ",", "<<: {", "%", "\\", "\0",
    ];
    for text in many.into_iter().map(fill).chain([soup.into_bytes(), bytes]) {
        let report = load_bytes(&text, "f", &DEFAULTS, &Machine).unwrap_err();
        assert!(report.problems.len() <= Report::MOST, "{}", report.problems.len());
        assert!(report.to_string().len() < 100_000);
    }
    let mut large = fill("#");
    assert!(load_bytes(&large, "f", &DEFAULTS, &Machine).is_ok());
    large.push(b'#');
    let report = load_bytes(&large, "f", &DEFAULTS, &Machine).unwrap_err();
    assert_eq!(report.problems[0].message, "larger than 1MiB");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _ = load(&text, "f", &DEFAULTS, &Machine).map_err(|report| report.to_string());
    }

    #[test]
    fn no_yaml_like_text_makes_it_panic(text in "([a-z0-9_]{1,6}|[ \n:{}\\[\\],&*!|>'\"#%@`?<~.\t-]){0,80}") {
        let _ = load(&text, "f", &DEFAULTS, &Machine).map_err(|report| report.to_string());
    }

    #[test]
    fn no_damage_to_a_good_file_makes_it_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "([ -~\n\t]|é|\u{0}){0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = EVERYTHING.chars().collect();
        for (at, length, put) in cuts {
            let start = at.index(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, put.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(report) = load(&text, "f", &DEFAULTS, &Machine) {
            prop_assert!(!report.problems.is_empty());
            let lines = text.lines().count() + 1;
            prop_assert!(report.problems.iter().all(|p| (1..=lines).contains(&p.line)), "{report}\n{text}");
        }
    }
}
