//! One task: started, steered, watched until it ends, started again when it failed on something transient, and stopped
//! within a deadline.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::Config;
use pipeline::{Doing, Steering, Wanted, control};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{error, info, warn};

use crate::restart::Backoff;
use crate::{Assembly, Metrics, State, TaskFailure, TaskId};

/// How long an aborted task may take to notice; one that blocks its thread never does, and is left behind.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// Where a task is between its start and its end.
#[derive(Debug, Clone)]
enum Phase {
    /// It runs.
    Runs,
    /// It failed on something transient and is started again, for the `restart`-th time in a row.
    Waits { failure: TaskFailure, restart: u32, until: Instant },
    /// It ended as it was asked to.
    Stopped,
    /// It ended by itself: everything is done that there was to do when it started.
    Finished,
    /// It did not answer to stop in time.
    Aborted,
    /// It failed for good, panicked, or ended though nobody asked.
    Failed(TaskFailure),
}

impl Phase {
    fn is_over(&self) -> bool {
        match self {
            Phase::Runs | Phase::Waits { .. } => false,
            Phase::Stopped | Phase::Finished | Phase::Aborted | Phase::Failed(_) => true,
        }
    }
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Finished,
    Stopped,
    /// With this trace.
    Failed(String),
}

/// What is asked of the task, and the attempt that hears it.
#[derive(Debug)]
struct Line {
    wanted: Wanted,
    /// `None` between two attempts.
    attempt: Option<(Steering, AbortHandle)>,
}

/// What the handle of a task and its watcher share.
#[derive(Debug)]
struct Shared {
    id: TaskId,
    line: Mutex<Line>,
    phase: watch::Sender<Phase>,
    stopping: watch::Sender<bool>,
}

/// A task that was started. Dropping it asks the task to stop, without waiting.
#[derive(Debug)]
pub(crate) struct RunningTask {
    pub(crate) id: TaskId,
    pub(crate) config: Config,
    shared: Arc<Shared>,
}

impl RunningTask {
    /// Starts the task; it begins as `wanted`. `backoff` says when it is started again, `metrics` count that.
    pub(crate) fn start(
        assembly: &Arc<dyn Assembly>,
        id: TaskId,
        config: Config,
        wanted: Wanted,
        backoff: Backoff,
        metrics: Metrics,
    ) -> Arc<RunningTask> {
        let shared = Arc::new(Shared {
            id: id.clone(),
            line: Mutex::new(Line { wanted, attempt: None }),
            phase: watch::Sender::new(Phase::Runs),
            stopping: watch::Sender::new(wanted == Wanted::Stop),
        });
        let watcher = Watcher {
            assembly: Arc::clone(assembly),
            config: config.clone(),
            shared: shared.clone(),
            backoff,
            metrics,
        };
        tokio::spawn(watcher.watch());
        Arc::new(RunningTask { id, config, shared })
    }

    /// What the task is doing, and the trace if it failed.
    pub(crate) fn state(&self) -> (State, Option<String>) {
        match &*self.shared.phase.borrow() {
            Phase::Failed(failure) => (State::Failed, Some(failure.trace.clone())),
            Phase::Stopped | Phase::Aborted => (State::Unassigned, None),
            Phase::Finished => (State::Stopped, None),
            Phase::Waits { failure, restart, until } => {
                let wait = until.saturating_duration_since(Instant::now()).as_secs_f64();
                let trace =
                    format!("{}\nit is started again in {wait:.1} s, restart {restart} in a row", failure.trace);
                (State::Restarting, Some(trace))
            }
            Phase::Runs => match self.shared.line().attempt.as_ref().map(|(steering, _)| steering.doing()) {
                None | Some(Doing::Starting) => (State::Unassigned, None),
                Some(Doing::Running) => (State::Running, None),
                Some(Doing::Paused) => (State::Paused, None),
                Some(Doing::Finished) => (State::Stopped, None),
            },
        }
    }

    /// How it ended: `None` while it goes on, or waits to be started again.
    pub(crate) fn end(&self) -> Option<Ended> {
        match &*self.shared.phase.borrow() {
            Phase::Runs | Phase::Waits { .. } => None,
            Phase::Failed(failure) => Some(Ended::Failed(failure.trace.clone())),
            Phase::Finished => Some(Ended::Finished),
            Phase::Stopped | Phase::Aborted => Some(Ended::Stopped),
        }
    }

    /// Asks the task for something else; it does so in its own time. After `Stop` nothing changes any more.
    pub(crate) fn ask(&self, wanted: Wanted) {
        self.shared.ask(wanted);
    }

    async fn ended(&self) {
        // The sender is in our own hands, so there is always an answer.
        let _ = self.shared.phase.subscribe().wait_for(Phase::is_over).await;
    }

    fn abort(&self) {
        if let Some((_, abort)) = &self.shared.line().attempt {
            abort.abort();
        }
    }
}

