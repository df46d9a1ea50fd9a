//! Finds the schema of plain JSON, record by record, and lets it grow.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::BinaryArray;
use arrow::datatypes::{DataType, Field, Fields};
use simd_json::{Node, StaticNode};

use crate::fault::{Fault, Outcome, describe};
use crate::merge::{Conflict, Right, merge_fields, merge_types};
use crate::table_schema::{DEPTH_MAX, FIELDS_MAX, TableSchema, element_field, type_name};
use crate::tape::{Parser, too_deep};

/// Fields of an object from which names are looked up in a map.
const LINEAR_MAX: usize = 16;

/// What [`infer`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inference {
    /// The schema that holds the current one and all records that fit.
    pub schema: TableSchema,
    /// Whether it differs from the current one.
    pub changed: bool,
}

/// Grows `current` (or the empty schema) until it holds every record of `texts` that can be held.
///
/// Integers are INT64, decimals and exponents DOUBLE, objects structs, arrays lists; fields stand in order of first
/// appearance, new ones at the end, all nullable. Fields that were only null, `[]` or `{}` so far wait: they are not in the
/// schema. INT64 widens to DOUBLE. Of a key that an object has twice the last one counts, and names that differ only in
/// case are two fields. A record with any other conflict, no object at the top, an integer beyond INT64, more than
/// [`DEPTH_MAX`] levels, or by which the schema would have more than [`FIELDS_MAX`] fields, contributes nothing;
/// [`crate::JsonColumns`] rejects it with the reason when it is read with the new schema.
pub fn infer(current: Option<&TableSchema>, texts: &BinaryArray) -> Inference {
    let mut schema = current.cloned().unwrap_or_else(TableSchema::empty);
    let mut parser = Parser::new();
    let mut changed = current.is_none();
    for text in texts.iter().flatten().filter(|text| !text.is_empty()) {
        let grown = parser.parse(text, |nodes| grow(&schema, nodes));
        if let Ok(Ok(Some(grown))) = grown {
            schema = grown;
            changed = true;
        }
    }
    Inference { schema, changed }
}

