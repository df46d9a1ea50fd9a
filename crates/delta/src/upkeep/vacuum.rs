//! Vacuum: files below the table that no version within the table's retention has are removed, when they are older than it.
//! A file that was uploaded and is not committed yet is younger: it is open for a day at most (`commit.interval.ms`), its
//! commit is given up after another one, and the retention is longer than both.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use delta_kernel::Error as KernelError;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::schema::{DataType, StructField, StructType};
use tracing::info;

use super::compact::{decoded, for_each_live, is_elsewhere};
use super::{Bench, Removable, UpkeepError, Vacuum};
use crate::commit::interval;
use crate::log::Log;
use crate::open::{SnapshotRef, in_kernel, newest};
use crate::protocol::refusals;

/// How long removed files are kept when the table does not say (`delta.deletedFileRetentionDuration`).
const RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long files are kept whatever the table says: no upload waits as long for its commit.
const RETENTION_MIN: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// Names of files that are held in memory at once.
const HELD_MAX: usize = 100_000;

/// Bytes of files that may go, by their names below the table.
type Candidates = BTreeMap<String, u64>;

/// Whether sluice gave this name: `<something with +>-<16 hexadecimal digits>.<..>.parquet`.
pub(crate) fn is_own(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let Some((stem, unique)) = file.strip_suffix(".parquet").and_then(|stem| stem.rsplit_once('-')) else {
        return false;
    };
    let (hex, codec) = unique.split_at_checked(16).unwrap_or((unique, "!"));
    stem.contains('+')
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        && (codec.is_empty() || codec.starts_with('.'))
}

/// Whether `name` below the table is one that vacuum may look at: a Parquet file outside of directories that are hidden, as
/// Spark hides them, in which logs, changes and deletion vectors lie.
fn is_removable(name: &str, files: Removable) -> bool {
    let is_hidden = name.split('/').any(|part| part.starts_with('_') || part.starts_with('.'));
    let is_named = match files {
        Removable::Own => is_own(name),
        Removable::All => name.ends_with(".parquet"),
    };
    !is_hidden && is_named
}

pub(crate) async fn run(bench: &Bench, how: &Vacuum) -> Result<(), UpkeepError> {
    abort_uploads(bench, how).await?;
    let mut after = String::new();
    loop {
        let Some((_, state)) = newest(&bench.log).await? else { return Ok(()) };
        if !refusals(&state.protocol, &state.metadata).is_empty() {
            return Ok(());
        }
        let retention = state.metadata.property("delta.deletedFileRetentionDuration").and_then(interval);
        let retention = retention.unwrap_or(RETENTION).max(RETENTION_MIN);
        let cutoff_ms = (bench.now_ms)().saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
        let candidates = candidates(&bench.log, how.files, cutoff_ms, &after).await?;
        let Some(last) = candidates.last_key_value().map(|(name, _)| name.clone()) else { return Ok(()) };
        let is_all = candidates.len() < HELD_MAX;
        // What the table has is read behind the list: a file that is listed and committed later is in it.
        let Some((snapshot, _)) = newest(&bench.log).await? else { return Ok(()) };
        let candidates = without_known(&bench.log, snapshot, candidates, cutoff_ms).await?;
        let (files, bytes) = (candidates.len(), candidates.values().sum());
        let keys: Vec<String> = candidates.keys().map(|name| bench.log.key(name)).collect();
        bench.log.store().delete(&keys).await?;
        if files > 0 {
            bench.metrics.vacuumed(files, bytes);
            info!(table = bench.log.name_for_people(), files, bytes, "files removed that the table does not know");
        }
        if is_all {
            return Ok(());
        }
        after = last;
    }
}

