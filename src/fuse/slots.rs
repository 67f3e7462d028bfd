//! Memory for requests. A slot holds one request from its arrival until its answer, header and data, so that the data lie
//! where the device can read and write them: nothing is copied on our side of the kernel.
//!
//! ```text
//! ┌── HEAD ──────────────────────────────┬── room ───────────────┐
//! │ ring: RingHeader …                    │ data, page-aligned    │
//! │ dev:  … InHeader and arguments before │                       │
//! └───────────────────────────────────────┴───────────────────────┘
//! ```
//!
//! Room is reserved for the largest request, but takes memory only once it was used, and what was used is given back when it
//! adds up: thousands of slots for small requests cost two pages each. What is used beyond these two is counted in the
//! [`Budget`] of the mount.

use super::sys;
use crate::device::Payload;
use crate::engine::{Answer, Budget, Emptied, Pieces, Ticket};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes before the data.
pub(super) const HEAD: usize = sys::PAGE;
/// Where slots lie that another process may have to go on with: far from all that the kernel or a C library puts anywhere.
const ADDRESS: u64 = 0x1000_0000_0000;
/// Data of up to this many bytes are what each slot has memory for anyway.
const SMALL: usize = sys::PAGE;

/// All slots of a mount. They are never freed: the kernel may write to them until the connection ends with the process.
#[derive(Debug)]
pub(super) struct Slots {
    memory: sys::Reserved,
    count: u32,
    room: usize,
    given_out: AtomicBool,
    /// What is known of each, beside who has it.
    marks: Box<[Marks]>,
    budget: Arc<Budget>,
    /// Few are free.
    few: AtomicBool,
    /// While no more than this is used of the budget, memory stays where it is.
    keep: usize,
}

/// What is known of a slot.
#[derive(Debug)]
struct Marks {
    /// How much of its room has been used since it was last given back, beyond what is small. The sum of it is in the budget.
    used: AtomicU32,
    /// Who has it: one of the numbers below.
    with: AtomicU8,
    /// What came of the write that is in it, if it was carried out and is not answered: 0 or an errno.
    outcome: AtomicI32,
}

/// In place of an outcome.
const NOT_YET: i32 = -1;

/// We have it.
const HERE: u8 = 0;
/// The kernel has it.
const KERNEL: u8 = 1;
/// Nobody has it: the kernel has given it up.
const NOBODY: u8 = 2;

/// Where a successor finds the slots: what the kernel was told of them are addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Where {
    /// The first byte.
    pub(super) address: u64,
    /// How many there are.
    pub(super) count: u32,
    /// How many bytes of data each has room for.
    pub(super) room: u64,
}

/// What was in a slot when whoever served left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Found {
    /// Nothing: the kernel had it, or has given it up.
    Nothing,
    /// A request without an answer.
    Request,
    /// A write that was carried out, and has no answer: 0, or the errno with which it failed.
    Written(i32),
}

/// The exclusive right to a slot's memory: nobody else has it while this exists.
#[derive(Debug)]
#[must_use = "a slot that is dropped is lost"]
pub(super) struct Slot {
    slots: &'static Slots,
    index: u32,
}

