//! Bad records: whatever is wrong with them, they come to the dead letter topic as they are, and nothing passes them before.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Kafka, Need, Services, Sluice, unique};

use crate::registry;
use crate::support::{Scene, predictions};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "bad_records_of_every_kind_are_dead_letters_byte_by_byte",
        needs: &[Need::Kafka, Need::Minio],
        run: every_kind,
    },
    Test {
        name: "bad_avro_is_a_dead_letter_of_its_converter",
        needs: &[Need::Kafka, Need::Minio, Need::Registry],
        run: bad_avro,
    },
    Test {
        name: "a_text_that_is_no_symbol_of_its_enum_is_a_dead_letter_of_the_sink",
        needs: &[Need::Kafka, Need::Minio],
        run: no_symbol,
    },
    Test {
        name: "without_tolerance_the_first_bad_record_is_a_dead_letter_and_the_task_fails",
        needs: &[Need::Kafka, Need::Minio],
        run: without_tolerance,
    },
    Test {
        name: "what_cannot_be_a_dead_letter_topic_is_refused_or_fails_the_task",
        needs: &[Need::Kafka, Need::Minio],
        run: bad_topics,
    },
    Test {
        name: "letters_wait_for_a_broker_that_is_killed_and_hold_up_commits_and_no_stop",
        needs: &[Need::Kafka, Need::Minio, Need::OwnKafka],
        run: broker_killed,
    },
    Test {
        name: "a_process_killed_between_letter_and_commit_loses_neither",
        needs: &[Need::Kafka, Need::Minio],
        run: killed_between,
    },
];

const TOLD: &str = "__connect.errors.";

const SCRIPT: &str = include_str!("py/dead_letters.py");

const LIMIT: Duration = Duration::from_secs(120);

/// A record as another client wrote it, or a letter as another client reads it; bytes as hexadecimal text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Sent {
    key: Option<String>,
    value: Option<String>,
    timestamp: i64,
    headers: Vec<(String, Option<String>)>,
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Sent {
    fn of(value: impl AsRef<[u8]>) -> Sent {
        Sent { key: None, value: Some(hex(value)), timestamp: 1_700_000_000_000, headers: Vec::new() }
    }

    fn to_json(&self) -> Value {
        json!({"key": self.key, "value": self.value, "timestamp": self.timestamp, "headers": self.headers})
    }

    /// The record as it was: without what is told about it.
    fn as_it_was(&self) -> Sent {
        let own = self.headers.iter().filter(|(name, _)| !name.starts_with(TOLD)).cloned().collect();
        Sent { headers: own, ..self.clone() }
    }

    /// What is told about it, in order.
    fn told(&self) -> Vec<(String, String)> {
        let told = self.headers.iter().filter_map(|(name, value)| Some((name.strip_prefix(TOLD)?, value)));
        told.map(|(name, value)| {
            let bytes: Vec<u8> = value.as_deref().unwrap_or_default().as_bytes().chunks(2).map(byte).collect();
            (name.to_owned(), String::from_utf8(bytes).expect("Connect writes UTF-8"))
        })
        .collect()
    }
}

fn byte(digits: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(digits).expect("digits"), 16).expect("digits")
}

fn produce(kafka: &Kafka, topic: &str, records: &[Sent]) -> Outcome {
    let records: Vec<Value> = records.iter().map(Sent::to_json).collect();
    let request = json!({"bootstrap": kafka.bootstrap(), "topic": topic, "records": records});
    Services::readers()?.call::<Value>(SCRIPT, "produce", &request)?;
    Ok(())
}

/// Everything in a dead letter topic, once there are `count` letters.
fn letters(kafka: &Kafka, topic: &str, count: usize) -> Result<Vec<Sent>, Error> {
    let request = json!({"bootstrap": kafka.bootstrap(), "topic": topic, "count": count, "limit_s": 60});
    Services::readers()?.begin(SCRIPT, "letters", &request, LIMIT)?.finish()
}

