//! Every message and its refusals, and any sequence of changes.

use super::stage::{Machine, defaults, plan, plans, reread};
use ioband::classify::{GroupId, GroupType};
use ioband::config::{Plan, SimulatePlan};
use ioband::control::Refusal;
use ioband::control::edit;
use ioband::control::grammar::{Message, TableLine};
use ioband::sched::Policy;
use ioband::units::Bytes;
use proptest::prelude::*;

const START: &str = "
control: {dir: .ctl}
devices:
  a: {path: /dev/d0, id: 1, type: user, weight: 40, groups: {1000: 80, root: {weight: 20, max_iops: 300, max_bandwidth: 1000}}}
  b: {path: /dev/d1, id: 1}
  c: {path: /dev/d2, id: 2, io_throttle: 4, io_limit: 8, policy: range-bw, type: image, groups: {i1: {min_bandwidth: 2K, max_bandwidth: 4K}}}
  e: {path: /dev/d3, id: 3, type: image, groups: {later: 7}}
images:
  i1: {device: c, size: 1s}
  i2: {device: c, offset: 1s, size: 1s}
  i3: {device: b}
  e: {device: e}
";

fn send(plan: &Plan, device: &str, message: &str) -> Result<Plan, Refusal> {
    edit::message(plan, device, &message.parse::<Message>()?)
}

fn after(messages: &[(&str, &str)]) -> Plan {
    messages.iter().fold(plan(START), |plan, (device, message)| {
        let plan = send(&plan, device, message).unwrap_or_else(|refusal| panic!("{message}: {refusal}"));
        assert_eq!(reread(&plan), plan, "{message}");
        plan
    })
}

/// The table of a device after these messages, from its type on.
fn table_after(device: &str, messages: &[&str]) -> String {
    let plan = after(&messages.iter().map(|message| (device, *message)).collect::<Vec<_>>());
    table(&plan, device).split(' ').skip(6).collect::<Vec<_>>().join(" ")
}

fn table(plan: &Plan, device: &str) -> String {
    edit::table(plan.devices.iter().find(|d| d.name == device).unwrap()).to_string()
}

#[test]
fn what_messages_change() {
    for (device, messages, table) in [
        ("a", &[][..], "0 0 user weight 2048 :40 1000:80 0:20 max_bandwidth 0:1000 max_iops 0:300"),
        (
            "a",
            &["attach 7", "weight 7:5"],
            "0 0 user weight 2048 :40 1000:80 0:20 7:5 max_bandwidth 0:1000 max_iops 0:300",
        ),
        ("a", &["detach root", "type uid"], "0 0 user weight 2048 :40 1000:80"),
        ("a", &["detach 0", "detach 1000", "type pid", "attach 4711"], "0 0 pid weight 2048 :40 4711:100"),
        ("a", &["detach 0", "weight 3", "weight -1:4", "weight 1000:5"], "0 0 user weight 2048 :4 1000:5"),
        (
            "a",
            &["detach 0", "max_iops 900", "iops_burst 0"],
            "0 0 user weight 2048 :40 1000:80 max_iops :900 iops_burst :0",
        ),
        // The usual burst follows the cap, one that was set does not.
        (
            "a",
            &["detach 1000", "max_iops root:0", "max_bandwidth 0:2000"],
            "0 0 user weight 2048 :40 0:20 max_bandwidth 0:2000",
        ),
        (
            "a",
            &["detach 1000", "max_iops root:0", "bandwidth_burst 0:5", "max_bandwidth 0:2000"],
            "0 0 user weight 2048 :40 0:20 max_bandwidth 0:2000 bandwidth_burst 0:5",
        ),
        ("b", &["type cgroup", "attach /a:b/"], "0 0 cgroup weight 2048 :100 /a:b:100"),
        ("b", &["reset"], "0 0 none weight 2048 :100"),
        (
            "c",
            &["range-bw i1:1:0", "range-bw 0:7", "weight i1:5"],
            "4 8 image range-bw 2048 :0:7 i1:1:0 weight i1:5",
        ),
        ("c", &["policy weight-iosize"], "4 8 image weight-iosize 2048 :100 i1:100 max_bandwidth i1:4096"),
        ("c", &["policy weight", "policy range-bw"], "4 8 image range-bw 2048 :0:0 i1:0:4"),
        (
            "c",
            &["io_throttle 8", "io_limit 0", "io_throttle 9", "token 5"],
            "9 0 image range-bw 5 :0:0 i1:2:4",
        ),
        ("e", &["attach later.img", "detach later"], "0 0 image weight 2048 :100 later.img:100"),
    ] {
        assert_eq!(table_after(device, messages), table, "{device} {messages:?}");
    }
}

