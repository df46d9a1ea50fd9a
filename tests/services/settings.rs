//! Settings that change what is read and what becomes of it: topics by pattern, consumer overrides, given and enveloped
//! schemas, tolerance, tombstones.

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Need, Record, Sluice};

use crate::support::{COMMIT_LIMIT, Scene, at, columns, predictions};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "topics_regex_reads_matching_topics_and_those_that_come_later",
        needs: &[Need::Kafka, Need::Minio],
        run: topics_by_pattern,
    },
    Test {
        name: "consumer_override_of_the_offset_reset_skips_what_was_there",
        needs: &[Need::Kafka, Need::Minio],
        run: consumer_override,
    },
    Test {
        name: "a_given_spark_schema_makes_the_columns_and_leaves_out_what_does_not_fit",
        needs: &[Need::Kafka, Need::Minio],
        run: given_schema,
    },
    Test { name: "enveloped_json_makes_typed_columns", needs: &[Need::Kafka, Need::Minio], run: envelopes },
    Test {
        name: "tolerance_leaves_out_bad_records_and_ignore_leaves_out_tombstones_and_lag_reaches_0",
        needs: &[Need::Kafka, Need::Minio],
        run: tolerance,
    },
];

fn topics_by_pattern() -> Outcome {
    let scene = Scene::new("by-pattern", 1)?;
    let (first, second, other) =
        (format!("{}.first", scene.topic), format!("{}.second", scene.topic), format!("not-{}.first", scene.topic));
    let records = predictions(0..7);
    let produce = |topic: &str, values: &[Value]| -> Outcome {
        scene.kafka.create_topic(topic, 1)?;
        let records: Vec<Record> = values.iter().map(|value| at(0, value.to_string())).collect();
        scene.kafka.produce(topic, &records)?;
        Ok(())
    };
    produce(&first, &records[..2])?;
    produce(&other, &records[6..])?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let config = scene.config(json!({
        "topics": null,
        "topics.regex": format!("{}\\..*", scene.topic),
        "consumer.override.metadata.max.age.ms": "1000",
    }));
    sluice.create(&scene.connector, &config)?;
    sluice.wait_published(&scene.connector, 2)?;
    produce(&second, &records[2..6])?;
    sluice.wait_published(&scene.connector, 6)?;
    scene.kafka.wait_committed(&scene.group(), &first, &[2], COMMIT_LIMIT)?;
    scene.kafka.wait_committed(&scene.group(), &second, &[4], COMMIT_LIMIT)?;
    scene.holds_exactly(&records[..6])?;
    let of_second = scene.objects()?.iter().filter(|key| key.contains(&format!("/{second}/partition=0/"))).count();
    assert_eq!(of_second, 2);
    Ok(())
}

/// Kafka Connect's default is `earliest`, and so is ours; here `latest` is asked for.
fn consumer_override() -> Outcome {
    let scene = Scene::new("latest", 1)?;
    let records = predictions(0..6);
    scene.produce(&records[..2])?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let config = scene.config(json!({"consumer.override.auto.offset.reset": "latest"}));
    sluice.create(&scene.connector, &config)?;
    sluice.wait_log("assigned")?;
    scene.produce(&records[2..])?;
    sluice.wait_published(&scene.connector, 4)?;
    scene.wait_committed(&[6])?;
    scene.holds_exactly(&records[2..])?;
    assert!(scene.objects()?[0].ends_with("+0+0000000002.snappy.parquet"), "{:?}", scene.objects()?);
    Ok(())
}

/// connectors/spark-schema.json names a file of schemas/ and tolerates errors.
fn given_schema() -> Outcome {
    let scene = Scene::new("spark", 1)?;
    let mut records = predictions(0..3);
    records[1]["not_in_the_schema"] = json!(1);
    let without_id = json!({"model_name": "m", "model_version": "1"});
    let mut wrong_type = records[0].clone();
    wrong_type["inputs"]["age"] = json!("old");
    scene.produce(&[&records[..2], &[without_id, wrong_type], &records[2..]].concat())?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config_from("spark-schema", json!({"flush.size": "3"})))?;
    sluice.wait_published(&scene.connector, 3)?;
    scene.wait_committed(&[5])?;
    if let Some(record) = records[1].as_object_mut() {
        record.remove("not_in_the_schema");
    }
    scene.holds_exactly(&records)?;
    assert_eq!(sluice.metric("sluice_rejected_records_total", &scene.connector)?, 2);
    let expected = [
        "id: string not null",
        "model_name: string not null",
        "model_version: string not null",
        "inputs: struct<age: int64, previously_insured: bool, region: string>",
        "outputs: struct<will_buy_insurance: bool, confidence: double>",
    ];
    assert_eq!(columns(&scene, &scene.objects()?[0])?, expected);
    let hidden = scene
        .store
        .list(&scene.bucket, "")?
        .into_iter()
        .filter(|object| object.key.contains("/_sluice/schema-"))
        .count();
    assert_eq!(hidden, 0, "a given schema is not stored");
    Ok(())
}

