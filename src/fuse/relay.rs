//! The way to fuser, which answers everything that is not about the bytes of images.
//!
//! fuser is given one end of a pair of sockets for its /dev/fuse, and does with it what it does best: agrees with the kernel
//! on a protocol, and turns metadata operations into typed calls. We keep the connection itself, pass on to the other end
//! what is fuser's, as it is, and carry fuser's answers back.

use super::metadata::Metadata;
use super::server::Hold;
use super::wire::{
    HAS_RESEND, INIT_EXT, InHeader, InitIn, OVER_IO_URING, OutHeader, ReadIn, SetattrIn, WriteIn, opcode,
    parse,
};
use fuser::{Session, SessionACL};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, sendmsg, setsockopt, socketpair, sockopt,
};
use rustix::process::{getpriority_process, setpriority_process};
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use zerocopy::IntoBytes;

/// Most bytes that are read or written through fuser at once: control files and folders, whose readers come back for the
/// rest. A message of this size goes through a socket of every user.
const MOST: u32 = 128 << 10;
/// Room for the largest message, an answer of fuser with its header.
pub(super) const MESSAGE: usize = MOST as usize + 4096;

/// Where the answer to a forwarded request belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To the descriptor with this number.
    Descriptor(usize),
    /// To the thread with this number, which has the request's ring entry.
    Thread(usize),
}

/// Our end.
#[derive(Debug)]
pub(super) struct Relay {
    socket: OwnedFd,
    /// Requests with fuser, by their unique number.
    routes: Mutex<HashMap<u64, Route>>,
    /// What did not fit into the socket at once, in its order.
    late: mpsc::Sender<Vec<u8>>,
}

/// The kernel's first request, which says what it offers.
pub(super) struct Init {
    message: Vec<u8>,
    asked: InitIn,
}

impl Init {
    /// Waits for it.
    pub(super) fn read(connection: BorrowedFd<'_>) -> io::Result<Self> {
        // The kernel wants room for the largest write that it knows of, which before INIT is small.
        let mut message = vec![0; 1 << 20];
        let len = loop {
            match nix::unistd::read(connection, &mut message) {
                Err(Errno::EAGAIN) => {
                    poll(&mut [PollFd::new(connection, PollFlags::POLLIN)], PollTimeout::NONE)?;
                }
                Err(Errno::EINTR | Errno::ENOENT) => {}
                len => break len?,
            }
        };
        message.truncate(len);
        Self::saved(message)
    }

    /// The one that a predecessor has read.
    pub(super) fn saved(message: Vec<u8>) -> io::Result<Self> {
        let is_init = parse(&message).is_some_and(|header: InHeader| header.opcode == opcode::INIT);
        // Older kernels say less, and offer less.
        let mut arguments = message.get(size_of::<InHeader>()..).unwrap_or_default().to_vec();
        arguments.resize(size_of::<InitIn>().max(arguments.len()), 0);
        match parse(&arguments) {
            Some(asked) if is_init => Ok(Self { message, asked }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's first request is not INIT")),
        }
    }

    /// The request, for a successor.
    pub(super) fn into_message(self) -> Vec<u8> {
        self.message
    }

    /// Whether the kernel can send again what was not answered.
    pub(super) fn offers_resend(&self) -> bool {
        self.asked.flags & INIT_EXT != 0 && self.asked.flags2 & HAS_RESEND != 0
    }

    /// Whether the kernel offers to send requests by io_uring.
    pub(super) fn offers_io_uring(&self) -> bool {
        self.asked.flags & INIT_EXT != 0 && self.asked.flags2 & OVER_IO_URING != 0
    }
}

/// Lets the threads that serve data go before this one: no share governs names and attributes, so a flood of them is not to
/// take the processors from those whose requests have one.
pub(super) fn step_back() {
    const NICER: i32 = 5;
    let stepped = getpriority_process(None).and_then(|nice| setpriority_process(None, nice + NICER));
    if let Err(error) = stepped {
        tracing::debug!(%error, "a thread does not step back");
    }
}

/// fuser negates the seconds of times before 1970, and the very first one has no counterpart: it would be fuser's end. It
/// becomes the second, which is as good.
fn with_times_of_fuser(asked: SetattrIn) -> SetattrIn {
    let [atime, mtime, ctime] = [asked.atime, asked.mtime, asked.ctime].map(|time| time.max(-i64::MAX));
    SetattrIn { atime, mtime, ctime, ..asked }
}

impl Relay {
    /// Starts fuser, and lets it answer the kernel's first request by way of who holds the connection; by way of nobody, where
    /// the kernel has had its answer from a predecessor.
    pub(super) fn start(
        holder: Option<&dyn Hold>,
        init: &Init,
        metadata: Metadata,
        acl: SessionACL,
    ) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        for end in [&ours, &theirs] {
            // A little more than the default; what is not granted only makes messages wait.
            let _ = setsockopt(end, sockopt::SndBuf, &(4 * MESSAGE));
        }
        // For who answers in fuser's place. Open as long as fuser lives and no longer: our end must see when it has ended.
        let place = Arc::new(theirs.try_clone()?);
        let fusers = Arc::downgrade(&place);
        thread::Builder::new().name("fuse".into()).spawn(move || {
            let _place = place;
            step_back();
            let session = Session::from_fd(metadata, theirs, acl, fuser::Config::default());
            match session.and_then(Session::run) {
                // It ends with the program, which closes our end.
                Ok(()) => {}
                Err(error) => tracing::debug!(%error, "the metadata session has ended"),
            }
        })?;
        send(ours.as_raw_fd(), &init.message, MsgFlags::empty())?;
        let mut answer = vec![0; MESSAGE];
        let len = recv(ours.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's FUSE is too old"));
        }
        if let Some(holder) = holder {
            holder.answer_first(&answer[..len])?;
        }
        let (late, waiting) = mpsc::channel::<Vec<u8>>();
        let slow = ours.try_clone()?;
        thread::Builder::new().name("relay-late".into()).spawn(move || {
            for message in waiting {
                let Err(error) = send(slow.as_raw_fd(), &message, MsgFlags::empty()) else { continue };
                tracing::error!(%error, "a request could not be passed on");
                // In fuser's place, so that it goes the way of every answer.
                if let (Some(fusers), Some(InHeader { unique, .. })) = (fusers.upgrade(), parse(&message)) {
                    let failed = OutHeader::new(unique, Err(libc::EIO));
                    let told = send(fusers.as_raw_fd(), failed.as_bytes(), MsgFlags::empty());
                    if let Err(error) = told {
                        tracing::error!(%error, "a caller gets no answer");
                    }
                }
            }
        })?;
        Ok(Self { socket: ours, routes: Mutex::default(), late })
    }

