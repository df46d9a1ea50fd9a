//! JSON files: one value a line (`io.confluent.connect.s3.format.json.JsonFormat`).

use std::sync::Arc;

use arrow::array::{Array, BinaryArray, StructArray};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use model::{Check, Importance, Invalid, Key, Kind, Settings, ValueSchema, Values, Width, is_whole_value};

use crate::compression::{LineCompression, LineFile};
use crate::format::{Encoder, FileFooter, Format, LabelPlace};
use crate::json_text::{DecimalText, Printer, write_compact};
use crate::label::LabelRead;

/// How decimals are shown.
pub const JSON_DECIMAL_FORMAT: Key = Key::new(
    "json.decimal.format",
    Kind::String,
    "How JSON files show decimals: BASE64, a text of the unscaled number's bytes as Kafka Connect has it, or NUMERIC, a \
     number.",
)
.default("BASE64")
.check(Check::OneOfIgnoringCase(&["BASE64", "NUMERIC"]))
.importance(Importance::Medium)
.group("S3", 17)
.shown(Width::Medium, "Decimal Format");

/// Keys of JSON files.
pub(crate) const KEYS: &[Key] = &[JSON_DECIMAL_FORMAT];

/// Bytes of lines after which they are compressed.
const PIECE_BYTES: usize = 256 * 1024;

pub(crate) fn build(settings: &Settings) -> Result<Arc<dyn Format>, Invalid> {
    let numeric = settings.required_string(&JSON_DECIMAL_FORMAT)?.eq_ignore_ascii_case("numeric");
    let decimals = if numeric { DecimalText::Numeric } else { DecimalText::Base64 };
    let compression = LineCompression::new(settings)?;
    Ok(Arc::new(JsonFormat { extension: format!(".json{}", compression.extension()), compression, decimals }))
}

/// One JSON value a line. Values without a schema are written as their text is; rows as JsonConverter prints them.
#[derive(Debug)]
pub struct JsonFormat {
    extension: String,
    compression: LineCompression,
    decimals: DecimalText,
}

impl Format for JsonFormat {
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
        _schema: &SchemaRef,
        _value_schema: Option<&ValueSchema>,
        _footer: &FileFooter,
    ) -> Result<Box<dyn Encoder>, String> {
        Ok(Box::new(JsonEncoder { file: LineFile::new(self.compression), decimals: self.decimals }))
    }

    fn read_label(&self, _piece: &Bytes, _file_bytes: u64) -> LabelRead {
        LabelRead::None
    }
}

struct JsonEncoder {
    file: LineFile,
    decimals: DecimalText,
}

impl JsonEncoder {
    fn write_texts(&mut self, texts: &BinaryArray) -> Result<(), String> {
        if texts.null_count() > 0 {
            return Err(NO_VALUE.to_owned());
        }
        for text in texts.iter().flatten() {
            let lines = self.file.lines();
            write_compact(text, lines);
            self.end_line()?;
        }
        Ok(())
    }

