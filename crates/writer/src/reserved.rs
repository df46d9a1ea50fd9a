//! Keys of the S3 sink that are known, checked and documented here, and that nothing reads yet or ever needs to.

use model::{Check, Importance, Invalid, Key, Kind, Settings, Width, find};

use crate::compression::S3_COMPRESSION_TYPE;
use crate::format::{FORMAT_CLASS, FORMATS};
use crate::null_values::BEHAVIOR_ON_NULL_VALUES;
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
const S3_HTTP_SEND_EXPECT_CONTINUE: Key =
    Key::new("s3.http.send.expect.continue", Kind::Boolean, "Whether requests wait for 100-continue.")
        .default("true")
        .ignored("requests are sent without waiting for 100-continue, as false asks")
        .group("S3", 25)
        .shown(Width::Short, "S3 HTTP Send Uses Expect Continue");
const MAX_WRITE_DURATION_MS: Key =
    Key::new("max.write.duration.ms", Kind::Long, "Longest time of one write of records.")
        .default("9223372036854775807")
        .ignored("writing never holds up polling here")
        .group("S3", 28)
        .shown(Width::Short, "Maximum write duration");
const S3_SEND_DIGEST: Key = Key::new("s3.send.digest", Kind::Boolean, "Whether parts carry a digest.")
    .default("false")
    .ignored("every signed request carries the SHA-256 of its body, which the store checks")
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
    S3_HTTP_SEND_EXPECT_CONTINUE,
    MAX_WRITE_DURATION_MS,
    S3_SEND_DIGEST,
    MAX_FILES_SCAN_LIMIT,
    S3_ELASTIC_BUFFER_ENABLE,
    S3_ELASTIC_BUFFER_INIT_CAPACITY,
    SCHEMAS_CACHE_CONFIG,
    ALLOW_OPTIONAL_MAP_KEYS,
    SHUTDOWN_TIMEOUT_MS,
];

/// What is wrong with these keys together (`S3SinkConnectorValidator`, `S3SinkConnectorConfig`).
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    let is = |key: &Key, value: &str| settings.text(key).is_some_and(|text| text.eq_ignore_ascii_case(value));
    let mut problems = Vec::new();
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
}
