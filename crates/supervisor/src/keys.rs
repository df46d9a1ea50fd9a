//! The keys of Kafka Connect's framework that belong to no other crate, and the checks that span several of them.

use model::{Check, Importance, Invalid, Key, Kind, Settings, Width};
use regex::Regex;

const ONE_VERSION: &str = "there is one version of each plug-in, the one that is built in";

/// Tasks that one connector may ask for. Kafka Connect has no limit; a typing error must not exhaust the memory.
pub const TASKS_COUNT_MAX: i64 = 1_000;

/// Name of the connector.
pub const NAME: Key = Key::new(
    "name",
    Kind::String,
    "Name of the connector, unique on this worker; its consumer group is connect-<name>.",
)
.required()
.check(Check::With(check_name))
.importance(Importance::High)
.group("Common", 1)
.shown(Width::Medium, "Connector name");

/// Which connector it is.
pub const CONNECTOR_CLASS: Key = Key::new(
    "connector.class",
    Kind::String,
    "Class of the connector: sluice's short name, the Java class name, or its simple name with or without Connector.",
)
.required()
.importance(Importance::High)
.group("Common", 2)
.shown(Width::Long, "Connector class");

/// Version of the connector's plug-in.
pub const CONNECTOR_PLUGIN_VERSION: Key =
    Key::new("connector.plugin.version", Kind::String, "Version of the connector.")
        .importance(Importance::Medium)
        .group("Common", 3)
        .shown(Width::Medium, "Connector version")
        .ignored(ONE_VERSION);

/// How many tasks a connector runs.
pub const TASKS_MAX: Key = Key::new(
    "tasks.max",
    Kind::Int,
    "Number of tasks, 1 to 1000; each is one member of the consumer group and shares the partitions with the others.",
)
.default("1")
.check(Check::Between(1, TASKS_COUNT_MAX))
.importance(Importance::High)
.group("Common", 4)
.shown(Width::Short, "Tasks max");

/// Whether more tasks than `tasks.max` are an error.
pub const TASKS_MAX_ENFORCE: Key = Key::new(
    "tasks.max.enforce",
    Kind::Boolean,
    "Deprecated by Kafka Connect: whether a connector that makes more tasks than tasks.max fails.",
)
.default("true")
.group("Common", 5)
.shown(Width::Short, "Enforce tasks max")
.ignored("there are never more tasks than tasks.max");

/// What happens when a resolved secret expires.
pub const CONFIG_ACTION_RELOAD: Key = Key::new(
    "config.action.reload",
    Kind::String,
    "What to do when a value that a configuration provider resolved changes: none, or restart the connector.",
)
.default("restart")
.check(Check::OneOf(&["none", "restart"]))
.group("Common", 14)
.shown(Width::Medium, "Reload Action")
.not_yet("restarting a connector when a provider's value changes");

/// How long an operation on a record is tried again.
pub const ERRORS_RETRY_TIMEOUT: Key = Key::new(
    "errors.retry.timeout",
    Kind::Long,
    "How long a task itself tries again what may be over by itself, with its open files kept: a schema registry that does \
     not answer. In ms, -1 without end. Then, and with 0 at once, the task ends and is started again (task.restart.*), \
     which tries without end too. Such a failure never makes a bad record.",
)
.default("0")
.check(Check::AtLeast(-1))
.importance(Importance::Medium)
.group("Error Handling", 1)
.shown(Width::Medium, "Retry Timeout for Errors");

/// Longest pause between two tries.
pub const ERRORS_RETRY_DELAY_MAX_MS: Key = Key::new(
    "errors.retry.delay.max.ms",
    Kind::Long,
    "Longest pause between two tries of errors.retry.timeout, in ms. The first is 300 ms, and each is twice the one before.",
)
.default("60000")
.check(Check::AtLeast(1))
.importance(Importance::Medium)
.group("Error Handling", 2)
.shown(Width::Medium, "Maximum Delay Between Retries for Errors");

/// Whether a bad record fails the task.
pub const ERRORS_TOLERANCE: Key = Key::new(
    "errors.tolerance",
    Kind::String,
    "none: the first bad record fails the task and nothing after it is committed; all: bad records are skipped and counted, \
     be it the converter, a transform, the partitioner or the writer that cannot take them.",
)
.default("none")
.check(Check::OneOf(&["none", "all"]))
.importance(Importance::Medium)
.group("Error Handling", 3)
.shown(Width::Short, "Error Tolerance");

