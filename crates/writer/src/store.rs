//! The object store as sluice uses it: create, read, list and probe, with bounded retries and errors that say what to do.

use std::fmt;
use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{
    Attributes, Error as StoreError, GetOptions, GetRange, ObjectStore, PutMode, PutOptions, PutPayload, TagSet,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tracing::warn;

use crate::error::{Error, Failure, Verdict, verdict, with_cause};
use crate::label::Label;
use crate::s3_requests::{NumberedUploads, S3Bucket};

/// Time for the look after the last try of a PUT whose outcome is unknown. A store that answers at all does so sooner; for
/// one that is dead it is all that is added to the tries.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// How often and how long a request is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRules {
    /// Tries in all, at least 1 (`s3.part.retries`, which upstream hands to the SDK as maximal attempts).
    pub attempts: u32,
    /// Upper bound of the wait before the second try; doubles with each (`s3.retry.backoff.ms`).
    pub backoff: Duration,
    /// Upper bound of every wait.
    pub backoff_max: Duration,
    /// Time for one try; after it the outcome is unknown.
    pub attempt_timeout: Duration,
    /// How long a caller waits after [`Error::Transient`] before it calls again (`retry.backoff.ms`).
    pub redelivery: Duration,
}

impl Default for RetryRules {
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff: Duration::from_millis(200),
            backoff_max: Duration::from_secs(20),
            attempt_timeout: Duration::from_secs(60),
            redelivery: Duration::from_secs(5),
        }
    }
}

/// What a store can do beyond keeping objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Objects carry user metadata.
    pub metadata: bool,
    /// A PUT can be refused when the object is there (If-None-Match).
    pub conditional: bool,
}

/// A bucket, or a directory that stands for one. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    objects: Arc<dyn ObjectStore>,
    extras: Extras,
    name: String,
    abilities: Abilities,
    rules: RetryRules,
    jitter: Mutex<StdRng>,
    /// The probe found out that conditional PUTs replace objects all the same.
    ignores_conditions: AtomicBool,
    /// Completions of uploads carry the condition until the store says that it does not know it.
    completes_carefully: AtomicBool,
    /// Requests that make an object carry its tags until the store or its policy refuses one for that.
    tags_at_once: AtomicBool,
}

/// What is known of a store beyond what object_store's trait can say.
#[derive(Default)]
pub(crate) struct Extras {
    /// What advice calls the bucket.
    pub(crate) bucket_name: String,
    /// A bucket that takes requests of our own.
    pub(crate) bucket: Option<S3Bucket>,
    /// Uploads whose parts can be sent again.
    pub(crate) uploads: Option<NumberedUploads>,
    /// The same store, whose client repeats requests by itself.
    pub(crate) repeating: Option<Arc<dyn ObjectStore>>,
    /// The directory that stands for the bucket.
    pub(crate) directory: Option<PathBuf>,
}

/// What came of [`Store::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is there with the given bytes, by this call or by an earlier one with the same bytes.
    New,
    /// An object with that name was there; it was not touched. Read it to see what it holds.
    AlreadyThere,
}

/// An object as a list shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedObject<'a> {
    /// Its name.
    pub key: &'a str,
    /// Its size.
    pub bytes: u64,
    /// When it was written by the store's clock, in milliseconds since the epoch. S3 takes the time at which an upload in
    /// parts began.
    pub modified_ms: i64,
}

/// An object that is there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) bytes: u64,
    /// What its user metadata say of it.
    pub(crate) label: Option<Label>,
}

/// What came of a conditional PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    Done,
    /// Somebody's object is there, perhaps by an earlier try of this very call.
    Occupied,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.0.name)
    }
}

impl Store {
    /// A store over any object store: for tests and simulation. `name` is what errors call it, `seed` draws the jitter
    /// of waits.
    pub fn with(
        objects: Arc<dyn ObjectStore>,
        name: &str,
        abilities: Abilities,
        rules: RetryRules,
        seed: u64,
    ) -> Store {
        let extras = Extras { bucket_name: name.to_owned(), ..Extras::default() };
        Store::assembled(objects, extras, name.to_owned(), abilities, rules, seed)
    }

