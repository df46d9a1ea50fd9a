//! Builders of columns whose values are scalars.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, BooleanBufferBuilder, NullBufferBuilder, PrimitiveArray,
    StringArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use model::without_slack;

use crate::column::Rows;
use crate::scalar::base64_into;

/// Numbers of one type.
pub(crate) struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    last_len: usize,
    validity: NullBufferBuilder,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> Numbers<T> {
    pub(crate) fn new(data_type: &DataType) -> Self {
        Self { values: Vec::new(), last_len: 0, validity: NullBufferBuilder::new(0), data_type: data_type.clone() }
    }

    #[inline]
    pub(crate) fn push(&mut self, value: T::Native) {
        self.values.push(value);
        self.validity.append_non_null();
    }

    /// Appends the value, if there is one.
    pub(crate) fn push_if(&mut self, value: Option<T::Native>) -> Option<()> {
        value.map(|value| self.push(value))
    }
}

impl<T: ArrowPrimitiveType> Rows for Numbers<T> {
    fn begin(&mut self) {
        self.values.reserve(self.last_len);
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    fn push_null(&mut self) {
        self.values.push(T::Native::default());
        self.validity.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.validity.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        self.last_len = self.values.len();
        let values = ScalarBuffer::from(without_slack(std::mem::take(&mut self.values)));
        let array = PrimitiveArray::<T>::new(values, self.validity.finish());
        Arc::new(array.with_data_type(self.data_type.clone()))
    }
}

/// Booleans.
pub(crate) struct Booleans {
    values: BooleanBufferBuilder,
    validity: NullBufferBuilder,
}

impl Booleans {
    pub(crate) fn new() -> Self {
        Self { values: BooleanBufferBuilder::new(0), validity: NullBufferBuilder::new(0) }
    }

    #[inline]
    pub(crate) fn push(&mut self, value: bool) {
        self.values.append(value);
        self.validity.append_non_null();
    }
}

impl Rows for Booleans {
    fn begin(&mut self) {}

    fn len(&self) -> usize {
        self.values.len()
    }

    fn push_null(&mut self) {
        self.values.append(false);
        self.validity.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.validity.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(BooleanArray::new(self.values.finish(), self.validity.finish()))
    }
}

/// Strings or bytes, one after the other in one buffer.
pub(crate) struct Bytes {
    data: Vec<u8>,
    last_len: usize,
    ends: Ends,
    validity: NullBufferBuilder,
    text: bool,
}

impl Bytes {
    pub(crate) fn new(text: bool) -> Self {
        Self { data: Vec::new(), last_len: 0, ends: Ends::new(), validity: NullBufferBuilder::new(0), text }
    }

    #[inline]
    pub(crate) fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.ends.push(self.data.len());
        self.validity.append_non_null();
    }

    /// Appends what `write` writes, and gives what it gives.
    pub(crate) fn push_with<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let written = write(&mut self.data);
        self.ends.push(self.data.len());
        self.validity.append_non_null();
        written
    }

    /// Bytes so far, of all rows together.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len()
    }

    pub(crate) fn push_base64(&mut self, text: &str) -> Option<()> {
        base64_into(text, &mut self.data)?;
        self.ends.push(self.data.len());
        self.validity.append_non_null();
        Some(())
    }
}

impl Rows for Bytes {
    fn begin(&mut self) {
        self.data.reserve(self.last_len);
        self.ends.begin();
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn push_null(&mut self) {
        self.ends.push(self.data.len());
        self.validity.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.data.truncate(self.ends.truncate(rows));
        self.validity.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        self.last_len = self.data.len();
        let data = Buffer::from_vec(without_slack(std::mem::take(&mut self.data)));
        let (offsets, nulls) = (self.ends.finish(), self.validity.finish());
        if self.text {
            return Arc::new(StringArray::new(offsets, data, nulls));
        }
        Arc::new(BinaryArray::new(offsets, data, nulls))
    }
}

/// Where the rows of a column of variable length end. A batch of texts is below 2 GiB, and nothing that is read from a
/// text is longer or has more elements than the text has bytes, so 32 bits are enough.
pub(crate) struct Ends {
    ends: Vec<i32>,
    last_len: usize,
}

impl Ends {
    pub(crate) fn new() -> Self {
        Self { ends: vec![0], last_len: 0 }
    }

    pub(crate) fn begin(&mut self) {
        self.ends.reserve(self.last_len);
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len() - 1
    }

    #[inline]
    pub(crate) fn push(&mut self, end: usize) {
        self.ends.push(i32::try_from(end).expect("a column is no longer than its texts, which are below 2 GiB"));
    }

    /// Keeps the first `rows` rows and gives the end of the last one.
    pub(crate) fn truncate(&mut self, rows: usize) -> usize {
        self.ends.truncate(rows + 1);
        self.ends.last().copied().unwrap_or(0) as usize
    }

    pub(crate) fn finish(&mut self) -> OffsetBuffer<i32> {
        self.last_len = self.ends.len();
        OffsetBuffer::new(ScalarBuffer::from(without_slack(std::mem::replace(&mut self.ends, vec![0]))))
    }
}
