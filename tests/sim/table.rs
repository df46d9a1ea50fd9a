//! Whole tasks that write to a Delta table: crashes, zombies and a store that fails and does what it says it did not do; beside
//! them compaction, checkpoints and vacuum, which leave every version that a reader may have opened as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use delta::{Compaction, DeltaCommitter, Removable, Table, TableMetrics, TableOptions, UpkeepOptions, Vacuum, app_id};
use model::{Offset, TopicPartition};
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, path::Path};
use pipeline::{Budget, Clock, Deadlines, Metrics, Task, TaskError, Wanted, control};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use source::{MemberId, MemoryLog, Recovered, Recovery, Source, Subscription};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use writer::conformance::read_parquet;
use writer::{
    Abilities, ColumnsPartitioner, Fate, FaultyStore, FileLimits, ObjectCommitter, OnExisting, ParquetFormat, Request,
    RetryRules, Store, TableFormat,
};

use crate::recipe::recipe;

const GROUP: &str = "connect-c";
const LANES: i32 = 2;

/// Worlds of `cargo test`.
const SEEDS: u64 = 8;

struct Wall(Instant);

impl Clock for Wall {
    fn now_ms(&self) -> i64 {
        // Ahead of the kernel's own clock, by which it leaves removed files out of checkpoints.
        4_102_444_800_000 + i64::try_from(self.0.elapsed().as_millis()).expect("a short world")
    }
}

/// The table tells where lanes start, until the process is dead: the log keeps what its members came with.
struct Authority(Mutex<Option<Table>>);

#[async_trait]
impl Recovery for Authority {
    async fn recover(
        &self,
        partitions: &[TopicPartition],
        _: &BTreeMap<String, String>,
    ) -> Result<Vec<Recovered>, source::Error> {
        let gone = || source::Error::Unavailable("the process is dead".to_owned());
        let table = self.0.lock().expect("no panic holds it").clone().ok_or_else(gone)?;
        let known = table.look().await.map_err(|error| source::Error::Unavailable(error.to_string()))?;
        let start = |lane: &TopicPartition| known.txns.get(&app_id("c", lane)).and_then(|at| Offset::new(*at));
        let known = partitions.iter().filter_map(|lane| {
            Some(Recovered { topic_partition: lane.clone(), start: start(lane)?, metadata: String::new() })
        });
        Ok(known.collect())
    }

    fn is_authority(&self) -> bool {
        true
    }
}

struct World {
    log: MemoryLog,
    objects: Arc<InMemory>,
    faulty: FaultyStore,
    wall: Arc<Wall>,
    seed: u64,
    /// Whether requests meet bad fates.
    is_stormy: Arc<AtomicBool>,
    metrics: TableMetrics,
}

/// Each as often as it can be.
fn upkeep() -> UpkeepOptions {
    let every = Duration::from_secs;
    let limits =
        FileLimits { part_bytes: 8 << 20, rows_bytes: 1 << 20, row_group_bytes: 1 << 20, row_group_rows: 1 << 20 };
    UpkeepOptions {
        checkpoint_interval: Some(every(7)),
        log_cleanup_interval: Some(every(11)),
        compaction: Some(Compaction {
            interval: every(2),
            target_bytes: 1 << 20,
            format: Arc::new(TableFormat::new(ParquetFormat::new("snappy").expect("a codec"), [])),
            limits,
            turn: Arc::new(Semaphore::new(1)),
        }),
        vacuum: Some(Vacuum { interval: every(3), files: Removable::Own, upload_age: None }),
    }
}

struct Running {
    member: MemberId,
    task: JoinHandle<Result<(), TaskError>>,
    authority: Arc<Authority>,
}

impl Running {
    /// The process dies.
    fn end(&self, log: &MemoryLog) {
        self.task.abort();
        self.authority.0.lock().expect("no panic holds it").take();
        log.kill(self.member);
    }
}

