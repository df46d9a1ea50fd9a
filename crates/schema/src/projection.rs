//! Brings records to the schema of another version (Kafka Connect's `SchemaProjector`).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, UInt64Array, new_null_array};
use arrow::compute::{cast, concat, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use model::ConnectMarks;

use crate::table_schema::{map_fields, type_name};
use crate::{JsonColumns, TableSchema};

/// The way from one schema to another, worked out once.
#[derive(Debug)]
pub struct Projection {
    fields: Fields,
    sources: Vec<Source>,
}

/// Where a field of the target comes from.
#[derive(Debug)]
enum Source {
    Column {
        index: usize,
        way: Way,
    },
    /// Its default, in one row.
    Default(ArrayRef),
    Null,
}

/// What becomes of a column.
#[derive(Debug)]
struct Way {
    step: Step,
    /// What nulls become, in one row, where the target has none.
    fill: Option<ArrayRef>,
}

#[derive(Debug)]
enum Step {
    Same,
    Promoted(DataType),
    Struct(Projection),
    List(FieldRef, Box<Way>),
    Map { entries: FieldRef, key: Box<Way>, value: Box<Way> },
}

impl Projection {
    /// The way from records with the columns `from` to the columns `to`; the error names a field that has none.
    pub fn new(from: &Fields, to: &Fields) -> Result<Projection, String> {
        let source = |field: &FieldRef| {
            let known = from.iter().position(|known| known.name() == field.name());
            source(known.map(|index| (index, &*from[index])), field)
                .map_err(|why| format!("Error projecting {}: {why}", field.name()))
        };
        Ok(Projection { fields: to.clone(), sources: to.iter().map(source).collect::<Result<_, _>>()? })
    }

    /// The same rows under the target's schema. `rows` have the columns that the projection was made for.
    pub fn apply(&self, rows: &StructArray) -> Result<StructArray, String> {
        let columns = self.sources.iter().zip(&self.fields).map(|(source, field)| match source {
            Source::Column { index, way } => way.apply(rows.column(*index)),
            Source::Default(row) => repeated(row, rows.len()),
            Source::Null => Ok(new_null_array(field.data_type(), rows.len())),
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        StructArray::try_new_with_length(self.fields.clone(), columns, rows.nulls().cloned(), rows.len())
            .map_err(|error| error.to_string())
    }
}

fn source(from: Option<(usize, &Field)>, to: &Field) -> Result<Source, String> {
    match (from, default_row(to)?, to.is_nullable()) {
        (Some((index, from)), _, _) => Ok(Source::Column { index, way: Way::new(from, to)? }),
        (None, Some(row), _) => Ok(Source::Default(row)),
        (None, None, true) => Ok(Source::Null),
        (None, None, false) => Err("it is required, and missing from the source schema".to_owned()),
    }
}

impl Way {
    fn new(from: &Field, to: &Field) -> Result<Way, String> {
        let fill = match from.is_nullable() && !to.is_nullable() {
            true => Some(default_row(to)?.ok_or_else(|| {
                "Writer schema is optional, however, target schema does not provide a default value.".to_owned()
            })?),
            false => None,
        };
        Ok(Way { step: Step::new(from.data_type(), to.data_type())?, fill })
    }

    fn apply(&self, column: &ArrayRef) -> Result<ArrayRef, String> {
        let column = self.step.apply(column)?;
        match &self.fill {
            Some(row) => filled(&column, row),
            None => Ok(column),
        }
    }
}

impl Step {
    fn new(from: &DataType, to: &DataType) -> Result<Step, String> {
        Ok(match (from, to) {
            (from, to) if from == to => Step::Same,
            (DataType::Struct(from), DataType::Struct(to)) => Step::Struct(Projection::new(from, to)?),
            (DataType::List(from), DataType::List(to)) => Step::List(to.clone(), Box::new(Way::new(from, to)?)),
            (DataType::Map(from, _), DataType::Map(to, _)) => {
                let ((key, value), (to_key, to_value)) = (map_fields(from), map_fields(to));
                let (key, value) = (Box::new(Way::new(key, to_key)?), Box::new(Way::new(value, to_value)?));
                Step::Map { entries: to.clone(), key, value }
            }
            (from, to) if is_promoted(from, to) => Step::Promoted(to.clone()),
            (from, to) => {
                return Err(format!(
                    "Schema type mismatch. source type: {} and target type: {}",
                    type_name(from),
                    type_name(to)
                ));
            }
        })
    }

    fn apply(&self, column: &ArrayRef) -> Result<ArrayRef, String> {
        let wrong = |error: arrow::error::ArrowError| error.to_string();
        Ok(match self {
            Step::Same => column.clone(),
            Step::Promoted(to) => cast(column, to).map_err(wrong)?,
            Step::Struct(projection) => Arc::new(projection.apply(column.as_struct())?),
            Step::List(element, way) => {
                let list = column.as_list::<i32>();
                let values = way.apply(list.values())?;
                Arc::new(
                    ListArray::try_new(element.clone(), list.offsets().clone(), values, list.nulls().cloned())
                        .map_err(wrong)?,
                )
            }
            Step::Map { entries, key, value } => {
                let map = column.as_map();
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err("the entries of a map are no struct".to_owned());
                };
                let columns = vec![key.apply(map.keys())?, value.apply(map.values())?];
                let rows = StructArray::try_new(fields.clone(), columns, None).map_err(wrong)?;
                Arc::new(
                    MapArray::try_new(entries.clone(), map.offsets().clone(), rows, map.nulls().cloned(), false)
                        .map_err(wrong)?,
                )
            }
        })
    }
}

/// Whether numbers of `from` are numbers of `to` in Connect's order of promotion.
fn is_promoted(from: &DataType, to: &DataType) -> bool {
    match (crate::compatibility::number_rank(from), crate::compatibility::number_rank(to)) {
        (Some(from), Some(to)) => from < to,
        (_, _) => false,
    }
}

/// The default of a field as a column of one row.
fn default_row(field: &Field) -> Result<Option<ArrayRef>, String> {
    if ConnectMarks::of(field).default.is_none() {
        return Ok(None);
    }
    let fields = Fields::from(vec![field.clone()]);
    let schema = TableSchema::new(&fields).map_err(|error| error.to_string())?;
    let mut columns = JsonColumns::connect(&schema, &fields, false, None, true);
    let read = columns.read_each([Some(&b"{}"[..])].into_iter());
    match read.rejected.into_iter().next() {
        Some((_, why)) => Err(format!("its default does not fit it: {why}")),
        None => Ok(Some(read.columns.column(0).clone())),
    }
}

fn repeated(row: &ArrayRef, rows: usize) -> Result<ArrayRef, String> {
    take(row, &UInt64Array::from(vec![0; rows]), None).map_err(|error| error.to_string())
}

/// `column` with `row` in place of its nulls.
fn filled(column: &ArrayRef, row: &ArrayRef) -> Result<ArrayRef, String> {
    if column.null_count() == 0 {
        return Ok(column.clone());
    }
    let wrong = |error: arrow::error::ArrowError| error.to_string();
    let both = concat(&[column.as_ref(), row.as_ref()]).map_err(wrong)?;
    let last = column.len() as u64;
    let rows = (0..column.len()).map(|row| if column.is_null(row) { last } else { row as u64 });
    take(&both, &rows.collect::<UInt64Array>(), None).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;

    use super::*;
    use crate::connect_schema::tests::record_schema;

    fn fields(fields: &str) -> Fields {
        record_schema(&format!(r#"{{"type":"struct","fields":[{fields}]}}"#)).fields
    }

    /// The only row of `json` under `from`, brought to `to`.
    fn projected(from: &str, json: &str, to: &str) -> Result<String, String> {
        let (from, to) = (fields(from), fields(to));
        let projection = Projection::new(&from, &to)?;
        let schema = TableSchema::new(&from).unwrap();
        let read =
            JsonColumns::connect(&schema, &from, true, None, false).read_each([Some(json.as_bytes())].into_iter());
        assert_eq!(read.rejected, [], "{json}");
        let rows = projection.apply(&read.columns)?;
        assert_eq!(rows.fields(), &to);
        Ok(array_value_to_string(&rows, 0).unwrap())
    }

    /// Upstream's SchemaProjectorTest.
    #[test]
    fn records_are_brought_to_another_schema_as_upstream_has_it() {
        let optional = "Writer schema is optional, however, target schema does not provide a default value.";
        let missing = "it is required, and missing from the source schema";
        let a = |rest: &str| format!(r#"{{"field":"a",{rest}}}"#);
        let (int, flat) = (a(r#""type":"int32""#), r#""type":"struct","fields":[{"field":"f","type":"int32"}]"#);
        let flat_more = flat.replace("}]", r#"},{"field":"g","type":"int32","default":123}]"#);
        let list = |kind: &str, rest: &str| a(&format!(r#""type":"array","items":{{"type":"{kind}"}}{rest}"#));
        let map = |key: &str, value: &str, rest: &str| {
            a(&format!(r#""type":"map","keys":{{"type":"{key}"}},"values":{{"type":"{value}"}}{rest}"#))
        };
        for (from, json, to, expected) in [
            (a(r#""type":"boolean""#), r#"{"a":true}"#, a(r#""type":"boolean","optional":true"#), Ok("{a: true}")),
            (a(r#""type":"string","optional":true"#), r#"{"a":"x"}"#, a(r#""type":"string""#), Err(optional)),
            (a(r#""type":"int8""#), r#"{"a":127}"#, a(r#""type":"float""#), Ok("{a: 127.0}")),
            (a(r#""type":"int64""#), r#"{"a":327890}"#, a(r#""type":"double","optional":true"#), Ok("{a: 327890.0}")),
            (
                a(r#""type":"double""#),
                r#"{"a":1}"#,
                a(r#""type":"int64""#),
                Err("Schema type mismatch. source type: DOUBLE and target type: INT64"),
            ),
            (
                int.clone(),
                r#"{"a":1}"#,
                a(r#""type":"string""#),
                Err("Schema type mismatch. source type: INTEGER and target type: STRING"),
            ),
            (
                a(r#""type":"int8","optional":true"#),
                r#"{"a":null}"#,
                a(r#""type":"int32","default":12789"#),
                Ok("{a: 12789}"),
            ),
            (
                a(r#""type":"int8","optional":true"#),
                r#"{"a":12}"#,
                a(r#""type":"int32","default":12789"#),
                Ok("{a: 12}"),
            ),
            (
                a(r#""type":"int8","optional":true"#),
                r#"{"a":null}"#,
                a(r#""type":"int32","optional":true,"default":7"#),
                Ok("{a: }"),
            ),
            (
                a(r#""type":"bytes","optional":true"#),
                r#"{"a":null}"#,
                a(r#""type":"bytes","default":"AwQ=""#),
                Ok("{a: 0304}"),
            ),
            (String::new(), "{}", a(r#""type":"int64","default":42"#), Ok("{a: 42}")),
            (String::new(), "{}", a(r#""type":"int64","optional":true"#), Ok("{a: }")),
            (String::new(), "{}", a(r#""type":"int64""#), Err(missing)),
            (format!(r#"{int},{{"field":"b","type":"int32"}}"#), r#"{"a":1,"b":2}"#, int.clone(), Ok("{a: 1}")),
            (a(flat), r#"{"a":{"f":113}}"#, a(&flat_more), Ok("{a: {f: 113, g: 123}}")),
            (
                a(&format!(r#"{flat},"optional":true"#)),
                r#"{"a":null}"#,
                a(&format!(r#"{flat},"default":{{"f":12}}"#)),
                Ok("{a: {f: 12}}"),
            ),
            (list("int32", ""), r#"{"a":[1,2]}"#, list("int64", ""), Ok("{a: [1, 2]}")),
            (
                list("int32", r#","optional":true"#),
                r#"{"a":null}"#,
                list("int64", r#","default":[1,2,3]"#),
                Ok("{a: [1, 2, 3]}"),
            ),
            (
                list("int32", ""),
                r#"{"a":[1]}"#,
                list("boolean", ""),
                Err("Schema type mismatch. source type: INTEGER and target type: BOOLEAN"),
            ),
            (map("int32", "int32", ""), r#"{"a":[[3,4]]}"#, map("int64", "float", ""), Ok("{a: {3: 4.0}}")),
            (
                map("string", "int32", r#","optional":true"#),
                r#"{"a":null}"#,
                map("string", "int32", r#","default":{"k":2}"#),
                Ok("{a: {k: 2}}"),
            ),
            (
                map("string", "int32", ""),
                "{\"a\":{}}",
                map("string", "boolean", ""),
                Err("Schema type mismatch. source type: INTEGER and target type: BOOLEAN"),
            ),
        ] {
            let expected = expected.map(str::to_owned).map_err(|why| format!("Error projecting a: {why}"));
            assert_eq!(projected(&from, json, &to), expected, "{from} -> {to}");
        }
    }

    #[test]
    fn decimals_and_times_stay_what_they_are() {
        let logical = |kind: &str, name: &str| {
            format!(
                r#"{{"field":"a","type":"{kind}","name":"org.apache.kafka.connect.data.{name}","parameters":{{"scale":"2"}}}}"#
            )
        };
        let types = [
            ("int32", "Date", "1000"),
            ("int32", "Time", "231"),
            ("int64", "Timestamp", "34567"),
            ("bytes", "Decimal", "\"AJw=\""),
        ];
        for (kind, name, value) in types {
            let same = projected(&logical(kind, name), &format!(r#"{{"a":{value}}}"#), &logical(kind, name));
            assert!(same.is_ok(), "{same:?}");
            let (from, to) = (fields(&logical(kind, name)), fields(r#"{"field":"a","type":"boolean"}"#));
            assert!(Projection::new(&from, &to).is_err() && Projection::new(&to, &from).is_err());
        }
    }
}
