//! From a real broker to Parquet: sluice's own pipeline beside the plain loop (poll, arrow-json, ArrowWriter and nothing
//! else), each in a process of its own under the same allocator, several times in turn. Each runs twice in a row; the
//! first run warms broker and machine and does not count.
//!
//! `cargo bench -p pipeline --bench end_to_end`. Environment: `SLUICE_BENCH_RECORDS` (default 2,000,000),
//! `SLUICE_BENCH_ROUNDS` (3), `SLUICE_TEST_KAFKA` (a running broker instead of an own one).

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads clock and environment itself")]

use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use model::{Config, Fingerprint, Settings};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use pipeline::{
    Budget, Deadlines, ErrorRules, Metrics, Recipe, SystemClock, Task, Tolerance, TopicSchemas, Wanted, control,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use schema::{CONVERTERS, Part};
use serde::{Deserialize, Serialize};
use source::{KafkaSource, Producer, SourceConfig, Subscription};
use writer::{
    Environment, FileContext, FileLimits, Layout, NullValues, ObjectCommitter, OnExisting, Rotation, Store, Views,
    partitioner_plugin,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: i32 = 4;
const ROWS_PER_FILE: usize = 250_000;

/// What one run of one side cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Cost {
    records: u64,
    seconds: f64,
    cpu_seconds: f64,
    peak_bytes: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("--side") => {
            let (side, bootstrap, topic, records) =
                (&arguments[2], &arguments[3], &arguments[4], arguments[5].parse()?);
            let cost = match side.as_str() {
                "sluice" => measured(records, || sluice(bootstrap, topic, records))?,
                _ => measured(records, || plain_loop(bootstrap, topic, records))?,
            };
            println!("{}", serde_json::to_string(&cost)?);
            Ok(())
        }
        // `cargo test --benches` and `--list` must not start a broker.
        Some("--bench") => compare(),
        _ => Ok(()),
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn compare() -> Result<(), Box<dyn Error>> {
    let (records, rounds) = (number("SLUICE_BENCH_RECORDS", 2_000_000), number("SLUICE_BENCH_ROUNDS", 3));
    let kafka = tests::Services::kafka()?;
    let topic = tests::unique("bench");
    kafka.create_topic(&topic, PARTITIONS as u32)?;
    produce(kafka.bootstrap(), &topic, records)?;
    let mut costs: BTreeMap<&str, Vec<Cost>> = BTreeMap::new();
    for _ in 0..rounds {
        for side in ["plain", "sluice"] {
            run(side, kafka.bootstrap(), &topic, records)?;
            let cost = run(side, kafka.bootstrap(), &topic, records)?;
            print(side, cost);
            costs.entry(side).or_default().push(cost);
        }
    }
    let median = |side: &str, of: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs[side].iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let per_cpu = |cost: &Cost| cost.records as f64 / cost.cpu_seconds;
    let wall = |cost: &Cost| cost.records as f64 / cost.seconds;
    println!(
        "sluice / plain loop, medians of {rounds}: messages per CPU-second {:.2}, messages per second {:.2}, peak memory {:.2}",
        median("sluice", per_cpu) / median("plain", per_cpu),
        median("sluice", wall) / median("plain", wall),
        median("sluice", |cost| cost.peak_bytes as f64) / median("plain", |cost| cost.peak_bytes as f64),
    );
    tests::stop_all();
    Ok(())
}

/// One side in a process of its own.
fn run(side: &str, bootstrap: &str, topic: &str, records: u64) -> Result<Cost, Box<dyn Error>> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--side", side, bootstrap, topic, &records.to_string()])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    serde_json::from_str(text.trim()).map_err(|error| format!("{side}: {error}: {text}").into())
}

fn print(side: &str, cost: Cost) {
    println!(
        "{side:>6}: {:>9.0} msg/s  {:>9.0} msg/CPU-s  {:>6.2} CPU-s  {:>5.0} MB peak",
        cost.records as f64 / cost.seconds,
        cost.records as f64 / cost.cpu_seconds,
        cost.cpu_seconds,
        cost.peak_bytes as f64 / 1e6,
    );
}

fn measured(records: u64, work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<Cost, Box<dyn Error>> {
    let started = Instant::now();
    work()?;
    let seconds = started.elapsed().as_secs_f64();
    let (cpu_seconds, peak_bytes) = usage()?;
    Ok(Cost { records, seconds, cpu_seconds, peak_bytes })
}

/// CPU seconds of all threads of this process, and the most memory it had, from /proc.
fn usage() -> Result<(f64, u64), Box<dyn Error>> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no process name")?.1.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse()?;
    Ok((ticks / TICKS_PER_SECOND, kilobytes * 1024))
}

fn prediction(number: u64) -> String {
    let noise = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!(
        r#"{{"id": "{noise:016x}-{number:016x}", "model_name": "insurance", "model_version": "1.2.0", "inputs": {{"age": {}, "previously_insured": {}}}, "outputs": {{"will_buy_insurance": {}, "confidence": {}}}}}"#,
        18 + noise % 72,
        noise & 1 == 0,
        noise & 2 == 0,
        (500_000 + noise % 500_000) as f64 / 1e6,
    )
}

fn produce(bootstrap: &str, topic: &str, records: u64) -> Result<(), Box<dyn Error>> {
    let producer = Producer::new(bootstrap)?;
    for number in 0..records {
        let partition = (number % PARTITIONS as u64) as i32;
        producer.produce(
            topic,
            partition,
            None,
            Some(prediction(number).as_bytes()),
            1_700_000_000_000 + number as i64,
        )?;
    }
    Ok(producer.flush(Duration::from_secs(120))?)
}

fn prediction_schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, true);
    let inputs = Fields::from(vec![
        Field::new("age", DataType::Int64, true),
        Field::new("previously_insured", DataType::Boolean, true),
    ]);
    let outputs = Fields::from(vec![
        Field::new("will_buy_insurance", DataType::Boolean, true),
        Field::new("confidence", DataType::Float64, true),
    ]);
    Arc::new(Schema::new(vec![
        text("id"),
        text("model_name"),
        text("model_version"),
        Field::new("inputs", DataType::Struct(inputs), true),
        Field::new("outputs", DataType::Struct(outputs), true),
    ]))
}

