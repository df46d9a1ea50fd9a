//! Reads JSON texts straight into Arrow columns, with the schema in hand.

use arrow::array::{BinaryArray, StructArray};
use arrow::datatypes::{DataType, FieldRef, Fields};
use model::is_whole_value;
use serde_json::Value;
use simd_json::{Node, StaticNode};

use crate::column::Rows;
use crate::fault::{Fault, Outcome};
use crate::infer::{grow, no_object};
use crate::json_union::read_union;
use crate::struct_column::{Context, Dialect, StructColumn, push_nodes};
use crate::table_schema::{TableSchema, type_name};
use crate::tape::Parser;

/// What to do with a field that the schema does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// For inferred schemas: say that the schema must grow first.
    Report,
    /// For given schemas: leave it out.
    Ignore,
    /// For the columns of a table that may not grow: the record does not fit.
    Refuse,
}

/// What became of a batch of texts.
#[derive(Debug)]
pub struct ReadRows {
    /// One row per text; null for tombstones (null, empty text, JSON `null`) and rejected rows. Fields that are NOT NULL
    /// in a given schema hold nulls under such rows.
    pub columns: StructArray,
    /// The rows that do not fit, in their order, and why.
    pub rejected: Vec<(usize, String)>,
    /// Whether some row that fits has a field the schema lacks, or a decimal where the schema says INT64. Then `columns`
    /// is not the whole truth: run [`crate::infer`], store the schema and read again; it will not say so twice.
    pub grows: bool,
    /// Whether some row that fits has an empty object or list in a field that the schema lacks: under a schema that has
    /// the field, the row may not fit.
    pub waits: bool,
    /// Rows that a lenient reader made although they do not fit.
    pub corrupt: usize,
}

/// Reads texts of plain JSON into the columns of one schema; buffers are kept from batch to batch.
///
/// Every row is held to be one valid JSON value in UTF-8; the first reader to notice is this one, for a converter passes
/// plain JSON on unread. Values that JSON has no type for: integers are range-checked; decimals are numbers or strings of
/// digits that fit without rounding; dates, times and timestamps are ISO texts (no offset means UTC) or numbers (days,
/// milliseconds of the day, milliseconds since the epoch); bytes are base64; maps are objects, or lists of `[key, value]`.
/// An integer may stand for a DOUBLE; beyond 2^53 it is rounded. Fields match by exact name, in any order; of a key that is
/// there twice the last one counts.
pub struct JsonColumns {
    schema: TableSchema,
    root: StructColumn,
    top: Top,
    context: Context,
    lenient: Option<Lenient>,
    parser: Parser,
}

/// Rows that do not fit are made all the same.
#[derive(Debug, Clone, Copy)]
struct Lenient {
    /// Where their text goes.
    text: Option<usize>,
}

/// What stands at the top of a text.
struct Top {
    /// A value that is no struct, in a column of its own.
    whole: bool,
    /// The branches of a union that the value is one of.
    union: Option<Fields>,
    /// Its type, for an error text.
    type_name: String,
    /// Whether it may be null.
    nullable: bool,
    /// What a null stands for, if not for itself.
    default: Option<Value>,
}

impl Top {
    fn new(schema: &TableSchema, nullable: bool, default: Option<Value>) -> Top {
        let whole = is_whole_value(schema.fields());
        let type_name = if whole { type_name(schema.fields()[0].data_type()) } else { "STRUCT".to_owned() };
        Top { whole, union: None, type_name, nullable, default: default.filter(|default| !default.is_null()) }
    }
}

impl JsonColumns {
    /// A reader for rows of `schema`.
    pub fn new(schema: &TableSchema, unknown: Unknown) -> JsonColumns {
        JsonColumns {
            root: StructColumn::new(schema.fields()),
            top: Top::new(schema, true, None),
            context: Context::new(Dialect::Plain, unknown),
            lenient: None,
            parser: Parser::new(),
            schema: schema.clone(),
        }
    }