/// Whether bad records are logged.
pub const ERRORS_LOG_ENABLE: Key =
    Key::new(
        "errors.log.enable",
        Kind::Boolean,
        "Whether each bad record is a line in the log, with the step and the class that could not take it; 100 lines a second \
         of a topic-partition at most.",
    )
    .default("false")
    .importance(Importance::Medium)
    .group("Error Handling", 4)
    .shown(Width::Short, "Log Errors");

/// Whether logged errors show their record.
pub const ERRORS_LOG_INCLUDE_MESSAGES: Key = Key::new(
    "errors.log.include.messages",
    Kind::Boolean,
    "Whether such a line also names topic, partition, offset and timestamp of its record, and the reason, which may quote \
     the beginning of the value that is wrong.",
)
.default("false")
.importance(Importance::Medium)
.group("Error Handling", 5)
.shown(Width::Short, "Log Error Details");

/// Where bad records go.
pub const DEAD_LETTER_TOPIC: Key = Key::new(
    "errors.deadletterqueue.topic.name",
    Kind::String,
    "Topic that bad records are written to, as they are; empty for none. It may not be one of the topics that are read, and \
     is made with one partition if it is not there. Nothing that covers a bad record is committed before its letter is \
     acknowledged. With errors.tolerance=none the first bad record is written there before the task fails.",
)
.default("")
.check(Check::With(check_topic))
.importance(Importance::Medium)
.group("Error Handling", 6)
.shown(Width::Medium, "Dead Letter Queue Topic Name");

/// Replication of a topic made for bad records.
pub const DEAD_LETTER_REPLICATION_FACTOR: Key = Key::new(
    "errors.deadletterqueue.topic.replication.factor",
    Kind::Short,
    "Replication factor of the dead letter topic, if it has to be created; -1 for the broker's default.",
)
.default("3")
.check(Check::With(check_replication))
.importance(Importance::Medium)
.group("Error Handling", 7)
.shown(Width::Medium, "Dead Letter Queue Topic Replication Factor");

/// Whether dead letters say why.
pub const DEAD_LETTER_CONTEXT_HEADERS: Key = Key::new(
    "errors.deadletterqueue.context.headers.enable",
    Kind::Boolean,
    "Whether dead letters carry headers that tell what failed and where, named __connect.errors.* as Kafka Connect names \
     them.",
)
.default("false")
.importance(Importance::Medium)
.group("Error Handling", 8)
.shown(Width::Medium, "Enable Error Context Headers");

/// Whether transient failures heal themselves.
pub const TASK_RESTART_ENABLE: Key = Key::new(
    "task.restart.enable",
    Kind::Boolean,
    "Whether a task is restarted by itself when it failed on something that may be over by itself: a broker or a store \
     that does not answer. A task that failed on its data, its settings or a refusal waits for somebody in any case.",
)
.default("true")
.ours()
.importance(Importance::Medium)
.group("Error Handling", 9)
.shown(Width::Short, "Restart Failed Tasks");

/// First bound of the wait before a restart.
pub const TASK_RESTART_BACKOFF_MS: Key = Key::new(
    "task.restart.backoff.ms",
    Kind::Long,
    "Longest wait before the first restart of a failed task, in ms; it doubles with each restart in a row. The wait is \
     drawn between 0 and this bound, so that many tasks do not come back together.",
)
.default("1000")
.check(Check::AtLeast(1))
.ours()
.group("Error Handling", 10)
.shown(Width::Medium, "Backoff Between Restarts");

/// Last bound of the wait before a restart.
pub const TASK_RESTART_BACKOFF_MAX_MS: Key = Key::new(
    "task.restart.backoff.max.ms",
    Kind::Long,
    "Longest wait before any restart of a failed task, in ms. A task that then works for twice this time begins again \
     with task.restart.backoff.ms.",
)
.default("60000")
.check(Check::AtLeast(1))
.ours()
.group("Error Handling", 11)
.shown(Width::Medium, "Maximum Backoff Between Restarts");

