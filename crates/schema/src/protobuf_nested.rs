//! Builders of Protobuf's oneofs, repeated fields and maps.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, MapArray, NullBufferBuilder, StructArray};
use arrow::datatypes::{DataType, FieldRef, Fields};
use prost_reflect::Value;

use crate::column::Rows;
use crate::fault::Outcome;
use crate::protobuf_columns::Cell;
use crate::protobuf_wire::{Wire, WireType};
use crate::scalar_columns::Ends;

/// Keys of a map up to which each is compared with each.
const FEW_KEYS: usize = 16;

/// Oneofs as structs with one field for each member.
pub(crate) struct UnionColumn {
    members: Vec<(Box<str>, Cell)>,
    chosen: Option<usize>,
    fields: Fields,
    validity: NullBufferBuilder,
    rows: usize,
}

impl UnionColumn {
    pub(crate) fn new(members: Vec<(Box<str>, Cell)>, fields: Fields) -> Self {
        Self { members, chosen: None, fields, validity: NullBufferBuilder::new(0), rows: 0 }
    }

    pub(crate) fn put(&mut self, member: usize, wire: &mut Wire<'_>, wire_type: WireType) -> Outcome<()> {
        let rows = self.rows;
        let (name, cell) = &mut self.members[member];
        cell.put(wire, wire_type, rows).map_err(|fault| fault.within(name))?;
        if !cell.started(rows) {
            return Ok(());
        }
        if let Some(before) = self.chosen.replace(member).filter(|before| *before != member) {
            self.members[before].1.rows().truncate(rows);
        }
        Ok(())
    }

    pub(crate) fn end_row(&mut self, payload: &[u8]) -> Outcome<()> {
        let Some(chosen) = self.chosen.take() else {
            self.push_null();
            return Ok(());
        };
        for (index, (name, cell)) in self.members.iter_mut().enumerate() {
            if index == chosen {
                cell.end_row(payload, true).map_err(|fault| fault.within(name))?;
            } else {
                cell.rows().push_null();
            }
        }
        self.validity.append_non_null();
        self.rows += 1;
        Ok(())
    }
}

impl Rows for UnionColumn {
    fn begin(&mut self) {
        self.members.iter_mut().for_each(|(_, cell)| cell.rows().begin());
    }

    fn len(&self) -> usize {
        self.rows
    }

    fn push_null(&mut self) {
        for (_, cell) in &mut self.members {
            cell.rows().push_null();
        }
        self.validity.append_null();
        self.rows += 1;
        self.chosen = None;
    }

    fn truncate(&mut self, rows: usize) {
        for (_, cell) in &mut self.members {
            cell.rows().truncate(rows);
        }
        self.validity.truncate(rows);
        self.rows = rows;
        self.chosen = None;
    }

    fn finish(&mut self) -> ArrayRef {
        let columns: Vec<ArrayRef> = self.members.iter_mut().map(|(_, cell)| cell.rows().finish()).collect();
        let rows = std::mem::take(&mut self.rows);
        let nulls = self.validity.finish();
        Arc::new(
            StructArray::try_new_with_length(self.fields.clone(), columns, nulls, rows)
                .expect("every member has a row for each row, and all of them are nullable"),
        )
    }
}

/// Repeated fields.
pub(crate) struct ListColumn {
    ends: Ends,
    pub(crate) element: Cell,
    field: FieldRef,
    validity: NullBufferBuilder,
}

impl ListColumn {
    pub(crate) fn new(element: Cell, field: FieldRef) -> Self {
        Self { ends: Ends::new(), element, field, validity: NullBufferBuilder::new(0) }
    }

    /// One element, or many that are packed.
    pub(crate) fn put(&mut self, wire: &mut Wire<'_>, wire_type: WireType) -> Outcome<()> {
        let wanted = self.element.wire_type();
        if wire_type == WireType::Span && wanted != WireType::Span {
            let span = wire.span()?;
            let mut packed = Wire::part(wire.payload(), &span);
            while !packed.is_empty() {
                let row = self.element.len();
                self.element.put_scalar(&mut packed, row)?;
            }
            return Ok(());
        }
        wire_type.expect(wanted)?;
        let row = self.element.len();
        self.element.put_expected(wire, row)?;
        if self.element.started(row) { self.element.end_row(wire.payload(), true) } else { Ok(()) }
    }

    pub(crate) fn end_row(&mut self) {
        self.ends.push(self.element.len());
        self.validity.append_non_null();
    }
}

impl Rows for ListColumn {
    fn begin(&mut self) {
        self.ends.begin();
        self.element.rows().begin();
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn push_null(&mut self) {
        self.ends.push(self.element.len());
        self.validity.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        let elements = self.ends.truncate(rows);
        self.element.rows().truncate(elements);
        self.validity.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        let elements = self.element.rows().finish();
        Arc::new(ListArray::new(self.field.clone(), self.ends.finish(), elements, self.validity.finish()))
    }
}

/// Maps. Their entries are read when the row ends, since of a key that comes twice the last one counts.
pub(crate) struct MapColumn {
    ends: Ends,
    key: Cell,
    key_default: Value,
    value: Cell,
    value_default: Value,
    entries: FieldRef,
    validity: NullBufferBuilder,
    /// The entries of the row that has begun.
    pub(crate) pending: Vec<Range<usize>>,
    keys: Vec<EntryKey>,
}

/// A key, comparable: a number, or where its text is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct EntryKey {
    number: i64,
    text: Range<usize>,
}

