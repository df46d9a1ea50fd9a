//! Brings columns of an older schema version to a newer one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, MapArray, StructArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields};

use crate::merge::{Conflict, position};
use crate::table_schema::{TableSchema, type_name};

/// The same rows under `to`, a schema that grew out of the one of `rows`: new fields are null, INT64 becomes DOUBLE,
/// columns that are equal are shared. The conflict if `to` lacks a field or has it with another type.
///
/// The rows are those that reading their text again with `to` gives, but for one case: an empty list or object in a field
/// that the older schema did not have is null here.
pub fn project(rows: &StructArray, to: &TableSchema) -> Result<StructArray, Conflict> {
    if rows.fields() == to.fields() {
        return Ok(rows.clone());
    }
    project_struct(rows, to.fields(), "")
}

fn project_struct(rows: &StructArray, to: &Fields, path: &str) -> Result<StructArray, Conflict> {
    for field in rows.fields() {
        if position(to, field.name(), 0).is_none() {
            let path = join(path, field.name());
            return Err(Conflict { path, left: type_name(field.data_type()), right: "missing".to_owned() });
        }
    }
    let mut expected = 0;
    let columns = to.iter().map(|field| match position(rows.fields(), field.name(), expected) {
        Some(index) => {
            expected = index + 1;
            project_column(rows.column(index), field, &join(path, field.name()))
        }
        None => Ok(new_null_array(field.data_type(), rows.len())),
    });
    let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
    StructArray::try_new_with_length(to.clone(), columns, rows.nulls().cloned(), rows.len())
        .map_err(|error| conflict_of(path, rows.data_type(), &error.to_string()))
}

fn project_column(column: &ArrayRef, to: &Field, path: &str) -> Result<ArrayRef, Conflict> {
    let conflict = || conflict_of(path, column.data_type(), &type_name(to.data_type()));
    match (column.data_type(), to.data_type()) {
        (from, to) if from == to => Ok(column.clone()),
        (DataType::Int64, DataType::Float64) => cast(column, &DataType::Float64).map_err(|_| conflict()),
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let rows = column.as_any().downcast_ref::<StructArray>().expect("a struct type is a StructArray");
            Ok(Arc::new(project_struct(rows, fields, path)?))
        }
        (DataType::List(_), DataType::List(element)) => {
            let list = column.as_any().downcast_ref::<ListArray>().expect("a list type is a ListArray");
            let values = project_column(list.values(), element, path)?;
            let list = ListArray::try_new(element.clone(), list.offsets().clone(), values, list.nulls().cloned());
            Ok(Arc::new(list.map_err(|_| conflict())?))
        }
        (DataType::Map(_, _), DataType::Map(entries, ordered)) => {
            let map = column.as_any().downcast_ref::<MapArray>().expect("a map type is a MapArray");
            let DataType::Struct(fields) = entries.data_type() else {
                return Err(conflict());
            };
            let rows = project_struct(map.entries(), fields, path)?;
            let map = MapArray::try_new(entries.clone(), map.offsets().clone(), rows, map.nulls().cloned(), *ordered);
            Ok(Arc::new(map.map_err(|_| conflict())?))
        }
        _ => Err(conflict()),
    }
}

fn conflict_of(path: &str, from: &DataType, to: &str) -> Conflict {
    Conflict { path: path.to_owned(), left: type_name(from), right: to.to_owned() }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use arrow::array::BinaryArray;

    use super::*;
    use crate::{JsonColumns, Unknown};

    fn schema(ddl: &str) -> TableSchema {
        crate::given::parse(ddl).unwrap()
    }

    fn read(schema: &TableSchema, records: &[&str]) -> StructArray {
        let texts = BinaryArray::from_iter_values(records.iter().map(|record| record.as_bytes()));
        JsonColumns::new(schema, Unknown::Ignore).read(&texts).columns
    }

    #[test]
    fn projection_equals_reading_with_the_newer_schema() {
        let records = [r#"{"a":1,"s":{"x":2},"l":[{"p":1},null],"m":{"k":3}}"#, "null", r#"{"s":null,"l":[]}"#, "{}"];
        let old = schema("a BIGINT, s STRUCT<x: BIGINT>, l ARRAY<STRUCT<p: BIGINT>>, m MAP<STRING, BIGINT>");
        let new = schema(
            "z STRING, a DOUBLE, s STRUCT<x: DOUBLE, y: STRING>, l ARRAY<STRUCT<p: DOUBLE, q: BOOLEAN>>, \
             m MAP<STRING, DOUBLE>, n STRUCT<o: BIGINT>",
        );
        assert_eq!(project(&read(&old, &records), &new), Ok(read(&new, &records)));
        assert_eq!(project(&read(&old, &records), &old), Ok(read(&old, &records)));
    }

    #[test]
    fn what_would_lose_something_is_refused() {
        for (old, new, expected) in [
            ("a BIGINT", "b BIGINT", "field a is INT64 in the schema and missing in the other"),
            ("a BIGINT", "a STRING", "field a is INT64 in the schema and STRING in the other"),
            ("s STRUCT<x: DOUBLE>", "s STRUCT<x: BIGINT>", "field s.x is DOUBLE in the schema and INT64 in the other"),
        ] {
            let error = project(&read(&schema(old), &["{}"]), &schema(new)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