/// The loop that anyone would write first, on one thread.
fn plain_loop(bootstrap: &str, topic: &str, records: u64) -> Result<(), Box<dyn Error>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", tests::unique("plain"))
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "2")
        .create()?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&partitions)?;
    let schema = prediction_schema();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let writer = || ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties.clone()));
    let mut decoder = arrow_json::ReaderBuilder::new(schema.clone()).with_batch_size(16_384).build_decoder()?;
    let (mut file, mut rows, mut read) = (writer()?, 0, 0);
    while read < records {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message?;
        decoder.decode(message.payload().unwrap_or_default())?;
        read += 1;
        if read % 16_384 == 0 || read == records {
            if let Some(batch) = decoder.flush()? {
                rows += batch.num_rows();
                file.write(&batch)?;
            }
            if rows >= ROWS_PER_FILE {
                std::hint::black_box(file.into_inner()?);
                (file, rows) = (writer()?, 0);
            }
        }
    }
    std::hint::black_box(file.into_inner()?);
    Ok(())
}

/// sluice's task as the binary runs it, into a local directory.
fn sluice(bootstrap: &str, topic: &str, records: u64) -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let config: Config = [
        ("connector.class", "s3"),
        ("s3.bucket.name", "bench"),
        ("format.class", "parquet"),
        ("storage.class", "io.confluent.connect.s3.storage.S3Storage"),
        ("flush.size", &ROWS_PER_FILE.to_string()),
        ("store.url", &directory.path().display().to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let settings = Settings::new(config);
    let store = Store::open(&settings, &Environment::default())?;
    let format = writer::format(&settings)?;
    let layout = Layout::new(&settings, format.extension())?;
    let fingerprint = Fingerprint::of([&b"bench"[..]]);
    let names = layout.clone();
    let json = settings.below("value.converter.");
    let recipe = Recipe {
        converter: Box::new(move || {
            (CONVERTERS[0].build)(&json, Part::Value).expect("the json converter needs no key")
        }),
        key_converter: None,
        header_converter: None,
        transforms: Box::new(transform::Chain::default),
        partitioner: Box::new({
            let settings = settings.clone();
            move || {
                let plugin = partitioner_plugin(&settings).expect("the default partitioner");
                (plugin.build)(&settings).expect("it needs no key")
            }
        }),
        rotation: Rotation::new(&settings)?,
        null_values: NullValues::new(&settings)?,
        schema_rules: schema::SchemaRules::default(),
        errors: ErrorRules::of(Tolerance::None),
        kafka_columns: None,
        files: FileContext {
            store: store.clone(),
            format,
            object_key: Arc::new(move |view, whose, path, first| names.view_key(view, whose, path, first)),
            views: Views::default(),
            limits: FileLimits::new(&settings)?,
            schema: "".into(),
            config: fingerprint,
            tagging: None,
            shared_bytes: 0,
        },
        given_schema: None,
        fingerprint,
    };
    let client =
        [("bootstrap.servers", bootstrap), ("group.id", &tests::unique("sluice")), ("group.protocol", "consumer")];
    let client = client.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let budget = Budget::new(512 << 20);
    let mut source = SourceConfig::new(client, Subscription::Topics(vec![topic.to_owned()]));
    (source.fetch_bytes, source.queue_bytes_max) = (16 << 20, 8 << 20);
    let metrics = Metrics::default().task("bench", 0);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let task = Task {
            dead_letters: None,
            source: Arc::new(KafkaSource::new(source)?),
            recipe: Arc::new(recipe),
            committer: Arc::new(ObjectCommitter::new(store.clone(), OnExisting::Fail)),
            schemas: Arc::new(TopicSchemas::new(store, layout)),
            budget,
            clock: Arc::new(SystemClock),
            metrics: metrics.clone(),
            deadlines: Deadlines { drain: Duration::from_secs(60), revoke: Duration::from_secs(60) },
            pace: None,
            until_end: false,
            seed: 1,
        };
        let (steering, line) = control(Wanted::Run);
        let task = tokio::spawn(task.run(line));
        while metrics.records_read() < records {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        steering.ask(Wanted::Stop);
        task.await??;
        if metrics.records_published() != records {
            return Err(format!("{} of {records} records were published", metrics.records_published()).into());
        }
        Ok(())
    })
}
