//! Models of disks: when is a request that is handed over now finished?
//!
//! * *servers*: so many servers, one queue, first come first served. Each takes a fixed time, and more for more bytes.
//! * *ssd*: channels with a queue each, chosen by the address (at random), so that some are busier than others; writes
//!   take longer than reads; now and then a request takes many times as long, as beside garbage collection.
//! * *spindle*: one head. It takes the nearest of the requests that it holds in its own queue, pays for the way by the
//!   square root of the distance, for half a turn on average, and for the bytes.
//!
//! Any of them can stall (it finishes nothing for a while) and fail (a request ends with an error).

use super::scenario::read_size;
use ioband::sched::Op;
use ioband::units::{Nanos, SECTOR_SIZE};
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum DeviceModel {
    Servers {
        parallel: usize,
        service_us: f64,
        /// Of one server; none: bytes take no time.
        #[serde(default, deserialize_with = "read_size")]
        bandwidth: u64,
        /// Service times vary exponentially around `service_us`.
        #[serde(default)]
        random: bool,
    },
    Ssd {
        channels: usize,
        read_us: f64,
        write_us: f64,
        /// Of one channel.
        #[serde(default, deserialize_with = "read_size")]
        bandwidth: u64,
        /// One request in so many …
        #[serde(default)]
        slow_one_in: u32,
        /// … takes so many times as long.
        #[serde(default)]
        slow_times: f64,
    },
    Spindle {
        /// The way over the whole disk.
        seek_us: f64,
        /// One turn.
        turn_us: f64,
        #[serde(deserialize_with = "read_size")]
        bandwidth: u64,
        /// Requests that it can choose from; others wait in line.
        queue: usize,
    },
}

impl DeviceModel {
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let units = self.units();
        anyhow::ensure!((1..=1 << 16).contains(&units), "a device has 1 to 65536 servers, not {units}");
        let (times, queue) = match *self {
            Self::Servers { service_us, .. } => ([service_us, 1.0], 1),
            Self::Ssd { read_us, write_us, .. } => ([read_us, write_us], 1),
            Self::Spindle { seek_us, turn_us, queue, .. } => ([seek_us, turn_us], queue),
        };
        let good = times.iter().all(|us| us.is_finite() && *us > 0.0);
        anyhow::ensure!(good && queue > 0, "times of a device are above 0, and so is its `queue`");
        Ok(())
    }

    /// How many requests it works on at the same time, at most.
    pub(crate) fn units(&self) -> usize {
        match *self {
            Self::Servers { parallel, .. } => parallel,
            Self::Ssd { channels, .. } => channels,
            Self::Spindle { .. } => 1,
        }
    }
}

/// What goes wrong with it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Faults {
    /// Every so many milliseconds …
    pub(crate) stall_every_ms: f64,
    /// … it does nothing for so many.
    pub(crate) stall_ms: f64,
    /// One request in so many ends with an error.
    pub(crate) error_one_in: u32,
}

/// A request as the disk sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) op: Op,
    pub(crate) sectors: u32,
    /// Where on the disk, from 0 to 1.
    pub(crate) place: f64,
    /// Takes so many times as long as usual.
    pub(crate) slowness: f64,
}

/// A disk at work.
pub(crate) struct Device {
    model: DeviceModel,
    faults: Faults,
    random: fastrand::Rng,
    /// When each server or channel is free.
    free: Vec<Nanos>,
    /// The same for *servers*, the first one first.
    earliest: BinaryHeap<Reverse<(Nanos, usize)>>,
    /// What a spindle has not begun.
    waiting: VecDeque<Job>,
    head: f64,
    finished: BinaryHeap<Reverse<(Nanos, u64, bool)>>,
    /// Time that its servers have spent on requests that are finished.
    worked: Nanos,
    work_of: std::collections::HashMap<u64, Nanos>,
}

impl Device {
    pub(crate) fn new(model: DeviceModel, faults: Faults, seed: u64) -> Self {
        let units = model.units();
        Self {
            free: vec![Nanos(0); units],
            earliest: (0..units).map(|unit| Reverse((Nanos(0), unit))).collect(),
            waiting: VecDeque::new(),
            head: 0.5,
            finished: BinaryHeap::new(),
            worked: Nanos(0),
            work_of: std::collections::HashMap::new(),
            random: fastrand::Rng::with_seed(seed ^ 0xd15c),
            model,
            faults,
        }
    }

