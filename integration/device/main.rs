//! The device module on real files and devices: every byte is checked, on every backend and kind of target.

mod answers;
mod data;
mod faults;
mod gone;
mod opening;
mod stage;
#[path = "../support/mod.rs"]
mod support;

use answers::{dropping, flood, no_commands, refused_command, several_lanes, simulated, waking, watching};
use data::{every_byte, neighbours, order};
use faults::{full_filesystem, malformed, read_only, truncated_file, vanished_device};
use gone::{end_at_nothing, injected_errors, missing, patience, short_transfers};
use ioband::device::{BackendKind, Simulate};
use libtest_mimic::{Arguments, Trial};
use opening::{block_device_facts, mounted_device, opening, seeking};
use stage::{MIB, Place};
use support::{Need, trial};

fn main() {
    let backends = [("io_uring", BackendKind::Uring), ("threads", BackendKind::Threads)];
    let mut trials: Vec<Trial> = Vec::new();
    let mut add = |name: String, needs: &[Need], backend, run: Box<dyn FnOnce() + Send>| {
        let mut needs = needs.to_vec();
        if backend == BackendKind::Uring {
            needs.push(Need::Uring);
        }
        trials.push(trial(&name, &needs, run));
    };
    let mount: &[Need] = &[Need::Root, Need::Tool("mount")];
    let block = Place::Loop(512).needs();
    for (name, backend) in backends {
        for place in Place::ALL {
            let (on, needs) = (place.name(), place.needs());
            let title = |what: &str| format!("{what}, {on}, {name}");
            add(
                title("every byte"),
                needs,
                backend,
                Box::new(move || every_byte(place, backend, None, 3000)),
            );
            add(title("neighbours"), needs, backend, Box::new(move || neighbours(place, backend)));
            add(title("order"), needs, backend, Box::new(move || order(place, backend)));
            add(title("read-only"), needs, backend, Box::new(move || read_only(place, backend)));
            add(title("several lanes"), needs, backend, Box::new(move || several_lanes(place, backend)));
            add(title("short transfers"), needs, backend, Box::new(move || short_transfers(place, backend)));
            add(title("dropping"), needs, backend, Box::new(move || dropping(place, backend)));
        }
        let title = |what: &str| format!("{what}, {name}");
        let fast = Simulate { iops: Some(20_000), bandwidth: Some(1000 * MIB), parallel: 4 };
        let run = move || every_byte(Place::Ext4, backend, Some(fast), 500);
        add(title("every byte, simulated"), &[], backend, Box::new(run));
        add(title("truncated file"), &[], backend, Box::new(move || truncated_file(backend)));
        add(title("injected errors"), &[], backend, Box::new(move || injected_errors(backend)));
        add(title("missing, and back"), block, backend, Box::new(move || missing(backend)));
        add(
            title("a device that ends at nothing"),
            block,
            backend,
            Box::new(move || end_at_nothing(backend)),
        );
        add(title("vanished device"), block, backend, Box::new(move || vanished_device(backend)));
        add(title("full filesystem"), mount, backend, Box::new(move || full_filesystem(backend)));
        add(title("malformed parts"), &[], backend, Box::new(move || malformed(backend)));
        add(title("flood"), &[], backend, Box::new(move || flood(backend)));
        add(title("waking"), &[], backend, Box::new(move || waking(backend)));
        add(title("watching"), &[], backend, Box::new(move || watching(backend)));
        add(title("no commands"), &[], backend, Box::new(move || no_commands(backend)));
        add(title("simulated, nothing too early"), &[], backend, Box::new(move || simulated(backend)));
    }
    trials.push(trial("a refused command", &[Need::Uring], refused_command));
    let mkfs: Vec<Need> = [block, mount, &[Need::Tool("mkfs.ext4")]].concat();
    trials.push(trial("mounted device is refused by name", &mkfs, mounted_device));
    trials.push(trial("opening, and what is refused", &[], opening));
    trials.push(trial("patience", &[], patience));
    trials.push(trial("data and holes", &[], seeking));
    trials.push(trial("a block device's facts", block, block_device_facts));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
