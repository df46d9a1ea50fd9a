//! What is drawn from a seed: the connector, the records, the faults.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use source::Protocol;
use writer::FileLimits;

use crate::bends::Bend;
use crate::recipe::Pairs;
use crate::truth::{PathOf, Record};
use crate::world::{BEGIN_MS, Make, WHOLE_FILES};

/// How long records are produced and faults happen.
pub(crate) const STORM: Duration = Duration::from_secs(20);

/// How groups hand out their lanes.
const PROTOCOLS: [Protocol; 3] = [Protocol::Eager, Protocol::Cooperative, Protocol::Server];

/// Files of which even a few rows go up in parts.
const IN_PARTS: FileLimits = FileLimits { part_bytes: 300, rows_bytes: 50, row_group_bytes: 100, row_group_rows: 2 };

/// Colors are the values of the field partitioner.
const COLORS: [&str; 3] = ["red", "green", "blue"];

/// Records that become no row, whatever the schema is.
const BAD: [Option<&str>; 5] =
    [None, Some("{\"p\":"), Some(""), Some(r#"{"mixed":[1,"x"]}"#), Some(r#"{"v":18446744073709551615}"#)];

/// Something that happens at a time of the world.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Act {
    /// A record that must become visible: partition, fields, how much later than the clock its time is.
    Produce(i32, Value, i64),
    /// A record that must be left out: not JSON, or a tombstone.
    ProduceBad(i32, Option<&'static str>),
    /// Offsets without records.
    Skip(i32, u32),
    /// A worker's process dies.
    Crash(usize),
    /// It dies after so many polls.
    CrashAfter(usize, u64),
    /// It dies when the next object of its own appears, or is on its way and late.
    CrashAtObject(usize),
    /// The group removes a worker that goes on.
    Expel(usize),
    /// A worker hears nothing of rebalances for a while.
    Deafen(usize, Duration),
    /// A worker's loop stands still.
    Freeze(usize, Duration),
    /// A worker stops in order and comes back.
    Restart(usize),
    /// A worker is paused, and resumed a while later.
    Pause(usize, Duration),
    /// The wall clock moves.
    Jump(i64),
    /// A partition or a topic appears.
    AddLane(i32),
    /// Retention removes what is committed of a lane.
    Retain(i32),
    /// `flush.size` is another one for whoever starts from now on.
    FlushSize(u32),
}

/// What people do between the storm and the calm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Nothing,
    /// The group loses its offsets.
    LoseGroup,
    /// Settings that shape objects change.
    Reshape,
}

/// One drawn world.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) make: Make,
    pub(crate) workers: usize,
    /// Likelihoods of faults of store requests and of commits.
    pub(crate) storm: (f64, f64),
    pub(crate) acts: Vec<(Duration, Act)>,
    pub(crate) deed: Deed,
    /// Rotation alone must bring the lag to 0, without a stop, in this time after the storm.
    pub(crate) quiet_within: Option<Duration>,
}

fn color(record: &Record) -> String {
    record.value.as_ref().and_then(|value| value["color"].as_str()).unwrap_or_default().to_owned()
}

fn hourly(at_ms: i64) -> String {
    // All worlds play on the first of January 2024.
    let hour = (at_ms - 1_704_067_200_000) / 3_600_000;
    format!("year=2024/month=01/day=01/hour={hour:02}")
}

