//! What keeper and worker say to each other, through a pair of sockets; descriptors travel with the words.

use crate::fuse::{MOST_AT_ONCE, MountedAt, receive};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, send,
    sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// The longest message, in bytes: a path and some words, both in JSON, where a byte takes up to six.
const LONGEST: usize = 32 << 10;
/// The longest text for people, in bytes. Whoever says more says that it is more.
const LONGEST_TEXT: usize = 2 << 10;

/// What the keeper tells a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// The first word, with the ledger and, if there is a mount already, its descriptors.
    Begin(Begin),
    /// What was asked to be mounted is; its descriptor comes along.
    Mounted {
        /// Where.
        place: MountedAt,
    },
    /// It could not be mounted.
    NotMounted {
        /// Why.
        #[serde(serialize_with = "shortened")]
        why: String,
    },
    /// The kernel's first request has been answered, if it took the answer.
    Answered {
        /// Why it did not.
        errno: Option<i32>,
    },
    /// The predecessor has left: serve.
    TakeOver,
    /// Let a successor serve from now on, and end.
    Leave,
    /// Finish what was accepted, and end: nobody comes any more.
    Stop,
    /// How a thread comes to an end, if it is at its end and did not get there in peace.
    Ending {
        /// Its number.
        #[serde(default)]
        thread: u32,
        /// In words.
        how: Option<String>,
    },
    /// What came of the upgrade that was asked for; the worker that is asked goes on.
    NotUpgraded {
        /// The request that asked for it.
        unique: u64,
        /// Why not.
        #[serde(serialize_with = "shortened")]
        why: String,
    },
}

/// How a worker begins.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Begin {
    /// The process that keeps the mount.
    pub keeper: u32,
    /// How many workers there were before.
    pub before: u32,
    /// How many of them have died one after the other, without much of a life in between.
    #[serde(default)]
    pub deaths: u32,
    /// There is a mount, and the ledger says how it is.
    pub inherits: bool,
    /// The memory that requests lie in comes along, behind the ledger.
    #[serde(default)]
    pub memory: bool,
    /// The predecessor still serves: say whether you could, and wait for the word.
    pub waits: bool,
    /// How the predecessor ended: the end of a sentence for people.
    #[serde(serialize_with = "shortened")]
    pub ended: String,
    /// When it did: microseconds since 1970.
    pub since: u64,
    /// Requests that may have opened files with a predecessor, and were refused since by the keeper.
    #[serde(default)]
    pub refused: Vec<u64>,
    /// The upgrade that was carried out, or tried, last.
    pub upgrade: Option<Upgrade>,
}

/// An upgrade, by the request that asked for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upgrade {
    /// The request's number in FUSE.
    pub unique: u64,
    /// Why it did not come about, if it did not.
    #[serde(serialize_with = "shortened_if_any")]
    pub failed: Option<String>,
}

/// What a worker tells the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToKeeper {
    /// Mount there.
    Mount {
        /// The mount point.
        mountpoint: PathBuf,
    },
    /// Hold the descriptor that comes along, too.
    Keep,
    /// Hold the memory that comes along, which requests lie in.
    KeepMemory,
    /// The thread whose descriptor comes along has ended when this worker is dead.
    Watch,
    /// Answer the kernel's first request.
    First {
        /// With this.
        answer: Vec<u8>,
    },
    /// Look how a thread comes to an end, which the kernel tells only to who could debug it.
    Look {
        /// Its number.
        thread: u32,
    },
    /// The mount answers.
    Ready {
        /// What is mounted, for people.
        #[serde(serialize_with = "shortened")]
        summary: String,
        /// A successor could go on should this worker die.
        survives: bool,
    },
    /// Could take over.
    Fit,
    /// Does not leave, although it was told to.
    Stays {
        /// Why.
        #[serde(serialize_with = "shortened")]
        why: String,
    },
    /// Could not take over, or not serve.
    Unfit {
        /// Why.
        #[serde(serialize_with = "shortened")]
        why: String,
    },
    /// Replace me by a worker of another program.
    Upgrade {
        /// The program file.
        program: PathBuf,
        /// The request that asked for it.
        unique: u64,
    },
}

