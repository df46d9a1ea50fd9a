//! Whether anything is left to read of what was there when a source started, for a source that ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use model::{Offset, TopicPartition};

use crate::Error;
use crate::code::{Code, fatal};
use crate::kafka::Shared;
use crate::native::{Ends, List, Native};

/// How long the broker is asked.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where a topic-partition of the first look is now.
struct Progress {
    /// The end of its log as it was then.
    until: Offset,
    /// What the group has committed.
    committed: Option<Offset>,
    /// Its log.
    ends: Ends,
}

impl Progress {
    /// Whether everything that was there is read, by the account of the `authority` or else of the group. What they say past
    /// the log is of another log, on which whoever has the topic-partition fails.
    fn is_done(&self, authority: Option<Offset>) -> bool {
        match authority.or(self.committed) {
            Some(at) => (self.until.get()..=self.ends.end).contains(&at.get()),
            None => self.until.get() <= self.ends.begin,
        }
    }
}

/// As [`crate::Source::is_exhausted`].
pub(crate) async fn is_exhausted(shared: &Arc<Shared>) -> Result<bool, Error> {
    if !shared.config.bounds.until_end {
        return Ok(false);
    }
    let asking = Arc::clone(shared);
    let progress = match tokio::task::spawn_blocking(move || progress(&asking)).await {
        Ok(progress) => progress?,
        Err(error) => return Err(Error::Unavailable(format!("the question what is left was cut short: {error}"))),
    };
    let Some(progress) = progress else { return Ok(false) };
    let mut authority = HashMap::new();
    if let Some(recovery) = shared.config.recovery.as_ref().filter(|recovery| recovery.is_authority()) {
        let lanes: Vec<TopicPartition> = progress.iter().map(|(lane, _)| lane.clone()).collect();
        let found = recovery.recover(&lanes, &BTreeMap::new()).await?;
        authority.extend(found.into_iter().map(|one| (one.topic_partition, one.start)));
    }
    Ok(progress.iter().all(|(lane, progress)| progress.is_done(authority.get(lane).copied())))
}

/// How far each topic-partition of the first look is; `None` while nobody can say. Blocks.
fn progress(shared: &Shared) -> Result<Option<Vec<(TopicPartition, Progress)>>, Error> {
    let Some(look) = shared.first_look.get() else { return Ok(None) };
    if look.ends.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let lanes: Vec<TopicPartition> = look.ends.keys().cloned().collect();
    let ask = |native: &Native| -> Result<_, Code> {
        let mut list = List::of(&lanes);
        native.committed(&mut list, TIMEOUT)?;
        let entries = list.entries();
        entries.iter().try_for_each(|entry| entry.code.result())?;
        Ok((entries, native.ends(&lanes, TIMEOUT)?))
    };
    let (entries, ends) = match shared.with_native(ask) {
        Some(Ok(found)) => found,
        Some(Err(code)) => {
            let what = format!("could not read how far consumer group {} is", shared.config.group());
            return fatal(code, &what, "refused").map_or(Ok(None), Err);
        }
        None => return Ok(None),
    };
    let progress = entries.into_iter().zip(ends).zip(look.ends.values()).map(|((entry, ends), until)| {
        let committed = Offset::new(entry.offset);
        (entry.topic_partition, Progress { until: *until, committed, ends })
    });
    Ok(Some(progress.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_partition_is_done_where_the_table_or_the_group_says_so() {
        let at = |offset: Option<i64>| offset.and_then(Offset::new);
        let cases = [
            // (begin, until, end), committed, by the authority: done
            ((0, 5, 5), Some(5), None, true),
            ((0, 5, 9), Some(7), None, true),
            ((0, 5, 5), Some(4), None, false),
            ((0, 5, 5), None, None, false),
            ((5, 5, 5), None, None, true),
            ((0, 0, 3), None, None, true),
            // The table was restored: its word counts.
            ((0, 5, 5), Some(5), Some(2), false),
            ((0, 5, 5), None, Some(5), true),
            // Another log.
            ((0, 5, 5), Some(8), None, false),
        ];
        for ((begin, until, end), committed, authority, expected) in cases {
            let until = Offset::new(until).unwrap();
            let progress = Progress { until, committed: at(committed), ends: Ends { begin, end } };
            assert_eq!(progress.is_done(at(authority)), expected, "{begin} {until} {end} {committed:?} {authority:?}");
        }
    }
}
