//! The last things that people should know of: refusals, changes, faults.

use crate::clock;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// More than fits an attentive look; older ones are in the log.
const KEPT: usize = 256;

/// The last events, oldest first, bounded.
#[derive(Debug, Default)]
pub struct Events(Mutex<VecDeque<String>>);

impl Events {
    /// Adds an event, in one line; it is logged as well.
    pub fn add(&self, text: &str) {
        tracing::info!(target: "ioband::events", "{text}");
        let line = format!("{} {}\n", clock::wall_text(), text.replace('\n', " "));
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A program that repeats a refused call in a loop must not push everything else out.
        let repeated =
            |last: &String| last.split_once(' ').map(|(_, t)| t) == line.split_once(' ').map(|(_, t)| t);
        if events.back().is_some_and(repeated) {
            events.pop_back();
        }
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(line);
    }

    /// All of them as text, newest last.
    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_come_last_and_the_oldest_go() {
        let events = Events::default();
        for i in 0..KEPT + 10 {
            events.add(&format!("event {i}"));
        }
        let text = events.text();
        assert_eq!(text.lines().count(), KEPT);
        assert!(text.lines().next().is_some_and(|l| l.ends_with("event 10")), "{text}");
        assert!(text.lines().last().is_some_and(|l| l.ends_with(&format!("event {}", KEPT + 9))));
    }

    #[test]
    fn a_repeated_event_stands_once_and_in_one_line() {
        let events = Events::default();
        events.add("a\nb");
        events.add("a\nb");
        assert_eq!(events.text().lines().count(), 1);
    }
}