impl World {
    fn new(seed: u64) -> World {
        let log = MemoryLog::new();
        log.create_topic("t", LANES);
        log.set_batch_rows_max(7);
        let (objects, dice) = (Arc::new(InMemory::new()), Mutex::new(StdRng::seed_from_u64(seed)));
        let is_stormy = Arc::new(AtomicBool::new(true));
        let is_calm = is_stormy.clone();
        let faulty = FaultyStore::new(objects.clone(), move |request, key| {
            // The kernel writes checkpoints on a clock of its own.
            let is_kernel = key.contains(".checkpoint.") || key.ends_with("_last_checkpoint");
            if !is_calm.load(Ordering::Relaxed) || request != Request::Put || is_kernel {
                return Fate::Fine;
            }
            let mut dice = dice.lock().expect("no panic holds it");
            match dice.random_range(0..16) {
                0 => Fate::FailBefore,
                1 | 2 => Fate::FailAfter,
                3 => Fate::HangThenHappen(Duration::from_millis(dice.random_range(1..15_000))),
                4 => Fate::Slow(Duration::from_millis(dice.random_range(1..2_000))),
                5 => Fate::Conflict,
                _ => Fate::Fine,
            }
        });
        let wall = Arc::new(Wall(Instant::now()));
        let clock = wall.clone();
        faulty.set_clock(move || clock.now_ms());
        let metrics = delta::Metrics::default().table("c", "t");
        World { log, objects, faulty, wall, seed, is_stormy, metrics }
    }

    async fn start(&self, life: u64) -> Option<Running> {
        let rules = RetryRules {
            attempts: 2,
            backoff: Duration::from_millis(20),
            attempt_timeout: Duration::from_secs(3),
            redelivery: Duration::from_millis(500),
            ..RetryRules::default()
        };
        let abilities = Abilities { metadata: true, conditional: true };
        let store = Store::with(Arc::new(self.faulty.handle(&life.to_string())), "lake", abilities, rules, life);
        let clock = self.wall.clone();
        let options = TableOptions {
            location: "t".to_owned(),
            partition_columns: None,
            properties: serde_json::Map::from_iter([("delta.checkpointInterval".to_owned(), "10".into())]),
            merge_schema: true,
            linger: Duration::from_millis(50),
            now_ms: Arc::new(move || clock.now_ms()),
            seed: self.seed * 1_000 + life,
            upkeep: upkeep(),
            metrics: self.metrics.clone(),
        };
        let table = Table::open(store.clone(), options).await.ok()?;
        let pairs = vec![
            ("topics.dir", "t/_sluice".to_owned()),
            ("flush.size", "11".to_owned()),
            ("rotate.schedule.interval.ms", "1000".to_owned()),
        ];
        let limits =
            FileLimits { part_bytes: 8 << 20, rows_bytes: 1 << 20, row_group_bytes: 1 << 20, row_group_rows: 1 << 20 };
        let (mut recipe, schemas) = recipe(&pairs, 0, limits, &store);
        recipe.files.format = Arc::new(TableFormat::new(ParquetFormat::new("snappy").expect("a codec"), []));
        recipe.partitioner = Box::new(|| Box::new(ColumnsPartitioner::new(Vec::new())));
        recipe.files.object_key =
            Arc::new(move |_, lane, _, first| format!("t/{}+{first}-{life:016x}.parquet", lane.partition));
        let authority = Arc::new(Authority(Mutex::new(Some(table.clone()))));
        let recovery: Arc<dyn Recovery> = authority.clone();
        let source = self.log.join_with(GROUP, Subscription::Topics(vec!["t".to_owned()]), Some(recovery));
        let member = source.id();
        let objects = Arc::new(ObjectCommitter::new(store, OnExisting::Fail));
        let task = Task {
            source: Arc::new(source) as Arc<dyn Source>,
            recipe: Arc::new(recipe),
            committer: Arc::new(DeltaCommitter::new(objects, table, "c", Duration::from_millis(500))),
            dead_letters: None,
            schemas: Arc::new(schemas),
            budget: Budget::new(64 << 20),
            clock: self.wall.clone(),
            metrics: Metrics::default().task("c", 0),
            deadlines: Deadlines { drain: Duration::from_secs(20), revoke: Duration::from_secs(3) },
            seed: self.seed * 1_000 + life,
        };
        let (steering, control) = control(Wanted::Run);
        let task = tokio::spawn(async move {
            let _steering = steering;
            task.run(control).await
        });
        Some(Running { member, task, authority })
    }

