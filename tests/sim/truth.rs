//! What really happened: every record that was produced, every object that appeared, every plan; and the verdict.

use std::collections::{BTreeMap, BTreeSet};

use arrow_json::LineDelimitedWriter;
use bytes::Bytes;
use model::{OffsetRange, Plan};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use source::Commit;
use tokio::time::Instant;

/// How objects must be named: what a record and its cut's clock say of the path.
pub(crate) type PathOf = fn(partition: i32, record: &Record, clock_ms: i64) -> String;

/// A record as it was produced.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// What must be found in some object; `None` when the record must be left out.
    pub(crate) value: Option<Value>,
    pub(crate) time_ms: i64,
}

/// A Parquet object as it was read when it appeared.
#[derive(Debug, PartialEq)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) partition: i32,
    pub(crate) first: i64,
    pub(crate) path: String,
    pub(crate) nonce: String,
    pub(crate) end: i64,
    pub(crate) rows: Vec<Value>,
}

/// How an object came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// By one request, which has a condition.
    Put,
    /// By the completion of an upload, which has none: S3 knows one, the client does not.
    Upload,
}

/// The truth about a world so far.
pub(crate) struct Truth {
    began: Instant,
    path_of: PathOf,
    pub(crate) records: BTreeMap<(i32, i64), Record>,
    pub(crate) objects: BTreeMap<String, Object>,
    contents: BTreeSet<String>,
    visible: BTreeMap<(i32, i64), String>,
    /// Objects that a late completion under the same plan made once more, with the same rows.
    pub(crate) made_twice: Vec<String>,
    /// Plans that were sent, by nonce: partition and range with each.
    plans: BTreeMap<String, (i32, OffsetRange, Plan)>,
    committed: BTreeMap<i32, i64>,
    violations: Vec<String>,
    trace: Vec<String>,
}

impl Truth {
    pub(crate) fn new(path_of: PathOf) -> Truth {
        Truth {
            began: Instant::now(),
            path_of,
            records: BTreeMap::new(),
            objects: BTreeMap::new(),
            contents: BTreeSet::new(),
            visible: BTreeMap::new(),
            made_twice: Vec::new(),
            plans: BTreeMap::new(),
            committed: BTreeMap::new(),
            violations: Vec::new(),
            trace: Vec::new(),
        }
    }

    /// Adds a line to the trace.
    pub(crate) fn note(&mut self, line: &str) {
        let at = self.began.elapsed().as_millis();
        self.trace.push(format!("{at:>7} {line}"));
    }

    /// Something that must never happen has happened.
    pub(crate) fn accuse(&mut self, what: String) {
        self.note(&format!("VIOLATION {what}"));
        self.violations.push(what);
    }

    pub(crate) fn trace(&self) -> &[String] {
        &self.trace
    }

    /// An object is there: for the first time, or again. What was there may be made again only by the completion of an
    /// upload, under the same plan and with the same rows: the writer looks first, but its request may arrive late.
    pub(crate) fn appeared(&mut self, key: &str, bytes: Bytes, how: How) {
        self.note(&format!("appears {key}, {} bytes", bytes.len()));
        let is_new = self.contents.insert(key.to_owned());
        if !key.ends_with(".parquet") {
            if !is_new {
                self.accuse(format!("{key} was made twice"));
            }
            return;
        }
        match (read(key, bytes), self.objects.get(key)) {
            (Ok(object), None) => self.admit(object),
            (Ok(object), Some(before)) if how == How::Upload && object == *before => {
                self.made_twice.push(key.to_owned());
            }
            (Ok(_), Some(_)) => self.accuse(format!("{key} was made twice")),
            (Err(why), _) => self.accuse(format!("{key}: {why}")),
        }
    }

    fn admit(&mut self, object: Object) {
        for row in &object.rows {
            let place = (row["p"].as_i64(), row["o"].as_i64());
            let (Some(partition), Some(offset)) = place else {
                self.accuse(format!("{}: a row without p and o: {row}", object.key));
                continue;
            };
            let place = (i32::try_from(partition).unwrap_or(-1), offset);
            if let Some(other) = self.visible.insert(place, object.key.clone()) {
                self.accuse(format!("record {place:?} is in {other} and in {}", object.key));
            }
        }
        self.objects.insert(object.key.clone(), object);
    }

    /// A task is about to send these commits: nothing may be passed by that is not visible, and plans are remembered.
    pub(crate) fn about_to_commit(&mut self, who: &str, commits: &[Commit]) {
        for commit in commits {
            let (partition, offset) = (commit.topic_partition.partition, commit.offset.get());
            let plan = match Plan::from_metadata(commit.offset, &commit.metadata) {
                Ok(plan) => plan,
                Err(error) => return self.accuse(format!("{who} commits a broken plan: {error}")),
            };
            let shown = plan.as_ref().map(|(range, plan)| format!(" plan {range} files={} {}", plan.files, plan.nonce));
            self.note(&format!("{who} commits p{partition}={offset}{}", shown.unwrap_or_default()));
            if let Some((range, plan)) = plan {
                self.plans.insert(plan.nonce.to_string(), (partition, range, plan));
            }
            if let Some(lost) = self.not_visible_before(partition, offset) {
                self.accuse(format!("{who} commits p{partition}={offset}, but record {lost} is in no object"));
            }
        }
    }

    fn not_visible_before(&self, partition: i32, end: i64) -> Option<i64> {
        let records = self.records.range((partition, 0)..(partition, end));
        let mut hidden = records.filter(|(place, record)| record.value.is_some() && !self.visible.contains_key(place));
        hidden.next().map(|((_, offset), _)| *offset)
    }

