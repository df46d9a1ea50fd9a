//! Who hears of a lane's records that cannot go on: the dead letter topic, the log and the counters.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, BinaryArray};
use model::{Headers, RawBatch, Rejected};
use source::{DeadLetters, Letter};
use tokio::time::Instant;
use tracing::{error, warn};

use crate::rules::LogDetail;
use crate::{Clock, ErrorRules, Share, TaskError, TaskMetrics};

/// What the names of headers about an error begin with (`DeadLetterQueueReporter`).
const HEADER_PREFIX: &str = "__connect.errors.";

/// Above so many bytes of letters that are not acknowledged a lane waits for them. One batch more may be on top.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// What a letter weighs beside its bytes.
const LETTER_BYTES: usize = 256;

/// Lines about single records that a lane writes to the log in a second.
const LINES_MAX: u32 = 100;

type Writing = Pin<Box<dyn Future<Output = Result<(), source::Error>> + Send>>;

/// The reports of one lane. Letters are written in order, those that come while others are under way together after them.
/// Dropping it drops what waits: its records are read again, for nothing that covers them is committed before.
pub(crate) struct Reporter {
    rules: ErrorRules,
    metrics: TaskMetrics,
    clock: Arc<dyn Clock>,
    dead_letters: Option<Arc<dyn DeadLetters>>,
    /// The batch whose records are reported now; `None` when nobody must hear of them.
    batch: Option<RawBatch>,
    waiting: Vec<Letter>,
    writing: Option<Writing>,
    waiting_bytes: usize,
    writing_bytes: usize,
    share: Share,
    lines: Lines,
}

impl Reporter {
    pub(crate) fn new(
        rules: ErrorRules,
        metrics: TaskMetrics,
        clock: Arc<dyn Clock>,
        dead_letters: Option<Arc<dyn DeadLetters>>,
        share: Share,
    ) -> Reporter {
        // A letter goes by itself when the broker takes it: no lane need make room for it.
        share.leave();
        Reporter {
            rules,
            metrics,
            clock,
            dead_letters,
            batch: None,
            waiting: Vec::new(),
            writing: None,
            waiting_bytes: 0,
            writing_bytes: 0,
            share,
            lines: Lines { since: Instant::now(), written: 0, left_out: 0 },
        }
    }

    /// Whether anybody hears of single records.
    pub(crate) fn is_heard(&self) -> bool {
        self.dead_letters.is_some() || self.rules.log.is_some()
    }

    /// From now on records of `raw` are reported, unless it `is_replayed`: who read them first reported them, and made the
    /// plan only when that was done.
    pub(crate) fn begin(&mut self, raw: &RawBatch, is_replayed: bool) {
        self.batch = (self.is_heard() && !is_replayed).then(|| raw.clone());
    }

    /// Counts records that cannot go on.
    pub(crate) fn count(&self, rejected: &[Rejected], are_skipped: bool) {
        self.metrics.rejected(rejected, are_skipped, self.clock.now_ms());
    }

    /// Reports a record of the batch. `exception` is what upstream would have thrown.
    pub(crate) fn report(&mut self, rejected: &Rejected, exception: &str) {
        let Some(raw) = &self.batch else { return };
        let Ok(row) = raw.offsets.binary_search(&rejected.at.offset.get()) else { return };
        let class = self.rules.class(rejected.stage);
        if let Some(detail) = self.rules.log
            && self.lines.may_write()
        {
            log(detail, &self.metrics, rejected, class, raw.timestamps_ms[row]);
            self.metrics.error_logged();
        }
        if self.dead_letters.is_none() {
            return;
        }
        let mut letter = Letter {
            at: rejected.at.clone(),
            key: bytes_at(&raw.keys, row),
            value: bytes_at(&raw.values, row),
            timestamp_ms: raw.timestamps_ms[row],
            headers: raw.headers.as_ref().map_or_else(Headers::new, |all| all[row].clone()),
        };
        if self.rules.context_headers {
            letter.headers.extend(context(&self.metrics, rejected, class, exception));
        }
        self.metrics.letters_sent(1);
        self.waiting_bytes += letter.bytes() + LETTER_BYTES;
        self.waiting.push(letter);
        self.count_memory();
    }

