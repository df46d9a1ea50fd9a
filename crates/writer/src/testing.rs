//! Settings and batches for the tests of this crate's pure half.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, StructArray};
use arrow::datatypes::{Field, Fields};
use model::{Batch, Settings, TopicPartition, Values};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;

use crate::store::{Abilities, RetryRules, Store};

pub(crate) fn settings(pairs: &[(&str, &str)]) -> Settings {
    Settings::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

fn batch(timestamps_ms: Vec<i64>, values: Values) -> Batch {
    let rows = timestamps_ms.len();
    Batch {
        topic_partition: TopicPartition::new("test-topic", 12),
        offsets: (0..rows as i64).collect(),
        timestamps_ms: timestamps_ms.into(),
        append_times: None,
        keys: BinaryArray::new_null(rows),
        key_values: None,
        key_schema: None,
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

/// A store with all abilities and a directory, which has no user metadata; what they lie in stays as long as the guard.
pub(crate) fn stores() -> [(Store, Option<tempfile::TempDir>); 2] {
    let rules = RetryRules::default();
    let full = Abilities { metadata: true, conditional: true };
    let memory = Store::with(Arc::new(InMemory::new()), "memory", full, rules, 1);
    let directory = tempfile::tempdir().expect("a directory");
    let files = LocalFileSystem::new_with_prefix(directory.path()).expect("a directory");
    let files = Store::with(Arc::new(files), "files", Abilities { metadata: false, conditional: true }, rules, 1);
    [(memory, None), (files, Some(directory))]
}
