//! From a request's thread id to who that is, from a cache.

use super::proc::{self, Thread};
use super::watch::{Guard, Ticket, Watch};
use super::{Caller, Identity, ProcessId, Wants, Who};
use crate::clock::Clock;
use crate::units::Nanos;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How long the process group and the cgroups of a thread are believed. The kernel tells nobody of setpgid, nor
/// of a thread that moves to another cgroup. 100 ms is how soon any other change of who-gets-what acts, so people
/// see one delay, and re-reading a busy thread ten times a second takes a few ten-thousandths of the time.
const BELIEVED: Nanos = Nanos::from_millis(100);

/// Parts of the cache, by thread id, so that FUSE threads seldom meet on a lock.
const SHARDS: usize = 16;

/// The most threads that are remembered. Each costs one descriptor.
const MOST_THREADS: usize = 4096;

/// Knows who a mount's callers are. Used by all FUSE threads at once.
///
/// A caller that was seen before costs one system call that finds nothing to do and one hash look-up; a new one a
/// few reads in `/proc`. Nothing here fails: of a caller that cannot be looked up (because it has ended already)
/// uid and gid still count.
#[derive(Debug)]
pub struct Callers {
    wants: AtomicU8,
    shards: [Mutex<HashMap<u32, Entry>>; SHARDS],
    most_per_shard: usize,
    watch: Watch,
    next_serial: AtomicU32,
    clock: Clock,
}

/// One remembered thread.
#[derive(Debug)]
struct Entry {
    serial: u32,
    guard: Guard,
    /// What was looked up; anything else was not asked for then.
    wants: u8,
    known: Known,
    movable_read_at: Nanos,
}

/// What was looked up of a thread.
#[derive(Debug)]
struct Known {
    kernel_thread: bool,
    process: Option<ProcessId>,
    movable: Movable,
}

/// What a thread can change while it lives.
#[derive(Clone, Debug)]
struct Movable {
    pgrp: Option<u32>,
    cgroups: Arc<[Box<str>]>,
}

/// What the cache says of a caller.
enum Cached {
    Known(Who),
    /// Known, but what it can change was read long ago: whoever gets this answer reads it again.
    Aged(Who, Ticket),
    Unknown,
}

impl Callers {
    /// Nobody is known yet. The limit on open files is read now (half of it may be used), so raise it before.
    pub fn new(wants: Wants) -> io::Result<Self> {
        let (open_files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let half = usize::try_from(open_files / 2).unwrap_or(usize::MAX);
        Self::with(wants, half.min(MOST_THREADS), Watch::new(true)?)
    }

    pub(super) fn with(wants: Wants, most_threads: usize, watch: Watch) -> io::Result<Self> {
        Ok(Self {
            wants: AtomicU8::new(bits(wants)),
            shards: Default::default(),
            most_per_shard: (most_threads / SHARDS).max(1),
            watch,
            next_serial: AtomicU32::new(0),
            clock: Clock::start(),
        })
    }

    /// Changes what is looked up, from the next request on.
    pub fn set_wants(&self, wants: Wants) {
        self.wants.store(bits(wants), Ordering::Relaxed);
    }

    /// Begins with the callers of requests that have all come by now.
    pub fn round(&self) -> Round<'_> {
        Round { callers: self, looked: Cell::new(false) }
    }

    /// Finds out who a caller is.
    pub fn resolve(&self, caller: Caller) -> Who {
        self.round().resolve(caller)
    }

    /// Finds out all there is about a caller, whatever is wanted of others. Dear, and not remembered.
    pub fn resolve_whole(&self, caller: Caller) -> Who {
        if caller.tid == 0 {
            return self.resolve(caller);
        }
        let known = Known::read(caller.tid, PROCESS | PGRP | CGROUP);
        known.map_or_else(|_| Who::Caller(ids(caller)), |known| known.who(caller))
    }

    fn cached(&self, caller: Caller, wants: u8, now: Nanos) -> Cached {
        let mut shard = self.shard(caller.tid);
        let Some(entry) = shard.get_mut(&caller.tid) else { return Cached::Unknown };
        if entry.wants != wants || entry.guard.must_be_asked() && entry.guard.has_ended() {
            return Cached::Unknown;
        }
        let who = entry.known.who(caller);
        if wants & MOVABLE == 0 || now.since(entry.movable_read_at) < BELIEVED {
            return Cached::Known(who);
        }
        // One reads, without the lock (/proc/TID/cgroup may have to wait); others go on with what is there.
        entry.movable_read_at = now;
        Cached::Aged(who, Ticket { tid: caller.tid, serial: entry.serial })
    }

    /// Reads again what the thread can have changed; `None` if it ended meanwhile.
    fn reread(&self, caller: Caller, wants: u8, ticket: Ticket) -> Option<Who> {
        let pgrp = Thread::read(ticket.tid).ok()?.pgrp;
        let movable = Movable::read(ticket.tid, pgrp, wants).ok()?;
        // What was read is this thread's if it still lives now: its number was never free in between.
        self.watch.drain(|ended| self.forget(ended));
        let mut shard = self.shard(ticket.tid);
        let entry = shard.get_mut(&ticket.tid).filter(|entry| entry.serial == ticket.serial)?;
        if entry.guard.must_be_asked() && entry.guard.has_ended() {
            return None;
        }
        entry.known.movable = movable;
        Some(entry.known.who(caller))
    }

