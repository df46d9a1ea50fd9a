//! One object that goes up in parts while it grows; nothing of it is visible before it is completed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::{Error as StoreError, MultipartUpload, PutMultipartOptions, PutPayload};
use tokio::task::JoinSet;
use tracing::warn;

use crate::error::{Error, Verdict};
use crate::format::FileFooter;
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

/// An upload that was begun. Dropping it leaves its parts to the bucket's lifecycle rule; [`Self::abort`] removes them.
pub(crate) struct Upload {
    key: String,
    store: Store,
    /// Never locked, only owned: the mutex lets a file that is not published yet travel in an error.
    upload: Mutex<Box<dyn MultipartUpload>>,
    on_their_way: JoinSet<Result<(), StoreError>>,
    in_flight_bytes: Arc<AtomicUsize>,
    parts: usize,
    completed: bool,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({}, {} parts)", self.key, self.parts)
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
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let begun = store
            .retrying("begin the upload of", key, || store.uploads().put_multipart_opts(&path, options.clone()))
            .await
            .map_err(|failure| store.error(failure))?;
        Ok(Upload {
            key: key.to_owned(),
            store: store.clone(),
            upload: Mutex::new(begun),
            on_their_way: JoinSet::new(),
            in_flight_bytes: Arc::new(AtomicUsize::new(0)),
            parts: 0,
            completed: false,
        })
    }

    /// Bytes of parts that the store has not acknowledged.
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes.load(Ordering::Acquire)
    }

    /// Sends one part, waiting while too many are on their way.
    pub(crate) async fn send(&mut self, part: PutPayload) -> Result<(), Error> {
        if self.parts == PARTS_MAX {
            return Err(
                self.lost(format!("{PARTS_MAX} parts are the most that S3 takes: raise s3.part.size or cut earlier"))
            );
        }
        while self.on_their_way.len() >= IN_FLIGHT_MAX {
            self.acknowledged().await?;
        }
        let bytes = part.content_length();
        let sent = self.client().put_part(part);
        let in_flight = Arc::clone(&self.in_flight_bytes);
        in_flight.fetch_add(bytes, Ordering::AcqRel);
        self.parts += 1;
        // The client repeats the request by itself; this bounds a client that waits forever.
        let rules = self.store.rules();
        let limit = (rules.attempt_timeout + rules.backoff_max) * rules.attempts;
        self.on_their_way.spawn(async move {
            let answer = tokio::time::timeout(limit, sent).await;
            in_flight.fetch_sub(bytes, Ordering::AcqRel);
            answer.unwrap_or_else(|_| {
                Err(StoreError::Generic { store: "store", source: format!("no answer within {limit:?}").into() })
            })
        });
        Ok(())
    }

    /// Waits until one more part is acknowledged; at once when none is on its way.
    pub(crate) async fn acknowledged(&mut self) -> Result<(), Error> {
        match self.on_their_way.join_next().await {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(source))) => Err(self.part_failed(source)),
            Some(Err(stopped)) => Err(self.lost(stopped.to_string())),
        }
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

    /// Makes the object visible. Can be asked once: the parts' receipts are spent by the asking.
    pub(crate) async fn complete(&mut self) -> Result<Completed, Error> {
        if self.completed {
            return Err(self.lost("its completion was asked for before and the object is not there".to_owned()));
        }
        self.completed = true;
        let rules = self.store.rules();
        let limit = (rules.attempt_timeout + rules.backoff_max) * rules.attempts;
        match tokio::time::timeout(limit, self.client().complete()).await {
            Ok(Ok(_)) => Ok(Completed::Done),
            Ok(Err(source)) => match self.store.verdict(&source) {
                Verdict::Permanent(_) => {
                    Err(self.store.error(self.store.failure("complete the upload of", &self.key, 1, source)))
                }
                // Absent: the upload is gone, because an earlier try completed it or somebody aborted it.
                Verdict::Transient | Verdict::Present | Verdict::Absent => Ok(Completed::Unknown(source)),
            },
            Err(_) => Ok(Completed::Unknown(StoreError::Generic {
                store: "store",
                source: format!("no answer within {limit:?}").into(),
            })),
        }
    }

    /// Whether its completion was asked for.
    pub(crate) fn was_completed(&self) -> bool {
        self.completed
    }

    /// Removes its parts. What cannot be removed stays invisible and is left to the bucket's lifecycle rule.
    pub(crate) async fn abort(mut self) {
        self.on_their_way.shutdown().await;
        let store = self.store.clone();
        if let Err(error) = store.timed(self.client().abort()).await {
            warn!(key = %self.key, store = self.store.name(), %error, "could not abort the upload, its parts stay invisible until the bucket's lifecycle rule removes them");
        }
    }

    fn client(&mut self) -> &mut dyn MultipartUpload {
        self.upload.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }

    pub(crate) fn lost(&self, reason: String) -> Error {
        Error::Lost { key: self.key.clone(), store: self.store.name().to_owned(), reason }
    }

    fn part_failed(&self, source: StoreError) -> Error {
        match self.store.verdict(&source) {
            Verdict::Permanent(_) => self.store.error(self.store.failure("upload a part of", &self.key, 1, source)),
            Verdict::Transient | Verdict::Present | Verdict::Absent => self.lost(source.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
