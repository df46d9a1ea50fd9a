//! `Cast`: fields, or the whole value, to another primitive type.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array,
    StringArray, StringBuilder, StructArray,
};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type, Int64Type, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::{Batch, Check, Importance, Invalid, Key, Kind, Settings, is_whole_value};
use serde_json::{Number, Value};

use crate::Transform;
use crate::date_pattern::DatePattern;
use crate::java::{double_text, parse_double, parse_long, parse_single, single_text};
use crate::keys::REPLACE_NULL_WITH_DEFAULT;
use crate::values::{
    Columns, DEFAULT_MARK, Edit, OnSide, Record, Refused, Side, connect_type, require_map, require_struct, struct_of,
    whole, with_defaults,
};

const PURPOSE: &str = "cast types";
const DAY_MS: i64 = 86_400_000;
const INPUTS: &str = "[INT8, INT16, INT32, INT64, FLOAT32, FLOAT64, BOOLEAN, STRING, BYTES]";
const OUTPUTS: &str = "[INT8, INT16, INT32, INT64, FLOAT32, FLOAT64, BOOLEAN, STRING]";

/// How arrow writes texts, booleans and decimals.
static DISPLAY: FormatOptions<'static> = FormatOptions::new();

const SPEC: Key = Key::new(
    "spec",
    Kind::List,
    "Fields and their new types, as pairs field:type, or one type for the whole value. Types: int8, int16, int32, int64, \
     float32, float64, boolean, string.",
)
.required()
.check(Check::With(check_spec))
.importance(Importance::High);

/// The keys of the transform.
pub(crate) const KEYS: &[Key] = &[SPEC, REPLACE_NULL_WITH_DEFAULT];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Int8,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Boolean,
    String,
}

#[derive(Debug, PartialEq, Eq)]
enum Spec {
    Whole(Target),
    Fields(Vec<(String, Target)>),
}

fn check_spec(text: &str) -> Result<(), String> {
    let parts: Vec<String> =
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
    spec(&parts).map(|_| ())
}

fn spec(parts: &[String]) -> Result<Spec, String> {
    if parts.is_empty() {
        return Err("Must specify at least one field to cast.".to_owned());
    }
    let mut fields = Vec::new();
    let mut whole = None;
    for part in parts {
        match part.split(':').collect::<Vec<_>>().as_slice() {
            [target_name] => whole = Some(target(target_name.trim())?),
            [field, target_name] => fields.push((field.trim().to_owned(), target(target_name.trim())?)),
            _more => return Err(format!("Invalid rename mapping: {part}")),
        }
    }
    match whole {
        Some(target) if parts.len() == 1 => Ok(Spec::Whole(target)),
        Some(_) => {
            Err("Cast transformations that specify a type to cast the entire value to may only specify a single \
                        cast in their spec"
                .to_owned())
        }
        None => Ok(Spec::Fields(fields)),
    }
}

fn target(name: &str) -> Result<Target, String> {
    let upper = name.to_ascii_uppercase();
    Ok(match upper.as_str() {
        "INT8" => Target::Int8,
        "INT16" => Target::Int16,
        "INT32" => Target::Int32,
        "INT64" => Target::Int64,
        "FLOAT32" => Target::Float32,
        "FLOAT64" => Target::Float64,
        "BOOLEAN" => Target::Boolean,
        "STRING" => Target::String,
        "BYTES" | "ARRAY" | "MAP" | "STRUCT" => {
            return Err(format!(
                "Cast transformation does not support casting to {upper}; supported types are {OUTPUTS}"
            ));
        }
        _unknown => return Err(format!("Invalid type found in casting spec: {name}")),
    })
}

#[derive(Debug)]
struct Cast {
    spec: Spec,
    replace_null_with_default: bool,
}

/// Builds the transform of `side`.
pub(crate) fn build(settings: &Settings, side: Side) -> Result<Box<dyn Transform>, Invalid> {
    let parts = settings.list(&SPEC)?;
    let spec = spec(&parts).map_err(|why| Invalid::value(&SPEC, &parts.join(","), why))?;
    let replace_null_with_default = settings.boolean(&REPLACE_NULL_WITH_DEFAULT)?;
    Ok(Box::new(OnSide { side, edit: Cast { spec, replace_null_with_default } }))
}

