//! Makes the files that lanes share: the rows of each path are encoded once and become one object.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::warn;
use writer::{
    Committer, Error, FileRows, FinishedFile, ObjectCommitter, OnExisting, PublishError, PublishedFile, Store,
};

use crate::batch::{Batch, FILE_ROWS_BYTES, Part};
use crate::columns::{Fit, Of, columns_for, fit};
use crate::table::{NewFile, NewRows, TableOptions};

/// Bytes of rows that are encoded at the same time.
const ROWS_BYTES_AT_ONCE: usize = FILE_ROWS_BYTES;

/// Files that are encoded or uploaded at the same time.
const FILES_AT_ONCE: usize = 16;

/// What bytes are counted in where they are limited.
const KIB: usize = 1024;

/// Makes the files that lanes share.
pub(crate) struct FileMaker {
    objects: ObjectCommitter,
    location: Arc<str>,
    redelivery: Duration,
    now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
    encoded: Encoded,
    /// KiB of rows that may be encoded.
    room: Arc<Semaphore>,
}

impl FileMaker {
    /// A maker of files of the table of `options` in `store`.
    pub(crate) fn new(store: &Store, options: &TableOptions) -> FileMaker {
        FileMaker {
            objects: ObjectCommitter::new(store.clone(), OnExisting::Fail),
            location: options.location.as_str().into(),
            redelivery: store.rules().redelivery,
            now_ms: options.now_ms.clone(),
            encoded: Encoded { total: Arc::default(), tell: options.encoded.clone() },
            room: Arc::new(Semaphore::new(ROWS_BYTES_AT_ONCE / KIB)),
        }
    }

    /// How long to wait before a store that does not answer is asked again.
    pub(crate) fn redelivery(&self) -> Duration {
        self.redelivery
    }

    /// Puts all rows of `batch` that wait and are in no file into new ones, which have the columns of `table`. What cannot be
    /// in a file is answered. Ends early when nobody waits any more.
    pub(crate) async fn make_files(&self, batch: &mut Batch, table: &Value) {
        let mut jobs = JoinSet::new();
        for parts in batch.lacking() {
            let job = self.job(batch, &parts, table);
            jobs.spawn(async move { (parts, job.make().await) });
        }
        while !jobs.is_empty() {
            let made = tokio::select! {
                biased;
                made = jobs.join_next() => made,
                () = sleep(self.redelivery) => {
                    batch.forget_gone();
                    if batch.is_answered() {
                        return;
                    }
                    continue;
                }
            };
            let (parts, outcome) = match made {
                Some(Ok(made)) => made,
                None => continue,
                Some(Err(error)) => {
                    let everybody: Vec<Part> = batch.waiting().map(|(number, _)| (number, 0)).collect();
                    return batch.refuse_owners(&everybody, &format!("defect in sluice, please report it: {error}"));
                }
            };
            match outcome {
                // Else it would be made again and again.
                Ok((file, published)) => match fit(table, &file.schema, Of::File, false) {
                    Ok(Fit::Fits) => batch.add_file(parts, file, published),
                    Ok(Fit::Grows(_)) => batch.refuse_owners(&parts, "a file has columns that the table lacks"),
                    Err(why) => batch.refuse_owners(&parts, &format!("a file does not fit the table: {why}")),
                },
                Err(why) => batch.refuse_owners(&parts, &why),
            }
        }
    }

    fn job(&self, batch: &Batch, parts: &[Part], table: &Value) -> Job {
        let rows: Vec<&NewRows> = parts.iter().map(|part| batch.rows(*part)).collect();
        let mut schemas: Vec<SchemaRef> = Vec::new();
        for rows in &rows {
            if !schemas.contains(&rows.schema) {
                schemas.push(rows.schema.clone());
            }
        }
        Job {
            objects: self.objects.clone(),
            location: self.location.clone(),
            redelivery: self.redelivery,
            now_ms: self.now_ms.clone(),
            room: self.room.clone(),
            held: self.encoded.share(),
            columns: columns_for(table, &schemas),
            partition_values: rows.first().map(|rows| rows.partition_values.clone()).unwrap_or_default(),
            rows: rows.into_iter().map(|rows| rows.rows.clone()).collect(),
        }
    }
}

