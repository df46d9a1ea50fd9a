//! The memory budget: a thousand open files of Parquet, several times more records than fit, and what the process takes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Need, Services, Sluice, Start};

use crate::support::Scene;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_thousand_open_files_stay_within_the_memory_budget_and_every_record_is_written_once",
        needs: &[Need::Kafka, Need::Minio, Need::Readers],
        run: thousand_open_files,
    },
    Test {
        name: "lanes_that_share_the_files_of_a_table_stay_within_the_memory_budget",
        needs: &[Need::Kafka, Need::Minio, Need::Readers],
        run: shared_files,
    },
];

/// Produces and counts without passing each record through the test: there are millions.
const SCRIPT: &str = concat!(include_str!("../src/py/store.py"), include_str!("py/memory.py"));

/// 200 partitions of 5 paths are 1,000 files open at once.
const PARTITIONS: u32 = 200;
const PATHS: usize = 5;

/// A quarter of the default, so that fewer records go several times over it; `SLUICE_MEMORY_BUDGET_MIB` sets another.
const BUDGET_MIB: u64 = 128;

/// What the program itself, librdkafka's queues unpacked, 200 lanes and the allocator's reserve take on top of the budget:
/// 125 MiB were measured with a budget of 128 MiB, 137 to 157 with 512, which makes less than 700 together.
const BESIDE_MIB_MAX: u64 = 187;

/// For each MiB of the budget; about 370 bytes each, and half of that as columns.
const RECORDS_A_MIB: u64 = 12_000;

/// A file that is closed for want of memory holds no fewer rows than this, on average: not one file per batch.
const ROWS_A_FILE_MIN: u64 = 500;

/// Longest time for the whole job on a busy machine, and for one script.
const LIMIT: Duration = Duration::from_secs(600);

fn thousand_open_files() -> Outcome {
    let scene = Scene::new("memory", PARTITIONS)?;
    let config = scene.config(json!({
        "partitioner.class": "io.confluent.connect.storage.partitioner.FieldPartitioner",
        "partition.field.name": "model_name",
        "flush.size": "100000000",
        "rotate.schedule.interval.ms": null,
    }));
    let found = goes_through(&scene, &config, RECORDS_A_MIB)?;
    let files = found["files"].as_u64().unwrap_or(u64::MAX);
    assert!(files >= u64::from(PARTITIONS) * PATHS as u64, "{found}");
    Ok(())
}

/// Half as many records, which the table takes a minute at a time.
fn shared_files() -> Outcome {
    let scene = Scene::new("memory-table", PARTITIONS)?;
    let config = json!({
        "connector.class": "delta",
        "topics": scene.topic,
        "path": format!("s3://{}/t", scene.bucket),
        "store.url": scene.store.endpoint(),
        "partitionBy": "model_name",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
    });
    goes_through(&scene, &config, RECORDS_A_MIB / 2)?;
    Ok(())
}

/// Takes so many records for each MiB of the budget through a connector; what the bucket holds then.
fn goes_through(scene: &Scene, config: &Value, records_a_mib: u64) -> Result<Value, Error> {
    let budget_mib = tests::setting("SLUICE_MEMORY_BUDGET_MIB", BUDGET_MIB);
    let (budget_bytes, records) = (budget_mib << 20, budget_mib * records_a_mib);
    let readers = Services::readers()?;
    let produced = json!({
        "bootstrap": scene.kafka.bootstrap(), "topic": scene.topic, "partitions": PARTITIONS, "records": records,
    });
    let bytes: u64 = readers.begin(SCRIPT, "produce_many", &produced, LIMIT)?.finish()?;
    assert!(bytes > 2 * budget_bytes, "{bytes} bytes are not several times the budget");

    let sluice = Sluice::start(|place| {
        let mut start = Start::worker(scene.kafka.bootstrap(), scene.store, place);
        start.environment.push(("SLUICE_MEMORY_BUDGET_BYTES".to_owned(), budget_bytes.to_string()));
        Ok(start)
    })?;
    let began = Instant::now();
    sluice.create(&scene.connector, config)?;
    let peak = write_all(&sluice, scene, records)?;
    let took = began.elapsed();
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());

    let request = scene.store.request(json!({"bucket": scene.bucket, "records": records}));
    let found: Value = readers.begin(SCRIPT, "count_once", &request, LIMIT)?.finish()?;
    tests::announce(&format!(
        "memory: {records} records, {bytes} bytes, peak {} MiB, {:.0} records/s, {found}",
        peak >> 20,
        records as f64 / took.as_secs_f64()
    ));
    assert_eq!(found["records"], json!(records), "{found}");
    assert_eq!(found["duplicates"], json!(0), "{found}");
    assert_eq!(found["missing"], json!(0), "{found}");
    let files = found["files"].as_u64().unwrap_or(u64::MAX);
    assert!(records / files >= ROWS_A_FILE_MIN, "too many files: {found}");
    assert!(peak >> 20 < budget_mib + BESIDE_MIB_MAX, "the process took {} MiB", peak >> 20);
    Ok(found)
}

/// Waits until every record is in a file, open or closed, and nothing stands still on the way; the most that the process
/// ever held, in bytes.
fn write_all(sluice: &Sluice, scene: &Scene, records: u64) -> Result<u64, Error> {
    const STANDSTILL_MAX: Duration = Duration::from_secs(30);
    let (mut written, mut moved) = (0, Instant::now());
    sluice.wait_within(LIMIT, "every record is written", |sluice| {
        let now = sluice.metric("kafka_connect_sink_task_metrics_sink_record_send_total", &scene.connector)?;
        if now > written {
            (written, moved) = (now, Instant::now());
        }
        assert!(moved.elapsed() < STANDSTILL_MAX, "nothing moved for {STANDSTILL_MAX:?} at {written} records");
        Ok((now >= records).then_some(()))
    })?;
    sluice.peak_memory_bytes()
}
