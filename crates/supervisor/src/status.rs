//! What can be said about connectors and tasks: states, statuses and infos.

use model::Config;
use serde::{Deserialize, Serialize};

use crate::TaskId;

/// What a connector is wanted to do; it is kept over a restart of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TargetState {
    /// Run.
    Running,
    /// Keep assignments and open files, read nothing.
    Paused,
    /// Have no tasks.
    Stopped,
}

/// What a connector or a task is doing, as `/status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It works.
    Running,
    /// It was paused.
    Paused,
    /// The connector was stopped, and then has no tasks; or it is at its end, and so are all its tasks.
    Stopped,
    /// It failed; there is a trace.
    Failed,
    /// The task is on its way in or out.
    Unassigned,
    /// It is being restarted, or waits for that after it failed on something transient; then there is a trace.
    Restarting,
}

impl State {
    /// The word that REST shows.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Running => "RUNNING",
            State::Paused => "PAUSED",
            State::Stopped => "STOPPED",
            State::Failed => "FAILED",
            State::Unassigned => "UNASSIGNED",
            State::Restarting => "RESTARTING",
        }
    }
}

/// State of a connector or a task, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// What it is doing.
    pub state: State,
    /// `host:port` of the worker's REST address.
    pub worker_id: String,
    /// Version of the plug-in, if it is known.
    pub version: Option<String>,
    /// Why it failed.
    pub trace: Option<String>,
}

/// Status of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// Number of the task.
    pub task: usize,
    /// Its state.
    pub placed: Placed,
}

/// Status of a connector and its tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorStatus {
    /// Name of the connector.
    pub name: String,
    /// Its own state.
    pub connector: Placed,
    /// Its tasks, by number.
    pub tasks: Vec<TaskStatus>,
    /// `sink`, or `unknown`.
    pub role: &'static str,
}

/// A connector as it was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorInfo {
    /// Its name.
    pub name: String,
    /// Its configuration as submitted, with `name` added.
    pub config: Config,
    /// The numbers of its tasks.
    pub tasks: Vec<usize>,
    /// `sink`, or `unknown`.
    pub role: &'static str,
}

/// A task as it was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskInfo {
    /// Which task.
    pub id: TaskId,
    /// Its configuration.
    pub config: Config,
}

/// What became of a submitted configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Whether the connector is new.
    pub created: bool,
    /// The connector with its new configuration and the tasks it had before, as Kafka Connect answers.
    pub info: ConnectorInfo,
}

/// What a restart is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// The tasks too.
    pub include_tasks: bool,
    /// Only what has failed.
    pub only_failed: bool,
}