    /// Whether some letter is not acknowledged yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.writing.is_some() || !self.waiting.is_empty()
    }

    /// Waits for the next acknowledgement. An error when the topic cannot be written to. Cancel-safe.
    pub(crate) async fn answered(&mut self) -> Result<(), TaskError> {
        let (Some(topic), true) = (&self.dead_letters, self.is_waiting()) else { return Ok(()) };
        if self.writing.is_none() {
            let (topic, letters) = (topic.clone(), std::mem::take(&mut self.waiting));
            self.writing_bytes = std::mem::take(&mut self.waiting_bytes);
            self.writing = Some(Box::pin(async move { topic.write(letters).await }));
        }
        if let Some(writing) = &mut self.writing {
            let outcome = writing.await;
            (self.writing, self.writing_bytes) = (None, 0);
            self.count_memory();
            if let Err(error) = outcome {
                self.metrics.letters_failed(1);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Waits until every letter is acknowledged.
    pub(crate) async fn settled(&mut self) -> Result<(), TaskError> {
        while self.is_waiting() {
            self.answered().await?;
        }
        Ok(())
    }

    /// After a batch: waits until letters take little memory, and none while others need it.
    pub(crate) async fn make_room(&mut self) -> Result<(), TaskError> {
        self.batch = None;
        while self.waiting_bytes + self.writing_bytes > WAITING_BYTES_MAX
            || (self.is_waiting() && self.share.is_tight())
        {
            self.answered().await?;
        }
        Ok(())
    }

    fn count_memory(&self) {
        self.share.resize(self.waiting_bytes + self.writing_bytes);
    }
}

fn bytes_at(column: &BinaryArray, row: usize) -> Option<Vec<u8>> {
    column.is_valid(row).then(|| column.value(row).to_vec())
}

/// The headers that Kafka Connect adds, in its order. There are no frames of Java's stack to tell.
fn context<'a>(
    metrics: &TaskMetrics,
    rejected: &Rejected,
    class: &'a str,
    exception: &'a str,
) -> impl Iterator<Item = (String, Option<Vec<u8>>)> + use<'a> {
    let Rejected { at, stage, reason, .. } = rejected;
    let headers = [
        ("topic", at.topic_partition.topic.to_string()),
        ("partition", at.topic_partition.partition.to_string()),
        ("offset", at.offset.get().to_string()),
        ("connector.name", metrics.connector().to_owned()),
        ("task.id", metrics.number().to_string()),
        ("stage", stage.as_str().to_owned()),
        ("class.name", class.to_owned()),
        ("exception.class.name", exception.to_owned()),
        ("exception.message", reason.clone()),
        ("exception.stacktrace", format!("{exception}: {reason}\n")),
    ];
    headers.into_iter().map(|(name, text)| (format!("{HEADER_PREFIX}{name}"), Some(text.into_bytes())))
}

/// One line about one record, as upstream's `LogReporter` says it.
fn log(detail: LogDetail, metrics: &TaskMetrics, rejected: &Rejected, class: &str, timestamp_ms: i64) {
    let Rejected { at, stage, reason, .. } = rejected;
    let (stage, task) = (stage.as_str(), format!("{}-{}", metrics.connector(), metrics.number()));
    match detail {
        LogDetail::Step => error!(task, stage, class, "Error encountered in task"),
        LogDetail::Record => {
            let (topic, partition, offset) = (&at.topic_partition.topic, at.topic_partition.partition, at.offset);
            error!(task, stage, class, %topic, partition, %offset, timestamp = timestamp_ms, error = reason,
                "Error encountered in task");
        }
    }
}

/// How many lines were written of late.
struct Lines {
    since: Instant,
    written: u32,
    left_out: u64,
}

impl Lines {
    /// Whether one more may be written; says how many were not.
    fn may_write(&mut self) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            if self.left_out > 0 {
                warn!(lines = self.left_out, "more errors than are written to the log");
            }
            *self = Lines { since: Instant::now(), written: 0, left_out: 0 };
        }
        let may = self.written < LINES_MAX;
        self.written += u32::from(may);
        self.left_out += u64::from(!may);
        may
    }
}

#[cfg(test)]
mod tests {
    use model::{Offset, RawBatchBuilder, Stage, TopicPartition};
    use proptest::prelude::*;
    use source::{LetterFate, MemoryDeadLetters};

    use super::*;
    use crate::rules::DATA_EXCEPTION;
    use crate::{Budget, Metrics, SystemClock, Tolerance};

    fn raw(rows: i64, bytes: usize) -> RawBatch {
        let mut builder = RawBatchBuilder::new(TopicPartition::new("t", 0), 8, 8);
        for offset in 0..rows {
            builder.push(Offset::new(offset).unwrap(), 0, None, Some(&vec![b'x'; bytes]), Headers::new());
        }
        builder.finish()
    }

