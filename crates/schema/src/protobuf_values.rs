//! Protobuf messages that stand for one value: dates, times, timestamps, decimals, wrapped scalars, and, by
//! `recursive.types=json`, messages that hold themselves, as JSON text.

use std::ops::Range;

use arrow::array::ArrayRef;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Time32MillisecondType, TimestampMillisecondType, i256,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};
use serde_json::Value as Json;

use crate::column::Rows;
use crate::fault::{Fault, Outcome};
use crate::protobuf_columns::{Cell, push_text};
use crate::protobuf_wire::{Wire, WireType};
use crate::scalar_columns::{Bytes, Numbers};

/// Digits that 256 bits can hold.
const DIGITS_MAX: u32 = 76;

/// Seconds of 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, between which a timestamp must be.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A column of messages that are one value each. What is on the wire is remembered until the row ends, for a message may
/// come in pieces, which are merged.
pub(crate) struct LateColumn {
    pieces: Vec<Range<usize>>,
    form: Form,
}

/// What the messages stand for.
pub(crate) enum Form {
    /// `google.type.Date`.
    Date(Numbers<Date32Type>),
    /// `google.type.TimeOfDay`, cut to milliseconds.
    Time(Numbers<Time32MillisecondType>),
    /// `google.protobuf.Timestamp`, cut to milliseconds.
    Timestamp(Numbers<TimestampMillisecondType>),
    /// `confluent.type.Decimal` with at most 38 digits.
    Decimal128(Numbers<Decimal128Type>, u8, i8),
    /// `confluent.type.Decimal` with more.
    Decimal256(Numbers<Decimal256Type>, u8, i8),
    /// One of the wrappers of `google.protobuf`, with the default of its type.
    Wrapped(Cell, Value),
    /// Any message, as JSON text.
    Json(Bytes, MessageDescriptor),
}

impl LateColumn {
    pub(crate) fn new(form: Form) -> Self {
        Self { pieces: Vec::new(), form }
    }

    /// A decimal column of this type.
    pub(crate) fn decimal(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Decimal128(precision, scale) => {
                Some(Self::new(Form::Decimal128(Numbers::new(data_type), *precision, *scale)))
            }
            DataType::Decimal256(precision, scale) => {
                Some(Self::new(Form::Decimal256(Numbers::new(data_type), *precision, *scale)))
            }
            _no_decimal => None,
        }
    }

    pub(crate) fn is_date(&self) -> bool {
        matches!(self.form, Form::Date(_))
    }

    pub(crate) fn put(&mut self, piece: Range<usize>) {
        self.pieces.push(piece);
    }

    pub(crate) fn started(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Reads the pieces; none are an empty message.
    pub(crate) fn end_row(&mut self, payload: &[u8]) -> Outcome<()> {
        let pieces = std::mem::take(&mut self.pieces);
        let outcome = self.form.push(payload, &pieces);
        self.pieces = pieces;
        self.pieces.clear();
        outcome
    }

    fn rows(&mut self) -> &mut dyn Rows {
        match &mut self.form {
            Form::Date(column) => column,
            Form::Time(column) => column,
            Form::Timestamp(column) => column,
            Form::Decimal128(column, _, _) => column,
            Form::Decimal256(column, _, _) => column,
            Form::Wrapped(cell, _) => cell.rows(),
            Form::Json(column, _) => column,
        }
    }
}

impl Rows for LateColumn {
    fn begin(&mut self) {}

    fn len(&self) -> usize {
        match &self.form {
            Form::Date(column) => column.len(),
            Form::Time(column) => column.len(),
            Form::Timestamp(column) => column.len(),
            Form::Decimal128(column, _, _) => column.len(),
            Form::Decimal256(column, _, _) => column.len(),
            Form::Wrapped(cell, _) => cell.len(),
            Form::Json(column, _) => column.len(),
        }
    }

    fn push_null(&mut self) {
        self.pieces.clear();
        self.rows().push_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.pieces.clear();
        self.rows().truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        self.rows().finish()
    }
}

