//! Avro schemas (.avsc): records, unions with null, logical types, named types.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use serde_json::Value;

use crate::SchemaError;
use crate::table_schema::{decimal_type, element_field, map_type, timestamp};

/// The fields of a record. A union with null is nullable, a field without one is NOT NULL. Enums are strings and fixed is
/// binary; other unions have no column type and are refused.
pub(super) fn read(json: &Value) -> Result<Fields, SchemaError> {
    let mut reader = Reader { named: HashMap::new() };
    match reader.data_type(json, "")?.0 {
        DataType::Struct(fields) => Ok(fields),
        other => Err(SchemaError(format!("the schema of a value must be a record, not {other}"))),
    }
}

/// What the types that were given a name so far are.
struct Reader {
    named: HashMap<String, DataType>,
}

impl Reader {
    /// The type and whether it may be null. `namespace` is the one of the enclosing record.
    fn data_type(&mut self, json: &Value, namespace: &str) -> Result<(DataType, bool), SchemaError> {
        match json {
            Value::String(name) => Ok((self.named_type(name, namespace)?, name == "null")),
            Value::Array(branches) => self.union(branches, namespace),
            Value::Object(_) => Ok((self.complex_type(json, namespace)?, false)),
            Value::Null | Value::Bool(_) | Value::Number(_) => Err(unknown(json)),
        }
    }

    fn union(&mut self, branches: &[Value], namespace: &str) -> Result<(DataType, bool), SchemaError> {
        let is_null = |branch: &&Value| branch.as_str() == Some("null");
        let nullable = branches.iter().any(|branch| is_null(&branch));
        let mut others = branches.iter().filter(|branch| !is_null(branch));
        match (others.next(), others.next()) {
            (Some(only), None) => Ok((self.data_type(only, namespace)?.0, nullable)),
            _ => Err(SchemaError("only unions of null and one other type are supported".to_owned())),
        }
    }

    fn named_type(&self, name: &str, namespace: &str) -> Result<DataType, SchemaError> {
        Ok(match name {
            "null" => {
                return Err(SchemaError("a field that is always null has no column type".to_owned()));
            }
            "boolean" => DataType::Boolean,
            "int" => DataType::Int32,
            "long" => DataType::Int64,
            "float" => DataType::Float32,
            "double" => DataType::Float64,
            "bytes" => DataType::Binary,
            "string" => DataType::Utf8,
            other => {
                let known = self.named.get(&full_name(other, namespace)).or_else(|| self.named.get(other));
                known.cloned().ok_or_else(|| {
                    SchemaError(format!("unknown type {other}; a type can be named only after it was defined"))
                })?
            }
        })
    }

    fn complex_type(&mut self, json: &Value, namespace: &str) -> Result<DataType, SchemaError> {
        let part =
            |name: &str| json.get(name).ok_or_else(|| SchemaError(format!("\"{name}\" is missing in {}", brief(json))));
        let logical = json.get("logicalType").and_then(Value::as_str).unwrap_or_default();
        let name = part("type")?;
        let Some(name) = name.as_str() else {
            return Ok(self.data_type(name, namespace)?.0);
        };
        Ok(match (name, logical) {
            ("int", "date") => DataType::Date32,
            ("int", "time-millis") => DataType::Time32(TimeUnit::Millisecond),
            ("long", "time-micros") => {
                return Err(SchemaError("time-micros is not supported; use time-millis".to_owned()));
            }
            ("long", "timestamp-millis") => timestamp(TimeUnit::Millisecond, true),
            ("long", "timestamp-micros") => timestamp(TimeUnit::Microsecond, true),
            ("long", "local-timestamp-millis") => timestamp(TimeUnit::Millisecond, false),
            ("long", "local-timestamp-micros") => timestamp(TimeUnit::Microsecond, false),
            ("bytes" | "fixed", "decimal") => {
                let number = |name: &str| json.get(name).and_then(Value::as_i64);
                let precision = number("precision").and_then(|precision| u64::try_from(precision).ok());
                self.define(json, namespace, decimal_type(precision.unwrap_or(0), number("scale").unwrap_or(0))?)
            }
            ("array", _) => {
                let (element, nullable) = self.data_type(part("items")?, namespace)?;
                DataType::List(element_field(element, nullable))
            }
            ("map", _) => {
                let (value, nullable) = self.data_type(part("values")?, namespace)?;
                map_type(Field::new("key", DataType::Utf8, false), Field::new("value", value, nullable))
            }
            ("record", _) => {
                let fields = DataType::Struct(self.record_fields(json, part("fields")?, namespace)?);
                self.define(json, namespace, fields)
            }
            ("enum", _) => self.define(json, namespace, DataType::Utf8),
            ("fixed", _) => self.define(json, namespace, DataType::Binary),
            (scalar, _) => self.named_type(scalar, namespace)?,
        })
    }

