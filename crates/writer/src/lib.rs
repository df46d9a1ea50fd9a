//! Partition, rotate, name, encode, upload. A [`Partitioner`] says which path each row belongs to, [`Rotation`] says how
//! many rows may still be appended before the cut, both without any I/O. An [`OpenCut`] holds the rows of all files that
//! are open in one lane; a file is rows until a row group is full, then bytes, then parts of an invisible upload. A
//! [`Committer`] makes the finished files of a cut visible, each by one conditional request. Nothing is overwritten, unless
//! [`OnExisting`] says so.
//!
//! ```text
//!  Batch --Partitioner::split--> Placed --Rotation::verdict--> append n rows | cut
//!                                            |
//!        OpenCut::append --> rows --row group full--> Encoder --s3.part.size--> Upload
//!        OpenCut::finish(range, plan) --> FinishedFile* --Committer::publish--> objects
//!
//!        newest_cuts <-- Label <-- objects              Store::abort_orphans --> uploads of dead workers
//! ```
//!
//! Each object carries a [`Label`]: whose rows it holds, and the plan of its whole cut. So the store alone tells where a
//! topic-partition ends ([`newest::newest_cuts`]) and whether an object that is in the way is ours.

mod avro_format;
mod avro_schema;
mod bytes_format;
mod compression;
pub mod conformance;
mod credentials;
mod cut;
mod error;
mod faulty;
mod file_context;
mod format;
mod held;
mod json_format;
mod json_text;
mod label;
mod null_values;
mod open_file;
mod orphans;
mod parquet_format;
mod probe;
mod publish;
mod reserved;
mod s3;
mod s3_requests;
mod store;
mod upload;

pub use avro_format::{AVRO_CODEC, AvroFormat, CONNECT_META_DATA};
pub use bytes_format::{BytesFormat, FORMAT_BYTEARRAY_EXTENSION, FORMAT_BYTEARRAY_SEPARATOR};
pub use compression::{S3_COMPRESSION_LEVEL, S3_COMPRESSION_TYPE};
pub use credentials::Environment;
pub use cut::OpenCut;
pub use error::{Error, Failure, OpenError, PublishError};
pub use faulty::{Fate, FaultyStore, Happened, Request};
pub use file_context::{FileContext, FileLimits, ObjectKey};
pub use format::{BuildFormat, Encoder, FORMAT_CLASS, FORMATS, FileFooter, Format, LabelPlace, Mark, format};
pub use json_format::{JSON_DECIMAL_FORMAT, JsonFormat};
pub use label::{Label, LabelRead};
pub use null_values::{BEHAVIOR_ON_NULL_VALUES, NullValue, NullValues};
pub use orphans::{OrphanedUpload, UPLOAD_ORPHAN_AGE_MS, orphan_age};
pub use parquet_format::{
    PARQUET_CODEC, PARQUET_COMPRESSION_LEVEL, PARQUET_DATA_PAGE_BYTES, PARQUET_DICTIONARY_ENABLED,
    PARQUET_ROW_GROUP_BYTES, ParquetFormat, Preview, ROW_GROUP_ROWS_MAX, preview,
};
pub use probe::{Conditional, Probe};
pub use publish::{Committer, FinishedFile, ON_EXISTING_OBJECT, ObjectCommitter, OnExisting, PublishedFile};
pub use s3::{
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ENABLE_CONDITIONAL_WRITES, RETRY_BACKOFF_MS, S3_BUCKET_NAME,
    S3_CREDENTIALS_PROVIDER_CLASS, S3_PART_RETRIES, S3_PART_SIZE, S3_PATH_STYLE_ACCESS_ENABLED, S3_REGION,
    S3_RETRY_BACKOFF_MS, S3_SSE_CUSTOMER_KEY, S3_SSE_KMS_KEY_ID, S3_SSEA_NAME, STORE_URL,
};
pub use store::{Abilities, Created, RetryRules, Store};

/// Keys of formats, stores and records without a value; those of a single format stand in [`FORMATS`].
pub const STORE_KEYS: &[&[model::Key]] =
    &[format::KEYS, s3::KEYS, publish::KEYS, orphans::KEYS, null_values::KEYS, reserved::KEYS];

/// What is wrong with those keys together, each problem with the key to blame.
pub fn check_store_keys(settings: &model::Settings) -> Vec<model::Invalid> {
    let checks = [format::check, s3::check, null_values::check, reserved::check];
    checks.iter().flat_map(|check| check(settings)).collect()
}

/// What a user should know about those keys though nothing is wrong: sentences for warnings.
pub fn store_advice(settings: &model::Settings) -> Vec<String> {
    s3::advice(settings)
}

mod iso;
mod joda;
pub mod layout;
mod lookup;
pub mod newest;
pub mod partition;
pub mod rotation;
#[cfg(test)]
mod testing;
pub mod timestamp;
pub mod zone;

pub use layout::Layout;
pub use partition::{BuildPartitioner, PARTITIONERS, Partitioner, Placed, Split, partitioner_plugin};
pub use rotation::{CutState, Rotation, Verdict};
pub use timestamp::EXTRACTORS;
