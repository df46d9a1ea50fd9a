//! Read records from a log and commit how far we got. A [`Source`] is one member of one consumer group: it hands out
//! topic-partitions with their committed offset *and* its metadata, then raw batches, and takes commits back. Every
//! commit passes a local lease that is taken at assignment and dropped inside the revoke callback, so that a task which
//! has not heard of a rebalance yet cannot commit for a topic-partition that is no longer its own. What the group does
//! not know a [`Recovery`] may tell, and an offset that the log no longer holds is an error or a warning, never a silent
//! jump. `KafkaSource` is the real one, on librdkafka; `MemoryLog` is a whole log with groups in memory, for simulation;
//! [`group`] looks at groups from outside. [`DeadLetters`] writes what could not go on to a topic of its own. Nothing else
//! of sluice knows rdkafka.
//!
//! ```text
//!            Recovery: where to start, when the group has no offset
//!                        |
//!  broker --fetch--> poll thread --RawBatch--> Source::next --> task
//!    ^                  | rebalance callback: Event + Ack          |
//!    +------ OffsetCommit (offset, metadata) <--lease-- Source::commit
//! ```

mod bounds;
mod code;
mod collect;
pub mod conformance;
mod dead_letters;
mod embedded;
mod exhausted;
pub mod group;
mod inbox;
mod kafka;
mod kafka_letters;
pub mod keys;
mod lost;
mod memory;
mod memory_group;
mod memory_letters;
mod memory_source;
mod memory_world;
mod native;
mod park;
mod pattern;
mod poll;
pub mod properties;
mod protocol;
mod starts;
mod topic_id;

pub use bounds::{Bounds, NoRecord, StartAt, Starting};
pub use dead_letters::{DeadLetters, Letter};
pub use embedded::{EmbeddedBroker, EmbeddedError, KEPT_BYTES_MAX, KEPT_RECORDS_MAX, Producer};
pub use kafka::{KafkaSource, SourceConfig, cluster_id};
pub use kafka_letters::{KafkaDeadLetters, LetterConfig};
pub use keys::{DataLoss, KEYS, Subscription, check, on_data_loss, subscription};
pub use memory::{CommitFate, Faults, Happening, MemberId, MemoryLog, Observer};
pub use memory_group::Protocol;
pub use memory_letters::{LetterFate, MemoryDeadLetters};
pub use memory_source::MemorySource;

use std::collections::BTreeMap;

use async_trait::async_trait;
use model::{Offset, RawBatch, TopicPartition};

/// What a source tells its task. The order of events is the order in which they happened to the group member.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all events are batches; a box would be one more allocation each")]
pub enum Event {
    /// These topic-partitions are ours from now on; their batches follow, from [`Assigned::start`].
    Assigned(Vec<Assigned>),
    /// These are taken away. The source gives them up when the [`Ack`] is dropped, or when its time is over. Commits for
    /// them are still possible until then, unless `lost`: then their leases are gone already.
    Revoked {
        /// The topic-partitions that go.
        partitions: Vec<TopicPartition>,
        /// The group went on without us: nothing can be committed any more.
        lost: bool,
        /// Dropped when the task has let go.
        ack: Ack,
    },
    /// Records of one assigned topic-partition.
    Batch(RawBatch),
    /// There is no record of `topic_partition` before `next` that was not delivered: control records, compaction and
    /// aborted transactions move the position without a record. So does retention that overtook the reader, when
    /// [`SourceConfig::on_data_loss`] allows it.
    Position {
        /// The lane.
        topic_partition: TopicPartition,
        /// Offset of the next record that can come.
        next: Offset,
    },
    /// The source cannot go on.
    Failed(Error),
}

impl Event {
    /// Whether it is about records: a batch or a position.
    pub(crate) fn is_about_records(&self) -> bool {
        match self {
            Event::Batch(_) | Event::Position { .. } => true,
            Event::Assigned(_) | Event::Revoked { .. } | Event::Failed(_) => false,
        }
    }
}

/// A topic-partition that was assigned.
#[derive(Debug, Clone, PartialEq)]
pub struct Assigned {
    /// The lane.
    pub topic_partition: TopicPartition,
    /// Where reading starts: the committed offset, else what was recovered, else what [`Bounds::starting`] or
    /// `auto.offset.reset` says; the latter also when the log does not hold the offset and [`SourceConfig::on_data_loss`]
    /// allows to go on. Where an authority's offset lies before the log, it stays, and the first record comes later.
    pub start: Offset,
    /// Where reading ends, with [`Bounds::until_end`]: the end of the log, as its readers may see it, when the source
    /// started. Records from there on may still be delivered.
    pub until: Option<Offset>,
    /// Metadata of the committed or recovered offset; empty when there is none or reading starts elsewhere.
    pub metadata: String,
    /// Whether `start` is the group's committed offset. If not, it should be committed soon: whoever comes next may find
    /// another one.
    pub committed: bool,
}

/// Where a topic-partition that the group has no committed offset for goes on, found outside of Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The lane.
    pub topic_partition: TopicPartition,
    /// Where reading starts.
    pub start: Offset,
    /// The plan of the cut at `start` when only a part of its objects is visible, as offset metadata; else empty.
    pub metadata: String,
}

