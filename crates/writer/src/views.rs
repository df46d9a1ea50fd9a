//! The second and third file beside a file of values: keys and headers of its records, row by row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, ListArray, StringArray, StringBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use model::{
    Batch, Check, Headers, Invalid, Key, Kind, Rejected, Settings, Stage, Values, Width, is_whole_value,
    whole_value_field,
};
use serde::de::IgnoredAny;

use crate::format::{self, FORMAT_CLASS, Format};
use crate::json_text::write_compact;

/// Whether keys are stored.
pub const STORE_KAFKA_KEYS: Key = Key::new(
    "store.kafka.keys",
    Kind::Boolean,
    "Whether the keys of records are stored too: each object gets a second one beside it, of the same name with .keys before \
     its extension, with the key of each record. A record without a key is rejected then.",
)
.default("false")
.group("Keys and Headers", 1)
.shown(Width::Short, "Store kafka keys")
.dependents(&["keys.format.class"]);

/// Whether headers are stored.
pub const STORE_KAFKA_HEADERS: Key = Key::new(
    "store.kafka.headers",
    Kind::Boolean,
    "Whether the headers of records are stored too: each object gets another one beside it, of the same name with .headers \
     before its extension, with the list of headers of each record, as header.converter reads them. A record without \
     headers, or with one that has no value, is rejected then.",
)
.default("false")
.group("Keys and Headers", 2)
.shown(Width::Short, "Store kafka headers")
.dependents(&["headers.format.class"]);

/// How keys are stored.
pub const KEYS_FORMAT_CLASS: Key = Key::new(
    "keys.format.class",
    Kind::Class,
    "File format of keys: avro, json and bytes hold the key itself, parquet a column key. Keys of plain JSON are texts in \
     avro and parquet.",
)
.default("io.confluent.connect.s3.format.avro.AvroFormat")
.check(Check::With(format::check_name))
.group("Keys and Headers", 3)
.shown(Width::None, "Keys format class");

/// How headers are stored.
pub const HEADERS_FORMAT_CLASS: Key = Key::new(
    "headers.format.class",
    Kind::Class,
    "File format of headers: avro holds an array of key and value for each record, parquet and json the same in a field \
     headers.",
)
.default("io.confluent.connect.s3.format.avro.AvroFormat")
.check(Check::With(format::check_name))
.group("Keys and Headers", 4)
.shown(Width::None, "Headers format class");

/// The keys that are declared here.
pub(crate) const KEYS: &[Key] = &[STORE_KAFKA_KEYS, STORE_KAFKA_HEADERS, KEYS_FORMAT_CLASS, HEADERS_FORMAT_CLASS];

/// What a file holds of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum View {
    /// Their values.
    Values,
    /// Their keys.
    Keys,
    /// Their headers.
    Headers,
}

impl View {
    /// What stands before the extension in the names of such files.
    pub(crate) fn infix(self) -> &'static str {
        match self {
            View::Values => "",
            View::Keys => ".keys",
            View::Headers => ".headers",
        }
    }
}

/// The files that lie beside each file of values.
#[derive(Debug, Clone, Default)]
pub struct Views {
    beside: Vec<ViewFormat>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct ViewFormat {
    /// What it holds.
    pub view: View,
    /// What it is.
    pub format: Arc<dyn Format>,
    /// Its rows are records of one field, as the format, or upstream's, has no bare values.
    is_wrapped: bool,
}

/// What is wrong with these keys together.
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    // A name that is wrong by itself is reported by its own key.
    if KEYS.iter().any(|key| settings.problem(key).is_some()) || settings.problem(&FORMAT_CLASS).is_some() {
        return Vec::new();
    }
    Views::new(settings).err().into_iter().collect()
}

