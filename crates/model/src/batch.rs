//! Records in columns: raw bytes as the source reads them, and values as the converters leave them.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, BinaryArray, StringArray, StructArray, UInt32Array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Fields};

use crate::{Offset, Position, TopicPartition};

/// The headers of one record: name and value, in the order of the record.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// What the headers of one record take in memory.
fn headers_bytes(headers: &Headers) -> usize {
    let content = |(name, value): &(String, Option<Vec<u8>>)| name.len() + value.as_ref().map_or(0, Vec::len);
    size_of::<Headers>() + headers.iter().map(|header| size_of_val(header) + content(header)).sum::<usize>()
}

/// Consecutive records of ONE topic-partition as the log holds them; no object per record.
///
/// All columns have the same length. Offsets rise strictly, with gaps where the log has gaps.
#[derive(Debug, Clone)]
pub struct RawBatch {
    /// The lane it belongs to.
    pub topic_partition: TopicPartition,
    /// Offset of each record.
    pub offsets: ScalarBuffer<i64>,
    /// Record time, milliseconds since the epoch; -1 where the record has none.
    pub timestamps_ms: ScalarBuffer<i64>,
    /// Which times the broker gave when it appended the record (`LogAppendTime`); `None` when the producers gave all.
    pub append_times: Option<BooleanBuffer>,
    /// Keys; null where the record has none.
    pub keys: BinaryArray,
    /// Values; null for a tombstone. A value of zero bytes is not null.
    pub values: BinaryArray,
    /// Headers of each record; `None` when no record has any.
    pub headers: Option<Arc<Vec<Headers>>>,
}

impl RawBatch {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether it has no record.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes of keys, values, headers and fixed columns: what it weighs in the memory budget.
    pub fn bytes(&self) -> usize {
        let text = |column: &BinaryArray| {
            column.value_offsets().last().copied().unwrap_or(0) - column.value_offsets().first().copied().unwrap_or(0)
        };
        let headers: usize = self.headers.iter().flat_map(|all| all.iter()).map(headers_bytes).sum();
        text(&self.keys) as usize + text(&self.values) as usize + self.len() * 24 + headers
    }

    /// The place of record `row`.
    pub fn position(&self, row: usize) -> Position {
        self.topic_partition.at(offset_at(&self.offsets, row))
    }

    /// Rows `from..from + count`, without a copy.
    pub fn slice(&self, from: usize, count: usize) -> RawBatch {
        RawBatch {
            topic_partition: self.topic_partition.clone(),
            offsets: self.offsets.slice(from, count),
            timestamps_ms: self.timestamps_ms.slice(from, count),
            append_times: self.append_times.as_ref().map(|given| given.slice(from, count)),
            keys: self.keys.slice(from, count),
            values: self.values.slice(from, count),
            headers: self.headers.as_ref().map(|all| Arc::new(all[from..from + count].to_vec())),
        }
    }
}

/// Collects records of one topic-partition into a [`RawBatch`], keys and values each in one growing buffer.
#[derive(Debug)]
pub struct RawBatchBuilder {
    topic_partition: TopicPartition,
    offsets: Vec<i64>,
    timestamps_ms: Vec<i64>,
    /// Empty while no time was the broker's.
    append_times: Vec<bool>,
    keys: BytesColumn,
    values: BytesColumn,
    headers: Vec<Headers>,
    any_header: bool,
}

#[derive(Debug)]
struct BytesColumn {
    data: Vec<u8>,
    ends: Vec<i32>,
    valid: Vec<bool>,
    any_null: bool,
}

impl BytesColumn {
    fn with_capacity(rows: usize, bytes: usize) -> Self {
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        Self { data: Vec::with_capacity(bytes), ends, valid: Vec::with_capacity(rows), any_null: false }
    }

    fn push(&mut self, value: Option<&[u8]>) {
        self.data.extend_from_slice(value.unwrap_or_default());
        self.ends
            .push(i32::try_from(self.data.len()).expect("RawBatchBuilder::has_room_for keeps a batch below 2 GiB"));
        self.valid.push(value.is_some());
        self.any_null |= value.is_none();
    }

    fn finish(self) -> BinaryArray {
        let nulls = self.any_null.then(|| NullBuffer::from(self.valid));
        let ends = OffsetBuffer::new(ScalarBuffer::from(without_slack(self.ends)));
        BinaryArray::new(ends, Buffer::from_vec(without_slack(self.data)), nulls)
    }
}

/// Gives back what `values` has room for beyond a quarter more than it holds. Memory is counted by what rows need, so a
/// column must not keep the room of a larger batch, or what doubling left over.
pub fn without_slack<T>(mut values: Vec<T>) -> Vec<T> {
    if values.capacity() > values.len() + values.len() / 4 {
        values.shrink_to_fit();
    }
    values
}

