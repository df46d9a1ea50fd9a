//! Making the finished files of a cut visible, each by one request that never replaces an object.

use std::fmt;
use std::mem;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt, stream};
use model::{Check, Importance, Invalid, Key, Kind, OffsetRange, Settings, TopicPartition, Width};
use object_store::{Attributes, PutPayload, TagSet};
use tracing::{debug, info, warn};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, PublishError};
use crate::file_rows::FileRows;
use crate::format::{self, Format, LabelPlace, Mark};
use crate::label::{Label, read_label};
use crate::statistics::FileStatistics;
use crate::store::{Put, Store};
use crate::tagging::Tags;
use crate::upload::{Completed, Upload};
use crate::views::View;

/// Files of one cut that are published at the same time.
const AT_ONCE: usize = 16;

/// Bytes of an object that are read at once to compare them.
const READ_BYTES: u64 = 8 * 1024 * 1024;

/// Looks for an object whose completion was not answered.
const LOOKS: u32 = 3;

/// A file of a cut that is whole and not visible yet.
#[derive(Debug)]
pub struct FinishedFile {
    /// The object's name.
    pub key: String,
    /// What it holds of its records.
    pub view: View,
    /// Rows in it.
    pub rows: u64,
    /// Records that no other file of the cut counts: none where it lies beside a file of values.
    pub records: u64,
    /// Its size.
    pub bytes: u64,
    /// Whose rows it holds.
    pub topic_partition: TopicPartition,
    /// The cut that it is a part of.
    pub cut: OffsetRange,
    /// From its first row's offset to the end of the cut.
    pub range: OffsetRange,
    /// What the partitioner said of its rows.
    pub path: Arc<str>,
    /// Columns of its rows, as the file has them once they are encoded; `None` for values without a schema.
    pub schema: Option<SchemaRef>,
    /// What it tells of its rows, where the format tells that.
    pub statistics: Option<FileStatistics>,
    /// Whose file it is.
    pub mark: Mark,
    pub(crate) metadata: Attributes,
    pub(crate) tags: Option<Tags>,
    pub(crate) format: Arc<dyn Format>,
    pub(crate) body: Body,
}

/// Where the bytes of a finished file are.
pub(crate) enum Body {
    /// Here.
    Put(PutPayload),
    /// Not made yet.
    Rows(FileRows),
    /// In the store, as parts of an invisible upload.
    Upload(Box<Upload>),
    /// In the object that everybody can read.
    Visible,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Put(payload) => write!(f, "Put({} bytes)", payload.content_length()),
            Body::Rows(rows) => rows.fmt(f),
            Body::Upload(upload) => upload.fmt(f),
            Body::Visible => f.write_str("Visible"),
        }
    }
}

impl FinishedFile {
    /// Whether it went up in parts.
    pub fn is_multipart(&self) -> bool {
        match &self.body {
            Body::Put(_) | Body::Rows(_) | Body::Visible => false,
            Body::Upload(_) => true,
        }
    }

    /// Its rows, where they wait to share an object with those of other files.
    pub fn rows_to_share(&self) -> Option<&FileRows> {
        match &self.body {
            Body::Rows(rows) => Some(rows),
            Body::Put(_) | Body::Upload(_) | Body::Visible => None,
        }
    }

    /// Bytes that it takes in memory until it is published.
    pub fn held_bytes(&self) -> usize {
        match &self.body {
            Body::Put(payload) => payload.content_length(),
            Body::Rows(rows) => rows.bytes(),
            Body::Upload(_) | Body::Visible => 0,
        }
    }

    /// Removes the parts of files that will not be published.
    pub async fn discard(files: Vec<FinishedFile>) {
        let uploads = files.into_iter().filter_map(|file| match file.body {
            Body::Put(_) | Body::Rows(_) | Body::Visible => None,
            Body::Upload(upload) => Some(upload.abort()),
        });
        join_all(uploads).await;
    }
}

/// A file of a cut that everybody can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedFile {
    /// The object's name.
    pub key: String,
    /// Rows in it.
    pub rows: u64,
    /// Records that no other file of the cut counts.
    pub records: u64,
    /// Its size.
    pub bytes: u64,
    /// It was visible before this call.
    pub already_there: bool,
    /// The object holds rows of another cut too, which counts it and its bytes.
    pub is_counted_elsewhere: bool,
}

