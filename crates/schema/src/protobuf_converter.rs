//! `io.confluent.connect.protobuf.ProtobufConverter`: messages in Confluent's wire format, read into columns.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use model::{Batch, Check, Importance, Invalid, Key, Kind, RawBatch, Settings, ValueSchema, Values};
use prost_reflect::{FileDescriptor, MessageDescriptor};

use crate::json_converter::fitting_rows;
use crate::protobuf_schema::{ProtobufOptions, ProtobufReader, compile, message_at};
use crate::protobuf_wire::{Wire, unzigzag32};
use crate::registry::{Registered, Registry, SchemaKind, WireId, header_rest, runs};
use crate::registry_latest::Reading;
use crate::{Converter, Decoded, Error, Part};

/// Message indexes that a record may have: messages are not nested deeper.
const INDEXES_MAX: u64 = 100;

/// Schemas whose readers are kept.
const READERS_MAX: usize = 1_000;

const PRODUCER: &str = "it is for producers, and a sink writes no Protobuf";

const fn flag(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key::new(name, Kind::Boolean, doc).default(default).importance(Importance::Medium).group("Protobuf", 0)
}

const ENHANCED: Key = flag("enhanced.protobuf.schema.support", "false", "Whether names of schemas keep their package.");
const INT_FOR_ENUMS: Key = flag("int.for.enums", "false", "Whether enumerations are numbers instead of names.");
const OPTIONAL_FOR_NULLABLES: Key = flag(
    "optional.for.nullables",
    "false",
    "Whether only what is declared optional is nullable. Not set, all fields are.",
);
const OPTIONAL_FOR_PROTO2: Key = flag(
    "optional.for.proto2",
    "true",
    "Whether an optional field of proto2 that is not there is null, not its default.",
);
const WRAPPER_FOR_NULLABLES: Key = flag(
    "wrapper.for.nullables",
    "false",
    "Whether google.protobuf.StringValue and the other wrappers are nullable scalars, and plain scalars are not nullable.",
);
const WRAPPER_FOR_RAW: Key = flag(
    "wrapper.for.raw.primitives",
    "true",
    "Whether a record that is nothing but a wrapper of google.protobuf is the scalar in it.",
);
const STRUCT_FOR_NULLS: Key = flag(
    "generate.struct.for.nulls",
    "false",
    "Whether a message that is not there is a struct of defaults, not null.",
);
const INDEX_FOR_UNIONS: Key =
    flag("generate.index.for.unions", "true", "Whether the column of a oneof is called <oneof>_<index>, not <oneof>.");
const FLATTEN_UNIONS: Key =
    flag("flatten.unions", "false", "Whether the members of a oneof are columns of the message, not of a struct.");
const RECURSIVE_TYPES: Key = Key::new(
    "recursive.types",
    Kind::String,
    "What becomes of a field whose message type holds itself: fail rejects the records, json makes the field a column of \
     JSON text. With json, google.protobuf.Struct, Value and ListValue are JSON text too.",
)
.ours()
.default("fail")
.check(Check::OneOf(&["fail", "json"]))
.importance(Importance::Medium)
.group("Protobuf", 1);

/// The keys of ProtobufConverter beside those of the registry.
pub(crate) const PROTOBUF_KEYS: &[Key] = &[
    ENHANCED,
    INT_FOR_ENUMS,
    OPTIONAL_FOR_NULLABLES,
    OPTIONAL_FOR_PROTO2,
    WRAPPER_FOR_NULLABLES,
    WRAPPER_FOR_RAW,
    STRUCT_FOR_NULLS,
    INDEX_FOR_UNIONS,
    FLATTEN_UNIONS,
    RECURSIVE_TYPES,
    flag("scrub.invalid.names", "false", "Whether invalid names are mended.")
        .ignored("names in Protobuf are all valid"),
    flag("generalized.sum.type.support", "false", "Whether unions and enumerations are marked in a general way.")
        .ignored("it changes only marks in Connect's schema, which columns do not have"),
    flag("ignore.default.for.nullables", "false", "Whether defaults of nullable fields are ignored.").ignored(PRODUCER),
];

/// Reads messages of Protobuf. A schema is compiled once for each id, and its messages are read without an object for
/// each. A wrong wire type or a text that is not UTF-8, which Java's parser lets pass, rejects the record.
pub(crate) struct ProtobufConverter {
    part: Part,
    registry: Registry,
    options: ProtobufOptions,
    files: HashMap<(WireId, String), Known>,
    readers: HashMap<ReaderKey, Result<ProtobufReader, String>>,
}

