//! The connector that appends topics to a Delta table: its keys, under Spark's names where Spark has them, and what they
//! are to the parts that it shares with the S3 sink.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use delta::{CommitError, Table, TableOptions, UpkeepOptions};
use model::{Check, Config, Importance, Invalid, Key, Kind, Settings, TopicPartition, Width};
use pipeline::{Recipe, TableColumns, TopicSchemas};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use schema::TableSchema;
use serde_json::{Map, Value, json};
use source::{StartAt, Starting};
use tokio::sync::Semaphore;
use tracing::info;
use writer::{ColumnsPartitioner, ParquetFormat, TableFormat, TableOfFiles};

use crate::{delta_upkeep, spark_options};

/// Where the table is.
pub(crate) const PATH: Key = Key::new(
    "path",
    Kind::String,
    "The table: s3://bucket/directory (s3a:// is the same; store.url is the endpoint of another store than AWS), or a local \
     directory as file:// URL or absolute path. It is made by the first commit when it is not there.",
)
.required()
.check(Check::With(|path| Place::parse(path).map(|_| ())))
.importance(Importance::High)
.group("Delta", 1)
.shown(Width::Long, "Table")
.ours();

/// Columns in paths.
pub(crate) const PARTITION_BY: Key = Key::new(
    "partitionBy",
    Kind::List,
    "Columns whose values make the directories of the table; they stand in the log and not in the files. Integers, strings, \
     booleans, dates, timestamps and decimals. A table that is there must be partitioned by the same columns; nothing takes \
     what it has.",
)
.importance(Importance::Medium)
.group("Delta", 2)
.shown(Width::Long, "Partition By")
.ours();

/// Growth of the table.
pub(crate) const MERGE_SCHEMA: Key = Key::new(
    "mergeSchema",
    Kind::Boolean,
    "Whether columns and nested fields that the table lacks are added to it, in a commit of their own; false stops the task.",
)
.default("false")
.importance(Importance::Medium)
.group("Delta", 3)
.shown(Width::Short, "Merge Schema")
.ours();

/// Size of files.
const FLUSH_BYTES: Key = Key::new(
    "flush.bytes",
    Kind::Long,
    "Bytes of keys and values, as Kafka holds them, of a topic-partition after which its files are closed and committed.",
)
.default("134217728")
.check(Check::AtLeast(1))
.importance(Importance::Medium)
.group("Delta", 4)
.shown(Width::Medium, "Flush Bytes")
.ours();

/// Age of records that are not committed.
pub(crate) const COMMIT_INTERVAL_MS: Key = Key::new(
    "commit.interval.ms",
    Kind::Long,
    "Milliseconds between two commits: all topic-partitions of a process close their files whenever the wall clock passes a \
     multiple of it, and share one commit.",
)
.default("60000")
.check(Check::Between(100, 86_400_000))
.importance(Importance::Medium)
.group("Delta", 5)
.shown(Width::Medium, "Commit Interval (ms)")
.ours();

/// The keys of this connector beside those that it shares.
pub(crate) const KEYS: &[Key] = &[PATH, PARTITION_BY, MERGE_SCHEMA, FLUSH_BYTES, COMMIT_INTERVAL_MS];

/// Keys of the S3 sink that say what a table settles otherwise: format, names, paths, and when cuts end.
const NOT_HERE: &[&str] = &[
    "format.class",
    "s3.bucket.name",
    "storage.class",
    "topics.dir",
    "directory.delim",
    "file.delim",
    "filename.offset.zero.pad.width",
    "partitioner.class",
    "partition.field.name",
    "partition.duration.ms",
    "path.format",
    "path.template",
    "locale",
    "timezone",
    "timestamp.extractor",
    "timestamp.field",
    "timestamp.unit",
    "s3.schema.partition.affix.type",
    "flush.size",
    "rotate.interval.ms",
    "rotate.schedule.interval.ms",
    "rotate.file.on.partition.change",
    "partitioner.max.open.files",
    "schema.compatibility",
    "on.existing.object",
    "enable.conditional.writes",
    "s3.compression.type",
    "s3.compression.level",
    "json.decimal.format",
    "format.bytearray.extension",
    "format.bytearray.separator",
    "avro.codec",
    "connect.meta.data",
    "enhanced.avro.schema.support",
    "store.kafka.keys",
    "store.kafka.headers",
    "keys.format.class",
    "headers.format.class",
];

