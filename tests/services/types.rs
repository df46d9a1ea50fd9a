//! The table of types: every type of every source, written in every format, read by readers that no one here wrote and
//! compared value by value. Sources and readers are in py/types.py.

use std::time::Duration;

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Need, Services, Sluice};

use crate::support::Scene;

const NEEDS: &[Need] = &[Need::Kafka, Need::Minio, Need::Registry];

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "every_type_of_avro_arrives_in_every_format_under_every_codec",
        needs: NEEDS,
        run: || there_and_back("avro", "io.confluent.connect.avro.AvroConverter", &[ALL_CODECS, FORMATS].concat()),
    },
    Test {
        name: "decimals_of_more_than_38_digits_arrive_in_every_format",
        needs: NEEDS,
        run: || there_and_back("avro_wide", "io.confluent.connect.avro.AvroConverter", WIDE),
    },
    Test {
        name: "every_type_of_protobuf_arrives_in_every_format",
        needs: NEEDS,
        run: || there_and_back("protobuf", "io.confluent.connect.protobuf.ProtobufConverter", FORMATS),
    },
    Test {
        name: "every_type_of_json_schema_arrives_in_every_format",
        needs: NEEDS,
        run: || there_and_back("json_schema", "io.confluent.connect.json.JsonSchemaConverter", FORMATS),
    },
    Test {
        name: "every_type_of_an_envelope_arrives_in_every_format",
        needs: NEEDS,
        run: || there_and_back("envelope", "org.apache.kafka.connect.json.JsonConverter", FORMATS),
    },
    Test {
        name: "every_type_of_plain_json_arrives_in_every_format",
        needs: NEEDS,
        run: || there_and_back("plain", "org.apache.kafka.connect.json.JsonConverter", FORMATS),
    },
];

/// A way to write files and to read them.
#[derive(Clone, Copy)]
struct Format {
    class: &'static str,
    /// What the configuration calls the codec, and what the file does.
    codec: (&'static str, &'static str),
    /// `json.decimal.format`.
    decimals: &'static str,
    readers: &'static [&'static str],
}

const ALL: &[&str] = &["pyarrow", "duckdb", "polars"];

const fn parquet(codec: &'static str, in_file: &'static str, readers: &'static [&'static str]) -> Format {
    Format { class: "parquet", codec: (codec, in_file), decimals: "BASE64", readers }
}

const fn avro(codec: &'static str) -> Format {
    Format { class: "avro", codec: (codec, codec), decimals: "BASE64", readers: &["fastavro"] }
}

const fn json_lines(codec: &'static str, decimals: &'static str) -> Format {
    Format { class: "json", codec: (codec, codec), decimals, readers: &["json"] }
}

/// One of each kind.
const FORMATS: &[Format] =
    &[parquet("zstd", "ZSTD", ALL), avro("deflate"), json_lines("gzip", "BASE64"), json_lines("none", "NUMERIC")];

/// The codecs that are not among those.
const ALL_CODECS: &[Format] = &[
    parquet("none", "UNCOMPRESSED", ALL),
    parquet("snappy", "SNAPPY", ALL),
    parquet("gzip", "GZIP", ALL),
    parquet("brotli", "BROTLI", ALL),
    parquet("lz4_raw", "LZ4", ALL),
    // pyarrow reads Hadoop's framing, but has no name for it.
    parquet("lz4", "UNKNOWN", ALL),
    avro("null"),
    avro("snappy"),
    avro("bzip2"),
];

/// DuckDB and polars have no decimals of more than 38 digits.
const WIDE: &[Format] = &[
    parquet("zstd", "ZSTD", &["pyarrow"]),
    avro("deflate"),
    json_lines("gzip", "BASE64"),
    json_lines("none", "NUMERIC"),
];

const SCRIPT: &str =
    concat!(include_str!("../src/py/store.py"), include_str!("py/registry.py"), include_str!("py/types.py"));

const LIMIT: Duration = Duration::from_secs(120);

impl Format {
    /// Also the name of the directory.
    fn name(&self) -> String {
        format!("{}-{}-{}", self.class, self.codec.0, self.decimals)
    }

    fn config(&self, scene: &Scene, source: &str, converter: &str, registry: &str) -> Value {
        let mut changes = json!({
            "format.class": self.class,
            "topics.dir": self.name(),
            "flush.size": "1000",
            "value.converter": converter,
            "value.converter.schemas.enable": null,
        });
        match source {
            "plain" => changes["value.converter.schemas.enable"] = json!("false"),
            "envelope" => changes["value.converter.schemas.enable"] = json!("true"),
            _ => changes["value.converter.schema.registry.url"] = json!(registry),
        }
        match self.class {
            "json" => {
                changes["s3.compression.type"] = json!(self.codec.0);
                changes["json.decimal.format"] = json!(self.decimals);
            }
            class => changes[format!("{class}.codec")] = json!(self.codec.0),
        }
        scene.config(changes)
    }
}

/// Produces every value of a source, writes it in each of these formats, and compares what their readers find.
fn there_and_back(source: &str, converter: &str, formats: &[Format]) -> Outcome {
    let (registry, readers) = (Services::registry()?, Services::readers()?);
    let scene = Scene::new(&format!("types-{}", source.replace('_', "-")), 1)?;
    let request = json!({
        "bootstrap": scene.kafka.bootstrap(), "registry": registry.url(), "topic": scene.topic, "source": source,
    });
    let records: u64 = readers.begin(SCRIPT, "produce_types", &request, LIMIT)?.finish()?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let connector = |format: &Format| format!("{}-{}", scene.connector, format.name());
    for format in formats {
        sluice.create(&connector(format), &format.config(&scene, source, converter, registry.url()))?;
    }
    for format in formats {
        sluice.wait_written(&connector(format), records)?;
    }
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let mut differences = Vec::new();
    for format in formats {
        let request = scene.store.request(json!({
            "bucket": scene.bucket, "source": source, "directory": format.name(), "kind": format.class,
            "codec": format.codec.1, "readers": format.readers, "decimals": format.decimals,
        }));
        let found: Vec<String> = readers.call(SCRIPT, "compare_types", &request)?;
        differences.extend(found.into_iter().map(|difference| format!("{}: {difference}", format.name())));
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    Ok(())
}
