//! Streams: many records over many paths, and every record once through stops, crashes and a frozen store.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Need, Record, Row, S3, Services, Sluice, unique};

use crate::support::{COMMIT_LIMIT, Scene, at, example, predictions, same_record, same_records};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "four_partitions_go_by_hour_and_by_field_each_record_once_and_in_order",
        needs: &[Need::Kafka, Need::Minio],
        run: many_records_over_many_paths,
    },
    Test {
        name: "sigterm_closes_and_commits_the_open_file_and_exits_with_0",
        needs: &[Need::Kafka, Need::Minio],
        run: sigterm_drains,
    },
    Test {
        name: "a_second_signal_exits_with_130_while_the_store_is_frozen_and_loses_nothing",
        needs: &[Need::Kafka, Need::OwnMinio],
        run: second_signal,
    },
    Test {
        name: "a_store_that_goes_away_is_waited_for_and_every_record_is_written_once",
        needs: &[Need::Kafka, Need::OwnMinio],
        run: store_outage,
    },
    Test {
        name: "kill_9_in_a_stream_with_schedule_rotation_leaves_every_record_once",
        needs: &[Need::Kafka, Need::Minio],
        run: kill_in_a_stream,
    },
];

const HOUR_MS: i64 = 3_600_000;
/// 2026-05-01T22:00:00Z: the stream passes midnight.
const START_MS: i64 = 1_777_672_800_000;

/// The path of a record by its own time; the stream is four hours long.
fn hour_path(timestamp_ms: i64) -> &'static str {
    match (timestamp_ms - START_MS) / HOUR_MS {
        0 => "year=2026/month=05/day=01/hour=22",
        1 => "year=2026/month=05/day=01/hour=23",
        2 => "year=2026/month=05/day=02/hour=00",
        3 => "year=2026/month=05/day=02/hour=01",
        _ => panic!("{timestamp_ms} is not in the stream"),
    }
}

fn many_records_over_many_paths() -> Outcome {
    const RECORDS: usize = 4000;
    const PARTITIONS: i32 = 4;
    let scene = Scene::new("many", 4)?;
    let values = predictions(0..RECORDS);
    let records: Vec<Record> = (0_i64..)
        .zip(&values)
        .map(|(number, value)| Record {
            partition: Some((number % i64::from(PARTITIONS)) as i32),
            timestamp_ms: Some(START_MS + number * (4 * HOUR_MS / RECORDS as i64)),
            ..Record::of(value.to_string())
        })
        .collect();
    let places = scene.kafka.produce(&scene.topic, &records)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let (hourly, by_model) = (unique("hourly"), unique("by-model"));
    let changes = json!({"flush.size": "100"});
    sluice.create(&hourly, &scene.config_from("hourly-by-record-time", changes.clone()))?;
    sluice.create(&by_model, &scene.config_from("by-model-name", changes))?;
    for connector in [&hourly, &by_model] {
        sluice.wait_written(connector, RECORDS as u64)?;
        assert_eq!(sluice.states(connector)?.1.len(), 2);
        assert_eq!(sluice.put(&format!("/connectors/{connector}/stop"), None)?.status, 204);
        let group = format!("connect-{connector}");
        scene.kafka.wait_committed(&group, &scene.topic, &[RECORDS as i64 / 4; PARTITIONS as usize], COMMIT_LIMIT)?;
        assert_eq!(sluice.published(connector)?, RECORDS as u64);
    }

    let rows = scene.rows()?;
    let in_hours: Vec<_> = rows.iter().filter(|row| row.object.starts_with("hourly/")).cloned().collect();
    let in_models: Vec<_> = rows.iter().filter(|row| row.object.starts_with("by-model/")).cloned().collect();
    same_records(&values, &in_hours);
    same_records(&values, &in_models);
    let produced: Vec<(i32, i64, &Value, &Record)> = places
        .iter()
        .zip(values.iter().zip(&records))
        .map(|((partition, offset), (value, record))| (*partition, *offset, value, record))
        .collect();
    are_named_by_path_and_first_offset(&scene, "hourly", "zstd", &in_hours, &produced, |_, record| {
        hour_path(record.timestamp_ms.unwrap_or_default()).to_owned()
    });
    are_named_by_path_and_first_offset(&scene, "by-model", "snappy", &in_models, &produced, |value, _| {
        format!("model_name={}", value["model_name"].as_str().unwrap_or_default())
    });
    Ok(())
}

