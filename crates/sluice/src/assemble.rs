//! The one file that knows every concrete type: connectors, their keys, and how a task is put together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use delta::{DeltaCommitter, Table};
use model::{Config, Invalid, Key, Offset, Settings, TopicPartition, find, named};
use pipeline::{Budget, Clock, Control, Deadlines, Metrics, StoreRecovery, SystemClock, Task, TaskError, Wanted};
use schema::{CONVERTERS, HEADER_CONVERTERS, Part};
use source::{DataLoss, DeadLetters, KafkaDeadLetters, KafkaSource, Recovery, Source, SourceConfig};
use supervisor::{Assembly, OffsetChange, OffsetsError, PluginInfo, Role, TaskFailure, TaskId, Validation};
use tracing::{info, warn};
use writer::newest::Labels;
use writer::{
    Committer, Conditional, Environment, FORMATS, Layout, ObjectCommitter, OnExisting, PARTITIONERS, Probe, Store,
};

use crate::consumer::{self, Consumer, consumer};
use crate::dead_letters;
use crate::delta_connector::{self, Surroundings, Tables};
use crate::delta_upkeep;
use crate::guarantee;
use crate::offsets::{Group, Target};
use crate::offsets_import::as_positions;
use crate::orphans::{Cleaner, Cleaning};
use crate::recipe::{self, Dry, FREE_PREFIXES};
use crate::spark_options;
use crate::table_owner;
use crate::table_positions;
use crate::topics::{Noting, TopicsRead};
use crate::worker::Worker;

/// One kind of connector: what it is called, and what a task of it is.
pub(crate) type Connector = model::Plugin<Destination>;

/// Where the records of a connector go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To objects of their own.
    Objects,
    /// To the files of a Delta table.
    Table,
}

/// Every connector there is.
pub(crate) static CONNECTORS: &[Connector] = &[
    Connector {
        names: &["s3", "io.confluent.connect.s3.S3SinkConnector"],
        doc: "Topics to objects in S3, in stores that speak its protocol, or in a local directory.",
        keys: &[
            writer::rotation::KEYS,
            writer::layout::KEYS,
            source::KEYS,
            schema::CONNECTOR_KEYS,
            schema::STRAY_KEYS,
            transform::KEYS,
            supervisor::KEYS,
        ],
        check: check_s3,
        build: Destination::Objects,
    },
    Connector {
        names: &["delta", "deltalake", "sluice.delta.DeltaSinkConnector"],
        doc: "Topics to a Delta table in S3, in stores that speak its protocol, or in a local directory.",
        keys: &[
            delta_connector::KEYS,
            delta_upkeep::KEYS,
            spark_options::KEYS,
            source::KEYS,
            schema::CONNECTOR_KEYS,
            schema::STRAY_KEYS,
            transform::KEYS,
            supervisor::KEYS,
        ],
        check: check_delta,
        build: Destination::Table,
    },
];

/// The class name that REST shows for a connector: upstream's, which is what clients of Kafka Connect know.
fn class(connector: &Connector) -> &'static str {
    connector.names.last().expect("a connector has names")
}

/// Every key of a connector, each once, in Kafka Connect's order.
pub(crate) fn connector_keys(connector: &'static Connector) -> Vec<&'static Key> {
    let formats = FORMATS.iter().flat_map(|format| format.keys());
    let slices = writer::STORE_KEYS.iter().chain(writer::partition::KEYS).copied().flatten();
    let all: Vec<&'static Key> = match connector.build {
        Destination::Objects => formats.chain(slices).chain(connector.keys()).collect(),
        Destination::Table => {
            let shared = formats.chain(slices).filter(|key| delta_connector::shares(key.name));
            connector.keys().chain(shared).collect()
        }
    };
    let mut keys: Vec<&'static Key> = Vec::new();
    for key in all {
        if !keys.iter().any(|known| known.name == key.name) {
            keys.push(key);
        }
    }
    supervisor::keys::in_connect_order(keys)
}

