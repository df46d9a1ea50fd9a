//! The schema of a table: Arrow fields in a normal form, with a stable text and a fingerprint.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use model::{ConnectMarks, Fingerprint, is_whole_value_field, whole_value_field};

use crate::spark_json;

/// Levels of nesting that a schema or a record may have. The stored text of a schema nests three times as deep, and
/// serde_json reads 128 levels.
pub const DEPTH_MAX: usize = 32;

/// Fields, at all levels together, that inference lets a schema have: an object used as a map with a key per user would
/// otherwise become a table with a column per user.
pub const FIELDS_MAX: usize = 10_000;

/// Name of a list's element field, as the Parquet specification has it.
const ELEMENT: &str = "element";

/// An Arrow schema in a normal form: no metadata, list elements called `element`, map entries `key_value`, at most
/// [`DEPTH_MAX`] levels, only types that have a text form, no name twice in a struct. Two field names that differ only in
/// case are two fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    schema: SchemaRef,
}

/// A schema that cannot be used; the sentence names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SchemaError(pub String);

impl TableSchema {
    /// The schema with these fields, brought into the normal form; an error names the field that cannot be.
    pub fn new(fields: &Fields) -> Result<Self, SchemaError> {
        check_fields(fields, "", 1)?;
        Ok(Self { schema: Arc::new(Schema::new(fields_in(fields, Marks::Dropped))) })
    }

    /// The schema without any field.
    pub fn empty() -> Self {
        Self { schema: Arc::new(Schema::empty()) }
    }

    /// The Arrow schema.
    pub fn arrow(&self) -> &SchemaRef {
        &self.schema
    }

    /// Its fields.
    pub fn fields(&self) -> &Fields {
        &self.schema.fields
    }

    /// The text form: Spark's StructType JSON, without white space. Equal schemas have equal texts.
    ///
    /// Beyond Spark, `timestamp(3)` and `timestamp_ntz(3)` are timestamps of milliseconds (Spark's are microseconds) and
    /// `time(3)` is a time of day in milliseconds.
    pub fn to_json(&self) -> String {
        spark_json::write(self.fields()).to_string()
    }

    /// Reads the text form, and any StructType JSON that Spark writes. Metadata is not kept.
    pub fn from_json(text: &str) -> Result<Self, SchemaError> {
        let json: serde_json::Value = serde_json::from_str(text).map_err(|error| SchemaError(error.to_string()))?;
        Self::new(&spark_json::read(&json)?)
    }

    /// The digest of the text form.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of([self.to_json().as_bytes()])
    }

    /// The same fields, each of which may be null, at all levels.
    pub fn with_nullable_fields(&self) -> TableSchema {
        fn nullable(field: &FieldRef) -> FieldRef {
            let data_type = match field.data_type() {
                DataType::Struct(fields) => DataType::Struct(fields.iter().map(nullable).collect()),
                DataType::List(element) => DataType::List(nullable(element)),
                DataType::Map(entries, _) => {
                    let (key, value) = map_fields(entries);
                    map_type(key.as_ref().clone(), nullable(value).as_ref().clone())
                }
                other => other.clone(),
            };
            Arc::new(field.as_ref().clone().with_data_type(data_type).with_nullable(true))
        }
        TableSchema { schema: Arc::new(Schema::new(self.fields().iter().map(nullable).collect::<Fields>())) }
    }

    /// This schema where `kept` says nothing else: the fields of `kept` with their types, at every level, then the others. Of
    /// names that differ in case only, which a table does not tell apart, the first one stays.
    pub fn under(&self, kept: &TableSchema) -> TableSchema {
        fn both(kept: &Fields, other: &Fields) -> Fields {
            let find = |fields: &Fields, name: &str| fields.iter().find(|field| field.name() == name).cloned();
            let first = kept.iter().map(|field| match find(other, field.name()) {
                Some(other) => {
                    let data_type = both_types(field.data_type(), other.data_type());
                    Arc::new(field.as_ref().clone().with_data_type(data_type))
                }
                None => field.clone(),
            });
            let mut fields: Vec<FieldRef> = first.collect();
            for field in other.iter().filter(|field| find(kept, field.name()).is_none()) {
                let name = field.name().to_lowercase();
                if !fields.iter().any(|known| known.name().to_lowercase() == name) {
                    fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
                }
            }
            fields.into()
        }
        fn both_types(kept: &DataType, other: &DataType) -> DataType {
            match (kept, other) {
                (DataType::Struct(kept), DataType::Struct(other)) => DataType::Struct(both(kept, other)),
                (DataType::List(kept), DataType::List(other)) => {
                    DataType::List(element_field(both_types(kept.data_type(), other.data_type()), kept.is_nullable()))
                }
                (kept, _) => kept.clone(),
            }
        }
        TableSchema { schema: Arc::new(Schema::new(both(kept.fields(), self.fields()))) }
    }

    /// Number of fields at all levels.
    pub(crate) fn fields_count(&self) -> usize {
        self.fields().iter().map(|field| count(field.data_type())).sum()
    }
}

