//! What the supervisor counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::TaskId;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    connector: String,
    task: u32,
}

/// The metrics of all connectors. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    restarts: Family<TaskLabels, Counter>,
}

impl Metrics {
    /// Registers everything under its name.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Restarts of tasks that failed on something transient";
        registry.register("sluice_task_restarts", help, self.restarts.clone());
    }

    /// How often `task` was restarted by itself.
    pub fn restarts(&self, task: &TaskId) -> u64 {
        self.restarts.get_or_create(&labels(task)).get()
    }

    pub(crate) fn restarted(&self, task: &TaskId) {
        self.restarts.get_or_create(&labels(task)).inc();
    }
}

fn labels(task: &TaskId) -> TaskLabels {
    TaskLabels { connector: task.connector.clone(), task: u32::try_from(task.task).unwrap_or(u32::MAX) }
}
