//! How two types of one field become one: the rules by which a schema grows.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};

use crate::table_schema::{TableSchema, element_field, map_fields, map_type, type_name};

/// Two types of one field that no schema can hold together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {path} is {left} in the schema and {right} in the other")]
pub struct Conflict {
    /// Names from the outside in, joined by dots.
    pub path: String,
    /// The type on the left.
    pub left: String,
    /// The type on the right.
    pub right: String,
}

impl Conflict {
    fn new(left: &DataType, right: &DataType) -> Box<Conflict> {
        Box::new(Conflict { path: String::new(), left: type_name(left), right: type_name(right) })
    }

    fn within(mut self: Box<Self>, name: &str) -> Box<Conflict> {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.path = format!("{name}{dot}{}", self.path);
        self
    }
}

/// What the right side is: a record may hold anything where the schema has a type that inference never makes, for
/// whoever reads it decides; another schema may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    Record,
    Schema,
}

/// The smallest schema that holds the rows of both: the fields of `left`, then the new ones of `right`, at every level;
/// fields that are nullable or missing on one side are nullable; INT64 and DOUBLE make DOUBLE. Any other difference is a
/// conflict. Up to the order of fields it does not matter which schema is left, or in which order many are merged.
pub fn merge(left: &TableSchema, right: &TableSchema) -> Result<TableSchema, Conflict> {
    match merge_fields(left.fields(), right.fields(), Right::Schema) {
        Ok(None) => Ok(left.clone()),
        Ok(Some(fields)) => {
            Ok(TableSchema::new(&fields).expect("both sides are in the normal form and no deeper together"))
        }
        Err(conflict) => Err(*conflict),
    }
}

/// The fields of both; `None` if `left` holds `right` already.
pub(crate) fn merge_fields(left: &Fields, right: &Fields, kind: Right) -> Result<Option<Fields>, Box<Conflict>> {
    let mut merged: Option<Vec<Arc<Field>>> = None;
    let mut found = vec![false; left.len()];
    let mut expected = 0;
    for field in right {
        let Some(index) = position(left, field.name(), expected) else {
            merged.get_or_insert_with(|| left.to_vec()).push(Arc::new(field.as_ref().clone().with_nullable(true)));
            continue;
        };
        expected = index + 1;
        found[index] = true;
        if let Some(grown) = merge_field(&left[index], field, kind)? {
            merged.get_or_insert_with(|| left.to_vec())[index] = Arc::new(grown);
        }
    }
    if kind == Right::Schema {
        for (index, _) in found.iter().enumerate().filter(|(index, found)| !**found && !left[*index].is_nullable()) {
            let all = merged.get_or_insert_with(|| left.to_vec());
            all[index] = Arc::new(all[index].as_ref().clone().with_nullable(true));
        }
    }
    Ok(merged.map(Fields::from))
}

fn merge_field(left: &Field, right: &Field, kind: Right) -> Result<Option<Field>, Box<Conflict>> {
    let merged =
        merge_types(left.data_type(), right.data_type(), kind).map_err(|conflict| conflict.within(left.name()))?;
    let nullable = left.is_nullable() || (kind == Right::Schema && right.is_nullable());
    if merged.is_none() && nullable == left.is_nullable() {
        return Ok(None);
    }
    let data_type = merged.unwrap_or_else(|| left.data_type().clone());
    Ok(Some(Field::new(left.name(), data_type, nullable)))
}

/// The type of both; `None` if `left` holds `right` already. NULL, ARRAY<NULL> and STRUCT<> wait for a type.
pub(crate) fn merge_types(left: &DataType, right: &DataType, kind: Right) -> Result<Option<DataType>, Box<Conflict>> {
    match (left, right) {
        (left, right) if left == right => Ok(None),
        (_, DataType::Null) => Ok(None),
        (DataType::Null, right) => Ok(Some(right.clone())),
        (DataType::Float64, DataType::Int64) => Ok(None),
        (DataType::Int64, DataType::Float64) => Ok(Some(DataType::Float64)),
        (DataType::Struct(left), DataType::Struct(right)) => Ok(merge_fields(left, right, kind)?.map(DataType::Struct)),
        (DataType::List(left), DataType::List(right)) => {
            let merged = merge_types(left.data_type(), right.data_type(), kind)?;
            let nullable = left.is_nullable() || right.is_nullable();
            if merged.is_none() && nullable == left.is_nullable() {
                return Ok(None);
            }
            let element = merged.unwrap_or_else(|| left.data_type().clone());
            Ok(Some(DataType::List(element_field(element, nullable))))
        }
        (DataType::Map(left, _), DataType::Map(right, _)) => merge_maps(left, right, kind),
        (left, _) if kind == Right::Record && !is_inferred(left) => Ok(None),
        (left, right) => Err(Conflict::new(left, right)),
    }
}

fn merge_maps(left: &Field, right: &Field, kind: Right) -> Result<Option<DataType>, Box<Conflict>> {
    let ((key, value), (right_key, right_value)) = (map_fields(left), map_fields(right));
    if key.data_type() != right_key.data_type() {
        return Err(Conflict::new(key.data_type(), right_key.data_type()).within("key"));
    }
    let merged = merge_field(value, right_value, kind)?;
    Ok(merged.map(|value| map_type(key.as_ref().clone(), value)))
}

