//! Builders that read Protobuf's wire format straight into Arrow columns, field number by field number.
//!
//! A message is read as it comes: a scalar that comes again replaces itself, an embedded message goes on where it stopped,
//! elements of lists are appended. Only when the row ends is it known what is missing, so [`Cell::end_row`] fills it in.

use std::sync::Arc;

use arrow::array::{ArrayRef, NullBufferBuilder, StructArray};
use arrow::datatypes::{Fields, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type};
use prost_reflect::Value;

use crate::column::Rows;
use crate::fault::{Fault, Outcome};
use crate::protobuf_nested::{ListColumn, MapColumn, UnionColumn};
use crate::protobuf_values::LateColumn;
use crate::protobuf_wire::{Wire, WireType, unzigzag, unzigzag32};
use crate::scalar_columns::{Booleans, Bytes, Numbers};

/// Bytes of text that a column may hold: texts that the schema brings, not the record, can be many.
const TEXT_BYTES_MAX: usize = 1 << 30;

/// The integers of Protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole {
    Int32,
    Sint32,
    Sfixed32,
    Uint32,
    Fixed32,
    Int64,
    Sint64,
    /// Beyond INT64 it becomes negative, as in Java.
    Uint64,
    /// As `Uint64`.
    Fixed64,
    Sfixed64,
}

impl Whole {
    pub(crate) fn wire_type(self) -> WireType {
        match self {
            Whole::Int32 | Whole::Sint32 | Whole::Uint32 | Whole::Int64 | Whole::Sint64 | Whole::Uint64 => {
                WireType::Varint
            }
            Whole::Sfixed32 | Whole::Fixed32 => WireType::Fixed32,
            Whole::Fixed64 | Whole::Sfixed64 => WireType::Fixed64,
        }
    }

    #[inline]
    pub(crate) fn read(self, wire: &mut Wire<'_>) -> Outcome<i64> {
        Ok(match self {
            Whole::Int32 => i64::from(wire.varint()? as i32),
            Whole::Sint32 => i64::from(unzigzag32(wire.varint()?)),
            Whole::Sfixed32 => i64::from(wire.fixed32()? as i32),
            Whole::Uint32 => i64::from(wire.varint()? as u32),
            Whole::Fixed32 => i64::from(wire.fixed32()?),
            Whole::Int64 | Whole::Uint64 => wire.varint()? as i64,
            Whole::Sint64 => unzigzag(wire.varint()?),
            Whole::Fixed64 | Whole::Sfixed64 => wire.fixed64()? as i64,
        })
    }
}

/// The names of an enumeration.
#[derive(Debug)]
pub(crate) struct EnumNames {
    pub(crate) name: String,
    /// By number, rising, the first name of each.
    pub(crate) values: Vec<(i32, Box<str>)>,
    /// Whether other numbers are taken for a field that is not there, as in proto2.
    pub(crate) closed: bool,
}

impl EnumNames {
    fn find(&self, number: i32) -> Option<&str> {
        // Most enumerations count from 0.
        if let Some((_, name)) =
            usize::try_from(number).ok().and_then(|at| self.values.get(at)).filter(|at| at.0 == number)
        {
            return Some(name);
        }
        self.values.binary_search_by_key(&number, |(number, _)| *number).ok().map(|at| &*self.values[at].1)
    }
}

/// The place of one value: a field, an element of a list, key or value of a map.
pub(crate) enum Cell {
    Bool(Booleans),
    Int8(Numbers<Int8Type>, Whole),
    Int16(Numbers<Int16Type>, Whole),
    Int32(Numbers<Int32Type>, Whole),
    Int64(Numbers<Int64Type>, Whole),
    Float(Numbers<Float32Type>),
    Double(Numbers<Float64Type>),
    Text(Bytes),
    Binary(Bytes),
    EnumName(Bytes, Arc<EnumNames>),
    EnumNumber(Numbers<Int32Type>, Arc<EnumNames>),
    /// Messages that become one value.
    Late(Box<LateColumn>),
    Message(Box<MessageColumn>),
    /// A oneof as a struct of its members.
    Union(Box<UnionColumn>),
    List(Box<ListColumn>),
    Map(Box<MapColumn>),
}

