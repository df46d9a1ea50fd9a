//! Debezium's `ExtractNewRecordState`: the row after a change instead of the whole change event.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, StringArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{DataType, Field, FieldRef};
use model::{Batch, Check, Headers, Importance, Invalid, Key, Kind, Settings, ValueSchema, Values, is_whole_value};
use serde_json::{Map, Value};

use crate::field_path::FieldPath;
use crate::headers::{header_text, header_texts, lists};
use crate::keys::REPLACE_NULL_WITH_DEFAULT;
use crate::values::{
    Refused, class_of, edit_texts, leave_out, masked, no_map, require_struct, struct_of, whole, with_defaults,
};
use crate::{Transform, Transformed};

const PURPOSE: &str = "source field insertion";

/// The field that says in rewrite mode whether the row was deleted.
const DELETED: &str = "__deleted";

const HANDLING_MODE: Key = Key::new(
    "delete.tombstone.handling.mode",
    Kind::String,
    "What becomes of delete events and of the tombstones behind them. drop: both are dropped. tombstone and \
     delete-to-tombstone: the event becomes a null value, the tombstone is dropped. rewrite: the event becomes the row \
     before it, with the field __deleted, and the tombstone is dropped. rewrite-with-tombstone: as rewrite, but \
     tombstones stay. Without it, and with one of the older keys drop.tombstones and delete.handling.mode, those decide.",
)
.default("tombstone")
.check(Check::OneOfIgnoringCase(&["drop", "tombstone", "rewrite", "rewrite-with-tombstone", "delete-to-tombstone"]))
.importance(Importance::Medium);
const DROP_TOMBSTONES: Key = Key::new(
    "drop.tombstones",
    Kind::Boolean,
    "Whether tombstones are dropped. An older key: delete.tombstone.handling.mode takes its place.",
)
.default("true");
const DELETE_HANDLING_MODE: Key = Key::new(
    "delete.handling.mode",
    Kind::String,
    "What becomes of delete events. none: a null value. drop: nothing. rewrite: the row before it, with the field \
     __deleted. An older key: delete.tombstone.handling.mode takes its place.",
)
.default("drop")
.check(Check::OneOfIgnoringCase(&["drop", "rewrite", "none"]))
.importance(Importance::Medium);
const ADD_FIELDS: Key = Key::new(
    "add.fields",
    Kind::List,
    "Fields of the event to add to the row: op, ts_ms, table, lsn or source.ts_ms, with a new name behind a colon \
     (op:OP). Names without a dot are looked for in source, those of transactions in transaction.",
)
.default("")
.check(Check::With(check_references));
const ADD_FIELDS_PREFIX: Key =
    Key::new("add.fields.prefix", Kind::String, "What the names of added fields begin with.").default("__");
const ADD_HEADERS: Key =
    Key::new("add.headers", Kind::List, "Fields of the event to add as headers, written as those of add.fields.")
        .default("")
        .check(Check::With(check_references));
const ADD_HEADERS_PREFIX: Key =
    Key::new("add.headers.prefix", Kind::String, "What the names of added headers begin with.").default("__");
const ROUTE_BY_FIELD: Key = Key::new(
    "route.by.field",
    Kind::String,
    "Field of the row that would name its topic. Not built: use ExtractTopic$Value behind this transform.",
)
.default("")
.check(Check::With(refuse_route));
const DROP_FIELDS_HEADER: Key = Key::new(
    "drop.fields.header.name",
    Kind::String,
    "Header that would list fields to leave out. Not built: name the fields in ReplaceField$Value behind this transform.",
)
.check(Check::With(refuse_drop_fields));
const DROP_FIELDS_FROM_KEY: Key = Key::new("drop.fields.from.key", Kind::Boolean, "Goes with drop.fields.header.name.")
    .default("false")
    .ignored("drop.fields.header.name is refused, and without it the key means nothing");
const DROP_FIELDS_COMPATIBLE: Key =
    Key::new("drop.fields.keep.schema.compatible", Kind::Boolean, "Goes with drop.fields.header.name.")
        .default("true")
        .ignored("drop.fields.header.name is refused, and without it the key means nothing");