#[test]
fn what_belongs_to_a_disk_changes_on_all_of_its_devices() {
    let plan =
        after(&[("a", "io_throttle 3"), ("b", "io_limit 5"), ("a", "token 7"), ("b", "simulate 5:0:2")]);
    let simulate = Some(SimulatePlan { iops: Some(5), bandwidth: None, parallel: 2 });
    for device in &plan.devices[..2] {
        let disk = (device.io_throttle, device.io_limit, device.token_base, device.simulate);
        assert_eq!(disk, (3, 5, 7, simulate));
    }
    assert_eq!(plan.devices[2], super::stage::plan(START).devices[2]);
    let plan = after(&[("a", "token 7"), ("b", "token 0"), ("b", "simulate 5:0:2"), ("a", "simulate none")]);
    assert_eq!(plan, super::stage::plan(START));
}

#[test]
fn messages_that_are_refused() {
    for (device, message, errno, part) in [
        ("x", "reset", libc::ENXIO, "there is no ioband device `x`"),
        ("b", "attach 5", libc::EINVAL, "has type none"),
        ("b", "weight 5:7", libc::EINVAL, "has type none"),
        ("a", "attach 1000", libc::EEXIST, "has a group 1000 already"),
        ("a", "attach root", libc::EEXIST, "has a group 0 already"),
        ("a", "attach nobody-of-this-name", libc::EINVAL, "no user of this machine"),
        ("a", "detach 5", libc::EINVAL, "has no group `5`; it has `1000` and `0`"),
        ("a", "weight 5:7", libc::EINVAL, "has no group `5`"),
        ("a", "max_iops 5:7", libc::EINVAL, "has no group `5`"),
        ("a", "type gid", libc::EBUSY, "told apart by user"),
        ("a", "type none", libc::EBUSY, "detach them before"),
        ("a", "range-bw 1000:1:2", libc::EINVAL, "`policy range-bw` first"),
        ("a", "iops_burst 1000:7", libc::EINVAL, "group `1000` has no `max_iops`"),
        ("a", "bandwidth_burst 7", libc::EINVAL, "the default group has no `max_bandwidth`"),
        ("c", "io_limit 3", libc::EINVAL, "io_limit would be 3, below io_throttle, which would be 4"),
        ("c", "io_throttle 9", libc::EINVAL, "io_limit would be 8, below io_throttle, which would be 9"),
        ("c", "max_bandwidth i1:1K", libc::EINVAL, "has a minimum of 2048"),
        ("c", "attach i3", libc::EINVAL, "an image on another device, `b`"),
        ("c", "attach later", libc::EINVAL, "no image of this mount"),
        ("e", "attach i3", libc::EINVAL, "an image on another device, `b`"),
        ("e", "attach a/b", libc::EINVAL, "holds a slash"),
    ] {
        let refusal = send(&plan(START), device, message).expect_err(message);
        assert!(refusal.sentence.contains(part), "{message}: {refusal}");
        assert_eq!(refusal.errno, errno, "{message}: {refusal}");
        assert!(!refusal.sentence.contains('\n') && !refusal.sentence.ends_with('.'), "{refusal}");
    }
}

fn create(plan: &Plan, name: &str, table: &str) -> Result<Plan, Refusal> {
    edit::create(plan, name, &table.parse::<TableLine>()?, &defaults(), &Machine)
}