    /// A reader for payloads of JsonConverter's envelopes; `fields` carry their defaults as metadata.
    pub(crate) fn connect(
        schema: &TableSchema,
        fields: &Fields,
        nullable: bool,
        default: Option<Value>,
        replace_null_with_default: bool,
    ) -> JsonColumns {
        let context = Context::new(Dialect::Connect { replace_null_with_default }, Unknown::Ignore);
        let top = Top::new(schema, nullable, default.filter(|_| replace_null_with_default));
        let root = StructColumn::new(fields);
        JsonColumns { root, top, context, lenient: None, parser: Parser::new(), schema: schema.clone() }
    }

    /// The same reader for values that are one branch of a union each; the columns are the branches.
    pub(crate) fn of_union(mut self, branches: &Fields) -> JsonColumns {
        self.top.union = Some(branches.clone());
        self
    }

    /// The same reader, whose texts take any value, as the JSON that it is: so `from_json` of Spark has it.
    pub fn with_any_text(mut self) -> JsonColumns {
        self.context.texts_take_all = true;
        self
    }

    /// The same reader for records of which none is rejected, as `from_json` of Spark has it in the mode PERMISSIVE: fields of
    /// objects that do not fit are null, all of them where the text is no object, and the column `text`, if the schema has a
    /// STRING of that name, holds the text of such a record. The schema must let every field be null.
    pub fn lenient(mut self, text: &str) -> JsonColumns {
        let is_it = |field: &FieldRef| field.name() == text && *field.data_type() == DataType::Utf8;
        self.context.is_lenient = true;
        self.lenient = Some(Lenient { text: self.schema.fields().iter().position(is_it) });
        self
    }

    /// The schema it reads into.
    pub fn schema(&self) -> &TableSchema {
        &self.schema
    }

    /// Reads all rows of `texts`.
    pub fn read(&mut self, texts: &BinaryArray) -> ReadRows {
        self.read_each(texts.iter())
    }

    /// As [`Self::read`], but the schema cannot grow: a record by which it would is rejected.
    pub fn read_fixed(&mut self, texts: &BinaryArray) -> ReadRows {
        let unknown = std::mem::replace(&mut self.context.unknown, Unknown::Refuse);
        let rows = self.read(texts);
        self.context.unknown = unknown;
        rows
    }

    /// Reads texts that do not lie in one column.
    pub(crate) fn read_each<'t>(&mut self, texts: impl Iterator<Item = Option<&'t [u8]>>) -> ReadRows {
        let (mut rejected, mut grows, mut waits, mut corrupt) = (Vec::new(), false, false, 0);
        self.root.begin();
        for (row, text) in texts.enumerate() {
            let Some(text) = text.filter(|text| !text.is_empty()) else {
                self.root.push_null();
                continue;
            };
            let Self { schema, root, top, context, lenient, parser } = self;
            let outcome = parser.parse(text, |nodes| read_row(schema, root, top, context, nodes));
            if let Some(lenient) = *lenient {
                corrupt += usize::from(self.settle(row, text, lenient, matches!(outcome, Ok(Ok(_)))));
                continue;
            }
            let reason = match outcome {
                Ok(Ok(row_grows)) => {
                    grows |= row_grows;
                    waits |= self.context.waits;
                    continue;
                }
                Ok(Err(fault)) => fault.to_string(),
                Err(reason) => reason,
            };
            self.root.truncate(row);
            self.root.push_null();
            rejected.push((row, reason));
        }
        ReadRows { columns: self.root.finish_struct(), rejected, grows, waits, corrupt }
    }

    /// Ends a row of a lenient reader, which is there already if it `is_whole`, and says whether it does not fit.
    fn settle(&mut self, row: usize, text: &[u8], lenient: Lenient, is_whole: bool) -> bool {
        let is_corrupt = self.context.fault.take().is_some() || !is_whole;
        if !is_whole {
            self.root.truncate(row);
            self.root.read(&[], 0, 0, &mut self.context).expect("every field may be null");
        }
        if let Some(column) = lenient.text {
            self.root.set_text(column, is_corrupt.then_some(text));
        }
        is_corrupt
    }
}

