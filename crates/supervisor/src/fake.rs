//! An [`Assembly`] without Kafka: one connector that looks like Kafka's `FileStreamSinkConnector` and whose tasks only
//! answer to steering, or misbehave as their `fake.task` says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use model::{Config, Importance, Invalid, Key, Kind, Offset, Settings, TopicPartition, Width};
use pipeline::{Control, Doing, Wanted};
use tokio::time::{Instant, sleep_until};

use crate::{Assembly, OffsetChange, OffsetsError, PluginInfo, Role, TaskFailure, TaskId, Validation, keys};

const CLASS: &str = "org.apache.kafka.connect.file.FileStreamSinkConnector";
const VERSION: &str = "4.3.1";

const FILE: Key = Key::new("file", Kind::String, "Destination filename.").importance(Importance::High).group("", -1);
const TOPICS: Key = Key::new("topics", Kind::List, "List of topics to consume, separated by commas.")
    .default("")
    .importance(Importance::High)
    .group("Common", 4)
    .shown(Width::Long, "Topics");
const TOPICS_REGEX: Key = Key::new("topics.regex", Kind::String, "Regular expression giving topics to consume.")
    .default("")
    .importance(Importance::High)
    .group("Common", 4)
    .shown(Width::Long, "Topics regex");
const TRANSFORMS: Key = Key::new("transforms", Kind::List, "Aliases for the transformations.")
    .default("")
    .group("Transforms", 12)
    .shown(Width::Long, "Transforms");
const PREDICATES: Key = Key::new("predicates", Kind::List, "Aliases for the predicates.")
    .default("")
    .group("Predicates", 13)
    .shown(Width::Long, "Predicates");
/// What its tasks do: `run` (the default), `fail`, `unavailable` (fail on something transient), `flaky:N` (so N times, then
/// run), `lasts:MS` (run so many milliseconds, then so), `finish` (after a second), `panic`, `end` (without being asked), `ignore` (never stop),
/// `explode` (panic when validated).
const FAKE_TASK: Key = Key::new("fake.task", Kind::String, "What the tasks do.").default("run").group("", -1).ours();
const OWN: &[Key] = &[FILE, FAKE_TASK];
/// Keys that are other crates' to declare, as far as the fake goes.
const FOREIGN: &[Key] = &[TOPICS, TOPICS_REGEX, TRANSFORMS, PREDICATES];

/// The fake. It counts the tasks that run at the moment. Its only group has the offsets of all connectors.
#[derive(Debug, Default)]
pub struct FakeAssembly {
    group: Mutex<BTreeMap<TopicPartition, Option<Offset>>>,
    topics: Mutex<BTreeSet<String>>,
    running: Mutex<BTreeSet<TaskId>>,
    started_count: std::sync::atomic::AtomicUsize,
}

impl FakeAssembly {
    /// The tasks that run at the moment.
    pub fn running(&self) -> Vec<TaskId> {
        self.running.lock().expect("no code panics while it holds this lock").iter().cloned().collect()
    }

    /// Topic-partition `lane` exists, was read, and `committed` is its committed offset.
    pub fn read(&self, lane: TopicPartition, committed: Offset) {
        self.topics_read().insert(lane.topic.to_string());
        self.group().insert(lane, Some(committed));
    }

    fn group(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Option<Offset>>> {
        self.group.lock().expect("no code panics while it holds this lock")
    }

    fn topics_read(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.topics.lock().expect("no code panics while it holds this lock")
    }

    /// How many tasks were ever started.
    pub fn started_count(&self) -> usize {
        self.started_count.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// Removes the task from the running ones however it ends.
struct Present<'a>(&'a FakeAssembly, TaskId);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        let mut running = self.0.running.lock().expect("no code panics while it holds this lock");
        assert!(running.remove(&self.1) || std::thread::panicking(), "{} ran twice at a time", self.1);
    }
}

#[async_trait]
impl Assembly for FakeAssembly {
    fn plugins(&self) -> Vec<PluginInfo> {
        let converter = "org.apache.kafka.connect.json.JsonConverter";
        [(CLASS, Role::Sink), (converter, Role::Converter)]
            .map(|(class, role)| PluginInfo { class: class.to_owned(), role, version: VERSION.to_owned() })
            .into()
    }

    fn connector(&self, class: &str) -> Option<PluginInfo> {
        let is_known = [CLASS, "FileStreamSinkConnector", "FileStreamSink"].contains(&class);
        self.plugins().into_iter().find(|plugin| is_known && plugin.role == Role::Sink)
    }

