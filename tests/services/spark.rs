//! Spark and sluice on one table: we append to what Spark made, both write at once, and the job of a stream moves over.

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Need, Services, Sluice, unique};

use crate::peers::{EVERY, Lake, SPARK, Seen, config, newest_version, parsed_by_spark, records, same, values};
use crate::support::{COMMIT_LIMIT, Scene, at};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "tables_that_spark_made_are_appended_to",
        needs: &[Need::Kafka, Need::Minio, Need::Spark],
        run: appended,
    },
    Test {
        name: "tables_that_ask_more_of_writers_are_refused_by_name",
        needs: &[Need::Kafka, Need::Minio, Need::Spark],
        run: refused,
    },
    Test {
        name: "spark_writes_and_keeps_up_a_table_beside_us_and_every_record_is_there_once",
        needs: &[Need::Kafka, Need::Minio, Need::Spark],
        run: beside,
    },
    Test {
        name: "a_job_of_spark_as_a_connector_makes_the_same_table",
        needs: &[Need::Kafka, Need::Minio, Need::Spark],
        run: moved_over,
    },
    Test {
        name: "of_bad_records_permissive_makes_what_spark_makes",
        needs: &[Need::Kafka, Need::Minio, Need::Spark],
        run: permissive,
    },
];

/// A table that Spark makes, and how it is written to.
struct Given {
    name: &'static str,
    /// What Spark does; `{t}` is the table.
    statements: &'static [&'static str],
    /// Of the connector; columns in another order than the table's.
    schema: &'static str,
    /// More of the connector.
    changes: &'static [(&'static str, &'static str)],
}

/// Rows of Spark have ids below this.
const OURS: i64 = 1_000;

const APPENDED: &[Given] = &[
    Given {
        name: "partitioned",
        statements: &[
            "create table {t} (id bigint, day date, tiny tinyint, kind string, name string) using delta \
             partitioned by (day, tiny, kind)",
            "insert into {t} values (1, date'2026-01-01', 3, 'a b', 'x'), (2, null, null, null, null)",
        ],
        schema: "name STRING, kind STRING, tiny TINYINT, day DATE, id BIGINT",
        changes: &[("partitionBy", "day,tiny,kind")],
    },
    Given {
        name: "nested",
        statements: &[
            "create table {t} (nested struct<items: array<struct<x: string, y: bigint>>, a: int>, tags map<string, int>, \
             id bigint) using delta tblproperties ('delta.enableChangeDataFeed' = 'true')",
            "insert into {t} values (named_struct('items', array(named_struct('x', 'q', 'y', 7L)), 'a', 1), map('z', 9), 1)",
        ],
        schema: "id BIGINT, tags MAP<STRING, INT>, nested STRUCT<a: INT, items: ARRAY<STRUCT<x: STRING, y: BIGINT>>>",
        changes: &[],
    },
    Given {
        name: "types",
        statements: &[
            "create table {t} (id bigint, amount decimal(12,3), at timestamp, local timestamp_ntz, tiny tinyint, \
             small smallint, single float, score double, flag boolean, day date) using delta",
            "insert into {t} values (1, 1.5, timestamp'2026-01-01 00:00:00Z', timestamp_ntz'1969-12-31 23:59:59.5', 1, 2, \
             float('NaN'), double('infinity'), true, date'0001-01-01')",
        ],
        schema: "day DATE, flag BOOLEAN, score DOUBLE, single FLOAT, small SMALLINT, tiny TINYINT, local TIMESTAMP_NTZ, \
            at TIMESTAMP, amount DECIMAL(12,3), id BIGINT",
        changes: &[],
    },
    Given {
        name: "not_null",
        statements: &[
            "create table {t} (id bigint not null, name string not null, nested struct<a: int not null>) using delta",
            "insert into {t} values (1, 'x', named_struct('a', 1))",
        ],
        schema: "name STRING NOT NULL, id BIGINT NOT NULL, nested STRUCT<a: INT NOT NULL>",
        changes: &[],
    },
    Given {
        name: "deletion_vectors",
        statements: &[
            "create table {t} (id bigint, name string) using delta tblproperties ('delta.enableDeletionVectors' = 'true')",
            "insert into {t} select id, 'x' from range(20)",
            "delete from {t} where id % 3 = 0",
        ],
        schema: "name STRING, id BIGINT",
        changes: &[],
    },
    Given {
        name: "v2_checkpoints",
        statements: &[
            "create table {t} (id bigint, name string) using delta tblproperties ('delta.checkpointPolicy' = 'v2', \
             'delta.checkpointInterval' = '2')",
            "insert into {t} values (1, 'x')",
            "insert into {t} values (2, 'x')",
        ],
        schema: "name STRING, id BIGINT",
        changes: &[],
    },
    Given {
        name: "clustered",
        statements: &[
            "create table {t} (id bigint, name string) using delta cluster by (id)",
            "insert into {t} values (1, 'x')",
        ],
        schema: "name STRING, id BIGINT, day DATE",
        changes: &[],
    },
];

