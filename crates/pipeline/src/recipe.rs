//! What a connector's configuration says a lane is made of.

use std::fmt;
use std::sync::Arc;

use model::Fingerprint;
use schema::{Converter, GivenSchema, SchemaRules};
use transform::Chain;
use writer::{FileContext, KafkaColumns, NullValues, Partitioner, Rotation};

use crate::ErrorRules;

/// Everything that is needed to build a lane, checked already; every lane gets its own converter and partitioner.
pub struct Recipe {
    /// Builds the value converter.
    pub converter: Box<dyn Fn() -> Box<dyn Converter> + Send + Sync>,
    /// Builds the key converter; `None` where nothing reads decoded keys.
    pub key_converter: Option<Box<dyn Fn() -> Box<dyn Converter> + Send + Sync>>,
    /// Builds the header converter; `None` where headers stay the bytes that they are.
    pub header_converter: Option<Box<dyn Fn() -> Box<dyn Converter> + Send + Sync>>,
    /// Builds the chain of transforms.
    pub transforms: Box<dyn Fn() -> Chain + Send + Sync>,
    /// Builds the partitioner.
    pub partitioner: Box<dyn Fn() -> Box<dyn Partitioner> + Send + Sync>,
    /// When cuts end.
    pub rotation: Rotation,
    /// What becomes of tombstones.
    pub null_values: NullValues,
    /// What becomes of rows that bring another schema than the open files have.
    pub schema_rules: SchemaRules,
    /// What becomes of bad records.
    pub errors: ErrorRules,
    /// Columns beside those of values; `None` for none.
    pub kafka_columns: Option<KafkaColumns>,
    /// Files: store, format, names, sizes. Its `schema` is filled in by each cut.
    pub files: FileContext,
    /// The schema that `value.converter.schema` gives; `None` to infer it.
    pub given_schema: Option<GivenSchema>,
    /// Fingerprint of the settings that shape names and rows.
    pub fingerprint: Fingerprint,
}

impl Recipe {
    /// The context of files whose rows have the schema `name`.
    pub(crate) fn files_with_schema(&self, name: &str) -> Arc<FileContext> {
        Arc::new(FileContext { schema: name.into(), ..self.files.clone() })
    }
}

impl fmt::Debug for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipe").field("files", &self.files).field("rotation", &self.rotation).finish_non_exhaustive()
    }
}
