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
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        }
    }
}

impl Metrics {
    /// Registers everything under its name.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Newest version of the table that is known";
        registry.register("sluice_delta_table_version", help, self.version.clone());
        let counters = [
            ("commits", "Commits that appended files", &self.commits),
            ("commit_conflicts", "Versions that somebody else made first", &self.conflicts),
            ("commit_unknown_outcomes", "Commits after which the table had to be read to know", &self.unknown),
            ("commit_overtaken", "Cuts that were dropped because somebody else had written them", &self.overtaken),
            ("added_files", "Files that commits added", &self.files),
            ("added_bytes", "Bytes of files that commits added", &self.bytes),
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

    /// Commits that appended files so far.
    pub fn commits(&self) -> u64 {
        self.commits.get()
    }

    /// Versions that somebody else made first so far.
    pub fn conflicts(&self) -> u64 {
        self.conflicts.get()
    }
}
