//! That the oracles bite: each part of the protocol is left out in turn, and a named oracle must notice. By the design the
//! plan, the lease and the new membership are the first line of defence and the conditions of the store the second, so
//! those need a world in which somebody set an offset back.

use std::time::Duration;

use serde_json::json;
use source::Protocol;
use tokio::time::sleep;
use writer::{Fate, FileLimits, Request};

use crate::bends::Bend;
use crate::oracle::{Oracle, Wrong};
use crate::play::play;
use crate::scenarios::pairs;
use crate::worker::Worker;
use crate::world::{Make, World};

/// Seeds after which a broken protocol must have been noticed.
const SEEDS_TO_NOTICE: u64 = 400;

/// Oracles that say that data is wrong, in the order in which they count; the others only say that somebody stopped.
const GRAVE: [Oracle; 5] =
    [Oracle::Duplicate, Oracle::Loss, Oracle::Changed, Oracle::CommittedUnseen, Oracle::WentBack];

/// Plays worlds until one of `oracles` notices.
fn noticed_by_seeds(bend: Bend, oracles: &[Oracle]) -> Oracle {
    let mut stopped = None;
    for seed in 0..SEEDS_TO_NOTICE {
        let wrong = play(seed, bend).wrong;
        if let Some(first) = oracles.iter().find_map(|oracle| wrong.iter().find(|one| one.oracle == *oracle)) {
            return first.oracle;
        }
        if let (None, Some(first)) = (&stopped, wrong.first()) {
            stopped = Some((seed, first.oracle));
        }
    }
    panic!("{bend:?}: none of {oracles:?} in {SEEDS_TO_NOTICE} worlds, but {stopped:?}: does nobody need it?");
}

fn has(wrong: &[Wrong], oracle: Oracle) -> bool {
    wrong.iter().any(|one| one.oracle == oracle)
}

#[test]
fn without_plans_records_are_written_twice() {
    assert_eq!(noticed_by_seeds(Bend::NoPlans, &[Oracle::Duplicate]), Oracle::Duplicate);
}

#[test]
fn without_plans_records_are_passed_over() {
    noticed_by_seeds(Bend::NoPlans, &[Oracle::CommittedUnseen, Oracle::Loss, Oracle::Stopped]);
}

#[test]
fn with_plans_after_publishing_something_goes_wrong() {
    noticed_by_seeds(Bend::PublishFirst, &GRAVE);
}

#[test]
fn with_unknown_commits_said_again_the_committed_offset_goes_back() {
    noticed_by_seeds(Bend::RepeatUnknown, &GRAVE);
}

#[test]
fn without_leases_records_are_lost() {
    noticed_by_seeds(Bend::NoLease, &GRAVE);
}

#[test]
fn without_if_none_match_objects_are_made_twice() {
    noticed_by_seeds(Bend::NoCondition, &[Oracle::MadeTwice]);
}

/// A worker whose lane was taken away while it stood still sends what it had to say, under the generation of today.
async fn stale_commit(bend: Bend) -> Vec<Wrong> {
    let world = World::new(Make {
        partitions: 2,
        pairs: pairs(&[("flush.size", "2")]),
        protocol: Protocol::Cooperative,
        revoke_timeout: Duration::from_secs(5),
        bend,
        ..Make::default()
    });
    let late = Worker::start(&world, "late");
    sleep(Duration::from_secs(2)).await;
    for lane in 0..2 {
        world.produce(lane, json!({ "v": 1 }));
        world.produce(lane, json!({ "v": 2 }));
    }
    // Its plans are committed and its objects are slow to come; then it stands still.
    world.weather().order_store(|request, key| match request {
        Request::Put if key.ends_with(".parquet") => Fate::Slow(Duration::from_millis(1_500)),
        _ => Fate::Fine,
    });
    world.until("both plans", |world| (0..2).all(|lane| !world.committed(lane).1.is_empty())).await;
    late.freeze(Duration::from_secs(20));
    sleep(Duration::from_secs(2)).await;
    world.weather().clear();
    let heir = Worker::start(&world, "heir");
    world.until("the heir has finished the cut", |world| world.committed(1) == (2, String::new())).await;
    for value in 0..2 {
        world.produce(1, json!({ "v": value }));
    }
    world.until("the heir has read on", |world| world.committed(1) == (4, String::new())).await;
    sleep(Duration::from_secs(30)).await;
    late.stop().await;
    heir.stop().await;
    world.verdict(true)
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stood_still_commits_a_lane_that_is_not_its_own_any_more() {
    let wrong = stale_commit(Bend::Not).await;
    assert!(wrong.is_empty(), "{wrong:?}");
    let wrong = stale_commit(Bend::NoLease).await;
    assert!(has(&wrong, Oracle::WentBack), "{wrong:?}");
}

/// Records of one lane are written in files of thirty; then a person sets the group's offset back and has files of twenty.
async fn processed_again(bend: Bend, limits: FileLimits) -> Vec<Wrong> {
    let pairs = pairs(&[("flush.size", "30")]);
    let world = World::new(Make { pairs, limits, batch_rows: 5, bend, ..Make::default() });
    for value in 0..60 {
        world.produce(0, json!({ "v": value }));
    }
    let first = Worker::start(&world, "first");
    world.until("two files", World::is_done).await;
    first.stop().await;
    world.set_back(0, 0);
    world.set("flush.size", "20".to_owned());
    let second = Worker::start(&world, "second");
    sleep(Duration::from_secs(20)).await;
    if second.has_ended() {
        let error = second.failure().await;
        assert!(!error.is_transient() && error.to_string().contains("on.existing.object"), "{error}");
    } else {
        second.kill().await;
    }
    world.verdict(false)
}

const IN_PARTS: FileLimits = FileLimits { part_bytes: 300, rows_bytes: 1, row_group_bytes: 1, row_group_rows: 1 };

#[tokio::test(start_paused = true)]
async fn without_if_none_match_a_range_that_is_processed_again_changes_an_object() {
    let whole = crate::world::WHOLE_FILES;
    assert!(processed_again(Bend::Not, whole).await.is_empty(), "it stops before it changes anything");
    let wrong = processed_again(Bend::NoCondition, whole).await;
    assert!(has(&wrong, Oracle::Changed), "{wrong:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_head_before_completion_a_range_that_is_processed_again_changes_an_object() {
    assert!(processed_again(Bend::Not, IN_PARTS).await.is_empty(), "it stops before it changes anything");
    let wrong = processed_again(Bend::NoHead, IN_PARTS).await;
    assert!(has(&wrong, Oracle::Changed), "{wrong:?}");
}