/// Makes finished files visible.
#[async_trait]
pub trait Committer: Send + Sync {
    /// Makes every file visible exactly once, in any order. Publishing a cut again is a success that changes nothing. An
    /// object of that name with other content is never replaced.
    async fn publish(&self, files: Vec<FinishedFile>) -> Result<Vec<PublishedFile>, PublishError>;

    /// Whether the plan of a cut must be committed before it is published. If not, publishing a cut that does not begin
    /// where the last one ended is refused by the destination itself, so cuts follow each other without a gap.
    fn needs_plan(&self) -> bool {
        true
    }

    /// Metadata of the offset behind everything that is published of `topic_partition`.
    fn seal(&self, topic_partition: &TopicPartition) -> String {
        let _ = topic_partition;
        String::new()
    }
}

/// What happens to an object that is there and is not ours.
pub const ON_EXISTING_OBJECT: Key = Key::new(
    "on.existing.object",
    Kind::String,
    "What to do when an object with the name of a new one is there and was not made by the same cut, as after the group's \
     offsets were reset: fail stops the task, nothing is overwritten; overwrite replaces it, so that a range that is \
     processed again is written again; skip leaves it, where it is sluice's own and holds every row of the new one, and \
     stops the task elsewhere. Objects that a restart finds of its own cut are never touched, whatever is set. With \
     overwrite and skip rows are there once only if cuts end where they ended before: objects of the old range whose names \
     do not come again stay there, rows and all. With overwrite a worker that stood still since before the reset may put \
     its object back.",
)
.default("fail")
.check(Check::OneOf(&["fail", "overwrite", "skip"]))
.ours()
.importance(Importance::Medium)
.group("Connector", 16)
.shown(Width::Short, "On Existing Object");

/// Keys of publishing.
pub(crate) const KEYS: &[Key] = &[ON_EXISTING_OBJECT];

/// What happens to an object that is there and is not ours ([`ON_EXISTING_OBJECT`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExisting {
    /// The cut is not published: [`PublishError::Conflict`].
    #[default]
    Fail,
    /// It is replaced.
    Overwrite,
    /// It stays and stands for the new one if it holds all rows of it; otherwise as [`OnExisting::Fail`].
    Skip,
}

impl OnExisting {
    /// What the settings say.
    pub fn new(settings: &Settings) -> Result<OnExisting, Invalid> {
        Ok(match settings.required_string(&ON_EXISTING_OBJECT)?.as_str() {
            "overwrite" => OnExisting::Overwrite,
            "skip" => OnExisting::Skip,
            _ => OnExisting::Fail,
        })
    }
}

/// Files become plain objects.
#[derive(Debug, Clone)]
pub struct ObjectCommitter {
    store: Store,
    on_existing: OnExisting,
}

/// What is to be done about an object that has the name of ours.
enum Existing {
    /// It is ours.
    Ours,
    /// It holds all that ours does.
    Enough,
    /// It is replaced; what it says of itself.
    Replace(String),
}

/// What became of a file that everybody can read.
struct Shown {
    /// It was visible before this call.
    already_there: bool,
    /// Nothing is left to say about its tags.
    is_tagged: bool,
}

/// Why one file is not visible.
enum Failed {
    Conflict(PublishError),
    Error(Error),
}

#[async_trait]
impl Committer for ObjectCommitter {
    async fn publish(&self, mut files: Vec<FinishedFile>) -> Result<Vec<PublishedFile>, PublishError> {
        let mut requests: Vec<BoxFuture<'_, Result<PublishedFile, Failed>>> = Vec::with_capacity(files.len());
        for file in &mut files {
            requests.push(self.publish_one(file).boxed());
        }
        let outcomes: Vec<_> = stream::iter(requests).buffered(AT_ONCE).collect().await;
        let mut published = Vec::with_capacity(outcomes.len());
        let mut worst: Option<Failed> = None;
        for outcome in outcomes {
            match outcome {
                Ok(file) => published.push(file),
                Err(failed) if worst.as_ref().is_none_or(|known| failed.rank() > known.rank()) => worst = Some(failed),
                Err(_) => {}
            }
        }
        match worst {
            None => Ok(published),
            Some(Failed::Error(source)) if source.is_transient() => Err(PublishError::Transient { files, source }),
            Some(failed) => {
                FinishedFile::discard(files).await;
                Err(failed.into_error())
            }
        }
    }
}

