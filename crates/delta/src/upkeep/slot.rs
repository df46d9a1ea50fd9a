//! Whose turn a job is. Time is cut into slots; whoever creates the object of a slot does the job in it. No leases that
//! somebody must renew, no clocks that must agree: where they do not, two do the same, which costs work only.

use std::time::Duration;

use bytes::Bytes;
use tracing::warn;
use writer::{Created, Error};

use crate::log::Log;

/// Where the objects of slots lie, below the table. Readers and Spark's VACUUM pass over names that begin so.
pub(crate) const DIRECTORY: &str = "_sluice/upkeep";

/// The slots of one job, as one process sees them.
pub(crate) struct Slots {
    job: &'static str,
    every_ms: i64,
    /// Tells our objects from those of others, and when in a slot we ask for it.
    owner: u64,
    /// The last one that was asked for.
    asked: Option<i64>,
    /// The last one that we got.
    won: Option<i64>,
}

impl Slots {
    pub(crate) fn new(job: &'static str, every: Duration, owner: u64) -> Slots {
        let every_ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
        Slots { job, every_ms, owner, asked: None, won: None }
    }

    fn number(&self, now_ms: i64) -> i64 {
        now_ms.div_euclid(self.every_ms)
    }

    /// How far into the slot `number` we ask for it: somewhere in its first eighth, so that turns go around.
    fn delay_ms(&self, number: i64) -> i64 {
        let eighth = (self.every_ms / 8).unsigned_abs().max(1);
        i64::try_from(mixed(self.owner ^ number.unsigned_abs()) % eighth).unwrap_or(0)
    }

    /// How long until a slot is to be asked for.
    pub(crate) fn wait(&self, now_ms: i64) -> Duration {
        let number = self.number(now_ms);
        let next = if self.asked.is_some_and(|asked| asked >= number) { number + 1 } else { number };
        let at_ms = next.saturating_mul(self.every_ms).saturating_add(self.delay_ms(next));
        Duration::from_millis(u64::try_from(at_ms.saturating_sub(now_ms)).unwrap_or(0))
    }

    /// How long the slot of now goes on.
    pub(crate) fn left(&self, now_ms: i64) -> Duration {
        let end_ms = (self.number(now_ms) + 1).saturating_mul(self.every_ms);
        Duration::from_millis(u64::try_from(end_ms.saturating_sub(now_ms)).unwrap_or(0))
    }

    fn name(&self, number: i64) -> String {
        format!("{DIRECTORY}/{}-{}-{number}", self.job, self.every_ms)
    }

    /// Whether the slot of now is ours. It is asked for once: one PUT, and one request to remove the object of the last one
    /// that was ours.
    pub(crate) async fn take(&mut self, log: &Log, now_ms: i64) -> Result<bool, Error> {
        let number = self.number(now_ms);
        if self.asked.is_some_and(|asked| asked >= number) || now_ms < number * self.every_ms + self.delay_ms(number) {
            return Ok(false);
        }
        self.asked = Some(number);
        let object = Bytes::from(format!("{:016x}\n", self.owner));
        match log.store().create(&log.key(&self.name(number)), object).await? {
            Created::New => {}
            Created::AlreadyThere => return Ok(false),
        }
        if let Some(before) = self.won.replace(number) {
            let key = log.key(&self.name(before));
            if let Err(error) = log.store().delete(std::slice::from_ref(&key)).await {
                warn!(key, %error, "could not remove a slot of upkeep that is over");
            }
        }
        Ok(true)
    }
}

/// Another number for each, and nothing of its order (SplitMix64's way of mixing).
pub(crate) fn mixed(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Whether the object `name` stands for a slot that nobody asks for any more; what dead workers leave.
pub(crate) fn is_over(name: &str, now_ms: i64) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let mut parts = file.rsplit('-').map(str::parse::<i64>);
    match (parts.next(), parts.next()) {
        (Some(Ok(number)), Some(Ok(every_ms))) if every_ms > 0 => (number + 2).saturating_mul(every_ms) < now_ms,
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_tests::store;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    fn slots(owner: u64) -> Slots {
        Slots::new("compact", Duration::from_secs(60), owner)
    }

    #[tokio::test]
    async fn a_slot_is_one_process_s_and_turns_go_around() {
        let log = Log::new(store(Arc::new(InMemory::new())), "lake/t").unwrap();
        let mut all: Vec<Slots> = (0..3).map(slots).collect();
        let mut turns = [0; 3];
        for second in 0..60 * 60 {
            for (turns, slots) in turns.iter_mut().zip(&mut all) {
                *turns += usize::from(slots.take(&log, second * 1_000).await.unwrap());
            }
        }
        assert_eq!(turns.iter().sum::<usize>(), 60);
        assert!(turns.iter().all(|turns| *turns > 5), "{turns:?}");
        let left = log.store().list("lake/t/_sluice").await.unwrap();
        assert!(left.len() <= 3, "each removes its last one: {left:?}");
        assert!(left.iter().all(|name| is_over(name, 65 * 60_000)), "{left:?}");
        assert!(left.iter().any(|name| !is_over(name, 59 * 60_000)), "{left:?}");
        assert!(!is_over("_sluice/upkeep/strange", i64::MAX));
    }

    #[test]
    fn the_next_slot_is_waited_for_once_this_one_was_asked_for() {
        let mut slots = slots(7);
        let first = slots.wait(600_000).as_millis();
        assert!(first < 7_500, "in its first eighth: {first}");
        assert_eq!(slots.wait(610_000), Duration::ZERO, "and at once when that is over");
        slots.asked = Some(10);
        let next = slots.wait(610_000).as_millis();
        assert!((50_000..57_500).contains(&next), "{next}");
        assert_eq!(slots.left(610_000), Duration::from_secs(50));
    }
}
