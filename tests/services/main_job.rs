//! The main job: plain JSON predictions to Parquet, from a config file and over REST.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Kafka, Need, Row, S3, Services, Sluice, unique};

use crate::support::{COMMIT_LIMIT, Scene, columns, example, predictions, same_record, same_records};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "the_kafka_connect_config_as_it_is_writes_two_rows_a_file_to_minio",
        needs: &[Need::OwnKafka, Need::OwnMinio],
        run: verbatim_config_on_minio,
    },
    Test {
        name: "the_kafka_connect_config_writes_two_rows_a_file_to_localstack",
        needs: &[Need::Kafka, Need::Localstack],
        run: config_on_localstack,
    },
    Test {
        name: "a_connector_lives_its_whole_life_over_rest",
        needs: &[Need::Kafka, Need::Minio],
        run: life_over_rest,
    },
    Test {
        name: "a_paused_connector_writes_nothing_until_it_is_resumed",
        needs: &[Need::Kafka, Need::Minio],
        run: pause_and_resume,
    },
    Test {
        name: "a_group_that_another_consumer_left_is_gone_on_with_at_its_offset",
        needs: &[Need::Kafka, Need::Minio],
        run: moving_over,
    },
];

/// Nothing but `store.url` is added, and credentials to the environment. Kafka and MinIO are the test's own, because topic,
/// bucket and group have the names that the config says.
fn verbatim_config_on_minio() -> Outcome {
    let (kafka, store) = (Kafka::start()?, S3::start_minio()?);
    main_job(&kafka, &store, example("my-model"))
}

fn config_on_localstack() -> Outcome {
    let mut connector = example("my-model");
    connector["name"] = json!(unique("my-model-connector"));
    connector["config"]["topics"] = json!(unique("my-model"));
    connector["config"]["s3.bucket.name"] = json!(unique("myorg-models"));
    main_job(Services::kafka()?, Services::localstack()?, connector)
}

