//! Options of Spark's Kafka source, trigger and Delta sink under their own names: which there are, what they are in our
//! keys, and what cannot be had.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{Check, Config, Importance, Invalid, Key, Kind, Offset, Settings, TopicPartition, Width};
use pipeline::PaceRules;
use serde_json::Value;
use source::{NoRecord, StartAt, Starting};

use crate::delta_connector::COMMIT_INTERVAL_MS;

const SUBSCRIBE: Key = spark("subscribe", Kind::String, "As topics.", 6);
const SUBSCRIBE_PATTERN: Key = spark("subscribePattern", Kind::String, "As topics.regex.", 7);
const STARTING_OFFSETS: Key = spark(
    "startingOffsets",
    Kind::String,
    "Where a topic-partition starts that neither the table nor the group knows: earliest, latest, or offsets as JSON, \
     {\"topic\":{\"0\":23,\"1\":-2}}, where -2 is earliest and -1 latest; those that are not named start at earliest. \
     Without it consumer.override.auto.offset.reset decides, which is earliest; Spark's own default is latest. With latest, \
     topic-partitions that appear after the first start begin at their first record.",
    8,
)
.check(Check::With(|text| starting_offsets(text).map(|_| ())));
const STARTING_TIMESTAMP: Key = spark(
    "startingTimestamp",
    Kind::Long,
    "Milliseconds since the epoch: such topic-partitions start at the first record with this time or a later one. Counts \
     before startingOffsetsByTimestamp and startingOffsets.",
    9,
)
.check(Check::AtLeast(0));
const STARTING_OFFSETS_BY_TIMESTAMP: Key = spark(
    "startingOffsetsByTimestamp",
    Kind::String,
    "The same for each topic-partition, as JSON, {\"topic\":{\"0\":1767225600000}}; those that are not named start at \
     earliest. Counts before startingOffsets.",
    10,
)
.check(Check::With(|text| starting_times(text).map(|_| ())));
const BY_TIMESTAMP_STRATEGY: Key = spark(
    "startingOffsetsByTimestampStrategy",
    Kind::String,
    "What to do when a topic-partition has records, and none with the wanted time or a later one: error stops the task, \
     latest starts at its end.",
    11,
)
.default("error")
.check(Check::OneOfIgnoringCase(&["error", "latest"]));
const MAX_OFFSETS: Key = spark(
    "maxOffsetsPerTrigger",
    Kind::Long,
    "Most offsets that are read in a commit interval, shared among topic-partitions in proportion to what waits in each, \
     but one for each that has any. It is for a process: each of its tasks has an equal part (at least 1). Without effect \
     with availableNow, as memory is bounded anyway.",
    12,
)
.check(Check::AtLeast(1));
const TRIGGER: Key = spark(
    "trigger",
    Kind::String,
    "When commits are made: processingTime='1 minute' (also only the time) is commit.interval.ms, at least 100 ms; \
     availableNow is stop.at.end=true, and so is once.",
    13,
)
.check(Check::With(|text| trigger(text).map(|_| ())))
.importance(Importance::Medium);
const FAIL_ON_DATA_LOSS: Key = spark(
    "failOnDataLoss",
    Kind::Boolean,
    "false is on.data.loss=continue: what retention deleted before it was read is warned about.",
    14,
);
const COMPRESSION: Key = spark("compression", Kind::String, "As parquet.codec; uncompressed is none.", 15).check(
    Check::OneOfIgnoringCase(&["none", "uncompressed", "snappy", "gzip", "brotli", "lz4", "lz4raw", "lz4_raw", "zstd"]),
);
/// A text for the history of the table.
pub(crate) const USER_METADATA: Key =
    spark("userMetadata", Kind::String, "A text that the history of the table shows with each commit.", 16);
const OUTPUT_MODE: Key =
    spark("outputMode", Kind::String, "Tables are appended to.", 17).check(Check::OneOfIgnoringCase(&["append"]));
const FORMAT: Key =
    spark("format", Kind::String, "The table is a Delta table.", 18).check(Check::OneOfIgnoringCase(&["delta"]));

const INCLUDE_HEADERS: Key =
    spark("includeHeaders", Kind::Boolean, "true is headers among kafka.columns.", 19).default("false");
const MODE: Key = spark("mode", Kind::String, "Of from_json: as value.converter.schema.mode.", 20)
    .check(Check::OneOfIgnoringCase(&["FAILFAST", "PERMISSIVE"]));