/// A compiled schema, or why it cannot be compiled.
type Known = Result<KnownFile, String>;

struct KnownFile {
    written: FileDescriptor,
    /// The one that its messages are read with, if it is another.
    latest: Option<FileDescriptor>,
    latest_id: Option<i32>,
    version: Option<i32>,
}

impl KnownFile {
    /// The message that the indexes point to, as it is read: the latest schema has it under the same name.
    fn message(&self, indexes: &[usize]) -> Result<MessageDescriptor, String> {
        let message = message_at(&self.written, indexes)?;
        let Some(latest) = &self.latest else { return Ok(message) };
        let known = latest.parent_pool().get_message_by_name(message.full_name());
        known.ok_or_else(|| format!("the latest schema has no message {}", message.full_name()))
    }
}

/// A schema under a topic, and the message in it.
type ReaderKey = (WireId, String, Vec<usize>);

/// Rows that follow each other and have one type of message.
struct MessageRun<'r> {
    indexes: Option<Vec<usize>>,
    rows: Vec<usize>,
    payloads: Vec<Option<&'r [u8]>>,
}

impl ProtobufConverter {
    pub(crate) fn build(settings: &Settings, part: Part) -> Result<Box<dyn Converter>, Invalid> {
        let options = ProtobufOptions {
            enhanced_schema: settings.boolean(&ENHANCED)?,
            int_for_enums: settings.boolean(&INT_FOR_ENUMS)?,
            optional_for_nullables: settings.boolean(&OPTIONAL_FOR_NULLABLES)?,
            optional_for_proto2: settings.boolean(&OPTIONAL_FOR_PROTO2)?,
            wrapper_for_nullables: settings.boolean(&WRAPPER_FOR_NULLABLES)?,
            wrapper_for_raw_primitives: settings.boolean(&WRAPPER_FOR_RAW)?,
            struct_for_nulls: settings.boolean(&STRUCT_FOR_NULLS)?,
            index_for_unions: settings.boolean(&INDEX_FOR_UNIONS)?,
            flatten_unions: settings.boolean(&FLATTEN_UNIONS)?,
            recursive_as_json: settings.required_string(&RECURSIVE_TYPES)? == "json",
        };
        let registry = Registry::build(settings, part)?;
        Ok(Box::new(ProtobufConverter { part, registry, options, files: HashMap::new(), readers: HashMap::new() }))
    }

    /// Makes sure that the schema of `id` is known, be it as one that cannot be used.
    async fn learn(&mut self, id: WireId, topic: &str) -> Result<(), Error> {
        if self.files.len() >= READERS_MAX {
            self.files.clear();
            self.readers.clear();
        }
        let key = (id, topic.to_owned());
        if self.files.contains_key(&key) && !self.registry.reads_latest() {
            return Ok(());
        }
        let known = match self.registry.reading(id, topic).await {
            Ok(reading) => {
                let latest_id = reading.latest_id();
                if matches!(self.files.get(&key), Some(Ok(known)) if known.latest_id == latest_id) {
                    return Ok(());
                }
                compiled(&reading).map_err(|why| format!("schema {id}: {why}"))
            }
            // Not kept: the registry may know it later, and remembers by itself for how long it does not.
            Err(lookup) => Err(lookup.reason()?),
        };
        self.readers.retain(|(known_id, known_topic, _), _| (known_id, known_topic) != (&key.0, &key.1));
        self.files.insert(key, known);
        Ok(())
    }

    /// The batch of a run; rows that cannot be read go to `reject`.
    fn read(
        &mut self,
        whole: &Batch,
        id: Option<WireId>,
        topic: &str,
        run: MessageRun<'_>,
        reject: &mut dyn FnMut(usize, String),
    ) -> Option<Batch> {
        let (Some(id), Some(indexes)) = (id, run.indexes) else {
            // Nothing but nulls: they have no schema, so they are the nulls of any.
            let nulls = run.rows.iter().map(|row| *row as u32).collect::<Vec<_>>();
            return Some(whole.select(&nulls));
        };
        let known = self.files.get(&(id, topic.to_owned()));
        let known = match known {
            Some(Ok(known)) => known,
            Some(Err(why)) => return refuse(&run.rows, &run.payloads, why, whole, reject),
            None => return refuse(&run.rows, &run.payloads, "its schema is not there", whole, reject),
        };
        let options = &self.options;
        let key = (id, topic.to_owned(), indexes);
        if self.readers.len() >= READERS_MAX {
            self.readers.clear();
        }
        let reader = self.readers.entry(key).or_insert_with_key(|(id, _, indexes)| {
            let message = known.message(indexes);
            let reader = message.and_then(|message| ProtobufReader::new(&message, options));
            reader.map_err(|why| format!("schema {id}: {why}"))
        });
        let reader = match reader {
            Ok(reader) => reader,
            Err(why) => return refuse(&run.rows, &run.payloads, why, whole, reject),
        };
        let name = reader.name().map(str::to_owned);
        let (columns, bad) = reader.read_each(run.payloads.into_iter());
        let mut batch = fitting_rows(whole, run.rows, columns, bad, reject);
        batch.schema = Some(Arc::new(ValueSchema { name, version: known.version }));
        Some(batch)
    }
}