impl Cell {
    /// The cell seen only as rows.
    pub(crate) fn rows(&mut self) -> &mut dyn Rows {
        match self {
            Cell::Bool(column) => column,
            Cell::Int8(column, _) => column,
            Cell::Int16(column, _) => column,
            Cell::Int32(column, _) | Cell::EnumNumber(column, _) => column,
            Cell::Int64(column, _) => column,
            Cell::Float(column) => column,
            Cell::Double(column) => column,
            Cell::Text(column) | Cell::Binary(column) | Cell::EnumName(column, _) => column,
            Cell::Late(column) => column.as_mut(),
            Cell::Message(column) => column.as_mut(),
            Cell::Union(column) => column.as_mut(),
            Cell::List(column) => column.as_mut(),
            Cell::Map(column) => column.as_mut(),
        }
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        match self {
            Cell::Bool(column) => column.len(),
            Cell::Int8(column, _) => column.len(),
            Cell::Int16(column, _) => column.len(),
            Cell::Int32(column, _) | Cell::EnumNumber(column, _) => column.len(),
            Cell::Int64(column, _) => column.len(),
            Cell::Float(column) => column.len(),
            Cell::Double(column) => column.len(),
            Cell::Text(column) | Cell::Binary(column) | Cell::EnumName(column, _) => column.len(),
            Cell::Late(column) => column.len(),
            Cell::Message(column) => column.len(),
            Cell::Union(column) => column.len(),
            Cell::List(column) => column.len(),
            Cell::Map(column) => column.len(),
        }
    }

    /// How one value of it stands on the wire.
    pub(crate) fn wire_type(&self) -> WireType {
        match self {
            Cell::Bool(_) | Cell::EnumName(_, _) | Cell::EnumNumber(_, _) => WireType::Varint,
            Cell::Int8(_, whole) | Cell::Int16(_, whole) | Cell::Int32(_, whole) | Cell::Int64(_, whole) => {
                whole.wire_type()
            }
            Cell::Float(_) => WireType::Fixed32,
            Cell::Double(_) => WireType::Fixed64,
            Cell::Text(_) | Cell::Binary(_) | Cell::Late(_) | Cell::Message(_) | Cell::Map(_) => WireType::Span,
            Cell::List(column) => column.element.wire_type(),
            Cell::Union(_) => unreachable!("the members of a oneof are read, not the oneof"),
        }
    }

    /// Reads one value into row `row`, which may hold one already.
    #[inline]
    pub(crate) fn put(&mut self, wire: &mut Wire<'_>, wire_type: WireType, row: usize) -> Outcome<()> {
        if let Cell::List(column) = self {
            return column.put(wire, wire_type);
        }
        wire_type.expect(self.wire_type())?;
        self.put_expected(wire, row)
    }

    pub(crate) fn put_expected(&mut self, wire: &mut Wire<'_>, row: usize) -> Outcome<()> {
        match self {
            Cell::Message(column) => {
                let span = wire.span()?;
                column.merge(&mut Wire::part(wire.payload(), &span))
            }
            Cell::Late(column) => {
                column.put(wire.span()?);
                Ok(())
            }
            Cell::Map(column) => {
                column.pending.push(wire.span()?);
                Ok(())
            }
            Cell::List(_) | Cell::Union(_) => unreachable!("lists and oneofs are read by their own functions"),
            scalar => scalar.put_scalar(wire, row),
        }
    }

    #[inline]
    pub(crate) fn put_scalar(&mut self, wire: &mut Wire<'_>, row: usize) -> Outcome<()> {
        match self {
            Cell::Bool(column) => {
                let value = wire.varint()? != 0;
                last_wins(column, row);
                column.push(value);
            }
            Cell::Int8(column, whole) => push_number(column, row, whole.read(wire)? as i8),
            Cell::Int16(column, whole) => push_number(column, row, whole.read(wire)? as i16),
            Cell::Int32(column, whole) => push_number(column, row, whole.read(wire)? as i32),
            Cell::Int64(column, whole) => push_number(column, row, whole.read(wire)?),
            Cell::Float(column) => push_number(column, row, f32::from_bits(wire.fixed32()?)),
            Cell::Double(column) => push_number(column, row, f64::from_bits(wire.fixed64()?)),
            Cell::Text(column) => {
                let span = wire.span()?;
                let bytes = wire.bytes(&span);
                if let Err(error) = std::str::from_utf8(bytes) {
                    return Err(Fault::new(format!("is a string but not UTF-8 at its byte {}", error.valid_up_to())));
                }
                last_wins(column, row);
                column.push(bytes);
            }
            Cell::Binary(column) => {
                let span = wire.span()?;
                last_wins(column, row);
                column.push(wire.bytes(&span));
            }
            Cell::EnumName(column, names) => {
                let number = wire.varint()? as i32;
                push_enum_name(column, names, number, row)?;
            }
            Cell::EnumNumber(column, names) => {
                let number = wire.varint()? as i32;
                if !names.closed || names.find(number).is_some() {
                    push_number(column, row, number);
                }
            }
            Cell::Late(_) | Cell::Message(_) | Cell::Union(_) | Cell::List(_) | Cell::Map(_) => {
                unreachable!("only scalars are put as scalars")
            }
        }
        Ok(())
    }

