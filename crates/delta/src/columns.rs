//! The columns of a table beside those of rows that go into it. Pure.

use std::sync::Arc;

use arrow::datatypes::{DataType, Fields, Schema, SchemaRef, TimeUnit};
use schema::TableSchema;
use serde_json::{Value, json};

/// Characters that Parquet columns of a table without column mapping must not have, by the rules of Spark.
const NOT_IN_NAMES: &[char] = &[' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

/// What rows ask of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fit {
    /// It has all their columns.
    Fits,
    /// It has them when it gets this schema: the same columns, some perhaps of wider types, and new ones that may be null
    /// behind them.
    Grows(Value),
}

/// How a table may change for rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Growth {
    /// Whether it gets columns that it lacks.
    pub(crate) new_columns: bool,
    /// Whether its columns get wider types, which takes the table feature `typeWidening` beside what `new_columns` takes.
    pub(crate) wider_types: bool,
}

impl Growth {
    /// A table without files gets what it needs.
    pub(crate) const NEW_TABLE: Growth = Growth { new_columns: true, wider_types: false };
}

/// The StructType of a table made for rows with `schema`, whose times are those of tables ([`writer::table_schema`]): every
/// column may be null. The error names the column that a table cannot have.
pub(crate) fn struct_type(schema: &Schema) -> Result<Value, String> {
    check_fields(schema.fields(), "")?;
    let fields = TableSchema::new(schema.fields()).map_err(|error| error.to_string())?;
    let mut json = serde_json::from_str(&fields.to_json()).map_err(|error| error.to_string())?;
    make_nullable(&mut json);
    Ok(json)
}

fn check_fields(fields: &Fields, path: &str) -> Result<(), String> {
    for (number, field) in fields.iter().enumerate() {
        let name = field.name();
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if name.is_empty() || name.contains(NOT_IN_NAMES) {
            return Err(format!(
                "column {path:?}: names of columns must not be empty or hold one of \" ,;{{}}()=\" or breaks"
            ));
        }
        if let Some(other) = fields[..number].iter().find(|other| is_same_name(other.name(), name)) {
            return Err(format!(
                "columns {} and {path} differ in case only, which tables do not tell apart",
                other.name()
            ));
        }
        check_type(field.data_type(), &path)?;
    }
    Ok(())
}

fn check_type(data_type: &DataType, path: &str) -> Result<(), String> {
    match data_type {
        DataType::Struct(fields) if fields.is_empty() => Err(format!("column {path} is a struct without fields")),
        DataType::Struct(fields) => check_fields(fields, path),
        DataType::List(element) => check_type(element.data_type(), path),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => fields.iter().try_for_each(|field| check_type(field.data_type(), path)),
            other => check_type(other, path),
        },
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
        | DataType::Decimal128(_, _)
        | DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(()),
        other => Err(format!("column {path}: tables have no type for {other}")),
    }
}

/// Delta does not tell names apart that differ in case only.
fn is_same_name(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

fn make_nullable(data_type: &mut Value) {
    for nullable in ["nullable", "containsNull", "valueContainsNull"] {
        if let Some(nullable) = data_type.get_mut(nullable) {
            *nullable = json!(true);
        }
    }
    for nested in ["type", "elementType", "keyType", "valueType"] {
        if let Some(nested) = data_type.get_mut(nested) {
            make_nullable(nested);
        }
    }
    for field in data_type.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
        make_nullable(field);
    }
}

/// How rows that are still to be encoded, or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// Rows that are not encoded: columns of narrower types become the table's.
    Rows,
    /// A file: its types are what they are.
    File,
}

/// How rows with `schema` go into a table with the columns `table`, which become wider if `widens`. The error names the column
/// that is in the way.
pub(crate) fn fit(table: &Value, schema: &Schema, of: Of, widens: bool) -> Result<Fit, String> {
    check_fields(schema.fields(), "")?;
    let rows = TableSchema::new(schema.fields()).map_err(|error| error.to_string())?;
    let rows: Value = serde_json::from_str(&rows.to_json()).map_err(|error| error.to_string())?;
    let mut grown = table.clone();
    let changes = grow(&mut grown, &rows, (of, widens), "")?;
    Ok(if changes.any { Fit::Grows(grown) } else { Fit::Fits })
}

