//! Topics to Delta tables, read back by delta-rs for Python.

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Need, Record, Services, Sluice, unique};

use crate::support::{Scene, at, example};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "the_spark_job_as_a_config_appends_predictions_to_a_table_that_others_read",
        needs: &[Need::Kafka, Need::Minio],
        run: spark_job,
    },
    Test { name: "an_uncontended_commit_is_one_request", needs: &[Need::Kafka, Need::Minio], run: one_request },
    Test {
        name: "records_are_read_as_the_columns_of_a_table_that_is_there_have_them",
        needs: &[Need::Kafka, Need::Minio],
        run: columns_of_the_table,
    },
    Test {
        name: "a_table_without_merge_schema_takes_no_new_field_and_loses_none_in_silence",
        needs: &[Need::Kafka, Need::Minio],
        run: no_new_columns,
    },
    Test {
        name: "permissive_keeps_what_does_not_fit_beside_nulls",
        needs: &[Need::Kafka, Need::Minio],
        run: permissive,
    },
    Test {
        name: "the_columns_of_sparks_kafka_source_are_those_of_a_raw_table",
        needs: &[Need::Kafka, Need::Minio],
        run: raw_table,
    },
    Test {
        name: "a_connector_of_the_same_name_on_another_cluster_is_refused",
        needs: &[Need::Kafka, Need::Minio],
        run: other_cluster,
    },
    Test {
        name: "two_processes_that_are_killed_at_any_time_append_every_record_once",
        needs: &[Need::Kafka, Need::Minio],
        run: killed,
    },
    Test {
        name: "a_partitioned_table_in_a_directory_goes_on_when_the_group_is_lost",
        needs: &[Need::Kafka],
        run: directory,
    },
    Test {
        name: "a_table_that_was_lost_is_not_made_anew_behind_the_groups_back",
        needs: &[Need::Kafka, Need::Minio],
        run: lost_table,
    },
    Test {
        name: "small_files_are_merged_beside_appends_and_others_read_every_version",
        needs: &[Need::Kafka, Need::Minio],
        run: merged,
    },
    Test {
        name: "a_commit_of_two_hundred_partitions_adds_one_file_or_two",
        needs: &[Need::Kafka, Need::Minio],
        run: many_partitions,
    },
];

const SCRIPT: &str = concat!(include_str!("../src/py/store.py"), include_str!("py/delta.py"));

/// The table of a scene.
pub(crate) struct Lake<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) place: String,
}

