//! The conversation with `ctl` in the control directory: one open file, one command, one answer.
//!
//! A command ends in a newline. One that is too long for a single write comes in pieces, of which only the last ends in
//! one. A refusal fails the write; what is read from the same open file then says in a sentence why.

use super::find::{Mountpoint, cannot, control_file};
use anyhow::bail;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Bytes of a write that arrive as one on every kernel, whatever its largest request is.
const LARGEST_PIECE: usize = 64 << 10;

/// A sentence is a line; whatever sends more is not read to its end.
const LARGEST_SENTENCE: u64 = 64 << 10;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Sentence(String),
    #[error("the mount refused this: {0}")]
    Errno(io::Error),
    #[error(
        "the daemon of the mount at {0} ended before it answered; begin again with `ioband umount {0}` and \
         `ioband mount CONFIG {0}`"
    )]
    Ended(PathBuf),
}

/// Has the daemon carry out a command, which ends in a newline. A success prints nothing, as with dmsetup.
pub(super) fn carry_out(mountpoint: &Mountpoint, command: &str) -> anyhow::Result<ExitCode> {
    carry_out_at(&mountpoint.find()?, command)
}

/// The same, for a mount that has been found already.
pub(super) fn carry_out_at(mountpoint: &Path, command: &str) -> anyhow::Result<ExitCode> {
    let path = control_file(mountpoint, "ctl")?;
    let open = OpenOptions::new().read(true).write(true).open(&path);
    let mut ctl = open.map_err(|error| cannot("open", &path, &error))?;
    talk(&mut ctl, command, mountpoint)?;
    Ok(ExitCode::SUCCESS)
}

/// What a command needs as one word. A name with a blank would be taken for a name and something else.
pub(super) fn one_word<'a>(what: &str, text: &'a str) -> anyhow::Result<&'a str> {
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        bail!("`{}` is not {what}: write one word without blanks", text.escape_default());
    }
    Ok(text)
}

fn talk(ctl: &mut (impl Read + Write), command: &str, mountpoint: &Path) -> Result<(), Refused> {
    for piece in pieces(command.as_bytes()) {
        // One write(2) each: what arrives is what has been written here.
        let error = match ctl.write(piece) {
            Ok(written) if written == piece.len() => continue,
            Ok(written) => io::Error::other(format!("it took {written} of {} bytes", piece.len())),
            Err(error) => error,
        };
        return Err(match sentence(ctl) {
            Ok(sentence) if !sentence.is_empty() => Refused::Sentence(sentence),
            answer => {
                let dead = |error: &io::Error| {
                    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
                };
                let ended = dead(&error) || answer.is_err();
                if ended { Refused::Ended(mountpoint.to_owned()) } else { Refused::Errno(error) }
            }
        });
    }
    Ok(())
}

/// Why the write was refused, in one line.
fn sentence(ctl: &mut impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    ctl.take(LARGEST_SENTENCE).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; "))
}

