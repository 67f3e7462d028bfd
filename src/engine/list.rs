//! The engines of a mount: one for each disk, found by their numbers.

use super::budget::Budget;
use super::core::Engine;
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;

/// The engines of a mount. Their number only grows; one whose disk has gone is given to the next disk.
#[derive(Debug, Default)]
pub struct Engines {
    all: ArcSwap<Vec<Arc<Engine>>>,
    budget: Arc<Budget>,
}

impl Engines {
    /// None as yet; all of them are to share this.
    pub fn new(budget: Budget) -> Self {
        Self { all: ArcSwap::default(), budget: Arc::new(budget) }
    }

    /// What their requests may take of memory.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// All of them, each in the place of its number, as they are now. Costs no lock.
    pub fn load(&self) -> Guard<Arc<Vec<Arc<Engine>>>> {
        self.all.load()
    }

    /// The same, for longer.
    pub fn load_full(&self) -> Arc<Vec<Arc<Engine>>> {
        self.all.load_full()
    }

    /// Adds engines, whose numbers follow those that are there. To be called by one thread at a time.
    pub fn extend(&self, engines: impl IntoIterator<Item = Arc<Engine>>) {
        let mut all = self.all.load().to_vec();
        all.extend(engines);
        debug_assert!(
            (0..).zip(&all).all(|(at, engine)| engine.number() == at),
            "each in the place of its number"
        );
        self.all.store(Arc::new(all));
    }
}
