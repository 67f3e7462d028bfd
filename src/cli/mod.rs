//! The commands. One file a command; dm-ioband's words where it had one.
#![forbid(unsafe_code)]

mod check;
mod create;
mod ctl;
mod find;
mod ls;
mod message;
mod mount;
mod probe;
mod remove;
mod save;
mod show;
mod targets;
mod umount;
mod upgrade;

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// Shares one disk between virtual machines and users.
#[derive(Debug, Parser)]
#[command(name = "ioband", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount the images of a configuration; returns when the mount is ready
    Mount(mount::Args),
    /// End a mount; returns when its daemon has ended
    #[command(visible_alias = "unmount")]
    Umount(umount::Args),
    /// Serve a mount by another program: requests wait for some hundredths of a second, none fails
    Upgrade(upgrade::Args),
    /// Check a configuration and say every error with its line
    Check(check::Args),
    /// Make an ioband device, or all those of a table
    Create(create::Args),
    /// Take an ioband device away
    Remove(remove::Args),
    /// Change an ioband device: its weights, groups, group type, policy, limits
    Message(message::Args),
    /// Print what was asked for: the table of every ioband device
    Table(show::Args),
    /// Print what was got: the counters of every ioband group
    Status(show::Args),
    /// Print the target type, as dmsetup does where dm-ioband is there
    Targets,
    /// List images, devices and groups, and how they are served
    Ls(ls::Args),
    /// Keep what is in force as a configuration
    Save(save::Args),
}

/// Prints to standard output. Whoever closed it has read enough; anything else that goes wrong is an error.
fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot print"),
        _ => Ok(()),
    }
}

impl Cli {
    /// Runs the command; errors go to standard error, and the status is 1 then.
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Mount(args) => mount::run(args),
            Command::Umount(args) => umount::run(&args),
            Command::Upgrade(args) => upgrade::run(args),
            Command::Check(args) => check::run(&args),
            Command::Create(args) => create::run(args),
            Command::Remove(args) => remove::run(&args),
            Command::Message(args) => message::run(args),
            Command::Table(args) => show::run(&args, "table"),
            Command::Status(args) => show::run(&args, "status"),
            Command::Targets => targets::run(),
            Command::Ls(args) => ls::run(&args),
            Command::Save(args) => save::run(&args),
        };
        match result {
            Ok(code) => code,
            Err(error) => {
                eprintln!("ioband: {}", sentence(&error));
                ExitCode::FAILURE
            }
        }
    }
}

/// The error with its causes, each said once: some sentences have their cause in them already.
fn sentence(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for part in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = part;
        } else if !said.ends_with(&part) {
            said = format!("{said}: {part}");
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::sentence;
    use anyhow::Context;

    #[test]
    fn a_cause_is_said_once() {
        let cause = || anyhow::Error::from(std::io::Error::from_raw_os_error(libc::ENOENT));
        let text = cause().to_string();
        let twice = Err::<(), _>(cause()).context(format!("cannot open it: {text}")).unwrap_err();
        assert_eq!(sentence(&twice), format!("cannot open it: {text}"));
        let once = Err::<(), _>(cause()).context("cannot open it").context("device d").unwrap_err();
        assert_eq!(sentence(&once), format!("device d: cannot open it: {text}"));
    }
}