    fn plugin_keys(&self, name: &str) -> Option<Vec<&'static Key>> {
        self.connector(name)?;
        Some(OWN.iter().chain(keys::in_connect_order(keys::KEYS.iter().chain(FOREIGN).collect())).collect())
    }

    fn validate(&self, config: &Config) -> Validation {
        let class = config.get("connector.class").map_or("", String::as_str);
        let settings = Settings::new(config.clone());
        assert_ne!(settings.text(&FAKE_TASK), Some("explode"), "as the configuration asks for");
        let mut validation = Validation::new(class);
        validation.add(&settings, keys::in_connect_order(keys::KEYS.iter().chain(FOREIGN).collect()));
        validation.add(&settings, OWN);
        validation.blame(keys::check(&settings));
        let given = |key: &Key| settings.text(key).is_some_and(|value| !value.is_empty());
        let problem = match (given(&TOPICS), given(&TOPICS_REGEX)) {
            (true, true) => "topics and topics.regex are mutually exclusive options, but both are set.",
            (false, false) => "Must configure one of topics or topics.regex",
            (true, false) | (false, true) => return validation,
        };
        validation.blame([&TOPICS, &TOPICS_REGEX].map(|key| Invalid::new(key.name, problem)));
        validation
    }

    fn task_configs(&self, config: &Config) -> Vec<Config> {
        let settings = Settings::new(config.clone());
        let count = settings.size(&keys::TASKS_MAX).unwrap_or(1);
        let mut task = config.clone();
        task.insert("task.class".to_owned(), CLASS.replace("Connector", "Task"));
        vec![task; count]
    }

    fn ends(&self, config: &Config) -> bool {
        config.get("fake.task").is_some_and(|task| task == "finish" || task == "fail")
    }

    async fn run_task(&self, task: TaskId, config: Config, mut control: Control) -> Result<(), TaskFailure> {
        self.started_count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let is_first = self.running.lock().expect("no code panics while it holds this lock").insert(task.clone());
        assert!(is_first, "{task} runs already");
        let _present = Present(self, task.clone());
        match config.get("fake.task").map(String::as_str) {
            Some("fail") => {
                return Err(TaskFailure { trace: format!("{task} failed: no such file"), transient: false });
            }
            Some("unavailable") => return Err(unavailable(&task)),
            Some("panic") => panic!("{task} lost its head"),
            Some("end") => return Ok(()),
            Some("finish") => {
                control.report(Doing::Running);
                tokio::time::sleep(Duration::from_secs(1)).await;
                control.report(Doing::Finished);
                return Ok(());
            }
            Some("ignore") => std::future::pending::<()>().await,
            Some(_) | None => {}
        }
        let number =
            |start: &str| Some(config.get("fake.task")?.strip_prefix(start)?.parse::<u64>().expect("a number"));
        if number("flaky:").is_some_and(|failures| self.started_count() as u64 <= failures) {
            return Err(unavailable(&task));
        }
        let lasts = number("lasts:");
        let end = Instant::now() + Duration::from_millis(lasts.unwrap_or_default());
        let mut wanted = control.wanted();
        loop {
            match wanted {
                Wanted::Run => control.report(Doing::Running),
                Wanted::Pause => control.report(Doing::Paused),
                Wanted::Stop => return Ok(()),
            }
            tokio::select! {
                biased;
                other = control.other_than(wanted) => wanted = other,
                () = sleep_until(end), if lasts.is_some() => return Err(unavailable(&task)),
            }
        }
    }

    async fn offsets(&self, _name: &str, _config: &Config) -> Result<Vec<(TopicPartition, Offset)>, OffsetsError> {
        Ok(self.group().iter().filter_map(|(lane, offset)| Some((lane.clone(), (*offset)?))).collect())
    }

    async fn change_offsets(
        &self,
        _name: &str,
        _config: &Config,
        change: OffsetChange,
    ) -> Result<String, OffsetsError> {
        let mut group = self.group();
        match change {
            OffsetChange::Alter(offsets) => {
                if let Some(unknown) = offsets.keys().find(|lane| !group.contains_key(lane)) {
                    return Err(OffsetsError(format!("there is no topic-partition {unknown}")));
                }
                group.extend(offsets);
            }
            OffsetChange::Reset => group.values_mut().for_each(|offset| *offset = None),
        }
        Ok(String::new())
    }

    fn topics(&self, _name: &str) -> BTreeSet<String> {
        self.topics_read().clone()
    }

    fn forget_topics(&self, _name: &str) {
        self.topics_read().clear();
    }
}

fn unavailable(task: &TaskId) -> TaskFailure {
    TaskFailure { trace: format!("{task} failed: the store does not answer"), transient: true }
}