/// The keys of the transform.
pub(crate) const KEYS: &[Key] = &[
    HANDLING_MODE,
    DROP_TOMBSTONES,
    DELETE_HANDLING_MODE,
    ADD_FIELDS,
    ADD_FIELDS_PREFIX,
    ADD_HEADERS,
    ADD_HEADERS_PREFIX,
    REPLACE_NULL_WITH_DEFAULT,
    ROUTE_BY_FIELD,
    DROP_FIELDS_HEADER,
    DROP_FIELDS_FROM_KEY,
    DROP_FIELDS_COMPATIBLE,
];

fn refuse_route(text: &str) -> Result<(), String> {
    match text.is_empty() {
        true => Ok(()),
        false => Err("sluice does not route here; put io.confluent.connect.transforms.ExtractTopic$Value behind this \
                      transform"
            .to_owned()),
    }
}

fn refuse_drop_fields(text: &str) -> Result<(), String> {
    match text.is_empty() {
        true => Ok(()),
        false => Err("sluice does not read fields to drop from a header; name them in \
                      org.apache.kafka.connect.transforms.ReplaceField$Value behind this transform"
            .to_owned()),
    }
}

fn check_references(text: &str) -> Result<(), String> {
    references(text, "").map(|_| ())
}

/// What becomes of a delete event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnDelete {
    Drop,
    Tombstone,
    Rewrite,
}

/// A field of an event that is added to the row or the headers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reference {
    /// The struct that it lies in; `None` for the event itself.
    parent: Option<String>,
    field: String,
    new_name: String,
}

/// The references of a list (`AbstractExtractNewRecordState.FieldReference`).
fn references(list: &str, prefix: &str) -> Result<Vec<Reference>, String> {
    list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(|text| reference(text, prefix)).collect()
}

fn reference(text: &str, prefix: &str) -> Result<Reference, String> {
    let (path, new_name) = match text.split_once(':') {
        Some((path, name)) if !path.is_empty() && !name.is_empty() && !name.contains(':') => (path, Some(name)),
        Some(_) => return Err(format!("Unexpected field name: {text}")),
        None => (text, None),
    };
    let (parent, field) = match path.split_once('.') {
        Some((parent, field)) => (Some(parent), field.split('.').next().unwrap_or(field)),
        None => (parent_of(path), path),
    };
    let new_name = match (new_name, path.contains('.'), parent) {
        (Some(name), _, _) => format!("{prefix}{name}"),
        (None, true, Some(parent)) => format!("{prefix}{parent}_{field}"),
        (None, _, _) => format!("{prefix}{field}"),
    };
    Ok(Reference { parent: parent.map(str::to_owned), field: field.to_owned(), new_name })
}

/// Where a field that is named without a dot lies.
fn parent_of(field: &str) -> Option<&'static str> {
    match field {
        "id" | "data_collection_order" | "total_order" => Some("transaction"),
        "op" | "ts_ms" | "ts_us" | "ts_ns" => None,
        "updateDescription" => Some("updateDescription"),
        _in_source => Some("source"),
    }
}

impl Reference {
    /// The column of typed events; `None` if they have no such field.
    fn column(&self, events: &StructArray) -> Result<Option<ArrayRef>, String> {
        if let Some(parent) = &self.parent {
            let path = FieldPath::of(vec![parent.clone()], self.field.clone());
            if let Some((_, column)) = path.column(events, false)? {
                return Ok(Some(column));
            }
        }
        match events.column_by_name(&self.field) {
            Some(column) => masked(column, events.nulls()).map(Some),
            None => Ok(None),
        }
    }

    /// The value in a schemaless event; `None` if it has no such field.
    fn value(&self, event: &Map<String, Value>) -> Option<Value> {
        let parent = self.parent.as_ref().map(|parent| event.get(parent));
        match parent {
            None => event.get(&self.field).cloned(),
            Some(Some(Value::Object(parent))) if parent.contains_key(&self.field) => parent.get(&self.field).cloned(),
            Some(Some(Value::Null)) => Some(event.get(&self.field).cloned().unwrap_or(Value::Null)),
            Some(_) => event.get(&self.field).cloned(),
        }
    }
}

