//! Reads Avro datums straight into columns, by the plan of their writer schema.

use std::collections::HashMap;

use arrow::array::StructArray;
use arrow::datatypes::i256;

use crate::avro_json::JsonPlan;
use crate::avro_resolved::{fill_one, read_resolved, read_resolved_row};
use crate::avro_schema::{AvroSchema, FieldPlan, Plan};
use crate::column::{Column, Rows};
use crate::fault::{Fault, Outcome};
use crate::struct_column::StructColumn;
use crate::table_schema::DEPTH_MAX;

/// Bytes that a column can hold beyond those of the records: symbols of enums, defaults, JSON texts.
const ADDED_BYTES_MAX: usize = i32::MAX as usize / 4;

/// Columns of one writer schema, and the way into them.
pub(crate) struct AvroReader {
    pub(crate) schema: AvroSchema,
    column: StructColumn,
}

/// What reading needs beside plan, column and input.
pub(crate) struct Context<'s> {
    named: &'s HashMap<Box<str>, JsonPlan>,
    /// Bytes that may still be added to those of the records.
    room: usize,
}

impl Context<'_> {
    /// The type `name` as it stands on the wire.
    pub(crate) fn named_plan(&self, name: &str) -> Outcome<&JsonPlan> {
        self.named.get(name).ok_or_else(|| Fault::new(format!("the schema lacks the type {name}")))
    }

    pub(crate) fn add(&mut self, bytes: usize) -> Outcome<()> {
        match self.room.checked_sub(bytes) {
            Some(room) => {
                self.room = room;
                Ok(())
            }
            None => Err(Fault::new("the texts of enums, defaults and recursive types of this batch are too long")),
        }
    }
}

impl AvroReader {
    pub(crate) fn new(schema: AvroSchema) -> AvroReader {
        let column = StructColumn::new(&schema.fields);
        AvroReader { schema, column }
    }

    /// Reads a datum for each row; `None` is a null row. A datum that cannot be read is a null row too, and named with
    /// the reason.
    pub(crate) fn read<'d>(
        &mut self,
        datums: impl Iterator<Item = Option<&'d [u8]>>,
    ) -> (StructArray, Vec<(usize, String)>) {
        let mut context = Context { named: &self.schema.named, room: ADDED_BYTES_MAX };
        let mut bad = Vec::new();
        self.column.begin();
        for (row, datum) in datums.enumerate() {
            let Some(mut rest) = datum else {
                self.column.push_null();
                continue;
            };
            let read = read_row(&self.schema.plan, self.schema.whole_value, &mut self.column, &mut rest, &mut context);
            let fault = match read {
                Ok(()) if rest.is_empty() => continue,
                Ok(()) => Fault::new(format!("{} bytes follow the end of the record", rest.len())),
                Err(fault) => fault,
            };
            self.column.truncate(row);
            self.column.push_null();
            bad.push((row, fault.to_string()));
        }
        (self.column.finish_struct(), bad)
    }
}

/// Appends the datum of a record of the log: a null of an optional type is a null row, so a tombstone.
pub(crate) fn read_row(
    plan: &Plan,
    whole_value: bool,
    column: &mut StructColumn,
    input: &mut &[u8],
    context: &mut Context<'_>,
) -> Outcome<()> {
    match plan {
        Plan::Optional { null, inner, default: None } => match long(input)? {
            branch if branch == *null => {
                column.push_null();
                Ok(())
            }
            branch if branch == 1 - *null => read_row(inner, whole_value, column, input, context),
            branch => Err(no_branch(branch, 2)),
        },
        Plan::Single(inner) => match long(input)? {
            0 => read_row(inner, whole_value, column, input, context),
            branch => Err(no_branch(branch, 1)),
        },
        Plan::Record(fields) if !whole_value => read_fields(fields, column, input, context),
        Plan::Resolved(resolved) => read_resolved_row(resolved, whole_value, column, input, context),
        Plan::Union(branches) if !whole_value => read_union(branches, column, input, context),
        plan => {
            read(plan, column.whole_value().column(), input, context)?;
            column.end_row();
            Ok(())
        }
    }
}

fn read_fields(
    fields: &[FieldPlan],
    column: &mut StructColumn,
    input: &mut &[u8],
    context: &mut Context<'_>,
) -> Outcome<()> {
    for (field, slot) in fields.iter().zip(column.slots()) {
        read(&field.plan, slot.column(), input, context).map_err(|fault| fault.within(&field.name))?;
    }
    column.end_row();
    Ok(())
}

