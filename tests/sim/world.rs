//! A world: one topic, one group, one store, one clock, and the truth about them.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::{Offset, TopicPartition};
use object_store::ObjectStore;
use pipeline::{Budget, Clock};
use serde_json::{Value, json};
use source::{Commit, CommitFate, MemoryLog};
use tokio::time::{Instant, sleep};
use writer::{Abilities, Fate, FaultyStore, FileLimits, Request, RetryRules, Store};

use crate::recipe::Pairs;
use crate::taps::Bend;
use crate::truth::{PathOf, Record, Truth};
use crate::weather::Weather;
use crate::witness::Witness;

/// The only topic.
pub(crate) const TOPIC: &str = "t";
/// The only group.
pub(crate) const GROUP: &str = "connect-sim";
/// 2024-01-01T10:59:40Z: twenty seconds before another hourly path.
pub(crate) const BEGIN_MS: i64 = 1_704_106_780_000;
/// How long a wait for something that must come may be, in the world's time.
const PATIENCE: Duration = Duration::from_secs(180);

/// Store requests that do not last, so that worlds stay short.
pub(crate) const RULES: RetryRules = RetryRules {
    attempts: 3,
    backoff: Duration::from_millis(100),
    backoff_max: Duration::from_secs(1),
    attempt_timeout: Duration::from_secs(2),
    redelivery: Duration::from_secs(1),
};

/// Files that are one PUT each.
pub(crate) const WHOLE_FILES: FileLimits =
    FileLimits { part_bytes: 5 << 20, rows_bytes: 1 << 20, row_group_bytes: 1 << 20, row_group_rows: 1 << 20 };

/// What a world is made of.
#[derive(Debug, Clone)]
pub(crate) struct Make {
    pub(crate) seed: u64,
    pub(crate) partitions: i32,
    pub(crate) pairs: Pairs,
    pub(crate) path_of: PathOf,
    pub(crate) limits: FileLimits,
    pub(crate) budget_bytes: usize,
    pub(crate) batch_rows: usize,
    pub(crate) revoke_timeout: Duration,
    pub(crate) bend: Bend,
}

impl Default for Make {
    fn default() -> Make {
        Make {
            seed: 1,
            partitions: 1,
            pairs: Vec::new(),
            path_of: |partition, _, _| format!("partition={partition}"),
            limits: WHOLE_FILES,
            budget_bytes: 64 << 20,
            batch_rows: 100,
            revoke_timeout: Duration::from_secs(10),
            bend: Bend::Not,
        }
    }
}

/// A wall clock over tokio's time, which can be moved.
pub(crate) struct SimClock {
    began: Instant,
    moved_ms: AtomicI64,
}

impl Clock for SimClock {
    fn now_ms(&self) -> i64 {
        let passed = i64::try_from(self.began.elapsed().as_millis()).expect("worlds are short");
        BEGIN_MS + passed + self.moved_ms.load(Ordering::Relaxed)
    }
}

/// A handle of the world.
#[derive(Clone)]
pub(crate) struct World(Arc<Inner>);

struct Inner {
    make: Make,
    log: MemoryLog,
    weather: Weather,
    objects: FaultyStore,
    truth: Arc<Mutex<Truth>>,
    clock: Arc<SimClock>,
    budgets: Mutex<Vec<Arc<Budget>>>,
    /// Somebody crashed, failed or lost what it held: uploads may be left behind.
    untidy: Arc<AtomicBool>,
}

