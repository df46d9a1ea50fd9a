//! JSON Schema of an object (draft-07 and later): properties, required, formats, references.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use serde_json::Value;

use crate::SchemaError;
use crate::table_schema::{DEPTH_MAX, element_field, map_type, timestamp};

/// The properties of an object schema. A property is NOT NULL if it is required and its type does not allow null.
/// `integer` is INT64 (`format` int32 makes it INT32), `number` DOUBLE (`format` float makes it FLOAT), `date` and
/// `date-time` are DATE and TIMESTAMP, an object with only `additionalProperties` is a MAP.
pub(super) fn read(json: &Value) -> Result<Fields, SchemaError> {
    match (Reader { root: json }).data_type(json, 0)? {
        (DataType::Struct(fields), _) => Ok(fields),
        (other, _) => Err(SchemaError(format!("the schema of a value must be an object with properties, not {other}"))),
    }
}

struct Reader<'j> {
    root: &'j Value,
}

impl Reader<'_> {
    /// The type and whether it may be null.
    fn data_type(&self, json: &Value, depth: usize) -> Result<(DataType, bool), SchemaError> {
        // References can nest for ever.
        if depth > 4 * DEPTH_MAX {
            return Err(SchemaError("types refer to themselves, or nest too deeply".to_owned()));
        }
        if let Some(reference) = json.get("$ref").and_then(Value::as_str) {
            let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            let target = target.ok_or_else(|| SchemaError(format!("$ref {reference} is not in this schema")))?;
            return self.data_type(target, depth + 1);
        }
        if let Some(branches) = ["oneOf", "anyOf"].iter().find_map(|key| json.get(key)).and_then(Value::as_array) {
            let is_null = |branch: &&Value| branch.get("type").and_then(Value::as_str) == Some("null");
            let nullable = branches.iter().any(|branch| is_null(&branch));
            let mut others = branches.iter().filter(|branch| !is_null(branch));
            return match (others.next(), others.next()) {
                (Some(only), None) => self.data_type(only, depth + 1).map(|(found, null)| (found, null || nullable)),
                _ => Err(SchemaError("only oneOf and anyOf of null and one other type are supported".to_owned())),
            };
        }
        let (name, nullable) = type_of(json)?;
        let format = json.get("format").and_then(Value::as_str).unwrap_or_default();
        let data_type = match (name, format) {
            ("boolean", _) => DataType::Boolean,
            ("integer", "int32") => DataType::Int32,
            ("integer", _) => DataType::Int64,
            ("number", "float") => DataType::Float32,
            ("number", _) => DataType::Float64,
            ("string", "date") => DataType::Date32,
            ("string", "date-time") => timestamp(TimeUnit::Microsecond, true),
            ("string", _) if json.get("contentEncoding").and_then(Value::as_str) == Some("base64") => DataType::Binary,
            ("string", _) => DataType::Utf8,
            ("array", _) => {
                let items = json.get("items").ok_or_else(|| SchemaError("an array needs \"items\"".to_owned()))?;
                let (element, nullable) = self.data_type(items, depth + 1)?;
                DataType::List(element_field(element, nullable))
            }
            ("object", _) => self.object(json, depth)?,
            (other, _) => return Err(SchemaError(format!("unknown type \"{other}\""))),
        };
        Ok((data_type, nullable))
    }

    fn object(&self, json: &Value, depth: usize) -> Result<DataType, SchemaError> {
        let Some(properties) = json.get("properties") else {
            let values = json.get("additionalProperties").filter(|values| values.is_object());
            let values = values.ok_or_else(|| {
                SchemaError("an object needs \"properties\", or \"additionalProperties\" with a type".to_owned())
            })?;
            let (value, nullable) = self.data_type(values, depth + 1)?;
            return Ok(map_type(Field::new("key", DataType::Utf8, false), Field::new("value", value, nullable)));
        };
        let properties = properties.as_object().ok_or_else(|| SchemaError("\"properties\" is no object".to_owned()))?;
        let required = json.get("required").and_then(Value::as_array);
        let mut fields = Vec::with_capacity(properties.len());
        for (name, property) in properties {
            let (data_type, nullable) = self
                .data_type(property, depth + 1)
                .map_err(|error| SchemaError(format!("property {name}: {error}")))?;
            let required = required.is_some_and(|names| names.iter().any(|known| known.as_str() == Some(name)));
            fields.push(Arc::new(Field::new(name, data_type, nullable || !required)));
        }
        Ok(DataType::Struct(fields.into()))
    }
}