impl Views {
    /// What the settings ask for.
    pub fn new(settings: &Settings) -> Result<Views, Invalid> {
        let mut views = Views::default();
        let values = format::format(settings)?;
        for (store, class, view) in [
            (&STORE_KAFKA_KEYS, &KEYS_FORMAT_CLASS, View::Keys),
            (&STORE_KAFKA_HEADERS, &HEADERS_FORMAT_CLASS, View::Headers),
        ] {
            if !settings.boolean(store)? {
                continue;
            }
            let plugin = format::plugin(settings, class)?;
            if (view, plugin.name()) == (View::Headers, "bytes") {
                let why = "a bytes file cannot hold headers, every record would be rejected: use avro, json or parquet";
                return Err(Invalid::new(class.name, why));
            }
            let is_wrapped = plugin.name() == "parquet" || (view, plugin.name()) == (View::Headers, "json");
            let one = ViewFormat { view, format: (plugin.build)(settings)?, is_wrapped };
            if one.ending() == values.extension() {
                let why = format!("its files would have the names of those of values, which end in {}", one.ending());
                return Err(Invalid::new(class.name, why));
            }
            views.beside.push(one);
        }
        Ok(views)
    }

    /// The files beside one of values, keys first.
    pub fn beside(&self) -> &[ViewFormat] {
        &self.beside
    }

    /// Whether `view` is one of them.
    pub fn have(&self, view: View) -> bool {
        self.beside.iter().any(|one| one.view == view)
    }

    /// How the names of their files end.
    pub(crate) fn endings(&self) -> impl Iterator<Item = (View, String)> {
        self.beside.iter().map(|one| (one.view, one.ending()))
    }

    /// Why keys of the schema that those of `batch` have cannot be in their files; `None` when they can.
    pub fn refusal_of_keys(&self, batch: &Batch) -> Option<String> {
        let keys = self.beside.iter().find(|one| one.view == View::Keys)?;
        let why = keys.format.refusal(&keys.rows(&batch.slice(0, 0)), batch.key_schema.as_deref())?;
        Some(format!("the key: {why}"))
    }

    /// The records of `batch` that have no row in some view, by rising row.
    pub fn reject(&self, batch: &Batch) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        let keys = self.beside.iter().find(|one| one.view == View::Keys).zip(batch.key_values.as_ref());
        let mut refused =
            keys.map(|(one, keys)| one.format.refused_rows(keys)).unwrap_or_default().into_iter().peekable();
        let rows = if self.beside.is_empty() { 0 } else { batch.len() };
        for row in 0..rows {
            let fault = self.beside.iter().find_map(|one| match one.view {
                View::Values => None,
                View::Keys => key_fault(batch, row),
                View::Headers => header_fault(batch, row),
            });
            let refused = refused.next_if(|(refused, _)| *refused == row);
            let refused = refused.map(|(_, why)| (Stage::TaskPut, format!("the key: {why}")));
            if let Some((stage, reason)) = fault.or(refused) {
                rejected.push(Rejected { row, at: batch.position(row), stage, reason });
            }
        }
        rejected
    }
}

fn key_fault(batch: &Batch, row: usize) -> Option<(Stage, String)> {
    let keys = batch.key_values.as_ref()?;
    if keys.nulls().is_some_and(|nulls| nulls.is_null(row)) {
        let why = "Key cannot be null for SinkRecord: with store.kafka.keys every record needs a key";
        return Some((Stage::TaskPut, why.to_owned()));
    }
    let Values::Schemaless(texts) = keys else { return None };
    let error = serde_json::from_slice::<IgnoredAny>(texts.value(row)).err()?;
    Some((
        Stage::KeyConverter,
        format!(
            "Converting byte[] to Kafka Connect data failed due to serialization error: the key is no JSON: {error}"
        ),
    ))
}

fn header_fault(batch: &Batch, row: usize) -> Option<(Stage, String)> {
    let headers = batch.headers.as_ref().map(|all| &all[row]).filter(|headers| !headers.is_empty());
    let Some(headers) = headers else {
        let why = "Headers cannot be null for SinkRecord: with store.kafka.headers every record needs a header";
        return Some((Stage::TaskPut, why.to_owned()));
    };
    let (name, _) = headers.iter().find(|(_, value)| value.is_none())?;
    let why = format!("header {name}: Invalid value: null used for required field: \"value\", schema type: STRING");
    Some((Stage::TaskPut, why))
}

