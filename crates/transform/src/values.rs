//! What the transforms of keys and values share: choosing the side, running an edit over both forms, leaving rows out.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, StringArray, StructArray, UInt32Array,
    new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast, nullif, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
pub(crate) use model::DEFAULT_MARK;
use model::{Batch, Rejected, Stage, Values, is_whole_value, whole_value_field};
use serde_json::{Map, Value};

use crate::{Transform, Transformed};

/// Bytes that one column of texts may hold.
const COLUMN_BYTES_MAX: usize = i32::MAX as usize;

/// The part of a record that a transform works on: upstream's `$Key` and `$Value` classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The decoded key.
    Key,
    /// The value.
    Value,
}

impl Side {
    /// What `batch` holds on this side. Keys that nobody decoded are nulls.
    pub(crate) fn of(self, batch: &Batch) -> Values {
        match self {
            Side::Key => {
                batch.key_values.clone().unwrap_or_else(|| Values::Schemaless(BinaryArray::new_null(batch.len())))
            }
            Side::Value => batch.values.clone(),
        }
    }

    /// `batch` with other values on this side.
    pub(crate) fn put(self, mut batch: Batch, values: Values) -> Batch {
        match self {
            Side::Key => batch.key_values = Some(values),
            Side::Value => batch.values = values,
        }
        batch
    }
}

/// A record as schemaless edits see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    /// Its batch.
    pub(crate) batch: &'a Batch,
    /// Its row there.
    pub(crate) row: usize,
}

impl Record<'_> {
    /// The topic that the record has by now.
    pub(crate) fn topic(&self) -> &str {
        topic(self.batch, self.row)
    }

    /// Its timestamp in milliseconds, if it has one.
    pub(crate) fn timestamp_ms(&self) -> Option<i64> {
        Some(self.batch.timestamps_ms[self.row]).filter(|timestamp| *timestamp >= 0)
    }
}

/// The topic that row `row` of `batch` has by now.
pub(crate) fn topic(batch: &Batch, row: usize) -> &str {
    match &batch.topics {
        Some(topics) if topics.is_valid(row) => topics.value(row),
        Some(_) | None => &batch.topic_partition.topic,
    }
}

/// Rows that cannot go on, rising, each with the reason.
pub(crate) type Refused = Vec<(usize, String)>;

/// Columns that an edit made, one row for each that it was given, and the rows among them that cannot go on.
#[derive(Debug)]
pub(crate) struct Columns {
    /// The new columns.
    pub(crate) columns: StructArray,
    /// Rows that cannot go on.
    pub(crate) refused: Refused,
}

impl From<StructArray> for Columns {
    fn from(columns: StructArray) -> Self {
        Columns { columns, refused: Refused::new() }
    }
}

/// What a transform does to a key or a value: upstream's `applyWithSchema` and `applySchemaless`.
pub(crate) trait Edit: Send {
    /// Edits typed values. The error is the reason to refuse every row that is not null.
    fn typed(&self, columns: &StructArray, batch: &Batch) -> Result<Columns, String>;

    /// Edits one schemaless value; null stands for no value, on the way in and out.
    fn schemaless(&self, value: Value, record: Record<'_>) -> Result<Value, String>;

    /// Whether values have another schema afterwards, of which neither name nor version is known.
    fn changes_schema(&self) -> bool {
        false
    }

    /// Why a typed null is refused, if it is. Upstream meets such a null without a schema.
    fn null(&self) -> Option<String> {
        None
    }
}

/// The transform that does one [`Edit`] to one side.
#[derive(Debug)]
pub(crate) struct OnSide<E> {
    /// The side.
    pub(crate) side: Side,
    /// The edit.
    pub(crate) edit: E,
}

impl<E: Edit> Transform for OnSide<E> {
    fn apply(&mut self, mut batch: Batch) -> Transformed {
        let (values, refused) = edit_values(&self.edit, self.side.of(&batch), &batch);
        if self.side == Side::Value && self.edit.changes_schema() {
            batch.schema = None;
        }
        without(self.side.put(batch, values), refused)
    }

