//! `io.confluent.connect.avro.AvroConverter`: Avro with its schema in a registry, into columns.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::BinaryArray;
use async_trait::async_trait;
use model::{Batch, Importance, Invalid, Key, Kind, RawBatch, Settings, ValueSchema, Values};

use crate::avro_reader::AvroReader;
use crate::avro_schema::{AvroOptions, AvroSchema};
use crate::json_converter::rows_of;
use crate::registry::{Registry, Rejections, Run, SchemaKind, WireId, runs};
use crate::registry_latest::Reading;
use crate::{Converter, Decoded, Error, Part};

/// Writer schemas that one converter keeps columns for.
const READERS_MAX: usize = 1_000;

const GENERALIZED_SUM_TYPES: Key = Key::new(
    "generalized.sum.type.support",
    Kind::Boolean,
    "Whether the fields of a union's branches are called connect_union_field_N.",
)
.default("false")
.importance(Importance::Medium);

const FLATTEN_SINGLETONS: Key =
    Key::new("flatten.singleton.unions", Kind::Boolean, "Whether a union of one type is that type.").default("true");

const ENHANCED_SUPPORT: Key = Key::new(
    "enhanced.avro.schema.support",
    Kind::Boolean,
    "Whether the fields of a union's branches have the full names of records and enums, with their namespace.",
)
.default("false")
.importance(Importance::Medium);

const IGNORE_DEFAULTS: Key = Key::new(
    "ignore.default.for.nullables",
    Kind::Boolean,
    "Whether a null in a field that has a default stays null; else it becomes the default.",
)
.default("false");

const RECURSIVE_TYPES: Key = Key::new(
    "recursive.types",
    Kind::String,
    "What becomes of a type that refers to itself: fail rejects its records, json has it as JSON text where it comes again.",
)
.default("fail")
.check(model::Check::OneOf(&["fail", "json"]))
.ours();

/// The keys of AvroConverter beside those of the registry.
pub(crate) const AVRO_KEYS: &[Key] = &[
    GENERALIZED_SUM_TYPES,
    FLATTEN_SINGLETONS,
    ENHANCED_SUPPORT,
    IGNORE_DEFAULTS,
    RECURSIVE_TYPES,
    Key::new("connect.meta.data", Kind::Boolean, "Whether properties of Connect's schemas are kept.")
        .default("true")
        .ignored("columns carry no properties"),
    Key::new("scrub.invalid.names", Kind::Boolean, "Whether names that Avro does not allow are changed.")
        .default("false")
        .ignored("what was read from Avro has good names"),
    Key::new("allow.optional.map.keys", Kind::Boolean, "Whether keys of maps may be optional.")
        .default("false")
        .ignored("it is for writing Avro"),
    Key::new("discard.type.doc.default", Kind::Boolean, "Whether documentation and defaults of types are left out.")
        .default("false")
        .ignored("columns carry no documentation"),
];

/// Reads Avro into columns. Rows of one schema that follow each other are one batch.
pub(crate) struct AvroConverter {
    part: Part,
    registry: Registry,
    options: AvroOptions,
    readers: HashMap<WireId, KnownReader>,
}

/// The reader of one writer schema, or why there is none.
struct KnownReader {
    /// The schema it is read with, if not with itself.
    latest_id: Option<i32>,
    reader: Result<Reader, String>,
}

/// The columns of one writer schema, and what batches say about it.
struct Reader {
    reader: AvroReader,
    schema: Arc<ValueSchema>,
}

impl AvroConverter {
    pub(crate) fn build(settings: &Settings, part: Part) -> Result<Box<dyn Converter>, Invalid> {
        Ok(Box::new(AvroConverter {
            part,
            registry: Registry::build(settings, part)?,
            options: AvroOptions {
                numbered_branches: settings.boolean(&GENERALIZED_SUM_TYPES)?,
                flatten_singletons: settings.boolean(&FLATTEN_SINGLETONS)?,
                full_names: settings.boolean(&ENHANCED_SUPPORT)?,
                ignore_defaults: settings.boolean(&IGNORE_DEFAULTS)?,
                recursive_as_json: settings.required_string(&RECURSIVE_TYPES)? == "json",
            },
            readers: HashMap::new(),
        }))
    }

