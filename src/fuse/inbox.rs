//! What other threads leave for one that serves.

use super::images::Answered;
use super::slots::Slot;
use crate::device::Waker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Something for a thread.
#[derive(Debug)]
pub(super) enum Mail {
    /// fuser's answer to a request that the thread keeps the ring entry of.
    Forwarded(u64, Vec<u8>),
    /// An answer for a ring entry of the thread: it is to give it to the kernel.
    Return(Slot, Answered),
}

/// The letterbox of one thread.
#[derive(Debug)]
pub(super) struct Inbox {
    waker: Waker,
    /// Looked at in every round, so without a lock.
    any: AtomicBool,
    mail: Mutex<Vec<Mail>>,
}

impl Inbox {
    pub(super) fn new(waker: Waker) -> Self {
        Self { waker, any: AtomicBool::new(false), mail: Mutex::default() }
    }

    /// Leaves something, and wakes the thread.
    pub(super) fn put(&self, mail: Mail) {
        let mut all = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(mail);
        self.any.store(true, Ordering::Release);
        drop(all);
        self.waker.wake();
    }

    /// Only wakes the thread.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Takes everything, in its order.
    pub(super) fn take(&self, into: &mut Vec<Mail>) {
        if self.any.load(Ordering::Acquire) {
            let mut all = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
            self.any.store(false, Ordering::Release);
            into.append(&mut all);
        }
    }
}