impl Edit for Cast {
    fn typed(&self, columns: &StructArray, _batch: &Batch) -> Result<Columns, String> {
        let casts = match &self.spec {
            Spec::Whole(_) if !is_whole_value(columns.fields()) => return Err(bad_input("STRUCT")),
            Spec::Whole(target) => {
                let (column, refused) = cast_column(columns.column(0), *target)?;
                return Ok(Columns { columns: whole(column), refused });
            }
            Spec::Fields(casts) => casts,
        };
        require_struct(columns, PURPOSE)?;
        let old = with_defaults(columns, self.replace_null_with_default);
        let mut fields: Vec<FieldRef> = old.fields().iter().cloned().collect();
        let mut made: Vec<ArrayRef> = old.columns().to_vec();
        let mut refused = Refused::new();
        for (index, field) in old.fields().iter().enumerate() {
            let Some((_, target)) = casts.iter().rev().find(|(name, _)| name == field.name()) else { continue };
            let (column, bad) = cast_column(&made[index], *target)?;
            let bad = bad.into_iter().filter(|(row, _)| columns.is_valid(*row));
            refused.extend(bad);
            fields[index] = Arc::new(cast_field(field, column.data_type().clone(), *target));
            made[index] = column;
        }
        refused.sort_by_key(|(row, _)| *row);
        refused.dedup_by_key(|(row, _)| *row);
        Ok(Columns { columns: struct_of(fields, made, columns.nulls(), columns.len())?, refused })
    }

    fn schemaless(&self, value: Value, _record: Record<'_>) -> Result<Value, String> {
        if value.is_null() {
            return Ok(value);
        }
        let casts = match &self.spec {
            Spec::Whole(target) => return cast_json(&value, *target),
            Spec::Fields(casts) => casts,
        };
        let mut map = require_map(value, PURPOSE)?;
        for (field, target) in casts {
            let value = cast_json(map.get(field).unwrap_or(&Value::Null), *target)?;
            map.insert(field.clone(), value);
        }
        Ok(Value::Object(map))
    }
}

/// `field` with another type; its default is cast with it.
fn cast_field(field: &Field, data_type: DataType, target: Target) -> Field {
    let made = Field::new(field.name(), data_type, field.is_nullable());
    let default = field.metadata().get(DEFAULT_MARK).and_then(|text| serde_json::from_str::<Value>(text).ok());
    match default.and_then(|default| cast_json(&default, target).ok()) {
        Some(default) => made.with_metadata([(DEFAULT_MARK.to_owned(), default.to_string())].into()),
        None => made,
    }
}

fn bad_input(connect_type: &str) -> String {
    format!("Cast transformation does not support casting from {connect_type}; supported types are {INPUTS}")
}

fn out_of_range(value: &str) -> String {
    format!("Value ({value}) was out of range for requested data type")
}

fn cast_json(value: &Value, target: Target) -> Result<Value, String> {
    Ok(match value {
        Value::Null => Value::Null,
        Value::Array(_) => return Err(bad_input("ARRAY")),
        Value::Object(_) => return Err(bad_input("MAP")),
        Value::Bool(flag) => match target {
            Target::Boolean => value.clone(),
            Target::String => flag.to_string().into(),
            Target::Int8 | Target::Int16 | Target::Int32 | Target::Int64 => i64::from(*flag).into(),
            Target::Float32 | Target::Float64 => f64::from(u8::from(*flag)).into(),
        },
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => cast_long(whole, target),
            // JsonConverter takes the lower 64 bits.
            (None, Some(large)) => cast_long(large as i64, target),
            (None, None) => cast_double(number.as_f64().unwrap_or(f64::NAN), target),
        },
        Value::String(text) => cast_text(text, target)?,
    })
}

