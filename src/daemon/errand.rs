//! What may hang is done by a thread of its own, of which there is one for each device at most: a filesystem that does not answer
//! keeps that thread, and nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long to wait before a thread is looked at again.
const PAUSE: Duration = Duration::from_millis(1);

/// What is to be done about one device. Its clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Errand {
    busy: Arc<AtomicBool>,
}

/// Until its thread has ended.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Errand {
    /// Has a thread do it. False if the last one is still at it, or there is none to be had.
    pub(super) fn begin(&self, act: impl FnOnce() + Send + 'static) -> bool {
        if self.busy.swap(true, Ordering::AcqRel) {
            return false;
        }
        // A closure that no thread takes is dropped, and this with it.
        let busy = Busy(self.busy.clone());
        let thread = thread::Builder::new().name("errand".into()).spawn(move || {
            let _busy = busy;
            act();
        });
        thread.is_ok()
    }

    /// Waits until the last thread has ended, but not for longer than this.
    pub(super) fn wait(&self, time: Duration) {
        for _ in 0..time.as_millis() / PAUSE.as_millis() {
            if !self.busy.load(Ordering::Acquire) {
                break;
            }
            thread::sleep(PAUSE);
        }
    }

    /// What comes of it, if that is known in time; it is done all the same.
    pub(super) fn within<T: Send + 'static>(
        &self,
        time: Duration,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (send, done) = mpsc::channel();
        // Whoever asked may have gone.
        let begun = self.begin(move || _ = send.send(act()));
        if begun { done.recv_timeout(time).ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_hangs_keeps_nobody_and_is_not_asked_again() {
        let errand = Errand::default();
        let (go_on, hangs) = mpsc::channel::<()>();
        let hung = errand.within(Duration::from_millis(1), move || _ = hangs.recv());
        assert_eq!(hung, None);
        // Not even begun: nobody has to wait for the time to pass.
        assert!(!errand.clone().begin(|| panic!("a second thread")));
        assert_eq!(errand.within(Duration::MAX, || 1), None);
        go_on.send(()).unwrap();
        while !errand.begin(|| ()) {
            thread::yield_now();
        }
    }

    #[test]
    fn one_that_does_not_hang_says_what_came_of_it() {
        assert_eq!(Errand::default().within(Duration::MAX, || 7), Some(7));
    }
}
