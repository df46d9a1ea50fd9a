//! Lanes of one process that share files, down to the rows of what the log lists.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array,
    Int64Array, StringArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Fields, Int64Type};
use futures::StreamExt;
use model::{Nonce, TopicPartition};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde_json::{Map, Value, json};
use writer::conformance::{batch, context_of, finish, noisy_rows, read_parquet};
use writer::{
    Abilities, Committer, Fate, FaultyStore, FileContext, FinishedFile, Format, ObjectCommitter, OnExisting, OpenCut,
    ParquetFormat, PublishError, PublishedFile, Request, RetryRules, Store, TableFormat,
};

use crate::committer::DeltaCommitter;
use crate::metrics::Metrics;
use crate::table::{Table, TableOptions};

/// One process and its store.
struct Process {
    store: Store,
    table: Table,
    /// The most that shared files took beside their rows, and what they take now.
    most: Arc<AtomicUsize>,
    encoded: Arc<AtomicUsize>,
    names: Arc<AtomicU64>,
    /// The wall clock.
    now_ms: Arc<AtomicI64>,
    partitioned: bool,
    /// Whether files are shared.
    shares: bool,
}

impl Process {
    async fn new(objects: FaultyStore, seed: u64, partitioned: bool) -> Process {
        Process::with(objects, seed, partitioned, Map::new()).await
    }

    async fn with(objects: FaultyStore, seed: u64, partitioned: bool, properties: Map<String, Value>) -> Process {
        let rules = RetryRules {
            attempts: 2,
            backoff: Duration::from_millis(10),
            attempt_timeout: Duration::from_secs(5),
            redelivery: Duration::from_millis(100),
            ..RetryRules::default()
        };
        let store =
            Store::with(Arc::new(objects), "store", Abilities { metadata: true, conditional: true }, rules, seed);
        let (most, encoded) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (most_seen, now) = (most.clone(), encoded.clone());
        let now_ms = Arc::new(AtomicI64::new(1_700_000_000_000));
        let clock = now_ms.clone();
        let options = TableOptions {
            connector: "c".to_owned(),
            location: "t".to_owned(),
            partition_columns: partitioned.then(|| vec!["p".to_owned()]),
            properties,
            merge_schema: true,
            user_metadata: None,
            linger: Duration::from_millis(20),
            now_ms: Arc::new(move || clock.load(Ordering::Relaxed)),
            seed,
            upkeep: crate::upkeep::UpkeepOptions::default(),
            metrics: Metrics::default().table("c", "t"),
            encoded: Arc::new(move |bytes| {
                most_seen.fetch_max(bytes, Ordering::Relaxed);
                now.store(bytes, Ordering::Relaxed);
            }),
        };
        let table = Table::open(store.clone(), options).await.unwrap();
        Process {
            store,
            table,
            most,
            encoded,
            names: Arc::new(AtomicU64::new(seed * 1_000)),
            now_ms,
            partitioned,
            shares: true,
        }
    }

    /// What lane `partition` has from offset `start` on, one file for each of `parts`: its path and rows.
    async fn cut(&self, partition: i32, start: i64, parts: Vec<(&str, StructArray)>) -> Vec<FinishedFile> {
        let in_paths = self.partitioned.then(|| "p".to_owned());
        let format = TableFormat::new(ParquetFormat::new("snappy").unwrap(), in_paths);
        let format: Arc<dyn Format> = Arc::new(format.of(Arc::new(self.table.clone())));
        let names = self.names.clone();
        let context = FileContext {
            object_key: Arc::new(move |_, lane, path, first| {
                let name = format!("{lane}+{first}-{}.parquet", names.fetch_add(1, Ordering::Relaxed));
                ["t", path, &name].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
            }),
            shared_bytes: if self.shares { 1 << 20 } else { 0 },
            ..FileContext::clone(&context_of(&self.store, "t", &format))
        };
        let lane = TopicPartition::new("t", partition);
        let mut cut = OpenCut::new(Arc::new(context), lane.clone(), Nonce(self.names.fetch_add(1, Ordering::Relaxed)));
        let mut end = start;
        for (path, rows) in parts {
            let count = i64::try_from(rows.len()).unwrap();
            cut.append(&batch(&lane, end, rows), &path.into()).unwrap();
            end += count;
        }
        finish(cut, start, end).await.unwrap()
    }

