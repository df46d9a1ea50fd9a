//! Timestamp extractors: which time a record counts under, for paths and for `rotate.interval.ms`.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use model::{Batch, Check, Importance, Invalid, Key, Kind, Plugin, Rejected, Settings, Stage, Values, Width, named};
use serde_json::Value;

use crate::iso::parse_ms;
use crate::lookup::{FieldPath, Found};

/// Which extractor time based partitioners use.
pub const TIMESTAMP_EXTRACTOR: Key = Key::new(
    "timestamp.extractor",
    Kind::String,
    "Time that a record counts under: Wallclock (when its cut was opened), Record (its Kafka timestamp) or RecordField \
     (timestamp.field).",
)
.default("Wallclock")
.importance(Importance::Medium)
.group("Partitioner", 7)
.shown(Width::Long, "Timestamp Extractor");

/// The field that `RecordField` reads.
pub const TIMESTAMP_FIELD: Key = Key::new(
    "timestamp.field",
    Kind::String,
    "Field that RecordField reads, dots for nested ones: milliseconds since the epoch (number or digits; timestamp.unit for \
     others), a timestamp, or ISO-8601 text; text without a zone is UTC.",
)
.default("timestamp")
.importance(Importance::Medium)
.group("Partitioner", 8)
.shown(Width::Long, "Record Field for Timestamp Extractor");

/// What the numbers of that field count.
pub const TIMESTAMP_UNIT: Key = Key::new(
    "timestamp.unit",
    Kind::String,
    "What a number, or text of digits, in timestamp.field counts since the epoch: milliseconds, seconds, microseconds or \
     nanoseconds. Timestamps and ISO-8601 text say it themselves.",
)
.default("milliseconds")
.check(Check::OneOf(&["milliseconds", "seconds", "microseconds", "nanoseconds"]))
.ours()
.importance(Importance::Low)
.group("Partitioner", 9)
.shown(Width::Short, "Unit of the Record Field for Timestamp Extractor");

/// The keys that are declared here.
pub const KEYS: &[Key] = &[TIMESTAMP_EXTRACTOR, TIMESTAMP_FIELD, TIMESTAMP_UNIT];

/// What numbers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Milliseconds,
    Seconds,
    Microseconds,
    Nanoseconds,
}

impl Unit {
    fn new(settings: &Settings) -> Result<Unit, Invalid> {
        Ok(match settings.required_string(&TIMESTAMP_UNIT)?.as_str() {
            "seconds" => Unit::Seconds,
            "microseconds" => Unit::Microseconds,
            "nanoseconds" => Unit::Nanoseconds,
            _ => Unit::Milliseconds,
        })
    }

    /// How many of it are a millisecond; a second is a thousand milliseconds.
    fn per_ms(self) -> i64 {
        match self {
            Unit::Milliseconds | Unit::Seconds => 1,
            Unit::Microseconds => 1_000,
            Unit::Nanoseconds => 1_000_000,
        }
    }

    /// `count` of it in milliseconds, cut down.
    fn ms(self, count: i64) -> Result<i64, String> {
        match self {
            Unit::Seconds => {
                count.checked_mul(1_000).ok_or_else(|| format!("{count} seconds are outside the range of milliseconds"))
            }
            Unit::Milliseconds | Unit::Microseconds | Unit::Nanoseconds => Ok(count.div_euclid(self.per_ms())),
        }
    }

    /// As [`Self::ms`] for a number with a fraction, which is left out as Java's `Number.longValue` does.
    fn ms_of_double(self, count: f64) -> Result<i64, String> {
        whole(match self {
            Unit::Milliseconds => count,
            Unit::Seconds => count * 1e3,
            Unit::Microseconds => (count / 1e3).floor(),
            Unit::Nanoseconds => (count / 1e6).floor(),
        })
    }