impl World {
    pub(crate) fn new(make: Make) -> World {
        let weather = Weather::new(make.seed);
        let truth = Arc::new(Mutex::new(Truth::new(make.path_of)));
        let untidy = Arc::new(AtomicBool::new(false));
        let (fates, noted, lost) = (weather.clone(), truth.clone(), untidy.clone());
        let objects = FaultyStore::new(Arc::new(Witness::new(truth.clone())), move |request, key| {
            let fate = fates.of_store(request, key);
            let is_of_upload =
                matches!(request, Request::CreateUpload | Request::AbortUpload | Request::CompleteUpload);
            if is_of_upload && !matches!(fate, Fate::Fine | Fate::Slow(_)) {
                // Nobody can remove an upload whose name was lost on the way.
                lost.store(true, Ordering::Relaxed);
            }
            noted.lock().expect("no panic holds it").note(&format!("store {request:?} {key}: {fate:?}"));
            fate
        });
        let log = MemoryLog::new();
        log.create_topic(TOPIC, make.partitions);
        log.set_batch_rows_max(make.batch_rows);
        log.set_revoke_timeout(make.revoke_timeout);
        let (fates, is_bent) = (weather.clone(), make.bend == Bend::RepeatUnknown);
        log.set_faults(move |_, commits| if is_bent { CommitFate::Apply } else { fates.of_commit(commits) });
        let clock = Arc::new(SimClock { began: Instant::now(), moved_ms: AtomicI64::new(0) });
        World(Arc::new(Inner { make, log, weather, objects, truth, clock, budgets: Mutex::default(), untidy }))
    }

    pub(crate) fn make(&self) -> &Make {
        &self.0.make
    }

    pub(crate) fn log(&self) -> &MemoryLog {
        &self.0.log
    }

    pub(crate) fn weather(&self) -> &Weather {
        &self.0.weather
    }

    pub(crate) fn objects(&self) -> &FaultyStore {
        &self.0.objects
    }

    pub(crate) fn clock(&self) -> Arc<SimClock> {
        self.0.clock.clone()
    }

