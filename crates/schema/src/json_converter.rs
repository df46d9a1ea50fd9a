//! `org.apache.kafka.connect.json.JsonConverter`: plain JSON is passed on as text, envelopes become columns.

use std::collections::HashMap;
use std::ops::Range;

use arrow::array::{Array, BinaryArray, NullBufferBuilder, StructArray, UInt32Array};
use arrow::compute::take;
use async_trait::async_trait;
use model::{Batch, Invalid, RawBatch, Rejected, Settings, Values};
use serde::de::IgnoredAny;

use crate::connect_schema::{self, ConnectSchema};
use crate::envelope::{may_be_envelope, split};
use crate::fault::excerpt;
use crate::keys::{REPLACE_NULL_WITH_DEFAULT, SCHEMAS_CACHE_SIZE, SCHEMAS_ENABLE};
use crate::{Converter, Decoded, Error, JsonColumns, Part};

/// Upstream's sentence for a value that is no envelope.
const NO_ENVELOPE: &str = "JsonConverter with schemas.enable requires \"schema\" and \"payload\" fields and may not contain \
    additional fields. If you are trying to deserialize plain JSON data, set schemas.enable=false in your converter \
    configuration.";

/// What `schemas.enable` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Envelopes {
    /// Nothing: what looks like an envelope is one.
    Detect,
    /// `true`: every value is one.
    Require,
    /// `false`: none is.
    Never,
}

/// Reads JSON. Plain values become [`Values::Schemaless`] that share the batch's buffers and are not looked into:
/// whether they are JSON is found by who parses them, so that it is done once. An empty value and JSON `null` are
/// tombstones. Payloads of envelopes become [`Values::Typed`]; the text of their schema is parsed once and remembered.
pub(crate) struct JsonConverter {
    part: Part,
    envelopes: Envelopes,
    replace_null_with_default: bool,
    schemas_max: usize,
    schemas: Schemas,
}

impl JsonConverter {
    pub(crate) fn build(settings: &Settings, part: Part) -> Result<Box<dyn Converter>, Invalid> {
        let enable = settings.boolean(&SCHEMAS_ENABLE)?;
        let envelopes = match (settings.is_set(&SCHEMAS_ENABLE), enable) {
            (false, _) => Envelopes::Detect,
            (true, true) => Envelopes::Require,
            (true, false) => Envelopes::Never,
        };
        Ok(Box::new(JsonConverter {
            part,
            envelopes,
            replace_null_with_default: settings.boolean(&REPLACE_NULL_WITH_DEFAULT)?,
            schemas_max: settings.size(&SCHEMAS_CACHE_SIZE)?.max(1),
            schemas: Schemas::default(),
        }))
    }

    /// Whether no value is an envelope: nearly always, and then there is nothing to sort.
    fn all_plain(&self, texts: &BinaryArray) -> bool {
        match self.envelopes {
            Envelopes::Never => true,
            Envelopes::Require => false,
            Envelopes::Detect => !texts.iter().flatten().any(may_be_envelope),
        }
    }

    fn classify(&mut self, text: &[u8]) -> Row {
        match self.envelopes {
            Envelopes::Never => return plain(text),
            Envelopes::Detect if !may_be_envelope(text) => return plain(text),
            Envelopes::Detect | Envelopes::Require => {}
        }
        let Some(parts) = split(text) else {
            if self.envelopes == Envelopes::Detect {
                return plain(text);
            }
            return Row::Rejected(match serde_json::from_slice::<IgnoredAny>(text) {
                Ok(_) => NO_ENVELOPE.to_owned(),
                Err(error) => format!(
                    "Converting byte[] to Kafka Connect data failed due to serialization error: {error}: {}",
                    excerpt(text)
                ),
            });
        };
        match self.schemas.find(&text[parts.schema], self.replace_null_with_default) {
            Ok(Form::Plain) if says_null(&text[parts.payload.clone()]) => Row::Null,
            Ok(form) => Row::Text(form, parts.payload),
            Err(reason) => Row::Rejected(reason),
        }
    }
}

