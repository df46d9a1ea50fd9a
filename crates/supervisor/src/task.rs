//! One running task: started, steered, watched until it ends, and stopped within a deadline.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::Config;
use pipeline::{Doing, Steering, Wanted, control};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError};
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

use crate::{Assembly, State, TaskFailure, TaskId};

/// How long an aborted task may take to notice; one that blocks its thread never does, and is left behind.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// How a task ended.
#[derive(Debug, Clone)]
enum Outcome {
    /// As it was asked to.
    Stopped,
    /// It did not answer to stop in time.
    Aborted,
    /// It failed, panicked, or ended though nobody asked.
    Failed(TaskFailure),
}

/// A task that was started. Dropping it asks the task to stop, without waiting.
#[derive(Debug)]
pub(crate) struct RunningTask {
    pub(crate) id: TaskId,
    pub(crate) config: Config,
    steering: Steering,
    stopping: Arc<AtomicBool>,
    abort: AbortHandle,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl RunningTask {
    /// Starts the task; it begins as `wanted`.
    pub(crate) fn start(assembly: &Arc<dyn Assembly>, id: TaskId, config: Config, wanted: Wanted) -> Arc<RunningTask> {
        let (steering, control) = control(wanted);
        let run = tokio::spawn({
            let (assembly, id, config) = (Arc::clone(assembly), id.clone(), config.clone());
            async move { assembly.run_task(id, config, control).await }
        });
        let abort = run.abort_handle();
        let stopping = Arc::new(AtomicBool::new(false));
        let (sender, outcome) = watch::channel(None);
        tokio::spawn({
            let (id, stopping) = (id.clone(), Arc::clone(&stopping));
            async move {
                let outcome = outcome_of(run.await, stopping.load(Ordering::Acquire));
                report(&id, &outcome);
                sender.send_replace(Some(outcome));
            }
        });
        Arc::new(RunningTask { id, config, steering, stopping, abort, outcome })
    }

    /// What the task is doing, and the trace if it failed.
    pub(crate) fn state(&self) -> (State, Option<String>) {
        match &*self.outcome.borrow() {
            Some(Outcome::Failed(failure)) => (State::Failed, Some(failure.trace.clone())),
            Some(Outcome::Stopped | Outcome::Aborted) => (State::Unassigned, None),
            None => match self.steering.doing() {
                Doing::Starting => (State::Unassigned, None),
                Doing::Running => (State::Running, None),
                Doing::Paused => (State::Paused, None),
            },
        }
    }

    /// Asks the task for something else; it does so in its own time.
    pub(crate) fn ask(&self, wanted: Wanted) {
        if wanted == Wanted::Stop {
            self.stopping.store(true, Ordering::Release);
        }
        self.steering.ask(wanted);
    }

    async fn ended(&self) {
        // An error means that the watcher is gone, which happens with the whole runtime only.
        let _ = self.outcome.clone().wait_for(Option::is_some).await;
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
            task.abort.abort();
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

fn outcome_of(result: Result<Result<(), TaskFailure>, JoinError>, stopping: bool) -> Outcome {
    match result {
        Ok(Ok(())) if stopping => Outcome::Stopped,
        Ok(Ok(())) => Outcome::Failed(permanent("task ended although nobody asked it to".to_owned())),
        Ok(Err(failure)) => Outcome::Failed(failure),
        Err(error) if error.is_panic() => {
            Outcome::Failed(permanent(format!("task panicked: {}", panic_text(error.into_panic().as_ref()))))
        }
        Err(_) => Outcome::Aborted,
    }
}

fn permanent(trace: String) -> TaskFailure {
    TaskFailure { trace, transient: false }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// A transient failure is the place where a restart with backoff begins; today every failure waits for somebody.
fn report(id: &TaskId, outcome: &Outcome) {
    match outcome {
        Outcome::Stopped => info!(task = %id, "task stopped"),
        Outcome::Aborted => warn!(task = %id, "task aborted"),
        Outcome::Failed(failure) => {
            error!(task = %id, transient = failure.transient, error = %failure.trace, "task failed, restart it over REST when the cause is gone");
        }
    }
}
