//! What is being written, kept where a successor can go on with it: drafts with their bytes, and conversations by `ctl`.
//!
//! It is written down before the request that changed it is answered. A request that is sent again finds here whether it was
//! done, as far as doing it twice would make a difference: appending, and what changes how far a conversation is.

use crate::clock;
use crate::control::{Asked, Draft, DraftState, Stamp, TooLarge, TooLong, Transaction};
use crate::ledger::{Ledger, LedgerError};
use fuser::Errno;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

/// So many requests of one file are remembered. The kernel sends the writes to a file one after the other, so one would do;
/// readers and writers of one `ctl` may be several.
const REMEMBERED: usize = 16;

/// So much of the ledger a conversation takes, in bytes, though nothing was said: two documents of two pages, which is what it is
/// written down in.
pub(super) const CONVERSATION: usize = 16 << 10;

/// A place in the ledger.
#[derive(Debug)]
struct Place {
    ledger: Arc<Ledger>,
    number: u32,
}

impl Place {
    /// Writes down; what was done is done, so a failure is only told.
    fn keep(&self, about: &impl Serialize, bytes: impl FnOnce(&Ledger) -> io::Result<()>) {
        let written = bytes(&self.ledger)
            .and_then(|()| serde_json::to_vec(about).map_err(io::Error::other))
            .and_then(|about| self.ledger.content(self.number).put(&about));
        if let Err(error) = written {
            tracing::error!(%error, "cannot write down for a successor what is being written");
        }
    }

    fn about<T: DeserializeOwned>(&self) -> Result<T, LedgerError> {
        let lost = || LedgerError::Content(format!("content {} is not there", self.number));
        let bytes = self.ledger.content(self.number).get()?.ok_or_else(lost)?;
        serde_json::from_slice(&bytes).map_err(|error| LedgerError::Content(error.to_string()))
    }

    fn bytes(&self, len: u64) -> Result<Vec<u8>, LedgerError> {
        Ok(self.ledger.content(self.number).read(len)?)
    }

    fn clear(&self) {
        clear(&self.ledger, self.number);
    }
}

/// Gives back the memory of a place that nobody has any more.
pub(super) fn clear(ledger: &Ledger, number: u32) {
    if let Err(error) = ledger.content(number).clear() {
        tracing::warn!(%error, "cannot give back memory of the ledger");
    }
}

/// A draft, and who wrote to it when.
#[derive(Debug)]
pub(super) struct KeptDraft {
    place: Place,
    draft: Draft,
    written: SystemTime,
    /// The thread that wrote last, and its process. 0 is nobody.
    pub(super) writer: (u32, u32),
    appended: VecDeque<u64>,
}

#[derive(Serialize, Deserialize)]
struct AboutDraft {
    len: u64,
    state: DraftState,
    written: Stamp,
    #[serde(default)]
    writer: (u32, u32),
    #[serde(default)]
    appended: VecDeque<u64>,
}

impl KeptDraft {
    /// Begins with a draft that nobody else has the place of.
    pub(super) fn begin(ledger: Arc<Ledger>, number: u32, draft: Draft) -> Self {
        let place = Place { ledger, number };
        place.clear();
        let (written, appended) = (clock::wall(), VecDeque::new());
        let kept = Self { place, draft, written, writer: (0, 0), appended };
        kept.keep(|kept, content| content.content(kept.place.number).write(kept.draft.bytes(), 0));
        kept
    }

    /// Goes on with what a predecessor kept.
    pub(super) fn go_on(ledger: Arc<Ledger>, number: u32, most: usize) -> Result<Self, LedgerError> {
        let place = Place { ledger, number };
        let AboutDraft { len, state, written, writer, appended } = place.about()?;
        let draft = Draft::go_on(place.bytes(len)?, most, state);
        // What a write had begun behind the end.
        place.ledger.content(number).cut(len)?;
        Ok(Self { place, draft, written: written.into(), writer, appended })
    }

    fn keep(&self, bytes: impl FnOnce(&Self, &Ledger) -> io::Result<()>) {
        let about = AboutDraft {
            len: self.draft.bytes().len() as u64,
            state: self.draft.state(),
            written: self.written.into(),
            writer: self.writer,
            appended: self.appended.clone(),
        };
        self.place.keep(&about, |ledger| bytes(self, ledger));
    }

    /// What it holds.
    pub(super) fn bytes(&self) -> &[u8] {
        self.draft.bytes()
    }

    /// As [`Draft::read`].
    pub(super) fn read(&self, offset: u64, size: usize) -> &[u8] {
        self.draft.read(offset, size)
    }

    /// When it was written to.
    pub(super) fn written(&self) -> SystemTime {
        self.written
    }

