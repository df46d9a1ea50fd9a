//! The `schema` of a JsonConverter envelope as Arrow fields (`org.apache.kafka.connect.json.JsonConverter.asConnectSchema`).

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use model::{ConnectMarks, ValueSchema, whole_value_field};
use serde_json::Value;

use crate::table_schema::{TableSchema, decimal_type, element_field, map_type, timestamp};
use crate::{JsonColumns, SchemaError};

/// Precision of a Decimal whose schema does not say it (`connect.decimal.precision`): the most that all engines read.
/// Upstream writes 64, at which many stop.
pub(crate) const DECIMAL_PRECISION_DEFAULT: u64 = 38;

/// Names that the type of a column says.
const LOGICAL_NAMES: &[&str] = &[
    "org.apache.kafka.connect.data.Date",
    "org.apache.kafka.connect.data.Time",
    "org.apache.kafka.connect.data.Timestamp",
    "org.apache.kafka.connect.data.Decimal",
];

/// What an envelope's schema makes of its payload.
#[derive(Debug, PartialEq)]
pub(crate) enum ConnectSchema {
    /// The schema is null: the payload is plain JSON.
    Schemaless,
    /// Columns.
    Typed(TypedSchema),
}

/// A schema with what Arrow has no place for.
#[derive(Debug, PartialEq)]
pub(crate) struct TypedSchema {
    schema: TableSchema,
    fields: Fields,
    nullable: bool,
    default: Option<Value>,
    /// Its name and version, if it has either.
    pub(crate) value_schema: Option<Arc<ValueSchema>>,
}

impl TypedSchema {
    pub(crate) fn reader(&self, replace_null_with_default: bool) -> JsonColumns {
        let default = self.default.clone();
        JsonColumns::connect(&self.schema, &self.fields, self.nullable, default, replace_null_with_default)
    }
}

/// Reads the text of a schema; errors in upstream's words.
pub(crate) fn parse(text: &[u8]) -> Result<ConnectSchema, SchemaError> {
    let json: Value = serde_json::from_slice(text)
        .map_err(|error| SchemaError(format!("the schema of the envelope is not valid JSON: {error}")))?;
    if json.is_null() {
        return Ok(ConnectSchema::Schemaless);
    }
    let data_type = data_type(&json)?;
    let fields = match data_type {
        DataType::Struct(fields) => fields,
        scalar => Fields::from(vec![whole_value_field(scalar)]),
    };
    let schema = TableSchema::new(&fields)?;
    let default = json.get("default").filter(|default| !default.is_null()).cloned();
    let value_schema = ValueSchema {
        name: json.get("name").and_then(Value::as_str).map(str::to_owned),
        version: json.get("version").and_then(Value::as_i64).and_then(|version| i32::try_from(version).ok()),
    };
    let value_schema = (value_schema != ValueSchema::default()).then(|| Arc::new(value_schema));
    Ok(ConnectSchema::Typed(TypedSchema { schema, fields, nullable: optional(&json), default, value_schema }))
}