    fn record_fields(&mut self, json: &Value, fields: &Value, namespace: &str) -> Result<Fields, SchemaError> {
        let name = json.get("name").and_then(Value::as_str).unwrap_or_default();
        let namespace = match (json.get("namespace").and_then(Value::as_str), name.rsplit_once('.')) {
            (_, Some((namespace, _))) => namespace,
            (Some(namespace), None) => namespace,
            (None, None) => namespace,
        };
        let fields = fields.as_array().ok_or_else(|| SchemaError(format!("\"fields\" of {name} is no list")))?;
        let mut read = Vec::with_capacity(fields.len());
        for field in fields {
            let (Some(name), Some(data_type)) = (field.get("name").and_then(Value::as_str), field.get("type")) else {
                return Err(SchemaError(format!("a field needs \"name\" and \"type\": {}", brief(field))));
            };
            let (data_type, nullable) =
                self.data_type(data_type, namespace).map_err(|error| SchemaError(format!("field {name}: {error}")))?;
            read.push(Arc::new(Field::new(name, data_type, nullable)));
        }
        Ok(read.into())
    }

    /// Remembers the name that `json` gives to `data_type`.
    fn define(&mut self, json: &Value, namespace: &str, data_type: DataType) -> DataType {
        if let Some(name) = json.get("name").and_then(Value::as_str) {
            let namespace = json.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
            self.named.insert(full_name(name, namespace), data_type.clone());
        }
        data_type
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn unknown(json: &Value) -> SchemaError {
    SchemaError(format!("unknown type {}", brief(json)))
}

fn brief(json: &Value) -> String {
    crate::fault::excerpt(json.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(field_type: &str) -> Result<Fields, String> {
        let text =
            format!(r#"{{"type":"record","name":"R","namespace":"n","fields":[{{"name":"a","type":{field_type}}}]}}"#);
        read(&serde_json::from_str(&text).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn avro_types_have_column_types() {
        for (avro, ddl) in [
            (r#""int""#, "a INT NOT NULL"),
            (r#"["null","long"]"#, "a BIGINT"),
            (r#"{"type":["string","null"]}"#, "a STRING NOT NULL"),
            (r#"{"type":"long","logicalType":"timestamp-millis"}"#, "a TIMESTAMP(3) NOT NULL"),
            (r#"["null",{"type":"long","logicalType":"timestamp-micros"}]"#, "a TIMESTAMP"),
            (r#"{"type":"long","logicalType":"local-timestamp-micros"}"#, "a TIMESTAMP_NTZ NOT NULL"),
            (r#"{"type":"int","logicalType":"date"}"#, "a DATE NOT NULL"),
            (r#"{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}"#, "a DECIMAL(10,2) NOT NULL"),
            (r#"{"type":"string","logicalType":"uuid"}"#, "a STRING NOT NULL"),
            (r#"{"type":"enum","name":"E","symbols":["X"]}"#, "a STRING NOT NULL"),
            (r#"{"type":"map","values":["null","double"]}"#, "a MAP<STRING, DOUBLE> NOT NULL"),
            (
                r#"["null",{"type":"record","name":"S","fields":[{"name":"x","type":{"type":"fixed","name":"F","size":2}},{"name":"y","type":"n.F"},{"name":"z","type":["null","F"]}]}]"#,
                "a STRUCT<x: BINARY NOT NULL, y: BINARY NOT NULL, z: BINARY>",
            ),
        ] {
            let expected = crate::given::parse(ddl).unwrap();
            assert_eq!(of(avro).as_ref(), Ok(expected.fields()), "{avro}");
        }
    }

    #[test]
    fn what_has_no_column_type_is_refused_with_the_field() {
        for (avro, expected) in [
            (r#"["int","string"]"#, "field a: only unions of null and one other type are supported"),
            (r#""null""#, "field a: a field that is always null has no column type"),
            (r#""n.R""#, "field a: unknown type n.R; a type can be named only after it was defined"),
            (r#"{"type":"array"}"#, r#"field a: "items" is missing in {"type":"array"}"#),
            ("7", "field a: unknown type 7"),
            (
                r#"{"type":"bytes","logicalType":"decimal"}"#,
                "field a: DECIMAL(0,0): the precision must be 1 to 76, the scale 0 to the precision",
            ),
        ] {
            assert_eq!(of(avro).unwrap_err(), expected);
        }
    }
}
