//! Time zones under Joda's ids, and what paths and schedules ask of them: offsets, local time, days.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use model::{Check, Importance, Key, Kind, Width};

/// Zone of time based paths and of the rotation schedule.
pub const TIMEZONE: Key = Key::new(
    "timezone",
    Kind::String,
    "Time zone of time based paths and of rotate.schedule.interval.ms: an id of the tz database (America/Los_Angeles), UTC, \
     an offset (+05:30), or one of Java's three-letter ids (PST). Required by both.",
)
.default("")
.check(Check::With(check_id))
.importance(Importance::Medium)
.group("Partitioner", 6)
.shown(Width::Long, "Timezone");

/// The keys that are declared here.
pub const KEYS: &[Key] = &[TIMEZONE];

fn check_id(id: &str) -> Result<(), String> {
    if id.is_empty() { Ok(()) } else { Zone::new(id).map(|_| ()).map_err(|error| error.to_string()) }
}

/// The text is no time zone; the sentence is Joda's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The datetime zone id '{0}' is not recognised")]
pub struct UnknownZone(String);

/// A time zone: the tz database that sluice carries, or a fixed offset.
#[derive(Debug, Clone)]
pub struct Zone {
    id: String,
    rules: TimeZone,
}

/// A stretch of time in which a zone has one offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Its first instant.
    pub(crate) start_ms: i64,
    /// The first instant after it.
    pub(crate) end_ms: i64,
    /// Local time minus UTC.
    pub(crate) offset_ms: i64,
}

impl Segment {
    pub(crate) fn contains(&self, at_ms: i64) -> bool {
        self.start_ms <= at_ms && at_ms < self.end_ms
    }
}

/// Java's three-letter ids (`java.time.ZoneId.SHORT_IDS`) that the tz database does not have or means differently.
const SHORT_IDS: &[(&str, &str)] = &[
    ("ACT", "Australia/Darwin"),
    ("AET", "Australia/Sydney"),
    ("AGT", "America/Argentina/Buenos_Aires"),
    ("ART", "Africa/Cairo"),
    ("AST", "America/Anchorage"),
    ("BET", "America/Sao_Paulo"),
    ("BST", "Asia/Dhaka"),
    ("CAT", "Africa/Harare"),
    ("CNT", "America/St_Johns"),
    ("CST", "America/Chicago"),
    ("CTT", "Asia/Shanghai"),
    ("EAT", "Africa/Addis_Ababa"),
    ("ECT", "Europe/Paris"),
    ("EST", "-05:00"),
    ("HST", "-10:00"),
    ("IET", "America/Indiana/Indianapolis"),
    ("IST", "Asia/Kolkata"),
    ("JST", "Asia/Tokyo"),
    ("MIT", "Pacific/Apia"),
    ("MST", "-07:00"),
    ("NET", "Asia/Yerevan"),
    ("NST", "Pacific/Auckland"),
    ("PLT", "Asia/Karachi"),
    ("PNT", "America/Phoenix"),
    ("PRT", "America/Puerto_Rico"),
    ("PST", "America/Los_Angeles"),
    ("SST", "Pacific/Guadalcanal"),
    ("VST", "Asia/Ho_Chi_Minh"),
];

impl Zone {
    /// The zone that Joda's `DateTimeZone.forID` gives for `id`, and Java's three-letter ids, which Joda lacks in part.
    pub fn new(id: &str) -> Result<Zone, UnknownZone> {
        let unknown = || UnknownZone(id.to_owned());
        if matches!(id, "UTC" | "UT" | "GMT" | "Z") {
            return Ok(Zone::utc());
        }
        if let Some((_, long)) = SHORT_IDS.iter().find(|(short, _)| *short == id) {
            let rules = Zone::new(long)?.rules;
            return Ok(Zone { id: id.to_owned(), rules });
        }
        let offset = ["UTC", "GMT", "UT"].iter().find_map(|prefix| id.strip_prefix(prefix)).unwrap_or(id);
        if offset.starts_with(['+', '-']) {
            let seconds = parse_offset_seconds(offset).ok_or_else(unknown)?;
            return Zone::fixed(seconds).ok_or_else(unknown);
        }
        // "Etc/Unknown" is jiff's name for the absence of a zone.
        let rules = TimeZoneDatabase::bundled().get(id).ok().filter(|rules| !rules.is_unknown()).ok_or_else(unknown)?;
        Ok(Zone { id: rules.iana_name().unwrap_or(id).to_owned(), rules })
    }

    /// UTC.
    pub(crate) fn utc() -> Zone {
        Zone { id: "UTC".to_owned(), rules: TimeZone::UTC }
    }

