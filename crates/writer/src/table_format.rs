//! Parquet files of a table: without the columns that paths tell, with times in the unit that tables have, and with
//! statistics.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
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
    refusal: Option<Arc<RefusalOfTable>>,
}

/// What a table has against rows with these columns, as it would have them; `None` when it takes them.
pub type RefusalOfTable = dyn Fn(&Schema) -> Option<String> + Send + Sync;

impl fmt::Debug for TableFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TableFormat({:?}, {:?} in paths)", self.parquet, self.in_paths)
    }
}

impl TableFormat {
    /// Files like those of `parquet`, without the columns `in_paths`.
    pub fn new(parquet: ParquetFormat, in_paths: impl IntoIterator<Item = String>) -> TableFormat {
        TableFormat { parquet, in_paths: in_paths.into_iter().collect(), refusal: None }
    }

    /// The same; rows whose columns the table refuses are refused before they are appended.
    pub fn refusing(self, refusal: Arc<RefusalOfTable>) -> TableFormat {
        TableFormat { refusal: Some(refusal), ..self }
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
        let kept: Vec<usize> =
            (0..schema.fields().len()).filter(|column| !self.in_paths.contains(schema.field(*column).name())).collect();
        let fields: Fields = kept.iter().map(|column| in_table(&schema.fields()[*column])).collect();
        if fields.is_empty() {
            return Err("no column is left for the file: all of them stand in its path".to_owned());
        }
        let parquet = self.parquet.encoder(&Arc::new(Schema::new(fields.clone())))?;
        Ok(Box::new(TableEncoder { parquet, kept, nan: NanLeaves::new(&fields), fields }))
    }

    fn refusal(&self, values: &Values, value_schema: Option<&ValueSchema>) -> Option<String> {
        if let (Values::Typed(rows), Some(refusal)) = (values, &self.refusal)
            && let Some(reason) = refusal(&table_schema(&Schema::new(rows.fields().clone())))
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

struct TableEncoder {
    parquet: ParquetEncoder,
    /// The columns of rows that go into the file, and what they become.
    kept: Vec<usize>,
    fields: Fields,
    nan: NanLeaves,
}

impl TableEncoder {
    fn fit(&mut self, rows: &StructArray) -> Result<StructArray, String> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.kept.len());
        for (column, field) in self.kept.iter().zip(&self.fields) {
            let column = rows.columns().get(*column).ok_or("the rows lack a column of their schema")?;
            columns.push(match column.data_type() == field.data_type() {
                true => Arc::clone(column),
                false => cast(column, field.data_type()).map_err(|error| error.to_string())?,
            });
        }
        self.nan.look(&columns);
        Ok(StructArray::new(self.fields.clone(), columns, rows.nulls().cloned()))
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

/// The schema of the files of rows with `schema`, all columns kept: how a table has them.
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