const CORRUPT_RECORD: Key =
    spark("columnNameOfCorruptRecord", Kind::String, "Of from_json: as value.converter.schema.corrupt.column.", 21);

const fn spark(name: &'static str, kind: Kind, doc: &'static str, order: i32) -> Key {
    Key::new(name, kind, doc).ours().group("Spark", order).shown(Width::Medium, name)
}

/// An option that needs nothing here.
const fn idle(name: &'static str, doc: &'static str, why: &'static str) -> Key {
    spark(name, Kind::String, doc, 22).ignored(why)
}

/// Every option of Spark that is taken.
pub(crate) const KEYS: &[Key] = &[
    SUBSCRIBE,
    SUBSCRIBE_PATTERN,
    STARTING_OFFSETS,
    STARTING_TIMESTAMP,
    STARTING_OFFSETS_BY_TIMESTAMP,
    BY_TIMESTAMP_STRATEGY,
    MAX_OFFSETS,
    TRIGGER,
    FAIL_ON_DATA_LOSS,
    COMPRESSION,
    USER_METADATA,
    OUTPUT_MODE,
    FORMAT,
    INCLUDE_HEADERS,
    MODE,
    CORRUPT_RECORD,
    idle(
        "checkpointLocation",
        "Where Spark keeps its offsets; nothing is written there.",
        "offsets live in the table itself, one txn action for each topic-partition; `sluice offsets import` takes them over",
    ),
    idle(
        "minOffsetsPerTrigger",
        "Fewest offsets of a batch.",
        "commits are made by time and size, however few records there are",
    ),
    idle(
        "maxTriggerDelay",
        "How long a batch waits for its fewest offsets.",
        "commits are made by time and size, however few records there are",
    ),
    idle("minPartitions", "How many tasks read.", "each topic-partition is read in order by one task; see tasks.max"),
    idle(
        "maxRecordsPerPartition",
        "How many records a task reads.",
        "each topic-partition is read in order by one task; see tasks.max",
    ),
    idle("maxRecordsPerFile", "How many rows a file has.", "files end by their bytes: flush.bytes"),
    idle(
        "optimizeWrite",
        "Whether small files are avoided.",
        "files are as large as flush.bytes and the commits allow",
    ),
    idle(
        "kafkaConsumer.pollTimeoutMs",
        "How long an executor waits for records.",
        "the consumer waits for as long as it runs",
    ),
    idle("fetchOffset.numRetries", "How often offsets are asked for.", "the broker is asked for a minute"),
    idle("fetchOffset.retryIntervalMs", "Pause between these.", "the broker is asked for a minute"),
    idle("groupIdPrefix", "Begin of the group's name.", "the group is connect-<name>, or what kafka.group.id says"),
    idle("queryName", "Name of the query.", "the connector has a name"),
];

/// Options that would change the data, with values that change nothing, and why they cannot be had.
const REFUSED: &[(&str, &[&str], &str)] = &[
    ("endingOffsets", &[], ENDING),
    ("endingOffsetsByTimestamp", &[], ENDING),
    ("endingTimestamp", &[], ENDING),
    ("txnAppId", &[], TXN),
    ("txnVersion", &[], TXN),
    ("overwriteSchema", &["false"], APPEND),
    ("replaceWhere", &[], APPEND),
    ("partitionOverwriteMode", &["static"], APPEND),
    ("dataChange", &["true"], "appended rows are new data"),
];
const ENDING: &str = "a stream has no end but that of trigger=availableNow";
const TXN: &str = "commits have a txn action of their own for each topic-partition";
const APPEND: &str = "tables are only appended to";

