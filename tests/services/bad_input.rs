//! Bad input: each is told by kind and by the name of the thing, a bad record stops its own task before itself, and the
//! process goes on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Need, Record, Sluice, Start, unique};

use crate::support::{COMMIT_LIMIT, Scene, at, predictions};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "put_refuses_a_bad_config_with_400_and_each_key_named",
        needs: &[Need::Kafka, Need::Minio],
        run: put_refuses,
    },
    Test {
        name: "a_bad_record_fails_its_task_with_its_place_and_nothing_after_it_is_committed",
        needs: &[Need::Kafka, Need::Minio],
        run: bad_records,
    },
    Test { name: "a_record_of_10_mb_is_written", needs: &[Need::Kafka, Need::Minio], run: large_record },
    Test {
        name: "a_store_that_refuses_or_is_not_there_fails_the_task_with_what_to_do",
        needs: &[Need::Kafka, Need::Minio],
        run: bad_stores,
    },
    Test {
        name: "brokers_that_are_not_there_are_waited_for_and_said_in_the_log",
        needs: &[Need::Kafka, Need::Minio],
        run: no_broker,
    },
    Test { name: "a_topic_that_is_not_there_is_waited_for", needs: &[Need::Kafka, Need::Minio], run: no_topic },
];

fn put_refuses() -> Outcome {
    let scene = Scene::new("refused", 1)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let cases = [
        (
            json!({"flush.size": null}),
            vec!["Missing required configuration \"flush.size\" which has no default value."],
        ),
        (
            json!({"topics": null}),
            vec!["Must configure one of topics or topics.regex", "Must configure one of topics or topics.regex"],
        ),
        (
            json!({"topics.regex": "x"}),
            vec!["topics and topics.regex are mutually exclusive options, but both are set."; 2],
        ),
        (
            json!({"errors.tolerance": "some"}),
            vec!["Invalid value some for configuration errors.tolerance: String must be one of: none, all"],
        ),
        (
            json!({"timezone": "Mars/Phobos"}),
            vec![
                "Invalid value Mars/Phobos for configuration timezone: The datetime zone id 'Mars/Phobos' is not recognised",
            ],
        ),
        (
            json!({"partitioner.class": "TimeBasedPartitioner", "partition.duration.ms": "1000", "locale": "en",
                   "path.format": "'a'=QQQ"}),
            vec!["Invalid value 'a'=QQQ for configuration path.format: Illegal pattern component: QQQ"],
        ),
        (
            json!({"consumer.override.fetch.min.bytes": "many"}),
            vec!["Invalid value for configuration consumer.override.fetch.min.bytes"],
        ),
        (json!({"value.converter.schema": "schemas/none.avsc"}), vec!["value.converter.schema"]),
    ];
    for (changes, expected) in cases {
        let reply = sluice.put("/connectors/refused/config", Some(&scene.config(changes.clone())))?;
        assert_eq!((reply.status, &reply.body["error_code"]), (400, &json!(400)), "{changes}: {reply:?}");
        let message = reply.body["message"].as_str().unwrap_or_default().to_owned();
        let lines: Vec<&str> = message.lines().collect();
        let head =
            format!("Connector configuration is invalid and contains the following {} error(s):", expected.len());
        assert_eq!(lines[0], head, "{changes}: {message}");
        for (line, expected) in lines[1..].iter().zip(&expected) {
            assert!(line.contains(expected), "{changes}: {message}");
        }
        assert_eq!(lines.len(), expected.len() + 2, "{message}");
    }
    let unknown = scene.config(json!({"connector.class": "s4"}));
    let reply = sluice.put("/connectors/refused/config", Some(&unknown))?;
    assert!(reply.body["message"].as_str().unwrap_or_default().contains("s4"), "{reply:?}");
    assert_eq!(sluice.get("/connectors")?.body, json!([]));

    let odd = scene.config(json!({"no.such.key": "1"}));
    sluice.create(&scene.connector, &odd)?;
    assert_eq!(sluice.get(&format!("/connectors/{}/config", scene.connector))?.body["no.such.key"], json!("1"));
    sluice.wait_log("no.such.key is not a known key: it is kept and has no effect")?;
    Ok(())
}

