//! The transforms of what stands beside a value: `ValueToKey`, `SetSchemaMetadata`, `DropHeaders`.

use std::sync::Arc;

use arrow::array::{Array, StructArray};
use model::{Batch, Check, Importance, Invalid, Key, Kind, Settings, Values};
use serde_json::Value;

use crate::keys::{REPLACE_NULL_WITH_DEFAULT, non_empty_list};
use crate::values::{
    Columns, Edit, Record, Refused, Side, edit_values, no_map, require_map, require_struct, struct_of, with_defaults,
    without,
};
use crate::{Transform, Transformed};

const PURPOSE: &str = "copying fields from value to key";

const FIELDS: Key = Key::new("fields", Kind::List, "Names of the fields of the value that make the new key.")
    .required()
    .check(Check::With(non_empty_list))
    .importance(Importance::High);
const SCHEMA_NAME: Key =
    Key::new("schema.name", Kind::String, "Name that the schema gets.").importance(Importance::High);
const SCHEMA_VERSION: Key =
    Key::new("schema.version", Kind::Int, "Version that the schema gets.").importance(Importance::High);
const HEADERS: Key = Key::new("headers", Kind::List, "Names of the headers to remove.")
    .required()
    .check(Check::With(non_empty_list))
    .importance(Importance::High);

/// The keys of `ValueToKey`.
pub(crate) const VALUE_TO_KEY_KEYS: &[Key] = &[FIELDS, REPLACE_NULL_WITH_DEFAULT];
/// The keys of `SetSchemaMetadata`.
pub(crate) const SCHEMA_KEYS: &[Key] = &[SCHEMA_NAME, SCHEMA_VERSION, REPLACE_NULL_WITH_DEFAULT];
/// The keys of `DropHeaders`.
pub(crate) const DROP_HEADERS_KEYS: &[Key] = &[HEADERS];

struct ValueToKey {
    fields: Vec<String>,
    replace_null_with_default: bool,
}

/// Builds `ValueToKey`.
pub(crate) fn build_value_to_key(settings: &Settings) -> Result<Box<dyn Transform>, Invalid> {
    let replace_null_with_default = settings.boolean(&REPLACE_NULL_WITH_DEFAULT)?;
    Ok(Box::new(ValueToKey { fields: settings.list(&FIELDS)?, replace_null_with_default }))
}

impl Edit for ValueToKey {
    fn typed(&self, columns: &StructArray, _batch: &Batch) -> Result<Columns, String> {
        require_struct(columns, PURPOSE)?;
        let old = with_defaults(columns, self.replace_null_with_default);
        let (mut fields, mut chosen) = (Vec::new(), Vec::new());
        for name in &self.fields {
            let (index, field) = old.fields().find(name).ok_or_else(|| format!("Field does not exist: {name}"))?;
            fields.push(field.clone());
            chosen.push(old.column(index).clone());
        }
        Ok(struct_of(fields, chosen, columns.nulls(), columns.len())?.into())
    }

    fn schemaless(&self, value: Value, _record: Record<'_>) -> Result<Value, String> {
        let map = require_map(value, PURPOSE)?;
        let field = |name: &String| (name.clone(), map.get(name).cloned().unwrap_or(Value::Null));
        Ok(Value::Object(self.fields.iter().map(field).collect()))
    }

    fn null(&self) -> Option<String> {
        Some(no_map("null", PURPOSE))
    }
}

impl Transform for ValueToKey {
    fn apply(&mut self, batch: Batch) -> Transformed {
        let (keys, refused) = edit_values(self, batch.values.clone(), &batch);
        without(Side::Key.put(batch, keys), refused)
    }

    fn needs_keys(&self) -> bool {
        true
    }
}

struct SetSchemaMetadata {
    side: Side,
    name: Option<String>,
    version: Option<i32>,
    replace_null_with_default: bool,
}

/// Builds `SetSchemaMetadata` of `side`. The schema of a key is not kept, so there it only checks that there is one.
pub(crate) fn build_schema(settings: &Settings, side: Side) -> Result<Box<dyn Transform>, Invalid> {
    let name = settings.string(&SCHEMA_NAME)?;
    let version = settings.string(&SCHEMA_VERSION)?.and_then(|version| version.parse().ok());
    if name.is_none() && version.is_none() {
        return Err(Invalid::new(SCHEMA_NAME.name, "Neither schema name nor version configured"));
    }
    let replace_null_with_default = settings.boolean(&REPLACE_NULL_WITH_DEFAULT)?;
    Ok(Box::new(SetSchemaMetadata { side, name, version, replace_null_with_default }))
}