/// One end.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Both ends.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    /// The end that came as standard input.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(super) fn of(stdin: impl AsFd) -> io::Result<Self> {
        stdin.as_fd().try_clone_to_owned().map(Self)
    }

    /// Says something.
    ///
    /// # Errors
    /// Nobody listens any more, or it is too long to be heard.
    pub(super) fn say(&self, what: &impl Serialize) -> io::Result<()> {
        Ok(send(&self.0, &words(what)?, SendFlags::NOSIGNAL).map(drop)?)
    }

    /// Says something, and passes descriptors on.
    ///
    /// # Errors
    /// Nobody listens any more, or it is too long to be heard.
    pub(super) fn say_with(&self, what: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let words = words(what)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_AT_ONCE))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !along.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        Ok(sendmsg(&self.0, &[IoSlice::new(&words)], &mut along, SendFlags::NOSIGNAL).map(drop)?)
    }

    /// Waits for what the other end says; `None` if it is closed.
    ///
    /// # Errors
    /// What it said makes no sense.
    pub(super) fn hear<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut words = vec![0; LONGEST];
        let (len, descriptors) = match receive(&self.0, &mut words) {
            // It ended without having read everything.
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(None),
            received => received?,
        };
        if len == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&words[..len])?, descriptors)))
    }
}

fn words(what: &impl Serialize) -> io::Result<Vec<u8>> {
    let words = serde_json::to_vec(what)?;
    // Of a longer one the other end would hear a part, and understand nothing.
    if words.len() > LONGEST { Err(io::ErrorKind::ArgumentListTooLong.into()) } else { Ok(words) }
}

/// A text for people, as much of it as is sent.
fn shortened<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    if text.len() <= LONGEST_TEXT {
        return to.serialize_str(text);
    }
    let end = (0..=LONGEST_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    to.serialize_str(&format!("{}…", &text[..end]))
}

#[expect(clippy::ref_option, reason = "serde calls it so")]
fn shortened_if_any<S: Serializer>(text: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => shortened(text, to),
        None => to.serialize_none(),
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn words_and_descriptors_arrive_together() {
        let (here, there) = Link::pair().unwrap();
        let there = Link(there);
        let (mut from, mut to) = std::io::pipe().unwrap();
        here.say_with(&ToKeeper::Keep, &[from.as_fd(), to.as_fd()]).unwrap();
        here.say(&ToKeeper::Fit).unwrap();
        let (said, mut descriptors) = there.hear::<ToKeeper>().unwrap().expect("a message");
        assert!(matches!(said, ToKeeper::Keep));
        assert_eq!(descriptors.len(), 2);
        std::fs::File::from(descriptors.remove(1)).write_all(b"x").unwrap();
        let mut byte = [0];
        from.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        to.flush().unwrap();
        assert!(matches!(there.hear::<ToKeeper>().unwrap(), Some((ToKeeper::Fit, none)) if none.is_empty()));
        drop(here);
        assert!(there.hear::<ToKeeper>().unwrap().is_none());
        assert!(there.say(&ToKeeper::Fit).is_err());
    }

    #[test]
    fn the_longest_texts_arrive_shortened_and_what_cannot_be_heard_is_not_said() {
        let (here, there) = Link::pair().unwrap();
        let there = Link(there);
        // Control characters take six bytes each, and where the others end is no multiple of anything.
        for text in ["\u{1}".repeat(20_000), format!("x{}", "ö".repeat(20_000))] {
            here.say(&ToKeeper::Ready { summary: text.clone(), survives: true }).unwrap();
            let heard = there.hear().unwrap();
            let Some((ToKeeper::Ready { summary, survives: true }, _)) = heard else { panic!("{heard:?}") };
            let begins = summary.strip_suffix('…').expect("it says that there is more");
            assert!(text.starts_with(begins) && (2000..=2048).contains(&begins.len()), "{summary}");
            let upgrade = Some(Upgrade { unique: u64::MAX, failed: Some(text.clone()) });
            here.say(&ToWorker::Begin(Begin { upgrade, ended: text, ..Begin::default() })).unwrap();
            assert!(matches!(there.hear().unwrap(), Some((ToWorker::Begin(_), _))));
        }
        let program = PathBuf::from("x".repeat(LONGEST));
        assert!(here.say(&ToKeeper::Upgrade { program, unique: 2 }).is_err());
        here.say(&ToKeeper::Fit).unwrap();
        assert!(matches!(there.hear().unwrap(), Some((ToKeeper::Fit, _))));
    }
}
