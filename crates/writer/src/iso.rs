//! Times written as text, as upstream's `RecordField` extractor reads them: digits, or ISO-8601.

use jiff::civil::{Date, ISOWeekDate, Weekday};

/// Milliseconds since the epoch of `text`: up to 19 digits are milliseconds already, anything else must be ISO-8601 as
/// Joda's `ISODateTimeFormat.dateTimeParser` takes it. Text without a zone is UTC, where upstream takes the zone of its
/// machine. The error says what is expected.
pub(crate) fn parse_ms(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if (1..=19).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| format!("{text} is outside the range of milliseconds"));
    }
    parse_iso_ms(text).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        format!("Invalid format: {shown:?} is neither a number of milliseconds nor ISO-8601")
    })
}

fn parse_iso_ms(text: &str) -> Option<i64> {
    let mut rest = Scanner { rest: text };
    let date = if text.starts_with('T') { Date::new(1970, 1, 1).ok()? } else { date(&mut rest)? };
    let mut day_ms = 0;
    let mut offset_ms = 0;
    let time_only = text.starts_with('T');
    if rest.take('T') {
        if time_only || rest.starts_with_digit() {
            day_ms = time_ms(&mut rest)?;
        }
        offset_ms = zone_ms(&mut rest)?;
    }
    if !rest.rest.is_empty() {
        return None;
    }
    let days = date.since(Date::ZERO).ok()?.get_days() - Date::new(1970, 1, 1).ok()?.since(Date::ZERO).ok()?.get_days();
    Some(i64::from(days) * 86_400_000 + day_ms - offset_ms)
}

/// What is left of a text.
struct Scanner<'a> {
    rest: &'a str,
}

impl Scanner<'_> {
    fn take(&mut self, expected: char) -> bool {
        match self.rest.strip_prefix(expected) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn starts_with_digit(&self) -> bool {
        self.rest.starts_with(|c: char| c.is_ascii_digit())
    }

    fn digits_ahead(&self) -> usize {
        self.rest.bytes().take_while(u8::is_ascii_digit).count()
    }

    /// A number of one to `most` digits.
    fn number(&mut self, most: usize) -> Option<i64> {
        let length = self.digits_ahead().min(most);
        let (number, rest) = self.rest.split_at(length);
        self.rest = rest;
        number.parse().ok()
    }

    /// `.` or `,` and digits, as a part of `unit_ms`; 0 if there is none.
    fn fraction_ms(&mut self, unit_ms: i64) -> Option<i64> {
        if !self.take('.') && !self.take(',') {
            return Some(0);
        }
        let (digits, rest) = self.rest.split_at(self.digits_ahead());
        self.rest = rest;
        // Nine digits of an hour are 4 microseconds: more cannot change the millisecond that they are cut to.
        let kept = &digits[..digits.len().min(9)];
        let scale = 10i64.pow(u32::try_from(kept.len()).ok()?);
        Some(kept.parse::<i64>().ok()? * unit_ms / scale)
    }
}

/// `yyyy[-MM[-dd]]`, `yyyy-DDD` or `xxxx-Www[-e]`.
fn date(scanner: &mut Scanner<'_>) -> Option<Date> {
    let sign = if scanner.take('-') { -1 } else { 1 };
    let _ = sign == 1 && scanner.take('+');
    let year = i16::try_from(sign * scanner.number(9)?).ok()?;
    if !scanner.take('-') {
        return Date::new(year, 1, 1).ok();
    }
    if scanner.take('W') {
        let week = i8::try_from(scanner.number(2)?).ok()?;
        let day = if scanner.take('-') { scanner.number(1)? } else { 1 };
        let day = Weekday::from_monday_one_offset(i8::try_from(day).ok()?).ok()?;
        return ISOWeekDate::new(year, week, day).ok().map(ISOWeekDate::date);
    }
    if scanner.digits_ahead() == 3 {
        let day = i16::try_from(scanner.number(3)?).ok()?;
        return Date::new(year, 1, 1).ok()?.with().day_of_year(day).build().ok();
    }
    let month = i8::try_from(scanner.number(2)?).ok()?;
    let day = if scanner.take('-') { scanner.number(2)? } else { 1 };
    Date::new(year, month, i8::try_from(day).ok()?).ok()
}

