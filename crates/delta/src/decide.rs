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

/// Whether a file may be committed whose rows are those of these wishes, by number: when all of them are due. One that has
/// rows of any other would bring these into the table a second time, or at the wrong place: what is due of it goes into
/// another file.
pub(crate) fn is_whole(wishes: impl IntoIterator<Item = usize>, is_due: &[bool]) -> bool {
    wishes.into_iter().all(|wish| is_due.get(wish).copied().unwrap_or(false))
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

    #[test]
    fn a_file_is_whole_when_all_its_wishes_are_due() {
        for (wishes, expected) in [(vec![0, 2], true), (vec![0, 1], false), (vec![], true), (vec![7], false)] {
            assert_eq!(is_whole(wishes.clone(), &[true, false, true]), expected, "{wishes:?}");
        }
    }

    /// What a writer does in the model below.
    #[derive(Debug, Clone)]
    enum Act {
        /// Closes a cut of so many records of an application.
        Cut(usize, i64),
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
            2 => (0..APPS.len(), 1i64..4).prop_map(|(app, count)| Act::Cut(app, count)),
            2 => (any::<bool>(), any::<bool>()).prop_map(|(happens, is_heard)| Act::Send { happens, is_heard }),
            1 => Just(Act::Late),
            1 => Just(Act::Look),
            1 => Just(Act::Restart),
        ];
        prop::collection::vec((0usize..3, act), 0..60)
    }

    const APPS: [&str; 3] = ["a", "b", "c"];

    /// A commit: how far applications got, and the rows of its files, each as the wish that they are of.
    #[derive(Debug, Clone)]
    struct Commit {
        txns: Vec<Wish>,
        files: Vec<Vec<Wish>>,
    }

    /// The log as a put-if-absent store holds it: version n is entry n - 1.
    type Log = Vec<Commit>;

    /// The rules whose absence the ablations show.
    #[derive(Clone, Copy)]
    struct Rules {
        /// A wish is sent when it is due.
        checks: bool,
        /// After an unknown outcome the log is read first.
        looks: bool,
        /// Only whole files are sent.
        whole: bool,
    }

    const ALL: Rules = Rules { checks: true, looks: true, whole: true };

    #[derive(Clone)]
    struct Writer {
        state: TableState,
        at: [i64; APPS.len()],
        /// Wishes, and whether each waits for its answer.
        wishes: Vec<(Wish, bool)>,
        /// The wishes whose rows each file has, by number.
        files: Vec<Vec<usize>>,
        /// Requests that may still reach the store.
        in_flight: Vec<(u64, Commit)>,
        /// A commit was sent and nobody knows what became of it.
        is_unsure: bool,
    }

    impl Writer {
        fn look(&mut self, log: &Log) {
            for commit in log.iter().skip(usize::try_from(self.state.version).unwrap()) {
                self.state.advance(seen_of(&commit.txns));
            }
            self.is_unsure = false;
        }

        /// What it would commit now; answers what is not due.
        fn commit(&mut self, rules: Rules) -> Option<Commit> {
            for (wish, waits) in self.wishes.iter_mut().filter(|(_, waits)| *waits) {
                match self.state.standing(wish) {
                    Standing::Due => {}
                    Standing::Overtaken { .. } | Standing::Done if !rules.checks => {}
                    Standing::Done => *waits = false,
                    Standing::Overtaken { at } => {
                        *waits = false;
                        self.at[APPS.iter().position(|app| *app == wish.app_id).unwrap()] = at;
                    }
                }
            }
            let due: Vec<bool> = self.wishes.iter().map(|(_, waits)| *waits).collect();
            if !due.contains(&true) {
                return None;
            }
            match rules.whole {
                true => self.files.retain(|file| is_whole(file.iter().copied(), &due)),
                false => self.files.retain(|file| file.iter().any(|wish| due[*wish])),
            }
            let lacks = |wish: &usize| due[*wish] && !self.files.iter().flatten().any(|other| other == wish);
            let lacking: Vec<usize> = (0..due.len()).filter(lacks).collect();
            self.files.extend((!lacking.is_empty()).then_some(lacking));
            let wish = |number: &usize| self.wishes[*number].0.clone();
            let txns = (0..due.len()).filter(|number| due[*number]).map(|number| wish(&number)).collect();
            let files = self.files.iter().map(|file| file.iter().map(wish).collect()).collect();
            Some(Commit { txns, files })
        }
    }

    fn seen_of(wishes: &[Wish]) -> Seen {
        let txn = |wish: &Wish| Txn { app_id: wish.app_id.clone(), version: wish.end, last_updated: None };
        Seen { txns: wishes.iter().map(txn).collect(), ..Seen::default() }
    }

    fn put(log: &mut Log, version: u64, commit: &Commit) -> bool {
        let is_next = log.len() as u64 + 1 == version;
        if is_next {
            log.push(commit.clone());
        }
        is_next
    }

    /// Plays `acts`.
    fn play(acts: Vec<(usize, Act)>, rules: Rules) -> Log {
        let (at, wishes, files, in_flight) = ([0; APPS.len()], Vec::new(), Vec::new(), Vec::new());
        let writer = Writer { state: empty(), at, wishes, files, in_flight, is_unsure: false };
        let (mut log, mut writers) = (Log::new(), vec![writer; 3]);
        for (number, act) in acts {
            let writer = &mut writers[number];
            match act {
                Act::Cut(app, count) => {
                    if !writer.wishes.iter().any(|(wish, waits)| *waits && wish.app_id == APPS[app]) {
                        let (start, end) = (writer.at[app], writer.at[app] + count);
                        writer.wishes.push((Wish { app_id: APPS[app].to_owned(), start, end }, true));
                        writer.at[app] = end;
                    }
                }
                Act::Send { .. } if writer.is_unsure && rules.looks => {}
                Act::Send { happens, is_heard } => {
                    let Some(commit) = writer.commit(rules) else { continue };
                    let version = writer.state.version + 1;
                    let is_done = happens && put(&mut log, version, &commit);
                    if !happens {
                        writer.in_flight.push((version, commit.clone()));
                    }
                    if is_done && is_heard {
                        writer.state.advance(seen_of(&commit.txns));
                        writer.wishes.iter_mut().for_each(|(_, waits)| *waits = false);
                    } else if rules.looks {
                        writer.is_unsure = true;
                    } else {
                        // The wrong way: the next version, without reading what the last one became.
                        writer.state.version = log.len() as u64;
                    }
                }
                Act::Late => {
                    if let Some((version, commit)) = writer.in_flight.pop() {
                        put(&mut log, version, &commit);
                    }
                }
                Act::Look => writer.look(&log),
                Act::Restart => {
                    (writer.state, writer.wishes, writer.files) = (empty(), Vec::new(), Vec::new());
                    writer.look(&log);
                    writer.at = APPS.map(|app| writer.state.txns.get(app).copied().unwrap_or(0));
                }
            }
        }
        log
    }

    /// Whether every record below the end is there once, for each application.
    fn is_exact(log: &Log) -> bool {
        APPS.iter().all(|app| {
            let mut next = 0;
            log.iter().all(|commit| {
                let mut rows = commit.files.iter().flatten().filter(|wish| wish.app_id == *app);
                let is_exact = rows.all(|wish| std::mem::replace(&mut next, wish.end) == wish.start);
                is_exact && commit.txns.iter().filter(|txn| txn.app_id == *app).all(|txn| txn.end == next)
            })
        })
    }

    fn finds_a_fault(rules: Rules) -> bool {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let strategy = acts();
        (0..20_000).any(|_| {
            let tree = strategy.new_tree(&mut runner).expect("a strategy without filters");
            !is_exact(&play(tree.current(), rules))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn whatever_writers_zombies_and_stores_do_every_record_is_there_once(acts in acts()) {
            let log = play(acts, ALL);
            prop_assert!(is_exact(&log), "{:?}", log);
        }
    }

    #[test]
    fn without_the_check_of_the_transaction_records_are_doubled_or_lost() {
        assert!(finds_a_fault(Rules { checks: false, ..ALL }));
    }

    #[test]
    fn without_a_look_after_an_unknown_outcome_records_are_doubled() {
        assert!(finds_a_fault(Rules { looks: false, ..ALL }));
    }

    #[test]
    fn when_a_file_is_committed_for_a_part_of_its_wishes_records_are_doubled() {
        assert!(finds_a_fault(Rules { whole: false, ..ALL }));
    }

    #[test]
    fn the_model_shares_files_and_overtakes_a_part_of_them() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let logs: Vec<Log> =
            (0..2_000).map(|_| play(acts().new_tree(&mut runner).expect("no filters").current(), ALL)).collect();
        let commits = || logs.iter().flatten();
        assert!(commits().filter(|commit| commit.files.iter().any(|file| file.len() > 1)).count() > 100);
        assert!(commits().filter(|commit| commit.files.len() > 1).count() > 10, "files of two attempts");
    }
}
