//! Making the finished files of a cut visible, each by one request that never replaces an object.

use std::fmt;
use std::mem;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt, stream};
use object_store::{Attributes, PutPayload};
use tracing::debug;

use crate::error::{Error, PublishError};
use crate::format::{Format, Mark};
use crate::store::{Found, Put, Store};
use crate::upload::{Completed, Upload};

/// Files of one cut that are published at the same time.
const AT_ONCE: usize = 16;

/// Looks for an object whose completion was not answered.
const LOOKS: u32 = 3;

/// A file of a cut that is whole and not visible yet.
#[derive(Debug)]
pub struct FinishedFile {
    /// The object's name.
    pub key: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// From its first row's offset to the end of the cut.
    pub range: model::OffsetRange,
    /// Whose file it is.
    pub mark: Mark,
    pub(crate) metadata: Attributes,
    pub(crate) format: Arc<dyn Format>,
    pub(crate) body: Body,
}

/// Where the bytes of a finished file are.
pub(crate) enum Body {
    /// Here.
    Put(PutPayload),
    /// In the store, as parts of an invisible upload.
    Upload(Box<Upload>),
    /// In the object that everybody can read.
    Visible,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Put(payload) => write!(f, "Put({} bytes)", payload.content_length()),
            Body::Upload(upload) => upload.fmt(f),
            Body::Visible => f.write_str("Visible"),
        }
    }
}

impl FinishedFile {
    /// Whether it went up in parts.
    pub fn is_multipart(&self) -> bool {
        match &self.body {
            Body::Put(_) | Body::Visible => false,
            Body::Upload(_) => true,
        }
    }

    /// Removes the parts of files that will not be published.
    pub async fn discard(files: Vec<FinishedFile>) {
        let uploads = files.into_iter().filter_map(|file| match file.body {
            Body::Put(_) | Body::Visible => None,
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
    /// Its size.
    pub bytes: u64,
    /// It was visible before this call.
    pub already_there: bool,
}

/// Makes finished files visible.
#[async_trait]
pub trait Committer: Send + Sync {
    /// Makes every file visible exactly once, in any order. Publishing a cut again is a success that changes nothing. An
    /// object of that name with other content is never replaced.
    async fn publish(&self, files: Vec<FinishedFile>) -> Result<Vec<PublishedFile>, PublishError>;
}

/// Files become plain objects.
#[derive(Debug, Clone)]
pub struct ObjectCommitter {
    store: Store,
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
    pub fn new(store: Store) -> ObjectCommitter {
        ObjectCommitter { store }
    }

    async fn publish_one(&self, file: &mut FinishedFile) -> Result<PublishedFile, Failed> {
        let already_there = match &mut file.body {
            Body::Put(payload) => {
                let put = self.store.put_new(&file.key, payload.clone(), file.metadata.clone()).await?;
                match put {
                    Put::Done => false,
                    Put::Occupied => self.is_ours(file).await?,
                }
            }
            Body::Upload(_) => self.complete(file).await?,
            Body::Visible => true,
        };
        if let Body::Upload(upload) = mem::replace(&mut file.body, Body::Visible)
            && !upload.was_completed()
        {
            upload.abort().await;
        }
        debug!(key = %file.key, rows = file.rows, bytes = file.bytes, already_there, "published");
        Ok(PublishedFile { key: file.key.clone(), rows: file.rows, bytes: file.bytes, already_there })
    }

    /// Completes an upload. The store has no condition for that, so the name is looked for first; the plan that was
    /// committed before keeps two writers of one name apart.
    async fn complete(&self, file: &mut FinishedFile) -> Result<bool, Failed> {
        if self.store.find(&file.key).await?.is_some() {
            return self.is_ours(file).await;
        }
        let Body::Upload(upload) = &mut file.body else { return Ok(false) };
        let answer = match upload.complete().await? {
            Completed::Done => return Ok(false),
            Completed::Unknown(answer) => answer,
        };
        for look in 1..=LOOKS {
            if self.store.find(&file.key).await?.is_some() {
                return self.is_ours(file).await.map(|_| false);
            }
            if look < LOOKS {
                tokio::time::sleep(self.store.rules().backoff * look).await;
            }
        }
        Err(Failed::Error(upload.lost(answer.to_string())))
    }

    /// `Ok(true)` when the object that is there is this file.
    async fn is_ours(&self, file: &FinishedFile) -> Result<bool, Failed> {
        let held = match self.store.find(&file.key).await? {
            Some(Found { mark: Some(mark), .. }) => Some(mark),
            // No user metadata: a store that has none, or an object of somebody else. The file itself may tell.
            Some(Found { mark: None, bytes }) => match self.store.read(&file.key).await? {
                Some(object) if is_payload(&file.body, &object) => return Ok(true),
                Some(object) => match file.format.mark_of(&object) {
                    Some(mark) => Some(mark),
                    None => return Err(self.conflict(file, format!("{bytes} bytes that are not a file of sluice"))),
                },
                None => None,
            },
            None => None,
        };
        match held {
            Some(mark) if mark.agrees_with(&file.mark) => Ok(true),
            Some(mark) => Err(self.conflict(file, mark.to_string())),
            None => {
                let gone = object_store::Error::Generic { store: "store", source: "it was there and is gone".into() };
                let failure = self.store.failure("look for", &file.key, 1, gone);
                Err(Failed::Error(Error::Transient(Box::new(failure))))
            }
        }
    }

    fn conflict(&self, file: &FinishedFile, held: String) -> Failed {
        Failed::Conflict(PublishError::Conflict {
            key: file.key.clone(),
            store: self.store.name().to_owned(),
            held,
            wanted: file.mark.to_string(),
        })
    }
}

fn is_payload(body: &Body, object: &bytes::Bytes) -> bool {
    match body {
        Body::Put(payload) => {
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
        Body::Upload(_) | Body::Visible => false,
    }
}
