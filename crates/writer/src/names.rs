//! Names of objects from settings and records to the whole key: upstream's own examples, and that no record chooses a key
//! outside its topic.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};
use model::{Batch, Offset, TopicPartition, ValueSchema};
use proptest::prelude::*;

use crate::Layout;
use crate::partition::partitioner_plugin;
use crate::testing::{schemaless, settings, timed, typed};

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// The keys of the objects that the records of a batch, all of one cut, go to, in the order of their first records.
fn keys(pairs: Pairs<'_>, batch: &Batch) -> Vec<String> {
    let settings = settings(pairs);
    let plugin = partitioner_plugin(&settings).unwrap();
    assert_eq!((plugin.check)(&settings), [], "{pairs:?}");
    let layout = Layout::new(&settings, crate::format(&settings).unwrap().extension()).unwrap();
    let placed = (plugin.build)(&settings).unwrap().split(batch, 0);
    assert_eq!(placed.rejected, [], "{pairs:?}");
    let mut paths: Vec<Arc<str>> = Vec::new();
    let mut keys = Vec::new();
    for row in 0..batch.len() {
        let path = placed.path(row);
        if !paths.contains(path) {
            paths.push(path.clone());
            keys.push(layout.object_key(&batch.topic_partition, path, batch.offset(row)));
        }
    }
    keys
}

fn from(first: i64, mut batch: Batch) -> Batch {
    batch.offsets = (first..first + batch.len() as i64).collect();
    batch
}

fn numbers(name: &str, numbers: &[i32]) -> Batch {
    typed(vec![(name, Arc::new(Int32Array::from(numbers.to_vec())))], &vec![0; numbers.len()])
}

fn at(time: &str) -> Batch {
    timed(&[time.parse::<jiff::Timestamp>().unwrap().as_millisecond()])
}

fn text(name: &str, text: Option<&str>) -> [Batch; 2] {
    let column: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let json = serde_json::json!({ name: text }).to_string();
    [typed(vec![(name, column)], &[0]), schemaless(&[Some(&json)])]
}

fn nested() -> Batch {
    let inner: ArrayRef = Arc::new(Int32Array::from(vec![16, 17, 18]));
    let outer = StructArray::new(vec![Field::new("inner", DataType::Int32, true)].into(), vec![inner], None);
    typed(vec![("outer", Arc::new(outer))], &[0; 3])
}

fn named(name: &str, mut batch: Batch) -> Batch {
    batch.schema = Some(Arc::new(ValueSchema { name: Some(name.to_owned()), version: None }));
    batch
}

const AVRO: (&str, &str) = ("format.class", "io.confluent.connect.s3.format.avro.AvroFormat");
const JSON: (&str, &str) = ("format.class", "io.confluent.connect.s3.format.json.JsonFormat");
const BYTES: (&str, &str) = ("format.class", "io.confluent.connect.s3.format.bytearray.ByteArrayFormat");
const PARQUET: (&str, &str) = ("format.class", "io.confluent.connect.s3.format.parquet.ParquetFormat");
const FIELD: (&str, &str) = ("partitioner.class", "io.confluent.connect.storage.partitioner.FieldPartitioner");
const HOURLY: (&str, &str) = ("partitioner.class", "io.confluent.connect.storage.partitioner.HourlyPartitioner");
const DAILY: (&str, &str) = ("partitioner.class", "io.confluent.connect.storage.partitioner.DailyPartitioner");
const TIME: (&str, &str) = ("partitioner.class", "io.confluent.connect.storage.partitioner.TimeBasedPartitioner");
const RECORD: (&str, &str) = ("timestamp.extractor", "Record");
const LOCALE: (&str, &str) = ("locale", "en");
const LOS_ANGELES: (&str, &str) = ("timezone", "America/Los_Angeles");
const SANTIAGO: (&str, &str) = ("timezone", "America/Santiago");

