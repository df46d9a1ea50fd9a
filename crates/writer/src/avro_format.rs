//! Avro object container files (`io.confluent.connect.s3.format.avro.AvroFormat`): Arrow columns to blocks of rows.

use std::io::Write;
use std::mem;
use std::sync::Arc;

use apache_avro::{Bzip2Settings, Reader};
use arrow::array::Array;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use model::{Check, Fingerprint, Invalid, Key, Kind, Settings, ValueSchema, Values, Width};

use crate::avro_rows::{Column, RowWriter, write_bytes, write_size};
use crate::avro_schema::{AvroOptions, avro_schema};
use crate::format::{Encoder, FileFooter, Format, LabelPlace};
use crate::label::{Label, LabelRead};

/// Compression of blocks.
pub const AVRO_CODEC: Key = Key::new(
    "avro.codec",
    Kind::String,
    "Compression of the blocks of Avro files: null (none), deflate, snappy or bzip2.",
)
.default("null")
.check(Check::With(|name| codec(name).map(|_| ())))
.group("Connector", 11)
.shown(Width::Medium, "Avro Compression Codec");

/// Whether Connect's properties are in schemas.
pub const CONNECT_META_DATA: Key = Key::new(
    "connect.meta.data",
    Kind::Boolean,
    "Whether Connect's properties (connect.name, connect.type and so on) are written into the schema of Avro files.",
)
.default("true")
.group("Connector", 7)
.shown(Width::Short, "Connect Metadata");

/// Whether enums stay enums.
const ENHANCED_AVRO_SCHEMA_SUPPORT: Key = Key::new(
    "enhanced.avro.schema.support",
    Kind::Boolean,
    "Whether texts that are an enum by their schema, as those of Avro, are one in Avro files too, with \
     its name and symbols; a record whose text is none of the symbols cannot be written. With false they are texts, which is \
     what Parquet files always have.",
)
.default("true")
.group("Connector", 6)
.shown(Width::Short, "Enhanced Avro Support");

/// Keys of Avro files.
pub(crate) const KEYS: &[Key] = &[AVRO_CODEC, CONNECT_META_DATA, ENHANCED_AVRO_SCHEMA_SUPPORT];

/// Bytes of rows that make a block (`DataFileConstants.DEFAULT_SYNC_INTERVAL`).
const BLOCK_BYTES: usize = 64_000;

/// While a file is smaller than this, its header waits: at the end of the file it can tell the whole plan.
const HEADER_WAITS_BYTES: usize = 256 * 1024;

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Null,
    Deflate,
    Snappy,
    Bzip2,
}

impl Codec {
    /// What files call it.
    fn name(self) -> &'static str {
        match self {
            Codec::Null => "null",
            Codec::Deflate => "deflate",
            Codec::Snappy => "snappy",
            Codec::Bzip2 => "bzip2",
        }
    }

    /// The rows of a block as the file holds them.
    fn pack(self, mut rows: Vec<u8>) -> Result<Vec<u8>, String> {
        let packed = match self {
            Codec::Null => return Ok(rows),
            Codec::Deflate => {
                let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
                return deflate
                    .write_all(&rows)
                    .and_then(|()| deflate.finish())
                    .map_err(|error| format!("could not compress a block with deflate: {error}"));
            }
            Codec::Snappy => apache_avro::Codec::Snappy.compress(&mut rows),
            Codec::Bzip2 => apache_avro::Codec::Bzip2(Bzip2Settings::default()).compress(&mut rows),
        };
        packed.map_err(|error| format!("could not compress a block with {}: {error}", self.name()))?;
        Ok(rows)
    }
}

fn codec(name: &str) -> Result<Codec, String> {
    match name {
        "null" => Ok(Codec::Null),
        "deflate" => Ok(Codec::Deflate),
        "snappy" => Ok(Codec::Snappy),
        "bzip2" => Ok(Codec::Bzip2),
        _ => Err("String must be one of: null, deflate, snappy, bzip2".to_owned()),
    }
}

pub(crate) fn build(settings: &Settings) -> Result<Arc<dyn Format>, Invalid> {
    let name = settings.required_string(&AVRO_CODEC)?;
    let codec = codec(&name).map_err(|why| Invalid::value(&AVRO_CODEC, &name, why))?;
    let options = AvroOptions {
        connect_meta_data: settings.boolean(&CONNECT_META_DATA)?,
        enhanced_schema: settings.boolean(&ENHANCED_AVRO_SCHEMA_SUPPORT)?,
    };
    Ok(Arc::new(AvroFormat { codec, options }))
}

/// Avro object container files.
#[derive(Debug)]
pub struct AvroFormat {
    codec: Codec,
    options: AvroOptions,
}