/// The connector of a table, by its name.
fn name_of(scene: &Scene, given: &str) -> String {
    format!("{}-{given}", scene.connector)
}

/// Has Spark make a table.
fn make(place: &str, statements: &[&str]) -> Result<(), Error> {
    let table = format!("delta.`{place}`");
    let statements: Vec<String> = statements.iter().map(|statement| statement.replace("{t}", &table)).collect();
    Services::spark()?.call::<Value>(SPARK, "sql", &json!({"statements": statements})).map(drop)
}

fn by_spark(place: &str) -> Result<Seen, Error> {
    Services::spark()?.call(SPARK, "read", &json!({"place": place, "version": null}))
}

fn by_duckdb(place: &str) -> Result<Seen, Error> {
    Services::spark()?.call(SPARK, "read_duckdb", &json!({"place": place, "version": null}))
}

fn appended() -> Outcome {
    let (scene, lake) = (Scene::new("made-by-spark", 2)?, Lake::new("made-by-spark")?);
    let (first, second) = (values(OURS..OURS + 20), values(OURS + 20..OURS + 40));
    scene.kafka.produce(&scene.topic, &records(&first, 2))?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let mut before = Vec::new();
    for given in APPENDED {
        let place = lake.place(given.name);
        make(&place, given.statements)?;
        before.push(by_duckdb(&place)?);
        let changes: Value = given.changes.iter().map(|(name, text)| (name.to_string(), json!(text))).collect();
        sluice.create(&name_of(&scene, given.name), &config(&scene, &place, given.schema, changes))?;
    }
    let committed = |offset: i64| -> Outcome {
        for given in APPENDED {
            let group = format!("connect-{}", name_of(&scene, given.name));
            scene.kafka.wait_committed(&group, &scene.topic, &[offset; 2], COMMIT_LIMIT)?;
        }
        Ok(())
    };
    committed(10)?;
    // Another version, so that ours are read over a checkpoint of Spark's too.
    scene.kafka.produce(&scene.topic, &records(&second, 2))?;
    committed(20)?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let expected = parsed_by_spark(&[first, second].concat(), EVERY)?;
    for (given, before) in APPENDED.iter().zip(before) {
        let after = by_spark(&lake.place(given.name))?;
        let (ours, theirs): (Vec<Value>, Vec<Value>) =
            after.rows.into_iter().partition(|row| row["id"].as_i64() >= Some(OURS));
        if given.name == "clustered" {
            // The column `day` came with us.
            assert_eq!(theirs.len(), before.rows.len());
        } else {
            assert_eq!(theirs, before.rows, "{}", given.name);
            assert_eq!(after.columns, before.columns, "{}", given.name);
        }
        let ours = Seen { columns: after.columns.clone(), rows: ours };
        same(given.name, &ours, &expected.with_columns(&after.columns));
    }
    Ok(())
}

/// Tables that a writer must do something for, and how the connector names it.
const REFUSED: &[(&str, &[&str], &str)] = &[
    (
        "constraint",
        &[
            "create table {t} (id bigint, name string) using delta",
            "alter table {t} add constraint positive check (id > 0)",
        ],
        "CHECK constraint positive",
    ),
    (
        "mapping",
        &["create table {t} (id bigint) using delta tblproperties ('delta.columnMapping.mode' = 'name')"],
        "delta.columnMapping.mode=name",
    ),
    (
        "default",
        &["create table {t} (id bigint, name string default 'x') using delta \
           tblproperties ('delta.feature.allowColumnDefaults' = 'supported')"],
        "column name with a default value",
    ),
    (
        "row_tracking",
        &["create table {t} (id bigint) using delta tblproperties ('delta.enableRowTracking' = 'true')"],
        "table feature rowTracking",
    ),
    (
        "commit_times",
        &["create table {t} (id bigint) using delta tblproperties ('delta.enableInCommitTimestamps' = 'true')"],
        "table feature inCommitTimestamp",
    ),
];