    fn committer(&self) -> DeltaCommitter {
        let objects = Arc::new(ObjectCommitter::new(self.store.clone(), OnExisting::Fail));
        DeltaCommitter::new(objects, self.table.clone(), "c")
    }

    async fn publish(&self, cuts: Vec<Vec<FinishedFile>>) -> Vec<Result<Vec<PublishedFile>, PublishError>> {
        let committers: Vec<_> = cuts.iter().map(|_| self.committer()).collect();
        futures::future::join_all(committers.iter().zip(cuts).map(|(committer, cut)| committer.publish(cut))).await
    }
}

fn rows(columns: Vec<(&str, ArrayRef)>) -> StructArray {
    let fields: Fields =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    StructArray::new(fields, columns.into_iter().map(|(_, array)| array).collect(), None)
}

/// Rows `n` of these numbers.
fn numbers(range: std::ops::Range<i64>) -> StructArray {
    rows(vec![("n", Arc::new(Int64Array::from_iter_values(range)))])
}

fn fine(objects: &Arc<InMemory>) -> FaultyStore {
    FaultyStore::new(objects.clone(), |_, _| Fate::Fine)
}

/// The lines of each commit.
async fn log(objects: &InMemory) -> Vec<Vec<Value>> {
    let mut commits = Vec::new();
    for version in 0.. {
        let Ok(commit) = objects.get(&Path::from(format!("t/_delta_log/{version:020}.json"))).await else { break };
        let text = String::from_utf8(commit.bytes().await.unwrap().to_vec()).unwrap();
        commits.push(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect());
    }
    commits
}

fn adds(commit: &[Value]) -> Vec<&Value> {
    commit.iter().filter_map(|line| line.get("add")).collect()
}

/// The numbers `n` in the files of all commits, in the order of the log.
async fn listed(objects: &InMemory) -> Vec<i64> {
    let mut all = Vec::new();
    for add in log(objects).await.iter().flat_map(|commit| adds(commit)) {
        let rows = read(objects, add).await;
        all.extend(rows.column_by_name("n").unwrap().as_primitive::<Int64Type>().iter().flatten());
    }
    all
}

async fn read(objects: &InMemory, add: &Value) -> StructArray {
    let path = Path::parse(format!("t/{}", add["path"].as_str().unwrap())).unwrap();
    read_parquet(objects.get(&path).await.unwrap().bytes().await.unwrap())
}

#[tokio::test]
async fn lanes_of_one_commit_share_a_file_and_each_counts_its_records() {
    let objects = Arc::new(InMemory::new());
    let process = Process::new(fine(&objects), 1, false).await;
    let narrow: ArrayRef = Arc::new(Int32Array::from(vec![Some(7), None]));
    let more: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
    let cuts = vec![
        process.cut(0, 5, vec![("", numbers(0..3))]).await,
        process.cut(1, 0, vec![("", numbers(3..4))]).await,
        process.cut(2, 9, vec![("", rows(vec![("more", more), ("n", narrow)]))]).await,
    ];
    let published: Vec<_> = process.publish(cuts).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(published.iter().map(|file| file.records).collect::<Vec<_>>(), [3, 1, 2]);
    let counted: Vec<bool> = published.iter().map(|file| !file.is_counted_elsewhere).collect();
    assert_eq!(counted.iter().filter(|counts| **counts).count(), 1, "{published:?}");
    let log = log(&objects).await;
    assert_eq!(log.len(), 2, "it is made, and appended to");
    let (txns, adds) = (log[1].iter().filter_map(|line| line.get("txn")), adds(&log[1]));
    let ends: Vec<(&Value, &Value)> = txns.map(|txn| (&txn["appId"], &txn["version"])).collect();
    assert_eq!(ends, [(&json!("c:t:0"), &json!(8)), (&json!("c:t:1"), &json!(1)), (&json!("c:t:2"), &json!(11))]);
    assert_eq!((adds.len(), &adds[0]["size"]), (1, &json!(published[0].bytes)));
    let statistics: Value = serde_json::from_str(adds[0]["stats"].as_str().unwrap()).unwrap();
    assert_eq!(
        statistics,
        json!({"numRecords": 6, "minValues": {"n": 0, "more": "x"}, "maxValues": {"n": 7, "more": "y"},
            "nullCount": {"n": 1, "more": 4}}),
        "narrower numbers are the table's, and what a lane has not is null"
    );
    let rows = read(&objects, adds[0]).await;
    let numbers: Vec<Option<i64>> = rows.column_by_name("n").unwrap().as_primitive::<Int64Type>().iter().collect();
    assert_eq!(numbers, [Some(0), Some(1), Some(2), Some(3), Some(7), None]);
    assert!(process.most.load(Ordering::Relaxed) > 0, "what is encoded is counted ...");
    assert_eq!(process.encoded.load(Ordering::Relaxed), 0, "... until it is in the store");
}

