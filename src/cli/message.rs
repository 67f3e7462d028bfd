//! `ioband message`: changes an ioband device with dm-ioband's messages.

use super::ctl::{carry_out, one_word};
use super::find::Mountpoint;
use anyhow::bail;
use clap::Parser;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = MESSAGES)]
pub(super) struct Args {
    /// The ioband device
    name: String,
    /// 0, as with dmsetup
    sector: u64,
    /// The message
    // `-1:40` is the weight of the default group and no option.
    #[arg(required = true, allow_hyphen_values = true)]
    message: Vec<String>,
    #[command(flatten)]
    mountpoint: Mountpoint,
}

/// Options behind the message, which has taken them for words of it.
#[derive(Debug, Parser)]
#[command(name = "ioband message", no_binary_name = true)]
struct Behind {
    #[command(flatten)]
    mountpoint: Mountpoint,
}

const MESSAGES: &str = "\
Messages:
  type none|user|gid|pid|pgrp|cgroup|image  how callers are told apart
  attach ID                                 make a group
  detach ID                                 take a group away
  weight [ID:]WEIGHT                        1 to 32767; default group without ID
  policy weight|weight-iosize|range-bw      what a request costs
  range-bw [ID:]MIN:MAX                     KB/s under that policy, 0 for none
  max_bandwidth [ID:]SIZE                   bytes a second, such as 50MiB/s, 0 for none
  bandwidth_burst [ID:]SIZE                 bytes at once after a pause
  max_iops [ID:]REQUESTS                    requests a second, 0 for none
  iops_burst [ID:]REQUESTS                  requests at once after a pause
  token TOKENS                              tokens of an epoch, 0 for 2048
  io_throttle REQUESTS                      control starts above, 0 = automatic
  io_limit REQUESTS                         most in flight, 0 = automatic
  simulate IOPS:BANDWIDTH:PARALLEL|none     make the disk this slow
  reset                                     counters begin at 0 again
  reopen                                    go on with the disk that is at the device's path now

Example: ioband message ioband1 0 weight 1000:30";

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { name, sector, message: mut words, mut mountpoint } = args;
    if let Some(at) = words.iter().position(|word| word.starts_with("--")) {
        // Wrong usage ends here with status 2, as it does for what stands before the message.
        mountpoint = Behind::parse_from(words.split_off(at)).mountpoint;
    }
    let name = one_word("a name of an ioband device", &name)?;
    // Words may come as one argument, as with dmsetup; but whatever is behind a line's end would be another command.
    let message = words.join(" ");
    if message.trim().is_empty() || message.chars().any(char::is_control) {
        bail!("`{}` is not a message: write one line, such as `weight 40`", message.escape_default());
    }
    carry_out(&mountpoint, &format!("message {name} {sector} {message}\n"))
}
