//! The tables of all transforms and predicates that a configuration can name.

use model::{Invalid, Plugin, Settings};

use crate::values::Side::{Key, Value};
use crate::{BuildPredicate, BuildTransform, keys, predicates};
use crate::{
    archive, cast, confluent, debezium, extract_field, flatten, headers, hoist_field, insert_field, mask_field,
    metadata, replace_field, route, timestamp_converter,
};

/// Nothing to check beyond the keys and what building checks.
fn no_more(_settings: &Settings) -> Vec<Invalid> {
    Vec::new()
}

/// A line of [`TRANSFORMS`].
const fn transform(
    names: &'static [&'static str],
    doc: &'static str,
    keys: &'static [&'static [model::Key]],
    build: BuildTransform,
) -> Plugin<BuildTransform> {
    Plugin { names, doc, keys, check: no_more, build }
}

/// A line of [`PREDICATES`].
const fn predicate(
    names: &'static [&'static str],
    doc: &'static str,
    keys: &'static [&'static [model::Key]],
    build: BuildPredicate,
) -> Plugin<BuildPredicate> {
    Plugin { names, doc, keys, check: no_more, build }
}

/// The keys that each transform has beside its own.
const STEP: &[model::Key] = &[keys::PREDICATE, keys::NEGATE];

/// Every transform.
pub static TRANSFORMS: &[Plugin<BuildTransform>] = &[
    transform(
        &["archive", "com.github.jcustenborder.kafka.connect.archive.Archive"],
        "Makes a record of key, value, topic and timestamp the value.",
        &[STEP],
        archive::build,
    ),
    transform(
        &["cast-key", "org.apache.kafka.connect.transforms.Cast$Key"],
        "Casts fields of the key, or the whole key, to another type.",
        &[cast::KEYS, STEP],
        |settings| cast::build(settings, Key),
    ),
    transform(
        &["cast-value", "org.apache.kafka.connect.transforms.Cast$Value"],
        "Casts fields of the value, or the whole value, to another type.",
        &[cast::KEYS, STEP],
        |settings| cast::build(settings, Value),
    ),
    transform(
        &["confluent-filter-key", "io.confluent.connect.transforms.Filter$Key"],
        "Refused: sluice does not evaluate JSON paths. Filter with a predicate takes its place.",
        &[confluent::FILTER_KEYS, STEP],
        confluent::refuse_filter,
    ),
    transform(
        &["confluent-filter-value", "io.confluent.connect.transforms.Filter$Value"],
        "Refused: sluice does not evaluate JSON paths. Filter with a predicate takes its place.",
        &[confluent::FILTER_KEYS, STEP],
        confluent::refuse_filter,
    ),
    transform(
        &["drop-key", "io.confluent.connect.transforms.Drop$Key"],
        "Makes the key null.",
        &[confluent::DROP_KEYS, STEP],
        |settings| confluent::build_drop(settings, Key),
    ),
    transform(
        &["drop-value", "io.confluent.connect.transforms.Drop$Value"],
        "Makes the value null.",
        &[confluent::DROP_KEYS, STEP],
        |settings| confluent::build_drop(settings, Value),
    ),
    transform(
        &["drop-headers", "org.apache.kafka.connect.transforms.DropHeaders"],
        "Removes headers by name.",
        &[metadata::DROP_HEADERS_KEYS, STEP],
        metadata::build_drop_headers,
    ),
    transform(
        &["extract-new-record-state", "io.debezium.transforms.ExtractNewRecordState"],
        "Takes the row after the change out of a change event of Debezium. Plain JSON objects that have op and before or \
         after are taken for such events, though upstream leaves what has no schema alone.",
        &[debezium::KEYS, STEP],
        debezium::build,
    ),
    transform(
        &["extract-field-key", "org.apache.kafka.connect.transforms.ExtractField$Key"],
        "Makes one field of the key the whole key.",
        &[extract_field::KEYS, STEP],
        |settings| extract_field::build(settings, Key),
    ),
    transform(
        &["extract-field-value", "org.apache.kafka.connect.transforms.ExtractField$Value"],
        "Makes one field of the value the whole value.",
        &[extract_field::KEYS, STEP],
        |settings| extract_field::build(settings, Value),
    ),
    transform(
        &["extract-topic-header", "io.confluent.connect.transforms.ExtractTopic$Header"],
        "Makes the text of a header the topic.",
        &[confluent::EXTRACT_TOPIC_HEADER_KEYS, STEP],
        confluent::build_extract_topic_header,
    ),
    transform(
        &["extract-topic-key", "io.confluent.connect.transforms.ExtractTopic$Key"],
        "Makes the key, or a field of it, the topic.",
        &[confluent::EXTRACT_TOPIC_KEYS, STEP],
        |settings| confluent::build_extract_topic(settings, Key),
    ),
    transform(
        &["extract-topic-value", "io.confluent.connect.transforms.ExtractTopic$Value"],
        "Makes the value, or a field of it, the topic.",
        &[confluent::EXTRACT_TOPIC_KEYS, STEP],
        |settings| confluent::build_extract_topic(settings, Value),
    ),
    transform(
        &["filter", "org.apache.kafka.connect.transforms.Filter"],
        "Drops every record; a predicate says which.",
        &[STEP],
        predicates::build_filter,
    ),
    transform(
        &["flatten-key", "org.apache.kafka.connect.transforms.Flatten$Key"],
        "Makes nested fields of the key fields of the key itself.",
        &[flatten::KEYS, STEP],
        |settings| flatten::build(settings, Key),
    ),
    transform(
        &["flatten-value", "org.apache.kafka.connect.transforms.Flatten$Value"],
        "Makes nested fields of the value fields of the value itself.",
        &[flatten::KEYS, STEP],
        |settings| flatten::build(settings, Value),
    ),
    transform(
        &["header-from-key", "org.apache.kafka.connect.transforms.HeaderFrom$Key"],
        "Moves or copies fields of the key into headers.",
        &[headers::FROM_KEYS, STEP],
        |settings| headers::build_from(settings, Key),
    ),
    transform(
        &["header-from-value", "org.apache.kafka.connect.transforms.HeaderFrom$Value"],
        "Moves or copies fields of the value into headers.",
        &[headers::FROM_KEYS, STEP],
        |settings| headers::build_from(settings, Value),
    ),
    transform(
        &["hoist-field-key", "org.apache.kafka.connect.transforms.HoistField$Key"],
        "Wraps the key into a field.",
        &[hoist_field::KEYS, STEP],
        |settings| hoist_field::build(settings, Key),
    ),
    transform(
        &["hoist-field-value", "org.apache.kafka.connect.transforms.HoistField$Value"],
        "Wraps the value into a field.",
        &[hoist_field::KEYS, STEP],
        |settings| hoist_field::build(settings, Value),
    ),
    transform(
        &["insert-field-key", "org.apache.kafka.connect.transforms.InsertField$Key"],
        "Inserts topic, partition, offset, timestamp or a constant into the key.",
        &[insert_field::KEYS, STEP],
        |settings| insert_field::build(settings, Key),
    ),
    transform(
        &["insert-field-value", "org.apache.kafka.connect.transforms.InsertField$Value"],
        "Inserts topic, partition, offset, timestamp or a constant into the value.",
        &[insert_field::KEYS, STEP],
        |settings| insert_field::build(settings, Value),
    ),
    transform(
        &["insert-header", "org.apache.kafka.connect.transforms.InsertHeader"],
        "Adds a header to each record.",
        &[headers::INSERT_KEYS, STEP],
        headers::build_insert,
    ),
    transform(
        &["mask-field-key", "org.apache.kafka.connect.transforms.MaskField$Key"],
        "Masks fields of the key.",
        &[mask_field::KEYS, STEP],
        |settings| mask_field::build(settings, Key),
    ),
    transform(
        &["mask-field-value", "org.apache.kafka.connect.transforms.MaskField$Value"],
        "Masks fields of the value.",
        &[mask_field::KEYS, STEP],
        |settings| mask_field::build(settings, Value),
    ),
    transform(
        &["regex-router", "org.apache.kafka.connect.transforms.RegexRouter"],
        "Rewrites the topic by a regular expression.",
        &[route::REGEX_KEYS, STEP],
        route::build_regex,
    ),
    transform(
        &["replace-field-key", "org.apache.kafka.connect.transforms.ReplaceField$Key"],
        "Leaves fields of the key out and renames them.",
        &[replace_field::KEYS, STEP],
        |settings| replace_field::build(settings, Key),
    ),
    transform(
        &["replace-field-value", "org.apache.kafka.connect.transforms.ReplaceField$Value"],
        "Leaves fields of the value out and renames them.",
        &[replace_field::KEYS, STEP],
        |settings| replace_field::build(settings, Value),
    ),
    transform(
        &["set-schema-metadata-key", "org.apache.kafka.connect.transforms.SetSchemaMetadata$Key"],
        "Names the schema of the key.",
        &[metadata::SCHEMA_KEYS, STEP],
        |settings| metadata::build_schema(settings, Key),
    ),
    transform(
        &["set-schema-metadata-value", "org.apache.kafka.connect.transforms.SetSchemaMetadata$Value"],
        "Names the schema of the value.",
        &[metadata::SCHEMA_KEYS, STEP],
        |settings| metadata::build_schema(settings, Value),
    ),
    transform(
        &["timestamp-converter-key", "org.apache.kafka.connect.transforms.TimestampConverter$Key"],
        "Converts a time in the key between texts, numbers and time types.",
        &[timestamp_converter::KEYS, STEP],
        |settings| timestamp_converter::build(settings, Key),
    ),
    transform(
        &["timestamp-converter-value", "org.apache.kafka.connect.transforms.TimestampConverter$Value"],
        "Converts a time in the value between texts, numbers and time types.",
        &[timestamp_converter::KEYS, STEP],
        |settings| timestamp_converter::build(settings, Value),
    ),
    transform(
        &["timestamp-router", "org.apache.kafka.connect.transforms.TimestampRouter"],
        "Makes the record's time part of its topic.",
        &[route::TIMESTAMP_KEYS, STEP],
        route::build_timestamp,
    ),
    transform(
        &["tombstone-handler", "io.confluent.connect.transforms.TombstoneHandler"],
        "Drops tombstones, or makes each an error.",
        &[confluent::TOMBSTONE_KEYS, STEP],
        confluent::build_tombstone_handler,
    ),
    transform(
        &["value-to-key", "org.apache.kafka.connect.transforms.ValueToKey"],
        "Makes a new key of fields of the value.",
        &[metadata::VALUE_TO_KEY_KEYS, STEP],
        metadata::build_value_to_key,
    ),
];

