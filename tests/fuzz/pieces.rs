//! What targets are made of: an input divided into parts, records of it, and what must hold of every result.

use std::borrow::Cow;
use std::cell::RefCell;

use arrow::array::{Array, StructArray};
use model::{Batch, Config, Offset, RawBatch, RawBatchBuilder, Settings, TopicPartition, Values};
use schema::{CONVERTERS, Converter, JsonColumns, Part, Unknown, infer};

/// Splits an input at its first NUL; all of it is the first part if it has none.
pub(crate) fn split(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

/// The first byte as a number below `count`, and the rest.
pub(crate) fn choose(data: &[u8], count: usize) -> (usize, &[u8]) {
    match data.split_first() {
        Some((first, rest)) => (usize::from(*first) % count, rest),
        None => (0, data),
    }
}

/// Bytes as text, as a reader of a file would refuse or take them.
pub(crate) fn text(data: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(data)
}

/// A configuration of lines `key=value`.
pub(crate) fn config(data: &[u8]) -> Config {
    let pair = |line: &str| line.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.to_owned()));
    text(data).lines().filter_map(pair).collect()
}

/// Settings of pairs.
pub(crate) fn settings(pairs: &[(&str, &str)]) -> Settings {
    Settings::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

/// Records with these values, a tombstone behind them, each with its value as key too.
pub(crate) fn records(values: &[&[u8]]) -> RawBatch {
    let mut builder = RawBatchBuilder::new(TopicPartition::new("fuzzed", 0), values.len() + 1, 0);
    for (row, value) in (0..).zip(values.iter().map(|value| Some(*value)).chain([None])) {
        let offset = Offset::new(row).expect("a row number is an offset");
        builder.push(offset, row * 1000, value, value, Vec::new());
    }
    builder.finish()
}

/// The converter of this name.
pub(crate) fn converter(name: &str, part: Part, settings: &Settings) -> Box<dyn Converter> {
    let plugin = model::find(CONVERTERS, "converter", name).expect("the converter is in the table");
    (plugin.build)(settings, part).expect("the settings are right")
}

thread_local! {
    static RUNTIME: RefCell<tokio::runtime::Runtime> = RefCell::new(
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime needs only a thread"),
    );
}

/// Decodes `values` and checks what came of it. The errors of whole batches are those of schemas, and are no defect.
pub(crate) fn decode(converter: &mut dyn Converter, part: Part, values: &[&[u8]]) -> Vec<Batch> {
    let raw = records(values);
    let decoded = RUNTIME.with_borrow(|runtime| runtime.block_on(converter.decode(&raw)));
    let Ok(decoded) = decoded else { return Vec::new() };
    schema::conformance::keeps_each_row_once(part, &raw, &decoded);
    decoded.batches.iter().for_each(is_sound);
    decoded.batches
}

/// Checks that columns are what Arrow promises to its readers: lengths, offsets, UTF-8.
pub(crate) fn is_sound(batch: &Batch) {
    if let Values::Typed(columns) = &batch.values {
        are_sound(columns);
    }
}

pub(crate) fn are_sound(columns: &StructArray) {
    columns.to_data().validate_full().expect("columns keep what Arrow promises");
}

/// Reads schemaless rows into columns, under the schema that is found in them.
pub(crate) fn typed(batch: &Batch) -> Option<Batch> {
    let Values::Schemaless(texts) = &batch.values else { return None };
    let inferred = infer(None, texts);
    let mut reader = JsonColumns::new(&inferred.schema, Unknown::Report);
    let read = reader.read(texts);
    assert!(!read.grows, "the schema that was found holds what it was found in");
    assert_eq!(read.columns.len(), texts.len(), "one row a text");
    are_sound(&read.columns);
    Some(Batch { values: Values::Typed(read.columns), ..batch.clone() })
}