#[derive(Debug)]
struct ExtractNewRecordState {
    on_delete: OnDelete,
    keep_tombstones: bool,
    fields: Vec<Reference>,
    headers: Vec<Reference>,
    replace_null_with_default: bool,
}

/// Builds the transform.
pub(crate) fn build(settings: &Settings) -> Result<Box<dyn Transform>, Invalid> {
    let (on_delete, keep_tombstones) = handling(settings)?;
    let list = |key: &Key, prefix: &Key| {
        let text = settings.required_string(key)?;
        references(&text, &settings.required_string(prefix)?).map_err(|why| Invalid::value(key, &text, why))
    };
    Ok(Box::new(ExtractNewRecordState {
        on_delete,
        keep_tombstones,
        fields: list(&ADD_FIELDS, &ADD_FIELDS_PREFIX)?,
        headers: list(&ADD_HEADERS, &ADD_HEADERS_PREFIX)?,
        replace_null_with_default: settings.boolean(&REPLACE_NULL_WITH_DEFAULT)?,
    }))
}

/// What becomes of delete events, and whether tombstones stay: by the one new key, or by the two older ones.
fn handling(settings: &Settings) -> Result<(OnDelete, bool), Invalid> {
    let older = settings.is_set(&DROP_TOMBSTONES) || settings.is_set(&DELETE_HANDLING_MODE);
    if older && !settings.is_set(&HANDLING_MODE) {
        let mode = settings.required_string(&DELETE_HANDLING_MODE)?.to_ascii_lowercase();
        let on_delete = match mode.as_str() {
            "drop" => OnDelete::Drop,
            "rewrite" => OnDelete::Rewrite,
            _none => OnDelete::Tombstone,
        };
        return Ok((on_delete, !settings.boolean(&DROP_TOMBSTONES)?));
    }
    let mode = settings.required_string(&HANDLING_MODE)?.to_ascii_lowercase();
    Ok(match mode.as_str() {
        "drop" => (OnDelete::Drop, false),
        "rewrite" => (OnDelete::Rewrite, false),
        "rewrite-with-tombstone" => (OnDelete::Rewrite, true),
        _tombstone_or_delete_to_tombstone => (OnDelete::Tombstone, false),
    })
}

/// Whether typed values are change events: by the name of their schema, as upstream; or by their fields, where the
/// schema has no name.
fn is_envelope(columns: &StructArray, schema: Option<&ValueSchema>) -> bool {
    if is_whole_value(columns.fields()) {
        return false;
    }
    match schema.and_then(|schema| schema.name.as_deref()) {
        Some(name) => name.ends_with(".Envelope"),
        None => ["op", "before", "after"].iter().all(|name| columns.column_by_name(name).is_some()),
    }
}

/// The name of the row's schema in an event's schema: Debezium calls them `<table>.Value` and `<table>.Envelope`.
fn row_schema(schema: Option<&ValueSchema>) -> Option<Arc<ValueSchema>> {
    let table = schema?.name.as_deref()?.strip_suffix(".Envelope")?;
    Some(Arc::new(ValueSchema { name: Some(format!("{table}.Value")), version: None }))
}

/// Rows of typed events.
struct Rows {
    columns: StructArray,
    /// Rows that stand for no row of the table: truncations, and deletions if they are dropped.
    dropped: Vec<bool>,
}

impl ExtractNewRecordState {
    fn typed(&self, mut batch: Batch, events: &StructArray) -> Transformed {
        let is_null = |row: usize| events.is_null(row);
        if !is_envelope(events, batch.schema.as_deref()) {
            if self.keep_tombstones {
                self.add_tombstone_headers(&mut batch, is_null);
            }
            return leave_out(batch, Refused::new(), |row| !self.keep_tombstones && is_null(row));
        }
        let made = self.rows(events).and_then(|rows| {
            let headers = self.headers_of(events)?;
            Ok((rows, headers))
        });
        let (rows, headers) = match made {
            Ok(made) => made,
            Err(reason) => {
                let refused = (0..batch.len()).filter(|row| !is_null(*row)).map(|row| (row, reason.clone())).collect();
                return leave_out(batch, refused, |row| !self.keep_tombstones && is_null(row));
            }
        };
        self.add_headers(&mut batch, events, &headers);
        batch.schema = row_schema(batch.schema.as_deref());
        batch.values = Values::Typed(rows.columns);
        leave_out(batch, Refused::new(), |row| match is_null(row) {
            true => !self.keep_tombstones,
            false => rows.dropped[row],
        })
    }