    /// What the group holds at this moment.
    pub(crate) fn committed(&mut self, partition: i32, offset: i64) {
        let before = self.committed.insert(partition, offset).unwrap_or(offset);
        if offset < before {
            self.accuse(format!("the committed offset of p{partition} went back from {before} to {offset}"));
        }
    }

    /// Rows of all objects of a partition, in the order of their offsets.
    pub(crate) fn rows(&self, partition: i32) -> Vec<Value> {
        let objects = self.objects.values().filter(|object| object.partition == partition);
        let mut rows: Vec<Value> = objects.flat_map(|object| object.rows.clone()).collect();
        rows.sort_by_key(|row| row["o"].as_i64());
        rows
    }

    /// Everything that is wrong by now, when nothing more will happen. `whole`: every record must be visible.
    pub(crate) fn verdict(&self, whole: bool) -> Vec<String> {
        let mut wrong = self.violations.clone();
        if whole {
            let lost = self
                .records
                .iter()
                .filter(|(place, record)| record.value.is_some() && !self.visible.contains_key(place));
            wrong.extend(lost.take(3).map(|(place, _)| format!("record {place:?} is lost")));
        }
        for object in self.objects.values() {
            wrong.extend(self.judge_object(object));
        }
        let cuts: BTreeSet<&String> = self.objects.values().map(|object| &object.nonce).collect();
        wrong.extend(cuts.into_iter().flat_map(|nonce| self.judge_cut(nonce)));
        wrong.truncate(20);
        wrong
    }

    /// A file holds what its name says, in order, as it was produced.
    fn judge_object(&self, object: &Object) -> Vec<String> {
        let mut wrong = Vec::new();
        let offsets: Vec<i64> = object.rows.iter().filter_map(|row| row["o"].as_i64()).collect();
        if !offsets.is_sorted() || offsets.first() != Some(&object.first) || offsets.last() >= Some(&object.end) {
            wrong.push(format!("{} up to {} holds the offsets {offsets:?}", object.key, object.end));
        }
        for (row, offset) in object.rows.iter().zip(offsets) {
            let produced = self.records.get(&(object.partition, offset)).and_then(|record| record.value.as_ref());
            match produced {
                Some(value) if is_same(value, row) => {}
                Some(value) => wrong.push(format!("{} holds {row}, produced was {value}", object.key)),
                None => wrong.push(format!("{} holds {row}, which should have been left out", object.key)),
            }
        }
        wrong
    }

    /// The files of a cut hold exactly the records of its range, each in the file of its path.
    fn judge_cut(&self, nonce: &str) -> Vec<String> {
        let Some((partition, range, plan)) = self.plans.get(nonce) else {
            return vec![format!("objects appeared under the nonce {nonce}, which no plan has")];
        };
        let mut paths: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        let records = self.records.range((*partition, range.start().get())..(*partition, range.end().get()));
        for ((_, offset), record) in records.filter(|(_, record)| record.value.is_some()) {
            paths.entry((self.path_of)(*partition, record, plan.clock_ms)).or_default().push(*offset);
        }
        let files = self.objects.values().filter(|object| object.nonce == nonce);
        let found: BTreeMap<String, Vec<i64>> = files
            .map(|file| (file.path.clone(), file.rows.iter().filter_map(|row| row["o"].as_i64()).collect()))
            .collect();
        if found == paths && plan.files as usize == found.len() {
            return Vec::new();
        }
        vec![format!(
            "cut {range} of p{partition}, planned as {} files, should be {paths:?} and is {found:?}",
            plan.files
        )]
    }
}

/// Whether a row says the same as the record: nulls and absent fields are one, numbers count by value.
fn is_same(produced: &Value, row: &Value) -> bool {
    match (produced, row) {
        (Value::Object(left), Value::Object(right)) => {
            let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            keys.into_iter().all(|key| is_same(&produced[key], &row[key]))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same(left, right))
        }
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (left, right) => left == right,
    }
}

/// Reads a Parquet object with nothing of the writer's.
fn read(key: &str, bytes: Bytes) -> Result<Object, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
    let entries = reader.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let entry = |name: &str| {
        let found = entries.iter().rev().find(|entry| entry.key == name);
        found.and_then(|entry| entry.value.clone()).ok_or(format!("the footer has no {name}"))
    };
    let (nonce, end) = (entry("sluice.nonce")?, entry("sluice.end")?);
    let mut lines = LineDelimitedWriter::new(Vec::new());
    for batch in reader.build().map_err(|error| error.to_string())? {
        lines.write(&batch.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    lines.finish().map_err(|error| error.to_string())?;
    let text = String::from_utf8(lines.into_inner()).map_err(|error| error.to_string())?;
    let rows: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    let (directory, name) = key.rsplit_once('/').ok_or("a name without a directory")?;
    let path = directory.strip_prefix("topics/t/").ok_or("another directory")?;
    let parts: Vec<&str> = name.split(['+', '.']).collect();
    let ["t", partition, first, "snappy", "parquet"] = parts.as_slice() else { return Err("another name".to_owned()) };
    Ok(Object {
        key: key.to_owned(),
        partition: partition.parse().map_err(|_| "no partition")?,
        first: first.parse().map_err(|_| "no offset")?,
        path: path.to_owned(),
        nonce,
        end: end.parse().map_err(|_| "no end")?,
        rows: rows.map_err(|error| error.to_string())?,
    })
}
