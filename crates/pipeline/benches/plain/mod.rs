//! The plain loop (poll, arrow-json, ArrowWriter and nothing else), what it reads, and how a side of a comparison is measured.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use source::Producer;

pub(crate) const PARTITIONS: i32 = 4;
pub(crate) const ROWS_PER_FILE: usize = 250_000;

/// What one run of one side cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) records: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_bytes: u64,
}

/// What the runs of each side cost.
#[derive(Debug, Default)]
pub(crate) struct Costs(BTreeMap<&'static str, Vec<Cost>>);

impl Costs {
    /// Prints and keeps what a run of `side` cost.
    pub(crate) fn note(&mut self, side: &'static str, cost: Cost) {
        print(side, cost);
        self.0.entry(side).or_default().push(cost);
    }

    /// Prints the medians of `side` beside those of the plain loop.
    pub(crate) fn compare(&self, side: &str) {
        let median = |side: &str, of: fn(&Cost) -> f64| {
            let mut values: Vec<f64> = self.0[side].iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let ratio = |of: fn(&Cost) -> f64| median(side, of) / median("plain", of);
        println!(
            "{side} / plain loop, medians of {}: messages per CPU-second {:.2}, messages per second {:.2}, peak memory {:.2}",
            self.0[side].len(),
            ratio(|cost| cost.records as f64 / cost.cpu_seconds),
            ratio(|cost| cost.records as f64 / cost.seconds),
            ratio(|cost| cost.peak_bytes as f64),
        );
    }
}

pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One side in a process of its own.
pub(crate) fn run(side: &str, bootstrap: &str, topic: &str, records: u64) -> Result<Cost, Box<dyn Error>> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--side", side, bootstrap, topic, &records.to_string()])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    serde_json::from_str(text.trim()).map_err(|error| format!("{side}: {error}: {text}").into())
}

fn print(side: &str, cost: Cost) {
    println!(
        "{side:>11}: {:>9.0} msg/s  {:>9.0} msg/CPU-s  {:>6.2} CPU-s  {:>5.0} MB peak",
        cost.records as f64 / cost.seconds,
        cost.records as f64 / cost.cpu_seconds,
        cost.cpu_seconds,
        cost.peak_bytes as f64 / 1e6,
    );
}

pub(crate) fn measured(
    records: u64,
    work: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<Cost, Box<dyn Error>> {
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

pub(crate) fn prediction(number: u64) -> String {
    let noise = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!(
        r#"{{"id": "{noise:016x}-{number:016x}", "model_name": "insurance", "model_version": "1.2.0", "inputs": {{"age": {}, "previously_insured": {}}}, "outputs": {{"will_buy_insurance": {}, "confidence": {}}}}}"#,
        18 + noise % 72,
        noise & 1 == 0,
        noise & 2 == 0,
        (500_000 + noise % 500_000) as f64 / 1e6,
    )
}

pub(crate) fn produce(bootstrap: &str, topic: &str, records: u64) -> Result<(), Box<dyn Error>> {
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
pub(crate) fn plain_loop(bootstrap: &str, topic: &str, records: u64) -> Result<(), Box<dyn Error>> {
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
