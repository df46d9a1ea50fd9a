//! What can be done to one connector, one operation after the other: decide, keep, then bring the tasks in line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use model::{Config, Kind};
use pipeline::Wanted;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::connector::{Connector, Slot};
use crate::error::connector_not_found;
use crate::restart::{Backoff, RestartRules};
use crate::task::{RunningTask, stop_all};
use crate::{
    Assembly, ConnectorInfo, ConnectorStatus, Error, Options, PluginInfo, Put, Restart, Role, State, StateError,
    StateStore, Stored, Submitted, TargetState, TaskId, Validation, keys, masked,
};

/// What all operations share.
pub(crate) struct Inner {
    pub(crate) assembly: Arc<dyn Assembly>,
    pub(crate) options: Options,
    store: StateStore,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    closing: AtomicBool,
    /// Draws the seed of each task's waits.
    rng: Mutex<StdRng>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn new(assembly: Arc<dyn Assembly>, store: StateStore, options: Options) -> Inner {
        let rng = Mutex::new(StdRng::seed_from_u64(options.seed));
        Inner { assembly, options, store, slots: Mutex::default(), closing: AtomicBool::new(false), rng }
    }

    fn start_task(&self, id: TaskId, config: Config, wanted: Wanted) -> Arc<RunningTask> {
        let seed = self.rng.lock().expect("no code panics while it holds this lock").random();
        let backoff = Backoff::new(RestartRules::of(&config), seed);
        RunningTask::start(&self.assembly, id, config, wanted, backoff, self.options.metrics.clone())
    }

    /// The slots by name. Nobody waits while holding this lock.
    pub(crate) fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Slot>>> {
        self.slots.lock().expect("no code panics while it holds this lock")
    }

    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Validates `submitted`: its values that are not null, everything known about it, and the connector it means.
    pub(crate) fn validate(&self, submitted: &Submitted) -> Result<(Config, Validation, PluginInfo), Error> {
        let config: Config = submitted.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect();
        let Some(class) = config.get(keys::CONNECTOR_CLASS.name).map(|class| class.trim()) else {
            let shown = self.shown(submitted, &config);
            return Err(Error::Refused(format!("Connector config {shown} contains no connector type")));
        };
        let plugin = self.assembly.connector(class).ok_or_else(|| {
            let known: Vec<String> = self.assembly.plugins().into_iter().filter(is_connector).map(|one| one.class).collect();
            Error::Refused(format!(
                "Failed to find any class that implements Connector and which name matches {class}, available connectors are: {}",
                known.join(", ")
            ))
        })?;
        let mut validation = self.assembly.validate(&config);
        validation.blame_nulls(submitted.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key.as_str()));
        Ok((config, validation, plugin))
    }

    /// The configuration under which connector `name` may run, its own name added, and its plug-in.
    pub(crate) fn accept(&self, name: &str, mut submitted: Submitted) -> Result<(Config, PluginInfo), Error> {
        match submitted.get(keys::NAME.name) {
            Some(Some(given)) if given != name => {
                return Err(Error::Refused(format!(
                    "Connector name configuration ({given}) doesn't match connector name in the URL ({name})"
                )));
            }
            Some(Some(_)) => {}
            Some(None) | None => {
                submitted.insert(keys::NAME.name.to_owned(), Some(name.to_owned()));
            }
        }
        let (config, validation, plugin) = self.validate(&submitted)?;
        if validation.errors().next().is_some() {
            return Err(Error::Invalid(Box::new(validation)));
        }
        for warning in &validation.warnings {
            warn!(connector = name, warning = %warning, "configuration accepted with a warning");
        }
        Ok((config, plugin))
    }

    /// A kept connector; it is failed if this version cannot accept it.
    pub(crate) fn revive(&self, stored: Stored) -> Connector {
        let submitted = stored.config.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        match self.accept(&stored.name, submitted) {
            Ok((config, plugin)) => Connector::new(config, stored.state, Some(plugin)),
            Err(error) => {
                tracing::error!(connector = %stored.name, error = %error, "a kept connector is invalid, it does not run");
                let class = stored.config.get(keys::CONNECTOR_CLASS.name).map(|class| class.trim());
                let plugin = class.and_then(|class| self.assembly.connector(class));
                let mut connector = Connector::new(stored.config, stored.state, plugin);
                connector.trace = Some(error.to_string());
                connector
            }
        }
    }

    /// `{a=1, b=null}`, secrets masked: as no class says which keys are secrets, those of every plug-in are.
    fn shown(&self, submitted: &Submitted, config: &Config) -> String {
        let keys = self.assembly.plugins().into_iter().filter_map(|plugin| self.assembly.plugin_keys(&plugin.class));
        let passwords: BTreeSet<&str> =
            keys.flatten().filter(|key| key.kind == Kind::Password).map(|key| key.name).collect();
        let masked = masked(config, |name| passwords.contains(name));
        let pairs: Vec<String> = submitted
            .keys()
            .map(|name| format!("{name}={}", masked.get(name).map_or("null", String::as_str)))
            .collect();
        format!("{{{}}}", pairs.join(", "))
    }
}