    /// As [`Self::with`]; `extras` is what is known beyond the store itself.
    pub(crate) fn assembled(
        objects: Arc<dyn ObjectStore>,
        extras: Extras,
        name: String,
        abilities: Abilities,
        rules: RetryRules,
        seed: u64,
    ) -> Store {
        let rules = RetryRules { attempts: rules.attempts.max(1), ..rules };
        let jitter = Mutex::new(StdRng::seed_from_u64(seed));
        Store(Arc::new(Inner {
            objects,
            extras,
            name,
            abilities,
            rules,
            jitter,
            ignores_conditions: AtomicBool::new(false),
            completes_carefully: AtomicBool::new(abilities.conditional),
            tags_at_once: AtomicBool::new(true),
        }))
    }

    /// What errors call it: bucket and endpoint, or directory.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it can do.
    pub fn abilities(&self) -> Abilities {
        self.0.abilities
    }

    /// Whether a name is looked for before it is written, because the store does not refuse by itself.
    pub(crate) fn looks_first(&self) -> bool {
        !self.0.abilities.conditional || self.0.ignores_conditions.load(Ordering::Relaxed)
    }

    /// Takes note that the store ignores conditions.
    pub(crate) fn look_first(&self) {
        self.0.ignores_conditions.store(true, Ordering::Relaxed);
    }

    /// How requests are repeated.
    pub fn rules(&self) -> RetryRules {
        self.0.rules
    }

