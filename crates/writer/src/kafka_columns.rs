//! `kafka.columns`: where a record lies in Kafka, and its key and headers, as columns beside those of its value.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, Int32Array, Int64Array, ListArray, StringArray, StringBuilder,
    StructArray, TimestampMillisecondArray, UInt32Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use model::{
    Batch, Check, Headers, Importance, Invalid, Key, Kind, RawBatch, Settings, Values, WHOLE_VALUE, Width,
    is_whole_value,
};
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::format::FORMAT_CLASS;
use crate::json_text::{DecimalText, Printer};

/// Which columns are added.
pub const KAFKA_COLUMNS: Key = Key::new(
    "kafka.columns",
    Kind::List,
    "Columns added to each row: topic, partition, offset, timestamp, timestampType (0: the producer's time, 1: the broker's, \
     -1: none), key (its bytes) and headers, with the names and types of Spark's Kafka source. Transforms and partitioners do \
     not see them. A value that is no object becomes the column value beside them. A value that has a field of such a name \
     stops the task: set kafka.columns.prefix.",
)
.default("")
.check(Check::With(check_names))
.ours()
.importance(Importance::Medium)
.group("Connector", 17)
.shown(Width::Long, "Kafka Columns");

/// What their names begin with.
pub const KAFKA_COLUMNS_PREFIX: Key = Key::new(
    "kafka.columns.prefix",
    Kind::String,
    "What the names of kafka.columns begin with, such as kafka_ for kafka_offset.",
)
.default("")
.check(Check::With(check_prefix))
.ours()
.importance(Importance::Low)
.group("Connector", 18)
.shown(Width::Short, "Prefix Of Kafka Columns");

/// The keys that are declared here.
pub(crate) const KEYS: &[Key] = &[KAFKA_COLUMNS, KAFKA_COLUMNS_PREFIX];

/// One of the columns that can be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Topic,
    Partition,
    Offset,
    Timestamp,
    TimestampType,
    Key,
    Headers,
}

const COLUMNS: [(&str, Column); 7] = [
    ("topic", Column::Topic),
    ("partition", Column::Partition),
    ("offset", Column::Offset),
    ("timestamp", Column::Timestamp),
    ("timestampType", Column::TimestampType),
    ("key", Column::Key),
    ("headers", Column::Headers),
];

fn column(name: &str) -> Result<Column, String> {
    let found = COLUMNS.iter().find(|(known, _)| *known == name);
    found.map(|(_, column)| *column).ok_or_else(|| {
        let known: Vec<_> = COLUMNS.iter().map(|(known, _)| *known).collect();
        format!("{name} is no column of Kafka's, expected any of: {}; the value is the row itself", known.join(", "))
    })
}

fn check_names(text: &str) -> Result<(), String> {
    let names: Vec<_> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    for (index, name) in names.iter().enumerate() {
        column(name)?;
        if names[..index].contains(name) {
            return Err(format!("{name} is named twice"));
        }
    }
    Ok(())
}

/// Every format must have the names.
fn check_prefix(text: &str) -> Result<(), String> {
    let starts = text.chars().next().is_none_or(|first| first.is_ascii_alphabetic() || first == '_');
    if starts && text.chars().all(|next| next.is_ascii_alphanumeric() || next == '_') {
        return Ok(());
    }
    Err("it must be letters, digits and underscores, and begin with no digit".to_owned())
}

/// What is wrong with these keys together with others.
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    let is_asked = settings.text(&KAFKA_COLUMNS).is_some_and(|names| !names.is_empty());
    let names_bytes = settings
        .text(&FORMAT_CLASS)
        .is_some_and(|name| model::find(crate::FORMATS, "format", name).is_ok_and(|format| format.name() == "bytes"));
    let why = "bytes files hold the bytes of values and no columns: choose another format.class";
    (is_asked && names_bytes).then(|| Invalid::new(KAFKA_COLUMNS.name, why)).into_iter().collect()
}

/// The columns that `kafka.columns` adds.
#[derive(Debug, Clone)]
pub struct KafkaColumns {
    columns: Vec<(Column, FieldRef)>,
}