    fn rows(&self, events: &StructArray) -> Result<Rows, String> {
        let after = events.column_by_name("after").ok_or("Unknown field: after")?;
        let after = masked(after, events.nulls())?;
        let before = events.column_by_name("before").map(|before| masked(before, events.nulls())).transpose()?;
        let deleted = |row: usize| after.is_null(row);
        let truncated = |row: usize| deleted(row) && before.as_ref().is_none_or(|before| before.is_null(row));
        let dropped =
            (0..events.len()).map(|row| truncated(row) || (self.on_delete == OnDelete::Drop && deleted(row))).collect();
        let rewrites = self.on_delete == OnDelete::Rewrite;
        let row = match before {
            Some(before) if rewrites => after_or_before(&after, &before)?,
            Some(_) | None => after.clone(),
        };
        let row = whole(row);
        if is_whole_value(row.fields()) {
            if !self.fields.is_empty() {
                require_struct(&row, PURPOSE)?;
            }
            return Ok(Rows { columns: row, dropped });
        }
        let row = with_defaults(&row, rewrites && self.replace_null_with_default);
        let mut fields: Vec<FieldRef> = row.fields().iter().cloned().collect();
        let mut columns: Vec<ArrayRef> = row.columns().to_vec();
        if rewrites {
            let texts = (0..events.len()).map(|row| if deleted(row) { "true" } else { "false" });
            fields.push(Arc::new(Field::new(DELETED, DataType::Utf8, true)));
            columns.push(Arc::new(StringArray::from_iter_values(texts)));
        }
        for reference in &self.fields {
            if let Some(column) = reference.column(events)? {
                fields.push(Arc::new(Field::new(&reference.new_name, column.data_type().clone(), true)));
                columns.push(column);
            }
        }
        Ok(Rows { columns: struct_of(fields, columns, row.nulls(), row.len())?, dropped })
    }

    /// The texts of the headers to add, one column for each that the events have.
    fn headers_of(&self, events: &StructArray) -> Result<Vec<(&str, ArrayRef)>, String> {
        let mut made = Vec::new();
        for reference in &self.headers {
            if let Some(column) = reference.column(events)? {
                made.push((reference.new_name.as_str(), header_texts(&column)?));
            }
        }
        Ok(made)
    }

    fn add_headers(&self, batch: &mut Batch, events: &StructArray, headers: &[(&str, ArrayRef)]) {
        if self.headers.is_empty() {
            return;
        }
        let mut all = lists(batch);
        for (row, of_row) in all.iter_mut().enumerate() {
            if events.is_null(row) {
                self.add_tombstone_header(of_row);
                continue;
            }
            for (name, texts) in headers {
                let texts = texts.as_string::<i32>();
                let text = texts.is_valid(row).then(|| texts.value(row).as_bytes().to_vec());
                of_row.push(((*name).to_owned(), text));
            }
        }
        batch.headers = Some(Arc::new(all));
    }

    fn add_tombstone_headers(&self, batch: &mut Batch, is_null: impl Fn(usize) -> bool) {
        if self.headers.is_empty() {
            return;
        }
        let mut all = lists(batch);
        all.iter_mut().enumerate().filter(|(row, _)| is_null(*row)).for_each(|(_, of_row)| {
            self.add_tombstone_header(of_row);
        });
        batch.headers = Some(Arc::new(all));
    }

    /// A tombstone says that its row was deleted, and nothing else.
    fn add_tombstone_header(&self, of_row: &mut Headers) {
        for reference in self.headers.iter().filter(|reference| reference.field == "op") {
            of_row.push((reference.new_name.clone(), Some(b"d".to_vec())));
        }
    }

