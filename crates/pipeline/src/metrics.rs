//! What the tasks of this process count. Names follow the usual exporters of Kafka Connect where there is a name.

use std::sync::atomic::AtomicU64;

use model::{CutReason, Rejected, TopicPartition};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use writer::PublishedFile;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    connector: String,
    task: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    connector: String,
    task: u32,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    connector: String,
    task: u32,
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabels {
    connector: String,
    topic: String,
    partition: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    connector: String,
    operation: &'static str,
}

/// The metrics of all tasks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    records_read: Family<TaskLabels, Counter>,
    bytes_read: Family<TaskLabels, Counter>,
    records_sent: Family<TaskLabels, Counter>,
    records_published: Family<TaskLabels, Counter>,
    records_rejected: Family<StageLabels, Counter>,
    files: Family<TaskLabels, Counter>,
    file_bytes: Family<TaskLabels, Counter>,
    cuts: Family<ReasonLabels, Counter>,
    commits: Family<TaskLabels, Counter>,
    commit_failures: Family<TaskLabels, Counter>,
    rebalances: Family<TaskLabels, Counter>,
    partitions: Family<TaskLabels, Gauge>,
    lag: Family<LaneLabels, Gauge>,
    errors: ErrorFamilies,
    requests: Family<RequestLabels, Counter>,
    memory_used: Gauge,
    memory_limit: Gauge,
}

/// Kafka Connect's `task-error-metrics`. Their names say `total` already, so they are no counters of Prometheus, whose
/// names would say it twice.
#[derive(Debug, Clone, Default)]
struct ErrorFamilies {
    failures: Family<TaskLabels, Gauge>,
    errors: Family<TaskLabels, Gauge>,
    skipped: Family<TaskLabels, Gauge>,
    retries: Family<TaskLabels, Gauge>,
    logged: Family<TaskLabels, Gauge>,
    letters_sent: Family<TaskLabels, Gauge>,
    letters_failed: Family<TaskLabels, Gauge>,
    last_ms: Family<TaskLabels, Gauge>,
}

impl ErrorFamilies {
    fn register(&self, registry: &mut Registry) {
        let families = [
            ("total_record_failures", "Failed attempts to process a record", &self.failures),
            ("total_record_errors", "Records that could not be processed", &self.errors),
            ("total_records_skipped", "Records left out because of errors", &self.skipped),
            ("total_retries", "Operations that were tried again", &self.retries),
            ("total_errors_logged", "Errors that were written to the log record by record", &self.logged),
            ("deadletterqueue_produce_requests", "Dead letters", &self.letters_sent),
            ("deadletterqueue_produce_failures", "Writes to the dead letter topic that failed", &self.letters_failed),
            ("last_error_timestamp", "When a record failed last, ms since the epoch", &self.last_ms),
        ];
        for (name, help, family) in families {
            registry.register(format!("kafka_connect_task_error_metrics_{name}"), help, family.clone());
        }
    }

    fn of(&self, labels: &TaskLabels) -> ErrorGauges {
        ErrorGauges {
            failures: self.failures.get_or_create_owned(labels),
            errors: self.errors.get_or_create_owned(labels),
            skipped: self.skipped.get_or_create_owned(labels),
            retries: self.retries.get_or_create_owned(labels),
            logged: self.logged.get_or_create_owned(labels),
            letters_sent: self.letters_sent.get_or_create_owned(labels),
            letters_failed: self.letters_failed.get_or_create_owned(labels),
            last_ms: self.last_ms.get_or_create_owned(labels),
        }
    }
}

/// The same of one task.
#[derive(Debug, Clone)]
struct ErrorGauges {
    failures: Gauge,
    errors: Gauge,
    skipped: Gauge,
    retries: Gauge,
    logged: Gauge,
    letters_sent: Gauge,
    letters_failed: Gauge,
    last_ms: Gauge,
}