fn is_connector(plugin: &PluginInfo) -> bool {
    plugin.role == Role::Sink
}

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Such work is never cancelled while the runtime lives.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// One operation on one connector, which is the only one on it until [`Self::end`].
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) inner: Arc<Inner>,
    pub(crate) name: String,
    pub(crate) slot: Arc<Slot>,
}

impl Operation {
    /// Waits until the operations before it are over.
    pub(crate) async fn begin(inner: Arc<Inner>, name: String) -> (Operation, OwnedMutexGuard<()>) {
        loop {
            let slot = Arc::clone(inner.slots().entry(name.clone()).or_default());
            let guard = Arc::clone(&slot.operations).lock_owned().await;
            let is_current = inner.slots().get(&name).is_some_and(|current| Arc::ptr_eq(current, &slot));
            // Otherwise the operation before this one has removed the connector together with its slot.
            if is_current {
                return (Operation { inner, name, slot }, guard);
            }
        }
    }

    /// Lets the next operation begin. A slot without a connector is removed, so that asking for names that do not exist
    /// leaves nothing behind.
    pub(crate) fn end(self, guard: OwnedMutexGuard<()>) {
        if self.slot.connector().is_none() {
            self.inner.slots().remove(&self.name);
        }
        drop(guard);
    }

    pub(crate) async fn create(&self, submitted: Submitted, state: TargetState) -> Result<ConnectorInfo, Error> {
        let (config, plugin) = self.inner.accept(&self.name, submitted)?;
        if self.slot.connector().is_some() {
            return Err(Error::AlreadyExists(self.name.clone()));
        }
        Ok(self.replace(config, plugin, state).await?.info)
    }

    pub(crate) async fn put(&self, submitted: Submitted) -> Result<Put, Error> {
        let (config, plugin) = self.inner.accept(&self.name, submitted)?;
        let target = self.slot.connector().as_ref().map_or(TargetState::Running, |connector| connector.target);
        self.replace(config, plugin, target).await
    }

    pub(crate) async fn patch(&self, patch: Submitted) -> Result<ConnectorInfo, Error> {
        let connector = self.slot.connector().clone().ok_or_else(|| connector_not_found(&self.name))?;
        let mut config = connector.config;
        for (key, value) in patch {
            match value {
                Some(value) => config.insert(key, value),
                None => config.remove(&key),
            };
        }
        let submitted = config.into_iter().map(|(key, value)| (key, Some(value))).collect();
        let (config, plugin) = self.inner.accept(&self.name, submitted)?;
        Ok(self.replace(config, plugin, connector.target).await?.info)
    }

    pub(crate) async fn delete(&self) -> Result<(), Error> {
        if self.slot.connector().is_none() {
            return Err(connector_not_found(&self.name));
        }
        let (store, name) = (self.inner.store.clone(), self.name.clone());
        blocking(move || store.remove(&name)).await?;
        let removed = self.slot.connector().take();
        info!(connector = %self.name, "connector deleted");
        self.stop_tasks(&removed.map(|connector| connector.tasks).unwrap_or_default()).await;
        Ok(())
    }

    /// Keeps `target` and brings the tasks in line with it.
    pub(crate) async fn steer(&self, target: TargetState) -> Result<(), Error> {
        let missing = || Error::NotFound(format!("Unknown connector {}", self.name));
        let connector = self.slot.connector().clone().ok_or_else(missing)?;
        if connector.target != target {
            self.keep(connector.config, target).await?;
            if let Some(connector) = &mut *self.slot.connector() {
                connector.target = target;
            }
            info!(connector = %self.name, wanted = ?target, "connector steered");
        }
        self.reconcile(false).await;
        Ok(())
    }

    /// The status to answer a restart with, and the tasks to restart. A connector that failed itself is given another try.
    pub(crate) fn plan_restart(&self, restart: Restart) -> Result<(ConnectorStatus, Vec<usize>), Error> {
        let mut connector = self.slot.connector().clone().ok_or_else(|| self.unknown())?;
        let mut status = connector.status(&self.name, &self.inner.options.worker_id);
        let connector_failed = connector.trace.is_some();
        if connector_failed {
            let (name, config) = (self.name.clone(), connector.config.clone());
            let revived = self.inner.revive(Stored { name, config, state: connector.target });
            connector.plugin = revived.plugin;
            connector.trace = revived.trace;
        }
        if !restart.only_failed || connector_failed {
            status.connector.state = State::Restarting;
        }
        for task in status.tasks.iter_mut().filter(|_| restart.include_tasks) {
            // A task that waits for its next try has failed, and is tried at once.
            if !restart.only_failed || matches!(task.placed.state, State::Failed | State::Restarting) {
                task.placed.state = State::Restarting;
                connector.restarting.push(task.task);
            }
        }
        let tasks = connector.restarting.clone();
        *self.slot.connector() = Some(connector);
        Ok((status, tasks))
    }

