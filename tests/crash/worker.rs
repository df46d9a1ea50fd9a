//! A process of the program: what state it is in, what it is to become, and what its counters said.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Error, Kafka, S3, Sluice, Start};

use crate::connectors::Connector;
use crate::trace::Trace;

/// How long a drain may take. The program is told a shorter time.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// What a shell says of a process that SIGTERM ended.
const SIGTERM_CODE: i32 = 143;

/// How long REST may take before a look at a process is given up.
const LOOK_LIMIT: Duration = Duration::from_millis(400);

/// Counters that are summed over all starts of a process.
const COUNTERS: &[&str] =
    &["sluice_rebalances_total", "sluice_offset_commit_failures_total", "sluice_task_restarts_total"];

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum State {
    Up,
    /// Stopped by SIGSTOP.
    Frozen {
        until: Instant,
    },
    /// Draining after SIGTERM.
    Ending {
        since: Instant,
        away: Duration,
    },
    /// Not there.
    Away {
        until: Instant,
    },
}

/// A process, over all its starts.
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) state: State,
    sluice: Sluice,
    /// By counter: what earlier starts came to, and the last value of this one.
    counters: BTreeMap<&'static str, (u64, u64)>,
    /// Reasons why tasks were not running, as said already.
    troubles: Vec<String>,
}

impl Worker {
    /// Starts one with all connectors; returns when its REST answers.
    pub(crate) fn start(number: usize, kafka: &Kafka, store: &S3, connectors: &[Connector]) -> Result<Worker, Error> {
        let sluice = Sluice::start(|place| {
            let worker = format!(
                "bootstrap.servers = '{}'\nlisteners = 'http://127.0.0.1:{}'\nstate.dir = '{}'\n\
                 task.shutdown.graceful.timeout.ms = 15000\n",
                kafka.bootstrap(),
                place.port,
                place.directory.join("state").display()
            );
            let mut arguments = vec!["run".to_owned()];
            for connector in connectors {
                arguments.push(place.write(&format!("{}.json", connector.name), &connector.document().to_string())?);
            }
            arguments.extend(["--worker".to_owned(), place.write("worker.toml", &worker)?]);
            let environment = [
                ("AWS_ACCESS_KEY_ID", store.access_key().to_owned()),
                ("AWS_SECRET_ACCESS_KEY", store.secret_key().to_owned()),
                ("CRASH_INSTANCE", format!("worker-{number}")),
                (
                    "RUST_LOG",
                    "info,pipeline=debug,source=debug,writer=debug,delta=debug,buoyant_kernel=warn".to_owned(),
                ),
            ];
            let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
            Ok(Start { arguments, environment })
        })?;
        Ok(Worker { number, state: State::Up, sluice, counters: BTreeMap::new(), troubles: Vec::new() })
    }

    /// SIGKILL; false if there is nothing to kill.
    pub(crate) fn kill(&mut self, away: Duration) -> bool {
        if matches!(self.state, State::Away { .. }) {
            return false;
        }
        self.sluice.kill();
        self.state = State::Away { until: Instant::now() + away };
        true
    }

    /// SIGSTOP; false if it is not up.
    pub(crate) fn freeze(&mut self, frozen: Duration) -> bool {
        let is_up = self.state == State::Up;
        if is_up {
            self.sluice.pause();
            self.state = State::Frozen { until: Instant::now() + frozen };
        }
        is_up
    }

    /// SIGTERM; false if it is not up.
    pub(crate) fn stop(&mut self, away: Duration) -> bool {
        let is_up = self.state == State::Up;
        if is_up {
            self.sluice.ask_to_stop();
            self.state = State::Ending { since: Instant::now(), away };
        }
        is_up
    }

