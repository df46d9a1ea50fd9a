//! `io.confluent.connect.json.JsonSchemaConverter`: JSON with the id of a JSON Schema before it, read into columns.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use model::{Batch, Check, Importance, Invalid, Key, Kind, RawBatch, Settings, ValueSchema, Values};

use crate::json_converter::fitting_rows;
use crate::registered_json_schema::{JsonSchemaOptions, columns};
use crate::registry::{Registered, Registry, SchemaKind, WireId, runs};
use crate::{Converter, Decoded, Error, JsonColumns, Part};

/// Schemas whose readers are kept.
const READERS_MAX: usize = 1_000;

const PRODUCER: &str = "it is for producers, and a sink writes no JSON Schema";

const fn flag(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key::new(name, Kind::Boolean, doc).default(default).importance(Importance::Medium).group("JSON Schema", 0)
}

const GENERALIZED_SUM_TYPES: Key = flag(
    "generalized.sum.type.support",
    "false",
    "Whether the columns of the branches of oneOf, anyOf and lists of types are called connect_union_field_N.",
);
const FLATTEN_SINGLETONS: Key =
    flag("flatten.singleton.unions", "true", "Whether a oneOf with one branch is that branch.");
const IGNORE_DEFAULTS: Key = flag(
    "ignore.default.for.nullables",
    "false",
    "Whether a property that is null or not there stays so if it has a default; else it becomes the default.",
);
const RECURSIVE_TYPES: Key = Key::new(
    "recursive.types",
    Kind::String,
    "What becomes of a type that refers to itself: fail rejects its records, json has it as JSON text where it comes again.",
)
.ours()
.default("fail")
.check(Check::OneOf(&["fail", "json"]))
.importance(Importance::Medium)
.group("JSON Schema", 1);
/// How the columns of a union's branches are called.
pub const UNION_NAMES: Key = Key::new(
    "union.names",
    Kind::String,
    "How the columns of the branches of oneOf, anyOf and lists of types are called without generalized.sum.type.support: \
     connect is io.confluent.connect.json.OneOf.field.N, which Avro and many readers of Parquet do not take; legal has \
     underscores for the dots. Not given, it is legal where the format has columns, connect for JSON files.",
)
.ours()
.check(Check::OneOf(&["connect", "legal"]))
.importance(Importance::Low)
.group("JSON Schema", 1);

/// The keys of JsonSchemaConverter beside those of the registry.
pub(crate) const JSON_SCHEMA_KEYS: &[Key] = &[
    flag("use.optional.for.nonrequired", "false", "Whether properties that are not required are nullable.")
        .ignored("they always are: a record may leave them out, and Kafka Connect fails on it then"),
    Key::new("decimal.format", Kind::String, "How decimals are written as JSON: BASE64 or NUMERIC.")
        .default("BASE64")
        .ignored("a sink reads JSON, and both formats are read"),
    flag("object.additional.properties", "true", "Whether objects are written as open.").ignored(PRODUCER),
    flag("preserve.additional.properties", "false", "Whether properties that the schema lacks are kept.")
        .not_yet("properties that the schema does not have are left out"),
    flag("ignore.modern.dialects", "false", "Whether newer dialects of JSON Schema are read as draft 7.")
        .ignored("all dialects are read alike"),
    GENERALIZED_SUM_TYPES,
    FLATTEN_SINGLETONS,
    IGNORE_DEFAULTS,
    RECURSIVE_TYPES,
    UNION_NAMES,
    flag("scrub.invalid.names", "false", "Whether invalid names are mended.").ignored(PRODUCER),
    flag("json.fail.invalid.schema", "true", "Whether an invalid schema is an error.").ignored("it is"),
    flag("json.fail.unknown.properties", "true", "Whether a property that the schema lacks is an error.")
        .ignored(PRODUCER),
];

/// Reads JSON by the schema that the registry has for it. What does not fit the columns is rejected; what only JSON
/// Schema could tell (patterns, ranges) is not looked at, as on Kafka Connect.
pub(crate) struct JsonSchemaConverter {
    part: Part,
    registry: Registry,
    options: JsonSchemaOptions,
    ignore_defaults: bool,
    readers: HashMap<(WireId, String), Reader>,
}

/// The columns of one schema, and what batches say about it.
struct Reader {
    /// The schema it is read with, if not with itself.
    latest_id: Option<i32>,
    columns: JsonColumns,
    schema: Arc<ValueSchema>,
}

