//! Java's date patterns (`java.text.SimpleDateFormat`) in UTC and English, lenient as they are by default: numbers roll over,
//! and what follows the last field is not read. Years count in the Gregorian calendar, also before 1582.

use std::fmt::Write;

const DAY_MS: i64 = 86_400_000;
/// Two digits of a year mean one of the hundred years from this one. Java moves it with the day it runs on (80 years back).
const TWO_DIGIT_YEARS_FROM: i64 = 1946;
/// Digits of one number beyond which nothing is read; Java clips such numbers.
const NUMBER_DIGITS_MAX: usize = 15;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
/// Names of zones that are read, with their offsets in minutes.
const ZONES: [(&str, i64); 14] = [
    ("UTC", 0),
    ("GMT", 0),
    ("UT", 0),
    ("CEST", 120),
    ("CET", 60),
    ("BST", 60),
    ("EST", -300),
    ("EDT", -240),
    ("CST", -360),
    ("CDT", -300),
    ("MST", -420),
    ("MDT", -360),
    ("PST", -480),
    ("PDT", -420),
];

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct DatePattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Field { field: Field, count: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Era,
    Year,
    WeekYear,
    Month,
    WeekOfYear,
    WeekOfMonth,
    DayOfYear,
    DayOfMonth,
    DayOfWeekInMonth,
    DayName,
    DayNumber,
    HalfDay,
    Hour,
    ClockHour,
    HalfDayHour,
    HalfDayClockHour,
    Minute,
    Second,
    Milli,
    ZoneName,
    ZoneOffset,
    ZoneIso,
}

impl Field {
    fn of(letter: char) -> Option<Field> {
        Some(match letter {
            'G' => Field::Era,
            'y' => Field::Year,
            'Y' => Field::WeekYear,
            'M' | 'L' => Field::Month,
            'w' => Field::WeekOfYear,
            'W' => Field::WeekOfMonth,
            'D' => Field::DayOfYear,
            'd' => Field::DayOfMonth,
            'F' => Field::DayOfWeekInMonth,
            'E' => Field::DayName,
            'u' => Field::DayNumber,
            'a' => Field::HalfDay,
            'H' => Field::Hour,
            'k' => Field::ClockHour,
            'K' => Field::HalfDayHour,
            'h' => Field::HalfDayClockHour,
            'm' => Field::Minute,
            's' => Field::Second,
            'S' => Field::Milli,
            'z' => Field::ZoneName,
            'Z' => Field::ZoneOffset,
            'X' => Field::ZoneIso,
            _other => return None,
        })
    }

    /// Whether the field is written as a number when it has `count` letters.
    fn is_number(self, count: usize) -> bool {
        match self {
            Field::Month => count <= 2,
            Field::Era | Field::DayName | Field::HalfDay | Field::ZoneName | Field::ZoneOffset | Field::ZoneIso => {
                false
            }
            Field::Year
            | Field::WeekYear
            | Field::WeekOfYear
            | Field::WeekOfMonth
            | Field::DayOfYear
            | Field::DayOfMonth
            | Field::DayOfWeekInMonth
            | Field::DayNumber
            | Field::Hour
            | Field::ClockHour
            | Field::HalfDayHour
            | Field::HalfDayClockHour
            | Field::Minute
            | Field::Second
            | Field::Milli => true,
        }
    }
}

impl DatePattern {
    /// Compiles `text`; the error is Java's.
    pub(crate) fn new(text: &str) -> Result<DatePattern, String> {
        let mut parts = Vec::new();
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            if letter == '\'' {
                literal(&mut parts, &quoted(&mut letters)?);
            } else if letter.is_ascii_alphabetic() {
                let field = Field::of(letter).ok_or_else(|| format!("Illegal pattern character '{letter}'"))?;
                let mut count = 1;
                while letters.next_if_eq(&letter).is_some() {
                    count += 1;
                }
                if field == Field::ZoneIso && count > 3 {
                    return Err(format!("invalid ISO 8601 format: length={count}"));
                }
                parts.push(Part::Field { field, count });
            } else {
                literal(&mut parts, letter.encode_utf8(&mut [0; 4]));
            }
        }
        Ok(DatePattern { text: text.to_owned(), parts })
    }

    /// The pattern itself.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Appends the moment `ms`, milliseconds since the epoch, to `out`.
    pub(crate) fn format(&self, ms: i64, out: &mut String) {
        let moment = Moment::new(ms);
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Field { field, count } => moment.write(*field, *count, out),
            }
        }
    }

    /// The moment that `text` means, in milliseconds since the epoch; `None` if it does not match the pattern.
    pub(crate) fn parse(&self, text: &str) -> Option<i64> {
        let mut read = Read::default();
        let mut rest = text;
        for (index, part) in self.parts.iter().enumerate() {
            match part {
                Part::Literal(literal) => rest = rest.strip_prefix(literal.as_str())?,
                Part::Field { field, count } => {
                    let next = self.parts.get(index + 1);
                    let abuts = matches!(next, Some(Part::Field { field, count }) if field.is_number(*count));
                    rest = read.field(*field, *count, abuts, rest.trim_start_matches([' ', '\t']))?;
                }
            }
        }
        read.moment()
    }
}