/// Whether these are the settings of a connector that writes to a table.
pub(crate) fn is_table(settings: &Settings) -> bool {
    let class = settings.text(&supervisor::keys::CONNECTOR_CLASS).unwrap_or_default();
    named(CONNECTORS, class, "Connector").is_some_and(|connector| connector.build == Destination::Table)
}

/// The settings of `connector` as its lanes read them.
fn of_lanes(connector: &Connector, settings: &Settings) -> Result<Settings, Invalid> {
    match connector.build {
        Destination::Objects => Ok(settings.clone()),
        Destination::Table => delta_connector::translated(settings),
    }
}

fn check_delta(settings: &Settings) -> Vec<Invalid> {
    let mut problems = spark_options::check(settings);
    // A path that is wrong is reported for its key.
    let Ok(of_lanes) = delta_connector::translated(settings) else { return problems };
    let shared = check_s3(&of_lanes).into_iter().filter(|problem| delta_connector::shares(&problem.key));
    problems.extend(shared);
    problems
}

fn check_s3(settings: &Settings) -> Vec<Invalid> {
    let mut problems = writer::check_store_keys(settings);
    if let Ok(plugin) = writer::partitioner_plugin(settings) {
        problems.extend((plugin.check)(settings));
    }
    problems.extend(writer::Rotation::check(settings));
    problems.extend(source::check(settings));
    problems.extend(transform::check(settings));
    problems.extend(supervisor::keys::check(settings));
    problems
}

/// Everything tasks share: the process's memory, metrics, environment and worker settings.
pub(crate) struct House {
    pub(crate) worker: Worker,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) metrics: Metrics,
    pub(crate) table_metrics: delta::Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    running_tasks: AtomicUsize,
    topics: Arc<TopicsRead>,
    tables: Tables,
}

impl House {
    pub(crate) fn new(worker: Worker, environment: BTreeMap<String, String>) -> House {
        House {
            budget: Budget::new(worker.memory_budget_bytes),
            worker,
            environment,
            metrics: Metrics::default(),
            table_metrics: delta::Metrics::default(),
            clock: Arc::new(SystemClock),
            running_tasks: AtomicUsize::new(0),
            topics: Arc::default(),
            tables: Tables::default(),
        }
    }

    /// What `settings` make of the consumer of connector `name`.
    fn consumer(&self, name: &str, settings: &Settings) -> Result<Consumer, Invalid> {
        consumer(name, settings, &self.worker.settings)
    }

    /// What connector `name` guarantees with `settings`, which are valid, and what was found out about its store.
    pub(crate) fn guarantee(&self, name: &str, settings: &Settings, probe: Option<Probe>) -> Result<String, Invalid> {
        if is_table(settings) {
            return delta_connector::guarantee(settings);
        }
        let consumer = self.consumer(name, settings)?;
        guarantee::line(name, settings, &consumer.properties, probe)
    }