#[tokio::test]
async fn each_path_has_a_file_of_its_own() {
    let objects = Arc::new(InMemory::new());
    let process = Process::new(fine(&objects), 1, true).await;
    let in_path = |text: &str, range: std::ops::Range<i64>| {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![text; range.clone().count()]));
        rows(vec![("p", texts), ("n", Arc::new(Int64Array::from_iter_values(range)))])
    };
    let mut cuts = Vec::new();
    for lane in 0..20 {
        let from = i64::from(lane) * 10;
        let parts = vec![("p=a", in_path("a", from..from + 4)), ("p=b%20c", in_path("b c", from + 4..from + 10))];
        cuts.push(process.cut(lane, 0, parts).await);
    }
    for published in process.publish(cuts).await {
        assert_eq!(published.unwrap().iter().map(|file| file.records).sum::<u64>(), 10);
    }
    let log = log(&objects).await;
    let adds = adds(&log[1]);
    let values: Vec<&Value> = adds.iter().map(|add| &add["partitionValues"]["p"]).collect();
    assert_eq!(values, [&json!("a"), &json!("b c")]);
    assert!(adds[1]["path"].as_str().unwrap().starts_with("p=b%2520c/"), "{adds:?}");
    let mut all = Vec::new();
    for add in adds {
        let path = add["path"].as_str().unwrap().replace("%25", "%");
        let path = Path::parse(format!("t/{path}")).unwrap();
        let rows = read_parquet(objects.get(&path).await.unwrap().bytes().await.unwrap());
        assert_eq!(rows.num_columns(), 1, "the column of the path is not in the file");
        all.extend(rows.column(0).as_primitive::<Int64Type>().values().iter().copied());
    }
    all.sort_unstable();
    assert_eq!(all, (0..200).collect::<Vec<i64>>());
}

