//! Memory that a direct device can read into and write from.

use super::Target;
use super::medium::Alignment;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

/// Alignment of every buffer: enough for the memory alignment that any direct device asks for.
pub(super) const PAGE: usize = 4096;

/// Page-aligned memory, of its own or lent. Its own may be uninitialised, so it is only handed around by pointer in here;
/// a [`Payload`] is made of it once every byte of the payload has been written.
pub(super) struct Memory {
    start: NonNull<u8>,
    layout: Layout,
    /// Somebody else's, who frees it.
    lent: bool,
}

// SAFETY: nobody else uses the allocation meanwhile: it is its own, like a `Box<[u8]>`, or was lent under that condition.
unsafe impl Send for Memory {}
// SAFETY: shared access never writes; everything that writes takes `&mut self` or a raw pointer.
unsafe impl Sync for Memory {}

impl Memory {
    /// At least `len` bytes; `zeroed` asks for zeroes, otherwise the content is undefined.
    pub(super) fn new(len: usize, zeroed: bool) -> io::Result<Self> {
        let layout = Self::layout(len).ok_or_else(out_of_memory)?;
        // SAFETY: the layout's size is not zero (`layout` rounds up to at least one page).
        let start = unsafe { if zeroed { alloc_zeroed(layout) } else { alloc(layout) } };
        NonNull::new(start).map(|start| Self { start, layout, lent: false }).ok_or_else(out_of_memory)
    }

    fn layout(len: usize) -> Option<Layout> {
        let size = len.max(1).checked_next_multiple_of(PAGE)?;
        Layout::from_size_align(size, PAGE).ok()
    }

    pub(super) fn len(&self) -> usize {
        self.layout.size()
    }

    /// Where byte `at` lies. The kernel writes through this pointer while a request is in flight.
    pub(super) fn at(&self, at: usize) -> *mut u8 {
        debug_assert!(at <= self.len());
        self.start.as_ptr().wrapping_add(at)
    }

    /// Writes zeroes to `len` bytes from `from` on (clipped to the end).
    pub(super) fn clear(&mut self, from: usize, len: usize) {
        let from = from.min(self.len());
        let len = len.min(self.len() - from);
        // SAFETY: the range was clipped to this allocation, and `&mut self` is the only access to it.
        unsafe { ptr::write_bytes(self.at(from), 0, len) }
    }

    /// Whether `len` bytes from `from` on (clipped to the end) are zeroes.
    ///
    /// # Safety
    ///
    /// Something must have been written to these bytes.
    pub(super) unsafe fn is_zero(&self, from: usize, len: usize) -> bool {
        let from = from.min(self.len());
        let len = len.min(self.len() - from);
        // SAFETY: the range was clipped to this allocation, and its bytes are initialised by this function's contract.
        unsafe { std::slice::from_raw_parts(self.at(from), len) }.iter().all(|byte| *byte == 0)
    }

    /// Copies `data` to `to` on (clipped to the end).
    fn put(&mut self, to: usize, data: &[u8]) {
        let to = to.min(self.len());
        let len = data.len().min(self.len() - to);
        // SAFETY: the range was clipped to this allocation; `data` cannot overlap memory borrowed mutably.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.at(to), len) }
    }

    /// Copies `len` bytes of `other`, from `from` on, to `to` on (clipped to both ends).
    pub(super) fn copy(&mut self, to: usize, other: &Memory, from: usize, len: usize) {
        let (to, from) = (to.min(self.len()), from.min(other.len()));
        let len = len.min(self.len() - to).min(other.len() - from);
        // SAFETY: both ranges were clipped to their allocations, which are different ones: one is borrowed
        // mutably. The copy is untyped, so uninitialised bytes may be copied.
        unsafe { ptr::copy_nonoverlapping(other.at(from), self.at(to), len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !self.lent {
            // SAFETY: allocated in `new` with this very layout, and freed only here.
            unsafe { dealloc(self.start.as_ptr(), self.layout) }
        }
    }
}

fn out_of_memory() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOMEM)
}

/// The bytes of a read or a write, in page-aligned memory of their own, or in memory that is lent for one request.
///
/// They start at the misalignment that their place on the device has (byte 700 of a device with 512-byte
/// blocks lies at byte 188 of the memory), with room for the rest of the first and last block around them: a
/// direct write needs no second copy, even if it has to be widened to whole blocks.
pub struct Payload {
    memory: Memory,
    start: usize,
    len: usize,
}

impl Payload {
    /// A copy of `data`, placed so that it can be written to `offset` of `target` as it lies.
    ///
    /// Like `Vec`, this ends the program if there is no memory at all.
    pub fn for_write(target: &Target, offset: u64, data: &[u8]) -> Payload {
        Self::copied_for(target.alignment(), offset, data)
    }

    fn copied_for(alignment: Alignment, offset: u64, data: &[u8]) -> Payload {
        let (start, room) = Self::place(alignment, offset, data.len());
        let Ok(mut memory) = Memory::new(room, false) else { out_of_memory_for(room) };
        memory.put(start, data);
        Payload { memory, start, len: data.len() }
    }

