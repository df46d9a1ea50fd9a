//! One object that goes up in parts while it grows; nothing of it is visible before it is completed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error as StoreError, Extensions, MultipartUpload, PutMultipartOptions, PutPayload};
use tokio::task::JoinSet;
use tracing::warn;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Failure, Verdict, refuses_conditions};
use crate::format::FileFooter;
use crate::s3_requests::{NumberedUploads, UploadIdSlot};
use crate::store::Store;

/// S3's limit ("Amazon S3 multipart upload limits").
const PARTS_MAX: usize = 10_000;

/// Parts of one object that are on their way at the same time.
const IN_FLIGHT_MAX: usize = 4;

/// Encoded bytes in order, handed out in pieces of exact size without a copy.
#[derive(Debug, Default)]
pub(crate) struct PartBuffer {
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl PartBuffer {
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.bytes += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first `bytes` bytes, or all when there are fewer.
    pub(crate) fn take(&mut self, bytes: usize) -> PutPayload {
        let mut missing = bytes.min(self.bytes);
        self.bytes -= missing;
        let mut pieces = Vec::new();
        while missing > 0 {
            let Some(mut chunk) = self.chunks.pop_front() else { break };
            if chunk.len() > missing {
                self.chunks.push_front(chunk.split_off(missing));
            }
            missing -= chunk.len();
            pieces.push(chunk);
        }
        pieces.into_iter().collect()
    }
}

/// An upload that was begun. Dropping it leaves its parts for [`Store::abort_orphans`]; [`Self::abort`] removes them.
pub(crate) struct Upload {
    key: String,
    store: Store,
    parts: Parts,
    on_their_way: JoinSet<Result<Receipt, Error>>,
    in_flight_bytes: Arc<AtomicUsize>,
    sent: usize,
    /// Of all bytes sent, for stores in which nothing but bytes tells whose an object is.
    digest: Xxh3,
    /// Its completion cannot be asked for again.
    completed: bool,
}

/// How parts get their numbers.
enum Parts {
    /// From us: a part is kept until the store has it, and a completion can be repeated.
    Numbered { uploads: NumberedUploads, path: Path, id: String, receipts: Vec<Option<PartId>> },
    /// By their order: a part that fails is lost, and with it the upload. Never locked, only owned: the mutex lets a file
    /// that is not published yet travel in an error.
    InOrder(Mutex<Box<dyn MultipartUpload>>),
}

/// What the store gives for a part: its number and name, where we gave the number.
type Receipt = Option<(usize, PartId)>;

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({}, {} parts)", self.key, self.sent)
    }
}

/// What came of [`Upload::complete`].
pub(crate) enum Completed {
    /// The object is visible.
    Done,
    /// Nobody knows; the object must be looked for.
    Unknown(StoreError),
}

impl Upload {
    /// Begins an upload whose object will carry `footer` as user metadata.
    pub(crate) async fn begin(store: &Store, key: &str, footer: &FileFooter) -> Result<Upload, Error> {
        let path = store.path("begin the upload of", key)?;
        let attributes = if store.abilities().metadata { footer.to_metadata() } else { Default::default() };
        let slot = UploadIdSlot::default();
        let mut extensions = Extensions::new();
        extensions.insert(slot.clone());
        let options = PutMultipartOptions { attributes, extensions, ..PutMultipartOptions::default() };
        let begun = store
            .retrying("begin the upload of", key, || store.objects().put_multipart_opts(&path, options.clone()))
            .await
            .map_err(|failure| store.error(failure))?;
        let parts = match (store.numbered_uploads(), slot.take()) {
            (Some(uploads), Some(id)) => Parts::Numbered { uploads: uploads.clone(), path, id, receipts: Vec::new() },
            (_, _) => Parts::InOrder(Mutex::new(begun)),
        };
        if store.bucket().is_some() && matches!(parts, Parts::InOrder(_)) {
            warn!(
                key,
                store = store.name(),
                "the store's answer holds no id of the upload: its parts are not sent again when they fail"
            );
        }
        Ok(Upload {
            key: key.to_owned(),
            store: store.clone(),
            parts,
            on_their_way: JoinSet::new(),
            in_flight_bytes: Arc::new(AtomicUsize::new(0)),
            sent: 0,
            digest: Xxh3::new(),
            completed: false,
        })
    }