/// The element field of a list, under its normal name.
pub(crate) fn element_field(data_type: DataType, nullable: bool) -> FieldRef {
    Arc::new(Field::new(ELEMENT, data_type, nullable))
}

/// A map type under its normal names; keys are never null.
pub(crate) fn map_type(key: Field, value: Field) -> DataType {
    let entries = Fields::from(vec![key.with_name("key").with_nullable(false), value.with_name("value")]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
}

/// Key and value field of a map's entries.
pub(crate) fn map_fields(entries: &Field) -> (&FieldRef, &FieldRef) {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => (&fields[0], &fields[1]),
        other => unreachable!("map entries are a struct of key and value, not {other}"),
    }
}

/// Whether the normal form of a field has the marks of its Connect schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marks {
    Kept,
    Dropped,
}

/// The normal form of fields, for columns: with the marks of their Connect schemas.
pub(crate) fn normal_fields(fields: &Fields) -> Fields {
    fields_in(fields, Marks::Kept)
}

/// The normal form of a field, with the marks of its Connect schema.
pub(crate) fn normal_field(field: &Field) -> Field {
    field_in(field, Marks::Kept)
}

fn fields_in(fields: &Fields, marks: Marks) -> Fields {
    fields.iter().map(|field| Arc::new(field_in(field, marks))).collect()
}

fn field_in(field: &Field, marks: Marks) -> Field {
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields_in(fields, marks)),
        DataType::List(element) => DataType::List(Arc::new(field_in(element, marks).with_name(ELEMENT))),
        DataType::Map(entries, _) => {
            let (key, value) = map_fields(entries);
            map_type(field_in(key, marks), field_in(value, marks))
        }
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some("UTC".into())),
        other => other.clone(),
    };
    let whole = is_whole_value_field(field);
    let normal = if whole { whole_value_field(data_type) } else { Field::new(field.name(), data_type, true) };
    let normal = normal.with_nullable(field.is_nullable());
    match marks {
        Marks::Kept if !field.metadata().is_empty() => ConnectMarks::of(field).mark(normal),
        Marks::Kept | Marks::Dropped => normal,
    }
}

fn check_fields(fields: &Fields, path: &str, depth: usize) -> Result<(), SchemaError> {
    let mut names = std::collections::HashSet::new();
    for field in fields {
        let path = if path.is_empty() { field.name().clone() } else { format!("{path}.{}", field.name()) };
        if !names.insert(field.name()) {
            return Err(SchemaError(format!("field {path} is there twice")));
        }
        check_type(field.data_type(), &path, depth)?;
    }
    Ok(())
}

fn check_type(data_type: &DataType, path: &str, depth: usize) -> Result<(), SchemaError> {
    if depth > DEPTH_MAX {
        return Err(SchemaError(format!("field {path} is nested deeper than {DEPTH_MAX} levels")));
    }
    match data_type {
        DataType::Struct(fields) => check_fields(fields, path, depth + 1),
        DataType::List(element) => check_type(element.data_type(), path, depth + 1),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                fields.iter().try_for_each(|field| check_type(field.data_type(), path, depth + 1))
            }
            other => Err(SchemaError(format!("field {path} is a map whose entries are {other}"))),
        },
        DataType::Decimal128(precision, scale) => check_decimal(path, *precision, *scale, 38),
        DataType::Decimal256(precision, scale) => check_decimal(path, *precision, *scale, 76),
        scalar => match spark_json::scalar_name(scalar) {
            Some(_) => Ok(()),
            None => Err(SchemaError(format!("field {path} has type {scalar}, which is not supported"))),
        },
    }
}

