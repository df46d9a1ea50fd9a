//! What is counted of the tables of this process.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TableLabels {
    connector: String,
    table: String,
}

/// Upper bounds, in seconds: a PUT takes tens of milliseconds, a store in trouble minutes.
const SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// The metrics of all tables. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    version: Family<TableLabels, Gauge>,
    commits: Family<TableLabels, Counter>,
    conflicts: Family<TableLabels, Counter>,
    unknown: Family<TableLabels, Counter>,
    overtaken: Family<TableLabels, Counter>,
    files: Family<TableLabels, Counter>,
    bytes: Family<TableLabels, Counter>,
    live_files: Family<TableLabels, Gauge>,
    live_bytes: Family<TableLabels, Gauge>,
    checkpoints: Family<TableLabels, Counter>,
    cleaned: Family<TableLabels, Counter>,
    compactions: Family<TableLabels, Counter>,
    compacted_files: Family<TableLabels, Counter>,
    compacted_bytes: Family<TableLabels, Counter>,
    compactions_lost: Family<TableLabels, Counter>,
    vacuumed_files: Family<TableLabels, Counter>,
    vacuumed_bytes: Family<TableLabels, Counter>,
    aborted_uploads: Family<TableLabels, Counter>,
    upkeep_failures: Family<TableLabels, Counter>,
    seconds: Family<TableLabels, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            version: Family::default(),
            commits: Family::default(),
            conflicts: Family::default(),
            unknown: Family::default(),
            overtaken: Family::default(),
            files: Family::default(),
            bytes: Family::default(),
            live_files: Family::default(),
            live_bytes: Family::default(),
            checkpoints: Family::default(),
            cleaned: Family::default(),
            compactions: Family::default(),
            compacted_files: Family::default(),
            compacted_bytes: Family::default(),
            compactions_lost: Family::default(),
            vacuumed_files: Family::default(),
            vacuumed_bytes: Family::default(),
            aborted_uploads: Family::default(),
            upkeep_failures: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        }
    }
}

impl Metrics {
    /// Registers everything under its name.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Newest version of the table that is known";
        registry.register("sluice_delta_table_version", help, self.version.clone());
        let help = "Files of the newest version, as this process last looked for small ones";
        registry.register("sluice_delta_live_files", help, self.live_files.clone());
        let help = "Bytes of the files of the newest version, as this process last looked for small ones";
        registry.register("sluice_delta_live_bytes", help, self.live_bytes.clone());
        let counters = [
            ("commits", "Commits that appended files", &self.commits),
            ("commit_conflicts", "Versions that somebody else made first", &self.conflicts),
            ("commit_unknown_outcomes", "Commits after which the table had to be read to know", &self.unknown),
            ("commit_overtaken", "Cuts that were dropped because somebody else had written them", &self.overtaken),
            ("added_files", "Files that commits added", &self.files),
            ("added_bytes", "Bytes of files that commits added", &self.bytes),
            ("checkpoints", "Checkpoints that were written", &self.checkpoints),
            ("removed_log_objects", "Old commits, and what lay beside them, that were removed", &self.cleaned),
            ("compactions", "Commits that replaced small files", &self.compactions),
            ("compacted_files", "Small files that were replaced", &self.compacted_files),
            ("compacted_bytes", "Bytes of small files that were replaced", &self.compacted_bytes),
            ("compactions_lost", "Compactions that were dropped because the table changed", &self.compactions_lost),
            ("vacuumed_files", "Files that were removed because the table does not know them", &self.vacuumed_files),
            ("vacuumed_bytes", "Bytes of files that were removed", &self.vacuumed_bytes),
            ("aborted_uploads", "Unfinished uploads of dead workers that were removed", &self.aborted_uploads),
            ("upkeep_failures", "Times that upkeep failed; it is tried again", &self.upkeep_failures),
        ];
        for (name, help, family) in counters {
            registry.register(format!("sluice_delta_{name}"), help, family.clone());
        }
        let help = "Seconds from the first cut that waits to the commit that has it";
        registry.register("sluice_delta_commit_seconds", help, self.seconds.clone());
    }

    /// The metrics of the table `table` as `connector` writes it.
    pub fn table(&self, connector: &str, table: &str) -> TableMetrics {
        let labels = TableLabels { connector: connector.to_owned(), table: table.to_owned() };
        let counter = |family: &Family<TableLabels, Counter>| family.get_or_create_owned(&labels);
        TableMetrics {
            version: self.version.get_or_create_owned(&labels),
            commits: counter(&self.commits),
            conflicts: counter(&self.conflicts),
            unknown: counter(&self.unknown),
            overtaken: counter(&self.overtaken),
            files: counter(&self.files),
            bytes: counter(&self.bytes),
            live_files: self.live_files.get_or_create_owned(&labels),
            live_bytes: self.live_bytes.get_or_create_owned(&labels),
            checkpoints: counter(&self.checkpoints),
            cleaned: counter(&self.cleaned),
            compactions: counter(&self.compactions),
            compacted_files: counter(&self.compacted_files),
            compacted_bytes: counter(&self.compacted_bytes),
            compactions_lost: counter(&self.compactions_lost),
            vacuumed_files: counter(&self.vacuumed_files),
            vacuumed_bytes: counter(&self.vacuumed_bytes),
            aborted_uploads: counter(&self.aborted_uploads),
            upkeep_failures: counter(&self.upkeep_failures),
            seconds: self.seconds.get_or_create_owned(&labels),
        }
    }
}

