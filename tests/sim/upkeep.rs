//! Upkeep beside whole tasks that crash, in a store that fails: compaction, checkpoints and vacuum leave every version that a
//! reader may have opened as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use delta::{Compaction, Removable, TableMetrics, UpkeepOptions, Vacuum};
use object_store::{ObjectStoreExt, path::Path};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use writer::conformance::read_parquet;
use writer::{FileLimits, ParquetFormat, TableFormat};

use crate::table::{GROUP, LANES, Running, World};

/// Worlds of `cargo test`.
const SEEDS: u64 = 8;

/// How long workers come and go.
const STORM: Duration = Duration::from_secs(45);

type Counts = [i64; LANES as usize];

/// Each job as often as it can be.
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

/// The files of each version, by their commits.
async fn versions(world: &World) -> Vec<BTreeSet<String>> {
    let mut versions: Vec<BTreeSet<String>> = Vec::new();
    for version in 0.. {
        let path = Path::from(format!("t/_delta_log/{version:020}.json"));
        let Ok(commit) = world.objects.get(&path).await else { break };
        let text = commit.bytes().await.expect("in memory");
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect();
        let paths = |action: &'static str| {
            lines.iter().filter_map(move |line| line[action]["path"].as_str().map(str::to_owned))
        };
        let mut files = versions.last().cloned().unwrap_or_default();
        for path in paths("remove") {
            assert!(files.remove(&path), "seed {}: version {version} removes {path}, which it has not", world.seed);
        }
        for path in paths("add") {
            assert!(files.insert(path.clone()), "seed {}: version {version} adds {path} again", world.seed);
        }
        versions.push(files);
    }
    versions
}

/// The lanes and numbers of the records in a file; `None` when it is not there.
async fn records(world: &World, name: &str) -> Option<Vec<(i64, i64)>> {
    let file = world.objects.get(&Path::from(format!("t/{name}"))).await.ok()?;
    let rows = read_parquet(file.bytes().await.expect("in memory"));
    let column = |name: &str| rows.column_by_name(name).expect("a column").as_primitive::<Int64Type>().clone();
    let (lanes, numbers) = (column("lane"), column("n"));
    Some(lanes.values().iter().copied().zip(numbers.values().iter().copied()).collect())
}

/// Checks that every version from `first` on can be read and holds of each lane the records up to some one, each once; how
/// many of each lane the last one holds.
async fn readable_from(world: &World, first: usize) -> Counts {
    let (mut known, mut ends): (BTreeMap<String, Vec<(i64, i64)>>, Counts) = (BTreeMap::new(), [0; LANES as usize]);
    for (version, files) in versions(world).await.iter().enumerate().skip(first) {
        let mut counts: BTreeMap<(i64, i64), usize> = BTreeMap::new();
        for name in files {
            if !known.contains_key(name) {
                let records = records(world, name).await;
                let records =
                    records.unwrap_or_else(|| panic!("seed {}: {name} of version {version} is gone", world.seed));
                known.insert(name.clone(), records);
            }
            known[name].iter().for_each(|record| *counts.entry(*record).or_default() += 1);
        }
        for (lane, end) in ends.iter_mut().enumerate() {
            let of_lane: Vec<_> = counts.iter().filter(|((of, _), _)| *of == lane as i64).collect();
            let is_whole = of_lane.iter().enumerate().all(|(at, ((_, n), count))| at as i64 == *n && **count == 1);
            assert!(is_whole, "seed {}: version {version}, lane {lane}: {of_lane:?}", world.seed);
            *end = of_lane.len() as i64;
        }
    }
    ends
}

/// Workers come and go for a while, in a store that fails; none is left.
async fn storm(world: &World, dice: &mut StdRng, life: &mut u64, produced: &mut Counts) {
    let until = Instant::now() + STORM;
    *world.faults_until.lock().expect("no panic holds it") = until;
    let (mut running, mut zombies): (Vec<Running>, Vec<Running>) = (Vec::new(), Vec::new());
    while Instant::now() < until {
        while running.len() < 2 {
            *life += 1;
            running.extend(world.start(*life, None).await);
        }
        let lane = dice.random_range(0..LANES as usize);
        for _ in 0..dice.random_range(0..30) {
            let value = format!(r#"{{"lane":{lane},"n":{}}}"#, produced[lane]);
            world.log.produce("t", World::lane(lane).partition, None, Some(value.as_bytes()), 0, Vec::new());
            produced[lane] += 1;
        }
        sleep(Duration::from_millis(dice.random_range(0..3_000))).await;
        let victim = running.swap_remove(dice.random_range(0..2));
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
        running.retain(|one| {
            let is_over = one.task.is_finished();
            if is_over {
                one.end(&world.log);
            }
            !is_over
        });
    }
    running.iter().chain(&zombies).for_each(|one| one.end(&world.log));
}

/// Two storms, more than the retention of removed files apart. What upkeep did, by its metrics.
async fn live(seed: u64) -> TableMetrics {
    let mut world = World::new(seed, Instant::now());
    world.upkeep = upkeep();
    let mut dice = StdRng::seed_from_u64(seed ^ 0xD1CE);
    let (mut life, mut produced) = (0, [0; LANES as usize]);
    storm(&world, &mut dice, &mut life, &mut produced).await;
    // What dead workers sent may still arrive.
    sleep(Duration::from_secs(20)).await;
    readable_from(&world, 0).await;
    let before = versions(&world).await.len();
    sleep(Duration::from_secs(8 * 24 * 60 * 60)).await;
    storm(&world, &mut dice, &mut life, &mut produced).await;
    let mut last: Option<Running> = None;
    let done = timeout(Duration::from_secs(300), async {
        while world.committed() != produced {
            if last.as_ref().is_none_or(|last| last.task.is_finished()) {
                last.iter().for_each(|last| last.end(&world.log));
                life += 1;
                last = world.start(life, None).await;
            }
            sleep(Duration::from_millis(100)).await;
        }
    });
    let is_in_time = done.await.is_ok();
    assert!(is_in_time, "seed {seed}: {:?} of {produced:?} after {life} lives of {GROUP}", world.committed());
    sleep(Duration::from_secs(20)).await;
    last.iter().for_each(|one| one.end(&world.log));
    // The last version of the first storm is one that a reader may have opened within the retention.
    assert_eq!(readable_from(&world, before.saturating_sub(1)).await, produced, "seed {seed}");
    world.metrics
}

#[tokio::test(start_paused = true)]
async fn upkeep_beside_crashes_and_faults_leaves_every_record_once_in_every_version_that_may_be_read() {
    let (mut compacted, mut vacuumed, mut checkpoints) = (0, 0, 0);
    for seed in 0..SEEDS {
        let metrics = live(seed).await;
        compacted += metrics.compacted_files();
        vacuumed += metrics.vacuumed_files();
        checkpoints += metrics.checkpoints();
    }
    let sum = format!("{compacted} files merged, {vacuumed} removed, {checkpoints} checkpoints");
    assert!(compacted > 20 * SEEDS && vacuumed > 10 * SEEDS && checkpoints > 5 * SEEDS, "upkeep did too little: {sum}");
}