    /// Turns into another disk; what it has begun it finishes as it was.
    pub(crate) fn become_another(&mut self, model: DeviceModel, now: Nanos) {
        let units = model.units();
        self.free = vec![now; units];
        self.earliest = (0..units).map(|unit| Reverse((now, unit))).collect();
        self.model = model;
    }

    pub(crate) fn submit(&mut self, job: Job, now: Nanos) {
        match self.model {
            DeviceModel::Servers { service_us, bandwidth, random, .. } => {
                let Some(Reverse((free, unit))) = self.earliest.pop() else { return };
                let luck = if random { -self.random.f64().max(1e-9).ln() } else { 1.0 };
                let end = self.work(job, free.max(now), service_us * luck, bandwidth);
                self.earliest.push(Reverse((end, unit)));
            }
            DeviceModel::Ssd { channels, read_us, write_us, bandwidth, slow_one_in, slow_times } => {
                let unit = ((job.place * channels as f64) as usize).min(channels - 1);
                let usual = if job.op == Op::Read { read_us } else { write_us };
                let slow = slow_one_in > 0 && self.random.u32(0..slow_one_in) == 0;
                let service = if slow { usual * slow_times } else { usual };
                self.free[unit] = self.work(job, self.free[unit].max(now), service, bandwidth);
            }
            DeviceModel::Spindle { .. } => {
                self.waiting.push_back(job);
                self.turn_to_next(now);
            }
        }
    }

    /// A spindle that is free takes the nearest request.
    fn turn_to_next(&mut self, now: Nanos) {
        let DeviceModel::Spindle { seek_us, turn_us, bandwidth, queue } = self.model else { return };
        if self.free[0] > now {
            return;
        }
        let way = |job: &Job| (job.place - self.head).abs();
        let seen = self.waiting.iter().take(queue).enumerate();
        let nearest = seen.min_by(|a, b| way(a.1).total_cmp(&way(b.1))).map(|(index, _)| index);
        let Some(job) = nearest.and_then(|index| self.waiting.remove(index)) else { return };
        let service = seek_us * way(&job).sqrt() + turn_us * self.random.f64();
        self.head = job.place;
        self.free[0] = self.work(job, now, service, bandwidth);
    }

    /// Notes when `job` is finished, which begins at `start` and takes `service_us` and the time of its bytes.
    fn work(&mut self, job: Job, start: Nanos, service_us: f64, bandwidth: u64) -> Nanos {
        let bytes = if job.op.moves_bytes() { u64::from(job.sectors) * SECTOR_SIZE } else { 0 };
        let transfer = if bandwidth > 0 { bytes as f64 * 1e9 / bandwidth as f64 } else { 0.0 };
        let span = Nanos(((service_us * 1e3 + transfer) * job.slowness) as u64);
        let end = self.after_stalls(start).after(span);
        let fails = self.faults.error_one_in > 0 && self.random.u32(0..self.faults.error_one_in) == 0;
        self.finished.push(Reverse((end, job.id, !fails)));
        self.work_of.insert(job.id, span);
        end
    }

    /// The next moment in which it does something.
    fn after_stalls(&self, at: Nanos) -> Nanos {
        let (every, long) = (self.faults.stall_every_ms * 1e6, self.faults.stall_ms * 1e6);
        if every <= 0.0 {
            return at;
        }
        // It stalls at the end of each period.
        let into = at.0 as f64 % every;
        let left = every - into;
        if left <= long { at.after(Nanos(left as u64 + 1)) } else { at }
    }

    /// When the next request is finished.
    pub(crate) fn next(&self) -> Option<Nanos> {
        self.finished.peek().map(|Reverse((end, ..))| *end)
    }

    /// Takes it: its id, and whether it went well.
    pub(crate) fn finish(&mut self) -> Option<(u64, bool)> {
        let Reverse((now, id, well)) = self.finished.pop()?;
        self.worked = self.worked.after(self.work_of.remove(&id).unwrap_or_default());
        self.turn_to_next(now);
        Some((id, well))
    }

    /// Time that all its servers together have worked on what is finished.
    pub(crate) fn worked(&self) -> Nanos {
        self.worked
    }

    pub(crate) fn units(&self) -> usize {
        self.model.units()
    }
}
