//! Tests of the harness itself: what it promises to the other tests of this ring.

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{GroupOffset, Kafka, Need, Record, Row, S3, Services, unique};

pub(crate) const TESTS: &[Test] = &[
    Test { name: "kafka_gives_back_what_was_produced", needs: &[Need::Kafka], run: kafka_round_trip },
    Test { name: "kafka_keeps_commit_metadata_of_a_group", needs: &[Need::Kafka], run: kafka_commit_metadata },
    Test { name: "kafka_deletes_records_and_runs_tools", needs: &[Need::Kafka], run: kafka_tools },
    Test { name: "kafka_keeps_its_data_over_faults", needs: &[Need::OwnKafka], run: kafka_faults },
    Test { name: "minio_objects_are_read_by_both_readers", needs: &[Need::Minio], run: minio_round_trip },
    Test { name: "minio_keeps_its_data_over_faults", needs: &[Need::OwnMinio], run: minio_faults },
    Test {
        name: "localstack_objects_are_read_by_both_readers",
        needs: &[Need::Localstack],
        run: localstack_round_trip,
    },
    Test { name: "local_files_are_read_without_columns_from_paths", needs: &[Need::Readers], run: local_files },
];

fn kafka_round_trip() -> Outcome {
    let (kafka, topic, group) = (Services::kafka()?, unique("orders"), unique("group"));
    kafka.create_topic(&topic, 2)?;
    let records: Vec<Record> = (0..10_u8)
        .map(|n| Record {
            partition: Some(i32::from(n % 2)),
            key: Some(vec![n, 0xff]),
            timestamp_ms: Some(1_700_000_000_000 + i64::from(n)),
            headers: vec![("n".to_owned(), n.to_string())],
            ..Record::of(json!({"n": n, "city": "Köln"}).to_string())
        })
        .collect();
    let written = kafka.produce(&topic, &records)?;
    assert_eq!(written.len(), 10);
    assert_eq!(written[9], (1, 4));

    let mut read = kafka.consume(&group, &topic, 10)?;
    read.sort_by_key(|record| record.timestamp_ms);
    for (sent, read) in records.iter().zip(&read) {
        assert_eq!(&Record { offset: None, ..read.clone() }, sent);
    }
    let left: Vec<_> = kafka.committed(&group, &topic)?.iter().map(|o| (o.partition, o.offset)).collect();
    assert_eq!(left, [(0, 5), (1, 5)]);
    assert!(kafka.create_topic(&topic, 2).is_err(), "a topic is created once");
    Ok(())
}

