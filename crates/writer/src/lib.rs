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

mod assume_role;
mod avro_enum;
mod avro_format;
mod avro_names;
mod avro_rows;
mod avro_schema;
mod bytes_format;
mod compression;
pub mod conformance;
mod counting;
mod creating;
mod credentials;
mod cut;
mod encryption;
mod error;
mod faulty;
mod file_context;
mod file_rows;
mod format;
mod held;
mod json_format;
mod json_text;
mod kafka_columns;
mod label;
mod null_values;
mod open_file;
mod orphans;
mod parquet_format;
mod parquet_keys;
mod probe;
mod proxy;
mod publish;
#[cfg(test)]
mod recorder;
mod reserved;
mod rewrite;
mod s3;
mod s3_client;
#[cfg(test)]
mod s3_request_tests;
mod s3_requests;
mod statistics;
mod store;
mod table_format;
mod tagging;
mod upload;
mod views;

pub use assume_role::{STS_REGION, STS_ROLE_ARN, STS_ROLE_EXTERNAL_ID, STS_ROLE_SESSION_NAME};
pub use avro_format::{AVRO_CODEC, AvroFormat, CONNECT_META_DATA};
pub use bytes_format::{BytesFormat, FORMAT_BYTEARRAY_EXTENSION, FORMAT_BYTEARRAY_SEPARATOR};
pub use compression::{S3_COMPRESSION_LEVEL, S3_COMPRESSION_TYPE};
pub use creating::S3_ACL_CANNED;
pub use credentials::Environment;
pub use cut::OpenCut;
pub use encryption::{S3_SSE_CUSTOMER_KEY, S3_SSE_KMS_KEY_ID, S3_SSEA_NAME};
pub use error::{Error, Failure, OpenError, PublishError};
pub use faulty::{Fate, FaultyStore, Happened, Request};
pub use file_context::{FileContext, FileLimits, ObjectKey};
pub use file_rows::FileRows;
pub use format::{BuildFormat, Encoder, FORMAT_CLASS, FORMATS, FileFooter, Format, LabelPlace, Mark, format};
pub use json_format::{JSON_DECIMAL_FORMAT, JsonFormat};
pub use kafka_columns::{KAFKA_COLUMNS, KAFKA_COLUMNS_PREFIX, KafkaColumns, NameClash, WithColumns};
pub use label::{Label, LabelRead};
pub use null_values::{
    BEHAVIOR_ON_NULL_VALUES, NullValue, NullValues, REPORT_NULL_VALUES_TO_DLQ, TOMBSTONE_ENCODED_PARTITION,
};
pub use orphans::{OrphanedUpload, UPLOAD_ORPHAN_AGE_MS, orphan_age};
pub use parquet_format::{ParquetFormat, Preview, ROW_GROUP_ROWS_MAX, preview};
pub use parquet_keys::{
    PARQUET_BLOOM_FILTER_COLUMNS, PARQUET_BLOOM_FILTER_FPP, PARQUET_BLOOM_FILTER_NDV, PARQUET_CODEC,
    PARQUET_COMPRESSION_LEVEL, PARQUET_DATA_PAGE_BYTES, PARQUET_DICTIONARY_ENABLED, PARQUET_PAGE_INDEX_ENABLED,
    PARQUET_ROW_GROUP_BYTES, PARQUET_STATISTICS_ENABLED,
};
pub use probe::{Conditional, Probe};
pub use proxy::{S3_PROXY_PASSWORD, S3_PROXY_URL, S3_PROXY_USER};
pub use publish::{Committer, FinishedFile, ON_EXISTING_OBJECT, ObjectCommitter, OnExisting, PublishedFile};
pub use rewrite::{Rewrite, RewriteError, Rewritten, RowsOfFile};
pub use s3::{
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ENABLE_CONDITIONAL_WRITES, RETRY_BACKOFF_MS, S3_BUCKET_NAME,
    S3_CREDENTIALS_PROVIDER_CLASS, S3_PART_RETRIES, S3_PART_SIZE, S3_REGION, S3_RETRY_BACKOFF_MS, STORE_URL,
};
pub use s3_client::{S3_PATH_STYLE_ACCESS_ENABLED, S3_WAN_MODE};
pub use statistics::{Bound, ColumnStatistics, FileStatistics};
pub use store::{Abilities, Created, ListedObject, RetryRules, Store};
pub use table_format::{TableFormat, TableOfFiles, table_schema};
pub use tagging::{S3_OBJECT_BEHAVIOR_ON_TAGGING_ERROR, S3_OBJECT_TAGGING, S3_OBJECT_TAGGING_KEY_VALUE_PAIRS, Tagging};
pub use views::{
    HEADERS_FORMAT_CLASS, KEYS_FORMAT_CLASS, STORE_KAFKA_HEADERS, STORE_KAFKA_KEYS, View, ViewFormat, Views,
};

/// Keys of formats, stores and records without a value; those of a single format stand in [`FORMATS`].
pub const STORE_KEYS: &[&[model::Key]] = &[
    format::KEYS,
    s3::KEYS,
    s3_client::KEYS,
    assume_role::KEYS,
    encryption::KEYS,
    creating::KEYS,
    proxy::KEYS,
    tagging::KEYS,
    publish::KEYS,
    orphans::KEYS,
    null_values::KEYS,
    kafka_columns::KEYS,
    views::KEYS,
    reserved::KEYS,
];

/// What is wrong with those keys together, each problem with the key to blame.
pub fn check_store_keys(settings: &model::Settings) -> Vec<model::Invalid> {
    let checks = [format::check, s3::check, tagging::check, views::check, kafka_columns::check, reserved::check];
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
#[cfg(test)]
mod names;
pub mod newest;
pub mod partition;
pub mod rotation;
#[cfg(test)]
mod testing;
pub mod timestamp;
pub mod zone;

pub use layout::Layout;
pub use partition::{
    BuildPartitioner, ColumnsPartitioner, PARTITIONERS, Partitioner, Placed, Split, is_of_tombstones, partition_values,
    partitioner_plugin,
};
pub use rotation::{CutState, Rotation, Verdict};
pub use timestamp::EXTRACTORS;
