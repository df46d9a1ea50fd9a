//! What a task does about memory: asks lanes to hold less, stops reading, and lets one replay read on when nothing else
//! can make room.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use model::TopicPartition;
use tokio::time::Instant;
use tracing::warn;

use super::Loop;
use super::lanes::LaneHandle;
use crate::Wanted;
use crate::lane::ToLane;

/// Raw batches that wait in lanes; more stay in the source.
const READ_AHEAD_BYTES: usize = 8 * 1024 * 1024;

/// A replay that grew by less than this since it was asked to hold less is not asked again.
const GROWTH_BYTES_MIN: usize = 1024 * 1024;

/// For so long nothing must have moved before a replay reads on although memory is full.
const STANDSTILL: Duration = Duration::from_millis(500);

/// Who is asked to hold less, and who alone may read.
#[derive(Debug, Default)]
pub(super) struct Relief {
    /// The lane that was asked and has not answered, and what it held then.
    asked: Option<(u64, usize)>,
    /// Reading has stopped and only replays hold memory, since then.
    standstill_since: Option<Instant>,
    /// The replay that reads on although memory is full. The source gives nothing for the others.
    sole: Option<u64>,
}

impl Relief {
    pub(super) fn forget(&mut self, lane: u64) {
        self.asked = self.asked.filter(|(asked, _)| *asked != lane);
    }
}

impl LaneHandle {
    fn held(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Whether asking it to hold less may help. A replay can only encode its rows and send parts, it must not cut; and
    /// what a lane holds back until its schema is known goes only by itself.
    fn can_shrink(&self) -> bool {
        let held = self.held();
        match self.replay {
            None => held > 0 && held != self.shrunk_to_bytes,
            Some(_) => held >= self.shrunk_to_bytes + GROWTH_BYTES_MIN,
        }
    }

    /// Whether all it has is a replay that waits for records.
    fn only_waits_for_records(&self) -> bool {
        self.queued_bytes == 0 && !self.can_shrink() && self.ledger.is_visible()
    }
}

impl Loop {
    pub(super) fn may_read(&self) -> bool {
        let queued: usize = self.lanes.values().map(|lane| lane.queued_bytes).sum();
        queued < READ_AHEAD_BYTES && (!self.task.budget.is_tight() || self.relief.sole.is_some())
    }

    /// Asks the lane that holds most to hold less, one at a time. What is on its way to the store counts as gone: else a
    /// slow store would have every lane cut.
    pub(super) fn relieve(&mut self) {
        if self.relief.asked.is_some() || !self.task.budget.wants_relief() {
            return;
        }
        let shrinking = self.lanes.iter().filter(|(_, lane)| lane.can_shrink());
        if let Some((number, lane)) = shrinking.max_by_key(|(_, lane)| lane.held()) {
            let _ = lane.to_lane.send(ToLane::Relieve);
            self.relief.asked = Some((*number, lane.held()));
        }
    }

    pub(super) fn on_relieved(&mut self, number: u64) {
        let held_before = self.relief.asked.take().map_or(0, |(_, held)| held);
        if let Some(lane) = self.lanes.get_mut(&number) {
            let held = lane.held();
            // Who could shrink and may cut can be asked again.
            lane.shrunk_to_bytes = if lane.replay.is_none() && held < held_before { 0 } else { held };
        }
    }

    /// Replays must reach their recorded end, so several of them may fill the memory before any can be published. Then
    /// the one that lacks fewest records reads on alone, over the budget if need be; its memory is free when it is done.
    pub(super) fn look_for_a_standstill(&mut self) {
        if let Some(sole) = self.relief.sole {
            if self.lanes.get(&sole).is_some_and(|lane| lane.replay.is_some()) {
                return;
            }
            self.relief.sole = None;
            self.steer_source();
        }
        let is_standstill = self.wanted == Wanted::Run
            && self.task.budget.is_tight()
            && self.relief.asked.is_none()
            && self.lanes.values().any(|lane| lane.replay.is_some())
            && self.lanes.values().all(LaneHandle::only_waits_for_records);
        if !is_standstill {
            self.relief.standstill_since = None;
            return;
        }
        let since = *self.relief.standstill_since.get_or_insert_with(Instant::now);
        if since.elapsed() < STANDSTILL {
            return;
        }
        self.relief.standstill_since = None;
        let missing = |lane: &LaneHandle| lane.replay.map(|range| range.end().get() - lane.ledger.received_to().get());
        let replays = self.lanes.iter().filter_map(|(number, lane)| Some((*number, missing(lane)?)));
        self.relief.sole = replays.min_by_key(|(_, missing)| *missing).map(|(number, _)| number);
        if let Some(lane) = self.relief.sole.and_then(|sole| self.lanes.get(&sole)) {
            let budget = &self.task.budget;
            warn!(topic_partition = %lane.topic_partition, used_bytes = budget.used(), limit_bytes = budget.limit(),
                "memory is full of cuts that are made again: this one goes on alone, raise memory.budget.bytes");
        }
        self.steer_source();
    }

    /// Tells the source for which lanes it should deliver records.
    pub(super) fn steer_source(&self) {
        let mut by_wish: BTreeMap<bool, Vec<TopicPartition>> = BTreeMap::new();
        for (number, lane) in &self.lanes {
            let is_let = self.relief.sole.is_none_or(|sole| sole == *number);
            let reads = self.wanted != Wanted::Pause && is_let && lane.wants_records();
            by_wish.entry(reads).or_default().push(lane.topic_partition.clone());
        }
        for (reads, partitions) in by_wish {
            // Also what was never paused here: it may have been paused on its way out, when it was ours before.
            if reads { self.task.source.resume(&partitions) } else { self.task.source.pause(&partitions) }
        }
    }
}