impl Slots {
    /// `count` slots with room for `room` bytes of data each (a whole number of pages). Memory stays where it is after
    /// large requests as long as no more than `keep` bytes of the budget are used.
    ///
    /// # Errors
    /// When so much address space is not to be had.
    pub(super) fn new(
        count: u32,
        room: usize,
        keep: usize,
        budget: Arc<Budget>,
    ) -> io::Result<&'static Self> {
        let memory = sys::Reserved::new(size_of(count, room)?)?;
        Ok(Self::in_memory(memory, count, room, keep, budget))
    }

    /// The same in a file, so that another process can go on with what is in them: where that finds them, and the file.
    ///
    /// # Errors
    /// When so much address space is not to be had at the place that is the same in every process.
    pub(super) fn in_file(
        count: u32,
        room: usize,
        keep: usize,
        budget: Arc<Budget>,
    ) -> io::Result<(&'static Self, Where, OwnedFd)> {
        let file = memfd_create("ioband-slots", MFdFlags::MFD_CLOEXEC)?;
        // A whole address space is less than a file can be.
        ftruncate(&file, size_of(count, room)? as i64)?;
        let place = Where { address: ADDRESS, count, room: room as u64 };
        Ok((Self::go_on(place, file.as_fd(), keep, budget)?, place, file))
    }

    /// Those of a predecessor, with what is in them.
    ///
    /// # Errors
    /// When they cannot be had where the kernel knows them.
    pub(super) fn go_on(
        place: Where,
        file: BorrowedFd<'_>,
        keep: usize,
        budget: Arc<Budget>,
    ) -> io::Result<&'static Self> {
        let far = |_| io::ErrorKind::OutOfMemory;
        let room = usize::try_from(place.room).map_err(far)?;
        let address = usize::try_from(place.address).map_err(far)?;
        let memory = sys::Reserved::of_file(file, address, size_of(place.count, room)?)?;
        Ok(Self::in_memory(memory, place.count, room, keep, budget))
    }

    fn in_memory(
        memory: sys::Reserved,
        count: u32,
        room: usize,
        keep: usize,
        budget: Arc<Budget>,
    ) -> &'static Self {
        let unused = |_| Marks { used: 0.into(), with: HERE.into(), outcome: NOT_YET.into() };
        let marks = (0..count).map(unused).collect();
        let (given_out, few) = (AtomicBool::new(false), AtomicBool::new(false));
        Box::leak(Box::new(Self { memory, count, room, given_out, marks, budget, few, keep }))
    }

    /// What is used is little enough for memory to stay where it is. That must end long before the bound of the budget, which
    /// changes: what is kept is in use, and nobody would give any back once everybody waits for it.
    fn may_keep(&self) -> bool {
        self.budget.used() <= self.keep.min(self.budget.bound() / 4)
    }

    /// Goes on with what a predecessor has left in its slots, in their order, and with the memory that they have.
    pub(super) fn remember(&self, left: &[(Found, u32)]) {
        for (marks, (found, used)) in self.marks.iter().zip(left) {
            marks.used.store(*used, Ordering::Relaxed);
            self.budget.take(*used as usize);
            // Should this process leave before it is answered, whoever comes then must know, too: its data have gone.
            if let Found::Written(outcome) = found {
                marks.outcome.store(*outcome, Ordering::Relaxed);
            }
        }
    }

    /// How many bytes of data each has room for.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// What is in the first `count` slots, with the memory that they have beyond what is small: for a successor, once nobody
    /// does anything with them any more.
    pub(super) fn left_behind(&self, count: u32) -> Vec<(Found, u32)> {
        let found = |marks: &Marks| match () {
            () if marks.with.load(Ordering::Relaxed) != HERE => Found::Nothing,
            () => match marks.outcome.load(Ordering::Relaxed) {
                NOT_YET => Found::Request,
                outcome => Found::Written(outcome),
            },
        };
        let used = |marks: &Marks| marks.used.load(Ordering::Relaxed);
        self.marks.iter().take(count as usize).map(|marks| (found(marks), used(marks))).collect()
    }

    /// Whether the kernel has the slot with this number.
    pub(super) fn is_with_kernel(&self, index: u32) -> bool {
        self.marks[index as usize].with.load(Ordering::Relaxed) == KERNEL
    }

    /// The kernel does not want a slot any more that it had.
    pub(super) fn given_up(&self, token: u32) {
        self.marks[token as usize].with.store(NOBODY, Ordering::Relaxed);
    }

    /// The slots themselves; none the second time.
    pub(super) fn all(&'static self) -> impl Iterator<Item = Slot> {
        let count = if self.given_out.swap(true, Ordering::Relaxed) { 0 } else { self.count };
        (0..count).map(move |index| Slot { slots: self, index })
    }

    /// The slot that an answer is for, with the rest of the answer: bytes read are in it, an error is an errno. If the
    /// request has left its slot, the bytes read instead.
    pub(super) fn redeem(&'static self, answer: Answer) -> (Result<Slot, Pieces>, Ticket, Result<(), i32>) {
        let Answer { ticket, result } = answer;
        let (pieces, result) = match result {
            Ok(pieces) => (pieces, Ok(())),
            Err(error) => (Pieces::new(), Err(error.raw_os_error().unwrap_or(libc::EIO))),
        };
        if ticket.slot == Ticket::NOWHERE {
            return (Err(pieces), ticket, result);
        }
        // Ends what was lent.
        drop(pieces);
        let slot = Slot { slots: self, index: ticket.slot };
        // What was read came to lie there meanwhile.
        slot.used(ticket.len as usize);
        (Ok(slot), ticket, result)
    }

    /// The slot that a request has left for good, which is free.
    pub(super) fn left(&'static self, index: u32) -> Slot {
        // Nobody has it: the engine has let go of its memory, and the answer will be for no slot.
        let mut slot = Slot { slots: self, index };
        slot.trim(0);
        slot
    }

    /// No data is needed any more in a slot whose request is carried out, and not answered. To be called by whoever visits
    /// the engine, before that is unlocked.
    pub(super) fn empty(&'static self, emptied: Emptied) {
        let Emptied { slot: index, errno } = emptied;
        self.marks[index as usize].outcome.store(errno.unwrap_or(0), Ordering::Relaxed);
        // Nobody has it: the engine has let go of its memory, and cannot give the answer meanwhile.
        Slot { slots: self, index }.trim(0);
    }

    /// The slot that a command of the kernel gave back; `token` is what [`Slot::into_kernel`] returned.
    #[expect(clippy::wrong_self_convention, reason = "it comes from the kernel, and belongs to these")]
    pub(super) fn from_kernel(&'static self, token: u32) -> Slot {
        let marks = &self.marks[token as usize];
        marks.outcome.store(NOT_YET, Ordering::Relaxed);
        marks.with.store(HERE, Ordering::Relaxed);
        Slot { slots: self, index: token }
    }

    /// Gives back the memory of a slot that is with the kernel, which has nothing in it and does nothing with it meanwhile.
    pub(super) fn trim_idle(&'static self, token: u32) {
        Slot { slots: self, index: token }.trim(0);
    }

    /// The slot's first byte. That of its data is `HEAD` after it, and page-aligned.
    fn at(&self, index: u32) -> usize {
        (HEAD + self.room) * index as usize
    }
}