/// The columns of the table when rows with `schema` are in it, `None` when it has them all; the error says why they cannot be.
pub(crate) fn grown(table: &Value, schema: &Schema, of: Of, growth: Growth) -> Result<Option<Value>, String> {
    match fit(table, schema, of, growth.wider_types && growth.new_columns)? {
        Fit::Fits => Ok(None),
        Fit::Grows(grown) if growth.new_columns => Ok(Some(grown)),
        Fit::Grows(_) => {
            Err("the records have columns that the table lacks; set mergeSchema to true to add them".to_owned())
        }
    }
}

/// The columns of a StructType that records can have; those of other types are left out.
pub(crate) fn columns(table: &Value) -> TableSchema {
    let fields = table.get("fields").and_then(Value::as_array).into_iter().flatten();
    let known = fields.filter_map(|field| {
        let one = json!({"type": "struct", "fields": [field]});
        TableSchema::from_json(&one.to_string()).ok()?.fields().first().cloned()
    });
    TableSchema::new(&known.collect()).unwrap_or_else(|_| TableSchema::empty())
}

/// The columns of a table that any of `schemas`, which fit it, has: what a file of rows with all of them is made of.
pub(crate) fn columns_for(table: &Value, schemas: &[SchemaRef]) -> SchemaRef {
    let has = |name: &str| schemas.iter().any(|schema| schema.column_with_name(name).is_some());
    let fields: Fields = columns(table).fields().iter().filter(|field| has(field.name())).cloned().collect();
    Arc::new(Schema::new(fields))
}

/// Whether every value of the type `rows` is one of `table`, too: both names of the protocol.
fn is_wider(table: &str, rows: &str) -> bool {
    const WHOLE: [(&str, i32); 4] = [("byte", 3), ("short", 5), ("integer", 10), ("long", 19)];
    let place = |name: &str| WHOLE.iter().position(|(known, _)| *known == name);
    match (place(rows), place(table), decimal(rows), decimal(table)) {
        (Some(rows), Some(table), _, _) => rows < table,
        // A double has all digits of an integer.
        (Some(rows), None, _, None) => rows < 3 && table == "double",
        (Some(rows), None, _, Some((precision, scale))) => precision - scale >= WHOLE[rows].1,
        (None, _, Some((digits, places)), Some((precision, scale))) => {
            scale >= places && precision - scale >= digits - places
        }
        (None, _, _, _) => (rows, table) == ("float", "double"),
    }
}

/// Whether two names are of one type: others may write spaces in those of decimals.
fn is_same(one: &Value, other: &Value) -> bool {
    let decimal_of = |data_type: &Value| data_type.as_str().and_then(decimal);
    one == other || decimal_of(one).is_some_and(|one| decimal_of(other) == Some(one))
}

/// Precision and scale of `decimal(p,s)`.
fn decimal(name: &str) -> Option<(i32, i32)> {
    let (precision, scale) = name.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
    Some((precision.trim().parse().ok()?, scale.trim().parse().ok()?))
}

/// Whether a column of the type `table` may become one of the type `rows` by itself in a table with type widening, by the rules
/// of Delta: integers do not become decimals or doubles unless somebody asks for it. Dates could become timestamps without a
/// zone, but values in paths would have two forms then.
fn may_become(table: &str, rows: &str) -> bool {
    let is_whole = |name: &str| ["byte", "short", "integer", "long"].contains(&name);
    is_whole(table) == is_whole(rows) && is_wider(rows, table)
}

/// What growing came to.
#[derive(Debug, Default)]
struct Changes {
    /// Whether anything changed.
    any: bool,
    /// Types that changed below the nearest field of a struct.
    types: Vec<TypeChange>,
}

#[derive(Debug)]
struct TypeChange {
    from: String,
    to: String,
    /// The way to it through lists and maps: `element`, `key`, `value`.
    path: Vec<&'static str>,
}

impl Changes {
    fn and(mut self, other: Changes) -> Changes {
        self.any |= other.any;
        self.types.extend(other.types);
        self
    }

    fn below(mut self, step: &'static str) -> Changes {
        self.types.iter_mut().for_each(|change| change.path.insert(0, step));
        self
    }

    /// Notes the changed types on the field of a struct that has them, as the protocol asks; whether anything changed.
    fn note_on(self, field: &mut Value) -> bool {
        for TypeChange { from, to, path } in self.types {
            let mut change = json!({"fromType": from, "toType": to});
            if !path.is_empty() {
                change["fieldPath"] = json!(path.join("."));
            }
            let changes = &mut field["metadata"]["delta.typeChanges"];
            match changes.as_array_mut() {
                Some(changes) => changes.push(change),
                None => *changes = json!([change]),
            }
        }
        self.any
    }
}

