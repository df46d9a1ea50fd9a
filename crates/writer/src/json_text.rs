//! Values as JSON text: Arrow columns as Kafka Connect's JsonConverter prints them, and JSON text brought onto one line.

use arrow::array::{
    Array, AsArray, BooleanArray, GenericBinaryArray, GenericStringArray, OffsetSizeTrait, PrimitiveArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, Time32MillisecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, UInt8Type, UInt16Type, UInt32Type,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// How decimals are shown (`json.decimal.format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecimalText {
    /// The bytes of the unscaled number, in Base64.
    Base64,
    /// A number.
    Numeric,
}

/// Prints the rows of one column; found out once for each array what it is.
pub(crate) struct Printer<'a> {
    array: &'a dyn Array,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Null,
    Boolean(&'a BooleanArray),
    Int8(&'a PrimitiveArray<Int8Type>),
    Int16(&'a PrimitiveArray<Int16Type>),
    Int32(&'a PrimitiveArray<Int32Type>),
    Int64(&'a PrimitiveArray<Int64Type>),
    UInt8(&'a PrimitiveArray<UInt8Type>),
    UInt16(&'a PrimitiveArray<UInt16Type>),
    UInt32(&'a PrimitiveArray<UInt32Type>),
    Float32(&'a PrimitiveArray<Float32Type>),
    Float64(&'a PrimitiveArray<Float64Type>),
    Date(&'a PrimitiveArray<Date32Type>),
    Time(&'a PrimitiveArray<Time32MillisecondType>),
    TimestampMillis(&'a PrimitiveArray<TimestampMillisecondType>),
    TimestampMicros(&'a PrimitiveArray<TimestampMicrosecondType>),
    Decimal128(&'a PrimitiveArray<Decimal128Type>, DecimalText),
    Decimal256(&'a PrimitiveArray<Decimal256Type>, DecimalText),
    Text(&'a GenericStringArray<i32>),
    LargeText(&'a GenericStringArray<i64>),
    Bytes(&'a GenericBinaryArray<i32>),
    LargeBytes(&'a GenericBinaryArray<i64>),
    List(&'a OffsetBuffer<i32>, Box<Printer<'a>>),
    LargeList(&'a OffsetBuffer<i64>, Box<Printer<'a>>),
    /// An object, as its keys are texts.
    TextMap(&'a OffsetBuffer<i32>, Box<Printer<'a>>, Box<Printer<'a>>),
    /// An array of pairs.
    Map(&'a OffsetBuffer<i32>, Box<Printer<'a>>, Box<Printer<'a>>),
    /// Each field with what stands before its value: delimiter, name and colon.
    Struct(Vec<(Vec<u8>, Printer<'a>)>),
}

impl<'a> Printer<'a> {
    /// A printer of `array`, which errors call `name`.
    pub(crate) fn new(name: &str, array: &'a dyn Array, decimals: DecimalText) -> Result<Printer<'a>, String> {
        let inner = |array: &'a dyn Array| Printer::new(name, array, decimals).map(Box::new);
        let kind = match array.data_type() {
            DataType::Null => Kind::Null,
            DataType::Boolean => Kind::Boolean(array.as_boolean()),
            DataType::Int8 => Kind::Int8(array.as_primitive()),
            DataType::Int16 => Kind::Int16(array.as_primitive()),
            DataType::Int32 => Kind::Int32(array.as_primitive()),
            DataType::Int64 => Kind::Int64(array.as_primitive()),
            DataType::UInt8 => Kind::UInt8(array.as_primitive()),
            DataType::UInt16 => Kind::UInt16(array.as_primitive()),
            DataType::UInt32 => Kind::UInt32(array.as_primitive()),
            DataType::Float32 => Kind::Float32(array.as_primitive()),
            DataType::Float64 => Kind::Float64(array.as_primitive()),
            DataType::Date32 => Kind::Date(array.as_primitive()),
            DataType::Time32(TimeUnit::Millisecond) => Kind::Time(array.as_primitive()),
            DataType::Timestamp(TimeUnit::Millisecond, _) => Kind::TimestampMillis(array.as_primitive()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Kind::TimestampMicros(array.as_primitive()),
            DataType::Decimal128(_, _) => Kind::Decimal128(array.as_primitive(), decimals),
            DataType::Decimal256(_, _) => Kind::Decimal256(array.as_primitive(), decimals),
            DataType::Utf8 => Kind::Text(array.as_string()),
            DataType::LargeUtf8 => Kind::LargeText(array.as_string()),
            DataType::Binary => Kind::Bytes(array.as_binary()),
            DataType::LargeBinary => Kind::LargeBytes(array.as_binary()),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Kind::List(list.offsets(), inner(list.values().as_ref())?)
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                Kind::LargeList(list.offsets(), inner(list.values().as_ref())?)
            }
            DataType::Map(_, _) => {
                let map = array.as_map();
                let (keys, values) = (inner(map.keys().as_ref())?, inner(map.values().as_ref())?);
                match map.key_type() {
                    DataType::Utf8 | DataType::LargeUtf8 => Kind::TextMap(map.offsets(), keys, values),
                    _ => Kind::Map(map.offsets(), keys, values),
                }
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().zip(array.as_struct().columns());
                let columns = columns.enumerate().map(|(index, (field, column))| {
                    let mut before = Vec::with_capacity(field.name().len() + 4);
                    before.push(if index == 0 { b'{' } else { b',' });
                    write_json(field.name(), &mut before);
                    before.push(b':');
                    Ok((before, Printer::new(field.name(), column.as_ref(), decimals)?))
                });
                Kind::Struct(columns.collect::<Result<_, String>>()?)
            }
            other => return Err(format!("field {name} is of type {other}, which has no JSON form")),
        };
        Ok(Printer { array, kind })
    }

    /// Appends the value of `row`.
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.array.is_null(row) {
            out.extend_from_slice(b"null");
            return;
        }
        match &self.kind {
            Kind::Null => out.extend_from_slice(b"null"),
            Kind::Boolean(array) => write_json(&array.value(row), out),
            Kind::Int8(array) => number(array, row, out),
            Kind::Int16(array) => number(array, row, out),
            Kind::Int32(array) => number(array, row, out),
            Kind::Int64(array) => number(array, row, out),
            Kind::UInt8(array) => number(array, row, out),
            Kind::UInt16(array) => number(array, row, out),
            Kind::UInt32(array) => number(array, row, out),
            Kind::Date(array) => number(array, row, out),
            Kind::Time(array) => number(array, row, out),
            Kind::TimestampMillis(array) => number(array, row, out),
            Kind::TimestampMicros(array) => write_micros(array.value(row), out),
            Kind::Float32(array) => {
                let value = array.value(row);
                if value.is_finite() { write_json(&value, out) } else { write_not_finite(f64::from(value), out) }
            }
            Kind::Float64(array) => {
                let value = array.value(row);
                if value.is_finite() { write_json(&value, out) } else { write_not_finite(value, out) }
            }
            Kind::Decimal128(array, DecimalText::Base64) => write_unscaled(&array.value(row).to_be_bytes(), out),
            Kind::Decimal256(array, DecimalText::Base64) => write_unscaled(&array.value(row).to_be_bytes(), out),
            Kind::Decimal128(array, DecimalText::Numeric) => {
                out.extend_from_slice(array.value_as_string(row).as_bytes())
            }
            Kind::Decimal256(array, DecimalText::Numeric) => {
                out.extend_from_slice(array.value_as_string(row).as_bytes())
            }
            Kind::Text(array) => write_json(array.value(row), out),
            Kind::LargeText(array) => write_json(array.value(row), out),
            Kind::Bytes(array) => write_base64(array.value(row), out),
            Kind::LargeBytes(array) => write_base64(array.value(row), out),
            Kind::List(offsets, elements) => write_list(offsets, elements, row, out),
            Kind::LargeList(offsets, elements) => write_list(offsets, elements, row, out),
            Kind::TextMap(offsets, keys, values) => {
                write_entries(offsets, row, (b'{', b'}'), out, |entry, out| {
                    keys.write(entry, out);
                    out.push(b':');
                    values.write(entry, out);
                });
            }
            Kind::Map(offsets, keys, values) => {
                write_entries(offsets, row, (b'[', b']'), out, |entry, out| {
                    out.push(b'[');
                    keys.write(entry, out);
                    out.push(b',');
                    values.write(entry, out);
                    out.push(b']');
                });
            }
            Kind::Struct(columns) => {
                if columns.is_empty() {
                    out.push(b'{');
                }
                for (before, column) in columns {
                    out.extend_from_slice(before);
                    column.write(row, out);
                }
                out.push(b'}');
            }
        }
    }
}

fn write_json(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("scalars can be written to memory");
}

fn number<T: ArrowPrimitiveType<Native: Serialize>>(array: &PrimitiveArray<T>, row: usize, out: &mut Vec<u8>) {
    write_json(&array.value(row), out);
}

/// Jackson quotes what JSON has no number for.
fn write_not_finite(value: f64, out: &mut Vec<u8>) {
    let text: &[u8] = if value.is_nan() {
        b"\"NaN\""
    } else if value > 0.0 {
        b"\"Infinity\""
    } else {
        b"\"-Infinity\""
    };
    out.extend_from_slice(text);
}

/// Milliseconds, as of all timestamps, with a fraction where they are not whole.
fn write_micros(micros: i64, out: &mut Vec<u8>) {
    let (ms, rest) = (micros / 1000, micros % 1000);
    if ms == 0 && rest < 0 {
        out.push(b'-');
    }
    write_json(&ms, out);
    if rest != 0 {
        let text = format!(".{:03}", rest.abs());
        out.extend_from_slice(text.trim_end_matches('0').as_bytes());
    }
}

fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let from = out.len();
    out.resize(from + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[from..]).expect("Base64 takes four bytes for three");
    out.truncate(from + written);
    out.push(b'"');
}

fn write_unscaled(big_endian: &[u8], out: &mut Vec<u8>) {
    write_base64(shortest(big_endian), out);
}

/// The fewest last bytes that are the same number in two's complement (`BigInteger.toByteArray`).
pub(crate) fn shortest(big_endian: &[u8]) -> &[u8] {
    let mut bytes = big_endian;
    while let [first, second, ..] = bytes {
        let is_sign_alone = (*first == 0 && *second < 0x80) || (*first == 0xff && *second >= 0x80);
        if !is_sign_alone {
            break;
        }
        bytes = &bytes[1..];
    }
    bytes
}

fn write_list<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, elements: &Printer<'_>, row: usize, out: &mut Vec<u8>) {
    write_entries(offsets, row, (b'[', b']'), out, |element, out| elements.write(element, out));
}

fn write_entries<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
    row: usize,
    (open, close): (u8, u8),
    out: &mut Vec<u8>,
    write: impl Fn(usize, &mut Vec<u8>),
) {
    out.push(open);
    let (from, to) = (offsets[row].as_usize(), offsets[row + 1].as_usize());
    for entry in from..to {
        if entry > from {
            out.push(b',');
        }
        write(entry, out);
    }
    out.push(close);
}

/// Appends `json` as it is if it is one line, else without the white space between its tokens. Empty text is null.
pub(crate) fn write_compact(json: &[u8], out: &mut Vec<u8>) {
    let json = json.trim_ascii();
    if json.is_empty() {
        out.extend_from_slice(b"null");
        return;
    }
    if !json.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend_from_slice(json);
        return;
    }
    let (mut in_text, mut escaped) = (false, false);
    for byte in json {
        match byte {
            // No valid text holds a raw line break; whatever this is, it must not end the line.
            b'\n' if in_text => out.extend_from_slice(b"\\n"),
            b'\r' if in_text => out.extend_from_slice(b"\\r"),
            b'\n' | b'\r' | b' ' | b'\t' if !in_text => continue,
            _ => out.push(*byte),
        }
        (in_text, escaped) = match (in_text, escaped, byte) {
            (false, _, b'"') => (true, false),
            (true, false, b'"') => (false, false),
            (true, false, b'\\') => (true, true),
            (in_text, _, _) => (in_text, false),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compact(text: &str) -> String {
        let mut out = Vec::new();
        write_compact(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts_stay_as_they_are_unless_they_are_several_lines() {
        for (text, line) in [
            (r#"{"b": 1, "a" :1.50}"#, r#"{"b": 1, "a" :1.50}"#),
            (" 1 ", "1"),
            ("", "null"),
            ("{\r\n  \"a b\": [1,\n2.0e5 ],\t\"c\": \"x \\\" y\" }\n", r#"{"a b":[1,2.0e5],"c":"x \" y"}"#),
            ("{\"a\\\\\":\n\" \"}", "{\"a\\\\\":\" \"}"),
            ("\"broken\ntext", "\"broken\\ntext"),
        ] {
            assert_eq!(compact(text), line);
        }
    }

    #[test]
    fn unscaled_numbers_are_java_s_bytes() {
        for (number, bytes) in
            [(0i128, &[0u8][..]), (127, &[127]), (128, &[0, 128]), (-1, &[255]), (-129, &[255, 127]), (256, &[1, 0])]
        {
            assert_eq!(shortest(&number.to_be_bytes()), bytes, "{number}");
        }
    }

    #[test]
    fn microseconds_are_milliseconds_with_a_fraction() {
        for (micros, text) in [(1_500, "1.5"), (-1, "-0.001"), (2_000, "2"), (-1_500, "-1.5"), (0, "0")] {
            let mut out = Vec::new();
            write_micros(micros, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    proptest! {
        #[test]
        fn a_pretty_text_comes_back_on_one_line(keys in prop::collection::vec("[\\PC\n\"\\\\]{0,6}", 0..5), number: f64) {
            let value: serde_json::Value = keys.iter().map(|key| (key.clone(), serde_json::json!([number, key, null]))).collect();
            let line = compact(&serde_json::to_string_pretty(&value).unwrap());
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(line, value.to_string());
        }
    }
}
