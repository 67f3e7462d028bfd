//! The fast transport, FUSE over io_uring (Linux 6.14): a slot is given to a queue of the kernel, comes back with a request,
//! and is given back with the answer, which at once asks for the next request.
//!
//! There is one queue for each processor, and a request comes through that of the processor its caller runs on. A held
//! request occupies its slot, so there are enough slots that what one group has held keeps nobody's first request out.

use super::images::Answered;
use super::metadata::MOST_BACKGROUND;
use super::slots::{Found, HEAD, Slot, Slots};
use super::sys;
use super::wire::{AGAIN, InHeader, OutHeader, RingHeader, WriteOut, parse};
use crate::device::{Event, Lane};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

/// Ring entries, at most. Who leaves fills them with requests that nobody waits for, of which the kernel takes no more than
/// the protocol's 16 bits can say ([`MOST_BACKGROUND`]): whoever makes one more waits, here for ever. Callers have some, too.
const MOST: u32 = MOST_BACKGROUND as u32 - (8 << 10);

/// Which slots belong to which queue of the kernel, and to which thread.
#[derive(Debug)]
pub(super) struct Queues {
    /// How many slots each queue has; never none, as the kernel waits for all queues.
    slots: Vec<u32>,
    threads: usize,
    /// Queue of each slot.
    queue_of: Vec<u16>,
}

