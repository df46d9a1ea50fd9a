//! What the poll thread hands to the task: events in order, bounded by the bytes of their batches.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use model::TopicPartition;
use tokio::sync::Notify;

use crate::{Assigned, Event};

/// The right to commit for one topic-partition that comes with one assignment of it. It begins when the task takes the
/// assignment out of the inbox: until then it may still work for an older one.
#[derive(Default)]
pub(crate) struct Lease(AtomicBool);

impl Lease {
    pub(crate) fn has_begun(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One writer (the poll thread), one reader (the task). The writer never blocks: it looks at [`Inbox::is_full`] before
/// it takes more records, and events without records always fit.
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    bytes_max: usize,
}

#[derive(Default)]
struct Waiting {
    /// With the leases that begin when the event is taken.
    events: VecDeque<(Event, Vec<Arc<Lease>>)>,
    bytes: usize,
}

fn weight(event: &Event) -> usize {
    match event {
        Event::Batch(batch) => batch.bytes(),
        Event::Assigned(_) | Event::Revoked { .. } | Event::Position { .. } | Event::Failed(_) => 0,
    }
}

impl Inbox {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no code panics while it holds this lock")
    }

    pub(crate) fn push(&self, event: Event) {
        self.push_with(event, Vec::new());
    }

    /// Hands out an assignment; `leases` begin when the task takes it.
    pub(crate) fn push_assigned(&self, assigned: Vec<Assigned>, leases: Vec<Arc<Lease>>) {
        self.push_with(Event::Assigned(assigned), leases);
    }

    fn push_with(&self, event: Event, leases: Vec<Arc<Lease>>) {
        let mut waiting = self.lock();
        waiting.bytes += weight(&event);
        waiting.events.push_back((event, leases));
        drop(waiting);
        self.arrived.notify_one();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.lock().bytes >= self.bytes_max
    }

    /// The next event, and whether it was this one that made room again. Cancel-safe: an event leaves the queue only
    /// when it is returned.
    pub(crate) async fn next(&self, records: bool) -> (Event, bool) {
        loop {
            if let Some(taken) = self.take(records) {
                return taken;
            }
            self.arrived.notified().await;
        }
    }

    fn take(&self, records: bool) -> Option<(Event, bool)> {
        let mut waiting = self.lock();
        let first = waiting.events.iter().position(|(event, _)| records || !event.is_about_records())?;
        let (event, leases) = waiting.events.remove(first)?;
        leases.iter().for_each(|lease| lease.begin());
        let before = waiting.bytes;
        waiting.bytes -= weight(&event);
        Some((event, before >= self.bytes_max && waiting.bytes < self.bytes_max))
    }

    /// Forgets batches and positions of topic-partitions that are taken away.
    pub(crate) fn forget(&self, partitions: &HashSet<TopicPartition>) {
        self.retain(|event| match event {
            Event::Batch(batch) => !partitions.contains(&batch.topic_partition),
            Event::Position { topic_partition, .. } => !partitions.contains(topic_partition),
            Event::Assigned(_) | Event::Revoked { .. } | Event::Failed(_) => true,
        });
    }

    /// Forgets everything but the news that the source cannot go on.
    pub(crate) fn clear(&self) {
        self.retain(|event| match event {
            Event::Failed(_) => true,
            Event::Assigned(_) | Event::Revoked { .. } | Event::Batch(_) | Event::Position { .. } => false,
        });
    }

    fn retain(&self, keep: impl Fn(&Event) -> bool) {
        let mut waiting = self.lock();
        waiting.events.retain(|(event, _)| keep(event));
        waiting.bytes = waiting.events.iter().map(|(event, _)| weight(event)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Offset, RawBatchBuilder};

    fn batch(topic_partition: &TopicPartition, bytes: usize) -> Event {
        let mut builder = RawBatchBuilder::new(topic_partition.clone(), 1, bytes);
        builder.push(Offset::ZERO, -1, None, Some(&vec![0; bytes]), Vec::new());
        Event::Batch(builder.finish())
    }

    #[tokio::test]
    async fn a_full_inbox_tells_when_there_is_room_again() {
        let inbox = Inbox::new(1_000);
        let lane = TopicPartition::new("t", 0);
        inbox.push(batch(&lane, 600));
        assert!(!inbox.is_full());
        inbox.push(batch(&lane, 600));
        assert!(inbox.is_full());
        assert!(inbox.next(true).await.1, "the first one makes room");
        assert!(!inbox.next(true).await.1);
    }

    #[tokio::test]
    async fn batches_of_revoked_partitions_are_forgotten_and_others_stay_in_order() {
        let inbox = Inbox::new(1_000);
        let (gone, stays) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
        inbox.push(batch(&gone, 900));
        inbox.push(batch(&stays, 100));
        inbox.push(Event::Position { topic_partition: gone.clone(), next: Offset::ZERO });
        inbox.forget(&HashSet::from([gone]));
        assert!(!inbox.is_full());
        match inbox.next(true).await.0 {
            Event::Batch(batch) => assert_eq!(batch.topic_partition, stays),
            other => panic!("expected the batch that stays, got {other:?}"),
        }
        assert!(inbox.take(true).is_none());
    }

    #[tokio::test]
    async fn a_lease_begins_when_its_assignment_is_taken() {
        let inbox = Inbox::new(1_000);
        let lease = Arc::new(Lease::default());
        inbox.push_assigned(Vec::new(), vec![lease.clone()]);
        assert!(!lease.has_begun());
        inbox.next(true).await;
        assert!(lease.has_begun());
    }

    #[tokio::test]
    async fn news_overtake_records_that_nobody_can_take() {
        let inbox = Inbox::new(1_000);
        let lane = TopicPartition::new("t", 0);
        inbox.push(batch(&lane, 100));
        assert!(inbox.take(false).is_none());
        inbox.push(Event::Assigned(Vec::new()));
        assert!(matches!(inbox.next(false).await.0, Event::Assigned(_)));
        assert!(matches!(inbox.next(true).await.0, Event::Batch(_)));
    }
}
