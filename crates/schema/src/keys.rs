//! The configuration keys of converters: the ones of a connector that name them, and those below their prefixes.

use model::{Check, Importance, Key, Kind, Width};

use crate::compatibility::{SCHEMA_CHANGE_FILES, SCHEMA_COMPATIBILITY};

/// Which converter reads keys.
pub const KEY_CONVERTER: Key = Key::new(
    "key.converter",
    Kind::Class,
    "Converter that reads the keys of records: json, string or bytes, or its Java class. Not given, the worker's.",
)
.group("Common", 6)
.shown(Width::Short, "Key converter class");

/// Version of the key converter's plug-in.
pub const KEY_CONVERTER_VERSION: Key =
    Key::new("key.converter.plugin.version", Kind::String, "Version of the key converter.")
        .ignored("converters are built in, in one version")
        .group("Common", 7)
        .shown(Width::Short, "Key converter version");

/// Which converter reads values.
pub const VALUE_CONVERTER: Key = Key::new(
    "value.converter",
    Kind::Class,
    "Converter that reads the values of records: json, string or bytes, or its Java class. Not given, the worker's.",
)
.group("Common", 8)
.shown(Width::Short, "Value converter class");

/// Version of the value converter's plug-in.
pub const VALUE_CONVERTER_VERSION: Key =
    Key::new("value.converter.plugin.version", Kind::String, "Version of the value converter.")
        .ignored("converters are built in, in one version")
        .group("Common", 9)
        .shown(Width::Short, "Value converter version");

/// Which converter reads headers.
pub const HEADER_CONVERTER: Key =
    Key::new(
        "header.converter",
        Kind::Class,
        "Converter that reads the headers of records for files of headers (store.kafka.headers): simple, json, string, bytes, \
         a number, or its Java class. Not given, the worker's, else simple. One that can fail (json, numbers) is asked \
         whenever it is given, as upstream, and rejects records with other headers. Transforms see headers after it.",
    )
        .group("Common", 10)
        .shown(Width::Short, "Header converter class");

/// Version of the header converter's plug-in.
pub const HEADER_CONVERTER_VERSION: Key =
    Key::new("header.converter.plugin.version", Kind::String, "Version of the header converter.")
        .ignored("converters are built in, in one version")
        .group("Common", 11)
        .shown(Width::Short, "Header converter version");

/// The schema of plain JSON values, instead of inference: see [`crate::given`].
pub const VALUE_SCHEMA: Key = Key::new(
    "value.converter.schema",
    Kind::String,
    "Schema of plain JSON values, as Avro (.avsc), JSON Schema, Spark StructType JSON or Spark DDL: the text itself or the \
     name of a file. Given, no schema is inferred: unknown fields are left out, records that do not fit are errors. A STRING of \
     Spark's takes any value, as from_json does: the JSON that it is.",
)
.ours()
.importance(Importance::Medium)
.group("Common", 9)
.shown(Width::Long, "Schema of plain JSON values");

/// What [`VALUE_SCHEMA_MODE`] says to reject nothing.
pub(crate) const PERMISSIVE: &str = "PERMISSIVE";

/// What becomes of plain JSON values that do not fit the given schema, as `mode` of Spark's from_json says it.
pub const VALUE_SCHEMA_MODE: Key = Key::new(
    "value.converter.schema.mode",
    Kind::String,
    "What becomes of a value that does not fit value.converter.schema. FAILFAST: it is a bad record, errors.tolerance and the \
     dead letter topic decide. PERMISSIVE, as from_json of Spark has it: what does not fit is null, and so are all columns of a \
     value that is no JSON object; value.converter.schema.corrupt.column holds its text.",
)
.default("FAILFAST")
.check(Check::OneOfIgnoringCase(&["FAILFAST", PERMISSIVE]))
.ours()
.group("Common", 9)
.shown(Width::Short, "Values that do not fit");

/// Where the text of such values goes.
pub const CORRUPT_COLUMN: Key = Key::new(
    "value.converter.schema.corrupt.column",
    Kind::String,
    "Column of the schema, a STRING, that holds the text of values that do not fit, under PERMISSIVE; null in all others. If the \
     schema has no such column the text is lost.",
)
.default("_corrupt_record")
.ours()
.group("Common", 9)
.shown(Width::Medium, "Column of values that do not fit");

/// The keys of a connector that name converters.
pub const CONNECTOR_KEYS: &[Key] = &[
    KEY_CONVERTER,
    KEY_CONVERTER_VERSION,
    VALUE_CONVERTER,
    VALUE_CONVERTER_VERSION,
    VALUE_SCHEMA,
    VALUE_SCHEMA_MODE,
    CORRUPT_COLUMN,
    HEADER_CONVERTER,
    HEADER_CONVERTER_VERSION,
    SCHEMA_COMPATIBILITY,
    SCHEMA_CHANGE_FILES,
];

