//! What was not as it must be, and what was done.

use super::stage::Stage;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// More of them say nothing new.
const MOST: usize = 20;

#[derive(Default)]
pub(super) struct Verdict {
    violations: Mutex<Vec<String>>,
    over: AtomicBool,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    facts: Mutex<Vec<(&'static str, String)>>,
}

impl Verdict {
    /// Something is not as it must be: that is the end.
    pub(super) fn violated(&self, what: String) {
        self.blame(what);
        self.over.store(true, Ordering::Relaxed);
    }

    /// Something is not as it must be; what is still to be looked at can be looked at.
    pub(super) fn blame(&self, what: String) {
        let mut violations = self.violations.lock().unwrap_or_else(PoisonError::into_inner);
        if violations.len() < MOST {
            eprintln!("VIOLATED: {what}");
            violations.push(what);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, what: &'static str, more: u64) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += more;
    }

    pub(super) fn counted(&self, what: &'static str) -> u64 {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(what).copied().unwrap_or_default()
    }

    /// Something to know, for the table.
    pub(super) fn note(&self, what: &'static str, text: String) {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).push((what, text));
    }

    /// The table, and what comes of it.
    pub(super) fn print(&self, stage: &Stage) -> ExitCode {
        for (what, count) in &*self.counts.lock().unwrap_or_else(PoisonError::into_inner) {
            println!("{what:28} {count}");
        }
        for (what, text) in &*self.facts.lock().unwrap_or_else(PoisonError::into_inner) {
            println!("{what:28} {text}");
        }
        let violations = self.violations.lock().unwrap_or_else(PoisonError::into_inner);
        if violations.is_empty() {
            println!("nothing was violated");
            return ExitCode::SUCCESS;
        }
        println!("violated:");
        violations.iter().for_each(|violation| println!("  {violation}"));
        println!("the end of the log:\n{}", stage.end_of_log());
        ExitCode::FAILURE
    }
}