/// Each fault is the third record of a topic of its own, all in one process, beside a connector that must not notice.
fn bad_records() -> Outcome {
    let scene = Scene::new("healthy", 1)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config(json!({})))?;
    let good = predictions(0..6);
    let mut changed = good[2].clone();
    changed["inputs"]["age"] = json!("old");
    let deep = format!("{{\"id\": \"deep\", \"more\": {}1{}}}", "[".repeat(1000), "]".repeat(1000));
    let faults: [(&str, Record, &[&str]); 7] = [
        ("not-json", at(0, "{\"id\": oops}"), &["value is not valid JSON", "oops", "errors.tolerance"]),
        ("not-utf8", at(0, *b"{\"id\": \"\xff\"}"), &["value is not valid JSON", "not UTF-8 at byte 8"]),
        ("no-object", at(0, "[1]"), &["a list", "errors.tolerance"]),
        ("empty", at(0, ""), &["Null valued records are not writeable", "behavior.on.null.values", "ignore"]),
        (
            "tombstone",
            Record { value: None, ..at(0, "") },
            &["Null valued records are not writeable", "behavior.on.null.values"],
        ),
        ("changed", at(0, changed.to_string()), &["field inputs.age", "the string \"old\"", "errors.tolerance"]),
        ("deep", at(0, deep), &["nested deeper than", "flatten it"]),
    ];
    let mut names = Vec::new();
    for (stem, bad, _) in &faults {
        let (topic, connector) = (unique(stem), unique(&format!("connector-{stem}")));
        scene.kafka.create_topic(&topic, 1)?;
        let fine = |value: &Value| at(0, value.to_string());
        // One good record before the bad one stands in an open file, two are in a closed one.
        let records = [fine(&good[0]), fine(&good[1]), fine(&good[3]), bad.clone(), fine(&good[4]), fine(&good[5])];
        scene.kafka.produce(&topic, &records)?;
        let directory = format!("faults/{stem}");
        let config = json!({"topics": topic, "topics.dir": directory, "rotate.schedule.interval.ms": null});
        sluice.create(&connector, &scene.config(config))?;
        names.push((topic, connector));
    }
    for ((stem, _, expected), (topic, connector)) in faults.iter().zip(&names) {
        let trace = sluice.wait_failed(connector)?;
        assert!(trace.contains(&format!("{topic}-0@3")), "{stem}: {trace}");
        for part in *expected {
            assert!(trace.contains(part), "{stem}: {trace}");
        }
        assert_eq!(sluice.states(connector)?, ("RUNNING".to_owned(), vec!["FAILED".to_owned()]));
        scene.kafka.wait_committed(&format!("connect-{connector}"), topic, &[2], COMMIT_LIMIT)?;
    }
    scene.produce(&good[..2])?;
    sluice.wait_published(&scene.connector, 2)?;
    sluice.wait_state(&scene.connector, "RUNNING", 1)?;
    let rows = scene.rows()?;
    for ((stem, ..), (topic, _)) in faults.iter().zip(&names) {
        let written: Vec<&Value> =
            rows.iter().filter(|row| row.object.contains(&format!("/{topic}/"))).map(|row| &row.value["id"]).collect();
        assert_eq!(written, [&good[0]["id"], &good[1]["id"]], "{stem}");
    }
    assert_eq!(sluice.terminate()?, 0);
    Ok(())
}

fn large_record() -> Outcome {
    const BYTES: usize = 10 << 20;
    let scene = Scene::new("small", 1)?;
    let topic = unique("large");
    let arguments = ["--create", "--topic", &topic, "--partitions", "1", "--config", "max.message.bytes=20000000"];
    scene.kafka.tool("org.apache.kafka.tools.TopicCommand", &arguments)?;
    let records = predictions(0..4);
    let text: String = ('a'..='z').cycle().take(BYTES).collect();
    let mut large = records[2].clone();
    large["inputs"]["region"] = json!(text);
    let sent = [&records[0], &records[1], &large, &records[3]].map(|value| at(0, value.to_string()));
    scene.kafka.produce(&topic, &sent)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config(json!({"topics": topic})))?;
    sluice.wait_published(&scene.connector, 4)?;
    scene.kafka.wait_committed(&scene.group(), &topic, &[4], COMMIT_LIMIT)?;
    scene.holds_exactly(&[records[0].clone(), records[1].clone(), large, records[3].clone()])
}

