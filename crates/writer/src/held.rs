//! The rows of one open file that are not encoded yet: exact in what they weigh, and holding on to nothing else.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::concat;
use arrow::datatypes::DataType;
use model::Values;

/// Slices in a row below this size are joined once there are [`JOINED`] of them: a slice costs about as much as this
/// many bytes in array headers and visits.
const SMALL_BYTES: usize = 64 * 1024;

/// How many small slices become one.
const JOINED: usize = 16;

/// A slice is copied out of its batch when the batch is this many times larger, and by no less than [`SMALL_BYTES`].
const LOOSE_FACTOR: usize = 4;

/// What an array takes beside its values: itself, its place in its parent, and the rounding up of its buffers.
const ARRAY_BYTES: usize = 256;

#[derive(Debug)]
struct Slice {
    values: Values,
    bytes: usize,
    /// It keeps a much larger batch alive.
    loose: bool,
}

/// Rows in order, as slices of the batches that they came in.
#[derive(Debug, Default)]
pub(crate) struct HeldRows {
    slices: Vec<Slice>,
    bytes: usize,
    rows: usize,
    /// Arrays that one slice is made of.
    arrays: usize,
}

impl HeldRows {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// What the slices take beside their rows. Small slices of many columns weigh as much as their rows.
    pub(crate) fn overhead_bytes(&self) -> usize {
        self.slices.len() * self.arrays * ARRAY_BYTES
    }

    /// Appends without a copy. Says whether the slice keeps a much larger batch alive: then [`Self::compact`] is due
    /// when that batch is done with.
    pub(crate) fn push(&mut self, values: Values) -> bool {
        let (bytes, pinned) = match &values {
            Values::Typed(columns) => (slice_bytes(columns), columns.get_buffer_memory_size()),
            Values::Schemaless(texts) => (slice_bytes(texts), texts.get_buffer_memory_size()),
        };
        let loose = pinned > LOOSE_FACTOR * bytes && pinned - bytes > SMALL_BYTES;
        if self.slices.is_empty() {
            self.arrays = match &values {
                Values::Typed(columns) => arrays(columns),
                Values::Schemaless(_) => 1,
            };
        }
        self.bytes += bytes;
        self.rows += values.len();
        self.slices.push(Slice { values, bytes, loose });
        let small = self.slices.iter().rev().take(JOINED).filter(|slice| slice.bytes < SMALL_BYTES).count();
        if small == JOINED {
            self.join(self.slices.len() - JOINED);
        }
        self.slices.last().is_some_and(|slice| slice.loose)
    }

    /// Copies every slice that keeps a much larger batch alive.
    pub(crate) fn compact(&mut self) {
        for slice in self.slices.iter_mut().filter(|slice| slice.loose) {
            slice.values = joined(std::slice::from_ref(&slice.values));
            slice.loose = false;
        }
    }

    /// All rows, leaving none.
    pub(crate) fn take(&mut self) -> Vec<Values> {
        self.take_first(usize::MAX)
    }

    /// The first rows, with no fewer than `bytes` if there are as many.
    pub(crate) fn take_first(&mut self, bytes: usize) -> Vec<Values> {
        let (mut count, mut taken) = (0, 0);
        while taken < bytes && count < self.slices.len() {
            taken += self.slices[count].bytes;
            self.rows -= self.slices[count].values.len();
            count += 1;
        }
        self.bytes -= taken;
        self.slices.drain(..count).map(|slice| slice.values).collect()
    }

    /// Replaces the columns of all rows.
    pub(crate) fn project(&mut self, project: &dyn Fn(&StructArray) -> StructArray) {
        for slice in &mut self.slices {
            if let Values::Typed(columns) = &slice.values {
                let projected = project(columns);
                slice.bytes = slice_bytes(&projected);
                slice.values = Values::Typed(projected);
            }
        }
        self.bytes = self.slices.iter().map(|slice| slice.bytes).sum();
    }

    /// Bytes of all buffers that the rows keep alive.
    #[cfg(test)]
    pub(crate) fn pinned_bytes(&self) -> usize {
        let pinned = |values: &Values| match values {
            Values::Typed(columns) => columns.get_buffer_memory_size(),
            Values::Schemaless(texts) => texts.get_buffer_memory_size(),
        };
        self.slices.iter().map(|slice| pinned(&slice.values)).sum()
    }

    fn join(&mut self, from: usize) {
        let values: Vec<Values> = self.slices.drain(from..).map(|slice| slice.values).collect();
        let values = joined(&values);
        let bytes = match &values {
            Values::Typed(columns) => slice_bytes(columns),
            Values::Schemaless(texts) => slice_bytes(texts),
        };
        self.slices.push(Slice { values, bytes, loose: false });
        self.bytes = self.slices.iter().map(|slice| slice.bytes).sum();
    }
}