    fn fixed(seconds: i32) -> Option<Zone> {
        if seconds == 0 {
            return Some(Zone::utc());
        }
        let sign = if seconds < 0 { '-' } else { '+' };
        let (hours, minutes, rest) = (seconds.abs() / 3600, seconds.abs() / 60 % 60, seconds.abs() % 60);
        let rest = if rest == 0 { String::new() } else { format!(":{rest:02}") };
        let rules = TimeZone::fixed(Offset::from_seconds(seconds).ok()?);
        Some(Zone { id: format!("{sign}{hours:02}:{minutes:02}{rest}"), rules })
    }

    /// Its id, as Joda's `ZZZ` prints it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Local time minus UTC at `at_ms`; `None` outside the years -9999 to 9999.
    pub(crate) fn offset_ms(&self, at_ms: i64) -> Option<i64> {
        Some(i64::from(self.rules.to_offset(timestamp(at_ms)?).seconds()) * 1000)
    }

    /// The abbreviation in force at `at_ms` (`PST`); `None` where the zone has only an offset.
    pub(crate) fn abbreviation(&self, at_ms: i64) -> Option<String> {
        let info = self.rules.to_offset_info(timestamp(at_ms)?);
        let text = info.abbreviation();
        text.bytes().all(|byte| byte.is_ascii_alphabetic()).then(|| text.to_owned())
    }

    /// The stretch of one offset around `at_ms`; `None` outside the years -9999 to 9999.
    pub(crate) fn segment(&self, at_ms: i64) -> Option<Segment> {
        let after = Timestamp::from_millisecond(at_ms.saturating_add(1)).unwrap_or(Timestamp::MAX);
        let start = self.rules.preceding(after).next();
        let end = self.rules.following(timestamp(at_ms)?).next();
        Some(Segment {
            start_ms: start.map_or(i64::MIN, |transition| transition.timestamp().as_millisecond()),
            end_ms: end.map_or(i64::MAX, |transition| transition.timestamp().as_millisecond()),
            offset_ms: self.offset_ms(at_ms)?,
        })
    }

    /// The instant of the local time `local_ms`, as Joda's `DateTimeZone.convertLocalToUTC(local, strict = false)` says:
    /// a time in a gap moves forward by the gap, a time in an overlap is the earlier one west of Greenwich and the later
    /// one east of it.
    pub(crate) fn local_to_utc_ms(&self, local_ms: i64) -> Option<i64> {
        let offset_at_local = self.offset_ms(local_ms)?;
        let first_guess = local_ms - offset_at_local;
        let offset = self.offset_ms(first_guess)?;
        if offset == offset_at_local || offset_at_local >= 0 {
            return Some(local_ms - offset);
        }
        let next = |at_ms: i64| timestamp(at_ms).and_then(|at| self.rules.following(at).next());
        let in_gap = next(first_guess).map(|one| one.timestamp()) != next(local_ms - offset).map(|one| one.timestamp());
        Some(local_ms - if in_gap { offset_at_local } else { offset })
    }

    /// First instant of the local day that holds `at_ms`, and of the next; `None` outside the years -9999 to 9999.
    pub(crate) fn day_ms(&self, at_ms: i64) -> Option<(i64, i64)> {
        let start = timestamp(at_ms)?.to_zoned(self.rules.clone()).start_of_day().ok()?;
        let next = start.tomorrow().ok()?.start_of_day().ok()?;
        Some((start.timestamp().as_millisecond(), next.timestamp().as_millisecond()))
    }
}

fn timestamp(at_ms: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(at_ms).ok()
}

