//! What really happened: every record that was produced, every object that appeared, every plan; and the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use model::{OffsetRange, Plan};
use serde_json::Value;
use source::{Assigned, Commit};
use tokio::time::Instant;

use crate::actions::{Action, Tally};
use crate::lanes::{number, partition_of};
use crate::oracle::{Oracle, Wrong};
use crate::read::{Object, Of, is_same, read};
use crate::worker::Doom;

/// How objects must be named: what a record and its cut's clock say of the path.
pub(crate) type PathOf = fn(partition: i32, record: &Record, clock_ms: i64) -> String;

/// A record as it was produced.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// What must be found in some object; `None` when there is none, or the record must be left out.
    pub(crate) value: Option<Value>,
    /// It has no value, but its key must be found.
    pub(crate) is_tombstone: bool,
    pub(crate) time_ms: i64,
}

/// How an object came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// By one request, which the store can refuse because an object is there, if it knows the condition.
    Put,
    /// By the completion of an upload, which has none: S3 knows one, the client does not.
    Upload,
}

/// The truth about a world so far.
pub(crate) struct Truth {
    began: Instant,
    path_of: PathOf,
    /// The store knows If-None-Match.
    conditional: bool,
    /// Versions of a schema have files of their own.
    pub(crate) by_version: bool,
    pub(crate) records: BTreeMap<(i32, i64), Record>,
    pub(crate) objects: BTreeMap<String, Object>,
    /// Objects beside the files of data.
    schemas: BTreeMap<String, Bytes>,
    /// What is visible of each record, and in which object.
    visible: BTreeMap<(i32, i64, Of), String>,
    /// What lies beside values.
    pub(crate) beside: Vec<Of>,
    /// Records that retention took before anybody read them.
    excused: BTreeSet<(i32, i64)>,
    /// Objects that a late request under the same plan made once more, with the same rows.
    pub(crate) made_twice: Vec<String>,
    /// Objects that were replaced because a person wants that.
    pub(crate) replaced: Vec<String>,
    /// A person wants objects to be replaced.
    pub(crate) may_replace: bool,
    /// Plans that were sent, by nonce: lane and range with each.
    plans: BTreeMap<String, (i32, OffsetRange, Plan)>,
    committed: BTreeMap<i32, i64>,
    /// Nonces of the plans that the group holds, by lane.
    pub(crate) pending: BTreeMap<i32, String>,
    /// Bad records whose dead letters were sent, and acknowledged.
    letters_sent: BTreeSet<(i32, i64)>,
    letters_acknowledged: BTreeSet<(i32, i64)>,
    /// What each process replays, by its name and lane.
    replays: BTreeMap<(String, i32), OffsetRange>,
    /// A member that owns nothing any more had to read what retention took.
    pub(crate) has_stale_reader: bool,
    /// Processes that die when the next object of theirs appears, or is on its way.
    pub(crate) doomed: BTreeMap<String, Arc<Mutex<Doom>>>,
    /// Processes that crashed.
    pub(crate) dead: BTreeSet<String>,
    pub(crate) tally: Tally,
    violations: Vec<Wrong>,
    trace: Vec<String>,
}

