//! Whole tasks on a log and a store in memory, for what only shows when several lanes share a task: memory that replays
//! fill together, commits that lanes share, and lanes that finish while another one cannot start.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use model::{Fingerprint, Nonce, Offset, Plan, RawBatch, Settings, TopicPartition};
use object_store::memory::InMemory;
use pipeline::{
    Budget, Clock, Control, Deadlines, Doing, ErrorRules, Metrics, PaceRules, Recipe, Steering, Task, TaskError,
    Tolerance, TopicSchemas, Wanted, control,
};
use schema::{CONVERTERS, Converter, Decoded, Part};
use source::{
    Bounds, Commit, CommitFate, MemberId, MemoryDeadLetters, MemoryLog, MemorySource, Protocol, Source, Subscription,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use writer::{
    Abilities, Fate, FaultyStore, FileContext, FileLimits, Layout, NullValues, ObjectCommitter, OnExisting, Request,
    RetryRules, Rotation, Store, Views, partitioner_plugin,
};

const GROUP: &str = "g";
const MIB: usize = 1024 * 1024;

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

/// A wall clock that goes with the runtime's.
struct Wall(Instant);

impl Clock for Wall {
    fn now_ms(&self) -> i64 {
        1_704_067_200_000 + i64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

/// A log, a store that can be out, and every commit request.
struct World {
    log: MemoryLog,
    store: Store,
    outage: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<Vec<Commit>>>>,
    wall: Arc<Wall>,
    started: AtomicU64,
    letters: MemoryDeadLetters,
    /// How often the registry will not answer.
    silent: Arc<AtomicU64>,
    /// `errors.retry.timeout`.
    retry: Option<Duration>,
}

/// A converter whose registry does not answer now and then.
struct Asking {
    converter: Box<dyn Converter>,
    silent: Arc<AtomicU64>,
}

#[async_trait]
impl Converter for Asking {
    async fn decode(&mut self, raw: &RawBatch) -> Result<Decoded, schema::Error> {
        let is_silent = |left: u64| left.checked_sub(1);
        if self.silent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_silent).is_ok() {
            return Err(schema::Error::Unavailable("the schema registry does not answer".to_owned()));
        }
        self.converter.decode(raw).await
    }
}

struct Running {
    member: MemberId,
    steering: Steering,
    task: JoinHandle<Result<(), TaskError>>,
}

impl World {
    fn new(partitions: i32) -> World {
        let (log, outage) = (MemoryLog::new(), Arc::new(AtomicBool::new(false)));
        let requests: Arc<Mutex<Vec<Vec<Commit>>>> = Arc::default();
        log.create_topic("t", partitions);
        log.set_batch_rows_max(10);
        let (is_out, seen) = (outage.clone(), requests.clone());
        log.set_faults(move |_, commits| {
            seen.lock().unwrap().push(commits.to_vec());
            CommitFate::Apply
        });
        let objects = FaultyStore::new(Arc::new(InMemory::new()), move |request, key| match request {
            Request::Put if key.ends_with(".parquet") && is_out.load(Ordering::Relaxed) => Fate::FailBefore,
            _ => Fate::Fine,
        });
        let abilities = Abilities { metadata: true, conditional: true };
        let rules = RetryRules { redelivery: Duration::from_secs(1), ..RetryRules::default() };
        let store = Store::with(Arc::new(objects), "memory", abilities, rules, 1);
        World {
            log,
            store,
            outage,
            requests,
            wall: Arc::new(Wall(Instant::now())),
            started: AtomicU64::new(1),
            letters: MemoryDeadLetters::default(),
            silent: Arc::default(),
            retry: Some(Duration::ZERO),
        }
    }

    fn produce(&self, partition: i32, count: usize) {
        for number in 0..count {
            let value = format!(r#"{{"n":{number},"text":"{}"}}"#, "x".repeat(600));
            self.log.produce("t", partition, None, Some(value.as_bytes()), 0, Vec::new());
        }
    }

    fn recipe(&self, pairs: &[(&str, &str)]) -> (Recipe, TopicSchemas) {
        let common = [("format.class", "parquet"), ("timezone", "UTC"), ("locale", "en")];
        let pairs = common.iter().chain(pairs).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let settings = Settings::new(pairs.collect());
        let format = writer::format(&settings).unwrap();
        let layout = Layout::new(&settings, format.extension()).unwrap();
        let schemas = TopicSchemas::new(self.store.clone(), layout.clone());
        let config = Fingerprint::of([&b"these settings"[..]]);
        let silent = self.silent.clone();
        let mut errors = ErrorRules::of(Tolerance::All);
        errors.retry.timeout = self.retry;
        let recipe = Recipe {
            converter: Box::new(move || {
                let converter = (CONVERTERS[0].build)(&Settings::new(Default::default()), Part::Value).unwrap();
                Box::new(Asking { converter, silent: silent.clone() })
            }),
            rotation: Rotation::new(&settings).unwrap(),
            null_values: NullValues::new(&settings).unwrap(),
            key_converter: None,
            header_converter: None,
            transforms: Box::new(transform::Chain::default),
            partitioner: Box::new(move || (partitioner_plugin(&settings).unwrap().build)(&settings).unwrap()),
            schema_rules: schema::SchemaRules::default(),
            errors,
            kafka_columns: None,
            files: FileContext {
                store: self.store.clone(),
                format,
                object_key: Arc::new(move |view, whose, path, first| layout.view_key(view, whose, path, first)),
                views: Views::default(),
                limits: FileLimits {
                    part_bytes: 8 * MIB,
                    rows_bytes: 4 * MIB,
                    row_group_bytes: 64 * MIB,
                    row_group_rows: MIB,
                },
                schema: "".into(),
                config,
                tagging: None,
                shared_bytes: 0,
            },
            given_schema: None,
            fingerprint: config,
        };
        (recipe, schemas)
    }

    fn start(&self, pairs: &[(&str, &str)], budget: &Arc<Budget>) -> Running {
        self.start_within(pairs, budget, None, false)
    }

    fn start_within(
        &self,
        pairs: &[(&str, &str)],
        budget: &Arc<Budget>,
        pace: Option<PaceRules>,
        until_end: bool,
    ) -> Running {
        let source: MemorySource = self.log.join(GROUP, Subscription::Topics(vec!["t".to_owned()]));
        let member = source.id();
        let (recipe, schemas) = self.recipe(pairs);
        let task = Task {
            dead_letters: Some(Arc::new(self.letters.clone())),
            source: Arc::new(source) as Arc<dyn Source>,
            recipe: Arc::new(recipe),
            committer: Arc::new(ObjectCommitter::new(self.store.clone(), OnExisting::Fail)),
            schemas: Arc::new(schemas),
            budget: budget.clone(),
            clock: self.wall.clone(),
            metrics: Metrics::default().task("c", 0),
            deadlines: Deadlines { drain: Duration::from_secs(20), revoke: Duration::from_secs(5) },
            pace,
            until_end,
            seed: self.started.fetch_add(1, Ordering::Relaxed),
        };
        let (steering, control): (Steering, Control) = control(Wanted::Run);
        Running { member, steering, task: tokio::spawn(task.run(control)) }
    }

    fn committed(&self, partition: i32) -> (i64, String) {
        let (offset, metadata) = self.log.committed(GROUP, &tp(partition)).unwrap_or((Offset::ZERO, String::new()));
        (offset.get(), metadata)
    }

    /// Waits until `is_so`; a world in which it never comes is one that stands still.
    async fn until(&self, what: &str, is_so: impl Fn(&World) -> bool) {
        self.until_within(what, Duration::from_secs(300), is_so).await;
    }

    async fn until_within(&self, what: &str, limit: Duration, is_so: impl Fn(&World) -> bool) {
        let waits = async {
            while !is_so(self) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(limit, waits).await.unwrap_or_else(|_| {
            let committed: Vec<_> = (0..4).map(|partition| self.committed(partition)).collect();
            panic!("it never came: {what}; committed: {committed:?}")
        });
    }

    fn requests(&self) -> Vec<Vec<Commit>> {
        self.requests.lock().unwrap().clone()
    }
}

/// Four lanes have planned cuts that do not fit into the memory of the next worker together; half of them, or all, are
/// those of its lanes, the others have records that come as always.
#[tokio::test(start_paused = true)]
async fn replays_that_fill_the_memory_together_do_not_wait_for_each_other() {
    for replays in [4, 2] {
        let world = World::new(4);
        world.outage.store(true, Ordering::Relaxed);
        (0..replays).for_each(|partition| world.produce(partition, 300));
        let first = world.start(&[("flush.size", "300")], &Budget::new(64 * MIB));
        world.until("a plan of every lane", |world| (0..replays).all(|lane| !world.committed(lane).1.is_empty())).await;
        first.task.abort();
        world.log.kill(first.member);
        world.outage.store(false, Ordering::Relaxed);
        (replays..4).for_each(|partition| world.produce(partition, 300));

        // One cut of 300 rows takes about 190 kB.
        let budget = Budget::new(300_000);
        let second = world.start(&[("flush.size", "300"), ("rotate.schedule.interval.ms", "10000")], &budget);
        world
            .until("everything is committed", |world| (0..4).all(|lane| world.committed(lane) == (300, String::new())))
            .await;
        second.steering.ask(Wanted::Stop);
        second.task.await.unwrap().unwrap();
        assert_eq!(budget.used(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn lanes_that_cut_at_one_instant_share_their_commit_requests() {
    const LANES: i32 = 40;
    let world = World::new(LANES);
    (0..LANES).for_each(|partition| world.produce(partition, 5));
    let pairs = [("flush.size", "1000"), ("rotate.schedule.interval.ms", "60000")];
    let running = world.start(&pairs, &Budget::new(64 * MIB));
    world.until("the starts are committed", |world| !world.requests().is_empty()).await;
    let starts = world.requests();
    assert_eq!(starts.iter().map(Vec::len).collect::<Vec<_>>(), [LANES as usize], "all starts are one request");
    assert!(starts[0].iter().all(|commit| commit.offset == Offset::ZERO && commit.metadata.is_empty()));
    world.until("all is committed", |world| (0..LANES).all(|lane| world.committed(lane) == (5, String::new()))).await;
    let after = world.requests().split_off(starts.len());
    let plans = after.iter().filter(|request| request.iter().any(|commit| !commit.metadata.is_empty())).count();
    assert!(plans <= 4 && after.len() <= 8, "{plans} of {} requests carry plans of {LANES} lanes", after.len());
    running.steering.ask(Wanted::Stop);
    running.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn plans_under_several_settings_are_replayed_under_each_of_them_in_turn() {
    let world = World::new(3);
    let plan = |settings: &str| {
        let config = Fingerprint::of([settings.as_bytes()]);
        Plan::new(at(2), 0, Nonce(1), None, config, 1).to_metadata()
    };
    for (partition, settings) in [(0, "others"), (1, "these settings"), (2, "third")] {
        world.produce(partition, 2);
        world.log.set_committed(GROUP, &tp(partition), Offset::ZERO, &plan(settings));
    }
    let running = world.start(&[("flush.size", "1000")], &Budget::new(64 * MIB));
    let error = timeout(Duration::from_secs(60), running.task).await.expect("it ends").unwrap().unwrap_err();
    assert_eq!(world.committed(1), (2, String::new()), "its plan is of these settings");
    assert_eq!([world.committed(0).1, world.committed(2).1], [plan("others"), plan("third")]);
    let text = error.to_string();
    let parts = ["[0, 2) of t-0 was planned", "likewise [0, 2) of t-2", "once with each of those settings"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

/// Under the cooperative protocol a lane goes on while another one is given to its task.
#[tokio::test(start_paused = true)]
async fn a_plan_of_other_settings_stops_the_task_after_the_other_lanes_have_finished() {
    let world = World::new(2);
    world.log.set_protocol(GROUP, Protocol::Cooperative);
    let pairs = [("flush.size", "1000")];
    let (one, two) = (world.start(&pairs, &Budget::new(64 * MIB)), world.start(&pairs, &Budget::new(64 * MIB)));
    let owned = |world: &World, partition| world.log.owner(GROUP, &tp(partition));
    world
        .until("each has a lane", |world| {
            owned(world, 0).is_some() && owned(world, 1).is_some() && owned(world, 0) != owned(world, 1)
        })
        .await;
    let (kept, given) = if owned(&world, 0) == Some(one.member) { (0, 1) } else { (1, 0) };
    world.produce(kept, 3);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.committed(kept), (0, String::new()), "its file is open");

    two.task.abort();
    let elsewhere = Fingerprint::of([&b"other settings"[..]]);
    let plan = Plan::new(at(2), 0, Nonce(1), None, elsewhere, 1).to_metadata();
    world.log.set_committed(GROUP, &tp(given), Offset::ZERO, &plan);
    world.log.kill(two.member);
    let error = timeout(Duration::from_secs(60), one.task).await.expect("it ends").unwrap().unwrap_err();
    assert!(
        matches!(&error, TaskError::OtherSettings { topic_partition, .. } if *topic_partition == tp(given)),
        "{error}"
    );
    assert!(!error.is_transient() && error.to_string().contains("start the connector with the settings it had"));
    assert_eq!(world.committed(kept), (3, String::new()), "what the other lane had is visible and committed");
    assert_eq!(world.committed(given), (0, plan), "the plan is still there");
    drop(one.steering);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_does_not_answer_is_waited_for_and_makes_no_bad_record() {
    let seconds = Duration::from_secs;
    // How often it is silent, for how long the task tries, and whether that is enough.
    for (silent, retry, is_enough) in
        [(1, Some(seconds(0)), false), (4, Some(seconds(60)), true), (100, Some(seconds(60)), false), (100, None, true)]
    {
        let mut world = World::new(1);
        (world.retry, world.silent) = (retry, Arc::new(AtomicU64::new(silent)));
        world.produce(0, 3);
        let running = world.start(&[("flush.size", "3")], &Budget::new(64 * MIB));
        let began = Instant::now();
        if is_enough {
            world.until_within("the cut", seconds(10_000), |world| world.committed(0) == (3, String::new())).await;
            running.steering.ask(Wanted::Stop);
            running.task.await.unwrap().unwrap();
        } else {
            let error = timeout(seconds(100), running.task).await.expect("it gives up").unwrap().unwrap_err();
            assert!(error.is_transient() && error.to_string().contains("does not answer"), "{error}");
            assert!(began.elapsed() >= retry.unwrap() && began.elapsed() < retry.unwrap() + seconds(2));
            assert_eq!(world.committed(0).0, 0);
        }
        assert!(world.letters.letters().is_empty(), "an outage is nobody's fault");
    }
}

/// A limit of 20 offsets in 10 s: cuts at these instants are no larger, lanes share it in proportion to what waits in them,
/// and what comes later waits its turn.
#[tokio::test(start_paused = true)]
async fn no_more_is_read_in_a_time_than_the_pace_allows() {
    let world = World::new(3);
    world.produce(0, 90);
    world.produce(1, 10);
    let pace = PaceRules { offsets_max: 20, period: Duration::from_secs(10) };
    let pairs = [("flush.size", "100000"), ("rotate.schedule.interval.ms", "10000")];
    let budget = Budget::new(64 * MIB);
    let running = world.start_within(&pairs, &budget, Some(pace), false);
    let committed = || [0, 1, 2].map(|partition| world.committed(partition).0);
    let mut seen = vec![[0; 3]];
    for _ in 0..9 {
        sleep(Duration::from_secs(10)).await;
        seen.push(committed());
        if seen.len() == 3 {
            world.produce(2, 40);
        }
    }
    let steps = seen.windows(2).map(|pair| (0..3).map(|lane| pair[1][lane] - pair[0][lane]).sum::<i64>());
    // One offset more for each lane that would get none.
    assert!(steps.clone().all(|step| step <= 22), "{seen:?}");
    // The first cut is closed at the end of the first time.
    assert!(steps.skip(1).take(5).all(|step| step >= 18), "{seen:?}");
    assert!((30..=38).contains(&seen[3][0]) && (3..=6).contains(&seen[3][1]), "in proportion: {seen:?}");
    assert_eq!(committed(), [90, 10, 40], "{seen:?}");
    running.steering.ask(Wanted::Stop);
    running.task.await.unwrap().unwrap();
    assert_eq!(budget.used(), 0);
}

/// Three members for three lanes, one of which is empty; some of them end up without any. Each ends when all is done that
/// was there when it started, whoever did it, and nothing later is written.
#[tokio::test(start_paused = true)]
async fn tasks_with_an_end_finish_together_when_all_that_was_there_is_committed() {
    for protocol in [Protocol::Eager, Protocol::Cooperative, Protocol::Server] {
        let world = World::new(3);
        world.log.set_protocol(GROUP, protocol);
        world.log.set_bounds(GROUP, Bounds { starting: None, until_end: true });
        world.produce(0, 25);
        world.produce(1, 7);
        world.outage.store(true, Ordering::Relaxed);
        let pairs = [("flush.size", "100000"), ("rotate.schedule.interval.ms", "3600000")];
        let start = || world.start_within(&pairs, &Budget::new(64 * MIB), None, true);
        let mut running: Vec<Running> = (0..4).map(|_| start()).collect();
        sleep(Duration::from_secs(2)).await;
        (0..3).for_each(|partition| world.produce(partition, 5));
        sleep(Duration::from_secs(60)).await;
        assert!(running.iter().all(|one| !one.task.is_finished()), "{protocol:?}: nothing is written yet");
        // One of those that have lanes dies; the others take over.
        let owner = world.log.owner(GROUP, &tp(0)).unwrap();
        let victim = running.remove(running.iter().position(|one| one.member == owner).unwrap());
        victim.task.abort();
        world.log.kill(victim.member);
        world.outage.store(false, Ordering::Relaxed);
        for one in running {
            timeout(Duration::from_secs(120), one.task).await.expect("it ends").unwrap().unwrap();
            assert_eq!(one.steering.doing(), Doing::Finished);
        }
        assert_eq!(
            [0, 1, 2].map(|lane| world.committed(lane)),
            [25, 7, 0].map(|end| (end, String::new())),
            "{protocol:?}"
        );
        // Another run does the rest, and a third has nothing to do.
        for _ in 0..2 {
            let one = start();
            timeout(Duration::from_secs(120), one.task).await.expect("it ends").unwrap().unwrap();
            assert_eq!([0, 1, 2].map(|lane| world.committed(lane).0), [30, 12, 5], "{protocol:?}");
        }
    }
}