/// Seconds of `+hh`, `+hh:mm`, `+hhmm` or `+hh:mm:ss`.
fn parse_offset_seconds(text: &str) -> Option<i32> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let digits: String = match rest.len() {
        2 | 4 | 6 => rest.to_owned(),
        5 | 8 if rest.split(':').all(|part| part.len() == 2) => rest.replace(':', ""),
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let pair = |at: usize| digits.get(at..at + 2).map_or(Some(0), |pair| pair.parse::<i32>().ok());
    let (hours, minutes, seconds) = (pair(0)?, pair(2)?, pair(4)?);
    (hours < 24 && minutes < 60 && seconds < 60).then_some(sign * (hours * 3600 + minutes * 60 + seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn ids_of_joda_and_java_are_known() {
        let summer = ms("2024-07-01T00:00:00Z");
        for (id, shown, hours) in [
            ("UTC", "UTC", 0.0),
            ("GMT", "UTC", 0.0),
            ("Etc/UTC", "Etc/UTC", 0.0),
            ("Etc/GMT+5", "Etc/GMT+5", -5.0),
            ("+05:30", "+05:30", 5.5),
            ("-0800", "-08:00", -8.0),
            ("+00:00", "UTC", 0.0),
            ("GMT+2", "", f64::NAN),
            ("UTC+02:00", "+02:00", 2.0),
            ("America/Los_Angeles", "America/Los_Angeles", -7.0),
            ("US/Pacific", "US/Pacific", -7.0),
            ("PST", "PST", -7.0),
            ("EST", "EST", -5.0),
            ("EST5EDT", "EST5EDT", -4.0),
            ("IST", "IST", 5.5),
            ("Asia/Kathmandu", "Asia/Kathmandu", 5.75),
        ] {
            match Zone::new(id) {
                Ok(zone) => {
                    assert_eq!(zone.id(), shown, "{id}");
                    assert_eq!(zone.offset_ms(summer), Some((hours * HOUR_MS as f64) as i64), "{id}");
                }
                Err(error) => {
                    assert!(shown.is_empty(), "{id}: {error}");
                    assert_eq!(error.to_string(), format!("The datetime zone id '{id}' is not recognised"));
                }
            }
        }
    }

    #[test]
    fn every_short_id_is_in_the_database() {
        for (short, _) in SHORT_IDS {
            assert!(Zone::new(short).is_ok(), "{short}");
        }
    }

    #[test]
    fn what_is_no_zone_is_refused() {
        for id in ["", "Mars/Olympus", "+25:00", "+1", "+é1", "+12:3x", "Etc/Unknown", "../etc/passwd", "XYZ"] {
            assert!(Zone::new(id).is_err(), "{id}");
        }
    }

    #[test]
    fn local_times_in_gaps_move_forward_and_overlaps_follow_joda() {
        for (zone, local, instant) in [
            ("America/Los_Angeles", "2024-03-10T02:00:00Z", "2024-03-10T10:00:00Z"),
            ("America/Los_Angeles", "2024-03-10T02:30:00Z", "2024-03-10T10:30:00Z"),
            ("America/Los_Angeles", "2024-11-03T01:00:00Z", "2024-11-03T08:00:00Z"),
            ("America/Santiago", "2024-09-08T00:00:00Z", "2024-09-08T04:00:00Z"),
            ("Europe/Berlin", "2024-03-31T02:00:00Z", "2024-03-31T01:00:00Z"),
            ("Europe/Berlin", "2024-10-27T02:00:00Z", "2024-10-27T01:00:00Z"),
            ("Asia/Kolkata", "2024-01-01T05:30:00Z", "2024-01-01T00:00:00Z"),
        ] {
            let zone = Zone::new(zone).unwrap();
            assert_eq!(zone.local_to_utc_ms(ms(local)), Some(ms(instant)), "{} {local}", zone.id());
        }
    }

    #[test]
    fn days_have_their_length_on_days_that_change_the_clock() {
        for (zone, at, start, hours) in [
            ("America/Los_Angeles", "2024-03-10T20:00:00Z", "2024-03-10T08:00:00Z", 23),
            ("America/Los_Angeles", "2024-11-03T07:00:00Z", "2024-11-03T07:00:00Z", 25),
            ("America/Santiago", "2024-09-08T12:00:00Z", "2024-09-08T04:00:00Z", 23),
            ("UTC", "1969-12-31T23:59:59Z", "1969-12-31T00:00:00Z", 24),
        ] {
            let (first, next) = Zone::new(zone).unwrap().day_ms(ms(at)).unwrap();
            assert_eq!((first, next - first), (ms(start), hours * HOUR_MS), "{zone} {at}");
        }
    }

    #[test]
    fn a_segment_begins_and_ends_at_transitions() {
        let zone = Zone::new("Europe/Berlin").unwrap();
        let (start, end) = (ms("2024-03-31T01:00:00Z"), ms("2024-10-27T01:00:00Z"));
        let summer = Segment { start_ms: start, end_ms: end, offset_ms: 2 * HOUR_MS };
        assert_eq!((zone.segment(start), zone.segment(end - 1)), (Some(summer), Some(summer)));
        assert_eq!(zone.segment(start - 1).map(|winter| (winter.end_ms, winter.offset_ms)), Some((start, HOUR_MS)));
        assert_eq!(zone.segment(end).map(|winter| winter.start_ms), Some(end));
    }

    #[test]
    fn instants_outside_the_calendar_are_refused() {
        for id in ["UTC", "America/Santiago", "+05:30"] {
            let zone = Zone::new(id).unwrap();
            for at_ms in [i64::MIN, i64::MAX, 400_000_000_000_000] {
                assert_eq!(zone.segment(at_ms), None);
                assert_eq!(zone.day_ms(at_ms), None);
                assert_eq!(zone.local_to_utc_ms(at_ms), None);
            }
        }
    }
}
