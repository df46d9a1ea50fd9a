//! A path to one field (`org.apache.kafka.connect.transforms.field.SingleFieldPath`).

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::datatypes::FieldRef;
use model::{Check, Importance, Key, Kind};
use serde_json::Value;

use crate::values::{class_of, class_of_type, masked, no_map, with_defaults};

/// Which language [`FieldPath`]s are written in.
pub(crate) const FIELD_SYNTAX_VERSION: Key = Key::new(
    "field.syntax.version",
    Kind::String,
    "V1: the text is the name of a field. V2: dots lead into nested fields, and backticks keep dots in a name.",
)
.default("V1")
.check(Check::OneOfIgnoringCase(&["V1", "V2"]))
.importance(Importance::High);

/// Names that lead from a record to a field; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldPath {
    outer: Vec<String>,
    last: String,
}

impl FieldPath {
    /// Reads `text` in the language `version`.
    pub(crate) fn new(text: &str, version: &str) -> Result<FieldPath, String> {
        if version.eq_ignore_ascii_case("V1") {
            return Ok(FieldPath { outer: Vec::new(), last: text.to_owned() });
        }
        let mut outer = steps(text)?;
        let last = outer.pop().unwrap_or_default();
        Ok(FieldPath { outer, last })
    }

    /// The field `last` in the struct that `outer` leads to.
    pub(crate) fn of(outer: Vec<String>, last: String) -> FieldPath {
        FieldPath { outer, last }
    }

    /// The field and its column, with the nulls of the structs that it lies in; `None` if there is no such field.
    pub(crate) fn column(
        &self,
        columns: &StructArray,
        replace_null_with_default: bool,
    ) -> Result<Option<(FieldRef, ArrayRef)>, String> {
        let mut parent = columns.clone();
        for name in &self.outer {
            let Some(column) = with_defaults(&parent, true).column_by_name(name).cloned() else { return Ok(None) };
            let column = masked(&column, parent.nulls())?;
            parent = match column.as_struct_opt() {
                Some(inner) => inner.clone(),
                None => {
                    let class = class_of_type(column.data_type());
                    return Err(format!("Only Struct objects supported for [nested field access], found: {class}"));
                }
            };
        }
        let parent = with_defaults(&parent, replace_null_with_default);
        let Some((index, field)) = parent.fields().find(&self.last) else { return Ok(None) };
        Ok(Some((field.clone(), masked(parent.column(index), parent.nulls())?)))
    }

    /// The field in `record`, an object; null if it or one that it lies in is not there.
    pub(crate) fn find<'a>(&self, record: &'a serde_json::Map<String, Value>) -> Result<&'a Value, String> {
        let mut record = record;
        for name in &self.outer {
            record = match record.get(name) {
                None | Some(Value::Null) => return Ok(&Value::Null),
                Some(Value::Object(inner)) => inner,
                Some(other) => return Err(no_map(class_of(other), "nested field access")),
            };
        }
        Ok(record.get(&self.last).unwrap_or(&Value::Null))
    }
}

/// The steps of a V2 path.
fn steps(path: &str) -> Result<Vec<String>, String> {
    let mut steps = Vec::new();
    let mut rest = path;
    loop {
        let (step, after) = match rest.strip_prefix('`') {
            Some(quoted) => {
                let at = path.len() - rest.len();
                quoted_step(quoted).ok_or_else(|| {
                    format!(
                        "Incomplete backtick pair in path: [{path}], consider adding a backslash before backtick at \
                         position {at} to escape it"
                    )
                })?
            }
            None => match rest.split_once('.') {
                Some((step, after)) => (step.to_owned(), Some(after)),
                None => (rest.to_owned(), None),
            },
        };
        steps.push(step);
        match after {
            Some(after) => rest = after,
            None => return Ok(steps),
        }
    }
}

/// The step that ends with a backtick before a dot or the end, and what follows the dot. A backslash before such a
/// backtick makes it part of the name.
fn quoted_step(text: &str) -> Option<(String, Option<&str>)> {
    let mut step = String::new();
    let mut start = 0;
    for (at, _) in text.match_indices('`') {
        let escaped = text[..at].ends_with('\\');
        let after = &text[at + 1..];
        if after.is_empty() {
            step.push_str(&text[start..at]);
            return (!escaped).then_some((step, None));
        }
        let Some(after) = after.strip_prefix('.') else { continue };
        if escaped {
            step.push_str(&text[start..at - 1]);
            step.push('`');
            start = at + 1;
            continue;
        }
        step.push_str(&text[start..at]);
        return Some((step, Some(after)));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_as_upstream_splits_them() {
        for (text, expected) in [
            ("foo", vec!["foo"]),
            ("foo.bar.baz", vec!["foo", "bar", "baz"]),
            ("foo..bar", vec!["foo", "", "bar"]),
            ("foo.bar.", vec!["foo", "bar", ""]),
            ("`foo.bar`.baz", vec!["foo.bar", "baz"]),
            ("foo.`bar.baz`", vec!["foo", "bar.baz"]),
            ("`foo.bar.baz`", vec!["foo.bar.baz"]),
            ("foo.b`ar", vec!["foo", "b`ar"]),
            ("`foo`bar`.baz", vec!["foo`bar", "baz"]),
            (r"`foo\`.bar`.baz", vec!["foo`.bar", "baz"]),
        ] {
            assert_eq!(steps(text).unwrap(), expected, "{text}");
        }
        for bad in ["`foo", "`foo.bar", r"`foo\`", "`"] {
            assert!(steps(bad).unwrap_err().starts_with("Incomplete backtick pair in path: ["), "{bad}");
        }
    }

    #[test]
    fn v1_takes_the_text_as_one_name() {
        let record = serde_json::json!({"a.b": 1, "a": {"b": 2, "c": 3}});
        let record = record.as_object().unwrap();
        assert_eq!(FieldPath::new("a.b", "v1").unwrap().find(record), Ok(&Value::from(1)));
        assert_eq!(FieldPath::new("a.b", "V2").unwrap().find(record), Ok(&Value::from(2)));
        assert_eq!(FieldPath::new("a.x.y", "V2").unwrap().find(record), Ok(&Value::Null));
        let error = FieldPath::new("a.c.y", "V2").unwrap().find(record).unwrap_err();
        assert!(error.ends_with("[nested field access], found: java.lang.Long"), "{error}");
    }
}
