//! Headers on their way: the value of each becomes the text of what the header converter reads in it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use model::{Batch, Headers, Offset, RawBatch, RawBatchBuilder, Rejected, Stage, Values, is_whole_value};
use schema::Converter;
use serde_json::Value;
use transform::header_texts;

use crate::TaskError;

/// The value of a header as text, or why it has none.
type Text = Result<Option<Vec<u8>>, String>;

/// Reads the headers of one lane.
pub(crate) struct HeaderReader {
    converter: Box<dyn Converter>,
}

/// The headers of a raw batch, each value as text.
pub(crate) struct ReadHeaders {
    headers: Option<Vec<Headers>>,
    /// The records with a header that could not be read, by rising row.
    pub(crate) rejected: Vec<Rejected>,
}

impl HeaderReader {
    pub(crate) fn new(converter: Box<dyn Converter>) -> HeaderReader {
        HeaderReader { converter }
    }

    pub(crate) async fn read(&mut self, raw: &RawBatch) -> Result<ReadHeaders, TaskError> {
        let Some(all) = &raw.headers else { return Ok(ReadHeaders { headers: None, rejected: Vec::new() }) };
        let mut texts: Vec<Text> = Vec::new();
        let mut flat = Flat::new(raw);
        for (_, value) in all.iter().flatten() {
            if !flat.has_room_for(value) {
                self.convert(flat.finish(), &mut texts).await?;
                flat = Flat::new(raw);
            }
            flat.push(value);
        }
        self.convert(flat.finish(), &mut texts).await?;
        let (mut texts, mut rejected) = (texts.into_iter(), Vec::new());
        let headers = all.iter().enumerate().map(|(row, of_row)| {
            let mut read = Headers::with_capacity(of_row.len());
            for ((name, _), text) in of_row.iter().zip(&mut texts) {
                match text {
                    Ok(text) => read.push((name.clone(), text)),
                    Err(why) => rejected.push(Rejected {
                        row,
                        at: raw.position(row),
                        stage: Stage::HeaderConverter,
                        reason: format!("header {name}: {why}"),
                    }),
                }
            }
            read
        });
        let headers = headers.collect();
        rejected.dedup_by_key(|one| one.row);
        Ok(ReadHeaders { headers: Some(headers), rejected })
    }

    /// Adds the text of each value of `flat`.
    async fn convert(&mut self, flat: RawBatch, texts: &mut Vec<Text>) -> Result<(), TaskError> {
        let decoded = self.converter.decode(&flat).await?;
        let from = texts.len();
        texts.resize(from + flat.len(), Ok(None));
        let index = |offset: i64| from + usize::try_from(offset).expect("headers are counted from 0");
        for one in decoded.rejected {
            texts[index(one.at.offset.get())] = Err(one.reason);
        }
        for batch in decoded.batches {
            for (offset, text) in batch.offsets.iter().zip(texts_of(&batch.values)) {
                texts[index(*offset)] = text;
            }
        }
        Ok(())
    }
}

/// Values of headers in the place of a record's, counted from offset 0.
struct Flat {
    builder: RawBatchBuilder,
}

impl Flat {
    fn new(raw: &RawBatch) -> Flat {
        Flat { builder: RawBatchBuilder::new(raw.topic_partition.clone(), 0, 0) }
    }

    fn has_room_for(&self, value: &Option<Vec<u8>>) -> bool {
        self.builder.is_empty() || self.builder.has_room_for(value.as_ref().map_or(0, Vec::len))
    }

    fn push(&mut self, value: &Option<Vec<u8>>) {
        let number = i64::try_from(self.builder.len()).expect("a batch has fewer headers");
        let offset = Offset::new(number).expect("a count is not negative");
        self.builder.push(offset, -1, None, value.as_deref(), Headers::new());
    }

    fn finish(self) -> RawBatch {
        self.builder.finish()
    }
}

/// Each value as text, as Kafka Connect's `Values.convertToString` writes it.
fn texts_of(values: &Values) -> Vec<Text> {
    let columns = match values {
        Values::Schemaless(texts) => return texts.iter().map(|text| text.map_or(Ok(None), json_text)).collect(),
        Values::Typed(columns) => columns,
    };
    let column: ArrayRef = match is_whole_value(columns.fields()) {
        true => Arc::clone(columns.column(0)),
        false => Arc::new(columns.clone()),
    };
    match header_texts(&column) {
        Ok(texts) => {
            let texts = texts.as_string::<i32>();
            texts.iter().map(|text| Ok(text.map(|text| text.as_bytes().to_vec()))).collect()
        }
        Err(why) => vec![Err(why); column.len()],
    }
}