impl JsonSchemaConverter {
    pub(crate) fn build(settings: &Settings, part: Part) -> Result<Box<dyn Converter>, Invalid> {
        let options = JsonSchemaOptions {
            general_names: settings.boolean(&GENERALIZED_SUM_TYPES)?,
            flatten_singletons: settings.boolean(&FLATTEN_SINGLETONS)?,
            legal_names: settings.text(&UNION_NAMES) == Some("legal"),
            recursive_as_json: settings.required_string(&RECURSIVE_TYPES)? == "json",
        };
        let ignore_defaults = settings.boolean(&IGNORE_DEFAULTS)?;
        let registry = Registry::build(settings, part)?;
        Ok(Box::new(JsonSchemaConverter { part, registry, options, ignore_defaults, readers: HashMap::new() }))
    }

    /// Makes a reader for `id`, unless there is one; the sentence says why its records cannot be read.
    async fn learn(&mut self, id: WireId, topic: &str) -> Result<Result<(), String>, Error> {
        let key = (id, topic.to_owned());
        if self.readers.contains_key(&key) && !self.registry.reads_latest() {
            return Ok(Ok(()));
        }
        let reading = match self.registry.reading(id, topic).await {
            Ok(reading) => reading,
            Err(lookup) => return Ok(Err(lookup.reason()?)),
        };
        if self.readers.get(&key).is_some_and(|known| known.latest_id == reading.latest_id()) {
            return Ok(Ok(()));
        }
        if self.readers.len() >= READERS_MAX {
            self.readers.clear();
        }
        Ok(match reader(reading.read_with(), self.options, self.ignore_defaults) {
            Ok((columns, schema)) => {
                self.readers.insert(key, Reader { latest_id: reading.latest_id(), columns, schema });
                Ok(())
            }
            Err(why) => Err(format!("schema {id}: {why}")),
        })
    }
}

fn reader(
    registered: &Registered,
    options: JsonSchemaOptions,
    ignore_defaults: bool,
) -> Result<(JsonColumns, Arc<ValueSchema>), String> {
    match registered.kind {
        SchemaKind::Json => {}
        SchemaKind::Avro => return Err("it is an Avro schema; use AvroConverter".to_owned()),
        SchemaKind::Protobuf => return Err("it is a Protobuf schema; use ProtobufConverter".to_owned()),
    }
    let found = columns(registered, options).map_err(|error| error.0)?;
    let mut columns = JsonColumns::connect(&found.schema, &found.fields, true, found.default, !ignore_defaults);
    if found.is_union {
        columns = columns.of_union(&found.fields);
    }
    let version = found.version.or(registered.version);
    Ok((columns, Arc::new(ValueSchema { name: found.name, version })))
}