impl Form {
    fn push(&mut self, payload: &[u8], pieces: &[Range<usize>]) -> Outcome<()> {
        match self {
            Form::Date(column) => {
                let [year, month, day, _] = numbers(payload, pieces)?;
                column.push(days(year, month, day)?);
            }
            Form::Time(column) => {
                let [hours, minutes, seconds, nanos] = numbers(payload, pieces)?;
                column.push(time_ms(hours, minutes, seconds, nanos)?);
            }
            Form::Timestamp(column) => {
                let [seconds, nanos, _, _] = numbers(payload, pieces)?;
                column.push(timestamp_ms(seconds, i64::from(nanos as i32))?);
            }
            Form::Decimal128(column, precision, scale) => {
                let unscaled = decimal(payload, pieces, *precision, *scale)?;
                column.push_if(unscaled.to_i128()).ok_or_else(|| Fault::new("is a decimal of too many digits"))?;
            }
            Form::Decimal256(column, precision, scale) => column.push(decimal(payload, pieces, *precision, *scale)?),
            Form::Wrapped(cell, default) => return push_wrapped(cell, default, payload, pieces),
            Form::Json(column, descriptor) => {
                let message = dynamic(descriptor, payload, pieces)?;
                push_text(column, &json_of_message(&message).to_string())?;
            }
        }
        Ok(())
    }
}

/// The varints of fields 1 to 4, 0 where there are none.
fn numbers(payload: &[u8], pieces: &[Range<usize>]) -> Outcome<[i64; 4]> {
    let mut found = [0; 4];
    for piece in pieces {
        let mut wire = Wire::part(payload, piece);
        while !wire.is_empty() {
            let (number, wire_type) = wire.tag()?;
            match usize::try_from(number).ok().and_then(|number| found.get_mut(number - 1)) {
                Some(place) => {
                    wire_type.expect(WireType::Varint)?;
                    *place = wire.varint()? as i64;
                }
                None => wire.skip(number, wire_type)?,
            }
        }
    }
    Ok(found)
}

fn days(year: i64, month: i64, day: i64) -> Outcome<i32> {
    let (year, month, day) = (year as i32, month as i32, day as i32);
    let date = (|| Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok())();
    let midnight = date.filter(|_| year > 0).and_then(|date| date.to_zoned(TimeZone::UTC).ok());
    midnight.and_then(|midnight| i32::try_from(midnight.timestamp().as_second().div_euclid(86_400)).ok()).ok_or_else(
        || Fault::new(format!("{year:04}-{month:02}-{day:02} is no date; year, month and day must be given")),
    )
}

fn time_ms(hours: i64, minutes: i64, seconds: i64, nanos: i64) -> Outcome<i32> {
    let (hours, minutes, seconds, nanos) = (hours as i32, minutes as i32, seconds as i32, nanos as i32);
    let fits = (0..24).contains(&hours)
        && (0..60).contains(&minutes)
        && (0..60).contains(&seconds)
        && (0..1_000_000_000).contains(&nanos);
    if !fits {
        return Err(Fault::new(format!("{hours:02}:{minutes:02}:{seconds:02} and {nanos} ns is no time of day")));
    }
    Ok(((hours * 60 + minutes) * 60 + seconds) * 1000 + nanos / 1_000_000)
}

fn timestamp_ms(seconds: i64, nanos: i64) -> Outcome<i64> {
    if !SECONDS.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return Err(Fault::new(format!(
            "Timestamp is not valid: {seconds} s and {nanos} ns; it must be between the years 1 and 9999, its ns 0 to 999999999"
        )));
    }
    Ok(seconds * 1000 + nanos / 1_000_000)
}