    /// Whether row `row` has got a value, or needs none.
    #[inline]
    pub(crate) fn started(&self, row: usize) -> bool {
        match self {
            Cell::Message(column) => column.open,
            Cell::Late(column) => column.started(),
            Cell::Union(_) | Cell::List(_) | Cell::Map(_) => true,
            scalar => scalar.len() > row,
        }
    }

    /// Ends a row that has [started](Self::started), or starts and ends one of an empty message.
    #[inline]
    pub(crate) fn end_row(&mut self, payload: &[u8], present: bool) -> Outcome<()> {
        match self {
            Cell::Bool(_)
            | Cell::Int8(_, _)
            | Cell::Int16(_, _)
            | Cell::Int32(_, _)
            | Cell::Int64(_, _)
            | Cell::Float(_)
            | Cell::Double(_)
            | Cell::Text(_)
            | Cell::Binary(_)
            | Cell::EnumName(_, _)
            | Cell::EnumNumber(_, _) => Ok(()),
            Cell::Late(column) => column.end_row(payload),
            Cell::Message(column) => column.end_row(payload, present),
            Cell::Union(column) => column.end_row(payload),
            Cell::List(column) => {
                column.end_row();
                Ok(())
            }
            Cell::Map(column) => column.end_row(payload),
        }
    }

    /// Appends a scalar that the schema has as default; a message is empty then.
    pub(crate) fn push_default(&mut self, value: &Value, payload: &[u8]) -> Outcome<()> {
        match (self, value) {
            (Cell::Bool(column), Value::Bool(flag)) => column.push(*flag),
            (Cell::Int8(column, _), Value::I32(number)) => column.push(*number as i8),
            (Cell::Int16(column, _), Value::I32(number)) => column.push(*number as i16),
            (Cell::Int32(column, _), Value::I32(number)) => column.push(*number),
            (Cell::Int64(column, _), Value::I64(number)) => column.push(*number),
            (Cell::Int64(column, _), Value::U64(number)) => column.push(*number as i64),
            (Cell::Int64(column, _), Value::U32(number)) => column.push(i64::from(*number)),
            (Cell::Float(column), Value::F32(number)) => column.push(*number),
            (Cell::Double(column), Value::F64(number)) => column.push(*number),
            (Cell::Text(column), Value::String(text)) => push_text(column, text)?,
            (Cell::Binary(column), Value::Bytes(bytes)) => {
                check_room(column, bytes.len())?;
                column.push(bytes);
            }
            (Cell::EnumName(column, names), Value::EnumNumber(number)) => {
                let row = column.len();
                push_enum_name(column, names, *number, row)?;
            }
            (Cell::EnumNumber(column, _), Value::EnumNumber(number)) => column.push(*number),
            (cell, _) => return cell.end_row(payload, false),
        }
        Ok(())
    }
}

#[inline]
fn last_wins(column: &mut dyn Rows, row: usize) {
    if column.len() > row {
        column.truncate(row);
    }
}

#[inline]
fn push_number<T: arrow::array::ArrowPrimitiveType>(column: &mut Numbers<T>, row: usize, value: T::Native) {
    if column.len() > row {
        column.truncate(row);
    }
    column.push(value);
}

fn push_enum_name(column: &mut Bytes, names: &EnumNames, number: i32, row: usize) -> Outcome<()> {
    let Some(name) = names.find(number) else {
        if names.closed {
            return Ok(());
        }
        last_wins(column, row);
        return push_text(column, &format!("UNKNOWN_ENUM_VALUE_{}_{number}", names.name));
    };
    last_wins(column, row);
    push_text(column, name)
}

/// Appends a text that is not the record's own.
pub(crate) fn push_text(column: &mut Bytes, text: &str) -> Outcome<()> {
    check_room(column, text.len())?;
    column.push(text.as_bytes());
    Ok(())
}

fn check_room(column: &Bytes, more: usize) -> Outcome<()> {
    if column.bytes().saturating_add(more) > TEXT_BYTES_MAX {
        return Err(Fault::new("is larger than 1 GiB once its names or defaults are written out"));
    }
    Ok(())
}

/// What a field that is not on the wire is.
#[derive(Debug, Clone)]
pub(crate) enum Absent {
    /// Null.
    Null,
    /// The default of its type or schema; of a message: an empty one.
    Default(Value),
    /// An error; the default inside messages that are not there themselves.
    Required(Value),
}

/// A field of a message, or a oneof of it.
pub(crate) struct Slot {
    pub(crate) name: Box<str>,
    pub(crate) cell: Cell,
    pub(crate) absent: Absent,
    /// The oneof that the field belongs to, if its members stand side by side (`flatten.unions`).
    pub(crate) union: Option<usize>,
}

