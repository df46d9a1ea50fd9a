//! The keys of a connector that say which topics are read, and their checks.

use std::collections::BTreeSet;

use model::{Check, Importance, Invalid, Key, Kind, Settings, TopicPartition, Width};
use serde_json::Value;

use crate::pattern;

/// Topics by name.
pub const TOPICS: Key = Key::new("topics", Kind::List, "Topics to read, separated by commas.")
    .default("")
    .importance(Importance::High)
    .group("Common", 4)
    .shown(Width::Long, "Topics");

/// Topics by pattern.
pub const TOPICS_REGEX: Key = Key::new(
    "topics.regex",
    Kind::String,
    "Regular expression that the whole name of a topic must match to be read. Topics that appear later are read too, \
     after the next refresh of the cluster's metadata. Exactly one of topics and topics.regex must be given.",
)
.default("")
.importance(Importance::High)
.group("Common", 4)
.shown(Width::Long, "Topics regex");

/// Topic-partitions one by one.
pub const ASSIGN: Key = Key::new(
    "assign",
    Kind::String,
    "Topic-partitions to read as JSON, {\"topic\":[0,1]}, in place of topics and topics.regex; others of these topics are \
     left alone. As assign of Spark's Kafka source, but the consumer group shares them among all tasks and processes that \
     run the connector, so each is read by one of them.",
)
.check(Check::With(|text| assigned(text).map(|_| ())))
.group("Sluice", 2)
.shown(Width::Long, "Assign")
.ours();

/// Whether reading ends.
pub const STOP_AT_END: Key = Key::new(
    "stop.at.end",
    Kind::Boolean,
    "Whether the tasks end when everything is written and committed that was in the topics when they started, by whichever \
     of the tasks and processes that run the connector. They are then STOPPED, and `sluice run` exits with 0 when all its \
     connectors are. Each start reads what is there by then. As trigger availableNow of Spark.",
)
.default("false")
.group("Sluice", 3)
.shown(Width::Short, "Stop at end")
.ours();

/// What happens when the log no longer holds the offset to go on from.
pub const ON_DATA_LOSS: Key = Key::new(
    "on.data.loss",
    Kind::String,
    "What to do when records were lost before they were read: the log of a topic-partition begins after the offset to go \
     on from (retention deleted it), or ends before it (the topic was deleted and created again). `fail` stops the task \
     and says how many offsets are missing. `continue` warns with the same figures and goes on where auto.offset.reset \
     says: `earliest`, the default, is the first record that is there. As failOnDataLoss of Spark's Kafka source.",
)
.default("fail")
.check(Check::OneOf(&["fail", "continue"]))
.importance(Importance::Medium)
.group("Sluice", 1)
.shown(Width::Short, "On data loss")
.ours();

/// Every key of this crate. Besides these, everything below [`CONSUMER_OVERRIDE`] is a property of the consumer.
pub const KEYS: &[Key] = &[TOPICS, TOPICS_REGEX, ASSIGN, STOP_AT_END, ON_DATA_LOSS];

/// What to do when records were lost before they were read ([`ON_DATA_LOSS`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataLoss {
    /// Stop with an error that says what is missing.
    #[default]
    Fail,
    /// Warn, and go on where `auto.offset.reset` says.
    Continue,
}

/// The value of [`ON_DATA_LOSS`].
pub fn on_data_loss(settings: &Settings) -> Result<DataLoss, Invalid> {
    let text = settings.string(&ON_DATA_LOSS)?;
    Ok(if text.as_deref() == Some("continue") { DataLoss::Continue } else { DataLoss::Fail })
}

/// What starts a connector's own properties of the Kafka consumer. Three of them matter for the group:
///
/// - `group.protocol`: without it, and without a property that only the classic protocol has
///   (`partition.assignment.strategy`, `session.timeout.ms`, `heartbeat.interval.ms`), KIP-848 is spoken where the broker
///   has it, else the classic protocol with the strategy `cooperative-sticky`.
/// - `group.instance.id` makes the membership static: a restart within the session's time-out moves no topic-partition.
///   Every member of a group needs an id of its own: whoever runs several tasks appends the task's number.
/// - `auto.offset.reset`: where a topic-partition begins that neither the group nor its objects know.
pub const CONSUMER_OVERRIDE: &str = "consumer.override.";

