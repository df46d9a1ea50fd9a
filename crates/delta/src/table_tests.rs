//! Tables in stores that fail: what is in the log, and what it cost.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use writer::{Abilities, Fate, FaultyStore, FileStatistics, Request, RetryRules, Store, TableOfFiles};

use crate::decide::Wish;
use crate::metrics::Metrics;
use crate::table::{CommitError, Committed, NewFile, Proposal, Table, TableOptions};
use crate::upkeep::UpkeepOptions;

pub(crate) fn store(objects: Arc<dyn ObjectStore>) -> Store {
    let rules = RetryRules {
        attempts: 2,
        backoff: Duration::from_millis(10),
        attempt_timeout: Duration::from_secs(5),
        redelivery: Duration::from_millis(100),
        ..RetryRules::default()
    };
    Store::with(objects, "store", Abilities { metadata: true, conditional: true }, rules, 1)
}

pub(crate) fn options(seed: u64) -> TableOptions {
    TableOptions {
        connector: "c".to_owned(),
        location: "lake/t".to_owned(),
        partition_columns: None,
        properties: Map::new(),
        merge_schema: false,
        user_metadata: None,
        linger: Duration::from_millis(5),
        now_ms: Arc::new(|| 1_700_000_000_000),
        seed,
        upkeep: UpkeepOptions::default(),
        metrics: Metrics::default().table("c", "t"),
        encoded: Arc::new(|_| ()),
    }
}

fn columns(names: &[&str]) -> Arc<Schema> {
    let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
    Arc::new(Schema::new(fields))
}

fn proposal_of(app_id: &str, start: i64, end: i64, writer: &str, schema: Arc<Schema>) -> Proposal {
    let file = NewFile {
        name: format!("{app_id}+{start}+{end}-{writer}.parquet"),
        bytes: 9,
        schema,
        partition_values: Map::new(),
        statistics: FileStatistics { rows: (end - start).unsigned_abs(), columns: Vec::new() },
        written_ms: 1_700_000_000_000,
    };
    Proposal { wish: Wish { app_id: app_id.to_owned(), start, end }, files: vec![file], rows: Vec::new() }
}

fn in_version(version: u64) -> Result<Committed, CommitError> {
    Ok(Committed { version, shared: Vec::new() })
}

pub(crate) fn proposal(app_id: &str, start: i64, end: i64) -> Proposal {
    proposal_of(app_id, start, end, "w", columns(&["a"]))
}

/// The lines of all commits.
pub(crate) async fn log(objects: &InMemory) -> Vec<Vec<Value>> {
    let mut commits = Vec::new();
    for version in 0.. {
        let path = object_store::path::Path::from(format!("lake/t/_delta_log/{version:020}.json"));
        let Ok(commit) = object_store::ObjectStoreExt::get(objects, &path).await else { break };
        let text = String::from_utf8(commit.bytes().await.unwrap().to_vec()).unwrap();
        commits.push(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect());
    }
    commits
}

/// The ranges of `app_id` that the log holds, in its order.
fn ranges(log: &[Vec<Value>], app_id: &str) -> Vec<(i64, i64)> {
    let adds = log.iter().flatten().filter_map(|line| line["add"]["path"].as_str());
    let prefix = format!("{}+", app_id.replace(':', "%3A"));
    let of_app = adds.filter_map(|path| path.strip_prefix(&prefix));
    of_app
        .map(|rest| {
            let (start, rest) = rest.split_once('+').unwrap();
            (start.parse().unwrap(), rest.split_once('-').unwrap().0.parse().unwrap())
        })
        .collect()
}

pub(crate) async fn put(objects: &InMemory, version: u64, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let path = object_store::path::Path::from(format!("lake/t/_delta_log/{version:020}.json"));
    object_store::ObjectStoreExt::put(objects, &path, text.into()).await.unwrap();
}

pub(crate) fn table_lines(fields: Value, properties: Value) -> Vec<Value> {
    let schema = json!({"type": "struct", "fields": fields}).to_string();
    vec![
        json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
        json!({"metaData": {"id": "theirs", "format": {"provider": "parquet", "options": {}}, "schemaString": schema,
            "partitionColumns": [], "configuration": properties, "createdTime": 5}}),
    ]
}

pub(crate) fn long(name: &str) -> Value {
    json!({"name": name, "type": "long", "nullable": true, "metadata": {}})
}

