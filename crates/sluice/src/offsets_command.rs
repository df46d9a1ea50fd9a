//! `sluice offsets`: shows and sets a connector's committed offsets, straight on its group.

use std::collections::BTreeSet;

use delta::Known;
use jiff::Timestamp;
use model::{Config, TopicPartition};
use serde_json::{Value, json};
use source::group::GroupPosition;
use supervisor::OffsetsError;

use crate::assemble::House;
use crate::cli::{OffsetsAction, OffsetsOptions};
use crate::connector_file;
use crate::failure::Failure;
use crate::offsets::{Changed, Group, NotChanged, Wanted, plan};
use crate::offsets_import::{Origin, as_positions};
use crate::run::{environment, runtime};
use crate::table::{aligned, grouped};
use crate::validate::problems;
use crate::worker::Worker;

/// Does what the command line says; the answer goes to stdout.
#[expect(clippy::print_stdout, reason = "the answer of the command")]
pub(crate) fn run(options: &OffsetsOptions) -> Result<(), Failure> {
    let environment = environment();
    let worker = Worker::read(&options.worker, &environment)?;
    let listen = worker.advertised.clone();
    let house = House::new(worker, environment);
    let (name, config) = connector_file::read(&options.connector)?;
    let (errors, _) = problems(&house, &config);
    if !errors.is_empty() {
        return Err(Failure::Invalid(format!("connector {name}: {}", errors.join("; "))));
    }
    let group = house.group(&name, &config).map_err(|problem| Failure::Invalid(problem.to_string()))?;
    let wanted = match &options.action {
        None | Some(OffsetsAction::Show) => {
            let positions = group.positions_now().map_err(|error| unread(&group, &error))?;
            println!("{}", if options.json { shown_json(&positions) } else { shown(&positions) });
            return Ok(());
        }
        Some(OffsetsAction::Set { offsets }) => {
            Wanted::Some(offsets.iter().map(|(lane, offset)| (lane.clone(), Some(*offset))).collect())
        }
        Some(OffsetsAction::Reset { to }) => Wanted::All(*to),
        Some(OffsetsAction::Import { kafka_delta_ingest, topic, spark_checkpoint, replace, dry_run }) => {
            let given = (kafka_delta_ingest.as_deref(), topic.as_deref(), spark_checkpoint.as_deref());
            let import = Import { house: &house, name: &name, config: &config, group: &group };
            let changed = import.run(given, *replace, *dry_run).map_err(|error| unchanged(&name, &listen, &error))?;
            println!("{}", if options.json { changed_json(&changed) } else { changes(&changed) });
            return Ok(());
        }
    };
    let changed = group.change_now(wanted).map_err(|error| unchanged(&name, &listen, &error))?;
    let positions = as_positions(&name, &changed.offsets());
    let set = runtime()?.block_on(house.set_in_table(&name, &config, true, |_| Ok(positions.clone())));
    set.map_err(|error| {
        Failure::Run(format!("the group's offsets are set, but not those in the table of connector {name}: {error}"))
    })?;
    println!("{}", if options.json { changed_json(&changed) } else { changes(&changed) });
    Ok(())
}

/// What `import` is done for.
struct Import<'a> {
    house: &'a House,
    name: &'a str,
    config: &'a Config,
    group: &'a Group,
}