/// What starts a connector's own properties of the producer of its dead letters ...
pub const PRODUCER_OVERRIDE: &str = "producer.override.";

/// ... and of the client that makes their topic.
pub const ADMIN_OVERRIDE: &str = "admin.override.";

/// Which topics are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscription {
    /// These.
    Topics(Vec<String>),
    /// Those whose whole name matches this regular expression.
    Regex(String),
    /// These topic-partitions and no others of their topics. The group gives out the others too; they are not read.
    Partitions(BTreeSet<TopicPartition>),
}

impl Subscription {
    /// The topics that are named; none for a pattern.
    pub fn topics(&self) -> BTreeSet<String> {
        match self {
            Subscription::Topics(topics) => topics.iter().cloned().collect(),
            Subscription::Regex(_) => BTreeSet::new(),
            Subscription::Partitions(partitions) => partitions.iter().map(|one| one.topic.to_string()).collect(),
        }
    }

    /// Whether `topic_partition`, whose topic is read, is left alone.
    pub fn leaves_out(&self, topic_partition: &TopicPartition) -> bool {
        match self {
            Subscription::Topics(_) | Subscription::Regex(_) => false,
            Subscription::Partitions(partitions) => !partitions.contains(topic_partition),
        }
    }
}

/// The topic-partitions of `{"topic":[0,1]}`.
fn assigned(text: &str) -> Result<BTreeSet<TopicPartition>, String> {
    let expected = || "expected JSON like {\"topic\":[0,1]}".to_owned();
    let topics: Value = serde_json::from_str(text).map_err(|error| format!("{}: {error}", expected()))?;
    let mut partitions = BTreeSet::new();
    for (topic, numbers) in topics.as_object().ok_or_else(expected)? {
        for number in numbers.as_array().ok_or_else(expected)? {
            let number = number.as_i64().and_then(|number| i32::try_from(number).ok()).filter(|number| *number >= 0);
            partitions.insert(TopicPartition::new(topic.as_str(), number.ok_or_else(expected)?));
        }
    }
    if partitions.is_empty() { Err("it names no topic-partition".to_owned()) } else { Ok(partitions) }
}

/// What is wrong with the keys of this crate beyond each alone: `topics` against `topics.regex`
/// (`org.apache.kafka.connect.runtime.SinkConnectorConfig.validate`), the pattern, and the clients' properties.
pub fn check(settings: &Settings) -> Vec<Invalid> {
    let mut problems: Vec<Invalid> = match subscription(settings) {
        Ok(_) => Vec::new(),
        Err(problem) if is_about_both(&problem) => {
            [TOPICS, TOPICS_REGEX].map(|key| Invalid::new(key.name, problem.message.clone())).into()
        }
        Err(problem) => vec![problem],
    };
    for prefix in [CONSUMER_OVERRIDE, PRODUCER_OVERRIDE, ADMIN_OVERRIDE] {
        problems.extend(crate::properties::translate(prefix, settings.with_prefix(prefix)).err());
    }
    problems
}

const NEITHER: &str = "Must configure one of topics or topics.regex";
const BOTH: &str = "topics and topics.regex are mutually exclusive options, but both are set.";

fn is_about_both(problem: &Invalid) -> bool {
    problem.message == NEITHER || problem.message == BOTH
}

