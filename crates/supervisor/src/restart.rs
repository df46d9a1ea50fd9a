//! When a task that failed is started again: full-jitter exponential backoff, as `task.restart.*` say.

use std::time::Duration;

use model::{Config, Invalid, Settings};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::keys::{TASK_RESTART_ATTEMPTS, TASK_RESTART_BACKOFF_MAX_MS, TASK_RESTART_BACKOFF_MS, TASK_RESTART_ENABLE};

/// Doublings after which any bound is longer than every sensible `task.restart.backoff.max.ms`.
const DOUBLINGS_MAX: u32 = 31;

/// How often and how soon a task is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RestartRules {
    /// Bound of the first wait; doubles with each restart in a row.
    backoff: Duration,
    /// Bound of every wait.
    backoff_max: Duration,
    /// Restarts in a row; `None` for no limit.
    attempts: Option<u32>,
}

impl RestartRules {
    /// What a task's configuration says. A value that is a reference to a secret is not resolved here: the default holds.
    pub(crate) fn of(config: &Config) -> RestartRules {
        let given = RestartRules::read(&Settings::new(config.clone()));
        given.or_else(|_| RestartRules::read(&Settings::new(Config::new()))).expect("the defaults are valid")
    }

    fn read(settings: &Settings) -> Result<RestartRules, Invalid> {
        let attempts =
            if settings.boolean(&TASK_RESTART_ENABLE)? { settings.long(&TASK_RESTART_ATTEMPTS)? } else { 0 };
        Ok(RestartRules {
            backoff: settings.millis(&TASK_RESTART_BACKOFF_MS)?.unwrap_or_default(),
            backoff_max: settings.millis(&TASK_RESTART_BACKOFF_MAX_MS)?.unwrap_or_default(),
            attempts: u32::try_from(attempts).ok(),
        })
    }
}

/// The restarts of one task.
#[derive(Debug)]
pub(crate) struct Backoff {
    rules: RestartRules,
    in_a_row: u32,
    rng: StdRng,
}

impl Backoff {
    /// No restart yet; `seed` draws the waits.
    pub(crate) fn new(rules: RestartRules, seed: u64) -> Backoff {
        Backoff { rules, in_a_row: 0, rng: StdRng::seed_from_u64(seed) }
    }

    /// Restarts since the task worked well.
    pub(crate) fn in_a_row(&self) -> u32 {
        self.in_a_row
    }

    /// The task failed after it had `worked` for some time: how long to wait before it is started again; `None` when it
    /// was started again often enough.
    pub(crate) fn next_wait(&mut self, worked: Duration) -> Option<Duration> {
        if worked >= self.rules.backoff_max * 2 {
            self.in_a_row = 0;
        }
        if self.rules.attempts.is_some_and(|attempts| self.in_a_row >= attempts) {
            return None;
        }
        let doubled = self.rules.backoff.saturating_mul(1 << self.in_a_row.min(DOUBLINGS_MAX));
        self.in_a_row = self.in_a_row.saturating_add(1);
        Some(self.rng.random_range(Duration::ZERO..=doubled.min(self.rules.backoff_max)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(pairs: &[(&str, &str)]) -> RestartRules {
        RestartRules::of(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn rules_are_read_from_the_task() {
        let ms = Duration::from_millis;
        let default = RestartRules { backoff: ms(1_000), backoff_max: ms(60_000), attempts: None };
        assert_eq!(rules(&[]), default);
        assert_eq!(rules(&[("task.restart.enable", "false")]), RestartRules { attempts: Some(0), ..default });
        let given = rules(&[
            ("task.restart.attempts", "3"),
            ("task.restart.backoff.ms", "5"),
            ("task.restart.backoff.max.ms", "7"),
        ]);
        assert_eq!(given, RestartRules { backoff: ms(5), backoff_max: ms(7), attempts: Some(3) });
        assert_eq!(rules(&[("task.restart.attempts", "${env:N}")]), default);
    }

    #[test]
    fn waits_are_drawn_below_a_bound_that_doubles_up_to_the_longest() {
        let mut longest = [Duration::ZERO; 10];
        for seed in 0..500 {
            let mut backoff = Backoff::new(rules(&[]), seed);
            for longest in &mut longest {
                *longest = (*longest).max(backoff.next_wait(Duration::from_secs(119)).unwrap());
            }
        }
        for (bound_s, longest) in [1, 2, 4, 8, 16, 32, 60, 60, 60, 60].into_iter().zip(longest) {
            let bound = Duration::from_secs(bound_s);
            assert!(longest <= bound && longest > bound.mul_f64(0.9), "{longest:?} of {bound:?}");
        }
        let mut backoff = Backoff::new(rules(&[]), 1);
        assert!((0..10_000).all(|_| backoff.next_wait(Duration::ZERO).is_some_and(|wait| wait.as_secs() <= 60)));
    }

    #[test]
    fn a_task_that_worked_well_begins_anew_and_one_that_never_does_is_given_up() {
        let mut backoff = Backoff::new(rules(&[("task.restart.attempts", "2")]), 1);
        let worked: Vec<bool> =
            [0, 0, 0, 119, 120, 0, 0].map(|s| backoff.next_wait(Duration::from_secs(s)).is_some()).into();
        assert_eq!(worked, [true, true, false, false, true, true, false]);
        assert_eq!(backoff.in_a_row(), 2);
        assert_eq!(Backoff::new(rules(&[("task.restart.enable", "false")]), 1).next_wait(Duration::MAX), None);
    }
}