/// Rejects the rows that have a value; the nulls among them stay.
fn refuse(
    rows: &[usize],
    payloads: &[Option<&[u8]>],
    why: &str,
    whole: &Batch,
    reject: &mut dyn FnMut(usize, String),
) -> Option<Batch> {
    let mut nulls = Vec::new();
    for (row, payload) in rows.iter().zip(payloads) {
        match payload {
            Some(_) => reject(*row, why.to_owned()),
            None => nulls.push(*row as u32),
        }
    }
    (!nulls.is_empty()).then(|| whole.select(&nulls))
}

fn compiled(reading: &Reading) -> Known {
    let written = compiled_file(&reading.written)?;
    let latest = reading.latest.as_ref().map(|latest| compiled_file(latest)).transpose()?;
    Ok(KnownFile { written, latest, latest_id: reading.latest_id(), version: reading.read_with().version })
}

fn compiled_file(registered: &Registered) -> Result<FileDescriptor, String> {
    match registered.kind {
        SchemaKind::Protobuf => compile(&registered.text, &registered.references),
        SchemaKind::Avro => Err("it is an Avro schema; use AvroConverter".to_owned()),
        SchemaKind::Json => Err("it is a JSON Schema; use JsonSchemaConverter".to_owned()),
    }
}

/// The path to the message type, and the message: a count and that many indexes, zigzag varints; a single 0 stands for
/// the first message of the file.
fn split_indexes(bytes: &[u8]) -> Result<(Vec<usize>, &[u8]), String> {
    let wrong = || "Error deserializing Protobuf message: the message indexes before it are not valid".to_owned();
    let mut wire = Wire::new(bytes);
    let mut number = || usize::try_from(unzigzag32(wire.varint().map_err(|_| wrong())?)).map_err(|_| wrong());
    let count = number()?;
    if count as u64 > INDEXES_MAX {
        return Err(wrong());
    }
    let mut indexes = Vec::with_capacity(count);
    for _ in 0..count {
        indexes.push(number()?);
    }
    if indexes.is_empty() {
        indexes.push(0);
    }
    Ok((indexes, wire.rest()))
}

#[async_trait]
impl Converter for ProtobufConverter {
    async fn decode(&mut self, raw: &RawBatch) -> Result<Decoded, Error> {
        if raw.is_empty() {
            return Ok(Decoded::default());
        }
        let topic = raw.topic_partition.topic.to_string();
        let whole = Batch::decoded(raw, Values::Schemaless(nulls_only(raw.len())));
        let (id_runs, mut rejections) = runs(raw, self.part);
        let mut batches = Vec::new();
        for id_run in id_runs {
            if let Some(id) = id_run.id {
                self.learn(id, &topic).await?;
            }
            let mut message_runs = Vec::<MessageRun<'_>>::new();
            for (row, value) in id_run.cells {
                let headers = raw.headers.as_ref().map(|all| &all[row]);
                let split = match (value, header_rest(headers, self.part)) {
                    (None, _) => None,
                    (Some(value), Some(indexes)) => Some(split_indexes(indexes).map(|(indexes, _)| (indexes, value))),
                    (Some(value), None) => Some(split_indexes(value)),
                };
                let (indexes, payload) = match split {
                    None => (None, None),
                    Some(Ok((indexes, payload))) => (Some(indexes), Some(payload)),
                    Some(Err(reason)) => {
                        rejections.push(row, reason);
                        continue;
                    }
                };
                match message_runs.last_mut() {
                    Some(run) if indexes.is_none() || run.indexes.is_none() || run.indexes == indexes => {
                        run.indexes = run.indexes.take().or(indexes);
                        run.rows.push(row);
                        run.payloads.push(payload);
                    }
                    Some(_) | None => {
                        message_runs.push(MessageRun { indexes, rows: vec![row], payloads: vec![payload] });
                    }
                }
            }
            for run in message_runs {
                let reject = &mut |row, reason| rejections.push(row, reason);
                let batch = self.read(&whole, id_run.id, &topic, run, reject);
                batches.extend(batch.filter(|batch| !batch.is_empty()));
            }
            if let Some(id) = id_run.id {
                self.forget_missing(id, &topic);
            }
        }
        Ok(rejections.decoded(raw, batches))
    }
}