impl ViewFormat {
    fn ending(&self) -> String {
        format!("{}{}", self.view.infix(), self.format.extension())
    }

    /// The rows of this view of `batch`, none of which is rejected by [`Views::reject`].
    pub(crate) fn rows(&self, batch: &Batch) -> Values {
        match self.view {
            View::Values => batch.values.clone(),
            View::Keys => self.keys(batch.key_values.as_ref().expect("keys are decoded where they are stored")),
            View::Headers => Values::Typed(self.headers(batch)),
        }
    }

    fn keys(&self, keys: &Values) -> Values {
        let (field, column): (FieldRef, ArrayRef) = match keys {
            Values::Schemaless(texts) if self.format.needs_columns() => {
                (Arc::new(whole_value_field(DataType::Utf8)), Arc::new(key_texts(texts)))
            }
            Values::Schemaless(_) => return keys.clone(),
            Values::Typed(_) if !self.is_wrapped => return keys.clone(),
            Values::Typed(columns) if is_whole_value(columns.fields()) => {
                (Arc::clone(&columns.fields()[0]), Arc::clone(columns.column(0)))
            }
            Values::Typed(columns) => {
                let field = Field::new("key", columns.data_type().clone(), false);
                (Arc::new(field), Arc::new(columns.clone()))
            }
        };
        let field = match self.is_wrapped {
            true => Arc::new(Field::new("key", field.data_type().clone(), field.is_nullable())),
            false => field,
        };
        Values::Typed(StructArray::new(vec![field].into(), vec![column], None))
    }

    fn headers(&self, batch: &Batch) -> StructArray {
        let all: &[Headers] = batch.headers.as_ref().map_or(&[], |all| all);
        let (mut names, mut values) = (StringBuilder::new(), StringBuilder::new());
        for (name, value) in all.iter().flatten() {
            names.append_value(name);
            values.append_value(String::from_utf8_lossy(value.as_deref().unwrap_or_default()));
        }
        let fields: Fields =
            vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, false)].into();
        let headers = StructArray::new(fields, vec![Arc::new(names.finish()), Arc::new(values.finish())], None);
        let element = Arc::new(Field::new("element", headers.data_type().clone(), false));
        let lengths = OffsetBuffer::from_lengths(all.iter().map(Vec::len));
        let list = ListArray::new(element, lengths, Arc::new(headers), None);
        let field = match self.is_wrapped {
            true => Field::new("headers", list.data_type().clone(), false),
            false => whole_value_field(list.data_type().clone()).with_nullable(false),
        };
        StructArray::new(vec![field].into(), vec![Arc::new(list)], None)
    }
}