    /// The time that a text says: digits count, all else is ISO-8601.
    fn ms_of_text(self, text: &str) -> Result<i64, String> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        parse_ms(text).and_then(|ms| if is_number { self.ms(ms) } else { Ok(ms) })
    }
}

/// The time of each row of a batch.
#[derive(Debug)]
pub struct Times {
    /// Milliseconds since the epoch; meaningless for a rejected row.
    pub ms: ScalarBuffer<i64>,
    /// The rows that have none, by rising row.
    pub rejected: Vec<Rejected>,
}

/// Says which time a record counts under.
pub trait TimestampExtractor: Send {
    /// The time of each row; `clock_ms` is the wall clock of their cut.
    fn extract(&self, batch: &Batch, clock_ms: i64) -> Times;

    /// Whether times are the wall clock's.
    fn follows_wall_clock(&self) -> bool;

    /// Whether times are taken from values.
    fn reads_values(&self) -> bool;
}

/// Builds an extractor.
pub type BuildExtractor = fn(&Settings) -> Result<Box<dyn TimestampExtractor>, Invalid>;

/// What `timestamp.extractor` can name.
pub static EXTRACTORS: &[Plugin<BuildExtractor>] = &[
    Plugin {
        names: &[
            "Wallclock",
            "io.confluent.connect.storage.partitioner.TimeBasedPartitioner$WallclockTimestampExtractor",
        ],
        doc: "The wall clock when the cut of the record was opened.",
        keys: &[],
        check: |_| Vec::new(),
        build: |_| Ok(Box::new(Wallclock)),
    },
    Plugin {
        names: &["Record", "io.confluent.connect.storage.partitioner.TimeBasedPartitioner$RecordTimestampExtractor"],
        doc: "The timestamp that the record has in Kafka.",
        keys: &[],
        check: |_| Vec::new(),
        build: |_| Ok(Box::new(Record)),
    },
    Plugin {
        names: &[
            "RecordField",
            "io.confluent.connect.storage.partitioner.TimeBasedPartitioner$RecordFieldTimestampExtractor",
        ],
        doc: "A field of the record's value.",
        keys: &[&[TIMESTAMP_FIELD, TIMESTAMP_UNIT]],
        check: |settings| field_path(settings).err().into_iter().chain(Unit::new(settings).err()).collect(),
        build: |settings| Ok(Box::new(RecordField { path: field_path(settings)?, unit: Unit::new(settings)? })),
    },
];

/// The plug-in that `timestamp.extractor` names.
pub fn extractor_plugin(settings: &Settings) -> Result<&'static Plugin<BuildExtractor>, Invalid> {
    let name = settings.required_string(&TIMESTAMP_EXTRACTOR)?;
    named(EXTRACTORS, &name, "").ok_or_else(|| {
        let known: Vec<_> = EXTRACTORS.iter().map(Plugin::name).collect();
        let message = format!("Invalid timestamp extractor: {name}, expected one of: {}", known.join(", "));
        Invalid::new(TIMESTAMP_EXTRACTOR.name, message)
    })
}

fn field_path(settings: &Settings) -> Result<FieldPath, Invalid> {
    let name = settings.required_string(&TIMESTAMP_FIELD)?;
    FieldPath::new(&name).ok_or_else(|| {
        Invalid::value(&TIMESTAMP_FIELD, &name, "Field name cannot contain an empty or whitespace-only path segment")
    })
}

struct Wallclock;

impl TimestampExtractor for Wallclock {
    fn extract(&self, batch: &Batch, clock_ms: i64) -> Times {
        Times { ms: vec![clock_ms; batch.len()].into(), rejected: Vec::new() }
    }

    fn follows_wall_clock(&self) -> bool {
        true
    }

    fn reads_values(&self) -> bool {
        false
    }
}

struct Record;

