//! Worlds from seeds: many of them, the same one twice, and worlds in which the protocol is broken on purpose.
//!
//! That the oracles bite is shown by two bends of the protocol: without plans, and with unknown commits that are said
//! again instead of a new membership, some world goes wrong. If the pipeline lost either rule by accident, the worlds of
//! [`every_world_ends_with_each_record_once`] would go wrong in the same way.

use crate::play::{Outcome, play};
use crate::scene::Scene;
use crate::taps::Bend;

/// Seeds of `cargo test`; `SLUICE_SIM_SEEDS` asks for more.
const SEEDS: u64 = 200;

/// Seeds that find a defect which was there: records that a replay took though they had been left out before (83, 196),
/// the end of a topic that was never committed (86), a lane that was assigned again beside its older self (322), one that
/// was paused on its way out and never read again (7273). They are played every time; when [`Scene::draw`] changes they
/// become other worlds, and the directed tests remain.
const REGRESSIONS: &[u64] = &[83, 86, 196, 322, 7273];

/// Seeds after which a broken protocol must have been noticed.
const SEEDS_TO_NOTICE: u64 = 300;

#[expect(clippy::disallowed_methods, reason = "a test is told how much to do")]
fn asked(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What to print of a world that went wrong.
fn report(seed: u64, outcome: &Outcome, lines: usize) -> String {
    let from = outcome.trace.len().saturating_sub(lines);
    format!(
        "{}\n{}\n  {}\nplay it alone: SLUICE_SIM_SEED={seed} cargo test -p tests --test sim every_world",
        Scene::draw(seed, Bend::Not).summary(),
        outcome.trace[from..].join("\n"),
        outcome.wrong.join("\n  "),
    )
}

#[test]
fn every_world_ends_with_each_record_once() {
    if let Some(seed) = asked("SLUICE_SIM_SEED") {
        let outcome = play(seed, Bend::Not);
        assert!(outcome.wrong.is_empty(), "{}", report(seed, &outcome, usize::MAX));
        return;
    }
    let seeds = 0..asked("SLUICE_SIM_SEEDS").unwrap_or(SEEDS);
    let mut failed = Vec::new();
    for seed in REGRESSIONS.iter().copied().chain(seeds) {
        let outcome = play(seed, Bend::Not);
        if !outcome.wrong.is_empty() {
            failed.push((seed, outcome));
        }
        if failed.len() == 10 {
            break;
        }
    }
    let Some((seed, outcome)) = failed.first() else { return };
    let all: Vec<String> = failed.iter().map(|(seed, outcome)| format!("{seed}: {}", outcome.wrong[0])).collect();
    panic!("{}\nworlds that went wrong:\n  {}", report(*seed, outcome, 80), all.join("\n  "));
}

#[test]
fn the_same_seed_twice_is_the_same_world() {
    for seed in [3, 17, 40] {
        let (one, two) = (play(seed, Bend::Not), play(seed, Bend::Not));
        let differs = one.trace.iter().zip(&two.trace).position(|(one, two)| one != two);
        if let Some(line) = differs {
            panic!("seed {seed}, line {line}:\n{}\n{}", one.trace[line], two.trace[line]);
        }
        assert_eq!(one.trace.len(), two.trace.len(), "seed {seed}");
    }
}

fn first_wrong(bend: Bend) -> Option<u64> {
    (0..SEEDS_TO_NOTICE).find(|seed| !play(*seed, bend).wrong.is_empty())
}

#[test]
fn without_plans_some_world_goes_wrong() {
    assert!(first_wrong(Bend::NoPlans).is_some(), "nobody needs plans?");
}

#[test]
fn with_unknown_commits_said_again_some_world_goes_wrong() {
    assert!(first_wrong(Bend::RepeatUnknown).is_some(), "nobody needs to rejoin?");
}
