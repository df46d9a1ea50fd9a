//! Writing predictions as files, each format beside a plain writer of the same rows, in one thread.
//!
//! `cargo bench -p writer --bench encode`. The plain writers are what one would write without this crate: parquet's
//! `ArrowWriter`, apache-avro's `Writer` fed with its values, arrow-json's `LineDelimitedWriter`, and copying bytes.

use std::hint::black_box;
use std::sync::Arc;

use apache_avro::types::Value as AvroValue;
use arrow::array::{Array, AsArray, BinaryArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Int64Type, Schema, SchemaRef};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use model::{Settings, Values};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use predictions::predictions;
use writer::FileFooter;

#[path = "../../schema/benches/predictions/mod.rs"]
mod predictions;

const RECORDS: u64 = 65_536;

fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let record = |name: &str, fields: Vec<Field>| Field::new(name, DataType::Struct(Fields::from(fields)), true);
    let inputs = vec![
        Field::new("age", DataType::Int64, true),
        Field::new("previously_insured", DataType::Boolean, true),
        text("region"),
    ];
    let outputs = vec![
        Field::new("will_buy_insurance", DataType::Boolean, true),
        Field::new("confidence", DataType::Float64, true),
    ];
    Arc::new(Schema::new(vec![
        text("id"),
        text("model_name"),
        text("model_version"),
        record("inputs", inputs),
        record("outputs", outputs),
    ]))
}

/// The rows in columns.
fn rows(texts: &[String]) -> RecordBatch {
    let builder = arrow_json::ReaderBuilder::new(schema()).with_batch_size(texts.len());
    let mut decoder = builder.build_decoder().expect("arrow-json knows these types");
    let lines = texts.join("\n");
    assert_eq!(decoder.decode(lines.as_bytes()).expect("predictions are JSON"), lines.len());
    decoder.flush().expect("predictions fit the schema").expect("there are rows")
}

/// A group whose rates are of these rows; bytes are those of their texts.
fn group<'c>(criterion: &'c mut Criterion, name: &str, texts: &[String]) -> BenchmarkGroup<'c, WallTime> {
    let bytes = texts.iter().map(|text| text.len() as u64).sum();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::ElementsAndBytes { elements: texts.len() as u64, bytes });
    group
}

/// Writes a whole file as a lane does.
fn ours(group: &mut BenchmarkGroup<'_, WallTime>, pairs: &[(&str, &str)], values: &Values) {
    let config = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let format = writer::format(&Settings::new(config)).expect("the settings are right");
    let schema = match values {
        Values::Typed(columns) => Arc::new(Schema::new(columns.fields().clone())),
        Values::Schemaless(_) => Arc::new(Schema::empty()),
    };
    group.bench_function("sluice", |bencher| {
        bencher.iter(|| {
            let footer = FileFooter::default();
            let mut encoder = format.open(&schema, None, &footer).expect("these types can be written");
            encoder.write(black_box(std::slice::from_ref(values))).expect("memory takes all");
            encoder.end_group().expect("memory takes all");
            let piece = encoder.take().expect("memory takes all");
            piece.len() + encoder.finish(&footer).expect("memory takes all").len()
        });
    });
}

fn parquet(criterion: &mut Criterion) {
    let texts = predictions(RECORDS);
    let batch = rows(&texts);
    let values = Values::Typed(StructArray::from(batch.clone()));
    for (codec, compression) in [("snappy", Compression::SNAPPY), ("zstd", Compression::ZSTD(ZstdLevel::default()))] {
        let mut group = group(criterion, &format!("parquet {codec}"), &texts);
        ours(&mut group, &[("format.class", "parquet"), ("parquet.codec", codec)], &values);
        group.bench_function("ArrowWriter", |bencher| {
            bencher.iter(|| {
                let properties = WriterProperties::builder().set_compression(compression).build();
                let mut writer =
                    ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a schema of Arrow");
                writer.write(black_box(&batch)).expect("memory takes all");
                writer.into_inner().expect("memory takes all").len()
            });
        });
        group.finish();
    }
}

