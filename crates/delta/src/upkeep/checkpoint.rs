//! Checkpoints: a file that stands for all commits up to a version.

use serde::Deserialize;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Bench, UpkeepError};
use crate::action::Metadata;
use crate::log::Log;
use crate::metrics::TableMetrics;
use crate::open::{OpenError, SnapshotRef, in_kernel, newest, snapshot_at};

/// Versions from one checkpoint to the next when the table does not say (`delta.checkpointInterval`).
const CHECKPOINT_INTERVAL: u64 = 100;

/// Actions of a checkpoint, which are files of the table and removed ones within the retention, for which one version more
/// goes by before the next: so the checkpoints of a table cost some 20 kB a version at most, however large it is.
const ACTIONS_A_VERSION: u64 = 200;

/// The object that names the last checkpoint.
const HINT: &str = "_delta_log/_last_checkpoint";

/// What is known of the last checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Last {
    version: u64,
    /// Actions in it.
    #[serde(default)]
    size: u64,
}

/// Whether `version` of a table, which we made, is one that may have a checkpoint.
pub(crate) fn may_be_due(version: u64, metadata: &Metadata) -> bool {
    version > 0 && version.is_multiple_of(interval(metadata).unwrap_or(CHECKPOINT_INTERVAL))
}

/// What the table says.
fn interval(metadata: &Metadata) -> Option<u64> {
    let every: Option<u64> = metadata.property("delta.checkpointInterval").and_then(|text| text.trim().parse().ok());
    every.filter(|every| *every > 0)
}

/// Whether so many versions went by since the `last` checkpoint that it is time for one of `version`.
fn is_due(version: u64, last: Option<Last>) -> bool {
    last.is_none_or(|last| version.saturating_sub(last.version) >= last.size / ACTIONS_A_VERSION)
}

/// Writes the checkpoint of `version` if the last one is far enough behind; a table that says how far it wants them is taken
/// at its word. If that goes wrong the next one makes up for it.
pub(crate) async fn write_checkpoint(log: Log, version: u64, metadata: Metadata, metrics: TableMetrics) {
    if let Err(error) = write_if_due(&log, version, &metadata, &metrics).await {
        metrics.upkeep_failed();
        warn!(table = log.name_for_people(), version, %error, "could not write a checkpoint");
    }
}

async fn write_if_due(log: &Log, version: u64, metadata: &Metadata, metrics: &TableMetrics) -> Result<(), UpkeepError> {
    if interval(metadata).is_none() {
        let hint = log.store().read(&log.key(HINT)).await?;
        let last = hint.and_then(|hint| serde_json::from_slice(&hint).ok());
        if !is_due(version, last) {
            return Ok(());
        }
    }
    Ok(write(log, snapshot_at(log, version).await?, metrics).await?)
}

/// Writes the checkpoint of the newest version, unless it has one or is the first.
pub(crate) async fn of_newest(bench: &Bench) -> Result<(), UpkeepError> {
    let Some((snapshot, state)) = newest(&bench.log).await? else { return Ok(()) };
    if snapshot.log_segment().checkpoint_version == Some(state.version) || state.version == 0 {
        return Ok(());
    }
    Ok(write(&bench.log, snapshot, &bench.metrics).await?)
}

async fn write(log: &Log, snapshot: SnapshotRef, metrics: &TableMetrics) -> Result<(), OpenError> {
    let (version, began) = (snapshot.version(), Instant::now());
    in_kernel(log, move |engine| snapshot.checkpoint(engine, None).map(|_| ())).await?;
    metrics.checkpointed();
    info!(table = log.name_for_people(), version, took_ms = began.elapsed().as_millis(), "checkpoint written");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    fn may_be(version: u64, properties: Value) -> bool {
        let Value::Object(properties) = properties else { panic!("{properties}") };
        may_be_due(version, &Metadata::new("t", &Value::Object(Map::new()), &[], properties, 0))
    }

    #[test]
    fn a_checkpoint_is_due_every_so_many_versions_and_the_table_may_say_how_many() {
        assert!(!may_be(0, json!({})));
        assert!(!may_be(99, json!({})));
        assert!(may_be(200, json!({})));
        assert!(may_be(10, json!({"delta.checkpointInterval": "10"})));
        assert!(!may_be(10, json!({"delta.checkpointInterval": "0"})));
    }

    #[test]
    fn large_checkpoints_are_further_apart() {
        let last = |size| Some(Last { version: 1_000, size });
        assert!(is_due(1_100, None) && is_due(1_100, last(20_000)));
        assert!(!is_due(1_100, last(200_000)) && !is_due(1_900, last(200_000)));
        assert!(is_due(2_000, last(200_000)));
        assert!(!is_due(900, last(200_000)), "somebody else is ahead");
        let hint = br#"{"version": 7, "size": 9, "sizeInBytes": 100, "checksum": "x"}"#;
        assert_eq!(serde_json::from_slice::<Last>(hint).unwrap(), Last { version: 7, size: 9 });
    }
}
