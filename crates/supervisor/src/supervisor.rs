//! The handle that creates, changes, steers and shows connectors.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use model::{Config, Key};
use pipeline::Wanted;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, warn};

use crate::connector::{Connector, Slot};
use crate::error::connector_not_found;
use crate::operation::{Inner, Operation, blocking};
use crate::task::{RunningTask, stop_all};
use crate::{
    Assembly, ConnectorInfo, ConnectorStatus, Error, Metrics, PluginInfo, Put, Restart, StateStore, Submitted,
    TargetState, TaskInfo, TaskStatus, Validation,
};

/// How often it is looked whether all connectors are at their end.
const END_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Answers the caller of an operation.
type Reply<T> = Box<dyn FnOnce(Result<T, Error>) + Send>;

/// How a supervisor works.
#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port` of this worker's REST address.
    pub worker_id: String,
    /// How long a task may take to close and commit its open files when it is stopped, before it is aborted.
    pub graceful_timeout: Duration,
    /// Draws the waits before restarts; different in every process.
    pub seed: u64,
    /// What is counted.
    pub metrics: Metrics,
}

impl Options {
    /// 30 s for a task to stop, seed 0.
    pub fn new(worker_id: impl Into<String>) -> Options {
        let graceful_timeout = Duration::from_secs(30);
        Options { worker_id: worker_id.into(), graceful_timeout, seed: 0, metrics: Metrics::default() }
    }
}

/// All connectors of this worker. Cheap to clone. Operations on one connector follow each other, and they go on when
/// their caller no longer waits: dropping a future of this type leaves nothing half done. After [`Self::shutdown`] all
/// operations fail with [`Error::Stopping`].
#[derive(Debug, Clone)]
pub struct Supervisor {
    pub(crate) inner: Arc<Inner>,
}

impl Supervisor {
    /// Starts the connectors of `given` and those that `store` has kept. One of `given` (from a file on the command line)
    /// wins over a kept one of the same name, and runs; it is not written to the store unless it is changed later. An
    /// invalid one of `given` is an error and nothing is started. An invalid kept one is shown as FAILED, a corrupt file
    /// is logged, and the others start.
    pub async fn start(
        assembly: Arc<dyn Assembly>,
        store: StateStore,
        options: Options,
        given: Vec<(String, Config)>,
    ) -> Result<Supervisor, Error> {
        let inner = Arc::new(Inner::new(assembly, store.clone(), options));
        let mut connectors = BTreeMap::new();
        for (name, config) in given {
            let submitted = config.into_iter().map(|(key, value)| (key, Some(value))).collect();
            let (config, plugin) = inner.accept(&name, submitted)?;
            let connector = Connector::new(config, TargetState::Running, Some(plugin));
            if connectors.insert(name.clone(), connector).is_some() {
                return Err(Error::Refused(format!("connector {name} is given twice")));
            }
        }
        for loaded in blocking(move || store.load()).await? {
            match loaded {
                Ok(stored) if connectors.contains_key(&stored.name) => {
                    warn!(connector = %stored.name, "the connector's file wins over the one kept in state.dir");
                }
                Ok(stored) => {
                    connectors.insert(stored.name.clone(), inner.revive(stored));
                }
                Err(corrupt) => {
                    error!(error = %corrupt, "a kept connector could not be read, the others go on")
                }
            }
        }
        for (name, connector) in connectors {
            let slot = Arc::new(Slot::default());
            *slot.connector() = Some(connector);
            inner.slots().insert(name.clone(), Arc::clone(&slot));
            Operation { inner: Arc::clone(&inner), name, slot }.reconcile(true).await;
        }
        Ok(Supervisor { inner })
    }

    /// The worker's REST address.
    pub fn worker_id(&self) -> &str {
        &self.inner.options.worker_id
    }

    /// Every plug-in, connectors first.
    pub fn plugins(&self) -> Vec<PluginInfo> {
        self.inner.assembly.plugins()
    }

