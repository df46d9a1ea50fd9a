//! A client whose requests that make objects carry headers of their own, such as the access list of the object.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use model::{Check, Invalid, Key, Kind, Settings, Width};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, HeaderMap, HeaderValue, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Who may do what with an object.
pub const S3_ACL_CANNED: Key = Key::new(
    "s3.acl.canned",
    Kind::String,
    "Canned access list of new objects. A bucket whose object ownership is enforced takes none but bucket-owner-full-control.",
)
.check(Check::OneOf(&[
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
]))
.group("S3", 13)
.shown(Width::Long, "S3 Canned ACL");

/// Keys of the access list.
pub(crate) const KEYS: &[Key] = &[S3_ACL_CANNED];

/// The headers of requests that make an object; `None` without any.
pub(crate) fn headers(settings: &Settings) -> Result<Option<HeaderMap>, Invalid> {
    let Some(acl) = settings.string(&S3_ACL_CANNED)?.filter(|acl| !acl.is_empty()) else { return Ok(None) };
    let value = HeaderValue::from_str(&acl).map_err(|error| Invalid::value(&S3_ACL_CANNED, &acl, error))?;
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-acl", value);
    Ok(Some(headers))
}

/// Two clients of one bucket. S3 takes such headers with PutObject and CreateMultipartUpload, and object_store's headers of
/// a client go with everything.
#[derive(Debug)]
pub(crate) struct Creating {
    /// Makes objects and uploads.
    pub(crate) creating: AmazonS3,
    /// Does all else.
    pub(crate) plain: Arc<AmazonS3>,
}

impl fmt::Display for Creating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plain.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Creating {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.creating.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.creating.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.plain.get_opts(at, options).await
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.plain.get_ranges(at, ranges).await
    }

    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.plain.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.plain.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.plain.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.plain.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.creating.copy_opts(from, to, options).await
    }
}
