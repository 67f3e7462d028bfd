//! What `table` prints goes back into `create`.

use super::stage::{Machine, defaults, plan, plans, reread};
use ioband::config::Plan;
use ioband::control::edit;
use ioband::control::grammar::TableLine;
use proptest::prelude::*;

/// The table of every device, from a plan that these tables made.
fn again(tables: &[String]) -> Plan {
    tables.iter().fold(plan(""), |plan, text| {
        let line: TableLine = text.parse().unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
        let name = line.name.clone().unwrap();
        edit::create(&plan, &name, &line, &defaults(), &Machine)
            .unwrap_or_else(|refusal| panic!("{text}: {refusal}"))
    })
}

fn tables(plan: &Plan) -> Vec<String> {
    plan.devices.iter().map(|device| edit::table(device).to_string()).collect()
}

#[test]
fn nothing_is_lost_but_what_a_table_cannot_say() {
    let start = plan(
        "devices:
  a: {path: /dev/d0, type: user, length: 9s, groups: {7: {weight: 5, max_iops: 7, iops_burst: 9, max_bandwidth: 5000}}}
  b: {path: f1, policy: range-bw, weight: 7, min_bandwidth: 4KiB, max_bandwidth: 9KiB, bandwidth_burst: 0}
images: {a: {device: a}, b: {device: b}}",
    );
    let made = again(&tables(&start));
    assert_eq!(made.devices, start.devices);
    // As people get to see it: bandwidths of odd bytes are rounded up, so that none becomes none.
    let odd = plan("devices: {a: {path: /dev/d0, policy: range-bw, min_bandwidth: 1, max_bandwidth: 1025}}");
    assert_eq!(tables(&odd), ["a: 0 2048 ioband 8:0 1 0 0 none range-bw 2048 :1:2"]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_table_prints_makes_the_devices_again(plan in plans()) {
        let printed = tables(&plan);
        let made = again(&printed);
        prop_assert_eq!(tables(&made), printed);
        prop_assert_eq!(reread(&made), made);
    }
}
