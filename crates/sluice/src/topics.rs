//! Which topics the connectors of this process have read, for `GET /connectors/{name}/topics` and for the clean-up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use model::{Offset, TopicPartition};
use source::{Commit, CommitError, Event, Source};

/// Topics by connector.
#[derive(Debug, Default)]
pub(crate) struct TopicsRead(Mutex<BTreeMap<String, BTreeSet<String>>>);

impl TopicsRead {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }

    /// The topics that `connector` has read records of.
    pub(crate) fn of(&self, connector: &str) -> BTreeSet<String> {
        self.all().get(connector).cloned().unwrap_or_default()
    }

    /// Begins the list of `connector` anew.
    pub(crate) fn forget(&self, connector: &str) {
        self.all().remove(connector);
    }

    fn note(&self, connector: &str, topic: &str) {
        let mut all = self.all();
        if !all.get(connector).is_some_and(|topics| topics.contains(topic)) {
            all.entry(connector.to_owned()).or_default().insert(topic.to_owned());
        }
    }
}

/// A source that notes the topics of the batches it hands out.
pub(crate) struct Noting<S> {
    pub(crate) source: S,
    pub(crate) connector: String,
    pub(crate) topics: Arc<TopicsRead>,
}

#[async_trait]
impl<S: Source> Source for Noting<S> {
    async fn next(&self, records: bool) -> Event {
        let event = self.source.next(records).await;
        if let Event::Batch(batch) = &event {
            self.topics.note(&self.connector, &batch.topic_partition.topic);
        }
        event
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<TopicPartition>, CommitError> {
        self.source.commit(commits).await
    }

    fn pause(&self, partitions: &[TopicPartition]) {
        self.source.pause(partitions);
    }

    fn resume(&self, partitions: &[TopicPartition]) {
        self.source.resume(partitions);
    }

    fn end_offset(&self, topic_partition: &TopicPartition) -> Option<Offset> {
        self.source.end_offset(topic_partition)
    }

    async fn is_exhausted(&self) -> Result<bool, source::Error> {
        self.source.is_exhausted().await
    }

    async fn rejoin(&self) {
        self.source.rejoin().await;
    }

    async fn close(&self) {
        self.source.close().await;
    }
}
