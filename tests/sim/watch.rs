//! Those who hear what no worker hears: what the broker and the store took, from whom, and how late.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use model::Plan;
use source::{Commit, Happening, MemoryLog};
use writer::{FaultyStore, Happened, Request};

use crate::actions::Action;
use crate::lanes::number;
use crate::truth::Truth;
use crate::world::GROUP;

/// Writes what the log does into the truth.
pub(crate) fn watch_log(log: &MemoryLog, truth: Arc<Mutex<Truth>>) {
    log.set_observer(move |happening| hear(&mut truth.lock().expect("no panic holds it"), happening));
}

fn hear(truth: &mut Truth, happening: &Happening) {
    match happening {
        Happening::Taken { group, commits, is_late, .. } => {
            if group == GROUP {
                taken(truth, commits, *is_late);
            }
        }
        Happening::Fenced { is_late: true, .. } => {
            truth.note("the broker fences a late commit");
            truth.count(Action::CommitFencedLate);
        }
        Happening::Fenced { .. } => truth.count(Action::CommitFenced),
        Happening::Lost { .. } => truth.count(Action::CommitLost),
        Happening::Assigned { assigned, kept, unaware, .. } => {
            for one in assigned {
                truth.count(if one.metadata.is_empty() { Action::Assigned } else { Action::AssignedWithPlan });
            }
            if *kept > 0 {
                truth.count(Action::KeptLanes);
            }
            if *unaware > 0 {
                truth.count(Action::AssignedWhileOthersRead);
            }
        }
        Happening::Revoking { partitions, .. } => {
            truth.count(Action::Revoked);
            if partitions.iter().any(|lane| truth.pending.contains_key(&number(lane))) {
                truth.count(Action::RevokedWhilePublishing);
            }
        }
        Happening::Late { .. } => truth.count(Action::LateToLetGo),
        Happening::Expelled { .. } => truth.count(Action::Expelled),
        Happening::CameBack { .. } => truth.count(Action::CameBack),
        Happening::OutOfRange { is_owner: false, .. } => truth.has_stale_reader = true,
        Happening::Recovered { .. } | Happening::OutOfRange { .. } => {}
    }
}

fn taken(truth: &mut Truth, commits: &[Commit], is_late: bool) {
    if is_late {
        let lanes: Vec<i32> = commits.iter().map(|one| number(&one.topic_partition)).collect();
        truth.note(&format!("the broker takes a late commit for {lanes:?}"));
    }
    truth.count(if is_late { Action::CommitTakenLate } else { Action::CommitTaken });
    let mut plans = 0;
    for commit in commits {
        let lane = number(&commit.topic_partition);
        truth.committed(lane, commit.offset.get());
        let plan = Plan::from_metadata(commit.offset, &commit.metadata).ok().flatten();
        let before = match &plan {
            Some((_, plan)) => truth.pending.insert(lane, plan.nonce.to_string()),
            None => truth.pending.remove(&lane),
        };
        plans += usize::from(plan.is_some());
        match (before, plan) {
            (Some(_), Some(_)) => truth.count(Action::EndCommittedWithPlan),
            (Some(_), None) => truth.count(Action::EndCommitted),
            (None, Some(_)) => truth.count(Action::PlanCommitted),
            (None, None) => {}
        }
    }
    if plans > 1 {
        truth.count(Action::PlansCommittedTogether);
    }
}

/// Writes what comes late to the store into the truth.
pub(crate) fn watch_store(store: &FaultyStore, truth: Arc<Mutex<Truth>>) {
    let mut made_by: BTreeMap<String, String> = BTreeMap::new();
    store.set_observer(move |happened| {
        let Happened { sender, request, key, is_late, is_done } = *happened;
        let is_put = match request {
            Request::Put => true,
            Request::CompleteUpload => false,
            _ => return,
        };
        if !key.ends_with(".parquet") {
            return;
        }
        let mut truth = truth.lock().expect("no panic holds it");
        let is_replayed = made_by.get(key).is_some_and(|other| other != sender);
        if is_late {
            truth.note(&format!("{request:?} of {sender} for {key} comes late, done={is_done}"));
            let (given_up, dead, replayed) = match is_put {
                true => (Action::PutAfterGivingUp, Action::PutAfterDeath, Action::PutAfterReplay),
                false => (Action::CompletionAfterGivingUp, Action::CompletionAfterDeath, Action::CompletionAfterReplay),
            };
            let is_dead = truth.dead.contains(sender);
            truth.count(if is_dead { dead } else { given_up });
            if is_replayed {
                truth.count(replayed);
            }
        }
        if let Some(doom) = truth.doomed.remove(sender).filter(|_| is_done) {
            doom.lock().expect("no panic holds it").polls_left = Some(0);
        }
        if is_done {
            made_by.entry(key.to_owned()).or_insert_with(|| sender.to_owned());
        }
    });
}
