//! The one corner of the FUSE code with `unsafe`: memory that is shared with the kernel, commands that name it, and
//! descriptors that a process was started with.
#![allow(unsafe_code)]

use super::slots::Slot;
use super::wire::command;
use crate::device::{Command, Lane, Payload};
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;

/// A descriptor that this process was started with, by its number.
///
/// # Errors
/// It is not open.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed for one call, which fails if the number is not that of an open descriptor. What is returned is
    // another descriptor, and ours alone.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}

/// What memory is given back in.
pub(super) const PAGE: usize = 4096;

/// Reserved address space: reads as zeroes, takes memory only where it was used, and is never given up.
#[derive(Debug)]
pub(super) struct Reserved {
    start: NonNull<u8>,
    len: usize,
    /// It is a part of a file, which others may have mapped, too.
    shared: bool,
}

// SAFETY: it is a range of addresses; who may use which part of it is what slots are about.
unsafe impl Send for Reserved {}
// SAFETY: as above.
unsafe impl Sync for Reserved {}

impl Reserved {
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let (access, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_NORESERVE);
        // SAFETY: a new private mapping, wherever the kernel likes.
        let start = unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_PRIVATE | flags)? };
        Ok(Self::of(start.cast(), len, false))
    }

    /// The beginning of a file of memory, at this address and no other.
    ///
    /// # Errors
    /// There is something else at that address.
    pub(super) fn of_file(file: BorrowedFd<'_>, address: usize, len: usize) -> io::Result<Self> {
        let none = io::ErrorKind::InvalidInput;
        let (size, at) = (NonZeroUsize::new(len).ok_or(none)?, NonZeroUsize::new(address).ok_or(none)?);
        let (access, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_NORESERVE);
        // SAFETY: a new mapping that replaces no other.
        let start = unsafe {
            mmap(
                Some(at),
                size,
                access,
                MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE | flags,
                file,
                0,
            )?
        };
        if start.as_ptr().addr() != address {
            // Before Linux 4.17 an address was a wish.
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self::of(start.cast(), len, true))
    }

    fn of(start: NonNull<u8>, len: usize, shared: bool) -> Self {
        // Huge pages would take memory for hundreds of slots where one is used. A kernel without them refuses.
        // SAFETY: the advice changes no content.
        let _ = unsafe { madvise(start.cast(), len, MmapAdvise::MADV_NOHUGEPAGE) };
        Self { start, len, shared }
    }

    fn pointer(&self, at: usize, len: usize) -> NonNull<u8> {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "inside the reserved memory");
        // SAFETY: inside the mapping, as was just made sure.
        unsafe { self.start.add(at) }
    }

    pub(super) fn address(&self, at: usize) -> usize {
        self.pointer(at, 0).as_ptr().expose_provenance()
    }

    /// A part of it, for the one [`Slot`] that stands for it.
    pub(super) fn get(&self, at: usize, len: usize) -> &[u8] {
        // SAFETY: inside the mapping, which is initialised and never unmapped. A slot is in one hand at a time: that of the
        // kernel, of the engine, or of the thread that asks here.
        unsafe { NonNull::slice_from_raw_parts(self.pointer(at, len), len).as_ref() }
    }

    /// The same, to be changed.
    #[expect(clippy::mut_from_ref, reason = "the slot stands for the part, and is borrowed mutably")]
    pub(super) fn get_mut(&self, at: usize, len: usize) -> &mut [u8] {
        // SAFETY: as for `get`, and the caller has borrowed its slot mutably.
        unsafe { NonNull::slice_from_raw_parts(self.pointer(at, len), len).as_mut() }
    }

    /// A part of it for the engine; the slot that stands for it is given up meanwhile.
    pub(super) fn lend(&self, at: usize, len: usize) -> Payload {
        // SAFETY: initialised, never unmapped; the slot was consumed and comes back with the answer, after the payload.
        unsafe { Payload::lent(self.pointer(at, len), len) }
    }

    /// Has memory for a part of it there, whose content stays; whether that could be done.
    pub(super) fn populate(&self, at: usize, len: usize) -> bool {
        // SAFETY: what is there stays as it is, and what is not reads as zeroes, as it would have done anyway.
        unsafe { madvise(self.pointer(at, len).cast(), len, MmapAdvise::MADV_POPULATE_WRITE) }.is_ok()
    }

    /// Gives memory back; it reads as zeroes from now on.
    pub(super) fn give_back(&self, at: usize, len: usize) {
        // Of a file, a process that merely did not need it any more would leave it with the file.
        let advice = if self.shared { MmapAdvise::MADV_REMOVE } else { MmapAdvise::MADV_DONTNEED };
        // SAFETY: memory of the slot that asks; its content is not needed any more.
        // If the kernel refuses, the memory is merely kept.
        let _ = unsafe { madvise(self.pointer(at, len).cast(), len, advice) };
    }
}

