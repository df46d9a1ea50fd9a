//! What a writer may do next, given what it knows of the table. Pure: no I/O, no clock.

use std::collections::BTreeMap;

use crate::action::{Metadata, Protocol, Seen, Txn};

/// What is known of a table at one of its versions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TableState {
    /// The version; the next commit makes the one after it.
    pub(crate) version: u64,
    /// What readers and writers must know.
    pub(crate) protocol: Protocol,
    /// What the table is.
    pub(crate) metadata: Metadata,
    /// How far each application got.
    pub(crate) txns: BTreeMap<String, i64>,
}

/// What one lane wants in the table: the records `start..end` of the topic-partition that `app_id` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Whose records.
    pub app_id: String,
    /// Offset of the first.
    pub start: i64,
    /// Offset after the last.
    pub end: i64,
}

/// How a wish stands to a version of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The table ends where the wish begins: it may be committed as the next version, and as no other.
    Due,
    /// The table ends where the wish ends: every record of it is there, once.
    Done,
    /// The table ends elsewhere: somebody else wrote. The wish must never be committed.
    Overtaken {
        /// Where.
        at: i64,
    },
}

impl TableState {
    /// How `wish` stands to this version. A topic-partition that the table does not know has not begun: its first wish may
    /// begin anywhere.
    pub(crate) fn standing(&self, wish: &Wish) -> Standing {
        match self.txns.get(&wish.app_id) {
            None => Standing::Due,
            Some(at) if *at == wish.start => Standing::Due,
            Some(at) if *at == wish.end => Standing::Done,
            Some(at) => Standing::Overtaken { at: *at },
        }
    }

