//! Tables in directories, between sluice and programs that nobody here wrote: Spark, DuckDB, delta-rs, and beside them a
//! replay of the log. What one writes all read alike.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Need, Record, Services, Sluice, unique};

use crate::support::{COMMIT_LIMIT, Scene, at, example};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "spark_duckdb_and_delta_rs_read_every_version_alike_over_our_checkpoints_too",
        needs: &[Need::Kafka, Need::Minio, Need::Spark],
        run: read_alike,
    },
    Test {
        name: "a_table_with_type_widening_takes_wider_columns_of_ours_and_of_spark",
        needs: &[Need::Kafka, Need::Minio, Need::Spark],
        run: type_widening,
    },
    Test {
        name: "tables_that_delta_rs_made_are_appended_to",
        needs: &[Need::Kafka, Need::Minio, Need::Spark],
        run: tables_of_delta_rs,
    },
    Test {
        name: "delta_rs_appends_beside_us_and_every_record_is_there_once",
        needs: &[Need::Kafka, Need::Minio],
        run: beside_delta_rs,
    },
];

/// For [`tests::Spark::call`].
pub(crate) const SPARK: &str = concat!(include_str!("../src/py/plain.py"), include_str!("py/spark.py"));

/// For [`tests::Readers::call`].
const PEERS: &str =
    concat!(include_str!("../src/py/plain.py"), include_str!("../src/py/delta_log.py"), include_str!("py/peers.py"));

/// A table in a directory of its own, which goes when dropped.
pub(crate) struct Lake {
    directory: PathBuf,
}

/// What a reader made of a table: its columns and their types, and its rows in the order of their text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Seen {
    pub(crate) columns: Value,
    pub(crate) rows: Vec<Value>,
}

impl Seen {
    /// The same rows in a table that has these of the columns.
    pub(crate) fn with_columns(&self, columns: &Value) -> Seen {
        Seen { columns: columns.clone(), rows: self.rows.iter().map(|row| with_fields(row, columns)).collect() }
    }
}

fn with_fields(value: &Value, columns: &Value) -> Value {
    match (value, columns) {
        (Value::Object(fields), Value::Object(columns)) => {
            let field = |(name, column): (&String, &Value)| {
                (name.clone(), with_fields(fields.get(name).unwrap_or(&Value::Null), column))
            };
            columns.iter().map(field).collect()
        }
        (Value::Array(items), Value::Array(columns)) => {
            items.iter().map(|item| with_fields(item, &columns[0])).collect()
        }
        (_, _) => value.clone(),
    }
}

#[derive(Debug, Deserialize)]
struct Newest {
    version: u64,
    checkpoint: Option<u64>,
    lacking: Vec<u64>,
}

impl Lake {
    pub(crate) fn new(stem: &str) -> Result<Lake, Error> {
        let directory = std::env::temp_dir().join(unique(stem));
        let made = std::fs::create_dir_all(&directory);
        made.map_err(|error| Error::Call { what: "mkdir".to_owned(), why: error.to_string() })?;
        Ok(Lake { directory })
    }

