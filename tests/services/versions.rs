//! Two producers whose schemas differ by a version write to one topic in turn: which files come of it, and what is in them.

use base64::Engine;
use protox::prost_reflect::prost::Message;
use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Need, Services, Sluice};

use crate::support::{Scene, is_same};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "alternating_avro_versions_make_a_file_of_each_to_a_cut",
        needs: &[Need::Kafka, Need::Minio, Need::Registry],
        run: || separate(&AVRO),
    },
    Test {
        name: "alternating_json_schema_versions_make_a_file_of_each_to_a_cut",
        needs: &[Need::Kafka, Need::Minio, Need::Registry],
        run: || separate(&JSON_SCHEMA),
    },
    Test {
        name: "alternating_protobuf_versions_make_a_file_of_each_to_a_cut",
        needs: &[Need::Kafka, Need::Minio, Need::Registry],
        run: || separate(&PROTOBUF),
    },
    Test {
        name: "backward_compatibility_brings_older_records_to_the_newer_schema",
        needs: &[Need::Kafka, Need::Minio, Need::Registry],
        run: backward,
    },
    Test {
        name: "the_latest_version_reads_every_record",
        needs: &[Need::Kafka, Need::Minio, Need::Registry],
        run: latest,
    },
    Test {
        name: "files_are_cut_at_each_change_if_that_is_said",
        needs: &[Need::Kafka, Need::Minio, Need::Registry],
        run: strict,
    },
];

const SCRIPT: &str = concat!(include_str!("py/registry.py"), include_str!("py/versions.py"));

/// A schema language, its converter, the two versions of the example, and what it makes of a text field that an older
/// record lacks: projected to the newer schema, and read with it.
struct Language {
    name: &'static str,
    converter: &'static str,
    files: [&'static str; 2],
    projected: Option<&'static str>,
    read: &'static str,
}

const AVRO: Language = Language {
    name: "avro",
    converter: "io.confluent.connect.avro.AvroConverter",
    files: ["prediction.avsc", "prediction-v2.avsc"],
    projected: Some("production"),
    read: "production",
};

const JSON_SCHEMA: Language = Language {
    name: "json",
    converter: "io.confluent.connect.json.JsonSchemaConverter",
    files: ["prediction.schema.json", "prediction-v2.schema.json"],
    projected: Some("production"),
    read: "production",
};

const PROTOBUF: Language = Language {
    name: "protobuf",
    converter: "io.confluent.connect.protobuf.ProtobufConverter",
    files: ["prediction.proto", "prediction-v2.proto"],
    projected: None,
    read: "",
};

impl Language {
    /// A schema as its producer takes it: the text, or the compiled file.
    fn schema(&self, file: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let directory = format!("{}/../schemas", env!("CARGO_MANIFEST_DIR"));
        if self.name == "protobuf" {
            let compiled = protox::compile([file], [directory])?;
            return Ok(base64::engine::general_purpose::STANDARD.encode(compiled.encode_to_vec()));
        }
        Ok(std::fs::read_to_string(format!("{directory}/{file}"))?)
    }

    /// A scene whose topic holds `count` records of alternating versions, and these records.
    fn scene(&self, count: u64) -> Result<(Scene, Vec<Value>), Box<dyn std::error::Error + Send + Sync>> {
        let scene = Scene::new(&format!("versions-{}", self.name), 1)?;
        let schemas = [self.schema(self.files[0])?, self.schema(self.files[1])?];
        let request = json!({
            "bootstrap": scene.kafka.bootstrap(), "registry": Services::registry()?.url(), "topic": scene.topic,
            "language": self.name, "schemas": schemas, "count": count,
        });
        let limit = std::time::Duration::from_secs(120);
        let records = Services::readers()?.begin(SCRIPT, "produce_versions", &request, limit)?.finish()?;
        Ok((scene, records))
    }

    /// Writes all records of the scene.
    fn write(&self, scene: &Scene, count: u64, changes: Value) -> Result<(), Error> {
        let mut config = scene.config(json!({
            "value.converter": self.converter,
            "value.converter.schema.registry.url": Services::registry()?.url(),
            "value.converter.schemas.enable": null,
            "flush.size": "20",
        }));
        for (key, value) in changes.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let sluice = Sluice::worker(scene.kafka, scene.store)?;
        sluice.create(&scene.connector, &config)?;
        sluice.wait_written(&scene.connector, count)?;
        assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
        Ok(())
    }
}

/// The offsets at which files begin, in order.
fn starts(scene: &Scene) -> Result<Vec<u64>, Error> {
    let offset = |key: &String| key.rsplit_once('+').and_then(|(_, rest)| rest.split('.').next()?.parse().ok());
    let mut starts: Vec<u64> = scene.objects()?.iter().filter_map(offset).collect();
    starts.sort_unstable();
    Ok(starts)
}

/// Compares every row with the record of its number as `expected` has it.
fn holds(scene: &Scene, records: &[Value], expected: impl Fn(usize, Value) -> Value) -> Outcome {
    let mut rows = scene.rows()?;
    let number =
        |value: &Value| value["id"].as_str().and_then(|id| id[2..].parse::<usize>().ok()).unwrap_or(usize::MAX);
    rows.sort_by_key(|row| number(&row.value));
    assert_eq!(rows.len(), records.len());
    for (index, (row, record)) in rows.iter().zip(records).enumerate() {
        let expected = expected(index, record.clone());
        assert!(is_same(&expected, &row.value), "record {index}: expected {expected}\n    read {}", row.value);
    }
    Ok(())
}

/// By default each version has a file of its own in a cut, with its own columns.
fn separate(language: &Language) -> Outcome {
    let (scene, records) = language.scene(40)?;
    language.write(&scene, 40, json!({}))?;
    assert_eq!(starts(&scene)?, [0, 1, 20, 21]);
    holds(&scene, &records, |_, record| record)?;
    for (index, key) in scene.objects()?.iter().enumerate() {
        let columns = crate::support::columns(&scene, key)?;
        assert_eq!(columns.iter().any(|column| column.starts_with("latency_ms: int64")), index % 2 == 1, "{columns:?}");
    }
    Ok(())
}

fn backward() -> Outcome {
    for language in [&AVRO, &JSON_SCHEMA, &PROTOBUF] {
        let (scene, records) = language.scene(40)?;
        language.write(&scene, 40, json!({ "schema.compatibility": "BACKWARD" }))?;
        assert_eq!(starts(&scene)?, [0, 1, 21], "{}", language.name);
        holds(&scene, &records, |index, mut record| {
            if index > 0 && index % 2 == 0 {
                record["stage"] = json!(language.projected);
            }
            record
        })?;
    }
    Ok(())
}

fn latest() -> Outcome {
    for language in [&AVRO, &JSON_SCHEMA, &PROTOBUF] {
        let (scene, records) = language.scene(40)?;
        language.write(&scene, 40, json!({ "value.converter.use.latest.version": "true" }))?;
        assert_eq!(starts(&scene)?, [0, 20], "{}", language.name);
        holds(&scene, &records, |index, mut record| {
            if index % 2 == 0 {
                record["stage"] = json!(language.read);
            }
            record
        })?;
    }
    Ok(())
}

fn strict() -> Outcome {
    let (scene, records) = AVRO.scene(7)?;
    AVRO.write(&scene, 7, json!({ "schema.change.files": "cut", "flush.size": "2" }))?;
    assert_eq!(starts(&scene)?, [0, 1, 2, 3, 4, 5, 6]);
    holds(&scene, &records, |_, record| record)
}
