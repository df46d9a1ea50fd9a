//! Reading predictions into columns: ours beside arrow-json's `Decoder`, in messages per second.

use std::fmt::Write;
use std::hint::black_box;
use std::io::{Read, Write as _};
use std::net::TcpListener;

use arrow::array::BinaryArray;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use model::{Config, Offset, RawBatch, RawBatchBuilder, Settings, TopicPartition};
use schema::{CONVERTERS, JsonColumns, Part, TableSchema, Unknown, infer};

const RECORDS: u64 = 16_384;

/// Predictions as a model server publishes them, some without an age, few with a region.
fn predictions(count: u64) -> Vec<String> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count)
        .map(|_| {
            let (a, b, dice) = (random(), random(), random());
            let mut text = String::new();
            let _ = write!(
                text,
                "{{\"id\": \"{:08x}-{:04x}-{:04x}-{:04x}-{:012x}\", \"model_name\": \"insurance\", \
                 \"model_version\": \"1.2.0\", \"inputs\": {{\"age\": ",
                a >> 32,
                a >> 16 & 0xffff,
                a & 0xffff,
                b >> 48,
                b & 0xffff_ffff_ffff
            );
            let _ = if dice % 20 == 0 { write!(text, "null") } else { write!(text, "{}", 18 + dice % 70) };
            let _ = write!(text, ", \"previously_insured\": {}", dice & 1 == 0);
            if dice % 10 == 0 {
                text.push_str(", \"region\": \"north\"");
            }
            let confidence = (random() % 1_000_000) as f64 / 1e6;
            let _ = write!(
                text,
                "}}, \"outputs\": {{\"will_buy_insurance\": {}, \"confidence\": {confidence}}}}}",
                dice & 2 == 0
            );
            text
        })
        .collect()
}

fn decode(criterion: &mut Criterion) {
    let records = predictions(RECORDS);
    let texts = BinaryArray::from_iter_values(records.iter().map(String::as_bytes));
    let lines = records.join("\n");
    let inferred: TableSchema = infer(None, &texts).schema;

    let mut group = criterion.benchmark_group("predictions");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("JsonColumns", |bencher| {
        let mut columns = JsonColumns::new(&inferred, Unknown::Report);
        bencher.iter(|| {
            let read = columns.read(black_box(&texts));
            assert!(read.rejected.is_empty() && !read.grows);
            read.columns
        });
    });
    group.bench_function("arrow-json", |bencher| {
        let mut decoder = arrow_json::ReaderBuilder::new(inferred.arrow().clone())
            .with_batch_size(RECORDS as usize)
            .build_decoder()
            .expect("arrow-json knows the types of plain JSON");
        bencher.iter(|| {
            let mut rest = black_box(lines.as_bytes());
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
    group.bench_function("infer", |bencher| bencher.iter(|| infer(Some(&inferred), black_box(&texts)).changed));
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

const PREDICTION_PROTO: &str = "syntax = \"proto3\"; message Prediction { string id = 1; string model_name = 2; \
    string model_version = 3; Inputs inputs = 4; Outputs outputs = 5; } \
    message Inputs { optional int64 age = 1; bool previously_insured = 2; string region = 3; } \
    message Outputs { bool will_buy_insurance = 1; double confidence = 2; }";

const PREDICTION_JSON_SCHEMA: &str = r#"{"type":"object","properties":{"id":{"type":"string"},
    "model_name":{"type":"string"},"model_version":{"type":"string"},
    "inputs":{"type":"object","properties":{"age":{"type":["integer","null"]},"previously_insured":{"type":"boolean"},
    "region":{"type":"string"}}},"outputs":{"type":"object","properties":{"will_buy_insurance":{"type":"boolean"},
    "confidence":{"type":"number"}}}}}"#;

/// The same predictions as Protobuf, behind id and message index.
fn protobuf_prediction(index: u64) -> Vec<u8> {
    let mut inputs = vec![0x08, 18 + (index % 70) as u8, 0x10, (index & 1) as u8];
    if index.is_multiple_of(10) {
        inputs.extend(b"\x1a\x05north");
    }
    let mut outputs = vec![0x08, 1, 0x11];
    outputs.extend((index as f64 / 1e6).to_le_bytes());
    let mut value = vec![0, 0, 0, 0, 1, 0];
    let id = format!("{index:036}");
    for (number, bytes) in [id.as_bytes(), b"insurance", b"1.2.0", &inputs, &outputs].into_iter().enumerate() {
        value.extend([(number as u8 + 1) << 3 | 2, bytes.len() as u8]);
        value.extend(bytes);
    }
    value
}

fn raw(values: &[Vec<u8>]) -> RawBatch {
    let mut builder = RawBatchBuilder::new(TopicPartition::new("t", 0), values.len(), 0);
    for (row, value) in values.iter().enumerate() {
        let offset = i64::try_from(row).ok().and_then(Offset::new).expect("a row number is an offset");
        builder.push(offset, 0, None, Some(value), Vec::new());
    }
    builder.finish()
}

fn registered(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let protobuf: Vec<Vec<u8>> = (0..RECORDS).map(protobuf_prediction).collect();
    let json = predictions(RECORDS).into_iter().map(|text| [b"\0\0\0\0\x01", text.as_bytes()].concat()).collect();
    let mut group = criterion.benchmark_group("registered predictions");
    group.throughput(Throughput::Elements(RECORDS));
    for (name, kind, schema, values) in
        [("protobuf", "PROTOBUF", PREDICTION_PROTO, protobuf), ("json_schema", "JSON", PREDICTION_JSON_SCHEMA, json)]
    {
        let config = Config::from([("schema.registry.url".to_owned(), registry(kind, schema))]);
        let plugin = model::find(CONVERTERS, "converter", name).expect("the converter is in the table");
        let mut converter = (plugin.build)(&Settings::new(config), Part::Value).expect("the settings are right");
        let raw = raw(&values);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let decoded = runtime.block_on(converter.decode(black_box(&raw))).expect("the registry answers");
                assert!(decoded.rejected.is_empty());
                decoded.batches
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, registered);
criterion_main!(benches);