/// Brings the columns of `rows` into `table`.
fn grow(table: &mut Value, rows: &Value, rules: (Of, bool), path: &str) -> Result<Changes, String> {
    let kind = |data_type: &Value| data_type.get("type").and_then(Value::as_str).map(str::to_owned);
    match (kind(table).as_deref(), kind(rows).as_deref()) {
        (Some("struct"), Some("struct")) => grow_struct(table, rows, rules, path),
        (Some("array"), Some("array")) => {
            check_null(table, rows, "containsNull", path)?;
            Ok(grow_part(table, rows, "elementType", rules, path)?.below("element"))
        }
        (Some("map"), Some("map")) => {
            check_null(table, rows, "valueContainsNull", path)?;
            let keys = grow_part(table, rows, "keyType", rules, path)?.below("key");
            Ok(keys.and(grow_part(table, rows, "valueType", rules, path)?.below("value")))
        }
        (None, None) if is_same(table, rows) => Ok(Changes::default()),
        (None, None) if rules.0 == Of::Rows && is_wider(&name_of(table), &name_of(rows)) => Ok(Changes::default()),
        (None, None) if rules.1 && may_become(&name_of(table), &name_of(rows)) => {
            let change = TypeChange { from: name_of(table), to: name_of(rows), path: Vec::new() };
            *table = rows.clone();
            Ok(Changes { any: true, types: vec![change] })
        }
        (_, _) => Err(format!("column {path} is {} in the records and {} in the table", name_of(rows), name_of(table))),
    }
}

fn name_of(data_type: &Value) -> String {
    data_type.as_str().or_else(|| data_type.get("type").and_then(Value::as_str)).unwrap_or("of no type").to_owned()
}

fn grow_part(table: &mut Value, rows: &Value, part: &str, rules: (Of, bool), path: &str) -> Result<Changes, String> {
    match (table.get_mut(part), rows.get(part)) {
        (Some(table), Some(rows)) => grow(table, rows, rules, path),
        (_, _) => Err(format!("column {path} has no {part}")),
    }
}

fn check_null(table: &Value, rows: &Value, nullable: &str, path: &str) -> Result<(), String> {
    if table.get(nullable) == Some(&json!(false)) && rows.get(nullable) == Some(&json!(true)) {
        return Err(format!("column {path} may be null in the records and must not be in the table"));
    }
    Ok(())
}

