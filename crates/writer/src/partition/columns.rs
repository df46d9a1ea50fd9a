//! The partitioner of tables: a directory `column=value` for each of some columns, from which the values can be read again.

use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use model::{Batch, Rejected, Stage, Values};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{Partitioner, Placed, SplitBuilder};

/// What stands for no value, in the paths of Hive and all who came after it.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Bytes of a path; object stores take keys of 1,024, and the table and the name of the file take their part.
const PATH_BYTES_MAX: usize = 640;

/// What names and values of columns keep in a path.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Paths by the values of columns of a table. Without columns all rows have the empty path.
pub struct ColumnsPartitioner {
    columns: Vec<String>,
}

impl ColumnsPartitioner {
    /// Paths made of the values of `columns`, in their order.
    pub fn new(columns: Vec<String>) -> ColumnsPartitioner {
        ColumnsPartitioner { columns }
    }

    /// The texts of the columns; an error is about all rows.
    fn texts(&self, batch: &Batch) -> Result<Vec<StringArray>, String> {
        let Values::Typed(values) = &batch.values else {
            return Err("a table needs columns, this value has no schema".to_owned());
        };
        let mut texts = Vec::with_capacity(self.columns.len());
        for name in &self.columns {
            let column =
                values.column_by_name(name).ok_or_else(|| format!("there is no field {name} to partition by"))?;
            let is_plain = matches!(
                column.data_type(),
                DataType::Boolean
                    | DataType::Utf8
                    | DataType::Date32
                    | DataType::Timestamp(_, _)
                    | DataType::Decimal128(_, _)
            );
            if !is_plain && !column.data_type().is_signed_integer() {
                return Err(format!("field {name} is {}, by which tables are not partitioned", column.data_type()));
            }
            let text = cast(column, &DataType::Utf8).map_err(|error| error.to_string())?;
            texts.push(text.as_string::<i32>().clone());
        }
        Ok(texts)
    }
}

impl Partitioner for ColumnsPartitioner {
    fn split(&mut self, batch: &Batch, _clock_ms: i64) -> Placed {
        let mut split = SplitBuilder::with_capacity(batch.len());
        let mut rejected = Vec::new();
        let mut reject = |split: &mut SplitBuilder, row: usize, reason: String| {
            split.push_rejected();
            rejected.push(Rejected { row, at: batch.position(row), stage: Stage::TaskPut, reason });
        };
        match self.texts(batch) {
            Err(why) => (0..batch.len()).for_each(|row| reject(&mut split, row, why.clone())),
            Ok(texts) => {
                let (mut path, mut last): (String, Option<(Arc<str>, u32)>) = (String::new(), None);
                for row in 0..batch.len() {
                    path.clear();
                    for (name, texts) in self.columns.iter().zip(&texts) {
                        let value = texts.is_valid(row).then(|| texts.value(row)).filter(|value| !value.is_empty());
                        push_segment(&mut path, name, value);
                    }
                    if path.len() > PATH_BYTES_MAX {
                        reject(&mut split, row, "its path is longer than object stores take".to_owned());
                        continue;
                    }
                    // Neighbours are mostly alike.
                    let number = match &last {
                        Some((known, number)) if **known == *path => *number,
                        Some(_) | None => {
                            let path: Arc<str> = path.as_str().into();
                            let number = split.number(&path);
                            last = Some((path, number));
                            number
                        }
                    };
                    split.push(number);
                }
            }
        }
        Placed { split: split.finish(), times_ms: None, rejected }
    }

    fn wall_clock_bound_ms(&self, _clock_ms: i64) -> Option<i64> {
        None
    }

    fn reads_values(&self) -> bool {
        !self.columns.is_empty()
    }
}

fn push_segment(path: &mut String, name: &str, value: Option<&str>) {
    if !path.is_empty() {
        path.push('/');
    }
    path.extend(utf8_percent_encode(name, IN_PATHS));
    path.push('=');
    match value {
        None => path.push_str(NULL),
        // A text that looks like no value.
        Some(NULL) => path.extend(["%5F", &NULL[1..]]),
        Some(value) => path.extend(utf8_percent_encode(value, IN_PATHS)),
    }
}

/// The columns and values that a path of [`ColumnsPartitioner`] is made of.
pub fn partition_values(path: &str) -> Vec<(String, Option<String>)> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let segments = path.split('/').filter_map(|segment| segment.split_once('='));
    segments.map(|(name, value)| (decoded(name), (value != NULL).then(|| decoded(value)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::batch;
    use arrow::array::{ArrayRef, BooleanArray, Date32Array, Float64Array, Int32Array, StructArray};
    use arrow::datatypes::{Field, Fields};
    use model::TopicPartition;
    use proptest::prelude::*;

    fn rows(columns: Vec<(&str, ArrayRef)>) -> Batch {
        let fields: Fields =
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        let arrays = columns.into_iter().map(|(_, array)| array).collect();
        batch(&TopicPartition::new("t", 0), 0, StructArray::new(fields, arrays, None))
    }

    fn partitioner(columns: &[&str]) -> ColumnsPartitioner {
        ColumnsPartitioner::new(columns.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn paths_are_made_of_values_in_the_order_of_the_columns() {
        let batch = rows(vec![
            ("b", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("n", Arc::new(Int32Array::from(vec![-1, 2]))),
            ("d", Arc::new(Date32Array::from(vec![0, 19_000]))),
        ]);
        let placed = partitioner(&["d", "b", "n"]).split(&batch, 0);
        assert_eq!(&**placed.path(0), "d=1970-01-01/b=true/n=-1");
        assert_eq!(&**placed.path(1), "d=2022-01-08/b=__HIVE_DEFAULT_PARTITION__/n=2");
        assert_eq!(partitioner(&[]).split(&batch, 0).split, super::super::Split::One("".into()));
    }

    #[test]
    fn rows_that_cannot_be_placed_are_rejected() {
        let batch = rows(vec![("f", Arc::new(Float64Array::from(vec![1.0])))]);
        for column in ["f", "missing"] {
            let placed = partitioner(&[column]).split(&batch, 0);
            assert_eq!(placed.rejected.len(), 1);
            assert!(placed.rejected[0].reason.contains(&format!("field {column}")), "{}", placed.rejected[0].reason);
        }
        let long = rows(vec![("s", Arc::new(StringArray::from(vec!["x".repeat(2_000), "y".into()])))]);
        let placed = partitioner(&["s"]).split(&long, 0);
        assert_eq!((placed.rejected.len(), &**placed.path(1)), (1, "s=y"));
    }

    proptest! {
        #[test]
        fn values_are_read_from_paths_again(value in prop_oneof!["\\PC{1,6}", "[a/=%.# ]{1,6}", Just(NULL.to_owned())]) {
            let batch = rows(vec![("käse =", Arc::new(StringArray::from(vec![value.as_str()])))]);
            let placed = partitioner(&["käse ="]).split(&batch, 0);
            let path = placed.path(0).to_string();
            prop_assert_eq!(partition_values(&path), vec![("käse =".to_owned(), Some(value))]);
            prop_assert!(object_store::path::Path::parse(&path).is_ok_and(|parsed| parsed.as_ref() == path));
        }
    }
}