fn cast_long(whole: i64, target: Target) -> Value {
    match target {
        Target::Int8 => (whole as i8).into(),
        Target::Int16 => (whole as i16).into(),
        Target::Int32 => (whole as i32).into(),
        Target::Int64 => whole.into(),
        Target::Float32 => single_json(whole as f32),
        Target::Float64 => double_json(whole as f64),
        Target::Boolean => (whole != 0).into(),
        Target::String => whole.to_string().into(),
    }
}

fn cast_double(double: f64, target: Target) -> Value {
    match target {
        // Java goes through int for the small types.
        Target::Int8 => (double as i32 as i8).into(),
        Target::Int16 => (double as i32 as i16).into(),
        Target::Int32 => (double as i32).into(),
        Target::Int64 => (double as i64).into(),
        Target::Float32 => single_json(double as f32),
        Target::Float64 => double_json(double),
        Target::Boolean => (double as i64 != 0).into(),
        Target::String => double_text(double).into(),
    }
}

fn cast_text(text: &str, target: Target) -> Result<Value, String> {
    let whole = |least: i64, most: i64| {
        let number = parse_long(text).filter(|number| (least..=most).contains(number));
        number.map(Value::from).ok_or_else(|| out_of_range(text))
    };
    match target {
        Target::Int8 => whole(i8::MIN.into(), i8::MAX.into()),
        Target::Int16 => whole(i16::MIN.into(), i16::MAX.into()),
        Target::Int32 => whole(i32::MIN.into(), i32::MAX.into()),
        Target::Int64 => whole(i64::MIN, i64::MAX),
        Target::Float32 => parse_single(text).map(single_json).ok_or_else(|| out_of_range(text)),
        Target::Float64 => parse_double(text).map(double_json).ok_or_else(|| out_of_range(text)),
        Target::Boolean => Ok(text.eq_ignore_ascii_case("true").into()),
        Target::String => Ok(text.into()),
    }
}

/// A double as JSON; what JSON has no number for is a text, as Jackson writes it.
fn double_json(double: f64) -> Value {
    Number::from_f64(double).map_or_else(|| double_text(double).into(), Value::Number)
}

/// A float as JSON, with the digits of a float.
fn single_json(single: f32) -> Value {
    match single_text(single).parse::<f64>() {
        Ok(double) if double.is_finite() => double_json(double),
        Ok(_) | Err(_) => double_json(f64::from(single)),
    }
}

/// A column of any type that can be cast, in the form from which it is.
enum Source {
    Longs(Int64Array),
    Doubles(Float64Array),
    Flags(BooleanArray),
    Texts(ArrayRef),
}