impl Format for AvroFormat {
    fn extension(&self) -> &str {
        ".avro"
    }

    fn needs_columns(&self) -> bool {
        true
    }

    fn label_place(&self) -> LabelPlace {
        LabelPlace::Start
    }

    fn open(
        &self,
        schema: &SchemaRef,
        value_schema: Option<&ValueSchema>,
        footer: &FileFooter,
    ) -> Result<Box<dyn Encoder>, String> {
        let text = avro_schema(schema.fields(), value_schema, self.options)?;
        apache_avro::Schema::parse_str(&text).map_err(|error| format!("the schema has no Avro form: {error}"))?;
        Ok(Box::new(AvroEncoder {
            codec: self.codec,
            sync: sync_marker(footer),
            columns: Arc::new(Column::whole(schema.fields(), self.options)),
            schema: text,
            footer: footer.clone(),
            has_header: false,
            block: Vec::new(),
            block_rows: 0,
            out: Vec::new(),
        }))
    }

    fn refused_rows(&self, values: &Values) -> Vec<(usize, String)> {
        let Values::Typed(rows) = values else { return Vec::new() };
        let columns = Column::whole(rows.fields(), self.options);
        if !columns.has_symbols() {
            return Vec::new();
        }
        // What is wrong with all rows was said before.
        let Ok(writer) = RowWriter::whole(rows, &columns) else { return Vec::new() };
        let has_value = |row: &usize| !rows.is_null(*row);
        (0..rows.len()).filter(has_value).filter_map(|row| Some((row, writer.fault(row)?))).collect()
    }

    fn read_label(&self, piece: &Bytes, file_bytes: u64) -> LabelRead {
        match Reader::new(piece.as_ref()) {
            Ok(reader) => {
                let entries = reader.user_metadata().iter();
                let entries =
                    entries.filter_map(|(name, value)| Some((name.clone(), String::from_utf8(value.clone()).ok()?)));
                Label::new(entries).map_or(LabelRead::None, LabelRead::Found)
            }
            Err(_) if piece.starts_with(b"Obj\x01") && (piece.len() as u64) < file_bytes => {
                LabelRead::Needs(file_bytes.min(piece.len() as u64 * 4))
            }
            Err(_) => LabelRead::None,
        }
    }
}

/// The same for every making of a file, and different for different files.
fn sync_marker(footer: &FileFooter) -> [u8; 16] {
    let texts = || footer.entries.iter().map(|(_, value)| value.as_bytes());
    let first = Fingerprint::of(texts()).to_string();
    let second = Fingerprint::of(texts().chain([&b"sync"[..]])).to_string();
    let half = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0).to_be_bytes();
    let mut marker = [0; 16];
    marker[..8].copy_from_slice(&half(&first));
    marker[8..].copy_from_slice(&half(&second));
    marker
}

struct AvroEncoder {
    codec: Codec,
    sync: [u8; 16],
    columns: Arc<Column>,
    schema: String,
    footer: FileFooter,
    has_header: bool,
    block: Vec<u8>,
    block_rows: usize,
    /// Finished blocks.
    out: Vec<u8>,
}

impl AvroEncoder {
    fn end_block(&mut self) -> Result<(), String> {
        if self.block_rows == 0 {
            return Ok(());
        }
        let packed = self.codec.pack(mem::take(&mut self.block))?;
        write_size(self.block_rows, &mut self.out);
        write_bytes(&packed, &mut self.out);
        self.out.extend_from_slice(&self.sync);
        self.block_rows = 0;
        Ok(())
    }

    fn header(&self) -> Vec<u8> {
        let own = [("avro.codec", self.codec.name()), ("avro.schema", self.schema.as_str())];
        let label = self.footer.entries.iter().map(|(name, value)| (*name, value.as_str()));
        let mut header = b"Obj\x01".to_vec();
        write_size(own.len() + self.footer.entries.len(), &mut header);
        for (name, value) in own.into_iter().chain(label) {
            write_bytes(name.as_bytes(), &mut header);
            write_bytes(value.as_bytes(), &mut header);
        }
        header.push(0);
        header.extend_from_slice(&self.sync);
        header
    }

    fn release(&mut self) -> Bytes {
        let mut out = mem::take(&mut self.out);
        if !self.has_header {
            self.has_header = true;
            out.splice(0..0, self.header());
        }
        Bytes::from(out)
    }
}