    fn needs_keys(&self) -> bool {
        self.side == Side::Key
    }
}

/// Runs `edit` over all of `values`.
pub(crate) fn edit_values(edit: &impl Edit, values: Values, batch: &Batch) -> (Values, Refused) {
    match values {
        Values::Typed(columns) => {
            let (columns, refused) = edit_typed(edit, columns, batch);
            (Values::Typed(columns), refused)
        }
        Values::Schemaless(texts) => {
            let (texts, refused) = edit_texts(&texts, |value, row| edit.schemaless(value, Record { batch, row }));
            (Values::Schemaless(texts), refused)
        }
    }
}

fn edit_typed(edit: &impl Edit, columns: StructArray, batch: &Batch) -> (StructArray, Refused) {
    let (columns, mut refused) = match edit.typed(&columns, batch) {
        Ok(made) => (made.columns, made.refused),
        Err(reason) => {
            let rows = (0..columns.len()).filter(|row| columns.is_valid(*row));
            let refused = rows.map(|row| (row, reason.clone())).collect();
            (columns, refused)
        }
    };
    if let Some(reason) = edit.null() {
        let nulls = (0..columns.len()).filter(|row| columns.is_null(*row));
        refused.extend(nulls.map(|row| (row, reason.clone())));
        refused.sort_by_key(|(row, _)| *row);
        refused.dedup_by_key(|(row, _)| *row);
    }
    (columns, refused)
}

/// Runs `edit` over JSON texts, row by row. Null rows are `Value::Null`, and the other way round.
pub(crate) fn edit_texts(
    texts: &BinaryArray,
    mut edit: impl FnMut(Value, usize) -> Result<Value, String>,
) -> (BinaryArray, Refused) {
    let mut made = TextColumn::new(texts.len(), texts.value_data().len());
    let mut refused = Refused::new();
    for row in 0..texts.len() {
        let value = parse(texts, row).and_then(|value| edit(value, row)).and_then(|value| made.push(&value));
        if let Err(reason) = value {
            made.push_null();
            refused.push((row, reason));
        }
    }
    (made.finish(), refused)
}

/// What is said of a text that no converter has looked into and that is no JSON.
pub(crate) const NOT_JSON: &str = "the value is not valid JSON";

/// The JSON value in `row`.
pub(crate) fn parse(texts: &BinaryArray, row: usize) -> Result<Value, String> {
    if texts.is_null(row) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(texts.value(row)).map_err(|error| format!("{NOT_JSON}: {error}"))
}

/// Collects JSON texts in one growing column.
#[derive(Debug)]
pub(crate) struct TextColumn {
    builder: BinaryBuilder,
    text: Vec<u8>,
    bytes: usize,
}

impl TextColumn {
    pub(crate) fn new(rows: usize, bytes: usize) -> Self {
        Self { builder: BinaryBuilder::with_capacity(rows, bytes), text: Vec::new(), bytes: 0 }
    }

    /// Appends `value`, as a null row if it is null. On an error nothing is appended.
    pub(crate) fn push(&mut self, value: &Value) -> Result<(), String> {
        if value.is_null() {
            self.push_null();
            return Ok(());
        }
        self.text.clear();
        serde_json::to_writer(&mut self.text, value)
            .map_err(|error| format!("the value cannot be written: {error}"))?;
        self.bytes = self.bytes.saturating_add(self.text.len());
        if self.bytes > COLUMN_BYTES_MAX {
            return Err(
                "the batch would exceed 2 GiB with this value; let the consumer fetch less at a time".to_owned()
            );
        }
        self.builder.append_value(&self.text);
        Ok(())
    }

    pub(crate) fn push_null(&mut self) {
        self.builder.append_null();
    }

    pub(crate) fn finish(mut self) -> BinaryArray {
        self.builder.finish()
    }
}

/// `batch` without the rows that `refused` names.
pub(crate) fn without(batch: Batch, refused: Refused) -> Transformed {
    leave_out(batch, refused, |_row| false)
}

/// `batch` without the rows that `refused` names, and without those that `dropped` says.
pub(crate) fn leave_out(batch: Batch, refused: Refused, dropped: impl Fn(usize) -> bool) -> Transformed {
    let mut keep: Vec<bool> = (0..batch.len()).map(|row| !dropped(row)).collect();
    let mut rejected = Vec::with_capacity(refused.len());
    for (row, reason) in refused {
        keep[row] = false;
        rejected.push(Rejected { row, at: batch.position(row), stage: Stage::Transformation(""), reason });
    }
    Transformed { batch: keep_rows(batch, |row| keep[row]), rejected }
}

/// The rows of `batch` that `keep` accepts.
pub(crate) fn keep_rows(batch: Batch, keep: impl Fn(usize) -> bool) -> Batch {
    let rows: Vec<u32> = (0..batch.len()).filter(|row| keep(*row)).map(|row| row as u32).collect();
    if rows.len() == batch.len() { batch } else { batch.select(&rows) }
}

/// The object that `value` must be (`Requirements.requireMap`).
pub(crate) fn require_map(value: Value, purpose: &str) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(map) => Ok(map),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            Err(no_map(class_of(&other), purpose))
        }
    }
}

