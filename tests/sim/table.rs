//! Whole tasks that write to a Delta table: crashes, zombies and a store that fails and does what it says it did not do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use delta::{DeltaCommitter, Table, TableOptions, UpkeepOptions, app_id};
use model::{Offset, TopicPartition};
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, path::Path};
use pipeline::{Budget, Clock, Deadlines, Metrics, Task, TaskError, Wanted, control};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use source::{MemberId, MemoryLog, Recovered, Recovery, Source, Subscription};
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

struct Wall(Instant);

impl Clock for Wall {
    fn now_ms(&self) -> i64 {
        1_704_067_200_000 + i64::try_from(self.0.elapsed().as_millis()).expect("a short world")
    }
}

/// The table tells where lanes start.
struct Authority(Table);

#[async_trait]
impl Recovery for Authority {
    async fn recover(
        &self,
        partitions: &[TopicPartition],
        _: &BTreeMap<String, String>,
    ) -> Result<Vec<Recovered>, source::Error> {
        let known = self.0.look().await.map_err(|error| source::Error::Unavailable(error.to_string()))?;
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
}

struct Running {
    member: MemberId,
    task: JoinHandle<Result<(), TaskError>>,
}

impl World {
    fn new(seed: u64, faults_until: Instant) -> World {
        let log = MemoryLog::new();
        log.create_topic("t", LANES);
        log.set_batch_rows_max(7);
        let (objects, dice) = (Arc::new(InMemory::new()), Mutex::new(StdRng::seed_from_u64(seed)));
        let faulty = FaultyStore::new(objects.clone(), move |request, _| {
            if Instant::now() > faults_until || request != Request::Put {
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
        World { log, objects, faulty, wall: Arc::new(Wall(Instant::now())), seed }
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
            properties: serde_json::Map::new(),
            merge_schema: true,
            linger: Duration::from_millis(50),
            now_ms: Arc::new(move || clock.now_ms()),
            seed: self.seed * 1_000 + life,
            upkeep: UpkeepOptions::default(),
            metrics: delta::Metrics::default().table("c", "t"),
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
            Arc::new(move |_, lane, _, first| format!("t/{}+{first}-{life}.parquet", lane.partition));
        let authority: Arc<dyn Recovery> = Arc::new(Authority(table.clone()));
        let source = self.log.join_with(GROUP, Subscription::Topics(vec!["t".to_owned()]), Some(authority));
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
        Some(Running { member, task })
    }

    /// How often each record of a lane is in the files that the log lists.
    async fn counts(&self, lane: i32) -> BTreeMap<i64, usize> {
        let mut counts = BTreeMap::new();
        for version in 0.. {
            let Ok(commit) = self.objects.get(&Path::from(format!("t/_delta_log/{version:020}.json"))).await else {
                break;
            };
            let text = commit.bytes().await.expect("in memory");
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line: Value = serde_json::from_slice(line).expect("JSON");
                let Some(name) = line["add"]["path"].as_str().filter(|name| name.starts_with(&format!("{lane}+")))
                else {
                    continue;
                };
                let file =
                    self.objects.get(&Path::from(format!("t/{name}"))).await.expect("what the log lists is there");
                let rows = read_parquet(file.bytes().await.expect("in memory"));
                let numbers = rows.column_by_name("n").expect("a column").as_primitive::<Int64Type>();
                for number in numbers.iter().flatten() {
                    *counts.entry(number).or_default() += 1;
                }
            }
        }
        counts
    }
}

async fn live(seed: u64) {
    let faults_until = Instant::now() + Duration::from_secs(45);
    let world = World::new(seed, faults_until);
    let mut dice = StdRng::seed_from_u64(seed ^ 0xD1CE);
    let (mut running, mut zombies, mut life, mut produced) = (Vec::new(), Vec::new(), 0, [0i64; LANES as usize]);
    while Instant::now() < faults_until {
        while running.len() < 2 {
            life += 1;
            running.extend(world.start(life).await);
        }
        let lane = dice.random_range(0..LANES);
        for _ in 0..dice.random_range(0..30) {
            let value = format!(r#"{{"n":{}}}"#, produced[lane as usize]);
            world.log.produce("t", lane, None, Some(value.as_bytes()), 0, Vec::new());
            produced[lane as usize] += 1;
        }
        sleep(Duration::from_millis(dice.random_range(0..3_000))).await;
        let victim: Running = running.swap_remove(dice.random_range(0..2));
        match dice.random_range(0..3) {
            0 => running.push(victim),
            1 => {
                victim.task.abort();
                world.log.kill(victim.member);
            }
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
        one.task.abort();
        world.log.kill(one.member);
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
    last.iter().for_each(|one| one.task.abort());
    for number in 0..LANES {
        let counts = world.counts(number).await;
        let whole: BTreeMap<i64, usize> = (0..produced[number as usize]).map(|n| (n, 1)).collect();
        assert_eq!(counts, whole, "seed {seed}, lane {number}");
        let metadata = world.log.committed(GROUP, &lane(number)).map(|(_, metadata)| metadata).unwrap_or_default();
        assert!(counts.is_empty() || metadata.starts_with(r#"{"delta":"#), "the offset names the table: {metadata}");
    }
}

#[tokio::test(start_paused = true)]
async fn crashes_zombies_and_faults_leave_every_record_in_the_table_once() {
    for seed in 0..12 {
        live(seed).await;
    }
}