fn literal(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        Some(Part::Literal(before)) => before.push_str(text),
        Some(Part::Field { .. }) | None => parts.push(Part::Literal(text.to_owned())),
    }
}

/// What stands behind an opening quote up to the closing one; two quotes are one, inside and outside.
fn quoted(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, String> {
    if letters.next_if_eq(&'\'').is_some() {
        return Ok("'".to_owned());
    }
    let mut text = String::new();
    loop {
        match letters.next() {
            None => return Err("Unterminated quote".to_owned()),
            Some('\'') if letters.next_if_eq(&'\'').is_none() => return Ok(text),
            Some(letter) => text.push(letter),
        }
    }
}

/// A moment taken apart.
struct Moment {
    days: i64,
    day_ms: i64,
    year: i64,
    month: i64,
    day: i64,
}

impl Moment {
    fn new(ms: i64) -> Moment {
        let days = ms.div_euclid(DAY_MS);
        let (year, month, day) = civil(days);
        Moment { days, day_ms: ms.rem_euclid(DAY_MS), year, month, day }
    }

    /// 0 for Sunday.
    fn weekday(&self) -> i64 {
        (self.days + 4).rem_euclid(7)
    }

    /// Year and number of the week, which starts on Sunday; the one with 1 January is the first.
    fn week(&self) -> (i64, i64) {
        let saturday = self.days + 6 - self.weekday();
        let year = civil(saturday).0;
        (year, (saturday - days_of(year, 1, 1)) / 7 + 1)
    }

    fn write(&self, field: Field, count: usize, out: &mut String) {
        let hour = self.day_ms / 3_600_000;
        let or = |value: i64, zero: i64| if value == 0 { zero } else { value };
        match field {
            Field::Era => out.push_str(if self.year > 0 { "AD" } else { "BC" }),
            Field::Year => write_year(if self.year > 0 { self.year } else { 1 - self.year }, count, out),
            Field::WeekYear => write_year(self.week().0, count, out),
            Field::Month if count > 2 => write_name(MONTHS[(self.month - 1) as usize], count, out),
            Field::Month => pad(self.month, count, out),
            Field::WeekOfYear => pad(self.week().1, count, out),
            Field::WeekOfMonth => {
                let first = (self.weekday() - (self.day - 1)).rem_euclid(7);
                pad((self.day - 1 + first) / 7 + 1, count, out);
            }
            Field::DayOfYear => pad(self.days - days_of(self.year, 1, 1) + 1, count, out),
            Field::DayOfMonth => pad(self.day, count, out),
            Field::DayOfWeekInMonth => pad((self.day - 1) / 7 + 1, count, out),
            Field::DayName => write_name(DAYS[self.weekday() as usize], count, out),
            Field::DayNumber => pad(or(self.weekday(), 7), count, out),
            Field::HalfDay => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Field::Hour => pad(hour, count, out),
            Field::ClockHour => pad(or(hour, 24), count, out),
            Field::HalfDayHour => pad(hour % 12, count, out),
            Field::HalfDayClockHour => pad(or(hour % 12, 12), count, out),
            Field::Minute => pad(self.day_ms / 60_000 % 60, count, out),
            Field::Second => pad(self.day_ms / 1000 % 60, count, out),
            Field::Milli => pad(self.day_ms % 1000, count, out),
            Field::ZoneName => out.push_str(if count > 3 { "Coordinated Universal Time" } else { "UTC" }),
            Field::ZoneOffset => out.push_str("+0000"),
            Field::ZoneIso => out.push('Z'),
        }
    }
}

fn write_year(year: i64, count: usize, out: &mut String) {
    if count == 2 { pad(year.rem_euclid(100), 2, out) } else { pad(year, count, out) }
}

fn write_name(name: &str, count: usize, out: &mut String) {
    out.push_str(if count > 3 { name } else { &name[..3] });
}

fn pad(value: i64, digits: usize, out: &mut String) {
    write!(out, "{value:0digits$}").expect("a String takes all text");
}

/// What a text said.
#[derive(Debug, Default)]
struct Read {
    before_christ: bool,
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    hour: Option<i64>,
    half_day_hour: i64,
    afternoon: bool,
    minute: i64,
    second: i64,
    milli: i64,
    offset_minutes: i64,
}

impl Read {
    /// Reads one field from the start of `text`; what is left of it.
    fn field<'a>(&mut self, field: Field, count: usize, abuts: bool, text: &'a str) -> Option<&'a str> {
        if field.is_number(count) {
            let (value, rest) = number(text, abuts.then_some(count))?;
            self.number(field, count, value, text.len() - rest.len())?;
            return Some(rest);
        }
        match field {
            Field::Month => {
                let (index, rest) = named(&MONTHS, text)?;
                self.month = Some(index as i64 + 1);
                Some(rest)
            }
            Field::DayName => named(&DAYS, text).map(|(_, rest)| rest),
            Field::Era | Field::HalfDay => {
                let names = if field == Field::Era { ["AD", "BC"] } else { ["AM", "PM"] };
                let index = names.iter().position(|name| starts_with(text, name))?;
                let flag = if field == Field::Era { &mut self.before_christ } else { &mut self.afternoon };
                *flag = index == 1;
                Some(&text[2..])
            }
            Field::ZoneName | Field::ZoneOffset => {
                let (minutes, rest) = general_zone(text)?;
                self.offset_minutes = minutes;
                Some(rest)
            }
            Field::ZoneIso => {
                let (minutes, rest) = iso_zone(text, count)?;
                self.offset_minutes = minutes;
                Some(rest)
            }
            Field::Year
            | Field::WeekYear
            | Field::WeekOfYear
            | Field::WeekOfMonth
            | Field::DayOfYear
            | Field::DayOfMonth
            | Field::DayOfWeekInMonth
            | Field::DayNumber
            | Field::Hour
            | Field::ClockHour
            | Field::HalfDayHour
            | Field::HalfDayClockHour
            | Field::Minute
            | Field::Second
            | Field::Milli => None,
        }
    }

    /// Takes the number of `field`, which was `digits` long.
    fn number(&mut self, field: Field, count: usize, value: i64, digits: usize) -> Option<()> {
        match field {
            Field::Year if count <= 2 && digits == 2 && value >= 0 => {
                let century = TWO_DIGIT_YEARS_FROM - TWO_DIGIT_YEARS_FROM % 100;
                let year = century + value;
                self.year = Some(if year < TWO_DIGIT_YEARS_FROM { year + 100 } else { year });
            }
            Field::Year => self.year = Some(value),
            Field::Month => self.month = Some(value),
            Field::DayOfYear => self.day_of_year = Some(value),
            Field::DayOfMonth => self.day = Some(value),
            Field::Hour => self.hour = Some(value),
            Field::ClockHour => self.hour = Some(if value == 24 { 0 } else { value }),
            Field::HalfDayHour => self.half_day_hour = value,
            Field::HalfDayClockHour => self.half_day_hour = if value == 12 { 0 } else { value },
            Field::Minute => self.minute = value,
            Field::Second => self.second = value,
            Field::Milli => self.milli = value,
            Field::DayNumber => {}
            // Java takes these for a date that nobody means; better no date.
            Field::WeekYear | Field::WeekOfYear | Field::WeekOfMonth | Field::DayOfWeekInMonth => return None,
            Field::Era | Field::DayName | Field::HalfDay | Field::ZoneName | Field::ZoneOffset | Field::ZoneIso => {
                return None;
            }
        }
        Some(())
    }

    fn moment(&self) -> Option<i64> {
        let year = self.year.unwrap_or(1970);
        let year = if self.before_christ { 1_i64.checked_sub(year)? } else { year };
        let month = self.month.unwrap_or(1).checked_sub(1)?;
        let first = days_of(year.checked_add(month.div_euclid(12))?, month.rem_euclid(12) + 1, 1);
        let days = match (self.day_of_year, self.day) {
            (Some(day), None) => days_of(year, 1, 1).checked_add(day - 1)?,
            (Some(_) | None, day) => first.checked_add(day.unwrap_or(1) - 1)?,
        };
        let hour = self.hour.unwrap_or(self.half_day_hour + if self.afternoon { 12 } else { 0 });
        let minutes = hour.checked_mul(60)?.checked_add(self.minute)?.checked_sub(self.offset_minutes)?;
        let seconds = minutes.checked_mul(60)?.checked_add(self.second)?;
        days.checked_mul(DAY_MS)?.checked_add(seconds.checked_mul(1000)?)?.checked_add(self.milli)
    }
}