fn size_of(count: u32, room: usize) -> io::Result<usize> {
    Ok((HEAD + room).checked_mul(count as usize).ok_or(io::ErrorKind::OutOfMemory)?)
}

/// Free slots that no thread keeps for itself.
#[derive(Debug)]
pub(super) struct Pool {
    slots: Mutex<Vec<Slot>>,
    /// Somebody found none, or no memory.
    starving: AtomicBool,
    /// All of the mount.
    all: &'static Slots,
    /// How many there are.
    count: usize,
}

/// Free slots of one thread: mostly it goes without the pool, and its last used slot, which is in its caches, is the next.
#[derive(Debug)]
pub(super) struct Free {
    own: Vec<Slot>,
}

/// So many slots go to the pool and come from it at once.
const MANY: usize = 64;

impl Pool {
    pub(super) fn new(slots: Vec<Slot>, all: &'static Slots) -> Self {
        let count = slots.len();
        Self { slots: slots.into(), starving: AtomicBool::new(false), all, count }
    }

    /// Whether there is memory for another request. If not, [`Pool::has_some_again`] says when there is.
    pub(super) fn has_memory(&self) -> bool {
        if !self.all.budget.is_full() {
            return true;
        }
        self.starving.store(true, Ordering::SeqCst);
        // Whoever gave some back in between has not seen that.
        !self.all.budget.is_full()
    }

    /// After memory was given back: true if somebody waits for it, and there is some.
    pub(super) fn has_some_again(&self) -> bool {
        self.starving.load(Ordering::SeqCst)
            && !self.all.budget.is_full()
            && self.starving.swap(false, Ordering::SeqCst)
    }