/// The schema that also holds the record on the tape; `None` if `schema` holds it already. The fault of a record that no
/// schema can hold together with `schema`.
pub(crate) fn grow(schema: &TableSchema, nodes: &[Node<'_>]) -> Outcome<Option<TableSchema>> {
    let record = match nodes.first() {
        Some(Node::Object { .. }) => type_of(nodes, 0, 0)?.0,
        Some(Node::Static(StaticNode::Null)) | None => return Ok(None),
        Some(other) => return Err(no_object(other)),
    };
    let DataType::Struct(fields) = record else { unreachable!("an object's type is a struct") };
    let Some(merged) =
        merge_fields(schema.fields(), &fields, Right::Record).map_err(|conflict| conflict_fault(&conflict))?
    else {
        return Ok(None);
    };
    let grown = TableSchema::new(&without_waiting(&merged)).map_err(|error| Fault::new(error.0))?;
    if grown == *schema {
        return Ok(None);
    }
    if grown.fields_count() > FIELDS_MAX {
        return Err(Fault::new(format!(
            "with this record the schema would have more than {FIELDS_MAX} fields; \
             give value.converter.schema with a MAP where keys are data"
        )));
    }
    Ok(Some(grown))
}

/// The fault of a value that is no object.
pub(crate) fn no_object(found: &Node<'_>) -> Box<Fault> {
    Fault::new(format!(
        "value must be a JSON object to become columns, but it is {}; wrap it with HoistField, or write it with format.class json",
        describe(found)
    ))
}

fn conflict_fault(conflict: &Conflict) -> Box<Fault> {
    let fault = Fault::new(format!(
        "is {} in the schema and {} in the record; types other than INT64 to DOUBLE do not change",
        conflict.left, conflict.right
    ));
    if conflict.path.is_empty() { fault } else { fault.within(&conflict.path) }
}

/// The type of the value at `at` and the index after it. NULL, ARRAY<NULL> and STRUCT<> are types here.
fn type_of(nodes: &[Node<'_>], at: usize, depth: usize) -> Outcome<(DataType, usize)> {
    if depth > DEPTH_MAX {
        return Err(Fault::new(too_deep()));
    }
    let scalar = match &nodes[at] {
        Node::Object { len, .. } => return object_type(nodes, at + 1, *len, depth),
        Node::Array { len, .. } => return array_type(nodes, at + 1, *len, depth),
        Node::String(_) => DataType::Utf8,
        Node::Static(StaticNode::Null) => DataType::Null,
        Node::Static(StaticNode::Bool(_)) => DataType::Boolean,
        Node::Static(StaticNode::F64(_)) => DataType::Float64,
        Node::Static(StaticNode::I64(_)) => DataType::Int64,
        Node::Static(StaticNode::U64(number)) if i64::try_from(*number).is_ok() => DataType::Int64,
        Node::Static(StaticNode::U64(number)) => {
            return Err(Fault::new(format!("the number {number} is out of range of INT64")));
        }
    };
    Ok((scalar, at + 1))
}

fn object_type(nodes: &[Node<'_>], mut at: usize, len: usize, depth: usize) -> Outcome<(DataType, usize)> {
    let mut fields: Vec<(&str, DataType)> = Vec::with_capacity(len);
    let mut index: HashMap<&str, usize> = HashMap::new();
    for _ in 0..len {
        let Node::String(name) = nodes[at] else {
            return Err(Fault::new("an object key is no string"));
        };
        let (data_type, next) = type_of(nodes, at + 1, depth + 1).map_err(|fault| fault.within(name))?;
        at = next;
        let known = if len > LINEAR_MAX {
            match index.entry(name) {
                Entry::Occupied(known) => Some(*known.get()),
                Entry::Vacant(vacant) => {
                    vacant.insert(fields.len());
                    None
                }
            }
        } else {
            fields.iter().position(|(known, _)| *known == name)
        };
        match known {
            Some(known) => fields[known].1 = data_type,
            None => fields.push((name, data_type)),
        }
    }
    let fields: Fields = fields.into_iter().map(|(name, data_type)| Field::new(name, data_type, true)).collect();
    Ok((DataType::Struct(fields), at))
}

fn array_type(nodes: &[Node<'_>], mut at: usize, len: usize, depth: usize) -> Outcome<(DataType, usize)> {
    let mut element = DataType::Null;
    for _ in 0..len {
        let (data_type, next) = type_of(nodes, at, depth + 1)?;
        at = next;
        match merge_types(&element, &data_type, Right::Record) {
            Ok(None) => {}
            Ok(Some(merged)) => element = merged,
            Err(conflict) => {
                let fault = Fault::new(format!("the elements of a list are {} and {}", conflict.left, conflict.right));
                return Err(if conflict.path.is_empty() { fault } else { fault.within(&conflict.path) });
            }
        }
    }
    Ok((DataType::List(element_field(element, true)), at))
}

/// The fields whose type is known, at every level.
fn without_waiting(fields: &Fields) -> Fields {
    fields
        .iter()
        .filter_map(|field| Some(field.as_ref().clone().with_data_type(known_type(field.data_type())?)))
        .collect()
}

fn known_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Null => None,
        DataType::Struct(fields) => {
            let fields = without_waiting(fields);
            (!fields.is_empty()).then_some(DataType::Struct(fields))
        }
        DataType::List(element) => {
            Some(DataType::List(element_field(known_type(element.data_type())?, element.is_nullable())))
        }
        other => Some(other.clone()),
    }
}

/// The sentence of a value whose type the schema does not have.
pub(crate) fn misfit(data_type: &DataType, found: &Node<'_>) -> Box<Fault> {
    Fault::new(format!("is {} in the schema but the record has {}", type_name(data_type), describe(found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(records: &[&str]) -> BinaryArray {
        BinaryArray::from_iter_values(records.iter().map(|record| record.as_bytes()))
    }

    fn ddl(text: &str) -> TableSchema {
        if text.is_empty() { TableSchema::empty() } else { crate::given::parse(text).unwrap() }
    }

    #[test]
    fn records_make_a_schema() {
        for (records, expected) in [
            (&[r#"{"b":1,"a":"x"}"#][..], "b BIGINT, a STRING"),
            (&[r#"{"a":1}"#, r#"{"a":1.5}"#], "a DOUBLE"),
            (&[r#"{"a":1e3}"#], "a DOUBLE"),
            (&[r#"{"a":1.0}"#], "a DOUBLE"),
            (&[r#"{"a":null,"b":true}"#], "b BOOLEAN"),
            (&[r#"{"a":null,"b":true}"#, r#"{"a":2}"#], "b BOOLEAN, a BIGINT"),
            (&[r#"{"a":[],"b":{},"c":[[]],"d":{"e":null}}"#], ""),
            (&[r#"{"a":[null,1,2.5]}"#], "a ARRAY<DOUBLE>"),
            (&[r#"{"a":[{"x":1},{"y":"z"}]}"#], "a ARRAY<STRUCT<x: BIGINT, y: STRING>>"),
            (&[r#"{"s":{"x":1}}"#, r#"{"s":{"y":[true]}}"#], "s STRUCT<x: BIGINT, y: ARRAY<BOOLEAN>>"),
            (&[r#"{"a":1,"a":"last"}"#], "a STRING"),
            (&[r#"{"a":1,"A":"x"}"#], "a BIGINT, A STRING"),
            (&[r#"{"a":1}"#, r#"{"b":2,"a":"x"}"#, r#"{"c":3}"#], "a BIGINT, c BIGINT"),
            (&[r#"{"a":1,"b":{"c":9223372036854775808}}"#], ""),
            (&[r#"{"a":[1,"x"],"b":1}"#, "[1]", "7", "not json", "null", ""], ""),
        ] {
            let found = infer(None, &texts(records));
            assert_eq!(found.schema, ddl(expected), "{records:?}");
            assert!(found.changed);
        }
    }

    #[test]
    fn what_is_known_already_changes_nothing() {
        let current = ddl("a DOUBLE, s STRUCT<x: BIGINT>");
        for record in [r#"{"a":1}"#, r#"{"s":{}}"#, r#"{"s":{"x":2},"new":[]}"#, r#"{"a":"conflict","b":1}"#, "null"] {
            let found = infer(Some(&current), &texts(&[record]));
            assert_eq!(found, Inference { schema: current.clone(), changed: false }, "{record}");
        }
        assert!(infer(Some(&current), &texts(&[r#"{"b":1}"#])).changed);
    }

    #[test]
    fn what_no_schema_can_hold_is_said_with_the_path() {
        let schema = ddl("a BIGINT, s STRUCT<x: ARRAY<BIGINT>>");
        let deep = format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40));
        for (record, expected) in [
            (
                r#"{"a":"x"}"#,
                "field a: is INT64 in the schema and STRING in the record; types other than INT64 to DOUBLE do not change",
            ),
            (
                r#"{"s":{"x":[true]}}"#,
                "field s.x: is INT64 in the schema and BOOLEAN in the record; types other than INT64 to DOUBLE do not change",
            ),
            (r#"{"n":{"m":[1,"x"]}}"#, "field n.m: the elements of a list are INT64 and STRING"),
            (r#"{"n":[9223372036854775808]}"#, "field n: the number 9223372036854775808 is out of range of INT64"),
            (
                "[]",
                "value must be a JSON object to become columns, but it is a list; wrap it with HoistField, or write it with format.class json",
            ),
        ] {
            let fault = Parser::new().parse(record.as_bytes(), |nodes| grow(&schema, nodes)).unwrap().unwrap_err();
            assert_eq!(fault.to_string(), expected);
        }
        let fault = Parser::new().parse(deep.as_bytes(), |nodes| grow(&schema, nodes)).unwrap().unwrap_err();
        assert!(
            fault.to_string().ends_with("nested deeper than 32 levels; flatten it before it is produced"),
            "{fault}"
        );
    }

    #[test]
    fn a_record_with_a_key_per_user_is_refused() {
        let object: Vec<String> = (0..FIELDS_MAX + 1).map(|user| format!("\"u{user}\":1")).collect();
        let record = format!("{{\"users\":{{{}}}}}", object.join(","));
        let found = infer(None, &texts(&[&record, r#"{"a":1}"#]));
        assert_eq!(found.schema, ddl("a BIGINT"));
    }
}