fn data_type(json: &Value) -> Result<DataType, SchemaError> {
    let Some(name) = json.get("type").and_then(Value::as_str) else {
        return Err(SchemaError("Schema must contain 'type' field".to_owned()));
    };
    let logical = json.get("name").and_then(Value::as_str).unwrap_or_default();
    Ok(match (name, logical) {
        ("int32", "org.apache.kafka.connect.data.Date") => DataType::Date32,
        ("int32", "org.apache.kafka.connect.data.Time") => DataType::Time32(TimeUnit::Millisecond),
        ("int64", "org.apache.kafka.connect.data.Timestamp") => timestamp(TimeUnit::Millisecond, true),
        ("bytes", "org.apache.kafka.connect.data.Decimal") => decimal(json)?,
        ("boolean", _) => DataType::Boolean,
        ("int8", _) => DataType::Int8,
        ("int16", _) => DataType::Int16,
        ("int32", _) => DataType::Int32,
        ("int64", _) => DataType::Int64,
        ("float", _) => DataType::Float32,
        ("double", _) => DataType::Float64,
        ("bytes", _) => DataType::Binary,
        ("string", _) => DataType::Utf8,
        ("array", _) => {
            let items = json.get("items").filter(|items| !items.is_null());
            let items = items.ok_or_else(|| missing("Array schema did not specify the element type"))?;
            let element = element_field(data_type(items)?, optional(items));
            DataType::List(Arc::new(marked(element.as_ref().clone(), items)))
        }
        ("map", _) => {
            let keys = json.get("keys").ok_or_else(|| missing("Map schema did not specify the key type"))?;
            let values = json.get("values").ok_or_else(|| missing("Map schema did not specify the value type"))?;
            let value = Field::new("value", data_type(values)?, optional(values));
            map_type(marked(Field::new("key", data_type(keys)?, false), keys), marked(value, values))
        }
        ("struct", _) => DataType::Struct(struct_fields(json)?),
        (other, _) => return Err(SchemaError(format!("Unknown schema type: {other}"))),
    })
}

fn struct_fields(json: &Value) -> Result<Fields, SchemaError> {
    let Some(fields) = json.get("fields").and_then(Value::as_array) else {
        return Err(missing("Struct schema's \"fields\" argument is not an array."));
    };
    fields
        .iter()
        .map(|field| {
            let name = field.get("field").and_then(Value::as_str);
            let name = name.ok_or_else(|| missing("Struct schema's field name not specified properly"))?;
            let data_type = data_type(field).map_err(|error| SchemaError(format!("field {name}: {error}")))?;
            Ok(marked(Field::new(name, data_type, optional(field)), field))
        })
        .collect()
}

fn decimal(json: &Value) -> Result<DataType, SchemaError> {
    let parameter = |name: &str| -> Result<Option<i64>, SchemaError> {
        let Some(value) = json.get("parameters").and_then(|parameters| parameters.get(name)) else {
            return Ok(None);
        };
        let number = value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_i64());
        number
            .map(Some)
            .ok_or_else(|| SchemaError(format!("Invalid {name} parameter found in Decimal schema: {value}")))
    };
    let scale = parameter("scale")?.ok_or_else(|| missing("Invalid Decimal schema: scale parameter not found."))?;
    let precision = match parameter("connect.decimal.precision")? {
        Some(precision) => u64::try_from(precision).unwrap_or(0),
        None => DECIMAL_PRECISION_DEFAULT.max(u64::try_from(scale).unwrap_or(0)),
    };
    decimal_type(precision, scale)
}

fn missing(message: &str) -> SchemaError {
    SchemaError(message.to_owned())
}

fn optional(json: &Value) -> bool {
    json.get("optional").and_then(Value::as_bool).unwrap_or(false)
}

