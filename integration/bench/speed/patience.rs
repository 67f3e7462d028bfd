//! Waiting for what comes about by itself.

use std::time::{Duration, Instant};

/// Far longer than anything takes by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(10);

/// Waits until it is so, in vain at the most for [`PATIENCE`]; whether it is.
pub(crate) fn wait_until(mut is_it: impl FnMut() -> bool) -> bool {
    let late = Instant::now() + PATIENCE;
    loop {
        if is_it() {
            return true;
        }
        if Instant::now() >= late {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}