    /// Says when it was written to.
    pub(super) fn set_written(&mut self, at: SystemTime) {
        self.written = at;
        self.keep(|_, _| Ok(()));
    }

    /// Whether this was appended before it was sent again.
    pub(super) fn has_appended(&self, asked: Asked) -> bool {
        asked.again && self.appended.contains(&asked.unique)
    }

    /// Writes at `offset`, or at the end, and that once.
    pub(super) fn write(&mut self, offset: Option<u64>, data: &[u8], asked: Asked) -> Result<(), TooLarge> {
        if offset.is_none() && self.has_appended(asked) {
            return Ok(());
        }
        let end = self.draft.bytes().len();
        let at = offset.unwrap_or(end as u64);
        let result = self.draft.write(at, data);
        if result.is_ok() && offset.is_none() {
            remember(&mut self.appended, asked.unique);
        }
        self.written = clock::wall();
        self.keep(|kept, ledger| {
            let bytes = kept.draft.bytes();
            // What was skipped is zeroes, which the content has already.
            let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            let to = from.saturating_add(data.len()).min(bytes.len());
            ledger.content(kept.place.number).write(&bytes[from..to], from as u64)
        });
        result
    }

    /// As [`Draft::resize`].
    pub(super) fn resize(&mut self, len: u64) -> Result<(), TooLarge> {
        let result = self.draft.resize(len);
        self.written = clock::wall();
        self.keep(|kept, ledger| ledger.content(kept.place.number).cut(kept.draft.bytes().len() as u64));
        result
    }

    /// As [`Draft::take`]. It is written down as taken only with what became of it.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        self.draft.take()
    }

    /// What was taken is in force.
    pub(super) fn accepted(&mut self) {
        self.keep(|_, _| Ok(()));
    }

    /// As [`Draft::refuse`].
    pub(super) fn refuse(&mut self, errno: i32) {
        self.draft.refuse(errno);
        self.keep(|_, _| Ok(()));
    }

    /// As [`Draft::refused`].
    pub(super) fn refused(&self) -> Option<i32> {
        self.draft.refused()
    }

    /// Gives its place back.
    pub(super) fn end(&self) {
        self.place.clear();
    }
}

