//! Reading predictions into columns, each format beside a plain reader of the same bytes, in one thread.
//!
//! `cargo bench -p schema --bench decode`. The plain readers are what one would write without this crate: arrow-json's
//! decoder into the same columns, and for the others the library's own values: `serde_json::Value`,
//! `apache_avro::types::Value`, `prost_reflect::DynamicMessage`, which are not columns yet.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpListener;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as AvroValue;
use apache_avro::writer::datum::GenericDatumWriter;
use arrow::array::BinaryArray;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use model::{Config, Offset, RawBatch, RawBatchBuilder, Settings, TopicPartition};
use predictions::predictions;
use prost_reflect::DynamicMessage;
use schema::{CONVERTERS, JsonColumns, Part, Unknown, infer};

mod predictions;

const RECORDS: usize = 16_384;

/// A group whose rates are of these values.
fn group<'c>(criterion: &'c mut Criterion, name: &str, values: &[Vec<u8>]) -> BenchmarkGroup<'c, WallTime> {
    let bytes = values.iter().map(|value| value.len() as u64).sum();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::ElementsAndBytes { elements: values.len() as u64, bytes });
    group
}

fn raw(values: &[Vec<u8>]) -> RawBatch {
    let mut builder = RawBatchBuilder::new(TopicPartition::new("t", 0), values.len(), 0);
    for (row, value) in values.iter().enumerate() {
        let offset = i64::try_from(row).ok().and_then(Offset::new).expect("a row number is an offset");
        builder.push(offset, 0, None, Some(value), Vec::new());
    }
    builder.finish()
}

/// Decodes `values` by the converter `name` with these settings.
fn converter(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, pairs: &[(&str, &str)], values: &[Vec<u8>]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let config: Config = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let plugin = model::find(CONVERTERS, "converter", name).expect("the converter is in the table");
    let mut converter = (plugin.build)(&Settings::new(config), Part::Value).expect("the settings are right");
    let raw = raw(values);
    group.bench_function("sluice", |bencher| {
        bencher.iter(|| {
            let decoded = runtime.block_on(converter.decode(black_box(&raw))).expect("the registry answers");
            assert!(decoded.rejected.is_empty());
            decoded.batches
        });
    });
}

/// Reads each value into what a library has for it.
fn plain<T>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, values: &[Vec<u8>], read: impl Fn(&[u8]) -> T) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            for value in black_box(values) {
                black_box(read(value));
            }
        });
    });
}

fn json_value(text: &[u8]) -> serde_json::Value {
    serde_json::from_slice(text).expect("predictions are JSON")
}

fn json(criterion: &mut Criterion) {
    let records: Vec<Vec<u8>> = predictions(RECORDS as u64).into_iter().map(String::into_bytes).collect();
    let texts = BinaryArray::from_iter_values(&records);
    let lines = records.join(&b"\n"[..]);
    let inferred = infer(None, &texts).schema;
    let mut group = group(criterion, "json", &records);
    group.bench_function("sluice", |bencher| {
        let mut columns = JsonColumns::new(&inferred, Unknown::Report);
        bencher.iter(|| {
            let read = columns.read(black_box(&texts));
            assert!(read.rejected.is_empty() && !read.grows);
            read.columns
        });
    });
    group.bench_function("arrow-json", |bencher| {
        let mut decoder = arrow_json::ReaderBuilder::new(inferred.arrow().clone())
            .with_batch_size(RECORDS)
            .build_decoder()
            .expect("arrow-json knows the types of plain JSON");
        bencher.iter(|| {
            let mut rest = black_box(lines.as_slice());
            while !rest.is_empty() {
                let read = decoder.decode(rest).expect("predictions are JSON");
                rest = &rest[read..];
                if read == 0 {
                    break;
                }
            }
            decoder.flush().expect("predictions fit the schema")
        });
    });
    group.bench_function("sluice infer", |bencher| bencher.iter(|| infer(Some(&inferred), black_box(&texts)).changed));
    group.finish();
}

fn envelope(criterion: &mut Criterion) {
    const SCHEMA: &str = r#"{"type":"struct","name":"Prediction","optional":false,"fields":[
        {"field":"id","type":"string"},{"field":"model_name","type":"string"},{"field":"model_version","type":"string"},
        {"field":"inputs","type":"struct","optional":true,"fields":[{"field":"age","type":"int64","optional":true},
        {"field":"previously_insured","type":"boolean"},{"field":"region","type":"string","optional":true}]},
        {"field":"outputs","type":"struct","fields":[{"field":"will_buy_insurance","type":"boolean"},
        {"field":"confidence","type":"double"}]}]}"#;
    let texts = predictions(RECORDS as u64).into_iter();
    let records: Vec<Vec<u8>> =
        texts.map(|text| format!("{{\"schema\":{SCHEMA},\"payload\":{text}}}").into_bytes()).collect();
    let mut group = group(criterion, "json envelope", &records);
    converter(&mut group, "json", &[("schemas.enable", "true")], &records);
    plain(&mut group, "serde_json Value", &records, json_value);
    group.finish();
}

/// A registry on loopback with one schema.
fn registry(kind: &str, text: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let schema = serde_json::json!({"schemaType": kind, "schema": text}).to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            let versions = String::from_utf8_lossy(&request[..length]).contains("/versions");
            let body = if versions { "[]" } else { &schema };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    format!("http://{address}")
}

/// Values with the id that the registry's schema has in front.
fn framed(values: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    values.map(|value| [b"\0\0\0\0\x01", value.as_slice()].concat()).collect()
}