    fn rejected(raw: &RawBatch, row: usize) -> Rejected {
        Rejected { row, at: raw.position(row), stage: Stage::ValueConverter, reason: "bad".to_owned() }
    }

    fn reporter(topic: &MemoryDeadLetters, budget: &Arc<Budget>) -> Reporter {
        let (rules, metrics) = (ErrorRules::of(Tolerance::All), Metrics::default().task("c", 0));
        Reporter::new(rules, metrics, Arc::new(SystemClock), Some(Arc::new(topic.clone())), budget.share())
    }

    #[tokio::test(start_paused = true)]
    async fn records_of_a_replay_are_not_reported() {
        let (topic, budget) = (MemoryDeadLetters::default(), Budget::new(1 << 20));
        let (mut reporter, raw) = (reporter(&topic, &budget), raw(2, 1));
        reporter.begin(&raw, true);
        reporter.report(&rejected(&raw, 0), DATA_EXCEPTION);
        assert!(!reporter.is_waiting());
        reporter.begin(&raw, false);
        reporter.report(&rejected(&raw, 1), DATA_EXCEPTION);
        reporter.settled().await.unwrap();
        assert_eq!(topic.letters().iter().map(|letter| letter.at.offset.get()).collect::<Vec<_>>(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_waits_when_letters_take_much_memory_or_others_need_it() {
        let (topic, budget) = (MemoryDeadLetters::default(), Budget::new(8 << 20));
        topic.set_fates(|_| LetterFate::AcknowledgeLate(Duration::from_secs(7)));
        let (mut reporter, raw) = (reporter(&topic, &budget), raw(2, 600_000));
        let others = budget.share();
        for (rows, others_bytes, waits) in [(1, 0, false), (2, 0, true), (1, 7 << 20, true)] {
            others.resize(others_bytes);
            let began = Instant::now();
            reporter.begin(&raw, false);
            (0..rows).for_each(|row| reporter.report(&rejected(&raw, row), DATA_EXCEPTION));
            reporter.make_room().await.unwrap();
            assert_eq!(began.elapsed() == Duration::from_secs(7), waits, "{rows} letters");
            reporter.settled().await.unwrap();
        }
        drop(reporter);
        assert_eq!(budget.used(), 7 << 20, "letters give back what they took");
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_limited_by_the_second() {
        let mut lines = Lines { since: Instant::now(), written: 0, left_out: 0 };
        let mut written = |times: usize| (0..times).filter(|_| lines.may_write()).count();
        assert_eq!((written(90), written(90)), (90, 10));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(written(1), 1);
    }

    proptest! {
        #[test]
        fn letters_come_once_each_and_in_order_whatever_becomes_of_an_attempt(
            steps in proptest::collection::vec((1usize..4, 0u8..4, 0u8..5), 1..20),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (topic, budget) = (MemoryDeadLetters::default(), Budget::new(1 << 20));
                let mut fates: Vec<u8> = steps.iter().map(|(_, _, fate)| *fate).collect();
                topic.set_fates(move |_| match fates.pop() {
                    Some(0) => LetterFate::Lose(Duration::from_secs(1)),
                    Some(1) => LetterFate::WriteLate(Duration::from_secs(1)),
                    Some(2) => LetterFate::AcknowledgeLate(Duration::from_secs(1)),
                    _ => LetterFate::Acknowledge,
                });
                let total: usize = steps.iter().map(|(count, _, _)| count).sum();
                let (mut reporter, raw) = (reporter(&topic, &budget), raw(total as i64, 1));
                reporter.begin(&raw, false);
                let mut next = 0;
                for (count, wait, _) in &steps {
                    for row in next..next + count {
                        reporter.report(&rejected(&raw, row), DATA_EXCEPTION);
                    }
                    next += count;
                    match wait {
                        0 => {}
                        // Given up on before the answer is there, as a lane does that gets records meanwhile.
                        1 => drop(tokio::time::timeout(Duration::from_millis(1), reporter.answered()).await),
                        2 => reporter.answered().await.unwrap(),
                        _ => reporter.settled().await.unwrap(),
                    }
                }
                reporter.settled().await.unwrap();
                assert!(!reporter.is_waiting());
                let offsets: Vec<i64> = topic.letters().iter().map(|letter| letter.at.offset.get()).collect();
                assert_eq!(offsets, (0..total as i64).collect::<Vec<_>>());
                assert_eq!((topic.acknowledged().len(), budget.used()), (total, 0));
            });
        }
    }
}
