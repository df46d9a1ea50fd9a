//! The field partitioner: `name=value` for each of some fields of the record's value.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{Display, Write};
use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use model::{Batch, Importance, Invalid, Key, Kind, Plugin, Rejected, Settings, Stage, Values};
use serde_json::Value;

use super::{BuildPartitioner, Partitioner, Placed, SplitBuilder, complete, encode_odd_segments};
use crate::layout::DIRECTORY_DELIM;
use crate::lookup::{FieldPath, Found};

/// The fields that paths are made of.
pub const PARTITION_FIELD_NAME: Key = Key::new(
    "partition.field.name",
    Kind::List,
    "Fields that the field partitioner makes paths of, dots for nested ones: a,b.c makes a=1/b.c=x.",
)
.default("")
.importance(Importance::Medium)
.group("Partitioner", 2)
.shown(model::Width::None, "Partition Field Name");

pub(super) const PLUGIN: Plugin<BuildPartitioner> = Plugin {
    names: &["field", "io.confluent.connect.storage.partitioner.FieldPartitioner"],
    doc: "One directory for each value of some fields (integers, strings, booleans, null): a=1/b=x. Values are copied as \
          they are, except that a slash without a name on both sides, a directory . or .., and control characters are \
          percent-encoded.",
    keys: &[&[PARTITION_FIELD_NAME]],
    check: |settings| FieldPartitioner::new(settings).err().into_iter().collect(),
    build: |settings| complete(settings, Box::new(FieldPartitioner::new(settings)?)),
};

/// Upstream's text for a value that cannot be part of a path.
const CANNOT_ENCODE: &str = "Error encoding partition.";

pub(super) struct FieldPartitioner {
    fields: Vec<FieldPath>,
    delimiter: String,
}

impl FieldPartitioner {
    pub(super) fn new(settings: &Settings) -> Result<Self, Invalid> {
        let refused = |message: &str| Invalid::new(PARTITION_FIELD_NAME.name, message);
        let names = settings.text(&PARTITION_FIELD_NAME).unwrap_or_default();
        if names.is_empty() {
            return Err(refused("Partition field name cannot be null or empty when using FieldPartitioner."));
        }
        let fields: Option<Vec<_>> = names.split(',').map(|name| FieldPath::new(name.trim())).collect();
        Ok(Self {
            fields: fields
                .ok_or_else(|| refused("Field name cannot contain an empty or whitespace-only path segment"))?,
            delimiter: settings.required_string(&DIRECTORY_DELIM)?,
        })
    }

    /// The path of each row as the values have it, which need not be one that object stores take.
    pub(super) fn coded(&self, batch: &Batch) -> Coded {
        match &batch.values {
            Values::Typed(columns) => self.encode_columns(columns),
            Values::Schemaless(texts) => self.encode_texts(texts),
        }
    }

    /// Codes of columns, field by field.
    fn encode_columns(&self, columns: &StructArray) -> Coded {
        let mut all: Option<Coded> = None;
        for field in &self.fields {
            let coded = encode_column(field, columns);
            all = Some(match all {
                None => coded,
                Some(left) => left.join(coded, &self.delimiter),
            });
        }
        let mut all = all.expect("new refuses an empty list of fields");
        for row in 0..columns.len() {
            if columns.is_null(row) {
                all.refused.insert(row, format!("{CANNOT_ENCODE} The record has no value"));
            }
        }
        all
    }

    /// Codes of JSON texts, row by row.
    fn encode_texts(&self, texts: &BinaryArray) -> Coded {
        let mut coder = Coder::<Arc<str>>::new(texts.len());
        let mut path = String::new();
        for row in 0..texts.len() {
            path.clear();
            let text = (!texts.is_null(row)).then(|| texts.value(row));
            match self.write_path(text, &mut path) {
                Ok(()) => coder.push_text(&path),
                Err(why) => coder.refuse(row, why),
            }
        }
        coder.coded
    }

