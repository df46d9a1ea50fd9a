//! Parquet files of a table: without the columns that paths tell, with times in the unit that tables have, and with
//! statistics.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float32Type, Float64Type, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use model::{ValueSchema, Values};

use crate::format::{Encoder, FileFooter, Format, LabelPlace, refusal_of_encoder};
use crate::label::LabelRead;
use crate::parquet_format::{ParquetEncoder, ParquetFormat};
use crate::statistics::FileStatistics;

/// The files of a table.
pub struct TableFormat {
    parquet: ParquetFormat,
    /// Columns whose values stand in the paths of files and not in them.
    in_paths: Arc<[String]>,
    table: Option<Arc<dyn TableOfFiles>>,
}

/// What a table says of rows before they are files of it, by their columns, with times as tables have them.
pub trait TableOfFiles: Send + Sync {
    /// Why such rows cannot be in it as it is now; `None` when they can.
    fn refusal(&self, schema: &Schema) -> Option<String>;

    /// The columns of a file of such rows: those of narrower types become the table's.
    fn file_columns(&self, schema: &SchemaRef) -> SchemaRef;
}

impl fmt::Debug for TableFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TableFormat({:?}, {:?} in paths)", self.parquet, self.in_paths)
    }
}

impl TableFormat {
    /// Files like those of `parquet`, without the columns `in_paths`.
    pub fn new(parquet: ParquetFormat, in_paths: impl IntoIterator<Item = String>) -> TableFormat {
        TableFormat { parquet, in_paths: in_paths.into_iter().collect(), table: None }
    }

    /// The same, for `table`: what it refuses is refused before it is appended, and files have the types of its columns.
    pub fn of(self, table: Arc<dyn TableOfFiles>) -> TableFormat {
        TableFormat { table: Some(table), ..self }
    }
}

impl Format for TableFormat {
    fn extension(&self) -> &str {
        self.parquet.extension()
    }

    fn needs_columns(&self) -> bool {
        true
    }

    fn label_place(&self) -> LabelPlace {
        self.parquet.label_place()
    }

    fn open(&self, schema: &SchemaRef, _: Option<&ValueSchema>, _: &FileFooter) -> Result<Box<dyn Encoder>, String> {
        let mut columns = Arc::new(table_schema(schema));
        if let Some(table) = &self.table {
            columns = table.file_columns(&columns);
        }
        let kept = columns.fields().iter().filter(|field| !self.in_paths.contains(field.name()));
        let fields: Fields = kept.cloned().collect();
        if fields.is_empty() {
            return Err("no column is left for the file: all of them stand in its path".to_owned());
        }
        let parquet = self.parquet.encoder(&Arc::new(Schema::new(fields.clone())))?;
        Ok(Box::new(TableEncoder { parquet, nan: NanLeaves::new(&fields), fields, columns }))
    }

    fn refusal(&self, values: &Values, value_schema: Option<&ValueSchema>) -> Option<String> {
        if let (Values::Typed(rows), Some(table)) = (values, &self.table)
            && let Some(reason) = table.refusal(&table_schema(&Schema::new(rows.fields().clone())))
        {
            return Some(reason);
        }
        refusal_of_encoder(values, |schema| self.open(schema, value_schema, &FileFooter::default()))
    }

    fn read_label(&self, piece: &Bytes, file_bytes: u64) -> LabelRead {
        self.parquet.read_label(piece, file_bytes)
    }
}

/// The field as tables have it: timestamps count microseconds.
fn in_table(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(type_in_table(field.data_type())))
}

fn type_in_table(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(in_table).collect()),
        DataType::List(element) => DataType::List(in_table(element)),
        DataType::Map(entries, sorted) => DataType::Map(in_table(entries), *sorted),
        other => other.clone(),
    }
}

/// The same rows with the columns `fields`, found by name: what the rows lack is null, what is of a narrower type is
/// widened. The error names the column that cannot be had.
pub(crate) fn with_columns(rows: &StructArray, fields: &Fields) -> Result<StructArray, String> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(fields.len());
    let mut next = 0;
    for field in fields {
        // They mostly come in the same order.
        let found = (next..rows.fields().len()).chain(0..next).find(|at| rows.fields()[*at].name() == field.name());
        columns.push(match found {
            Some(at) => {
                next = at + 1;
                as_type(rows.column(at), field.data_type()).map_err(|why| format!("column {}: {why}", field.name()))?
            }
            None => new_null_array(field.data_type(), rows.len()),
        });
    }
    StructArray::try_new_with_length(fields.clone(), columns, rows.nulls().cloned(), rows.len())
        .map_err(|error| error.to_string())
}