/// The sentence of `Requirements.requireMap`.
pub(crate) fn no_map(found: &str, purpose: &str) -> String {
    format!("Only Map objects supported in absence of schema for [{purpose}], found: {found}")
}

/// Refuses values that are no struct (`Requirements.requireStruct`).
pub(crate) fn require_struct(columns: &StructArray, purpose: &str) -> Result<(), String> {
    if !is_whole_value(columns.fields()) {
        return Ok(());
    }
    let class = class_of_type(columns.column(0).data_type());
    Err(format!("Only Struct objects supported for [{purpose}], found: {class}"))
}

/// The Java class that JsonConverter makes of a JSON value.
pub(crate) fn class_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "java.lang.Boolean",
        Value::Number(number) if number.is_f64() => "java.lang.Double",
        Value::Number(_) => "java.lang.Long",
        Value::String(_) => "java.lang.String",
        Value::Array(_) => "java.util.ArrayList",
        Value::Object(_) => "java.util.HashMap",
    }
}

/// The Java class of a typed value.
pub(crate) fn class_of_type(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "java.lang.Boolean",
        DataType::Int8 => "java.lang.Byte",
        DataType::Int16 => "java.lang.Short",
        DataType::Int32 => "java.lang.Integer",
        DataType::Int64 => "java.lang.Long",
        DataType::Float32 => "java.lang.Float",
        DataType::Float64 => "java.lang.Double",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "java.lang.String",
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::BinaryView => "[B",
        DataType::Date32 | DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..) => "java.util.Date",
        DataType::Decimal128(..) | DataType::Decimal256(..) => "java.math.BigDecimal",
        DataType::List(_) | DataType::LargeList(_) => "java.util.ArrayList",
        DataType::Map(..) => "java.util.HashMap",
        DataType::Struct(_) => "org.apache.kafka.connect.data.Struct",
        _other => "java.lang.Object",
    }
}

/// The name of Connect's `Schema.Type` for a column.
pub(crate) fn connect_type(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "INT8",
        DataType::Int16 => "INT16",
        DataType::Int32 | DataType::Date32 | DataType::Time32(_) => "INT32",
        DataType::Int64 | DataType::Time64(_) | DataType::Timestamp(..) => "INT64",
        DataType::Float32 => "FLOAT32",
        DataType::Float64 => "FLOAT64",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "STRING",
        DataType::List(_) | DataType::LargeList(_) => "ARRAY",
        DataType::Map(..) => "MAP",
        DataType::Struct(_) => "STRUCT",
        _bytes => "BYTES",
    }
}

/// A struct of `fields` and `columns` with the nulls of the rows.
pub(crate) fn struct_of(
    fields: Vec<FieldRef>,
    columns: Vec<ArrayRef>,
    nulls: Option<&NullBuffer>,
    rows: usize,
) -> Result<StructArray, String> {
    for (index, field) in fields.iter().enumerate() {
        if fields[..index].iter().any(|other| other.name() == field.name()) {
            return Err(format!("Cannot create field because of field name duplication {}", field.name()));
        }
    }
    StructArray::try_new_with_length(Fields::from(fields), columns, nulls.cloned(), rows)
        .map_err(|error| format!("the fields do not fit together: {error}"))
}

/// The column of values that are no struct, or the columns of a struct, from one column that becomes the whole value. A
/// null there is a null value.
pub(crate) fn whole(column: ArrayRef) -> StructArray {
    if let Some(columns) = column.as_struct_opt() {
        return columns.clone();
    }
    let nulls = column.logical_nulls();
    let rows = column.len();
    let field = Arc::new(whole_value_field(column.data_type().clone()));
    StructArray::try_new_with_length(Fields::from(vec![field]), vec![column], nulls, rows)
        .expect("one nullable column of the array's own type and length fits")
}