/// As [`REFUSED`], with a column `made` that SQL has no words for: how Spark's builder makes it.
const BUILT: &[(&str, &[&str], &str)] = &[
    ("generatedAlwaysAs", &["id * 2"], "column made with a generation expression"),
    ("generatedAlwaysAsIdentity", &[], "column made with an identity"),
];

fn refused() -> Outcome {
    let (scene, lake) = (Scene::new("refused", 1)?, Lake::new("refused")?);
    scene.kafka.produce(&scene.topic, &records(&values(0..5), 1))?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let spark = Services::spark()?;
    let mut tables = Vec::new();
    for (name, statements, expected) in REFUSED {
        make(&lake.place(name), statements)?;
        tables.push((name, statements.len() as u64, expected));
    }
    for (name, arguments, expected) in BUILT {
        let request = json!({"place": lake.place(name), "method": name, "arguments": arguments});
        spark.call::<Value>(SPARK, "build", &request)?;
        tables.push((name, 1, expected));
    }
    for (name, _, _) in &tables {
        sluice.create(&name_of(&scene, name), &config(&scene, &lake.place(name), "id BIGINT", json!({})))?;
    }
    for (name, versions, expected) in tables {
        let trace = sluice.wait_failed(&name_of(&scene, name))?;
        assert!(trace.contains(expected), "{name}: {trace}");
        assert_eq!(newest_version(&lake.place(name))?, versions - 1, "{name}");
    }
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn beside() -> Outcome {
    let (scene, lake) = (Scene::new("beside-spark", 2)?, Lake::new("beside-spark")?);
    let (place, checkpoint) = (lake.place("table"), lake.place("checkpoint"));
    let schema = "number BIGINT";
    let value = |number: i64| json!({"number": number, "writer": "sluice"}).to_string();
    let produce = |numbers: std::ops::Range<i64>| {
        let records: Vec<_> = numbers.map(|number| at((number % 2) as i32, value(number))).collect();
        scene.kafka.produce(&scene.topic, &records)
    };
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({"delta.checkpointInterval": "5", "consumer.override.session.timeout.ms": "6000"});
    sluice.create(&scene.connector, &config(&scene, &place, "number BIGINT, writer STRING", changes))?;
    produce(0..200)?;
    scene.wait_committed(&[100, 100])?;
    let mut produced = 200;
    let (bootstrap, topic) = (scene.kafka.bootstrap(), &scene.topic);
    let request = json!({"place": place, "bootstrap": bootstrap, "topic": topic, "checkpoint": checkpoint,
        "schema": schema, "seconds": 12});
    let spark = Services::spark()?;
    let done: Value = std::thread::scope(|scope| -> Result<Value, Error> {
        let beside = scope.spawn(|| spark.call::<Value>(SPARK, "beside", &request));
        while !beside.is_finished() {
            produce(produced..produced + 100)?;
            produced += 100;
            if produced == 1_000 {
                sluice.kill();
                sluice.restart()?;
            }
            // So that commits of all meet, and not one of ours with all the rest.
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        beside.join().expect("a call does not panic")
    })?;
    scene.kafka.wait_committed(&scene.group(), &scene.topic, &[produced / 2; 2], COMMIT_LIMIT)?;
    assert_eq!(done["errors"], json!([]));
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    // The stream's last run ended somewhere; one more brings the rest.
    let options = json!({"startingOffsets": "earliest"});
    let columns = ["row.number as number", "'stream' as writer"];
    let request = json!({"bootstrap": bootstrap, "topic": topic, "place": place, "checkpoint": checkpoint, "schema": schema,
        "options": options, "columns": columns});
    spark.call::<u64>(SPARK, "stream", &request)?;

    let rows = by_spark(&place)?.rows;
    let appended = done["appends"].as_i64().unwrap_or_default() * 10;
    for (writer, count) in [("sluice", produced), ("stream", produced), ("loop", appended)] {
        let mut numbers: Vec<i64> =
            rows.iter().filter(|row| row["writer"] == json!(writer)).filter_map(|row| row["number"].as_i64()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..count).collect::<Vec<i64>>(), "{writer}");
    }
    Ok(())
}

/// The job and the connector of connectors/iris-delta.json, one after the other on one topic.
fn moved_over() -> Outcome {
    let (scene, lake) = (Scene::new("moved", 3)?, Lake::new("moved")?);
    let schema = "sepal_length FLOAT, sepal_width FLOAT, petal_length FLOAT, petal_width FLOAT, prediction INT, confidence FLOAT";
    let iris = |number: i64| {
        let mut iris = json!({
            "sepal_length": 5.1 + number as f64 / 7.0, "sepal_width": 3, "petal_length": -1.4e-7 * number as f64,
            "petal_width": null, "prediction": number, "confidence": 0.1, "not_asked_for": {"x": [1, number]},
        });
        match number % 10 {
            3 => drop(iris.as_object_mut().expect("an object").remove("confidence")),
            4 => iris["sepal_width"] = json!(16_777_217),
            5 => iris["confidence"] = json!(3.4e38),
            6 => iris["prediction"] = Value::Null,
            _ => {}
        }
        iris.to_string()
    };
    let produced: Vec<_> = (0..300).map(|number| at((number % 3) as i32, iris(number))).collect();
    scene.kafka.produce(&scene.topic, &produced)?;
    let (ours, theirs) = (lake.place("ours"), lake.place("theirs"));
    let checkpoint = lake.place(&unique("checkpoint"));
    let options = json!({"startingOffsets": "earliest", "failOnDataLoss": "false"});
    let request = json!({"bootstrap": scene.kafka.bootstrap(), "topic": scene.topic, "place": theirs, "checkpoint": checkpoint,
        "schema": schema, "options": options});
    Services::spark()?.call::<u64>(SPARK, "stream", &request)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &config(&scene, &ours, schema, json!({})))?;
    scene.wait_committed(&[100; 3])?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let (ours, theirs) = (by_spark(&ours)?, by_spark(&theirs)?);
    assert_eq!(theirs.rows.len(), 300);
    same("the table of the connector and that of the job", &ours, &theirs);
    Ok(())
}

