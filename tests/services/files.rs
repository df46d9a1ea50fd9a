//! Files of every format, written from real topics and read by readers that no one here wrote; transforms on the way.

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Need, Record, Row, Services, Sluice};

use crate::support::{Scene, at, is_same, predictions};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "plain_json_becomes_gzipped_json_lines_as_it_is",
        needs: &[Need::Kafka, Need::Minio],
        run: json_lines,
    },
    Test { name: "plain_json_becomes_avro_that_fastavro_reads", needs: &[Need::Kafka, Need::Minio], run: avro },
    Test { name: "bytes_are_written_with_their_separator", needs: &[Need::Kafka, Need::Minio], run: bytes },
    Test {
        name: "registered_avro_becomes_json_lines_and_avro_again",
        needs: &[Need::Kafka, Need::Minio, Need::Registry],
        run: registered,
    },
    Test {
        name: "transforms_change_plain_json_on_its_way_to_parquet_and_to_json_lines",
        needs: &[Need::Kafka, Need::Minio],
        run: transforms,
    },
    Test { name: "regex_router_routes_records_to_another_directory", needs: &[Need::Kafka, Need::Minio], run: router },
];

const SCRIPT: &str = concat!(include_str!("../src/py/store.py"), include_str!("py/files.py"));

fn read(scene: &Scene, action: &str, more: Value) -> Result<Vec<Row>, Error> {
    let mut request = scene.store.request(json!({"bucket": scene.bucket}));
    for (name, value) in more.as_object().into_iter().flatten() {
        request[name] = value.clone();
    }
    Services::readers()?.call(SCRIPT, action, &request)
}

/// Writes all that is in the topic.
fn write(scene: &Scene, changes: Value, records: u64) -> Outcome {
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config(changes))?;
    sluice.wait_written(&scene.connector, records)?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    Ok(())
}

fn holds_in_order(rows: &[Row], expected: &[Value]) {
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(expected) {
        assert!(is_same(expected, &row.value), "expected {expected}\n    read {}", row.value);
    }
}

fn json_lines() -> Outcome {
    let scene = Scene::new("json-lines", 1)?;
    let mut records = predictions(0..9);
    // Schemaless values keep their shape, whatever it is.
    records.extend([json!([1, {"a": null}]), json!("text"), json!(3.5), json!({"id": 7, "model_name": {"x": []}})]);
    scene.produce(&records)?;
    let changes = json!({
        "format.class": "io.confluent.connect.s3.format.json.JsonFormat", "s3.compression.type": "gzip", "flush.size": "5",
    });
    write(&scene, changes, records.len() as u64)?;
    let rows = read(&scene, "read_json_lines", json!({"suffix": ".json.gz"}))?;
    assert_eq!(rows.len(), records.len());
    for (row, record) in rows.iter().zip(&records) {
        assert_eq!(row.value.to_string(), serde_json::from_str::<Value>(&record.to_string())?.to_string());
    }
    assert!(rows[12].object.ends_with("+0+0000000010.json.gz"), "{}", rows[12].object);
    Ok(())
}

fn avro() -> Outcome {
    let scene = Scene::new("avro-files", 1)?;
    let records = predictions(0..40);
    scene.produce(&records)?;
    let changes = json!({
        "format.class": "io.confluent.connect.s3.format.avro.AvroFormat", "avro.codec": "deflate", "flush.size": "15",
    });
    write(&scene, changes, 40)?;
    holds_in_order(&read(&scene, "read_avro", json!({}))?, &records);
    Ok(())
}

fn bytes() -> Outcome {
    let scene = Scene::new("bytes", 1)?;
    let values: Vec<Vec<u8>> = (0..7u8).map(|number| vec![number, 0, 255, b'x']).collect();
    let records: Vec<Record> = values.iter().map(|value| at(0, value.clone())).collect();
    scene.kafka.produce(&scene.topic, &records)?;
    let changes = json!({
        "format.class": "io.confluent.connect.s3.format.bytearray.ByteArrayFormat",
        "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
        "value.converter.schemas.enable": null,
        "format.bytearray.extension": ".raw",
        "format.bytearray.separator": "|",
        "flush.size": "4",
    });
    write(&scene, changes, 7)?;
    let rows = read(&scene, "read_texts", json!({"suffix": ".raw"}))?;
    let text: String = rows.iter().filter_map(|row| row.value.as_str()).collect();
    let expected: String =
        values.iter().map(|value| value.iter().map(|&byte| char::from(byte)).collect::<String>() + "|").collect();
    assert_eq!((rows.len(), text), (2, expected));
    Ok(())
}

fn registered() -> Outcome {
    let registry = Services::registry()?;
    for (format, action, suffix) in [("JsonFormat", "read_json_lines", ".json"), ("AvroFormat", "read_avro", ".avro")] {
        let scene = Scene::new("registered", 1)?;
        let expected: Vec<Value> =
            crate::registry::produce(&scene, registry, "produce_every_avro", json!({"start": 0, "end": 30}))?;
        let changes = json!({
            "format.class": format,
            "value.converter": "io.confluent.connect.avro.AvroConverter",
            "value.converter.schema.registry.url": registry.url(),
            "value.converter.schemas.enable": null,
            "flush.size": "20",
        });
        write(&scene, changes, 30)?;
        let more = if suffix == ".json" { json!({"suffix": suffix}) } else { json!({}) };
        let rows = read(&scene, action, more)?;
        assert_eq!(rows.len(), 30, "{format}");
        // Of each type only what both formats have in common: times and bytes have a form of their own in each.
        for (row, expected) in rows.iter().zip(&expected) {
            for name in ["id", "an_int", "a_long", "a_double", "a_boolean", "an_enum", "a_list", "nested", "a_union"] {
                assert!(is_same(&expected[name], &row.value[name]), "{format} {name}: {expected}\n{}", row.value);
            }
            assert_eq!(row.value["a_map"], json!({"k": expected["a_map"][0][1]}), "{format}");
        }
        if suffix == ".avro" {
            has_names_of_its_producer(&scene)?;
        }
    }
    Ok(())
}