/// Appends one datum. On a fault the column may hold half of it; the caller truncates.
pub(crate) fn read(plan: &Plan, column: &mut Column, input: &mut &[u8], context: &mut Context<'_>) -> Outcome<()> {
    match (plan, column) {
        (Plan::Record(fields), Column::Struct(column)) => read_fields(fields, column, input, context)?,
        (Plan::Optional { null, inner, default }, column) => {
            let branch = long(input)?;
            if branch == 1 - *null {
                return read(inner, column, input, context);
            }
            if branch != *null {
                return Err(no_branch(branch, 2));
            }
            match default {
                Some(datum) => {
                    context.add(datum.len())?;
                    read(inner, column, &mut datum.as_slice(), context)?;
                }
                None => column.rows().push_null(),
            }
        }
        (Plan::Single(inner), column) => match long(input)? {
            0 => read(inner, column, input, context)?,
            branch => return Err(no_branch(branch, 1)),
        },
        (Plan::Union(branches), Column::Struct(column)) => read_union(branches, column, input, context)?,
        (Plan::Resolved(resolved), column) => read_resolved(resolved, column, input, context)?,
        (Plan::Array(plan), Column::List(column)) => {
            blocks(input, |input| read(plan, column.element().column(), input, context))?;
            column.end_row();
        }
        (Plan::Map(plan), Column::Map(column)) => {
            blocks(input, |input| {
                let (key, value) = column.entry();
                read(&Plan::Bytes, key.column(), input, context)?;
                read(plan, value.column(), input, context)
            })?;
            column.end_row();
        }
        (Plan::Entries(plans), Column::Map(column)) => {
            blocks(input, |input| {
                let (key, value) = column.entry();
                if is_null_key(&plans.0, input) {
                    return Err(Fault::new("a map has a null as key, which columns cannot"));
                }
                read(&plans.0, key.column(), input, context)?;
                read(&plans.1, value.column(), input, context)
            })?;
            column.end_row();
        }
        (plan, column) => read_scalar(plan, column, input, context)?,
    }
    Ok(())
}

fn read_scalar(plan: &Plan, column: &mut Column, input: &mut &[u8], context: &mut Context<'_>) -> Outcome<()> {
    match (plan, column) {
        (Plan::Bytes, Column::Utf8(column)) => {
            let bytes = take_counted(input)?;
            if std::str::from_utf8(bytes).is_ok() {
                column.push(bytes);
            } else {
                let text = String::from_utf8_lossy(bytes);
                context.add(text.len())?;
                column.push(text.as_bytes());
            }
        }
        (Plan::Long, Column::Int64(column)) => column.push(long(input)?),
        (Plan::Long, Column::TimestampMillis(column)) => column.push(long(input)?),
        (Plan::Long, Column::TimestampMicros(column)) => column.push(long(input)?),
        (Plan::Int, Column::Int32(column)) => column.push(int(input)?),
        (Plan::Int, Column::Date32(column)) => column.push(int(input)?),
        (Plan::Int, Column::Time32(column)) => column.push(int(input)?),
        (Plan::Int, Column::Int8(column)) => column.push(narrow(int(input)?)?),
        (Plan::Int, Column::Int16(column)) => column.push(narrow(int(input)?)?),
        (Plan::Boolean, Column::Boolean(column)) => column.push(boolean(input)?),
        (Plan::Float, Column::Float32(column)) => column.push(float(input)?),
        (Plan::Double, Column::Float64(column)) => column.push(double(input)?),
        (Plan::Bytes, Column::Binary(column)) => column.push(take_counted(input)?),
        (Plan::Fixed(size), Column::Binary(column)) => column.push(take(input, *size)?),
        (Plan::Bytes, column) => push_decimal(take_counted(input)?, column)?,
        (Plan::Fixed(size), column) => push_decimal(take(input, *size)?, column)?,
        (Plan::Enum(symbols), Column::Utf8(column)) => {
            let symbol = symbol(symbols, input)?;
            context.add(symbol.len())?;
            column.push(symbol.as_bytes());
        }
        (Plan::Json(name), Column::Utf8(column)) => {
            let mut text = Vec::new();
            write_json(context.named_plan(name)?, input, context.named, &mut text, 0)?;
            context.add(text.len())?;
            column.push(&text);
        }
        (plan, _) => unreachable!("plan and column come from one schema, not {plan:?} and another"),
    }
    Ok(())
}

/// Whether the datum that comes next is the null of a key that may be null, as with AvroData's optional map keys.
fn is_null_key(plan: &Plan, input: &[u8]) -> bool {
    matches!(plan, Plan::Optional { null, default: None, .. } if long(&mut &*input).ok() == Some(*null))
}