fn grow_struct(table: &mut Value, rows: &Value, rules: (Of, bool), path: &str) -> Result<Changes, String> {
    let fields = |data_type: &Value| data_type.get("fields").and_then(Value::as_array).cloned().unwrap_or_default();
    let name = |field: &Value| field.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let (mut known, incoming) = (fields(table), fields(rows));
    let mut grows = false;
    for field in &known {
        let is_missing = !incoming.iter().any(|one| name(one) == name(field));
        if is_missing && field.get("nullable") == Some(&json!(false)) {
            return Err(format!(
                "column {} of the table must not be null and is not in the records",
                below(&name(field))
            ));
        }
    }
    for field in &incoming {
        let path = below(&name(field));
        match known.iter_mut().find(|one| is_same_name(&name(one), &name(field))) {
            Some(one) if name(one) != name(field) => {
                return Err(format!("column {path} differs from {} of the table in case only", name(one)));
            }
            Some(one) => {
                check_null(one, field, "nullable", &path)?;
                grows |= grow_part(one, field, "type", rules, &path)?.note_on(one);
            }
            None => {
                let mut field = field.clone();
                make_nullable(&mut field);
                known.push(field);
                grows = true;
            }
        }
    }
    table["fields"] = Value::Array(known);
    Ok(Changes { any: grows, types: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Field;

    fn schema(fields: Vec<Field>) -> Schema {
        Schema::new(fields)
    }

    fn nested(fields: Vec<Field>) -> DataType {
        DataType::Struct(fields.into())
    }

    fn list(element: DataType) -> DataType {
        DataType::List(Arc::new(Field::new("element", element, true)))
    }

    #[test]
    fn a_table_is_made_with_columns_that_may_be_null() {
        let made = struct_type(&schema(vec![
            Field::new("a", DataType::Int64, false),
            Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
            Field::new("l", list(nested(vec![Field::new("x", DataType::Utf8, false)])), false),
        ]))
        .unwrap();
        assert!(!made.to_string().contains("false"), "{made}");
        let types: Vec<&Value> = made["fields"].as_array().unwrap().iter().map(|field| &field["type"]).collect();
        assert_eq!((types[0], types[1]), (&json!("long"), &json!("timestamp")));
    }

    #[test]
    fn columns_that_tables_cannot_have_are_named() {
        for (field, expected) in [
            (Field::new("a b", DataType::Int64, true), "column \"a b\": names of columns must"),
            (Field::new("u", DataType::UInt32, true), "column u: tables have no type for UInt32"),
            (Field::new("s", nested(vec![]), true), "column s is a struct without fields"),
            (Field::new("A", DataType::Int8, true), "columns a and A differ in case only"),
        ] {
            let error = struct_type(&schema(vec![Field::new("a", DataType::Int8, true), field])).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn rows_fit_by_name_and_new_columns_come_behind_at_every_level() {
        let old = schema(vec![
            Field::new("b", DataType::Int64, true),
            Field::new("s", nested(vec![Field::new("x", DataType::Utf8, true)]), true),
            Field::new("l", list(nested(vec![Field::new("y", DataType::Utf8, true)])), true),
        ]);
        let mut table = struct_type(&old).unwrap();
        table["fields"][0]["metadata"] = json!({"comment": "kept"});
        assert_eq!(
            fit(&table, &schema(vec![Field::new("b", DataType::Int64, false)]), Of::File, false),
            Ok(Fit::Fits),
            "fewer, never null"
        );
        let both = |name: &str| nested(vec![Field::new(name, DataType::Int32, false)]);
        let rows = schema(vec![
            Field::new("l", list(both("z")), true),
            Field::new("new", DataType::Boolean, false),
            Field::new("s", both("w"), true),
        ]);
        let Ok(Fit::Grows(grown)) = fit(&table, &rows, Of::File, false) else { panic!("it grows") };
        let text = grown.to_string();
        assert!(text.contains(r#""metadata":{"comment":"kept"}"#), "{text}");
        let names: Vec<&Value> = grown["fields"].as_array().unwrap().iter().map(|field| &field["name"]).collect();
        assert_eq!(names, ["b", "s", "l", "new"]);
        assert_eq!(
            grown["fields"][1]["type"]["fields"][1],
            json!({"name": "w", "type": "integer", "nullable": true, "metadata": {}})
        );
        assert_eq!(grown["fields"][2]["type"]["elementType"]["fields"][1]["name"], "z");
        assert_eq!(fit(&grown, &rows, Of::File, false), Ok(Fit::Fits), "and then they fit");
    }

    #[test]
    fn columns_that_records_can_have_are_those_of_the_table() {
        let field =
            |name: &str, kind: Value| json!({"name": name, "type": kind, "nullable": true, "metadata": {"c": 1}});
        let fields = [
            field("a", json!("integer")),
            field("v", json!("variant")),
            field("d", json!("decimal(9,2)")),
            field("t", json!("timestamp_ntz")),
        ];
        let table = json!({"type": "struct", "fields": fields});
        let found = columns(&table);
        let names: Vec<&str> = found.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["a", "d", "t"]);
        assert_eq!(fit(&table, found.arrow(), Of::File, false), Ok(Fit::Fits));
        assert_eq!(columns(&Value::Null), TableSchema::empty());
    }

    #[test]
    fn a_type_is_wider_when_it_has_every_value_of_the_other() {
        for (table, rows, expected) in [
            ("long", "byte", true),
            ("short", "integer", false),
            ("integer", "integer", false),
            ("double", "integer", true),
            ("double", "long", false),
            ("float", "short", false),
            ("double", "float", true),
            ("decimal(10,0)", "integer", true),
            ("decimal(10,1)", "integer", false),
            ("decimal(20,0)", "long", true),
            ("decimal(18,0)", "long", false),
            ("decimal(12,2)", "decimal(10,1)", true),
            ("decimal(12,2)", "decimal(12,1)", false),
            ("decimal(12,2)", "decimal(10,3)", false),
            ("decimal(38,0)", "double", false),
            ("string", "integer", false),
            ("timestamp", "date", false),
        ] {
            assert_eq!(is_wider(table, rows), expected, "{rows} in {table}");
        }
        let table = struct_type(&schema(vec![Field::new("a", DataType::Int64, true)])).unwrap();
        let rows = schema(vec![Field::new("a", DataType::Int16, true)]);
        assert_eq!(fit(&table, &rows, Of::Rows, false), Ok(Fit::Fits));
        let spaced = json!({"type": "struct", "fields": [
            {"name": "a", "type": "decimal(10, 2)", "nullable": true, "metadata": {}}]});
        let decimals = schema(vec![Field::new("a", DataType::Decimal128(10, 2), true)]);
        assert_eq!(fit(&spaced, &decimals, Of::File, false), Ok(Fit::Fits));
        assert!(fit(&table, &rows, Of::File, false).is_err(), "a file has the type that it has");
    }

    #[test]
    fn types_get_wider_where_the_table_lets_them_and_the_table_tells_its_readers() {
        let old = schema(vec![
            Field::new("i", DataType::Int16, true),
            Field::new("f", DataType::Float32, true),
            Field::new("d", DataType::Decimal128(8, 2), true),
            Field::new("l", list(nested(vec![Field::new("x", DataType::Int8, true)])), true),
            Field::new("k", list(list(DataType::Int32)), true),
        ]);
        let table = struct_type(&old).unwrap();
        let new = schema(vec![
            Field::new("i", DataType::Int64, true),
            Field::new("f", DataType::Float64, true),
            Field::new("d", DataType::Decimal128(12, 4), true),
            Field::new("l", list(nested(vec![Field::new("x", DataType::Int32, true)])), true),
            Field::new("k", list(list(DataType::Int64)), true),
            Field::new("more", DataType::Utf8, true),
        ]);
        let all = Growth { new_columns: true, wider_types: true };
        let grown_by = |rows: &Schema, growth| grown(&table, rows, Of::Rows, growth);
        let wide = grown_by(&new, all).unwrap().unwrap();
        let field = |at: usize| &wide["fields"][at];
        let change = |from: &str, to: &str| json!([{"fromType": from, "toType": to}]);
        assert_eq!(
            (&field(0)["type"], &field(0)["metadata"]["delta.typeChanges"]),
            (&json!("long"), &change("short", "long"))
        );
        assert_eq!(field(1)["metadata"]["delta.typeChanges"], change("float", "double"));
        assert_eq!(field(2)["metadata"]["delta.typeChanges"], change("decimal(8,2)", "decimal(12,4)"));
        let inner = &field(3)["type"]["elementType"]["fields"][0];
        assert_eq!(
            (&inner["type"], &inner["metadata"]["delta.typeChanges"]),
            (&json!("integer"), &change("byte", "integer"))
        );
        assert_eq!(field(3)["metadata"], json!({}), "the nearest field of a struct has it");
        assert_eq!(
            field(4)["metadata"]["delta.typeChanges"],
            json!([{"fromType": "integer", "toType": "long", "fieldPath": "element.element"}])
        );
        assert_eq!(field(5)["name"], "more");
        assert_eq!(grown(&wide, &old, Of::Rows, all), Ok(None), "rows of the old types fit");
        let again = schema(vec![Field::new("f", DataType::Float64, true), Field::new("i", DataType::Int64, true)]);
        assert_eq!(grown(&wide, &again, Of::File, all), Ok(None));
        for growth in [Growth { wider_types: false, ..all }, Growth { new_columns: false, ..all }] {
            let error = grown_by(&schema(vec![Field::new("i", DataType::Int64, true)]), growth).unwrap_err();
            assert_eq!(error, "column i is long in the records and short in the table");
        }
        for (name, other) in [
            ("i", DataType::Float64),
            ("i", DataType::Decimal128(20, 0)),
            ("f", DataType::Int64),
            ("d", DataType::Decimal128(8, 4)),
        ] {
            assert!(grown_by(&schema(vec![Field::new(name, other, true)]), all).is_err(), "{name} by itself");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let mut table = struct_type(&schema(vec![Field::new("a", DataType::Int64, true)])).unwrap();
        let error = |table: &Value, field: Field| fit(table, &schema(vec![field]), Of::File, false).unwrap_err();
        assert_eq!(
            error(&table, Field::new("a", DataType::Utf8, true)),
            "column a is string in the records and long in the table"
        );
        assert_eq!(
            error(&table, Field::new("A", DataType::Int64, true)),
            "column A differs from a of the table in case only"
        );
        table["fields"][0]["nullable"] = json!(false);
        assert_eq!(
            error(&table, Field::new("a", DataType::Int64, true)),
            "column a may be null in the records and must not be in the table"
        );
        assert_eq!(
            error(&table, Field::new("b", DataType::Int64, true)),
            "column a of the table must not be null and is not in the records"
        );
    }
}
