//! A store that tells the truth about what it holds: every object that appears is read at that moment.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use crate::oracle::Oracle;
use crate::truth::{How, Truth};

/// Objects in memory, watched.
#[derive(Clone)]
pub(crate) struct Witness {
    objects: Arc<InMemory>,
    truth: Arc<Mutex<Truth>>,
}

impl Witness {
    pub(crate) fn new(truth: Arc<Mutex<Truth>>) -> Witness {
        Witness { objects: Arc::new(InMemory::new()), truth }
    }

    async fn look(&self, key: &Path, how: How) {
        let bytes = self.objects.get(key).await.expect("it was just made").bytes().await.expect("it is in memory");
        self.truth.lock().expect("no panic holds it").appeared(key.as_ref(), bytes, how);
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}

#[async_trait]
impl ObjectStore for Witness {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let result = self.objects.put_opts(location, payload, opts).await?;
        self.look(location, How::Put).await;
        Ok(result)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.objects.put_multipart_opts(location, opts).await?;
        Ok(Box::new(WatchedUpload { witness: self.clone(), key: location.clone(), upload }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.objects.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.objects.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.truth.lock().expect("no panic holds it").accuse(Oracle::Deleted, "somebody deletes objects".to_owned());
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await?;
        self.look(to, How::Put).await;
        Ok(())
    }
}

struct WatchedUpload {
    witness: Witness,
    key: Path,
    upload: Box<dyn MultipartUpload>,
}

impl fmt::Debug for WatchedUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WatchedUpload({})", self.key)
    }
}

#[async_trait]
impl MultipartUpload for WatchedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        self.witness.look(&self.key, How::Upload).await;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