fn source(column: &ArrayRef) -> Result<Source, String> {
    let to = |column: &ArrayRef, data_type: &DataType| {
        cast(column, data_type).map_err(|error| format!("the values cannot be cast: {error}"))
    };
    let longs = |column: &ArrayRef| {
        Ok::<_, String>(Source::Longs(to(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone()))
    };
    let data_type = column.data_type();
    match data_type {
        DataType::Boolean => Ok(Source::Flags(column.as_boolean().clone())),
        DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            Ok(Source::Doubles(to(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone()))
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(Source::Texts(to(column, &DataType::Utf8)?)),
        // The numbers that Connect has behind its logical types: days and milliseconds.
        DataType::Date32 => longs(&to(column, &DataType::Int32)?),
        DataType::Time32(_) | DataType::Time64(_) => {
            let times = to(column, &DataType::Time32(TimeUnit::Millisecond))?;
            longs(&to(&times, &DataType::Int32)?)
        }
        DataType::Timestamp(_, zone) => longs(&to(column, &DataType::Timestamp(TimeUnit::Millisecond, zone.clone()))?),
        whole if whole.is_integer() => longs(column),
        other => match connect_type(other) {
            "BYTES" => Err("Unexpected type in Cast transformation: class [B".to_owned()),
            nested => Err(bad_input(nested)),
        },
    }
}

fn cast_column(column: &ArrayRef, target: Target) -> Result<(ArrayRef, Refused), String> {
    if target == Target::String {
        return Ok((text_column(column)?, Refused::new()));
    }
    if let (Target::Float32, DataType::Float32) = (target, column.data_type()) {
        return Ok((column.clone(), Refused::new()));
    }
    if let (true, DataType::Decimal128(..) | DataType::Decimal256(..)) = (target == Target::Int64, column.data_type()) {
        // Through doubles the lower digits would be lost.
        let options = CastOptions { safe: true, ..CastOptions::default() };
        let made = cast_with_options(column, &DataType::Int64, &options).map_err(|error| error.to_string())?;
        if made.null_count() == column.null_count() {
            return Ok((made, Refused::new()));
        }
    }
    Ok(match source(column)? {
        Source::Longs(longs) => (cast_longs(&longs, target), Refused::new()),
        Source::Doubles(doubles) => (cast_doubles(&doubles, target), Refused::new()),
        Source::Flags(flags) => {
            let longs = cast(&flags, &DataType::Int64).map_err(|error| error.to_string())?;
            (cast_longs(longs.as_primitive(), target), Refused::new())
        }
        Source::Texts(texts) => cast_texts(&texts, target)?,
    })
}

fn cast_longs(longs: &Int64Array, target: Target) -> ArrayRef {
    match target {
        Target::Int8 => Arc::new(longs.unary::<_, arrow::datatypes::Int8Type>(|whole| whole as i8)),
        Target::Int16 => Arc::new(longs.unary::<_, arrow::datatypes::Int16Type>(|whole| whole as i16)),
        Target::Int32 => Arc::new(longs.unary::<_, arrow::datatypes::Int32Type>(|whole| whole as i32)),
        Target::Int64 | Target::String => Arc::new(longs.clone()),
        Target::Float32 => Arc::new(longs.unary::<_, Float32Type>(|whole| whole as f32)),
        Target::Float64 => Arc::new(longs.unary::<_, Float64Type>(|whole| whole as f64)),
        Target::Boolean => Arc::new(BooleanArray::from_unary(longs, |whole| whole != 0)),
    }
}

fn cast_doubles(doubles: &Float64Array, target: Target) -> ArrayRef {
    match target {
        Target::Int8 => Arc::new(doubles.unary::<_, arrow::datatypes::Int8Type>(|double| double as i32 as i8)),
        Target::Int16 => Arc::new(doubles.unary::<_, arrow::datatypes::Int16Type>(|double| double as i32 as i16)),
        Target::Int32 => Arc::new(doubles.unary::<_, arrow::datatypes::Int32Type>(|double| double as i32)),
        Target::Int64 => Arc::new(doubles.unary::<_, Int64Type>(|double| double as i64)),
        Target::Float32 => Arc::new(doubles.unary::<_, Float32Type>(|double| double as f32)),
        Target::Float64 | Target::String => Arc::new(doubles.clone()),
        Target::Boolean => Arc::new(BooleanArray::from_unary(doubles, |double| double as i64 != 0)),
    }
}

fn cast_texts(texts: &ArrayRef, target: Target) -> Result<(ArrayRef, Refused), String> {
    let texts = texts.as_string::<i32>();
    let mut refused = Refused::new();
    let column: ArrayRef = match target {
        Target::String => Arc::new(texts.clone()),
        Target::Boolean => {
            let flags = texts.iter().map(|text| text.map(|text| text.eq_ignore_ascii_case("true")));
            Arc::new(flags.collect::<BooleanArray>())
        }
        Target::Float32 => Arc::new(parsed(texts, parse_single, &mut refused).collect::<Float32Array>()),
        Target::Float64 => Arc::new(parsed(texts, parse_double, &mut refused).collect::<Float64Array>()),
        Target::Int8 => Arc::new(parsed(texts, narrow::<i8>, &mut refused).collect::<Int8Array>()),
        Target::Int16 => Arc::new(parsed(texts, narrow::<i16>, &mut refused).collect::<Int16Array>()),
        Target::Int32 => Arc::new(parsed(texts, narrow::<i32>, &mut refused).collect::<Int32Array>()),
        Target::Int64 => Arc::new(parsed(texts, parse_long, &mut refused).collect::<Int64Array>()),
    };
    Ok((column, refused))
}

fn narrow<T: TryFrom<i64>>(text: &str) -> Option<T> {
    parse_long(text).and_then(|whole| T::try_from(whole).ok())
}

/// What `parse` makes of each text. A row that it refuses holds 0 until it is left out.
fn parsed<'a, T: Default>(
    texts: &'a StringArray,
    parse: impl Fn(&str) -> Option<T> + 'a,
    refused: &'a mut Refused,
) -> impl Iterator<Item = Option<T>> + 'a {
    texts.iter().enumerate().map(move |(row, text)| {
        let text = text?;
        Some(parse(text).unwrap_or_else(|| {
            refused.push((row, out_of_range(text)));
            T::default()
        }))
    })
}