/// What names of keys begin with that are not declared one by one: properties of a new table, and of the consumer.
pub(crate) const FREE_PREFIXES: &[&str] = &["delta.", "kafka."];

/// Whether this connector has the key `name` of the S3 sink.
pub(crate) fn shares(name: &str) -> bool {
    !NOT_HERE.contains(&name)
}

/// Where a table is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Local directory that stands for the store; `None` for S3.
    store: Option<String>,
    bucket: String,
    /// Below the bucket, without slashes at its ends.
    location: String,
}

impl Place {
    fn parse(path: &str) -> Result<Place, String> {
        let trimmed = path.trim();
        let below = |rest: &str| {
            let (bucket, location) = rest.split_once('/').unwrap_or((rest, ""));
            let location = location.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
            (bucket.to_owned(), location)
        };
        if let Some((scheme, rest)) = trimmed.split_once("://").filter(|(scheme, _)| *scheme != "file") {
            if !["s3", "s3a", "s3n"].contains(&scheme) {
                return Err(format!(
                    "there are no tables in {scheme}:// stores yet: use s3://, file:// or a local directory"
                ));
            }
            let (bucket, location) = below(rest);
            if bucket.is_empty() || location.is_empty() {
                return Err("it must be s3://bucket/directory".to_owned());
            }
            return Ok(Place { store: None, bucket, location });
        }
        let directory = trimmed.strip_prefix("file://").or_else(|| trimmed.strip_prefix("file:")).unwrap_or(trimmed);
        let directory = directory.trim_end_matches('/');
        match directory.rsplit_once('/') {
            Some((parent, name)) if directory.starts_with('/') && !name.is_empty() && !parent.is_empty() => {
                Ok(Place { store: Some(parent.to_owned()), bucket: name.to_owned(), location: String::new() })
            }
            Some(_) | None => Err("it must be s3://bucket/directory or an absolute path below a directory".to_owned()),
        }
    }
}

/// The settings of an S3 sink that does what lanes do here: Spark's names become ours, and what a table settles is set.
pub(crate) fn translated(settings: &Settings) -> Result<Settings, Invalid> {
    let place = Place::parse(&settings.required_string(&PATH)?).map_err(|why| Invalid::new(PATH.name, why))?;
    let mut config: Config = settings.config().clone();
    config.retain(|name, _| shares(name));
    let mut set = |name: &str, text: String| drop(config.insert(name.to_owned(), text));
    if let Some(store) = place.store {
        set("store.url", store);
    }
    set("s3.bucket.name", place.bucket);
    set(
        "topics.dir",
        if place.location.is_empty() { "_sluice".to_owned() } else { format!("{}/_sluice", place.location) },
    );
    set("format.class", "parquet".to_owned());
    set("flush.size", i32::MAX.to_string());
    set("flush.bytes", settings.long(&FLUSH_BYTES)?.to_string());
    set("rotate.schedule.interval.ms", spark_options::commit_interval(settings)?.as_millis().to_string());
    set("timezone", "UTC".to_owned());
    spark_options::translate(settings, &mut config)?;
    let mut set = |name: &str, text: String| drop(config.insert(name.to_owned(), text));
    let of_spark = settings.config().iter().filter(|(name, _)| !name.starts_with("kafka.columns"));
    let kafka = of_spark.filter_map(|(name, text)| Some((name.strip_prefix("kafka.")?, text)));
    for (name, text) in kafka {
        set(&format!("consumer.override.{name}"), text.clone());
    }
    Ok(Settings::new(config))
}

/// What connector `name` guarantees.
pub(crate) fn guarantee(settings: &Settings) -> Result<String, Invalid> {
    let weakened = match spark_options::starting(settings)? {
        Some(starting) if starting != Starting::all(StartAt::Earliest) => {
            "where topic-partitions are told to start (what is older than that is not written)"
        }
        Some(_) | None => "nothing",
    };
    Ok(format!(
        "guarantee: exactly once; by one txn action in the table for each topic-partition; Kafka's offsets follow; needs: a \
         store that refuses to overwrite, no writer of the table that overwrites commits (Spark on S3 without a commit \
         service), delta.setTransactionRetentionDuration longer than any outage; weakened by: {weakened}"
    ))
}

