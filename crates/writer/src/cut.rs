//! All open files of one lane's cut: rows first, then row groups, then parts of invisible uploads.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::StructArray;
use arrow::datatypes::{Schema, SchemaRef};
use futures::future::join_all;
use model::{Batch, Nonce, Offset, OffsetRange, Plan, TopicPartition, ValueSchema, Values};
use tracing::warn;

use crate::error::Error;
use crate::file_context::FileContext;
use crate::format::{self, Encoder, FileFooter, Mark};
use crate::held::{HeldRows, all_have_values, batch_identity};
use crate::publish::{Body, FinishedFile};
use crate::statistics::FileStatistics;
use crate::upload::{PartBuffer, Upload};

/// Under memory pressure a file with fewer bytes of rows than this is not encoded: its encoder would weigh as much.
const SPILL_BYTES_MIN: usize = 1024 * 1024;

/// The task gives way after so many files, because encoding never waits by itself.
const FILES_WITHOUT_A_PAUSE: usize = 32;

/// The rows of one topic-partition since its last cut, in one file for each path.
///
/// Dropping it leaves nothing visible; [`Self::abort`] also removes what was uploaded.
pub struct OpenCut {
    context: Arc<FileContext>,
    topic_partition: TopicPartition,
    nonce: Nonce,
    schema: Option<SchemaRef>,
    files: Vec<OpenFile>,
    by_path: HashMap<Arc<str>, usize>,
    /// Files with more rows than they should hold unencoded.
    full: Vec<usize>,
    /// Files that keep the batch alive of which they hold only a little, and that batch.
    loose: Vec<usize>,
    loose_batch: usize,
    rows: u64,
    encoded_anything: bool,
}

impl fmt::Debug for OpenCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenCut({}, {} files, {} rows)", self.topic_partition, self.files.len(), self.rows)
    }
}

struct OpenFile {
    key: String,
    path: Arc<str>,
    statistics: Option<FileStatistics>,
    first: Offset,
    /// What its first rows say of their schema beside its fields.
    value_schema: Option<Arc<ValueSchema>>,
    held: HeldRows,
    rows: u64,
    /// Rows, and their bytes in memory, in the row group that is under way.
    group_rows: usize,
    group_bytes: usize,
    encoder: Option<Box<dyn Encoder>>,
    encoded: PartBuffer,
    upload: Option<Upload>,
    bytes: u64,
}

impl OpenFile {
    fn encoder_bytes(&self) -> usize {
        self.encoder.as_ref().map_or(0, |encoder| encoder.held_bytes())
    }

    /// What encoding and ending the row group would free, at most.
    fn spillable_bytes(&self) -> usize {
        self.held.bytes() + self.encoder_bytes()
    }

    fn held_bytes(&self) -> usize {
        self.held.bytes()
            + self.held.overhead_bytes()
            + self.encoder_bytes()
            + self.encoded.bytes()
            + self.upload.as_ref().map_or(0, Upload::in_flight_bytes)
    }
}

impl OpenCut {
    /// A cut without rows. `nonce` will mark its objects; a replayed plan gives the one it was made with.
    pub fn new(context: Arc<FileContext>, topic_partition: TopicPartition, nonce: Nonce) -> OpenCut {
        OpenCut {
            context,
            topic_partition,
            nonce,
            schema: None,
            files: Vec::new(),
            by_path: HashMap::new(),
            full: Vec::new(),
            loose: Vec::new(),
            loose_batch: 0,
            rows: 0,
            encoded_anything: false,
        }
    }