/// The keys of a batch are those of upstream's test of this name.
fn check(test: &str, pairs: Pairs<'_>, batch: &Batch, expected: &[&str]) {
    assert_eq!(keys(pairs, batch), expected, "{test}");
}

const BASE: &str = "topics/test-topic/partition=12/test-topic+12+0000000000";

fn one() -> Batch {
    numbers("int", &[1])
}

#[test]
fn names_are_those_of_upstream_s_tests() {
    check("testWriteRecord", &[AVRO], &numbers("int", &[1, 2, 3]), &[&format!("{BASE}.avro")]);
    check(
        "testWriteRecordDefaultWithPadding",
        &[AVRO, ("filename.offset.zero.pad.width", "2")],
        &from(3, one()),
        &["topics/test-topic/partition=12/test-topic+12+03.avro"],
    );
    check(
        "testWriteRecordDefaultWithEmptyTopicsDir",
        &[AVRO, ("topics.dir", "")],
        &one(),
        &["test-topic/partition=12/test-topic+12+0000000000.avro"],
    );
    check(
        "TestWithMockedS3",
        &[AVRO, ("directory.delim", "_"), ("file.delim", "#")],
        &one(),
        &["topics_test-topic_partition=12_test-topic#12#0000000000.avro"],
    );
    let topic = TopicPartition::new("test.avro.topic", 12);
    check(
        "testFilesWrittenToBucketAvroWithExtInTopic",
        &[AVRO],
        &Batch { topic_partition: topic, ..one() },
        &["topics/test.avro.topic/partition=12/test.avro.topic+12+0000000000.avro"],
    );
}

#[test]
fn extensions_are_those_of_upstream_s_tests() {
    let of_offset_6 = "topics/test-topic/partition=12/test-topic+12+0000000006";
    check("DataWriterParquetTest", &[PARQUET], &one(), &[&format!("{BASE}.snappy.parquet")]);
    for (codec, extension) in [("none", ".parquet"), ("gzip", ".gz.parquet")] {
        check("DataWriterParquetTest", &[PARQUET, ("parquet.codec", codec)], &one(), &[&format!("{BASE}{extension}")]);
    }
    let gzip = [JSON, ("s3.compression.type", "gzip")];
    check("DataWriterJsonTest", &gzip, &from(6, one()), &[&format!("{of_offset_6}.json.gz")]);
    let own = [BYTES, ("format.bytearray.extension", ".customExtensionForTest")];
    check("DataWriterByteArrayTest", &own, &one(), &[&format!("{BASE}.customExtensionForTest")]);
}

#[test]
fn paths_of_fields_are_those_of_upstream_s_tests() {
    check(
        "testWriteRecordFieldPartitioner",
        &[AVRO, FIELD, ("partition.field.name", "int")],
        &numbers("int", &[16, 17, 18, 16, 17, 18, 16, 17, 18]),
        &[
            "topics/test-topic/int=16/test-topic+12+0000000000.avro",
            "topics/test-topic/int=17/test-topic+12+0000000001.avro",
            "topics/test-topic/int=18/test-topic+12+0000000002.avro",
        ],
    );
    let (int, boolean) = (Int32Array::from(vec![16]), BooleanArray::from(vec![true]));
    check(
        "testWriteRecordFieldPartitionerWithMultipleFields",
        &[AVRO, FIELD, ("partition.field.name", "int,boolean")],
        &typed(vec![("int", Arc::new(int)), ("boolean", Arc::new(boolean))], &[0]),
        &["topics/test-topic/int=16/boolean=true/test-topic+12+0000000000.avro"],
    );
    check(
        "testNestedFieldPartitioner",
        &[AVRO, FIELD, ("partition.field.name", "outer.inner")],
        &nested(),
        &[
            "topics/test-topic/outer.inner=16/test-topic+12+0000000000.avro",
            "topics/test-topic/outer.inner=17/test-topic+12+0000000001.avro",
            "topics/test-topic/outer.inner=18/test-topic+12+0000000002.avro",
        ],
    );
    for null in text("string", None) {
        check(
            "testNullPartition",
            &[AVRO, FIELD, ("partition.field.name", "string")],
            &from(7, null),
            &["topics/test-topic/string=null/test-topic+12+0000000007.avro"],
        );
    }
}

