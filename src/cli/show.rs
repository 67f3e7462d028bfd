//! `ioband table` and `ioband status`: files of the control directory, filtered like dmsetup's.

use super::find::{Mountpoint, cannot, control_file};
use super::say;
use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this ioband device
    name: Option<String>,
    /// Only devices of this target type, as with dmsetup; there is just `ioband`
    #[arg(long)]
    target: Option<String>,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    mountpoint: Mountpoint,
}

/// The text of a file of the control directory.
pub(super) fn read(mountpoint: &Mountpoint, file: &str) -> anyhow::Result<String> {
    let path = control_file(&mountpoint.find()?, file)?;
    std::fs::read_to_string(&path).map_err(|error| cannot("read", &path, &error))
}

pub(super) fn run(args: &Args, file: &str) -> anyhow::Result<ExitCode> {
    let none = args.target.as_deref().is_some_and(|target| target != "ioband");
    if args.json {
        let text = read(&args.mountpoint, &format!("{file}.json"))?;
        let mut wanted =
            wanted(args, devices(&text).with_context(|| format!("cannot make out {file}.json"))?)?;
        if none {
            wanted.clear();
        }
        say(&(serde_json::to_string_pretty(&wanted)? + "\n"))?;
    } else {
        let text = read(&args.mountpoint, file)?;
        let name = |line: &str| line.split_once(": ").map(|(name, _)| name.to_owned());
        let wanted = wanted(args, text.lines().filter_map(|line| Some((name(line)?, line))).collect())?;
        if !none {
            say(&wanted.iter().map(|line| format!("{line}\n")).collect::<String>())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The devices that were asked for, of all with their names.
fn wanted<T>(args: &Args, all: Vec<(String, T)>) -> anyhow::Result<Vec<T>> {
    if let Some(missing) = &args.name
        && !all.iter().any(|(name, _)| name == missing)
    {
        let all: Vec<_> = all.into_iter().map(|(name, _)| name).collect();
        match all.as_slice() {
            [] => bail!("no ioband device {missing}: this mount has none yet"),
            all => bail!("no ioband device {missing}; there are: {}", all.join(", ")),
        }
    }
    Ok(all
        .into_iter()
        .filter(|(name, _)| args.name.as_ref().is_none_or(|n| n == name))
        .map(|(_, d)| d)
        .collect())
}

/// The devices of a list with their names; each as it was written.
fn devices(text: &str) -> serde_json::Result<Vec<(String, &RawValue)>> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let all: Vec<&RawValue> = serde_json::from_str(text)?;
    all.into_iter().map(|device| Ok((serde_json::from_str::<Named>(device.get())?.name, device))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_a_list_is_printed_as_it_was_written() {
        let text = "[\n  {\n    \"name\": \"z\",\n    \"b\": 1,\n    \"a\": 1.50\n  },\n  {\n    \"name\": \"y\"\n  }\n]";
        let devices = devices(text).unwrap();
        let names: Vec<_> = devices.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["z", "y"]);
        let all: Vec<_> = devices.iter().map(|(_, device)| device).collect();
        assert_eq!(serde_json::to_string_pretty(&all).unwrap(), text);
    }
}
