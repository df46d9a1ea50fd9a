//! Chance and orders: what becomes of each request to the store and of each commit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use source::{Commit, CommitFate, Letter, LetterFate};
use writer::{Fate, Request};

use crate::actions::REQUESTS;

type StoreOrders = Box<dyn FnMut(Request, &str) -> Fate + Send>;
type LetterOrders = Box<dyn FnMut(&[Letter]) -> LetterFate + Send>;
type CommitOrders = Box<dyn FnMut(&[Commit]) -> CommitFate + Send>;

/// The one who decides about requests. Fine weather until somebody says otherwise.
#[derive(Clone)]
pub(crate) struct Weather(Arc<Mutex<State>>);

struct State {
    rng: StdRng,
    /// How likely a request to the store, and a commit, goes wrong.
    storm: Option<(f64, f64)>,
    store_orders: Option<StoreOrders>,
    commit_orders: Option<CommitOrders>,
    letter_orders: Option<LetterOrders>,
    /// Letters have a chance of their own, so that worlds without bad records stay what they are.
    letter_rng: StdRng,
}

impl Weather {
    pub(crate) fn new(seed: u64) -> Weather {
        let (rng, letter_rng) = (StdRng::seed_from_u64(seed), StdRng::seed_from_u64(!seed));
        Weather(Arc::new(Mutex::new(State {
            rng,
            storm: None,
            store_orders: None,
            commit_orders: None,
            letter_orders: None,
            letter_rng,
        })))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().expect("no panic holds it"))
    }

    /// From now on requests go wrong with these likelihoods; `None` for fine weather.
    pub(crate) fn storm(&self, likelihoods: Option<(f64, f64)>) {
        self.with(|state| state.storm = likelihoods);
    }

    /// Somebody who decides about each request to the store, instead of chance.
    pub(crate) fn order_store(&self, orders: impl FnMut(Request, &str) -> Fate + Send + 'static) {
        self.with(|state| state.store_orders = Some(Box::new(orders)));
    }

    /// Somebody who decides about each commit, instead of chance.
    pub(crate) fn order_commits(&self, orders: impl FnMut(&[Commit]) -> CommitFate + Send + 'static) {
        self.with(|state| state.commit_orders = Some(Box::new(orders)));
    }

    /// Somebody who decides about each attempt to write dead letters, instead of chance.
    pub(crate) fn order_letters(&self, orders: impl FnMut(&[Letter]) -> LetterFate + Send + 'static) {
        self.with(|state| state.letter_orders = Some(Box::new(orders)));
    }

    /// No more orders and no more storm.
    pub(crate) fn clear(&self) {
        self.with(|state| {
            (state.storm, state.store_orders, state.commit_orders, state.letter_orders) = (None, None, None, None);
        });
    }

    /// A number below `bound`.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.with(|state| state.rng.random_range(0..bound))
    }

    pub(crate) fn of_store(&self, request: Request, key: &str) -> Fate {
        self.with(|state| match (&mut state.store_orders, state.storm) {
            (Some(orders), _) => orders(request, key),
            (None, Some((likelihood, _))) if state.rng.random_bool(likelihood * weight(request)) => {
                store_fate(&mut state.rng, request)
            }
            (None, _) => Fate::Fine,
        })
    }

    pub(crate) fn of_letters(&self, letters: &[Letter]) -> LetterFate {
        self.with(|state| match (&mut state.letter_orders, state.storm) {
            (Some(orders), _) => orders(letters),
            (None, Some((store, commits))) if state.letter_rng.random_bool((2.0 * (store + commits)).min(0.8)) => {
                letter_fate(&mut state.letter_rng)
            }
            (None, _) => LetterFate::Acknowledge,
        })
    }

    pub(crate) fn of_commit(&self, commits: &[Commit]) -> CommitFate {
        self.with(|state| match (&mut state.commit_orders, state.storm) {
            (Some(orders), _) => orders(commits),
            (None, Some((_, likelihood))) if state.rng.random_bool(likelihood) => commit_fate(&mut state.rng),
            (None, _) => CommitFate::Apply,
        })
    }
}

fn letter_fate(rng: &mut StdRng) -> LetterFate {
    match rng.random_range(0..3) {
        0 => LetterFate::AcknowledgeLate(millis(rng, 3_000)),
        1 => LetterFate::WriteLate(millis(rng, 5_000)),
        _ => LetterFate::Lose(millis(rng, 3_000)),
    }
}

fn millis(rng: &mut StdRng, most: u64) -> Duration {
    Duration::from_millis(rng.random_range(1..=most))
}

/// An upload has many parts and one end: both shall go wrong now and then.
fn weight(request: Request) -> f64 {
    match request {
        Request::PutPart => 0.1,
        Request::CompleteUpload => 3.3,
        Request::AbortUpload => 2.0,
        Request::Put | Request::CreateUpload | Request::Get | Request::Head => 1.0,
        Request::List | Request::Delete | Request::Copy => 1.0,
    }
}

fn store_fate(rng: &mut StdRng, request: Request) -> Fate {
    let conflicts = REQUESTS.iter().any(|(one, conflicts)| *one == request && *conflicts);
    match rng.random_range(0..8) {
        0 => Fate::FailBefore,
        1 | 2 => Fate::FailAfter,
        3 => Fate::Hang,
        4 | 5 => Fate::HangThenHappen(millis(rng, 15_000)),
        6 => Fate::Slow(millis(rng, 1_500)),
        _ if conflicts && rng.random_bool(0.5) => Fate::Conflict,
        _ => Fate::Throttled,
    }
}

fn commit_fate(rng: &mut StdRng) -> CommitFate {
    match rng.random_range(0..6) {
        0 => CommitFate::ApplyAfter(millis(rng, 3_000)),
        1 => CommitFate::Refuse,
        2 => CommitFate::LoseReportUnknown,
        3 => CommitFate::ApplyReportUnknown,
        _ => CommitFate::DelayReportUnknown(Some(millis(rng, 10_000))),
    }
}