/// Registry keys that users set for the connector itself, where Kafka Connect reads none either: known, so that they are
/// not called typos.
pub const STRAY_KEYS: &[Key] =
    &registry_keys("at this level Kafka Connect does not read it either; converters have it below value.converter.");

/// Whether values are envelopes.
pub(crate) const SCHEMAS_ENABLE: Key = Key::new(
    "schemas.enable",
    Kind::Boolean,
    "Whether each value is an envelope {\"schema\": ..., \"payload\": ...}. Not said, an object of exactly these two fields \
     is one and any other JSON is plain; on Kafka Connect plain JSON is an error then.",
)
.default("true")
.importance(Importance::High)
.group("Schemas", 0)
.shown(Width::Medium, "Enable Schemas");

/// How many schemas of envelopes are remembered.
pub(crate) const SCHEMAS_CACHE_SIZE: Key =
    Key::new("schemas.cache.size", Kind::Int, "The maximum number of schemas of envelopes that are remembered.")
        .default("1000")
        .check(Check::AtLeast(0))
        .importance(Importance::High)
        .group("Schemas", 1)
        .shown(Width::Medium, "Schema Cache Size");

/// How decimals are written.
pub(crate) const DECIMAL_FORMAT: Key =
    Key::new("decimal.format", Kind::String, "How decimals are written as JSON: BASE64 or NUMERIC. Read are both.")
        .default("BASE64")
        .check(Check::OneOfIgnoringCase(&["BASE64", "NUMERIC"]))
        .ignored("a sink reads JSON, and both formats are read")
        .group("Serialization", 0)
        .shown(Width::Medium, "Decimal Format");

/// Whether null means the default.
pub(crate) const REPLACE_NULL_WITH_DEFAULT: Key = Key::new(
    "replace.null.with.default",
    Kind::Boolean,
    "Whether a null or missing field of an envelope's payload becomes the default that its schema has.",
)
.default("true")
.group("Schemas", 2)
.shown(Width::Medium, "Replace null with default");

/// Charset of texts.
pub(crate) const CONVERTER_ENCODING: Key =
    Key::new("converter.encoding", Kind::String, "Charset of the texts: UTF-8, US-ASCII or ISO-8859-1.")
        .default("UTF-8")
        .importance(Importance::High);

/// The keys of JsonConverter.
pub(crate) const JSON_KEYS: &[Key] = &[SCHEMAS_ENABLE, SCHEMAS_CACHE_SIZE, DECIMAL_FORMAT, REPLACE_NULL_WITH_DEFAULT];

/// The keys of StringConverter.
pub(crate) const STRING_KEYS: &[Key] = &[CONVERTER_ENCODING];

/// What real configurations say about registries, for a converter that has none.
pub(crate) const JSON_REGISTRY_KEYS: &[Key] = &registry_keys("JsonConverter does not ask a registry");
/// As above, for StringConverter.
pub(crate) const STRING_REGISTRY_KEYS: &[Key] = &registry_keys("StringConverter does not ask a registry");
/// As above, for ByteArrayConverter.
pub(crate) const BYTES_REGISTRY_KEYS: &[Key] = &registry_keys("ByteArrayConverter does not ask a registry");
/// As above, for the converters of numbers.
pub(crate) const NUMBER_REGISTRY_KEYS: &[Key] = &registry_keys("converters of numbers do not ask a registry");

/// The keys that configurations carry over from one converter to the next: each accepted, none read.
const fn registry_keys(why: &'static str) -> [Key; 12] {
    [
        Key::new("schema.registry.url", Kind::List, "Addresses of the schema registry.").ignored(why),
        Key::new("basic.auth.credentials.source", Kind::String, "Where the registry's user comes from.").ignored(why),
        Key::new("basic.auth.user.info", Kind::Password, "The registry's user:password.").ignored(why),
        Key::new("schema.registry.basic.auth.user.info", Kind::Password, "The registry's user:password.").ignored(why),
        Key::new("bearer.auth.credentials.source", Kind::String, "Where the registry's token comes from.").ignored(why),
        Key::new("bearer.auth.token", Kind::Password, "The registry's token.").ignored(why),
        Key::new("auto.register.schemas", Kind::Boolean, "Whether a producer registers schemas.").ignored(why),
        Key::new("use.latest.version", Kind::Boolean, "Whether the subject's latest schema is used.").ignored(why),
        Key::new("latest.compatibility.strict", Kind::Boolean, "Whether the latest schema must be compatible.")
            .ignored(why),
        Key::new("normalize.schemas", Kind::Boolean, "Whether schemas are normalised.").ignored(why),
        Key::new("enhanced.avro.schema.support", Kind::Boolean, "Whether Avro's names are kept.").ignored(why),
        Key::new("connect.meta.data", Kind::Boolean, "Whether Connect's properties are kept.").ignored(why),
    ]
}
