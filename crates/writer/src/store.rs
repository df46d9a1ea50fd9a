//! The object store as sluice uses it: create, read, list and probe, with bounded retries and errors that say what to do.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{Attributes, Error as StoreError, GetOptions, ObjectStore, PutMode, PutOptions, PutPayload};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tracing::warn;

use crate::error::{Error, Failure, Verdict, verdict};
use crate::format::Mark;

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
    uploads: Arc<dyn ObjectStore>,
    name: String,
    bucket: String,
    abilities: Abilities,
    rules: RetryRules,
    jitter: Mutex<StdRng>,
}

/// What came of [`Store::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is there with the given bytes, by this call or by an earlier one with the same bytes.
    New,
    /// An object with that name was there; it was not touched. Read it to see what it holds.
    AlreadyThere,
}

/// What [`Store::probe`] found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Whether objects can be listed; a policy may allow writing only.
    pub listable: bool,
}

/// An object that is there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) bytes: u64,
    /// The mark in its user metadata.
    pub(crate) mark: Option<Mark>,
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
        Store::assembled(Arc::clone(&objects), objects, name.to_owned(), name.to_owned(), abilities, rules, seed)
    }

    /// `uploads` is the same store whose client repeats requests by itself: a part that is lost cannot be sent again
    /// under its number through the object store's interface.
    pub(crate) fn assembled(
        objects: Arc<dyn ObjectStore>,
        uploads: Arc<dyn ObjectStore>,
        name: String,
        bucket: String,
        abilities: Abilities,
        rules: RetryRules,
        seed: u64,
    ) -> Store {
        let rules = RetryRules { attempts: rules.attempts.max(1), ..rules };
        let jitter = Mutex::new(StdRng::seed_from_u64(seed));
        Store(Arc::new(Inner { objects, uploads, name, bucket, abilities, rules, jitter }))
    }

    /// What errors call it: bucket and endpoint, or directory.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it can do.
    pub fn abilities(&self) -> Abilities {
        self.0.abilities
    }

    /// How requests are repeated.
    pub fn rules(&self) -> RetryRules {
        self.0.rules
    }

    /// Finds out, in bounded time, whether the bucket is there, the credentials are good and the store answers.
    pub async fn probe(&self) -> Result<Probe, Error> {
        let listed = self
            .retrying("list", "the first object", || async { self.0.objects.list(None).next().await.transpose() })
            .await;
        match listed {
            Ok(_) => Ok(Probe { listable: true }),
            // Upstream takes a bucket that may not be looked at as one that exists.
            Err(failure) if matches!(failure.source, StoreError::PermissionDenied { .. }) || is_denied(&failure) => {
                Ok(Probe { listable: false })
            }
            // A directory in which nothing was written yet.
            Err(failure) if matches!(self.verdict(&failure.source), Verdict::Absent) => Ok(Probe { listable: true }),
            Err(failure) => Err(self.error(failure)),
        }
    }

    /// Creates the object `key`, all or nothing, and never replaces one. Without [`Abilities::conditional`] it is looked
    /// for first, which another writer can outrun.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, Error> {
        match self.put_new(key, bytes.clone().into(), Attributes::new()).await? {
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

    /// Whether the object is there, and its mark.
    pub(crate) async fn find(&self, key: &str) -> Result<Option<Found>, Error> {
        let path = self.path("look for", key)?;
        let found = self.retrying("look for", key, || async {
            let object = self.0.objects.get_opts(&path, GetOptions::new().with_head(true)).await?;
            Ok(Found { bytes: object.meta.size, mark: Mark::of_metadata(&object.attributes) })
        });
        self.unless_absent(found.await)
    }

    /// One PUT that never replaces an object, repeated while its outcome is unknown.
    pub(crate) async fn put_new(&self, key: &str, payload: PutPayload, metadata: Attributes) -> Result<Put, Error> {
        let path = self.path("create", key)?;
        let (mode, first_look) =
            if self.0.abilities.conditional { (PutMode::Create, false) } else { (PutMode::Overwrite, true) };
        let attributes = if self.0.abilities.metadata { metadata } else { Attributes::new() };
        for attempt in 1.. {
            if first_look && self.find(key).await?.is_some() {
                return Ok(Put::Occupied);
            }
            let options = PutOptions { mode: mode.clone(), attributes: attributes.clone(), ..PutOptions::default() };
            let answer = self.timed(self.0.objects.put_opts(&path, payload.clone(), options)).await;
            let Err(source) = answer else { return Ok(Put::Done) };
            let verdict = self.verdict(&source);
            // Two writers at once are answered "conflict" before either has written: only a look decides.
            if verdict == Verdict::Present && self.find(key).await?.is_some() {
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

    /// The store whose client repeats requests by itself.
    pub(crate) fn uploads(&self) -> &Arc<dyn ObjectStore> {
        &self.0.uploads
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
        warn!(action = failure.action, key = %failure.key, attempt, wait_ms = wait.as_millis(), error = %failure.source, "store request failed, trying again");
        tokio::time::sleep(wait).await;
    }

    pub(crate) fn verdict(&self, source: &StoreError) -> Verdict {
        verdict(source, &self.0.bucket)
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

    fn unless_absent<T>(&self, outcome: Result<T, Box<Failure>>) -> Result<Option<T>, Error> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(failure) if self.verdict(&failure.source) == Verdict::Absent => Ok(None),
            Err(failure) => Err(self.error(failure)),
        }
    }
}

/// The policy says no, which is another thing than keys that are not known.
fn is_denied(failure: &Failure) -> bool {
    failure.source.to_string().contains("<Code>AccessDenied</Code>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;
    use crate::faulty::{Fate, FaultyStore, Request};
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;
    use std::sync::atomic::{AtomicU32, Ordering};

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
        assert!(before.elapsed() < Duration::from_secs(3 * 60 + 1), "{:?}", before.elapsed());
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
        assert_eq!(store.probe().await.unwrap(), Probe { listable: false });
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