#[test]
fn paths_of_times_are_those_of_upstream_s_tests() {
    let ten = at("2017-03-02T10:00:00-08:00");
    let from_record = |class, zone| [AVRO, class, RECORD, LOCALE, zone];
    let time_based = |duration, pattern, extractor| {
        [AVRO, TIME, ("partition.duration.ms", duration), ("path.format", pattern), extractor, LOCALE, LOS_ANGELES]
    };
    /// Test, settings, records, first offset, path.
    type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, Batch, i64, &'a str);
    let cases: [Case<'_>; 6] = [
        (
            "...RecordTimestampHours",
            from_record(HOURLY, LOS_ANGELES).into(),
            ten,
            0,
            "year=2017/month=03/day=02/hour=10",
        ),
        (
            "DailyPartitionerTest",
            from_record(DAILY, LOS_ANGELES).into(),
            at("2014-02-01T03:00:00-08:00"),
            5,
            "year=2014/month=02/day=01",
        ),
        (
            "HourlyPartitionerTest",
            from_record(HOURLY, SANTIAGO).into(),
            timed(&[1_715_224_653_000]),
            0,
            "year=2024/month=05/day=08/hour=23",
        ),
        (
            "HourlyPartitionerTest",
            from_record(HOURLY, SANTIAGO).into(),
            timed(&[1_706_411_853_000]),
            0,
            "year=2024/month=01/day=28/hour=00",
        ),
        (
            "testGeneratePartitionedPath",
            time_based("7200000", "'year'=YYYY/'month'=M/'day'=d/'hour'=H/", RECORD).into(),
            at("2015-04-02T01:00:00-07:00"),
            0,
            "year=2015/month=4/day=2/hour=0",
        ),
        (
            "testRecordFieldTimeDateExtractor",
            time_based("3600000", "'year'=YYYY/'month'=M/'day'=d/'hour'=H", ("timestamp.extractor", "RecordField"))
                .into(),
            text("timestamp", Some("2015-04-02T01:00:00-07:00"))[0].clone(),
            0,
            "year=2015/month=4/day=2/hour=1",
        ),
    ];
    for (test, pairs, batch, first, path) in cases {
        let key = format!("topics/test-topic/{path}/test-topic+12+{first:010}.avro");
        check(test, &pairs, &from(first, batch), &[&key]);
    }
    // As plain JSON, too.
    let field = time_based("3600000", "'hour'=H", ("timestamp.extractor", "RecordField"));
    let json = &text("timestamp", Some("2015-04-02T01:00:00-07:00"))[1];
    check(
        "testRecordFieldTimeDateExtractor",
        &field,
        json,
        &["topics/test-topic/hour=1/test-topic+12+0000000000.avro"],
    );
}

#[test]
fn affixes_are_those_of_upstream_s_tests() {
    let affix = |place| ("s3.schema.partition.affix.type", place);
    check(
        "testSchemaPartitionerWithTimeBasedPartitioner",
        &[AVRO, HOURLY, RECORD, LOCALE, LOS_ANGELES, affix("PREFIX")],
        &named("record", at("2017-03-02T10:00:00-08:00")),
        &["topics/test-topic/schema_name=record/year=2017/month=03/day=02/hour=10/test-topic+12+0000000000.avro"],
    );
    check(
        "testWriteSchemaPartitionerWithAffix",
        &[JSON, affix("SUFFIX")],
        &schemaless(&[Some("1")]),
        &["topics/test-topic/partition=12/schema_name=null/test-topic+12+0000000000.json"],
    );
}

