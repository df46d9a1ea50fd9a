//! The crash ring: the real program on a real broker and store, killed, frozen, stopped and cut off at random moments.
//!
//! Three processes run the same four connectors, one for each way to share a group and one that writes a Delta table, on a
//! broker of their own and a MinIO behind a proxy that makes it faulty. Paths go by the wall clock, down to the second, and
//! files close by a schedule: what is written twice would get another name. Records get new fields now and then, so that
//! all processes add columns to the table at once. A seed gives the timetable of events. At the end an independent reader
//! counts every record of the log in the objects and in the table, and holds each commit of it against the log.
//!
//! ```text
//!  truth.py produce --> Kafka --> sluice run, three times --> Proxy --> MinIO --> truth.py verdict
//!                         ^             ^                       ^         ^
//!                         +---------- Timetable of a seed ------+---------+
//! ```
//!
//! `SLUICE_CRASH_SECONDS` and `SLUICE_CRASH_SEED` choose how long and which, `SLUICE_CRASH_RATE` the records a second;
//! `SLUICE_CRASH_KEEP=1` fails in any case and keeps all logs and data.

use std::process::ExitCode;
use std::time::Duration;

use tests::ring::{Outcome, Test};
use tests::{Need, setting};

mod connectors;
mod stage;
mod timetable;
mod trace;
mod verdict;
mod worker;

/// What `cargo test` runs.
const SECONDS: u64 = 60;
const SEED: u64 = 1;
const RATE: u64 = 90;

/// Start, catching up and counting, at most: a long run has many objects to count.
const AROUND: Duration = Duration::from_secs(900);

const TESTS: &[Test] = &[Test {
    name: "each_record_is_written_once_whatever_happens",
    needs: &[Need::OwnKafka, Need::OwnMinio],
    run: whatever_happens,
}];

fn main() -> ExitCode {
    tests::ring::main_within(TESTS, lasting() + AROUND)
}

fn whatever_happens() -> Outcome {
    stage::play(lasting(), setting("SLUICE_CRASH_SEED", SEED), setting("SLUICE_CRASH_RATE", RATE))
}

fn lasting() -> Duration {
    Duration::from_secs(setting("SLUICE_CRASH_SECONDS", SECONDS))
}
