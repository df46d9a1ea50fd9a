//! A table that lives for months: what its upkeep makes of the size of its log, of its files, and of the time, requests and
//! memory of a cold open. `SLUICE_SIM_COMMITS=100000 cargo test --workspace --test sim -- months --nocapture` prints the
//! figures of docs/benchmarks.md.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant as Stopwatch};

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, StructArray};
use arrow::datatypes::{Field, Fields, Schema};
use delta::{
    Compaction, Metrics, NewFile, Proposal, Removable, Table, TableMetrics, TableOptions, UpkeepOptions, Vacuum, Wish,
};
use futures::TryStreamExt;
use model::Values;
use object_store::memory::InMemory;
use object_store::{ObjectStore, path::Path};
use serde_json::Map;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use writer::{
    Abilities, Fate, FaultyStore, FileFooter, FileLimits, Format, ParquetFormat, Request, RetryRules, Store,
    TableFormat,
};

/// Commits of `cargo test`; `SLUICE_SIM_COMMITS` asks for more.
const COMMITS: i64 = 600;

/// How a table is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// As it is by default.
    Whole,
    /// Checkpoints alone, as before there was more.
    Checkpoints,
    /// Not at all.
    Not,
}

#[expect(clippy::disallowed_methods, reason = "a test is told how much to do")]
fn asked() -> Option<i64> {
    std::env::var("SLUICE_SIM_COMMITS").ok().map(|text| text.parse().expect("SLUICE_SIM_COMMITS is a number"))
}

fn format() -> TableFormat {
    TableFormat::new(ParquetFormat::new("snappy").expect("a codec"), [])
}

/// The defaults of the connector, whose unit of time is one commit here.
fn upkeep(unit: u32) -> UpkeepOptions {
    let every = |seconds: u64| Duration::from_secs(seconds) * unit;
    let limits =
        FileLimits { part_bytes: 25 << 20, rows_bytes: 1 << 20, row_group_bytes: 64 << 20, row_group_rows: 1 << 20 };
    UpkeepOptions {
        checkpoint_interval: Some(every(3_600)),
        log_cleanup_interval: Some(every(3_600)),
        compaction: Some(Compaction {
            interval: every(600),
            target_bytes: 128 << 20,
            format: Arc::new(format()),
            limits,
            turn: Arc::new(Semaphore::new(1)),
        }),
        vacuum: Some(Vacuum { interval: every(3_600), files: Removable::Own, upload_age: None }),
    }
}

/// What is in the store and what a cold open takes.
#[derive(Debug)]
#[expect(dead_code, reason = "for people")]
struct Health {
    log_objects: usize,
    log_bytes: u64,
    data_objects: usize,
    data_bytes: u64,
    open_ms: u128,
    open_requests: u64,
    open_bytes: u64,
}

struct Months {
    objects: Arc<InMemory>,
    faulty: FaultyStore,
    now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
    metrics: TableMetrics,
}

impl Months {
    fn new() -> Months {
        let objects = Arc::new(InMemory::new());
        let faulty = FaultyStore::new(objects.clone(), |_, _| Fate::Fine);
        let began = Instant::now();
        // The kernel has a clock of its own, by which it leaves removed files out of checkpoints. Behind it none is left out.
        let now_ms = move || 4_102_444_800_000 + i64::try_from(began.elapsed().as_millis()).expect("months only");
        faulty.set_clock(now_ms);
        Months { objects, faulty, now_ms: Arc::new(now_ms), metrics: Metrics::default().table("c", "t") }
    }

    fn store(&self) -> Store {
        let abilities = Abilities { metadata: true, conditional: true };
        Store::with(Arc::new(self.faulty.clone()), "lake", abilities, RetryRules::default(), 1)
    }

    async fn open(&self, kept: Kept, unit: u32) -> Table {
        let interval = ("delta.checkpointInterval".to_owned(), "1000000000".into());
        let options = TableOptions {
            connector: "c".to_owned(),
            location: "t".to_owned(),
            partition_columns: None,
            properties: Map::from_iter((kept == Kept::Not).then_some(interval)),
            merge_schema: false,
            user_metadata: None,
            linger: Duration::ZERO,
            now_ms: self.now_ms.clone(),
            seed: 1,
            upkeep: if kept == Kept::Whole { upkeep(unit) } else { UpkeepOptions::default() },
            metrics: self.metrics.clone(),
            encoded: Arc::new(|_| ()),
        };
        Table::open(self.store(), options).await.expect("a table")
    }