    pub(crate) fn truth(&self) -> MutexGuard<'_, Truth> {
        self.0.truth.lock().expect("no panic holds it")
    }

    pub(crate) fn generation(&self) -> u64 {
        self.0.log.generation(GROUP)
    }

    /// A client of the store as a process has it.
    pub(crate) fn store(&self, seed: u64) -> Store {
        let objects: Arc<dyn ObjectStore> = Arc::new(self.0.objects.clone());
        Store::with(objects, "sim", Abilities { metadata: true, conditional: true }, RULES, seed)
    }

    /// The memory of a new process.
    pub(crate) fn budget(&self) -> Arc<Budget> {
        let budget = Budget::new(self.0.make.budget_bytes);
        self.0.budgets.lock().expect("no panic holds it").push(budget.clone());
        budget
    }

    pub(crate) fn note(&self, line: &str) {
        self.truth().note(line);
    }

    /// Somebody did not end in order.
    pub(crate) fn make_untidy(&self) {
        self.0.untidy.store(true, Ordering::Relaxed);
    }

    pub(crate) fn about_to_commit(&self, who: &str, commits: &[Commit]) {
        self.truth().about_to_commit(who, commits);
    }

    /// Moves the wall clock.
    pub(crate) fn jump(&self, ms: i64) {
        self.note(&format!("the clock jumps by {ms} ms"));
        self.0.clock.moved_ms.fetch_add(ms, Ordering::Relaxed);
    }

    fn lanes(&self) -> impl Iterator<Item = TopicPartition> {
        (0..self.0.make.partitions).map(|partition| TopicPartition::new(TOPIC, partition))
    }

    /// Looks at what the group holds and at the memory in use.
    pub(crate) fn look(&self) {
        for lane in self.lanes() {
            if let Some((offset, _)) = self.0.log.committed(GROUP, &lane) {
                self.truth().committed(lane.partition, offset.get());
            }
        }
        for budget in self.0.budgets.lock().expect("no panic holds it").iter() {
            // A batch may be on its way when the limit is met, and columns weigh more than text.
            let most = budget.limit() + 2 * self.0.make.batch_rows * 256;
            if budget.used() > most {
                self.truth().accuse(format!("{} bytes in use of a budget of {}", budget.used(), budget.limit()));
            }
        }
    }

    /// A record `{"p", "o", ..fields}` that must be found in an object, its time that of the clock.
    pub(crate) fn produce(&self, partition: i32, fields: Value) -> i64 {
        self.produce_at(partition, fields, self.0.clock.now_ms())
    }

    /// As [`Self::produce`], but the row that must be found is another one: `row`.
    pub(crate) fn produce_as(&self, partition: i32, fields: Value, row: Value) {
        let offset = self.produce(partition, fields);
        let mut value = json!({ "p": partition, "o": offset });
        for (name, field) in row.as_object().into_iter().flatten() {
            value[name] = field.clone();
        }
        self.truth().records.entry((partition, offset)).and_modify(|record| record.value = Some(value));
    }

    /// As [`Self::produce`] with a record time.
    pub(crate) fn produce_at(&self, partition: i32, fields: Value, time_ms: i64) -> i64 {
        let mut value = json!({ "p": partition, "o": self.end(partition) });
        for (name, field) in fields.as_object().into_iter().flatten() {
            value[name] = field.clone();
        }
        let text = value.to_string();
        self.append(partition, Some(text.as_bytes()), Record { value: Some(value), time_ms })
    }

    /// A record that must not be found in any object.
    pub(crate) fn produce_bad(&self, partition: i32, text: Option<&str>) -> i64 {
        let record = Record { value: None, time_ms: self.0.clock.now_ms() };
        self.append(partition, text.map(str::as_bytes), record)
    }

    fn append(&self, partition: i32, text: Option<&[u8]>, record: Record) -> i64 {
        // Known before it can be read.
        self.truth().records.insert((partition, self.end(partition)), record.clone());
        self.0.log.produce(TOPIC, partition, None, text, record.time_ms, Vec::new()).get()
    }

    /// Offset of the next record.
    pub(crate) fn end(&self, partition: i32) -> i64 {
        self.0.log.end_offset(&TopicPartition::new(TOPIC, partition)).map_or(0, Offset::get)
    }

    /// Committed offset and metadata.
    pub(crate) fn committed(&self, partition: i32) -> (i64, String) {
        let committed = self.0.log.committed(GROUP, &TopicPartition::new(TOPIC, partition));
        committed.map_or((0, String::new()), |(offset, metadata)| (offset.get(), metadata))
    }

    /// Whether everything is committed and no plan is left.
    pub(crate) fn is_done(&self) -> bool {
        self.lanes().all(|lane| self.committed(lane.partition) == (self.end(lane.partition), String::new()))
    }

    /// Waits until `holds`; the world's time passes.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < PATIENCE, "it never came: {what}\n{}", self.tail(60));
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The last lines of the trace.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let truth = self.truth();
        let trace = truth.trace();
        trace[trace.len().saturating_sub(lines)..].join("\n")
    }

    /// Names of the files of data, in order.
    pub(crate) fn files(&self) -> Vec<String> {
        self.truth().objects.keys().cloned().collect()
    }

    /// What is wrong when nobody works any more. `whole`: everything must be visible and committed.
    pub(crate) fn verdict(&self, whole: bool) -> Vec<String> {
        self.look();
        let mut wrong = self.truth().verdict(whole);
        for lane in self.lanes().filter(|_| whole) {
            let (offset, metadata) = self.committed(lane.partition);
            let end = self.end(lane.partition);
            if (offset, metadata.as_str()) != (end, "") {
                wrong.push(format!("{lane} is committed up to {offset} of {end} with metadata {metadata:?}"));
            }
        }
        let (mut replaced, mut made_twice) = (self.0.objects.replaced(), self.truth().made_twice.clone());
        replaced.sort_unstable();
        made_twice.sort_unstable();
        if replaced != made_twice {
            wrong.push(format!("{replaced:?} were written over, of which {made_twice:?} with the same rows"));
        }
        if !self.0.untidy.load(Ordering::Relaxed) {
            wrong.extend(self.0.objects.open_uploads().iter().map(|key| format!("the upload of {key} is left behind")));
        }
        let budgets = self.0.budgets.lock().expect("no panic holds it");
        let held = budgets.iter().map(|budget| budget.used()).filter(|used| *used > 0);
        wrong.extend(held.map(|used| format!("{used} bytes of memory were never given back")));
        wrong
    }

    /// Fails the test if anything is wrong.
    pub(crate) fn expect_whole(&self) {
        self.expect_no_wrong(true);
    }

    /// Fails the test if anything is wrong besides what is not committed yet.
    pub(crate) fn expect_right(&self) {
        self.expect_no_wrong(false);
    }

    fn expect_no_wrong(&self, whole: bool) {
        let wrong = self.verdict(whole);
        assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), self.tail(60));
    }
}
