//! Which group protocol a consumer speaks: KIP-848 where the broker has it, unless the configuration says otherwise.

use std::collections::BTreeMap;

use rdkafka::types::RDKafkaErrorCode;

use crate::code::Code;

/// How members of a group share its topic-partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The members decide (JoinGroup, SyncGroup).
    Classic,
    /// The coordinator decides (KIP-848).
    Consumer,
}

/// Properties that only the classic protocol has. Under KIP-848 librdkafka refuses them.
const OF_CLASSIC: [&str; 4] =
    ["partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms", "group.protocol.type"];

/// The protocol that a client with these properties begins with, and whether it may fall back to the classic one: it may
/// when nobody chose.
pub(crate) fn first(client: &BTreeMap<String, String>) -> (Protocol, bool) {
    match client.get("group.protocol") {
        Some(chosen) if chosen.eq_ignore_ascii_case("consumer") => (Protocol::Consumer, false),
        Some(_classic) => (Protocol::Classic, false),
        None if OF_CLASSIC.iter().any(|name| client.contains_key(*name)) => (Protocol::Classic, false),
        None => (Protocol::Consumer, true),
    }
}

/// Makes `properties` those of `protocol`. Under KIP-848 librdkafka is asked to say in its log, which is the only place,
/// when the broker does not have it ([`is_missing`]).
pub(crate) fn apply(protocol: Protocol, properties: &mut BTreeMap<String, String>) {
    match protocol {
        Protocol::Classic => {
            properties.insert("group.protocol".to_owned(), "classic".to_owned());
            let strategy = || "cooperative-sticky".to_owned();
            properties.entry("partition.assignment.strategy".to_owned()).or_insert_with(strategy);
        }
        Protocol::Consumer => {
            properties.insert("group.protocol".to_owned(), "consumer".to_owned());
            properties.retain(|name, _| !OF_CLASSIC.contains(&name.as_str()));
            let debug = properties.entry("debug".to_owned()).or_default();
            let separator = if debug.is_empty() { "" } else { "," };
            debug.push_str(&format!("{separator}cgrp"));
        }
    }
}

/// Whether a line of librdkafka's log says that the broker has no request for KIP-848, or one that is too old. It marks
/// the coordinator dead then and looks for it again, without end and without an error.
pub(crate) fn is_missing(line: &str) -> bool {
    line.contains("ConsumerGroupHeartbeatRequest not supported by broker")
}

/// Whether the error that ended a client says that the broker knows KIP-848 but does not allow it.
pub(crate) fn is_refused(code: Code) -> bool {
    matches!(code.name(), RDKafkaErrorCode::UnsupportedVersion | RDKafkaErrorCode::UnsupportedFeature)
}

/// States of a classic group that has members; while it is in one of them and is not migrated, the coordinator tells
/// members under KIP-848 that there is no such group, and librdkafka keeps that to itself.
const IN_USE: [&str; 3] = ["PreparingRebalance", "CompletingRebalance", "Stable"];

/// Whether a group with this state, as the classic protocol's request tells it, is in use by classic members.
pub(crate) fn is_classic_in_use(state: &str) -> bool {
    IN_USE.contains(&state)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    fn map(pairs: Pairs) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn who_says_nothing_gets_kip_848_and_whoever_tunes_the_classic_protocol_gets_that() {
        let cases: &[(Pairs, (Protocol, bool))] = &[
            (&[], (Protocol::Consumer, true)),
            (&[("group.instance.id", "a"), ("max.poll.interval.ms", "1")], (Protocol::Consumer, true)),
            (&[("group.protocol", "consumer")], (Protocol::Consumer, false)),
            (&[("group.protocol", "CONSUMER"), ("session.timeout.ms", "1")], (Protocol::Consumer, false)),
            (&[("group.protocol", "classic")], (Protocol::Classic, false)),
            (&[("session.timeout.ms", "1")], (Protocol::Classic, false)),
            (&[("heartbeat.interval.ms", "1")], (Protocol::Classic, false)),
            (&[("partition.assignment.strategy", "range")], (Protocol::Classic, false)),
        ];
        for (client, expected) in cases {
            assert_eq!(first(&map(client)), *expected, "{client:?}");
        }
    }

    #[test]
    fn the_properties_fit_the_protocol() {
        let mut kip_848 = map(&[("session.timeout.ms", "1"), ("partition.assignment.strategy", "range")]);
        apply(Protocol::Consumer, &mut kip_848);
        assert_eq!(kip_848, map(&[("debug", "cgrp"), ("group.protocol", "consumer")]));
        let mut with_debug = map(&[("debug", "fetch")]);
        apply(Protocol::Consumer, &mut with_debug);
        assert_eq!(with_debug, map(&[("debug", "fetch,cgrp"), ("group.protocol", "consumer")]));
        let mut classic = map(&[("session.timeout.ms", "1")]);
        apply(Protocol::Classic, &mut classic);
        assert_eq!(classic["partition.assignment.strategy"], "cooperative-sticky");
        assert_eq!(classic["session.timeout.ms"], "1");
    }
}
