//! Spark's StructType JSON (`org.apache.spark.sql.types.DataType.json`): written for stored schemas, read for both.

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use serde_json::{Value, json};

use crate::SchemaError;
use crate::table_schema::{decimal_type, element_field, map_fields, map_type, timestamp};

/// The StructType of these fields, which are in the normal form.
pub(crate) fn write(fields: &Fields) -> Value {
    let fields: Vec<Value> = fields
        .iter()
        .map(|field| {
            json!({
                "name": field.name(),
                "type": write_type(field.data_type()),
                "nullable": field.is_nullable(),
                "metadata": {},
            })
        })
        .collect();
    json!({ "type": "struct", "fields": fields })
}

fn write_type(data_type: &DataType) -> Value {
    match data_type {
        DataType::Struct(fields) => write(fields),
        DataType::List(element) => json!({
            "type": "array",
            "elementType": write_type(element.data_type()),
            "containsNull": element.is_nullable(),
        }),
        DataType::Map(entries, _) => {
            let (key, value) = map_fields(entries);
            json!({
                "type": "map",
                "keyType": write_type(key.data_type()),
                "valueType": write_type(value.data_type()),
                "valueContainsNull": value.is_nullable(),
            })
        }
        scalar => Value::String(scalar_name(scalar).expect("TableSchema::new lets only named types in")),
    }
}

/// The fields of a StructType.
pub(crate) fn read(json: &Value) -> Result<Fields, SchemaError> {
    let fields = json.get("fields").and_then(Value::as_array);
    let fields = match (json.get("type").and_then(Value::as_str), fields) {
        (Some("struct"), Some(fields)) => fields,
        _ => {
            return Err(SchemaError("a StructType needs \"type\": \"struct\" and a list \"fields\"".to_owned()));
        }
    };
    fields
        .iter()
        .map(|field| {
            let name = field.get("name").and_then(Value::as_str);
            let name = name.ok_or_else(|| SchemaError(format!("a field has no \"name\": {field}")))?;
            let data_type =
                read_type(field.get("type")).map_err(|error| SchemaError(format!("field {name}: {error}")))?;
            Ok(Field::new(name, data_type, flag(field, "nullable")))
        })
        .collect()
}

fn read_type(json: Option<&Value>) -> Result<DataType, SchemaError> {
    let json = json.ok_or_else(|| SchemaError("a \"type\" is missing".to_owned()))?;
    if let Some(name) = json.as_str() {
        return scalar_type(name);
    }
    match json.get("type").and_then(Value::as_str) {
        Some("struct") => Ok(DataType::Struct(read(json)?)),
        Some("array") => {
            let element = read_type(json.get("elementType"))?;
            Ok(DataType::List(element_field(element, flag(json, "containsNull"))))
        }
        Some("map") => {
            let key = Field::new("key", read_type(json.get("keyType"))?, false);
            let value = Field::new("value", read_type(json.get("valueType"))?, flag(json, "valueContainsNull"));
            Ok(map_type(key, value))
        }
        Some("udt") => read_type(json.get("sqlType")),
        Some(_) | None => Err(SchemaError(format!("unknown type {json}"))),
    }
}

fn flag(json: &Value, name: &str) -> bool {
    json.get(name).and_then(Value::as_bool).unwrap_or(true)
}

/// The name of a type that is no struct, list or map; `None` if this crate does not have the type.
pub(crate) fn scalar_name(data_type: &DataType) -> Option<String> {
    let name = match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 => "byte",
        DataType::Int16 => "short",
        DataType::Int32 => "integer",
        DataType::Int64 => "long",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Utf8 => "string",
        DataType::Binary => "binary",
        DataType::Date32 => "date",
        DataType::Time32(TimeUnit::Millisecond) => "time(3)",
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp",
        DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp_ntz",
        DataType::Timestamp(TimeUnit::Millisecond, Some(_)) => "timestamp(3)",
        DataType::Timestamp(TimeUnit::Millisecond, None) => "timestamp_ntz(3)",
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            return Some(format!("decimal({precision},{scale})"));
        }
        _ => return None,
    };
    Some(name.to_owned())
}

fn scalar_type(name: &str) -> Result<DataType, SchemaError> {
    if let Some(arguments) = name.strip_prefix("decimal") {
        return decimal_arguments(arguments);
    }
    Ok(match name {
        "boolean" => DataType::Boolean,
        "byte" => DataType::Int8,
        "short" => DataType::Int16,
        "integer" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "string" => DataType::Utf8,
        "binary" => DataType::Binary,
        "date" => DataType::Date32,
        "time(3)" => DataType::Time32(TimeUnit::Millisecond),
        "timestamp" | "timestamp(6)" | "timestamp_ltz" => timestamp(TimeUnit::Microsecond, true),
        "timestamp_ntz" | "timestamp_ntz(6)" => timestamp(TimeUnit::Microsecond, false),
        "timestamp(3)" => timestamp(TimeUnit::Millisecond, true),
        "timestamp_ntz(3)" => timestamp(TimeUnit::Millisecond, false),
        text if text.starts_with("varchar(") || text.starts_with("char(") => DataType::Utf8,
        other => return Err(SchemaError(format!("unknown type \"{other}\""))),
    })
}

/// `(precision,scale)`, or nothing for Spark's `decimal`, which is `decimal(10,0)`.
fn decimal_arguments(arguments: &str) -> Result<DataType, SchemaError> {
    if arguments.is_empty() {
        return decimal_type(10, 0);
    }
    let numbers = arguments.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let (precision, scale) = numbers.and_then(|numbers| numbers.split_once(',')).unwrap_or_default();
    match (precision.trim().parse(), scale.trim().parse()) {
        (Ok(precision), Ok(scale)) => decimal_type(precision, scale),
        _ => Err(SchemaError(format!("unknown type \"decimal{arguments}\", expected decimal(precision,scale)"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_struct_type_is_refused_with_the_field() {
        for (text, expected) in [
            (r#"{"type":"array"}"#, "a StructType needs \"type\": \"struct\" and a list \"fields\""),
            (r#"{"type":"struct","fields":[{"type":"long"}]}"#, "a field has no \"name\": {\"type\":\"long\"}"),
            (r#"{"type":"struct","fields":[{"name":"a","type":"int"}]}"#, "field a: unknown type \"int\""),
            (r#"{"type":"struct","fields":[{"name":"a"}]}"#, "field a: a \"type\" is missing"),
            (
                r#"{"type":"struct","fields":[{"name":"a","type":"decimal(5)"}]}"#,
                "field a: unknown type \"decimal(5)\", expected decimal(precision,scale)",
            ),
            (
                r#"{"type":"struct","fields":[{"name":"a","type":{"type":"struct","fields":[{"name":"b","type":{"type":"set"}}]}}]}"#,
                "field a: field b: unknown type {\"type\":\"set\"}",
            ),
        ] {
            let error = read(&serde_json::from_str(text).unwrap()).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