impl Truth {
    pub(crate) fn new(path_of: PathOf, conditional: bool) -> Truth {
        Truth {
            began: Instant::now(),
            path_of,
            conditional,
            by_version: true,
            records: BTreeMap::new(),
            objects: BTreeMap::new(),
            schemas: BTreeMap::new(),
            visible: BTreeMap::new(),
            beside: Vec::new(),
            excused: BTreeSet::new(),
            made_twice: Vec::new(),
            replaced: Vec::new(),
            may_replace: false,
            plans: BTreeMap::new(),
            committed: BTreeMap::new(),
            pending: BTreeMap::new(),
            letters_sent: BTreeSet::new(),
            letters_acknowledged: BTreeSet::new(),
            replays: BTreeMap::new(),
            has_stale_reader: false,
            doomed: BTreeMap::new(),
            dead: BTreeSet::new(),
            tally: Tally::default(),
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
    pub(crate) fn accuse(&mut self, oracle: Oracle, what: String) {
        let wrong = Wrong::new(oracle, what);
        self.note(&format!("VIOLATION {wrong}"));
        self.violations.push(wrong);
    }

    pub(crate) fn trace(&self) -> &[String] {
        &self.trace
    }

    /// An object is there: for the first time, or again. What was there may be made again only under the same plan, with
    /// the same rows, and by a request that knows no condition: the writer looks first, but the request may arrive late.
    pub(crate) fn appeared(&mut self, key: &str, bytes: Bytes, how: How) {
        self.note(&format!("appears {key}, {} bytes", bytes.len()));
        if !key.ends_with(".parquet") {
            return self.schema_appeared(key, bytes, how);
        }
        match (read(key, bytes), self.objects.get(key)) {
            (Ok(object), None) => self.admit(object),
            (Ok(object), Some(before)) if object == *before && how == How::Put && self.conditional => {
                self.accuse(Oracle::MadeTwice, format!("{key} was made twice"));
            }
            (Ok(object), Some(before)) if object == *before => self.made_twice.push(key.to_owned()),
            (Ok(object), Some(_)) if self.may_replace => {
                self.visible.retain(|_, of| of != key);
                self.replaced.push(key.to_owned());
                self.admit(object);
            }
            (Ok(object), Some(before)) => {
                let what = format!(
                    "{key} held {} rows up to {} and has {} up to {} now",
                    before.rows.len(),
                    before.end,
                    object.rows.len(),
                    object.end
                );
                self.accuse(Oracle::Changed, what);
            }
            (Err(why), _) => self.accuse(Oracle::Content, format!("{key}: {why}")),
        }
    }

    fn schema_appeared(&mut self, key: &str, bytes: Bytes, how: How) {
        match self.schemas.insert(key.to_owned(), bytes.clone()) {
            None => {}
            // Two tasks that infer a schema at once find out by the condition alone.
            Some(_) if how == How::Put && !self.conditional => self.made_twice.push(key.to_owned()),
            Some(before) if before != bytes => self.accuse(Oracle::Changed, format!("{key} is another schema now")),
            Some(_) => self.accuse(Oracle::MadeTwice, format!("{key} was made twice")),
        }
    }

    fn admit(&mut self, object: Object) {
        if object.of != Of::Values {
            self.count(if object.path == "tombstone" { Action::TombstonesVisible } else { Action::ViewVisible });
        }
        for row in &object.rows {
            let place = (row["p"].as_i64(), row["o"].as_i64());
            let (Some(lane), Some(offset)) = place else {
                self.accuse(Oracle::Content, format!("{}: a row without p and o: {row}", object.key));
                continue;
            };
            let place = (i32::try_from(lane).unwrap_or(-1), offset, object.of);
            if let Some(other) = self.visible.insert(place, object.key.clone()) {
                self.accuse(Oracle::Duplicate, format!("record {place:?} is in {other} and in {}", object.key));
            }
        }
        self.objects.insert(object.key.clone(), object);
    }

    /// A task is about to send these commits: nothing may be passed by that is not visible, and plans are remembered.
    pub(crate) fn about_to_commit(&mut self, who: &str, commits: &[Commit]) {
        for commit in commits {
            let (lane, offset) = (number(&commit.topic_partition), commit.offset.get());
            let plan = match Plan::from_metadata(commit.offset, &commit.metadata) {
                Ok(plan) => plan,
                Err(error) => return self.accuse(Oracle::Plan, format!("{who} commits a broken plan: {error}")),
            };
            let shown = plan.as_ref().map(|(range, plan)| format!(" plan {range} files={} {}", plan.files, plan.nonce));
            self.note(&format!("{who} commits p{lane}={offset}{}", shown.unwrap_or_default()));
            let end = plan.as_ref().map_or(offset, |(range, _)| range.end().get());
            if let Some(at) = self.not_reported_before(lane, end) {
                let what = format!("{who} commits p{lane}={offset} up to {end}, but no letter of {at} is acknowledged");
                self.accuse(Oracle::LetterPassed, what);
            }
            if let Some((range, plan)) = plan {
                self.plans.insert(plan.nonce.to_string(), (lane, range, plan));
            }
            if let Some(lost) = self.not_visible_before(lane, offset) {
                let what = format!("{who} commits p{lane}={offset}, but record {lost} is in no object");
                self.accuse(Oracle::CommittedUnseen, what);
            }
        }
    }

    /// In which objects a record must be.
    fn must_be_in(&self, record: &Record) -> Vec<Of> {
        let values = record.value.is_some().then_some(Of::Values);
        let beside = self.beside.iter().filter(|_| values.is_some() || record.is_tombstone);
        values.into_iter().chain(beside.copied()).collect()
    }

    fn is_visible(&self, place: &(i32, i64), record: &Record) -> bool {
        self.must_be_in(record).into_iter().all(|of| self.visible.contains_key(&(place.0, place.1, of)))
    }

    /// A process is given lanes, some with a plan to replay.
    pub(crate) fn assigned(&mut self, who: &str, assigned: &[Assigned]) {
        for one in assigned {
            let key = (who.to_owned(), number(&one.topic_partition));
            match Plan::from_metadata(one.start, &one.metadata) {
                Ok(Some((range, _))) => drop(self.replays.insert(key, range)),
                Ok(None) | Err(_) => drop(self.replays.remove(&key)),
            }
        }
    }

    /// A process is about to write letters of these records.
    pub(crate) fn letters_sent(&mut self, who: &str, places: &[(i32, i64)]) {
        self.note(&format!("{who} sends letters of {places:?}"));
        for place in places {
            let replayed = self
                .replays
                .get(&(who.to_owned(), place.0))
                .filter(|range| (range.start().get()..range.end().get()).contains(&place.1));
            if let Some(range) = replayed {
                let what = format!("{who} sends a letter of {place:?} while it replays {range}");
                self.accuse(Oracle::LetterReplayed, what);
            }
            if !self.letters_sent.insert(*place) {
                self.count(Action::LetterAgain);
            }
        }
    }

    /// The letters of these records are written, and their sender knows it.
    pub(crate) fn letters_acknowledged(&mut self, who: &str, places: &[(i32, i64)]) {
        self.note(&format!("{who} knows that letters of {places:?} are written"));
        self.letters_acknowledged.extend(places);
    }

    fn is_unreported(&self, place: &(i32, i64), record: &Record) -> bool {
        record.value.is_none()
            && !record.is_tombstone
            && !self.letters_acknowledged.contains(place)
            && !self.excused.contains(place)
    }

    fn not_reported_before(&self, lane: i32, end: i64) -> Option<i64> {
        let mut records = self.records.range((lane, 0)..(lane, end));
        records.find(|(place, record)| self.is_unreported(place, record)).map(|((_, offset), _)| *offset)
    }

    fn is_missing(&self, place: &(i32, i64), record: &Record) -> bool {
        !self.is_visible(place, record) && !self.excused.contains(place)
    }

    fn not_visible_before(&self, lane: i32, end: i64) -> Option<i64> {
        let mut hidden = self.records.range((lane, 0)..(lane, end)).filter(|(place, one)| self.is_missing(place, one));
        hidden.next().map(|((_, offset), _)| *offset)
    }

    /// The broker took this offset.
    pub(crate) fn committed(&mut self, lane: i32, offset: i64) {
        let before = self.committed.insert(lane, offset).unwrap_or(offset);
        if offset < before {
            self.accuse(
                Oracle::WentBack,
                format!("the committed offset of p{lane} went back from {before} to {offset}"),
            );
        }
    }

    /// Committed offsets are what somebody else says now.
    pub(crate) fn forget_committed(&mut self) {
        self.committed.clear();
        self.pending.clear();
    }

    /// The records of a lane before `begin` are gone; those that nobody wrote yet cannot be asked for.
    pub(crate) fn excuse(&mut self, lane: i32, begin: i64) {
        let gone: Vec<(i32, i64)> = self.records.range((lane, 0)..(lane, begin)).map(|(place, _)| *place).collect();
        self.excused.extend(gone);
    }

    /// Something is on its way that will happen: whoever was to die soon dies now.
    pub(crate) fn kill_doomed(&mut self) {
        for doom in std::mem::take(&mut self.doomed).into_values() {
            doom.lock().expect("no panic holds it").polls_left = Some(0);
        }
    }

    /// A process dies that has these lanes.
    pub(crate) fn died(&mut self, name: &str, lanes: &[i32], commits: bool) {
        self.dead.insert(name.to_owned());
        if commits {
            self.count(Action::CrashWhileCommitting);
        }
        let nonces: Vec<String> = lanes.iter().filter_map(|lane| self.pending.get(lane).cloned()).collect();
        if nonces.is_empty() {
            self.count(Action::CrashWithoutPlan);
        }
        for nonce in nonces {
            let there = self.objects.values().filter(|object| object.nonce == nonce).count();
            let planned = self.plans.get(&nonce).map_or(0, |(_, _, plan)| plan.files as usize);
            self.count(match there {
                0 => Action::CrashBeforePublishing,
                _ if there < planned => Action::CrashWhilePublishing,
                _ => Action::CrashBeforeEnd,
            });
        }
    }

    /// Rows of all objects of a lane, in the order of their offsets.
    pub(crate) fn rows(&self, lane: i32) -> Vec<Value> {
        let objects = self.objects.values().filter(|object| object.lane == lane && object.of == Of::Values);
        let mut rows: Vec<Value> = objects.flat_map(|object| object.rows.clone()).collect();
        rows.sort_by_key(|row| row["o"].as_i64());
        rows
    }

    pub(crate) fn count(&mut self, action: Action) {
        self.tally.count(action);
    }

    /// Everything that is wrong by now, when nothing more will happen. `whole`: every record must be visible.
    pub(crate) fn verdict(&self, whole: bool) -> Vec<Wrong> {
        let mut wrong = self.violations.clone();
        if whole {
            let lost = self.records.iter().filter(|(place, record)| self.is_missing(place, record));
            wrong.extend(lost.take(3).map(|(place, _)| Wrong::new(Oracle::Loss, format!("record {place:?} is lost"))));
            let silent = self.records.iter().filter(|(place, record)| self.is_unreported(place, record));
            let lost = |(place, _)| Wrong::new(Oracle::LetterLost, format!("no letter of {place:?} is written"));
            wrong.extend(silent.take(3).map(lost));
        }
        for object in self.objects.values() {
            wrong.extend(self.judge_object(object).into_iter().map(|what| Wrong::new(Oracle::Content, what)));
        }
        let cuts: BTreeSet<&String> = self.objects.values().map(|object| &object.nonce).collect();
        let cuts = cuts.into_iter().filter_map(|nonce| self.judge_cut(nonce));
        wrong.extend(cuts.map(|what| Wrong::new(Oracle::Cut, what)));
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
            let record = self.records.get(&(object.lane, offset));
            if object.of != Of::Values {
                if !record.is_some_and(|record| self.must_be_in(record).contains(&object.of)) {
                    wrong.push(format!("{} holds {row}, which should have been left out", object.key));
                }
                continue;
            }
            match record.and_then(|record| record.value.as_ref()) {
                Some(value) if is_same(value, row) => {}
                Some(value) => wrong.push(format!("{} holds {row}, produced was {value}", object.key)),
                None => wrong.push(format!("{} holds {row}, which should have been left out", object.key)),
            }
        }
        wrong
    }

    /// Whether nobody can have written a record.
    fn is_gone(&self, place: &(i32, i64), record: &Record) -> bool {
        let is_visible =
            self.must_be_in(record).into_iter().any(|of| self.visible.contains_key(&(place.0, place.1, of)));
        self.excused.contains(place) && !is_visible
    }

    /// The files of a cut hold exactly the records of its range, each in the file of its path, and of its version where
    /// versions have files of their own.
    fn judge_cut(&self, nonce: &str) -> Option<String> {
        let Some((lane, range, plan)) = self.plans.get(nonce) else {
            return Some(format!("objects appeared under the nonce {nonce}, which no plan has"));
        };
        if self.may_replace {
            // A cut that was partly replaced is no whole any more; its records are looked for one by one.
            return None;
        }
        let version = |place: &(i32, i64)| {
            let value = self.records.get(place).filter(|_| self.by_version)?.value.as_ref()?;
            value["sv"].as_i64()
        };
        let mut paths: BTreeMap<(String, Of, Option<i64>), Vec<i64>> = BTreeMap::new();
        let records = self.records.range((*lane, range.start().get())..(*lane, range.end().get()));
        for (place, record) in records.filter(|(place, record)| !self.is_gone(place, record)) {
            let path = match record.is_tombstone {
                true => "tombstone".to_owned(),
                false => (self.path_of)(partition_of(*lane), record, plan.clock_ms),
            };
            for of in self.must_be_in(record) {
                paths.entry((path.clone(), of, version(place))).or_default().push(place.1);
            }
        }
        let files = self.objects.values().filter(|object| object.nonce == nonce);
        let offsets = |file: &Object| file.rows.iter().filter_map(|row| row["o"].as_i64()).collect();
        let of_first = |file: &Object| version(&(file.lane, file.first));
        let found: BTreeMap<(String, Of, Option<i64>), Vec<i64>> =
            files.map(|file| ((file.path.clone(), file.of, of_first(file)), offsets(file))).collect();
        if found == paths && plan.files as usize == found.len() {
            return None;
        }
        Some(format!("cut {range} of p{lane}, planned as {} files, should be {paths:?} and is {found:?}", plan.files))
    }
}
