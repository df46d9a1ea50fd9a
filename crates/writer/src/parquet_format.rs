//! Parquet files: Arrow columns to row groups, one row group at a time, drained as they come.

use std::fmt;
use std::io::Write;
use std::mem;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow::compute::concat;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use model::{ValueSchema, Values};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::SchemaDescriptor;

use crate::format::{Encoder, FileFooter, Format, LabelPlace};
use crate::label::{Label, LabelRead};
use crate::parquet_keys::codec;

/// Rows after which a row group ends in any case.
pub const ROW_GROUP_ROWS_MAX: usize = 1_048_576;

/// Rows below which a file has one page a column, so that an index of its pages would only cost bytes.
const PAGE_INDEX_ROWS_MIN: usize = 20_000;

/// Rows that go to the encoder at once. Pages may end between two calls, so calls must not depend on how the rows came.
const CHUNK_ROWS: usize = 8_192;

/// What makes other readers trust our statistics: parquet-java ignores those of a writer whose name it cannot parse.
const CREATED_BY: &str = concat!("sluice version ", env!("CARGO_PKG_VERSION"));

/// Parquet with one codec.
pub struct ParquetFormat {
    extension: &'static str,
    small: Arc<WriterProperties>,
    large: Arc<WriterProperties>,
    /// The last Arrow schema and its Parquet form: files of one cut share it.
    converted: Mutex<Option<(SchemaRef, SchemaDescriptor)>>,
}

impl fmt::Debug for ParquetFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParquetFormat({})", self.extension)
    }
}

impl ParquetFormat {
    /// Parquet with the codec that `parquet.codec` calls `codec_name`; the error ends "Invalid value ...: ".
    pub fn new(codec_name: &str) -> Result<ParquetFormat, String> {
        let (compression, extension) = codec(codec_name)?;
        Ok(ParquetFormat::tuned(compression, extension, |builder| builder))
    }

    /// Parquet with one codec and what `tune` says last of all.
    pub(crate) fn tuned(
        compression: Compression,
        extension: &'static str,
        tune: impl Fn(WriterPropertiesBuilder) -> WriterPropertiesBuilder,
    ) -> ParquetFormat {
        let properties = |statistics, no_index| {
            let builder = WriterProperties::builder()
                .set_compression(compression)
                .set_created_by(CREATED_BY.to_owned())
                .set_coerce_types(true)
                .set_statistics_enabled(statistics)
                .set_offset_index_disabled(no_index);
            Arc::new(tune(builder).build())
        };
        ParquetFormat {
            extension,
            small: properties(EnabledStatistics::Chunk, true),
            large: properties(EnabledStatistics::Page, false),
            converted: Mutex::new(None),
        }
    }

    fn converted(&self, schema: &SchemaRef) -> Result<SchemaDescriptor, String> {
        let mut last = self.converted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((known, descriptor)) =
            last.as_ref().filter(|(known, _)| Arc::ptr_eq(known, schema) || known == schema)
        {
            debug_assert_eq!(known, schema);
            return Ok(descriptor.clone());
        }
        let descriptor = ArrowSchemaConverter::new()
            .with_coerce_types(true)
            .schema_root("schema")
            .convert(schema)
            .map_err(|error| format!("the schema has no Parquet form: {error}"))?;
        *last = Some((Arc::clone(schema), descriptor.clone()));
        Ok(descriptor)
    }
}

impl Format for ParquetFormat {
    fn extension(&self) -> &str {
        self.extension
    }

    fn needs_columns(&self) -> bool {
        true
    }

    fn label_place(&self) -> LabelPlace {
        LabelPlace::End
    }

    fn open(
        &self,
        schema: &SchemaRef,
        _value_schema: Option<&ValueSchema>,
        _footer: &FileFooter,
    ) -> Result<Box<dyn Encoder>, String> {
        if schema.fields().is_empty() {
            return Err("a Parquet file needs at least one column, the values have none".to_owned());
        }
        Ok(Box::new(ParquetEncoder {
            state: State::Unopened { small: Arc::clone(&self.small), large: Arc::clone(&self.large) },
            descriptor: self.converted(schema)?,
            schema: Arc::clone(schema),
        }))
    }