/// `column` with nulls wherever `nulls` has them.
pub(crate) fn masked(column: &ArrayRef, nulls: Option<&NullBuffer>) -> Result<ArrayRef, String> {
    match nulls {
        Some(nulls) if nulls.null_count() > 0 && column.data_type() != &DataType::Null => {
            let is_null = BooleanArray::new(!nulls.inner(), None);
            nullif(column, &is_null).map_err(|error| format!("nulls cannot be set: {error}"))
        }
        Some(_) | None => Ok(column.clone()),
    }
}

/// `column`, whose field is `field`, with its default in place of nulls (`Struct.get`). Rows in `nulls` have no value at all.
fn with_default(column: &ArrayRef, field: &Field) -> Option<ArrayRef> {
    let text = field.metadata().get(DEFAULT_MARK)?;
    let nulls = column.logical_nulls().filter(|nulls| nulls.null_count() > 0)?;
    let default: Value = serde_json::from_str(text).ok()?;
    let scalar = constant(&default, field.data_type())?;
    let is_valid = BooleanArray::new(nulls.into_inner(), None);
    zip(&is_valid, column, &arrow::array::Scalar::new(scalar)).ok()
}

/// The columns with defaults in place of nulls, if `replace` (`replace.null.with.default`).
pub(crate) fn with_defaults(columns: &StructArray, replace: bool) -> StructArray {
    if !replace || columns.fields().iter().all(|field| !field.metadata().contains_key(DEFAULT_MARK)) {
        return columns.clone();
    }
    let filled = columns
        .columns()
        .iter()
        .zip(columns.fields())
        .map(|(column, field)| with_default(column, field).unwrap_or_else(|| column.clone()));
    let filled: Vec<ArrayRef> = filled.collect();
    StructArray::try_new_with_length(columns.fields().clone(), filled, columns.nulls().cloned(), columns.len())
        .unwrap_or_else(|_| columns.clone())
}

