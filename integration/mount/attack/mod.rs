//! What a local user who may open one image cannot do to others: read what is theirs, leave the image's range, change how the
//! disk is shared, or take more than a share, by any pattern of requests.

mod closed;
mod control;
mod flood;
mod metadata;
mod range;
mod stage;

pub(crate) use flood::helper;
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [closed::trials(), control::trials(), range::trials()].into_iter().flatten().collect()
}

/// Trials that compare shares or load the machine: one after the other.
pub(crate) fn floods() -> Vec<Trial> {
    [flood::trials(), metadata::trials()].into_iter().flatten().collect()
}
