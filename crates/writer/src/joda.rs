//! Joda-Time's date patterns, compiled: the language of `path.format` (`org.joda.time.format.DateTimeFormat`).

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::zone::Zone;

/// The text is no Joda pattern; the sentence is Joda's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPattern {
    /// A letter that means nothing.
    #[error("Illegal pattern component: {0}")]
    Component(String),
    /// No text at all.
    #[error("Invalid pattern specification")]
    Empty,
}

/// A compiled pattern. Texts (months, days, eras) are English in every locale.
#[derive(Debug, Clone)]
pub(crate) struct Format {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Number { field: Field, digits: usize },
    TwoDigits(Field),
    FractionOfSecond { digits: usize },
    Era,
    Halfday,
    Month { short: bool },
    DayOfWeek { short: bool },
    ZoneName { short: bool },
    ZoneOffset { colon: bool },
    ZoneId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    CenturyOfEra,
    Year,
    YearOfEra,
    WeekYear,
    Week,
    Month,
    DayOfMonth,
    DayOfYear,
    DayOfWeek,
    Hour,
    ClockHour,
    HourOfHalfday,
    ClockHourOfHalfday,
    Minute,
    Second,
}

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
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

impl Format {
    /// Compiles `pattern`; an error if it is empty or has a letter that Joda does not know.
    pub(crate) fn new(pattern: &str) -> Result<Format, BadPattern> {
        if pattern.is_empty() {
            return Err(BadPattern::Empty);
        }
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let Some(first) = rest.chars().next() {
            if first.is_ascii_alphabetic() {
                let run = rest.len() - rest.trim_start_matches(first).len();
                parts.push(part(first, run).ok_or_else(|| BadPattern::Component(rest[..run].to_owned()))?);
                rest = &rest[run..];
            } else {
                let (literal, after) = take_literal(rest);
                parts.push(Part::Literal(literal));
                rest = after;
            }
        }
        Ok(Format { parts })
    }

    /// Appends the text of the instant `at_ms` in `zone`; `None`, and an unspecified part of it, outside the years -9999
    /// to 9999.
    pub(crate) fn print(&self, at_ms: i64, zone: &Zone, out: &mut String) -> Option<()> {
        let offset_ms = zone.offset_ms(at_ms)?;
        let local = Offset::UTC.to_datetime(Timestamp::from_millisecond(at_ms.checked_add(offset_ms)?).ok()?);
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Number { field, digits } => push_number(out, field.of(local), *digits),
                Part::TwoDigits(field) => push_number(out, field.of(local).abs() % 100, 2),
                Part::FractionOfSecond { digits } => push_fraction(out, local.millisecond(), *digits),
                Part::Era => out.push_str(if local.year() <= 0 { "BC" } else { "AD" }),
                Part::Halfday => out.push_str(if local.hour() < 12 { "AM" } else { "PM" }),
                Part::Month { short } => out.push_str(text_of(&MONTHS, local.month(), *short)),
                Part::DayOfWeek { short } => {
                    out.push_str(text_of(&DAYS, local.weekday().to_monday_one_offset(), *short));
                }
                Part::ZoneName { short } => push_zone_name(out, zone, at_ms, offset_ms, *short),
                Part::ZoneOffset { colon } => push_offset(out, offset_ms, *colon),
                Part::ZoneId => out.push_str(zone.id()),
            }
        }
        Some(())
    }
}

impl Field {
    fn of(self, local: DateTime) -> i64 {
        let hour = i64::from(local.hour());
        match self {
            Field::CenturyOfEra => i64::from(local.year()).abs() / 100,
            Field::Year => i64::from(local.year()),
            Field::YearOfEra => i64::from(local.year()).abs(),
            Field::WeekYear => i64::from(local.date().iso_week_date().year()),
            Field::Week => i64::from(local.date().iso_week_date().week()),
            Field::Month => i64::from(local.month()),
            Field::DayOfMonth => i64::from(local.day()),
            Field::DayOfYear => i64::from(local.day_of_year()),
            Field::DayOfWeek => i64::from(local.weekday().to_monday_one_offset()),
            Field::Hour => hour,
            Field::ClockHour => {
                if hour == 0 {
                    24
                } else {
                    hour
                }
            }
            Field::HourOfHalfday => hour % 12,
            Field::ClockHourOfHalfday => {
                if hour % 12 == 0 {
                    12
                } else {
                    hour % 12
                }
            }
            Field::Minute => i64::from(local.minute()),
            Field::Second => i64::from(local.second()),
        }
    }
}