#[tokio::test(start_paused = true)]
async fn who_is_overtaken_while_the_file_is_made_is_not_in_it() {
    let objects = Arc::new(InMemory::new());
    let other = Process::new(fine(&objects), 1, false).await;
    let first = other.cut(0, 0, vec![("", numbers(0..2))]).await;
    other.publish(vec![first]).await.pop().unwrap().unwrap();
    let slow =
        FaultyStore::new(objects.clone(), |request, key| match request == Request::Put && key.contains(".parquet") {
            true => Fate::Slow(Duration::from_secs(2)),
            false => Fate::Fine,
        });
    let process = Process::new(slow, 2, false).await;
    let cuts = vec![
        process.cut(0, 2, vec![("", numbers(2..5))]).await,
        process.cut(1, 0, vec![("", numbers(10..12))]).await,
        process.cut(2, 0, vec![("", numbers(20..21))]).await,
    ];
    let theirs = other.cut(0, 2, vec![("", numbers(2..4))]).await;
    let (ours, theirs) = tokio::join!(process.publish(cuts), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        other.publish(vec![theirs]).await
    });
    assert!(theirs[0].is_ok());
    assert!(matches!(&ours[0], Err(PublishError::Overtaken(why)) if why.contains("goes on at offset 4")), "{ours:?}");
    let counts: Vec<u64> = ours[1..].iter().flat_map(|files| files.as_ref().unwrap()).map(|file| file.rows).collect();
    assert_eq!(counts, [2, 1]);
    assert_eq!(listed(&objects).await, [0, 1, 2, 3, 10, 11, 20]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_gone_while_the_file_is_made_is_not_in_it() {
    let objects = Arc::new(InMemory::new());
    let slow =
        FaultyStore::new(objects.clone(), |request, key| match request == Request::Put && key.contains(".parquet") {
            true => Fate::Slow(Duration::from_secs(2)),
            false => Fate::Fine,
        });
    let process = Process::new(slow, 2, false).await;
    let (stays, goes) =
        (process.cut(0, 0, vec![("", numbers(0..3))]).await, process.cut(1, 0, vec![("", numbers(10..12))]).await);
    let (one, other) = (process.committer(), process.committer());
    let (stayed, gone) =
        tokio::join!(one.publish(stays), tokio::time::timeout(Duration::from_secs(1), other.publish(goes)));
    assert!(gone.is_err() && stayed.unwrap()[0].records == 3);
    assert_eq!(listed(&objects).await, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_one_for_all_lanes_of_the_file() {
    for happens in [true, false] {
        let objects = Arc::new(InMemory::new());
        let times = AtomicUsize::new(0);
        let faulty = FaultyStore::new(objects.clone(), move |request, key| {
            // Two attempts of one request.
            let is_commit = request == Request::Put && key.ends_with("00000000000000000001.json");
            match is_commit && times.fetch_add(1, Ordering::Relaxed) < 2 {
                true if happens => Fate::HangThenHappen(Duration::from_secs(11)),
                true => Fate::FailBefore,
                false => Fate::Fine,
            }
        });
        let process = Process::new(faulty, 2, false).await;
        let cuts = vec![
            process.cut(0, 0, vec![("", numbers(0..3))]).await,
            process.cut(1, 0, vec![("", numbers(3..5))]).await,
        ];
        let published: Vec<_> = process.publish(cuts).await.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(published.iter().map(|file| file.records).collect::<Vec<_>>(), [3, 2]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(listed(&objects).await, [0, 1, 2, 3, 4], "it happens: {happens}");
    }
}

#[tokio::test]
async fn narrower_columns_become_the_tables_in_every_file() {
    let objects = Arc::new(InMemory::new());
    let mut process = Process::new(fine(&objects), 1, false).await;
    let inner = |numbers: ArrayRef| Arc::new(rows(vec![("x", numbers)])) as ArrayRef;
    let wide = rows(vec![
        ("n", Arc::new(Int64Array::from(vec![1]))),
        ("d", Arc::new(Float64Array::from(vec![0.5]))),
        ("m", Arc::new(Decimal128Array::from(vec![150]).with_precision_and_scale(12, 2).unwrap())),
        ("s", inner(Arc::new(Int64Array::from(vec![7])))),
    ]);
    let narrow = rows(vec![
        ("s", inner(Arc::new(Int8Array::from(vec![-8])))),
        ("m", Arc::new(Decimal128Array::from(vec![25]).with_precision_and_scale(3, 1).unwrap())),
        ("d", Arc::new(Float32Array::from(vec![0.25]))),
        ("n", Arc::new(Int16Array::from(vec![2]))),
    ]);
    let cut = process.cut(0, 0, vec![("", wide.clone())]).await;
    process.publish(vec![cut]).await.pop().unwrap().unwrap();
    for (shares, start) in [(true, 1), (false, 2)] {
        process.shares = shares;
        let cut = process.cut(0, start, vec![("", narrow.clone())]).await;
        process.publish(vec![cut]).await.pop().unwrap().unwrap();
    }
    let log = log(&objects).await;
    let adds: Vec<&Value> = log.iter().flat_map(|commit| adds(commit)).collect();
    assert_eq!(adds.len(), 3);
    let first = read(&objects, adds[0]).await;
    for add in &adds[1..] {
        let rows = read(&objects, add).await;
        assert_eq!(rows.fields(), first.fields());
        let statistics: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
        assert_eq!(statistics["minValues"], json!({"n": 2, "d": 0.25, "m": 2.5, "s": {"x": -8}}));
    }
    let text: ArrayRef = Arc::new(Float64Array::from(vec![1.5]));
    for shares in [true, false] {
        process.shares = shares;
        let cut = process.cut(0, 3, vec![("", rows(vec![("n", text.clone())]))]).await;
        let error = process.publish(vec![cut]).await.pop().unwrap().unwrap_err();
        assert!(error.to_string().contains("column n is double in the records and long in the table"), "{error}");
    }
}

#[tokio::test]
async fn a_table_with_type_widening_gets_wider_columns_by_a_commit_of_their_own() {
    for shares in [true, false] {
        let objects = Arc::new(InMemory::new());
        let property = Map::from_iter([("delta.enableTypeWidening".to_owned(), json!("true"))]);
        let mut process = Process::with(fine(&objects), 1, false, property).await;
        process.shares = shares;
        let short = |value: i16| rows(vec![("n", Arc::new(Int16Array::from(vec![value])) as ArrayRef)]);
        let parts = [short(1), numbers(1 << 40..(1 << 40) + 1), short(2)];
        for (start, rows) in (0..).zip(parts) {
            let cut = process.cut(0, start, vec![("", rows)]).await;
            process.publish(vec![cut]).await.pop().unwrap().unwrap();
        }
        let log = log(&objects).await;
        let kinds: Vec<&str> =
            log.iter().map(|commit| commit[0]["commitInfo"]["operation"].as_str().unwrap()).collect();
        let append = "STREAMING UPDATE";
        assert_eq!(kinds, ["CREATE TABLE", append, "CHANGE COLUMNS", append, append]);
        assert_eq!(log[0][1]["protocol"]["readerFeatures"], json!(["typeWidening"]));
        let columns: Value = serde_json::from_str(log[2][1]["metaData"]["schemaString"].as_str().unwrap()).unwrap();
        let changes = &columns["fields"][0]["metadata"]["delta.typeChanges"];
        assert_eq!(changes, &json!([{"fromType": "short", "toType": "long"}]));
        let mut types = Vec::new();
        for add in log.iter().flat_map(|commit| adds(commit)) {
            types.push(read(&objects, add).await.column(0).data_type().clone());
        }
        assert_eq!(types, [DataType::Int16, DataType::Int64, DataType::Int64], "shared: {shares}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_shared_file_goes_up_in_parts_and_is_encoded_again_when_its_upload_is_lost() {
    let objects = Arc::new(InMemory::new());
    let times = AtomicUsize::new(0);
    let faulty = FaultyStore::new(objects.clone(), move |request, _| {
        match request == Request::PutPart && times.fetch_add(1, Ordering::Relaxed) < 3 {
            true => Fate::FailBefore,
            false => Fate::Fine,
        }
    });
    let process = Process::new(faulty.clone(), 1, false).await;
    let cuts = vec![
        process.cut(0, 0, vec![("", noisy_rows(0, 6_000, 1_024))]).await,
        process.cut(1, 0, vec![("", noisy_rows(6_000, 6_000, 1_024))]).await,
    ];
    let published: Vec<_> = process.publish(cuts).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(published.iter().map(|file| file.records).collect::<Vec<_>>(), [6_000, 6_000]);
    assert!(faulty.count(Request::CreateUpload) > 1, "an upload was lost");
    assert_eq!((faulty.count(Request::CompleteUpload), faulty.open_uploads()), (1, Vec::new()));
    let log = log(&objects).await;
    let adds: Vec<&Value> = log.iter().flat_map(|commit| adds(commit)).collect();
    assert_eq!(adds.len(), 1);
    let (read, first) = (read(&objects, adds[0]).await, noisy_rows(0, 6_000, 1_024));
    assert_eq!((read.len(), read.column(0).slice(0, 6_000).as_ref()), (12_000, first.column(0).as_ref()));
    let most = process.most.load(Ordering::Relaxed);
    assert!((5 << 20..64 << 20).contains(&most), "{most} bytes beside the rows");
    assert_eq!(process.encoded.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shared_file_that_waited_for_more_than_a_day_is_made_again() {
    let objects = Arc::new(InMemory::new());
    let is_down = Arc::new(AtomicBool::new(true));
    let down = is_down.clone();
    let faulty = FaultyStore::new(objects.clone(), move |request, key| {
        let is_commit = request == Request::Put && key.ends_with("00000000000000000002.json");
        if is_commit && down.load(Ordering::Relaxed) { Fate::FailBefore } else { Fate::Fine }
    });
    let process = Process::new(faulty, 1, false).await;
    let cut = process.cut(0, 0, vec![("", numbers(0..1))]).await;
    process.publish(vec![cut]).await.pop().unwrap().unwrap();
    let cut = process.cut(0, 1, vec![("", numbers(1..3))]).await;
    let (published, ()) = tokio::join!(process.publish(vec![cut]), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        process.now_ms.fetch_add(25 * 60 * 60 * 1_000, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        is_down.store(false, Ordering::Relaxed);
    });
    let published = published.into_iter().flat_map(Result::unwrap).next().unwrap();
    assert_eq!(listed(&objects).await, [0, 1, 2]);
    let log = log(&objects).await;
    let path = adds(&log[2])[0]["path"].as_str().unwrap().to_owned();
    assert!(published.key.ends_with(&path), "{path}");
    let objects = objects.list(Some(&Path::from("t"))).map(|object| object.unwrap().location.to_string());
    let files: Vec<String> = objects.filter(|key| futures::future::ready(key.ends_with(".parquet"))).collect().await;
    assert_eq!(files.len(), 3, "one is left to vacuum: {files:?}");
}
