//! The dead letter topic of a connector: what its clients are told, and the rules for records that go there.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{Invalid, Plugin, Settings};
use pipeline::{ConverterClasses, ErrorRules, LogDetail, RetryRules, Tolerance};
use source::{LetterConfig, keys, properties};
use supervisor::keys::{
    DEAD_LETTER_CONTEXT_HEADERS, DEAD_LETTER_REPLICATION_FACTOR, DEAD_LETTER_TOPIC, ERRORS_LOG_ENABLE,
    ERRORS_LOG_INCLUDE_MESSAGES, ERRORS_RETRY_DELAY_MAX_MS, ERRORS_RETRY_TIMEOUT, ERRORS_TOLERANCE,
};

use crate::consumer::Consumer;

/// What of a consumer's properties its dead letters go by too, unless `producer.*` or `admin.*` say otherwise.
const CONNECTION: &[&str] =
    &["bootstrap.servers", "security.", "sasl.", "ssl.", "enable.ssl.", "socket.", "broker.address.family"];

/// Upstream's class of a plug-in.
pub(crate) fn class<B>(plugin: &'static Plugin<B>) -> &'static str {
    plugin.names.last().copied().unwrap_or_default()
}

/// What becomes of bad records under `settings`.
pub(crate) fn rules(settings: &Settings, classes: ConverterClasses) -> Result<ErrorRules, Invalid> {
    let tolerance = match settings.required_string(&ERRORS_TOLERANCE)?.as_str() {
        "all" => Tolerance::All,
        _ => Tolerance::None,
    };
    let millis = |key| settings.long(key).map(|ms| u64::try_from(ms).ok().map(Duration::from_millis));
    let log = match (settings.boolean(&ERRORS_LOG_ENABLE)?, settings.boolean(&ERRORS_LOG_INCLUDE_MESSAGES)?) {
        (false, _) => None,
        (true, false) => Some(LogDetail::Step),
        (true, true) => Some(LogDetail::Record),
    };
    Ok(ErrorRules {
        tolerance,
        retry: RetryRules {
            timeout: millis(&ERRORS_RETRY_TIMEOUT)?,
            delay_max: millis(&ERRORS_RETRY_DELAY_MAX_MS)?.unwrap_or(Duration::MAX),
        },
        log,
        context_headers: settings.boolean(&DEAD_LETTER_CONTEXT_HEADERS)?,
        reports_null_values: settings.boolean(&writer::REPORT_NULL_VALUES_TO_DLQ)?,
        classes,
    })
}

/// Whether bad records are written to a topic.
pub(crate) fn has_topic(settings: &Settings) -> bool {
    settings.text(&DEAD_LETTER_TOPIC).is_some_and(|topic| !topic.is_empty())
}

/// What writes the dead letters of task `task` of connector `name`, whose records `consumer` reads; `None` when the
/// connector has no topic for them. Also what has no effect, as sentences.
pub(crate) fn config(
    name: &str,
    task: usize,
    settings: &Settings,
    worker: &Settings,
    consumer: &Consumer,
) -> Result<Option<(LetterConfig, Vec<String>)>, Invalid> {
    if !has_topic(settings) {
        return Ok(None);
    }
    let mut warnings = Vec::new();
    let mut client = |prefix: &str, of_connector: &str, client_id: &str| -> Result<_, Invalid> {
        let is_connection = |key: &str| CONNECTION.iter().any(|begin| key.starts_with(begin));
        let inherited = consumer.properties.iter().filter(|(key, _)| is_connection(key));
        let mut all: BTreeMap<String, String> = inherited.map(|(key, value)| (key.clone(), value.clone())).collect();
        all.insert("client.id".to_owned(), format!("{client_id}{name}-{task}"));
        for translated in [
            properties::translate(prefix, worker.with_prefix(prefix))?,
            properties::translate(of_connector, settings.with_prefix(of_connector))?,
        ] {
            all.extend(translated.properties);
            warnings.extend(translated.warnings);
        }
        Ok(all)
    };
    let producer = client("producer.", keys::PRODUCER_OVERRIDE, "connector-dlq-producer-")?;
    let admin = client("admin.", keys::ADMIN_OVERRIDE, "connector-dlq-adminclient-")?;
    let config = LetterConfig {
        topic: settings.required_string(&DEAD_LETTER_TOPIC)?,
        replication_factor: i32::try_from(settings.long(&DEAD_LETTER_REPLICATION_FACTOR)?).unwrap_or(-1),
        producer,
        admin,
    };
    Ok(Some((config, warnings)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::consumer;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
    }

    #[test]
    fn letters_go_where_the_records_came_from_unless_told_otherwise() {
        let worker = settings(&[
            ("bootstrap.servers", "k:1"),
            ("consumer.security.protocol", "SASL_SSL"),
            ("consumer.fetch.min.bytes", "5"),
            ("producer.linger.ms", "7"),
            ("admin.request.timeout.ms", "9000"),
        ]);
        let connector = settings(&[
            ("errors.deadletterqueue.topic.name", "dead"),
            ("errors.deadletterqueue.topic.replication.factor", "2"),
            ("consumer.override.sasl.mechanism", "PLAIN"),
            ("producer.override.linger.ms", "8"),
            ("producer.override.acks", "0"),
            ("admin.override.security.protocol", "SSL"),
        ]);
        let consumer = consumer("c", &connector, &worker).unwrap();
        let (found, warnings) = config("c", 3, &connector, &worker, &consumer).unwrap().unwrap();
        assert_eq!((found.topic.as_str(), found.replication_factor), ("dead", 2));
        let shown = |properties: &BTreeMap<String, String>| -> Vec<String> {
            properties.iter().map(|(key, value)| format!("{key}={value}")).collect()
        };
        assert_eq!(
            shown(&found.producer),
            [
                "bootstrap.servers=k:1",
                "client.id=connector-dlq-producer-c-3",
                "linger.ms=8",
                "sasl.mechanism=PLAIN",
                "security.protocol=sasl_ssl"
            ]
        );
        assert_eq!(
            shown(&found.admin),
            [
                "bootstrap.servers=k:1",
                "client.id=connector-dlq-adminclient-c-3",
                "sasl.mechanism=PLAIN",
                "security.protocol=ssl",
                "socket.timeout.ms=9000"
            ]
        );
        assert!(warnings.len() == 1 && warnings[0].starts_with("producer.override.acks has no effect"), "{warnings:?}");
        assert!(config("c", 3, &settings(&[]), &worker, &consumer).unwrap().is_none());
    }

    #[test]
    fn rules_are_read_from_their_keys() {
        let classes = ErrorRules::of(Tolerance::None).classes;
        let found = rules(&settings(&[]), classes).unwrap();
        assert_eq!(
            (found.tolerance, found.retry.timeout, found.log, found.context_headers, found.reports_null_values),
            (Tolerance::None, Some(Duration::ZERO), None, false, true)
        );
        let found = rules(
            &settings(&[
                ("errors.tolerance", "all"),
                ("errors.retry.timeout", "-1"),
                ("errors.retry.delay.max.ms", "5"),
                ("errors.log.enable", "true"),
                ("errors.log.include.messages", "true"),
                ("errors.deadletterqueue.context.headers.enable", "true"),
                ("report.null.values.to.dlq", "false"),
            ]),
            classes,
        )
        .unwrap();
        assert_eq!(found.retry, RetryRules { timeout: None, delay_max: Duration::from_millis(5) });
        assert_eq!(
            (found.tolerance, found.log, found.context_headers, found.reports_null_values),
            (Tolerance::All, Some(LogDetail::Record), true, false)
        );
    }
}