/// The unscaled value of a `confluent.type.Decimal`, brought to the scale of the column.
fn decimal(payload: &[u8], pieces: &[Range<usize>], precision: u8, scale: i8) -> Outcome<i256> {
    let (mut unscaled, mut written_scale) = (0..0, 0);
    for piece in pieces {
        let mut wire = Wire::part(payload, piece);
        while !wire.is_empty() {
            let (number, wire_type) = wire.tag()?;
            match number {
                1 => {
                    wire_type.expect(WireType::Span)?;
                    unscaled = wire.span()?;
                }
                3 => {
                    wire_type.expect(WireType::Varint)?;
                    written_scale = wire.varint()? as i32;
                }
                _ => wire.skip(number, wire_type)?,
            }
        }
    }
    let bytes = payload.get(unscaled).unwrap_or_default();
    let fit = big_endian(bytes).and_then(|unscaled| rescale(unscaled, written_scale, i32::from(scale)));
    let limit = i256::from_i128(10).checked_pow(u32::from(precision));
    match (fit, limit) {
        (Some(fit), Some(limit)) if fit < limit && fit > limit.wrapping_neg() => Ok(fit),
        (Some(_) | None, _) => Err(Fault::new(format!(
            "is a decimal of {} bytes with scale {written_scale} that is not exactly a DECIMAL({precision},{scale}); \
             set scale and precision in the field's confluent.field_meta",
            bytes.len()
        ))),
    }
}

/// A two's complement number; none of more than 256 bits.
fn big_endian(bytes: &[u8]) -> Option<i256> {
    let Some(first) = bytes.first() else { return Some(i256::ZERO) };
    let sign = if first & 0x80 == 0 { 0 } else { 0xff };
    let start = bytes.iter().position(|byte| *byte != sign).unwrap_or(bytes.len()).saturating_sub(1);
    let bytes = &bytes[start..];
    let mut wide = [sign; 32];
    let place = wide.len().checked_sub(bytes.len())?;
    wide[place..].copy_from_slice(bytes);
    let number = i256::from_be_bytes(wide);
    (number.is_negative() == (sign == 0xff)).then_some(number)
}

fn rescale(unscaled: i256, from: i32, to: i32) -> Option<i256> {
    if unscaled == i256::ZERO {
        return Some(unscaled);
    }
    let difference = i64::from(to) - i64::from(from);
    let digits = u32::try_from(difference.unsigned_abs()).ok().filter(|digits| *digits <= DIGITS_MAX)?;
    let factor = i256::from_i128(10).checked_pow(digits)?;
    if difference >= 0 {
        return unscaled.checked_mul(factor);
    }
    (unscaled.checked_rem(factor)? == i256::ZERO).then(|| unscaled.checked_div(factor)).flatten()
}

fn push_wrapped(cell: &mut Cell, default: &Value, payload: &[u8], pieces: &[Range<usize>]) -> Outcome<()> {
    let row = cell.len();
    for piece in pieces {
        let mut wire = Wire::part(payload, piece);
        while !wire.is_empty() {
            let (number, wire_type) = wire.tag()?;
            match number {
                1 => cell.put(&mut wire, wire_type, row)?,
                _ => wire.skip(number, wire_type)?,
            }
        }
    }
    if cell.len() == row { cell.push_default(default, payload) } else { Ok(()) }
}

fn dynamic(descriptor: &MessageDescriptor, payload: &[u8], pieces: &[Range<usize>]) -> Outcome<DynamicMessage> {
    // Messages that follow each other on the wire are merged by reading them as one.
    let joined: Vec<u8> =
        pieces.iter().flat_map(|piece| payload.get(piece.clone()).unwrap_or_default()).copied().collect();
    DynamicMessage::decode(descriptor.clone(), joined.as_slice())
        .map_err(|error| Fault::new(format!("is no {}: {error}", descriptor.full_name())))
}

/// A message as JSON: fields by their names in the schema, enumerations by the names of their values, bytes as base64.
/// `google.protobuf.Struct` and its parts are the JSON that they stand for. Fields that are not there are left out.
fn json_of_message(message: &DynamicMessage) -> Json {
    match message.descriptor().full_name() {
        "google.protobuf.Struct" | "google.protobuf.ListValue" => {
            let only = message.fields().next().map(|(field, value)| json_of(&field.kind(), value));
            let empty = if message.descriptor().name() == "Struct" {
                Json::Object(Default::default())
            } else {
                Json::Array(Vec::new())
            };
            only.unwrap_or(empty)
        }
        "google.protobuf.Value" => {
            let chosen = message.fields().next();
            let chosen = chosen.filter(|(field, _)| field.name() != "null_value");
            chosen.map_or(Json::Null, |(field, value)| json_of(&field.kind(), value))
        }
        _any_other => {
            let pairs = message.fields().map(|(field, value)| (field.name().to_owned(), json_of(&field.kind(), value)));
            Json::Object(pairs.collect())
        }
    }
}

