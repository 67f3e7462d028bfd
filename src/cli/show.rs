//! `ioband table` and `ioband status`: files of the control directory, filtered like dmsetup's.

use super::find::{Mountpoint, control_file};
use super::say;
use anyhow::{anyhow, bail};
use std::io::ErrorKind;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this ioband device
    name: Option<String>,
    /// Only devices of this target type, as with dmsetup; there is just `ioband`
    #[arg(long)]
    target: Option<String>,
    #[command(flatten)]
    mountpoint: Mountpoint,
}

/// The text of a file of the control directory.
pub(super) fn read(mountpoint: &Mountpoint, file: &str) -> anyhow::Result<String> {
    let path = control_file(&mountpoint.find()?, file)?;
    std::fs::read_to_string(&path).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => {
                "; run this as the owner of that folder, or let others in with `control: {owner: …, group: …, mode: …}` \
                 in the configuration"
            }
            _ => "",
        };
        anyhow!("cannot read {}: {error}{hint}", path.display())
    })
}

pub(super) fn run(args: &Args, file: &str) -> anyhow::Result<ExitCode> {
    let text = read(&args.mountpoint, file)?;
    let name = |line: &str| line.split_once(": ").map(|(name, _)| name.to_owned());
    let wanted = |line: &&str| args.name.is_none() || name(line) == args.name;
    if let Some(missing) = &args.name
        && !text.lines().any(|line| wanted(&line))
    {
        let all: Vec<_> = text.lines().filter_map(name).collect();
        match all.as_slice() {
            [] => bail!("no ioband device {missing}: this mount has none yet"),
            all => bail!("no ioband device {missing}; there are: {}", all.join(", ")),
        }
    }
    if args.target.as_deref().is_none_or(|target| target == "ioband") {
        say(&text.lines().filter(wanted).map(|line| format!("{line}\n")).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}
