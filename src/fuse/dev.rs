//! The transport that works everywhere: requests read from /dev/fuse, answers written to it.
//!
//! A request is read so that the data of a write come to lie where the device can write them from, and an answer is written
//! from where the device has read it to: header and data are next to each other in the slot.

use super::images::{Answered, kind};
use super::slots::{Free, HEAD, Pool, Slot};
use super::wire::{HEADERS, InHeader, OutHeader, WriteIn, WriteOut, opcode, parse};
use crate::engine::Pieces;
use nix::errno::Errno;
use smallvec::{SmallVec, smallvec};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use zerocopy::IntoBytes;

/// One thread's end of /dev/fuse.
pub(super) struct Dev {
    /// Number of its descriptor.
    pub(super) descriptor: usize,
    free: Free,
    /// Where requests are read into, all of it in memory. The kernel copies a request to pages that are there whatever
    /// happens; but if it has to get them first while this process is being killed, it gives up, and the request has failed.
    landing: Option<Slot>,
    pub(super) state: State,
}

/// Data of up to this many bytes are copied from where they landed: that takes less than to have another place ready.
const COPIED: usize = 256 << 10;

/// So many parts of an answer one call writes (UIO_MAXIOV). A read of an image in many pieces can have more.
const MOST_PARTS: usize = 1024;

/// What is known of requests that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// There may be some.
    Ready,
    /// There were none, and nobody looks for more.
    Drained,
    /// There were none; the lane tells when there are.
    Watching,
    /// No slot is free, or no memory.
    Full,
    /// The connection has ended, or this is not its reader.
    Ended,
}

/// What there was to read.
pub(super) enum Read {
    Request(Slot, InHeader),
    Nothing,
    Ended(io::Result<()>),
}

impl Dev {
    pub(super) fn new(descriptor: usize, state: State) -> Self {
        Self { descriptor, free: Free::new(), landing: None, state }
    }

    /// Reads the next request into a free slot.
    pub(super) fn read(&mut self, descriptor: &OwnedFd, pool: &Pool) -> Read {
        loop {
            if !pool.has_memory() {
                self.state = State::Full;
                return Read::Nothing;
            }
            // First, so that what is read has a place to go to.
            let Some(slot) = self.free.take(pool) else {
                self.state = State::Full;
                return Read::Nothing;
            };
            // To have all of it in memory takes long, so the landing is kept where there is another slot for the request.
            let (slot, mut landing) = match self.landing.take() {
                Some(landing) => (Some(slot), landing),
                None => (self.free.take(pool), slot.populated()),
            };
            let read = nix::unistd::read(descriptor, &mut landing.bytes_mut()[HEAD - HEADERS..]);
            let found = match read {
                Ok(len) => match header(&landing).filter(|header| header.len as usize == len) {
                    Some(header) => return self.landed(slot, landing, header),
                    None => {
                        // Not in this protocol.
                        tracing::error!(len, "the kernel sent a request without an end");
                        None
                    }
                },
                // Interrupted, or the caller has given up between two looks.
                Err(Errno::EINTR | Errno::ENOENT) => None,
                Err(Errno::EAGAIN) => Some((State::Drained, Read::Nothing)),
                Err(error) => {
                    let how = if error == Errno::ENODEV { Ok(()) } else { Err(error.into()) };
                    Some((State::Ended, Read::Ended(how)))
                }
            };
            self.landing = Some(landing);
            slot.map(|slot| self.free.put(pool, slot));
            if let Some((state, read)) = found {
                self.state = state;
                return read;
            }
        }
    }

    /// Brings a request from where it landed to its slot, if it has one; if not, or if that would take long, it stays, and the
    /// next one lands elsewhere.
    fn landed(&mut self, slot: Option<Slot>, mut landing: Slot, header: InHeader) -> Read {
        let len = header.len as usize;
        let data = len.saturating_sub(HEADERS);
        match slot {
            Some(mut slot) if data <= COPIED => {
                let all = HEAD - HEADERS..HEAD - HEADERS + len;
                slot.bytes_mut()[all.clone()].copy_from_slice(&landing.bytes()[all]);
                slot.used(data);
                self.landing = Some(landing);
                Read::Request(slot, header)
            }
            slot => {
                landing.keep(data);
                landing.used(data);
                self.landing = slot.map(Slot::populated);
                Read::Request(landing, header)
            }
        }
    }

