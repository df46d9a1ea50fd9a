//! `sluice quickstart`: the main job with nothing installed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::Config;
use pipeline::{Clock, SystemClock, TaskMetrics, Wanted, control};
use source::{EmbeddedBroker, Producer};
use supervisor::{Assembly, TaskId};

use crate::assemble::House;
use crate::cli::QuickstartOptions;
use crate::connector_file;
use crate::failure::Failure;
use crate::run::runtime;
use crate::table;
use crate::worker::{BOOTSTRAP_SERVERS, Worker};

/// The connector of the repository, so that the binary alone is enough.
const CONNECTOR: &str = include_str!("../../../connectors/my-model.json");

/// The embedded broker keeps 5 MiB or 100,000 records a partition: the producer may be this far ahead of the connector
/// over all partitions together.
const AHEAD_MAX: u64 = 16_000;

const PARTITIONS: i32 = 4;
const ROWS_SHOWN: usize = 5;
const OBJECTS_SHOWN: usize = 8;
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// Starts a broker, produces predictions, runs the connector into a directory, and shows what it wrote.
pub(crate) fn run(options: &QuickstartOptions) -> Result<(), Failure> {
    let (name, mut config, origin) = connector(options)?;
    let topic = config.get("topics").map(|topics| topics.trim().to_owned()).unwrap_or_default();
    if topic.is_empty() || topic.contains(',') {
        return Err(Failure::Invalid("the quickstart runs a connector of one topic, named by topics".to_owned()));
    }
    let output = next_run(&options.output)?;
    for (key, value) in
        [("store.url", output.display().to_string()), ("flush.size", flush_size(options.records).to_string())]
    {
        config.insert(key.to_owned(), value);
    }
    let failed = |error: source::EmbeddedError| Failure::Run(error.to_string());
    let broker = EmbeddedBroker::start().map_err(failed)?;
    broker.create_topic(&topic, PARTITIONS).map_err(failed)?;
    say(&format!(
        "connector {name} from {origin}, topic {topic} on an embedded broker with {PARTITIONS} partitions, {} predictions\n\
         changed for this run: store.url = {}, flush.size = {}",
        table::grouped(options.records),
        output.display(),
        config["flush.size"],
    ));
    // The embedded broker is quick with the newer group protocol only, and lets a fetch that finds nothing wait its time
    // out even if records come in.
    let worker = [
        (BOOTSTRAP_SERVERS.name, broker.bootstrap_servers()),
        ("consumer.group.protocol", "consumer"),
        ("consumer.fetch.max.wait.ms", "5"),
    ];
    let worker = worker.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let worker = Worker::new(worker).map_err(|error| Failure::Worker(error.to_string()))?;
    let house = Arc::new(House::new(worker, std::collections::BTreeMap::new()));
    let (errors, _) = crate::validate::problems(&house, &config);
    if let Some(error) = errors.first() {
        return Err(Failure::Invalid(error.clone()));
    }
    let started = Instant::now();
    let work = work(&house, &name, config, broker.bootstrap_servers(), &topic, options.records);
    let metrics = runtime()?.block_on(work)?;
    show(&output, &metrics, started.elapsed())
}

fn connector(options: &QuickstartOptions) -> Result<(String, Config, String), Failure> {
    match &options.connector {
        Some(path) => connector_file::read(path).map(|(name, config)| (name, config, path.display().to_string())),
        None => {
            let (name, config) = connector_file::parse_json(CONNECTOR).map_err(Failure::Invalid)?;
            Ok((name, config, "connectors/my-model.json".to_owned()))
        }
    }
}

/// Files of a readable number: some for each partition.
fn flush_size(records: u64) -> u64 {
    (records / 8).clamp(2, 50_000)
}

/// A directory of its own for each run: the embedded broker forgets its offsets when it ends, so an earlier run cannot be
/// continued, and what it wrote is not touched.
fn next_run(output: &Path) -> Result<PathBuf, Failure> {
    let fail = |source| Failure::Write { path: output.to_owned(), source };
    std::fs::create_dir_all(output).map_err(fail)?;
    let output = output.canonicalize().map_err(fail)?;
    for number in 1.. {
        let run = output.join(format!("run-{number}"));
        match std::fs::create_dir(&run) {
            Ok(()) => {
                if number > 1 {
                    say(&format!(
                        "{} holds earlier runs, which stay as they are: an embedded broker forgets its offsets, so this run \
                         starts anew in run-{number}",
                        output.display()
                    ));
                }
                return Ok(run);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(fail(error)),
        }
    }
    unreachable!("there are more numbers than directories")
}

#[expect(clippy::print_stderr, reason = "progress is for the person at the terminal")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// Produces and consumes at the same time, then drains; returns what was counted.
async fn work(
    house: &Arc<House>,
    name: &str,
    config: Config,
    bootstrap_servers: &str,
    topic: &str,
    records: u64,
) -> Result<TaskMetrics, Failure> {
    let metrics = house.metrics.task(name, 0);
    let (steering, line) = control(Wanted::Run);
    let task_id = TaskId { connector: name.to_owned(), task: 0 };
    let mut task = {
        let house = house.clone();
        tokio::spawn(async move { house.run_task(task_id, config, line).await })
    };
    let produced = Arc::new(AtomicU64::new(0));
    let producer = {
        let (produced, metrics) = (produced.clone(), metrics.clone());
        let (servers, topic) = (bootstrap_servers.to_owned(), topic.to_owned());
        // A thread that nobody waits for when the connector ends early.
        std::thread::spawn(move || produce(&servers, &topic, records, &produced, &metrics))
    };
    let mut last = (0, Instant::now());
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            biased;
            ended = &mut task => {
                let why = ended.map_err(|error| error.to_string()).and_then(|outcome| outcome.map_err(|failure| failure.trace));
                return Err(Failure::Run(format!("the connector ended early: {}", why.err().unwrap_or_default())));
            }
            _ = tick.tick() => {}
        }
        progress(&metrics, produced.load(Ordering::Relaxed));
        let read = metrics.records_read();
        if read >= records {
            break;
        }
        if read != last.0 {
            last = (read, Instant::now());
        } else if last.1.elapsed() > STALLED_AFTER {
            return Err(Failure::Run(format!(
                "nothing was read for {STALLED_AFTER:?}; {read} of {records} records were"
            )));
        }
    }
    steering.ask(Wanted::Stop);
    let ended = task.await.map_err(|error| Failure::Run(error.to_string()))?;
    ended.map_err(|failure| Failure::Run(failure.trace))?;
    let produced = producer.join().map_err(|_| Failure::Run("the producer panicked".to_owned()))?;
    produced.map_err(|error| Failure::Run(error.to_string()))?;
    if metrics.records_published() != records {
        return Err(Failure::Run(format!("{} of {records} records were written", metrics.records_published())));
    }
    Ok(metrics)
}