impl RawBatchBuilder {
    /// An empty builder with room for `rows` records of together `value_bytes` bytes of values.
    pub fn new(topic_partition: TopicPartition, rows: usize, value_bytes: usize) -> Self {
        Self {
            topic_partition,
            offsets: Vec::with_capacity(rows),
            timestamps_ms: Vec::with_capacity(rows),
            append_times: Vec::new(),
            keys: BytesColumn::with_capacity(rows, 0),
            values: BytesColumn::with_capacity(rows, value_bytes),
            headers: Vec::new(),
            any_header: false,
        }
    }

    /// The lane it collects.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.topic_partition
    }

    /// Number of records so far.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes of keys and values so far.
    pub fn bytes(&self) -> usize {
        self.keys.data.len() + self.values.data.len()
    }

    /// Whether a record of `bytes` more still fits below the 2 GiB that a column can hold.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.keys.data.len().max(self.values.data.len()) + bytes < i32::MAX as usize
    }

    /// Appends one record. Its offset must be larger than the one before; callers check [`Self::has_room_for`].
    pub fn push(
        &mut self,
        offset: Offset,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Headers,
    ) {
        debug_assert!(self.offsets.last().is_none_or(|last| *last < offset.get()), "offsets rise");
        if !headers.is_empty() && !self.any_header {
            self.any_header = true;
            self.headers.resize_with(self.offsets.len(), Headers::new);
        }
        self.offsets.push(offset.get());
        self.timestamps_ms.push(timestamp_ms);
        if !self.append_times.is_empty() {
            self.append_times.push(false);
        }
        self.keys.push(key);
        self.values.push(value);
        if self.any_header {
            self.headers.push(headers);
        }
    }

    /// Takes note that the broker gave the time of the record that was pushed last.
    pub fn mark_append_time(&mut self) {
        self.append_times.resize(self.offsets.len(), false);
        if let Some(last) = self.append_times.last_mut() {
            *last = true;
        }
    }

    /// The batch.
    pub fn finish(self) -> RawBatch {
        RawBatch {
            topic_partition: self.topic_partition,
            offsets: ScalarBuffer::from(without_slack(self.offsets)),
            timestamps_ms: ScalarBuffer::from(without_slack(self.timestamps_ms)),
            append_times: (!self.append_times.is_empty()).then(|| BooleanBuffer::from(self.append_times)),
            keys: self.keys.finish(),
            values: self.values.finish(),
            headers: self.any_header.then(|| Arc::new(self.headers)),
        }
    }
}

fn pick<A: Array + Clone + 'static>(array: &A, rows: &UInt32Array) -> A {
    let picked = take(array, rows, None).expect("row numbers come from this array");
    picked.as_any().downcast_ref::<A>().expect("take keeps the type").clone()
}

/// The values of a [`Batch`], in one of the two forms that Kafka Connect knows.
#[derive(Debug, Clone)]
pub enum Values {
    /// Columns with a schema; a null row is a tombstone.
    Typed(StructArray),
    /// JSON text, one value a row, of any shape; a null row is a tombstone.
    Schemaless(BinaryArray),
}

impl Values {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Values::Typed(columns) => columns.len(),
            Values::Schemaless(texts) => texts.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows `from..from + count`, without a copy.
    pub fn slice(&self, from: usize, count: usize) -> Values {
        match self {
            Values::Typed(columns) => Values::Typed(columns.slice(from, count)),
            Values::Schemaless(texts) => Values::Schemaless(texts.slice(from, count)),
        }
    }

    /// The rows `rows`, in that order, copied.
    pub fn select(&self, rows: &UInt32Array) -> Values {
        match self {
            Values::Typed(columns) => Values::Typed(pick(columns, rows)),
            Values::Schemaless(texts) => Values::Schemaless(pick(texts, rows)),
        }
    }

    /// Which rows have a value; `None` when all have one.
    pub fn nulls(&self) -> Option<&NullBuffer> {
        match self {
            Values::Typed(columns) => columns.nulls(),
            Values::Schemaless(texts) => texts.nulls(),
        }
    }
}

/// Name of the only column of typed values that are no struct (strings, bytes, numbers): see [`is_whole_value`].
pub const WHOLE_VALUE: &str = "value";

/// Metadata of that column, so that it is not taken for a struct with a field called `value`.
const WHOLE_VALUE_MARK: &str = "sluice.whole.value";

/// The column that stands for a whole value of type `data_type` which is no struct.
pub fn whole_value_field(data_type: DataType) -> Field {
    Field::new(WHOLE_VALUE, data_type, true).with_metadata([(WHOLE_VALUE_MARK.to_owned(), "true".to_owned())].into())
}