impl Failed {
    /// What the caller must hear about first.
    fn rank(&self) -> u8 {
        match self {
            Failed::Conflict(_) => 3,
            Failed::Error(Error::Permanent { .. } | Error::Rows { .. }) => 2,
            Failed::Error(Error::Lost { .. }) => 1,
            Failed::Error(Error::Transient(_)) => 0,
        }
    }

    fn into_error(self) -> PublishError {
        match self {
            Failed::Conflict(conflict) => conflict,
            Failed::Error(source @ Error::Lost { .. }) => PublishError::Lost { source },
            Failed::Error(source @ (Error::Permanent { .. } | Error::Rows { .. } | Error::Transient(_))) => {
                PublishError::Permanent { source }
            }
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Error(error)
    }
}

impl ObjectCommitter {
    /// Publishes into `store`.
    pub fn new(store: Store, on_existing: OnExisting) -> ObjectCommitter {
        ObjectCommitter { store, on_existing }
    }

    async fn publish_one(&self, file: &mut FinishedFile) -> Result<PublishedFile, Failed> {
        let Shown { already_there, is_tagged } = match &file.body {
            Body::Put(payload) => self.put(file, payload).await?,
            Body::Upload(_) => self.complete(file).await?,
            Body::Rows(_) => return Err(Failed::Error(self.not_encoded(file))),
            Body::Visible => Shown { already_there: true, is_tagged: true },
        };
        if let Some(tags) = file.tags.as_ref().filter(|_| !is_tagged) {
            self.store.tag(&file.key, tags).await?;
        }
        if let Body::Upload(upload) = mem::replace(&mut file.body, Body::Visible)
            && !upload.was_completed()
        {
            upload.abort().await;
        }
        debug!(key = %file.key, rows = file.rows, bytes = file.bytes, already_there, "published");
        let FinishedFile { key, rows, records, bytes, .. } = file;
        let (key, rows, records, bytes) = (key.clone(), *rows, *records, *bytes);
        Ok(PublishedFile { key, rows, records, bytes, already_there, is_counted_elsewhere: false })
    }

    /// Puts a small file.
    async fn put(&self, file: &FinishedFile, payload: &PutPayload) -> Result<Shown, Failed> {
        let at_once = self.tags_at_once(file);
        let is_tagged = at_once.is_some();
        let new = |tags| self.store.put_new(&file.key, payload.clone(), file.metadata.clone(), tags);
        let put = match new(at_once.clone().unwrap_or_default()).await {
            // Perhaps for its tags. What else is refused is refused again.
            Err(Error::Permanent { failure, .. }) if is_tagged => {
                let put = new(TagSet::default()).await?;
                warn!(key = %file.key, store = self.store.name(), answer = %failure.source, "the store takes no object with its tags: objects are tagged when they are there");
                self.store.tag_apart();
                return self.shown(put, file, payload, None).await;
            }
            put => put?,
        };
        self.shown(put, file, payload, at_once).await
    }

    /// What a PUT of `file` came to, which carried `tags`.
    async fn shown(
        &self,
        put: Put,
        file: &FinishedFile,
        payload: &PutPayload,
        tags: Option<TagSet>,
    ) -> Result<Shown, Failed> {
        let is_tagged = tags.is_some();
        match put {
            Put::Done => return Ok(Shown { already_there: false, is_tagged }),
            Put::Occupied => {}
        }
        match self.look_into(file).await? {
            // Whoever put it may have had other settings.
            Existing::Ours => Ok(Shown { already_there: true, is_tagged: false }),
            Existing::Enough => Ok(Shown { already_there: true, is_tagged: true }),
            Existing::Replace(held) => {
                self.warn_of_replacing(file, &held);
                let (payload, metadata) = (payload.clone(), file.metadata.clone());
                self.store.replace(&file.key, payload, metadata, tags.unwrap_or_default()).await?;
                Ok(Shown { already_there: false, is_tagged })
            }
        }
    }