/// Values that are no irises, or not quite.
const ODD: &[&str] = &[
    r#"{"number": 1, "single": 1.5, "name": "right", "at": "2026-01-01T00:00:00Z", "items": [{"x": 1}]}"#,
    "not json",
    r#"{"number": 2"#,
    r#"{"number": 3} "#,
    r#"{"number": "4"}"#,
    r#"{"number": 5.5, "name": "a"}"#,
    r#"{"number": 9223372036854775808}"#,
    r#"{"small": 2147483648, "name": "b"}"#,
    r#"{"single": "6.5"}"#,
    r#"{"single": 7}"#,
    r#"{"single": true, "number": 8}"#,
    r#"{"flag": "true"}"#,
    r#"{"flag": 1}"#,
    r#"{"at": "yesterday", "number": 10}"#,
    r#"{"day": "2026-13-01", "number": 11}"#,
    r#"{"items": {"x": 1}, "number": 12}"#,
    r#"{"unknown": 1}"#,
    "{}",
    "[]",
    r#"{"number": null, "name": null}"#,
    r#"{"name": 9.25}"#,
    r#"{"name": {"a": [1, "b", null], "c": true}}"#,
    r#"{"name": [1, 2]}"#,
    r#"{"items": [{"x": "y"}]}"#,
    r#"{"items": [{"x": 1}, 2]}"#,
    r#"{"nested": {"x": "no", "y": "yes"}}"#,
    r#"{"nested": 1, "number": 13}"#,
];

fn permissive() -> Outcome {
    let (scene, lake) = (Scene::new("permissive", 1)?, Lake::new("permissive")?);
    let place = lake.place("table");
    let schema = "number BIGINT, small INT, single FLOAT, name STRING, flag BOOLEAN, at TIMESTAMP, day DATE, \
        items ARRAY<STRUCT<x: INT>>, nested STRUCT<x: INT, y: STRING>, _corrupt_record STRING";
    let produced: Vec<_> = ODD.iter().map(|text| at(0, *text)).collect();
    scene.kafka.produce(&scene.topic, &produced)?;
    let changes = json!({"value.converter.schema.mode": "PERMISSIVE", "value.converter.schema.corrupt.column": "_corrupt_record"});
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &config(&scene, &place, schema, changes))?;
    scene.wait_committed(&[ODD.len() as i64])?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let theirs: Seen = Services::spark()?.call(SPARK, "parsed", &json!({"lines": ODD, "schema": schema}))?;
    same("bad records", &by_spark(&place)?, &theirs);
    Ok(())
}
