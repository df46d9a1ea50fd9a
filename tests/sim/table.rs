//! Whole tasks that write to a Delta table: crashes, zombies and a store that fails and does what it says it did not do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use delta::{DeltaCommitter, Table, TableMetrics, TableOptions, UpkeepOptions, app_id};
use model::{Offset, TopicPartition};
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, path::Path};
use pipeline::{Budget, Clock, Deadlines, Doing, Metrics, Task, TaskError, Wanted, control};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use source::{Bounds, MemberId, MemoryLog, Recovered, Recovery, Source, Subscription};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use writer::conformance::read_parquet;
use writer::{
    Abilities, ColumnsPartitioner, Fate, FaultyStore, FileLimits, ObjectCommitter, OnExisting, ParquetFormat, Request,
    RetryRules, Store, TableFormat,
};

use crate::recipe::recipe;

pub(crate) const GROUP: &str = "connect-c";
pub(crate) const LANES: i32 = 4;

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

/// What the log lists.
#[derive(Default)]
struct Listed {
    /// How often each record of each lane is there.
    counts: BTreeMap<(i64, i64), usize>,
    /// Files with rows of several lanes.
    shared: usize,
    files: usize,
}

pub(crate) struct World {
    pub(crate) log: MemoryLog,
    pub(crate) objects: Arc<InMemory>,
    faulty: FaultyStore,
    wall: Arc<Wall>,
    /// Makes names of files differ.
    names: Arc<AtomicU64>,
    pub(crate) seed: u64,
    /// Requests meet bad fates until then.
    pub(crate) faults_until: Arc<Mutex<Instant>>,
    pub(crate) upkeep: UpkeepOptions,
    pub(crate) metrics: TableMetrics,
    /// Whether tasks end when they have written what is there.
    until_end: bool,
}

pub(crate) struct Running {
    pub(crate) member: MemberId,
    table: Table,
    pub(crate) task: JoinHandle<Result<Doing, TaskError>>,
    authority: Arc<Authority>,
    /// Where the log ended when it started.
    ends: [i64; LANES as usize],
}

impl Running {
    /// The process dies.
    pub(crate) fn end(&self, log: &MemoryLog) {
        self.task.abort();
        self.authority.0.lock().expect("no panic holds it").take();
        log.kill(self.member);
    }
}