    /// Appends rows that belong to `path`, in the order of their offsets, without a copy. An error leaves the cut as it
    /// was: the rows have no value, another schema than the cut, or a path that makes no object key.
    pub fn append(&mut self, rows: &Batch, path: &Arc<str>) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        self.accept(rows)?;
        let index = self.file_of(rows, path)?;
        let identity = batch_identity(rows);
        if identity != self.loose_batch {
            self.compact();
            self.loose_batch = identity;
        }
        let file = &mut self.files[index];
        if file.held.push(rows.values.clone()) && self.loose.last() != Some(&index) {
            self.loose.push(index);
        }
        file.rows += rows.len() as u64;
        self.rows += rows.len() as u64;
        let limits = self.context.limits;
        let is_group = file.group_rows + file.held.rows() >= limits.row_group_rows;
        if is_group || file.held.bytes() >= limits.rows_bytes.min(limits.row_group_bytes) {
            self.full.push(index);
        }
        Ok(())
    }

    /// Bytes of rows, encoded bytes and parts on their way: what the cut takes of the memory budget.
    pub fn held_bytes(&self) -> usize {
        self.files.iter().map(OpenFile::held_bytes).sum()
    }

    /// Number of files.
    pub fn open_files(&self) -> usize {
        self.files.len()
    }

    /// Whether there is a file for `path` already.
    pub fn has_file(&self, path: &str) -> bool {
        self.by_path.contains_key(path)
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Number of rows appended.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Marks its objects.
    pub fn nonce(&self) -> Nonce {
        self.nonce
    }

    /// Whether a row group was encoded: from then on the schema is fixed until the cut ends.
    pub fn encoded_anything(&self) -> bool {
        self.encoded_anything
    }

    /// Whether [`Self::spill`] has something to do even without memory pressure.
    pub fn has_full_row_group(&self) -> bool {
        !self.full.is_empty()
    }

    /// Copies rows that keep a much larger batch alive. The next batch does it by itself; for a lane that falls quiet.
    pub fn compact(&mut self) {
        for index in self.loose.drain(..) {
            self.files[index].held.compact();
        }
    }

    /// Brings all rows to a newer schema: `project` gives the same rows in the columns of `schema`, and `context` names
    /// that schema. Only while nothing is encoded.
    pub fn reschema(
        &mut self,
        context: Arc<FileContext>,
        schema: &Schema,
        project: &dyn Fn(&StructArray) -> StructArray,
    ) {
        assert!(!self.encoded_anything, "the schema is fixed once a row group is encoded");
        for file in &mut self.files {
            file.held.project(project);
        }
        self.schema = self.schema.is_some().then(|| Arc::new(Schema::new(schema.fields().clone())));
        self.context = context;
    }

    /// Encodes rows of large files and sends full parts; then, while more than `down_to_bytes` are held, those of the largest
    /// files too, and waits for parts on their way. May leave more than that: then only ending the cut frees memory.
    /// After [`Error::Transient`] nothing is lost, call again.
    pub async fn spill(&mut self, down_to_bytes: usize) -> Result<(), Error> {
        while let Some(index) = self.full.pop() {
            self.encode(index, false)?;
            self.send_full_parts(index).await?;
        }
        if self.held_bytes() <= down_to_bytes {
            return Ok(());
        }
        self.compact();
        for index in 0..self.files.len() {
            // What an earlier call could not send.
            self.send_full_parts(index).await?;
        }
        while self.held_bytes() > down_to_bytes {
            let largest = (0..self.files.len()).max_by_key(|index| self.files[*index].spillable_bytes());
            match largest.filter(|index| self.files[*index].spillable_bytes() >= SPILL_BYTES_MIN) {
                Some(index) => {
                    self.encode(index, true)?;
                    self.send_full_parts(index).await?;
                }
                None => break,
            }
        }
        while self.held_bytes() > down_to_bytes {
            let busy = self.files.iter_mut().filter_map(|file| file.upload.as_mut()).find(|upload| upload.is_busy());
            let Some(upload) = busy else { break };
            upload.acknowledged().await?;
        }
        Ok(())
    }

    /// Ends the cut, which covers `range` under `plan`: encodes the rest and waits until every part is there. Nothing
    /// becomes visible. The files come in the order of their first rows, and each says of itself what the plan is, so that
    /// any of them tells the whole cut. On an error uploads are aborted: read the cut again from its start.
    pub async fn finish(mut self, range: OffsetRange, plan: &Plan) -> Result<Vec<FinishedFile>, Error> {
        debug_assert_eq!((range.end(), self.nonce), (plan.end(), plan.nonce), "the plan of another cut");
        let whole = WholeCut { range, plan: plan.to_metadata() };
        let end = range.end();
        let mut finished = Vec::with_capacity(self.files.len());
        self.compact();
        for index in 0..self.files.len() {
            if index % FILES_WITHOUT_A_PAUSE == FILES_WITHOUT_A_PAUSE - 1 {
                tokio::task::yield_now().await;
            }
            if let Err(error) = self.finish_file(index, &whole).await {
                self.abort().await;
                return Err(error);
            }
        }
        let (context, topic_partition, nonce, schema) = (self.context, self.topic_partition, self.nonce, self.schema);
        for mut file in self.files {
            let range = OffsetRange::new(file.first, end).unwrap_or(OffsetRange::empty_at(file.first));
            let footer = footer(&context, &topic_partition, nonce, &file, Some(&whole));
            let body = match file.upload.take() {
                Some(upload) => Body::Upload(Box::new(upload)),
                None => Body::Put(file.encoded.take(usize::MAX)),
            };
            finished.push(FinishedFile {
                key: file.key,
                rows: file.rows,
                bytes: file.bytes,
                topic_partition: topic_partition.clone(),
                cut: whole.range,
                range,
                path: file.path,
                schema: schema.clone(),
                statistics: file.statistics,
                mark: Mark { nonce, end: Some(end), rows: Some(file.rows) },
                metadata: footer.to_metadata(),
                format: Arc::clone(&context.format),
                body,
            });
        }
        Ok(finished)
    }

    /// Removes what was uploaded. The rows are gone; nothing of them was visible.
    pub async fn abort(self) {
        join_all(self.files.into_iter().filter_map(|file| file.upload).map(Upload::abort)).await;
    }

    fn accept(&mut self, rows: &Batch) -> Result<(), Error> {
        let refuse =
            |reason: String| Err(Error::Rows { key: "a file".to_owned(), at: rows.position(0).to_string(), reason });
        if !all_have_values(&rows.values) {
            return refuse("a record without a value cannot be a row, see behavior.on.null.values".to_owned());
        }
        match (&rows.values, &self.schema) {
            (Values::Typed(columns), Some(schema)) if columns.fields() != &schema.fields => {
                refuse("the rows have another schema than the open cut".to_owned())
            }
            (Values::Typed(_), Some(_)) => Ok(()),
            (Values::Typed(columns), None) => {
                self.schema = Some(Arc::new(Schema::new(columns.fields().clone())));
                Ok(())
            }
            (Values::Schemaless(_), _) if self.context.format.needs_columns() => {
                refuse(format!("{} files need values with a schema", self.context.format.extension()))
            }
            (Values::Schemaless(_), _) => Ok(()),
        }
    }

    fn file_of(&mut self, rows: &Batch, path: &Arc<str>) -> Result<usize, Error> {
        if let Some(index) = self.by_path.get(path) {
            return Ok(*index);
        }
        let first = rows.offset(0);
        let key = (self.context.object_key)(&self.topic_partition, path, first);
        if let Err(error) = self.context.store.path("create", &key) {
            return Err(Error::Rows { key, at: rows.position(0).to_string(), reason: error.to_string() });
        }
        self.files.push(OpenFile {
            key,
            path: Arc::clone(path),
            statistics: None,
            first,
            value_schema: rows.schema.clone(),
            held: HeldRows::default(),
            rows: 0,
            group_rows: 0,
            group_bytes: 0,
            encoder: None,
            encoded: PartBuffer::default(),
            upload: None,
            bytes: 0,
        });
        self.by_path.insert(Arc::clone(path), self.files.len() - 1);
        Ok(self.files.len() - 1)
    }

    /// Makes one row group of all rows that the file holds.
    /// Encodes the rows that a file holds; the row group ends when it is full, or when `ends_group` says so.
    fn encode(&mut self, index: usize, ends_group: bool) -> Result<(), Error> {
        let limits = self.context.limits;
        let file = &mut self.files[index];
        file.group_rows += file.held.rows();
        file.group_bytes += file.held.bytes();
        if file.group_rows == 0 {
            return Ok(());
        }
        self.encoded_anything = true;
        let rows = file.held.take();
        let is_full = file.group_rows >= limits.row_group_rows || file.group_bytes >= limits.row_group_bytes;
        let ends_group = ends_group || is_full;
        if ends_group {
            (file.group_rows, file.group_bytes) = (0, 0);
        }
        let chunk =
            encode_rows(&self.context, &self.schema, file, &rows, ends_group, &self.topic_partition, self.nonce)
                .map_err(|reason| rows_error(&self.topic_partition, &self.files[index], reason))?;
        let file = &mut self.files[index];
        file.bytes += chunk.len() as u64;
        file.encoded.push(chunk);
        Ok(())
    }

    async fn send_full_parts(&mut self, index: usize) -> Result<(), Error> {
        let part_bytes = self.context.limits.part_bytes;
        while self.files[index].encoded.bytes() >= part_bytes {
            self.send_part(index, part_bytes).await?;
        }
        Ok(())
    }

    async fn send_part(&mut self, index: usize, bytes: usize) -> Result<(), Error> {
        let footer = footer(&self.context, &self.topic_partition, self.nonce, &self.files[index], None);
        let file = &mut self.files[index];
        let upload = match &mut file.upload {
            Some(upload) => upload,
            None => file.upload.insert(Upload::begin(&self.context.store, &file.key, &footer).await?),
        };
        upload.send(file.encoded.take(bytes)).await
    }

    async fn finish_file(&mut self, index: usize, whole: &WholeCut) -> Result<(), Error> {
        self.encode(index, false)?;
        let footer = footer(&self.context, &self.topic_partition, self.nonce, &self.files[index], Some(whole));
        let file = &mut self.files[index];
        let Some(mut encoder) = file.encoder.take() else { return Ok(()) };
        let last = encoder.finish(&footer).map_err(|reason| rows_error(&self.topic_partition, file, reason))?;
        file.statistics = encoder.statistics();
        file.bytes += last.len() as u64;
        file.encoded.push(last);
        if self.files[index].upload.is_none() {
            return Ok(());
        }
        while let Err(error) = self.send_rest(index).await {
            if !error.is_transient() {
                return Err(error);
            }
            warn!(key = %self.files[index].key, %error, "store does not answer, sending parts again");
            tokio::time::sleep(self.context.store.rules().redelivery).await;
        }
        Ok(())
    }

    async fn send_rest(&mut self, index: usize) -> Result<(), Error> {
        self.send_full_parts(index).await?;
        if self.files[index].encoded.bytes() > 0 {
            self.send_part(index, usize::MAX).await?;
        }
        match &mut self.files[index].upload {
            Some(upload) => upload.settle().await,
            None => Ok(()),
        }
    }
}

