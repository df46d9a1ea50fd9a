//! Transforms of Confluent's own package: `ExtractTopic`, `Drop`, `TombstoneHandler`, and `Filter`, which is refused.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use model::{Batch, Check, Importance, Invalid, Key, Kind, Settings, Values, is_whole_value};
use serde_json::Value;

use crate::field_path::FieldPath;
use crate::values::{
    Refused, Side, class_of, class_of_type, keep_rows, no_map, nulls_like, parse, require_struct, topic, without,
};
use crate::{Transform, Transformed};

const PURPOSE: &str = "topic extraction";

const FIELD: Key = Key::new(
    "field",
    Kind::String,
    "Field whose text is the new topic, or the name of the header. Without it the whole key or value is the topic.",
)
.default("")
.importance(Importance::Medium);
const HEADER: Key = Key::new("field", Kind::String, "Name of the header whose text is the new topic.")
    .required()
    .check(Check::NotEmpty)
    .importance(Importance::Medium);
const FIELD_FORMAT: Key = Key::new(
    "field.format",
    Kind::String,
    "PLAIN: field is the name of a field. JSON_PATH: it is a path of names, such as $.a.b or $[\"a\"][\"b\"].",
)
.default("PLAIN")
.check(Check::OneOfIgnoringCase(&["", "PLAIN", "JSON_PATH"]))
.importance(Importance::Medium);
const SKIP_MISSING_OR_NULL: Key = Key::new(
    "skip.missing.or.null",
    Kind::Boolean,
    "Whether a record without the field keeps its topic. It is an error otherwise.",
)
.default("false")
.importance(Importance::Low);
const SCHEMA_BEHAVIOR: Key = Key::new(
    "schema.behavior",
    Kind::String,
    "What becomes of the schema. A null needs none here, and whether a whole value is optional is not kept, so that all \
     four do the same.",
)
.default("nullify")
.check(Check::OneOfIgnoringCase(&["nullify", "retain", "validate", "force_optional"]))
.importance(Importance::Medium);
const BEHAVIOR: Key = Key::new(
    "behavior",
    Kind::String,
    "ignore and warn drop tombstones, here both without a word in the log; fail makes each an error.",
)
.default("warn")
.check(Check::OneOfIgnoringCase(&["ignore", "warn", "fail"]))
.importance(Importance::Medium);
const FILTER_CONDITION: Key = Key::new(
    "filter.condition",
    Kind::String,
    "JSON path that says which records are meant. Not built: the transform is refused.",
)
.importance(Importance::High);

/// The keys of `ExtractTopic$Key` and `ExtractTopic$Value`.
pub(crate) const EXTRACT_TOPIC_KEYS: &[Key] = &[FIELD, FIELD_FORMAT, SKIP_MISSING_OR_NULL];
/// The keys of `ExtractTopic$Header`.
pub(crate) const EXTRACT_TOPIC_HEADER_KEYS: &[Key] = &[HEADER, SKIP_MISSING_OR_NULL];
/// The keys of `Drop`.
pub(crate) const DROP_KEYS: &[Key] = &[SCHEMA_BEHAVIOR];
/// The keys of `TombstoneHandler`.
pub(crate) const TOMBSTONE_KEYS: &[Key] = &[BEHAVIOR];
/// The keys of `Filter`.
pub(crate) const FILTER_KEYS: &[Key] = &[FILTER_CONDITION];

/// Refuses Confluent's `Filter`: its conditions are JSON paths with predicates.
pub(crate) fn refuse_filter(_settings: &Settings) -> Result<Box<dyn Transform>, Invalid> {
    Err(Invalid::new(
        "type",
        "sluice does not evaluate the JSON path of filter.condition. Use org.apache.kafka.connect.transforms.Filter with a \
         predicate (RecordIsTombstone, HasHeaderKey or TopicNameMatches) instead.",
    ))
}

/// Where the topic is read.
enum From {
    /// All of the key or value.
    Whole(Side),
    /// A field of it; with the path as it was configured.
    Field(Side, FieldPath, String),
    /// The last header of this name.
    Header(String),
}