fn json_of(kind: &Kind, value: &Value) -> Json {
    match value {
        Value::Bool(flag) => Json::Bool(*flag),
        Value::I32(number) => Json::from(*number),
        Value::I64(number) => Json::from(*number),
        Value::U32(number) => Json::from(*number),
        Value::U64(number) => Json::from(*number),
        Value::F32(number) => number_or_text(f64::from(*number)),
        Value::F64(number) => number_or_text(*number),
        Value::String(text) => Json::String(text.clone()),
        Value::Bytes(bytes) => Json::String(STANDARD.encode(bytes)),
        Value::EnumNumber(number) => {
            let known = kind.as_enum().and_then(|names| names.get_value(*number));
            known.map_or_else(|| Json::from(*number), |known| Json::String(known.name().to_owned()))
        }
        Value::Message(message) => json_of_message(message),
        Value::List(elements) => Json::Array(elements.iter().map(|element| json_of(kind, element)).collect()),
        Value::Map(entries) => {
            let value_kind = kind.as_message().map(|entry| entry.map_entry_value_field().kind());
            let mut pairs: Vec<(String, Json)> = entries
                .iter()
                .map(|(key, value)| (key_text(key), json_of(value_kind.as_ref().unwrap_or(kind), value)))
                .collect();
            pairs.sort_by(|(left, _), (right, _)| left.cmp(right));
            Json::Object(pairs.into_iter().collect())
        }
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(flag) => flag.to_string(),
        MapKey::I32(number) => number.to_string(),
        MapKey::I64(number) => number.to_string(),
        MapKey::U32(number) => number.to_string(),
        MapKey::U64(number) => number.to_string(),
        MapKey::String(text) => text.clone(),
    }
}

fn number_or_text(number: f64) -> Json {
    serde_json::Number::from_f64(number).map_or_else(|| Json::String(number.to_string()), Json::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_brought_to_the_columns_scale_or_refused() {
        for (bytes, from, to, expected) in [
            (&[0x04u8, 0xd2][..], 2, 2, Some(1234)),
            (&[0x04, 0xd2], 2, 4, Some(123_400)),
            (&[0x04, 0xce], 2, 1, Some(123)),
            (&[0x04, 0xd2], 2, 1, None),
            (&[0xff], 0, 0, Some(-1)),
            (&[0xff, 0xff, 0x80], 0, 0, Some(-128)),
            (&[], 5, 0, Some(0)),
            (&[1], i32::MIN, 0, None),
            (&[0], i32::MAX, 0, Some(0)),
        ] {
            let found = big_endian(bytes).and_then(|unscaled| rescale(unscaled, from, to));
            assert_eq!(found, expected.map(i256::from_i128), "{bytes:?} {from} {to}");
        }
        assert_eq!(big_endian(&[0; 40]), Some(i256::ZERO));
        assert_eq!(big_endian(&[0xff; 40]), Some(i256::from_i128(-1)));
        assert_eq!(big_endian(&[0x7f; 33]), None);
        assert_eq!(big_endian(&[&[0u8][..], &[0xff; 32]].concat()), None);
    }

    #[test]
    fn dates_times_and_timestamps_are_checked() {
        assert_eq!(days(1970, 1, 2), Ok(1));
        assert_eq!(days(1969, 12, 31), Ok(-1));
        assert_eq!(days(2024, 2, 29), Ok(19_782));
        for (year, month, day) in
            [(2023, 2, 29), (0, 1, 1), (2024, 0, 1), (2024, 13, 1), (99_999, 1, 1), (2024, 1, 300)]
        {
            assert!(days(year, month, day).is_err(), "{year} {month} {day}");
        }
        assert_eq!(time_ms(23, 59, 59, 999_999_999), Ok(86_399_999));
        assert!(time_ms(24, 0, 0, 0).is_err() && time_ms(0, 0, 0, -1).is_err());
        assert_eq!(timestamp_ms(-1, 1_000_000), Ok(-999));
        assert!(timestamp_ms(i64::MAX, 0).is_err() && timestamp_ms(0, 1_000_000_000).is_err());
    }
}