#[async_trait]
impl Converter for JsonConverter {
    async fn decode(&mut self, raw: &RawBatch) -> Result<Decoded, Error> {
        if raw.is_empty() {
            return Ok(Decoded::default());
        }
        if self.schemas.by_text.len() >= self.schemas_max {
            self.schemas = Schemas::default();
        }
        let texts = self.part.column(raw);
        if self.all_plain(texts) {
            let texts = with_nulls(texts, |row| texts.is_null(row) || says_null(texts.value(row)));
            let batch = Batch::decoded(raw, Values::Schemaless(texts));
            return Ok(Decoded { batches: vec![batch], rejected: Vec::new() });
        }
        let (mut runs, mut rejected) = (Vec::<Run>::new(), Vec::new());
        for row in 0..raw.len() {
            let class = if texts.is_null(row) { Row::Null } else { self.classify(texts.value(row)) };
            match class {
                Row::Null => match runs.last_mut() {
                    Some(run) => run.cells.push((row, None)),
                    None => runs.push(Run { form: None, cells: vec![(row, None)] }),
                },
                Row::Text(form, range) => match runs.last_mut() {
                    Some(run) if run.form.is_none_or(|known| known == form) => {
                        run.form = Some(form);
                        run.cells.push((row, Some(range)));
                    }
                    Some(_) | None => runs.push(Run { form: Some(form), cells: vec![(row, Some(range))] }),
                },
                Row::Rejected(reason) => rejected.push((row, reason)),
            }
        }
        let whole = Batch::decoded(raw, Values::Schemaless(texts.clone()));
        let mut batches = Vec::with_capacity(runs.len());
        for run in runs {
            let batch = match run.form {
                None | Some(Form::Plain) => plain_batch(&whole, texts, &run.cells),
                Some(Form::Typed(schema)) => {
                    let (known, reader) = &mut self.schemas.readers[schema];
                    let batch = typed_batch(&whole, texts, &run.cells, reader, &mut rejected);
                    Batch { schema: known.value_schema.clone(), ..batch }
                }
            };
            if !batch.is_empty() {
                batches.push(batch);
            }
        }
        rejected.sort_by_key(|(row, _)| *row);
        let stage = self.part.stage();
        let name = |(row, reason)| Rejected { row, at: raw.position(row), stage, reason };
        Ok(Decoded { batches, rejected: rejected.into_iter().map(name).collect() })
    }
}

/// What one value is.
#[derive(Debug)]
enum Row {
    Null,
    Text(Form, Range<usize>),
    Rejected(String),
}

/// The form of a value: rows of one form go into one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    /// With this one of the known schemas.
    Typed(usize),
}

/// Rows of one form that follow each other, each with the part of its text that counts; without one it is null. A run
/// of nulls alone takes the form of what comes next.
struct Run {
    form: Option<Form>,
    cells: Vec<(usize, Option<Range<usize>>)>,
}

/// What a schema text means, or why it means nothing.
type Known = Result<Form, String>;

/// The schemas seen so far, by their text.
#[derive(Default)]
struct Schemas {
    by_text: HashMap<Box<[u8]>, Known>,
    readers: Vec<(connect_schema::TypedSchema, JsonColumns)>,
    /// The text seen last and what it means: nearly always that of the next record, and to compare is cheaper than to
    /// look up.
    last: Option<(Box<[u8]>, Known)>,
}

impl Schemas {
    fn find(&mut self, text: &[u8], replace_null_with_default: bool) -> Result<Form, String> {
        if let Some((_, found)) = self.last.as_ref().filter(|(last, _)| **last == *text) {
            return found.clone();
        }
        let found = match self.by_text.get(text) {
            Some(found) => found.clone(),
            None => {
                let found = self.add(text, replace_null_with_default);
                self.by_text.insert(text.into(), found.clone());
                found
            }
        };
        self.last = Some((text.into(), found.clone()));
        found
    }

    /// Parses a schema; texts that mean the same schema share its reader, and so their rows share a batch.
    fn add(&mut self, text: &[u8], replace_null_with_default: bool) -> Result<Form, String> {
        let schema = match connect_schema::parse(text) {
            Ok(ConnectSchema::Schemaless) => return Ok(Form::Plain),
            Ok(ConnectSchema::Typed(schema)) => schema,
            Err(error) => return Err(format!("{error}; in the schema {}", excerpt(text))),
        };
        if let Some(known) = self.readers.iter().position(|(known, _)| *known == schema) {
            return Ok(Form::Typed(known));
        }
        let reader = schema.reader(replace_null_with_default);
        self.readers.push((schema, reader));
        Ok(Form::Typed(self.readers.len() - 1))
    }
}

