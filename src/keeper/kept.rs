//! The worker's side: how it comes to its mount, and what it hears from its keeper.

use super::link::{Begin, Link, ToKeeper, ToWorker};
use crate::classify::Ending;
use crate::fuse::{Hold, MountedAt};
use crate::ledger::{Ledger, LedgerError, Page};
use anyhow::{Context, anyhow, bail};
use rustix::process::{PidfdFlags, pidfd_open};
use rustix::thread::gettid;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// How long a keeper may take to look at a thread.
const LOOK: Duration = Duration::from_secs(1);

/// What a thread is to do.
type Job = Box<dyn FnOnce() + Send>;

/// What a worker has from its keeper.
#[derive(Debug)]
pub struct Kept {
    link: Link,
    /// For the thread that the keeper watches: what it is to do once there is something to hear.
    listens: mpsc::Sender<Job>,
    /// That thread, where the kernel lets others see its end.
    watched: Option<OwnedFd>,
    /// How it began.
    pub begin: Begin,
    /// What every successor has to know.
    pub ledger: Arc<Ledger>,
    /// Descriptors of the connection, where there is one already.
    pub descriptors: Vec<OwnedFd>,
    /// What a predecessor gave to [`Hold::hold_memory`].
    pub memory: Option<OwnedFd>,
}

/// What a worker is told while it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Let a successor serve, and end.
    Leave,
    /// Finish what was accepted, and end.
    Stop,
    /// There is no keeper any more.
    Alone,
}

/// What does not change as long as there is the mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// Where the mount is.
    pub place: MountedAt,
    /// Everybody may use it, and not only its owner.
    pub for_all: bool,
    /// The folder that relative paths count from.
    pub folder: PathBuf,
    /// The configuration that was mounted.
    pub file: PathBuf,
    /// The kernel's first request.
    pub init: Vec<u8>,
    /// The largest one that was agreed on then, in bytes of data: the setting of the machine may be another one by now.
    #[serde(default)]
    pub largest: usize,
}

impl Facts {
    /// What a predecessor has written down, if it came so far.
    ///
    /// # Errors
    /// It cannot be understood.
    pub fn read(ledger: &Ledger) -> Result<Option<Self>, LedgerError> {
        let Some(bytes) = ledger.get(Page::Connection)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| LedgerError::Content(error.to_string()))
    }

    /// Writes it down.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn write(&self, ledger: &Ledger) -> io::Result<()> {
        ledger.put(Page::Connection, &serde_json::to_vec(self)?)
    }
}

impl Kept {
    /// Hears the keeper's first word, through standard input.
    ///
    /// # Errors
    /// There is no keeper, or it speaks of what this program does not know.
    pub fn begin() -> anyhow::Result<Self> {
        let link = Link::of(std::io::stdin()).context("cannot talk to the keeper")?;
        let begun = link.hear().context("a worker is started by `ioband mount`, not by hand")?;
        let Some((ToWorker::Begin(begin), mut descriptors)) = begun else {
            bail!("the keeper did not say how to begin")
        };
        if descriptors.is_empty() {
            bail!("the keeper has sent no ledger");
        }
        let (listens, watched) = listener()?;
        let mut connection = descriptors.split_off(1);
        let memory = (begin.memory && !connection.is_empty()).then(|| connection.remove(0));
        let ledger = descriptors.pop().context("the keeper has sent no ledger")?;
        let ledger = Ledger::inherit(ledger).inspect_err(|error| {
            // Whoever waits for an answer gets it.
            let _ = link.say(&ToKeeper::Unfit { why: error.to_string() });
        })?;
        let ledger = Arc::new(ledger);
        let kept = Self { link, listens, watched, begin, ledger, descriptors: connection, memory };
        if !kept.begin.waits {
            kept.be_watched();
        }
        Ok(kept)
    }

    /// Has the keeper mount; where that is then, and the connection.
    ///
    /// # Errors
    /// Why it cannot be mounted.
    pub fn mount(&self, mountpoint: &Path) -> anyhow::Result<(MountedAt, OwnedFd)> {
        self.link.say(&ToKeeper::Mount { mountpoint: mountpoint.to_owned() })?;
        match self.link.hear()?.context("the keeper has ended")? {
            (ToWorker::Mounted { place }, mut descriptors) => {
                let connection = descriptors.pop().context("the keeper has sent no connection")?;
                Ok((place, connection))
            }
            (ToWorker::NotMounted { why }, _) => bail!(why),
            (ToWorker::Stop, _) => bail!("ended by a signal before it was mounted"),
            (said, _) => bail!("the keeper says {said:?} where it was to mount"),
        }
    }

