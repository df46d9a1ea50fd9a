//! How much a task reads in a time: `maxOffsetsPerTrigger` of Spark's Kafka source.

use std::time::Duration;

use model::Offset;

use super::Loop;
use super::incoming::Incoming;

/// At most so many offsets in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaceRules {
    /// Offsets of all topic-partitions of the task together, from 1.
    pub offsets_max: u64,
    /// Length of a period; one begins whenever the wall clock passes a multiple of it.
    pub period: Duration,
}

/// Where a task is in the current period.
#[derive(Debug)]
pub(super) struct Pace {
    rules: PaceRules,
    /// Number of the period.
    period: Option<i64>,
    /// Offsets that no lane has been allowed yet.
    left: u64,
}

impl Pace {
    pub(super) fn new(rules: PaceRules) -> Pace {
        Pace { rules, period: None, left: 0 }
    }

    /// Whether a new period has begun.
    fn begins(&mut self, now_ms: i64) -> bool {
        let length_ms = i64::try_from(self.rules.period.as_millis()).unwrap_or(i64::MAX).max(1);
        let period = Some(now_ms.div_euclid(length_ms));
        let is_new = std::mem::replace(&mut self.period, period) != period;
        if is_new {
            self.left = self.rules.offsets_max;
        }
        is_new
    }
}

/// Deals out `left` offsets to lanes in proportion to how many wait in each, but never none to one that has some: as
/// `KafkaMicroBatchStream.rateLimit` of Spark 4.0 does.
fn shares(left: u64, waiting: &[u64]) -> Vec<u64> {
    let total: f64 = waiting.iter().map(|offsets| *offsets as f64).sum();
    let share = |offsets: &u64| match (left, *offsets) {
        (0, _) | (_, 0) => 0,
        (left, offsets) => {
            let exact = left as f64 * (offsets as f64 / total);
            let whole = if exact < 1.0 { exact.ceil() } else { exact.floor() };
            (whole as u64).min(offsets)
        }
    };
    waiting.iter().map(share).collect()
}

impl Loop {
    /// Allows each lane its share of what may still be read in this period.
    pub(super) fn keep_pace(&mut self) {
        let now_ms = self.task.clock.now_ms();
        let Some(pace) = &mut self.pace else { return };
        if pace.begins(now_ms) {
            // What was not used up before is void.
            self.lanes.values_mut().for_each(|lane| lane.allowed_to = Some(lane.ledger.received_to()));
        }
        if pace.left == 0 {
            return;
        }
        let source = &self.task.source;
        let hungry = self.lanes.iter_mut().filter(|(_, lane)| {
            !lane.is_over && (lane.allowed_to <= Some(lane.ledger.received_to()) || !lane.waiting.is_empty())
        });
        let mut lanes: Vec<_> = hungry.collect();
        let waiting: Vec<u64> = lanes
            .iter()
            .map(|(_, lane)| {
                let here = lane.waiting.back().and_then(Incoming::end);
                let there = source.end_offset(&lane.topic_partition);
                // Nobody knows how many before the first answer: then one is enough to find out.
                let end = here.max(there).map_or(lane.ledger.received_to().get() + 1, |end| end.get());
                let end = lane.until.map_or(end, |until| end.min(until.get()));
                u64::try_from(end - lane.allowed_to.map_or(0, |allowed| allowed.get())).unwrap_or(0)
            })
            .collect();
        let mut fed = Vec::new();
        for ((number, lane), share) in lanes.iter_mut().zip(shares(pace.left, &waiting)) {
            if share > 0 {
                let further = |allowed: Offset| allowed.get().saturating_add_unsigned(share);
                lane.allowed_to = lane.allowed_to.and_then(|allowed| Offset::new(further(allowed)));
                pace.left = pace.left.saturating_sub(share);
                fed.push(**number);
            }
        }
        for number in fed {
            self.deliver(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lanes_get_shares_in_proportion_and_none_starves() {
        let cases: &[(u64, &[u64], &[u64])] = &[
            (100, &[500, 500], &[50, 50]),
            (100, &[900, 100], &[90, 10]),
            (10, &[1_000_000, 1], &[9, 1]),
            (10, &[3, 4], &[3, 4]),
            (1, &[5, 5, 5], &[1, 1, 1]),
            (0, &[5], &[0]),
            (7, &[0, 9], &[0, 7]),
            (7, &[], &[]),
        ];
        for (left, waiting, expected) in cases {
            assert_eq!(shares(*left, waiting), *expected, "{left} {waiting:?}");
        }
    }

    proptest! {
        #[test]
        fn no_more_than_the_limit_is_dealt_out_but_for_one_each(left in 0u64..1_000_000, waiting in prop::collection::vec(0u64..1_000_000_000, 0..50)) {
            let shares = shares(left, &waiting);
            prop_assert!(shares.iter().sum::<u64>() <= left + waiting.len() as u64);
            prop_assert!(shares.iter().zip(&waiting).all(|(share, waiting)| share <= waiting));
            prop_assert!(left == 0 || shares.iter().zip(&waiting).all(|(share, waiting)| (*share > 0) == (*waiting > 0)));
        }
    }

    #[test]
    fn periods_are_multiples_of_their_length() {
        let mut pace = Pace::new(PaceRules { offsets_max: 5, period: Duration::from_secs(60) });
        assert!(pace.begins(61_000) && pace.left == 5);
        pace.left = 0;
        assert!(!pace.begins(119_999) && pace.left == 0);
        assert!(pace.begins(120_000) && pace.left == 5);
    }
}
