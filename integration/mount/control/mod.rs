//! Changes of a mount while it is used.

mod edits;
mod loaded;
mod watched;

use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [edits::trials(), loaded::trials(), watched::trials()].into_iter().flatten().collect()
}
