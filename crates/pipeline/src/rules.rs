//! What becomes of records that cannot go on, and who hears of it (`errors.*`).

use std::time::Duration;

use model::Stage;
use rand::Rng;
use rand::rngs::StdRng;

/// Upstream's class of a sink's own work, as dead letters name it.
const SINK_TASK: &str = "org.apache.kafka.connect.sink.SinkTask";

/// What upstream throws at a record that cannot be converted, transformed or written ...
pub(crate) const DATA_EXCEPTION: &str = "org.apache.kafka.connect.errors.DataException";

/// ... and at one that has no path.
pub(crate) const PARTITION_EXCEPTION: &str = "io.confluent.connect.storage.errors.PartitionException";

/// Upstream's exception for a record that cannot be brought to the schema of its file.
pub(crate) const PROJECTOR_EXCEPTION: &str = "org.apache.kafka.connect.errors.SchemaProjectorException";

/// The first pause between two tries of upstream's `RetryWithToleranceOperator`.
const FIRST_DELAY: Duration = Duration::from_millis(300);

/// What becomes of a record that cannot go on (`errors.tolerance`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerance {
    /// The task stops before it.
    None,
    /// It is left out.
    All,
}

/// How much a log line about a record says (`errors.log.*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDetail {
    /// Stage and class.
    Step,
    /// Also which record it is, and what is wrong with it.
    Record,
}

/// Upstream's classes of the converters, as dead letters name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConverterClasses {
    /// Of keys.
    pub key: &'static str,
    /// Of values.
    pub value: &'static str,
    /// Of headers.
    pub header: &'static str,
}

/// How long a lane itself tries again what may be over by itself, before its task ends (`errors.retry.*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRules {
    /// For so long; `None` without end.
    pub timeout: Option<Duration>,
    /// The longest pause between two tries.
    pub delay_max: Duration,
}

/// What becomes of records that cannot go on, and who hears of it.
#[derive(Debug, Clone)]
pub struct ErrorRules {
    /// Whether they stop the task.
    pub tolerance: Tolerance,
    /// What is tried again.
    pub retry: RetryRules,
    /// Whether each is written to the log.
    pub log: Option<LogDetail>,
    /// Whether dead letters say what is wrong.
    pub context_headers: bool,
    /// Whether records without a value that are left out are reported as others are.
    pub reports_null_values: bool,
    /// Who converts.
    pub classes: ConverterClasses,
}

impl ErrorRules {
    /// `tolerance`, upstream's defaults for the rest, and JSON.
    pub fn of(tolerance: Tolerance) -> ErrorRules {
        let json = "org.apache.kafka.connect.json.JsonConverter";
        ErrorRules {
            tolerance,
            retry: RetryRules { timeout: Some(Duration::ZERO), delay_max: Duration::from_secs(60) },
            log: None,
            context_headers: false,
            reports_null_values: true,
            classes: ConverterClasses {
                key: json,
                value: json,
                header: "org.apache.kafka.connect.storage.SimpleHeaderConverter",
            },
        }
    }

    /// Upstream's class of who refuses a record at `stage`.
    pub(crate) fn class(&self, stage: Stage) -> &'static str {
        match stage {
            Stage::KeyConverter => self.classes.key,
            Stage::ValueConverter => self.classes.value,
            Stage::HeaderConverter => self.classes.header,
            Stage::Transformation(class) => class,
            Stage::TaskPut => SINK_TASK,
        }
    }
}

impl RetryRules {
    /// The pause after the `failures`th failure in a row, `elapsed` after the first try; `None` when the time is over. It
    /// doubles, and from the second one on up to half of it is left to chance, so that lanes do not come back together.
    pub(crate) fn delay(&self, failures: u32, elapsed: Duration, rng: &mut StdRng) -> Option<Duration> {
        let left = match self.timeout {
            Some(timeout) => timeout.checked_sub(elapsed).filter(|left| !left.is_zero())?,
            None => Duration::MAX,
        };
        let doubled = FIRST_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(24)).min(self.delay_max);
        let delay = if failures > 1 { doubled.mul_f64(rng.random_range(0.5..=1.0)) } else { doubled };
        Some(delay.min(left))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn rules(timeout_ms: Option<u64>, delay_max_ms: u64) -> RetryRules {
        RetryRules { timeout: timeout_ms.map(Duration::from_millis), delay_max: Duration::from_millis(delay_max_ms) }
    }

    #[test]
    fn the_first_pause_is_300_ms_and_none_goes_past_the_end() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut delay = |rules: RetryRules, failures, elapsed_ms| {
            rules.delay(failures, Duration::from_millis(elapsed_ms), &mut rng).map(|delay| delay.as_millis())
        };
        assert_eq!(delay(rules(Some(0), 60_000), 1, 0), None, "the default tries nothing again");
        assert_eq!(delay(rules(Some(5_000), 60_000), 1, 0), Some(300));
        assert_eq!(delay(rules(Some(5_000), 100), 1, 0), Some(100));
        assert_eq!(delay(rules(Some(5_000), 60_000), 9, 4_990), Some(10));
        assert_eq!(delay(rules(Some(5_000), 60_000), 9, 5_000), None);
        assert_eq!(delay(rules(None, 60_000), 1, 1 << 40), Some(300));
    }

    proptest! {
        #[test]
        fn pauses_double_up_to_the_longest(failures in 2u32..2_000, delay_max_ms in 1u64..100_000, seed: u64) {
            let mut rng = StdRng::seed_from_u64(seed);
            let delay = rules(None, delay_max_ms).delay(failures, Duration::ZERO, &mut rng).unwrap();
            let most = Duration::from_millis(300u64.saturating_mul(1 << (failures - 1).min(24)).min(delay_max_ms));
            prop_assert!(delay <= most && delay >= most.mul_f64(0.49), "{delay:?} of {most:?}");
        }
    }
}