    /// Says that it could serve, and waits until it is to; false if that is not to be.
    ///
    /// # Errors
    /// The keeper has ended.
    pub fn wait_for_turn(&self) -> anyhow::Result<bool> {
        if !self.begin.waits {
            return Ok(true);
        }
        // Keepers of older programs want to hear this first.
        self.link.say(&ToKeeper::Fit)?;
        self.be_watched();
        Ok(matches!(self.link.hear()?.context("the keeper has ended")?, (ToWorker::TakeOver, _)))
    }

    /// Lets the keeper see when one of our threads ends. A process has ended when all of its threads have; and one that waits for
    /// an answer of the mount itself would wait for the next worker, which is started after that. Before any device is opened,
    /// because one of them may hang.
    fn be_watched(&self) {
        // Where the kernel cannot do that (before Linux 6.9), the end of the process has to do.
        let Some(thread) = &self.watched else { return };
        if let Err(error) = self.link.say_with(&ToKeeper::Watch, &[thread.as_fd()]) {
            tracing::debug!(%error, "a thread cannot be watched");
        }
    }

    /// Says why it cannot serve, to a keeper that waits to hear that.
    pub fn unfit(&self, why: &str) {
        if self.begin.waits {
            // Without a keeper there is nobody to tell.
            let _ = self.link.say(&ToKeeper::Unfit { why: why.to_owned() });
        }
    }

    /// The keeper, for who serves.
    pub fn into_keeper(self) -> Arc<Keeper> {
        Arc::new(Keeper {
            process: self.begin.keeper,
            link: self.link,
            listens: self.listens,
            gone: AtomicBool::new(false),
            asked: Mutex::default(),
            looked: Mutex::default(),
        })
    }
}

/// A thread that does what it is sent, and ends with the process; and what tells others when it has, if the kernel can.
fn listener() -> io::Result<(mpsc::Sender<Job>, Option<OwnedFd>)> {
    let (listens, jobs) = mpsc::channel::<Job>();
    let (begins, begun) = mpsc::channel();
    thread::Builder::new().name("keeper".into()).spawn(move || {
        let _ = begins.send(pidfd_open(gettid(), PidfdFlags::from_bits_retain(libc::PIDFD_THREAD)));
        jobs.iter().for_each(|job| job());
        // Not before: its end would be taken for that of the process.
        loop {
            thread::park();
        }
    })?;
    let thread = begun.recv().map_err(io::Error::other)?;
    let thread = thread.inspect_err(|error| tracing::debug!(%error, "a thread cannot be watched"));
    Ok((listens, thread.ok()))
}

impl Hold for Kept {
    fn hold(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.link.say_with(&ToKeeper::Keep, &[descriptor])
    }

    fn hold_memory(&self, memory: BorrowedFd<'_>) -> io::Result<()> {
        self.link.say_with(&ToKeeper::KeepMemory, &[memory])
    }

    fn answer_first(&self, answer: &[u8]) -> io::Result<()> {
        self.link.say(&ToKeeper::First { answer: answer.to_vec() })?;
        match self.link.hear()? {
            Some((ToWorker::Answered { errno: None }, _)) => Ok(()),
            Some((ToWorker::Answered { errno: Some(errno) }, _)) => Err(io::Error::from_raw_os_error(errno)),
            Some((said, _)) => Err(io::Error::other(format!("the keeper says {said:?}"))),
            None => Err(io::Error::other("the keeper has ended")),
        }
    }
}

/// The keeper, for a worker that serves.
#[derive(Debug)]
pub struct Keeper {
    process: u32,
    link: Link,
    listens: mpsc::Sender<Job>,
    gone: AtomicBool,
    /// Who waits for what comes of an upgrade.
    asked: Mutex<Option<mpsc::Sender<String>>>,
    /// Who waits for how a thread ends, and which one.
    looked: Mutex<Option<(u32, mpsc::Sender<Option<String>>)>>,
}

impl Keeper {
    /// Says that the mount answers, and from now on tells `hears` what the keeper says.
    ///
    /// # Errors
    /// Nobody can listen.
    pub fn serves(
        self: &Arc<Self>,
        summary: String,
        survives: bool,
        hears: impl Fn(Word) + Send + 'static,
    ) -> anyhow::Result<()> {
        // If it has ended, that is heard next.
        let _ = self.link.say(&ToKeeper::Ready { summary, survives });
        let listener = self.clone();
        let listens = self.listens.send(Box::new(move || listener.listen(&hears)));
        listens.map_err(|_| anyhow!("nobody listens to the keeper"))
    }

