//! From a real broker to Parquet: sluice's own pipeline beside the plain loop (poll, arrow-json, ArrowWriter and nothing
//! else), each in a process of its own under the same allocator, several times in turn. Each runs twice in a row; the
//! first run warms broker and machine and does not count.
//!
//! `cargo bench -p pipeline --bench end_to_end`. Environment: `SLUICE_BENCH_RECORDS` (default 2,000,000),
//! `SLUICE_BENCH_ROUNDS` (3), `SLUICE_TEST_KAFKA` (a running broker instead of an own one).

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads clock and environment itself")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use model::{Config, Fingerprint, Settings};
use pipeline::{
    Budget, Deadlines, ErrorRules, Metrics, Recipe, SystemClock, Task, Tolerance, TopicSchemas, Wanted, control,
};
use plain::{Costs, PARTITIONS, ROWS_PER_FILE, measured, number, plain_loop, produce, run};
use schema::{CONVERTERS, Part};
use source::{KafkaSource, SourceConfig, Subscription};
use writer::{
    Environment, FileContext, FileLimits, Layout, NullValues, ObjectCommitter, OnExisting, Rotation, Store, Views,
    partitioner_plugin,
};

mod plain;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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

fn compare() -> Result<(), Box<dyn Error>> {
    let (records, rounds) = (number("SLUICE_BENCH_RECORDS", 2_000_000), number("SLUICE_BENCH_ROUNDS", 3));
    let kafka = tests::Services::kafka()?;
    let topic = tests::unique("bench");
    kafka.create_topic(&topic, PARTITIONS as u32)?;
    produce(kafka.bootstrap(), &topic, records)?;
    let mut costs = Costs::default();
    for _ in 0..rounds {
        for side in ["plain", "sluice"] {
            run(side, kafka.bootstrap(), &topic, records)?;
            costs.note(side, run(side, kafka.bootstrap(), &topic, records)?);
        }
    }
    costs.compare("sluice");
    tests::stop_all();
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