/// One value of type `data_type` from JSON: texts, numbers and booleans, and the logical types' numbers. `None` if the
/// type is nested or the value does not fit.
fn constant(value: &Value, data_type: &DataType) -> Option<ArrayRef> {
    let column: ArrayRef = match (value, data_type) {
        (Value::Bool(flag), _) => Arc::new(BooleanArray::from(vec![*flag])),
        (Value::Number(number), DataType::Date32 | DataType::Time32(TimeUnit::Millisecond)) => {
            Arc::new(arrow::array::Int32Array::from(vec![i32::try_from(number.as_i64()?).ok()?]))
        }
        (Value::Number(number), _) => match number.as_i64() {
            Some(whole) => Arc::new(arrow::array::Int64Array::from(vec![whole])),
            None => Arc::new(arrow::array::Float64Array::from(vec![number.as_f64()?])),
        },
        (Value::String(text), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => {
            Arc::new(StringArray::from(vec![text.as_str()]))
        }
        (Value::String(_) | Value::Null | Value::Array(_) | Value::Object(_), _) => return None,
    };
    let made = cast(&column, data_type).ok()?;
    (made.null_count() == 0).then_some(made)
}

/// `rows` times the one value of `scalar`, null where `nulls` says so.
pub(crate) fn repeated(scalar: &ArrayRef, rows: usize, nulls: Option<&NullBuffer>) -> Result<ArrayRef, String> {
    let indices = UInt32Array::new(vec![0; rows].into(), nulls.cloned());
    take(scalar, &indices, None).map_err(|error| format!("a constant column cannot be made: {error}"))
}

/// Typed values that are all null, with the type of `like`.
pub(crate) fn nulls_like(like: &StructArray, rows: usize) -> StructArray {
    new_null_array(like.data_type(), rows).as_struct().clone()
}

#[cfg(test)]
pub(crate) mod testing {
    //! What the tests of this crate build their batches with.

    use super::*;
    use model::{Invalid, Offset, RawBatchBuilder, Settings, TopicPartition};

    /// Topic `test`, partition 3, offsets 10, 11, .., timestamps 1000, 1001, ..
    pub(crate) fn batch(values: Values) -> Batch {
        let mut raw = RawBatchBuilder::new(TopicPartition::new("test", 3), values.len(), 0);
        for row in 0..values.len() as i64 {
            raw.push(Offset::new(10 + row).unwrap(), 1000 + row, None, None, Vec::new());
        }
        Batch::decoded(&raw.finish(), values)
    }

    /// One schemaless row for each text; `null` is a tombstone.
    pub(crate) fn schemaless(texts: &[&str]) -> Batch {
        let rows = texts.iter().map(|text| (*text != "null").then_some(text.as_bytes()));
        batch(Values::Schemaless(BinaryArray::from_iter(rows)))
    }

    /// Columns, each optional.
    pub(crate) fn columns(fields: Vec<(&str, ArrayRef)>) -> StructArray {
        let (fields, columns): (Vec<_>, Vec<_>) = fields
            .into_iter()
            .map(|(name, column)| (Field::new(name, column.data_type().clone(), true), column))
            .unzip();
        StructArray::new(Fields::from(fields), columns, None)
    }

    pub(crate) fn typed(fields: Vec<(&str, ArrayRef)>) -> Batch {
        batch(Values::Typed(columns(fields)))
    }

    /// Texts as whole values.
    pub(crate) fn whole_texts(texts: Vec<Option<&str>>) -> Batch {
        batch(Values::Typed(whole(Arc::new(StringArray::from(texts)))))
    }

    pub(crate) fn ints(values: Vec<Option<i64>>) -> ArrayRef {
        Arc::new(arrow::array::Int64Array::from(values))
    }

    pub(crate) fn texts(values: Vec<Option<&str>>) -> ArrayRef {
        Arc::new(StringArray::from(values))
    }

    pub(crate) fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
    }

    /// The transform that the table calls `name`.
    pub(crate) fn build(name: &str, pairs: &[(&str, &str)]) -> Result<Box<dyn Transform>, Invalid> {
        (model::find(crate::TRANSFORMS, "transform", name).unwrap().build)(&settings(pairs))
    }

    pub(crate) fn transform(name: &str, pairs: &[(&str, &str)]) -> Box<dyn Transform> {
        build(name, pairs).unwrap()
    }

    /// Each row as JSON text; typed ones by arrow's own writer, nulls left out there.
    pub(crate) fn rows(values: &Values) -> Vec<String> {
        match values {
            Values::Schemaless(texts) => texts
                .iter()
                .map(|text| text.map_or("null".to_owned(), |text| String::from_utf8(text.to_vec()).unwrap()))
                .collect(),
            Values::Typed(columns) => (0..columns.len())
                .map(|row| if columns.is_null(row) { "null".to_owned() } else { typed_row(columns, row) })
                .collect(),
        }
    }

    fn typed_row(columns: &StructArray, row: usize) -> String {
        let options = arrow::util::display::FormatOptions::default().with_null("null");
        let cell = |column: &ArrayRef| {
            arrow::util::display::ArrayFormatter::try_new(column, &options).unwrap().value(row).to_string()
        };
        if is_whole_value(columns.fields()) {
            return cell(columns.column(0));
        }
        let cells = columns
            .columns()
            .iter()
            .zip(columns.fields())
            .map(|(column, field)| format!("{}: {}", field.name(), cell(column)));
        format!("{{{}}}", cells.collect::<Vec<_>>().join(", "))
    }

    /// The rows of the values that `transform` makes of `batch`, and the reasons of the rejected ones.
    pub(crate) fn run(transform: &mut dyn Transform, batch: Batch) -> (Vec<String>, Vec<String>) {
        let made = transform.apply(batch);
        let reasons = made.rejected.into_iter().map(|rejected| rejected.reason).collect();
        (rows(&made.batch.values), reasons)
    }

    /// The names and types of typed values.
    pub(crate) fn types(values: &Values) -> Vec<String> {
        let Values::Typed(columns) = values else { panic!("typed") };
        let fields = columns.fields().iter();
        fields
            .map(|field| {
                let optional = if field.is_nullable() { "?" } else { "" };
                format!("{} {}{optional}", field.name(), field.data_type())
            })
            .collect()
    }
}