/// Each object's name says its topic-partition, its path and the offset of its first row; its rows are those records of
/// the path that follow from there, and no more than `flush.size`.
fn are_named_by_path_and_first_offset(
    scene: &Scene,
    directory: &str,
    codec: &str,
    rows: &[Row],
    produced: &[(i32, i64, &Value, &Record)],
    path: impl Fn(&Value, &Record) -> String,
) {
    let topic = &scene.topic;
    let mut objects: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        objects.entry(&row.object).or_default().push(row);
    }
    for (object, rows) in objects {
        assert!(rows.len() <= 100, "{object} has {} rows", rows.len());
        let first =
            produced.iter().find(|(.., value, _)| value["id"] == rows[0].value["id"]).expect("rows were produced");
        let (partition, offset, value, record) = *first;
        let place = path(value, record);
        assert_eq!(object, format!("{directory}/{topic}/{place}/{topic}+{partition}+{offset:010}.{codec}.parquet"));
        let of_path = produced
            .iter()
            .filter(|(other, at, value, record)| *other == partition && *at >= offset && path(value, record) == place);
        for (row, (.., value, _)) in rows.iter().zip(of_path) {
            same_record(value, &row.value);
        }
    }
}

fn sigterm_drains() -> Outcome {
    let scene = Scene::new("drain", 2)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let config = scene.config(json!({"flush.size": "1000", "rotate.schedule.interval.ms": null}));
    sluice.create(&scene.connector, &config)?;
    let records = predictions(0..5);
    let sent: Vec<Record> = (0..).zip(&records).map(|(number, value)| at(number % 2, value.to_string())).collect();
    scene.kafka.produce(&scene.topic, &sent)?;
    sluice.wait_written(&scene.connector, 5)?;
    assert_eq!(scene.objects()?, Vec::<String>::new());

    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    assert_eq!(scene.objects()?.len(), 2);
    scene.holds_exactly(&records)?;
    scene.wait_committed(&[3, 2])
}

/// A store of the test's own, with a connector that writes there: a topic, a bucket and a config for `sluice run`.
struct OwnStore {
    store: S3,
    topic: String,
    bucket: String,
    connector: String,
    file: Value,
}

impl OwnStore {
    fn new(stem: &str, changes: Value) -> Result<OwnStore, Error> {
        let store = S3::start_minio()?;
        let (topic, bucket, connector) = (unique(stem), unique(stem), unique(stem));
        Services::kafka()?.create_topic(&topic, 1)?;
        store.create_bucket(&bucket)?;
        let mut file = example("my-model");
        file["name"] = json!(connector);
        let own = json!({"topics": topic, "s3.bucket.name": bucket, "store.url": store.endpoint()});
        for (key, value) in [own, changes].iter().filter_map(Value::as_object).flatten() {
            file["config"][key] = value.clone();
        }
        Ok(OwnStore { store, topic, bucket, connector, file })
    }

    fn produce(&self, values: &[Value]) -> Outcome {
        let sent: Vec<Record> = values.iter().map(|value| at(0, value.to_string())).collect();
        Services::kafka()?.produce(&self.topic, &sent)?;
        Ok(())
    }

    fn rows(&self) -> Result<Vec<Row>, Error> {
        Services::readers()?.read_parquet(&self.store, &self.bucket, "")
    }

    fn wait_committed(&self, offset: i64) -> Result<(), Error> {
        let group = format!("connect-{}", self.connector);
        Services::kafka()?.wait_committed(&group, &self.topic, &[offset], COMMIT_LIMIT)
    }
}