fn read_union(
    branches: &[Option<Plan>],
    column: &mut StructColumn,
    input: &mut &[u8],
    context: &mut Context<'_>,
) -> Outcome<()> {
    let branch = long(input)?;
    let chosen = usize::try_from(branch).ok().filter(|chosen| *chosen < branches.len());
    let chosen = chosen.ok_or_else(|| no_branch(branch, branches.len()))?;
    let Some(plan) = &branches[chosen] else {
        column.push_null();
        return Ok(());
    };
    let field = branches[..chosen].iter().flatten().count();
    fill_one(field, column, |column| read(plan, column, input, context))
}

fn push_decimal(bytes: &[u8], column: &mut Column) -> Outcome<()> {
    let wrong = |precision: u8, scale: i8| {
        Fault::new(format!("a decimal of {} bytes does not fit DECIMAL({precision},{scale})", bytes.len()))
    };
    match column {
        Column::Decimal128(column, precision, scale) => {
            let unscaled = unscaled(bytes, *precision).and_then(|unscaled| unscaled.to_i128());
            column.push_if(unscaled).ok_or_else(|| wrong(*precision, *scale))
        }
        Column::Decimal256(column, precision, scale) => {
            column.push_if(unscaled(bytes, *precision)).ok_or_else(|| wrong(*precision, *scale))
        }
        Column::Boolean(_)
        | Column::Int8(_)
        | Column::Int16(_)
        | Column::Int32(_)
        | Column::Int64(_)
        | Column::Float32(_)
        | Column::Float64(_)
        | Column::Date32(_)
        | Column::Time32(_)
        | Column::TimestampMillis(_)
        | Column::TimestampMicros(_)
        | Column::Utf8(_)
        | Column::Binary(_)
        | Column::List(_)
        | Column::Map(_)
        | Column::Struct(_)
        | Column::Union(_)
        | Column::JsonText(_) => unreachable!("plan and column come from one schema"),
    }
}

/// A two's complement number, most significant byte first, of at most `precision` digits.
fn unscaled(bytes: &[u8], precision: u8) -> Option<i256> {
    let negative = bytes.first()? & 0x80 != 0;
    let padding = if negative { 0xff } else { 0 };
    let extra = bytes.len().saturating_sub(32);
    if bytes[..extra].iter().any(|byte| *byte != padding) {
        return None;
    }
    let mut wide = [padding; 32];
    wide[32 - (bytes.len() - extra)..].copy_from_slice(&bytes[extra..]);
    let number = i256::from_be_bytes(wide);
    let limit = i256::from_i128(10).checked_pow(u32::from(precision))?;
    (number.is_negative() == negative && number < limit && number > limit.wrapping_neg()).then_some(number)
}

/// Reads the blocks of an array or map: each a count, or a negative count and the block's size, ended by 0.
pub(crate) fn blocks<'i>(input: &mut &'i [u8], mut item: impl FnMut(&mut &'i [u8]) -> Outcome<()>) -> Outcome<()> {
    loop {
        let count = match long(input)? {
            0 => return Ok(()),
            count if count < 0 => {
                long(input)?;
                count.unsigned_abs()
            }
            count => count.unsigned_abs(),
        };
        // Every item takes a byte at least.
        if count > input.len() as u64 {
            return Err(Fault::new(format!(
                "a list says to have {count} elements, but {} bytes are left",
                input.len()
            )));
        }
        for _ in 0..count {
            item(input)?;
        }
    }
}

pub(crate) fn no_branch(branch: i64, count: usize) -> Box<Fault> {
    Fault::new(format!("the union has no branch {branch}, it has {count}"))
}

fn truncated() -> Box<Fault> {
    Fault::new("the record ends too early")
}

#[inline]
pub(crate) fn long(input: &mut &[u8]) -> Outcome<i64> {
    let mut number = 0_u64;
    for (index, byte) in input.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *input = &input[index + 1..];
            return Ok((number >> 1) as i64 ^ -((number & 1) as i64));
        }
    }
    Err(if input.len() < 10 { truncated() } else { Fault::new("a number has more than 10 bytes") })
}

#[inline]
pub(crate) fn int(input: &mut &[u8]) -> Outcome<i32> {
    let number = long(input)?;
    i32::try_from(number).map_err(|_| Fault::new(format!("{number} is no INT")))
}

fn narrow<T: TryFrom<i32>>(number: i32) -> Outcome<T> {
    T::try_from(number).map_err(|_| Fault::new(format!("{number} does not fit the connect.type of the field")))
}

pub(crate) fn boolean(input: &mut &[u8]) -> Outcome<bool> {
    match take(input, 1)? {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(Fault::new("a boolean is neither 0 nor 1")),
    }
}

/// The number of a symbol, out of `count`.
pub(crate) fn symbol_index(count: usize, input: &mut &[u8]) -> Outcome<usize> {
    let index = long(input)?;
    let known = usize::try_from(index).ok().filter(|index| *index < count);
    known.ok_or_else(|| Fault::new(format!("the enum has no symbol {index}, it has {count}")))
}