    fn write_path(&self, text: Option<&[u8]>, path: &mut String) -> Result<(), String> {
        let text = text.ok_or_else(|| format!("{CANNOT_ENCODE} The record has no value"))?;
        let record: Value =
            serde_json::from_slice(text).map_err(|error| format!("{CANNOT_ENCODE} The value is no JSON: {error}"))?;
        if !record.is_object() {
            return Err(format!("{CANNOT_ENCODE} The value is no JSON object"));
        }
        for (number, field) in self.fields.iter().enumerate() {
            if number > 0 {
                path.push_str(&self.delimiter);
            }
            let name = field.name();
            let written = match field.find(&record) {
                Found::Missing => {
                    return Err(format!("Field '{name}' is not present in the value."));
                }
                Found::Null => write!(path, "{name}=null"),
                Found::Value(Value::Bool(value)) => write!(path, "{name}={value}"),
                Found::Value(Value::String(value)) => write!(path, "{name}={value}"),
                Found::Value(Value::Number(value)) if value.is_i64() || value.is_u64() => {
                    write!(path, "{name}={value}")
                }
                Found::Value(Value::Number(_)) => {
                    return Err(unsupported(name, "a number with a fraction"));
                }
                Found::Value(Value::Array(_)) => return Err(unsupported(name, "an array")),
                Found::Value(Value::Null | Value::Object(_)) => {
                    return Err(unsupported(name, "an object"));
                }
            };
            written.expect("writing to a String never fails");
        }
        Ok(())
    }
}

impl Partitioner for FieldPartitioner {
    fn split(&mut self, batch: &Batch, _clock_ms: i64) -> Placed {
        let coded = self.coded(batch);
        let mut split = SplitBuilder::with_capacity(batch.len());
        let mut numbers: Vec<Option<u32>> = vec![None; coded.texts.len()];
        for (row, code) in coded.of_row.iter().enumerate() {
            if coded.refused.contains_key(&row) {
                split.push_rejected();
                continue;
            }
            let code = *code as usize;
            let number = match numbers[code] {
                Some(number) => number,
                None => {
                    let path = encode_odd_segments(&coded.texts[code]);
                    *numbers[code].insert(split.number(&path.into()))
                }
            };
            split.push(number);
        }
        let rejected = coded.refused.into_iter().map(|(row, reason)| Rejected {
            row,
            at: batch.position(row),
            stage: Stage::TaskPut,
            reason,
        });
        Placed { split: split.finish(), times_ms: None, rejected: rejected.collect() }
    }

    fn wall_clock_bound_ms(&self, _clock_ms: i64) -> Option<i64> {
        None
    }

    fn reads_values(&self) -> bool {
        true
    }
}

fn unsupported(field: &str, kind: &str) -> String {
    format!("{CANNOT_ENCODE} Field '{field}' is {kind}; a path takes integers, strings and booleans")
}

/// The `name=value` of each row as a number, so that a repeated value costs no allocation.
pub(super) struct Coded {
    pub(super) of_row: Vec<u32>,
    pub(super) texts: Vec<String>,
    pub(super) refused: BTreeMap<usize, String>,
}

impl Coded {
    /// The texts of `self` and `right` behind each other, row by row.
    fn join(self, right: Coded, delimiter: &str) -> Coded {
        let mut joined = Coder::new(self.of_row.len());
        for (left_code, right_code) in self.of_row.iter().zip(&right.of_row) {
            let pair = (*left_code, *right_code);
            joined.push(pair, |(left_code, right_code)| {
                // A refused row's code may have no text.
                let text = |texts: &[String], code: u32| texts.get(code as usize).cloned().unwrap_or_default();
                format!("{}{delimiter}{}", text(&self.texts, left_code), text(&right.texts, right_code))
            });
        }
        let mut refused = right.refused;
        refused.extend(self.refused);
        Coded { refused, ..joined.coded }
    }
}