    /// Joins the pieces of one task and runs it.
    async fn work(&self, task: TaskId, config: Config, mut control: Control) -> Result<(), TaskError> {
        let settings = recipe::resolved(&config, &self.environment)?;
        let class = settings.text(&supervisor::keys::CONNECTOR_CLASS).unwrap_or_default();
        let connector = named(CONNECTORS, class, "Connector")
            .ok_or_else(|| TaskError::Refused("connector.class names no connector".to_owned()))?;
        let (given, settings) = (settings.clone(), of_lanes(connector, &settings)?);
        let dry = Dry::new(&settings, &self.worker.settings, &connector_keys(connector))?;
        if let Some(warning) = dry.rotation.warning() {
            warn!(%task, "{warning}");
        }
        let seed = seed();
        let requests = self.metrics.requests(&task.connector);
        let environment = Environment::new(self.environment.clone()).with_seed(seed).counting(requests);
        let store = Store::open(&settings, &environment).map_err(|error| TaskError::Refused(error.to_string()))?;
        let Some(probe) = unless_stopped(&mut control, store.probe(&dry.layout.probe_key())).await else {
            return Ok(());
        };
        let (probe, on_existing) = (probe?, OnExisting::new(&settings)?);
        let table = match connector.build {
            Destination::Objects => None,
            Destination::Table => Some(self.table(&task, [&given, &settings], &store, probe, seed).await?),
        };
        if task.task == 0 {
            info!(connector = %task.connector, "{}", self.guarantee(&task.connector, &given, Some(probe))?);
        }
        let _cleaner = if table.is_none() { self.cleaner(&task, &settings, &store, &dry.layout)? } else { None };
        let tasks = self.running_tasks.fetch_add(1, Ordering::Relaxed) + 1;
        let _running = Running(&self.running_tasks);
        let mut source_config = self.source_config(&task, &settings, tasks)?;
        let (until_end, mut pace) = (source_config.bounds.until_end, None);
        match &table {
            Some(table) => pace = self.read_for(table, &task.connector, &mut source_config, &given, &store)?,
            None => {
                source_config.recovery = recovery(&store, probe, &dry, on_existing, source_config.on_data_loss);
            }
        }
        let opening = self.dead_letters(&task, &settings);
        let Some(dead_letters) = unless_stopped(&mut control, opening).await else { return Ok(()) };
        let dead_letters = dead_letters?;
        source_config.with_headers |= dry.needs_headers;
        let (mut recipe, mut schemas) = dry.with(&store);
        let mut committer: Arc<dyn Committer> = Arc::new(ObjectCommitter::new(store.clone(), on_existing));
        if let Some(table) = &table {
            schemas = delta_connector::fit_recipe(&mut recipe, schemas, &settings, table, seed)?;
            committer = Arc::new(DeltaCommitter::new(committer, Table::clone(table), &task.connector));
        }
        let queues = self.budget.share();
        queues.resize(source_config.fetch_bytes + source_config.queue_bytes_max);
        let group = source_config.client.get("group.id").cloned().unwrap_or_default();
        info!(%task, group, store = store.name(), "task starts");
        let source = KafkaSource::new(source_config)?;
        let source = Noting { source, connector: task.connector.clone(), topics: self.topics.clone() };
        let task = Task {
            source: Arc::new(source) as Arc<dyn Source>,
            recipe: Arc::new(recipe),
            committer,
            dead_letters,
            schemas: Arc::new(schemas),
            budget: self.budget.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.task(&task.connector, u32::try_from(task.task).unwrap_or(u32::MAX)),
            deadlines: self.deadlines(),
            pace,
            until_end,
            seed,
        };
        task.run(control).await
    }

    /// How long a task may take to close what is open.
    fn deadlines(&self) -> Deadlines {
        let margin = Duration::from_secs(2).min(self.worker.graceful_timeout / 4);
        let deadline = self.worker.graceful_timeout - margin;
        Deadlines { drain: deadline, revoke: deadline }
    }

    /// The table of the connector that `given` describes, and these settings of its lanes, in a store of which this was found
    /// out.
    async fn table(
        &self,
        task: &TaskId,
        [given, of_lanes]: [&Settings; 2],
        store: &Store,
        probe: Probe,
        seed: u64,
    ) -> Result<Arc<Table>, TaskError> {
        if probe.conditional != Conditional::Honoured {
            return Err(TaskError::Refused(table_positions::overwrites(store, probe)));
        }
        let table = self.tables.open(&task.connector, given, store, self.surroundings(seed)).await?;
        let consumer = self.consumer(&task.connector, of_lanes)?.properties;
        table_owner::claim(store, table.location(), &task.connector, consumer).await?;
        Ok(table)
    }