#[test]
fn a_device_comes_with_an_image_and_goes_with_all_of_them() {
    let start = plan(START);
    let new =
        create(&start, "new", "0 4096 ioband 8:5 9 1 2 image range-bw 5 :0:1 x:1:2 max_iops x:9").unwrap();
    assert_eq!(reread(&new), new);
    let device = &new.devices[4];
    assert_eq!((device.path.to_str(), device.number), (Some("/dev/d5"), Some((8, 5))));
    assert_eq!((device.length, device.size), (Some(Bytes(2 << 20)), Bytes(2 << 20)));
    assert_eq!(device.groups[0].id, GroupId::Name("x".into()));
    let image = new.images.last().unwrap();
    assert_eq!(
        (image.name.as_str(), image.device, image.mode, image.size()),
        ("new", 4, 0o600, Bytes(2 << 20))
    );
    assert_eq!((image.owner, image.group), (0, 4321));
    assert_eq!(table(&new, "new"), "new: 0 4096 ioband 8:5 9 1 2 image range-bw 5 :0:1 x:1:2 max_iops x:9");
    assert_eq!(edit::remove(&new, "new").unwrap(), start);

    let without = edit::remove(&new, "c").unwrap();
    assert_eq!(reread(&without), without);
    let left: Vec<_> =
        without.images.iter().map(|i| (i.name.as_str(), without.devices[i.device].name.as_str())).collect();
    assert_eq!(left, [("i3", "b"), ("e", "e"), ("new", "new")]);
    assert_eq!(edit::remove(&start, "i1").unwrap_err().errno, libc::ENXIO);
}

#[test]
fn a_whole_device_states_no_length_and_a_file_ends_with_its_last_sector() {
    let new = create(&plan(""), "f", "0 6144 ioband f2 1 0 0 none weight 0").unwrap();
    assert_eq!((new.devices[0].length, new.devices[0].size), (None, Bytes(3 << 20)));
    assert_eq!(new.devices[0].token_base, 2048);
    assert_eq!(table(&new, "f"), "f: 0 6144 ioband /srv/my\\040disks/f2 1 0 0 none weight 2048 :100");
    assert_eq!(reread(&new), new);
}

#[test]
fn a_new_device_takes_what_its_disk_has() {
    let simulate = send(&plan(START), "c", "simulate 5:0:1").unwrap();
    let new = create(&simulate, "new", "0 9 ioband /dev/d5 2 0 8 none weight 0").unwrap();
    let (new, old) = (&new.devices[4], &new.devices[2]);
    assert_eq!((new.io_throttle, new.io_limit, new.token_base), (4, 8, 2048));
    assert_eq!(new.simulate, old.simulate);
}

#[test]
fn tables_that_are_refused() {
    let rest = "1 0 0 none weight 0 :40";
    for (name, table, errno, part) in [
        ("a", format!("0 9 ioband /dev/d5 {rest}"), libc::EEXIST, "the name of an ioband device"),
        ("i1", format!("0 9 ioband /dev/d5 {rest}"), libc::EEXIST, "the name of an image"),
        (".ctl", format!("0 9 ioband /dev/d5 {rest}"), libc::EEXIST, "the name of the control folder"),
        ("later", format!("0 9 ioband /dev/d5 {rest}"), libc::EINVAL, "device `e` has a group"),
        ("a/b", format!("0 9 ioband /dev/d5 {rest}"), libc::EINVAL, "holds a slash"),
        ("", format!("0 9 ioband /dev/d5 {rest}"), libc::EINVAL, "empty"),
        ("n", format!("m: 0 9 ioband /dev/d5 {rest}"), libc::EINVAL, "for device `m`, and not for `n`"),
        ("n", format!("0 9 ioband /dev/d9 {rest}"), libc::ENXIO, "there is no `/dev/d9`"),
        ("n", format!("0 9 ioband 8:9 {rest}"), libc::ENXIO, "there is no `8:9`"),
        ("n", format!("0 9 ioband /srv {rest}"), libc::EINVAL, "`/srv` is a folder"),
        ("n", format!("0 9 ioband /srv/empty {rest}"), libc::EINVAL, "is empty"),
        ("n", format!("0 9 ioband /root/secret {rest}"), libc::EIO, "cannot look at `/root/secret`"),
        ("n", format!("0 12289 ioband /dev/d5 {rest}"), libc::EINVAL, "has 12288 sectors, less than 12289"),
        ("n", format!("0 9 ioband /dev/d0 {rest}"), libc::EBUSY, "behind device `a` already"),
        ("n", format!("0 9 ioband 8:0 {rest}"), libc::EBUSY, "behind device `a` already"),
        ("n", format!("0 9 ioband /dev/by-name/d0 {rest}"), libc::EBUSY, "behind device `a` already"),
        ("n", "0 9 ioband /dev/d5 2 5 0 none weight 0".into(), libc::EINVAL, "io_throttle of disk 2"),
        ("n", "0 9 ioband /dev/d5 1 0 5 none weight 0".into(), libc::EINVAL, "io_limit of disk 1"),
        ("n", "0 9 ioband /dev/d5 1 0 0 none weight 5".into(), libc::EINVAL, "`message a 0 token 5`"),
        ("n", "0 9 ioband /dev/d5 9 5 4 none weight 5".into(), libc::EINVAL, "below io_throttle"),
        ("n", "0 9 ioband /dev/d5 9 0 0 none weight 0 5:5".into(), libc::EINVAL, "has type none"),
        (
            "n",
            "0 9 ioband /dev/d5 9 0 0 user weight 0 0:5 root:6".into(),
            libc::EINVAL,
            "group `root` stands twice",
        ),
        ("n", "0 9 ioband /dev/d5 9 0 0 image weight 0 i1:5".into(), libc::EINVAL, "on another device, `c`"),
        (
            "n",
            "0 9 ioband /dev/d5 9 0 0 user weight 0 7:5 iops_burst 7:5".into(),
            libc::EINVAL,
            "`7` has no `max_iops`",
        ),
    ] {
        let refusal = create(&plan(START), name, &table).expect_err(&table);
        assert!(refusal.sentence.contains(part), "{table}: {refusal}");
        assert_eq!(refusal.errno, errno, "{table}: {refusal}");
        assert!(!refusal.sentence.contains('\n') && !refusal.sentence.ends_with('.'), "{refusal}");
    }
}