struct ExtractTopic {
    from: From,
    skip: bool,
}

/// Builds `ExtractTopic` of `side`.
pub(crate) fn build_extract_topic(settings: &Settings, side: Side) -> Result<Box<dyn Transform>, Invalid> {
    let text = settings.required_string(&FIELD)?;
    let skip = settings.boolean(&SKIP_MISSING_OR_NULL)?;
    let is_json_path = settings.required_string(&FIELD_FORMAT)?.eq_ignore_ascii_case("JSON_PATH");
    let from = match (text.is_empty(), is_json_path) {
        (true, _) => From::Whole(side),
        (false, false) => From::Field(side, FieldPath::of(Vec::new(), text.clone()), text),
        (false, true) => match json_path(&text) {
            Some(path) => From::Field(side, path, text),
            None => {
                let why = "sluice reads JSON paths of names only, such as $.a.b or $[\"a\"][\"b\"]";
                return Err(Invalid::value(&FIELD, &text, why));
            }
        },
    };
    Ok(Box::new(ExtractTopic { from, skip }))
}

/// Builds `ExtractTopic$Header`.
pub(crate) fn build_extract_topic_header(settings: &Settings) -> Result<Box<dyn Transform>, Invalid> {
    let from = From::Header(settings.required_string(&HEADER)?);
    Ok(Box::new(ExtractTopic { from, skip: settings.boolean(&SKIP_MISSING_OR_NULL)? }))
}

/// A JSON path that is nothing but names: `$`, then `.name`, `['name']` or `["name"]` again and again.
fn json_path(text: &str) -> Option<FieldPath> {
    let mut rest = text.strip_prefix('$')?;
    let mut names = Vec::new();
    while !rest.is_empty() {
        let (name, after) = if let Some(quoted) = rest.strip_prefix("[\"") {
            quoted.split_once("\"]")?
        } else if let Some(quoted) = rest.strip_prefix("['") {
            quoted.split_once("']")?
        } else {
            let plain = rest.strip_prefix('.')?;
            let end = plain.find(['.', '[']).unwrap_or(plain.len());
            let (name, after) = plain.split_at(end);
            if name.contains(['*', '?', '@', '(']) {
                return None;
            }
            (name, after)
        };
        if name.is_empty() || name.contains(['"', '\'', '\\']) {
            return None;
        }
        names.push(name.to_owned());
        rest = after;
    }
    let last = names.pop()?;
    Some(FieldPath::of(names, last))
}

/// The new topics, one for each row: nothing where a record names none; or why a record is refused.
type Topics = Vec<Result<Option<String>, String>>;

impl ExtractTopic {
    fn topics(&self, batch: &Batch) -> Topics {
        match &self.from {
            From::Header(name) => (0..batch.len()).map(|row| header(batch, row, name)).collect(),
            From::Whole(side) | From::Field(side, ..) => match side.of(batch) {
                Values::Schemaless(texts) => (0..batch.len()).map(|row| self.schemaless(parse(&texts, row)?)).collect(),
                Values::Typed(columns) => match self.typed(&Values::Typed(columns)) {
                    Ok(Some(texts)) => {
                        let texts = texts.as_string::<i32>();
                        texts.iter().map(|text| Ok(text.map(str::to_owned))).collect()
                    }
                    Ok(None) => vec![Ok(None); batch.len()],
                    Err(reason) => vec![Err(reason); batch.len()],
                },
            },
        }
    }