    /// What this process gives its tables.
    pub(crate) fn surroundings(&self, seed: u64) -> Surroundings<'_> {
        let (clock, share) = (self.clock.clone(), self.budget.share());
        // It shrinks by itself when the store has answered.
        share.leave();
        Surroundings {
            metrics: &self.table_metrics,
            now_ms: Arc::new(move || clock.now_ms()),
            encoded: Arc::new(move |bytes| share.resize(bytes)),
            seed,
        }
    }

    /// What writes the bad records of `task`, when they have a topic; it is made if it is not there.
    async fn dead_letters(
        &self,
        task: &TaskId,
        settings: &Settings,
    ) -> Result<Option<Arc<dyn DeadLetters>>, TaskError> {
        let consumer = self.consumer(&task.connector, settings)?;
        let (name, worker) = (&task.connector, &self.worker.settings);
        let Some((config, warnings)) = dead_letters::config(name, task.task, settings, worker, &consumer)? else {
            return Ok(None);
        };
        for warning in warnings {
            warn!(%task, "{warning}");
        }
        Ok(Some(Arc::new(KafkaDeadLetters::open(&config).await?)))
    }

    /// The clean-up beside a connector's first task.
    fn cleaner(
        &self,
        task: &TaskId,
        settings: &Settings,
        store: &Store,
        layout: &Layout,
    ) -> Result<Option<Cleaner>, Invalid> {
        if task.task != 0 {
            return Ok(None);
        }
        let cleaning = Cleaning {
            connector: task.connector.clone(),
            store: store.clone(),
            layout: layout.clone(),
            subscription: source::subscription(settings)?,
            topics: self.topics.clone(),
            clock: self.clock.clone(),
        };
        cleaning.start(settings)
    }

    /// The source of `task`, one of `tasks` that share the queues' part of the memory.
    fn source_config(&self, task: &TaskId, settings: &Settings, tasks: usize) -> Result<SourceConfig, Invalid> {
        let of_connector = settings.size(&supervisor::keys::TASKS_MAX)?;
        let consumer = self.consumer(&task.connector, settings)?.of_task(task.task, of_connector);
        for warning in consumer.warnings {
            warn!(%task, "{warning}");
        }
        let mut config = SourceConfig::new(consumer.properties, source::subscription(settings)?);
        config.bounds.until_end = settings.boolean(&source::keys::STOP_AT_END)?;
        config.on_data_loss = source::on_data_loss(settings)?;
        // A dead letter has the headers of its record.
        config.with_headers = dead_letters::has_topic(settings);
        config.fetch_bytes = (self.budget.limit() / 32 / tasks).clamp(2 << 20, 64 << 20);
        config.queue_bytes_max = (self.budget.limit() / 64 / tasks).clamp(1 << 20, 32 << 20);
        config.revoke_timeout = self.worker.graceful_timeout;
        Ok(config)
    }

    /// The group of connector `name`, as its configuration describes it.
    pub(crate) fn group(&self, name: &str, config: &Config) -> Result<Group, Invalid> {
        let settings = recipe::resolved(config, &self.environment)?;
        if !is_table(&settings) {
            return Group::new(
                name,
                &settings,
                self.consumer(name, &settings)?,
                Target::Objects(OnExisting::new(&settings)?),
            );
        }
        let (of_lanes, starting) = (delta_connector::translated(&settings)?, spark_options::starting(&settings)?);
        Group::new(name, &of_lanes, self.consumer(name, &of_lanes)?, Target::Table(starting))
    }
}

/// What tells from the objects in `store` where topic-partitions end that the group does not know; `None` if they may not be
/// listed.
fn recovery(
    store: &Store,
    probe: Probe,
    dry: &Dry,
    on_existing: OnExisting,
    on_data_loss: DataLoss,
) -> Option<Arc<dyn Recovery>> {
    if !probe.listable {
        warn!(
            store = store.name(),
            "objects may not be listed: where the group has no offset, auto.offset.reset decides"
        );
        return None;
    }
    let labels = Labels { format: dry.format.clone(), views: dry.views.clone() };
    Some(Arc::new(StoreRecovery::new(store.clone(), dry.layout.clone(), labels, on_existing, on_data_loss)))
}

/// Does `work`; `None` when the task is asked to stop meanwhile.
async fn unless_stopped<T>(control: &mut Control, work: impl Future<Output = T>) -> Option<T> {
    let stopped = async {
        let mut wanted = control.wanted();
        while wanted != Wanted::Stop {
            wanted = control.other_than(wanted).await;
        }
    };
    tokio::select! {
        // A stop counts although the work is done: what follows it would only be ended again.
        biased;
        () = stopped => None,
        done = work => Some(done),
    }
}

