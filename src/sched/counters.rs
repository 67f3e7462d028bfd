//! What the status of a group shows.

use super::policy::Op;

/// Counters of one ioband group since the start or the last reset: dm-ioband's seven status columns but the id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that read.
    pub read: Direction,
    /// Requests that write, discard or flush.
    pub write: Direction,
}

/// Counters of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Requests passed to the device.
    pub requests: u64,
    /// Those of them that were queued at least once.
    pub delayed: u64,
    /// Sectors of 512 bytes.
    pub sectors: u64,
}

impl Counters {
    pub(super) fn count(&mut self, op: Op, sectors: u32, delayed: bool) {
        let direction = match op {
            Op::Read => &mut self.read,
            Op::Write | Op::Flush | Op::Discard => &mut self.write,
        };
        direction.requests += 1;
        direction.delayed += u64::from(delayed);
        direction.sectors += u64::from(sectors);
    }
}
