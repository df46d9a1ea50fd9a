//! Upkeep of tables whose files have rows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema};
use bytes::Bytes;
use model::Values;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use writer::conformance::read_parquet;
use writer::{Fate, FaultyStore, FileFooter, FileLimits, FileStatistics, Format, ParquetFormat, Request, TableFormat};

use super::compact::{Base, Compactor};
use super::{Bench, Compaction, Removable, Vacuum, checkpoint, clean_log, vacuum};
use crate::decide::Wish;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::table::{NewFile, Proposal, Table, TableOptions};
use crate::table_tests::{options, store};

pub(super) const HOUR: i64 = 60 * 60 * 1_000;
const DAY: i64 = 24 * HOUR;

/// A table with rows `{n, s}`, or what a test appends, in a store that knows the time.
pub(super) struct Lake {
    objects: Arc<InMemory>,
    faulty: FaultyStore,
    now_ms: Arc<AtomicI64>,
    pub(super) bench: Bench,
    table: Table,
}

fn format() -> TableFormat {
    TableFormat::new(ParquetFormat::new("snappy").unwrap(), [])
}

fn numbers(range: Range<i64>) -> StructArray {
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(range.clone().map(|n| format!("text {n}"))));
    rows(vec![("n", Arc::new(Int64Array::from_iter_values(range))), ("s", texts)])
}

fn rows(columns: Vec<(&str, ArrayRef)>) -> StructArray {
    let fields: Fields =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    StructArray::new(fields, columns.into_iter().map(|(_, column)| column).collect(), None)
}

fn encoded(rows: &StructArray) -> (Bytes, FileStatistics) {
    let schema = Arc::new(Schema::new(rows.fields().clone()));
    let mut encoder = format().open(&schema, None, &FileFooter::default()).unwrap();
    encoder.write(&[Values::Typed(rows.clone())]).unwrap();
    let bytes = encoder.finish(&FileFooter::default()).unwrap();
    (bytes, encoder.statistics().unwrap())
}

impl Lake {
    async fn new(fates: impl Fn(Request, &str) -> Fate + Send + Sync + 'static) -> Lake {
        Lake::with(fates, Map::new(), None).await
    }

    pub(super) async fn with(
        fates: impl Fn(Request, &str) -> Fate + Send + Sync + 'static,
        properties: Map<String, Value>,
        partition_columns: Option<Vec<String>>,
    ) -> Lake {
        let objects = Arc::new(InMemory::new());
        let now_ms = Arc::new(AtomicI64::new(1_700_000_000_000));
        let faulty = FaultyStore::new(objects.clone(), fates);
        let clock = |now_ms: &Arc<AtomicI64>| {
            let now_ms = now_ms.clone();
            move || now_ms.load(Ordering::Relaxed)
        };
        faulty.set_clock(clock(&now_ms));
        let store = store(Arc::new(faulty.clone()));
        let now = Arc::new(clock(&now_ms));
        let options = TableOptions {
            connector: "c".to_owned(),
            now_ms: now.clone(),
            merge_schema: true,
            linger: Duration::ZERO,
            properties,
            partition_columns,
            ..options(1)
        };
        let table = Table::open(store.clone(), options).await.unwrap();
        let metrics = Metrics::default().table("c", "t");
        let bench =
            Bench { log: Log::new(store, "lake/t").unwrap(), now_ms: now, metrics, seed: 7, connector: "c".to_owned() };
        Lake { objects, faulty, now_ms, bench, table }
    }

    pub(super) fn pass(&self, span_ms: i64) {
        self.now_ms.fetch_add(span_ms, Ordering::Relaxed);
    }

