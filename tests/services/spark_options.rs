//! Spark's options of sources and triggers on a real broker, and connectors that go on where others left a table.

use std::time::Duration;

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Need, Record, Services, Sluice};

use crate::delta::{Lake, config, irises};
use crate::peers;
use crate::support::{COMMIT_LIMIT, Scene};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "available_now_ends_when_what_was_there_is_written_however_many_share_it_and_die",
        needs: &[Need::Kafka, Need::Minio],
        run: available_now,
    },
    Test {
        name: "available_now_ends_at_once_on_an_empty_topic_and_fails_without_one",
        needs: &[Need::Kafka, Need::Minio],
        run: nothing_available,
    },
    Test {
        name: "objects_are_written_to_the_end_of_their_topics_over_rest_too",
        needs: &[Need::Kafka, Need::Minio],
        run: objects_to_the_end,
    },
    Test {
        name: "topic_partitions_start_where_offsets_and_times_say",
        needs: &[Need::Kafka, Need::Minio],
        run: starts,
    },
    Test {
        name: "only_assigned_topic_partitions_are_read_and_partitions_that_come_later_are_read_from_their_beginning",
        needs: &[Need::Kafka, Need::Minio],
        run: assigned,
    },
    Test {
        name: "commits_hold_no_more_offsets_than_a_trigger_may_read",
        needs: &[Need::Kafka, Need::Minio],
        run: limited,
    },
    Test {
        name: "a_table_goes_on_behind_records_that_were_deleted_and_with_a_topic_that_was_made_anew",
        needs: &[Need::Kafka, Need::Minio],
        run: lost,
    },
    Test {
        name: "a_connector_goes_on_where_kafka_delta_ingest_or_a_spark_query_left_its_table",
        needs: &[Need::Kafka, Need::Minio],
        run: imported,
    },
    Test {
        name: "a_connector_goes_on_where_a_real_query_of_spark_left_its_table",
        needs: &[Need::Kafka, Need::Minio, Need::Spark],
        run: imported_from_spark,
    },
];

const LIMIT: Duration = Duration::from_secs(90);

fn lake<'a>(scene: &'a Scene, directory: &str) -> Lake<'a> {
    Lake { scene, place: format!("s3://{}/{directory}", scene.bucket) }
}

fn connector(scene: &Scene, lake: &Lake<'_>, changes: Value) -> Value {
    json!({"name": scene.connector, "config": config(scene, &lake.place, changes)})
}

/// Runs a connector that ends; its exit code and its log.
fn to_the_end(scene: &Scene, connector: &Value) -> Result<(i32, String), Error> {
    let sluice = Sluice::begin(scene.kafka, scene.store, connector)?;
    Ok((sluice.wait_exit(LIMIT)?, sluice.log()))
}

fn ends_well(scene: &Scene, connector: &Value) -> Outcome {
    let (code, log) = to_the_end(scene, connector)?;
    assert_eq!(code, 0, "{log}");
    Ok(())
}

fn available_now() -> Outcome {
    let scene = Scene::new("available", 4)?;
    let lake = lake(&scene, "t");
    let changes = json!({"trigger": "availableNow", "commit.interval.ms": "3600000", "tasks.max": "2",
        "consumer.override.session.timeout.ms": "6000", "consumer.override.group.protocol": "classic",
        "consumer.override.partition.assignment.strategy": "cooperative-sticky"});
    let connector = connector(&scene, &lake, changes);
    let mut produced = 20_000;
    scene.kafka.produce(&scene.topic, &irises(0..produced, 4))?;
    // Two processes share it, and one is killed somewhere between reading and committing.
    for wait_ms in [300, 1_500, 4_500] {
        let one = Sluice::begin(scene.kafka, scene.store, &connector)?;
        let mut two = Sluice::begin(scene.kafka, scene.store, &connector)?;
        std::thread::sleep(Duration::from_millis(wait_ms));
        two.kill();
        assert_eq!(one.wait_exit(LIMIT)?, 0, "{}", one.log());
        assert!(one.log().contains("task finished"), "{}", one.log());
        assert_eq!(lake.numbers("prediction")?, (0..produced).collect::<Vec<i64>>());
        two.spawn_again()?;
        assert_eq!(two.wait_exit(LIMIT)?, 0, "nothing is left: {}", two.log());
        scene.kafka.produce(&scene.topic, &irises(produced..produced + 400, 4))?;
        produced += 400;
    }
    ends_well(&scene, &connector)?;
    assert_eq!(lake.numbers("prediction")?, (0..produced).collect::<Vec<i64>>());
    Ok(())
}