    fn read_label(&self, piece: &Bytes, file_bytes: u64) -> LabelRead {
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(piece, file_bytes) {
            Ok(()) => {}
            Err(ParquetError::NeedMoreData(bytes)) => return LabelRead::Needs(bytes as u64),
            Err(_) => return LabelRead::None,
        }
        let Ok(metadata) = reader.finish() else { return LabelRead::None };
        let entries = metadata.file_metadata().key_value_metadata().into_iter().flatten();
        let entries = entries.filter_map(|entry| Some((entry.key.clone(), entry.value.clone()?)));
        Label::new(entries).map_or(LabelRead::None, LabelRead::Found)
    }
}

/// Where encoded bytes gather until they are taken.
#[derive(Debug, Default)]
struct Sink(Vec<u8>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct ParquetEncoder {
    state: State,
    descriptor: SchemaDescriptor,
    schema: SchemaRef,
}

/// The writer waits for the first row group, whose size says whether an index of pages is worth its bytes.
enum State {
    Unopened { small: Arc<WriterProperties>, large: Arc<WriterProperties> },
    Open(Box<ArrowWriter<Sink>>),
}

impl ParquetEncoder {
    fn writer(&mut self, rows: usize) -> Result<&mut ArrowWriter<Sink>, String> {
        if let State::Unopened { small, large } = &self.state {
            let properties = if rows < PAGE_INDEX_ROWS_MIN { small } else { large };
            let options = ArrowWriterOptions::new()
                .with_properties(WriterProperties::clone(properties))
                .with_skip_arrow_metadata(true)
                .with_parquet_schema(self.descriptor.clone());
            let writer = ArrowWriter::try_new_with_options(Sink::default(), Arc::clone(&self.schema), options);
            self.state = State::Open(Box::new(writer.map_err(|error| error.to_string())?));
        }
        match &mut self.state {
            State::Open(writer) => Ok(writer),
            State::Unopened { .. } => Err("the encoder did not open".to_owned()),
        }
    }
}

impl Encoder for ParquetEncoder {
    fn write(&mut self, rows: &[Values]) -> Result<(), String> {
        let mut columns = Vec::with_capacity(rows.len());
        for values in rows {
            match values {
                Values::Typed(typed) if typed.logical_null_count() == 0 => columns.push(typed),
                Values::Typed(_) => return Err("a row without a value cannot be a row of a Parquet file".to_owned()),
                Values::Schemaless(_) => return Err("Parquet needs columns, these values have no schema".to_owned()),
            }
        }
        let schema = Arc::clone(&self.schema);
        let count = columns.iter().map(|typed| typed.len()).sum();
        let writer = self.writer(count)?;
        for chunk in Chunks::new(&columns) {
            let batch = to_record_batch(&schema, &chunk?)?;
            writer.write(&batch).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn end_group(&mut self) -> Result<(), String> {
        match &mut self.state {
            State::Unopened { .. } => Ok(()),
            State::Open(writer) => writer.flush().map_err(|error| error.to_string()),
        }
    }

    fn held_bytes(&self) -> usize {
        match &self.state {
            State::Unopened { .. } => 0,
            State::Open(writer) => writer.memory_size(),
        }
    }

    fn take(&mut self) -> Result<Bytes, String> {
        match &mut self.state {
            State::Unopened { .. } => Ok(Bytes::new()),
            State::Open(writer) => {
                writer.sync().map_err(|error| error.to_string())?;
                Ok(Bytes::from(mem::take(&mut writer.inner_mut().0)))
            }
        }
    }

    fn finish(&mut self, footer: &FileFooter) -> Result<Bytes, String> {
        let writer = self.writer(0)?;
        for (name, value) in &footer.entries {
            writer.append_key_value_metadata(KeyValue::new((*name).to_owned(), value.clone()));
        }
        writer.finish().map_err(|error| error.to_string())?;
        self.take()
    }
}

fn to_record_batch(schema: &SchemaRef, rows: &StructArray) -> Result<RecordBatch, String> {
    RecordBatch::try_new(Arc::clone(schema), rows.columns().to_vec()).map_err(|error| error.to_string())
}

/// Cuts the rows of some arrays into chunks of [`CHUNK_ROWS`], the same chunks however the rows are spread. A chunk that
/// lies in one array is not copied.
struct Chunks<'a> {
    arrays: &'a [&'a StructArray],
    from: usize,
}

impl<'a> Chunks<'a> {
    fn new(arrays: &'a [&'a StructArray]) -> Self {
        Self { arrays, from: 0 }
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<StructArray, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut pieces: Vec<ArrayRef> = Vec::new();
        let mut room = CHUNK_ROWS;
        while let (Some(array), true) = (self.arrays.first(), room > 0) {
            let count = room.min(array.len() - self.from);
            if count > 0 {
                pieces.push(Array::slice(*array, self.from, count));
            }
            room -= count;
            self.from += count;
            if self.from == array.len() {
                self.arrays = &self.arrays[1..];
                self.from = 0;
            }
        }
        let whole = match pieces.as_slice() {
            [] => return None,
            [one] => Arc::clone(one),
            several => {
                let several: Vec<&dyn Array> = several.iter().map(AsRef::as_ref).collect();
                match concat(&several) {
                    Ok(whole) => whole,
                    Err(error) => return Some(Err(error.to_string())),
                }
            }
        };
        Some(Ok(whole.as_any().downcast_ref::<StructArray>().expect("pieces of structs make a struct").clone()))
    }
}