    /// Appends a file of `rows` in `directory`; its name.
    async fn append_rows(&self, rows: &StructArray, directory: &str, partition_values: Map<String, Value>) -> String {
        let version = self.table.look().await.unwrap().txns.get("c:t:0").copied().unwrap_or(0);
        let (bytes, statistics) = encoded(rows);
        let name = format!("{directory}t+0+{version:020}-{version:016x}.snappy.parquet");
        self.bench.log.store().create(&format!("lake/t/{name}"), bytes.clone()).await.unwrap();
        let mut fields: Vec<Field> = rows.fields().iter().map(|field| field.as_ref().clone()).collect();
        fields.extend(partition_values.keys().map(|name| Field::new(name, DataType::Utf8, true)));
        let file = NewFile {
            name: name.clone(),
            bytes: bytes.len() as u64,
            schema: Arc::new(Schema::new(fields)),
            partition_values,
            statistics,
            written_ms: (self.bench.now_ms)(),
        };
        let wish = Wish { app_id: "c:t:0".to_owned(), start: version, end: version + 1 };
        self.table.commit(Proposal { wish, files: vec![file], rows: Vec::new() }).await.unwrap();
        name
    }

    pub(super) async fn append(&self, range: Range<i64>) -> String {
        self.append_rows(&numbers(range), "", Map::new()).await
    }

    fn compactor(&self) -> Compactor {
        let how = Compaction {
            interval: Duration::from_secs(60),
            target_bytes: 128 << 20,
            format: Arc::new(format()),
            limits: FileLimits {
                part_bytes: 5 << 20,
                rows_bytes: 1 << 20,
                row_group_bytes: 1 << 20,
                row_group_rows: 1 << 20,
            },
            turn: Arc::new(Semaphore::new(1)),
        };
        Compactor::new(self.bench.clone(), how)
    }

    async fn compact(&self) {
        self.compactor().run(later()).await.unwrap();
    }

    async fn vacuum(&self, files: Removable) {
        let how = Vacuum { interval: Duration::from_secs(60), files, upload_age: None };
        vacuum::run(&self.bench, &how).await.unwrap();
    }

    pub(super) async fn commit_lines(&self, version: u64) -> Option<Vec<Value>> {
        let path = Path::from(format!("lake/t/_delta_log/{version:020}.json"));
        let bytes = self.objects.get(&path).await.ok()?.bytes().await.unwrap();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Some(lines.map(|line| serde_json::from_slice(line).unwrap()).collect())
    }

    /// A commit of somebody else.
    pub(super) async fn put_lines(&self, lines: &[Value]) {
        let version = self.table.look().await.unwrap().version + 1;
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.bench.log.store().create(&format!("lake/t/_delta_log/{version:020}.json"), text.into()).await.unwrap();
    }

    /// The files of each version, by their commits.
    pub(super) async fn versions(&self) -> Vec<BTreeMap<String, Value>> {
        let mut versions: Vec<BTreeMap<String, Value>> = Vec::new();
        for version in 0.. {
            let Some(lines) = self.commit_lines(version).await else { break };
            let mut files = versions.last().cloned().unwrap_or_default();
            for line in &lines {
                if let Some(path) = line["remove"]["path"].as_str() {
                    assert!(files.remove(path).is_some(), "version {version} removes {path}, which is not there");
                }
            }
            for line in &lines {
                if let Some(path) = line["add"]["path"].as_str() {
                    assert!(files.insert(path.to_owned(), line["add"].clone()).is_none(), "{path} is there twice");
                }
            }
            versions.push(files);
        }
        versions
    }

    async fn rows_of(&self, path: &str) -> StructArray {
        let file = self.objects.get(&Path::from(format!("lake/t/{path}"))).await.unwrap();
        read_parquet(file.bytes().await.unwrap())
    }

