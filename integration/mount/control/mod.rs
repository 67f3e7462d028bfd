//! Changes of a mount while it is used.

mod edits;
mod loaded;

use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [edits::trials(), loaded::trials()].into_iter().flatten().collect()
}
