//! `org.apache.kafka.connect.converters.ByteArrayConverter`: each value is what it is.

use std::sync::Arc;

use arrow::array::{Array, StructArray};
use arrow::datatypes::{DataType, Fields};
use async_trait::async_trait;
use model::{Batch, Invalid, RawBatch, Settings, Values, whole_value_field};

use crate::{Converter, Decoded, Error, Part};

/// Passes bytes on, uncopied, in one column that is the whole value ([`model::is_whole_value`]).
pub(crate) struct BytesConverter {
    part: Part,
}

impl BytesConverter {
    pub(crate) fn build(_settings: &Settings, part: Part) -> Result<Box<dyn Converter>, Invalid> {
        Ok(Box::new(BytesConverter { part }))
    }
}

#[async_trait]
impl Converter for BytesConverter {
    async fn decode(&mut self, raw: &RawBatch) -> Result<Decoded, Error> {
        if raw.is_empty() {
            return Ok(Decoded::default());
        }
        let bytes = self.part.column(raw).clone();
        let nulls = bytes.nulls().cloned();
        let fields = Fields::from(vec![whole_value_field(DataType::Binary)]);
        let columns = StructArray::new(fields, vec![Arc::new(bytes)], nulls);
        Ok(Decoded { batches: vec![Batch::decoded(raw, Values::Typed(columns))], rejected: Vec::new() })
    }
}
