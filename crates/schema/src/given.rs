//! Schemas that are given, not inferred: Avro, JSON Schema, Spark StructType JSON or Spark DDL.

use std::io;

use arrow::datatypes::DataType;
use model::{Invalid, Settings};
use serde_json::Value;

use crate::keys::{CORRUPT_COLUMN, PERMISSIVE, VALUE_SCHEMA_MODE};
use crate::table_schema::type_name;
use crate::{JsonColumns, SchemaError, TableSchema, Unknown, VALUE_SCHEMA, spark_json};

mod avro;
mod ddl;
mod json_schema;

/// A schema that is given, and what becomes of records that do not fit it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenSchema {
    /// The columns.
    pub schema: TableSchema,
    /// Texts take any value, as the JSON that it is: so Spark has it, in whose language the schema is.
    pub texts_take_all: bool,
    /// Of a record that does not fit, what does not is null, and the column of this name holds its text; `None` to reject it.
    pub corrupt_column: Option<String>,
}

impl GivenSchema {
    /// As the configuration says; `read` reads files. `None` if it gives none.
    pub fn new(settings: &Settings, read: &dyn Fn(&str) -> io::Result<String>) -> Result<Option<GivenSchema>, Invalid> {
        let is_lenient = settings.required_string(&VALUE_SCHEMA_MODE)?.eq_ignore_ascii_case(PERMISSIVE);
        let Some(text) = settings.text(&VALUE_SCHEMA).filter(|text| !text.is_empty()) else {
            let needs_one = Invalid::new(VALUE_SCHEMA_MODE.name, "PERMISSIVE needs value.converter.schema");
            return if is_lenient { Err(needs_one) } else { Ok(None) };
        };
        let (schema, texts_take_all) = resolve(text, read)?;
        if !is_lenient {
            return Ok(Some(GivenSchema { schema, texts_take_all, corrupt_column: None }));
        }
        let name = settings.required_string(&CORRUPT_COLUMN)?;
        if let Some(field) = schema.fields().iter().find(|field| *field.name() == name)
            && *field.data_type() != DataType::Utf8
        {
            let why = format!("the schema has it as {}, and it must be a STRING", type_name(field.data_type()));
            return Err(Invalid::value(&CORRUPT_COLUMN, &name, why));
        }
        Ok(Some(GivenSchema { schema: schema.with_nullable_fields(), texts_take_all, corrupt_column: Some(name) }))
    }

    /// What reads into it.
    pub fn reader(&self) -> JsonColumns {
        let mut reader = JsonColumns::new(&self.schema, Unknown::Ignore);
        if self.texts_take_all {
            reader = reader.with_any_text();
        }
        match &self.corrupt_column {
            Some(name) => reader.lenient(name),
            None => reader,
        }
    }
}

/// The schema that `value.converter.schema` says, and whether it is in a language of Spark: `value` is the text itself or the
/// name of a file, which `read` reads.
///
/// A value is a file name if it has no white space, bracket or colon, or ends like one (`.avsc`, `.json`, `.ddl`, `.sql`).
fn resolve(value: &str, read: &dyn Fn(&str) -> io::Result<String>) -> Result<(TableSchema, bool), Invalid> {
    let invalid = |why: String| Invalid::value(&VALUE_SCHEMA, value.trim(), why);
    let text = match value.trim() {
        name if is_file_name(name) => {
            read(name).map_err(|error| invalid(format!("could not read the file: {error}")))?
        }
        text => text.to_owned(),
    };
    let schema = parse(&text).map_err(|error| invalid(error.0))?;
    let json: Option<Value> = serde_json::from_str(&text).ok();
    Ok((schema, json.is_none_or(|json| json.get("type").is_some_and(|kind| kind == "struct"))))
}

