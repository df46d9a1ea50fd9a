//! Uploads that a dead worker left: invisible, paid for, and nobody's. They are found and removed.

use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use jiff::Timestamp;
use model::{Check, Importance, Invalid, Key, Kind, Settings, Width};
use object_store::Error as StoreError;
use serde::Deserialize;
use tracing::{info, warn};

use crate::error::Error;
use crate::layout::Layout;
use crate::s3_requests::S3Bucket;
use crate::store::Store;

/// How old an upload is when nobody can be working on it.
pub const UPLOAD_ORPHAN_AGE_MS: Key = Key::new(
    "upload.orphan.age.ms",
    Kind::Long,
    "Milliseconds after which an unfinished upload of a large object is taken for the remains of a dead worker and removed, \
     when a task starts; -1 leaves them to the bucket's lifecycle rules. Must be longer than the longest time that a file \
     stays open: a live upload that is removed costs its task a restart, and never rows.",
)
.default("259200000")
.check(Check::AtLeast(-1))
.ours()
.importance(Importance::Low)
.group("S3", 34)
.shown(Width::Short, "Orphaned Upload Age (ms)");

/// Keys of orphaned uploads.
pub(crate) const KEYS: &[Key] = &[UPLOAD_ORPHAN_AGE_MS];

/// Answers of the store that are read for one list, each with up to 1,000 uploads.
const PAGES_MAX: usize = 100;

/// An upload that was begun and neither completed nor removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanedUpload {
    /// The object it would become.
    pub key: String,
    /// When it began by the store's clock, in milliseconds since the epoch.
    pub initiated_ms: i64,
    /// The store's name of it.
    id: UploadId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum UploadId {
    S3(String),
    File(PathBuf),
}

/// The age that the settings give; `None` when uploads are left alone.
pub fn orphan_age(settings: &Settings) -> Result<Option<Duration>, Invalid> {
    settings.millis(&UPLOAD_ORPHAN_AGE_MS)
}

impl Store {
    /// Unfinished uploads of objects whose names begin with `prefix` that began before `before_ms` (milliseconds since the
    /// epoch), oldest first. In a directory these are the temporary files that unfinished objects leave. Other stores have
    /// none. Reads a bounded number of answers; what is left over is found by a later call.
    pub async fn orphaned_uploads(&self, prefix: &str, before_ms: i64) -> Result<Vec<OrphanedUpload>, Error> {
        let mut found = match (self.bucket(), self.directory()) {
            (Some(bucket), _) => self.uploads_in_bucket(bucket, prefix).await?,
            (None, Some(directory)) => {
                let (directory, prefix) = (directory.to_owned(), prefix.to_owned());
                tokio::task::spawn_blocking(move || files_in(&directory, &prefix)).await.unwrap_or_default()
            }
            (None, None) => Vec::new(),
        };
        found.retain(|upload| upload.key.starts_with(prefix) && upload.initiated_ms < before_ms);
        found.sort_by(|a, b| (a.initiated_ms, &a.key).cmp(&(b.initiated_ms, &b.key)));
        Ok(found)
    }

