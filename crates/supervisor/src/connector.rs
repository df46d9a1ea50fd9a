//! One connector as the supervisor holds it: what is wanted, what runs, and what can be said about it at any moment.

use std::sync::{Arc, Mutex, MutexGuard};

use model::Config;
use pipeline::Wanted;

use crate::task::{Ended, RunningTask};
use crate::{ConnectorInfo, ConnectorStatus, Placed, PluginInfo, Role, State, TargetState, TaskStatus};

/// The place of one name. Operations hold `operations` one after the other, also across waiting; everybody may look at
/// `connector` at any time, and nobody waits while holding it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) operations: Arc<tokio::sync::Mutex<()>>,
    connector: Mutex<Option<Connector>>,
}

impl Slot {
    /// The connector of this name, if there is one now.
    pub(crate) fn connector(&self) -> MutexGuard<'_, Option<Connector>> {
        self.connector.lock().expect("no code panics while it holds this lock")
    }
}

/// A wanted connector and its tasks.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    pub(crate) config: Config,
    pub(crate) target: TargetState,
    /// The plug-in that `connector.class` means; `None` when this version has none, and then the connector is failed.
    pub(crate) plugin: Option<PluginInfo>,
    pub(crate) tasks: Vec<Arc<RunningTask>>,
    /// The numbers of the tasks that are being restarted.
    pub(crate) restarting: Vec<usize>,
    /// Why the connector itself failed.
    pub(crate) trace: Option<String>,
}

impl Connector {
    pub(crate) fn new(config: Config, target: TargetState, plugin: Option<PluginInfo>) -> Connector {
        Connector { config, target, plugin, tasks: Vec::new(), restarting: Vec::new(), trace: None }
    }

    /// What its tasks are asked to do, if it may have any.
    pub(crate) fn wanted(&self) -> Option<Wanted> {
        match self.target {
            TargetState::Running if self.trace.is_none() => Some(Wanted::Run),
            TargetState::Paused if self.trace.is_none() => Some(Wanted::Pause),
            TargetState::Running | TargetState::Paused | TargetState::Stopped => None,
        }
    }

    /// Whether it is at its end, and has not failed before.
    fn is_finished(&self) -> bool {
        !self.tasks.is_empty() && self.tasks.iter().all(|task| task.end() == Some(Ended::Finished))
    }

    /// How its tasks ended, when all did: well, or with the trace of one that failed. One that was stopped has none.
    pub(crate) fn end(&self) -> Option<Result<(), String>> {
        if let Some(trace) = &self.trace {
            return Some(Err(trace.clone()));
        }
        let ends: Option<Vec<Ended>> = self.tasks.iter().map(|task| task.end()).collect();
        let failed = |ended| match ended {
            Ended::Failed(trace) => Some(trace),
            Ended::Finished | Ended::Stopped => None,
        };
        ends.map(|ends| ends.into_iter().find_map(failed).map_or(Ok(()), Err))
    }

    pub(crate) fn role(&self) -> &'static str {
        self.plugin.as_ref().map_or("unknown", |plugin| match plugin.role {
            Role::Sink => Role::Sink.as_str(),
            Role::Converter | Role::HeaderConverter | Role::Transformation | Role::Predicate => "unknown",
        })
    }

    pub(crate) fn info(&self, name: &str) -> ConnectorInfo {
        ConnectorInfo {
            name: name.to_owned(),
            config: self.config.clone(),
            tasks: self.tasks.iter().map(|task| task.id.task).collect(),
            role: self.role(),
        }
    }

    pub(crate) fn status(&self, name: &str, worker_id: &str) -> ConnectorStatus {
        let state = match (self.trace.is_some(), self.target) {
            (true, TargetState::Running | TargetState::Paused) => State::Failed,
            (_, TargetState::Stopped) => State::Stopped,
            (false, TargetState::Running | TargetState::Paused) if self.is_finished() => State::Stopped,
            (false, TargetState::Paused) => State::Paused,
            (false, TargetState::Running) => State::Running,
        };
        ConnectorStatus {
            name: name.to_owned(),
            connector: self.placed(worker_id, state, self.trace.clone().filter(|_| state == State::Failed)),
            tasks: self.tasks.iter().map(|task| self.task_status(task, worker_id)).collect(),
            role: self.role(),
        }
    }

    fn task_status(&self, task: &RunningTask, worker_id: &str) -> TaskStatus {
        let (state, trace) = task.state();
        let state = if self.restarting.contains(&task.id.task) { State::Restarting } else { state };
        TaskStatus { task: task.id.task, placed: self.placed(worker_id, state, trace) }
    }

    fn placed(&self, worker_id: &str, state: State, trace: Option<String>) -> Placed {
        let version = self.plugin.as_ref().map(|plugin| plugin.version.clone());
        Placed { state, worker_id: worker_id.to_owned(), version, trace }
    }
}
