//! The guarantee report: what a configuration promises, what that needs, and what weakens it, as one line.

use std::collections::BTreeMap;

use model::{Invalid, Settings};
use schema::VALUE_SCHEMA;
use source::DataLoss;
use writer::rotation::{ROTATE_INTERVAL_MS, ROTATE_SCHEDULE_INTERVAL_MS};
use writer::timestamp::{TIMESTAMP_EXTRACTOR, TIMESTAMP_FIELD, extractor_plugin};
use writer::{
    BEHAVIOR_ON_NULL_VALUES, Conditional, ENABLE_CONDITIONAL_WRITES, NullValues, OnExisting, Probe, STORE_URL,
    orphan_age, partitioner_plugin,
};

use crate::consumer::own_group;
use crate::dead_letters;

/// Needed always; it cannot be seen from here.
const RETENTION: &str = "offsets retained longer than any outage (objects are the fallback)";

/// The lines' parts, as they are found.
#[derive(Default)]
struct Report {
    promises: Vec<String>,
    needs: Vec<String>,
    weakened: Vec<String>,
}

/// What connector `name` guarantees: `guarantee: <what>; needs: <assumptions>; weakened by: <settings>`. `settings` are
/// valid, `consumer` are the properties of its Kafka client, `probe` is what was found out about the store, if it was asked.
pub(crate) fn line(
    name: &str,
    settings: &Settings,
    consumer: &BTreeMap<String, String>,
    probe: Option<Probe>,
) -> Result<String, Invalid> {
    let mut report = Report::default();
    report.first(consumer);
    report.replays(settings)?;
    report.paths(settings)?;
    report.rotation(settings)?;
    report.store(settings, probe)?;
    report.records(settings)?;
    report.existing_objects(settings)?;
    report.group(name, consumer);
    report.uploads(settings)?;
    report.needs.push(RETENTION.to_owned());
    let weakened = if report.weakened.is_empty() { "nothing".to_owned() } else { report.weakened.join(", ") };
    Ok(format!(
        "guarantee: {}; needs: {}; weakened by: {weakened}",
        report.promises.join("; "),
        report.needs.join(", ")
    ))
}

impl Report {
    fn weakened(&mut self, by: &str) {
        self.weakened.push(by.to_owned());
    }

    fn promises(&mut self, what: impl Into<String>) {
        self.promises.push(what.into());
    }

    fn first(&mut self, consumer: &BTreeMap<String, String>) {
        match consumer.get("auto.offset.reset").map(String::as_str) {
            Some("latest" | "end" | "largest") => {
                self.promises("exactly once from the first start on");
                self.weakened("auto.offset.reset=latest (what is older than the first start is not written)");
            }
            Some(_) | None => self.promises("exactly once"),
        }
        if consumer.get("isolation.level").is_some_and(|level| level == "read_uncommitted") {
            self.weakened("isolation.level=read_uncommitted (records of aborted transactions are written)");
        }
    }

    fn replays(&mut self, settings: &Settings) -> Result<(), Invalid> {
        if settings.string(&VALUE_SCHEMA)?.is_some_and(|schema| !schema.is_empty()) {
            self.promises("replays identical (given schema)");
        } else {
            self.promises("replays identical (schema versions stored in _sluice)");
            self.needs.push("objects below _sluice unchanged".to_owned());
        }
        Ok(())
    }

    fn paths(&mut self, settings: &Settings) -> Result<(), Invalid> {
        let plugin = partitioner_plugin(settings)?;
        let partitioner = (plugin.build)(settings)?;
        let extractor = extractor_plugin(settings)?.name();
        if partitioner.wall_clock_bound_ms(0).is_some() {
            self.promises("wall-clock paths pinned by plan");
        } else if !plugin.keys().any(|key| key.name == TIMESTAMP_EXTRACTOR.name) {
            self.promises(if partitioner.reads_values() { "paths by value" } else { "paths by partition" });
        } else if extractor == "RecordField" {
            self.promises(format!("paths by the time in {}", settings.required_string(&TIMESTAMP_FIELD)?));
        } else {
            self.promises("paths by record time");
        }
        Ok(())
    }

    fn rotation(&mut self, settings: &Settings) -> Result<(), Invalid> {
        if settings.millis(&ROTATE_SCHEDULE_INTERVAL_MS)?.is_some() {
            self.promises("scheduled rotation pinned by plan");
        }
        Ok(())
    }

