//! The files of a device: what they show, and what a write asks for.

use super::stage::{plan, plans};
use ioband::classify::GroupId;
use ioband::config::{DevicePlan, Plan};
use ioband::control::{Refusal, Setting, edit};
use proptest::prelude::*;

fn device() -> DevicePlan {
    plan(
        "devices: {a: {path: /dev/d0, type: user, io_throttle: 3, io_limit: 9, token_base: 7, weight: 40, groups: {0: 80, 7: 20}}}",
    )
    .devices
    .remove(0)
}

fn asked(device: &DevicePlan, setting: Setting, written: &str) -> Result<Vec<String>, Refusal> {
    Ok(setting.messages(device, written)?.iter().map(ToString::to_string).collect())
}

/// Carries a write out.
fn write(plan: &Plan, index: usize, setting: Setting, written: &str) -> Result<Plan, Refusal> {
    let name = &plan.devices[index].name;
    let messages = setting.messages(&plan.devices[index], written)?;
    messages.iter().try_fold(plan.clone(), |plan, message| edit::message(&plan, name, message))
}

#[test]
fn each_shows_one_value() {
    let shown: Vec<_> =
        Setting::ALL.iter().map(|setting| (setting.name(), setting.text(&device()))).collect();
    let expected = [
        ("type", "user\n"),
        ("policy", "weight\n"),
        ("token_base", "7\n"),
        ("io_throttle", "3\n"),
        ("io_limit", "9\n"),
        ("weight", "40\n"),
        ("groups", "0:80\n7:20\n"),
    ];
    assert_eq!(shown, expected.map(|(name, text)| (name, text.to_owned())));
    assert_eq!(Setting::Groups.text(&plan("devices: {a: {path: /dev/d0}}").devices[0]), "");
}

#[test]
fn a_line_is_what_a_message_takes() {
    for (setting, written, messages) in [
        (Setting::Type, "uid\n", &["type user"][..]),
        (Setting::Policy, " weight-iosize ", &["policy weight-iosize"]),
        (Setting::TokenBase, "0\n", &["token 0"]),
        (Setting::IoThrottle, "4", &["io_throttle 4"]),
        (Setting::IoLimit, "0\n\n", &["io_limit 0"]),
        (Setting::Weight, "5\n7:30\n", &["weight 5", "weight 7:30"]),
        (Setting::Groups, "7:30", &["weight 7:30"]),
        (Setting::Groups, "root:30 9:5", &["weight root:30", "attach 9", "weight 9:5"]),
        (Setting::Groups, "+9\n+8:5 9:4", &["attach 9", "attach 8", "weight 8:5", "weight 9:4"]),
        (Setting::Groups, "-7 7:5 -0", &["detach 7", "attach 7", "weight 7:5", "detach 0"]),
        (Setting::Groups, "+7", &["attach 7"]),
    ] {
        assert_eq!(asked(&device(), setting, written).unwrap(), messages, "{written}");
    }
    let range = plan("devices: {a: {path: /dev/d0, policy: range-bw, type: cgroup, groups: {/a: 1}}}")
        .devices
        .remove(0);
    let messages = asked(&range, Setting::Groups, "/a:1:2 +/b:1 +/c:3:4").unwrap();
    assert_eq!(messages, ["range-bw /a:1:2", "attach /b:1", "attach /c", "range-bw /c:3:4"]);
}

#[test]
fn what_no_message_says_is_refused() {
    for (setting, written, part) in [
        (Setting::Type, "", "nothing is written to `type`"),
        (Setting::Groups, " \n", "nothing is written to `groups`"),
        (Setting::Type, "usr", "did you mean `user`?"),
        (Setting::Weight, "1 2", "`2` is one word too many"),
        (Setting::Weight, "70000", "outside 1 to 32767"),
        (Setting::Groups, "7", "`7` is no group; write +ID, -ID or ID:WEIGHT"),
        (Setting::Groups, "7:0", "outside 1 to 32767"),
        (Setting::Groups, ":5", "`:5` is no group"),
        (Setting::Groups, "+", "`attach` says nothing"),
        (Setting::Groups, "--1", "always there"),
    ] {
        let refusal = asked(&device(), setting, written).unwrap_err();
        assert!(refusal.sentence.contains(part), "{written}: {refusal}");
        assert_eq!(refusal.errno, libc::EINVAL);
    }
}

#[test]
fn what_is_written_comes_about() {
    let start = plan("devices: {a: {path: /dev/d0, type: user, groups: {7: 20}}}");
    let new = write(&start, 0, Setting::Groups, "-7 root:5 +9").unwrap();
    let groups: Vec<_> =
        new.devices[0].groups.iter().map(|group| (group.id.clone(), group.weight.get())).collect();
    assert_eq!(groups, [(GroupId::Number(0), 5), (GroupId::Number(9), 100)]);
    assert_eq!(write(&start, 0, Setting::Groups, "+7").unwrap_err().errno, libc::EEXIST);
    assert_eq!(write(&start, 0, Setting::Groups, "nobody-of-this-name:5").unwrap_err().errno, libc::EINVAL);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// `cat FILE > FILE` changes nothing that the file shows.
    #[test]
    fn what_a_file_shows_can_be_written_back(plan in plans()) {
        for (index, device) in plan.devices.iter().enumerate() {
            for setting in Setting::ALL {
                let text = setting.text(device);
                let signed = device.groups.iter().any(|group| group.id.to_string().starts_with(['+', '-']));
                if text.is_empty() || (setting == Setting::Groups && signed) {
                    continue;
                }
                let new = write(&plan, index, setting, &text);
                prop_assert_eq!(new.map(|new| setting.text(&new.devices[index])), Ok(text));
            }
        }
    }

    #[test]
    fn no_write_makes_it_panic(plan in plans(), written in "([+-]?[a-z0-9/:é]{0,6}[ \n]?){0,6}") {
        for device in &plan.devices {
            for setting in Setting::ALL {
                let _ = setting.messages(device, &written);
            }
        }
    }
}