/// A row as apache-avro's value; `None` is null.
fn avro_value(batch: &RecordBatch, row: usize) -> AvroValue {
    fn optional(is_null: bool, value: impl FnOnce() -> AvroValue) -> AvroValue {
        let (branch, value) = if is_null { (0, AvroValue::Null) } else { (1, value()) };
        AvroValue::Union(branch, Box::new(value))
    }
    let text = |column: &dyn Array| {
        optional(column.is_null(row), || AvroValue::String(column.as_string::<i32>().value(row).to_owned()))
    };
    let boolean =
        |column: &dyn Array| optional(column.is_null(row), || AvroValue::Boolean(column.as_boolean().value(row)));
    let named = |name: &str, value: AvroValue| (name.to_owned(), value);
    let (inputs, outputs) = (batch.column(3).as_struct(), batch.column(4).as_struct());
    let age = inputs.column(0).as_primitive::<Int64Type>();
    let confidence = outputs.column(1).as_primitive::<Float64Type>();
    let inputs = vec![
        named("age", optional(age.is_null(row), || AvroValue::Long(age.value(row)))),
        named("previously_insured", boolean(inputs.column(1))),
        named("region", text(inputs.column(2))),
    ];
    let outputs = vec![
        named("will_buy_insurance", boolean(outputs.column(0))),
        named("confidence", optional(confidence.is_null(row), || AvroValue::Double(confidence.value(row)))),
    ];
    AvroValue::Record(vec![
        named("id", text(batch.column(0))),
        named("model_name", text(batch.column(1))),
        named("model_version", text(batch.column(2))),
        named("inputs", AvroValue::Union(1, Box::new(AvroValue::Record(inputs)))),
        named("outputs", AvroValue::Union(1, Box::new(AvroValue::Record(outputs)))),
    ])
}

fn avro(criterion: &mut Criterion) {
    const SCHEMA: &str = r#"{"type":"record","name":"Prediction","fields":[{"name":"id","type":["null","string"]},
        {"name":"model_name","type":["null","string"]},{"name":"model_version","type":["null","string"]},
        {"name":"inputs","type":["null",{"type":"record","name":"Inputs","fields":[
        {"name":"age","type":["null","long"]},{"name":"previously_insured","type":["null","boolean"]},
        {"name":"region","type":["null","string"]}]}]},
        {"name":"outputs","type":["null",{"type":"record","name":"Outputs","fields":[
        {"name":"will_buy_insurance","type":["null","boolean"]},{"name":"confidence","type":["null","double"]}]}]}]}"#;
    let texts = predictions(RECORDS);
    let batch = rows(&texts);
    let schema = apache_avro::Schema::parse_str(SCHEMA).expect("it is a schema");
    let mut group = group(criterion, "avro", &texts);
    let values = Values::Typed(StructArray::from(batch.clone()));
    ours(&mut group, &[("format.class", "avro"), ("avro.codec", "snappy")], &values);
    group.bench_function("apache-avro Writer", |bencher| {
        bencher.iter(|| {
            let writer = apache_avro::Writer::with_codec(&schema, Vec::new(), apache_avro::Codec::Snappy);
            let mut writer = writer.expect("memory takes all");
            for row in 0..black_box(&batch).num_rows() {
                writer.append_value(avro_value(&batch, row)).expect("rows fit the schema");
            }
            writer.into_inner().expect("memory takes all").len()
        });
    });
    group.finish();
}

fn json_lines(criterion: &mut Criterion) {
    let texts = predictions(RECORDS);
    let batch = rows(&texts);
    let mut typed = group(criterion, "json lines from columns", &texts);
    ours(&mut typed, &[("format.class", "json")], &Values::Typed(StructArray::from(batch.clone())));
    typed.bench_function("arrow-json", |bencher| {
        bencher.iter(|| {
            let builder = arrow_json::WriterBuilder::new().with_explicit_nulls(true);
            let mut writer = builder.build::<_, arrow_json::writer::LineDelimited>(Vec::new());
            writer.write(black_box(&batch)).expect("memory takes all");
            writer.into_inner().len()
        });
    });
    typed.finish();
    let mut schemaless = group(criterion, "json lines from json", &texts);
    ours(&mut schemaless, &[("format.class", "json")], &Values::Schemaless(BinaryArray::from_iter_values(&texts)));
    copied(&mut schemaless, &texts);
    schemaless.finish();
}

fn bytes(criterion: &mut Criterion) {
    let texts = predictions(RECORDS);
    let mut group = group(criterion, "bytes", &texts);
    let column = BinaryArray::from_iter_values(&texts);
    let fields = Fields::from(vec![model::whole_value_field(DataType::Binary)]);
    let values = Values::Typed(StructArray::new(fields, vec![Arc::new(column)], None));
    ours(&mut group, &[("format.class", "bytes")], &values);
    copied(&mut group, &texts);
    group.finish();
}

/// Each text and a line end, copied.
fn copied(group: &mut BenchmarkGroup<'_, WallTime>, texts: &[String]) {
    group.bench_function("copy", |bencher| {
        bencher.iter(|| {
            let mut file = Vec::new();
            for text in black_box(texts) {
                file.extend_from_slice(text.as_bytes());
                file.push(b'\n');
            }
            file.len()
        });
    });
}

criterion_group!(benches, parquet, avro, json_lines, bytes);
criterion_main!(benches);
