//! `ioband create`: makes ioband devices from table lines, as dmsetup does.
//!
//! With a name there is one line. Without, each line begins with `NAME: `, as `ioband table` prints them, and either all
//! of the devices are made or none.

use super::ctl::{carry_out_at, one_word};
use super::find::Mountpoint;
use anyhow::{Context, bail};
use std::ffi::OsStr;
use std::fmt::Write;
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Bytes of a table: as much as a configuration may have, and far more devices than a machine.
const LARGEST: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the ioband device; without it, every line of the table begins with `NAME: `
    name: Option<String>,
    /// The table: `0 LENGTH ioband DEVICE DEVICE_ID IO_THROTTLE IO_LIMIT TYPE POLICY TOKEN_BASE :WEIGHT [ID:WEIGHT]…`;
    /// without it, it is read from standard input
    #[arg(long)]
    table: Option<String>,
    #[command(flatten)]
    mountpoint: Mountpoint,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Before anybody types a table for nothing.
    let mountpoint = args.mountpoint.find()?;
    let name = args.name.as_deref().map(|name| one_word("a name of an ioband device", name)).transpose()?;
    let table = args.table.map_or_else(|| read_table(name), Ok)?;
    let folder = || std::env::current_dir().context("cannot tell the folder that relative paths count from");
    carry_out_at(&mountpoint, &command(name, &table, &folder)?)
}

fn read_table(name: Option<&str>) -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let (what, prefix) = if name.is_some() { ("one table line", "") } else { ("table lines", "NAME: ") };
        eprintln!(
            "awaiting {what} `{prefix}0 LENGTH ioband DEVICE DEVICE_ID IO_THROTTLE IO_LIMIT TYPE POLICY TOKEN_BASE \
             :WEIGHT [ID:WEIGHT]…`, then Ctrl-D"
        );
    }
    let mut table = String::new();
    stdin
        .take(LARGEST + 1)
        .read_to_string(&mut table)
        .context("cannot read the table from standard input")?;
    if table.len() as u64 > LARGEST {
        bail!("the table is longer than {} MiB, which is the most there can be", LARGEST >> 20);
    }
    Ok(table)
}

/// What `ctl` is told.
fn command(
    name: Option<&str>,
    table: &str,
    folder: &dyn Fn() -> anyhow::Result<PathBuf>,
) -> anyhow::Result<String> {
    // As with dmsetup: blank lines and comments mean nothing.
    let lines = (1..).zip(table.lines().map(str::trim));
    let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    match (name, lines.as_slice()) {
        (_, []) => {
            bail!("the table is empty; write `0 LENGTH ioband DEVICE …`, as in `ioband create --help`")
        }
        (Some(name), [(_, line)]) => {
            let (_, line) = split_name(line);
            Ok(format!("create {name} {}\n", absolute(line, folder)?))
        }
        (Some(name), lines) => bail!(
            "a device has one table line, but there are {} for {name}; leave the name out to create a device of each \
             line, which begins with `NAME: ` then",
            lines.len()
        ),
        (None, lines) => {
            let mut command = String::from("create\n");
            for (number, line) in lines {
                let (Some(name), line) = split_name(line) else {
                    bail!(
                        "line {number} of the table does not begin with `NAME: `; write it as `ioband table` does, or \
                         give the name of a single device: `ioband create NAME`"
                    );
                };
                // Writing to a String cannot fail.
                let _ = writeln!(command, "{name}: {}", absolute(line, folder)?);
            }
            Ok(command)
        }
    }
}

/// The name that a table line begins with, if it does, and what is behind it.
fn split_name(line: &str) -> (Option<&str>, &str) {
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match first.strip_suffix(':') {
        Some(name) if !name.is_empty() => (Some(name), rest),
        _ => (None, line),
    }
}

