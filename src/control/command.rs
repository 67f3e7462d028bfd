//! The commands of the file `ctl`: what `ioband create`, `remove`, `message` and `save` write there.
//!
//! ```text
//! create NAME TABLE           one device; TABLE is a table line, see [`super::grammar`]
//! create                      several, all or none: one line each follows,
//! NAME: TABLE                 as `ioband table` prints them
//! remove NAME
//! message NAME 0 MESSAGE …    see [`super::grammar`]
//! save                        write the running configuration to the file that was mounted
//! upgrade PROGRAM             have another program serve the mount
//! ```

use super::grammar::{Message, TableLine};
use super::refusal::Refusal;
use std::path::PathBuf;

/// The longest path that the kernel takes, in bytes.
const LONGEST_PATH: usize = 4095;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Make ioband devices, all of them or none.
    Create(Vec<(String, TableLine)>),
    /// Take an ioband device away.
    Remove(String),
    /// Change something of an ioband device.
    Message {
        /// The device.
        device: String,
        /// What.
        message: Message,
    },
    /// Write the running configuration down.
    Save,
    /// Have another program serve the mount.
    Upgrade(PathBuf),
}

impl Command {
    /// Reads a command.
    ///
    /// # Errors
    /// EINVAL and what would be right.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        let (verb, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match verb {
            "create" => create(text, rest.trim()),
            "remove" => match *rest.split_whitespace().collect::<Vec<_>>() {
                [name] => Ok(Self::Remove(name.to_owned())),
                _ => Err(Refusal::invalid("`remove` takes the name of one ioband device: remove NAME")),
            },
            "message" => {
                let mut words = rest.split_whitespace();
                let (device, sector) = (words.next(), words.next());
                let (Some(device), Some(sector)) = (device, sector) else {
                    return Err(Refusal::invalid(
                        "`message` takes the name of an ioband device, 0 and the message: \
                         message NAME 0 weight 1000:30",
                    ));
                };
                if sector != "0" {
                    let sentence =
                        format!("the sector of a message is 0, not `{sector}`: message {device} 0 …");
                    return Err(Refusal::invalid(sentence));
                }
                let message = words.collect::<Vec<_>>().join(" ");
                Ok(Self::Message { device: device.to_owned(), message: message.parse()? })
            }
            "save" if rest.trim().is_empty() => Ok(Self::Save),
            "save" => Err(Refusal::invalid("`save` takes nothing: it writes to the file that was mounted")),
            "upgrade" if rest.trim().len() > LONGEST_PATH => {
                Err(Refusal::invalid("no program has so long a path"))
            }
            "upgrade" if rest.trim().starts_with('/') => Ok(Self::Upgrade(rest.trim().into())),
            "upgrade" => Err(Refusal::invalid(
                "`upgrade` takes the path of a program, from the root: upgrade /PROGRAM",
            )),
            "" => Err(Refusal::invalid("an empty command; write create, remove, message, save or upgrade")),
            _ => Err(Refusal::invalid(format!(
                "`{verb}` is no command; write create, remove, message, save or upgrade"
            ))),
        }
    }

    /// The command as it is told in events, without what is long.
    pub(super) fn title(&self) -> String {
        match self {
            Self::Create(devices) => {
                let names: Vec<_> = devices.iter().map(|(name, _)| name.as_str()).collect();
                format!("create {}", names.join(" "))
            }
            Self::Remove(name) => format!("remove {name}"),
            Self::Message { device, message } => format!("message {device} 0 {message}"),
            Self::Save => "save".to_owned(),
            Self::Upgrade(program) => format!("upgrade {}", program.display()),
        }
    }
}

fn create(text: &str, rest: &str) -> Result<Command, Refusal> {
    let first_line = text.lines().next().unwrap_or_default().trim();
    let devices = if first_line == "create" {
        let lines = text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty());
        lines.map(named).collect::<Result<Vec<_>, _>>()?
    } else {
        let (name, table) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if table.trim().lines().count() > 1 {
            return Err(Refusal::invalid("the table of an ioband device is one line"));
        }
        vec![(name.to_owned(), table.parse()?)]
    };
    if devices.is_empty() {
        return Err(Refusal::invalid(
            "`create` takes a name and a table: create NAME 0 LENGTH ioband DEVICE …",
        ));
    }
    Ok(Command::Create(devices))
}

/// `NAME: TABLE`.
fn named(line: &str) -> Result<(String, TableLine), Refusal> {
    let table: TableLine = line.parse()?;
    let Some(name) = &table.name else {
        let sentence =
            format!("each line of several begins with the name of its device, `NAME: `, unlike `{line}`");
        return Err(Refusal::invalid(sentence));
    };
    Ok((name.clone(), table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_with_any_blanks() {
        assert_eq!(Command::parse(" remove\tioband1 \n"), Ok(Command::Remove("ioband1".into())));
        let message = Command::parse("message ioband1 0 weight  1000:30\n").unwrap();
        assert_eq!(message.title(), "message ioband1 0 weight 1000:30");
        assert_eq!(Command::parse("save\n"), Ok(Command::Save));
    }

    #[test]
    fn several_devices_are_one_command() {
        let one = "create a 0 8 ioband /dev/sda1 1 0 0 none weight 0 :40\n";
        let Ok(Command::Create(mut alone)) = Command::parse(one) else { panic!("refused") };
        let two = "create\na: 0 8 ioband /dev/sda1 1 0 0 none weight 0 :40\n\nb: 0 8 ioband /dev/sdb 1 0 0 none weight 0 :10\n";
        let Ok(Command::Create(both)) = Command::parse(two) else { panic!("refused") };
        // A line of several says whose it is.
        alone[0].1.name = Some("a".into());
        assert_eq!((&alone[0], both[1].0.as_str(), both.len()), (&both[0], "b", 2));
    }

    #[test]
    fn what_is_no_command_is_told_what_would_be() {
        for (text, words) in [
            ("", "create, remove, message, save or upgrade"),
            ("destroy a", "`destroy` is no command"),
            ("remove", "remove NAME"),
            ("remove a b", "remove NAME"),
            ("message a", "message NAME 0"),
            ("message a 8 reset", "the sector of a message is 0, not `8`"),
            ("create", "create NAME 0 LENGTH"),
            ("create\n0 8 ioband /dev/sda 1 0 0 none weight 0 :1", "`NAME: `"),
            ("create a 0 8 ioband /a 1 0 0 none weight 0 :1\n0 8", "one line"),
            ("save here", "takes nothing"),
            ("upgrade", "from the root"),
            ("upgrade ioband", "from the root"),
            (&format!("upgrade /{}", "x".repeat(4096)), "so long a path"),
        ] {
            let refusal = Command::parse(text).unwrap_err();
            assert!(refusal.errno == libc::EINVAL && refusal.sentence.contains(words), "{text}: {refusal:?}");
        }
    }
}