/// Plain JSON, or null if that is what it says.
fn plain(text: &[u8]) -> Row {
    if says_null(text) { Row::Null } else { Row::Text(Form::Plain, 0..text.len()) }
}

/// Whether a plain value is a tombstone: empty, or JSON `null`.
fn says_null(text: &[u8]) -> bool {
    match text.first() {
        None => true,
        Some(b'n' | b' ' | b'\t' | b'\n' | b'\r') => text.trim_ascii() == b"null",
        Some(_) => false,
    }
}

/// The rows of a run of plain values: the texts themselves, shared, unless they are payloads out of envelopes.
fn plain_batch(whole: &Batch, texts: &BinaryArray, cells: &[(usize, Option<Range<usize>>)]) -> Batch {
    let rows: Vec<usize> = cells.iter().map(|(row, _)| *row).collect();
    let mut batch = rows_of(whole, &rows);
    let is_whole = |(row, range): &(usize, Option<Range<usize>>)| {
        range.as_ref().is_none_or(|range| range.len() == texts.value(*row).len())
    };
    let Values::Schemaless(column) = &batch.values else { unreachable!("the whole batch is schemaless") };
    let column = if cells.iter().all(is_whole) {
        with_nulls(column, |cell| cells[cell].1.is_none())
    } else {
        cells.iter().map(|(row, range)| range.clone().map(|range| &texts.value(*row)[range])).collect()
    };
    batch.values = Values::Schemaless(column);
    batch
}

/// The same texts in the same buffers, null where `is_null` says so.
fn with_nulls(column: &BinaryArray, is_null: impl Fn(usize) -> bool) -> BinaryArray {
    let mut nulls = NullBufferBuilder::new(column.len());
    (0..column.len()).for_each(|row| nulls.append(!is_null(row)));
    BinaryArray::new(column.offsets().clone(), column.values().clone(), nulls.finish())
}

/// The rows of a run of payloads of one schema that fit it; the others go to `rejected`.
fn typed_batch(
    whole: &Batch,
    texts: &BinaryArray,
    cells: &[(usize, Option<Range<usize>>)],
    reader: &mut JsonColumns,
    rejected: &mut Vec<(usize, String)>,
) -> Batch {
    let payloads = cells.iter().map(|(row, range)| range.clone().map(|range| &texts.value(*row)[range]));
    let read = reader.read_each(payloads);
    let rows = cells.iter().map(|(row, _)| *row).collect();
    fitting_rows(whole, rows, read.columns, read.rejected, |row, reason| rejected.push((row, reason)))
}

/// The batch of those rows of `whole` whose values could be read. `columns` has a row for each of `rows`; `bad` counts in
/// them, and each is handed to `reject` under its row number in `whole`.
pub(crate) fn fitting_rows(
    whole: &Batch,
    mut rows: Vec<usize>,
    mut columns: StructArray,
    bad: Vec<(usize, String)>,
    mut reject: impl FnMut(usize, String),
) -> Batch {
    if !bad.is_empty() {
        let known: std::collections::HashSet<usize> = bad.iter().map(|(cell, _)| *cell).collect();
        let good: Vec<u32> = (0..rows.len()).filter(|cell| !known.contains(cell)).map(|cell| cell as u32).collect();
        columns = select(&columns, good.clone());
        bad.into_iter().for_each(|(cell, reason)| reject(rows[cell], reason));
        rows = good.into_iter().map(|cell| rows[cell as usize]).collect();
    }
    let mut batch = rows_of(whole, &rows);
    batch.values = Values::Typed(columns);
    batch
}

fn select(columns: &StructArray, rows: Vec<u32>) -> StructArray {
    let taken = take(columns, &UInt32Array::from(rows), None).expect("row numbers come from these columns");
    taken.as_any().downcast_ref::<StructArray>().expect("take keeps the type").clone()
}

