//! Why a command is refused.

use std::fmt;

/// What a program gets to see, an errno, and what people get to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the call that gave the command fails with.
    pub errno: i32,
    /// What was wrong and what would be right, in one plain sentence without a full stop.
    pub sentence: String,
}

impl Refusal {
    /// A refusal with an errno of its own.
    pub fn new(errno: i32, sentence: impl Into<String>) -> Self {
        Self { errno, sentence: sentence.into() }
    }

    /// What is asked for makes no sense, or not here: EINVAL.
    pub fn invalid(sentence: impl Into<String>) -> Self {
        Self::new(libc::EINVAL, sentence)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Refusal {}