/// A value that has a field of the name of an added column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{at}: the value has a field {field}, as kafka.columns would add it; set kafka.columns.prefix, or leave that column out"
)]
pub struct NameClash {
    /// The first such record.
    pub at: model::Position,
    /// Its row in the batch.
    pub row: usize,
    /// The name.
    pub field: String,
}

/// Values with the columns of Kafka beside them.
#[derive(Debug)]
pub struct WithColumns {
    /// The values of all rows; those of rejected ones mean nothing.
    pub values: Values,
    /// Rows whose text is no JSON, and why; by rising row.
    pub rejected: Vec<(usize, String)>,
}

impl KafkaColumns {
    /// The columns that the settings ask for; `None` for none.
    pub fn new(settings: &Settings) -> Result<Option<KafkaColumns>, Invalid> {
        let names = settings.list(&KAFKA_COLUMNS)?;
        let prefix = settings.required_string(&KAFKA_COLUMNS_PREFIX)?;
        let field = |name: &String| {
            let column = column(name).map_err(|why| Invalid::value(&KAFKA_COLUMNS, name, why))?;
            Ok((column, Arc::new(Field::new(format!("{prefix}{name}"), data_type(column), true))))
        };
        let columns = names.iter().map(field).collect::<Result<Vec<_>, Invalid>>()?;
        Ok((!columns.is_empty()).then_some(KafkaColumns { columns }))
    }

    /// Whether the headers of records are asked for.
    pub fn have_headers(&self) -> bool {
        self.columns.iter().any(|(column, _)| *column == Column::Headers)
    }

    /// Whether a column of this name is added.
    pub fn have(&self, name: &str) -> bool {
        self.columns.iter().any(|(_, field)| field.name() == name)
    }

    /// The values of `batch` with these columns: typed values in new columns after their own, objects of JSON text in new
    /// fields at their end; a tombstone stays one. `raw` holds the records of the batch, with keys and headers as converters
    /// and transforms found them.
    pub fn add(&self, batch: &Batch, raw: &RawBatch) -> Result<WithColumns, NameClash> {
        match &batch.values {
            Values::Typed(values) => {
                let taken = |(_, field): &&(Column, FieldRef)| {
                    values.fields().iter().any(|own| own.name() == field.name()) && !batch.is_empty()
                };
                if let Some((_, field)) = self.columns.iter().find(taken) {
                    return Err(NameClash { at: batch.position(0), row: 0, field: field.name().clone() });
                }
                let values = self.beside(values, self.arrays(batch, raw));
                Ok(WithColumns { values: Values::Typed(values), rejected: Vec::new() })
            }
            Values::Schemaless(texts) => self.add_to_texts(batch, texts, raw),
        }
    }

    /// `schema` with the fields of these columns.
    pub fn schema_with(&self, schema: &Schema) -> Schema {
        Schema::new(self.fields_with(schema.fields()))
    }

    /// `rows`, which have these columns, with their own columns changed by `change`.
    pub fn change_values(&self, rows: &StructArray, change: impl FnOnce(&StructArray) -> StructArray) -> StructArray {
        let own = rows.num_columns() - self.columns.len();
        let fields: Fields = rows.fields()[..own].to_vec().into();
        let values = match own {
            0 => StructArray::new_empty_fields(rows.len(), rows.nulls().cloned()),
            _ => StructArray::new(fields, rows.columns()[..own].to_vec(), rows.nulls().cloned()),
        };
        self.beside(&change(&values), rows.columns()[own..].to_vec())
    }

    fn fields_with(&self, own: &Fields) -> Fields {
        // Beside others it is a column like any.
        let own = own.iter().map(|field| match is_whole_value(own) {
            true => Arc::new(Field::new(WHOLE_VALUE, field.data_type().clone(), true)),
            false => Arc::clone(field),
        });
        own.chain(self.columns.iter().map(|(_, field)| Arc::clone(field))).collect()
    }