fn progress(metrics: &TaskMetrics, produced: u64) {
    let published = metrics.records_published();
    say(&format!(
        "records {:>11}  files {:>5}  bytes {:>9}  lag {:>9}",
        table::grouped(published),
        metrics.files_published(),
        table::bytes(metrics.bytes_published()),
        table::grouped(produced.saturating_sub(published)),
    ));
}

/// Writes predictions as a model server does, never further ahead than the embedded broker keeps.
fn produce(
    bootstrap_servers: &str,
    topic: &str,
    records: u64,
    produced: &AtomicU64,
    metrics: &TaskMetrics,
) -> Result<(), source::EmbeddedError> {
    let producer = Producer::new(bootstrap_servers)?;
    let clock = SystemClock;
    let mut value = String::new();
    for number in 0..records {
        while number >= metrics.records_read() + AHEAD_MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
        prediction(number, &mut value);
        let partition = (number % PARTITIONS as u64) as i32;
        producer.produce(topic, partition, None, Some(value.as_bytes()), clock.now_ms())?;
        produced.store(number + 1, Ordering::Relaxed);
    }
    producer.flush(Duration::from_secs(60))
}

/// One prediction as JSON, the same for the same number.
fn prediction(number: u64, value: &mut String) {
    use std::fmt::Write;
    let noise = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) ^ number;
    let age = 18 + noise % 72;
    let region = ["north", "east", "south", "west"][(noise >> 8) as usize % 4];
    let confidence = (500_000 + noise % 500_000) as f64 / 1e6;
    value.clear();
    let _ = write!(
        value,
        r#"{{"id":"{noise:016x}-{number:08x}","model_name":"insurance","model_version":"1.2.0","inputs":{{"age":{age},"previously_insured":{},"region":"{region}"}},"outputs":{{"will_buy_insurance":{},"confidence":{confidence}}}}}"#,
        noise & 1 == 0,
        noise & 2 == 0,
    );
}

/// Prints objects, schema, first rows and rate.
#[expect(clippy::print_stdout, reason = "the answer of the command")]
fn show(output: &Path, metrics: &TaskMetrics, elapsed: Duration) -> Result<(), Failure> {
    let read_error = |source| Failure::Read { path: output.to_owned(), source };
    let files: Vec<PathBuf> = table::files_below(output)
        .map_err(read_error)?
        .into_iter()
        .filter(|file| file.extension().is_some_and(|end| end == "parquet"))
        .collect();
    println!("\n{} objects in {}", files.len(), output.display());
    for file in files.iter().take(OBJECTS_SHOWN) {
        let size = std::fs::metadata(file).map_err(read_error)?.len();
        println!("  {:>9}  {}", table::bytes(size), file.strip_prefix(output).unwrap_or(file).display());
    }
    if files.len() > OBJECTS_SHOWN {
        println!("  ... and {} more", files.len() - OBJECTS_SHOWN);
    }
    let Some(first) = files.first() else { return Err(Failure::Run("no object was written".to_owned())) };
    let bytes = std::fs::read(first).map_err(read_error)?;
    let preview = writer::preview(bytes.into(), ROWS_SHOWN).map_err(Failure::Run)?;
    println!("\nschema of the first one\n{}\nits first rows\n{}", preview.schema, preview.rows);
    let seconds = elapsed.as_secs_f64();
    println!(
        "\n{} records in {seconds:.1} s: {} records/s, {} of Parquet; each is in exactly one object",
        table::grouped(metrics.records_published()),
        table::grouped((metrics.records_published() as f64 / seconds) as u64),
        table::bytes(metrics.bytes_published()),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_are_json_and_differ() {
        let mut texts = std::collections::BTreeSet::new();
        for number in 0..100 {
            let mut text = String::new();
            prediction(number, &mut text);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(value["outputs"]["confidence"].as_f64().unwrap() >= 0.5, "{text}");
            texts.insert(text);
        }
        assert_eq!(texts.len(), 100);
    }

    #[test]
    fn each_run_has_a_directory_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("q");
        let runs: Vec<_> = (0..2).map(|_| next_run(&output).unwrap()).collect();
        assert!(runs[0].ends_with("q/run-1") && runs[1].ends_with("q/run-2"));
    }
}