    fn schemaless(&self, mut batch: Batch, texts: &BinaryArray) -> Transformed {
        let mut all = (!self.headers.is_empty()).then(|| lists(&batch));
        let mut dropped = vec![false; batch.len()];
        let (texts, refused) = edit_texts(texts, |value, row| {
            let of_row = all.as_mut().map(|all| &mut all[row]);
            match self.row(value, of_row)? {
                Some(value) => Ok(value),
                None => {
                    dropped[row] = true;
                    Ok(Value::Null)
                }
            }
        });
        batch.values = Values::Schemaless(texts);
        if let Some(all) = all {
            batch.headers = Some(Arc::new(all));
        }
        leave_out(batch, refused, |row| dropped[row])
    }

    /// What a schemaless value becomes; `None` if it is dropped.
    fn row(&self, value: Value, of_row: Option<&mut Headers>) -> Result<Option<Value>, String> {
        let mut event = match value {
            Value::Null => {
                if let Some(of_row) = of_row {
                    self.add_tombstone_header(of_row);
                }
                return Ok(self.keep_tombstones.then_some(Value::Null));
            }
            Value::Object(event) if is_event(&event) => event,
            other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                return Ok(Some(other));
            }
        };
        if let Some(of_row) = of_row {
            for reference in &self.headers {
                if let Some(value) = reference.value(&event) {
                    of_row.push((reference.new_name.clone(), header_text(&value)));
                }
            }
        }
        let added: Vec<(&str, Value)> = self
            .fields
            .iter()
            .filter_map(|reference| Some((reference.new_name.as_str(), reference.value(&event)?)))
            .collect();
        let mut take = |name: &str| event.get_mut(name).map(Value::take).unwrap_or_default();
        let (after, before) = (take("after"), take("before"));
        let deleted = after.is_null();
        let row = match (deleted, before.is_null(), self.on_delete) {
            (false, _, _) => after,
            (true, true, _) | (true, false, OnDelete::Drop) => return Ok(None),
            (true, false, OnDelete::Tombstone) => return Ok(Some(Value::Null)),
            (true, false, OnDelete::Rewrite) => before,
        };
        self.with_fields(row, deleted, added).map(Some)
    }

    fn with_fields(&self, row: Value, deleted: bool, added: Vec<(&str, Value)>) -> Result<Value, String> {
        let mut row = match row {
            Value::Object(row) => row,
            other if added.is_empty() => return Ok(other),
            other => return Err(no_map(class_of(&other), PURPOSE)),
        };
        if self.on_delete == OnDelete::Rewrite {
            row.insert(DELETED.to_owned(), if deleted { "true" } else { "false" }.into());
        }
        for (name, value) in added {
            row.insert(name.to_owned(), value);
        }
        Ok(Value::Object(row))
    }
}

/// Whether a schemaless value is a change event. Upstream takes none for one, as it has no schema to name it; topics of
/// Debezium in plain JSON would then pass unchanged, which nobody wants who names this transform.
fn is_event(value: &Map<String, Value>) -> bool {
    value.get("op").is_some_and(Value::is_string) && (value.contains_key("before") || value.contains_key("after"))
}

/// The row after the event where there is one, else the row before it.
fn after_or_before(after: &ArrayRef, before: &ArrayRef) -> Result<ArrayRef, String> {
    let Some(nulls) = after.logical_nulls().filter(|nulls: &NullBuffer| nulls.null_count() > 0) else {
        return Ok(after.clone());
    };
    let is_written = BooleanArray::new(nulls.into_inner(), None);
    zip(&is_written, after, before)
        .map_err(|error| format!("the rows before and after a change have different types: {error}"))
}