    /// How often each number is in the files.
    pub(super) async fn counts(&self, files: &BTreeMap<String, Value>) -> BTreeMap<i64, usize> {
        let mut counts = BTreeMap::new();
        for (path, add) in files {
            let rows = self.rows_of(path).await;
            let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
            assert_eq!(stats["numRecords"], json!(rows.len()), "{path}");
            for number in rows.column_by_name("n").unwrap().as_primitive::<Int64Type>().iter().flatten() {
                *counts.entry(number).or_default() += 1;
            }
        }
        counts
    }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

fn fine(_: Request, _: &str) -> Fate {
    Fate::Fine
}

fn once(range: Range<i64>) -> BTreeMap<i64, usize> {
    range.map(|number| (number, 1)).collect()
}

#[tokio::test]
async fn small_files_become_one_and_every_version_has_every_row_once() {
    let lake = Lake::new(fine).await;
    for number in 0..20 {
        lake.append(number * 10..number * 10 + 10).await;
    }
    let mut compactor = lake.compactor();
    compactor.run(later()).await.unwrap();
    assert_eq!(lake.versions().await.len(), 21, "all files are young");
    lake.pass(HOUR);
    compactor.run(later()).await.unwrap();
    lake.append(200..210).await;
    let versions = lake.versions().await;
    assert_eq!(versions.len(), 23);
    for (version, files) in versions.iter().enumerate().skip(1) {
        let appended = if version < 21 { version } else { version - 1 };
        assert_eq!(lake.counts(files).await, once(0..appended as i64 * 10), "version {version}");
    }
    assert_eq!(versions[21].len(), 1);
    let lines = lake.commit_lines(21).await.unwrap();
    let info = &lines[0]["commitInfo"];
    assert_eq!((&info["operation"], &info["isBlindAppend"]), (&json!("OPTIMIZE"), &json!(false)));
    assert_eq!(lines.len(), 22);
    assert!(lines[1..21].iter().all(|line| line["remove"]["dataChange"] == json!(false)));
    let add = &lines[21]["add"];
    assert_eq!(add["dataChange"], json!(false));
    let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
    assert_eq!((&stats["minValues"]["n"], &stats["maxValues"]["n"]), (&json!(0), &json!(199)));
    assert_eq!(lake.bench.metrics.compacted_files(), 20);
    // The kernel's view is ours.
    let log = Log::new(store(lake.objects.clone()), "lake/t").unwrap();
    assert_eq!(crate::open::open(&log).await.unwrap().unwrap().version, 22);
    let mut again = lake.compactor();
    again.run(later()).await.unwrap();
    assert_eq!(lake.versions().await.len(), 23, "nothing is left to do");
}

#[tokio::test]
async fn groups_of_one_round_have_names_of_their_own_and_narrow_columns_get_wide() {
    let lake = Lake::new(fine).await;
    for number in 0..16 {
        lake.append(number..number + 1).await;
    }
    for number in 0..16 {
        lake.append(16 + number * 1_000..16 + number * 1_000 + 1_000).await;
    }
    let narrow = rows(vec![("n", Arc::new(Int32Array::from_iter_values(16_016..16_116)))]);
    let bytes = encoded(&narrow).0;
    let size = bytes.len();
    lake.bench.log.store().create("lake/t/narrow.parquet", bytes).await.unwrap();
    let add = json!({"path": "narrow.parquet", "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": true});
    lake.put_lines(&[json!({ "add": add })]).await;
    lake.pass(HOUR);
    lake.compact().await;
    let files = lake.versions().await.pop().unwrap();
    assert_eq!((files.len(), lake.counts(&files).await), (2, once(0..16_116)), "{files:?}");
}

#[tokio::test]
async fn files_stay_in_their_partitions() {
    let lake = Lake::with(fine, Map::new(), Some(vec!["p".to_owned()])).await;
    for number in 0..32 {
        let (directory, value) =
            if number % 2 == 0 { ("p=a%20b/", json!("a b")) } else { ("p=__HIVE_DEFAULT_PARTITION__/", Value::Null) };
        let values = Map::from_iter([("p".to_owned(), value)]);
        lake.append_rows(&numbers(number..number + 1), directory, values).await;
    }
    lake.pass(HOUR);
    lake.compact().await;
    let versions = lake.versions().await;
    let files = versions.last().unwrap();
    let values: Vec<&Value> = files.values().map(|add| &add["partitionValues"]["p"]).collect();
    assert_eq!((values.len(), versions.len()), (2, 35));
    assert!(values.contains(&&json!("a b")) && values.contains(&&Value::Null), "{values:?}");
    for (path, add) in files {
        // The name on the store is the decoded path, which for the first directory has a percent sign in it.
        let key = super::compact::decoded(path);
        assert!(lake.bench.log.store().read(&format!("lake/t/{key}")).await.unwrap().is_some(), "{path}");
        assert_eq!(path.starts_with("p=a%2520b/"), add["partitionValues"]["p"] == json!("a b"), "{path}");
    }
}

#[tokio::test]
async fn columns_that_came_later_are_null_in_rows_from_before() {
    let lake = Lake::new(fine).await;
    let inner = |columns: Vec<(&str, ArrayRef)>| Arc::new(rows(columns)) as ArrayRef;
    let number = |n: i64| Arc::new(Int64Array::from(vec![n])) as ArrayRef;
    for n in 0..8 {
        lake.append_rows(&rows(vec![("n", number(n)), ("o", inner(vec![("x", number(n))]))]), "", Map::new()).await;
    }
    for n in 8..16 {
        let wider = inner(vec![("y", number(n * 10)), ("x", number(n))]);
        lake.append_rows(&rows(vec![("z", number(-n)), ("o", wider), ("n", number(n))]), "", Map::new()).await;
    }
    lake.pass(HOUR);
    lake.compact().await;
    let files = lake.versions().await.pop().unwrap();
    assert_eq!(lake.counts(&files).await, once(0..16));
    let (path, _) = files.first_key_value().unwrap();
    let merged = lake.rows_of(path).await;
    let names: Vec<&String> = merged.fields().iter().map(|field| field.name()).collect();
    assert_eq!(names, ["n", "o", "z"], "in the order of the table");
    let of = |column: &ArrayRef| column.as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    let z: Vec<Option<i64>> = (0..16).map(|n| (n >= 8).then_some(-n)).collect();
    assert_eq!(of(merged.column(2)), z);
    let y: Vec<Option<i64>> = (0..16).map(|n| (n >= 8).then_some(n * 10)).collect();
    assert_eq!(of(merged.column(1).as_struct().column_by_name("y").unwrap()), y);
}

#[tokio::test]
async fn files_that_cannot_be_merged_stay_as_they_are() {
    let lake = Lake::new(fine).await;
    for number in 0..16 {
        lake.append(number..number + 1).await;
    }
    let deleted = lake.append(16..18).await;
    let vector = json!({"storageType": "i", "pathOrInlineDv": "x", "offset": null, "sizeInBytes": 1, "cardinality": 1});
    let add = |path: &str, more: Value| {
        let mut add =
            json!({"path": path, "partitionValues": {}, "size": 900, "modificationTime": 1, "dataChange": true});
        more.as_object().unwrap().iter().for_each(|(name, value)| add[name] = value.clone());
        json!({ "add": add })
    };
    let other = encoded(&rows(vec![("n", Arc::new(StringArray::from(vec!["x"])))])).0;
    lake.bench.log.store().create("lake/t/other-type.parquet", other).await.unwrap();
    lake.put_lines(&[
        json!({"remove": {"path": deleted, "deletionTimestamp": 1, "dataChange": true}}),
        add(&deleted, json!({"deletionVector": vector})),
        add("clustered.parquet", json!({"clusteringProvider": "liquid"})),
        add("s3://elsewhere/x.parquet", json!({})),
        add("not-there.parquet", json!({})),
        add("other-type.parquet", json!({})),
    ])
    .await;
    lake.pass(HOUR);
    lake.compact().await;
    let lines = lake.commit_lines(19).await.unwrap();
    let removed: Vec<&str> = lines.iter().filter_map(|line| line["remove"]["path"].as_str()).collect();
    assert_eq!(
        (removed.len(), lines.len()),
        (16, 18),
        "the plain ones, with what was added and what was done: {lines:?}"
    );
    assert!(removed.iter().all(|path| path.starts_with("t+0+")), "{removed:?}");
}

#[tokio::test]
async fn compaction_gives_way_to_whoever_changes_its_files_or_the_columns() {
    let schema = json!({"type": "struct", "fields": [
        {"name": "n", "type": "long", "nullable": true, "metadata": {}},
        {"name": "s", "type": "string", "nullable": true, "metadata": {}},
        {"name": "new", "type": "long", "nullable": true, "metadata": {}}]});
    for is_schema in [false, true] {
        let lake = Lake::new(fine).await;
        let mut first = String::new();
        for number in 0..16 {
            first = lake.append(number..number + 1).await;
        }
        lake.pass(HOUR);
        // While files are merged, which begins with reading the log, somebody commits.
        let metadata = lake.commit_lines(0).await.unwrap()[2]["metaData"].clone();
        let lines = if is_schema {
            let mut metadata = metadata;
            metadata["schemaString"] = json!(schema.to_string());
            vec![json!({ "metaData": metadata })]
        } else {
            vec![json!({"remove": {"path": first, "deletionTimestamp": 1, "dataChange": true}})]
        };
        let mut compactor = lake.compactor();
        let (snapshot, state) = crate::open::newest(&lake.bench.log).await.unwrap().unwrap();
        lake.put_lines(&lines).await;
        let (groups, _) = compactor.plan(snapshot).await.unwrap();
        assert_eq!(groups.len(), 1);
        compactor.merge_all(groups, Base::new(state, Instant::now()), later()).await.unwrap();
        assert_eq!(lake.versions().await.len(), 18, "it committed nothing");
        lake.append(16..17).await;
        lake.pass(HOUR);
        lake.compact().await;
        let files = lake.versions().await.pop().unwrap();
        let gone = usize::from(!is_schema);
        assert_eq!((lake.counts(&files).await.len(), files.len()), (17 - gone, 1), "the next one does");
    }
}

#[tokio::test(start_paused = true)]
async fn commits_of_compaction_whose_outcome_is_unknown_happen_once() {
    for fate in [Fate::FailBefore, Fate::FailAfter, Fate::HangThenHappen(Duration::from_secs(9)), Fate::Conflict] {
        let puts = AtomicI64::new(0);
        let lake = Lake::new(move |request, key| {
            let is_commit = request == Request::Put && key.ends_with("00000000000000000017.json");
            match is_commit && puts.fetch_add(1, Ordering::Relaxed) < 5 {
                true => fate,
                false => Fate::Fine,
            }
        })
        .await;
        for number in 0..16 {
            lake.append(number..number + 1).await;
        }
        lake.pass(HOUR);
        let mut compactor = lake.compactor();
        while compactor.run(later()).await.is_err() {}
        tokio::time::sleep(Duration::from_secs(60)).await;
        compactor.run(later()).await.unwrap();
        let files = lake.versions().await.pop().unwrap();
        assert_eq!((lake.counts(&files).await, files.len()), (once(0..16), 1), "{fate:?}");
    }
}

#[tokio::test]
async fn two_compactions_at_once_merge_once() {
    let lake = Lake::new(fine).await;
    for number in 0..16 {
        lake.append(number..number + 1).await;
    }
    lake.pass(HOUR);
    let (mut one, mut other) = (lake.compactor(), Compactor::new(Bench { seed: 8, ..lake.bench.clone() }, lake.how()));
    let (snapshot, state) = crate::open::newest(&lake.bench.log).await.unwrap().unwrap();
    for compactor in [&mut one, &mut other] {
        let (groups, _) = compactor.plan(snapshot.clone()).await.unwrap();
        compactor.merge_all(groups, Base::new(state.clone(), Instant::now()), later()).await.unwrap();
    }
    let versions = lake.versions().await;
    assert_eq!((versions.len(), lake.counts(versions.last().unwrap()).await), (18, once(0..16)));
}

#[tokio::test]
async fn vacuum_removes_what_no_version_within_the_retention_has_and_nothing_else() {
    let lake = Lake::new(fine).await;
    let create = |name: &'static str| {
        let store = lake.bench.log.store().clone();
        async move { store.create(&format!("lake/t/{name}"), "rows".into()).await.unwrap() }
    };
    let old = [
        ("t+0+00000000000000000099-0123456789abcdef.snappy.parquet", "an own orphan"),
        ("part-00000-x.snappy.parquet", "somebody's"),
        ("_delta_log/t+0+1-0123456789abcdef.parquet", "hidden"),
        ("_change_data/t+0+1-0123456789abcdef.parquet", "hidden"),
        ("notes.txt", "no file of rows"),
    ];
    for (name, _) in old {
        create(name).await;
    }
    for number in 0..20 {
        lake.append(number..number + 1).await;
    }
    lake.pass(HOUR);
    lake.compact().await;
    lake.pass(7 * DAY - HOUR);
    let fresh = "t+0+00000000000000000098-0123456789abcdef.snappy.parquet";
    create(fresh).await;
    lake.vacuum(Removable::All).await;
    assert_eq!(lake.bench.metrics.vacuumed_files(), 0, "nothing is old enough: {:?}", lake.names().await);
    lake.pass(2 * HOUR);
    // What was replaced six days, 23 hours ago has to stay another hour.
    let before = lake.versions().await;
    assert_eq!(lake.counts(&before[20]).await, once(0..20), "a reader that opened the version before goes on");
    lake.pass(-HOUR - 1);
    lake.vacuum(Removable::Own).await;
    assert_eq!(lake.bench.metrics.vacuumed_files(), 1, "the orphan: {:?}", lake.names().await);
    lake.pass(2 * HOUR);
    lake.vacuum(Removable::Own).await;
    assert_eq!(lake.bench.metrics.vacuumed_files(), 21);
    let names = lake.names().await;
    for (name, what) in &old[1..] {
        assert!(names.contains(&(*name).to_owned()), "{what}");
    }
    assert!(names.contains(&fresh.to_owned()), "it may be committed yet");
    let files = lake.versions().await.pop().unwrap();
    assert_eq!(lake.counts(&files).await, once(0..20));
    lake.vacuum(Removable::All).await;
    assert!(!lake.names().await.contains(&old[1].0.to_owned()), "all are all");
    assert_eq!(lake.counts(&files).await, once(0..20));
}