    /// Its process, while it lives.
    pub fn process(&self) -> Option<u32> {
        (!self.gone.load(Ordering::Acquire)).then_some(self.process)
    }

    /// How a thread comes to an end, if it is at its end and did not get there in peace, as the keeper sees it. To be asked by
    /// one thread at a time.
    pub fn ending_of(&self, thread: u32) -> Option<Ending> {
        let (looked, answer) = mpsc::channel();
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some((thread, looked));
        let gone = self.gone.load(Ordering::Acquire) || self.link.say(&ToKeeper::Look { thread }).is_err();
        // A keeper that does not answer has ended, or takes longer than whoever closes a file is to wait.
        let how = if gone { Err(mpsc::RecvTimeoutError::Disconnected) } else { answer.recv_timeout(LOOK) };
        how.map_or_else(|_| Ending::of_thread(thread), |how| how.map(Ending))
    }

    /// Has this worker replaced by one of another program, and returns only if that does not come about.
    ///
    /// # Errors
    /// Always: why not.
    pub fn upgrade(&self, program: &Path, unique: u64) -> Result<std::convert::Infallible, String> {
        let (asked, answer) = mpsc::channel();
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        let gone = || {
            "the process that kept the mount has ended; only a new mount brings another program".to_owned()
        };
        if self.gone.load(Ordering::Acquire) {
            return Err(gone());
        }
        let asked = ToKeeper::Upgrade { program: program.to_owned(), unique };
        self.link.say(&asked).map_err(|error| match error.kind() {
            io::ErrorKind::ArgumentListTooLong => format!("the path of the program is too long: {error}"),
            _ => gone(),
        })?;
        // If it comes about, whoever asked is answered by the successor: to us he has asked in vain.
        Err(answer.recv().unwrap_or_else(|_| gone()))
    }

    /// Says why this worker does not leave, although it was told to: the upgrade does not come about.
    pub fn stays(&self, why: String) {
        // If there is no keeper any more, there is no successor either.
        let _ = self.link.say(&ToKeeper::Stays { why });
    }

    fn listen(&self, hears: &dyn Fn(Word)) {
        loop {
            match self.link.hear() {
                Ok(Some((ToWorker::Leave, _))) => hears(Word::Leave),
                Ok(Some((ToWorker::Stop, _))) => hears(Word::Stop),
                Ok(Some((ToWorker::NotUpgraded { why, .. }, _))) => {
                    let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).take();
                    // Whoever asked may have gone.
                    asked.map(|asked| asked.send(why));
                }
                Ok(Some((ToWorker::Ending { thread, how }, _))) => {
                    let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
                    // Whoever asked may have given up, and somebody else may have asked about another one since.
                    let looked = looked.take_if(|(asked, _)| *asked == thread);
                    looked.map(|(_, looked)| looked.send(how));
                }
                Ok(Some((said, _))) => tracing::warn!(?said, "the keeper says what is of no use now"),
                Ok(None) => break,
                Err(error) => tracing::error!(%error, "the keeper cannot be understood"),
            }
        }
        self.gone.store(true, Ordering::Release);
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.looked.lock().unwrap_or_else(PoisonError::into_inner).take();
        hears(Word::Alone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(link: Link) -> Arc<Keeper> {
        let (listens, _) = mpsc::channel();
        let gone = AtomicBool::new(false);
        Arc::new(Keeper {
            process: 1,
            link,
            listens,
            gone,
            asked: Mutex::default(),
            looked: Mutex::default(),
        })
    }

    #[test]
    fn a_late_answer_about_one_thread_is_none_about_the_next() {
        let (there, here) = Link::pair().unwrap();
        let keeper = keeper(Link::of(here).unwrap());
        // Nobody waits for the first one any more.
        let late = ToWorker::Ending { thread: 7, how: Some("killed".into()) };
        let answer = ToWorker::Ending { thread: 8, how: Some("in error".into()) };
        let (looked, heard) = mpsc::channel();
        *keeper.looked.lock().unwrap() = Some((8, looked));
        there.say(&late).unwrap();
        there.say(&answer).unwrap();
        drop(there);
        keeper.listen(&|_| ());
        assert_eq!(heard.iter().collect::<Vec<_>>(), [Some("in error".to_owned())]);
    }
}