    /// Whether so many free slots are few. Each thread may have some more.
    fn note(&self, free: usize) {
        let (few, was) = (free < self.count / 2, self.all.few.load(Ordering::Relaxed));
        if few != was && self.count > 4 * MANY {
            self.all.few.store(few, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Free {
    pub(super) fn new() -> Self {
        Self { own: Vec::with_capacity(2 * MANY) }
    }

    /// A free slot, if there is one anywhere. If not, [`Free::put`] of another thread says that there is one again.
    pub(super) fn take(&mut self, pool: &Pool) -> Option<Slot> {
        if self.own.is_empty() {
            let mut slots = pool.lock();
            // Where there are few, others need some as well.
            let from = slots.len() - MANY.min(slots.len().div_ceil(4));
            self.own.extend(slots.drain(from..));
            pool.note(slots.len() + self.own.len());
            // Under the lock, so that nobody gives one back unseen. Not the other way round: that there are slots is no help to
            // who waits for memory, and he would wait for ever if he were not told of it any more.
            if self.own.is_empty() {
                pool.starving.store(true, Ordering::SeqCst);
            }
        }
        self.own.pop()
    }

    /// Gives all of them back, by who does not read any more. True if somebody waits for one.
    pub(super) fn put_all(&mut self, pool: &Pool) -> bool {
        if self.own.is_empty() {
            return false;
        }
        let mut slots = pool.lock();
        slots.append(&mut self.own);
        pool.starving.swap(false, Ordering::SeqCst)
    }

    /// Takes a slot back; true if somebody waits for one.
    pub(super) fn put(&mut self, pool: &Pool, slot: Slot) -> bool {
        self.own.push(slot);
        let starving = pool.starving.load(Ordering::Relaxed);
        if starving || self.own.len() >= 2 * MANY {
            let keep = if starving { 0 } else { MANY };
            let mut slots = pool.lock();
            // The ones that were not used for longest.
            slots.extend(self.own.drain(..self.own.len() - keep));
            pool.note(slots.len());
            return pool.starving.swap(false, Ordering::SeqCst);
        }
        false
    }
}

impl Slot {
    /// Whether a request had better not stay in it: there are few.
    pub(super) fn is_dear(&self) -> bool {
        self.slots.few.load(Ordering::Relaxed)
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Head and room, as they lie.
    pub(super) fn bytes(&self) -> &[u8] {
        // That nobody else has it is what a `Slot` means.
        self.slots.memory.get(self.slots.at(self.index), HEAD + self.slots.room)
    }

    /// Head and room, to be changed.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.slots.memory.get_mut(self.slots.at(self.index), HEAD + self.slots.room)
    }

    /// The data.
    pub(super) fn room(&self) -> &[u8] {
        &self.bytes()[HEAD..]
    }

    /// The data, to be changed.
    pub(super) fn room_mut(&mut self) -> &mut [u8] {
        &mut self.bytes_mut()[HEAD..]
    }

    /// Lends `len` bytes of data to the engine, which are no more than there is room for. The slot comes back with the
    /// answer to the ticket.
    pub(super) fn lend(self, len: u32, kind: u32, unique: u64) -> (Payload, Ticket) {
        // The kernel asks for no more, but what is answered is never more than what there is.
        let len = (len as usize).min(self.slots.room);
        let payload = self.slots.memory.lend(self.slots.at(self.index) + HEAD, len);
        (payload, self.ticket(len as u32, kind, unique))
    }

    /// A ticket for a request that does not stay here.
    pub(super) fn ticket_elsewhere(len: u32, kind: u32, unique: u64) -> Ticket {
        Ticket { slot: Ticket::NOWHERE, len, kind, unique, may_leave: false }
    }

    /// Waits with the engine for the answer to a request without data.
    pub(super) fn ticket(self, len: u32, kind: u32, unique: u64) -> Ticket {
        Ticket { slot: self.index, len, kind, unique, may_leave: false }
    }

    /// Addresses of head and room for the kernel, which has the slot from now on.
    pub(super) fn into_kernel(self) -> (u32, [(usize, usize); 2]) {
        let at = self.slots.memory.address(self.slots.at(self.index));
        let marks = &self.slots.marks[self.index as usize];
        marks.outcome.store(NOT_YET, Ordering::Relaxed);
        marks.with.store(KERNEL, Ordering::Relaxed);
        (self.index, [(at, HEAD), (at + HEAD, self.slots.room)])
    }

    /// Notes that so much room was used.
    pub(super) fn used(&self, len: usize) {
        let len = len.min(self.slots.room).next_multiple_of(sys::PAGE);
        if len > SMALL {
            let (used, len) = (&self.slots.marks[self.index as usize].used, (len - SMALL) as u32);
            let before = used.load(Ordering::Relaxed);
            if len > before {
                used.store(len, Ordering::Relaxed);
                self.slots.budget.take((len - before) as usize);
            }
        }
    }

    /// The same with memory for all of it, which is not counted: each thread has one such slot at the most.
    pub(super) fn populated(mut self) -> Self {
        if !self.slots.memory.populate(self.slots.at(self.index), HEAD + self.slots.room) {
            // A kernel that does not know how to do that at once (before Linux 5.14).
            self.bytes_mut().iter_mut().step_by(sys::PAGE).for_each(|byte| *byte = 0);
        }
        self
    }

    /// Keeps memory for so many bytes of data only.
    pub(super) fn keep(&mut self, data: usize) {
        let from = data.next_multiple_of(sys::PAGE).max(SMALL).min(self.slots.room);
        self.slots.memory.give_back(self.slots.at(self.index) + HEAD + from, self.slots.room - from);
    }

    /// Whether there is memory that should be given back.
    pub(super) fn is_worth_trimming(&self) -> bool {
        self.slots.marks[self.index as usize].used.load(Ordering::Relaxed) > 0 && !self.slots.may_keep()
    }

    /// Gives memory back if large requests have left too much of it; but not that of the first `needed` bytes of data.
    pub(super) fn trim(&mut self, needed: usize) {
        let (slots, index) = (self.slots, self.index as usize);
        let used = slots.marks[index].used.load(Ordering::Relaxed);
        if used > 0 && !slots.may_keep() {
            // Whole pages, from the first that is not needed.
            let from = needed.next_multiple_of(sys::PAGE).max(SMALL);
            let left = (from - SMALL).min(used as usize);
            let back = used as usize - left;
            slots.memory.give_back(slots.at(self.index) + HEAD + from, back);
            slots.marks[index].used.store(left as u32, Ordering::Relaxed);
            slots.budget.give(back);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(count: u32) -> Pool {
        let slots = Slots::new(count, 1 << 20, 0, Arc::default()).expect("address space");
        Pool::new(slots.all().collect(), slots)
    }

    #[test]
    fn nobody_takes_all_of_few() {
        let pool = pool(16);
        let (mut one, mut other) = (Free::new(), Free::new());
        let first = one.take(&pool).expect("a slot");
        assert!(other.take(&pool).is_some());
        assert!(!one.put(&pool, first));
    }

    #[test]
    fn who_found_none_is_told_when_there_is_one() {
        let pool = pool(200);
        let (mut one, mut other) = (Free::new(), Free::new());
        let mut taken: Vec<_> = std::iter::from_fn(|| one.take(&pool)).collect();
        assert_eq!(taken.len(), 200);
        assert!(other.take(&pool).is_none());
        assert!(one.put(&pool, taken.pop().expect("one of them")), "the other waits");
        let slot = other.take(&pool).expect("the one that was put back");
        assert!(!other.put(&pool, slot), "nobody waits");
        // Nobody keeps more than a thread needs.
        taken.drain(..).for_each(|slot| assert!(!one.put(&pool, slot)));
        assert!(std::iter::from_fn(|| other.take(&pool)).count() >= 200 - 2 * MANY);
        assert!(one.put_all(&pool), "the other waits again");
        assert!(other.take(&pool).is_some());
    }

    #[test]
    fn what_is_in_a_file_is_found_by_who_has_it_next() {
        let room = 1 << 20;
        let (slots, place, file) = Slots::in_file(4, room, 0, Arc::default()).expect("a place for them");
        let [first, second, mut third, fourth] =
            <[Slot; 4]>::try_from(slots.all().collect::<Vec<_>>()).expect("four");
        assert_eq!(first.into_kernel().1[0].0 as u64, place.address, "the same in every process");
        slots.given_up(second.into_kernel().0);
        third.room_mut().fill(7);
        let (payload, ticket) = third.lend(room as u32, 0, 0);
        assert!(slots.redeem(Answer { ticket, result: Ok(std::iter::once(payload).collect()) }).0.is_ok());
        slots.empty(Emptied { slot: fourth.index(), errno: Some(libc::EIO) });
        assert!(slots.is_with_kernel(0) && !slots.is_with_kernel(1));
        let used = (room - SMALL) as u32;
        assert_eq!(
            slots.left_behind(4),
            [
                (Found::Nothing, 0),
                (Found::Nothing, 0),
                (Found::Request, used),
                (Found::Written(libc::EIO), 0)
            ]
        );
        // In another process the place is free; here it is taken, and nothing of it is lost.
        assert!(Slots::go_on(place, file.as_fd(), 0, Arc::default()).is_err());
        let bytes = std::fs::File::from(file);
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&bytes, &mut byte, (3 * HEAD + 2 * room) as u64)
            .expect("a byte");
        assert_eq!(byte, [7]);
        // Given back, it is gone from the file.
        Slot { slots, index: 2 }.trim(0);
        assert_eq!(slots.budget.used(), 0);
        let last = (3 * HEAD + 3 * room - 1) as u64;
        std::os::unix::fs::FileExt::read_exact_at(&bytes, &mut byte, last).expect("a byte");
        assert_eq!(byte, [0]);
        let budget = Arc::<Budget>::default();
        let next = Slots::new(4, room, 0, budget.clone()).expect("address space");
        let left = [(Found::Request, used), (Found::Written(libc::EIO), used), (Found::Written(0), 0)];
        next.remember(&left);
        assert_eq!(budget.used(), 2 * used as usize);
        // And by whoever comes after that, if it was not answered meanwhile.
        assert_eq!(next.left_behind(3), left);
    }

    #[test]
    fn what_is_kept_is_less_than_what_there_is_also_if_that_becomes_less() {
        let room = 1 << 20;
        let budget = Arc::new(Budget::new(64 << 20));
        let slots = Slots::new(64, room, 16 << 20, budget.clone()).expect("address space");
        let mut all: Vec<_> = slots.all().collect();
        budget.halve(3);
        for slot in &mut all {
            slot.used(room);
        }
        assert!(budget.is_full());
        all.iter_mut().for_each(|slot| slot.trim(0));
        assert!(!budget.is_full() && budget.used() <= budget.bound() / 4, "{}", budget.used());
    }

    #[test]
    fn who_waits_for_memory_is_told_of_it_whoever_takes_slots_meanwhile() {
        let budget = Arc::new(Budget::new(10));
        let slots = Slots::new(4, 4096, 0, budget.clone()).expect("address space");
        let pool = Pool::new(slots.all().collect(), slots);
        let (mut one, mut other) = (Free::new(), Free::new());
        budget.take(10);
        assert!(!pool.has_memory() && !pool.has_some_again());
        let slot = other.take(&pool).expect("there are four");
        budget.give(10);
        assert!(pool.has_some_again(), "nobody told who waits");
        assert!(!pool.has_some_again(), "told twice");
        // And who waits for a slot is told of that.
        let all: Vec<_> = std::iter::from_fn(|| one.take(&pool)).collect();
        assert_eq!(all.len(), 3);
        assert!(other.put(&pool, slot));
    }

    #[test]
    fn memory_after_large_requests_is_given_back_beyond_what_is_kept() {
        let room = 1 << 20;
        let budget = Arc::<Budget>::default();
        let slots = Slots::new(2, room, room, budget.clone()).expect("address space");
        let mut all: Vec<_> = slots.all().collect();
        assert_eq!(slots.all().count(), 0, "they are given out once");
        for slot in &mut all {
            slot.room_mut().fill(7);
        }
        let back: Vec<_> = all
            .into_iter()
            .map(|slot| {
                let (payload, ticket) = slot.lend(room as u32, 0, 0);
                slots
                    .redeem(Answer { ticket, result: Ok(std::iter::once(payload).collect()) })
                    .0
                    .expect("its slot")
            })
            .collect();
        assert_eq!(budget.used(), 2 * (room - SMALL));
        let [mut first, mut second] = <[Slot; 2]>::try_from(back).expect("two");
        first.trim(100);
        assert!(first.room_mut()[..4096].iter().all(|byte| *byte == 7), "what is needed stays");
        assert!(first.room_mut()[4096..].iter().all(|byte| *byte == 0));
        assert_eq!(budget.used(), room - SMALL);
        second.trim(0);
        assert!(second.room_mut().iter().all(|byte| *byte == 7), "so much may be kept");
    }
}
