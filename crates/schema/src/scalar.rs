//! One JSON scalar as a value of a given type, or the reason why it does not fit.

use arrow::datatypes::i256;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use simd_json::{Node, StaticNode};

/// Base64 as Jackson reads it: the standard alphabet, padding not insisted on.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const MILLIS_PER_DAY: i64 = 86_400_000;

/// Digits up to which a DOUBLE gives back the decimal text it was read from.
const EXACT_DIGITS_MAX: usize = 15;

/// A whole number that `T` can hold; decimals are refused, `1.0` too.
pub(crate) fn integer<T: TryFrom<i64> + TryFrom<u64>>(node: &Node<'_>) -> Option<T> {
    match node {
        Node::Static(StaticNode::I64(number)) => T::try_from(*number).ok(),
        Node::Static(StaticNode::U64(number)) => T::try_from(*number).ok(),
        Node::Static(_) | Node::String(_) | Node::Object { .. } | Node::Array { .. } => None,
    }
}

/// Any number, but no integer beyond INT64, as inference has it.
pub(crate) fn double(node: &Node<'_>) -> Option<f64> {
    match node {
        Node::Static(StaticNode::F64(number)) => Some(*number),
        other => integer::<i64>(other).map(|number| number as f64),
    }
}

/// Any number whose magnitude FLOAT can hold.
pub(crate) fn float(node: &Node<'_>) -> Option<f32> {
    double(node).map(|number| number as f32).filter(|number| number.is_finite())
}

/// Appends the bytes that a base64 text stands for.
pub(crate) fn base64_into(text: &str, bytes: &mut Vec<u8>) -> Option<()> {
    BASE64.decode_vec(text, bytes).ok()
}

/// Days since the epoch: a number of them, or, if `texts` are allowed, an ISO date.
pub(crate) fn days(node: &Node<'_>, texts: bool) -> Option<i32> {
    match node {
        Node::String(text) if texts => {
            let date: Date = text.parse().ok()?;
            i32::try_from(midnight_ms(date)? / MILLIS_PER_DAY).ok()
        }
        other => integer(other),
    }
}

fn midnight_ms(date: Date) -> Option<i64> {
    Some(date.to_datetime(Time::midnight()).to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// Milliseconds of the day: a number of them, or, if `texts` are allowed, an ISO time.
pub(crate) fn time_ms(node: &Node<'_>, texts: bool) -> Option<i32> {
    let ms = match node {
        Node::String(text) if texts => {
            let time: Time = text.parse().ok()?;
            let seconds = i32::from(time.hour()) * 3600 + i32::from(time.minute()) * 60 + i32::from(time.second());
            seconds * 1000 + i32::from(time.millisecond())
        }
        other => integer(other)?,
    };
    (0..86_400_000).contains(&ms).then_some(ms)
}

/// An instant: a number of milliseconds since the epoch, or, if `texts` are allowed, an ISO date and time; without an
/// offset it is UTC.
pub(crate) enum Instant {
    Millis(i64),
    Exact(Timestamp),
}

impl Instant {
    pub(crate) fn read(node: &Node<'_>, texts: bool) -> Option<Instant> {
        let Node::String(text) = node else {
            return integer(node).map(Instant::Millis);
        };
        if !texts {
            return None;
        }
        if let Ok(exact) = text.parse::<Timestamp>() {
            return Some(Instant::Exact(exact));
        }
        let local: DateTime = text.parse().ok()?;
        Some(Instant::Exact(local.to_zoned(TimeZone::UTC).ok()?.timestamp()))
    }

    pub(crate) fn millis(self) -> Option<i64> {
        match self {
            Instant::Millis(ms) => Some(ms),
            Instant::Exact(exact) => Some(exact.as_nanosecond().div_euclid(1_000_000) as i64),
        }
    }

    pub(crate) fn micros(self) -> Option<i64> {
        match self {
            Instant::Millis(ms) => ms.checked_mul(1000),
            Instant::Exact(exact) => Some(exact.as_nanosecond().div_euclid(1000) as i64),
        }
    }
}

/// How a string stands for a decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecimalText {
    /// Its digits: `"12.30"`.
    Digits,
    /// Its unscaled value in base64, as JsonConverter's `decimal.format=BASE64`.
    Base64,
}

/// The unscaled value of a decimal that is exactly representable with `scale` digits behind the point and `precision` in
/// all. A JSON number with a point of more than 15 digits may have lost some on the way and is refused.
pub(crate) fn decimal(node: &Node<'_>, precision: u8, scale: i8, texts: DecimalText) -> Option<i256> {
    let unscaled = match node {
        Node::String(text) => match texts {
            DecimalText::Digits => unscaled_of_digits(text, scale)?,
            DecimalText::Base64 => unscaled_of_base64(text)?,
        },
        Node::Static(StaticNode::I64(number)) => shifted(*number < 0, &number.unsigned_abs().to_string(), scale)?,
        Node::Static(StaticNode::U64(number)) => shifted(false, &number.to_string(), scale)?,
        Node::Static(StaticNode::F64(number)) => {
            let text = format!("{number:e}");
            let mantissa = text.split('e').next().unwrap_or_default();
            if mantissa.bytes().filter(u8::is_ascii_digit).count() > EXACT_DIGITS_MAX {
                return None;
            }
            unscaled_of_digits(&text, scale)?
        }
        Node::Static(StaticNode::Bool(_) | StaticNode::Null) | Node::Object { .. } | Node::Array { .. } => return None,
    };
    let limit = i256::from_i128(10).checked_pow(u32::from(precision))?;
    (unscaled < limit && unscaled > limit.wrapping_neg()).then_some(unscaled)
}

/// `digits` followed by `zeros` zeros.
fn shifted(negative: bool, digits: &str, zeros: i8) -> Option<i256> {
    let zeros = usize::try_from(zeros).ok()?;
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(i256::ZERO);
    }
    // 76 digits always fit into 256 bits, and no precision is larger.
    if digits.len() + zeros > 76 {
        return None;
    }
    let value = i256::from_string(&format!("{digits}{}", "0".repeat(zeros)))?;
    Some(if negative { value.wrapping_neg() } else { value })
}