    /// The reader of `id`, or the reason to reject its records. A converter belongs to one topic-partition, so an id means
    /// one version.
    async fn reader(&mut self, id: WireId, topic: &str) -> Result<Result<&mut Reader, String>, Error> {
        if self.registry.reads_latest() || !self.readers.contains_key(&id) {
            let reading = match self.registry.reading(id, topic).await {
                Ok(reading) => reading,
                Err(lookup) => return Ok(Err(lookup.reason()?)),
            };
            if self.readers.get(&id).is_none_or(|known| known.latest_id != reading.latest_id()) {
                if self.readers.len() >= READERS_MAX {
                    self.readers.clear();
                }
                let known = KnownReader { latest_id: reading.latest_id(), reader: self.made(&reading, id) };
                self.readers.insert(id, known);
            }
        }
        match self.readers.get_mut(&id).map(|known| &mut known.reader) {
            Some(Ok(reader)) => Ok(Ok(reader)),
            Some(Err(reason)) => Ok(Err(reason.clone())),
            None => Ok(Err(format!("the schema {id} is not known"))),
        }
    }

    fn made(&self, reading: &Reading, id: WireId) -> Result<Reader, String> {
        for schema in [&reading.written, reading.latest.as_ref().unwrap_or(&reading.written)] {
            match schema.kind {
                SchemaKind::Avro => {}
                SchemaKind::Protobuf => return Err(format!("the schema {id} is Protobuf; use ProtobufConverter")),
                SchemaKind::Json => return Err(format!("the schema {id} is JSON Schema; use JsonSchemaConverter")),
            }
        }
        let schema = match &reading.latest {
            None => AvroSchema::parse(&reading.written, self.options),
            Some(latest) => AvroSchema::resolve(&reading.written, latest, self.options),
        }?;
        let version = schema.version.or(reading.read_with().version);
        let value_schema = ValueSchema { name: schema.name.clone(), version };
        Ok(Reader { reader: AvroReader::new(schema), schema: Arc::new(value_schema) })
    }
}

#[async_trait]
impl Converter for AvroConverter {
    async fn decode(&mut self, raw: &RawBatch) -> Result<Decoded, Error> {
        if raw.is_empty() {
            return Ok(Decoded::default());
        }
        let topic = &*raw.topic_partition.topic;
        let whole = Batch::decoded(raw, Values::Schemaless(self.part.column(raw).clone()));
        let (runs, headless) = runs(raw, self.part);
        let mut rejections = Rejections::new(self.part);
        let failed = |reason: String| format!("Failed to deserialize data for topic {topic} to Avro: {reason}");
        headless.each(|row, reason| rejections.push(row, failed(reason)));
        let mut batches = Vec::with_capacity(runs.len());
        for run in &runs {
            let batch = match run.id {
                None => nulls_of(&whole, run),
                Some(id) => match self.reader(id, topic).await? {
                    Ok(reader) => reader.batch(&whole, run, &mut |row, reason| {
                        rejections.push(row, failed(format!("Error deserializing Avro message for id {id}: {reason}")));
                    }),
                    Err(reason) => {
                        for (row, _) in run.cells.iter().filter(|(_, cell)| cell.is_some()) {
                            rejections.push(*row, failed(reason.clone()));
                        }
                        nulls_of(&whole, run)
                    }
                },
            };
            batches.extend(Some(batch).filter(|batch| !batch.is_empty()));
        }
        Ok(rejections.decoded(raw, batches))
    }
}