/// What is wrong with Spark's options beyond each alone.
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    let mut problems = Vec::new();
    let is_given = |name: &str| settings.config().get(name).is_some_and(|text| !text.trim().is_empty());
    for (key, same) in [
        (SUBSCRIBE, "topics"),
        (SUBSCRIBE_PATTERN, "topics.regex"),
        (TRIGGER, COMMIT_INTERVAL_MS.name),
        (COMPRESSION, writer::PARQUET_CODEC.name),
        (FAIL_ON_DATA_LOSS, source::keys::ON_DATA_LOSS.name),
        (MODE, schema::VALUE_SCHEMA_MODE.name),
        (CORRUPT_RECORD, schema::CORRUPT_COLUMN.name),
    ] {
        let is_time = key.name != TRIGGER.name
            || settings
                .text(&key)
                .and_then(|text| trigger(text).ok())
                .is_some_and(|trigger| trigger != Trigger::AvailableNow);
        if settings.is_set(&key) && is_given(same) && is_time {
            problems.push(Invalid::new(key.name, format!("{} and {same} are the same: set one of them", key.name)));
        }
    }
    for (name, text) in settings.config() {
        if let Some((name, harmless, why)) = REFUSED.iter().find(|(refused, _, _)| refused.eq_ignore_ascii_case(name))
            && !harmless.iter().any(|value| value.eq_ignore_ascii_case(text.trim()))
        {
            problems.push(Invalid::new(*name, format!("{name} of Spark cannot be had: {why}; leave it out")));
        }
        // Spark reads its options in any case. Taken for an unknown key, one would be left out.
        if let Some(key) = KEYS.iter().find(|key| key.name != name && key.name.eq_ignore_ascii_case(name)) {
            problems.push(Invalid::new(name, format!("{name} is written {} here", key.name)));
        }
    }
    problems
}

/// Puts into `config` what Spark's options are in our keys.
pub(crate) fn translate(settings: &Settings, config: &mut Config) -> Result<(), Invalid> {
    let mut set = |name: &str, text: &str| drop(config.insert(name.to_owned(), text.to_owned()));
    for (key, name) in [
        (SUBSCRIBE, source::keys::TOPICS.name),
        (SUBSCRIBE_PATTERN, source::keys::TOPICS_REGEX.name),
        (MODE, schema::VALUE_SCHEMA_MODE.name),
        (CORRUPT_RECORD, schema::CORRUPT_COLUMN.name),
    ] {
        if let Some(text) = settings.string(&key)? {
            set(name, &text);
        }
    }
    if settings.boolean(&INCLUDE_HEADERS)? {
        let mut columns = settings.list(&writer::KAFKA_COLUMNS)?;
        if !columns.iter().any(|column| column == "headers") {
            columns.push("headers".to_owned());
        }
        set(writer::KAFKA_COLUMNS.name, &columns.join(","));
    }
    if settings.is_set(&FAIL_ON_DATA_LOSS) && !settings.boolean(&FAIL_ON_DATA_LOSS)? {
        set(source::keys::ON_DATA_LOSS.name, "continue");
    }
    if let Some(codec) = settings.string(&COMPRESSION)? {
        let codec = codec.to_ascii_lowercase();
        let codec = match codec.as_str() {
            "uncompressed" => "none",
            "lz4raw" => "lz4_raw",
            same => same,
        };
        set(writer::PARQUET_CODEC.name, codec);
    }
    if settings.is_set(&TRIGGER) && wanted_trigger(settings)? == Some(Trigger::AvailableNow) {
        set(source::keys::STOP_AT_END.name, "true");
    }
    Ok(())
}

/// Time from one commit to the next.
pub(crate) fn commit_interval(settings: &Settings) -> Result<Duration, Invalid> {
    match wanted_trigger(settings)? {
        Some(Trigger::Every(interval)) => Ok(interval),
        Some(Trigger::AvailableNow) | None => Ok(settings.millis(&COMMIT_INTERVAL_MS)?.unwrap_or_default()),
    }
}

/// How much a task may read, one of `tasks` of its connector in this process.
pub(crate) fn pace(settings: &Settings, tasks: usize) -> Result<Option<PaceRules>, Invalid> {
    let is_bounded = wanted_trigger(settings)? == Some(Trigger::AvailableNow);
    if settings.string(&MAX_OFFSETS)?.is_none() || is_bounded {
        return Ok(None);
    }
    let (all, period) = (settings.size(&MAX_OFFSETS)? as u64, commit_interval(settings)?);
    Ok(Some(PaceRules { offsets_max: (all / tasks.max(1) as u64).max(1), period }))
}