impl Encoder for AvroEncoder {
    fn write(&mut self, rows: &[Values]) -> Result<(), String> {
        let columns = self.columns.clone();
        for values in rows {
            let rows = match values {
                Values::Typed(rows) if rows.logical_null_count() == 0 => rows,
                Values::Typed(_) => return Err("a row without a value cannot be a row of an Avro file".to_owned()),
                Values::Schemaless(_) => return Err("Avro needs columns, these values have no schema".to_owned()),
            };
            let writer = RowWriter::whole(rows, &columns)?;
            if let Some(fault) = (0..rows.len()).find_map(|row| writer.fault(row)) {
                return Err(fault);
            }
            for row in 0..rows.len() {
                writer.write(row, &mut self.block);
                self.block_rows += 1;
                if self.block.len() >= BLOCK_BYTES {
                    self.end_block()?;
                }
            }
        }
        Ok(())
    }

    fn end_group(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn held_bytes(&self) -> usize {
        // What is known of the columns is about as long as the text that tells them.
        self.block.capacity() + self.out.capacity() + 4 * self.schema.len()
    }

    fn take(&mut self) -> Result<Bytes, String> {
        if !self.has_header && self.out.len() < HEADER_WAITS_BYTES {
            return Ok(Bytes::new());
        }
        Ok(self.release())
    }

    fn finish(&mut self, footer: &FileFooter) -> Result<Bytes, String> {
        self.end_block()?;
        self.footer = footer.clone();
        Ok(self.release())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Sample, encoded, nested_rows, noisy_rows};
    use crate::testing::{settings, stores};
    use apache_avro::types::Value;
    use arrow::array::{ListArray, StringArray, StructArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{DataType, Field, Fields, Schema};
    use model::ConnectMarks;

    fn avro(pairs: &[(&str, &str)]) -> Arc<dyn Format> {
        build(&settings(pairs)).unwrap()
    }

    fn read(file: &Bytes) -> Vec<Value> {
        Reader::new(file.as_ref()).unwrap().map(Result::unwrap).collect()
    }

    fn field(record: &Value, name: &str) -> Value {
        let Value::Record(fields) = record else { panic!("{record:?}") };
        fields.iter().find(|(known, _)| known == name).unwrap().1.clone()
    }

    #[test]
    fn rows_are_read_back_by_another_reader_whatever_the_codec() {
        for codec in ["null", "deflate", "snappy", "bzip2"] {
            let file = encoded(avro(&[("avro.codec", codec)]).as_ref(), &[Values::Typed(nested_rows(0, 3_000))]);
            let rows = read(&file);
            assert_eq!(rows.len(), 3_000);
            assert_eq!(field(&rows[10], "id"), Value::Long(10));
            assert_eq!(field(&rows[10], "text"), Value::Union(0, Box::new(Value::Null)));
            assert_eq!(field(&rows[1], "text"), Value::Union(1, Box::new(Value::String("käfer 1".into()))));
            assert_eq!(field(&rows[11], "outputs"), Value::Union(0, Box::new(Value::Null)));
            assert_eq!(avro(&[]).mark_of(&file).unwrap().nonce, model::Nonce(5));
        }
    }

    #[test]
    fn equal_rows_make_equal_bytes_however_they_came() {
        let pieces: Vec<Values> = (0..30).map(|piece| Values::Typed(nested_rows(piece * 100, 100))).collect();
        let whole = encoded(avro(&[]).as_ref(), &[Values::Typed(nested_rows(0, 3_000))]);
        assert_eq!(encoded(avro(&[]).as_ref(), &pieces), whole);
    }

    #[test]
    fn the_schema_is_avro_data_s() {
        let fields = nested_rows(0, 1).fields().clone();
        let schema = ValueSchema { name: Some("io.example.Row".into()), version: Some(3) };
        let text = avro_schema(&fields, Some(&schema), AvroOptions { connect_meta_data: true, enhanced_schema: true })
            .unwrap();
        for part in [
            r#""name":"Row","namespace":"io.example""#,
            r#""connect.version":3,"connect.name":"io.example.Row""#,
            r#"{"name":"text","type":["null","string"],"default":null}"#,
            r#""connect.name":"org.apache.kafka.connect.data.Timestamp","logicalType":"timestamp-millis""#,
            r#""name":"ConnectDefault","namespace":"io.confluent.connect.avro""#,
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_name_that_avro_cannot_have_is_an_error_that_names_the_field() {
        let fields = Fields::from(vec![Field::new("a-b", DataType::Int64, true)]);
        let Err(error) = avro(&[]).open(&Arc::new(Schema::new(fields)), None, &FileFooter::default()) else { panic!() };
        assert!(error.starts_with("field a-b is no name in Avro"), "{error}");
        let problem = settings(&[("avro.codec", "xz")]).problem(&AVRO_CODEC).unwrap();
        assert!(problem.message.ends_with("String must be one of: null, deflate, snappy, bzip2"), "{problem}");
    }

    /// Rows of a color, of a list of colors, and of a struct with one that may be null.
    fn colors(texts: &[&str]) -> StructArray {
        let mark = "io.confluent.connect.avro.Enum";
        let parameters = ["", ".RED", ".BLUE", ".GREEN"].map(|end| match end.strip_prefix('.') {
            Some(symbol) => (format!("{mark}{end}"), symbol.to_owned()),
            None => (mark.to_owned(), "org.example.Color".to_owned()),
        });
        let marks = ConnectMarks { parameters: parameters.into(), ..ConnectMarks::default() };
        let color = |name: &str, nullable| Arc::new(marks.mark(Field::new(name, DataType::Utf8, nullable)));
        let one = Arc::new(StringArray::from(texts.to_vec()));
        let lengths = OffsetBuffer::from_lengths(texts.iter().enumerate().map(|(row, _)| row % 2));
        let odd: Vec<&str> = texts.iter().skip(1).step_by(2).copied().collect();
        let list = ListArray::new(color("element", false), lengths, Arc::new(StringArray::from(odd)), None);
        let some = StringArray::from_iter(texts.iter().enumerate().map(|(row, text)| (row % 3 != 0).then_some(*text)));
        let inner = StructArray::new(vec![color("inner", true)].into(), vec![Arc::new(some)], None);
        let fields = vec![
            color("one", false),
            Arc::new(Field::new("list", list.data_type().clone(), false)),
            Arc::new(Field::new("struct", inner.data_type().clone(), false)),
        ];
        StructArray::new(fields.into(), vec![one, Arc::new(list), Arc::new(inner)], None)
    }

    #[test]
    fn enums_are_read_back_as_symbols_and_as_texts_where_that_is_said() {
        let rows = Values::Typed(colors(&["RED", "GREEN", "BLUE", "RED"]));
        let read_back = read(&encoded(avro(&[]).as_ref(), std::slice::from_ref(&rows)));
        let (green, blue) = (Value::Enum(2, "GREEN".into()), Value::Enum(1, "BLUE".into()));
        assert_eq!(field(&read_back[1], "one"), green);
        assert_eq!(field(&read_back[1], "list"), Value::Array(vec![green]));
        assert_eq!(field(&read_back[2], "list"), Value::Array(Vec::new()));
        assert_eq!(field(&field(&read_back[2], "struct"), "inner"), Value::Union(1, Box::new(blue)));
        assert_eq!(field(&field(&read_back[3], "struct"), "inner"), Value::Union(0, Box::new(Value::Null)));
        let texts = read(&encoded(avro(&[("enhanced.avro.schema.support", "false")]).as_ref(), &[rows]));
        assert_eq!(field(&texts[1], "one"), Value::String("GREEN".into()));
    }

    #[test]
    fn a_text_that_is_no_symbol_refuses_its_row_and_no_other() {
        let rows = Values::Typed(colors(&["RED", "BLACK", "BLUE", "GREEN", "WHITE"]));
        assert_eq!(avro(&[]).refusal(&rows, None), None);
        let why = "field one: the value is no symbol of the enum org.example.Color".to_owned();
        assert_eq!(avro(&[]).refused_rows(&rows), [(1, why.clone()), (4, why)]);
        assert!(avro(&[("enhanced.avro.schema.support", "false")]).refused_rows(&rows).is_empty());
        let schema = match &rows {
            Values::Typed(columns) => Arc::new(Schema::new(columns.fields().clone())),
            Values::Schemaless(_) => unreachable!(),
        };
        let mut encoder = avro(&[]).open(&schema, None, &FileFooter::default()).unwrap();
        assert!(encoder.write(&[rows]).unwrap_err().contains("no symbol"));
    }

    #[tokio::test(start_paused = true)]
    async fn avro_files_conform_over_every_store() {
        let sample = Sample {
            format: avro(&[]),
            rows: |from, count| Values::Typed(nested_rows(from, count)),
            noise: |from, count| Values::Typed(noisy_rows(from, count, 1_024)),
            numbers: |file| {
                let number = |row: &Value| match field(row, "id") {
                    Value::Long(id) => id,
                    other => panic!("{other:?}"),
                };
                read(&file).iter().map(number).collect()
            },
            content: |file| {
                let bytes = |row: &Value| match field(row, "noise") {
                    Value::Bytes(bytes) => bytes,
                    other => panic!("{other:?}"),
                };
                read(&file).iter().flat_map(bytes).collect()
            },
        };
        for (store, _directory) in stores() {
            let committer = crate::ObjectCommitter::new(store.clone(), crate::OnExisting::Fail);
            conformance::committer_of(&sample, &committer, &store, "c").await;
        }
    }
}