/// Rising row numbers of a batch; without a copy if none is left out.
pub(crate) fn rows_of(whole: &Batch, rows: &[usize]) -> Batch {
    match (rows.first(), rows.last()) {
        (Some(first), Some(last)) if last - first + 1 == rows.len() => whole.slice(*first, rows.len()),
        (Some(_), Some(_)) => whole.select(&rows.iter().map(|row| *row as u32).collect::<Vec<_>>()),
        (None, _) | (_, None) => whole.slice(0, 0),
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use model::{Offset, RawBatchBuilder, TopicPartition};

    use super::*;

    fn converter(pairs: &[(&str, &str)]) -> Box<dyn Converter> {
        let config = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        JsonConverter::build(&Settings::new(config), Part::Value).unwrap()
    }

    fn raw(values: &[Option<&str>]) -> RawBatch {
        let mut builder = RawBatchBuilder::new(TopicPartition::new("t", 0), values.len(), 0);
        for (row, value) in values.iter().enumerate() {
            let offset = Offset::new(10 + row as i64).unwrap();
            builder.push(offset, 0, None, value.map(str::as_bytes), Vec::new());
        }
        builder.finish()
    }

    /// Each batch as offsets, form and rows, and the rejected rows.
    fn show(pairs: &[(&str, &str)], values: &[Option<&str>]) -> Vec<String> {
        let decoded = block_on(converter(pairs).decode(&raw(values))).unwrap();
        let mut lines: Vec<String> = Vec::new();
        for batch in &decoded.batches {
            let rows: Vec<String> = (0..batch.len())
                .map(|row| match &batch.values {
                    Values::Schemaless(texts) if texts.is_null(row) => "null".to_owned(),
                    Values::Schemaless(texts) => String::from_utf8_lossy(texts.value(row)).into_owned(),
                    Values::Typed(columns) if columns.is_null(row) => "null".to_owned(),
                    Values::Typed(columns) => arrow::util::display::array_value_to_string(columns, row).unwrap(),
                })
                .collect();
            let form = if matches!(batch.values, Values::Typed(_)) { "typed" } else { "plain" };
            lines.push(format!("{form} {:?}: {}", batch.offsets.as_ref(), rows.join(" ")));
        }
        lines.extend(decoded.rejected.iter().map(|rejected| format!("row {} {rejected}", rejected.row)));
        lines
    }

    const SCHEMA: &str = r#"{"type":"struct","fields":[{"field":"a","type":"int32"},{"field":"b","type":"string","optional":true,"default":"x"}]}"#;

    fn envelope(schema: &str, payload: &str) -> String {
        format!(r#"{{"schema":{schema},"payload":{payload}}}"#)
    }

    #[test]
    fn plain_values_share_the_buffers_and_need_not_be_json() {
        let raw = raw(&[Some(r#"{"a":1}"#), Some("not json"), Some(""), None, Some(" null ")]);
        let decoded = block_on(converter(&[]).decode(&raw)).unwrap();
        let Values::Schemaless(texts) = &decoded.batches[0].values else { panic!("plain values are schemaless") };
        assert_eq!(texts.values().as_ptr(), raw.values.values().as_ptr());
        assert_eq!((0..5).map(|row| texts.is_null(row)).collect::<Vec<_>>(), [false, false, true, true, true]);
        assert!(decoded.batches.len() == 1 && decoded.rejected.is_empty());
    }

    #[test]
    fn envelopes_and_plain_values_take_turns() {
        let (one, two) = (envelope(SCHEMA, r#"{"a":1,"c":9}"#), envelope(SCHEMA, r#"{"a":2,"b":"y"}"#));
        let values = [
            None,
            Some(&one[..]),
            Some(&two),
            Some(r#"{"schema":1}"#),
            None,
            Some(&one),
            Some(r#"{"payload":1,"x":2}"#),
        ];
        assert_eq!(
            show(&[], &values),
            [
                "typed [10, 11, 12]: null {a: 1, b: x} {a: 2, b: y}",
                r#"plain [13, 14]: {"schema":1} null"#,
                "typed [15]: {a: 1, b: x}",
                r#"plain [16]: {"payload":1,"x":2}"#,
            ]
        );
        assert_eq!(show(&[("schemas.enable", "false")], &values).len(), 1);
    }

    #[test]
    fn required_envelopes_reject_everything_else() {
        let good = envelope(SCHEMA, r#"{"a":1,"b":"y"}"#);
        let bad = envelope(SCHEMA, r#"{"a":"x"}"#);
        let lines = show(
            &[("schemas.enable", "true")],
            &[Some(&good), Some(r#"{"a":1}"#), Some("{"), Some(&bad), None, Some(""), Some(&good)],
        );
        assert_eq!(
            lines,
            [
                "typed [10, 14, 16]: {a: 1, b: y} null {a: 1, b: y}",
                &format!("row 1 t-0@11: {NO_ENVELOPE}"),
                "row 2 t-0@12: Converting byte[] to Kafka Connect data failed due to serialization error: \
                 EOF while parsing an object at line 1 column 1: {",
                "row 3 t-0@13: field a: is INTEGER in the schema but the record has the string \"x\"",
                "row 5 t-0@15: Converting byte[] to Kafka Connect data failed due to serialization error: \
                 EOF while parsing a value at line 1 column 0: ",
            ]
        );
    }

    #[test]
    fn payloads_are_read_as_upstream_reads_them() {
        let field = |rest: &str| format!(r#"{{"type":"struct","fields":[{{"field":"a",{rest}}}]}}"#);
        let logical = |kind: &str, name: &str| {
            field(&format!(r#""type":"{kind}","name":"org.apache.kafka.connect.data.{name}""#))
        };
        let decimal =
            field(r#""type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2"}"#);
        for (schema, payload, expected) in [
            (logical("int64", "Timestamp"), r#"{"a":1500}"#, "typed [10]: {a: 1970-01-01T00:00:01.500Z}"),
            (logical("int32", "Date"), r#"{"a":1}"#, "typed [10]: {a: 1970-01-02}"),
            (
                logical("int32", "Date"),
                r#"{"a":"1970-01-02"}"#,
                "row 0 t-0@10: field a: is DATE in the schema but the record has the string \"1970-01-02\"",
            ),
            (logical("int32", "Time"), r#"{"a":1000}"#, "typed [10]: {a: 00:00:01}"),
            (decimal.clone(), r#"{"a":"AJw="}"#, "typed [10]: {a: 1.56}"),
            (decimal, r#"{"a":1.56}"#, "typed [10]: {a: 1.56}"),
            (field(r#""type":"bytes""#), r#"{"a":"AQI="}"#, "typed [10]: {a: 0102}"),
            (
                field(r#""type":"int8""#),
                r#"{"a":128}"#,
                "row 0 t-0@10: field a: is BYTE in the schema but the record has the number 128",
            ),
            (field(r#""type":"int8""#), r#"{}"#, "row 0 t-0@10: field a: Invalid null value for required BYTE field"),
            (
                field(r#""type":"array","default":[1],"items":{"type":"int32"}"#),
                r#"{"a":null}"#,
                "typed [10]: {a: [1]}",
            ),
            (
                field(r#""type":"map","keys":{"type":"int32"},"values":{"type":"string"}"#),
                r#"{"a":[[1,"x"],[2,"y"]]}"#,
                "typed [10]: {a: {1: x, 2: y}}",
            ),
            (r#"{"type":"string"}"#.to_owned(), r#""text""#, "typed [10]: {value: text}"),
            (r#"{"type":"string"}"#.to_owned(), "null", "row 0 t-0@10: Invalid null value for required STRING field"),
            (r#"{"type":"int64","optional":true}"#.to_owned(), "null", "typed [10]: null"),
            (r#"{"type":"int64","default":7}"#.to_owned(), "null", "typed [10]: {value: 7}"),
            ("null".to_owned(), r#"[1, 2]"#, "plain [10]: [1, 2]"),
            ("null".to_owned(), "null", "plain [10]: null"),
            (r#""v1""#.to_owned(), "1", "row 0 t-0@10: Schema must contain 'type' field; in the schema \"v1\""),
            (SCHEMA.to_owned(), r#"{"a":1"#, "plain [10]: "),
        ] {
            let value = envelope(&schema, payload);
            let lines = show(&[], &[Some(&value)]);
            let expected = if expected == "plain [10]: " { format!("{expected}{value}") } else { expected.to_owned() };
            assert_eq!(lines, [expected], "{value}");
        }
    }

    #[test]
    fn texts_that_mean_one_schema_share_a_batch_and_defaults_can_be_switched_off() {
        let spaced = SCHEMA.replace(',', " , ");
        let (one, two) = (envelope(SCHEMA, r#"{"a":1}"#), envelope(&spaced, r#"{"a":2,"b":null}"#));
        let off = [("replace.null.with.default", "false"), ("schemas.cache.size", "1")];
        assert_eq!(show(&off, &[Some(&one), Some(&two)]), ["typed [10, 11]: {a: 1, b: } {a: 2, b: }"]);
    }
}
