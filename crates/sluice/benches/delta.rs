//! From a real broker to a Delta table: the program as it is, with commits every 60 s and every second, beside the plain loop,
//! several times in turn; and what a commit takes, on MinIO and at a steady rate: its time and its requests.
//!
//! `cargo bench -p sluice --bench delta`. Environment: `SLUICE_BENCH_RECORDS` (default 4,000,000), `SLUICE_BENCH_ROUNDS` (5),
//! `SLUICE_BENCH_SECONDS` of commits (120).

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads clock and environment itself")]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use plain::{Cost, Costs, PARTITIONS, measured, number, plain_loop, prediction, produce, run};
use serde_json::{Value, json};
use source::Producer;
use tests::{Kafka, S3, Services, Sluice, unique};

#[path = "../../pipeline/benches/plain/mod.rs"]
mod plain;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As many records a second as a busy topic of predictions has.
const RATE: u64 = 20_000;

/// Longer than any run.
const LIMIT: Duration = Duration::from_secs(600);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("--side") => {
            let (bootstrap, topic, records) = (&arguments[3], &arguments[4], arguments[5].parse()?);
            let cost = measured(records, || plain_loop(bootstrap, topic, records))?;
            println!("{}", serde_json::to_string(&cost)?);
            Ok(())
        }
        // `cargo test --benches` and `--list` must not start a broker.
        Some("--bench") => {
            compare()?;
            commits()?;
            tests::stop_all();
            Ok(())
        }
        _ => Ok(()),
    }
}

fn compare() -> Result<(), Box<dyn Error>> {
    let (records, rounds) = (number("SLUICE_BENCH_RECORDS", 4_000_000), number("SLUICE_BENCH_ROUNDS", 5));
    let (kafka, store) = (Services::kafka()?, Services::minio()?);
    let topic = unique("bench");
    kafka.create_topic(&topic, PARTITIONS as u32)?;
    produce(kafka.bootstrap(), &topic, records)?;
    let mut costs = Costs::default();
    // The first round warms broker and machine and does not count.
    for round in 0..=rounds {
        let sides = [
            ("plain", run("plain", kafka.bootstrap(), &topic, records)?),
            ("delta, 60 s", table(kafka, store, &topic, records, 60_000)?),
            ("delta, 1 s", table(kafka, store, &topic, records, 1_000)?),
        ];
        if round > 0 {
            sides.into_iter().for_each(|(side, cost)| costs.note(side, cost));
        }
    }
    costs.compare("delta, 60 s");
    costs.compare("delta, 1 s");
    Ok(())
}

fn connector(topic: &str, path: &str, commit_interval_ms: u64) -> Value {
    json!({"name": unique("bench"), "config": {
        "connector.class": "delta",
        "topics": topic,
        "path": path,
        "commit.interval.ms": commit_interval_ms.to_string(),
        "value.converter": "json",
        "value.converter.schemas.enable": "false",
        "s3.region": S3::REGION,
        "consumer.override.auto.offset.reset": "earliest",
        "consumer.override.group.protocol": "consumer",
    }})
}

