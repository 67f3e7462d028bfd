//! Words: how a value is refused, and how a path stays one word.

use crate::config::{Wrong, quoted};
use crate::control::Refusal;
use std::fmt::Write;

/// The largest bandwidth that can be said in KB/s; all sizes are below 2^63 bytes.
pub(crate) const MOST_KILOBYTES: u64 = i64::MAX as u64 >> 10;

/// Reads a value as configurations do; `right` says what would be right.
pub(super) fn value<T>(
    what: &str,
    text: &str,
    right: &str,
    read: impl FnOnce(&str, bool) -> Result<T, Wrong>,
) -> Result<T, Refusal> {
    read(text, true).map_err(|Wrong { reason, hint }| {
        let hint = hint.unwrap_or_else(|| right.to_owned());
        match text {
            "" => Refusal::invalid(format!("{what} is empty; {hint}")),
            text => Refusal::invalid(format!("{what} is {}, which is {reason}; {hint}", quoted(text))),
        }
    })
}

/// The text as one word: blanks, control characters and backslashes as in /proc/mounts.
pub(in crate::control) fn escaped(text: &str) -> String {
    let mut word = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_whitespace() || character.is_control() || character == '\\' {
            escape(character, &mut word);
        } else {
            word.push(character);
        }
    }
    word
}

/// Writes one character as the octal numbers of its bytes.
pub(super) fn escape(character: char, word: &mut String) {
    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
        // Writing to a String cannot fail.
        let _ = write!(word, "\\{byte:03o}");
    }
}

/// The text of a word; a backslash without the number of a byte behind it stands for itself. `None` if it is not UTF-8.
pub(super) fn unescaped(word: &str) -> Option<String> {
    let mut text = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let (byte, behind) = octal(rest).unwrap_or((*first, behind));
        text.push(byte);
        rest = behind;
    }
    String::from_utf8(text).ok()
}

/// The byte that a backslash and three digits stand for, and what is behind them.
fn octal(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, behind) = text.strip_prefix(b"\\")?.split_at_checked(3)?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    Some((u8::from_str_radix(digits, 8).ok()?, behind))
}
