//! Settings and batches for the tests of this crate's pure half.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, StructArray};
use arrow::datatypes::{Field, Fields};
use model::{Batch, Settings, TopicPartition, Values};

pub(crate) fn settings(pairs: &[(&str, &str)]) -> Settings {
    Settings::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

fn batch(timestamps_ms: Vec<i64>, values: Values) -> Batch {
    let rows = timestamps_ms.len();
    Batch {
        topic_partition: TopicPartition::new("test-topic", 12),
        offsets: (0..rows as i64).collect(),
        timestamps_ms: timestamps_ms.into(),
        keys: BinaryArray::new_null(rows),
        key_values: None,
        headers: None,
        topics: None,
        input_bytes: vec![10; rows].into(),
        schema: None,
        values,
    }
}

/// A batch of `test-topic-12` from offset 0 with these columns and record times.
pub(crate) fn typed(columns: Vec<(&str, ArrayRef)>, timestamps_ms: &[i64]) -> Batch {
    let fields: Fields =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, column)| column).collect();
    batch(timestamps_ms.to_vec(), Values::Typed(StructArray::new(fields, arrays, None)))
}

/// A batch of `test-topic-12` from offset 0 with these JSON texts.
pub(crate) fn schemaless(texts: &[Option<&str>]) -> Batch {
    let values: BinaryArray = texts.iter().map(|text| text.map(str::as_bytes)).collect();
    batch(vec![0; texts.len()], Values::Schemaless(values))
}

/// A batch of `test-topic-12` from offset 0 with these record times and no columns worth a name.
pub(crate) fn timed(timestamps_ms: &[i64]) -> Batch {
    let column: ArrayRef = Arc::new(arrow::array::Int64Array::from(timestamps_ms.to_vec()));
    typed(vec![("timestamp", column)], timestamps_ms)
}