    fn beside(&self, values: &StructArray, arrays: Vec<ArrayRef>) -> StructArray {
        let columns = values.columns().iter().cloned().chain(arrays).collect();
        StructArray::new(self.fields_with(values.fields()), columns, values.nulls().cloned())
    }

    fn arrays(&self, batch: &Batch, raw: &RawBatch) -> Vec<ArrayRef> {
        let place =
            |offset: &i64| raw.offsets.binary_search(offset).expect("the records of a batch come from a raw one");
        let is_raw = |(column, _): &(Column, FieldRef)| matches!(column, Column::Key | Column::Headers);
        let places: Vec<u32> = match self.columns.iter().any(is_raw) {
            true => batch.offsets.iter().map(|offset| place(offset) as u32).collect(),
            false => Vec::new(),
        };
        self.columns.iter().map(|(column, _)| array(*column, batch, raw, &places)).collect()
    }

    fn add_to_texts(&self, batch: &Batch, texts: &BinaryArray, raw: &RawBatch) -> Result<WithColumns, NameClash> {
        let fields = self.columns.iter().map(|(_, field)| Arc::clone(field)).collect();
        let added = StructArray::new(fields, self.arrays(batch, raw), None);
        let printer = Printer::new("kafka.columns", &added, DecimalText::Base64).expect("these types have a JSON form");
        let mut made = BinaryBuilder::with_capacity(texts.len(), texts.value_data().len());
        let (mut rejected, mut line) = (Vec::new(), Vec::new());
        for row in 0..texts.len() {
            if texts.is_null(row) {
                made.append_null();
                continue;
            }
            let text = texts.value(row).trim_ascii();
            let shape = match shape(text, &self.columns) {
                Ok(shape) => shape,
                Err(error) => {
                    rejected.push((row, format!("the value is no JSON: {error}")));
                    made.append_null();
                    continue;
                }
            };
            line.clear();
            match shape {
                Shape::Clash(field) => return Err(NameClash { at: batch.position(row), row, field }),
                Shape::Empty => {}
                Shape::Object => line.extend_from_slice(text.strip_suffix(b"}").unwrap_or(text)),
                Shape::Other => {
                    line.extend_from_slice(b"{\"value\":");
                    line.extend_from_slice(text);
                }
            }
            let before = line.len();
            printer.write(row, &mut line);
            if before > 0 {
                line[before] = b',';
            }
            made.append_value(&line);
        }
        Ok(WithColumns { values: Values::Schemaless(made.finish()), rejected })
    }
}

fn data_type(column: Column) -> DataType {
    match column {
        Column::Topic => DataType::Utf8,
        Column::Partition | Column::TimestampType => DataType::Int32,
        Column::Offset => DataType::Int64,
        Column::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        Column::Key => DataType::Binary,
        Column::Headers => DataType::List(header()),
    }
}

fn header() -> FieldRef {
    Arc::new(Field::new("element", DataType::Struct(header_fields()), true))
}

fn header_fields() -> Fields {
    vec![Field::new("key", DataType::Utf8, true), Field::new("value", DataType::Binary, true)].into()
}

/// The column of `batch`, whose records are the rows `places` of `raw`; these are needed only for keys and headers.
fn array(column: Column, batch: &Batch, raw: &RawBatch, places: &[u32]) -> ArrayRef {
    let rows = batch.len();
    let has_time = |ms: &i64| *ms >= 0;
    match column {
        Column::Topic => Arc::new(repeated(&batch.topic_partition.topic, rows)),
        Column::Partition => Arc::new(Int32Array::from_value(batch.topic_partition.partition, rows)),
        Column::Offset => Arc::new(Int64Array::new(batch.offsets.clone(), None)),
        Column::Timestamp => {
            let times = &batch.timestamps_ms;
            let nulls = (!times.iter().all(has_time)).then(|| times.iter().map(has_time).collect::<NullBuffer>());
            Arc::new(TimestampMillisecondArray::new(times.clone(), nulls).with_timezone("UTC"))
        }
        Column::TimestampType => {
            let kind = |(row, ms): (usize, &i64)| match &batch.append_times {
                _ if !has_time(ms) => -1,
                Some(given) => i32::from(given.value(row)),
                None => 0,
            };
            Arc::new(Int32Array::from_iter_values(batch.timestamps_ms.iter().enumerate().map(kind)))
        }
        Column::Key => {
            let places = UInt32Array::from(places.to_vec());
            take(&raw.keys, &places, None).expect("places are rows of the raw batch")
        }
        Column::Headers => Arc::new(headers(raw, places)),
    }
}