/// A conversation by `ctl`.
#[derive(Debug)]
pub(super) struct KeptTransaction {
    place: Place,
    transaction: Transaction,
    outcomes: VecDeque<Outcome>,
    /// Bytes of complete commands that are not carried out yet.
    waiting: usize,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Outcome {
    unique: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum What {
    /// It was written, or refused with an errno; so is a reader who completes a command.
    Wrote(Option<i32>),
    /// From here to there of the answer was read.
    Read(usize, usize),
}

#[derive(Serialize, Deserialize)]
struct AboutTransaction {
    /// The length of the command so far.
    len: u64,
    answer: String,
    read: usize,
    outcomes: VecDeque<Outcome>,
}

impl KeptTransaction {
    /// Begins where nothing was said.
    pub(super) fn begin(ledger: Arc<Ledger>, number: u32) -> Self {
        let place = Place { ledger, number };
        place.clear();
        let kept = Self { place, transaction: Transaction::default(), outcomes: VecDeque::new(), waiting: 0 };
        kept.keep(0);
        kept
    }

    /// Goes on with what a predecessor kept.
    pub(super) fn go_on(ledger: Arc<Ledger>, number: u32) -> Result<Self, LedgerError> {
        let place = Place { ledger, number };
        let AboutTransaction { len, answer, read, outcomes } = place.about()?;
        let transaction = Transaction::go_on(place.bytes(len)?, answer.into_bytes(), read);
        Ok(Self { place, transaction, outcomes, waiting: 0 })
    }

    /// Writes down how far it is; of the command what is new from `from` on.
    fn keep(&self, from: usize) {
        let command = self.transaction.begun();
        let (answer, read) = self.transaction.answered();
        let about = AboutTransaction {
            len: command.len() as u64,
            answer: String::from_utf8_lossy(answer).into_owned(),
            read,
            outcomes: self.outcomes.clone(),
        };
        let from = from.min(command.len());
        self.place
            .keep(&about, |ledger| ledger.content(self.place.number).write(&command[from..], from as u64));
    }

    /// How much it holds: of commands, of the answer to the last one, and of the ledger.
    pub(super) fn bytes(&self) -> usize {
        self.bytes_asked() + self.transaction.answered().0.len()
    }

    /// The same without the answer, which goes with the next write.
    pub(super) fn bytes_asked(&self) -> usize {
        CONVERSATION + self.transaction.begun().len() + self.waiting
    }

    /// Whether something is written of a command that is not complete.
    pub(super) fn is_begun(&self) -> bool {
        !self.transaction.begun().is_empty()
    }

    /// There is no room for what is written. All of it is forgotten, as where a command is too long.
    pub(super) fn no_room(&mut self, errno: Errno, asked: Asked) {
        self.transaction.complete();
        self.answer(String::new(), Some(errno.code()), asked);
    }

    fn outcome(&self, asked: Asked) -> Option<What> {
        let outcome = self.outcomes.iter().rev().find(|outcome| outcome.unique == asked.unique);
        outcome.filter(|_| asked.again).map(|outcome| outcome.what)
    }

    fn note(&mut self, asked: Asked, what: What) {
        if self.outcomes.len() >= REMEMBERED {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(Outcome { unique: asked.unique, what });
    }

    /// What came of this write before it was sent again.
    pub(super) fn wrote(&self, asked: Asked) -> Option<Result<(), Errno>> {
        match self.outcome(asked)? {
            What::Wrote(None) => Some(Ok(())),
            What::Wrote(Some(errno)) => Some(Err(Errno::from_i32(errno))),
            What::Read(..) => None,
        }
    }

    /// What was read before this was sent again, or why not.
    pub(super) fn has_read(&self, asked: Asked) -> Option<Result<Vec<u8>, Errno>> {
        match self.outcome(asked)? {
            What::Read(from, to) => {
                let (answer, _) = self.transaction.answered();
                Some(Ok(answer.get(from..to).unwrap_or_default().to_vec()))
            }
            What::Wrote(errno) => Some(Err(Errno::from_i32(errno?))),
        }
    }

    /// As [`Transaction::write`]. A command is written down as gone only with what came of it.
    pub(super) fn write(&mut self, data: &[u8], asked: Asked) -> Result<Option<Vec<u8>>, TooLong> {
        let from = self.transaction.begun().len();
        let command = self.transaction.write(data);
        match &command {
            Ok(Some(command)) => self.waiting += command.len(),
            Ok(None) => {
                self.note(asked, What::Wrote(None));
                self.keep(from);
            }
            Err(TooLong) => {
                self.note(asked, What::Wrote(Some(libc::E2BIG)));
                self.keep(0);
            }
        }
        command
    }

    /// As [`Transaction::complete`].
    pub(super) fn complete(&mut self) -> Option<Vec<u8>> {
        self.transaction.complete().inspect(|command| self.waiting += command.len())
    }

    /// A complete command was carried out, and has gone.
    pub(super) fn carried_out(&mut self, command: Vec<u8>) {
        self.waiting -= command.len();
    }

    /// The answer to a command that a write has completed.
    pub(super) fn answer(&mut self, text: String, errno: Option<i32>, asked: Asked) {
        self.transaction.answer(text);
        self.note(asked, What::Wrote(errno));
        self.keep(0);
    }

    /// The answer to a command that is complete because somebody reads it. It is written down when it is read.
    pub(super) fn answer_to_reader(&mut self, text: String) {
        self.transaction.answer(text);
    }

    /// The command that a reader has completed was refused, and nothing is read.
    pub(super) fn refused_to_reader(&mut self, errno: Errno, asked: Asked) {
        self.note(asked, What::Wrote(Some(errno.code())));
        self.keep(0);
    }

    /// As [`Transaction::read`].
    pub(super) fn read(&mut self, size: usize, asked: Asked) -> Vec<u8> {
        let (_, from) = self.transaction.answered();
        let piece = self.transaction.read(size);
        let (_, to) = self.transaction.answered();
        self.note(asked, What::Read(from, to));
        self.keep(0);
        piece
    }

    /// Gives its place back.
    pub(super) fn end(&self) {
        self.place.clear();
    }
}

fn remember(all: &mut VecDeque<u64>, unique: u64) {
    if all.len() >= REMEMBERED {
        all.pop_front();
    }
    all.push_back(unique);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_counts_until_it_is_carried_out() {
        let mut said = KeptTransaction::begin(Arc::new(Ledger::new().unwrap()), 0);
        let held = |said: &KeptTransaction| said.bytes() - CONVERSATION;
        assert_eq!(held(&said), 0);
        said.write(b"save", Asked::default()).unwrap();
        let first = said.complete().expect("a command");
        // Whoever writes meanwhile begins another one.
        assert_eq!(said.write(b"table", Asked::default()), Ok(None));
        assert_eq!(held(&said), "save".len() + "table".len());
        let second = said.write(b" d\n", Asked::default()).unwrap().expect("a command");
        said.carried_out(first);
        said.answer_to_reader("done".into());
        assert_eq!(held(&said), "table d\n".len() + "done".len());
        said.carried_out(second);
        assert_eq!(said.write(&[b'x'; 2 << 20], Asked::default()), Err(TooLong));
        assert_eq!(held(&said), 0);
    }
}