fn second_signal() -> Outcome {
    let mut own = OwnStore::new(
        "frozen",
        json!({
            "flush.size": "1000",
            "rotate.schedule.interval.ms": "-1",
            "consumer.override.session.timeout.ms": "3000",
            "consumer.override.heartbeat.interval.ms": "500",
        }),
    )?;
    let records = predictions(0..3);
    own.produce(&records)?;
    let mut sluice = Sluice::run(Services::kafka()?, &own.store, &own.file)?;
    sluice.wait_written(&own.connector, 3)?;
    own.store.pause();
    sluice.ask_to_stop();
    sluice.wait_log("draining: open files are closed and committed; a second signal exits at once")?;
    assert!(sluice.is_running(), "a drain waits for the store");
    // Signals of the first half second count as one.
    let since = Instant::now();
    sluice.wait("a later signal ends it", |sluice| {
        sluice.ask_to_stop();
        Ok((!sluice.is_running()).then_some(()))
    })?;
    assert!(since.elapsed() < Duration::from_secs(10), "a second signal ended it after {:?}", since.elapsed());
    assert_eq!(sluice.wait_exit(Duration::ZERO)?, 130);
    assert!(sluice.log().contains("second signal: leaving now"), "{}", sluice.log());

    own.store.resume();
    sluice.restart()?;
    // Open again, unless the plan of the interrupted drain was replayed.
    sluice.wait("what was not committed is written", |sluice| {
        let written = sluice.metric("kafka_connect_sink_task_metrics_sink_record_send_total", &own.connector)?;
        Ok((written == 3 || own.rows()?.len() == 3).then_some(()))
    })?;
    assert_eq!(sluice.terminate()?, 0);
    same_records(&records, &own.rows()?);
    Ok(own.wait_committed(3)?)
}

/// A field that first comes during the outage also wants a new schema to be stored.
fn store_outage() -> Outcome {
    let mut own = OwnStore::new("outage", json!({"retry.backoff.ms": "500"}))?;
    let records = predictions(0..8);
    own.produce(&records[..2])?;
    let sluice = Sluice::run(Services::kafka()?, &own.store, &own.file)?;
    sluice.wait_published(&own.connector, 2)?;
    own.store.kill();
    own.produce(&records[2..])?;
    sluice.wait_log("store does not answer")?;
    sluice.wait_state(&own.connector, "RUNNING", 1)?;
    assert_eq!(sluice.published(&own.connector)?, 2);
    own.store.restart()?;
    sluice.wait_published(&own.connector, 8)?;
    own.wait_committed(8)?;
    same_records(&records, &own.rows()?);
    Ok(())
}

/// The session time-out is short, so that the group does not wait for the dead member.
fn kill_in_a_stream() -> Outcome {
    const ROUND: usize = 600;
    let scene = Scene::new("killed", 2)?;
    let config = scene.config(json!({
        "flush.size": "100000",
        "rotate.schedule.interval.ms": "500",
        "consumer.override.session.timeout.ms": "3000",
        "consumer.override.heartbeat.interval.ms": "500",
    }));
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &config)?;
    let records = predictions(0..4 * ROUND);
    for (round, part) in records.chunks(ROUND).enumerate() {
        thread::scope(|scope| {
            let producing = scope.spawn(|| -> Result<(), Error> {
                for some in part.chunks(ROUND / 3) {
                    let sent: Vec<Record> = (0..).zip(some).map(|(n, value)| at(n % 2, value.to_string())).collect();
                    scene.kafka.produce(&scene.topic, &sent)?;
                }
                Ok(())
            });
            // Killed with open files, then right behind a published cut, and so on.
            let outcome = match round % 2 {
                0 => sluice.wait_written(&scene.connector, 1),
                _ => sluice.wait_published(&scene.connector, 1),
            };
            sluice.kill();
            producing.join().expect("producing does not panic")?;
            outcome
        })?;
        sluice.restart()?;
    }
    let half = records.len() as i64 / 2;
    scene.wait_committed(&[half, half])?;
    scene.holds_exactly(&records)?;
    assert!(scene.objects()?.len() > 2, "the schedule has cut the stream");
    assert_eq!(scene.store.open_uploads(&scene.bucket, "")?, Vec::<String>::new());
    Ok(())
}