    pub(crate) async fn restart_task(&self, task: usize) -> Result<(), Error> {
        {
            let mut slot = self.slot.connector();
            let connector = slot.as_mut().ok_or_else(|| self.unknown())?;
            if !connector.tasks.iter().any(|one| one.id.task == task) {
                return Err(Error::NotFound(format!("Unknown task: {}-{task}", self.name)));
            }
            connector.restarting.push(task);
        }
        self.restart_tasks(&[task]).await;
        Ok(())
    }

    fn unknown(&self) -> Error {
        Error::NotFound(format!("Unknown connector: {}", self.name))
    }

    /// Ends the tasks of these numbers and starts them anew with the configurations they have.
    pub(crate) async fn restart_tasks(&self, numbers: &[usize]) {
        let Some(connector) = self.slot.connector().clone() else {
            return;
        };
        let old: Vec<_> = connector.tasks.iter().filter(|task| numbers.contains(&task.id.task)).cloned().collect();
        self.stop_tasks(&old).await;
        let wanted = connector.wanted().filter(|_| !self.inner.is_closing());
        let mut slot = self.slot.connector();
        let Some(connector) = slot.as_mut() else {
            return;
        };
        for task in &mut connector.tasks {
            if let Some(wanted) = wanted.filter(|_| numbers.contains(&task.id.task)) {
                *task = self.inner.start_task(task.id.clone(), task.config.clone(), wanted);
            }
        }
        connector.restarting.clear();
    }

    /// Brings the tasks in line with what is wanted. Tasks whose configurations are as they should be are only asked to
    /// run or pause; otherwise all are stopped and new ones started. A connector that has no tasks yet gets none while it
    /// is paused, unless the process is `starting` and it had some before.
    pub(crate) async fn reconcile(&self, starting: bool) {
        let Some(connector) = self.slot.connector().clone() else {
            return;
        };
        let wanted = connector.wanted();
        let configs = match wanted {
            None => Vec::new(),
            Some(Wanted::Pause) if connector.tasks.is_empty() && !starting => Vec::new(),
            Some(Wanted::Run | Wanted::Pause | Wanted::Stop) => self.inner.assembly.task_configs(&connector.config),
        };
        if let Some(wanted) = wanted
            && configs.iter().eq(connector.tasks.iter().map(|task| &task.config))
        {
            connector.tasks.iter().for_each(|task| task.ask(wanted));
            return;
        }
        if let Some(connector) = &mut *self.slot.connector() {
            connector.restarting = match wanted {
                Some(_) => connector.tasks.iter().map(|task| task.id.task).collect(),
                None => Vec::new(),
            };
        }
        self.stop_tasks(&connector.tasks).await;
        let mut slot = self.slot.connector();
        let Some(connector) = slot.as_mut() else {
            return;
        };
        connector.restarting.clear();
        connector.tasks = match wanted.filter(|_| !self.inner.is_closing()) {
            Some(wanted) => self.started(configs, wanted),
            None => Vec::new(),
        };
    }

    fn started(&self, configs: Vec<Config>, wanted: Wanted) -> Vec<Arc<RunningTask>> {
        let start = |(task, config)| {
            let id = TaskId { connector: self.name.clone(), task };
            self.inner.start_task(id, config, wanted)
        };
        configs.into_iter().enumerate().map(start).collect()
    }

    async fn stop_tasks(&self, tasks: &[Arc<RunningTask>]) {
        stop_all(tasks, Instant::now() + self.inner.options.graceful_timeout).await;
    }

    /// Keeps the configuration on disk, then in memory.
    async fn replace(&self, config: Config, plugin: PluginInfo, target: TargetState) -> Result<Put, Error> {
        self.keep(config.clone(), target).await?;
        let mut slot = self.slot.connector();
        let created = slot.is_none();
        let mut connector = Connector::new(config, target, Some(plugin));
        if let Some(before) = slot.take() {
            connector.tasks = before.tasks;
        }
        let info = connector.info(&self.name);
        *slot = Some(connector);
        info!(connector = %self.name, created, wanted = ?target, "connector configured");
        Ok(Put { created, info })
    }

    async fn keep(&self, config: Config, state: TargetState) -> Result<(), Error> {
        let store = self.inner.store.clone();
        let stored = Stored { name: self.name.clone(), config, state };
        Ok(blocking(move || store.put(&stored)).await?)
    }
}