fn as_type(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    match (column.data_type(), to) {
        (from, to) if from == to => Ok(Arc::clone(column)),
        (DataType::Struct(_), DataType::Struct(fields)) => Ok(Arc::new(with_columns(column.as_struct(), fields)?)),
        (DataType::List(_), DataType::List(element)) => {
            let list = column.as_list::<i32>();
            let values = as_type(list.values(), element.data_type())?;
            let list = ListArray::try_new(Arc::clone(element), list.offsets().clone(), values, list.nulls().cloned());
            Ok(Arc::new(list.map_err(|error| error.to_string())?))
        }
        (DataType::Map(_, _), DataType::Map(entries, sorted)) => {
            let map = column.as_map();
            let DataType::Struct(fields) = entries.data_type() else { return Err(format!("{to} is no map")) };
            // Key and value are known by their place.
            let columns = map.entries().columns().iter().zip(fields).map(|(one, to)| as_type(one, to.data_type()));
            let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
            let rows = StructArray::try_new(fields.clone(), columns, None).map_err(|error| error.to_string())?;
            let map =
                MapArray::try_new(Arc::clone(entries), map.offsets().clone(), rows, map.nulls().cloned(), *sorted);
            Ok(Arc::new(map.map_err(|error| error.to_string())?))
        }
        (_, to) => cast(column, to).map_err(|error| error.to_string()),
    }
}

struct TableEncoder {
    parquet: ParquetEncoder,
    /// The columns of the file.
    fields: Fields,
    /// The same, and those that stand in its path.
    columns: SchemaRef,
    nan: NanLeaves,
}

impl TableEncoder {
    fn fit(&mut self, rows: &StructArray) -> Result<StructArray, String> {
        let rows = with_columns(rows, &self.fields)?;
        self.nan.look(rows.columns());
        Ok(rows)
    }
}

impl Encoder for TableEncoder {
    fn write(&mut self, rows: &[Values]) -> Result<(), String> {
        let mut fitted = Vec::with_capacity(rows.len());
        for values in rows {
            match values {
                Values::Typed(rows) => fitted.push(Values::Typed(self.fit(rows)?)),
                Values::Schemaless(_) => return Err("a table needs columns, these values have no schema".to_owned()),
            }
        }
        self.parquet.write(&fitted)
    }

    fn end_group(&mut self) -> Result<(), String> {
        self.parquet.end_group()
    }

    fn held_bytes(&self) -> usize {
        self.parquet.held_bytes()
    }

    fn take(&mut self) -> Result<Bytes, String> {
        self.parquet.take()
    }

    fn finish(&mut self, footer: &FileFooter) -> Result<Bytes, String> {
        self.parquet.finish(footer)
    }

    fn columns(&self) -> Option<&SchemaRef> {
        Some(&self.columns)
    }

    fn statistics(&self) -> Option<FileStatistics> {
        Some(FileStatistics::of_parquet(self.parquet.metadata()?, &|leaf| self.nan.is_in(leaf)))
    }
}

/// Which columns of floating point numbers have a not-a-number. Leaves are counted as in a Parquet file.
struct NanLeaves {
    /// Number of the first leaf of each column.
    first: Vec<usize>,
    found: Vec<bool>,
}

impl NanLeaves {
    fn new(fields: &Fields) -> NanLeaves {
        let mut first = Vec::with_capacity(fields.len());
        let mut leaves = 0;
        for field in fields {
            first.push(leaves);
            leaves += leaves_of(field.data_type());
        }
        NanLeaves { first, found: vec![false; leaves] }
    }

    fn is_in(&self, leaf: usize) -> bool {
        self.found.get(leaf).copied().unwrap_or(true)
    }

    fn look(&mut self, columns: &[ArrayRef]) {
        for (first, column) in self.first.iter().zip(columns) {
            look_into(column, *first, &mut self.found);
        }
    }
}

fn leaves_of(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|field| leaves_of(field.data_type())).sum(),
        DataType::List(element) => leaves_of(element.data_type()),
        DataType::Map(entries, _) => leaves_of(entries.data_type()),
        _ => 1,
    }
}

/// Values under a null are looked at too: a bound that is missing without need does no harm.
fn look_into(column: &ArrayRef, first: usize, found: &mut [bool]) {
    match column.data_type() {
        DataType::Float32 => {
            found[first] |= column.as_primitive::<Float32Type>().values().iter().any(|value| value.is_nan());
        }
        DataType::Float64 => {
            found[first] |= column.as_primitive::<Float64Type>().values().iter().any(|value| value.is_nan());
        }
        DataType::Struct(fields) => {
            let mut leaf = first;
            for (field, column) in fields.iter().zip(column.as_struct().columns()) {
                look_into(column, leaf, found);
                leaf += leaves_of(field.data_type());
            }
        }
        // Lists and maps have no bounds.
        _ => {}
    }
}