impl Import<'_> {
    /// Sets what the table and these options (app id of kafka-delta-ingest, its topic, checkpoint directory) say: the group
    /// first, which refuses while it has members, then the table, whose word counts.
    fn run(
        &self,
        given: (Option<&str>, Option<&str>, Option<&str>),
        may_replace: bool,
        is_dry: bool,
    ) -> Result<Changed, NotChanged> {
        let failed = |why: String| NotChanged::from(OffsetsError(why));
        let runtime = runtime().map_err(|failure| failed(failure.to_string()))?;
        let lanes: Vec<TopicPartition> =
            self.group.positions_now()?.into_iter().map(|position| position.topic_partition).collect();
        let origin = match given {
            (_, _, Some(path)) => {
                let path = if path.contains("://") { path.to_owned() } else { absolute(path).map_err(failed)? };
                Origin::Spark(runtime.block_on(self.house.spark_checkpoint(self.config, &path))?)
            }
            (app_id, topic, None) => {
                let topics: BTreeSet<&str> = lanes.iter().map(|lane| &*lane.topic).collect();
                let only = topics.first().filter(|_| topics.len() == 1).copied();
                let topic = topic.or(only).ok_or_else(|| failed("name the topic that was read: --topic".to_owned()))?;
                Origin::KafkaDeltaIngest { app_id: app_id.unwrap_or_default().to_owned(), topic: topic.to_owned() }
            }
        };
        let known = runtime.block_on(self.house.table_known(self.name, self.config))?;
        let known = known.ok_or_else(|| failed("it is not a connector to a Delta table".to_owned()))?;
        if known.id.is_none() {
            return Err(failed("there is no table yet, so nobody has written to it".to_owned()));
        }
        let decide = |known: &Known| Ok(as_positions(self.name, &origin.positions(known, &lanes)?));
        let offsets = origin.positions(&known, &lanes).map_err(failed)?;
        let taken = as_positions(self.name, &offsets).into_iter().find_map(|(app_id, at)| {
            known.txns.get(&app_id).filter(|known| **known != at).map(|at| format!("{app_id} up to offset {at}"))
        });
        if let Some(taken) = taken.filter(|_| !may_replace) {
            return Err(failed(format!(
                "the table knows {taken} already; use --replace to go on elsewhere all the same"
            )));
        }
        if is_dry {
            return self.group.plan_now(&offsets);
        }
        let wanted = Wanted::Some(offsets.iter().map(|(lane, offset)| (lane.clone(), Some(*offset))).collect());
        let changed = self.group.change_now(wanted)?;
        runtime.block_on(self.house.set_in_table(self.name, self.config, may_replace, decide))?;
        Ok(changed)
    }
}

/// A path that does not depend on where the command runs.
fn absolute(path: &str) -> Result<String, String> {
    let absolute = std::path::absolute(path).map_err(|error| format!("{path}: {error}"))?;
    absolute.into_os_string().into_string().map_err(|_| format!("{path} is not text"))
}

fn unread(group: &Group, error: &OffsetsError) -> Failure {
    Failure::Run(format!("could not show consumer group {}: {error}", group.name()))
}

fn unchanged(name: &str, listen: &str, error: &NotChanged) -> Failure {
    let NotChanged { why, in_use } = error;
    if !in_use {
        return Failure::Run(format!("could not change the offsets of connector {name}: {why}"));
    }
    Failure::Run(format!(
        "{why}. A worker stops it with: curl -X PUT http://{listen}/connectors/{name}/stop; sluice run stops with Ctrl-C"
    ))
}

fn cell(offset: Option<i64>) -> String {
    offset.and_then(|offset| u64::try_from(offset).ok()).map_or("-".to_owned(), grouped)
}

fn committed(position: &GroupPosition) -> Option<i64> {
    position.committed.as_ref().map(|(offset, _)| offset.get())
}

/// Records that are not committed yet; without an offset, all there are.
fn lag(position: &GroupPosition) -> i64 {
    (position.end.get() - committed(position).unwrap_or(position.begin.get())).max(0)
}

fn shown(positions: &[GroupPosition]) -> String {
    if positions.is_empty() {
        return "the connector's topics do not exist".to_owned();
    }
    let heading = ["topic-partition", "committed", "log begin", "log end", "lag", "plan"].map(str::to_owned).to_vec();
    let row = |position: &GroupPosition| {
        vec![
            position.topic_partition.to_string(),
            cell(committed(position)),
            cell(Some(position.begin.get())),
            cell(Some(position.end.get())),
            cell(Some(lag(position))),
            planned(position),
        ]
    };
    aligned(&std::iter::once(heading).chain(positions.iter().map(row)).collect::<Vec<_>>())
}