    /// Bytes of parts that the store has not acknowledged.
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes.load(Ordering::Acquire)
    }

    /// Sends one part, waiting while too many are on their way.
    pub(crate) async fn send(&mut self, part: PutPayload) -> Result<(), Error> {
        if self.sent == PARTS_MAX {
            return Err(
                self.lost(format!("{PARTS_MAX} parts are the most that S3 takes: raise s3.part.size or cut earlier"))
            );
        }
        while self.on_their_way.len() >= IN_FLIGHT_MAX {
            self.acknowledged().await?;
        }
        part.iter().for_each(|chunk| self.digest.update(chunk));
        let bytes = part.content_length();
        let in_flight = Arc::clone(&self.in_flight_bytes);
        in_flight.fetch_add(bytes, Ordering::AcqRel);
        let (store, key, number) = (self.store.clone(), self.key.clone(), self.sent);
        self.sent += 1;
        match &mut self.parts {
            Parts::Numbered { uploads, path, id, receipts } => {
                receipts.push(None);
                let (uploads, path, id) = (uploads.clone(), path.clone(), id.clone());
                self.on_their_way.spawn(async move {
                    let receipt = send_until_there(&store, &key, &uploads, &path, &id, number, part).await;
                    in_flight.fetch_sub(bytes, Ordering::AcqRel);
                    Ok(Some((number, receipt?)))
                });
            }
            Parts::InOrder(upload) => {
                let sent = upload.get_mut().unwrap_or_else(PoisonError::into_inner).put_part(part);
                self.on_their_way.spawn(async move {
                    let answer = store.timed(sent).await;
                    in_flight.fetch_sub(bytes, Ordering::AcqRel);
                    answer.map(|()| None).map_err(|source| part_failed(&store, &key, source))
                });
            }
        }
        Ok(())
    }

    /// Waits until one more part is acknowledged; at once when none is on its way.
    pub(crate) async fn acknowledged(&mut self) -> Result<(), Error> {
        match self.on_their_way.join_next().await {
            None | Some(Ok(Ok(None))) => Ok(()),
            Some(Ok(Ok(Some((number, receipt))))) => {
                if let Parts::Numbered { receipts, .. } = &mut self.parts
                    && let Some(slot) = receipts.get_mut(number)
                {
                    *slot = Some(receipt);
                }
                Ok(())
            }
            Some(Ok(Err(error))) => Err(error),
            Some(Err(stopped)) => Err(self.lost(stopped.to_string())),
        }
    }

    /// 128 bits of XXH3 over all bytes sent.
    pub(crate) fn digest(&self) -> u128 {
        self.digest.digest128()
    }

    /// Whether a part is on its way or its outcome was not looked at.
    pub(crate) fn is_busy(&self) -> bool {
        !self.on_their_way.is_empty()
    }

    /// Waits until the store has every part.
    pub(crate) async fn settle(&mut self) -> Result<(), Error> {
        while self.is_busy() {
            self.acknowledged().await?;
        }
        Ok(())
    }

    /// Makes the object visible; only with `replaces` one that is there may be replaced. Where the store knows no condition
    /// for that, the caller must have looked. An upload whose parts are numbered by their order can be completed once.
    pub(crate) async fn complete(&mut self, replaces: bool) -> Result<Completed, Error> {
        if self.completed {
            return Err(self.lost("its completion was asked for before and the object is not there".to_owned()));
        }
        let answer = match &mut self.parts {
            Parts::Numbered { uploads, path, id, receipts } => {
                let receipts: Option<Vec<PartId>> = receipts.iter().cloned().collect();
                let Some(receipts) = receipts else { return Err(self.lost("a part is missing".to_owned())) };
                complete_numbered(&self.store, &self.key, uploads, path, id, &receipts, replaces).await
            }
            Parts::InOrder(upload) => {
                self.completed = true;
                let upload = upload.get_mut().unwrap_or_else(PoisonError::into_inner);
                let completed = self.store.timed(upload.complete()).await;
                let failed = |source| Box::new(self.store.failure("complete the upload of", &self.key, 1, source));
                completed.map(|_| ()).map_err(failed)
            }
        };
        match answer {
            Ok(()) => {
                self.completed = true;
                Ok(Completed::Done)
            }
            Err(failure) => match self.store.verdict(&failure.source) {
                Verdict::Permanent(_) => Err(self.store.error(failure)),
                // Absent: the upload is gone, because an earlier try completed it or somebody removed it.
                Verdict::Transient | Verdict::Present | Verdict::Absent => Ok(Completed::Unknown(failure.source)),
            },
        }
    }

    /// Whether nothing of it can be left in the store.
    pub(crate) fn was_completed(&self) -> bool {
        self.completed
    }

    /// Removes its parts. What cannot be removed stays invisible until [`Store::abort_orphans`] or the bucket's lifecycle
    /// rule finds it.
    pub(crate) async fn abort(mut self) {
        self.on_their_way.shutdown().await;
        let answer = match &mut self.parts {
            Parts::Numbered { uploads, path, id, .. } => {
                self.store.timed(uploads.plain.abort_multipart(path, id)).await
            }
            Parts::InOrder(upload) => {
                let upload = upload.get_mut().unwrap_or_else(PoisonError::into_inner);
                self.store.timed(upload.abort()).await
            }
        };
        match answer {
            Ok(()) => {}
            Err(error) if self.store.verdict(&error) == Verdict::Absent => {}
            Err(error) => {
                warn!(key = %self.key, store = self.store.name(), %error, "could not remove an upload, its parts stay invisible until upload.orphan.age.ms has passed");
            }
        }
    }

    /// The error of an upload whose object is not there after [`Completed::Unknown`].
    pub(crate) fn not_completed(&self, answer: StoreError) -> Error {
        match (&self.parts, self.store.verdict(&answer)) {
            (Parts::Numbered { .. }, Verdict::Transient | Verdict::Present) => {
                self.store.error(self.store.failure("complete the upload of", &self.key, 1, answer))
            }
            (Parts::Numbered { .. }, Verdict::Absent | Verdict::Permanent(_)) | (Parts::InOrder(_), _) => {
                self.lost(answer.to_string())
            }
        }
    }

    fn lost(&self, reason: String) -> Error {
        lost(&self.store, &self.key, reason)
    }
}