impl Drop for RunningTask {
    fn drop(&mut self) {
        self.ask(Wanted::Stop);
    }
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().expect("no code panics while it holds this lock")
    }

    fn ask(&self, wanted: Wanted) {
        let mut line = self.line();
        if line.wanted != Wanted::Stop {
            line.wanted = wanted;
            if let Some((steering, _)) = &line.attempt {
                steering.ask(wanted);
            }
            self.stopping.send_replace(wanted == Wanted::Stop);
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }
}

/// Runs the attempts of one task, one after the other.
struct Watcher {
    assembly: Arc<dyn Assembly>,
    config: Config,
    shared: Arc<Shared>,
    backoff: Backoff,
    metrics: Metrics,
}

impl Watcher {
    async fn watch(mut self) {
        let last = loop {
            let Some(run) = self.begin() else { break Phase::Stopped };
            let began = Instant::now();
            let result = run.await;
            let attempt = self.shared.line().attempt.take();
            let is_finished = attempt.as_ref().is_some_and(|(steering, _)| steering.doing() == Doing::Finished);
            let ended = match result {
                Ok(Ok(())) if is_finished => Phase::Finished,
                result => outcome_of(result, self.shared.is_stopping()),
            };
            let failure = match ended {
                Phase::Failed(failure) if failure.transient && !self.shared.is_stopping() => failure,
                over => break over,
            };
            let has_worked = attempt.is_some_and(|(steering, _)| steering.doing() != Doing::Starting);
            let worked = if has_worked { began.elapsed() } else { Duration::ZERO };
            let Some(wait) = self.backoff.next_wait(worked) else { break self.given_up(failure) };
            let restart = self.backoff.in_a_row();
            warn!(task = %self.shared.id, restart, wait_ms = wait.as_millis(), error = %failure.trace, "task failed on something transient, starting it again");
            let until = Instant::now() + wait;
            self.shared.phase.send_replace(Phase::Waits { failure, restart, until });
            if self.is_stopped_before(until).await {
                break Phase::Stopped;
            }
            self.metrics.restarted(&self.shared.id);
            self.shared.phase.send_replace(Phase::Runs);
        };
        report(&self.shared.id, &last);
        self.shared.phase.send_replace(last);
    }

    /// Starts one attempt, unless the task was stopped.
    fn begin(&self) -> Option<JoinHandle<Result<(), TaskFailure>>> {
        let mut line = self.shared.line();
        if line.wanted == Wanted::Stop {
            return None;
        }
        let (steering, control) = control(line.wanted);
        let (assembly, id, config) = (Arc::clone(&self.assembly), self.shared.id.clone(), self.config.clone());
        let run = tokio::spawn(async move { assembly.run_task(id, config, control).await });
        line.attempt = Some((steering, run.abort_handle()));
        Some(run)
    }

    async fn is_stopped_before(&self, until: Instant) -> bool {
        let mut stopping = self.shared.stopping.subscribe();
        tokio::select! {
            // A stop counts although it is time to start.
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => true,
            () = sleep_until(until) => false,
        }
    }

    fn given_up(&self, failure: TaskFailure) -> Phase {
        let trace = match self.backoff.in_a_row() {
            0 => failure.trace,
            restarts => {
                format!("{}\ngiven up after {restarts} restarts in a row (task.restart.attempts)", failure.trace)
            }
        };
        Phase::Failed(TaskFailure { trace, ..failure })
    }
}

/// Stops `tasks` side by side: each closes and commits its open files until `deadline`, then it is aborted.
pub(crate) async fn stop_all(tasks: &[Arc<RunningTask>], deadline: Instant) {
    for task in tasks {
        task.ask(Wanted::Stop);
    }
    let mut late = Vec::new();
    for task in tasks {
        if timeout_at(deadline, task.ended()).await.is_err() {
            warn!(task = %task.id, "task did not stop in time, aborting it; what it had not committed is read again");
            task.abort();
            late.push(task);
        }
    }
    let deadline = Instant::now() + ABORT_GRACE;
    for task in late {
        if timeout_at(deadline, task.ended()).await.is_err() {
            error!(task = %task.id, "aborted task still runs; it is left behind and its group membership will expire");
        }
    }
}

fn outcome_of(result: Result<Result<(), TaskFailure>, JoinError>, stopping: bool) -> Phase {
    match result {
        Ok(Ok(())) if stopping => Phase::Stopped,
        Ok(Ok(())) => Phase::Failed(permanent("task ended although nobody asked it to".to_owned())),
        Ok(Err(failure)) => Phase::Failed(failure),
        Err(error) if error.is_panic() => {
            Phase::Failed(permanent(format!("task panicked: {}", panic_text(error.into_panic().as_ref()))))
        }
        Err(_) => Phase::Aborted,
    }
}

fn permanent(trace: String) -> TaskFailure {
    TaskFailure { trace, transient: false }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

fn report(id: &TaskId, last: &Phase) {
    match last {
        Phase::Runs | Phase::Waits { .. } => {}
        Phase::Stopped => info!(task = %id, "task stopped"),
        Phase::Finished => info!(task = %id, "task finished"),
        Phase::Aborted => warn!(task = %id, "task aborted"),
        Phase::Failed(failure) => {
            error!(task = %id, transient = failure.transient, error = %failure.trace, "task failed, restart it over REST when the cause is gone");
        }
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