/// Gives each distinct value a code.
struct Coder<K> {
    codes: HashMap<K, u32>,
    last: Option<(K, u32)>,
    coded: Coded,
}

impl<K: Hash + Eq + Clone> Coder<K> {
    fn new(rows: usize) -> Self {
        let coded = Coded { of_row: Vec::with_capacity(rows), texts: Vec::new(), refused: BTreeMap::new() };
        Self { codes: HashMap::new(), last: None, coded }
    }

    /// The next row has the value `key`; `print` makes its text when it is new.
    fn push(&mut self, key: K, print: impl FnOnce(K) -> String) {
        let code = match &self.last {
            Some((last, code)) if *last == key => *code,
            Some(_) | None => {
                let code = match self.codes.get(&key) {
                    Some(code) => *code,
                    None => self.add(key.clone(), print(key.clone())),
                };
                self.last = Some((key, code));
                code
            }
        };
        self.coded.of_row.push(code);
    }

    fn add(&mut self, key: K, text: String) -> u32 {
        let code = u32::try_from(self.coded.texts.len()).expect("a batch has fewer than 2^32 rows");
        self.codes.insert(key, code);
        self.coded.texts.push(text);
        code
    }

    fn refuse(&mut self, row: usize, why: String) {
        self.coded.of_row.push(0);
        self.coded.refused.insert(row, why);
    }
}

impl Coder<Arc<str>> {
    fn push_text(&mut self, text: &str) {
        let code = match self.codes.get(text) {
            Some(code) => *code,
            None => self.add(text.into(), text.to_owned()),
        };
        self.coded.of_row.push(code);
    }
}

/// The `name=value` of one field for each row.
fn encode_column(field: &FieldPath, columns: &StructArray) -> Coded {
    let name = field.name();
    let rows = columns.len();
    let Some((column, nulls)) = field.column(columns) else {
        let why = format!("Field '{name}' is not present in the schema.");
        return encode_values(name, rows, None, |_| Err::<i64, _>(why.clone()));
    };
    let nulls = nulls.as_ref();
    let wide = match column.data_type() {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            cast(&column, &DataType::Int64)
        }
        DataType::LargeUtf8 | DataType::Utf8View => cast(&column, &DataType::Utf8),
        DataType::Dictionary(_, values) if values.is_string() => cast(&column, &DataType::Utf8),
        _ => Ok(column.clone()),
    };
    let wide = match wide {
        Ok(wide) => wide,
        Err(error) => {
            let why = format!("{CANNOT_ENCODE} Field '{name}': {error}");
            return encode_values(name, rows, nulls, |_| Err::<i64, _>(why.clone()));
        }
    };
    match wide.data_type() {
        DataType::Int64 => encode_values(name, rows, nulls, |row| Ok(wide.as_primitive::<Int64Type>().value(row))),
        DataType::UInt64 => encode_values(name, rows, nulls, |row| Ok(wide.as_primitive::<UInt64Type>().value(row))),
        DataType::Boolean => encode_values(name, rows, nulls, |row| Ok(wide.as_boolean().value(row))),
        DataType::Utf8 => encode_values(name, rows, nulls, |row| Ok(wide.as_string::<i32>().value(row))),
        other => {
            let why = unsupported(name, &format!("of type {other}"));
            encode_values(name, rows, nulls, |_| Err::<i64, _>(why.clone()))
        }
    }
}