/// Clocks that change, zones that are odd, and the patterns that people write, each with Joda's text.
#[test]
fn times_have_the_paths_that_joda_prints() {
    let minute = "60000";
    let hour = "3600000";
    let day = "86400000";
    for (zone, duration, pattern, time, path) in [
        ("Europe/Berlin", hour, "'dt'=yyyy-MM-dd/'hour'=HH", "2024-03-31T01:30:00Z", "dt=2024-03-31/hour=03"),
        ("Europe/Berlin", hour, "'dt'=yyyy-MM-dd/'hour'=HH", "2024-10-27T00:30:00Z", "dt=2024-10-27/hour=02"),
        ("Europe/Berlin", hour, "'dt'=yyyy-MM-dd/'hour'=HH", "2024-10-27T01:30:00Z", "dt=2024-10-27/hour=02"),
        ("America/New_York", day, "YYYY/MM/dd", "2024-03-11T03:59:00Z", "2024/03/10"),
        ("America/New_York", day, "YYYY/MM/dd", "2024-03-11T04:00:00Z", "2024/03/11"),
        ("Asia/Kathmandu", hour, "YYYY/MM/dd/HH", "2024-01-01T18:14:59Z", "2024/01/01/23"),
        ("Asia/Kathmandu", hour, "YYYY/MM/dd/HH", "2024-01-01T18:15:00Z", "2024/01/02/00"),
        ("Australia/Lord_Howe", hour, "HH-mm", "2024-04-06T14:45:00Z", "01-00"),
        ("Australia/Lord_Howe", hour, "HH-mm", "2024-04-06T15:15:00Z", "01-00"),
        ("Pacific/Apia", day, "yyyy-MM-dd", "2011-12-30T09:59:00Z", "2011-12-29"),
        ("Pacific/Apia", day, "yyyy-MM-dd", "2011-12-30T10:00:00Z", "2011-12-31"),
        ("+05:45", hour, "HH", "2024-01-01T18:15:00Z", "00"),
        ("UTC", minute, "yyyyMMdd/HHmm", "2024-12-30T23:59:59Z", "20241230/2359"),
        ("UTC", day, "'year'=YYYY/'week'=ww", "2024-12-30T00:00:00Z", "year=2024/week=01"),
        ("UTC", day, "xxxx/'w'ww", "2024-12-30T00:00:00Z", "2025/w01"),
        ("UTC", day, "yyyy/DDD", "2024-12-31T00:00:00Z", "2024/366"),
        ("UTC", day, "'partition_date'=YYYY-MM-dd", "2024-02-29T12:00:00Z", "partition_date=2024-02-29"),
        ("UTC", hour, "YYYY/MMM/EEE", "2024-02-29T12:00:00Z", "2024/Feb/Thu"),
        // Finer than the duration it prints zeros.
        ("UTC", hour, "HH-mm-ss-SSS", "2024-02-29T12:34:56.789Z", "12-00-00-000"),
    ] {
        let pairs = [
            JSON,
            TIME,
            RECORD,
            LOCALE,
            ("timezone", zone),
            ("partition.duration.ms", duration),
            ("path.format", pattern),
        ];
        let expected = format!("topics/test-topic/{path}/test-topic+12+0000000000.json");
        assert_eq!(keys(&pairs, &at(time)), [expected], "{zone} {pattern} {time}");
    }
}

