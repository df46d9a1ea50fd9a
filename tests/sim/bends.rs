//! The protocol of design.md, "Exactly once", broken on purpose, to see whether that is noticed.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use writer::FaultyStore;

/// What is left out of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Bend {
    /// Nothing.
    #[default]
    Not,
    /// The plan: the metadata of commits is left out, so the next owner cuts anew.
    NoPlans,
    /// The order: a plan is answered at once and committed a while later.
    PublishFirst,
    /// The new membership: a commit with an unknown outcome is said again instead of leaving the group.
    RepeatUnknown,
    /// The lease: commits for lanes that the member does not hold any more are sent, under its current generation.
    NoLease,
    /// If-None-Match: every PUT overwrites.
    NoCondition,
    /// The wait for dead letters: each is acknowledged before it is written.
    NoLetterAwaited,
    /// The HEAD before an upload is completed: it says that nothing is there.
    NoHead,
}

/// A process's client of the store that leaves something out.
#[derive(Clone)]
pub(crate) struct BentStore {
    store: FaultyStore,
    bend: Bend,
    /// Objects whose upload this process has begun and not completed yet.
    uploading: Arc<Mutex<BTreeSet<Path>>>,
}

impl BentStore {
    pub(crate) fn new(store: FaultyStore, bend: Bend) -> BentStore {
        BentStore { store, bend, uploading: Arc::default() }
    }

    fn uploading(&self) -> MutexGuard<'_, BTreeSet<Path>> {
        self.uploading.lock().expect("no panic holds it")
    }
}

impl fmt::Debug for BentStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BentStore({:?})", self.bend)
    }
}

impl fmt::Display for BentStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for BentStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let is_bent = self.bend == Bend::NoCondition && location.as_ref().ends_with(".parquet");
        let opts = if is_bent { PutOptions { mode: PutMode::Overwrite, ..opts } } else { opts };
        self.store.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.store.put_multipart_opts(location, opts).await?;
        self.uploading().insert(location.clone());
        Ok(Box::new(BentUpload { store: self.clone(), key: location.clone(), upload }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.bend == Bend::NoHead && options.head && self.uploading().contains(location) {
            return Err(Error::NotFound { path: location.to_string(), source: "bent".into() });
        }
        self.store.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

struct BentUpload {
    store: BentStore,
    key: Path,
    upload: Box<dyn MultipartUpload>,
}

impl fmt::Debug for BentUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BentUpload({})", self.key)
    }
}

#[async_trait]
impl MultipartUpload for BentUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.uploading().remove(&self.key);
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.uploading().remove(&self.key);
        self.upload.abort().await
    }
}
