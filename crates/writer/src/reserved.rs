//! Keys of the S3 sink that are known, checked and documented here, and that nothing reads yet or ever needs to.

use model::{Check, Importance, Invalid, Key, Kind, Settings, Width, find};

use crate::compression::S3_COMPRESSION_TYPE;
use crate::format::{FORMAT_CLASS, FORMATS};
use crate::null_values::BEHAVIOR_ON_NULL_VALUES;
use crate::s3::S3_PATH_STYLE_ACCESS_ENABLED;
use crate::views::{HEADERS_FORMAT_CLASS, KEYS_FORMAT_CLASS, STORE_KAFKA_HEADERS, STORE_KAFKA_KEYS};

const STORAGE_CLASS: Key = Key::new(
    "storage.class",
    Kind::Class,
    "The class of the store; named by every configuration of the S3 sink, and here always what store.url says.",
)
.required()
.check(Check::NotEmpty)
.ignored("the store is chosen by store.url")
.importance(Importance::High)
.group("Storage", 1)
.shown(Width::None, "Storage Class");
const S3_OBJECT_TAGGING: Key = Key::new(
    "s3.object.tagging",
    Kind::Boolean,
    "Whether objects are tagged with their first and last offset and their number of records.",
)
.default("false")
.not_yet("object tags")
.group("S3", 2)
.shown(Width::Long, "S3 Object Tagging");
const S3_OBJECT_TAGGING_KEY_VALUE_PAIRS: Key =
    Key::new("s3.object.tagging.key.value.pairs", Kind::List, "More tags, as k:v texts.")
        .default("")
        .check(Check::With(pairs))
        .not_yet("object tags")
        .group("S3", 3)
        .shown(Width::Long, "S3 Object Tagging Extra Key Value pairs");
const S3_OBJECT_BEHAVIOR_ON_TAGGING_ERROR: Key =
    Key::new("s3.object.behavior.on.tagging.error", Kind::String, "Whether a failed tagging stops the task.")
        .default("ignore")
        .check(Check::OneOf(&["ignore", "fail"]))
        .not_yet("object tags")
        .group("S3", 4)
        .shown(Width::Short, "Behavior for S3 object tagging error");
const S3_ACL_CANNED: Key = Key::new("s3.acl.canned", Kind::String, "Canned access list of new objects.")
    .check(Check::OneOf(&[
        "private",
        "public-read",
        "public-read-write",
        "authenticated-read",
        "aws-exec-read",
        "bucket-owner-read",
        "bucket-owner-full-control",
    ]))
    .not_yet("access lists of objects; use the bucket's object ownership setting")
    .group("S3", 13)
    .shown(Width::Long, "S3 Canned ACL");
const S3_WAN_MODE: Key = Key::new("s3.wan.mode", Kind::Boolean, "Whether transfer acceleration is used.")
    .default("false")
    .not_yet("transfer acceleration")
    .importance(Importance::Medium)
    .group("S3", 14)
    .shown(Width::Long, "S3 accelerated endpoint enabled");
const S3_PROXY_URL: Key = Key::new("s3.proxy.url", Kind::String, "Proxy between this program and the store.")
    .default("")
    .not_yet("a proxy per connector; the environment's HTTPS_PROXY works")
    .group("S3", 22)
    .shown(Width::Long, "S3 Proxy Settings");
const S3_PROXY_USER: Key = Key::new("s3.proxy.user", Kind::String, "User at the proxy.")
    .not_yet("a proxy per connector")
    .group("S3", 23)
    .shown(Width::Long, "S3 Proxy User");
const S3_PROXY_PASSWORD: Key = Key::new("s3.proxy.password", Kind::Password, "Password at the proxy.")
    .default("")
    .not_yet("a proxy per connector")
    .group("S3", 24)
    .shown(Width::Long, "S3 Proxy Password");
const S3_HTTP_SEND_EXPECT_CONTINUE: Key =
    Key::new("s3.http.send.expect.continue", Kind::Boolean, "Whether requests wait for 100-continue.")
        .default("true")
        .ignored("requests are sent without waiting for 100-continue, as false asks")
        .group("S3", 25)
        .shown(Width::Short, "S3 HTTP Send Uses Expect Continue");