impl Metrics {
    /// Registers everything under its name.
    pub fn register(&self, registry: &mut Registry) {
        let sink = "kafka_connect_sink_task_metrics_";
        let tasks: [(String, &str, &Family<TaskLabels, Counter>); 9] = [
            (format!("{sink}sink_record_read"), "Records read from Kafka", &self.records_read),
            (format!("{sink}sink_record_send"), "Records handed to the writer", &self.records_sent),
            ("sluice_read_bytes".into(), "Bytes of keys and values read from Kafka", &self.bytes_read),
            ("sluice_published_records".into(), "Records in objects that are visible", &self.records_published),
            ("sluice_published_files".into(), "Objects made visible", &self.files),
            ("sluice_published_bytes".into(), "Bytes of objects made visible", &self.file_bytes),
            (format!("{sink}offset_commit_completion"), "Offset commits that were taken", &self.commits),
            ("sluice_offset_commit_failures".into(), "Offset commits that were not", &self.commit_failures),
            ("sluice_rebalances".into(), "Assignments and revocations", &self.rebalances),
        ];
        for (name, help, family) in tasks {
            registry.register(name, help, family.clone());
        }
        registry.register("sluice_rejected_records", "Records that could not go on", self.records_rejected.clone());
        registry.register("sluice_cuts", "Cuts, by why they ended", self.cuts.clone());
        registry.register(format!("{sink}partition_count"), "Topic-partitions assigned", self.partitions.clone());
        registry.register(
            "kafka_consumer_consumer_fetch_manager_metrics_records_lag",
            "Records between the committed offset and the end of the topic-partition",
            self.lag.clone(),
        );
        self.errors.register(registry);
        registry.register("sluice_store_requests", "Requests to S3, repeated ones too", self.requests.clone());
        registry.register("sluice_memory_used_bytes", "Bytes of the memory budget in use", self.memory_used.clone());
        registry.register("sluice_memory_budget_bytes", "The memory budget", self.memory_limit.clone());
    }

    /// Counts requests of `connector` to its store by their operations.
    pub fn requests(&self, connector: &str) -> impl Fn(&'static str) + Send + Sync + 'static {
        let (requests, connector) = (self.requests.clone(), connector.to_owned());
        move |operation| {
            requests.get_or_create(&RequestLabels { connector: connector.clone(), operation }).inc();
        }
    }

    /// The metrics of one task.
    pub fn task(&self, connector: &str, task: u32) -> TaskMetrics {
        let labels = TaskLabels { connector: connector.to_owned(), task };
        let counter = |family: &Family<TaskLabels, Counter>| family.get_or_create_owned(&labels);
        TaskMetrics {
            all: self.clone(),
            read: counter(&self.records_read),
            read_bytes: counter(&self.bytes_read),
            sent: counter(&self.records_sent),
            published: counter(&self.records_published),
            files: counter(&self.files),
            file_bytes: counter(&self.file_bytes),
            commits: counter(&self.commits),
            commit_failures: counter(&self.commit_failures),
            rebalances: counter(&self.rebalances),
            partitions: self.partitions.get_or_create_owned(&labels),
            errors: self.errors.of(&labels),
            labels,
        }
    }
}

/// The metrics of one task; call sites never spell a name.
#[derive(Debug, Clone)]
pub struct TaskMetrics {
    all: Metrics,
    labels: TaskLabels,
    read: Counter<u64, AtomicU64>,
    read_bytes: Counter<u64, AtomicU64>,
    sent: Counter<u64, AtomicU64>,
    published: Counter<u64, AtomicU64>,
    files: Counter<u64, AtomicU64>,
    file_bytes: Counter<u64, AtomicU64>,
    commits: Counter<u64, AtomicU64>,
    commit_failures: Counter<u64, AtomicU64>,
    rebalances: Counter<u64, AtomicU64>,
    partitions: Gauge,
    errors: ErrorGauges,
}

impl TaskMetrics {
    /// The connector whose task it is.
    pub(crate) fn connector(&self) -> &str {
        &self.labels.connector
    }

