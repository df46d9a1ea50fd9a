//! Rows of Arrow columns as Avro's bytes.

use std::ops::Range;

use arrow::array::{Array, AsArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Field, Fields, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Time32MillisecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
};
use model::is_whole_value;

use crate::avro_enum::Symbols;
use crate::avro_schema::AvroOptions;
use crate::json_text::shortest;

/// How the values of a column are written.
#[derive(Debug)]
pub(crate) struct Column {
    name: String,
    /// It is a union with null.
    nullable: bool,
    /// Of an enum.
    symbols: Option<Symbols>,
    /// It is an enum, or holds one.
    has_symbols: bool,
    children: Vec<Column>,
}

impl Column {
    /// What the rows of a file with these fields are.
    pub(crate) fn whole(fields: &Fields, options: AvroOptions) -> Column {
        if is_whole_value(fields) {
            return Column::new(&fields[0], options);
        }
        Column::parent(String::new(), false, fields.iter().map(|field| Column::new(field, options)).collect())
    }

    fn new(field: &Field, options: AvroOptions) -> Column {
        let children = match field.data_type() {
            DataType::Struct(fields) => fields.iter().map(|field| Column::new(field, options)).collect(),
            DataType::List(element) => vec![Column::new(element, options)],
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) => fields
                    .iter()
                    .enumerate()
                    .map(|(index, field)| {
                        // Keys that are texts are those of an Avro map, which are plain.
                        let is_plain = index == 0 && *field.data_type() == DataType::Utf8;
                        let enhanced_schema = options.enhanced_schema && !is_plain;
                        Column::new(field, AvroOptions { enhanced_schema, ..options })
                    })
                    .collect(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        let mut column = Column::parent(field.name().clone(), field.is_nullable(), children);
        column.symbols = Some(field).filter(|_| options.enhanced_schema).and_then(Symbols::of);
        column.has_symbols |= column.symbols.is_some();
        column
    }

    fn parent(name: String, nullable: bool, children: Vec<Column>) -> Column {
        let has_symbols = children.iter().any(|child| child.has_symbols);
        Column { name, nullable, symbols: None, has_symbols, children }
    }

    /// Whether rows may have texts that it does not take.
    pub(crate) fn has_symbols(&self) -> bool {
        self.has_symbols
    }
}

/// Writes the rows of one column.
pub(crate) struct RowWriter<'a> {
    array: &'a dyn Array,
    column: &'a Column,
    children: Vec<RowWriter<'a>>,
}

