//! Lanes whose next offset the broker refused while they were read: they are moved to where the log goes on.

use super::*;
use std::collections::BTreeMap;

use crate::lost::{Known, Lost};
use crate::{Assigned, DataLoss};

/// How often lanes that cannot be read are looked at: a broker that changes its mind does not keep us busy.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// librdkafka ends the reading of a lane in its own time, and with it the short way of its messages to us.
const FORWARD_TIME: Duration = Duration::from_secs(5);

/// What is on its way to be read again.
#[derive(Default)]
pub(super) struct Adrift {
    /// The lanes, and whether records that were read already were cut away and may be others by now.
    lanes: BTreeMap<TopicPartition, bool>,
    looked: Option<Instant>,
    /// Lanes that were started again, and when.
    restarted: Vec<(TopicPartition, Instant)>,
    /// Lanes were started again, and a rebalance that began before may not have been heard of: librdkafka took our call
    /// for its answer, so what it revokes may have gone to others already.
    pub(super) is_doubtful: bool,
}

impl Adrift {
    pub(super) fn note(&mut self, lane: TopicPartition, is_cut: bool) {
        *self.lanes.entry(lane).or_default() |= is_cut;
    }

    /// Lets the messages of lanes that were started again come the short way.
    pub(super) fn forward(&mut self, native: &Native) {
        for (lane, _) in &self.restarted {
            native.forward(lane);
        }
        self.restarted.retain(|(_, since)| since.elapsed() < FORWARD_TIME);
    }
}

impl Poll {
    /// Moves lanes that are adrift to where their logs go on, if that is allowed; else the source fails.
    pub(super) fn moor(&mut self, native: &Native) -> Flow {
        let waits = self.adrift.looked.is_some_and(|looked| looked.elapsed() < LOOK_INTERVAL);
        if self.adrift.lanes.is_empty() || self.is_over || waits {
            return Flow::Continue;
        }
        self.adrift.looked = Some(Instant::now());
        let adrift = std::mem::take(&mut self.adrift.lanes);
        let held = self.collector.lanes.all.iter().filter(|lane| adrift.contains_key(&lane.topic_partition));
        let next = |lane: &Lane| Offset::new(lane.next).unwrap_or(Offset::ZERO);
        let lanes: Vec<(TopicPartition, Offset)> =
            held.map(|lane| (lane.topic_partition.clone(), next(lane))).collect();
        let is_cut = |lane: &TopicPartition| adrift.get(lane).copied().unwrap_or(false);
        match self.goals(native, &lanes, is_cut) {
            Ok(goals) => self.move_lanes(native, &lanes, goals),
            // The command takes this consumer away.
            Err(Stopped::Command) => Flow::Continue,
            Err(Stopped::Failed(error)) => {
                self.fail(error);
                Flow::Continue
            }
        }
    }

    /// Where each of `lanes` goes on, which is where it is when its log holds that; `None` when that cannot be said now.
    fn goals(
        &self,
        native: &Native,
        lanes: &[(TopicPartition, Offset)],
        is_cut: impl Fn(&TopicPartition) -> bool,
    ) -> Result<Vec<Option<Offset>>, Stopped> {
        let group = self.shared.config.group();
        let starts = Starts { native, shared: &self.shared };
        let names: Vec<TopicPartition> = lanes.iter().map(|(lane, _)| lane.clone()).collect();
        let logs = starts.logs(&names)?;
        let (mut goals, mut lost_ones) = (Vec::with_capacity(lanes.len()), Vec::new());
        for (index, ((lane, at), log)) in lanes.iter().zip(&logs).enumerate() {
            let ends = log.ends();
            goals.push(ends.map(|_| *at));
            if let Some(lost) = ends.and_then(|ends| Lost::new(lane, *at, Known::Read, ends)) {
                starts.may_lose(&lost, "")?;
                lost_ones.push((index, lost));
            } else if is_cut(lane) {
                if self.shared.config.on_data_loss == DataLoss::Fail {
                    return Err(Stopped::Failed(Error::OffsetLost(format!(
                        "the log of {lane} was cut below offset {at}, up to which it was read for consumer group {group} \
                         (an unclean leader election): other records may be there now; set on.data.loss=continue to go \
                         on, or set the position with sluice offsets",
                    ))));
                }
                tracing::warn!(%lane, group, next = %at, "the log was cut below what was read, going on");
            } else if ends.is_some() {
                tracing::warn!(%lane, group, next = %at, "the broker refused an offset that it has, asking again");
            }
        }
        let indexes: Vec<usize> = lost_ones.iter().map(|(index, _)| *index).collect();
        for ((index, lost), goal) in lost_ones.iter().zip(starts.resets(&indexes, &names, &logs)?) {
            lost.warn(group, goal, "");
            goals[*index] = Some(goal);
        }
        Ok(goals)
    }

    /// Forward, a lane goes on over the gap. Backward, it is taken away and comes again: it is another log.
    fn move_lanes(&mut self, native: &Native, lanes: &[(TopicPartition, Offset)], goals: Vec<Option<Offset>>) -> Flow {
        let mut back = Vec::new();
        let mut moved = HashMap::new();
        for ((lane, at), goal) in lanes.iter().zip(goals) {
            match goal {
                None => self.adrift.note(lane.clone(), false),
                Some(goal) => {
                    moved.insert(lane.clone(), goal);
                    if goal < *at {
                        back.push(Assigned {
                            topic_partition: lane.clone(),
                            start: goal,
                            until: self.shared.until(lane, goal),
                            metadata: String::new(),
                            committed: false,
                        });
                    }
                }
            }
        }
        if moved.is_empty() {
            return Flow::Continue;
        }
        let gone: HashSet<TopicPartition> = back.iter().map(|one| one.topic_partition.clone()).collect();
        if !gone.is_empty() && self.hand_back(&gone, true) {
            return Flow::Renew;
        }
        let shared = Arc::clone(&self.shared);
        self.collector.lanes.change(|all| {
            for lane in all.iter_mut() {
                if let Some(goal) = moved.get(&lane.topic_partition) {
                    lane.move_to(*goal, &shared);
                }
            }
            all.extend(back.iter().map(|one| Lane::new(one.topic_partition.clone(), one.start)));
        });
        if !back.is_empty() {
            // Another log is another topic's, most likely.
            let lanes: Vec<TopicPartition> = gone.into_iter().collect();
            let starts = Starts { native, shared: &self.shared };
            let ids = starts.topic_ids(&lanes, false).unwrap_or_default();
            self.shared.note_topic_ids(&lanes, &ids);
            if let Err(Stopped::Failed(error)) = starts.take_back(&back, &ids) {
                self.fail(error);
                return Flow::Continue;
            }
            self.shared.hand_out(back);
        }
        self.restart(native, &moved);
        Flow::Continue
    }

    fn restart(&mut self, native: &Native, moved: &HashMap<TopicPartition, Offset>) {
        // Under the eager protocol only everything can be started again.
        let all = !native.is_cooperative();
        let mut list = List::new();
        self.adrift.restarted.clear();
        for lane in &self.collector.lanes.all {
            if all || moved.contains_key(&lane.topic_partition) {
                list.add(&lane.topic_partition, lane.next, "");
                self.adrift.restarted.push((lane.topic_partition.clone(), Instant::now()));
            }
        }
        if let Err(error) = native.restart(&list) {
            return self.fail(Error::Unavailable(format!("could not start reading again: {error}")));
        }
        self.adrift.is_doubtful = true;
        native.pause(&List::of(self.shared.paused().iter()));
    }
}
