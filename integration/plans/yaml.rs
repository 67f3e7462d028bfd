//! What a plan prints is a configuration.

use super::stage::{Machine, defaults, names, plan, plans, reread};
use ioband::config::{Defaults, load};
use proptest::prelude::*;

#[test]
fn it_reads_like_one_that_people_wrote() {
    let text = r#"mountpoint: /vmdisk
control: {dir: .ioband, owner: root, group: 4321}
devices:
  ioband1:
    path: /dev/d7
    id: 8
    io_throttle: 4
    io_limit: 128
    token_base: 400
    simulate: {iops: 2000, bandwidth: 100MiB/s, parallel: 1}
    faults: [{error: ENOSPC, op: write, offset: 512, size: 1MiB, every: 7, seed: 0}, {short: true, stall: 500ms}]
    type: user
    policy: range-bw
    weight: 50
    min_bandwidth: 1KiB/s
    max_bandwidth: 200MiB/s
    groups:
      1000: 80
      0: {weight: 20, max_bandwidth: 1MiB/s, bandwidth_burst: 64KiB, max_iops: 300, iops_burst: 0}
  ioband2:
    path: /dev/d6
    length: 1MiB
    id: 8
images:
  vm1.img: {device: ioband1, offset: 0, size: 2MiB, owner: root, group: root, mode: "0660"}
  vm2.img: {device: ioband1, offset: 2MiB, size: 2MiB, owner: 7654321, group: 4321, read_only: true}
  vm3.img: {device: ioband1, extents: [{offset: 4MiB, size: 1MiB}, {offset: 6MiB, size: 512}], owner: root, group: 4321}
  "0x10": {device: ioband2, owner: root, group: 4321}
"#;
    assert_eq!(plan(text).to_yaml(&defaults()), text);
    assert_eq!(
        plan("").to_yaml(&defaults()),
        "control: {dir: .ioband, owner: root, group: 4321}\ndevices: {}\nimages: {}\n"
    );
}

#[test]
fn a_new_file_is_made_again_if_it_is_gone() {
    let text = plan("devices: {d: {path: new.img, size: 1MiB, length: 512}}").to_yaml(&defaults());
    assert!(text.contains("    path: new.img\n    size: 1MiB\n    length: 512\n"), "{text}");
}

#[test]
fn a_folder_that_no_path_can_name_is_left_out_of_it() {
    let text = plan("devices: {d: {path: ./f3}}").to_yaml(&defaults());
    assert!(text.contains("    path: f3\n"), "{text}");
    let elsewhere = Defaults { folder: "/dev".into(), ..defaults() };
    let plan = load("devices: {d: {path: d3}}", "f", &elsewhere, &Machine).unwrap();
    assert!(plan.to_yaml(&elsewhere).contains("    path: /dev/d3\n"));
}

#[test]
fn the_longest_names_fit_a_key() {
    let refused = |id: &str| {
        let text = format!("devices: {{d: {{path: /dev/d0, type: cgroup, groups: {{? '{id}' : 5}}}}}}");
        load(&text, "f", &defaults(), &Machine).is_err()
    };
    // What is printed of each character: itself, an escape, and as little or as much in a name.
    for (character, bytes) in [('a', 1), ('"', 1), ('\u{feff}', 3), ('日', 3), ('🦀', 4)] {
        let path = |length: usize| format!("/{}", character.to_string().repeat((length - 1) / bytes));
        let (longest, name) = (path(4095), character.to_string().repeat(255 / bytes));
        let text = format!(
            "devices: {{'{name}': {{path: /dev/d0, type: cgroup, groups: {{? '{longest}' : 5}}}}}}\nimages: {{'{name}': {{device: '{name}'}}}}"
        );
        let plan = plan(&text);
        assert_eq!(reread(&plan), plan);
        assert!(refused(&path(4096 + bytes)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_plan_prints_reads_back(plan in plans()) {
        prop_assert_eq!(reread(&plan), plan);
    }

    #[test]
    fn every_name_is_quoted_right(name in names(), other in names()) {
        prop_assume!(name != other);
        let quoted = |name: &str| format!("'{}'", name.replace('\'', "''"));
        let (name, cgroup) = (quoted(&name), quoted(&format!("/{name}/{other}")));
        let other = quoted(&other);
        let plan = plan(&format!(
            "{{mountpoint: {cgroup}, control: {{dir: {other}}}, devices: {{{name}: {{path: /dev/d0, type: cgroup, groups: {{{cgroup}: 5}}}}}}, images: {{{name}: {{device: {name}}}}}}}"
        ));
        prop_assert_eq!(reread(&plan), plan);
    }
}
