//! `ReplaceField`: leaves fields out and renames them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StructArray};
use arrow::datatypes::FieldRef;
use model::{Batch, Check, Importance, Invalid, Key, Kind, Settings};
use serde_json::{Map, Value};

use crate::Transform;
use crate::keys::REPLACE_NULL_WITH_DEFAULT;
use crate::values::{Columns, Edit, OnSide, Record, Side, require_map, require_struct, struct_of, with_defaults};

const PURPOSE: &str = "field replacement";

const EXCLUDE: Key = Key::new("exclude", Kind::List, "Fields to leave out; this goes before the fields to include.")
    .default("")
    .importance(Importance::Medium);
const INCLUDE: Key =
    Key::new("include", Kind::List, "Fields to keep; all when empty.").default("").importance(Importance::Medium);
const BLACKLIST: Key =
    Key::new("blacklist", Kind::List, "The name of exclude before Kafka 2.6; read when exclude is not given.");
const WHITELIST: Key =
    Key::new("whitelist", Kind::List, "The name of include before Kafka 2.6; read when include is not given.");
const RENAMES: Key = Key::new("renames", Kind::List, "New names of fields, as pairs old:new.")
    .default("")
    .check(Check::With(check_renames))
    .importance(Importance::Medium);

/// The keys of the transform.
pub(crate) const KEYS: &[Key] = &[EXCLUDE, INCLUDE, RENAMES, REPLACE_NULL_WITH_DEFAULT, BLACKLIST, WHITELIST];

fn check_renames(text: &str) -> Result<(), String> {
    text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).try_for_each(|pair| rename(pair).map(|_| ()))
}

fn rename(pair: &str) -> Result<(String, String), String> {
    match pair.split(':').collect::<Vec<_>>().as_slice() {
        [old, new] if !new.is_empty() => Ok(((*old).to_owned(), (*new).to_owned())),
        _other_count => Err(format!("Invalid rename mapping: {pair}")),
    }
}

#[derive(Debug, Default)]
pub(crate) struct ReplaceField {
    pub(crate) exclude: Vec<String>,
    include: Vec<String>,
    renames: Vec<(String, String)>,
    replace_null_with_default: bool,
}

/// Builds the transform of `side`.
pub(crate) fn build(settings: &Settings, side: Side) -> Result<Box<dyn Transform>, Invalid> {
    let list = |new: &Key, old: &Key| settings.list(if settings.is_set(new) { new } else { old });
    let renames = settings.list(&RENAMES)?;
    let renames = renames.iter().map(|pair| rename(pair).map_err(|why| Invalid::value(&RENAMES, pair, why)));
    let edit = ReplaceField {
        exclude: list(&EXCLUDE, &BLACKLIST)?,
        include: list(&INCLUDE, &WHITELIST)?,
        renames: renames.collect::<Result<_, _>>()?,
        replace_null_with_default: settings.boolean(&REPLACE_NULL_WITH_DEFAULT)?,
    };
    Ok(Box::new(OnSide { side, edit }))
}

impl ReplaceField {
    /// The name that `field` gets; `None` if it is left out.
    fn renamed<'a>(&'a self, field: &'a str) -> Option<&'a str> {
        let is_in = |list: &[String]| list.iter().any(|name| name == field);
        if is_in(&self.exclude) || !(self.include.is_empty() || is_in(&self.include)) {
            return None;
        }
        Some(self.renames.iter().rev().find(|(old, _)| old == field).map_or(field, |(_, new)| new))
    }
}

impl Edit for ReplaceField {
    fn typed(&self, columns: &StructArray, _batch: &Batch) -> Result<Columns, String> {
        require_struct(columns, PURPOSE)?;
        let old = with_defaults(columns, self.replace_null_with_default);
        let mut fields: Vec<FieldRef> = Vec::with_capacity(old.num_columns());
        let mut kept: Vec<ArrayRef> = Vec::with_capacity(old.num_columns());
        for (field, column) in old.fields().iter().zip(old.columns()) {
            let Some(name) = self.renamed(field.name()) else { continue };
            fields.push(if name == field.name() {
                field.clone()
            } else {
                Arc::new(field.as_ref().clone().with_name(name))
            });
            kept.push(column.clone());
        }
        Ok(struct_of(fields, kept, columns.nulls(), columns.len())?.into())
    }

    fn schemaless(&self, value: Value, _record: Record<'_>) -> Result<Value, String> {
        if value.is_null() {
            return Ok(value);
        }
        let mut kept = Map::new();
        for (name, value) in require_map(value, PURPOSE)? {
            if let Some(renamed) = self.renamed(&name) {
                kept.insert(renamed.to_owned(), value);
            }
        }
        Ok(Value::Object(kept))
    }
}

#[cfg(test)]
mod tests {

    use crate::values::testing::{build, ints, run, schemaless, texts, transform, typed};

    const UPSTREAM: &[(&str, &str)] = &[("exclude", "dont"), ("renames", "abc:xyz,foo:bar")];

    #[test]
    fn fields_are_left_out_and_renamed_in_both_forms() {
        let map = r#"{"dont":"whatever","abc":42,"foo":true,"etc":"etc"}"#;
        let made = run(&mut *transform("replace-field-value", UPSTREAM), schemaless(&[map, "null"]));
        assert_eq!(made.0, [r#"{"xyz":42,"bar":true,"etc":"etc"}"#, "null"]);
        let columns = typed(vec![
            ("dont", texts(vec![Some("whatever")])),
            ("abc", ints(vec![Some(42)])),
            ("foo", ints(vec![None])),
            ("etc", texts(vec![Some("etc")])),
        ]);
        let made = run(&mut *transform("replace-field-value", UPSTREAM), columns);
        assert_eq!(made.0, ["{xyz: 42, bar: null, etc: etc}"]);
    }

    #[test]
    fn only_included_fields_are_kept_also_under_the_old_names() {
        for key in ["include", "whitelist"] {
            let made =
                run(&mut *transform("replace-field-value", &[(key, "b,c")]), schemaless(&[r#"{"a":1,"b":2,"c":3}"#]));
            assert_eq!(made.0, [r#"{"b":2,"c":3}"#]);
        }
        let made =
            run(&mut *transform("replace-field-value", &[("blacklist", "b")]), schemaless(&[r#"{"a":1,"b":2}"#]));
        assert_eq!(made.0, [r#"{"a":1}"#]);
    }

    #[test]
    fn all_columns_may_be_left_out() {
        let columns = typed(vec![("a", ints(vec![Some(1), Some(2)]))]);
        assert_eq!(run(&mut *transform("replace-field-value", &[("exclude", "a")]), columns).0, ["{}", "{}"]);
    }

    #[test]
    fn two_fields_of_one_name_are_refused() {
        let columns = typed(vec![("a", ints(vec![Some(1)])), ("b", ints(vec![Some(2)]))]);
        let made = run(&mut *transform("replace-field-value", &[("renames", "a:b")]), columns);
        assert_eq!(made.1, ["Cannot create field because of field name duplication b"]);
    }

    #[test]
    fn a_wrong_renaming_is_refused() {
        let error = build("replace-field-value", &[("renames", "a:b:c")]).err().unwrap();
        assert_eq!(error.message, "Invalid value a:b:c for configuration renames: Invalid rename mapping: a:b:c");
    }
}