impl TimestampExtractor for Record {
    fn extract(&self, batch: &Batch, _clock_ms: i64) -> Times {
        let without = batch.timestamps_ms.iter().enumerate().filter(|(_, ms)| **ms < 0);
        let rejected = without.map(|(row, _)| Rejected {
            row,
            at: batch.position(row),
            stage: Stage::TaskPut,
            reason:
                "Unable to determine timestamp using timestamp.extractor Record: the record has no timestamp, as one \
                     of a log older than Kafka 0.10"
                    .to_owned(),
        });
        Times { rejected: rejected.collect(), ms: batch.timestamps_ms.clone() }
    }

    fn follows_wall_clock(&self) -> bool {
        false
    }

    fn reads_values(&self) -> bool {
        false
    }
}

struct RecordField {
    path: FieldPath,
    unit: Unit,
}

impl TimestampExtractor for RecordField {
    fn extract(&self, batch: &Batch, _clock_ms: i64) -> Times {
        match &batch.values {
            Values::Typed(columns) => match self.path.column(columns) {
                Some((column, nulls)) => self.of_column(batch, &column, nulls.as_ref()),
                None => self.collect(batch, |_| Err("there is no such field in the schema".to_owned())),
            },
            Values::Schemaless(texts) => self.collect(batch, |row| self.of_text(texts, row)),
        }
    }

    fn follows_wall_clock(&self) -> bool {
        false
    }

    fn reads_values(&self) -> bool {
        true
    }
}

impl RecordField {
    /// The time of each row, or why it has none.
    fn collect(&self, batch: &Batch, time_of: impl Fn(usize) -> Result<i64, String>) -> Times {
        let mut rejected = Vec::new();
        let ms = (0..batch.len()).map(|row| {
            time_of(row).unwrap_or_else(|why| {
                let reason = format!("Error extracting timestamp from record field: {}: {why}", self.path.name());
                rejected.push(Rejected { row, at: batch.position(row), stage: Stage::TaskPut, reason });
                0
            })
        });
        Times { ms: ms.collect(), rejected }
    }

    fn of_column(&self, batch: &Batch, column: &ArrayRef, nulls: Option<&NullBuffer>) -> Times {
        let is_null = |row: usize| nulls.is_some_and(|nulls| nulls.is_null(row));
        let unsupported = || {
            let why = format!("type {} is neither a number of milliseconds, a timestamp nor text", column.data_type());
            self.collect(batch, |row| Err(if is_null(row) { "it is null".to_owned() } else { why.clone() }))
        };
        let Some(wide) = widened(column) else {
            return unsupported();
        };
        let unit = if matches!(column.data_type(), DataType::Timestamp(..)) { Unit::Milliseconds } else { self.unit };
        match wide.data_type() {
            DataType::Int64 => {
                let values = wide.as_primitive::<Int64Type>();
                let has_nulls = nulls.is_some_and(|nulls| nulls.null_count() > 0) || wide.null_count() > 0;
                if unit == Unit::Milliseconds && !has_nulls {
                    return Times { ms: values.values().clone(), rejected: Vec::new() };
                }
                self.collect(batch, |row| match is_null(row) {
                    true => Err("it is null".to_owned()),
                    false if wide.is_null(row) => Err("it is outside the range of milliseconds".to_owned()),
                    false => unit.ms(values.value(row)),
                })
            }
            DataType::Float64 => {
                let values = wide.as_primitive::<Float64Type>();
                self.collect(batch, |row| {
                    if is_null(row) { Err("it is null".to_owned()) } else { unit.ms_of_double(values.value(row)) }
                })
            }
            _ => {
                let texts = wide.as_string::<i32>();
                self.collect(batch, |row| {
                    if is_null(row) { Err("it is null".to_owned()) } else { unit.ms_of_text(texts.value(row)) }
                })
            }
        }
    }

