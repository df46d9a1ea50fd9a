//! Positions that a person sets: a commit that only says how far applications got, so that the next start of a connector
//! goes on there. Whoever still writes under one of them is overtaken by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use writer::Store;

use crate::action::{Action, Txn};
use crate::commit::Keeper;
use crate::decide::TableState;
use crate::log::Log;
use crate::table::{CommitError, Known, TableOptions};

/// Versions that a commit is tried for, one after the other.
const ATTEMPTS_MAX: usize = 100;

/// Where applications are put, by their name.
pub type Positions = BTreeMap<String, i64>;

/// What became of positions that were set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionsSet {
    /// The version of the table that says them.
    pub version: u64,
    /// Them.
    pub positions: Positions,
}

/// Commits the positions that `decide` says, given what is known of the very version that they are committed against; its
/// error ends it. One that the table has already is replaced only if `may_replace`, else it is an error that names it.
/// `None` when there is no table.
pub async fn set_positions(
    store: Store,
    options: TableOptions,
    may_replace: bool,
    decide: impl Fn(&Known) -> Result<Positions, String>,
) -> Result<Option<PositionsSet>, CommitError> {
    let log = Log::new(store, &options.location).map_err(CommitError::Refused)?;
    let shared = Arc::default();
    let mut keeper = Keeper::new(log, options, Arc::clone(&shared));
    keeper.reload().await?;
    for _ in 0..ATTEMPTS_MAX {
        let known = keeper.look().await?;
        let Some(state) = keeper.state() else { return Ok(None) };
        let positions = decide(&known).map_err(CommitError::Refused)?;
        let version = state.version;
        let actions = due(state, &positions, may_replace, keeper.now_ms()).map_err(CommitError::Refused)?;
        if actions.is_empty() {
            return Ok(Some(PositionsSet { version, positions }));
        }
        if let Some(version) = keeper.put("SET TRANSACTION", actions).await? {
            return Ok(Some(PositionsSet { version, positions }));
        }
    }
    Err(CommitError::Unanswered(format!("{ATTEMPTS_MAX} versions of the table were taken by others")))
}

/// The actions that put applications where they are not yet.
fn due(state: &TableState, positions: &Positions, may_replace: bool, now_ms: i64) -> Result<Vec<Action>, String> {
    let mut actions = Vec::new();
    for (app_id, position) in positions {
        match state.txns.get(app_id) {
            Some(at) if at == position => continue,
            Some(at) if !may_replace => {
                return Err(format!("the table knows {app_id} already, up to offset {at}: nothing is changed"));
            }
            Some(_) | None => {}
        }
        actions.push(Action::Txn(Txn { app_id: app_id.clone(), version: *position, last_updated: Some(now_ms) }));
    }
    Ok(actions)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use object_store::memory::InMemory;
    use serde_json::{Value, json};
    use writer::{Fate, FaultyStore, Request};

    use super::*;
    use crate::table::Table;
    use crate::table_tests::{log, long, options, proposal, put, store, table_lines};

    fn txns(commit: &[Value]) -> Vec<(&str, i64)> {
        let txn = |line: &'_ Value| line["txn"]["version"].as_i64();
        commit.iter().filter_map(|line| Some((line["txn"]["appId"].as_str()?, txn(line)?))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn positions_are_set_by_a_commit_that_overtakes_who_writes() {
        let objects = Arc::new(InMemory::new());
        let set = async |may_replace, positions: &[(&str, i64)]| {
            let positions: Positions = positions.iter().map(|(app_id, at)| ((*app_id).to_owned(), *at)).collect();
            set_positions(store(objects.clone()), options(9), may_replace, |_| Ok(positions.clone())).await
        };
        assert_eq!(set(true, &[("a", 5)]).await, Ok(None), "there is no table");
        let table = Table::open(store(objects.clone()), options(1)).await.unwrap();
        table.commit(proposal("a", 0, 4)).await.unwrap();
        let said = set(false, &[("b", 7), ("a", 4)]).await.unwrap().unwrap();
        assert_eq!((said.version, said.positions.len()), (2, 2));
        let commits = log(&objects).await;
        assert_eq!(txns(&commits[2]), [("b", 7)], "what is there already is not said again");
        assert_eq!((&commits[2][0]["commitInfo"]["operation"], commits[2].len()), (&json!("SET TRANSACTION"), 2));
        let error = set(false, &[("c", 1), ("a", 2)]).await.unwrap_err();
        assert!(error.to_string().contains("knows a already, up to offset 4"), "{error}");
        assert_eq!(set(true, &[("a", 2)]).await.unwrap().unwrap().version, 3);
        assert_eq!(set(true, &[("a", 2)]).await.unwrap().unwrap().version, 3, "nothing is left to say");

        let error = table.commit(proposal("a", 4, 6)).await.unwrap_err();
        assert!(matches!(error, CommitError::Overtaken(_)), "{error}");
        table.commit(proposal("a", 2, 6)).await.unwrap();
        table.commit(proposal("b", 7, 9)).await.unwrap();
        assert_eq!(table.look().await.unwrap().txns, [("a".to_owned(), 6), ("b".to_owned(), 9)].into());
    }

    #[tokio::test(start_paused = true)]
    async fn positions_are_decided_on_the_version_that_they_are_committed_against() {
        for fate in [Fate::Fine, Fate::FailBefore, Fate::FailAfter] {
            let objects = Arc::new(InMemory::new());
            let theirs = |last: i64| json!({"txn": {"appId": "kdi-0", "version": last}});
            let first = [table_lines(json!([long("a")]), json!({})), vec![theirs(3)]].concat();
            put(&objects, 0, &first).await;
            // While the first decision is sent, somebody else commits.
            let (is_sent, others) = (AtomicBool::new(false), objects.clone());
            let faulty = FaultyStore::new(objects.clone(), move |request, key| {
                if request != Request::Put || !key.ends_with("1.json") || is_sent.swap(true, Ordering::SeqCst) {
                    return Fate::Fine;
                }
                if fate != Fate::FailAfter {
                    futures::executor::block_on(put(&others, 1, &[theirs(8)]));
                }
                fate
            });
            let decide = |known: &Known| Ok([("c:t:0".to_owned(), known.txns["kdi-0"] + 1)].into());
            let said = set_positions(store(Arc::new(faulty)), options(2), false, decide).await.unwrap().unwrap();
            let expected = if fate == Fate::FailAfter { 4 } else { 9 };
            assert_eq!(said.positions["c:t:0"], expected, "{fate:?}");
            let commits = log(&objects).await;
            assert_eq!(txns(commits.last().unwrap()), [("c:t:0", expected)], "{fate:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_text_of_the_user_stands_with_each_commit() {
        let objects = Arc::new(InMemory::new());
        let options = TableOptions { user_metadata: Some("by hand".to_owned()), ..options(1) };
        let table = Table::open(store(objects.clone()), options).await.unwrap();
        table.commit(proposal("a", 0, 4)).await.unwrap();
        let said = log(&objects).await.into_iter().map(|commit| commit[0]["commitInfo"]["userMetadata"].clone());
        assert!(said.eq(["by hand", "by hand"]), "made and appended to");
    }
}
