//! An object store whose requests meet chosen fates: what happened and what was reported are two things.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// One object in one request.
    Put,
    /// Begin of an upload.
    CreateUpload,
    /// One part of an upload.
    PutPart,
    /// End of an upload.
    CompleteUpload,
    /// Removal of an upload.
    AbortUpload,
    /// Read.
    Get,
    /// Look.
    Head,
    /// Names below a prefix.
    List,
    /// Removal of an object.
    Delete,
    /// Copy of an object.
    Copy,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It happens and says so.
    Fine,
    /// It does not happen; the connection broke.
    FailBefore,
    /// It happens; the connection broke before the answer.
    FailAfter,
    /// It does not happen and is never answered.
    Hang,
    /// It is never answered and happens this much later, when the sender may have given up.
    HangThenHappen(Duration),
    /// It happens and is answered after this time.
    Slow(Duration),
    /// It does not happen: the store asks to come again.
    Throttled,
    /// It does not happen: S3's 409 for two writers at once.
    Conflict,
    /// It does not happen: no permission.
    Denied,
}

type Fates = dyn Fn(Request, &str) -> Fate + Send + Sync;

struct Inner {
    store: Arc<dyn ObjectStore>,
    fates: Box<Fates>,
    counts: Mutex<BTreeMap<Request, u64>>,
    replaced: Mutex<Vec<String>>,
    uploads: Mutex<BTreeMap<u64, String>>,
}

/// A real store behind a chooser of fates. Equal fates and equal requests give equal worlds.
#[derive(Clone)]
pub struct FaultyStore(Arc<Inner>);

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.0.store)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FaultyStore {
    /// Sends every request on to `store` as `fates` says, which is asked once per request with its kind and key.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        fates: impl Fn(Request, &str) -> Fate + Send + Sync + 'static,
    ) -> FaultyStore {
        FaultyStore(Arc::new(Inner {
            store,
            fates: Box::new(fates),
            counts: Mutex::default(),
            replaced: Mutex::default(),
            uploads: Mutex::default(),
        }))
    }

    /// How many requests of a kind were sent.
    pub fn count(&self, request: Request) -> u64 {
        lock(&self.0.counts).get(&request).copied().unwrap_or(0)
    }

    /// Objects that were written over, in order; stays empty where nothing is ever overwritten.
    pub fn replaced(&self) -> Vec<String> {
        lock(&self.0.replaced).clone()
    }

    /// Keys of uploads that were begun and neither completed nor aborted.
    pub fn open_uploads(&self) -> Vec<String> {
        lock(&self.0.uploads).values().cloned().collect()
    }

    fn fate(&self, request: Request, key: &Path) -> Fate {
        *lock(&self.0.counts).entry(request).or_default() += 1;
        (self.0.fates)(request, key.as_ref())
    }

    /// Lets `fate` befall `operation`.
    async fn befall<T: Send + 'static>(
        fate: Fate,
        key: &Path,
        operation: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match fate {
            Fate::Fine => operation.await,
            Fate::FailBefore => Err(failed("connection reset before the request was read")),
            Fate::FailAfter => {
                // What the request itself says is lost with the answer.
                let _ = operation.await;
                Err(failed("connection reset before the answer"))
            }
            Fate::Hang => std::future::pending().await,
            Fate::HangThenHappen(later) => {
                tokio::spawn(async move {
                    tokio::time::sleep(later).await;
                    let _ = operation.await;
                });
                std::future::pending().await
            }
            Fate::Slow(time) => {
                tokio::time::sleep(time).await;
                operation.await
            }
            Fate::Throttled => Err(failed("Server returned non-2xx status code: 503 Slow Down: <Code>SlowDown</Code>")),
            Fate::Conflict => {
                Err(Error::AlreadyExists { path: key.to_string(), source: "ConditionalRequestConflict".into() })
            }
            Fate::Denied => Err(Error::PermissionDenied { path: key.to_string(), source: "AccessDenied".into() }),
        }
    }

    fn note_replaced(&self, key: &Path) {
        lock(&self.0.replaced).push(key.to_string());
    }
}