/// `field` with what the schema says beside its type.
fn marked(field: Field, json: &Value) -> Field {
    let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
    let is_logical = |name: &String| LOGICAL_NAMES.contains(&name.as_str());
    let parameters = json.get("parameters").and_then(Value::as_object).into_iter().flatten();
    let parameters = parameters.filter(|(name, _)| !matches!(name.as_str(), "scale" | "connect.decimal.precision"));
    ConnectMarks {
        name: text("name").filter(|name| !is_logical(name)),
        parameters: parameters.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect(),
        default: json.get("default").filter(|default| !default.is_null()).cloned(),
    }
    .mark(field)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::RecordSchema;

    fn typed(text: &str) -> TypedSchema {
        match parse(text.as_bytes()).unwrap() {
            ConnectSchema::Typed(schema) => schema,
            ConnectSchema::Schemaless => panic!("{text} is a schema"),
        }
    }

    /// The record schema that an envelope's schema is.
    pub(crate) fn record_schema(text: &str) -> RecordSchema {
        let typed = typed(text);
        let (fields, value) =
            (crate::table_schema::normal_fields(&typed.fields), typed.value_schema.unwrap_or_default());
        RecordSchema { fields, value }
    }

    #[test]
    fn every_connect_type_has_an_arrow_type() {
        let field = |name: &str, rest: &str| format!(r#"{{"field":"{name}",{rest}}}"#);
        let connect = |name: &str| format!(r#""name":"org.apache.kafka.connect.data.{name}""#);
        for (rest, expected) in [
            (r#""type":"int8""#.to_owned(), "a TINYINT NOT NULL"),
            (r#""type":"int16","optional":true"#.to_owned(), "a SMALLINT"),
            (r#""type":"int32","name":"io.debezium.time.Date""#.to_owned(), "a INT NOT NULL"),
            (r#""type":"int64""#.to_owned(), "a BIGINT NOT NULL"),
            (r#""type":"float""#.to_owned(), "a FLOAT NOT NULL"),
            (r#""type":"double""#.to_owned(), "a DOUBLE NOT NULL"),
            (r#""type":"boolean""#.to_owned(), "a BOOLEAN NOT NULL"),
            (r#""type":"string""#.to_owned(), "a STRING NOT NULL"),
            (r#""type":"bytes""#.to_owned(), "a BINARY NOT NULL"),
            (format!(r#""type":"int32",{}"#, connect("Date")), "a DATE NOT NULL"),
            (format!(r#""type":"int32",{}"#, connect("Time")), "a TIME(3) NOT NULL"),
            (format!(r#""type":"int64",{}"#, connect("Timestamp")), "a TIMESTAMP(3) NOT NULL"),
            (
                format!(r#""type":"bytes",{},"parameters":{{"scale":"2"}}"#, connect("Decimal")),
                "a DECIMAL(38,2) NOT NULL",
            ),
            (
                format!(
                    r#""type":"bytes",{},"parameters":{{"scale":"2","connect.decimal.precision":"64"}}"#,
                    connect("Decimal")
                ),
                "a DECIMAL(64,2) NOT NULL",
            ),
            (r#""type":"array","items":{"type":"int32","optional":true}"#.to_owned(), "a ARRAY<INT> NOT NULL"),
            (
                r#""type":"map","keys":{"type":"string"},"values":{"type":"int64","optional":true}"#.to_owned(),
                "a MAP<STRING, BIGINT> NOT NULL",
            ),
            (
                r#""type":"struct","optional":true,"fields":[{"field":"b","type":"string","default":"x"}]"#.to_owned(),
                "a STRUCT<b: STRING NOT NULL>",
            ),
        ] {
            let text = format!(r#"{{"type":"struct","fields":[{}]}}"#, field("a", &rest));
            assert_eq!(typed(&text).schema, crate::given::parse(expected).unwrap(), "{rest}");
        }
    }

    #[test]
    fn wrong_schemas_are_refused_in_upstreams_words() {
        for (text, expected) in [
            ("{}", "Schema must contain 'type' field"),
            (r#""text""#, "Schema must contain 'type' field"),
            (r#"{"type":"int128"}"#, "Unknown schema type: int128"),
            (r#"{"type":"array"}"#, "Array schema did not specify the element type"),
            (r#"{"type":"map","keys":{"type":"string"}}"#, "Map schema did not specify the value type"),
            (r#"{"type":"struct"}"#, "Struct schema's \"fields\" argument is not an array."),
            (r#"{"type":"struct","fields":[{"type":"int8"}]}"#, "Struct schema's field name not specified properly"),
            (r#"{"type":"struct","fields":[{"field":"a"}]}"#, "field a: Schema must contain 'type' field"),
            (
                r#"{"type":"bytes","name":"org.apache.kafka.connect.data.Decimal"}"#,
                "Invalid Decimal schema: scale parameter not found.",
            ),
            ("{", "the schema of the envelope is not valid JSON: EOF while parsing an object at line 1 column 1"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().to_string(), expected);
        }
        assert_eq!(parse(b"null"), Ok(ConnectSchema::Schemaless));
    }
}
