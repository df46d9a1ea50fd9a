//! All open files of one lane's cut.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::StructArray;
use arrow::datatypes::{Fields, Schema, SchemaRef};
use futures::future::join_all;
use model::{Batch, Nonce, OffsetRange, Plan, TopicPartition, ValueSchema, Values};

use crate::error::Error;
use crate::file_context::FileContext;
use crate::held::{all_have_values, batch_identity};
use crate::open_file::{OpenFile, Whole, Whose};
use crate::partition::is_of_tombstones;
use crate::publish::FinishedFile;
use crate::upload::Upload;
use crate::views::View;

/// Under memory pressure a file with fewer bytes of rows than this is not encoded: its encoder would weigh as much.
const SPILL_BYTES_MIN: usize = 1024 * 1024;

/// The task gives way after so many files, because encoding never waits by itself.
const FILES_WITHOUT_A_PAUSE: usize = 32;

/// The rows of one topic-partition since its last cut, in one file for each schema and path, and beside each the files of
/// its other views ([`crate::Views`]), opened with it.
///
/// Dropping it leaves nothing visible; [`Self::abort`] also removes what was uploaded.
pub struct OpenCut {
    whose: Whose,
    /// How files of the rows are made that come next.
    context: Arc<FileContext>,
    /// What its rows are.
    kinds: Vec<Kind>,
    files: Vec<OpenFile>,
    /// The first file of each kind and path; those of its other views follow it.
    by_place: HashMap<(usize, Arc<str>), usize>,
    /// Files with more rows than they should hold unencoded.
    full: Vec<usize>,
    /// Files that keep the batch alive of which they hold only a little, and that batch.
    loose: Vec<usize>,
    loose_batch: usize,
    rows: u64,
    encoded_anything: bool,
}

/// Rows of one schema, whose other views have one schema each: how their files are made, and their columns once a row came.
struct Kind {
    context: Arc<FileContext>,
    schema: Option<SchemaRef>,
    beside: Vec<Beside>,
}

/// A view beside values.
struct Beside {
    view: View,
    context: Arc<FileContext>,
    /// Empty where its rows are schemaless.
    schema: SchemaRef,
}

impl fmt::Debug for OpenCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenCut({}, {} files, {} rows)", self.whose.topic_partition, self.files.len(), self.rows)
    }
}

impl OpenCut {
    /// A cut without rows. `nonce` will mark its objects; a replayed plan gives the one it was made with.
    pub fn new(context: Arc<FileContext>, topic_partition: TopicPartition, nonce: Nonce) -> OpenCut {
        OpenCut {
            whose: Whose { topic_partition, nonce },
            context,
            kinds: Vec::new(),
            files: Vec::new(),
            by_place: HashMap::new(),
            full: Vec::new(),
            loose: Vec::new(),
            loose_batch: 0,
            rows: 0,
            encoded_anything: false,
        }
    }

    /// The rows that come next have the schema that `context` names: they go to files of their own, beside those of rows
    /// with other schemas.
    pub fn turn_to(&mut self, context: Arc<FileContext>) {
        self.context = context;
    }

