//! How a ring runs: bring up what the selected tests need, run them, take everything down.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::future::Future;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::process::{announce, environment};
use crate::{Error, Need, stop_all};

/// A test that takes longer counts as failed; the ring goes on.
const TEST_LIMIT: Duration = Duration::from_secs(300);

/// Tests wait for other processes most of the time, so more of them run side by side than there are cores.
const TESTS_AT_ONCE: usize = 8;

/// What a test returns; any error converts by `?`.
pub type Outcome = Result<(), Box<dyn StdError + Send + Sync>>;

/// A test of a ring.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// Scenario and outcome: `revoke_while_uploading_does_not_commit`.
    pub name: &'static str,
    /// Must be there for the test to run.
    pub needs: &'static [Need],
    /// Fails by an error or a panic. Runs side by side with other tests.
    pub run: fn() -> Outcome,
}

/// The main function of a ring. Takes the arguments of `cargo test`: filters, `--exact`, `--list`, `--test-threads`.
pub fn main(tests: &[Test]) -> ExitCode {
    main_within(tests, TEST_LIMIT)
}

/// As [`main`], with another time after which a test counts as failed.
pub fn main_within(tests: &[Test], limit: Duration) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TESTS_AT_ONCE);
    let missing = if arguments.list { BTreeMap::new() } else { resolve_needs(&arguments, tests) };
    let trials = tests.iter().map(|&test| trial(test, limit, find_missing(&test, &missing))).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    stop_all();
    report_missing(&missing);
    conclusion.exit_code()
}

/// Runs async code of a test, on a runtime of its own with two threads.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs only threads")
        .block_on(future)
}

/// Resolves side by side what the selected tests need; returns what could not be had.
fn resolve_needs(arguments: &Arguments, tests: &[Test]) -> BTreeMap<Need, Error> {
    let needs: BTreeSet<Need> = tests
        .iter()
        .filter(|test| !arguments.is_filtered_out(&trial(**test, TEST_LIMIT, None)))
        .flat_map(|test| test.needs.iter().copied())
        .collect();
    thread::scope(|scope| {
        let resolving: Vec<_> = needs.iter().map(|&need| (need, scope.spawn(move || need.resolve()))).collect();
        let mut missing = BTreeMap::new();
        for (need, resolved) in resolving {
            if let Err(error) = resolved.join().expect("resolving a need does not panic") {
                missing.insert(need, error);
            }
        }
        missing
    })
}

fn find_missing(test: &Test, missing: &BTreeMap<Need, Error>) -> Option<Error> {
    test.needs.iter().find_map(|need| missing.get(need)).cloned()
}

fn report_missing(missing: &BTreeMap<Need, Error>) {
    for (need, error) in missing {
        announce(&format!("\n*** TESTS THAT NEED {need:?} DID NOT RUN: {error}\n"));
    }
}

fn trial(test: Test, limit: Duration, missing: Option<Error>) -> Trial {
    Trial::ignorable_test(test.name, move || match missing {
        None => run(test, limit).map(|()| Completion::Completed),
        Some(Error::Unavailable { what, why }) if may_ignore() => {
            let reason = why.lines().next().unwrap_or_default();
            Ok(Completion::ignored_with(format!("no {what}: {reason}")))
        }
        Some(error) => Err(Failed::from(error)),
    })
}

/// CI must not pass without its services. Nor may a run by nextest: it would show an ignored test as passed.
fn may_ignore() -> bool {
    environment("CI").is_none_or(|value| value == "false") && environment("NEXTEST").is_none()
}

fn run(test: Test, limit: Duration) -> Result<(), Failed> {
    let (done, outcome) = mpsc::channel();
    thread::Builder::new()
        .name(test.name.to_owned())
        .spawn(move || {
            let _ = done.send(catch_unwind(test.run));
        })
        .map_err(Failed::from)?;
    match outcome.recv_timeout(limit) {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(Failed::from(error)),
        Ok(Err(panic)) => Err(Failed::from(panic_message(panic.as_ref()))),
        Err(_) => Err(Failed::from(format!("was not done after {limit:?}"))),
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("no message"))
}
