//! Reading a table's newest version, over its checkpoints. deltalake keeps transactions per application and reads the log
//! anew for each, and its snapshot of them holds every file in memory; its kernel, on the same log store, tells all in one
//! pass and without files.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::schema::{DataType, StructField, StructType};
use delta_kernel::{Engine, Error as KernelError, Snapshot};
use deltalake_core::logstore::LogStore;
use serde::de::DeserializeOwned;
use url::Url;

use crate::action::Txn;
use crate::decide::TableState;
use crate::log::Log;

/// Why a table could not be read.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The store did not answer, or another request is worth a try.
    Unanswered(String),
    /// What is there cannot be read.
    Broken(String),
}

pub(crate) use delta_kernel::SnapshotRef;

/// The newest version of the table of `log`; `None` when there is no table.
pub(crate) async fn open(log: &Log) -> Result<Option<TableState>, OpenError> {
    Ok(open_with_txns(log).await?.map(|(state, _)| state))
}

/// As [`open`], with all that the table says of each application.
pub(crate) async fn open_with_txns(log: &Log) -> Result<Option<(TableState, Vec<Txn>)>, OpenError> {
    let url = log.root_url().clone();
    let found = in_kernel(log, move |engine| {
        let Some(snapshot) = build_newest(&url, engine)? else { return Ok(None) };
        let txns = transactions(&snapshot, engine)?;
        Ok(Some((snapshot, txns)))
    });
    let Some((snapshot, txns)) = found.await? else { return Ok(None) };
    let of_state = txns.iter().map(|txn| (txn.app_id.clone(), txn.version)).collect();
    Ok(Some((TableState { txns: of_state, ..described(&snapshot)? }, txns)))
}

/// As [`open`], without the applications, and what the kernel calls it.
pub(crate) async fn newest(log: &Log) -> Result<Option<(SnapshotRef, TableState)>, OpenError> {
    let url = log.root_url().clone();
    let snapshot = in_kernel(log, move |engine| build_newest(&url, engine)).await?;
    snapshot.map(|snapshot| Ok((snapshot.clone(), described(&snapshot)?))).transpose()
}

/// What the kernel calls the table's `version`.
pub(crate) async fn snapshot_at(log: &Log, version: u64) -> Result<SnapshotRef, OpenError> {
    let url = log.root_url().clone();
    in_kernel(log, move |engine| Snapshot::builder_for(url).at_version(version).build(engine)).await
}

fn build_newest(url: &Url, engine: &dyn Engine) -> Result<Option<SnapshotRef>, KernelError> {
    match Snapshot::builder_for(url).build(engine) {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(error) if is_no_table(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a snapshot says of itself; no applications.
fn described(snapshot: &Snapshot) -> Result<TableState, OpenError> {
    let configuration = snapshot.table_configuration();
    Ok(TableState {
        version: snapshot.version(),
        protocol: of_kernel(configuration.protocol())?,
        metadata: of_kernel(configuration.metadata())?,
        txns: BTreeMap::new(),
    })
}

/// The kernel keeps these to itself, but writes them as the protocol does.
fn of_kernel<T: DeserializeOwned>(part: &impl serde::Serialize) -> Result<T, OpenError> {
    let broken = |error: serde_json::Error| OpenError::Broken(error.to_string());
    serde_json::to_value(part).and_then(serde_json::from_value).map_err(broken)
}

/// Does `work`, which waits for the store, on a thread of its own.
pub(crate) async fn in_kernel<T: Send + 'static>(
    log: &Log,
    work: impl FnOnce(&dyn Engine) -> Result<T, KernelError> + Send + 'static,
) -> Result<T, OpenError> {
    let engine = log.engine(None);
    match tokio::task::spawn_blocking(move || work(engine.as_ref())).await {
        Ok(answer) => answer.map_err(|error| failed(&error)),
        Err(error) => Err(OpenError::Broken(format!("defect in sluice, please report it: {error}"))),
    }
}

/// The error itself, without the trace that RUST_BACKTRACE puts around it.
fn bare(error: &KernelError) -> &KernelError {
    match error {
        KernelError::Backtraced { source, .. } => bare(source),
        other => other,
    }
}

/// The kernel has no error of its own for this.
fn is_no_table(error: &KernelError) -> bool {
    matches!(bare(error), KernelError::Generic(text) if text == "No files in log segment")
}

fn failed(error: &KernelError) -> OpenError {
    match bare(error) {
        // A log that is cleaned up meanwhile lacks what was listed.
        error @ (KernelError::ObjectStore(_) | KernelError::IOError(_) | KernelError::FileNotFound(_)) => {
            OpenError::Unanswered(error.to_string())
        }
        other => OpenError::Broken(other.to_string()),
    }
}

/// How far each application got.
fn transactions(snapshot: &Snapshot, engine: &dyn Engine) -> Result<Vec<Txn>, KernelError> {
    let txn = StructType::new_unchecked([
        StructField::not_null("appId", DataType::STRING),
        StructField::not_null("version", DataType::LONG),
        StructField::nullable("lastUpdated", DataType::LONG),
    ]);
    let schema = Arc::new(StructType::new_unchecked([StructField::nullable("txn", txn)]));
    let mut found: BTreeMap<String, Txn> = BTreeMap::new();
    for actions in snapshot.log_segment().read_actions(engine, schema)? {
        let batch: RecordBatch = ArrowEngineData::try_from_engine_data(actions?.actions)?.into();
        let Some(txns) = batch.column_by_name("txn").and_then(|column| column.as_struct_opt()) else { continue };
        let ids = txns.column_by_name("appId").and_then(|column| column.as_string_opt::<i32>());
        let versions = txns.column_by_name("version").and_then(|column| column.as_primitive_opt::<Int64Type>());
        let times = txns.column_by_name("lastUpdated").and_then(|column| column.as_primitive_opt::<Int64Type>());
        let (Some(ids), Some(versions), Some(times)) = (ids, versions, times) else {
            return Err(KernelError::generic("the transactions of the log have other columns than the protocol says"));
        };
        for row in (0..txns.len()).filter(|row| txns.is_valid(*row)) {
            let app_id = ids.value(row).to_owned();
            let last_updated = times.is_valid(row).then(|| times.value(row));
            // The newest commit comes first.
            found.entry(app_id.clone()).or_insert(Txn { app_id, version: versions.value(row), last_updated });
        }
    }
    Ok(found.into_values().collect())
}