    /// The place of a table in it.
    pub(crate) fn place(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

impl Drop for Lake {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn peers<T: serde::de::DeserializeOwned>(action: &str, request: Value) -> Result<T, Error> {
    Services::readers()?.call(PEERS, action, &request)
}

/// The newest version of a table, by its log.
pub(crate) fn newest_version(place: &str) -> Result<u64, Error> {
    Ok(peers::<Newest>("newest", json!({"place": place}))?.version)
}

/// The table as all readers see it, which is the same for all.
pub(crate) fn seen_by_all(place: &str, version: Option<u64>) -> Result<Seen, Error> {
    let request = json!({"place": place, "version": version});
    let by_log: Seen = peers("read_log", request.clone())?;
    let readers = [
        ("delta-rs", peers("read_delta_rs", request.clone())?),
        ("Spark", Services::spark()?.call(SPARK, "read", &request)?),
        ("DuckDB", Services::spark()?.call(SPARK, "read_duckdb", &request)?),
    ];
    for (reader, seen) in readers {
        same(&format!("{reader} and the log at {version:?} of {place}"), &seen, &by_log);
    }
    Ok(by_log)
}

/// Fails with the rows that only one of them has.
pub(crate) fn same(what: &str, left: &Seen, right: &Seen) {
    assert_eq!(left.columns, right.columns, "{what}");
    let only = |one: &Seen, other: &Seen| -> Vec<String> {
        one.rows.iter().filter(|row| !other.rows.contains(row)).take(10).map(Value::to_string).collect()
    };
    let (left_only, right_only) = (only(left, right), only(right, left));
    assert!(
        left_only.is_empty() && right_only.is_empty(),
        "{what}: only left:\n{}\nonly right:\n{}",
        left_only.join("\n"),
        right_only.join("\n")
    );
    assert_eq!(left.rows.len(), right.rows.len(), "{what}");
}

/// The connector of connectors/iris-delta.json for the topic of a scene and another table; commits come quickly.
pub(crate) fn config(scene: &Scene, place: &str, schema: &str, changes: Value) -> Value {
    let mut config = example("iris-delta")["config"].clone();
    config.as_object_mut().expect("a config").remove("checkpointLocation");
    let own =
        json!({"subscribe": scene.topic, "path": place, "value.converter.schema": schema, "commit.interval.ms": "200"});
    for (name, value) in [own, changes].iter().filter_map(Value::as_object).flatten() {
        config[name] = value.clone();
    }
    config
}

/// Records with values of every type, numbered by `id`.
pub(crate) fn values(numbers: std::ops::Range<i64>) -> Vec<Value> {
    let kinds = ["plain", "a b", "c/d=e%", "ü"];
    let value = |number: i64| {
        let items: Vec<Value> =
            (0..number % 3).map(|item| json!({"x": format!("i{item}"), "y": number * item})).collect();
        let is_sparse = number % 7 == 5;
        json!({
            "id": number,
            "name": format!("nämé {number}"),
            "day": format!("2026-01-{:02}", 1 + number % 3),
            "kind": kinds[number as usize % kinds.len()],
            "amount": if is_sparse { Value::Null } else { json!((number * 37 % 10_000) as f64 / 4.0) },
            "at": format!("2026-03-{:02}T10:{:02}:30.{:06}Z", 1 + number % 28, number % 60, number * 137 % 1_000_000),
            "local": format!("2026-04-{:02}T23:59:{:02}.5", 1 + number % 28, number % 60),
            "tiny": number % 100,
            "small": number % 30_000 - 7,
            "single": number as f64 / 8.0,
            "score": if is_sparse { Value::Null } else { json!(number as f64 * 1e10 + 0.125) },
            "flag": number % 2 == 0,
            "nested": {"a": number % 11, "items": items, "b": format!("b{number}")},
            "tags": {"k": number % 5, format!("t{}", number % 2): null},
            "note": format!("{}{number}", "long ".repeat(20)),
        })
    };
    numbers.map(value).collect()
}

pub(crate) fn records(values: &[Value], partitions: i32) -> Vec<Record> {
    (0..).zip(values).map(|(number, value): (i32, _)| at(number % partitions, value.to_string())).collect()
}

/// What Spark makes of the same values with the same schema.
pub(crate) fn parsed_by_spark(values: &[Value], schema: &str) -> Result<Seen, Error> {
    let lines: Vec<String> = values.iter().map(Value::to_string).collect();
    Services::spark()?.call(SPARK, "parsed", &json!({"lines": lines, "schema": schema}))
}

fn ids(rows: &[Value]) -> Vec<i64> {
    let mut ids: Vec<i64> = rows.iter().filter_map(|row| row["id"].as_i64()).collect();
    ids.sort_unstable();
    ids
}

/// Columns of all tables that somebody else makes.
pub(crate) const EVERY: &str = "id BIGINT, name STRING, day DATE, kind STRING, amount DECIMAL(12,3), at TIMESTAMP, \
    local TIMESTAMP_NTZ, tiny TINYINT, small SMALLINT, single FLOAT, score DOUBLE, flag BOOLEAN, note STRING, \
    nested STRUCT<a: INT, items: ARRAY<STRUCT<x: STRING, y: BIGINT>>>, tags MAP<STRING, INT>";

const NARROW: &str = "id BIGINT, day DATE, kind STRING, amount DECIMAL(10,2), at TIMESTAMP, local TIMESTAMP_NTZ, tiny TINYINT, \
    small SMALLINT, single FLOAT, score DOUBLE, flag BOOLEAN, nested STRUCT<a: INT, items: ARRAY<STRUCT<x: STRING, y: BIGINT>>>, \
    tags MAP<STRING, INT>";
const WIDE: &str = "note STRING, id BIGINT, day DATE, kind STRING, amount DECIMAL(10,2), at TIMESTAMP, local TIMESTAMP_NTZ, \
    tiny TINYINT, small SMALLINT, single FLOAT, score DOUBLE, flag BOOLEAN, \
    nested STRUCT<a: INT, b: STRING, items: ARRAY<STRUCT<x: STRING, y: BIGINT>>>, tags MAP<STRING, INT>";

fn read_alike() -> Outcome {
    let scene = Scene::new("alike", 2)?;
    let lake = Lake::new("alike")?;
    let place = lake.place("table");
    let changes = json!({"partitionBy": "day,kind", "delta.checkpointInterval": "4"});
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &config(&scene, &place, NARROW, changes.clone()))?;
    let each = 30;
    let mut versions = Vec::new();
    for round in 1..=8 {
        if round == 6 {
            let wider = config(&scene, &place, WIDE, changes.clone());
            sluice.put(&format!("/connectors/{}/config", scene.connector), Some(&wider))?;
        }
        scene.kafka.produce(&scene.topic, &records(&values((round - 1) * each..round * each), 2))?;
        scene.wait_committed(&[round * each / 2; 2])?;
        let newest: Newest = peers("newest", json!({"place": place}))?;
        versions.push((newest.version, round * each));
    }
    let newest = sluice.wait("a checkpoint is there", |_| {
        let newest: Newest = peers("newest", json!({"place": place}))?;
        Ok(newest.checkpoint.is_some_and(|at| at > versions[5].0 - 4).then_some(newest))
    })?;
    assert_eq!(newest.lacking, Vec::<u64>::new());
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());

    let (mut all, mut old) = (Vec::new(), Vec::new());
    for (version, count) in [versions[0], versions[4], versions[7]] {
        let seen = seen_by_all(&place, Some(version))?;
        assert_eq!(ids(&seen.rows), (0..count).collect::<Vec<i64>>(), "version {version}");
        old = std::mem::replace(&mut all, seen.rows);
    }
    let columns = |rows: &[Value]| rows[0].as_object().map_or(0, serde_json::Map::len);
    assert_eq!((columns(&old), columns(&all)), (13, 14));

    // Spark makes the same of the same text.
    let spark = Services::spark()?;
    let expected = parsed_by_spark(&values(5 * each..8 * each), WIDE)?;
    let new: Vec<Value> = all.iter().filter(|row| row["id"].as_i64() >= Some(5 * each)).cloned().collect();
    let new = Seen { columns: seen_by_all(&place, None)?.columns, rows: new };
    same("what Spark makes of the texts and the table", &expected, &new);

    // Over the checkpoint alone.
    let copy = lake.place("copy");
    let lacks: u64 = peers("copy_without_old_commits", json!({"place": place, "copy": copy}))?;
    assert!(lacks >= 4, "{lacks} commits before the checkpoint");
    for action in ["read", "read_duckdb"] {
        let seen: Seen = spark.call(SPARK, action, &json!({"place": copy, "version": null}))?;
        assert_eq!(seen.rows, all, "{action}");
    }
    assert_eq!(peers::<Seen>("read_delta_rs", json!({"place": copy, "version": null}))?.rows, all);

    history_is_whole(&place, newest.version)?;
    statistics_skip_only_files_without_hits(&place)
}

fn history_is_whole(place: &str, newest: u64) -> Outcome {
    let history: Vec<Value> = Services::spark()?.call(SPARK, "history", &json!({"place": place}))?;
    let versions: Vec<Option<u64>> = history.iter().map(|entry| entry["version"].as_u64()).collect();
    assert_eq!(versions, (0..=newest).map(Some).collect::<Vec<_>>());
    for entry in &history {
        let engine = entry["engineInfo"].as_str().unwrap_or_default();
        assert!(engine.starts_with("sluice/"), "{entry}");
    }
    Ok(())
}

fn statistics_skip_only_files_without_hits(place: &str) -> Outcome {
    let conditions = [
        "id = 17",
        "id > 230",
        "amount >= 2000.25",
        "amount is null and id < 40",
        "at < timestamp'2026-03-02 00:00:00Z'",
        "local >= timestamp_ntz'2026-04-28 00:00:00'",
        "day = date'2026-01-02' and id < 50",
        "kind = 'c/d=e%' and tiny = 2",
        "kind in ('ü', 'a b') and score > 2e12",
        "score is null",
        "single = 1.125",
        "nested.a = 10 and small < 60",
        "nested.b = 'b239'",
        "note is not null and flag",
        "note like 'long long%7'",
    ];
    let request = json!({"place": place, "conditions": conditions});
    let answers: Vec<Value> = Services::spark()?.call(SPARK, "skipping", &request)?;
    let (mut skipped, mut hits) = (0, 0);
    for answer in &answers {
        assert_eq!(answer["skipping"]["rows"], answer["scanning"]["rows"], "{}", answer["condition"]);
        let files = |way: &str| answer[way]["files"].as_u64().unwrap_or_default();
        assert!(files("skipping") <= files("scanning") && files("scanning") > 0, "{answer}");
        skipped += u64::from(files("skipping") < files("scanning"));
        hits += u64::from(answer["scanning"]["rows"] != json!([]));
    }
    assert_eq!(hits, conditions.len() as u64, "{answers:?}");
    assert!(skipped >= 10, "statistics help with {skipped} of {} conditions", conditions.len());
    Ok(())
}

/// Tables of delta-rs with columns in an order of its own: by name, where the schema of the connector for it is.
const OF_DELTA_RS: &[(&str, &str, &str)] = &[
    ("partitioned", "name STRING, kind STRING, small SMALLINT, day DATE, id BIGINT", "day,small,kind"),
    (
        "nested",
        "tags MAP<STRING, INT>, id BIGINT, nested STRUCT<a: INT, items: ARRAY<STRUCT<x: STRING, y: BIGINT>>>",
        "",
    ),
    (
        "types",
        "flag BOOLEAN, day DATE, score DOUBLE, single FLOAT, tiny TINYINT, local TIMESTAMP_NTZ, at TIMESTAMP, \
         amount DECIMAL(12,3), id BIGINT",
        "",
    ),
    ("not_null", "name STRING NOT NULL, id BIGINT NOT NULL, note STRING", ""),
    ("checkpointed", "name STRING, id BIGINT", ""),
];

fn tables_of_delta_rs() -> Outcome {
    let (scene, lake) = (Scene::new("made-by-delta-rs", 2)?, Lake::new("made-by-delta-rs")?);
    let ours = values(1_000..1_040);
    scene.kafka.produce(&scene.topic, &records(&ours, 2))?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let connector = |name: &str| format!("{}-{name}", scene.connector);
    let mut before = Vec::new();
    for (name, schema, partition_by) in OF_DELTA_RS {
        let place = lake.place(name);
        peers::<Value>("make", json!({"place": place, "kind": name}))?;
        before.push(peers::<Seen>("read_delta_rs", json!({"place": place, "version": null}))?);
        let changes = if partition_by.is_empty() { json!({}) } else { json!({"partitionBy": partition_by}) };
        sluice.create(&connector(name), &config(&scene, &place, schema, changes))?;
    }
    let expected = parsed_by_spark(&ours, EVERY)?;
    for ((name, _, _), before) in OF_DELTA_RS.iter().zip(before) {
        let group = format!("connect-{}", connector(name));
        scene.kafka.wait_committed(&group, &scene.topic, &[20, 20], COMMIT_LIMIT)?;
        let after = seen_by_all(&lake.place(name), None)?;
        assert_eq!(after.columns, before.columns, "{name}");
        let (new, old): (Vec<Value>, Vec<Value>) =
            after.rows.into_iter().partition(|row| row["id"].as_i64() >= Some(1_000));
        assert_eq!(old, before.rows, "{name}");
        let new = Seen { columns: after.columns.clone(), rows: new };
        same(name, &new, &expected.with_columns(&after.columns));
    }
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn beside_delta_rs() -> Outcome {
    let (scene, lake) = (Scene::new("beside-delta-rs", 2)?, Lake::new("beside-delta-rs")?);
    let place = lake.place("table");
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({"delta.checkpointInterval": "5", "consumer.override.session.timeout.ms": "6000"});
    sluice.create(&scene.connector, &config(&scene, &place, "number BIGINT, writer STRING", changes))?;
    let mut produced = 0;
    let mut produce = |count: i64| -> Result<i64, Error> {
        let value = |number: i64| json!({"number": number, "writer": "sluice"}).to_string();
        let records: Vec<_> =
            (produced..produced + count).map(|number| at((number % 2) as i32, value(number))).collect();
        produced += count;
        scene.kafka.produce(&scene.topic, &records).map(|_| produced)
    };
    let mut end = produce(100)?;
    scene.wait_committed(&[50, 50])?;
    let limit = std::time::Duration::from_secs(120);
    let request = json!({"place": place, "appends": 40});
    let beside = Services::readers()?.begin(PEERS, "append_often", &request, limit)?;
    for round in 0..12 {
        end = produce(100)?;
        if round == 6 {
            sluice.kill();
            sluice.restart()?;
        }
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    let appended: i64 = beside.finish()?;
    scene.wait_committed(&[end / 2; 2])?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let rows = peers::<Seen>("read_log", json!({"place": place, "version": null}))?.rows;
    for (writer, count) in [("sluice", end), ("delta-rs", appended)] {
        let of_writer = rows.iter().filter(|row| row["writer"] == json!(writer));
        let mut numbers: Vec<i64> = of_writer.filter_map(|row| row["number"].as_i64()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..count).collect::<Vec<i64>>(), "{writer}");
    }
    let newest: Newest = peers("newest", json!({"place": place}))?;
    assert_eq!(newest.lacking, Vec::<u64>::new());
    Ok(())
}

fn type_widening() -> Outcome {
    let scene = Scene::new("widening", 2)?;
    let lake = Lake::new("widening")?;
    let place = lake.place("table");
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let with = |schema: &str| config(&scene, &place, schema, json!({"delta.enableTypeWidening": "true"}));
    let narrow = "id INT, small SMALLINT, single FLOAT, amount DECIMAL(8,2), items ARRAY<INT>";
    let wide = "amount DECIMAL(12,4), items ARRAY<BIGINT>, id BIGINT, small SMALLINT, single DOUBLE";
    let value =
        |id: i64, single: f64| json!({"id": id, "small": id % 9, "single": single, "amount": 2.25, "items": [id]});
    let large = 1i64 << 40;
    sluice.create(&scene.connector, &with(narrow))?;
    scene.kafka.produce(&scene.topic, &records(&[value(1, 0.5), value(2, 0.25)], 2))?;
    scene.wait_committed(&[1, 1])?;
    sluice.put(&format!("/connectors/{}/config", scene.connector), Some(&with(wide)))?;
    scene.kafka.produce(&scene.topic, &records(&[value(large, 0.1), value(large + 1, 1e300)], 2))?;
    scene.wait_committed(&[2, 2])?;

    // Spark widens a column; rows of the old type follow.
    let spark = Services::spark()?;
    let statement = format!("ALTER TABLE delta.`{place}` CHANGE COLUMN small TYPE INT");
    spark.call::<Value>(SPARK, "sql", &json!({"statements": [statement]}))?;
    scene.kafka.produce(&scene.topic, &records(&[value(5, 0.5), value(6, 0.5)], 2))?;
    scene.wait_committed(&[3, 3])?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let request = json!({"place": place, "version": null});
    let seen: Seen = spark.call(SPARK, "read", &request)?;
    assert_eq!(ids(&seen.rows), [1, 2, 5, 6, large, large + 1]);
    let found = |id: i64| seen.rows.iter().find(|row| row["id"] == json!(id)).cloned().unwrap_or_default();
    assert_eq!((&found(1)["single"], &found(large)["single"]), (&json!(0.5), &json!(0.1)));
    assert_eq!((&found(large)["items"], &found(large)["amount"]), (&json!([large]), &found(1)["amount"]));
    let by_duckdb: Seen = spark.call(SPARK, "read_duckdb", &request)?;
    same("Spark and DuckDB", &seen, &by_duckdb);
    Ok(())
}
