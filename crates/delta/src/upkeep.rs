//! Upkeep of a table beside its commits: a checkpoint now and then, and removal of commits that nobody needs any more. Whoever
//! made a version that is due for it does it, so of all processes that write to a table one does.

use std::time::Duration;

use delta_kernel::Snapshot;
use deltalake_core::checkpoints::cleanup_expired_logs_for;
use deltalake_core::logstore::LogStore;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::action::{Metadata, Protocol};
use crate::commit::interval;
use crate::log::Log;
use crate::open::{OpenError, in_kernel};

/// Versions from one checkpoint to the next when the table does not say (`delta.checkpointInterval`).
const CHECKPOINT_INTERVAL: u64 = 100;

/// How long commits are kept when the table does not say (`delta.logRetentionDuration`).
const LOG_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What is due for one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    version: u64,
    /// Commits that are older than this are removed, if there is a checkpoint after them; `None` to keep all.
    retention: Option<Duration>,
}

/// What is due for `version` of a table, which we made.
pub(crate) fn due(version: u64, protocol: &Protocol, metadata: &Metadata) -> Option<Due> {
    let every = metadata.property("delta.checkpointInterval").and_then(|text| text.parse().ok());
    let every = every.filter(|every| *every > 0).unwrap_or(CHECKPOINT_INTERVAL);
    if version == 0 || !version.is_multiple_of(every) {
        return None;
    }
    let is_protected = protocol.writer_features.iter().flatten().any(|feature| feature == "checkpointProtection");
    let is_wanted = metadata.property("delta.enableExpiredLogCleanup").is_none_or(|text| text.trim() != "false");
    let retention = metadata.property("delta.logRetentionDuration").and_then(interval).unwrap_or(LOG_RETENTION);
    Some(Due { version, retention: (is_wanted && !is_protected).then_some(retention) })
}

/// Does what is due. Nothing that goes wrong here is more than a warning: the next one makes up for it.
pub(crate) async fn keep_up(log: Log, due: Due, now_ms: i64) {
    let (table, version, began) = (log.name_for_people(), due.version, Instant::now());
    match checkpoint(&log, version).await {
        Ok(()) => info!(table, version, took_ms = began.elapsed().as_millis(), "checkpoint written"),
        Err(error) => return warn!(table, version, ?error, "could not write a checkpoint"),
    }
    let Some(retention) = due.retention else { return };
    let cutoff_ms = now_ms.saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
    match cleanup_expired_logs_for(version, &log, cutoff_ms, None).await {
        Ok(0) => {}
        Ok(removed) => info!(table, removed, "old commits removed"),
        Err(error) => warn!(table, %error, "could not remove old commits"),
    }
}

async fn checkpoint(log: &Log, version: u64) -> Result<(), OpenError> {
    let url = log.root_url().clone();
    in_kernel(log, move |engine| {
        let snapshot = Snapshot::builder_for(url).at_version(version).build(engine)?;
        snapshot.checkpoint(engine, None).map(|_| ())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    fn found(version: u64, properties: Value, features: &[&str]) -> Option<Due> {
        let Value::Object(properties) = properties else { panic!("{properties}") };
        let protocol = Protocol {
            min_reader_version: 3,
            min_writer_version: 7,
            reader_features: None,
            writer_features: Some(features.iter().map(|feature| (*feature).to_owned()).collect()),
        };
        due(version, &protocol, &Metadata::new("t", &Value::Object(Map::new()), &[], properties, 0))
    }

    #[test]
    fn a_checkpoint_is_due_every_so_many_versions_and_the_table_may_say_how_many() {
        let month = Some(LOG_RETENTION);
        assert_eq!(found(0, json!({}), &[]), None);
        assert_eq!(found(99, json!({}), &[]), None);
        assert_eq!(found(200, json!({}), &[]), Some(Due { version: 200, retention: month }));
        assert_eq!(
            found(10, json!({"delta.checkpointInterval": "10"}), &[]),
            Some(Due { version: 10, retention: month })
        );
        let day = json!({"delta.logRetentionDuration": "interval 1 day"});
        assert_eq!(found(100, day, &[]).unwrap().retention, Some(Duration::from_secs(24 * 60 * 60)));
        assert_eq!(found(100, json!({"delta.enableExpiredLogCleanup": "false"}), &[]).unwrap().retention, None);
        assert_eq!(found(100, json!({}), &["checkpointProtection"]).unwrap().retention, None);
    }
}
