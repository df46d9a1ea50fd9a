//! Error codes of librdkafka and the broker, and what each means for a commit and for the whole source.

use std::fmt;

use rdkafka::bindings::rd_kafka_resp_err_t;
use rdkafka::types::RDKafkaErrorCode;

use crate::Error;

/// A code as a number: a newer broker may send one that the bindings do not name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Code(i32);

impl Code {
    pub(crate) const OK: Code = Code(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR as i32);
    pub(crate) const ASSIGN_PARTITIONS: Code = Code(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS as i32);

    pub(crate) const PARTITION_EOF: Code = Code(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF as i32);
    pub(crate) const TIMED_OUT: Code = Code(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT as i32);
    pub(crate) const NO_TOPIC: Code = Code(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as i32);
    pub(crate) const NO_OFFSET: Code = Code(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__NO_OFFSET as i32);

    pub(crate) fn of(error: rd_kafka_resp_err_t) -> Code {
        Code(error as i32)
    }

    pub(crate) fn of_number(number: i32) -> Code {
        Code(number)
    }

    /// Whether it only says that the client has ended for a reason which must be asked for.
    pub(crate) fn is_fatal(self) -> bool {
        self == Code::of(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FATAL)
    }

    pub(crate) fn result(self) -> Result<(), Code> {
        if self == Code::OK { Ok(()) } else { Err(self) }
    }

    /// What the bindings call it; `Unknown` when they do not know it.
    pub(crate) fn name(self) -> RDKafkaErrorCode {
        rd_kafka_resp_err_t::try_from(self.0).map_or(RDKafkaErrorCode::Unknown, RDKafkaErrorCode::from)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match rd_kafka_resp_err_t::try_from(self.0) {
            Ok(known) => write!(f, "{}", RDKafkaErrorCode::from(known)),
            Err(_) => write!(f, "error code {} of the broker", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an error code says about a commit that was sent once and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The member is gone; a revoke follows.
    Fenced,
    /// The generation changes at the moment: fenced if the assignment is lost, else the same commit may be tried again.
    Rebalancing,
    /// Refused; it did not happen.
    Refused,
    /// It may have happened.
    Unknown,
}

/// The meaning of `code` for a commit.
pub(crate) fn verdict(code: Code) -> Verdict {
    use RDKafkaErrorCode as E;
    match code.name() {
        E::UnknownMemberId | E::FencedInstanceId | E::FencedMemberEpoch => Verdict::Fenced,
        // After these the client may keep its topic-partitions (cooperative protocol, KIP-848) and gets a new generation.
        E::IllegalGeneration | E::RebalanceInProgress | E::StaleMemberEpoch => Verdict::Rebalancing,
        E::OffsetMetadataTooLarge
        | E::InvalidCommitOffsetSize
        | E::InvalidGroupId
        | E::NoOffset
        | E::InvalidArgument
        | E::TopicAuthorizationFailed
        | E::GroupAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::UnknownTopicOrPartition
        | E::UnknownTopicId => Verdict::Refused,
        // Time-outs, transport, coordinator moved or loading, client destroyed, and whatever else there is: conservative.
        _may_have_happened => Verdict::Unknown,
    }
}

/// Whether `code`, as the answer to a commit, says that the group has gone on without this member.
pub(crate) fn is_expelled(code: Code) -> bool {
    use RDKafkaErrorCode as E;
    matches!(code.name(), E::UnknownMemberId | E::FencedInstanceId | E::FencedMemberEpoch | E::IllegalGeneration)
}

/// What an error event means for the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// librdkafka goes on by itself.
    Passing,
    /// A subscribed topic is not there (yet).
    NoTopic,
    /// A person must act.
    Denied,
    /// There is no offset to go on from.
    OffsetLost,
    /// A property of the client must be changed.
    Config,
    /// Records cannot be read.
    Unreadable,
}

/// The meaning of `code` in an error event or in place of a record.
pub(crate) fn trouble(code: Code) -> Trouble {
    use RDKafkaErrorCode as E;
    match code.name() {
        E::Authentication
        | E::SaslAuthenticationFailed
        | E::UnsupportedSASLMechanism
        | E::IllegalSASLState
        | E::TopicAuthorizationFailed
        | E::GroupAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::FencedInstanceId
        | E::UnreleasedInstanceId
        | E::InconsistentGroupProtocol
        | E::GroupMaxSizeReached
        | E::UnsupportedAssignor
        | E::InvalidSessionTimeout
        | E::InvalidGroupId
        | E::UnsupportedVersion
        | E::UnsupportedFeature => Trouble::Denied,
        E::AutoOffsetReset => Trouble::OffsetLost,
        E::InvalidMessageSize | E::MessageSizeTooLarge => Trouble::Config,
        E::BadMessage | E::BadCompression | E::InvalidMessage | E::NotImplemented => Trouble::Unreadable,
        E::UnknownTopicOrPartition | E::UnknownTopic | E::UnknownPartition => Trouble::NoTopic,
        _librdkafka_tries_again => Trouble::Passing,
    }
}

/// The error of a source for `code`, when it ends it; `what` names the topic-partition or the group.
pub(crate) fn fatal(code: Code, what: &str, reason: &str) -> Option<Error> {
    use RDKafkaErrorCode as E;
    let advice = match code.name() {
        E::Authentication | E::SaslAuthenticationFailed | E::UnsupportedSASLMechanism | E::IllegalSASLState => {
            "check security.protocol, sasl.mechanism and sasl.jaas.config"
        }
        E::TopicAuthorizationFailed => "allow Read and Describe on the topic",
        E::GroupAuthorizationFailed => "allow Read on the consumer group",
        E::ClusterAuthorizationFailed => "ask the owner of the cluster for access",
        E::InconsistentGroupProtocol => {
            "other members of the group use another group protocol or assignment strategy: stop them, or set \
             consumer.override.group.protocol and consumer.override.partition.assignment.strategy as they do"
        }
        E::FencedInstanceId | E::UnreleasedInstanceId => "another process uses the same group.instance.id: stop it",
        E::UnsupportedAssignor | E::UnsupportedVersion | E::UnsupportedFeature => {
            "the broker does not speak the group protocol that is configured: check consumer.override.group.protocol"
        }
        E::InvalidMessageSize | E::MessageSizeTooLarge => "raise consumer.override.receive.message.max.bytes",
        E::AutoOffsetReset => "commit an offset for the group",
        _no_advice => "see the broker's log",
    };
    let text = format!("{what}: {code}: {reason}; {advice}");
    match trouble(code) {
        Trouble::Passing | Trouble::NoTopic => None,
        Trouble::Denied => Some(Error::Denied(text)),
        Trouble::OffsetLost => Some(Error::OffsetLost(text)),
        Trouble::Config => Some(Error::Config(text)),
        Trouble::Unreadable => Some(Error::Unavailable(text)),
    }
}
