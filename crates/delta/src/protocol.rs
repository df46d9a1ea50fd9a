//! Which tables a writer that appends can honour. Pure. What it cannot is refused by name, before the first record.

use serde_json::{Map, Value};

use crate::action::{Metadata, Protocol};

/// The highest versions of the protocol that are known.
const READER_VERSION_MAX: i32 = 3;
const WRITER_VERSION_MAX: i32 = 7;

/// The feature by which columns get wider types, and the property that turns it on.
const TYPE_WIDENING: &str = "typeWidening";
const ENABLE_TYPE_WIDENING: &str = "delta.enableTypeWidening";

/// Features that ask nothing more of a writer that only appends files than what [`refusals`] looks into: those that are
/// about deleting and updating, about checkpoints, or about types of columns.
const HONOURED: &[&str] = &[
    "appendOnly",
    "invariants",
    "checkConstraints",
    "changeDataFeed",
    "generatedColumns",
    "identityColumns",
    "columnMapping",
    "allowColumnDefaults",
    "deletionVectors",
    "timestampNtz",
    "timestampWithoutTimezone",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    "typeWidening",
    "typeWidening-preview",
    "domainMetadata",
    "clustering",
    "checkpointProtection",
];

/// Properties that a writer must do something for, and their harmless values.
const PROPERTIES: &[(&str, &[&str])] = &[
    ("delta.columnMapping.mode", &["none"]),
    ("delta.enableRowTracking", &["false"]),
    ("delta.enableInCommitTimestamps", &["false"]),
    ("delta.enableIcebergCompatV1", &["false"]),
    ("delta.enableIcebergCompatV2", &["false"]),
    ("delta.enableIcebergCompatV3", &["false"]),
];

/// Metadata of columns that a writer must do something for, and what that is called.
const COLUMN_MARKS: &[(&str, &str)] = &[
    ("delta.invariants", "an invariant"),
    ("delta.generationExpression", "a generation expression"),
    ("delta.identity.start", "an identity"),
    ("CURRENT_DEFAULT", "a default value"),
];

/// What of the table cannot be honoured, each by its name; empty when rows may be appended.
pub(crate) fn refusals(protocol: &Protocol, metadata: &Metadata) -> Vec<String> {
    let mut refusals = Vec::new();
    if protocol.min_reader_version > READER_VERSION_MAX {
        refusals.push(format!("reader version {}", protocol.min_reader_version));
    }
    if protocol.min_writer_version > WRITER_VERSION_MAX {
        refusals.push(format!("writer version {}", protocol.min_writer_version));
    }
    let features = protocol.reader_features.iter().chain(&protocol.writer_features).flatten();
    let mut unknown: Vec<&String> = features.filter(|feature| !HONOURED.contains(&feature.as_str())).collect();
    unknown.sort();
    unknown.dedup();
    refusals.extend(unknown.into_iter().map(|feature| format!("table feature {feature}")));
    for (name, harmless) in PROPERTIES {
        if let Some(value) = metadata.property(name).filter(|value| !harmless.contains(value)) {
            refusals.push(format!("table property {name}={value}"));
        }
    }
    let constraints = metadata.properties().filter_map(|name| name.strip_prefix("delta.constraints."));
    refusals.extend(constraints.map(|name| format!("CHECK constraint {name}")));
    match metadata.schema() {
        Ok(schema) => column_refusals(&schema, "", &mut refusals),
        Err(why) => refusals.push(why),
    }
    refusals
}

/// Whether columns of the table may get wider types.
pub(crate) fn widens_types(protocol: &Protocol, metadata: &Metadata) -> bool {
    let has = |features: &Option<Vec<String>>| features.iter().flatten().any(|feature| feature == TYPE_WIDENING);
    let is_on = metadata.property(ENABLE_TYPE_WIDENING).is_some_and(|value| value.trim() == "true");
    is_on && has(&protocol.reader_features) && has(&protocol.writer_features)
}

/// The protocol that the most readers know and that a new table with these columns and properties needs.
pub(crate) fn protocol_for(schema: &Value, properties: &Map<String, Value>) -> Protocol {
    let mut features = Vec::new();
    if has_local_times(schema) {
        features.push("timestampNtz");
    }
    if properties.get(ENABLE_TYPE_WIDENING).and_then(Value::as_str).is_some_and(|value| value.trim() == "true") {
        features.push(TYPE_WIDENING);
    }
    if features.is_empty() {
        return Protocol { min_reader_version: 1, min_writer_version: 2, reader_features: None, writer_features: None };
    }
    let owned = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    let reader_features = owned(&features);
    features.extend(["appendOnly", "invariants"]);
    Protocol { min_reader_version: 3, min_writer_version: 7, reader_features, writer_features: owned(&features) }
}

