//! A connection that outlives who serves it: what was not answered is asked for again, or refused by who merely keeps it.

use super::wire::{AGAIN, HEADERS, InHeader, OutHeader, RESEND, WAKE, opcode, parse};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::io;
use std::os::fd::OwnedFd;
use zerocopy::IntoBytes;

/// Has the kernel send again everything that was read, by whomever, and not answered (Linux 6.9).
///
/// # Errors
/// The kernel cannot do that.
pub(crate) fn resend(connection: &OwnedFd) -> io::Result<()> {
    let notification = OutHeader { len: size_of::<OutHeader>() as u32, error: RESEND, unique: 0 };
    nix::unistd::write(connection, notification.as_bytes())?;
    Ok(())
}

/// Wakes who waits for files to have something to read, by the numbers that the kernel gave them; they look and wait again.
pub(super) fn wake(connection: &OwnedFd, waiting: &[u64]) {
    for number in waiting {
        let header =
            OutHeader { len: (size_of::<OutHeader>() + size_of::<u64>()) as u32, error: WAKE, unique: 0 };
        let message = [header.as_bytes(), &number.to_ne_bytes()].concat();
        // Whoever has gone meanwhile waits no more.
        if let Err(error) = nix::unistd::write(connection, &message) {
            tracing::debug!(%error, "a reader of events could not be told");
        }
    }
}

/// So many requests are refused before whoever keeps the mount looks at what else there is.
const AT_ONCE: usize = 128;

/// Refuses requests where there is nobody to serve them.
#[derive(Debug)]
pub(crate) struct Refusing {
    buffer: Vec<u8>,
    /// Of the requests that were sent again and refused, the numbers of those that may have opened a file.
    opened: Vec<u64>,
}

impl Refusing {
    /// For a connection whose server has died: also what it has left behind. Requests may have as many bytes as `largest`.
    pub(crate) fn new(connection: &OwnedFd, largest: usize) -> Self {
        if let Err(error) = resend(connection) {
            tracing::error!(%error, "what a dead worker had accepted stays without an answer");
        }
        Self::of_ended(largest)
    }

    /// For a connection that has ended, of which there is nothing to be had but why.
    pub(crate) fn of_ended(largest: usize) -> Self {
        // The kernel wants room for the largest write.
        Self { buffer: vec![0; super::server::room(largest) + HEADERS], opened: Vec::new() }
    }

    /// The numbers of requests that a dead worker may have carried out as far as to open a file, and that were refused since:
    /// nobody closes these files. Each is told once.
    pub(crate) fn opened(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.opened)
    }

    /// Answers what there is with EIO, which is what a disk that cannot be had says; but only to those threads that are `whose`,
    /// while the others wait for who serves next. No more than [`AT_ONCE`]: callers that try again at once would keep us here.
    /// False if the connection has ended.
    ///
    /// # Errors
    /// The connection cannot be read.
    pub(crate) fn refuse(&mut self, connection: &OwnedFd, whose: impl Fn(u32) -> bool) -> io::Result<bool> {
        // Who waits here has other things to wait for.
        let flags = OFlag::from_bits_retain(fcntl(connection, FcntlArg::F_GETFL)?);
        fcntl(connection, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let mut refused = 0;
        while refused < AT_ONCE {
            let len = match nix::unistd::read(connection, &mut self.buffer) {
                Ok(len) => len,
                Err(Errno::EINTR | Errno::ENOENT) => continue,
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::ENODEV) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let Some(InHeader { opcode, unique, pid, .. }) = parse(&self.buffer[..len]) else { continue };
            // Nobody waits for an answer to the first two. That a file is closed a successor has to know, and it does when
            // it is sent again; nobody waits for that either.
            if matches!(opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::RELEASE | opcode::INTERRUPT)
                || !whose(pid)
            {
                continue;
            }
            super::dev::write(connection, OutHeader::new(unique, Err(libc::EIO)).as_bytes());
            refused += 1;
            if matches!(opcode, opcode::OPEN | opcode::CREATE) && unique & AGAIN != 0 {
                self.opened.push(unique & !AGAIN);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
    use std::os::fd::AsRawFd;

    /// A connection, and its other end, which stands for the kernel and has heard what a new keeper says first.
    fn connection() -> (Refusing, OwnedFd, OwnedFd) {
        let (ours, kernel) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let refusing = Refusing::new(&ours, 32 << 20);
        recv(kernel.as_raw_fd(), &mut [0; 64], MsgFlags::empty()).unwrap();
        (refusing, ours, kernel)
    }

    fn ask(kernel: &OwnedFd, opcode: u32, unique: u64) {
        let len = size_of::<InHeader>() as u32;
        let header =
            InHeader { len, opcode, unique, nodeid: 1, uid: 0, gid: 0, pid: 1, total_extlen: 0, padding: 0 };
        send(kernel.as_raw_fd(), header.as_bytes(), MsgFlags::empty()).unwrap();
    }

    fn answers(kernel: &OwnedFd) -> usize {
        let mut answer = [0; 64];
        (0..).take_while(|_| recv(kernel.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).is_ok()).count()
    }

    #[test]
    fn who_asks_again_at_once_does_not_keep_it() {
        let (mut refusing, ours, kernel) = connection();
        for unique in 0..AT_ONCE as u64 + 10 {
            ask(&kernel, opcode::READ, 2 * unique);
        }
        assert!(refusing.refuse(&ours, |_| true).unwrap());
        assert_eq!(answers(&kernel), AT_ONCE);
        assert!(refusing.refuse(&ours, |_| true).unwrap());
        assert_eq!(answers(&kernel), 10);
    }

    #[test]
    fn there_is_room_for_what_the_kernel_was_told_whatever_it_takes_now() {
        let (refusing, _ours, _kernel) = connection();
        assert_eq!(refusing.buffer.len(), (32 << 20) + HEADERS);
    }

    #[test]
    fn what_a_dead_worker_may_have_opened_is_told_when_it_was_refused() {
        let (mut refusing, ours, kernel) = connection();
        for (opcode, unique) in [
            (opcode::OPEN, 2 | AGAIN),
            (opcode::CREATE, 4 | AGAIN),
            // Opens nothing; has reached no worker; is another's.
            (opcode::READ, 6 | AGAIN),
            (opcode::OPEN, 8),
        ] {
            ask(&kernel, opcode, unique);
        }
        assert!(refusing.refuse(&ours, |_| true).unwrap());
        ask(&kernel, opcode::OPEN, 10 | AGAIN);
        assert!(refusing.refuse(&ours, |_| false).unwrap());
        assert_eq!(answers(&kernel), 4);
        assert_eq!(refusing.opened(), [2, 4]);
        assert!(refusing.opened().is_empty());
    }
}