/// Rows with `schema` as tables have them: timestamps count microseconds.
pub fn table_schema(schema: &Schema) -> Schema {
    let fields: Vec<Field> = schema.fields().iter().map(|field| in_table(field).as_ref().clone()).collect();
    Schema::new(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{nested_rows, read_parquet};
    use crate::statistics::{Bound, ColumnStatistics};
    use arrow::array::{Decimal128Array, Float64Array, Int32Array, StringArray, TimestampMillisecondArray};

    fn file(rows: &[StructArray], in_paths: &[&str]) -> (Bytes, FileStatistics) {
        let format =
            TableFormat::new(ParquetFormat::new("snappy").unwrap(), in_paths.iter().map(|name| (*name).into()));
        let schema = Arc::new(Schema::new(rows[0].fields().clone()));
        let mut encoder = format.open(&schema, None, &FileFooter::default()).unwrap();
        for rows in rows {
            encoder.write(&[Values::Typed(rows.clone())]).unwrap();
            encoder.end_group().unwrap();
        }
        let mut bytes = encoder.take().unwrap().to_vec();
        bytes.extend(encoder.finish(&FileFooter::default()).unwrap());
        (bytes.into(), encoder.statistics().unwrap())
    }

    fn rows(columns: Vec<(&str, ArrayRef)>) -> StructArray {
        let fields: Fields =
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        StructArray::new(fields, columns.into_iter().map(|(_, array)| array).collect(), None)
    }

    fn column<'a>(statistics: &'a FileStatistics, path: &[&str]) -> &'a ColumnStatistics {
        statistics.columns.iter().find(|column| column.path == path).unwrap()
    }

    #[test]
    fn files_lack_the_columns_of_their_path_and_count_microseconds() {
        let (bytes, statistics) = file(&[nested_rows(0, 30), nested_rows(30, 10)], &["flag"]);
        let read = read_parquet(bytes);
        let names: Vec<&String> = read.fields().iter().map(|field| field.name()).collect();
        assert_eq!(names, ["id", "text", "time", "outputs"]);
        assert_eq!(read.len(), 40);
        assert_eq!(statistics.rows, 40);
        let id = column(&statistics, &["id"]);
        assert_eq!((id.nulls, &id.min, &id.max), (Some(0), &Some(Bound::Integer(0)), &Some(Bound::Integer(39))));
        let time = |n: i64| Some(Bound::Timestamp { micros: (1_700_000_000_000 + n) * 1_000, utc: true });
        assert_eq!((&column(&statistics, &["time"]).min, &column(&statistics, &["time"]).max), (&time(0), &time(39)));
        assert_eq!(column(&statistics, &["text"]).nulls, Some(8));
        assert!(statistics.columns.iter().all(|column| !column.path.contains(&"scores".to_owned())), "lists have none");
        // A null struct is a null of each of its fields.
        let label = column(&statistics, &["outputs", "label"]);
        let missing = (0..40).filter(|n| n % 11 == 0 || n % 3 == 0).count();
        assert_eq!(label.nulls, u64::try_from(missing).ok());
    }

    #[test]
    fn not_a_number_hides_the_greatest_value_and_nothing_else() {
        let nan: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), Some(f64::NAN), None, Some(-2.0)]));
        let plain: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), Some(7.0), None, Some(-2.0)]));
        let inner: ArrayRef = Arc::new(rows(vec![("x", plain.clone()), ("y", nan.clone())]));
        let (_, statistics) = file(&[rows(vec![("a", nan), ("s", inner), ("b", plain)])], &[]);
        for (path, max) in [(&["a"][..], None), (&["s", "x"], Some(7.0)), (&["s", "y"], None), (&["b"], Some(7.0))] {
            let column = column(&statistics, path);
            assert_eq!(
                (&column.min, &column.max, column.nulls),
                (&Some(Bound::Double(-2.0)), &max.map(Bound::Double), Some(1)),
                "{path:?}"
            );
        }
    }

    #[test]
    fn bounds_of_all_kinds_come_from_the_footer_over_row_groups() {
        let group = |numbers: [i32; 2], texts: [Option<&str>; 2]| {
            let decimals = |precision| {
                let values = Decimal128Array::from_iter_values(numbers.map(i128::from));
                Arc::new(values.with_precision_and_scale(precision, 2).unwrap()) as ArrayRef
            };
            let times = TimestampMillisecondArray::from_iter_values(numbers.map(i64::from));
            rows(vec![
                ("i", Arc::new(Int32Array::from(numbers.to_vec()))),
                ("t", Arc::new(StringArray::from(texts.to_vec()))),
                ("d", Arc::new(cast(&Int32Array::from(numbers.to_vec()), &DataType::Date32).unwrap())),
                ("d9", decimals(9)),
                ("d18", decimals(18)),
                ("d38", decimals(38)),
                ("n", Arc::new(times)),
            ])
        };
        let (_, statistics) = file(&[group([3, -5], [None, None]), group([9, 0], [Some("b"), Some("ä")])], &[]);
        let decimal = |unscaled| Bound::Decimal { unscaled, scale: 2 };
        let local = |millis: i64| Bound::Timestamp { micros: millis * 1_000, utc: false };
        for (name, min, max) in [
            ("i", Bound::Integer(-5), Bound::Integer(9)),
            ("t", Bound::Text("b".into()), Bound::Text("ä".into())),
            ("d", Bound::Date(-5), Bound::Date(9)),
            ("d9", decimal(-5), decimal(9)),
            ("d18", decimal(-5), decimal(9)),
            ("d38", decimal(-5), decimal(9)),
            ("n", local(-5), local(9)),
        ] {
            let column = column(&statistics, &[name]);
            assert_eq!((&column.min, &column.max), (&Some(min), &Some(max)), "{name}");
        }
        assert_eq!(column(&statistics, &["t"]).nulls, Some(2), "a group of nulls alone hides no bound");
    }
}
