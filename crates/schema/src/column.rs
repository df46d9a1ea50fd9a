//! Builders of one Arrow column each, light enough for the hot path: a value is read from the tape, a row can be taken
//! back.

use arrow::array::ArrayRef;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, Time32MillisecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
};
use simd_json::{Node, StaticNode};

use crate::fault::Outcome;
use crate::infer::misfit;
use crate::json_union::UnionColumn;
use crate::nested_columns::{ListColumn, MapColumn};
use crate::scalar::{DecimalText, Instant, days, decimal, double, float, integer, time_ms};
use crate::scalar_columns::{Booleans, Bytes, Numbers};
use crate::struct_column::{Context, StructColumn};
use crate::tape::write_json;

/// What every column can do beside reading.
pub(crate) trait Rows {
    /// Makes room for as many rows as the last batch had. Between batches a column holds no memory, for there is one for
    /// each field of each topic-partition.
    fn begin(&mut self);
    /// Number of rows.
    fn len(&self) -> usize;
    /// Appends a null row.
    fn push_null(&mut self);
    /// Takes back what came after the first `rows` rows, half-built ones too.
    fn truncate(&mut self, rows: usize);
    /// The array; the column is empty afterwards.
    fn finish(&mut self) -> ArrayRef;
}

/// A column under construction.
pub(crate) enum Column {
    Boolean(Booleans),
    Int8(Numbers<Int8Type>),
    Int16(Numbers<Int16Type>),
    Int32(Numbers<Int32Type>),
    Int64(Numbers<Int64Type>),
    Float32(Numbers<Float32Type>),
    Float64(Numbers<Float64Type>),
    Date32(Numbers<Date32Type>),
    Time32(Numbers<Time32MillisecondType>),
    TimestampMillis(Numbers<TimestampMillisecondType>),
    TimestampMicros(Numbers<TimestampMicrosecondType>),
    Decimal128(Numbers<Decimal128Type>, u8, i8),
    Decimal256(Numbers<Decimal256Type>, u8, i8),
    Utf8(Bytes),
    Binary(Bytes),
    List(Box<ListColumn>),
    Map(Box<MapColumn>),
    Struct(Box<StructColumn>),
    /// A struct with a field for each branch of a union, of which JSON has only the value.
    Union(Box<UnionColumn>),
    /// JSON as text, whatever it is.
    JsonText(Bytes),
}

impl Column {
    /// An empty column of a type that [`crate::TableSchema`] lets in.
    pub(crate) fn new(data_type: &DataType) -> Column {
        match data_type {
            DataType::Boolean => Column::Boolean(Booleans::new()),
            DataType::Int8 => Column::Int8(Numbers::new(data_type)),
            DataType::Int16 => Column::Int16(Numbers::new(data_type)),
            DataType::Int32 => Column::Int32(Numbers::new(data_type)),
            DataType::Int64 => Column::Int64(Numbers::new(data_type)),
            DataType::Float32 => Column::Float32(Numbers::new(data_type)),
            DataType::Float64 => Column::Float64(Numbers::new(data_type)),
            DataType::Date32 => Column::Date32(Numbers::new(data_type)),
            DataType::Time32(TimeUnit::Millisecond) => Column::Time32(Numbers::new(data_type)),
            DataType::Timestamp(TimeUnit::Millisecond, _) => Column::TimestampMillis(Numbers::new(data_type)),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Column::TimestampMicros(Numbers::new(data_type)),
            DataType::Decimal128(precision, scale) => Column::Decimal128(Numbers::new(data_type), *precision, *scale),
            DataType::Decimal256(precision, scale) => Column::Decimal256(Numbers::new(data_type), *precision, *scale),
            DataType::Utf8 => Column::Utf8(Bytes::new(true)),
            DataType::Binary => Column::Binary(Bytes::new(false)),
            DataType::List(element) => Column::List(Box::new(ListColumn::new(element))),
            DataType::Map(entries, _) => Column::Map(Box::new(MapColumn::new(entries))),
            DataType::Struct(fields) => Column::Struct(Box::new(StructColumn::new(fields))),
            other => unreachable!("TableSchema::new lets no {other} in"),
        }
    }

    /// The column seen only as rows.
    pub(crate) fn rows(&mut self) -> &mut dyn Rows {
        match self {
            Column::Boolean(column) => column,
            Column::Int8(column) => column,
            Column::Int16(column) => column,
            Column::Int32(column) => column,
            Column::Int64(column) => column,
            Column::Float32(column) => column,
            Column::Float64(column) => column,
            Column::Date32(column) => column,
            Column::Time32(column) => column,
            Column::TimestampMillis(column) => column,
            Column::TimestampMicros(column) => column,
            Column::Decimal128(column, _, _) => column,
            Column::Decimal256(column, _, _) => column,
            Column::Utf8(column) | Column::Binary(column) | Column::JsonText(column) => column,
            Column::List(column) => column.as_mut(),
            Column::Map(column) => column.as_mut(),
            Column::Struct(column) => column.as_mut(),
            Column::Union(column) => column.as_mut(),
        }
    }