/// The first files behind the name `after` that may go by their names and are older than `cutoff_ms`.
async fn candidates(log: &Log, files: Removable, cutoff_ms: i64, after: &str) -> Result<Candidates, UpkeepError> {
    let (store, root) = (log.store(), log.key(""));
    let behind = if after.is_empty() { String::new() } else { log.key(after) };
    let mut found = Candidates::new();
    store
        .for_each_object(&root, &behind, |object| {
            let Some(object) = object else {
                found.clear();
                return ControlFlow::Continue(());
            };
            let name = object.key.strip_prefix(root.as_str()).unwrap_or_default().trim_start_matches('/');
            if object.modified_ms < cutoff_ms && name > after && is_removable(name, files) {
                found.insert(name.to_owned(), object.bytes);
                if found.len() > HELD_MAX {
                    found.pop_last();
                }
            }
            match store.lists_in_order() && found.len() == HELD_MAX {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })
        .await?;
    Ok(found)
}

/// Those of `candidates` that `snapshot` does not have, and that were not removed from the table after `cutoff_ms`.
async fn without_known(
    log: &Log,
    snapshot: SnapshotRef,
    candidates: Candidates,
    cutoff_ms: i64,
) -> Result<Candidates, UpkeepError> {
    let strange =
        |path: &str| UpkeepError::Table(format!("nothing is removed: a file of the table lies elsewhere: {path}"));
    let gathered = (candidates, None);
    let live = for_each_live(log, snapshot.clone(), gathered, |(candidates, elsewhere), live| {
        if is_elsewhere(&live.file.path) {
            *elsewhere = Some(live.file.path);
            return ControlFlow::Break(());
        }
        forget(candidates, &live.file.path);
        ControlFlow::Continue(())
    });
    let (candidates, elsewhere) = live.await?;
    if let Some(path) = elsewhere {
        return Err(strange(&path));
    }
    Ok(without_removed(log, snapshot, candidates, cutoff_ms).await?)
}

/// Paths of the log are encoded; some writers leave that out.
fn forget(candidates: &mut Candidates, path: &str) {
    candidates.remove(&decoded(path));
    candidates.remove(path);
}

async fn without_removed(
    log: &Log,
    snapshot: SnapshotRef,
    mut candidates: Candidates,
    cutoff_ms: i64,
) -> Result<Candidates, crate::open::OpenError> {
    in_kernel(log, move |engine| {
        let remove = StructType::new_unchecked([
            StructField::not_null("path", DataType::STRING),
            StructField::nullable("deletionTimestamp", DataType::LONG),
        ]);
        let schema = Arc::new(StructType::new_unchecked([StructField::nullable("remove", remove)]));
        for actions in snapshot.log_segment().read_actions(engine, schema)? {
            let batch: RecordBatch = ArrowEngineData::try_from_engine_data(actions?.actions)?.into();
            let Some(removes) = batch.column_by_name("remove").and_then(|column| column.as_struct_opt()) else {
                continue;
            };
            let paths = removes.column_by_name("path").and_then(|column| column.as_string_opt::<i32>());
            let times = removes.column_by_name("deletionTimestamp");
            let times = times.and_then(|column| column.as_primitive_opt::<Int64Type>());
            let (Some(paths), Some(times)) = (paths, times) else {
                return Err(KernelError::generic(
                    "the removed files of the log have other columns than the protocol says",
                ));
            };
            for row in (0..removes.len()).filter(|row| removes.is_valid(*row)) {
                // Nobody knows the age of one without a time.
                if times.is_null(row) || times.value(row) >= cutoff_ms {
                    forget(&mut candidates, paths.value(row));
                }
            }
        }
        Ok(candidates)
    })
    .await
}

/// Removes what dead workers left half uploaded below the table.
async fn abort_uploads(bench: &Bench, how: &Vacuum) -> Result<(), UpkeepError> {
    let Some(age) = how.upload_age else { return Ok(()) };
    let before_ms = (bench.now_ms)().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let (log, store, root) = (&bench.log, bench.log.store(), bench.log.key(""));
    let prefix = if root.is_empty() { root } else { format!("{root}/") };
    for upload in store.orphaned_uploads(&prefix, before_ms).await? {
        if is_own(&upload.key) {
            store.abort_upload(&upload).await?;
            bench.metrics.upload_aborted();
            info!(table = log.name_for_people(), key = upload.key, "removed the upload of a dead worker");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_files_are_known_by_their_names_and_hidden_ones_are_left_alone() {
        let own = "t+0+00000000000000000007-0123456789abcdef.snappy.parquet";
        for (name, expected) in [
            (own.to_owned(), (true, true)),
            (format!("p=1/q=a b/{own}"), (true, true)),
            ("my.topic-x+3+1-0123456789abcdef.parquet".to_owned(), (true, true)),
            ("compacted+00000000000000000007-0123456789abcdef.zstd.parquet".to_owned(), (true, true)),
            ("part-00000-80a083e8-7026-4e79-81be-64bd76c43a11-c000.snappy.parquet".to_owned(), (false, true)),
            ("t+0+7-0123456789abcde.parquet".to_owned(), (false, true)),
            ("t+0+7-0123456789abcdefa.parquet".to_owned(), (false, true)),
            ("deletion_vector_80a083e8-7026-4e79-81be-64bd76c43a11.bin".to_owned(), (false, false)),
            (format!("_delta_log/{own}"), (false, false)),
            (format!("p=1/_change_data/{own}"), (false, false)),
            (format!("p=1/.{own}"), (false, false)),
        ] {
            let found = (is_removable(&name, Removable::Own), is_removable(&name, Removable::All));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn paths_of_the_log_are_names_below_the_table_or_elsewhere() {
        assert_eq!(decoded("p=a%20b/x%25.parquet"), "p=a b/x%.parquet");
        for path in ["s3://b/t/x.parquet", "/data/t/x.parquet", "../x.parquet", "file:/x"] {
            assert!(is_elsewhere(path), "{path}");
        }
        assert!(!is_elsewhere("t=10:00/p=a%3Ab/x..y.parquet"));
        let mut candidates = Candidates::from([("a b".to_owned(), 1), ("c%20d".to_owned(), 1)]);
        forget(&mut candidates, "a%20b");
        forget(&mut candidates, "c%20d");
        assert!(candidates.is_empty(), "{candidates:?}");
    }
}