/// Whether a StructType has timestamps without a zone, which are a feature.
pub(crate) fn has_local_times(schema: &Value) -> bool {
    schema.to_string().contains("\"timestamp_ntz\"")
}

fn column_refusals(data_type: &Value, path: &str, refusals: &mut Vec<String>) {
    for nested in ["elementType", "keyType", "valueType"] {
        if let Some(nested) = data_type.get(nested) {
            column_refusals(nested, path, refusals);
        }
    }
    for field in data_type.get("fields").and_then(Value::as_array).into_iter().flatten() {
        let name = field.get("name").and_then(Value::as_str).unwrap_or_default();
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        for (mark, what) in COLUMN_MARKS {
            if field.get("metadata").is_some_and(|metadata| metadata.get(mark).is_some()) {
                refusals.push(format!("column {path} with {what}"));
            }
        }
        if let Some(data_type) = field.get("type") {
            column_refusals(data_type, &path, refusals);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    fn found(protocol: Value, properties: Value, fields: Value) -> Vec<String> {
        let Value::Object(properties) = properties else { panic!("{properties}") };
        let metadata = Metadata::new("t", &json!({"type": "struct", "fields": fields}), &[], properties, 0);
        refusals(&serde_json::from_value(protocol).unwrap(), &metadata)
    }

    #[test]
    fn plain_tables_and_those_with_harmless_features_are_taken() {
        let fields = json!([{"name": "a", "type": "long", "nullable": true, "metadata": {"comment": "x"}}]);
        for protocol in [
            json!({"minReaderVersion": 1, "minWriterVersion": 2}),
            json!({"minReaderVersion": 1, "minWriterVersion": 4}),
            json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors", "timestampNtz"],
                "writerFeatures": ["deletionVectors", "timestampNtz", "appendOnly", "invariants", "v2Checkpoint"]}),
        ] {
            let properties = json!({"delta.appendOnly": "true", "delta.columnMapping.mode": "none"});
            assert_eq!(found(protocol, properties, fields.clone()), Vec::<String>::new());
        }
    }

    #[test]
    fn types_get_wider_where_feature_and_property_say_so() {
        let columns = json!({"type": "struct", "fields": []});
        let with = |protocol: &Protocol, value: &str| {
            let properties = Map::from_iter([(ENABLE_TYPE_WIDENING.to_owned(), json!(value))]);
            widens_types(protocol, &Metadata::new("t", &columns, &[], properties, 0))
        };
        let properties = Map::from_iter([(ENABLE_TYPE_WIDENING.to_owned(), json!("true"))]);
        let (plain, widening) = (protocol_for(&columns, &Map::new()), protocol_for(&columns, &properties));
        assert_eq!((plain.min_reader_version, plain.min_writer_version), (1, 2));
        assert_eq!(widening.reader_features, Some(vec![TYPE_WIDENING.to_owned()]));
        assert_eq!(widening.writer_features.as_ref().map(Vec::len), Some(3));
        assert_eq!([with(&widening, "true"), with(&widening, "false"), with(&plain, "true")], [true, false, false]);
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        let plain = || json!({"minReaderVersion": 1, "minWriterVersion": 2});
        let column = |metadata: Value| {
            json!([{"name": "s", "type": {"type": "struct", "fields": [
            {"name": "a", "type": "long", "nullable": true, "metadata": metadata}]}, "nullable": true, "metadata": {}}])
        };
        let none = || json!([]);
        let no_properties = || Value::Object(Map::new());
        for (protocol, properties, fields, expected) in [
            (
                json!({"minReaderVersion": 4, "minWriterVersion": 8}),
                no_properties(),
                none(),
                "reader version 4, writer version 8",
            ),
            (
                json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["magic"], "writerFeatures": ["magic", "rowTracking"]}),
                no_properties(),
                none(),
                "table feature magic, table feature rowTracking",
            ),
            (plain(), json!({"delta.constraints.positive": "a > 0"}), none(), "CHECK constraint positive"),
            (
                plain(),
                json!({"delta.columnMapping.mode": "name"}),
                none(),
                "table property delta.columnMapping.mode=name",
            ),
            (
                plain(),
                no_properties(),
                column(json!({"delta.generationExpression": "1"})),
                "column s.a with a generation expression",
            ),
            (plain(), no_properties(), column(json!({"delta.identity.start": 1})), "column s.a with an identity"),
            (plain(), no_properties(), column(json!({"delta.invariants": "{}"})), "column s.a with an invariant"),
        ] {
            assert_eq!(found(protocol, properties, fields).join(", "), expected);
        }
    }
}