fn symbol<'s>(symbols: &'s [Box<str>], input: &mut &[u8]) -> Outcome<&'s str> {
    symbol_index(symbols.len(), input).map(|index| &*symbols[index])
}

#[inline]
pub(crate) fn take<'i>(input: &mut &'i [u8], count: usize) -> Outcome<&'i [u8]> {
    let (taken, rest) = input.split_at_checked(count).ok_or_else(truncated)?;
    *input = rest;
    Ok(taken)
}

pub(crate) fn float(input: &mut &[u8]) -> Outcome<f32> {
    take_array(input).map(f32::from_le_bytes)
}

pub(crate) fn double(input: &mut &[u8]) -> Outcome<f64> {
    take_array(input).map(f64::from_le_bytes)
}

fn take_array<const N: usize>(input: &mut &[u8]) -> Outcome<[u8; N]> {
    let (taken, rest) = input.split_first_chunk().ok_or_else(truncated)?;
    *input = rest;
    Ok(*taken)
}

#[inline]
pub(crate) fn take_counted<'i>(input: &mut &'i [u8]) -> Outcome<&'i [u8]> {
    let count = long(input)?;
    let count = usize::try_from(count).map_err(|_| Fault::new(format!("a text has the length {count}")))?;
    take(input, count)
}

/// Writes one datum as JSON text, as AvroData and JsonConverter would together: bytes as base64, unions as their value.
fn write_json(
    plan: &JsonPlan,
    input: &mut &[u8],
    named: &HashMap<Box<str>, JsonPlan>,
    text: &mut Vec<u8>,
    depth: usize,
) -> Outcome<()> {
    if depth > DEPTH_MAX * 4 {
        return Err(Fault::new(format!("the record nests deeper than {} levels", DEPTH_MAX * 4)));
    }
    match plan {
        JsonPlan::Null => text.extend(b"null"),
        JsonPlan::Boolean => text.extend(if boolean(input)? { &b"true"[..] } else { b"false" }),
        JsonPlan::Number => text.extend(long(input)?.to_string().bytes()),
        JsonPlan::Float => put(&serde_json::Value::from(float(input)?), text),
        JsonPlan::Double => put(&serde_json::Value::from(double(input)?), text),
        JsonPlan::Bytes => put(&base64(take_counted(input)?), text),
        JsonPlan::Fixed(size) => put(&base64(take(input, *size)?), text),
        JsonPlan::Text => put(&String::from_utf8_lossy(take_counted(input)?).as_ref().into(), text),
        JsonPlan::Enum(symbols) => put(&symbol(symbols, input)?.into(), text),
        JsonPlan::Named(name) => {
            let plan = named.get(name).ok_or_else(|| Fault::new(format!("the schema lacks the type {name}")))?;
            write_json(plan, input, named, text, depth + 1)?;
        }
        JsonPlan::Union(branches) => {
            let branch = long(input)?;
            let plan = usize::try_from(branch).ok().and_then(|branch| branches.get(branch));
            let plan = plan.ok_or_else(|| no_branch(branch, branches.len()))?;
            write_json(plan, input, named, text, depth + 1)?;
        }
        JsonPlan::Record(fields) => {
            for (index, (name, plan)) in fields.iter().enumerate() {
                text.push(if index == 0 { b'{' } else { b',' });
                put(&name.as_ref().into(), text);
                text.push(b':');
                write_json(plan, input, named, text, depth + 1).map_err(|fault| fault.within(name))?;
            }
            text.extend(if fields.is_empty() { &b"{}"[..] } else { b"}" });
        }
        JsonPlan::Array(plan) => {
            text.push(b'[');
            blocks(input, |input| {
                if text.last() != Some(&b'[') {
                    text.push(b',');
                }
                // An element of no bytes at all would not be bounded by the input.
                let before = input.len();
                write_json(plan, input, named, text, depth + 1)?;
                if input.len() == before { Err(Fault::new("an element takes no bytes")) } else { Ok(()) }
            })?;
            text.push(b']');
        }
        JsonPlan::Map(plan) => {
            text.push(b'{');
            blocks(input, |input| {
                if text.last() != Some(&b'{') {
                    text.push(b',');
                }
                put(&String::from_utf8_lossy(take_counted(input)?).as_ref().into(), text);
                text.push(b':');
                write_json(plan, input, named, text, depth + 1)
            })?;
            text.push(b'}');
        }
    }
    Ok(())
}

fn put(value: &serde_json::Value, text: &mut Vec<u8>) {
    text.extend(value.to_string().bytes());
}

fn base64(bytes: &[u8]) -> serde_json::Value {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes).into()
}
