//! Brings columns of one schema to another.

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
    Rule::Growth.project(rows, to)
}

/// The rows under `to`, as `org.apache.kafka.connect.storage`'s SchemaProjector has them: fields that `to` lacks are
/// dropped, optional ones that the rows lack are null, and numbers are widened (INT8 to INT16 to INT32 to INT64 to FLOAT32
/// to FLOAT64). The conflict if a type cannot be promoted, or a required field is missing or null; defaults of schemas are
/// not known here.
pub fn project_compatibly(rows: &StructArray, to: &TableSchema) -> Result<StructArray, Conflict> {
    Rule::Projector.project(rows, to)
}

/// What may differ between the two schemas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// [`project`].
    Growth,
    /// [`project_compatibly`].
    Projector,
}

/// Numeric types, each of which may become any later one.
const WIDENING: [DataType; 6] =
    [DataType::Int8, DataType::Int16, DataType::Int32, DataType::Int64, DataType::Float32, DataType::Float64];

impl Rule {
    fn project(self, rows: &StructArray, to: &TableSchema) -> Result<StructArray, Conflict> {
        if rows.fields() == to.fields() {
            return Ok(rows.clone());
        }
        self.project_struct(rows, to.fields(), "")
    }

    fn widens(self, from: &DataType, to: &DataType) -> bool {
        match self {
            Rule::Growth => (from, to) == (&DataType::Int64, &DataType::Float64),
            Rule::Projector => {
                let rank = |data_type: &DataType| WIDENING.iter().position(|known| known == data_type);
                rank(from).zip(rank(to)).is_some_and(|(from, to)| from < to)
            }
        }
    }

    fn project_struct(self, rows: &StructArray, to: &Fields, path: &str) -> Result<StructArray, Conflict> {
        for field in rows.fields().iter().filter(|_| self == Rule::Growth) {
            if position(to, field.name(), 0).is_none() {
                let path = join(path, field.name());
                return Err(Conflict { path, left: type_name(field.data_type()), right: "missing".to_owned() });
            }
        }
        let mut expected = 0;
        let columns = to.iter().map(|field| match position(rows.fields(), field.name(), expected) {
            Some(index) => {
                expected = index + 1;
                self.project_column(rows.column(index), field, &join(path, field.name()))
            }
            None => Ok(new_null_array(field.data_type(), rows.len())),
        });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
        StructArray::try_new_with_length(to.clone(), columns, rows.nulls().cloned(), rows.len())
            .map_err(|error| conflict_of(path, rows.data_type(), &error.to_string()))
    }

    fn project_column(self, column: &ArrayRef, to: &Field, path: &str) -> Result<ArrayRef, Conflict> {
        let conflict = || conflict_of(path, column.data_type(), &type_name(to.data_type()));
        match (column.data_type(), to.data_type()) {
            (from, to) if from == to => Ok(column.clone()),
            (from, to) if self.widens(from, to) => cast(column, to).map_err(|_| conflict()),
            (DataType::Struct(_), DataType::Struct(fields)) => {
                let rows = column.as_any().downcast_ref::<StructArray>().expect("a struct type is a StructArray");
                Ok(Arc::new(self.project_struct(rows, fields, path)?))
            }
            (DataType::List(_), DataType::List(element)) => {
                let list = column.as_any().downcast_ref::<ListArray>().expect("a list type is a ListArray");
                let values = self.project_column(list.values(), element, path)?;
                let list = ListArray::try_new(element.clone(), list.offsets().clone(), values, list.nulls().cloned());
                Ok(Arc::new(list.map_err(|_| conflict())?))
            }
            (DataType::Map(_, _), DataType::Map(entries, ordered)) => {
                let map = column.as_any().downcast_ref::<MapArray>().expect("a map type is a MapArray");
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err(conflict());
                };
                let rows = self.project_struct(map.entries(), fields, path)?;
                let offsets = map.offsets().clone();
                let map = MapArray::try_new(entries.clone(), offsets, rows, map.nulls().cloned(), *ordered);
                Ok(Arc::new(map.map_err(|_| conflict())?))
            }
            _ => Err(conflict()),
        }
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
    fn compatible_projection_drops_widens_and_fills_in_and_refuses_what_the_projector_refuses() {
        let rows = read(
            &schema("a INT, s STRUCT<x: INT, y: STRING>, gone STRING"),
            &[r#"{"a":1,"s":{"x":2,"y":"y"},"gone":"g"}"#],
        );
        let to = schema("new STRING, a DOUBLE, s STRUCT<x: BIGINT>");
        let same = read(&to, &[r#"{"a":1,"s":{"x":2}}"#]);
        assert_eq!(project_compatibly(&rows, &to), Ok(same));
        for (to, why) in [
            ("a STRING", "field a is INTEGER in the schema and STRING in the other"),
            ("a SMALLINT", "field a is INTEGER in the schema and SMALLINT in the other"),
            ("a INT, s STRUCT<x: STRING>", "field s.x is INTEGER in the schema and STRING in the other"),
        ] {
            assert_eq!(project_compatibly(&rows, &schema(to)).unwrap_err().to_string(), why);
        }
        assert!(project_compatibly(&rows, &schema("a INT, missing STRING NOT NULL")).is_err());
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
