//! What tests do to broker and store beyond the harness: topics with configurations, transactions, groups, compaction,
//! versions of objects.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tests::{Error, Kafka, S3, Services};

const BROKER: &str = include_str!("py/broker.py");
const BUCKET: &str = concat!(include_str!("../src/py/store.py"), include_str!("py/bucket.py"));

fn broker<T: DeserializeOwned>(kafka: &Kafka, action: &str, mut request: Value) -> Result<T, Error> {
    request["bootstrap"] = json!(kafka.bootstrap());
    Services::readers()?.call(BROKER, action, &request)
}

fn bucket<T: DeserializeOwned>(store: &S3, action: &str, request: Value) -> Result<T, Error> {
    Services::readers()?.call(BUCKET, action, &store.request(request))
}

/// Creates a topic with properties of its own.
pub(crate) fn create_topic(kafka: &Kafka, topic: &str, partitions: u32, config: Value) -> Result<(), Error> {
    broker(kafka, "create_topic", json!({"topic": topic, "partitions": partitions, "config": config}))
}

/// Gives a topic more partitions, `partitions` in all.
pub(crate) fn add_partitions(kafka: &Kafka, topic: &str, partitions: u32) -> Result<(), Error> {
    broker(kafka, "add_partitions", json!({"topic": topic, "partitions": partitions}))
}

/// Deletes a topic; returns when it is gone.
pub(crate) fn delete_topic(kafka: &Kafka, topic: &str) -> Result<(), Error> {
    broker(kafka, "delete_topic", json!({"topic": topic}))
}

/// Deletes a group that has no members, with its committed offsets.
pub(crate) fn delete_group(kafka: &Kafka, group: &str) -> Result<(), Error> {
    broker(kafka, "delete_group", json!({"group": group}))
}

/// Waits until a group that has offsets has no members.
pub(crate) fn wait_group_empty(kafka: &Kafka, group: &str) -> Result<(), Error> {
    broker(kafka, "wait_group_empty", json!({"group": group}))
}

/// Runs `kafka-consumer-groups` for one group, as a person does; what it printed.
pub(crate) fn consumer_groups(kafka: &Kafka, group: &str, arguments: &[&str]) -> Result<String, Error> {
    const CLASS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    kafka.tool(CLASS, &[&["--group", group], arguments].concat())
}

/// One transaction: values for partition 0, and whether it is committed or aborted.
pub(crate) struct Transaction<'a> {
    pub(crate) values: &'a [Value],
    pub(crate) commit: bool,
}

/// Writes these transactions, one after the other.
pub(crate) fn transact(kafka: &Kafka, topic: &str, transactions: &[Transaction<'_>]) -> Result<(), Error> {
    let of = |one: &Transaction<'_>| {
        let records: Vec<Value> = one.values.iter().map(|value| json!([0, value.to_string()])).collect();
        json!({"records": records, "commit": one.commit})
    };
    let transactions: Vec<Value> = transactions.iter().map(of).collect();
    broker(kafka, "transact", json!({"topic": topic, "transactions": transactions}))
}

/// Changes a dynamic property of the node.
pub(crate) fn set_broker_config(kafka: &Kafka, name: &str, value: &str) -> Result<(), Error> {
    broker(kafka, "set_broker_config", json!({"name": name, "value": value}))
}

/// Changes the session time-out and heartbeat of a group of the newer protocol, which the broker decides.
pub(crate) fn set_group_session(kafka: &Kafka, group: &str, session_ms: u32, heartbeat_ms: u32) -> Result<(), Error> {
    let config = format!("consumer.session.timeout.ms={session_ms},consumer.heartbeat.interval.ms={heartbeat_ms}");
    let arguments = ["--alter", "--entity-type", "groups", "--entity-name", group, "--add-config", &config];
    kafka.tool("kafka.admin.ConfigCommand", &arguments).map(drop)
}

/// Waits until compaction has left at most so many records in partition 0; their offsets.
pub(crate) fn wait_compacted(kafka: &Kafka, topic: &str, records: usize) -> Result<Vec<i64>, Error> {
    broker(kafka, "wait_compacted", json!({"topic": topic, "records": records}))
}

/// Makes a bucket keep every version of its objects.
pub(crate) fn keep_versions(store: &S3, name: &str) -> Result<(), Error> {
    bucket(store, "keep_versions", json!({"bucket": name}))
}

/// Versions and delete markers of each key.
pub(crate) fn versions(store: &S3, name: &str) -> Result<BTreeMap<String, usize>, Error> {
    bucket(store, "versions", json!({"bucket": name}))
}

/// ETag and time of change of each object.
pub(crate) fn etags(store: &S3, name: &str) -> Result<BTreeMap<String, String>, Error> {
    bucket(store, "etags", json!({"bucket": name}))
}

/// The tags of an object.
pub(crate) fn tags(store: &S3, name: &str, key: &str) -> Result<BTreeMap<String, String>, Error> {
    bucket(store, "tags", json!({"bucket": name, "key": key}))
}

/// Who may do what with an object.
pub(crate) fn grants(store: &S3, name: &str, key: &str) -> Result<Vec<String>, Error> {
    bucket(store, "grants", json!({"bucket": name, "key": key}))
}

/// How an object is encrypted: the algorithm, the key of KMS, and the algorithm of a customer's key.
pub(crate) fn encryption(
    store: &S3,
    name: &str,
    key: &str,
    customer_key: Option<&str>,
) -> Result<[Option<String>; 3], Error> {
    bucket(store, "encryption", json!({"bucket": name, "key": key, "customer_key": customer_key}))
}

/// The `id`s in all Parquet objects, which are encrypted with a customer's key.
pub(crate) fn encrypted_ids(store: &S3, name: &str, customer_key: &str) -> Result<Vec<String>, Error> {
    bucket(store, "encrypted_ids", json!({"bucket": name, "customer_key": customer_key}))
}

/// Credentials that may do what the policy says: access key, secret key and token.
pub(crate) fn assume_role(store: &S3, policy: &Value) -> Result<[String; 3], Error> {
    bucket(store, "assume_role", json!({"policy": policy.to_string()}))
}

/// A new key of KMS.
pub(crate) fn create_kms_key(store: &S3) -> Result<String, Error> {
    bucket(store, "create_kms_key", json!({}))
}