fn check_decimal(path: &str, precision: u8, scale: i8, precision_max: u8) -> Result<(), SchemaError> {
    if (1..=precision_max).contains(&precision) && scale >= 0 && scale.unsigned_abs() <= precision {
        return Ok(());
    }
    Err(SchemaError(format!(
        "field {path} is DECIMAL({precision},{scale}): the precision must be 1 to 76, the scale 0 to the precision"
    )))
}

fn count(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => 1 + fields.iter().map(|field| count(field.data_type())).sum::<usize>(),
        DataType::List(element) => 1 + count(element.data_type()),
        DataType::Map(entries, _) => 1 + count(entries.data_type()),
        _ => 1,
    }
}

/// The narrowest decimal type for a precision of 1 to 76 and a scale of 0 up to it.
pub(crate) fn decimal_type(precision: u64, scale: i64) -> Result<DataType, SchemaError> {
    let wrong = || {
        SchemaError(format!(
            "DECIMAL({precision},{scale}): the precision must be 1 to 76, the scale 0 to the precision"
        ))
    };
    let (precision, scale) = (u8::try_from(precision).map_err(|_| wrong())?, i8::try_from(scale).map_err(|_| wrong())?);
    if !(1..=76).contains(&precision) || scale < 0 || scale.unsigned_abs() > precision {
        return Err(wrong());
    }
    Ok(if precision <= 38 { DataType::Decimal128(precision, scale) } else { DataType::Decimal256(precision, scale) })
}

/// The short name of a type for an error text, as the DDL of Spark spells it.
pub(crate) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::Int64 => "INT64".to_owned(),
        DataType::Struct(_) => "STRUCT".to_owned(),
        DataType::List(element) => format!("ARRAY<{}>", type_name(element.data_type())),
        DataType::Map(entries, _) => {
            let (key, value) = map_fields(entries);
            format!("MAP<{},{}>", type_name(key.data_type()), type_name(value.data_type()))
        }
        scalar => match spark_json::scalar_name(scalar) {
            Some(name) => name.to_uppercase(),
            None => scalar.to_string(),
        },
    }
}