/// One file to be made.
struct Job {
    objects: ObjectCommitter,
    location: Arc<str>,
    redelivery: Duration,
    now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
    room: Arc<Semaphore>,
    held: EncodedShare,
    columns: SchemaRef,
    partition_values: Map<String, Value>,
    rows: Vec<FileRows>,
}

/// A file, or why there is none.
type Made = Result<(NewFile, PublishedFile), String>;

impl Job {
    /// Makes one object.
    async fn make(self) -> Made {
        let weight = self.rows.iter().map(FileRows::bytes).sum::<usize>();
        let weight = weight.clamp(ROWS_BYTES_AT_ONCE / FILES_AT_ONCE, ROWS_BYTES_AT_ONCE) / KIB;
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let _room = self.room.acquire_many(weight).await.map_err(|error| error.to_string())?;
        loop {
            let written_ms = (self.now_ms)();
            let finished = self.encode().await?;
            let name = finished.key.strip_prefix(&*self.location).unwrap_or(&finished.key);
            let (Some(statistics), Some(schema)) = (finished.statistics.clone(), finished.schema.clone()) else {
                return Err(format!("the format of {} tells no statistics", finished.key));
            };
            let file = NewFile {
                name: name.trim_start_matches('/').to_owned(),
                bytes: finished.bytes,
                schema,
                partition_values: self.partition_values.clone(),
                statistics,
                written_ms,
            };
            if let Some(published) = self.publish(finished).await? {
                return Ok((file, published));
            }
        }
    }

    async fn encode(&self) -> Result<FinishedFile, String> {
        let Some((first, others)) = self.rows.split_first() else { return Err("a file needs rows".to_owned()) };
        loop {
            match first.encode_with(others, &self.columns, &|bytes| self.held.resize(bytes)).await {
                Ok(finished) => return Ok(finished),
                Err(error @ (Error::Rows { .. } | Error::Permanent { .. })) => return Err(error.to_string()),
                Err(error @ (Error::Lost { .. } | Error::Transient(_))) => {
                    warn!(%error, "encoding a shared file again");
                    sleep(self.redelivery).await;
                }
            }
        }
    }

    /// Makes an object of the file; `None` when it is lost and must be encoded again.
    async fn publish(&self, file: FinishedFile) -> Result<Option<PublishedFile>, String> {
        let mut files = vec![file];
        loop {
            match self.objects.publish(files).await {
                Ok(mut published) => return Ok(published.pop()),
                Err(PublishError::Transient { files: again, source }) => {
                    warn!(error = %source, "store does not answer, publishing a shared file again");
                    files = again;
                    sleep(self.redelivery).await;
                }
                Err(error @ PublishError::Lost { .. }) => {
                    warn!(%error, "encoding a shared file again");
                    return Ok(None);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// What all files that are being made take of memory beside their rows.
#[derive(Clone)]
struct Encoded {
    total: Arc<Mutex<usize>>,
    tell: Arc<dyn Fn(usize) + Send + Sync>,
}

impl Encoded {
    fn share(&self) -> EncodedShare {
        EncodedShare { all: self.clone(), bytes: Mutex::new(0) }
    }
}

/// One file's part of it; given back when dropped.
struct EncodedShare {
    all: Encoded,
    bytes: Mutex<usize>,
}

impl EncodedShare {
    fn resize(&self, bytes: usize) {
        let mut mine = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = self.all.total.lock().unwrap_or_else(PoisonError::into_inner);
        *total = *total - *mine + bytes;
        *mine = bytes;
        (self.all.tell)(*total);
    }
}

impl Drop for EncodedShare {
    fn drop(&mut self) {
        self.resize(0);
    }
}