/// Changes for a connector that tolerates bad records and writes them to `topic`.
fn tolerant(topic: &str) -> Value {
    json!({
        "errors.tolerance": "all",
        "errors.deadletterqueue.topic.name": topic,
        "errors.deadletterqueue.topic.replication.factor": "1",
        "errors.deadletterqueue.context.headers.enable": "true",
        "flush.size": "1000",
    })
}

fn with(mut config: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    config
}

const SINK_TASK: &str = "org.apache.kafka.connect.sink.SinkTask";
const JSON_CONVERTER: &str = "org.apache.kafka.connect.json.JsonConverter";
const DATA_EXCEPTION: &str = "org.apache.kafka.connect.errors.DataException";

fn every_kind() -> Outcome {
    let scene = Scene::new("letters", 1)?;
    let dead = unique("dead");
    let row = |at: Value, v: Value| json!({"at": at, "v": v}).to_string();
    let time = json!(1_700_000_000_000_i64);
    let good = |number: i64| Sent::of(row(time.clone(), json!(number.to_string())));
    let headers = vec![
        ("trace".to_owned(), Some(hex([0, 0xff]))),
        ("none".to_owned(), None),
        ("trace".to_owned(), Some(String::new())),
    ];
    // Each with the stage, class and exception that Kafka Connect tells, and a part of the message.
    let bad = [
        (
            Sent { key: Some(hex([0xff, 0])), headers: headers.clone(), ..Sent::of("{\"at\": secret-payload") },
            ["VALUE_CONVERTER", JSON_CONVERTER, DATA_EXCEPTION, "not valid JSON"],
        ),
        (
            Sent { key: Some(String::new()), timestamp: 5, ..Sent::of(row(time.clone(), json!("no number"))) },
            ["TRANSFORMATION", "org.apache.kafka.connect.transforms.Cast$Value", DATA_EXCEPTION, "transform number: "],
        ),
        (
            Sent { headers: headers[1..2].to_vec(), ..Sent::of(json!({"v": "7"}).to_string()) },
            ["TASK_PUT", SINK_TASK, "io.confluent.connect.storage.errors.PartitionException", "at"],
        ),
        (
            Sent { value: None, key: Some(hex("tombstone")), ..Sent::of("") },
            ["TASK_PUT", SINK_TASK, DATA_EXCEPTION, "Skipping null value record."],
        ),
        (
            Sent::of(json!({"at": time, "v": "8", "extra": {"deep": "not a number"}}).to_string()),
            ["VALUE_CONVERTER", JSON_CONVERTER, DATA_EXCEPTION, "extra"],
        ),
    ];
    let first = Sent::of(json!({"at": time, "v": "0", "extra": 1}).to_string());
    let mut records = vec![first];
    for (number, (bad, _)) in (1..).zip(&bad) {
        records.extend([bad.clone(), good(number)]);
    }
    produce(scene.kafka, &scene.topic, &records)?;
    let changes = json!({
        "behavior.on.null.values": "ignore",
        "errors.log.enable": "true",
        "partitioner.class": "io.confluent.connect.storage.partitioner.TimeBasedPartitioner",
        "partition.duration.ms": "3600000",
        "path.format": "'day'=YYYY-MM-dd",
        "timestamp.extractor": "RecordField",
        "timestamp.field": "at",
        "locale": "en",
        "timezone": "UTC",
        "transforms": "number",
        "transforms.number.type": "org.apache.kafka.connect.transforms.Cast$Value",
        "transforms.number.spec": "v:int64",
    });
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config(with(tolerant(&dead), changes)))?;
    let found = letters(scene.kafka, &dead, bad.len())?;
    assert_eq!(found.len(), bad.len(), "{found:?}");
    for (number, (sent, [stage, class, exception, message])) in (0..).zip(&bad) {
        let offset = number * 2 + 1;
        let is_it = |letter: &&Sent| letter.told().contains(&("offset".to_owned(), offset.to_string()));
        let letter = found.iter().find(is_it).unwrap_or_else(|| panic!("no letter of {offset}: {found:?}"));
        assert_eq!(&letter.as_it_was(), sent);
        let told = letter.told();
        let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "topic",
                "partition",
                "offset",
                "connector.name",
                "task.id",
                "stage",
                "class.name",
                "exception.class.name",
                "exception.message",
                "exception.stacktrace"
            ]
        );
        let values: Vec<&str> = told.iter().map(|(_, value)| value.as_str()).collect();
        let offset = offset.to_string();
        let expected = [&scene.topic, "0", &offset, &scene.connector, "0", stage, class, exception];
        assert_eq!(values[..8], expected);
        assert!(values[8].contains(message), "{values:?}");
        assert_eq!(values[9], format!("{exception}: {}\n", values[8]));
    }
    let described = scene.kafka.tool("org.apache.kafka.tools.TopicCommand", &["--describe", "--topic", &dead])?;
    assert!(described.contains("PartitionCount: 1") && described.contains("ReplicationFactor: 1"), "{described}");

    for (name, count) in [
        ("total_record_failures", 5),
        ("total_record_errors", 5),
        ("total_records_skipped", 5),
        ("total_errors_logged", 5),
        ("total_retries", 0),
        ("deadletterqueue_produce_requests", 5),
        ("deadletterqueue_produce_failures", 0),
    ] {
        let found = sluice.metric(&format!("kafka_connect_task_error_metrics_{name}"), &scene.connector)?;
        assert_eq!(found, count, "{name}");
    }
    assert_eq!(sluice.metric("sluice_rejected_records_total", &scene.connector)?, 5);
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    scene.wait_committed(&[11])?;
    let mut written: Vec<i64> = scene.rows()?.iter().filter_map(|row| row.value["v"].as_i64()).collect();
    written.sort_unstable();
    assert_eq!(written, [0, 1, 2, 3, 4, 5]);
    let log = sluice.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("Error encountered in task")).collect();
    assert_eq!(lines.len(), 5, "{log}");
    assert!(lines[0].contains(JSON_CONVERTER) && lines[0].contains("VALUE_CONVERTER"), "{}", lines[0]);
    assert!(!log.contains("secret-payload"), "a payload is in the log");
    Ok(())
}