/// Whether inference makes such types.
fn is_inferred(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Boolean
            | DataType::Int64
            | DataType::Float64
            | DataType::Utf8
            | DataType::Struct(_)
            | DataType::List(_)
    )
}

/// Where `name` is; first at `expected`, then after it, then before it, for objects come with their fields in order.
pub(crate) fn position(fields: &Fields, name: &str, expected: usize) -> Option<usize> {
    let expected = expected.min(fields.len());
    let is_it = |index: &usize| fields[*index].name() == name;
    (expected..fields.len()).find(is_it).or_else(|| (0..expected).find(is_it))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A schema as inference makes them, with names few enough to meet again.
    pub(crate) fn inferred_schema() -> impl Strategy<Value = TableSchema> {
        let scalar = prop_oneof![
            4 => Just(DataType::Int64), 4 => Just(DataType::Float64), 1 => Just(DataType::Utf8), 1 => Just(DataType::Boolean),
        ];
        let types = scalar.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|element| DataType::List(element_field(element, true))),
                nullable_fields(inner).prop_map(DataType::Struct),
            ]
        });
        nullable_fields(types).prop_map(|fields| TableSchema::new(&fields).unwrap())
    }

    fn nullable_fields(types: impl Strategy<Value = DataType>) -> impl Strategy<Value = Fields> {
        proptest::collection::btree_map("[a-d]", types, 1..4)
            .prop_map(|fields| fields.into_iter().map(|(name, data_type)| Field::new(name, data_type, true)).collect())
    }

    /// The schema with its fields sorted by name at every level.
    fn sorted(schema: &TableSchema) -> TableSchema {
        fn sort(data_type: &DataType) -> DataType {
            match data_type {
                DataType::Struct(fields) => DataType::Struct(sort_fields(fields)),
                DataType::List(element) => {
                    DataType::List(element_field(sort(element.data_type()), element.is_nullable()))
                }
                other => other.clone(),
            }
        }
        fn sort_fields(fields: &Fields) -> Fields {
            let mut fields: Vec<Field> =
                fields.iter().map(|field| field.as_ref().clone().with_data_type(sort(field.data_type()))).collect();
            fields.sort_by(|a, b| a.name().cmp(b.name()));
            fields.into()
        }
        TableSchema::new(&sort_fields(schema.fields())).unwrap()
    }

    fn schema(ddl: &str) -> TableSchema {
        crate::given::parse(ddl).unwrap()
    }

    #[test]
    fn schemas_merge_or_name_the_conflict() {
        for (left, right, expected) in [
            ("a BIGINT", "b STRING", Ok("a BIGINT, b STRING")),
            ("a BIGINT", "a DOUBLE", Ok("a DOUBLE")),
            ("a DOUBLE", "a BIGINT", Ok("a DOUBLE")),
            ("a BIGINT NOT NULL", "a BIGINT", Ok("a BIGINT")),
            ("a BIGINT NOT NULL", "b INT NOT NULL", Ok("a BIGINT, b INT")),
            ("s STRUCT<x: BIGINT>", "s STRUCT<y: ARRAY<DOUBLE>>", Ok("s STRUCT<x: BIGINT, y: ARRAY<DOUBLE>>")),
            ("s ARRAY<STRUCT<x: BIGINT>>", "s ARRAY<STRUCT<x: DOUBLE>>", Ok("s ARRAY<STRUCT<x: DOUBLE>>")),
            ("m MAP<STRING, BIGINT>", "m MAP<STRING, DOUBLE>", Ok("m MAP<STRING, DOUBLE>")),
            ("a BIGINT, A STRING", "A STRING", Ok("a BIGINT, A STRING")),
            ("a BIGINT", "a STRING", Err("field a is INT64 in the schema and STRING in the other")),
            ("a INT", "a BIGINT", Err("field a is INTEGER in the schema and INT64 in the other")),
            (
                "s STRUCT<x: ARRAY<BIGINT>>",
                "s STRUCT<x: ARRAY<BOOLEAN>>",
                Err("field s.x is INT64 in the schema and BOOLEAN in the other"),
            ),
        ] {
            let merged = merge(&schema(left), &schema(right)).map_err(|conflict| conflict.to_string());
            assert_eq!(merged, expected.map(schema).map_err(str::to_owned), "{left} + {right}");
        }
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent_up_to_order(
            a in inferred_schema(), b in inferred_schema(), c in inferred_schema()
        ) {
            prop_assert_eq!(merge(&a, &a), Ok(a.clone()));
            let (ab, ba) = (merge(&a, &b), merge(&b, &a));
            prop_assert_eq!(ab.as_ref().map(sorted).ok(), ba.as_ref().map(sorted).ok());
            let left = ab.ok().and_then(|ab| merge(&ab, &c).ok());
            let right = merge(&b, &c).ok().and_then(|bc| merge(&a, &bc).ok());
            prop_assert_eq!(left.as_ref().map(sorted), right.as_ref().map(sorted));
            if let Some(all) = left {
                prop_assert_eq!(merge(&all, &b), Ok(all.clone()), "a merged schema holds its parts");
                prop_assert_eq!(&all.fields()[..a.fields().len()].iter().map(|field| field.name()).collect::<Vec<_>>(),
                    &a.fields().iter().map(|field| field.name()).collect::<Vec<_>>(), "the order of the left stays");
            }
        }
    }
}
