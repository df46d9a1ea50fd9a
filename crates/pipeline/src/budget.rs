//! The byte budget that all tasks of the process share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use model::{Check, Importance, Key, Kind};

/// The process-wide budget; a key of the worker.
pub const MEMORY_BUDGET_BYTES: Key = Key::new(
    "memory.budget.bytes",
    Kind::Long,
    "Bytes that records may take in this process on their way: librdkafka's queues, raw batches, open files, parts on \
     their way. Over it, files are closed early and reading waits.",
)
.default("536870912")
.check(Check::AtLeast(67_108_864))
.importance(Importance::Medium)
.ours();

/// Bytes in use against a limit. A [`Share`] is somebody's part of it.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// The part of `used` that goes when the store has answered.
    leaving: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget { limit, used: AtomicUsize::new(0), leaving: AtomicUsize::new(0) })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether reading must wait: seven eighths are in use, the rest is for what is on its way already.
    pub fn is_tight(&self) -> bool {
        self.used() >= self.limit / 8 * 7
    }

    /// Whether open files must shrink: without what is on its way to the store, three quarters are in use. Less than
    /// where reading stops, so that it need not stop while the store takes what comes.
    pub fn wants_relief(&self) -> bool {
        self.used().saturating_sub(self.leaving.load(Ordering::Relaxed)) >= self.limit / 4 * 3
    }

    /// A share of nothing yet.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), bytes: AtomicUsize::new(0), is_leaving: AtomicBool::new(false) }
    }
}

/// Somebody's part of a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: AtomicUsize,
    is_leaving: AtomicBool,
}

impl Share {
    /// The share is `bytes` from now on.
    pub fn resize(&self, bytes: usize) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        grow(&self.budget.used, before, bytes);
        if self.is_leaving.load(Ordering::Relaxed) {
            grow(&self.budget.leaving, before, bytes);
        }
    }

    /// Whether the budget is: see [`Budget::is_tight`].
    pub(crate) fn is_tight(&self) -> bool {
        self.budget.is_tight()
    }

    /// What it counts is on its way to the store: it is given back soon without anybody doing more for it.
    pub fn leave(&self) {
        if !self.is_leaving.swap(true, Ordering::Relaxed) {
            grow(&self.budget.leaving, 0, self.bytes.load(Ordering::Relaxed));
        }
    }
}

fn grow(total: &AtomicUsize, before: usize, after: usize) {
    if after >= before {
        total.fetch_add(after - before, Ordering::Relaxed);
    } else {
        total.fetch_sub(before - after, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_are_given_back() {
        let budget = Budget::new(800);
        let (one, two) = (budget.share(), budget.share());
        one.resize(500);
        two.resize(150);
        assert_eq!((budget.used(), budget.is_tight()), (650, false));
        two.resize(200);
        assert!(budget.is_tight());
        one.resize(100);
        assert_eq!(budget.used(), 300);
        drop((one, two));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_leaves_fills_the_memory_and_asks_nobody_else_to_shrink() {
        let budget = Budget::new(800);
        let (open, closed) = (budget.share(), budget.share());
        open.resize(400);
        closed.resize(300);
        assert!(budget.is_tight() && budget.wants_relief());
        closed.leave();
        assert!(budget.is_tight() && !budget.wants_relief());
        open.resize(600);
        assert!(budget.wants_relief());
        closed.resize(100);
        drop((open, closed));
        assert_eq!((budget.used(), budget.leaving.load(Ordering::Relaxed)), (0, 0));
    }
}
