//! Files of keys and headers, tombstones, and columns of Kafka: written from real topics, killed on the way, and read back
//! value by value by readers that no one here wrote.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Need, Record, Row, Services, Sluice};

use crate::support::{Scene, at, is_same, predictions, same_record};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "columns_of_kafka_are_read_back_from_parquet_and_json_lines",
        needs: &[Need::Kafka, Need::Minio],
        run: kafka_columns,
    },
    Test {
        name: "keys_and_headers_lie_beside_their_values_in_every_format_after_a_kill",
        needs: &[Need::Kafka, Need::Minio],
        run: trios,
    },
    Test {
        name: "keys_of_tombstones_are_written_to_a_path_of_their_own",
        needs: &[Need::Kafka, Need::Minio],
        run: tombstones,
    },
    Test {
        name: "bloom_filters_and_page_indexes_are_seen_by_other_readers",
        needs: &[Need::Kafka, Need::Minio],
        run: parquet_metadata,
    },
];

const SCRIPT: &str = concat!(include_str!("../src/py/store.py"), include_str!("py/files.py"));

/// Rows of all objects whose names end in `suffix`, whatever their format is.
fn read(scene: &Scene, suffix: &str) -> Result<Vec<Row>, Error> {
    if suffix.ends_with(".parquet") {
        return Ok(scene.rows()?.into_iter().filter(|row| row.object.ends_with(suffix)).collect());
    }
    let action = if suffix.ends_with(".avro") { "read_avro_of" } else { "read_json_lines" };
    let request = scene.store.request(json!({"bucket": scene.bucket, "suffix": suffix}));
    Services::readers()?.call(SCRIPT, action, &request)
}

/// What a row's place is called without view and format: the name of its object up to the offset, and its number.
fn place(row: &Row) -> (String, u64) {
    let name = row.object.rfind('+').expect("names hold an offset");
    let dot = row.object[name..].find('.').map_or(row.object.len(), |dot| name + dot);
    (row.object[..dot].to_owned(), row.position)
}

/// Records `numbers` with a key and two headers.
fn records(numbers: std::ops::Range<usize>) -> Vec<Record> {
    let record = |(number, value): (usize, Value)| Record {
        key: Some(format!("key-{number}").into_bytes()),
        headers: vec![("trace".to_owned(), format!("t-{number}")), ("attempt".to_owned(), number.to_string())],
        timestamp_ms: Some(1_700_000_000_000 + number as i64),
        ..at(0, value.to_string())
    };
    numbers.clone().zip(predictions(numbers)).map(record).collect()
}

fn headers(number: usize) -> Value {
    json!([{"key": "trace", "value": format!("t-{number}")}, {"key": "attempt", "value": number.to_string()}])
}