/// What is read; an error if not exactly one of `topics`, `topics.regex` and `assign` is given, or if the pattern is bad.
pub fn subscription(settings: &Settings) -> Result<Subscription, Invalid> {
    let topics = settings.list(&TOPICS)?;
    let regex = settings.string(&TOPICS_REGEX)?.unwrap_or_default();
    if let Some(text) = settings.string(&ASSIGN)? {
        if !topics.is_empty() || !regex.is_empty() {
            return Err(Invalid::new(ASSIGN.name, "assign names the topics itself: leave topics and topics.regex out"));
        }
        return assigned(&text).map(Subscription::Partitions).map_err(|why| Invalid::value(&ASSIGN, &text, why));
    }
    match (topics.is_empty(), regex.is_empty()) {
        (true, true) => Err(Invalid::new(TOPICS.name, NEITHER)),
        (false, false) => Err(Invalid::new(TOPICS.name, BOTH)),
        (false, true) => {
            if let Some(topic) = topics.iter().find(|topic| topic.starts_with('^') || topic.contains('\0')) {
                return Err(Invalid::value(&TOPICS, topic, "no topic has such a name; use topics.regex for patterns"));
            }
            Ok(Subscription::Topics(topics))
        }
        (true, false) => match pattern::for_librdkafka(&regex) {
            Ok(_) => Ok(Subscription::Regex(regex)),
            Err(why) => Err(Invalid::value(&TOPICS_REGEX, &regex, why)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn exactly_one_of_topics_and_pattern_is_wanted() {
        let cases: &[(Pairs, Pairs)] = &[
            (&[("topics", "a,b")], &[]),
            (&[("topics.regex", "a.*")], &[]),
            (&[], &[("topics", NEITHER), ("topics.regex", NEITHER)]),
            (&[("topics", " , ")], &[("topics", NEITHER), ("topics.regex", NEITHER)]),
            (&[("topics", "a"), ("topics.regex", "b")], &[("topics", BOTH), ("topics.regex", BOTH)]),
        ];
        for (config, expected) in cases {
            let problems = check(&settings(config));
            let found: Vec<(&str, &str)> =
                problems.iter().map(|one| (one.key.as_str(), one.message.as_str())).collect();
            assert_eq!(found, *expected, "{config:?}");
        }
    }

    #[test]
    fn a_bad_pattern_and_a_bad_consumer_property_are_reported_on_their_keys() {
        let problems =
            check(&settings(&[("topics.regex", "a("), ("consumer.override.auto.offset.reset", "sometimes")]));
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].message.starts_with("Invalid value a( for configuration topics.regex: "), "{problems:?}");
        assert_eq!(problems[1].key, "consumer.override.auto.offset.reset");
    }

    #[test]
    fn data_loss_fails_unless_it_is_said_otherwise() {
        assert_eq!(on_data_loss(&settings(&[])), Ok(DataLoss::Fail));
        assert_eq!(on_data_loss(&settings(&[("on.data.loss", "continue")])), Ok(DataLoss::Continue));
        let problem = on_data_loss(&settings(&[("on.data.loss", "ignore")])).unwrap_err();
        assert_eq!(problem.key, "on.data.loss");
    }

    #[test]
    fn topic_partitions_are_named_one_by_one() {
        let found = subscription(&settings(&[("assign", r#"{"t":[1,0],"u":[3]}"#)])).unwrap();
        let lanes = [("t", 0), ("t", 1), ("u", 3)].map(|(topic, partition)| TopicPartition::new(topic, partition));
        assert_eq!(found, Subscription::Partitions(lanes.clone().into()));
        assert_eq!(found.topics(), ["t".to_owned(), "u".to_owned()].into());
        assert_eq!((found.leaves_out(&lanes[0]), found.leaves_out(&TopicPartition::new("t", 2))), (false, true));
        for text in ["t:0", "[]", "{}", r#"{"t":0}"#, r#"{"t":["0"]}"#, r#"{"t":[-1]}"#, r#"{"t":[]}"#] {
            assert_eq!(check(&settings(&[("assign", text)])).len(), 1, "{text}");
        }
        let both = check(&settings(&[("assign", r#"{"t":[0]}"#), ("topics", "t")]));
        assert_eq!(both.iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), ["assign"]);
    }

    #[test]
    fn topics_are_read_as_a_list() {
        assert_eq!(
            subscription(&settings(&[("topics", " a , b ")])),
            Ok(Subscription::Topics(vec!["a".into(), "b".into()]))
        );
        assert_eq!(subscription(&settings(&[("topics.regex", r"a\d+")])), Ok(Subscription::Regex(r"a\d+".into())));
    }
}