/// The whole number that `text` starts with, of exactly `digits` digits if given, and what follows it.
fn number(text: &str, digits: Option<usize>) -> Option<(i64, &str)> {
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let found = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let wanted = match digits {
        Some(digits) => {
            digits.checked_sub(usize::from(negative)).filter(|digits| *digits <= unsigned.len())?.min(found)
        }
        None => found,
    };
    if wanted == 0 || wanted > NUMBER_DIGITS_MAX {
        return None;
    }
    let value: i64 = unsigned[..wanted].parse().ok()?;
    Some((if negative { -value } else { value }, &unsigned[wanted..]))
}

fn starts_with(text: &str, name: &str) -> bool {
    text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
}

/// Which of `names`, long or cut to three letters, `text` starts with, and what follows.
fn named<'a>(names: &[&str], text: &'a str) -> Option<(usize, &'a str)> {
    let long = names.iter().position(|name| starts_with(text, name)).map(|index| (index, names[index].len()));
    let (index, length) = long.or_else(|| Some((names.iter().position(|name| starts_with(text, &name[..3]))?, 3)))?;
    Some((index, &text[length..]))
}

/// A zone as `z` and `Z` read it: `+0100`, `GMT+1:00` or a name. Offset in minutes.
fn general_zone(text: &str) -> Option<(i64, &str)> {
    if text.starts_with(['+', '-']) {
        return signed_zone(text, false);
    }
    if starts_with(text, "GMT") && text[3..].starts_with(['+', '-']) {
        return signed_zone(&text[3..], true);
    }
    let (name, minutes) = ZONES.iter().find(|(name, _)| starts_with(text, name))?;
    Some((*minutes, &text[name.len()..]))
}

