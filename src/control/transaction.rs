//! One open `ctl` file: a command is written to it, and its answer read from it.
//!
//! A command ends with the newline at the end of a write. What does not end so goes on with the next write, or is complete
//! when somebody begins to read.

/// The longest command, in bytes: that of a device with some ten thousand groups.
const LONGEST: usize = 1 << 20;

/// A conversation by one open file.
#[derive(Debug, Default)]
pub struct Transaction {
    command: Vec<u8>,
    answer: Vec<u8>,
    read: usize,
}

/// A command is longer than any can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Transaction {
    /// Takes what was written; a command if it is complete by that.
    ///
    /// # Errors
    /// When it becomes too long; all of it is forgotten then.
    pub fn write(&mut self, data: &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        self.answer.clear();
        self.read = 0;
        if self.command.len() + data.len() > LONGEST {
            self.command.clear();
            return Err(TooLong);
        }
        self.command.extend_from_slice(data);
        Ok(if data.ends_with(b"\n") { self.complete() } else { None })
    }

    /// Nothing more comes: what was written without a newline is a command, too.
    pub fn complete(&mut self) -> Option<Vec<u8>> {
        let command = std::mem::take(&mut self.command);
        (!command.is_empty()).then_some(command)
    }

    /// One that somebody else has begun: what was written of a command, the answer to the last one, and how much of that was
    /// read.
    pub fn go_on(command: Vec<u8>, answer: Vec<u8>, read: usize) -> Self {
        let read = read.min(answer.len());
        Self { command, answer, read }
    }

    /// What was written of a command that is not complete.
    pub fn begun(&self) -> &[u8] {
        &self.command
    }

    /// The answer, and how much of it was read.
    pub fn answered(&self) -> (&[u8], usize) {
        (&self.answer, self.read)
    }

    /// The answer to the last command.
    pub fn answer(&mut self, text: String) {
        (self.answer, self.read) = (text.into_bytes(), 0);
    }

    /// The next bytes of the answer, at most `size`; nothing at its end.
    pub fn read(&mut self, size: usize) -> Vec<u8> {
        let end = self.read.saturating_add(size).min(self.answer.len());
        let piece = self.answer[self.read..end].to_vec();
        self.read = end;
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_complete_with_its_newline() {
        let mut transaction = Transaction::default();
        assert_eq!(transaction.write(b"create a\n0 1 ioband"), Ok(None));
        assert_eq!(transaction.write(b" x\n"), Ok(Some(b"create a\n0 1 ioband x\n".to_vec())));
        transaction.answer("done\n".into());
        assert_eq!(transaction.read(3), b"don");
        assert_eq!(transaction.read(99), b"e\n");
        assert_eq!(transaction.read(99), b"");
        assert_eq!(transaction.complete(), None);
    }

    #[test]
    fn or_when_somebody_reads() {
        let mut transaction = Transaction::default();
        assert_eq!(transaction.write(b"table"), Ok(None));
        assert_eq!(transaction.complete(), Some(b"table".to_vec()));
    }

    #[test]
    fn a_new_command_makes_the_old_answer_void() {
        let mut transaction = Transaction::default();
        transaction.answer("old".into());
        assert_eq!(transaction.write(b"x"), Ok(None));
        assert_eq!(transaction.read(9), b"");
    }

    #[test]
    fn it_is_bounded() {
        let mut transaction = Transaction::default();
        assert_eq!(transaction.write(&[b'x'; LONGEST]), Ok(None));
        transaction.answer("old".into());
        assert_eq!(transaction.read(2), b"ol");
        assert_eq!(transaction.write(&[b'y'; LONGEST + 1]), Err(TooLong));
        assert_eq!((transaction.complete(), transaction.read(9)), (None, Vec::new()));
    }
}