    /// The tags of a file, if the request that makes it may carry them.
    fn tags_at_once(&self, file: &FinishedFile) -> Option<TagSet> {
        file.tags.as_ref().filter(|_| self.store.tags_at_once()).map(Tags::header)
    }

    /// Completes an upload. The name is looked for first: a store may not know a condition for completions, and the plan
    /// that was committed before keeps two writers of one name apart. It began before its last row was known, so its tags
    /// always follow.
    async fn complete(&self, file: &mut FinishedFile) -> Result<Shown, Failed> {
        let new = Shown { already_there: false, is_tagged: false };
        let mut replaces = false;
        if self.store.find(&file.key).await?.is_some() {
            match self.look_into(file).await? {
                Existing::Ours => return Ok(Shown { already_there: true, is_tagged: false }),
                Existing::Enough => return Ok(Shown { already_there: true, is_tagged: true }),
                Existing::Replace(held) => {
                    self.warn_of_replacing(file, &held);
                    replaces = true;
                }
            }
        }
        let Body::Upload(upload) = &mut file.body else { return Ok(new) };
        let answer = match upload.complete(replaces).await? {
            Completed::Done => return Ok(new),
            Completed::Unknown(answer) => answer,
        };
        for look in 1..=LOOKS {
            if self.store.find(&file.key).await?.is_some() {
                match self.look_into(file).await? {
                    Existing::Ours => return Ok(new),
                    Existing::Enough => return Ok(Shown { is_tagged: true, ..new }),
                    // Still the old object.
                    Existing::Replace(_) => {}
                }
            }
            if look < LOOKS {
                tokio::time::sleep(self.store.rules().backoff * look).await;
            }
        }
        let Body::Upload(upload) = &mut file.body else { return Ok(new) };
        Err(Failed::Error(upload.not_completed(answer)))
    }

    /// Decides about the object that has the name of `file`.
    async fn look_into(&self, file: &FinishedFile) -> Result<Existing, Failed> {
        let Some(found) = self.store.find(&file.key).await? else { return Err(self.vanished(file)) };
        // Without user metadata equal bytes decide, which also a file without a label of its own can have.
        if found.label.is_none() && found.bytes == file.bytes && self.holds_bytes_of(file).await? {
            return Ok(Existing::Ours);
        }
        if found.label.as_ref().and_then(Label::mark).is_some_and(|mark| mark.agrees_with(&file.mark)) {
            return Ok(Existing::Ours);
        }
        let label = read_label(&self.store, file.format.as_ref(), &file.key, &found).await?;
        let (mark, held) = match label.as_ref().and_then(Label::mark) {
            Some(mark) => (Some(mark), mark.to_string()),
            None if found.label.is_none() && !self.can_say_whose(file) => {
                (None, format!("{} bytes, other ones, that do not say whose they are", found.bytes))
            }
            None => (None, format!("{} bytes that are not a file of sluice", found.bytes)),
        };
        if mark.is_some_and(|mark| mark.agrees_with(&file.mark)) {
            return Ok(Existing::Ours);
        }
        match self.on_existing {
            OnExisting::Fail => Err(self.conflict(file, held, FAIL_ADVICE)),
            OnExisting::Overwrite => Ok(Existing::Replace(held)),
            OnExisting::Skip => match what_is_missing(file, mark, label.as_ref()) {
                None => {
                    info!(key = %file.key, store = self.store.name(), held, wanted = %file.mark, "the object that is there stays, it holds these rows");
                    Ok(Existing::Enough)
                }
                Some(advice) => Err(self.conflict(file, held, advice)),
            },
        }
    }

    /// Whether the object, which is as large as `file`, holds the same bytes.
    async fn holds_bytes_of(&self, file: &FinishedFile) -> Result<bool, Failed> {
        match &file.body {
            Body::Rows(_) | Body::Visible => Ok(false),
            Body::Put(payload) => match self.store.read(&file.key).await? {
                Some(object) => Ok(is_payload(payload, &object)),
                None => Err(self.vanished(file)),
            },
            // A file that can say whose it is need not be read as a whole.
            Body::Upload(_) if file.format.label_place() != LabelPlace::Nowhere => Ok(false),
            Body::Upload(upload) => {
                let mut digest = Xxh3::new();
                let mut from = 0;
                while from < file.bytes {
                    let range = from..file.bytes.min(from + READ_BYTES);
                    from = range.end;
                    match self.store.read_range(&file.key, range).await? {
                        Some(piece) => digest.update(&piece),
                        None => return Err(self.vanished(file)),
                    }
                }
                Ok(digest.digest128() == upload.digest())
            }
        }
    }