fn bad_avro() -> Outcome {
    let scene = Scene::new("avro-letters", 1)?;
    let (registry, dead) = (Services::registry()?, unique("dead"));
    let range = json!({"start": 0, "end": 10});
    let expected: Vec<Value> = registry::produce(&scene, registry, "produce_every_avro", range)?;
    let unknown = Sent::of([&[0, 0, 9, 9, 9][..], b"who knows"].concat());
    let no_magic = Sent { key: Some(hex("k")), ..Sent::of("no magic") };
    produce(scene.kafka, &scene.topic, &[unknown.clone(), no_magic.clone()])?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({
        "value.converter": "io.confluent.connect.avro.AvroConverter",
        "value.converter.schema.registry.url": registry.url(),
        "value.converter.schemas.enable": null,
    });
    sluice.create(&scene.connector, &scene.config(with(tolerant(&dead), changes)))?;
    let found = letters(scene.kafka, &dead, 2)?;
    for (letter, sent) in found.iter().zip([unknown, no_magic]) {
        assert_eq!(letter.as_it_was(), sent);
        let told = letter.told();
        let class = ("class.name".to_owned(), "io.confluent.connect.avro.AvroConverter".to_owned());
        assert!(
            told.contains(&class) && told.contains(&("stage".to_owned(), "VALUE_CONVERTER".to_owned())),
            "{told:?}"
        );
    }
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    scene.wait_committed(&[12])?;
    assert_eq!(scene.rows()?.len(), expected.len());
    Ok(())
}

fn no_symbol() -> Outcome {
    let scene = Scene::new("symbol-letters", 1)?;
    let dead = unique("dead");
    let symbols = ["", ".RED", ".BLUE"].map(|end| format!("io.confluent.connect.avro.Enum{end}"));
    let schema = json!({"type": "struct", "fields": [
        {"field": "color", "type": "string", "parameters": {
            symbols[0].as_str(): "org.example.Color", symbols[1].as_str(): "RED", symbols[2].as_str(): "BLUE"}},
    ]});
    let color = |text: &str| Sent::of(json!({"schema": schema, "payload": {"color": text}}).to_string());
    produce(scene.kafka, &scene.topic, &[color("BLUE"), color("BLACK"), color("RED")])?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({
        "format.class": "io.confluent.connect.s3.format.avro.AvroFormat",
        "value.converter.schemas.enable": "true",
    });
    sluice.create(&scene.connector, &scene.config(with(tolerant(&dead), changes)))?;
    let found = letters(scene.kafka, &dead, 1)?;
    assert_eq!(found[0].as_it_was(), color("BLACK"));
    let stage = ("stage".to_owned(), "TASK_PUT".to_owned());
    assert!(found[0].told().contains(&stage), "{:?}", found[0].told());
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    scene.wait_committed(&[3])
}

