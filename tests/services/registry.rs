//! Records whose schemas are in a real registry, written by serializers that no one here wrote.

use std::time::Duration;

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Need, Registry, Services, Sluice};

use crate::support::{Scene, at, is_same};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "every_type_of_avro_arrives_in_parquet_value_by_value",
        needs: &[Need::Kafka, Need::Minio, Need::Registry],
        run: every_avro_type,
    },
    Test {
        name: "protobuf_messages_arrive_in_parquet_value_by_value",
        needs: &[Need::Kafka, Need::Minio, Need::Registry],
        run: protobuf,
    },
    Test {
        name: "json_with_a_registered_schema_arrives_in_parquet_value_by_value",
        needs: &[Need::Kafka, Need::Minio, Need::Registry],
        run: json_schema,
    },
    Test {
        name: "a_registry_that_does_not_answer_is_waited_for_and_an_unknown_id_is_left_out",
        needs: &[Need::Kafka, Need::Minio, Need::OwnRegistry],
        run: outage,
    },
];

const SCRIPT: &str = include_str!("py/registry.py");

const LIMIT: Duration = Duration::from_secs(120);

/// Runs one of the script's producers with the scene's names.
pub(crate) fn produce<T: serde::de::DeserializeOwned>(
    scene: &Scene,
    registry: &Registry,
    action: &str,
    more: Value,
) -> Result<T, Error> {
    let mut request = json!({"bootstrap": scene.kafka.bootstrap(), "registry": registry.url(), "topic": scene.topic});
    for (name, value) in more.as_object().into_iter().flatten() {
        request[name] = value.clone();
    }
    Services::readers()?.begin(SCRIPT, action, &request, LIMIT)?.finish()
}

fn config(scene: &Scene, registry: &Registry, converter: &str, changes: Value) -> Value {
    let mut config = scene.config(json!({
        "value.converter": converter,
        "value.converter.schema.registry.url": registry.url(),
        "value.converter.schemas.enable": null,
        "flush.size": "1000",
    }));
    for (key, value) in changes.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    config
}

/// Writes all that is in the topic and compares it with `expected` field by field, in order.
fn written_as(scene: &Scene, config: &Value, expected: &[Value]) -> Outcome {
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, config)?;
    sluice.wait_written(&scene.connector, expected.len() as u64)?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let rows = scene.rows()?;
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(expected) {
        assert!(is_same(expected, &row.value), "produced {expected}\n    read {}", row.value);
    }
    Ok(())
}

fn every_avro_type() -> Outcome {
    let scene = Scene::new("avro", 1)?;
    let registry = Services::registry()?;
    let expected: Vec<Value> = produce(&scene, registry, "produce_every_avro", json!({"start": 0, "end": 300}))?;
    written_as(&scene, &config(&scene, registry, "io.confluent.connect.avro.AvroConverter", json!({})), &expected)
}

fn protobuf() -> Outcome {
    let scene = Scene::new("protobuf", 1)?;
    let registry = Services::registry()?;
    let expected: Vec<Value> = produce(&scene, registry, "produce_protobuf", json!({"count": 200}))?;
    let config = config(&scene, registry, "io.confluent.connect.protobuf.ProtobufConverter", json!({}));
    written_as(&scene, &config, &expected)
}

fn json_schema() -> Outcome {
    let scene = Scene::new("json-schema", 1)?;
    let registry = Services::registry()?;
    let records = crate::support::predictions(0..100);
    let text = include_str!("../../schemas/prediction.schema.json");
    let _: Value = produce(&scene, registry, "produce_json_schema", json!({"text": text, "records": records}))?;
    let config = config(&scene, registry, "io.confluent.connect.json.JsonSchemaConverter", json!({}));
    written_as(&scene, &config, &records)
}

fn outage() -> Outcome {
    let scene = Scene::new("registry-outage", 1)?;
    let mut registry = Registry::start()?;
    let mut expected: Vec<Value> = produce(&scene, &registry, "produce_every_avro", json!({"start": 0, "end": 10}))?;
    let unknown = [&[0, 0, 9, 9, 9][..], b"who knows"].concat();
    scene.kafka.produce(&scene.topic, &[at(0, unknown), at(0, b"no magic".to_vec())])?;
    let more: Vec<Value> = produce(&scene, &registry, "produce_every_avro", json!({"start": 10, "end": 15}))?;
    expected.extend(more);
    registry.pause();
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let changes = json!({
        "errors.tolerance": "all",
        "value.converter.http.read.timeout.ms": "1000",
        "value.converter.retries.wait.ms": "100",
        "task.restart.backoff.ms": "500",
    });
    sluice.create(&scene.connector, &config(&scene, &registry, "avro", changes))?;
    sluice.wait_log("schema registry")?;
    assert!(scene.objects()?.is_empty());
    registry.resume();
    sluice.wait_written(&scene.connector, 15)?;
    // What is known needs no registry any more.
    registry.pause();
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    registry.resume();
    scene.wait_committed(&[17])?;
    let rows = scene.rows()?;
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(&expected) {
        assert!(is_same(expected, &row.value), "produced {expected}\n    read {}", row.value);
    }
    Ok(())
}