    fn write_rows(&mut self, rows: &StructArray) -> Result<(), String> {
        if rows.logical_null_count() > 0 {
            return Err(NO_VALUE.to_owned());
        }
        let printer = if is_whole_value(rows.fields()) {
            Printer::new("value", rows.column(0).as_ref(), self.decimals)?
        } else {
            Printer::new("value", rows, self.decimals)?
        };
        for row in 0..rows.len() {
            printer.write(row, self.file.lines());
            self.end_line()?;
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), String> {
        let lines = self.file.lines();
        lines.push(b'\n');
        if lines.len() >= PIECE_BYTES { self.file.compress() } else { Ok(()) }
    }
}

const NO_VALUE: &str = "a record without a value cannot be a line of a JSON file";

impl Encoder for JsonEncoder {
    fn write(&mut self, rows: &[Values]) -> Result<(), String> {
        for values in rows {
            match values {
                Values::Typed(rows) => self.write_rows(rows)?,
                Values::Schemaless(texts) => self.write_texts(texts)?,
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
    use crate::testing::settings;
    use arrow::array::{
        ArrayRef, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, MapArray, StringArray,
        Time32MillisecondArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{DataType, Field, Fields};
    use std::io::Read;

    fn json(pairs: &[(&str, &str)]) -> Arc<dyn Format> {
        build(&settings(pairs)).unwrap()
    }

    fn text(file: &Bytes) -> String {
        String::from_utf8(file.to_vec()).unwrap()
    }

    fn plain(file: Bytes) -> Vec<u8> {
        if !file.starts_with(&[0x1f, 0x8b]) {
            return file.to_vec();
        }
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(file.as_ref()).read_to_end(&mut plain).unwrap();
        plain
    }

    fn sample(pairs: &[(&str, &str)]) -> Sample {
        Sample {
            format: json(pairs),
            rows: |from, count| Values::Typed(nested_rows(from, count)),
            noise: |from, count| Values::Typed(noisy_rows(from, count, 1_024)),
            numbers: |file| {
                let lines = plain(file);
                let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_i64();
                std::str::from_utf8(&lines).unwrap().lines().filter_map(number).collect()
            },
            content: plain,
        }
    }

    fn column(name: &str, array: ArrayRef) -> (Field, ArrayRef) {
        (Field::new(name, array.data_type().clone(), true), array)
    }

    fn rows(columns: Vec<(Field, ArrayRef)>) -> Values {
        let (fields, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        Values::Typed(StructArray::new(Fields::from(fields), columns, None))
    }

    #[tokio::test(start_paused = true)]
    async fn json_files_conform_over_every_store_plain_and_gzipped() {
        for pairs in [&[][..], &[("s3.compression.type", "gzip"), ("s3.compression.level", "1")]] {
            let sample = sample(pairs);
            for (store, _directory) in crate::testing::stores() {
                let committer = crate::ObjectCommitter::new(store.clone(), crate::OnExisting::Fail);
                conformance::committer_of(&sample, &committer, &store, "c").await;
            }
        }
    }

    #[test]
    fn extensions_are_upstream_s() {
        assert_eq!(json(&[]).extension(), ".json");
        assert_eq!(json(&[("s3.compression.type", "gzip")]).extension(), ".json.gz");
    }

    #[test]
    fn schemaless_values_of_any_shape_stay_as_they_are() {
        let texts = BinaryArray::from_iter_values([r#"{"b":1, "a":[ ]}"#, "[1,2]", "\"x\"", "1.50", "{\n}", "null"]);
        assert_eq!(
            text(&encoded(json(&[]).as_ref(), &[Values::Schemaless(texts)])),
            "{\"b\":1, \"a\":[ ]}\n[1,2]\n\"x\"\n1.50\n{}\nnull\n"
        );
        let tombstone = Values::Schemaless(BinaryArray::from_iter([Some("1"), None]));
        let mut encoder =
            json(&[]).open(&Arc::new(arrow::datatypes::Schema::empty()), None, &FileFooter::default()).unwrap();
        assert!(encoder.write(&[tombstone]).is_err());
    }

    #[test]
    fn rows_are_printed_as_json_converter_prints_them() {
        let entries = |keys: ArrayRef| {
            let fields = Fields::from(vec![
                Field::new("key", keys.data_type().clone(), false),
                Field::new("value", DataType::Int64, true),
            ]);
            let values = Int64Array::from(vec![Some(1), None]);
            let entries = StructArray::new(fields.clone(), vec![keys, Arc::new(values)], None);
            let field = Arc::new(Field::new("key_value", DataType::Struct(fields), false));
            Arc::new(MapArray::new(field, OffsetBuffer::from_lengths([2]), entries, None, false)) as ArrayRef
        };
        let decimal = Decimal128Array::from(vec![-12_345]).with_precision_and_scale(38, 2).unwrap();
        let values = rows(vec![
            column("text", Arc::new(StringArray::from(vec!["käfer \"\\\n\u{1}"]))),
            column("none", Arc::new(StringArray::from(vec![None::<&str>]))),
            column("bytes", Arc::new(BinaryArray::from_iter_values([b"\x00\xff"]))),
            column("decimal", Arc::new(decimal)),
            column("date", Arc::new(Date32Array::from(vec![19_000]))),
            column("time", Arc::new(Time32MillisecondArray::from(vec![86_399_999]))),
            column("ms", Arc::new(TimestampMillisecondArray::from(vec![1_700_000_000_001]).with_timezone("UTC"))),
            column("us", Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_001_500]))),
            column("double", Arc::new(Float64Array::from(vec![100.0]))),
            column("nan", Arc::new(Float64Array::from(vec![f64::NAN]))),
            column("by_text", entries(Arc::new(StringArray::from(vec!["a", "b"])))),
            column("by_number", entries(Arc::new(Int32Array::from(vec![7, 8])))),
        ]);
        let line = |decimal: &str| {
            format!(
                r#"{{"text":"käfer \"\\\n\u0001","none":null,"bytes":"AP8=","decimal":{decimal},"date":19000,"time":86399999,"ms":1700000000001,"us":1700000000001.5,"double":100.0,"nan":"NaN","by_text":{{"a":1,"b":null}},"by_number":[[7,1],[8,null]]}}"#
            ) + "\n"
        };
        assert_eq!(text(&encoded(json(&[]).as_ref(), std::slice::from_ref(&values))), line("\"z8c=\""));
        let numeric = json(&[("json.decimal.format", "numeric")]);
        assert_eq!(text(&encoded(numeric.as_ref(), &[values])), line("-123.45"));
    }

    #[test]
    fn whole_values_are_bare_and_nested_ones_keep_their_nulls() {
        let field = model::whole_value_field(DataType::Utf8);
        let whole = rows(vec![(field, Arc::new(StringArray::from(vec![Some("a\"b"), None])) as ArrayRef)]);
        assert_eq!(text(&encoded(json(&[]).as_ref(), &[whole])), "\"a\\\"b\"\nnull\n");
        let nested = text(&encoded(json(&[]).as_ref(), &[Values::Typed(nested_rows(10, 2))]));
        assert_eq!(
            nested,
            "{\"id\":10,\"text\":null,\"flag\":true,\"time\":1700000000010,\"outputs\":{\"label\":\"spam\",\"scores\":[null,10.125]}}\n\
             {\"id\":11,\"text\":\"käfer 11\",\"flag\":false,\"time\":1700000000011,\"outputs\":null}\n"
        );
    }

    #[test]
    fn a_slice_prints_its_own_rows() {
        let all = text(&encoded(json(&[]).as_ref(), &[Values::Typed(nested_rows(0, 50))]));
        let parts: Vec<Values> = (0..5).map(|part| Values::Typed(nested_rows(0, 50).slice(part * 10, 10))).collect();
        assert_eq!(text(&encoded(json(&[]).as_ref(), &parts)), all);
    }
}