    /// Answers the request in the slot, which is free then. True if somebody waits for a slot.
    pub(super) fn answer(
        &mut self,
        descriptor: &OwnedFd,
        pool: &Pool,
        mut slot: Slot,
        answered: Answered,
    ) -> bool {
        const HEADER: usize = size_of::<OutHeader>();
        let body = answered.complete(&mut slot);
        let header = OutHeader::new(answered.unique, body);
        let bytes = slot.bytes_mut();
        bytes[HEAD - HEADER..HEAD].copy_from_slice(header.as_bytes());
        write(descriptor, &bytes[HEAD - HEADER..][..header.len as usize]);
        self.release(pool, slot)
    }

    /// Does not read for now, so others can have the free slots. True if somebody waits for one.
    pub(super) fn rest(&mut self, pool: &Pool) -> bool {
        self.free.put_all(pool)
    }

    /// Takes a slot back that is not needed any more. True if somebody waits for one.
    pub(super) fn release(&mut self, pool: &Pool, mut slot: Slot) -> bool {
        slot.trim(0);
        let starving = self.free.put(pool, slot);
        if self.state == State::Full {
            self.state = State::Ready;
        }
        starving
    }
}

/// Answers a request that has left its slot, with what it was to read if it is that.
pub(super) fn answer_elsewhere(descriptor: &OwnedFd, answered: Answered, pieces: &Pieces) {
    let Answered { unique, kind, len, result } = answered;
    let written = WriteOut { size: len, padding: 0 };
    let mut parts: SmallVec<[&[u8]; 3]> = match kind {
        kind::DATA => pieces.iter().map(|piece| &piece[..]).collect(),
        kind::WRITTEN => smallvec![written.as_bytes()],
        _ => SmallVec::new(),
    };
    let sum: usize = parts.iter().map(|part| part.len()).sum();
    // Sizes are in 32 bits in the protocol.
    let header = OutHeader::new(unique, result.map(|()| sum as u32));
    if result.is_err() {
        parts.clear();
    }
    parts.insert(0, header.as_bytes());
    let parts: SmallVec<[IoSlice<'_>; 4]> = parts.into_iter().map(IoSlice::new).collect();
    let written = if parts.len() > MOST_PARTS {
        let whole: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        nix::unistd::write(descriptor, &whole)
    } else {
        nix::sys::uio::writev(descriptor, &parts)
    };
    settle(descriptor, unique, written);
}

/// Header, number of bytes of arguments, and of data, of the request in a slot.
pub(super) fn request(slot: &Slot, arguments: &mut [u8; 128]) -> Option<(InHeader, usize, usize)> {
    let header = header(slot)?;
    let (these, data) = parts(slot, header);
    let len = these.len().min(arguments.len());
    arguments[..len].copy_from_slice(&these[..len]);
    Some((header, len, data.len()))
}

fn header(slot: &Slot) -> Option<InHeader> {
    parse(&slot.bytes()[HEAD - HEADERS..])
}

/// Arguments and data of the request in a slot.
pub(super) fn parts(slot: &Slot, header: InHeader) -> (&[u8], &[u8]) {
    let start = HEAD - HEADERS;
    let whole = &slot.bytes()[start..start + header.len as usize];
    let arguments = size_of::<InHeader>();
    let data = if header.opcode == opcode::WRITE { arguments + size_of::<WriteIn>() } else { whole.len() };
    (&whole[arguments..data.min(whole.len())], &whole[data.min(whole.len())..])
}

/// Writes an answer, or a notification.
pub(super) fn write(descriptor: &OwnedFd, message: &[u8]) {
    let unique = parse(message).map_or(0, |header: OutHeader| header.unique);
    settle(descriptor, unique, nix::unistd::write(descriptor, message));
}

/// An answer that the kernel refuses is no answer, and its caller would wait for ever: he gets EIO. Whom it was for may be gone;
/// nobody else needs to know.
fn settle(descriptor: &OwnedFd, unique: u64, written: nix::Result<usize>) {
    let told = |error| !matches!(error, Errno::ENOENT | Errno::ENODEV);
    let Some(error) = written.err().filter(|error| told(*error)) else { return };
    tracing::warn!(%error, "an answer was refused");
    // A notification is nobody's request.
    if unique == 0 {
        return;
    }
    let failed = OutHeader::new(unique, Err(libc::EIO));
    if let Some(error) = nix::unistd::write(descriptor, failed.as_bytes()).err().filter(|error| told(*error))
    {
        tracing::error!(%error, "a caller gets no answer");
    }
}

/// The kernel asks to interrupt a request. Every request is answered in its time, so it need not ask again.
pub(super) fn refuse_interrupt(descriptor: &OwnedFd, unique: u64) {
    write(descriptor, OutHeader::new(unique, Err(libc::ENOSYS)).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Payload;
    use crate::fuse::slots::Slots;
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
    use std::os::fd::AsRawFd;
    use std::sync::Arc;

    /// Takes messages whole, as /dev/fuse does, and refuses those that are too large.
    fn kernel() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    fn told(kernel: &OwnedFd) -> (OutHeader, Vec<u8>) {
        let mut message = vec![0; 256 << 10];
        let len = recv(kernel.as_raw_fd(), &mut message, MsgFlags::empty()).unwrap();
        let header = parse(&message).unwrap();
        (header, message[size_of::<OutHeader>()..len].to_vec())
    }

    #[test]
    fn a_landing_that_is_in_memory_is_kept_from_the_first_request_on() {
        let (ours, kernel) = kernel();
        let slots = Slots::new(8, 1 << 20, 0, Arc::default()).expect("address space");
        let pool = Pool::new(slots.all().collect(), slots);
        let mut dev = Dev::new(0, State::Ready);
        let mut landing = None;
        for unique in [2, 4, 6] {
            let len = size_of::<InHeader>() as u32;
            let mut words = [0_u32; 10];
            (words[0], words[1], words[2]) = (len, opcode::RELEASE, unique);
            send(kernel.as_raw_fd(), words.as_bytes(), MsgFlags::empty()).unwrap();
            let Read::Request(slot, header) = dev.read(&ours, &pool) else { panic!("no request") };
            assert_eq!(header.unique, u64::from(unique));
            dev.release(&pool, slot);
            let kept = dev.landing.as_ref().map(Slot::index);
            assert!(kept.is_some() && (landing.is_none() || landing == kept));
            landing = kept;
        }
    }

    #[test]
    fn what_was_read_in_very_many_pieces_is_answered_whole() {
        let (ours, kernel) = kernel();
        for count in [1_u16, 1023, 1024, 2048] {
            let pieces: Pieces = (0..count).map(|n| Payload::packed(&n.to_ne_bytes())).collect();
            let answered = Answered { unique: 6, kind: kind::DATA, len: 0, result: Ok(()) };
            answer_elsewhere(&ours, answered, &pieces);
            let (header, data) = told(&kernel);
            assert_eq!((header.unique, header.error, header.len), (6, 0, 16 + 2 * u32::from(count)));
            assert_eq!(data, (0..count).flat_map(u16::to_ne_bytes).collect::<Vec<_>>());
        }
    }

    #[test]
    fn whose_answer_is_refused_gets_an_error() {
        let (ours, kernel) = kernel();
        let mut message = vec![0; 16 << 20];
        message[..16].copy_from_slice(OutHeader::new(8, Ok(0)).as_bytes());
        write(&ours, &message);
        let (header, data) = told(&kernel);
        assert_eq!((header.unique, header.error, data.len()), (8, -libc::EIO, 0));
        // What is no answer is not answered for.
        message[..16].copy_from_slice(OutHeader::new(0, Ok(0)).as_bytes());
        write(&ours, &message);
        write(&ours, OutHeader::new(10, Ok(0)).as_bytes());
        assert_eq!(told(&kernel).0.unique, 10);
    }
}