/// The metrics of one table; call sites never spell a name.
#[derive(Debug, Clone)]
pub struct TableMetrics {
    version: Gauge,
    commits: Counter<u64, AtomicU64>,
    conflicts: Counter<u64, AtomicU64>,
    unknown: Counter<u64, AtomicU64>,
    overtaken: Counter<u64, AtomicU64>,
    files: Counter<u64, AtomicU64>,
    bytes: Counter<u64, AtomicU64>,
    live_files: Gauge,
    live_bytes: Gauge,
    checkpoints: Counter<u64, AtomicU64>,
    cleaned: Counter<u64, AtomicU64>,
    compactions: Counter<u64, AtomicU64>,
    compacted_files: Counter<u64, AtomicU64>,
    compacted_bytes: Counter<u64, AtomicU64>,
    compactions_lost: Counter<u64, AtomicU64>,
    vacuumed_files: Counter<u64, AtomicU64>,
    vacuumed_bytes: Counter<u64, AtomicU64>,
    aborted_uploads: Counter<u64, AtomicU64>,
    upkeep_failures: Counter<u64, AtomicU64>,
    seconds: Histogram,
}

impl TableMetrics {
    pub(crate) fn is_at(&self, version: u64) {
        self.version.set(i64::try_from(version).unwrap_or(i64::MAX));
    }

    /// A commit added `files` with `bytes`, `latency` after the first of its cuts was proposed.
    pub(crate) fn committed(&self, files: usize, bytes: u64, latency: Duration) {
        self.commits.inc();
        self.files.inc_by(files as u64);
        self.bytes.inc_by(bytes);
        self.seconds.observe(latency.as_secs_f64());
    }

    pub(crate) fn conflicted(&self) {
        self.conflicts.inc();
    }

    pub(crate) fn outcome_unknown(&self) {
        self.unknown.inc();
    }

    pub(crate) fn overtaken(&self) {
        self.overtaken.inc();
    }

    pub(crate) fn has_live(&self, files: u64, bytes: u64) {
        self.live_files.set(i64::try_from(files).unwrap_or(i64::MAX));
        self.live_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn checkpointed(&self) {
        self.checkpoints.inc();
    }

    pub(crate) fn log_cleaned(&self, objects: usize) {
        self.cleaned.inc_by(objects as u64);
    }

    /// One commit replaced `files` with `bytes`.
    pub(crate) fn compacted(&self, files: usize, bytes: u64) {
        self.compactions.inc();
        self.compacted_files.inc_by(files as u64);
        self.compacted_bytes.inc_by(bytes);
    }

    pub(crate) fn compaction_lost(&self) {
        self.compactions_lost.inc();
    }

    pub(crate) fn vacuumed(&self, files: usize, bytes: u64) {
        self.vacuumed_files.inc_by(files as u64);
        self.vacuumed_bytes.inc_by(bytes);
    }

    pub(crate) fn upload_aborted(&self) {
        self.aborted_uploads.inc();
    }

    pub(crate) fn upkeep_failed(&self) {
        self.upkeep_failures.inc();
    }

    /// Commits that appended files so far.
    pub fn commits(&self) -> u64 {
        self.commits.get()
    }

    /// Checkpoints that were written so far.
    pub fn checkpoints(&self) -> u64 {
        self.checkpoints.get()
    }

    /// Objects of the log that were removed so far.
    pub fn removed_log_objects(&self) -> u64 {
        self.cleaned.get()
    }

    /// Small files that were replaced so far.
    pub fn compacted_files(&self) -> u64 {
        self.compacted_files.get()
    }

    /// Bytes of small files that were replaced so far.
    pub fn compacted_bytes(&self) -> u64 {
        self.compacted_bytes.get()
    }

    /// Files that were removed because the table does not know them so far.
    pub fn vacuumed_files(&self) -> u64 {
        self.vacuumed_files.get()
    }

    /// Versions that somebody else made first so far.
    pub fn conflicts(&self) -> u64 {
        self.conflicts.get()
    }
}