const REPORT_NULL_VALUES_TO_DLQ: Key = Key::new(
    "report.null.values.to.dlq",
    Kind::Boolean,
    "Whether records left out by behavior.on.null.values=ignore are reported.",
)
.default("true")
.not_yet("the dead letter queue")
.group("S3", 27)
.shown(Width::Short, "Report null value to dlq");
const MAX_WRITE_DURATION_MS: Key =
    Key::new("max.write.duration.ms", Kind::Long, "Longest time of one write of records.")
        .default("9223372036854775807")
        .ignored("writing never holds up polling here")
        .group("S3", 28)
        .shown(Width::Short, "Maximum write duration");
const S3_SEND_DIGEST: Key = Key::new("s3.send.digest", Kind::Boolean, "Whether parts carry a digest.")
    .default("false")
    .ignored("every request is signed over the SHA-256 of its body, which the store checks")
    .group("S3", 32)
    .shown(Width::Short, "S3 Send Upload Message Digest");
const MAX_FILES_SCAN_LIMIT: Key =
    Key::new("max.files.scan.limit", Kind::Int, "How many names are tried when an object is there already.")
        .default("100")
        .ignored("names are planned before they are used, none is ever tried")
        .group("", -1)
        .shown(Width::None, "max.files.scan.limit");
const S3_ELASTIC_BUFFER_ENABLE: Key =
    Key::new("s3.elastic.buffer.enable", Kind::Boolean, "Whether part buffers grow with their content.")
        .default("false")
        .ignored("buffers always grow with their content")
        .group("Keys and Headers", 6)
        .shown(Width::Long, "Enable elastic buffer to staging s3-part");
const S3_ELASTIC_BUFFER_INIT_CAPACITY: Key =
    Key::new("s3.elastic.buffer.init.capacity", Kind::Int, "First size of a part buffer.")
        .default("131072")
        .check(Check::AtLeast(4096))
        .ignored("buffers always grow with their content")
        .group("Keys and Headers", 7)
        .shown(Width::Long, "Elastic buffer initial capacity");
const SCHEMAS_CACHE_CONFIG: Key = Key::new("schemas.cache.config", Kind::Int, "Number of schemas kept.")
    .default("1000")
    .ignored("schemas are kept as long as they are in use")
    .group("Connector", 5)
    .shown(Width::Long, "Schema Cache Size");
const ENHANCED_AVRO_SCHEMA_SUPPORT: Key =
    Key::new("enhanced.avro.schema.support", Kind::Boolean, "Whether Avro keeps symbols of enums and namespaces.")
        .default("true")
        .not_yet("Connect's Avro properties in files")
        .group("Connector", 6)
        .shown(Width::Short, "Enhanced Avro Support");
const ALLOW_OPTIONAL_MAP_KEYS: Key =
    Key::new("allow.optional.map.keys", Kind::Boolean, "Whether a map with optional keys stays a map.")
        .default("false")
        .ignored("keys of maps are never null here, so maps with texts as keys always stay maps, as true asks")
        .group("Connector", 12)
        .shown(Width::Short, "Allow Optional Map Keys");
const SHUTDOWN_TIMEOUT_MS: Key =
    Key::new("shutdown.timeout.ms", Kind::Long, "Milliseconds a task of other sinks may take to stop.")
        .default("3000")
        .ignored("the worker bounds how long a task may take to stop")
        .group("Connector", 9)
        .shown(Width::Medium, "Shutdown Timeout (ms)");

/// Keys without an effect of their own.
pub(crate) const KEYS: &[Key] = &[
    STORAGE_CLASS,
    S3_OBJECT_TAGGING,
    S3_OBJECT_TAGGING_KEY_VALUE_PAIRS,
    S3_OBJECT_BEHAVIOR_ON_TAGGING_ERROR,
    S3_ACL_CANNED,
    S3_WAN_MODE,
    S3_PROXY_URL,
    S3_PROXY_USER,
    S3_PROXY_PASSWORD,
    S3_HTTP_SEND_EXPECT_CONTINUE,
    REPORT_NULL_VALUES_TO_DLQ,
    MAX_WRITE_DURATION_MS,
    S3_SEND_DIGEST,
    MAX_FILES_SCAN_LIMIT,
    S3_ELASTIC_BUFFER_ENABLE,
    S3_ELASTIC_BUFFER_INIT_CAPACITY,
    SCHEMAS_CACHE_CONFIG,
    ENHANCED_AVRO_SCHEMA_SUPPORT,
    ALLOW_OPTIONAL_MAP_KEYS,
    SHUTDOWN_TIMEOUT_MS,
];

