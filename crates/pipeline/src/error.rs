//! Why a task ended.

use model::{Fingerprint, Invalid, OffsetRange, PlanError, Rejected, TopicPartition};

/// Why a task ended before it was asked to. Its text is the trace in `/status`.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A record cannot go on and `errors.tolerance` is `none`. Nothing after it is committed.
    #[error(
        "Tolerance exceeded in error handler: could not take {rejected} (stage {stage}); mend the record's producer, or set \
         errors.tolerance to all to leave such records out",
        stage = rejected.stage.as_str()
    )]
    Record {
        /// The record and what is wrong with it.
        rejected: Rejected,
        /// Upstream's class of what it would have thrown.
        exception: &'static str,
    },
    /// The data, the stored plan or the objects in the store do not allow to go on; a person must act.
    #[error("{0}")]
    Data(String),
    /// A setting is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The broker, store or registry refuses: a person must act.
    #[error("{0}")]
    Refused(String),
    /// Something that may be over by itself: starting the task again is worth it.
    #[error("{0}")]
    Transient(String),
    /// The offset metadata of a topic-partition holds a plan that cannot be replayed.
    #[error(
        "could not go on with {topic_partition}: {source}; nothing is lost, and the other partitions are not concerned: run \
         the version of sluice that made the plan until the partition's lag is 0. Only if that is impossible, look which \
         objects from the committed offset on are there and set the partition's offset (sluice offsets)"
    )]
    Plan {
        /// The lane.
        topic_partition: TopicPartition,
        /// What is wrong.
        source: PlanError,
    },
    /// A cut was planned under other settings than these, and some of its objects may be visible: under these it would
    /// be other objects.
    #[error(
        "the cut {range} of {topic_partition} was planned under other settings (fingerprint {planned}, now {configured}) and \
         may be visible in part; nothing is lost: start the connector with the settings it had (format, names, partitioner, \
         converter, topics.dir, store) until the lag of this partition is 0, then change them{also}"
    )]
    OtherSettings {
        /// The lane.
        topic_partition: TopicPartition,
        /// What the plan covers.
        range: OffsetRange,
        /// Fingerprint of the settings it was made under.
        planned: Fingerprint,
        /// Fingerprint of those of today.
        configured: Fingerprint,
        /// The other lanes with such plans, as the sentence has them.
        also: String,
    },
}

impl TaskError {
    /// Names the lane of `other` too, if both are about plans under other settings; those may be several, each of which
    /// has to be run with in turn.
    pub(crate) fn and_also(&mut self, other: &TaskError) {
        if let (
            TaskError::OtherSettings { also, .. },
            TaskError::OtherSettings { topic_partition, range, planned, .. },
        ) = (self, other)
        {
            also.push_str(&format!(
                "; likewise {range} of {topic_partition} (fingerprint {planned}; where fingerprints differ, start it once \
                 with each of those settings)"
            ));
        }
    }

    /// Whether the same task may succeed when it is started again, without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            TaskError::Transient(_) => true,
            TaskError::Record { .. }
            | TaskError::Data(_)
            | TaskError::Invalid(_)
            | TaskError::Refused(_)
            | TaskError::Plan { .. }
            | TaskError::OtherSettings { .. } => false,
        }
    }
}

impl From<source::Error> for TaskError {
    fn from(error: source::Error) -> Self {
        let text = error.to_string();
        match error {
            source::Error::Config(_) | source::Error::Denied(_) => TaskError::Refused(text),
            source::Error::Unavailable(_) => TaskError::Transient(text),
            source::Error::OffsetLost(_) => TaskError::Data(text),
        }
    }
}

impl From<schema::Error> for TaskError {
    fn from(error: schema::Error) -> Self {
        let text = error.to_string();
        match error {
            schema::Error::Unavailable(_) => TaskError::Transient(text),
            schema::Error::Config(_) => TaskError::Refused(text),
        }
    }
}

impl From<writer::Error> for TaskError {
    fn from(error: writer::Error) -> Self {
        let text = error.to_string();
        match error {
            writer::Error::Transient(_) => TaskError::Transient(format!(
                "{text}: the store does not answer or is overloaded; check store.url, the network and the store, then restart \
                 the task"
            )),
            writer::Error::Lost { .. } => TaskError::Transient(text),
            writer::Error::Permanent { .. } => TaskError::Refused(text),
            writer::Error::Rows { .. } => TaskError::Data(text),
        }
    }
}