impl Transform for ExtractNewRecordState {
    fn apply(&mut self, batch: Batch) -> Transformed {
        match batch.values.clone() {
            Values::Typed(events) => self.typed(batch, &events),
            Values::Schemaless(texts) => self.schemaless(batch, &texts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::{build, columns, ints, rows, schemaless, texts, transform, typed, types};

    const NAME: &str = "io.debezium.transforms.ExtractNewRecordState";
    /// Settings, and the rows that they lead to.
    type Case<'a> = (&'a [(&'a str, &'a str)], Vec<&'a str>);

    const EVENTS: &[&str] = &[
        r#"{"before":null,"after":{"id":1},"source":{"table":"t","lsn":7},"op":"c","ts_ms":5,"transaction":null}"#,
        r#"{"before":{"id":1},"after":{"id":2},"source":{"table":"t","lsn":8},"op":"u","ts_ms":6}"#,
        r#"{"before":{"id":2},"after":null,"source":{"table":"t","lsn":9},"op":"d","ts_ms":7}"#,
        "null",
        r#"{"before":null,"after":null,"source":{"table":"t","lsn":9},"op":"t","ts_ms":8}"#,
        r#"{"op":"c"}"#,
    ];

    /// The events above but the last, as columns.
    fn events() -> Batch {
        let ids = |ids: Vec<Option<i64>>| -> ArrayRef {
            let nulls = NullBuffer::from_iter(ids.iter().map(Option::is_some));
            let (fields, columns, _) = columns(vec![("id", ints(ids))]).into_parts();
            Arc::new(StructArray::new(fields, columns, Some(nulls)))
        };
        let mut batch = typed(vec![
            ("before", ids(vec![None, Some(1), Some(2), None, None])),
            ("after", ids(vec![Some(1), Some(2), None, None, None])),
            (
                "source",
                Arc::new(columns(vec![
                    ("table", texts(vec![Some("t"); 5])),
                    ("lsn", ints(vec![Some(7), Some(8), Some(9), None, Some(9)])),
                ])),
            ),
            ("op", texts(vec![Some("c"), Some("u"), Some("d"), None, Some("t")])),
            ("ts_ms", ints((5..10).map(Some).collect())),
        ]);
        let Values::Typed(events) = &batch.values else { panic!("typed") };
        let (fields, columns, _) = events.clone().into_parts();
        let valid = NullBuffer::from(vec![true, true, true, false, true]);
        batch.values = Values::Typed(StructArray::new(fields, columns, Some(valid)));
        let schema = ValueSchema { name: Some("s.t.Envelope".to_owned()), version: Some(3) };
        batch.schema = Some(Arc::new(schema));
        batch
    }

    fn both(pairs: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let made = transform(NAME, pairs).apply(schemaless(EVENTS));
        assert!(made.rejected.is_empty());
        let of_columns = transform(NAME, pairs).apply(events());
        assert!(of_columns.rejected.is_empty(), "{:?}", of_columns.rejected);
        (rows(&made.batch.values), rows(&of_columns.batch.values))
    }

    #[test]
    fn the_modes_decide_about_deletes_and_tombstones() {
        let plain = [r#"{"id":1}"#, r#"{"id":2}"#];
        let flagged =
            [r#"{"id":1,"__deleted":"false"}"#, r#"{"id":2,"__deleted":"false"}"#, r#"{"id":2,"__deleted":"true"}"#];
        let cases: [Case; 10] = [
            (&[], [&plain[..], &["null"]].concat()),
            (&[("delete.tombstone.handling.mode", "drop")], plain.to_vec()),
            (&[("delete.tombstone.handling.mode", "Tombstone")], [&plain[..], &["null"]].concat()),
            (&[("delete.tombstone.handling.mode", "delete-to-tombstone")], [&plain[..], &["null"]].concat()),
            (&[("delete.tombstone.handling.mode", "rewrite")], flagged.to_vec()),
            (&[("delete.tombstone.handling.mode", "rewrite-with-tombstone")], [&flagged[..], &["null"]].concat()),
            (&[("drop.tombstones", "true")], plain.to_vec()),
            (&[("drop.tombstones", "false")], [&plain[..], &["null"]].concat()),
            (
                &[("delete.handling.mode", "none"), ("drop.tombstones", "false")],
                [&plain[..], &["null", "null"]].concat(),
            ),
            (&[("delete.handling.mode", "rewrite")], flagged.to_vec()),
        ];
        for (pairs, expected) in cases {
            let (of_texts, of_columns) = both(pairs);
            assert_eq!(of_texts.last().unwrap(), r#"{"op":"c"}"#, "{pairs:?}");
            assert_eq!(of_texts[..of_texts.len() - 1], expected, "{pairs:?}");
            let shown = |text: &str| text.replace('"', "").replace(':', ": ").replace(',', ", ");
            assert_eq!(of_columns, expected.iter().map(|text| shown(text)).collect::<Vec<_>>(), "{pairs:?}");
        }
    }

    #[test]
    fn fields_of_the_event_are_added_to_the_row() {
        let pairs = [
            ("add.fields", "op,table,source.lsn,ts_ms:TIME,nothing, id"),
            ("delete.tombstone.handling.mode", "rewrite"),
        ];
        let (of_texts, of_columns) = both(&pairs);
        let first = r#"{"id":1,"__deleted":"false","__op":"c","__table":"t","__source_lsn":7,"__TIME":5,"__id":null}"#;
        assert_eq!(of_texts[0], first);
        assert_eq!(of_columns[2], "{id: 2, __deleted: true, __op: d, __table: t, __source_lsn: 9, __TIME: 7}");
        let made = transform(NAME, &pairs).apply(events()).batch;
        assert_eq!(types(&made.values)[1..3], ["__deleted Utf8?", "__op Utf8?"]);
        assert_eq!(made.schema.unwrap().name.as_deref(), Some("s.t.Value"));
    }

    #[test]
    fn fields_of_the_event_become_headers_and_tombstones_say_delete() {
        let pairs = [
            ("add.headers", "op,lsn,source"),
            ("add.headers.prefix", "h."),
            ("delete.tombstone.handling.mode", "rewrite-with-tombstone"),
        ];
        let header = |name: &str, text: &str| (name.to_owned(), Some(text.as_bytes().to_vec()));
        for batch in [events(), schemaless(EVENTS)] {
            let headers = transform(NAME, &pairs).apply(batch).batch.headers.unwrap();
            assert_eq!(
                headers[2],
                [header("h.op", "d"), header("h.lsn", "9"), header("h.source", r#"{"table":"t","lsn":9}"#)]
            );
            assert_eq!(headers[3], [header("h.op", "d")]);
        }
    }

    #[test]
    fn what_is_no_event_passes_unchanged_but_tombstones_are_dropped() {
        let others = ["null", "7", r#"{"op":1,"after":{}}"#, r#"{"after":{}}"#, r#"{"op":"c","a":1}"#];
        let made = transform(NAME, &[]).apply(schemaless(&others));
        assert_eq!(rows(&made.batch.values), others[1..]);
        let made = transform(NAME, &[]).apply(typed(vec![("a", ints(vec![Some(1)]))]));
        assert_eq!(rows(&made.batch.values), ["{a: 1}"]);
        let mut named = events();
        named.schema = Some(Arc::new(ValueSchema { name: Some("s.t.Heartbeat".to_owned()), version: None }));
        let made = transform(NAME, &[]).apply(named).batch;
        assert_eq!(made.offsets.as_ref(), [10, 11, 12, 14]);
        assert!(rows(&made.values)[0].starts_with("{before: "));
    }

    #[test]
    fn an_event_without_a_row_is_refused() {
        let mut batch = typed(vec![("op", texts(vec![Some("c")]))]);
        batch.schema = Some(Arc::new(ValueSchema { name: Some("s.Envelope".to_owned()), version: None }));
        assert_eq!(transform(NAME, &[]).apply(batch).rejected[0].reason, "Unknown field: after");
        let text = schemaless(&[r#"{"op":"c","after":"{}"}"#]);
        let made = transform(NAME, &[("add.fields", "op")]).apply(text);
        let expected =
            "Only Map objects supported in absence of schema for [source field insertion], found: java.lang.String";
        assert_eq!(made.rejected[0].reason, expected);
    }

    #[test]
    fn keys_that_are_not_built_are_refused() {
        let reason = |key, value| build(NAME, &[(key, value)]).err().map(|error| error.message);
        assert_eq!(
            reason("add.fields", "a:b:c").unwrap(),
            "Invalid value a:b:c for configuration add.fields: Unexpected field name: a:b:c"
        );
        assert_eq!(reason("drop.fields.from.key", "true"), None);
        assert!(
            crate::check(&crate::values::testing::settings(&[
                ("transforms", "u"),
                ("transforms.u.type", NAME),
                ("transforms.u.drop.fields.header.name", "x"),
                ("transforms.u.route.by.field", "x"),
            ]))
            .iter()
            .map(|problem| problem.key.as_str())
            .eq(["transforms.u.route.by.field", "transforms.u.drop.fields.header.name"])
        );
    }
}