/// Every predicate.
pub static PREDICATES: &[Plugin<BuildPredicate>] = &[
    predicate(
        &["has-header-key", "org.apache.kafka.connect.transforms.predicates.HasHeaderKey"],
        "Meets records that have a header of a name.",
        &[&[predicates::NAME]],
        predicates::build_has_header_key,
    ),
    predicate(
        &["record-is-tombstone", "org.apache.kafka.connect.transforms.predicates.RecordIsTombstone"],
        "Meets records whose value is null.",
        &[],
        predicates::build_record_is_tombstone,
    ),
    predicate(
        &["topic-name-matches", "org.apache.kafka.connect.transforms.predicates.TopicNameMatches"],
        "Meets records whose topic matches a regular expression.",
        &[&[predicates::PATTERN]],
        predicates::build_topic_name_matches,
    ),
];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::ArrayRef;
    use model::{Batch, Values};

    use crate::values::testing::{columns, ints, rows, schemaless, texts, transform, whole_texts};

    /// A class that edits keys, its settings, a schemaless key, what becomes of it, and what becomes of the typed key.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str, &'a str);

    const KEY: &str = r#"{"id":7,"name":"x","in":{"t":0}}"#;

    const CASES: [Case<'_>; 7] = [
        (
            "Cast$Key",
            &[("spec", "id:string")],
            KEY,
            r#"{"id":"7","name":"x","in":{"t":0}}"#,
            "{id: 7, name: x, in: {t: 0}}",
        ),
        ("ExtractField$Key", &[("field", "name")], KEY, r#""x""#, "x"),
        ("Flatten$Key", &[], KEY, r#"{"id":7,"name":"x","in.t":0}"#, "{id: 7, name: x, in.t: 0}"),
        ("HoistField$Key", &[("field", "k")], "7", r#"{"k":7}"#, "{k: {id: 7, name: x, in: {t: 0}}}"),
        (
            "MaskField$Key",
            &[("fields", "id,name")],
            KEY,
            r#"{"id":0,"name":"","in":{"t":0}}"#,
            "{id: 0, name: , in: {t: 0}}",
        ),
        (
            "ReplaceField$Key",
            &[("exclude", "in"), ("renames", "id:ID")],
            KEY,
            r#"{"ID":7,"name":"x"}"#,
            "{ID: 7, name: x}",
        ),
        (
            "TimestampConverter$Key",
            &[("field", "id"), ("target.type", "string"), ("format", "yyyy")],
            r#"{"id":7}"#,
            r#"{"id":"1970"}"#,
            "{id: 1970, name: x, in: {t: 0}}",
        ),
    ];

    fn typed_key() -> Values {
        let inner: ArrayRef = Arc::new(columns(vec![("t", ints(vec![Some(0)]))]));
        Values::Typed(columns(vec![("id", ints(vec![Some(7)])), ("name", texts(vec![Some("x")])), ("in", inner)]))
    }

    fn with_key(key: Values) -> Batch {
        let mut batch = schemaless(&[KEY]);
        batch.key_values = Some(key);
        batch
    }

    #[test]
    fn key_classes_edit_keys_of_both_forms_and_leave_values_alone() {
        for (class, pairs, key, of_text, of_columns) in CASES {
            let name = format!("org.apache.kafka.connect.transforms.{class}");
            for (key, expected) in [(schemaless(&[key]).values, of_text), (typed_key(), of_columns)] {
                let mut step = transform(&name, pairs);
                assert!(step.needs_keys(), "{class}");
                let made = step.apply(with_key(key));
                assert!(made.rejected.is_empty(), "{class}: {:?}", made.rejected);
                assert_eq!(rows(made.batch.key_values.as_ref().unwrap()), [expected], "{class}");
                assert_eq!(rows(&made.batch.values), [KEY], "{class}");
            }
        }
    }

    #[test]
    fn a_key_that_does_not_fit_rejects_its_record() {
        for (class, pairs) in [("ExtractField$Key", [("field", "a")]), ("MaskField$Key", [("fields", "a")])] {
            for key in [schemaless(&["7"]).values, whole_texts(vec![Some("x")]).values] {
                let made = transform(class, &pairs).apply(with_key(key));
                assert_eq!((made.batch.len(), made.rejected.len()), (0, 1), "{class}");
            }
        }
    }
}
