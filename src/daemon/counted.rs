//! What was counted, written down for a successor: ten times a second while there is something to count, and not at all while
//! there is not.
//!
//! So when a worker dies, the counts of its last tenth of a second are lost. Requests that are sent again count again.

use crate::control::Events;
use crate::engine::{Activity, Engines, Learned};
use crate::ledger::{Ledger, LedgerError, Page};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How often it is written down.
const OFTEN: Duration = Duration::from_millis(100);

/// Writes down what the engines count.
pub(super) struct Counted {
    ledger: Arc<Ledger>,
    engines: Arc<Engines>,
    events: Arc<Events>,
    activity: Arc<Activity>,
    /// What is written down.
    last: Mutex<Vec<Learned>>,
}

impl Counted {
    pub(super) fn new(ledger: Arc<Ledger>, engines: Arc<Engines>, events: Arc<Events>) -> Arc<Self> {
        let activity = Arc::default();
        Arc::new(Self { ledger, engines, events, activity, last: Mutex::default() })
    }

    /// The engines that it counts for.
    pub(super) fn engines(&self) -> Arc<Engines> {
        self.engines.clone()
    }

    /// What a predecessor has written down.
    ///
    /// # Errors
    /// When that cannot be read or makes no sense.
    pub(super) fn inherited(ledger: &Ledger) -> Result<Vec<Learned>, LedgerError> {
        let Some(bytes) = ledger.get(Page::Counters)? else { return Ok(Vec::new()) };
        serde_json::from_slice(&bytes).map_err(|error| LedgerError::Content(error.to_string()))
    }

    /// The engines go on with that.
    pub(super) fn go_on(&self, learned: &[Learned]) {
        for engine in self.engines.load().iter() {
            if let Some(known) = learned.iter().find(|known| known.id == engine.id()) {
                engine.change().go_on(known);
            }
        }
    }

    /// Starts the thread that writes.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<()> {
        let counted = self.clone();
        thread::Builder::new().name("counted".into()).spawn(move || counted.run()).map(drop)
    }

    fn run(&self) {
        loop {
            if self.write() {
                self.activity.sleep(Some(OFTEN));
                continue;
            }
            self.activity.fall_asleep();
            // What has come before that is seen now, and what comes after it wakes us.
            if !self.write() {
                self.activity.sleep(None);
            }
        }
    }

    /// Something else than requests is to be written down soon.
    pub(super) fn wake(&self) {
        self.tell_new_engines();
        self.activity.wake();
    }

    fn tell_new_engines(&self) {
        self.engines.load().iter().for_each(|engine| engine.set_activity(self.activity.clone()));
    }

    /// Writes down what there is now. False if that is written down already, or cannot be.
    pub(super) fn write(&self) -> bool {
        self.events.keep();
        // First: what is looked at by somebody else meanwhile would be newer, and be written over by this.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.engines.load();
        // One whose disk has gone waits for another one.
        let learned = all.iter().map(|engine| engine.learned()).filter(|learned| !learned.bands.is_empty());
        let learned: Vec<_> = learned.collect();
        if *last == learned {
            return false;
        }
        let written = serde_json::to_vec(&learned)
            .map_err(io::Error::other)
            .and_then(|bytes| self.ledger.put(Page::Counters, &bytes));
        if let Err(error) = written {
            // With the next request it is tried again.
            tracing::error!(%error, "cannot write down the counters for a successor");
            return false;
        }
        *last = learned;
        true
    }
}