    /// Removes an upload; nothing happens when it is gone.
    pub async fn abort_upload(&self, upload: &OrphanedUpload) -> Result<(), Error> {
        match (&upload.id, self.numbered_uploads()) {
            (UploadId::S3(id), Some(uploads)) => {
                let path = self.path("abort the upload of", &upload.key)?;
                let aborted =
                    self.retrying("abort the upload of", &upload.key, || uploads.plain.abort_multipart(&path, id));
                self.unless_absent(aborted.await).map(|_| ())
            }
            (UploadId::S3(_), None) => Ok(()),
            (UploadId::File(file), _) => match tokio::fs::remove_file(file).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let source = StoreError::Generic { store: "file", source: Box::new(error) };
                    Err(self.error(self.failure("abort the upload of", &upload.key, 1, source)))
                }
                Ok(()) | Err(_) => Ok(()),
            },
        }
    }

    /// Removes unfinished uploads of objects of `topics` that are older than `age` at `now_ms`; how many. Other objects'
    /// uploads are left alone, also those of other connectors below the same `topics.dir`. What cannot be removed is
    /// warned of; an error means that uploads cannot be listed.
    pub async fn abort_orphans(
        &self,
        layout: &Layout,
        topics: &[&str],
        now_ms: i64,
        age: Duration,
    ) -> Result<usize, Error> {
        let before_ms = now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let mut removed = 0;
        for topic in topics {
            let prefix = layout.listed_prefix(topic);
            for upload in self.orphaned_uploads(&prefix, before_ms).await? {
                let is_ours = layout.parse(&upload.key).is_some_and(|(whose, _)| whose.topic.as_ref() == *topic);
                if !is_ours {
                    continue;
                }
                match self.abort_upload(&upload).await {
                    Ok(()) => {
                        removed += 1;
                        info!(key = %upload.key, store = self.name(), initiated_ms = upload.initiated_ms, "removed the upload of a dead worker");
                    }
                    Err(error) => {
                        warn!(key = %upload.key, store = self.name(), %error, "could not remove the upload of a dead worker");
                    }
                }
            }
        }
        Ok(removed)
    }

    /// Some stores (MinIO) answer only for no prefix or for a whole key: they are asked for everything.
    async fn uploads_in_bucket(&self, bucket: &S3Bucket, prefix: &str) -> Result<Vec<OrphanedUpload>, Error> {
        let found = self.uploads_below(bucket, prefix).await?;
        if found.is_empty() && !prefix.is_empty() && !bucket.is_amazon() {
            return self.uploads_below(bucket, "").await;
        }
        Ok(found)
    }

    async fn uploads_below(&self, bucket: &S3Bucket, prefix: &str) -> Result<Vec<OrphanedUpload>, Error> {
        let (mut found, mut after) = (Vec::new(), (String::new(), String::new()));
        for _ in 0..PAGES_MAX {
            let page = self.retrying("list uploads of", prefix, || async {
                let mut query = vec![("uploads", "")];
                if !prefix.is_empty() {
                    query.push(("prefix", prefix));
                }
                if !after.0.is_empty() {
                    query.extend([("key-marker", after.0.as_str()), ("upload-id-marker", &after.1)]);
                }
                Page::read(&bucket.get(&query).await?)
            });
            let page = page.await.map_err(|failure| self.error(failure))?;
            found.extend(page.uploads.into_iter().filter_map(Listed::into_orphan));
            let next = (page.next_key_marker.unwrap_or_default(), page.next_upload_id_marker.unwrap_or_default());
            // A store that repeats itself is not asked for ever.
            if !page.is_truncated || next.0.is_empty() || next == after {
                break;
            }
            after = next;
        }
        Ok(found)
    }
}

/// An answer to ListMultipartUploads (Amazon S3 API reference).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    #[serde(default, rename = "Upload")]
    uploads: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    upload_id: String,
    initiated: String,
}

impl Page {
    fn read(xml: &str) -> Result<Page, StoreError> {
        quick_xml::de::from_str(xml).map_err(|error| StoreError::Generic {
            store: "S3",
            source: format!("could not read the list of uploads: {error}").into(),
        })
    }
}

impl Listed {
    /// `None` without a time: then nobody knows its age.
    fn into_orphan(self) -> Option<OrphanedUpload> {
        let initiated: Timestamp = self.initiated.parse().ok()?;
        Some(OrphanedUpload {
            key: self.key,
            initiated_ms: initiated.as_millisecond(),
            id: UploadId::S3(self.upload_id),
        })
    }
}

/// Files `name#1` and so on below `directory`, which object_store's LocalFileSystem writes before it gives them their name.
fn files_in(directory: &FilePath, prefix: &str) -> Vec<OrphanedUpload> {
    let mut found = Vec::new();
    let start = match prefix.rsplit_once('/') {
        Some((parent, _)) => directory.join(parent),
        None => directory.to_owned(),
    };
    let mut unread = vec![start];
    while let Some(next) = unread.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => unread.push(entry.path()),
                Ok(kind) if kind.is_file() => found.extend(as_temporary(directory, &entry)),
                Ok(_) | Err(_) => {}
            }
        }
    }
    found
}

