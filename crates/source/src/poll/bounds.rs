//! What the poll thread does for [`crate::Bounds`] and for topic-partitions that are left alone.

use super::*;

/// How often it is tried to see what is there when the source starts.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Poll {
    /// Sees what is there when the source starts, where that matters. An assignment that comes before waits for it.
    pub(super) fn look_first(&mut self, native: &Native) {
        let is_due = self.looked_first.is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL);
        let is_known = self.shared.first_look.get().is_some();
        if !self.shared.config.bounds.looks_first() || is_known || self.is_over || !is_due {
            return;
        }
        self.looked_first = Some(Instant::now());
        let starts = Starts { native, shared: &self.shared };
        match starts.look_first(ASK_TIMEOUT) {
            Ok(()) => {
                if let Some(error) = starts.missing_topics() {
                    self.fail(error);
                }
            }
            Err(code) => {
                tracing::debug!(group = self.shared.config.group(), error = %code, "cannot see yet what is there")
            }
        }
    }

    /// Fetches nothing of what is assigned and not wanted: it is ours for the group's sake only.
    pub(super) fn leave_out(&self, native: &Native, assigned: &List) {
        let lanes = assigned.entries().into_iter().map(|entry| entry.topic_partition);
        let left_out: Vec<TopicPartition> =
            lanes.filter(|lane| self.shared.config.subscription.leaves_out(lane)).collect();
        if !left_out.is_empty() {
            native.pause(&List::of(&left_out));
        }
    }
}