/// The schema that `text` says, in whichever of the four languages it is; errors name the place.
pub fn parse(text: &str) -> Result<TableSchema, SchemaError> {
    let text = text.trim();
    if !text.starts_with(['{', '[', '"']) {
        return TableSchema::new(&ddl::read(text)?);
    }
    let json: Value =
        serde_json::from_str(text).map_err(|error| SchemaError(format!("schema is not valid JSON: {error}")))?;
    let fields = match json.get("type").and_then(Value::as_str) {
        Some("struct") => spark_json::read(&json)?,
        Some("record") => avro::read(&json)?,
        _ if ["$schema", "properties", "$ref", "$defs", "definitions"].iter().any(|key| json.get(key).is_some()) => {
            json_schema::read(&json)?
        }
        Some("object") => json_schema::read(&json)?,
        Some(_) | None => {
            return Err(SchemaError(
                "schema is of no known language; expected an Avro record (\"type\": \"record\"), a JSON Schema of an object \
                 (\"properties\"), a Spark StructType (\"type\": \"struct\") or Spark DDL"
                    .to_owned(),
            ));
        }
    };
    TableSchema::new(&fields)
}

fn is_file_name(value: &str) -> bool {
    if value.starts_with(['{', '[', '"']) {
        return false;
    }
    let ends_like_one = [".avsc", ".json", ".ddl", ".sql"].iter().any(|ending| value.ends_with(ending));
    ends_like_one || !value.contains(|c: char| c.is_whitespace() || "<>():,`".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> TableSchema {
        let path = format!("{}/../../schemas/{name}", env!("CARGO_MANIFEST_DIR"));
        let (schema, is_of_spark) = resolve(&path, &|path| std::fs::read_to_string(path)).unwrap();
        assert_eq!(is_of_spark, name.ends_with(".ddl") || name.ends_with(".struct.json"), "{name}");
        schema
    }

    #[test]
    fn the_samples_say_the_same_in_four_languages() {
        let ddl = sample("prediction.ddl");
        assert_eq!(ddl.fields().len(), 5);
        for name in ["prediction.avsc", "prediction.schema.json", "prediction.struct.json"] {
            assert_eq!(sample(name), ddl, "{name}");
        }
    }

    #[test]
    fn the_mode_says_what_becomes_of_records_that_do_not_fit() {
        let given = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
            GivenSchema::new(&Settings::new(pairs.collect()), &|_| Err(io::Error::other("no file")))
        };
        let (schema, mode) = (("value.converter.schema", "a INT NOT NULL, c STRING"), "value.converter.schema.mode");
        assert_eq!(given(&[]), Ok(None));
        assert_eq!(given(&[schema]).unwrap().unwrap().corrupt_column, None);
        let lenient = given(&[schema, (mode, "permissive")]).unwrap().unwrap();
        assert_eq!(lenient.corrupt_column.as_deref(), Some("_corrupt_record"));
        assert!(lenient.schema.fields()[0].is_nullable());
        let column = "value.converter.schema.corrupt.column";
        assert_eq!(
            given(&[schema, (mode, "PERMISSIVE"), (column, "c")]).unwrap().unwrap().corrupt_column.as_deref(),
            Some("c")
        );
        let refused = given(&[schema, (mode, "PERMISSIVE"), (column, "a")]).unwrap_err();
        assert!(refused.message.ends_with("the schema has it as INTEGER, and it must be a STRING"), "{refused}");
        assert_eq!(given(&[(mode, "PERMISSIVE")]).unwrap_err().key, mode);
    }

    #[test]
    fn what_is_no_schema_is_refused_with_the_place() {
        let read = |path: &str| match path {
            "bad.avsc" => Ok("{\n \"type\": \"record\",\n oops".to_owned()),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
        };
        for (value, expected) in [
            ("bad.avsc", "schema is not valid JSON: key must be a string at line 3 column 2"),
            ("missing.ddl", "could not read the file: no such file"),
            ("missing", "could not read the file: no such file"),
            ("a INT, b WHAT", "column b: unknown type WHAT at line 1 column 10"),
            (
                "[1]",
                "schema is of no known language; expected an Avro record (\"type\": \"record\"), a JSON Schema of an \
                object (\"properties\"), a Spark StructType (\"type\": \"struct\") or Spark DDL",
            ),
        ] {
            let invalid = resolve(value, &read).unwrap_err();
            let expected = format!("Invalid value {value} for configuration value.converter.schema: {expected}");
            assert_eq!(invalid.message, expected);
        }
        assert!(resolve("a:INT", &read).is_ok());
    }
}