/// Each value as Java's `toString` writes it; bytes in Base64.
pub(crate) fn text_column(column: &ArrayRef) -> Result<ArrayRef, String> {
    let mut texts = StringBuilder::with_capacity(column.len(), column.len() * 8);
    let mut text = String::new();
    let write = text_writer(column)?;
    for row in 0..column.len() {
        if column.is_null(row) {
            texts.append_null();
            continue;
        }
        text.clear();
        write(row, &mut text);
        texts.append_value(&text);
    }
    Ok(Arc::new(texts.finish()))
}

type TextWriter<'a> = Box<dyn Fn(usize, &mut String) + 'a>;

/// Writes one value of `column` as text.
fn text_writer(column: &ArrayRef) -> Result<TextWriter<'_>, String> {
    let failed = |error: arrow::error::ArrowError| format!("the values cannot be written as texts: {error}");
    Ok(match column.data_type() {
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>();
            Box::new(move |row, out| out.push_str(&single_text(values.value(row))))
        }
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>();
            Box::new(move |row, out| out.push_str(&double_text(values.value(row))))
        }
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            let longs = cast(column, &DataType::Int64).map_err(failed)?;
            Box::new(move |row, out| {
                write!(out, "{}", longs.as_primitive::<Int64Type>().value(row)).expect("a String takes all text");
            })
        }
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::BinaryView => {
            let bytes = cast(column, &DataType::Binary).map_err(failed)?;
            Box::new(move |row, out| STANDARD.encode_string(bytes.as_binary::<i32>().value(row), out))
        }
        DataType::Date32 | DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..) => {
            let Source::Longs(numbers) = source(column)? else {
                return Err(bad_input(connect_type(column.data_type())));
            };
            let unit = if column.data_type() == &DataType::Date32 { DAY_MS } else { 1 };
            let patterns = DatePatterns::new()?;
            Box::new(move |row, out| patterns.write(numbers.value(row).saturating_mul(unit), out))
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::Map(..) | DataType::Struct(_) => {
            return Err(bad_input(connect_type(column.data_type())));
        }
        _text_boolean_or_decimal => {
            let formatter = ArrayFormatter::try_new(column, &DISPLAY).map_err(failed)?;
            Box::new(move |row, out| write!(out, "{}", formatter.value(row)).expect("a String takes all text"))
        }
    })
}

/// How `org.apache.kafka.connect.data.Values.dateFormatFor` writes moments.
struct DatePatterns {
    time: DatePattern,
    date: DatePattern,
    timestamp: DatePattern,
}

impl DatePatterns {
    fn new() -> Result<Self, String> {
        Ok(Self {
            time: DatePattern::new("HH:mm:ss.SSS'Z'")?,
            date: DatePattern::new("yyyy-MM-dd")?,
            timestamp: DatePattern::new("yyyy-MM-dd'T'HH:mm:ss.SSS'Z'")?,
        })
    }