/// The command cut so that nothing but its end looks like one. A command has no blank lines.
fn pieces(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let mut len = rest.len().min(LARGEST_PIECE);
        while len > 1 && len < rest.len() && rest[len - 1] == b'\n' {
            len -= 1;
        }
        let piece;
        (piece, rest) = rest.split_at(len);
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The other end: refuses the write with this number and answers like that.
    struct Daemon {
        written: Vec<Vec<u8>>,
        refuse: Option<(usize, i32)>,
        answer: Result<&'static str, i32>,
    }

    impl Daemon {
        fn refusing(errno: i32, answer: Result<&'static str, i32>) -> Self {
            Self { written: Vec::new(), refuse: Some((0, errno)), answer }
        }

        fn hear(&mut self, command: &str) -> Result<(), String> {
            talk(self, command, Path::new("/vmdisk")).map_err(|refused| refused.to_string())
        }
    }

    impl Write for Daemon {
        fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
            match self.refuse {
                Some((number, errno)) if number == self.written.len() => {
                    Err(io::Error::from_raw_os_error(errno))
                }
                _ => {
                    self.written.push(piece.to_owned());
                    Ok(piece.len())
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for Daemon {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let answer = self.answer.as_mut().map_err(|errno| io::Error::from_raw_os_error(*errno))?;
            // In crumbs: whoever reads has to go on to the end.
            let len = answer.len().min(buffer.len()).min(5);
            buffer[..len].copy_from_slice(&answer.as_bytes()[..len]);
            *answer = &answer[len..];
            Ok(len)
        }
    }

    #[test]
    fn a_command_is_one_write() {
        let mut daemon = Daemon { written: Vec::new(), refuse: None, answer: Ok("nobody asks") };
        assert_eq!(daemon.hear("create\na: 0 8 ioband f\nb: 0 8 ioband g\n"), Ok(()));
        assert_eq!(daemon.written, [b"create\na: 0 8 ioband f\nb: 0 8 ioband g\n"]);
        assert_eq!(daemon.answer, Ok("nobody asks"));
    }

    #[test]
    fn a_refusal_is_what_the_mount_says() {
        let mut daemon = Daemon::refusing(libc::EBUSY, Ok("ioband1 is open; close it first\n"));
        assert_eq!(daemon.hear("remove ioband1\n"), Err("ioband1 is open; close it first".into()));
        // An error of the device is no end of the daemon.
        let mut daemon = Daemon::refusing(libc::EIO, Ok("the disk is broken\n\n in two\n"));
        assert_eq!(daemon.hear("save\n"), Err("the disk is broken; in two".into()), "one line");
    }

    #[test]
    fn a_refusal_without_a_sentence_is_told_in_words() {
        let said = Daemon::refusing(libc::EBUSY, Ok("")).hear("remove a\n").unwrap_err();
        assert!(said.starts_with("the mount refused this: Device or resource busy"), "{said}");
    }

    #[test]
    fn the_end_of_the_daemon_is_told_in_words() {
        for (errno, answer) in [
            (libc::ENOTCONN, Err(libc::ENOTCONN)),
            (libc::ECONNABORTED, Ok("")),
            (libc::EIO, Err(libc::EIO)),
            (libc::EINVAL, Err(libc::ENOTCONN)),
        ] {
            let said = Daemon::refusing(errno, answer).hear("remove a\n").unwrap_err();
            assert!(
                said.starts_with("the daemon of the mount at /vmdisk ended before it answered"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_long_command_that_is_refused_in_the_middle_goes_no_further() {
        let mut daemon = Daemon::refusing(libc::EFBIG, Ok("too long"));
        daemon.refuse = Some((1, libc::EFBIG));
        let command = format!("create\n{}\n", "x".repeat(3 * LARGEST_PIECE));
        assert_eq!(daemon.hear(&command), Err("too long".into()));
        assert_eq!(daemon.written.len(), 1);
    }

    #[test]
    fn what_is_not_one_word_is_refused_here() {
        assert_eq!(one_word("a name", "ioband1").unwrap(), "ioband1");
        for text in ["", "a b", "a\nremove b", "\u{7}"] {
            assert!(one_word("a name", text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn only_the_end_of_a_command_looks_like_one(
            lines in proptest::collection::vec(1..40_000_usize, 1..12)
        ) {
            let command: String = lines.iter().map(|len| "x".repeat(*len) + "\n").collect();
            let pieces: Vec<_> = pieces(command.as_bytes()).collect();
            prop_assert_eq!(pieces.concat(), command.as_bytes());
            let (last, others) = pieces.split_last().unwrap();
            prop_assert!(last.ends_with(b"\n"));
            prop_assert!(others.iter().all(|piece| !piece.ends_with(b"\n")));
            prop_assert!(pieces.iter().all(|piece| piece.len() <= LARGEST_PIECE));
            // No more of them than it takes.
            prop_assert!(pieces.len() <= command.len().div_ceil(LARGEST_PIECE - 1));
        }
    }
}