impl MapColumn {
    pub(crate) fn new(key: (Cell, Value), value: (Cell, Value), entries: FieldRef) -> Self {
        Self {
            ends: Ends::new(),
            key: key.0,
            key_default: key.1,
            value: value.0,
            value_default: value.1,
            entries,
            validity: NullBufferBuilder::new(0),
            pending: Vec::new(),
            keys: Vec::new(),
        }
    }

    pub(crate) fn end_row(&mut self, payload: &[u8]) -> Outcome<()> {
        let pending = std::mem::take(&mut self.pending);
        let outcome = self.read_entries(payload, &pending);
        self.pending = pending;
        self.pending.clear();
        outcome?;
        self.ends.push(self.key.len());
        self.validity.append_non_null();
        Ok(())
    }

    fn read_entries(&mut self, payload: &[u8], pending: &[Range<usize>]) -> Outcome<()> {
        if let [only] = pending {
            return self.read_entry(payload, only);
        }
        self.keys.clear();
        for entry in pending {
            let key = self.entry_key(payload, entry)?;
            self.keys.push(key);
        }
        let winners: Option<HashMap<(i64, &[u8]), usize>> = (pending.len() > FEW_KEYS)
            .then(|| self.keys.iter().enumerate().map(|(index, key)| (key.parts(payload), index)).collect());
        let wins: Vec<bool> = (0..pending.len())
            .map(|index| {
                let key = self.keys[index].parts(payload);
                match &winners {
                    Some(winners) => winners.get(&key) == Some(&index),
                    None => !self.keys[index + 1..].iter().any(|later| later.parts(payload) == key),
                }
            })
            .collect();
        for (entry, _) in pending.iter().zip(wins).filter(|(_, wins)| *wins) {
            self.read_entry(payload, entry)?;
        }
        Ok(())
    }

    /// The key of an entry alone.
    fn entry_key(&self, payload: &[u8], entry: &Range<usize>) -> Outcome<EntryKey> {
        let mut wire = Wire::part(payload, entry);
        let mut found = EntryKey { number: 0, text: 0..0 };
        while !wire.is_empty() {
            let (number, wire_type) = wire.tag()?;
            if number != 1 {
                wire.skip(number, wire_type)?;
                continue;
            }
            wire_type.expect(self.key.wire_type()).map_err(|fault| fault.within("key"))?;
            match &self.key {
                Cell::Int32(_, whole) | Cell::Int64(_, whole) => found.number = whole.read(&mut wire)?,
                Cell::Bool(_) => found.number = i64::from(wire.varint()? != 0),
                _text => found.text = wire.span()?,
            }
        }
        Ok(found)
    }

    fn read_entry(&mut self, payload: &[u8], entry: &Range<usize>) -> Outcome<()> {
        let row = self.key.len();
        let mut wire = Wire::part(payload, entry);
        while !wire.is_empty() {
            let (number, wire_type) = wire.tag()?;
            match number {
                1 => self.key.put(&mut wire, wire_type, row).map_err(|fault| fault.within("key"))?,
                2 => self.value.put(&mut wire, wire_type, row).map_err(|fault| fault.within("value"))?,
                _ => wire.skip(number, wire_type)?,
            }
        }
        if !self.key.started(row) {
            self.key.push_default(&self.key_default, payload)?;
        }
        let ended = if self.value.started(row) {
            self.value.end_row(payload, true)
        } else {
            self.value.push_default(&self.value_default, payload)
        };
        ended.map_err(|fault| fault.within("value"))
    }
}

impl EntryKey {
    fn parts<'p>(&self, payload: &'p [u8]) -> (i64, &'p [u8]) {
        (self.number, payload.get(self.text.clone()).unwrap_or_default())
    }
}

impl Rows for MapColumn {
    fn begin(&mut self) {
        self.ends.begin();
        self.key.rows().begin();
        self.value.rows().begin();
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn push_null(&mut self) {
        self.ends.push(self.key.len());
        self.validity.append_null();
        self.pending.clear();
    }

    fn truncate(&mut self, rows: usize) {
        let entries = self.ends.truncate(rows);
        self.key.rows().truncate(entries);
        self.value.rows().truncate(entries);
        self.validity.truncate(rows);
        self.pending.clear();
    }

    fn finish(&mut self) -> ArrayRef {
        let DataType::Struct(fields) = self.entries.data_type() else { unreachable!("map entries are a struct") };
        let (keys, values) = (self.key.rows().finish(), self.value.rows().finish());
        let entries = StructArray::new(fields.clone(), vec![keys, values], None);
        let (offsets, nulls) = (self.ends.finish(), self.validity.finish());
        debug_assert_eq!(entries.len(), *offsets.last().unwrap_or(&0) as usize);
        Arc::new(MapArray::new(self.entries.clone(), offsets, entries, nulls, false))
    }
}