    /// The keys of a plug-in; `None` when there is no such plug-in.
    pub fn plugin_keys(&self, name: &str) -> Option<Vec<&'static Key>> {
        self.inner.assembly.plugin_keys(name)
    }

    /// Validates `submitted` without keeping it. [`Error::Refused`] when its class is missing or unknown.
    pub fn validate(&self, submitted: &Submitted) -> Result<Validation, Error> {
        self.inner.validate(submitted).map(|(_, validation, _)| validation)
    }

    /// Creates connector `name`, which must not exist, in `state`. Returns when it is kept; its tasks follow.
    pub async fn create(&self, name: &str, submitted: Submitted, state: TargetState) -> Result<ConnectorInfo, Error> {
        self.decided(name, move |operation| async move { operation.create(submitted, state).await }).await
    }

    /// Creates connector `name`, or replaces its configuration; its state stays. Tasks are restarted if their
    /// configurations change. Returns when the configuration is kept; the tasks follow.
    pub async fn put_config(&self, name: &str, submitted: Submitted) -> Result<Put, Error> {
        self.decided(name, move |operation| async move { operation.put(submitted).await }).await
    }

    /// Changes some keys of a configuration (null removes one), then as [`Self::put_config`].
    pub async fn patch_config(&self, name: &str, patch: Submitted) -> Result<ConnectorInfo, Error> {
        self.decided(name, move |operation| async move { operation.patch(patch).await }).await
    }

    /// Stops the tasks of `name` and forgets it; its consumer group stays. Returns when the tasks have ended.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        self.completed(name, move |operation| async move { operation.delete().await }).await
    }

    /// Makes `name` pause: it keeps its assignments and open files. Idempotent.
    pub async fn pause(&self, name: &str) -> Result<(), Error> {
        self.completed(name, move |operation| async move { operation.steer(TargetState::Paused).await }).await
    }

    /// Makes `name` run. Idempotent.
    pub async fn resume(&self, name: &str) -> Result<(), Error> {
        self.completed(name, move |operation| async move { operation.steer(TargetState::Running).await }).await
    }

    /// Stops `name`: it stays configured and has no tasks. Returns when they have ended. Idempotent.
    pub async fn stop(&self, name: &str) -> Result<(), Error> {
        self.completed(name, move |operation| async move { operation.steer(TargetState::Stopped).await }).await
    }

    /// Restarts `name` itself, and tasks as `restart` says. Returns the status in which what is being restarted shows as
    /// RESTARTING; the tasks follow.
    pub async fn restart(&self, name: &str, restart: Restart) -> Result<ConnectorStatus, Error> {
        self.detached(name, move |operation, reply| async move {
            let planned = operation.plan_restart(restart);
            let tasks = planned.as_ref().ok().map(|(_, tasks)| tasks.clone());
            reply(planned.map(|(status, _)| status));
            if let Some(tasks) = tasks {
                operation.restart_tasks(&tasks).await;
                operation.reconcile(false).await;
            }
        })
        .await
    }

    /// Restarts one task. Returns when the old one has ended and the new one is started.
    pub async fn restart_task(&self, name: &str, task: usize) -> Result<(), Error> {
        self.completed(name, move |operation| async move { operation.restart_task(task).await }).await
    }

    /// The names of all connectors, in order.
    pub fn list(&self) -> Vec<String> {
        self.all(|name, _| name.to_owned())
    }

    /// Info and status of all connectors, in order of their names.
    pub fn expand(&self) -> Vec<(ConnectorInfo, ConnectorStatus)> {
        self.all(|name, connector| (connector.info(name), connector.status(name, self.worker_id())))
    }

    /// A connector as it was configured.
    pub fn info(&self, name: &str) -> Result<ConnectorInfo, Error> {
        self.look(name, |connector| connector.info(name)).ok_or_else(|| connector_not_found(name))
    }

    /// Status of a connector and its tasks.
    pub fn status(&self, name: &str) -> Result<ConnectorStatus, Error> {
        self.look(name, |connector| connector.status(name, self.worker_id()))
            .ok_or_else(|| Error::NotFound(format!("No status found for connector {name}")))
    }

    /// Status of one task.
    pub fn task_status(&self, name: &str, task: usize) -> Result<TaskStatus, Error> {
        let tasks = self.look(name, |connector| connector.status(name, self.worker_id()).tasks);
        let found = tasks.and_then(|tasks| tasks.into_iter().find(|status| status.task == task));
        found.ok_or_else(|| Error::NotFound(format!("No status found for task {name}-{task}")))
    }

    /// The tasks of a connector with their configurations.
    pub fn tasks(&self, name: &str) -> Result<Vec<TaskInfo>, Error> {
        let info = |task: &Arc<RunningTask>| TaskInfo { id: task.id.clone(), config: task.config.clone() };
        self.look(name, |connector| connector.tasks.iter().map(info).collect()).ok_or_else(|| connector_not_found(name))
    }

    /// Waits until every connector is at its end: `Ok` when all that had to do something finished it, else the trace of one
    /// that failed. Goes on for ever while there is no connector, or one that does not end by itself.
    pub async fn ended(&self) -> Result<(), String> {
        loop {
            if let Some(ended) = self.end_now() {
                return ended;
            }
            sleep(END_LOOK_INTERVAL).await;
        }
    }

    fn end_now(&self) -> Option<Result<(), String>> {
        let ends = self.all(|name, connector| {
            let ends = match connector.target {
                // It neither runs nor has failed.
                TargetState::Stopped => return Some(None),
                TargetState::Paused => false,
                TargetState::Running => self.inner.assembly.ends(&connector.config),
            };
            let end = connector.end().filter(|_| ends)?;
            Some(Some(end.map_err(|trace| format!("connector {name} failed: {trace}"))))
        });
        let ends: Vec<Result<(), String>> =
            ends.into_iter().collect::<Option<Vec<_>>>()?.into_iter().flatten().collect();
        (!ends.is_empty()).then(|| ends.into_iter().collect())
    }

    /// Stops all tasks of all connectors side by side and refuses every operation from now on. Tasks that have not closed
    /// their files when `deadline` is over are aborted. What is wanted stays kept for the next start.
    pub async fn shutdown(&self, deadline: Duration) {
        self.inner.close();
        let deadline = Instant::now() + deadline;
        let slots: Vec<Arc<Slot>> = self.inner.slots().values().cloned().collect();
        for slot in &slots {
            if let Some(connector) = &*slot.connector() {
                connector.tasks.iter().for_each(|task| task.ask(Wanted::Stop));
            }
        }
        let mut tasks = Vec::new();
        for slot in &slots {
            // An operation under way may be between two sets of tasks: what it leaves is stopped too.
            let _guard = timeout_at(deadline, slot.operations.lock()).await;
            tasks.extend(slot.connector().iter().flat_map(|connector| connector.tasks.iter().cloned()));
        }
        stop_all(&tasks, deadline).await;
    }

    pub(crate) fn look<T>(&self, name: &str, see: impl FnOnce(&Connector) -> T) -> Option<T> {
        let slot = self.inner.slots().get(name).cloned()?;
        let connector = slot.connector();
        connector.as_ref().map(see)
    }

    fn all<T>(&self, mut see: impl FnMut(&str, &Connector) -> T) -> Vec<T> {
        let slots: Vec<(String, Arc<Slot>)> =
            self.inner.slots().iter().map(|(name, slot)| (name.clone(), Arc::clone(slot))).collect();
        slots.iter().filter_map(|(name, slot)| Some(see(name, slot.connector().as_ref()?))).collect()
    }

    /// Answers what `decide` says; if that went well, the tasks follow afterwards.
    async fn decided<T, D>(&self, name: &str, decide: impl FnOnce(Operation) -> D + Send + 'static) -> Result<T, Error>
    where
        T: Send + 'static,
        D: Future<Output = Result<T, Error>> + Send + 'static,
    {
        self.detached(name, move |operation, reply| async move {
            let decided = decide(operation.clone()).await;
            let changed = decided.is_ok();
            reply(decided);
            if changed {
                operation.reconcile(false).await;
            }
        })
        .await
    }

    /// Answers when `act` is over.
    async fn completed<A>(&self, name: &str, act: impl FnOnce(Operation) -> A + Send + 'static) -> Result<(), Error>
    where
        A: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.detached(name, move |operation, reply| async move { reply(act(operation).await) }).await
    }

    /// Runs one operation on `name` as a task of its own, after those before it, so that a caller who goes away (a client
    /// that hangs up) cannot leave it half done.
    pub(crate) async fn detached<T, R>(
        &self,
        name: &str,
        run: impl FnOnce(Operation, Reply<T>) -> R + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        // The send fails when the caller went away, which changes nothing.
        let reply: Reply<T> = Box::new(move |result| drop(sender.send(result)));
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        let operated = name.clone();
        tokio::spawn(async move {
            let (operation, guard) = Operation::begin(inner, operated).await;
            if operation.inner.is_closing() {
                reply(Err(Error::Stopping));
            } else {
                run(operation.clone(), reply).await;
            }
            operation.end(guard);
        });
        answer.await.unwrap_or(Err(Error::Panicked(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeAssembly;
    use crate::{State, Stored, TaskId};

    fn submitted(pairs: &[(&str, &str)]) -> Submitted {
        let basics = [("connector.class", "FileStreamSink"), ("topics", "t")];
        let pairs = basics.iter().chain(pairs);
        pairs.map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect()
    }

    fn config(pairs: &[(&str, &str)]) -> Config {
        submitted(pairs).into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    struct World {
        assembly: Arc<FakeAssembly>,
        supervisor: Supervisor,
    }

    impl World {
        async fn new() -> World {
            World::with(StateStore::forgetful(), Vec::new()).await.unwrap()
        }

        async fn with(store: StateStore, given: Vec<(String, Config)>) -> Result<World, Error> {
            let assembly = Arc::new(FakeAssembly::default());
            let dynamic = Arc::clone(&assembly) as Arc<dyn Assembly>;
            let supervisor = Supervisor::start(dynamic, store, Options::new("here:8083"), given).await?;
            Ok(World { assembly, supervisor })
        }

        async fn put(&self, name: &str, pairs: &[(&str, &str)]) -> Put {
            self.supervisor.put_config(name, submitted(pairs)).await.unwrap()
        }

        /// State of the connector, then of its tasks.
        fn states(&self, name: &str) -> Vec<State> {
            let status = self.supervisor.status(name).unwrap();
            let tasks = status.tasks.iter().map(|task| task.placed.state);
            std::iter::once(status.connector.state).chain(tasks).collect()
        }

        async fn reaches(&self, name: &str, states: &[State]) {
            for _ in 0..1_000 {
                if self.states(name) == states {
                    return;
                }
                tokio::task::yield_now().await;
            }
            assert_eq!(self.states(name), states, "of {name}");
        }
    }

    use State::{Failed, Paused, Restarting, Running, Stopped, Unassigned};

    #[tokio::test(start_paused = true)]
    async fn a_put_connector_runs_and_restarts_only_when_its_tasks_change() {
        let world = World::new().await;
        let first = world.put("a", &[]).await;
        assert!(first.created);
        assert_eq!(first.info.tasks, Vec::<usize>::new());
        assert_eq!(first.info.config, config(&[("name", "a")]));
        world.reaches("a", &[Running, Running]).await;

        let same = world.put("a", &[("name", "a")]).await;
        assert_eq!((same.created, same.info.tasks), (false, vec![0]));
        world.reaches("a", &[Running, Running]).await;
        assert_eq!(world.assembly.started_count(), 1);

        let more = world.put("a", &[("tasks.max", "2")]).await;
        assert_eq!(more.info.tasks, [0], "the tasks it had before");
        world.reaches("a", &[Running, Running, Running]).await;
        assert_eq!(world.assembly.started_count(), 3);
        let tasks = world.supervisor.tasks("a").unwrap();
        assert_eq!(tasks.len(), 2);
        assert_eq!(tasks[1].id, TaskId { connector: "a".into(), task: 1 });
        assert_eq!(tasks[1].config["task.class"], "org.apache.kafka.connect.file.FileStreamSinkTask");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_fails_panics_or_ends_is_failed_and_the_others_go_on() {
        let world = World::new().await;
        world.put("good", &[]).await;
        let cases = [
            ("fail", "bad-0 failed: no such file"),
            ("panic", "task panicked: bad-0 lost its head"),
            ("end", "task ended although nobody asked it to"),
        ];
        for (behaviour, trace) in cases {
            world.put("bad", &[("fake.task", behaviour)]).await;
            world.reaches("bad", &[Running, Failed]).await;
            assert_eq!(world.supervisor.task_status("bad", 0).unwrap().placed.trace.as_deref(), Some(trace));
            world.supervisor.restart_task("bad", 0).await.unwrap();
            world.reaches("bad", &[Running, Failed]).await;
        }
        world.put("bad", &[]).await;
        world.reaches("bad", &[Running, Running]).await;
        assert_eq!(world.supervisor.task_status("bad", 0).unwrap().placed.trace, None);
        world.reaches("good", &[Running, Running]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn pause_keeps_the_task_and_stop_ends_it() {
        let world = World::new().await;
        world.put("a", &[]).await;
        world.reaches("a", &[Running, Running]).await;
        for _ in 0..2 {
            world.supervisor.pause("a").await.unwrap();
            world.reaches("a", &[Paused, Paused]).await;
        }
        world.put("a", &[("file", "x")]).await;
        world.reaches("a", &[Paused, Paused]).await;
        world.supervisor.resume("a").await.unwrap();
        world.reaches("a", &[Running, Running]).await;
        assert_eq!(world.assembly.started_count(), 2);

        for _ in 0..2 {
            world.supervisor.stop("a").await.unwrap();
            assert_eq!(world.states("a"), [Stopped]);
        }
        assert_eq!(world.supervisor.info("a").unwrap().tasks, Vec::<usize>::new());
        assert_eq!(world.assembly.running(), []);
        world.put("a", &[("file", "y")]).await;
        world.supervisor.pause("a").await.unwrap();
        assert_eq!(world.states("a"), [Paused]);
        world.supervisor.resume("a").await.unwrap();
        world.reaches("a", &[Running, Running]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connector_can_be_created_in_any_state_but_only_once() {
        let world = World::new().await;
        for (name, state, states) in [
            ("p", TargetState::Paused, vec![Paused]),
            ("s", TargetState::Stopped, vec![Stopped]),
            ("r", TargetState::Running, vec![Running, Running]),
        ] {
            world.supervisor.create(name, submitted(&[]), state).await.unwrap();
            world.reaches(name, &states).await;
            let error = world.supervisor.create(name, submitted(&[]), state).await.unwrap_err();
            assert_eq!(error.to_string(), format!("Connector {name} already exists"));
            world.supervisor.resume(name).await.unwrap();
            world.reaches(name, &[Running, Running]).await;
        }
        assert_eq!(world.supervisor.list(), ["p", "r", "s"]);
        assert_eq!(world.supervisor.expand().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn deleting_a_task_that_will_not_stop_aborts_it_after_the_graceful_timeout() {
        let world = World::new().await;
        world.put("a", &[("fake.task", "ignore")]).await;
        world.reaches("a", &[Running, Unassigned]).await;
        let begin = Instant::now();
        let deleting = tokio::spawn({
            let supervisor = world.supervisor.clone();
            async move { supervisor.delete("a").await }
        });
        deleting.await.unwrap().unwrap();
        assert_eq!(begin.elapsed().as_secs(), 30);
        assert_eq!(world.assembly.running(), []);
        assert_eq!(world.supervisor.list(), Vec::<String>::new());
        assert!(world.put("a", &[]).await.created);
        world.reaches("a", &[Running, Running]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_put_during_a_stop_waits_for_it_and_keeps_the_state() {
        let world = World::new().await;
        world.put("a", &[("fake.task", "ignore")]).await;
        world.reaches("a", &[Running, Unassigned]).await;
        let begin = Instant::now();
        let (stopped, put) = tokio::join!(world.supervisor.stop("a"), world.put("a", &[]));
        stopped.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 30);
        assert_eq!(put.info.tasks, Vec::<usize>::new());
        assert_eq!(world.states("a"), [Stopped]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_connector_delays_no_other_and_shows_its_status() {
        let world = World::new().await;
        world.put("slow", &[("fake.task", "ignore")]).await;
        world.reaches("slow", &[Running, Unassigned]).await;
        let begin = Instant::now();
        world.put("slow", &[]).await;
        world.reaches("slow", &[Running, Restarting]).await;
        world.put("fast", &[]).await;
        world.reaches("fast", &[Running, Running]).await;
        world.supervisor.delete("fast").await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 0);
        world.supervisor.pause("slow").await.unwrap();
        world.reaches("slow", &[Paused, Paused]).await;
        assert_eq!(begin.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_goes_on_when_its_caller_goes_away() {
        let world = World::new().await;
        world.put("a", &[("fake.task", "ignore")]).await;
        world.reaches("a", &[Running, Unassigned]).await;
        let gone = tokio::time::timeout(Duration::from_secs(1), world.supervisor.stop("a")).await;
        assert!(gone.is_err());
        world.supervisor.stop("a").await.unwrap();
        assert_eq!(world.states("a"), [Stopped]);
        assert_eq!(world.assembly.running(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn restart_takes_what_it_is_told_to() {
        let world = World::new().await;
        world.put("a", &[("tasks.max", "2")]).await;
        world.put("bad", &[("fake.task", "fail")]).await;
        world.reaches("a", &[Running, Running, Running]).await;
        world.reaches("bad", &[Running, Failed]).await;
        let cases: &[(&str, bool, bool, &[State], usize)] = &[
            ("a", false, false, &[Restarting, Running, Running], 0),
            ("a", true, false, &[Restarting, Restarting, Restarting], 2),
            ("a", true, true, &[Running, Running, Running], 0),
            ("a", false, true, &[Running, Running, Running], 0),
            ("bad", true, true, &[Running, Restarting], 1),
            ("bad", false, true, &[Running, Failed], 0),
        ];
        for (name, include_tasks, only_failed, states, started) in cases {
            let before = world.assembly.started_count();
            let restart = Restart { include_tasks: *include_tasks, only_failed: *only_failed };
            let status = world.supervisor.restart(name, restart).await.unwrap();
            let tasks = status.tasks.iter().map(|task| task.placed.state);
            let found: Vec<State> = std::iter::once(status.connector.state).chain(tasks).collect();
            assert_eq!(found, *states, "{name} {restart:?}");
            let trace = status.tasks[0].placed.trace.as_deref();
            assert_eq!(trace, (*name == "bad").then_some("bad-0 failed: no such file"));
            // The next operation begins when the restart is over.
            world.supervisor.resume(name).await.unwrap();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(world.assembly.started_count() - before, *started, "{name} {restart:?}");
        }
        world.supervisor.stop("a").await.unwrap();
        let all = Restart { include_tasks: true, only_failed: false };
        let status = world.supervisor.restart("a", all).await.unwrap();
        assert_eq!((status.connector.state, status.tasks.len()), (Restarting, 0));
        world.reaches("a", &[Stopped]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn invalid_requests_change_nothing_and_say_why() {
        let world = World::new().await;
        world.put("a", &[]).await;
        world.reaches("a", &[Running, Running]).await;
        let no_class = Submitted::from([
            ("name".into(), Some("g9".into())),
            ("aws.secret.access.key".into(), Some("s3cr3t".into())),
            ("x".into(), None),
        ]);
        let supervisor = &world.supervisor;
        let restart = Restart { include_tasks: true, only_failed: false };
        let refusals = [
            (
                supervisor.put_config("g9", no_class).await.map(drop),
                "Connector config {aws.secret.access.key=[hidden], name=g9, x=null} contains no connector type",
            ),
            (
                supervisor.put_config("a", submitted(&[("connector.class", "NoSuch")])).await.map(drop),
                "Failed to find any class that implements Connector and which name matches NoSuch, available connectors are: org.apache.kafka.connect.file.FileStreamSinkConnector",
            ),
            (
                supervisor.put_config("a", submitted(&[("name", "b")])).await.map(drop),
                "Connector name configuration (b) doesn't match connector name in the URL (a)",
            ),
            (
                supervisor.patch_config("a", Submitted::from([("topics".into(), None)])).await.map(drop),
                "Connector configuration is invalid and contains the following 2 error(s):\nMust configure one of topics or topics.regex\nMust configure one of topics or topics.regex\nYou can also find the above list of errors at the endpoint `/connector-plugins/{connectorType}/config/validate`",
            ),
            (supervisor.patch_config("n", Submitted::new()).await.map(drop), "Connector n not found"),
            (supervisor.delete("n").await, "Connector n not found"),
            (supervisor.info("n").map(drop), "Connector n not found"),
            (supervisor.tasks("n").map(drop), "Connector n not found"),
            (supervisor.status("n").map(drop), "No status found for connector n"),
            (supervisor.task_status("a", 7).map(drop), "No status found for task a-7"),
            (supervisor.pause("n").await, "Unknown connector n"),
            (supervisor.stop("n").await, "Unknown connector n"),
            (supervisor.restart("n", restart).await.map(drop), "Unknown connector: n"),
            (supervisor.restart_task("n", 0).await, "Unknown connector: n"),
            (supervisor.restart_task("a", 9).await, "Unknown task: a-9"),
        ];
        for (result, message) in refusals {
            assert_eq!(result.unwrap_err().to_string(), message);
        }
        assert_eq!(supervisor.info("a").unwrap().config, config(&[("name", "a")]));
        assert_eq!(world.assembly.started_count(), 1);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(supervisor.inner.slots().keys().collect::<Vec<_>>(), ["a"], "asking leaves nothing behind");
    }

    #[tokio::test(start_paused = true)]
    async fn connectors_survive_a_restart_of_the_process() {
        let home = tempfile::tempdir().unwrap();
        let open = || StateStore::open(home.path()).unwrap();
        {
            let world = World::with(open(), vec![("file".into(), config(&[]))]).await.unwrap();
            for name in ["running", "paused", "stopped", "deleted", "shadowed"] {
                world.put(name, &[]).await;
            }
            world.supervisor.pause("paused").await.unwrap();
            world.supervisor.stop("stopped").await.unwrap();
            world.supervisor.delete("deleted").await.unwrap();
            world.supervisor.shutdown(Duration::from_secs(1)).await;
            assert_eq!(world.assembly.running(), []);
        }
        std::fs::write(home.path().join("connectors/corrupt.json"), "{").unwrap();
        let store = retry_open(home.path()).await;
        let invalid =
            Stored { name: "invalid".into(), config: config(&[("tasks.max", "0")]), state: TargetState::Running };
        store.put(&invalid).unwrap();

        let world = World::with(store, vec![("shadowed".into(), config(&[("tasks.max", "2")]))]).await.unwrap();
        assert_eq!(world.supervisor.list(), ["invalid", "paused", "running", "shadowed", "stopped"]);
        world.reaches("running", &[Running, Running]).await;
        world.reaches("paused", &[Paused, Paused]).await;
        world.reaches("stopped", &[Stopped]).await;
        world.reaches("shadowed", &[Running, Running, Running]).await;
        world.reaches("invalid", &[Failed]).await;
        let trace = world.supervisor.status("invalid").unwrap().connector.trace.unwrap();
        assert!(trace.contains("Invalid value 0 for configuration tasks.max: Value must be at least 1"), "{trace}");
        let all = Restart { include_tasks: true, only_failed: false };
        world.supervisor.restart("invalid", all).await.unwrap();
        world.reaches("invalid", &[Failed]).await;
        world.put("invalid", &[]).await;
        world.reaches("invalid", &[Running, Running]).await;
    }

    /// The lock of the store is released when the last operation of the process before has let go of it.
    async fn retry_open(path: &std::path::Path) -> StateStore {
        for _ in 0..1_000 {
            if let Ok(store) = StateStore::open(path) {
                return store;
            }
            tokio::task::yield_now().await;
        }
        StateStore::open(path).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalid_given_connector_starts_nothing() {
        let given = vec![("good".into(), config(&[])), ("bad".into(), config(&[("tasks.max", "x")]))];
        let error = World::with(StateStore::forgetful(), given).await.err().unwrap();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        let twice = vec![("a".into(), config(&[])), ("a".into(), config(&[]))];
        let error = World::with(StateStore::forgetful(), twice).await.err().unwrap();
        assert_eq!(error.to_string(), "connector a is given twice");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_kept_does_not_take_effect() {
        let home = tempfile::tempdir().unwrap();
        let world = World::with(StateStore::open(home.path()).unwrap(), Vec::new()).await.unwrap();
        world.put("a", &[]).await;
        world.reaches("a", &[Running, Running]).await;
        std::fs::remove_dir_all(home.path().join("connectors")).unwrap();
        let error = world.supervisor.put_config("a", submitted(&[("file", "x")])).await.unwrap_err();
        assert!(matches!(error, Error::State(_)), "{error}");
        assert!(matches!(world.supervisor.pause("a").await, Err(Error::State(_))));
        assert!(matches!(world.supervisor.put_config("b", submitted(&[])).await, Err(Error::State(_))));
        assert_eq!(world.supervisor.list(), ["a"]);
        assert_eq!(world.supervisor.info("a").unwrap().config, config(&[("name", "a")]));
        world.reaches("a", &[Running, Running]).await;
        assert_eq!(world.assembly.started_count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_that_panics_leaves_the_connector_as_it_was() {
        let world = World::new().await;
        world.put("a", &[]).await;
        let explode = submitted(&[("fake.task", "explode")]);
        for name in ["a", "b"] {
            let error = world.supervisor.put_config(name, explode.clone()).await.unwrap_err();
            assert!(matches!(error, Error::Panicked(_)), "{error}");
        }
        world.reaches("a", &[Running, Running]).await;
        assert_eq!(world.supervisor.list(), ["a"]);
        assert!(world.put("b", &[]).await.created);
        world.supervisor.delete("a").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_stops_all_side_by_side_and_refuses_what_comes_later() {
        let world = World::new().await;
        for name in ["a", "b", "c"] {
            world.put(name, &[("fake.task", "ignore"), ("tasks.max", "2")]).await;
        }
        world.put("good", &[]).await;
        world.reaches("good", &[Running, Running]).await;
        world.reaches("c", &[Running, Unassigned, Unassigned]).await;
        // An operation is under way: it may not start new tasks behind the shutdown's back.
        world.put("a", &[]).await;
        let begin = Instant::now();
        world.supervisor.shutdown(Duration::from_secs(5)).await;
        assert_eq!(begin.elapsed().as_secs(), 5);
        assert_eq!(world.assembly.running(), []);
        assert!(matches!(world.supervisor.put_config("new", submitted(&[])).await, Err(Error::Stopping)));
        assert!(matches!(world.supervisor.resume("good").await, Err(Error::Stopping)));
        assert_eq!(world.assembly.running(), []);
    }
}