impl Scene {
    /// The world of `seed`.
    pub(crate) fn draw(seed: u64, bend: Bend) -> Scene {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut pairs, path_of) = partitioner(&mut rng);
        let goes_up_in_parts = rng.random_bool(0.4);
        let quiet_within = rotation(&mut rng, &mut pairs, goes_up_in_parts);
        pairs.push(("errors.tolerance", "all".to_owned()));
        pairs.extend(views(seed));
        let deed = match rng.random_range(0..10) {
            0 | 1 => Deed::LoseGroup,
            2 => Deed::Reshape,
            _ => Deed::Nothing,
        };
        // Two lanes with plans of two shapes need both settings at once.
        let partitions = if deed == Deed::Reshape { 1 } else { rng.random_range(1..=4) };
        let mut make = Make {
            seed,
            partitions,
            by_pattern: deed != Deed::Reshape && rng.random_bool(0.3),
            protocol: *PROTOCOLS.choose(&mut rng).expect("not empty"),
            is_static: rng.random_bool(0.25),
            conditional: rng.random_bool(0.85),
            pairs,
            path_of,
            limits: if goes_up_in_parts { IN_PARTS } else { WHOLE_FILES },
            budget_bytes: 64 << 20,
            batch_rows: *[1, 3, 20, 500].choose(&mut rng).expect("not empty"),
            revoke_timeout: Duration::from_secs(rng.random_range(2..10)),
            bend,
        };
        if make.limits == WHOLE_FILES && rng.random_bool(0.3) {
            // Less than a record a lane more, and files are closed early. Encoders weigh more than that.
            make.budget_bytes = 100_000;
        }
        let workers = rng.random_range(1..=3);
        let storm = match rng.random_range(0..5) {
            0 => (0.0, 0.0),
            1 => (0.15, 0.0),
            2 => (0.05, 0.2),
            3 => (0.3, 0.3),
            _ => (0.1, 0.1),
        };
        let mut acts = produce(&mut rng, &make);
        acts.extend(faults(&mut rng, workers));
        if deed != Deed::LoseGroup {
            // Who is found by its objects starts at the last of them, before what was left out and is gone.
            acts.extend(
                (0..rng.random_range(0..3)).map(|_| (at(&mut rng), Act::Retain(rng.random_range(0..partitions)))),
            );
        }
        alternate(&mut StdRng::seed_from_u64(!seed), &mut make, &mut acts);
        acts.sort_by_key(|(at, _)| *at);
        Scene { make, workers, storm, acts, deed, quiet_within }
    }

    /// The world in a few lines, its records left out.
    pub(crate) fn summary(&self) -> String {
        let is_record = |act: &Act| matches!(act, Act::Produce(..) | Act::ProduceBad(..) | Act::Skip(..));
        let faults: Vec<_> = self.acts.iter().filter(|(_, act)| !is_record(act)).collect();
        format!(
            "seed {}: {} workers, {:?}, storm {:?}, {} records and gaps\n  {:?}\n  {faults:?}",
            self.make.seed,
            self.workers,
            self.deed,
            self.storm,
            self.acts.len() - faults.len(),
            self.make
        )
    }
}

fn partitioner(rng: &mut StdRng) -> (Pairs, PathOf) {
    let pair = |key: &'static str, value: &str| (key, value.to_owned());
    match rng.random_range(0..5) {
        0 => (vec![pair("partitioner.class", "field"), pair("partition.field.name", "color")], |_, record, _| {
            format!("color={}", color(record))
        }),
        1 => (vec![pair("partitioner.class", "hourly"), pair("timestamp.extractor", "Record")], |_, record, _| {
            hourly(record.time_ms)
        }),
        2 => (vec![pair("partitioner.class", "hourly"), pair("timestamp.extractor", "Wallclock")], |_, _, clock_ms| {
            hourly(clock_ms)
        }),
        _ => (Vec::new(), |partition, _, _| format!("partition={partition}")),
    }
}

/// Adds keys of rotation; says within which time they alone close every file.
fn rotation(rng: &mut StdRng, pairs: &mut Pairs, has_large_files: bool) -> Option<Duration> {
    let mut quiet_within = None;
    if has_large_files {
        pairs.push(("flush.size", rng.random_range(5..60).to_string()));
    } else if rng.random_bool(0.7) {
        pairs.push(("flush.size", rng.random_range(1..30).to_string()));
    }
    if !has_large_files && rng.random_bool(0.3) {
        pairs.push(("flush.bytes", rng.random_range(50..2000).to_string()));
    }
    if rng.random_bool(0.3) {
        pairs.push(("partitioner.max.open.files", "2".to_owned()));
    }
    for key in ["rotate.interval.ms", "rotate.schedule.interval.ms"] {
        if rng.random_bool(0.3) {
            let interval_ms = rng.random_range(500..8_000);
            pairs.push((key, interval_ms.to_string()));
            // Jumps of the clock back come on top, see `faults`.
            quiet_within = Some(Duration::from_millis(interval_ms) + Duration::from_secs(60));
        }
    }
    if rng.random_bool(0.3) {
        pairs.push(("rotate.file.on.partition.change", "false".to_owned()));
    }
    quiet_within
}

/// Whether keys, headers and tombstones are written. Drawn apart, so that the other choices of a seed stay what they were.
fn views(seed: u64) -> Pairs {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5EED_0F71_E35D);
    let (keys, headers) = (rng.random_bool(0.3), rng.random_bool(0.2));
    let mut pairs = Pairs::new();
    let mut set = |key, value: &str| pairs.push((key, value.to_owned()));
    if keys {
        set("store.kafka.keys", "true");
        set("keys.format.class", "parquet");
    }
    if headers {
        set("store.kafka.headers", "true");
        set("headers.format.class", "parquet");
    }
    set("behavior.on.null.values", if keys && rng.random_bool(0.6) { "write" } else { "ignore" });
    pairs
}

fn at(rng: &mut StdRng) -> Duration {
    Duration::from_millis(rng.random_range(0..STORM.as_millis() as u64))
}

