//! The log of one table: commits are written once and read by version, with the store's own rules for repeated requests.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use deltalake_core::kernel::Version;
use deltalake_core::kernel::transaction::TransactionError;
use deltalake_core::logstore::{CommitOrBytes, LogStore, LogStoreConfig, LogStoreRef, StorageConfig, default_logstore};
use deltalake_core::{DeltaResult, DeltaTableError};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;
use uuid::Uuid;
use writer::{Created, Error, Store};

use crate::action::{Action, Seen, from_lines, to_lines};

/// What a path in a URL need not encode.
const IN_URLS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The log of the table below `location`. To deltalake it is a [`LogStore`]; its commits go through [`Store::create`], which
/// tells a name that is taken by an earlier try of the same request from one that is somebody else's.
#[derive(Clone)]
pub(crate) struct Log {
    store: Store,
    location: Arc<str>,
    /// What deltalake makes of the table's objects.
    inner: LogStoreRef,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({})", self.name_for_people())
    }
}

/// Why a commit cannot be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The store.
    Store(Error),
    /// What it holds.
    Broken(String),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> ReadError {
        ReadError::Store(error)
    }
}

impl Log {
    /// The log of the table at `location`, a directory of `store` without slashes at its ends; the error says why it has no
    /// URL.
    pub(crate) fn new(store: Store, location: &str) -> Result<Log, String> {
        let encoded = |path: &str| utf8_percent_encode(path, IN_URLS).to_string();
        let (url, root, table): (String, Arc<dyn ObjectStore>, Path) = match store.directory() {
            // Of files deltalake knows that they are not listed in order.
            Some(directory) => {
                let path = std::path::absolute(directory.join(location)).map_err(|error| error.to_string())?;
                let table = Path::from_absolute_path(&path).map_err(|error| error.to_string())?;
                (format!("file://{}/", encoded(&path.to_string_lossy())), Arc::new(LocalFileSystem::new()), table)
            }
            None => {
                let table = Path::parse(location).map_err(|error| error.to_string())?;
                (format!("table:///{}", encoded(location)), store.client(), table)
            }
        };
        let url = Url::parse(&url).map_err(|error| error.to_string())?;
        let below: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(root.clone(), table));
        let inner = default_logstore(below, root, &url, &StorageConfig::default());
        Ok(Log { store, location: location.into(), inner })
    }

    /// For people.
    pub(crate) fn name_for_people(&self) -> String {
        match &*self.location {
            "" => self.store.name().to_owned(),
            location => format!("{location} in {}", self.store.name()),
        }
    }

    /// Where the table lies.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The object `name` of the table, or the directory if it is empty.
    pub(crate) fn key(&self, name: &str) -> String {
        let parts = [&*self.location, name].into_iter().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join("/")
    }

    fn commit_key(&self, version: u64) -> String {
        self.key(&format!("_delta_log/{version:020}.json"))
    }

    /// Makes `actions` the table's `version`, unless there is one. One request when nothing goes wrong. After an error that is
    /// transient the commit may be there, or come to be there later; [`Self::read`] tells.
    pub(crate) async fn put(&self, version: u64, actions: &[Action]) -> Result<Created, Error> {
        let bytes = CommitOrBytes::LogBytes(to_lines(actions).into());
        match self.write_commit_entry(version, bytes, Uuid::nil()).await {
            Ok(()) => Ok(Created::New),
            Err(TransactionError::LogStoreError { msg, source }) => match source.downcast::<Error>() {
                Ok(error) => Err(*error),
                Err(other) => unreachable!("only errors of the store are wrapped by this log, not {msg}: {other}"),
            },
            Err(_) => Ok(Created::AlreadyThere),
        }
    }

    /// What was done to make `version`; `None` when it is not there.
    pub(crate) async fn read(&self, version: u64) -> Result<Option<Seen>, ReadError> {
        let key = self.commit_key(version);
        let Some(bytes) = self.store.read(&key).await? else { return Ok(None) };
        let broken =
            |why| ReadError::Broken(format!("could not read the commit {key} in {}: {why}", self.store.name()));
        from_lines(&bytes).map(Some).map_err(broken)
    }
}

#[async_trait]
impl LogStore for Log {
    fn name(&self) -> String {
        "sluice".to_owned()
    }

    async fn read_commit_entry(&self, version: Version) -> DeltaResult<Option<Bytes>> {
        let read = self.store.read(&self.commit_key(version)).await;
        read.map_err(|error| DeltaTableError::GenericError { source: Box::new(error) })
    }

    async fn write_commit_entry(
        &self,
        version: Version,
        commit: CommitOrBytes,
        _: Uuid,
    ) -> Result<(), TransactionError> {
        let CommitOrBytes::LogBytes(bytes) = commit else {
            return Err(TransactionError::VersionAlreadyExists(version));
        };
        match self.store.create(&self.commit_key(version), bytes).await {
            Ok(Created::New) => Ok(()),
            Ok(Created::AlreadyThere) => Err(TransactionError::VersionAlreadyExists(version)),
            Err(error) => Err(TransactionError::LogStoreError { msg: error.to_string(), source: Box::new(error) }),
        }
    }

    async fn abort_commit_entry(&self, _: Version, _: CommitOrBytes, _: Uuid) -> Result<(), TransactionError> {
        Ok(())
    }

    async fn get_latest_version(&self, start: Version) -> DeltaResult<Version> {
        self.inner.get_latest_version(start).await
    }

    fn object_store(&self, operation: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.inner.object_store(operation)
    }

    fn root_object_store(&self, operation: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.inner.root_object_store(operation)
    }

    fn config(&self) -> &LogStoreConfig {
        self.inner.config()
    }
}