/// Where topic-partitions begin that nobody knows, if Spark's options say it.
pub(crate) fn starting(settings: &Settings) -> Result<Option<Starting>, Invalid> {
    let strategy = settings.required_string(&BY_TIMESTAMP_STRATEGY)?;
    let no_record = if strategy.eq_ignore_ascii_case("latest") { NoRecord::Latest } else { NoRecord::Fail };
    if settings.string(&STARTING_TIMESTAMP)?.is_some() {
        let at = StartAt::Time(settings.long(&STARTING_TIMESTAMP)?);
        return Ok(Some(Starting { no_record, ..Starting::all(at) }));
    }
    let of = |key: &Key, read: fn(&str) -> Result<Starting, String>| -> Result<Option<Starting>, Invalid> {
        let Some(text) = settings.string(key)? else { return Ok(None) };
        read(&text).map(Some).map_err(|why| Invalid::value(key, &text, why))
    };
    if let Some(times) = of(&STARTING_OFFSETS_BY_TIMESTAMP, starting_times)? {
        return Ok(Some(Starting { no_record, ..times }));
    }
    of(&STARTING_OFFSETS, starting_offsets)
}

/// What is to be said of options that are set and need nothing.
pub(crate) fn notes(settings: &Settings) -> Vec<String> {
    let note = |key: &Key| match key.effect {
        model::Effect::Ignored(why) if settings.is_set(key) => Some(format!("{} needs nothing here: {why}", key.name)),
        model::Effect::Ignored(_) | model::Effect::Works | model::Effect::NotYet(_) => None,
    };
    let mut notes: Vec<String> = KEYS.iter().filter_map(note).collect();
    if settings.is_set(&MAX_OFFSETS) && matches!(wanted_trigger(settings), Ok(Some(Trigger::AvailableNow))) {
        notes.push(format!("{} needs nothing here: with availableNow memory is bounded anyway", MAX_OFFSETS.name));
    }
    notes
}

/// When a stream makes its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    /// So often.
    Every(Duration),
    /// Until everything is read that is there at the start.
    AvailableNow,
}

fn wanted_trigger(settings: &Settings) -> Result<Option<Trigger>, Invalid> {
    let Some(text) = settings.string(&TRIGGER)? else { return Ok(None) };
    trigger(&text).map(Some).map_err(|why| Invalid::value(&TRIGGER, &text, why))
}

const TRIGGERS: &str = "expected processingTime='1 minute', availableNow or once";

/// The shortest and the longest commit interval.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(24 * 60 * 60));

/// A trigger as people write it: `processingTime='1 minute'`, `ProcessingTime("1 minute")`, `1 minute`, `availableNow=True`.
fn trigger(text: &str) -> Result<Trigger, String> {
    let text = text.trim();
    let text = text.strip_prefix("Trigger.").unwrap_or(text);
    let (name, argument) = match text.split_once(['=', '(']) {
        Some((name, rest)) => (name.trim(), rest.trim().trim_end_matches(')')),
        None if text.starts_with(|first: char| first.is_ascii_digit()) => ("processingTime", text),
        None => (text, ""),
    };
    let argument = argument.trim().trim_matches(['"', '\'']).trim();
    match name.to_ascii_lowercase().as_str() {
        "availablenow" | "once" if argument.is_empty() || argument.eq_ignore_ascii_case("true") => {
            Ok(Trigger::AvailableNow)
        }
        "processingtime" => {
            let interval = interval(argument).ok_or_else(|| format!("{TRIGGERS}; {argument:?} is no time"))?;
            if interval > INTERVALS.1 {
                return Err("a commit interval is a day at most".to_owned());
            }
            // 0 is as fast as possible.
            Ok(Trigger::Every(interval.max(INTERVALS.0)))
        }
        "continuous" => Err("continuous processing appends to no table in Spark either: use processingTime".to_owned()),
        _ => Err(TRIGGERS.to_owned()),
    }
}

/// `1 minute`, `interval 1 hour 30 minutes`, or milliseconds.
fn interval(text: &str) -> Option<Duration> {
    if let Ok(ms) = text.parse() {
        return Some(Duration::from_millis(ms));
    }
    let text = text.to_ascii_lowercase();
    let mut words = text.split_whitespace().skip_while(|word| *word == "interval").peekable();
    words.peek()?;
    let mut total = Duration::ZERO;
    while let Some(number) = words.next() {
        let (number, unit): (u64, &str) = (number.parse().ok()?, words.next()?);
        let unit = match unit.strip_suffix('s').unwrap_or(unit) {
            "microsecond" => Duration::from_micros(1),
            "millisecond" => Duration::from_millis(1),
            "second" => Duration::from_secs(1),
            "minute" => Duration::from_secs(60),
            "hour" => Duration::from_secs(60 * 60),
            "day" => Duration::from_secs(24 * 60 * 60),
            "week" => Duration::from_secs(7 * 24 * 60 * 60),
            _ => return None,
        };
        total = total.checked_add(unit.checked_mul(u32::try_from(number).ok()?)?)?;
    }
    Some(total)
}