fn encode_rows(
    context: &FileContext,
    schema: &Option<SchemaRef>,
    file: &mut OpenFile,
    rows: &[Values],
    ends_group: bool,
    topic_partition: &TopicPartition,
    nonce: Nonce,
) -> Result<bytes::Bytes, String> {
    if file.encoder.is_none() {
        let schema = schema.clone().unwrap_or_else(|| Arc::new(Schema::empty()));
        let footer = footer(context, topic_partition, nonce, file, None);
        file.encoder = Some(context.format.open(&schema, file.value_schema.as_deref(), &footer)?);
    }
    let encoder = file.encoder.as_mut().ok_or("no encoder")?;
    encoder.write(rows)?;
    if ends_group {
        encoder.end_group()?;
    }
    encoder.take()
}

/// What is known of a cut when it takes no more rows.
struct WholeCut {
    range: OffsetRange,
    /// The plan as it is committed.
    plan: String,
}

fn rows_error(topic_partition: &TopicPartition, file: &OpenFile, reason: String) -> Error {
    Error::Rows { key: file.key.clone(), at: topic_partition.at(file.first).to_string(), reason }
}

/// What a file says of itself; what only the end knows is left out before it.
fn footer(
    context: &FileContext,
    topic_partition: &TopicPartition,
    nonce: Nonce,
    file: &OpenFile,
    whole: Option<&WholeCut>,
) -> FileFooter {
    let mut entries = vec![
        (format::NONCE, nonce.to_string()),
        (format::TOPIC, topic_partition.topic.to_string()),
        (format::PARTITION, topic_partition.partition.to_string()),
        (format::START, file.first.to_string()),
    ];
    if let Some(WholeCut { range, plan }) = whole {
        entries.push((format::END, range.end().to_string()));
        entries.push((format::ROWS, file.rows.to_string()));
        entries.push((format::CUT, range.start().to_string()));
        entries.push((format::PLAN, plan.clone()));
    }
    if !context.schema.is_empty() {
        entries.push((format::SCHEMA, context.schema.to_string()));
    }
    entries.push((format::CONFIG, context.config.to_string()));
    FileFooter { entries }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, batch, context, nested_rows, noisy_rows, read_parquet};
    use crate::error::PublishError;
    use crate::faulty::{Fate, FaultyStore, Request};
    use crate::held::slice_bytes;
    use crate::publish::{Committer, ObjectCommitter, OnExisting};
    use crate::store::{Abilities, RetryRules, Store};
    use arrow::array::{Array, Int64Array};
    use arrow::datatypes::{DataType, Field};
    use object_store::ObjectStore;
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    const FULL: Abilities = Abilities { metadata: true, conditional: true };
    const MIB: usize = 1024 * 1024;

    fn memory() -> Store {
        Store::with(Arc::new(InMemory::new()), "memory", FULL, RetryRules::default(), 1)
    }

    fn faulty(fates: impl Fn(Request, &str) -> Fate + Send + Sync + 'static) -> (FaultyStore, Store) {
        let objects = FaultyStore::new(Arc::new(InMemory::new()), fates);
        let store = Store::with(Arc::new(objects.clone()), "faulty", FULL, RetryRules::default(), 1);
        (objects, store)
    }

    fn lane() -> TopicPartition {
        TopicPartition::new("t", 0)
    }

    fn end(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_object_committer_conforms_over_every_store() {
        let rules = RetryRules::default();
        let unconditional = Abilities { metadata: true, conditional: false };
        for store in [memory(), Store::with(Arc::new(InMemory::new()), "unconditional", unconditional, rules, 1)] {
            conformance::committer(&ObjectCommitter::new(store.clone(), OnExisting::Fail), &store, "c").await;
        }
        let directory = tempfile::tempdir().unwrap();
        let files: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(directory.path()).unwrap());
        let store = Store::with(files, "files", Abilities { metadata: false, conditional: true }, rules, 1);
        conformance::committer(&ObjectCommitter::new(store.clone(), OnExisting::Fail), &store, "c").await;
        let seen: Mutex<HashMap<(Request, String), usize>> = Mutex::default();
        let (objects, store) = faulty(move |request, key| {
            let mut seen = seen.lock().unwrap();
            let turn = seen.entry((request, key.to_owned())).or_default();
            *turn += 1;
            // Of three tries of anything one is answered; what the others did is another matter.
            let fates = [
                Fate::FailAfter,
                Fate::HangThenHappen(Duration::from_secs(90)),
                Fate::Fine,
                Fate::FailBefore,
                Fate::Throttled,
            ];
            match request {
                Request::PutPart | Request::AbortUpload => Fate::Slow(Duration::from_secs(1)),
                Request::CompleteUpload => Fate::FailAfter,
                // One that happened unheard has a name that nobody knows: the bucket's lifecycle rule removes it.
                Request::CreateUpload if !turn.is_multiple_of(3) => Fate::FailBefore,
                _ => fates.into_iter().cycle().nth(*turn - 1).filter(|_| !turn.is_multiple_of(3)).unwrap_or(Fate::Fine),
            }
        });
        conformance::committer(&ObjectCommitter::new(store.clone(), OnExisting::Fail), &store, "c").await;
        assert_eq!(objects.replaced(), Vec::<String>::new());
        assert_eq!(objects.open_uploads(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_thousand_open_files_cost_their_rows_and_little_more() {
        let mut cut = OpenCut::new(context(&memory(), "x"), lane(), Nonce(1));
        let mut rows_bytes = 0;
        let paths: Vec<Arc<str>> = (0..1_000).map(|path| format!("path={path}").into()).collect();
        for round in 0..5 {
            // Each batch is ten times what its rows here need, as when the rest of it went elsewhere.
            let whole = nested_rows(round * 10_000, 10_000);
            let all = batch(&lane(), round * 10_000, whole);
            for (index, path) in paths.iter().enumerate() {
                let rows = all.slice(index * 10, 2);
                let Values::Typed(columns) = &rows.values else { unreachable!() };
                rows_bytes += slice_bytes(columns);
                cut.append(&rows, path).unwrap();
            }
            cut.spill(usize::MAX).await.unwrap();
        }
        assert_eq!((cut.open_files(), cut.rows()), (1_000, 10_000));
        assert!(!cut.encoded_anything());
        let overhead: usize = cut.files.iter().map(|file| file.held.overhead_bytes()).sum();
        let held = cut.held_bytes() - overhead;
        assert!(held <= rows_bytes + rows_bytes / 10, "{held} for {rows_bytes}");
        assert!(overhead <= 1_000 * 16 * 1024, "{overhead} bytes beside the rows of a thousand files");
        cut.compact();
        let pinned: usize = cut.files.iter().map(|file| file.held.pinned_bytes()).sum();
        assert!(pinned < 8 * rows_bytes, "{pinned} bytes kept alive for {rows_bytes}");
        let files = conformance::finish(cut, 0, 50_000).await.unwrap();
        assert!(files.iter().all(|file| file.rows == 10 && !file.is_multipart() && file.bytes < 8 * 1024));
    }

    #[tokio::test]
    async fn parts_go_up_while_the_file_grows_and_memory_stays_bounded() {
        let store = memory();
        let mut cut = OpenCut::new(context(&store, "x"), lane(), Nonce(1));
        let mut held_max = 0;
        for from in (0..100_000).step_by(1_000) {
            cut.append(&batch(&lane(), from, noisy_rows(from, 1_000, 1_024)), &"p".into()).unwrap();
            cut.spill(12 * MIB).await.unwrap();
            held_max = held_max.max(cut.held_bytes());
        }
        assert!(held_max <= 12 * MIB, "{held_max}");
        let files = conformance::finish(cut, 0, 100_000).await.unwrap();
        assert!(files[0].is_multipart() && files[0].bytes > 100_000 * 1_024);
        let key = files[0].key.clone();
        ObjectCommitter::new(store.clone(), OnExisting::Fail).publish(files).await.unwrap();
        let object = store.read(&key).await.unwrap().unwrap();
        let mark = context(&store, "x").format.mark_of(&object).unwrap();
        assert_eq!(mark, Mark { nonce: Nonce(1), end: Some(end(100_000)), rows: Some(100_000) });
        assert_eq!(read_parquet(object).len(), 100_000);
    }

    #[tokio::test]
    async fn a_replay_that_was_spilled_elsewhere_is_the_same_object() {
        for metadata in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let store = if metadata {
                memory()
            } else {
                let files: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(directory.path()).unwrap());
                Store::with(files, "files", Abilities { metadata, conditional: true }, RetryRules::default(), 1)
            };
            for spill in [usize::MAX, 0] {
                let mut cut = OpenCut::new(context(&store, "x"), lane(), Nonce(1));
                for from in [0, 2_000] {
                    cut.append(&batch(&lane(), from, noisy_rows(from, 2_000, 600)), &"p".into()).unwrap();
                    cut.spill(spill).await.unwrap();
                }
                assert_eq!(cut.encoded_anything(), spill == 0);
                let published = ObjectCommitter::new(store.clone(), OnExisting::Fail)
                    .publish(conformance::finish(cut, 0, 4_000).await.unwrap())
                    .await
                    .unwrap();
                assert_eq!(published[0].already_there, spill == 0);
            }
        }
    }

    #[tokio::test]
    async fn rows_that_cannot_be_written_are_refused_and_the_cut_goes_on() {
        let mut cut = OpenCut::new(context(&memory(), "x"), lane(), Nonce(1));
        cut.append(&batch(&lane(), 0, nested_rows(0, 1)), &"p".into()).unwrap();
        let refused =
            |cut: &mut OpenCut, rows: &Batch, path: &str| cut.append(rows, &path.into()).unwrap_err().to_string();
        let text = refused(&mut cut, &batch(&lane(), 7, nested_rows(0, 1)), "a//b");
        assert!(text.contains("t-0@7") && text.contains("empty parts"), "{text}");
        assert!(refused(&mut cut, &batch(&lane(), 8, noisy_rows(0, 1, 1)), "p").contains("another schema"));
        let text = Values::Schemaless(arrow::array::BinaryArray::from_iter_values([b"{}"]));
        let schemaless = Batch { values: text, ..batch(&lane(), 9, nested_rows(0, 1)) };
        assert!(refused(&mut cut, &schemaless, "p").contains("need values with a schema"));
        let nulls = Values::Typed(StructArray::new_null(nested_rows(0, 1).fields().clone(), 1));
        let tombstone = Batch { values: nulls, ..batch(&lane(), 9, nested_rows(0, 1)) };
        assert!(refused(&mut cut, &tombstone, "p").contains("behavior.on.null.values"));
        assert_eq!((cut.rows(), cut.open_files()), (1, 1));
    }

    /// `cargo test --release -p writer small_file_cost -- --ignored --nocapture`
    #[tokio::test]
    #[ignore = "a measurement"]
    #[expect(clippy::print_stderr, reason = "its figures are its result")]
    async fn small_file_cost() {
        let store = memory();
        let context = context(&store, "x");
        let committer = ObjectCommitter::new(store.clone(), OnExisting::Fail);
        let all = batch(&lane(), 0, nested_rows(0, 16_384));
        let path: Arc<str> = "p".into();
        let start = std::time::Instant::now();
        let mut encoded = Duration::ZERO;
        for from in (0..16_384).step_by(2) {
            let mut cut = OpenCut::new(Arc::clone(&context), lane(), Nonce(1));
            cut.append(&all.slice(from, 2), &path).unwrap();
            cut.spill(usize::MAX).await.unwrap();
            let before = std::time::Instant::now();
            let files = conformance::finish(cut, 0, from as i64 + 2).await.unwrap();
            encoded += before.elapsed();
            committer.publish(files).await.unwrap();
        }
        eprintln!("8192 files of 2 rows: {:?}, of it finish {encoded:?}", start.elapsed());
        let rows: Vec<Values> = (0..16).map(|part| Values::Typed(nested_rows(part * 16_384, 16_384))).collect();
        let schema = Arc::new(Schema::new(nested_rows(0, 1).fields().clone()));
        let before = std::time::Instant::now();
        let mut encoder = context.format.open(&schema, None, &FileFooter::default()).unwrap();
        encoder.write(&rows).unwrap();
        let bytes = encoder.finish(&FileFooter::default()).unwrap().len();
        eprintln!("262144 rows in one row group: {:?}, {bytes} bytes", before.elapsed());
    }

    #[tokio::test]
    async fn held_rows_follow_a_newer_schema() {
        let numbers = |names: &[&str], rows: i64| {
            let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
            let column = || Arc::new(Int64Array::from_iter_values(0..rows)) as arrow::array::ArrayRef;
            StructArray::new(fields.into(), names.iter().map(|_| column()).collect(), None)
        };
        let store = memory();
        let mut cut = OpenCut::new(context(&store, "x"), lane(), Nonce(1));
        cut.append(&batch(&lane(), 0, numbers(&["a"], 3)), &"p".into()).unwrap();
        let wide = numbers(&["a", "b"], 2);
        let schema = Schema::new(wide.fields().clone());
        cut.reschema(context(&store, "x"), &schema, &|rows| {
            let missing = arrow::array::new_null_array(&DataType::Int64, rows.len());
            StructArray::new(schema.fields().clone(), vec![Arc::clone(rows.column(0)), missing], None)
        });
        cut.append(&batch(&lane(), 3, wide), &"p".into()).unwrap();
        let files = conformance::finish(cut, 0, 5).await.unwrap();
        let key = files[0].key.clone();
        ObjectCommitter::new(store.clone(), OnExisting::Fail).publish(files).await.unwrap();
        let rows = read_parquet(store.read(&key).await.unwrap().unwrap());
        assert_eq!((rows.len(), rows.column(1).null_count()), (5, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_part_loses_the_upload_and_a_refused_one_says_what_to_do() {
        for (fate, lost) in
            [(Fate::FailBefore, true), (Fate::FailAfter, true), (Fate::Hang, true), (Fate::Denied, false)]
        {
            let (objects, store) =
                faulty(move |request, _| if request == Request::PutPart { fate } else { Fate::Fine });
            let mut cut = OpenCut::new(context(&store, "x"), lane(), Nonce(1));
            cut.append(&batch(&lane(), 0, noisy_rows(0, 8_000, 1_024)), &"p".into()).unwrap();
            let error = match cut.spill(0).await {
                Err(error) => {
                    cut.abort().await;
                    error
                }
                Ok(()) => conformance::finish(cut, 0, 8_000).await.unwrap_err(),
            };
            assert_eq!(matches!(error, Error::Lost { .. }), lost, "{error}");
            assert_eq!(matches!(error, Error::Permanent { .. }), !lost, "{error}");
            assert_eq!(objects.open_uploads(), Vec::<String>::new());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_comes_back_gets_the_same_files() {
        let down = Arc::new(AtomicU32::new(1));
        let is_down = Arc::clone(&down);
        let (objects, store) = faulty(move |request, _| match (request, is_down.load(Ordering::SeqCst)) {
            (Request::Put, 1) => Fate::Throttled,
            _ => Fate::Fine,
        });
        let mut cut = OpenCut::new(context(&store, "x"), lane(), Nonce(1));
        cut.append(&batch(&lane(), 0, nested_rows(0, 10)), &"p".into()).unwrap();
        let committer = ObjectCommitter::new(store.clone(), OnExisting::Fail);
        let files = conformance::finish(cut, 0, 10).await.unwrap();
        let files = match committer.publish(files).await {
            Err(PublishError::Transient { files, source }) => {
                assert!(source.to_string().contains("after 3 attempts"), "{source}");
                files
            }
            other => panic!("{other:?}"),
        };
        down.store(0, Ordering::SeqCst);
        assert!(!committer.publish(files).await.unwrap()[0].already_there);
        assert_eq!(objects.count(Request::Put), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_completion_that_is_lost_asks_for_a_replay_and_one_that_happened_is_found() {
        for (fate, found) in [(Fate::FailAfter, true), (Fate::FailBefore, false), (Fate::Hang, false)] {
            let (objects, store) =
                faulty(move |request, _| if request == Request::CompleteUpload { fate } else { Fate::Fine });
            let mut cut = OpenCut::new(context(&store, "x"), lane(), Nonce(1));
            cut.append(&batch(&lane(), 0, noisy_rows(0, 8_000, 1_024)), &"p".into()).unwrap();
            cut.spill(0).await.unwrap();
            let outcome = ObjectCommitter::new(store.clone(), OnExisting::Fail)
                .publish(conformance::finish(cut, 0, 8_000).await.unwrap())
                .await;
            match outcome {
                Ok(published) => assert!(found && !published[0].already_there),
                Err(error) => assert!(!found && matches!(error, PublishError::Lost { .. }), "{error}"),
            }
            assert_eq!(objects.open_uploads(), Vec::<String>::new());
        }
    }
}
