//! The programs that are measured and that measure, built as this one was and into the same folder; and how others are run.
#![allow(dead_code, reason = "each of the programs that include this uses a part of it")]

use anyhow::{Context, ensure};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where they are.
pub(crate) struct Programs {
    pub(crate) ioband: PathBuf,
    pub(crate) load: PathBuf,
}

impl Programs {
    pub(crate) fn build() -> anyhow::Result<Self> {
        // TARGET/release/examples/shares
        let me = std::env::current_exe().context("cannot see where this program is")?;
        let above =
            |levels: usize| me.ancestors().nth(levels).context("this is not where cargo puts an example");
        let (examples, profile, target) = (above(1)?, above(2)?, above(3)?);
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--bin", "ioband", "--example", "load", "--manifest-path"]);
        cargo.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).arg("--target-dir").arg(target);
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.status().context("cannot run cargo")?;
        ensure!(built.success(), "cargo cannot build ioband and the load generator");
        let programs = Self { ioband: profile.join("ioband"), load: examples.join("load") };
        for program in [&programs.ioband, &programs.load] {
            ensure!(program.exists(), "cargo did not put {} where it was expected", program.display());
        }
        Ok(programs)
    }
}

/// Runs a command to its end; its output, or what it complained about.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    // In a process group of its own: Ctrl-C is for this program, which then takes down what such commands have made.
    let output = command.process_group(0).output().with_context(|| format!("cannot run {command:?}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