fn envelopes() -> Outcome {
    let scene = Scene::new("enveloped", 1)?;
    let schema = json!({"type": "struct", "optional": false, "name": "orders", "fields": [
        {"field": "id", "type": "int32", "optional": false},
        {"field": "at", "type": "int64", "optional": true, "name": "org.apache.kafka.connect.data.Timestamp", "version": 1},
        {"field": "day", "type": "int32", "optional": true, "name": "org.apache.kafka.connect.data.Date", "version": 1},
        {"field": "price", "type": "bytes", "optional": true, "name": "org.apache.kafka.connect.data.Decimal", "version": 1,
         "parameters": {"scale": "2", "connect.decimal.precision": "9"}},
        {"field": "rate", "type": "float", "optional": true},
        {"field": "tags", "type": "array", "optional": true, "items": {"type": "string", "optional": false}},
    ]});
    // 12345 as two's complement in base64: 123.45.
    let payloads = [
        json!({"id": 1, "at": 1_777_672_800_123_i64, "day": 20_574, "price": "MDk=", "rate": 0.5, "tags": ["a", "b"]}),
        json!({"id": 2, "at": null, "day": null, "price": null, "rate": null, "tags": null}),
    ];
    let enveloped = payloads.map(|payload| json!({"schema": schema, "payload": payload}));
    scene.produce(&enveloped)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config(json!({})))?;
    sluice.wait_published(&scene.connector, 2)?;
    scene.wait_committed(&[2])?;
    scene.holds_exactly(&[
        json!({"id": 1, "at": "2026-05-01T22:00:00.123000+00:00", "day": "2026-05-01", "price": "123.45", "rate": 0.5,
               "tags": ["a", "b"]}),
        json!({"id": 2}),
    ])?;
    let found = columns(&scene, &scene.objects()?[0])?;
    let types: Vec<&str> = found.iter().map(|column| column.split_once(": ").map_or("", |(_, kind)| kind)).collect();
    assert_eq!(types[..1], ["int32 not null"]);
    assert!(types[1].starts_with("timestamp[ms, tz=UTC]"), "{found:?}");
    assert_eq!(types[2], "date32[day]");
    assert!(types[3].starts_with("decimal128("), "{found:?}");
    assert_eq!(types[4], "float");
    assert!(types[5].starts_with("list<"), "{found:?}");
    Ok(())
}

/// The topic ends with records that are left out, so nothing is open when the group must still reach the end.
fn tolerance() -> Outcome {
    let scene = Scene::new("tolerant", 1)?;
    let good = predictions(0..4);
    let bad = |value: &str| at(0, value);
    let mut changed = good[0].clone();
    changed["id"] = json!({"now": "an object"});
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    let fine = |value: &Value| at(0, value.to_string());
    let records = [
        fine(&good[0]),
        fine(&good[1]),
        bad("{\"id\": not JSON"),
        fine(&good[2]),
        fine(&changed),
        bad(&format!("{{\"id\": {deep}}}")),
        bad("7"),
        Record { value: None, ..at(0, "") },
        bad(""),
        fine(&good[3]),
        Record { value: None, ..at(0, "") },
        bad("{"),
    ];
    scene.kafka.produce(&scene.topic, &records)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let config = scene.config(json!({"errors.tolerance": "all", "behavior.on.null.values": "ignore"}));
    sluice.create(&scene.connector, &config)?;
    sluice.wait_published(&scene.connector, 4)?;
    scene.wait_committed(&[12])?;
    scene.holds_exactly(&good)?;
    // Records without a value, an empty one among them, are not bad.
    assert_eq!(sluice.metric("sluice_rejected_records_total", &scene.connector)?, 5);
    sluice.wait("lag is 0", |sluice| {
        let lag = sluice.metric("kafka_consumer_consumer_fetch_manager_metrics_records_lag", &scene.connector)?;
        Ok((lag == 0).then_some(()))
    })?;
    sluice.wait_state(&scene.connector, "RUNNING", 1)?;
    Ok(())
}
