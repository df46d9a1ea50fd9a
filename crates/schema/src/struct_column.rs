//! The builder of a struct column: finds the field of each key, nearly always the one that is expected next.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, NullBufferBuilder, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use model::ConnectMarks;
use serde_json::Value;
use simd_json::{Node, StaticNode};

use crate::column::{Column, Rows};
use crate::fault::{Fault, Outcome};
use crate::json_columns::Unknown;
use crate::json_union::UnionColumn;
use crate::scalar_columns::Bytes;
use crate::table_schema::{normal_fields, type_name};
use crate::tape::{has_value, skip};

/// Fields of a struct from which names are looked up in a map.
const LINEAR_MAX: usize = 16;

/// What is wrong with a field that no column is for, where there can be none.
const NO_COLUMN: &str =
    "is not among the columns that there are, and none may be added: set mergeSchema to true to add it";

/// Who wrote the JSON, and so how it stands for types that JSON does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Anybody: dates and times are ISO texts or numbers, decimals are digits.
    Plain,
    /// Kafka Connect's JsonConverter: dates and times are numbers, decimals are numbers or base64.
    Connect {
        /// `replace.null.with.default`.
        replace_null_with_default: bool,
    },
}

/// How to read, and what was seen while reading one row.
pub(crate) struct Context {
    pub(crate) dialect: Dialect,
    /// What becomes of what does not fit into the schema.
    pub(crate) unknown: Unknown,
    /// Whether the row has something that may make the schema grow.
    pub(crate) suspect: bool,
    /// Whether it has something that is not null in a field that the schema lacks.
    pub(crate) waits: bool,
    /// Texts take any value, as the JSON that it is.
    pub(crate) texts_take_all: bool,
    /// Fields of objects are null where they do not fit; the first fault is kept.
    pub(crate) is_lenient: bool,
    pub(crate) fault: Option<Box<Fault>>,
}

impl Context {
    pub(crate) fn new(dialect: Dialect, unknown: Unknown) -> Context {
        Context {
            dialect,
            unknown,
            suspect: false,
            waits: false,
            texts_take_all: false,
            is_lenient: false,
            fault: None,
        }
    }

    pub(crate) fn iso_texts(&self) -> bool {
        self.dialect == Dialect::Plain
    }

    /// A decimal stands where the schema says INT64: whether that may make it a DOUBLE.
    pub(crate) fn may_widen(&mut self) -> bool {
        let may = self.unknown == Unknown::Report;
        self.suspect |= may;
        may
    }
}

/// A named place for values: a field of a struct, the element of a list, key or value of a map.
pub(crate) struct Slot {
    name: Box<str>,
    nullable: bool,
    data_type: DataType,
    default: Option<Value>,
    column: Column,
}

impl Slot {
    pub(crate) fn new(field: &Field) -> Slot {
        Slot {
            name: field.name().as_str().into(),
            nullable: field.is_nullable(),
            data_type: field.data_type().clone(),
            default: ConnectMarks::of(field).default,
            column: match (field.data_type(), field.metadata()) {
                (DataType::Struct(fields), metadata) if metadata.contains_key(UNION_MARK) => {
                    Column::Union(Box::new(UnionColumn::new(fields)))
                }
                (DataType::Utf8, metadata) if metadata.contains_key(JSON_TEXT_MARK) => {
                    Column::JsonText(Bytes::new(true))
                }
                (data_type, _) => Column::new(data_type),
            },
        }
    }

    pub(crate) fn rows(&mut self) -> &mut dyn Rows {
        self.column.rows()
    }

    /// Its column, for readers that know what comes next.
    #[inline]
    pub(crate) fn column(&mut self) -> &mut Column {
        &mut self.column
    }

    /// Appends the value at `at` and gives the index after it.
    #[inline]
    pub(crate) fn read(&mut self, nodes: &[Node<'_>], at: usize, context: &mut Context) -> Outcome<usize> {
        if matches!(nodes[at], Node::Static(StaticNode::Null)) {
            self.read_null(context)?;
            return Ok(at + 1);
        }
        self.column.read(nodes, at, &self.data_type, context)
    }

    /// A null, or a field that is not there: the default, as JsonConverter has it, or null if it may be.
    pub(crate) fn read_null(&mut self, context: &mut Context) -> Outcome<()> {
        let replace = match context.dialect {
            Dialect::Plain => false,
            Dialect::Connect { replace_null_with_default } => replace_null_with_default,
        };
        if let (true, Some(default)) = (replace, &self.default) {
            let mut nodes = Vec::new();
            push_nodes(default, &mut nodes);
            return self.column.read(&nodes, 0, &self.data_type, context).map(|_| ());
        }
        if self.nullable {
            self.column.rows().push_null();
            return Ok(());
        }
        Err(Fault::new(match context.dialect {
            Dialect::Plain => {
                format!("is {} NOT NULL in the schema but the record has null", type_name(&self.data_type))
            }
            Dialect::Connect { .. } => format!("Invalid null value for required {} field", type_name(&self.data_type)),
        }))
    }
}

/// Metadata of a struct whose fields are the branches of a union: a value is that of one of them.
const UNION_MARK: &str = "sluice.union";

/// Metadata of a text that holds whatever JSON comes, as it is.
const JSON_TEXT_MARK: &str = "sluice.json.text";

fn with_mark(field: Field, mark: &str) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(mark.to_owned(), "true".to_owned());
    field.with_metadata(metadata)
}

