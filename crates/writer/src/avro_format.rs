//! Avro object container files (`io.confluent.connect.s3.format.avro.AvroFormat`): Arrow columns to blocks of rows.

use std::io::Write;
use std::mem;
use std::sync::Arc;

use apache_avro::{Bzip2Settings, Reader};
use arrow::array::{Array, AsArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, SchemaRef, Time32MillisecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use model::{Check, Fingerprint, Invalid, Key, Kind, Settings, ValueSchema, Values, Width, is_whole_value};

use crate::avro_schema::{AvroOptions, avro_schema};
use crate::format::{Encoder, FileFooter, Format, LabelPlace};
use crate::json_text::shortest;
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

/// Keys of Avro files.
pub(crate) const KEYS: &[Key] = &[AVRO_CODEC, CONNECT_META_DATA];

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
    let options = AvroOptions { connect_meta_data: settings.boolean(&CONNECT_META_DATA)? };
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
            schema: text,
            footer: footer.clone(),
            has_header: false,
            block: Vec::new(),
            block_rows: 0,
            out: Vec::new(),
        }))
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
        for values in rows {
            let rows = match values {
                Values::Typed(rows) if rows.logical_null_count() == 0 => rows,
                Values::Typed(_) => return Err("a row without a value cannot be a row of an Avro file".to_owned()),
                Values::Schemaless(_) => return Err("Avro needs columns, these values have no schema".to_owned()),
            };
            let writer = RowWriter::whole(rows)?;
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
        self.block.capacity() + self.out.capacity() + self.schema.len()
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

/// Writes the rows of one column.
struct RowWriter<'a> {
    array: &'a dyn Array,
    /// It is a union with null.
    nullable: bool,
    children: Vec<RowWriter<'a>>,
}

impl<'a> RowWriter<'a> {
    fn whole(rows: &'a StructArray) -> Result<RowWriter<'a>, String> {
        if is_whole_value(rows.fields()) {
            return RowWriter::new(rows.column(0).as_ref(), rows.fields()[0].is_nullable());
        }
        RowWriter::new(rows, false)
    }

    fn new(array: &'a dyn Array, nullable: bool) -> Result<RowWriter<'a>, String> {
        let children = match array.data_type() {
            DataType::Struct(fields) => {
                let columns = fields.iter().zip(array.as_struct().columns());
                columns
                    .map(|(field, column)| RowWriter::new(column.as_ref(), field.is_nullable()))
                    .collect::<Result<_, _>>()?
            }
            DataType::List(element) => {
                vec![RowWriter::new(array.as_list::<i32>().values().as_ref(), element.is_nullable())?]
            }
            DataType::Map(entries, _) => {
                let (map, nullable) = (
                    array.as_map(),
                    match entries.data_type() {
                        DataType::Struct(fields) if fields.len() == 2 => fields[1].is_nullable(),
                        other => return Err(format!("a map of {other} has no Avro form")),
                    },
                );
                vec![RowWriter::new(map.keys().as_ref(), false)?, RowWriter::new(map.values().as_ref(), nullable)?]
            }
            DataType::Boolean
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Float32
            | DataType::Float64
            | DataType::Utf8
            | DataType::Binary
            | DataType::Date32
            | DataType::Time32(TimeUnit::Millisecond)
            | DataType::Timestamp(TimeUnit::Millisecond | TimeUnit::Microsecond, _)
            | DataType::Decimal128(_, _)
            | DataType::Decimal256(_, _) => Vec::new(),
            other => return Err(format!("the type {other} has no Avro form")),
        };
        Ok(RowWriter { array, nullable, children })
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.nullable {
            let is_null = self.array.is_null(row);
            write_long(i64::from(!is_null), out);
            if is_null {
                return;
            }
        }
        let array = self.array;
        match array.data_type() {
            DataType::Boolean => out.push(u8::from(array.as_boolean().value(row))),
            DataType::Int8 => write_long(array.as_primitive::<Int8Type>().value(row).into(), out),
            DataType::Int16 => write_long(array.as_primitive::<Int16Type>().value(row).into(), out),
            DataType::Int32 => write_long(array.as_primitive::<Int32Type>().value(row).into(), out),
            DataType::Int64 => write_long(array.as_primitive::<Int64Type>().value(row), out),
            DataType::Date32 => write_long(array.as_primitive::<Date32Type>().value(row).into(), out),
            DataType::Time32(_) => write_long(array.as_primitive::<Time32MillisecondType>().value(row).into(), out),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                write_long(array.as_primitive::<TimestampMillisecondType>().value(row), out);
            }
            DataType::Timestamp(_, _) => write_long(array.as_primitive::<TimestampMicrosecondType>().value(row), out),
            DataType::Float32 => out.extend_from_slice(&array.as_primitive::<Float32Type>().value(row).to_le_bytes()),
            DataType::Float64 => out.extend_from_slice(&array.as_primitive::<Float64Type>().value(row).to_le_bytes()),
            DataType::Utf8 => write_bytes(array.as_string::<i32>().value(row).as_bytes(), out),
            DataType::Binary => write_bytes(array.as_binary::<i32>().value(row), out),
            DataType::Decimal128(_, _) => {
                write_bytes(shortest(&array.as_primitive::<Decimal128Type>().value(row).to_be_bytes()), out);
            }
            DataType::Decimal256(_, _) => {
                write_bytes(shortest(&array.as_primitive::<Decimal256Type>().value(row).to_be_bytes()), out);
            }
            DataType::List(_) => self.write_entries(array.as_list::<i32>().offsets(), row, out),
            DataType::Map(_, _) => self.write_entries(array.as_map().offsets(), row, out),
            DataType::Struct(_) => self.children.iter().for_each(|child| child.write(row, out)),
            other => unreachable!("RowWriter::new refuses {other}"),
        }
    }

    fn write_entries(&self, offsets: &OffsetBuffer<i32>, row: usize, out: &mut Vec<u8>) {
        let entries = usize::try_from(offsets[row]).unwrap_or(0)..usize::try_from(offsets[row + 1]).unwrap_or(0);
        if !entries.is_empty() {
            write_size(entries.len(), out);
            for entry in entries {
                self.children.iter().for_each(|child| child.write(entry, out));
            }
        }
        out.push(0);
    }
}

/// Zigzag, seven bits a byte.
fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn write_size(size: usize, out: &mut Vec<u8>) {
    write_long(i64::try_from(size).expect("no buffer is larger than memory"), out);
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_size(bytes.len(), out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Sample, encoded, nested_rows, noisy_rows};
    use crate::testing::{settings, stores};
    use apache_avro::types::Value;
    use arrow::datatypes::{Field, Fields, Schema};

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
        let text = avro_schema(&fields, Some(&schema), AvroOptions { connect_meta_data: true }).unwrap();
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