fn failed(text: &str) -> Error {
    Error::Generic { store: "FaultyStore", source: text.to_owned().into() }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (this, key) = (self.clone(), location.clone());
        let fate = self.fate(Request::Put, location);
        FaultyStore::befall(fate, location, async move {
            if opts.mode != PutMode::Create && this.0.store.head(&key).await.is_ok() {
                this.note_replaced(&key);
            }
            this.0.store.put_opts(&key, payload, opts).await
        })
        .await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let (this, key) = (self.clone(), location.clone());
        let fate = self.fate(Request::CreateUpload, location);
        FaultyStore::befall(fate, location, async move {
            let upload = this.0.store.put_multipart_opts(&key, opts).await?;
            let id = {
                let mut open = lock(&this.0.uploads);
                let id = open.last_key_value().map_or(0, |(id, _)| id + 1);
                open.insert(id, key.to_string());
                id
            };
            let upload = Arc::new(tokio::sync::Mutex::new(upload));
            Ok(Box::new(FaultyUpload { store: this, key, id, upload, lost_part: false }) as Box<dyn MultipartUpload>)
        })
        .await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (this, key) = (self.clone(), location.clone());
        let fate = self.fate(if options.head { Request::Head } else { Request::Get }, location);
        FaultyStore::befall(fate, location, async move { this.0.store.get_opts(&key, options).await }).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (this, key, ranges) = (self.clone(), location.clone(), ranges.to_vec());
        let fate = self.fate(Request::Get, location);
        FaultyStore::befall(fate, location, async move { this.0.store.get_ranges(&key, &ranges).await }).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move {
                    let key = location?;
                    let fate = this.fate(Request::Delete, &key);
                    let (store, target) = (Arc::clone(&this.0.store), key.clone());
                    FaultyStore::befall(fate, &key, async move { store.delete(&target).await }).await?;
                    Ok(key)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let key = prefix.clone().unwrap_or_default();
        let fate = self.fate(Request::List, &key);
        stream::once(async move {
            let listed = async move { Ok(this.0.store.list(prefix.as_ref()).collect::<Vec<_>>().await) };
            match FaultyStore::befall(fate, &key, listed).await {
                Ok(objects) => stream::iter(objects).boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let key = prefix.clone().unwrap_or_default();
        let fate = self.fate(Request::List, &key);
        FaultyStore::befall(fate, &key, async move { this.0.store.list_with_delimiter(prefix.as_ref()).await }).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (this, from, target) = (self.clone(), from.clone(), to.clone());
        let fate = self.fate(Request::Copy, to);
        FaultyStore::befall(fate, to, async move { this.0.store.copy_opts(&from, &target, options).await }).await
    }
}

struct FaultyUpload {
    store: FaultyStore,
    key: Path,
    id: u64,
    upload: Arc<tokio::sync::Mutex<Box<dyn MultipartUpload>>>,
    lost_part: bool,
}

impl fmt::Debug for FaultyUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyUpload({}, {})", self.key, self.id)
    }
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let fate = self.store.fate(Request::PutPart, &self.key);
        let happens = matches!(fate, Fate::Fine | Fate::Slow(_));
        if !happens {
            // Without its receipt a part cannot be named in the completion, whether it happened or not.
            self.lost_part = true;
        }
        let key = self.key.clone();
        let part = match self.upload.try_lock() {
            // The store numbers parts when they are handed in, so this one is handed in now.
            Ok(mut upload) if happens => upload.put_part(data),
            Ok(_) => Box::pin(async { Ok(()) }),
            Err(_) => Box::pin(async { Err(failed("a part was sent while the upload was being completed")) }),
        };
        Box::pin(async move { FaultyStore::befall(fate, &key, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fate = self.store.fate(Request::CompleteUpload, &self.key);
        if self.lost_part {
            return Err(failed("Missing part"));
        }
        let (upload, store, key, id) = (Arc::clone(&self.upload), self.store.clone(), self.key.clone(), self.id);
        FaultyStore::befall(fate, &self.key, async move {
            if store.0.store.head(&key).await.is_ok() {
                store.note_replaced(&key);
            }
            let completed = upload.lock().await.complete().await;
            lock(&store.0.uploads).remove(&id);
            completed
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        let fate = self.store.fate(Request::AbortUpload, &self.key);
        let (upload, store, id) = (Arc::clone(&self.upload), self.store.clone(), self.id);
        FaultyStore::befall(fate, &self.key, async move {
            let aborted = upload.lock().await.abort().await;
            lock(&store.0.uploads).remove(&id);
            aborted
        })
        .await
    }
}