    /// Creates the object `key`, all or nothing, and never replaces one. Without [`Abilities::conditional`] it is looked
    /// for first, which another writer can outrun.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, Error> {
        match self.put_new(key, bytes.clone().into(), Attributes::new(), TagSet::default()).await? {
            Put::Done => Ok(Created::New),
            Put::Occupied => match self.read(key).await? {
                Some(there) if there == bytes => Ok(Created::New),
                Some(_) | None => Ok(Created::AlreadyThere),
            },
        }
    }

    /// The object's bytes; `None` when it is not there.
    pub async fn read(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let path = self.path("read", key)?;
        let read = self
            .retrying("read", key, || async { self.0.objects.get_opts(&path, GetOptions::new()).await?.bytes().await });
        self.unless_absent(read.await)
    }

    /// Names of all objects below the directory `prefix` (all when it is empty), in the order of their bytes.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let path = self.path("list", prefix)?;
        let path = (!prefix.is_empty()).then_some(&path);
        let listed = self.retrying("list", prefix, || async {
            let mut names = Vec::new();
            let mut objects = self.0.objects.list(path);
            while let Some(object) = objects.next().await {
                names.push(object?.location.to_string());
            }
            Ok(names)
        });
        let mut names = self.unless_absent(listed.await)?.unwrap_or_default();
        names.sort_unstable();
        Ok(names)
    }

    /// Hands the names of all objects below `directory` (all when it is empty) to `each`, as they come; `None` says that they
    /// begin again, because an answer failed in a store that does not list in order.
    pub(crate) async fn for_each_name(&self, directory: &str, mut each: impl FnMut(Option<&str>)) -> Result<(), Error> {
        let each = |object: Option<&ListedObject<'_>>| {
            each(object.map(|object| object.key));
            ControlFlow::Continue(())
        };
        self.for_each_object(directory, "", each).await
    }

    /// Whether it lists objects in the order of their names.
    pub fn lists_in_order(&self) -> bool {
        self.bucket().is_some()
    }

    /// Hands all objects below `directory` (all when it is empty) whose names come after `after` to `each`, as they come,
    /// until it breaks; `None` says that they begin again, because an answer failed in a store that does not list in order.
    /// Each answer has its own time.
    pub async fn for_each_object(
        &self,
        directory: &str,
        after: &str,
        mut each: impl FnMut(Option<&ListedObject<'_>>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let path = self.path("list", directory)?;
        let path = (!directory.is_empty()).then_some(&path);
        let mut last = if after.is_empty() { None } else { Some(self.path("list", after)?) };
        let mut attempt = 1;
        'again: loop {
            let mut objects = match &last {
                Some(last) => self.0.objects.list_with_offset(path, last),
                None => self.0.objects.list(path),
            };
            loop {
                let answer = self.timed(async { objects.next().await.transpose() }).await;
                let source = match answer {
                    Ok(Some(object)) => {
                        let (key, modified_ms) = (object.location.as_ref(), object.last_modified.timestamp_millis());
                        if each(Some(&ListedObject { key, bytes: object.size, modified_ms })).is_break() {
                            return Ok(());
                        }
                        if self.lists_in_order() {
                            // It can go on where it stopped.
                            (attempt, last) = (1, Some(object.location));
                        }
                        continue;
                    }
                    Ok(None) => return Ok(()),
                    Err(source) => source,
                };
                let failure = self.failure("list", directory, attempt, source);
                match self.verdict(&failure.source) {
                    Verdict::Absent => return Ok(()),
                    Verdict::Transient if attempt < self.0.rules.attempts => {}
                    Verdict::Transient | Verdict::Present | Verdict::Permanent(_) => return Err(self.error(failure)),
                }
                self.pause(attempt, &failure).await;
                attempt += 1;
                if !self.lists_in_order() {
                    let _ = each(None);
                }
                continue 'again;
            }
        }
    }

    /// Removes objects; those that are not there already are fine. Where it fails some may be gone.
    pub async fn delete(&self, keys: &[String]) -> Result<(), Error> {
        // What one request of S3 takes.
        for some in keys.chunks(1_000) {
            let Some(first) = some.first() else { continue };
            let paths: Vec<Path> = some.iter().map(|key| self.path("delete", key)).collect::<Result<_, _>>()?;
            let deleted = self.retrying("delete", first, || async {
                let mut answers = self.0.objects.delete_stream(stream::iter(paths.clone().into_iter().map(Ok)).boxed());
                while let Some(answer) = answers.next().await {
                    match answer {
                        Ok(_) | Err(StoreError::NotFound { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            });
            deleted.await.map_err(|failure| self.error(failure))?;
        }
        Ok(())
    }

    /// Whether the object is there, and its mark.
    pub(crate) async fn find(&self, key: &str) -> Result<Option<Found>, Error> {
        let path = self.path("look for", key)?;
        let found = self.retrying("look for", key, || async {
            let object = self.0.objects.get_opts(&path, GetOptions::new().with_head(true)).await?;
            Ok(Found { bytes: object.meta.size, label: Label::of_metadata(&object.attributes) })
        });
        self.unless_absent(found.await)
    }

    /// Whether one look, which has at most [`LAST_LOOK`], sees the object. `false` says nothing.
    async fn glimpses(&self, key: &str) -> bool {
        let Ok(path) = self.path("look for", key) else { return false };
        let limit = self.0.rules.attempt_timeout.min(LAST_LOOK);
        let look = self.0.objects.get_opts(&path, GetOptions::new().with_head(true));
        matches!(tokio::time::timeout(limit, look).await, Ok(Ok(_)))
    }

    /// These bytes of an object; `None` when it is not there.
    pub(crate) async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>, Error> {
        if range.is_empty() {
            return Ok(Some(Bytes::new()));
        }
        let path = self.path("read", key)?;
        let range = GetRange::Bounded(range);
        let read = self.retrying("read", key, || async {
            self.0.objects.get_opts(&path, GetOptions::new().with_range(Some(range.clone()))).await?.bytes().await
        });
        self.unless_absent(read.await)
    }

    /// One PUT that replaces what is there, repeated while its outcome is unknown.
    pub(crate) async fn replace(
        &self,
        key: &str,
        payload: PutPayload,
        metadata: Attributes,
        tags: TagSet,
    ) -> Result<(), Error> {
        let path = self.path("replace", key)?;
        let attributes = if self.0.abilities.metadata { metadata } else { Attributes::new() };
        let options = PutOptions { mode: PutMode::Overwrite, attributes, tags, ..PutOptions::default() };
        let put = self.retrying("replace", key, || self.0.objects.put_opts(&path, payload.clone(), options.clone()));
        put.await.map(|_| ()).map_err(|failure| self.error(failure))
    }

    /// One PUT that never replaces an object, repeated while its outcome is unknown.
    pub(crate) async fn put_new(
        &self,
        key: &str,
        payload: PutPayload,
        metadata: Attributes,
        tags: TagSet,
    ) -> Result<Put, Error> {
        let path = self.path("create", key)?;
        let mode = if self.0.abilities.conditional { PutMode::Create } else { PutMode::Overwrite };
        let first_look = self.looks_first();
        let attributes = if self.0.abilities.metadata { metadata } else { Attributes::new() };
        for attempt in 1.. {
            if first_look && self.find(key).await?.is_some() {
                return Ok(Put::Occupied);
            }
            let (mode, attributes, tags) = (mode.clone(), attributes.clone(), tags.clone());
            let options = PutOptions { mode, attributes, tags, ..PutOptions::default() };
            let answer = self.timed(self.0.objects.put_opts(&path, payload.clone(), options)).await;
            let Err(source) = answer else { return Ok(Put::Done) };
            let verdict = self.verdict(&source);
            // Two writers at once are answered "conflict" before either has written. And a store that refuses a name that
            // is taken before it has read the body may be heard as a broken connection, each time anew. A look decides.
            let is_last = verdict == Verdict::Transient && attempt >= self.0.rules.attempts;
            if (verdict == Verdict::Present && self.find(key).await?.is_some()) || (is_last && self.glimpses(key).await)
            {
                return Ok(Put::Occupied);
            }
            let failure = self.failure("create", key, attempt, source);
            match verdict {
                Verdict::Present | Verdict::Transient if attempt < self.0.rules.attempts => {
                    self.pause(attempt, &failure).await;
                }
                Verdict::Present | Verdict::Transient | Verdict::Permanent(_) | Verdict::Absent => {
                    return Err(self.error(failure));
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The store for libraries that do not repeat requests: its client does, by the same rules. What it creates may be told
    /// to be there already when it is by an earlier try.
    pub fn client(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(self.0.extras.repeating.as_ref().unwrap_or(&self.0.objects))
    }

    /// The store whose client sends each request once.
    pub(crate) fn objects(&self) -> &dyn ObjectStore {
        self.0.objects.as_ref()
    }

    pub(crate) fn numbered_uploads(&self) -> Option<&NumberedUploads> {
        self.0.extras.uploads.as_ref()
    }

    pub(crate) fn bucket(&self) -> Option<&S3Bucket> {
        self.0.extras.bucket.as_ref()
    }

    /// The directory that stands for the bucket, if one does.
    pub fn directory(&self) -> Option<&FilePath> {
        self.0.extras.directory.as_deref()
    }

    /// Whether completions of uploads ask the store not to replace an object.
    pub(crate) fn completes_carefully(&self) -> bool {
        self.0.completes_carefully.load(Ordering::Relaxed)
    }

    /// Takes note that the store does not know conditions of completions.
    pub(crate) fn complete_plainly(&self) {
        self.0.completes_carefully.store(false, Ordering::Relaxed);
    }

    /// Whether a request that makes an object may carry its tags.
    pub(crate) fn tags_at_once(&self) -> bool {
        self.0.tags_at_once.load(Ordering::Relaxed)
    }

    /// Takes note that it may not: objects are tagged by requests of their own from then on.
    pub(crate) fn tag_apart(&self) {
        self.0.tags_at_once.store(false, Ordering::Relaxed);
    }

    /// The object key as the store's client takes it. Keys are stored as they are; one that the client would change
    /// (empty or dot segments, control characters, a leading slash) is an error.
    pub(crate) fn path(&self, action: &'static str, key: &str) -> Result<Path, Error> {
        let invalid = |source: StoreError| Error::Permanent {
            failure: Box::new(self.failure(action, key, 1, source)),
            advice: "an object key must not have empty parts, parts that are . or .., or control characters: \
                     change the partitioner or the values it reads"
                .to_owned(),
        };
        let path = Path::parse(key).map_err(|source| invalid(StoreError::InvalidPath { source }))?;
        if path.as_ref() != key {
            return Err(invalid(StoreError::Generic {
                store: "path",
                source: "it starts or ends with a slash".into(),
            }));
        }
        Ok(path)
    }

    /// Does `operation` until it succeeds, is refused, or was tried often enough.
    pub(crate) async fn retrying<T, F, O>(
        &self,
        action: &'static str,
        key: &str,
        operation: F,
    ) -> Result<T, Box<Failure>>
    where
        F: Fn() -> O,
        O: Future<Output = Result<T, StoreError>>,
    {
        for attempt in 1.. {
            let source = match self.timed(operation()).await {
                Ok(done) => return Ok(done),
                Err(source) => source,
            };
            let transient = self.verdict(&source) == Verdict::Transient;
            let failure = self.failure(action, key, attempt, source);
            if !transient || attempt >= self.0.rules.attempts {
                return Err(Box::new(failure));
            }
            self.pause(attempt, &failure).await;
        }
        unreachable!("the last attempt returns")
    }

    /// Bounds one try.
    pub(crate) async fn timed<T>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let limit = self.0.rules.attempt_timeout;
        match tokio::time::timeout(limit, operation).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Generic { store: "store", source: format!("no answer within {limit:?}").into() }),
        }
    }

    /// Full jitter: anything between nothing and the bound, so that many writers do not come back together.
    async fn pause(&self, attempt: u32, failure: &Failure) {
        let rules = self.0.rules;
        let bound = rules.backoff.saturating_mul(1 << (attempt - 1).min(16)).min(rules.backoff_max);
        let share = self.0.jitter.lock().unwrap_or_else(PoisonError::into_inner).random_range(0.0..=1.0);
        let wait = bound.mul_f64(share);
        warn!(action = failure.action, key = %failure.key, attempt, wait_ms = wait.as_millis(), error = with_cause(&failure.source), "store request failed, trying again");
        tokio::time::sleep(wait).await;
    }

    pub(crate) fn verdict(&self, source: &StoreError) -> Verdict {
        verdict(source, &self.0.extras.bucket_name)
    }

    pub(crate) fn failure(&self, action: &'static str, key: &str, attempts: u32, source: StoreError) -> Failure {
        Failure { action, key: key.to_owned(), store: self.0.name.clone(), attempts, source }
    }

    pub(crate) fn error(&self, failure: impl Into<Box<Failure>>) -> Error {
        let failure = failure.into();
        match self.verdict(&failure.source) {
            Verdict::Transient | Verdict::Present => Error::Transient(failure),
            Verdict::Permanent(advice) => Error::Permanent { failure, advice },
            Verdict::Absent => Error::Permanent { failure, advice: "check s3.bucket.name and store.url".to_owned() },
        }
    }

    pub(crate) fn unless_absent<T>(&self, outcome: Result<T, Box<Failure>>) -> Result<Option<T>, Error> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(failure) if self.verdict(&failure.source) == Verdict::Absent => Ok(None),
            Err(failure) => Err(self.error(failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;
    use crate::faulty::{Fate, FaultyStore, Request};
    use crate::probe::{Conditional, Probe};
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;
    use std::sync::atomic::AtomicU32;

    const FULL: Abilities = Abilities { metadata: true, conditional: true };

    fn faulty(fates: impl Fn(Request, &str) -> Fate + Send + Sync + 'static) -> (Arc<FaultyStore>, Store) {
        let objects = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), fates));
        let store = Store::with(Arc::clone(&objects) as Arc<dyn ObjectStore>, "faulty", FULL, RetryRules::default(), 7);
        (objects, store)
    }

    /// The first `count` requests of `kind` meet `fate`.
    fn first(count: u32, kind: Request, fate: Fate) -> impl Fn(Request, &str) -> Fate {
        let seen = AtomicU32::new(0);
        move |request, _| if request == kind && seen.fetch_add(1, Ordering::SeqCst) < count { fate } else { Fate::Fine }
    }

    #[tokio::test(start_paused = true)]
    async fn every_store_conforms() {
        let directory = tempfile::tempdir().unwrap();
        let local = Abilities { metadata: false, conditional: true };
        let unconditional = Abilities { metadata: true, conditional: false };
        let rules = RetryRules::default();
        conformance::store(&Store::with(Arc::new(InMemory::new()), "memory", FULL, rules, 1)).await;
        conformance::store(&Store::with(Arc::new(InMemory::new()), "memory", unconditional, rules, 1)).await;
        let files = LocalFileSystem::new_with_prefix(directory.path()).unwrap();
        conformance::store(&Store::with(Arc::new(files), "files", local, rules, 1)).await;
        let every_third = AtomicU32::new(0);
        let (_, store) = faulty(move |_, _| match every_third.fetch_add(1, Ordering::SeqCst) % 3 {
            0 => Fate::FailBefore,
            1 => Fate::Slow(Duration::from_secs(1)),
            _ => Fate::Fine,
        });
        conformance::store(&store).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_whose_outcome_is_unknown_is_repeated_and_known_in_the_end() {
        for fate in [
            Fate::FailBefore,
            Fate::FailAfter,
            Fate::Throttled,
            Fate::Hang,
            Fate::HangThenHappen(Duration::from_secs(1)),
        ] {
            let (_, store) = faulty(first(2, Request::Put, fate));
            assert_eq!(store.create("a", "1".into()).await.unwrap(), Created::New, "{fate:?}");
            assert_eq!(store.create("a", "2".into()).await.unwrap(), Created::AlreadyThere, "{fate:?}");
            assert_eq!(store.read("a").await.unwrap().unwrap(), "1");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_store_is_reported_in_bounded_time_with_key_attempts_and_last_error() {
        let (objects, store) = faulty(|_, _| Fate::Hang);
        let before = tokio::time::Instant::now();
        let error = store.create("a/b", "1".into()).await.unwrap_err();
        assert!(error.is_transient());
        assert!(before.elapsed() < Duration::from_secs(3 * 60 + 1) + LAST_LOOK, "{:?}", before.elapsed());
        let text = error.to_string();
        assert!(
            text.contains("could not create a/b in faulty after 3 attempts") && text.contains("no answer within 60s"),
            "{text}"
        );
        assert_eq!(objects.count(Request::Put), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_repeated() {
        let (objects, store) = faulty(|_, _| Fate::Denied);
        let error = store.create("a", "1".into()).await.unwrap_err();
        assert!(matches!(&error, Error::Permanent { .. }) && error.to_string().contains("s3:PutObject"), "{error}");
        assert_eq!(objects.count(Request::Put), 1);
        assert_eq!(store.probe("p").await.unwrap(), Probe { listable: false, conditional: Conditional::Unknown });
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_without_an_object_is_tried_again() {
        let (objects, store) = faulty(first(1, Request::Put, Fate::Conflict));
        assert_eq!(store.create("a", "1".into()).await.unwrap(), Created::New);
        assert_eq!((objects.count(Request::Put), objects.count(Request::Head)), (2, 1));
    }

    #[tokio::test]
    async fn a_key_that_the_client_would_change_is_refused() {
        let store = Store::with(Arc::new(InMemory::new()), "memory", FULL, RetryRules::default(), 1);
        for key in ["a//b", "/a", "a/", "a/../b", "a\n"] {
            let error = store.create(key, "1".into()).await.unwrap_err();
            assert!(matches!(error, Error::Permanent { .. }), "{key:?}");
        }
    }
}