    /// The texts of typed keys or values; `None` if they have no such field.
    fn typed(&self, values: &Values) -> Result<Option<ArrayRef>, String> {
        let Values::Typed(columns) = values else { return Ok(None) };
        let column = match &self.from {
            From::Whole(_) if is_whole_value(columns.fields()) => columns.column(0).clone(),
            From::Whole(_) => return Err(no_text("org.apache.kafka.connect.data.Struct")),
            From::Header(_) => return Ok(None),
            From::Field(_, path, _) => {
                require_struct(columns, PURPOSE)?;
                match path.column(columns, false)? {
                    Some((_, column)) => column,
                    None => return Ok(None),
                }
            }
        };
        match column.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                cast(&column, &DataType::Utf8).map(Some).map_err(|error| error.to_string())
            }
            other => Err(no_text(class_of_type(other))),
        }
    }

    fn schemaless(&self, value: Value) -> Result<Option<String>, String> {
        let found = match &self.from {
            From::Whole(_) => value,
            From::Header(_) => return Ok(None),
            From::Field(_, path, _) => match value {
                Value::Null => Value::Null,
                Value::Object(map) => path.find(&map)?.clone(),
                other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                    return Err(no_map(class_of(&other), PURPOSE));
                }
            },
        };
        match found {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Err(no_text(class_of(&other)))
            }
        }
    }

    /// The reason to refuse a record that names no topic.
    fn missing(&self) -> String {
        match &self.from {
            From::Whole(Side::Key) => "the key is null, so that it names no topic".to_owned(),
            From::Whole(Side::Value) => "the value is null, so that it names no topic".to_owned(),
            From::Field(_, _, text) => format!("field {text} is missing, null or empty, so that it names no topic"),
            From::Header(name) => format!("header {name} is missing, null or empty, so that it names no topic"),
        }
    }
}

fn no_text(class: &str) -> String {
    format!("a topic must be a text, found: {class}")
}

/// The text of the last header called `name`, as SimpleHeaderConverter reads texts.
fn header(batch: &Batch, row: usize, name: &str) -> Result<Option<String>, String> {
    let of_row = batch.headers.as_ref().and_then(|all| all.get(row));
    let Some((_, Some(bytes))) = of_row.and_then(|all| all.iter().rev().find(|(known, _)| known == name)) else {
        return Ok(None);
    };
    let text: Cow<'_, str> = match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => return Err(format!("header {name} is no text, so that it names no topic")),
    };
    Ok(Some(serde_json::from_str::<String>(&text).unwrap_or_else(|_| text.into_owned())))
}

impl Transform for ExtractTopic {
    fn apply(&mut self, mut batch: Batch) -> Transformed {
        let mut refused = Refused::new();
        let mut topics = StringBuilder::with_capacity(batch.len(), batch.len() * 16);
        for (row, found) in self.topics(&batch).into_iter().enumerate() {
            match found {
                Ok(Some(name)) if !name.is_empty() => topics.append_value(name),
                Ok(Some(_) | None) => {
                    topics.append_value(topic(&batch, row));
                    if !self.skip {
                        refused.push((row, self.missing()));
                    }
                }
                Err(reason) => {
                    topics.append_value(topic(&batch, row));
                    refused.push((row, reason));
                }
            }
        }
        let topics: StringArray = topics.finish();
        batch.topics = Some(topics);
        without(batch, refused)
    }

    fn needs_keys(&self) -> bool {
        match &self.from {
            From::Whole(side) | From::Field(side, ..) => *side == Side::Key,
            From::Header(_) => false,
        }
    }
}

struct Drop {
    side: Side,
}

/// Builds `Drop` of `side`.
pub(crate) fn build_drop(settings: &Settings, side: Side) -> Result<Box<dyn Transform>, Invalid> {
    settings.required_string(&SCHEMA_BEHAVIOR)?;
    Ok(Box::new(Drop { side }))
}

/// As many nulls, in the same form.
fn nulls(values: &Values) -> Values {
    match values {
        Values::Typed(columns) => Values::Typed(nulls_like(columns, columns.len())),
        Values::Schemaless(texts) => Values::Schemaless(BinaryArray::new_null(texts.len())),
    }
}

impl Transform for Drop {
    fn apply(&mut self, mut batch: Batch) -> Transformed {
        match self.side {
            Side::Value => batch.values = nulls(&batch.values),
            Side::Key => {
                batch.keys = BinaryArray::new_null(batch.len());
                batch.key_values = batch.key_values.as_ref().map(nulls);
            }
        }
        Transformed { batch, rejected: Vec::new() }
    }
}

struct TombstoneHandler {
    fails: bool,
}

