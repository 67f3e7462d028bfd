//! Less memory for a worker whose predecessors have died young, one after the other.
//!
//! What kills them all may be that there is not as much as was asked for: a cgroup's limit, a machine that is full. The kernel
//! ends who needs memory then, and what it was needed for comes again. So each one tries it with half of what the one before
//! had, and with all of it once there has been peace for a while.

use crate::engine::Engines;
use crate::fuse::Server;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// After so long there may be as much again.
const PEACE: Duration = Duration::from_secs(60);
/// Mostly a worker that dies is an accident, and the next one has all that it had.
const ACCIDENTS: u32 = 1;

/// Keeps requests to less memory after so many deaths in a row; what is left of it, if it is less.
pub(super) fn begin(engines: &Engines, deaths: u32) -> Option<usize> {
    let halvings = deaths.checked_sub(ACCIDENTS).filter(|halvings| *halvings > 0)?;
    Some(engines.budget().halve(halvings))
}

/// Gives it back after a while. Without a thread that could it stays less.
pub(super) fn end(engines: Arc<Engines>, server: Arc<Server>) {
    let restored = thread::Builder::new().name("spare".into()).spawn(move || {
        thread::sleep(PEACE);
        engines.budget().restore();
        // Who had no room looks again only when he is woken, and whoever has all of it may hang.
        server.engines_changed();
    });
    if let Err(error) = restored {
        tracing::error!(%error, "memory stays bounded to less");
    }
}
