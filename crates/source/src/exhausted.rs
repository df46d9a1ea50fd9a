//! Whether anything is left to read of what was there when a source started, for a source that ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use model::Offset;

use crate::Error;
use crate::code::{Code, fatal};
use crate::kafka::Shared;
use crate::native::{Ends, List, Native};

/// How long the broker is asked.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A member that was given nothing for so long is one too many: before, what the group holds may be older than what an
/// authority says, and whoever is assigned a topic-partition sets that right.
pub(crate) const ASSIGNMENT_GRACE: Duration = Duration::from_secs(10);

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
    /// Whether everything that was there is read. An offset past the log is of another log, on which whoever has the
    /// topic-partition fails.
    fn is_done(&self) -> bool {
        match self.committed {
            Some(at) => (self.until.get()..=self.ends.end).contains(&at.get()),
            None => self.until.get() <= self.ends.begin,
        }
    }
}

/// As [`crate::Source::is_exhausted`].
pub(crate) async fn is_exhausted(shared: &Arc<Shared>) -> Result<bool, Error> {
    let was_assigned = shared.was_assigned.load(Ordering::SeqCst) || shared.started.elapsed() >= ASSIGNMENT_GRACE;
    if !shared.config.bounds.until_end || !was_assigned {
        return Ok(false);
    }
    let asking = Arc::clone(shared);
    let progress = match tokio::task::spawn_blocking(move || progress(&asking)).await {
        Ok(progress) => progress?,
        Err(error) => return Err(Error::Unavailable(format!("the question what is left was cut short: {error}"))),
    };
    Ok(progress.is_some_and(|progress| progress.iter().all(Progress::is_done)))
}

/// How far each topic-partition of the first look is; `None` while nobody can say. Blocks.
fn progress(shared: &Shared) -> Result<Option<Vec<Progress>>, Error> {
    let Some(look) = shared.first_look.get() else { return Ok(None) };
    if look.ends.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let ask = |native: &Native| -> Result<_, Code> {
        let mut list = List::of(look.ends.keys());
        native.committed(&mut list, TIMEOUT)?;
        let entries = list.entries();
        entries.iter().try_for_each(|entry| entry.code.result())?;
        let lanes: Vec<_> = look.ends.keys().cloned().collect();
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
    let progress = entries.into_iter().zip(ends).zip(look.ends.values()).map(|((entry, ends), until)| Progress {
        until: *until,
        committed: Offset::new(entry.offset),
        ends,
    });
    Ok(Some(progress.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_partition_is_done_where_the_group_says_so() {
        for ((begin, until, end), committed, expected) in [
            ((0, 5, 5), Some(5), true),
            ((0, 5, 9), Some(7), true),
            ((0, 5, 5), Some(4), false),
            ((0, 5, 5), None, false),
            ((5, 5, 5), None, true),
            ((0, 0, 3), None, true),
            // Another log.
            ((0, 5, 5), Some(8), false),
        ] {
            let until = Offset::new(until).unwrap();
            let progress = Progress { until, committed: committed.and_then(Offset::new), ends: Ends { begin, end } };
            assert_eq!(progress.is_done(), expected, "{begin} {until} {end} {committed:?}");
        }
    }
}