impl Transform for SetSchemaMetadata {
    fn apply(&mut self, mut batch: Batch) -> Transformed {
        let columns = match self.side.of(&batch) {
            Values::Typed(columns) => with_defaults(&columns, self.replace_null_with_default),
            Values::Schemaless(texts) => {
                let reason = "Schema required for [updating schema metadata]";
                let rows = (0..texts.len()).filter(|row| texts.is_valid(*row));
                let refused: Refused = rows.map(|row| (row, reason.to_owned())).collect();
                return without(batch, refused);
            }
        };
        batch = self.side.put(batch, Values::Typed(columns));
        if self.side == Side::Value {
            let mut schema = batch.schema.as_deref().cloned().unwrap_or_default();
            schema.name = self.name.clone().or(schema.name);
            schema.version = self.version.or(schema.version);
            batch.schema = Some(Arc::new(schema));
        }
        Transformed { batch, rejected: Vec::new() }
    }

    fn needs_keys(&self) -> bool {
        self.side == Side::Key
    }
}

struct DropHeaders {
    headers: Vec<String>,
}

/// Builds `DropHeaders`.
pub(crate) fn build_drop_headers(settings: &Settings) -> Result<Box<dyn Transform>, Invalid> {
    Ok(Box::new(DropHeaders { headers: settings.list(&HEADERS)? }))
}

impl Transform for DropHeaders {
    fn apply(&mut self, mut batch: Batch) -> Transformed {
        if let Some(all) = &mut batch.headers {
            for of_row in Arc::make_mut(all) {
                of_row.retain(|(name, _)| !self.headers.contains(name));
            }
        }
        Transformed { batch, rejected: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::DEFAULT_MARK;
    use crate::values::testing::{batch, build, ints, rows, schemaless, texts, transform, typed};
    use arrow::datatypes::{DataType, Field};

    #[test]
    fn fields_of_the_value_become_the_key() {
        let mut to_key = transform("value-to-key", &[("fields", "b,a")]);
        let made = to_key.apply(schemaless(&[r#"{"a":1,"c":2}"#, "null"]));
        assert_eq!(rows(made.batch.key_values.as_ref().unwrap()), [r#"{"b":null,"a":1}"#]);
        assert_eq!(
            made.rejected[0].reason,
            "Only Map objects supported in absence of schema for [copying fields from value to key], found: null"
        );
        let made = to_key.apply(typed(vec![("a", ints(vec![Some(1)])), ("b", texts(vec![Some("x")]))])).batch;
        assert_eq!(rows(made.key_values.as_ref().unwrap()), ["{b: x, a: 1}"]);
        let made = to_key.apply(typed(vec![("a", ints(vec![Some(1)]))]));
        assert_eq!(made.rejected[0].reason, "Field does not exist: b");
    }

    #[test]
    fn the_schema_gets_name_and_version() {
        let mut set = transform("set-schema-metadata-value", &[("schema.name", "n"), ("schema.version", "42")]);
        let schema = set.apply(typed(vec![("a", ints(vec![Some(1)]))])).batch.schema.unwrap();
        assert_eq!((schema.name.as_deref(), schema.version), (Some("n"), Some(42)));
        let made = set.apply(schemaless(&["1", "null"]));
        assert_eq!(made.batch.len(), 1, "nothing has no schema and needs none");
        assert_eq!(made.rejected[0].reason, "Schema required for [updating schema metadata]");
        let error = build("set-schema-metadata-value", &[]).err().unwrap();
        assert_eq!(error.message, "Neither schema name nor version configured");
    }

    #[test]
    fn a_default_stands_for_a_null_where_told() {
        let field = Field::new("a", DataType::Int64, true).with_metadata([(DEFAULT_MARK.into(), "42".into())].into());
        let columns = StructArray::new(vec![field].into(), vec![ints(vec![None])], None);
        for (replace, expected) in [("true", "{a: 42}"), ("false", "{a: null}")] {
            let pairs = [("schema.name", "n"), ("replace.null.with.default", replace)];
            let made = transform("set-schema-metadata-value", &pairs).apply(batch(Values::Typed(columns.clone())));
            assert_eq!(rows(&made.batch.values), [expected]);
        }
    }

    #[test]
    fn named_headers_are_removed() {
        let mut batch = schemaless(&["1"]);
        let header = |name: &str| (name.to_owned(), None);
        batch.headers = Some(Arc::new(vec![vec![header("a"), header("b"), header("a")]]));
        let made = transform("drop-headers", &[("headers", "a,x")]).apply(batch).batch;
        assert_eq!(made.headers.unwrap()[0], [header("b")]);
    }
}