/// Builds `TombstoneHandler`.
pub(crate) fn build_tombstone_handler(settings: &Settings) -> Result<Box<dyn Transform>, Invalid> {
    let fails = settings.required_string(&BEHAVIOR)?.eq_ignore_ascii_case("fail");
    Ok(Box::new(TombstoneHandler { fails }))
}

impl Transform for TombstoneHandler {
    fn apply(&mut self, batch: Batch) -> Transformed {
        let Some(nulls) = batch.values.nulls().filter(|nulls| nulls.null_count() > 0).cloned() else {
            return Transformed { batch, rejected: Vec::new() };
        };
        if !self.fails {
            return Transformed { batch: keep_rows(batch, |row| nulls.is_valid(row)), rejected: Vec::new() };
        }
        let reason = "the record is a tombstone, and the transform's behavior is fail";
        let refused = (0..batch.len()).filter(|row| nulls.is_null(*row)).map(|row| (row, reason.to_owned()));
        let refused = refused.collect();
        without(batch, refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::{
        build, columns, ints, rows, schemaless, settings, texts, transform, typed, whole_texts,
    };
    use std::sync::Arc;

    const FROM_VALUE: &str = "io.confluent.connect.transforms.ExtractTopic$Value";
    const FROM_KEY: &str = "io.confluent.connect.transforms.ExtractTopic$Key";
    const FROM_HEADER: &str = "io.confluent.connect.transforms.ExtractTopic$Header";

    /// The topics of the rows that are kept, and the reasons of the others.
    fn topics(name: &str, pairs: &[(&str, &str)], batch: Batch) -> (Vec<String>, Vec<String>) {
        let made = transform(name, pairs).apply(batch);
        assert_eq!(made.batch.len(), made.batch.topics.as_ref().unwrap().len());
        let kept = made.batch.topics.unwrap().iter().map(|topic| topic.unwrap().to_owned()).collect();
        (kept, made.rejected.into_iter().map(|rejected| rejected.reason).collect())
    }

    #[test]
    fn a_field_names_the_topic() {
        let values = [r#"{"t":"a"}"#, r#"{"t":null}"#, "{}", r#"{"t":""}"#, "null", r#"{"t":7}"#];
        let missing = "field t is missing, null or empty, so that it names no topic";
        let (kept, reasons) = topics(FROM_VALUE, &[("field", "t")], schemaless(&values));
        assert_eq!(kept, ["a"]);
        assert_eq!(reasons, [&[missing; 4][..], &["a topic must be a text, found: java.lang.Long"]].concat());
        let skips = [("field", "t"), ("skip.missing.or.null", "true")];
        assert_eq!(topics(FROM_VALUE, &skips, schemaless(&values)).0, ["a", "test", "test", "test", "test"]);
        let of_columns = || typed(vec![("t", texts(vec![Some("a"), None])), ("n", ints(vec![Some(1), None]))]);
        assert_eq!(topics(FROM_VALUE, &[("field", "t")], of_columns()), (vec!["a".into()], vec![missing.into()]));
        assert_eq!(topics(FROM_VALUE, &skips, of_columns()).0, ["a", "test"]);
        assert_eq!(topics(FROM_VALUE, &[("field", "n")], of_columns()).0.len(), 0);
        let no_field = [("field", "x"), ("skip.missing.or.null", "true")];
        assert_eq!(topics(FROM_VALUE, &no_field, of_columns()).0, ["test", "test"]);
    }

    #[test]
    fn a_whole_key_or_value_names_the_topic() {
        assert_eq!(topics(FROM_VALUE, &[], schemaless(&[r#""a""#])).0, ["a"]);
        let made = topics(FROM_VALUE, &[], whole_texts(vec![Some("a"), None]));
        assert_eq!(made, (vec!["a".into()], vec!["the value is null, so that it names no topic".into()]));
        assert_eq!(topics(FROM_VALUE, &[], typed(vec![("a", ints(vec![Some(1)]))])).1.len(), 1);
        let mut batch = schemaless(&["1", "2"]);
        batch.key_values = Some(whole_texts(vec![Some("k"), None]).values);
        let made = topics(FROM_KEY, &[], batch);
        assert_eq!(made, (vec!["k".into()], vec!["the key is null, so that it names no topic".into()]));
        assert!(transform(FROM_KEY, &[]).needs_keys() && !transform(FROM_VALUE, &[]).needs_keys());
    }

    #[test]
    fn json_paths_of_names_lead_to_nested_fields() {
        let pairs = |path| [("field", path), ("field.format", "JSON_PATH")];
        for path in ["$.a.b", r#"$["a"]["b"]"#, "$['a'].b"] {
            assert_eq!(topics(FROM_VALUE, &pairs(path), schemaless(&[r#"{"a":{"b":"x"}}"#])).0, ["x"], "{path}");
            let inner = Arc::new(columns(vec![("b", texts(vec![Some("x")]))]));
            assert_eq!(topics(FROM_VALUE, &pairs(path), typed(vec![("a", inner)])).0, ["x"], "{path}");
        }
        for bad in ["a.b", "$", "$..a", "$.a[0]", "$.*", "$.a[?(@.b)]", "$[\"a"] {
            assert!(build(FROM_VALUE, &pairs(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_header_names_the_topic() {
        let mut batch = schemaless(&["1", "2", "3", "4"]);
        let header = |text: &[u8]| ("h".to_owned(), Some(text.to_vec()));
        batch.headers = Some(
            vec![vec![header(b"old"), header(b"new")], vec![header(b"\"quoted\"")], vec![], vec![header(b"\xff")]]
                .into(),
        );
        let (kept, reasons) = topics(FROM_HEADER, &[("field", "h")], batch);
        assert_eq!(kept, ["new", "quoted"]);
        assert_eq!(
            reasons,
            [
                "header h is missing, null or empty, so that it names no topic",
                "header h is no text, so that it names no topic"
            ]
        );
        assert!(build(FROM_HEADER, &[]).is_err());
    }

    #[test]
    fn a_dropped_side_is_null() {
        let drop = |name: &str, batch| transform(name, &[]).apply(batch).batch;
        let name = "io.confluent.connect.transforms.Drop$Value";
        assert_eq!(rows(&drop(name, schemaless(&["1", "null"])).values), ["null", "null"]);
        assert_eq!(rows(&drop(name, typed(vec![("a", ints(vec![Some(1)]))])).values), ["null"]);
        let mut batch = schemaless(&["1"]);
        batch.keys = BinaryArray::from(vec![&b"k"[..]]);
        batch.key_values = Some(whole_texts(vec![Some("k")]).values);
        let made = drop("io.confluent.connect.transforms.Drop$Key", batch);
        assert_eq!((rows(&made.values), rows(&made.key_values.unwrap())), (vec!["1".into()], vec!["null".into()]));
        assert!(made.keys.is_null(0));
    }

    #[test]
    fn tombstones_are_dropped_or_refused() {
        let name = "io.confluent.connect.transforms.TombstoneHandler";
        for behavior in ["warn", "ignore"] {
            let made = transform(name, &[("behavior", behavior)]).apply(schemaless(&["1", "null", "2"]));
            assert_eq!((made.batch.offsets.as_ref(), made.rejected.len()), (&[10, 12][..], 0));
        }
        let made = transform(name, &[("behavior", "fail")]).apply(whole_texts(vec![Some("x"), None]));
        assert_eq!((made.batch.len(), made.rejected[0].row), (1, 1));
    }

    #[test]
    fn a_filter_by_json_path_is_refused_with_the_way_out() {
        let pairs = [
            ("transforms", "f"),
            ("transforms.f.type", "io.confluent.connect.transforms.Filter$Value"),
            ("transforms.f.filter.condition", "$[?(@.a == 1)]"),
        ];
        let problems = crate::check(&settings(&pairs));
        assert_eq!(problems[0].key, "transforms.f.type");
        assert!(problems[0].message.contains("Use org.apache.kafka.connect.transforms.Filter with a predicate"));
    }
}
