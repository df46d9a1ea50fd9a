//! Keeps a table from forgetting how far topic-partitions got that have nothing to commit: readers of a log and writers of
//! checkpoints drop transactions that are older than `delta.setTransactionRetentionDuration`.

use std::time::Duration;

use tracing::{info, warn};
use writer::Created;

use super::{Bench, UpkeepError};
use crate::action::{Action, Txn, commit_info};
use crate::commit::interval;
use crate::open::open_with_txns;
use crate::protocol::refusals;

/// Versions that a commit is tried for, one after the other.
const ATTEMPTS_MAX: usize = 10;

/// The table's property.
const RETENTION: &str = "delta.setTransactionRetentionDuration";

/// Says again what the table says of the applications of `connector`, where half of the retention is over. What is said is
/// what the very version before says, so nobody's progress is lost, and nobody is overtaken.
pub(crate) async fn run(bench: &Bench, connector: &str) -> Result<(), UpkeepError> {
    let table = bench.log.name_for_people();
    for attempt in 0..ATTEMPTS_MAX {
        let Some((state, txns)) = open_with_txns(&bench.log).await? else { return Ok(()) };
        let Some(retention) = state.metadata.property(RETENTION) else { return Ok(()) };
        let Some(retention) = interval(retention) else {
            warn!(table, retention, "{RETENTION} cannot be read, so nothing is done against what it forgets");
            return Ok(());
        };
        if !refusals(&state.protocol, &state.metadata).is_empty() {
            return Ok(());
        }
        let now_ms = (bench.now_ms)();
        let due = due(txns, connector, retention, now_ms);
        if due.is_empty() {
            return Ok(());
        }
        let (count, version) = (due.len(), state.version + 1);
        let nonce = bench.seed ^ now_ms.unsigned_abs() ^ (attempt as u64).rotate_left(56);
        let info = commit_info("SET TRANSACTION", true, Some(state.version), nonce, now_ms, None);
        let actions: Vec<Action> = [info].into_iter().chain(due.into_iter().map(Action::Txn)).collect();
        match bench.log.put(version, &actions).await {
            Ok(Created::New) => {
                info!(table, version, topic_partitions = count, "said again how far quiet topic-partitions got");
                return Ok(());
            }
            Ok(Created::AlreadyThere) => {}
            // If it happens later it is still right: it stands behind the very version that was looked at.
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(UpkeepError::Table(format!("{ATTEMPTS_MAX} versions were taken by others")))
}

/// What must be said again.
fn due(txns: Vec<Txn>, connector: &str, retention: Duration, now_ms: i64) -> Vec<Txn> {
    let half_ms = i64::try_from(retention.as_millis() / 2).unwrap_or(i64::MAX);
    let is_ours = |txn: &Txn| txn.app_id.strip_prefix(connector).is_some_and(|rest| rest.starts_with(':'));
    let is_old = |txn: &Txn| txn.last_updated.is_none_or(|at| now_ms.saturating_sub(at) > half_ms);
    let again = |txn| Txn { last_updated: Some(now_ms), ..txn };
    txns.into_iter().filter(|txn| is_ours(txn) && is_old(txn)).map(again).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};
    use writer::Fate;

    use super::*;
    use crate::upkeep::tests::{HOUR, Lake};

    #[test]
    fn half_of_the_retention_is_waited_for() {
        let txn = |app_id: &str, last_updated| Txn { app_id: app_id.to_owned(), version: 7, last_updated };
        let txns = vec![
            txn("c:t:0", Some(1_000)),
            txn("c:t:1", Some(6_000)),
            txn("c:t:2", None),
            txn("cd:t:0", Some(0)),
            txn("9f-query", Some(0)),
        ];
        let found = due(txns, "c", Duration::from_secs(10), 7_000);
        assert_eq!(found, [txn("c:t:0", Some(7_000)), txn("c:t:2", Some(7_000))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_topic_partition_is_not_forgotten() {
        let properties =
            Map::from_iter([("delta.setTransactionRetentionDuration".to_owned(), json!("interval 2 days"))]);
        let lake = Lake::with(|_, _| Fate::Fine, properties, None).await;
        lake.append(0..3).await;
        lake.pass(23 * HOUR);
        run(&lake.bench, "c").await.unwrap();
        assert_eq!(lake.commit_lines(2).await, None, "there is time");
        lake.pass(2 * HOUR);
        run(&lake.bench, "other").await.unwrap();
        assert_eq!(lake.commit_lines(2).await, None, "it is not ours");
        // Somebody else commits meanwhile.
        lake.put_lines(&[json!({"commitInfo": {}})]).await;
        run(&lake.bench, "c").await.unwrap();
        let lines = lake.commit_lines(3).await.unwrap();
        let now_ms = (lake.bench.now_ms)();
        assert_eq!(lines[1], json!({"txn": {"appId": "c:t:0", "version": 1, "lastUpdated": now_ms}}), "{lines:?}");
        assert_eq!(lines.len(), 2);
        run(&lake.bench, "c").await.unwrap();
        assert_eq!(lake.commit_lines(4).await, None, "once");
        lake.append(3..5).await;
        let versions = lake.versions().await;
        assert_eq!(lake.counts(versions.last().unwrap()).await, (0..5).map(|n| (n, 1)).collect());
    }
}