fn as_temporary(directory: &FilePath, entry: &std::fs::DirEntry) -> Option<OrphanedUpload> {
    let path = entry.path();
    let name = path.strip_prefix(directory).ok()?.to_str()?;
    let (key, number) = name.rsplit_once('#')?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let age = entry.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    let initiated_ms = i64::try_from(age.as_millis()).ok()?;
    Some(OrphanedUpload { key: key.replace('\\', "/"), initiated_ms, id: UploadId::File(path) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;
    use crate::credentials::Environment;
    use crate::store::{Abilities, RetryRules};
    use crate::testing::settings;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_directory_s_temporary_files_are_uploads_and_memory_has_none() {
        let root = tempfile::tempdir().unwrap();
        let url = root.path().to_str().unwrap();
        let settings = settings(&[("s3.bucket.name", "b"), ("store.url", url)]);
        let store = Store::open(&settings, &Environment::default()).unwrap();
        assert_eq!(conformance::orphans(&store, "dir").await, 3);
        let file = root.path().join("b/dir/t/p/t+0+0000000001.snappy.parquet");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        for name in ["", "#", "#x", "#1x"] {
            std::fs::write(format!("{}{name}", file.display()), "rows").unwrap();
        }
        assert_eq!(store.orphaned_uploads("", i64::MAX).await.unwrap(), [], "only what the store itself names so");
        let abilities = Abilities { metadata: true, conditional: true };
        let memory = Store::with(Arc::new(InMemory::new()), "memory", abilities, RetryRules::default(), 1);
        assert_eq!(conformance::orphans(&memory, "dir").await, 0);
    }

    #[test]
    fn answers_of_stores_are_read() {
        let minio = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>b</Bucket><KeyMarker></KeyMarker>
            <UploadIdMarker></UploadIdMarker><NextKeyMarker></NextKeyMarker><NextUploadIdMarker></NextUploadIdMarker>
            <Delimiter></Delimiter><Prefix></Prefix><MaxUploads>10000</MaxUploads><IsTruncated>false</IsTruncated>
            <Upload><Key>topics/t &amp; u/p=1/t+0+1.parquet</Key><UploadId>NzY1.x</UploadId><Initiator><ID></ID></Initiator>
            <StorageClass></StorageClass><Initiated>2026-01-02T03:04:05.678Z</Initiated></Upload>
            <Upload><Key>k</Key><UploadId>i</UploadId><Initiated>some day</Initiated></Upload></ListMultipartUploadsResult>"#;
        let page = Page::read(minio).unwrap();
        assert!(!page.is_truncated && page.uploads.len() == 2);
        let found: Vec<_> = page.uploads.into_iter().filter_map(Listed::into_orphan).collect();
        let initiated_ms = "2026-01-02T03:04:05.678Z".parse::<Timestamp>().unwrap().as_millisecond();
        let key = "topics/t & u/p=1/t+0+1.parquet".to_owned();
        assert_eq!(found, [OrphanedUpload { key, initiated_ms, id: UploadId::S3("NzY1.x".to_owned()) }]);
        let more = "<R><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>\
                    <NextUploadIdMarker>u</NextUploadIdMarker></R>";
        let page = Page::read(more).unwrap();
        assert!(page.is_truncated && page.uploads.is_empty());
        assert_eq!((page.next_key_marker.as_deref(), page.next_upload_id_marker.as_deref()), (Some("k"), Some("u")));
        assert!(Page::read("<html").is_err());
    }

    #[test]
    fn the_age_is_three_days_or_none() {
        assert_eq!(orphan_age(&settings(&[])).unwrap(), Some(Duration::from_secs(3 * 24 * 3600)));
        assert_eq!(orphan_age(&settings(&[("upload.orphan.age.ms", "-1")])).unwrap(), None);
        assert!(orphan_age(&settings(&[("upload.orphan.age.ms", "-2")])).is_err());
    }
}
