//! The words of dm-ioband: table lines, which create a device, and messages, which change one.
//!
//! # Tables
//!
//! ```text
//! [NAME:] START LENGTH ioband DEVICE DEVICE_ID IO_THROTTLE IO_LIMIT TYPE POLICY TOKEN_BASE SHARES [EXTRAS]
//! ```
//!
//! | word | |
//! |---|---|
//! | `NAME:` | the ioband device; `create` has it beside the table, `table` prints it before |
//! | `START` | 0 |
//! | `LENGTH` | sectors of 512 bytes, at least 1 and at most what the device has |
//! | `DEVICE` | a path, with `\040` for a blank as in /proc/mounts, or `MAJOR:MINOR` |
//! | `DEVICE_ID` | the disk; devices with the same id share it |
//! | `IO_THROTTLE` `IO_LIMIT` | requests in flight up to 65535; 0 is automatic |
//! | `TYPE` | `none`, `user` (or `uid`), `gid`, `pid`, `pgrp`, `cgroup` or `image` |
//! | `POLICY` | `weight`, `weight-iosize` or `range-bw` |
//! | `TOKEN_BASE` | up to 1000000; 0 is the default, 2048 |
//! | `SHARES` | `[:WEIGHT] [ID:WEIGHT ...]`, under `range-bw` `[:MIN:MAX] [ID:MIN:MAX ...]` |
//! | `EXTRAS` | pairs `KEY [ID]:VALUE` |
//!
//! Without an ID a share is that of the default group, whose weight is 100 where it is left out. WEIGHT is 1 to 32767; MIN and
//! MAX are KB/s of 1024 bytes, 0 for none. An ID may hold colons, for the numbers stand behind the last ones.
//!
//! The extras are what dm-ioband had no place for, and printed only where they are set, so that `table` into `create` loses
//! nothing: `max_bandwidth` and `bandwidth_burst` in bytes, `max_iops` and `iops_burst` in requests, and under `range-bw`
//! `weight` (but not `max_bandwidth`, which is MAX).
//!
//! ```text
//! 0 2097152 ioband /dev/sda1 1 0 0 none weight 0 :40
//! ioband1: 0 32129937 ioband 8:29 128 10 400 user weight 2048 :100 1000:80 2000:20
//! 0 2097152 ioband /srv/my\040disk 1 0 0 image range-bw 0 :0:30720 db.img:40960:0 weight db.img:400
//! 0 2097152 ioband /dev/sda1 1 0 0 cgroup weight 0 /a:b.slice:80 max_iops /a:b.slice:2000 max_bandwidth :52428800
//! ```
//!
//! # Messages
//!
//! ```text
//! type TYPE                        attach ID                   detach ID
//! weight [ID:]WEIGHT               range-bw [ID:]MIN:MAX       policy POLICY
//! token TOKEN_BASE                 io_throttle IO_THROTTLE     io_limit IO_LIMIT
//! max_bandwidth [ID:]SIZE          bandwidth_burst [ID:]SIZE
//! max_iops [ID:]REQUESTS           iops_burst [ID:]REQUESTS
//! simulate IOPS:BANDWIDTH:PARALLEL | none                      reset | reopen
//! ```
//!
//! Without an ID, or with the ID -1, the default group is meant. A SIZE may have a unit, and a cap of 0 is none; so is an IOPS
//! or a BANDWIDTH of 0, but not both.
//!
//! ```text
//! weight 40
//! weight 1000:30
//! range-bw -1:0:30720
//! max_bandwidth vm1.img:50MiB/s
//! simulate 2000:100MiB:1
//! ```
//!
//! # What holds for both
//!
//! Words are separated by any blanks. An ID stays a word here: only the type of a device gives it a meaning. Whatever is
//! printed reads back as what it was printed from. What cannot be read is refused with EINVAL, by the word that is wrong.

mod limit;
mod message;
mod table;
#[cfg(test)]
mod tests;
mod words;

pub use limit::{LimitKey, Share};
pub use message::Message;
pub use table::{TableDevice, TableLine};
pub(super) use words::{MOST_KILOBYTES, escaped};