    fn write(&self, ms: i64, out: &mut String) {
        let pattern = if ms < DAY_MS {
            &self.time
        } else if ms % DAY_MS == 0 {
            &self.date
        } else {
            &self.timestamp
        };
        pattern.format(ms, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::{build, ints, rows, run, schemaless, texts, transform, typed, types, whole_texts};
    use arrow::array::{BinaryArray, Decimal128Array, TimestampMillisecondArray};
    use model::Values;

    fn cast_value(spec: &str, batch: Batch) -> (Vec<String>, Vec<String>) {
        run(&mut *transform("cast-value", &[("spec", spec)]), batch)
    }

    #[test]
    fn schemaless_whole_values_are_cast_as_java_casts_them() {
        for (spec, from, expected) in [
            ("int8", "300", "44"),
            ("int8", "-1.9e9", "0"),
            ("int32", "3000000000.5", "2147483647"),
            ("int64", "42.9", "42"),
            ("float32", "0.1", "0.1"),
            ("float64", "42", "42.0"),
            ("boolean", "0.9", "false"),
            ("boolean", "\"TRUE\"", "true"),
            ("boolean", "\"yes\"", "false"),
            ("string", "1e7", "\"1.0E7\""),
            ("string", "true", "\"true\""),
            ("int64", "true", "1"),
            ("int16", "\"-5\"", "-5"),
            ("float64", "\"NaN\"", "\"NaN\""),
        ] {
            assert_eq!(cast_value(spec, schemaless(&[from])), (vec![expected.to_owned()], vec![]), "{spec} {from}");
        }
        let made = cast_value("int8", schemaless(&["\"300\"", "null", "[]"]));
        assert_eq!(made.0, ["null"]);
        assert_eq!(made.1[0], "Value (300) was out of range for requested data type");
        assert_eq!(
            made.1[1],
            "Cast transformation does not support casting from ARRAY; supported types are [INT8, INT16, INT32, INT64, FLOAT32, FLOAT64, BOOLEAN, STRING, BYTES]"
        );
    }

    #[test]
    fn typed_and_schemaless_casts_agree() {
        let columns = |target: &str| {
            let batch = typed(vec![
                ("l", ints(vec![Some(300), Some(-1), None])),
                ("d", Arc::new(Float64Array::from(vec![Some(1.5), Some(-3e9), None]))),
                ("b", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
                ("s", texts(vec![Some("1"), Some("0"), None])),
            ]);
            let made = transform("cast-value", &[("spec", &format!("l:{target},d:{target},b:{target},s:{target}"))]);
            let Values::Typed(made) = { made }.apply(batch).batch.values else { unreachable!() };
            made
        };
        for name in ["int8", "int16", "int32", "int64", "float32", "float64", "boolean", "string"] {
            let target = target(name).unwrap();
            let made = columns(name);
            for (column, values) in [
                [Value::from(300), Value::from(-1)],
                [Value::from(1.5), Value::from(-3e9)],
                [Value::from(true), Value::from(false)],
                [Value::from("1"), Value::from("0")],
            ]
            .iter()
            .enumerate()
            {
                for (row, value) in values.iter().enumerate() {
                    let typed = text_column(made.column(column)).unwrap();
                    let typed = typed.as_string::<i32>().value(row).to_owned();
                    let json = match cast_json(value, target).unwrap() {
                        Value::String(text) => text,
                        Value::Number(number) if number.is_f64() => double_text(number.as_f64().unwrap()),
                        other => other.to_string(),
                    };
                    assert_eq!(typed, json, "{value} to {name}");
                }
                assert!(made.column(column).is_null(2));
            }
        }
    }

    #[test]
    fn logical_types_are_cast_by_their_numbers_and_written_as_dates() {
        let batch = |column: ArrayRef| typed(vec![("f", column)]);
        let time = || -> ArrayRef {
            Arc::new(TimestampMillisecondArray::from(vec![1000, 86_400_000, 86_400_001]).with_timezone("UTC"))
        };
        assert_eq!(cast_value("f:int64", batch(time())).0, ["{f: 1000}", "{f: 86400000}", "{f: 86400001}"]);
        assert_eq!(
            cast_value("f:string", batch(time())).0,
            ["{f: 00:00:01.000Z}", "{f: 1970-01-02}", "{f: 1970-01-02T00:00:00.001Z}"]
        );
        let days: ArrayRef = Arc::new(arrow::array::Date32Array::from(vec![3]));
        assert_eq!(cast_value("f:int32", batch(days.clone())).0, ["{f: 3}"]);
        assert_eq!(cast_value("f:string", batch(days)).0, ["{f: 1970-01-04}"]);
        let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"\xfe\xdc"]));
        assert_eq!(cast_value("f:string", batch(bytes.clone())).0, ["{f: /tw=}"]);
        assert_eq!(cast_value("f:int8", batch(bytes)).1, ["Unexpected type in Cast transformation: class [B"]);
        let decimal: ArrayRef =
            Arc::new(Decimal128Array::from(vec![900_719_925_474_099_350]).with_precision_and_scale(20, 2).unwrap());
        assert_eq!(cast_value("f:int64", batch(decimal.clone())).0, ["{f: 9007199254740993}"]);
        assert_eq!(cast_value("f:string", batch(decimal)).0, ["{f: 9007199254740993.50}"]);
    }