/// What a person sees of a Parquet file.
#[derive(Debug)]
pub struct Preview {
    /// Its schema in Parquet's message notation.
    pub schema: String,
    /// Its first rows as a text table.
    pub rows: String,
}

/// The schema and the first `rows_max` rows of a Parquet file; the error is a sentence.
pub fn preview(file: Bytes, rows_max: usize) -> Result<Preview, String> {
    let read = || -> parquet::errors::Result<Preview> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let mut schema = Vec::new();
        parquet::schema::printer::print_schema(&mut schema, builder.parquet_schema().root_schema());
        let batches = builder.with_limit(rows_max).build()?.collect::<Result<Vec<_>, _>>()?;
        let rows = arrow::util::pretty::pretty_format_batches(&batches)?.to_string();
        Ok(Preview { schema: String::from_utf8_lossy(&schema).into_owned(), rows })
    };
    read().map_err(|error| format!("could not read the file: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Fields, Schema};

    fn schema_of(rows: &StructArray) -> SchemaRef {
        Arc::new(Schema::new(rows.fields().clone()))
    }

    fn rows(from: i64, count: i64) -> StructArray {
        let fields = Fields::from(vec![Field::new("n", DataType::Int64, false), Field::new("s", DataType::Utf8, true)]);
        let numbers = Int64Array::from_iter_values(from..from + count);
        let texts =
            StringArray::from_iter((from..from + count).map(|n| (n % 3 != 0).then(|| format!("text {}", n % 100))));
        StructArray::new(fields, vec![Arc::new(numbers), Arc::new(texts)], None)
    }

    fn encode(pieces: &[StructArray]) -> Bytes {
        let format = ParquetFormat::new("snappy").unwrap();
        let mut encoder = format.open(&schema_of(&pieces[0]), None, &FileFooter::default()).unwrap();
        encoder.write(&pieces.iter().cloned().map(Values::Typed).collect::<Vec<_>>()).unwrap();
        encoder.finish(&FileFooter { entries: vec![("sluice.nonce", "000000000000002a".to_owned())] }).unwrap()
    }

    #[test]
    fn every_codec_conforms() {
        for name in ["none", "snappy", "gzip", "brotli", "lz4", "lz4_raw", "zstd"] {
            conformance::parquet(&ParquetFormat::new(name).unwrap());
        }
    }

    #[test]
    fn equal_rows_make_equal_bytes_however_they_came() {
        let whole = encode(&[rows(0, 50_000)]);
        let pieces: Vec<_> = (0..50).map(|piece| rows(piece * 1000, 1000)).collect();
        assert_eq!(whole, encode(&pieces));
        assert_eq!(whole, encode(&[rows(0, 1), rows(1, 8_192), rows(8_193, 41_807)]));
    }

    #[test]
    fn the_mark_is_read_back_and_a_torn_file_has_none() {
        let file = encode(&[rows(0, 2)]);
        let format = ParquetFormat::new("snappy").unwrap();
        assert_eq!(format.mark_of(&file).unwrap().nonce, model::Nonce(42));
        assert_eq!(format.mark_of(&file.slice(0..file.len() - 1)), None);
        assert_eq!(format.mark_of(&Bytes::new()), None);
    }
}