fn without_tolerance() -> Outcome {
    let scene = Scene::new("intolerant", 1)?;
    let dead = unique("dead");
    let good = predictions(0..4);
    let mut records: Vec<Sent> = good.iter().map(|value| Sent::of(value.to_string())).collect();
    let bad = Sent { key: Some(hex("first")), ..Sent::of("{\"id\": oops}") };
    records.splice(3..3, [bad.clone()]);
    records.push(Sent::of("no JSON either"));
    produce(scene.kafka, &scene.topic, &records)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let intolerant = json!({
        "errors.tolerance": "none",
        "errors.deadletterqueue.context.headers.enable": "false",
        "flush.size": "2",
        "rotate.schedule.interval.ms": null,
    });
    let changes = with(tolerant(&dead), intolerant);
    sluice.create(&scene.connector, &scene.config(changes.clone()))?;
    let trace = sluice.wait_failed(&scene.connector)?;
    assert!(trace.contains("Tolerance exceeded in error handler") && trace.contains(&format!("{}-0@3", scene.topic)));
    assert_eq!(letters(scene.kafka, &dead, 1)?, [bad], "as it is, without a word about it");
    scene.wait_committed(&[2])?;
    // Whoever sees it sets the tolerance: then the record is read once more.
    let tolerance = with(changes, json!({"errors.tolerance": "all"}));
    let reply = sluice.put(&format!("/connectors/{}/config", scene.connector), Some(&scene.config(tolerance)))?;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(letters(scene.kafka, &dead, 3)?.len(), 3);
    scene.wait_committed(&[6])?;
    scene.holds_exactly(&good)
}

fn bad_topics() -> Outcome {
    let scene = Scene::new("refused-letters", 1)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    for (changes, expected) in [
        (
            tolerant(&scene.topic),
            format!(
                "The DLQ topic '{0}' may not be included in the list of topics ('topics=[{0}]') consumed by the connector",
                scene.topic
            ),
        ),
        (tolerant("no topic"), "Invalid value no topic for configuration errors.deadletterqueue.topic.name".to_owned()),
        (
            with(tolerant("dead"), json!({"errors.deadletterqueue.topic.replication.factor": "0"})),
            "Invalid value 0 for configuration errors.deadletterqueue.topic.replication.factor".to_owned(),
        ),
        (
            with(tolerant("dead"), json!({"producer.override.linger.ms": "soon"})),
            "Invalid value for configuration producer.override.linger.ms".to_owned(),
        ),
        (
            with(tolerant("dead"), json!({"admin.override.security.protocol": "ssh"})),
            "Invalid value for configuration admin.override.security.protocol".to_owned(),
        ),
    ] {
        let path = format!("/connectors/{}/config", scene.connector);
        let reply = sluice.put(&path, Some(&scene.config(changes)))?;
        let message = reply.body["message"].as_str().unwrap_or_default();
        assert!(reply.status == 400 && message.contains(&expected), "{message}");
    }
    // More replicas than brokers.
    let many = with(tolerant(&unique("dead")), json!({"errors.deadletterqueue.topic.replication.factor": "3"}));
    sluice.create("many", &scene.config(many))?;
    let trace = sluice.wait_failed("many")?;
    assert!(trace.contains("could not make the dead letter topic") && trace.contains("factor is 3"), "{trace}");
    // A letter that the topic does not take.
    let small = unique("small");
    let arguments = ["--create", "--topic", &small, "--partitions", "1", "--config", "max.message.bytes=2000"];
    scene.kafka.tool("org.apache.kafka.tools.TopicCommand", &arguments)?;
    produce(scene.kafka, &scene.topic, &[Sent::of("x".repeat(5_000))])?;
    sluice.create(&scene.connector, &scene.config(tolerant(&small)))?;
    let trace = sluice.wait_failed(&scene.connector)?;
    assert!(trace.contains(&format!("could not write the dead letter of {}-0@0 to topic {small}", scene.topic)));
    assert!(trace.contains("raise the topic's max.message.bytes"), "{trace}");
    assert_eq!(
        sluice.metric("kafka_connect_task_error_metrics_deadletterqueue_produce_failures", &scene.connector)?,
        1
    );
    scene.wait_committed(&[0])?;
    assert_eq!(sluice.terminate()?, 0);
    Ok(())
}