fn repeated(text: &str, rows: usize) -> StringArray {
    StringArray::new(OffsetBuffer::from_repeated_length(text.len(), rows), text.repeat(rows).into_bytes().into(), None)
}

/// The headers of each record; null where it has none, as in Spark.
fn headers(raw: &RawBatch, places: &[u32]) -> ListArray {
    let Some(all) = &raw.headers else { return ListArray::new_null(header(), places.len()) };
    let of_row: Vec<&Headers> = places.iter().map(|place| &all[*place as usize]).collect();
    let (mut names, mut values) = (StringBuilder::new(), BinaryBuilder::new());
    for (name, value) in of_row.iter().copied().flatten() {
        names.append_value(name);
        values.append_option(value.as_deref());
    }
    let lengths = OffsetBuffer::from_lengths(of_row.iter().map(|headers| headers.len()));
    let nulls = of_row.iter().map(|headers| !headers.is_empty()).collect::<NullBuffer>();
    let columns: Vec<ArrayRef> = vec![Arc::new(names.finish()), Arc::new(values.finish())];
    ListArray::new(header(), lengths, Arc::new(StructArray::new(header_fields(), columns, None)), Some(nulls))
}

/// What a JSON text is, as far as new fields are concerned.
enum Shape {
    Other,
    /// `{}`
    Empty,
    Object,
    /// An object that has a field of this name already.
    Clash(String),
}

fn shape(text: &[u8], columns: &[(Column, FieldRef)]) -> Result<Shape, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    if text.first() != Some(&b'{') {
        reader.deserialize_any(IgnoredAny)?;
        return reader.end().map(|()| Shape::Other);
    }
    let shape = reader.deserialize_map(Names { columns })?;
    reader.end().map(|()| shape)
}

/// Reads an object to its end without keeping anything of it.
struct Names<'a> {
    columns: &'a [(Column, FieldRef)],
}

impl<'de> Visitor<'de> for Names<'_> {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut shape = Shape::Empty;
        while let Some(taken) = map.next_key_seed(Taken { columns: self.columns })? {
            map.next_value::<IgnoredAny>()?;
            shape = match (shape, taken) {
                (Shape::Clash(field), _) | (_, Some(field)) => Shape::Clash(field),
                (Shape::Other | Shape::Empty | Shape::Object, None) => Shape::Object,
            };
        }
        Ok(shape)
    }
}

/// Reads the name of a field: `Some` if a column has it.
struct Taken<'a> {
    columns: &'a [(Column, FieldRef)],
}