/// The field, as that of a union.
pub(crate) fn as_union(field: Field) -> Field {
    with_mark(field, UNION_MARK)
}

/// The field, as one of JSON text.
pub(crate) fn as_json_text(field: Field) -> Field {
    with_mark(field, JSON_TEXT_MARK)
}

/// A default as the tape that its text would give.
pub(crate) fn push_nodes<'v>(value: &'v Value, nodes: &mut Vec<Node<'v>>) {
    let at = nodes.len();
    match value {
        Value::Null => nodes.push(Node::Static(StaticNode::Null)),
        Value::Bool(flag) => nodes.push(Node::Static(StaticNode::Bool(*flag))),
        Value::Number(number) => nodes.push(Node::Static(match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => StaticNode::I64(number),
            (None, Some(number), _) => StaticNode::U64(number),
            (None, None, number) => StaticNode::F64(number.unwrap_or(f64::NAN)),
        })),
        Value::String(text) => nodes.push(Node::String(text)),
        Value::Array(elements) => {
            nodes.push(Node::Array { len: elements.len(), count: 0 });
            elements.iter().for_each(|element| push_nodes(element, nodes));
            nodes[at] = Node::Array { len: elements.len(), count: nodes.len() - at - 1 };
        }
        Value::Object(fields) => {
            nodes.push(Node::Object { len: fields.len(), count: 0 });
            for (name, field) in fields {
                nodes.push(Node::String(name));
                push_nodes(field, nodes);
            }
            nodes[at] = Node::Object { len: fields.len(), count: nodes.len() - at - 1 };
        }
    }
}

/// Structs.
pub(crate) struct StructColumn {
    slots: Vec<Slot>,
    by_name: HashMap<Box<str>, usize>,
    fields: Fields,
    validity: NullBufferBuilder,
    rows: usize,
}

impl StructColumn {
    pub(crate) fn new(fields: &Fields) -> Self {
        let names = fields.iter().enumerate().map(|(index, field)| (field.name().as_str().into(), index));
        Self {
            slots: fields.iter().map(|field| Slot::new(field)).collect(),
            by_name: if fields.len() > LINEAR_MAX { names.collect() } else { HashMap::new() },
            fields: normal_fields(fields),
            validity: NullBufferBuilder::new(0),
            rows: 0,
        }
    }

    /// The only slot of a column that stands for a whole value.
    pub(crate) fn whole_value(&mut self) -> &mut Slot {
        &mut self.slots[0]
    }

    /// The slots, in the order of the fields.
    #[inline]
    pub(crate) fn slots(&mut self) -> &mut [Slot] {
        &mut self.slots
    }

    /// Ends a row whose slots were filled one by one.
    pub(crate) fn end_row(&mut self) {
        self.validity.append_non_null();
        self.rows += 1;
    }