    fn routes(&self) -> MutexGuard<'_, HashMap<u64, Route>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a request on. Never waits.
    pub(super) fn forward(&self, header: InHeader, arguments: &[u8], data: &[u8], route: Route) {
        let mut header = header;
        let (mut read, mut write, mut set) = (None, None, None);
        let mut data = data;
        match header.opcode {
            opcode::READ | opcode::READDIR | opcode::READDIRPLUS => {
                read = parse(arguments).map(|asked: ReadIn| ReadIn { size: asked.size.min(MOST), ..asked });
            }
            opcode::WRITE => {
                // Answered as a short write, after which the caller comes with the rest.
                data = &data[..data.len().min(MOST as usize)];
                write = parse(arguments).map(|asked: WriteIn| WriteIn { size: data.len() as u32, ..asked });
            }
            opcode::SETATTR => set = parse(arguments).map(with_times_of_fuser),
            _ => {}
        }
        let arguments = match (&read, &write, &set) {
            (Some(asked), ..) => asked.as_bytes(),
            (_, Some(asked), _) => asked.as_bytes(),
            (.., Some(asked)) => asked.as_bytes(),
            _ => arguments,
        };
        header.len = (size_of::<InHeader>() + arguments.len() + data.len()) as u32;
        // Before it is sent: the answer may be quicker than we are.
        self.routes().insert(header.unique, route);
        let parts = [header.as_bytes(), arguments, data].map(IoSlice::new);
        if let Err(error) = sendmsg::<()>(self.socket.as_raw_fd(), &parts, &[], MsgFlags::MSG_DONTWAIT, None)
        {
            if error != Errno::EAGAIN {
                tracing::error!(%error, "a request cannot be passed on at once");
            }
            // Mostly the socket is full. Its order among others does not matter: where it does, the kernel waits for answers.
            let message = [header.as_bytes(), arguments, data].concat();
            // Without that thread there is no daemon.
            let _ = self.late.send(message);
        }
    }

    /// Waits for fuser's next answer. Says how long it is, where it belongs and to which request; `None` for what is no answer
    /// (a notification), which belongs to the connection. `message` has [`MESSAGE`] bytes.
    ///
    /// # Errors
    /// When fuser has ended.
    pub(super) fn answer(&self, message: &mut [u8]) -> io::Result<(usize, Option<(Route, u64)>)> {
        loop {
            let len = match recv(self.socket.as_raw_fd(), message, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => len?,
            };
            let Some(OutHeader { unique, .. }) = parse(&message[..len]) else { continue };
            if unique == 0 {
                return Ok((len, None));
            }
            match self.routes().remove(&unique) {
                Some(route) => return Ok((len, Some((route, unique)))),
                None => tracing::warn!(unique, "an answer to nothing that was asked"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_the_end_of_fuser() {
        let words: [u64; 11] = [0, 1, 2, 3, i64::MIN as u64, 5, i64::MIN as u64 + 1, 7, 8, 9, 10];
        let asked = with_times_of_fuser(parse(words.as_bytes()).unwrap());
        assert_eq!((asked.atime, asked.mtime, asked.ctime), (-i64::MAX, 5, -i64::MAX));
        let changed = [&words[..4], &[-i64::MAX as u64], &words[5..]].concat();
        assert_eq!(asked.as_bytes(), changed.as_bytes());
    }
}
