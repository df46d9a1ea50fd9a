//! An object store whose requests meet chosen fates: what happened and what was reported are two things.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
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

/// A request that reached the store, which need not be when, or whether, its sender heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Happened<'a> {
    /// Whose handle it came through ([`FaultyStore::handle`]).
    pub sender: &'a str,
    /// What was asked.
    pub request: Request,
    /// Of which object.
    pub key: &'a str,
    /// Its sender had given up on it, or was gone.
    pub is_late: bool,
    /// Whether the store did it.
    pub is_done: bool,
}

type Fates = dyn Fn(Request, &str) -> Fate + Send + Sync;
type Observer = dyn FnMut(&Happened<'_>) + Send;
type WallClock = dyn Fn() -> i64 + Send + Sync;

struct Inner {
    store: Arc<dyn ObjectStore>,
    fates: Box<Fates>,
    observer: Mutex<Box<Observer>>,
    counts: Mutex<BTreeMap<Request, u64>>,
    replaced: Mutex<Vec<String>>,
    uploads: Mutex<BTreeMap<u64, String>>,
    clock: Mutex<Option<Arc<WallClock>>>,
    /// When objects were written by that clock.
    written_ms: Mutex<BTreeMap<String, i64>>,
}

/// A real store behind a chooser of fates. Equal fates and equal requests give equal worlds. A request that was sent goes
/// its way whatever becomes of its sender: dropping the future does not take it back.
#[derive(Clone)]
pub struct FaultyStore(Arc<Inner>, Arc<str>);

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
        let inner = Inner {
            store,
            fates: Box::new(fates),
            observer: Mutex::new(Box::new(|_| {})),
            counts: Mutex::default(),
            replaced: Mutex::default(),
            uploads: Mutex::default(),
            clock: Mutex::default(),
            written_ms: Mutex::default(),
        };
        FaultyStore(Arc::new(inner), Arc::from(""))
    }

    /// The same store as another client, `sender`, has it.
    pub fn handle(&self, sender: &str) -> FaultyStore {
        FaultyStore(Arc::clone(&self.0), Arc::from(sender))
    }

    /// Who hears, from now on, of every request when it has reached the store. It must not call the store.
    pub fn set_observer(&self, observer: impl FnMut(&Happened<'_>) + Send + 'static) {
        *lock(&self.0.observer) = Box::new(observer);
    }

    /// The wall clock, in milliseconds, that says from now on when an object was written.
    pub fn set_clock(&self, now_ms: impl Fn() -> i64 + Send + Sync + 'static) {
        *lock(&self.0.clock) = Some(Arc::new(now_ms));
    }

    fn note_written(&self, key: &Path) {
        let clock = lock(&self.0.clock).clone();
        if let Some(now_ms) = clock {
            lock(&self.0.written_ms).insert(key.to_string(), now_ms());
        }
    }

    fn dated(&self, mut object: ObjectMeta) -> ObjectMeta {
        if let Some(at_ms) = lock(&self.0.written_ms).get(object.location.as_ref()) {
            let later_ms = at_ms - object.last_modified.timestamp_millis();
            let span = Duration::from_millis(later_ms.unsigned_abs());
            let at = object.last_modified;
            object.last_modified = if later_ms < 0 { at - span } else { at + span };
        }
        object
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

    /// Lets chance befall `operation`.
    async fn befall<T: Send + 'static>(
        &self,
        request: Request,
        key: &Path,
        operation: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.meet(self.fate(request, key), request, key, operation).await
    }

    /// Lets `fate` befall `operation`.
    async fn meet<T: Send + 'static>(
        &self,
        fate: Fate,
        request: Request,
        key: &Path,
        operation: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let reach = {
            let (this, key) = (self.clone(), key.clone());
            move |is_late: bool| async move {
                let answer = operation.await;
                let (sender, key) = (&*this.1, key.as_ref());
                let happened = Happened { sender, request, key, is_late, is_done: answer.is_ok() };
                (lock(&this.0.observer))(&happened);
                answer
            }
        };
        match fate {
            Fate::Fine => reach(false).await,
            Fate::FailBefore => Err(failed("connection reset before the request was read")),
            Fate::FailAfter => {
                // What the request itself says is lost with the answer.
                let _ = reach(false).await;
                Err(failed("connection reset before the answer"))
            }
            Fate::Hang => std::future::pending().await,
            Fate::HangThenHappen(later) => {
                tokio::spawn(async move {
                    tokio::time::sleep(later).await;
                    let _ = reach(true).await;
                });
                std::future::pending().await
            }
            Fate::Slow(time) => {
                let (answer, answered) = tokio::sync::oneshot::channel();
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    let is_late = answer.is_closed();
                    // Nobody may wait for it any more.
                    let _ = answer.send(reach(is_late).await);
                });
                answered.await.unwrap_or_else(|_| Err(failed("the runtime is gone")))
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

fn no_such_upload(key: &Path) -> Error {
    Error::NotFound { path: key.to_string(), source: "NoSuchUpload: it was completed or aborted".into() }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (this, key) = (self.clone(), location.clone());
        self.befall(Request::Put, location, async move {
            if opts.mode != PutMode::Create && this.0.store.head(&key).await.is_ok() {
                this.note_replaced(&key);
            }
            let put = this.0.store.put_opts(&key, payload, opts).await?;
            this.note_written(&key);
            Ok(put)
        })
        .await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let (this, key) = (self.clone(), location.clone());
        self.befall(Request::CreateUpload, location, async move {
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
        let request = if options.head { Request::Head } else { Request::Get };
        self.befall(request, location, async move { this.0.store.get_opts(&key, options).await }).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (this, key, ranges) = (self.clone(), location.clone(), ranges.to_vec());
        self.befall(Request::Get, location, async move { this.0.store.get_ranges(&key, &ranges).await }).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move {
                    let key = location?;
                    let (store, target) = (Arc::clone(&this.0.store), key.clone());
                    this.befall(Request::Delete, &key, async move { store.delete(&target).await }).await?;
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
            let store = Arc::clone(&this.0.store);
            let dates = this.clone();
            let listed = async move {
                Ok(store.list(prefix.as_ref()).map_ok(|object| dates.dated(object)).collect::<Vec<_>>().await)
            };
            match this.meet(fate, Request::List, &key, listed).await {
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
        self.befall(Request::List, &key, async move { this.0.store.list_with_delimiter(prefix.as_ref()).await }).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (this, from, target) = (self.clone(), from.clone(), to.clone());
        self.befall(Request::Copy, to, async move { this.0.store.copy_opts(&from, &target, options).await }).await
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
        let (store, key) = (self.store.clone(), self.key.clone());
        let part = match self.upload.try_lock() {
            // The store numbers parts when they are handed in, so this one is handed in now.
            Ok(mut upload) if happens => upload.put_part(data),
            Ok(_) => Box::pin(async { Ok(()) }),
            Err(_) => Box::pin(async { Err(failed("a part was sent while the upload was being completed")) }),
        };
        Box::pin(async move { store.meet(fate, Request::PutPart, &key, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fate = self.store.fate(Request::CompleteUpload, &self.key);
        if self.lost_part {
            return Err(failed("Missing part"));
        }
        let (upload, store, key, id) = (Arc::clone(&self.upload), self.store.clone(), self.key.clone(), self.id);
        self.store
            .meet(fate, Request::CompleteUpload, &self.key, async move {
                if !lock(&store.0.uploads).contains_key(&id) {
                    return Err(no_such_upload(&key));
                }
                if store.0.store.head(&key).await.is_ok() {
                    store.note_replaced(&key);
                }
                let completed = upload.lock().await.complete().await;
                lock(&store.0.uploads).remove(&id);
                store.note_written(&key);
                completed
            })
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        let fate = self.store.fate(Request::AbortUpload, &self.key);
        let (upload, store, key, id) = (Arc::clone(&self.upload), self.store.clone(), self.key.clone(), self.id);
        self.store
            .meet(fate, Request::AbortUpload, &self.key, async move {
                if !lock(&store.0.uploads).contains_key(&id) {
                    return Err(no_such_upload(&key));
                }
                let aborted = upload.lock().await.abort().await;
                lock(&store.0.uploads).remove(&id);
                aborted
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn store(fate: impl Fn(Request) -> Fate + Send + Sync + 'static) -> FaultyStore {
        FaultyStore::new(Arc::new(InMemory::new()), move |request, _| fate(request))
    }

    async fn gives_up<T>(request: impl Future<Output = T>) {
        assert!(tokio::time::timeout(Duration::from_secs(1), request).await.is_err(), "it was answered in time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_was_sent_happens_though_its_sender_is_gone() {
        for fate in [Fate::Slow(Duration::from_secs(5)), Fate::HangThenHappen(Duration::from_secs(5))] {
            let (store, key) =
                (store(move |request| if request == Request::Put { fate } else { Fate::Fine }), Path::from("a"));
            let heard = Arc::new(Mutex::new(Vec::new()));
            let ear = heard.clone();
            store.set_observer(move |one| lock(&ear).push((one.sender.to_owned(), one.request, one.is_late)));
            gives_up(store.handle("w").put(&key, PutPayload::from_static(b"x"))).await;
            assert!(store.head(&key).await.is_err());
            tokio::time::sleep(Duration::from_secs(6)).await;
            assert!(store.head(&key).await.is_ok(), "{fate:?}");
            assert!(lock(&heard).contains(&("w".to_owned(), Request::Put, true)), "{fate:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_completion_that_comes_late_happens_once_and_not_after_an_abort() {
        let late = Fate::HangThenHappen(Duration::from_secs(5));
        let store = store(move |request| if request == Request::CompleteUpload { late } else { Fate::Fine });
        for is_aborted in [false, true] {
            let key = Path::from(format!("aborted={is_aborted}"));
            let mut upload = store.put_multipart_opts(&key, PutMultipartOptions::default()).await.unwrap();
            upload.put_part(PutPayload::from_static(b"x")).await.unwrap();
            gives_up(upload.complete()).await;
            if is_aborted {
                upload.abort().await.unwrap();
            }
            drop(upload);
            tokio::time::sleep(Duration::from_secs(6)).await;
            assert_eq!(store.head(&key).await.is_ok(), !is_aborted);
        }
        assert!(store.open_uploads().is_empty());
    }
}