    /// Appends the object whose first key is at `at`, with `len` keys, and gives the index after it.
    pub(crate) fn read(
        &mut self,
        nodes: &[Node<'_>],
        mut at: usize,
        len: usize,
        context: &mut Context,
    ) -> Outcome<usize> {
        // Fields from `fresh` on have not been seen in this object; the one at `expected` comes next, most likely.
        let (mut expected, mut fresh, mut filled) = (0, 0, 0);
        for left in (0..len).rev() {
            let Node::String(name) = nodes[at] else {
                return Err(Fault::new("an object key is no string"));
            };
            let Some(index) = self.find(name, expected) else {
                let is_null = matches!(nodes[at + 1], Node::Static(StaticNode::Null));
                match context.unknown {
                    Unknown::Report if !is_null => {
                        context.waits = true;
                        context.suspect |= has_value(nodes, at + 1);
                    }
                    Unknown::Refuse if has_value(nodes, at + 1) => return Err(Fault::new(NO_COLUMN).within(name)),
                    Unknown::Report | Unknown::Refuse | Unknown::Ignore => {}
                }
                at = skip(nodes, at + 1);
                continue;
            };
            expected = index + 1;
            let slot = &mut self.slots[index];
            if index < fresh && slot.rows().len() > self.rows {
                slot.rows().truncate(self.rows);
                filled -= 1;
            }
            fresh = fresh.max(expected);
            at = match slot.read(nodes, at + 1, context) {
                Ok(next) => {
                    filled += 1;
                    next
                }
                Err(fault) => {
                    let next = skip(nodes, at + 1);
                    if !comes_again(name, nodes, next, left) {
                        let fault = fault.within(name);
                        if !context.is_lenient {
                            return Err(fault);
                        }
                        context.fault.get_or_insert(fault);
                    }
                    slot.rows().truncate(self.rows);
                    next
                }
            };
        }
        if filled < self.slots.len() {
            self.fill_missing(context)?;
        }
        self.end_row();
        Ok(at)
    }

    /// Makes the text in slot `index` of the last row what is given.
    pub(crate) fn set_text(&mut self, index: usize, text: Option<&[u8]>) {
        let last = self.rows - 1;
        let slot = &mut self.slots[index];
        slot.rows().truncate(last);
        match (&mut slot.column, text) {
            (Column::Utf8(column), Some(text)) => column.push(String::from_utf8_lossy(text).as_bytes()),
            (column, _) => column.rows().push_null(),
        }
    }

    #[inline]
    fn find(&self, name: &str, expected: usize) -> Option<usize> {
        if self.slots.get(expected).is_some_and(|slot| same(&slot.name, name)) {
            return Some(expected);
        }
        if self.slots.len() > LINEAR_MAX {
            return self.by_name.get(name).copied();
        }
        self.slots.iter().position(|slot| same(&slot.name, name))
    }

    fn fill_missing(&mut self, context: &mut Context) -> Outcome<()> {
        for slot in &mut self.slots {
            if slot.rows().len() == self.rows {
                slot.read_null(context).map_err(|fault| fault.within(&slot.name))?;
            }
        }
        Ok(())
    }

    /// The rows as a [`StructArray`]; the column is empty afterwards.
    pub(crate) fn finish_struct(&mut self) -> StructArray {
        let columns: Vec<ArrayRef> = self.slots.iter_mut().map(|slot| slot.rows().finish()).collect();
        let rows = std::mem::take(&mut self.rows);
        StructArray::try_new_with_length(self.fields.clone(), columns, self.validity.finish(), rows)
            .expect("every slot has a row for each row, and nulls of required fields only under a null")
    }
}

/// Whether two names are equal. Names are short and nearly always equal here, so that a call of memcmp costs more than
/// comparing their two ends, which overlap.
#[inline]
fn same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    match left.len() {
        8..=16 => left.first_chunk::<8>() == right.first_chunk() && left.last_chunk::<8>() == right.last_chunk(),
        4..8 => left.first_chunk::<4>() == right.first_chunk() && left.last_chunk::<4>() == right.last_chunk(),
        0..4 => left.iter().zip(right).all(|(left, right)| left == right),
        _ => left == right,
    }
}

/// Whether one of the `left` keys from `at` on is `name`: of a key that an object has twice the last one counts.
fn comes_again(name: &str, nodes: &[Node<'_>], mut at: usize, left: usize) -> bool {
    for _ in 0..left {
        if matches!(nodes[at], Node::String(other) if other == name) {
            return true;
        }
        at = skip(nodes, at + 1);
    }
    false
}

impl Rows for StructColumn {
    fn begin(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.rows().begin());
    }

    fn len(&self) -> usize {
        self.rows
    }

    fn push_null(&mut self) {
        for slot in &mut self.slots {
            slot.rows().push_null();
        }
        self.validity.append_null();
        self.rows += 1;
    }

    fn truncate(&mut self, rows: usize) {
        for slot in &mut self.slots {
            slot.rows().truncate(rows);
        }
        self.validity.truncate(rows);
        self.rows = rows;
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.finish_struct())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_only_if_every_byte_is() {
        let text = "abcdefghijklmnopqrstuvwxyz";
        for length in 0..text.len() {
            let name = &text[..length];
            assert!(same(name, &text.to_owned()[..length]), "{name}");
            assert!(!same(name, &text[..length + 1]), "{name}");
            for at in 0..length {
                let mut other = name.to_owned();
                other.replace_range(at..at + 1, "_");
                assert!(!same(name, &other), "{name} {other}");
            }
        }
    }
}
