//! How many requests the device is given at once (share rule R8).
//!
//! Too many, and requests wait in the device's queue, where no weight decides; too few, and the device idles.
//! Only measuring tells. The controller compares the latency of requests that ran at the current depth with that
//! of requests that had the device to themselves (*solo*), in the manner of TCP Vegas:
//!
//! * below [`GROW_BELOW`] times the solo latency the device takes more without making anybody wait: deeper;
//! * above [`SHRINK_ABOVE`] times, requests wait for each other inside the device: shallower.
//!
//! A disk with one server settles at 2 (one served, one at hand), one with 32 servers near 48. Requests are
//! compared with solo requests of their own direction and size. Solo latencies are learned whenever the device
//! happens to be idle, and otherwise by a *dip*: every [`DIP_INTERVAL`] a few requests run alone.

use super::policy::Op;
use crate::units::Nanos;

/// Never shallower: with 1 the device idles while the next request is on its way.
const SHALLOWEST: u32 = 2;
/// Never deeper: more than any device's own queue (NVMe: 1,024 entries is common).
const DEEPEST: u32 = 1024;
/// Latency in percent of solo latency.
const GROW_BELOW: u64 = 150;
const SHRINK_ABOVE: u64 = 220;
/// One stray request (a device that hiccups) counts at most this many times its solo latency.
const OUTLIER: u64 = 8;
/// Requests that run alone in a dip, and how often a dip is due when nothing ran alone by itself.
const DIP_REQUESTS: u32 = 4;
const DIP_INTERVAL: Nanos = Nanos::from_millis(2_000);
/// A request of a size and direction never seen alone asks for a dip this soon after the last one.
const DIP_SOON: Nanos = Nanos::from_millis(50);

/// Sizes are compared by powers of two of sectors; 2^15 sectors are 16 MiB, the largest FUSE request.
const SIZES: usize = 16;

/// What one request in flight is good for as a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sample {
    /// It found the device idle.
    Solo,
    /// It filled the device up to the depth; the number says under which setting.
    Full(u32),
    /// Neither.
    None,
}

/// See the module.
#[derive(Debug)]
pub(super) struct DepthControl {
    depth: u32,
    /// Goes up with every change of depth: samples of an older setting are void.
    generation: u32,
    /// Still doubling, as at the start.
    doubling: bool,
    /// Solo latency by direction and size, a moving average; zero = never seen.
    solo: [[Nanos; SIZES]; 3],
    last_solo: Nanos,
    dip_left: u32,
    /// Sums over the current window.
    latency: u64,
    solo_latency: u64,
    samples: u32,
}

impl DepthControl {
    pub(super) fn new() -> Self {
        Self {
            depth: SHALLOWEST,
            generation: 0,
            doubling: true,
            solo: [[Nanos(0); SIZES]; 3],
            last_solo: Nanos(0),
            dip_left: DIP_REQUESTS,
            latency: 0,
            solo_latency: 0,
            samples: 0,
        }
    }

    /// The depth in force now: 1 during a dip.
    pub(super) fn depth(&self) -> u32 {
        if self.dip_left > 0 { 1 } else { self.depth }
    }

    /// A request goes to the device, where `others` are in flight already.
    pub(super) fn started(&mut self, others: u32) -> Sample {
        if others == 0 {
            Sample::Solo
        } else if others + 1 >= self.depth {
            Sample::Full(self.generation)
        } else {
            Sample::None
        }
    }

    /// A request came back.
    pub(super) fn finished(&mut self, sample: Sample, op: Op, sectors: u32, latency: Nanos, now: Nanos) {
        // A flush waits for what others wrote: its latency says nothing about depth.
        let Some(kind) = kind(op) else {
            self.dip_left = self.dip_left.saturating_sub(u32::from(sample == Sample::Solo));
            return;
        };
        let solo = &mut self.solo[kind][size_class(sectors)];
        match sample {
            Sample::None => {}
            Sample::Solo => {
                *solo = if solo.0 == 0 { latency } else { Nanos(solo.0 - solo.0 / 8 + latency.0 / 8) };
                self.last_solo = now;
                self.dip_left = self.dip_left.saturating_sub(1);
            }
            Sample::Full(generation) if generation != self.generation => {}
            Sample::Full(_) => {
                let solo = *solo;
                if solo.0 == 0 {
                    self.dip_if_older_than(DIP_SOON, now);
                } else {
                    self.latency = self.latency.saturating_add(latency.0.min(solo.0.saturating_mul(OUTLIER)));
                    self.solo_latency = self.solo_latency.saturating_add(solo.0);
                    self.samples += 1;
                    self.dip_if_older_than(DIP_INTERVAL, now);
                    self.close_window();
                }
            }
        }
    }

    fn dip_if_older_than(&mut self, age: Nanos, now: Nanos) {
        if now.since(self.last_solo) >= age && self.dip_left == 0 {
            self.dip_left = DIP_REQUESTS;
            self.last_solo = now;
        }
    }

    fn close_window(&mut self) {
        if self.samples < self.depth.saturating_add(16) {
            return;
        }
        // Latencies are nanoseconds of at most some seconds, times at most 1,040 samples: far from 2^64 / 100.
        let percent = self.latency.saturating_mul(100) / self.solo_latency.max(1);
        let step = if self.doubling { self.depth } else { (self.depth / 4).max(1) };
        if percent < GROW_BELOW {
            self.set(self.depth.saturating_add(step));
        } else if percent > SHRINK_ABOVE {
            self.doubling = false;
            self.set(self.depth.saturating_sub((self.depth / 8).max(1)));
        } else {
            self.doubling = false;
            self.restart_window();
        }
    }

    fn set(&mut self, depth: u32) {
        let depth = depth.clamp(SHALLOWEST, DEEPEST);
        if depth != self.depth {
            self.depth = depth;
            self.generation = self.generation.wrapping_add(1);
        }
        self.restart_window();
    }

    fn restart_window(&mut self) {
        (self.latency, self.solo_latency, self.samples) = (0, 0, 0);
    }
}

fn kind(op: Op) -> Option<usize> {
    match op {
        Op::Read => Some(0),
        Op::Write => Some(1),
        Op::Discard => Some(2),
        Op::Flush => None,
    }
}

fn size_class(sectors: u32) -> usize {
    (sectors.max(1).ilog2() as usize).min(SIZES - 1)
}