/// The line with an absolute path of the device: the daemon is in another folder than its caller. What is no table line
/// stays as it is, and the daemon says what is wrong with it.
fn absolute(line: &str, folder: &dyn Fn() -> anyhow::Result<PathBuf>) -> anyhow::Result<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let mut words = words.join(" ");
    let Some(device) = line.split_whitespace().nth(3).filter(|device| is_relative(device)) else {
        return Ok(words);
    };
    let start: usize = line.split_whitespace().take(3).map(|word| word.len() + 1).sum();
    let folder = escaped(&folder()?);
    let path = std::path::absolute(Path::new(&folder).join(device))?;
    words.replace_range(start..start + device.len(), &path.to_string_lossy());
    Ok(words)
}

/// Neither a path from the root, nor the number of a block device.
fn is_relative(device: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let numbered = device.split_once(':').is_some_and(|(major, minor)| is_number(major) && is_number(minor));
    !device.starts_with('/') && !numbered
}

/// The folder as a word of a table: whatever would not be a plain part of one as `\ooo`.
fn escaped(folder: &Path) -> String {
    let mut word = String::new();
    for byte in OsStr::as_bytes(folder.as_os_str()) {
        if byte.is_ascii_graphic() && *byte != b'\\' {
            word.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(word, "\\{byte:03o}");
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: Option<&str>, table: &str) -> Result<String, String> {
        let folder = || Ok(PathBuf::from("/home/me/my ü"));
        command(name, table, &folder).map_err(|error| error.to_string())
    }

    #[test]
    fn one_line_for_a_name() {
        let line = "0 8192 ioband /dev/sda1 1 0 0 none weight 0 :40";
        let wanted = format!("create ioband1 {line}\n");
        for table in [
            line.to_owned(),
            format!("\n  {line} \n\n"),
            format!("old: {line}\n"),
            format!("# of the document\n{}", line.replace(' ', " \t ")),
        ] {
            assert_eq!(told(Some("ioband1"), &table), Ok(wanted.clone()), "{table:?}");
        }
    }

    #[test]
    fn all_lines_of_a_table_are_one_command() {
        let table =
            "a: 0 8 ioband /f 1 0 0 none weight 2048 :100\n\n b: 0 8 ioband 8:1 1 0 0 none weight 2048 :7\n";
        let wanted = "create\na: 0 8 ioband /f 1 0 0 none weight 2048 :100\n\
                      b: 0 8 ioband 8:1 1 0 0 none weight 2048 :7\n";
        assert_eq!(told(None, table), Ok(wanted.into()));
    }

    #[test]
    fn paths_count_from_the_callers_folder() {
        for (device, wanted) in [
            ("disk", "/home/me/my\\040\\303\\274/disk"),
            ("./a\\040b", "/home/me/my\\040\\303\\274/a\\040b"),
            ("../disk", "/home/me/my\\040\\303\\274/../disk"),
            ("/disk", "/disk"),
            ("8:1", "8:1"),
            ("8:x", "/home/me/my\\040\\303\\274/8:x"),
        ] {
            let line = |device: &str| format!("0 8 ioband {device} 1 0 0 image weight 0 :1 8:1:2");
            assert_eq!(told(Some("d"), &line(device)), Ok(format!("create d {}\n", line(wanted))));
        }
        let gone = || anyhow::bail!("gone");
        assert!(command(Some("d"), "0 8 ioband /disk 1", &gone).is_ok(), "nobody asks for the folder");
        assert!(command(Some("d"), "0 8 ioband disk 1", &gone).is_err());
    }

    #[test]
    fn what_is_no_table_line_is_left_to_the_daemon() {
        for line in ["0", "0 8 linear", "frob", "0 8 ioband"] {
            assert_eq!(told(Some("d"), line), Ok(format!("create d {line}\n")));
        }
    }

    #[test]
    fn a_table_that_does_not_fit_says_what_would() {
        let said = |name, table| told(name, table).unwrap_err();
        assert!(said(Some("d"), " \n\n").starts_with("the table is empty; write `0 LENGTH ioband"));
        assert!(said(None, "").starts_with("the table is empty"));
        assert!(said(Some("d"), "0 8 ioband /a\n0 8 ioband /b").contains("there are 2 for d"));
        let said = said(None, "a: 0 8 ioband /a\n\n0 8 ioband /b");
        assert!(said.starts_with("line 3 of the table does not begin with `NAME: `"), "{said}");
    }
}
