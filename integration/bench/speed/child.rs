//! A program that was started here and is ended here, whatever happens.

use crate::patience::wait_until;
use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

/// It runs in a process group of its own: Ctrl-C is for this program, which then takes down what it has made.
pub(crate) struct Program {
    child: Child,
    complaints: File,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        // A file and not a pipe, which would have to be read while it runs.
        let complaints = tempfile::tempfile().context("cannot make a temporary file")?;
        let theirs = complaints.try_clone().context("cannot make a temporary file")?;
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(theirs);
        let child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        Ok(Self { child, complaints })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for a program")
    }

    /// What it wrote to its standard error.
    pub(crate) fn complaint(&mut self) -> String {
        let mut text = Vec::new();
        let read = self.complaints.rewind().and_then(|()| self.complaints.read_to_end(&mut text));
        match read {
            Ok(_) => String::from_utf8_lossy(&text).trim().to_owned(),
            Err(error) => format!("(what it complained about cannot be read: {error})"),
        }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Not after it was waited for: its number could be somebody else's by then.
        if self.has_ended() {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // So that it can end its own children and mounts.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if !wait_until(|| self.has_ended()) {
            eprintln!("a program does not end, and is killed: {}", self.child.id());
            let _ = self.child.kill();
            wait_until(|| self.has_ended());
        }
    }
}