#[tokio::test]
async fn a_commit_without_contention_is_one_request_and_a_table_is_opened_by_few() {
    let objects = Arc::new(InMemory::new());
    let counted = FaultyStore::new(objects.clone(), |_, _| Fate::Fine);
    let requests = || [Request::Put, Request::Get, Request::Head, Request::List].map(|request| counted.count(request));
    let table = Table::open(store(Arc::new(counted.clone())), options(1)).await.unwrap();
    table.commit(proposal("c:t:0", 0, 1)).await.unwrap();
    let before = requests();
    for offset in 1i64..21 {
        let committed = table.commit(proposal("c:t:0", offset, offset + 1)).await;
        assert_eq!(committed, in_version(offset.unsigned_abs() + 1));
    }
    let after = requests();
    assert_eq!([0, 1, 2, 3].map(|kind| after[kind] - before[kind]), [20, 0, 0, 0], "PUT, GET, HEAD, LIST");
    let both = [table.commit(proposal("c:t:0", 21, 22)), table.commit(proposal("c:t:1", 0, 9))];
    for version in futures::future::join_all(both).await {
        assert_eq!(version, in_version(22), "lanes that cut together share a commit");
    }
    let before = requests();
    let other = Table::open(store(Arc::new(counted.clone())), options(2)).await.unwrap();
    let after = requests();
    // Each commit is read once for protocol and metadata and once for transactions, and the hint of a checkpoint is asked for.
    assert_eq!([0, 1, 2, 3].map(|kind| after[kind] - before[kind]), [0, 47, 0, 1], "PUT, GET, HEAD, LIST");
    assert_eq!(other.known().txns, [("c:t:0".to_owned(), 22), ("c:t:1".to_owned(), 9)].into());
    let before = requests();
    assert_eq!(other.look().await.unwrap().version, 22);
    let after = requests();
    assert_eq!(
        [0, 1, 2, 3].map(|kind| after[kind] - before[kind]),
        [0, 1, 0, 0],
        "a look is one GET: PUT, GET, HEAD, LIST"
    );
}