/// What a process gives its tables.
pub(crate) struct Surroundings<'a> {
    pub(crate) metrics: &'a delta::Metrics,
    /// Wall clock in milliseconds.
    pub(crate) now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// Counts bytes of files that lanes share in the memory budget.
    pub(crate) encoded: Arc<dyn Fn(usize) + Send + Sync>,
    pub(crate) seed: u64,
}

/// How the table of connector `name` is made and written to.
pub(crate) fn table_options(
    name: &str,
    settings: &Settings,
    surroundings: Surroundings<'_>,
) -> Result<TableOptions, Invalid> {
    let place = Place::parse(&settings.required_string(&PATH)?).map_err(|why| Invalid::new(PATH.name, why))?;
    let interval = spark_options::commit_interval(settings)?;
    Ok(TableOptions {
        connector: name.to_owned(),
        metrics: surroundings.metrics.table(name, settings.text(&PATH).unwrap_or_default()),
        location: place.location,
        partition_columns: settings.is_set(&PARTITION_BY).then(|| settings.list(&PARTITION_BY)).transpose()?,
        properties: properties(settings),
        merge_schema: settings.boolean(&MERGE_SCHEMA)?,
        user_metadata: settings.string(&spark_options::USER_METADATA)?,
        linger: (interval / 10).min(LINGER_MAX),
        now_ms: surroundings.now_ms,
        seed: surroundings.seed,
        encoded: surroundings.encoded,
        upkeep: UpkeepOptions::default(),
    })
}

/// The settings under which the store of the directory `path` is opened, and the directory in that store.
pub(crate) fn store_of(settings: &Settings, path: &str) -> Result<(Settings, String), Invalid> {
    let place = Place::parse(path).map_err(|why| Invalid::new(PATH.name, format!("{path}: {why}")))?;
    Ok((translated(&settings.with(&PATH, path))?, place.location))
}

/// The tables of a process: tasks of one connector share one.
pub(crate) struct Tables {
    open: tokio::sync::Mutex<BTreeMap<String, std::sync::Weak<Table>>>,
    /// Files of one table at a time are rewritten.
    turn: Arc<Semaphore>,
}