impl Queues {
    /// `slots` for each processor that is there, and one for each that may come; but no more in all than [`MOST`].
    pub(super) fn of_this_machine(slots: u32) -> Self {
        let (possible, online) = (processors("possible"), processors("online"));
        let count = possible.iter().max().map_or(1, |last| last + 1);
        let slots = at_most(slots, count, online.len());
        let slots = (0..count).map(|cpu| if online.contains(&cpu) { slots.max(1) } else { 1 }).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count);
        Self::new(slots, threads)
    }

    /// So many slots for each queue, as a predecessor had them, who had so many threads.
    pub(super) fn new(slots: Vec<u32>, threads: usize) -> Self {
        let threads = threads.clamp(1, slots.len().max(1));
        // In the order of the threads, which get their slots in one piece.
        let queue_of = (0..threads).flat_map(|thread| {
            let queues = (thread..slots.len()).step_by(threads);
            // The kernel counts queues in 16 bits.
            queues
                .flat_map(|queue| std::iter::repeat_n(queue as u16, slots[queue] as usize))
                .collect::<Vec<_>>()
        });
        let queue_of = queue_of.collect();
        Self { slots, threads, queue_of }
    }

    pub(super) fn count(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn slots_of_each(&self) -> &[u32] {
        &self.slots
    }

    /// The queue of each slot.
    pub(super) fn queue_of(&self) -> &[u16] {
        &self.queue_of
    }

    /// The processors that are there now, each with a queue. Requests come through no others.
    pub(super) fn processors(&self) -> Vec<usize> {
        processors("online").into_iter().filter(|processor| *processor < self.count()).collect()
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots.iter().sum()
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    pub(super) fn slots_of(&self, thread: usize) -> u32 {
        self.slots.iter().skip(thread).step_by(self.threads).sum()
    }
}

/// Of `slots` for each of the processors that are online, as many as there may be, if all `possible` ones have a queue.
fn at_most(slots: u32, possible: usize, online: usize) -> u32 {
    let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
    slots.min(MOST.saturating_sub(number(possible)) / number(online).max(1))
}

/// The processors that are `possible`, or `online`.
fn processors(which: &str) -> Vec<usize> {
    let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/{which}"));
    text.map(|text| cpu_list(text.trim())).unwrap_or_default()
}

/// `0-3,8` as numbers.
fn cpu_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// One thread's entries.
pub(super) struct Rings {
    queues: Arc<Queues>,
    /// Slots that wait to be given to the kernel for the first time.
    fresh: Vec<Slot>,
    found: Vec<(Slot, Found)>,
    /// Where the kernel finds the two parts of each slot; read when it is first given.
    #[expect(clippy::vec_box, reason = "the kernel is told where each of them lies")]
    parts: Vec<Box<[libc::iovec; 2]>>,
    /// Requests that are with fuser.
    forwarded: HashMap<u64, Slot>,
    /// Slots that were given away with much in them for callers to read.
    full: HashSet<u32>,
}

impl Rings {
    /// With what a predecessor has left in each slot; nothing, where there was none.
    pub(super) fn new(queues: Arc<Queues>, slots: Vec<(Slot, Found)>) -> Self {
        let (fresh, mut found): (Vec<_>, Vec<_>) =
            slots.into_iter().partition(|(_, found)| *found == Found::Nothing);
        // In the order in which they came.
        found.sort_by_cached_key(|(slot, _)| request(slot, &mut [0; 128]).map(|(header, ..)| header.unique));
        let fresh = fresh.into_iter().map(|(slot, _)| slot).collect();
        Self { queues, fresh, found, parts: Vec::new(), forwarded: HashMap::new(), full: HashSet::new() }
    }

    /// What a predecessor has left in slots, for the first who asks.
    pub(super) fn found(&mut self) -> Vec<(Slot, Found)> {
        std::mem::take(&mut self.found)
    }

    /// Gives all slots to the kernel, with the next wait of the lane.
    pub(super) fn register(&mut self, lane: &mut Lane, connection: BorrowedFd<'_>) -> io::Result<()> {
        for slot in std::mem::take(&mut self.fresh) {
            let queue = self.queue_of(&slot);
            self.parts.push(sys::register(lane, connection, slot, queue)?);
        }
        Ok(())
    }

    /// Answers the request in a slot, with the next wait of the lane; the slot goes to the kernel for the next request.
    pub(super) fn answer(
        &mut self,
        lane: &mut Lane,
        connection: BorrowedFd<'_>,
        mut slot: Slot,
        answered: Answered,
    ) -> io::Result<()> {
        let body = answered.complete(&mut slot);
        self.commit(lane, connection, slot, OutHeader::new(answered.unique, body))
    }

    /// Gives the slot to the kernel with an answer, whose bytes behind the header lie in its room.
    fn commit(
        &mut self,
        lane: &mut Lane,
        connection: BorrowedFd<'_>,
        mut slot: Slot,
        header: OutHeader,
    ) -> io::Result<()> {
        let payload = header.len - size_of::<OutHeader>() as u32;
        let ring_header = RingHeader::mut_from_prefix(slot.bytes_mut());
        let Ok((ring_header, _)) = ring_header else { return Err(io::ErrorKind::InvalidData.into()) };
        ring_header.in_out[..size_of::<OutHeader>()].copy_from_slice(header.as_bytes());
        ring_header.payload_size = payload;
        let commit_id = ring_header.commit_id;
        if payload as usize <= size_of::<WriteOut>() {
            // What was written is on the disk, so its memory may go. What was read is still to be copied by the kernel.
            slot.trim(payload as usize);
        } else if slot.is_worth_trimming() {
            self.full.insert(slot.index());
        }
        let queue = self.queue_of(&slot);
        sys::commit(lane, connection, slot, queue, commit_id)
    }

    /// After a wait of the lane that told these: gives back the memory of what the kernel has copied to callers.
    ///
    /// A command is carried out by the thread that sends it, while it waits, and so is filling a slot with the next request.
    /// So once all commands were taken, a slot of which nothing was told is empty, until the next wait.
    pub(super) fn tidy(&mut self, lane: &mut Lane, slots: &'static Slots, told: &[Event]) {
        if self.full.is_empty() {
            return;
        }
        for event in told {
            if let Event::Command { token, .. } = event {
                self.full.remove(token);
            }
        }
        if lane.is_settled() {
            self.full.drain().for_each(|slot| slots.trim_idle(slot));
        }
    }

    fn queue_of(&self, slot: &Slot) -> u16 {
        self.queues.queue_of[slot.index() as usize]
    }

    /// The processor whose callers' requests come in the slot.
    pub(super) fn processor_of(&self, slot: &Slot) -> usize {
        self.queue_of(slot).into()
    }

    /// The thread that the slot was first given out by.
    pub(super) fn thread_of(&self, slot: &Slot) -> usize {
        self.processor_of(slot) % self.queues.threads
    }

    /// Keeps a slot whose request goes to fuser, and passes the request's `data` bytes on.
    pub(super) fn forward(&mut self, unique: u64, slot: Slot, data: usize, pass_on: impl FnOnce(&[u8])) {
        // Kept first: the answer may be quicker than we are.
        let slot = self.forwarded.entry(unique).insert_entry(slot).into_mut();
        pass_on(&slot.bytes()[HEAD..][..data]);
    }

    /// Whether the slot is a ring entry.
    pub(super) fn owns(&self, slot: &Slot) -> bool {
        (slot.index() as usize) < self.queues.queue_of.len()
    }

    /// Takes an answer of fuser to the slot that waits for it.
    pub(super) fn answer_forwarded(
        &mut self,
        lane: &mut Lane,
        connection: BorrowedFd<'_>,
        unique: u64,
        message: &[u8],
    ) -> io::Result<()> {
        let (Some(mut slot), Some(header)) = (self.forwarded.remove(&unique), parse::<OutHeader>(message))
        else {
            return Ok(());
        };
        let body = &message[size_of::<OutHeader>()..];
        let room = slot.room_mut();
        let len = body.len().min(room.len());
        room[..len].copy_from_slice(&body[..len]);
        slot.used(len);
        // As long as what has found room, which is not more than fuser was asked for. To the kernel it is not one that was
        // sent again.
        let unique = header.unique & !AGAIN;
        let header = OutHeader { len: (size_of::<OutHeader>() + len) as u32, unique, ..header };
        self.commit(lane, connection, slot, header)
    }
}

/// Header, number of bytes of arguments, and of data, of the request in a slot.
pub(super) fn request(slot: &Slot, arguments: &mut [u8; 128]) -> Option<(InHeader, usize, usize)> {
    let (ring_header, _) = RingHeader::ref_from_prefix(slot.bytes()).ok()?;
    let header: InHeader = parse(&ring_header.in_out)?;
    let data = ring_header.payload_size as usize;
    let len = (header.len as usize).saturating_sub(size_of::<InHeader>() + data).min(arguments.len());
    arguments[..len].copy_from_slice(&ring_header.op_in[..len]);
    Some((header, len, data.min(slot.bytes().len() - HEAD)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_listed_as_the_kernel_does() {
        assert_eq!(cpu_list("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(cpu_list("5"), [5]);
        assert!(cpu_list("").is_empty());
    }

    #[test]
    fn every_queue_has_slots_and_every_slot_one_queue() {
        let queues = Queues::new(vec![4, 4, 1, 4, 1], 2);
        assert_eq!((queues.slots(), queues.threads()), (14, 2));
        assert_eq!((queues.slots_of(0), queues.slots_of(1)), (6, 8));
        assert_eq!(queues.queue_of, [0, 0, 0, 0, 2, 4, 1, 1, 1, 1, 3, 3, 3, 3]);
    }

    #[test]
    fn all_entries_can_be_filled_however_many_processors_there_are() {
        assert_eq!(at_most(4608, 8, 4), 4608);
        for (slots, possible, online) in [(65_536, 1, 1), (65_536, 2, 2), (4608, 64, 64), (4608, 8192, 16)] {
            let each = at_most(slots, possible, online);
            let all = each as usize * online + possible - online;
            assert!(each > 16 && all <= MOST as usize, "{slots} {possible} {online}: {all}");
        }
    }
}