fn nothing_available() -> Outcome {
    let scene = Scene::new("nothing", 2)?;
    let lake = lake(&scene, "t");
    let changes = json!({"trigger": "once", "commit.interval.ms": null});
    ends_well(&scene, &connector(&scene, &lake, changes.clone()))?;
    assert!(scene.store.list(&scene.bucket, "t/_delta_log")?.is_empty(), "there is no table without records");
    let mut missing = connector(&scene, &lake, changes);
    missing["config"]["subscribe"] = json!("there-is-no-such-topic");
    let (code, log) = to_the_end(&scene, &missing)?;
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("there-is-no-such-topic") && log.contains("does not exist"), "{log}");
    Ok(())
}

fn objects_to_the_end() -> Outcome {
    let scene = Scene::new("objects-end", 2)?;
    let records = crate::support::predictions(0..40);
    scene.produce(&records[..30])?;
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({"stop.at.end": "true", "rotate.schedule.interval.ms": "3600000", "flush.size": "100000"});
    sluice.create(&scene.connector, &scene.config(changes))?;
    sluice.wait_state(&scene.connector, "STOPPED", 1)?;
    scene.holds_exactly(&records[..30])?;
    // It goes on neither by itself nor by resume; a restart reads what came meanwhile, and so does one of the process.
    scene.produce(&records[30..35])?;
    let path = |rest: &str| format!("/connectors/{}/{rest}", scene.connector);
    assert_eq!(sluice.put(&path("resume"), None)?.status, 202);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(sluice.states(&scene.connector)?, ("STOPPED".to_owned(), vec!["STOPPED".to_owned()]));
    assert_eq!(sluice.post(&path("restart?includeTasks=true"))?.status, 202);
    scene.wait_committed(&[35, 0])?;
    sluice.wait_state(&scene.connector, "STOPPED", 1)?;
    scene.produce(&records[35..])?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    sluice.restart()?;
    scene.wait_committed(&[40, 0])?;
    sluice.wait_state(&scene.connector, "STOPPED", 1)?;
    scene.holds_exactly(&records)?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn starts() -> Outcome {
    let scene = Scene::new("starts", 3)?;
    // Ten records a partition, a second apart.
    let timed: Vec<Record> = (0..30)
        .map(|number| {
            let record = irises(number..number + 1, 3).remove(0);
            Record { timestamp_ms: Some(1_700_000_000_000 + number / 3 * 1_000), ..record }
        })
        .collect();
    scene.kafka.produce(&scene.topic, &timed)?;
    let lanes = |numbers: [&str; 3]| {
        let pairs: Vec<String> = (0..)
            .zip(numbers)
            .filter(|(_, number)| !number.is_empty())
            .map(|(lane, number)| format!("\"{lane}\":{number}"))
            .collect();
        format!("{{\"{}\":{{{}}}}}", scene.topic, pairs.join(","))
    };
    let named =
        |from: [i64; 3]| (0..30).filter(|number| number / 3 >= from[(number % 3) as usize]).collect::<Vec<i64>>();
    let cases: Vec<(Value, Result<Vec<i64>, &str>)> = vec![
        (json!({"startingOffsets": "earliest"}), Ok(named([0, 0, 0]))),
        (json!({"startingOffsets": "latest"}), Ok(vec![])),
        (json!({"startingOffsets": lanes(["4", "-2", "-1"])}), Ok(named([4, 0, 10]))),
        (json!({"startingOffsets": lanes(["4", "", "10"])}), Ok(named([4, 0, 10]))),
        (json!({"startingTimestamp": "1700000006500"}), Ok(named([7, 7, 7]))),
        (json!({"startingOffsetsByTimestamp": lanes(["1700000009000", "1", ""])}), Ok(named([9, 0, 0]))),
        (json!({"startingTimestamp": "1800000000000"}), Err("startingOffsetsByTimestampStrategy")),
        (json!({"startingTimestamp": "1800000000000", "startingOffsetsByTimestampStrategy": "latest"}), Ok(vec![])),
        (json!({"startingOffsets": lanes(["11", "0", "0"])}), Err("the starting offset 11")),
        (
            json!({"startingOffsets": lanes(["11", "3", "3"]), "failOnDataLoss": "false", "on.data.loss": null}),
            Ok(named([0, 3, 3])),
        ),
    ];
    for (number, (options, expected)) in cases.into_iter().enumerate() {
        let lake = lake(&scene, &format!("t{number}"));
        let mut connector = connector(&scene, &lake, json!({"trigger": "availableNow", "failOnDataLoss": "true"}));
        connector["name"] = json!(format!("{}-{number}", scene.connector));
        connector["config"].as_object_mut().expect("a config").remove("startingOffsets");
        for (name, value) in options.as_object().into_iter().flatten() {
            connector["config"][name] = value.clone();
        }
        connector["config"].as_object_mut().expect("a config").retain(|_, value| !value.is_null());
        let (code, log) = to_the_end(&scene, &connector)?;
        match expected {
            Ok(numbers) => {
                assert_eq!(code, 0, "{options}: {log}");
                let found = if numbers.is_empty() { Vec::new() } else { lake.numbers("prediction")? };
                assert_eq!(found, numbers, "{options}");
            }
            Err(part) => {
                assert_eq!(code, 1, "{options}: {log}");
                assert!(log.contains(part), "{options}: {log}");
            }
        }
    }
    Ok(())
}

fn assigned() -> Outcome {
    let scene = Scene::new("assigned", 3)?;
    let assign = format!("{{\"{}\":[0,2]}}", scene.topic);
    scene.kafka.produce(&scene.topic, &irises(0..30, 3))?;
    let of_lanes = lake(&scene, "assigned");
    let changes = json!({"subscribe": null, "assign": assign, "trigger": "availableNow"});
    ends_well(&scene, &connector(&scene, &of_lanes, changes))?;
    assert_eq!(of_lanes.numbers("prediction")?, (0..30).filter(|number| number % 3 != 1).collect::<Vec<i64>>());
    let committed: Vec<i32> =
        scene.kafka.committed(&scene.group(), &scene.topic)?.iter().map(|one| one.partition).collect();
    assert_eq!(committed, [0, 2], "the other one is left alone");

    // Started at the end, and at the beginning of what appears later.
    let later = Lake { place: format!("s3://{}/later", scene.bucket), ..of_lanes };
    let name = format!("{}-later", scene.connector);
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({"startingOffsets": "latest", "consumer.override.metadata.max.age.ms": "1000"});
    sluice.create(&name, &config(&scene, &later.place, changes))?;
    let group = format!("connect-{name}");
    scene.kafka.wait_committed(&group, &scene.topic, &[10, 10, 10], COMMIT_LIMIT)?;
    crate::outside::add_partitions(scene.kafka, &scene.topic, 4)?;
    let new: Vec<Record> =
        irises(30..35, 1).into_iter().map(|record| Record { partition: Some(3), ..record }).collect();
    scene.kafka.produce(&scene.topic, &new)?;
    scene.kafka.wait_committed(&group, &scene.topic, &[10, 10, 10, 5], COMMIT_LIMIT)?;
    assert_eq!(later.numbers("prediction")?, (30..35).collect::<Vec<i64>>());
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn limited() -> Outcome {
    let scene = Scene::new("limited", 2)?;
    let lake = lake(&scene, "t");
    // Nine of ten lie in partition 0.
    let records: Vec<Record> = (0..1_000)
        .map(|number| Record {
            partition: Some(i32::from(number % 10 == 9)),
            ..irises(number..number + 1, 1).remove(0)
        })
        .collect();
    scene.kafka.produce(&scene.topic, &records)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({"trigger": "processingTime='1 second'", "commit.interval.ms": null, "maxOffsetsPerTrigger": "200",
        "userMetadata": "by a test"});
    sluice.create(&scene.connector, &config(&scene, &lake.place, changes))?;
    scene.kafka.wait_committed(&scene.group(), &scene.topic, &[900, 100], COMMIT_LIMIT)?;
    assert_eq!(lake.numbers("prediction")?, (0..1_000).collect::<Vec<i64>>());
    let history = lake.ask("history", json!({}))?;
    let commits = history.as_array().into_iter().flatten();
    assert!(commits.clone().all(|commit| commit["userMetadata"] == json!("by a test")), "{history}");
    let appends = commits.filter(|commit| commit["operation"] == json!("STREAMING UPDATE")).count();
    // At most 202 each: 5 if nothing is late, and never fewer.
    assert!((5..=12).contains(&appends), "{history}");
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn lost() -> Outcome {
    let scene = Scene::new("lost", 2)?;
    let lake = lake(&scene, "t");
    let connector = |fails: &str| connector(&scene, &lake, json!({"trigger": "availableNow", "failOnDataLoss": fails}));
    let fails = |part: &str| -> Outcome {
        let (code, log) = to_the_end(&scene, &connector("true"))?;
        assert!(code == 1 && log.contains(part), "{log}");
        Ok(())
    };
    scene.kafka.produce(&scene.topic, &irises(0..20, 2))?;
    ends_well(&scene, &connector("true"))?;
    scene.kafka.produce(&scene.topic, &irises(20..40, 2))?;
    scene.kafka.delete_records(&scene.topic, 0, 15)?;
    fails("5 offsets are missing")?;
    ends_well(&scene, &connector("false"))?;
    let left = |number: &i64| number % 2 == 1 || !(10..15).contains(&(number / 2));
    let mut rows: Vec<i64> = (0..40).filter(left).collect();
    assert_eq!(lake.numbers("prediction")?, rows);
    scene.kafka.produce(&scene.topic, &irises(40..44, 2))?;
    ends_well(&scene, &connector("true"))?;
    rows.extend(40..44);
    assert_eq!(lake.numbers("prediction")?, rows);

    // Once shorter than the one before, and once longer: what it holds is new in any case.
    for (first, last) in [(100, 106), (200, 300)] {
        crate::outside::delete_topic(scene.kafka, &scene.topic)?;
        scene.kafka.create_topic(&scene.topic, 2)?;
        scene.kafka.produce(&scene.topic, &irises(first..last, 2))?;
        fails("was deleted and created again")?;
        ends_well(&scene, &connector("false"))?;
        rows.extend(first..last);
        assert_eq!(lake.numbers("prediction")?, rows);
        ends_well(&scene, &connector("true"))?;
        assert_eq!(lake.numbers("prediction")?, rows);
    }
    Ok(())
}

/// A checkpoint as Spark writes it, whose last batch it does not know the outcome of.
fn write_checkpoint(directory: &std::path::Path, topic: &str, query: &str) -> Outcome {
    let conf = json!({"batchWatermarkMs": 0, "batchTimestampMs": 1_795_704_396_049_i64,
        "conf": {"spark.sql.shuffle.partitions": "2"}});
    let ends = |lanes: [i64; 2]| format!("v1\n{conf}\n{}", json!({topic: {"0": lanes[0], "1": lanes[1]}}));
    let committed = || "v1\n{\"nextBatchWatermarkMs\":0}".to_owned();
    for (name, text) in [
        ("metadata", json!({"id": query}).to_string()),
        ("sources/0/0", format!("v1\n{}", json!({topic: {"0": 0, "1": 0}}))),
        ("offsets/0", ends([3, 3])),
        ("commits/0", committed()),
        ("offsets/1", ends([6, 5])),
        ("commits/1", committed()),
        ("offsets/2", ends([10, 9])),
        ("offsets/.2.crc", "crc".to_owned()),
    ] {
        let path = directory.join(name);
        let write = std::fs::create_dir_all(path.parent().expect("below the directory"))
            .and_then(|()| std::fs::write(&path, text));
        write.map_err(|error| Error::Call { what: path.display().to_string(), why: error.to_string() })?;
    }
    Ok(())
}

fn imported() -> Outcome {
    let scene = Scene::new("imported", 2)?;
    scene.kafka.produce(&scene.topic, &irises(0..30, 2))?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let directory = sluice.place().directory.join("checkpoint");
    write_checkpoint(&directory, &scene.topic, "3e0b34b0-194c-4f78-9216-355ed3f2f40c")?;
    let checkpoint = directory.display().to_string();
    let ingest = ["--kafka-delta-ingest", "ingest"];
    // What each has written, by its txn actions: kafka-delta-ingest up to 5 and 7, Spark its batch 2 or only 1.
    let cases: [(&str, Value, &[&str], [i64; 2]); 3] = [
        ("ingest", json!({"ingest-0": 5, "ingest-1": 7, "other-0": 14}), &ingest, [6, 8]),
        ("batch", json!({"3e0b34b0-194c-4f78-9216-355ed3f2f40c": 2}), &["--spark-checkpoint", &checkpoint], [10, 9]),
        ("half", json!({"3e0b34b0-194c-4f78-9216-355ed3f2f40c": 1}), &["--spark-checkpoint", &checkpoint], [6, 5]),
    ];
    for (name, txns, from, ends) in cases {
        let lake = lake(&scene, name);
        let written = |number: &i64| number / 2 < ends[(number % 2) as usize];
        let rows: Vec<Value> =
            (0..30).filter(written).map(|number| json!({"sepal_length": 1.5, "prediction": number})).collect();
        lake.ask("written_by", json!({"rows": rows, "txns": txns}))?;
        let name = format!("{}-{name}", scene.connector);
        let mut connector = connector(&scene, &lake, json!({"commit.interval.ms": null, "trigger": "availableNow"}));
        connector["name"] = json!(name);
        let file = sluice.place().write(&format!("{name}.json"), &connector.to_string())?;
        let import = |more: &[&str]| -> Result<(i32, String), Error> {
            let worker = format!("bootstrap.servers={}", scene.kafka.bootstrap());
            sluice.ask(&[&["offsets", &file, "--set", &worker, "import"], from, more].concat())
        };
        let version = lake.ask("description", json!({}))?["version"].clone();
        let (code, printed) = import(&["--dry-run"])?;
        assert!(code == 0 && printed.contains(&format!("{}-1", scene.topic)), "{printed}");
        assert_eq!(lake.ask("description", json!({}))?["version"], version, "nothing has changed");
        let (code, printed) = import(&[])?;
        assert_eq!(code, 0, "{printed}");
        let apps: Vec<String> = (0..2).map(|lane| format!("{name}:{}:{lane}", scene.topic)).collect();
        let positions = || lake.ask("positions", json!({"apps": apps}));
        assert_eq!(positions()?, json!({apps[0].clone(): ends[0], apps[1].clone(): ends[1]}));
        ends_well(&scene, &connector)?;
        assert_eq!(lake.numbers("prediction")?, (0..30).collect::<Vec<i64>>(), "{name}");
        // The connector is further: only who insists goes back, and then some rows come twice.
        let (code, printed) = import(&[])?;
        assert!(code == 1 && printed.contains("--replace"), "{printed}");
        let (code, printed) = import(&["--replace"])?;
        assert_eq!(code, 0, "{printed}");
        assert_eq!(positions()?, json!({apps[0].clone(): ends[0], apps[1].clone(): ends[1]}));
        // By hand, too: to the end, so that nothing is read again.
        let worker = format!("bootstrap.servers={}", scene.kafka.bootstrap());
        let set = [format!("{}-0=15", scene.topic), format!("{}-1=15", scene.topic)];
        let (code, printed) = sluice.ask(&["offsets", &file, "--set", &worker, "set", &set[0], &set[1]])?;
        assert_eq!(code, 0, "{printed}");
        assert_eq!(positions()?, json!({apps[0].clone(): 15, apps[1].clone(): 15}));
        ends_well(&scene, &connector)?;
        assert_eq!(lake.numbers("prediction")?, (0..30).collect::<Vec<i64>>(), "{name}");
    }
    let nobody = lake(&scene, "nobody");
    nobody.ask("written_by", json!({"rows": [{"sepal_length": 1.5, "prediction": 1}], "txns": {}}))?;
    let connector = connector(&scene, &nobody, json!({}));
    let file = sluice.place().write("nobody.json", &connector.to_string())?;
    let worker = format!("bootstrap.servers={}", scene.kafka.bootstrap());
    for (from, part) in [
        (["--spark-checkpoint", &checkpoint], "knows nothing of the query"),
        (ingest, "no application ingest-<partition>"),
    ] {
        let (code, printed) =
            sluice.ask(&[&["offsets", file.as_str(), "--set", &worker, "import"], from.as_slice()].concat())?;
        assert!(code == 1 && printed.contains(part), "{printed}");
    }
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn imported_from_spark() -> Outcome {
    let (scene, place) = (Scene::new("from-spark", 3)?, peers::Lake::new("from-spark")?);
    let (table, checkpoint) = (place.place("table"), place.place("checkpoint"));
    let schema = "sepal_length FLOAT, sepal_width FLOAT, petal_length FLOAT, petal_width FLOAT, prediction INT, confidence FLOAT";
    let request = json!({"bootstrap": scene.kafka.bootstrap(), "topic": scene.topic, "place": table, "checkpoint": checkpoint,
        "schema": schema, "options": {"startingOffsets": "earliest", "maxOffsetsPerTrigger": "50"}});
    scene.kafka.produce(&scene.topic, &irises(0..150, 3))?;
    let batches: u64 = Services::spark()?.call(peers::SPARK, "stream", &request)?;
    assert!(batches >= 3, "{batches}");
    // As if Spark had died between the commit of its last batch and the note of it.
    let note = std::path::Path::new(&checkpoint).join(format!("commits/{}", batches - 1));
    std::fs::remove_file(&note)
        .map_err(|error| Error::Call { what: note.display().to_string(), why: error.to_string() })?;
    scene.kafka.produce(&scene.topic, &irises(150..210, 3))?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({"store.url": null, "trigger": "availableNow"});
    let connector = json!({"name": scene.connector, "config": config(&scene, &table, changes)});
    let file = sluice.place().write("connector.json", &connector.to_string())?;
    let worker = format!("bootstrap.servers={}", scene.kafka.bootstrap());
    let (code, printed) =
        sluice.ask(&["offsets", &file, "--set", &worker, "import", "--spark-checkpoint", &checkpoint])?;
    assert_eq!(code, 0, "{printed}");
    ends_well(&scene, &connector)?;
    let lake = Lake { scene: &scene, place: table };
    assert_eq!(lake.numbers("prediction")?, (0..210).collect::<Vec<i64>>());
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}