    fn of_text(&self, texts: &BinaryArray, row: usize) -> Result<i64, String> {
        if texts.is_null(row) {
            return Err("the record has no value".to_owned());
        }
        let record: Value =
            serde_json::from_slice(texts.value(row)).map_err(|error| format!("the value is no JSON: {error}"))?;
        match self.path.find(&record) {
            Found::Missing => Err("there is no such field".to_owned()),
            Found::Null => Err("it is null".to_owned()),
            Found::Value(Value::String(text)) => self.unit.ms_of_text(text),
            Found::Value(Value::Number(number)) => match number.as_i64() {
                Some(count) => self.unit.ms(count),
                None => self.unit.ms_of_double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Found::Value(other) => Err(format!("{other} is neither a number of milliseconds nor text")),
        }
    }
}

/// The column as INT64 milliseconds, DOUBLE or text; `None` for types that hold no time. Upstream takes no DOUBLE from a
/// record with a schema, but any number from plain JSON, where our schema is inferred.
fn widened(column: &ArrayRef) -> Option<ArrayRef> {
    let to = match column.data_type() {
        DataType::Int64 | DataType::Float64 | DataType::Utf8 => return Some(column.clone()),
        DataType::Int32 | DataType::Null => DataType::Int64,
        DataType::Float32 => DataType::Float64,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Dictionary(_, values) if values.is_string() => DataType::Utf8,
        DataType::Timestamp(_, zone) => {
            let in_ms = cast(column, &DataType::Timestamp(TimeUnit::Millisecond, zone.clone())).ok()?;
            return cast(&in_ms, &DataType::Int64).ok();
        }
        _ => return None,
    };
    cast(column, &to).ok()
}

/// The milliseconds without their fraction, as Java's `Number.longValue`.
fn whole(number: f64) -> Result<i64, String> {
    // The bounds are the powers of two next to the range of i64, so what passes is converted without a change.
    if number >= -(2f64.powi(63)) && number < 2f64.powi(63) {
        Ok(number as i64)
    } else {
        Err(format!("{number} is outside the range of milliseconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{schemaless, settings, typed};
    use arrow::array::{
        BooleanArray, DictionaryArray, Float64Array, Int8Array, Int32Array, Int64Array, NullArray, StringArray,
        StringViewArray, StructArray, TimestampMicrosecondArray, TimestampSecondArray,
    };
    use arrow::datatypes::Int8Type;
    use std::sync::Arc;

    const AT: i64 = 1_427_961_600_000;

    fn extractor(pairs: &[(&str, &str)]) -> Box<dyn TimestampExtractor> {
        let settings = settings(pairs);
        (extractor_plugin(&settings).unwrap().build)(&settings).unwrap()
    }

    fn outcome(batch: &Batch, field: &str) -> Vec<Result<i64, String>> {
        let times = extractor(&[("timestamp.extractor", "RecordField"), ("timestamp.field", field)]).extract(batch, 7);
        assert_eq!(times.ms.len(), batch.len());
        let mut all: Vec<_> = times.ms.iter().map(|ms| Ok(*ms)).collect();
        for rejected in times.rejected {
            assert_eq!(rejected.stage, Stage::TaskPut);
            all[rejected.row] = Err(rejected.to_string());
        }
        all
    }

    #[test]
    fn wall_clock_and_record_time_need_no_value() {
        let batch = typed(vec![("a", Arc::new(Int32Array::from(vec![1, 2])))], &[50, -1]);
        let times = extractor(&[]).extract(&batch, 99);
        assert_eq!((times.ms.as_ref(), times.rejected.len()), (&[99, 99][..], 0));
        let java = "io.confluent.connect.storage.partitioner.TimeBasedPartitioner$RecordTimestampExtractor";
        for name in ["Record", java] {
            let times = extractor(&[("timestamp.extractor", name)]).extract(&batch, 99);
            assert_eq!(times.ms[0], 50);
            let text = times.rejected[0].to_string();
            assert!(
                text.starts_with("test-topic-12@1: Unable to determine timestamp using timestamp.extractor"),
                "{text}"
            );
        }
    }

    #[test]
    fn columns_of_every_kind_of_time_are_read() {
        let dictionary: DictionaryArray<Int8Type> = vec!["2015-04-02T08:00:00Z", "1427961600000"].into_iter().collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![AT, AT])),
            Arc::new(Float64Array::from(vec![AT as f64, AT as f64 + 0.5])),
            Arc::new(TimestampMicrosecondArray::from(vec![AT * 1000, AT * 1000 + 999])),
            Arc::new(TimestampSecondArray::from(vec![AT / 1000, AT / 1000]).with_timezone("America/Los_Angeles")),
            Arc::new(StringArray::from(vec!["2015-04-02T01:00:00-07:00", "1427961600000"])),
            Arc::new(StringViewArray::from(vec!["2015-04-02T08:00:00.000Z", "2015-04-02T08:00"])),
            Arc::new(dictionary),
        ];
        for column in columns {
            let kind = column.data_type().clone();
            assert_eq!(outcome(&typed(vec![("t", column)], &[0, 0]), "t"), [Ok(AT), Ok(AT)], "{kind}");
        }
    }

    #[test]
    fn rows_without_a_time_are_rejected_and_their_neighbours_are_not() {
        let error = |row: usize, why: &str| {
            Err(format!("test-topic-12@{row}: Error extracting timestamp from record field: t: {why}"))
        };
        let cases: Vec<(ArrayRef, Vec<Result<i64, String>>)> = vec![
            (Arc::new(Int64Array::from(vec![Some(5), None])), vec![Ok(5), error(1, "it is null")]),
            (Arc::new(NullArray::new(2)), vec![error(0, "it is null"), error(1, "it is null")]),
            (
                Arc::new(Float64Array::from(vec![f64::NAN, 1e300])),
                vec![
                    error(0, "NaN is outside the range of milliseconds"),
                    error(1, &format!("{} is outside the range of milliseconds", 1e300)),
                ],
            ),
            (
                Arc::new(BooleanArray::from(vec![Some(true), None])),
                vec![
                    error(0, "type Boolean is neither a number of milliseconds, a timestamp nor text"),
                    error(1, "it is null"),
                ],
            ),
            (
                Arc::new(Int8Array::from(vec![1, 2])),
                vec![
                    error(0, "type Int8 is neither a number of milliseconds, a timestamp nor text"),
                    error(1, "type Int8 is neither a number of milliseconds, a timestamp nor text"),
                ],
            ),
            (
                Arc::new(StringArray::from(vec![Some("yesterday"), Some("12")])),
                vec![error(0, &parse_ms("yesterday").unwrap_err()), Ok(12)],
            ),
        ];
        for (column, expected) in cases {
            let kind = column.data_type().clone();
            assert_eq!(outcome(&typed(vec![("t", column)], &[0, 0]), "t"), expected, "{kind}");
        }
        let absent = typed(vec![("a", Arc::new(Int32Array::from(vec![1])))], &[0]);
        assert_eq!(outcome(&absent, "t"), [error(0, "there is no such field in the schema")]);
    }

    #[test]
    fn numbers_count_what_the_unit_says_and_times_say_it_themselves() {
        let s = AT / 1000;
        for (unit, count, more) in [
            ("seconds", s, 0),
            ("milliseconds", AT, 0),
            ("microseconds", AT * 1000, 999),
            ("nanoseconds", AT * 1_000_000, 999_999),
        ] {
            let pairs = [("timestamp.extractor", "RecordField"), ("timestamp.field", "t"), ("timestamp.unit", unit)];
            let extractor = extractor(&pairs);
            let ms = |batch: Batch| {
                let times = extractor.extract(&batch, 7);
                assert_eq!(times.rejected, [], "{unit}");
                times.ms.to_vec()
            };
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(vec![count, count + more])),
                Arc::new(StringArray::from(vec![format!("{count}"), "2015-04-02T08:00:00Z".to_owned()])),
                Arc::new(TimestampSecondArray::from(vec![s, s])),
                Arc::new(Float64Array::from(vec![count as f64, count as f64])),
            ];
            for column in columns {
                assert_eq!(ms(typed(vec![("t", column)], &[0, 0])), [AT, AT], "{unit}");
            }
            let texts = [
                format!(r#"{{"t":{count}}}"#),
                format!(r#"{{"t":"{count}"}}"#),
                r#"{"t":"2015-04-02T08:00Z"}"#.to_owned(),
            ];
            let texts: Vec<_> = texts.iter().map(|text| Some(text.as_str())).collect();
            assert_eq!(ms(schemaless(&texts)), [AT, AT, AT], "{unit}");
        }
        let micros = extractor(&[("timestamp.extractor", "RecordField"), ("timestamp.unit", "microseconds")]);
        let before = typed(vec![("timestamp", Arc::new(Int64Array::from(vec![Some(-1), None])))], &[0, 0]);
        let times = micros.extract(&before, 7);
        assert_eq!((times.ms[0], times.rejected.len()), (-1, 1));
        let seconds = extractor(&[("timestamp.extractor", "RecordField"), ("timestamp.unit", "seconds")]);
        let far = typed(vec![("timestamp", Arc::new(Int64Array::from(vec![i64::MAX])))], &[0]);
        assert!(seconds.extract(&far, 7).rejected[0].reason.ends_with("are outside the range of milliseconds"));
        let bad = settings(&[("timestamp.extractor", "RecordField"), ("timestamp.unit", "days")]);
        assert_eq!((extractor_plugin(&bad).unwrap().check)(&bad).len(), 1);
    }

    #[test]
    fn a_null_parent_makes_a_null_time() {
        let inner: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let fields = vec![arrow::datatypes::Field::new("t", DataType::Int64, false)];
        let nulls = Some(NullBuffer::from(vec![true, false]));
        let outer = StructArray::new(fields.into(), vec![inner], nulls);
        let result = outcome(&typed(vec![("o", Arc::new(outer))], &[0, 0]), "o.t");
        assert_eq!(result[0], Ok(1));
        assert!(result[1].as_ref().is_err_and(|why| why.ends_with("it is null")));
    }

    #[test]
    fn plain_json_is_read_row_by_row() {
        let batch = schemaless(&[
            Some(r#"{"o":{"t":1427961600000}}"#),
            Some(r#"{"o":{"t":1427961600000.75}}"#),
            Some(r#"{"o":{"t":"2015-04-02"}}"#),
            Some(r#"{"o":{"t":[1]}}"#),
            Some(r#"{"o":{}}"#),
            Some(r#"{"o":null}"#),
            Some("[1]"),
            Some("not json"),
            None,
        ]);
        let result = outcome(&batch, "o.t");
        assert_eq!(result[..3], [Ok(AT), Ok(AT), Ok(1_427_932_800_000)]);
        for (row, why) in [
            (3, "[1] is neither a number of milliseconds nor text"),
            (4, "there is no such field"),
            (5, "it is null"),
            (6, "there is no such field"),
            (8, "the record has no value"),
        ] {
            let expected = format!("test-topic-12@{row}: Error extracting timestamp from record field: o.t: {why}");
            assert_eq!(result[row], Err(expected));
        }
        assert!(result[7].as_ref().is_err_and(|text| text.contains("the value is no JSON")));
    }

    #[test]
    fn unknown_extractors_and_bad_fields_are_refused() {
        let error = extractor_plugin(&settings(&[("timestamp.extractor", "Kafka")])).err().unwrap();
        assert!(error.message.starts_with("Invalid timestamp extractor: Kafka"), "{error}");
        let bad = settings(&[("timestamp.extractor", "RecordField"), ("timestamp.field", "a..b")]);
        let problems = (extractor_plugin(&bad).unwrap().check)(&bad);
        assert!(problems[0].message.ends_with("Field name cannot contain an empty or whitespace-only path segment"));
    }
}
