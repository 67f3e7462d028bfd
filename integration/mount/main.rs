//! The real thing: a real mount, real processes of different users, groups and process groups, a real device.
//!
//! Everything here runs the `ioband` program as its users do. Trials that need what the machine does not have are
//! ignored with the reason in their name; where the environment variable CI is set they fail.

mod access;
mod alone;
mod attack;
mod bounds;
mod charge;
mod cli;
mod commands;
mod control;
mod daemon;
mod data;
mod document;
mod examples;
mod faults;
mod forbidden;
mod lifecycle;
mod limits;
mod load;
mod locks;
mod others;
mod predict;
mod sandbox;
mod shares;
#[path = "../sim/mod.rs"]
mod sim;
mod startup;
mod stress;
#[path = "../support/mod.rs"]
mod support;
mod survival;
mod takeover;
mod transport;
mod windows;
mod writers;

use daemon::Transport;
use libtest_mimic::Arguments;
use support::FuseUring;

fn main() {
    if locks::helper() || sandbox::helper() || attack::helper() {
        return;
    }
    let args = Arguments::from_args();
    let switch = (!args.list).then(FuseUring::switch_on);
    let trials = [
        shares::trials(),
        limits::trials(),
        Transport::BOTH.into_iter().flat_map(data::trials).collect(),
        transport::trials(),
        access::trials(),
        charge::trials(),
        locks::trials(),
        lifecycle::trials(),
        survival::trials(),
        faults::trials(),
        startup::trials(),
        forbidden::trials(),
        cli::trials(),
        sandbox::trials(),
        attack::trials(),
        control::trials(),
        commands::trials(),
        document::trials(),
        takeover::trials(),
        examples::trials(),
        bounds::trials(),
    ];
    let all = libtest_mimic::run(&args, trials.into_iter().flatten().collect());
    // One after the other and with no other trial beside it: how well a machine keeps up is part of what they compare.
    let alone = Arguments { test_threads: Some(1), ..args };
    let predicted = libtest_mimic::run(
        &alone,
        [predict::trials(), transport::floods(), attack::floods(), bounds::floods(), stress::trials()]
            .into_iter()
            .flatten()
            .collect(),
    );
    // Leaving by `exit` drops nothing.
    drop(switch);
    all.exit_if_failed();
    predicted.exit();
}