/// A topic-partition that begins before where the authority said, because its log does not reach so far any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedBack {
    /// The lane.
    pub topic_partition: TopicPartition,
    /// What the authority said.
    pub from: Offset,
    /// Where reading goes on.
    pub to: Offset,
}

/// Knows how far a topic-partition got when the group does not: its objects tell. Asked at assignment, before reading
/// starts, for topic-partitions without a committed offset; an authority for all.
#[async_trait]
pub trait Recovery: Send + Sync {
    /// What is known of `partitions`. One that is not in the answer was never written: `auto.offset.reset` decides. An
    /// error ends the source. `topic_ids` are the ids of their topics by name, as Kafka's tools print them: a topic that
    /// was deleted and created again has another one. A topic is not in it when the broker does not tell.
    async fn recover(
        &self,
        partitions: &[TopicPartition],
        topic_ids: &BTreeMap<String, String>,
    ) -> Result<Vec<Recovered>, Error>;

    /// Whether it is asked about every topic-partition, and what it knows counts, whatever the group holds.
    fn is_authority(&self) -> bool {
        false
    }

    /// Takes note of where reading goes on, for an authority that takes nothing else than what follows on what it knows. (Over a
    /// gap, where the log begins after what it said, lanes start at what it said and pass the gap.) An error ends the
    /// source.
    async fn move_back(&self, moves: &[MovedBack]) -> Result<(), Error> {
        let _ = moves;
        Ok(())
    }

    /// Whether a topic-partition of which the authority knows nothing may start at the group's offset, which has this
    /// metadata; the error ends the source.
    fn may_start(&self, topic_partition: &TopicPartition, offset: Offset, metadata: &str) -> Result<(), Error> {
        let _ = (topic_partition, offset, metadata);
        Ok(())
    }
}

/// Dropped by the task when it has let go of revoked topic-partitions; the source waits for it (bounded).
#[derive(Debug)]
pub struct Ack(tokio::sync::oneshot::Sender<()>);

impl Ack {
    /// An acknowledgement and what the source waits on; the wait ends when the `Ack` is dropped.
    pub fn new() -> (Ack, tokio::sync::oneshot::Receiver<()>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (Ack(sender), receiver)
    }

    /// The source waits no more: the topic-partitions are gone, and so are their leases.
    pub fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

/// One offset to commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// The lane.
    pub topic_partition: TopicPartition,
    /// Offset of the next record to read after a restart.
    pub offset: Offset,
    /// Offset metadata: a plan, or empty.
    pub metadata: String,
}

/// What became of a commit request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The group refused it because this member or its lease is gone. It surely did not happen; wait for the events that
    /// tell which topic-partitions are lost.
    #[error("the group refused the commit: {0}")]
    Fenced(String),
    /// The broker refused it for another reason and it surely did not happen; the same commit may be tried again.
    #[error("the broker refused the commit: {0}")]
    Refused(String),
    /// Nobody knows: it may have happened, or may happen later. Nothing more may be committed by this member; only
    /// [`Source::rejoin`] makes the outcome known.
    #[error("the outcome of the commit is unknown: {0}")]
    Unknown(String),
}

/// Why a source cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration of the client is bad; the text names the key.
    #[error("{0}")]
    Config(String),
    /// The broker refuses us (authentication, authorization, unknown group protocol): a person must act.
    #[error("{0}")]
    Denied(String),
    /// The broker cannot be reached or answered with a transient error for too long: starting again may help.
    #[error("{0}")]
    Unavailable(String),
    /// `auto.offset.reset=none` and no committed offset, or the log no longer holds the offset to go on from.
    #[error("{0}")]
    OffsetLost(String),
}

/// One member of one consumer group. All methods take `&self`: commits go on while `next` waits.
#[async_trait]
pub trait Source: Send + Sync {
    /// The next event. With `records` false, batches and positions wait and only the others are handed out, so that a task
    /// which can take no more still hears of rebalances. Cancel-safe: dropping the future loses nothing. One caller at a
    /// time.
    async fn next(&self, records: bool) -> Event;

    /// Commits all of `commits` in one request, after checking the lease of each. Entries whose lease is gone are left
    /// out and returned; they will appear, or have appeared, in a `Revoked` event.
    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<TopicPartition>, CommitError>;

    /// Stops delivering records of `partitions`; the membership goes on. What is on its way may still come.
    fn pause(&self, partitions: &[TopicPartition]);

    /// Delivers them again.
    fn resume(&self, partitions: &[TopicPartition]);

    /// First offset after the last record that a reader may see, as last heard; `None` while unknown. For lag.
    fn end_offset(&self, topic_partition: &TopicPartition) -> Option<Offset>;

    /// Whether there is nothing left to read for any member, with [`Bounds::until_end`]: the group has committed everything
    /// that was in the logs of the subscription when this source started. Always false without an end, before the first
    /// assignment, or when nobody can say at the moment. An error is one that ends the source.
    async fn is_exhausted(&self) -> Result<bool, Error>;

    /// Drops all leases, leaves the group and joins again under a new generation, which fences whatever of ours is still
    /// in flight. No `Revoked` event follows for what was held: the caller has let go of everything already.
    async fn rejoin(&self);

    /// Leaves the group (unless membership is static) and stops the threads. Nothing works afterwards.
    async fn close(&self);
}