    /// The files of each version, by their commits.
    async fn versions(&self) -> Vec<BTreeSet<String>> {
        let mut versions: Vec<BTreeSet<String>> = Vec::new();
        for version in 0.. {
            let Ok(commit) = self.objects.get(&Path::from(format!("t/_delta_log/{version:020}.json"))).await else {
                break;
            };
            let text = commit.bytes().await.expect("in memory");
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect();
            let paths = |action: &'static str| {
                lines.iter().filter_map(move |line| line[action]["path"].as_str().map(str::to_owned))
            };
            let mut files = versions.last().cloned().unwrap_or_default();
            for path in paths("remove") {
                assert!(files.remove(&path), "seed {}: version {version} removes {path}, which it has not", self.seed);
            }
            for path in paths("add") {
                assert!(files.insert(path.clone()), "seed {}: version {version} adds {path} again", self.seed);
            }
            versions.push(files);
        }
        versions
    }

    /// The records, by lane, of a file; `None` when it is not there.
    async fn records(&self, name: &str) -> Option<Vec<(i64, i64)>> {
        let file = self.objects.get(&Path::from(format!("t/{name}"))).await.ok()?;
        let rows = read_parquet(file.bytes().await.expect("in memory"));
        let column = |name: &str| rows.column_by_name(name).expect("a column").as_primitive::<Int64Type>().clone();
        let (lanes, numbers) = (column("lane"), column("n"));
        Some(lanes.values().iter().copied().zip(numbers.values().iter().copied()).collect())
    }

    /// Checks that every version from `first` on can be read and holds of each lane the records up to some one, each once;
    /// how many records of each lane the last one holds.
    async fn readable_from(&self, first: usize) -> [i64; LANES as usize] {
        let (mut known, mut ends): (BTreeMap<String, Vec<(i64, i64)>>, _) = (BTreeMap::new(), [0; LANES as usize]);
        for (version, files) in self.versions().await.iter().enumerate().skip(first) {
            let mut counts: BTreeMap<(i64, i64), usize> = BTreeMap::new();
            for name in files {
                if !known.contains_key(name) {
                    let records = self.records(name).await;
                    let seed = self.seed;
                    let records = records.unwrap_or_else(|| panic!("seed {seed}: {name} of version {version} is gone"));
                    known.insert(name.clone(), records);
                }
                known[name].iter().for_each(|record| *counts.entry(*record).or_default() += 1);
            }
            for (lane, end) in ends.iter_mut().enumerate() {
                let of_lane: Vec<_> = counts.iter().filter(|((of, _), _)| *of == lane as i64).collect();
                let whole = of_lane.iter().enumerate().all(|(at, ((_, n), count))| at as i64 == *n && **count == 1);
                assert!(whole, "seed {}: version {version}, lane {lane}: {of_lane:?}", self.seed);
                *end = of_lane.len() as i64;
            }
        }
        ends
    }

    /// Workers come and go for `span`, in a store that fails; none is left.
    async fn storm(&self, span: Duration, dice: &mut StdRng, life: &mut u64, produced: &mut [i64; LANES as usize]) {
        let until = Instant::now() + span;
        self.is_stormy.store(true, Ordering::Relaxed);
        let (mut running, mut zombies) = (Vec::new(), Vec::new());
        while Instant::now() < until {
            while running.len() < 2 {
                *life += 1;
                running.extend(self.start(*life).await);
            }
            let lane = dice.random_range(0..LANES);
            for _ in 0..dice.random_range(0..30) {
                let value = format!(r#"{{"lane":{lane},"n":{}}}"#, produced[lane as usize]);
                self.log.produce("t", lane, None, Some(value.as_bytes()), 0, Vec::new());
                produced[lane as usize] += 1;
            }
            sleep(Duration::from_millis(dice.random_range(0..3_000))).await;
            let victim: Running = running.swap_remove(dice.random_range(0..2));
            match dice.random_range(0..3) {
                0 => running.push(victim),
                1 => victim.end(&self.log),
                // The group goes on without it, but it has not heard of that and goes on too.
                _ => {
                    self.log.set_deaf(victim.member, true);
                    self.log.kill(victim.member);
                    zombies.push(victim);
                }
            }
            running.retain(|one| {
                if one.task.is_finished() {
                    one.end(&self.log);
                }
                !one.task.is_finished()
            });
        }
        self.is_stormy.store(false, Ordering::Relaxed);
        // A zombie that has heard of its end may have joined again, and hears nothing of that either.
        running.iter().chain(&zombies).for_each(|one| one.end(&self.log));
    }
}