/// Sends a part under its number as often as it takes: in turns of `s3.part.retries` tries, `retry.backoff.ms` apart. Ends
/// without it only when the store refuses or the upload is gone.
async fn send_until_there(
    store: &Store,
    key: &str,
    uploads: &NumberedUploads,
    path: &Path,
    id: &String,
    number: usize,
    part: PutPayload,
) -> Result<PartId, Error> {
    loop {
        let sent =
            store.retrying("upload a part of", key, || uploads.plain.put_part(path, id, number, part.clone())).await;
        let failure = match sent {
            Ok(receipt) => return Ok(receipt),
            Err(failure) => failure,
        };
        match store.verdict(&failure.source) {
            Verdict::Permanent(_) => return Err(store.error(failure)),
            Verdict::Absent => return Err(lost(store, key, failure.source.to_string())),
            Verdict::Transient | Verdict::Present => {
                warn!(error = %failure, "store does not answer, sending the part again");
                tokio::time::sleep(store.rules().redelivery).await;
            }
        }
    }
}

/// Completes an upload, under the condition that nothing is replaced if the store knows it and `replaces` does not say
/// otherwise.
async fn complete_numbered(
    store: &Store,
    key: &str,
    uploads: &NumberedUploads,
    path: &Path,
    id: &String,
    receipts: &[PartId],
    replaces: bool,
) -> Result<(), Box<Failure>> {
    let complete = |uploads: &Arc<dyn MultipartStore>| {
        let uploads = Arc::clone(uploads);
        async move {
            let ask = || uploads.complete_multipart(path, id, receipts.to_vec());
            store.retrying("complete the upload of", key, ask).await.map(|_| ())
        }
    };
    if replaces || !store.completes_carefully() {
        return complete(&uploads.plain).await;
    }
    match complete(&uploads.careful).await {
        Err(failure) if refuses_conditions(&failure.source) => {
            warn!(store = store.name(), answer = %failure.source, "the store does not know If-None-Match for completions of uploads");
            store.complete_plainly();
            complete(&uploads.plain).await
        }
        answer => answer,
    }
}

fn lost(store: &Store, key: &str, reason: String) -> Error {
    Error::Lost { key: key.to_owned(), store: store.name().to_owned(), reason }
}

