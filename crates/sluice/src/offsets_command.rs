//! `sluice offsets`: shows and sets a connector's committed offsets, straight on its group.

use jiff::Timestamp;
use serde_json::{Value, json};
use source::group::GroupPosition;
use supervisor::OffsetsError;

use crate::assemble::House;
use crate::cli::{OffsetsAction, OffsetsOptions};
use crate::connector_file;
use crate::failure::Failure;
use crate::offsets::{Changed, Group, NotChanged, Wanted, plan};
use crate::run::environment;
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
    };
    let changed = group.change_now(wanted).map_err(|error| unchanged(&name, &listen, &error))?;
    println!("{}", if options.json { changed_json(&changed) } else { changes(&changed) });
    Ok(())
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