fn json_text(text: &[u8]) -> Text {
    match serde_json::from_slice(text) {
        Ok(Value::Null) => Ok(None),
        Ok(Value::String(text)) => Ok(Some(text.into_bytes())),
        Ok(other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => {
            Ok(Some(other.to_string().into_bytes()))
        }
        Err(error) => {
            Err(format!("Converting byte[] to Kafka Connect data failed due to serialization error: {error}"))
        }
    }
}

impl ReadHeaders {
    /// The rows of `batch`, which are some of the raw batch `raw`, whose headers could be read, with them.
    pub(crate) fn put_into(&self, batch: Batch, raw: &RawBatch) -> Batch {
        let Some(headers) = &self.headers else { return batch };
        let place =
            |offset: &i64| raw.offsets.binary_search(offset).expect("converters keep the offsets of their rows");
        let is_read = |row: &usize| self.rejected.binary_search_by_key(row, |one| one.row).is_err();
        let good: Vec<(u32, usize)> =
            (0u32..).zip(batch.offsets.iter().map(place)).filter(|(_, place)| is_read(place)).collect();
        let read = Arc::new(good.iter().map(|(_, place)| headers[*place].clone()).collect());
        let rows: Vec<u32> = good.iter().map(|(row, _)| *row).collect();
        let batch = if rows.len() == batch.len() { batch } else { batch.select(&rows) };
        Batch { headers: Some(read), ..batch }
    }
}

#[cfg(test)]
mod tests {
    use model::{Settings, TopicPartition, find};
    use schema::{HEADER_CONVERTERS, Part};

    use super::*;

    type Given<'a> = Vec<(&'a str, Option<&'a [u8]>)>;

    fn raw(headers: Vec<Given<'_>>) -> RawBatch {
        let mut raw = RawBatchBuilder::new(TopicPartition::new("t", 0), 4, 64);
        for (offset, of_row) in (0..).zip(headers) {
            let of_row = of_row.into_iter().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect();
            raw.push(Offset::new(offset * 10).unwrap(), 0, None, Some(b"1"), of_row);
        }
        raw.finish()
    }

    async fn read(converter: &str, raw: &RawBatch) -> (Vec<String>, Vec<String>) {
        let plugin = find(HEADER_CONVERTERS, "converter", converter).unwrap();
        let mut reader = HeaderReader::new((plugin.build)(&Settings::new(Default::default()), Part::Header).unwrap());
        let read = reader.read(raw).await.unwrap();
        let batch = Batch::decoded(raw, Values::Schemaless(raw.values.clone()));
        let batch = read.put_into(batch, raw);
        let text = |value: &Option<Vec<u8>>| value.as_deref().map(|text| String::from_utf8_lossy(text).into_owned());
        let show = |(row, offset): (usize, &i64)| {
            let all = &batch.headers.as_ref().unwrap()[row];
            let shown: Vec<_> = all.iter().map(|(name, value)| format!("{name}={:?}", text(value))).collect();
            format!("{offset}: {}", shown.join(" "))
        };
        let rows = batch.offsets.iter().enumerate().map(show).collect();
        (rows, read.rejected.iter().map(|one| format!("{} {}", one.stage.as_str(), one)).collect())
    }

    #[tokio::test]
    async fn values_become_the_text_of_what_the_converter_reads() {
        let long = 7i64.to_be_bytes();
        for (converter, value, expected) in [
            ("simple", &b"[1, 2]"[..], "[1,2]"),
            ("string", b"[1, 2]", "[1, 2]"),
            ("bytes", b"\x00\xff", "AP8="),
            ("long", &long, "7"),
            ("boolean", &[1], "true"),
            ("json", b"\"a\"", "a"),
            ("json", b"{\"a\": [1.5]}", "{\"a\":[1.5]}"),
            ("json", br#"{"schema":{"type":"string"},"payload":"x"}"#, "x"),
            (
                "json",
                br#"{"schema":{"type":"struct","fields":[{"type":"int32","field":"n"}]},"payload":{"n":1}}"#,
                "{\"n\":1}",
            ),
        ] {
            let raw = raw(vec![vec![("a", Some(value)), ("b", None)], vec![], vec![("c", Some(value))]]);
            let rows =
                [format!("0: a={:?} b=None", Some(expected)), "10: ".to_owned(), format!("20: c={:?}", Some(expected))];
            assert_eq!(read(converter, &raw).await, (rows.to_vec(), vec![]), "{converter}");
        }
    }

    #[tokio::test]
    async fn a_record_with_a_header_that_cannot_be_read_is_rejected_once() {
        let raw = raw(vec![
            vec![("a", Some(b"1"))],
            vec![("a", Some(b"1")), ("b", Some(b"{")), ("c", Some(b"{"))],
            vec![("a", Some(b"2"))],
        ]);
        let (rows, rejected) = read("json", &raw).await;
        assert_eq!(rows, ["0: a=Some(\"1\")", "20: a=Some(\"2\")"]);
        assert_eq!(rejected.len(), 1);
        let begin = "HEADER_CONVERTER t-0@10: header b: Converting byte[] to Kafka Connect data failed";
        assert!(rejected[0].starts_with(begin), "{}", rejected[0]);
        assert_eq!(read("long", &raw).await.1.len(), 3);
    }
}