#[tokio::test]
async fn vacuum_knows_files_by_encoded_paths_and_touches_nothing_where_files_lie_elsewhere() {
    let lake = Lake::with(fine, Map::new(), Some(vec!["p".to_owned()])).await;
    let values = Map::from_iter([("p".to_owned(), json!("a b"))]);
    let name = lake.append_rows(&numbers(0..1), "p=a b/", values).await;
    lake.pass(30 * DAY);
    lake.vacuum(Removable::All).await;
    assert!(lake.names().await.contains(&name));
    lake.bench.log.store().create("lake/t/orphan.parquet", "rows".into()).await.unwrap();
    let add = json!({"path": "s3://b/lake/t/orphan.parquet", "partitionValues": {"p": "x"}, "size": 4, "modificationTime": 1, "dataChange": true});
    lake.put_lines(&[json!({ "add": add })]).await;
    lake.pass(30 * DAY);
    let how = Vacuum { interval: Duration::from_secs(60), files: Removable::All, upload_age: None };
    let error = vacuum::run(&lake.bench, &how).await.unwrap_err().to_string();
    assert!(error.contains("lies elsewhere: s3://b/lake/t/orphan.parquet"), "{error}");
    assert!(lake.names().await.contains(&"orphan.parquet".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_table_has_a_checkpoint_and_its_old_commits_go() {
    let lake = Lake::new(fine).await;
    checkpoint::of_newest(&lake.bench).await.unwrap();
    for number in 0..20 {
        lake.append(number..number + 1).await;
        lake.pass(2 * DAY);
    }
    for _ in 0..2 {
        checkpoint::of_newest(&lake.bench).await.unwrap();
    }
    assert_eq!(lake.bench.metrics.checkpoints(), 1, "once for a version");
    clean_log::run(&lake.bench).await.unwrap();
    assert_eq!(lake.bench.metrics.removed_log_objects(), 0, "versions within the retention are read from the first");
    lake.append(20..21).await;
    lake.pass(31 * DAY);
    clean_log::run(&lake.bench).await.unwrap();
    assert_eq!(lake.bench.metrics.removed_log_objects(), 20, "the versions 0 to 19");
    let table = Table::open(store(Arc::new(lake.faulty.clone())), options(3)).await.unwrap();
    assert_eq!((table.known().version, table.known().txns["c:t:0"]), (21, 21));
    lake.append(21..22).await;
    assert!(lake.names().await.iter().all(|name| !name.contains("00000000000000000019.json")));
}

impl Lake {
    fn how(&self) -> Compaction {
        self.compactor().how
    }

    /// All objects of the table.
    async fn names(&self) -> Vec<String> {
        use futures::TryStreamExt;
        let objects: Vec<_> = self.objects.list(Some(&Path::from("lake/t"))).try_collect().await.unwrap();
        objects.into_iter().map(|object| object.location.to_string().replacen("lake/t/", "", 1)).collect()
    }
}