fn encode_values<V: Hash + Eq + Copy + Display>(
    name: &str,
    rows: usize,
    nulls: Option<&NullBuffer>,
    value: impl Fn(usize) -> Result<V, String>,
) -> Coded {
    let print = |value: Option<V>| match value {
        Some(value) => format!("{name}={value}"),
        None => format!("{name}=null"),
    };
    let mut coder = Coder::new(rows);
    for row in 0..rows {
        if nulls.is_some_and(|nulls| nulls.is_null(row)) {
            coder.push(None, print);
            continue;
        }
        match value(row) {
            Ok(value) => coder.push(Some(value), print),
            Err(why) => coder.refuse(row, why),
        }
    }
    coder.coded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{schemaless, settings, typed};
    use arrow::array::{
        ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int8Array, Int32Array, Int64Array, NullArray,
        StringArray, StringViewArray, UInt64Array,
    };
    use arrow::datatypes::{Field, Int8Type};

    /// The path of each row, or why it has none.
    fn paths(fields: &str, batch: &Batch) -> Vec<Result<String, String>> {
        let pairs = [("partitioner.class", "field"), ("partition.field.name", fields)];
        let placed = (PLUGIN.build)(&settings(&pairs)).unwrap().split(batch, 0);
        let mut reasons: BTreeMap<_, _> = placed.rejected.iter().map(|one| (one.row, one.to_string())).collect();
        (0..batch.len())
            .map(|row| match reasons.remove(&row) {
                Some(reason) => Err(reason),
                None => Ok(placed.path(row).to_string()),
            })
            .collect()
    }

    fn ok(paths: &[&str]) -> Vec<Result<String, String>> {
        paths.iter().map(|path| Ok((*path).to_owned())).collect()
    }

    fn upstream_record() -> Batch {
        let inner: ArrayRef = Arc::new(Int32Array::from(vec![16, 17, 18]));
        let outer = StructArray::new(
            vec![Field::new("inner", DataType::Int32, true)].into(),
            vec![inner.clone()],
            Some(NullBuffer::from(vec![true, false, true])),
        );
        typed(
            vec![
                ("int", inner),
                ("boolean", Arc::new(BooleanArray::from(vec![true, false, true]))),
                ("string", Arc::new(StringArray::from(vec![Some("a"), Some(""), None]))),
                ("double", Arc::new(Float64Array::from(vec![Some(1.0), None, Some(2.0)]))),
                ("outer", Arc::new(outer)),
            ],
            &[0, 0, 0],
        )
    }

    #[test]
    fn upstream_s_rows_have_upstream_s_paths() {
        for (fields, expected) in [
            ("int", ["int=16", "int=17", "int=18"]),
            ("int, boolean", ["int=16/boolean=true", "int=17/boolean=false", "int=18/boolean=true"]),
            ("outer.inner", ["outer.inner=16", "outer.inner=null", "outer.inner=18"]),
            ("string", ["string=a", "string=", "string=null"]),
        ] {
            assert_eq!(paths(fields, &upstream_record()), ok(&expected), "{fields}");
        }
    }

    #[test]
    fn columns_of_every_kind_of_integer_and_text_have_a_path() {
        let dictionary: DictionaryArray<Int8Type> = vec!["7", "8"].into_iter().collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int8Array::from(vec![7, 8])),
            Arc::new(Int64Array::from(vec![7, 8])),
            Arc::new(UInt64Array::from(vec![7, 8])),
            Arc::new(StringArray::from(vec!["7", "8"])),
            Arc::new(StringViewArray::from(vec!["7", "8"])),
            Arc::new(dictionary),
        ];
        for column in columns {
            let kind = column.data_type().clone();
            assert_eq!(paths("f", &typed(vec![("f", column)], &[0, 0])), ok(&["f=7", "f=8"]), "{kind}");
        }
        let nothing = typed(vec![("f", Arc::new(NullArray::new(1)))], &[0]);
        assert_eq!(paths("f", &nothing), ok(&["f=null"]));
    }

    #[test]
    fn rows_without_a_path_are_rejected_and_their_neighbours_are_not() {
        let record = upstream_record();
        let result = paths("int,double", &record);
        let why = "test-topic-12@0: Error encoding partition. Field 'double' is of type Float64; a path takes integers, \
                   strings and booleans";
        assert_eq!(result[0], Err(why.to_owned()));
        assert_eq!(result[1], Ok("int=17/double=null".to_owned()));
        assert_eq!(
            paths("absent,int", &record)[2],
            Err("test-topic-12@2: Field 'absent' is not present in the schema.".to_owned())
        );
        assert!(paths("int.deeper", &record)[0].as_ref().is_err_and(|why| why.contains("'int.deeper' is not present")));
        let long = typed(vec![("f", Arc::new(StringArray::from(vec!["x".repeat(2000), "y".to_owned()])))], &[0, 0]);
        let result = paths("f", &long);
        assert!(result[0].as_ref().is_err_and(|why| why.contains("longer than the 1024 that stores take")));
        assert_eq!(result[1], Ok("f=y".to_owned()));
    }

    #[test]
    fn a_tombstone_has_no_path() {
        let mut batch = upstream_record();
        if let Values::Typed(columns) = &batch.values {
            let (fields, arrays, _) = columns.clone().into_parts();
            batch.values = Values::Typed(StructArray::new(fields, arrays, Some(vec![true, false, true].into())));
        }
        let result = paths("int", &batch);
        assert!(result[1].as_ref().is_err_and(|why| why.contains("Error encoding partition.")));
        assert_eq!((&result[0], &result[2]), (&Ok("int=16".to_owned()), &Ok("int=18".to_owned())));
    }

    #[test]
    fn plain_json_has_the_same_paths() {
        let batch = schemaless(&[
            Some(r#"{"a":1,"o":{"b":"x"}}"#),
            Some(r#"{"a":-5,"o":{"b":true}}"#),
            Some(r#"{"a":18446744073709551615,"o":null}"#),
            Some(r#"{"a":1.5,"o":{"b":"x"}}"#),
            Some(r#"{"a":1}"#),
            Some(r#"{"a":[1],"o":{"b":"x"}}"#),
            Some("3"),
            Some("{"),
            None,
        ]);
        let result = paths("a,o.b", &batch);
        assert_eq!(result[..3], ok(&["a=1/o.b=x", "a=-5/o.b=true", "a=18446744073709551615/o.b=null"]));
        for (row, why) in [
            (3, "Field 'a' is a number with a fraction"),
            (4, "Field 'o.b' is not present"),
            (5, "Field 'a' is an array"),
            (6, "The value is no JSON object"),
            (7, "The value is no JSON"),
            (8, "The record has no value"),
        ] {
            assert!(result[row].as_ref().is_err_and(|text| text.contains(why)), "{:?}", result[row]);
        }
    }

    #[test]
    fn values_cannot_leave_the_directory() {
        let batch = typed(vec![("f", Arc::new(StringArray::from(vec!["../../etc", "a/b", "a//b"])))], &[0, 0, 0]);
        assert_eq!(paths("f", &batch), ok(&["f=../%2E%2E/etc", "f=a/b", "f=a%2F/b"]));
    }

    #[test]
    fn repeated_values_share_one_path() {
        let batch = typed(vec![("f", Arc::new(Int64Array::from(vec![1, 2, 1, 2, 1])))], &[0; 5]);
        let mut partitioner = FieldPartitioner::new(&settings(&[("partition.field.name", "f")])).unwrap();
        let expected =
            super::super::Split::Many { paths: vec!["f=1".into(), "f=2".into()], of_row: vec![0, 1, 0, 1, 0] };
        assert_eq!(partitioner.split(&batch, 0).split, expected);
    }

    #[test]
    fn bad_field_names_are_refused_with_upstream_s_texts() {
        let empty = "Partition field name cannot be null or empty when using FieldPartitioner.";
        let segment = "Field name cannot contain an empty or whitespace-only path segment";
        for (fields, message) in [("", empty), (" ", empty), ("a..b", segment), ("a,,b", segment), ("a,b.", segment)] {
            let problems = (PLUGIN.check)(&settings(&[("partition.field.name", fields)]));
            assert_eq!(problems, [Invalid::new("partition.field.name", message)], "{fields:?}");
        }
    }
}