    /// A copy of `data` that takes no more memory than that, to be kept for a while and placed when it is to be written.
    ///
    /// Like `Vec`, this ends the program if there is no memory at all.
    pub fn packed(data: &[u8]) -> Payload {
        let len = data.len();
        let layout = Layout::from_size_align(len.max(1), 1).unwrap_or(Layout::new::<u8>());
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        let mut memory = Memory { start, layout, lent: false };
        memory.put(0, data);
        Payload { memory, start: 0, len }
    }

    /// Whether it was made to be kept, and not to be written as it lies.
    pub(crate) fn is_packed(&self) -> bool {
        !self.memory.lent && self.memory.layout.align() < PAGE
    }

    /// Memory of somebody else's: `len` bytes from `start` on, to be written to a device or to be read into.
    ///
    /// # Safety
    ///
    /// Every byte was written to once, and from now on nobody else uses the memory, nor frees it, until this payload and
    /// all that were split off it are dropped.
    pub unsafe fn lent(start: NonNull<u8>, len: usize) -> Payload {
        // What is not aligned is never used for direct I/O: see `fits`.
        let layout = Layout::from_size_align(len, 1).unwrap_or(Layout::new::<()>());
        Payload { memory: Memory { start, layout, lent: true }, start: 0, len }
    }

    /// Takes away the bytes from `at` on. Lent memory is divided, that of its own is copied.
    pub(crate) fn split_off(&mut self, at: usize) -> Payload {
        let at = at.min(self.len);
        let len = self.len - at;
        let rest = if self.memory.lent {
            let start = self.memory.start.as_ptr().wrapping_add(self.start + at);
            // SAFETY: the lender's promise holds for a part as for the whole, of which this one lets go below.
            NonNull::new(start).map(|start| unsafe { Self::lent(start, len) })
        } else {
            None
        };
        let rest = rest.unwrap_or_else(|| {
            let Ok(mut memory) = Memory::new(len, false) else { out_of_memory_for(len) };
            memory.put(0, &self[at..]);
            Self { memory, start: 0, len }
        });
        self.len = at;
        rest
    }

    /// The same bytes, where they can be written to `offset` of `target` as they lie.
    pub(crate) fn placed(self, target: &Target, offset: u64) -> Payload {
        self.placed_for(target.alignment(), offset)
    }

    pub(super) fn placed_for(self, alignment: Alignment, offset: u64) -> Payload {
        if self.fits(alignment, offset) { self } else { Self::copied_for(alignment, offset, &self) }
    }

    /// `len` zero bytes, placed as by [`Payload::for_write`]: for a caller that fills them in itself.
    pub fn zeroed(target: &Target, offset: u64, len: usize) -> Payload {
        let (start, room) = Self::place(target.alignment(), offset, len);
        let Ok(memory) = Memory::new(room, true) else { out_of_memory_for(room) };
        Payload { memory, start, len }
    }

    /// Misalignment of `offset` and the room that whole blocks around the range need.
    fn place(alignment: Alignment, offset: u64, len: usize) -> (usize, usize) {
        let block = alignment.block as usize;
        let start = (offset % block as u64) as usize;
        (start, start.saturating_add(len).saturating_add(block - 1))
    }

    /// The `len` bytes from `start` on, every one of which has been written.
    pub(super) fn of(memory: Memory, start: usize, len: usize) -> Payload {
        let start = start.min(memory.len());
        let len = len.min(memory.len() - start);
        Payload { memory, start, len }
    }

    /// Whether it lies right for a write to `offset` in blocks of `block` bytes.
    pub(super) fn fits(&self, alignment: Alignment, offset: u64) -> bool {
        let block = alignment.block as usize;
        let head = (offset % block as u64) as usize;
        let span = (head + self.len).next_multiple_of(block);
        let room = if self.memory.lent { self.start + self.len } else { self.memory.len() };
        self.start >= head
            && (self.memory.start.as_ptr().addr() + self.start - head)
                .is_multiple_of(alignment.memory as usize)
            && span <= room - (self.start - head)
    }

    /// Bytes of memory that it owns: none if it is lent.
    pub(crate) fn owned(&self) -> usize {
        if self.memory.lent { 0 } else { self.memory.len() }
    }

    /// The memory and where in it the bytes start.
    pub(super) fn into_memory(self) -> (Memory, usize) {
        (self.memory, self.start)
    }
}

fn out_of_memory_for(room: usize) -> ! {
    match Memory::layout(room) {
        Some(layout) => handle_alloc_error(layout),
        None => handle_alloc_error(Layout::new::<u8>()),
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start + len` lies inside the memory and all of it has been written (see `for_write`, `of`).
        unsafe { std::slice::from_raw_parts(self.memory.at(self.start), self.len) }
    }
}

impl DerefMut for Payload {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` is the only access to the memory that this owns.
        unsafe { std::slice::from_raw_parts_mut(self.memory.at(self.start), self.len) }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len)
    }
}