/// The schema of each file as fastavro reads it names the record, the enum and the record inside as their producer did.
fn has_names_of_its_producer(scene: &Scene) -> Outcome {
    let request = scene.store.request(json!({"bucket": scene.bucket}));
    let files: Vec<Value> = Services::readers()?.call(SCRIPT, "avro_schemas", &request)?;
    assert!(!files.is_empty());
    for file in files {
        let schema = &file["schema"];
        let type_of = |name: &str| {
            let mut fields = schema["fields"].as_array().into_iter().flatten();
            fields.find(|field| field["name"] == name).map(|field| field["type"].clone()).unwrap_or_default()
        };
        assert_eq!(schema["name"], "org.example.Every", "{schema}");
        let color = type_of("an_enum");
        let told = (&color["type"], &color["name"], &color["symbols"]);
        assert_eq!(told, (&json!("enum"), &json!("org.example.Colour"), &json!(["RED", "GREEN"])), "{schema}");
        assert_eq!(type_of("nested")[1]["name"], "org.example.Inner", "{schema}");
    }
    Ok(())
}

/// What the chain of [`transforms`] makes of record `offset`; records without a value are filtered.
fn transformed(offset: usize, record: &Value) -> Value {
    let mut expected = record.clone();
    let fields = expected.as_object_mut().expect("a prediction is an object");
    fields.remove("model_version");
    let name = fields.remove("model_name").unwrap_or_default();
    let mut flat = serde_json::Map::new();
    for (field, value) in fields.iter() {
        match value {
            Value::Object(inner) => {
                flat.extend(inner.iter().map(|(name, value)| (format!("{field}_{name}"), value.clone())));
            }
            value => {
                flat.insert(field.clone(), value.clone());
            }
        }
    }
    flat.insert("model".to_owned(), name);
    flat.insert("kafka_offset".to_owned(), json!(offset));
    flat.insert("kafka_partition".to_owned(), json!(0));
    flat.insert("source".to_owned(), json!("models"));
    Value::Object(flat)
}

fn transforms() -> Outcome {
    let records = predictions(0..20);
    for (format, suffix) in [("parquet", ""), ("json", ".json")] {
        let scene = Scene::new("transforms", 1)?;
        let mut produced: Vec<Record> = records.iter().map(|value| at(0, value.to_string())).collect();
        produced.push(Record { value: None, ..at(0, "") });
        scene.kafka.produce(&scene.topic, &produced)?;
        let changes = json!({
            "format.class": format,
            "flush.size": "8",
            "transforms": "drop,names,place,static,flat",
            "transforms.drop.type": "org.apache.kafka.connect.transforms.Filter",
            "transforms.drop.predicate": "empty",
            "predicates": "empty",
            "predicates.empty.type": "org.apache.kafka.connect.transforms.predicates.RecordIsTombstone",
            "transforms.names.type": "org.apache.kafka.connect.transforms.ReplaceField$Value",
            "transforms.names.exclude": "model_version",
            "transforms.names.renames": "model_name:model",
            "transforms.place.type": "org.apache.kafka.connect.transforms.InsertField$Value",
            "transforms.place.offset.field": "kafka_offset",
            "transforms.place.partition.field": "kafka_partition",
            "transforms.static.type": "org.apache.kafka.connect.transforms.InsertField$Value",
            "transforms.static.static.field": "source",
            "transforms.static.static.value": "models",
            "transforms.flat.type": "org.apache.kafka.connect.transforms.Flatten$Value",
            "transforms.flat.delimiter": "_",
        });
        write(&scene, changes, 20)?;
        scene.wait_committed(&[21])?;
        let expected: Vec<Value> = (0..).zip(&records).map(|(offset, record)| transformed(offset, record)).collect();
        let rows = match format {
            "parquet" => scene.rows()?,
            _ => read(&scene, "read_json_lines", json!({"suffix": suffix}))?,
        };
        holds_in_order(&rows, &expected);
    }
    Ok(())
}

fn router() -> Outcome {
    let scene = Scene::new("routed", 1)?;
    let records = predictions(0..6);
    scene.produce(&records)?;
    let changes = json!({
        "flush.size": "4",
        "transforms": "route",
        "transforms.route.type": "org.apache.kafka.connect.transforms.RegexRouter",
        "transforms.route.regex": "(routed).*",
        "transforms.route.replacement": "other-$1",
    });
    write(&scene, changes, 6)?;
    scene.holds_exactly(&records)?;
    let objects = scene.objects()?;
    assert!(objects.len() == 2 && objects.iter().all(|key| key.contains("/other-routed/")), "{objects:?}");
    Ok(())
}