impl Lake<'_> {
    pub(crate) fn ask(&self, action: &str, more: Value) -> Result<Value, Error> {
        let mut request = self.scene.store.request(json!({"place": self.place}));
        for (name, value) in more.as_object().into_iter().flatten() {
            request[name] = value.clone();
        }
        Services::readers()?.call(SCRIPT, action, &request)
    }

    /// The numbers in the rows of the table, in order.
    pub(crate) fn numbers(&self, column: &str) -> Result<Vec<i64>, Error> {
        let rows = self.ask("rows", json!({}))?;
        let mut numbers: Vec<i64> =
            rows.as_array().into_iter().flatten().filter_map(|row| row[column].as_i64()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// The connector of connectors/iris-delta.json with this scene's names, and `changes`; a null takes the key away.
pub(crate) fn config(scene: &Scene, place: &str, changes: Value) -> Value {
    let mut config = example("iris-delta")["config"].clone();
    let own = json!({"subscribe": scene.topic, "path": place, "store.url": scene.store.endpoint(), "commit.interval.ms": "500",
        "checkpointLocation": format!("{place}/_checkpoints")});
    let map = config.as_object_mut().expect("an example's config is an object");
    for (name, value) in [own, changes].iter().filter_map(Value::as_object).flatten() {
        match value {
            Value::Null => map.remove(name),
            value => map.insert(name.clone(), value.clone()),
        };
    }
    config
}

/// Irises, told apart by `prediction`.
pub(crate) fn irises(numbers: std::ops::Range<i64>, partitions: i64) -> Vec<Record> {
    let iris = |number: i64| {
        json!({"sepal_length": 5.1 + number as f64, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": null,
            "prediction": number, "confidence": 0.25})
    };
    numbers.map(|number| at((number % partitions) as i32, iris(number).to_string())).collect()
}

fn spark_job() -> Outcome {
    let scene = Scene::new("iris", 3)?;
    let lake = Lake { scene: &scene, place: format!("s3://{}/my-model/serving", scene.bucket) };
    scene.kafka.produce(&scene.topic, &irises(0..300, 3))?;
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &config(&scene, &lake.place, json!({})))?;
    scene.kafka.wait_committed(&scene.group(), &scene.topic, &[100, 100, 100], crate::support::COMMIT_LIMIT)?;
    let whole: Vec<i64> = (0..300).collect();
    assert_eq!(lake.numbers("prediction")?, whole);
    let description = lake.ask("description", json!({}))?;
    assert_eq!(description["protocol"], json!([1, 2]));
    assert_eq!(description["columns"].as_array().map(Vec::len), Some(6));
    let more = json!({"bucket": scene.bucket, "prefix": "my-model/serving"});
    let statistics = lake.ask("wrong_statistics", more.clone())?;
    assert_eq!(statistics["wrong"], json!([]), "{statistics}");
    assert_eq!(statistics["adds"], description["files"]);
    let apps: Vec<String> = (0..3).map(|number| format!("{}:{}:{number}", scene.connector, scene.topic)).collect();
    let positions = lake.ask("positions", json!({"apps": apps}))?;
    assert!(apps.iter().all(|app| positions[app] == json!(100)), "{positions}");

    // Somebody else appends; a new column comes; the worker starts anew.
    let other = json!([{"sepal_length": 1.0, "prediction": 1_000, "confidence": null}]);
    lake.ask("append", json!({"rows": other}))?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    sluice.restart()?;
    let wider = "sepal_length FLOAT, prediction INT, note STRING";
    let changed = config(&scene, &lake.place, json!({"value.converter.schema": wider}));
    sluice.put(&format!("/connectors/{}/config", scene.connector), Some(&changed))?;
    let value = json!({"sepal_length": 2.0, "prediction": 300, "note": "x".repeat(50)});
    scene.kafka.produce(&scene.topic, &[at(0, value.to_string())])?;
    scene.kafka.wait_committed(&scene.group(), &scene.topic, &[101, 100, 100], crate::support::COMMIT_LIMIT)?;
    let mut all: Vec<i64> = (0..301).collect();
    all.push(1_000);
    assert_eq!(lake.numbers("prediction")?, all);
    assert_eq!(lake.ask("description", json!({}))?["columns"][6], json!("note"));
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

/// Requests to S3 since the process began: files and commits are PUTs, everything else is what a commit should not need.
fn requests(sluice: &Sluice, connector: &str) -> Result<(u64, u64), Error> {
    let puts = sluice.requests(connector, "PutObject")?;
    Ok((puts, sluice.metric("sluice_store_requests_total", connector)? - puts))
}

fn one_request() -> Outcome {
    let scene = Scene::new("requests", 2)?;
    let lake = Lake { scene: &scene, place: format!("s3://{}/t", scene.bucket) };
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &config(&scene, &lake.place, json!({"commit.interval.ms": "300"})))?;
    let count = |name: &str| sluice.metric(name, &scene.connector);
    scene.kafka.produce(&scene.topic, &irises(0..2, 2))?;
    scene.wait_committed(&[1, 1])?;
    let (puts, others) = requests(&sluice, &scene.connector)?;
    let (files, commits) = (count("sluice_delta_added_files_total")?, count("sluice_delta_commits_total")?);
    for round in 1..=8 {
        scene.kafka.produce(&scene.topic, &irises(2 * round..2 * round + 2, 2))?;
        scene.wait_committed(&[round + 1; 2])?;
    }
    let commits = count("sluice_delta_commits_total")? - commits;
    assert!((8..=16).contains(&commits), "{commits} commits");
    let files = count("sluice_delta_added_files_total")? - files;
    let (puts_now, others_now) = requests(&sluice, &scene.connector)?;
    assert_eq!((puts_now - puts, others_now - others), (files + commits, 0), "{files} files, {commits} commits");
    assert_eq!(count("sluice_delta_commit_conflicts_total")?, 0);
    let version = lake.ask("description", json!({}))?["version"].as_u64();
    assert_eq!(version, Some(count("sluice_delta_table_version")?));
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

/// Of a table that somebody else made: types that no inference finds, and a column that must not be null.
fn orders() -> Value {
    let field = |name: &str, kind: Value, nullable: bool| json!({"name": name, "type": kind, "nullable": nullable, "metadata": {}});
    let place = json!({"type": "struct", "fields": [field("lat", json!("float"), true)]});
    json!({"type": "struct", "fields": [
        field("day", json!("date"), true),
        field("id", json!("integer"), false),
        field("price", json!("decimal(9,2)"), true),
        field("at", json!("timestamp"), true),
        field("place", place, true),
        field("count", json!("long"), true),
    ]})
}

fn text(value: Option<Vec<u8>>) -> String {
    String::from_utf8(value.unwrap_or_default()).unwrap_or_default()
}

/// Without a schema for the values.
fn inferring(scene: &Scene, place: &str, changes: Value) -> Value {
    let mut config = config(scene, place, changes);
    config.as_object_mut().into_iter().for_each(|config| drop(config.remove("value.converter.schema")));
    config
}

fn columns_of_the_table() -> Outcome {
    let scene = Scene::new("orders", 1)?;
    let lake = Lake { scene: &scene, place: format!("s3://{}/t", scene.bucket) };
    lake.ask("create", json!({"schema": orders().to_string(), "partition_by": ["day"]}))?;
    let (good, bad) = (
        [
            json!({"id": 1, "price": "12.50", "at": "2026-01-02T03:04:05Z", "place": {"lat": 1}, "day": "2026-01-02"}),
            json!({"id": 2, "price": 3, "note": "new", "place": {"lat": 1.5, "lon": 2}, "day": "2026-01-02", "count": 7}),
            json!({"id": 3, "price": 0.25, "day": null}),
        ],
        [
            json!({"id": 4, "price": "dear"}),
            json!({"id": 5_000_000_000_i64}),
            json!({"price": 1}),
            json!({"id": 6, "count": 1.5}),
            json!({"ID": 7, "id": 7}),
        ],
    );
    let records: Vec<Record> = good.iter().chain(&bad).map(|value| at(0, value.to_string())).collect();
    scene.kafka.produce(&scene.topic, &records)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let dead = unique("dead");
    let changes = json!({"partitionBy": "day", "errors.tolerance": "all", "errors.log.enable": "true",
        "errors.log.include.messages": "true", "errors.deadletterqueue.topic.name": dead,
        "errors.deadletterqueue.topic.replication.factor": "1"});
    sluice.create(&scene.connector, &inferring(&scene, &lake.place, changes))?;
    scene.wait_committed(&[8])?;
    let rows = lake.ask("rows", json!({}))?;
    let row = |id: i64| rows.as_array().into_iter().flatten().find(|row| row["id"] == json!(id)).cloned();
    assert_eq!(rows.as_array().map(Vec::len), Some(3), "{rows}");
    let first = row(1).unwrap_or_default();
    assert_eq!((&first["price"], &first["day"], &first["note"]), (&json!("12.50"), &json!("2026-01-02"), &json!(null)));
    assert_eq!(first["at"], json!("2026-01-02 03:04:05+00:00"));
    let second = row(2).unwrap_or_default();
    assert_eq!((&second["price"], &second["note"], &second["count"]), (&json!("3.00"), &json!("new"), &json!(7)));
    assert_eq!(second["place"], json!({"lat": 1.5, "lon": 2}));
    assert_eq!(row(3).unwrap_or_default()["price"], json!("0.25"));
    let description = lake.ask("description", json!({}))?;
    assert_eq!(description["columns"], json!(["day", "id", "price", "at", "place", "count", "note"]));
    assert_eq!(sluice.metric("sluice_rejected_records_total", &scene.connector)?, 5);
    let letters = scene.kafka.consume(&unique("reader"), &dead, bad.len())?;
    let letters: Vec<String> = letters.into_iter().map(|letter| text(letter.value)).collect();
    assert_eq!(letters, bad.each_ref().map(Value::to_string));
    let log = sluice.log();
    for reason in ["price", "id: is INTEGER in", "NOT NULL", "count", "ID"] {
        assert!(log.contains(reason), "{reason} is not in {log}");
    }
    assert_eq!(sluice.terminate()?, 0, "{log}");
    Ok(())
}

fn no_new_columns() -> Outcome {
    let scene = Scene::new("fixed", 1)?;
    let lake = Lake { scene: &scene, place: format!("s3://{}/t", scene.bucket) };
    lake.ask("create", json!({"schema": orders().to_string(), "partition_by": []}))?;
    let values = [json!({"id": 1}), json!({"id": 2, "note": "new"})];
    let records: Vec<Record> = values.iter().map(|value| at(0, value.to_string())).collect();
    scene.kafka.produce(&scene.topic, &records)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &inferring(&scene, &lake.place, json!({"mergeSchema": "false"})))?;
    let trace = sluice.wait_failed(&scene.connector)?;
    assert!(trace.contains("@1") && trace.contains("field note") && trace.contains("mergeSchema"), "{trace}");
    sluice.put(
        &format!("/connectors/{}/config", scene.connector),
        Some(&inferring(&scene, &lake.place, json!({"mergeSchema": "true"}))),
    )?;
    scene.wait_committed(&[2])?;
    let rows = lake.ask("rows", json!({}))?;
    assert!(rows.as_array().into_iter().flatten().any(|row| row["note"] == json!("new")), "{rows}");
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn permissive() -> Outcome {
    let scene = Scene::new("permissive", 1)?;
    let lake = Lake { scene: &scene, place: format!("s3://{}/t", scene.bucket) };
    let texts = [r#"{"id": 1, "name": "a"}"#, r#"{"id": "x", "name": "b"}"#, "no JSON"];
    let records: Vec<Record> = texts.iter().map(|text| at(0, (*text).to_owned())).collect();
    scene.kafka.produce(&scene.topic, &records)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({"value.converter.schema": "id INT NOT NULL, name STRING, _corrupt_record STRING",
        "mode": "PERMISSIVE", "columnNameOfCorruptRecord": "_corrupt_record"});
    sluice.create(&scene.connector, &config(&scene, &lake.place, changes))?;
    scene.wait_committed(&[3])?;
    let rows = lake.ask("rows", json!({}))?;
    let expected = json!([
        {"id": 1, "name": "a", "_corrupt_record": null},
        {"id": null, "name": "b", "_corrupt_record": texts[1]},
        {"id": null, "name": null, "_corrupt_record": texts[2]},
    ]);
    assert_eq!(rows, expected);
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn raw_table() -> Outcome {
    let scene = Scene::new("raw", 2)?;
    let lake = Lake { scene: &scene, place: format!("s3://{}/t", scene.bucket) };
    let record = |partition: i32, value: &[u8]| Record {
        key: Some(b"k\xff".to_vec()),
        timestamp_ms: Some(1_700_000_000_123),
        headers: vec![("h".to_owned(), "v".to_owned())],
        ..at(partition, value)
    };
    scene.kafka.produce(&scene.topic, &[record(0, b"\x00any"), record(1, b"{}"), record(1, b"")])?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({"value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
        "kafka.columns": "key,topic,partition,offset,timestamp,timestampType", "includeHeaders": "true"});
    sluice.create(&scene.connector, &inferring(&scene, &lake.place, changes))?;
    scene.wait_committed(&[1, 2])?;
    let columns = lake.ask("columns", json!({}))?;
    let header = json!({"type": "array", "containsNull": true, "elementType": {"type": "struct", "fields": [
        {"name": "key", "type": "string", "nullable": true, "metadata": {}},
        {"name": "value", "type": "binary", "nullable": true, "metadata": {}}]}});
    let expected = json!({"value": "binary", "key": "binary", "topic": "string", "partition": "integer", "offset": "long",
        "timestamp": "timestamp", "timestampType": "integer", "headers": header});
    assert_eq!(columns, expected);
    let rows = lake.ask("rows", json!({}))?;
    let mut lanes: Vec<(i64, i64, &str, &str)> = Vec::new();
    for row in rows.as_array().into_iter().flatten() {
        let number = |name: &str| row[name].as_i64().unwrap_or(-1);
        lanes.push((
            number("partition"),
            number("offset"),
            row["value"].as_str().unwrap_or_default(),
            row["key"].as_str().unwrap_or_default(),
        ));
        assert_eq!((&row["topic"], &row["timestampType"]), (&json!(scene.topic), &json!(0)));
        assert_eq!(row["timestamp"], json!("2023-11-14 22:13:20.123000+00:00"));
    }
    lanes.sort_unstable();
    let key = r"b'k\xff'";
    assert_eq!(lanes, [(0, 0, r"b'\x00any'", key), (1, 0, "b'{}'", key), (1, 1, "b''", key)], "{rows}");
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn other_cluster() -> Outcome {
    let scene = Scene::new("cluster", 1)?;
    let lake = Lake { scene: &scene, place: format!("s3://{}/t", scene.bucket) };
    let key = format!("t/_sluice/owner-{}.json", scene.connector);
    let owner = json!({"connector": scene.connector, "cluster": "another"});
    scene.store.put(&scene.bucket, &key, owner.to_string().as_bytes(), &[])?;
    scene.kafka.produce(&scene.topic, &irises(0..10, 1))?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &config(&scene, &lake.place, json!({})))?;
    let trace = sluice.wait_failed(&scene.connector)?;
    assert!(trace.contains(&key) && trace.contains("from the cluster another"), "{trace}");
    scene.store.delete(&scene.bucket, &key)?;
    sluice.post(&format!("/connectors/{}/restart?includeTasks=true", scene.connector))?;
    scene.wait_committed(&[10])?;
    assert_eq!(lake.numbers("prediction")?.len(), 10);
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn killed() -> Outcome {
    let scene = Scene::new("killed", 4)?;
    let lake = Lake { scene: &scene, place: format!("s3://{}/t", scene.bucket) };
    let changes = json!({"consumer.override.session.timeout.ms": "6000", "consumer.override.group.protocol": "classic",
        "consumer.override.partition.assignment.strategy": "cooperative-sticky"});
    let connector = json!({"name": scene.connector, "config": config(&scene, &lake.place, changes)});
    let start = || Sluice::run(scene.kafka, scene.store, &connector);
    let mut workers = [start()?, start()?];
    let (mut produced, each) = (0, 2_000);
    for round in 0..6 {
        scene.kafka.produce(&scene.topic, &irises(produced..produced + each, 4))?;
        produced += each;
        // Somewhere between reading, uploading and committing.
        std::thread::sleep(std::time::Duration::from_millis(700 + 413 * round));
        let victim = &mut workers[round as usize % 2];
        victim.kill();
        victim.restart()?;
    }
    let each = produced / 4;
    scene.kafka.wait_committed(&scene.group(), &scene.topic, &[each; 4], crate::support::COMMIT_LIMIT * 2)?;
    let whole: Vec<i64> = (0..produced).collect();
    assert_eq!(lake.numbers("prediction")?, whole);
    for worker in &workers {
        assert_eq!(worker.terminate()?, 0, "{}", worker.log());
    }
    Ok(())
}

fn directory() -> Outcome {
    let scene = Scene::new("directory", 2)?;
    let directory = std::env::temp_dir().join(unique("lake"));
    std::fs::create_dir_all(&directory)
        .map_err(|error| Error::Call { what: "mkdir".to_owned(), why: error.to_string() })?;
    let lake = Lake { scene: &scene, place: directory.join("table").display().to_string() };
    let schema = "day DATE, kind STRING, number INT";
    let value = |number: i64| {
        let kind = ["a b", "c/d", ""][number as usize % 3];
        json!({"day": format!("2026-01-{:02}", 1 + number % 3), "kind": kind, "number": number})
    };
    let records = |numbers: std::ops::Range<i64>| -> Vec<Record> {
        numbers.map(|number| at((number % 2) as i32, value(number).to_string())).collect()
    };
    scene.kafka.produce(&scene.topic, &records(0..60))?;
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    let mut config = config(&scene, &lake.place, json!({"value.converter.schema": schema, "partitionBy": "day,kind"}));
    config.as_object_mut().expect("a config").remove("store.url");
    sluice.create(&scene.connector, &config)?;
    scene.wait_committed(&[30, 30])?;
    assert_eq!(lake.numbers("number")?, (0..60).collect::<Vec<i64>>());
    let description = lake.ask("description", json!({}))?;
    assert_eq!(description["partition_columns"], json!(["day", "kind"]));
    let rows = lake.ask("rows", json!({}))?;
    let found =
        rows.as_array().into_iter().flatten().find(|row| row["number"] == json!(1)).cloned().unwrap_or_default();
    assert_eq!((&found["day"], &found["kind"]), (&json!("2026-01-02"), &json!("c/d")));

    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    crate::outside::consumer_groups(scene.kafka, &scene.group(), &["--delete"])?;
    scene.kafka.produce(&scene.topic, &records(60..80))?;
    sluice.restart()?;
    scene.wait_committed(&[40, 40])?;
    assert_eq!(lake.numbers("number")?, (0..80).collect::<Vec<i64>>());
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let _ = std::fs::remove_dir_all(directory);
    Ok(())
}

fn lost_table() -> Outcome {
    let scene = Scene::new("lost-table", 1)?;
    let lake = Lake { scene: &scene, place: format!("s3://{}/t", scene.bucket) };
    scene.kafka.produce(&scene.topic, &irises(0..10, 1))?;
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &config(&scene, &lake.place, json!({})))?;
    scene.wait_committed(&[10])?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    for object in scene.store.list(&scene.bucket, "t/_delta_log")? {
        scene.store.delete(&scene.bucket, &object.key)?;
    }
    sluice.restart()?;
    let trace = sluice.wait_failed(&scene.connector)?;
    assert!(trace.contains("was that table lost"), "{trace}");
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn many_partitions() -> Outcome {
    let partitions = 200;
    let scene = Scene::new("many", partitions)?;
    let lake = Lake { scene: &scene, place: format!("s3://{}/t", scene.bucket) };
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let schema = "prediction INT, half STRING";
    let changes = json!({"commit.interval.ms": "1000", "partitionBy": "half", "value.converter.schema": schema});
    sluice.create(&scene.connector, &config(&scene, &lake.place, changes))?;
    let (rounds, each) = (10, 2_000);
    for round in 0..rounds {
        let half = |number: i64| if number / 200 % 2 == 0 { "a" } else { "b" };
        let value = |number: i64| json!({"prediction": number, "half": half(number)});
        let numbers = round * each..(round + 1) * each;
        let records: Vec<Record> =
            numbers.map(|number| at((number % i64::from(partitions)) as i32, value(number).to_string())).collect();
        scene.kafka.produce(&scene.topic, &records)?;
        sluice.wait_published(&scene.connector, ((round + 1) * each) as u64)?;
    }
    let of_each = rounds * each / i64::from(partitions);
    scene.wait_committed(&vec![of_each; partitions as usize])?;
    assert_eq!(lake.numbers("prediction")?, (0..rounds * each).collect::<Vec<i64>>());
    let description = lake.ask("description", json!({}))?;
    let metric = |name: &str| sluice.metric(name, &scene.connector);
    let (commits, cuts) = (metric("sluice_delta_commits_total")?, metric("sluice_cuts_total")?);
    let files = metric("sluice_delta_added_files_total")?;
    assert_eq!(
        (&description["files"], &json!(metric("sluice_published_files_total")?)),
        (&json!(files), &json!(files))
    );
    assert_eq!(metric("sluice_published_bytes_total")?, metric("sluice_delta_added_bytes_total")?);
    assert_eq!(sluice.published(&scene.connector)?, (rounds * each) as u64, "each record is counted once");
    assert!(files <= 2 * commits, "a file for each path: {files} files in {commits} commits");
    assert!(files * 20 <= cuts, "lanes that cut together commit together: {files} files of {cuts} cuts");
    let more = json!({"bucket": scene.bucket, "prefix": "t"});
    assert_eq!(lake.ask("wrong_statistics", more)?["wrong"], json!([]));
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn merged() -> Outcome {
    let scene = Scene::new("merged", 1)?;
    let lake = Lake { scene: &scene, place: format!("s3://{}/t", scene.bucket) };
    let changes = json!({"commit.interval.ms": "200", "compaction.interval.ms": "1000", "checkpoint.interval.ms": "3000",
        "vacuum.interval.ms": "2000", "delta.checkpointInterval": "10"});
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &config(&scene, &lake.place, changes))?;
    // The operation of each version.
    let operations = || -> Result<Vec<Value>, Error> {
        let history = lake.ask("history", json!({}))?;
        let mut entries: Vec<Value> = history.as_array().cloned().unwrap_or_default();
        entries.sort_by_key(|entry| entry["version"].as_u64());
        Ok(entries.into_iter().map(|entry| entry["operation"].clone()).collect())
    };
    let is_merge = |operation: &&Value| **operation == json!("OPTIMIZE");
    let (mut produced, mut history) = (0, Vec::new());
    while history.iter().filter(is_merge).count() < 2 && produced < 3_000 {
        for _ in 0..10 {
            scene.kafka.produce(&scene.topic, &irises(produced..produced + 10, 1))?;
            produced += 10;
            scene.wait_committed(&[produced])?;
        }
        history = operations()?;
    }
    assert!(history.iter().filter(is_merge).count() >= 2, "no files were merged: {history:?}\n{}", sluice.log());
    let whole: Vec<i64> = (0..produced).collect();
    assert_eq!(lake.numbers("prediction")?, whole);
    // Before, at and after each merge, a version has the first records, each once.
    let at = |version: usize| -> Result<Vec<i64>, Error> {
        let numbers = lake.ask("numbers_at", json!({"column": "prediction", "version": version}))?;
        Ok(numbers.as_array().into_iter().flatten().filter_map(Value::as_i64).collect())
    };
    for version in (1..history.len()).filter(|version| is_merge(&&history[*version])) {
        let [before, after] = [at(version - 1)?, at(version)?];
        assert_eq!(before, after, "version {version}");
        assert_eq!(before, (0..before.len() as i64).collect::<Vec<i64>>(), "version {version}");
    }
    let description = lake.ask("description", json!({}))?;
    let files = description["files"].as_u64().unwrap_or(u64::MAX);
    assert!(files < 40, "{files} files after {} versions", history.len());
    let more = json!({"bucket": scene.bucket, "prefix": "t"});
    assert_eq!(lake.ask("wrong_statistics", more)?["wrong"], json!([]));
    // delta-rs appends to it, and we go on.
    lake.ask("append", json!({"rows": [{"sepal_length": 1.0, "prediction": 1_000_000, "confidence": null}]}))?;
    scene.kafka.produce(&scene.topic, &irises(produced..produced + 10, 1))?;
    scene.wait_committed(&[produced + 10])?;
    assert_eq!(lake.numbers("prediction")?.len() as i64, produced + 11);
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}
