//! A text that somebody is writing: what was written so far, and what is to become of it.
//!
//! Each open file has a draft of its own, so that two editors at once cannot mix their bytes, and what is half written is
//! nowhere to be seen.

use serde::{Deserialize, Serialize};

/// A file while it is being written.
#[derive(Debug)]
pub struct Draft {
    bytes: Vec<u8>,
    most: usize,
    state: DraftState,
}

/// How far a draft is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DraftState {
    /// Nothing was written since it was opened or put in force. A file that was only emptied counts as that: whoever
    /// empties it is about to write.
    #[default]
    Unchanged,
    /// To be put in force.
    Written,
    /// It was, and that was refused with this errno; nothing was written since.
    Refused(i32),
}

/// Why bytes cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Draft {
    /// A draft that begins with `bytes` and has no more than `most`.
    pub fn new(bytes: Vec<u8>, most: usize) -> Self {
        Self { bytes, most, state: DraftState::Unchanged }
    }

    /// One that somebody else has begun.
    pub fn go_on(bytes: Vec<u8>, most: usize, state: DraftState) -> Self {
        Self { bytes, most, state }
    }

    /// How far it is.
    pub fn state(&self) -> DraftState {
        self.state
    }

    /// What it holds.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// At most `size` bytes from `offset` on.
    pub fn read(&self, offset: u64, size: usize) -> &[u8] {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        &self.bytes[start..start.saturating_add(size).min(self.bytes.len())]
    }

    /// Writes at `offset`; what lies between the end and there becomes zeroes, as in any file.
    ///
    /// # Errors
    /// When it would be too large. It cannot be put in force then: its text is not whole.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), TooLarge> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(data.len());
        if end > self.most {
            self.state = DraftState::Refused(libc::EFBIG);
            return Err(TooLarge);
        }
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(data);
        self.touch();
        Ok(())
    }

    /// Appends.
    ///
    /// # Errors
    /// As [`Draft::write`].
    pub fn append(&mut self, data: &[u8]) -> Result<(), TooLarge> {
        self.write(self.bytes.len() as u64, data)
    }

    /// Cuts it off, or fills it up with zeroes.
    ///
    /// # Errors
    /// As [`Draft::write`].
    pub fn resize(&mut self, len: u64) -> Result<(), TooLarge> {
        let len = usize::try_from(len).ok().filter(|len| *len <= self.most).ok_or(TooLarge)?;
        self.bytes.resize(len, 0);
        if len > 0 {
            self.touch();
        }
        Ok(())
    }

    fn touch(&mut self) {
        // Too large once, it stays so: what did not fit is missing.
        if self.state != DraftState::Refused(libc::EFBIG) {
            self.state = DraftState::Written;
        }
    }

    /// What there is to put in force, if anything was written since the last time.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        (self.state == DraftState::Written).then(|| {
            self.state = DraftState::Unchanged;
            self.bytes.clone()
        })
    }

    /// What was taken has been refused.
    pub fn refuse(&mut self, errno: i32) {
        // Unless more was written meanwhile: then that is to be tried first.
        if self.state == DraftState::Unchanged {
            self.state = DraftState::Refused(errno);
        }
    }

    /// The errno that it was refused with, as long as nothing more was written.
    pub fn refused(&self) -> Option<i32> {
        match self.state {
            DraftState::Refused(errno) => Some(errno),
            DraftState::Unchanged | DraftState::Written => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_like_a_file() {
        let mut draft = Draft::new(b"abc".to_vec(), 10);
        assert_eq!(draft.take(), None);
        draft.write(1, b"XYZ").unwrap();
        draft.append(b"!").unwrap();
        draft.write(7, b"?").unwrap();
        assert_eq!(draft.bytes(), b"aXYZ!\0\0?");
        draft.resize(3).unwrap();
        assert_eq!((draft.read(1, 9), draft.read(99, 1)), (&b"XY"[..], &b""[..]));
        assert_eq!(draft.take(), Some(b"aXY".to_vec()));
        assert_eq!(draft.take(), None);
    }

    #[test]
    fn emptying_is_not_yet_writing() {
        let mut draft = Draft::new(b"abc".to_vec(), 10);
        draft.resize(0).unwrap();
        assert_eq!(draft.take(), None);
    }

    #[test]
    fn what_did_not_fit_makes_it_worthless() {
        let mut draft = Draft::new(Vec::new(), 4);
        draft.write(0, b"abcd").unwrap();
        assert_eq!(draft.append(b"e"), Err(TooLarge));
        assert_eq!(draft.write(u64::MAX, b"e"), Err(TooLarge));
        draft.write(0, b"x").unwrap();
        assert_eq!((draft.take(), draft.refused()), (None, Some(libc::EFBIG)));
    }

    #[test]
    fn a_refusal_stands_until_something_is_written() {
        let mut draft = Draft::new(Vec::new(), 10);
        draft.write(0, b"a").unwrap();
        assert!(draft.take().is_some());
        draft.refuse(libc::EINVAL);
        assert_eq!((draft.take(), draft.refused()), (None, Some(libc::EINVAL)));
        draft.write(0, b"b").unwrap();
        assert_eq!(draft.refused(), None);
        assert!(draft.take().is_some());
        draft.write(0, b"c").unwrap();
        draft.refuse(libc::EINVAL);
        assert_eq!((draft.refused(), draft.take()), (None, Some(b"c".to_vec())));
    }
}