/// Whether `field` is such a column.
pub fn is_whole_value_field(field: &Field) -> bool {
    field.metadata().contains_key(WHOLE_VALUE_MARK)
}

/// Whether these are the columns of values that are no struct: one column, marked as being the value itself. A writer of
/// rows writes the column; a writer of values (JSON lines, bytes) writes what is in it.
pub fn is_whole_value(fields: &Fields) -> bool {
    matches!(fields.as_ref(), [field] if is_whole_value_field(field))
}

/// What Kafka Connect's schema of a value says beside its fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ValueSchema {
    /// Its full name, such as `io.example.Prediction`.
    pub name: Option<String>,
    /// Its version in the registry, or the one that the envelope states.
    pub version: Option<i32>,
}

/// Decoded records of one topic-partition. All columns have the same length; offsets rise.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The lane it belongs to.
    pub topic_partition: TopicPartition,
    /// Offset of each record.
    pub offsets: ScalarBuffer<i64>,
    /// Record time, milliseconds since the epoch; -1 where the record has none.
    pub timestamps_ms: ScalarBuffer<i64>,
    /// Which times the broker gave when it appended the record (`LogAppendTime`); `None` when the producers gave all.
    pub append_times: Option<BooleanBuffer>,
    /// Keys as the log holds them.
    pub keys: BinaryArray,
    /// What the keys say, decoded; `None` when nobody asked for it.
    pub key_values: Option<Values>,
    /// The one schema of all typed keys; `None` where the converter knows none.
    pub key_schema: Option<Arc<ValueSchema>>,
    /// Headers of each record; `None` when no record has any.
    pub headers: Option<Arc<Vec<Headers>>>,
    /// The topic under which each record is written, where a transform chose one; `None` for the lane's own.
    pub topics: Option<StringArray>,
    /// Bytes of key and value that each record had in the log.
    pub input_bytes: ScalarBuffer<u32>,
    /// The one schema of all typed values; `None` where the converter knows none.
    pub schema: Option<Arc<ValueSchema>>,
    /// The values.
    pub values: Values,
}

impl Batch {
    /// The batch that `raw` becomes once its values are decoded; `values` has one row for each record of `raw`.
    pub fn decoded(raw: &RawBatch, values: Values) -> Batch {
        assert_eq!(raw.len(), values.len(), "a converter decodes row by row");
        let lengths = |column: &BinaryArray, row: usize| column.value_length(row) as u32;
        let input_bytes = (0..raw.len()).map(|row| lengths(&raw.keys, row) + lengths(&raw.values, row)).collect();
        Batch {
            topic_partition: raw.topic_partition.clone(),
            offsets: raw.offsets.clone(),
            timestamps_ms: raw.timestamps_ms.clone(),
            append_times: raw.append_times.clone(),
            keys: raw.keys.clone(),
            key_values: None,
            key_schema: None,
            headers: raw.headers.clone(),
            topics: None,
            input_bytes,
            schema: None,
            values,
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The offset of `row`.
    pub fn offset(&self, row: usize) -> Offset {
        offset_at(&self.offsets, row)
    }

    /// The place of the record in `row`.
    pub fn position(&self, row: usize) -> Position {
        self.topic_partition.at(self.offset(row))
    }

    /// Rows `from..from + count`, without a copy.
    pub fn slice(&self, from: usize, count: usize) -> Batch {
        Batch {
            topic_partition: self.topic_partition.clone(),
            offsets: self.offsets.slice(from, count),
            timestamps_ms: self.timestamps_ms.slice(from, count),
            append_times: self.append_times.as_ref().map(|given| given.slice(from, count)),
            keys: self.keys.slice(from, count),
            key_values: self.key_values.as_ref().map(|keys| keys.slice(from, count)),
            key_schema: self.key_schema.clone(),
            headers: self.headers.as_ref().map(|all| Arc::new(all[from..from + count].to_vec())),
            topics: self.topics.as_ref().map(|topics| topics.slice(from, count)),
            input_bytes: self.input_bytes.slice(from, count),
            schema: self.schema.clone(),
            values: self.values.slice(from, count),
        }
    }

    /// The rows `rows`, in that order, copied.
    pub fn select(&self, rows: &[u32]) -> Batch {
        let indices = UInt32Array::from(rows.to_vec());
        Batch {
            topic_partition: self.topic_partition.clone(),
            offsets: rows.iter().map(|row| self.offsets[*row as usize]).collect(),
            timestamps_ms: rows.iter().map(|row| self.timestamps_ms[*row as usize]).collect(),
            append_times: self
                .append_times
                .as_ref()
                .map(|given| rows.iter().map(|row| given.value(*row as usize)).collect()),
            keys: pick(&self.keys, &indices),
            key_values: self.key_values.as_ref().map(|keys| keys.select(&indices)),
            key_schema: self.key_schema.clone(),
            headers: self
                .headers
                .as_ref()
                .map(|all| Arc::new(rows.iter().map(|row| all[*row as usize].clone()).collect())),
            topics: self.topics.as_ref().map(|topics| pick(topics, &indices)),
            input_bytes: rows.iter().map(|row| self.input_bytes[*row as usize]).collect(),
            schema: self.schema.clone(),
            values: self.values.select(&indices),
        }
    }
}

fn offset_at(offsets: &ScalarBuffer<i64>, row: usize) -> Offset {
    Offset::new(offsets[row]).expect("a record's offset is not negative")
}

/// Where on its way a record was rejected, under Kafka Connect's names (`org.apache.kafka.connect.runtime.errors.Stage`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Key converter.
    KeyConverter,
    /// Value converter, and inference of plain JSON.
    ValueConverter,
    /// Header converter.
    HeaderConverter,
    /// A transform or its predicate; upstream's class of that transform.
    Transformation(&'static str),
    /// Partitioner, projection or writer.
    TaskPut,
}

impl Stage {
    /// The upstream constant.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::KeyConverter => "KEY_CONVERTER",
            Stage::ValueConverter => "VALUE_CONVERTER",
            Stage::HeaderConverter => "HEADER_CONVERTER",
            Stage::Transformation(_) => "TRANSFORMATION",
            Stage::TaskPut => "TASK_PUT",
        }
    }
}