fn part_failed(store: &Store, key: &str, source: StoreError) -> Error {
    match store.verdict(&source) {
        Verdict::Permanent(_) => store.error(store.failure("upload a part of", key, 1, source)),
        Verdict::Transient | Verdict::Present | Verdict::Absent => lost(store, key, source.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, batch, context, noisy_rows, read_parquet};
    use crate::cut::OpenCut;
    use crate::error::PublishError;
    use crate::publish::{Body, Committer, FinishedFile, ObjectCommitter, OnExisting};
    use crate::store::{Abilities, Extras, RetryRules};
    use arrow::array::Array;
    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use model::{Nonce, TopicPartition};
    use object_store::memory::InMemory;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartId, ObjectMeta, ObjectStore, ObjectStoreExt,
        PutOptions, PutResult, Result,
    };
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    #[test]
    fn parts_have_the_exact_size_and_keep_the_order() {
        let mut buffer = PartBuffer::default();
        for chunk in ["abc", "", "defgh", "i"] {
            buffer.push(Bytes::from_static(chunk.as_bytes()));
        }
        assert_eq!(buffer.bytes(), 9);
        let mut taken = Vec::new();
        while buffer.bytes() > 0 {
            taken.push(Bytes::from(buffer.take(4)));
        }
        assert_eq!(taken, ["abcd", "efgh", "i"]);
        assert_eq!(buffer.take(4).content_length(), 0);
    }

    /// What becomes of the requests of an upload, in turn, the last one for ever: `None` is fine.
    type Answers = Vec<Option<Fault>>;

    #[derive(Debug, Clone, Copy)]
    enum Fault {
        /// It does not happen, it is unheard.
        Before,
        /// It happens, unheard.
        After,
        Hang,
        Status(&'static str),
    }

    /// What a bucket holds.
    #[derive(Debug, Default)]
    struct Held {
        objects: InMemory,
        uploads: Mutex<BTreeMap<String, BTreeMap<usize, Bytes>>>,
        begun: AtomicU32,
        aborted: AtomicU32,
    }

    /// A client of a bucket in memory whose uploads have numbers.
    #[derive(Debug)]
    struct Client {
        held: Arc<Held>,
        parts: Answers,
        completions: Answers,
        asked: [AtomicU32; 2],
        replaces: bool,
    }

    fn failed(text: &str) -> StoreError {
        StoreError::Generic { store: "S3", source: text.to_owned().into() }
    }

    impl Client {
        async fn meet<T>(&self, which: usize, operation: impl Future<Output = Result<T>>) -> Result<T> {
            let answers = [&self.parts, &self.completions][which];
            let turn = self.asked[which].fetch_add(1, Ordering::SeqCst) as usize;
            match answers.get(turn).or(answers.last()).copied().flatten() {
                None => operation.await,
                Some(Fault::Before) => Err(failed("connection reset")),
                Some(Fault::After) => operation.await.and(Err(failed("connection reset"))),
                Some(Fault::Hang) => std::future::pending().await,
                Some(Fault::Status(text)) => Err(failed(&format!("Server returned non-2xx status code: {text}"))),
            }
        }
    }

    impl fmt::Display for Client {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Client")
        }
    }

    #[async_trait]
    impl ObjectStore for Client {
        async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            self.held.objects.put_opts(at, payload, options).await
        }
        async fn put_multipart_opts(
            &self,
            at: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            options.extensions.get::<UploadIdSlot>().unwrap().fill(self.create_multipart(at).await?);
            self.held.objects.put_multipart_opts(at, options).await
        }
        async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
            self.held.objects.get_opts(at, options).await
        }
        fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.held.objects.delete_stream(at)
        }
        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.held.objects.list(prefix)
        }
        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.held.objects.list_with_delimiter(prefix).await
        }
        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.held.objects.copy_opts(from, to, options).await
        }
    }

    #[async_trait]
    impl MultipartStore for Client {
        async fn create_multipart(&self, _: &Path) -> Result<MultipartId> {
            let id = self.held.begun.fetch_add(1, Ordering::SeqCst).to_string();
            self.held.uploads.lock().unwrap().insert(id.clone(), BTreeMap::new());
            Ok(id)
        }
        async fn put_part(&self, at: &Path, id: &MultipartId, number: usize, part: PutPayload) -> Result<PartId> {
            let put = async {
                let mut uploads = self.held.uploads.lock().unwrap();
                let upload = uploads.get_mut(id).ok_or_else(|| gone(at))?;
                upload.insert(number, part.into());
                Ok(PartId { content_id: number.to_string() })
            };
            self.meet(0, put).await
        }
        async fn complete_multipart(&self, at: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
            let complete = async {
                if !self.replaces && self.held.objects.head(at).await.is_ok() {
                    return Err(StoreError::Precondition { path: at.to_string(), source: "it is there".into() });
                }
                let upload = self.held.uploads.lock().unwrap().remove(id).ok_or_else(|| gone(at))?;
                let numbers: Vec<usize> = parts.iter().map(|part| part.content_id.parse().unwrap()).collect();
                assert!(upload.keys().copied().eq(numbers), "all parts, in their order");
                self.held.objects.put(at, upload.into_values().collect()).await
            };
            self.meet(1, complete).await
        }
        async fn abort_multipart(&self, at: &Path, id: &MultipartId) -> Result<()> {
            self.held.aborted.fetch_add(1, Ordering::SeqCst);
            self.held.uploads.lock().unwrap().remove(id).map(|_| ()).ok_or_else(|| gone(at))
        }
    }

    fn gone(at: &Path) -> StoreError {
        StoreError::NotFound { path: at.to_string(), source: "NoSuchUpload".into() }
    }

    struct World {
        store: Store,
        held: Arc<Held>,
        plain: Arc<Client>,
        careful: Arc<Client>,
    }

    /// `completions` meet the client that asks not to replace anything.
    fn world(parts: Answers, completions: Answers) -> World {
        let held = Arc::new(Held::default());
        let client = |completions: Answers, replaces| {
            let asked = Default::default();
            Arc::new(Client { held: Arc::clone(&held), parts: parts.clone(), completions, asked, replaces })
        };
        let (plain, careful) = (client(vec![None], true), client(completions, false));
        let uploads = NumberedUploads {
            plain: Arc::clone(&plain) as Arc<dyn MultipartStore>,
            careful: Arc::clone(&careful) as Arc<dyn MultipartStore>,
        };
        let extras = Extras { uploads: Some(uploads), ..Extras::default() };
        let abilities = Abilities { metadata: true, conditional: true };
        let objects = Arc::clone(&plain) as Arc<dyn ObjectStore>;
        let store = Store::assembled(objects, extras, "S3".to_owned(), abilities, RetryRules::default(), 1);
        World { store, held, plain, careful }
    }

    /// A file of three parts.
    async fn finished(store: &Store, nonce: u64) -> Vec<FinishedFile> {
        let lane = TopicPartition::new("t", 0);
        let mut cut = OpenCut::new(context(store, "x"), lane.clone(), Nonce(nonce));
        for from in (0..12_000).step_by(4_000) {
            cut.append(&batch(&lane, from, noisy_rows(from, 4_000, 1_024)), &"p".into()).unwrap();
            cut.spill(0).await.unwrap();
        }
        conformance::finish(cut, 0, 12_000).await.unwrap()
    }

    async fn assert_whole(world: &World, key: &str) {
        let object = world.store.read(key).await.unwrap().unwrap();
        assert_eq!(read_parquet(object).len(), 12_000);
        assert!(world.held.uploads.lock().unwrap().is_empty(), "no upload is left");
    }

    #[tokio::test(start_paused = true)]
    async fn numbered_uploads_conform() {
        let World { store, held, .. } = world(vec![None], vec![None]);
        assert!(conformance::refuses_to_replace_by_completion(&store, "r").await);
        conformance::newest(&store, "n").await;
        conformance::committer(&ObjectCommitter::new(store.clone(), OnExisting::Fail), &store, "c").await;
        assert!(held.uploads.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_part_is_lost_however_long_the_store_is_away() {
        for fault in [Fault::Before, Fault::After, Fault::Hang, Fault::Status("503 Slow Down: <Code>SlowDown</Code>")] {
            // Far more than s3.part.retries.
            let world = world(vec![Some(fault); 40].into_iter().chain([None]).collect(), vec![None]);
            let files = finished(&world.store, 1).await;
            let key = files[0].key.clone();
            assert!(files[0].is_multipart());
            ObjectCommitter::new(world.store.clone(), OnExisting::Fail).publish(files).await.unwrap();
            assert_whole(&world, &key).await;
            assert_eq!(world.held.begun.load(Ordering::SeqCst), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn parts_on_their_way_count_as_memory_until_the_store_has_them() {
        let world = world(vec![Some(Fault::Before); 8].into_iter().chain([None]).collect(), vec![None]);
        let mut upload = Upload::begin(&world.store, "k", &FileFooter::default()).await.unwrap();
        upload.send(vec![0; 1_000].into()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(upload.in_flight_bytes(), 1_000);
        upload.settle().await.unwrap();
        assert_eq!(upload.in_flight_bytes(), 0);
        upload.abort().await;
        assert_eq!(world.held.aborted.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_part_says_what_to_do_and_a_removed_upload_is_lost() {
        let world = world(vec![Some(Fault::Status("403 Forbidden: <Code>AccessDenied</Code>"))], vec![None]);
        let mut upload = Upload::begin(&world.store, "k", &FileFooter::default()).await.unwrap();
        upload.send(vec![0; 10].into()).await.unwrap();
        let error = upload.settle().await.unwrap_err();
        assert!(matches!(error, Error::Permanent { .. }), "{error}");
        let world = self::world(vec![None], vec![None]);
        let mut upload = Upload::begin(&world.store, "k", &FileFooter::default()).await.unwrap();
        world.held.uploads.lock().unwrap().clear();
        upload.send(vec![0; 10].into()).await.unwrap();
        assert!(matches!(upload.settle().await.unwrap_err(), Error::Lost { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_completion_is_repeated_until_its_outcome_is_known() {
        use Fault::{After, Before, Hang, Status};
        let slow = Some(Status("503 Slow Down: <Code>SlowDown</Code>"));
        for (completions, calls) in [
            (vec![Some(After), None], 1),
            (vec![Some(Before), None], 1),
            (vec![Some(Hang), Some(After), None], 1),
            // As long as an outage may last: files stay finished and are published again.
            (vec![Some(Before), slow, Some(Hang), Some(Before), None], 2),
            (vec![Some(Before), Some(Before), Some(After), None], 1),
        ] {
            let world = world(vec![None], completions.clone());
            let committer = ObjectCommitter::new(world.store.clone(), OnExisting::Fail);
            let (mut files, mut asked) = (finished(&world.store, 1).await, 1);
            let key = files[0].key.clone();
            let published = loop {
                match committer.publish(files).await {
                    Ok(published) => break published,
                    Err(PublishError::Transient { files: again, .. }) => (files, asked) = (again, asked + 1),
                    Err(error) => panic!("{completions:?}: {error}"),
                }
            };
            assert_eq!((asked, published[0].already_there), (calls, false), "{completions:?}");
            assert_whole(&world, &key).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_store_itself_refuses_a_completion_that_would_replace_what_came_after_the_look() {
        // The rival's object appears between our look and our completion.
        let world = world(vec![None], vec![None]);
        let files = finished(&world.store, 1).await;
        let rival = finished(&world.store, 2).await;
        let key = files[0].key.clone();
        let Body::Upload(_) = &files[0].body else { unreachable!() };
        ObjectCommitter::new(world.store.clone(), OnExisting::Fail).publish(rival).await.unwrap();
        let path = Path::from(key.as_str());
        let mut file = files.into_iter().next().unwrap();
        let Body::Upload(upload) = &mut file.body else { unreachable!() };
        assert!(matches!(upload.complete(false).await.unwrap(), Completed::Unknown(StoreError::Precondition { .. })));
        let object = world.store.read(&key).await.unwrap().unwrap();
        assert_eq!(file.format.mark_of(&object).unwrap().nonce, Nonce(2), "{path}");
        // On purpose it goes.
        assert!(matches!(upload.complete(true).await.unwrap(), Completed::Done));
        let object = world.store.read(&key).await.unwrap().unwrap();
        assert_eq!(file.format.mark_of(&object).unwrap().nonce, Nonce(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_knows_no_condition_for_completions_is_asked_without() {
        let unknown = Some(Fault::Status("501 Not Implemented: <Code>NotImplemented</Code>"));
        let world = world(vec![None], vec![unknown]);
        let committer = ObjectCommitter::new(world.store.clone(), OnExisting::Fail);
        let files = finished(&world.store, 1).await;
        let key = files[0].key.clone();
        committer.publish(files).await.unwrap();
        assert_whole(&world, &key).await;
        assert!(!world.store.completes_carefully());
        let again = committer.publish(finished(&world.store, 1).await).await.unwrap();
        assert!(again[0].already_there);
        assert_eq!(
            (world.careful.asked[1].load(Ordering::SeqCst), world.plain.asked[1].load(Ordering::SeqCst)),
            (1, 1)
        );
    }
}