/// Counts a task that runs, as long as it is there.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where chance comes in")]
pub(crate) fn seed() -> u64 {
    rand::random()
}

fn plugin_info(class: &str, role: Role) -> PluginInfo {
    PluginInfo { class: class.to_owned(), role, version: env!("CARGO_PKG_VERSION").to_owned() }
}

#[async_trait]
impl Assembly for House {
    fn plugins(&self) -> Vec<PluginInfo> {
        let connectors = CONNECTORS.iter().map(|connector| plugin_info(class(connector), Role::Sink));
        let converters =
            CONVERTERS.iter().map(|converter| plugin_info(converter.names[converter.names.len() - 1], Role::Converter));
        let of_headers = HEADER_CONVERTERS
            .iter()
            .map(|converter| plugin_info(converter.names[converter.names.len() - 1], Role::HeaderConverter));
        connectors.chain(converters).chain(of_headers).collect()
    }

    fn connector(&self, name: &str) -> Option<PluginInfo> {
        named(CONNECTORS, name, "Connector").map(|connector| plugin_info(class(connector), Role::Sink))
    }

    fn plugin_keys(&self, name: &str) -> Option<Vec<&'static Key>> {
        if let Some(connector) = named(CONNECTORS, name, "Connector") {
            return Some(connector_keys(connector));
        }
        if let Ok(converter) =
            find(CONVERTERS, "converter", name).or_else(|_| find(HEADER_CONVERTERS, "converter", name))
        {
            return Some(converter.keys().collect());
        }
        let partitioner = find(PARTITIONERS, "partitioner", name).map(|plugin| plugin.keys().collect());
        let format = find(FORMATS, "format", name).map(|plugin| plugin.keys().collect());
        partitioner.or(format).ok()
    }

    fn validate(&self, config: &Config) -> Validation {
        let name = config.get(supervisor::keys::CONNECTOR_CLASS.name).map_or("", |name| name.trim());
        let mut validation = Validation::new(name);
        let (settings, unresolved) = match recipe::resolved(config, &self.environment) {
            Ok(settings) => (settings, None),
            Err(problem) => (Settings::new(config.clone()), Some(problem)),
        };
        let Some(connector) = named(CONNECTORS, name, "Connector") else { return validation };
        let keys = connector_keys(connector);
        let of_lanes = of_lanes(connector, &settings).unwrap_or_else(|_| settings.clone());
        validation.add(&settings, keys.iter().copied());
        for part in [Part::Key, Part::Value, Part::Header] {
            match recipe::converter(&settings, &self.worker.settings, part) {
                Ok(chosen) if settings.is_set(part.key()) => {
                    validation.add_below(&settings, &format!("{}.", part.key().name), chosen.plugin.keys());
                }
                Ok(_) => {}
                Err(problem) => validation.blame([problem]),
            }
        }
        validation.blame(unresolved);
        validation.blame((connector.check)(&settings));
        if validation.errors().next().is_none() {
            // What only building the plug-ins can tell.
            match Dry::new(&of_lanes, &self.worker.settings, &keys) {
                Ok(dry) => validation.warnings.extend(dry.rotation.warning().map(str::to_owned)),
                Err(problem) => validation.blame([problem]),
            }
        }
        validation.warnings.extend(writer::store_advice(&of_lanes));
        validation.warnings.extend(schema::SchemaRules::warning(&of_lanes));
        validation.warnings.extend(consumer::advice(config));
        let free = match connector.build {
            Destination::Objects => FREE_PREFIXES.to_vec(),
            Destination::Table => [FREE_PREFIXES, delta_connector::FREE_PREFIXES].concat(),
        };
        validation.warn_unknown(config, &free);
        validation
    }

    fn task_configs(&self, config: &Config) -> Vec<Config> {
        let settings = Settings::new(config.clone());
        let tasks = settings.size(&supervisor::keys::TASKS_MAX).unwrap_or(1).max(1);
        let mut task = config.clone();
        let class =
            if is_table(&settings) { "sluice.delta.DeltaSinkTask" } else { "io.confluent.connect.s3.S3SinkTask" };
        task.insert("task.class".to_owned(), class.to_owned());
        vec![task; tasks]
    }

    fn ends(&self, config: &Config) -> bool {
        let ends = |settings: Settings| {
            let settings = if is_table(&settings) { delta_connector::translated(&settings)? } else { settings };
            settings.boolean(&source::keys::STOP_AT_END)
        };
        recipe::resolved(config, &self.environment).and_then(ends).unwrap_or(false)
    }

    async fn run_task(&self, task: TaskId, config: Config, control: Control) -> Result<(), TaskFailure> {
        let outcome = self.work(task, config, control).await;
        outcome.map_err(|error| TaskFailure { trace: error.to_string(), transient: error.is_transient() })
    }

    async fn offsets(&self, name: &str, config: &Config) -> Result<Vec<(TopicPartition, Offset)>, OffsetsError> {
        let group = self.group(name, config).map_err(|problem| OffsetsError(problem.to_string()))?;
        let positions = group.positions().await?;
        let committed = positions.into_iter().filter_map(|one| Some((one.topic_partition, one.committed?.0)));
        Ok(committed.collect())
    }

    async fn change_offsets(&self, name: &str, config: &Config, change: OffsetChange) -> Result<String, OffsetsError> {
        let group = self.group(name, config).map_err(|problem| OffsetsError(problem.to_string()))?;
        let changed = group.change(change).await?;
        let positions = as_positions(name, &changed.offsets());
        self.set_in_table(name, config, true, |_| Ok(positions.clone())).await?;
        Ok(changed.note)
    }

    fn topics(&self, name: &str) -> BTreeSet<String> {
        self.topics.of(name)
    }

    fn forget_topics(&self, name: &str) {
        self.topics.forget(name);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use supervisor::Definition;

    use super::*;

    /// What Kafka Connect 4.3.1 shows for the S3 sink, recorded from `GET /connector-plugins/../config`.
    const UPSTREAM: &str = include_str!("../../../tests/data/s3-sink-configdef.json");

    #[test]
    fn every_key_of_the_s3_sink_is_declared_as_upstream_declares_it() {
        let keys = connector_keys(&CONNECTORS[0]);
        let upstream: Vec<Value> = serde_json::from_str(UPSTREAM).unwrap();
        assert!(upstream.len() > 90);
        for expected in upstream {
            let name = expected["name"].as_str().unwrap();
            let key = keys.iter().find(|key| key.name == name).unwrap_or_else(|| panic!("{name} is not declared"));
            let ours = Definition::of(key);
            let shown = serde_json::json!({
                "name": name,
                "type": ours.kind.as_str(),
                "required": ours.required,
                "default_value": ours.default_value,
                "importance": ours.importance.as_str(),
                "group": ours.group.unwrap_or_default(),
                "order_in_group": ours.order,
                "width": ours.width.as_str(),
                "display_name": ours.display_name,
                "dependents": ours.dependents,
            });
            // The version that is built in is shown by `GET /connector-plugins`.
            if name != "connector.plugin.version" {
                assert_eq!(shown, expected);
            }
        }
    }

    #[test]
    fn the_connectors_of_the_repository_are_valid() {
        let house = House::new(Worker::new(Config::new()).unwrap(), BTreeMap::new());
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../connectors");
        let mut connectors = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let (name, config) = crate::connector_file::read(&entry.unwrap().path()).unwrap();
            let errors: Vec<String> = house.validate(&config).errors().map(str::to_owned).collect();
            // A schema file is named from the root of the repository, where tests of this crate do not run.
            assert!(errors.iter().all(|error| error.contains("schemas/")), "{name}: {errors:?}");
            connectors += 1;
        }
        assert!(connectors > 0);
    }
}
