//! The last things that people should know of: refusals, changes, faults.
//!
//! They are one text that only grows at its end, so that it can be followed (`tail -f`, poll). When it is full the older
//! half goes at once: whoever follows it by its size then takes it for a new file, and that must be a rare thing.

use super::journal::Stamp;
use crate::clock;
use crate::ledger::{Ledger, LedgerError, Page};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

/// More than fits an attentive look, in bytes; what is older is in the log.
const MOST: usize = 64 << 10;
/// One event is no longer than this, in bytes.
const LONGEST: usize = 4 << 10;

/// The same event is told so often, and then less and less often.
const TOLD: u64 = 10;
/// So many different refusals are known again when they come in turns.
const KNOWN: usize = 64;

/// The last events, oldest first, bounded.
#[derive(Default)]
pub struct Events {
    log: Mutex<Log>,
    /// Told after each new event.
    on_new: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Where a successor finds them.
    ledger: OnceLock<Arc<Ledger>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Log {
    text: String,
    /// Bytes of older events that have gone.
    gone: u64,
    /// The last event without its time, and how often it came.
    last: String,
    again: u64,
    /// Refusals, latest last, and how often each came.
    refused: VecDeque<(String, u64)>,
    changed: Option<Stamp>,
    /// It is in the ledger as it is.
    #[serde(skip)]
    kept: bool,
}

/// Somebody who reads the events as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follower {
    /// Which byte, of all there ever were, is the first one to this reader.
    first: u64,
    /// Up to which it has read.
    read: u64,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("size", &self.log().text.len()).finish_non_exhaustive()
    }
}

impl Events {
    /// Adds an event, in one line; it is logged as well. One that comes again and again is told less and less often.
    pub fn add(&self, text: &str) {
        let told = self.log().add(text, false);
        self.tell(told);
    }

    /// The same for what whoever may open an image can cause, as often as he likes: also if such events come in turns.
    pub fn add_of_callers(&self, text: &str) {
        let told = self.log().add(text, true);
        self.tell(told);
    }

    fn tell(&self, told: Option<String>) {
        let Some(told) = told else { return };
        tracing::info!(target: "ioband::events", "{told}");
        if let Some(tell) = self.on_new.get() {
            tell();
        }
    }

    /// Goes on with the events of a predecessor, and keeps them where a successor finds them. What was added is written down
    /// before anybody reads it, so that a reader who goes on with a successor has read what that has.
    ///
    /// # Errors
    /// When what is there cannot be read or makes no sense.
    pub fn keep_in(&self, ledger: Arc<Ledger>) -> Result<(), LedgerError> {
        if let Some(bytes) = ledger.get(Page::Events)? {
            let log = serde_json::from_slice(&bytes);
            *self.log() = log.map_err(|error| LedgerError::Content(error.to_string()))?;
        }
        // Once for each mount.
        let _ = self.ledger.set(ledger);
        Ok(())
    }

    /// Writes down what was added.
    pub fn keep(&self) {
        drop(self.kept(self.log()));
    }

