//! What became of the records, as an independent reader counts it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tests::{Error, Kafka, S3, Services};

use crate::connectors::Connector;

/// The script that produces and counts.
pub(crate) const SCRIPT: &str = concat!(
    include_str!("../src/py/plain.py"),
    include_str!("../src/py/store.py"),
    include_str!("../src/py/delta_log.py"),
    include_str!("truth.py"),
    include_str!("table.py")
);

/// Counting the objects of a long run takes minutes.
const LIMIT: Duration = Duration::from_secs(800);

/// The log and the bucket, compared.
#[derive(Debug, Deserialize)]
pub(crate) struct Verdict {
    /// Good records of the topic.
    pub(crate) logged: u64,
    /// Keys of objects that no connector should have written, and dead letters that should not be.
    pub(crate) strange: Vec<String>,
    /// Bad records of the topic.
    bad: u64,
    /// Dead letters, some records of which were read again.
    letters: u64,
    /// Bad records without one.
    without_letter: u64,
    without_letter_examples: Vec<String>,
    /// By connector.
    pub(crate) connectors: BTreeMap<String, Count>,
}

/// What one connector wrote.
#[derive(Debug, Deserialize)]
pub(crate) struct Count {
    records: u64,
    files: u64,
    bytes: u64,
    /// Files that came as multipart uploads.
    multipart: u64,
    /// Records that are in more than one place.
    duplicates: u64,
    /// Records of the log before the committed offset that are nowhere.
    losses: u64,
    /// Records after it that are nowhere: they would still be written.
    unwritten: u64,
    /// Files whose rows, footer or metadata are not what they should be.
    broken: Vec<String>,
    /// Some of the duplicates and losses.
    examples: Vec<String>,
    /// Of a connector that writes a table.
    table: Option<TableCount>,
}

/// What became of a table.
#[derive(Debug, Deserialize)]
struct TableCount {
    /// The newest one.
    version: u64,
    /// Commits that changed its columns.
    evolutions: u64,
    checkpoints: u64,
    /// Files that no commit names.
    orphans: u64,
}

impl Verdict {
    /// Reads the topic and every object.
    pub(crate) fn reach(
        kafka: &Kafka,
        topic: &str,
        partitions: u32,
        store: &S3,
        bucket: &str,
        connectors: &[Connector],
    ) -> Result<Verdict, Error> {
        let mut committed = BTreeMap::new();
        for connector in connectors {
            let offsets = kafka.committed(&connector.group(), topic)?;
            let offsets: BTreeMap<String, i64> = offsets.iter().map(|o| (o.partition.to_string(), o.offset)).collect();
            committed.insert(connector.name.clone(), offsets);
        }
        let request = json!({
            "bootstrap": kafka.bootstrap(), "topic": topic, "partitions": partitions,
            "store": about(store), "bucket": bucket, "committed": committed,
            "tables": connectors.iter().filter(|one| one.is_table).map(|one| &one.name).collect::<Vec<_>>(),
            "dead": connectors.iter().find_map(|connector| connector.dead.as_ref()),
        });
        Services::readers()?.begin(SCRIPT, "verdict", &request, LIMIT)?.finish()
    }

    /// What is wrong, in words.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.strange.iter().map(|what| format!("strange: {what}")).collect();
        if self.without_letter > 0 {
            let examples = self.without_letter_examples.join(", ");
            faults.push(format!("{} of {} bad records have no letter: {examples}", self.without_letter, self.bad));
        }
        for (name, count) in &self.connectors {
            if count.duplicates + count.losses > 0 || count.records != self.logged {
                faults.push(format!(
                    "{name}: {} duplicates, {} losses, {} not written, {} of {} records:\n  {}",
                    count.duplicates,
                    count.losses,
                    count.unwritten,
                    count.records,
                    self.logged,
                    count.examples.join("\n  ")
                ));
            }
            faults.extend(count.broken.iter().map(|broken| format!("{name}: {broken}")));
        }
        faults
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records in the log, {} bad ones in {} letters", self.logged, self.bad, self.letters)?;
        for (name, count) in &self.connectors {
            write!(
                f,
                "\n  {name}: {} records in {} files ({} multipart), {} MB; {} duplicates, {} losses",
                count.records,
                count.files,
                count.multipart,
                count.bytes / 1_000_000,
                count.duplicates,
                count.losses
            )?;
            if let Some(table) = &count.table {
                let TableCount { version, evolutions, checkpoints, orphans } = table;
                write!(
                    f,
                    "; version {version}, {evolutions} evolutions, {checkpoints} checkpoints, {orphans} orphans"
                )?;
            }
        }
        Ok(())
    }
}

/// The store as py/store.py connects to it.
pub(crate) fn about(store: &S3) -> serde_json::Value {
    json!({
        "endpoint": store.endpoint(),
        "access_key": store.access_key(),
        "secret_key": store.secret_key(),
        "region": S3::REGION,
    })
}