fn kafka_columns() -> Outcome {
    for (format, suffix) in [("parquet", ".parquet"), ("json", ".json")] {
        let scene = Scene::new("kafka-columns", 1)?;
        let mut produced = records(0..30);
        produced[7].headers.clear();
        produced[8].key = None;
        scene.kafka.produce(&scene.topic, &produced)?;
        let sluice = Sluice::worker(scene.kafka, scene.store)?;
        let changes = json!({
            "format.class": format, "flush.size": "20",
            "kafka.columns": "topic,partition,offset,timestamp,timestampType,key,headers", "kafka.columns.prefix": "k_",
        });
        sluice.create(&scene.connector, &scene.config(changes))?;
        sluice.wait_written(&scene.connector, 30)?;
        assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
        let rows = read(&scene, suffix)?;
        assert_eq!(rows.len(), 30);
        for (number, (row, value)) in rows.iter().zip(predictions(0..30)).enumerate() {
            let mut read = row.value.clone();
            let fields = read.as_object_mut().expect("a row has fields");
            let mut column = |name: &str| fields.shift_remove(&format!("k_{name}")).unwrap_or_else(|| panic!("{name}"));
            let (key, attempt, time) = (format!("key-{number}"), number.to_string(), 1_700_000_000_000 + number as i64);
            let is_json = format == "json";
            let bytes = |text: &str| if is_json { json!(base64(text)) } else { json!(text) };
            assert_eq!(column("topic"), json!(scene.topic));
            assert_eq!(
                (column("partition"), column("offset"), column("timestampType")),
                (json!(0), json!(number), json!(0))
            );
            let shown = column("timestamp");
            assert!(
                if is_json {
                    shown == json!(time)
                } else {
                    shown.as_str().is_some_and(|text| text.starts_with("2023-11-14T22:13:20"))
                },
                "{shown}"
            );
            assert_eq!(column("key"), if number == 8 { Value::Null } else { bytes(&key) });
            let trace = format!("t-{number}");
            let expected =
                json!([{"key": "trace", "value": bytes(&trace)}, {"key": "attempt", "value": bytes(&attempt)}]);
            assert_eq!(column("headers"), if number == 7 { Value::Null } else { expected });
            same_record(&value, &read);
        }
    }
    Ok(())
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// One way to write trios: formats of values, keys and headers, and how names end.
struct Formats {
    values: (&'static str, &'static str),
    keys: (&'static str, &'static str),
    headers: (&'static str, &'static str),
}

fn trios() -> Outcome {
    let avro = "io.confluent.connect.s3.format.avro.AvroFormat";
    for formats in [
        Formats {
            values: ("parquet", ".snappy.parquet"),
            keys: (avro, ".keys.avro"),
            headers: ("json", ".headers.json"),
        },
        Formats {
            values: ("json", ".json"),
            keys: ("parquet", ".keys.snappy.parquet"),
            headers: (avro, ".headers.avro"),
        },
        Formats {
            values: (avro, ".avro"),
            keys: ("json", ".keys.json"),
            headers: ("parquet", ".headers.snappy.parquet"),
        },
    ] {
        let scene = Scene::new("trios", 1)?;
        scene.kafka.produce(&scene.topic, &records(0..300))?;
        let changes = json!({
            "format.class": formats.values.0, "flush.size": "7",
            "store.kafka.keys": "true", "keys.format.class": formats.keys.0,
            "store.kafka.headers": "true", "headers.format.class": formats.headers.0,
        });
        let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
        sluice.create(&scene.connector, &scene.config(changes))?;
        sluice.wait_published(&scene.connector, 20)?;
        sluice.kill();
        sluice.restart()?;
        scene.kafka.produce(&scene.topic, &records(300..350))?;
        scene.wait_committed(&[350])?;
        assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
        is_whole(&scene, &formats)?;
    }
    Ok(())
}

/// Each of the 350 records is in one file of values, and at the same place in those of keys and headers beside it.
fn is_whole(scene: &Scene, formats: &Formats) -> Outcome {
    let is_view = |row: &Row| row.object.contains(".keys.") || row.object.contains(".headers.");
    let values: BTreeMap<_, Value> = read(scene, formats.values.1)?
        .into_iter()
        .filter(|row| !is_view(row))
        .map(|row| (place(&row), row.value))
        .collect();
    let by_place = |suffix| -> Result<BTreeMap<_, Value>, Error> {
        Ok(read(scene, suffix)?.into_iter().map(|row| (place(&row), row.value)).collect())
    };
    let (keys, headers_of) = (by_place(formats.keys.1)?, by_place(formats.headers.1)?);
    let produced = predictions(0..350);
    let mut seen = BTreeSet::new();
    for (place, value) in &values {
        let (stem, row) = place;
        let first: usize = stem.rsplit('+').next().unwrap_or_default().parse()?;
        let number = first + usize::try_from(*row)?;
        assert!(seen.insert(number), "record {number} is there twice");
        assert!(is_same(&produced[number], value), "{place:?}: {value}");
        let key = &keys[place];
        assert_eq!(key.get("key").unwrap_or(key), &json!(format!("key-{number}")), "{place:?}");
        let all = &headers_of[place];
        assert_eq!(all.get("headers").unwrap_or(all), &headers(number), "{place:?}");
    }
    assert_eq!((seen.len(), keys.len(), headers_of.len()), (350, 350, 350));
    Ok(())
}

fn tombstones() -> Outcome {
    let scene = Scene::new("tombstones", 1)?;
    let mut produced = records(0..12);
    for record in &mut produced[4..6] {
        record.value = None;
    }
    produced[9].value = None;
    scene.kafka.produce(&scene.topic, &produced)?;
    let changes = json!({
        "format.class": "parquet", "flush.size": "6",
        "behavior.on.null.values": "write", "store.kafka.keys": "true", "keys.format.class": "json",
    });
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config(changes))?;
    sluice.wait_published(&scene.connector, 6)?;
    sluice.kill();
    sluice.restart()?;
    scene.wait_committed(&[12])?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let keys: Vec<(String, Value)> =
        read(&scene, ".keys.json")?.into_iter().map(|row| (row.object, row.value)).collect();
    let dead: Vec<_> = keys.iter().filter(|(object, _)| object.contains("/tombstone/")).cloned().collect();
    let base = format!("my-model/serving/{0}/tombstone/{0}+0+000000000", scene.topic);
    let expected =
        [(4, "key-4"), (4, "key-5"), (9, "key-9")].map(|(first, key)| (format!("{base}{first}.keys.json"), json!(key)));
    assert_eq!(dead, expected);
    assert_eq!(keys.len(), 12);
    let values = scene.rows()?;
    assert!(values.len() == 9 && values.iter().all(|row| row.object.contains("/partition=0/")), "{values:?}");
    let left: Vec<Value> = predictions(0..12)
        .into_iter()
        .enumerate()
        .filter(|(number, _)| ![4, 5, 9].contains(number))
        .map(|(_, value)| value)
        .collect();
    scene.holds_exactly(&left)
}

fn parquet_metadata() -> Outcome {
    let scene = Scene::new("parquet-metadata", 1)?;
    let produced: Vec<Value> = (0..25_000).map(|number| json!({"id": format!("id-{number}"), "n": number})).collect();
    scene.produce(&produced)?;
    let changes = json!({
        "flush.size": "25000", "rotate.schedule.interval.ms": null, "parquet.bloom.filter.columns": "id",
        "parquet.codec": "zstd", "parquet.compression.level": "3",
    });
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config(changes))?;
    sluice.wait_published(&scene.connector, 25_000)?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let objects = scene.objects()?;
    let request = scene.store.request(json!({"bucket": scene.bucket, "key": objects[0]}));
    let seen: Value = Services::readers()?.call(SCRIPT, "parquet_indexes", &request)?;
    assert_eq!(seen["id"], json!({"bloom": true, "statistics": true, "column_index": true, "offset_index": true}));
    assert_eq!(seen["n"], json!({"bloom": false, "statistics": true, "column_index": true, "offset_index": true}));
    // DuckDB asks the filter: no row group can hold the first value, one holds the second.
    assert_eq!(seen["excluded"], json!([true, false]));
    Ok(())
}