/// `HH[:mm[:ss]]`, the last of them with a fraction.
fn time_ms(scanner: &mut Scanner<'_>) -> Option<i64> {
    let mut total_ms = 0;
    for (unit_ms, limit) in [(3_600_000, 24), (60_000, 60), (1_000, 60)] {
        total_ms += scanner.number(2).filter(|number| *number < limit)? * unit_ms;
        if scanner.rest.starts_with(['.', ',']) || unit_ms == 1_000 {
            return Some(total_ms + scanner.fraction_ms(unit_ms)?);
        }
        if !scanner.take(':') {
            return Some(total_ms);
        }
    }
    Some(total_ms)
}

/// `Z`, `+HH[[:]mm[[:]ss]]` with a fraction of the seconds, or nothing, which is UTC.
fn zone_ms(scanner: &mut Scanner<'_>) -> Option<i64> {
    if scanner.rest.is_empty() || scanner.take('Z') {
        return Some(0);
    }
    let sign = match (scanner.take('+'), scanner.take('-')) {
        (true, _) => 1,
        (false, true) => -1,
        (false, false) => return None,
    };
    let mut total_ms = 0;
    for (unit_ms, limit) in [(3_600_000, 24), (60_000, 60), (1_000, 60)] {
        if scanner.digits_ahead() < 2 {
            return None;
        }
        total_ms += scanner.number(2).filter(|number| *number < limit)? * unit_ms;
        if unit_ms == 1_000 {
            total_ms += scanner.fraction_ms(unit_ms)?;
        }
        if !scanner.take(':') && !scanner.starts_with_digit() {
            break;
        }
    }
    Some(sign * total_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digits_are_milliseconds_and_iso_is_read_as_joda_does() {
        for (text, expected) in [
            ("0", 0),
            ("-5", -5),
            ("1427961600000", 1_427_961_600_000),
            ("2015", 2015),
            ("2015-04-02T01:00:00-07:00", 1_427_961_600_000),
            ("2015-04-02T08:00:00Z", 1_427_961_600_000),
            ("2015-04-02T08:00:00", 1_427_961_600_000),
            ("2015-04-02T08", 1_427_961_600_000),
            ("2015-04-02T08Z", 1_427_961_600_000),
            ("2015-04-02T13:30+0530", 1_427_961_600_000),
            ("2015-04-02T13:30+05:30", 1_427_961_600_000),
            ("2015-4-2T8:0:0", 1_427_961_600_000),
            ("2015-04-02T08:00:00.123456789Z", 1_427_961_600_123),
            ("2015-04-02T08:00:00,5", 1_427_961_600_500),
            ("2015-04-02T08.5", 1_427_963_400_000),
            ("2015-04-02T08:00.5", 1_427_961_630_000),
            ("2015-04-02T", 1_427_932_800_000),
            ("2015-04-02TZ", 1_427_932_800_000),
            ("2015-04-02", 1_427_932_800_000),
            ("2015-092", 1_427_932_800_000),
            ("2015-W14-4", 1_427_932_800_000),
            ("2015-W14", 1_427_673_600_000),
            ("2015-04", 1_427_846_400_000),
            ("T00:00:01", 1_000),
            ("+2015-04-02", 1_427_932_800_000),
            ("1969-12-31T23:59:59.999Z", -1),
            ("-0001-01-01", -62_198_755_200_000),
        ] {
            assert_eq!(parse_ms(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "-",
            "yesterday",
            "2015-04-02 08:00:00",
            "2015-13-01",
            "2015-02-29",
            "2015-366",
            "2015-W54",
            "2015-04-02T24:00:00",
            "2015-04-02T08:60",
            "2015-04-02T08:00:00 UTC",
            "2015-04-02T08:00:00+7",
            "T",
            "é",
            "99999999999999999999",
            "9223372036854775808",
            "2015-04-02Z",
            "2015-04-02T08:00:00.",
            "2015/04/02",
        ] {
            assert!(parse_ms(text).is_err(), "{text:?}");
        }
        let error = parse_ms("yesterday").unwrap_err();
        assert_eq!(error, "Invalid format: \"yesterday\" is neither a number of milliseconds nor ISO-8601");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-+0-9TWZ:.,é ]{0,30}") {
            let _ = parse_ms(&text);
        }

        #[test]
        fn what_jiff_prints_is_read_back(ms in -62_000_000_000_000i64..250_000_000_000_000) {
            let text = jiff::Timestamp::from_millisecond(ms).unwrap().to_string();
            prop_assert_eq!(parse_ms(&text), Ok(ms));
        }
    }
}
