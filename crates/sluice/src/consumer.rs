//! Properties of a connector's Kafka consumer: the worker's, over them the connector's.

use std::collections::BTreeMap;

use model::{Invalid, Settings};
use source::properties;

use crate::worker::BOOTSTRAP_SERVERS;

/// Membership of its own for a process; several tasks of one process need one each.
const INSTANCE_ID: &str = "group.instance.id";

/// What librdkafka is told, and warnings for what has no effect.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) properties: BTreeMap<String, String>,
    pub(crate) warnings: Vec<String>,
}

/// The consumer of connector `name`: our own names, over them the worker's security and its `consumer.*`, over them the
/// connector's `consumer.override.*`.
pub(crate) fn consumer(name: &str, settings: &Settings, worker: &Settings) -> Result<Consumer, Invalid> {
    let mut security: Vec<(String, &str)> = Vec::new();
    for prefix in ["security.", "sasl.", "ssl."] {
        security.extend(worker.with_prefix(prefix).map(|(key, value)| (format!("{prefix}{key}"), value)));
    }
    let inherited = properties::translate("", security.iter().map(|(key, value)| (key.as_str(), *value)))?;
    let of_worker = properties::translate("consumer.", worker.with_prefix("consumer."))?;
    let prefix = source::keys::CONSUMER_OVERRIDE;
    let of_connector = properties::translate(prefix, settings.with_prefix(prefix))?;
    let mut all = BTreeMap::from([
        ("bootstrap.servers".to_owned(), worker.text(&BOOTSTRAP_SERVERS).unwrap_or_default().to_owned()),
        ("group.id".to_owned(), own_group(name)),
        ("client.id".to_owned(), format!("connector-consumer-{name}")),
    ]);
    let mut warnings = Vec::new();
    for translated in [inherited, of_worker, of_connector] {
        all.extend(translated.properties);
        warnings.extend(translated.warnings);
    }
    Ok(Consumer { properties: all, warnings })
}

/// The group of connector `name` when it names no other.
pub(crate) fn own_group(name: &str) -> String {
    format!("connect-{name}")
}

impl Consumer {
    /// The consumer of task number `task` of `tasks`: as on Kafka Connect its number ends the client id, and the instance
    /// id too when there are several, for each member of a group needs an id of its own.
    pub(crate) fn of_task(mut self, task: usize, tasks: usize) -> Consumer {
        if let Some(id) = self.properties.get_mut("client.id").filter(|id| id.starts_with("connector-consumer-")) {
            id.push_str(&format!("-{task}"));
        }
        if let Some(id) = self.properties.get_mut(INSTANCE_ID).filter(|_| tasks > 1) {
            id.push_str(&format!("-{task}"));
        }
        self
    }
}

/// What a user should know though nothing is wrong.
pub(crate) fn advice(config: &model::Config) -> Option<String> {
    let key = format!("{}{INSTANCE_ID}", source::keys::CONSUMER_OVERRIDE);
    let id = config.get(&key).filter(|id| !id.contains("${"))?;
    Some(format!(
        "{key}={id} is the same in every process that runs this connector, and two members with one id fence each other: \
         when there are several, make it differ by a reference, for example {id}-${{env:HOSTNAME}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
    }

    #[test]
    fn the_connector_stands_above_the_worker_above_our_own() {
        let worker = settings(&[
            ("bootstrap.servers", "k:1"),
            ("security.protocol", "SSL"),
            ("consumer.security.protocol", "PLAINTEXT"),
            ("consumer.fetch.min.bytes", "5"),
        ]);
        let connector = settings(&[("consumer.override.fetch.min.bytes", "7"), ("consumer.override.group.id", "g")]);
        let found = consumer("c", &connector, &worker).unwrap().of_task(1, 2);
        let expected = [
            ("bootstrap.servers", "k:1"),
            ("client.id", "connector-consumer-c-1"),
            ("fetch.min.bytes", "7"),
            ("group.id", "g"),
            ("security.protocol", "plaintext"),
        ];
        let found: Vec<(&str, &str)> =
            found.properties.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(found, expected);
        assert_eq!(consumer("c", &settings(&[]), &worker).unwrap().properties["group.id"], "connect-c");
    }

    #[test]
    fn each_task_of_several_has_an_instance_id_of_its_own() {
        let connector =
            settings(&[("consumer.override.group.instance.id", "pod-3"), ("consumer.override.client.id", "me")]);
        for (tasks, expected) in [(1, "pod-3"), (2, "pod-3-0")] {
            let found = consumer("c", &connector, &settings(&[])).unwrap().of_task(0, tasks).properties;
            assert_eq!((found["group.instance.id"].as_str(), found["client.id"].as_str()), (expected, "me"));
        }
        assert!(advice(connector.config()).is_some());
        let by_reference = settings(&[("consumer.override.group.instance.id", "${env:HOSTNAME}")]);
        assert_eq!(advice(by_reference.config()), None);
    }
}