/// What is wrong with these keys together (`S3SinkConnectorValidator`, `S3SinkConnectorConfig`).
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    let is = |key: &Key, value: &str| settings.text(key).is_some_and(|text| text.eq_ignore_ascii_case(value));
    let mut problems = Vec::new();
    if is(&S3_WAN_MODE, "true") && is(&S3_PATH_STYLE_ACCESS_ENABLED, "true") {
        let message = "Both accelerate mode and path style access are being enabled. These options are mutually exclusive. \
                       Set s3.wan.mode or s3.path.style.access.enabled to false";
        problems.push(Invalid::new(S3_WAN_MODE.name, message));
        problems.push(Invalid::new(S3_PATH_STYLE_ACCESS_ENABLED.name, message));
    }
    if is(&BEHAVIOR_ON_NULL_VALUES, "write") && !is(&STORE_KAFKA_KEYS, "true") {
        let message = "Writing Kafka record keys to storage is mandatory when tombstone writing is enabled.";
        problems.push(Invalid::new(BEHAVIOR_ON_NULL_VALUES.name, message));
    }
    if is(&S3_COMPRESSION_TYPE, "gzip") {
        let mut classes = vec![&FORMAT_CLASS];
        classes.extend(is(&STORE_KAFKA_KEYS, "true").then_some(&KEYS_FORMAT_CLASS));
        classes.extend(is(&STORE_KAFKA_HEADERS, "true").then_some(&HEADERS_FORMAT_CLASS));
        for class in classes {
            let name = settings.text(class).unwrap_or_default();
            if find(FORMATS, "format", name).is_ok_and(|format| !matches!(format.name(), "json" | "bytes")) {
                let message = format!("Compression Type gzip not valid for {}: ( {name} ).", subject(class));
                problems.push(Invalid::new(S3_COMPRESSION_TYPE.name, message));
            }
        }
    }
    problems
}

fn subject(class: &Key) -> &'static str {
    match class.name {
        "keys.format.class" => "keys format class",
        "headers.format.class" => "headers format class",
        _ => "data format class",
    }
}

fn pairs(text: &str) -> Result<(), String> {
    match text.split(',').map(str::trim).find(|pair| !pair.is_empty() && !pair.contains(':')) {
        Some(pair) => Err(format!("{pair} is not of the form key:value")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Effect;

    fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
        let config = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        check(&Settings::new(config))
            .into_iter()
            .map(|problem| format!("{}: {}", problem.key, problem.message))
            .collect()
    }

    #[test]
    fn combinations_that_upstream_refuses_are_refused_in_its_words() {
        assert_eq!(problems(&[("s3.wan.mode", "true")]).len(), 2);
        assert!(problems(&[("s3.wan.mode", "true"), ("s3.path.style.access.enabled", "false")]).is_empty());
        assert_eq!(
            problems(&[("behavior.on.null.values", "write")]),
            [
                "behavior.on.null.values: Writing Kafka record keys to storage is mandatory when tombstone writing is enabled."
            ]
        );
        let parquet = ("format.class", "io.confluent.connect.s3.format.parquet.ParquetFormat");
        assert_eq!(
            problems(&[("s3.compression.type", "gzip"), parquet]),
            [
                "s3.compression.type: Compression Type gzip not valid for data format class: ( io.confluent.connect.s3.format.parquet.ParquetFormat )."
            ]
        );
        assert!(problems(&[("s3.compression.type", "gzip"), ("format.class", "json")]).is_empty());
        assert_eq!(
            problems(&[("s3.compression.type", "gzip"), ("format.class", "json"), ("store.kafka.keys", "true")]).len(),
            1
        );
    }

    #[test]
    fn no_key_here_claims_to_work() {
        for key in KEYS {
            assert_ne!(key.effect, Effect::Works, "{}", key.name);
        }
    }

    #[test]
    fn tags_are_pairs() {
        assert_eq!(pairs("a:b, c:d:e,"), Ok(()));
        assert_eq!(pairs("a:b,c"), Err("c is not of the form key:value".to_owned()));
    }
}