/// Reads one row and tells whether the schema should grow by it.
fn read_row(
    schema: &TableSchema,
    root: &mut StructColumn,
    top: &Top,
    context: &mut Context,
    nodes: &[Node<'_>],
) -> Outcome<bool> {
    (context.suspect, context.waits) = (false, false);
    match (nodes.first(), &top.default) {
        (None | Some(Node::Static(StaticNode::Null)), None) if top.nullable => root.push_null(),
        (None | Some(Node::Static(StaticNode::Null)), None) => {
            return Err(Fault::new(format!("Invalid null value for required {} field", top.type_name)));
        }
        (None | Some(Node::Static(StaticNode::Null)), Some(default)) => {
            let mut nodes = Vec::new();
            push_nodes(default, &mut nodes);
            read_present(root, top, context, &nodes)?;
        }
        (Some(_), _) => read_present(root, top, context, nodes)?,
    }
    if !context.suspect {
        return Ok(false);
    }
    Ok(grow(schema, nodes)?.is_some())
}

fn read_present(root: &mut StructColumn, top: &Top, context: &mut Context, nodes: &[Node<'_>]) -> Outcome<()> {
    if top.whole {
        root.whole_value().read(nodes, 0, context)?;
        root.end_row();
        return Ok(());
    }
    if let Some(branches) = &top.union {
        return read_union(branches, root, nodes, 0, context).map(|_| ());
    }
    match &nodes[0] {
        Node::Object { len, .. } => root.read(nodes, 1, *len, context).map(|_| ()),
        other => Err(no_object(other)),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, ArrayRef, AsArray};
    use arrow::datatypes::{DataType, Float64Type, Int64Type};
    use arrow::util::display::array_value_to_string;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::table_schema::tests::any_fields;
    use crate::{infer, project};

    fn texts<T: AsRef<str>>(records: &[T]) -> BinaryArray {
        BinaryArray::from_iter_values(records.iter().map(|record| record.as_ref().as_bytes()))
    }

    fn schema(ddl: &str) -> TableSchema {
        crate::given::parse(ddl).unwrap()
    }

    #[test]
    fn a_lenient_reader_rejects_nothing_and_keeps_the_text_of_what_does_not_fit() {
        let schema = schema("a BIGINT, s STRUCT<x: BIGINT, y: STRING>, _corrupt_record STRING").with_nullable_fields();
        let records = [
            r#"{"a":1,"s":{"x":2,"y":"z"}}"#,
            r#"{"a":"one","s":{"x":2}}"#,
            r#"{"a":1,"s":{"x":"two","y":"z"},"b":3}"#,
            "[1]",
            "{",
            "null",
            r#"{"a":2,"_corrupt_record":"mine"}"#,
        ];
        let read = JsonColumns::new(&schema, Unknown::Ignore).lenient("_corrupt_record").read(&texts(&records));
        assert_eq!((read.rejected, read.corrupt), (vec![], 4));
        let rows: Vec<String> =
            (0..records.len()).map(|row| array_value_to_string(&read.columns, row).unwrap()).collect();
        let expected = [
            "{a: 1, s: {x: 2, y: z}, _corrupt_record: }".to_owned(),
            format!("{{a: , s: {{x: 2, y: }}, _corrupt_record: {}}}", records[1]),
            format!("{{a: 1, s: {{x: , y: z}}, _corrupt_record: {}}}", records[2]),
            "{a: , s: , _corrupt_record: [1]}".to_owned(),
            "{a: , s: , _corrupt_record: {}".to_owned(),
            String::new(),
            "{a: 2, s: , _corrupt_record: }".to_owned(),
        ];
        assert_eq!(rows, expected);
        let without = self::schema("a BIGINT");
        let read = JsonColumns::new(&without, Unknown::Ignore).lenient("_corrupt_record").read(&texts(&records[1..2]));
        assert_eq!((read.corrupt, read.columns.is_null(0), read.columns.column(0).is_null(0)), (1, false, true));
    }

    #[test]
    fn texts_that_take_all_hold_json() {
        let mut reader = JsonColumns::new(&schema("s STRING"), Unknown::Ignore).with_any_text();
        let read =
            reader.read(&texts(&[r#"{"s":"x"}"#, r#"{"s": {"a": [1, "b", null]}}"#, r#"{"s":9.25}"#, r#"{"s":null}"#]));
        assert_eq!(read.rejected, []);
        let found: Vec<Option<&str>> = read.columns.column(0).as_string::<i32>().iter().collect();
        assert_eq!(found, [Some("x"), Some(r#"{"a":[1,"b",null]}"#), Some("9.25"), None]);
    }

    #[test]
    fn what_a_table_has_no_column_for_is_rejected_where_it_may_not_grow() {
        let mut reader = JsonColumns::new(&schema("a BIGINT, s STRUCT<x: BIGINT>"), Unknown::Report);
        let records = texts(&[r#"{"a":1}"#, r#"{"b":1}"#, r#"{"a":1.5}"#, r#"{"s":{"y":1}}"#, r#"{"b":null}"#]);
        let read = reader.read_fixed(&records);
        let reasons: Vec<&str> = read.rejected.iter().map(|(_, reason)| reason.as_str()).collect();
        assert_eq!(read.rejected.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(reasons[0].starts_with("field b: is not among the columns"), "{}", reasons[0]);
        assert!(reasons[1].starts_with("field a: is INT64 in the schema"), "{}", reasons[1]);
        assert!(reasons[2].starts_with("field s.y: is not among the columns"), "{}", reasons[2]);
        assert!(!read.grows && reader.read(&records).grows, "only that once");
    }

    /// The only row as text, or why there is none.
    fn read_one(ddl: &str, unknown: Unknown, record: &str) -> String {
        let read = JsonColumns::new(&schema(ddl), unknown).read(&texts(&[record]));
        assert_eq!(read.columns.len(), 1);
        match read.rejected.as_slice() {
            [] => format!(
                "{}{}",
                if read.columns.is_null(0) {
                    "null".to_owned()
                } else {
                    array_value_to_string(&read.columns, 0).unwrap()
                },
                match (read.grows, read.waits) {
                    (true, _) => " grows",
                    (false, true) => " waits",
                    (false, false) => "",
                }
            ),
            [(0, reason)] => {
                assert!(read.columns.is_null(0) && !read.grows);
                reason.clone()
            }
            other => panic!("one row cannot be rejected twice: {other:?}"),
        }
    }

    #[test]
    fn rows_are_read_or_rejected_with_the_field() {
        for (ddl, record, expected) in [
            ("a BIGINT, b STRING", r#"{"b":"x","a":1}"#, "{a: 1, b: x}"),
            ("a BIGINT, b STRING", r#" {"a":null} "#, "{a: , b: }"),
            ("a BIGINT", r#"{"a":1,"a":2}"#, "{a: 2}"),
            ("a BIGINT", r#"{"a":"x","a":2}"#, "{a: 2}"),
            ("a BIGINT, b BIGINT", r#"{"b":1,"a":3,"b":2}"#, "{a: 3, b: 2}"),
            ("a BIGINT", r#"{"a":2,"a":"x"}"#, "field a: is INT64 in the schema but the record has the string \"x\""),
            ("a DOUBLE", r#"{"a":3}"#, "{a: 3.0}"),
            (
                "a DOUBLE",
                r#"{"a":18446744073709551615}"#,
                "field a: is DOUBLE in the schema but the record has the number 18446744073709551615",
            ),
            ("s STRUCT<x: ARRAY<BIGINT>>", r#"{"s":{"x":[1,null,3]}}"#, "{s: {x: [1, , 3]}}"),
            (
                "s STRUCT<x: ARRAY<BIGINT>>",
                r#"{"s":{"x":[1,true]}}"#,
                "field s.x: is INT64 in the schema but the record has the boolean true",
            ),
            ("s STRUCT<x: BIGINT>", r#"{"s":[]}"#, "field s: is STRUCT in the schema but the record has a list"),
            ("a BIGINT", "null", "null"),
            ("a BIGINT", "", "null"),
            ("a BIGINT", r#"{"a":1.5}"#, "{a: } grows"),
            ("a BIGINT", r#"{"b":1}"#, "{a: } grows"),
            ("a BIGINT", r#"{"b":[],"c":{"d":null}}"#, "{a: } waits"),
            ("a BIGINT", r#"{"b":null}"#, "{a: }"),
            ("a BIGINT", r#"{"b":{"d":{}}}"#, "{a: } waits"),
            ("a BIGINT", r#"{"b":[1,"x"]}"#, "field b: the elements of a list are INT64 and STRING"),
            (
                "s ARRAY<STRUCT<x: BIGINT>>",
                r#"{"s":[{"y":1},{"y":"z"}]}"#,
                "field s.y: the elements of a list are INT64 and STRING",
            ),
            (
                "a BIGINT",
                "7",
                "value must be a JSON object to become columns, but it is the number 7; wrap it with HoistField, or write it with format.class json",
            ),
        ] {
            assert_eq!(read_one(ddl, Unknown::Report, record), expected, "{record}");
        }
    }

    #[test]
    fn given_types_are_coerced_exactly_or_rejected() {
        for (ddl, record, expected) in [
            ("a TINYINT", r#"{"a":127,"b":"unknown"}"#, "{a: 127}"),
            ("a TINYINT", r#"{"a":128}"#, "field a: is BYTE in the schema but the record has the number 128"),
            ("a BIGINT", r#"{"a":1.5}"#, "field a: is INT64 in the schema but the record has the number 1.5"),
            ("a FLOAT", r#"{"a":1e39}"#, "field a: is FLOAT in the schema but the record has the number 1e39"),
            ("a INT NOT NULL", "{}", "field a: is INTEGER NOT NULL in the schema but the record has null"),
            ("a INT NOT NULL", r#"{"a":null,"a":1}"#, "{a: 1}"),
            ("a DECIMAL(4,2)", r#"{"a":"12.34"}"#, "{a: 12.34}"),
            (
                "a DECIMAL(4,2)",
                r#"{"a":12.345}"#,
                "field a: is DECIMAL(4,2) in the schema but the record has the number 12.345",
            ),
            ("a DECIMAL(60,2)", r#"{"a":7}"#, "{a: 7.00}"),
            ("a DATE", r#"{"a":"2024-02-29"}"#, "{a: 2024-02-29}"),
            ("a TIMESTAMP", r#"{"a":"2024-02-29T12:00:00.123456+02:00"}"#, "{a: 2024-02-29T10:00:00.123456Z}"),
            ("a TIMESTAMP", r#"{"a":1500}"#, "{a: 1970-01-01T00:00:01.500Z}"),
            ("a TIMESTAMP_NTZ(3)", r#"{"a":"2024-02-29 12:00:00"}"#, "{a: 2024-02-29T12:00:00}"),
            ("a BINARY", r#"{"a":"AQI"}"#, "{a: 0102}"),
            ("a BINARY", r#"{"a":"?"}"#, "field a: is BINARY in the schema but the record has the string \"?\""),
            ("a MAP<STRING, INT>", r#"{"a":{"x":1,"y":null,"x":2}}"#, "{a: {y: , x: 2}}"),
            ("a MAP<INT, INT>", r#"{"a":[[1,2]]}"#, "{a: {1: 2}}"),
            (
                "a MAP<INT, INT>",
                r#"{"a":{"1":2}}"#,
                "field a.key: is INTEGER in the schema but the record has the string \"1\"",
            ),
            ("a MAP<STRING, INT>", r#"{"a":[1]}"#, "field a: a map that is a list must hold pairs [key, value]"),
            (
                "a INT",
                "[{}]",
                "value must be a JSON object to become columns, but it is a list; wrap it with HoistField, or write it with format.class json",
            ),
        ] {
            assert_eq!(read_one(ddl, Unknown::Ignore, record), expected, "{record}");
        }
    }

    #[test]
    fn a_rejected_row_leaves_no_trace_in_its_neighbours() {
        let ddl = "a BIGINT NOT NULL, s STRUCT<x: ARRAY<STRING>, y: BIGINT>, m MAP<STRING, STRING>, b BINARY, z BIGINT";
        let good = r#"{"a":1,"s":{"x":["p","q"],"y":2},"m":{"k":"v"},"b":"AQI=","z":3}"#;
        let bad = [
            r#"{"a":1,"s":{"x":["r",5]}}"#,
            r#"{"a":1,"s":{"x":["r"],"y":"no"}}"#,
            r#"{"a":1,"m":{"k":"v","l":7}}"#,
            r#"{"a":1,"b":"AQI=","z":"no"}"#,
            r#"{"s":{"x":["lost"]}}"#,
            r#"{"a":1,"b":"AQ?="}"#,
            "{",
        ];
        let mut reader = JsonColumns::new(&schema(ddl), Unknown::Ignore);
        let expected = reader.read(&texts(&[good])).columns;
        for bad in bad {
            let read = reader.read(&texts(&[good, bad, good]));
            assert_eq!(read.rejected.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1], "{bad}");
            for row in [0, 2] {
                assert_eq!(read.columns.slice(row, 1), expected, "{bad}");
            }
        }
    }

    #[test]
    fn wide_objects_are_found_by_name_in_any_order() {
        let names: Vec<String> = (0..100).map(|index| format!("f{index}")).collect();
        let record = |order: &mut dyn Iterator<Item = &String>| {
            let pairs: Vec<String> = order.map(|name| format!("\"{name}\":\"{name}\"")).collect();
            format!("{{{}}}", pairs.join(","))
        };
        let records =
            [record(&mut names.iter()), record(&mut names.iter().rev()), record(&mut names.iter().step_by(3))];
        let found = infer(None, &texts(&records)).schema;
        let read = JsonColumns::new(&found, Unknown::Report).read(&texts(&records));
        assert!(read.rejected.is_empty() && !read.grows);
        assert_eq!(read.columns.slice(0, 1), read.columns.slice(1, 1));
        assert_eq!(read.columns.column(3).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("f3"); 3]);
        assert_eq!(read.columns.column(4).null_count(), 1);
    }

    #[test]
    fn a_large_value_is_read_and_its_buffers_given_back() {
        let record = json!({ "a": "x".repeat(10 << 20) }).to_string();
        let read = JsonColumns::new(&schema("a STRING"), Unknown::Report).read(&texts(&[&record, r#"{"a":"y"}"#]));
        assert_eq!(read.columns.column(0).as_string::<i32>().value(0).len(), 10 << 20);
        let read = JsonColumns::new(&schema("a BIGINT"), Unknown::Report).read(&texts(&[&record]));
        assert!(read.rejected[0].1.len() < 400, "an error does not repeat ten megabytes");
    }

    /// Whether row `row` of `column` says what serde_json read.
    fn says(column: &ArrayRef, row: usize, value: Option<&Value>) -> bool {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return column.is_null(row);
        };
        if column.is_null(row) {
            return false;
        }
        match column.data_type() {
            DataType::Int64 => value.as_i64() == Some(column.as_primitive::<Int64Type>().value(row)),
            DataType::Float64 => value.as_f64() == Some(column.as_primitive::<Float64Type>().value(row)),
            DataType::Boolean => value.as_bool() == Some(column.as_boolean().value(row)),
            DataType::Utf8 => value.as_str() == Some(column.as_string::<i32>().value(row)),
            DataType::List(_) => {
                let elements = column.as_list::<i32>().value(row);
                value.as_array().is_some_and(|values| {
                    values.len() == elements.len()
                        && values.iter().enumerate().all(|(index, value)| says(&elements, index, Some(value)))
                })
            }
            DataType::Struct(fields) => value.as_object().is_some_and(|object| {
                let columns = column.as_struct();
                fields
                    .iter()
                    .all(|field| says(columns.column_by_name(field.name()).unwrap(), row, object.get(field.name())))
                    && object.iter().all(|(name, value)| columns.column_by_name(name).is_some() || !has_scalar(value))
            }),
            other => panic!("inference makes no {other}"),
        }
    }

    fn has_scalar(value: &Value) -> bool {
        match value {
            Value::Null => false,
            Value::Array(elements) => elements.iter().any(has_scalar),
            Value::Object(fields) => fields.values().any(has_scalar),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        }
    }

    fn has_empty(value: &Value) -> bool {
        match value {
            Value::Array(elements) => !has_scalar(value) || elements.iter().any(has_empty),
            Value::Object(fields) => !has_scalar(value) || fields.values().any(has_empty),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }

    fn any_object() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            1 => Just(Value::Null),
            4 => (-5i64..5).prop_map(Value::from),
            1 => any::<i64>().prop_map(Value::from),
            2 => proptest::num::f64::NORMAL.prop_map(Value::from),
            1 => any::<bool>().prop_map(Value::from),
            1 => "\\PC{0,6}".prop_map(Value::from),
        ];
        let value = scalar.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from), object_of(inner),]
        });
        object_of(value)
    }

    fn object_of(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
        proptest::collection::hash_map("[a-e]", values, 0..5)
            .prop_map(|fields| Value::Object(fields.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn every_record_is_read_as_serde_json_sees_it_or_rejected(records in proptest::collection::vec(any_object(), 1..12)) {
            let lines: Vec<String> = records.iter().map(Value::to_string).collect();
            let found = infer(None, &texts(&lines)).schema;
            let read = JsonColumns::new(&found, Unknown::Report).read(&texts(&lines));
            prop_assert!(!read.grows, "a schema holds what it was inferred from");
            let columns: ArrayRef = std::sync::Arc::new(read.columns);
            for (row, record) in records.iter().enumerate() {
                let rejected = read.rejected.iter().find(|(rejected, _)| *rejected == row);
                let grown = Parser::new().parse(lines[row].as_bytes(), |nodes| grow(&found, nodes)).unwrap();
                match rejected {
                    Some((_, reason)) => prop_assert!(grown.is_err() && reason.starts_with("field "), "{record} {reason}"),
                    None => prop_assert!(says(&columns, row, Some(record)), "{record} {}", found.to_json()),
                }
            }
        }

        #[test]
        fn projection_equals_reading_again(
            old in proptest::collection::vec(any_object(), 1..5), new in proptest::collection::vec(any_object(), 1..5)
        ) {
            let old: Vec<String> = old.iter().filter(|record| !has_empty(record)).map(Value::to_string).collect();
            let new: Vec<String> = new.iter().map(Value::to_string).collect();
            let older = infer(None, &texts(&old)).schema;
            let newer = infer(Some(&older), &texts(&new)).schema;
            let held = JsonColumns::new(&older, Unknown::Report).read(&texts(&old));
            let again = JsonColumns::new(&newer, Unknown::Report).read(&texts(&old));
            if held.rejected.is_empty() {
                prop_assert_eq!(project(&held.columns, &newer).unwrap(), again.columns);
            }
        }

        #[test]
        fn a_schema_that_says_to_grow_grows_once(
            first in proptest::collection::vec(any_object(), 1..4), second in proptest::collection::vec(any_object(), 1..8)
        ) {
            let text = |records: &[Value]| texts(&records.iter().map(Value::to_string).collect::<Vec<_>>());
            let current = infer(None, &text(&first)).schema;
            let read = JsonColumns::new(&current, Unknown::Report).read(&text(&second));
            let grown = infer(Some(&current), &text(&second));
            prop_assert_eq!(read.grows, grown.changed);
            prop_assert!(!JsonColumns::new(&grown.schema, Unknown::Report).read(&text(&second)).grows);
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            fields in any_fields(), rows in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..30)), 0..8)
        ) {
            let texts: BinaryArray = rows.iter().collect();
            let read = JsonColumns::new(&TableSchema::new(&fields).unwrap(), Unknown::Report).read(&texts);
            prop_assert_eq!(read.columns.len(), rows.len());
        }

        #[test]
        fn any_object_under_any_schema_is_read_or_rejected(
            fields in any_fields(), records in proptest::collection::vec(any_object(), 0..6)
        ) {
            // The names of the objects, so that values meet types.
            let names = |text: String| ('a'..='e').zip(0..).fold(text, |text, (name, index)| {
                text.replace(&format!("\"{name}\":"), &format!("\"f{index}\":"))
            });
            let lines: Vec<String> = records.iter().map(|record| names(record.to_string())).collect();
            let read = JsonColumns::new(&TableSchema::new(&fields).unwrap(), Unknown::Ignore).read(&texts(&lines));
            prop_assert_eq!(read.columns.len(), lines.len());
            for (row, reason) in &read.rejected {
                prop_assert!(read.columns.is_null(*row) && !reason.is_empty());
            }
        }
    }
}
