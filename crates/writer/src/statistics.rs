//! What a finished file tells of its rows: for each column outside of lists and maps the nulls and the bounds.

use std::cmp::Ordering;

use parquet::basic::{LogicalType, TimeUnit};
use parquet::data_type::AsBytes;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescriptor;

/// What is known of the rows of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct FileStatistics {
    /// Rows.
    pub rows: u64,
    /// Columns that are in no list and no map, in the order of the schema; those of structs by themselves.
    pub columns: Vec<ColumnStatistics>,
}

/// What is known of one column of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnStatistics {
    /// Its name, after those of the structs it is in.
    pub path: Vec<String>,
    /// Rows in which it has no value.
    pub nulls: Option<u64>,
    /// No value is below this one. A not-a-number counts as the greatest of all.
    pub min: Option<Bound>,
    /// No value is above this one.
    pub max: Option<Bound>,
}

/// A value that others are compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Bound {
    /// A signed integer of any width.
    Integer(i64),
    /// Single precision, finite or not, never not-a-number.
    Float(f32),
    /// Double precision, finite or not, never not-a-number.
    Double(f64),
    /// Text; as a bound it may be longer or shorter than any value.
    Text(String),
    /// Days since the epoch.
    Date(i32),
    /// Microseconds since the epoch, rounded away from the values.
    Timestamp {
        /// How many.
        micros: i64,
        /// Whether the epoch is UTC's; else local time without a zone.
        utc: bool,
    },
    /// A decimal number.
    Decimal {
        /// Its digits.
        unscaled: i128,
        /// How many of them stand behind the point.
        scale: u8,
    },
}

impl Bound {
    /// The order of two bounds of one column.
    fn order(&self, other: &Bound) -> Option<Ordering> {
        match (self, other) {
            (Bound::Integer(a), Bound::Integer(b)) => a.partial_cmp(b),
            (Bound::Float(a), Bound::Float(b)) => a.partial_cmp(b),
            (Bound::Double(a), Bound::Double(b)) => a.partial_cmp(b),
            (Bound::Text(a), Bound::Text(b)) => a.partial_cmp(b),
            (Bound::Date(a), Bound::Date(b)) => a.partial_cmp(b),
            (Bound::Timestamp { micros: a, .. }, Bound::Timestamp { micros: b, .. }) => a.partial_cmp(b),
            (Bound::Decimal { unscaled: a, .. }, Bound::Decimal { unscaled: b, .. }) => a.partial_cmp(b),
            (_, _) => None,
        }
    }
}

impl FileStatistics {
    /// What the footer of a Parquet file says. `has_nan` tells of a column, by its number among all leaves, whether a
    /// not-a-number is among its values, which the footer does not count.
    pub(crate) fn of_parquet(metadata: &ParquetMetaData, has_nan: &dyn Fn(usize) -> bool) -> FileStatistics {
        let schema = metadata.file_metadata().schema_descr();
        let columns = (0..schema.num_columns()).filter(|leaf| schema.column(*leaf).max_rep_level() == 0);
        let columns = columns.map(|leaf| column(metadata.row_groups(), leaf, &schema.column(leaf), has_nan(leaf)));
        FileStatistics {
            rows: u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0),
            columns: columns.collect(),
        }
    }
}

fn column(groups: &[RowGroupMetaData], leaf: usize, descriptor: &ColumnDescriptor, has_nan: bool) -> ColumnStatistics {
    let chunks = || groups.iter().map(|group| group.column(leaf));
    let nulls = chunks().map(|chunk| chunk.statistics()?.null_count_opt()).sum::<Option<u64>>();
    // A chunk without a value has no bounds and needs none; one with values but without bounds hides them.
    let with_values = || chunks().filter(|chunk| !is_all_null(chunk));
    let extreme = |is_max: bool| {
        let wanted = if is_max { Ordering::Greater } else { Ordering::Less };
        let mut extreme: Option<Bound> = None;
        for chunk in with_values() {
            let bound = bound(chunk.statistics()?, descriptor, is_max)?;
            if extreme.as_ref().is_none_or(|known| bound.order(known) == Some(wanted)) {
                extreme = Some(bound);
            }
        }
        extreme
    };
    ColumnStatistics {
        path: descriptor.path().parts().to_vec(),
        nulls,
        min: extreme(false),
        max: if has_nan { None } else { extreme(true) },
    }
}

fn is_all_null(chunk: &ColumnChunkMetaData) -> bool {
    let nulls = chunk.statistics().and_then(Statistics::null_count_opt);
    nulls.is_some_and(|nulls| i64::try_from(nulls) == Ok(chunk.num_values()))
}

fn bound(statistics: &Statistics, descriptor: &ColumnDescriptor, is_max: bool) -> Option<Bound> {
    let logical = descriptor.logical_type_ref();
    match statistics {
        Statistics::Int32(values) => {
            integer(i64::from(*if is_max { values.max_opt() } else { values.min_opt() }?), logical, is_max)
        }
        Statistics::Int64(values) => {
            integer(*if is_max { values.max_opt() } else { values.min_opt() }?, logical, is_max)
        }
        Statistics::Float(values) => {
            let value = *if is_max { values.max_opt() } else { values.min_opt() }?;
            (!value.is_nan()).then_some(Bound::Float(value))
        }
        Statistics::Double(values) => {
            let value = *if is_max { values.max_opt() } else { values.min_opt() }?;
            (!value.is_nan()).then_some(Bound::Double(value))
        }
        Statistics::ByteArray(values) => {
            let value = if is_max { values.max_opt() } else { values.min_opt() }?;
            bytes(value.as_bytes(), logical)
        }
        Statistics::FixedLenByteArray(values) => {
            let value = if is_max { values.max_opt() } else { values.min_opt() }?;
            bytes(value.as_bytes(), logical)
        }
        Statistics::Boolean(_) | Statistics::Int96(_) => None,
    }
}

fn integer(value: i64, logical: Option<&LogicalType>, is_max: bool) -> Option<Bound> {
    match logical {
        None => Some(Bound::Integer(value)),
        Some(LogicalType::Integer(kind)) => kind.is_signed.then_some(Bound::Integer(value)),
        Some(LogicalType::Date) => i32::try_from(value).ok().map(Bound::Date),
        Some(LogicalType::Decimal(kind)) => {
            Some(Bound::Decimal { unscaled: i128::from(value), scale: u8::try_from(kind.scale).ok()? })
        }
        Some(LogicalType::Timestamp(kind)) => {
            let micros = match kind.unit {
                TimeUnit::MILLIS => value.checked_mul(1_000)?,
                TimeUnit::MICROS => value,
                TimeUnit::NANOS => value.div_euclid(1_000) + i64::from(is_max && value.rem_euclid(1_000) > 0),
            };
            Some(Bound::Timestamp { micros, utc: kind.is_adjusted_to_u_t_c })
        }
        Some(_) => None,
    }
}

fn bytes(value: &[u8], logical: Option<&LogicalType>) -> Option<Bound> {
    match logical {
        Some(LogicalType::String) => Some(Bound::Text(str::from_utf8(value).ok()?.to_owned())),
        Some(LogicalType::Decimal(kind)) => {
            let (&first, _) = value.split_first()?;
            let mut wide = [if first & 0x80 == 0 { 0 } else { 0xff }; 16];
            wide.get_mut(16usize.checked_sub(value.len())?..)?.copy_from_slice(value);
            Some(Bound::Decimal { unscaled: i128::from_be_bytes(wide), scale: u8::try_from(kind.scale).ok()? })
        }
        Some(_) | None => None,
    }
}