impl World {
    pub(crate) fn new(seed: u64, faults_until: Instant) -> World {
        let log = MemoryLog::new();
        log.create_topic("t", LANES);
        log.set_batch_rows_max(7);
        let (objects, dice) = (Arc::new(InMemory::new()), Mutex::new(StdRng::seed_from_u64(seed)));
        let faults_until = Arc::new(Mutex::new(faults_until));
        let until = faults_until.clone();
        let faulty = FaultyStore::new(objects.clone(), move |request, key| {
            // The kernel writes checkpoints on a clock of its own.
            let is_kernel = key.contains(".checkpoint.") || key.ends_with("_last_checkpoint");
            let is_calm = Instant::now() > *until.lock().expect("no panic holds it");
            if is_calm || is_kernel || request != Request::Put {
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
        let (upkeep, metrics) = (UpkeepOptions::default(), delta::Metrics::default().table("c", "t"));
        let names = Arc::default();
        World { log, objects, faulty, wall, names, seed, faults_until, upkeep, metrics, until_end: false }
    }

    /// A task in a process of its own, or in the one that keeps `table`.
    pub(crate) async fn start(&self, life: u64, table: Option<Table>) -> Option<Running> {
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
            connector: "c".to_owned(),
            location: "t".to_owned(),
            partition_columns: None,
            properties: serde_json::Map::new(),
            merge_schema: true,
            user_metadata: None,
            linger: Duration::from_millis(50),
            now_ms: Arc::new(move || clock.now_ms()),
            seed: self.seed * 1_000 + life,
            metrics: self.metrics.clone(),
            upkeep: self.upkeep.clone(),
            encoded: Arc::new(|_| ()),
        };
        let table = match table {
            Some(table) => table,
            None => Table::open(store.clone(), options).await.ok()?,
        };
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
        let names = self.names.clone();
        recipe.files.object_key = Arc::new(move |_, lane, _, first| {
            format!("t/{}+{first}-{:016x}.parquet", lane.partition, names.fetch_add(1, Ordering::Relaxed))
        });
        // Some lives have files of their own.
        recipe.files.shared_bytes = if life.is_multiple_of(5) { 0 } else { 1 << 20 };
        let authority = Arc::new(Authority(Mutex::new(Some(table.clone()))));
        let recovery: Arc<dyn Recovery> = authority.clone();
        let source = self.log.join_with(GROUP, Subscription::Topics(vec!["t".to_owned()]), Some(recovery));
        let member = source.id();
        let ends = std::array::from_fn(|lane| self.log.end_offset(&World::lane(lane)).map_or(0, Offset::get));
        let objects = Arc::new(ObjectCommitter::new(store, OnExisting::Fail));
        let task = Task {
            source: Arc::new(source) as Arc<dyn Source>,
            recipe: Arc::new(recipe),
            committer: Arc::new(DeltaCommitter::new(objects, table.clone(), "c")),
            dead_letters: None,
            schemas: Arc::new(schemas),
            budget: Budget::new(64 << 20),
            clock: self.wall.clone(),
            metrics: Metrics::default().task("c", 0),
            deadlines: Deadlines { drain: Duration::from_secs(20), revoke: Duration::from_secs(3) },
            pace: None,
            until_end: self.until_end,
            seed: self.seed * 1_000 + life,
        };
        let (steering, control) = control(Wanted::Run);
        let task = tokio::spawn(async move { task.run(control).await.map(|()| steering.doing()) });
        Some(Running { member, table, task, authority, ends })
    }

    pub(crate) fn lane(number: usize) -> TopicPartition {
        TopicPartition::new("t", i32::try_from(number).expect("few lanes"))
    }

    pub(crate) fn committed(&self) -> [i64; LANES as usize] {
        std::array::from_fn(|lane| self.log.committed(GROUP, &World::lane(lane)).map_or(0, |(offset, _)| offset.get()))
    }

    async fn listed(&self) -> Listed {
        let mut listed = Listed::default();
        for version in 0.. {
            let Ok(commit) = self.objects.get(&Path::from(format!("t/_delta_log/{version:020}.json"))).await else {
                break;
            };
            let text = commit.bytes().await.expect("in memory");
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line: Value = serde_json::from_slice(line).expect("JSON");
                let Some(name) = line["add"]["path"].as_str() else { continue };
                let file =
                    self.objects.get(&Path::from(format!("t/{name}"))).await.expect("what the log lists is there");
                let rows = read_parquet(file.bytes().await.expect("in memory"));
                let column = |name: &str| rows.column_by_name(name).expect("a column").as_primitive::<Int64Type>();
                let mut lanes = BTreeSet::new();
                for (lane, number) in column("lane").values().iter().zip(column("n").values()) {
                    *listed.counts.entry((*lane, *number)).or_default() += 1;
                    lanes.insert(*lane);
                }
                listed.files += 1;
                listed.shared += usize::from(lanes.len() > 1);
            }
        }
        listed
    }
}

async fn live(seed: u64) -> Listed {
    let faults_until = Instant::now() + Duration::from_secs(45);
    let world = World::new(seed, faults_until);
    let mut dice = StdRng::seed_from_u64(seed ^ 0xD1CE);
    let (mut running, mut zombies, mut life, mut produced) = (Vec::new(), Vec::new(), 0, [0i64; LANES as usize]);
    while Instant::now() < faults_until {
        while running.len() < 2 {
            life += 1;
            let beside = running.first().map(|one: &Running| one.table.clone()).filter(|_| dice.random_bool(0.4));
            running.extend(world.start(life, beside).await);
        }
        for _ in 0..dice.random_range(0..60) {
            let lane = dice.random_range(0..LANES);
            let value = format!(r#"{{"lane":{lane},"n":{}}}"#, produced[lane as usize]);
            world.log.produce("t", lane, None, Some(value.as_bytes()), 0, Vec::new());
            produced[lane as usize] += 1;
        }
        sleep(Duration::from_millis(dice.random_range(0..3_000))).await;
        let victim: Running = running.swap_remove(dice.random_range(0..2));
        match dice.random_range(0..3) {
            0 => running.push(victim),
            1 => victim.end(&world.log),
            // The group goes on without it, but it has not heard of that and goes on too.
            _ => {
                world.log.set_deaf(victim.member, true);
                world.log.kill(victim.member);
                zombies.push(victim);
            }
        }
        running.retain(|one| !one.task.is_finished());
    }
    // A zombie that has heard of its end may have joined again, and hears nothing of that either.
    for one in running.drain(..).chain(zombies) {
        one.end(&world.log);
    }
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
                life += 1;
                last = world.start(life, None).await;
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
    let listed = world.listed().await;
    assert_eq!(listed.counts, whole(&produced), "seed {seed}");
    for number in (0..LANES).filter(|number| produced[*number as usize] > 0) {
        let metadata = world.log.committed(GROUP, &lane(number)).map(|(_, metadata)| metadata).unwrap_or_default();
        assert!(metadata.starts_with(r#"{"delta":"#), "the offset names the table: {metadata}");
    }
    listed
}

#[tokio::test(start_paused = true)]
async fn crashes_zombies_and_faults_leave_every_record_in_the_table_once() {
    let (mut files, mut shared) = (0, 0);
    for seed in 0..16 {
        let listed = live(seed).await;
        files += listed.files;
        shared += listed.shared;
    }
    assert!(shared > files / 8 && shared > 100, "{shared} of {files} files are shared: the lanes had little in common");
}

/// Each record of each lane, once.
fn whole(produced: &[i64; LANES as usize]) -> BTreeMap<(i64, i64), usize> {
    let lanes = (0_i64..).zip(produced);
    lanes.flat_map(|(lane, produced)| (0..*produced).map(move |n| ((lane, n), 1))).collect()
}

/// Tasks that end come and go while somebody writes on: who ends has seen everything committed that was there when it
/// started, and the last one leaves every record in the table once.
async fn live_to_the_end(seed: u64) {
    let faults_until = Instant::now() + Duration::from_secs(40);
    let world = World { until_end: true, ..World::new(seed, faults_until) };
    world.log.set_bounds(GROUP, Bounds { starting: None, until_end: true });
    let mut dice = StdRng::seed_from_u64(seed ^ 0xE4D);
    let (mut running, mut life, mut finished, mut produced) = (Vec::new(), 0, 0, [0i64; LANES as usize]);
    while Instant::now() < faults_until {
        while running.len() < 3 {
            life += 1;
            running.extend(world.start(life, None).await);
        }
        let lane = dice.random_range(0..LANES as usize);
        for _ in 0..dice.random_range(0..30) {
            let value = format!(r#"{{"lane":{lane},"n":{}}}"#, produced[lane]);
            world.log.produce("t", World::lane(lane).partition, None, Some(value.as_bytes()), 0, Vec::new());
            produced[lane] += 1;
        }
        sleep(Duration::from_millis(dice.random_range(0..4_000))).await;
        if dice.random_range(0..3) == 0 {
            let victim: Running = running.swap_remove(dice.random_range(0..3));
            victim.end(&world.log);
        }
        finished += reap(&world, &mut running).await;
    }
    let over = timeout(Duration::from_secs(300), async {
        while !running.is_empty() {
            sleep(Duration::from_millis(100)).await;
            finished += reap(&world, &mut running).await;
        }
        while world.committed() != produced {
            life += 1;
            running.extend(world.start(life, None).await);
            while !running.is_empty() {
                sleep(Duration::from_millis(100)).await;
                finished += reap(&world, &mut running).await;
            }
        }
    });
    let is_in_time = over.await.is_ok();
    let committed = world.committed();
    assert!(is_in_time, "seed {seed}: {committed:?} of {produced:?} after {life} lives, {finished} of them finished");
    assert!(finished > 0, "seed {seed}");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(world.listed().await.counts, whole(&produced), "seed {seed}");
}

/// Takes away the tasks that have ended; how many of them were at their end.
async fn reap(world: &World, running: &mut Vec<Running>) -> usize {
    let (over, rest): (Vec<Running>, Vec<Running>) = running.drain(..).partition(|one| one.task.is_finished());
    *running = rest;
    let mut finished = 0;
    for one in over {
        let committed = world.committed();
        match one.task.await.expect("nobody aborted it") {
            Ok(doing) => {
                assert_eq!(doing, Doing::Finished, "seed {}", world.seed);
                let is_done = (0..LANES as usize).all(|lane| committed[lane] >= one.ends[lane]);
                assert!(is_done, "seed {}: {committed:?} is short of {:?}", world.seed, one.ends);
                finished += 1;
            }
            // As the supervisor does, another one is started in its place. (Names of objects are not unique here.)
            Err(error) => {
                let is_expected = error.is_transient() || error.to_string().contains("is there and is not ours");
                assert!(is_expected, "seed {}: {error}", world.seed);
            }
        }
    }
    finished
}

#[tokio::test(start_paused = true)]
async fn tasks_that_end_have_seen_everything_committed_that_was_there() {
    for seed in 0..12 {
        live_to_the_end(seed).await;
    }
}
