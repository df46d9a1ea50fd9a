//! `org.apache.kafka.connect.converters.{Boolean,Short,Integer,Long,Float,Double}Converter`: one value of fixed size.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, PrimitiveArray, StructArray};
use arrow::datatypes::{Fields, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type};
use async_trait::async_trait;
use model::{Batch, Invalid, RawBatch, Settings, Values, whole_value_field};

use crate::json_converter::rows_of;
use crate::registry::Rejections;
use crate::{Converter, Decoded, Error, Part};

/// Which of the converters; each value is big endian and has exactly its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Boolean,
    Short,
    Integer,
    Long,
    Float,
    Double,
}

impl Number {
    /// Bytes of a value.
    const fn size(self) -> usize {
        match self {
            Number::Boolean => 1,
            Number::Short => 2,
            Number::Integer | Number::Float => 4,
            Number::Long | Number::Double => 8,
        }
    }

    /// Why `bytes` are no such value, as the deserializers of Kafka put it.
    fn problem(self, bytes: &[u8]) -> Option<&'static str> {
        match self {
            Number::Boolean if bytes.len() != 1 => Some("Size of data received by BooleanDeserializer is not 1"),
            Number::Boolean if bytes[0] > 1 => {
                Some("Unexpected byte received by BooleanDeserializer: it is not 0 or 1")
            }
            Number::Short if bytes.len() != 2 => Some("Size of data received by ShortDeserializer is not 2"),
            Number::Integer if bytes.len() != 4 => Some("Size of data received by IntegerDeserializer is not 4"),
            Number::Long if bytes.len() != 8 => Some("Size of data received by LongDeserializer is not 8"),
            Number::Float if bytes.len() != 4 => Some("Size of data received by Deserializer is not 4"),
            Number::Double if bytes.len() != 8 => Some("Size of data received by Deserializer is not 8"),
            Number::Boolean | Number::Short | Number::Integer | Number::Long | Number::Float | Number::Double => None,
        }
    }

    /// What upstream says around it: only BooleanConverter and the others differ in the noun.
    fn noun(self) -> &'static str {
        match self {
            Number::Boolean => "boolean",
            Number::Short => "short",
            Number::Integer => "integer",
            Number::Long => "long",
            Number::Float => "float",
            Number::Double => "double",
        }
    }

    fn column(self, bytes: &BinaryArray) -> ArrayRef {
        match self {
            Number::Boolean => {
                let values: BooleanArray = bytes.iter().map(|value| value.map(|value| value == [1])).collect();
                Arc::new(values)
            }
            Number::Short => numbers::<Int16Type, 2>(bytes, i16::from_be_bytes),
            Number::Integer => numbers::<Int32Type, 4>(bytes, i32::from_be_bytes),
            Number::Long => numbers::<Int64Type, 8>(bytes, i64::from_be_bytes),
            Number::Float => numbers::<Float32Type, 4>(bytes, f32::from_be_bytes),
            Number::Double => numbers::<Float64Type, 8>(bytes, f64::from_be_bytes),
        }
    }
}

fn numbers<T: ArrowPrimitiveType, const N: usize>(bytes: &BinaryArray, read: fn([u8; N]) -> T::Native) -> ArrayRef {
    let values = bytes.iter().map(|value| value?.try_into().ok().map(read));
    Arc::new(values.collect::<PrimitiveArray<T>>())
}

/// Reads values of fixed size into one column that is the whole value ([`model::is_whole_value`]).
pub(crate) struct NumberConverter {
    part: Part,
    number: Number,
}

impl NumberConverter {
    pub(crate) fn build(_settings: &Settings, part: Part, number: Number) -> Result<Box<dyn Converter>, Invalid> {
        Ok(Box::new(NumberConverter { part, number }))
    }
}

#[async_trait]
impl Converter for NumberConverter {
    async fn decode(&mut self, raw: &RawBatch) -> Result<Decoded, Error> {
        let bytes = self.part.column(raw);
        let mut rejections = Rejections::new(self.part);
        let mut rows = Vec::with_capacity(raw.len());
        for row in 0..raw.len() {
            match bytes.is_valid(row).then(|| self.number.problem(bytes.value(row))).flatten() {
                Some(why) => rejections.push(row, format!("Failed to deserialize {}: {why}", self.number.noun())),
                None => rows.push(row),
            }
        }
        let whole = Batch::decoded(raw, Values::Schemaless(bytes.clone()));
        let mut batch = rows_of(&whole, &rows);
        if batch.is_empty() {
            return Ok(rejections.decoded(raw, Vec::new()));
        }
        let Values::Schemaless(good) = &batch.values else { unreachable!("the whole batch is schemaless") };
        debug_assert!(good.iter().flatten().all(|value| value.len() == self.number.size()));
        let column = self.number.column(good);
        let fields = Fields::from(vec![whole_value_field(column.data_type().clone())]);
        let nulls = column.nulls().cloned();
        batch.values = Values::Typed(StructArray::new(fields, vec![column], nulls));
        Ok(rejections.decoded(raw, vec![batch]))
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;
    use futures::executor::block_on;
    use model::{Offset, RawBatchBuilder, TopicPartition};

    use super::*;

    #[test]
    fn values_of_the_right_size_are_read_and_others_rejected() {
        for (number, good, expected, bad) in [
            (Number::Boolean, &[1][..], "{value: true}", "Size of data received by BooleanDeserializer is not 1"),
            (Number::Short, &[0xff, 0xfe], "{value: -2}", "Size of data received by ShortDeserializer is not 2"),
            (Number::Integer, &[0, 0, 1, 0], "{value: 256}", "Size of data received by IntegerDeserializer is not 4"),
            (
                Number::Long,
                &[0, 0, 0, 0, 0, 0, 0, 7],
                "{value: 7}",
                "Size of data received by LongDeserializer is not 8",
            ),
            (Number::Float, &[0x3f, 0xc0, 0, 0], "{value: 1.5}", "Size of data received by Deserializer is not 4"),
            (
                Number::Double,
                &[0x3f, 0xf8, 0, 0, 0, 0, 0, 0],
                "{value: 1.5}",
                "Size of data received by Deserializer is not 8",
            ),
        ] {
            let mut builder = RawBatchBuilder::new(TopicPartition::new("t", 0), 3, 0);
            for (offset, value) in [Some(good), Some(&[1, 2, 3][..]), None].into_iter().enumerate() {
                builder.push(Offset::new(offset as i64).unwrap(), 0, None, value, Vec::new());
            }
            let mut converter = NumberConverter { part: Part::Value, number };
            let decoded = block_on(converter.decode(&builder.finish())).unwrap();
            let Values::Typed(columns) = &decoded.batches[0].values else { panic!("numbers are typed") };
            assert_eq!(array_value_to_string(columns, 0).unwrap(), expected);
            assert!(columns.is_null(1));
            assert!(decoded.rejected[0].reason.ends_with(bad), "{}", decoded.rejected[0].reason);
        }
    }
}
