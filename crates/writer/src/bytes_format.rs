//! Files of the bytes of values, each followed by a separator (`io.confluent.connect.s3.format.bytearray.ByteArrayFormat`).

use std::sync::Arc;

use arrow::array::{Array, AsArray, StructArray};
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use model::{Check, Importance, Invalid, Key, Kind, Settings, ValueSchema, Values, Width, is_whole_value};

use crate::compression::{LineCompression, LineFile};
use crate::format::{Encoder, FileFooter, Format, LabelPlace};
use crate::label::LabelRead;

/// What names of bytes files end in.
pub const FORMAT_BYTEARRAY_EXTENSION: Key = Key::new(
    "format.bytearray.extension",
    Kind::String,
    "End of the names of bytes files, with its dot; .gz is added to it with s3.compression.type=gzip.",
)
.default(".bin")
.check(Check::With(check_extension))
.importance(Importance::Low)
.group("S3", 20)
.shown(Width::Long, "Output file extension for ByteArrayFormat");

/// What stands after each value.
pub const FORMAT_BYTEARRAY_SEPARATOR: Key = Key::new(
    "format.bytearray.separator",
    Kind::String,
    "Text after each record of a bytes file, the last one too; white space is kept as it is. A line feed when it is not given.",
)
.importance(Importance::Low)
.group("S3", 21)
.shown(Width::Long, "Line separator ByteArrayFormat");

/// Keys of bytes files.
pub(crate) const KEYS: &[Key] = &[FORMAT_BYTEARRAY_EXTENSION, FORMAT_BYTEARRAY_SEPARATOR];

fn check_extension(text: &str) -> Result<(), String> {
    if text.contains('/') || text.chars().any(|c| c.is_ascii_control()) {
        return Err("it must hold no slash and no control character".to_owned());
    }
    Ok(())
}

/// Bytes of values after which they are compressed.
const PIECE_BYTES: usize = 256 * 1024;

pub(crate) fn build(settings: &Settings) -> Result<Arc<dyn Format>, Invalid> {
    let compression = LineCompression::new(settings)?;
    let extension = settings.required_string(&FORMAT_BYTEARRAY_EXTENSION)?;
    // White space means something here, so the text is not trimmed.
    let separator = settings.raw(&FORMAT_BYTEARRAY_SEPARATOR).unwrap_or("\n").into();
    Ok(Arc::new(BytesFormat { extension: extension + compression.extension(), compression, separator }))
}

/// The bytes of each value and a separator.
#[derive(Debug)]
pub struct BytesFormat {
    extension: String,
    compression: LineCompression,
    separator: Arc<str>,
}

impl Format for BytesFormat {
    fn extension(&self) -> &str {
        &self.extension
    }

    fn needs_columns(&self) -> bool {
        false
    }

    fn label_place(&self) -> LabelPlace {
        LabelPlace::Nowhere
    }

    fn open(
        &self,
        schema: &SchemaRef,
        _value_schema: Option<&ValueSchema>,
        _footer: &FileFooter,
    ) -> Result<Box<dyn Encoder>, String> {
        if !schema.fields().is_empty() {
            check_type(&schema.fields)?;
        }
        Ok(Box::new(BytesEncoder { file: LineFile::new(self.compression), separator: Arc::clone(&self.separator) }))
    }

    fn read_label(&self, _piece: &Bytes, _file_bytes: u64) -> LabelRead {
        LabelRead::None
    }
}

/// Upstream takes BYTES; here texts are taken too, as the bytes that they are.
fn check_type(fields: &arrow::datatypes::Fields) -> Result<(), String> {
    let refused = |name: &str| {
        Err(format!(
            "Invalid schema type for ByteArrayConverter: {name}. Bytes files take values that are bytes or texts: set \
             value.converter to org.apache.kafka.connect.converters.ByteArrayConverter, or choose another format.class"
        ))
    };
    match fields.as_ref() {
        [field] if is_whole_value(fields) => match field.data_type() {
            DataType::Binary | DataType::LargeBinary | DataType::Utf8 | DataType::LargeUtf8 => Ok(()),
            other => refused(&other.to_string().to_uppercase()),
        },
        _ => refused("STRUCT"),
    }
}

struct BytesEncoder {
    file: LineFile,
    separator: Arc<str>,
}

const NO_VALUE: &str = "a record without a value has no bytes for a bytes file";

