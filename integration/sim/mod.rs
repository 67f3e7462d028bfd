//! A simulator for the scheduler: real decisions of [`ioband::sched::Disk`], on simulated disks, for simulated clients,
//! in virtual time. The same scenario with the same seed gives the same run to the nanosecond, so whatever a run shows
//! can be looked at again.
//!
//! * [`scenario`]: what is simulated, as YAML.
//! * [`device`]: models of disks. * [`client`]: models of those who make requests.
//! * [`run`]: the event loop, with what must hold at every step ([`check`]).
//! * [`outcome`]: what came of it; [`table`] and [`plot`] show it. * [`real`]: the same scenario on a real mount.
#![allow(dead_code, reason = "each of the programs that include this uses a part of it")]

pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod device;
pub(crate) mod outcome;
pub(crate) mod plot;
pub(crate) mod real;
pub(crate) mod run;
pub(crate) mod scenario;
pub(crate) mod table;

pub(crate) use run::Run;
pub(crate) use scenario::Scenario;
