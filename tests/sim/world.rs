//! A world: topics, one group, one store, one clock, and the truth about them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::Offset;
use object_store::ObjectStore;
use pipeline::{Budget, Clock};
use serde_json::{Value, json};
use source::{Commit, CommitFate, LetterFate, MemoryDeadLetters, MemoryLog, Protocol, Subscription};
use tokio::time::{Instant, sleep};
use writer::{Abilities, Fate, FaultyStore, FileLimits, Request, RetryRules, Store};

use crate::actions::{Action, Reported};
use crate::bends::{Bend, BentStore};
use crate::lanes::{lane, partition_of, topic};
use crate::oracle::{Oracle, Wrong};
use crate::read::{Of, place_text};
use crate::recipe::Pairs;
use crate::truth::{PathOf, Record, Truth};
use crate::versions::envelope;
use crate::watch::{watch_log, watch_store};
use crate::weather::Weather;
use crate::witness::Witness;

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
    /// Of the first topic, whose name is `t`.
    pub(crate) partitions: i32,
    /// The connector reads every topic `t...`, else only the first.
    pub(crate) by_pattern: bool,
    pub(crate) protocol: Protocol,
    /// Each place for a worker has a `group.instance.id`.
    pub(crate) is_static: bool,
    /// The store knows If-None-Match.
    pub(crate) conditional: bool,
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
            by_pattern: false,
            protocol: Protocol::Eager,
            is_static: false,
            conditional: true,
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
    letters: MemoryDeadLetters,
    weather: Weather,
    objects: FaultyStore,
    truth: Arc<Mutex<Truth>>,
    clock: Arc<SimClock>,
    budgets: Mutex<Vec<Arc<Budget>>>,
    /// Numbers of the lanes that are there.
    lanes: Mutex<BTreeSet<i32>>,
    /// The settings of the next life.
    pairs: Mutex<Pairs>,
    /// What tells settings that shape objects from others.
    shape: AtomicI64,
    /// Workers ask the store where they were when the group does not know.
    recovers: AtomicBool,
    /// Somebody crashed, failed or lost what it held: uploads may be left behind.
    untidy: Arc<AtomicBool>,
}