    fn warn_of_replacing(&self, file: &FinishedFile, held: &str) {
        warn!(key = %file.key, store = self.store.name(), held, wanted = %file.mark, "replacing an object, as on.existing.object=overwrite asks");
    }

    /// Whether objects of this format say whose they are, in this store.
    fn can_say_whose(&self, file: &FinishedFile) -> bool {
        self.store.abilities().metadata || file.format.label_place() != LabelPlace::Nowhere
    }

    fn not_encoded(&self, file: &FinishedFile) -> Error {
        let (key, at) = (file.key.clone(), file.topic_partition.at(file.range.start()).to_string());
        Error::Rows { key, at, reason: "its rows were handed on to share an object and did not".to_owned() }
    }

    fn vanished(&self, file: &FinishedFile) -> Failed {
        let gone = object_store::Error::Generic { store: "store", source: "it was there and is gone".into() };
        let failure = self.store.failure("look for", &file.key, 1, gone);
        Failed::Error(Error::Transient(Box::new(failure)))
    }

    fn conflict(&self, file: &FinishedFile, held: String, advice: &'static str) -> Failed {
        Failed::Conflict(PublishError::Conflict {
            key: file.key.clone(),
            store: self.store.name().to_owned(),
            held,
            wanted: file.mark.to_string(),
            advice,
        })
    }
}

/// What to do about an object in the way.
const FAIL_ADVICE: &str = "this range was written before under another plan, because the group's offsets were reset or \
    another connector or group writes the same names; set on.existing.object to overwrite or skip to process it again on \
    purpose, choose another topics.dir, or set the group's offsets behind what is there";

/// Why leaving the object that is there would lose rows of `file`; `None` when it holds all of them: it begins with the
/// same row, as its name says, goes as far or farther, and its rows were chosen and placed by the same settings.
fn what_is_missing(file: &FinishedFile, mark: Option<Mark>, label: Option<&Label>) -> Option<&'static str> {
    let Some(Mark { end: Some(end), rows, .. }) = mark else {
        return Some(
            "it does not say which rows it holds, so on.existing.object=skip could lose rows: move it away or set overwrite",
        );
    };
    let wanted = file.range.end();
    let ours = Label::of_metadata(&file.metadata);
    let config = |label: Option<&Label>| label.and_then(|label| label.get(format::CONFIG)).map(str::to_owned);
    if end < wanted {
        return Some(
            "it ends before the rows that it would stand for, so on.existing.object=skip would lose rows: move it away or set overwrite",
        );
    }
    if config(label) != config(ours.as_ref()) {
        return Some(
            "it was written under settings that choose or place rows otherwise, so on.existing.object=skip could lose rows: \
                     move it away or set overwrite",
        );
    }
    match rows {
        Some(rows) if rows < file.rows || (end == wanted && rows != file.rows) => Some(
            "it holds fewer rows of that range, so on.existing.object=skip would lose rows: move it away or set overwrite",
        ),
        Some(_) | None => None,
    }
}