impl<'de> serde::de::DeserializeSeed<'de> for Taken<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<String>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Taken<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Option<String>, E> {
        Ok(self.columns.iter().any(|(_, field)| field.name() == name).then(|| name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{schemaless, settings, typed};
    use arrow::util::display::array_value_to_string;
    use model::{Offset, RawBatchBuilder, TopicPartition, whole_value_field};

    fn columns(pairs: &[(&str, &str)]) -> KafkaColumns {
        KafkaColumns::new(&settings(pairs)).unwrap().unwrap()
    }

    fn all(prefix: &str) -> KafkaColumns {
        let names = "topic,partition,offset,timestamp,timestampType,key,headers";
        columns(&[("kafka.columns", names), ("kafka.columns.prefix", prefix)])
    }

    /// Two records: one with everything, one with nothing; as they are in Kafka, after one that was left out.
    fn full(values: Values) -> (Batch, RawBatch) {
        let mut raw = RawBatchBuilder::new(TopicPartition::new("test-topic", 12), 3, 0);
        let headers = vec![("h".to_owned(), Some(b"v".to_vec())), ("n".to_owned(), None)];
        raw.push(Offset::new(5).unwrap(), 1, Some(b"x"), None, vec![("x".to_owned(), None)]);
        raw.push(Offset::new(7).unwrap(), 1_500, Some(b"k\xff"), None, headers);
        raw.mark_append_time();
        raw.push(Offset::new(9).unwrap(), -1, None, None, Headers::new());
        let raw = raw.finish();
        let batch = Batch::decoded(&raw, Values::Schemaless(raw.values.clone())).select(&[1, 2]);
        // Converters and transforms have changed them.
        let keys = BinaryArray::from_iter_values(["other", "keys"]);
        (Batch { values, keys, headers: None, ..batch }, raw)
    }

    fn added(columns: &KafkaColumns, batch: &Batch) -> Result<WithColumns, NameClash> {
        let mut raw = RawBatchBuilder::new(batch.topic_partition.clone(), 0, 0);
        for (offset, ms) in batch.offsets.iter().zip(batch.timestamps_ms.iter()) {
            raw.push(Offset::new(*offset).unwrap(), *ms, None, None, Headers::new());
        }
        columns.add(batch, &raw.finish())
    }

    fn shown(values: &Values) -> Vec<String> {
        match values {
            Values::Typed(rows) => (0..rows.len()).map(|row| array_value_to_string(rows, row).unwrap()).collect(),
            Values::Schemaless(texts) => {
                texts.iter().map(|text| String::from_utf8_lossy(text.unwrap_or_default()).into_owned()).collect()
            }
        }
    }

    #[test]
    fn columns_are_named_and_typed_as_spark_s() {
        let fields = all("").schema_with(&Schema::empty()).fields().clone();
        let shown: Vec<_> = fields.iter().map(|field| format!("{}: {}", field.name(), field.data_type())).collect();
        assert_eq!(
            shown,
            [
                "topic: Utf8",
                "partition: Int32",
                "offset: Int64",
                "timestamp: Timestamp(ms, \"UTC\")",
                "timestampType: Int32",
                "key: Binary",
                "headers: List(Struct(\"key\": Utf8, \"value\": Binary), field: 'element')",
            ]
        );
        assert!(fields.iter().all(|field| field.is_nullable()));
    }

    #[test]
    fn typed_rows_get_columns_at_their_end() {
        let (batch, raw) = full(Values::Typed(StructArray::from(vec![(
            Arc::new(Field::new("a", DataType::Int64, true)),
            Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef,
        )])));
        assert_eq!(
            shown(&all("").add(&batch, &raw).unwrap().values),
            [
                "{a: 7, topic: test-topic, partition: 12, offset: 7, timestamp: 1970-01-01T00:00:01.500Z, timestampType: 1, \
                 key: 6bff, headers: [{key: h, value: 76}, {key: n, value: }]}",
                "{a: 8, topic: test-topic, partition: 12, offset: 9, timestamp: , timestampType: -1, key: , headers: }",
            ]
        );
    }

    #[test]
    fn texts_get_fields_at_their_end_and_other_values_become_objects() {
        let more = r#""topic":"test-topic","partition":12,"offset":7,"timestamp":1500,"timestampType":1,"key":"a/8=","headers":[{"key":"h","value":"dg=="},{"key":"n","value":null}]}"#;
        for (text, expected) in [
            (r#" {"b": {"offset": 1}, "a":1.50 } "#, format!(r#"{{"b": {{"offset": 1}}, "a":1.50 ,{more}"#)),
            ("{ }", format!("{{{more}")),
            ("[1]", format!(r#"{{"value":[1],{more}"#)),
            ("\"x\"", format!(r#"{{"value":"x",{more}"#)),
        ] {
            let (batch, raw) = full(Values::Schemaless(BinaryArray::from_iter_values([text, "1"])));
            let made = all("").add(&batch, &raw).unwrap();
            assert_eq!(shown(&made.values)[0], expected);
            assert!(made.rejected.is_empty());
            let _: serde_json::Value = serde_json::from_str(&expected).unwrap();
        }
    }

    #[test]
    fn a_whole_value_becomes_the_column_value() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
        let values = StructArray::new(vec![whole_value_field(DataType::Utf8)].into(), vec![text], None);
        let (batch, raw) = full(Values::Typed(values));
        let made = columns(&[("kafka.columns", "offset")]).add(&batch, &raw).unwrap().values;
        assert_eq!(shown(&made), ["{value: x, offset: 7}", "{value: y, offset: 9}"]);
        let Values::Typed(rows) = made else { unreachable!() };
        assert!(rows.fields()[0].metadata().is_empty(), "it is no whole value any more");
    }

    #[test]
    fn a_field_of_that_name_is_an_error_that_says_what_to_set() {
        let texts = schemaless(&[Some(r#"{"a":1}"#), Some(r#"{"\u006fffset":1}"#)]);
        let offset = columns(&[("kafka.columns", "offset")]);
        let clash = added(&offset, &texts).unwrap_err();
        assert_eq!(
            (clash.row, clash.to_string().as_str()),
            (
                1,
                "test-topic-12@1: the value has a field offset, as kafka.columns would add it; set kafka.columns.prefix, or \
                 leave that column out"
            )
        );
        let rows = typed(vec![("offset", Arc::new(Int64Array::from(vec![1])) as ArrayRef)], &[0]);
        assert_eq!(added(&offset, &rows).unwrap_err().row, 0);
        let prefixed = columns(&[("kafka.columns", "offset"), ("kafka.columns.prefix", "kafka_")]);
        assert_eq!(shown(&added(&prefixed, &rows).unwrap().values), ["{offset: 1, kafka_offset: 0}"]);
    }

    #[test]
    fn what_is_no_json_is_rejected_alone() {
        for text in ["{\"a\":1", "{\"a\":1} x", "hello", "{a:1}", ""] {
            let made = added(&all(""), &schemaless(&[Some("{}"), Some(text), Some("1")])).unwrap();
            assert_eq!(made.rejected.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1], "{text}");
            assert!(shown(&made.values)[2].starts_with("{\"value\":1,"));
        }
    }

    #[test]
    fn the_value_can_change_beside_the_columns() {
        let offset = columns(&[("kafka.columns", "offset")]);
        let rows = typed(vec![("a", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)], &[0, 0]);
        let Values::Typed(rows) = added(&offset, &rows).unwrap().values else { unreachable!() };
        let wider = offset.change_values(&rows, |own| {
            let fields = vec![own.fields()[0].clone(), Arc::new(Field::new("b", DataType::Int64, true))];
            let columns = vec![own.column(0).clone(), Arc::new(Int64Array::new_null(own.len())) as ArrayRef];
            StructArray::new(fields.into(), columns, None)
        });
        assert_eq!(shown(&Values::Typed(wider)), ["{a: 1, b: , offset: 0}", "{a: 2, b: , offset: 1}"]);
    }

    #[test]
    fn names_and_prefixes_are_checked() {
        let problem =
            |key: &Key, value: &str| settings(&[(key.name, value)]).problem(key).map(|problem| problem.message);
        assert_eq!(
            problem(&KAFKA_COLUMNS, "topic,value").unwrap(),
            "Invalid value topic,value for configuration kafka.columns: value is no column of Kafka's, expected any of: \
             topic, partition, offset, timestamp, timestampType, key, headers; the value is the row itself"
        );
        assert!(problem(&KAFKA_COLUMNS, "key, key").unwrap().ends_with("key is named twice"));
        for (prefix, good) in [("kafka_", true), ("_", true), ("9", false), ("a.", false), ("a-", false)] {
            assert_eq!(problem(&KAFKA_COLUMNS_PREFIX, prefix).is_none(), good, "{prefix}");
        }
        assert!(KafkaColumns::new(&settings(&[("kafka.columns", "")])).unwrap().is_none());
        let bytes = [("kafka.columns", "key"), ("format.class", "bytes")];
        assert_eq!((check(&settings(&bytes)).len(), check(&settings(&bytes[..1])).len()), (1, 0));
    }
}