/// What a command of FUSE over io_uring takes: flags, the request that it answers, and its queue.
fn arguments(commit_id: u64, queue: u16) -> [u8; 80] {
    let mut arguments = [0; 80];
    arguments[8..16].copy_from_slice(&commit_id.to_ne_bytes());
    arguments[16..18].copy_from_slice(&queue.to_ne_bytes());
    arguments
}

/// Gives the slot to a queue of the kernel, for its requests. What is returned has to live until the next wait of the lane.
pub(super) fn register(
    lane: &mut Lane,
    device: BorrowedFd<'_>,
    slot: Slot,
    queue: u16,
) -> io::Result<Box<[libc::iovec; 2]>> {
    let (token, parts) = slot.into_kernel();
    let parts =
        Box::new(parts.map(|(at, iov_len)| libc::iovec {
            iov_base: std::ptr::with_exposed_provenance_mut(at),
            iov_len,
        }));
    let memory = Some((parts.as_ptr().expose_provenance() as u64, parts.len() as u32));
    let command = Command { token, code: command::REGISTER, arguments: arguments(0, queue), memory };
    // SAFETY: the slot was given up, is never freed, and comes back with the completion only. The list of its two parts is
    // read when the command is submitted, until when the caller keeps it.
    unsafe { lane.command(device, command)? };
    Ok(parts)
}

/// Answers the request in the slot, and gives the slot to the kernel for the next one.
pub(super) fn commit(
    lane: &mut Lane,
    device: BorrowedFd<'_>,
    slot: Slot,
    queue: u16,
    commit_id: u64,
) -> io::Result<()> {
    let (token, _) = slot.into_kernel();
    let (code, memory) = (command::COMMIT_AND_FETCH, None);
    // SAFETY: the slot was given up, is never freed, and comes back with the completion only.
    unsafe { lane.command(device, Command { token, code, arguments: arguments(commit_id, queue), memory }) }
}

/// Starts `count` reads of one byte of a file, by io_uring and on the processor of this thread, and waits for none of them.
/// They go on when this thread and its process have ended. The file must be open for direct and not blocking reads.
///
/// # Errors
/// Not all could be started.
pub(super) fn start_reads(file: BorrowedFd<'_>, count: u32) -> io::Result<()> {
    const BATCH: u32 = 256;
    let mut ring = IoUring::new(BATCH)?;
    // Never freed: whatever is read may come when nobody here knows of it any more.
    let byte: &'static mut u8 = Box::leak(Box::new(0));
    let read = opcode::Read::new(Fd(file.as_raw_fd()), byte, 1).build();
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        for _ in 0..batch {
            // SAFETY: the byte is never freed, and nobody looks at it. The file is kept open by the read.
            let _ = unsafe { ring.submission().push(&read) };
        }
        left -= batch;
        while !ring.submission().is_empty() {
            ring.submit()?;
        }
    }
    Ok(())
}

mod ioctl {
    nix::ioctl_read!(fuse_dev_clone, 229, 0, u32);
}

/// Makes a freshly opened /dev/fuse another descriptor of the same connection.
pub(super) fn clone_connection(fresh: BorrowedFd<'_>, connection: BorrowedFd<'_>) -> io::Result<()> {
    // A descriptor is never negative.
    let mut source = connection.as_raw_fd() as u32;
    // SAFETY: FUSE_DEV_IOC_CLONE reads one 32-bit number at the pointer, which is valid.
    unsafe { ioctl::fuse_dev_clone(fresh.as_raw_fd(), &raw mut source)? };
    Ok(())
}
