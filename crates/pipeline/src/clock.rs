//! The wall clock, as a thing that is passed in.

use std::time::SystemTime;

/// Tells the time of day. Timers are tokio's; this is for what ends up in paths and plans.
pub trait Clock: Send + Sync {
    /// Milliseconds since the epoch. May jump, also backwards.
    fn now_ms(&self) -> i64;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now_ms(&self) -> i64 {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
    }
}
