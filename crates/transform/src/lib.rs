//! Single message transforms and predicates, columnar: a batch in, batches out. A chain is built from the `transforms`
//! and `predicates` keys of a connector, in the order of the aliases. Both forms of a batch are served, typed by columns
//! and schemaless row by row, as Kafka Connect's transforms serve both. Rows keep their order and their offsets; a row
//! that a transform cannot take is given back as rejected. Every class a configuration can name is a line of `table`.
//!
//! ```text
//!  Batch --[condition?]--> Transform --> .. --> Batch, Batch, .. (offsets rise)
//!                              \--> Rejected (Stage::Transformation)
//! ```

mod archive;
mod cast;
mod chain;
mod confluent;
mod date_pattern;
mod debezium;
mod extract_field;
mod field_path;
mod flatten;
mod headers;
mod hoist_field;
mod insert_field;
mod java;
mod json;
mod keys;
mod mask_field;
mod metadata;
mod predicates;
mod replace_field;
mod route;
mod table;
mod timestamp_converter;
mod values;

use arrow::buffer::BooleanBuffer;
use model::{Batch, Invalid, Rejected, Settings};

pub use chain::{Chain, Chained, check};
pub use headers::header_texts;
pub use keys::{KEYS, NEGATE, PREDICATE, PREDICATE_ALIASES, TRANSFORM_ALIASES, TYPE};
pub use table::{PREDICATES, TRANSFORMS};

/// One single message transform (`org.apache.kafka.connect.transforms.Transformation`).
pub trait Transform: Send {
    /// Transforms the rows of `batch`. Each row is kept, dropped (it is in neither result) or rejected.
    fn apply(&mut self, batch: Batch) -> Transformed;

    /// Whether it reads or writes [`Batch::key_values`], so that keys must be decoded.
    fn needs_keys(&self) -> bool {
        false
    }
}

/// What a transform makes of a batch.
#[derive(Debug)]
pub struct Transformed {
    /// The rows that go on, in order.
    pub batch: Batch,
    /// Rows that could not be transformed; `row` counts in the batch that was given in, and rises.
    pub rejected: Vec<Rejected>,
}

/// Says which rows a transform is applied to (`org.apache.kafka.connect.transforms.predicates.Predicate`).
pub trait Predicate: Send {
    /// One bit for each row of `batch`.
    fn test(&self, batch: &Batch) -> BooleanBuffer;
}

/// Builds a transform from the settings below `transforms.<alias>.`.
pub type BuildTransform = fn(&Settings) -> Result<Box<dyn Transform>, Invalid>;

/// Builds a predicate from the settings below `predicates.<alias>.`.
pub type BuildPredicate = fn(&Settings) -> Result<Box<dyn Predicate>, Invalid>;