fn main_job(kafka: &Kafka, store: &S3, mut connector: Value) -> Outcome {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (name, topic) = (text(&connector["name"]), text(&connector["config"]["topics"]));
    let bucket = text(&connector["config"]["s3.bucket.name"]);
    connector["config"]["store.url"] = json!(store.endpoint());
    kafka.create_topic(&topic, 1)?;
    store.create_bucket(&bucket)?;
    let predictions = predictions(0..7);
    let produce = |values: &[Value]| {
        let records: Vec<_> = values.iter().map(|value| tests::Record::of(value.to_string())).collect();
        kafka.produce(&topic, &records)
    };
    // Field `region` first comes in the fourth record.
    produce(&predictions[..2])?;
    let sluice = Sluice::run(kafka, store, &connector)?;
    sluice.wait_published(&name, 2)?;
    produce(&predictions[2..])?;
    let since = Instant::now();
    sluice.wait_published(&name, 7)?;
    assert!(
        since.elapsed() < Duration::from_secs(25),
        "the schedule closes a file within 20 s, not {:?}",
        since.elapsed()
    );
    kafka.wait_committed(&format!("connect-{name}"), &topic, &[7], COMMIT_LIMIT)?;

    let object = |offset: u32| format!("my-model/serving/{topic}/partition=0/{topic}+0+{offset:010}.snappy.parquet");
    let readers = Services::readers()?;
    let rows = readers.read_parquet(store, &bucket, "my-model/serving/")?;
    assert_eq!(rows, readers.read_parquet_duckdb(store, &bucket, "")?);
    let places: Vec<_> = rows.iter().map(|row| (row.object.clone(), row.position)).collect();
    let expected: Vec<_> = [(0, 0), (0, 1), (2, 0), (2, 1), (4, 0), (4, 1), (6, 0)].map(|(o, p)| (object(o), p)).into();
    assert_eq!(places, expected);
    for (prediction, row) in predictions.iter().zip(&rows) {
        same_record(prediction, &row.value);
    }
    let footer = readers.parquet_schema(store, &bucket, &object(6))?;
    assert_eq!((&footer["rows"], &footer["compression"]), (&json!(1), &json!(["SNAPPY"])));
    let types: Vec<_> =
        footer["columns"].as_array().into_iter().flatten().map(|column| text(&column["type"])).collect();
    // In order of first value: the first `age` is null.
    let inputs = "struct<previously_insured: bool, age: int64, region: string>";
    assert_eq!(types, ["string", "string", "string", inputs, "struct<will_buy_insurance: bool, confidence: double>"]);
    assert_eq!(store.open_uploads(&bucket, "")?, Vec::<String>::new());
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn life_over_rest() -> Outcome {
    let scene = Scene::new("rest", 1)?;
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    let (name, config) = (&scene.connector, scene.config(json!({})));
    let path = |end: &str| format!("/connectors/{name}{end}");
    let worker_id = format!("127.0.0.1:{}", sluice.place().port);

    let server = sluice.wait("the cluster is known", |sluice| {
        Ok(Some(sluice.get("/")?.body).filter(|server| server["kafka_cluster_id"].is_string()))
    })?;
    assert!(server["version"].is_string() && server["commit"].is_string(), "{server}");
    assert_eq!(sluice.get("/health")?.body["status"], json!("healthy"));
    assert_eq!(sluice.get("/connectors")?.body, json!([]));

    let mut named = config.clone();
    named["name"] = json!(name);
    let created = sluice.put(&path("/config"), Some(&config))?;
    assert_eq!((created.status, &created.body["config"]), (201, &named));
    let repeated = sluice.put(&path("/config"), Some(&config))?;
    let task = json!({"connector": name, "task": 0});
    assert_eq!(
        (repeated.status, &repeated.body["tasks"], &repeated.body["type"]),
        (200, &json!([task]), &json!("sink"))
    );
    assert_eq!(sluice.get("/connectors")?.body, json!([name]));
    let info = json!({"name": name, "config": named, "tasks": [task], "type": "sink"});
    assert_eq!(sluice.get(&path(""))?.body, info);
    assert_eq!(sluice.get(&path("/config"))?.body, named);
    let tasks = sluice.get(&path("/tasks"))?.body;
    assert_eq!((&tasks[0]["id"], tasks.as_array().map(Vec::len)), (&task, Some(1)));
    sluice.wait_state(name, "RUNNING", 1)?;
    let status = sluice.get(&path("/status"))?.body;
    assert_eq!((&status["name"], &status["type"]), (&json!(name), &json!("sink")));
    assert_eq!((&status["connector"]["worker_id"], &status["tasks"][0]["id"]), (&json!(worker_id), &json!(0)));
    let records = predictions(0..10);
    scene.produce(&records[..4])?;
    sluice.wait_published(name, 4)?;

    assert_eq!(sluice.put(&path("/stop"), None)?.status, 204);
    sluice.wait_state(name, "STOPPED", 0)?;
    assert_eq!(sluice.get(&path("/tasks"))?.body, json!([]));
    assert_eq!(sluice.put(&path("/resume"), None)?.status, 202);
    sluice.wait_state(name, "RUNNING", 1)?;
    scene.produce(&records[4..6])?;
    sluice.wait_published(name, 6)?;
    assert_eq!(sluice.post(&path("/restart"))?.status, 204);
    let restarted = sluice.post(&path("/restart?includeTasks=true"))?;
    assert_eq!((restarted.status, &restarted.body["name"]), (202, &json!(name)));
    sluice.wait_state(name, "RUNNING", 1)?;
    scene.produce(&records[6..8])?;
    sluice.wait_published(name, 8)?;
    scene.wait_committed(&[8])?;
    for (metric, value) in [
        ("kafka_connect_sink_task_metrics_sink_record_read_total", 8),
        ("kafka_connect_sink_task_metrics_sink_record_send_total", 8),
        ("sluice_published_records_total", 8),
        ("sluice_published_files_total", 4),
        ("sluice_cuts_total", 4),
        ("sluice_rejected_records_total", 0),
        ("sluice_offset_commit_failures_total", 0),
    ] {
        assert_eq!(sluice.metric(metric, name)?, value, "{metric}");
    }
    sluice.wait("lag is 0", |sluice| {
        let lag = sluice.metric("kafka_consumer_consumer_fetch_manager_metrics_records_lag", name)?;
        Ok((lag == 0).then_some(()))
    })?;

    assert_eq!(sluice.terminate()?, 0);
    sluice.restart()?;
    assert_eq!(sluice.get(&path("/config"))?.body, named);
    scene.produce(&records[8..])?;
    sluice.wait_published(name, 2)?;
    scene.wait_committed(&[10])?;
    assert_eq!(scene.objects()?.len(), 5);
    scene.holds_exactly(&records)?;

    assert_eq!(sluice.delete(&path(""))?.status, 204);
    let gone = sluice.get(&path("/status"))?;
    assert_eq!((gone.status, &gone.body["error_code"]), (404, &json!(404)));
    assert_eq!(sluice.get("/connectors")?.body, json!([]));
    assert_eq!(sluice.terminate()?, 0);
    sluice.restart()?;
    assert_eq!(sluice.get("/connectors")?.body, json!([]), "a deleted connector does not come back");
    Ok(())
}

/// A second connector on the same topic shows when the records were there to be written.
fn pause_and_resume() -> Outcome {
    let scene = Scene::new("pause", 1)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let (paused, witness) = (&scene.connector, unique("witness"));
    sluice.create(paused, &scene.config(json!({})))?;
    sluice.create(&witness, &scene.config(json!({"topics.dir": "witness"})))?;
    let records = predictions(0..6);
    scene.produce(&records[..2])?;
    sluice.wait_published(paused, 2)?;

    let reply = sluice.put(&format!("/connectors/{paused}/pause"), None)?;
    assert_eq!(reply.status, 202);
    sluice.wait_state(paused, "PAUSED", 1)?;
    scene.produce(&records[2..])?;
    sluice.wait_published(&witness, 6)?;
    assert_eq!(sluice.published(paused)?, 2);
    let objects =
        |prefix| Ok::<usize, tests::Error>(scene.objects()?.iter().filter(|key| key.starts_with(prefix)).count());
    assert_eq!((objects("my-model/serving/")?, objects("witness/")?), (1, 3));

    assert_eq!(sluice.put(&format!("/connectors/{paused}/resume"), None)?.status, 202);
    sluice.wait_published(paused, 6)?;
    scene.wait_committed(&[6])?;
    let (of_paused, of_witness): (Vec<Row>, Vec<Row>) =
        scene.rows()?.into_iter().partition(|row| row.object.starts_with("my-model/serving/"));
    same_records(&records, &of_paused);
    same_records(&records, &of_witness);
    Ok(())
}

fn moving_over() -> Outcome {
    let scene = Scene::new("moved", 1)?;
    let records = predictions(0..9);
    scene.produce(&records)?;
    assert_eq!(scene.kafka.consume(&scene.group(), &scene.topic, 5)?.len(), 5);
    scene.wait_committed(&[5])?;

    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config(json!({})))?;
    sluice.wait_published(&scene.connector, 4)?;
    scene.wait_committed(&[9])?;
    let directory = format!("my-model/serving/{}/partition=0/{}+0", scene.topic, scene.topic);
    let expected = [5, 7].map(|offset| format!("{directory}+{offset:010}.snappy.parquet"));
    assert_eq!(scene.objects()?, expected);
    scene.holds_exactly(&records[5..])?;
    assert!(columns(&scene, &expected[0])?.contains(&"id: string".to_owned()));
    Ok(())
}