impl<'a> RowWriter<'a> {
    /// A writer of whole rows; an error names the type that Avro does not have.
    pub(crate) fn whole(rows: &'a StructArray, column: &'a Column) -> Result<RowWriter<'a>, String> {
        if is_whole_value(rows.fields()) {
            return RowWriter::new(rows.column(0).as_ref(), column);
        }
        RowWriter::new(rows, column)
    }

    fn new(array: &'a dyn Array, column: &'a Column) -> Result<RowWriter<'a>, String> {
        let arrays: Vec<&dyn Array> = match array.data_type() {
            DataType::Struct(_) => array.as_struct().columns().iter().map(AsRef::as_ref).collect(),
            DataType::List(_) => vec![array.as_list::<i32>().values().as_ref()],
            DataType::Map(_, _) => vec![array.as_map().keys().as_ref(), array.as_map().values().as_ref()],
            DataType::Boolean
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Float32
            | DataType::Float64
            | DataType::Utf8
            | DataType::Binary
            | DataType::Date32
            | DataType::Time32(TimeUnit::Millisecond)
            | DataType::Timestamp(TimeUnit::Millisecond | TimeUnit::Microsecond, _)
            | DataType::Decimal128(_, _)
            | DataType::Decimal256(_, _) => Vec::new(),
            other => return Err(format!("the type {other} has no Avro form")),
        };
        if arrays.len() != column.children.len() {
            return Err(format!(
                "rows with {} columns are no rows of a file with {}",
                arrays.len(),
                column.children.len()
            ));
        }
        let children = arrays.into_iter().zip(&column.children).map(|(array, column)| RowWriter::new(array, column));
        Ok(RowWriter { array, column, children: children.collect::<Result<_, _>>()? })
    }

    /// Why a row cannot be written: a text that is no symbol of its enum.
    pub(crate) fn fault(&self, row: usize) -> Option<String> {
        if !self.column.has_symbols || self.array.is_null(row) {
            return None;
        }
        if let Some(symbols) = &self.column.symbols {
            let text = self.array.as_string::<i32>().value(row);
            return symbols.index(text).is_none().then(|| format!("field {}: {}", self.column.name, symbols.fault()));
        }
        let entries = match self.array.data_type() {
            DataType::List(_) => entries(self.array.as_list::<i32>().offsets(), row),
            DataType::Map(_, _) => entries(self.array.as_map().offsets(), row),
            _ => row..row + 1,
        };
        let fault = entries.into_iter().find_map(|entry| self.children.iter().find_map(|child| child.fault(entry)))?;
        Some(if self.column.name.is_empty() { fault } else { format!("field {}: {fault}", self.column.name) })
    }

    /// Appends a row that has no [`Self::fault`].
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.column.nullable {
            let is_null = self.array.is_null(row);
            write_long(i64::from(!is_null), out);
            if is_null {
                return;
            }
        }
        let array = self.array;
        match array.data_type() {
            DataType::Boolean => out.push(u8::from(array.as_boolean().value(row))),
            DataType::Int8 => write_long(array.as_primitive::<Int8Type>().value(row).into(), out),
            DataType::Int16 => write_long(array.as_primitive::<Int16Type>().value(row).into(), out),
            DataType::Int32 => write_long(array.as_primitive::<Int32Type>().value(row).into(), out),
            DataType::Int64 => write_long(array.as_primitive::<Int64Type>().value(row), out),
            DataType::Date32 => write_long(array.as_primitive::<Date32Type>().value(row).into(), out),
            DataType::Time32(_) => write_long(array.as_primitive::<Time32MillisecondType>().value(row).into(), out),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                write_long(array.as_primitive::<TimestampMillisecondType>().value(row), out);
            }
            DataType::Timestamp(_, _) => write_long(array.as_primitive::<TimestampMicrosecondType>().value(row), out),
            DataType::Float32 => out.extend_from_slice(&array.as_primitive::<Float32Type>().value(row).to_le_bytes()),
            DataType::Float64 => out.extend_from_slice(&array.as_primitive::<Float64Type>().value(row).to_le_bytes()),
            DataType::Utf8 => {
                let text = array.as_string::<i32>().value(row);
                match &self.column.symbols {
                    None => write_bytes(text.as_bytes(), out),
                    Some(symbols) => write_long(symbols.index(text).expect("a row with a fault is not written"), out),
                }
            }
            DataType::Binary => write_bytes(array.as_binary::<i32>().value(row), out),
            DataType::Decimal128(_, _) => {
                write_bytes(shortest(&array.as_primitive::<Decimal128Type>().value(row).to_be_bytes()), out);
            }
            DataType::Decimal256(_, _) => {
                write_bytes(shortest(&array.as_primitive::<Decimal256Type>().value(row).to_be_bytes()), out);
            }
            DataType::List(_) => self.write_entries(array.as_list::<i32>().offsets(), row, out),
            DataType::Map(_, _) => self.write_entries(array.as_map().offsets(), row, out),
            DataType::Struct(_) => self.children.iter().for_each(|child| child.write(row, out)),
            other => unreachable!("RowWriter::new refuses {other}"),
        }
    }

    fn write_entries(&self, offsets: &OffsetBuffer<i32>, row: usize, out: &mut Vec<u8>) {
        let entries = entries(offsets, row);
        if !entries.is_empty() {
            write_size(entries.len(), out);
            for entry in entries {
                self.children.iter().for_each(|child| child.write(entry, out));
            }
        }
        out.push(0);
    }
}

/// Where the entries of a row are.
fn entries(offsets: &OffsetBuffer<i32>, row: usize) -> Range<usize> {
    usize::try_from(offsets[row]).unwrap_or(0)..usize::try_from(offsets[row + 1]).unwrap_or(0)
}

/// Zigzag, seven bits a byte.
fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

pub(crate) fn write_size(size: usize, out: &mut Vec<u8>) {
    write_long(i64::try_from(size).expect("no buffer is larger than memory"), out);
}

pub(crate) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_size(bytes.len(), out);
    out.extend_from_slice(bytes);
}