/// A change that has a chance: its words are those that the plans here use.
#[derive(Clone, Debug)]
enum Change {
    Message(prop::sample::Index, String),
    Create(String, String),
    Remove(prop::sample::Index),
}

fn changes() -> impl Strategy<Value = Change> {
    let id = "[1-4]|root|/a|/a:b|x|y|later|-1";
    let setting = prop_oneof![
        prop::sample::select(&GroupType::ALL).prop_map(|t| format!("type {}", t.as_str())),
        prop::sample::select(&Policy::ALL).prop_map(|p| format!("policy {}", p.as_str())),
        id.prop_map(|id| format!("attach {id}")),
        id.prop_map(|id| format!("detach {id}")),
        (id, 1u32..40000).prop_map(|(id, weight)| format!("weight {id}:{weight}")),
        (id, 0u64..1 << 53, 0u64..1 << 53).prop_map(|(id, min, max)| format!("range-bw {id}:{min}:{max}")),
        (id, "max_bandwidth|max_iops|bandwidth_burst|iops_burst", 0u64..1_000_000)
            .prop_map(|(id, key, value)| format!("{key} {id}:{value}")),
        ("io_throttle|io_limit|token", 0u32..20).prop_map(|(key, value)| format!("{key} {value}")),
        Just("simulate 5:0:1".to_owned()),
        Just("simulate none".to_owned()),
    ];
    let table = (0u64..9, 1u64..5000, 0u32..4, 0u32..3, prop::sample::select(&GroupType::ALL), id).prop_map(
        |(minor, length, disk, depth, group_type, id)| {
            format!("0 {length} ioband 8:{minor} {disk} {depth} 0 {} weight 0 :5 {id}:6", group_type.as_str())
        },
    );
    prop_oneof![
        8 => (any::<prop::sample::Index>(), setting).prop_map(|(device, message)| Change::Message(device, message)),
        3 => ("x|y|later|n[1-4]", table).prop_map(|(name, table)| Change::Create(name, table)),
        1 => any::<prop::sample::Index>().prop_map(Change::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to a plan: what comes out can be saved, and loaded.
    #[test]
    fn every_change_of_a_plan_can_be_saved(start in plans(), changes in prop::collection::vec(changes(), 0..20)) {
        let mut plan = start;
        for change in changes {
            let name = |plan: &Plan, at: &prop::sample::Index| match plan.devices.len() {
                0 => "none".to_owned(),
                many => plan.devices[at.index(many)].name.clone(),
            };
            let new = match &change {
                Change::Message(device, message) => send(&plan, &name(&plan, device), message),
                Change::Create(name, table) => create(&plan, name, table),
                Change::Remove(device) => edit::remove(&plan, &name(&plan, device)),
            };
            if let Ok(new) = new {
                prop_assert_eq!(reread(&new), new.clone(), "{:?}", change);
                plan = new;
            }
        }
    }
}