/// Timestamps as this crate has them: since the epoch in UTC, or local without a zone.
pub(crate) fn timestamp(unit: TimeUnit, utc: bool) -> DataType {
    DataType::Timestamp(unit, utc.then(|| "UTC".into()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use expect_test::expect;
    use proptest::prelude::*;

    fn scalar_types() -> impl Strategy<Value = DataType> {
        prop_oneof![
            Just(DataType::Boolean),
            Just(DataType::Int8),
            Just(DataType::Int16),
            Just(DataType::Int32),
            Just(DataType::Int64),
            Just(DataType::Float32),
            Just(DataType::Float64),
            Just(DataType::Utf8),
            Just(DataType::Binary),
            Just(DataType::Date32),
            Just(DataType::Time32(TimeUnit::Millisecond)),
            Just(timestamp(TimeUnit::Millisecond, true)),
            Just(timestamp(TimeUnit::Microsecond, true)),
            Just(timestamp(TimeUnit::Millisecond, false)),
            Just(timestamp(TimeUnit::Microsecond, false)),
            (1u64..=76).prop_flat_map(
                |precision| (0..=precision as i64).prop_map(move |scale| decimal_type(precision, scale).unwrap())
            ),
        ]
    }

    pub(crate) fn fields(types: impl Strategy<Value = DataType>) -> impl Strategy<Value = Fields> {
        proptest::collection::vec((types, any::<bool>()), 0..4).prop_map(|columns| {
            let field = |(index, (data_type, nullable))| Field::new(format!("f{index}"), data_type, nullable);
            columns.into_iter().enumerate().map(field).collect()
        })
    }

    pub(crate) fn any_fields() -> impl Strategy<Value = Fields> {
        let types = scalar_types().prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                (inner.clone(), any::<bool>())
                    .prop_map(|(element, nullable)| DataType::List(element_field(element, nullable))),
                (inner.clone(), any::<bool>()).prop_map(|(value, nullable)| map_type(
                    Field::new("", DataType::Utf8, false),
                    Field::new("", value, nullable)
                )),
                fields(inner).prop_map(DataType::Struct),
            ]
        });
        fields(types)
    }

    #[test]
    fn the_text_is_sparks_and_its_fingerprint_is_stable() {
        let inputs = Fields::from(vec![
            Field::new("age", DataType::Int64, true),
            Field::new("tags", DataType::List(element_field(DataType::Utf8, true)), false),
        ]);
        let schema = TableSchema::new(&Fields::from(vec![
            Field::new("id", DataType::Utf8, false),
            Field::new("inputs", DataType::Struct(inputs), true),
            Field::new("at", timestamp(TimeUnit::Millisecond, true), true),
        ]))
        .unwrap();
        expect![[r#"{"type":"struct","fields":[{"name":"id","type":"string","nullable":false,"metadata":{}},{"name":"inputs","type":{"type":"struct","fields":[{"name":"age","type":"long","nullable":true,"metadata":{}},{"name":"tags","type":{"type":"array","elementType":"string","containsNull":true},"nullable":false,"metadata":{}}]},"nullable":true,"metadata":{}},{"name":"at","type":"timestamp(3)","nullable":true,"metadata":{}}]}"#]]
            .assert_eq(&schema.to_json());
        expect!["b1630bd3ce6b6073"].assert_eq(&schema.fingerprint().to_string());
    }

    #[test]
    fn schemas_that_cannot_be_are_refused_with_the_field() {
        let deep = (0..DEPTH_MAX).fold(DataType::Int64, |inner, _| DataType::List(element_field(inner, true)));
        for (data_type, expected) in [
            (DataType::LargeUtf8, "field a has type LargeUtf8, which is not supported"),
            (deep, "field a is nested deeper than 32 levels"),
            (
                DataType::Decimal128(38, 39),
                "field a is DECIMAL(38,39): the precision must be 1 to 76, the scale 0 to the precision",
            ),
        ] {
            let fields = Fields::from(vec![Field::new("a", data_type, true)]);
            assert_eq!(TableSchema::new(&fields).unwrap_err().to_string(), expected);
        }
        let twice = Fields::from(vec![Field::new("a", DataType::Int8, true), Field::new("a", DataType::Int8, true)]);
        assert_eq!(TableSchema::new(&twice).unwrap_err().to_string(), "field a is there twice");
    }

    #[test]
    fn the_columns_of_a_table_keep_their_types_and_places() {
        let parse = |ddl: &str| crate::given::parse(ddl).unwrap();
        let inferred =
            parse("n BIGINT, s STRUCT<x: BIGINT, z: STRING>, a DOUBLE, l ARRAY<STRUCT<p: BIGINT, q: BIGINT>>");
        let table = parse("a INT NOT NULL, s STRUCT<x: DECIMAL(9,2), y: DATE>, l ARRAY<STRUCT<p: SMALLINT>>, b STRING");
        let expected = "a INT NOT NULL, s STRUCT<x: DECIMAL(9,2), y: DATE, z: STRING>, \
                        l ARRAY<STRUCT<p: SMALLINT, q: BIGINT>>, b STRING, n BIGINT";
        assert_eq!(inferred.under(&table), parse(expected));
        let cases = parse("n BIGINT, s STRUCT<x: BIGINT>");
        assert_eq!((cases.under(&TableSchema::empty()), parse("n INT, N INT").under(&cases)), (cases.clone(), cases));
    }

    #[test]
    fn the_deepest_schema_can_be_stored_and_read() {
        let deep = (1..DEPTH_MAX)
            .fold(DataType::Int64, |inner, _| DataType::Struct(Fields::from(vec![Field::new("a", inner, true)])));
        let schema = TableSchema::new(&Fields::from(vec![Field::new("a", deep, true)])).unwrap();
        assert_eq!(TableSchema::from_json(&schema.to_json()), Ok(schema));
    }

    proptest! {
        #[test]
        fn every_schema_survives_its_text(fields in any_fields()) {
            let schema = TableSchema::new(&fields).unwrap();
            prop_assert_eq!(schema.fields(), &fields, "generated schemas are in the normal form");
            prop_assert_eq!(TableSchema::from_json(&schema.to_json()).unwrap(), schema);
        }
    }
}