    /// Appends the value at `at`, which is not null, and gives the index after it. On a fault the column may hold half of
    /// it; the caller truncates.
    #[inline]
    pub(crate) fn read(
        &mut self,
        nodes: &[Node<'_>],
        at: usize,
        data_type: &DataType,
        context: &mut Context,
    ) -> Outcome<usize> {
        match (self, &nodes[at]) {
            (Column::Utf8(column), Node::String(text)) => column.push(text.as_bytes()),
            (Column::Int64(column), Node::Static(StaticNode::I64(number))) => column.push(*number),
            (Column::Float64(column), Node::Static(StaticNode::F64(number))) => column.push(*number),
            (Column::Boolean(column), Node::Static(StaticNode::Bool(flag))) => column.push(*flag),
            (Column::Struct(column), Node::Object { len, .. }) => {
                return column.read(nodes, at + 1, *len, context);
            }
            (Column::List(column), Node::Array { len, .. }) => {
                return column.read(nodes, at + 1, *len, context);
            }
            (Column::Map(column), Node::Object { len, .. }) => {
                return column.read_object(nodes, at + 1, *len, context);
            }
            (Column::Map(column), Node::Array { len, .. }) => {
                return column.read_pairs(nodes, at + 1, *len, context);
            }
            (Column::Union(column), _) => return column.read(nodes, at, context),
            (Column::Utf8(column), _) if context.texts_take_all => {
                return Ok(column.push_with(|text| write_json(nodes, at, text)));
            }
            (Column::JsonText(column), _) => return Ok(column.push_with(|text| write_json(nodes, at, text))),
            (column, node) => column.read_other(node, data_type, context)?,
        }
        Ok(at + 1)
    }

    /// The scalars that are not of the four types of plain JSON.
    fn read_other(&mut self, node: &Node<'_>, data_type: &DataType, context: &mut Context) -> Outcome<()> {
        let pushed = match self {
            Column::Int64(column) => match node {
                Node::Static(StaticNode::F64(_)) if context.may_widen() => {
                    column.push_null();
                    Some(())
                }
                other => column.push_if(integer(other)),
            },
            Column::Float64(column) => column.push_if(double(node)),
            Column::Int8(column) => column.push_if(integer(node)),
            Column::Int16(column) => column.push_if(integer(node)),
            Column::Int32(column) => column.push_if(integer(node)),
            Column::Float32(column) => column.push_if(float(node)),
            Column::Binary(column) => match node {
                Node::String(text) => column.push_base64(text),
                Node::Object { .. } | Node::Array { .. } | Node::Static(_) => None,
            },
            Column::Date32(_)
            | Column::Time32(_)
            | Column::TimestampMillis(_)
            | Column::TimestampMicros(_)
            | Column::Decimal128(_, _, _)
            | Column::Decimal256(_, _, _) => self.read_logical(node, context.iso_texts()),
            Column::Boolean(_)
            | Column::Utf8(_)
            | Column::List(_)
            | Column::Map(_)
            | Column::Struct(_)
            | Column::Union(_)
            | Column::JsonText(_) => None,
        };
        pushed.ok_or_else(|| misfit(data_type, node))
    }

    /// The types that stand as texts or as numbers, depending on who wrote them.
    fn read_logical(&mut self, node: &Node<'_>, texts: bool) -> Option<()> {
        let decimals = if texts { DecimalText::Digits } else { DecimalText::Base64 };
        match self {
            Column::Date32(column) => column.push_if(days(node, texts)),
            Column::Time32(column) => column.push_if(time_ms(node, texts)),
            Column::TimestampMillis(column) => column.push_if(Instant::read(node, texts).and_then(Instant::millis)),
            Column::TimestampMicros(column) => column.push_if(Instant::read(node, texts).and_then(Instant::micros)),
            Column::Decimal128(column, precision, scale) => {
                let unscaled = decimal(node, *precision, *scale, decimals);
                column.push_if(unscaled.and_then(|unscaled| unscaled.to_i128()))
            }
            Column::Decimal256(column, precision, scale) => column.push_if(decimal(node, *precision, *scale, decimals)),
            Column::Boolean(_)
            | Column::Int8(_)
            | Column::Int16(_)
            | Column::Int32(_)
            | Column::Int64(_)
            | Column::Float32(_)
            | Column::Float64(_)
            | Column::Utf8(_)
            | Column::Binary(_)
            | Column::List(_)
            | Column::Map(_)
            | Column::Struct(_)
            | Column::Union(_)
            | Column::JsonText(_) => None,
        }
    }
}