fn broker_killed() -> Outcome {
    let scene = Scene::new("away", 1)?;
    let (mut elsewhere, dead) = (Kafka::start()?, unique("dead"));
    let good = predictions(0..4);
    let good: Vec<Sent> = good.iter().map(|value| Sent::of(value.to_string())).collect();
    produce(scene.kafka, &scene.topic, &[good[0].clone(), Sent::of("before"), good[1].clone()])?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({
        "producer.override.bootstrap.servers": elsewhere.bootstrap(),
        "admin.override.bootstrap.servers": elsewhere.bootstrap(),
        "flush.size": "2",
        "rotate.schedule.interval.ms": null,
    });
    sluice.create(&scene.connector, &scene.config(with(tolerant(&dead), changes)))?;
    assert_eq!(letters(&elsewhere, &dead, 1)?.len(), 1);
    scene.wait_committed(&[3])?;

    elsewhere.kill();
    produce(scene.kafka, &scene.topic, &[good[2].clone(), Sent::of("meanwhile"), good[3].clone()])?;
    sluice.wait("the letter", |sluice| {
        let sent =
            sluice.metric("kafka_connect_task_error_metrics_deadletterqueue_produce_requests", &scene.connector)?;
        Ok((sent == 2).then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(scene.objects()?.len(), 1, "the second cut waits for its letter");
    scene.wait_committed(&[3])?;
    sluice.wait_state(&scene.connector, "RUNNING", 1)?;
    elsewhere.restart()?;
    assert_eq!(letters(&elsewhere, &dead, 2)?.len(), 2);
    scene.wait_committed(&[6])?;

    elsewhere.kill();
    produce(scene.kafka, &scene.topic, &[Sent::of("at the end")])?;
    sluice.wait("the last letter", |sluice| {
        let sent =
            sluice.metric("kafka_connect_task_error_metrics_deadletterqueue_produce_requests", &scene.connector)?;
        Ok((sent == 3).then_some(()))
    })?;
    let since = Instant::now();
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    assert!(since.elapsed() < Duration::from_secs(45), "a stop without the broker took {:?}", since.elapsed());
    scene.wait_committed(&[6])
}

fn killed_between() -> Outcome {
    let scene = Scene::new("between", 1)?;
    let dead = unique("dead");
    let good = predictions(0..4);
    let mut records: Vec<Sent> = good.iter().map(|value| Sent::of(value.to_string())).collect();
    let bad = Sent { key: Some(hex("bad")), ..Sent::of("no JSON") };
    records.insert(2, bad.clone());
    produce(scene.kafka, &scene.topic, &records)?;
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = with(
        tolerant(&dead),
        json!({"rotate.schedule.interval.ms": null, "errors.deadletterqueue.context.headers.enable": "false"}),
    );
    sluice.create(&scene.connector, &scene.config(changes))?;
    assert_eq!(letters(scene.kafka, &dead, 1)?, std::slice::from_ref(&bad));
    sluice.kill();
    assert!(scene.objects()?.is_empty(), "nothing was committed");
    sluice.restart()?;
    assert_eq!(letters(scene.kafka, &dead, 2)?, [bad.clone(), bad.clone()], "it was read once more");
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    scene.wait_committed(&[5])?;
    assert_eq!(letters(scene.kafka, &dead, 2)?.len(), 2);
    scene.holds_exactly(&good)
}