/// Where the value of a field number goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    Slot(usize),
    Member { slot: usize, member: usize },
}

/// Messages as structs.
pub(crate) struct MessageColumn {
    /// In the order of the columns.
    slots: Vec<Slot>,
    /// By field number, rising.
    targets: Vec<(u32, Target)>,
    fields: Fields,
    validity: NullBufferBuilder,
    rows: usize,
    /// Whether a row has begun.
    open: bool,
}

impl MessageColumn {
    pub(crate) fn new(slots: Vec<Slot>, mut targets: Vec<(u32, Target)>, fields: Fields) -> Self {
        targets.sort_by_key(|(number, _)| *number);
        Self { slots, targets, fields, validity: NullBufferBuilder::new(0), rows: 0, open: false }
    }

    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Reads what is in `wire` into the row that has begun, or begins one.
    pub(crate) fn merge(&mut self, wire: &mut Wire<'_>) -> Outcome<()> {
        self.open = true;
        // Fields come in the order of their numbers, nearly always.
        let mut expected = 0;
        while !wire.is_empty() {
            let (number, wire_type) = wire.tag()?;
            let at = match self.targets.get(expected) {
                Some((next, _)) if *next == number => expected,
                Some(_) | None => match self.targets.binary_search_by_key(&number, |(number, _)| *number) {
                    Ok(at) => at,
                    Err(_) => {
                        wire.skip(number, wire_type)?;
                        continue;
                    }
                },
            };
            expected = at + 1;
            match self.targets[at].1 {
                Target::Slot(index) => {
                    let slot = &mut self.slots[index];
                    slot.cell.put(wire, wire_type, self.rows).map_err(|fault| fault.within(&slot.name))?;
                    if slot.union.is_some() && slot.cell.started(self.rows) {
                        self.clear_others(index);
                    }
                    if matches!(self.slots[index].cell, Cell::List(_)) {
                        expected = at;
                    }
                }
                Target::Member { slot, member } => {
                    let slot = &mut self.slots[slot];
                    let Cell::Union(union) = &mut slot.cell else { unreachable!("a oneof is a union column") };
                    union.put(member, wire, wire_type).map_err(|fault| fault.within(&slot.name))?;
                }
            }
        }
        Ok(())
    }

    /// Of the members of a oneof the last one counts.
    fn clear_others(&mut self, index: usize) {
        let union = self.slots[index].union;
        for (other, slot) in self.slots.iter_mut().enumerate() {
            if other != index && slot.union == union {
                slot.cell.rows().truncate(self.rows);
            }
        }
    }

    /// Fills what is missing and ends the row. A message that is not `present` lacks nothing.
    pub(crate) fn end_row(&mut self, payload: &[u8], present: bool) -> Outcome<()> {
        for slot in &mut self.slots {
            let outcome = if slot.cell.started(self.rows) {
                slot.cell.end_row(payload, present)
            } else {
                match &slot.absent {
                    Absent::Null => {
                        slot.cell.rows().push_null();
                        Ok(())
                    }
                    Absent::Default(value) => slot.cell.push_default(value, payload),
                    Absent::Required(value) if !present => slot.cell.push_default(value, payload),
                    Absent::Required(_) => Err(Fault::new("is required in the schema but missing in the record")),
                }
            };
            outcome.map_err(|fault| fault.within(&slot.name))?;
        }
        self.validity.append_non_null();
        self.rows += 1;
        self.open = false;
        Ok(())
    }

    /// The rows as a [`StructArray`]; the column is empty afterwards.
    pub(crate) fn finish_struct(&mut self) -> StructArray {
        let columns: Vec<ArrayRef> = self.slots.iter_mut().map(|slot| slot.cell.rows().finish()).collect();
        let rows = std::mem::take(&mut self.rows);
        StructArray::try_new_with_length(self.fields.clone(), columns, self.validity.finish(), rows)
            .expect("every slot has a row for each row, and nulls of required fields only under a null")
    }
}

impl Rows for MessageColumn {
    fn begin(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.cell.rows().begin());
    }

    fn len(&self) -> usize {
        self.rows
    }

    fn push_null(&mut self) {
        for slot in &mut self.slots {
            slot.cell.rows().push_null();
        }
        self.validity.append_null();
        self.rows += 1;
        self.open = false;
    }

    fn truncate(&mut self, rows: usize) {
        for slot in &mut self.slots {
            slot.cell.rows().truncate(rows);
        }
        self.validity.truncate(rows);
        self.rows = rows;
        self.open = false;
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.finish_struct())
    }
}