impl World {
    pub(crate) fn new(make: Make) -> World {
        let weather = Weather::new(make.seed);
        let mut truth = Truth::new(make.path_of, make.conditional);
        let projects =
            |(key, mode): &(&str, String)| *key == "schema.compatibility" && mode != "NONE" && mode != "unknown";
        truth.by_version = !make.pairs.iter().any(projects);
        let is_set = |key: &str| make.pairs.iter().any(|(known, value)| *known == key && value == "true");
        truth.beside.extend(is_set("store.kafka.keys").then_some(Of::Keys));
        truth.beside.extend(is_set("store.kafka.headers").then_some(Of::Headers));
        let truth = Arc::new(Mutex::new(truth));
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
            let mut truth = noted.lock().expect("no panic holds it");
            truth.note(&format!("store {request:?} {key}: {fate:?}"));
            if let Some(reported) = Reported::of(fate) {
                truth.count(Action::Store(request, reported));
            }
            if matches!((request, fate), (Request::Put | Request::CompleteUpload, Fate::HangThenHappen(_))) {
                truth.kill_doomed();
            }
            fate
        });
        let log = MemoryLog::new();
        log.set_protocol(GROUP, make.protocol);
        log.create_topic(&topic(0), make.partitions);
        log.set_batch_rows_max(make.batch_rows);
        log.set_revoke_timeout(make.revoke_timeout);
        let (fates, noted, is_bent) = (weather.clone(), truth.clone(), make.bend == Bend::RepeatUnknown);
        log.set_faults(move |_, commits| {
            let fate = if is_bent { CommitFate::Apply } else { fates.of_commit(commits) };
            if fate == CommitFate::Refuse {
                noted.lock().expect("no panic holds it").count(Action::CommitRefused);
            }
            fate
        });
        let letters = MemoryDeadLetters::default();
        let (fates, noted) = (weather.clone(), truth.clone());
        letters.set_fates(move |letters| {
            let fate = fates.of_letters(letters);
            let action = match fate {
                LetterFate::Acknowledge => Some(Action::LetterAcknowledged),
                LetterFate::AcknowledgeLate(_) => Some(Action::LetterLate),
                LetterFate::WriteLate(_) => Some(Action::LetterWrittenLate),
                LetterFate::Lose(_) => Some(Action::LetterLost),
                LetterFate::Refuse => None,
            };
            let mut truth = noted.lock().expect("no panic holds it");
            truth.note(&format!("{} letters: {fate:?}", letters.len()));
            action.into_iter().for_each(|action| truth.count(action));
            fate
        });
        watch_log(&log, truth.clone());
        watch_store(&objects, truth.clone());
        let clock = Arc::new(SimClock { began: Instant::now(), moved_ms: AtomicI64::new(0) });
        let (lanes, pairs) = (Mutex::new((0..make.partitions).collect()), Mutex::new(make.pairs.clone()));
        World(Arc::new(Inner {
            make,
            log,
            letters,
            weather,
            objects,
            truth,
            clock,
            budgets: Mutex::default(),
            lanes,
            pairs,
            shape: AtomicI64::new(0),
            recovers: AtomicBool::new(false),
            untidy,
        }))
    }

    pub(crate) fn make(&self) -> &Make {
        &self.0.make
    }

    pub(crate) fn log(&self) -> &MemoryLog {
        &self.0.log
    }

    /// The dead letter topic.
    pub(crate) fn letters(&self) -> &MemoryDeadLetters {
        &self.0.letters
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

    /// A client of the store as the process `name` has it.
    pub(crate) fn store(&self, name: &str, seed: u64) -> Store {
        let bent = BentStore::new(self.0.objects.handle(name), self.0.make.bend);
        let objects: Arc<dyn ObjectStore> = Arc::new(bent);
        let abilities = Abilities { metadata: true, conditional: self.0.make.conditional };
        Store::with(objects, "sim", abilities, RULES, seed)
    }

    /// What workers subscribe to.
    pub(crate) fn subscription(&self) -> Subscription {
        if self.0.make.by_pattern {
            Subscription::Regex("t\\d?".to_owned())
        } else {
            Subscription::Topics(vec![topic(0)])
        }
    }

    /// The settings of the next life, and what tells their shape from others.
    pub(crate) fn settings(&self) -> (Pairs, i64) {
        let pairs = self.0.pairs.lock().expect("no panic holds it").clone();
        (pairs, self.0.shape.load(Ordering::Relaxed))
    }

    /// A person changes a setting that shapes no object; workers have it from their next life on.
    pub(crate) fn set(&self, key: &'static str, value: String) {
        self.note(&format!("{key} is {value} from now on"));
        let mut pairs = self.0.pairs.lock().expect("no panic holds it");
        pairs.retain(|(other, _)| *other != key);
        pairs.push((key, value));
    }

    /// A person changes a setting that shapes objects, or takes the change back.
    pub(crate) fn reshape(&self, shape: i64) {
        self.note(&format!("settings of shape {shape} from now on"));
        self.0.shape.store(shape, Ordering::Relaxed);
    }

    /// Whether workers ask the store when the group does not know where they were.
    pub(crate) fn recovers(&self) -> bool {
        self.0.recovers.load(Ordering::Relaxed)
    }

    /// Workers ask the store from now on.
    pub(crate) fn set_recovers(&self) {
        self.0.recovers.store(true, Ordering::Relaxed);
    }

    /// The group forgets everything. Nobody may be a member, and nothing on its way.
    pub(crate) fn lose_group(&self) {
        self.note("the group forgets everything");
        self.count(Action::GroupLost);
        self.truth().forget_committed();
        self.0.log.forget_group(GROUP);
    }

    /// Somebody deletes the first topic and creates it again.
    pub(crate) fn recreate_topic(&self) {
        self.note("the first topic is deleted and created again");
        self.truth().forget_committed();
        self.0.log.recreate_topic(&topic(0), self.0.make.partitions);
    }

    /// A person sets the committed offset of a lane, while nobody works.
    pub(crate) fn set_back(&self, number: i32, offset: i64) {
        self.note(&format!("a person sets p{number} to {offset}"));
        self.truth().forget_committed();
        let offset = Offset::new(offset).expect("not negative");
        self.0.log.set_committed(GROUP, &lane(number), offset, "");
    }

    /// One more lane.
    pub(crate) fn add_lane(&self, number: i32) {
        let lane = lane(number);
        self.note(&format!("{lane} appears"));
        self.count(if lane.partition == 0 { Action::NewTopic } else { Action::NewPartition });
        self.0.lanes.lock().expect("no panic holds it").insert(number);
        self.0.log.create_topic(&lane.topic, lane.partition + 1);
    }

    /// Retention removes the records of a lane before `begin`.
    pub(crate) fn retain_from(&self, number: i32, begin: i64) {
        self.note(&format!("retention leaves p{number} from {begin} on"));
        self.truth().excuse(number, begin);
        self.0.log.retain_from(&lane(number), Offset::new(begin).expect("not negative"));
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

    pub(crate) fn count(&self, action: Action) {
        self.truth().count(action);
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
        self.count(if ms < 0 { Action::ClockBack } else { Action::ClockForward });
        self.0.clock.moved_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Numbers of the lanes that are there.
    pub(crate) fn lanes(&self) -> Vec<i32> {
        self.0.lanes.lock().expect("no panic holds it").iter().copied().collect()
    }

    /// Whether a setting of the connector says this.
    fn has(&self, key: &str, value: &str) -> bool {
        self.0.make.pairs.iter().any(|(known, said)| *known == key && said == value)
    }

    /// Looks at the memory in use.
    pub(crate) fn look(&self) {
        for budget in self.0.budgets.lock().expect("no panic holds it").iter() {
            // Each lane may be making columns of a batch when the limit is met: they weigh more than text, and have headers.
            let most = budget.limit() + (1 + self.lanes().len()) * (self.0.make.batch_rows * 256 + 8192);
            if budget.used() > most {
                let what = format!("{} bytes in use of a budget of {}", budget.used(), budget.limit());
                self.truth().accuse(Oracle::Memory, what);
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

    /// As [`Self::produce`] with a record time. Fields with a version `sv` come with their schema, in an envelope.
    pub(crate) fn produce_at(&self, partition: i32, fields: Value, time_ms: i64) -> i64 {
        let mut value = json!({ "p": partition, "o": self.end(partition) });
        for (name, field) in fields.as_object().into_iter().flatten() {
            value[name] = field.clone();
        }
        let text = match value["sv"].as_i64() {
            Some(version) => envelope(version, &value),
            None => value.to_string(),
        };
        self.append(partition, Some(text.as_bytes()), Record { value: Some(value), is_tombstone: false, time_ms })
    }

    /// A record that must not be found in any object.
    pub(crate) fn produce_bad(&self, partition: i32, text: Option<&str>) -> i64 {
        self.count(if text.is_none() { Action::Tombstone } else { Action::BadRecord });
        let is_null = matches!(text.map(str::trim), None | Some("" | "null"));
        let is_tombstone = is_null && self.has("behavior.on.null.values", "write");
        let record = Record { value: None, is_tombstone, time_ms: self.0.clock.now_ms() };
        self.append(partition, text.map(str::as_bytes), record)
    }

    fn append(&self, number: i32, text: Option<&[u8]>, record: Record) -> i64 {
        // Known before it can be read.
        self.truth().records.insert((number, self.end(number)), record.clone());
        let topic = lane(number).topic;
        let place = place_text(number, self.end(number));
        let key = self.has("store.kafka.keys", "true").then_some(place.as_bytes());
        let headers = match self.has("store.kafka.headers", "true") {
            true => vec![("at".to_owned(), Some(place.clone().into_bytes()))],
            false => Vec::new(),
        };
        self.0.log.produce(&topic, partition_of(number), key, text, record.time_ms, headers).get()
    }

    /// Offsets without records, as control records make them.
    pub(crate) fn skip(&self, number: i32, count: u32) {
        self.count(Action::OffsetsWithoutRecords);
        if self.truth().records.range((number, 0)..(number + 1, 0)).next().is_none() {
            self.count(Action::LaneWithoutRecords);
        }
        self.0.log.skip(&lane(number).topic, partition_of(number), count);
    }

    /// Offset of the next record.
    pub(crate) fn end(&self, number: i32) -> i64 {
        self.0.log.end_offset(&lane(number)).map_or(0, Offset::get)
    }

    /// Committed offset and metadata.
    pub(crate) fn committed(&self, number: i32) -> (i64, String) {
        let committed = self.0.log.committed(GROUP, &lane(number));
        committed.map_or((0, String::new()), |(offset, metadata)| (offset.get(), metadata))
    }

    /// Whether everything is committed and no plan is left.
    pub(crate) fn is_done(&self) -> bool {
        self.lanes().iter().all(|number| self.committed(*number) == (self.end(*number), String::new()))
    }

    /// Whether the group holds a plan.
    pub(crate) fn has_plan(&self) -> bool {
        self.lanes().iter().any(|number| !self.committed(*number).1.is_empty())
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
    pub(crate) fn verdict(&self, whole: bool) -> Vec<Wrong> {
        self.look();
        let mut wrong = self.truth().verdict(whole);
        for number in self.lanes().into_iter().filter(|_| whole) {
            let ((offset, metadata), end) = (self.committed(number), self.end(number));
            if (offset, metadata.as_str()) != (end, "") {
                let what = format!("p{number} is committed up to {offset} of {end} with metadata {metadata:?}");
                wrong.push(Wrong::new(Oracle::Lag, what));
            }
        }
        let (mut replaced, mut known) = (self.0.objects.replaced(), self.truth().made_twice.clone());
        known.extend(self.truth().replaced.iter().cloned());
        replaced.sort_unstable();
        known.sort_unstable();
        if replaced != known && wrong.is_empty() {
            wrong.push(Wrong::new(
                Oracle::Changed,
                format!("{replaced:?} were written over, of which {known:?} may be"),
            ));
        }
        if !self.0.untidy.load(Ordering::Relaxed) {
            let left = self.0.objects.open_uploads().into_iter();
            wrong.extend(left.map(|key| Wrong::new(Oracle::Orphan, format!("the upload of {key} is left behind"))));
        }
        let budgets = self.0.budgets.lock().expect("no panic holds it");
        let held = budgets.iter().map(|budget| budget.used()).filter(|used| *used > 0);
        wrong.extend(held.map(|used| Wrong::new(Oracle::Memory, format!("{used} bytes were never given back"))));
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
        let texts: Vec<String> = wrong.iter().map(Wrong::to_string).collect();
        assert!(wrong.is_empty(), "{}\n{}", texts.join("\n"), self.tail(60));
    }
}