/// Where the datum begins.
const ID_BYTES: usize = 5;

fn avro(criterion: &mut Criterion) {
    const SCHEMA: &str = include_str!("../../../schemas/prediction.avsc");
    let schema = apache_avro::Schema::parse_str(SCHEMA).expect("the example is a schema");
    let writer = GenericDatumWriter::builder(&schema).build().expect("the schema stands alone");
    let datum = |text: String| {
        let value = avro_value("", &with_all_fields(json_value(text.as_bytes())));
        let value = value.resolve(&schema).expect("predictions fit the schema");
        writer.write_value_to_vec(value).expect("predictions fit the schema")
    };
    let values = framed(predictions(RECORDS as u64).into_iter().map(datum));
    let mut group = group(criterion, "avro", &values);
    converter(&mut group, "avro", &[("schema.registry.url", &registry("AVRO", SCHEMA))], &values);
    let reader = GenericDatumReader::builder(&schema).build().expect("the schema stands alone");
    plain(&mut group, "apache-avro Value", &values, |value| {
        reader.read_value(&mut &value[ID_BYTES..]).expect("predictions fit the schema")
    });
    group.finish();
}

/// The same value for Avro; of the numbers, only ages are whole.
fn avro_value(name: &str, json: &serde_json::Value) -> AvroValue {
    use serde_json::Value;

    match json {
        Value::Null => AvroValue::Null,
        Value::Bool(flag) => AvroValue::Boolean(*flag),
        Value::Number(number) if name == "age" => AvroValue::Long(number.as_i64().expect("ages are small")),
        Value::Number(number) => AvroValue::Double(number.as_f64().expect("confidences are from 0 to 1")),
        Value::String(text) => AvroValue::String(text.clone()),
        Value::Array(_) => unreachable!("predictions have no lists"),
        Value::Object(fields) => {
            AvroValue::Map(fields.iter().map(|(name, value)| (name.clone(), avro_value(name, value))).collect())
        }
    }
}

/// Avro wants fields that are null to be there.
fn with_all_fields(mut prediction: serde_json::Value) -> serde_json::Value {
    let inputs = prediction["inputs"].as_object_mut().expect("inputs are an object");
    inputs.entry("region").or_insert(serde_json::Value::Null);
    prediction
}

const PREDICTION_PROTO: &str = "syntax = \"proto3\"; message Prediction { string id = 1; string model_name = 2; \
    string model_version = 3; Inputs inputs = 4; Outputs outputs = 5; } \
    message Inputs { optional int64 age = 1; bool previously_insured = 2; string region = 3; } \
    message Outputs { bool will_buy_insurance = 1; double confidence = 2; }";

/// The same predictions as Protobuf, behind the message index.
fn protobuf_prediction(index: u64) -> Vec<u8> {
    let mut inputs = vec![0x08, 18 + (index % 70) as u8, 0x10, (index & 1) as u8];
    if index.is_multiple_of(10) {
        inputs.extend(b"\x1a\x05north");
    }
    let mut outputs = vec![0x08, 1, 0x11];
    outputs.extend((index as f64 / 1e6).to_le_bytes());
    let mut value = vec![0];
    let id = format!("{index:036}");
    for (number, bytes) in [id.as_bytes(), b"insurance", b"1.2.0", &inputs, &outputs].into_iter().enumerate() {
        value.extend([(number as u8 + 1) << 3 | 2, bytes.len() as u8]);
        value.extend(bytes);
    }
    value
}

fn protobuf(criterion: &mut Criterion) {
    let values = framed((0..RECORDS as u64).map(protobuf_prediction));
    let file = protox::file::File::from_source("prediction.proto", PREDICTION_PROTO).expect("it is a schema");
    let mut pool = prost_reflect::DescriptorPool::new();
    pool.add_file_descriptor_proto(file.file_descriptor_proto().clone()).expect("it stands alone");
    let message = pool.get_message_by_name("Prediction").expect("it is in the file");
    let mut group = group(criterion, "protobuf", &values);
    let url = registry("PROTOBUF", PREDICTION_PROTO);
    converter(&mut group, "protobuf", &[("schema.registry.url", &url)], &values);
    plain(&mut group, "prost-reflect DynamicMessage", &values, |value| {
        DynamicMessage::decode(message.clone(), &value[ID_BYTES + 1..]).expect("predictions fit the schema")
    });
    group.finish();
}

fn json_schema(criterion: &mut Criterion) {
    const SCHEMA: &str = r#"{"type":"object","properties":{"id":{"type":"string"},
        "model_name":{"type":"string"},"model_version":{"type":"string"},
        "inputs":{"type":"object","properties":{"age":{"type":["integer","null"]},
        "previously_insured":{"type":"boolean"},"region":{"type":"string"}}},"outputs":{"type":"object",
        "properties":{"will_buy_insurance":{"type":"boolean"},"confidence":{"type":"number"}}}}}"#;
    let values = framed(predictions(RECORDS as u64).into_iter().map(String::into_bytes));
    let mut group = group(criterion, "json schema", &values);
    converter(&mut group, "json_schema", &[("schema.registry.url", &registry("JSON", SCHEMA))], &values);
    plain(&mut group, "serde_json Value", &values, |value| json_value(&value[ID_BYTES..]));
    group.finish();
}

criterion_group!(benches, json, envelope, avro, protobuf, json_schema);
criterion_main!(benches);