impl Default for Tables {
    fn default() -> Tables {
        Tables { open: tokio::sync::Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Tables {
    /// The table of connector `name`, opened if no task has it open.
    pub(crate) async fn open(
        &self,
        name: &str,
        settings: &Settings,
        store: &writer::Store,
        surroundings: Surroundings<'_>,
    ) -> Result<Arc<Table>, pipeline::TaskError> {
        let mut options = table_options(name, settings, surroundings)?;
        options.upkeep = delta_upkeep::options(settings, spark_options::commit_interval(settings)?, &self.turn)?;
        let mut tables = self.open.lock().await;
        let key = format!("{name} {} {}", store.name(), options.location);
        if let Some(table) = tables.get(&key).and_then(std::sync::Weak::upgrade) {
            return Ok(table);
        }
        let table = Table::open(store.clone(), options).await.map_err(|error| match error {
            CommitError::Unanswered(why) => pipeline::TaskError::Transient(why),
            CommitError::Overtaken(why) | CommitError::Changed(why) | CommitError::Refused(why) => {
                pipeline::TaskError::Refused(why)
            }
        })?;
        for note in spark_options::notes(settings) {
            info!(connector = name, "{note}");
        }
        let table = Arc::new(table);
        tables.retain(|_, table| table.strong_count() > 0);
        tables.insert(key, Arc::downgrade(&table));
        Ok(table)
    }
}

/// Longest time that a commit waits for other lanes.
const LINGER_MAX: Duration = Duration::from_millis(250);

/// `delta.*` keys are properties of a table that is made.
fn properties(settings: &Settings) -> Map<String, Value> {
    let of_table = settings.config().iter().filter(|(name, _)| name.starts_with("delta."));
    of_table.map(|(name, text)| (name.clone(), json!(text))).collect()
}

/// Bytes of rows that a lane holds in one file before the file gets an encoder and is the lane's own. Its Parquet is some
/// megabytes then, which is worth a file.
const SHARED_BYTES: usize = 32 * 1024 * 1024;

/// Makes lanes write the files of `table`, and read records as its columns have them. A given schema that the table cannot
/// take is refused.
pub(crate) fn fit_recipe(
    recipe: &mut Recipe,
    schemas: TopicSchemas,
    settings: &Settings,
    table: &Arc<Table>,
    seed: u64,
) -> Result<TopicSchemas, pipeline::TaskError> {
    let columns = table.known().partition_columns;
    if let Some(given) = &recipe.given_schema
        && let Some(why) = table.refusal(&writer::table_schema(given.schema.arrow()))
    {
        let table = table.location();
        return Err(pipeline::TaskError::Refused(format!(
            "value.converter.schema does not fit the table {table}: {why}"
        )));
    }
    let of_table = TableColumns { now: columns_now(table, recipe), may_grow: settings.boolean(&MERGE_SCHEMA)? };
    let format = TableFormat::new(ParquetFormat::from_settings(settings)?, columns.clone());
    recipe.files.format = Arc::new(format.of(table.clone()));
    // Tags of an object tell offsets, which an object of many topic-partitions has not.
    recipe.files.shared_bytes = if recipe.files.tagging.is_none() { SHARED_BYTES } else { 0 };
    recipe.partitioner = Box::new(move || Box::new(ColumnsPartitioner::new(columns.clone())));
    let extension = recipe.files.format.extension().to_owned();
    let (location, names) = (table.location().to_owned(), Mutex::new(StdRng::seed_from_u64(seed)));
    recipe.files.object_key = Arc::new(move |_, topic_partition, path, first| {
        let TopicPartition { topic, partition } = topic_partition;
        // A cut that the table refused leaves its files behind, and the next attempt may begin at the same offset.
        let unique: u64 = names.lock().unwrap_or_else(PoisonError::into_inner).random();
        let name = format!("{topic}+{partition}+{:020}-{unique:016x}{extension}", first.get());
        let parts = [location.as_str(), path, &name];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    });
    Ok(schemas.of_table(of_table))
}

/// The columns of values that `table` has: those of `kafka.columns` are none of them.
fn columns_now(table: &Arc<Table>, recipe: &Recipe) -> Arc<dyn Fn() -> TableSchema + Send + Sync> {
    let (table, added) = (table.clone(), recipe.kafka_columns.clone());
    Arc::new(move || {
        let columns = table.columns();
        let is_added = |name: &str| added.as_ref().is_some_and(|added| added.have(name));
        let kept = columns.fields().iter().filter(|field| !is_added(field.name())).cloned();
        TableSchema::new(&kept.collect()).expect("some fields of a schema are one")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
    }

    #[test]
    fn tables_lie_in_buckets_and_directories() {
        for (path, store, bucket, location) in [
            ("s3://b/a/t", None, "b", "a/t"),
            ("s3a://b//a/t/", None, "b", "a/t"),
            ("/data/lake/t", Some("/data/lake"), "t", ""),
            ("file:///data/t/", Some("/data"), "t", ""),
        ] {
            let expected = Place { store: store.map(str::to_owned), bucket: bucket.into(), location: location.into() };
            assert_eq!(Place::parse(path), Ok(expected), "{path}");
        }
        for path in ["s3://b", "gs://b/t", "t", "/t", "", "s3:///t"] {
            assert!(Place::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn names_of_spark_become_ours_and_what_a_table_settles_is_set() {
        let given = settings(&[
            ("path", "s3://b/t"),
            ("subscribe", "a,b"),
            ("startingOffsets", "latest"),
            ("failOnDataLoss", "false"),
            ("kafka.security.protocol", "SSL"),
            ("commit.interval.ms", "1000"),
            ("partitioner.class", "hourly"),
            ("s3.region", "r"),
        ]);
        let config = translated(&given).unwrap().config().clone();
        for (name, expected) in [
            ("s3.bucket.name", "b"),
            ("topics.dir", "t/_sluice"),
            ("topics", "a,b"),
            ("consumer.override.security.protocol", "SSL"),
            ("on.data.loss", "continue"),
            ("rotate.schedule.interval.ms", "1000"),
            ("flush.bytes", "134217728"),
            ("s3.region", "r"),
        ] {
            assert_eq!(config.get(name).map(String::as_str), Some(expected), "{name}");
        }
        assert!(
            !config.contains_key("partitioner.class") && !config.contains_key("consumer.override.auto.offset.reset")
        );
    }
}
