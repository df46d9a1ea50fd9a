//! Files that lanes share: the rows of a commit's cuts by path, each path encoded once and uploaded as one object.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};
use writer::{
    Committer, Error, FileRows, FinishedFile, ObjectCommitter, OnExisting, PublishError, PublishedFile, Store,
};

use crate::columns::columns_for;
use crate::decide::is_whole;
use crate::table::{CommitError, Committed, NewFile, NewRows, Proposal, TableOptions};

/// Bytes of rows in memory after which another file begins: some tens of megabytes of Parquet.
const FILE_ROWS_BYTES: usize = 128 * 1024 * 1024;

/// Bytes of rows that are encoded at the same time.
const ROWS_BYTES_AT_ONCE: usize = FILE_ROWS_BYTES;

/// Files that are encoded or uploaded at the same time.
const FILES_AT_ONCE: usize = 16;

/// What bytes are counted in where they are limited.
const KIB: usize = 1024;

pub(crate) type Answer = Result<Committed, CommitError>;

/// What lanes want in one commit, and the files that they share.
pub(crate) struct Batch {
    entries: Vec<Entry>,
    shared: Vec<SharedFile>,
    /// When the first of them asked.
    pub(crate) since: Instant,
}

struct Entry {
    proposal: Proposal,
    /// Until it is answered.
    reply: Option<oneshot::Sender<Answer>>,
}

/// Rows of a proposal: its number, and theirs among its rows.
type Part = (usize, usize);

struct SharedFile {
    parts: Vec<Part>,
    file: NewFile,
    published: PublishedFile,
}

impl Batch {
    /// A batch of proposals of different applications; no file is made yet.
    pub(crate) fn new(proposals: Vec<(Proposal, oneshot::Sender<Answer>)>, since: Instant) -> Batch {
        let entries = proposals.into_iter().map(|(proposal, reply)| Entry { proposal, reply: Some(reply) });
        Batch { entries: entries.collect(), shared: Vec::new(), since }
    }

    /// The proposals that are not answered, each with its number.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (usize, &Proposal)> {
        let waiting = self.entries.iter().enumerate().filter(|(_, entry)| entry.reply.is_some());
        waiting.map(|(number, entry)| (number, &entry.proposal))
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.waiting().next().is_none()
    }

    /// Lanes that are gone want nothing any more.
    pub(crate) fn forget_gone(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.reply.as_ref().is_some_and(|reply| reply.is_closed()))
        {
            entry.reply = None;
        }
    }

    /// Answers the proposal `number`: it is in `version`.
    pub(crate) fn done(&mut self, number: usize, version: u64) {
        let shared = self.published(number);
        self.answer(number, Ok(Committed { version, shared }));
    }

    /// Answers the proposal `number`: it is not in the table.
    pub(crate) fn refuse(&mut self, number: usize, error: CommitError) {
        self.answer(number, Err(error));
    }

    /// Answers some proposals by their numbers, each with the version that it is in.
    pub(crate) fn answer_all(&mut self, answers: Vec<(usize, Result<u64, CommitError>)>) {
        for (number, answer) in answers {
            match answer {
                Ok(version) => self.done(number, version),
                Err(error) => self.refuse(number, error),
            }
        }
    }

    fn refuse_owners(&mut self, parts: &[Part], why: &str) {
        for (number, _) in parts {
            self.refuse(*number, CommitError::Refused(why.to_owned()));
        }
    }

    fn answer(&mut self, number: usize, answer: Answer) {
        let entry = &mut self.entries[number];
        entry.proposal.rows = Vec::new();
        if let Some(reply) = entry.reply.take() {
            let _ = reply.send(answer);
        }
    }

    /// What became of the rows of a proposal. Each file is counted by the first that has rows in it.
    fn published(&self, number: usize) -> Vec<PublishedFile> {
        let parts = self.shared.iter().flat_map(|file| file.parts.iter().map(move |part| (file, *part)));
        let own = parts.filter(|(_, (owner, _))| *owner == number);
        own.map(|(file, part)| {
            let rows = self.rows(part).rows.rows();
            let is_counted_elsewhere = file.parts.first() != Some(&part);
            PublishedFile { rows, records: rows, is_counted_elsewhere, ..file.published.clone() }
        })
        .collect()
    }

    fn rows(&self, (number, rows): Part) -> &NewRows {
        &self.entries[number].proposal.rows[rows]
    }

    /// Keeps the files whose proposals all wait for an answer and which `fits` the table as they are. The rows of others need
    /// new files; the old ones are left to whoever vacuums the table.
    pub(crate) fn keep_whole_files(&mut self, fits: impl Fn(&NewFile) -> bool) {
        let waits: Vec<bool> = self.entries.iter().map(|entry| entry.reply.is_some()).collect();
        self.shared.retain(|shared| {
            let is_kept = is_whole(shared.parts.iter().map(|(number, _)| *number), &waits) && fits(&shared.file);
            if !is_kept {
                debug!(name = shared.file.name, "a shared file is not committed");
            }
            is_kept
        });
    }

    /// Whether rows that wait are in no file.
    pub(crate) fn lacks_files(&self) -> bool {
        let wanted: usize = self.waiting().map(|(_, proposal)| proposal.rows.len()).sum();
        wanted > self.shared.iter().map(|shared| shared.parts.len()).sum()
    }

    /// The files of all proposals that wait.
    pub(crate) fn files(&self) -> impl Iterator<Item = &NewFile> {
        let own = self.waiting().flat_map(|(_, proposal)| &proposal.files);
        own.chain(self.shared.iter().map(|shared| &shared.file))
    }

    /// Rows that wait and are in no file, those that one file may take together.
    fn lacking(&self) -> Vec<Vec<Part>> {
        let have: Vec<Part> = self.shared.iter().flat_map(|shared| shared.parts.iter().copied()).collect();
        let mut by_path: BTreeMap<&str, Vec<(usize, Vec<Part>)>> = BTreeMap::new();
        for (number, proposal) in self.waiting() {
            for (at, rows) in proposal.rows.iter().enumerate().filter(|(at, _)| !have.contains(&(number, *at))) {
                let files = by_path.entry(rows.rows.path()).or_default();
                match files.last_mut().filter(|(bytes, _)| bytes + rows.rows.bytes() <= FILE_ROWS_BYTES) {
                    Some((bytes, parts)) => {
                        *bytes += rows.rows.bytes();
                        parts.push((number, at));
                    }
                    None => files.push((rows.rows.bytes(), vec![(number, at)])),
                }
            }
        }
        by_path.into_values().flatten().map(|(_, parts)| parts).collect()
    }
}

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
                Ok((file, published)) => batch.shared.push(SharedFile { parts, file, published }),
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