fn is_payload(payload: &PutPayload, object: &bytes::Bytes) -> bool {
    let mut rest = object.as_ref();
    payload.content_length() == object.len()
        && payload.iter().all(|chunk| match rest.split_at_checked(chunk.len()) {
            Some((head, tail)) => {
                rest = tail;
                head == chunk.as_ref()
            }
            None => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{batch, context, nested_rows, noisy_rows, read_parquet};
    use crate::cut::OpenCut;
    use crate::faulty::{Fate, FaultyStore, Request};
    use crate::file_context::FileContext;
    use crate::store::{Abilities, RetryRules};
    use arrow::array::Array;
    use model::{Fingerprint, Nonce, Offset, OffsetRange, Plan, SchemaRef, TopicPartition};
    use object_store::memory::InMemory;
    use object_store::{Attribute, ObjectStore};
    use proptest::prelude::*;

    fn faulty(fates: impl Fn(Request, &str) -> Fate + Send + Sync + 'static, metadata: bool) -> (FaultyStore, Store) {
        let objects = FaultyStore::new(Arc::new(InMemory::new()), fates);
        let abilities = Abilities { metadata, conditional: true };
        let store = Store::with(Arc::new(objects.clone()), "faulty", abilities, RetryRules::default(), 1);
        (objects, store)
    }

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    /// One file of the rows from 0 to `end`; a large one has parts.
    async fn file(store: &Store, nonce: u64, end: i64, config: &str, is_large: bool) -> Vec<FinishedFile> {
        let whole = FileContext::clone(&context(store, "x"));
        let context = Arc::new(FileContext { config: Fingerprint::of([config.as_bytes()]), ..whole });
        let lane = TopicPartition::new("t", 0);
        let mut open = OpenCut::new(context, lane.clone(), Nonce(nonce));
        let rows = if is_large { noisy_rows(0, end, 1_024 * 1_024) } else { nested_rows(0, end) };
        open.append(&batch(&lane, 0, rows), &"p".into()).unwrap();
        open.spill(if is_large { 0 } else { usize::MAX }).await.unwrap();
        let plan = Plan::new(at(end), 0, Nonce(nonce), None, Fingerprint::of([]), 1);
        let files = open.finish(OffsetRange::new(at(0), at(end)).unwrap(), &plan).await.unwrap();
        assert_eq!(files[0].is_multipart(), is_large);
        files
    }

    async fn rows_there(store: &Store, key: &str) -> usize {
        read_parquet(store.read(key).await.unwrap().unwrap()).len()
    }

    #[test]
    fn what_happens_to_existing_objects_is_configured() {
        let on =
            |value: &str| OnExisting::new(&Settings::new([("on.existing.object".to_owned(), value.to_owned())].into()));
        assert_eq!(OnExisting::new(&Settings::new(Default::default())).unwrap(), OnExisting::Fail);
        assert_eq!(
            (on("fail").unwrap(), on("overwrite").unwrap(), on("skip").unwrap()),
            (OnExisting::Fail, OnExisting::Overwrite, OnExisting::Skip)
        );
        assert!(on("ask").unwrap_err().message.contains("fail, overwrite, skip"));
    }

    #[tokio::test]
    async fn an_object_of_another_cut_is_kept_replaced_or_taken_for_ours_as_configured() {
        for (is_large, metadata) in [(false, true), (false, false), (true, true), (true, false)] {
            let there = async |store: &Store| {
                let files = file(store, 1, 8, "c", is_large).await;
                let key = files[0].key.clone();
                ObjectCommitter::new(store.clone(), OnExisting::Fail).publish(files).await.unwrap();
                key
            };
            let conflict = |error: PublishError| match error {
                PublishError::Conflict { held, wanted, advice, .. } => {
                    assert!(held.contains("nonce 0000000000000001") && wanted.contains("nonce 0000000000000002"));
                    advice
                }
                other => panic!("{other}"),
            };

            let (objects, store) = faulty(|_, _| Fate::Fine, metadata);
            let key = there(&store).await;
            let fail = ObjectCommitter::new(store.clone(), OnExisting::Fail);
            let advice = conflict(fail.publish(file(&store, 2, 8, "c", is_large).await).await.unwrap_err());
            assert!(advice.contains("on.existing.object") && advice.contains("topics.dir"), "{advice}");
            assert_eq!((rows_there(&store, &key).await, objects.replaced()), (8, Vec::<String>::new()));

            let skip = ObjectCommitter::new(store.clone(), OnExisting::Skip);
            for end in [7, 8] {
                let published = skip.publish(file(&store, 2, end, "c", is_large).await).await.unwrap();
                assert!(published[0].already_there);
            }
            for (end, config, part) in [(9, "c", "ends before"), (8, "d", "settings"), (7, "d", "settings")] {
                let files = file(&store, 2, end, config, is_large).await;
                let advice = conflict(skip.publish(files).await.unwrap_err());
                assert!(advice.contains(part) && advice.contains("lose rows"), "{advice}");
            }
            assert_eq!((rows_there(&store, &key).await, objects.replaced()), (8, Vec::<String>::new()));
            assert_eq!(objects.open_uploads(), Vec::<String>::new());

            let overwrite = ObjectCommitter::new(store.clone(), OnExisting::Overwrite);
            let again = overwrite.publish(file(&store, 1, 8, "c", is_large).await).await.unwrap();
            assert!(again[0].already_there, "a replay is no conflict");
            assert_eq!(objects.replaced(), Vec::<String>::new());
            let published = overwrite.publish(file(&store, 2, 9, "d", is_large).await).await.unwrap();
            assert!(!published[0].already_there);
            assert_eq!((rows_there(&store, &key).await, objects.replaced()), (9, vec![key.clone()]));
            assert!(overwrite.publish(file(&store, 2, 9, "d", is_large).await).await.unwrap()[0].already_there);
            assert_eq!(objects.replaced().len(), 1);
            assert_eq!(objects.open_uploads(), Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn an_object_of_somebody_else_is_never_skipped_and_goes_only_when_told() {
        let (_, store) = faulty(|_, _| Fate::Fine, true);
        let key = file(&store, 2, 8, "c", false).await[0].key.clone();
        store.create(&key, "PAR1, by hand".into()).await.unwrap();
        for on_existing in [OnExisting::Fail, OnExisting::Skip] {
            let committer = ObjectCommitter::new(store.clone(), on_existing);
            let error = committer.publish(file(&store, 2, 8, "c", false).await).await.unwrap_err();
            assert!(error.to_string().contains("13 bytes that are not a file of sluice"), "{error}");
        }
        let committer = ObjectCommitter::new(store.clone(), OnExisting::Overwrite);
        committer.publish(file(&store, 2, 8, "c", false).await).await.unwrap();
        assert_eq!(rows_there(&store, &key).await, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn replacing_whose_answer_is_lost_is_done_once_more_and_found_done() {
        let turn = std::sync::atomic::AtomicU32::new(0);
        let fates = move |request, _: &str| match request {
            // The object there, the refusal, and then the replacement in three tries.
            Request::Put => match turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                2 => Fate::FailAfter,
                3 => Fate::FailBefore,
                _ => Fate::Fine,
            },
            _ => Fate::Fine,
        };
        let (_, store) = faulty(fates, true);
        let files = file(&store, 1, 8, "c", false).await;
        let key = files[0].key.clone();
        let committer = ObjectCommitter::new(store.clone(), OnExisting::Overwrite);
        committer.publish(files).await.unwrap();
        assert!(!committer.publish(file(&store, 2, 9, "c", false).await).await.unwrap()[0].already_there);
        assert_eq!(rows_there(&store, &key).await, 9);
    }

    #[tokio::test]
    async fn a_store_that_ignores_conditions_is_looked_into_first_once_that_is_known() {
        let inner = Arc::new(InMemory::new());
        let store = {
            let careless = Careless(inner);
            let abilities = Abilities { metadata: true, conditional: true };
            Store::with(Arc::new(careless), "careless", abilities, RetryRules::default(), 1)
        };
        let probe = store.probe("_sluice/probe").await.unwrap();
        assert_eq!(probe.conditional, crate::Conditional::Ignored);
        let committer = ObjectCommitter::new(store.clone(), OnExisting::Fail);
        committer.publish(file(&store, 1, 8, "c", false).await).await.unwrap();
        let error = committer.publish(file(&store, 2, 9, "c", false).await).await.unwrap_err();
        assert!(matches!(error, PublishError::Conflict { .. }), "{error}");
    }

    /// A store that replaces whatever it is asked to create.
    #[derive(Debug)]
    struct Careless(Arc<InMemory>);

    impl fmt::Display for Careless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Careless")
        }
    }

    #[async_trait]
    impl ObjectStore for Careless {
        async fn put_opts(
            &self,
            at: &object_store::path::Path,
            payload: PutPayload,
            options: object_store::PutOptions,
        ) -> object_store::Result<object_store::PutResult> {
            let options = object_store::PutOptions { mode: object_store::PutMode::Overwrite, ..options };
            self.0.put_opts(at, payload, options).await
        }
        async fn put_multipart_opts(
            &self,
            at: &object_store::path::Path,
            options: object_store::PutMultipartOptions,
        ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
            self.0.put_multipart_opts(at, options).await
        }
        async fn get_opts(
            &self,
            at: &object_store::path::Path,
            options: object_store::GetOptions,
        ) -> object_store::Result<object_store::GetResult> {
            self.0.get_opts(at, options).await
        }
        fn delete_stream(
            &self,
            at: stream::BoxStream<'static, object_store::Result<object_store::path::Path>>,
        ) -> stream::BoxStream<'static, object_store::Result<object_store::path::Path>> {
            self.0.delete_stream(at)
        }
        fn list(
            &self,
            prefix: Option<&object_store::path::Path>,
        ) -> stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
            self.0.list(prefix)
        }
        async fn list_with_delimiter(
            &self,
            prefix: Option<&object_store::path::Path>,
        ) -> object_store::Result<object_store::ListResult> {
            self.0.list_with_delimiter(prefix).await
        }
        async fn copy_opts(
            &self,
            from: &object_store::path::Path,
            to: &object_store::path::Path,
            options: object_store::CopyOptions,
        ) -> object_store::Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }

    /// S3's limit of user metadata, names and values together ("Working with object metadata").
    const USER_METADATA_BYTES_MAX: usize = 2 * 1024;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_object_tells_the_whole_plan_of_its_cut_far_within_what_s3_takes(
            topic in "[a-zA-Z0-9._-]{1,249}".prop_filter("Kafka has no such topic", |topic| topic != "." && topic != ".."),
            partition in 0i32..,
            start in 0i64..(1 << 62),
            gap in 0i64..(1 << 61),
            (clock_ms, nonce, config) in (any::<i64>(), any::<u64>(), any::<u64>()),
            version in prop::option::of(any::<u32>()),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (_, store) = faulty(|_, _| Fate::Fine, true);
                let fingerprint = |number: u64| Fingerprint::of([&number.to_le_bytes()[..]]);
                let schema = version.map(|version| SchemaRef { version, fingerprint: fingerprint(nonce) });
                let name = schema.map_or(String::new(), |schema| format!("v{}-{}", schema.version, schema.fingerprint));
                let whole = FileContext::clone(&context(&store, "x"));
                let context = Arc::new(FileContext { schema: name.into(), config: fingerprint(config), ..whole });
                let lane = TopicPartition::new(topic.as_str(), partition);
                let mut open = OpenCut::new(context, lane.clone(), Nonce(nonce));
                let range = OffsetRange::new(at(start), at(start + gap + 9)).unwrap();
                for path in 0..3 {
                    open.append(&batch(&lane, start + gap + path * 2, nested_rows(0, 2)), &format!("p={path}").into()).unwrap();
                }
                let plan = Plan::new(range.end(), clock_ms, Nonce(nonce), schema, fingerprint(config), 3);
                let files = open.finish(range, &plan).await.unwrap();
                for file in files {
                    let entries = file.metadata.iter().map(|(name, value)| match name {
                        Attribute::Metadata(name) => (name.clone().into_owned(), value.as_ref().to_owned()),
                        other => panic!("{other:?}"),
                    });
                    let entries: Vec<(String, String)> = entries.collect();
                    let bytes: usize = entries.iter().map(|(name, value)| name.len() + value.len()).sum();
                    assert!(bytes < USER_METADATA_BYTES_MAX * 2 / 3, "{bytes} bytes");
                    // What is in a header comes back as it was: printable ASCII, no blanks at the ends or in a row.
                    assert!(entries.iter().all(|(_, value)| {
                        value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') && !value.contains("  ") && value.trim() == value
                    }));
                    let of_metadata = Label::of_metadata(&file.metadata).unwrap();
                    let Body::Put(payload) = &file.body else { unreachable!() };
                    let object = bytes::Bytes::from(payload.clone());
                    let crate::LabelRead::Found(of_file) = file.format.read_label(&object, object.len() as u64) else { panic!() };
                    for label in [of_metadata, of_file] {
                        assert_eq!(label.cut().unwrap(), Some((range, plan.clone())));
                        assert_eq!(label.mark(), Some(file.mark));
                    }
                }
            });
        }
    }
}