/// How many restarts in a row.
pub const TASK_RESTART_ATTEMPTS: Key = Key::new(
    "task.restart.attempts",
    Kind::Int,
    "Restarts in a row after which a task that still fails stays FAILED; -1 for no limit.",
)
.default("-1")
.check(Check::AtLeast(-1))
.ours()
.group("Error Handling", 12)
.shown(Width::Short, "Restarts In A Row");

/// Every key of this crate, in Kafka Connect's order, then ours.
pub const KEYS: &[Key] = &[
    NAME,
    CONNECTOR_CLASS,
    CONNECTOR_PLUGIN_VERSION,
    TASKS_MAX,
    TASKS_MAX_ENFORCE,
    CONFIG_ACTION_RELOAD,
    ERRORS_RETRY_TIMEOUT,
    ERRORS_RETRY_DELAY_MAX_MS,
    ERRORS_TOLERANCE,
    ERRORS_LOG_ENABLE,
    ERRORS_LOG_INCLUDE_MESSAGES,
    DEAD_LETTER_TOPIC,
    DEAD_LETTER_REPLICATION_FACTOR,
    DEAD_LETTER_CONTEXT_HEADERS,
    TASK_RESTART_ENABLE,
    TASK_RESTART_BACKOFF_MS,
    TASK_RESTART_BACKOFF_MAX_MS,
    TASK_RESTART_ATTEMPTS,
];

/// Framework keys of all crates as Kafka Connect lists them in `/config/validate` (`SinkConnectorConfig.configDef`).
const CONNECT_ORDER: &[&str] = &[
    "name",
    "connector.class",
    "connector.plugin.version",
    "tasks.max",
    "tasks.max.enforce",
    "key.converter",
    "key.converter.plugin.version",
    "value.converter",
    "value.converter.plugin.version",
    "header.converter",
    "header.converter.plugin.version",
    "transforms",
    "predicates",
    "config.action.reload",
    "errors.retry.timeout",
    "errors.retry.delay.max.ms",
    "errors.tolerance",
    "errors.log.enable",
    "errors.log.include.messages",
    "topics",
    "topics.regex",
    "errors.deadletterqueue.topic.name",
    "errors.deadletterqueue.topic.replication.factor",
    "errors.deadletterqueue.context.headers.enable",
];

/// Brings the framework's keys of all crates into Kafka Connect's order; other keys follow in the order given.
pub fn in_connect_order(mut keys: Vec<&'static Key>) -> Vec<&'static Key> {
    let rank = |key: &Key| CONNECT_ORDER.iter().position(|name| *name == key.name).unwrap_or(CONNECT_ORDER.len());
    keys.sort_by_key(|key| rank(key));
    keys
}

/// What no single key of this crate can tell: the dead letter topic may not be read by its own connector, which would be
/// a loop. The keys `topics` and `topics.regex` are blamed, as in Kafka Connect.
pub fn check(settings: &Settings) -> Vec<Invalid> {
    let mut problems = Vec::new();
    let dead_letters = settings.text(&DEAD_LETTER_TOPIC).unwrap_or_default();
    if dead_letters.is_empty() {
        return problems;
    }
    let given = |key: &str| settings.config().get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
    if let Some(topics) = given("topics") {
        let topics: Vec<&str> = topics.split(',').map(str::trim).collect();
        if topics.contains(&dead_letters) {
            let message = format!(
                "The DLQ topic '{dead_letters}' may not be included in the list of topics ('topics=[{}]') consumed by the connector",
                topics.join(", ")
            );
            problems.push(Invalid::new("topics", message));
        }
    }
    if let Some(pattern) = given("topics.regex") {
        let reads = Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|regex| regex.is_match(dead_letters));
        if reads {
            let message = format!(
                "The DLQ topic '{dead_letters}' may not be included in the regex matching the topics ('topics.regex={pattern}') consumed by the connector"
            );
            problems.push(Invalid::new("topics.regex", message));
        }
    }
    problems
}

/// `org.apache.kafka.common.internals.Topic.validate`; no topic is a choice too.
fn check_topic(name: &str) -> Result<(), String> {
    let is_legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    if name.len() > 249 || name == "." || name == ".." || !name.chars().all(is_legal) {
        return Err("a topic's name has at most 249 characters, which are letters, digits, '.', '_' and '-'".to_owned());
    }
    Ok(())
}

