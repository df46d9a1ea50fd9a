//! What the supervisor needs of whoever knows the plug-ins: their keys, and a way to run a task.

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use model::{Config, Key, Offset, TopicPartition};
use pipeline::Control;

use crate::{OffsetChange, OffsetsError, Validation};

/// What a plug-in is for, as `GET /connector-plugins` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A connector that reads topics.
    Sink,
    /// Bytes to data.
    Converter,
    /// Bytes of headers to data.
    HeaderConverter,
    /// A single message transform.
    Transformation,
    /// A condition of a transform.
    Predicate,
}

impl Role {
    /// The word that REST shows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Sink => "sink",
            Role::Converter => "converter",
            Role::HeaderConverter => "header_converter",
            Role::Transformation => "transformation",
            Role::Predicate => "predicate",
        }
    }
}

/// One plug-in as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginInfo {
    /// Its class name.
    pub class: String,
    /// What it is for.
    pub role: Role,
    /// Its version.
    pub version: String,
}

/// One task of a connector. Shown as `<connector>-<task>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId {
    /// The connector.
    pub connector: String,
    /// Number of the task, from 0.
    pub task: usize,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.connector, self.task)
    }
}

/// Why a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFailure {
    /// The whole story, for `/status`: the error and its causes, a line each. No secrets.
    pub trace: String,
    /// Whether the same task may succeed later without anybody doing anything.
    pub transient: bool,
}

/// Knows all plug-ins. Its synchronous methods decide by looking only: no network, no waiting.
#[async_trait]
pub trait Assembly: Send + Sync + 'static {
    /// Every plug-in, connectors first.
    fn plugins(&self) -> Vec<PluginInfo>;

    /// The connector that `class` means: a class name or one of its aliases.
    fn connector(&self, class: &str) -> Option<PluginInfo>;

    /// The keys of the plug-in `name`, its own ones first; `None` when there is no such plug-in.
    fn plugin_keys(&self, name: &str) -> Option<Vec<&'static Key>>;

    /// Validates a configuration whose `connector.class` is known to [`Self::connector`]; keys in Kafka Connect's order.
    fn validate(&self, config: &Config) -> Validation;

    /// The configurations of the tasks of a valid configuration, `tasks.max` of them at most. References to secrets
    /// stay unresolved.
    fn task_configs(&self, config: &Config) -> Vec<Config>;

    /// Whether tasks of `config` end by themselves.
    fn ends(&self, config: &Config) -> bool;

    /// Runs one task until `control` says stop, then ends well; or until it is at its end, which it reports as
    /// [`pipeline::Doing::Finished`]; or fails. Dropping the future is a crash of the task.
    async fn run_task(&self, task: TaskId, config: Config, control: Control) -> Result<(), TaskFailure>;

    /// The offsets that the consumer group of connector `name` has committed, topic-partitions without one left out.
    async fn offsets(&self, name: &str, config: &Config) -> Result<Vec<(TopicPartition, Offset)>, OffsetsError>;

    /// Changes committed offsets of connector `name`, which has no tasks here; all of them or none. Returns what to tell
    /// the user about the consequences; empty when there are none. An error when the group has members elsewhere.
    async fn change_offsets(&self, name: &str, config: &Config, change: OffsetChange) -> Result<String, OffsetsError>;

    /// The topics that tasks of connector `name` have read records of in this process, as far as it remembers.
    fn topics(&self, name: &str) -> BTreeSet<String>;

    /// Forgets what [`Self::topics`] says of connector `name`.
    fn forget_topics(&self, name: &str);
}