/// The type's name and whether null is allowed beside it.
fn type_of(json: &Value) -> Result<(&str, bool), SchemaError> {
    match json.get("type") {
        Some(Value::String(name)) => Ok((name, false)),
        Some(Value::Array(names)) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            let others: Vec<&str> = names.iter().copied().filter(|name| *name != "null").collect();
            match others[..] {
                [only] => Ok((only, names.len() > 1)),
                ["integer", "number"] | ["number", "integer"] => Ok(("number", names.len() > 2)),
                _ => Err(SchemaError(format!("only types of null and one other are supported, not {names:?}"))),
            }
        }
        Some(_) => Err(SchemaError("\"type\" must be a name or a list of names".to_owned())),
        None if json.get("properties").is_some() => Ok(("object", false)),
        None if all_strings(json) => Ok(("string", false)),
        None => Err(SchemaError("a \"type\" is missing".to_owned())),
    }
}

/// Whether the type is said by an enumeration, or a constant, of strings.
fn all_strings(json: &Value) -> bool {
    let listed = json.get("enum").and_then(Value::as_array);
    json.get("const").is_some_and(Value::is_string) || listed.is_some_and(|all| all.iter().all(Value::is_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(property: &str) -> Result<Fields, String> {
        let text = format!(
            r##"{{"type":"object","required":["a"],"properties":{{"a":{property}}},"$defs":{{"s":{{"type":"string"}},"r":{{"$ref":"#/$defs/r"}}}}}}"##
        );
        read(&serde_json::from_str(&text).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn json_schema_types_have_column_types() {
        for (property, ddl) in [
            (r#"{"type":"integer"}"#, "a BIGINT NOT NULL"),
            (r#"{"type":["integer","null"]}"#, "a BIGINT"),
            (r#"{"type":"integer","format":"int32"}"#, "a INT NOT NULL"),
            (r#"{"type":["number","integer","null"]}"#, "a DOUBLE"),
            (r#"{"type":"string","format":"date-time"}"#, "a TIMESTAMP NOT NULL"),
            (r#"{"type":"string","contentEncoding":"base64"}"#, "a BINARY NOT NULL"),
            (r#"{"enum":["x","y"]}"#, "a STRING NOT NULL"),
            (r##"{"anyOf":[{"type":"null"},{"$ref":"#/$defs/s"}]}"##, "a STRING"),
            (r#"{"type":"array","items":{"type":["boolean","null"]}}"#, "a ARRAY<BOOLEAN> NOT NULL"),
            (
                r#"{"type":"object","additionalProperties":{"type":["number","null"]}}"#,
                "a MAP<STRING, DOUBLE> NOT NULL",
            ),
            (
                r#"{"properties":{"x":{"type":"string","format":"date"},"y":{"type":"boolean"}},"required":["y"]}"#,
                "a STRUCT<x: DATE, y: BOOLEAN NOT NULL> NOT NULL",
            ),
        ] {
            let expected = crate::given::parse(ddl).unwrap();
            assert_eq!(of(property).as_ref(), Ok(expected.fields()), "{property}");
        }
    }

    #[test]
    fn what_has_no_column_type_is_refused_with_the_property() {
        for (property, expected) in [
            ("{}", "property a: a \"type\" is missing"),
            (r#"{"type":"file"}"#, "property a: unknown type \"file\""),
            (
                r#"{"type":["string","integer"]}"#,
                "property a: only types of null and one other are supported, not [\"string\", \"integer\"]",
            ),
            (r##"{"$ref":"#/$defs/r"}"##, "property a: types refer to themselves, or nest too deeply"),
            (r##"{"$ref":"#/$defs/x"}"##, "property a: $ref #/$defs/x is not in this schema"),
            (
                r#"{"type":"object"}"#,
                "property a: an object needs \"properties\", or \"additionalProperties\" with a type",
            ),
        ] {
            assert_eq!(of(property).unwrap_err(), expected);
        }
    }
}
