//! Worlds from seeds: many of them, the same one twice, and what has happened in them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::actions::{Action, Tally};
use crate::bends::Bend;
use crate::oracle::Wrong;
use crate::play::{Outcome, play};
use crate::scene::Scene;

/// Seeds of `cargo test`; `SLUICE_SIM_SEEDS` asks for more.
const SEEDS: u64 = 200;

/// Seeds of `cargo test -- --ignored`.
const MANY: u64 = 20_000;

/// Seeds that found a defect once. They are played every time; when [`Scene::draw`] changes they become other worlds, and
/// the directed tests remain.
const REGRESSIONS: &[u64] = &[8671, 9754, 11934];

/// Worlds that go wrong after which no more are played.
const ENOUGH: usize = 10;

#[expect(clippy::disallowed_methods, reason = "a test is told how much to do")]
fn asked(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What many worlds came to.
#[derive(Default)]
struct Sum {
    failed: Vec<(u64, Outcome)>,
    tally: Tally,
}

/// Plays `seeds` on all cores; each world is alone on its thread.
fn play_all(seeds: &[u64]) -> Sum {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut sum = Sum::default();
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let outcome = play(*seed, Bend::Not);
            sum.tally.add(&outcome.tally);
            if !outcome.wrong.is_empty() {
                sum.failed.push((*seed, outcome));
            }
            if sum.failed.len() == ENOUGH {
                next.store(seeds.len() as u64, Ordering::Relaxed);
            }
        }
        sum
    };
    let mut all = Sum::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let sum = thread.join().expect("a world panicked");
            all.failed.extend(sum.failed);
            all.tally.add(&sum.tally);
        }
    });
    all.failed.sort_by_key(|(seed, _)| *seed);
    all
}

/// What to print of a world that went wrong.
fn report(seed: u64, outcome: &Outcome, lines: usize) -> String {
    let from = outcome.trace.len().saturating_sub(lines);
    format!(
        "{}\n{}\n  {}\nplay it alone: SLUICE_SIM_SEED={seed} cargo test -p tests --test sim every_world",
        Scene::draw(seed, Bend::Not).summary(),
        outcome.trace[from..].join("\n"),
        outcome.wrong.iter().map(Wrong::to_string).collect::<Vec<_>>().join("\n  "),
    )
}

/// The worlds of `cargo test`, played once for all who ask.
fn worlds() -> &'static Sum {
    static WORLDS: OnceLock<Sum> = OnceLock::new();
    WORLDS.get_or_init(|| {
        let seeds: Vec<u64> =
            REGRESSIONS.iter().copied().chain(0..asked("SLUICE_SIM_SEEDS").unwrap_or(SEEDS)).collect();
        play_all(&seeds)
    })
}

fn expect_right(sum: &Sum) {
    let Some((seed, outcome)) = sum.failed.first() else { return };
    let all: Vec<String> = sum.failed.iter().map(|(seed, outcome)| format!("{seed}: {}", outcome.wrong[0])).collect();
    panic!("{}\nworlds that went wrong:\n  {}", report(*seed, outcome, 80), all.join("\n  "));
}

#[test]
fn every_world_ends_with_each_record_once() {
    match asked("SLUICE_SIM_SEED") {
        Some(seed) => {
            let outcome = play(seed, Bend::Not);
            assert!(outcome.wrong.is_empty(), "{}", report(seed, &outcome, usize::MAX));
        }
        None => expect_right(worlds()),
    }
}

#[test]
#[ignore = "twenty thousand worlds take a quarter of an hour"]
fn many_worlds_end_with_each_record_once() {
    expect_right(&play_all(&(0..MANY).collect::<Vec<_>>()));
}

/// Each action of the protocol's model, and every way a request can go, has happened in some world.
#[test]
fn everything_that_can_happen_has_happened() {
    let tally = &worlds().tally;
    let never: Vec<String> =
        Action::all().into_iter().filter(|action| tally.of(*action) == 0).map(|action| format!("{action:?}")).collect();
    let table: Vec<String> =
        Action::all().into_iter().map(|action| format!("{:>8} {action:?}", tally.of(action))).collect();
    assert!(never.is_empty(), "{}\nnever happened: {never:?}", table.join("\n"));
}

#[test]
fn the_same_seed_twice_is_the_same_world() {
    for seed in [3, 17, 40, 41, 42, 43, 44, 45] {
        let (one, two) = (play(seed, Bend::Not), play(seed, Bend::Not));
        let differs = one.trace.iter().zip(&two.trace).position(|(one, two)| one != two);
        if let Some(line) = differs {
            panic!("seed {seed}, line {line}:\n{}\n{}", one.trace[line], two.trace[line]);
        }
        assert_eq!(one.trace.len(), two.trace.len(), "seed {seed}");
    }
}