fn bad_stores() -> Outcome {
    let scene = Scene::new("stored", 1)?;
    scene.produce(&predictions(0..2))?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let closed = format!("http://127.0.0.1:{}", closed_port()?);
    let no_bucket = unique("no-such-bucket");
    let cases: [(&str, Value, Vec<&str>); 4] = [
        (
            "bucket",
            json!({"s3.bucket.name": no_bucket}),
            vec!["Non-existent S3 bucket: ", &no_bucket, "create it or correct s3.bucket.name"],
        ),
        (
            "secret",
            json!({"aws.access.key.id": scene.store.access_key(), "aws.secret.access.key": "wrong-secret"}),
            vec!["the credentials are not accepted", "aws.secret.access.key"],
        ),
        (
            "key",
            json!({"aws.access.key.id": "nobody", "aws.secret.access.key": "wrong-secret"}),
            vec!["the credentials are not accepted", "aws.access.key.id"],
        ),
        ("closed", json!({"store.url": closed, "task.restart.enable": "false"}), vec!["could not", &closed]),
    ];
    let since = Instant::now();
    for (stem, changes, _) in &cases {
        sluice.create(stem, &scene.config(changes.clone()))?;
    }
    sluice.create(&scene.connector, &scene.config(json!({})))?;
    for (stem, _, expected) in &cases {
        let trace = sluice.wait_failed(stem)?;
        for part in expected {
            assert!(trace.contains(part), "{stem}: {trace}");
        }
        assert!(!trace.contains("wrong-secret"), "{trace}");
    }
    assert!(since.elapsed() < Duration::from_secs(60), "the failures took {:?}", since.elapsed());
    sluice.wait_published(&scene.connector, 2)?;
    let log = sluice.log();
    assert!(!log.contains("wrong-secret"), "a secret is in the log");

    // What was wrong is put right over REST.
    assert_eq!(
        sluice.put("/connectors/bucket/config", Some(&scene.config(json!({"topics.dir": "late"}))))?.status,
        200
    );
    sluice.wait_published("bucket", 2)?;
    Ok(())
}

fn no_broker() -> Outcome {
    let scene = Scene::new("unheard", 1)?;
    let bootstrap = format!("127.0.0.1:{}", closed_port()?);
    let sluice = Sluice::start(|place| Ok(Start::worker(&bootstrap, scene.store, place)))?;
    sluice.create(&scene.connector, &scene.config(json!({})))?;
    sluice.wait_log(&bootstrap)?;
    sluice.wait_log("trouble with Kafka, trying again")?;
    sluice.wait_state(&scene.connector, "RUNNING", 1)?;
    assert_eq!(sluice.get("/health")?.status, 200);
    let since = Instant::now();
    assert_eq!(sluice.terminate()?, 0);
    assert!(since.elapsed() < Duration::from_secs(30), "a stop without brokers took {:?}", since.elapsed());
    Ok(())
}

fn no_topic() -> Outcome {
    let scene = Scene::new("early", 1)?;
    let topic = unique("later");
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({"topics": topic, "consumer.override.metadata.max.age.ms": "1000"});
    sluice.create(&scene.connector, &scene.config(changes))?;
    sluice.wait_log("a subscribed topic does not exist; create it, it is picked up then")?;
    scene.kafka.create_topic(&topic, 1)?;
    let records = predictions(0..2);
    scene.kafka.produce(&topic, &records.iter().map(|value| at(0, value.to_string())).collect::<Vec<_>>())?;
    sluice.wait_published(&scene.connector, 2)?;
    scene.holds_exactly(&records)?;
    Ok(())
}

/// A loopback port where nobody listens.
fn closed_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
