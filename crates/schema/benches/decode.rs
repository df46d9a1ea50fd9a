//! Reading predictions into columns: ours beside arrow-json's `Decoder`, in messages per second.

use std::fmt::Write;
use std::hint::black_box;

use arrow::array::BinaryArray;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use schema::{JsonColumns, TableSchema, Unknown, infer};

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

criterion_group!(benches, decode);
criterion_main!(benches);