fn unscaled_of_digits(text: &str, scale: i8) -> Option<i256> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i16>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut zeros = i64::from(scale) + i64::from(exponent) - i64::try_from(fraction.len()).ok()?;
    // Zeros at the end are no digits that would be lost.
    while zeros < 0 && digits.ends_with('0') {
        digits.pop();
        zeros += 1;
    }
    if digits.is_empty() {
        return Some(i256::ZERO);
    }
    let significant = digits.trim_start_matches('0');
    shifted(negative, significant, if significant.is_empty() { 0 } else { i8::try_from(zeros).ok()? })
}

fn unscaled_of_base64(text: &str) -> Option<i256> {
    let mut bytes = Vec::new();
    base64_into(text, &mut bytes)?;
    if bytes.is_empty() || bytes.len() > 32 {
        return None;
    }
    let mut wide = [if bytes[0] & 0x80 == 0 { 0 } else { 0xff }; 32];
    wide[32 - bytes.len()..].copy_from_slice(&bytes);
    Some(i256::from_be_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: f64) -> Node<'static> {
        Node::Static(StaticNode::F64(value))
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        let digits = DecimalText::Digits;
        for (node, precision, scale, texts, expected) in [
            (Node::String("12.3"), 10, 2, digits, Some(1230)),
            (Node::String("-0.05"), 10, 2, digits, Some(-5)),
            (Node::String("1.2300"), 10, 2, digits, Some(123)),
            (Node::String("1.234"), 10, 2, digits, None),
            (Node::String("1e3"), 10, 0, digits, Some(1000)),
            (Node::String("0.000"), 10, 0, digits, Some(0)),
            (Node::String("99999999999"), 10, 0, digits, None),
            (Node::String("9999999999"), 10, 0, digits, Some(9_999_999_999)),
            (Node::String("1e30000"), 38, 0, digits, None),
            (Node::String(""), 10, 0, digits, None),
            (Node::String("-"), 10, 0, digits, None),
            (Node::String("1-2"), 10, 0, digits, None),
            (number(12.34), 10, 2, digits, Some(1234)),
            (number(0.1 + 0.2), 38, 18, digits, None),
            (number(1e20), 38, 0, digits, Some(100_000_000_000_000_000_000)),
            (Node::Static(StaticNode::I64(-7)), 10, 3, digits, Some(-7000)),
            (Node::Static(StaticNode::U64(u64::MAX)), 38, 1, digits, Some(i128::from(u64::MAX) * 10)),
            (Node::String("AJw="), 10, 2, DecimalText::Base64, Some(156)),
            (Node::String("/w=="), 10, 2, DecimalText::Base64, Some(-1)),
            (Node::String("%"), 10, 2, DecimalText::Base64, None),
            (Node::Static(StaticNode::Bool(true)), 10, 2, digits, None),
        ] {
            assert_eq!(decimal(&node, precision, scale, texts), expected.map(i256::from_i128), "{node:?}");
        }
    }

    #[test]
    fn dates_and_times_are_iso_texts_or_numbers() {
        let texts = |text| Node::String(text);
        assert_eq!(days(&texts("1970-01-02"), true), Some(1));
        assert_eq!(days(&texts("1969-12-31"), true), Some(-1));
        assert_eq!(days(&texts("1970-01-02"), false), None);
        assert_eq!(days(&texts("1970-02-30"), true), None);
        assert_eq!(time_ms(&texts("00:00:01.5"), true), Some(1500));
        assert_eq!(time_ms(&Node::Static(StaticNode::I64(86_400_000)), true), None);
        for (text, expected) in [
            ("1970-01-01T00:00:01Z", Some(1_000_000)),
            ("1970-01-01T01:00:00.000001+01:00", Some(1)),
            ("1970-01-01 00:00:01", Some(1_000_000)),
            ("1969-12-31T23:59:59.9999999Z", Some(-1)),
            ("9999-12-30T00:00:00Z", Some(253_402_128_000_000_000)),
            ("1970-01-02", Some(86_400_000_000)),
            ("yesterday", None),
        ] {
            assert_eq!(Instant::read(&texts(text), true).and_then(Instant::micros), expected, "{text}");
        }
        assert_eq!(Instant::read(&Node::Static(StaticNode::U64(5)), true).and_then(Instant::micros), Some(5000));
        assert_eq!(Instant::read(&Node::Static(StaticNode::I64(i64::MAX)), true).and_then(Instant::micros), None);
    }

    #[test]
    fn numbers_are_held_to_their_range() {
        assert_eq!(integer::<i8>(&Node::Static(StaticNode::I64(-128))), Some(-128));
        assert_eq!(integer::<i8>(&Node::Static(StaticNode::U64(128))), None);
        assert_eq!(integer::<i64>(&number(1.0)), None);
        assert_eq!(double(&Node::Static(StaticNode::U64(u64::MAX))), None);
        assert_eq!(float(&number(1e39)), None);
    }
}
