//! The one file that knows every concrete type: connectors, their keys, and how a task is put together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use model::{Config, Invalid, Key, Settings, find, named};
use pipeline::{Budget, Clock, Control, Deadlines, Metrics, SystemClock, Task, TaskError};
use schema::{CONVERTERS, Part};
use source::{KafkaSource, Source, SourceConfig, properties};
use supervisor::{Assembly, PluginInfo, Role, TaskFailure, TaskId, Validation};
use tracing::{info, warn};
use writer::{Environment, FORMATS, ObjectCommitter, PARTITIONERS, Store};

use crate::recipe::{self, Dry, FREE_PREFIXES};
use crate::worker::{BOOTSTRAP_SERVERS, Worker};

/// One kind of connector: what it is called and what a task of it is.
pub(crate) type Connector = model::Plugin<()>;

/// Every connector there is.
pub(crate) static CONNECTORS: &[Connector] = &[Connector {
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
    build: (),
}];

/// The class name that REST shows for a connector: upstream's, which is what clients of Kafka Connect know.
fn class(connector: &Connector) -> &'static str {
    connector.names.last().expect("a connector has names")
}

/// Every key of the S3 sink, each once, in Kafka Connect's order.
pub(crate) fn connector_keys(connector: &'static Connector) -> Vec<&'static Key> {
    let formats = FORMATS.iter().flat_map(|format| format.keys());
    let slices = writer::STORE_KEYS.iter().chain(writer::partition::KEYS).copied().flatten();
    let mut keys: Vec<&'static Key> = Vec::new();
    for key in formats.chain(slices).chain(connector.keys()) {
        if !keys.iter().any(|known| known.name == key.name) {
            keys.push(key);
        }
    }
    supervisor::keys::in_connect_order(keys)
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
    pub(crate) clock: Arc<dyn Clock>,
    running_tasks: AtomicUsize,
}

impl House {
    pub(crate) fn new(worker: Worker, environment: BTreeMap<String, String>) -> House {
        House {
            budget: Budget::new(worker.memory_budget_bytes),
            worker,
            environment,
            metrics: Metrics::default(),
            clock: Arc::new(SystemClock),
            running_tasks: AtomicUsize::new(0),
        }
    }

    /// Properties of the consumer of `task`: the worker's `consumer.*` (and its own security), over them the
    /// connector's `consumer.override.*`; warnings for what has no effect.
    fn consumer(&self, task: &TaskId, settings: &Settings) -> Result<(BTreeMap<String, String>, Vec<String>), Invalid> {
        let worker = &self.worker.settings;
        let mut security: Vec<(String, &str)> = Vec::new();
        for prefix in ["security.", "sasl.", "ssl."] {
            security.extend(worker.with_prefix(prefix).map(|(key, value)| (format!("{prefix}{key}"), value)));
        }
        let inherited = properties::translate("", security.iter().map(|(key, value)| (key.as_str(), *value)))?;
        let of_worker = properties::translate("consumer.", worker.with_prefix("consumer."))?;
        let prefix = source::keys::CONSUMER_OVERRIDE;
        let of_connector = properties::translate(prefix, settings.with_prefix(prefix))?;
        let mut all = BTreeMap::from([
            ("bootstrap.servers".to_owned(), worker.text(&BOOTSTRAP_SERVERS).unwrap_or_default().to_owned()),
            ("group.id".to_owned(), format!("connect-{}", task.connector)),
            ("client.id".to_owned(), format!("connector-consumer-{}-{}", task.connector, task.task)),
        ]);
        let mut warnings = Vec::new();
        for translated in [inherited, of_worker, of_connector] {
            all.extend(translated.properties);
            warnings.extend(translated.warnings);
        }
        Ok((all, warnings))
    }

    /// Joins the pieces of one task and runs it.
    async fn work(&self, task: TaskId, config: Config, control: Control) -> Result<(), TaskError> {
        let settings = recipe::resolved(&config, &self.environment)?;
        let connector =
            named(CONNECTORS, settings.text(&supervisor::keys::CONNECTOR_CLASS).unwrap_or_default(), "Connector")
                .ok_or_else(|| TaskError::Refused("connector.class names no connector".to_owned()))?;
        let dry = Dry::new(&settings, &self.worker.settings, &connector_keys(connector))?;
        if let Some(warning) = dry.rotation.warning() {
            warn!(%task, "{warning}");
        }
        let seed = seed();
        let environment = Environment::new(self.environment.clone()).with_seed(seed);
        let store = Store::open(&settings, &environment).map_err(|error| TaskError::Refused(error.to_string()))?;
        store.probe().await?;
        let (recipe, schemas) = dry.with(&store);
        let (client, warnings) = self.consumer(&task, &settings)?;
        for warning in warnings {
            warn!(%task, "{warning}");
        }
        let tasks = self.running_tasks.fetch_add(1, Ordering::Relaxed) + 1;
        let _running = Running(&self.running_tasks);
        let mut source_config = SourceConfig::new(client, source::subscription(&settings)?);
        source_config.fetch_bytes = (self.budget.limit() / 32 / tasks).clamp(2 << 20, 64 << 20);
        source_config.queue_bytes_max = (self.budget.limit() / 64 / tasks).clamp(1 << 20, 32 << 20);
        source_config.revoke_timeout = self.worker.graceful_timeout;
        let queues = self.budget.share();
        queues.resize(source_config.fetch_bytes + source_config.queue_bytes_max);
        let group = source_config.client.get("group.id").cloned().unwrap_or_default();
        info!(%task, group, store = store.name(), "task starts");
        let source = KafkaSource::new(source_config)?;
        let margin = Duration::from_secs(2).min(self.worker.graceful_timeout / 4);
        let deadline = self.worker.graceful_timeout - margin;
        let task = Task {
            source: Arc::new(source) as Arc<dyn Source>,
            recipe: Arc::new(recipe),
            committer: Arc::new(ObjectCommitter::new(store)),
            schemas: Arc::new(schemas),
            budget: self.budget.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.task(&task.connector, u32::try_from(task.task).unwrap_or(u32::MAX)),
            deadlines: Deadlines { drain: deadline, revoke: deadline },
            seed,
        };
        task.run(control).await
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
fn seed() -> u64 {
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
        connectors.chain(converters).collect()
    }

    fn connector(&self, name: &str) -> Option<PluginInfo> {
        named(CONNECTORS, name, "Connector").map(|connector| plugin_info(class(connector), Role::Sink))
    }

    fn plugin_keys(&self, name: &str) -> Option<Vec<&'static Key>> {
        if let Some(connector) = named(CONNECTORS, name, "Connector") {
            return Some(connector_keys(connector));
        }
        if let Ok(converter) = find(CONVERTERS, "converter", name) {
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
        validation.add(&settings, keys.iter().copied());
        for part in [Part::Key, Part::Value] {
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
            match Dry::new(&settings, &self.worker.settings, &keys) {
                Ok(dry) => validation.warnings.extend(dry.rotation.warning().map(str::to_owned)),
                Err(problem) => validation.blame([problem]),
            }
        }
        validation.warnings.extend(writer::store_advice(&settings));
        validation.warn_unknown(config, FREE_PREFIXES);
        validation
    }

    fn task_configs(&self, config: &Config) -> Vec<Config> {
        let settings = Settings::new(config.clone());
        let tasks = settings.size(&supervisor::keys::TASKS_MAX).unwrap_or(1).max(1);
        let mut task = config.clone();
        task.insert("task.class".to_owned(), "io.confluent.connect.s3.S3SinkTask".to_owned());
        vec![task; tasks]
    }

    async fn run_task(&self, task: TaskId, config: Config, control: Control) -> Result<(), TaskFailure> {
        let outcome = self.work(task, config, control).await;
        outcome.map_err(|error| TaskFailure { trace: error.to_string(), transient: error.is_transient() })
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