    /// Ends what has lasted long enough. An error is something the program did wrong; the process runs again after it.
    pub(crate) fn step(&mut self, trace: &Trace) -> Result<(), String> {
        let (number, ended) = (self.number, self.sluice.exit());
        match (self.state, ended) {
            (State::Up | State::Frozen { .. }, Some(code)) => {
                self.state = State::Away { until: Instant::now() };
                return Err(self.blame(&format!("ended by itself with {code}")));
            }
            (State::Frozen { until }, None) if Instant::now() >= until => {
                self.sluice.resume();
                self.state = State::Up;
                trace.say(format!("worker {number} goes on"));
            }
            (State::Ending { away, since }, Some(code)) => {
                self.state = State::Away { until: Instant::now() + away };
                trace.say(format!("worker {number} ended with {code} after {:.1?}", since.elapsed()));
                // A signal that comes before the program could listen for any ends it, before it did anything.
                if code != 0 && !(code == SIGTERM_CODE && self.sluice.log().is_empty()) {
                    return Err(self.blame(&format!("was asked to stop and ended with {code}")));
                }
            }
            (State::Ending { since, .. }, None) if since.elapsed() > STOP_LIMIT => {
                self.kill(Duration::ZERO);
                return Err(self.blame(&format!("was asked to stop and was there after {STOP_LIMIT:?}")));
            }
            (State::Away { until }, _) if Instant::now() >= until => {
                self.sluice.spawn_again().map_err(|error| self.blame(&error.to_string()))?;
                self.state = State::Up;
                trace.say(format!("worker {number} started"));
            }
            (_, _) => {}
        }
        Ok(())
    }

    /// Has it up as soon as can be: what is frozen or away waits no longer.
    pub(crate) fn hurry(&mut self) {
        let now = Instant::now();
        match &mut self.state {
            State::Frozen { until } | State::Away { until } => *until = now,
            State::Ending { away, .. } => *away = Duration::ZERO,
            State::Up => {}
        }
    }

    /// Reads its counters and the states of its tasks, unless it is not up or too busy to answer.
    pub(crate) fn look(&mut self, connectors: &[Connector], trace: &Trace) {
        if self.state != State::Up {
            return;
        }
        let Some(metrics) = self.sluice.get_within("/metrics", LOOK_LIMIT) else { return };
        let metrics = metrics.body.as_str().unwrap_or_default().to_owned();
        for &name in COUNTERS {
            let value = sum(&metrics, name);
            let (before, last) = self.counters.entry(name).or_default();
            // Less than before: the process was started again.
            if value < *last {
                *before += *last;
            }
            *last = value;
        }
        for connector in connectors {
            let path = format!("/connectors/{}/status", connector.name);
            let Some(status) = self.sluice.get_within(&path, LOOK_LIMIT) else { return };
            for task in status.body["tasks"].as_array().into_iter().flatten().filter(|task| task["trace"].is_string()) {
                let cause = task["trace"].as_str().unwrap_or_default();
                // Numbers are places and times: two causes that differ in them are one kind.
                let kind = format!("{}: {cause}", connector.name).replace(|sign: char| sign.is_ascii_digit(), "");
                if !self.troubles.contains(&kind) {
                    trace.say(format!("worker {}: {} {}: {cause}", self.number, connector.name, task["state"]));
                    self.troubles.push(kind);
                }
            }
        }
    }

    /// What a counter came to over all starts.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).map_or(0, |(before, last)| before + last)
    }

    /// What its tasks said when they failed.
    pub(crate) fn troubles(&self) -> &[String] {
        &self.troubles
    }

    /// What `/status` of each connector says, for a failure.
    pub(crate) fn status(&self, connectors: &[Connector]) -> Vec<Value> {
        let path = |connector: &Connector| format!("/connectors/{}/status", connector.name);
        connectors.iter().filter_map(|one| Some(self.sluice.get_within(&path(one), LOOK_LIMIT)?.body)).collect()
    }

    /// Where its logs are.
    pub(crate) fn directory(&self) -> String {
        self.sluice.place().directory.display().to_string()
    }

    /// A sentence about what it did, with the end of its log.
    fn blame(&self, what: &str) -> String {
        let log = self.sluice.log();
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        let tail: Vec<&str> = lines.into_iter().rev().collect();
        format!("worker {} {what}; end of its log:\n{}", self.number, tail.join("\n"))
    }
}

/// The sum of a counter over all its labels.
fn sum(metrics: &str, name: &str) -> u64 {
    let samples =
        metrics.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}