    /// `commits`, one each `unit` seconds, of a file with a hundred rows.
    async fn write(&self, table: &Table, commits: i64, unit: u32) {
        for number in 0..commits {
            let rows = predictions(number * 100);
            let schema = Arc::new(Schema::new(rows.fields().clone()));
            let mut encoder = format().open(&schema, None, &FileFooter::default()).expect("a schema");
            encoder.write(&[Values::Typed(rows)]).expect("rows");
            let bytes = encoder.finish(&FileFooter::default()).expect("a file");
            let name = format!("t+0+{number:020}-{number:016x}.snappy.parquet");
            self.store().create(&format!("t/{name}"), bytes.clone()).await.expect("in memory");
            let statistics = encoder.statistics().expect("statistics");
            let (size, partition_values) = (bytes.len() as u64, Map::new());
            let written_ms = (self.now_ms)();
            let file = NewFile { name, bytes: size, schema, partition_values, statistics, written_ms };
            let wish = Wish { app_id: "c:t:0".to_owned(), start: number, end: number + 1 };
            table.commit(Proposal { wish, files: vec![file], rows: Vec::new() }).await.expect("committed");
            sleep(Duration::from_secs(1) * unit).await;
        }
    }

    async fn health(&self, commits: i64) -> Health {
        let objects: Vec<_> = self.objects.list(Some(&Path::from("t"))).try_collect().await.expect("in memory");
        let (log, data): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| object.location.as_ref().starts_with("t/_"));
        let sum = |objects: &[object_store::ObjectMeta]| objects.iter().map(|object| object.size).sum();
        let requests =
            || [Request::Get, Request::Head, Request::List].map(|kind| self.faulty.count(kind)).iter().sum::<u64>();
        let (before, resident) = (requests(), resident(true));
        let began = Stopwatch::now();
        let table = self.open(Kept::Not, 1).await;
        let open_ms = began.elapsed().as_millis();
        assert_eq!(table.known().txns["c:t:0"], commits);
        Health {
            log_objects: log.len(),
            log_bytes: sum(&log),
            data_objects: data.len(),
            data_bytes: sum(&data),
            open_ms,
            open_requests: requests() - before,
            open_bytes: self::resident(false).saturating_sub(resident),
        }
    }
}

/// Bytes of memory that the process holds, at most since the last call that `forgets` (proc(5), VmHWM).
fn resident(forgets: bool) -> u64 {
    if forgets {
        let _ = std::fs::write("/proc/self/clear_refs", "5");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1_024
}

fn predictions(first: i64) -> StructArray {
    let numbers = || (first..first + 100).map(|number| number as f64 / 7.0);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(first..first + 100))),
        ("model", Arc::new(StringArray::from_iter_values(numbers().map(|number| format!("m{}", number as i64 % 3))))),
        ("prediction", Arc::new(Float64Array::from_iter_values(numbers()))),
        ("confidence", Arc::new(Float64Array::from_iter_values(numbers().map(f64::fract)))),
    ];
    let fields: Fields =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    StructArray::new(fields, columns.into_iter().map(|(_, column)| column).collect(), None)
}

/// The health of a table after `commits`, and what upkeep did for it.
async fn after(kept: Kept, commits: i64, unit: u32) -> (Health, BTreeMap<&'static str, u64>) {
    let months = Months::new();
    let table = months.open(kept, unit).await;
    months.write(&table, commits, unit).await;
    // The last turns of upkeep.
    sleep(Duration::from_secs(1_500) * unit).await;
    drop(table);
    let health = months.health(commits).await;
    let metrics = &months.metrics;
    let done = BTreeMap::from([
        ("checkpoints", metrics.checkpoints()),
        ("removed_log_objects", metrics.removed_log_objects()),
        ("compacted_files", metrics.compacted_files()),
        ("compacted_bytes", metrics.compacted_bytes()),
        ("vacuumed_files", metrics.vacuumed_files()),
    ]);
    (health, done)
}

#[expect(clippy::print_stdout, reason = "figures are asked for")]
#[tokio::test(start_paused = true)]
async fn months_of_commits_leave_a_table_that_is_opened_quickly() {
    let commits = asked().unwrap_or(COMMITS);
    let mut healths = Vec::new();
    // A commit each second, and each minute, which takes the larger number through several retentions of files and log.
    for (kept, unit) in [(Kept::Whole, 1), (Kept::Whole, 60), (Kept::Checkpoints, 1), (Kept::Not, 1)] {
        let (health, done) = after(kept, commits, unit).await;
        println!("{commits} commits, {unit} s apart, kept: {kept:?}: {health:?} {done:?}");
        healths.push((health, done));
    }
    let [(second, of_second), (_, of_minute), (checkpoints, _), (not, _)] = &healths[..] else { unreachable!("four") };
    assert!(second.open_requests <= 250, "{second:?}");
    assert!(not.open_requests > 2 * commits.unsigned_abs(), "{not:?}");
    assert!(of_second["compacted_files"] > commits.unsigned_abs() * 8 / 10, "{of_second:?}");
    assert!(
        of_second["compacted_bytes"] < 5 * checkpoints.data_bytes,
        "each byte is written a few times: {of_second:?}"
    );
    if commits >= 50_000 {
        assert!(of_minute["vacuumed_files"] > commits.unsigned_abs() / 2, "{of_minute:?}");
        assert!(of_minute["removed_log_objects"] > 0, "{of_minute:?}");
    }
}
