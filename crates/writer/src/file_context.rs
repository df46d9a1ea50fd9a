//! What all files of a connector's cuts have in common: store, format, names, sizes.

use std::fmt;
use std::sync::Arc;

use model::{Fingerprint, Invalid, Offset, Settings, TopicPartition};

use crate::format::Format;
use crate::parquet_format::ROW_GROUP_ROWS_MAX;
use crate::parquet_keys::PARQUET_ROW_GROUP_BYTES;
use crate::s3::S3_PART_SIZE;
use crate::store::Store;
use crate::tagging::Tagging;
use crate::views::{View, Views};

/// Rows of a file that are held before they are encoded. Small files are never encoded before the cut, so a thousand of
/// them have no encoder; for a large one an encoder weighs less than its rows, which are still in the cache then.
const ROWS_BYTES: usize = 4 * 1024 * 1024;

/// The name of the object that holds a view of the rows of a path whose first one has this offset.
pub type ObjectKey = Arc<dyn Fn(View, &TopicPartition, &str, Offset) -> String + Send + Sync>;

/// How large the pieces of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimits {
    /// Size of every part of an upload but the last (`s3.part.size`).
    pub part_bytes: usize,
    /// Bytes of rows that a file holds as they are; more are encoded into the row group that is under way.
    pub rows_bytes: usize,
    /// Bytes of rows in memory that make a row group.
    pub row_group_bytes: usize,
    /// Rows that make a row group in any case.
    pub row_group_rows: usize,
}

impl FileLimits {
    /// The limits that the settings give.
    pub fn new(settings: &Settings) -> Result<FileLimits, Invalid> {
        Ok(FileLimits {
            part_bytes: settings.size(&S3_PART_SIZE)?,
            rows_bytes: ROWS_BYTES,
            row_group_bytes: settings.size(&PARQUET_ROW_GROUP_BYTES)?,
            row_group_rows: ROW_GROUP_ROWS_MAX,
        })
    }
}

/// What all files of a connector's cuts have in common. Cheap to clone.
#[derive(Clone)]
pub struct FileContext {
    /// Where they go.
    pub store: Store,
    /// What they are.
    pub format: Arc<dyn Format>,
    /// What they are called.
    pub object_key: ObjectKey,
    /// What lies beside each of them.
    pub views: Views,
    /// How large their pieces are.
    pub limits: FileLimits,
    /// Names the schema of their rows in files and user metadata: ASCII, such as version and fingerprint; empty for none.
    pub schema: Arc<str>,
    /// Fingerprint of the settings that shape names and rows.
    pub config: Fingerprint,
    /// Tags of the files of values; `None` for none.
    pub tagging: Option<Tagging>,
    /// Files with fewer bytes of rows than this are handed on as rows when their cut ends ([`crate::FileRows`]), so that
    /// several can become one object; 0 where each is an object of its own.
    pub shared_bytes: usize,
}

impl fmt::Debug for FileContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileContext").field("store", &self.store).field("format", &self.format).finish_non_exhaustive()
    }
}