    /// The number of the task.
    pub(crate) fn number(&self) -> u32 {
        self.labels.task
    }

    pub(crate) fn read(&self, records: usize, bytes: usize) {
        self.read.inc_by(records as u64);
        self.read_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn written(&self, records: usize) {
        self.sent.inc_by(records as u64);
    }

    /// Records could not go on; `are_skipped` if the task goes on without them.
    pub(crate) fn rejected(&self, rejected: &[Rejected], are_skipped: bool, now_ms: i64) {
        let count = i64::try_from(rejected.len()).unwrap_or(i64::MAX);
        self.errors.failures.inc_by(count);
        self.errors.errors.inc_by(count);
        self.errors.skipped.inc_by(if are_skipped { count } else { 0 });
        self.errors.last_ms.set(now_ms);
        let TaskLabels { connector, task } = &self.labels;
        for one in rejected {
            let labels = StageLabels { connector: connector.clone(), task: *task, stage: one.stage.as_str() };
            self.all.records_rejected.get_or_create(&labels).inc();
        }
    }

    /// Something failed that may be over by itself.
    pub(crate) fn attempt_failed(&self, now_ms: i64) {
        self.errors.failures.inc();
        self.errors.last_ms.set(now_ms);
    }

    pub(crate) fn retried(&self) {
        self.errors.retries.inc();
    }

    pub(crate) fn error_logged(&self) {
        self.errors.logged.inc();
    }

    pub(crate) fn letters_sent(&self, letters: i64) {
        self.errors.letters_sent.inc_by(letters);
    }

    pub(crate) fn letters_failed(&self, writes: i64) {
        self.errors.letters_failed.inc_by(writes);
    }

    pub(crate) fn published(&self, reason: CutReason, files: &[PublishedFile]) {
        let TaskLabels { connector, task } = &self.labels;
        let labels = ReasonLabels { connector: connector.clone(), task: *task, reason: reason.as_str() };
        self.all.cuts.get_or_create(&labels).inc();
        for file in files {
            self.published.inc_by(file.records);
            if !file.is_counted_elsewhere {
                self.files.inc();
                self.file_bytes.inc_by(file.bytes);
            }
        }
    }

    pub(crate) fn committed(&self, taken: bool) {
        if taken {
            self.commits.inc()
        } else {
            self.commit_failures.inc()
        };
    }

    pub(crate) fn rebalanced(&self) {
        self.rebalances.inc();
    }

    pub(crate) fn holds(&self, partitions: usize) {
        self.partitions.set(i64::try_from(partitions).unwrap_or(i64::MAX));
    }

    fn lane(&self, topic_partition: &TopicPartition) -> LaneLabels {
        LaneLabels {
            connector: self.labels.connector.clone(),
            topic: topic_partition.topic.to_string(),
            partition: topic_partition.partition,
        }
    }

    pub(crate) fn lag(&self, topic_partition: &TopicPartition, records: i64) {
        self.all.lag.get_or_create(&self.lane(topic_partition)).set(records);
    }

    pub(crate) fn lane_gone(&self, topic_partition: &TopicPartition) {
        self.all.lag.remove(&self.lane(topic_partition));
    }

    pub(crate) fn memory(&self, used: usize, limit: usize) {
        self.all.memory_used.set(i64::try_from(used).unwrap_or(i64::MAX));
        self.all.memory_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// Records read so far.
    pub fn records_read(&self) -> u64 {
        self.read.get()
    }

    /// Records in visible objects so far.
    pub fn records_published(&self) -> u64 {
        self.published.get()
    }

    /// Objects made visible so far.
    pub fn files_published(&self) -> u64 {
        self.files.get()
    }

    /// Their bytes.
    pub fn bytes_published(&self) -> u64 {
        self.file_bytes.get()
    }
}