/// `earliest`, `latest`, or `{"topic":{"0":23,"1":-2}}`.
fn starting_offsets(text: &str) -> Result<Starting, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "earliest" => return Ok(Starting::all(StartAt::Earliest)),
        "latest" => return Ok(Starting::all(StartAt::Latest)),
        _ => {}
    }
    let expected = "earliest, latest, or JSON like {\"topic\":{\"0\":23,\"1\":-2}}";
    let each = of_partitions(text, expected, |number| match number {
        -2 => Some(StartAt::Earliest),
        -1 => Some(StartAt::Latest),
        number => Offset::new(number).map(StartAt::Offset),
    })?;
    Ok(Starting { each, ..Starting::all(StartAt::Earliest) })
}

/// `{"topic":{"0":1767225600000}}`.
fn starting_times(text: &str) -> Result<Starting, String> {
    let time = |ms: i64| (ms >= 0).then_some(StartAt::Time(ms));
    let each = of_partitions(text, "JSON like {\"topic\":{\"0\":1767225600000}}", time)?;
    Ok(Starting { each, ..Starting::all(StartAt::Earliest) })
}

fn of_partitions(
    text: &str,
    expected: &str,
    start: impl Fn(i64) -> Option<StartAt>,
) -> Result<BTreeMap<TopicPartition, StartAt>, String> {
    let wrong = || format!("expected {expected}");
    let topics: Value = serde_json::from_str(text).map_err(|error| format!("{}: {error}", wrong()))?;
    let mut each = BTreeMap::new();
    for (topic, partitions) in topics.as_object().ok_or_else(wrong)? {
        for (partition, number) in partitions.as_object().ok_or_else(wrong)? {
            let partition: i32 = partition.parse().ok().filter(|number| *number >= 0).ok_or_else(wrong)?;
            let at = number.as_i64().and_then(&start).ok_or_else(wrong)?;
            each.insert(TopicPartition::new(topic.as_str(), partition), at);
        }
    }
    if each.is_empty() { Err("it names no topic-partition".to_owned()) } else { Ok(each) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
    }

    fn blamed(pairs: &[(&str, &str)]) -> Vec<String> {
        check(&settings(pairs)).into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn triggers_are_read_as_people_write_them() {
        let every = |seconds: u64| Ok(Trigger::Every(Duration::from_secs(seconds)));
        for (text, expected) in [
            ("processingTime='1 minute'", every(60)),
            ("processingTime=\"10 seconds\"", every(10)),
            ("ProcessingTime(\"1 hour 30 minutes\")", every(5_400)),
            ("Trigger.ProcessingTime('interval 2 minutes')", every(120)),
            ("Trigger.ProcessingTime(60000)", every(60)),
            ("1 minute", every(60)),
            ("5 SECONDS", every(5)),
            ("processingTime=0 seconds", Ok(Trigger::Every(Duration::from_millis(100)))),
            ("processingTime = 500 milliseconds", Ok(Trigger::Every(Duration::from_millis(500)))),
            ("availableNow", Ok(Trigger::AvailableNow)),
            ("availableNow=True", Ok(Trigger::AvailableNow)),
            ("Trigger.AvailableNow()", Ok(Trigger::AvailableNow)),
            ("once", Ok(Trigger::AvailableNow)),
        ] {
            assert_eq!(trigger(text), expected, "{text}");
        }
        for text in
            ["", "availableNow=false", "1 month", "processingTime=", "continuous='1 second'", "2 days", "hourly"]
        {
            assert!(trigger(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_timestamp_counts_before_times_of_partitions_before_offsets() {
        let lane = |partition| TopicPartition::new("t", partition);
        let offsets = ("startingOffsets", r#"{"t":{"0":23,"1":-2,"2":-1}}"#);
        let times = ("startingOffsetsByTimestamp", r#"{"t":{"0":1000}}"#);
        let time = ("startingTimestamp", "2000");
        let latest = ("startingOffsetsByTimestampStrategy", "LATEST");
        let found = |pairs: &[(&str, &str)]| starting(&settings(pairs)).unwrap();
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("startingOffsets", "Latest")]), Some(Starting::all(StartAt::Latest)));
        let each = [
            (lane(0), StartAt::Offset(Offset::new(23).unwrap())),
            (lane(1), StartAt::Earliest),
            (lane(2), StartAt::Latest),
        ];
        assert_eq!(found(&[offsets]), Some(Starting { each: each.into(), ..Starting::all(StartAt::Earliest) }));
        let each = [(lane(0), StartAt::Time(1_000))];
        let of_times = Starting { each: each.into(), others: StartAt::Earliest, no_record: NoRecord::Latest };
        assert_eq!(found(&[offsets, times, latest]), Some(of_times));
        assert_eq!(found(&[offsets, times, time]), Some(Starting::all(StartAt::Time(2_000))));
        for text in ["soon", "{}", r#"{"t":{"0":-3}}"#, r#"{"t":{"x":1}}"#, r#"{"t":[0]}"#, r#"{"t":{"0":1.5}}"#] {
            assert!(starting(&settings(&[("startingOffsets", text)])).is_err(), "{text}");
        }
        assert!(starting(&settings(&[("startingOffsetsByTimestamp", r#"{"t":{"0":-1}}"#)])).is_err());
    }

    #[test]
    fn options_become_our_keys() {
        let given = settings(&[
            ("subscribe", "a,b"),
            ("failOnDataLoss", "false"),
            ("compression", "UNCOMPRESSED"),
            ("trigger", "availableNow"),
            ("includeHeaders", "true"),
            ("kafka.columns", "key, offset"),
            ("mode", "PERMISSIVE"),
            ("columnNameOfCorruptRecord", "_bad"),
        ]);
        let mut config = Config::new();
        translate(&given, &mut config).unwrap();
        let expected = [
            ("kafka.columns", "key,offset,headers"),
            ("on.data.loss", "continue"),
            ("parquet.codec", "none"),
            ("stop.at.end", "true"),
            ("topics", "a,b"),
            ("value.converter.schema.corrupt.column", "_bad"),
            ("value.converter.schema.mode", "PERMISSIVE"),
        ];
        assert!(config.iter().map(|(name, text)| (name.as_str(), text.as_str())).eq(expected), "{config:?}");
        assert_eq!(check(&given), []);
    }

    #[test]
    fn a_limit_is_for_an_interval_and_shared_among_tasks() {
        let limited = |more: &[(&str, &str)], tasks| {
            let pairs = [[("maxOffsetsPerTrigger", "1000")].as_slice(), more].concat();
            pace(&settings(&pairs), tasks).unwrap().map(|rules| (rules.offsets_max, rules.period.as_secs()))
        };
        assert_eq!(pace(&settings(&[]), 1), Ok(None));
        assert_eq!(limited(&[], 1), Some((1_000, 60)));
        assert_eq!(limited(&[("trigger", "10 seconds")], 3), Some((333, 10)));
        assert_eq!(limited(&[("commit.interval.ms", "2000")], 5_000), Some((1, 2)));
        assert_eq!(limited(&[("trigger", "once")], 1), None);
    }

    #[test]
    fn what_is_said_twice_or_would_change_the_data_is_refused_and_so_is_another_case() {
        assert_eq!(blamed(&[("subscribe", "a"), ("topics", "a")]), ["subscribe"]);
        assert_eq!(blamed(&[("trigger", "1 minute"), ("commit.interval.ms", "1000")]), ["trigger"]);
        assert_eq!(blamed(&[("trigger", "availableNow"), ("commit.interval.ms", "1000")]), Vec::<String>::new());
        assert_eq!(blamed(&[("txnAppId", "x"), ("replaceWhere", "a = 1")]), ["replaceWhere", "txnAppId"]);
        assert_eq!(blamed(&[("dataChange", "true"), ("overwriteSchema", "False")]), Vec::<String>::new());
        assert_eq!(blamed(&[("startingoffsets", "latest")]), ["startingoffsets"]);
    }

    #[test]
    fn options_that_need_nothing_are_answered() {
        let notes = notes(&settings(&[("checkpointLocation", "s3://b/c"), ("minPartitions", "8"), ("subscribe", "t")]));
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].starts_with("checkpointLocation needs nothing here: offsets live in the table"), "{notes:?}");
    }
}