fn planned(position: &GroupPosition) -> String {
    let Some((range, plan)) = plan(position) else {
        return match &position.committed {
            Some((_, metadata)) if !metadata.is_empty() => format!("unknown metadata {metadata:?}"),
            Some(_) | None => String::new(),
        };
    };
    let files = if plan.files == 1 { "1 file".to_owned() } else { format!("{} files", plan.files) };
    format!("plan up to {}, {files}, since {}", cell(Some(range.end().get())), clock(plan.clock_ms))
}

/// Milliseconds since the epoch as `2026-11-21T10:00:00Z`.
fn clock(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

fn shown_json(positions: &[GroupPosition]) -> String {
    let entry = |position: &GroupPosition| {
        let plan = plan(position).map(|(range, plan)| {
            json!({ "end": range.end().get(), "files": plan.files, "clock": clock(plan.clock_ms), "nonce": plan.nonce })
        });
        json!({
            "topic": &*position.topic_partition.topic,
            "partition": position.topic_partition.partition,
            "committed": committed(position),
            "log_begin": position.begin.get(),
            "log_end": position.end.get(),
            "lag": lag(position),
            "plan": plan,
        })
    };
    pretty(&Value::Array(positions.iter().map(entry).collect()))
}

fn before(changed: &Changed) -> impl Iterator<Item = (String, Option<i64>, i64)> {
    changed.commits.iter().map(|commit| {
        let was = changed.before.iter().find(|position| position.topic_partition == commit.topic_partition);
        (commit.topic_partition.to_string(), was.and_then(committed), commit.offset.get())
    })
}

fn changes(changed: &Changed) -> String {
    let heading = ["topic-partition", "was", "is"].map(str::to_owned).to_vec();
    let rows = before(changed).map(|(lane, was, is)| vec![lane, cell(was), cell(Some(is))]);
    let table = aligned(&std::iter::once(heading).chain(rows).collect::<Vec<_>>());
    if changed.note.is_empty() { table } else { format!("{table}\n\n{}.", changed.note) }
}

fn changed_json(changed: &Changed) -> String {
    let entry = |(lane, was, is)| json!({ "topic_partition": lane, "was": was, "is": is });
    let changes: Vec<Value> = before(changed).map(entry).collect();
    pretty(&json!({ "changed": changes, "note": changed.note }))
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("it has text keys and no failing serializers")
}

#[cfg(test)]
mod tests {
    use model::{Fingerprint, Nonce, Offset, Plan, TopicPartition};

    use super::*;

    fn position(partition: i32, committed: Option<(i64, &str)>, end: i64) -> GroupPosition {
        let at = |offset| Offset::new(offset).unwrap();
        GroupPosition {
            topic_partition: TopicPartition::new("my-model", partition),
            committed: committed.map(|(offset, metadata)| (at(offset), metadata.to_owned())),
            begin: at(0),
            end: at(end),
        }
    }

    #[test]
    fn positions_and_plans_are_readable() {
        let end = Offset::new(120_000).unwrap();
        let plan =
            Plan::new(end, 1_795_255_200_000, Nonce(7), None, Fingerprint::of([b"x".as_slice()]), 3).to_metadata();
        let positions =
            [position(0, Some((100_000, &plan)), 1_000_000), position(1, None, 5), position(2, Some((5, "Kafka")), 5)];
        assert_eq!(
            shown(&positions),
            "topic-partition  committed  log begin  log end    lag      plan\n\
             my-model-0       100,000    0          1,000,000  900,000  plan up to 120,000, 3 files, since 2026-11-21T10:00:00Z\n\
             my-model-1       -          0          5          5\n\
             my-model-2       5          0          5          0        unknown metadata \"Kafka\""
        );
        let json: Value = serde_json::from_str(&shown_json(&positions)).unwrap();
        assert_eq!(json[0]["plan"]["files"], 3);
        assert_eq!(json[0]["plan"]["clock"], "2026-11-21T10:00:00Z");
        assert_eq!((&json[1]["committed"], &json[1]["lag"], &json[1]["plan"]), (&Value::Null, &json!(5), &Value::Null));
        assert_eq!(shown(&[]), "the connector's topics do not exist");
    }
}