    #[test]
    fn rows_out_of_range_are_refused_alone() {
        let made = cast_value("a:int8", typed(vec![("a", texts(vec![Some("1"), Some("x"), None]))]));
        assert_eq!(made.0, ["{a: 1}", "{a: null}"]);
        assert_eq!(made.1, ["Value (x) was out of range for requested data type"]);
        let made = cast_value("int8", whole_texts(vec![Some("300"), Some("7"), None]));
        assert_eq!(made.0, ["7", "null"]);
    }

    #[test]
    fn missing_fields_become_null_in_maps_and_nothing_in_structs() {
        assert_eq!(cast_value("x:int8", schemaless(&[r#"{"a":1}"#])).0, [r#"{"a":1,"x":null}"#]);
        let made = transform("cast-value", &[("spec", "x:int8")]).apply(typed(vec![("a", ints(vec![Some(1)]))])).batch;
        assert_eq!((types(&made.values), rows(&made.values)), (vec!["a Int64?".to_owned()], vec!["{a: 1}".to_owned()]));
    }

    #[test]
    fn a_field_with_a_default_keeps_it_in_the_new_type() {
        let field = Field::new("a", DataType::Int64, true).with_metadata([(DEFAULT_MARK.into(), "42".into())].into());
        let columns = StructArray::new(vec![field].into(), vec![ints(vec![None, Some(1)])], None);
        let batch = || crate::values::testing::batch(Values::Typed(columns.clone()));
        assert_eq!(cast_value("a:string", batch()).0, ["{a: 42}", "{a: 1}"]);
        let pairs = [("spec", "a:string"), ("replace.null.with.default", "false")];
        let made = transform("cast-value", &pairs).apply(batch()).batch;
        assert_eq!(rows(&made.values), ["{a: null}", "{a: 1}"]);
        let Values::Typed(made) = made.values else { unreachable!() };
        assert_eq!(made.fields()[0].metadata()[DEFAULT_MARK], "\"42\"");
    }

    #[test]
    fn wrong_specs_are_refused() {
        for (spec, why) in [
            ("foo:faketype", "Invalid type found in casting spec: faketype"),
            ("faketype", "Invalid type found in casting spec: faketype"),
            (
                "foo:array",
                "Cast transformation does not support casting to ARRAY; supported types are [INT8, INT16, INT32, INT64, FLOAT32, FLOAT64, BOOLEAN, STRING]",
            ),
            (
                "int8,int32",
                "Cast transformations that specify a type to cast the entire value to may only specify a single cast in their spec",
            ),
            ("a:b:c", "Invalid rename mapping: a:b:c"),
            ("", "Must specify at least one field to cast."),
        ] {
            let error = build("cast-value", &[("spec", spec)]).err().unwrap();
            assert_eq!(error.message, format!("Invalid value {spec} for configuration spec: {why}"));
        }
    }
}