fn signed_zone(text: &str, colon: bool) -> Option<(i64, &str)> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let rest = &text[1..];
    let digits = rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
    let hours: i64 = rest[..digits].parse().ok()?;
    let rest = &rest[digits..];
    let (minutes, rest) = two_digits(if colon { rest.strip_prefix(':')? } else { rest })?;
    zone_minutes(sign, hours, minutes).map(|offset| (offset, rest))
}

/// A zone as `X`, `XX` and `XXX` read it: `Z`, `+01`, `+0100`, `+01:00`. Offset in minutes.
fn iso_zone(text: &str, count: usize) -> Option<(i64, &str)> {
    if let Some(rest) = text.strip_prefix('Z') {
        return Some((0, rest));
    }
    if !text.starts_with(['+', '-']) {
        return None;
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let (hours, rest) = two_digits(&text[1..])?;
    let (minutes, rest) = match count {
        1 => (0, rest),
        2 => two_digits(rest)?,
        _three => two_digits(rest.strip_prefix(':')?)?,
    };
    zone_minutes(sign, hours, minutes).map(|offset| (offset, rest))
}

fn two_digits(text: &str) -> Option<(i64, &str)> {
    let digits = text.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((digits.parse().ok()?, &text[2..]))
}

fn zone_minutes(sign: i64, hours: i64, minutes: i64) -> Option<i64> {
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

/// Days from the epoch to a day of the proleptic Gregorian calendar; years beyond a billion are cut there.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year.clamp(-1_000_000_000, 1_000_000_000) - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of a number of days since the epoch.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn formatted(pattern: &str, ms: i64) -> String {
        let mut out = String::new();
        DatePattern::new(pattern).unwrap().format(ms, &mut out);
        out
    }

    /// Sunday, 5 July 2009, 17:04:09.070 UTC.
    const MOMENT: i64 = 1_246_813_449_070;

    #[test]
    fn moments_are_written_as_java_writes_them() {
        for (pattern, expected) in [
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2009-07-05T17:04:09.070Z"),
            ("yyyy MM dd HH mm ss SSS z", "2009 07 05 17 04 09 070 UTC"),
            ("EEE, d MMM yyyy h:mm a Z", "Sun, 5 Jul 2009 5:04 PM +0000"),
            ("EEEE MMMM yy y G", "Sunday July 09 2009 AD"),
            ("hh 'o''clock' a, zzzz", "05 o'clock PM, Coordinated Universal Time"),
            ("K k u D w W F", "5 17 7 186 28 2 1"),
            ("SSSSSS X''", "000070 Z'"),
            ("YYYY yyyyy", "2009 02009"),
        ] {
            assert_eq!(formatted(pattern, MOMENT), expected, "{pattern}");
        }
        assert_eq!(formatted("yyyy-MM-dd HH:mm:ss.SSS", -1), "1969-12-31 23:59:59.999");
        assert_eq!(formatted("YYYY w", 1_577_750_400_000), "2020 1");
    }

    #[test]
    fn texts_are_read_as_java_reads_them() {
        for (pattern, text, expected) in [
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2009-07-05T17:04:09.070Z", Some(MOMENT)),
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2009-07-05T19:04:09.070+02:00", Some(MOMENT)),
            ("yyyy-MM-dd'T'HH:mm:ss.SSSX", "2009-07-05T15:04:09.070-02", Some(MOMENT)),
            ("yyyyMMddHHmmssSSS", "20090705170409070", Some(MOMENT)),
            ("d MMM yy h:mm:ss.S a z", "5 july 09 5:04:09.70 pm GMT", Some(MOMENT)),
            ("EEE MMM dd HH:mm:ss z yyyy", "Sun Jul 05 12:04:09 EST 2009", Some(MOMENT - 70)),
            ("EEE, dd MMM yyyy HH:mm:ss Z", "Sun, 05 Jul 2009 19:04:09 +0200", Some(MOMENT - 70)),
            ("yyyy", "1970", Some(0)),
            ("HH", "1", Some(3_600_000)),
            ("yyyy-MM-dd", "1970-01-01 and more", Some(0)),
            ("yyyy-MM-dd", "1969-13-01", Some(0)),
            ("yyyy-MM-dd", "1970-1-  1", Some(0)),
            ("yy", "45", Some(2_366_841_600_000)),
            ("yy", "46", Some(-757_382_400_000)),
            ("yyyy D", "1970 2", Some(86_400_000)),
            ("yyyy-MM-dd", "yesterday", None),
            ("yyyy-MM-dd", "1970/01/01", None),
            ("yyyy-MM-dd HH", "1970-01-01", None),
            ("yyyyMMdd", "197001", None),
            ("MMM", "Foo", None),
            ("X", "01", None),
            ("YYYY", "1970", None),
        ] {
            assert_eq!(DatePattern::new(pattern).unwrap().parse(text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn bad_patterns_are_refused_in_javas_words() {
        for (pattern, why) in [
            ("yyyy-nn", "Illegal pattern character 'n'"),
            ("yyyy 'x", "Unterminated quote"),
            ("XXXX", "invalid ISO 8601 format: length=4"),
        ] {
            assert_eq!(DatePattern::new(pattern).unwrap_err(), why);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in -60_000_000_000_000_i64..250_000_000_000_000) {
            for pattern in ["yyyy-MM-dd'T'HH:mm:ss.SSSX", "EEE, d MMMM yyyy hh:mm:ss.SSS a", "yyyyMMddHHmmssSSS"] {
                prop_assert_eq!(DatePattern::new(pattern).unwrap().parse(&formatted(pattern, ms)), Some(ms));
            }
        }

        #[test]
        fn nothing_panics(pattern in "[a-zA-Z' :.-]{0,12}", text in ".{0,24}", ms in any::<i64>()) {
            if let Ok(pattern) = DatePattern::new(&pattern) {
                let _ = pattern.parse(&text);
                pattern.format(ms, &mut String::new());
            }
        }
    }
}