impl BytesEncoder {
    fn write_all<'a>(&mut self, values: impl Iterator<Item = Option<&'a [u8]>>) -> Result<(), String> {
        for value in values {
            let lines = self.file.lines();
            lines.extend_from_slice(value.ok_or(NO_VALUE)?);
            lines.extend_from_slice(self.separator.as_bytes());
            if lines.len() >= PIECE_BYTES {
                self.file.compress()?;
            }
        }
        Ok(())
    }

    fn write_rows(&mut self, rows: &StructArray) -> Result<(), String> {
        check_type(rows.fields())?;
        if rows.logical_null_count() > 0 {
            return Err(NO_VALUE.to_owned());
        }
        let column = rows.column(0);
        match column.data_type() {
            DataType::Binary => self.write_all(column.as_binary::<i32>().iter()),
            DataType::LargeBinary => self.write_all(column.as_binary::<i64>().iter()),
            DataType::Utf8 => self.write_all(column.as_string::<i32>().iter().map(|text| text.map(str::as_bytes))),
            DataType::LargeUtf8 => self.write_all(column.as_string::<i64>().iter().map(|text| text.map(str::as_bytes))),
            other => Err(format!("values of type {other} are neither bytes nor texts")),
        }
    }
}

impl Encoder for BytesEncoder {
    fn write(&mut self, rows: &[Values]) -> Result<(), String> {
        for values in rows {
            match values {
                Values::Typed(rows) => self.write_rows(rows)?,
                Values::Schemaless(texts) => self.write_all(texts.iter())?,
            }
        }
        Ok(())
    }

    fn end_group(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn held_bytes(&self) -> usize {
        self.file.held_bytes()
    }

    fn take(&mut self) -> Result<Bytes, String> {
        self.file.take()
    }

    fn finish(&mut self, _footer: &FileFooter) -> Result<Bytes, String> {
        self.file.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Sample, encoded, nested_rows, noisy_rows};
    use crate::testing::{settings, stores};
    use arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray};
    use arrow::datatypes::Fields;

    fn bytes(pairs: &[(&str, &str)]) -> Arc<dyn Format> {
        build(&settings(pairs)).unwrap()
    }

    fn whole(column: ArrayRef) -> Values {
        let field = model::whole_value_field(column.data_type().clone());
        Values::Typed(StructArray::new(Fields::from(vec![field]), vec![column], None))
    }

    fn written(pairs: &[(&str, &str)], values: Values) -> Vec<u8> {
        encoded(bytes(pairs).as_ref(), &[values]).to_vec()
    }

    #[test]
    fn each_value_is_followed_by_the_separator_white_space_and_all() {
        let values = || whole(Arc::new(BinaryArray::from_iter_values([&b"\x00\xff"[..], b"", b"x"])));
        assert_eq!(written(&[], values()), b"\x00\xff\n\nx\n");
        let separated = |separator| written(&[("format.bytearray.separator", separator)], values());
        assert_eq!((separated(" |\t"), separated("")), (b"\x00\xff |\t |\tx |\t".to_vec(), b"\x00\xffx".to_vec()));
        assert_eq!(written(&[], whole(Arc::new(StringArray::from(vec!["ä", "b"])))), "ä\nb\n".as_bytes());
        let texts = Values::Schemaless(BinaryArray::from_iter_values(["{ }", "1"]));
        assert_eq!(written(&[], texts), b"{ }\n1\n");
    }

    #[test]
    fn extensions_are_upstream_s() {
        assert_eq!(bytes(&[]).extension(), ".bin");
        let custom = ("format.bytearray.extension", ".customExtensionForTest");
        assert_eq!(bytes(&[custom]).extension(), ".customExtensionForTest");
        assert_eq!(bytes(&[custom, ("s3.compression.type", "gzip")]).extension(), ".customExtensionForTest.gz");
        assert!(settings(&[("format.bytearray.extension", "/x")]).problem(&FORMAT_BYTEARRAY_EXTENSION).is_some());
    }

    #[test]
    fn other_values_are_refused_in_upstream_s_words() {
        for (values, name) in
            [(Values::Typed(nested_rows(0, 1)), "STRUCT"), (whole(Arc::new(Int64Array::from(vec![1]))), "INT64")]
        {
            let Values::Typed(rows) = &values else { unreachable!() };
            let schema = Arc::new(arrow::datatypes::Schema::new(rows.fields().clone()));
            let Err(error) = bytes(&[]).open(&schema, None, &FileFooter::default()) else { panic!("{name}") };
            assert!(error.starts_with(&format!("Invalid schema type for ByteArrayConverter: {name}.")), "{error}");
        }
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        let mut encoder = bytes(&[]).open(&schema, None, &FileFooter::default()).unwrap();
        assert!(encoder.write(&[whole(Arc::new(BinaryArray::from_iter([Some("x"), None])))]).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_files_conform_over_every_store() {
        let sample = Sample {
            format: bytes(&[]),
            rows: |from, count| {
                whole(Arc::new(StringArray::from_iter_values((from..from + count).map(|n| n.to_string()))))
            },
            noise: |from, count| whole(Arc::clone(noisy_rows(from, count, 1_024).column(0))),
            numbers: |file| std::str::from_utf8(&file).unwrap().lines().map(|line| line.parse().unwrap()).collect(),
            content: |file| file.to_vec(),
        };
        for (store, _directory) in stores() {
            let committer = crate::ObjectCommitter::new(store.clone(), crate::OnExisting::Fail);
            conformance::committer_of(&sample, &committer, &store, "c").await;
        }
    }
}
