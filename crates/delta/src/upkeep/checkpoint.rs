//! Checkpoints: a file that stands for all commits up to a version.

use tokio::time::Instant;
use tracing::{info, warn};

use super::{Bench, UpkeepError};
use crate::action::Metadata;
use crate::log::Log;
use crate::metrics::TableMetrics;
use crate::open::{OpenError, SnapshotRef, in_kernel, newest, snapshot_at};

/// Versions from one checkpoint to the next when the table does not say (`delta.checkpointInterval`).
const CHECKPOINT_INTERVAL: u64 = 100;

/// Whether `version` of a table, which we made, is one that has a checkpoint.
pub(crate) fn due(version: u64, metadata: &Metadata) -> bool {
    let every = metadata.property("delta.checkpointInterval").and_then(|text| text.parse().ok());
    let every = every.filter(|every| *every > 0).unwrap_or(CHECKPOINT_INTERVAL);
    version > 0 && version.is_multiple_of(every)
}

/// Writes the checkpoint of `version`. That goes wrong without harm: the next one makes up for it.
pub(crate) async fn write_checkpoint(log: Log, version: u64, metrics: TableMetrics) {
    let snapshot = match snapshot_at(&log, version).await {
        Ok(snapshot) => write(&log, snapshot, &metrics).await,
        Err(error) => Err(error),
    };
    if let Err(error) = snapshot {
        metrics.upkeep_failed();
        warn!(table = log.name_for_people(), version, ?error, "could not write a checkpoint");
    }
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

    fn is_due(version: u64, properties: Value) -> bool {
        let Value::Object(properties) = properties else { panic!("{properties}") };
        due(version, &Metadata::new("t", &Value::Object(Map::new()), &[], properties, 0))
    }

    #[test]
    fn a_checkpoint_is_due_every_so_many_versions_and_the_table_may_say_how_many() {
        assert!(!is_due(0, json!({})));
        assert!(!is_due(99, json!({})));
        assert!(is_due(200, json!({})));
        assert!(is_due(10, json!({"delta.checkpointInterval": "10"})));
        assert!(!is_due(10, json!({"delta.checkpointInterval": "0"})));
    }
}