#[async_trait]
impl Converter for JsonSchemaConverter {
    async fn decode(&mut self, raw: &RawBatch) -> Result<Decoded, Error> {
        if raw.is_empty() {
            return Ok(Decoded::default());
        }
        let topic = raw.topic_partition.topic.to_string();
        let whole = Batch::decoded(raw, Values::Schemaless(arrow::array::BinaryArray::new_null(raw.len())));
        let (id_runs, mut rejections) = runs(raw, self.part);
        let mut batches = Vec::new();
        for run in id_runs {
            let refused = match run.id {
                None => None,
                Some(id) => self.learn(id, &topic).await?.err(),
            };
            let mut rows: Vec<usize> = run.cells.iter().map(|(row, _)| *row).collect();
            if let Some(why) = &refused {
                let values = run.cells.iter().filter(|(_, value)| value.is_some());
                values.for_each(|(row, _)| rejections.push(*row, why.clone()));
                rows = run.cells.iter().filter(|(_, value)| value.is_none()).map(|(row, _)| *row).collect();
            }
            let known = run.id.filter(|_| refused.is_none());
            let reader = known.and_then(|id| self.readers.get_mut(&(id, topic.clone())));
            let batch = match reader {
                None => whole.select(&rows.iter().map(|row| *row as u32).collect::<Vec<_>>()),
                Some(Reader { columns, schema, .. }) => {
                    let read = columns.read_each(run.cells.iter().map(|(_, value)| *value));
                    let reject = |row, reason| rejections.push(row, reason);
                    let mut batch = fitting_rows(&whole, rows, read.columns, read.rejected, reject);
                    batch.schema = Some(schema.clone());
                    batch
                }
            };
            batches.extend(Some(batch).filter(|batch| !batch.is_empty()));
        }
        Ok(rejections.decoded(raw, batches))
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;

    use super::*;
    use crate::registry::Reference;

    fn registered(text: &str, references: &[(&str, &str)]) -> Registered {
        let named = |(name, text): &(&str, &str)| Reference { name: (*name).to_owned(), text: (*text).to_owned() };
        let references = references.iter().map(named).collect();
        Registered { id: 1, kind: SchemaKind::Json, text: text.to_owned(), references, version: Some(3) }
    }

    #[test]
    fn connects_marks_references_and_all_of_say_the_columns() {
        let text = r##"{"title":"Order","type":"object","required":["id"],"properties":{
            "id":{"type":"integer","connect.type":"int32"},"total":{"type":"number"},
            "when":{"type":"integer","title":"org.apache.kafka.connect.data.Timestamp"},
            "price":{"type":"number","title":"org.apache.kafka.connect.data.Decimal","connect.parameters":{"scale":"2"}},
            "day":{"type":"string","format":"date"},"who":{"$ref":"person.json"},
            "note":{"oneOf":[{"type":"null"},{"type":"string"}]},"tags":{"type":"object","additionalProperties":{"type":"integer"}},
            "both":{"allOf":[{"type":"object","properties":{"a":{"type":"string"}}},{"$ref":"#/definitions/b"}]}},
            "definitions":{"b":{"properties":{"b":{"type":"boolean"}}}}}"##;
        let person = r#"{"type":"object","properties":{"name":{"type":"string"}}}"#;
        let (mut columns, schema) = reader(&registered(text, &[("person.json", person)]), PLAIN, false).unwrap();
        assert_eq!((schema.name.as_deref(), schema.version), (Some("Order"), Some(3)));
        let expected = "id INT NOT NULL, total DOUBLE, when TIMESTAMP(3), price DECIMAL(38,2), day STRING, \
                        who STRUCT<name: STRING>, note STRING, tags MAP<STRING, BIGINT NOT NULL>, both STRUCT<a: STRING, b: BOOLEAN>";
        let shown = |schema: &crate::TableSchema| schema.to_json();
        let given = crate::given::parse(&expected.replace("BIGINT NOT NULL", "BIGINT")).unwrap();
        assert_eq!(
            shown(columns.schema()).replace("\"valueContainsNull\":false", "\"valueContainsNull\":true"),
            shown(&given)
        );
        let good = br#"{"id":7,"when":1500,"price":12.5,"day":"x","who":{"name":"n"},"tags":{"k":1},"extra":true}"#;
        let bad = br#"{"id":"seven"}"#;
        let read = columns.read_each([Some(&good[..]), Some(&bad[..])].into_iter());
        assert_eq!(read.rejected.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1]);
        assert_eq!(
            array_value_to_string(&read.columns, 0).unwrap(),
            "{id: 7, total: , when: 1970-01-01T00:00:01.500Z, price: 12.50, day: x, who: {name: n}, note: , tags: {k: 1}, both: }"
        );
    }

    #[test]
    fn what_is_no_usable_json_schema_is_a_reason() {
        let why = |text: &str| reader(&registered(text, &[]), PLAIN, false).err().unwrap();
        assert!(why(r#"{"type":"object","properties":{"a":{"$ref":"none.json"}}}"#).contains("none.json"));
        assert!(why("{").starts_with("schema is not valid JSON"));
        assert!(why(r#"{"oneOf":[{"type":"null"}]}"#).contains("nothing but null"));
        assert!(reader(&registered(r#"{"type":"integer"}"#, &[]), PLAIN, false).is_ok());
    }

    const PLAIN: JsonSchemaOptions = JsonSchemaOptions {
        general_names: false,
        flatten_singletons: true,
        legal_names: false,
        recursive_as_json: false,
    };

    /// The only row as text, or why there is none.
    fn show(text: &str, options: JsonSchemaOptions, json: &str) -> String {
        let (mut columns, _) = reader(&registered(text, &[]), options, false).unwrap();
        let read = columns.read_each([Some(json.as_bytes())].into_iter());
        match read.rejected.into_iter().next() {
            Some((_, why)) => why,
            None => array_value_to_string(&read.columns, 0).unwrap(),
        }
    }

    #[test]
    fn a_union_is_a_struct_with_the_branch_that_the_value_fits() {
        let short = |text: String| text.replace("io.confluent.connect.json.OneOf.field.", "#");
        let a = |kind: &str| format!(r#"{{"type":"object","properties":{{"a":{kind}}}}}"#);
        let object = |names: &str| {
            let properties: Vec<String> =
                names.split(' ').map(|name| format!(r#""{name}":{{"type":"integer"}}"#)).collect();
            format!(r#"{{"type":"object","properties":{{{}}}}}"#, properties.join(","))
        };
        let both = format!(r#"{{"oneOf":[{},{}]}}"#, object("x y"), object("x y z"));
        for (kind, json, expected) in [
            (r#"{"type":["string","integer"]}"#, r#"{"a":"t"}"#, "{a: {#0: t, #1: }}"),
            (r#"{"type":["string","integer"]}"#, r#"{"a":5}"#, "{a: {#0: , #1: 5}}"),
            (r#"{"type":["string","integer","null"]}"#, r#"{"a":null}"#, "{a: }"),
            (r#"{"type":["integer","number"]}"#, r#"{"a":1.5}"#, "{a: {#0: , #1: 1.5}}"),
            (
                r#"{"type":["string","integer"]}"#,
                r#"{"a":true}"#,
                "field a: Did not find matching oneof field for data: the boolean true",
            ),
            (
                r#"{"anyOf":[{"type":"boolean"},{"type":"array","items":{"type":"integer"}},{"type":"null"}]}"#,
                r#"{"a":[1]}"#,
                "{a: {#0: , #1: [1]}}",
            ),
            (&both, r#"{"a":{"x":1,"y":2}}"#, "{a: {#0: {x: 1, y: 2}, #1: }}"),
            (&both, r#"{"a":{"x":1,"z":2}}"#, "{a: {#0: , #1: {x: 1, y: , z: 2}}}"),
            (r#"{"oneOf":[{"type":"string"}]}"#, r#"{"a":"t"}"#, "{a: t}"),
            (r#"{"oneOf":[{"type":"null"},{"type":["string","integer"]}]}"#, r#"{"a":3}"#, "{a: {#0: , #1: 3}}"),
            (r#"{"type":"string","enum":["x","y"]}"#, r#"{"a":"x"}"#, "{a: x}"),
            (r#"{"allOf":[{"type":"integer"},{"enum":[1,2]}]}"#, r#"{"a":2}"#, "{a: 2}"),
            (r#"{"allOf":[{"type":"string"},{"enum":["x"]}]}"#, r#"{"a":"x"}"#, "{a: x}"),
            (
                r#"{"type":"array","connect.type":"map","items":{"type":"object","properties":{"key":{"type":"integer"},"value":{"type":"string"}}}}"#,
                r#"{"a":[{"key":1,"value":"v"}]}"#,
                "{a: {1: v}}",
            ),
            (
                r#"{"type":"object","connect.type":"map","additionalProperties":{"type":"integer"}}"#,
                r#"{"a":{"k":1}}"#,
                "{a: {k: 1}}",
            ),
            (r#"{"type":"integer","default":9}"#, "{}", "{a: 9}"),
            (
                r#"{"type":"object","properties":{"b":{"type":"integer","connect.index":1},"c":{"type":"integer","connect.index":0}}}"#,
                r#"{"a":{"b":1,"c":2}}"#,
                "{a: {c: 2, b: 1}}",
            ),
        ] {
            assert_eq!(short(show(&a(kind), PLAIN, json)), expected, "{kind}");
        }
        let kind = a(r#"{"type":["string","integer"]}"#);
        let names = |options| show(&kind, options, r#"{"a":5}"#);
        let legal = JsonSchemaOptions { legal_names: true, ..PLAIN };
        let legal_name = "io_confluent_connect_json_OneOf_field_";
        assert_eq!(names(legal), format!("{{a: {{{legal_name}0: , {legal_name}1: 5}}}}"));
        let general = JsonSchemaOptions { general_names: true, ..PLAIN };
        assert_eq!(names(general), "{a: {connect_union_field_0: , connect_union_field_1: 5}}");
        let single = JsonSchemaOptions { flatten_singletons: false, ..PLAIN };
        assert_eq!(short(show(&a(r#"{"oneOf":[{"type":"string"}]}"#), single, r#"{"a":"t"}"#)), "{a: {#0: t}}");
        let root = r#"{"oneOf":[{"type":"object","properties":{"x":{"type":"integer"}}},{"type":"string"}]}"#;
        assert_eq!(short(show(root, PLAIN, r#"{"x":1}"#)), "{#0: {x: 1}, #1: }");
        assert_eq!(short(show(root, PLAIN, r#""t""#)), "{#0: , #1: t}");
    }

    #[test]
    fn a_type_that_refers_to_itself_fails_or_becomes_json() {
        let text = r##"{"type":"object","properties":{"v":{"type":"integer"},"next":{"$ref":"#"},"all":{"type":"array","items":{"$ref":"#"}}}}"##;
        let why = reader(&registered(text, &[]), PLAIN, false).err().unwrap();
        assert!(
            why.contains("property next: a type refers to itself") && why.contains("recursive.types=json"),
            "{why}"
        );
        let json = JsonSchemaOptions { recursive_as_json: true, ..PLAIN };
        assert_eq!(
            show(text, json, r#"{"v":1,"next":{"v":2,"next":null,"s":"\"é"},"all":[{"v":1.5},null]}"#),
            r#"{v: 1, next: {"v":2,"next":null,"s":"\"é"}, all: [{"v":1.5}, ]}"#
        );
        let mutual = r##"{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##;
        assert!(reader(&registered(mutual, &[]), PLAIN, false).is_err());
    }
}