    /// The state one version later, after a commit in which `seen` was seen.
    pub(crate) fn advance(&mut self, seen: Seen) {
        self.version += 1;
        if let Some(protocol) = seen.protocol {
            self.protocol = protocol;
        }
        if let Some(metadata) = seen.metadata {
            self.metadata = metadata;
        }
        for Txn { app_id, version, .. } in seen.txns {
            self.txns.insert(app_id, version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use serde_json::{Map, json};

    fn empty() -> TableState {
        TableState {
            version: 0,
            protocol: Protocol {
                min_reader_version: 1,
                min_writer_version: 2,
                reader_features: None,
                writer_features: None,
            },
            metadata: Metadata::new("t", &json!({"type": "struct", "fields": []}), &[], Map::new(), 0),
            txns: BTreeMap::new(),
        }
    }

    fn wish(start: i64, end: i64) -> Wish {
        Wish { app_id: "a".to_owned(), start, end }
    }

    fn seen(version: i64) -> Seen {
        Seen { txns: vec![Txn { app_id: "a".to_owned(), version, last_updated: None }], ..Seen::default() }
    }

    #[test]
    fn a_wish_is_due_done_or_overtaken() {
        let mut state = empty();
        assert_eq!(state.standing(&wish(5, 9)), Standing::Due, "the first may begin anywhere");
        state.advance(seen(9));
        assert_eq!((state.version, state.standing(&wish(5, 9))), (1, Standing::Done));
        assert_eq!(state.standing(&wish(9, 10)), Standing::Due);
        for other in [wish(5, 8), wish(5, 10), wish(10, 11), wish(3, 4)] {
            assert_eq!(state.standing(&other), Standing::Overtaken { at: 9 }, "{other:?}");
        }
    }

    /// What a writer does in the model below.
    #[derive(Debug, Clone)]
    enum Act {
        /// Closes a cut of so many records.
        Cut(i64),
        /// Sends its commit; whether it happens now, and whether the writer hears of it.
        Send { happens: bool, is_heard: bool },
        /// A commit that was sent and did not happen happens after all.
        Late,
        /// Reads the commits since its version.
        Look,
        /// Forgets everything and starts where the table ends.
        Restart,
    }

    fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
        let act = prop_oneof![
            (1i64..4).prop_map(Act::Cut),
            (any::<bool>(), any::<bool>()).prop_map(|(happens, is_heard)| Act::Send { happens, is_heard }),
            Just(Act::Late),
            Just(Act::Look),
            Just(Act::Restart),
        ];
        prop::collection::vec((0usize..3, act), 0..60)
    }

    /// The log as a put-if-absent store holds it: version n is entry n - 1, of the records start..end.
    type Log = Vec<(i64, i64)>;

    #[derive(Clone)]
    struct Writer {
        state: TableState,
        at: i64,
        open: Option<Wish>,
        /// Requests that may still reach the store: version and wish.
        in_flight: Vec<(u64, Wish)>,
        /// A commit was sent and nobody knows what became of it.
        is_unsure: bool,
    }

    fn put(log: &mut Log, version: u64, wish: &Wish) -> bool {
        let is_next = log.len() as u64 + 1 == version;
        if is_next {
            log.push((wish.start, wish.end));
        }
        is_next
    }

    /// Plays `acts`; `checks` and `looks` are the two rules whose absence the ablations show.
    fn play(acts: Vec<(usize, Act)>, checks: bool, looks: bool) -> Log {
        let writer = Writer { state: empty(), at: 0, open: None, in_flight: Vec::new(), is_unsure: false };
        let (mut log, mut writers) = (Log::new(), vec![writer; 3]);
        for (number, act) in acts {
            let writer = &mut writers[number];
            match act {
                Act::Cut(count) => {
                    if writer.open.is_none() {
                        writer.open = Some(wish(writer.at, writer.at + count));
                        writer.at += count;
                    }
                }
                Act::Send { happens, is_heard } => {
                    let Some(open) = writer.open.clone().filter(|_| !writer.is_unsure || !looks) else { continue };
                    match writer.state.standing(&open) {
                        Standing::Due => {}
                        Standing::Overtaken { .. } | Standing::Done if !checks => {}
                        Standing::Done => {
                            writer.open = None;
                            continue;
                        }
                        Standing::Overtaken { at } => {
                            (writer.open, writer.at) = (None, at);
                            continue;
                        }
                    }
                    let version = writer.state.version + 1;
                    let is_done = happens && put(&mut log, version, &open);
                    if !happens {
                        writer.in_flight.push((version, open.clone()));
                    }
                    if is_done && is_heard {
                        writer.state.advance(seen(open.end));
                        writer.open = None;
                    } else if looks {
                        writer.is_unsure = true;
                    } else {
                        // The wrong way: the next version, without reading what the last one became.
                        writer.state.version = log.len() as u64;
                    }
                }
                Act::Late => {
                    if let Some((version, wish)) = writer.in_flight.pop() {
                        put(&mut log, version, &wish);
                    }
                }
                Act::Look => {
                    for (_, end) in &log[writer.state.version as usize..] {
                        writer.state.advance(seen(*end));
                    }
                    writer.is_unsure = false;
                }
                Act::Restart => {
                    writer.state = empty();
                    for (_, end) in &log {
                        writer.state.advance(seen(*end));
                    }
                    writer.at = writer.state.txns.get("a").copied().unwrap_or(0);
                    (writer.open, writer.is_unsure) = (None, false);
                }
            }
        }
        log
    }

    /// Whether every record below the end is there once.
    fn is_exact(log: &Log) -> bool {
        let mut next = 0;
        log.iter().all(|(start, end)| std::mem::replace(&mut next, *end) == *start)
    }

    fn finds_a_fault(checks: bool, looks: bool) -> bool {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let strategy = acts();
        (0..20_000).any(|_| {
            let tree = strategy.new_tree(&mut runner).expect("a strategy without filters");
            !is_exact(&play(tree.current(), checks, looks))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]
        #[test]
        fn whatever_writers_zombies_and_stores_do_every_record_is_there_once(acts in acts()) {
            let log = play(acts, true, true);
            prop_assert!(is_exact(&log), "{:?}", log);
        }
    }

    #[test]
    fn without_the_check_of_the_transaction_records_are_doubled_or_lost() {
        assert!(finds_a_fault(false, true));
    }

    #[test]
    fn without_a_look_after_an_unknown_outcome_records_are_doubled() {
        assert!(finds_a_fault(true, false));
    }
}
