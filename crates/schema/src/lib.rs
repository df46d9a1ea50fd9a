//! Bytes to Arrow. A [`Converter`] turns the raw values of one topic-partition into batches, typed or schemaless, as
//! Kafka Connect's converters do; a record it cannot read is set aside without harm to its neighbours. Schemaless values
//! are JSON text; where columns are needed, [`infer`] finds their schema and [`JsonColumns`] reads the text straight into
//! Arrow builders by SIMD. A schema only ever grows: new fields at the end, INT64 to DOUBLE; everything else is an error
//! of the record. Schemas can also be [`given`], as Avro, JSON Schema or Spark StructType.
//!
//! ```text
//!  RawBatch --Converter::decode--> Batch(Schemaless) --infer--> TableSchema --JsonColumns::read--> Batch(Typed)
//!                              \-> Batch(Typed)                      ^ or: value.converter.schema
//!                              \-> Rejected
//! ```

use async_trait::async_trait;
use model::{Batch, RawBatch, Rejected};

mod avro_converter;
mod avro_defaults;
mod avro_json;
mod avro_names;
mod avro_reader;
mod avro_resolution;
mod avro_resolved;
mod avro_schema;
mod bytes_converter;
mod column;
mod compatibility;
pub mod conformance;
mod connect_schema;
mod converters;
mod envelope;
mod fault;
pub mod given;
mod infer;
mod json_columns;
mod json_converter;
mod json_schema_converter;
mod json_union;
mod keys;
mod merge;
mod nested_columns;
mod number_converters;
mod project;
mod projection;
mod protobuf_columns;
mod protobuf_converter;
mod protobuf_known;
mod protobuf_nested;
mod protobuf_schema;
mod protobuf_values;
mod protobuf_wire;
mod registered_json_schema;
mod registry;
mod registry_client;
#[cfg(test)]
mod registry_fake;
mod registry_keys;
mod registry_latest;
mod scalar;
mod scalar_columns;
mod simple_header;
mod spark_json;
mod string_converter;
mod struct_column;
mod table_schema;
mod tape;

pub use compatibility::{
    Compatibility, Fit, Misfit, RecordSchema, SCHEMA_CHANGE_FILES, SCHEMA_COMPATIBILITY, SchemaRules,
};
pub use converters::{BuildConverter, CONVERTERS, HEADER_CONVERTERS};
pub use given::GivenSchema;
pub use infer::{Inference, infer};
pub use json_columns::{JsonColumns, ReadRows, Unknown};
pub use json_schema_converter::UNION_NAMES;
pub use keys::{
    CONNECTOR_KEYS, CORRUPT_COLUMN, HEADER_CONVERTER, HEADER_CONVERTER_VERSION, KEY_CONVERTER, KEY_CONVERTER_VERSION,
    STRAY_KEYS, VALUE_CONVERTER, VALUE_CONVERTER_VERSION, VALUE_SCHEMA, VALUE_SCHEMA_MODE,
};
pub use merge::{Conflict, merge};
pub use project::project;
pub use projection::Projection;
pub use simple_header::simple_header;
pub use table_schema::{DEPTH_MAX, FIELDS_MAX, SchemaError, TableSchema};

/// Which of a record's parts a converter reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The key.
    Key,
    /// The value.
    Value,
    /// The value of a header; a batch of them has each in the place of a record's value.
    Header,
}

impl Part {
    /// The key that names the converter of this part.
    pub const fn key(self) -> &'static model::Key {
        match self {
            Part::Key => &KEY_CONVERTER,
            Part::Value => &VALUE_CONVERTER,
            Part::Header => &HEADER_CONVERTER,
        }
    }

    fn column(self, raw: &RawBatch) -> &arrow::array::BinaryArray {
        match self {
            Part::Key => &raw.keys,
            Part::Value | Part::Header => &raw.values,
        }
    }

    fn stage(self) -> model::Stage {
        match self {
            Part::Key => model::Stage::KeyConverter,
            Part::Value => model::Stage::ValueConverter,
            Part::Header => model::Stage::HeaderConverter,
        }
    }
}

/// What a converter made of a batch.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The rows that could be read, in their order; each batch has one form and one schema. Mostly there is one batch:
    /// there are more only where typed and schemaless values, or values of several schemas, follow each other.
    pub batches: Vec<Batch>,
    /// The rows that could not; their `row` counts in the batch that was given in.
    pub rejected: Vec<Rejected>,
}

/// Why a whole batch could not be decoded; no record is to blame.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The schema registry does not answer; the same call may succeed later.
    #[error("{0}")]
    Unavailable(String),
    /// The schema registry, or the given schema, is wrong; a person must act.
    #[error("{0}")]
    Config(String),
}

/// Reads keys, values or headers, as `org.apache.kafka.connect.storage.Converter` does, but in columns.
#[async_trait]
pub trait Converter: Send {
    /// Decodes all records of `raw`. A tombstone (null value) is a null row, not an error.
    ///
    /// The converter of [`Part::Key`] decodes the keys: the `values` of its batches are what the keys say.
    async fn decode(&mut self, raw: &RawBatch) -> Result<Decoded, Error>;
}