/// The number of a field, in each unit, typed and as plain JSON.
#[test]
fn times_of_fields_count_in_their_unit() {
    for (unit, count) in [
        ("milliseconds", 1_427_965_200_000),
        ("seconds", 1_427_965_200),
        ("microseconds", 1_427_965_200_000_000),
        ("nanoseconds", 1_427_965_200_000_000_000_i64),
    ] {
        let pairs = [
            JSON,
            HOURLY,
            LOCALE,
            ("timezone", "UTC"),
            ("timestamp.extractor", "RecordField"),
            ("timestamp.field", "a.at"),
            ("timestamp.unit", unit),
        ];
        let column: ArrayRef = Arc::new(Int64Array::from(vec![count]));
        let a = StructArray::new(vec![Field::new("at", DataType::Int64, true)].into(), vec![column], None);
        let json = format!(r#"{{"a":{{"at":{count}}}}}"#);
        let digits = format!(r#"{{"a":{{"at":"{count}"}}}}"#);
        for batch in [typed(vec![("a", Arc::new(a))], &[0]), schemaless(&[Some(&json)]), schemaless(&[Some(&digits)])] {
            let expected = "topics/test-topic/year=2015/month=04/day=02/hour=09/test-topic+12+0000000000.json";
            assert_eq!(keys(&pairs, &batch), [expected], "{unit}");
        }
    }
}

/// What values of records are made of here: what separates and climbs, what cannot be printed, and much of it.
fn odd_text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "..", ".", "/", "\\", "%2F", "%", "\0", "\n", "\u{7f}", "=", "+", "a", "é", " ", "_",
    ]);
    let long = prop::sample::select(vec!["x".repeat(900), "../".repeat(400), "é".repeat(511)]);
    prop_oneof![
        4 => prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat()),
        1 => long,
        2 => any::<String>(),
    ]
}

fn odd_topic() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(".".to_owned()), 1 => Just("..".to_owned()), 8 => "[a-zA-Z0-9._-]{1,20}"]
}

proptest! {
    /// Whatever a record says, its object lies below the directory of its topic, under a key that stores take, and is
    /// found again; or the record is rejected.
    #[test]
    fn no_record_chooses_a_key_outside_its_topic(
        values in prop::collection::vec(odd_text(), 1..4),
        schema_name in odd_text(),
        routed in prop::option::of(odd_topic()),
        template in any::<bool>(),
        typed_values in any::<bool>(),
        delim in prop::sample::select(vec!["/", "_", "/x/"]),
    ) {
        let class = if template { "template" } else { "field" };
        let pairs = [
            JSON,
            ("partitioner.class", class),
            ("partition.field.name", "f"),
            ("path.template", "{topic}/v={field:f}/{partition}"),
            ("directory.delim", delim),
            ("transforms.r.type", "RegexRouter"),
            ("s3.schema.partition.affix.type", "SUFFIX"),
        ];
        let settings = settings(&pairs);
        let mut batch = if typed_values {
            typed(vec![("f", Arc::new(StringArray::from(values.clone())))], &vec![0; values.len()])
        } else {
            let texts: Vec<_> = values.iter().map(|value| serde_json::json!({"f": value}).to_string()).collect();
            schemaless(&texts.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>())
        };
        batch = named(&schema_name, batch);
        batch.topics = routed.as_deref().map(|topic| vec![Some(topic); values.len()].into());
        let layout = Layout::new(&settings, ".json").unwrap();
        let topic = match routed.as_deref() {
            Some(dots @ ("." | "..")) => dots.replace('.', "%2E"),
            Some(topic) => topic.to_owned(),
            None => "test-topic".to_owned(),
        };
        let placed = (partitioner_plugin(&settings).unwrap().build)(&settings).unwrap().split(&batch, 0);
        let mut rejected = placed.rejected.iter().map(|one| one.row).peekable();
        for row in 0..values.len() {
            if rejected.next_if_eq(&row).is_some() {
                continue;
            }
            let key = layout.object_key(&batch.topic_partition, placed.path(row), Offset::MAX);
            let directory = layout.topic_prefix(&topic);
            prop_assert!(key.starts_with(&directory), "{key:?} is not below {directory}");
            prop_assert!(key.len() <= 1024);
            let path = object_store::path::Path::parse(&key);
            prop_assert!(path.is_ok_and(|path| path.as_ref() == key), "{key:?} is no key");
            if delim != "_" {
                prop_assert_eq!(layout.parse(&key), Some((batch.topic_partition.clone(), Offset::MAX)), "{}", key);
            }
        }
        prop_assert_eq!(rejected.next(), None);
    }
}