    fn store(&mut self, settings: &Settings, probe: Option<Probe>) -> Result<(), Invalid> {
        let is_asked = settings.boolean(&ENABLE_CONDITIONAL_WRITES)?;
        let found = match probe {
            Some(probe) => Some(probe.conditional),
            None if is_asked => None,
            None => Some(Conditional::NotUsed),
        };
        let second_line = "names are looked for before each PUT, the second line of defence is missing";
        match found {
            Some(Conditional::Honoured) => self.promises("the store refuses to overwrite"),
            Some(Conditional::Ignored) => {
                self.weakened(&format!("a store that ignores conditional PUT ({second_line})"))
            }
            Some(Conditional::NotUsed) if is_asked => {
                self.weakened(&format!("a store without conditional PUT ({second_line})"));
            }
            Some(Conditional::NotUsed) => self.weakened(&format!("enable.conditional.writes=false ({second_line})")),
            Some(Conditional::Unknown) => {
                self.weakened("a store that does not let the probe be written (it may ignore conditional PUT)");
            }
            None => self.needs.push("a store that honours conditional PUT (probed at start)".to_owned()),
        }
        if probe.is_some_and(|probe| !probe.listable) {
            self.weakened("a store that may not be listed (a group that lost its offsets cannot be recovered)");
        }
        let place = if settings.string(&STORE_URL)?.is_some_and(|url| !url.is_empty()) { "store" } else { "bucket" };
        self.needs
            .push(format!("no other connector or program that writes these topics below topics.dir of the {place}"));
        Ok(())
    }

    fn records(&mut self, settings: &Settings) -> Result<(), Invalid> {
        if settings.required_string(&supervisor::keys::ERRORS_TOLERANCE)? == "all" {
            self.weakened("errors.tolerance=all (bad records are left out and counted)");
        }
        if dead_letters::has_topic(settings) {
            self.promises("bad records at least once in the dead letter topic");
        }
        match NullValues::new(settings)? {
            NullValues::Fail | NullValues::Write => {}
            NullValues::Ignore => {
                self.weakened(&format!(
                    "{}=ignore (records without a value are left out)",
                    BEHAVIOR_ON_NULL_VALUES.name
                ));
            }
        }
        match source::on_data_loss(settings)? {
            DataLoss::Fail => {}
            DataLoss::Continue => {
                self.weakened(
                    "on.data.loss=continue (what the log lost before it was read is missing, with a warning)",
                );
            }
        }
        Ok(())
    }

    fn existing_objects(&mut self, settings: &Settings) -> Result<(), Invalid> {
        match OnExisting::new(settings)? {
            OnExisting::Fail => {}
            OnExisting::Overwrite => self.weakened(
                "on.existing.object=overwrite (after a reset objects are replaced; what cuts that end elsewhere leave is \
                 there twice)",
            ),
            OnExisting::Skip => self.weakened(
                "on.existing.object=skip (after a reset objects stay; rows of cuts that end elsewhere may be there twice)",
            ),
        }
        Ok(())
    }

    fn group(&mut self, name: &str, consumer: &BTreeMap<String, String>) {
        let group = consumer.get("group.id").map_or("", String::as_str);
        if group != own_group(name) {
            self.needs.push(format!("no other consumer in group {group}"));
            self.weakened(&format!(
                "group.id={group} (consumers that share it take its partitions and move its offsets)"
            ));
        }
    }