fn check_replication(text: &str) -> Result<(), String> {
    match text.parse::<i16>() {
        Ok(-1 | 1..) => Ok(()),
        Ok(_) | Err(_) => Err("it must be at least 1, or -1 for the broker's default".to_owned()),
    }
}

/// `ConfigDef.NonEmptyStringWithoutControlChars`.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("String may not be empty".to_owned());
    }
    let controls: Vec<String> =
        name.chars().filter(|letter| letter.is_control()).map(|letter| u32::from(letter).to_string()).collect();
    if controls.is_empty() {
        return Ok(());
    }
    Err(format!("String may not contain control sequences but had the following ASCII chars: {}", controls.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
    }

    #[test]
    fn names_are_checked_as_by_kafka_connect() {
        let cases = [
            ("a", None),
            ("ünï-☃ b", None),
            ("", Some("Invalid value  for configuration name: String may not be empty")),
            (
                "a\u{7}b\u{1b}c",
                Some(
                    "Invalid value a\u{7}b\u{1b}c for configuration name: String may not contain control sequences but had the following ASCII chars: 7, 27",
                ),
            ),
        ];
        for (name, message) in cases {
            let problem = settings(&[("name", name)]).problem(&NAME).map(|problem| problem.message);
            assert_eq!(problem.as_deref(), message, "{name:?}");
        }
    }

    /// A configuration, and the key and text of its problem.
    type Case = (&'static [(&'static str, &'static str)], Option<(&'static str, &'static str)>);

    #[test]
    fn a_connector_may_not_read_its_dead_letters() {
        const DEAD: (&str, &str) = ("errors.deadletterqueue.topic.name", "dead");
        let cases: &[Case] = &[
            (&[("topics", "a, dead")], None),
            (&[DEAD, ("topics", "a, b")], None),
            (&[DEAD, ("topics.regex", "de")], None),
            (&[DEAD, ("topics.regex", "((")], None),
            (
                &[DEAD, ("topics", "a, dead")],
                Some((
                    "topics",
                    "The DLQ topic 'dead' may not be included in the list of topics ('topics=[a, dead]') consumed by the connector",
                )),
            ),
            (
                &[DEAD, ("topics.regex", "a|de.*")],
                Some((
                    "topics.regex",
                    "The DLQ topic 'dead' may not be included in the regex matching the topics ('topics.regex=a|de.*') consumed by the connector",
                )),
            ),
        ];
        for (pairs, expected) in cases {
            let found = check(&settings(pairs));
            let found = found.first().map(|problem| (problem.key.as_str(), problem.message.as_str()));
            assert_eq!(found, *expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_dead_letter_topic_that_cannot_be_is_refused() {
        let long = "x".repeat(250);
        for (name, is_good) in
            [("", true), ("a-B_0.9", true), ("..", false), ("a b", false), ("ü", false), (&long, false)]
        {
            let problem = settings(&[(DEAD_LETTER_TOPIC.name, name)]).problem(&DEAD_LETTER_TOPIC);
            assert_eq!(problem.is_none(), is_good, "{name}");
        }
        for (factor, is_good) in [("1", true), ("-1", true), ("0", false), ("-2", false), ("x", false)] {
            let problem = settings(&[(DEAD_LETTER_REPLICATION_FACTOR.name, factor)]);
            assert_eq!(problem.problem(&DEAD_LETTER_REPLICATION_FACTOR).is_none(), is_good, "{factor}");
        }
    }

    #[test]
    fn keys_of_all_crates_come_in_kafka_connects_order() {
        const TOPICS: Key = Key::new("topics", Kind::List, "Topics.");
        const OTHER: Key = Key::new("other", Kind::List, "Other.");
        let ordered = in_connect_order(vec![&OTHER, &DEAD_LETTER_TOPIC, &TOPICS, &ERRORS_TOLERANCE, &NAME]);
        let names: Vec<&str> = ordered.iter().map(|key| key.name).collect();
        assert_eq!(names, ["name", "errors.tolerance", "topics", "errors.deadletterqueue.topic.name", "other"]);
    }
}