    fn look_up(&self, caller: Caller, wants: u8, now: Nanos) -> io::Result<Who> {
        let tid = caller.tid;
        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
        // No guard to be had, for want of descriptors say: then the answer is not remembered. A thread that has
        // gone already fails the reading, too.
        let guard = self.watch.guard(Ticket { tid, serial }).ok();
        let known = Known::read(tid, wants);
        let Some(guard) = guard else { return known.map(|known| known.who(caller)) };
        match known {
            // If the thread lives after the reading, then all that was read is this thread's.
            Ok(known) if !guard.has_ended() => {
                let who = known.who(caller);
                self.remember(tid, Entry { serial, guard, wants, known, movable_read_at: now });
                Ok(who)
            }
            known => {
                self.watch.release(guard);
                known.and(Err(Errno::ESRCH.into()))
            }
        }
    }

    fn remember(&self, tid: u32, entry: Entry) {
        let mut shard = self.shard(tid);
        let mut dropped = shard.insert(tid, entry);
        if shard.len() > self.most_per_shard {
            // Whichever other comes first: the table's order is random, and a thread that is still busy is back
            // in the cache with its next request.
            let other = shard.keys().copied().find(|other| *other != tid);
            dropped = other.and_then(|other| shard.remove(&other));
        }
        drop(shard);
        if let Some(entry) = dropped {
            self.watch.release(entry.guard);
        }
    }

    fn forget(&self, ended: Ticket) {
        let mut shard = self.shard(ended.tid);
        if shard.get(&ended.tid).is_some_and(|entry| entry.serial == ended.serial)
            && let Some(entry) = shard.remove(&ended.tid)
        {
            drop(shard);
            self.watch.release(entry.guard);
        }
    }

    fn shard(&self, tid: u32) -> MutexGuard<'_, HashMap<u32, Entry>> {
        // No code that can panic runs under the lock, and every state of the map is a valid one.
        self.shards[tid as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("no panic under it").len()).sum()
    }
}

/// The callers of requests that had all come when it was made: one look at who has ended does for all of them.
#[derive(Debug)]
pub struct Round<'c> {
    callers: &'c Callers,
    looked: Cell<bool>,
}

impl Round<'_> {
    /// Finds out who a caller is.
    pub fn resolve(&self, caller: Caller) -> Who {
        let callers = self.callers;
        let wants = callers.wants.load(Ordering::Relaxed);
        if caller.tid == 0 {
            // Somebody outside the mount's pid namespace has no number in it, but has a uid; the kernel itself
            // has none, so for 0 the opener of the file handle is the better guess.
            return if caller.uid == 0 { Who::Kernel } else { Who::Caller(ids(caller)) };
        }
        // Kernel threads that act for others are uid 0; nobody else needs a look-up for uid and gid alone.
        if wants == 0 && caller.uid != 0 {
            return Who::Caller(ids(caller));
        }
        // Before the cache is used: whose number is free by now must not be in it.
        if !self.looked.replace(true) {
            callers.watch.drain(|ended| callers.forget(ended));
        }
        let now = if wants & MOVABLE == 0 { Nanos(0) } else { callers.clock.now() };
        match callers.cached(caller, wants, now) {
            Cached::Known(who) => who,
            Cached::Aged(who, ticket) => callers.reread(caller, wants, ticket).unwrap_or(who),
            // It is not there any more, or never was: uid and gid are what the request itself says.
            Cached::Unknown => {
                callers.look_up(caller, wants, now).unwrap_or_else(|_| Who::Caller(ids(caller)))
            }
        }
    }
}

impl Known {
    fn read(tid: u32, wants: u8) -> io::Result<Self> {
        let thread = Thread::read(tid)?;
        let process = if wants & PROCESS != 0 { Some(ProcessId::of_thread(&thread)?) } else { None };
        Ok(Self {
            kernel_thread: thread.kernel_thread,
            process,
            movable: Movable::read(tid, thread.pgrp, wants)?,
        })
    }

    fn who(&self, caller: Caller) -> Who {
        // A kernel thread that has taken somebody's uid (as a file server's does) works for that user.
        if self.kernel_thread && caller.uid == 0 {
            return Who::Kernel;
        }
        let Movable { pgrp, cgroups } = self.movable.clone();
        Who::Caller(Identity { uid: caller.uid, gid: caller.gid, process: self.process, pgrp, cgroups })
    }
}

impl Movable {
    fn read(tid: u32, pgrp: u32, wants: u8) -> io::Result<Self> {
        Ok(Self {
            pgrp: (wants & PGRP != 0).then_some(pgrp),
            cgroups: if wants & CGROUP != 0 { proc::cgroups(tid)? } else { Arc::default() },
        })
    }
}

fn ids(caller: Caller) -> Identity {
    Identity::from_ids(caller.uid, caller.gid)
}

const PROCESS: u8 = 1;
const PGRP: u8 = 2;
const CGROUP: u8 = 4;
/// What a thread can change while it lives.
const MOVABLE: u8 = PGRP | CGROUP;

/// All wants in one atomic, so that a change of several is seen as one.
fn bits(wants: Wants) -> u8 {
    u8::from(wants.process) * PROCESS + u8::from(wants.pgrp) * PGRP + u8::from(wants.cgroup) * CGROUP
}