    /// Appends rows that belong to `path`, in the order of their offsets, without a copy. An error leaves the cut as it
    /// was: the rows have no value where they need one, another schema than those before, or a path that makes no object
    /// key. No row may be one that the views of the context reject.
    pub fn append(&mut self, rows: &Batch, path: &Arc<str>) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let has_values = !is_of_tombstones(path);
        let mut views = Vec::with_capacity(1 + self.context.views.beside().len());
        views.extend(has_values.then(|| rows.values.clone()));
        let own = views.len();
        views.extend(self.context.views.beside().iter().map(|one| one.rows(rows)));
        let kind = self.kind_of(has_values, &views[own..]);
        if has_values {
            self.accept(kind, rows)?;
        }
        let first = self.place_of(kind, rows, path, has_values)?;
        let identity = batch_identity(rows);
        if identity != self.loose_batch {
            self.compact();
            self.loose_batch = identity;
        }
        let last = rows.offset(rows.len() - 1);
        for (index, values) in (first..).zip(views) {
            let file = &mut self.files[index];
            if file.push(values, last) && self.loose.last() != Some(&index) {
                self.loose.push(index);
            }
            if file.is_full() {
                self.full.push(index);
            }
        }
        self.rows += rows.len() as u64;
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
        self.whose.nonce
    }

    /// Whether a row group was encoded: from then on the schemas are fixed until the cut ends.
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

    /// Brings all values to a newer schema: `project` gives the same rows in the columns of `schema`, and `context` names
    /// that schema. Only while nothing is encoded and all values have one schema.
    pub fn reschema(
        &mut self,
        context: Arc<FileContext>,
        schema: &Schema,
        project: &dyn Fn(&StructArray) -> StructArray,
    ) {
        assert!(!self.encoded_anything, "the schema is fixed once a row group is encoded");
        let columns = Arc::new(Schema::new(schema.fields().clone()));
        for kind in self.kinds.iter_mut().filter(|kind| kind.schema.is_some()) {
            assert_eq!(kind.context.schema, self.context.schema, "rows of several schemas have no newer one");
            (kind.context, kind.schema) = (Arc::clone(&context), Some(Arc::clone(&columns)));
        }
        for file in self.files.iter_mut().filter(|file| file.view == View::Values) {
            file.held.project(project);
            (file.context, file.schema) = (Arc::clone(&context), Some(Arc::clone(&columns)));
        }
        self.context = context;
    }

    /// Encodes rows of large files and sends full parts; then, while more than `down_to_bytes` are held, those of the largest
    /// files too, and waits for parts on their way. May leave more than that: then only ending the cut frees memory.
    /// After [`Error::Transient`] nothing is lost, call again.
    pub async fn spill(&mut self, down_to_bytes: usize) -> Result<(), Error> {
        while let Some(index) = self.full.pop() {
            self.encode(index, false).await?;
        }
        if self.held_bytes() <= down_to_bytes {
            return Ok(());
        }
        self.compact();
        for file in &mut self.files {
            // What an earlier call could not send.
            file.send_full_parts(&self.whose).await?;
        }
        while self.held_bytes() > down_to_bytes {
            let largest = (0..self.files.len()).max_by_key(|index| self.files[*index].spillable_bytes());
            match largest.filter(|index| self.files[*index].spillable_bytes() >= SPILL_BYTES_MIN) {
                Some(index) => self.encode(index, true).await?,
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

    async fn encode(&mut self, index: usize, ends_group: bool) -> Result<(), Error> {
        let file = &mut self.files[index];
        let at_once = file.context.limits.rows_bytes;
        // What was held so that it could be shared is more than should be encoded without a pause.
        while file.context.shared_bytes > 0 && file.held.bytes() > 2 * at_once {
            self.encoded_anything |= file.encode_first(at_once, false, &self.whose)?;
            file.send_full_parts(&self.whose).await?;
            tokio::task::yield_now().await;
        }
        self.encoded_anything |= file.encode(ends_group, &self.whose)?;
        file.send_full_parts(&self.whose).await
    }

    /// Ends the cut, which covers `range` under `plan`: encodes the rest and waits until every part is there. Nothing
    /// becomes visible. The files come in the order of their first rows, and each says of itself what the plan is, so that
    /// any of them tells the whole cut. On an error uploads are aborted: read the cut again from its start.
    pub async fn finish(mut self, range: OffsetRange, plan: &Plan) -> Result<Vec<FinishedFile>, Error> {
        debug_assert_eq!((range.end(), self.nonce()), (plan.end(), plan.nonce), "the plan of another cut");
        let whole = Whole::Cut { range, plan: plan.to_metadata() };
        self.compact();
        for index in 0..self.files.len() {
            if index % FILES_WITHOUT_A_PAUSE == FILES_WITHOUT_A_PAUSE - 1 {
                tokio::task::yield_now().await;
            }
            if let Err(error) = self.files[index].finish(&whole, &self.whose).await {
                self.abort().await;
                return Err(error);
            }
        }
        let OpenCut { files, whose, .. } = self;
        Ok(files.into_iter().map(|file| file.finished(&whole, &whose)).collect())
    }

    /// Removes what was uploaded. The rows are gone; nothing of them was visible.
    pub async fn abort(self) {
        join_all(self.files.into_iter().filter_map(|file| file.upload).map(Upload::abort)).await;
    }

    /// The kind of rows whose other views are `beside`. Tombstones are of the same kinds whatever the values around them are,
    /// for they may come in a batch with any.
    fn kind_of(&mut self, has_values: bool, beside: &[Values]) -> usize {
        let schema = if has_values { &*self.context.schema } else { "" };
        let fits = |kind: &Kind| {
            let same = |(one, values): (&Beside, &Values)| one.schema.fields() == &columns(values);
            *kind.context.schema == *schema && kind.beside.iter().zip(beside).all(same)
        };
        if let Some(known) = self.kinds.iter().position(fits) {
            return known;
        }
        let context = match has_values {
            true => Arc::clone(&self.context),
            false => Arc::new(FileContext { schema: "".into(), ..FileContext::clone(&self.context) }),
        };
        let beside = self.context.views.beside().iter().zip(beside).map(|(one, values)| Beside {
            view: one.view,
            context: Arc::new(FileContext {
                format: Arc::clone(&one.format),
                schema: "".into(),
                ..FileContext::clone(&self.context)
            }),
            schema: Arc::new(Schema::new(columns(values))),
        });
        let beside = beside.collect();
        self.kinds.push(Kind { context, schema: None, beside });
        self.kinds.len() - 1
    }

    fn accept(&mut self, kind: usize, rows: &Batch) -> Result<(), Error> {
        let refuse =
            |reason: String| Err(Error::Rows { key: "a file".to_owned(), at: rows.position(0).to_string(), reason });
        if !all_have_values(&rows.values) {
            return refuse("a record without a value cannot be a row, see behavior.on.null.values".to_owned());
        }
        let Kind { context, schema, .. } = &mut self.kinds[kind];
        match (&rows.values, &schema) {
            (Values::Typed(columns), Some(schema)) if columns.fields() != &schema.fields => {
                refuse("the rows have another schema than those before".to_owned())
            }
            (Values::Typed(_), Some(_)) => Ok(()),
            (Values::Typed(columns), None) => {
                *schema = Some(Arc::new(Schema::new(columns.fields().clone())));
                Ok(())
            }
            (Values::Schemaless(_), _) if context.format.needs_columns() => {
                refuse(format!("{} files need values with a schema", context.format.extension()))
            }
            (Values::Schemaless(_), _) => Ok(()),
        }
    }

    /// The first file of `kind` for `path`; opens it and those of the other views, all called after the first of `rows`.
    fn place_of(&mut self, kind: usize, rows: &Batch, path: &Arc<str>, has_values: bool) -> Result<usize, Error> {
        let place = (kind, Arc::clone(path));
        if let Some(index) = self.by_place.get(&place) {
            return Ok(*index);
        }
        let Kind { context, schema, beside } = &self.kinds[kind];
        let first = rows.offset(0);
        let open =
            |view: View, context: &Arc<FileContext>, schema: Option<SchemaRef>, name: &Option<Arc<ValueSchema>>| {
                let key = (context.object_key)(view, &self.whose.topic_partition, path, first);
                match context.store.path("create", &key) {
                    Ok(_) => {
                        Ok(OpenFile::new(Arc::clone(context), view, key, Arc::clone(path), first, schema, name.clone()))
                    }
                    Err(error) => Err(Error::Rows { key, at: rows.position(0).to_string(), reason: error.to_string() }),
                }
            };
        let mut files = Vec::with_capacity(1 + beside.len());
        if has_values {
            files.push(open(View::Values, context, schema.clone(), &rows.schema)?);
        }
        for Beside { view, context, schema } in beside {
            let name = if *view == View::Keys { &rows.key_schema } else { &None };
            let schema = (!schema.fields().is_empty()).then(|| Arc::clone(schema));
            files.push(open(*view, context, schema, name)?);
        }
        if let Some(file) = files.first_mut() {
            file.counts_records = true;
        }
        let index = self.files.len();
        self.files.append(&mut files);
        self.by_place.insert(place, index);
        Ok(index)
    }
}

/// The columns of rows; none where they are schemaless.
fn columns(values: &Values) -> Fields {
    match values {
        Values::Typed(columns) => columns.fields().clone(),
        Values::Schemaless(_) => Fields::empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, batch, context, nested_rows, noisy_rows, read_parquet};
    use crate::error::PublishError;
    use crate::faulty::{Fate, FaultyStore, Request};
    use crate::file_context::FileLimits;
    use crate::format::{FileFooter, Mark};
    use crate::held::slice_bytes;
    use crate::publish::{Committer, ObjectCommitter, OnExisting};
    use crate::store::{Abilities, RetryRules, Store};
    use arrow::array::{Array, ArrayRef, BinaryArray, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field};
    use model::Offset;
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

    #[tokio::test]
    async fn a_small_file_ends_as_rows_to_be_shared_and_a_large_one_is_encoded_in_pieces() {
        let store = memory();
        let whole = FileContext::clone(&context(&store, "x"));
        let limits = FileLimits { rows_bytes: 64 * 1024, ..whole.limits };
        let shares = Arc::new(FileContext { shared_bytes: MIB, limits, ..whole });
        for (rows, is_shared) in [(100, true), (1_100, true), (9_000, false)] {
            let mut cut = OpenCut::new(Arc::clone(&shares), lane(), Nonce(1));
            for from in (0..rows).step_by(100) {
                cut.append(&batch(&lane(), from, noisy_rows(from, 100, 512)), &"p".into()).unwrap();
                if cut.has_full_row_group() {
                    cut.spill(usize::MAX).await.unwrap();
                }
            }
            assert_eq!(cut.encoded_anything(), !is_shared, "{rows}");
            let file = conformance::finish(cut, 0, rows).await.unwrap().remove(0);
            match file.rows_to_share() {
                Some(held) => {
                    assert!(is_shared && held.rows() == rows.unsigned_abs(), "{rows}");
                    let bytes = usize::try_from(rows).unwrap() * 512;
                    assert!((bytes..2 * bytes + 64 * 1024).contains(&file.held_bytes()), "{}", file.held_bytes());
                }
                None => {
                    assert!(!is_shared && file.rows == 9_000, "{rows}");
                    let key = file.key.clone();
                    ObjectCommitter::new(store.clone(), OnExisting::Fail).publish(vec![file]).await.unwrap();
                    let read = read_parquet(store.read(&key).await.unwrap().unwrap());
                    assert_eq!(read.len(), 9_000);
                    for from in [0, 2_000, 8_900] {
                        let expected = noisy_rows(from, 100, 512);
                        let at = usize::try_from(from).unwrap();
                        assert_eq!(read.column(0).slice(at, 100).as_ref(), expected.column(0).as_ref(), "{from}");
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn rows_of_two_schemas_have_files_of_their_own_in_one_cut() {
        let store = memory();
        let whole = FileContext::clone(&context(&store, "x"));
        let [one, two] = ["1-a", "1-b"].map(|name| Arc::new(FileContext { schema: name.into(), ..whole.clone() }));
        let mut cut = OpenCut::new(Arc::clone(&one), lane(), Nonce(1));
        for offset in 0..6 {
            let (kind, rows) = match offset % 2 {
                0 => (&one, nested_rows(offset, 1)),
                _ => (&two, noisy_rows(offset, 1, 8)),
            };
            cut.turn_to(Arc::clone(kind));
            cut.append(&batch(&lane(), offset, rows), &"p".into()).unwrap();
        }
        assert_eq!((cut.open_files(), cut.rows()), (2, 6));
        let files = conformance::finish(cut, 0, 6).await.unwrap();
        let keys: Vec<String> = files.iter().map(|file| file.key.clone()).collect();
        assert_eq!(files.iter().map(|file| file.range.start().get()).collect::<Vec<_>>(), [0, 1]);
        ObjectCommitter::new(store.clone(), OnExisting::Fail).publish(files).await.unwrap();
        for (key, columns) in keys.iter().zip([nested_rows(0, 1), noisy_rows(0, 1, 8)]) {
            let rows = read_parquet(store.read(key).await.unwrap().unwrap());
            assert_eq!((rows.len(), rows.num_columns()), (3, columns.num_columns()), "{key}");
        }
    }

    /// A context whose files of values are JSON lines, with Avro keys and JSON headers beside them.
    fn with_views(store: &Store, schema: &str) -> Arc<FileContext> {
        let settings = crate::testing::settings(&[
            ("format.class", "json"),
            ("store.kafka.keys", "true"),
            ("store.kafka.headers", "true"),
            ("headers.format.class", "json"),
        ]);
        let views = crate::Views::new(&settings).unwrap();
        let layout = crate::Layout::new(&settings, ".json").unwrap().with_views(&views);
        Arc::new(FileContext {
            format: crate::format::format(&settings).unwrap(),
            object_key: Arc::new(move |view, whose, path, first| layout.view_key(view, whose, path, first)),
            views,
            schema: schema.into(),
            ..FileContext::clone(&context(store, "x"))
        })
    }

    /// One record with a number as value, this key, and one header.
    fn with_key(offset: i64, key: ArrayRef) -> Batch {
        let field = model::whole_value_field(key.data_type().clone());
        let keys = StructArray::new(vec![field].into(), vec![key], None);
        Batch {
            key_values: Some(Values::Typed(keys)),
            headers: Some(Arc::new(vec![vec![("h".to_owned(), Some(offset.to_string().into_bytes()))]])),
            ..batch(&lane(), offset, nested_rows(offset, 1))
        }
    }

    fn text_key(offset: i64) -> Batch {
        with_key(offset, Arc::new(StringArray::from(vec![format!("k{offset}")])))
    }

    fn tombstone(offset: i64) -> Batch {
        Batch { values: Values::Schemaless(BinaryArray::new_null(1)), ..text_key(offset) }
    }

    /// Name, rows and records of each object.
    async fn published(store: &Store, cut: OpenCut, end: i64) -> Vec<(String, u64, u64)> {
        let files = conformance::finish(cut, 0, end).await.unwrap();
        let published = ObjectCommitter::new(store.clone(), OnExisting::Fail).publish(files).await.unwrap();
        let name = |key: &str| key.strip_prefix("topics/t/").unwrap_or(key).to_owned();
        published.into_iter().map(|file| (name(&file.key), file.rows, file.records)).collect()
    }

    #[tokio::test]
    async fn keys_and_headers_lie_beside_their_values_and_are_counted_once() {
        let store = memory();
        let mut cut = OpenCut::new(with_views(&store, ""), lane(), Nonce(1));
        for (offset, path) in [(3, "p=0"), (4, "p=1"), (5, "p=0")] {
            cut.append(&text_key(offset), &path.into()).unwrap();
        }
        assert_eq!((cut.open_files(), cut.rows()), (6, 3));
        let files = published(&store, cut, 9).await;
        let shown: Vec<_> = files.iter().map(|(name, rows, records)| (name.as_str(), *rows, *records)).collect();
        assert_eq!(
            shown,
            [
                ("p=0/t+0+0000000003.json", 2, 2),
                ("p=0/t+0+0000000003.keys.avro", 2, 0),
                ("p=0/t+0+0000000003.headers.json", 2, 0),
                ("p=1/t+0+0000000004.json", 1, 1),
                ("p=1/t+0+0000000004.keys.avro", 1, 0),
                ("p=1/t+0+0000000004.headers.json", 1, 0),
            ]
        );
        let headers = store.read("topics/t/p=0/t+0+0000000003.headers.json").await.unwrap().unwrap();
        let line = |value: i64| format!("{{\"headers\":[{{\"key\":\"h\",\"value\":\"{value}\"}}]}}\n");
        assert_eq!(headers, line(3) + &line(5));
    }

    #[tokio::test]
    async fn tombstones_have_files_of_keys_and_headers_alone_the_same_however_they_came() {
        let mut seen = Vec::new();
        // Each tombstone comes in a batch with values of one schema or the other.
        for schemas in [["v1", "v1", "v2"], ["v1", "v2", "v2"]] {
            let store = memory();
            let mut cut = OpenCut::new(with_views(&store, "v1"), lane(), Nonce(1));
            cut.append(&text_key(0), &"p".into()).unwrap();
            for (offset, schema) in (1..).zip(schemas) {
                cut.turn_to(with_views(&store, schema));
                cut.append(&tombstone(offset), &"\u{1}tombstone".into()).unwrap();
            }
            cut.append(&text_key(4), &"p".into()).unwrap();
            seen.push(published(&store, cut, 9).await);
        }
        let tombstones: Vec<_> = seen[0].iter().filter(|(name, _, _)| name.starts_with("tombstone")).cloned().collect();
        let name = |view: &str| format!("tombstone/t+0+0000000001.{view}");
        assert_eq!(tombstones, [(name("keys.avro"), 3, 3), (name("headers.json"), 3, 0)]);
        assert_eq!(seen[0], seen[1]);
    }

    #[tokio::test]
    async fn keys_of_another_type_have_files_of_their_own() {
        let store = memory();
        let mut cut = OpenCut::new(with_views(&store, ""), lane(), Nonce(1));
        let number = |offset| with_key(offset, Arc::new(Int64Array::from(vec![offset])));
        for rows in [text_key(0), number(1), text_key(2), number(3)] {
            cut.append(&rows, &"p".into()).unwrap();
        }
        let names: Vec<_> = published(&store, cut, 9).await.into_iter().map(|(name, rows, _)| (name, rows)).collect();
        let stems = |first: i64| {
            ["json", "keys.avro", "headers.json"].map(|ending| (format!("p/t+0+000000000{first}.{ending}"), 2))
        };
        assert_eq!(names, [stems(0), stems(1)].concat());
    }

    #[tokio::test]
    async fn values_beside_keys_follow_a_newer_schema() {
        let store = memory();
        let mut cut = OpenCut::new(with_views(&store, "v1"), lane(), Nonce(1));
        cut.append(&tombstone(0), &"\u{1}tombstone".into()).unwrap();
        cut.append(&text_key(1), &"p".into()).unwrap();
        let wider = |rows: &StructArray| {
            let more = Arc::new(Field::new("more", DataType::Int64, true));
            let fields = rows.fields().iter().cloned().chain([more]);
            let nulls: ArrayRef = Arc::new(Int64Array::new_null(rows.len()));
            StructArray::new(fields.collect(), rows.columns().iter().cloned().chain([nulls]).collect(), None)
        };
        let schema = Schema::new(wider(&nested_rows(0, 1)).fields().clone());
        cut.reschema(with_views(&store, "v2"), &schema, &wider);
        let next = text_key(2);
        let Values::Typed(columns) = &next.values else { unreachable!() };
        let wide = Values::Typed(wider(columns));
        cut.append(&Batch { values: wide, ..next }, &"p".into()).unwrap();
        let names: Vec<_> = published(&store, cut, 9).await.into_iter().map(|(name, rows, _)| (name, rows)).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert_eq!(names[2], ("p/t+0+0000000001.json".to_owned(), 2));
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