/// Keys of plain JSON as texts: a text as what it says, anything else as its JSON.
fn key_texts(texts: &BinaryArray) -> StringArray {
    let mut line = Vec::new();
    let text = |text: Option<&[u8]>| {
        let text = text?;
        if let Ok(said) = serde_json::from_slice::<String>(text) {
            return Some(said);
        }
        line.clear();
        write_compact(text, &mut line);
        Some(String::from_utf8_lossy(&line).into_owned())
    };
    texts.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{encoded, read_parquet};
    use crate::testing::{schemaless, settings};
    use apache_avro::Reader;
    use arrow::array::Int64Array;
    use arrow::util::display::array_value_to_string;
    use model::ConnectMarks;

    fn views(pairs: &[(&str, &str)]) -> Views {
        let both = [("format.class", "json"), ("store.kafka.keys", "true"), ("store.kafka.headers", "true")];
        Views::new(&settings(&both.iter().chain(pairs).copied().collect::<Vec<_>>())).unwrap()
    }

    fn texts(keys: &[&str]) -> Values {
        let column: ArrayRef = Arc::new(StringArray::from_iter_values(keys));
        Values::Typed(StructArray::new(vec![whole_value_field(DataType::Utf8)].into(), vec![column], None))
    }

    fn structs() -> Values {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        Values::Typed(StructArray::new(vec![Field::new("id", DataType::Int64, true)].into(), vec![column], None))
    }

    fn json(keys: &[&str]) -> Values {
        Values::Schemaless(BinaryArray::from_iter_values(keys))
    }

    /// Two records with these keys and headers `h: 1` and `h: 2, i: x`.
    fn batch(keys: Values) -> Batch {
        let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
        let headers = vec![vec![header("h", "1")], vec![header("h", "2"), header("i", "x")]];
        Batch { key_values: Some(keys), headers: Some(Arc::new(headers)), ..schemaless(&[Some("{}"), Some("{}")]) }
    }

    /// What a file of `view` holds, as a reader of its format shows it.
    fn written(format: &str, view: View, keys: Values) -> Vec<String> {
        let views =
            views(&[("keys.format.class", format), ("headers.format.class", format.replace("bytes", "avro").as_str())]);
        let one = views.beside().iter().find(|one| one.view == view).unwrap();
        let batch = batch(keys);
        assert!(views.reject(&batch).is_empty());
        let file = encoded(one.format.as_ref(), &[one.rows(&batch)]);
        match format {
            "parquet" => {
                let rows = read_parquet(file);
                (0..rows.len()).map(|row| array_value_to_string(&rows, row).unwrap()).collect()
            }
            "avro" => {
                let reader = Reader::new(file.as_ref()).unwrap();
                let value =
                    |value: Result<apache_avro::types::Value, _>| serde_json::Value::try_from(value.unwrap()).unwrap();
                reader.map(value).map(|value| value.to_string()).collect()
            }
            _ => std::str::from_utf8(&file).unwrap().lines().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn keys_are_written_as_themselves_and_in_a_column_of_parquet() {
        for (format, keys, expected) in [
            ("avro", texts(&["a", "b"]), ["\"a\"", "\"b\""]),
            ("avro", structs(), [r#"{"id":1}"#, r#"{"id":2}"#]),
            ("avro", json(&["\"a\"", "{ \"n\":\n1}"]), ["\"a\"", r#""{\"n\":1}""#]),
            ("json", texts(&["a", "b"]), ["\"a\"", "\"b\""]),
            ("json", structs(), [r#"{"id":1}"#, r#"{"id":2}"#]),
            ("json", json(&["\"a\"", "[1, 2]"]), ["\"a\"", "[1, 2]"]),
            ("bytes", texts(&["a", "b"]), ["a", "b"]),
            ("bytes", json(&["\"a\"", "12"]), ["\"a\"", "12"]),
            ("parquet", texts(&["a", "b"]), ["{key: a}", "{key: b}"]),
            ("parquet", structs(), ["{key: {id: 1}}", "{key: {id: 2}}"]),
            ("parquet", json(&["\"a\"", "12"]), ["{key: a}", "{key: 12}"]),
        ] {
            assert_eq!(written(format, View::Keys, keys.clone()), expected, "{format} {keys:?}");
        }
    }

    #[test]
    fn headers_are_lists_of_key_and_value() {
        let list = [r#"[{"key":"h","value":"1"}]"#, r#"[{"key":"h","value":"2"},{"key":"i","value":"x"}]"#];
        assert_eq!(written("avro", View::Headers, texts(&["a", "b"])), list);
        assert_eq!(
            written("json", View::Headers, texts(&["a", "b"])),
            list.map(|list| format!("{{\"headers\":{list}}}"))
        );
        assert_eq!(
            written("parquet", View::Headers, texts(&["a", "b"])),
            ["{headers: [{key: h, value: 1}]}", "{headers: [{key: h, value: 2}, {key: i, value: x}]}"]
        );
    }

    #[test]
    fn avro_schemas_are_upstream_s() {
        for (view, schema) in [
            (View::Keys, r#"["null","string"]"#),
            (
                View::Headers,
                r#"{"type":"array","items":{"type":"record","name":"ConnectDefault","namespace":"io.confluent.connect.avro","fields":[{"name":"key","type":"string"},{"name":"value","type":"string"}]}}"#,
            ),
        ] {
            let views = views(&[]);
            let one = views.beside().iter().find(|one| one.view == view).unwrap();
            let file = encoded(one.format.as_ref(), &[one.rows(&batch(texts(&["a", "b"])))]);
            let found = Reader::new(file.as_ref()).unwrap().writer_schema().canonical_form();
            let expected = apache_avro::Schema::parse_str(schema).unwrap().canonical_form();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn records_without_a_key_or_headers_are_rejected() {
        let mut bad = batch(Values::Schemaless(BinaryArray::from_iter([Some("x"), None])));
        let shown = |views: &Views, batch: &Batch| -> Vec<String> {
            let show = |one: Rejected| format!("{} {} {}", one.row, one.stage.as_str(), one.reason);
            views.reject(batch).into_iter().map(show).collect()
        };
        let found = shown(&views(&[]), &bad);
        assert!(found[0].starts_with("0 KEY_CONVERTER Converting byte[] to Kafka Connect data failed"), "{found:?}");
        assert!(found[1].starts_with("1 TASK_PUT Key cannot be null for SinkRecord"), "{found:?}");
        bad.key_values = Some(texts(&["a", "b"]));
        bad.headers = Some(Arc::new(vec![vec![], vec![("h".to_owned(), None)]]));
        let found = shown(&views(&[]), &bad);
        assert!(found[0].starts_with("0 TASK_PUT Headers cannot be null for SinkRecord"), "{found:?}");
        assert!(found[1].starts_with("1 TASK_PUT header h: Invalid value: null used for required field"), "{found:?}");
        assert!(shown(&Views::default(), &bad).is_empty());
        bad.headers = None;
        assert_eq!(views(&[]).reject(&bad).len(), 2);
    }

    #[test]
    fn keys_that_their_format_cannot_have_are_refused_before_any_row() {
        let refused =
            |format: &str, keys: Values| views(&[("keys.format.class", format)]).refusal_of_keys(&batch(keys));
        assert!(refused("bytes", structs()).unwrap().contains("Invalid schema type for ByteArrayConverter: STRUCT"));
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let odd = StructArray::new(vec![Field::new("a-b", DataType::Int64, true)].into(), vec![column], None);
        assert!(refused("avro", Values::Typed(odd.clone())).unwrap().contains("field a-b is no name in Avro"));
        assert_eq!(refused("parquet", Values::Typed(odd)), None);
        assert_eq!(refused("avro", json(&["1", "2"])), None);
        assert_eq!(Views::default().refusal_of_keys(&batch(structs())), None);
    }

    #[test]
    fn a_key_that_is_no_symbol_of_its_enum_is_rejected() {
        let mark = "io.confluent.connect.avro.Enum";
        let parameters = [(mark.to_owned(), "Color".to_owned()), (format!("{mark}.RED"), "RED".to_owned())];
        let marks = ConnectMarks { parameters: parameters.into(), ..ConnectMarks::default() };
        let colors: ArrayRef = Arc::new(StringArray::from(vec!["RED", "BLACK"]));
        let keys = StructArray::new(vec![marks.mark(whole_value_field(DataType::Utf8))].into(), vec![colors], None);
        let keys = batch(Values::Typed(keys));
        let rejected = views(&[("keys.format.class", "avro")]).reject(&keys);
        assert_eq!(rejected.iter().map(|one| (one.row, one.stage)).collect::<Vec<_>>(), [(1, Stage::TaskPut)]);
        assert!(views(&[("keys.format.class", "parquet")]).reject(&keys).is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let problems = |pairs: &[(&str, &str)]| -> Vec<String> {
            check(&settings(pairs)).into_iter().map(|problem| problem.to_string()).collect()
        };
        let headers = [("format.class", "json"), ("store.kafka.headers", "true"), ("headers.format.class", "bytes")];
        assert!(problems(&headers)[0].contains("cannot hold headers"));
        let same = [
            ("format.class", "bytes"),
            ("format.bytearray.extension", ".keys.json"),
            ("store.kafka.keys", "true"),
            ("keys.format.class", "json"),
        ];
        assert!(problems(&same)[0].contains("would have the names of those of values"));
        assert!(problems(&same[..2]).is_empty());
        assert!(settings(&[("keys.format.class", "csv")]).problem(&KEYS_FORMAT_CLASS).is_some());
    }
}
