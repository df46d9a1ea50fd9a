//! Builders of lists and maps.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, MapArray, NullBufferBuilder, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use simd_json::Node;

use crate::column::Rows;
use crate::fault::{Fault, Outcome};
use crate::scalar_columns::Ends;
use crate::struct_column::{Context, Slot};
use crate::table_schema::{map_fields, normal_field};
use crate::tape::skip;

/// Keys of a map up to which each is compared with each.
const FEW_KEYS: usize = 16;

/// Lists.
pub(crate) struct ListColumn {
    ends: Ends,
    element: Slot,
    field: FieldRef,
    validity: NullBufferBuilder,
}

impl ListColumn {
    pub(crate) fn new(element: &Field) -> Self {
        Self {
            ends: Ends::new(),
            element: Slot::new(element),
            field: Arc::new(normal_field(element)),
            validity: NullBufferBuilder::new(0),
        }
    }

    pub(crate) fn read(
        &mut self,
        nodes: &[Node<'_>],
        mut at: usize,
        len: usize,
        context: &mut Context,
    ) -> Outcome<usize> {
        for _ in 0..len {
            at = self.element.read(nodes, at, context)?;
        }
        self.end_row();
        Ok(at)
    }

    /// Where elements of the row go that [`Self::end_row`] ends.
    #[inline]
    pub(crate) fn element(&mut self) -> &mut Slot {
        &mut self.element
    }

    /// Ends a row whose elements were appended one by one.
    pub(crate) fn end_row(&mut self) {
        self.ends.push(self.element.rows().len());
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
        self.ends.push(self.element.rows().len());
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

/// Maps.
pub(crate) struct MapColumn {
    ends: Ends,
    key: Slot,
    value: Slot,
    entries: FieldRef,
    validity: NullBufferBuilder,
}

impl MapColumn {
    pub(crate) fn new(entries: &Field) -> Self {
        let (key, value) = map_fields(entries);
        let normal = DataType::Map(Arc::new(entries.clone()), false);
        let normal = normal_field(&Field::new("", normal, true));
        let DataType::Map(entries, _) = normal.data_type() else { unreachable!("the normal form of a map is a map") };
        Self {
            ends: Ends::new(),
            key: Slot::new(key),
            value: Slot::new(value),
            entries: entries.clone(),
            validity: NullBufferBuilder::new(0),
        }
    }

    /// An object; of a key that comes twice the last one counts.
    pub(crate) fn read_object(
        &mut self,
        nodes: &[Node<'_>],
        mut at: usize,
        len: usize,
        context: &mut Context,
    ) -> Outcome<usize> {
        let last = last_of_each_key(nodes, at, len);
        for _ in 0..len {
            let Node::String(key) = nodes[at] else {
                return Err(Fault::new("an object key is no string"));
            };
            if last.as_ref().is_some_and(|last| last[key] != at) {
                at = skip(nodes, at + 1);
                continue;
            }
            self.key.read(nodes, at, context).map_err(|fault| fault.within("key"))?;
            at = self.value.read(nodes, at + 1, context).map_err(|fault| fault.within(key))?;
        }
        self.end_row();
        Ok(at)
    }

    /// `[[key, value], ...]`, as JsonConverter has maps whose keys are no strings.
    pub(crate) fn read_pairs(
        &mut self,
        nodes: &[Node<'_>],
        mut at: usize,
        len: usize,
        context: &mut Context,
    ) -> Outcome<usize> {
        for _ in 0..len {
            if let Node::Object { len: 2, .. } = &nodes[at] {
                at = self.read_entry(nodes, at + 1, context)?;
                continue;
            }
            if !matches!(nodes[at], Node::Array { len: 2, .. }) {
                return Err(Fault::new("a map that is a list must hold pairs [key, value]"));
            }
            let value = self.key.read(nodes, at + 1, context).map_err(|fault| fault.within("key"))?;
            at = self.value.read(nodes, value, context).map_err(|fault| fault.within("value"))?;
        }
        self.end_row();
        Ok(at)
    }

    /// `"key": ..., "value": ...`, as JsonSchemaConverter has them; in this order or the other one.
    fn read_entry(&mut self, nodes: &[Node<'_>], at: usize, context: &mut Context) -> Outcome<usize> {
        let second = skip(nodes, at + 1);
        for name in [at, second] {
            match nodes[name] {
                Node::String("key") => {
                    self.key.read(nodes, name + 1, context).map_err(|fault| fault.within("key"))?;
                }
                Node::String("value") => {
                    self.value.read(nodes, name + 1, context).map_err(|fault| fault.within("value"))?;
                }
                _ => return Err(Fault::new("an entry of a map must have a key and a value")),
            }
        }
        if self.key.rows().len() != self.value.rows().len() {
            return Err(Fault::new("an entry of a map must have a key and a value"));
        }
        Ok(skip(nodes, second + 1))
    }

    /// Where keys and values of the row go that [`Self::end_row`] ends.
    #[inline]
    pub(crate) fn entry(&mut self) -> (&mut Slot, &mut Slot) {
        (&mut self.key, &mut self.value)
    }

    /// Ends a row whose entries were appended one by one.
    pub(crate) fn end_row(&mut self) {
        self.ends.push(self.key.rows().len());
        self.validity.append_non_null();
    }
}

/// The index of the last appearance of each key; `None` if no key comes twice.
fn last_of_each_key<'n>(nodes: &[Node<'n>], at: usize, len: usize) -> Option<HashMap<&'n str, usize>> {
    if len <= FEW_KEYS && !comes_twice(nodes, at, len) {
        return None;
    }
    let last: HashMap<&str, usize> = keys(nodes, at, len).collect();
    (last.len() < len).then_some(last)
}

/// Compares each key with each: cheaper than a map for a few, and allocates nothing.
fn comes_twice(nodes: &[Node<'_>], at: usize, len: usize) -> bool {
    keys(nodes, at, len).enumerate().any(|(index, (key, _))| keys(nodes, at, index).any(|(other, _)| other == key))
}

/// The keys of an object and where they are.
fn keys<'t, 'n>(
    nodes: &'t [Node<'n>],
    mut at: usize,
    len: usize,
) -> impl Iterator<Item = (&'n str, usize)> + use<'t, 'n> {
    (0..len).filter_map(move |_| {
        let here = at;
        at = skip(nodes, here + 1);
        match nodes[here] {
            Node::String(key) => Some((key, here)),
            Node::Object { .. } | Node::Array { .. } | Node::Static(_) => None,
        }
    })
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
        self.ends.push(self.key.rows().len());
        self.validity.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        let entries = self.ends.truncate(rows);
        self.key.rows().truncate(entries);
        self.value.rows().truncate(entries);
        self.validity.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        let DataType::Struct(fields) = self.entries.data_type() else { unreachable!("map entries are a struct") };
        let (keys, values) = (self.key.rows().finish(), self.value.rows().finish());
        let entries = StructArray::new(Fields::clone(fields), vec![keys, values], None);
        let (offsets, nulls) = (self.ends.finish(), self.validity.finish());
        debug_assert_eq!(entries.len(), *offsets.last().unwrap_or(&0) as usize);
        Arc::new(MapArray::new(self.entries.clone(), offsets, entries, nulls, false))
    }
}