    fn kept<'a>(&self, mut log: MutexGuard<'a, Log>) -> MutexGuard<'a, Log> {
        if let Some(ledger) = self.ledger.get().filter(|_| !log.kept) {
            let written = serde_json::to_vec(&*log)
                .map_err(std::io::Error::other)
                .and_then(|bytes| ledger.put(Page::Events, &bytes));
            if let Err(error) = written {
                tracing::error!(%error, "cannot write down the events for a successor");
            }
            log.kept = true;
        }
        log
    }

    /// `tell` is called after each new event; the first one stands.
    pub fn on_new(&self, tell: impl Fn() + Send + Sync + 'static) {
        if self.on_new.set(Box::new(tell)).is_err() {
            debug_assert!(false, "the events of a mount are watched by one");
        }
    }

    /// Begins to read at the oldest event.
    pub fn follow(&self) -> Follower {
        let first = self.log().gone;
        Follower { first, read: first }
    }

    /// At most `size` bytes from `offset` on, as this reader counts them; nothing at the end.
    pub fn read(&self, follower: &mut Follower, offset: u64, size: usize) -> Vec<u8> {
        let log = self.kept(self.log());
        // Who begins again, or has not kept up, goes on with the oldest event that is left.
        if offset == 0 || follower.first.saturating_add(offset) < log.gone {
            follower.first = log.gone.saturating_sub(offset);
        }
        let from = follower.first.saturating_add(offset);
        let bytes = log.text.as_bytes();
        let start = usize::try_from(from - log.gone.min(from)).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(size).min(bytes.len());
        follower.read = log.gone + end as u64;
        bytes[start..end].to_vec()
    }

    /// Whether there is something that this reader has not read.
    pub fn has_more(&self, follower: &Follower) -> bool {
        let log = self.log();
        follower.read < log.gone + log.text.len() as u64
    }

    /// How many bytes there are to read, and since when.
    pub fn size(&self) -> (u64, Option<SystemTime>) {
        let log = self.log();
        (log.text.len() as u64, log.changed.map(SystemTime::from))
    }

    /// All of them as text, newest last.
    pub fn text(&self) -> String {
        self.kept(self.log()).text.clone()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// What was told of it, if anything.
    fn add(&mut self, text: &str, of_callers: bool) -> Option<String> {
        let mut text = text.replace(['\n', '\r'], " ");
        if text.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            text.truncate(end);
            text.push('…');
        }
        // A program that repeats a refused call in a loop must not push everything else out, nor one that has two of them.
        let again = self.count(&text, of_callers);
        let same = text == self.last;
        let told = if again <= TOLD {
            text.clone()
        } else if again.is_multiple_of(10_u64.pow(again.ilog10())) {
            let what = if same { "the same, " } else { "" };
            let so_often = format!("({what}{again} times by now)");
            if same { so_often } else { format!("{text} {so_often}") }
        } else {
            return None;
        };
        self.push(&told);
        self.last = text;
        Some(told)
    }

    /// How often this one has come, this time included: in a row, or if callers cause it, among others.
    fn count(&mut self, text: &str, of_callers: bool) -> u64 {
        if !of_callers {
            self.again = if text == self.last { self.again + 1 } else { 1 };
            return self.again;
        }
        let known = self.refused.iter().position(|(known, _)| known == text);
        let (text, times) = known.and_then(|at| self.refused.remove(at)).unwrap_or((text.to_owned(), 0));
        self.refused.push_back((text, times + 1));
        if self.refused.len() > KNOWN {
            self.refused.pop_front();
        }
        times + 1
    }

    fn push(&mut self, text: &str) {
        self.kept = false;
        self.text += &format!("{} {text}\n", clock::wall_text());
        self.changed = Some(clock::wall().into());
        if self.text.len() > MOST {
            let half = self.text.len() - MOST / 2;
            // Up to the end of a line, which every text has.
            let line_end = self.text.as_bytes()[half..].iter().position(|byte| *byte == b'\n');
            let keep_from = half + line_end.unwrap_or_default() + 1;
            self.gone += keep_from as u64;
            self.text.drain(..keep_from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn read_all(events: &Events, follower: &mut Follower, mut offset: u64) -> String {
        let mut text = Vec::new();
        loop {
            // In small pieces: lines must not be torn by that.
            let piece = events.read(follower, offset, 7);
            if piece.is_empty() {
                return String::from_utf8(text).unwrap();
            }
            offset += piece.len() as u64;
            text.extend(piece);
        }
    }

    #[test]
    fn newest_come_last_and_the_oldest_go() {
        let events = Events::default();
        for i in 0..10_000 {
            events.add(&format!("event {i}"));
        }
        let text = events.text();
        assert!(text.len() <= MOST && text.len() >= MOST / 3, "{}", text.len());
        assert!(text.lines().last().is_some_and(|l| l.ends_with("event 9999")));
        let numbers = text.lines().map(|l| l.rsplit(' ').next().unwrap().parse::<u32>().unwrap());
        assert!(
            numbers.clone().zip(numbers.skip(1)).all(|(a, b)| b == a + 1),
            "lines are whole and in order"
        );
    }

    #[test]
    fn an_event_is_one_line_and_one_that_is_repeated_pushes_nothing_out() {
        let events = Events::default();
        events.add("first");
        (0..100_000).for_each(|_| events.add("a\nb"));
        let text = events.text();
        assert!(text.lines().next().is_some_and(|l| l.ends_with(" first")), "{text}");
        assert_eq!(text.lines().filter(|l| l.ends_with(" a b")).count(), TOLD as usize);
        assert!(text.lines().any(|l| l.ends_with("(the same, 300 times by now)")), "{text}");
        assert!(
            text.lines().last().is_some_and(|l| l.ends_with("(the same, 100000 times by now)")),
            "{text}"
        );
        assert!(text.lines().count() < 60);
    }

    #[test]
    fn refusals_that_take_turns_push_nothing_out_either() {
        let events = Events::default();
        events.add("first");
        for i in 0..100_000 {
            events.add_of_callers(&format!("refused: one of {}", i % 6));
        }
        let text = events.text();
        assert!(text.lines().next().is_some_and(|l| l.ends_with(" first")), "{text}");
        assert!(text.ends_with("refused: one of 5 (10000 times by now)\n"), "{text}");
        // What is done is told, however often it is done in turns.
        for i in 0..100 {
            events.add(if i % 2 == 0 { "weight 10: done" } else { "weight 20: done" });
        }
        assert_eq!(events.text().matches("weight 10: done").count(), 50);
    }

    #[test]
    fn an_event_is_bounded() {
        let events = Events::default();
        events.add(&"ä".repeat(100_000));
        assert!(events.text().len() < LONGEST + 100);
    }

    #[test]
    fn a_follower_reads_every_event_once_also_when_older_ones_go() {
        let events = Events::default();
        let mut follower = events.follow();
        let (mut got, mut offset) = (String::new(), 0);
        for i in 0..5000 {
            events.add(&format!("event {i}"));
            if i % 50 == 0 {
                assert!(events.has_more(&follower));
                let text = read_all(&events, &mut follower, offset);
                offset += text.len() as u64;
                got += &text;
                assert!(!events.has_more(&follower));
            }
        }
        got += &read_all(&events, &mut follower, offset);
        let numbers: Vec<u32> = got.lines().map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(numbers, (0..5000).collect::<Vec<_>>());
    }

    #[test]
    fn who_does_not_keep_up_goes_on_with_what_is_left() {
        let events = Events::default();
        events.add("first");
        let mut follower = events.follow();
        let first = read_all(&events, &mut follower, 0);
        (0..5000).for_each(|i| events.add(&format!("event {i}")));
        let rest = read_all(&events, &mut follower, first.len() as u64);
        assert_eq!(rest, events.text());
        // From the beginning it is the same.
        assert_eq!(read_all(&events, &mut follower, 0), events.text());
    }

    #[test]
    fn whoever_waits_is_told() {
        let events = Events::default();
        let told = Arc::new(AtomicUsize::new(0));
        events.on_new({
            let told = told.clone();
            move || {
                told.fetch_add(1, Ordering::Relaxed);
            }
        });
        events.add("a");
        events.add("b");
        assert_eq!(told.load(Ordering::Relaxed), 2);
    }
}
