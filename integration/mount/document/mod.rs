//! dm-ioband's document, gone through as somebody would who has it before him: its command reference, its examples, and
//! what it says of errors, on loop devices.

mod disks;
mod groups;
mod machine;
mod reference;
mod refusals;
mod virtual_machines;

use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [reference::trials(), refusals::trials(), disks::trials(), virtual_machines::trials(), groups::trials()]
        .into_iter()
        .flatten()
        .collect()
}