/// When lanes appear: some are there from the beginning.
fn lanes(rng: &mut StdRng, make: &Make) -> Vec<(i32, Duration)> {
    let mut lanes: Vec<(i32, Duration)> = (0..make.partitions).map(|lane| (lane, Duration::ZERO)).collect();
    if make.by_pattern {
        // One more partition of the first topic, and another topic.
        for lane in [make.partitions, 100] {
            if rng.random_bool(0.7) {
                lanes.push((lane, at(rng)));
            }
        }
    }
    lanes
}

fn produce(rng: &mut StdRng, make: &Make) -> Vec<(Duration, Act)> {
    let evolves = rng.random_bool(0.5);
    let has_bad = rng.random_bool(0.3);
    let has_gaps = rng.random_bool(0.3);
    let lanes = lanes(rng, make);
    let later = lanes.iter().filter(|(_, from)| !from.is_zero());
    let mut acts: Vec<(Duration, Act)> = later.map(|(lane, from)| (*from, Act::AddLane(*lane))).collect();
    if lanes.len() > 1 && rng.random_bool(0.2) {
        // Nothing but gaps.
        acts.push((at(rng), Act::Skip(lanes[0].0, 3)));
    }
    let first = usize::from(acts.iter().any(|(_, act)| matches!(act, Act::Skip(..))));
    for _ in 0..rng.random_range(3..40) {
        let (partition, from) = lanes[rng.random_range(first..lanes.len())];
        let at = at(rng).max(from);
        for _ in 0..rng.random_range(1..8) {
            let mut fields = json!({ "color": COLORS.choose(rng), "v": rng.random_range(0..100) });
            if evolves && rng.random_bool(0.2) {
                fields["v"] = json!(rng.random_range(0..100) as f64 + 0.5);
            }
            if evolves && rng.random_bool(0.2) {
                fields[["x", "y", "z"].choose(rng).expect("not empty")] = json!({ "deep": [rng.random_range(0..9)] });
            }
            acts.push((at, Act::Produce(partition, fields, rng.random_range(-4_000..4_000))));
        }
        if has_bad && rng.random_bool(0.3) {
            acts.push((at, Act::ProduceBad(partition, *BAD.choose(rng).expect("not empty"))));
        }
        if has_gaps && rng.random_bool(0.3) {
            acts.push((at, Act::Skip(partition, rng.random_range(1..4))));
        }
    }
    acts
}

/// In some worlds records bring their schema, in versions that alternate. It has a source of its own, so that the other
/// worlds stay what they are.
fn alternate(rng: &mut StdRng, make: &mut Make, acts: &mut [(Duration, Act)]) {
    if rng.random_bool(0.7) {
        return;
    }
    match rng.random_range(0..6) {
        0 => make.pairs.push(("schema.change.files", "cut".to_owned())),
        1 => make.pairs.push(("schema.compatibility", "BACKWARD".to_owned())),
        2 => make.pairs.push(("schema.compatibility", "FULL".to_owned())),
        _ => {}
    }
    let versions = rng.random_range(2..=3);
    for (_, act) in acts {
        if let Act::Produce(_, fields, _) = act {
            let version = rng.random_range(1..=versions);
            *fields = json!({ "color": fields["color"], "v": fields["v"].as_f64(), "sv": version });
            if version > 1 {
                fields[format!("w{version}")] = "new".into();
            }
        }
    }
}

fn faults(rng: &mut StdRng, workers: usize) -> Vec<(Duration, Act)> {
    let mut acts = Vec::new();
    for _ in 0..rng.random_range(0..10) {
        let (worker, time) = (rng.random_range(0..workers), Duration::from_millis(rng.random_range(100..12_000)));
        let act = match rng.random_range(0..15) {
            10..=13 => Act::CrashAtObject(worker),
            0 | 1 => Act::Crash(worker),
            2 | 3 => Act::CrashAfter(worker, rng.random_range(0..60)),
            4 => Act::Expel(worker),
            5 => Act::Deafen(worker, time),
            6 => Act::Freeze(worker, time),
            7 => Act::Restart(worker),
            8 => Act::Pause(worker, time),
            9 => Act::FlushSize(rng.random_range(1..30)),
            _ => Act::Jump(*[-20_000, -3_000, 5_000, 60_000, 7_200_000].choose(rng).expect("not empty")),
        };
        acts.push((at(rng), act));
    }
    acts
}

/// Time of a record produced `later_ms` after `now_ms`; never before the day on which worlds play.
pub(crate) fn record_time(now_ms: i64, later_ms: i64) -> i64 {
    (now_ms + later_ms).max(BEGIN_MS - 3_600_000)
}