impl ProtobufConverter {
    /// A schema that could not be had is asked for again with the next batch.
    fn forget_missing(&mut self, id: WireId, topic: &str) {
        let key = (id, topic.to_owned());
        if matches!(self.files.get(&key), Some(Err(_))) {
            self.files.remove(&key);
        }
    }
}

/// Values that are all null; those that are not get their columns.
pub(crate) fn nulls_only(rows: usize) -> arrow::array::BinaryArray {
    arrow::array::BinaryArray::new_null(rows)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use arrow::array::Array;
    use arrow::util::display::array_value_to_string;
    use model::{Config, Offset, RawBatchBuilder, TopicPartition};

    use super::*;

    #[test]
    fn message_indexes_are_a_path_or_a_single_zero() {
        for (bytes, indexes, rest) in [
            (&[0u8, 8, 1][..], vec![0], 2),
            (&[2, 2], vec![1], 0),
            (&[4, 2, 0, 9], vec![1, 0], 1),
            (&[2, 0], vec![0], 0),
        ] {
            assert_eq!(split_indexes(bytes), Ok((indexes, &bytes[bytes.len() - rest..])));
        }
        for bytes in [&[][..], &[2], &[1], &[0x80], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[2, 1]] {
            assert!(split_indexes(bytes).is_err(), "{bytes:?}");
        }
    }

    /// A registry that answers every question about schema 7, and knows no other.
    fn registry() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let proto =
                    "syntax = \\\"proto3\\\"; package p; message A { int32 a = 1; } message B { string b = 1; }";
                let (status, body) = if request.starts_with("GET /schemas/ids/7/versions") {
                    ("200 OK", r#"[{"subject":"t-value","version":4}]"#.to_owned())
                } else if request.starts_with("GET /schemas/ids/7") {
                    ("200 OK", format!("{{\"schemaType\":\"PROTOBUF\",\"schema\":\"{proto}\"}}"))
                } else {
                    ("404 Not Found", r#"{"error_code":40403,"message":"Schema not found"}"#.to_owned())
                };
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\ncontent-type: application/json\r\n");
                stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).unwrap();
            }
        });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn runs_of_one_message_become_batches_and_bad_records_are_set_aside() {
        let config = Config::from([("schema.registry.url".to_owned(), registry())]);
        let mut converter = ProtobufConverter::build(&Settings::new(config), Part::Value).unwrap();
        let values: &[Option<&[u8]>] = &[
            Some(b"\0\0\0\0\x07\0\x08\x05"),
            None,
            Some(b"\0\0\0\0\x07\0\x08"),
            Some(b"\0\0\0\0\x07\x02\x02\x0a\x01x"),
            Some(b"\0\0\0\0\x08\0\x08\x05"),
            Some(b"\0\0\0\0\x07\x02\x09"),
            Some(b"{}"),
            Some(b"\0\0\0\0\x07\0"),
        ];
        let mut builder = RawBatchBuilder::new(TopicPartition::new("t", 0), values.len(), 0);
        for (row, value) in values.iter().enumerate() {
            builder.push(Offset::new(row as i64).unwrap(), 0, None, *value, Vec::new());
        }
        let raw = builder.finish();
        for _ in 0..2 {
            let decoded = converter.decode(&raw).await.unwrap();
            let rejected: Vec<usize> = decoded.rejected.iter().map(|rejected| rejected.row).collect();
            assert_eq!(rejected, [2, 4, 5, 6]);
            let mut shown = Vec::new();
            for batch in &decoded.batches {
                let Values::Typed(columns) = &batch.values else { panic!("all have a schema") };
                let schema = batch.schema.as_ref().unwrap();
                let rows = (0..batch.len()).map(|row| match columns.is_null(row) {
                    true => "null".to_owned(),
                    false => array_value_to_string(columns, row).unwrap(),
                });
                let (name, version) = (schema.name.clone().unwrap(), schema.version.unwrap());
                shown.push(format!(
                    "{name} {version} {:?} {}",
                    batch.offsets.as_ref(),
                    rows.collect::<Vec<_>>().join(" ")
                ));
            }
            assert_eq!(shown, ["A 4 [0, 1] {a: 5} null", "B 4 [3] {b: x}", "A 4 [7] {a: 0}"]);
        }
    }
}
