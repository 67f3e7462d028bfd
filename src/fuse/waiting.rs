//! Who waits for events: open files whose readers have asked to be told (poll).

use fuser::{FileHandle, PollNotifier};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The waiting readers, by their open files.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<HashMap<u64, PollNotifier>>);

impl Waiting {
    fn readers(&self) -> MutexGuard<'_, HashMap<u64, PollNotifier>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is to be told once. A file has one word for all who wait by it.
    pub(super) fn add(&self, fh: FileHandle, notifier: PollNotifier) {
        self.readers().insert(fh.0, notifier);
    }

    /// Is closed.
    pub(super) fn forget(&self, fh: FileHandle) {
        self.readers().remove(&fh.0);
    }

    /// There is something to read.
    pub(super) fn wake(&self) {
        let readers = std::mem::take(&mut *self.readers());
        for notifier in readers.into_values() {
            // Whoever has gone meanwhile does not wait.
            if let Err(error) = notifier.notify() {
                tracing::debug!(%error, "a reader of events could not be told");
            }
        }
    }
}