/// A record that cannot go on, and why. `errors.tolerance` decides what becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// Row of the batch that was given in.
    pub row: usize,
    /// The record.
    pub at: Position,
    /// The step that refused it.
    pub stage: Stage,
    /// What is wrong with it and what to do.
    pub reason: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> RawBatch {
        let mut builder = RawBatchBuilder::new(TopicPartition::new("t", 0), 4, 64);
        for (offset, key, value) in [(3, None, Some(&b"a"[..])), (5, Some(&b"k"[..]), None), (6, None, Some(&b""[..]))]
        {
            builder.push(Offset::new(offset).unwrap(), offset * 10, key, value, Headers::new());
        }
        builder.push(Offset::new(9).unwrap(), 90, None, Some(b"last"), vec![("h".into(), None)]);
        builder.finish()
    }

    #[test]
    fn a_raw_batch_keeps_nulls_empty_values_gaps_and_headers() {
        let raw = raw();
        assert_eq!(raw.offsets.as_ref(), [3, 5, 6, 9]);
        assert!(raw.values.is_null(1) && !raw.values.is_null(2) && raw.values.value(2).is_empty());
        assert_eq!(raw.values.value(3), b"last");
        let headers = raw.headers.as_ref().unwrap();
        assert_eq!((headers[0].len(), headers[3].len()), (0, 1));
        assert_eq!(raw.position(3).to_string(), "t-0@9");
    }

    #[test]
    fn the_kind_of_a_time_goes_with_its_record() {
        let mut builder = RawBatchBuilder::new(TopicPartition::new("t", 0), 4, 64);
        for offset in 0..4 {
            builder.push(Offset::new(offset).unwrap(), 1, None, None, Headers::new());
            if offset == 1 || offset == 2 {
                builder.mark_append_time();
            }
        }
        let raw = builder.finish();
        let batch = Batch::decoded(&raw, Values::Schemaless(raw.values.clone()));
        let kinds = |batch: &Batch| batch.append_times.as_ref().unwrap().iter().collect::<Vec<_>>();
        assert_eq!(kinds(&batch), [false, true, true, false]);
        assert_eq!((kinds(&batch.slice(2, 2)), kinds(&batch.select(&[0, 2]))), (vec![true, false], vec![false, true]));
    }

    #[test]
    fn select_and_slice_agree() {
        let raw = raw();
        let batch = Batch::decoded(&raw, Values::Schemaless(raw.values.clone()));
        let (sliced, selected) = (batch.slice(1, 2), batch.select(&[1, 2]));
        assert_eq!(sliced.offsets, selected.offsets);
        assert_eq!(sliced.input_bytes.as_ref(), [1, 0]);
        let (Values::Schemaless(a), Values::Schemaless(b)) = (&sliced.values, &selected.values) else { unreachable!() };
        assert_eq!(a, b);
    }

    #[test]
    fn a_slice_weighs_what_it_holds() {
        let header = size_of::<Headers>() + size_of::<(String, Option<Vec<u8>>)>() + 1;
        assert_eq!(raw().slice(3, 1).bytes(), 4 + 24 + header);
    }
}