    fn uploads(&mut self, settings: &Settings) -> Result<(), Invalid> {
        let Some(age) = orphan_age(settings)? else { return Ok(()) };
        let intervals = [ROTATE_INTERVAL_MS, ROTATE_SCHEDULE_INTERVAL_MS];
        let intervals = intervals.iter().map(|key| settings.millis(key)).collect::<Result<Vec<_>, _>>()?;
        // Files are open until the first of their rotations is due.
        if intervals.into_iter().flatten().min().is_some_and(|rotation| rotation >= age) {
            self.weakened("upload.orphan.age.ms shorter than the rotation (live uploads are removed and read again)");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use model::Config;

    use super::*;

    /// A connector on a bucket with defaults, by time and wall clock.
    const BASE: &[(&str, &str)] = &[
        ("connector.class", "s3"),
        ("topics", "t"),
        ("format.class", "parquet"),
        ("s3.bucket.name", "b"),
        ("flush.size", "10"),
        ("locale", "en-US"),
        ("timezone", "UTC"),
    ];
    const HOURLY: (&str, &str) = ("partitioner.class", "HourlyPartitioner");

    /// Promises, needs and weakenings for [`BASE`] with `changes`; those of the consumer start with `consumer.`.
    fn parts(changes: &[(&str, &str)], probe: Option<Probe>) -> [String; 3] {
        let is_of_consumer = |key: &str| key.starts_with("consumer.");
        let given = BASE.iter().chain(changes).filter(|(key, _)| !is_of_consumer(key));
        let settings: Config = given.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut consumer = BTreeMap::from([("group.id".to_owned(), "connect-c".to_owned())]);
        let of_consumer = changes.iter().filter(|(key, _)| is_of_consumer(key));
        consumer.extend(of_consumer.map(|(key, value)| (key["consumer.".len()..].to_owned(), (*value).to_owned())));
        let line = line("c", &Settings::new(settings), &consumer, probe).unwrap();
        assert!(!line.contains('\n'), "{line}");
        let (promises, rest) = line.strip_prefix("guarantee: ").unwrap().split_once("; needs: ").unwrap();
        let (needs, weakened) = rest.split_once("; weakened by: ").unwrap();
        [promises, needs, weakened].map(str::to_owned)
    }

    #[test]
    fn a_plain_connector_is_exactly_once_and_nothing_weakens_it() {
        let [promises, needs, weakened] = parts(&[], None);
        assert_eq!(promises, "exactly once; replays identical (schema versions stored in _sluice); paths by partition");
        assert_eq!(
            needs,
            "objects below _sluice unchanged, a store that honours conditional PUT (probed at start), no other connector or \
             program that writes these topics below topics.dir of the bucket, offsets retained longer than any outage \
             (objects are the fallback)"
        );
        assert_eq!(weakened, "nothing");
    }

    #[test]
    fn promises_name_what_pins_schema_paths_and_rotation() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[HOURLY], "wall-clock paths pinned by plan"),
            (&[HOURLY, ("timestamp.extractor", "Record")], "paths by record time"),
            (&[HOURLY, ("timestamp.extractor", "RecordField"), ("timestamp.field", "at")], "paths by the time in at"),
            (&[("partitioner.class", "FieldPartitioner"), ("partition.field.name", "f")], "paths by value"),
            (&[("rotate.schedule.interval.ms", "20000")], "scheduled rotation pinned by plan"),
            (&[("value.converter.schema", "a BIGINT")], "replays identical (given schema)"),
            (&[("consumer.auto.offset.reset", "latest")], "exactly once from the first start on"),
            (&[("errors.deadletterqueue.topic.name", "dead")], "bad records at least once in the dead letter topic"),
        ];
        for (changes, expected) in cases {
            let [promises, _, _] = parts(changes, None);
            assert!(promises.split("; ").any(|part| part == *expected), "{changes:?}: {promises}");
        }
        let [_, needs, _] = parts(&[("value.converter.schema", "a BIGINT")], None);
        assert!(!needs.contains("_sluice"), "{needs}");
    }

    #[test]
    fn each_setting_that_weakens_is_named_once_and_alone() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("enable.conditional.writes", "false")], "enable.conditional.writes=false (names are looked for"),
            (&[("errors.tolerance", "all")], "errors.tolerance=all (bad records are left out and counted)"),
            (&[("behavior.on.null.values", "ignore")], "behavior.on.null.values=ignore (records without a value"),
            (
                &[("on.existing.object", "overwrite")],
                "on.existing.object=overwrite (after a reset objects are replaced",
            ),
            (&[("on.existing.object", "skip")], "on.existing.object=skip (after a reset objects stay"),
            (&[("on.data.loss", "continue")], "on.data.loss=continue (what the log lost"),
            (&[("consumer.auto.offset.reset", "latest")], "auto.offset.reset=latest (what is older"),
            (
                &[("consumer.isolation.level", "read_uncommitted")],
                "isolation.level=read_uncommitted (records of aborted",
            ),
            (&[("consumer.group.id", "mine")], "group.id=mine (consumers that share it"),
            (
                &[("upload.orphan.age.ms", "3600000"), ("rotate.interval.ms", "3600000"), HOURLY],
                "upload.orphan.age.ms shorter than the rotation",
            ),
        ];
        for (changes, expected) in cases {
            let [_, _, weakened] = parts(changes, None);
            assert!(weakened.starts_with(expected), "{changes:?}: {weakened}");
            assert_eq!(weakened.matches('=').count(), expected.matches('=').count(), "only that: {weakened}");
        }
        let [_, needs, weakened] = parts(&[("errors.tolerance", "all"), ("consumer.group.id", "mine")], None);
        assert!(needs.contains("no other consumer in group mine"), "{needs}");
        assert!(weakened.contains("counted), group.id=mine"), "{weakened}");
        let harmless = [("upload.orphan.age.ms", "3600001"), ("rotate.interval.ms", "3600000"), HOURLY];
        assert_eq!(parts(&harmless, None)[2], "nothing");
        assert_eq!(parts(&[("upload.orphan.age.ms", "-1")], None)[2], "nothing");
    }

    #[test]
    fn what_the_probe_found_stands_above_what_is_assumed() {
        let probe = |conditional, listable| Some(Probe { listable, conditional });
        let [promises, needs, weakened] = parts(&[], probe(Conditional::Honoured, true));
        assert!(promises.ends_with("; the store refuses to overwrite"), "{promises}");
        assert!(!needs.contains("conditional PUT"), "{needs}");
        assert_eq!(weakened, "nothing");
        let cases = [
            (Conditional::Ignored, true, "a store that ignores conditional PUT (names are looked for"),
            (Conditional::NotUsed, true, "a store without conditional PUT (names are looked for"),
            (Conditional::Unknown, true, "a store that does not let the probe be written"),
            (Conditional::Honoured, false, "a store that may not be listed"),
        ];
        for (conditional, listable, expected) in cases {
            let [promises, needs, weakened] = parts(&[], probe(conditional, listable));
            assert!(weakened.starts_with(expected), "{conditional:?}: {weakened}");
            assert_eq!(promises.contains("refuses to overwrite"), !listable);
            assert!(!needs.contains("conditional PUT"), "{needs}");
        }
    }
}