/// The program from its start until all records are in a table in a local directory. What commits every 60 s has a commit
/// when files are full and one when it stops.
fn table(
    kafka: &Kafka,
    store: &S3,
    topic: &str,
    records: u64,
    commit_interval_ms: u64,
) -> Result<Cost, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("table").display().to_string();
    let connector = connector(topic, &path, commit_interval_ms);
    let name = connector["name"].as_str().unwrap_or_default();
    let started = Instant::now();
    let sluice = Sluice::run(kafka, store, &connector)?;
    sluice.wait_within(LIMIT, "all records are read", |sluice| {
        let read = sluice.metric("kafka_connect_sink_task_metrics_sink_record_send_total", name)?;
        Ok((read >= records).then_some(()))
    })?;
    sluice.put(&format!("/connectors/{name}/stop"), None)?;
    sluice.wait_within(LIMIT, "all records are in the table", |sluice| {
        Ok((sluice.published(name)? >= records).then_some(()))
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let cost = Cost { records, seconds, cpu_seconds: sluice.cpu_seconds()?, peak_bytes: sluice.peak_memory_bytes()? };
    sluice.terminate()?;
    Ok(cost)
}

/// Produces at `rate` records a second for so long.
fn produce_at(bootstrap: &str, topic: &str, rate: u64, lasting: Duration) -> Result<(), Box<dyn Error>> {
    let (producer, started, mut sent) = (Producer::new(bootstrap)?, Instant::now(), 0);
    while started.elapsed() < lasting {
        let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
        for number in sent..due {
            let partition = (number % PARTITIONS as u64) as i32;
            producer.produce(topic, partition, None, Some(prediction(number).as_bytes()), 1_700_000_000_000)?;
        }
        sent = due;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(producer.flush(Duration::from_secs(120))?)
}

/// Commits every second to MinIO while records come at [`RATE`].
fn commits() -> Result<(), Box<dyn Error>> {
    let (kafka, store) = (Services::kafka()?, Services::minio()?);
    let (topic, bucket) = (unique("commits"), unique("commits"));
    kafka.create_topic(&topic, PARTITIONS as u32)?;
    store.create_bucket(&bucket)?;
    let mut connector = connector(&topic, &format!("s3://{bucket}/table"), 1_000);
    connector["config"]["store.url"] = json!(store.endpoint());
    let name = connector["name"].as_str().unwrap_or_default();
    let sluice = Sluice::run(kafka, store, &connector)?;
    let seconds = number("SLUICE_BENCH_SECONDS", 120);
    // What comes before is the making of the table.
    produce_at(kafka.bootstrap(), &topic, RATE, Duration::from_secs(5))?;
    let before = Samples::of(&sluice, name)?;
    produce_at(kafka.bootstrap(), &topic, RATE, Duration::from_secs(seconds))?;
    let after = Samples::of(&sluice, name)?;
    sluice.terminate()?;
    after.since(&before).print();
    Ok(())
}

/// Samples of the metrics of a connector: names with the label that tells them apart.
struct Samples(BTreeMap<(String, String), f64>);

impl Samples {
    fn of(sluice: &Sluice, connector: &str) -> Result<Samples, Box<dyn Error>> {
        let body = sluice.get("/metrics")?.body;
        let of_connector = format!("connector=\"{connector}\"");
        let lines = body.as_str().unwrap_or_default().lines().filter(|line| line.contains(&of_connector));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{')?;
            let label = |name: &str| labels.split(&format!("{name}=\"")).nth(1)?.split('"').next().map(str::to_owned);
            let told_apart = label("operation").or_else(|| label("le")).unwrap_or_default();
            Some(((name.to_owned(), told_apart), value.parse().ok()?))
        };
        Ok(Samples(lines.filter_map(sample).collect()))
    }

    fn since(&self, before: &Samples) -> Samples {
        let change = |(key, value): (&(String, String), &f64)| {
            (key.clone(), value - before.0.get(key).copied().unwrap_or_default())
        };
        Samples(self.0.iter().map(change).collect())
    }

    /// The values of a metric by their labels.
    fn all(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        let name = name.to_owned();
        self.0.iter().filter(move |((of, _), _)| *of == name).map(|((_, label), value)| (label.as_str(), *value))
    }

    fn one(&self, name: &str) -> f64 {
        self.all(name).map(|(_, value)| value).sum()
    }

    /// The bound below which the share `quantile` of the commits are, between two bounds of the histogram as
    /// `histogram_quantile` of Prometheus has it.
    fn milliseconds(&self, quantile: f64) -> f64 {
        let mut buckets: Vec<(f64, f64)> = self
            .all("sluice_delta_commit_seconds_bucket")
            .map(|(bound, count)| (bound.parse().unwrap_or(f64::INFINITY), count))
            .collect();
        buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        let wanted = quantile * buckets.last().map_or(0.0, |(_, count)| *count);
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= wanted {
                let share = (wanted - below) / (count - below).max(1.0);
                return if bound.is_finite() { (low + (bound - low) * share) * 1e3 } else { low * 1e3 };
            }
            (low, below) = (bound, count);
        }
        f64::NAN
    }

    fn print(&self) {
        let commits = self.one("sluice_delta_commits_total");
        println!(
            "{commits} commits at {RATE} records a second: p50 {:.0} ms, p99 {:.0} ms; {:.2} files of {:.0} kB each",
            self.milliseconds(0.5),
            self.milliseconds(0.99),
            self.one("sluice_delta_added_files_total") / commits,
            self.one("sluice_delta_added_bytes_total") / self.one("sluice_delta_added_files_total") / 1e3,
        );
        for (operation, count) in self.all("sluice_store_requests_total") {
            println!("  {operation}: {:.2} a commit", count / commits);
        }
    }
}
