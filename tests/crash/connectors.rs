//! The connectors of a run: the same work under each way to share a group.

use serde_json::{Map, Value, json};
use tests::unique;

/// One connector.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    /// Topic of its dead letters; the others leave bad records out.
    pub(crate) dead: Option<String>,
    /// Whether it writes a table and not objects by themselves.
    pub(crate) is_table: bool,
    /// Also the directory of its objects, and the end of its group's name.
    pub(crate) name: String,
    config: Value,
}

impl Connector {
    /// As a connector file has it.
    pub(crate) fn document(&self) -> Value {
        json!({"name": self.name, "config": self.config})
    }

    pub(crate) fn group(&self) -> String {
        format!("connect-{}", self.name)
    }
}

/// Objects under classic with cooperative-sticky, under classic with range and one static member a process, and under KIP-848
/// with two tasks; and a Delta table under the first or the last of these, as the seed says.
pub(crate) fn all(topic: &str, bucket: &str, store: &str, seed: u64) -> Vec<Connector> {
    let classic = json!({
        "consumer.override.session.timeout.ms": "4000",
        "consumer.override.heartbeat.interval.ms": "500",
        "consumer.override.max.poll.interval.ms": "8000",
    });
    let range = json!({
        "consumer.override.partition.assignment.strategy": "range",
        "consumer.override.group.instance.id": "${env:CRASH_INSTANCE}",
    });
    let consumer = json!({
        "consumer.override.group.protocol": "consumer",
        "consumer.override.max.poll.interval.ms": "8000",
        "tasks.max": "2",
    });
    let table = if seed.is_multiple_of(2) { &classic } else { &consumer };
    let ways = [
        ("sticky", vec![&classic]),
        ("range", vec![&classic, &range]),
        ("consumer", vec![&consumer]),
        ("table", vec![table]),
    ];
    ways.into_iter()
        .map(|(stem, changes)| {
            let name = unique(stem);
            let is_table = stem == "table";
            let mut config = shared(topic, store);
            let own = if is_table { of_a_table(&name, bucket) } else { of_objects(&name, bucket) };
            config.extend(own.as_object().into_iter().flatten().map(owned));
            config.extend(changes.into_iter().filter_map(Value::as_object).flatten().map(owned));
            let dead = (stem == "sticky").then(|| unique("dead"));
            if let Some(dead) = &dead {
                config.extend(letters(dead).as_object().into_iter().flatten().map(owned));
            }
            Connector { dead, is_table, name, config: Value::Object(config) }
        })
        .collect()
}

fn letters(topic: &str) -> Value {
    json!({
        "errors.deadletterqueue.topic.name": topic,
        "errors.deadletterqueue.topic.replication.factor": "1",
        "errors.deadletterqueue.context.headers.enable": "true",
    })
}

fn owned((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

/// Waits are short, so that much happens in little time.
fn shared(topic: &str, store: &str) -> Map<String, Value> {
    let config = json!({
        "topics": topic,
        "s3.region": "us-east-1",
        "store.url": store,
        "s3.part.size": "5242880",
        "parquet.row.group.bytes": "1048576",
        "s3.part.retries": "3",
        "s3.retry.backoff.ms": "50",
        "retry.backoff.ms": "500",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "errors.tolerance": "all",
        "tasks.max": "1",
        "consumer.override.auto.offset.reset": "earliest",
    });
    config.as_object().cloned().unwrap_or_default()
}

/// Files close by count, by schedule and by the wall clock, and have the second in their path.
fn of_objects(name: &str, bucket: &str) -> Value {
    json!({
        "connector.class": "io.confluent.connect.s3.S3SinkConnector",
        "storage.class": "io.confluent.connect.s3.storage.S3Storage",
        "format.class": "io.confluent.connect.s3.format.parquet.ParquetFormat",
        "topics.dir": name,
        "s3.bucket.name": bucket,
        "flush.size": "25",
        "rotate.schedule.interval.ms": "2000",
        "rotate.interval.ms": "1500",
        "partitioner.class": "io.confluent.connect.storage.partitioner.TimeBasedPartitioner",
        "path.format": "'hour'=HH/'at'=mm-ss",
        "partition.duration.ms": "1000",
        "timestamp.extractor": "Wallclock",
        "locale": "en-US",
        "timezone": "UTC",
    })
}

/// Processes commit side by side, columns come as the records have them, and upkeep is often.
fn of_a_table(name: &str, bucket: &str) -> Value {
    json!({
        "connector.class": "delta",
        "path": format!("s3://{bucket}/{name}"),
        "mergeSchema": "true",
        "commit.interval.ms": "700",
        "delta.checkpointInterval": "10",
        "checkpoint.interval.ms": "5000",
        "compaction.interval.ms": "2000",
        "vacuum.interval.ms": "5000",
    })
}
