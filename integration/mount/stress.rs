//! A short run of the stress harness (`integration/stress`), which is an example, so that it can be run for hours.

use crate::daemon::Transport;
use crate::support::{Need, trial};
use libtest_mimic::Trial;
use std::path::Path;
use std::process::Command;

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |by: Transport| {
        let needs = [by.needs(), &[Need::LoopDevice, Need::Tool("losetup")]].concat();
        trial(&format!("stress: ten seconds of everything by {}", by.name()), &needs, move || run(by))
    };
    Transport::BOTH.map(trial).into()
}

fn run(by: Transport) {
    let ioband = Path::new(env!("CARGO_BIN_EXE_ioband"));
    let program = ioband.with_file_name("examples").join("stress");
    assert!(program.exists(), "{} is missing: run `cargo build --example stress` once", program.display());
    let output = Command::new(program)
        .args(["--seconds", "10", "--transport", by.name(), "--folder", env!("CARGO_TARGET_TMPDIR")])
        .arg("--program")
        .arg(ioband)
        .output()
        .expect("the harness runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
}