/// One array with a copy of the rows of all, in exactly the memory they need.
fn joined(values: &[Values]) -> Values {
    let arrays: Vec<&dyn Array> = values
        .iter()
        .map(|values| match values {
            Values::Typed(columns) => columns as &dyn Array,
            Values::Schemaless(texts) => texts as &dyn Array,
        })
        .collect();
    let whole = if let [one] = arrays.as_slice() {
        copied(*one)
    } else {
        concat(&arrays).expect("rows of one file have one type")
    };
    match whole.data_type() {
        DataType::Struct(_) => Values::Typed(whole.as_struct().clone()),
        _ => Values::Schemaless(whole.as_binary::<i32>().clone()),
    }
}

/// `concat` of one array is a slice of it, so the copy goes through an empty second.
fn copied(array: &dyn Array) -> ArrayRef {
    let empty = array.slice(0, 0);
    concat(&[array, empty.as_ref()]).expect("an array and a slice of it have one type")
}

/// Bytes that the rows of `array` need, whatever larger buffers they lie in. Exact for the types that converters make.
pub(crate) fn slice_bytes(array: &dyn Array) -> usize {
    let rows = array.len();
    let validity = if array.nulls().is_some() { rows.div_ceil(8) } else { 0 };
    let values = match array.data_type() {
        DataType::Boolean => rows.div_ceil(8),
        DataType::Utf8 => spanned(array.as_string::<i32>().offsets()) + rows * 4,
        DataType::Binary => spanned(array.as_binary::<i32>().offsets()) + rows * 4,
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| slice_bytes(column.as_ref())).sum(),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            slice_bytes(list.values().slice(first(list.offsets()), spanned(list.offsets())).as_ref()) + rows * 4
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            slice_bytes(&map.entries().slice(first(map.offsets()), spanned(map.offsets()))) + rows * 4
        }
        simple => match simple.primitive_width() {
            Some(width) => rows * width,
            None => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_buffer_memory_size()),
        },
    };
    values + validity
}

/// Number of arrays that `array` is made of.
fn arrays(array: &dyn Array) -> usize {
    let below: usize = match array.data_type() {
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| arrays(column.as_ref())).sum(),
        DataType::List(_) => arrays(array.as_list::<i32>().values().as_ref()),
        DataType::Map(_, _) => arrays(array.as_map().entries()),
        _ => 0,
    };
    1 + below
}

fn first(offsets: &OffsetBuffer<i32>) -> usize {
    usize::try_from(offsets[0]).unwrap_or(0)
}

fn spanned(offsets: &OffsetBuffer<i32>) -> usize {
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    usize::try_from(last - first).unwrap_or(0)
}

/// A place in memory that tells the rows of one batch from those of another.
pub(crate) fn batch_identity(batch: &model::Batch) -> usize {
    batch.offsets.inner().data_ptr().as_ptr() as usize
}

/// Whether rows of this kind have a value in every row.
pub(crate) fn all_have_values(values: &Values) -> bool {
    match values {
        Values::Typed(columns) => columns.null_count() == 0,
        Values::Schemaless(texts) => BinaryArray::null_count(texts) == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::nested_rows;

    fn bytes(values: &Values) -> usize {
        match values {
            Values::Typed(columns) => slice_bytes(columns),
            Values::Schemaless(texts) => slice_bytes(texts),
        }
    }

    #[test]
    fn a_slice_weighs_its_share_and_a_copy_as_much() {
        let whole = nested_rows(0, 1_000);
        let parts: usize = (0..10).map(|part| slice_bytes(&whole.slice(part * 100, 100))).sum();
        let all = slice_bytes(&whole);
        assert!(parts.abs_diff(all) < 1_000, "{parts} {all}");
        let slice = Values::Typed(whole.slice(500, 100));
        let copy = joined(std::slice::from_ref(&slice));
        assert!(bytes(&slice).abs_diff(bytes(&copy)) < 64);
        let Values::Typed(copy) = copy else { unreachable!() };
        assert_eq!(copy, whole.slice(500, 100));
        assert!(copy.get_buffer_memory_size() < 2 * slice_bytes(&copy) + 4_096);
    }

    #[test]
    fn a_row_of_a_large_batch_does_not_keep_the_batch() {
        let whole = nested_rows(0, 10_000);
        let mut held = HeldRows::default();
        assert!(!held.push(Values::Typed(whole.slice(0, 9_000))), "most of the batch may keep it");
        assert!(held.push(Values::Typed(whole.slice(9_000, 2))));
        held.compact();
        let Values::Typed(last) = &held.slices[1].values else { unreachable!() };
        assert!(last.get_buffer_memory_size() < 4_096);
        assert_eq!(held.rows(), 9_002);
    }

    #[test]
    fn many_small_slices_become_few_in_order() {
        let mut held = HeldRows::default();
        for n in 0..1_000 {
            held.push(Values::Typed(nested_rows(n, 1)));
        }
        assert!(held.slices.len() < 40, "{}", held.slices.len());
        let Values::Typed(all) = joined(&held.take()) else { unreachable!() };
        assert_eq!(all, nested_rows(0, 1_000));
        assert_eq!((held.rows(), held.bytes()), (0, 0));
    }
}