#[tokio::test]
async fn a_table_is_made_by_the_first_commit_and_every_commit_says_who_did_it() {
    let objects = Arc::new(InMemory::new());
    let mut options = options(1);
    options.properties = Map::from_iter([("delta.appendOnly".to_owned(), json!("true"))]);
    let table = Table::open(store(objects.clone()), options).await.unwrap();
    assert_eq!(table.known().id, None);
    let time = Arc::new(Schema::new(vec![Field::new("n", DataType::Timestamp(TimeUnit::Microsecond, None), true)]));
    table.commit(proposal_of("c:t:0", 5, 9, "w", time)).await.unwrap();
    let log = log(&objects).await;
    assert_eq!(log.len(), 2);
    assert_eq!(log[0][1]["protocol"]["minWriterVersion"], 7, "times without a zone are a feature");
    assert_eq!(log[0][2]["metaData"]["configuration"], json!({"delta.appendOnly": "true"}));
    assert_eq!(
        (&log[1][0]["commitInfo"]["operation"], &log[1][0]["commitInfo"]["readVersion"]),
        (&json!("STREAMING UPDATE"), &json!(0))
    );
    assert_eq!(log[1][1]["txn"], json!({"appId": "c:t:0", "version": 9, "lastUpdated": 1_700_000_000_000i64}));
    assert_eq!(log[1][2]["add"]["stats"], r#"{"numRecords":4,"minValues":{},"maxValues":{},"nullCount":{}}"#);
    assert_eq!(table.known().id.as_deref(), log[0][2]["metaData"]["id"].as_str());
}

#[tokio::test]
async fn what_somebody_else_wrote_is_not_written_again() {
    let objects = Arc::new(InMemory::new());
    let open = |seed| Table::open(store(objects.clone()), options(seed));
    let (zombie, heir) = (open(1).await.unwrap(), open(2).await.unwrap());
    zombie.commit(proposal("c:t:0", 0, 5)).await.unwrap();
    assert_eq!(heir.look().await.unwrap().txns["c:t:0"], 5);
    heir.commit(proposal("c:t:0", 5, 9)).await.unwrap();
    let error = zombie.commit(proposal("c:t:0", 5, 7)).await.unwrap_err();
    assert!(matches!(&error, CommitError::Overtaken(why) if why.contains("goes on at offset 9")), "{error}");
    // Another topic-partition is not concerned, and the same cut again is there already.
    assert_eq!(zombie.commit(proposal("c:t:1", 0, 2)).await, in_version(3));
    assert_eq!(zombie.commit(proposal("c:t:0", 5, 9)).await, in_version(3));
    assert_eq!(ranges(&log(&objects).await, "c:t:0"), [(0, 5), (5, 9)]);
}

#[tokio::test]
async fn files_that_waited_for_longer_than_vacuum_may_leave_them_are_not_committed() {
    let objects = Arc::new(InMemory::new());
    let table = Table::open(store(objects.clone()), options(1)).await.unwrap();
    let mut late = proposal("c:t:0", 0, 5);
    late.files[0].written_ms -= 24 * 60 * 60 * 1_000 + 1;
    let error = table.commit(late).await.unwrap_err();
    assert!(matches!(&error, CommitError::Overtaken(why) if why.contains("waited for more than a day")), "{error}");
    table.commit(proposal("c:t:0", 0, 5)).await.unwrap();
    assert_eq!(ranges(&log(&objects).await, "c:t:0"), [(0, 5)]);
}

#[tokio::test]
async fn new_columns_are_added_by_a_commit_of_their_own_or_refused() {
    let objects = Arc::new(InMemory::new());
    put(&objects, 0, &table_lines(json!([long("a")]), json!({}))).await;
    let with = |merge_schema, seed| TableOptions { merge_schema, ..options(seed) };
    let strict = Table::open(store(objects.clone()), with(false, 1)).await.unwrap();
    let error = strict.commit(proposal_of("c:t:0", 0, 1, "w", columns(&["a", "b"]))).await.unwrap_err();
    assert!(matches!(&error, CommitError::Changed(why) if why.contains("mergeSchema")), "{error}");
    assert_eq!(strict.refusal(&columns(&["a"])), None);
    assert!(strict.refusal(&columns(&["a", "b"])).is_some_and(|why| why.contains("mergeSchema")));
    let open = |seed| Table::open(store(objects.clone()), with(true, seed));
    let (one, other) = (open(2).await.unwrap(), open(3).await.unwrap());
    // Two processes add the same column and one more each.
    let both = [
        one.commit(proposal_of("c:t:0", 0, 1, "one", columns(&["b", "c"]))),
        other.commit(proposal_of("c:t:1", 0, 1, "other", columns(&["d", "b"]))),
    ];
    for answer in futures::future::join_all(both).await {
        answer.unwrap();
    }
    let log = log(&objects).await;
    let mut schemas = log.iter().flatten().filter_map(|line| line["metaData"]["schemaString"].as_str());
    let last: Value = serde_json::from_str(schemas.next_back().unwrap()).unwrap();
    let mut names: Vec<&str> =
        last["fields"].as_array().unwrap().iter().map(|field| field["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let mixed = log.iter().filter(|lines| {
        lines.iter().any(|line| line.get("metaData").is_some()) && lines.iter().any(|line| line.get("add").is_some())
    });
    assert_eq!(mixed.count(), 0, "columns come in commits of their own");
    assert_eq!(one.look().await.map(|_| one.columns().fields().len()), Ok(4));
    let error = one
        .commit(proposal_of("c:t:0", 1, 2, "w", Arc::new(Schema::new(vec![Field::new("a", DataType::Utf8, true)]))))
        .await;
    assert!(
        matches!(&error, Err(CommitError::Changed(why)) if why.contains("column a is string in the records and long in the table")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_table_that_cannot_be_honoured_is_refused_at_start_and_when_it_becomes_one() {
    let objects = Arc::new(InMemory::new());
    put(&objects, 0, &table_lines(json!([long("a")]), json!({}))).await;
    let table = Table::open(store(objects.clone()), options(1)).await.unwrap();
    put(&objects, 1, &table_lines(json!([long("a")]), json!({"delta.constraints.positive": "a > 0"}))[1..]).await;
    for error in [
        table.commit(proposal("c:t:0", 0, 1)).await.unwrap_err(),
        Table::open(store(objects.clone()), options(1)).await.unwrap_err(),
    ] {
        assert!(matches!(&error, CommitError::Refused(why) if why.contains("CHECK constraint positive")), "{error}");
    }
    let partitioned = TableOptions { partition_columns: Some(vec!["a".to_owned()]), ..options(1) };
    put(
        &objects,
        2,
        &table_lines(json!([long("a")]), json!({"delta.logRetentionDuration": "interval 5 minutes"}))[1..],
    )
    .await;
    let error = Table::open(store(objects.clone()), partitioned.clone()).await.unwrap_err();
    assert!(error.to_string().contains("delta.logRetentionDuration=interval 5 minutes"), "{error}");
    put(&objects, 3, &table_lines(json!([long("a")]), json!({}))[1..]).await;
    let error = Table::open(store(objects.clone()), partitioned).await.unwrap_err();
    assert!(error.to_string().contains("partitioned by [] and not by [a]"), "{error}");
}

#[tokio::test]
async fn a_table_that_was_replaced_is_not_written_to() {
    let objects = Arc::new(InMemory::new());
    let table = Table::open(store(objects.clone()), options(1)).await.unwrap();
    table.commit(proposal("c:t:0", 0, 1)).await.unwrap();
    put(&objects, 2, &table_lines(json!([long("a")]), json!({}))[1..]).await;
    let error = table.commit(proposal("c:t:0", 1, 2)).await.unwrap_err();
    assert!(matches!(&error, CommitError::Refused(why) if why.contains("it is the table theirs now")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_written_beside_commits_and_stands_for_those_before_it() {
    let objects = Arc::new(InMemory::new());
    let properties = Map::from_iter([("delta.checkpointInterval".to_owned(), json!("10"))]);
    let options = TableOptions { properties, linger: Duration::ZERO, ..options(1) };
    let table = Table::open(store(objects.clone()), options.clone()).await.unwrap();
    for offset in 0..40 {
        table.commit(proposal("c:t:0", offset, offset + 1)).await.unwrap();
    }
    let hint = object_store::path::Path::from("lake/t/_delta_log/_last_checkpoint");
    // It is written beside the commits.
    while object_store::ObjectStoreExt::head(&*objects, &hint).await.is_err() {
        tokio::task::yield_now().await;
    }
    for version in 0..10 {
        let path = object_store::path::Path::from(format!("lake/t/_delta_log/{version:020}.json"));
        object_store::ObjectStoreExt::delete(&*objects, &path).await.unwrap();
    }
    let other = Table::open(store(objects.clone()), options).await.unwrap();
    assert_eq!((other.known().version, other.known().txns["c:t:0"]), (40, 40));
    other.commit(proposal("c:t:0", 40, 41)).await.unwrap();
    assert!(table.commit(proposal("c:t:0", 40, 42)).await.is_err());
}

/// Two or three workers append the records of two topic-partitions, each believing that it owns both. They crash, requests
/// fail before or after they happened, hang and happen later. The log as it is in the end.
async fn play(seed: u64) -> Vec<Vec<Value>> {
    let objects = Arc::new(InMemory::new());
    let dice = std::sync::Mutex::new(StdRng::seed_from_u64(seed));
    let end_of_faults = tokio::time::Instant::now() + Duration::from_secs(60);
    let faulty = FaultyStore::new(objects.clone(), move |request, key| {
        // The kernel's reads are on a clock of their own.
        if tokio::time::Instant::now() > end_of_faults || request != Request::Put || !key.contains("_delta_log") {
            return Fate::Fine;
        }
        let mut dice = dice.lock().unwrap();
        match dice.random_range(0..10) {
            0 => Fate::FailBefore,
            1 | 2 => Fate::FailAfter,
            3 => Fate::HangThenHappen(Duration::from_millis(dice.random_range(1..20_000))),
            4 => Fate::Slow(Duration::from_millis(dice.random_range(1..3_000))),
            5 => Fate::Conflict,
            _ => Fate::Fine,
        }
    });
    let apps = ["c:t:0", "c:t:1"];
    let workers = (0..3).map(|number| {
        let (store, mut dice) =
            (store(Arc::new(faulty.handle(&number.to_string()))), StdRng::seed_from_u64(seed * 7 + number));
        async move {
            for life in 0..6 {
                tokio::time::sleep(Duration::from_millis(dice.random_range(0..4_000))).await;
                let Ok(table) = Table::open(store.clone(), options(seed * 100 + number * 10 + life)).await else {
                    continue;
                };
                let span = Duration::from_millis(dice.random_range(100..9_000));
                // A life ends by a crash: whatever is on its way then is forgotten.
                let _ = tokio::time::timeout(span, live(&table, &mut dice, apps, &format!("{number}.{life}"))).await;
            }
        }
    });
    futures::future::join_all(workers).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    log(&objects).await
}

async fn live(table: &Table, dice: &mut StdRng, apps: [&str; 2], name: &str) {
    let known = table.look().await.map(|known| known.txns).unwrap_or_default();
    let mut at = apps.map(|app| known.get(app).copied().unwrap_or(0));
    loop {
        let number = dice.random_range(0..2);
        let end = at[number] + dice.random_range(1..5);
        match table.commit(proposal_of(apps[number], at[number], end, name, columns(&["a"]))).await {
            Ok(_) => at[number] = end,
            Err(CommitError::Unanswered(_)) => {}
            Err(CommitError::Overtaken(_)) => return,
            Err(CommitError::Changed(why) | CommitError::Refused(why)) => panic!("{why}"),
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..500))).await;
    }
}

fn gaps(log: &[Vec<Value>]) -> Vec<String> {
    let mut wrong = Vec::new();
    for app in ["c:t:0", "c:t:1"] {
        let mut next = 0;
        for (start, end) in ranges(log, app) {
            if start != next {
                wrong.push(format!("{app}: {start}..{end} after {next}"));
            }
            next = end;
        }
    }
    wrong
}

#[tokio::test(start_paused = true)]
async fn workers_crashes_zombies_and_unknown_outcomes_leave_every_record_in_the_table_once() {
    let mut commits = 0;
    for seed in 0..40 {
        let log = play(seed).await;
        assert_eq!(gaps(&log), Vec::<String>::new(), "seed {seed}");
        commits += log.len();
    }
    assert!(commits > 400, "only {commits} commits: the workers did nothing");
}
