//! What the source gave for a lane, on its way to it: at once, or when the pace allows it; and the end of a task that has one.

use std::pin::Pin;
use std::time::Duration;

use model::{CutReason, Offset, RawBatch};
use tokio::time::Instant;
use tracing::info;

use super::Loop;
use super::lanes::LaneHandle;
use crate::lane::ToLane;
use crate::{Budget, Share, TaskError, Wanted};

/// What a batch weighs beside its bytes, raw and later as columns: arrays have headers and their buffers are rounded up.
const BATCH_BYTES: usize = 4096;

/// How often the source is asked whether anything is left.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Records, or the news that there are none.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are records")]
#[derive(Debug)]
pub(super) enum Incoming {
    /// Records, and their part of the memory budget.
    Records(RawBatch, Share),
    /// No record before this offset is left to come.
    Position(Offset),
}

impl Incoming {
    pub(super) fn records(raw: RawBatch, budget: &std::sync::Arc<Budget>) -> Incoming {
        let share = budget.share();
        share.resize(raw.bytes() + BATCH_BYTES);
        Incoming::Records(raw, share)
    }

    /// Offset after the last one that it tells of.
    pub(super) fn end(&self) -> Option<Offset> {
        match self {
            Incoming::Records(raw, _) => raw.offsets.last().copied().and_then(Offset::new).map(Offset::next),
            Incoming::Position(next) => Some(*next),
        }
    }
}

impl LaneHandle {
    /// The offset that it may be given records up to.
    fn bound(&self) -> Option<Offset> {
        self.until.into_iter().chain(self.allowed_to).min()
    }

    /// Whether the source should deliver: it has an end that was not reached, and nothing waits.
    pub(super) fn wants_records(&self) -> bool {
        !self.is_over && self.waiting.is_empty()
    }

    fn give(&mut self, incoming: Incoming) {
        if let Some(end) = incoming.end() {
            self.ledger.received(end);
        }
        let told = match incoming {
            Incoming::Records(raw, share) => {
                self.queued_bytes += raw.bytes();
                ToLane::Records(raw, share)
            }
            Incoming::Position(next) => ToLane::Position(next),
        };
        let _ = self.to_lane.send(told);
    }
}

impl Loop {
    /// Takes what the source gave for lane `number`.
    pub(super) fn take(&mut self, number: u64, incoming: Incoming) {
        let Some(lane) = self.lanes.get_mut(&number).filter(|lane| !lane.is_over) else { return };
        let Some(bound) = lane.bound() else { return lane.give(incoming) };
        let is_within = lane.waiting.is_empty() && incoming.end().is_some_and(|end| end < bound);
        if is_within {
            return lane.give(incoming);
        }
        lane.waiting.push_back(incoming);
        if self.pace.is_some() {
            self.keep_pace();
        }
        self.deliver(number);
    }

    /// Gives lane `number` what it may have of what waits for it, and closes it when it is at its end.
    pub(super) fn deliver(&mut self, number: u64) {
        let budget = self.task.budget.clone();
        let Some(lane) = self.lanes.get_mut(&number).filter(|lane| !lane.is_over) else { return };
        let bound = lane.bound().unwrap_or(Offset::MAX);
        while let Some(first) = lane.waiting.pop_front() {
            match first {
                Incoming::Records(raw, share) => {
                    let within = raw.offsets.partition_point(|offset| *offset < bound.get());
                    if within == raw.len() {
                        lane.give(Incoming::Records(raw, share));
                        continue;
                    }
                    let rest = raw.slice(within, raw.len() - within);
                    if within > 0 {
                        lane.give(Incoming::records(raw.slice(0, within), &budget));
                        share.resize(rest.bytes() + BATCH_BYTES);
                    }
                    lane.waiting.push_front(Incoming::Records(rest, share));
                    break;
                }
                Incoming::Position(next) if next <= bound => lane.give(Incoming::Position(next)),
                Incoming::Position(next) => {
                    lane.waiting.push_front(Incoming::Position(next));
                    break;
                }
            }
        }
        // What waits at the end lies past it: nothing before it is left to come.
        let is_at_end =
            |until: Offset| lane.ledger.received_to() >= until || (bound >= until && !lane.waiting.is_empty());
        if let Some(until) = lane.until.filter(|until| is_at_end(*until)) {
            if lane.ledger.received_to() < until {
                lane.give(Incoming::Position(until));
            }
            lane.waiting.clear();
            lane.is_over = true;
            let _ = lane.to_lane.send(ToLane::Close(CutReason::Drain));
        }
        if lane.is_held == lane.wants_records() {
            lane.is_held = !lane.is_held;
            self.steer_source();
        }
    }
}

/// What the source answers.
type Answer = Pin<Box<dyn Future<Output = Result<bool, source::Error>> + Send>>;

/// How a task finds out that it is done.
#[derive(Default)]
pub(super) struct Finish {
    asking: Option<Answer>,
    asked: Option<Instant>,
    /// Nothing is left.
    pub(super) is_reached: bool,
}

impl Finish {
    pub(super) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Waits for the answer.
    pub(super) async fn answer(&mut self) -> Result<bool, source::Error> {
        let answer = match &mut self.asking {
            Some(asking) => asking.await,
            None => std::future::pending().await,
        };
        self.asking = None;
        answer
    }
}

impl Loop {
    /// Asks the source whether anything is left, for any member of the group, when this one has nothing more to do.
    pub(super) fn ask_for_the_end(&mut self) {
        let is_idle = self.lanes.is_empty() && self.releasing.is_empty() && self.drain_until.is_none();
        let is_due = self.finish.asked.is_none_or(|asked| asked.elapsed() >= ASK_INTERVAL);
        if !self.task.until_end || !is_idle || !is_due || self.wanted != Wanted::Run || self.finish.is_asking() {
            return;
        }
        self.finish.asked = Some(Instant::now());
        let source = self.task.source.clone();
        self.finish.asking = Some(Box::pin(async move { source.is_exhausted().await }));
    }

    pub(super) fn on_exhausted(&mut self, answer: Result<bool, source::Error>) -> Result<(), TaskError> {
        match answer {
            Ok(true) if self.lanes.is_empty() && self.wanted == Wanted::Run => {
                info!("everything that was there at the start is committed, the task ends");
                self.finish.is_reached = true;
                self.drain();
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => self.fail(TaskError::from(error)),
        }
    }
}