fn kafka_commit_metadata() -> Outcome {
    let (kafka, topic, group) = (Services::kafka()?, unique("plans"), unique("group"));
    kafka.create_topic(&topic, 2)?;
    assert_eq!(kafka.committed(&group, &topic)?, []);
    kafka.produce(&topic, &[Record { partition: Some(1), ..Record::of("one") }])?;
    let plan = GroupOffset { partition: 1, offset: 1, metadata: r#"{"plan":"a,b"}"#.repeat(10) };
    kafka.commit(&group, &topic, std::slice::from_ref(&plan))?;
    assert_eq!(kafka.committed(&group, &topic)?, [plan]);
    Ok(())
}

fn kafka_tools() -> Outcome {
    let (kafka, topic) = (Services::kafka()?, unique("old"));
    kafka.create_topic(&topic, 1)?;
    kafka.produce(&topic, &[Record::of("1"), Record::of("2"), Record::default()])?;
    kafka.delete_records(&topic, 0, 2)?;
    let limits = kafka.offset_limits(&topic)?;
    assert_eq!((limits[0].start, limits[0].end), (2, 3));
    let printed = kafka.tool("org.apache.kafka.tools.TopicCommand", &["--list"])?;
    assert!(printed.lines().any(|line| line == topic), "{printed}");
    Ok(())
}

fn kafka_faults() -> Outcome {
    let (mut kafka, topic) = (Kafka::start()?, unique("faults"));
    kafka.create_topic(&topic, 1)?;
    kafka.produce(&topic, &[Record::of("before")])?;
    kafka.kill();
    kafka.restart()?;
    kafka.pause();
    kafka.resume();
    assert_eq!(kafka.produce(&topic, &[Record::of("after")])?, [(0, 1)]);
    kafka.stop()?;
    kafka.restart()?;
    assert_eq!(kafka.consume("reader", &topic, 2)?.len(), 2);
    Ok(())
}

fn minio_round_trip() -> Outcome {
    objects_are_read(Services::minio()?)
}

fn localstack_round_trip() -> Outcome {
    objects_are_read(Services::localstack()?)
}

fn objects_are_read(store: &S3) -> Outcome {
    let (readers, bucket) = (Services::readers()?, unique("lake"));
    store.create_bucket(&bucket)?;
    let key = "orders/country=DE/orders+0+0000000000.parquet";
    store.put(&bucket, key, &sample_parquet()?, &[("end", "3"), ("rows", "3")])?;
    store.put(&bucket, "orders/readme.txt", b"\x00\xff", &[])?;

    let listed = store.list(&bucket, "orders/country")?;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].key, key);
    assert_eq!(listed[0].metadata.get("end").map(String::as_str), Some("3"));
    assert_eq!(store.get(&bucket, "orders/readme.txt")?, b"\x00\xff");
    store.delete(&bucket, "orders/readme.txt")?;
    assert_eq!(store.list(&bucket, "")?.len(), 1);
    assert_eq!(store.open_uploads(&bucket, "")?, Vec::<String>::new());
    store.start_upload(&bucket, "orders/orphan")?;
    assert_eq!(store.open_uploads(&bucket, "")?, ["orders/orphan"]);

    let expected = sample_rows(key);
    assert_eq!(readers.read_parquet(store, &bucket, "orders/")?, expected);
    assert_eq!(readers.read_parquet_duckdb(store, &bucket, key)?, expected);
    let schema = readers.parquet_schema(store, &bucket, key)?;
    assert_eq!(schema["columns"][0], json!({"name": "id", "type": "int64", "nullable": true}));
    assert_eq!((&schema["rows"], &schema["compression"]), (&json!(3), &json!(["SNAPPY"])));
    assert!(store.get(&bucket, "none").is_err());
    Ok(())
}

fn minio_faults() -> Outcome {
    let (mut store, bucket) = (S3::start_minio()?, unique("faults"));
    store.create_bucket(&bucket)?;
    store.put(&bucket, "a", b"1", &[])?;
    store.kill();
    store.restart()?;
    store.pause();
    store.resume();
    store.stop()?;
    store.restart()?;
    assert_eq!(store.get(&bucket, "a")?, b"1");
    Ok(())
}

fn local_files() -> Outcome {
    let directory = std::env::temp_dir().join(unique("sluice-local-files"));
    let file = directory.join("country=DE/a.parquet");
    std::fs::create_dir_all(directory.join("country=DE"))?;
    std::fs::write(&file, sample_parquet()?)?;
    let rows = Services::readers()?.read_local_parquet(&directory);
    std::fs::remove_dir_all(&directory)?;
    assert_eq!(rows?, sample_rows("country=DE/a.parquet"));
    Ok(())
}

fn sample_parquet() -> Result<Vec<u8>, tests::Error> {
    const SCRIPT: &str = "
import datetime, decimal, io, math, pyarrow, pyarrow.parquet

def sample():
    moment = datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.timezone.utc)
    table = pyarrow.table({
        'id': pyarrow.array([1, 2, None]),
        'raw': pyarrow.array([b'ab', b'\\xff', None]),
        'score': pyarrow.array([0.5, math.nan, math.inf]),
        'at': pyarrow.array([moment, moment, None], pyarrow.timestamp('ns', 'UTC')),
        'price': pyarrow.array([decimal.Decimal('1.20'), None, None], pyarrow.decimal128(9, 2)),
        'tags': pyarrow.array([[{'k': 'x'}], [], None]),
    })
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()
";
    Services::readers()?.run(SCRIPT, "sample", &json!({}))
}

fn sample_rows(object: &str) -> Vec<Row> {
    let at = "2023-11-14T22:13:20+00:00";
    let values: [Value; 3] = [
        json!({"id": 1, "raw": "ab", "score": 0.5, "at": at, "price": "1.20", "tags": [{"k": "x"}]}),
        json!({"id": 2, "raw": "ÿ", "score": "NaN", "at": at, "price": null, "tags": []}),
        json!({"id": null, "raw": null, "score": "Infinity", "at": null, "price": null, "tags": null}),
    ];
    (0..).zip(values).map(|(position, value)| Row { object: object.to_owned(), position, value }).collect()
}