impl Reader {
    /// The rows of a run that can be read.
    fn batch(&mut self, whole: &Batch, run: &Run<'_>, reject: &mut dyn FnMut(usize, String)) -> Batch {
        let (columns, bad) = self.reader.read(run.cells.iter().map(|(_, cell)| *cell));
        let mut rows: Vec<usize> = run.cells.iter().map(|(row, _)| *row).collect();
        let mut values = Values::Typed(columns);
        if !bad.is_empty() {
            let good: Vec<u32> = {
                let mut bad = bad.iter().map(|(cell, _)| *cell).peekable();
                (0..rows.len()).filter(|cell| bad.next_if_eq(cell).is_none()).map(|cell| cell as u32).collect()
            };
            bad.into_iter().for_each(|(cell, reason)| reject(rows[cell], reason));
            rows = good.iter().map(|cell| rows[*cell as usize]).collect();
            values = values.select(&good.into());
        }
        let mut batch = rows_of(whole, &rows);
        batch.values = values;
        batch.schema = Some(self.schema.clone());
        batch
    }
}

/// The null rows of a run, without a schema.
fn nulls_of(whole: &Batch, run: &Run<'_>) -> Batch {
    let rows: Vec<usize> = run.cells.iter().filter(|(_, cell)| cell.is_none()).map(|(row, _)| *row).collect();
    let mut batch = rows_of(whole, &rows);
    batch.values = Values::Schemaless(BinaryArray::new_null(rows.len()));
    debug_assert_eq!(batch.values.nulls().map_or(0, |nulls| nulls.null_count()), rows.len());
    batch
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use arrow::util::display::array_value_to_string;
    use proptest::prelude::*;

    use super::*;
    use crate::registry::Registered;

    const OPTIONS: AvroOptions = AvroOptions {
        numbered_branches: false,
        flatten_singletons: true,
        full_names: false,
        ignore_defaults: false,
        recursive_as_json: false,
    };

    fn parse(text: &str, options: AvroOptions) -> Result<AvroReader, String> {
        let registered =
            Registered { id: 1, kind: SchemaKind::Avro, text: text.to_owned(), references: Vec::new(), version: None };
        AvroSchema::parse(&registered, options).map(AvroReader::new)
    }

    fn record(fields: &str) -> String {
        format!(r#"{{"type":"record","name":"R","namespace":"n","fields":[{fields}]}}"#)
    }

    fn show(reader: &mut AvroReader, datum: &[u8]) -> Result<String, String> {
        let (columns, bad) = reader.read([Some(datum)].into_iter());
        match bad.into_iter().next() {
            Some((_, reason)) => Err(reason),
            None => Ok(array_value_to_string(&columns, 0).unwrap()),
        }
    }

    #[test]
    fn datums_become_rows_as_avro_data_has_them() {
        for (avro, datum, expected) in [
            (r#""int""#, &[3][..], "{a: -2}"),
            (r#"{"type":"int","connect.type":"int8"}"#, &[4], "{a: 2}"),
            (r#"["null","long"]"#, &[2, 2], "{a: 1}"),
            (r#"["null","long"]"#, &[0], "{a: }"),
            (r#"["long","null"],"default":7"#, &[2], "{a: 7}"),
            (r#""string""#, &[4, b'h', b'i'], "{a: hi}"),
            (r#"{"type":"int","logicalType":"date"}"#, &[2], "{a: 1970-01-02}"),
            (r#"{"type":"long","logicalType":"timestamp-millis"}"#, &[2], "{a: 1970-01-01T00:00:00.001Z}"),
            (r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#, &[4, 0xff, 0x38], "{a: -2.00}"),
            (r#"{"type":"bytes","logicalType":"decimal","precision":50,"scale":0}"#, &[2, 5], "{a: 5}"),
            (r#"{"type":"enum","name":"E","symbols":["X","Y"]}"#, &[2], "{a: Y}"),
            (r#"{"type":"fixed","name":"F","size":2}"#, &[1, 2], "{a: 0102}"),
            (r#"{"type":"array","items":"int"}"#, &[4, 2, 4, 0], "{a: [1, 2]}"),
            (r#"{"type":"array","items":"int"}"#, &[3, 4, 2, 4, 0], "{a: [1, 2]}"),
            (r#"{"type":"map","values":"boolean"}"#, &[2, 2, b'k', 1, 0], "{a: {k: true}}"),
            (r#"["null","int","string"]"#, &[4, 2, b'x'], "{a: {int: , string: x}}"),
            (r#"["string"]"#, &[0, 2, b'x'], "{a: x}"),
            (
                r#"{"type":"record","name":"S","fields":[{"name":"b","type":"float"}]}"#,
                &[0, 0, 0xc0, 0x3f],
                "{a: {b: 1.5}}",
            ),
        ] {
            let schema = record(&format!(r#"{{"name":"a","type":{avro}}}"#));
            let mut reader = parse(&schema, OPTIONS).unwrap();
            assert_eq!(show(&mut reader, datum).as_deref(), Ok(expected), "{avro}");
            assert_eq!(reader.schema.name.as_deref(), Some("n.R"));
        }
        assert_eq!(show(&mut parse(r#""string""#, OPTIONS).unwrap(), &[2, b'x']).as_deref(), Ok("{value: x}"));
    }

    #[test]
    fn a_union_at_the_top_is_a_row_of_its_branch_or_a_tombstone() {
        let inner = record(r#"{"name":"a","type":"int"}"#);
        for (avro, datum, expected) in [
            (format!(r#"["null",{inner}]"#), &[2, 4][..], "{a: 2}"),
            (format!(r#"["null",{inner}]"#), &[0], ""),
            (format!("[{inner}]"), &[0, 4], "{a: 2}"),
            (format!(r#"["null",{inner},"string"]"#), &[4, 2, b'x'], "{R: , string: x}"),
            (r#"["null","int"]"#.to_owned(), &[2, 4], "{value: 2}"),
            (r#"["null","int"]"#.to_owned(), &[0], ""),
        ] {
            let mut reader = parse(&avro, OPTIONS).unwrap();
            assert_eq!(show(&mut reader, datum).as_deref(), Ok(expected), "{avro}");
        }
        assert_eq!(parse(&format!(r#"["null",{inner}]"#), OPTIONS).unwrap().schema.name.as_deref(), Some("n.R"));
    }

    #[test]
    fn a_bad_record_leaves_no_trace_in_its_neighbours() {
        let schema = record(
            r#"{"name":"a","type":{"type":"array","items":"string"}},{"name":"b","type":{"type":"enum","name":"E","symbols":["X"]}}"#,
        );
        let mut reader = parse(&schema, OPTIONS).unwrap();
        let good: &[u8] = &[2, 2, b'x', 0, 0];
        let datums = [good, &good[..3], &[2, 2, b'y', 0, 2], &[2, 2, b'z', 0, 0, 9], &[0xff; 12], good];
        let (columns, bad) = reader.read(datums.into_iter().map(Some));
        assert_eq!(
            bad,
            [
                (1, "field a: the record ends too early".to_owned()),
                (2, "field b: the enum has no symbol 1, it has 1".to_owned()),
                (3, "1 bytes follow the end of the record".to_owned()),
                (4, "field a: a number has more than 10 bytes".to_owned()),
            ]
        );
        for row in [0, 5] {
            assert_eq!(array_value_to_string(&columns, row).unwrap(), "{a: [x], b: X}");
        }
    }

    #[test]
    fn a_type_that_refers_to_itself_fails_or_becomes_json() {
        let schema = record(r#"{"name":"v","type":"int"},{"name":"next","type":["null","R"]}"#);
        let error = parse(&schema, OPTIONS).err().unwrap();
        assert!(error.starts_with("field next: the type n.R refers to itself"), "{error}");
        let mut reader = parse(&schema, AvroOptions { recursive_as_json: true, ..OPTIONS }).unwrap();
        assert_eq!(
            show(&mut reader, &[2, 2, 4, 2, 6, 0]).as_deref(),
            Ok(r#"{v: 1, next: {"v":2,"next":{"v":3,"next":null}}}"#)
        );
    }

    fn resolve(written: &str, read: &str) -> Result<AvroReader, String> {
        let registered = |text: &str| Registered {
            id: 1,
            kind: SchemaKind::Avro,
            text: text.to_owned(),
            references: Vec::new(),
            version: None,
        };
        AvroSchema::resolve(&registered(written), &registered(read), OPTIONS).map(AvroReader::new)
    }

    /// The rules of the Avro specification under "Schema Resolution".
    #[test]
    fn datums_of_one_schema_become_rows_of_another() {
        let field = |kind: &str| record(&format!(r#"{{"name":"a","type":{kind}}}"#));
        let symbols =
            |symbols: &str, rest: &str| format!(r#"{{"type":"enum","name":"E","symbols":[{symbols}]{rest}}}"#);
        for (written, datum, read, expected) in [
            (r#""int""#, &[4][..], r#""long""#, Ok("{a: 2}")),
            (r#""int""#, &[4], r#""float""#, Ok("{a: 2.0}")),
            (r#""long""#, &[4], r#""double""#, Ok("{a: 2.0}")),
            (r#""float""#, &[0, 0, 0xc0, 0x3f], r#""double""#, Ok("{a: 1.5}")),
            (r#""string""#, &[2, b'x'], r#""bytes""#, Ok("{a: 78}")),
            (r#""bytes""#, &[2, b'x'], r#""string""#, Ok("{a: x}")),
            (r#""int""#, &[4], r#"["null","int"]"#, Ok("{a: 2}")),
            (r#""int""#, &[4], r#"["null","long","string"]"#, Ok("{a: {long: 2, string: }}")),
            (r#"["null","int"]"#, &[2, 4], r#""long""#, Ok("{a: 2}")),
            (r#"["null","int"]"#, &[0], r#""long""#, Err("field a: a null cannot be what the latest schema asks for")),
            (r#"["int","string"]"#, &[2, 2, b'x'], r#"["null","string"]"#, Ok("{a: x}")),
            (
                r#"["int","string"]"#,
                &[0, 4],
                r#"["null","string"]"#,
                Err("field a: it is int in the record and string in the latest schema"),
            ),
            (r#"["string","int","null"]"#, &[2, 4], r#"["null","int","string"]"#, Ok("{a: {int: 2, string: }}")),
            (r#"["string","int","null"]"#, &[4], r#"["null","int","string"]"#, Ok("{a: }")),
            (
                r#"{"type":"array","items":"int"}"#,
                &[4, 2, 4, 0],
                r#"{"type":"array","items":"long"}"#,
                Ok("{a: [1, 2]}"),
            ),
            (
                r#"{"type":"map","values":"int"}"#,
                &[2, 2, b'k', 4, 0],
                r#"{"type":"map","values":["null","double"]}"#,
                Ok("{a: {k: 2.0}}"),
            ),
            (r#"{"type":"int"}"#, &[2], r#"{"type":"int","logicalType":"date"}"#, Ok("{a: 1970-01-02}")),
            (r#"{"type":"fixed","name":"F","size":1}"#, &[7], r#"{"type":"fixed","name":"F","size":1}"#, Ok("{a: 07}")),
        ] {
            let mut reader = resolve(&field(written), &field(read)).unwrap();
            let shown = show(&mut reader, datum);
            assert_eq!(shown.as_deref().map_err(String::as_str), expected, "{written} -> {read}");
        }
        for (written, datum, read, expected) in [
            (symbols(r#""X","Y""#, ""), 2, symbols(r#""Y","X""#, ""), Ok("{a: Y}")),
            (symbols(r#""X","Y""#, ""), 2, symbols(r#""X""#, r#","default":"X""#), Ok("{a: X}")),
            (
                symbols(r#""X","Y""#, ""),
                2,
                symbols(r#""X""#, ""),
                Err("field a: the enum of the latest schema lacks symbol 1 of the record's"),
            ),
            (symbols(r#""X""#, ""), 0, symbols(r#""X","Y""#, ""), Ok("{a: X}")),
        ] {
            let mut reader = resolve(&field(&written), &field(&read)).unwrap();
            let shown = show(&mut reader, &[datum]);
            assert_eq!(shown.as_deref().map_err(String::as_str), expected, "{written} -> {read}");
        }
        for (written, read) in [
            (r#""long""#.to_owned(), r#""int""#.to_owned()),
            (r#""string""#.to_owned(), r#""int""#.to_owned()),
            (
                r#"{"type":"fixed","name":"F","size":1}"#.to_owned(),
                r#"{"type":"fixed","name":"F","size":2}"#.to_owned(),
            ),
            (symbols(r#""X""#, ""), symbols(r#""X""#, "").replace("\"E\"", "\"D\"")),
        ] {
            let why = resolve(&field(&written), &field(&read)).err().unwrap();
            assert!(why.starts_with("field a: ") && why.contains("latest schema"), "{why}");
        }
        let aliased = symbols(r#""X""#, r#","aliases":["E"]"#).replace("\"name\":\"E\"", "\"name\":\"D\"");
        assert!(resolve(&field(&symbols(r#""X""#, "")), &field(&aliased)).is_ok());
    }

    #[test]
    fn fields_come_and_go_and_are_renamed() {
        let written = record(
            r#"{"name":"old","type":"int"},{"name":"gone","type":{"type":"array","items":"string"}},{"name":"kept","type":"string"},
               {"name":"deep","type":{"type":"record","name":"D","fields":[{"name":"x","type":"int"}]}},
               {"name":"left","type":["null",{"type":"map","values":"D"}]}"#,
        );
        let read = record(
            r#"{"name":"kept","type":["null","string"],"default":null},{"name":"new","type":"long","aliases":["old"]},
               {"name":"added","type":"string","default":"d"},{"name":"none","type":["null","int"],"default":null},
               {"name":"seven","type":["int","null"],"default":7},{"name":"raw","type":"bytes","default":"\u00ff"},
               {"name":"deep","type":{"type":"record","name":"D","fields":[{"name":"y","type":"boolean","default":true},{"name":"x","type":"double"}]}}"#,
        );
        let mut reader = resolve(&written, &read).unwrap();
        let datum: &[u8] = &[4, 2, 2, b'z', 0, 2, b'k', 6, 2, 2, 2, b'm', 8, 0];
        let expected = "{kept: k, new: 2, added: d, none: , seven: 7, raw: ff, deep: {y: true, x: 3.0}}";
        for _ in 0..2 {
            assert_eq!(show(&mut reader, datum).as_deref(), Ok(expected));
        }
        assert!(show(&mut reader, &datum[..datum.len() - 1]).unwrap_err().contains("too early"));
        let more = record(r#"{"name":"kept","type":"string"},{"name":"more","type":"int"}"#);
        assert_eq!(
            resolve(&written, &more).err().unwrap(),
            "field more: the record's schema lacks it, and it has no default in the latest schema"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_under_another_schema(
            datums in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..5)
        ) {
            let written = record(
                r#"{"name":"s","type":["null","string","int"]},{"name":"x","type":{"type":"array","items":["null","double"]}},
                   {"name":"l","type":{"type":"map","values":"float"}},{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]}}"#,
            );
            let read = record(
                r#"{"name":"l","type":{"type":"map","values":["null","double"]}},{"name":"s","type":["null","long"]},
                   {"name":"e","type":{"type":"enum","name":"E","symbols":["B"]}},{"name":"n","type":"string","default":"x"}"#,
            );
            let mut reader = resolve(&written, &read).unwrap();
            let (columns, _) = reader.read(datums.iter().map(|datum| Some(datum.as_slice())));
            prop_assert_eq!(columns.len(), datums.len());
        }

        #[test]
        fn arbitrary_bytes_never_panic(datums in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..5)) {
            let schema = record(
                r#"{"name":"s","type":["null","string"]},{"name":"u","type":["int",{"type":"map","values":"bytes"},"null"]},
                   {"name":"l","type":{"type":"array","items":["null","double"]}},
                   {"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}"#,
            );
            let mut reader = parse(&schema, OPTIONS).unwrap();
            let (columns, _) = reader.read(datums.iter().map(|datum| Some(datum.as_slice())));
            prop_assert_eq!(columns.len(), datums.len());
        }
    }
}