/// What a run of `digits` times `letter` means; `None` if Joda does not know the letter.
fn part(letter: char, digits: usize) -> Option<Part> {
    let number = |field| Some(Part::Number { field, digits });
    match letter {
        'G' => Some(Part::Era),
        'C' => number(Field::CenturyOfEra),
        'x' if digits == 2 => Some(Part::TwoDigits(Field::WeekYear)),
        'y' | 'Y' if digits == 2 => Some(Part::TwoDigits(Field::Year)),
        'x' => number(Field::WeekYear),
        'y' => number(Field::Year),
        'Y' => number(Field::YearOfEra),
        'w' => number(Field::Week),
        'e' => number(Field::DayOfWeek),
        'E' => Some(Part::DayOfWeek { short: digits < 4 }),
        'D' => number(Field::DayOfYear),
        'M' if digits >= 3 => Some(Part::Month { short: digits == 3 }),
        'M' => number(Field::Month),
        'd' => number(Field::DayOfMonth),
        'a' => Some(Part::Halfday),
        'K' => number(Field::HourOfHalfday),
        'h' => number(Field::ClockHourOfHalfday),
        'H' => number(Field::Hour),
        'k' => number(Field::ClockHour),
        'm' => number(Field::Minute),
        's' => number(Field::Second),
        'S' => Some(Part::FractionOfSecond { digits }),
        'z' => Some(Part::ZoneName { short: digits < 4 }),
        'Z' if digits >= 3 => Some(Part::ZoneId),
        'Z' => Some(Part::ZoneOffset { colon: digits == 2 }),
        _ => None,
    }
}

/// The literal that `text` begins with, quotes resolved, and what follows it. A quote that is never closed runs to the
/// end, as in Joda.
fn take_literal(text: &str) -> (String, &str) {
    let mut literal = String::new();
    let mut quoted = false;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\'' {
            if chars.next_if(|(_, next)| *next == '\'').is_some() {
                literal.push('\'');
            } else {
                quoted = !quoted;
            }
        } else if !quoted && c.is_ascii_alphabetic() {
            return (literal, &text[at..]);
        } else {
            literal.push(c);
        }
    }
    (literal, "")
}

fn push_number(out: &mut String, number: i64, digits: usize) {
    let text = number.unsigned_abs().to_string();
    if number < 0 {
        out.push('-');
    }
    out.extend(std::iter::repeat_n('0', digits.saturating_sub(text.len())));
    out.push_str(&text);
}

/// Joda cuts off, does not round, and knows at most 15 digits unless the fraction is zero.
fn push_fraction(out: &mut String, millisecond: i16, digits: usize) {
    if millisecond == 0 {
        out.extend(std::iter::repeat_n('0', digits));
        return;
    }
    let text = format!("{millisecond:03}000000000000");
    out.push_str(&text[..digits.min(text.len())]);
}