/// Two storms, more than the retention of removed files apart. What upkeep did, by its metrics.
async fn live(seed: u64) -> TableMetrics {
    let world = World::new(seed);
    let mut dice = StdRng::seed_from_u64(seed ^ 0xD1CE);
    let (mut life, mut produced) = (0, [0i64; LANES as usize]);
    world.storm(Duration::from_secs(45), &mut dice, &mut life, &mut produced).await;
    sleep(Duration::from_secs(20)).await;
    world.readable_from(0).await;
    let before = world.versions().await.len();
    sleep(Duration::from_secs(8 * 24 * 60 * 60)).await;
    world.storm(Duration::from_secs(45), &mut dice, &mut life, &mut produced).await;
    let lane = |number: i32| TopicPartition::new("t", number);
    let is_done = || {
        (0..LANES).all(|number| {
            let committed = world.log.committed(GROUP, &lane(number)).map_or(0, |(offset, _)| offset.get());
            committed == produced[number as usize]
        })
    };
    let mut last: Option<Running> = None;
    let done = timeout(Duration::from_secs(300), async {
        while !is_done() {
            if last.as_ref().is_none_or(|last| last.task.is_finished()) {
                last.iter().for_each(|last| last.end(&world.log));
                life += 1;
                last = world.start(life).await;
            }
            sleep(Duration::from_millis(100)).await;
        }
    });
    let is_in_time = done.await.is_ok();
    let ends: Vec<_> = (0..LANES).map(|number| world.log.committed(GROUP, &lane(number))).collect();
    assert!(is_in_time, "seed {seed}: lag does not reach 0: {ends:?} of {produced:?} after {life} lives");
    // What dead workers sent may still arrive.
    sleep(Duration::from_secs(20)).await;
    last.iter().for_each(|one| one.end(&world.log));
    // The last version of the first storm is one that a reader may have opened within the retention.
    assert_eq!(world.readable_from(before.saturating_sub(1)).await, produced, "seed {seed}");
    for number in 0..LANES {
        let metadata = world.log.committed(GROUP, &lane(number)).map(|(_, metadata)| metadata).unwrap_or_default();
        let is_empty = produced[number as usize] == 0;
        assert!(is_empty || metadata.starts_with(r#"{"delta":"#), "the offset names the table: {metadata}");
    }
    world.metrics
}

#[tokio::test(start_paused = true)]
async fn crashes_zombies_faults_and_upkeep_leave_every_record_in_the_table_once() {
    let (mut compacted, mut vacuumed, mut checkpoints) = (0, 0, 0);
    for seed in 0..SEEDS {
        let metrics = live(seed).await;
        compacted += metrics.compacted_files();
        vacuumed += metrics.vacuumed_files();
        checkpoints += metrics.checkpoints();
    }
    let sum = format!("{compacted} files merged, {vacuumed} removed, {checkpoints} checkpoints");
    assert!(compacted > 20 * SEEDS && vacuumed > 20 * SEEDS && checkpoints > 5 * SEEDS, "upkeep did too little: {sum}");
}