fn text_of(names: &[&'static str], number_from_one: i8, short: bool) -> &'static str {
    let name = names[usize::try_from(number_from_one - 1).expect("months and days count from one")];
    if short { &name[..3] } else { name }
}

fn push_offset(out: &mut String, offset_ms: i64, colon: bool) {
    let minutes = offset_ms.abs() / 60_000;
    out.push(if offset_ms < 0 { '-' } else { '+' });
    push_number(out, minutes / 60, 2);
    if colon {
        out.push(':');
    }
    push_number(out, minutes % 60, 2);
}

/// The zone's name; its offset where there is no name, as in Joda.
fn push_zone_name(out: &mut String, zone: &Zone, at_ms: i64, offset_ms: i64, short: bool) {
    let Some(abbreviation) = zone.abbreviation(at_ms) else {
        return push_offset(out, offset_ms, true);
    };
    match long_zone_name(&abbreviation, offset_ms / 3_600_000) {
        Some(long) if !short => out.push_str(long),
        Some(_) | None => out.push_str(&abbreviation),
    }
}

/// The English long names of the zones that have one everywhere the same; others print their abbreviation.
fn long_zone_name(abbreviation: &str, offset_hours: i64) -> Option<&'static str> {
    Some(match (abbreviation, offset_hours) {
        ("UTC", 0) => "Coordinated Universal Time",
        ("GMT", 0) => "Greenwich Mean Time",
        ("BST", 1) => "British Summer Time",
        ("WET", 0) => "Western European Time",
        ("WEST", 1) => "Western European Summer Time",
        ("CET", 1) => "Central European Time",
        ("CEST", 2) => "Central European Summer Time",
        ("EET", 2) => "Eastern European Time",
        ("EEST", 3) => "Eastern European Summer Time",
        ("EST", -5) => "Eastern Standard Time",
        ("EDT", -4) => "Eastern Daylight Time",
        ("CST", -6) => "Central Standard Time",
        ("CDT", -5) => "Central Daylight Time",
        ("MST", -7) => "Mountain Standard Time",
        ("MDT", -6) => "Mountain Daylight Time",
        ("PST", -8) => "Pacific Standard Time",
        ("PDT", -7) => "Pacific Daylight Time",
        ("JST", 9) => "Japan Standard Time",
        ("CST", 8) => "China Standard Time",
        ("IST", 5) => "India Standard Time",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn printed(pattern: &str, at: &str, zone: &str) -> String {
        let at_ms = at.parse::<Timestamp>().unwrap().as_millisecond();
        let mut out = String::new();
        Format::new(pattern).unwrap().print(at_ms, &Zone::new(zone).unwrap(), &mut out).unwrap();
        out
    }

    #[test]
    fn every_letter_prints_as_joda_prints_it() {
        let at = "2015-04-02T13:05:09.078Z";
        for (pattern, expected) in [
            ("G", "AD"),
            ("C", "20"),
            ("CCC", "020"),
            ("Y", "2015"),
            ("YY", "15"),
            ("YYYY", "2015"),
            ("YYYYYY", "002015"),
            ("x", "2015"),
            ("xx", "15"),
            ("xxxx", "2015"),
            ("w", "14"),
            ("www", "014"),
            ("e", "4"),
            ("ee", "04"),
            ("E", "Thu"),
            ("EEE", "Thu"),
            ("EEEE", "Thursday"),
            ("y", "2015"),
            ("yy", "15"),
            ("yyyy", "2015"),
            ("D", "92"),
            ("DDD", "092"),
            ("M", "4"),
            ("MM", "04"),
            ("MMM", "Apr"),
            ("MMMM", "April"),
            ("MMMMM", "April"),
            ("d", "2"),
            ("dd", "02"),
            ("a", "PM"),
            ("K", "1"),
            ("KK", "01"),
            ("h", "1"),
            ("hh", "01"),
            ("H", "13"),
            ("HHH", "013"),
            ("k", "13"),
            ("kk", "13"),
            ("m", "5"),
            ("mm", "05"),
            ("s", "9"),
            ("ss", "09"),
            ("S", "0"),
            ("SS", "07"),
            ("SSS", "078"),
            ("SSSSSS", "078000"),
            ("z", "UTC"),
            ("zzzz", "Coordinated Universal Time"),
            ("Z", "+0000"),
            ("ZZ", "+00:00"),
            ("ZZZ", "UTC"),
            ("'year'=YYYY/'month'=MM/'day'=dd/'hour'=HH", "year=2015/month=04/day=02/hour=13"),
            ("YYYY''MM", "2015'04"),
            ("'o''clock' HH", "o'clock 13"),
            ("''", "'"),
            ("YYYY-MM-dd", "2015-04-02"),
            ("'never closed YYYY", "never closed YYYY"),
            ("YYYYMMdd_HH", "20150402_13"),
            ("'année='YYYYé", "année=2015é"),
        ] {
            assert_eq!(printed(pattern, at, "UTC"), expected, "{pattern}");
        }
    }

    #[test]
    fn midnight_noon_week_years_and_eras_are_joda_s() {
        for (pattern, at, expected) in [
            ("K h H k a", "2024-01-01T00:30:00Z", "0 12 0 24 AM"),
            ("K h H k a", "2024-01-01T12:30:00Z", "0 12 12 12 PM"),
            ("xxxx-ww-e YYYY", "2016-01-03T00:00:00Z", "2015-53-7 2016"),
            ("xxxx-ww-e YYYY", "2024-12-30T00:00:00Z", "2025-01-1 2024"),
            ("D", "2024-12-31T00:00:00Z", "366"),
            ("y Y yy C G", "-000043-03-15T00:00:00Z", "-43 43 43 0 BC"),
            ("yyyy YYYY", "-000043-03-15T00:00:00Z", "-0043 0043"),
            ("SSSSSSSSSSSSSSSSSSSS", "2024-01-01T00:00:00Z", "00000000000000000000"),
        ] {
            assert_eq!(printed(pattern, at, "UTC"), expected, "{pattern} {at}");
        }
    }

    #[test]
    fn zones_print_name_offset_and_id() {
        for (zone, at, expected) in [
            (
                "America/Los_Angeles",
                "2024-01-01T00:00:00Z",
                "PST|Pacific Standard Time|-0800|-08:00|America/Los_Angeles",
            ),
            (
                "America/Los_Angeles",
                "2024-07-01T00:00:00Z",
                "PDT|Pacific Daylight Time|-0700|-07:00|America/Los_Angeles",
            ),
            ("+05:30", "2024-07-01T00:00:00Z", "+05:30|+05:30|+0530|+05:30|+05:30"),
            ("America/Sao_Paulo", "2024-07-01T00:00:00Z", "-03:00|-03:00|-0300|-03:00|America/Sao_Paulo"),
        ] {
            assert_eq!(printed("z|zzzz|Z|ZZ|ZZZ", at, zone), expected, "{zone} {at}");
        }
    }

    #[test]
    fn unknown_letters_are_refused_with_joda_s_text() {
        for (pattern, message) in [
            ("", "Invalid pattern specification"),
            ("YYYY/bb", "Illegal pattern component: bb"),
            ("year=YYYY", "Illegal pattern component: r"),
            ("YYYY-MM-ddTHH", "Illegal pattern component: T"),
            ("L", "Illegal pattern component: L"),
            ("année", "Illegal pattern component: nn"),
        ] {
            assert_eq!(Format::new(pattern).unwrap_err().to_string(), message, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_and_no_instant_panics(pattern in "[GCxweEyYDMdaKhHkmsSzZ'/ é-]{1,12}", at_ms in any::<i64>()) {
            let zone = Zone::new("America/Santiago").unwrap();
            if let Ok(format) = Format::new(&pattern) {
                let _ = format.print(at_ms, &zone, &mut String::new());
                let mut out = String::new();
                prop_assert_eq!(format.print(at_ms % 200_000_000_000_000, &zone, &mut out), Some(()));
            }
        }
    }
}
